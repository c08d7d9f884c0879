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
/** What Pgpool's messages and PCP call them; quarantine is `down` with a flag. */
export const STATUS_NUMBERS: { readonly [S in NodeStatus]: number } = {
  unused: 0,
  waiting: 1,
  up: 2,
  down: 3,
  quarantine: 3,
};
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
  /** It is down because somebody wants it so: what its server is doing for a client may be finished. */
  readonly isRetired?: boolean;
  /** Milliseconds since the epoch. */
  readonly lastStatusChange: number;
};

/** What the control plane is carrying out. The words are those of PCP's refusals. */
export type Ongoing = "failover" | "failback" | "promote node operation";

export type ClusterState = {
  readonly version: number;
  readonly mode: ClusteringMode;
  readonly nodes: readonly BackendNode[];
  /** Undefined while no primary is known, and always in raw mode. */
  readonly primary: NodeId | undefined;
  /** Undefined while nothing is being carried out; a session without a primary may wait for its end. */
  readonly ongoing?: Ongoing | undefined;
  /** The primary that was lost, until there is another one or nobody looks for it any more. */
  readonly lostPrimary?: NodeId | undefined;
  /** The primary that was quarantined: it has its role back when its quarantine ends. */
  readonly quarantinedPrimary?: NodeId | undefined;
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

/** The modes in which one server is asked for, and found, to be the primary. */
export const hasPrimary = ({ mode }: ClusterState): boolean =>
  mode === "streaming_replication" || mode === "logical_replication";

/** The modes in which every live node gets every write from us, and nothing else keeps them the same. */
export const replicates = ({ mode }: Pick<ClusterState, "mode">): boolean =>
  mode === "native_replication" || mode === "snapshot_isolation";

/**
 * Where writes go, but undefined while a failover is still to say who takes the place of the primary
 * that is gone: a standby of the lowest id is no answer then.
 */
export function settledWriteNode(state: ClusterState): NodeId | undefined {
  const node = writeNode(state);
  if (!hasPrimary(state) || node === state.primary) return node;
  return state.ongoing === undefined && state.lostPrimary === undefined ? node : undefined;
}

/** What SHOW pool_nodes prints as `role`. */
export function roleOf(state: ClusterState, id: NodeId): NodeRole {
  const streams = hasPrimary(state);
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
  if (state.primary === primary) return state;
  const lostPrimary = primary === undefined ? (state.primary ?? state.lostPrimary) : undefined;
  return { ...state, version: state.version + 1, primary, lostPrimary };
}

/** What became of the nodes from one snapshot to a later one. */
export type ClusterChange = {
  /** Sessions can use them no longer. */
  readonly lost: readonly NodeId[];
  /** Sessions may use them from now on. */
  readonly joined: readonly NodeId[];
  /** Undefined while the primary is who it was. */
  readonly primary?: { readonly from: NodeId | undefined; readonly to: NodeId | undefined };
};

export function changeOf(before: ClusterState, after: ClusterState): ClusterChange {
  const liveIn = (state: ClusterState, id: NodeId) => {
    const node = state.nodes[id];
    return node !== undefined && isLive(node);
  };
  const ids = (after.nodes.length > before.nodes.length ? after : before).nodes.map(({ id }) => id);
  const lost = ids.filter((id) => liveIn(before, id) && !liveIn(after, id));
  const joined = ids.filter((id) => !liveIn(before, id) && liveIn(after, id));
  if (before.primary === after.primary) return { lost, joined };
  return { lost, joined, primary: { from: before.primary, to: after.primary } };
}
