/**
 * What SHOW and PGPOOL SHOW are answered from: plain values, taken at one moment. Functions stand
 * where gathering costs something and only one command wants it.
 */

import type { ClusterState, NodeId } from "../cluster/state.ts";
import type { Config } from "../config/schema.ts";

export type AdminView = {
  /** As this session sees it. */
  readonly config: Config;
  /** Without the session's own settings: what RESET goes back to. */
  readonly base: Config;
  readonly cluster: ClusterState;
  /** Of this session; undefined while it has none. */
  readonly loadBalanceNode: NodeId | undefined;
  /** Number and code name, as SHOW pool_version prints them. */
  readonly version: string;
  /** When this server was started: milliseconds since the epoch. */
  readonly startedAt: number;
  readonly node: (id: NodeId) => NodeView;
  /** One for each client place, in their order. */
  readonly processes: () => readonly ProcessView[];
  /** Undefined while the query cache is off. */
  readonly cache: () => CacheView | undefined;
  /** Forgets the result of a statement of this user and database; false when there was none. */
  readonly deleteCached: (query: string) => boolean;
};

/** Counted since the start, over all sessions. */
export type NodeCountersView = {
  readonly select: number;
  readonly insert: number;
  readonly update: number;
  readonly delete: number;
  readonly ddl: number;
  readonly other: number;
  readonly panic: number;
  readonly fatal: number;
  readonly error: number;
};

export type NodeView = {
  readonly counters: NodeCountersView;
  /** Statements sent to it since the start, by the place of their reason in `routeReasons`. */
  readonly reasons: { readonly [index: number]: number };
  /** Whether the server answers by itself; unknown while nothing asks it. */
  readonly pgStatus: "up" | "down" | "unknown";
  /** Undefined while the node is not checked. */
  readonly healthCheck: HealthCheckView | undefined;
};

/** Times are milliseconds since the epoch, undefined until they happen; durations milliseconds. */
export type HealthCheckView = {
  readonly total: number;
  readonly success: number;
  readonly fail: number;
  readonly skip: number;
  readonly retry: number;
  readonly maxRetry: number;
  readonly totalDurationMs: number;
  readonly maxDurationMs: number;
  readonly minDurationMs: number;
  readonly lastCheck: number | undefined;
  readonly lastSuccess: number | undefined;
  readonly lastSkip: number | undefined;
  readonly lastFail: number | undefined;
};

/** A client place, which is a child process upstream. */
export type ProcessView = {
  /** 0 for a place that dynamic process management has given up. */
  readonly pid: number;
  readonly startedAt: number;
  readonly clientCount: number;
  /** `Wait for connection`, `Execute command`, `Idle`, `Idle in transaction`, `Connecting`. */
  readonly status: string;
  /** Undefined unless the place is idle, has served a client and has a life time. */
  readonly secondsToRestart: number | undefined;
  /** Its cached connections by pool id; the one its client uses, if any, is `connected`. */
  readonly pools: readonly (PoolView | undefined)[];
};

/** One cached set of backend connections. Times are milliseconds since the epoch. */
export type PoolView = {
  readonly database: string;
  readonly user: string;
  readonly openedAt: number;
  readonly clientConnectedAt: number | undefined;
  readonly clientDisconnectedAt: number | undefined;
  readonly clientIdleSeconds: number;
  /** With client_idle_limit, while a client is connected. */
  readonly secondsToDisconnect: number | undefined;
  readonly majorVersion: number;
  readonly minorVersion: number;
  /** Sessions that used it. */
  readonly useCount: number;
  readonly connected: boolean;
  readonly loadBalanceNode: NodeId | undefined;
  readonly clientHost: string;
  readonly clientPort: string;
  /** By node id; undefined where there is no connection. */
  readonly backends: readonly (PooledBackendView | undefined)[];
};

export type PooledBackendView = {
  readonly pid: number;
  /** The last statement sent to it. */
  readonly statement: string;
};

export type CacheView = {
  readonly hits: number;
  readonly selects: number;
  readonly hashEntries: number;
  readonly usedHashEntries: number;
  readonly entries: number;
  /** Bytes. */
  readonly usedSize: number;
  readonly freeSize: number;
  readonly fragmentSize: number;
  /** Results counted since the start: kept; given up for others, for their age, and by cause. */
  readonly added: number;
  readonly evicted: number;
  readonly expired: number;
  readonly forgotten: { readonly [cause: string]: number };
};
