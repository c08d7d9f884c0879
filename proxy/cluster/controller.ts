/**
 * Owner of the live `ClusterState`: applies what probes and sessions report, publishes each new
 * snapshot to whoever subscribed, and keeps pgpool_status (spec wire/failover.md, wire/files.md 6).
 */

import {
  type BackendNode,
  type ClusteringMode,
  type ClusterState,
  isLive,
  type NodeId,
  type NodeStatus,
  nodeId,
  withNode,
  withPrimary,
} from "../../core/cluster/state.ts";
import {
  formatStatusFile,
  parseStatusFile,
  type RecordedStatus,
} from "../../core/cluster/status_file.ts";
import type { BackendConfig } from "../../core/config/schema.ts";
import type { Clock, Log } from "../../core/ports.ts";

/** Where pgpool_status is kept. Reading gives undefined when there is none. */
export interface StatusStore {
  readonly path: string;
  read(): Uint8Array | undefined;
  write(text: string): void;
  remove(): void;
}

export type NodeReport = Pick<
  BackendNode,
  "serverRole" | "delay" | "delayByTime" | "replicationState" | "replicationSyncState"
>;

export class Controller {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #store: StatusStore;
  readonly #subscribers: ((state: ClusterState) => void)[] = [];
  #state: ClusterState;

  constructor(options: {
    readonly mode: ClusteringMode;
    readonly backends: readonly BackendConfig[];
    readonly store: StatusStore;
    readonly log: Log;
    readonly clock: Clock;
  }) {
    this.#log = options.log;
    this.#clock = options.clock;
    this.#store = options.store;
    const now = options.clock();
    const nodes = options.backends.map((backend) => initialNode(backend, now));
    this.#state = { version: 1, mode: options.mode, nodes, primary: undefined };
  }

  get state(): ClusterState {
    return this.#state;
  }

  /** Called with each new snapshot, after the one current now. */
  subscribe(subscriber: (state: ClusterState) => void): void {
    this.#subscribers.push(subscriber);
  }

  /** Takes over what pgpool_status says, or discards it. */
  recall(discard: boolean): void {
    const { path } = this.#store;
    if (discard) {
      this.#store.remove();
      this.#log.write("LOG", `Backend status file ${path} discarded`);
      this.#record();
      return;
    }
    const content = this.#store.read();
    if (content === undefined) {
      this.#log.write("LOG", `Backend status file ${path} does not exist`);
    } else {
      const file = parseStatusFile(content, this.#state.nodes.length);
      if (file.invalidLines > 0) {
        this.#log.write("WARNING", "invalid data in status file, ignoring...");
      }
      for (const [id, status] of file.statuses?.entries() ?? [])
        this.#recallNode(nodeId(id), status);
    }
    this.#record();
  }

  #recallNode(id: NodeId, status: RecordedStatus): void {
    const node = this.#state.nodes[id];
    if (node === undefined || node.status === "unused") return;
    this.#log.write("LOG", `reading status file: ${id} th backend is set to ${status} status`);
    this.#publish(withNode(this.#state, id, { status }, this.#clock()));
  }

  /** The first connection to a node that was only configured so far. */
  connected(id: NodeId): void {
    if (this.#state.nodes[id]?.status === "waiting") this.#setStatus(id, "up");
  }

  /** A node cannot be used. `why` is logged and is what an operator will look for. */
  detach(id: NodeId, why: string): void {
    const node = this.#state.nodes[id];
    if (node === undefined || !isLive(node)) return;
    this.#log.write(
      "LOG",
      `=== Starting degeneration. shutdown host ${node.hostname}(${node.port}) ===`,
      {
        detail: why,
      },
    );
    this.#setStatus(id, "down");
    if (this.#state.primary === id) this.setPrimary(undefined);
  }

  setPrimary(id: NodeId | undefined): void {
    this.#publish(withPrimary(this.#state, id));
  }

  /** What a check learned of a node. Publishes only when something changed. */
  report(id: NodeId, report: Partial<NodeReport>): void {
    const node = this.#state.nodes[id];
    if (node === undefined) return;
    const entries = Object.entries(report) as [keyof NodeReport, unknown][];
    if (entries.every(([name, value]) => node[name] === value)) return;
    this.#publish(withNode(this.#state, id, report, this.#clock()));
  }

  /** New weights and new nodes of a reloaded file; a new node starts down (spec config-file.md 8). */
  reconfigure(backends: readonly BackendConfig[]): void {
    const now = this.#clock();
    const nodes = backends.map((backend): BackendNode => {
      const node = this.#state.nodes[backend.id];
      if (node !== undefined && node.status !== "unused") {
        return { ...node, weight: backend.weightFraction };
      }
      const fresh = initialNode(backend, now);
      return fresh.status === "unused" ? fresh : { ...fresh, status: "down" };
    });
    this.#publish({ ...this.#state, version: this.#state.version + 1, nodes });
    this.#record();
  }

  #setStatus(id: NodeId, status: NodeStatus): void {
    this.#publish(withNode(this.#state, id, { status }, this.#clock()));
    this.#record();
  }

  #publish(state: ClusterState): void {
    if (state === this.#state) return;
    this.#state = state;
    for (const subscriber of this.#subscribers) subscriber(state);
  }

  /** With every node down the file keeps the last useful state. */
  #record(): void {
    const { nodes } = this.#state;
    if (nodes.length > 0 && !nodes.some(isLive)) {
      const message = "All the DB nodes are in down status and skip writing status file.";
      this.#log.write("WARNING", message);
      return;
    }
    try {
      this.#store.write(formatStatusFile(nodes.map(recordedStatus)));
    } catch (error) {
      this.#log.write("WARNING", `could not write status file ${this.#store.path}`, {
        detail: error instanceof Error ? error.message : String(error),
      });
    }
  }
}

function initialNode(backend: BackendConfig, now: number): BackendNode {
  return {
    id: backend.id,
    hostname: backend.hostname,
    port: backend.port,
    status: backend.port === 0 ? "unused" : "waiting",
    serverRole: "unknown",
    weight: backend.weightFraction,
    delay: 0,
    delayByTime: false,
    replicationState: "",
    replicationSyncState: "",
    lastStatusChange: now,
  };
}

function recordedStatus(node: BackendNode): RecordedStatus {
  if (node.status === "unused") return "unused";
  return isLive(node) ? "up" : "down";
}
