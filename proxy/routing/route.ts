/**
 * Where a statement goes, and why. A ladder of early returns in the order of spec
 * routing/load-balance.md section 4; the reason is part of the answer, and chance, the cluster and
 * what the catalogs say are arguments. One cluster snapshot serves one decision.
 */

import { type ClusterState, isLive, type NodeId } from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import type { RelationName, StatementFacts } from "../../core/sql/facts.ts";
import { showsPrepared, showsTransaction } from "../../core/sql/session_objects.ts";
import { isPoolShow } from "../../core/sql/statement.ts";
import { chiefNode, chooseLoadBalanceNode, isTooLate, isUsable } from "./balance.ts";
import type { CatalogLookups, CatalogQuestion } from "./catalog_lookups.ts";
import type { RecentlyWritten } from "./recently_written.ts";
import { decideReplicated } from "./replicated.ts";
import type { NodesRoute, Route, RouteReason } from "./routes.ts";
import type { RoutingRules } from "./rules.ts";
import {
  callsWriter,
  isRead,
  isTraced,
  type Parsed,
  type RoutingSession,
} from "./session_routing.ts";

/** What a decision sees besides the statement and its session. */
export type RoutingView = {
  readonly cluster: ClusterState;
  readonly rules: RoutingRules;
  readonly catalog: CatalogLookups;
  readonly random: Random;
  /** For dml_adaptive_global. */
  readonly writes: RecentlyWritten;
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
  const { statement } = facts;
  if (statement.kind === "pgpool") {
    const always = statement.command.kind === "explain_route"; // Pgpool has no such command
    if (always || protocol === "simple") return rules.routes.pgpoolCommand;
  }
  if (protocol === "simple" && isPoolShow(statement)) return rules.routes.showPool;
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
    if (protocol === "simple" && isRefusedHere(facts, session)) {
      return rules.routes.failedTransaction;
    }
    return rules.routes.one(primary, "failed_transaction");
  }
  if (statement.kind === "execute" || statement.kind === "deallocate") {
    return decidePrepared(facts, statement, session, view);
  }
  // Settings that a driver sends in one go are for every node (Pgpool: for the primary alone).
  const everyNodes = facts.onlySettings && !session.multiStatementTransaction;
  if (everyNodes) return everywhere(session, view, "session_setting");
  if (facts.multiStatement) return rules.routes.one(primary, "multi_statement");
  if (facts.executes !== undefined) return decideExecuting(facts, facts.executes, session, view);
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

