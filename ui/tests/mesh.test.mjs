// Each view against a mesh that really runs: known requests go in, the view is read, and held against the API.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, open, settled } from "./browser.mjs";
import { start, until } from "./shop.mjs";

let shop;
let browser;
let at;
let sent;
const digits = (text) => Number(text.replace(/[^\d.]/g, ""));

before(async () => {
  [shop, browser] = await Promise.all([start(), launch()]);
  const times = async (n, send) => {
    const answers = [];
    for (let i = 0; i < n; i++) answers.push(await send());
    return answers;
  };
  sent = {
    home: await times(4, () => shop.send("GET", "/products")),
    own: await times(3, () => shop.send("GET", "/orders/alice/17", { user: "alice" })),
    others: await times(2, () => shop.send("GET", "/orders/alice/17", { user: "bob" })),
    nobody: await times(1, () => shop.send("GET", "/orders/alice/17")),
    order: await times(1, () => shop.send("POST", "/orders", { user: "alice", body: JSON.stringify({ product: 1, quantity: 1 }) })),
  };
  assert.deepEqual(sent.own.map((one) => one.status), [200, 200, 200]);
  assert.deepEqual(sent.others.map((one) => one.reason), ["authz.user", "authz.user"]);
  assert.deepEqual(sent.nobody.map((one) => one.reason), ["authn.missing"]);
  assert.deepEqual(sent.order.map((one) => one.status), [201]);
  at = await open(browser);
  await at.page.goto(shop.link);
}, { timeout: 120_000 });

after(async () => {
  await browser?.close();
  await shop?.stop();
});

test("the token leaves the address bar and goes nowhere but into the header", async () => {
  await at.page.locator("main").waitFor();
  assert.ok(!at.page.url().includes("token"), at.page.url());
  assert.deepEqual(await at.page.evaluate(() => [document.cookie, Object.keys(localStorage).length]), ["", 0]);
  const [request] = await Promise.all([at.page.waitForRequest((one) => one.url().includes("/api/v1/")), at.page.reload()]);
  assert.equal(request.headers().authorization, `Bearer ${shop.token}`);
  assert.ok(!request.url().includes(shop.token) && !(request.headers().referer ?? "").includes(shop.token));
  at.quiet();
});

test("overview: who calls whom, how much, and what was stopped", async () => {
  const total = Object.values(sent).flat().length;
  await until("the graph of the API", async () => {
    const graph = await shop.read("graph?seconds=300");
    return graph.edges.filter((edge) => edge.hop === "edge").reduce((sum, edge) => sum + edge.requests, 0) === total;
  });
  await at.show("overview");
  await until("the page's sum", async () => digits(await at.page.locator(".headline h1 .num").first().innerText()) === total);
  assert.match(await at.page.locator(".headline h1").innerText(), /3 were stopped/);
  for (const name of ["clients", "gateway", "storefront", "catalog", "orders", "payments"]) await at.page.locator(`[data-node="${name}"]`).waitFor();
  for (const edge of ["clients>gateway", "gateway>orders", "gateway>catalog"]) assert.equal(await at.page.locator(`[data-edge="${edge}"]`).count(), 1, edge);
  const stops = await at.page.locator('[data-testid="stops"]').innerText();
  assert.match(stops, /authz\.user\s+2/);
  assert.match(stops, /authn\.missing\s+1/);

  await at.page.getByRole("button", { name: "Table" }).click();
  const graph = await shop.read("graph?seconds=300");
  const orders = graph.edges.find((edge) => edge.hop === "mesh" && edge.caller === "gateway" && edge.service === "orders");
  const row = at.page.locator('[data-row="gateway>orders"]');
  assert.equal(digits(await row.locator("td").nth(2).innerText()), orders.requests);
  await row.click();
  const detail = at.page.locator(".detail");
  await detail.getByText("orders:getOrder").waitFor();
  assert.equal(await detail.locator("dd").first().innerText(), String(orders.requests));
  await at.page.getByRole("button", { name: "Graph", exact: true }).click();
  await at.page.keyboard.press("Escape");
  await at.page.locator(".detail").waitFor({ state: "detached" });
  at.quiet();
});

