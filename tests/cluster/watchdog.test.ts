/**
 * Three of our nodes: who leads, who follows when it dies or leaves, what their Unix sockets answer,
 * and what bad bytes do to them, which is nothing.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { decodeText } from "../../core/wire/text.ts";
import { encodeHeartbeat } from "../../watchdog/heartbeat.ts";
import { encodeIpcFrame, encodeIpcRequest, jsonText } from "../../watchdog/ipc.ts";
import { decodePacket, encodePacket } from "../../watchdog/wire.ts";
import type { Config } from "./failover_stage.ts";
import { eventually, Postgres, Scope, testNeeding } from "./harness.ts";
import { exchange, WatchdogCluster } from "./watchdog_cluster.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");
const KEY = "one secret for all";

let scope: Scope;
let cluster: WatchdogCluster;

beforeAll(async () => {
  scope = new Scope();
  const primary = await Postgres.create(scope);
  cluster = await WatchdogCluster.create(scope, {
    backends: [primary],
    config: { wd_authkey: KEY, log_min_messages: "debug1" },
    configOf: (id): Config => (id === 1 ? { child_life_time: 77 } : {}),
    legacy: [2],
  });
  await cluster.telling(() => cluster.start());
}, 300_000);
afterAll(() => scope.close());

const claim = (title: string, body: () => Promise<void>) =>
  pgTest(title, () => cluster.telling(body), 120_000);

/** On whom. */
const untilAgreed = async (): Promise<number> => (await cluster.untilAgreed()).id;

