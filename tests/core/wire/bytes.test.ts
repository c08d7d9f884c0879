import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ProtocolViolation } from "../../../core/errors.ts";
import { ByteReader, ByteWriter } from "../../../core/wire/bytes.ts";

/** One step of writing, and the reading that must give the same value back. */
type Step = {
  readonly write: (writer: ByteWriter) => unknown;
  readonly read: (reader: ByteReader) => unknown;
  readonly value: unknown;
};

const step = <T>(
  value: fc.Arbitrary<T>,
  write: (writer: ByteWriter, value: T) => unknown,
  read: (reader: ByteReader) => unknown,
): fc.Arbitrary<Step> =>
  value.map((v) => ({ write: (writer: ByteWriter) => write(writer, v), read, value: v }));

const steps = fc.array(
  fc.oneof(
    step(
      fc.integer({ min: 0, max: 255 }),
      (w, v) => w.int8(v),
      (r) => r.int8(),
    ),
    step(
      fc.integer({ min: -32768, max: 32767 }),
      (w, v) => w.int16(v),
      (r) => r.int16(),
    ),
    step(
      fc.integer({ min: 0, max: 65535 }),
      (w, v) => w.int16(v),
      (r) => r.uint16(),
    ),
    step(
      fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      (w, v) => w.int32(v),
      (r) => r.int32(),
    ),
    step(
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      (w, v) => w.int32(v),
      (r) => r.uint32(),
    ),
    step(
      fc.string({ unit: "binary", maxLength: 2000 }).map((text) => text.replaceAll("\0", "")),
      (w, v) => w.cstring(v),
      (r) => r.cstring(),
    ),
    step(
      fc.option(fc.uint8Array()),
      (w, v) => w.value(v),
      (r) => r.value(),
    ),
  ),
);

test("what is written is read back, from any capacity the writer began with", () => {
  fc.assert(
    fc.property(steps, fc.nat(64), (all, capacity) => {
      const writer = new ByteWriter(capacity);
      for (const { write } of all) write(writer);
      const reader = new ByteReader(writer.take());
      for (const { read, value } of all) expect(read(reader)).toEqual(value);
      reader.end();
    }),
  );
});

test("a reader of arbitrary bytes never fails in another way than by a ProtocolViolation", () => {
  fc.assert(
    fc.property(steps, fc.uint8Array({ maxLength: 60 }), (all, bytes) => {
      const reader = new ByteReader(bytes);
      try {
        for (const { read } of all) read(reader);
        reader.end();
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolViolation);
      }
    }),
  );
});

describe("ByteReader", () => {
  test.each<[string, number[], (reader: ByteReader) => unknown, string]>([
    ["int8 of nothing", [], (r) => r.int8(), "insufficient data left in message"],
    ["int16 of a byte", [1], (r) => r.int16(), "insufficient data left in message"],
    ["int32 of three", [1, 2, 3], (r) => r.int32(), "insufficient data left in message"],
    ["cstring of nothing", [], (r) => r.cstring(), "invalid string in message"],
    ["a negative number of bytes", [1], (r) => r.bytes(-1), "invalid length in message"],
    ["more bytes than there are", [1], (r) => r.bytes(2), "insufficient data left in message"],
    ["an end that is not there", [1], (r) => r.end(), "invalid message format"],
    [
      "a list longer than the body",
      [255, 255, 1],
      (r) => r.list((l) => l.int8()),
      "insufficient data left in message",
    ],
  ])("%s is a violation", (_, bytes, read, message) => {
    expect(() => read(new ByteReader(Uint8Array.from(bytes)))).toThrow(
      new ProtocolViolation(message),
    );
  });

  test("reads within the view it was given, not within the memory behind it", () => {
    const behind = Uint8Array.of(1, 2, 3, 0, 5);
    const reader = new ByteReader(behind.subarray(1, 3));
    expect(reader.bytes(2)).toEqual(Uint8Array.of(2, 3));
    expect(() => reader.int8()).toThrow(ProtocolViolation);
    expect(() => new ByteReader(behind.subarray(1, 3)).cstring()).toThrow(ProtocolViolation);
  });
});

describe("ByteWriter", () => {
  test("fills in each message's length when it ends", () => {
    const writer = new ByteWriter(0);
    writer.begin(0x51).cstring("ab").end().begin().int32(80_877_103).end();
    expect(writer.length).toBe(16);
    expect(writer.take()).toEqual(
      Uint8Array.of(0x51, 0, 0, 0, 7, 97, 98, 0, 0, 0, 0, 8, 4, 210, 22, 47),
    );
    expect(writer.length).toBe(0);
  });

  test.each([5, 500, 600, 5000])("never writes again into what was taken: %d bytes", (size) => {
    const writer = new ByteWriter(64);
    const first = writer.bytes(new Uint8Array(size).fill(1)).take();
    writer.bytes(new Uint8Array(size).fill(2));
    expect(first).toEqual(new Uint8Array(size).fill(1));
    expect(writer.take()).toEqual(new Uint8Array(size).fill(2));
  });

  test.each<[string, (writer: ByteWriter) => unknown]>([
    ["int8", (w) => w.int8(256)],
    ["int16", (w) => w.int16(65_536)],
    ["int16 below", (w) => w.int16(-32_769)],
    ["int32", (w) => w.int32(2 ** 32)],
    ["a fraction", (w) => w.int32(1.5)],
    ["no number", (w) => w.int32(Number.NaN)],
  ])("refuses a value that does not fit: %s", (_, write) => {
    expect(() => write(new ByteWriter())).toThrow(RangeError);
  });

  test.each<[string, (writer: ByteWriter) => unknown]>([
    ["two beginnings", (w) => w.begin(1).begin(2)],
    ["an end without a beginning", (w) => w.end()],
    ["taken before its end", (w) => w.begin(1).take()],
  ])("refuses to make half a message: %s", (_, write) => {
    expect(() => write(new ByteWriter())).toThrow(Error);
  });
});
