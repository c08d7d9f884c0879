import { beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { RecentWrites, type TrackingParams } from "../../../proxy/cache/recent_writes.ts";

let now = 0;
beforeEach(() => {
  now = 10_000;
});

function writesOf(params: Partial<TrackingParams> = {}, sizeMax = 100): RecentWrites {
  return new RecentWrites({
    clock: () => now,
    sizeMax,
    params: {
      track_table_mutation_ttl_factor: 5,
      track_table_mutation_max_staleness: 0,
      track_table_mutation_cold_start_duration: 0,
      ...params,
    },
  });
}

describe("RecentWrites", () => {
  test("a written table is stale for a tenth of a second while no delay is known", () => {
    const writes = writesOf();
    expect(writes.isStale("d", "t")).toBe(false);
    writes.record("d", ["t"]);
    now += 99;
    expect(writes.isStale("d", "t")).toBe(true);
    expect([writes.isStale("d", "other"), writes.isStale("other", "t")]).toEqual([false, false]);
    now += 1;
    expect(writes.isStale("d", "t")).toBe(false);
  });

  test.each([
    [10, 5, 100],
    [300, 5, 1500],
    [300, 1, 300],
    [10_000_000, 100, 3_600_000],
  ])("after a delay of %i ms with factor %i it is so for %i ms", (delayMs, factor, ttlMs) => {
    const writes = writesOf({ track_table_mutation_ttl_factor: factor });
    writes.noteDelay(delayMs);
    expect(writes.ttlMs).toBe(ttlMs);
    writes.noteDelay(0);
    expect(writes.ttlMs).toBe(ttlMs);
  });

  test("a new factor counts at once for the delay that is known", () => {
    const writes = writesOf();
    writes.noteDelay(1000);
    writes.configure({
      track_table_mutation_ttl_factor: 2,
      track_table_mutation_max_staleness: 0,
      track_table_mutation_cold_start_duration: 0,
    });
    expect(writes.ttlMs).toBe(2000);
  });

  test("a table written without end is read on the standbys again when the cap is reached", () => {
    const writes = writesOf({ track_table_mutation_max_staleness: 200 });
    const stale: boolean[] = [];
    for (let i = 0; i < 6; i++) {
      writes.record("d", ["t"]);
      stale.push(writes.isStale("d", "t"));
      now += 50;
    }
    expect(stale).toEqual([true, true, true, true, false, false]);
  });

  test("a pause longer than its time begins a new series", () => {
    const writes = writesOf({ track_table_mutation_max_staleness: 200 });
    writes.record("d", ["t"]);
    now += 250;
    writes.record("d", ["t"]);
    expect(writes.isStale("d", "t")).toBe(true);
  });

  test("is cold for the configured time after the start, and again as a new leader", () => {
    const writes = writesOf({ track_table_mutation_cold_start_duration: 2000 });
    expect(writes.isCold).toBe(true);
    now += 2000;
    expect(writes.isCold).toBe(false);
    writes.startCold();
    expect(writes.isCold).toBe(true);
  });

  test("its size is bounded, and no table that gave way too early is thought fresh", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), fc.integer({ min: 0, max: 60 }))),
        (steps) => {
          now = 10_000;
          const writes = writesOf({}, 8);
          const last = new Map<number, number>();
          for (const [table, pause] of steps) {
            now += pause;
            writes.record("d", [`t${table}`]);
            last.set(table, now);
            expect(writes.size).toBeLessThanOrEqual(8);
            for (const [each, at] of last) {
              if (now - at < 100) expect(writes.isStale("d", `t${each}`)).toBe(true);
            }
          }
          now += 100;
          for (const each of last.keys()) expect(writes.isStale("d", `t${each}`)).toBe(false);
        },
      ),
    );
  });

  test("the view of a database is its own", () => {
    const writes = writesOf();
    writes.record("d", ["t"]);
    expect([writes.of("d").isStale("t"), writes.of("e").isStale("t")]).toEqual([true, false]);
    expect(writes.of("d").isCold).toBe(false);
  });
});
