/**
 * A smoke part of the cluster tests with every PostgreSQL in a container of its own: what a primary,
 * a standby and pgpool do when there are networks between them.
 */
import { expect } from "bun:test";
import {
  eventually,
  findContainerPostgres,
  Pgpool,
  Postgres,
  RawClient,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";

const containerTest = await testNeeding(
  "dist/pgpool",
  "container engine with the image of tests/cluster/postgres_image",
);

async function start(scope: Scope) {
  const primary = await Postgres.create(scope, { install: await findContainerPostgres() });
  const standby = await primary.createStandby();
  const pgpool = await Pgpool.create(scope, { backends: [primary, standby] });
  await pgpool.untilServing();
  return { primary, standby, pgpool };
}

containerTest(
  "writes go to the primary, reads to both, and servers come and go",
  async () => {
    await using scope = new Scope();
    const { primary, standby, pgpool } = await start(scope);
    expect((await pgpool.show("pool_nodes")).map(({ role }) => role)).toEqual([
      "primary",
      "standby",
    ]);
    await pgpool.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    await eventually(
      () => standby.value("SELECT count(*) FROM t"),
      (count) => count === "1000",
    );
    const ports = new Set<string | null>();
    await eventually(async () => {
      const [row] = await pgpool.sql("SELECT current_setting('port') AS at, count(*) FROM t");
      ports.add(Object.values(row ?? {})[0] ?? null);
      return ports.size === 2;
    });

    // A standby that dies takes its own sessions only; it can be started again in its container.
    await standby.kill();
    await eventually(async () => (await pgpool.sql("SELECT count(*) AS n FROM t")).length === 1);
    await pgpool.sql("INSERT INTO t VALUES (0)");
    await standby.start();
    await eventually(
      () => standby.value("SELECT count(*) FROM t"),
      (count) => count === "1001",
    );
    await primary.stop("fast");
    expect(primary.running).toBe(false);
  },
  180_000,
);

containerTest(
  "passwords pass from client to server, over a network that trusts nobody",
  async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope, {
      install: await findContainerPostgres(),
      hba: ["host all all 127.0.0.1/32 scram-sha-256"],
    });
    await primary.createRole("app", "it's secret");
    await primary.sql(`ALTER ROLE ${superuser} PASSWORD 'boss'`);
    const pgpool = await Pgpool.create(scope, {
      backends: [primary],
      config: { sr_check_password: "boss" },
      hba: ["host all all 127.0.0.1/32 scram-sha-256"],
      passwd: ["app:TEXTit's secret"],
    });
    const as = (password: string) =>
      RawClient.login(pgpool.tcp, { user: "app", database: "test", password });
    const client = await eventually(() => as("it's secret"));
    expect(await client.rows("SELECT current_user AS me")).toEqual([{ me: "app" }]);
    client.destroy();
    await expect(as("wrong")).rejects.toThrow();
  },
  120_000,
);
