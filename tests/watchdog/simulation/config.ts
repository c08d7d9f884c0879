/** What the nodes of played clusters are configured to. */

import type { WatchdogRules } from "../../../watchdog/node.ts";
import type { PoolConfig } from "../../../watchdog/pool_config.ts";

/** Of the parameters that nobody has set. */
export const initialRules = {
  failoverWhenQuorumExists: true,
  failoverRequireConsensus: true,
  allowMultipleRequests: false,
  halfVotes: false,
  removeShutdownNodes: false,
  lostNodeRemovalS: 0,
  noShowNodeRemovalS: 0,
  recoveryTimeoutS: 90,
} as const satisfies Partial<WatchdogRules>;

/** As it would be told to a leader. */
export const poolConfigOf = (id: number, nodes: number, backends: number): PoolConfig => ({
  items: {
    num_init_children: 32,
    listen_backlog_multiplier: 2,
    child_life_time: 300,
    connection_life_time: 0,
    child_max_connections: 0,
    client_idle_limit: 0,
    max_pool: 4,
    replication_mode: 0,
    enable_pool_hba: 0,
    load_balance_mode: 1,
    allow_clear_text_frontend_auth: 0,
    replication_stop_on_mismatch: 0,
    failover_if_affected_tuples_mismatch: 0,
    replicate_select: 0,
    connection_cache: 1,
    health_check_timeout: 20,
    health_check_period: 5,
    health_check_max_retries: 0,
    health_check_retry_delay: 1,
    failover_on_backend_error: 1,
    recovery_timeout: 90,
    search_primary_node_timeout: 300,
    client_idle_limit_in_recovery: 0,
    insert_lock: 1,
    memory_cache_enabled: 0,
    use_watchdog: 1,
    clear_memqcache_on_escalation: 1,
    wd_priority: 1,
    pgpool_node_id: id,
    failover_when_quorum_exists: 1,
    failover_require_consensus: 1,
    allow_multiple_failover_requests_from_node: 0,
  },
  processItems: undefined,
  healthChecks: undefined,
  backends: Array.from({ length: backends }, (_, at) => ({ hostname: "db", port: 5432 + at })),
  watchdogNodes: Array.from({ length: nodes }, (_, at) => ({
    hostname: `10.0.0.${at}`,
    wdPort: 9000,
    pgpoolPort: 9999,
  })),
});
