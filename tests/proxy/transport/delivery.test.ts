import { expect, test } from "bun:test";
import fc from "fast-check";
import type { ConnHandler } from "../../../proxy/transport/conn.ts";
import { Delivery } from "../../../proxy/transport/delivery.ts";

/** Microtasks, and the turn of the loop that `settled` waits for. */
const turns = async () => {
  for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve));
};

function recorder() {
  const said: string[] = [];
  const handler: ConnHandler = {
    onData: (chunk) => void said.push(String(chunk[0])),
    onDrain: () => void said.push("drain"),
    onClose: (error) => void said.push(error === undefined ? "close" : `close ${error.message}`),
  };
  return { said, handler };
}

const chunk = (n: number) => Uint8Array.of(n);

test("any mixture of chunks, pauses and handshakes delivers every chunk once, in order", async () => {
  const action = fc.constantFrom("data", "pause", "resume", "settle", "settled", "turn");
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 40 }), fc.boolean(), async (actions, late) => {
      const delivery = new Delivery(() => {});
      const { said, handler } = recorder();
      if (!late) delivery.handler = handler;
      let sent = 0;
      for (const each of actions) {
        if (each === "data") delivery.data(chunk(sent++));
        else if (each === "turn") await turns();
        else delivery[each]();
      }
      if (late) {
        expect(said).toEqual([]);
        delivery.handler = handler;
      }
      delivery.close();
      delivery.resume();
      delivery.settled();
      await turns();
      const all = Array.from({ length: sent }, (_, n) => String(n));
      expect(said).toEqual([...all, "close"]);
    }),
    { numRuns: 150 },
  );
});

test("while paused nothing comes, and a handler that pauses again stops the rest", async () => {
  const delivery = new Delivery(() => {});
  const said: number[] = [];
  delivery.handler = {
    onData(bytes) {
      said.push(bytes[0] ?? -1);
      delivery.pause();
    },
    onDrain() {},
    onClose: () => void said.push(99),
  };
  for (let n = 0; n < 3; n++) delivery.data(chunk(n));
  delivery.close();
  const seen: number[][] = [];
  for (let i = 0; i < 3; i++) {
    await turns();
    seen.push([...said]);
    delivery.resume();
  }
  await turns();
  expect(seen).toEqual([[0], [0, 1], [0, 1, 2]]);
  expect(said).toEqual([0, 1, 2, 99]);
});

type Way = "failure" | "close" | "mute" | "closeSoon";
const endings: readonly (readonly [string, readonly Way[], string])[] = [
  ["a failure", ["failure"], "close reset"],
  ["closeSoon", ["closeSoon"], "close bug"],
  ["an orderly end after mute", ["mute", "close"], "close"],
  ["mute after an orderly end", ["close", "mute"], "close"],
  ["closeSoon after an orderly end", ["close", "closeSoon"], "close bug"],
];
test.each(endings)("%s drops what was held and is told once", async (_, ways, told) => {
  const delivery = new Delivery(() => {});
  const finish: Record<Way, () => void> = {
    failure: () => delivery.close(new Error("reset")),
    close: () => delivery.close(),
    mute: () => delivery.mute(),
    closeSoon: () => delivery.closeSoon(new Error("bug")),
  };
  const { said, handler } = recorder();
  delivery.handler = handler;
  delivery.pause();
  delivery.data(chunk(1));
  for (const way of ways) finish[way]();
  delivery.close();
  delivery.closeSoon(new Error("second"));
  delivery.resume();
  delivery.data(chunk(2));
  delivery.drained();
  await turns();
  expect(said).toEqual([told]);
});

test("what a handler throws is given to the owner, also when it is no Error", () => {
  const thrown: string[] = [];
  const delivery = new Delivery((error) => thrown.push(error.message));
  delivery.handler = {
    onData() {
      throw new Error("data");
    },
    onDrain() {
      throw "drain";
    },
    onClose() {
      throw new Error("close");
    },
  };
  delivery.data(chunk(1));
  delivery.drained();
  delivery.close();
  expect(thrown).toEqual(["data", "drain"]);
});
