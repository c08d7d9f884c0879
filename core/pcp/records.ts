/**
 * Records of nodes and processes, whose fields differ from release to release. There is no exchange
 * of versions: a reader tells them apart by their number (spec wire/pcp.md sections 4.4, 4.6, 7).
 */

import { PcpError } from "./frame.ts";

export type NodeRecord = {
  readonly hostname: string;
  readonly port: number;
  /** 0 unused, 1 waiting, 2 up, 3 down. */
  readonly status: number;
  readonly quarantine: boolean;
  /** What the server itself answered just now: `up`, `down`, `unknown`. Since 4.3. */
  readonly pgStatus: string | undefined;
  /** Fraction of all weights. */
  readonly weight: number;
  /** 0 main, 1 replica, 2 primary, 3 standby. */
  readonly role: number;
  readonly pgRole: string | undefined;
  /** The delay is in microseconds, not bytes. */
  readonly delayByTime: boolean;
  readonly delay: number;
  /** Undefined before 4.1. */
  readonly replicationState: string | undefined;
  readonly replicationSyncState: string | undefined;
  /** Seconds since the epoch. */
  readonly lastStatusChange: number;
};

export const statusNames = ["unused", "waiting", "up", "down"] as const;
export const roleNames = ["main", "replica", "primary", "standby"] as const;

/** `quarantine` is told from `down` by a field of its own. */
export const statusName = ({ status, quarantine }: NodeRecord): string =>
  status === 3 && quarantine ? "quarantine" : (statusNames[status] ?? "unknown");

/**
 * `4.3` is what 4.3.1 to 4.3.x (Debian) read, `4.4` what later ones do: they differ in the middle,
 * so that one server cannot serve both.
 */
export type NodeLayout = "4.3" | "4.4";

type Column = keyof NodeRecord;

const columns43 = [
  ...([
    "hostname",
    "port",
    "status",
    "quarantine",
    "pgStatus",
    "weight",
    "role",
    "pgRole",
  ] as const),
  ...(["delay", "replicationState", "replicationSyncState", "lastStatusChange"] as const),
] satisfies Column[];
const columns44 = columns43.toSpliced(columns43.indexOf("delay"), 0, "delayByTime" as "delay");

/** Clients of 4.3 read twelve fields and ignore the rest, where ours finds the unit of the delay. */
const EXTENSION = "pgpool";

const layouts: { readonly [count: number]: readonly Column[] } = {
  9: columns43.filter((name) => !["quarantine", "pgStatus", "pgRole"].includes(name)),
  10: columns43.filter((name) => !["pgStatus", "pgRole"].includes(name)),
  11: columns43.filter((name) => name !== "quarantine"),
  12: columns43,
  13: columns44,
  14: [...columns43, "delayByTime"],
};

/** Weights go over the wire as parts of this. */
const WEIGHT_UNIT = 2_147_483_647;

export function encodeNodeRecord(node: NodeRecord, layout: NodeLayout): readonly string[] {
  const text = (name: Column): string => {
    const value = node[name];
    if (name === "weight") return (node.weight * WEIGHT_UNIT).toFixed(6);
    return typeof value === "boolean" ? String(Number(value)) : String(value ?? "");
  };
  if (layout === "4.4") return columns44.map(text);
  return [...columns43.map(text), text("delayByTime"), EXTENSION];
}

/** @throws PcpError for a number of fields that no release sends */
export function decodeNodeRecord(fields: readonly string[]): NodeRecord {
  const columns = layouts[fields.length];
  if (columns === undefined) {
    const detail = `a node of ${fields.length} fields`;
    throw new PcpError("invalid response from PCP server", { detail });
  }
  const text = (name: Column): string | undefined => {
    const at = columns.indexOf(name);
    return at < 0 ? undefined : fields[at];
  };
  const number = (name: Column): number => Number.parseFloat(text(name) ?? "") || 0;
  return {
    hostname: text("hostname") ?? "",
    port: number("port"),
    status: number("status"),
    quarantine: text("quarantine") === "1",
    pgStatus: text("pgStatus"),
    weight: number("weight") / WEIGHT_UNIT,
    role: number("role"),
    pgRole: text("pgRole"),
    delayByTime: text("delayByTime") === "1",
    delay: number("delay"),
    replicationState: text("replicationState"),
    replicationSyncState: text("replicationSyncState"),
    lastStatusChange: number("lastStatusChange"),
  };
}

/** The names of 4.7's columns, which are those of SHOW pool_pools. */
export const processColumns = [
  ...(["pool_pid", "start_time", "client_connection_count", "pool_id", "backend_id"] as const),
  ...(["database", "username", "backend_connection_time", "client_connection_time"] as const),
  ...(["client_disconnection_time", "client_idle_duration", "majorversion"] as const),
  ...(["minorversion", "pool_counter", "pool_backendpid", "pool_connected", "status"] as const),
  ...(["load_balance_node", "client_host", "client_port", "statement"] as const),
] as const;

const oldProcessColumns = [
  ...(["pool_pid", "database", "username", "start_time", "create_time"] as const),
  ...(["majorversion", "minorversion", "pool_counter", "backend_id"] as const),
  ...(["pool_backendpid", "pool_connected"] as const),
] as const;

export type ProcessColumn = (typeof processColumns)[number] | (typeof oldProcessColumns)[number];
/** All texts, as the server printed them; columns that its release does not have are missing. */
export type ProcessRecord = ReadonlyMap<ProcessColumn, string>;

/** @throws PcpError for fewer fields than any release sends */
export function decodeProcessRecord(fields: readonly string[]): ProcessRecord {
  if (fields.length < oldProcessColumns.length) {
    const detail = `a process of ${fields.length} fields`;
    throw new PcpError("invalid response from PCP server", { detail });
  }
  const columns: readonly ProcessColumn[] =
    fields.length < 17 ? oldProcessColumns : processColumns.slice(0, fields.length);
  return new Map(columns.map((name, at) => [name, fields[at] ?? ""]));
}

/** Of SHOW pool_health_check_stats, whose row a health check's answer is. */
export const healthColumns = [
  ...(["node_id", "hostname", "port", "status", "role", "last_status_change"] as const),
  ...(["total_count", "success_count", "fail_count", "skip_count", "retry_count"] as const),
  ...(["average_retry_count", "max_retry_count", "max_duration", "min_duration"] as const),
  ...(["average_duration", "last_health_check", "last_successful_health_check"] as const),
  ...(["last_skip_health_check", "last_failed_health_check"] as const),
] as const;
