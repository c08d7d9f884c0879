/** What the decoders refuse, with PostgreSQL's own words where it has some, and what they let pass. */

import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { AuthenticationFailed, ProtocolViolation } from "../../../core/errors.ts";
import {
  type BackendMessage,
  commandComplete,
  decodeBackend,
  encodeBackend,
  errorField,
  errorResponse,
  noticeResponse,
  parameterStatus,
  readyForQuery,
  toErrorResponse,
} from "../../../core/wire/backend.ts";
import { FRONTEND } from "../../../core/wire/codes.ts";
import { ByteWriter, type Frame, frameOf } from "../../../core/wire/frame.ts";
import {
  decodeFrontend,
  encodeFrontend,
  type FrontendPhase,
  writeFrontend,
} from "../../../core/wire/frontend.ts";
import { frameOfAnything } from "./messages.ts";

/** A frame from a type's letter and a body in latin1. */
const frame = (type: string, body = ""): Frame =>
  frameOf(
    new ByteWriter().begin(type.charCodeAt(0)).bytes(Buffer.from(body, "latin1")).end().take(),
  );

/** Decodes; the bytes if that went well, and undefined if it was refused in the one allowed way. */
function reencoded(decode: () => Uint8Array): Uint8Array | undefined {
  try {
    return decode();
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolViolation);
    return undefined;
  }
}

