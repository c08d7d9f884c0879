import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ProtocolViolation } from "../../../core/errors.ts";
import { StartupDecoder, type StartupPacket } from "../../../core/wire/frame.ts";
import { encodeFrontend } from "../../../core/wire/frontend.ts";
import { startupRequest } from "./messages.ts";

const int32 = (value: number) =>
  [value >>> 24, value >>> 16, value >>> 8, value].map((b) => b & 255);
/** A packet with a right length word; text in latin1. */
const packet = (code: number, body = "") =>
  Uint8Array.from([...int32(8 + body.length), ...int32(code), ...Buffer.from(body, "latin1")]);
const startup30 = (body: string) => packet(3 << 16, body);
const CANCEL = 80_877_102;
const SSL = 80_877_103;
const GSSENC = 80_877_104;

const read = (bytes: Uint8Array, decoder = new StartupDecoder()) => [...decoder.push(bytes)];
const parametersOf = (packet: StartupPacket | undefined) =>
  packet?.kind === "StartupMessage" ? [...packet.parameters] : undefined;

describe("StartupDecoder", () => {
  test("yields the same packets however the stream is cut", () => {
    const requests = fc.tuple(
      fc.array(fc.constantFrom<"SSLRequest" | "GSSENCRequest">("SSLRequest", "GSSENCRequest"), {
        maxLength: 2,
      }),
      startupRequest,
    );
    fc.assert(
      fc.property(requests, fc.array(fc.nat(400)), ([first, last], places) => {
        const messages = [...first.map((kind) => ({ kind })), last];
        const stream = Buffer.concat(messages.map(encodeFrontend));
        const edges = [0, ...places.map((p) => p % (stream.length + 1)), stream.length];
        edges.sort((a, b) => a - b);
        const decoder = new StartupDecoder();
        const packets = edges
          .slice(1)
          .flatMap((end, i) => read(Uint8Array.from(stream.subarray(edges[i], end)), decoder));
        expect(packets.map((p) => p.kind)).toEqual(messages.map((m) => m.kind));
        expect(packets).toEqual(read(Uint8Array.from(stream)));
        expect(decoder.buffered).toBe(0);
      }),
    );
  });

  test("leaves what follows the StartupMessage for the frames to come", () => {
    const decoder = new StartupDecoder();
    const early = Uint8Array.of(0x70, 0, 0, 0, 5, 0);
    expect(read(Buffer.concat([startup30("user\0u\0\0"), early]), decoder)).toHaveLength(1);
    expect(read(early, decoder)).toEqual([]);
    expect(decoder.buffered).toBe(12);
    expect(decoder.rest()).toEqual(Uint8Array.from([...early, ...early]));
  });

  test("shows that bytes came with an SSLRequest before it is granted", () => {
    const decoder = new StartupDecoder();
    const stuffed = Buffer.concat([packet(SSL), startup30("user\0eve\0\0")]);
    for (const request of decoder.push(stuffed)) {
      expect(request.kind).toBe("SSLRequest");
      expect(decoder.buffered).toBe(stuffed.length - 8);
      break;
    }
  });

  test("keeps unknown options, empty values and bytes that are not UTF-8", () => {
    const [message] = read(startup30("user\0b\xe4h\0_pq_.x\0\0options\0-c a=b\0\0"));
    expect(parametersOf(message)).toEqual([
      ["user", "b\udce4h"],
      ["_pq_.x", ""],
      ["options", "-c a=b"],
    ]);
  });

  test("takes 64-byte names and 9 kB values as any other", () => {
    const value = "x".repeat(9000);
    expect(parametersOf(read(startup30(`database\0${value}\0\0`))[0])).toEqual([
      ["database", value],
    ]);
  });

  test.each([
    [0x0002_0000, 2, 0],
    [0x0004_0000, 4, 0],
    [0xffff_ffff, 65_535, 65_535],
  ])("does not look into version %d, which is not 3", (code, major, minor) => {
    const [message] = read(packet(code, "any\0thing"));
    expect(message).toMatchObject({ kind: "StartupMessage", major, minor });
    expect(parametersOf(message)).toEqual([]);
  });

  test("any minor version of 3 is for the dialogue to judge", () => {
    expect(read(packet((3 << 16) | 9999, "\0"))[0]).toMatchObject({ major: 3, minor: 9999 });
  });
});

