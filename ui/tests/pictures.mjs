// The pictures in docs/images, from the running demo: honest traffic, attackers, and what was stopped.
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { launch, open, settled } from "./browser.mjs";
import { until } from "./shop.mjs";

const root = new URL("../../", import.meta.url).pathname;
const images = join(root, "docs/images");
const dir = mkdtempSync(join(tmpdir(), "testudo-pictures-"));
const demo = spawn(process.env.TESTUDO_BIN ?? join(root, "target/debug/testudo"), ["demo", "--dir", dir], { stdio: ["ignore", "pipe", "inherit"] });
let output = "";
demo.stdout.on("data", (data) => (output += data));
const ended = new Promise((resolve) => demo.once("exit", resolve));
mkdirSync(images, { recursive: true });
let browser;
try {
  const link = await until("the link", () => output.match(/http:\S+\/#token=\S+/)?.[0], 60);
  const [base, token] = link.split("#token=");
  const read = async (path) => (await fetch(`${base}api/v1/${path}`, { headers: { authorization: `Bearer ${token}` } })).json();
  // Long enough for every attack to have come by, and for charts to have something to say.
  await until("minutes of traffic", async () => (await read("graph?seconds=300")).edges.some((edge) => edge.history.length >= Number(process.env.STEPS ?? 18)), 400);
  const open_ = await until("open incidents that are contained", async () => (await read("incidents?state=open")).filter((one) => one.containment).length >= 1, 240);
  console.log(open_);
  const dropped = await until("a user that was dropped", async () => {
    const denied = await read("decisions?caller=orders&reason=authn.missing&limit=200");
    for (const one of denied.reverse()) {
      const why = await read(`why/${one.request_id}`);
      // Its three hops, and a user that began and was lost.
      if (why.hops?.length >= 3 && why.cause && why.hops.some((hop) => hop.user?.includes(":"))) return one.request_id;
    }
    return null;
  }, 240);
  browser = await launch();
  for (const dark of [false, true]) {
    const at = await open(browser, { dark, width: 1360, height: 860 });
    await at.page.goto(link);
    const shots = dark ? ["overview"] : ["overview", `decisions?why=${dropped}`, "access", "incidents"];
    for (const view of shots) {
      await at.show(view, false);
      if (view.includes("why=")) await at.page.locator('[data-testid="lanes"]').waitFor();
      else await settled(at.page);
      await at.page.waitForTimeout(1500);
      const path = join(images, `${view.includes("why=") ? "why" : view}-${dark ? "dark" : "light"}.png`);
      await at.page.screenshot({ path });
      console.log(`${path} ${Math.round(statSync(path).size / 1024)} KiB`);
    }
    at.quiet();
    await at.close();
  }
} finally {
  await browser?.close();
  demo.kill("SIGTERM");
  await ended;
  rmSync(dir, { recursive: true, force: true });
}
