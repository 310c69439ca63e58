// Whether what is on the screen moves: the connection to control, and the pause that people ask for.

class Live {
  paused = $state(false);
  connected = $state(true);
  /** Seconds that the whole page looks back. */
  seconds = $state(300);
  /** A clock for "ago" and countdowns, once a second. */
  now = $state(Date.now());

  constructor() {
    setInterval(() => {
      if (!document.hidden) this.now = Date.now();
    }, 1000);
  }

  reached(yes: boolean): void {
    this.connected = yes;
  }
}

export const live = new Live();
