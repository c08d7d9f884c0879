/**
 * The table of destinations against the decision alone: a session is led through the statements
 * before, then asked. tests/cluster/routing_cases.test.ts does the same with real servers.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import { type ClusterState, type NodeId, nodeId } from "../../../core/cluster/state.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import { decideRoute, type RoutingView } from "../../../proxy/routing/route.ts";
import type { Route } from "../../../proxy/routing/routes.ts";
import {
  noteError,
  noteIsolation,
  noteReady,
  noteSent,
  noteSuccess,
  RoutingSession,
  type TransactionStatus,
} from "../../../proxy/routing/session_routing.ts";
import {
  asWeDo,
  caseGroups,
  expectedNodes,
  type RoutingCase,
  titleOfCase,
  titleOfGroup,
  weightsOf,
} from "./case_table.ts";
import { catalogOf, clusterOf, nothingWritten, rulesOf } from "./rules.ts";

const volatileFunctions = [
  ...["random", "clock_timestamp", "timeofday", "nextval", "setval", "currval", "lastval"],
  ...["f_vol", "f_write", "get_it", "pg_sleep", "set_config", "pg_advisory_lock"],
  ...["pg_advisory_unlock", "pg_try_advisory_xact_lock", "lo_creat", "lo_create", "pg_notify"],
  ...["pg_is_in_recovery", "pg_table_size"],
];

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

/** A client's session with servers that do as PostgreSQL would, as far as routing can see. */
class Walk {
  readonly session: RoutingSession;
  readonly view: RoutingView;
  readonly #temporary = new Set<string>();
  readonly #status: TransactionStatus[] = ["I", "I", "I"];
  #serializable = false;

  constructor(
    cluster: ClusterState,
    settings: { readonly [name: string]: string },
    row: RoutingCase,
  ) {
    this.session = new RoutingSession({
      user: row.user ?? "postgres",
      database: row.database ?? "test",
      applicationName: row.application_name ?? "",
    });
    const catalog = catalogOf({
      volatile: volatileFunctions,
      unlogged: ["tunlog", "v_unlog"],
      temporary: this.#temporary,
    });
    this.view = {
      cluster,
      rules: rulesOf(settings, cluster.nodes.length),
      catalog,
      random: () => 0.5,
      writes: nothingWritten,
    };
  }

  decide(sql: string, protocol: "simple" | "extended"): Route {
    const facts = parser.facts(sql);
    const route = decideRoute(facts, sql, protocol, this.session, this.view);
    if (route.kind !== "ask") return route;
    expect(route.questions).toEqual([{ kind: "isolation" }]);
    noteIsolation(this.session, this.#serializable ? "serializable" : "read committed");
    return decideRoute(facts, sql, protocol, this.session, this.view);
  }

  run(sql: string): void {
    const { session, view } = this;
    const route = this.decide(sql, "simple");
    if (route.kind !== "nodes") return;
    const facts = parser.facts(sql);
    noteSent(session, facts, view.rules);
    if (sql.includes("1/0")) {
      // Where one node's transaction has failed the session makes the others' fail.
      for (const [node, status] of this.#status.entries()) {
        if (status === "T") this.#status[node] = "E";
      }
      noteReady(session, this.#status[0] ?? "I");
      const where = route.nodes.includes(nodeId(0)) ? "write_node" : "elsewhere";
      noteError(session, where, this.#status.includes("E"));
      return;
    }
    for (const node of route.nodes)
      this.#status[node] = this.#after(sql, this.#status[node] ?? "I");
    if (/^CREATE TEMP TABLE (\w+)/.test(sql)) this.#temporary.add(sql.split(/[ (]/)[3] ?? "");
    if (/^ROLLBACK$/.test(sql)) this.#temporary.clear();
    this.#serializable = /SERIALIZABLE/.test(sql) && /^(?:BEGIN|SET TRANSACTION)/.test(sql);
    noteReady(session, this.#status[0] ?? "I");
    noteSuccess(session, facts, view.rules, view.catalog, route.nodes);
  }

  #after(sql: string, before: TransactionStatus): TransactionStatus {
    if (/ROLLBACK TO/.test(sql)) return "T";
    const ends = /(?:^|; )(?:COMMIT|ROLLBACK|END|ABORT)$/.test(sql);
    if (ends) return "I";
    return /^(?:BEGIN|START)/.test(sql) ? "T" : before;
  }
}

for (const group of caseGroups) {
  const { mode, settings, cases } = group;
  describe(titleOfGroup(group), () => {
    const hasPrimary = mode === "streaming_replication" || mode === "logical_replication";
    const cluster = clusterOf(
      weightsOf(mode).map((weight) => ({ weight })),
      { mode, primary: hasPrimary ? nodeId(0) : undefined },
    );
    for (const row of cases.map(asWeDo)) {
      test(titleOfCase(row), () => {
        const walk = new Walk(cluster, settings, row);
        for (const sql of row.before ?? []) walk.run(sql);
        const route = walk.decide(row.sql, row.protocol ?? "simple");
        if (row.expected === "answered-by-proxy") {
          expect(route.kind).toBe("proxy");
          return;
        }
        expect(route).toMatchObject({ kind: "nodes", otherNodesSql: row.otherNodesSql });
        if (route.kind !== "nodes") throw new Error("no nodes");
        const nodes = commitTargets(row.sql, walk.session, route.nodes);
        expect(nodes).toEqual(expectedNodes(row, mode).map(nodeId));
      });
    }
  });
}

/** The session leaves out nodes that have no transaction to end (spec load-balance.md 4.1). */
function commitTargets(
  sql: string,
  session: RoutingSession,
  nodes: readonly NodeId[],
): readonly NodeId[] {
  const standbyIdle = session.status === "I" || session.multiStatementTransaction;
  return sql === "COMMIT" && standbyIdle ? nodes.slice(0, 1) : nodes;
}
