/**
 * The cluster as one immutable value. The controller publishes a new snapshot with a higher
 * version for every change; sessions keep the one they were given and take one per decision.
 */

declare const nodeIdBrand: unique symbol;
/** Index of a backend in pgpool.conf (`backend_hostname0` is node 0). */
export type NodeId = number & { readonly [nodeIdBrand]: true };
export const nodeId = (id: number): NodeId => id as NodeId;

/** Printed by SHOW pool_nodes; the numbers 0, 1, 2, 3 are Pgpool's status codes. */
export type NodeStatus = "unused" | "waiting" | "up" | "down" | "quarantine";
export type NodeRole = "primary" | "standby" | "main" | "replica";

export type ClusteringMode =
  | "raw"
  | "streaming_replication"
  | "logical_replication"
  | "native_replication"
  | "snapshot_isolation"
  | "slony";

export type BackendNode = {
  readonly id: NodeId;
  readonly hostname: string;
  readonly port: number;
  readonly status: NodeStatus;
  /** What the server last said of itself by pg_is_in_recovery(). */
  readonly serverRole: "primary" | "standby" | "unknown";
  /** `backend_weightN` as a fraction of the sum of all configured weights. */
  readonly weight: number;
  /** Replication delay in bytes, or in microseconds when `delayByTime`. 0 for the primary. */
  readonly delay: number;
  readonly delayByTime: boolean;
  readonly replicationState: string;
  readonly replicationSyncState: string;
  /** Milliseconds since the epoch. */
  readonly lastStatusChange: number;
};

export type ClusterState = {
  readonly version: number;
  readonly mode: ClusteringMode;
  readonly nodes: readonly BackendNode[];
  /** Undefined while no primary is known, and always in raw mode. */
  readonly primary: NodeId | undefined;
};

/** Up or waiting: sessions connect to it. */
export const isLive = (node: BackendNode): boolean =>
  node.status === "up" || node.status === "waiting";

/** The live node of the lowest id; undefined when every node is down. */
export function mainNode(state: ClusterState): NodeId | undefined {
  return state.nodes.find(isLive)?.id;
}

/** Where writes go: the primary if known and live, else the main node (spec load-balance.md 1). */
export function writeNode(state: ClusterState): NodeId | undefined {
  const primary = state.primary;
  if (primary !== undefined) {
    const node = state.nodes[primary];
    if (node !== undefined && isLive(node)) return primary;
  }
  return mainNode(state);
}

/** What SHOW pool_nodes prints as `role`. */
export function roleOf(state: ClusterState, id: NodeId): NodeRole {
  const streams = state.mode === "streaming_replication" || state.mode === "logical_replication";
  const chief = streams ? state.primary : mainNode(state);
  if (streams) return chief === id ? "primary" : "standby";
  return chief === id ? "main" : "replica";
}

/** The same cluster with one node changed; a change of status is dated. */
export function withNode(
  state: ClusterState,
  id: NodeId,
  change: Partial<Omit<BackendNode, "id" | "lastStatusChange">>,
  now: number,
): ClusterState {
  const nodes = state.nodes.map((node) => {
    if (node.id !== id) return node;
    const changed = change.status !== undefined && change.status !== node.status;
    return { ...node, ...change, lastStatusChange: changed ? now : node.lastStatusChange };
  });
  return { ...state, version: state.version + 1, nodes };
}

export function withPrimary(state: ClusterState, primary: NodeId | undefined): ClusterState {
  return state.primary === primary ? state : { ...state, version: state.version + 1, primary };
}
