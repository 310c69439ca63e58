// The sample shop, running for real: `testudo up` on a copy of it with keys and ports of its own, and nobody in it but us.
import { spawn } from "node:child_process";
import { createSign, generateKeyPairSync } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const root = new URL("../../", import.meta.url).pathname;
const binary = process.env.TESTUDO_BIN ?? join(root, "target/debug/testudo");

/** Below the range that the system takes ports from by itself. */
let nextPort = 20_000 + (process.pid % 5_000);
async function freePort() {
  for (;;) {
    const port = nextPort++;
    const free = await new Promise((resolve) => {
      const server = createServer().once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** Asks again until the answer is true. */
export async function until(what, ask, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  let last;
  for (;;) {
    try {
      last = await ask();
      if (last) return last;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s; last ${last instanceof Error ? last.stack : JSON.stringify(last)}`);
    await sleep(150);
  }
}

class Issuer {
  constructor() {
    this.keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
  }
  jwks() {
    return { keys: [{ ...this.keys.publicKey.export({ format: "jwk" }), kid: "test", alg: "ES256", use: "sig" }] };
  }
  token(user, role = "customer") {
    const now = Math.floor(Date.now() / 1000);
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const message = `${encode({ alg: "ES256", typ: "JWT", kid: "test" })}.${encode({ iss: "https://id.shop.test", aud: "shop", sub: user, roles: [role], iat: now, exp: now + 3600 })}`;
    return `${message}.${createSign("SHA256").update(message).sign({ key: this.keys.privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
  }
}

export async function start() {
  const dir = mkdtempSync(join(tmpdir(), "testudo-ui-"));
  cpSync(join(root, "examples/shop"), dir, { recursive: true, filter: (path) => !path.endsWith("/src") && !path.endsWith("Cargo.toml") });
  const issuer = new Issuer();
  writeFileSync(join(dir, "keys/jwks.json"), JSON.stringify(issuer.jwks()));
  const [gateway, api, mesh] = [await freePort(), await freePort(), await freePort()];
  const yaml = join(dir, "testudo.yaml");
  const edit = (change) => writeFileSync(yaml, change(readFileSync(yaml, "utf8")));
  edit((text) => text.replace("127.0.0.1:8443", `127.0.0.1:${gateway}`).replace(/^gateway:/m, `control: {api: 127.0.0.1:${api}, mesh: 127.0.0.1:${mesh}}\n\ngateway:`));
  const child = spawn(binary, ["up", dir, "--log", "warn"], { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  child.stderr.on("data", (data) => (output += data));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const stop = async () => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await ended;
    clearTimeout(timer);
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const link = await until("the link that opens the dashboard", () => {
      if (child.exitCode !== null) throw new Error(`testudo up ended: ${output}`);
      return output.match(/http:\S+\/#token=\S+/)?.[0];
    }, 60);
    const [base, token] = link.split("#token=");
    const read = async (path, init = {}) => {
      const response = await fetch(`${base}api/v1/${path}`, { ...init, headers: { authorization: `Bearer ${token}`, "content-type": "application/json" } });
      if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
      return response.json();
    };
    const ca = readFileSync(join(dir, ".testudo/root.pem"));
    /** One request through the gateway; `user` as `NAME` or `NAME:ROLE`. */
    const send = (method, path, { user, body } = {}) =>
      new Promise((resolve, reject) => {
        const headers = { host: `localhost:${gateway}` };
        if (user) headers.authorization = `Bearer ${issuer.token(...user.split(":"))}`;
        if (body) Object.assign(headers, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
        const sent = request({ host: "127.0.0.1", port: gateway, servername: "localhost", method, path, headers, ca, agent: false }, (response) => {
          response.resume();
          response.once("end", () => resolve({ status: response.statusCode, id: response.headers["x-request-id"], reason: response.headers["x-testudo-reason"] ?? null }));
        });
        sent.once("error", reject).end(body);
      });
    return { dir, link, base, token, read, send, edit, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
