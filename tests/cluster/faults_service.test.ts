/**
 * Limits and ends: every slot taken, max_pool full, a stop while clients are connected, files that
 * are wrong. Those who may stay are served, and nothing is left behind.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ConfigValue,
  cString,
  errorFields,
  eventually,
  frame,
  Ledger,
  monitor,
  Pgpool,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  sslRequest,
} from "./harness.ts";

let scope: Scope;
let server: Postgres;
const login = { user: "postgres", database: "test" };

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope, { databases: ["test", "a", "b", "c"] });
  await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN`);
}, 300_000);
afterAll(() => scope.close());

async function startPgpool(own: Scope, config: Record<string, ConfigValue>): Promise<Pgpool> {
  const pgpool = await Pgpool.create(own, {
    backends: [server],
    config: { num_init_children: 4, max_pool: 2, sr_check_user: monitor, ...config },
  });
  await pgpool.untilServing();
  return pgpool;
}

/** Databases of the connections that pgpool holds at the server for clients. */
async function held(): Promise<string[]> {
  const rows = await server.sql(
    `SELECT datname FROM pg_stat_activity WHERE backend_type = 'client backend'
       AND application_name <> 'harness' AND usename <> '${monitor}' ORDER BY 1`,
    "postgres",
  );
  return rows.map(({ datname }) => datname ?? "");
}

const visit = async (pgpool: Pgpool, database: string) => {
  const client = await RawClient.login(pgpool.tcp, { user: "postgres", database });
  await client.rows("SELECT 1");
  await client.terminate();
};

describe("the pool", () => {
  test("that is full gives up the connection idle longest and rejects nobody", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 1, max_pool: 2 });
    const visits = [
      ["a", ["a", "test"]],
      ["b", ["a", "b"]],
      ["a", ["a", "b"]],
      ["c", ["a", "c"]],
    ] as const;
    for (const [database, expected] of visits) {
      await visit(pgpool, database);
      await eventually(held, (now) => now.join() === expected.join(), {
        what: `the pool to hold ${expected} after a visit to ${database}`,
      });
    }
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });

  test("is not troubled by an error, which is counted for the node that gave it", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 1 });
    const client = await RawClient.login(pgpool.tcp, login);
    await client.query("SELECT 1/0");
    const [row] = await client.rows("SHOW pool_backend_stats");
    expect(row).toMatchObject({ error_cnt: "1", fatal_cnt: "0", panic_cnt: "0" });
    await client.terminate();
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });

  test("never keeps postgres, template1 and regression", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 1 });
    await visit(pgpool, "postgres");
    await visit(pgpool, "template1");
    await eventually(held, (now) => now.join() === "test");
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });

  test("is not used with another application_name, which gets a connection of its own", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 1 });
    const pid = async (name: string) => {
      const parameters = { application_name: name };
      const client = await RawClient.login(pgpool.tcp, { ...login, parameters });
      const [row] = await client.rows("SELECT pg_backend_pid() AS pid");
      await client.terminate();
      return Object.values(row ?? {})[0];
    };
    const first = await pid("one");
    expect(await pid("one")).toBe(first ?? "");
    expect(await pid("two")).not.toBe(first ?? "");
    expect(await pid("one")).toBe(first ?? "");
    await eventually(held, (now) => now.length === 2);
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });

  test("with connection_cache off is empty after each client", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { connection_cache: false });
    await visit(pgpool, "a");
    await eventually(held, (now) => now.length === 0);
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });

  test("forgets what a session set", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 1 });
    const first = await RawClient.login(pgpool.tcp, login);
    await first.rows(
      "SET work_mem = '123kB'; PREPARE p AS SELECT 1; BEGIN; CREATE TEMP TABLE t ()",
    );
    await first.terminate();
    const second = await RawClient.login(pgpool.tcp, login);
    const [row] = await second.rows(
      `SELECT current_setting('work_mem') AS mem, (SELECT count(*) FROM pg_prepared_statements) AS n,
         to_regclass('t') AS t`,
    );
    expect(row).toEqual({ mem: "4MB", n: "0", t: null });
    await second.terminate();
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });
});

describe("the slots", () => {
  test("taken by as many clients as num_init_children, let the next one wait and then in", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 2 });
    const ledger = await Ledger.open(pgpool, server);
    const second = await RawClient.login(pgpool.tcp, login);
    const third = await RawClient.connect(pgpool.tcp, 20_000);
    let isIn = false;
    const waiting = third.login(login).then((result) => {
      isIn = true;
      return result;
    });
    // The others are served meanwhile: a whole round trip each, and the third is still outside.
    for (const client of [ledger.bystander, second]) await client.rows("SELECT pg_sleep(0.1)");
    expect(isIn).toBe(false);
    await second.terminate();
    expect((await waiting).error).toBeUndefined();
    await third.terminate();
    await ledger.balanced();
  });

  test.each([
    ["a start-up packet", []],
    ["an SSLRequest", [sslRequest]],
  ])("above the reserved ones are refused by FATAL 53300 before %s is read", async (_, first) => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { num_init_children: 3, reserved_connections: 2 });
    const ledger = await eventually(() => Ledger.open(pgpool, server));
    const refused = await RawClient.connect(pgpool.tcp);
    refused.send(...first);
    const frames = await refused.closed();
    const fields = frames.map(({ body }) => errorFields(body));
    expect(fields).toMatchObject([
      { S: "FATAL", C: "53300", M: "Sorry, too many clients already" },
    ]);
    await ledger.close();
    await pgpool.untilServing();
  });
});

