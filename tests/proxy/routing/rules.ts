/** Rules, clusters and catalogs for tests of routing, made of as little as each test needs. */

import { type BackendNode, type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import { noTable } from "../../../core/sql/table_columns.ts";
import { RecentWrites } from "../../../proxy/cache/recent_writes.ts";
import type { CatalogLookups } from "../../../proxy/routing/catalog_lookups.ts";
import type { RecentlyWritten } from "../../../proxy/routing/recently_written.ts";
import { type RoutingRules, routingRules } from "../../../proxy/routing/rules.ts";

export type Settings = { readonly [name: string]: string };

/** The rules of a pgpool.conf with these lines. */
export const rulesOf = (settings: Settings, nodes = 3): RoutingRules =>
  routingRules(configOf(settings, nodes).config);

/** A pgpool.conf with these lines, read as the program reads it. */
export function configOf(settings: Settings, nodes = 3): ReturnType<typeof loadConfig> {
  const backends = Array.from({ length: nodes }, (_, id) => [
    `backend_hostname${id} = 'h${id}'`,
    `backend_port${id} = ${5432 + id}`,
  ]).flat();
  const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value}'`);
  const text = [...backends, ...lines].join("\n");
  return loadConfig({
    file: "/etc/pgpool.conf",
    readFile: (path) => (path === "/etc/pgpool.conf" ? text : undefined),
    osHostname: "localhost",
  });
}

export function clusterOf(
  nodes: readonly Partial<BackendNode>[],
  rest: Partial<ClusterState> = {},
): ClusterState {
  return {
    version: 1,
    mode: "streaming_replication",
    primary: nodeId(0),
    ...rest,
    nodes: nodes.map((node, id) => ({
      id: nodeId(id),
      hostname: `h${id}`,
      port: 5432 + id,
      status: "up",
      serverRole: id === 0 ? "primary" : "standby",
      weight: 1 / nodes.length,
      delay: 0,
      delayByTime: false,
      replicationState: "",
      replicationSyncState: "",
      lastStatusChange: 0,
      ...node,
    })),
  };
}

/** A catalog that knows everything: what is not named here is an ordinary permanent table or a stable function. */
export function catalogOf(known: {
  readonly volatile?: readonly string[];
  readonly unlogged?: readonly string[];
  readonly volatileViews?: readonly string[];
  readonly temporary?: ReadonlySet<string>;
  readonly sequences?: readonly string[];
}): CatalogLookups {
  return {
    relation: ({ name }) => ({
      systemCatalog: name.startsWith("pg_"),
      unlogged: known.unlogged?.includes(name) ?? false,
      callsVolatile: known.volatileViews?.includes(name) ?? false,
      sequence: known.sequences?.includes(name) ?? false,
    }),
    columns: () => noTable,
    temporary: (name) => known.temporary?.has(name) ?? false,
    anyTemporary: () => known.temporary !== undefined && known.temporary.size > 0,
    volatile: ({ name }) => known.volatile?.includes(name) ?? false,
  };
}

/** Tracking with a clock of its own and no cold start. */
export const trackingOf = (clock: () => number): RecentWrites =>
  new RecentWrites({
    clock,
    sizeMax: 100,
    params: {
      track_table_mutation_ttl_factor: 5,
      track_table_mutation_max_staleness: 0,
      track_table_mutation_cold_start_duration: 0,
    },
  });

/** Nobody has written anything, for a long time. */
export const nothingWritten: RecentlyWritten = { isCold: false, isStale: () => false };
