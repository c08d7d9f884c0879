/** Values read back out of Config by the name of their parameter, and an index where it has one. */

import { formatBackendFlag } from "../config/flag.ts";
import { INDEX_MAX, type IndexKind, type Row, type Value } from "../config/param.ts";
import { type PerNodeName, params, rowOf, type ScalarName } from "../config/params.ts";
import {
  type BackendConfig,
  type Config,
  type HeartbeatConfig,
  isUsed,
  type WatchdogNodeConfig,
} from "../config/schema.ts";

type Reader<T> = (node: T) => Value;

const backendValues: { readonly [N in PerNodeName<"backend">]: Reader<BackendConfig> } = {
  backend_hostname: (node) => node.hostname,
  backend_port: (node) => node.port,
  backend_weight: (node) => node.weight,
  backend_data_directory: (node) => node.data_directory,
  backend_flag: (node) => formatBackendFlag(node.flag),
  backend_application_name: (node) => node.application_name,
  health_check_period: (node) => node.health_check_period,
  health_check_timeout: (node) => node.health_check_timeout,
  health_check_user: (node) => node.health_check_user,
  health_check_password: (node) => node.health_check_password,
  health_check_database: (node) => node.health_check_database,
  health_check_max_retries: (node) => node.health_check_max_retries,
  health_check_retry_delay: (node) => node.health_check_retry_delay,
  connect_timeout: (node) => node.connect_timeout,
};

const watchdogValues: { readonly [N in PerNodeName<"watchdog">]: Reader<WatchdogNodeConfig> } = {
  hostname: (node) => node.hostname,
  wd_port: (node) => node.wd_port,
  pgpool_port: (node) => node.pgpool_port,
};

const heartbeatValues: { readonly [N in PerNodeName<"heartbeat">]: Reader<HeartbeatConfig> } = {
  heartbeat_hostname: (node) => node.hostname,
  heartbeat_port: (node) => node.port,
  heartbeat_device: (node) => node.device,
};

export type NodeParamName = PerNodeName<IndexKind>;

export const isNodeParam = (name: string): name is NodeParamName =>
  Object.hasOwn(backendValues, name) ||
  Object.hasOwn(watchdogValues, name) ||
  Object.hasOwn(heartbeatValues, name);

/** Highest index the parameter may have. */
export const indexMax = (name: NodeParamName): number => INDEX_MAX[params[name].perNode];

/** The initial value in an unused slot. */
export function nodeValue(config: Config, name: NodeParamName, index: number): Value {
  const row: Row = params[name];
  switch (params[name].perNode) {
    case "backend":
      return read(backendValues, name, config.backends[index]) ?? row.initial;
    case "watchdog":
      return read(watchdogValues, name, config.watchdogNodes[index]) ?? row.initial;
    case "heartbeat":
      return read(heartbeatValues, name, config.heartbeats[index]) ?? row.initial;
  }
}

function read<T>(
  readers: { readonly [name: string]: Reader<T> },
  name: string,
  node: T | undefined,
): Value | undefined {
  return node === undefined ? undefined : readers[name]?.(node);
}

/** The indexes of the slots that are in use. */
export function usedIndexes(config: Config, kind: IndexKind): readonly number[] {
  switch (kind) {
    case "backend":
      return config.backends.filter(isUsed).map(({ id }) => id);
    case "watchdog":
      return config.watchdogNodes.filter((node) => node.wd_port !== 0).map(({ id }) => id);
    case "heartbeat":
      return config.heartbeats.filter((node) => node.port !== 0).map(({ id }) => id);
  }
}

/** The value of a parameter that has one for the whole program; undefined for other names. */
export function scalarValue(config: Config, name: string): Value | undefined {
  const row = rowOf(name);
  if (row === undefined || (row.perNode !== undefined && row.indexFree !== true)) return undefined;
  return config[name as ScalarName];
}
