import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeBase64, encodeBase64, latin1 } from "../../../core/auth/bytes.ts";
import {
  type Credential,
  commonNameMatches,
  matchesClear,
  md5Hash,
  md5HashOf,
  md5Response,
  openStoredPassword,
  parseConfiguredPassword,
  parseStoredPassword,
  pcpMd5,
  type StoredPassword,
} from "../../../core/auth/password.ts";
import {
  decryptPassword,
  derivePoolKey,
  encryptPassword,
  keyArgumentSizeMax,
  keyFileWarning,
  keyTextOfFile,
} from "../../../core/auth/pool_key.ts";
import { encodeText } from "../../../core/wire/text.ts";
import { aesVectors, keyFileVectors, keyVectors, md5EntryVectors, md5Vectors } from "./vectors.ts";

const clear = (password: string) =>
  ({ kind: "clear", password: encodeText(password) }) as const satisfies StoredPassword;
/** A key as `pg_enc -K` takes it. */
const keyOf = (text: string) => derivePoolKey(encodeText(text).slice(0, keyArgumentSizeMax));

describe("md5", () => {
  test.each([...md5Vectors])("pcp.conf's form of %p", (password, hex) => {
    expect(pcpMd5(encodeText(password))).toBe(hex);
  });
  test.each([...md5EntryVectors])("pool_passwd's form for %p with %p", (user, password, line) => {
    expect(`${user}:md5${md5Hash(encodeText(password), user)}`).toBe(line);
  });
  const captured: [string, string, string][] = [
    ["a fresh connection", "df809f14", "md590cd1407c4fc2aae6d1aef1711c58e51"],
    ["a pooled one", "29bc4b6a", "md56fc584a11ebd609551307b7d4953778e"],
  ];
  test.each(captured)("a captured login is answered as psql did: %s", (_, salt, answer) => {
    const hash = md5Hash(encodeText("pw123"), "bs_aes");
    expect(md5Response(hash, Uint8Array.fromHex(salt))).toBe(answer);
  });
});

describe("the AES form", () => {
  test.each([...keyVectors])("key and IV are stretched from %p", (keyText, key, iv) => {
    const pool = derivePoolKey(encodeText(keyText));
    expect([pool.key.toHex(), pool.iv.toHex()]).toEqual([key, iv]);
  });
  test.each([...aesVectors])("key %p, password %p", (key, password, stored) => {
    expect(`AES${encryptPassword(encodeText(password), keyOf(key))}`).toBe(stored);
    expect(decryptPassword(stored.slice(3), keyOf(key))).toEqual(encodeText(password));
  });
  test.each([...keyFileVectors])("a key file with %s", (_, content, stored) => {
    const keyText = keyTextOfFile(encodeText(content));
    if (keyText === undefined) throw new Error("the file has a key");
    expect(`AES${encryptPassword(encodeText("secret"), derivePoolKey(keyText))}`).toBe(stored);
  });
  test("an empty key file has no key", () => {
    expect(keyTextOfFile(new Uint8Array(0))).toBeUndefined();
  });
  test("every password comes back, of any length", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 60 }), (p, k) => {
        const pool = derivePoolKey(k);
        expect(decryptPassword(encryptPassword(p, pool), pool)).toEqual(p);
      }),
    );
  });
  const damaged: [string, string][] = [
    ["white space", "V7IMV7YNworqqZU1Z46Wgw== "],
    ["a line break", "V7IMV7YN\nworqqZU1Z46Wgw=="],
    ["missing padding", "V7IMV7YNworqqZU1Z46Wgw"],
    ["URL alphabet", "V7IMV7YNworqqZU1Z46W-w=="],
    ["set bits beyond the last byte", "V7IMV7YNworqqZU1Z46Wgx=="],
    ["no block", ""],
    ["half a block", "V7IMV7YNwoo="],
  ];
  test.each(damaged)("%s is not decrypted", (_, base64) => {
    expect(decryptPassword(base64, keyOf("mykey"))).toBeUndefined();
  });
  test("another key opens nothing", () => {
    expect(decryptPassword("V7IMV7YNworqqZU1Z46Wgw==", keyOf("otherkey"))).toBeUndefined();
  });
  test("a key file that others can read is warned about, and used", () => {
    expect(keyFileWarning("kf", { isPlainFile: true, mode: 0o100600 })).toBeUndefined();
    expect(keyFileWarning("kf", { isPlainFile: true, mode: 0o100644 })).toEqual({
      message:
        'pool key file "kf" has group or world access; permissions should be u=rw (0600) or less',
      usable: true,
    });
    expect(keyFileWarning("/tmp", { isPlainFile: false, mode: 0o40700 })).toEqual({
      message: 'pool key file "/tmp" is not a plain file',
      usable: false,
    });
  });
});

