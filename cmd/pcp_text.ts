/** What the pcp_* programs print (spec config/commands.md section 4, wire/pcp.md section 6). */

import { PcpError } from "../core/pcp/frame.ts";
import {
  decodeNodeRecord,
  decodeProcessRecord,
  healthColumns,
  type NodeRecord,
  type ProcessColumn,
  type ProcessRecord,
  roleNames,
  statusName,
} from "../core/pcp/records.ts";
import type { PcpReply } from "../core/pcp/reply.ts";
import { decodeWatchdogInfo, type WatchdogInfo } from "../core/pcp/watchdog_info.ts";
import { formatTime } from "../core/time.ts";

export type Manner = { readonly verbose: boolean; readonly all: boolean };

/** A title and a value, of which one form prints both and the other the value. */
type Field = readonly [title: string, value: string];

/** Titles aligned, and an empty line after each record. */
function verboseRecord(fields: readonly Field[]): string {
  const width = Math.max(...fields.map(([title]) => title.length));
  const lines = fields.map(([title, value]) => `${title.padEnd(width)} : ${value}\n`);
  return `${lines.join("")}\n`;
}

const plainRecord = (fields: readonly Field[]): string =>
  `${fields.map(([, value]) => value).join(" ")}\n`;

const record = (fields: readonly Field[], { verbose }: Manner): string =>
  verbose ? verboseRecord(fields) : plainRecord(fields);

// --- nodes -----------------------------------------------------------------------------------

export function nodeCountText({ texts }: PcpReply, { verbose }: Manner): string {
  const count = texts[0] ?? "";
  return verbose ? `Node Count\n____________\n ${count}\n` : `${count}\n`;
}

/** A server before 4.3 answers one node in the frame that ends the answer. */
export const nodesOf = ({ texts, records }: PcpReply): readonly NodeRecord[] =>
  (texts.length > 0 ? [texts] : records).map(decodeNodeRecord);

/** Slots without a host name show with `-a` only. */
export function shownNodes(reply: PcpReply, { all }: Manner): readonly NodeRecord[] {
  return nodesOf(reply).filter((node) => all || node.hostname !== "");
}

export function nodeInfoText(reply: PcpReply, manner: Manner): string {
  const nodes = shownNodes(reply, manner);
  if (nodes.length === 0) return "No node information available\n\n";
  return nodes.map((node) => record(nodeFields(node, manner), manner)).join("");
}

function nodeFields(node: NodeRecord, { verbose }: Manner): readonly Field[] {
  // What the server itself says is known since 4.3, which also began to write `none`.
  const { pgStatus, pgRole } = node;
  const orNone = (state: string | undefined) => (pgRole !== undefined && !state ? "none" : state);
  const fields: (readonly [string, string | undefined])[] = [
    ["Hostname", node.hostname],
    ["Port", String(node.port)],
    ["Status", String(node.status)],
    ["Weight", node.weight.toFixed(6)],
    ["Status Name", statusName(node)],
    ["Backend Status Name", pgStatus],
    ["Role", roleNames[node.role] ?? "unknown"],
    ["Backend Role", pgRole],
    ["Replication Delay", delayText(node, verbose)],
    ["Replication State", orNone(node.replicationState)],
    ["Replication Sync State", orNone(node.replicationSyncState)],
    ["Last Status Change", formatTime(node.lastStatusChange * 1000)],
  ];
  return fields.flatMap(([title, value]) => (value === undefined ? [] : [[title, value]]));
}

function delayText({ delay, delayByTime }: NodeRecord, verbose: boolean): string {
  if (!delayByTime) return String(delay);
  const seconds = delay / 1_000_000;
  const unit = seconds < 2 ? " second" : " seconds";
  return seconds.toFixed(6) + (verbose ? unit : "");
}

const healthTitles: { readonly [N in (typeof healthColumns)[number]]: string } = {
  node_id: "Node Id",
  hostname: "Host Name",
  port: "Port",
  status: "Status",
  role: "Role",
  last_status_change: "Last Status Change",
  total_count: "Total Count",
  success_count: "Success Count",
  fail_count: "Fail Count",
  skip_count: "Skip Count",
  retry_count: "Retry Count",
  average_retry_count: "Average Retry Count",
  max_retry_count: "Max Retry Count",
  max_duration: "Max Health Check Duration",
  min_duration: "Minimum Health Check Duration",
  average_duration: "Average Health Check Duration",
  last_health_check: "Last Health Check",
  last_successful_health_check: "Last Successful Health Check",
  last_skip_health_check: "Last Skip Health Check",
  last_failed_health_check: "Last Failed Health Check",
};

export const healthCheckText = ({ texts }: PcpReply, manner: Manner): string =>
  record(
    healthColumns.map((name, at) => [healthTitles[name], texts[at] ?? ""]),
    manner,
  );

// --- processes -------------------------------------------------------------------------------

export function processCountText({ texts }: PcpReply, { verbose }: Manner): string {
  const [, ...pids] = texts;
  if (!verbose) return `${pids.map((pid) => `${pid} `).join("")}\n`;
  const rows = pids.map((pid, at) => `${at} \t | \t ${pid}\n`).join("");
  return `No \t | \t PID\n${"_".repeat(21)}\n${rows}\nTotal Processes:${pids.length}\n`;
}

