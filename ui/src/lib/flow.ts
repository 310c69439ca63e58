// From the API's edges to the picture: clients → gateway → services, groups where there are many, sums in words.
import type { Containment, Graph, GraphEdge, HistoryPoint, Mode } from "./types";

export interface FlowNode {
  id: string; label: string; kind: "client" | "gateway" | "service" | "external" | "group"; mode: Mode | null; proxies: number; ready: number;
  /** Services in a group. */
  members: FlowNode[];
  requests: number; denied: number; reported: number; errors: number; rate: number; p99: number | null;
}
export interface FlowEdge {
  id: string; from: string; to: string; requests: number; denied: number; reported: number; errors: number; rate: number;
  p50: number | null; p99: number | null; guard: number | null; bytesIn: number; bytesOut: number; users: number; last: string | null;
  contained: boolean; reasons: Record<string, number>; reportedReasons: Record<string, number>; history: HistoryPoint[]; parts: GraphEdge[];
}
export interface Flow { nodes: FlowNode[]; edges: FlowEdge[]; clients: string; gateway: string }

/** Above so many services, they are shown in groups. */
export const GROUP_ABOVE = 40;

/** Marks where somebody is contained: a service on its own edge, a user on the way from the gateway. */
function mark(edges: Iterable<FlowEdge>, held: Containment[], gateway: string): void {
  for (const edge of edges) {
    edge.contained ||= held.some((one) => (one.service === null || one.service === edge.to) && edge.from === (one.kind === "service" ? one.principal : gateway));
  }
}

export function flow(graph: Graph, held: Containment[] = []): Flow {
  const clients = graph.nodes.find((node) => node.kind === "client")?.name ?? "clients";
  const gateway = graph.nodes.find((node) => node.kind === "gateway")?.name ?? "gateway";
  const nodes = new Map<string, FlowNode>();
  const node = (id: string, kind: FlowNode["kind"]): FlowNode => {
    let found = nodes.get(id);
    if (!found) {
      found = { id, label: id, kind, mode: null, proxies: 0, ready: 0, members: [], requests: 0, denied: 0, reported: 0, errors: 0, rate: 0, p99: null };
      nodes.set(id, found);
    }
    return found;
  };
  for (const one of graph.nodes) Object.assign(node(one.name, one.kind), { mode: one.mode, proxies: one.proxies, ready: one.ready });

  const edges = new Map<string, FlowEdge>();
  const inside = new Set(graph.edges.filter((edge) => edge.hop === "mesh" && edge.caller === gateway).map((edge) => edge.service));
  for (const edge of graph.edges) {
    if (edge.hop === "edge") {
      add(edges, clients, gateway, edge);
      // A service without a sidecar is only seen from the edge.
      if (edge.service && edge.service !== gateway && !inside.has(edge.service) && edge.requests > edge.denied) {
        const passed = { ...edge, requests: edge.requests - edge.denied, denied: 0, reasons: {} };
        add(edges, gateway, edge.service, passed);
      }
    } else add(edges, edge.caller ?? "unknown", edge.service ?? "nowhere", edge);
  }
  mark(edges.values(), held, gateway);
  for (const edge of edges.values()) {
    node(edge.from, edge.from === clients ? "client" : edge.from === gateway ? "gateway" : "service");
    count(node(edge.to, edge.to === gateway ? "gateway" : "service"), edge);
  }
  return { nodes: [...nodes.values()], edges: [...edges.values()], clients, gateway };
}

function count(node: FlowNode, edge: FlowEdge): void {
  node.requests += edge.requests;
  node.denied += edge.denied;
  node.reported += edge.reported;
  node.errors += edge.errors;
  node.rate += edge.rate;
  node.p99 = largest(node.p99, edge.p99);
}

const largest = (a: number | null, b: number | null): number | null => (a === null ? b : b === null ? a : Math.max(a, b));

