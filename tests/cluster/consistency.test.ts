/**
 * The promise of the replication modes: whatever clients do to it at the same time, every node has
 * the same in it afterwards. `CONSISTENCY_SEED` plays one load again, `CONSISTENCY_TRANSACTIONS`
 * makes it longer.
 */
import { expect } from "bun:test";
import type { Team } from "./failover_stage.ts";
import { type Postgres, Scope, testNeeding } from "./harness.ts";
import { contentsOf, differencesOf, MixedLoad, mixedSchema } from "./mixed_load.ts";
import { Site } from "./replicated_site.ts";
import { withReplicas } from "./replicated_stage.ts";

const consistencyTest = await testNeeding("dist/pgpool", "postgres");
const { CONSISTENCY_SEED, CONSISTENCY_TRANSACTIONS } = process.env;
const seed = Number(CONSISTENCY_SEED ?? 20_261_128);
const transactions = Number(CONSISTENCY_TRANSACTIONS ?? 20);

async function prepare(nodes: readonly Postgres[]): Promise<void> {
  for (const node of nodes) await node.sql(mixedSchema);
}

/** The load is full of deadlocks. */
const settings = { deadlock_timeout: "50ms" };

async function expectSame(nodes: readonly Postgres[]): Promise<void> {
  const [first = {}, ...others] = await Promise.all(nodes.map(contentsOf));
  for (const other of others) expect(differencesOf(first, other)).toEqual([]);
}

const modes = [
  ["native_replication", "read committed", false],
  ["snapshot_isolation", "repeatable read", true],
] as const;

for (const [mode, default_transaction_isolation, predicates] of modes) {
  consistencyTest(
    `${mode}: 16 clients leave three nodes the same`,
    async () => {
      const body = async ({ pgpool, nodes }: Team) => {
        await prepare(nodes);
        const load = new MixedLoad({ pgpool, seed, clients: 16, transactions, predicates });
        await load.done();
        console.log(`${mode}, ${load}`);
        expect(load.surprises).toEqual([]);
        await expectSame(nodes);
        expect(load.committed).toBeGreaterThan(16);
      };
      const config = { backend_clustering_mode: mode };
      await withReplicas(3, config, body, { ...settings, default_transaction_isolation });
    },
    300_000,
  );
}

consistencyTest(
  "a node is killed in the middle: the others stay the same, and nothing acknowledged is lost",
  async () => {
    const body = async ({ pgpool, nodes }: Team) => {
      await prepare(nodes);
      const load = new MixedLoad({ pgpool, seed, clients: 16, transactions });
      await load.untilCommitted((16 * transactions) / 8);
      const killed = seed % 3;
      await nodes[killed]?.kill();
      await load.done();
      console.log(`node ${killed} killed, ${load}`);
      expect(load.surprises).toEqual([]);
      const left = nodes.filter((_, id) => id !== killed);
      await expectSame(left);
      const found = await left[0]?.sql("SELECT DISTINCT what FROM log WHERE what IS NOT NULL");
      const there = new Set(found?.map(({ what }) => what));
      expect(load.marks.filter((mark) => !there.has(mark))).toEqual([]);
    };
    await withReplicas(3, {}, body, settings);
  },
  300_000,
);

const recoveryTest = await testNeeding("dist/pgpool", "postgres (system)", "psql");

recoveryTest(
  "a node is killed and recovered in the middle, and has the same as the others then",
  async () => {
    await using scope = new Scope();
    const site = await Site.make(scope, 3, "-m", "r");
    await site.configure("client_idle_limit_in_recovery = -1");
    await site.sql(`ALTER SYSTEM SET deadlock_timeout = '${settings.deadlock_timeout}'`);
    await site.sql("SELECT pg_reload_conf()");
    await site.sql(mixedSchema);
    const user = scope.owner.name;
    const load = new MixedLoad({ pgpool: site, user, seed, clients: 16, transactions: 1000 });
    const killed = (seed + 2) % 3;
    const some = 50;
    try {
      await load.untilCommitted(some);
      await site.crash(killed);
      await site.untilStatuses(["up", "up", "up"].with(killed, "down").join(" "));
      await load.untilCommitted(load.committed + some);
      expect(await site.recover(killed)).toBe("");
      expect(await site.statuses()).toBe("up up up");
      await load.untilCommitted(load.committed + some);
    } finally {
      await load.stop();
    }
    console.log(`node ${killed} killed and recovered, ${load}`);
    expect(load.surprises).toEqual([]);
    const [first, ...others] = await site.contents(3);
    for (const other of others) expect(other).toEqual(first ?? []);
    const found = await site.sql("SELECT DISTINCT what FROM log WHERE what IS NOT NULL");
    const there = new Set(found.map(({ what }) => what));
    expect(load.marks.filter((mark) => !there.has(mark))).toEqual([]);
  },
  300_000,
);
