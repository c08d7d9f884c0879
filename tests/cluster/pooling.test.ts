/**
 * What the next client of a connection must not see of the last one, when connections are given up,
 * who is let in first, and what the log never says.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { derivePoolKey, encryptPassword } from "../../core/auth/pool_key.ts";
import {
  type ConfigValue,
  cString,
  eventually,
  frame,
  type LoginResult,
  Pgpool,
  Postgres,
  RawClient,
  Scope,
} from "./harness.ts";

let scope: Scope;
let primary: Postgres;
let standby: Postgres;
const login = { user: "postgres", database: "test" };

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope);
  standby = await primary.createStandby();
}, 300_000);

afterAll(() => scope.close());

async function startPgpool(own: Scope, config: Record<string, ConfigValue> = {}): Promise<Pgpool> {
  const pgpool = await Pgpool.create(own, {
    backends: [primary, standby],
    // One slot: the next client comes only when the last one's connections are pooled or closed.
    config: { num_init_children: 1, ...config },
  });
  await pgpool.untilServing();
  return pgpool;
}

/** Backend process of a client's main node, its greeting and its own view of some settings. */
async function visit(
  pgpool: Pgpool,
  body: (client: RawClient) => Promise<unknown> = async () => undefined,
): Promise<LoginResult & { readonly pid: number | undefined }> {
  const client = await RawClient.connect(pgpool.tcp, 20_000);
  const result = await client.login(login);
  expect(result.error).toBeUndefined();
  await body(client);
  await client.terminate();
  return { ...result, pid: result.key?.pid };
}

async function isConnected(pid: number | undefined): Promise<boolean> {
  return (await primary.value(`SELECT count(*) FROM pg_stat_activity WHERE pid = ${pid}`)) === "1";
}

test("the next client is greeted with the settings of a fresh connection, and has them", async () => {
  await using own = new Scope();
  const pgpool = await startPgpool(own);
  const names = ["application_name", "TimeZone", "client_encoding", "DateStyle", "IntervalStyle"];
  const shown = async (client: RawClient) => {
    const columns = names.map((name) => `current_setting('${name}') AS "${name}"`).join();
    return (await client.rows(`SELECT ${columns}`))[0];
  };
  let fresh: unknown;
  const first = await visit(pgpool, async (client) => {
    fresh = await shown(client);
    // One by one: several in one query would be set on the primary alone.
    for (const setting of [
      "application_name = 'mine'",
      "TimeZone = 'Asia/Tokyo'",
      "client_encoding = 'LATIN1'",
      "DateStyle = 'German'",
      "IntervalStyle = 'iso_8601'",
    ]) {
      await client.rows(`SET ${setting}`);
    }
    expect(await shown(client)).not.toEqual(fresh as never);
  });
  let pooled: unknown;
  const second = await visit(pgpool, async (client) => {
    pooled = await shown(client);
  });
  expect(second.pid).toBe(first.pid as number);
  expect(pooled).toEqual(fresh);
  expect(Object.fromEntries(second.parameters)).toEqual(Object.fromEntries(first.parameters));
});

test.each([
  ["idle", async () => undefined],
  ["in a transaction", (client: RawClient) => client.rows("BEGIN; CREATE TABLE ghost ()")],
  [
    "in a statement",
    async (client: RawClient) => client.send(frame("Q", cString("SELECT pg_sleep(1)"))),
  ],
  [
    "in COPY",
    async (client: RawClient) => {
      client.send(frame("Q", cString("COPY pg_temp.none FROM STDIN")));
    },
  ],
])("a client that vanishes without a goodbye while %s leaves no connection", async (_, body) => {
  await using own = new Scope();
  const pgpool = await startPgpool(own);
  const client = await RawClient.connect(pgpool.tcp);
  const { key } = await client.login(login);
  await body(client);
  client.destroy();
  const gone = await visit(pgpool);
  expect(gone.pid).not.toBe(key?.pid as number);
  await eventually(
    () => isConnected(key?.pid),
    (still) => !still,
  );
  expect(await primary.value("SELECT to_regclass('ghost')")).toBeNull();
});

test("child_max_connections gives up a slot's connections after so many clients", async () => {
  await using own = new Scope();
  const pgpool = await startPgpool(own, { child_max_connections: 3 });
  const pids: (number | undefined)[] = [];
  while (pids.length < 7) pids.push((await visit(pgpool)).pid);
  await pgpool.logged(/child exiting, 3 connections reached/);
  const runs = pids.map((pid) => pids.filter((other) => other === pid).length);
  expect(Math.max(...runs)).toBe(3);
  expect(new Set(pids).size).toBeLessThanOrEqual(4);
});

