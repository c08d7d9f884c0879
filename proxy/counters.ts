/** What is counted per node, as SHOW pool_backend_stats and SHOW pool_nodes tell it. */
import type { NodeId } from "../core/cluster/state.ts";
import { REASON_INDEX, type RouteReason, routeReasons } from "../core/routing/reasons.ts";
import type { StatementCounter } from "../core/sql/facts.ts";

export type NodeCounters = { [K in StatementCounter]: number } & {
  panic: number;
  fatal: number;
  error: number;
};

const zero = (): NodeCounters => ({
  select: 0,
  insert: 0,
  update: 0,
  delete: 0,
  ddl: 0,
  other: 0,
  panic: 0,
  fatal: 0,
  error: 0,
});

export class Counters {
  readonly #nodes: (NodeCounters | undefined)[] = [];

  of(node: NodeId): NodeCounters {
    const known = this.#nodes[node];
    if (known !== undefined) return known;
    const fresh = zero();
    this.#nodes[node] = fresh;
    return fresh;
  }

  statement(node: NodeId, kind: StatementCounter): void {
    this.of(node)[kind]++;
  }

  /** How many statements went to this node, by the place of their reason in `routeReasons`. */
  reasonsOf(node: NodeId): Float64Array {
    const known = this.#reasons[node];
    if (known !== undefined) return known;
    const fresh = new Float64Array(routeReasons.length);
    this.#reasons[node] = fresh;
    return fresh;
  }
  readonly #reasons: (Float64Array | undefined)[] = [];

  routed(node: NodeId, why: RouteReason): void {
    const reasons = this.reasonsOf(node);
    const index = REASON_INDEX[why];
    reasons[index] = (reasons[index] as number) + 1;
  }

  failure(node: NodeId, severity: "panic" | "fatal" | "error"): void {
    this.of(node)[severity]++;
  }
}
