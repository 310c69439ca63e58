"""Configurations of the peers. Each maker returns [(name, argv, files)]: what to start, in order."""
import json, os, shutil, subprocess, time

PKI = os.path.join(os.environ["BENCH_DIR"], "pki")
RUN = os.path.join(os.environ["BENCH_DIR"], "run")
NGINX = os.environ.get("NGINX", "nginx")
HAPROXY = os.environ.get("HAPROXY", "haproxy")
ENVOY = os.environ.get("ENVOY", "envoy")
UP, PLAIN, TLS = 18000, 18080, 18443        # upstream; plain listener; TLS listener
P = lambda n: os.path.join(PKI, n)
SIZE = int(os.environ.get("BODY_BYTES", "1024"))
BODY = json.dumps({"id": 1, "name": "bench", "pad": ""}); BODY = BODY.replace('"pad": ""', '"pad": "%s"' % ("x" * (SIZE - len(BODY))))


# ---- nginx -------------------------------------------------------------------------------
def nginx_conf(name, server, upstream=None, load="", http=""):
    up = f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; }}" if upstream else ""
    return f"""{load}
worker_processes 1; daemon off; pid {RUN}/{name}.pid; error_log {RUN}/{name}.err crit; worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; default_type application/json; {http}
{up}
server {{ {server} }} }}
"""

NG_TLS = f"ssl_certificate {P('server.pem')}; ssl_certificate_key {P('server.key')}; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;"
NG_MTLS = NG_TLS + f" ssl_client_certificate {P('ca.pem')}; ssl_verify_client on;"
NG_PASS = 'proxy_http_version 1.1; proxy_set_header Connection "";'
NG_OUT = (f"proxy_ssl_certificate {P('client.pem')}; proxy_ssl_certificate_key {P('client.key')}; proxy_ssl_trusted_certificate {P('ca.pem')};"
          " proxy_ssl_verify on; proxy_ssl_name mesh.local; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;")


def ng(name, *a, **k):
    f = f"{RUN}/{name}.conf"
    return (name, [NGINX, "-c", f, "-e", f"{RUN}/{name}.err"], {f: nginx_conf(name, *a, **k)})


def upstream():
    """nginx answering SIZE bytes: from its configuration up to 2 KiB, else from a file."""
    loc = f"return 200 '{BODY}';" if SIZE <= 2048 else f"root {RUN}; try_files /body.bin =404;"
    x = ng("upstream", f"listen 127.0.0.1:{UP} backlog=4096; location / {{ {loc} }}")
    x[2][f"{RUN}/body.bin"] = BODY
    return x


CRS_SETUP = os.environ.get("CRS_SETUP", "/etc/modsecurity/crs/crs-setup.conf")       # where the Debian package puts them
CRS_RULES = os.environ.get("CRS_RULES", "/usr/share/modsecurity-crs/rules/*.conf")
MODSEC = f"""SecRuleEngine On
SecRequestBodyAccess On
SecResponseBodyAccess Off
SecAuditEngine Off
SecRequestBodyLimit 13107200
SecRequestBodyNoFilesLimit 131072
SecArgumentSeparator &
SecRule REQUEST_HEADERS:Content-Type "^application/json" "id:'200001',phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
Include {CRS_SETUP}
Include {CRS_RULES}
"""


def nginx(s):
    if s == "s1":
        return [ng("ngs1", f"listen 127.0.0.1:{PLAIN}; location / {{ proxy_pass http://u; {NG_PASS} }}", UP)]
    if s == "s2":
        return [ng("ngs2b", f"listen 127.0.0.1:{TLS} ssl; {NG_MTLS} location / {{ proxy_pass http://u; {NG_PASS} }}", UP),
                ng("ngs2a", f"listen 127.0.0.1:{PLAIN}; location / {{ proxy_pass https://u; {NG_PASS} {NG_OUT} }}", TLS)]
    if s == "s3tls":   # TLS termination only: nginx here has no JWT module
        return [ng("ngs3", f"listen 127.0.0.1:{TLS} ssl; {NG_TLS} location / {{ proxy_pass http://u; {NG_PASS} }}", UP)]
    if s.startswith("s4"):
        x = ng("ngs4", f"listen 127.0.0.1:{PLAIN}; location / {{ proxy_pass http://u; {NG_PASS} }}", UP,
               load="load_module modules/ngx_http_modsecurity_module.so;",
               http=f"modsecurity on; modsecurity_rules_file {RUN}/modsec.conf;")
        x[2][f"{RUN}/modsec.conf"] = MODSEC
        return [x]
    if s == "s5":
        return [ng("ngs5", f"listen 127.0.0.1:{TLS} ssl backlog=4096; {NG_MTLS} location / {{ return 200 'ok'; }}")]


