// Where nodes stand and how edges run. Small graphs by dagre; large ones in ranks of our own, in linear time, because
// dagre needs seconds for thousands of edges.
import dagre from "@dagrejs/dagre";

export interface Box { id: string; width: number; height: number }
export interface Link { id: string; from: string; to: string }
export interface Point { x: number; y: number }
export interface Layout { width: number; height: number; at: Map<string, Point>; paths: Map<string, string>; ends: Map<string, Point>; middles: Map<string, Point> }

const DAGRE_NODES = 45;
const DAGRE_LINKS = 140;
const AFTER_RANK = 120;
const WITHIN_RANK = 70;

/** `room`: width by height of the place for it, which large graphs are fitted to. */
export function layout(boxes: Box[], links: Link[], down: boolean, room: number): Layout {
  return boxes.length <= DAGRE_NODES && links.length <= DAGRE_LINKS ? byDagre(boxes, links, down) : byRanks(boxes, links, down, room);
}

function byDagre(boxes: Box[], links: Link[], down: boolean): Layout {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: down ? "TB" : "LR", nodesep: down ? 28 : 34, ranksep: down ? 64 : 96, edgesep: 16, marginx: 16, marginy: 16 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const box of boxes) graph.setNode(box.id, { width: box.width, height: box.height });
  for (const link of links) if (link.from !== link.to) graph.setEdge(link.from, link.to, {}, link.id);
  dagre.layout(graph);
  const made: Layout = { width: graph.graph().width ?? 0, height: graph.graph().height ?? 0, at: new Map(), paths: new Map(), ends: new Map(), middles: new Map() };
  for (const box of boxes) {
    const node = graph.node(box.id) as unknown as Point;
    made.at.set(box.id, { x: node.x, y: node.y });
  }
  for (const link of links) {
    if (link.from === link.to) continue;
    const { points } = graph.edge(link.from, link.to, link.id) as unknown as { points: Point[] };
    made.paths.set(link.id, smooth(points));
    const last = points[points.length - 1];
    if (last) made.ends.set(link.id, last);
    made.middles.set(link.id, along(points, 0.4));
  }
  return made;
}

/** The point so far along a line; before its middle there is room for words, whose end belongs to what was stopped. */
function along(points: Point[], share: number): Point {
  const lengths = points.slice(1).map((point, index) => Math.hypot(point.x - (points[index]?.x ?? 0), point.y - (points[index]?.y ?? 0)));
  let left = lengths.reduce((sum, length) => sum + length, 0) * share;
  for (const [index, length] of lengths.entries()) {
    const [a, b] = [points[index], points[index + 1]];
    if (a && b && left <= length) return { x: a.x + ((b.x - a.x) * left) / (length || 1), y: a.y + ((b.y - a.y) * left) / (length || 1) };
    left -= length;
  }
  return points[0] ?? { x: 0, y: 0 };
}

/** A line through the middles of its segments, bent at its points. */
function smooth(points: Point[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x.toFixed(1)} ${first.y.toFixed(1)}`;
  rest.forEach((point, index) => {
    const next = rest[index + 1];
    if (!next) path += `L${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
    else path += `Q${point.x.toFixed(1)} ${point.y.toFixed(1)} ${((point.x + next.x) / 2).toFixed(1)} ${((point.y + next.y) / 2).toFixed(1)}`;
  });
  return path;
}

