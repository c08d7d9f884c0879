import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { TwoGenerations } from "../../../proxy/cache/two_generations.ts";

describe("TwoGenerations", () => {
  test("never holds more than it may, nor anything that was not put in last", () => {
    const step = fc.record({ key: fc.constantFrom(..."abcdefghij"), put: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step), fc.integer({ min: 2, max: 8 }), (steps, countMax) => {
        const cache = new TwoGenerations<number>({ countMax });
        const model = new Map<string, number>();
        for (const [index, { key, put }] of steps.entries()) {
          if (put) {
            cache.set(key, index);
            model.set(key, index);
          } else {
            expect([undefined, model.get(key)]).toContain(cache.get(key));
          }
          expect(cache.size).toBeLessThanOrEqual(countMax);
        }
      }),
    );
  });

  test("keeps what is used while other things pass through", () => {
    const cache = new TwoGenerations<number>({ countMax: 10 });
    cache.set("used", 1);
    for (let i = 0; i < 1000; i++) {
      cache.set(`passing ${i}`, i);
      expect(cache.get("used")).toBe(1);
    }
  });

  test("stays within its weight, and does not take what is heavier than half of it", () => {
    const weigh = (key: string) => key.length;
    const cache = new TwoGenerations<number>({ countMax: 1000, weightMax: 100, weigh });
    for (let i = 0; i < 500; i++) cache.set("x".repeat(i % 70), i);
    expect(cache.weight).toBeLessThanOrEqual(100);
    expect(cache.get("x".repeat(60))).toBeUndefined();
  });

  test("a deleted entry and its weight are gone", () => {
    const cache = new TwoGenerations<number>({ countMax: 4, weightMax: 100, weigh: () => 10 });
    cache.set("a", 1);
    cache.delete("a");
    cache.delete("never there");
    expect([cache.get("a"), cache.size, cache.weight]).toEqual([undefined, 0, 0]);
  });
});
