/**
 * Rewriting for native replication. The table shows, for each text, what the nodes get when the main
 * node's answers are `v0`, `v1` and so on. The properties hold of any text: what comes out is SQL
 * again, and nothing but the places changes.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { qualifiedName, type RelationName } from "../../../core/sql/parse_tree.ts";
import {
  askedSql,
  needsRewriting,
  placeBefore,
  type RewriteContext,
  type Rewriting,
  literals as rowOf,
  withLiterals,
  withParameters,
} from "../../../core/sql/rewrite.ts";
import { type Column, noTable, type TableColumns } from "../../../core/sql/table_columns.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import { sqlFromTokens, sqlWithConstants } from "./texts.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

const column = (name: string, type: string, varying?: string): Column => ({
  name,
  type,
  moment: varying !== undefined,
  varying,
});

/** Table `t` has two columns that tell the time; any other table has none. */
const t: TableColumns = {
  ...noTable,
  columns: [
    column("a", "integer"),
    column("ts", "timestamp with time zone", "now()"),
    column("b", "text"),
    column("d", "date", "CURRENT_DATE"),
  ],
};

const context: RewriteContext = {
  columnsOf: ({ name }: RelationName) => (name === "t" ? t : noTable),
  addedTo: (name) => (name === "p" ? ["first", "second"] : []),
};

const rewrite = (sql: string): Rewriting | undefined =>
  parser.rewriting(sql, parser.facts(sql), context);

function literals(sql: string): string {
  const rewriting = rewrite(sql);
  if (rewriting === undefined) return sql;
  return withLiterals(
    sql,
    rewriting,
    rewriting.asked.map((_, index) => `v${index}`),
  );
}

function parameters(sql: string, declared = 0): string {
  const rewriting = rewrite(sql);
  return rewriting === undefined ? sql : withParameters(sql, rewriting, declared).sql;
}

test("the place of an error in the nodes' text is told as that in the client's", () => {
  for (const sql of [
    "INSERT INTO t (a) VALUES ('wrong')",
    'INSERT INTO t (a, "b") VALUES (now(), /* é😀 */ wrong)',
    "INSERT INTO t VALUES ('😀', now(), wrong)",
    "UPDATE u SET x = now() WHERE y = CURRENT_DATE AND wrong",
  ]) {
    const rewriting = rewrite(sql);
    if (rewriting === undefined) throw new Error(`${sql} is not rewritten`);
    const row = rewriting.asked.map(() => "2026-01-01");
    const filled = withParameters(sql, rewriting, 0);
    for (const [text, filling] of [
      [withLiterals(sql, rewriting, row), rowOf(row)],
      [filled.sql, filled.filling],
    ] as const) {
      const placeIn = (whole: string, part: string) => [...(whole.split(part)[0] ?? "")].length + 1;
      const placeOf = (part: string) => placeBefore(sql, rewriting, filling, placeIn(text, part));
      expect([text, placeOf("wrong")]).toEqual([text, placeIn(sql, "wrong")]);
      const put = placeOf("::pg_catalog.text");
      if (text.includes("CAST(")) expect(put).toBeLessThan(placeIn(sql, "wrong"));
    }
  }
});

const moment = (type: string, value = "'v0'"): string =>
  `CAST(${value}::pg_catalog.text AS pg_catalog.${type})`;
const now = moment("timestamptz");

