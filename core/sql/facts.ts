/**
 * What a statement is, as far as routing, pooling and caching ask: plain data read off the parse
 * tree once and shared by every session that sends the same text. Nothing here knows a cluster,
 * a session or a setting. Rules: spec routing/load-balance.md sections 3 and 5 to 7.
 */

import {
  blankCacheFacts,
  type CacheFacts,
  type Changes,
  cacheFactsOf,
  changesWhenRun,
  unknownCacheFacts,
} from "./cache_facts.ts";
import { changedTables, noTables } from "./changed_tables.ts";
import {
  anyField,
  childList,
  childNode,
  type FunctionName,
  findInTree,
  flagField,
  isNode,
  type RelationName,
  type SetsHere,
  type TaggedNode,
  type TreeFindings,
  type TreeNode,
  tagged,
  textField,
  writingTags,
} from "./parse_tree.ts";
import { type PgpoolCommand, pgpoolCommandOf } from "./pgpool_command.ts";
import {
  insertsOf,
  nothingReplicated,
  type ReplicatedFacts,
  replicatedFacts,
} from "./replicated_facts.ts";
import { asksSession, reachesUnnamed, type Unnamed } from "./session_objects.ts";
import { analyzedBy, readsOnly, type Statement, statementOf, writesInWith } from "./statement.ts";
import { type InBlock, inBlock } from "./transaction_block.ts";

export type { CacheFacts, Changes } from "./cache_facts.ts";
export type { FunctionName, RelationName, SetsHere } from "./parse_tree.ts";
export type { PgpoolCommand } from "./pgpool_command.ts";
export type { Statement, TransactionControl } from "./statement.ts";

/** Which nodes a statement of this kind may go to, before any setting is looked at (3.5). */
export type Destination = "primary" | "either" | "both";

/** Why the kind alone decides, in words an operator meets in the log and in EXPLAIN ROUTE. */
export type KindReason =
  | "read"
  | "write"
  | "row_lock"
  | "select_into"
  | "writing_with"
  | "explain"
  | "copy_in"
  | "cursor"
  | "notification"
  | "table_lock"
  | "two_phase"
  | "utility"
  | "unparsable"
  | "serializable_setting"
  | "read_write_setting"
  | "session_setting"
  | "transaction_control"
  | "prepared_statement"
  | "pgpool_command";

/** `SHOW pool_backend_stats` counts under these names. */
export type StatementCounter = "select" | "insert" | "update" | "delete" | "ddl" | "other";

/**
 * Bits of `StatementFacts.readBits`: is this a read (3.7) when allow_sql_comments is on, when it
 * is off and ignore_leading_white_space on, and when both are off.
 */
export const READ_WITH_COMMENTS = 1;
export const READ_TRIMMED = 2;
export const READ_AS_WRITTEN = 4;
const READ_ALWAYS = READ_WITH_COMMENTS | READ_TRIMMED | READ_AS_WRITTEN;

/** What success of the statement may make untrue of what is cached about the catalogs. */
export type Redefines = "nothing" | "temporary" | "catalog" | "databases";

/** A PREPARE, wherever in the text it stands. `sql` prepares it again elsewhere. */
export type PreparedFacts = {
  readonly name: string;
  readonly sql: string;
  /** As `StatementFacts.changedTables`, of each EXECUTE. */
  readonly changedTables: readonly string[];
  /** As `StatementFacts.inserts`, of each EXECUTE. */
  readonly inserts: readonly RelationName[];
  /** As `CacheFacts.changes`, of each EXECUTE. */
  readonly changes: Changes;
};

/**
 * What success leaves behind in the server's session, beyond what is committed: nothing; settings,
 * which every node has; or what no other server could have, as a temporary table. (What a function
 * of the user's leaves cannot be seen.)
 */
export type Leaves = "nothing" | "settings" | "state";