describe("limits of time", () => {
  test("an idle client is told to go after client_idle_limit", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { client_idle_limit: 1 });
    const client = await RawClient.login(pgpool.tcp, login);
    const frames = await client.closed();
    expect(frames.map(({ body }) => errorFields(body))).toMatchObject([
      {
        C: "57000",
        M: "unable to read data",
        D: "child connection forced to terminate due to client_idle_limit:1 is reached",
      },
    ]);
    await pgpool.untilServing();
  });

  test("a pooled connection is closed after connection_life_time", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, { connection_life_time: 1 });
    await visit(pgpool, "a");
    await eventually(held, (now) => now.length === 0, { deadlineMs: 20_000 });
    expect(await pgpool.stop("fast")).toBe("exit 0");
  });
});

describe("a stop with clients connected", () => {
  test("smart waits for them, lets nobody else in, and then leaves nothing behind", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, {});
    const client = await RawClient.login(pgpool.tcp, login);
    pgpool.signal("SIGTERM");
    await eventually(
      async () => {
        try {
          const late = await RawClient.connect(pgpool.tcp, 500);
          const { error } = await late.login(login);
          late.destroy();
          return error === undefined ? "let in" : "refused";
        } catch {
          return "refused"; // the port is closed, or nobody answers any more
        }
      },
      (answer) => answer === "refused",
    );
    expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
    await client.terminate();
    expect(await pgpool.stop("smart")).toBe("exit 0");
    await leavesNothing(pgpool);
  });

  test.each(["fast", "immediate"] as const)(
    "%s closes them, also in a transaction",
    async (mode) => {
      await using own = new Scope();
      const pgpool = await startPgpool(own, {});
      const idle = await RawClient.login(pgpool.tcp, login);
      const busy = await RawClient.login(pgpool.tcp, login);
      await busy.rows("BEGIN; CREATE TABLE never_committed ()");
      busy.send(frame("Q", cString("SELECT pg_sleep(600)")));
      const sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
      await eventually(
        () => server.value(sleeping),
        (count) => count === "1",
      );
      expect(await pgpool.stop(mode)).toBe("exit 0");
      for (const client of [idle, busy]) {
        expect((await client.closed()).map(({ type }) => type)).not.toContain("Z");
      }
      await server.sql(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'`,
      );
      await leavesNothing(pgpool);
      expect(await server.value("SELECT to_regclass('never_committed')")).toBeNull();
    },
  );

  async function leavesNothing(pgpool: Pgpool): Promise<void> {
    await eventually(held, (now) => now.length === 0);
    expect(existsSync(pgpool.socketPath)).toBe(false);
    expect(existsSync(join(pgpool.dir, "pgpool.pid"))).toBe(false);
    await expect(RawClient.connect(pgpool.tcp)).rejects.toThrow();
  }
});

describe("wrong files", () => {
  /** Runs the program to its end, which must come by itself. */
  async function startWith(own: Scope, prepare: (pgpool: Pgpool) => void) {
    const pgpool = await Pgpool.create(own, { backends: [server], startLater: true });
    prepare(pgpool);
    return { pgpool, result: await runCommand(pgpool.argv, { deadlineMs: 20_000, cwd: own.dir }) };
  }

  test("a syntax error in pgpool.conf ends the start with exit code 3 and names the line", async () => {
    await using own = new Scope();
    const { pgpool, result } = await startWith(own, ({ configPath }) =>
      writeFileSync(configPath, "port = 9999\nmax_pool == 4\n"),
    );
    expect(result.code).toBe(3);
    expect(result.stderr).toContain(`syntax error in configuration file "${pgpool.configPath}"`);
    expect(result.stderr).toContain("parse error at line 2 ");
  });

  test("a value out of range ends the start with exit code 3 and names the parameter", async () => {
    await using own = new Scope();
    const { result } = await startWith(own, (pgpool) => pgpool.writeFiles({ port: 99_999 }));
    expect(result.code).toBe(3);
    expect(result.stderr).toContain("port");
  });

  test("a port in use ends the start with exit code 3 and leaves no pid file", async () => {
    await using own = new Scope();
    const { pgpool, result } = await startWith(own, (pgpool) =>
      pgpool.writeFiles({ port: server.port }),
    );
    expect(result.code).toBe(3);
    expect(existsSync(join(pgpool.dir, "pgpool.pid"))).toBe(false);
  });

  test("a pool_hba.conf with a bad line lets nobody in", async () => {
    await using own = new Scope();
    const pgpool = await Pgpool.create(own, {
      backends: [server],
      hba: ["host all all 127.0.0.1/32 trust", "host all all trust me"],
      config: { num_init_children: 2, sr_check_user: monitor },
    });
    const client = await RawClient.connect(pgpool.tcp);
    expect((await client.login(login)).error).toMatchObject({
      S: "FATAL",
      M: "client authentication failed",
      D: "missing or erroneous pool_hba.conf file",
    });
    await client.closed();
  });

  test("a bad reload keeps the old values and the clients", async () => {
    await using own = new Scope();
    const pgpool = await startPgpool(own, {});
    const ledger = await Ledger.open(pgpool, server);
    writeFileSync(pgpool.configPath, "port = = 1\n", { flag: "a" });
    pgpool.signal("SIGHUP");
    await pgpool.logged(/syntax error in configuration file/);
    await ledger.balanced();
  });
});