describe("the time", () => {
  test.each([
    ["INSERT INTO u VALUES (now())", `INSERT INTO u VALUES (${now})`],
    ["INSERT INTO u VALUES (pg_catalog . now ( ) )", `INSERT INTO u VALUES (${now} )`],
    ["INSERT INTO u VALUES (NOW(/* ) */))", `INSERT INTO u VALUES (${now})`],
    ["UPDATE u SET x = transaction_timestamp()", `UPDATE u SET x = ${now}`],
    ["UPDATE u SET x = statement_timestamp()", `UPDATE u SET x = ${now}`],
    ["UPDATE u SET x = clock_timestamp()", `UPDATE u SET x = ${now}`],
    ["UPDATE u SET x = timeofday()", `UPDATE u SET x = ${moment("text")}`],
    ["UPDATE u SET x=CURRENT_DATE-1", `UPDATE u SET x=${moment("date")}-1`],
    ["UPDATE u SET x=current_time", `UPDATE u SET x=${moment("timetz")}`],
    ["UPDATE u SET x=current_time(2)", `UPDATE u SET x=${moment("timetz(2)")}`],
    ["UPDATE u SET x=CURRENT_TIMESTAMP", `UPDATE u SET x=${now}`],
    ["UPDATE u SET x=CURRENT_TIMESTAMP (0)", `UPDATE u SET x=${moment("timestamptz(0)")}`],
    ["UPDATE u SET x=LOCALTIME", `UPDATE u SET x=${moment("time")}`],
    ["UPDATE u SET x=LOCALTIMESTAMP(6)", `UPDATE u SET x=${moment("timestamp(6)")}`],
    ["DELETE FROM u WHERE x < 'now'::date", "DELETE FROM u WHERE x < 'v0'::pg_catalog.text::date"],
    [
      "DELETE FROM u WHERE x < ' NOW'::text::time",
      "DELETE FROM u WHERE x < 'v0'::pg_catalog.text::text::time",
    ],
    [
      "DELETE FROM u WHERE x < CAST($$today$$ AS timestamptz)",
      "DELETE FROM u WHERE x < CAST('v0'::pg_catalog.text AS timestamptz)",
    ],
    [
      "DELETE FROM u WHERE x < TIMESTAMP (3) 'tomorrow'",
      "DELETE FROM u WHERE x < CAST('v0'::pg_catalog.text AS TIMESTAMP (3))",
    ],
    [
      "DELETE FROM u WHERE x < timestamp with time zone 'yesterday'",
      "DELETE FROM u WHERE x < CAST('v0'::pg_catalog.text AS timestamp with time zone)",
    ],
    [
      "MERGE INTO u USING w ON w.x < now() WHEN MATCHED THEN DELETE",
      `MERGE INTO u USING w ON w.x < ${now} WHEN MATCHED THEN DELETE`,
    ],
    ["COPY u FROM STDIN WHERE x < now()", `COPY u FROM STDIN WHERE x < ${now}`],
    [
      "COPY (DELETE FROM u WHERE x < now() RETURNING x) TO STDOUT",
      `COPY (DELETE FROM u WHERE x < ${now} RETURNING x) TO STDOUT`,
    ],
    ["CALL p(now())", `CALL p(${now})`],
    ["EXECUTE q(now())", `EXECUTE q(${now})`],
    [
      "EXPLAIN ANALYZE DELETE FROM u WHERE x < now()",
      `EXPLAIN ANALYZE DELETE FROM u WHERE x < ${now}`,
    ],
    ["SELECT f(now())", `SELECT f(${now})`],
    [
      "DELETE FROM é WHERE x = 'ü' AND y < now() -- é",
      `DELETE FROM é WHERE x = 'ü' AND y < ${now} -- é`,
    ],
    [
      "DELETE FROM u; DELETE FROM w WHERE x < now();",
      `DELETE FROM u; DELETE FROM w WHERE x < ${now};`,
    ],
  ])("%s", (sql, expected) => {
    expect(literals(sql)).toBe(expected);
    expect(needsRewriting(parser.facts(sql), context)).toBe(true);
  });

  test.each([
    "INSERT INTO u VALUES (now(1), mine.now(), 'now()', \"now\", 'now', 'now'::text)",
    "UPDATE u SET now = 1 WHERE current_user = 'x' -- now()",
    "UPDATE u SET x = random()",
    "DELETE FROM u WHERE x = 'epoch'::timestamptz",
    "CREATE TABLE u (x timestamptz DEFAULT now())",
    "CREATE VIEW u AS SELECT now()",
    "CREATE MATERIALIZED VIEW u AS SELECT now()",
    "EXPLAIN DELETE FROM u WHERE x < now()",
    "DO 'BEGIN PERFORM now(); END'",
    "now() is not SQL",
  ])("there is none in %s", (sql) => {
    expect(rewrite(sql)).toBeUndefined();
    expect(needsRewriting(parser.facts(sql), context)).toBe(false);
  });

  test("a column made of it keeps its name", () => {
    expect(
      literals(
        "INSERT INTO u VALUES (1) RETURNING now(), now()::date, CASE WHEN x THEN 1 ELSE CURRENT_DATE END, now() AS z, f(now())",
      ),
    ).toBe(
      `INSERT INTO u VALUES (1) RETURNING ${now} AS "now", (SELECT ${now} AS "now")::date, ` +
        `CASE WHEN x THEN 1 ELSE (SELECT ${moment("date")} AS "current_date") END, ${now} AS z, f(${now})`,
    );
    expect(literals("SELECT now INTO u FROM now()")).toBe(`SELECT now INTO u FROM ${now} AS "now"`);
    expect(literals("CREATE TABLE u AS SELECT x.now FROM (SELECT now()) AS x")).toBe(
      `CREATE TABLE u AS SELECT x.now FROM (SELECT ${now} AS "now") AS x`,
    );
  });

  test("is asked once, in a form that any DateStyle reads, and each other thing by itself", () => {
    const rewriting = rewrite(
      "INSERT INTO u VALUES (now(), CURRENT_DATE, clock_timestamp(), 'now'::date)",
    );
    expect(askedSql(rewriting?.asked ?? [])).toBe(
      "SELECT pg_catalog.to_char(pg_catalog.now(), 'YYYY-MM-DD HH24:MI:SS.USOF'), " +
        "pg_catalog.to_char(pg_catalog.clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.USOF')",
    );
  });
});

