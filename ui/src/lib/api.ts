// The HTTP API: bearer token in a header and nowhere else; streams by fetch, because EventSource sends no headers.
import { session } from "./session.svelte";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

const BASE = "/api/v1/";

async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  headers.set("authorization", `Bearer ${session.token ?? ""}`);
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "Control does not answer.");
  }
  if (response.status === 401) {
    session.refuse();
    throw new ApiError(401, "token", "The token is not accepted.");
  }
  if (!response.ok) {
    const problem = (await response.json().catch(() => ({}))) as { code?: string; reason?: string; detail?: string };
    throw new ApiError(response.status, problem.code ?? problem.reason ?? "", problem.detail ?? `Control answered ${response.status}.`);
  }
  return response;
}

export async function read<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await send(path, { signal: signal ?? null })).json()) as T;
}

export async function change(method: "POST" | "DELETE", path: string, body?: unknown): Promise<void> {
  await send(path, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
  });
}

export interface StreamHandlers<T> {
  item: (item: T) => void;
  missed?: (count: number) => void;
  open?: () => void;
  lost?: () => void;
}

/** Follows server-sent events until the signal; comes back by itself, a little later each time. */
export async function follow<T>(path: string, handlers: StreamHandlers<T>, signal: AbortSignal): Promise<void> {
  let wait = 500;
  while (!signal.aborted) {
    try {
      const response = await send(path, { signal, headers: { accept: "text/event-stream" } });
      handlers.open?.();
      wait = 500;
      await events(response, (event, data) => {
        if (event === "missed") handlers.missed?.(Number(data) || 0);
        else if (event === "message" && data) handlers.item(JSON.parse(data) as T);
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && (error.status === 401 || error.status === 404)) return;
    }
    if (signal.aborted) return;
    handlers.lost?.();
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 8000);
  }
}

/** WHATWG HTML §9.2.6, as far as our API uses it. */
async function events(response: Response, dispatch: (event: string, data: string) => void): Promise<void> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  let rest = "";
  let event = "message";
  let data: string[] = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (data.length) dispatch(event, data.join("\n"));
        event = "message";
        data = [];
      } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line.startsWith("event:")) event = line.slice(6).trim();
    }
  }
}