/** What the primary has refused itself it goes on refusing in its own words, and some texts get others. */
function isRefusedHere({ statement }: StatementFacts, session: RoutingSession): boolean {
  if (session.failure !== "elsewhere" || statement.kind === "unparsable") return false;
  // PREPARE TRANSACTION is a ROLLBACK then.
  return statement.kind !== "transaction" || statement.control.kind !== "two_phase";
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
  if (early === undefined && showsPrepared(facts.readTables)) {
    const node = readingNode(session, view);
    if (knowsPrepared(session, node)) return rules.routes.one(node, "prepared_statement");
  }
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
  if (facts.asksSession) return "asks_session";
  if (session.setOnPrimary !== "nothing") return "set_on_primary";
  if (session.status !== "I" && showsTransaction(facts.statement)) return "asks_session";
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
  for (const table of facts.readTables) {
    if (catalog.relation(table)?.sequence === true) return "sequence";
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
  if (viewCallsWriter(facts, rules, catalog)) return "writing_function";
  if (reachesTemporaries(facts, session, view)) return "temporary_table";
  if (session.dmlTransaction && readsWritten(facts, session, rules)) return "dml_adaptive";
  return rules.tracksWrites ? writtenLately(facts.readTables, view.writes) : undefined;
}

/**
 * A type, a function or an object's number may lead to the session's temporary objects as well as
 * a table's name does (no rule of Pgpool's, which lets such a read fail on the standby).
 */
function reachesTemporaries(
  facts: StatementFacts,
  session: RoutingSession,
  { rules, catalog }: RoutingView,
): boolean {
  if (rules.checkTemporary === "none" || !mayReach(facts, rules)) return false;
  if (rules.checkTemporary === "trace") return session.tracedTables.size > 0;
  return catalog.anyTemporary() === true;
}

/** A list of functions vouches for those that it lets be balanced. */
function mayReach({ reachesUnnamed }: StatementFacts, rules: RoutingRules): boolean {
  if (reachesUnnamed !== "functions") return reachesUnnamed === "types";
  return rules.readOnlyFunctions === undefined && rules.writeFunctions === undefined;
}

/** What the session has prepared last by SQL is there; some of the others may be elsewhere. */
function knowsPrepared(session: RoutingSession, node: NodeId): boolean {
  const last = [...session.prepared.values()].at(-1);
  return (last?.nodes ?? session.lastParsedOn()).includes(node);
}

/** Whoever wrote it (8.4). Who reads no table reads nothing that could be stale. */
function writtenLately(
  tables: readonly RelationName[],
  writes: RecentlyWritten,
): RouteReason | undefined {
  if (writes.isCold) return "cold_start";
  for (const table of tables) if (writes.isStale(table.name)) return "written_lately";
  return undefined;
}

/** Whose functions write is the catalog's to say, so lists of functions do not reach into views. */
function viewCallsWriter(
  facts: StatementFacts,
  rules: RoutingRules,
  catalog: CatalogLookups,
): boolean {
  if (rules.readOnlyFunctions !== undefined || rules.writeFunctions !== undefined) return false;
  for (const table of facts.readTables) {
    if (catalog.relation(table)?.callsVolatile === true) return true;
  }
  return false;
}

function matchesPattern(sql: string, rules: RoutingRules): boolean {
  const text = sql.includes('"') ? sql.replaceAll('"', "") : sql;
  for (const pattern of rules.primaryPatterns) if (pattern.test(text)) return true;
  return false;
}

const wroteTable = (session: RoutingSession, { name }: RelationName): boolean =>
  session.dmlTables.has(name.toLowerCase());

/** A table written in this transaction, or one that depends on a function called right here (7.3). */
function readsWritten(
  facts: StatementFacts,
  session: RoutingSession,
  rules: RoutingRules,
): boolean {
  for (const table of facts.readTables) {
    if (wroteTable(session, table)) return true;
    const name = table.name.toLowerCase();
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
    if (mayReach(facts, rules) && catalog.anyTemporary() === undefined) {
      ask({ kind: "any_temporary" });
    }
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
  const known = prepared ?? session.parsed(name);
  if (known === undefined) {
    return rules.routes.one(primary, "unknown_statement");
  }
  const { nodes } = known;
  const first = nodes[0] ?? primary;
  const isHere = nodes.includes(primary);
  const executes = statement.kind === "execute";
  const isRead = known.reads && executes;
  // What follows a DEALLOCATE in its text may be anything, and only one node can tell how far it came.
  // What uses names itself finds all of them on the primary.
  const isPrimarys = executes ? known.usesNames : facts.multiStatement;
  if (isPrimarys || ((!isHere || isRead) && mustMove(facts, known, session, view))) {
    const route = rules.routes.one(primary, isHere ? "prepared_statement" : "prepared_again");
    return isHere ? route : { ...route, reprepare: { name, sql: prepared?.sql } };
  }
  if (isRead && nodes.length > 1) {
    const elsewhere = nodes.find((node) => node !== primary) ?? primary;
    return rules.routes.one(elsewhere, "prepared_statement");
  }
  return rules.routes.several(nodes, isHere ? primary : first, "prepared_statement");
}

/** EXPLAIN follows EXECUTE, whose plan it shows; what creates a table is the primary's. */
function decideExecuting(
  facts: StatementFacts,
  { name, creates }: NonNullable<StatementFacts["executes"]>,
  session: RoutingSession,
  view: RoutingView,
): Route {
  if (!creates) return decidePrepared(facts, { kind: "execute", name }, session, view);
  const primary = chiefNode(view.cluster);
  const route = view.rules.routes.one(primary, facts.reason);
  const prepared = session.prepared.get(name);
  const known = prepared ?? session.parsed(name);
  if (known === undefined || known.nodes.includes(primary)) return route;
  return { ...route, reprepare: { name, sql: prepared?.sql } };
}

/** The node that knows the statement may not run it now: a write came first, or it is gone. */
function mustMove(
  facts: StatementFacts,
  { nodes, readTables }: Parsed,
  session: RoutingSession,
  { cluster, rules, writes }: RoutingView,
): boolean {
  const isGone = (id: NodeId) => {
    const node = cluster.nodes[id];
    return node === undefined || !isLive(node) || session.lostNodes.has(id);
  };
  if (nodes.every(isGone)) return true;
  if (facts.multiStatement) return true;
  if (facts.statement.kind === "deallocate") return false;
  if (nodes.some(isGone)) return true;
  if (!rules.loadBalance) return false;
  if (session.setOnPrimary !== "nothing") return true;
  if (session.writing && session.status === "T" && rules.onWrite !== "off") return true;
  if (session.dmlTransaction && readTables.some((table) => wroteTable(session, table))) return true;
  return rules.tracksWrites && writtenLately(readTables, writes) !== undefined;
}
