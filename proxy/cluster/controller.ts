/**
 * Owner of the live `ClusterState`: applies what probes and sessions report, publishes each new
 * snapshot to whoever subscribed, and keeps pgpool_status (spec wire/failover.md, wire/files.md 6).
 */

import type { FailoverEffect } from "../../core/cluster/failover.ts";
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

/** The `change` of a FailoverEffect. What is not named stays. */
export type StateChange = Omit<Extract<FailoverEffect, { readonly kind: "change" }>, "kind">;

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
  #isUnwritten = false;

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
      this.#attempt("remove", () => this.#store.remove());
      this.#log.write("LOG", `Backend status file ${path} discarded`);
      this.record();
      return;
    }
    const content = this.#attempt("read", () => this.#store.read() ?? "missing");
    if (content === "missing") {
      this.#log.write("LOG", `Backend status file ${path} does not exist`);
    } else if (content !== undefined) {
      const file = parseStatusFile(content, this.#state.nodes.length);
      if (file.invalidLines > 0) {
        this.#log.write("WARNING", "invalid data in status file, ignoring...");
      }
      for (const [id, status] of file.statuses?.entries() ?? [])
        this.#recallNode(nodeId(id), status);
    }
    this.record();
  }

  /**
   * A file that cannot be read, removed or written keeps nobody from serving; said once for each
   * reason. Undefined when it did not work.
   */
  #attempt<T>(verb: string, deed: () => T): T | undefined {
    try {
      return deed();
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      const message = `could not ${verb} status file ${this.#store.path}`;
      if (this.#complaint !== detail) this.#log.write("WARNING", message, { detail });
      this.#complaint = detail;
      return undefined;
    }
  }
  #complaint: string | undefined;

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

  /** Several changes at once, as one snapshot: the effect of a transition. */
  change({ statuses, byOperator, primary, quarantinedPrimary, ongoing }: StateChange): void {
    const now = this.#clock();
    let nodes = this.#state.nodes;
    for (const [id, status] of statuses ?? []) {
      // What the servers said of a node before it left says nothing of it any more.
      const change = { status, isRetired: byOperator === true, ...FORGOTTEN };
      nodes = withNode({ ...this.#state, nodes }, id, change, now).nodes;
    }
    const led = primary === undefined ? this.#state : withPrimary(this.#state, primary.is);
    this.#publish({
      ...led,
      version: this.#state.version + 1,
      nodes,
      quarantinedPrimary:
        quarantinedPrimary === undefined ? this.#state.quarantinedPrimary : quarantinedPrimary.is,
      ongoing: ongoing === undefined ? this.#state.ongoing : ongoing.is,
    });
  }

  /** Nobody looks for a successor of the lost primary any more: the main node has to do. */
  forgetLostPrimary(): void {
    if (this.#state.lostPrimary === undefined) return;
    const version = this.#state.version + 1;
    this.#publish({ ...this.#state, version, lostPrimary: undefined });
  }

  setPrimary(id: NodeId | undefined): void {
    this.#publish(withPrimary(this.#state, id));
  }

  /** What a check learned of a node. Publishes only when something changed. */
  report(id: NodeId, report: Partial<NodeReport>): void {
    // A restart must not forget who was down: what could not be written is written when it can be.
    if (this.#isUnwritten) this.record();
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
    this.record();
  }

  #setStatus(id: NodeId, status: NodeStatus): void {
    this.#publish(withNode(this.#state, id, { status }, this.#clock()));
    this.record();
  }

  #publish(state: ClusterState): void {
    if (state === this.#state) return;
    this.#state = state;
    for (const subscriber of this.#subscribers) subscriber(state);
  }

  /** Writes pgpool_status. With every node down the file keeps the last useful state. */
  record(): void {
    const { nodes } = this.#state;
    if (nodes.length > 0 && !nodes.some(isLive)) {
      const message = "All the DB nodes are in down status and skip writing status file.";
      this.#log.write("WARNING", message);
      return;
    }
    const text = formatStatusFile(nodes.map(recordedStatus));
    const written = this.#attempt("write", () => {
      this.#store.write(text);
      return true;
    });
    this.#isUnwritten = written !== true;
    if (written) this.#complaint = undefined;
  }
}

const FORGOTTEN = {
  serverRole: "unknown",
  replicationState: "",
  replicationSyncState: "",
  delay: 0,
} as const;

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
