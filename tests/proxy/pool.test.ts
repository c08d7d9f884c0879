/** The pool as one may reason about it: any order of takes, releases and removals keeps its books right. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { NodeStatus } from "../../core/cluster/state.ts";
import { BackendSet, isComplete, Pool } from "../../proxy/pool.ts";
import { clusterOf } from "./routing/rules.ts";

const keys = ["alice", "bob", "carol"];

function newSet(key: string, now: number): BackendSet {
  const identity = { key, user: key, database: "db", major: 3, minor: 0 };
  return new BackendSet({ identity, backends: [], demand: "trust", secret: undefined, now });
}

/** Opens a set for a client of that slot, as the runner does. */
function open(pool: Pool, key: string, slot: number, now: number): BackendSet {
  pool.makeRoom(slot);
  const set = newSet(key, now);
  pool.add(set, slot);
  return set;
}

describe("Pool", () => {
  test("gives back the set of the same packet, the one used last", () => {
    const pool = new Pool({ slotCount: 4, placesPerSlot: 2 });
    const [first, second] = [open(pool, "alice", 0, 1), open(pool, "alice", 1, 1)];
    pool.release(first, 2);
    pool.release(second, 3);
    expect(pool.take("bob", 2, 4)).toBeUndefined();
    expect(pool.take("alice", 2, 4)).toBe(second);
    expect(pool.take("alice", 3, 4)).toBe(first);
    expect(pool.take("alice", 3, 4)).toBeUndefined();
  });

  test("a set moves to the slot that uses it, and counts its uses", () => {
    const pool = new Pool({ slotCount: 2, placesPerSlot: 1 });
    const set = open(pool, "alice", 0, 10);
    pool.release(set, 20);
    pool.take("alice", 1, 30);
    expect([pool.at(0, 0), pool.at(1, 0)]).toEqual([undefined, set]);
    expect([set.useCount, set.openedAt, set.releasedAt, set.takenAt]).toEqual([2, 10, 20, 30]);
    expect([set.inUse, pool.slotOf(set)]).toEqual([true, 1]);
  });

  test("a full slot exchanges places with the slot the set came from", () => {
    const pool = new Pool({ slotCount: 2, placesPerSlot: 1 });
    const alice = open(pool, "alice", 0, 1);
    const bob = open(pool, "bob", 1, 1);
    pool.release(alice, 2);
    pool.release(bob, 2);
    expect(pool.take("alice", 1, 3)).toBe(alice);
    expect([pool.at(0, 0), pool.at(1, 0)]).toEqual([bob, alice]);
  });

  test("the victim is the set that has been idle longest, ties by the lowest place", () => {
    const pool = new Pool({ slotCount: 1, placesPerSlot: 3 });
    const [a, b, c] = [open(pool, "a", 0, 0), open(pool, "b", 0, 0), open(pool, "c", 0, 0)];
    pool.release(c, 5);
    pool.release(a, 7);
    pool.release(b, 5);
    expect(pool.makeRoom(0)).toBe(b);
    expect(pool.makeRoom(0)).toBeUndefined(); // there is room now
    expect(pool.take("b", 0, 9)).toBeUndefined();
    expect(pool.take("c", 0, 9)).toBe(c);
  });

  test("a set in use is nobody's victim: without a place it serves and is not kept", () => {
    const pool = new Pool({ slotCount: 1, placesPerSlot: 1 });
    open(pool, "alice", 0, 0);
    const extra = open(pool, "bob", 0, 1);
    expect([pool.size, pool.slotOf(extra)]).toEqual([1, -1]);
    expect(pool.release(extra, 2)).toBe(false);
    expect(pool.take("bob", 0, 3)).toBeUndefined();
  });

  test("max_pool = 0 still leaves a place for the session under way", () => {
    expect(new Pool({ slotCount: 1, placesPerSlot: 0 }).placesPerSlot).toBe(1);
  });

  test("removeIdle leaves the sets in use alone", () => {
    const pool = new Pool({ slotCount: 2, placesPerSlot: 2 });
    const [idle, busy] = [open(pool, "alice", 0, 0), open(pool, "alice", 0, 0)];
    pool.release(idle, 1);
    expect(pool.removeIdle(() => true)).toEqual([idle]);
    expect([pool.size, pool.at(0, 0), pool.at(0, 1)]).toEqual([1, undefined, busy]);
  });

  test("whatever happens, places, sizes and idle lists agree", () => {
    const step = fc.tuple(fc.nat(4), fc.nat(2), fc.constantFrom(...keys));
    fc.assert(
      fc.property(fc.nat(2), fc.array(step, { maxLength: 80 }), (more, steps) => {
        const slotCount = 3;
        const pool = new Pool({ slotCount, placesPerSlot: 1 + more });
        const busy: (BackendSet | undefined)[] = [];
        const idle = new Set<BackendSet>();
        for (const [now, [action, slot, key]] of steps.entries()) {
          const mine = busy[slot];
          if (mine === undefined && action < 3) {
            const taken = pool.take(key, slot, now);
            if (taken !== undefined) expect(idle.delete(taken)).toBe(true);
            // A slot serves one client at a time: there is always a victim.
            else idle.delete(pool.makeRoom(slot) as BackendSet);
            const set = taken ?? newSet(key, now);
            if (taken === undefined) pool.add(set, slot);
            busy[slot] = set;
            expect([set.identity.key, set.inUse, pool.slotOf(set)]).toEqual([key, true, slot]);
          } else if (mine !== undefined) {
            busy[slot] = undefined;
            if (action === 3) pool.remove(mine);
            else if (pool.release(mine, now)) idle.add(mine);
          } else if (action === 4) {
            for (const set of pool.removeIdle((each) => each.identity.key === key)) {
              expect(idle.delete(set)).toBe(true);
            }
          }
          agree(pool, slotCount, [...busy.filter((set) => set !== undefined), ...idle]);
        }
      }),
    );
  });
});

