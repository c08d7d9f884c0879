import { expect, test } from "bun:test";
import { createWithNumber } from "../../../core/sql/large_objects.ts";
import { frameOf } from "../../../core/wire/frame.ts";
import { decodeFrontend } from "../../../core/wire/frontend.ts";

const call = {
  kind: "FunctionCall",
  functionId: 957,
  argumentFormats: [1],
  arguments: [new Uint8Array(4)],
  resultFormat: 1,
} as const;

test.each([
  ["16400", [0, 0, 0x40, 0x10]],
  ["4294967295", [0xff, 0xff, 0xff, 0xff]],
])("lo_creat becomes lo_create(%s)", (answer, bytes) => {
  const message = createWithNumber(call, 715, answer);
  if (message === undefined) throw new Error("no message");
  expect(decodeFrontend(frameOf(message))).toEqual({
    ...call,
    functionId: 715,
    arguments: [Uint8Array.from(bytes)],
  });
});

test.each([null, "0", "-1", "4294967296", "x"])("%p is no number for an object", (answer) => {
  expect(createWithNumber(call, 715, answer)).toBeUndefined();
});
