/** pgbench through pgpool: it makes its tables, runs in each protocol, and the sums are right. */
import { afterAll, beforeAll, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { mustRun, Scope, testNeeding } from "../cluster/harness.ts";
import { type Route, routeEnv, startTopology, type Topology } from "./topology.ts";

const pgbenchTest = await testNeeding("pgbench");
let scope: Scope;
let topology: Topology;

beforeAll(async () => {
  scope = new Scope();
  topology = await startTopology(scope);
}, 300_000);
afterAll(() => scope.close());

async function pgbench(route: Route, ...options: string[]): Promise<string> {
  const program = topology.primary.program("pgbench");
  return mustRun([program, ...options], { env: routeEnv(route), cwd: scope.dir });
}

/** The one whose SELECTs go to the standby. */
const balanced = () => {
  const route = topology.proxied[1];
  if (route === undefined) throw new Error("the topology has two proxied routes");
  return route;
};

pgbenchTest("initialises by COPY, and vacuums", async () => {
  await pgbench(balanced(), "-i", "-q", "-s", "1");
  expect(await topology.primary.value("SELECT count(*) FROM pgbench_accounts")).toBe("100000");
});

for (const mode of ["simple", "extended", "prepared"]) {
  pgbenchTest(`runs TPC-B ${mode} without losing a transaction`, async () => {
    await topology.primary.sql("TRUNCATE pgbench_history");
    const before = await balance();
    const output = await pgbench(balanced(), "-M", mode, "-c", "4", "-j", "2", "-t", "25");
    expect(output).toContain("actually processed: 100/100");
    const [history] = await topology.primary.sql(
      "SELECT count(*) AS n, sum(delta) AS total FROM pgbench_history",
    );
    const { n, total } = history ?? {};
    expect(n).toBe("100");
    const after = await balance();
    expect(after - before).toBe(Number(total));
  });

  pgbenchTest(`runs SELECTs ${mode} on the standby`, async () => {
    const readThere = async () => {
      const before = await selects();
      const output = await pgbench(balanced(), "-S", "-n", "-M", mode, "-c", "8", "-t", "50");
      expect(output).toContain("actually processed: 400/400");
      const after = await selects();
      return (after[1] ?? 0) - (before[1] ?? 0);
    };
    // A log-in for which the standby takes too long goes without it.
    let there = 0;
    for (let tries = 0; tries < 3 && there < 400; tries++) there = await readThere();
    expect(there).toBeGreaterThanOrEqual(400);
  });
}

pgbenchTest("runs with a connection for each transaction", async () => {
  const output = await pgbench(balanced(), "-S", "-n", "-C", "-c", "4", "-t", "20");
  expect(output).toContain("actually processed: 80/80");
});

pgbenchTest("runs pipelines", async () => {
  const script = join(scope.dir, "pipeline.sql");
  writeFileSync(
    script,
    `\\set aid random(1, 100000)
\\startpipeline
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
COMMIT;
SELECT 1;
\\endpipeline
`,
  );
  const before = await balance();
  for (const mode of ["extended", "prepared"]) {
    const output = await pgbench(balanced(), "-n", "-M", mode, "-c", "4", "-t", "25", "-f", script);
    expect(output).toContain("actually processed: 100/100");
  }
  expect((await balance()) - before).toBe(200);
});

async function balance(): Promise<number> {
  return Number(await topology.primary.value("SELECT sum(abalance) FROM pgbench_accounts"));
}

/** SELECTs sent to each node so far, by pgpool's own books. */
async function selects(): Promise<number[]> {
  const rows = await balanced().pgpool.show("pool_nodes");
  return rows.map(({ select_cnt }) => Number(select_cnt));
}
