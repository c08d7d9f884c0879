import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decodeText, encodeText } from "../../../core/wire/text.ts";

test("any bytes come back from the text they were decoded to", () => {
  const mostlyText = fc
    .array(fc.oneof(fc.string({ unit: "binary" }).map(encodeText), fc.uint8Array()))
    .map((pieces) => Uint8Array.from(pieces.flatMap((piece) => [...piece])));
  fc.assert(
    fc.property(fc.oneof(mostlyText, fc.uint8Array({ maxLength: 8 })), (bytes) => {
      expect(encodeText(decodeText(bytes))).toEqual(bytes);
    }),
    { numRuns: 2000 },
  );
});

test("well-formed text is UTF-8 and nothing else", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      const bytes = encodeText(text);
      expect(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)).toBe(text);
      expect(decodeText(bytes)).toBe(text);
    }),
  );
});

describe("bytes that are not UTF-8 become lone surrogates", () => {
  test.each([
    ["a LATIN1 letter", [0x62, 0xe4, 0x68], "b\udce4h"],
    ["a continuation without a beginning", [0x80], "\udc80"],
    ["an overlong slash", [0xc0, 0xaf], "\udcc0\udcaf"],
    ["an overlong three-byte form", [0xe0, 0x80, 0xaf], "\udce0\udc80\udcaf"],
    ["an encoded surrogate", [0xed, 0xa0, 0x80], "\udced\udca0\udc80"],
    ["what lies beyond U+10FFFF", [0xf4, 0x90, 0x80, 0x80], "\udcf4\udc90\udc80\udc80"],
    ["a sequence cut short", [0xe2, 0x82], "\udce2\udc82"],
    ["an escaped byte after a proper pair", [0xf0, 0x9f, 0x98, 0x80, 0xff], "😀\udcff"],
    ["a real U+FFFD beside one", [0xef, 0xbf, 0xbd, 0xff], "\ufffd\udcff"],
  ])("%s", (_, bytes, text) => {
    expect(decodeText(Uint8Array.from(bytes))).toBe(text);
    expect(encodeText(text)).toEqual(Uint8Array.from(bytes));
  });
});

test("a byte order mark is kept", () => {
  expect(decodeText(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61))).toBe("\ufeffa");
});

test("a surrogate that stands for no byte is replaced, never sent as it is", () => {
  expect(encodeText("\ud800a\udc00")).toEqual(encodeText("\ufffda\ufffd"));
});
