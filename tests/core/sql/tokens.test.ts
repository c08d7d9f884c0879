import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { TokenText, tokensOf } from "../../../core/sql/tokens.ts";
import { sqlFromTokens, sqlWithConstants } from "./texts.ts";

const texts = (sql: string): string[] => tokensOf(sql).map(({ from, to }) => sql.slice(from, to));

describe("tokensOf", () => {
  test.each([
    ["a.b::c", "a", ".", "b", "::", "c"],
    ["'a''b' E'\\'' $$x'$$ $t$ $$ $t$", "'a''b'", "E'\\''", "$$x'$$", "$t$ $$ $t$"],
    ["'a' -- c\n 'b' 'c' 'd'", "'a' -- c\n 'b'", "'c'", "'d'"],
    ['"a ""b" U&"c" é1$', '"a ""b"', 'U&"c"', "é1$"],
    ["1.5e-3 .5 1. 0xFF $12", "1.5e-3", ".5", "1.", "0xFF", "$12"],
    ["a /* /* ' */ */ b -- c", "a", "b"],
    ["B'1'n'x'", "B'1'", "n'x'"],
    ["/* open", ...[]],
  ])("%j", (sql, ...expected) => {
    expect(texts(sql)).toEqual(expected);
  });

  test("of any text they follow each other, and none is empty", () => {
    fc.assert(
      fc.property(
        fc.oneof(sqlFromTokens, sqlWithConstants, fc.string({ unit: "binary" })),
        (sql) => {
          let at = 0;
          for (const { from, to } of tokensOf(sql)) {
            expect(from).toBeGreaterThanOrEqual(at);
            expect(to).toBeGreaterThan(from);
            at = to;
          }
          expect(at).toBeLessThanOrEqual(sql.length);
        },
      ),
      { seed: 5, numRuns: 500 },
    );
  });
});

test("a place in bytes is found in text of any width", () => {
  const sql = "é '𝄞\udc80' now";
  const bytes = Buffer.from(sql).indexOf("now");
  const text = new TokenText(sql);
  expect(text.tokenAtByte(bytes)).toBe(2);
  expect(text.tokenAtByte(bytes + 1)).toBeUndefined();
  expect(text.tokenAtByte(0)).toBe(0);
});