/** Exactly these sets are held, each in the place it says. */
function agree(pool: Pool, slotCount: number, held: readonly BackendSet[]): void {
  const standing: BackendSet[] = [];
  for (let slot = 0; slot < slotCount; slot++) {
    for (let id = 0; id < pool.placesPerSlot; id++) {
      const set = pool.at(slot, id);
      if (set === undefined) continue;
      expect(set.place).toBe(slot * pool.placesPerSlot + id);
      standing.push(set);
    }
  }
  expect(pool.size).toBe(held.length);
  expect(new Set(standing)).toEqual(new Set(held));
}

describe("a set", () => {
  type Connection = "open" | "closed" | "none";
  type Case = {
    readonly mode: "raw" | "streaming_replication";
    readonly nodes: readonly NodeStatus[];
    readonly has: readonly Connection[];
    readonly doubtful?: number;
    readonly complete: boolean;
  };
  const streaming = { mode: "streaming_replication", nodes: ["up", "up"] } as const;
  const raw = { mode: "raw", nodes: ["up", "up"] } as const;
  const cases: Case[] = [
    { ...streaming, has: ["open", "open"], complete: true },
    { ...streaming, has: ["open", "none"], complete: false },
    { ...streaming, has: ["open", "none"], doubtful: 1, complete: true },
    { ...streaming, has: ["open", "closed"], doubtful: 1, complete: false },
    { ...streaming, has: ["closed", "open"], complete: false },
    { ...streaming, nodes: ["up", "down"], has: ["open", "none"], complete: true },
    { ...streaming, nodes: ["up", "down"], has: ["open", "closed"], complete: true },
    { ...streaming, nodes: ["up", "down"], has: ["open", "open"], complete: false },
    { ...raw, has: ["open", "none"], complete: true },
    { ...raw, has: ["none", "open"], complete: false },
    { ...raw, nodes: ["down", "up"], has: ["open", "none"], complete: false },
    { ...raw, nodes: ["down", "up"], has: ["none", "open"], complete: true },
    { ...raw, nodes: ["down", "up"], has: ["open", "open"], complete: false },
  ];
  test.each(cases)("is complete or not: %j", ({ mode, nodes, has, doubtful, complete }) => {
    const state = { ...clusterOf(nodes.map((status) => ({ status }))), mode };
    const backends = has.map((what) =>
      what === "none" ? undefined : { closed: what === "closed" },
    );
    expect(isComplete(backends, state, (node) => node === doubtful)).toBe(complete);
  });
});
