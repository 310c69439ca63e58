// Headless Chromium with everything that must not happen counted: console errors, uncaught errors, refused content.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
export const VIEWS = ["overview", "decisions", "incidents", "access", "reach", "coverage", "changes", "limits", "identities", "proxies", "audit"];

/** Debian's Chromium; the sandbox needs a user that is not root. */
export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] });

/** A page of its own, with its troubles. `quiet()` fails if there were any. */
export async function open(browser, { dark = false, width = 1440, height = 900, calm = true } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", reducedMotion: calm ? "reduce" : "no-preference" });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const troubles = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && troubles.push(`console ${message.type()}: ${message.text()} ${message.location().url}`));
  page.on("pageerror", (error) => troubles.push(`uncaught: ${error.stack ?? error.message}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`refused by policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  return {
    page,
    troubles,
    quiet: () => assert.deepEqual(troubles.splice(0), []),
    show: async (view, ready = true) => {
      await page.evaluate((hash) => (location.hash = hash), view.includes("?") ? `#/${view}` : `#/${view}`);
      await page.locator("main").waitFor();
      if (ready) await settled(page);
    },
    close: () => context.close(),
  };
}

/** Until nothing is loading any more. */
export async function settled(page) {
  await page.waitForFunction(() => document.querySelector("main") && !document.querySelector(".skeleton"));
}

/** Serious and critical findings of axe, in words. */
export async function findings(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], resultTypes: ["violations"] }));
  return violations.filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => `${one.id}: ${one.help} (${one.nodes.slice(0, 3).map((node) => `${node.target.join(" ")} ${node.any[0]?.message ?? ""}`).join("; ")})`);
}

/** Nothing may stick out of the window sideways. */
export const sideways = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
