import { describe, expect, test } from "bun:test";
import { type Changes, factsOf } from "../../../core/sql/facts.ts";
import { type DatabaseAnswer, DatabaseCatalog } from "../../../proxy/cache/cache_questions.ts";
import { QueryCache } from "../../../proxy/cache/query_cache.ts";
import { cacheParams } from "./cache_params.ts";

const nothing: DatabaseAnswer = { odd: false, wild: [], kin: [], follows: [] };

function stage(answer: Partial<DatabaseAnswer> = {}) {
  const cache = new QueryCache({ params: cacheParams, clock: () => 0 });
  const { versions } = cache;
  const database = versions.database("db");
  cache.learn(database, { ...nothing, ...answer }, database.generation);
  const space = cache.space(database, "settings");
  const read = (key: string, tables: readonly string[]) => {
    const mark = versions.begin(versions.reads(database, tables));
    return { mark, keep: () => mark && cache.keep(space, key, new Uint8Array(6), mark) };
  };
  const keep = (key: string, ...tables: string[]) => read(key, tables).keep();
  const has = (key: string) => cache.find(space, key) !== undefined;
  return { cache, versions, database, read, keep, has };
}

const tables = (...names: string[]): Changes => ({ kind: "tables", names });

test("a write makes what reads its table void, and nothing else", () => {
  const { versions, database, keep, has } = stage();
  keep("a", "t");
  keep("b", "u");
  keep("c", "t", "u");
  versions.forget(database, tables("t"), "write");
  expect(["a", "b", "c"].map(has)).toEqual([false, true, false]);
  expect(versions.forgotten.write).toBe(2);
});

test("a read that was sent before a change is not kept after it", () => {
  const { versions, database, read, has } = stage();
  const early = read("early", ["t"]);
  const other = read("other", ["u"]);
  versions.forget(database, tables("t"), "write");
  expect([early.keep(), other.keep()]).toEqual([false, true]);
  expect(["early", "other"].map(has)).toEqual([false, true]);
});

test("what is in flux is neither shown nor kept until it is known how it went", () => {
  const { versions, database, read, keep, has } = stage();
  keep("before", "t");
  const under = read("under way", ["t"]);
  const flux = versions.beginFlux(database, tables("t"));
  expect(has("before")).toBe(false);
  expect(read("meanwhile", ["t"]).mark).toBeUndefined();
  expect(read("meanwhile", ["u"]).mark).toBeDefined();
  const another = versions.beginFlux(database, tables("t"));
  versions.endFlux(database, flux);
  expect(read("still", ["t"]).mark).toBeUndefined();
  versions.endFlux(database, another);
  expect(under.keep()).toBe(false);
  expect(keep("after", "t")).toBe(true);
});

describe("with a table are written", () => {
  const rows: [title: string, answer: Partial<DatabaseAnswer>, written: string, void_: string[]][] =
    [
      ["itself", {}, "t", ["t"]],
      [
        "its parents and children",
        {
          kin: [
            ["p", "t"],
            ["t", "c"],
          ],
        },
        "t",
        ["c", "p", "t"],
      ],
      [
        "siblings, through the parent",
        {
          kin: [
            ["p", "t"],
            ["p", "u"],
          ],
        },
        "t",
        ["p", "t", "u"],
      ],
      [
        "what follows by foreign keys",
        {
          follows: [
            ["t", "u"],
            ["u", "p"],
          ],
        },
        "t",
        ["p", "t", "u"],
      ],
      ["not what it refers to", { follows: [["t", "u"]] }, "u", ["u"]],
      ["anything, where code of a user's runs", { wild: ["t"] }, "t", ["c", "p", "t", "u"]],
      [
        "anything, also further on",
        { follows: [["t", "u"]], wild: ["u"] },
        "t",
        ["c", "p", "t", "u"],
      ],
    ];
  test.each(rows)("%s", (_, answer, written, void_) => {
    const { versions, database, keep, has } = stage(answer);
    const all = ["c", "p", "t", "u"];
    for (const name of all) keep(name, name);
    versions.forget(database, tables(written), "write");
    expect(all.filter((name) => !has(name))).toEqual(void_);
  });
});

test("while nobody has asked the catalog a write makes the whole database void", () => {
  const { versions, database, keep, has } = stage();
  versions.forget(database, { kind: "database", definitions: true }, "definition");
  expect(database.catalog).toBeUndefined();
  keep("a", "u");
  versions.forget(database, tables("t"), "write");
  expect(has("a")).toBe(false);
});

test("other lists of tables, and other definitions, are judged anew", () => {
  const { cache, versions, database } = stage();
  const facts = factsOf("SELECT * FROM t", { kind: "error", message: "" });
  const verdict = () => database.catalog?.verdicts.none.get(facts);
  database.catalog?.verdicts.none.set(facts, "never");
  expect(verdict()).toBe("never");
  cache.configure(cacheParams);
  expect(verdict()).toBeUndefined();
  database.catalog?.verdicts.none.set(facts, "never");
  versions.forget(database, { kind: "all" }, "definition");
  cache.learn(database, nothing, database.generation);
  expect(verdict()).toBeUndefined();
});

test("an answer of the catalogs from before a change of definitions is not believed", () => {
  const { cache, versions, database } = stage();
  const { generation } = database;
  versions.forget(database, { kind: "all" }, "definition");
  cache.learn(database, nothing, generation);
  expect(database.catalog).toBeUndefined();
  cache.learn(database, nothing, database.generation);
  expect(database.catalog).toBeInstanceOf(DatabaseCatalog);
});

test("a writer whose connection is gone keeps its tables in flux until its process is gone", () => {
  const { cache, versions, database, read } = stage();
  cache.abandon(database, versions.beginFlux(database, tables("t")), [], 77);
  expect(read("a", ["t"]).mark).toBeUndefined();
  expect(cache.orphansOf(database)).toEqual([77]);
  cache.orphansGone(database, [77]);
  expect(read("a", ["t"]).mark).toBeDefined();
  expect(cache.orphansOf(database)).toBeUndefined();
});

test("names of tables are forgotten beyond a limit, and no read under way is deceived", () => {
  const { versions, database, read } = stage();
  const early = read("early", ["t"]);
  for (let i = 0; i <= 100_001; i++) versions.begin(versions.reads(database, [`made up ${i}`]));
  expect(database.tables.size).toBeLessThan(100);
  expect(database.catalog).toBeUndefined(); // verdicts name the tables that are forgotten
  expect(early.keep()).toBe(false);
});
