/**
 * What a session loses with a server, and what it keeps: restarts, crashes, terminated backends,
 * hung standbys, with real servers.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  bind,
  cancelRequest,
  closeStatement,
  cString,
  type ErrorFields,
  errorFields,
  eventually,
  execute,
  flush,
  frame,
  gatherResult,
  monitor,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  parse,
  RawClient,
  Scope,
  sync,
} from "./harness.ts";

const login = { user: "postgres", database: "test" };

let scope: Scope;
let primary: Postgres;
let standby: Postgres;

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope);
  await primary.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN; CREATE TABLE t (a int)`);
  standby = await primary.createStandby();
}, 300_000);
afterAll(() => scope.close());

function inFront(own: Scope, config: PgpoolOptions["config"] = {}): Promise<Pgpool> {
  return Pgpool.create(own, {
    backends: [primary, standby],
    config: {
      num_init_children: 16,
      sr_check_user: monitor,
      sr_check_period: 1,
      failover_on_backend_error: false,
      ...config,
    },
  });
}

const errorOf = async (client: RawClient, sql: string): Promise<ErrorFields | undefined> =>
  (await client.query(sql)).errors[0];

/** The process that serves this session at the server that takes writes. */
async function backendOf(client: RawClient): Promise<string | null | undefined> {
  const [{ pid } = {}] = await client.rows("BEGIN; SELECT pg_backend_pid() AS pid; COMMIT");
  return pid;
}

describe("a primary that is started again", () => {
  test("takes nothing from sessions that were idle, and from others what they had under way", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own);
    const idle = await RawClient.login(pgpool.tcp, login, 60_000);
    const busy = await RawClient.login(pgpool.tcp, login, 60_000);
    const within = await RawClient.login(pgpool.tcp, login, 60_000);
    const temporary = await RawClient.login(pgpool.tcp, login, 60_000);
    await idle.rows("INSERT INTO t VALUES (1)");
    await within.rows("BEGIN");
    await within.rows("INSERT INTO t VALUES (2)");
    await temporary.rows("CREATE TEMP TABLE mine (a int)");
    const asleep = busy.query("INSERT INTO t SELECT 3 FROM pg_sleep(600)");
    await eventually(
      () => primary.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"),
      (count) => count === "1",
    );

    await primary.stop("fast");
    const cut = await asleep;
    expect(cut.errors[0]).toMatchObject({ S: "ERROR", C: "57P01" });
    expect(cut.status).toBe("I");
    const waiting = idle.query("INSERT INTO t VALUES (4)");
    await primary.start();
    expect((await waiting).tags).toEqual(["INSERT 0 1"]);
    expect(await busy.rows("SELECT 1 AS n")).toEqual([{ n: "1" }]);

    expect(await errorOf(within, "SELECT 1")).toMatchObject({ S: "ERROR", C: "57P01" });
    expect(await errorOf(within, "INSERT INTO t VALUES (5)")).toMatchObject({ C: "25P02" });
    expect((await within.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
    await within.rows("INSERT INTO t VALUES (6)");

    const last = await temporary.until("Z");
    const farewell = last.find(({ type }) => type === "E");
    expect(farewell && errorFields(farewell.body)).toMatchObject({ S: "FATAL", C: "57P01" });
    await temporary.closed();

    const [{ left } = {}] = await primary.sql(
      "SELECT string_agg(a::text, ' ' ORDER BY a) AS left FROM t",
    );
    expect(left).toBe("1 4 6");
    for (const client of [idle, busy, within]) await client.terminate();
  }, 300_000);

  test("after a crash as well", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own);
    const client = await RawClient.login(pgpool.tcp, login, 60_000);
    await client.rows("INSERT INTO t VALUES (10)");
    await primary.kill();
    const waiting = client.query("INSERT INTO t VALUES (11)");
    await primary.start();
    expect((await waiting).tags).toEqual(["INSERT 0 1"]);
    await client.terminate();
  }, 300_000);
});

