import { expect, test } from "bun:test";
import { BackendMessageLines, clientMessageLine, copyDataLine } from "../../core/message_lines.ts";
import { BACKEND } from "../../core/wire/codes.ts";
import { encodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";

const lineOf = (message: FrontendMessage) => {
  // Not at the beginning of its bytes, as in a chunk.
  const frame = encodeFrontend(message);
  const bytes = Buffer.concat([Buffer.from("before"), frame, Buffer.from("behind")]);
  const line = clientMessageLine(bytes, 6, 6 + frame.length);
  return line?.detail === undefined ? line?.message : `${line.message} ${line.detail}`;
};

const bind = { parameterFormats: [], parameters: [Buffer.from("x")], resultFormats: [] };
const rows: [message: FrontendMessage, line: string][] = [
  [{ kind: "Query", sql: 'SELECT "é"' }, 'Query message from frontend. query: "SELECT "é""'],
  [
    { kind: "Parse", statement: "s", sql: "SELECT 2", parameterTypes: [23] },
    'Parse message from frontend. statement: "s", query: "SELECT 2"',
  ],
  [
    { kind: "Bind", portal: "", statement: "s", ...bind },
    'Bind message from frontend. portal: "", statement: "s"',
  ],
  [{ kind: "Describe", target: "S", name: "s" }, 'Describe message from frontend. statement: "s"'],
  [{ kind: "Describe", target: "P", name: "" }, 'Describe message from frontend. portal: ""'],
  [{ kind: "Execute", portal: "p", rowsMax: 3 }, 'Execute message from frontend. portal: "p"'],
  [{ kind: "Close", target: "S", name: "s" }, 'Close message from frontend. statement: "s"'],
  [
    {
      kind: "FunctionCall",
      functionId: 4_000_000_000,
      argumentFormats: [],
      arguments: [],
      resultFormat: 0,
    },
    'FunctionCall message from frontend. oid: "4000000000"',
  ],
  [{ kind: "Sync" }, "Sync message from frontend."],
  [{ kind: "Flush" }, "Flush message from frontend."],
  [{ kind: "Terminate" }, "Terminate message from frontend."],
  [{ kind: "CopyDone" }, "CopyDone message from frontend."],
  [{ kind: "CopyFail", reason: "no" }, "CopyFail message from frontend."],
];
test.each(rows)("%j is logged in Pgpool's words", (message, line) => {
  expect(lineOf(message)).toBe(line);
});

test("CopyData are told by their number, and what is no message not at all", () => {
  expect(copyDataLine(3)).toEqual({
    message: "CopyData message from frontend.",
    detail: "count: 3",
  });
  expect(clientMessageLine(Uint8Array.of(0x21, 0, 0, 0, 4), 0, 5)).toBeUndefined();
});

test("terse counts what a node repeats and tells it when it says something else, or at the end", () => {
  const lines = new BackendMessageLines();
  const say = (node: number, ...types: number[]) =>
    types.flatMap((type) => lines.terse(node, type));
  const { RowDescription, DataRow, CommandComplete, Authentication } = BACKEND;
  expect(say(0, RowDescription, DataRow, DataRow, DataRow)).toEqual([
    "RowDescription message from backend 0",
    "DataRow message from backend 0",
  ]);
  expect(say(1, DataRow)).toEqual(["DataRow message from backend 1"]);
  expect(say(0, CommandComplete)).toEqual([
    "last DataRow message from backend 0 repeated 2 times",
    "CommandComplete message from backend 0",
  ]);
  say(1, DataRow);
  expect(lines.rest()).toEqual(["last DataRow message from backend 1 repeated 1 times"]);
  expect(lines.rest()).toEqual([]);
  expect(lines.verbose(2, Authentication)).toBe("AuthenticationRequest message from backend 2");
});
