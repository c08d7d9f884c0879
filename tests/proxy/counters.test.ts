import { expect, test } from "bun:test";
import { nodeId } from "../../core/cluster/state.ts";
import { REASON_INDEX, REASON_TEXTS, routeReasons } from "../../core/routing/reasons.ts";
import { Counters } from "../../proxy/counters.ts";

test("statements are counted by node and reason, in an array that is made once", () => {
  const counters = new Counters();
  counters.routed(nodeId(1), "load_balanced");
  const before = counters.reasonsOf(nodeId(1));
  for (let i = 0; i < 1000; i++) counters.routed(nodeId(1), "load_balanced");
  counters.routed(nodeId(1), "write");
  expect(counters.reasonsOf(nodeId(1))).toBe(before);
  expect(before[REASON_INDEX.load_balanced]).toBe(1001);
  expect(before[REASON_INDEX.write]).toBe(1);
  expect(counters.reasonsOf(nodeId(0)).every((count) => count === 0)).toBe(true);
});

test("every reason has a place of its own and a sentence", () => {
  expect(new Set(Object.values(REASON_INDEX)).size).toBe(routeReasons.length);
  for (const reason of routeReasons) {
    expect(routeReasons[REASON_INDEX[reason]]).toBe(reason);
    expect(REASON_TEXTS[reason]).toMatch(/^[A-Zp].*\.$/);
  }
});
