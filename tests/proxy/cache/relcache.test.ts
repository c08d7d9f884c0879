import { beforeEach, describe, expect, test } from "bun:test";
import { factsOf, type Redefines, type StatementFacts } from "../../../core/sql/facts.ts";
import { qualifiedName } from "../../../core/sql/parse_tree.ts";
import { catalogSql, RelationCache, type SessionCatalog } from "../../../proxy/cache/relcache.ts";
import type { CatalogQuestion } from "../../../proxy/routing/catalog_lookups.ts";

const table = qualifiedName(undefined, "t");
const called = qualifiedName(undefined, "f");
const askTable: CatalogQuestion = { kind: "relation", relation: table };
const askFunction: CatalogQuestion = { kind: "volatile", function: called };
const askTemporary: CatalogQuestion = { kind: "temporary", name: "t" };

const succeeded = (redefines: Redefines): StatementFacts => ({
  ...factsOf("", { kind: "error", message: "" }),
  redefines,
});

const primary = { oldSnapshot: false, standby: false };

let now = 0;
let cache: RelationCache;
let mine: SessionCatalog;
let other: SessionCatalog;
beforeEach(() => {
  now = 1000;
  cache = new RelationCache({ sizeMax: 256, expireMs: 0, clock: () => now });
  mine = cache.session("db");
  other = cache.session("db");
});

function learn(session: SessionCatalog, question: CatalogQuestion, code: string, old = false) {
  session.ask([question]);
  session.answer([question], [code], { oldSnapshot: old, standby: false });
  session.decided();
}

describe("the relation cache", () => {
  test("gives every session of a database what one of them has learnt", () => {
    learn(mine, askTable, "u");
    learn(mine, askFunction, "v");
    expect(other.relation(table)).toEqual({
      systemCatalog: false,
      unlogged: true,
      callsVolatile: false,
      sequence: false,
    });
    expect(other.volatile(called)).toBe(true);
    expect(cache.session("another").relation(table)).toBeUndefined();
  });

  test("keeps temporary tables to the session that asked", () => {
    learn(mine, askTemporary, "e");
    expect([mine.temporary("t"), other.temporary("t")]).toEqual([true, undefined]);
  });

  test("forgets at once when a definition was changed outside a transaction", () => {
    learn(mine, askFunction, "e");
    mine.noteSuccess(succeeded("catalog"), false);
    expect([mine.volatile(called), other.volatile(called)]).toEqual([undefined, undefined]);
  });

  test("shares nothing learnt in a transaction that changed definitions", () => {
    learn(mine, askFunction, "e");
    mine.noteSuccess(succeeded("catalog"), true);
    expect([mine.volatile(called), other.volatile(called)]).toEqual([undefined, false]);
    learn(mine, askFunction, "v");
    expect([mine.volatile(called), other.volatile(called)]).toEqual([true, false]);
    mine.transactionEnded();
    expect([mine.volatile(called), other.volatile(called)]).toEqual([undefined, undefined]);
  });

  test("shares nothing read from an old snapshot, and forgets it with the transaction", () => {
    learn(mine, askFunction, "e", true);
    expect([mine.volatile(called), other.volatile(called)]).toEqual([false, undefined]);
    mine.transactionEnded();
    expect(mine.volatile(called)).toBeUndefined();
  });

  test("does not share an answer that was on its way when definitions changed", () => {
    mine.ask([askFunction]);
    other.noteSuccess(succeeded("catalog"), false);
    mine.answer([askFunction], ["e"], primary);
    expect(mine.volatile(called)).toBe(false);
    mine.decided();
    expect([mine.volatile(called), other.volatile(called)]).toEqual([undefined, undefined]);
  });

  test("declares facts void again at the Sync that commits a pipelined definition", () => {
    mine.noteSuccess(succeeded("catalog"), false);
    learn(other, askFunction, "e");
    mine.transactionEnded();
    expect(other.volatile(called)).toBeUndefined();
  });

  test("nothing is known of any database when one is made or dropped: its name may be another's", () => {
    const elsewhere = cache.session("elsewhere");
    learn(elsewhere, askTable, "e");
    mine.noteSuccess(succeeded("catalog"), false);
    expect(elsewhere.relation(table)).toBeDefined();
    mine.noteSuccess(succeeded("databases"), false);
    expect(elsewhere.relation(table)).toBeUndefined();
  });

  test("a new temporary table voids what the session knew of temporary ones alone", () => {
    learn(mine, askTemporary, "-");
    learn(mine, askTable, "e");
    learn(mine, { kind: "any_temporary" }, "-");
    expect(mine.anyTemporary()).toBe(false);
    mine.noteSuccess(succeeded("temporary"), false);
    expect(mine.anyTemporary()).toBeUndefined();
    expect(mine.temporary("t")).toBeUndefined();
    expect(mine.relation(table)).toEqual({
      systemCatalog: false,
      unlogged: false,
      callsVolatile: false,
      sequence: false,
    });
  });

  test("a temporary table made in a transaction may be gone after it", () => {
    mine.noteSuccess(succeeded("temporary"), true);
    learn(mine, askTemporary, "e");
    mine.transactionEnded();
    expect(mine.temporary("t")).toBeUndefined();
  });

  test("believes in absence for ten seconds only, except in pg_catalog", () => {
    const builtIn = qualifiedName("pg_catalog", "extract");
    learn(mine, askFunction, "-");
    learn(mine, { kind: "volatile", function: builtIn }, "-");
    now += 9_999;
    expect(mine.volatile(called)).toBe(false);
    now += 1;
    expect([mine.volatile(called), mine.volatile(builtIn)]).toEqual([undefined, false]);
  });

  test("obeys relcache_expire", () => {
    const brief = new RelationCache({ sizeMax: 256, expireMs: 5000, clock: () => now });
    const session = brief.session("db");
    learn(session, askTable, "e");
    now += 4_999;
    expect(session.relation(table)).toBeDefined();
    now += 1;
    expect(session.relation(table)).toBeUndefined();
  });

  test("a decision sees all its answers, however small the cache", () => {
    const tiny = new RelationCache({ sizeMax: 1, expireMs: 0, clock: () => now }).session("db");
    const names = Array.from({ length: 50 }, (_, i) => qualifiedName(undefined, `t${i}`));
    const questions = names.flatMap((relation): CatalogQuestion[] => [
      { kind: "relation", relation },
      { kind: "temporary", name: relation.name },
    ]);
    tiny.ask(questions);
    tiny.answer(
      questions,
      questions.map(() => "e"),
      primary,
    );
    for (const name of names) {
      expect(tiny.relation(name)).toBeDefined();
      expect(tiny.temporary(name.name)).toBe(true);
    }
  });
});