test("decisions: every request is there as it happened, filters hold, live ones come by themselves", async () => {
  await at.show("decisions");
  for (const one of Object.values(sent).flat()) await at.page.locator(`tr[data-request="${one.id}"]`).first().waitFor();
  await at.page.getByLabel("Verdict").selectOption("deny");
  await until("only denials", async () => (await at.page.locator("tbody tr").count()) === 3);
  const denied = await at.page.locator("tbody tr").evaluateAll((rows) => rows.map((row) => row.dataset.request));
  assert.deepEqual(new Set(denied), new Set([...sent.others, ...sent.nobody].map((one) => one.id)));
  await at.page.mouse.move(1, 1);
  const fresh = await shop.send("GET", "/orders/alice/18", { user: "mallory" });
  await at.page.locator(`tr[data-request="${fresh.id}"]`).waitFor();
  // Nothing moves under a hand that points at it.
  await at.page.locator("tbody tr").nth(1).hover();
  const later = await shop.send("GET", "/orders/alice/19", { user: "mallory" });
  await at.page.getByText("1 more came while you read").click();
  await at.page.mouse.move(1, 1);
  await at.page.locator(`tr[data-request="${later.id}"]`).waitFor();
  await at.page.getByLabel("Text in decisions").fill("mallory");
  await until("the text filter", async () => (await at.page.locator("tbody tr").count()) === 2);
  await at.page.getByRole("button", { name: "Clear" }).click();
  at.quiet();
});

test("why: the lanes say what the API says, with the line of policy and where it ended", async () => {
  const id = sent.others[0].id;
  const why = await shop.read(`why/${id}`);
  await at.show(`decisions?why=${id}`, false);
  const lanes = at.page.locator('[data-testid="lanes"]');
  await lanes.waitFor();
  const text = await lanes.innerText();
  assert.match(text, /authz\.user/);
  assert.match(text, /stopped here/);
  assert.match(text, /bob begins here/);
  assert.equal(await lanes.locator(".hop").count(), why.hops.length);
  for (const line of why.permit_if) assert.ok(text.includes(line), line);
  if (why.cause) assert.ok(text.includes(why.cause));

  // A request through three proxies: the user's ribbon runs through all of them.
  const order = sent.order[0].id;
  await until("every hop of the order", async () => (await shop.read(`why/${order}`)).hops.length >= 3);
  await at.page.keyboard.press("Escape");
  await lanes.waitFor({ state: "detached" });
  await at.show(`decisions?why=${order}`, false);
  await at.page.locator(".ribbon.through").nth(1).waitFor();
  assert.equal(await at.page.locator(".ribbon").count(), 3);
  assert.equal(await at.page.locator(".frayed").count(), 0);
  await at.page.keyboard.press("Escape");
  at.quiet();
});

test("access: cells as the API has them, a click shows the line of policy", async () => {
  const wanted = await until("calls counted", async () => {
    const access = await shop.read("access");
    const cell = (who, what) => {
      const [principal, operation] = [access.principals.findIndex((one) => one.name === who), access.operations.findIndex((one) => one.operation === what)];
      return access.cells.find((one) => one.principal === principal && one.operation === operation);
    };
    const found = { own: cell("customer", "orders:getOrder"), anonymous: cell("anonymous", "orders:getOrder"), charge: cell("orders", "payments:charge") };
    return found.own?.permitted >= 3 && found.anonymous?.denied >= 1 && found;
  });
  await at.show("access");
  const cell = (name) => at.page.locator(`button[data-cell="${name}"]`);
  await until("the used cell", async () => (await cell("customer/orders:getOrder").getAttribute("data-state")) === "depends-used");
  assert.equal(await cell("anonymous/orders:getOrder").getAttribute("data-state"), "denied");
  await cell("customer/orders:getOrder").click();
  const detail = at.page.locator('[data-testid="cell"]');
  await detail.getByText(`${wanted.own.policy.file}:${wanted.own.policy.line}`).waitFor();
  assert.match(await detail.innerText(), /customer/);
  await cell("orders/payments:charge").click();
  await detail.getByText(`${wanted.charge.policy.file}:${wanted.charge.policy.line}`).waitFor();
  at.quiet();
});