describe("column defaults", () => {
  test.each([
    ["INSERT INTO t DEFAULT VALUES", `INSERT INTO t ("ts", "d") VALUES ('v0', 'v1')`],
    ["INSERT INTO t VALUES (1)", `INSERT INTO t ("a", "ts", "d") VALUES (1, 'v0', 'v1')`],
    [
      "INSERT INTO t VALUES (1, DEFAULT), (2, 'x')",
      `INSERT INTO t ("a", "ts", "d") VALUES (1, 'v0', 'v1'), (2, 'x', 'v1')`,
    ],
    [
      "INSERT INTO t VALUES (1, 'x', DEFAULT, DEFAULT)",
      "INSERT INTO t VALUES (1, 'x', DEFAULT, 'v0')",
    ],
    [
      "INSERT INTO s.t AS x (a, d) OVERRIDING USER VALUE VALUES ((1), DEFAULT)",
      `INSERT INTO s.t AS x (a, d, "ts") OVERRIDING USER VALUE VALUES ((1), 'v0', 'v1')`,
    ],
    [
      `INSERT INTO t ("a") VALUES (-f((1), $1[2])), (ROW(1))`,
      `INSERT INTO t ("a", "ts", "d") VALUES (-f((1), $1[2]), 'v0', 'v1'), (ROW(1), 'v0', 'v1')`,
    ],
    [
      "INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET ts = DEFAULT",
      `INSERT INTO t (a, "ts", "d") VALUES (1, 'v0', 'v1') ON CONFLICT (a) DO UPDATE SET ts = 'v0'`,
    ],
    [
      "INSERT INTO t (a) (VALUES (1) ORDER BY 1)",
      `INSERT INTO t (a, "ts", "d") (VALUES (1, 'v0', 'v1') ORDER BY 1)`,
    ],
    [
      "INSERT INTO t(a) SELECT x FROM u",
      `INSERT INTO t(a, "ts", "d") SELECT x, CAST('v0' AS timestamp with time zone), CAST('v1' AS date) FROM u`,
    ],
    [
      "INSERT INTO t SELECT x IS DISTINCT FROM y AS from, extract(day FROM z) UNION SELECT 1, percentile_disc(1) WITHIN GROUP (ORDER BY x) FROM u",
      `INSERT INTO t ("a", "ts", "d") SELECT x IS DISTINCT FROM y AS from, extract(day FROM z), CAST('v0' AS date) UNION SELECT 1, percentile_disc(1) WITHIN GROUP (ORDER BY x), CAST('v0' AS date) FROM u`,
    ],
    [
      "INSERT INTO t (a) SELECT 1 ON CONFLICT DO NOTHING",
      `INSERT INTO t (a, "ts", "d") SELECT 1, CAST('v0' AS timestamp with time zone), CAST('v1' AS date) ON CONFLICT DO NOTHING`,
    ],
    ["INSERT INTO t SELECT * FROM u", "INSERT INTO t SELECT * FROM u"],
    [
      "WITH x AS (INSERT INTO t (a) VALUES (1) RETURNING *) SELECT * FROM x",
      `WITH x AS (INSERT INTO t (a, "ts", "d") VALUES (1, 'v0', 'v1') RETURNING *) SELECT * FROM x`,
    ],
    [
      "UPDATE t SET ts = DEFAULT, b = DEFAULT, (a, d) = (1, DEFAULT)",
      "UPDATE t SET ts = 'v0', b = DEFAULT, (a, d) = (1, 'v1')",
    ],
    [
      "MERGE INTO t USING u ON true WHEN NOT MATCHED THEN INSERT (a) VALUES (1) WHEN MATCHED THEN UPDATE SET d = DEFAULT",
      `MERGE INTO t USING u ON true WHEN NOT MATCHED THEN INSERT (a, "ts", "d") VALUES (1, 'v0', 'v1') WHEN MATCHED THEN UPDATE SET d = 'v1'`,
    ],
    [
      "MERGE INTO t USING u ON true WHEN NOT MATCHED THEN INSERT DEFAULT VALUES",
      `MERGE INTO t USING u ON true WHEN NOT MATCHED THEN INSERT ("ts", "d") VALUES ('v0', 'v1')`,
    ],
    ["INSERT INTO u (a) VALUES (DEFAULT)", "INSERT INTO u (a) VALUES (DEFAULT)"],
    [
      "INSERT INTO t (ts, d) VALUES ('2020-01-01', '2020-01-01')",
      "INSERT INTO t (ts, d) VALUES ('2020-01-01', '2020-01-01')",
    ],
  ])("%s", (sql, expected) => {
    expect(literals(sql)).toBe(expected);
  });

  test("a default that is NULL is no string", () => {
    const sql = "INSERT INTO t (ts) VALUES (DEFAULT)";
    const rewriting = rewrite(sql);
    if (rewriting === undefined) throw new Error("nothing to rewrite");
    const text = withLiterals(sql, rewriting, [null, "it's \\"]);
    expect(text).toBe(`INSERT INTO t (ts, "d") VALUES (NULL, E'it''s \\\\')`);
  });
});

