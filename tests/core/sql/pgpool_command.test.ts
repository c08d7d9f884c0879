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
    ["PGPOOL SHOW backend; SELECT 1", { kind: "show", name: "backend" }],
  ];
  test.each(right)("%s", (sql, command) => expect(pgpoolCommandOf(sql)).toEqual(command));

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
    "SELECT 1; PGPOOL SHOW port",
  ])("%j is none", (sql) => expect(pgpoolCommandOf(sql)).toBeUndefined());
});