test("blast radius: what a stolen key of orders opens, and nothing for catalog", async () => {
  const reach = await shop.read("reach?service=orders");
  await at.show("reach?service=orders");
  await at.page.locator('[data-reach="payments"]').waitFor();
  const text = await at.page.locator('[data-testid="reach"]').innerText();
  for (const one of reach.reaches.flatMap((target) => target.operations)) assert.ok(text.includes(one.operation), one.operation);
  assert.deepEqual((await shop.read("reach?service=catalog")).reaches, []);
  await at.page.getByRole("button", { name: "catalog" }).click();
  await at.page.getByText("could reach nothing else").waitFor();
  at.quiet();
});

test("coverage: every service, every check, as the API says", async () => {
  const coverage = await shop.read("coverage");
  await at.show("coverage");
  const table = at.page.locator('[data-testid="coverage"] tbody tr');
  assert.equal(await table.count(), coverage.length);
  for (const row of coverage) {
    const cells = await table.filter({ hasText: row.service }).first().locator("td").allInnerTexts();
    assert.deepEqual(cells.map((cell) => cell.trim()), [row.service, row.mtls, row.authn, row.authz, row.schema, row.responses, row.limit, row.waf, row.mode]);
  }
  at.quiet();
});

test("headroom, identities, proxies, audit: the parts that run", async () => {
  const [identities, proxies] = [await shop.read("identities"), await shop.read("proxies")];
  await at.show("limits");
  const [limit] = (await shop.read("graph")).limits;
  assert.equal(limit.name, "orders-per-user");
  assert.ok(limit.used_max > 0 && limit.used_max < 0.2, `${limit.used_max} used by a few requests`);
  await at.page.locator('[data-testid="limits"]').getByText(`${Math.round((1 - limit.used_max) * 100)} % left`).waitFor();
  const ends = (await at.page.locator('[data-testid="hours"] .count').allInnerTexts()).reduce((sum, text) => sum + Number(text || 0), 0);
  assert.equal(ends, identities.filter((one) => Date.parse(one.not_after) < Math.floor(Date.now() / 3_600_000) * 3_600_000 + 25 * 3_600_000).length);
  await at.show("identities");
  for (const one of identities) await at.page.getByText(one.serial).waitFor();
  await at.show("proxies");
  assert.equal(await at.page.locator('[data-testid="proxies"] tbody tr').count(), proxies.length);
  await at.page.getByRole("button", { name: "orders-1" }).click();
  const [effective] = await shop.read("proxies?name=orders-1");
  await at.page.locator("dialog").getByText(effective.effective.inbound, { exact: true }).first().waitFor();
  await at.page.keyboard.press("Escape");
  await at.show("audit");
  const [newest] = await shop.read("audit?limit=1");
  await at.page.locator('[data-testid="audit"]').getByText(newest.hash.slice(0, 12)).waitFor();
  at.quiet();
});

test("changes: a saved file becomes a revision, and the cells of all proxies follow", async () => {
  await at.show("changes");
  await at.page.locator('[data-testid="revisions"]').getByText("Revision 1").waitFor();
  shop.edit((text) => text.replace("burst: 100", "burst: 120"));
  await until("revision 2", async () => (await shop.read("status")).revision === 2);
  await at.page.locator('[data-testid="revisions"]').getByText("Revision 2").waitFor();
  await at.page.locator('[data-testid="revisions"]').getByText("testudo.yaml").first().waitFor();
  await until("every proxy's cell", async () => (await at.page.locator('[data-testid="fleet"] .cell').allInnerTexts()).every((text) => text === "2"));
  assert.equal(await at.page.locator('[data-testid="fleet"] .cell').count(), (await shop.read("proxies")).length);
  at.quiet();
});

