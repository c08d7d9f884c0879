/** Config from settings: scalars as they are, nodes gathered from their indexed lines. */

import { type NodeId, nodeId } from "../cluster/state.ts";
import { parseBackendFlag } from "./flag.ts";
import type { IndexKind, Row, Value } from "./param.ts";
import { type ParamName, type ParamValue, type PerNodeName, paramNames, params } from "./params.ts";
import { parseRedirects, type RedirectListName } from "./redirect.ts";
import type { BackendConfig, Config, HeartbeatConfig, WatchdogNodeConfig } from "./schema.ts";
import { type Settings, settingValue, targetOf } from "./settings.ts";

/** What Config needs beside the file. */
export type Surroundings = {
  /** Stands in for an empty backend_hostnameN: where PostgreSQL's clients look by default. */
  readonly socketDirectory: string;
  /** From the file pgpool_node_id, or derived from a 4.1 file. */
  readonly pgpoolNodeId: number | undefined;
};

/** Pure and total: every setting was validated when it was read. */
export function buildConfig(settings: Settings, surroundings: Surroundings): Config {
  const scalars: Record<string, Value> = {};
  const listsAsWritten: Record<string, string> = {};
  for (const name of paramNames) {
    const row: Row = params[name];
    if (row.perNode !== undefined && row.indexFree !== true) continue;
    scalars[name] = settingValue(settings, name, name);
    if (row.type === "list") listsAsWritten[name] = settings.get(name)?.text ?? row.initial;
  }
  const redirects = (name: RedirectListName) => parseRedirects(name, String(scalars[name]));
  return {
    // Each value came out of its own row, which is what the type says; the compiler cannot follow
    // a loop over names.
    ...(scalars as unknown as Config),
    backends: backendsOf(settings, surroundings.socketDirectory),
    watchdogNodes: watchdogNodesOf(settings),
    heartbeats: heartbeatsOf(settings),
    pgpoolNodeId: surroundings.pgpoolNodeId,
    redirects: {
      user: redirects("user_redirect_preference_list"),
      database: redirects("database_redirect_preference_list"),
      appName: redirects("app_name_redirect_preference_list"),
    },
    listsAsWritten,
  };
}

/** Reads the indexed values of one node. */
function reader<K extends IndexKind>(settings: Settings, index: number) {
  return <N extends PerNodeName<K>>(name: N): ParamValue<N> =>
    settingValue(settings, `${name}${index}`, name) as ParamValue<N>;
}

/** 0 up to the highest index at which `name` is set to something else than its initial value. */
function slots(settings: Settings, name: ParamName): readonly number[] {
  let count = 0;
  for (const [key, given] of settings) {
    if (!key.startsWith(name)) continue;
    const target = targetOf(key);
    if (target?.name !== name || target.index === undefined) continue;
    if (given.value !== target.row.initial) count = Math.max(count, target.index + 1);
  }
  return Array.from({ length: count }, (_, index) => index);
}

function backendsOf(settings: Settings, socketDirectory: string): readonly BackendConfig[] {
  const backends = slots(settings, "backend_port").map((index) =>
    backendOf(settings, nodeId(index), socketDirectory),
  );
  const total = backends.reduce((sum, { port, weight }) => sum + (port === 0 ? 0 : weight), 0);
  return backends.map((backend) =>
    backend.port === 0 || total === 0
      ? backend
      : { ...backend, weightFraction: backend.weight / total },
  );
}

function backendOf(settings: Settings, id: NodeId, socketDirectory: string): BackendConfig {
  const value = reader<"backend">(settings, id);
  return {
    id,
    hostname: value("backend_hostname") || socketDirectory,
    port: value("backend_port"),
    weight: value("backend_weight"),
    weightFraction: 0,
    data_directory: value("backend_data_directory"),
    flag: parseBackendFlag(`backend_flag${id}`, value("backend_flag")),
    application_name: value("backend_application_name"),
    health_check_period: value("health_check_period"),
    health_check_timeout: value("health_check_timeout"),
    health_check_user: value("health_check_user"),
    health_check_password: value("health_check_password"),
    health_check_database: value("health_check_database"),
    health_check_max_retries: value("health_check_max_retries"),
    health_check_retry_delay: value("health_check_retry_delay"),
    connect_timeout: value("connect_timeout"),
  };
}

function watchdogNodesOf(settings: Settings): readonly WatchdogNodeConfig[] {
  return slots(settings, "wd_port").map((id) => {
    const value = reader<"watchdog">(settings, id);
    return {
      id,
      hostname: value("hostname"),
      wd_port: value("wd_port"),
      pgpool_port: value("pgpool_port"),
    };
  });
}

function heartbeatsOf(settings: Settings): readonly HeartbeatConfig[] {
  return slots(settings, "heartbeat_port").map((id) => {
    const value = reader<"heartbeat">(settings, id);
    return {
      id,
      hostname: value("heartbeat_hostname"),
      port: value("heartbeat_port"),
      device: value("heartbeat_device"),
    };
  });
}
