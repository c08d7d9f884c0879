import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { anchoredPattern } from "../../core/posix_regex.ts";

describe("anchoredPattern reads POSIX extended regular expressions", () => {
  const cases: [string, string, boolean][] = [
    ["nextval", "NEXTVAL", true],
    ["nextval", "my_nextval", false],
    [".*_w", "fn_w", true],
    ["^a", "a", true],
    ["[[:digit:]]+", "42", true],
    ["[[:digit:]]+", "d", false],
    ["[^[:space:]x]", "x", false],
    ["[]a]", "]", true],
    ["[\\.]", "\\", true],
    ["a.b", "a\nb", true],
    ["a\\.b", "axb", false],
    ["(a|b){2}", "ab", true],
  ];
  test.each(cases)("%s on %j is %p", (pattern, text, fits) =>
    expect(anchoredPattern(pattern)?.test(text)).toBe(fits),
  );
  test.each(["(", "[a", "*a(", "(?=a)", "[[:nothing:]]"])("%s is none", (pattern) =>
    expect(anchoredPattern(pattern)).toBeUndefined(),
  );
  test("any text is a pattern or is none", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(anchoredPattern(text)?.flags ?? "none").toMatch(/^(is|none)$/);
      }),
    );
  });
});
