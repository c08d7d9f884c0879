/**
 * One screen's worth of a running pgpool, made of what any PCP server tells: nodes, sessions, pooled
 * connections; and of what only ours does: its own life and the last events.
 */

import { type NodeRecord, type ProcessRecord, roleNames, statusName } from "./records.ts";

export type Overview = {
  /** Undefined when the server is not one of ours. */
  readonly server:
    | { readonly version: string; readonly startedAt: number; readonly mode: string }
    | undefined;
  readonly nodes: readonly OverviewNode[];
  readonly sessions: {
    /** Places for clients: num_init_children. */
    readonly places: number;
    readonly busy: number;
    /** Busy ones by what they do, such as `Idle in transaction`. */
    readonly byActivity: readonly { readonly activity: string; readonly count: number }[];
    readonly byOwner: readonly {
      readonly database: string;
      readonly user: string;
      readonly count: number;
    }[];
  };
  /** Sets of connections to the nodes. */
  readonly pool: { readonly places: number; readonly used: number; readonly inUse: number };
  /** Undefined while it is off, and of servers that are not ours. */
  readonly cache: OverviewCache | undefined;
  /** Oldest first; empty when the server keeps none. */
  readonly events: readonly OverviewEvent[];
};

export type OverviewNode = {
  readonly id: number;
  readonly hostname: string;
  readonly port: number;
  readonly status: string;
  readonly pgStatus: string;
  readonly role: string;
  readonly pgRole: string;
  readonly weight: number;
  /** Bytes, or microseconds when `delayByTime`. */
  readonly delay: number;
  readonly delayByTime: boolean;
  readonly replicationState: string;
  readonly replicationSyncState: string;
  /** Seconds since the epoch. */
  readonly lastStatusChange: number;
  readonly pooledConnections: number;
  readonly connectionsInUse: number;
};

/** Where the node of an event would stand. */
export const CACHE_MARK = "cache";

/** Of the query cache; all counted since the start but `entries` and `bytes`. */
export type OverviewCache = {
  readonly hits: number;
  readonly misses: number;
  readonly entries: number;
  readonly bytes: number;
  readonly evicted: number;
  readonly expired: number;
  /** By cause. */
  readonly forgotten: { readonly [cause: string]: number };
};

/** Seconds since the epoch, the node it is of, and a sentence. */
export type OverviewEvent = {
  readonly at: number;
  readonly node: number | undefined;
  readonly text: string;
};

/** `own` are the texts that our own server answers to a status request. */
export function overviewOf(
  nodes: readonly NodeRecord[],
  processes: readonly ProcessRecord[],
  own: readonly string[] | undefined,
): Overview {
  const places = new Set(processes.map((row) => row.get("pool_pid")));
  const sets = new Map(processes.map((row) => [setOf(row), row]));
  const used = [...sets.values()].filter(isUsed);
  const [version = "", startedAt = "", mode = "", ...events] = own ?? [];
  return {
    server: own && { version, startedAt: Number(startedAt), mode },
    nodes: nodes.map((node, id) => overviewNode(node, id, processes)),
    sessions: { places: places.size, ...sessionsOf(processes) },
    pool: { places: sets.size, used: used.length, inUse: used.filter(isConnected).length },
    cache: cacheOf(events),
    events: eventsOf(events),
  };
}

/** The records of one set, one for each node, have these in common. */
const setOf = (row: ProcessRecord): string => `${row.get("pool_pid")} ${row.get("pool_id")}`;
const isUsed = (row: ProcessRecord): boolean => row.get("database") !== "";
const isConnected = (row: ProcessRecord): boolean => row.get("pool_connected") === "1";

function overviewNode(
  node: NodeRecord,
  id: number,
  processes: readonly ProcessRecord[],
): OverviewNode {
  const own = processes.filter(
    (row) =>
      isUsed(row) && row.get("backend_id") === String(id) && row.get("pool_backendpid") !== "0",
  );
  const { hostname, port, weight, delay, delayByTime, lastStatusChange } = node;
  return {
    id,
    hostname,
    port,
    status: statusName(node),
    pgStatus: node.pgStatus ?? "unknown",
    role: roleNames[node.role] ?? "unknown",
    pgRole: node.pgRole ?? "unknown",
    weight,
    delay,
    delayByTime,
    replicationState: node.replicationState ?? "",
    replicationSyncState: node.replicationSyncState ?? "",
    lastStatusChange,
    pooledConnections: own.length,
    connectionsInUse: own.filter(isConnected).length,
  };
}

function sessionsOf(processes: readonly ProcessRecord[]) {
  const byPid = new Map<string, ProcessRecord>();
  for (const row of processes) {
    const pid = row.get("pool_pid") ?? "";
    const status = row.get("status");
    const busy = status === undefined ? isConnected(row) : status !== "Wait for connection";
    // The set that the client uses says whose session it is.
    if (busy && (!byPid.has(pid) || isConnected(row))) byPid.set(pid, row);
  }
  const rows = [...byPid.values()];
  const activities = rows.map((row) => row.get("status") ?? "connected");
  const owners = rows
    .filter(isConnected)
    .map((row) => JSON.stringify([row.get("database"), row.get("username")]));
  return {
    busy: rows.length,
    byActivity: [...countEach(activities)].map(([activity, count]) => ({ activity, count })),
    byOwner: [...countEach(owners)]
      .map(([key, count]) => {
        const [database = "", user = ""] = JSON.parse(key) as string[];
        return { database, user, count };
      })
      .sort((a, b) => b.count - a.count),
  };
}

function countEach(values: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function cacheOf(texts: readonly string[]): OverviewCache | undefined {
  const at = texts.indexOf(CACHE_MARK);
  if (at % 3 !== 1) return undefined;
  const found = JSON.parse(texts[at + 1] ?? "{}") as { readonly [name: string]: unknown };
  const number = (name: string) => Number(found[name] ?? 0);
  const { forgotten: causes } = found;
  const forgotten = Object.entries(Object(causes) as object);
  return {
    hits: number("hits"),
    misses: number("selects"),
    entries: number("entries"),
    bytes: number("usedSize"),
    evicted: number("evicted"),
    expired: number("expired"),
    forgotten: Object.fromEntries(forgotten.map(([cause, count]) => [cause, Number(count)])),
  };
}

function eventsOf(texts: readonly string[]): readonly OverviewEvent[] {
  const events: OverviewEvent[] = [];
  for (let at = 0; at + 2 < texts.length; at += 3) {
    const [time = "", node = "", text = ""] = texts.slice(at, at + 3);
    if (node === CACHE_MARK) continue;
    events.push({ at: Number(time), node: node === "" ? undefined : Number(node), text });
  }
  return events;
}
