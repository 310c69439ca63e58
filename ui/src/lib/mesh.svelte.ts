// What every view needs of the mesh, asked for once.
import { poll, Polled } from "./poll.svelte";
import { live } from "./live.svelte";
import type { Containment, Graph, Incident, ModeOverride, Service, Status } from "./types";

/** Histories of so many services' edges are megabytes. */
const LARGE = 60;

class Mesh {
  status = $state.raw(new Polled<Status>());
  graph = $state.raw(new Polled<Graph>());
  /** The same with every edge's history, asked for less often where there are many edges. */
  private past = $state.raw(new Polled<Graph>());
  services = $state.raw(new Polled<Service[]>());
  incidents = $state.raw(new Polled<Incident[]>());
  containments = $state.raw(new Polled<Containment[]>());
  modes = $state.raw(new Polled<ModeOverride[]>());

  /** With histories. */
  get history(): Graph | null {
    return this.large ? this.past.data : this.graph.data;
  }

  get large(): boolean {
    return (this.services.data?.length ?? 0) > LARGE;
  }

  get openIncidents(): number {
    return this.incidents.data?.filter((incident) => incident.state === "open").length ?? 0;
  }

  /** Modes that differ from what the bundle says. */
  get overrides(): ModeOverride[] {
    return this.modes.data?.filter((mode) => mode.until !== null || mode.mode !== mode.configured) ?? [];
  }

  /** Starts asking; the page calls it once. */
  watch(): void {
    this.status = poll<Status>(() => "status", 3000);
    this.services = poll<Service[]>(() => "services", 10_000);
    this.graph = poll<Graph>(() => `graph?seconds=${live.seconds}${this.large ? "&history=false" : ""}`, 3000);
    this.past = poll<Graph>(() => (this.large ? `graph?seconds=${live.seconds}` : null), 30_000);
    this.incidents = poll<Incident[]>(() => "incidents?state=all", 3000);
    this.containments = poll<Containment[]>(() => "containments", 3000);
    this.modes = poll<ModeOverride[]>(() => "modes", 5000);
  }
}

export const mesh = new Mesh();
