/** What is read off a statement. Destinations have their own table: tests/proxy/routing. */

import { beforeAll, describe, expect, test } from "bun:test";
import { noChanges } from "../../../core/sql/cache_facts.ts";
import type { Leaves, Redefines, SetsHere, StatementFacts } from "../../../core/sql/facts.ts";
import { isPoolShow, type Statement } from "../../../core/sql/statement.ts";
import { StatementParser } from "../../../proxy/parser.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

const begin = { kind: "begin", readWrite: false, readOnly: false, isolation: undefined } as const;

describe("the statement", () => {
  const cases: [sql: string, statement: Statement][] = [
    ["", { kind: "empty" }],
    ["-- nothing", { kind: "empty" }],
    ["foo", { kind: "unparsable" }],
    ["TABLE t", { kind: "select" }],
    ["MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", { kind: "write", verb: "merge" }],
    ["BEGIN", { kind: "transaction", control: begin }],
    [
      "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
      { kind: "transaction", control: { ...begin, readOnly: true, isolation: "repeatable read" } },
    ],
    ["END AND CHAIN", { kind: "transaction", control: { kind: "commit", chain: true } }],
    ["ABORT", { kind: "transaction", control: { kind: "rollback", chain: false } }],
    ["ROLLBACK TO a", { kind: "transaction", control: { kind: "rollback_to", name: "a" } }],
    [
      "ROLLBACK PREPARED 'x'",
      { kind: "transaction", control: { kind: "two_phase", step: "rollback_prepared", gid: "x" } },
    ],
    [
      "SET LOCAL Work_Mem TO 1",
      { kind: "set", name: "work_mem", form: "value", local: true, effect: "none" },
    ],
    ["RESET ALL", { kind: "set", name: "", form: "reset_all", local: false, effect: "none" }],
    [
      "SET transaction_read_only TO FALSE",
      {
        kind: "set",
        name: "transaction_read_only",
        form: "value",
        local: false,
        effect: "read_write",
      },
    ],
    ["EXECUTE p(1)", { kind: "execute", name: "p" }],
    ["DEALLOCATE ALL", { kind: "deallocate", name: undefined }],
    ["DEALLOCATE PREPARE p", { kind: "deallocate", name: "p" }],
    ["DISCARD TEMPORARY", { kind: "discard", target: "temp" }],
    ["SHOW TIME ZONE", { kind: "show", name: "timezone" }],
    ["EXPLAIN (VERBOSE, ANALYZE) SELECT 1", { kind: "explain", analyze: true, ofSelect: true }],
    ["EXPLAIN DELETE FROM t", { kind: "explain", analyze: false, ofSelect: false }],
    ["CREATE TEMP TABLE tmp(a int)", { kind: "create_temp_table", name: "tmp" }],
    ["DROP TABLE s.a, b", { kind: "drop_table", names: ["a", "b"] }],
    ["UNLISTEN *", { kind: "listen", listens: false }],
    ["CREATE TABLE t(a int)", { kind: "other", tag: "CreateStmt" }],
    ["DROP VIEW v", { kind: "other", tag: "DropStmt" }],
  ];
  test.each(cases)("of %j", (sql, statement) => {
    expect(parser.facts(sql).statement).toEqual(statement);
  });

  const copies: [sql: string, from: boolean, through: boolean, to: boolean, reads: boolean][] = [
    ["COPY t FROM STDIN", true, true, false, false],
    ["COPY t FROM '/f'", true, false, false, false],
    ["COPY t TO STDOUT", false, true, true, true],
    ["COPY t TO PROGRAM 'x'", false, false, false, false],
    ["COPY (SELECT 1) TO STDOUT", false, true, true, true],
    ["COPY (DELETE FROM t RETURNING 1) TO STDOUT", false, true, true, false],
  ];
  test.each(copies)("%s", (sql, fromClient, throughClient, toClient, reads) => {
    const statement = { kind: "copy", fromClient, throughClient, toClient, reads };
    expect(parser.facts(sql).statement).toEqual(statement as Statement);
  });

  test.each([
    ["SHOW pool_nodes", true],
    ["show POOL_nodes", true],
    ['SHOW "POOL_nodes"', false],
    ["SHOW port", false],
  ])("%s is answered by pgpool: %p", (sql, answered) => {
    expect(isPoolShow(parser.facts(sql).statement)).toBe(answered);
  });
});

