/**
 * The claim the proxy stands on: whatever a client says, and however bytes are cut and nodes hurry
 * or dawdle, the client of a cluster is told exactly what one PostgreSQL would have told it.
 */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { QueryCache } from "../../proxy/cache/query_cache.ts";
import { cacheParams } from "../proxy/cache/cache_params.ts";
import { chance, check, checkInTurn, numRuns, seed, timeoutMs } from "./model_play.ts";
import {
  block,
  copyDone,
  parse,
  query,
  reading,
  runs,
  type Script,
  sync,
} from "./model_scripts.ts";

/** A cache, and a clock of its own that moves on whenever somebody looks. */
function freshCache(): QueryCache {
  let now = 0;
  const clock = () => {
    now += 100;
    return now;
  };
  return new QueryCache({ params: cacheParams, clock });
}

describe("the client of a cluster sees what one PostgreSQL would have said", () => {
  for (const nodes of [1, 2, 3]) {
    test(
      `with ${nodes} nodes`,
      () => {
        fc.assert(
          fc.property(
            // Ends that leave nobody waiting for data.
            fc.array(block, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
            fc.array(fc.nat(500), { maxLength: 60 }),
            fc.array(chance, { minLength: 1, maxLength: 4 }),
            (script, moves, draws) => check({ nodes }, script, moves, draws),
          ),
          { seed, numRuns, includeErrorInReport: true },
        );
      },
      timeoutMs,
    );
  }

  test(
    "also when answers are kept in memory",
    () => {
      let hits = 0;
      fc.assert(
        fc.property(
          fc.constantFrom(1, 2, 3),
          fc.array(fc.oneof({ weight: 3, arbitrary: reading }, block), {
            minLength: 12,
            maxLength: 30,
          }),
          fc.array(chance, { minLength: 1, maxLength: 4 }),
          (nodes, turns, draws) => {
            const cache = freshCache();
            checkInTurn({ nodes, cache }, [...turns, [copyDone, sync]], draws);
            hits += cache.hits;
          },
        ),
        { seed, numRuns, includeErrorInReport: true },
      );
      expect(hits).toBeGreaterThan(numRuns / 2);
    },
    timeoutMs,
  );

  const ends: readonly (readonly [title: string, ends: Script])[] = [
    ["a transaction", []],
    ["a failed transaction", [query("SELECT 1/0")]],
  ];
  for (const [title, fails] of ends) {
    for (const nodes of [1, 2]) {
      test(`what ${title} was answered from memory is gone with it, on ${nodes} nodes`, () => {
        const read = [query("SELECT n FROM t")];
        // In one segment it ends, and another begins behind a write that has yet to be committed.
        const round = [parse("", "ROLLBACK"), ...runs("").slice(0, -1)];
        const write = [parse("", "INSERT INTO t VALUES (1)"), ...runs("").slice(0, -1)];
        const again = [...round, ...write, query("BEGIN"), sync];
        const turns = [read, read, [query("BEGIN")], read, fails, again, [query("ROLLBACK")], read];
        checkInTurn({ nodes, cache: freshCache() }, turns, [0.5]);
      });
    }
  }
});
