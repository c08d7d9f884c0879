import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  findPasswordEntry,
  lookupPassword,
  updatePasswordFile,
} from "../../../core/auth/pool_passwd.ts";
import { decodeText, encodeText } from "../../../core/wire/text.ts";

const clear = (password: string) => ({ kind: "clear", password: encodeText(password) }) as const;

describe("lookupPassword", () => {
  const cases: [string, string, string, ReturnType<typeof clear> | undefined][] = [
    ["an entry", "u:TEXTpw\n", "u", clear("pw")],
    ["the last line without newline", "u:TEXTpw", "u", clear("pw")],
    ["no entry", "v:TEXTpw\n", "u", undefined],
    ["an empty file", "", "u", undefined],
    ["a line without colon", "u\nu:TEXTpw\n", "u", clear("pw")],
    ["the first of two", "u:TEXTa\nu:TEXTb\n", "u", clear("a")],
    ["an empty password is passed over", "u:\nu:TEXTb\n", "u", clear("b")],
    ["a prefix of the name", "user:TEXTpw\n", "use", undefined],
    ["a longer name", "use:TEXTpw\n", "user", undefined],
    ["an escaped colon in the name", "co\\:lon:TEXTpw\n", "co:lon", clear("pw")],
    ["an escaped colon in the password", "sp:TEXTa\\:b\n", "sp", clear("a:b")],
    ["a doubled backslash", "u:TEXTa\\\\b\n", "u", clear("a\\b")],
    ["a backslash at the end", "u:TEXTa\\\n", "u", clear("a\\")],
    ["fields after the password", "u:TEXTa:other:TEXTb\n", "u", clear("a")],
    ["no comment syntax", "# x:TEXTy\n", "# x", clear("y")],
    ["blanks kept", " u :TEXT p \n", " u ", clear(" p ")],
    ["a name in UTF-8", "жук:TEXTпароль\n", "жук", clear("пароль")],
    ["a password longer than 128 bytes", `u:${"p".repeat(900)}\n`, "u", clear("p".repeat(900))],
    ["an empty name", ":TEXTpw\n", "", clear("pw")],
  ];
  test.each(cases)("%s", (_, file, user, expected) => {
    expect(lookupPassword(encodeText(file), user)).toEqual(expected);
  });

  test("bytes that are not UTF-8 stay themselves, and different ones differ", () => {
    const file = Uint8Array.of(0x75, 0x3a, 0xff, 0x0a);
    expect(lookupPassword(file, "u")).toEqual({ kind: "clear", password: Uint8Array.of(0xff) });
  });

  test("the mapping to another role is read and kept apart", () => {
    const entry = findPasswordEntry(encodeText("mapu:TEXTa:other:TEXTb\n"), "mapu");
    expect(entry).toEqual({ stored: clear("a"), backendUser: "other" });
  });
});

describe("updatePasswordFile", () => {
  const cases: [string, string, string, string][] = [
    ["an empty file gets a line", "", "u", "u:NEW\n"],
    ["a new user goes last", "a:1\nb:2\n", "u", "a:1\nb:2\nu:NEW\n"],
    ["a last line without newline is ended first", "a:1", "u", "a:1\nu:NEW\n"],
    ["an entry is replaced in its place", "a:1\nu:2\nb:3\n", "u", "a:1\nu:NEW\nb:3\n"],
    ["only the first of two is replaced", "u:1\nu:2\n", "u", "u:NEW\nu:2\n"],
    ["a replaced last line gets its newline", "a:1\nu:2", "u", "a:1\nu:NEW\n"],
    ["an entry with an empty password is replaced", "u:\n", "u", "u:NEW\n"],
    [
      "other lines stay to the byte",
      " # x\n\n\nu\nu2:3 \r\n",
      "u",
      " # x\n\n\nu\nu2:3 \r\nu:NEW\n",
    ],
    ["an escaped name is found", "co\\:lon:1\n", "co:lon", "co\\:lon:NEW\n"],
    ["a name is escaped", "", "a:b\\c", "a\\:b\\\\c:NEW\n"],
  ];
  test.each(cases)("%s", (_, before, user, after) => {
    expect(decodeText(updatePasswordFile(encodeText(before), user, "NEW"))).toBe(after);
  });

  test("what was written is found again, and nobody else's entry changes", () => {
    const name = fc
      .string({ unit: "binary", minLength: 1, maxLength: 12 })
      .filter((n) => !/\n/.test(n));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), name, name, (file, user, other) => {
        fc.pre(user !== other);
        const before = updatePasswordFile(file, other, "TEXTother");
        const after = updatePasswordFile(before, user, "TEXTmine");
        expect(lookupPassword(after, user)).toEqual(clear("mine"));
        expect(lookupPassword(after, other)).toEqual(clear("other"));
      }),
    );
  });
});
