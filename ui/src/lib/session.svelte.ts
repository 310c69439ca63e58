// The token: from the link's fragment, which no server ever sees, into this tab's session storage; never into the
// address bar, a cookie or a query.

const KEY = "testudo.token";

class Session {
  token = $state<string | null>(null);
  /** Why the page asks for a token. */
  refused = $state(false);

  constructor() {
    this.token = sessionStorage.getItem(KEY);
    this.takeFromLink();
    addEventListener("hashchange", () => this.takeFromLink());
  }

  /** Takes `#token=…` out of the address bar. */
  private takeFromLink(): void {
    const fragment = location.hash.slice(1);
    if (!fragment.startsWith("token=")) return;
    const parameters = new URLSearchParams(fragment);
    const token = parameters.get("token") ?? "";
    history.replaceState(null, "", `${location.pathname}#/`);
    if (token) this.set(token);
  }

  set(token: string): void {
    this.token = token.trim();
    this.refused = false;
    sessionStorage.setItem(KEY, this.token);
  }

  /** Control did not take it. */
  refuse(): void {
    this.forget();
    this.refused = true;
  }

  forget(): void {
    this.token = null;
    sessionStorage.removeItem(KEY);
  }
}

export const session = new Session();