export type StatementFacts = ReplicatedFacts & {
  /** The first statement of the text; the rest only shows in `multiStatement` and the lists. */
  readonly statement: Statement;
  readonly destination: Destination;
  readonly reason: KindReason;
  readonly readBits: number;
  readonly multiStatement: boolean;
  /** Several statements, each of them a setting of the session that every node should have. */
  readonly onlySettings: boolean;
  readonly counter: StatementCounter;
  /** Tables to test for being catalogs, temporary or unlogged: those of a SELECT, else none. */
  readonly readTables: readonly RelationName[];
  /**
   * Tables to test for being the session's own temporary ones, which no other node has: those of a
   * SELECT, and of a COPY TO or PREPARE that may be balanced. (Pgpool tests the SELECT's alone.)
   */
  readonly maybeTemporary: readonly RelationName[];
  /** Functions to test for writing: those of a SELECT, a PREPARE or an EXPLAIN ANALYZE of one. */
  readonly calledFunctions: readonly FunctionName[];
  /** Tables that dml_adaptive takes as written: all of an INSERT, UPDATE, DELETE, MERGE, locking SELECT. */
  readonly writtenTables: readonly RelationName[];
  /**
   * Names of tables and views that are another after success: rows changed, defined, dropped. Of
   * every statement of the text; what a PREPARE would change stands in `prepares`.
   */
  readonly changedTables: readonly string[];
  /** pg_terminate_backend(pid) with a constant. */
  readonly terminatesPid: number | undefined;
  readonly redefines: Redefines;
  readonly leaves: Leaves;
  /** Every PREPARE of the text. */
  readonly prepares: readonly PreparedFacts[];
  /** The names in DEALLOCATEs among several statements; "" for ALL. */
  readonly deallocates: readonly string[];
  /**
   * How many statements of the text have been answered when each of these has run. The last is not
   * answered when the commit behind it fails.
   */
  readonly deallocatesAfter: readonly number[];
  /** The names that such a text executes before it undoes them. */
  readonly executesFirst: readonly string[];
  /** A read that may reach temporary objects other than the tables it names. */
  readonly reachesUnnamed: Unnamed;
  /** A read of what only the primary's session knows. */
  readonly asksSession: boolean;
  /** The prepared statement that EXPLAIN or CREATE TABLE AS executes; `creates` in the latter. */
  readonly executes: { readonly name: string; readonly creates: boolean } | undefined;
  /** The cursor that DECLARE, FETCH, MOVE or CLOSE names. */
  readonly cursor: string | undefined;
  /** A COMMIT or ROLLBACK is among several statements. */
  readonly endsWithin: boolean;
  /** A later statement of the text may write. (Pgpool looks at the first alone.) */
  readonly laterWrites: boolean;
  /** Settings of which the other nodes do not hear: set_config(), and SET among other statements. */
  readonly setsHere: SetsHere;
  /** For the query cache. */
  readonly cache: CacheFacts;
  /** What a transaction block of the proxy's around the text would do. */
  readonly inBlock: InBlock;
};

/** What the parser made of a text. */
export type ParseOutcome =
  | { readonly kind: "tree"; readonly tree: unknown }
  | { readonly kind: "error"; readonly message: string }
  /** Longer than we parse: treated as unparsable, but how many statements it holds is known. */
  | { readonly kind: "too_long"; readonly multiStatement: boolean };

/**
 * Facts of one text. `sql` must be the very text that was parsed wherever facts quote it (PREPARE),
 * and begin like it in any case: its first byte decides whether a SELECT is a read.
 */
export function factsOf(sql: string, outcome: ParseOutcome): StatementFacts {
  if (sql === "" || sql.startsWith(";")) return emptyFacts(sql, outcome);
  const command = pgpoolCommandOf(sql);
  if (command !== undefined) return pgpoolFacts(command);
  if (outcome.kind === "error") return unparsable(false);
  if (outcome.kind === "too_long") return unparsable(outcome.multiStatement);
  const statements = statementsOf(outcome.tree);
  const first = statements[0];
  if (first === undefined) return emptyFacts(sql, outcome);
  return parsedFacts(sql, first, statements);
}

