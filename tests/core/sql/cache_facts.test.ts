import { describe, expect, test } from "bun:test";
import {
  type Changes,
  cacheHintOf,
  isSteadyText,
  isSteadyValue,
  mergedChanges,
  noChanges,
} from "../../../core/sql/cache_facts.ts";
import { StatementParser } from "../../../proxy/parser.ts";

const parser = await StatementParser.load();
const of = (sql: string) => parser.facts(sql).cache;

describe("may be kept, as far as the text tells", () => {
  test.each([
    "SELECT * FROM t WHERE a = 1",
    "select a, count(*) from s.t group by a having count(*) > 1 order by 1 limit 5",
    "WITH w AS (SELECT 1 AS a) SELECT * FROM w",
    "SELECT 1 UNION SELECT 2",
    "VALUES (1)",
    "TABLE t",
    "SELECT '2026-01-01'::date, $1::timestamp, 1::text",
    "SELECT my_function(a) FROM t",
    "SELECT extract(year FROM a) FROM t",
  ])("%s", (sql) => {
    expect(of(sql)).toMatchObject({ mayKeep: true, mayForce: true, changes: noChanges });
  });
});

describe("may not be kept", () => {
  test.each([
    ["SELECT a FROM t FOR UPDATE", false],
    ["SELECT a FROM (SELECT a FROM t FOR SHARE) s", false],
    ["SELECT a INTO u FROM t", false],
    ["WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w", false],
    ["SELECT CURRENT_DATE", true],
    ["SELECT CURRENT_USER FROM t", true],
    ["SELECT LOCALTIMESTAMP", true],
    ["SELECT a FROM t TABLESAMPLE SYSTEM (1)", true],
    ["SELECT ctid FROM t", true],
    ["SELECT t.xmin FROM t", true],
    ["SELECT a::timestamptz FROM t", true],
    ["SELECT '2026-01-01'::timestamptz", true],
    ["SELECT a::date FROM t", true],
    ["SELECT ('to' || 'day')::date", true],
    ["SELECT CAST(a AS time) FROM t", true],
    ["SELECT a::my_domain FROM t", true],
    ["SELECT 't'::regclass", true],
    ["SELECT daterange(a) FROM t", true],
    ["SELECT * FROM json_to_record('{}') AS x (d date)", true],
    ["SELECT 1; SELECT 2", false],
    ["INSERT INTO t VALUES (1)", false],
    ["SHOW x", false],
    ["EXPLAIN SELECT 1", false],
    ["SELCT", false],
    ["", false],
  ])("%s; forced: %p", (sql, mayForce) => {
    expect(of(sql)).toMatchObject({ mayKeep: false, mayForce });
  });
});

describe("what success makes untrue", () => {
  const rows: [sql: string, changes: string[] | Changes["kind"] | "definitions"][] = [
    ["SELECT a FROM t", "nothing"],
    ["SELECT f(a) FROM t", "nothing"], // the catalog is asked what f does
    ["SELECT a FROM t; SELECT f(a) FROM t", "database"],
    ["INSERT INTO s.t VALUES (1)", ["t"]],
    ["INSERT INTO t SELECT a FROM u", ["t"]],
    ["INSERT INTO t VALUES (lower('A'))", ["t"]],
    ["INSERT INTO t VALUES (f())", "database"],
    ["UPDATE t SET a = 1 FROM u", ["t"]],
    ["DELETE FROM t USING u", ["t"]],
    ["MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", ["t"]],
    ["WITH w AS (DELETE FROM t RETURNING a) INSERT INTO u SELECT a FROM w", ["u", "t"]],
    ["WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w", ["t"]],
    ["COPY t FROM STDIN", ["t"]],
    ["COPY t TO STDOUT", "nothing"],
    ["COPY (INSERT INTO t VALUES (1) RETURNING a) TO STDOUT", ["t"]],
    ["TRUNCATE t, u", ["t", "u"]],
    ["TRUNCATE t CASCADE", "database"],
    ["INSERT INTO t VALUES (1); DELETE FROM u", ["t", "u"]],
    ["EXPLAIN INSERT INTO t VALUES (1)", "nothing"],
    ["EXPLAIN ANALYZE INSERT INTO t VALUES (1)", ["t"]],
    ["EXPLAIN ANALYZE EXECUTE p", "database"],
    ["SELECT 1; EXECUTE p", "database"],
    ["DECLARE c CURSOR FOR SELECT f()", "nothing"],
    ["DECLARE c CURSOR WITH HOLD FOR SELECT f()", "database"],
    ["GRANT SELECT ON t TO a", "nothing"],
    ["GRANT USAGE ON SCHEMA s TO a", "definitions"],
    ["UPDATE pg_class SET relname = 'x'", "all"],
    ["CALL p()", "definitions"],
    ["DO 'BEGIN END'", "definitions"],
    ["CREATE TABLE u AS SELECT 1", "definitions"],
    ["CREATE TEMP TABLE u AS SELECT 1 AS a", "nothing"],
    ["CREATE TEMP TABLE u AS EXECUTE p", "database"],
    ["ALTER TABLE t ADD b int", "definitions"],
    ["DROP VIEW v", "definitions"],
    ["CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()", "definitions"],
    ["CREATE POLICY p ON t", "definitions"],
    ["REFRESH MATERIALIZED VIEW m", "definitions"],
    ["COMMIT PREPARED 'x'", "definitions"],
    ["GRANT SELECT ON t TO a", "nothing"],
    ["REVOKE SELECT ON t FROM a", "all"],
    ["GRANT a TO b", "all"],
    ["ALTER ROLE a SET x = 'y'", "all"],
    ["DROP OWNED BY a", "all"],
    ["DROP DATABASE d", "all"],
    ["ALTER DATABASE d RENAME TO e", "all"],
    ["ALTER SYSTEM SET x = 'y'", "all"],
    ["SELCT", "all"],
    ["BEGIN", "nothing"],
    ["COMMIT", "nothing"],
    ["SET a = 'b'", "nothing"],
    ["VACUUM t", "nothing"],
    ["LOCK t", "nothing"],
    ["PREPARE p AS INSERT INTO t VALUES (1)", "nothing"],
    ["DECLARE c CURSOR FOR SELECT f()", "nothing"],
  ];
  test.each(rows)("%s", (sql, expected) => {
    const { changes } = of(sql);
    const told =
      changes.kind === "tables"
        ? [...changes.names]
        : changes.kind === "database" && changes.definitions
          ? "definitions"
          : changes.kind;
    expect(told).toEqual(expected);
  });

  test("EXECUTE and FETCH do what was prepared and declared", () => {
    const facts = parser.facts("PREPARE p AS INSERT INTO t VALUES (1)");
    expect(facts.prepares[0]?.changes).toEqual({ kind: "tables", names: ["t"] });
    expect(of("DECLARE c CURSOR FOR SELECT f()").declared.kind).toBe("database");
    expect(of("FETCH 1 FROM c").fetches).toBe(true);
  });
});

