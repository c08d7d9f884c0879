import { beforeEach, describe, expect, test } from "bun:test";
import { StatementParser } from "../../proxy/parser.ts";

let parser: StatementParser;
beforeEach(async () => {
  parser = await StatementParser.load();
});

describe("StatementParser", () => {
  test("gives the same facts object for the same text, and for one that differs in constants", () => {
    const facts = parser.facts("SELECT * FROM t WHERE id = 1");
    expect(parser.facts("SELECT * FROM t WHERE id = 1")).toBe(facts);
    expect(parser.facts("SELECT * FROM t WHERE id = 4711")).toBe(facts);
  });

  test("does not share facts that depend on constants", () => {
    expect(parser.facts("SELECT pg_terminate_backend(1)").terminatesPid).toBe(1);
    expect(parser.facts("SELECT pg_terminate_backend(2)").terminatesPid).toBe(2);
    expect(parser.facts("SET transaction_read_only TO 0").destination).toBe("primary");
    expect(parser.facts("SET transaction_read_only TO 1").destination).toBe("both");
    expect(parser.facts("PREPARE p AS SELECT 1").prepares[0]?.sql).toEndWith("1");
    expect(parser.facts("PREPARE p AS SELECT 2").prepares[0]?.sql).toEndWith("2");
  });

  test("stays small while a million statements come, each of them another", () => {
    for (let i = 0; i < 1_000_000; i++) {
      // One in a hundred is of a shape of its own.
      parser.facts(i % 100 === 0 ? `SELECT a${i} FROM t` : `SELECT ${i}, 'x${i}' FROM t`);
      if (i % 50_000 > 0) continue;
      const { texts, shapes, bytes } = parser.remembered;
      expect(texts).toBeLessThanOrEqual(8192);
      expect(shapes).toBeLessThanOrEqual(4096);
      expect(bytes).toBeLessThanOrEqual(25 * 1024 * 1024);
    }
  }, 60_000);

  test("asks the grammar once for each shape, however often and with whatever constants", () => {
    const before = parser.parses;
    for (let i = 0; i < 50_000; i++) {
      parser.facts(`SELECT c${i % 50} FROM once WHERE id = ${i} AND name = 'n${i}'`);
      parser.facts(`INSERT INTO once${i % 50} VALUES (${i}, $1, 'x'), (1, $1, 'y${i}')`);
      parser.facts("SELECT again FROM once");
    }
    expect(parser.parses - before).toBe(101);
  });

  test("takes what it cannot parse for a write that may have done anything", () => {
    const texts = ["selec 1", "SELECT 1 FROM", "\ud800", "SELECT\u00001", "'", "$a$", "/*"];
    for (const text of texts) {
      expect(parser.facts(text)).toMatchObject({ destination: "primary", redefines: "catalog" });
    }
  });

  test("does not look at a megabyte, and counts it as several statements", () => {
    const facts = parser.facts(`SELECT ${"1 + ".repeat(300_000)} 1`);
    expect(facts).toMatchObject({ destination: "primary", multiStatement: true });
  });

  test("parses a long list of constants by its shape", () => {
    const list = Array.from({ length: 50_000 }, (_, i) => `'${i}'`).join(",");
    expect(parser.facts(`SELECT 1 FROM t WHERE a IN (${list})`).destination).toBe("either");
  });

  test("takes 100,000 statements in one text for several, unparsed", () => {
    const facts = parser.facts("SELECT a;".repeat(100_000));
    expect(facts).toMatchObject({ destination: "primary", multiStatement: true });
  });

  test("survives expressions that exhaust the grammar's stack", async () => {
    const deep = parser.facts(`SELECT ${"a+".repeat(30_000)}a`);
    expect(deep.reason).toBe("unparsable");
    expect(parser.facts("SELECT b").destination).toBe("primary");
    await parser.ready();
    expect(parser.facts("SELECT b").destination).toBe("either");
    expect(parser.facts(`SELECT ${"(".repeat(20_000)}`).reason).toBe("unparsable");
  });

  test("does not trust its lexical rules where strings have backslash escapes", () => {
    const sql = "SELECT 'a\\' FROM t; DELETE FROM t --'";
    expect(parser.facts("SELECT 'plain'", false).destination).toBe("either");
    expect(parser.facts(sql, false).reason).toBe("unparsable");
  });
});