/** `offset` and `length` in bytes of UTF-8; length 0 is up to the end of the text. */
export type RawStatement = TaggedNode & { readonly offset: number; readonly length: number };

/** The statements of a tree as the parser gives it. */
export function statementsOf(tree: unknown): readonly RawStatement[] {
  if (!isNode(tree)) return [];
  const found: RawStatement[] = [];
  for (const raw of childList(tree, "stmts")) {
    if (!isNode(raw)) continue;
    const statement = tagged(anyField(raw, "stmt"));
    if (statement === undefined) continue;
    const offset = anyField(raw, "stmt_location");
    const length = anyField(raw, "stmt_len");
    found.push({
      ...statement,
      offset: typeof offset === "number" ? offset : 0,
      length: typeof length === "number" ? length : 0,
    });
  }
  return found;
}

const none: readonly never[] = [];

const blank: StatementFacts = {
  statement: { kind: "empty" },
  destination: "either",
  reason: "read",
  readBits: READ_ALWAYS,
  multiStatement: false,
  onlySettings: false,
  counter: "other",
  readTables: none,
  maybeTemporary: none,
  calledFunctions: none,
  writtenTables: none,
  changedTables: noTables,
  terminatesPid: undefined,
  redefines: "nothing",
  leaves: "nothing",
  prepares: none,
  deallocates: none,
  deallocatesAfter: none,
  executesFirst: none,
  reachesUnnamed: "nothing",
  asksSession: false,
  executes: undefined,
  cursor: undefined,
  endsWithin: false,
  laterWrites: false,
  setsHere: "nothing",
  ...nothingReplicated,
  cache: blankCacheFacts,
  inBlock: "idle",
};

/** Blanks, `;` or comments only: a constant SELECT to the rules, EmptyQueryResponse to the client. */
function emptyFacts(sql: string, outcome: ParseOutcome): StatementFacts {
  const several =
    outcome.kind === "tree" ? statementsOf(outcome.tree).length > 1 : outcome.kind === "too_long";
  return { ...blank, readBits: readBitsByText(sql), multiStatement: several };
}

/** Should it have to leave the proxy (extended protocol), the primary reports the syntax error. */
function pgpoolFacts(command: PgpoolCommand): StatementFacts {
  return {
    ...blank,
    statement: { kind: "pgpool", command },
    destination: "primary",
    reason: "pgpool_command",
    readBits: 0,
  };
}

/** Unknown text may do anything: it goes to the primary, and what we knew of the catalogs is void. */
function unparsable(multiStatement: boolean): StatementFacts {
  return {
    ...blank,
    statement: { kind: "unparsable" },
    inBlock: "refused",
    destination: "primary",
    reason: "unparsable",
    readBits: 0,
    multiStatement,
    redefines: "catalog",
    laterWrites: multiStatement,
    cache: unknownCacheFacts,
  };
}

function parsedFacts(
  sql: string,
  first: RawStatement,
  all: readonly RawStatement[],
): StatementFacts {
  const statement = statementOf(first);
  const below = findInTree(first.node);
  const { destination, reason } = destinationOf(first, statement, below);
  const readBits = readBitsOf(sql, first, statement);
  const examined = examinedFunctions(first, statement);
  const onlySettings = all.length > 1 && all.every(isSetting);
  return {
    statement,
    destination,
    reason,
    readBits,
    multiStatement: all.length > 1,
    onlySettings,
    counter: counterOf(first.tag),
    readTables: first.tag === "SelectStmt" ? below.tables : none,
    maybeTemporary: readBits !== 0 ? below.tables : none,
    calledFunctions: examined ? below.functions : none,
    writtenTables: writtenTablesOf(first, below.tables, readBits),
    changedTables: changedTables(all, below.targets),
    terminatesPid: first.tag === "SelectStmt" ? below.terminatesPid : undefined,
    redefines: all.reduce<Redefines>((worst, each) => worseOf(worst, redefinedBy(each)), "nothing"),
    leaves: leavesOf(all, onlySettings || all.length === 1),
    prepares: preparesOf(sql, all),
    ...namesOf(all),
    reachesUnnamed:
      readBits === 0 ? "nothing" : reachesUnnamed(below.functions, below.plainTypesOnly),
    asksSession: asksSession(statement, below),
    executes: executedBy(first),
    cursor:
      all.length === 1 && cursorTags.has(first.tag)
        ? textField(first.node, "portalname")
        : undefined,
    endsWithin: all.length > 1 && all.some(isEnd),
    laterWrites: all.some((each) => each !== first && mayWrite(each)),
    setsHere: all.length === 1 ? below.sets : setsAmongOthers(all, onlySettings),
    ...replicatedFacts(all, below),
    cache: cacheFactsOf(all, below),
    inBlock: inBlock(all),
  };
}

