/**
 * The table of destinations (spec routing/load-balance.md section 12), observed on a real Pgpool-II
 * or read off its newest source, and how it is read: by the test of the decision alone and by the
 * one with real servers.
 */

import type { ClusteringMode } from "../../../core/cluster/state.ts";
import groups from "./routing_cases.json";
import type { Settings } from "./rules.ts";

export type RoutingCase = {
  readonly id: string;
  readonly sql: string;
  readonly expected: string;
  /** Simple where it is not said. */
  readonly protocol?: "simple" | "extended";
  /** Statements of the same session that come first. */
  readonly before?: readonly string[];
  /** What the nodes other than the primary get instead. */
  readonly otherNodesSql?: string;
  /** Of the start-up packet. */
  readonly user?: string;
  readonly database?: string;
  readonly application_name?: string;
};

/** Cases of one configuration. */
export type CaseGroup = {
  readonly mode: ClusteringMode;
  readonly settings: Settings;
  readonly cases: readonly RoutingCase[];
};

// JSON's strings are wider than the unions; a wrong word would fail each test of its group.
export const caseGroups = groups as unknown as readonly CaseGroup[];

/** Where we differ, each with its reason. */
const differences: { readonly [id: string]: Pick<RoutingCase, "expected"> } = {
  // A view over an unlogged table can only fail on a standby, so views are looked into (README.md).
  A094: { expected: "primary" },
};

/** The case with what we do on purpose. */
export const asWeDo = (row: RoutingCase): RoutingCase => ({ ...row, ...differences[row.id] });

/** Do the modes' statements go to every node, without a primary? */
export const isReplicated = (mode: ClusteringMode): boolean =>
  mode === "native_replication" || mode === "snapshot_isolation";

/**
 * The cluster of the table, by node: node 0 writes, and all reading weight is on node 1, so that
 * "load-balanced" is one node. The node without any weight is seen only where all are meant.
 */
export const weightsOf = (mode: ClusteringMode): readonly number[] =>
  isReplicated(mode) ? [0, 1] : [0, 1, 0];

const named: { readonly [expected: string]: readonly number[] } = {
  primary: [0],
  "main-node": [0],
  "load-balanced": [1],
  "primary+load-balance-node": [0, 1],
  node2: [2],
  "primary+node2": [0, 2],
  "answered-by-proxy": [],
};

/** Numbers of the nodes, ascending. */
export function expectedNodes({ expected }: RoutingCase, mode: ClusteringMode): readonly number[] {
  const all = [...weightsOf(mode).keys()];
  const nodes = expected === "all-live-nodes" ? all : named[expected];
  if (nodes === undefined) throw new Error(`the table does not say what "${expected}" means`);
  return nodes;
}

export function titleOfGroup({ mode, settings }: CaseGroup): string {
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  return lines.length === 0 ? mode : `${mode} with ${lines.join(", ")}`;
}

export function titleOfCase(row: RoutingCase): string {
  const protocol = row.protocol === "extended" ? " (extended)" : "";
  const after = row.before === undefined ? "" : ` after ${row.before.join("; ")}`;
  return `${row.id} ${JSON.stringify(row.sql)}${protocol}${after} → ${row.expected}`;
}
