/** What a statement does to the session besides its answer, as the protocol's book-keeping asks. */
import type { Leaves, StatementFacts } from "../../core/sql/facts.ts";

/** Stands for what routing cannot see into, as a function called by number: it may write anything. */
export const anyWriteSql = "INSERT INTO pg_largeobject DEFAULT VALUES";

/** BEGIN, START TRANSACTION. */
export function begins({ statement }: StatementFacts): boolean {
  return statement.kind === "transaction" && statement.control.kind === "begin";
}

/** DECLARE … CURSOR. */
export const declares = ({ statement }: StatementFacts): boolean =>
  statement.kind === "other" && statement.tag === "DeclareCursorStmt";

/** Alone and outside of a transaction block it is an error. */
export const needsBlock = ({ statement }: StatementFacts): boolean =>
  statement.kind === "other" &&
  (statement.tag === "DeclareCursorStmt" || statement.tag === "LockStmt");

/** COMMIT, ROLLBACK and their other names. */
export function endsTransaction(facts: StatementFacts): boolean {
  const { statement } = facts;
  if (statement.kind !== "transaction") return false;
  return statement.control.kind === "commit" || statement.control.kind === "rollback";
}

/** PREPARE TRANSACTION and what becomes of it, which the write node alone executes. */
export const isTwoPhase = ({ statement }: StatementFacts): boolean =>
  statement.kind === "transaction" && statement.control.kind === "two_phase";

/** The statement of a PGPOOL EXPLAIN ROUTE. */
export function explainedBy({ statement }: StatementFacts): string | undefined {
  if (statement.kind !== "pgpool" || statement.command.kind !== "explain_route") return undefined;
  return statement.command.sql;
}

/** COPY … FROM STDIN: data for the server follow. */
export function readsCopyData({ statement }: StatementFacts): boolean {
  return statement.kind === "copy" && statement.fromClient && statement.throughClient;
}

/** Data for the server may follow: what we cannot see into may hold a COPY. */
export function mayReadCopyData(facts: StatementFacts): boolean {
  if (facts.multiStatement) return !facts.onlySettings;
  return facts.statement.kind === "unparsable" || readsCopyData(facts);
}

const namesWords = /execute|prepare|deallocate/i;

/** It may execute prepared statements or undo them, or make one whose name must be free. */
export function mayUseNames(facts: StatementFacts, sql: string): boolean {
  const { kind } = facts.statement;
  if (kind === "execute" || kind === "deallocate" || kind === "prepare") return true;
  if (facts.executes !== undefined) return true;
  const hides =
    kind === "explain" ||
    kind === "other" ||
    kind === "create_temp_table" ||
    facts.calledFunctions.length > 0;
  return (hides || mayHoldSeveral(facts)) && namesWords.test(sql);
}

/** Of a statement that may use names: whether this may be one. */
export function mayUseName(facts: StatementFacts, sql: string, name: string): boolean {
  if (mayHoldSeveral(facts)) return mentions(sql, name);
  const { statement, executes } = facts;
  const { kind } = statement;
  if (kind === "execute" || kind === "deallocate" || kind === "prepare") {
    return statement.name === name;
  }
  return executes === undefined ? mentions(sql, name) : executes.name === name;
}

/** Without quotes a name may be written in any case, within them with its quotes doubled. */
function mentions(sql: string, name: string): boolean {
  if (sql.includes(name)) return true;
  if (sql.toLowerCase().includes(name)) return true;
  return name.includes('"') && sql.includes(name.replaceAll('"', '""'));
}

/** Of a statement that may use this name: whether it may do more than undo it. */
export const mayExecute = ({ deallocates, executesFirst }: StatementFacts, name: string): boolean =>
  deallocates.length === 0 || executesFirst.includes(name);

/** Whether its Parse, or at the latest its execution, looks at the data as they are at that time. */
export function takesSnapshot({ statement }: StatementFacts, step: "Parse" | "Execute"): boolean {
  switch (statement.kind) {
    case "select":
      return true;
    case "empty":
    case "show":
    case "set":
    case "transaction":
    case "deallocate":
    case "discard":
      return false;
    default:
      return step === "Execute";
  }
}

/** PostgreSQL minds what was executed before it in the same transaction: no reads, no writes. */
export function mindsQueries({ statement }: StatementFacts): boolean {
  switch (statement.kind) {
    case "transaction":
    case "set":
    case "discard":
    case "other":
    case "unparsable":
      return true;
    default:
      return false;
  }
}

/** Within a transaction: it is refused, or means something else, where nothing was read before. */
export function mindsReads(facts: StatementFacts): boolean {
  return begins(facts) || (mindsQueries(facts) && facts.statement.kind !== "transaction");
}

/** Settings, the bounds of transactions and names are not bound to where the segment is. */
export function concernsAll({ destination, statement }: StatementFacts): boolean {
  const { kind } = statement;
  return destination === "both" || kind === "deallocate" || kind === "prepare";
}

/** What the session has left on its servers so far, when this has succeeded too. */
export function leftAfter(before: Leaves, { statement, leaves }: StatementFacts): Leaves {
  if (statement.kind === "discard") return statement.target === "all" ? "nothing" : before;
  return before === "nothing" || leaves === "state" ? leaves : before;
}

/** What follows must know what it has made of the names. */
export function forgets(facts: StatementFacts): boolean {
  const { kind } = facts.statement;
  return kind === "deallocate" || kind === "discard" || mayClosePortals(facts);
}

const endings: ReadonlySet<string> = new Set(["commit", "rollback", "rollback_to", "two_phase"]);

/** Statements that the first one's facts say nothing of may follow it in the same text. */
export function mayHoldSeveral({ statement, multiStatement }: StatementFacts): boolean {
  return multiStatement || statement.kind === "unparsable";
}

/** CLOSE and the end of a transaction or a part of it, and what may be one without our seeing it. */
export function mayClosePortals(facts: StatementFacts): boolean {
  const { statement } = facts;
  if (mayHoldSeveral(facts)) return true;
  if (statement.kind === "transaction") return endings.has(statement.control.kind);
  return statement.kind === "other" && statement.tag === "ClosePortalStmt";
}