/** Ranks by the shortest way from where requests come in, each ordered by where its neighbours stand. */
function byRanks(boxes: Box[], links: Link[], down: boolean, room: number): Layout {
  const callers = new Map<string, string[]>(boxes.map((box) => [box.id, []]));
  const called = new Map<string, string[]>(boxes.map((box) => [box.id, []]));
  for (const link of links) {
    called.get(link.from)?.push(link.to);
    callers.get(link.to)?.push(link.from);
  }
  const rank = new Map<string, number>();
  const roots = boxes.filter((box) => !callers.get(box.id)?.length);
  let front = (roots.length ? roots : boxes.slice(0, 1)).map((box) => box.id);
  for (let steps = 0; front.length; steps++) {
    for (const id of front) rank.set(id, steps);
    front = [...new Set(front.flatMap((id) => called.get(id) ?? []))].filter((id) => !rank.has(id));
  }
  for (const box of boxes) if (!rank.has(box.id)) rank.set(box.id, 0);

  const ranks: Box[][] = [];
  for (const box of boxes) (ranks[rank.get(box.id) ?? 0] ??= []).push(box);
  const order = new Map<string, number>();
  boxes.forEach((box, index) => order.set(box.id, index));
  for (let sweep = 0; sweep < 3; sweep++) {
    for (const row of ranks) {
      if (!row) continue;
      const pull = new Map(
        row.map((box) => {
          const near = [...(callers.get(box.id) ?? []), ...(called.get(box.id) ?? [])];
          const mean = near.length ? near.reduce((sum, id) => sum + (order.get(id) ?? 0), 0) / near.length : (order.get(box.id) ?? 0);
          return [box.id, mean];
        }),
      );
      row.sort((a, b) => (pull.get(a.id) ?? 0) - (pull.get(b.id) ?? 0));
      row.forEach((box, index) => order.set(box.id, ((index + 0.5) / row.length) * boxes.length));
    }
  }
  const gap = 22;
  const split = (most: number): { row: Box[]; last: boolean }[] =>
    ranks.filter(Boolean).flatMap((row) => {
      const pieces = Math.ceil(row.length / most);
      const size = Math.ceil(row.length / pieces);
      return Array.from({ length: pieces }, (_, piece) => ({ row: row.slice(piece * size, (piece + 1) * size), last: piece === pieces - 1 }));
    });
  const extent = (columns: { row: Box[]; last: boolean }[]): number => {
    const across = Math.max(...columns.map(({ row }) => row.reduce((sum, box) => sum + (down ? box.width : box.height) + gap, 0)));
    const along = columns.reduce((sum, { row, last }) => sum + Math.max(...row.map((box) => (down ? box.height : box.width))) + (last ? AFTER_RANK : WITHIN_RANK), 0);
    return down ? Math.max(across, along * room) : Math.max(along, across * room);
  };
  // A rank of many stands in several columns: as many as make the whole fit its place best.
  let columns = split(boxes.length);
  for (let most = 2; most < boxes.length; most++) {
    const tried = split(most);
    if (extent(tried) < extent(columns)) columns = tried;
  }
  const tall = Math.max(...columns.map(({ row }) => row.reduce((sum, box) => sum + (down ? box.width : box.height) + gap, 0)), 1);
  const made: Layout = { width: 0, height: 0, at: new Map(), paths: new Map(), ends: new Map(), middles: new Map() };
  let depth = 24;
  for (const { row, last } of columns) {
    const thick = Math.max(...row.map((box) => (down ? box.height : box.width)));
    const used = row.reduce((sum, box) => sum + (down ? box.width : box.height) + gap, -gap);
    let across = 24 + (tall - used) / 2;
    for (const box of row) {
      const own = down ? box.width : box.height;
      const point = down ? { x: across + own / 2, y: depth + thick / 2 } : { x: depth + thick / 2, y: across + own / 2 };
      made.at.set(box.id, point);
      across += own + gap;
    }
    depth += thick + (last ? AFTER_RANK : WITHIN_RANK);
  }
  made.width = down ? tall + 48 : depth;
  made.height = down ? depth : tall + 48;
  const size = new Map(boxes.map((box) => [box.id, box]));
  for (const link of links) {
    const [from, to] = [made.at.get(link.from), made.at.get(link.to)];
    const [a, b] = [size.get(link.from), size.get(link.to)];
    if (!from || !to || !a || !b || link.from === link.to) continue;
    // Forward from side to facing side; back likewise; within a column out and in on one side.
    const ahead = down ? Math.sign(Math.round(to.y - from.y)) : Math.sign(Math.round(to.x - from.x));
    const [out, into] = ahead === 0 ? [1, 1] : [ahead, -ahead];
    const start = down ? { x: from.x, y: from.y + (out * a.height) / 2 } : { x: from.x + (out * a.width) / 2, y: from.y };
    const end = down ? { x: to.x, y: to.y + (into * b.height) / 2 } : { x: to.x + (into * b.width) / 2, y: to.y };
    const bend = ahead === 0 ? 36 : Math.max(30, Math.abs(down ? end.y - start.y : end.x - start.x) / 2);
    const one = down ? { x: start.x, y: start.y + out * bend } : { x: start.x + out * bend, y: start.y };
    const other = down ? { x: end.x, y: end.y + into * bend } : { x: end.x + into * bend, y: end.y };
    const text = (point: Point): string => `${point.x.toFixed(0)} ${point.y.toFixed(0)}`;
    made.paths.set(link.id, `M${text(start)}C${text(one)} ${text(other)} ${text(end)}`);
    made.ends.set(link.id, end);
    made.middles.set(link.id, { x: (start.x + 3 * one.x + 3 * other.x + end.x) / 8, y: (start.y + 3 * one.y + 3 * other.y + end.y) / 8 });
  }
  return made;
}
