/**
 * SHOW pool_nodes, pool_backend_stats and pool_health_check_stats: one row a backend. And ours,
 * SHOW pool_route_stats: one row a backend and reason.
 */

import { type BackendNode, isLive, roleOf } from "../cluster/state.ts";
import { routeReasons } from "../routing/reasons.ts";
import { formatTime } from "../time.ts";
import { type Column, type Table, tableOf } from "./table.ts";
import type { AdminView, HealthCheckView, NodeCountersView } from "./view.ts";

/** A node, and the view it is seen in. */
type Seen = { readonly node: BackendNode; readonly view: AdminView };

const seen = (view: AdminView): readonly Seen[] =>
  view.cluster.nodes.map((node) => ({ node, view }));

const role = ({ node, view }: Seen): string => roleOf(view.cluster, node.id);
const counters = ({ node, view }: Seen): NodeCountersView => view.node(node.id).counters;
const since = ({ node }: Seen): string => formatTime(node.lastStatusChange);

const identity: readonly Column<Seen>[] = [
  ["node_id", ({ node }) => node.id],
  ["hostname", ({ node }) => node.hostname],
  ["port", ({ node }) => node.port],
  ["status", ({ node }) => node.status],
];

const nodeColumns: readonly Column<Seen>[] = [
  ...identity,
  ["pg_status", ({ node, view }) => view.node(node.id).pgStatus],
  ["lb_weight", ({ node }) => node.weight.toFixed(6)],
  ["role", role],
  ["pg_role", serverRole],
  ["select_cnt", (row) => counters(row).select],
  ["load_balance_node", ({ node, view }) => String(view.loadBalanceNode === node.id)],
  ["replication_delay", delay],
  ["replication_state", ({ node }) => node.replicationState],
  ["replication_sync_state", ({ node }) => node.replicationSyncState],
  ["last_status_change", since],
];

export const showPoolNodes = (view: AdminView): Table => tableOf(nodeColumns, seen(view));

/** What the server says of itself. Only in streaming replication is it anything else than we say. */
function serverRole(row: Seen): string {
  const { node, view } = row;
  if (view.cluster.mode !== "streaming_replication") return role(row);
  return view.config.sr_check_period === 0 || !isLive(node) ? "unknown" : node.serverRole;
}

/** Bytes, or seconds when the delay is measured so; the primary lags behind nobody. */
function delay(row: Seen): string {
  const { node } = row;
  if (!node.delayByTime || role(row) === "primary") return String(node.delay);
  const seconds = node.delay / 1_000_000;
  return `${seconds.toFixed(6)} second${seconds < 2 ? "" : "s"}`;
}

const statsColumns: readonly Column<Seen>[] = [
  ...identity,
  ["role", role],
  ["select_cnt", (row) => counters(row).select],
  ["insert_cnt", (row) => counters(row).insert],
  ["update_cnt", (row) => counters(row).update],
  ["delete_cnt", (row) => counters(row).delete],
  ["ddl_cnt", (row) => counters(row).ddl],
  ["other_cnt", (row) => counters(row).other],
  ["panic_cnt", (row) => counters(row).panic],
  ["fatal_cnt", (row) => counters(row).fatal],
  ["error_cnt", (row) => counters(row).error],
];

export const showPoolBackendStats = (view: AdminView): Table => tableOf(statsColumns, seen(view));

/** How often a node was chosen for a reason. */
type Chosen = Seen & { readonly reason: string; readonly count: number };

const routeColumns: readonly Column<Chosen>[] = [
  ["node_id", ({ node }) => node.id],
  ["hostname", ({ node }) => node.hostname],
  ["port", ({ node }) => node.port],
  ["role", role],
  ["reason", ({ reason }) => reason],
  ["count", ({ count }) => count],
];

/** Reasons that have not been met with are left out. */
export function showPoolRouteStats(view: AdminView): Table {
  const rows = seen(view).flatMap((row) => {
    const { reasons } = view.node(row.node.id);
    return routeReasons.map(
      (reason, index): Chosen => ({ ...row, reason, count: reasons[index] ?? 0 }),
    );
  });
  return tableOf(
    routeColumns,
    rows.filter(({ count }) => count > 0),
  );
}

/** The statistics of a node that no health check has looked at. */
export const NEVER_CHECKED: HealthCheckView = {
  total: 0,
  success: 0,
  fail: 0,
  skip: 0,
  retry: 0,
  maxRetry: 0,
  totalDurationMs: 0,
  maxDurationMs: 0,
  minDurationMs: 0,
  lastCheck: undefined,
  lastSuccess: undefined,
  lastSkip: undefined,
  lastFail: undefined,
};

const check = ({ node, view }: Seen): HealthCheckView =>
  view.node(node.id).healthCheck ?? NEVER_CHECKED;

/** A check that was skipped neither took time nor was tried again. */
function average(sum: number, { total, skip }: HealthCheckView): string {
  return (total === skip ? 0 : sum / (total - skip)).toFixed(6);
}

const timeOrEmpty = (ms: number | undefined): string => (ms === undefined ? "" : formatTime(ms));

const healthColumns: readonly Column<Seen>[] = [
  ...identity,
  ["role", role],
  ["last_status_change", since],
  ["total_count", (row) => check(row).total],
  ["success_count", (row) => check(row).success],
  ["fail_count", (row) => check(row).fail],
  ["skip_count", (row) => check(row).skip],
  ["retry_count", (row) => check(row).retry],
  ["average_retry_count", (row) => average(check(row).retry, check(row))],
  ["max_retry_count", (row) => check(row).maxRetry],
  ["max_duration", (row) => Math.round(check(row).maxDurationMs)],
  ["min_duration", (row) => Math.round(check(row).minDurationMs)],
  ["average_duration", (row) => average(check(row).totalDurationMs, check(row))],
  ["last_health_check", (row) => timeOrEmpty(check(row).lastCheck)],
  ["last_successful_health_check", (row) => timeOrEmpty(check(row).lastSuccess)],
  ["last_skip_health_check", (row) => timeOrEmpty(check(row).lastSkip)],
  ["last_failed_health_check", (row) => timeOrEmpty(check(row).lastFail)],
];

export const showPoolHealthCheckStats = (view: AdminView): Table =>
  tableOf(healthColumns, seen(view));
