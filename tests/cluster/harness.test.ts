/** The harness itself: what every cluster test stands on, tried on each PostgreSQL major. */
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import {
  eventually,
  everyPostgres,
  freePort,
  originalPgpool,
  Pgbouncer,
  Pgpool,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";

test("eventually() returns the first value that holds", async () => {
  let asked = 0;
  expect(
    await eventually(
      () => ++asked,
      (n) => n === 3,
    ),
  ).toBe(3);
});

test("eventually() fails at its deadline and tells the last value seen", async () => {
  const waiting = eventually(
    () => ({ role: "standby" }),
    () => false,
    {
      deadlineMs: 20,
      what: "a primary",
    },
  );
  await expect(waiting).rejects.toThrow(/a primary; last value: .*standby/);
});

test("eventually() fails with the last error of a probe that throws", async () => {
  const failing = () => {
    throw new Error("connection refused");
  };
  await expect(eventually(failing, undefined, { deadlineMs: 20 })).rejects.toThrow(
    /last error: connection refused/,
  );
});

test("freePort() never gives a port twice", async () => {
  const ports = await Promise.all(Array.from({ length: 50 }, freePort));
  expect(new Set(ports).size).toBe(50);
});

test("runCommand() reports output and exit code, and kills what takes too long", async () => {
  const done = await runCommand(["sh", "-c", "cat; echo err >&2; exit 3"], { stdin: "in" });
  expect(done).toEqual({ code: 3, signal: null, stdout: "in", stderr: "err\n" });
  const slow = await runCommand(["sh", "-c", "exec tail -f /dev/null"], { deadlineMs: 50 });
  expect(slow.signal).toBe("SIGKILL");
});

test("a process that ends before it answers is an error with its output", async () => {
  await using scope = new Scope();
  const failing = scope.start({
    name: "sh",
    argv: ["sh", "-c", "echo no such luck; exit 7"],
    logPath: `${scope.dir}/log`,
  });
  await expect(failing.untilReady(async () => false)).rejects.toThrow(/exit 7[\s\S]*no such luck/);
});

test("a closed scope leaves neither files nor processes", async () => {
  const scope = new Scope();
  const server = await Postgres.create(scope);
  const { pid } = server;
  await scope.close();
  expect(existsSync(scope.dir)).toBe(false);
  expect(() => process.kill(pid, 0)).toThrow();
});

const installs = await everyPostgres();
test("a PostgreSQL to test with is installed", () => {
  expect(installs.length).toBeGreaterThan(0);
});

describe.each(installs)("PostgreSQL $major ($kind)", (install) => {
  test("streams to a standby, stops, starts again and is promoted", async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope, { install });
    const standby = await primary.createStandby();
    await primary.sql("CREATE TABLE t AS SELECT 42 AS x");
    await eventually(
      () => standby.value("SELECT x FROM t"),
      (x) => x === "42",
    );
    expect(await standby.isInRecovery()).toBe(true);
    await primary.kill();
    await standby.promote();
    expect(await standby.isInRecovery()).toBe(false);
    await primary.start();
    expect(await primary.value("SELECT x FROM t")).toBe("42");
  }, 300_000);

  test.each(["md5", "scram-sha-256", "password"] as const)(
    "lets the raw client in by %s",
    async (method) => {
      await using scope = new Scope();
      const server = await Postgres.create(scope, {
        install,
        hba: [`host all all 127.0.0.1/32 ${method}`],
      });
      await server.createRole("alice", "it's", method === "md5" ? "md5" : "scram-sha-256");
      const target = { host: server.host, port: server.port };
      const login = { user: "alice", database: "test", password: "it's" };
      const client = await RawClient.login(target, login);
      expect(await client.rows("SELECT current_user AS u, NULL AS n")).toEqual([
        { u: "alice", n: null },
      ]);
      await client.terminate();
      const wrong = await RawClient.connect(target);
      expect((await wrong.login({ ...login, password: "x" })).error?.C).toBe("28P01");
    },
    300_000,
  );
});

const originalTest = await testNeeding("pgpool2");
originalTest(
  "Pgpool-II itself runs under the harness and shows its nodes",
  async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope);
    const standby = await primary.createStandby();
    const pgpool = await Pgpool.create(scope, {
      program: originalPgpool(),
      backends: [primary, standby],
      config: { num_init_children: 4 },
    });
    await pgpool.untilServing();
    const nodes = await eventually(
      () => pgpool.show("pool_nodes"),
      (rows) => rows.map(({ role }) => role).join() === "primary,standby",
      { deadlineMs: 30_000 },
    );
    expect(nodes.map(({ port }) => port)).toEqual([String(primary.port), String(standby.port)]);
    expect(await pgpool.stop("fast")).toBe("exit 0");
  },
  90_000,
);

const bouncerTest = await testNeeding("pgbouncer");
bouncerTest(
  "PgBouncer runs under the harness",
  async () => {
    await using scope = new Scope();
    const backend = await Postgres.create(scope);
    const bouncer = await Pgbouncer.create(scope, { backend });
    const client = await RawClient.login(bouncer.tcp, { user: "postgres", database: "test" });
    expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
    await client.terminate();
  },
  60_000,
);
