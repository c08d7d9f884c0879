import { describe, expect, test } from "bun:test";
import { type PgpoolCommand, pgpoolCommandOf } from "../../../core/sql/pgpool_command.ts";

describe("pgpoolCommandOf", () => {
  const right: [sql: string, command: PgpoolCommand][] = [
    ["PGPOOL SHOW port", { kind: "show", name: "port" }],
    [" /* c */ pgpool show ALL ;", { kind: "show_all" }],
    ["PGPOOL SET client_idle_limit TO 30", { kind: "set", name: "client_idle_limit", value: "30" }],
    ["pgpool set a = 'it''s'", { kind: "set", name: "a", value: "it's" }],
    ["PGPOOL SET a TO b, 'c', 4", { kind: "set", name: "a", value: "b, c, 4" }],
    ["PGPOOL SET a TO DEFAULT", { kind: "set_default", name: "a" }],
    ["PGPOOL RESET a", { kind: "reset", name: "a" }],
    ["PGPOOL RESET ALL -- all of it", { kind: "reset_all" }],
    ["PGPOOL SET CACHE DELETE 'SELECT 1'", { kind: "cache_delete", query: "SELECT 1" }],
    [
      "PGPOOL EXPLAIN ROUTE SELECT 1; SELECT 2",
      { kind: "explain_route", sql: "SELECT 1; SELECT 2" },
    ],
    ["pgpool/**/explain\n route\n  -- c\n x", { kind: "explain_route", sql: "-- c\n x" }],
    ["PGPOOL EXPLAIN ROUTE(SELECT 1)", { kind: "explain_route", sql: "(SELECT 1)" }],
    ["PGPOOL EXPLAIN ROUTE SELEC 'a", { kind: "explain_route", sql: "SELEC 'a" }],
    ["PGPOOL SHOW backend; SELECT 1", { kind: "show", name: "backend" }],
    [
      `PGPOOL EXPLAIN ROUTE SELECT '${"x".repeat(100_000)}'`,
      { kind: "explain_route", sql: `SELECT '${"x".repeat(100_000)}'` },
    ],
  ];
  test.each(right)("%.60s", (sql, command) => expect(pgpoolCommandOf(sql)).toEqual(command));

  test.each([
    "SELECT 1",
    "PGPOOL",
    "PGPOOLSHOW port",
    "PGPOOL SHOW",
    "PGPOOL SHOW a b",
    "PGPOOL SET a",
    "PGPOOL SET a TO",
    "PGPOOL SET a TO b c",
    "PGPOOL SET a TO ,",
    "PGPOOL DROP a",
    "PGPOOL SHOW (a)",
    "PGPOOL EXPLAIN ROUTE",
    "PGPOOL EXPLAIN ROUTE  ",
    "PGPOOL EXPLAIN ROUTES SELECT 1",
    "PGPOOL EXPLAIN SELECT 1",
    "SELECT 1; PGPOOL SHOW port",
  ])("%j is none", (sql) => expect(pgpoolCommandOf(sql)).toBeUndefined());

  // To read tens of megabytes so would keep all other clients waiting for seconds.
  const blanks = " ".repeat(16_384);
  test.each([
    ["a command", `PGPOOL SHOW port${blanks}`],
    ["a value", `PGPOOL SET a TO '${blanks}'`],
    ["what stands before a command", `${blanks}PGPOOL SHOW port`],
    ["what stands before the statement to explain", `PGPOOL EXPLAIN ${blanks}ROUTE SELECT 1`],
  ])("%s is read up to 16 KB", (_, sql) => {
    expect(pgpoolCommandOf(sql)).toBeUndefined();
    expect(pgpoolCommandOf(sql.replace(blanks, " "))).toBeDefined();
  });
});
