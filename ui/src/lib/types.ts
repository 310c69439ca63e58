// What the HTTP API answers (docs: /api/v1/openapi.json). Names are the API's.

export type Verdict = "permit" | "deny";
export type Mode = "enforce" | "report" | "observe";
export interface PolicyRef { file: string; line: number }
export interface Finding { check: string; code: string; detail: string }
export interface Check { name: string; result: "pass" | "fail" | "skip"; detail: string; policy: PolicyRef | null; us: number }

export interface Decision {
  time: string; request_id: string; trace_id: string; trace_guessed?: boolean; proxy: string; hop: "edge" | "mesh"; revision: number;
  caller: string | null; user: string | null; roles: string[]; source_ip: string | null; service: string | null;
  operation: string | null; method: string; host: string; path: string; status: number | null; verdict: Verdict;
  reason: string | null; mode: Mode; policy: PolicyRef | null; findings: Finding[]; bytes_in: number; bytes_out: number;
  duration_us: number; guard_us: number; checks?: Check[]; agent?: string; credential?: string;
}

export interface Status {
  trust_domain: string; revision: number; digest: string | null; bundle: string; bundle_error: string | null;
  proxies: { connected: number; ready: number; in_sync: number }; services: number;
  decisions: { received: number; dropped: number };
  authority: { issuing_not_after: string; roots: number } & Record<string, unknown>; started: string; version: string;
}
export interface Revision { number: number; current: boolean; digest: string; parent: string | null; created: string; note: string; parts: { path: string; size: number; digest: string }[] }
export interface Proxy {
  name: string; role: "gateway" | "sidecar"; service: string | null; advertise: string; outbound: string | null; admin: string | null;
  revision: number; ready: boolean; svid_not_after: string; digest: string | null; app: string | null; version: string; error: string | null;
  effective?: unknown;
}
export interface Service { name: string; mode: Mode; user: string; api: string | null; operations: number | null; roles: string[]; sidecar: boolean; workloads: number; ready: number; proxies: string[] }
export interface Identity { connected: boolean; name: string; role: string; service: string | null; spiffe_id: string; serial: string; not_after: string; joined: string; revoked: boolean }

export interface GraphNode { name: string; kind: "client" | "gateway" | "service" | "external"; mode: Mode | null; proxies: number; ready: number }
export interface OperationCount { operation: string; requests: number; denied: number; reported: number; errors: number; p50_us: number | null; p99_us: number | null }
export interface HistoryPoint { at: string; seconds?: number; requests: number; denied: number; reported?: number; errors: number; p99_us: number | null }
export interface GraphEdge {
  caller: string | null; service: string | null; hop: "edge" | "mesh"; requests: number; denied: number; reported: number; errors: number; rate: number;
  p50_us: number | null; p99_us: number | null; guard_p50_us: number | null; bytes_in: number; bytes_out: number; users: number; last: string | null; contained: boolean;
  reasons: Record<string, number>;
  /** Of the reasons, what was let pass. */
  reported_reasons?: Record<string, number>; operations: OperationCount[]; history: HistoryPoint[];
}
export interface LimitUse { name: string; service: string | null; used_max: number | null }
export interface Graph { seconds: number; window_seconds: number; now: string; dropped_keys: number; nodes: GraphNode[]; edges: GraphEdge[]; limits?: LimitUse[] }

export interface WhyHop extends Decision { at?: string; parent?: number | null }
export interface Why {
  request_id: string; trace_id: string; verdict: Verdict; reason: string | null; hops: WhyHop[]; cause: string | null;
  /** Whose answer the cause is about, and which of the hops made it. */
  by?: "testudo" | "application" | "nobody"; decided?: number | null;
  /** `at`: it must have been there, before that one of the hops; without it a proxy that could not be asked. */
  permit_if: string[]; missing: { proxy: string; why: string; at?: string | null; caller?: string | null; service?: string | null; before?: number | null }[];
}

export type IncidentState = "open" | "acknowledged" | "muted" | "closed";
export interface Incident {
  id: string; detector: string; title: string; severity: "low" | "medium" | "high"; state: IncidentState; first: string; last: string; count: number;
  who: { kind: string; name: string } | null; what: { caller: string | null; service: string | null; operation: string | null } | null;
  baseline: { what: string; usual: number | null; seen: number | null; unit: string } | null; samples: string[];
  mitre: { id: string; name: string }[]; owasp: { id: string; name: string }[]; suggestion: string | null; policy: string | null;
  containment: Containment | null; context: string[]; acknowledged_by?: string | null; note?: string | null; muted_until?: string | null; related?: string[]; closed?: string | null;
}
export interface Containment {
  id: string; kind: "user" | "service"; principal: string; service: string | null; operation: string | null; action: "throttle" | "deny"; rate?: number | null;
  since: string; until: string; incident: string | null; reason: string; by: string;
}
export interface ModeOverride { service: string; mode: Mode; until: string | null; configured: Mode; by: string }

export interface Access {
  principals: { kind: "role" | "service" | "anonymous" | "user"; name: string }[];
  operations: { service: string; operation: string; method: string; path: string }[];
  cells: { principal: number; operation: number; allowed: boolean | "depends"; policy: PolicyRef | null; permitted: number; denied: number; reported: number; last: string | null }[];
}
export interface Reach { service: string; reaches: { service: string; operations: { operation: string; via: string[]; policy: PolicyRef | null; as: "itself" | "users"; allowed?: boolean | "depends" }[] }[]; egress?: string[] }
export type Level = "enforce" | "report" | "none" | "off";
export interface Coverage { service: string; mtls: Level; authn: Level; authz: Level; schema: Level; responses: Level; limit: Level; limits?: string[]; callers?: Level; waf: Level; mode: Mode }
export interface AuditEntry { sequence: number; at: string; by: string; action: string; subject: string | null; detail: string | null; hash: string }