describe("names below a statement", () => {
  const namesOf = (names: StatementFacts["readTables"]) =>
    names.map(({ schema, name }) => (schema === undefined ? name : `${schema}.${name}`)).sort();

  const tables: [sql: string, read: string[], written: string[]][] = [
    ["SELECT 1 FROM a JOIN s.b ON true, (SELECT 1 FROM c) x", ["a", "c", "s.b"], []],
    ["SELECT 1 FROM a UNION SELECT (SELECT 2 FROM b) FROM db.s.c", ["a", "b", "s.c"], []],
    ["WITH w AS (SELECT 1 FROM a) SELECT 1 FROM w TABLESAMPLE system(1)", ["a", "w"], []],
    ["SELECT 1 FROM a FOR UPDATE", ["a"], ["a"]],
    ["UPDATE a SET x = 1 FROM b WHERE EXISTS (SELECT 1 FROM c)", [], ["a", "b", "c"]],
    ["INSERT INTO a SELECT 1 FROM b", [], ["a", "b"]],
    ["TRUNCATE a", [], []],
    ["COPY a TO STDOUT", [], []],
  ];
  test.each(tables)("tables of %s", (sql, read, written) => {
    const facts = parser.facts(sql);
    expect([namesOf(facts.readTables), namesOf(facts.writtenTables)]).toEqual([read, written]);
  });

  const functions: [sql: string, called: string[]][] = [
    ["SELECT f(g(1)) OVER (PARTITION BY h()) FROM s.i(), LATERAL j()", ["f", "g", "h", "j", "s.i"]],
    ["SELECT extract(year FROM now()), x::text, coalesce(a, b)", ["now", "pg_catalog.extract"]],
    ["SELECT 1 FROM xmltable('/a' PASSING d COLUMNS b int DEFAULT f())", ["f"]],
    ["PREPARE p AS SELECT f()", ["f"]],
    ["EXPLAIN ANALYZE SELECT f()", ["f"]],
    ["EXPLAIN SELECT f()", []],
    ["INSERT INTO t VALUES (f())", []],
    ["COPY (SELECT f()) TO STDOUT", []],
  ];
  test.each(functions)("functions of %s", (sql, called) => {
    expect(namesOf(parser.facts(sql).calledFunctions)).toEqual(called);
  });
});

describe("several statements", () => {
  test.each([
    ["SET a.b TO 1; SET LOCAL c.d TO 2; RESET e.f", true],
    ["SET a.b TO 1", false],
    ["SET a.b TO 1; SELECT 1", false],
    ["SET a.b TO 1; SET transaction_read_only TO off", false],
    ["SET a.b TO 1; BEGIN", false],
  ])("%s is settings alone: %s", (sql, only) => {
    expect(parser.facts(sql).onlySettings).toBe(only);
  });

  test.each([
    ["DEALLOCATE a", [], [], []],
    ["EXECUTE a; SELECT 1", [], [], []],
    ["DEALLOCATE a; SELECT 1/0", ["a"], [1], []],
    ["SELECT 1; DEALLOCATE a", ["a"], [1], []],
    ["SELECT 1; DEALLOCATE ALL; DEALLOCATE a; SELECT 2", ["", "a"], [2, 3], []],
    ["EXECUTE b; DEALLOCATE a; EXPLAIN EXECUTE a; EXECUTE c", ["a"], [2], ["b", "c"]],
    ["EXPLAIN EXECUTE a; DEALLOCATE ALL; PREPARE b AS SELECT 1; EXECUTE b", [""], [2], ["a"]],
  ])("what several statements undo and execute: %s", (sql, deallocates, after, first) => {
    expect(parser.facts(sql)).toMatchObject({
      deallocates,
      deallocatesAfter: after,
      executesFirst: first,
    });
  });

  test("each PREPARE is found, with its text", () => {
    const sql = "/* é */ PREPARE a AS SELECT 'é'; SELECT 1; PREPARE b AS SELECT 2";
    expect(parser.facts(sql).prepares).toEqual([
      {
        name: "a",
        sql: "PREPARE a AS SELECT 'é'",
        changedTables: [],
        inserts: [],
        changes: noChanges,
      },
      {
        name: "b",
        sql: "PREPARE b AS SELECT 2",
        changedTables: [],
        inserts: [],
        changes: noChanges,
      },
    ]);
  });

  test.each([
    ["BEGIN; SELECT 1; SHOW port; COMMIT", false],
    ["BEGIN; SELECT f()", true],
    ["BEGIN; DELETE FROM t", true],
    ["SELECT 1; SELECT 1 FOR UPDATE", true],
  ])("%s writes later: %p", (sql, writes) => {
    expect(parser.facts(sql).laterWrites).toBe(writes);
  });
});

