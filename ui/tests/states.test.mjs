// What one small mesh cannot show, with an invented control plane: every view in dark, light and on a phone, held
// against axe; 200 services with 2,000 edges; hostile names; the ribbon that ends; keys.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { findings, launch, open, settled, sideways, VIEWS } from "./browser.mjs";
import { invent, serve } from "./fake.mjs";

let browser;
const open_ = [];
before(async () => (browser = await launch()));
after(async () => {
  await browser?.close();
  for (const one of open_) one.close();
});
const control = async (shape) => {
  const fake = await serve(invent(shape));
  open_.push(fake);
  return fake;
};

for (const dark of [false, true]) {
  test(`axe finds nothing serious in any view, ${dark ? "dark" : "light"}`, async () => {
    const fake = await control({ services: 5, edges: 12 });
    const at = await open(browser, { dark });
    await at.page.goto(`${fake.url}#token=fake`);
    const found = {};
    for (const view of [...VIEWS, "overview?at=gateway", "decisions?why=req-1"]) {
      await at.show(view);
      if (view.includes("why")) await at.page.locator('[data-testid="lanes"]').waitFor();
      const list = await findings(at.page);
      if (list.length) found[view] = list;
    }
    assert.deepEqual(found, {});
    at.quiet();
    const token = await open(browser, { dark });
    await token.page.goto(fake.url);
    await token.page.getByLabel("Token").waitFor();
    assert.deepEqual(await findings(token.page), [], "token");
    await Promise.all([at.close(), token.close()]);
  });
}

test("on a phone nothing sticks out, and everything can be reached", async () => {
  const fake = await control({ services: 5, edges: 12 });
  const at = await open(browser, { width: 390, height: 844 });
  await at.page.goto(`${fake.url}#token=fake`);
  for (const view of [...VIEWS, "decisions?why=req-1"]) {
    await at.show(view);
    assert.ok((await sideways(at.page)) <= 0, `${view} is ${await sideways(at.page)} px too wide`);
  }
  await at.page.keyboard.press("Escape");
  await at.page.getByRole("button", { name: "Views" }).click();
  await at.page.getByRole("link", { name: "Coverage" }).click();
  await at.page.getByRole("heading", { name: "Coverage", exact: true }).waitFor();
  assert.deepEqual(await findings(at.page), []);
  at.quiet();
  await at.close();
});

test("the user's ribbon ends where the user was dropped", async () => {
  const fake = await control({ services: 5, edges: 12 });
  const at = await open(browser);
  await at.page.goto(`${fake.url}#token=fake`);
  await at.show("decisions?why=req-1");
  await at.page.locator('[data-testid="lanes"]').waitFor();
  assert.equal(await at.page.locator(".ribbon").count(), 2);
  assert.equal(await at.page.locator(".frayed").count(), 1);
  await at.page.getByText("bob ends here: orders sent no user along").waitFor();
  const [ribbon, frayed, last] = await Promise.all([".ribbon >> nth=1", ".frayed", ".lanes .hop >> nth=2"].map((one) => at.page.locator(one).boundingBox()));
  assert.ok(Math.abs(ribbon.y + ribbon.height - frayed.y) < 2, "the torn end hangs on the ribbon");
  assert.ok(frayed.y >= last.y - 1 && frayed.y + frayed.height < last.y + last.height, "it ends in the hop that got no user");
  at.quiet();
  await at.close();
});

test("keys: views, search, lines, why, escape, help, pause, colours", async () => {
  const fake = await control({ services: 5, edges: 12 });
  const at = await open(browser);
  const { page } = at;
  await page.goto(`${fake.url}#token=fake`);
  await settled(page);
  await page.keyboard.press("2");
  await page.getByRole("heading", { name: "Decisions", exact: true }).waitFor();
  await page.locator("tbody tr").first().waitFor();
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  assert.equal(await page.locator("tr.active").count(), 1);
  await page.keyboard.press("Enter");
  await page.locator('[data-testid="lanes"]').waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement?.hasAttribute("data-search")), true);
  await page.keyboard.press("Escape");
  await page.keyboard.press("?");
  await page.getByRole("heading", { name: "Keys and signs" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Space");
  await page.getByText("paused", { exact: true }).waitFor();
  await page.keyboard.press("Space");
  const before = await page.evaluate(() => document.documentElement.dataset.theme);
  await page.keyboard.press("t");
  assert.notEqual(await page.evaluate(() => document.documentElement.dataset.theme), before);
  await page.keyboard.press("1");
  await page.locator('[data-node="gateway"]').focus();
  await page.keyboard.press("Enter");
  await page.locator(".detail").waitFor();
  await page.keyboard.press("Escape");
  await page.locator(".detail").waitFor({ state: "detached" });
  at.quiet();
  await at.close();
});

