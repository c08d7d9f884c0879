import { beforeAll, describe, expect, test } from "bun:test";
import { StatementParser } from "../../../proxy/parser.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

describe("changedTables", () => {
  const rows: readonly [string, ...string[]][] = [
    ["SELECT * FROM a"],
    ["INSERT INTO a SELECT * FROM b", "a"],
    ["INSERT INTO s.a VALUES (1) ON CONFLICT DO NOTHING RETURNING *", "a"],
    ["UPDATE a SET x = 1 FROM b WHERE a.id = b.id", "a"],
    ["DELETE FROM a USING b", "a"],
    ["MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", "a"],
    ['INSERT INTO "A" VALUES (1)', "A"],
    ["WITH x AS (DELETE FROM b RETURNING *) INSERT INTO a SELECT * FROM x", "a", "b"],
    ["WITH x AS (UPDATE a SET i = 1 RETURNING *) SELECT * FROM x", "a"],
    ["TRUNCATE a, s.b CASCADE", "a", "b"],
    ["COPY a FROM STDIN", "a"],
    ["COPY a TO STDOUT"],
    ["COPY (INSERT INTO a VALUES (1) RETURNING *) TO STDOUT", "a"],
    ["DROP TABLE a, s.b", "a", "b"],
    ["DROP VIEW v", "v"],
    ["DROP FUNCTION f"],
    ["CREATE TABLE a (i int)", "a"],
    ["CREATE TABLE a AS SELECT * FROM b", "a"],
    ["SELECT * INTO a FROM b", "a"],
    ["CREATE OR REPLACE VIEW v AS SELECT * FROM a", "v"],
    ["REFRESH MATERIALIZED VIEW m", "m"],
    ["ALTER TABLE a ADD COLUMN j int", "a"],
    ["ALTER TABLE a RENAME TO b", "a", "b"],
    ["ALTER TABLE a RENAME COLUMN i TO j", "a"],
    ["EXPLAIN INSERT INTO a VALUES (1)"],
    ["EXPLAIN ANALYZE INSERT INTO a VALUES (1)", "a"],
    ["EXPLAIN ANALYZE WITH x AS (DELETE FROM b RETURNING *) SELECT * FROM x", "b"],
    ["EXPLAIN ANALYZE CREATE TABLE a AS SELECT * FROM b", "a"],
    ["EXPLAIN CREATE TABLE a AS SELECT * FROM b"],
    ["PREPARE p AS INSERT INTO a VALUES (1)"],
    ["BEGIN; INSERT INTO a VALUES (1); UPDATE b SET i = 2; COMMIT", "a", "b"],
    ["SELECT f()"],
    ["GRANT SELECT ON a TO u"],
    ["no sql at all"],
  ];
  test.each(rows)("%s", (...[sql, ...names]) => {
    expect([...parser.facts(sql).changedTables].sort()).toEqual(names);
  });

  test("a PREPARE says what its EXECUTE will change", () => {
    const [prepared] = parser.facts("PREPARE p AS UPDATE a SET i = $1").prepares;
    expect(prepared?.changedTables).toEqual(["a"]);
  });
});
