/**
 * Where a statement goes, and why. A ladder of early returns in the order of spec
 * routing/load-balance.md section 4; the reason is part of the answer, and chance, the cluster and
 * what the catalogs say are arguments. One cluster snapshot serves one decision.
 */

import { type ClusterState, isLive, type NodeId } from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { isPoolShow } from "../../core/sql/statement.ts";
import { chiefNode, chooseLoadBalanceNode, isTooLate, isUsable } from "./balance.ts";
import type { CatalogLookups, CatalogQuestion } from "./catalog_lookups.ts";
import { decideReplicated } from "./replicated.ts";
import type { NodesRoute, Route, RouteReason } from "./routes.ts";
import type { RoutingRules } from "./rules.ts";
import { callsWriter, isRead, isTraced, type RoutingSession } from "./session_routing.ts";

/** What a decision sees besides the statement and its session. */
export type RoutingView = {
  readonly cluster: ClusterState;
  readonly rules: RoutingRules;
  readonly catalog: CatalogLookups;
  readonly random: Random;
};

export type Protocol = "simple" | "extended";

/**
 * Where this statement goes. Changes nothing but the session's load-balance node, which it chooses
 * when there is none, when each statement chooses anew, and when the one there is lags too far.
 */
export function decideRoute(
  facts: StatementFacts,
  sql: string,
  protocol: Protocol,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  if (protocol === "simple") {
    if (facts.statement.kind === "pgpool") return rules.routes.pgpoolCommand;
    if (isPoolShow(facts.statement)) return rules.routes.showPool;
  }
  switch (cluster.mode) {
    case "raw":
      return rules.routes.one(chiefNode(cluster), "raw_mode");
    case "streaming_replication":
    case "logical_replication":
    case "slony":
      return decideStreaming(facts, sql, protocol, session, view);
    case "native_replication":
    case "snapshot_isolation":
      return decideReplicated(facts, session, view);
  }
}

function decideStreaming(
  facts: StatementFacts,
  sql: string,
  protocol: Protocol,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  const { statement } = facts;
  const primary = chiefNode(cluster);
  if (session.failed && session.status !== "I" && !mayFollowFailure(facts)) {
    // If the primary's transaction has failed it refuses in its own words.
    if (protocol === "simple" && session.status === "T") return rules.routes.failedTransaction;
    return rules.routes.one(primary, "failed_transaction");
  }
  if (statement.kind === "execute" || statement.kind === "deallocate") {
    return decidePrepared(facts, statement, session, view);
  }
  // Settings that a driver sends in one go are for every node (Pgpool: for the primary alone).
  const everyNodes = facts.onlySettings && !session.multiStatementTransaction;
  if (everyNodes) return everywhere(session, view, "session_setting");
  if (facts.multiStatement) return rules.routes.one(primary, "multi_statement");
  switch (facts.destination) {
    case "primary":
      return explainedWriter(facts, session, view) ?? rules.routes.one(primary, facts.reason);
    case "both":
      return session.multiStatementTransaction
        ? rules.routes.one(primary, "multi_statement_transaction")
        : everywhere(session, view, facts.reason, otherNodesSql(facts));
    case "either":
      return decideRead(facts, sql, session, view);
  }
}

/** What PostgreSQL accepts in a failed transaction, and the empty query, which does nothing. */
function mayFollowFailure({ statement }: StatementFacts): boolean {
  if (statement.kind === "empty") return true;
  if (statement.kind !== "transaction") return false;
  const { kind } = statement.control;
  return kind === "commit" || kind === "rollback" || kind === "rollback_to";
}

/** Options that a standby would refuse are left out for it (3.6). */
export function otherNodesSql({ statement }: StatementFacts): string | undefined {
  if (statement.kind !== "transaction" || statement.control.kind !== "begin") return undefined;
  const { readWrite, isolation } = statement.control;
  return readWrite || isolation === "serializable" ? "BEGIN" : undefined;
}

/** Every node that keeps the session's state: the primary and the node for reads (2.6). */
export function everywhere(
  session: RoutingSession,
  view: RoutingView,
  why: RouteReason,
  otherSql?: string,
): NodesRoute {
  const { cluster, rules } = view;
  const primary = chiefNode(cluster);
  if (!rules.loadBalance) return rules.routes.one(primary, why);
  if (rules.statementLevel) {
    const live: NodeId[] = [];
    for (const node of cluster.nodes) {
      if (node.id === primary || isUsable(session, node)) live.push(node.id);
    }
    return rules.routes.several(live, primary, why, otherSql);
  }
  return rules.routes.pair(primary, readingNode(session, view), why, otherSql);
}