describe("while there is no primary", () => {
  test("a cancel request ends the wait of a write, and the session goes on", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own);
    const client = await RawClient.connect(pgpool.tcp, 60_000);
    const { key } = await client.login(login);
    if (key === undefined) throw new Error("the log-in gave no key");
    await client.rows("INSERT INTO t VALUES (15)");
    await primary.stop("fast");
    let ended = false;
    const write = client.query("INSERT INTO t VALUES (16)").finally(() => {
      ended = true;
    });
    const cancelled = await eventually(
      async () => {
        const request = await RawClient.connect(pgpool.tcp);
        request.send(cancelRequest(key.pid, key.secret));
        await request.closed();
        return ended;
      },
      Boolean,
      { what: "the write to end", deadlineMs: 20_000 },
    ).finally(() => primary.start());
    expect(cancelled).toBe(true);
    expect((await write).errors[0]).toMatchObject({ S: "ERROR", C: "57014" });
    expect((await client.query("INSERT INTO t VALUES (17)")).tags).toEqual(["INSERT 0 1"]);
    expect(await primary.value("SELECT count(*) FROM t WHERE a IN (16, 17)")).toBe("1");
    await client.terminate();
  }, 300_000);
});

describe("pg_terminate_backend", () => {
  test("ends the session that it names, idle or not, with PostgreSQL's words", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own);
    for (const sql of [undefined, "INSERT INTO t SELECT 20 FROM pg_sleep(600)"]) {
      const client = await RawClient.login(pgpool.tcp, login, 60_000);
      const pid = await backendOf(client);
      const end = sql === undefined ? client.until("Z") : undefined;
      const cut = sql === undefined ? undefined : client.query(sql);
      await eventually(
        () => primary.value(`SELECT state FROM pg_stat_activity WHERE pid = ${pid}`),
        (state) => state === (sql === undefined ? "idle" : "active"),
      );
      await primary.sql(`SELECT pg_terminate_backend(${pid})`);
      const frames = (await end) ?? [];
      const error = frames.find(({ type }) => type === "E");
      const told = error === undefined ? (await cut)?.errors[0] : errorFields(error.body);
      expect(told).toMatchObject({
        S: "FATAL",
        C: "57P01",
        M: "terminating connection due to administrator command",
      });
      await client.closed();
    }
    const other = await RawClient.login(pgpool.tcp, login);
    await other.rows("INSERT INTO t VALUES (21)");
    await other.terminate();
  }, 300_000);
});

describe("pg_terminate_backend at a standby", () => {
  /** All reads, and so pg_backend_pid(), are the standby's. */
  const readingThere = (own: Scope) =>
    Pgpool.create(own, {
      backends: [primary, standby].map(({ host, port }, weight) => ({ host, port, weight })),
      config: { num_init_children: 8, sr_check_user: monitor, failover_on_backend_error: false },
    });

  test("ends the session that was told that process id, idle or reading", async () => {
    await using own = new Scope();
    const pgpool = await readingThere(own);
    await pgpool.untilServing();
    const long = "SELECT count(*) FROM generate_series(1, 1e6) a, generate_series(1, 1e6) b";
    for (const sql of [undefined, long]) {
      const client = await pgpool.loginWhole(login, 60_000);
      await client.rows("SELECT count(*) FROM t"); // the catalogs have been asked
      const [{ pid } = {}] = await client.rows("SELECT pg_backend_pid() AS pid");
      const answer = client.until("Z");
      if (sql !== undefined) client.send(frame("Q", cString(sql)));
      await eventually(
        () => standby.value(`SELECT state FROM pg_stat_activity WHERE pid = ${pid}`),
        (state) => state === (sql === undefined ? "idle" : "active"),
      );
      await standby.sql(`SELECT pg_terminate_backend(${pid})`);
      const error = (await answer).find(({ type }) => type === "E");
      expect(error && errorFields(error.body)).toMatchObject({
        S: "FATAL",
        C: "57P01",
        M: "terminating connection due to administrator command",
      });
      await client.closed();
    }
  }, 300_000);

  test("is told from a standby that is stopped, of which idle sessions notice nothing", async () => {
    await using own = new Scope();
    const pgpool = await readingThere(own);
    await pgpool.untilServing();
    const client = await pgpool.loginWhole(login, 60_000);
    const portOf = async () => {
      const [{ port } = {}] = await client.rows("SELECT inet_server_port() AS port");
      return port;
    };
    expect(await portOf()).toBe(String(standby.port));
    await standby.stop("fast");
    expect(await portOf()).toBe(String(primary.port));
    await standby.start();
    await client.terminate();
  }, 300_000);
});

