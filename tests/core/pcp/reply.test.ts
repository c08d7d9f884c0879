import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { frameOf, type PcpFrame, replyCutter } from "../../../core/pcp/frame.ts";
import {
  decodeReport,
  encodeArray,
  encodeError,
  encodeTexts,
  type PcpReply,
  ReplyReader,
} from "../../../core/pcp/reply.ts";
import { text } from "./messages.ts";
import { refusals } from "./vectors.ts";

function framesOf(bytes: Uint8Array): PcpFrame[] {
  const cutter = replyCutter();
  cutter.push(bytes);
  const frames: PcpFrame[] = [];
  for (let piece = cutter.next(); piece !== undefined; piece = cutter.next()) {
    frames.push(frameOf(piece));
  }
  return frames;
}

function read(bytes: Uint8Array): PcpReply | undefined {
  const reader = new ReplyReader();
  let reply: PcpReply | undefined;
  for (const frame of framesOf(bytes)) reply = reader.add(frame);
  return reply;
}

test("an array comes back record by record, whatever its kind", () => {
  const kind = fc.constantFrom("node_info", "process_info", "pool_status" as const);
  const records = fc.array(fc.array(text, { minLength: 1, maxLength: 21 }), { maxLength: 8 });
  fc.assert(
    fc.property(kind, records, (arrayKind, rows) => {
      const bytes = Buffer.concat([...encodeArray(arrayKind, rows)]);
      expect(read(bytes)).toEqual({ texts: [], records: rows });
    }),
  );
});

test("texts come back", () => {
  fc.assert(
    fc.property(fc.array(text), (texts) => {
      expect(read(encodeTexts("l", texts))).toEqual({ texts, records: [] });
    }),
  );
});

test("the size of an array of settings is the one number that is not text", () => {
  const [first] = encodeArray("pool_status", new Array(0x98).fill(["n", "v", "d"]));
  expect(first?.toHex()).toBe("620000001241727261795369" + "7a650000000098");
});

describe("refusals of 4.3.5's server", () => {
  test.each([...refusals])("%s", (hex, report) => {
    const frame = frameOf(Uint8Array.fromHex(hex));
    expect(decodeReport(frame)).toMatchObject({ ...report, sqlstate: "XX000" });
  });
});

describe("an error", () => {
  const report = { severity: "ERROR", sqlstate: "XX000" };

  test("is read back by anybody", () => {
    fc.assert(
      fc.property(text, fc.option(text, { nil: undefined }), (message, detail) => {
        fc.pre(![message, detail ?? ""].some((part) => /^[SMD]/.test(part)));
        const sent = { ...report, message, detail };
        expect(decodeReport(frameOf(encodeError(sent)))).toEqual({ ...sent, hint: undefined });
      }),
    );
  });

  test.each([
    ["Message", "message"],
    ["Some", "some"],
    ["SSL is", "SSL is"],
    ["Detail", "detail"],
    ["Node", "Node"],
  ])("that begins with %p is kept from the clients' scanner as %p", (message, kept) => {
    expect(decodeReport(frameOf(encodeError({ ...report, message }))).message).toBe(kept);
  });

  test("is cut where clients reserve no more, and never within a character", () => {
    const message = `x${"é".repeat(200)}`;
    const cut = decodeReport(frameOf(encodeError({ ...report, message }))).message;
    expect(cut).toBe(`x${"é".repeat(126)}`);
  });
});

describe("what is no answer", () => {
  test.each([
    ["an unknown tag", "690000000a48656c6c6f00"],
    ["a record before its array", "690000000d4e6f6465496e666f00"],
    ["a text without an end", "690000000741727261"],
  ])("%s is refused", (_, hex) => {
    expect(() => read(Uint8Array.fromHex(hex))).toThrow();
  });
});
