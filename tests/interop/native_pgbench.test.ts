/** What Pgpool-II's manual shows of native replication: createdb and pgbench through pgpool. */
import { expect } from "bun:test";
import { mustRun, testNeeding } from "../cluster/harness.ts";
import { withReplicas } from "../cluster/replicated_stage.ts";
import { routeEnv } from "./topology.ts";

const pgbenchTest = await testNeeding("dist/pgpool", "pgbench", "psql");

const sums = `SELECT (SELECT sum(abalance) FROM pgbench_accounts) AS accounts,
  (SELECT sum(tbalance) FROM pgbench_tellers) AS tellers,
  (SELECT sum(bbalance) FROM pgbench_branches) AS branches,
  (SELECT sum(delta) FROM pgbench_history) AS deltas,
  (SELECT count(*) FROM pgbench_history) AS transactions,
  (SELECT md5(string_agg(h::text, ',' ORDER BY h::text)) FROM pgbench_history h) AS history,
  (SELECT md5(string_agg(a::text, ',' ORDER BY aid)) FROM pgbench_accounts a) AS rows`;

pgbenchTest(
  "TPC-B in every protocol: three nodes have the same balances, those of the history",
  async () => {
    await withReplicas(3, { num_init_children: 16 }, async ({ pgpool, nodes, scope }) => {
      const [main] = nodes;
      if (main === undefined) throw new Error("three nodes were asked for");
      const name = "bench_replication";
      const env = { ...routeEnv({ name, port: pgpool.port }), PGDATABASE: name };
      const run = (program: string, ...args: string[]) =>
        mustRun([main.program(program), ...args], { env, cwd: scope.dir, deadlineMs: 120_000 });
      await run("createdb", "-p", String(pgpool.port), name);
      await run("pgbench", "-i", "-q", "-p", String(pgpool.port), name);
      for (const mode of ["simple", "extended", "prepared"]) {
        const output = await run("pgbench", "-n", "-M", mode, "-c", "8", "-j", "2", "-t", "15");
        expect(output).toContain("actually processed: 120/120");
      }
      const found = await Promise.all(nodes.map(async (node) => (await node.sql(sums, name))[0]));
      for (const each of found) {
        expect(each).toEqual(found[0]);
        const { accounts, tellers, branches, deltas, transactions } = each ?? {};
        expect([tellers, branches, deltas]).toEqual(Array(3).fill(accounts));
        expect(transactions).toBe("360");
      }
    });
  },
  240_000,
);
