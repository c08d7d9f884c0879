/** What a statement does to the session besides its answer, as the protocol's book-keeping asks. */
import type { StatementFacts } from "../../core/sql/facts.ts";

/** BEGIN, START TRANSACTION. */
export function begins({ statement }: StatementFacts): boolean {
  return statement.kind === "transaction" && statement.control.kind === "begin";
}

/** COPY … FROM STDIN: data for the server follow. */
export function readsCopyData({ statement }: StatementFacts): boolean {
  return statement.kind === "copy" && statement.fromClient && statement.throughClient;
}

/** Settings, the bounds of transactions and names are not bound to where the segment is. */
export function concernsAll({ destination, statement }: StatementFacts): boolean {
  const { kind } = statement;
  return destination === "both" || kind === "deallocate" || kind === "prepare";
}

/** What follows must know what it has made of the names. */
export function forgets(facts: StatementFacts): boolean {
  const { kind } = facts.statement;
  return kind === "deallocate" || kind === "discard" || mayClosePortals(facts);
}

const endings: ReadonlySet<string> = new Set(["commit", "rollback", "rollback_to", "two_phase"]);

/** CLOSE and the end of a transaction or a part of it, and what may be one without our seeing it. */
export function mayClosePortals({ statement, multiStatement }: StatementFacts): boolean {
  if (multiStatement || statement.kind === "unparsable") return true;
  if (statement.kind === "transaction") return endings.has(statement.control.kind);
  return statement.kind === "other" && statement.tag === "ClosePortalStmt";
}
