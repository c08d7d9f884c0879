/**
 * From the configuration to what the watchdog's parts obey: the rules of the machine, what is told to
 * a leader of our own settings, where heartbeats come from and go to.
 */

import type { Config } from "../core/config/schema.ts";
import { compatibleVersion } from "../core/version.ts";
import { type NodeSettings, STRICT_LEASE, type WatchdogRules } from "./node.ts";
import type { PoolConfig } from "./pool_config.ts";

/** This host as `uname` names it. */
export type HostNames = { readonly hostname: string; readonly system: string };

/** Without its name: the wire has room for nine characters. */
const [pgpoolVersion = ""] = compatibleVersion.split(" ");

export function rulesOf(config: Config, host: HostNames): WatchdogRules {
  const selfId = config.pgpoolNodeId ?? 0;
  const nodes = config.watchdogNodes
    .filter(({ wd_port }) => wd_port !== 0)
    .map((node): NodeSettings => {
      const isSelf = node.id === selfId;
      return {
        id: node.id,
        hostname: node.hostname || (isSelf ? host.hostname : "localhost"),
        wdPort: node.wd_port,
        pgpoolPort: node.pgpool_port || (isSelf ? config.port : 0),
      };
    });
  const self = nodes.find(({ id }) => id === selfId);
  if (self === undefined) throw new Error("no watchdog settings of this node");
  return {
    self: {
      ...self,
      nodeName: `${self.hostname}:${self.pgpoolPort} ${host.system} ${host.hostname}`,
      delegateIp: config.delegate_ip,
      priority: config.wd_priority,
      pgpoolVersion,
    },
    remotes: nodes.filter(({ id }) => id !== selfId),
    authKey: config.wd_authkey,
    failoverWhenQuorumExists: config.failover_when_quorum_exists,
    failoverRequireConsensus: config.failover_require_consensus,
    allowMultipleRequests: config.allow_multiple_failover_requests_from_node,
    halfVotes: config.enable_consensus_with_half_votes,
    removeShutdownNodes: config.wd_remove_shutdown_nodes,
    lostNodeRemovalS: config.wd_lost_node_removal_timeout,
    noShowNodeRemovalS: config.wd_no_show_node_removal_timeout,
    recoveryTimeoutS: config.recovery_timeout,
    config: poolConfigOf(config, nodes, selfId),
    lease: config.wd_leader_lease ? STRICT_LEASE : undefined,
  };
}

function poolConfigOf(config: Config, nodes: readonly NodeSettings[], selfId: number): PoolConfig {
  const { backend_clustering_mode: mode } = config;
  return {
    items: {
      num_init_children: config.num_init_children,
      listen_backlog_multiplier: config.listen_backlog_multiplier,
      child_life_time: config.child_life_time,
      connection_life_time: config.connection_life_time,
      child_max_connections: config.child_max_connections,
      client_idle_limit: config.client_idle_limit,
      max_pool: config.max_pool,
      replication_mode: Number(mode === "native_replication"),
      enable_pool_hba: Number(config.enable_pool_hba),
      load_balance_mode: Number(config.load_balance_mode),
      allow_clear_text_frontend_auth: Number(config.allow_clear_text_frontend_auth),
      replication_stop_on_mismatch: Number(config.replication_stop_on_mismatch),
      failover_if_affected_tuples_mismatch: Number(config.failover_if_affected_tuples_mismatch),
      replicate_select: Number(config.replicate_select),
      connection_cache: Number(config.connection_cache),
      health_check_timeout: config.health_check_timeout,
      health_check_period: config.health_check_period,
      health_check_max_retries: config.health_check_max_retries,
      health_check_retry_delay: config.health_check_retry_delay,
      failover_on_backend_error: Number(config.failover_on_backend_error),
      recovery_timeout: config.recovery_timeout,
      search_primary_node_timeout: config.search_primary_node_timeout,
      client_idle_limit_in_recovery: config.client_idle_limit_in_recovery,
      insert_lock: Number(config.insert_lock),
      memory_cache_enabled: Number(config.memory_cache_enabled),
      use_watchdog: Number(config.use_watchdog),
      clear_memqcache_on_escalation: Number(config.clear_memqcache_on_escalation),
      wd_priority: config.wd_priority,
      pgpool_node_id: selfId,
      failover_when_quorum_exists: Number(config.failover_when_quorum_exists),
      failover_require_consensus: Number(config.failover_require_consensus),
      allow_multiple_failover_requests_from_node: Number(
        config.allow_multiple_failover_requests_from_node,
      ),
    },
    processItems: {
      min_spare_children: config.min_spare_children,
      max_spare_children: config.max_spare_children,
      process_management_mode: Number(config.process_management_mode === "dynamic"),
      process_management_strategy: STRATEGIES.indexOf(config.process_management_strategy),
    },
    healthChecks: config.backends.map((backend) => ({
      timeout: backend.health_check_timeout,
      period: backend.health_check_period,
      maxRetries: backend.health_check_max_retries,
      retryDelay: backend.health_check_retry_delay,
      connectTimeoutMs: backend.connect_timeout,
    })),
    leaderLease: config.wd_leader_lease,
    backends: config.backends.map(({ hostname, port }) => ({ hostname, port })),
    watchdogNodes: nodes.map(({ hostname, wdPort, pgpoolPort }) => ({
      hostname,
      wdPort,
      pgpoolPort,
    })),
  };
}

/** In the order of Pgpool's enumeration. */
const STRATEGIES = ["aggressive", "gentle", "lazy"];

/** Where one of our heartbeats goes. */
export type HeartbeatTarget = {
  readonly host: string;
  readonly port: number;
  /** The network device it must leave by; empty is any. */
  readonly device: string;
};

/** Every address of every other node; its j-th device belongs to its j-th address. */
export function heartbeatTargets(config: Config): readonly HeartbeatTarget[] {
  return config.heartbeats
    .filter(({ id, port }) => id !== config.pgpoolNodeId && port !== 0)
    .flatMap(({ hostname, port, device }) => {
      const devices = device.split(";").map((name) => name.trim());
      return listOf(hostname, ";").map((host, at) => ({ host, port, device: devices[at] ?? "" }));
    });
}

/** Where a file says nothing of it, as one of 4.1 may. */
const HEARTBEAT_PORT = 9694;

/** Where others' heartbeats are received; no address is every address. */
export function heartbeatPlaces(config: Config): {
  readonly hosts: readonly (string | undefined)[];
  readonly port: number;
} {
  const own = config.heartbeats.find(({ id }) => id === config.pgpoolNodeId);
  const port = config.wd_heartbeat_listen_port || own?.port || HEARTBEAT_PORT;
  const hosts = listOf(config.wd_heartbeat_listen_addresses, ",").filter((host) => host !== "*");
  return { hosts: hosts.length > 0 ? hosts : [undefined], port };
}

export const listOf = (text: string, separator: string): readonly string[] =>
  text
    .split(separator)
    .map((item) => item.trim())
    .filter((item) => item !== "");
