/** Who watches a session's messages is told of each of them once, however they come. */
import { expect, test } from "bun:test";
import { encodeFrontend, type FrontendMessage } from "../../../core/wire/frontend.ts";
import { concat, Stage } from "../../golden/stage.ts";

const bind = { parameterFormats: [], parameters: [], resultFormats: [] };
const executed = (sql: string): FrontendMessage[] => [
  { kind: "Parse", statement: "", sql, parameterTypes: [] },
  { kind: "Bind", portal: "", statement: "", ...bind },
  { kind: "Describe", target: "P", name: "" },
  { kind: "Execute", portal: "", rowsMax: 0 },
  { kind: "Sync" },
];
/** Reads and writes by turns, so that the session has to wait again and again. */
const messages: readonly FrontendMessage[] = [
  { kind: "Query", sql: "SELECT 1" },
  { kind: "Query", sql: "INSERT INTO t VALUES (1)" },
  { kind: "Query", sql: "SELECT count(*) FROM t" },
  ...executed("SELECT 2"),
  ...executed("INSERT INTO t VALUES (2)"),
  { kind: "Query", sql: "BEGIN" },
  { kind: "Query", sql: "SELECT 1/0" },
  { kind: "Query", sql: "SELECT 3" },
  { kind: "Query", sql: "ROLLBACK" },
  ...executed("SELECT 1/0"),
  { kind: "Query", sql: "SELECT 4" },
];
const frames = messages.map((message) => encodeFrontend(message));

for (const size of [1, 7, 64, 10_000]) {
  test(`every message is told of once, in pieces of ${size} bytes`, () => {
    const stage = new Stage({ nodes: 2 });
    const fromClient: string[] = [];
    const fromNodes: string[] = [];
    const toNodes: string[] = [];
    stage.session.observer = {
      fromClient: (bytes, at, end) => fromClient.push(Buffer.from(bytes.slice(at, end)).toString()),
      fromNode: (node, type) => fromNodes.push(`${node}${String.fromCharCode(type)}`),
      toNode: (node, statement) => toNodes.push(`${node} ${statement}`),
    };
    stage.say(concat(frames), size);
    stage.settle();
    expect(fromClient).toEqual(frames.map((frame) => Buffer.from(frame).toString()));
    const ready = fromNodes.filter((each) => each.endsWith("Z")).length;
    expect(ready).toBeGreaterThanOrEqual(messages.filter(({ kind }) => kind === "Query").length);
    expect(toNodes).toContain("1 D message");
    expect(toNodes).toContain("0 Sync");
    expect(toNodes.some((each) => each.startsWith("0 SELECT CASE"))).toBe(true);
  });
}

test("nobody is told of anything when nobody watches any more", () => {
  const stage = new Stage({ nodes: 1 });
  let told = 0;
  const count = () => {
    told++;
  };
  stage.session.observer = { fromClient: count, fromNode: count, toNode: count };
  stage.say(encodeFrontend({ kind: "Query", sql: "SELECT 1" }));
  stage.settle();
  expect(told).toBeGreaterThan(1);
  const before = told;
  stage.session.observer = undefined;
  stage.say(encodeFrontend({ kind: "Query", sql: "SELECT 1" }));
  stage.settle();
  expect(told).toBe(before);
});
