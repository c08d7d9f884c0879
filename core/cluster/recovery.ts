/**
 * Online recovery, decided: whether a node may be recovered, from which one, and the SQL that does
 * it (spec wire/recovery.md sections 1 and 3, wire/pcp.md 4.12). proxy/cluster/recovery.ts carries
 * it out.
 */
import type { Config } from "../config/schema.ts";
import { PgpoolError } from "../errors.ts";
import { lsnOf } from "./lsn.ts";
import {
  type ClusterState,
  isLive,
  mainNode,
  type NodeId,
  replicates,
  settledWriteNode,
} from "./state.ts";

/** Why a recovery cannot be, or was not, carried out: as PCP tells it. */
export class RecoveryFailed extends PgpoolError {
  override readonly severity: "ERROR" | "FATAL";

  constructor(message: string, detail?: string, severity: "ERROR" | "FATAL" = "ERROR") {
    super(message, { detail });
    this.severity = severity;
  }
}

export type RecoveryPlan = {
  readonly node: NodeId;
  /** Where the scripts run, and whose data are copied. */
  readonly source: NodeId;
  /** The replication modes: writes must stop for a second stage, since nothing streams them. */
  readonly stopsClients: boolean;
};

/** Throws `RecoveryFailed` when this node may not be recovered now. */
export function planRecovery(state: ClusterState, node: NodeId): RecoveryPlan {
  const streams = state.mode === "streaming_replication";
  if (!streams && !replicates(state)) {
    throw refused(
      "recovery request is only allowed in replication and streaming replication modes.",
    );
  }
  const target = state.nodes[node];
  if (target === undefined) throw refused(`node id ${node} is not valid`);
  // While a primary is looked for, no standby is taken for it.
  const source = streams ? settledWriteNode(state) : mainNode(state);
  if (streams && (node === source || node === state.primary)) {
    throw refused("primary server cannot be recovered by online recovery.");
  }
  if (target.status === "unused") {
    throw new RecoveryFailed(`node recovery failed, node id: ${node} is unused`);
  }
  if (isLive(target)) throw new RecoveryFailed(`node recovery failed, node id: ${node} is alive`);
  if (source === undefined) {
    const detail = "there is no live node to recover from";
    throw new RecoveryFailed("process recovery request failed", detail);
  }
  return { node, source, stopsClients: replicates(state) };
}

const refused = (detail: string) => new RecoveryFailed("process recovery request failed", detail);

/** A command on the database host: a script in the source's data directory, and its arguments. */
export type HostCommand = {
  /** The function that runs it, as the extension and ours have it. */
  readonly functionName: "pgpool_recovery" | "pgpool_remote_start";
  readonly script: string;
  /** In order. Numbers are passed without quotes, as the function's signature wants. */
  readonly args: readonly (string | number)[];
  /** Whether the script's first argument is the source's own data directory. */
  readonly passesDataDirectory: boolean;
};

export function stageCommand(config: Config, plan: RecoveryPlan, script: string): HostCommand {
  const target = config.backends[plan.node];
  const source = config.backends[plan.source];
  return {
    functionName: "pgpool_recovery",
    script,
    args: [
      reachable(target?.hostname),
      target?.data_directory ?? "",
      String(source?.port ?? 0),
      plan.node,
      String(target?.port ?? 0),
      reachable(source?.hostname),
    ],
    passesDataDirectory: true,
  };
}

export function remoteStartCommand(config: Config, { node }: RecoveryPlan): HostCommand {
  const target = config.backends[node];
  return {
    functionName: "pgpool_remote_start",
    script: "pgpool_remote_start",
    args: [reachable(target?.hostname), target?.data_directory ?? ""],
    passesDataDirectory: false,
  };
}

/** A server that is reached by a socket of this machine is on the database host itself. */
function reachable(hostname = ""): string {
  return hostname === "" || hostname.startsWith("/") ? "localhost" : hostname;
}

/** The call of the function, of the extension or of `pgpool install-functions`. */
export function callSql({ functionName, script, args }: HostCommand): string {
  const own = functionName === "pgpool_recovery" ? [script] : [];
  const values = [...own, ...args].map((value) =>
    typeof value === "number" ? String(value) : literal(value),
  );
  return `SELECT ${functionName}(${values.join(", ")})`;
}

/** The same without any function, for a server that has none: what a superuser may always do. */
export function programSql(command: HostCommand, dataDirectory: string): string {
  const own = command.passesDataDirectory ? [dataDirectory] : [];
  const words = [`${dataDirectory}/${command.script}`, ...own, ...command.args.map(String)];
  return `COPY (SELECT 1 WHERE false) TO PROGRAM ${literal(words.map(shellWord).join(" "))}`;
}

/** With standard_conforming_strings, which our own connections have. */
const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;

const shellWord = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** What a server says of its own history; see `historySql`. */
export type History = {
  readonly inRecovery: boolean;
  /** The same for all that began as copies of one server. */
  readonly system: string;
  /** The rest is undefined while it is in recovery. Eight hexadecimal digits. */
  readonly timeline: string | undefined;
  /** Bytes: where its next record of WAL goes. */
  readonly lsn: bigint | undefined;
  /** The history file of its timeline, empty for the first (manual: "Timelines"). */
  readonly branches: string;
};

/** A superuser's question; the columns are those of `History`. */
export const historySql = `SELECT r.standby, (pg_control_system()).system_identifier, w.timeline, w.lsn,
    pg_read_file('pg_wal/' || w.timeline || '.history', 0, 1000000, true)
  FROM (SELECT pg_is_in_recovery() AS standby) r
  LEFT JOIN LATERAL (
    SELECT p.lsn, substr(pg_walfile_name(p.lsn), 1, 8) AS timeline
    FROM (SELECT pg_current_wal_insert_lsn() AS lsn WHERE NOT r.standby) p
  ) w ON true`;

/**
 * How many bytes of WAL a copy, which has become a server of its own, lacks of what `source` had at
 * that moment; 0 when it has all of it. Undefined when positions say nothing: it is no copy of its
 * files, or not of this part of its history.
 */
export function bytesLacking(source: History, copy: History): bigint | undefined {
  if (source.system !== copy.system || source.lsn === undefined) return undefined;
  const has = copy.timeline === source.timeline ? copy.lsn : branchedAt(copy.branches, source);
  if (has === undefined) return undefined;
  return has < source.lsn ? source.lsn - has : 0n;
}

/** Lines of timeline, position and reason: where a successor of the source's timeline began. */
function branchedAt(branches: string, { timeline }: History): bigint | undefined {
  const from = Number.parseInt(timeline ?? "", 16);
  for (const line of branches.split("\n")) {
    const [, id, position] = /^\s*(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/i.exec(line) ?? [];
    if (Number(id) === from) return lsnOf(position);
  }
  return undefined;
}
