import { describe, expect, test } from "bun:test";
import { encodeFrontend, type FrontendMessage } from "../../../core/wire/frontend.ts";
import { unitAt } from "../../../proxy/session/unit.ts";

const message = (m: FrontendMessage) => encodeFrontend(m);
const parse = (statement = "") =>
  message({ kind: "Parse", statement, sql: "SELECT 1", parameterTypes: [] });
const bind = (statement = "", portal = "") =>
  message({
    kind: "Bind",
    portal,
    statement,
    parameterFormats: [],
    parameters: [new Uint8Array(3)],
    resultFormats: [1],
  });
const describeOf = (name = "", target: "S" | "P" = "P") =>
  message({ kind: "Describe", target, name });
const execute = (rowsMax = 0, portal = "") => message({ kind: "Execute", portal, rowsMax });
const sync = message({ kind: "Sync" });
const flush = message({ kind: "Flush" });

describe("is one statement", () => {
  const rows: [string, Uint8Array[]][] = [
    ["Parse to Sync", [parse(), bind(), describeOf(), execute(), sync]],
    ["without Describe", [parse(), bind(), execute(), sync]],
    ["of what was prepared", [bind("s"), describeOf(), execute(), sync]],
    ["of the unnamed one again", [bind(), execute(), sync]],
  ];
  test.each(rows)("%s, and only whole", (_, frames) => {
    const bytes = Buffer.concat([Buffer.from("xx"), ...frames, sync]);
    const unit = unitAt(bytes, 2);
    expect(unit?.end).toBe(bytes.length - sync.length);
    for (let end = 2; end < bytes.length - sync.length; end++) {
      expect(unitAt(bytes.subarray(0, end), 2)).toBeUndefined();
    }
  });
});

describe("is none", () => {
  const rows: [string, Uint8Array[]][] = [
    ["a Parse with a name", [parse("s"), bind("s"), execute(), sync]],
    ["a portal with a name", [bind("", "p"), execute(0, "p"), sync]],
    ["some rows alone", [bind(), execute(5), sync]],
    ["Describe of a statement", [parse(), describeOf("", "S"), bind(), execute(), sync]],
    ["another Bind behind", [bind(), execute(), bind(), execute(), sync]],
    ["Flush in the place of Sync", [bind(), execute(), flush]],
    ["a name behind an unnamed Parse", [parse(), bind("s"), execute(), sync]],
  ];
  test.each(rows)("%s", (_, frames) => {
    expect(unitAt(Buffer.concat(frames), 0)).toBeUndefined();
  });

  test("anything else, whatever the bytes", () => {
    for (let i = 0; i < 2000; i++) {
      const bytes = Uint8Array.from({ length: i % 40 }, (_, at) => (i * 31 + at * 17) & 0xff);
      bytes[0] = i % 2 === 0 ? 0x50 : 0x42;
      expect(unitAt(bytes, 0)).toBeUndefined();
    }
  });
});
