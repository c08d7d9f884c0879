import { expect, test } from "bun:test";
import fc from "fast-check";
import { SendQueue } from "../../../proxy/transport/send_queue.ts";

test("whatever is pushed comes out in order, however little is taken at a time", () => {
  const step = fc.oneof(
    fc.record({ push: fc.integer({ min: 1, max: 40_000 }) }),
    fc.record({ take: fc.double({ min: 0, max: 1, noNaN: true }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const queue = new SendQueue();
      const out: Uint8Array[] = [];
      let pushed = 0;
      const take = (share: number) => {
        const chunk = queue.next();
        if (chunk === undefined) return false;
        const taken = Math.ceil(chunk.length * share);
        out.push(chunk.slice(0, taken));
        queue.consume(taken);
        return true;
      };
      for (const each of steps) {
        if ("take" in each) {
          take(each.take);
          continue;
        }
        // Each byte tells its place, so that a lost or repeated one shows.
        queue.push(Uint8Array.from({ length: each.push }, (_, i) => (pushed + i) % 251));
        pushed += each.push;
      }
      const takenSoFar = out.reduce((sum, chunk) => sum + chunk.length, 0);
      expect(queue.bytes).toBe(pushed - takenSoFar);
      while (take(1));
      const whole = Buffer.concat(out);
      expect(whole.length).toBe(pushed);
      expect(whole.every((byte, at) => byte === at % 251)).toBe(true);
      expect(queue.bytes).toBe(0);
    }),
    { numRuns: 100 },
  );
});

test("small chunks are written together and a large one is never copied", () => {
  const queue = new SendQueue();
  const large = new Uint8Array(100_000);
  for (let i = 0; i < 10; i++) queue.push(Uint8Array.of(i));
  queue.push(large);
  expect(queue.next()).toEqual(Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  queue.consume(10);
  expect(queue.next()).toBe(large);
});
