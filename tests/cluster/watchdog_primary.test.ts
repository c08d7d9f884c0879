/** Three of our nodes lose the primary: one of them promotes its standby, and clients of each write on. */
import { expect } from "bun:test";
import { Load, primaryOf, untilStatuses } from "./failover_stage.ts";
import { eventually, Postgres, Scope, testNeeding } from "./harness.ts";
import { WatchdogCluster } from "./watchdog_cluster.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");

pgTest(
  "the leader promotes once, and what clients of any node were told is true",
  async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope);
    const standby = await primary.createStandby();
    await primary.sql("CREATE TABLE acked (id int)");
    await primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    await primary.reload();
    const cluster = await WatchdogCluster.create(scope, {
      backends: [primary, standby],
      config: {
        failover_method: "promote",
        failover_on_backend_error: true,
        recovery_user: "postgres",
      },
    });
    await cluster.telling(async () => {
      await cluster.start();
      const leader = await cluster.untilAgreed();
      const loads = cluster.nodes.map(({ pgpool }) => new Load(pgpool, 2));
      for (const load of loads) await load.untilAcked(20);
      await standby.sql("SELECT pg_reload_conf()");
      await primary.stop("immediate");
      for (const { pgpool } of cluster.nodes) {
        await untilStatuses(pgpool, "down up", 90_000);
        await eventually(
          () => primaryOf(pgpool),
          (id) => id === 1,
          { deadlineMs: 90_000, what: "node 1 to be the primary" },
        );
      }
      await standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
      await standby.reload();
      for (const load of loads) {
        const before = load.acked.length;
        await load.untilAcked(before + 20);
      }
      for (const load of loads) await load.stop();
      // Each load counts for itself: an id must be there as often as it was acknowledged.
      const stored = new Map<number, number>();
      for (const { id } of await standby.sql("SELECT id FROM acked")) {
        stored.set(Number(id), (stored.get(Number(id)) ?? 0) + 1);
      }
      const acked = new Map<number, number>();
      for (const id of loads.flatMap((load) => load.acked)) acked.set(id, (acked.get(id) ?? 0) + 1);
      expect([...acked].filter(([id, times]) => (stored.get(id) ?? 0) < times)).toEqual([]);
      const starters = cluster.nodes.filter(({ pgpool }) =>
        pgpool.log().includes("=== Starting degeneration."),
      );
      expect(starters.map(({ id }) => id)).toEqual([leader.id]);
    });
  },
  240_000,
);
