/** What the pcp programs print with `--json`: the same facts, with types. */

import {
  healthColumns,
  type NodeRecord,
  type ProcessColumn,
  roleNames,
  statusName,
} from "../core/pcp/records.ts";
import type { PcpReply } from "../core/pcp/reply.ts";
import { type Manner, nodesOf, shownProcesses, watchdogOf } from "./pcp_text.ts";

export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [name: string]: Json };

export const nodeCountJson = ({ texts }: PcpReply): Json => ({ node_count: Number(texts[0]) });

/** `firstId` is the node asked for, or 0 when all were. */
export function nodeInfoJson(reply: PcpReply, { all }: Manner, firstId: number): Json {
  return nodesOf(reply)
    .map((node, at) => ({ node, id: firstId + at }))
    .filter(({ node }) => all || node.hostname !== "")
    .map(({ node, id }) => nodeJson(node, id));
}

function nodeJson(node: NodeRecord, id: number): Json {
  return {
    node_id: id,
    hostname: node.hostname,
    port: node.port,
    status: statusName(node),
    pg_status: node.pgStatus ?? null,
    lb_weight: Number(node.weight.toFixed(6)),
    role: roleNames[node.role] ?? null,
    pg_role: node.pgRole ?? null,
    replication_delay: node.delayByTime ? node.delay / 1_000_000 : node.delay,
    replication_delay_unit: node.delayByTime ? "seconds" : "bytes",
    replication_state: node.replicationState || null,
    replication_sync_state: node.replicationSyncState || null,
    last_status_change: isoTime(node.lastStatusChange),
  };
}

export const isoTime = (seconds: number): string => new Date(seconds * 1000).toISOString();

/** Columns that hold a text; times are as the server printed them. */
const healthTexts: readonly string[] = ["hostname", "status", "role"];

export function healthCheckJson({ texts }: PcpReply): Json {
  const entries = healthColumns.map((name, at): [string, Json] => {
    const value = texts[at] ?? "";
    const isTime = name.startsWith("last_");
    if (isTime) return [name, value === "" ? null : value];
    return [name, healthTexts.includes(name) ? value : Number(value)];
  });
  return Object.fromEntries(entries);
}

export const processCountJson = ({ texts }: PcpReply): Json => {
  const pids = texts.slice(1).map(Number);
  return { process_count: pids.length, pids };
};

const processNumbers: readonly ProcessColumn[] = [
  ...(["pool_pid", "client_connection_count", "pool_id", "backend_id", "majorversion"] as const),
  ...(["minorversion", "pool_counter", "pool_backendpid"] as const),
];
const processFlags: readonly ProcessColumn[] = ["pool_connected", "load_balance_node"];

export function processInfoJson(reply: PcpReply, manner: Manner): Json {
  return shownProcesses(reply, manner).map((row) =>
    Object.fromEntries(
      [...row].map(([name, value]): [string, Json] => {
        if (processNumbers.includes(name)) return [name, Number(value)];
        if (processFlags.includes(name)) return [name, value === "1"];
        return [name, value === "" ? null : value];
      }),
    ),
  );
}

export const poolStatusJson = ({ records }: PcpReply): Json =>
  records.map(([name = "", value = "", description = ""]) => ({ name, value, description }));

export function watchdogJson(reply: PcpReply): Json {
  return snakeCased(watchdogOf(reply));
}

/** Our own names in the style of all others. */
export function snakeCased(value: unknown): Json {
  if (Array.isArray(value)) return value.map(snakeCased);
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(
      Object.entries(value).map(([name, inner]) => [
        name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
        snakeCased(inner),
      ]),
    );
  }
  if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") {
    return value;
  }
  return null;
}
