/**
 * `bun tests/bench/route.bench.ts`: what finding a statement's node costs, as a session does it: text
 * out of the message, facts, decision, and the notes before and after. The aim is 2 µs for what was
 * seen before; a new text pays for its shape, a new shape for a parse.
 *
 * CPU time is measured, of this process with all its threads, so that a busy machine shows about
 * the same as an idle one; the best and the median of many rounds.
 */

import { Buffer } from "node:buffer";
import { nodeId } from "../../core/cluster/state.ts";
import { shapeOf } from "../../core/sql/shape.ts";
import { RelationCache } from "../../proxy/cache/relcache.ts";
import { StatementParser } from "../../proxy/parser.ts";
import { text } from "../../proxy/session/messages.ts";
import { SessionRouter } from "../../proxy/session/router.ts";
import { clusterOf, rulesOf, trackingOf } from "../proxy/routing/rules.ts";
import { routed } from "../proxy/session/routed.ts";

const ROUNDS = 31;
const PER_ROUND = 5000;

const parser = await StatementParser.load();
const router = new SessionRouter({
  engine: {
    parser,
    state: clusterOf([{ weight: 0.2 }, { weight: 0.4 }, { weight: 0.4 }]),
    rules: rulesOf({}),
    relcache: new RelationCache({ sizeMax: 256, expireMs: 0, clock: Date.now }),
    random: Math.random,
    writes: trackingOf(Date.now),
    nodeOfPid: () => undefined,
  },
  user: "u",
  database: "d",
  applicationName: "",
  nodes: [nodeId(0), nodeId(1), nodeId(2)],
  reset: true,
});

const statements: { readonly [name: string]: (n: number) => string } = {
  select: (n) => `SELECT abalance FROM pgbench_accounts WHERE aid = ${n};`,
  update: (n) => `UPDATE pgbench_accounts SET abalance = abalance + ${n % 99} WHERE aid = ${n};`,
  insert: (n) =>
    `INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (${n}, 1, ${n}, -4, 'x${n}');`,
  join: (n) =>
    `SELECT count(*), max(a.x) FROM a JOIN b USING (id) WHERE lower(b.n) = 'x${n}' AND f(a.y)`,
  begin: () => "BEGIN",
};

/** Never gives the same number twice. */
let serial = 0;

function routedBytes(bytes: Uint8Array): void {
  const sql = text(bytes, 0, bytes.length);
  routed(router, sql, router.facts(sql));
}

type Way = (make: (n: number) => string) => () => void;

/** Each prepares a round; what it returns is measured. */
const ways: { readonly [title: string]: Way } = {
  "prepared: facts are known": (make) => {
    const sql = make(1);
    const facts = router.facts(sql);
    return () => {
      for (let i = 0; i < PER_ROUND; i++) routed(router, sql, facts);
    };
  },
  "the same text again": (make) => {
    const bytes = Buffer.from(make(1));
    return () => {
      for (let i = 0; i < PER_ROUND; i++) routedBytes(bytes);
    };
  },
  "a text with new constants": (make) => {
    const all = Array.from({ length: PER_ROUND }, () => Buffer.from(make(serial++)));
    return () => {
      for (const bytes of all) routedBytes(bytes);
    };
  },
  "of that, its shape": (make) => {
    const all = Array.from({ length: PER_ROUND }, () => make(serial++));
    return () => {
      for (const sql of all) shapeOf(sql);
    };
  },
  "a text of a new shape: parsed": (make) => {
    const all = Array.from({ length: PER_ROUND }, () => make(serial++));
    return () => {
      for (const sql of all) parser.factsAfresh(sql);
    };
  },
};

/** Nanoseconds of CPU for one statement. */
function costOf(run: () => void): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return ((user + system) * 1000) / PER_ROUND;
}

console.log("CPU per statement in ns, best of all rounds / median\n");
console.log(
  `${"".padEnd(32)}${Object.keys(statements)
    .map((name) => name.padStart(16))
    .join("")}`,
);
for (const [title, prepare] of Object.entries(ways)) {
  const cells = Object.values(statements).map((make) => {
    const rounds = title.endsWith("parsed") ? 3 : ROUNDS;
    const costs = Array.from({ length: rounds }, () => costOf(prepare(make)));
    costs.sort((a, b) => a - b);
    const [best = 0, median = 0] = [costs[0], costs[Math.floor(rounds / 2)]];
    return `${best.toFixed(0)} / ${median.toFixed(0)}`.padStart(16);
  });
  console.log(`${title.padEnd(32)}${cells.join("")}`);
}
