/** Nodes lost and attached where pgpool replicates, with real servers and sessions that go on. */
import { expect } from "bun:test";
import { pcp, script, untilStatuses } from "./failover_stage.ts";
import { eventually, type Postgres, RawClient, Scope, superuser, testNeeding } from "./harness.ts";
import { withReplicas } from "./replicated_stage.ts";

const replicasTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };

const numbersOn = async (node: Postgres): Promise<string> => {
  const rows = await node.sql("SELECT n FROM t ORDER BY n");
  return rows.map(({ n }) => n).join(" ");
};

replicasTest(
  "a node that dies is detached, and sessions go on with the others, also without the main node",
  async () => {
    await using scripts = new Scope();
    const failover = script(scripts, "failover");
    const failback = script(scripts, "failback");
    const words = "%d %m %M %P %h %H";
    const config = {
      failover_command: `${failover.path} ${words}`,
      failback_command: `${failback.path} ${words}`,
    };
    await withReplicas(3, config, async ({ pgpool, nodes }) => {
      const [n0, n1, n2] = nodes;
      if (n0 === undefined || n1 === undefined || n2 === undefined) return;
      const session = await RawClient.login(pgpool.tcp, login, 30_000);
      await session.rows("CREATE TABLE t (n int PRIMARY KEY)");
      await session.rows("INSERT INTO t VALUES (1)");

      await n2.kill();
      await untilStatuses(pgpool, "up up down");
      await session.rows("INSERT INTO t VALUES (2)");
      const other = await RawClient.login(pgpool.tcp, login, 30_000);
      await other.rows("INSERT INTO t VALUES (3)");

      await n0.stop("fast");
      await untilStatuses(pgpool, "down up down");
      await session.rows("INSERT INTO t VALUES (4)");
      await other.rows("INSERT INTO t VALUES (5)");
      expect((await pgpool.show("pool_nodes")).map(({ role }) => role)).toEqual([
        "replica",
        "main",
        "replica",
      ]);
      expect(await numbersOn(n1)).toBe("1 2 3 4 5");
      const host = "127.0.0.1";
      const called = `2 0 0 -1 ${host} ${host}\n0 1 0 -1 ${host} ${host}\n`;
      await eventually(failover.calls, (calls) => calls === called, { what: called });

      await n2.start();
      expect(await numbersOn(n2)).toBe("1");
      await n2.sql("INSERT INTO t SELECT generate_series(2, 5)");
      expect(await pcp(pgpool, "attach-node", "2")).toMatchObject({ code: 0, stderr: "" });
      await untilStatuses(pgpool, "down up up");
      await pgpool.logged(/node 2 is attached as it is: what was written without it/);
      // They began without it: what they wrote now would not reach it.
      const told = await session.query("INSERT INTO t VALUES (6)");
      expect([told.errors[0]?.C, told.status]).toEqual(["57P01", undefined]);
      await pgpool.sql("INSERT INTO t VALUES (7)");
      expect([await numbersOn(n1), await numbersOn(n2)]).toEqual(["1 2 3 4 5 7", "1 2 3 4 5 7"]);
      expect(failback.calls()).toBe(`2 1 1 1 ${host} ${host}\n`);
    });
  },
  120_000,
);

replicasTest(
  "nobody gets in to some of the nodes only",
  async () => {
    await withReplicas(2, { health_check_timeout1: 3 }, async ({ pgpool, nodes }) => {
      const [n0, n1] = nodes;
      if (n0 === undefined || n1 === undefined) return;
      await n0.sql("CREATE DATABASE half", "postgres");
      await expect(pgpool.sql("SELECT 1", "half")).rejects.toThrow(
        'database "half" does not exist',
      );
      await n0.sql("DROP DATABASE half", "postgres");

      // In other modes a log-in does without a node that hangs.
      n1.suspend();
      const client = await RawClient.login(pgpool.tcp, login, 60_000);
      const [, { status } = {}] = await pgpool.show("pool_nodes");
      n1.continue();
      expect(status).toBe("down");
      await client.rows("CREATE TABLE t (n int)");
      expect(await n1.sql("SELECT FROM pg_class WHERE relname = 't'")).toEqual([]);
    });
  },
  120_000,
);
