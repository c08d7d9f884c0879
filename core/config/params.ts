/** Every parameter, by chapter and by name. */

import type { Row, Rows, ValueOf } from "./param.ts";
import {
  backendParams,
  failoverParams,
  healthCheckParams,
  pcpParams,
  recoveryParams,
} from "./params_cluster.ts";
import { logCollectorParams, loggingParams } from "./params_logging.ts";
import {
  clusteringModeParams,
  loadBalanceParams,
  nativeReplicationParams,
  queryCacheParams,
  relcacheParams,
  streamingCheckParams,
  trackTableMutationParams,
} from "./params_routing.ts";
import {
  authenticationParams,
  connectionParams,
  filesParams,
  poolingParams,
  processManagementParams,
  sslParams,
} from "./params_session.ts";
import { delegateIpParams, lifecheckParams, watchdogParams } from "./params_watchdog.ts";

/** The chapters of the sample file, in its order. `feature` is the name by which NOT_BUILT_YET calls one. */
export const chapters = [
  { feature: "clustering_mode", title: "Clustering mode", rows: clusteringModeParams },
  { feature: "connection", title: "Connections", rows: connectionParams },
  { feature: "authentication", title: "Authentication", rows: authenticationParams },
  { feature: "ssl", title: "TLS", rows: sslParams },
  { feature: "pcp", title: "PCP", rows: pcpParams },
  { feature: "backend", title: "Backends", rows: backendParams },
  { feature: "pooling", title: "Pooling", rows: poolingParams },
  { feature: "process_management", title: "Number of processes", rows: processManagementParams },
  { feature: "logging", title: "Logging", rows: loggingParams },
  { feature: "log_collector", title: "Log files", rows: logCollectorParams },
  { feature: "files", title: "Files", rows: filesParams },
  { feature: "load_balance", title: "Load balancing", rows: loadBalanceParams },
  {
    feature: "track_table_mutation",
    title: "Tables written lately",
    rows: trackTableMutationParams,
  },
  { feature: "streaming_check", title: "Streaming replication check", rows: streamingCheckParams },
  {
    feature: "native_replication",
    title: "Native replication and snapshot isolation",
    rows: nativeReplicationParams,
  },
  { feature: "health_check", title: "Health check", rows: healthCheckParams },
  { feature: "failover", title: "Failover and failback", rows: failoverParams },
  { feature: "recovery", title: "Online recovery", rows: recoveryParams },
  { feature: "watchdog", title: "Watchdog", rows: watchdogParams },
  { feature: "delegate_ip", title: "Virtual address", rows: delegateIpParams },
  { feature: "lifecheck", title: "Life check", rows: lifecheckParams },
  { feature: "relcache", title: "Catalogue cache", rows: relcacheParams },
  { feature: "query_cache", title: "Query cache", rows: queryCacheParams },
] as const satisfies readonly { feature: string; title: string; rows: Rows }[];

export type Feature = (typeof chapters)[number]["feature"];

export const params = {
  ...clusteringModeParams,
  ...connectionParams,
  ...authenticationParams,
  ...sslParams,
  ...pcpParams,
  ...backendParams,
  ...poolingParams,
  ...processManagementParams,
  ...loggingParams,
  ...logCollectorParams,
  ...filesParams,
  ...loadBalanceParams,
  ...trackTableMutationParams,
  ...streamingCheckParams,
  ...nativeReplicationParams,
  ...healthCheckParams,
  ...failoverParams,
  ...recoveryParams,
  ...watchdogParams,
  ...delegateIpParams,
  ...lifecheckParams,
  ...relcacheParams,
  ...queryCacheParams,
} as const;

type Params = typeof params;
export type ParamName = keyof Params;
/** Names that stand for one value each: all but the purely per-node ones. */
export type ScalarName = {
  [N in ParamName]: Params[N] extends { readonly perNode: string }
    ? Params[N] extends { readonly indexFree: true }
      ? N
      : never
    : N;
}[ParamName];
/** Names of rows indexed by one kind of node. */
export type PerNodeName<K extends string> = {
  [N in ParamName]: Params[N] extends { readonly perNode: K } ? N : never;
}[ParamName];

/** The value of one named parameter. */
export type ParamValue<N extends ParamName> = ValueOf<Params[N]>;

export const paramNames = Object.keys(params) as readonly ParamName[];

/** The row of a name exactly as the file spells it, without an index. */
export function rowOf(name: string): Row | undefined {
  return Object.hasOwn(params, name) ? params[name as ParamName] : undefined;
}