/** The tests for writing functions look into these trees and no others (section 4 rule 6). */
function examinedFunctions(first: TaggedNode, statement: Statement): boolean {
  if (first.tag === "SelectStmt" || statement.kind === "prepare") return true;
  return statement.kind === "explain" && statement.analyze && statement.ofSelect;
}

/** Section 3.7. A read by its tree may still be refused for the first byte of its text. */
function readBitsOf(sql: string, first: TaggedNode, statement: Statement): number {
  switch (statement.kind) {
    case "select":
      return readsOnly(first.node) ? readBitsByText(sql) : 0;
    case "prepare":
      return statement.inner === "select" && statement.innerReads ? READ_ALWAYS : 0;
    case "copy":
      return statement.toClient && statement.reads ? READ_ALWAYS : 0;
    case "explain":
      return !statement.analyze || statement.ofSelect ? READ_ALWAYS : 0;
    case "show":
      return READ_ALWAYS;
    case "empty":
      return readBitsByText(sql);
    case "unparsable":
    case "pgpool":
    case "write":
    case "transaction":
    case "set":
    case "execute":
    case "deallocate":
    case "discard":
    case "create_temp_table":
    case "drop_table":
    case "listen":
    case "other":
      return 0;
  }
}

/** With allow_sql_comments off only these first bytes, or no byte at all, begin a read. */
const readingFirstBytes = "sS(wWtT;";

function readBitsByText(sql: string): number {
  const trimmed = startsAsRead(sql, leadingSpace(sql)) ? READ_TRIMMED : 0;
  const asWritten = startsAsRead(sql, 0) ? READ_AS_WRITTEN : 0;
  return READ_WITH_COMMENTS | trimmed | asWritten;
}

function startsAsRead(sql: string, at: number): boolean {
  return at >= sql.length || readingFirstBytes.includes(sql.charAt(at));
}

/** Length of what C's isspace() accepts at the beginning. */
function leadingSpace(sql: string): number {
  let at = 0;
  for (; at < sql.length; at++) {
    const code = sql.charCodeAt(at);
    if (code !== 32 && (code < 9 || code > 13)) break;
  }
  return at;
}

type Decided = { readonly destination: Destination; readonly reason: KindReason };
const toPrimary = (reason: KindReason): Decided => ({ destination: "primary", reason });
const toBoth = (reason: KindReason): Decided => ({ destination: "both", reason });
const toEither: Decided = { destination: "either", reason: "read" };

/** Section 3.5. */
function isSetting(raw: TaggedNode): boolean {
  const statement = statementOf(raw);
  return (
    statement.kind === "set" &&
    destinationOf(raw, statement, findInTree(raw.node)).destination === "both"
  );
}

