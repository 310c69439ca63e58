// Where we are: `#/VIEW?name=value`. Links can be shared; they never hold the token.

export const VIEWS = [
  "overview", "decisions", "incidents", "access", "reach", "coverage", "changes", "limits", "identities", "proxies", "audit",
] as const;
export type View = (typeof VIEWS)[number];

function parse(hash: string): { view: View; query: URLSearchParams } {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS.find((known) => known === path) ?? "overview";
  return { view, query: new URLSearchParams(query) };
}

type Values = Record<string, string | null | undefined>;

export function href(view: View, values: Values = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value) query.set(name, value);
  const text = query.toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

class Router {
  private current = $state.raw(parse(location.hash));

  constructor() {
    addEventListener("hashchange", () => (this.current = parse(location.hash)));
    addEventListener("popstate", () => (this.current = parse(location.hash)));
  }

  get view(): View {
    return this.current.view;
  }

  get(name: string): string | null {
    return this.current.query.get(name);
  }

  go(view: View, values: Values = {}): void {
    location.hash = href(view, values);
  }

  /** Changes parts of the query; `push` makes a step that the back button undoes. */
  set(values: Values, push = false): void {
    const query = new URLSearchParams(this.current.query);
    for (const [name, value] of Object.entries(values)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    const text = query.toString();
    const hash = `#/${this.current.view}${text ? `?${text}` : ""}`;
    if (hash === location.hash) return;
    if (push) history.pushState(null, "", hash);
    else history.replaceState(null, "", hash);
    this.current = parse(hash);
  }
}

export const router = new Router();
export const openWhy = (requestId: string): void => router.set({ why: requestId }, true);
