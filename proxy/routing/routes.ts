/**
 * What routing answers. Routes are shared objects: one per node set and reason, so that a decision
 * allocates nothing; whoever receives one must not change it.
 */

import type { NodeId } from "../../core/cluster/state.ts";
import type { ProxyReason, RouteReason } from "../../core/routing/reasons.ts";
import type { CatalogQuestion } from "./catalog_lookups.ts";

export type { ProxyReason, RouteReason } from "../../core/routing/reasons.ts";

/** A prepared statement that must be made again on the route's node first (4.9). */
export type Reprepare = {
  readonly name: string;
  /** The PREPARE as the client wrote it; undefined when a Parse made it. */
  readonly sql: string | undefined;
};

export type NodesRoute = {
  readonly kind: "nodes";
  /** Ascending, never empty. */
  readonly nodes: readonly NodeId[];
  /** Whose answer the client sees: the write node if it is among them, else the lowest. */
  readonly main: NodeId;
  readonly why: RouteReason;
  /** What the nodes other than `main` get instead of the statement. */
  readonly otherNodesSql: string | undefined;
  readonly reprepare: Reprepare | undefined;
};

export type Route =
  | NodesRoute
  | { readonly kind: "proxy"; readonly why: ProxyReason }
  /** Facts are missing: ask them, store the answers, decide again. No chance has been drawn. */
  | { readonly kind: "ask"; readonly questions: readonly CatalogQuestion[] };

/** Remembers the routes it made. Belongs to one configuration snapshot of one engine. */
export class RouteTable {
  readonly showPool: Route = { kind: "proxy", why: "show_pool" };
  readonly pgpoolCommand: Route = { kind: "proxy", why: "pgpool_command" };
  readonly failedTransaction: Route = { kind: "proxy", why: "failed_transaction" };
  readonly #singles = new Map<RouteReason, NodesRoute[]>();
  readonly #sets = new Map<string, NodesRoute>();
  /** The last route to several nodes: BEGIN, COMMIT and SET ask for the same again and again. */
  #last: NodesRoute | undefined;

  one(node: NodeId, why: RouteReason): NodesRoute {
    let routes = this.#singles.get(why);
    if (routes === undefined) {
      routes = [];
      this.#singles.set(why, routes);
    }
    const known = routes[node];
    if (known !== undefined) return known;
    const made = route([node], node, why, undefined);
    routes[node] = made;
    return made;
  }

  pair(main: NodeId, other: NodeId, why: RouteReason, otherNodesSql?: string): NodesRoute {
    if (main === other) return this.one(main, why);
    const last = this.#last;
    if (
      last !== undefined &&
      last.nodes.length === 2 &&
      last.main === main &&
      last.why === why &&
      last.otherNodesSql === otherNodesSql &&
      (last.nodes[0] === other || last.nodes[1] === other)
    ) {
      return last;
    }
    const nodes = main < other ? [main, other] : [other, main];
    return this.several(nodes, main, why, otherNodesSql);
  }

  /** `nodes` ascending, `main` among them. */
  several(
    nodes: readonly NodeId[],
    main: NodeId,
    why: RouteReason,
    otherNodesSql?: string,
  ): NodesRoute {
    if (nodes.length === 1) return this.one(main, why);
    const key = `${why} ${main} ${otherNodesSql ?? ""} ${nodes.join()}`;
    let known = this.#sets.get(key);
    if (known === undefined) {
      known = route(nodes, main, why, otherNodesSql);
      this.#sets.set(key, known);
    }
    this.#last = known;
    return known;
  }
}

function route(
  nodes: readonly NodeId[],
  main: NodeId,
  why: RouteReason,
  otherNodesSql: string | undefined,
): NodesRoute {
  return { kind: "nodes", nodes, main, why, otherNodesSql, reprepare: undefined };
}
