/**
 * Routing where the proxy itself replicates: native replication and snapshot isolation (spec
 * routing/modes.md section 4). No catalog, delay or pattern tests exist here, only writing
 * functions.
 */

import { isLive, type NodeId } from "../../core/cluster/state.ts";
import type { RelationName, StatementFacts } from "../../core/sql/facts.ts";
import { chiefNode, chooseLoadBalanceNode } from "./balance.ts";
import type { CatalogQuestion } from "./catalog_lookups.ts";
import { tellsTransaction } from "./looking_functions.ts";
import type { RoutingView } from "./route.ts";
import type { NodesRoute, Route, RouteReason } from "./routes.ts";
import { callsWriter, isRead, isWriter, type RoutingSession } from "./session_routing.ts";

export function decideReplicated(
  facts: StatementFacts,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  const { statement } = facts;
  if (statement.kind === "execute" || statement.kind === "deallocate") {
    const { name } = statement;
    const prepared =
      name === undefined ? undefined : (session.prepared.get(name) ?? session.parsed(name));
    if (prepared === undefined) return onAll(view, "replicated");
    if (statement.kind === "execute") {
      const columns = columnQuestions(prepared.inserts, session, view);
      if (columns.length > 0) return { kind: "ask", questions: columns };
      // What writes is run on all: where it is not known, it is prepared first.
      if (!prepared.reads) return onAll(view, "replicated");
    }
    const [first] = prepared.nodes;
    if (first === undefined) return onAll(view, "replicated");
    return rules.routes.several(prepared.nodes, first, "prepared_statement");
  }
  const columns = columnQuestions(facts.fills, session, view);
  if (columns.length > 0) return { kind: "ask", questions: columns };
  if (facts.multiStatement) return onAll(view, "multi_statement");
  if (!isRead(facts, rules)) return onAll(view, "replicated");
  const main = chiefNode(cluster);
  if (rules.loadBalance && readsSnapshot(session, view)) return balanced(session, view);
  const questions = questionsOf(facts, session, view);
  if (questions.length > 0) return { kind: "ask", questions };
  const writes = callsWriter(facts.calledFunctions, rules, view.catalog) !== false;
  if (!writes && facts.calledFunctions.some(tellsTransaction)) {
    return rules.routes.one(main, "transaction_id");
  }
  if (rules.replicateSelect || writes) return onAll(view, "replicated");
  if (!rules.loadBalance) return rules.routes.one(main, "load_balance_off");
  if (session.status !== "I") {
    if (session.writing) return rules.routes.one(main, "wrote_in_transaction");
    if (session.failed) return rules.routes.one(main, "failed_transaction");
    if (session.isolation === "serializable") return rules.routes.one(main, "serializable");
  }
  return balanced(session, view);
}

/** What must be known of tables before rows are put into them, on all nodes the same. */
function columnQuestions(
  tables: readonly RelationName[],
  session: RoutingSession,
  { catalog }: RoutingView,
): readonly CatalogQuestion[] {
  // Nothing is sent in a failed transaction, or it fails before anything is inserted.
  if (tables.length === 0 || session.failed) return [];
  const questions: CatalogQuestion[] = [];
  for (const relation of tables) {
    if (catalog.columns(relation) !== undefined) continue;
    const { name } = relation;
    if (catalog.temporary(name) === undefined) questions.push({ kind: "temporary", name });
    questions.push({ kind: "columns", relation });
  }
  // Only in READ COMMITTED is the answer good beyond the transaction.
  const isUnknown = session.status !== "I" && session.isolation === "unknown";
  if (questions.length > 0 && isUnknown) questions.push({ kind: "isolation" });
  return questions;
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
  const isOpen = session.status !== "I" && !session.writing && !session.failed;
  if (isOpen && rules.loadBalance && session.isolation === "unknown") {
    questions.push({ kind: "isolation" }); // else the answer would change nothing
  }
  if (rules.readOnlyFunctions !== undefined || rules.writeFunctions !== undefined) {
    return questions;
  }
  for (const called of facts.calledFunctions) {
    if (isWriter(called, rules, catalog) === undefined) {
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