/** The session's load-balance node, chosen now if there is none or the one there was is down. */
function readingNode(session: RoutingSession, view: RoutingView): NodeId {
  const { cluster } = view;
  const noted = session.loadBalanceNode;
  const node = noted === undefined ? undefined : cluster.nodes[noted];
  if (node !== undefined && (isUsable(session, node) || node.id === chiefNode(cluster))) {
    return node.id;
  }
  return chooseAnew(session, view);
}

function chooseAnew(session: RoutingSession, view: RoutingView): NodeId {
  const chosen = chooseLoadBalanceNode(session, view.cluster, view.rules, view.random);
  session.loadBalanceNode = chosen;
  return chosen;
}

function decideRead(
  facts: StatementFacts,
  sql: string,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  const primary = chiefNode(cluster);
  const early = beforeCatalog(facts, session, rules);
  if (early !== undefined) return rules.routes.one(primary, early);
  const questions = questionsOf(facts, session, view);
  if (questions !== undefined) return { kind: "ask", questions };
  const reason = afterCatalog(facts, sql, session, view);
  if (reason !== undefined) return rules.routes.one(primary, reason);
  // Chance is drawn only here, when nothing more can be asked: a question never biases it.
  let node = rules.statementLevel ? chooseAnew(session, view) : readingNode(session, view);
  if (isTooLate(cluster, rules, node)) {
    if (!rules.preferLowerDelay) return rules.routes.one(primary, "delayed");
    node = chooseAnew(session, view);
  }
  return rules.routes.one(node, "load_balanced");
}

/** Section 4.5 a to c, as far as the session alone can tell. */
function beforeCatalog(
  facts: StatementFacts,
  session: RoutingSession,
  rules: RoutingRules,
): RouteReason | undefined {
  if (session.writing && rules.onWrite === "always") return "wrote_earlier";
  if (!rules.loadBalance) return "load_balance_off";
  if (!isRead(facts, rules)) return "not_a_read";
  if (session.protocolMajor < 3) return "old_protocol";
  if (session.status === "I") return undefined;
  if (session.writing) return "wrote_in_transaction";
  if (session.failed) return "failed_transaction";
  return session.isolation === "serializable" ? "serializable" : undefined;
}

/** Section 4.5 c (isolation, once it is known) and d, in its order; every answer is there. */
function afterCatalog(
  facts: StatementFacts,
  sql: string,
  session: RoutingSession,
  view: RoutingView,
): RouteReason | undefined {
  const { rules, catalog } = view;
  for (const table of facts.readTables) {
    if (catalog.relation(table)?.systemCatalog === true) return "system_catalog";
  }
  if (rules.checkTemporary !== "none") {
    for (const table of facts.maybeTemporary) {
      const temporary =
        rules.checkTemporary === "trace"
          ? isTraced(session, table.name)
          : catalog.temporary(table.name);
      if (temporary === true) return "temporary_table";
    }
  }
  if (rules.checkUnlogged) {
    for (const table of facts.readTables) {
      if (catalog.relation(table)?.unlogged === true) return "unlogged_table";
    }
  }
  if (rules.primaryPatterns.length > 0 && matchesPattern(sql, rules)) return "query_pattern";
  if (callsWriter(facts.calledFunctions, rules, catalog) !== false) return "writing_function";
  return session.dmlTransaction && readsWritten(facts, session, rules) ? "dml_adaptive" : undefined;
}

function matchesPattern(sql: string, rules: RoutingRules): boolean {
  const text = sql.includes('"') ? sql.replaceAll('"', "") : sql;
  for (const pattern of rules.primaryPatterns) if (pattern.test(text)) return true;
  return false;
}

/** A table written in this transaction, or one that depends on a function called right here (7.3). */
function readsWritten(
  facts: StatementFacts,
  session: RoutingSession,
  rules: RoutingRules,
): boolean {
  for (const table of facts.readTables) {
    const name = table.name.toLowerCase();
    if (session.dmlTables.has(name)) return true;
    for (const called of facts.calledFunctions) {
      if (rules.dependentsOfFunction.get(called.name.toLowerCase()) === name) return true;
    }
  }
  return false;
}