claim(
  "one of three leads, one of them with a file of 4.1; all agree, and each serves",
  async () => {
    const leader = await untilAgreed();
    for (const { pgpool } of cluster.nodes) {
      expect(await pgpool.sql("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      const { stdout } = await pgpool.pcp(["watchdog_info"]);
      for (const node of cluster.nodes) {
        const state = node.id === leader ? "4 LEADER" : "7 STANDBY";
        expect(stdout).toContain(` ${node.pgpool.port} ${node.wdPort} ${state} 0 MEMBER\n`);
      }
    }
  },
);

claim("the leader says whose settings are not its own", async () => {
  const leader = await untilAgreed();
  await cluster
    .pgpool(leader)
    .logged(/configurations value for "child_life_time" on node "127.0.0.1:\d+ .*" is different/);
});

claim("a node that stands still is lost by its heartbeats, and returns", async () => {
  const leader = await untilAgreed();
  const still = (leader + 1) % 3;
  for (const { pgpool } of cluster.nodes) await pgpool.logged(/lifecheck started/, 60_000);
  cluster.pgpool(still).signal("SIGSTOP");
  await cluster.pgpool(leader).logged(/REPORTED BY LIFECHECK/, 60_000);
  cluster.pgpool(still).signal("SIGCONT");
  expect(await untilAgreed()).toBe(leader);
});

claim("the Unix socket answers each command, and lives through what is none", async () => {
  const leader = await untilAgreed();
  const path = cluster.node(leader).ipcPath;
  const ask = async (bytes: Uint8Array) => {
    const reply = await exchange(connect(path), bytes);
    return `${decodeText(reply.subarray(0, 1))} ${jsonText(reply.subarray(5))}`;
  };
  const frame = (letter: string, text: string) =>
    encodeIpcFrame({ letter, body: new TextEncoder().encode(text) });

  expect(await ask(encodeIpcRequest("v", { VarName: "WDState" }, KEY))).toBe(
    '7 {"ValueDataType":1,"ValueData":4}',
  );
  expect(await ask(encodeIpcRequest("3", { NodeID: -1 }, KEY))).toMatch(
    /^7 {"RemoteNodeCount":2,"MemberRemoteNodeCount":2,"NodesRequireForQuorum":2,"QuorumStatus":1,"AliveNodeCount":2,"Escalated":1,/,
  );
  const invalidKey = '6 {"MESSAGE":"authentication failed: invalid KEY"}';
  expect(await ask(encodeIpcRequest("3", { NodeID: -1 }, "another"))).toBe(invalidKey);
  // What the original dies of.
  for (const letter of ["2", "3", "v", "f", "r", "c", "d", "i", "0"]) {
    expect(await ask(frame(letter, "{}"))).toBe(
      '6 {"MESSAGE":"authentication failed: invalid data"}',
    );
  }
  expect(await ask(frame("?", "{}"))).toBe('6 {"MESSAGE":"unknown IPC command type"}');
  const call = `{"IPCAuthKey":"${KEY}","Function":"DEGENERATE_BACKEND_REQUEST","NodeCount":1,"NodeIdList":[0]}`;
  expect(await ask(frame("f", call))).toBe(invalidKey);
  // Longer than any command; half of one; and news that never come.
  expect(await ask(Uint8Array.of(0x33, 0xff, 0xff, 0xff, 0xff))).toBe(" ");
  await exchange(connect(path), encodeIpcRequest("3", { NodeID: -1 }, KEY).subarray(0, 7), 100);
  const patient = `{"IPCAuthKey":"${KEY}"}`;
  expect(await exchange(connect(path), frame("0", patient), 300)).toEqual(new Uint8Array(0));
  expect(await untilAgreed()).toBe(leader);
});

claim("bytes of strangers change nothing: no crash, no other leader", async () => {
  const leader = await untilAgreed();
  const { wdPort, heartbeatPort, pgpool } = cluster.node(leader);
  const header = (letter: string, length: number) => {
    const bytes = new Uint8Array(9);
    bytes[0] = letter.charCodeAt(0);
    new DataView(bytes.buffer).setUint32(5, length);
    return bytes;
  };
  const withBody = (letter: string, text: string) => {
    const body = new TextEncoder().encode(text);
    return Uint8Array.from([...header(letter, body.length), ...body]);
  };
  const info = `{"State":4,"WdPort":${cluster.node((leader + 1) % 3).wdPort},"PgpoolPort":${
    cluster.pgpool((leader + 1) % 3).port
  },"WdPriority":9,"PgpoolNodeId":${(leader + 1) % 3},"NodeName":"x","HostName":"127.0.0.1","VIP":"","SecondsSinceStartup":1,"SecondsSinceCurrentState":1,"QuorumStatus":1,"AliveNodeCount":2,"Escalated":1`;
  const nothing = new Uint8Array(0);
  // Not an ADD NODE: away without a word.
  for (const letter of ["C", "S", "X", "f", "!", "#", "M", "I", "V", "s", "\0"]) {
    expect(await exchange(connect(wdPort, "127.0.0.1"), withBody(letter, `${info}}`))).toEqual(
      nothing,
    );
  }
  // An ADD NODE of somebody who does not know the key, or knows another, is refused.
  for (const key of ["", `,"authkey":"${"0".repeat(64)}"`, ',"authkey":[[]]']) {
    const answer = await exchange(connect(wdPort, "127.0.0.1"), withBody("A", `${info}${key}}`));
    expect(decodePacket(answer).message).toEqual({ kind: "reject" });
  }
  for (const text of ["{}", "{", "[".repeat(9000), '{"State":'.repeat(1000), "\0\0\0"]) {
    const answer = await exchange(connect(wdPort, "127.0.0.1"), withBody("A", text));
    expect(decodePacket(answer).message).toEqual({ kind: "reject" });
  }
  expect(await exchange(connect(wdPort, "127.0.0.1"), header("A", 0xffffffff))).toEqual(nothing);
  expect(await exchange(connect(wdPort, "127.0.0.1"), header("A", 100_000))).toEqual(nothing);
  // Half a packet waits by itself.
  const half = encodePacket({ id: 1, message: { kind: "reject" } }).subarray(0, 5);
  await exchange(connect(wdPort, "127.0.0.1"), half, 50);
  const udp = createSocket("udp4");
  const beat = {
    host: "127.0.0.1",
    pgpoolPort: pgpool.port,
    seconds: 2 ** 32 - 1,
    microseconds: 0,
  };
  for (const bytes of [
    Uint8Array.of(1),
    new Uint8Array(352),
    new Uint8Array(60_000).fill(255),
    encodeHeartbeat(beat, "another key"),
    encodeHeartbeat(beat, ""),
  ]) {
    for (const { heartbeatPort: port } of cluster.nodes) udp.send(bytes, port, "127.0.0.1");
  }
  udp.close();
  expect(heartbeatPort).toBeGreaterThan(0);
  expect(await untilAgreed()).toBe(leader);
  for (const { pgpool: each } of cluster.nodes) {
    expect(each.end).toBeUndefined();
    expect(each.log()).not.toContain(KEY);
    expect(each.log()).not.toContain("internal error");
  }
});

/** How node `by` sees node `id`. */
const untilSeen = (by: number, id: number, word: string) =>
  eventually(
    async () => (await cluster.node(by).view()).split(" ")[id],
    (state) => state === word,
    { what: `node ${id} to be ${word}` },
  );

claim("when the leader is killed another leads; when it returns it follows", async () => {
  const first = await untilAgreed();
  await cluster.pgpool(first).kill();
  const rest = [0, 1, 2].filter((id) => id !== first);
  const { id: second } = await cluster.untilAgreed(rest);
  await untilSeen(second, first, "LOST");
  await cluster.start([first]);
  expect(await untilAgreed()).toBe(second);
});

claim("a leader that is stopped says so, leaves no socket, and another leads", async () => {
  const first = await untilAgreed();
  expect(await cluster.pgpool(first).stop()).toBe("exit 0");
  expect(existsSync(cluster.node(first).ipcPath)).toBe(false);
  const rest = [0, 1, 2].filter((id) => id !== first);
  const { id: second } = await cluster.untilAgreed(rest);
  await untilSeen(second, first, "SHUTDOWN");
  await cluster.pgpool(second).logged(/ is shutting down/);
  await cluster.start([first]);
  expect(await untilAgreed()).toBe(second);
});

claim("an order for the cluster reloads all, and one stops all", async () => {
  const leader = await untilAgreed();
  const asked = (leader + 1) % 3;
  const reload = await cluster.pgpool(asked).pcp(["reload_config", "-s", "cluster"]);
  expect(reload).toMatchObject({ code: 0, stderr: "" });
  for (const { pgpool } of cluster.nodes) await pgpool.logged(/reload config files/);
  const stop = await cluster.pgpool(asked).pcp(["stop_pgpool", "-m", "fast", "-s", "cluster"]);
  expect(stop).toMatchObject({ code: 0, stderr: "" });
  for (const { pgpool } of cluster.nodes) {
    const end = await eventually(() => pgpool.end, Boolean, { deadlineMs: 30_000 });
    expect(end).toBe("exit 0");
  }
});