# ---- HAProxy -----------------------------------------------------------------------------
def haproxy(s):
    def one(name, bind, server=None):
        f = f"{RUN}/{name}.cfg"
        act = f"default_backend b\nbackend b\n  http-reuse always\n  server s {server}\n" if server else "http-request return status 200 content-type text/plain string ok\n"
        return (name, [HAPROXY, "-db", "-q", "-f", f], {f: f"""global
  nbthread 1
  maxconn 8192
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3
  tune.ssl.cachesize 0
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
frontend f
  bind {bind}
  {act}"""})
    tls = f"127.0.0.1:{TLS} ssl crt {P('server-both.pem')}"
    mtls = tls + f" ca-file {P('ca.pem')} verify required"
    if s == "s1": return [one("has1", f"127.0.0.1:{PLAIN}", f"127.0.0.1:{UP}")]
    if s == "s2": return [one("has2b", mtls, f"127.0.0.1:{UP}"),
                          one("has2a", f"127.0.0.1:{PLAIN}", f"127.0.0.1:{TLS} ssl crt {P('client-both.pem')} ca-file {P('ca.pem')} verify required sni str(mesh.local)")]
    if s == "s3tls": return [one("has3", tls, f"127.0.0.1:{UP}")]   # TLS termination only
    if s == "s5": return [one("has5", mtls)]


# ---- Envoy -------------------------------------------------------------------------------
T = "type.googleapis.com/envoy.extensions."
HCM = T + "filters.network.http_connection_manager.v3.HttpConnectionManager"
VER = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def ev_common(cert, ca, uri):
    c = {"tls_params": VER, "tls_certificates": [{"certificate_chain": {"filename": P(cert + ".pem")}, "private_key": {"filename": P(cert + ".key")}}]}
    if ca: c["validation_context"] = {"trusted_ca": {"filename": P("ca.pem")}, "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": uri}}]}
    return c


def ev_down(mtls):
    return {"name": "tls", "typed_config": {"@type": T + "transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": mtls,
            "disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True,
            "common_tls_context": ev_common("server", mtls, "spiffe://bench.local/ns/default/sa/client")}}


def ev_up():
    return {"name": "tls", "typed_config": {"@type": T + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": "mesh.local",
            "common_tls_context": ev_common("client", True, "spiffe://bench.local/ns/default/sa/server")}}


def ev(name, port, base, tls_in=None, up=UP, tls_out=None, filters=(), h2=False, direct=False):
    route = {"match": {"prefix": "/"}}
    route.update({"direct_response": {"status": 200, "body": {"inline_string": "ok"}}} if direct else {"route": {"cluster": "u"}})
    hcm = {"@type": HCM, "stat_prefix": "h", "generate_request_id": False, "delayed_close_timeout": "0s", "codec_type": "AUTO", "http_protocol_options": {"accept_http_10": True},
           "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
           "http_filters": [*filters, {"name": "router", "typed_config": {"@type": T + "filters.http.router.v3.Router", "suppress_envoy_headers": True}}]}
    chain = {"filters": [{"name": "hcm", "typed_config": hcm}]}
    if tls_in is not None: chain["transport_socket"] = ev_down(tls_in)
    if h2 and tls_in is not None: chain["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = ["h2", "http/1.1"]
    addr = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    cl = {"name": "u", "type": "STATIC", "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": addr(up)}}]}]}}
    if tls_out: cl["transport_socket"] = ev_up()
    if h2 and tls_out: cl["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": T + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    c = {"static_resources": {"listeners": [{"name": "l", "address": addr(port), "filter_chains": [chain]}], "clusters": [cl]}}
    f = f"{RUN}/{name}.json"
    return (name, [ENVOY, "-c", f, "--concurrency", "1", "-l", "error", "--base-id", str(base)], {f: json.dumps(c, indent=1)})


def ev_edge(cache):
    prov = {"issuer": "https://issuer.bench", "audiences": ["bench"], "local_jwks": {"filename": P("jwks.json")}, "payload_in_metadata": "jwt"}
    if cache: prov["jwt_cache_config"] = {"jwt_cache_size": 1000}
    role = {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "jwt"}, {"key": "role"}], "value": {"string_match": {"exact": "admin"}}}}
    return [
        {"name": "envoy.filters.http.jwt_authn", "typed_config": {"@type": T + "filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"p": prov}, "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]}},
        {"name": "envoy.filters.http.rbac", "typed_config": {"@type": T + "filters.http.rbac.v3.RBAC", "rules": {"action": "ALLOW", "policies": {
            "admin": {"permissions": [{"and_rules": {"rules": [{"url_path": {"path": {"prefix": "/api/"}}}, {"header": {"name": ":method", "string_match": {"exact": "GET"}}}]}}], "principals": [role]}}}}},
        {"name": "envoy.filters.http.local_ratelimit", "typed_config": {"@type": T + "filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "rl",
            "token_bucket": {"max_tokens": 100000000, "tokens_per_fill": 100000000, "fill_interval": "1s"},
            "filter_enabled": {"default_value": {"numerator": 100}}, "filter_enforced": {"default_value": {"numerator": 100}}}},
    ]