function destinationOf(first: TaggedNode, statement: Statement, below: TreeFindings): Decided {
  switch (statement.kind) {
    case "select":
    case "prepare":
      return preparableDestination(statement, first, below);
    case "copy":
      if (statement.fromClient || !statement.reads) return toPrimary("copy_in");
      return below.locksRows ? toPrimary("row_lock") : toEither;
    case "show":
    case "empty":
      return toEither;
    case "explain":
      return toPrimary("explain");
    case "transaction":
      return statement.control.kind === "two_phase"
        ? toPrimary("two_phase")
        : toBoth("transaction_control");
    case "set":
      if (statement.effect === "serializable") return toPrimary("serializable_setting");
      if (statement.effect === "read_write") return toPrimary("read_write_setting");
      return toBoth("session_setting");
    case "discard":
      return toBoth("session_setting");
    case "execute":
    case "deallocate":
      return toPrimary("prepared_statement");
    case "listen":
      return toPrimary("notification");
    case "write":
      return toPrimary("write");
    case "create_temp_table":
    case "drop_table":
      return toPrimary("utility");
    case "unparsable":
      return toPrimary("unparsable");
    case "pgpool":
      return toPrimary("pgpool_command");
    case "other":
      return otherDestination(first);
  }
}

function preparableDestination(
  statement: Statement,
  first: TaggedNode,
  below: TreeFindings,
): Decided {
  const query =
    statement.kind === "prepare"
      ? tagged(anyField(first.node, "query"))
      : { tag: first.tag, node: first.node };
  if (query?.tag !== "SelectStmt") return toPrimary("write");
  if (below.locksRows) return toPrimary("row_lock");
  if (below.selectsInto) return toPrimary("select_into");
  if (writesInWith(query.node)) return toPrimary("writing_with");
  return toEither;
}

function otherDestination(first: TaggedNode): Decided {
  switch (first.tag) {
    case "LockStmt": {
      // 1 is ACCESS SHARE, 2 ROW SHARE: harmless locks that a standby grants as well.
      const mode = anyField(first.node, "mode");
      return typeof mode === "number" && mode <= 2 ? toBoth("table_lock") : toPrimary("table_lock");
    }
    case "DeclareCursorStmt":
    case "FetchStmt":
    case "ClosePortalStmt":
      return toPrimary("cursor");
    case "NotifyStmt":
      return toPrimary("notification");
    default:
      return toPrimary("utility");
  }
}

function writtenTablesOf(
  first: TaggedNode,
  tables: readonly RelationName[],
  readBits: number,
): readonly RelationName[] {
  if (writingTags.has(first.tag)) return tables;
  return first.tag === "SelectStmt" && readBits !== READ_ALWAYS ? tables : none;
}

const otherTags: ReadonlySet<string> = new Set([
  "CheckPointStmt",
  "ClosePortalStmt",
  "CopyStmt",
  "DeallocateStmt",
  "DeclareCursorStmt",
  "DiscardStmt",
  "ExecuteStmt",
  "ExplainStmt",
  "FetchStmt",
  "ListenStmt",
  "LoadStmt",
  "LockStmt",
  "NotifyStmt",
  "PrepareStmt",
  "TransactionStmt",
  "UnlistenStmt",
  "VacuumStmt",
  "VariableSetStmt",
  "VariableShowStmt",
  "CallStmt",
  "DoStmt",
  "ConstraintsSetStmt",
]);

function counterOf(tag: string): StatementCounter {
  switch (tag) {
    case "SelectStmt":
      return "select";
    case "InsertStmt":
      return "insert";
    case "UpdateStmt":
      return "update";
    case "DeleteStmt":
      return "delete";
    case "MergeStmt":
      return "other";
    default:
      return otherTags.has(tag) ? "other" : "ddl";
  }
}

/**
 * Definitions that cannot change a volatility, a persistence or what pg_catalog holds. Anything
 * else that begins with CREATE, ALTER, DROP or RENAME may, and so may a DO block.
 */
const harmlessDefinitions: ReadonlySet<string> = new Set([
  "CreateRoleStmt",
  "AlterRoleStmt",
  "AlterRoleSetStmt",
  "DropRoleStmt",
  "CreateTableSpaceStmt",
  "DropTableSpaceStmt",
  "CreatePublicationStmt",
  "AlterPublicationStmt",
  "CreateSubscriptionStmt",
  "AlterSubscriptionStmt",
  "DropSubscriptionStmt",
  "CreateStatsStmt",
  "CreatePolicyStmt",
  "AlterPolicyStmt",
  "CreateTrigStmt",
  "CreateEventTrigStmt",
  "AlterSystemStmt",
  "AlterDatabaseStmt",
  "AlterDatabaseSetStmt",
  "AlterDefaultPrivilegesStmt",
]);

