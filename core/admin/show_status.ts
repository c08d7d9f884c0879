/** SHOW pool_status: the configuration in force, in its internal numbers, item by item. */

import { formatBackendFlag } from "../config/flag.ts";
import type { Row } from "../config/param.ts";
import { rowOf } from "../config/params.ts";
import type { BackendConfig, Config } from "../config/schema.ts";
import { cutBytes } from "../cut.ts";
import { LEVEL_NUMBER } from "../log.ts";
import { strftime } from "../log_file.ts";
import { scalarValue, usedIndexes } from "./node_values.ts";
import { STATUS_ORDER } from "./order.ts";
import type { Table } from "./table.ts";
import type { AdminView } from "./view.ts";

export type Item = readonly [name: string, value: string, description: string];

/** Sizes of the buffers that items had to fit, less one byte each. */
const NAME_SIZE_MAX = 63;
const VALUE_SIZE_MAX = 511;
const DESCRIPTION_SIZE_MAX = 79;

export function showPoolStatus(view: AdminView): Table {
  const items = STATUS_ORDER.flatMap((name) => itemsOf(view, name));
  const rows = items.map(([name, value, description]) => [
    cutBytes(name, NAME_SIZE_MAX),
    cutBytes(value, VALUE_SIZE_MAX),
    cutBytes(description, DESCRIPTION_SIZE_MAX),
  ]);
  return { columns: ["item", "value", "description"], rows };
}

function itemsOf(view: AdminView, name: string): readonly Item[] {
  switch (name) {
    case "backends":
      return usedIndexes(view.config, "backend").flatMap((index) => backendItems(view, index));
    case "watchdog":
      return usedIndexes(view.config, "watchdog").flatMap((index) =>
        watchdogItems(view.config, index),
      );
    case "heartbeats":
      return usedIndexes(view.config, "heartbeat").flatMap((index) =>
        heartbeatItems(view.config, index),
      );
    case "memqcache_cache_oiddir":
      return [[name, view.config.memqcache_oiddir, brief("memqcache_oiddir")]];
    case "memqcache_stats_start_time":
      return [[name, strftime(CTIME, view.startedAt), "When counting of the query cache began"]];
    case "memqcache_no_cache_hits":
      return [
        [name, String(view.cache()?.selects ?? 0), "Number of SELECTs not hitting query cache"],
      ];
    case "memqcache_cache_hits":
      return [[name, String(view.cache()?.hits ?? 0), "Number of SELECTs hitting query cache"]];
    default:
      return [[name, statusValue(view.config, name), brief(name)]];
  }
}

/** C's ctime, without its newline. */
const CTIME = "%a %b %e %H:%M:%S %Y";

const brief = (name: string): string => rowOf(name)?.brief ?? "";

/** Lists that print `(null)` while nothing sets them. */
const NULL_WHEN_UNSET = [
  "user_redirect_preference_list",
  "database_redirect_preference_list",
  "app_name_redirect_preference_list",
  "dml_adaptive_object_relationship_list",
];

function statusValue(config: Config, name: string): string {
  const row = rowOf(name);
  const value = scalarValue(config, name);
  if (row === undefined || value === undefined) return "";
  if (typeof value === "boolean") return value ? "1" : "0";
  if (typeof value === "number") return statusNumber(row, value);
  if (typeof value === "string") {
    if (row.type === "enum") return String(ENUM_NUMBERS[name]?.[value] ?? value);
    return value === "" && NULL_WHEN_UNSET.includes(name) ? "(null)" : value;
  }
  return value.join(row.type === "list" ? row.separator : ",");
}

const statusNumber = (row: Row, value: number): string =>
  "shown" in row && row.shown === "octal" ? value.toString(8).padStart(4, "0") : String(value);

const numbered = (values: readonly string[], first = 1): { readonly [value: string]: number } =>
  Object.fromEntries(values.map((value, at) => [value, at + first]));

/** Pgpool's internal numbers. An enumeration that is missing here is printed by name. */
const ENUM_NUMBERS: { readonly [name: string]: { readonly [value: string]: number } } = {
  backend_clustering_mode: numbered([
    "streaming_replication",
    "native_replication",
    "logical_replication",
    "raw",
    "snapshot_isolation",
  ]),
  process_management_mode: numbered(["static", "dynamic"]),
  process_management_strategy: numbered(["aggressive", "gentle", "lazy"]),
  log_standby_delay: numbered(["always", "if_over_threshold", "none"]),
  memqcache_method: numbered(["shmem", "memcached"]),
  wd_lifecheck_method: numbered(["query", "heartbeat", "external"]),
  disable_load_balance_on_write: numbered([
    "off",
    "transaction",
    "trans_transaction",
    "always",
    "dml_adaptive",
    "dml_adaptive_global",
  ]),
  relcache_query_target: numbered(["primary", "load_balance_node"]),
  check_temp_table: numbered(["catalog", "trace", "none"]),
  log_backend_messages: numbered(["none", "terse", "verbose"]),
  log_error_verbosity: numbered(["terse", "default", "verbose"], 0),
  client_min_messages: LEVEL_NUMBER,
  log_min_messages: LEVEL_NUMBER,
};

function backendItems(view: AdminView, index: number): readonly Item[] {
  const backend: BackendConfig | undefined = view.config.backends[index];
  if (backend === undefined) return [];
  const node = view.cluster.nodes[index];
  return [
    [`backend_hostname${index}`, backend.hostname, brief("backend_hostname")],
    [`backend_port${index}`, String(backend.port), brief("backend_port")],
    [`backend_weight${index}`, backend.weightFraction.toFixed(6), brief("backend_weight")],
    [`backend_data_directory${index}`, backend.data_directory, brief("backend_data_directory")],
    [`backend_status${index}`, node?.status ?? "unused", "Status of a backend"],
    [`standby_delay${index}`, String(node?.delay ?? 0), "How far a standby lags"],
    [`backend_flag${index}`, formatBackendFlag(backend.flag), brief("backend_flag")],
    [
      `backend_application_name${index}`,
      backend.application_name,
      brief("backend_application_name"),
    ],
  ];
}

function watchdogItems(config: Config, index: number): readonly Item[] {
  const node = config.watchdogNodes[index];
  if (node === undefined) return [];
  return [
    [`hostname${index}`, node.hostname, brief("hostname")],
    [`pgpool_port${index}`, String(node.pgpool_port), brief("pgpool_port")],
    [`wd_port${index}`, String(node.wd_port), brief("wd_port")],
  ];
}

function heartbeatItems(config: Config, index: number): readonly Item[] {
  const node = config.heartbeats[index];
  if (node === undefined) return [];
  return [
    [`heartbeat_hostname${index}`, node.hostname, brief("heartbeat_hostname")],
    [`heartbeat_device${index}`, node.device, brief("heartbeat_device")],
    [`heartbeat_port${index}`, String(node.port), brief("heartbeat_port")],
  ];
}
