import { expect, test } from "bun:test";
import fc from "fast-check";
import { StreamCutter, TRUSTED_SIZE } from "../../../core/wire/cutter.ts";

test("memory is allocated for what has arrived, not for what was announced", () => {
  const chunkSizes = fc.array(fc.integer({ min: 1, max: 30_000 }), { maxLength: 20 });
  fc.assert(
    fc.property(chunkSizes, (sizes) => {
      const cutter = new StreamCutter(5, () => 2 ** 31);
      let arrived = 0;
      for (const size of sizes) {
        cutter.push(new Uint8Array(size));
        arrived += size;
        expect(cutter.next()).toBeUndefined();
        expect(cutter.buffered).toBe(arrived);
        expect(cutter.allocated).toBeLessThanOrEqual(Math.max(TRUSTED_SIZE, arrived * 2));
      }
    }),
  );
});

test("nothing is allocated for pieces that come whole, nor kept of those given away", () => {
  const cutter = new StreamCutter(1, (bytes, at) => bytes[at] ?? 0);
  cutter.push(Uint8Array.of(2, 0, 3, 0, 0));
  expect(cutter.next()).toEqual(Uint8Array.of(2, 0));
  expect(cutter.next()).toEqual(Uint8Array.of(3, 0, 0));
  expect(cutter.allocated).toBe(0);
  cutter.push(Uint8Array.of(3, 0));
  expect(cutter.next()).toBeUndefined();
  expect(cutter.allocated).toBe(3);
  cutter.push(Uint8Array.of(1));
  expect(cutter.next()).toEqual(Uint8Array.of(3, 0, 1));
  expect(cutter.allocated).toBe(0);
});

test("chunks pushed before earlier ones are used up keep their order", () => {
  const cutter = new StreamCutter(1, () => 1);
  for (let i = 0; i < 5; i++) cutter.push(Uint8Array.of(i * 2, i * 2 + 1));
  const pieces: (number | undefined)[] = [];
  for (let i = 0; i < 3; i++) pieces.push(cutter.next()?.[0]);
  cutter.push(Uint8Array.of(10));
  for (let i = 0; i < 9; i++) pieces.push(cutter.next()?.[0]);
  expect(pieces).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, undefined]);
});
