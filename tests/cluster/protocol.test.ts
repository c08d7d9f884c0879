/**
 * Protocol 3.0 and 3.2 in front of each PostgreSQL of this machine (18 speaks 3.2, 15 does not):
 * negotiation, cancel keys of both lengths, cancel requests, TCP and Unix sockets.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  type Cluster,
  cancelRequest,
  cString,
  eventually,
  everyPostgres,
  frame,
  Pgpool,
  protocolVersion,
  RawClient,
  type RawFrame,
  Scope,
  serverCertificate,
  startCluster,
  startupPacket,
  type Target,
} from "./harness.ts";

const v32 = protocolVersion(3, 2);
const user = "postgres";
const database = "test";

/** All answers to a start-up packet up to ReadyForQuery. */
async function greeting(
  target: Target,
  version: number,
  extra: Record<string, string> = {},
): Promise<RawFrame[]> {
  const client = await RawClient.connect(target);
  client.send(startupPacket({ user, database, ...extra }, version));
  const frames = await client.until("Z", "E");
  await client.terminate();
  return frames;
}

type Negotiated = { readonly minor: number; readonly unknown: readonly string[] };

function negotiated(frames: readonly RawFrame[]): Negotiated | undefined {
  const body = frames.find(({ type }) => type === "v")?.body;
  if (body === undefined) return undefined;
  const unknown = body.toString("utf8", 8).split("\0").slice(0, -1);
  expect(unknown.length).toBe(body.readUInt32BE(4));
  return { minor: body.readUInt32BE(0) & 0xffff, unknown };
}

const keySize = (frames: readonly RawFrame[]) =>
  (frames.find(({ type }) => type === "K")?.body.length ?? 0) - 4;
const types = (frames: readonly RawFrame[]) => frames.map(({ type }) => type).join("");

type Running = {
  readonly client: RawClient;
  readonly pid: number;
  readonly secret: Buffer;
  readonly label: string;
};

/** A session in the middle of a statement that ends only when it is cancelled. */
async function running(target: Target, label: string, version?: number): Promise<Running> {
  const client = await RawClient.connect(target, 20_000);
  const login = { user, database, ...(version && { version }) };
  const { key, error } = await client.login(login);
  if (key === undefined) throw new Error(`no key: ${error?.M}`);
  client.send(frame("Q", cString(`SELECT pg_sleep(60) /* ${label} */`)));
  return { client, label, pid: key.pid, secret: key.secret };
}

async function cancel(target: Target, pid: number, secret: Uint8Array, tls = false): Promise<void> {
  const client = await RawClient.connect(target);
  if (tls) expect(await client.requestTls()).toBe("S");
  client.send(cancelRequest(pid, secret));
  // No answer, ever: the connection just ends.
  expect(await client.closed()).toEqual([]);
}

async function cancelled({ client }: Running): Promise<void> {
  expect(types(await client.until("Z"))).toMatch(/^T?EZ$/);
  expect((await client.rows("SELECT 1 AS one"))[0]).toEqual({ one: "1" });
  await client.terminate();
}