describe("direct TLS", () => {
  const clientHello = Uint8Array.of(0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5);

  test("is known by the connection's first byte, and its bytes are kept", () => {
    const decoder = new StartupDecoder();
    expect(read(clientHello.subarray(0, 1), decoder)).toEqual([{ kind: "DirectTls" }]);
    expect(read(clientHello.subarray(1), decoder)).toEqual([]);
    expect(decoder.rest()).toEqual(clientHello);
  });

  test("cannot begin after another request", () => {
    const decoder = new StartupDecoder();
    expect(read(packet(SSL), decoder)).toHaveLength(1);
    expect(() => read(clientHello, decoder)).toThrow("invalid length of startup packet");
  });

  test("cannot begin within TLS", () => {
    const decoder = new StartupDecoder({ encrypted: true });
    expect(() => read(clientHello, decoder)).toThrow("invalid length of startup packet");
  });
});

describe("a start-up packet's length is checked before its body is awaited", () => {
  test.each([0, 3, 4, 7, 10_005, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1])("%d is refused", (length) => {
    expect(() => read(Uint8Array.from(int32(length)))).toThrow(
      new ProtocolViolation("invalid length of startup packet"),
    );
  });

  test.each([8, 9, 10_004])("%d is awaited", (length) => {
    const decoder = new StartupDecoder();
    expect(read(Uint8Array.from(int32(length)), decoder)).toEqual([]);
    expect(decoder.buffered).toBe(4);
  });
});

describe("malformed packets", () => {
  const layout = "invalid startup packet layout: expected terminator as last byte";
  test.each([
    ["no terminator at all", startup30(""), layout],
    ["no terminator after the last value", startup30("user\0u\0"), layout],
    ["another byte where the terminator belongs", startup30("user\0u\0x"), layout],
    ["bytes after the terminator", startup30("user\0u\0\0x"), layout],
    ["two terminators", startup30("user\0u\0\0\0"), layout],
    ["a name without a value", startup30("user\0"), "invalid string in message"],
    ["a name without an end", startup30("user"), "invalid string in message"],
    ["a value without an end", startup30("user\0u"), "invalid string in message"],
    [
      "a parameter twice",
      startup30("user\0alice\0user\0bob\0\0"),
      'duplicate parameter "user" in startup packet',
    ],
    ["an SSLRequest with more in it", packet(SSL, "x"), "invalid message format"],
    ["a GSSENCRequest with more in it", packet(GSSENC, "x"), "invalid message format"],
    [
      "a CancelRequest without a key",
      packet(CANCEL, "pid_"),
      "invalid length of cancel request packet",
    ],
    ["a key of 3 bytes", packet(CANCEL, "pid_123"), "invalid length of cancel request packet"],
    [
      "a key of 257 bytes",
      packet(CANCEL, `pid_${"k".repeat(257)}`),
      "invalid length of cancel request packet",
    ],
  ])("%s", (_, bytes, message) => {
    expect(() => read(bytes)).toThrow(new ProtocolViolation(message));
  });

  test("arbitrary bytes give packets or a ProtocolViolation", () => {
    const bodies = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc.array(fc.constantFrom(0, 0, 117, 118), { maxLength: 30 }),
    );
    const code = fc.constantFrom(3 << 16, CANCEL, SSL, GSSENC, 2 << 16, -1);
    const packets = fc
      .tuple(code, bodies)
      .map(([c, body]) => packet(c, Buffer.from(body).toString("latin1")));
    fc.assert(
      fc.property(fc.oneof(packets, fc.uint8Array({ maxLength: 60 })), (bytes) => {
        try {
          read(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolViolation);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test.each([
  // From the spec's captured logins: psql through Pgpool-II.
  [
    "0000003a00030000757365720062735f61657300646174616261736500645f6d6435006170706c69636174696f6e5f6e616d65007073716c0000",
    [
      ["user", "bs_aes"],
      ["database", "d_md5"],
      ["application_name", "psql"],
    ],
  ],
])("a start-up packet of psql: %s", (hex, parameters) => {
  const [message] = read(Uint8Array.fromHex(hex));
  expect(parametersOf(message)).toEqual(parameters as [string, string][]);
});
