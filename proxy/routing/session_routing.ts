/**
 * What routing remembers of one client's session, and how statements change it (spec
 * load-balance.md sections 1, 5.3, 6 and 7). Plain state with functions over it: no sockets, and
 * nothing asked that is not given.
 */

import type { NodeId } from "../../core/cluster/state.ts";
import type {
  Changes,
  FunctionName,
  RelationName,
  SetsHere,
  StatementFacts,
  TransactionControl,
} from "../../core/sql/facts.ts";
import type { TableColumns } from "../../core/sql/table_columns.ts";
import type { CatalogLookups } from "./catalog_lookups.ts";
import { onlyLooks } from "./looking_functions.ts";
import type { RoutingRules } from "./rules.ts";

/** As in ReadyForQuery. */
export type TransactionStatus = "I" | "T" | "E";

export type Isolation = "unknown" | "read_committed" | "repeatable_read" | "serializable";

/** A prepared statement. A read that is on several nodes is to be executed on one of them. */
export type Parsed = {
  /** Those that know it, ascending. */
  readonly nodes: readonly NodeId[];
  readonly reads: boolean;
  /** What each execution reads, if it only reads. */
  readonly readTables: readonly RelationName[];
  /** What each execution changes. */
  readonly changedTables: readonly string[];
  /** What each execution inserts into. */
  readonly inserts: readonly RelationName[];
  /** Native replication: what each execution must add to the arguments (core/sql/rewrite.ts). */
  readonly added: readonly string[];
  /** The same for the query cache. */
  readonly changes: Changes;
  /** It is itself a PREPARE, EXECUTE or DEALLOCATE, as a Parse may make it. */
  readonly usesNames?: boolean;
};

/** One made by PREPARE. */
export type SqlPrepared = Parsed & {
  readonly sql: string;
  /** What was known of the tables that it fills. */
  readonly filled: readonly (TableColumns | undefined)[];
  /** As nodes get it that lack it. */
  readonly text: string;
  /** The number of the first of `added`, as a parameter. */
  readonly first: number;
};

export class RoutingSession {
  readonly user: string;
  readonly database: string;
  /** Of the startup packet: a later SET does not count. */
  readonly applicationName: string;
  readonly protocolMajor: number;

  /** The node for reads; undefined until the first statement that needs one. */
  loadBalanceNode: NodeId | undefined;
  /** Of the write node: `noteReady` at each ReadyForQuery; BEGIN and its end count at once. */
  status: TransactionStatus = "I";
  /** Nodes of the cluster to which this session has no connection. */
  readonly lostNodes = new Set<NodeId>();

  /** A write was seen, by the terms of disable_load_balance_on_write. */
  writing = false;
  /** A write was seen in this transaction, whatever that setting. For the query cache. */
  reallyWriting = false;
  /** Where an error was answered in this transaction first. */
  failure: "none" | "write_node" | "elsewhere" = "none";
  isolation: Isolation = "unknown";
  /** The transaction was opened inside a multi-statement query: only the write node knows it. */
  multiStatementTransaction = false;
  /** BEGIN READ ONLY and its like. */
  readOnlyTransaction = false;

  /** What a transaction has without being told; "unknown" again when that may have changed. */
  defaultIsolation: Isolation = "unknown";
  /** Nothing but that default has determined the isolation of this transaction. */
  isolationByDefault = true;
  /** Status after the last statement noted, to tell what the next one changed. */
  wasInTransaction = false;
  /** Something more than a SAVEPOINT was written, and whether before the first of them. */
  wroteData = false;
  wroteBeforeSavepoint = false;

  /** What reads elsewhere would not heed (no rule of Pgpool's, which lets them go there). */
  setOnPrimary: SetsHere = "nothing";

  /** check_temp_table = trace. */
  readonly tracedTables = new Map<string, "creating" | "created" | "dropping">();

  /** dml_adaptive: in an explicit transaction, and the lower-case names it has written. */
  dmlTransaction = false;
  readonly dmlTables = new Set<string>();

