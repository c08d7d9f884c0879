/**
 * Online recovery where pgpool replicates: clients are held for a second stage, and the node that
 * joins has what the others have. Installations are those of `pgpool setup`, with its own scripts and
 * with those of samples/.
 */
import { expect } from "bun:test";
import { Load } from "./failover_stage.ts";
import { eventually, Scope, testNeeding } from "./harness.ts";
import { Site } from "./replicated_site.ts";

const recoveryTest = await testNeeding("dist/pgpool", "postgres (system)", "psql");

recoveryTest(
  "a node that died is recovered while clients write, and then has what the others have",
  async () => {
    await using scope = new Scope();
    const site = await Site.make(scope, 3, "-m", "r");
    await site.configure("client_idle_limit_in_recovery = -1");
    await site.sql("CREATE TABLE acked (id int PRIMARY KEY)");
    await site.sql('CREATE TABLE "odd \' name" AS SELECT generate_series(1, 1000) AS n');
    await site.sql("CREATE SEQUENCE numbers");
    await site.sql("SELECT nextval('numbers')");
    const load = new Load(site, 4, scope.owner.name);
    try {
      await load.untilAcked(50);
      await site.crash(2);
      await site.untilStatuses("up up down");
      await load.untilAcked(load.acked.length + 50);
      expect(await site.recover(2)).toBe("");
      expect(await site.statuses()).toBe("up up up");
      await load.untilAcked(load.acked.length + 50);
    } finally {
      await load.stop();
    }
    expect((await site.sql("SELECT nextval('numbers') AS n"))[0]).toEqual({ n: "2" });
    const [first, ...others] = await site.contents(3);
    expect(first).toHaveLength(3);
    for (const other of others) expect(other).toEqual(first ?? []);
    const ids = new Set((await site.sql("SELECT id FROM acked")).map(({ id }) => Number(id)));
    expect(load.acked.filter((id) => !ids.has(id))).toEqual([]);
    // Nobody was let down but by the node's death, and by being sent away.
    const told = load.failures.filter(
      (text) => !/57000|due to online recovery|57P01|08006/.test(text),
    );
    const reasons = site.log().match(/kind mismatch.*/g) ?? [];
    expect({ told, reasons }).toEqual({ told: [], reasons: [] });
  },
  180_000,
);

recoveryTest(
  "the main node is recovered by the sample scripts, once nobody is in the way and nothing lacks",
  async () => {
    await using scope = new Scope();
    const site = await Site.make(scope, 2, "-m", "i", "-c");
    await site.sql("CREATE TABLE t (n int)");
    const idle = await site.login();
    await site.crash(0);
    await site.untilStatuses("down up");
    await idle.rows("INSERT INTO t VALUES (1)");

    await site.configure("recovery_timeout = 1");
    const late = site.recover(0);
    await eventually(
      () => site.log(),
      (log) => log.includes("waiting for clients to leave"),
      { deadlineMs: 60_000, what: "the second stage to begin" },
    );
    const held = site.sql("SELECT count(*) AS n FROM t"); // a new client waits, and is served in the end
    expect(await late).toContain(
      "node recovery failed, waiting connection closed in the other pgpools timeout",
    );
    expect(await held).toEqual([{ n: "1" }]);
    await idle.rows("INSERT INTO t VALUES (2)");
    expect(await site.statuses()).toBe("down up");

    // Without a second stage the last of the WAL is missing.
    await site.configure(
      "recovery_timeout = 90",
      "client_idle_limit_in_recovery = 1",
      "recovery_2nd_stage_command = ''",
    );
    expect(await site.recover(0)).toContain("node 0 does not have all that was written");
    expect(await site.statuses()).toBe("down up");
    const told = await idle.query("INSERT INTO t VALUES (3)");
    expect([told.errors[0]?.C, told.errors[0]?.D]).toEqual([
      "57000",
      expect.stringContaining("client_idle_limit_in_recovery:1 is reached"),
    ]);

    await site.crash(0);
    await site.configure("recovery_2nd_stage_command = 'replication_mode_recovery_2nd_stage'");
    expect(await site.recover(0)).toBe("");
    const nodes = await site.sql("SHOW pool_nodes");
    expect(nodes.map(({ role }) => role)).toEqual(["main", "replica"]);
    await site.sql("INSERT INTO t VALUES (4)");
    const [first, second] = await site.contents(2);
    expect(first).toEqual(second ?? []);
    expect(await site.sql("SELECT n FROM t ORDER BY n")).toEqual([
      { n: "1" },
      { n: "2" },
      { n: "4" },
    ]);
  },
  180_000,
);
