/**
 * What a standby tells the leader of its configuration, so that differences are noticed (message
 * POOL CONFIG DATA, spec watchdog/wire.md 6.7 and states.md 9). A difference is told and never
 * refused.
 */

import { type Fields, type JsonFields, readJson, writeJson } from "./json.ts";

type Kind = "int" | "flag";
/** In the order of 4.3.5, which needs them all. `false` are those that nobody compares. */
const ITEMS = [
  ["num_init_children", "int", true],
  ["listen_backlog_multiplier", "int", true],
  ["child_life_time", "int", true],
  ["connection_life_time", "int", true],
  ["child_max_connections", "int", true],
  ["client_idle_limit", "int", true],
  ["max_pool", "int", true],
  ["replication_mode", "flag", true],
  ["enable_pool_hba", "flag", true],
  ["load_balance_mode", "flag", true],
  ["allow_clear_text_frontend_auth", "flag", true],
  ["replication_stop_on_mismatch", "flag", true],
  ["failover_if_affected_tuples_mismatch", "flag", true],
  ["replicate_select", "flag", true],
  ["connection_cache", "flag", true],
  ["health_check_timeout", "int", true],
  ["health_check_period", "int", true],
  ["health_check_max_retries", "int", true],
  ["health_check_retry_delay", "int", true],
  ["failover_on_backend_error", "flag", true],
  ["recovery_timeout", "int", true],
  ["search_primary_node_timeout", "int", true],
  ["client_idle_limit_in_recovery", "int", true],
  ["insert_lock", "flag", true],
  ["memory_cache_enabled", "flag", true],
  ["use_watchdog", "flag", false],
  ["clear_memqcache_on_escalation", "flag", true],
  ["wd_priority", "int", false],
  ["pgpool_node_id", "int", false],
  ["failover_when_quorum_exists", "flag", true],
  ["failover_require_consensus", "flag", true],
  ["allow_multiple_failover_requests_from_node", "flag", true],
] as const satisfies readonly (readonly [string, Kind, boolean])[];

/** Written and needed by 4.4 and later; earlier readers pass over them. */
const PROCESS_ITEMS = [
  "min_spare_children",
  "max_spare_children",
  "process_management_mode",
  "process_management_strategy",
] as const;

export type ConfigItem = (typeof ITEMS)[number][0];
export type ProcessItem = (typeof PROCESS_ITEMS)[number];

export type HealthCheckParams = {
  readonly timeout: number;
  readonly period: number;
  readonly maxRetries: number;
  readonly retryDelay: number;
  readonly connectTimeoutMs: number;
};

export type PoolConfig = {
  /** Times in seconds; flags are 0 and 1. */
  readonly items: { readonly [item in ConfigItem]: number };
  /** Undefined from nodes older than 4.4. */
  readonly processItems: { readonly [item in ProcessItem]: number } | undefined;
  /** One per backend; undefined from some older nodes. */
  readonly healthChecks: readonly HealthCheckParams[] | undefined;
  /** wd_leader_lease: ours alone, and told only when it is on. It holds only where everybody keeps it. */
  readonly leaderLease?: boolean;
  readonly backends: readonly { readonly hostname: string; readonly port: number }[];
  readonly watchdogNodes: readonly {
    readonly hostname: string;
    readonly wdPort: number;
    readonly pgpoolPort: number;
  }[];
};

export function encodePoolConfig(config: PoolConfig): Uint8Array {
  const items: { [name: string]: number } = {};
  for (const [name] of ITEMS) items[name] = config.items[name];
  return writeJson({
    ...items,
    ...config.processItems,
    wd_leader_lease: config.leaderLease === true ? 1 : undefined,
    health_check_params: config.healthChecks?.map(healthCheckFields),
    backend_desc: config.backends.map(({ hostname, port }) => ({
      backend_hostname: hostname,
      backend_port: port,
    })),
    wd_nodes: config.watchdogNodes.map(({ hostname, wdPort, pgpoolPort }) => ({
      hostname,
      wd_port: wdPort,
      pgpool_port: pgpoolPort,
    })),
  });
}

const healthCheckFields = (check: HealthCheckParams): JsonFields => ({
  health_check_timeout: check.timeout,
  health_check_period: check.period,
  health_check_max_retries: check.maxRetries,
  health_check_retry_delay: check.retryDelay,
  connect_timeout: check.connectTimeoutMs,
});

