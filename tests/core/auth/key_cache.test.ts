import { describe, expect, test } from "bun:test";
import { inspect } from "node:util";
import { ScramKeyCache } from "../../../core/auth/key_cache.ts";
import { type Derivation, deriveScramKeys } from "../../../core/auth/scram_keys.ts";
import { encodeText } from "../../../core/wire/text.ts";

const blindingKey = new Uint8Array(32).fill(7);
const work = (password: string, salt = "salt", iterations = 2): Derivation => ({
  password: encodeText(password),
  salt: encodeText(salt),
  iterations,
});

function counting(sizeMax?: number) {
  const done: string[] = [];
  const cache = new ScramKeyCache({
    blindingKey,
    ...(sizeMax === undefined ? {} : { sizeMax }),
    derive: async (asked) => {
      done.push(new TextDecoder().decode(asked.password));
      return deriveScramKeys(asked);
    },
  });
  return { cache, done };
}

describe("ScramKeyCache", () => {
  test("gives what PBKDF2 gives, by default on the thread pool", async () => {
    const cache = new ScramKeyCache({ blindingKey });
    expect(await cache.keysOf(work("pencil"))).toEqual(deriveScramKeys(work("pencil")));
  });

  test("derives once, also for those who ask at the same time", async () => {
    const { cache, done } = counting();
    const [first, second] = await Promise.all([cache.keysOf(work("a")), cache.keysOf(work("a"))]);
    expect(first).toBe(second);
    await cache.keysOf(work("a"));
    expect(done).toEqual(["a"]);
  });

  const different: [string, Derivation, Derivation][] = [
    ["password", work("a"), work("b")],
    ["salt", work("a", "x"), work("a", "y")],
    ["iterations", work("a", "x", 2), work("a", "x", 3)],
    ["border between password and salt", work("ab", "c"), work("a", "bc")],
    ["border between salt and iterations", work("a", "x1", 2), work("a", "x", 12)],
  ];
  test.each(different)("tells apart by %s", async (_, left, right) => {
    const { cache, done } = counting();
    expect(await cache.keysOf(left)).not.toEqual(await cache.keysOf(right));
    expect(done.length).toBe(2);
  });

  test("never holds more than its size, and drops the least recently used", async () => {
    const { cache, done } = counting(2);
    for (const password of ["a", "b", "a", "c"]) await cache.keysOf(work(password));
    expect(cache.size).toBe(2);
    await cache.keysOf(work("a"));
    expect(done).toEqual(["a", "b", "c"]);
    await cache.keysOf(work("b"));
    expect(done).toEqual(["a", "b", "c", "b"]);
  });

  test("a failure reaches who asked and is tried again", async () => {
    let failures = 1;
    const cache = new ScramKeyCache({
      blindingKey,
      derive: async (asked) => {
        if (failures-- > 0) throw new Error("no memory");
        return deriveScramKeys(asked);
      },
    });
    await expect(cache.keysOf(work("a"))).rejects.toThrow("no memory");
    expect(await cache.keysOf(work("a"))).toEqual(deriveScramKeys(work("a")));
  });

  test("shows neither passwords nor keys to who prints it", async () => {
    const { cache } = counting();
    await cache.keysOf(work("secret-password"));
    const shown = inspect(cache, { depth: 5, showHidden: true }) + JSON.stringify(cache);
    expect(shown).not.toContain("secret-password");
    expect(shown).not.toContain("clientKey");
    cache.clear();
    expect(cache.size).toBe(0);
  });
});
