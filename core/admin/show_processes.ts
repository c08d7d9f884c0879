/** SHOW pool_processes and pool_pools: client places and the connections cached in them. */

import type { NodeId } from "../cluster/state.ts";
import { nodeId } from "../cluster/state.ts";
import { cutBytes } from "../cut.ts";
import { redactPasswords } from "../redact.ts";
import { formatTime } from "../time.ts";
import { type Column, type Table, tableOf } from "./table.ts";
import type { AdminView, PooledBackendView, PoolView, ProcessView } from "./view.ts";

type ProcessRow = { readonly process: ProcessView; readonly active: PoolView | undefined };

const processColumns: readonly Column<ProcessRow>[] = [
  ["pool_pid", ({ process }) => process.pid],
  ["start_time", ({ process }) => startTime(process)],
  ["client_connection_count", ({ process }) => process.clientCount],
  ["database", ({ active }) => active?.database ?? ""],
  ["username", ({ active }) => active?.user ?? ""],
  ["backend_connection_time", ({ active }) => (active ? formatTime(active.openedAt) : "")],
  ["pool_counter", ({ active }) => active?.useCount ?? ""],
  ["status", ({ process }) => process.status],
];

export function showPoolProcesses(view: AdminView): Table {
  const rows = view.processes().map((process) => ({
    process,
    active: process.pools.find((pool) => pool?.connected === true),
  }));
  return tableOf(processColumns, rows);
}

type PoolRow = {
  readonly process: ProcessView;
  readonly poolId: number;
  readonly id: NodeId;
  readonly pool: PoolView | undefined;
  readonly backend: PooledBackendView | undefined;
};

/** Bytes of a statement that are shown. */
const STATEMENT_SIZE_MAX = 1023;

const poolColumns: readonly Column<PoolRow>[] = [
  ["pool_pid", ({ process }) => process.pid],
  ["start_time", ({ process }) => startTime(process)],
  ["client_connection_count", ({ process }) => process.clientCount],
  ["pool_id", ({ poolId }) => poolId],
  ["backend_id", ({ id }) => id],
  ["database", ({ pool }) => pool?.database ?? ""],
  ["username", ({ pool }) => pool?.user ?? ""],
  ["backend_connection_time", ({ pool }) => timeOf(pool?.openedAt)],
  ["client_connection_time", ({ pool }) => timeOf(pool?.clientConnectedAt)],
  ["client_disconnection_time", ({ pool }) => timeOf(pool?.clientDisconnectedAt)],
  ["client_idle_duration", ({ pool }) => (pool === undefined ? 0 : idleTime(pool))],
  ["majorversion", ({ pool }) => pool?.majorVersion ?? 0],
  ["minorversion", ({ pool }) => pool?.minorVersion ?? 0],
  ["pool_counter", ({ pool }) => pool?.useCount ?? 0],
  ["pool_backendpid", ({ backend }) => backend?.pid ?? 0],
  ["pool_connected", ({ pool }) => Number(pool?.connected ?? false)],
  ["status", ({ process }) => process.status],
  ["load_balance_node", ({ pool, id }) => Number(balancesTo(pool, id))],
  ["client_host", ({ pool }) => (pool?.connected ? pool.clientHost : "")],
  ["client_port", ({ pool }) => (pool?.connected ? pool.clientPort : "")],
  ["statement", ({ backend }) => shownStatement(backend?.statement ?? "")],
];

/** Every place, pool and backend has a row, used or not. */
export function showPoolPools(view: AdminView): Table {
  const poolCount = view.config.max_pool;
  const backendCount = view.cluster.nodes.length;
  const rows = view.processes().flatMap((process) =>
    range(poolCount).flatMap((poolId) => {
      const pool = process.pools[poolId];
      return range(backendCount).map((index): PoolRow => {
        const id = nodeId(index);
        return { process, poolId, id, pool, backend: pool?.backends[index] };
      });
    }),
  );
  return tableOf(poolColumns, rows);
}

const range = (count: number): readonly number[] => Array.from({ length: count }, (_, at) => at);

const timeOf = (ms: number | undefined): string => (ms === undefined ? "" : formatTime(ms));

/** Any client may look: what another one wrote is shown without its passwords. */
const shownStatement = (sql: string): string => cutBytes(redactPasswords(sql), STATEMENT_SIZE_MAX);

const balancesTo = (pool: PoolView | undefined, id: NodeId): boolean =>
  pool?.connected === true && pool.loadBalanceNode === id;

/** As `pcp_proc_info` prints it too. */
export function startTime({ startedAt, secondsToRestart }: ProcessView): string {
  const time = formatTime(startedAt);
  if (secondsToRestart === undefined) return time;
  return `${time} (${minutes(secondsToRestart)} before process restarting)`;
}

/** As `pcp_proc_info` prints it too. */
export function idleTime({ clientIdleSeconds, secondsToDisconnect }: PoolView): string {
  if (secondsToDisconnect === undefined) return String(clientIdleSeconds);
  return `${clientIdleSeconds} (${minutes(secondsToDisconnect)} before client disconnected)`;
}

function minutes(seconds: number): string {
  const whole = Math.max(0, Math.trunc(seconds));
  return `${Math.trunc(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
