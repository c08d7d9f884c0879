import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { frameOf, PcpError, REQUEST_LENGTH_MAX, requestCutter } from "../../../core/pcp/frame.ts";
import {
  decodeRequest,
  encodeRequest,
  leadingInteger,
  type PcpRequest,
} from "../../../core/pcp/request.ts";
import { pcpRequest } from "./messages.ts";
import { requests } from "./vectors.ts";

describe("what 4.3.5's programs send", () => {
  test.each(requests.map(([hex, request]) => [hex, request] as [string, PcpRequest]))(
    "%s is understood, and is what we send",
    (hex, request) => {
      expect(decodeRequest(frameOf(Uint8Array.fromHex(hex)))).toEqual(request);
      expect(encodeRequest(request).toHex()).toBe(hex);
    },
  );
});

test("every request comes back as it was sent", () => {
  fc.assert(
    fc.property(pcpRequest, (request) => {
      expect(decodeRequest(frameOf(encodeRequest(request)))).toEqual(request);
    }),
  );
});

test("a promotion in the form of 4.2 is a plain one", () => {
  const frame = frameOf(Uint8Array.fromHex("4a000000063100"));
  expect(decodeRequest(frame)).toEqual({
    kind: "promote_node",
    argument: "1",
    gracefully: false,
    switchover: false,
  });
});

test("a letter that means nothing ends the connection", () => {
  const refused = () => decodeRequest({ letter: "K", body: new Uint8Array(0) });
  expect(refused).toThrow(PcpError);
  expect(refused).toThrow(
    expect.objectContaining({
      message: "PCP processing request",
      detail: 'unknown PCP packet type "K"',
      severity: "FATAL",
    }),
  );
});

describe("a length that cannot be", () => {
  test.each([-1, 0, 1, 3, REQUEST_LENGTH_MAX + 1, 10_000_000, 0x7fff_ffff, -0x8000_0000])(
    "%d is refused before anything is allocated",
    (length) => {
      const cutter = requestCutter();
      const header = new Uint8Array(5);
      header[0] = 0x4c;
      new DataView(header.buffer).setInt32(1, length);
      cutter.push(header);
      expect(() => cutter.next()).toThrow(
        expect.objectContaining({
          message: "invalid PCP packet",
          detail: `incorrect packet length (${length})`,
          severity: "FATAL",
        }),
      );
      expect(cutter.allocated).toBeLessThan(16);
    },
  );
  test.each([4, REQUEST_LENGTH_MAX])("%d is awaited", (length) => {
    const cutter = requestCutter();
    const frame = new Uint8Array(1 + length);
    new DataView(frame.buffer).setInt32(1, length);
    cutter.push(frame.subarray(0, 5));
    cutter.push(frame.subarray(5));
    expect(cutter.next()).toEqual(frame);
  });
});

test.each([
  ["7", 7],
  [" -3x", -3],
  ["+12", 12],
  ["xyz", 0],
  ["", 0],
  ["1e3", 1],
  ["99999999999", 0x7fff_ffff],
] as [string, number][])("C reads %p as %d", (text, value) => {
  expect(leadingInteger(text)).toBe(value);
});