describe("with enable_shared_relcache = off", () => {
  beforeEach(() => {
    cache = new RelationCache({ sizeMax: 256, expireMs: 0, shared: false, clock: () => now });
    mine = cache.session("db");
    other = cache.session("db");
  });

  test("each session learns for itself", () => {
    learn(mine, askTable, "u");
    expect(mine.relation(table)?.unlogged).toBe(true);
    expect(other.relation(table)).toBeUndefined();
  });

  test("a changed definition is news to all of them", () => {
    learn(mine, askFunction, "e");
    learn(other, askFunction, "e");
    other.noteSuccess(succeeded("catalog"), false);
    expect([mine.volatile(called), other.volatile(called)]).toEqual([undefined, undefined]);
    learn(mine, askFunction, "v");
    expect(mine.volatile(called)).toBe(true);
  });
});

describe("what a standby said", () => {
  test.each([
    [0, 10_000],
    [5000, 5000],
  ])("with relcache_expire %i ms holds for %i ms", (expireMs, lifeMs) => {
    cache = new RelationCache({ sizeMax: 256, expireMs, clock: () => now });
    mine = cache.session("db");
    mine.ask([askTable, askFunction]);
    mine.answer([askTable, askFunction], ["e", "v"], { oldSnapshot: false, standby: true });
    mine.decided();
    now += lifeMs - 1;
    expect([mine.relation(table) !== undefined, mine.volatile(called)]).toEqual([true, true]);
    now += 1;
    expect([mine.relation(table), mine.volatile(called)]).toEqual([undefined, undefined]);
  });

  test("is not asked for while the transaction has definitions of its own", () => {
    expect(mine.standbyKnows).toBe(true);
    mine.noteSuccess(succeeded("catalog"), true);
    expect(mine.standbyKnows).toBe(false);
    mine.transactionEnded();
    expect(mine.standbyKnows).toBe(true);
  });
});

test.each([
  ["s", { systemCatalog: true, unlogged: false, callsVolatile: false, sequence: false }],
  ["e", { systemCatalog: false, unlogged: false, callsVolatile: false, sequence: false }],
  ["eu", { systemCatalog: false, unlogged: true, callsVolatile: false, sequence: false }],
  ["ev", { systemCatalog: false, unlogged: false, callsVolatile: true, sequence: false }],
  ["euv", { systemCatalog: false, unlogged: true, callsVolatile: true, sequence: false }],
  ["eq", { systemCatalog: false, unlogged: false, callsVolatile: false, sequence: true }],
])("the code %s of a relation is read", (code, answer) => {
  learn(mine, askTable, code);
  expect(mine.relation(table)).toEqual(answer);
});

describe("catalogSql", () => {
  test("asks everything in one row of as many columns", () => {
    const sql = catalogSql([askTable, askFunction, askTemporary, { kind: "isolation" }]);
    expect(sql.match(/CASE WHEN/g)).toHaveLength(3);
    expect(sql).toEndWith(", pg_catalog.current_setting('transaction_isolation')");
  });

  test("takes no snapshot for the level alone, which the client may still be about to set", () => {
    expect(catalogSql([{ kind: "isolation" }])).toBe("SHOW transaction_isolation");
    expect(catalogSql([{ kind: "isolation" }], true)).toStartWith("SELECT ");
  });

  test("names no operator, table or function without its schema", () => {
    const bare = catalogSql([askTable, askFunction, askTemporary])
      .replaceAll(/OPERATOR\(pg_catalog\.[=~]\)/g, "")
      .replaceAll(/'[^']*'/g, "");
    expect(bare).not.toMatch(/[=~<>]/);
    expect(bare).not.toMatch(/(?:FROM|JOIN) (?!pg_catalog\.|below\b|LATERAL )/);
  });

  test("quotes names so that they mean themselves under either setting of strings", () => {
    const sql = (name: string) =>
      catalogSql([{ kind: "temporary", name: qualifiedName(undefined, name).name }]);
    expect(sql("o'clock")).toContain("'o''clock'");
    expect(sql("back\\slash'")).toContain("E'back\\\\slash'''");
  });
});
