#!/usr/bin/env python3
"""run.py TARGET SCENARIO [--rate R] [--secs N] [--conns N] [--runs N]   prints one line of JSON per run.

TARGET   testudo direct nginx nginx-plain haproxy envoy envoy-h2, or bin:PATH[,K=V...] (see peers.spike)
SCENARIO s1 plain proxy | s2 mTLS pair | s3 edge with JWT (s3c: Envoy's JWT cache on, s3u: more tokens than any cache holds, s3tls: TLS only)
         s4get s4post s4dense WAF | s5 new mTLS connections
The proxy runs on core $PROXY_CORE (1), the load generator and the upstream on core $LOAD_CORE (0).
With --rate: h2load at that fixed rate, latency from its log; without: wrk, closed loop, flat out.
cpu_us is (user + system of all the proxy's processes over the run) / requests.
"""
import argparse, json, os, re, signal, socket, subprocess, sys, time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import peers

HERE = os.path.dirname(os.path.abspath(__file__))
PC, LC = os.environ.get("PROXY_CORE", "1"), os.environ.get("LOAD_CORE", "0")
TCK = os.sysconf("SC_CLK_TCK")
# Two benign bodies of 2 KiB: 22 values (the usual case), and 100 values (the cost of CRS grows with the number of values).
TEXT = "the quick brown fox carries a parcel to the harbour and comes home before the rain "
BODIES = {
    "s4post": json.dumps({"user": "alice", "city": "Lisbon", "items": [{"sku": "A%04d" % i, "qty": i % 7, "note": (TEXT * 5)[i * 7:i * 7 + 288]} for i in range(6)], "gift": False, "total": 129.5}),
    "s4dense": json.dumps({"user": "alice", "items": [{"sku": "A%04d" % i, "qty": i % 7, "note": "blue widget number %d" % i} for i in range(33)]}),
}
GET5 = "/api/items?page=2&size=50&sort=name&filter=blue&lang=en"


def read(p):
    try:
        with open(p) as f: return f.read()
    except OSError: return ""


def tree(pid):
    out = [pid]
    for t in os.listdir(f"/proc/{pid}/task"):
        for c in read(f"/proc/{pid}/task/{t}/children").split(): out += tree(int(c))
    return out


def cpu(pids):
    """(nanoseconds on the processor by the scheduler's count, user ticks, system ticks)"""
    ns = u = s = 0
    for p in pids:
        f = read(f"/proc/{p}/stat").rsplit(")", 1)[1].split()
        u += int(f[11]); s += int(f[12])
        ns += sum(int(read(f"/proc/{p}/task/{t}/schedstat").split()[0]) for t in os.listdir(f"/proc/{p}/task"))
    return ns, u, s


def mem(pids, key, file="status"):
    return sum(int(m.group(1)) for p in pids for m in [re.search(rf"^{key}:\s+(\d+)", read(f"/proc/{p}/{file}"), re.M)] if m)


def steal():
    f = read("/proc/stat").split("\n")[0].split()
    return int(f[8])


def start(name, argv, files, core):
    for p, t in files.items():
        with open(p, "w") as f: f.write(t)
    log = open(f"{peers.RUN}/{name}.log", "w")
    return subprocess.Popen(["taskset", "-c", core, *argv], stdout=log, stderr=log)


def must_be_free(port):
    """A server left over from an aborted run would share the load, or the core."""
    s = socket.socket(); s.settimeout(0.2)
    if s.connect_ex(("127.0.0.1", port)) == 0: raise SystemExit(f"something already listens on port {port}")
    s.close()


def wait_port(port, proc):
    for _ in range(200):
        if proc.poll() is not None: raise SystemExit("a process ended early: see " + peers.RUN)
        try: socket.create_connection(("127.0.0.1", port), 0.2).close(); return
        except OSError: time.sleep(0.05)
    raise SystemExit(f"port {port} did not open")


def request(s):
    """(url, headers, body file or None)"""
    jwt = read(peers.P("jwt.txt"))
    tls = s in ("s3", "s3c", "s3u", "s3tls")
    base = f"https://127.0.0.1:{peers.TLS}" if tls else f"http://127.0.0.1:{peers.PLAIN}"
    h = {"User-Agent": "bench/1.0", "Accept": "application/json", "Host": "mesh.local"}
    if tls: h["Authorization"] = "Bearer " + jwt
    if s in BODIES:
        b = f"{peers.RUN}/body.json"
        with open(b, "w") as f: f.write(BODIES[s])
        h["Content-Type"] = "application/json"
        return base + "/api/orders", h, b
    return base + (GET5 if s == "s4get" else "/api/items"), h, None


def check(url, h, body, want, ready=False):
    """One request before the run: a scenario that answers an error is no measurement. A program that gets its
    configuration over the wire may need a moment (`ready`)."""
    a = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", url]
    for k, v in h.items(): a += ["-H", f"{k}: {v}"]
    if body: a += ["--data-binary", "@" + body]
    for _ in range(100 if ready else 1):
        o = subprocess.run(a, capture_output=True, text=True).stdout
        if o == want: break
        time.sleep(0.1)
    if o != want: raise SystemExit(f"check failed: {o!r}, wanted {want!r}")


