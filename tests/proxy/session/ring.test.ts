import { expect, test } from "bun:test";
import fc from "fast-check";
import { Ring } from "../../../proxy/session/ring.ts";

test("a ring is a queue, whatever is pushed and shifted", () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.nat(), { nil: undefined }), { maxLength: 200 }), (steps) => {
      const ring = new Ring<number>();
      const queue: number[] = [];
      for (const step of steps) {
        if (step === undefined) expect(ring.shift()).toBe(queue.shift() as number);
        else {
          ring.push(step);
          queue.push(step);
        }
        expect(ring.size).toBe(queue.length);
        expect(ring.peek()).toBe(queue[0] as number);
        expect(queue.map((_, index) => ring.at(index))).toEqual(queue);
        expect(ring.at(queue.length)).toBeUndefined();
      }
    }),
  );
});
