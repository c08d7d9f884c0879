/** What each request comes to: the deed, the answer, or the refusal in Pgpool's words. */

import { describe, expect, test } from "bun:test";
import { RecoveryFailed } from "../../core/cluster/recovery.ts";
import { type ClusteringMode, type NodeStatus, nodeId } from "../../core/cluster/state.ts";
import { ConfigError } from "../../core/errors.ts";
import { PcpError } from "../../core/pcp/frame.ts";
import { decodeNodeRecord } from "../../core/pcp/records.ts";
import { type PcpReply, ReplyReader } from "../../core/pcp/reply.ts";
import type { PcpRequest } from "../../core/pcp/request.ts";
import { productVersion } from "../../core/version.ts";
import { AT, cluster } from "../core/admin/views.ts";
import { type Deed, type Peer, Stage } from "./stage.ts";

const node = (kind: "attach_node" | "recovery_node", argument: string) => ({ kind, argument });
const detach = (argument: string, gracefully = false) =>
  ({ kind: "detach_node", argument, gracefully }) as const;
const promote = (argument: string, switchover = false, gracefully = false) =>
  ({ kind: "promote_node", argument, switchover, gracefully }) as const;

type Given = {
  readonly mode?: ClusteringMode;
  readonly status?: NodeStatus;
  readonly busy?: string;
  readonly cached?: boolean;
};

/** Node 0 is the primary; `status` is of node 1. */
function stageOf({ mode = "streaming_replication", status = "up", busy, cached }: Given): Stage {
  const nodes = cluster.nodes.map((one) => (one.id === nodeId(1) ? { ...one, status } : one));
  return new Stage({
    view: { cluster: { ...cluster, mode, nodes } },
    config: { memory_cache_enabled: cached ?? false },
    desk: { busyWith: () => busy },
  });
}

const id = (n: number) => nodeId(n);
const deeds: [PcpRequest, Given, Deed, string][] = [
  [node("attach_node", "1"), { status: "down" }, ["attach", id(1)], "c"],
  [node("attach_node", "1"), {}, ["attach", id(1)], "c"],
  [detach("1"), {}, ["detach", id(1)], "d"],
  [detach("1"), { status: "quarantine" }, ["detach", id(1)], "d"],
  [detach("1", true), {}, ["detach", id(1)], "d"],
  [promote("1"), {}, ["promote", id(1)], "d"],
  [promote("1", true, true), {}, ["promote", id(1)], "d"],
  [node("recovery_node", "1"), { status: "down" }, ["recover", id(1)], "c"],
  [
    node("recovery_node", "1"),
    { status: "down", mode: "snapshot_isolation" },
    ["recover", id(1)],
    "c",
  ],
  [{ kind: "reload", scope: "cluster" }, {}, ["reload", "cluster"], "z"],
  [{ kind: "rotate_log", scope: "local" }, {}, ["rotate", "local"], "v"],
  [{ kind: "invalidate_cache" }, { cached: true }, ["invalidate"], "g"],
  [{ kind: "stop", scope: "local", mode: "s" }, {}, ["stop", "smart", "local"], "t"],
  [{ kind: "stop", scope: "cluster", mode: "f" }, {}, ["stop", "fast", "cluster"], "t"],
  [{ kind: "stop", scope: "local", mode: "i" }, {}, ["stop", "immediate", "local"], "t"],
];

test.each(deeds)("%j with %j is done: %j", async (request, given, deed, letter) => {
  const stage = stageOf(given);
  const peer = await stage.logIn();
  await peer.say(request);
  expect(peer.heard()).toEqual([letter]);
  expect(stage.deeds.map((done) => done.slice(0, deed.length))).toEqual([[...deed]]);
});

test("options reach the desk", async () => {
  const stage = stageOf({});
  const peer = await stage.logIn();
  await peer.say(detach("1", true), promote("1", true, false), promote("1", false, true));
  expect(stage.deeds.map(([, , options]) => options)).toMatchObject([
    { gracefully: true },
    { gracefully: false, switchover: true },
    { gracefully: true, switchover: false },
  ]);
});

const range = (n: number) =>
  `ERROR | invalid failback request, node id: ${n} is out of range. node id must be between [0 and 128]`;
const refusals: [PcpRequest, Given, string][] = [
  [node("attach_node", "200"), {}, range(200)],
  [node("attach_node", "7"), {}, range(7)],
  [node("attach_node", "-1"), {}, range(-1)],
  [node("attach_node", "1"), { status: "unused" }, range(1)],
  [
    node("attach_node", "1"),
    { mode: "raw" },
    "ERROR | invalid failback request, node id : 1 status: [2] not valid for failback",
  ],
  [promote("9"), {}, "ERROR | could not process promote request | node id 9 is not valid"],
  [promote("1"), { mode: "raw" }, "FATAL | invalid pgpool mode for process promote request"],
  [
    promote("0"),
    {},
    "FATAL | invalid promote request | specified node is already primary node, can't promote node id 0",
  ],
  [
    node("recovery_node", "1"),
    { status: "down", busy: "failover is in progress" },
    "ERROR | failed to process PCP request at the moment | failover is in progress",
  ],
  [
    { kind: "stop", scope: "local", mode: "s" },
    { busy: "failback is in progress" },
    "ERROR | failed to process PCP request at the moment | failback is in progress",
  ],
  [
    { kind: "stop", scope: "local", mode: "x" },
    {},
    'ERROR | PCP: error while processing shutdown request | invalid shutdown mode "x"',
  ],
  [{ kind: "invalidate_cache" }, {}, "ERROR | query cache is not enabled"],
  [
    { kind: "node_info", argument: "9" },
    {},
    "ERROR | informing node info failed | invalid node ID : 9",
  ],
  [
    { kind: "node_info", argument: "-2" },
    {},
    "ERROR | informing node info failed | invalid node ID : -2",
  ],
  [
    { kind: "health_check_stats", argument: "9" },
    {},
    "ERROR | informing health check stats info failed | invalid node ID 9",
  ],
  [
    { kind: "health_check_stats", argument: "2" },
    {},
    "ERROR | informing health check stats info failed | stats data for node ID 2 does not exist",
  ],
  [
    { kind: "process_info", argument: "99" },
    {},
    "ERROR | informing process info failed | invalid process ID : 99",
  ],
];

