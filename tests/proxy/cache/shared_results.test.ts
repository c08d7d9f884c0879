/** Several pgpools on one memory that can be slow, lose what it has, be away and be written by others. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type SharedMemory, SharedResults } from "../../../proxy/cache/shared_results.ts";
import { Versioned } from "../../../proxy/cache/table_versions.ts";
import { eventually } from "../../cluster/machine.ts";
import { randomOf } from "../../random.ts";

class Memory implements SharedMemory {
  readonly values = new Map<string, Uint8Array>();
  isAway = false;
  largest = 1_000_000;
  async #answer<T>(work: () => T): Promise<T> {
    if (this.isAway) throw new Error("memcached is away");
    const result = work();
    await Promise.resolve();
    return result;
  }
  get(key: string) {
    return this.#answer(() => this.values.get(key));
  }
  set(key: string, value: Uint8Array) {
    return this.#answer(() => {
      if (value.length > this.largest) return false;
      this.values.set(key, value.slice());
      return true;
    });
  }
  count(key: string, by: 1 | -1) {
    return this.#answer(() => {
      const before = Number(Buffer.from(this.values.get(key) ?? "0").toString());
      this.values.set(key, Buffer.from(String(Math.max(0, before + by))));
    });
  }
  delete(key: string) {
    return this.#answer(() => void this.values.delete(key));
  }
}

class Pooler {
  readonly shared: SharedResults;
  readonly changed: string[] = [];
  readonly lost: string[] = [];
  readonly tasks: (() => void)[] = [];
  readonly t = new Versioned("t");
  readonly u = new Versioned("u");
  readonly all = new Versioned("");

  constructor(memory: SharedMemory, seed: number, secret = "") {
    const random = randomOf(seed);
    this.shared = new SharedResults({
      memory,
      secret,
      randomBytes: (size) => Uint8Array.from({ length: size }, () => Math.floor(random() * 256)),
      expireSeconds: 0,
      onChanged: ({ path }) => this.changed.push(path),
      onLost: (why) => this.lost.push(why),
      onFound: () => {},
      after: (_, task) => this.tasks.push(task),
    });
  }

  static async started(memory: SharedMemory, seed: number, secret?: string): Promise<Pooler> {
    const proxy = new Pooler(memory, seed, secret);
    await proxy.shared.begin(false);
    return proxy;
  }

  async keep(key: string, value: number, on = [this.all, this.t]): Promise<boolean> {
    const found = await this.shared.fetch(key, on);
    if (found.kind !== "miss") return false;
    await this.shared.store(key, on, found.stamps, Uint8Array.of(value));
    return true;
  }

  /** The value that is kept, or what there is in its place. */
  async look(key: string, on = [this.all, this.t]): Promise<number | string> {
    const found = await this.shared.fetch(key, on);
    return found.kind === "hit" ? (found.bytes[0] ?? -1) : found.kind;
  }

  write(target = this.t): Promise<readonly Versioned[]> {
    return this.shared.countIn([this.all], () => [target]);
  }
}

const pair = async (memory = new Memory()) => ({
  memory,
  a: await Pooler.started(memory, 1),
  b: await Pooler.started(memory, 2),
});

test("what one keeps another shows, and a write of either makes it void", async () => {
  const { a, b } = await pair();
  await a.keep("q", 7);
  expect(await b.look("q")).toBe(7);
  const counted = await b.write();
  expect([await a.look("q"), await b.look("q")]).toEqual(["none", "none"]);
  await b.shared.countOut(counted);
  expect(await a.look("q")).toBe("miss");
  expect(a.changed).toContain("t");
  await a.keep("q", 8);
  expect(await b.look("q")).toBe(8);
});

test("a result is not kept when what it depends on has changed since", async () => {
  const { a, b } = await pair();
  const found = await a.shared.fetch("q", [a.all, a.t]);
  if (found.kind !== "miss") throw new Error("it was not there before");
  await b.shared.countOut(await b.write());
  await a.shared.store("q", [a.all, a.t], found.stamps, Uint8Array.of(1));
  expect(await a.look("q")).toBe("miss");
});

test("while one of two writers is left nobody uses it", async () => {
  const { a, b } = await pair();
  await a.keep("q", 1);
  const [first, second] = [await a.write(), await b.write()];
  await a.shared.countOut(first);
  expect(await a.look("q")).toBe("none");
  await b.shared.countOut(second);
  expect(await a.look("q")).toBe("miss");
});

