/**
 * Routing where the proxy itself replicates: native replication and snapshot isolation (spec
 * routing/modes.md section 4). No catalog, delay or pattern tests exist here, only writing
 * functions.
 */

import { isLive, type NodeId } from "../../core/cluster/state.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { chiefNode, chooseLoadBalanceNode } from "./balance.ts";
import type { CatalogQuestion } from "./catalog_lookups.ts";
import type { RoutingView } from "./route.ts";
import type { NodesRoute, Route, RouteReason } from "./routes.ts";
import { callsWriter, isRead, type RoutingSession } from "./session_routing.ts";

export function decideReplicated(
  facts: StatementFacts,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  const { statement } = facts;
  if (statement.kind === "execute" || statement.kind === "deallocate") {
    const prepared =
      statement.name === undefined ? undefined : session.prepared.get(statement.name);
    const first = prepared?.nodes[0];
    if (prepared === undefined || first === undefined) return onAll(view, "replicated");
    return rules.routes.several(prepared.nodes, first, "prepared_statement");
  }
  if (facts.multiStatement) return onAll(view, "multi_statement");
  if (!isRead(facts, rules)) return onAll(view, "replicated");
  const main = chiefNode(cluster);
  if (rules.loadBalance && readsSnapshot(session, view)) return balanced(session, view);
  const questions = questionsOf(facts, session, view);
  if (questions.length > 0) return { kind: "ask", questions };
  if (rules.replicateSelect || callsWriter(facts.calledFunctions, rules, view.catalog) !== false) {
    return onAll(view, "replicated");
  }
  if (!rules.loadBalance) return rules.routes.one(main, "load_balance_off");
  if (session.status !== "I") {
    if (session.writing) return rules.routes.one(main, "wrote_in_transaction");
    if (session.failed) return rules.routes.one(main, "failed_transaction");
    if (session.isolation === "serializable") return rules.routes.one(main, "serializable");
  }
  return balanced(session, view);
}

/** Under snapshot isolation a read-only transaction may read anywhere, whatever it calls. */
const readsSnapshot = (session: RoutingSession, { cluster }: RoutingView): boolean =>
  cluster.mode === "snapshot_isolation" && session.status === "T" && session.readOnlyTransaction;

function questionsOf(
  facts: StatementFacts,
  session: RoutingSession,
  { rules, catalog }: RoutingView,
): readonly CatalogQuestion[] {
  const questions: CatalogQuestion[] = [];
  if (session.status !== "I" && session.isolation === "unknown") {
    questions.push({ kind: "isolation" });
  }
  if (rules.readOnlyFunctions !== undefined || rules.writeFunctions !== undefined) {
    return questions;
  }
  for (const called of facts.calledFunctions) {
    if (catalog.volatile(called) === undefined) {
      questions.push({ kind: "volatile", function: called });
    }
  }
  return questions;
}

function balanced(session: RoutingSession, view: RoutingView): NodesRoute {
  const { cluster, rules, random } = view;
  const noted = session.loadBalanceNode;
  const node = noted === undefined ? undefined : cluster.nodes[noted];
  if (node === undefined || !isLive(node) || rules.statementLevel) {
    session.loadBalanceNode = chooseLoadBalanceNode(session, cluster, rules, random);
  }
  return rules.routes.one(session.loadBalanceNode ?? chiefNode(cluster), "load_balanced");
}

/** Every live node, the main one answering. */
function onAll({ cluster, rules }: RoutingView, why: RouteReason): NodesRoute {
  const live: NodeId[] = [];
  for (const node of cluster.nodes) if (isLive(node)) live.push(node.id);
  const main = live[0];
  return main === undefined
    ? rules.routes.one(chiefNode(cluster), why)
    : rules.routes.several(live, main, why);
}
