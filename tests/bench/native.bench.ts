/**
 * `npm run bench:native [-- --seconds N --rounds N --clients N]`: native replication with two servers,
 * ours beside Pgpool-II, on the same two servers, in paired rounds as bench.ts has them.
 */
import { parseArgs } from "node:util";
import {
  mustRun,
  originalPgpool,
  ourBinary,
  Pgpool,
  Postgres,
  type Program,
  Scope,
  superuser,
} from "../cluster/harness.ts";
import { cpuSeconds, pgbench } from "./measure.ts";
import { type CaseResult, renderReport, type Sample } from "./table.ts";

const { values: args } = parseArgs({
  options: {
    seconds: { type: "string", default: "6" },
    rounds: { type: "string", default: "5" },
    clients: { type: "string", default: "8" },
  },
});

/** pgbench's own TPC-B, at scale 10. */
const tpcb = `\\set aid random(1, 1000000)
\\set bid random(1, 10)
\\set tid random(1, 100)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
`;

type Contender = { readonly name: string; readonly pgpool: Pgpool };
type Script = { readonly script?: string };

const names = ["ours", "Pgpool-II"] as const;
const modes = ["simple", "extended"] as const;
const cases = [
  ...modes.map((mode) => ({ name: `TPC-B ${mode}`, mode, script: { script: tpcb } })),
  ...modes.map((mode) => ({ name: `-S ${mode}`, mode, script: {} })),
];

await using scope = new Scope();
const nodes = [await Postgres.create(scope), await Postgres.create(scope)];
for (const node of nodes) {
  const env = { ...node.env, PGDATABASE: "test" };
  await mustRun([node.program("pgbench"), "-i", "-q", "-s", "10"], { env, deadlineMs: 60_000 });
}
const contenders: readonly Contender[] = [
  await startContender("ours", ourBinary()),
  await startContender("Pgpool-II", originalPgpool()),
];
const dir = scope.makeDir("work", 0o777);
const results: CaseResult[] = [];
for (const { name, script, mode } of cases) {
  const rounds = new Map<string, Sample[]>();
  const failures = new Map<string, string>();
  for (let round = 0; round < Number(args.rounds); round++) {
    const order = round % 2 === 0 ? contenders : [...contenders].reverse();
    for (const contender of order) {
      if (failures.has(contender.name)) continue;
      try {
        const sample = await measure(contender.pgpool, script, mode);
        rounds.set(contender.name, [...(rounds.get(contender.name) ?? []), sample]);
      } catch (error) {
        failures.set(contender.name, String(error).slice(0, 300));
        rounds.delete(contender.name);
      }
    }
  }
  results.push({ name, rounds, failures });
}
console.log(renderReport(results, "ours", names));

async function startContender(name: string, program: Program | undefined): Promise<Contender> {
  const pgpool = await Pgpool.create(scope, {
    program,
    backends: nodes.map(({ host, port }) => ({ host, port, weight: 1 })),
    config: {
      backend_clustering_mode: "native_replication",
      load_balance_mode: true,
      num_init_children: 32,
      max_pool: 1,
    },
  });
  await pgpool.untilServing();
  return { name, pgpool };
}

async function measure(
  pgpool: Pgpool,
  script: Script,
  mode: (typeof modes)[number],
): Promise<Sample> {
  const [node] = nodes;
  const { pid } = pgpool;
  if (node === undefined || pid === undefined) throw new Error("nothing runs");
  const env = {
    ...{ PGHOST: "127.0.0.1", PGPORT: String(pgpool.port), PGUSER: superuser },
    ...{ PGDATABASE: "test", PGSSLMODE: "disable" },
  };
  const before = cpuSeconds(pid);
  const result = await pgbench(node.program("pgbench"), {
    ...{ env, mode, dir, clients: Number(args.clients), seconds: Number(args.seconds) },
    ...script,
  });
  return {
    rate: result.perSecond,
    p50Ms: result.p50Ms,
    p99Ms: result.p99Ms,
    cpuUs: ((cpuSeconds(pid) - before) * 1e6) / result.transactions,
  };
}