test("incidents: acknowledged, muted, closed, contained and released from the page", async () => {
  const fake = await control({ services: 5, edges: 12 });
  const at = await open(browser);
  await at.page.goto(`${fake.url}#token=fake`);
  await at.show("incidents");
  const detail = at.page.locator('[data-testid="incident"]');
  await detail.getByText("214").first().waitFor();
  for (const name of ["Acknowledge", "Mute for 2 h", "Close"]) await detail.getByRole("button", { name, exact: true }).click();
  await detail.getByRole("button", { name: "Release" }).click();
  await at.show("incidents?id=inc-2");
  await detail.getByRole("button", { name: "Contain" }).click();
  await until(() => fake.changes.length === 5);
  assert.deepEqual(fake.changes, ["POST /api/v1/incidents/inc-1/ack", "POST /api/v1/incidents/inc-1/mute", "POST /api/v1/incidents/inc-1/close", "DELETE /api/v1/containments/con-1", "POST /api/v1/containments"]);
  at.quiet();
  await at.close();
});

async function until(ask) {
  for (let i = 0; i < 100 && !(await ask()); i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(await ask());
}

test("what comes from traffic is text, whatever it says", async () => {
  const fake = await control({ services: 5, edges: 12, hostile: true });
  const at = await open(browser);
  await at.page.goto(`${fake.url}#token=fake`);
  for (const view of VIEWS) await at.show(view);
  await at.show("decisions");
  await at.page.getByText("/<script>alert(1)</script>\\u{202e}").first().waitFor();
  assert.equal(await at.page.locator("main script, main img, main b:text('bold')").count(), 0);
  at.quiet();
  await at.close();
});

test("200 services with 2,000 edges: there in two seconds, and quick to the hand", async () => {
  const fake = await control({ services: 200, edges: 2000 });
  const at = await open(browser);
  const { page } = at;
  // The best of three: what else this machine does is not the page's doing.
  let painted = Infinity;
  for (let i = 0; i < 3 && painted > 1500; i++) {
    await page.goto("about:blank");
    const began = Date.now();
    await page.goto(`${fake.url}#token=fake`);
    await page.locator('[data-node="gateway"]').waitFor();
    painted = Math.min(painted, Date.now() - began);
  }
  // In groups at first: few enough to read.
  const groups = await page.locator("[data-node]").count();
  assert.ok(groups <= 40, `${groups} nodes at once`);
  // Time from an input to the frame that answers it.
  const answered = (act, sign) =>
    page.evaluate(
      ([act, sign]) =>
        new Promise((resolve) => {
          const start = performance.now();
          // eslint-disable-next-line no-new-func
          const target = document.querySelector(act.on);
          if (act.value !== undefined) {
            target.value = act.value;
            target.dispatchEvent(new Event("input", { bubbles: true }));
          } else if (act.hover) target.dispatchEvent(new PointerEvent("pointerenter", { bubbles: false }));
          else target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
          const look = () => (document.querySelector(sign) ? requestAnimationFrame(() => resolve(performance.now() - start)) : requestAnimationFrame(look));
          look();
        }),
      [act, sign],
    );
  const times = {
    search: await answered({ on: "[data-search]", value: "ledger" }, ".node.match"),
    clear: await answered({ on: "[data-search]", value: "" }, ".node:not(.match)"),
    select: await answered({ on: '[data-node="group:payments"]' }, ".detail"),
  };
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Show all services" }).click();
  await until(async () => (await page.locator("[data-node]").count()) === 202);
  times.hover = await answered({ on: '[data-node="ledger-api"]', hover: true }, ".node.dim");
  times.all = await answered({ on: '[data-node="ledger-api"]' }, ".detail");
  console.log(`first picture ${painted} ms; inputs ${Object.entries(times).map(([name, ms]) => `${name} ${Math.round(ms)}`).join(", ")} ms`);
  assert.ok(painted < 2000, `first picture after ${painted} ms`);
  for (const [name, ms] of Object.entries(times)) assert.ok(ms < 200, `${name} answered after ${ms} ms`);
  // Search finds a service inside a closed group and brings it to the middle.
  await page.getByRole("button", { name: "Group by name" }).click();
  await page.locator("[data-search]").fill("fraud-rules");
  await page.keyboard.press("Enter");
  await page.locator('[data-node="fraud-rules"].chosen').waitFor();
  at.quiet();
  await at.close();
});