describe("parameters", () => {
  test.each([
    [
      "INSERT INTO u VALUES ($2, now())",
      0,
      `INSERT INTO u VALUES ($2, ${moment("timestamptz", "$3")})`,
    ],
    [
      "INSERT INTO u VALUES ($2, now())",
      4,
      `INSERT INTO u VALUES ($2, ${moment("timestamptz", "$5")})`,
    ],
    ["INSERT INTO t VALUES ($1)", 0, `INSERT INTO t ("a", "ts", "d") VALUES ($1, $2, $3)`],
    [
      "UPDATE u SET x = TIMESTAMP 'now'",
      0,
      "UPDATE u SET x = CAST($1::pg_catalog.text AS TIMESTAMP)",
    ],
  ])("%s with %d types declared", (sql, declared, expected) => {
    expect(parameters(sql, declared)).toBe(expected);
    expect(rewrite(sql)?.literalsOnly).toBe(false);
  });

  test.each([
    "EXECUTE q(now())",
    "COPY (DELETE FROM u WHERE x < now() RETURNING x) TO STDOUT",
    "DELETE FROM u; DELETE FROM u WHERE x < now()",
  ])("%s can have none", (sql) => {
    expect(rewrite(sql)?.literalsOnly).toBe(true);
  });

  test.each([
    [
      "PREPARE q AS INSERT INTO u VALUES (now())",
      `PREPARE q AS INSERT INTO u VALUES (${moment("timestamptz", "$1")})`,
    ],
    [
      "PREPARE q (int, int) AS INSERT INTO u VALUES ($1, now())",
      `PREPARE q (int, int) AS INSERT INTO u VALUES ($1, ${moment("timestamptz", "$3")})`,
    ],
    [
      "PREPARE q (int) AS INSERT INTO t(a) VALUES ($1 + $3)",
      `PREPARE q (int) AS INSERT INTO t(a, "ts", "d") VALUES ($1 + $3, $4, $5)`,
    ],
  ])("%s", (sql, expected) => {
    expect(literals(sql)).toBe(expected);
    const rewriting = rewrite(sql);
    expect(rewriting?.asked).toEqual([]);
    expect(rewriting?.prepares.map(({ name }) => name)).toEqual(["q"]);
  });

  test.each([
    ["EXECUTE p", "EXECUTE p('v0', 'v1')"],
    ["EXECUTE p (1, (2)) -- )", "EXECUTE p (1, (2), 'v0', 'v1') -- )"],
    [`EXECUTE "p"(f(1))`, `EXECUTE "p"(f(1), 'v0', 'v1')`],
    ["EXPLAIN EXECUTE p", "EXPLAIN EXECUTE p('v0', 'v1')"],
    [
      "CREATE TABLE execute AS EXECUTE p (1) WITH NO DATA",
      "CREATE TABLE execute AS EXECUTE p (1, 'v0', 'v1') WITH NO DATA",
    ],
    ["DELETE FROM u; EXECUTE p", "DELETE FROM u; EXECUTE p('v0', 'v1')"],
    ["EXECUTE p(now())", `EXECUTE p(${moment("timestamptz", "'v2'")}, 'v0', 'v1')`],
  ])("%s adds what its PREPARE added", (sql, expected) => {
    expect(literals(sql)).toBe(expected);
    expect(needsRewriting(parser.facts(sql), context)).toBe(true);
  });
});