describe("what success makes void", () => {
  const cases: [sql: string, redefines: Redefines][] = [
    ["SELECT 1", "nothing"],
    ["INSERT INTO t VALUES (1)", "nothing"],
    ["SET search_path TO x", "nothing"],
    ["ALTER ROLE u PASSWORD 'x'", "nothing"],
    ["CREATE TEMP TABLE t(a int)", "temporary"],
    ["CREATE TEMP TABLE t AS SELECT 1", "temporary"],
    ["CREATE TEMP VIEW v AS SELECT 1", "temporary"],
    ["DISCARD TEMP", "temporary"],
    ["CALL p()", "temporary"],
    ["EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "temporary"],
    ["EXPLAIN CREATE TEMP TABLE t AS SELECT 1", "nothing"],
    ["EXPLAIN (ANALYZE, COSTS off) CREATE TABLE t AS SELECT 1", "catalog"],
    ["SELECT 1 INTO t", "catalog"],
    ["CREATE UNLOGGED TABLE t(a int)", "catalog"],
    ["CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "catalog"],
    ["ALTER FUNCTION f() VOLATILE", "catalog"],
    ["ALTER TABLE t SET UNLOGGED", "catalog"],
    ["ALTER TABLE t RENAME TO u", "catalog"],
    ["ALTER TABLE t SET SCHEMA s", "catalog"],
    ["DROP SCHEMA s CASCADE", "catalog"],
    ["CREATE EXTENSION x", "catalog"],
    ["DO 'begin end'", "catalog"],
    ["SELECT 1; DROP TABLE t", "catalog"],
    ["nonsense", "catalog"],
    ["ALTER DATABASE d SET work_mem = '1MB'", "nothing"],
    ["CREATE DATABASE d", "databases"],
    ["DROP DATABASE IF EXISTS d WITH (FORCE)", "databases"],
    ["ALTER DATABASE d RENAME TO e", "databases"],
    ["DROP TABLE t; DROP DATABASE d", "databases"],
  ];
  test.each(cases)("%s: %s", (sql, redefines) => {
    expect(parser.facts(sql).redefines).toBe(redefines);
  });
});

describe("pg_terminate_backend", () => {
  test.each([
    ["SELECT pg_terminate_backend(4711)", 4711],
    ["SELECT pg_catalog.pg_terminate_backend(4711, 1000)", 4711],
    ["SELECT pg_terminate_backend(pid) FROM pg_stat_activity", undefined],
    ["SELECT pg_cancel_backend(4711)", undefined],
  ])("%s names %p", (sql, pid) => {
    expect(parser.facts(sql).terminatesPid).toBe(pid as number);
  });
});

describe("what only the server that runs it hears is set", () => {
  test.each([
    ["SELECT set_config('a.b', 'c', false)", "session"],
    ["SELECT set_config('a.b', $1, $2)", "session"],
    ["SELECT pg_catalog.set_config('a.b', 'c', 't')", "session"],
    ["SELECT set_config('a.b', 'c', true)", "transaction"],
    ["SELECT set_config('a.b', 'c', true), set_config('a.c', 'c', false)", "session"],
    ["INSERT INTO t SELECT set_config('a.b', 'c', false)", "session"],
    ["SET a.b = 'c'", "nothing"],
    ["SET a.b = 'c'; SET ROLE r", "nothing"],
    ["SET a.b = 'c'; SELECT 1", "session"],
    ["BEGIN; SET LOCAL a.b = 'c'", "nothing"],
    ["SELECT 1; SELECT set_config('a.b', 'c', true)", "transaction"],
    ["SELECT current_setting('a.b')", "nothing"],
  ])("%s: for the %s", (sql, sets) => {
    expect(parser.facts(sql).setsHere).toBe(sets as SetsHere);
  });
});

describe("what is left behind in the server's session", () => {
  const cases: [sql: string, leaves: Leaves][] = [
    ["SELECT 1", "nothing"],
    ["INSERT INTO t VALUES (1)", "nothing"],
    ["CREATE TABLE t (a int)", "nothing"],
    ["SET LOCAL work_mem = 1", "nothing"],
    ["CALL p()", "nothing"],
    ["DISCARD ALL", "nothing"],
    ["DECLARE c CURSOR FOR SELECT 1", "nothing"],
    ["SELECT pg_advisory_xact_lock(1)", "nothing"],
    ["SET work_mem = 1", "settings"],
    ["RESET ALL", "settings"],
    ["SET ROLE a; SET work_mem = 1", "settings"],
    ["SELECT 1; SET work_mem = 1", "state"],
    ["SELECT set_config('a.b', 'c', false)", "state"],
    ["SELECT pg_catalog.pg_try_advisory_lock_shared(1, 2)", "state"],
    ["PREPARE p AS SELECT pg_advisory_lock($1)", "state"],
    ["PREPARE p AS SELECT 1", "nothing"],
    ["INSERT INTO t SELECT pg_advisory_lock(a) FROM t", "state"],
    ["UPDATE t SET a = 1 WHERE pg_try_advisory_lock(a)", "state"],
    ["DELETE FROM t WHERE pg_try_advisory_lock(a)", "state"],
    ["CREATE TEMP TABLE t (a int)", "state"],
    ["EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "state"],
    ["CREATE TEMPORARY TABLE t AS SELECT 1", "state"],
    ["CREATE TEMP VIEW v AS SELECT 1", "state"],
    ["CREATE TEMP SEQUENCE s", "state"],
    ["SELECT 1 INTO TEMP t", "state"],
    ["BEGIN; CREATE TEMP TABLE t (a int); COMMIT", "state"],
    ["DECLARE c CURSOR WITH HOLD FOR SELECT 1", "state"],
    ["LISTEN a", "state"],
    ["LOAD 'a'", "state"],
  ];
  test.each(cases)("%j leaves %s", (sql, leaves) => {
    expect(parser.facts(sql).leaves).toBe(leaves);
  });
});
