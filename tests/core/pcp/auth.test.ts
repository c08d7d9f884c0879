import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { pcpMd5 } from "../../../core/auth/password.ts";
import { pcpPassword, pcpResponse, provesPassword } from "../../../core/pcp/auth.ts";
import { decodeText, encodeText } from "../../../core/wire/text.ts";
import { text } from "./messages.ts";
import { login } from "./vectors.ts";

const { hash, user, salt, response } = login;

test("the sum is 4.3.5's", () => {
  expect(pcpMd5(encodeText("secret"))).toBe(hash);
  expect(pcpResponse(hash, user, salt)).toBe(response);
});

describe("pcp.conf", () => {
  const cases: [string, string, boolean][] = [
    ["the user's line", `# comment\n\nother:${"0".repeat(32)}\npcpadm:${hash}\n`, true],
    ["no newline at the end", `pcpadm:${hash}`, true],
    ["a second line of the same user", `pcpadm:${"1".repeat(32)}\npcpadm:${hash}\n`, true],
    ["a file of another system", `pcpadm:${hash}\r\n`, true],
    ["a long line without a colon before", `${"x".repeat(500)}\npcpadm:${hash}\n`, true],
    ["another user", `pcpadmin:${hash}\n`, false],
    ["a comment", `#pcpadm:${hash}\n`, false],
    ["a blank before the name", ` pcpadm:${hash}\n`, false],
    ["upper-case digits", `pcpadm:${hash.toUpperCase()}\n`, false],
    ["a hash cut short", `pcpadm:${hash.slice(1)}\n`, false],
    ["an empty hash", "pcpadm:\n", false],
    ["nothing", "", false],
  ];
  test.each(cases)("%s", (_, file, letsIn) => {
    expect(provesPassword(encodeText(file), { user, response, salt })).toBe(letsIn);
  });

  test("only the response to this salt lets in", () => {
    const file = encodeText(`${user}:${hash}\n`);
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 4 }), (other) => {
        fc.pre(!other.every((byte, at) => byte === salt[at]));
        expect(provesPassword(file, { user, response, salt: other })).toBe(false);
      }),
    );
  });

  test("no response is right for a user or a hash that is not there", () => {
    for (const empty of ["", "0".repeat(31), "0".repeat(32)]) {
      const guess = { user: "ghost", response: pcpResponse(empty, "ghost", salt), salt };
      expect(provesPassword(encodeText("ghost:\n"), guess)).toBe(false);
      expect(provesPassword(encodeText(""), guess)).toBe(false);
    }
  });

  test("every user and password of a file gets in", () => {
    const name = text.filter((value) => /^[^#\n\r:]+$/.test(value));
    fc.assert(
      fc.property(name, text, (who, password) => {
        const stored = pcpMd5(encodeText(password));
        const claim = { user: who, response: pcpResponse(stored, who, salt), salt };
        expect(provesPassword(encodeText(`${who}:${stored}\n`), claim)).toBe(true);
      }),
    );
  });
});

describe(".pcppass", () => {
  const question = { host: "localhost", port: 9898, user: "ann" };
  const cases: [string, string, string | undefined][] = [
    ["all fields", "localhost:9898:ann:secret", "secret"],
    ["stars", "*:*:*:secret", "secret"],
    ["the first line that fits", "*:1:ann:a\n*:*:ann:b\n*:*:ann:c\n", "b"],
    ["what follows another colon", "*:*:*:secret:extra", "secret"],
    ["escapes", "*:*:*:sec\\ret\\:\\\\", "secret:\\"],
    ["an empty password", "*:*:*:", ""],
    ["another port", "localhost:9899:ann:secret", undefined],
    ["another host", "127.0.0.1:9898:ann:secret", undefined],
    ["too few fields", "localhost:9898:ann", undefined],
    ["a comment", "#localhost:9898:ann:secret", undefined],
  ];
  test.each(cases)("%s", (_, file, password) => {
    const found = pcpPassword(encodeText(file), question);
    expect(found && decodeText(found)).toBe(password);
  });
});