test.each([
  ["SET a = 'b'", true],
  ["RESET ALL", true],
  ["DISCARD ALL", true],
  ["SET ROLE a", true],
  ["DO 'BEGIN END'", true],
  ["INSERT INTO t VALUES (f())", true],
  ["SELECT 1; SET a = 'b'", true],
  ["INSERT INTO t VALUES (1)", false],
  ["BEGIN", false],
  ["SELECT f()", false], // the catalog is asked
])("%s unsettles the session: %p", (sql, unsettles) => {
  expect(of(sql).unsettles).toBe(unsettles);
});

describe("words of the clock", () => {
  test.each([
    ["SELECT 'TODAY'", false],
    ["SELECT 'yesterday noon'", false],
    ["SELECT 'today04:05'", false],
    ["SELECT '[2026-01-01,tomorrow]'", false],
    ["SELECT $$now$$", false],
    ["SELECT E'tod\\x61y'", false],
    ["SELECT U&'tod!0061y' UESCAPE '!'", false],
    ["SELECT 'tod'\n'ay'", false],
    ["SELECT 'tod' -- x\n 'ay'", false],
    ["SELECT 'it''s known', snowfall FROM todays", true],
    ["SELECT 'nowhere', 'a' , 'b'", true],
    ["SELECT $1, $a$today$a$", false],
    ['SELECT today, "now" FROM tomorrow WHERE yesterday = $1', true],
  ])("%s is steady: %p", (sql, steady) => {
    expect(isSteadyText(sql)).toBe(steady);
  });
  test.each([
    ["\0\0\0\x05today", false],
    ["\0\0\0\x04\0\0\0\\", true],
  ])("a value %p: %p", (value, steady) => {
    expect(isSteadyValue(value)).toBe(steady);
  });
});

test.each([
  ["/*FORCE QUERY CACHE*/ SELECT 1", "force"],
  ["/*force query cache*/SELECT 1", "force"],
  ["/*NO QUERY CACHE*/ SELECT 1", "no"],
  [" /*FORCE QUERY CACHE*/ SELECT 1", "none"],
  ["/* FORCE QUERY CACHE */ SELECT 1", "none"],
  ["SELECT 1", "none"],
] as const)("%s: %s", (sql, hint) => {
  expect(cacheHintOf(sql)).toBe(hint);
});

test("changes together are at least each of them", () => {
  const t: Changes = { kind: "tables", names: ["t"] };
  const u: Changes = { kind: "tables", names: ["u", "t"] };
  const database: Changes = { kind: "database", definitions: false };
  const definitions: Changes = { kind: "database", definitions: true };
  const all: Changes = { kind: "all" };
  expect(mergedChanges(t, u)).toEqual({ kind: "tables", names: ["t", "u"] });
  expect(mergedChanges(t, database)).toEqual(database);
  expect(mergedChanges(definitions, database)).toEqual(definitions);
  expect(mergedChanges(all, definitions)).toEqual(all);
  expect(mergedChanges(noChanges, t)).toEqual(t);
});
