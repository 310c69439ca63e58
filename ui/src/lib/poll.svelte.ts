// Data that is asked for again and again. What is shown stays until its successor is here: nothing flickers.
import { ApiError, read } from "./api";
import { live } from "./live.svelte";
import { session } from "./session.svelte";

export class Polled<T> {
  data = $state.raw<T | null>(null);
  error = $state.raw<ApiError | null>(null);
  /** Asks again now. */
  refresh: () => void = () => {};
}

/** Polls `path()` while the component is there; `null` asks for nothing. Call it while a component starts. */
export function poll<T>(path: () => string | null, everyMs: number): Polled<T> {
  const polled = new Polled<T>();
  let asked: string | null = null;
  $effect(() => {
    const wanted = path();
    if (!session.token) return;
    if (wanted === null) {
      polled.data = null;
      asked = null;
      return;
    }
    if (asked !== null && asked.split("?")[0] !== wanted.split("?")[0]) polled.data = null;
    asked = wanted;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let running = false;
    const ask = async (): Promise<void> => {
      if (running) return;
      clearTimeout(timer);
      running = true;
      if (!document.hidden && !live.paused || polled.data === null) {
        try {
          const data = await read<T>(wanted, stop.signal);
          if (stop.signal.aborted) return;
          polled.data = data;
          polled.error = null;
          live.reached(true);
        } catch (error) {
          if (stop.signal.aborted) return;
          polled.error = error instanceof ApiError ? error : new ApiError(0, "unreadable", "The answer cannot be read.");
          if (polled.error.status === 0) live.reached(false);
        }
      }
      running = false;
      timer = setTimeout(() => void ask(), everyMs);
    };
    polled.refresh = () => void ask();
    const shown = (): void => {
      if (!document.hidden) void ask();
    };
    document.addEventListener("visibilitychange", shown);
    void ask();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
    };
  });
  return polled;
}
