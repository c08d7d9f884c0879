/**
 * insert_lock: the order of INSERTs into a table whose rows a sequence numbers must be the same on
 * every node, so they take turns (spec routing/native-replication.md section 5).
 *
 * A session calls `insertLockOf` before it sends an INSERT to several nodes, in a transaction, and
 * carries out `takeInsertLock`: each step is one statement and the nodes that run it; what comes back
 * is how many rows the last of them gave. An error ends it: it is the client's.
 */

import { literal } from "./quoting.ts";
import type { TableColumns } from "./table_columns.ts";

export type InsertLock =
  /** Keeps all other writers out of the table. */
  | { readonly kind: "table"; readonly table: string }
  /** A row of pgpool_catalog.insert_lock stands for the table. */
  | { readonly kind: "row"; readonly table: string };

/** `main` first and alone, then `others`, side by side. */
export type LockStep = { readonly on: "main" | "others"; readonly sql: string };

/**
 * The lock that the INSERT needs into this table. `text`: the statement as the client sent it,
 * `trimmed`: ignore_leading_white_space, `enabled`: insert_lock.
 */
export function insertLockOf(options: {
  readonly text: string;
  readonly trimmed: boolean;
  readonly enabled: boolean;
  readonly table: TableColumns;
}): InsertLock | undefined {
  const { text, table } = options;
  const start = options.trimmed ? text.trimStart() : text;
  if (/^\/\*NO INSERT LOCK\*\//i.test(start)) return undefined;
  if (/^\/\*INSERT LOCK\*\//i.test(start)) return { kind: "table", table: table.qualified };
  if (!options.enabled || !table.serial) return undefined;
  return { kind: table.hasLockTable ? "row" : "table", table: table.qualified };
}

const LOCK_TABLE = "pgpool_catalog.insert_lock";

const tableLock = (table: string): string => `LOCK TABLE ${table} IN SHARE ROW EXCLUSIVE MODE`;

/**
 * The steps that take the lock; `yield` gives the number of rows that the step returned, the least of
 * several nodes. The row is made where it is first wanted: two sessions that do so at once wait for each
 * other there already, which is what Pgpool-II keeps row 0 for. The order is the main node's; the lock on
 * the others outlives a transaction that was ended on the main node, and keeps out what runs there by
 * itself.
 */
export function* takeInsertLock(lock: InsertLock): Generator<LockStep, void, number> {
  if (lock.kind === "row") {
    if ((yield* lockRow("main", lock.table)) && (yield* lockRow("others", lock.table))) return;
  }
  yield { on: "main", sql: tableLock(lock.table) };
  yield { on: "others", sql: tableLock(lock.table) };
}

/** False when there is still no row: somebody removes them, and the other lock does as well. */
function* lockRow(on: LockStep["on"], table: string): Generator<LockStep, boolean, number> {
  const oid = `pg_catalog.to_regclass(${literal(table)})::pg_catalog.oid`;
  const found = `SELECT 1 FROM ${LOCK_TABLE} WHERE reloid OPERATOR(pg_catalog.=) ${oid} FOR UPDATE`;
  if ((yield { on, sql: found }) > 0) return true;
  yield { on, sql: `INSERT INTO ${LOCK_TABLE} VALUES (${oid}) ON CONFLICT DO NOTHING` };
  return (yield { on, sql: found }) > 0;
}