test("child_life_time closes the connections of a slot that nobody used so long", async () => {
  await using own = new Scope();
  const pgpool = await startPgpool(own, { child_life_time: 1 });
  const { pid } = await visit(pgpool);
  await eventually(
    () => isConnected(pid),
    (still) => !still,
    { what: "the connection to end" },
  );
  expect((await visit(pgpool)).pid).not.toBe(pid as number);
});

test("clients without a slot are let in in the order in which they came", async () => {
  await using own = new Scope();
  const pgpool = await startPgpool(own, { log_connections: true });
  const holder = await RawClient.login(pgpool.tcp, login);
  const arrivals = () => pgpool.log().split("new connection received").length;
  const order: number[] = [];
  const waiting: Promise<void>[] = [];
  for (let i = 0; i < 12; i++) {
    const before = arrivals();
    waiting.push(
      visit(pgpool, async () => {
        order.push(i);
      }).then(() => undefined),
    );
    await eventually(() => arrivals() > before);
  }
  // Answered after all of them have been read, for its bytes came later.
  expect(await holder.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  expect(order).toEqual([]);
  await holder.terminate();
  await Promise.all(waiting);
  expect(order).toEqual([...Array(12).keys()]);
});

test("servers restarted while their connections idle cost the next client nothing", async () => {
  await using own = new Scope();
  const pgpool = await startPgpool(own);
  const { pid } = await visit(pgpool);
  await primary.stop("fast");
  await primary.start();
  const next = await visit(pgpool, (client) => client.rows("SELECT 1"));
  expect(next.pid).not.toBe(pid as number);
}, 300_000);

test("no secret is in the log, at debug5 and with everything logged", async () => {
  await using own = new Scope();
  const secrets = {
    password: "correct-horse-7431",
    mistyped: "battery-staple-9126",
    changed: "nobody-knows-5567",
    poolKey: "a-pool-key-3388",
  };
  const aes = encryptPassword(
    Buffer.from(secrets.password),
    derivePoolKey(Buffer.from(secrets.poolKey)),
  );
  const hash = createHash("md5").update(`${secrets.password}hashed`).digest("hex");
  await primary.createRole("clear", secrets.password);
  await primary.createRole("hashed", secrets.password, "md5");
  await primary.createRole("asked", secrets.password);
  await primary.setHba([
    "host all postgres all trust",
    "host all hashed all md5",
    "host all all all scram-sha-256",
  ]);
  const pgpool = await Pgpool.create(own, {
    backends: [primary],
    key: secrets.poolKey,
    passwd: [`clear:AES${aes}`, `hashed:md5${hash}`],
    hba: [
      "host all postgres all trust",
      "host all clear all scram-sha-256",
      "host all hashed all md5",
      "host all all all password",
    ],
    config: {
      log_min_messages: "debug5",
      client_min_messages: "debug5",
      log_connections: true,
      log_disconnections: true,
      log_statement: true,
      log_per_node_statement: true,
      notice_per_node_statement: true,
    },
  });
  const keys: string[] = [];
  for (const user of ["clear", "hashed", "asked"]) {
    for (const password of [secrets.password, secrets.mistyped, secrets.password]) {
      const client = await RawClient.connect(pgpool.tcp);
      const { error, key } = await client.login({ user, password, database: "test" });
      expect({ user, failed: error !== undefined }).toEqual({
        user,
        failed: password === secrets.mistyped,
      });
      if (error !== undefined) continue;
      keys.push(key?.secret.toString("hex") ?? "", String(key?.secret.readInt32BE(0)));
      await client.rows(`ALTER ROLE ${user} SET work_mem = '5MB'`);
      await client.rows("SELECT 1");
      await client.terminate();
    }
  }
  await pgpool.sql(`ALTER ROLE asked PASSWORD '${secrets.changed}'`);
  await pgpool.sql(
    `CREATE ROLE newer LOGIN ENCRYPTED PASSWORD '${secrets.changed}' VALID UNTIL 'infinity'`,
  );
  await pgpool.logged(/ALTER ROLE asked/);
  expect(await pgpool.stop("fast")).toBe("exit 0");
  const log = pgpool.log();
  for (const secret of [...Object.values(secrets), hash, aes, ...keys]) {
    expect(log).not.toContain(secret);
  }
  await primary.setHba(["host all all all trust"]);
}, 300_000);
