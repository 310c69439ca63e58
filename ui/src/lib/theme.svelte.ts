// Light, dark, or as the system says. The choice is the only thing kept beyond this tab.

export type Theme = "system" | "light" | "dark";
const KEY = "testudo.theme";

class Themes {
  choice = $state<Theme>("system");
  private system = matchMedia("(prefers-color-scheme: dark)");
  private systemDark = $state(false);

  constructor() {
    const kept = localStorage.getItem(KEY);
    if (kept === "light" || kept === "dark") this.choice = kept;
    this.systemDark = this.system.matches;
    this.system.addEventListener("change", () => {
      this.systemDark = this.system.matches;
      this.apply();
    });
    this.apply();
  }

  get dark(): boolean {
    return this.choice === "system" ? this.systemDark : this.choice === "dark";
  }

  next(): void {
    this.choice = this.choice === "system" ? (this.systemDark ? "light" : "dark") : this.choice === "dark" ? "light" : "dark";
    if ((this.choice === "dark") === this.systemDark) this.choice = "system";
    if (this.choice === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, this.choice);
    this.apply();
  }

  private apply(): void {
    document.documentElement.dataset.theme = this.dark ? "dark" : "light";
  }
}

export const themes = new Themes();