describe("is not shown:", () => {
  const spoil: [string, (value: Uint8Array, other: Uint8Array) => Uint8Array][] = [
    ["what is cut short", (value) => value.slice(0, -1)],
    ["what is longer", (value) => Buffer.concat([value, Uint8Array.of(0)])],
    [
      "a changed byte",
      (value) => value.map((byte, i) => (i === value.length - 1 ? byte ^ 1 : byte)),
    ],
    ["another result", (_, other) => other],
    ["nothing at all", () => new Uint8Array(0)],
    ["somebody else's bytes", () => Buffer.from("O:8:stdClass:0:{}")],
  ];
  test.each(spoil)("%s", async (_, change) => {
    const { memory, a } = await pair();
    await a.keep("q", 1);
    await a.keep("r", 2);
    const keys = [...memory.values.keys()].filter((key) => key.startsWith("pgpool:r:"));
    const [first, second] = keys.map((key) => memory.values.get(key) as Uint8Array);
    memory.values.set(keys[0] as string, change(first as Uint8Array, second as Uint8Array));
    expect(await a.look("q")).toBe("miss");
    expect(await a.look("r")).toBe(2);
  });

  test("what was kept with another secret", async () => {
    const memory = new Memory();
    const mine = await Pooler.started(memory, 1, "secret");
    const other = await Pooler.started(memory, 2, "another");
    await mine.keep("q", 1);
    expect(await other.look("q")).toBe("miss");
  });
});

test("a result that memcached does not take is no loss", async () => {
  const { memory, a } = await pair();
  memory.largest = 100;
  await a.keep("q", 1);
  await a.shared.store("q", [], [], new Uint8Array(1000));
  expect([a.shared.isReady, a.lost]).toEqual([true, []]);
});

test("after a loss nothing that was there before is used again, by anybody", async () => {
  const { memory, a, b } = await pair();
  await a.keep("q", 1);
  memory.isAway = true;
  expect(await a.look("q")).toBe("none");
  expect([a.shared.isReady, a.lost]).toEqual([false, ["memcached is away"]]);
  expect(await a.write()).toEqual([]); // and so nobody hears of this write
  memory.isAway = false;
  for (const task of a.tasks.splice(0)) task();
  await eventually(() => a.shared.isReady);
  expect(await a.look("q")).toBe("none"); // others may not have found it again
  for (const task of a.tasks.splice(0)) task();
  expect(await a.look("q")).toBe("miss");
  expect(await b.look("q")).not.toBe(1);
});

test("what one writes before it has found memcached for the first time voids what others kept", async () => {
  const { memory, b } = await pair();
  await b.keep("q", 1);
  memory.isAway = true;
  const late = new Pooler(memory, 3);
  await late.shared.begin(false);
  expect(await late.write()).toEqual([]);
  memory.isAway = false;
  for (const task of late.tasks.splice(0)) task();
  await eventually(() => late.shared.isReady);
  expect([await late.look("q"), await b.look("q")]).not.toContain(1);
});

test("what one writes that has not found memcached again, nobody shows as it was", async () => {
  const { memory, a, b } = await pair();
  memory.isAway = true;
  expect([await a.look("q"), await b.look("q")]).toEqual(["none", "none"]);
  memory.isAway = false;
  for (const task of a.tasks.splice(0)) task();
  await eventually(() => a.shared.isReady);
  expect(await a.keep("q", 1)).toBe(false);
  await b.shared.countOut(await b.write());
  expect(await a.look("q")).not.toBe(1);
});

test("a pgpool that starts uses what is there, unless it is to begin anew", async () => {
  const { memory, a } = await pair();
  await a.keep("q", 1);
  expect(await (await Pooler.started(memory, 3)).look("q")).toBe(1);
  const anew = new Pooler(memory, 4);
  await anew.shared.begin(true);
  expect(await anew.look("q")).toBe("miss");
  expect(await a.look("q")).not.toBe(1);
});

test("pcp_invalidate_query_cache also forgets writers that never came back", async () => {
  const { a, b } = await pair();
  await a.write();
  expect(await b.look("q")).toBe("none");
  await b.shared.clear();
  expect(await b.look("q")).toBe("miss");
});

test("whatever memcached evicts, nobody is shown what a write has overtaken", async () => {
  const step = fc.record({
    who: fc.nat(1),
    what: fc.constantFrom("read", "read", "read", "write", "begin", "end", "evict"),
    which: fc.nat(50),
    table: fc.constantFrom("t" as const, "u" as const),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const { memory, a, b } = await pair();
      const truth = { t: 0, u: 0 };
      const open: { readonly who: Pooler; readonly counted: readonly Versioned[] }[] = [];
      for (const { who, what, which, table } of steps) {
        const proxy = who === 0 ? a : b;
        const on = [proxy.all, proxy[table]];
        if (what === "read") {
          const found = await proxy.shared.fetch(table, on);
          if (found.kind === "hit") expect(found.bytes[0]).toBe(truth[table]);
          if (found.kind === "miss") {
            await proxy.shared.store(table, on, found.stamps, Uint8Array.of(truth[table]));
          }
        } else if (what === "write") {
          const counted = await proxy.write(proxy[table]);
          truth[table]++;
          await proxy.shared.countOut(counted);
        } else if (what === "begin") {
          open.push({ who: proxy, counted: await proxy.write(proxy[table]) });
          truth[table]++;
        } else if (what === "end") {
          const writer = open.shift();
          if (writer !== undefined) await writer.who.shared.countOut(writer.counted);
        } else {
          const keys = [...memory.values.keys()].filter((key) => !key.startsWith("pgpool:w:"));
          const key = keys[which % Math.max(1, keys.length)];
          if (key !== undefined) memory.values.delete(key);
        }
      }
    }),
    { seed: 20_261_129, numRuns: 300 },
  );
});