  /** dml_adaptive_global: names changed in this transaction and not committed yet. */
  readonly changedTables = new Set<string>();

  readonly prepared = new Map<string, SqlPrepared>();
  /** The PREPAREs in the statement that is under way, where nodes get them otherwise than they were said. */
  readonly adding = new Map<string, Pick<SqlPrepared, "text" | "added" | "first">>();
  /** What a Parse of this name made, for EXECUTE and DEALLOCATE of it; the session knows. */
  parsed: (name: string) => Parsed | undefined = () => undefined;
  /** Nodes that have the statement which a Parse named last; the session knows. */
  lastParsedOn: () => readonly NodeId[] = () => [];

  constructor(client: {
    readonly user: string;
    readonly database: string;
    readonly applicationName?: string;
    readonly protocolMajor?: number;
  }) {
    this.user = client.user;
    this.database = client.database;
    this.applicationName = client.applicationName ?? "";
    this.protocolMajor = client.protocolMajor ?? 3;
  }

  get failed(): boolean {
    return this.failure !== "none";
  }
}

/** Is this a read under the present settings (section 3.7)? */
export const isRead = (facts: StatementFacts, rules: RoutingRules): boolean =>
  (facts.readBits & rules.readBit) !== 0;

/**
 * Does a function of these write (5.5)? `undefined` when the catalog must be asked. The first one
 * that is known to write decides, so a missing answer matters only when none does.
 */
export function callsWriter(
  functions: readonly FunctionName[],
  rules: RoutingRules,
  catalog: CatalogLookups,
): boolean | undefined {
  let known = true;
  for (const called of functions) {
    const writes = isWriter(called, rules, catalog);
    if (writes === true) return true;
    if (writes === undefined) known = false;
  }
  return known ? false : undefined;
}

/** One function of these; see `callsWriter`. */
export function isWriter(
  called: FunctionName,
  rules: RoutingRules,
  catalog: CatalogLookups,
): boolean | undefined {
  const { readOnlyFunctions, writeFunctions } = rules;
  if (readOnlyFunctions !== undefined) return !matchesName(readOnlyFunctions, called);
  if (writeFunctions !== undefined) return matchesName(writeFunctions, called);
  if (rules.replicates && onlyLooks(called)) return false;
  return catalog.volatile(called);
}

function matchesName(patterns: readonly RegExp[], called: FunctionName): boolean {
  const name = called.schema === undefined ? called.name : `${called.schema}.${called.name}`;
  for (const pattern of patterns) if (pattern.test(name)) return true;
  return false;
}

/**
 * To be called for each statement when it is sent: dml_adaptive counts what was tried (7.1, 7.2); and
 * a transaction that goes on behind an end within the text is the write node's alone.
 */
export function noteSent(
  session: RoutingSession,
  facts: StatementFacts,
  rules: RoutingRules,
): void {
  if (facts.endsWithin && session.status !== "I") session.multiStatementTransaction = true;
  if (!rules.dmlAdaptive) return;
  const { statement } = facts;
  if (statement.kind === "transaction") {
    noteDmlTransaction(session, statement.control);
    return;
  }
  if (!isRead(facts, rules)) {
    for (const table of facts.writtenTables) addDmlTable(session, table.name, rules);
  }
  if (!session.dmlTransaction || rules.dependentsOfFunction.size === 0) return;
  for (const called of facts.calledFunctions) {
    const dependent = rules.dependentsOfFunction.get(called.name.toLowerCase());
    if (dependent !== undefined) session.dmlTables.add(dependent);
  }
}

function noteDmlTransaction(session: RoutingSession, control: TransactionControl): void {
  switch (control.kind) {
    case "begin":
      session.dmlTransaction = true;
      if (!session.wasInTransaction) session.dmlTables.clear();
      return;
    case "commit":
    case "rollback":
      session.dmlTransaction = control.chain;
      session.dmlTables.clear();
      return;
    case "rollback_to":
      // Pgpool forgets everything here; what was written before the savepoint is still there.
      if (!session.wroteBeforeSavepoint) session.dmlTables.clear();
      return;
    case "savepoint":
    case "release":
    case "two_phase":
      return;
  }
}