function add(edges: Map<string, FlowEdge>, from: string, to: string, edge: GraphEdge): void {
  const id = `${from}\u0000${to}`;
  let sum = edges.get(id);
  if (!sum) {
    sum = {
      id, from, to, requests: 0, denied: 0, reported: 0, errors: 0, rate: 0, p50: null, p99: null, guard: null, bytesIn: 0, bytesOut: 0,
      users: 0, last: null, contained: false, reasons: {}, reportedReasons: {}, history: [], parts: [],
    };
    edges.set(id, sum);
  }
  sum.p50 = weighted(sum.p50, sum.requests, edge.p50_us, edge.requests);
  sum.guard = weighted(sum.guard, sum.requests, edge.guard_p50_us, edge.requests);
  sum.p99 = largest(sum.p99, edge.p99_us);
  sum.requests += edge.requests;
  sum.denied += edge.denied;
  sum.reported += edge.reported;
  sum.errors += edge.errors;
  sum.rate += edge.rate;
  sum.bytesIn += edge.bytes_in;
  sum.bytesOut += edge.bytes_out;
  sum.users = Math.max(sum.users, edge.users);
  sum.contained ||= edge.contained;
  if (edge.last && (!sum.last || edge.last > sum.last)) sum.last = edge.last;
  for (const [reason, n, reported] of apart(edge)) {
    if (n) sum.reasons[reason] = (sum.reasons[reason] ?? 0) + n;
    if (reported) sum.reportedReasons[reason] = (sum.reportedReasons[reason] ?? 0) + reported;
  }
  sum.history = addHistory(sum.history, edge.history);
  sum.parts.push(edge);
}

/** Each reason with how often it stopped, and how often it only would have. */
function apart(edge: GraphEdge): [string, number, number][] {
  return Object.entries(edge.reasons).map(([reason, n]) => {
    const reported = edge.reported_reasons?.[reason] ?? (edge.denied === 0 ? n : 0);
    return [reason, n - reported, reported];
  });
}

function weighted(a: number | null, na: number, b: number | null, nb: number): number | null {
  if (a === null || na === 0) return b;
  if (b === null || nb === 0) return a;
  return (a * na + b * nb) / (na + nb);
}

/** Sums histories window by window, oldest first. */
export function addHistory(a: HistoryPoint[], b: HistoryPoint[]): HistoryPoint[] {
  const sum = new Map<string, HistoryPoint>();
  for (const point of [...a, ...b]) {
    const found = sum.get(point.at);
    if (!found) sum.set(point.at, { ...point });
    else {
      found.requests += point.requests;
      found.denied += point.denied;
      found.reported = (found.reported ?? 0) + (point.reported ?? 0);
      found.errors += point.errors;
      found.p99_us = largest(found.p99_us, point.p99_us);
    }
  }
  return [...sum.values()].sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
}

/** The whole mesh, window by window: what came in from outside, and what was stopped anywhere. */
export function meshHistory(graph: Graph): (HistoryPoint & { seconds: number })[] {
  const sum = new Map<string, HistoryPoint>();
  for (const edge of graph.edges) {
    for (const point of edge.history) {
      let found = sum.get(point.at);
      if (!found) {
        found = { at: point.at, seconds: point.seconds, requests: 0, denied: 0, reported: 0, errors: 0, p99_us: null };
        sum.set(point.at, found);
      }
      found.denied += point.denied;
      found.reported = (found.reported ?? 0) + (point.reported ?? 0);
      if (edge.hop === "edge") {
        found.requests += point.requests;
        found.p99_us = largest(found.p99_us, point.p99_us);
        found.errors += point.errors;
      }
    }
  }
  const points = [...sum.values()].sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
  return steps(points, Date.parse(graph.now), graph.window_seconds || 10);
}

/** How long steps are of a fine length, in milliseconds; before that they are minutes. */
const FINE_MS = 600_000;

/**
 * One point for every step, quiet ones too, each with its length; without the newest as long as it is not over, which
 * would look like a fall.
 */
