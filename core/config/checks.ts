/**
 * What must hold between parameters once all are read (spec config/config-file.md section 5).
 * Fatal at the start; at a reload a warning each, and the values stay.
 */

import { ConfigError } from "../errors.ts";
import { INDEX_MAX } from "./param.ts";
import { type Config, isUsed } from "./schema.ts";

/** The text of the file pgpool_node_id as a number. `undefined` text means there is no such file. */
export function parseNodeId(path: string, text: string | undefined): number {
  if (text === undefined) {
    throw new ConfigError(`Pgpool node id file ${path} does not exist`, {
      detail: "If watchdog is enable, pgpool_node_id file is required",
    });
  }
  const digits = text.trim();
  if (digits === "") throw new ConfigError("pgpool_node_id file is empty");
  if (!/^[0-9]+$/.test(digits)) throw new ConfigError("pgpool_node_id is not a numeric value");
  const id = Number(digits);
  if (id > INDEX_MAX.watchdog) {
    const range = `must be between 0 and ${INDEX_MAX.watchdog}`;
    throw new ConfigError(`Invalid pgpool node id "${digits}", ${range}`);
  }
  return id;
}

/** The first rule that is broken, if any. */
export function brokenRule(config: Config): ConfigError | undefined {
  return (
    watchdogRule(config) ??
    heartbeatRule(config) ??
    recoveryRule(config) ??
    spareRule(config) ??
    cacheRule(config)
  );
}

function watchdogRule(config: Config): ConfigError | undefined {
  if (!config.use_watchdog) return undefined;
  const id = config.pgpoolNodeId ?? 0;
  const local = config.watchdogNodes[id];
  if (local !== undefined && local.wd_port !== 0) return undefined;
  return new ConfigError("invalid watchdog configuration", {
    detail: `no watchdog configuration for local pgpool node, pgpool node id: ${id} `,
  });
}

/** Where others receive heartbeats must be known; asked even of a watchdog that is off. */
function heartbeatRule(config: Config): ConfigError | undefined {
  if (config.wd_lifecheck_method !== "heartbeat") return undefined;
  const nameless = config.heartbeats.find(
    (node) => node.port !== 0 && node.hostname === "" && node.id !== (config.pgpoolNodeId ?? 0),
  );
  if (nameless === undefined) return undefined;
  return new ConfigError("invalid watchdog configuration", {
    detail: `heartbeat_hostname${nameless.id} is not defined`,
  });
}

function recoveryRule(config: Config): ConfigError | undefined {
  const recovers =
    config.recovery_1st_stage_command !== "" || config.recovery_2nd_stage_command !== "";
  const homeless = config.backends.some((node) => isUsed(node) && node.data_directory === "");
  if (!recovers || !homeless) return undefined;
  return new ConfigError(
    "invalid configuration, recovery_1st_stage_command and recovery_2nd_stage_command requires backend_data_directory to be set",
  );
}

/** Pgpool's blocks of shared memory: a result stands in one of them, whole. */
function cacheRule(config: Config): ConfigError | undefined {
  if (!config.memory_cache_enabled || config.memqcache_method !== "shmem") return undefined;
  const {
    memqcache_total_size: total,
    memqcache_cache_block_size: block,
    memqcache_maxcache: largest,
  } = config;
  if (total < block) {
    return new ConfigError(
      `invalid configuration, memqcache_total_size:${total} must be at least memqcache_cache_block_size:${block}`,
    );
  }
  if (largest <= block) return undefined;
  return new ConfigError(
    `invalid configuration, memqcache_cache_block_size:${block} must be at least memqcache_maxcache:${largest}`,
  );
}

function spareRule(config: Config): ConfigError | undefined {
  if (config.process_management_mode !== "dynamic") return undefined;
  const { min_spare_children: min, max_spare_children: max, num_init_children: all } = config;
  if (max < min) {
    return new ConfigError(
      `invalid configuration, max_spare_children:${max} must be greater than min_spare_children:${min}`,
    );
  }
  if (max <= all) return undefined;
  return new ConfigError(
    `invalid configuration, max_spare_children:${max} can't be greater than num_init_children:${all}`,
  );
}
