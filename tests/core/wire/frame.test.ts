import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ProtocolViolation } from "../../../core/errors.ts";
import { encodeBackend, readyForQuery } from "../../../core/wire/backend.ts";
import { BACKEND, FRONTEND } from "../../../core/wire/codes.ts";
import {
  AUTHENTICATION_BODY_SIZE_MAX,
  BACKEND_SMALL_BODY_SIZE_MAX,
  type BodySizeMax,
  backendBodySizeMax,
  FrameDecoder,
  frameOf,
  frontendBodySizeMax,
  LARGE_BODY_SIZE_MAX,
  loginBodySizeMax,
  SMALL_BODY_SIZE_MAX,
} from "../../../core/wire/frame.ts";
import { backendMessage } from "./messages.ts";

const concat = (pieces: readonly Uint8Array[]) =>
  Uint8Array.from(pieces.flatMap((piece) => [...piece]));

/** Cuts the bytes at the given places, in any order and with repetitions. */
function cut(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const edges = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length];
  edges.sort((a, b) => a - b);
  return edges.slice(1).map((end, i) => bytes.slice(edges[i], end));
}

const header = (type: number, length: number) =>
  Uint8Array.of(type, length >>> 24, length >>> 16, length >>> 8, length);

const rawsOf = (decoder: FrameDecoder, chunks: readonly Uint8Array[]) =>
  chunks.flatMap((chunk) => [...decoder.push(chunk)]).map((frame) => frame.raw);

describe("FrameDecoder", () => {
  test("yields the same frames however the stream is cut", () => {
    const stream = fc.array(backendMessage.map(encodeBackend), { maxLength: 8 });
    fc.assert(
      fc.property(stream, fc.array(fc.nat(2000), { maxLength: 30 }), (messages, places) => {
        const decoder = new FrameDecoder({ bodySizeMax: 10_000 });
        expect(rawsOf(decoder, cut(concat(messages), places))).toEqual(messages);
        expect(decoder.buffered).toBe(0);
      }),
    );
  });

  test("yields the same frames when a consumer stops after each one", () => {
    const stream = fc.array(backendMessage.map(encodeBackend), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(stream, fc.array(fc.nat(2000), { maxLength: 10 }), (messages, places) => {
        const decoder = new FrameDecoder({ bodySizeMax: 10_000 });
        const raws: Uint8Array[] = [];
        const takeOne = (chunk: Uint8Array) => {
          for (const frame of decoder.push(chunk)) {
            raws.push(frame.raw);
            break;
          }
        };
        for (const chunk of cut(concat(messages), places)) takeOne(chunk);
        for (const _ of messages) takeOne(new Uint8Array(0));
        expect(raws).toEqual(messages);
      }),
    );
  });

  test("hands over in rest() exactly what it has not yielded", () => {
    const stream = fc.array(backendMessage.map(encodeBackend), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(
        stream,
        fc.array(fc.nat(2000), { maxLength: 10 }),
        fc.nat(8),
        fc.uint8Array({ maxLength: 4 }),
        (messages, places, wanted, tail) => {
          const whole = concat([...messages, tail]);
          const decoder = new FrameDecoder({ bodySizeMax: 10_000 });
          for (const chunk of cut(whole, places)) decoder.add(chunk);
          let taken = 0;
          for (let i = 0; i < wanted; i++) taken += decoder.next()?.raw.length ?? 0;
          expect(decoder.buffered).toBe(whole.length - taken);
          expect(decoder.rest()).toEqual(whole.slice(taken));
          expect(decoder.buffered).toBe(0);
          expect(decoder.next()).toBeUndefined();
        },
      ),
    );
  });

  test("gives type, body and the whole message as views into the chunk", () => {
    const chunk = readyForQuery("I");
    const frames = [...new FrameDecoder({ bodySizeMax: 10 }).push(chunk)];
    expect(frames).toHaveLength(1);
    expect(frames[0]?.type).toBe(BACKEND.ReadyForQuery);
    expect(frames[0]?.body).toEqual(Uint8Array.of(0x49));
    expect(frames[0]?.raw.buffer).toBe(chunk.buffer);
  });

  test("does not touch a frame it has yielded, whatever follows", () => {
    const decoder = new FrameDecoder({ bodySizeMax: 100 });
    const first = encodeBackend({ kind: "CommandComplete", tag: "BEGIN" });
    const second = encodeBackend({ kind: "CommandComplete", tag: "XXXXX" });
    const [frame] = rawsOf(decoder, cut(first, [3, 7]));
    rawsOf(decoder, cut(second, [3, 7]));
    expect(frame).toEqual(first);
  });

  test("copies each byte a bounded number of times when it comes alone", () => {
    // Quadratic copying of these 4 MB would move 8 TB; the test would not end.
    const message = encodeBackend({ kind: "CopyData", data: new Uint8Array(4 << 20).fill(1) });
    const decoder = new FrameDecoder({ bodySizeMax: LARGE_BODY_SIZE_MAX });
    const frames: number[] = [];
    for (let i = 0; i < message.length; i++) {
      decoder.add(message.subarray(i, i + 1));
      for (let f = decoder.next(); f !== undefined; f = decoder.next()) frames.push(f.raw.length);
    }
    expect(frames).toEqual([message.length]);
  });
});