/** A database of a name that was known may be another one now. */
const databaseTags: ReadonlySet<string> = new Set(["CreatedbStmt", "DropdbStmt"]);

const definingTag = /^(?:Create|Alter|Drop|Rename|Define|Import|Do|Composite|View|Refresh)/;

function redefinedBy(raw: TaggedNode): Redefines {
  if (raw.tag === "CreateStmt" || raw.tag === "CreateTableAsStmt" || raw.tag === "ViewStmt") {
    const owner = raw.tag === "CreateTableAsStmt" ? childNode(raw.node, "into") : raw.node;
    const relation = childNode(owner ?? raw.node, owner === raw.node ? "relation" : "rel");
    const view = childNode(raw.node, "view");
    const persistence = textField(view ?? relation ?? raw.node, "relpersistence");
    return persistence === "t" ? "temporary" : "catalog";
  }
  if (raw.tag === "SelectStmt") {
    return childNode(raw.node, "intoClause") === undefined ? "nothing" : "catalog";
  }
  if (raw.tag === "ExplainStmt") {
    const inner = analyzedBy(raw.node);
    return inner === undefined ? "nothing" : redefinedBy(inner);
  }
  // These run code of the user's, which most often creates temporary tables if any.
  if (raw.tag === "CallStmt" || raw.tag === "DiscardStmt") return "temporary";
  if (harmlessDefinitions.has(raw.tag)) return "nothing";
  if (databaseTags.has(raw.tag) || textField(raw.node, "renameType") === "OBJECT_DATABASE") {
    return "databases";
  }
  return definingTag.test(raw.tag) ? "catalog" : "nothing";
}

/** Functions whose effect lasts as long as the session. */
const lastingFunctions: ReadonlySet<string> = new Set([
  "pg_advisory_lock",
  "pg_advisory_lock_shared",
  "pg_try_advisory_lock",
  "pg_try_advisory_lock_shared",
  "set_config",
  "setseed",
]);

/** CURSOR_OPT_HOLD of PostgreSQL's parse tree: the cursor outlives its transaction. */
const CURSOR_OPT_HOLD = 0x20;

/** `everywhere`: what is set is set on every node. */
function leavesOf(all: readonly RawStatement[], everywhere: boolean): Leaves {
  let leaves: Leaves = "nothing";
  for (const raw of all) {
    if (leavesState(raw)) return "state";
    if (raw.tag === "VariableSetStmt" && !flagField(raw.node, "is_local")) leaves = "settings";
  }
  return leaves === "nothing" || everywhere ? leaves : "state";
}

function leavesState(raw: RawStatement): boolean {
  switch (raw.tag) {
    case "ListenStmt":
    case "LoadStmt":
      return true;
    case "DeclareCursorStmt": {
      const options = anyField(raw.node, "options");
      return typeof options === "number" && (options & CURSOR_OPT_HOLD) !== 0;
    }
    case "CreateSeqStmt":
      return isTemporary(childNode(raw.node, "sequence"));
    case "SelectStmt": {
      if (isTemporary(childNode(childNode(raw.node, "intoClause") ?? {}, "rel"))) return true;
      return callsLasting(raw.node);
    }
    case "InsertStmt":
    case "UpdateStmt":
    case "DeleteStmt":
    case "MergeStmt":
    case "PrepareStmt": // whatever is executed later
      return callsLasting(raw.node);
    case "DiscardStmt":
      return false;
    default:
      return redefinedBy(raw) === "temporary" && raw.tag !== "CallStmt";
  }
}