describe("parseStoredPassword", () => {
  const hash = "21f3163f8f86fa10bdefbfbd502a8f06";
  const cases: [string, string, StoredPassword][] = [
    ["md5 and 32 characters", `md5${hash}`, { kind: "md5", hash }],
    ["md5 and 31 characters", `md5${hash.slice(1)}`, clear(`md5${hash.slice(1)}`)],
    ["md5 and 33 characters", `md5${hash}0`, clear(`md5${hash}0`)],
    ["AES", "AESV7IMV7YNworqqZU1Z46Wgw==", { kind: "aes", base64: "V7IMV7YNworqqZU1Z46Wgw==" }],
    ["TEXT", "TEXTsecret", clear("secret")],
    ["TEXT before another prefix", "TEXTAESx", clear("AESx")],
    ["TEXT alone", "TEXT", { kind: "unusable" }],
    ["a broken verifier", "SCRAM-SHA-256$junk", { kind: "unusable" }],
    ["anything else", "secret", clear("secret")],
    ["other case", "text", clear("text")],
    ["nothing", "", { kind: "unusable" }],
  ];
  test.each(cases)("%s", (_, text, expected) => {
    expect(parseStoredPassword(text)).toEqual(expected);
  });
  test("a verifier is one", () => {
    const text =
      "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    expect(parseStoredPassword(text)).toMatchObject({
      kind: "scram",
      verifier: { iterations: 4096 },
    });
  });
  test("a parameter in UTF-8 keeps its bytes", () => {
    expect(parseConfiguredPassword("TEXTpässwörd")).toEqual(clear("pässwörd"));
  });
});

describe("openStoredPassword", () => {
  const aes = parseStoredPassword("AESV7IMV7YNworqqZU1Z46Wgw==");
  const cases: [string, StoredPassword, string | undefined, Credential][] = [
    ["the right key opens AES", aes, "mykey", clear("secret")],
    ["another key does not", aes, "other", { kind: "undecryptable" }],
    ["nor does none", aes, undefined, { kind: "undecryptable" }],
    ["others need no key", clear("x"), undefined, clear("x")],
    [
      "an encrypted empty password is none",
      { kind: "aes", base64: "UhJmCnJilcpWWUd2E575IA==" },
      "mykey",
      { kind: "unusable" },
    ],
  ];
  test.each(cases)("%s", (_, stored, key, expected) => {
    expect(openStoredPassword(stored, key === undefined ? undefined : keyOf(key))).toEqual(
      expected,
    );
  });
});

describe("comparing", () => {
  test("a password matches itself, clear or hashed, and nothing else", () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(bytes, bytes, fc.string(), (stored, given, user) => {
        const same = encodeBase64(stored) === encodeBase64(given);
        const hash = md5Hash(stored, user);
        expect(matchesClear({ kind: "clear", password: stored }, user, given)).toBe(same);
        expect(matchesClear({ kind: "md5", hash }, user, given)).toBe(same);
      }),
    );
  });
  test("an md5 hash in capitals never matches", () => {
    const hash = md5Hash(encodeText("x"), "u").toUpperCase();
    expect(matchesClear({ kind: "md5", hash }, "u", encodeText("x"))).toBe(false);
  });
  test("the md5 answer is the same from a hash and from a clear password", () => {
    const salt = Uint8Array.of(0xdf, 0x80, 0x9f, 0x14);
    const fromClear = md5HashOf(clear("pw"), "u") ?? "";
    const fromHash = md5HashOf({ kind: "md5", hash: md5Hash(encodeText("pw"), "u") }, "u") ?? "";
    expect(md5Response(fromClear, salt)).toBe(md5Response(fromHash, salt));
  });
});

describe("commonNameMatches", () => {
  const cases: [string, string | undefined, string, boolean][] = [
    ["the same name", "alice", "alice", true],
    ["other case", "Alice", "aLICE", true],
    ["a name that goes on after a NUL (CVE-2026-92868)", "alice\0.evil", "alice", false],
    ["a NUL at the end", "alice\0", "alice", false],
    ["a longer name", "alice2", "alice", false],
    ["a blank", "alice ", "alice", false],
    ["no name", undefined, "alice", false],
    ["an empty name and an empty user", "", "", false],
    ["a letter that only Unicode folds (Kelvin sign)", "\u212aarl", "karl", false],
  ];
  test.each(cases)("%s", (_, commonName, user, expected) => {
    expect(commonNameMatches(commonName, user)).toBe(expected);
  });
});

describe("decodeBase64", () => {
  test("takes exactly what encodeBase64 writes", () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(decodeBase64(encodeBase64(bytes))).toEqual(bytes);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array().map(latin1), (text) => {
        const bytes = decodeBase64(text);
        expect(bytes === undefined || encodeBase64(bytes) === text).toBe(true);
      }),
    );
  });
});
