// A control plane that is none: it serves dist/ as the real one does, and invents a mesh of any size. For what a mesh
// on one machine cannot show: 200 services with 2,000 edges, and every state that a view can be in.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

const dist = new URL("../dist/", import.meta.url);
const types = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };
export const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
  "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types svelte-trusted-html";

/** Numbers that look random and are the same each time (mulberry32). */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const TEAMS = ["cart", "search", "payments", "ledger", "identity", "shipping", "catalog", "pricing", "support", "media", "fraud", "email", "loyalty", "tax", "returns", "partner"];
const PARTS = ["api", "store", "worker", "cache", "events", "admin", "sync", "export", "rules", "feed", "index", "quota", "notify"];

export function invent({ services = 200, edges = 2000, seed = 7, hostile = false } = {}) {
  const next = random(seed);
  const pick = (list) => list[Math.floor(next() * list.length)];
  const names = Array.from({ length: services }, (_, i) => `${TEAMS[i % TEAMS.length]}-${PARTS[Math.floor(i / TEAMS.length) % PARTS.length]}`);
  if (hostile) names[0] = `<img src=x onerror=alert(1)>`;
  const now = Date.now();
  const at = (seconds) => new Date(now - seconds * 1000).toISOString();
  const until = (seconds) => new Date(now + seconds * 1000).toISOString();
  const step = 10;
  const edge = (caller, service, hop, busy) => {
    const requests = Math.floor(busy * (200 + next() * 4000));
    const denied = next() < 0.03 ? Math.floor(requests * next() * 0.2) + 1 : 0;
    const reported = next() < 0.01 ? Math.floor(requests * 0.1) + 1 : 0;
    const errors = next() < 0.05 ? Math.floor(requests * 0.02) + 1 : 0;
    const p50 = 400 + Math.floor(next() * 9000);
    return {
      caller, service, hop, requests, denied, reported, errors, rate: requests / 300, p50_us: p50, p99_us: Math.floor(p50 * (2 + next() * 6)), guard_p50_us: 60 + Math.floor(next() * 90),
      bytes_in: requests * 300, bytes_out: requests * 2100, users: Math.ceil(next() * 300), last: at(next() * 20), contained: denied > 0 && next() < 0.08,
      reasons: denied ? { [pick(["authz.user", "authz.caller", "authn.missing", "authn.invalid", "schema.body", "limit.exceeded"])]: denied } : {},
      operations: ["get", "list", "create"].map((verb, i) => ({ operation: `${service}:${verb}`, requests: Math.floor(requests / (i + 2)), denied: i ? 0 : denied, reported: 0, errors: 0, p50_us: p50, p99_us: p50 * 3 })),
      history: Array.from({ length: edges > 500 ? 12 : 30 }, (_, i) => ({ at: new Date(Math.floor(now / 10000) * 10000 - ((edges > 500 ? 12 : 30) - i) * step * 1000).toISOString(), requests: Math.floor((requests / 30) * (0.7 + next() * 0.6)), denied: denied ? Math.floor((denied / 30) * 2 * next()) : 0, errors: errors ? Math.floor(next() * 2) : 0, p99_us: p50 * 3 })),
    };
  };
  const list = names.slice(0, Math.max(3, Math.floor(services / 14))).flatMap((name) => [edge("clients", name, "edge", 1), edge("gateway", name, "mesh", 0.9)]);
  const seen = new Set();
  while (list.length < edges && seen.size < services * services) {
    const from = Math.floor(next() * services);
    // Mostly deeper into the mesh, to the teams that come next; now and then anywhere.
    const to = next() < 0.9 ? Math.floor(next() * (services / TEAMS.length)) * TEAMS.length + (((from % TEAMS.length) + Math.floor(next() * 4)) % TEAMS.length) : Math.floor(next() * services);
    seen.add(`${from}/${to}/${seen.size}`);
    if (from !== to && names[to] && !list.some((one) => one.caller === names[from] && one.service === names[to])) list.push(edge(names[from], names[to], "mesh", 0.2));
  }
  const nodes = [
    { name: "clients", kind: "client", mode: null, proxies: 0, ready: 0 },
    { name: "gateway", kind: "gateway", mode: null, proxies: 2, ready: 2 },
    ...names.map((name, i) => ({ name, kind: "service", mode: i % 23 === 5 ? "report" : "enforce", proxies: 2, ready: i % 41 === 9 ? 1 : 2 })),
  ];
  const proxies = names.flatMap((name, i) => [1, 2].map((n) => ({ name: `${name}-${n}`, role: "sidecar", service: name, advertise: `10.0.${i}.${n}:15006`, outbound: "127.0.0.1:15001", admin: "127.0.0.1:15020", revision: i % 17 === 3 && n === 2 ? 41 : 42, ready: !(i % 41 === 9 && n === 2), svid_not_after: until(3600 * (3 + ((i * 7 + n) % 20))), digest: "d".repeat(64), app: null, version: "0.1.0", error: null })));
  proxies.push({ ...proxies[0], name: "gateway-1", role: "gateway", service: null });
  const roles = ["customer", "admin", "support", "partner"];
  const bad = list.find((one) => one.denied > 0 && one.hop === "mesh") ?? list[0];
  const containment = { id: "con-1", kind: "user", principal: "shop:bob", service: bad.service, operation: `${bad.service}:get`, action: "deny", rate: null, since: at(60), until: until(540), incident: "inc-1", reason: "walking order numbers", by: "watch" };
  const incident = (id, state, title, more = {}) => ({
    id, detector: "enumeration", title, severity: "high", state, first: at(240), last: at(12), count: 3, who: { kind: "user", name: "shop:bob" }, what: { caller: "gateway", service: bad.service, operation: `${bad.service}:get` },
    baseline: { what: "distinct paths a minute", usual: 3, seen: 214, unit: "paths" }, samples: ["req-1"], mitre: [{ id: "T1530", name: "Data from Cloud Storage" }], owasp: [{ id: "API1:2023", name: "Broken Object Level Authorization" }],
    suggestion: "Bind the order to its customer.", policy: 'permit (principal in Role::"customer", action, resource)\nwhen { context.params.customerId == principal.id };', containment: null, context: ["revision 42 since 14:03:07"], acknowledged_by: null, note: null, muted_until: null, ...more,
  });
  const decision = (i, verdict) => ({ time: at(i * 3), request_id: `req-${i}`, trace_id: "a".repeat(32), proxy: "gateway-1", hop: "edge", revision: 42, caller: null, user: i % 4 ? "shop:bob" : "anonymous", roles: ["customer"], source_ip: "192.0.2.7", service: bad.service, operation: `${bad.service}:get`, method: "GET", host: "api", path: hostile ? "/<script>alert(1)</script>\u202e" : `/things/${i}`, status: verdict === "deny" ? 403 : 200, verdict, reason: verdict === "deny" ? "authz.user" : null, mode: "enforce", policy: { file: "policies/a.cedar", line: 3 }, findings: [], bytes_in: 0, bytes_out: 200, duration_us: 2400, guard_us: 120 });
  const checks = (fail) => [["normalize", "pass", ""], ["authn", "pass", "shop, key 2026-11, 9 min left"], ["user", fail ? "fail" : "pass", fail ? "none came along; this service has user: authorize" : ""]].map(([name, result, detail]) => ({ name, result, detail, policy: name === "user" ? { file: "policies/a.cedar", line: 3 } : null, us: 14 }));
  return {
    status: () => ({ trust_domain: "shop.test", revision: 42, digest: "d".repeat(64), bundle: "/shop", bundle_error: null, proxies: { connected: proxies.length, ready: proxies.filter((p) => p.ready).length, in_sync: proxies.filter((p) => p.revision === 42).length }, services, decisions: { received: 1e6, dropped: 0 }, authority: { issuing_not_after: until(365 * 86400), roots: 1 }, started: at(9000), version: "0.1.0" }),
    graph: (query) => ({ seconds: 300, window_seconds: step, now: new Date().toISOString(), dropped_keys: 0, nodes, edges: query.get("history") === "false" ? list.map((one) => ({ ...one, history: [] })) : list, limits: [{ name: "orders-per-user", service: names[1], used_max: 0.42 }, { name: "search-per-address", service: names[2], used_max: 0.93 }, { name: "login", service: names[0], used_max: 1 }] }),
    services: () => names.map((name, i) => ({ name, mode: nodes[i + 2].mode, user: "authorize", api: `apis/${name}.yaml`, operations: 3, roles: [], sidecar: true, workloads: 2, ready: 2, proxies: [`${name}-1`, `${name}-2`] })),
    proxies: (query) => (query.get("name") ? proxies.filter((p) => p.name === query.get("name")).map((p) => ({ ...p, effective: { name: p.name, routes: [], services: [{ name: "orders", mode: "enforce", addresses: ["127.0.0.1:1"] }] } })) : proxies),
    identities: () => proxies.map((p, i) => ({ connected: i % 9 !== 4, name: p.name, role: p.role, service: p.service, spiffe_id: `spiffe://shop.test/service/${p.service}`, serial: "65f4be4e956b788dbe5ae7a50bb7c285", not_after: p.svid_not_after, joined: at(9000), revoked: i === 2 })),
    revocations: () => ({ serial: 1, entries: [{ kind: "user", value: "shop:mallory", at: at(500), reason: "stolen laptop" }] }),
    revisions: () => [42, 41, 40].map((number, i) => ({ number, current: i === 0, digest: `${number}`.repeat(32), parent: `${number - 1}`.repeat(32), created: at(90 + i * 110), note: i ? "files" : "orders: own orders only", parts: [{ path: "testudo.yaml", size: 900, digest: "a" }, { path: "policies/a.cedar", size: 300, digest: `${number}` }] })),
    incidents: () => [incident("inc-1", "open", hostile ? "<b>bold</b> read 214 orders" : "shop:bob read 214 different orders in 60 s (usually 3)", { containment }), incident("inc-2", "acknowledged", "storefront sent 900 MiB out (usually 12)", { severity: "medium", detector: "volume", who: { kind: "service", name: names[0] }, acknowledged_by: "admin", note: "known export" }), incident("inc-3", "closed", "One token from 14 addresses", { severity: "low", detector: "token_sharing" })],
    containments: () => [containment],
    modes: () => names.slice(0, 30).map((service, i) => ({ service, mode: nodes[i + 2].mode, until: null, configured: nodes[i + 2].mode, by: "bundle" })),
    access: (query) => {
      const operations = names.filter((name) => !query.get("service") || name === query.get("service")).slice(0, 60).flatMap((service) => ["get", "list", "create", "remove"].map((verb) => ({ service, operation: `${service}:${verb}`, method: verb === "create" ? "POST" : "GET", path: `/${service}/{id}` })));
      const principals = [...roles.map((name) => ({ kind: "role", name })), { kind: "anonymous", name: "anonymous" }, ...names.slice(0, 9).map((name) => ({ kind: "service", name }))];
      const draw = random(3);
      const cells = principals.flatMap((_, principal) => operations.map((_, operation) => ({ principal, operation, r: draw() }))).filter(({ r }) => r < 0.5).map(({ principal, operation, r }) => ({ principal, operation, allowed: r < 0.1 ? "depends" : r < 0.42, policy: r < 0.42 ? { file: "policies/a.cedar", line: 3 } : null, permitted: r < 0.25 ? 120 : 0, denied: r > 0.4 ? 7 : 0, reported: 0, last: r < 0.25 ? at(4) : null }));
      return { principals, operations, cells };
    },
    reach: (query) => {
      const service = query.get("service");
      const direct = [...new Set(list.filter((one) => one.caller === service).map((one) => one.service))].slice(0, 5);
      const second = [...new Set(list.filter((one) => one.caller === direct[0] && one.service !== service && !direct.includes(one.service)).map((one) => one.service))].slice(0, 4);
      const operations = (name, via) => ["get", "create"].map((verb, i) => ({ operation: `${name}:${verb}`, via, policy: { file: "policies/mesh.cedar", line: 9 + i }, as: i ? "users" : "itself" }));
      return { service, reaches: [...direct.map((name) => ({ service: name, operations: operations(name, []) })), ...second.map((name) => ({ service: name, operations: operations(name, [direct[0]]) }))] };
    },
    coverage: () => names.map((service, i) => ({ service, mtls: i % 19 === 7 ? "none" : "enforce", authn: "enforce", authz: i % 31 === 8 ? "none" : "enforce", schema: i % 5 ? "enforce" : "report", responses: i % 3 ? "report" : "off", limit: i % 4 ? "none" : "enforce", waf: "none", mode: nodes[i + 2].mode })),
    audit: () => Array.from({ length: 30 }, (_, i) => ({ sequence: 30 - i, at: at(i * 70), by: i % 3 ? "admin" : "watch", action: i % 2 ? "revision.applied" : "containment.added", subject: names[i % names.length], detail: "files: start", hash: "9f3a".repeat(16) })),
    decisions: () => Array.from({ length: 40 }, (_, i) => decision(40 - i, i % 3 ? "permit" : "deny")),
    why: (_, id) => ({ request_id: id, trace_id: "a".repeat(32), verdict: "deny", reason: "authn.missing", cause: `orders received bob's Txn-Token at mesh 1 and sent none at mesh 2.`, permit_if: ["orders sends the Txn-Token along; then customers may: policies/customers.cedar:9"], missing: [], hops: [{ ...decision(1, "permit"), checks: checks(false) }, { ...decision(1, "permit"), hop: "mesh", caller: "gateway", service: "orders", proxy: "orders-1", checks: checks(false) }, { ...decision(1, "deny"), user: null, roles: [], hop: "mesh", caller: "orders", service: "payments", operation: "payments:charge", proxy: "payments-1", reason: "authn.missing", checks: checks(true) }] }),
  };
}