describe("a frame's length is held against its phase's limit before the body is awaited", () => {
  const lengths = [0, 3, 4, 5, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1];
  const phases: readonly (readonly [string, BodySizeMax, number, number])[] = [
    ["a fixed limit", 100, FRONTEND.Query, 100],
    ["login", loginBodySizeMax, FRONTEND.Authentication, AUTHENTICATION_BODY_SIZE_MAX],
    ["Query", frontendBodySizeMax, FRONTEND.Query, LARGE_BODY_SIZE_MAX],
    ["Bind", frontendBodySizeMax, FRONTEND.Bind, LARGE_BODY_SIZE_MAX],
    ["CopyData", frontendBodySizeMax, FRONTEND.CopyData, LARGE_BODY_SIZE_MAX],
    ["Sync", frontendBodySizeMax, FRONTEND.Sync, SMALL_BODY_SIZE_MAX],
    ["Terminate", frontendBodySizeMax, FRONTEND.Terminate, SMALL_BODY_SIZE_MAX],
    ["a late password", frontendBodySizeMax, FRONTEND.Authentication, AUTHENTICATION_BODY_SIZE_MAX],
    ["DataRow", backendBodySizeMax, BACKEND.DataRow, LARGE_BODY_SIZE_MAX],
    ["ErrorResponse", backendBodySizeMax, BACKEND.ErrorResponse, LARGE_BODY_SIZE_MAX],
    ["ReadyForQuery", backendBodySizeMax, BACKEND.ReadyForQuery, BACKEND_SMALL_BODY_SIZE_MAX],
    ["an unknown server message", backendBodySizeMax, 0x21, BACKEND_SMALL_BODY_SIZE_MAX],
  ];
  const rows = phases.flatMap(([name, bodySizeMax, type, limit]) =>
    [...lengths, limit + 4, limit + 5].map(
      (length) => [name, length, bodySizeMax, type, length >= 4 && length <= limit + 4] as const,
    ),
  );

  test.each(rows)("%s, length %d", (_, length, bodySizeMax, type, allowed) => {
    const decoder = new FrameDecoder({ bodySizeMax });
    const pushed = () => [...decoder.push(header(type, length))];
    if (allowed) {
      // Taken as a frame when it has no body; else awaited, with nothing but the header kept.
      expect(pushed()).toHaveLength(length === 4 ? 1 : 0);
    } else {
      expect(pushed).toThrow(new ProtocolViolation("invalid message length"));
    }
  });

  test("only messages that hold statements or data may be large", () => {
    const large = (names: Record<string, number>, limitOf: (type: number) => number) =>
      Object.keys(names).filter((name) => limitOf(names[name] ?? 0) === LARGE_BODY_SIZE_MAX);
    expect(large(FRONTEND, frontendBodySizeMax).sort()).toEqual([
      "Bind",
      "CopyData",
      "FunctionCall",
      "Parse",
      "Query",
    ]);
    expect(large(BACKEND, backendBodySizeMax).sort()).toEqual([
      "CopyData",
      "DataRow",
      "ErrorResponse",
      "FunctionCallResponse",
      "NoticeResponse",
      "NotificationResponse",
      "ParameterDescription",
      "RowDescription",
    ]);
  });

  test("types that no client may send are refused by their first header", () => {
    const known = new Set<number>(Object.values(FRONTEND));
    for (let type = 0; type < 256; type++) {
      const afterLogin = new FrameDecoder({ bodySizeMax: frontendBodySizeMax });
      const atLogin = new FrameDecoder({ bodySizeMax: loginBodySizeMax });
      const first = header(type, 4);
      if (!known.has(type)) {
        expect(() => [...afterLogin.push(first)]).toThrow(`invalid frontend message type ${type}`);
      }
      if (type !== FRONTEND.Authentication) {
        expect(() => [...atLogin.push(first)]).toThrow(ProtocolViolation);
      }
    }
  });

  test("a limit changed between two frames is in force for the second", () => {
    const decoder = new FrameDecoder({ bodySizeMax: 10 });
    decoder.add(concat([header(1, 14), new Uint8Array(10), header(1, 14), new Uint8Array(10)]));
    expect(decoder.next()?.body.length).toBe(10);
    decoder.bodySizeMax = 9;
    expect(() => decoder.next()).toThrow("invalid message length");
  });
});

test("arbitrary bytes give frames or a ProtocolViolation, and nothing is kept beyond the limit", () => {
  const someBytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // Zeros and small numbers, so that lengths are often plausible.
    fc
      .array(fc.integer({ min: 0, max: 12 }), { maxLength: 200 })
      .map((all) => Uint8Array.from(all)),
  );
  fc.assert(
    fc.property(someBytes, fc.array(fc.nat(200), { maxLength: 10 }), (bytes, places) => {
      const decoder = new FrameDecoder({ bodySizeMax: 32 });
      let yielded = 0;
      try {
        for (const chunk of cut(bytes, places)) {
          for (const frame of decoder.push(chunk)) yielded += frame.raw.length;
          expect(decoder.buffered).toBeLessThan(5 + 32);
        }
        expect(yielded + decoder.rest().length).toBe(bytes.length);
      } catch (error) {
        expect(error).toBeInstanceOf(ProtocolViolation);
      }
    }),
    { numRuns: 1000 },
  );
});

test.each([
  ["empty", []],
  ["shorter than a header", [0x5a, 0, 0, 0]],
  ["too short", [0x5a, 0, 0, 0, 5]],
  ["too long", [0x5a, 0, 0, 0, 4, 0x49]],
])("frameOf refuses bytes that are not one message: %s", (_, bytes) => {
  expect(() => frameOf(Uint8Array.from(bytes))).toThrow(ProtocolViolation);
});
