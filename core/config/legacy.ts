/**
 * Names of Pgpool-II 4.1 (and of a few later releases) become today's before anything is applied
 * (spec config/config-file.md section 9). The watchdog's are in legacy_watchdog.ts.
 */

import type { ClusteringMode } from "../cluster/state.ts";
import { ConfigFileError, type ConfigMessage, type Setting } from "./conf_file.ts";
import type { EnumRow } from "./param.ts";
import { parseBool, parseValue } from "./value.ts";

/** `since` is the release whose programs first knew the new name. */
export const RENAMED: {
  readonly [old: string]: {
    readonly to: string;
    readonly since: "4.0" | "4.2" | "4.3.1" | "4.4" | "4.7";
  };
} = {
  fail_over_on_backend_error: { to: "failover_on_backend_error", since: "4.0" },
  black_function_list: { to: "write_function_list", since: "4.2" },
  white_function_list: { to: "read_only_function_list", since: "4.2" },
  black_query_pattern_list: { to: "primary_routing_query_pattern_list", since: "4.2" },
  black_memqcache_table_list: { to: "cache_unsafe_memqcache_table_list", since: "4.2" },
  white_memqcache_table_list: { to: "cache_safe_memqcache_table_list", since: "4.2" },
  follow_master_command: { to: "follow_primary_command", since: "4.2" },
  wd_initial_node_showup_time: { to: "wd_no_show_node_removal_timeout", since: "4.3.1" },
  delegate_IP: { to: "delegate_ip", since: "4.4" },
  socket_dir: { to: "unix_socket_directories", since: "4.4" },
  logdir: { to: "work_dir", since: "4.7" },
};

/** The switches that backend_clustering_mode replaced. */
export const MODE_SWITCHES = ["replication_mode", "master_slave_mode", "master_slave_sub_mode"];

export type Translation = {
  readonly settings: readonly Setting[];
  readonly messages: readonly ConfigMessage[];
};

/** Renames, and chooses the clustering mode. Where both generations name a thing, the new one wins. */
export function translateNames(settings: readonly Setting[]): Translation {
  const given = new Set(settings.map((setting) => setting.name));
  const messages: ConfigMessage[] = [];
  const translated: Setting[] = [];
  for (const setting of settings) {
    const renamed = Object.hasOwn(RENAMED, setting.name) ? RENAMED[setting.name] : undefined;
    if (renamed === undefined) {
      if (!MODE_SWITCHES.includes(setting.name)) translated.push(setting);
      continue;
    }
    messages.push({
      severity: "WARNING",
      message: `${setting.name} is changed to ${renamed.to}`,
      hint: `use ${renamed.to} instead`,
    });
    if (!given.has(renamed.to)) translated.push({ ...setting, name: renamed.to });
  }
  const mode = clusteringMode(settings, given);
  if (mode !== undefined) translated.push(...mode);
  return { settings: translated, messages };
}

/** The settings that the switches of 4.1 amount to, if any. */
function clusteringMode(
  settings: readonly Setting[],
  given: ReadonlySet<string>,
): readonly Setting[] | undefined {
  if (given.has("backend_clustering_mode")) return undefined;
  const switches = settings.filter((setting) => MODE_SWITCHES.includes(setting.name));
  const last = switches.at(-1);
  if (last === undefined) {
    // A 4.1 file without a switch meant raw; a modern one means today's default.
    const sign = settings.find((setting) => RENAMED[setting.name]?.since === "4.2");
    return sign && [{ ...sign, name: "backend_clustering_mode", value: "raw" }];
  }
  const mode: Setting = { ...last, name: "backend_clustering_mode", value: modeOf(switches, last) };
  if (mode.value !== "native_replication") return [mode];
  const quorum = settings.findLast(({ name }) => name === "failover_when_quorum_exists");
  if (quorum !== undefined && parseBool(quorum.name, quorum.value).value) {
    throw new ConfigFileError(
      "invalid configuration, failover_when_quorum_exists is not allowed in native replication mode",
      { file: quorum.file, line: quorum.line, parameter: quorum.name },
    );
  }
  // Off is what leaving it out meant when replication_mode was a switch.
  return [mode, { ...last, name: "failover_when_quorum_exists", value: "off" }];
}

const SUB_MODE: EnumRow = {
  type: "enum",
  initial: "stream",
  values: ["slony", "stream", "logical"],
  context: "restart",
  brief: "",
};

function modeOf(switches: readonly Setting[], at: Setting): ClusteringMode {
  const value = (name: string) => switches.findLast((setting) => setting.name === name)?.value;
  const on = (name: string) => parseBool(name, value(name) ?? "off").value;
  const replication = on("replication_mode");
  const masterSlave = on("master_slave_mode");
  if (replication && masterSlave) {
    throw new ConfigFileError(
      "invalid configuration, replication_mode and master_slave_mode cannot both be on",
      { file: at.file, line: at.line, parameter: at.name },
      { hint: "Set backend_clustering_mode instead of both." },
    );
  }
  const subMode = parseValue(
    "master_slave_sub_mode",
    SUB_MODE,
    value("master_slave_sub_mode") ?? "stream",
  );
  if (replication) return "native_replication";
  if (!masterSlave) return "raw";
  switch (subMode.value) {
    case "logical":
      return "logical_replication";
    case "slony":
      return "slony";
    default:
      return "streaming_replication";
  }
}