describe("whatever a decoder accepts, it has understood to the last byte", () => {
  const phases: readonly FrontendPhase[] = ["query", "password", "sasl_initial", "sasl", "gss"];

  test("a client's", () => {
    fc.assert(
      fc.property(frameOfAnything, fc.constantFrom(...phases), (any, phase) => {
        const again = reencoded(() => encodeFrontend(decodeFrontend(any, phase)));
        if (again !== undefined) expect(again).toEqual(any.raw);
      }),
      { numRuns: 3000 },
    );
  });

  test("a server's", () => {
    fc.assert(
      fc.property(frameOfAnything, (any) => {
        const again = reencoded(() => encodeBackend(decodeBackend(any)));
        if (again !== undefined) expect(again).toEqual(any.raw);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("client messages that are refused", () => {
  const short = "insufficient data left in message";
  const long = "invalid message format";
  test.each([
    ["Query without a terminator", frame("Q", "SELECT 1"), "invalid string in message"],
    ["Query with two", frame("Q", "SELECT 1\0\0"), long],
    ["Sync with a body", frame("S", "x"), long],
    ["Parse that counts a type it does not have", frame("P", "\0\0\0\x01"), short],
    ["Bind with 65,535 formats and no more", frame("B", "\0\0\xff\xff"), short],
    [
      "Bind with a parameter of -2 bytes",
      frame("B", "\0\0\0\0\0\x01\xff\xff\xff\xfe"),
      "invalid length in message",
    ],
    ["Bind with a parameter of 2 GB", frame("B", "\0\0\0\0\0\x01\x7f\xff\xff\xff"), short],
    ["Describe of neither", frame("D", "x\0"), "invalid DESCRIBE message subtype 120"],
    ["Close of neither", frame("C", "x\0"), "invalid CLOSE message subtype 120"],
    ["Execute without a count", frame("E", "p\0\0\0"), short],
    ["FunctionCall with nothing in it", frame("F"), short],
    ["a type that does not exist", frame("!"), "invalid frontend message type 33"],
    ["a password nobody asked for", frame("p", "pw\0"), "invalid frontend message type 112"],
  ])("%s", (_, message, text) => {
    expect(() => decodeFrontend(message)).toThrow(new ProtocolViolation(text));
  });

  test("an error says which message, and where in it", () => {
    try {
      decodeFrontend(frame("B", "\0\0\0\x01\0"));
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ detail: "Bind: 2 bytes wanted at byte 4 of 5" });
    }
  });
});

describe("while an answer to an authentication request is awaited", () => {
  const phases = [
    ["password", "password"],
    ["sasl_initial", "SASL"],
    ["sasl", "SASL"],
    ["gss", "GSS"],
  ] as const;

  test.each(phases)("every other message is refused: %s", (phase, name) => {
    for (const type of Object.values(FRONTEND).filter((t) => t !== FRONTEND.Authentication)) {
      const message = frame(String.fromCharCode(type), "SELECT 1\0");
      const text = `expected ${name} response, got message type ${type}`;
      expect(() => decodeFrontend(message, phase)).toThrow(new ProtocolViolation(text));
    }
  });

  test.each<[FrontendPhase, string, string, string]>([
    ["password", "a password without a terminator", "pw", "invalid string in message"],
    ["password", "a zero byte inside the password", "pw\0evil\0", "invalid message format"],
    ["sasl_initial", "no length", "SCRAM-SHA-256\0", "insufficient data left in message"],
    ["sasl_initial", "a length of -2", "X\0\xff\xff\xff\xfe", "invalid length in message"],
    [
      "sasl_initial",
      "a length beyond the message",
      "X\0\0\0\0\x02a",
      "insufficient data left in message",
    ],
    ["sasl_initial", "bytes after the response", "X\0\0\0\0\x01ab", "invalid message format"],
  ])("%s: %s is refused", (phase, _, body, text) => {
    expect(() => decodeFrontend(frame("p", body), phase)).toThrow(new ProtocolViolation(text));
  });

  test("no initial response is not an empty one", () => {
    const none = decodeFrontend(frame("p", "X\0\xff\xff\xff\xff"), "sasl_initial");
    const empty = decodeFrontend(frame("p", "X\0\0\0\0\0"), "sasl_initial");
    expect(none).toMatchObject({ kind: "SASLInitialResponse", response: undefined });
    expect(empty).toMatchObject({ response: new Uint8Array(0) });
  });
});

describe("server messages that are refused", () => {
  test.each([
    ["a key of 3 bytes", frame("K", "\0\0\0\x01abc"), "cancel key length is less than 4 bytes"],
    [
      "a key of 257",
      frame("K", `\0\0\0\x01${"k".repeat(257)}`),
      "cancel key length exceeds 256 bytes",
    ],
    ["a transaction status that is none", frame("Z", "X"), "invalid transaction status 88"],
    [
      "an authentication method that is none",
      frame("R", "\0\0\0\x63"),
      "authentication method 99 not supported",
    ],
    ["a salt of 3 bytes", frame("R", "\0\0\0\x05abc"), "insufficient data left in message"],
    [
      "SASL mechanisms without an end",
      frame("R", "\0\0\0\x0aSCRAM-SHA-256\0"),
      "invalid string in message",
    ],
    ["an error without a terminator", frame("E", "SERROR\0"), "insufficient data left in message"],
    ["an error field without an end", frame("E", "SERROR"), "invalid string in message"],
    [
      "4 billion unknown options",
      frame("v", "\0\x03\0\0\xff\xff\xff\xff"),
      "invalid string in message",
    ],
    [
      "a row that counts a value too many",
      frame("D", "\0\x02\0\0\0\x01a"),
      "insufficient data left in message",
    ],
    ["a type that does not exist", frame("!"), "invalid backend message type 33"],
  ])("%s", (_, message, text) => {
    expect(() => decodeBackend(message)).toThrow(new ProtocolViolation(text));
  });
});

describe("an ErrorResponse is read whatever fields it has", () => {
  const fieldsOf = (message: BackendMessage) =>
    message.kind === "ErrorResponse" ? message.fields.map(({ code, value }) => code + value) : [];

  test.each([
    ["none", "\0", []],
    ["no SQLSTATE", "SERROR\0Moops\0\0", ["SERROR", "Moops"]],
    ["one twice", "SERROR\0C1\0C2\0\0", ["SERROR", "C1", "C2"]],
    ["one that is not in the manual", "\xfex\0\0", ["\xfex"]],
  ])("%s", (_, body, fields) => {
    expect(fieldsOf(decodeBackend(frame("E", body)))).toEqual(fields);
  });

  test("the first of two fields counts, and a missing one is undefined", () => {
    const fields = [
      { code: "C", value: "1" },
      { code: "C", value: "2" },
    ];
    expect(errorField({ fields }, "C")).toBe("1");
    expect(errorField({ fields }, "M")).toBeUndefined();
  });
});

describe("what we say ourselves", () => {
  const latin1 = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");

  test.each([
    [
      "an error that was raised",
      toErrorResponse(
        new AuthenticationFailed("password authentication failed", {
          sqlstate: "28P01",
          detail: "why",
          hint: "try",
        }),
      ),
      "ESFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0Dwhy\0Htry\0\0",
    ],
    [
      "an error with everything, in PostgreSQL's order",
      errorResponse({
        severity: "ERROR",
        code: "23505",
        message: "m",
        detail: "d",
        hint: "h",
        where: "w",
        schema: "s",
        table: "t",
        column: "c",
        dataType: "ty",
        constraint: "n",
        position: 12,
      }),
      "ESERROR\0VERROR\0C23505\0Mm\0Dd\0Hh\0Ww\0ss\0tt\0cc\0dty\0nn\0P12\0\0",
    ],
    [
      "a notice",
      noticeResponse({ severity: "WARNING", code: "01000", message: "m" }),
      "NSWARNING\0VWARNING\0C01000\0Mm\0\0",
    ],
    [
      "an error that quotes a zero byte",
      errorResponse({ severity: "ERROR", code: "XX000", message: "alice\0.evil" }),
      "ESERROR\0VERROR\0CXX000\0Malice.evil\0\0",
    ],
    ["ReadyForQuery", readyForQuery("T"), "ZT"],
    ["CommandComplete", commandComplete("SELECT 1"), "CSELECT 1\0"],
    ["ParameterStatus", parameterStatus("DateStyle", "ISO"), "SDateStyle\0ISO\0"],
  ])("%s", (_, bytes, expected) => {
    expect(frameOf(bytes).raw.length).toBe(bytes.length);
    expect(latin1(bytes.slice(0, 1)) + latin1(bytes.slice(5))).toBe(expected);
  });
});

describe("encoding", () => {
  test("several messages can be written as one", () => {
    const writer = new ByteWriter(1);
    writeFrontend(writer, { kind: "Parse", statement: "", sql: "SELECT 1", parameterTypes: [] });
    writeFrontend(writer, { kind: "Sync" });
    const parse = encodeFrontend({
      kind: "Parse",
      statement: "",
      sql: "SELECT 1",
      parameterTypes: [],
    });
    expect(writer.take()).toEqual(Uint8Array.from([...parse, 0x53, 0, 0, 0, 4]));
  });

  test("a zero byte in a string is refused, not sent as two strings", () => {
    const smuggled = { kind: "Query", sql: "SELECT 1\0Q" } as const;
    expect(() => encodeFrontend(smuggled)).toThrow(ProtocolViolation);
    expect(() => parameterStatus("a", `${"x".repeat(5000)}\0b`)).toThrow(ProtocolViolation);
  });

  test("65,535 parameters fit, one more does not", () => {
    const bind = (count: number) =>
      encodeFrontend({
        kind: "Bind",
        portal: "",
        statement: "",
        parameterFormats: [],
        parameters: Array.from({ length: count }, () => null),
        resultFormats: [],
      });
    const decoded = decodeFrontend(frameOf(bind(65_535)));
    expect(decoded.kind === "Bind" ? decoded.parameters.length : 0).toBe(65_535);
    expect(() => bind(65_536)).toThrow(RangeError);
  });
});
