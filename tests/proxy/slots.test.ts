import { describe, expect, test } from "bun:test";
import { type Slot, Slots } from "../../proxy/slots.ts";

const never = new AbortController().signal;

/** A slot that is free at once. */
function take(slots: Slots): Slot {
  const slot = slots.acquire(never);
  if (slot instanceof Promise) throw new Error("no slot was free");
  return slot;
}

describe("Slots", () => {
  test("are given from the lowest number on, with pids of their own", () => {
    const slots = new Slots({ count: 3, firstPid: 100, now: 5 });
    const given = [take(slots), take(slots)];
    expect(given.map(({ index, pid, startedAt }) => [index, pid, startedAt])).toEqual([
      [0, 100, 5],
      [1, 101, 5],
    ]);
    expect([slots.freeCount, slots.busyCount, slots.waitingCount]).toEqual([1, 2, 0]);
    expect(slots.all.map((slot) => slots.isFree(slot))).toEqual([false, false, true]);
  });

  test("clients that find none free are served in the order they came", async () => {
    const slots = new Slots({ count: 1, firstPid: 1, now: 0 });
    const only = take(slots);
    const served: string[] = [];
    const waits = ["first", "second", "third"].map(async (name) => {
      const slot = await slots.acquire(never);
      served.push(name);
      slots.release(slot, 9);
    });
    expect(slots.waitingCount).toBe(3);
    slots.release(only, 7);
    await Promise.all(waits);
    expect(served).toEqual(["first", "second", "third"]);
    expect([slots.freeCount, slots.waitingCount]).toEqual([1, 0]);
    expect([only.clientCount, only.lastUsedAt]).toEqual([4, 9]);
  });

  test("who gives up is told why, leaves the queue and holds nothing", async () => {
    const slots = new Slots({ count: 1, firstPid: 1, now: 0 });
    const only = take(slots);
    const [leaver, stayer] = [new AbortController(), new AbortController()];
    const left = Promise.resolve(slots.acquire(leaver.signal)).then(
      () => "served",
      (error: unknown) => error,
    );
    const stayed = slots.acquire(stayer.signal);
    const reason = new Error("the client is gone");
    leaver.abort(reason);
    expect(await left).toBe(reason);
    expect(slots.waitingCount).toBe(1);
    slots.release(only, 1);
    expect(await stayed).toBe(only);
    stayer.abort(new Error("too late"));
    slots.release(only, 2);
    expect([slots.freeCount, slots.busyCount]).toEqual([1, 0]);
  });

  test("a renewed slot shows a new pid that nobody had, and nothing served", () => {
    const slots = new Slots({ count: 2, firstPid: 10, now: 0 });
    const slot = take(slots);
    slots.release(slot, 50);
    slots.renew(slot, 60);
    const { pid, startedAt, clientCount, lastUsedAt } = slot;
    expect({ pid, startedAt, clientCount, lastUsedAt }).toEqual({
      pid: 12,
      startedAt: 60,
      clientCount: 0,
      lastUsedAt: 0,
    });
  });

  test("a signal that is aborted already waits for nothing", async () => {
    const slots = new Slots({ count: 1, firstPid: 1, now: 0 });
    take(slots);
    const reason = new Error("shutting down");
    const waiting = Promise.resolve(slots.acquire(AbortSignal.abort(reason)));
    expect(await waiting.catch((error: unknown) => error)).toBe(reason);
    expect(slots.waitingCount).toBe(0);
  }, 1000);

  test("while they are shut everybody waits, and comes in by turns when they are open", async () => {
    const slots = new Slots({ count: 2, firstPid: 1, now: 0 });
    const first = take(slots);
    slots.shut();
    slots.shut();
    const given: number[] = [];
    const waits = [1, 2, 3].map(async (turn) => {
      await slots.acquire(never);
      given.push(turn);
    });
    slots.release(first, 1);
    slots.open();
    expect([slots.busyCount, slots.waitingCount]).toEqual([0, 3]);
    slots.open();
    await Promise.all(waits.slice(0, 2));
    expect(given).toEqual([1, 2]);
    expect([slots.busyCount, slots.waitingCount]).toEqual([2, 1]);
  });
});
