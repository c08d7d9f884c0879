/**
 * Three of our nodes that speak TLS, lead by lease and hold a delegate IP: it is where the leader is,
 * and leaves a leader that dies without being able to help it.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { networkInterfaces, userInfo } from "node:os";
import { connect as connectTls } from "node:tls";
import { decodePacket } from "../../watchdog/wire.ts";
import { Authority } from "./authority.ts";
import { script } from "./failover_stage.ts";
import {
  eventually,
  mustRun,
  Postgres,
  RawClient,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";
import { exchange, WatchdogCluster } from "./watchdog_cluster.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool", "openssl", "ip", "ping");

const octet = () => 1 + Math.floor(Math.random() * 250);
/** On the loopback, so that nobody's network is touched. */
const address = `127.${octet()}.${octet()}.${octet()}`;
const ip = `${userInfo().uid === 0 ? "" : "sudo --non-interactive "}ip`;

let scope: Scope;
let cluster: WatchdogCluster;
let authority: Authority;
let up: ReturnType<typeof script>;
let down: ReturnType<typeof script>;
let escalation: ReturnType<typeof script>;
let deEscalation: ReturnType<typeof script>;

beforeAll(async () => {
  scope = new Scope();
  const primary = await Postgres.create(scope);
  authority = await Authority.create(scope, "watchdogs");
  const own = await authority.issue("a watchdog");
  up = script(scope, "up", `${ip} addr add "$2/32" dev lo`);
  down = script(scope, "down", `${ip} addr del "$2/32" dev lo`);
  escalation = script(scope, "escalation");
  deEscalation = script(scope, "de-escalation");
  cluster = await WatchdogCluster.create(scope, {
    backends: [primary],
    config: {
      listen_addresses: "*",
      wd_authkey: "one secret for all",
      wd_ssl: true,
      wd_ssl_cert: own.cert,
      wd_ssl_key: own.key,
      wd_ssl_ca_cert: authority.cert,
      wd_leader_lease: true,
      delegate_ip: address,
      // Nobody is to be told of an address of the loopback.
      arping_path: "/usr/bin",
      arping_cmd: "true $_IP_$",
    },
    configOf: (id) => ({
      if_up_cmd: `${up.path} node=${id} $_IP_$`,
      if_down_cmd: `${down.path} node=${id} $_IP_$`,
      wd_escalation_command: `${escalation.path} node=${id}`,
      wd_de_escalation_command: `${deEscalation.path} node=${id}`,
    }),
  });
  await cluster.telling(() => cluster.start());
}, 300_000);
afterAll(() => scope.close());

const claim = (title: string, body: () => Promise<void>) =>
  pgTest(title, () => cluster.telling(body), 120_000);

const isHeld = () =>
  Object.values(networkInterfaces()).some((list) => list?.some((each) => each.address === address));

/** By the node that leads, which serves by it. */
async function untilHeldBy(leader: number): Promise<void> {
  await eventually(
    () => up.calls(),
    (calls) => calls.endsWith(`node=${leader} ${address}\n`),
    { deadlineMs: 30_000, what: `node ${leader} to bring up ${address}` },
  );
  await eventually(isHeld, Boolean, { deadlineMs: 30_000, what: `${address} to be there` });
  const { port } = cluster.pgpool(leader);
  const client = await RawClient.login(
    { host: address, port },
    { user: superuser, database: "test" },
  );
  expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  await client.terminate();
}

claim("the leader holds the address, and clients are served by it", async () => {
  const { id: leader } = await cluster.untilAgreed();
  await untilHeldBy(leader);
  await cluster.pgpool(leader).logged(/successfully acquired the delegate IP/, 30_000);
  expect(escalation.calls()).toEndWith(`node=${leader}\n`);
});

claim("an address that somebody took away is brought up again", async () => {
  const before = up.calls();
  await mustRun(["/bin/sh", "-c", `${ip} addr del ${address}/32 dev lo`]);
  await eventually(
    () => up.calls(),
    (calls) => calls.length > before.length,
    {
      deadlineMs: 30_000,
      what: "the leader to notice",
    },
  );
  await untilHeldBy((await cluster.untilAgreed()).id);
});

claim("whoever shows no certificate, or one of another authority, is not let in", async () => {
  const { id: leader } = await cluster.untilAgreed();
  const { wdPort } = cluster.node(leader);
  const hello = new TextEncoder().encode("A\0\0\0\x01\0\0\0\x02{}");
  // Nothing, or the alert of a TLS server that is spoken to in clear.
  expect([undefined, 21]).toContain((await exchange(connect(wdPort, "127.0.0.1"), hello))[0]);
  const forger = await Authority.create(scope, "forger");
  const forged = await forger.issue("a watchdog");
  const own = await authority.issue("a watchdog");
  const read = (files: { readonly cert: string; readonly key: string }) => ({
    cert: readFileSync(files.cert),
    key: readFileSync(files.key),
  });
  expect(await speak(wdPort, hello, {})).toEqual(new Uint8Array(0));
  expect(await speak(wdPort, hello, read(forged))).toEqual(new Uint8Array(0));
  // A certificate alone makes no node either.
  const answer = await speak(wdPort, hello, read(own));
  expect(decodePacket(answer).message).toEqual({ kind: "reject" });
  expect((await cluster.untilAgreed()).id).toBe(leader);
});

claim("a leader that is killed loses the address, and the next one brings it up", async () => {
  const { id: first } = await cluster.untilAgreed();
  const rest = [0, 1, 2].filter((id) => id !== first);
  // It alone, and not what watches over it.
  const before = down.calls();
  cluster.pgpool(first).signal("SIGKILL");
  await eventually(
    () => down.calls().slice(before.length),
    (calls) => calls.endsWith(`node=${first} ${address}\n`),
    {
      deadlineMs: 30_000,
      what: "the address to be taken down by the one that was killed",
    },
  );
  const { id: second } = await cluster.untilAgreed(rest);
  await untilHeldBy(second);
  await cluster.start([first]);
  expect((await cluster.untilAgreed()).id).toBe(second);
});

claim("a leader without a quorum gives the address up, and one that is stopped too", async () => {
  const { id: first } = await cluster.untilAgreed();
  await untilHeldBy(first);
  await cluster.pgpool(first).stop();
  expect(deEscalation.calls()).toEndWith(`node=${first}\n`);
  expect(down.calls()).toEndWith(`node=${first} ${address}\n`);
  const rest = [0, 1, 2].filter((id) => id !== first);
  const { id: second } = await cluster.untilAgreed(rest);
  await untilHeldBy(second);
  const [third = -1] = rest.filter((id) => id !== second);
  await cluster.pgpool(third).kill();
  await eventually(
    () => deEscalation.calls(),
    (calls) => calls.endsWith(`node=${second}\n`),
    {
      deadlineMs: 30_000,
      what: "the leader to give up",
    },
  );
  await eventually(isHeld, (held) => !held, { deadlineMs: 30_000, what: "the address to be gone" });
});

/** Sends by TLS, whoever the server is; resolves to what came back. */
const speak = (
  port: number,
  bytes: Uint8Array,
  own: { readonly cert?: Buffer; readonly key?: Buffer },
): Promise<Uint8Array> =>
  exchange(connectTls({ host: "127.0.0.1", port, rejectUnauthorized: false, ...own }), bytes);
