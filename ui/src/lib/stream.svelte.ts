// Live decisions: taken from the stream as they come, shown a few times a second, bounded.
import { untrack } from "svelte";
import { follow } from "./api";
import { live } from "./live.svelte";
import type { Decision } from "./types";

const EVERY_MS = 300;

export class Feed {
  /** Newest first. */
  items = $state.raw<Decision[]>([]);
  missed = $state(0);
  open = $state(false);
  /** What came while paused. */
  waiting = $state(0);
}

export interface FeedOptions {
  path: () => string;
  keep: number;
  wanted?: () => (decision: Decision) => boolean;
  /** Nothing moves while somebody reads. */
  held?: () => boolean;
}

/** Follows while the component is there. A changed path begins anew. */
export function feed({ path, keep, wanted, held }: FeedOptions): Feed {
  const state = new Feed();
  $effect(() => {
    const from = path();
    const fits = wanted?.() ?? (() => true);
    const stop = new AbortController();
    let fresh: Decision[] = [];
    let first = true;
    state.missed = 0;
    void follow<Decision>(
      from,
      {
        open: () => {
          state.open = true;
          first = true;
        },
        lost: () => (state.open = false),
        missed: (count) => (state.missed += count),
        item: (decision) => {
          if (!fits(decision)) return;
          fresh.push(decision);
          if (fresh.length > keep) fresh = fresh.slice(-keep);
        },
      },
      stop.signal,
    );
    const timer = setInterval(() => {
      if (!first && (live.paused || untrack(() => held?.() ?? false))) {
        state.waiting = fresh.length;
        return;
      }
      state.waiting = 0;
      if (first && state.open) {
        // What was kept comes first; the list changes hands in one step.
        state.items = fresh.reverse();
        fresh = [];
        first = false;
      } else if (fresh.length) {
        state.items = [...fresh.reverse(), ...state.items].slice(0, keep);
        fresh = [];
      }
    }, EVERY_MS);
    return () => {
      stop.abort();
      clearInterval(timer);
      state.open = false;
    };
  });
  return state;
}

const key = new WeakMap<Decision, number>();
let next = 0;
/** A key for lists: the same request may be decided at several proxies. */
export function keyOf(decision: Decision): number {
  let found = key.get(decision);
  if (found === undefined) key.set(decision, (found = next++));
  return found;
}
