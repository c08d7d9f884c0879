/** Messages of the watchdog at random, for the tests of the codecs and the fuzzers. */

import fc from "fast-check";
import { FAILOVER_RESULTS, type NodeInfo } from "../../watchdog/bodies.ts";
import type { PoolConfig } from "../../watchdog/pool_config.ts";
import { STATE_NAMES } from "../../watchdog/states.ts";
import { SERVICE_BYTES, type WatchdogMessage } from "../../watchdog/wire.ts";

const text = fc.string({ unit: "binary", maxLength: 20 });
/** A body's end may be a NUL of C, but a text's end is within quotes. */
const int = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const count = fc.nat(200);
const quorumStatus = fc.constantFrom(1 as const, 0 as const, -1 as const);
const state = fc.constantFrom(...STATE_NAMES);
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });

export const nodeInfo: fc.Arbitrary<NodeInfo> = fc.record({
  pgpoolVersion: maybe(text),
  dataVersion: fc.record({ major: count, minor: count }),
  state,
  wdPort: int,
  pgpoolPort: int,
  priority: int,
  nodeId: int,
  nodeName: text,
  hostName: text,
  delegateIp: text,
  age: fc.oneof(
    fc.record({ kind: fc.constant("ages" as const), startup: int, state: int }),
    fc.record({ kind: fc.constant("startup_time" as const), startup: int }),
  ),
  quorumStatus,
  aliveNodeCount: count,
  escalated: fc.boolean(),
  lifecheckStarted: maybe(fc.boolean()),
  authKey: maybe(text),
});

const secrets = { sharedKey: maybe(int), authKey: maybe(text) };
const backend = fc.nat(127);
const call = fc.record({
  ...secrets,
  name: fc.constantFrom("FAILBACK_REQUEST", "DEGENERATE_BACKEND_REQUEST", "START_RECOVERY"),
  flags: fc.nat(31),
  nodes: fc.array(backend, { maxLength: 3 }),
});

const items = [
  ["num_init_children", "listen_backlog_multiplier", "child_life_time", "connection_life_time"],
  ["child_max_connections", "client_idle_limit", "max_pool", "health_check_timeout"],
  ["health_check_period", "health_check_max_retries", "health_check_retry_delay"],
  ["recovery_timeout", "search_primary_node_timeout", "client_idle_limit_in_recovery"],
  ["wd_priority", "pgpool_node_id"],
].flat();
const flags = [
  ["replication_mode", "enable_pool_hba", "load_balance_mode", "allow_clear_text_frontend_auth"],
  ["replication_stop_on_mismatch", "failover_if_affected_tuples_mismatch", "replicate_select"],
  ["connection_cache", "failover_on_backend_error", "insert_lock", "memory_cache_enabled"],
  ["use_watchdog", "clear_memqcache_on_escalation", "failover_when_quorum_exists"],
  ["failover_require_consensus", "allow_multiple_failover_requests_from_node"],
].flat();
const each = <T>(names: readonly string[], value: fc.Arbitrary<T>) =>
  fc.record(Object.fromEntries(names.map((name) => [name, value])));

export const poolConfig: fc.Arbitrary<PoolConfig> = fc.record({
  items: fc
    .tuple(each(items, int), each(flags, fc.nat(1)))
    .map(([numbers, switches]) => ({ ...numbers, ...switches }) as PoolConfig["items"]),
  processItems: maybe(
    fc.record({
      min_spare_children: count,
      max_spare_children: count,
      process_management_mode: count,
      process_management_strategy: count,
    }),
  ),
  healthChecks: maybe(
    fc.array(
      fc.record({
        timeout: count,
        period: count,
        maxRetries: count,
        retryDelay: count,
        connectTimeoutMs: count,
      }),
      { maxLength: 3 },
    ),
  ),
  backends: fc.array(fc.record({ hostname: text, port: count }), { maxLength: 3 }),
  watchdogNodes: fc.array(fc.record({ hostname: text, wdPort: count, pgpoolPort: count }), {
    maxLength: 3,
  }),
});

const bareKinds = [
  ["request_info", "declare_coordinator", "error", "failover_start", "accept", "failover_end"],
  ["join_coordinator", "waiting_for_consensus", "in_network_trouble", "quorum_lost", "reject"],
  ["stand_for_coordinator", "going_down", "ask_config"],
].flat() as readonly "accept"[];

const is = <K extends string>(kind: K) => fc.constant(kind);

export const message: fc.Arbitrary<WatchdogMessage> = fc.oneof(
  fc.record({ kind: fc.constantFrom(...bareKinds) }),
  fc.record({ kind: fc.constantFrom("add_node" as const, "node_info" as const), info: nodeInfo }),
  fc.record({
    kind: is("beacon"),
    beacon: fc.record({
      state,
      startupAge: int,
      stateAge: int,
      quorumStatus,
      aliveNodeCount: count,
      escalated: fc.boolean(),
    }),
  }),
  fc
    .tuple(fc.array(fc.nat(3), { minLength: 1, maxLength: 5 }), fc.nat(6), text)
    .map(([statuses, at, nodeName]) => ({
      kind: "backend_status" as const,
      status: { statuses, primary: (at % (statuses.length + 2)) - 2, nodeName },
    })),
  fc.record({ kind: is("config"), config: poolConfig }),
  fc.record({ kind: is("failover_result"), result: fc.constantFrom(...FAILOVER_RESULTS) }),
  fc.record({ kind: is("service"), service: fc.constantFrom(...Object.values(SERVICE_BYTES)) }),
  fc.record({
    kind: is("cluster_command"),
    command: fc.record({
      ...secrets,
      name: fc.constantFrom("SHUTDOWN_CLUSTER", "RELOAD_CONFIG_CLUSTER"),
      args: fc.array(fc.record({ name: text, value: text }), { maxLength: 3 }),
    }),
  }),
  fc.record({ kind: is("data_request"), request: fc.record({ ...secrets, type: text }) }),
  fc.record({
    kind: fc.constantFrom("failover_function" as const, "online_recovery" as const),
    call,
  }),
);