test("incidents: a user who walks order numbers becomes one, with evidence; acknowledged and contained from the page", async () => {
  for (let order = 100; order < 170; order++) await shop.send("GET", `/orders/alice/${order}`, { user: "bob" });
  const incident = await until("the incident", async () => (await shop.read("incidents?state=open")).find((one) => one.detector === "enumeration" && one.who.name === "shop:bob"), 15);
  await at.show(`incidents?id=${incident.id}`);
  const detail = at.page.locator('[data-testid="incident"]');
  await detail.getByText(incident.id).waitFor();
  assert.ok((await detail.innerText()).includes(incident.suggestion));
  await detail.getByRole("button", { name: "why 1" }).click();
  await at.page.locator('[data-testid="lanes"]').waitFor();
  await at.page.keyboard.press("Escape");
  await detail.getByRole("button", { name: "Acknowledge" }).click();
  await until("acknowledged", async () => (await shop.read(`incidents/${incident.id}`)).state === "acknowledged");
  if (!(await shop.read("containments")).some((one) => one.principal === "shop:bob")) {
    await detail.getByRole("button", { name: "Contain", exact: true }).click();
    // In a mesh where bob is most of the traffic, that has to be said twice; the browser reports the refusal.
    const twice = detail.getByRole("button", { name: "Contain all the same" });
    const held = at.page.locator('[data-testid="containments"]');
    await twice.or(held).first().waitFor();
    if (await twice.isVisible()) await twice.click();
    at.troubles.splice(0);
  }
  await at.page.locator('[data-testid="containments"]').getByText("shop:bob", { exact: true }).waitFor();
  await until("the gateway knows", async () => (await shop.send("GET", "/orders/alice/171", { user: "bob" })).reason === "contained");
  await at.page.locator('[data-testid="containments"]').getByRole("button", { name: "Release" }).click();
  await at.page.locator('[data-testid="containments"]').waitFor({ state: "detached" });
  at.quiet();
});

test("containment and mode: seen everywhere, undone with one click", async () => {
  await shop.read("containments", { method: "POST", body: JSON.stringify({ kind: "user", principal: "shop:bob", service: "orders", operation: "orders:getOrder", action: "deny", for: "10m", reason: "walking order numbers", force: true }) });
  await at.show("incidents");
  const held = at.page.locator('[data-testid="containments"]');
  await held.getByText("shop:bob", { exact: true }).waitFor();
  await held.getByRole("button", { name: "Release" }).click();
  await held.waitFor({ state: "detached" });
  assert.deepEqual(await shop.read("containments"), []);

  await at.show("overview?at=catalog");
  await at.page.getByRole("button", { name: "Report only, for 30 min" }).click();
  await at.page.getByText("catalog is in mode report").waitFor();
  assert.equal((await shop.read("modes")).find((one) => one.service === "catalog").mode, "report");
  await at.page.getByRole("button", { name: "Back to enforce" }).click();
  await at.page.getByText("catalog is in mode report").waitFor({ state: "detached" });
  at.quiet();
});

test("a wrong token is said to be wrong, a right one opens the page, and control that is gone is said to be gone", async () => {
  const other = await open(browser);
  await other.page.goto(shop.base);
  await other.page.getByText("Which mesh may you see?").waitFor();
  await other.page.getByLabel("Token").fill("wrong");
  await other.page.keyboard.press("Enter");
  await other.page.getByText("This token is not accepted").waitFor();
  other.troubles.splice(0); // the browser reports the 401
  await other.page.getByLabel("Token").fill(shop.token);
  await other.page.keyboard.press("Enter");
  await other.page.locator("main .headline").waitFor();
  await settled(other.page);
  other.quiet();
  await other.page.getByRole("button", { name: "Forget the token" }).click();
  await other.page.getByLabel("Token").waitFor();
  assert.equal(await other.page.evaluate(() => sessionStorage.length), 0);
  await other.close();
});

test("its files come with their policy, typed and compressed, from a table and nothing else", async () => {
  const page = await fetch(shop.base);
  const html = await page.text();
  assert.match(page.headers.get("content-security-policy"), /default-src 'none'; script-src 'self'/);
  const script = html.match(/src="(\/assets\/[^"]+\.js)"/)[1];
  const answer = await fetch(new URL(script, shop.base));
  assert.equal(answer.headers.get("content-type"), "text/javascript; charset=utf-8");
  assert.match(answer.headers.get("cache-control"), /immutable/);
  assert.equal(answer.headers.get("content-encoding"), "gzip");
  assert.equal((await fetch(new URL("/assets/%2e%2e%2findex.html", shop.base))).status, 404);
});