function addDmlTable(session: RoutingSession, name: string, rules: RoutingRules): void {
  const lower = name.toLowerCase();
  session.dmlTables.add(lower);
  if (!session.dmlTransaction) return;
  const dependent = rules.dependentsOfTable.get(lower);
  if (dependent !== undefined) session.dmlTables.add(dependent);
}

/** To be called at each ReadyForQuery of the write node, before what it completes is noted. */
export function noteReady(session: RoutingSession, status: TransactionStatus): void {
  session.status = status;
}

/**
 * To be called when a statement has succeeded (section 6). `nodes` are those that ran it: where a
 * PREPARE has made its statement.
 */
export function noteSuccess(
  session: RoutingSession,
  facts: StatementFacts,
  rules: RoutingRules,
  catalog: CatalogLookups,
  nodes: readonly NodeId[],
): void {
  const { statement } = facts;
  const control = statement.kind === "transaction" ? statement.control : undefined;
  if (control !== undefined && !facts.multiStatement) noteBoundary(session, control);
  const inTransaction = session.status !== "I";
  if (control !== undefined) noteTransaction(session, control, rules, inTransaction);
  else noteWrite(session, facts, rules, catalog, inTransaction);
  if (facts.multiStatement) noteMultiStatement(session, facts, rules, inTransaction);
  noteObjects(session, facts, catalog, nodes, inTransaction);
  if (facts.setsHere !== "nothing") noteSetHere(session, facts.setsHere, inTransaction);
  if (mayChangeDefaults(facts)) {
    session.defaultIsolation = "unknown";
    session.isolationByDefault = false;
  }
  session.wasInTransaction = inTransaction;
}

function noteSetHere(session: RoutingSession, sets: SetsHere, inTransaction: boolean): void {
  if (session.setOnPrimary === "session") return;
  if (sets === "session" || inTransaction) session.setOnPrimary = sets;
}

/** In a pipeline the next statement is routed before ReadyForQuery tells of the transaction. */
function noteBoundary(session: RoutingSession, control: TransactionControl): void {
  if (control.kind === "begin" && session.status === "I") session.status = "T";
  if (control.kind === "commit" || control.kind === "rollback") {
    session.status = control.chain ? "T" : "I";
  }
}

/** It may have begun a transaction or ended one, wherever in its text. */
function noteMultiStatement(
  session: RoutingSession,
  facts: StatementFacts,
  rules: RoutingRules,
  inTransaction: boolean,
): void {
  if (!inTransaction) {
    endTransaction(session, rules);
  } else if (!session.wasInTransaction) {
    session.multiStatementTransaction = true;
  }
  if (facts.laterWrites && inTransaction) markWriting(session, rules, inTransaction);
}

function noteTransaction(
  session: RoutingSession,
  control: TransactionControl,
  rules: RoutingRules,
  inTransaction: boolean,
): void {
  switch (control.kind) {
    case "begin":
      // Inside a transaction BEGIN only warns. (Pgpool forgets earlier writes here.)
      if (session.wasInTransaction) return;
      beginTransaction(session, rules);
      noteModes(session, control);
      return;
    case "commit":
    case "rollback":
      settleTracedTables(session, control.kind === "commit" && !session.failed);
      // SET LOCAL and what was set in a transaction that failed are undone.
      session.defaultIsolation = "unknown";
      endTransaction(session, rules, control.chain);
      return;
    case "rollback_to":
      session.failure = "none";
      if (forgetsWrites(rules)) session.writing = session.wroteBeforeSavepoint;
      session.wroteData = session.wroteBeforeSavepoint;
      session.reallyWriting = session.wroteBeforeSavepoint;
      return;
    case "savepoint":
      if (session.wroteData) session.wroteBeforeSavepoint = true;
      markWriting(session, rules, inTransaction, false);
      return;
    case "release":
      markWriting(session, rules, inTransaction, false);
      return;
    case "two_phase":
      // Of a failed transaction PREPARE TRANSACTION is the end.
      if (!inTransaction || session.failed) endTransaction(session, rules);
      else markWriting(session, rules, inTransaction);
      return;
  }
}