/** In the order in which they are printed, which is not that of the wire. */
const processTitles: readonly (readonly [ProcessColumn, string])[] = [
  ["database", "Database"],
  ["username", "Username"],
  ["start_time", "Start time"],
  ["create_time", "Creation time"],
  ["client_connection_count", "Client connection count"],
  ["majorversion", "Major"],
  ["minorversion", "Minor"],
  ["backend_connection_time", "Backend connection time"],
  ["client_connection_time", "Client connection time"],
  ["client_idle_duration", "Client idle duration"],
  ["client_disconnection_time", "Client disconnection time"],
  ["pool_counter", "Pool Counter"],
  ["pool_backendpid", "Backend PID"],
  ["pool_connected", "Connected"],
  ["pool_pid", "PID"],
  ["backend_id", "Backend ID"],
  ["status", "Status"],
  ["load_balance_node", "Load balance node"],
  ["client_host", "client_host"],
  ["client_port", "client_port"],
  ["statement", "statement"],
];

/** Places that hold no connection show with `-a` only, those without a process never. */
export function shownProcesses({ records }: PcpReply, { all }: Manner): readonly ProcessRecord[] {
  return records
    .map(decodeProcessRecord)
    .filter((row) => row.get("pool_pid") !== "" && (all || row.get("database") !== ""));
}

export function processInfoText(reply: PcpReply, manner: Manner): string {
  const rows = shownProcesses(reply, manner);
  if (rows.length === 0) return "No process information available\n\n";
  return rows.map((row) => record(processFields(row), manner)).join("");
}

function processFields(row: ProcessRecord): readonly Field[] {
  return processTitles.flatMap(([name, title]): readonly Field[] => {
    const value = row.get(name);
    if (value === undefined) return [];
    const old = row.has("create_time") && name === "start_time"; // seconds since the epoch, before 4.3
    return [[title, old || name === "create_time" ? formatTime(Number(value) * 1000) : value]];
  });
}

// --- settings --------------------------------------------------------------------------------

export function poolStatusText({ records }: PcpReply, { verbose }: Manner): string {
  return records
    .map(([name = "", value = "", description = ""], at) =>
      verbose
        ? `Name [${String(at).padStart(3)}]:\t${name}\nValue:      \t${value}\nDescription:\t${description}\n\n`
        : `name : ${name}\nvalue: ${value}\ndesc : ${description}\n\n`,
    )
    .join("");
}

// --- watchdog --------------------------------------------------------------------------------

export function watchdogOf({ texts }: PcpReply): WatchdogInfo {
  const [json] = texts;
  if (json === undefined) throw new PcpError("invalid watchdog information from PCP server");
  return decodeWatchdogInfo(json);
}

export function watchdogText(reply: PcpReply, { verbose }: Manner): string {
  const info = watchdogOf(reply);
  return verbose ? watchdogVerbose(info) : watchdogPlain(info);
}

const yesNo = (yes: boolean): string => (yes ? "YES" : "NO");

function watchdogPlain(info: WatchdogInfo): string {
  const { memberRemoteNodeCount: members } = info;
  const head = [
    info.remoteNodeCount + 1,
    ...(members === undefined ? [] : [members + 1]),
    yesNo(info.escalated),
    info.leaderNodeName,
    info.leaderHostName,
  ];
  const lines = info.nodes.map((node) =>
    [
      node.nodeName,
      node.hostName,
      node.pgpoolPort,
      node.wdPort,
      node.state,
      node.stateName,
      ...(node.membership === undefined ? [] : [node.membership, node.membershipName]),
      ...(node.lifecheckStarted === undefined ? [] : [yesNo(node.lifecheckStarted)]),
    ].join(" "),
  );
  return [head.join(" "), "", ...lines].map((line) => `${line}\n`).join("");
}

const quorumWords: { readonly [state: string]: string } = {
  "1": "QUORUM EXIST",
  "0": "QUORUM IS ON THE EDGE",
  "-1": "QUORUM ABSENT",
  "-2": "NO LEADER NODE",
};

function watchdogVerbose(info: WatchdogInfo): string {
  const { memberRemoteNodeCount, nodesRequiredForQuorum } = info;
  const cluster = titled(25, [
    ["Total Nodes", info.remoteNodeCount + 1],
    ["Remote Nodes", info.remoteNodeCount],
    ["Member Remote Nodes", memberRemoteNodeCount],
    ["Alive Remote Nodes", info.aliveNodeCount],
    ["Nodes required for quorum", nodesRequiredForQuorum],
    ["Quorum state", quorumWords[String(info.quorumStatus)] ?? "UNKNOWN"],
    ["Local node escalation", yesNo(info.escalated)],
    ["Leader Node Name", info.leaderNodeName],
    ["Leader Host Name", info.leaderHostName],
  ]);
  const nodes = info.nodes.map((node) => {
    const { lifecheckStarted } = node;
    return titled(18, [
      ["Node Name", node.nodeName],
      ["Host Name", node.hostName],
      ["Delegate IP", node.delegateIp],
      ["Pgpool port", node.pgpoolPort],
      ["Watchdog port", node.wdPort],
      ["Node priority", node.priority],
      ["Status", node.state],
      ["Status Name", node.stateName],
      ["Membership Status", node.membershipName],
      ["Lifecheck Started", lifecheckStarted === undefined ? undefined : yesNo(lifecheckStarted)],
    ]);
  });
  return `Watchdog Cluster Information \n${cluster}\nWatchdog Node Information \n${nodes.join("\n")}\n`;
}

/** Titles of a fixed width; a server of an older release leaves some out. */
function titled(
  width: number,
  rows: readonly (readonly [string, string | number | undefined])[],
): string {
  return rows
    .filter(([, value]) => value !== undefined)
    .map(([title, value]) => `${title.padEnd(width)}: ${value}\n`)
    .join("");
}
