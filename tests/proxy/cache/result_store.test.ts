import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  Dependency,
  KeptResult,
  ResultSpace,
  ResultStore,
} from "../../../proxy/cache/result_store.ts";

const space = () => new ResultSpace("s");
function result(
  where: ResultSpace,
  key: string,
  options: { size?: number; on?: readonly Dependency[]; expiresAt?: number } = {},
): KeptResult {
  const { size = 10, on = [], expiresAt = Number.POSITIVE_INFINITY } = options;
  return new KeptResult({
    space: where,
    key,
    bytes: new Uint8Array(size),
    dependencies: on,
    expiresAt,
  });
}

test("what was kept is found until it is removed, expired or replaced", () => {
  const store = new ResultStore({ bytesMax: 10_000, countMax: 100 });
  const where = space();
  store.add(result(where, "a", { expiresAt: 50 }));
  expect(store.find(where, "a", () => 49)?.key).toBe("a");
  expect(store.find(where, "a", () => 50)).toBeUndefined();
  store.add(result(where, "a", { size: 20 }));
  store.add(result(where, "a", { size: 30 }));
  expect([store.count, store.resultBytes]).toEqual([1, 30]);
  expect(store.find(space(), "a", () => 0)).toBeUndefined();
});

test("a result larger than everything is not kept", () => {
  const store = new ResultStore({ bytesMax: 1000, countMax: 100 });
  expect(store.add(result(space(), "a", { size: 1000 }))).toBe(false);
  expect(store.count).toBe(0);
});

test("a flood of results that nobody asks for pushes out no used one", () => {
  const store = new ResultStore({ bytesMax: 1_000_000, countMax: 100 });
  const where = space();
  for (let i = 0; i < 20; i++) store.add(result(where, `used ${i}`));
  for (let i = 0; i < 10_000; i++) {
    store.add(result(where, `flood ${i}`));
    store.find(where, `used ${i % 20}`, () => 0);
  }
  expect(store.count).toBe(100);
  for (let i = 0; i < 20; i++) expect(store.find(where, `used ${i}`, () => 0)).toBeDefined();
  expect(store.counters.evicted).toBe(10_020 - 100);
});

describe("whatever is added and removed", () => {
  test("the bounds hold, and the sums are those of what is there", () => {
    const step = fc.record({
      kind: fc.constantFrom("add", "add", "find", "forget"),
      key: fc.nat(40),
      size: fc.nat(2000),
      on: fc.subarray([0, 1, 2]),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const [bytesMax, countMax] = [20_000, 15];
        const store = new ResultStore({ bytesMax, countMax });
        const where = space();
        const dependencies = [new Dependency(), new Dependency(), new Dependency()];
        for (const { kind, key, size, on } of steps) {
          const these = on.map((i) => dependencies[i] as Dependency);
          if (kind === "add") store.add(result(where, String(key), { size, on: these }));
          else if (kind === "find") store.find(where, String(key), () => 0);
          else for (const each of these) store.removeAllOf(each);
          const all = [...where.results.values()];
          expect(store.bytes).toBeLessThanOrEqual(bytesMax);
          expect(store.count).toBeLessThanOrEqual(countMax);
          expect(store.count).toBe(all.length);
          expect(store.bytes).toBe(all.reduce((sum, each) => sum + each.size, 0));
          for (const each of dependencies) {
            const dependent = all.filter((one) => one.dependencies.includes(each));
            expect([...each.results].sort(byKey)).toEqual(dependent.sort(byKey));
          }
        }
      }),
      { seed: 20_261_129, numRuns: 200 },
    );
  });
});

const byKey = (a: KeptResult, b: KeptResult): number => a.key.localeCompare(b.key);