const forgetsWrites = (rules: RoutingRules): boolean =>
  rules.onWrite !== "trans_transaction" && rules.onWrite !== "always";

function beginTransaction(session: RoutingSession, rules: RoutingRules): void {
  if (forgetsWrites(rules)) session.writing = false;
  session.reallyWriting = false;
  session.failure = "none";
  session.wroteData = false;
  session.wroteBeforeSavepoint = false;
  session.isolation = session.defaultIsolation;
  session.isolationByDefault = true;
  session.readOnlyTransaction = false;
}

/** A chained transaction keeps its predecessor's characteristics. */
function endTransaction(session: RoutingSession, rules: RoutingRules, chain = false): void {
  const { isolation, readOnlyTransaction } = session;
  if (session.setOnPrimary === "transaction") session.setOnPrimary = "nothing";
  beginTransaction(session, rules);
  session.multiStatementTransaction = session.multiStatementTransaction && chain;
  if (!chain) return;
  session.isolation = isolation;
  session.readOnlyTransaction = readOnlyTransaction;
}

function noteModes(
  session: RoutingSession,
  modes: Extract<TransactionControl, { kind: "begin" }>,
): void {
  session.isolationByDefault = modes.isolation === undefined;
  session.isolation =
    modes.isolation === undefined ? session.defaultIsolation : levelOf(modes.isolation);
  session.readOnlyTransaction = modes.readOnly;
}

function levelOf(level: string): Isolation {
  switch (level.toLowerCase()) {
    case "serializable":
      return "serializable";
    case "repeatable read":
      return "repeatable_read";
    default:
      return "read_committed";
  }
}

function markWriting(
  session: RoutingSession,
  rules: RoutingRules,
  inTransaction: boolean,
  data = true,
): void {
  const setting = rules.onWrite;
  const counts =
    setting === "always" ||
    (inTransaction && (setting === "transaction" || setting === "trans_transaction"));
  if (counts) session.writing = true;
  if (!inTransaction) return;
  session.reallyWriting = true;
  if (data) session.wroteData = true;
}

function noteWrite(
  session: RoutingSession,
  facts: StatementFacts,
  rules: RoutingRules,
  catalog: CatalogLookups,
  inTransaction: boolean,
): void {
  const { statement } = facts;
  if (statement.kind === "set") {
    if (statement.effect === "serializable" && inTransaction) session.isolation = "serializable";
    if (statement.effect === "read_only") {
      session.readOnlyTransaction = inTransaction;
      return;
    }
  }
  if (statement.kind === "empty") return;
  // Unknown counts as writing: the mistake keeps reads on the primary.
  const writes =
    !isRead(facts, rules) || callsWriter(facts.calledFunctions, rules, catalog) !== false;
  if (writes) markWriting(session, rules, inTransaction);
}

function noteObjects(
  session: RoutingSession,
  facts: StatementFacts,
  catalog: CatalogLookups,
  nodes: readonly NodeId[],
  inTransaction: boolean,
): void {
  const { statement } = facts;
  for (const each of facts.prepares) {
    const { name, sql, changedTables, inserts, changes } = each;
    const reads = facts.destination === "either";
    const readTables = reads ? facts.maybeTemporary : [];
    const asGiven = session.adding.get(name) ?? { text: sql, added: [], first: 0 };
    const filled = inserts.map((table) => catalog.columns(table));
    const known = { nodes, sql, reads, readTables, changedTables, inserts, changes, filled };
    session.prepared.set(name, { ...known, ...asGiven });
  }
  if (facts.multiStatement) return; // the session looks after names there
  switch (statement.kind) {
    case "deallocate":
      if (statement.name === undefined) session.prepared.clear();
      else session.prepared.delete(statement.name);
      return;
    case "discard":
      // DISCARD PLANS drops plans, not statements (Pgpool forgets the statements as well).
      if (statement.target === "all") {
        session.prepared.clear();
        session.setOnPrimary = "nothing";
      }
      if (statement.target === "all" || statement.target === "temp") session.tracedTables.clear();
      return;
    case "create_temp_table":
      session.tracedTables.set(statement.name, inTransaction ? "creating" : "created");
      return;
    case "drop_table":
      for (const name of statement.names) {
        if (!inTransaction) session.tracedTables.delete(name);
        else if (session.tracedTables.has(name)) session.tracedTables.set(name, "dropping");
      }
      return;
    case "set":
      // In a transaction it may yet be undone.
      if (statement.form === "reset_all" && !inTransaction) session.setOnPrimary = "nothing";
      return;
    case "empty":
    case "unparsable":
    case "pgpool":
    case "show":
    case "select":
    case "write":
    case "copy":
    case "transaction":
    case "prepare":
    case "execute":
    case "explain":
    case "listen":
    case "other":
      return;
  }
}

