/**
 * Logging in while things are not as they were a moment ago: nodes that disagree, pool_passwd
 * edited, its key missing, a log-in that hangs when pgpool stops; and what servers say meanwhile.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { derivePoolKey, encryptPassword } from "../../core/auth/pool_key.ts";
import {
  cString,
  type ErrorFields,
  errorFields,
  eventually,
  frame,
  int32s,
  MockPostgres,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  RawClient,
  Scope,
  serverCertificate,
  sslRequest,
  startupPacket,
} from "./harness.ts";

let scope: Scope;
let primary: Postgres;
let standby: Postgres;

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope);
  for (const user of ["alice", "bob"]) await primary.createRole(user, "secret");
  standby = await primary.createStandby();
}, 300_000);

afterAll(() => scope.close());

const start = (own: Scope, options: Partial<PgpoolOptions>) =>
  Pgpool.create(own, {
    backends: [primary],
    ...options,
    config: { num_init_children: 1, ...options.config },
  });

async function attempt(
  pgpool: Pgpool,
  user: string,
  password: string,
): Promise<ErrorFields | undefined> {
  const client = await RawClient.connect(pgpool.tcp);
  const { error } = await client.login({ user, database: "test", password });
  if (error === undefined) await client.terminate();
  else await client.closed();
  return error;
}

describe("nodes that disagree", () => {
  const trust = "host all all all trust";
  const scram = ["host all postgres all trust", "host all all all scram-sha-256"];

  test.each([
    ["the primary", () => primary],
    ["the standby", () => standby],
  ])("let nobody in by a wrong password when only %s asks for one", async (_, strict) => {
    await using own = new Scope();
    await primary.setHba([trust]);
    await standby.setHba([trust]);
    await strict().setHba(scram);
    const pgpool = await start(own, { backends: [primary, standby], passwd: ["alice:secret"] });
    await eventually(
      () => pgpool.show("pool_nodes"),
      (rows) => rows.every(({ status }) => status === "up"),
    );
    const refused = { M: "authentication failed" };
    expect(await attempt(pgpool, "alice", "wrong")).toMatchObject(refused);
    expect(await attempt(pgpool, "alice", "secret")).toBeUndefined();
    expect(await attempt(pgpool, "alice", "secret")).toBeUndefined();
    await primary.setHba([trust]);
    await standby.setHba([trust]);
  });
});

describe("pool_passwd", () => {
  const hba = ["host all postgres all trust", "host all all all scram-sha-256"];

  test("edited while pgpool runs counts from the next log-in on, pooled or not", async () => {
    await using own = new Scope();
    const pgpool = await start(own, { hba, passwd: ["alice:first"] });
    const write = (text: string) => writeFileSync(join(pgpool.dir, "pool_passwd"), text);
    expect(await attempt(pgpool, "alice", "first")).toBeUndefined();
    write("alice:TEXTsecond\n");
    expect(await attempt(pgpool, "alice", "first")).toMatchObject({ M: "authentication failed" });
    expect(await attempt(pgpool, "alice", "second")).toBeUndefined();
    write("bob:first\n");
    expect(await attempt(pgpool, "alice", "second")).toMatchObject({ M: "authentication failed" });
    expect(await attempt(pgpool, "bob", "first")).toBeUndefined();
  });

  test("with AES entries and no key, or another one, keeps out only those whose entry it is", async () => {
    const aes = encryptPassword(Buffer.from("secret"), derivePoolKey(Buffer.from("the key")));
    const passwd = [`alice:AES${aes}`, "bob:TEXTsecret"];
    const keys: [string | undefined, boolean][] = [
      [undefined, false],
      ["another key", false],
      ["the key", true],
    ];
    for (const [key, opens] of keys) {
      await using own = new Scope();
      const pgpool = await start(own, { hba, passwd, ...(key !== undefined && { key }) });
      const error = await attempt(pgpool, "alice", "secret");
      const detail = "unable to decrypt password from pool_passwd";
      if (opens) expect(error).toBeUndefined();
      else expect(error).toMatchObject({ M: "SCRAM authentication failed", D: detail });
      expect(await attempt(pgpool, "bob", "secret")).toBeUndefined();
    }
  });
});

describe("a log-in that hangs", () => {
  const hba = ["host all postgres all trust", "host all all all scram-sha-256"];
  const begin = startupPacket({ user: "alice", database: "test" });
  const stuck: [string, Uint8Array[], string][] = [
    ["before the start-up packet", [], ""],
    ["in the middle of the start-up packet", [begin.subarray(0, 9)], ""],
    ["before its TLS handshake", [sslRequest], "S"],
    ["at its password", [begin], "R"],
  ];
  test.each(stuck)("%s does not keep pgpool from stopping", async (_, bytes, answer) => {
    await using own = new Scope();
    const { key, cert } = await serverCertificate(scope);
    const config = { ssl: true, ssl_key: key, ssl_cert: cert, log_connections: true };
    const pgpool = await start(own, { hba, passwd: ["alice:secret"], config });
    const before = pgpool.log().split("new connection received").length;
    const client = await RawClient.connect(pgpool.tcp, 20_000);
    client.send(...bytes);
    expect((await client.bytes(answer.length)).toString()).toBe(answer);
    await eventually(() => pgpool.log().split("new connection received").length > before);
    const stoppingAt = performance.now();
    expect(await pgpool.stop("fast")).toBe("exit 0");
    expect(performance.now() - stoppingAt).toBeLessThan(30_000); // authentication_timeout is 60
    client.destroy();
  });

  test("has its whole authentication_timeout after it has waited for a slot", async () => {
    await using own = new Scope();
    const config = { authentication_timeout: 2 };
    const pgpool = await start(own, { hba, passwd: ["alice:secret"], config });
    const holder = await eventually(() =>
      RawClient.login(pgpool.tcp, { user: "postgres", database: "test" }),
    );
    const client = await RawClient.connect(pgpool.tcp, 20_000);
    client.send(begin);
    await holder.rows("SELECT pg_sleep(3)");
    const askedAt = performance.now();
    await holder.terminate();
    expect((await client.next())?.type).toBe("R");
    expect(await client.closed()).toEqual([]);
    expect(performance.now() - askedAt).toBeGreaterThan(1500);
    await pgpool.logged(/authentication timeout/);
  });
});

test("what a server says while it lets a client in reaches that client, once", async () => {
  await using own = new Scope();
  const mock = await MockPostgres.create(own, {
    onLogin: async (session) => {
      const notice = (text: string) =>
        frame("N", cString("SWARNING"), cString(`M${text}`), int32s(0).subarray(3));
      session.send(notice("before"), frame("R", int32s(0)), notice("after"));
    },
  });
  const pgpool = await start(own, { backends: [mock] });
  const notices = async () => {
    const client = await RawClient.connect(pgpool.tcp);
    client.send(startupPacket({ user: "alice", database: "test" }));
    const frames = await client.until("Z", "E");
    await client.terminate();
    return frames.filter(({ type }) => type === "N").map(({ body }) => errorFields(body).M);
  };
  expect(await notices()).toEqual(["before", "after"]);
  expect(await notices()).toEqual([]);
});
