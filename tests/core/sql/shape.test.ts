/**
 * Shapes against PostgreSQL's own parser: sharing facts by shape is right when a text and its shape
 * have the same facts, for whatever texts there are.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { shapeOf } from "../../../core/sql/shape.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import { sqlFromTokens, sqlWithConstants } from "./texts.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

describe("shapeOf", () => {
  const cases: [text: string, shape: string][] = [
    ["SELECT 1", "SELECT 1"],
    ["SELECT 77, 'it''s', 2.5e3, .5, 12345678901", "SELECT 1, '', 1.5, .5, 1.5"],
    ["SELECT b'01''', 1 OFFSET.7", "SELECT b'01''', 1 OFFSET.5"],
    ["SELECT 2147483647, 2147483648", "SELECT 1, 1.5"],
    ["SELECT E'plain', E'a\\'b', b'01', n'x'", "SELECT E'', E'a\\'b', b'', n''"],
    ["SELECT $a$ ; ' $a$, $1, $$x$$", "SELECT $$$$, $1, $$$$"],
    ["SELECT t1.c2, a1b2 FROM t99", "SELECT t1.c2, a1b2 FROM t99"],
    ["SELECT 0x1F, 1_000, 123abc, 1..2", "SELECT 0x1F, 1_000, 123abc, 1..2"],
    ['SELECT "it\'s 5" FROM "a""b 7"', 'SELECT "it\'s 5" FROM "a""b 7"'],
    ["SELECT 1   +\t 2", "SELECT 1 + 1"],
    ["SELECT 'a'\n  'b'", "SELECT ''\n''"],
    ["SELECT 1 -- trace 4711\n + 2", "SELECT 1 --\n+ 1"],
    ["/* a /* b */ 7 */ SELECT 5", "/**/ SELECT 1"],
    ["SELECT 2*/*x*/3", "SELECT 1*/**/1"],
    ["SELECT a IN (1, 2,3 , 4,5)", "SELECT a IN (1,1,1)"],
    ["SELECT a IN (1, b, 3, 4, 5)", "SELECT a IN (1, b, 1, 1, 1)"],
    [
      "INSERT INTO t VALUES (1,'a'),(2,'b') , (3,'c'),(4,'d'),(5,'e')",
      "INSERT INTO t VALUES (1,''),(1,''),(1,'')",
    ],
    ["INSERT INTO t VALUES (1,'a'),(2.5,'b')", "INSERT INTO t VALUES (1,''),(1.5,'')"],
    ["SELECT f(), g(1), (2)", "SELECT f(), g(1),(1)"],
    ["SELECT (1, 2", "SELECT (1,1"],
    ["SELECT 5::float(20)", "SELECT 1::float(20)"],
  ];
  test.each(cases)("of %j is %j", (text, shape) => {
    expect(shapeOf(text).text).toBe(shape);
  });

  const several: [string, boolean][] = [
    ["SELECT 1;", false],
    ["SELECT 1; ; -- x\n ;", false],
    ["SELECT ';'", false],
    ["SELECT 1; SELECT 2", true],
    [";;SELECT 1", false],
  ];
  test.each(several)("%j holds several statements: %p", (text, multiStatement) => {
    expect(shapeOf(text).multiStatement).toBe(multiStatement);
  });

  const unshared = [
    "SET work_mem TO 8192",
    "PREPARE p AS SELECT 1",
    "EXECUTE p(1)",
    "SELECT 1; PREPARE p AS SELECT 2",
    "select Pg_Terminate_Backend(7)",
    "SELECT U&'d!0061t' UESCAPE '!'",
    "SELECT b''\n''''\n''",
    "SELECT e'a' -- b\n 'c\\''",
    "SELECT 'open",
    "SELECT 1 /* open",
    "DO $$begin end$$",
  ];
  test.each(unshared)("%j is not shared", (text) => {
    expect(shapeOf(text).shareable).toBe(false);
  });

  test("a list of 100,000 constants has the shape of one of three", () => {
    const list = Array.from({ length: 100_000 }, (_, i) => i * 3).join(", ");
    const { text } = shapeOf(`SELECT 1 FROM t WHERE id IN (${list})`);
    expect(text).toBe("SELECT 1 FROM t WHERE id IN (1,1,1)");
  });

  test("has the facts of the text, for statements with any constants in any place", () => {
    fc.assert(
      fc.property(sqlWithConstants, (sql) => {
        const shape = shapeOf(sql);
        if (shape.shareable)
          expect(parser.factsAfresh(shape.text)).toEqual(parser.factsAfresh(sql));
      }),
      { numRuns: 3000 },
    );
  });

  test("has the facts of the text, for tokens thrown together", () => {
    fc.assert(
      fc.property(sqlFromTokens, (sql) => {
        const shape = shapeOf(sql);
        if (shape.shareable)
          expect(parser.factsAfresh(shape.text)).toEqual(parser.factsAfresh(sql));
      }),
      { numRuns: 3000 },
    );
  });

  test("is its own shape", () => {
    fc.assert(
      fc.property(sqlWithConstants, (sql) => {
        const { text, shareable } = shapeOf(sql);
        if (shareable) expect(shapeOf(text).text).toBe(text);
      }),
    );
  });
});
