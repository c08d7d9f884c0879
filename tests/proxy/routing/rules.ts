/** Rules, clusters and catalogs for tests of routing, made of as little as each test needs. */

import { type BackendNode, type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import type { CatalogLookups } from "../../../proxy/routing/catalog_lookups.ts";
import { type RoutingRules, routingRules } from "../../../proxy/routing/rules.ts";

export type Settings = { readonly [name: string]: string };

/** The rules of a pgpool.conf with these lines, read as the program reads it. */
export function rulesOf(settings: Settings, nodes = 3): RoutingRules {
  const backends = Array.from({ length: nodes }, (_, id) => [
    `backend_hostname${id} = 'h${id}'`,
    `backend_port${id} = ${5432 + id}`,
  ]).flat();
  const lines = Object.entries(settings).map(([name, value]) => `${name} = '${value}'`);
  const text = [...backends, ...lines].join("\n");
  const { config } = loadConfig({
    file: "/etc/pgpool.conf",
    readFile: (path) => (path === "/etc/pgpool.conf" ? text : undefined),
    osHostname: "localhost",
  });
  return routingRules(config);
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
  readonly temporary?: ReadonlySet<string>;
}): CatalogLookups {
  return {
    relation: ({ name }) => ({
      systemCatalog: name.startsWith("pg_"),
      unlogged: known.unlogged?.includes(name) ?? false,
    }),
    temporary: (name) => known.temporary?.has(name) ?? false,
    volatile: ({ name }) => known.volatile?.includes(name) ?? false,
  };
}
