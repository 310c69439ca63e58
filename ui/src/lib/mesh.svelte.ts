// What every view needs of the mesh, asked for once.
import { poll, Polled } from "./poll.svelte";
import { live } from "./live.svelte";
import type { Containment, Graph, Incident, ModeOverride, Service, Status } from "./types";

class Mesh {
  status = $state.raw(new Polled<Status>());
  graph = $state.raw(new Polled<Graph>());
  services = $state.raw(new Polled<Service[]>());
  incidents = $state.raw(new Polled<Incident[]>());
  containments = $state.raw(new Polled<Containment[]>());
  modes = $state.raw(new Polled<ModeOverride[]>());

  get openIncidents(): number {
    return this.incidents.data?.filter((incident) => incident.state === "open").length ?? 0;
  }

  /** Modes that differ from what the bundle says. */
  get overrides(): ModeOverride[] {
    return this.modes.data?.filter((mode) => mode.until !== null || mode.mode !== mode.configured) ?? [];
  }
}

export const mesh = new Mesh();

/** Starts asking; the page calls it once. */
export function watchMesh(): void {
  mesh.status = poll<Status>(() => "status", 3000);
  mesh.graph = poll<Graph>(() => `graph?seconds=${live.seconds}`, 3000);
  mesh.services = poll<Service[]>(() => "services", 10_000);
  mesh.incidents = poll<Incident[]>(() => "incidents?state=all", 3000);
  mesh.containments = poll<Containment[]>(() => "containments", 3000);
  mesh.modes = poll<ModeOverride[]>(() => "modes", 5000);
}