/** Each is a column, of which PostgreSQL allows 1664 in a row; what is left is asked next. */
const QUESTIONS_MAX = 500;

/**
 * Everything that this statement needs to know and the caches do not, at once, so that one round
 * trip answers all; undefined when nothing is missing.
 */
function questionsOf(
  facts: StatementFacts,
  session: RoutingSession,
  view: RoutingView,
): readonly CatalogQuestion[] | undefined {
  const { rules, catalog } = view;
  let questions: CatalogQuestion[] | undefined;
  const ask = (question: CatalogQuestion): void => {
    questions ??= [];
    if (questions.length < QUESTIONS_MAX) questions.push(question);
  };
  if (session.status !== "I" && session.isolation === "unknown") ask({ kind: "isolation" });
  for (const relation of facts.readTables) {
    if (catalog.relation(relation) === undefined) ask({ kind: "relation", relation });
  }
  if (rules.checkTemporary === "catalog") {
    for (const { name } of facts.maybeTemporary) {
      if (catalog.temporary(name) === undefined) ask({ kind: "temporary", name });
    }
  }
  askFunctions(facts, rules, catalog, ask);
  return questions;
}

function askFunctions(
  facts: StatementFacts,
  rules: RoutingRules,
  catalog: CatalogLookups,
  ask: (question: CatalogQuestion) => void,
): void {
  if (rules.readOnlyFunctions !== undefined || rules.writeFunctions !== undefined) return;
  for (const called of facts.calledFunctions) {
    if (catalog.volatile(called) === undefined) ask({ kind: "volatile", function: called });
  }
}

/** EXPLAIN ANALYZE stays on the primary; whether it counts as a write depends on its functions. */
function explainedWriter(
  facts: StatementFacts,
  session: RoutingSession,
  view: RoutingView,
): Route | undefined {
  if (facts.statement.kind !== "explain" || facts.calledFunctions.length === 0) return undefined;
  if (session.status === "I" && view.rules.onWrite !== "always") return undefined;
  const questions: CatalogQuestion[] = [];
  askFunctions(facts, view.rules, view.catalog, (question) => questions.push(question));
  return questions.length > 0 ? { kind: "ask", questions } : undefined;
}

/** EXECUTE and DEALLOCATE follow the statement they name (4 rules 8 and 9). */
function decidePrepared(
  facts: StatementFacts,
  statement: Extract<StatementFacts["statement"], { kind: "execute" | "deallocate" }>,
  session: RoutingSession,
  view: RoutingView,
): Route {
  const { cluster, rules } = view;
  const primary = chiefNode(cluster);
  const { name } = statement;
  if (name === undefined) {
    const several = facts.multiStatement || session.multiStatementTransaction;
    return several
      ? rules.routes.one(primary, "multi_statement")
      : everywhere(session, view, "session_setting");
  }
  const prepared = session.prepared.get(name);
  const nodes = prepared?.nodes ?? session.parsedNodes(name);
  const first = nodes?.[0];
  if (nodes === undefined || first === undefined) {
    return rules.routes.one(primary, "unknown_statement");
  }
  const isHere = nodes.includes(primary);
  if (!isHere && prepared !== undefined && mustMove(facts, nodes, session, view)) {
    return {
      ...rules.routes.one(primary, "prepared_again"),
      reprepare: { name, sql: prepared.sql },
    };
  }
  return rules.routes.several(nodes, isHere ? primary : first, "prepared_statement");
}

/** The node that knows the statement may not run it now: a write came first, or it is gone. */
function mustMove(
  facts: StatementFacts,
  nodes: readonly NodeId[],
  session: RoutingSession,
  { cluster, rules }: RoutingView,
): boolean {
  if (facts.statement.kind !== "execute") return false;
  if (facts.multiStatement) return true;
  const gone = nodes.some((id) => {
    const node = cluster.nodes[id];
    return node === undefined || !isLive(node) || session.lostNodes.has(id);
  });
  if (gone) return true;
  const wrote = session.writing && session.status === "T" && rules.onWrite !== "off";
  return rules.loadBalance && wrote;
}