def envoy(s, h2=False):
    if s == "s1": return [ev("evs1", PLAIN, 1)]
    if s == "s2": return [ev("evs2b", TLS, 2, tls_in=True, h2=h2), ev("evs2a", PLAIN, 1, up=TLS, tls_out=True, h2=h2)]
    if s in ("s3", "s3u"): return [ev("evs3", TLS, 1, tls_in=False, filters=ev_edge(False))]
    if s == "s3c": return [ev("evs3", TLS, 1, tls_in=False, filters=ev_edge(True))]
    if s == "s3tls": return [ev("evs3", TLS, 1, tls_in=False)]
    if s == "s5": return [ev("evs5", TLS, 1, tls_in=True, direct=True)]


# ---- any program that follows the spike's environment contract ------------------------------
def spike(path, s, extra=None):
    """LISTEN, UPSTREAM, TLS_IN=mtls|edge, TLS_OUT=1, DIRECT=1 (answer 200 locally), THREADS, PKI."""
    e = lambda **k: ["env", f"PKI={PKI}", "THREADS=1", *[f"{a}={b}" for a, b in {**k, **(extra or {})}.items()], path]
    pl, tl, up = f"127.0.0.1:{PLAIN}", f"127.0.0.1:{TLS}", f"127.0.0.1:{UP}"
    if s == "s1": return [("sp", e(LISTEN=pl, UPSTREAM=up), {})]
    if s == "s2": return [("spb", e(LISTEN=tl, UPSTREAM=up, TLS_IN="mtls"), {}), ("spa", e(LISTEN=pl, UPSTREAM=tl, TLS_OUT="1"), {})]
    if s.startswith("s3"): return [("sp", e(LISTEN=tl, UPSTREAM=up, TLS_IN="edge"), {})]
    if s == "s5": return [("sp", e(LISTEN=tl, TLS_IN="mtls", DIRECT="1"), {})]


# ---- Testudo -----------------------------------------------------------------------------------
TESTUDO = os.environ.get("TESTUDO", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "release", "testudo"))
API, MESH = 18100, 18101
EDGE_TLS = f"[{{certificate: tls/edge.pem, key: tls/edge.key}}]"
BUNDLES = {
    # Plain in, plain out: every check that is always on, no users.
    "s1": f"""gateway: {{listen: '127.0.0.1:{PLAIN}', tls: none, routes: [{{path: /, service: app}}]}}
services: {{app: {{app: ['127.0.0.1:{UP}'], sidecar: none}}}}
""",
    # Gateway and sidecar, mTLS between them.
    "s2": f"""gateway: {{listen: '127.0.0.1:{PLAIN}', tls: none, routes: [{{path: /, service: app}}]}}
services: {{app: {{app: ['127.0.0.1:{UP}']}}}}
""",
    "s3tls": f"""gateway: {{listen: '127.0.0.1:{TLS}', tls: {EDGE_TLS}, routes: [{{path: /, service: app}}]}}
services: {{app: {{app: ['127.0.0.1:{UP}'], sidecar: none}}}}
""",
    # TLS, ES256 tokens, a role rule, a limit by user.
    "s3": f"""gateway: {{listen: '127.0.0.1:{TLS}', tls: {EDGE_TLS}, routes: [{{path: /, service: app}}]}}
users:
  jwt:
    bench: {{issuer: 'https://issuer.bench', audiences: [bench], jwks: keys/jwks.json, id: sub, roles: {{claim: role, allow: [admin]}}}}
services: {{app: {{app: ['127.0.0.1:{UP}'], sidecar: none}}}}
policies: policies
limits: [{{name: all, match: {{service: app}}, per: user, rate: 10000000/s}}]
""",
}
BUNDLES["s5"] = BUNDLES["s2"]
POLICY = 'permit (principal in Role::"admin", action == Action::"app:GET", resource);\n'