describe("of any text", () => {
  const seed = 20261129;
  const spots = [
    "now()",
    "CURRENT_DATE",
    "CURRENT_TIMESTAMP(3)",
    "'now'::date",
    "TIMESTAMP 'today'",
  ];
  const spot = fc.constantFrom(...spots);
  const expression = fc.oneof(
    spot,
    fc
      .tuple(spot, fc.constantFrom("::date", " AT TIME ZONE 'utc'", " + '1 day'", ""))
      .map((p) => p.join("")),
    fc
      .tuple(fc.constantFrom("f", "coalesce", "(SELECT max", "'é' ||"), spot)
      .map(([f, s]) => (f.startsWith("(") ? `${f}(${s}))` : `${f}(${s})`)),
    fc.constantFrom("1", "DEFAULT", "'it''s'", "$1", "$$a)b$$", '"x"', "-x[1]", "/* ( */ 2"),
  );
  const row = fc.tuple(expression, expression).map((items) => `(${items.join(" , ")})`);
  const gap = fc.constantFrom(" ", "\n", " -- now()\n", " /* ' now() */ ");
  const statement = fc.oneof(
    fc
      .tuple(
        fc.constantFrom("t", "t AS x", "s.t", "u"),
        fc.constantFrom("", "(a,b)", '(d, "a")'),
        fc.array(row, { minLength: 1, maxLength: 3 }),
      )
      .map(([table, list, rows]) => `INSERT INTO ${table} ${list} VALUES ${rows.join(" , ")}`),
    fc
      .tuple(
        spot,
        expression.filter((text) => text !== "DEFAULT"),
      )
      .map(([a, b]) => `INSERT INTO t (a) SELECT ${b} FROM x WHERE y > ${a} UNION ALL SELECT 1`),
    fc
      .tuple(expression, spot)
      .map(([a, b]) => `UPDATE t SET ts = ${a} , a = 1 WHERE d < ${b} RETURNING ${b}`),
    fc
      .tuple(spot)
      .map(
        ([a]) => `MERGE INTO t USING u ON ${a} > x WHEN NOT MATCHED THEN INSERT VALUES (1, ${a})`,
      ),
  );
  const texts = fc.oneof(
    fc.tuple(statement, gap).map(([sql, between]) => sql.replaceAll(" ", between)),
    fc.tuple(statement, statement).map((both) => both.join(" ; ")),
    fc
      .tuple(fc.constantFrom("PREPARE q AS ", "EXPLAIN ANALYZE "), statement)
      .map((both) => both.join("")),
    sqlWithConstants,
    sqlFromTokens,
  );

  test("what is rewritten parses again, and asks for nothing more", () => {
    fc.assert(
      fc.property(texts, (sql) => {
        const rewriting = rewrite(sql);
        if (rewriting === undefined) return;
        const row = rewriting.asked.map(() => "2026-11-29T12:00:00+00:00");
        for (const text of [withLiterals(sql, rewriting, row), parameters(sql)]) {
          const facts = parser.factsAfresh(text);
          expect(facts.statement.kind).not.toBe("unparsable");
          expect(facts.tellsTime).toBe(false);
          expect(rewrite(text)).toBeUndefined();
        }
      }),
      { seed, numRuns: 600 },
    );
  });

  test("the text outside of the places stays as it is", () => {
    fc.assert(
      fc.property(texts, (sql) => {
        const rewriting = rewrite(sql);
        if (rewriting === undefined) return;
        let at = 0;
        let rest = withLiterals(
          sql,
          rewriting,
          rewriting.asked.map(() => "v"),
        );
        for (const { from, to, pieces } of rewriting.edits) {
          expect(from).toBeGreaterThanOrEqual(at);
          expect(rest.startsWith(sql.slice(at, from))).toBe(true);
          const put = pieces
            .map((p) => (typeof p === "string" ? p : "value" in p ? "'v'" : `$${p.parameter}`))
            .join("");
          rest = rest.slice(from - at);
          expect(rest.startsWith(put)).toBe(true);
          rest = rest.slice(put.length);
          at = to;
        }
        expect(rest).toBe(sql.slice(at));
      }),
      { seed, numRuns: 400 },
    );
  });

  /** The same but for constants and the room between tokens. */
  const varied = (sql: string): string =>
    sql
      .replaceAll("'it''s'", "'another; text'")
      .replaceAll("'1 day'", "'12 hours, now'")
      .replace(/\b[12]\b/g, "123")
      .replaceAll(" ", "  ");

  test("what was found for other constants is right for these", () => {
    fc.assert(
      fc.property(texts, (sql) => {
        for (const text of [sql, varied(sql), varied(varied(sql)), sql]) {
          expect(rewrite(text)).toEqual(parser.rewritingAfresh(text, context));
        }
      }),
      { seed, numRuns: 600 },
    );
  });

  test.each([
    [
      "INSERT INTO t VALUES (1, DEFAULT, 'x', now())",
      "INSERT INTO t VALUES (22,DEFAULT, '', now())",
    ],
    ["INSERT INTO u VALUES (1, 2, 3, 4, now())", "INSERT INTO u VALUES (1, 2, 3, -444, now())"],
    ["INSERT INTO t (a) VALUES (1)", "INSERT INTO t (a) VALUES (1e3)"],
    ["INSERT INTO u VALUES (CURRENT_TIMESTAMP(3))", "INSERT INTO u VALUES (CURRENT_TIMESTAMP(0))"],
    ["INSERT INTO u VALUES (TIMESTAMP(6) 'now')", "INSERT INTO u VALUES (TIMESTAMP(1) 'now')"],
    ["INSERT INTO é VALUES ('ü', now())", "INSERT INTO é VALUES ('', now())"],
  ])("%s and %s", (one, other) => {
    for (const sql of [one, other, one]) {
      expect(rewrite(sql)).toEqual(parser.rewritingAfresh(sql, context));
    }
  });

  test("texts that differ in constants are parsed once", () => {
    const [one, other] = [1, 2].map((n) => rewrite(`INSERT INTO u VALUES (${n}, now())`));
    expect(other?.asked).toBe(one?.asked as never);
    expect(other).toEqual(one as never);
  });

  test("what is remembered is counted by what it takes", () => {
    const before = parser.remembered.bytes;
    rewrite(`INSERT INTO u (v) VALUES ${Array.from({ length: 500 }, () => "(now())").join(", ")}`);
    expect(parser.remembered.bytes - before).toBeGreaterThan(500 * 100);
  });

  test("tables of one name in two databases do not push each other out", () => {
    const sql = "INSERT INTO t (b) VALUES (5)";
    const elsewhere: TableColumns = { ...t };
    const other: RewriteContext = { ...context, columnsOf: () => elsewhere };
    rewrite(sql);
    parser.rewriting(sql, parser.facts(sql), other);
    const { parses } = parser;
    rewrite(sql);
    parser.rewriting(sql, parser.facts(sql), other);
    expect(parser.parses).toBe(parses);
  });

  test.each([
    ["INSERT INTO u VALUES (now(), CURRENT_TIMESTAMP(2), 'now'::timestamptz)", true],
    ["INSERT INTO u VALUES (LOCALTIMESTAMP)", false],
    ["INSERT INTO u VALUES ('today'::timestamptz)", false],
    ["INSERT INTO u VALUES (clock_timestamp())", false],
    ["INSERT INTO t (a) VALUES (now())", false], // defaults are filled as well
    ["SET TimeZone = 'UTC'; INSERT INTO u VALUES (now())", false],
    ["COPY u FROM STDIN WHERE v < now()", false],
  ])("%s is steady: %p", (sql, steady) => {
    expect(rewrite(sql)?.steady).toBe(steady);
  });

  test("a table that has changed is looked at again", () => {
    const sql = "INSERT INTO t (a) VALUES (5)";
    expect(rewrite(sql)?.asked).toHaveLength(2);
    const plain: RewriteContext = { ...context, columnsOf: () => noTable };
    expect(parser.rewriting(sql, parser.facts(sql), plain)).toBeUndefined();
    expect(rewrite(sql)?.asked).toHaveLength(2);
  });

  test("the facts of a text say whether there is something to rewrite", () => {
    fc.assert(
      fc.property(texts, (sql) => {
        if (rewrite(sql) !== undefined)
          expect(needsRewriting(parser.facts(sql), context)).toBe(true);
      }),
      { seed, numRuns: 400 },
    );
  });
});

test("the relation's name is what the catalogs are asked for", () => {
  const sql = "WITH x AS (INSERT INTO a DEFAULT VALUES) INSERT INTO s.b SELECT 1";
  const facts = parser.facts(sql);
  const names = [qualifiedName("s", "b"), qualifiedName(undefined, "a")];
  expect([...facts.fills].sort((p, q) => (p.name < q.name ? 1 : -1))).toEqual(names);
  expect(parser.facts("UPDATE a SET x = 1").fills).toEqual([]);
  expect(parser.facts("UPDATE a SET x = DEFAULT").fills).toHaveLength(1);
});