describe("a standby", () => {
  test("that dies takes no session along", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own);
    const clients = await Promise.all(
      Array.from({ length: 8 }, () => RawClient.login(pgpool.tcp, login, 60_000)),
    );
    for (const client of clients) await client.rows("SELECT 1");
    await standby.kill();
    for (const client of clients) {
      // A read that was on its way to the standby is the only thing that may fail.
      const { errors } = await client.query("SELECT 1");
      if (errors[0] !== undefined) expect(errors[0]).toMatchObject({ S: "ERROR", C: "57P01" });
      await client.rows("SELECT 1");
      await client.rows("INSERT INTO t VALUES (30)");
      await client.terminate();
    }
    await standby.start();
  }, 300_000);

  // What was parsed there is parsed again elsewhere; a portal that was bound there is gone with it.
  const openings: readonly [string, "1" | "2", boolean, string | undefined][] = [
    ["Parse and Bind", "1", false, undefined],
    ["Bind and Execute, outside of a transaction", "2", false, "34000"],
    ["Bind and Execute, in a transaction", "2", true, "34000"],
  ];
  test.each(openings)(
    "that dies between %s",
    async (_, last, inTransaction, code) => {
      await using own = new Scope();
      const pgpool = await inFront(own, { backend_weight0: 0 });
      const client = await pgpool.loginWhole(login, 60_000);
      if (inTransaction) await client.rows("BEGIN");
      const bound = bind("s", [], { portal: "p" });
      const isBound = last === "2";
      client.send(parse("s", "SELECT 7"), ...(isBound ? [bound] : []), flush);
      await client.until(last);
      await standby.kill();
      client.send(...(isBound ? [] : [bound]), execute("p"), sync);
      const cut = gatherResult(await client.until("Z"));
      expect([cut.errors[0]?.C, cut.status]).toEqual([code, inTransaction ? "E" : "I"]);
      if (inTransaction) expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      client.send(bound, execute("p"), sync);
      expect(gatherResult(await client.until("Z"))).toMatchObject({ rows: [["7"]], errors: [] });
      await client.terminate();
      await standby.start();
    },
    300_000,
  );

  test("that dies takes no prepared statement along", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own, { backend_weight0: 0 });
    const client = await RawClient.login(pgpool.tcp, login, 60_000);
    await client.rows("PREPARE p AS SELECT 7 AS n");
    await client.rows("PREPARE q AS SELECT 8 AS n");
    await standby.kill();
    await client.query("SELECT 1"); // the loss may be noticed by this one
    expect(await client.rows("EXECUTE p")).toEqual([{ n: "7" }]);
    for (const name of ["p", "q"]) {
      expect((await client.query(`DEALLOCATE ${name}`)).errors).toEqual([]);
      expect((await client.query(`DEALLOCATE ${name}`)).errors[0]?.C).toBe("26000");
    }
    await client.terminate();
    await standby.start();
  }, 300_000);

  test("that hangs keeps log-ins waiting once, and not again until it answers", async () => {
    await using own = new Scope();
    const pgpool = await inFront(own, { sr_check_period: 0 });
    await pgpool.untilServing();
    standby.suspend();
    try {
      // A name of its own each: nobody is served from the pool.
      const newcomer = (name: string) => {
        const parameters = { application_name: name };
        return RawClient.login(pgpool.tcp, { ...login, parameters }, 20_000);
      };
      const first = await newcomer("first");
      await pgpool.logged(/DB node 1 .* keeps log-ins waiting/);
      const waited: number[] = [];
      for (let i = 0; i < 10; i++) {
        const started = performance.now();
        const client = await newcomer(String(i));
        waited.push(performance.now() - started);
        await client.rows("INSERT INTO t VALUES (31)");
        await client.rows("SELECT 1");
        await client.terminate();
      }
      // Whoever waits is not served in less than the half second that the first one gave it.
      const [, , , , median] = waited.toSorted((a, b) => a - b);
      expect(median).toBeLessThan(500);
      await first.terminate();
    } finally {
      standby.continue();
    }
    await pgpool.logged(/DB node 1 .* is used by log-ins again/);
  }, 300_000);
});