/** Serves on a free port of loopback; `token` is the one it takes. */
export async function serve(mesh, token = "fake", port = 0) {
  const changes = [];
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://localhost");
    const json = (status, body) => response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    if (url.pathname.startsWith("/api/v1/")) {
      if (request.headers.authorization !== `Bearer ${token}`) return json(401, { code: "token.missing" });
      const [name, id] = url.pathname.slice("/api/v1/".length).split("/");
      if (request.method !== "GET") {
        changes.push(`${request.method} ${url.pathname}`);
        return json(200, {});
      }
      if (id === "stream") {
        response.writeHead(200, { "content-type": "text/event-stream" });
        for (const decision of mesh.decisions()) if (!url.searchParams.get("verdict") || decision.verdict === url.searchParams.get("verdict")) response.write(`data: ${JSON.stringify(decision)}\n\n`);
        return undefined;
      }
      return mesh[name] ? json(200, mesh[name](url.searchParams, decodeURIComponent(id ?? ""))) : json(404, { code: "path.unknown" });
    }
    const path = url.pathname === "/" ? "index.html" : url.pathname.slice(1);
    try {
      const content = await readFile(new URL(path, dist));
      response.writeHead(200, { "content-type": types[path.split(".").pop()], "content-security-policy": POLICY }).end(content);
    } catch {
      response.writeHead(404).end();
    }
    return undefined;
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, token, changes, close: () => (server.closeAllConnections(), server.close()) };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const size = Number(process.argv[2] ?? 200);
  const { url, token } = await serve(invent({ services: size, edges: size * 10 }), "fake", Number(process.argv[3] ?? 0));
  console.log(`${url}#token=${token}`);
}