function settleTracedTables(session: RoutingSession, committed: boolean): void {
  for (const [name, state] of session.tracedTables) {
    if (state === "created") continue;
    if (committed === (state === "creating")) session.tracedTables.set(name, "created");
    else session.tracedTables.delete(name);
  }
}

const defaultChangers: ReadonlySet<StatementFacts["statement"]["kind"]> = new Set([
  "set",
  "discard",
  "unparsable",
  "execute",
  "other",
] as const);

/**
 * May the statement have changed default_transaction_isolation, or the level of this transaction?
 * SET says so; code of the user's might. Reads and writes cannot, short of a function for it.
 */
const mayChangeDefaults = (facts: StatementFacts): boolean =>
  facts.multiStatement || defaultChangers.has(facts.statement.kind);

/**
 * To be called when an error was answered to the client's statement, by the write node or elsewhere.
 * `inTransaction`: the write node or the one that failed is in a transaction block.
 */
export function noteError(
  session: RoutingSession,
  where: "write_node" | "elsewhere",
  inTransaction: boolean,
): void {
  session.wasInTransaction = inTransaction;
  if (inTransaction && session.failure === "none") session.failure = where;
}

/** The answer to the question "isolation". */
export function noteIsolation(session: RoutingSession, level: string): void {
  session.isolation = levelOf(level);
  if (session.isolationByDefault) session.defaultIsolation = session.isolation;
}

/** Is the table known to this session as its own temporary one (check_temp_table = trace)? */
export const isTraced = (session: RoutingSession, name: string): boolean =>
  session.tracedTables.has(name);

/**
 * Names that have been changed for everybody, now that this statement has succeeded (8.2); to be
 * called after `noteSuccess`. `failed`: the transaction it ends had failed.
 */
export function takeCommitted(
  session: RoutingSession,
  facts: StatementFacts,
  rules: RoutingRules,
  failed: boolean,
): readonly string[] {
  const { changedTables } = session;
  for (const name of changedBy(session, facts)) {
    changedTables.add(name);
    const dependent = rules.dependentsOfTable.get(name.toLowerCase());
    if (dependent !== undefined) changedTables.add(dependent);
  }
  for (const called of rules.dependentsOfFunction.size > 0 ? facts.calledFunctions : []) {
    const dependent = rules.dependentsOfFunction.get(called.name.toLowerCase());
    if (dependent !== undefined) changedTables.add(dependent);
  }
  const { statement } = facts;
  const end = statement.kind === "transaction" ? statement.control.kind : undefined;
  const isEnd = end === "commit" || end === "rollback";
  if (changedTables.size === 0 || (session.status !== "I" && !isEnd)) return [];
  const undone = !facts.multiStatement && (end === "rollback" || failed);
  const committed = undone ? [] : [...changedTables];
  changedTables.clear();
  return committed;
}

function changedBy(session: RoutingSession, facts: StatementFacts): readonly string[] {
  const { statement } = facts;
  if (statement.kind !== "execute") return facts.changedTables;
  const executed = session.prepared.get(statement.name) ?? session.parsed(statement.name);
  return [...facts.changedTables, ...(executed?.changedTables ?? [])];
}