def wrk(url, h, body, secs, conns, tokens=""):
    a = ["taskset", "-c", LC, "wrk", "-t1", f"-c{conns}", f"-d{secs}s", "-s", os.path.join(HERE, "report.lua")]
    for k, v in h.items(): a += ["-H", f"{k}: {v}"]
    o = subprocess.run([*a, url], capture_output=True, text=True, env={**os.environ, "BODY_FILE": body or "", "TOKENS_FILE": tokens})
    return json.loads(re.search(r"^JSON (.*)$", o.stdout, re.M).group(1))


def h2load(url, h, body, secs, conns, rate):
    log = f"{peers.RUN}/h2load.log"
    if os.path.exists(log): os.remove(log)
    a = ["taskset", "-c", LC, "h2load", "--h1", "-t1", f"-c{conns}", f"--rps={rate / conns}", f"-D{secs}", f"--log-file={log}"]
    for k, v in h.items():
        if k != "Host": a += ["-H", f"{k}: {v}"]
    if body: a += ["-d", body]
    subprocess.run([*a, url], capture_output=True, text=True)
    t, bad = [], 0
    for l in open(log):
        _, st, us = l.split()
        if st == "200": t.append(int(us))
        else: bad += 1
    t.sort(); n = len(t); q = lambda p: t[min(n - 1, int(n * p))]
    return {"requests": n, "secs": secs, "p50": q(.5), "p99": q(.99), "p999": q(.999), "errors": bad}


def handshakes(secs, procs, cert, ca):
    """openssl s_time, several at once: a full TLS 1.3 handshake with a client certificate, one GET, close."""
    a = ["taskset", "-c", LC, "openssl", "s_time", "-connect", f"127.0.0.1:{peers.TLS}", "-new", "-www", "/", "-time", str(secs),
         "-cert", cert[0], "-key", cert[1], "-CAfile", ca]
    ps = [subprocess.Popen(a, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(procs)]
    n = 0; t = 0.0
    for p in ps:
        out = p.communicate()[0]
        m = re.search(r"(\d+) connections in (\d+) real seconds", out)
        if not m: raise SystemExit("openssl s_time failed: " + out)
        n += int(m.group(1)); t = max(t, float(m.group(2)))
    return {"requests": n, "secs": secs, "p50": 0, "p99": 0, "p999": 0, "errors": 0}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("target"); ap.add_argument("scenario")
    ap.add_argument("--rate", type=float); ap.add_argument("--secs", type=int, default=8)
    ap.add_argument("--conns", type=int, default=64); ap.add_argument("--runs", type=int, default=1)
    ap.add_argument("--warm", type=int, default=2)
    a = ap.parse_args()
    os.makedirs(peers.RUN, exist_ok=True)
    s, ps, aside = a.scenario, [], []
    for p in (peers.UP, peers.PLAIN, peers.TLS, peers.API): must_be_free(p)
    try:
        up = start(*peers.upstream(), LC); ps.append(up); wait_port(peers.UP, up)
        if a.target == "testudo": aside.append(peers.testudo_prepare(s, start, wait_port, LC))
        for name, argv, files in peers.make(a.target, s):
            p = start(name, argv, files, PC); ps.append(p)
            wait_port(peers.TLS if any(str(peers.TLS) in x and "LISTEN" in x for x in argv) or name.endswith("2b") or s[:2] in ("s3", "s5") else peers.PLAIN, p)
        url, h, body = request(s)
        if a.target == "direct": url = url.replace(str(peers.PLAIN), str(peers.UP))
        if s != "s5": check(url, h, body, f"200 {peers.SIZE}", ready=a.target == "testudo")
        go = (lambda t: handshakes(t, 4, *peers.client(a.target))) if s == "s5" else (lambda t: h2load(url, h, body, t, a.conns, a.rate)) if a.rate else (lambda t: wrk(url, h, body, t, a.conns, peers.P("tokens.txt") if s == "s3u" else ""))
        go(a.warm)
        for _ in range(a.runs):
            pids = [x for p in ps[1:] for x in tree(p.pid)]
            c0, s0, t0 = cpu(pids), steal(), time.monotonic()
            r = go(a.secs)
            c1, wall = cpu(pids), time.monotonic() - t0
            n = max(1, r["requests"])
            ut = (c1[1] - c0[1]) + (c1[2] - c0[2])
            print(json.dumps({"target": a.target, "scenario": s, "rate": a.rate, "conns": a.conns, "body": peers.SIZE, "rps": round(n / r["secs"]), "p50_us": round(r["p50"]), "p99_us": round(r["p99"]),
                "p999_us": round(r["p999"]), "cpu_us": round((c1[0] - c0[0]) / 1000 / n, 2), "stat_us": round(ut / TCK * 1e6 / n, 2),
                "sys_share": round((c1[2] - c0[2]) / max(1, ut), 2), "proxy_busy": round((c1[0] - c0[0]) / 1e9 / wall, 2), "cpu_s_per_1k": round((c1[0] - c0[0]) / 1e6 / n, 5),
                "rss_mib": round(mem(pids, "VmRSS") / 1024, 1), "pss_mib": round(mem(pids, "Pss", "smaps_rollup") / 1024, 1), "errors": r["errors"],
                "steal_ticks": steal() - s0, "load1": os.getloadavg()[0]}), flush=True)
    finally:
        for p in reversed(ps + aside): p.send_signal(signal.SIGTERM)
        for p in ps + aside:
            try: p.wait(1)
            except subprocess.TimeoutExpired: p.kill(); p.wait()     # some drain for minutes


main()