for (const install of await everyPostgres()) {
  const modern = install.major >= 18;

  describe(`in front of PostgreSQL ${install.major}`, () => {
    let scope: Scope;
    let cluster: Cluster;
    let pgpool: Pgpool;
    /** With one slot, which the next client gets only when the last one's connection is pooled. */
    let single: Pgpool;

    beforeAll(async () => {
      scope = new Scope();
      scope.giveToOwner(scope.dir);
      const { key, cert } = await serverCertificate(scope);
      const config = { num_init_children: 6, ssl: true, ssl_key: key, ssl_cert: cert };
      cluster = await startCluster(scope, {
        standbys: 1,
        postgres: { install },
        pgpool: { config },
      });
      pgpool = cluster.pgpool;
      single = await Pgpool.create(scope, {
        backends: cluster.nodes,
        config: { num_init_children: 1 },
      });
      await single.untilServing();
    }, 300_000);
    afterAll(() => scope.close());

    /** Labels of the statements that are still running on any node. */
    async function stillRunning(): Promise<string[]> {
      const found = await Promise.all(
        cluster.nodes.map((node) =>
          node.sql(
            `SELECT substring(query from '/\\* (\\w+) \\*/') AS label FROM pg_stat_activity
              WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'`,
          ),
        ),
      );
      return found
        .flat()
        .map(({ label }) => label ?? "")
        .sort();
    }

    const untilRunning = (...labels: string[]) =>
      eventually(stillRunning, (now) => now.join() === labels.join(), { what: labels.join() });

    test("3.0 gets a key of four bytes and no negotiation", async () => {
      const frames = await greeting(pgpool.tcp, protocolVersion(3, 0));
      expect(types(frames)).toMatch(/^RS+KZ$/);
      expect(keySize(frames)).toBe(4);
    });

    const asked: [string, number, Record<string, string>, Negotiated | undefined][] = [
      ["3.2", v32, {}, modern ? undefined : { minor: 0, unknown: [] }],
      ["3.9998", protocolVersion(3, 9998), {}, { minor: modern ? 2 : 0, unknown: [] }],
      [
        "3.0 with options of tomorrow",
        protocolVersion(3, 0),
        { "_pq_.a": "1", "_pq_.b": "2" },
        { minor: 0, unknown: ["_pq_.a", "_pq_.b"] },
      ],
    ];
    test.each(asked)(
      "%s is answered as the server does, on a pooled connection too",
      async (_, version, extra, expected) => {
        const fresh = await greeting(single.tcp, version, extra);
        const pooled = await greeting(single.tcp, version, extra);
        for (const frames of [fresh, pooled]) {
          expect(types(frames)).toMatch(expected ? /^vRS+KZ$/ : /^RS+KZ$/);
          expect(negotiated(frames)).toEqual(expected);
          const long = modern && (version & 0xffff) >= 2;
          expect(keySize(frames)).toBe(long ? 32 : 4);
        }
        const key = (frames: readonly RawFrame[]) =>
          frames.find(({ type }) => type === "K")?.body.toString("hex");
        expect(key(pooled)).toBe(key(fresh));
        const parameters = (frames: readonly RawFrame[]) =>
          frames
            .filter(({ type }) => type === "S")
            .map(({ body }) => body.toString())
            .sort();
        expect(parameters(pooled)).toEqual(parameters(fresh));
      },
    );

    const ways: [string, number, () => Target, boolean][] = [
      ["3.0 over TCP", protocolVersion(3, 0), () => pgpool.tcp, false],
      ["3.2 over TCP", v32, () => pgpool.tcp, false],
      ["3.2 over TLS", v32, () => pgpool.tcp, true],
      ["3.0 over a Unix socket", protocolVersion(3, 0), () => ({ path: pgpool.socketPath }), false],
      ["3.2 over a Unix socket", v32, () => ({ path: pgpool.socketPath }), false],
    ];
    test.each(ways)("%s, a cancel request reaches its own session", async (_, version, to, tls) => {
      const [a, b, c] = await Promise.all([
        running(to(), "a", version),
        running(to(), "b", version),
        running(to(), "c", version),
      ]);
      await untilRunning("a", "b", "c");
      await cancel(to(), b.pid, b.secret, tls);
      await cancelled(b);
      expect(await stillRunning()).toEqual(["a", "c"]);
      await cancel(to(), c.pid, c.secret, tls);
      await cancelled(c);
      await cancel(to(), a.pid, a.secret, tls);
      await cancelled(a);
    });

    test("a key that is wrong in any way cancels nothing and is in the log", async () => {
      const target = await running(pgpool.tcp, "target");
      await untilRunning("target");
      const { pid, secret } = target;
      const flipped = Buffer.from(
        secret.map((byte, i) => (i === secret.length - 1 ? byte ^ 1 : byte)),
      );
      await cancel(pgpool.tcp, pid, flipped);
      await cancel(pgpool.tcp, pid + 1, secret);
      await cancel(pgpool.tcp, pid, Buffer.concat([secret, Buffer.alloc(28)]));
      await pgpool.logged(new RegExp(`invalid cancel key: pid:${pid} keylen:4`));
      await pgpool.logged(new RegExp(`invalid cancel key: pid:${pid + 1} keylen:4`));
      await pgpool.logged(new RegExp(`invalid cancel key: pid:${pid} keylen:32`));
      expect(pgpool.log()).not.toContain(secret.toString("hex"));
      expect(await stillRunning()).toEqual(["target"]);
      await cancel(pgpool.tcp, pid, secret);
      await cancelled(target);
    });

    test("the key of a session that is over is no good, though its connection lives on", async () => {
      const parameters = { application_name: "handed on" };
      const first = await RawClient.connect(pgpool.tcp);
      const { key } = await first.login({ user, database, parameters });
      if (key === undefined) throw new Error("no key");
      await first.terminate();
      await cancel(pgpool.tcp, key.pid, key.secret);
      await pgpool.logged(new RegExp(`invalid cancel key: pid:${key.pid} keylen`));
    });
  });
}

test("a cancel request is served while every slot is taken", async () => {
  await using scope = new Scope();
  const config = { num_init_children: 1 };
  const { pgpool, primary } = await startCluster(scope, { pgpool: { config } });
  const only = await running(pgpool.tcp, "only");
  const waiting = RawClient.login(pgpool.tcp, { user, database }, 20_000);
  await eventually(
    () => primary.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"),
    ({ length }) => length > 0,
  );
  await cancel(pgpool.tcp, only.pid, only.secret);
  await cancelled(only);
  const next = await waiting;
  expect(await next.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  await next.terminate();
}, 300_000);

test("a server behind a Unix socket is found by its directory", async () => {
  await using scope = new Scope();
  const { primary, pgpool } = await startCluster(scope);
  const behind = await Pgpool.create(scope, {
    backends: [{ host: primary.socketDir, port: primary.port }],
  });
  const address = "SELECT inet_client_addr() AS address";
  expect(await behind.sql(address)).toEqual([{ address: null }]);
  expect(await pgpool.sql(address)).toEqual([{ address: "127.0.0.1" }]);
}, 300_000);