function steps(points: HistoryPoint[], now: number, fine: number): (HistoryPoint & { seconds: number })[] {
  const found = new Map(points.map((point) => [Date.parse(point.at), point]));
  const first = points[0];
  const made: (HistoryPoint & { seconds: number })[] = [];
  for (let at = first ? Date.parse(first.at) : now; at < now; ) {
    const next = points.find((point) => Date.parse(point.at) > at);
    const gap = next ? (Date.parse(next.at) - at) / 1000 : 0;
    const point = found.get(at) ?? { at: new Date(at).toISOString(), requests: 0, denied: 0, reported: 0, errors: 0, p99_us: null };
    const seconds = point.seconds ?? (now - at > FINE_MS && gap >= 60 && gap % 60 === 0 ? 60 : fine);
    if (at + seconds * 1000 <= now) made.push({ ...point, seconds });
    at += seconds * 1000;
  }
  return made;
}

export interface Stop { reason: string; reported: boolean; count: number; places: { from: string; to: string; count: number }[] }
export interface Totals { requests: number; calls: number; denied: number; reported: number; errors: number; atEdge: number; stops: Stop[] }

export function totals(graph: Graph): Totals {
  const sum: Totals = { requests: 0, calls: 0, denied: 0, reported: 0, errors: 0, atEdge: 0, stops: [] };
  const stops = new Map<string, Stop>();
  for (const edge of graph.edges) {
    if (edge.hop === "edge") {
      sum.requests += edge.requests;
      sum.atEdge += edge.denied;
      sum.errors += edge.errors;
    } else sum.calls += edge.requests;
    sum.denied += edge.denied;
    sum.reported += edge.reported;
    for (const [reason, denied, reported] of apart(edge)) {
      for (const [n, only] of [[denied, false], [reported, true]] as const) {
        if (n === 0) continue;
        const stop = stops.get(`${reason}/${only}`) ?? { reason, reported: only, count: 0, places: [] };
        stop.count += n;
        stop.places.push({ from: edge.caller ?? "clients", to: edge.service ?? "nowhere", count: n });
        stops.set(`${reason}/${only}`, stop);
      }
    }
  }
  sum.stops = [...stops.values()].sort((a, b) => Number(a.reported) - Number(b.reported) || b.count - a.count);
  for (const stop of sum.stops) stop.places.sort((a, b) => b.count - a.count);
  return sum;
}

/** Which group a service belongs to: what stands before the first `-`, `.` or `/` of its name. */
export const groupOf = (name: string): string => name.split(/[-._/]/, 1)[0] || name;

/** Puts services into groups by name, but for those in `open` groups and those that share a name with nobody. */
export function grouped(whole: Flow, open: ReadonlySet<string>): Flow {
  const sizes = new Map<string, number>();
  for (const node of whole.nodes) if (node.kind === "service") sizes.set(groupOf(node.id), (sizes.get(groupOf(node.id)) ?? 0) + 1);
  const home = (node: FlowNode): string => {
    const group = groupOf(node.id);
    return node.kind !== "service" || open.has(group) || (sizes.get(group) ?? 0) < 2 ? node.id : `group:${group}`;
  };
  const homes = new Map(whole.nodes.map((node) => [node.id, home(node)]));
  const nodes = new Map<string, FlowNode>();
  for (const node of whole.nodes) {
    const id = homes.get(node.id) ?? node.id;
    if (id === node.id) nodes.set(id, node);
    else {
      const group = nodes.get(id) ?? { ...node, id, label: groupOf(node.id), kind: "group", members: [], proxies: 0, ready: 0, requests: 0, denied: 0, reported: 0, errors: 0, rate: 0, p99: null, mode: null };
      group.members.push(node);
      group.proxies += node.proxies;
      group.ready += node.ready;
      nodes.set(id, group);
    }
  }
  const edges = new Map<string, FlowEdge>();
  for (const edge of whole.edges) {
    const [from, to] = [homes.get(edge.from) ?? edge.from, homes.get(edge.to) ?? edge.to];
    const target = nodes.get(to);
    if (target?.kind === "group") count(target, edge);
    if (from === edge.from && to === edge.to) edges.set(edge.id, edge);
    else if (from !== to) {
      for (const part of edge.parts) add(edges, from, to, part);
      const sum = edges.get(`${from}\u0000${to}`);
      if (sum) sum.contained ||= edge.contained;
    }
  }
  return { ...whole, nodes: [...nodes.values()], edges: [...edges.values()] };
}
