/** Which savepoint a transaction that has failed can go back to. */
import { expect, test } from "bun:test";
import { FAILED, IDLE, IN_TRANSACTION } from "../../../proxy/session/replies.ts";
import { Savepoints } from "../../../proxy/session/sequences.ts";
import { parser } from "../../golden/stage.ts";

const rows: readonly (readonly [statements: string[], undo: string | undefined])[] = [
  [["BEGIN"], "ROLLBACK AND CHAIN"],
  [["BEGIN", "SAVEPOINT a"], 'ROLLBACK TO "a"'],
  [["BEGIN", 'SAVEPOINT "A b"', "INSERT INTO t VALUES (1)"], 'ROLLBACK TO "A b"'],
  [["BEGIN", "SAVEPOINT a", "SAVEPOINT b"], 'ROLLBACK TO "b"'],
  [["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "RELEASE b"], 'ROLLBACK TO "a"'],
  [["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "RELEASE a"], "ROLLBACK AND CHAIN"],
  [["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a"], 'ROLLBACK TO "a"'],
  [["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "SAVEPOINT a", "RELEASE a"], 'ROLLBACK TO "b"'],
  [["BEGIN", "SAVEPOINT a", "COMMIT AND CHAIN"], "ROLLBACK AND CHAIN"],
  [["BEGIN; SAVEPOINT a"], undefined],
  [["BEGIN", "SAVEPOINT a; what is new"], undefined],
  [["BEGIN", "INSERT INTO pending VALUES (1); SELECT 2"], "ROLLBACK AND CHAIN"],
  [["BEGIN", "SAVEPOINT a; INSERT INTO t VALUES (1)"], undefined],
  [["BEGIN", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"], "ROLLBACK AND CHAIN"],
];
test.each(rows)("%p → %p", (statements, undo) => {
  const savepoints = new Savepoints();
  for (const sql of statements) savepoints.note(parser.facts(sql), sql, IN_TRANSACTION, false);
  expect(savepoints.undo).toBe(undo as typeof savepoints.undo);
  savepoints.note(parser.facts("SAVEPOINT late"), "SAVEPOINT late", FAILED, true);
  expect(savepoints.undo).toBe(undo as typeof savepoints.undo);
  savepoints.note(parser.facts("COMMIT"), "COMMIT", IDLE, false);
  expect(savepoints.undo).toBe("ROLLBACK AND CHAIN");
});
