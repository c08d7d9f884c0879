import { describe, expect, test } from "bun:test";
import { DatabaseCatalog } from "../../../proxy/cache/cache_questions.ts";
import { QueryCache } from "../../../proxy/cache/query_cache.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import type { Desk } from "../../../proxy/session/desk.ts";
import { SessionChanges } from "../../../proxy/session/session_changes.ts";
import { cacheParams } from "../cache/cache_params.ts";

const parser = await StatementParser.load();

/** "I", "T" and "E": all is answered, and that is the server's status. Others are sent. */
type Step = "I" | "T" | "E" | "a function by its number" | "the server is lost" | (string & {});

/** What has become of a result that reads `t`, and whether the session is as it was. */
function play(steps: readonly Step[]): string {
  const cache = new QueryCache({ params: cacheParams, clock: () => 0 });
  const { versions } = cache;
  const database = versions.database("db");
  const none = { odd: false, wild: [], kin: [], follows: [] };
  database.catalog = new DatabaseCatalog(none, 100);
  const space = cache.space(database, "settings");
  const mark = versions.begin(versions.reads(database, ["t"]));
  if (mark !== undefined) cache.keep(space, "t", new Uint8Array(6), mark);
  const writeLink = { status: "I".charCodeAt(0) };
  const changes = new SessionChanges(cache, database, { writeLink } as unknown as Desk);
  for (const step of steps) {
    if (step.length === 1) {
      writeLink.status = step.charCodeAt(0);
      changes.drained(step === "I");
    } else if (step === "a function by its number") changes.sentUnknown();
    else if (step === "the server is lost") changes.abandoned(7);
    else changes.sent(parser.facts(step));
  }
  const result = cache.find(space, "t") === undefined ? "forgotten" : "kept";
  const flux = versions.begin(versions.reads(database, ["t"])) === undefined ? "in flux" : result;
  return `${flux}, ${changes.none ? "clean" : "changed"}`;
}

const write = "UPDATE t SET a = 1";

describe("what reads a table that a session writes to is", () => {
  test.each<[string, readonly Step[]]>([
    ["kept, clean", ["SELECT a FROM t", "I"]],
    ["in flux, changed", [write]],
    ["forgotten, clean", [write, "I"]],
    ["kept, clean", ["UPDATE u SET a = 1", "I"]],
    ["kept, changed", ["BEGIN", "T", write]],
    ["kept, changed", ["BEGIN", "T", write, "T", "SELECT a FROM t", "T"]],
    ["in flux, changed", ["BEGIN", "T", write, "T", "COMMIT"]],
    ["forgotten, clean", ["BEGIN", "T", write, "T", "COMMIT", "I"]],
    ["kept, changed", ["BEGIN", "T", write, "T", "ROLLBACK"]],
    ["kept, clean", ["BEGIN", "T", write, "T", "ROLLBACK", "I"]],
    ["kept, changed", ["BEGIN", "T", write, "T", "ROLLBACK TO s", "T"]],
    // Behind a ROLLBACK it may be committed at once, as behind a COMMIT of nothing.
    ["in flux, changed", ["BEGIN", "T", write, "T", "ROLLBACK", write]],
    ["in flux, changed", ["BEGIN", "T", "COMMIT", write]],
    // What the server has begun anew is still open.
    ["forgotten, changed", ["BEGIN", "T", write, "T", "COMMIT AND CHAIN", "T"]],
    ["kept, changed", ["BEGIN", "T", write, "T", "ROLLBACK AND CHAIN", "T"]],
    // Of several statements none is known to be the last.
    ["in flux, changed", [`BEGIN; ${write}`]],
    ["forgotten, changed", [`BEGIN; ${write}`, "T"]],
    ["in flux, changed", ["BEGIN", "T", write, "E", "SELECT 1"]],
    // It ended, and nobody saw how.
    ["forgotten, clean", ["BEGIN", "T", write, "I"]],
    ["in flux, changed", ["a function by its number"]],
    ["kept, changed", ["BEGIN", "T", "a function by its number"]],
    ["in flux, changed", [write, "the server is lost"]],
    ["in flux, clean", [write, "the server is lost", "I"]],
    ["kept, changed", ["BEGIN", "T", write, "the server is lost"]],
  ])("%s after %j", (wanted, steps) => {
    expect(play(steps)).toBe(wanted);
  });
});