describe("a read that was parsed on a standby", () => {
  const run = [bind("s"), execute(), sync];
  const sql = "SELECT inet_server_port(), (SELECT count(*) FROM t)";
  const told = async (client: RawClient) => gatherResult(await client.until("Z"));

  const readingThere = async (own: Scope, config: PgpoolOptions["config"] = {}) => {
    const backends = [primary, standby].map(({ host, port }, weight) => ({ host, port, weight }));
    const shared = { num_init_children: 8, sr_check_user: monitor, sr_check_period: 1 };
    const more = { failover_on_backend_error: false, ...shared, ...config };
    const pgpool = await Pgpool.create(own, { backends, config: more });
    await pgpool.untilServing();
    return pgpool;
  };

  test.each([
    ["within the segment", "H", "1"],
    ["before it is bound", "S", "Z"],
  ])(
    "is executed on the primary when the standby dies %s",
    async (_, end, answer) => {
      await using own = new Scope();
      const pgpool = await readingThere(own);
      const client = await pgpool.loginWhole(login, 60_000);
      client.send(parse("s", sql), sync, ...run);
      await client.until("Z");
      expect((await told(client)).rows[0]?.[0]).toBe(String(standby.port));
      client.send(closeStatement("s"), parse("s", sql), frame(end));
      await client.until(answer);
      await standby.kill();
      await pgpool.logged(/DB node id: 1 is not used by this session any more/);
      client.send(...run);
      const { rows, errors } = await told(client);
      expect(errors).toEqual([]);
      expect(rows[0]?.[0]).toBe(String(primary.port));
      await client.rows("SELECT 1");
      await client.terminate();
      await standby.start();
    },
    300_000,
  );

  test("is executed on the primary while the standby lags, and there again afterwards", async () => {
    await using own = new Scope();
    const pgpool = await readingThere(own, { delay_threshold: 1 });
    const client = await pgpool.loginWhole(login, 60_000);
    client.send(parse("s", sql), sync);
    await client.until("Z");
    const once = async () => {
      client.send(...run);
      return (await told(client)).rows[0] ?? [];
    };
    const portOf = async () => (await once())[0];
    await eventually(portOf, (port) => port === String(standby.port));
    const count = Number((await once())[1]);
    await standby.sql("SELECT pg_wal_replay_pause()");
    await primary.sql("INSERT INTO t VALUES (90)");
    await eventually(portOf, (port) => port === String(primary.port), { deadlineMs: 30_000 });
    expect(Number((await once())[1])).toBe(count + 1);
    await standby.sql("SELECT pg_wal_replay_resume()");
    await eventually(portOf, (port) => port === String(standby.port), { deadlineMs: 30_000 });
    expect(Number((await once())[1])).toBe(count + 1);
    await client.terminate();
  }, 300_000);
});
