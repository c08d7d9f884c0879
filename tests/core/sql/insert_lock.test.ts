import { describe, expect, test } from "bun:test";
import { type InsertLock, insertLockOf, takeInsertLock } from "../../../core/sql/insert_lock.ts";
import { qualifiedName } from "../../../core/sql/parse_tree.ts";
import { noTable, readColumns, type TableColumns } from "../../../core/sql/table_columns.ts";

const table: TableColumns = { ...noTable, qualified: '"public"."t"' };
const serial = { ...table, serial: true };
const withRows = { ...serial, hasLockTable: true };

describe("insertLockOf", () => {
  const cases: [text: string, table: TableColumns, enabled: boolean, kind: string | undefined][] = [
    ["INSERT INTO t VALUES (1)", table, true, undefined],
    ["INSERT INTO t VALUES (1)", serial, true, "table"],
    ["INSERT INTO t VALUES (1)", withRows, true, "row"],
    ["INSERT INTO t VALUES (1)", withRows, false, undefined],
    ["/*INSERT LOCK*/ INSERT INTO t VALUES (1)", table, false, "table"],
    ["/*insert lock*/ INSERT INTO t VALUES (1)", withRows, true, "table"],
    ["/*NO INSERT LOCK*/INSERT INTO t VALUES (1)", withRows, true, undefined],
    ["/* NO INSERT LOCK */INSERT INTO t VALUES (1)", withRows, true, "row"],
    ["  /*NO INSERT LOCK*/INSERT INTO t VALUES (1)", withRows, true, undefined],
  ];
  test.each(cases)("%s: %#", (text, into, enabled, kind) => {
    expect(insertLockOf({ text, trimmed: true, enabled, table: into })?.kind).toBe(
      kind as InsertLock["kind"],
    );
  });

  test("with leading blanks that are not ignored the comment is none", () => {
    const text = " /*NO INSERT LOCK*/INSERT INTO t VALUES (1)";
    const lock = insertLockOf({ text, trimmed: false, enabled: true, table: serial });
    expect(lock?.kind).toBe("table");
  });
});

describe("takeInsertLock", () => {
  /** What is run, `m` on the main node and `o` on the others; `rows` come back one after another. */
  function steps(lock: InsertLock, rows: readonly number[]): string[] {
    const done: string[] = [];
    const dialogue = takeInsertLock(lock);
    let step = dialogue.next();
    for (let turn = 0; step.done !== true; turn++) {
      const { on, sql } = step.value;
      done.push(`${on[0]} ${/^(?:SELECT|INSERT|LOCK TABLE \S+)/.exec(sql)?.[0]}`);
      step = dialogue.next(rows[turn] ?? 0);
    }
    return done;
  }

  test("a table is locked on the main node first", () => {
    const lock = { kind: "table", table: '"public"."t"' } as const;
    expect(steps(lock, [])).toEqual(['m LOCK TABLE "public"."t"', 'o LOCK TABLE "public"."t"']);
  });

  test("a row that is there is locked, on the main node first", () => {
    expect(steps({ kind: "row", table: "t" }, [1, 1])).toEqual(["m SELECT", "o SELECT"]);
  });

  test("a row that is missing is made, on the main node first", () => {
    expect(steps({ kind: "row", table: "t" }, [0, 1, 1, 0, 1, 1])).toEqual([
      ...["m SELECT", "m INSERT", "m SELECT", "o SELECT", "o INSERT", "o SELECT"],
    ]);
  });

  test("where no row can be made the table is locked", () => {
    expect(steps({ kind: "row", table: "t" }, [0, 0, 0])).toEqual([
      ...["m SELECT", "m INSERT", "m SELECT", "m LOCK TABLE t", "o LOCK TABLE t"],
    ]);
    expect(steps({ kind: "row", table: "t" }, [1, 0, 0, 0])).toEqual([
      ...["m SELECT", "o SELECT", "o INSERT", "o SELECT", "m LOCK TABLE t", "o LOCK TABLE t"],
    ]);
  });
});

describe("readColumns", () => {
  const column = (name: string, expression: string | null, generated = "", identity = "") => [
    ...[name, "timestamp with time zone", expression, generated, identity, "D"],
  ];
  const one = (...columns: readonly unknown[]) =>
    readColumns(
      qualifiedName(undefined, "t"),
      JSON.stringify([["s", 't"x', false, true, columns, true]]),
    );

  test.each([
    ["now()", true],
    ["CURRENT_TIMESTAMP", true],
    ["('now'::text)::date", true],
    ["date_trunc('day'::text, clock_timestamp())", true],
    ["'2020-01-01'::date", false],
    ["known()", false],
    ["nextval('s'::regclass)", false],
    ["(to_char(now(), 'YYYY'::text) || nextval('s'::regclass))", false],
    [null, false],
  ])("a default of %s varies: %p", (expression, varies) => {
    expect(one(column("c", expression)).table.columns[0]?.varying !== undefined).toBe(varies);
  });

  test("a generated column does not vary, and an identity is a serial", () => {
    expect(one(column("c", "now()", "s")).table.columns[0]?.varying).toBeUndefined();
    expect(one(column("c", null)).table.serial).toBe(false);
    expect(one(column("c", null, "", "d")).table.serial).toBe(true);
    expect(one(column("c", "nextval('s'::regclass)")).table.serial).toBe(true);
  });

  test("names are quoted for SQL", () => {
    expect(one().table.qualified).toBe('"s"."t""x"');
    expect(one().table.hasLockTable).toBe(true);
  });

  test("of several tables of one name the visible one counts, for this session only", () => {
    const rows = [
      ["a", "t", false, false, [column("x", null)], false],
      ["b", "t", false, true, [column("y", null)], false],
    ];
    const answer = readColumns(qualifiedName(undefined, "t"), JSON.stringify(rows));
    expect(answer.table.columns.map(({ name }) => name)).toEqual(["y"]);
    expect(answer.ownOnly).toBe(true);
    expect(readColumns(qualifiedName(undefined, "t"), null).table).toBe(noTable);
  });

  test("a temporary table takes no turns", () => {
    const rows = [["pg_temp_3", "t", true, true, [column("x", null, "", "a")], false]];
    const answer = readColumns(qualifiedName(undefined, "t"), JSON.stringify(rows));
    expect(answer).toMatchObject({ ownOnly: true, table: { serial: false } });
  });
});
