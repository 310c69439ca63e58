// What codes mean, in the words of docs/reference/codes.md, short enough for a line.

export const REASONS: Record<string, string> = {
  "request.malformed": "The request breaks HTTP's rules or could be read in two ways.",
  "request.too_large": "The request is larger than the service accepts.",
  "request.timeout": "The request did not arrive in time.",
  "request.misdirected": "The host named is not the one that TLS asked for.",
  "route.none": "No route leads there.",
  "route.undocumented": "The API's document has no such operation.",
  "route.method": "The path exists, but not with this method.",
  "authn.missing": "A user is needed, and none came.",
  "authn.invalid": "The credential is forged, foreign or broken.",
  "authn.expired": "The credential is past its end.",
  "authn.unavailable": "The keys that verify credentials cannot be had.",
  "authz.user": "No policy permits this user to do this.",
  "authz.caller": "No policy permits this service to make this call.",
  "authz.error": "A policy could not be evaluated, which denies.",
  "schema.params": "A parameter is not as the API's document says.",
  "schema.body": "The body is not as the API's document says.",
  "schema.content_type": "The API's document does not list this kind of body.",
  "schema.response": "The service's answer is not as its document says.",
  "upstream.invalid": "The service's answer breaks HTTP's rules.",
  "graphql.limit": "The GraphQL query is too deep or too costly.",
  "graphql.invalid": "The GraphQL query does not fit the schema.",
  "limit.exceeded": "More requests than the limit allows.",
  "waf.blocked": "The payload looks like an attack.",
  contained: "This principal is contained on this path for now.",
  "upstream.unavailable": "No workload of the service can be reached.",
  "upstream.timeout": "The service did not answer in time.",
  overloaded: "The proxy has more work than it can take.",
  not_ready: "The proxy has no revision yet.",
};

export const reasonText = (code: string | null): string => (code ? (REASONS[code] ?? "A code that this page does not know.") : "");

/** Not decisions of ours but faults behind us. */
export const isFault = (reason: string): boolean => reason.startsWith("upstream.") || reason === "overloaded" || reason === "not_ready";

export const CHECKS: Record<string, string> = {
  normalize: "one reading of the request",
  route: "where it goes",
  operation: "which operation it is",
  mtls: "who is at the other end",
  authn: "who the user is",
  token: "the user's transaction token",
  user: "may the user",
  caller: "may the caller",
  schema: "does it fit the document",
  body: "does the body fit",
  limit: "within its limit",
  containment: "is somebody contained",
  waf: "does it look like an attack",
  response: "does the answer fit",
};

export const DETECTORS: Record<string, string> = {
  new_edge: "A service calls one that it never called before.",
  rate: "Far more or fewer requests than usual.",
  errors: "More answers fail than usual.",
  denials: "More is stopped than usual.",
  latency: "Answers take longer than usual.",
  volume: "More data leaves than usual.",
  enumeration: "One user walks through objects.",
  scan: "Somebody tries many endpoints.",
  stuffing: "Many credentials are tried from one place.",
  token_sharing: "One credential is used from many places.",
  undocumented: "Operations are called that no document has.",
  dropped_user: "A service loses the user on the way.",
  probing: "Somebody tests where a limit lies.",
};
