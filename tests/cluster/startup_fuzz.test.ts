/**
 * Anything at all as a client's first bytes, against the live port for a few seconds: the process
 * lives, its memory is bounded, nothing hangs, and a client beside it is served. A failure prints
 * its seed; PGPOOL_FUZZ_SEED runs it again, PGPOOL_FUZZ_MS runs longer.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { randomOf } from "../random.ts";
import {
  cancelRequest,
  cString,
  eventually,
  frame,
  int32s,
  Ledger,
  monitor,
  Pgpool,
  Postgres,
  protocolVersion,
  RawClient,
  Scope,
  serverCertificate,
  sslRequest,
  startupPacket,
} from "./harness.ts";

const { PGPOOL_FUZZ_SEED, PGPOOL_FUZZ_MS } = process.env;
const seed = Number(PGPOOL_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const budgetMs = Number(PGPOOL_FUZZ_MS ?? 4000);
const gssRequest = int32s(8, 80877104);

let scope: Scope;
let server: Postgres;
let pgpool: Pgpool;

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope);
  await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN`);
  const { key, cert } = await serverCertificate(scope);
  pgpool = await Pgpool.create(scope, {
    backends: [server],
    passwd: ["alice:secret"],
    hba: [
      "host all postgres all trust",
      `host all ${monitor} all trust`,
      "host all alice all scram-sha-256",
      "host all bob all md5",
      "host all all all password",
    ],
    config: {
      ...{ ssl: true, ssl_key: key, ssl_cert: cert },
      ...{ num_init_children: 8, max_pool: 2, authentication_timeout: 1, sr_check_user: monitor },
    },
  });
  await pgpool.untilServing();
}, 300_000);

afterAll(() => scope.close());

type Random = () => number;
const pick = <T>(random: Random, all: readonly T[]): T => {
  const found = all[Math.floor(random() * all.length)];
  if (found === undefined) throw new Error("nothing to pick from");
  return found;
};
const noise = (random: Random, size: number) =>
  Buffer.from(Array.from({ length: size }, () => Math.floor(random() * 256)));

const lengths = [
  0,
  1,
  3,
  4,
  7,
  8,
  9,
  16,
  10_004,
  10_005,
  65_536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
];
const users = ["alice", "bob", "carol", "postgres", "", "n".repeat(9000), "é\u0000"];
const options = ["-c=", "-c a=b", "-c search_path=x\\", "--=", "-c=".repeat(2000), "\\", ""];

const makers: ((random: Random) => Buffer)[] = [
  (random) => noise(random, Math.floor(random() * 200)),
  (random) => noise(random, 20_000),
  (random) => Buffer.concat([int32s(pick(random, lengths)), noise(random, 40)]),
  (random) => Buffer.concat([int32s(8, pick(random, [80877102, 80877105, 0, 0x20000, 0x40000]))]),
  (random) =>
    startupPacket(
      { user: pick(random, users), database: pick(random, users), options: pick(random, options) },
      protocolVersion(3, pick(random, [0, 2, 99, 65_535])),
    ),
  () => startupPacket({ user: "n".repeat(65_536), database: "d".repeat(65_536) }),
  (random) => startupPacket({ user: "postgres", database: "test", options: pick(random, options) }),
  (random) => startupPacket({ user: "postgres", [pick(random, ["replication", "_pq_.x"])]: "on" }),
  (random) => cancelRequest(1, noise(random, Math.floor(random() * 300))),
  () => sslRequest,
  () => gssRequest,
  (random) => Buffer.concat([Buffer.from([0x16, 3, 1]), noise(random, 300)]),
  (random) => frame(pick(random, ["p", "Q", "X", "\0", "\xff"]), noise(random, 30)),
  () => frame("p", cString("SCRAM-SHA-256"), int32s(8), Buffer.from("n,,n=,r=")),
  () => Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
];

/** One to four of them, some with a few bytes changed, some cut, in one write or in several. */
function conversation(random: Random): Buffer[] {
  const parts: Buffer[] = [];
  for (let left = 1 + Math.floor(random() * 4); left > 0; left--) {
    const bytes = Buffer.from(pick(random, makers)(random));
    if (random() < 0.3 && bytes.length > 0) {
      bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    }
    parts.push(random() < 0.2 ? bytes.subarray(0, Math.floor(random() * bytes.length)) : bytes);
  }
  return random() < 0.5 ? [Buffer.concat(parts)] : parts;
}

/** Says its bytes; then vanishes, says that it is done, or waits to be let go. */
async function converse(random: Random): Promise<void> {
  const client = await RawClient.connect(pgpool.tcp, 15_000);
  const said = conversation(random);
  for (const bytes of said) client.send(bytes);
  // One whom the rules let in would never be let go.
  const mayStay = said.some((bytes) => bytes.includes("postgres"));
  const ending = random();
  if (ending < 0.3) client.destroy();
  else if (ending < 0.9 || mayStay) client.end();
  await client.bytes(2 ** 30).finally(() => client.destroy());
}

function residentMb(pid: number): number {
  const status = `/proc/${pid}/status`;
  if (!existsSync(status)) return 0;
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(status, "utf8"))?.[1]) / 1024;
}

describe(`random first bytes (seed ${seed})`, () => {
  test(
    "end, or are let go by the timeout, while another client is served",
    async () => {
      const ledger = await Ledger.open(pgpool, server);
      const random = randomOf(seed);
      const before = residentMb(pgpool.pid);
      const until = performance.now() + budgetMs;
      let count = 0;
      let slowestMs = 0;
      // Longer where little is done in that time.
      const isOver = () =>
        performance.now() >= until && (count > 20 || performance.now() >= until + 60_000);
      const attacker = async () => {
        while (!isOver()) {
          await converse(randomOf(Math.floor(random() * 2 ** 31)));
          count++;
        }
      };
      const witness = async () => {
        while (!isOver()) {
          const askedAt = performance.now();
          expect(await ledger.bystander.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
          slowestMs = Math.max(slowestMs, performance.now() - askedAt);
        }
      };
      await Promise.all([witness(), ...Array.from({ length: 6 }, attacker)]);
      expect(count).toBeGreaterThan(20);
      expect(slowestMs).toBeLessThan(30_000);
      expect(pgpool.end).toBeUndefined();
      await eventually(
        () => residentMb(pgpool.pid),
        (now) => now < before + 150,
        {
          what: `memory to be near ${before} MB`,
        },
      );
      expect(pgpool.log()).not.toContain("internal error");
      await ledger.balanced();
      await ledger.close();
    },
    budgetMs + 60_000,
  );
});

test("connections that promise two gigabytes each take no memory for it", async () => {
  const before = residentMb(pgpool.pid);
  const promises = Array.from({ length: 200 }, async (_, i) => {
    const client = await RawClient.connect(pgpool.tcp, 20_000);
    const login = startupPacket({ user: "alice", database: "test" });
    client.send(i % 2 ? int32s(0x7fffffff) : login);
    if (i % 2 === 0) client.send(Buffer.from("p"), int32s(0x7fffffff));
    await client.bytes(2 ** 30);
  });
  await Promise.all(promises);
  expect(residentMb(pgpool.pid) - before).toBeLessThan(100);
  await pgpool.untilServing();
}, 300_000);