test.each(refusals)("%j with %j is refused: %s", async (request, given, said) => {
  const stage = stageOf(given);
  const peer = await stage.logIn();
  await peer.say(request);
  expect(peer.heard()).toEqual([`E ${said}`]);
  expect(stage.deeds).toEqual([]);
  expect(peer.ended).toBe(said.startsWith("FATAL"));
});

test("what the desk refuses is told, and the connection goes on", async () => {
  const refuse = async () => {
    throw new PcpError("clients did not leave in time", { detail: "one is left" });
  };
  const reload = async () => {
    throw new ConfigError("reload failed");
  };
  const peer = await new Stage({ desk: { detachNode: refuse, reload } }).logIn();
  await peer.say(detach("200"), { kind: "reload", scope: "local" }, { kind: "node_count" });
  expect(peer.heard()).toEqual([
    "E ERROR | clients did not leave in time | one is left",
    "E ERROR | reload failed",
    "l",
  ]);
});

test("a refusal that is FATAL ends the connection, whoever made it", async () => {
  const message = "pgpool-II is already processing another recovery request.";
  const recoverNode = async () => {
    throw new RecoveryFailed(message, undefined, "FATAL");
  };
  const peer = await new Stage({ desk: { recoverNode } }).logIn();
  await peer.say(node("recovery_node", "1"), { kind: "node_count" });
  expect(peer.heard()).toEqual([`E FATAL | ${message}`]);
  expect(peer.ended).toBe(true);
});

describe("facts", () => {
  async function ask(stage: Stage, request: PcpRequest): Promise<PcpReply | undefined> {
    const peer: Peer = await stage.logIn();
    await peer.say(request);
    const reader = new ReplyReader();
    let reply: PcpReply | undefined;
    for (const frame of peer.received()) reply = reader.add(frame);
    return reply;
  }

  test("nodes, in the layout that is configured", async () => {
    for (const [layout, size] of [
      ["4.3", 14],
      ["4.4", 13],
    ] as const) {
      const stage = new Stage({ config: { pcp_node_info_layout: layout } });
      const reply = await ask(stage, { kind: "node_info", argument: "-1" });
      expect(reply?.records.map((record) => record.length)).toEqual([size, size]);
      expect(reply?.records.map(decodeNodeRecord)).toMatchObject([
        { port: 25_001, status: 2, weight: 0.25, role: 2, pgStatus: "up", delay: 0 },
        { port: 25_002, role: 3, delay: 1_500_000, replicationState: "streaming" },
      ]);
    }
  });

  test("one node; what is no number is node 0", async () => {
    for (const [argument, port] of [
      ["1", 25_002],
      ["xyz", 25_001],
    ] as const) {
      const reply = await ask(new Stage(), { kind: "node_info", argument });
      expect(reply?.records.map(decodeNodeRecord)).toMatchObject([{ port }]);
    }
  });

  test("every place of every process, or of one", async () => {
    const all = await ask(new Stage(), { kind: "process_info", argument: "0" });
    expect(all?.records.length).toBe(2 * 2 * 2);
    const one = await ask(new Stage(), { kind: "process_info", argument: "500" });
    expect(one?.records.length).toBe(4);
    expect(one?.records.every((record) => record.length === 21 && record[0] === "500")).toBe(true);
    expect(one?.records[3]?.at(-1)).toBe("SELECT 1");
  });

  test("processes by number, counts, health checks", async () => {
    const list = await ask(new Stage(), { kind: "process_list" });
    expect(list?.texts).toEqual(["2", "500", "501"]);
    const health = await ask(new Stage(), { kind: "health_check_stats", argument: "1" });
    expect(health?.texts.length).toBe(20);
    expect(health?.texts.slice(0, 5)).toEqual(["1", "127.0.0.1", "25002", "up", "standby"]);
  });

  test("settings, and no secret among them", async () => {
    const reply = await ask(new Stage(), { kind: "pool_status" });
    expect(reply?.records.length).toBeGreaterThan(150);
    expect(reply?.records.every((record) => record.length === 3)).toBe(true);
    expect(JSON.stringify(reply?.records)).not.toContain("secret");
  });

  test("what only ours tells: its life and the last events", async () => {
    const events = [
      { at: AT, node: nodeId(1), text: "node 1 is down, was up" },
      { at: AT + 1999, node: undefined, text: "no primary" },
    ];
    const reply = await ask(new Stage({ desk: { events: () => events } }), { kind: "status" });
    const at = AT / 1000;
    const own = [productVersion, String(at), "streaming_replication"];
    const told = [String(at), "1", "node 1 is down, was up", String(at + 1), "", "no primary"];
    expect(reply?.texts).toEqual([...own, ...told]);
  });

  test("watchdog, by number", async () => {
    const reply = await ask(new Stage(), { kind: "watchdog_info", argument: "-1" });
    expect(reply?.texts).toEqual(['{"id":-1}']);
  });

  test("the end of recovery is accepted and not answered", async () => {
    const peer = await new Stage().logIn();
    await peer.say({ kind: "stop_recovery" }, { kind: "node_count" });
    expect(peer.heard()).toEqual(["l"]);
  });
});