function setsAmongOthers(all: readonly RawStatement[], everywhere: boolean): SetsHere {
  let sets: SetsHere = "nothing";
  for (const { tag, node } of all) {
    const lasts = tag === "VariableSetStmt" && !everywhere && !flagField(node, "is_local");
    const found = lasts ? "session" : findInTree(node).sets;
    if (found === "session") return found;
    if (found === "transaction") sets = found;
  }
  return sets;
}

const callsLasting = (node: TreeNode): boolean =>
  findInTree(node).functions.some(({ name }) => lastingFunctions.has(name));

const isTemporary = (relation: TreeNode | undefined): boolean =>
  relation !== undefined && textField(relation, "relpersistence") === "t";

function mayWrite(raw: TaggedNode): boolean {
  if (raw.tag === "TransactionStmt" || raw.tag === "VariableShowStmt") return false;
  if (raw.tag !== "SelectStmt") return true;
  const below = findInTree(raw.node);
  return below.functions.length > 0 || below.locksRows || !readsOnly(raw.node);
}

function executedBy({ tag, node }: TaggedNode): StatementFacts["executes"] {
  if (tag !== "ExplainStmt" && tag !== "CreateTableAsStmt") return undefined;
  const inner = tagged(anyField(node, "query"));
  if (inner?.tag === "CreateTableAsStmt") return executedBy(inner);
  if (inner?.tag !== "ExecuteStmt") return undefined;
  return { name: textField(inner.node, "name"), creates: tag === "CreateTableAsStmt" };
}

const redefinesOrder: readonly Redefines[] = ["nothing", "temporary", "catalog", "databases"];

function worseOf(a: Redefines, b: Redefines): Redefines {
  return redefinesOrder.indexOf(a) >= redefinesOrder.indexOf(b) ? a : b;
}

const cursorTags: ReadonlySet<string> = new Set([
  "DeclareCursorStmt",
  "FetchStmt",
  "ClosePortalStmt",
]);

function isEnd(raw: TaggedNode): boolean {
  const statement = statementOf(raw);
  if (statement.kind !== "transaction") return false;
  const { kind } = statement.control;
  return kind === "commit" || kind === "rollback" || kind === "two_phase";
}

const noNames = { deallocates: none, deallocatesAfter: none, executesFirst: none };

/** What several statements do with prepared ones, if they undo any. */
function namesOf(all: readonly RawStatement[]) {
  if (all.length === 1 || !all.some(({ tag }) => tag === "DeallocateStmt")) return noNames;
  const deallocates: string[] = [];
  const deallocatesAfter: number[] = [];
  const executesFirst: string[] = [];
  for (const [index, each] of all.entries()) {
    const isExecute = each.tag === "ExecuteStmt";
    const executed = isExecute ? textField(each.node, "name") : executedBy(each)?.name;
    if (each.tag === "DeallocateStmt") {
      deallocates.push(textField(each.node, "name"));
      deallocatesAfter.push(Math.min(index + 1, all.length - 1));
    } else if (executed !== undefined) {
      const isUndone = deallocates.includes(executed) || deallocates.includes("");
      if (!isUndone) executesFirst.push(executed);
    }
  }
  return { deallocates, deallocatesAfter, executesFirst };
}

function preparesOf(sql: string, all: readonly RawStatement[]): readonly PreparedFacts[] {
  if (!all.some((raw) => raw.tag === "PrepareStmt")) return none;
  // Offsets of the parser count bytes of UTF-8, not characters.
  const bytes = new TextEncoder().encode(sql);
  return all
    .filter((raw) => raw.tag === "PrepareStmt")
    .map((raw) => {
      const end = raw.length === 0 ? bytes.length : raw.offset + raw.length;
      const text = new TextDecoder().decode(bytes.subarray(raw.offset, end));
      const query = tagged(anyField(raw.node, "query"));
      const changed = query === undefined ? noTables : changedTables([query]);
      const inserts = query === undefined ? none : insertsOf(query);
      const changes = changesWhenRun(anyField(raw.node, "query"));
      const name = textField(raw.node, "name");
      return { name, sql: text, changedTables: changed, inserts, changes };
    });
}
