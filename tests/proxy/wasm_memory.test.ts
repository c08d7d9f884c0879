import { describe, expect, test } from "bun:test";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { StatementParser } from "../../proxy/parser.ts";
import { withLessMemory } from "../../proxy/wasm_memory.ts";

const path = fileURLToPath(import.meta.resolve("libpg-query/wasm/libpg-query.wasm"));

describe("withLessMemory", () => {
  test("changes two bytes of the module and nothing else", async () => {
    const module = await readFile(path);
    const less = withLessMemory(module);
    const changed = [...less.keys()].filter((at) => less[at] !== module[at]);
    expect(changed.length).toBeGreaterThan(0);
    expect(changed.length).toBeLessThanOrEqual(2);
    expect(WebAssembly.validate(less)).toBe(true);
  });

  test("leaves alone what it does not know", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        expect(withLessMemory(withLessMemory(bytes))).toEqual(withLessMemory(bytes));
      }),
    );
    const without = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);
    expect(withLessMemory(without)).toEqual(without);
  });

  test("the grammar grows its memory where a statement needs more", async () => {
    const parser = await StatementParser.load();
    const columns = Array.from({ length: 8000 }, (_, i) => `c${i}`).join(",");
    expect(parser.facts(`SELECT ${columns} FROM t`).destination).toBe("either");
  });
});
