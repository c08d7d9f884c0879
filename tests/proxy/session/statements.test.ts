import { expect, test } from "bun:test";
import type { StatementFacts } from "../../../core/sql/facts.ts";
import { Prepared, PreparedNames } from "../../../proxy/session/statements.ts";

/** An unnamed statement that no node knows. */
function statement(serial: number): Prepared {
  return new Prepared({
    name: "",
    sql: "SELECT 1",
    facts: {} as StatementFacts,
    chunk: new Uint8Array(),
    from: 0,
    to: 0,
    otherMessage: undefined,
    serial,
    segment: 0,
    links: [],
    why: "read",
  });
}

test("a Close that was discarded leaves what was answered from memory", () => {
  const names = new PreparedNames();
  const kept = statement(1);
  kept.isKept = true;
  names.set("", kept);
  names.delete("");
  names.notClosed(kept);
  expect(names.get("")).toBe(kept);
});

test("so does a Parse that was to take it to a node", () => {
  const names = new PreparedNames();
  const kept = statement(1);
  kept.isKept = true;
  names.set("", kept);
  names.notParsed(kept, [], true);
  expect(names.get("")).toBe(kept);
});

test("a Close that was discarded brings back nothing whose Parse had failed", () => {
  const names = new PreparedNames();
  const failed = statement(1);
  names.set("", failed);
  names.delete("");
  names.notClosed(failed);
  expect(names.get("")).toBeUndefined();
});
