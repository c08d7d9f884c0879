/** Facts as PCP replies: nodes, processes, health checks, settings (spec wire/pcp.md section 4). */

import { showPoolHealthCheckStats } from "../core/admin/show_nodes.ts";
import { showPoolPools } from "../core/admin/show_processes.ts";
import { showPoolStatus } from "../core/admin/show_status.ts";
import type { AdminView } from "../core/admin/view.ts";
import { type BackendNode, roleOf, STATUS_NUMBERS } from "../core/cluster/state.ts";
import { PcpError } from "../core/pcp/frame.ts";
import { CACHE_MARK } from "../core/pcp/overview.ts";
import { encodeNodeRecord, type NodeRecord, roleNames } from "../core/pcp/records.ts";
import { encodeArray, encodeTexts } from "../core/pcp/reply.ts";
import { leadingInteger } from "../core/pcp/request.ts";
import { productVersion } from "../core/version.ts";
import type { NodeProbe, PcpDesk } from "./desk.ts";

/** A reply as the frames it is made of. */
export type Frames = Iterable<Uint8Array>;

export const nodeCount = (view: AdminView): Frames => [
  encodeTexts("l", [String(view.cluster.nodes.length)]),
];

export function processList(view: AdminView): Frames {
  const pids = view.processes().map(({ pid }) => String(pid));
  return [encodeTexts("n", [String(pids.length), ...pids])];
}

/** `-1` is every node. Each is asked who it is before the answer is given. */
export async function nodeInfo(desk: PcpDesk, argument: string): Promise<Frames> {
  const id = leadingInteger(argument);
  const { nodes } = desk.view().cluster;
  const wanted = id === -1 ? nodes : nodes.filter((node) => node.id === id);
  if (id !== -1 && wanted.length === 0) {
    const detail = `invalid node ID : ${argument}`;
    throw new PcpError("informing node info failed", { detail });
  }
  const probes = await Promise.all(wanted.map((node) => probe(desk, node)));
  const view = desk.view();
  const layout = view.config.pcp_node_info_layout;
  const records = wanted.flatMap(({ id: wantedId }, at) => {
    const node = view.cluster.nodes[wantedId];
    return node === undefined ? [] : [nodeRecord(view, node, probes[at] ?? unasked)];
  });
  return encodeArray(
    "node_info",
    records.map((record) => encodeNodeRecord(record, layout)),
  );
}

const unasked: NodeProbe = { pgStatus: "unknown", serverRole: "unknown" };

async function probe(desk: PcpDesk, node: BackendNode): Promise<NodeProbe> {
  return node.status === "unused" ? unasked : await desk.probe(node.id);
}

function nodeRecord(view: AdminView, node: BackendNode, asked: NodeProbe): NodeRecord {
  const { cluster } = view;
  const role = roleOf(cluster, node.id);
  return {
    hostname: node.hostname,
    port: node.port,
    status: STATUS_NUMBERS[node.status],
    quarantine: node.status === "quarantine",
    pgStatus: asked.pgStatus,
    weight: node.weight,
    role: roleNames.indexOf(role),
    // Only streaming replication has a role that the server itself knows.
    pgRole: cluster.mode === "streaming_replication" ? asked.serverRole : role,
    delayByTime: node.delayByTime,
    delay: node.delay,
    replicationState: node.replicationState,
    replicationSyncState: node.replicationSyncState,
    lastStatusChange: Math.floor(node.lastStatusChange / 1000),
  };
}

export function healthCheckStats(view: AdminView, argument: string): Frames {
  const id = leadingInteger(argument);
  const { rows } = showPoolHealthCheckStats(view);
  const row = rows[id];
  if (row !== undefined) return [encodeTexts("h", row)];
  const detail =
    id === rows.length ? `stats data for node ID ${id} does not exist` : `invalid node ID ${id}`;
  throw new PcpError("informing health check stats info failed", { detail });
}

/** `0` is every process. */
export function processInfo(view: AdminView, argument: string): Frames {
  const pid = leadingInteger(argument);
  const processes = view.processes().filter((process) => pid === 0 || process.pid === pid);
  if (processes.length === 0) {
    const detail = `invalid process ID : ${argument}`;
    throw new PcpError("informing process info failed", { detail });
  }
  return encodeArray("process_info", showPoolPools({ ...view, processes: () => processes }).rows);
}

export const poolStatus = (view: AdminView): Frames =>
  encodeArray("pool_status", showPoolStatus(view).rows);

/**
 * Our own: who we are since when, and the last events as triples of time, node and text. With the
 * query cache one triple more, whose node is `cache` and whose text is JSON.
 */
export function status(desk: PcpDesk): Frames {
  const view = desk.view();
  const { startedAt, cluster } = view;
  const cache = view.cache();
  const seconds = (ms: number) => String(Math.floor(ms / 1000));
  const events = desk
    .events()
    .flatMap(({ at, node, text }) => [seconds(at), node === undefined ? "" : String(node), text]);
  const numbers = cache === undefined ? [] : ["", CACHE_MARK, JSON.stringify(cache)];
  const words = [productVersion, seconds(startedAt), cluster.mode, ...events, ...numbers];
  return [encodeTexts("s", words)];
}
