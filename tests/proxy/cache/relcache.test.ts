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
  session.answer([question], [code], old);
  session.decided();
}

describe("the relation cache", () => {
  test("gives every session of a database what one of them has learnt", () => {
    learn(mine, askTable, "u");
    learn(mine, askFunction, "v");
    expect(other.relation(table)).toEqual({ systemCatalog: false, unlogged: true });
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
    mine.answer([askFunction], ["e"], false);
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

  test("a new temporary table voids what the session knew of temporary ones alone", () => {
    learn(mine, askTemporary, "-");
    learn(mine, askTable, "e");
    mine.noteSuccess(succeeded("temporary"), false);
    expect(mine.temporary("t")).toBeUndefined();
    expect(mine.relation(table)).toEqual({ systemCatalog: false, unlogged: false });
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
      false,
    );
    for (const name of names) {
      expect(tiny.relation(name)).toBeDefined();
      expect(tiny.temporary(name.name)).toBe(true);
    }
  });
});

describe("catalogSql", () => {
  test("asks everything in one row of as many columns", () => {
    const sql = catalogSql([askTable, askFunction, askTemporary, { kind: "isolation" }]);
    expect(sql.match(/CASE WHEN/g)).toHaveLength(3);
    expect(sql).toEndWith(", pg_catalog.current_setting('transaction_isolation')");
  });

  test("names no operator, table or function without its schema", () => {
    const bare = catalogSql([askTable, askFunction, askTemporary])
      .replaceAll(/OPERATOR\(pg_catalog\.[=~]\)/g, "")
      .replaceAll(/'[^']*'/g, "");
    expect(bare).not.toMatch(/[=~<>]/);
    expect(bare).not.toMatch(/(?:FROM|JOIN) (?!pg_catalog\.)/);
  });

  test("quotes names so that they mean themselves under either setting of strings", () => {
    const sql = (name: string) =>
      catalogSql([{ kind: "temporary", name: qualifiedName(undefined, name).name }]);
    expect(sql("o'clock")).toContain("'o''clock'");
    expect(sql("back\\slash'")).toContain("E'back\\\\slash'''");
  });
});
