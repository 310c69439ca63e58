// Builds dist/, which testudo-control embeds. Two rules are kept here, so that no build can break them: what is sent
// to a browser stays below its budget, and nothing in the page needs a looser content security policy.
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** JavaScript in total, gzipped (issue 4). */
const BUDGET_BYTES = 200 * 1024;

const dist = new URL("./dist/", import.meta.url).pathname;

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

/** Empties dist/ (but for .gitignore, which keeps the folder in the repository), compresses, and checks. */
function embed(): Plugin {
  return {
    name: "testudo-embed",
    apply: "build",
    buildStart() {
      for (const name of readdirSync(dist)) {
        if (name !== ".gitignore") rmSync(join(dist, name), { recursive: true });
      }
    },
    closeBundle() {
      let total = 0;
      for (const path of files(dist)) {
        if (!/\.(js|css|html|svg)$/.test(path)) continue;
        const content = readFileSync(path);
        const compressed = gzipSync(content, { level: 9 });
        writeFileSync(`${path}.gz`, compressed);
        if (path.endsWith(".js")) total += compressed.length;
        if (path.endsWith(".html") && /<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=/i.test(content.toString())) {
          throw new Error(`${path} has something inline; the content security policy refuses that`);
        }
      }
      const kib = (total / 1024).toFixed(1);
      if (total > BUDGET_BYTES) throw new Error(`${kib} KiB of JavaScript, gzipped: the budget is 200 KiB`);
      console.log(`dashboard: ${kib} KiB of JavaScript, gzipped, of 200`);
    },
  };
}

export default defineConfig({
  logLevel: "warn",
  plugins: [svelte(), embed()],
  build: {
    outDir: "dist",
    emptyOutDir: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: false,
    rolldownOptions: { checks: { pluginTimings: false } },
  },
});