/** Undefined for what cannot be read, 4.1's form included: such a node is not compared. */
export const decodePoolConfig = (bytes: Uint8Array): PoolConfig | undefined =>
  readJson(bytes, readConfig);

function readConfig(fields: Fields): PoolConfig {
  const items = {} as { [item in ConfigItem]: number };
  for (const [name, kind] of ITEMS) {
    items[name] = kind === "flag" ? Number(fields.flag(name)) : fields.int(name);
  }
  const backends = fields.objects("backend_desc", (each) => ({
    hostname: each.text("backend_hostname"),
    port: each.int("backend_port"),
  }));
  return {
    items,
    processItems: readProcessItems(fields),
    healthChecks: fields.has("health_check_params")
      ? fields.objects("health_check_params", readHealthCheck)
      : undefined,
    ...(fields.has("wd_leader_lease") ? { leaderLease: fields.flag("wd_leader_lease") } : {}),
    backends,
    watchdogNodes: fields.objects("wd_nodes", (each) => ({
      hostname: each.text("hostname"),
      wdPort: each.int("wd_port"),
      pgpoolPort: each.int("pgpool_port"),
    })),
  };
}

const readHealthCheck = (fields: Fields): HealthCheckParams => ({
  timeout: fields.int("health_check_timeout"),
  period: fields.int("health_check_period"),
  maxRetries: fields.int("health_check_max_retries"),
  retryDelay: fields.int("health_check_retry_delay"),
  connectTimeoutMs: fields.int("connect_timeout"),
});

function readProcessItems(fields: Fields): PoolConfig["processItems"] {
  if (!PROCESS_ITEMS.every((name) => fields.has(name))) return undefined;
  const items = {} as { [item in ProcessItem]: number };
  for (const name of PROCESS_ITEMS) items[name] = fields.int(name);
  return items;
}

export type ConfigDifference = { readonly message: string; readonly detail: string };

/** What a leader with `ours` logs as warnings about the node whose name is given. */
export function configDifferences(
  ours: PoolConfig,
  theirs: PoolConfig,
  nodeName: string,
): readonly ConfigDifference[] {
  const found: ConfigDifference[] = [];
  const compare = (item: string, mine: string, other: string) => {
    if (mine.toLowerCase() !== other.toLowerCase()) found.push(difference(item, mine, other));
  };
  const difference = (item: string, mine: string, other: string): ConfigDifference => ({
    message: `configurations value for "${item}" on node "${nodeName}" is different`,
    detail: `"${item}" on this node is ${mine} while on "${nodeName}" is ${other}`,
  });
  for (const [name, kind, compared] of ITEMS) {
    const shown = (value: number) => (kind === "flag" ? (value ? "ON" : "OFF") : String(value));
    if (compared) compare(name, shown(ours.items[name]), shown(theirs.items[name]));
  }
  const lease = ({ leaderLease }: PoolConfig) => (leaderLease === true ? "ON" : "OFF");
  compare("wd_leader_lease", lease(ours), lease(theirs));
  compare("number of backend nodes", `${ours.backends.length}`, `${theirs.backends.length}`);
  for (const [at, mine] of ours.backends.entries()) {
    const other = theirs.backends[at];
    if (other === undefined) break;
    compare(`backend_hostname${at}`, mine.hostname, other.hostname);
    compare(`backend_port${at}`, String(mine.port), String(other.port));
  }
  const members = [ours, theirs].map(({ watchdogNodes }) => String(watchdogNodes.length));
  compare("number of watchdog nodes", members[0] ?? "", members[1] ?? "");
  return found;
}

const CONSENSUS_MIN_S = 15;

/**
 * How long a vote waits for others, in seconds: as long as the slowest of these nodes may take to
 * notice the same loss, and at least 15 (spec watchdog/states.md 7.3).
 */
export function consensusTimeoutS(configs: readonly PoolConfig[]): number {
  const times = configs.flatMap(({ items, healthChecks = [] }) => [
    items.health_check_period + items.health_check_retry_delay * items.health_check_max_retries,
    ...healthChecks.map((check) => check.period + check.retryDelay * check.maxRetries),
  ]);
  return Math.max(CONSENSUS_MIN_S, ...times);
}