def testudo_prepare(s, start, wait_port, load_core):
    """Writes the bundle, starts the control plane beside the load generator, and gets each proxy a join token."""
    top = os.path.join(RUN, "testudo-" + s)
    shutil.rmtree(top, ignore_errors=True)
    bundle = os.path.join(top, "bundle")
    kind = "s3" if s in ("s3c", "s3u") else s
    for d in ("tls", "keys", "policies"): os.makedirs(os.path.join(bundle, d))
    for a, b in (("server.pem", "tls/edge.pem"), ("server.key", "tls/edge.key"), ("jwks.json", "keys/jwks.json")):
        shutil.copy(P(a), os.path.join(bundle, b))
    with open(os.path.join(bundle, "testudo.yaml"), "w") as f:
        f.write(f"version: 1\ntrust_domain: bench.test\ncontrol: {{api: '127.0.0.1:{API}', mesh: '127.0.0.1:{MESH}'}}\n" + BUNDLES[kind])
    if kind == "s3":
        with open(os.path.join(bundle, "policies", "app.cedar"), "w") as f: f.write(POLICY)
    control = start("testudo-control", [TESTUDO, "control", bundle, "--state", os.path.join(top, "control")], {}, load_core)
    wait_port(API, control)
    for who in ("gateway", "app"):
        subprocess.run([TESTUDO, "identity", "issue", "--join", who, "--out", os.path.join(top, who + ".token"), "--api", f"http://127.0.0.1:{API}",
                        "--token-file", os.path.join(top, "control", "admin.token")], check=True, stdout=subprocess.DEVNULL)
    return control


def testudo(s):
    top = os.path.join(RUN, "testudo-" + s)
    def one(name, who, *more):
        return (name, [TESTUDO, "proxy", who, "--control", f"127.0.0.1:{MESH}", "--join-token-file", os.path.join(top, who + ".token"),
                       "--state", os.path.join(top, name), "--threads", "1", "--admin", "127.0.0.1:0", *more], {})
    sidecar = one("tds2b", "app", "--inbound", f"127.0.0.1:{TLS}", "--outbound", "127.0.0.1:0")
    gateway = one("tds2a", "gateway")
    if s == "s2": return [sidecar, gateway]
    if s == "s5": return [sidecar]
    return [gateway]


def client(target):
    """((certificate, key), roots) of a client that the target admits by mTLS."""
    if target != "testudo": return (P("client.pem"), P("client.key")), P("ca.pem")
    state = os.path.join(RUN, "testudo-s5", "tds2b")       # its own SVID: a workload of the mesh like any other
    svid, all_of_them = os.path.join(state, "svid.pem"), os.path.join(state, "chain.pem")
    for _ in range(100):
        if os.path.exists(svid): break
        time.sleep(0.1)
    time.sleep(1)
    with open(all_of_them, "w") as f:                      # openssl completes the chain that it sends from its roots
        for p in (svid, os.path.join(state, "trust.pem")):
            text = open(p).read()
            f.write(text[text.index("-----BEGIN CERTIFICATE-----"):])
    return (svid, svid), all_of_them


def make(target, s):
    if target == "direct": return []
    if target == "testudo": return testudo(s)
    if target == "nginx": return nginx(s)
    if target == "nginx-plain": return nginx("s1")        # the same as nginx S1, for the S4 requests without the WAF
    if target == "haproxy": return haproxy(s)
    if target == "envoy": return envoy(s)
    if target == "envoy-h2": return envoy(s, True)
    if target.startswith("bin:"):                          # bin:PATH[,K=V,...]
        path, *kv = target[4:].split(",")
        return spike(shutil.which(path) or path, s, dict(x.split("=", 1) for x in kv))
    raise SystemExit(f"unknown target {target}")
