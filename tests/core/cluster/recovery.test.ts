/** Whether a node may be recovered, and the words that do it. */
import { describe, expect, test } from "bun:test";
import {
  bytesLacking,
  callSql,
  type History,
  planRecovery,
  programSql,
  remoteStartCommand,
  stageCommand,
} from "../../../core/cluster/recovery.ts";
import { type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import { clusterOf } from "../../proxy/routing/rules.ts";

const down = { status: "down" } as const;
const three = clusterOf([{}, down, { status: "unused" }]);
const native = (nodes: Parameters<typeof clusterOf>[0]) =>
  clusterOf(nodes, { mode: "native_replication", primary: undefined });

describe("a node may be recovered", () => {
  const refusals: readonly [string, ClusterState, number, string][] = [
    ["that is not there", three, 7, "node id 7 is not valid"],
    ["that is the primary", three, 0, "primary server cannot be recovered by online recovery."],
    ["that is unused", three, 2, "node recovery failed, node id: 2 is unused"],
    ["that lives", clusterOf([{}, {}]), 1, "node recovery failed, node id: 1 is alive"],
    ["that lives in native mode", native([{}, {}]), 0, "node recovery failed, node id: 0 is alive"],
    ["without a source", native([down, down]), 1, "there is no live node to recover from"],
    [
      "while a primary is looked for",
      clusterOf([down, {}], { primary: undefined, lostPrimary: nodeId(0) }),
      0,
      "there is no live node to recover from",
    ],
    [
      "in raw mode",
      { ...three, mode: "raw" },
      1,
      "recovery request is only allowed in replication and streaming replication modes.",
    ],
  ];
  test.each(refusals)("not one %s", (_, state, node, why) => {
    let told = "";
    try {
      planRecovery(state, nodeId(node));
    } catch (error) {
      const { message, detail } = error as { message: string; detail?: string };
      told = detail ?? message;
    }
    expect(told).toBe(why);
  });

  test("from the primary, or from the main node while writes are held back", () => {
    expect(planRecovery(clusterOf([{}, down]), nodeId(1))).toEqual({
      node: nodeId(1),
      source: nodeId(0),
      stopsClients: false,
    });
    const switched = clusterOf([down, {}, {}], { primary: nodeId(2) });
    expect(planRecovery(switched, nodeId(0)).source).toBe(nodeId(2));
    expect(planRecovery(native([down, {}]), nodeId(0))).toMatchObject({
      source: nodeId(1),
      stopsClients: true,
    });
  });
});

describe("the scripts", () => {
  const text = [
    "backend_hostname0 = '/tmp'",
    "backend_port0 = 5432",
    "backend_hostname1 = 'host1'",
    "backend_port1 = 5433",
    "backend_data_directory1 = '/var/lib/my data'",
  ].join("\n");
  const { config } = loadConfig({
    file: "/etc/pgpool.conf",
    readFile: (path) => (path === "/etc/pgpool.conf" ? text : undefined),
    osHostname: "localhost",
  });
  const plan = { node: nodeId(1), source: nodeId(0), stopsClients: false };

  test("get what the extension's functions take, a socket's server being local", () => {
    expect(callSql(stageCommand(config, plan, "stage1"))).toBe(
      "SELECT pgpool_recovery('stage1', 'host1', '/var/lib/my data', '5432', 1, '5433', 'localhost')",
    );
    expect(callSql(remoteStartCommand(config, plan))).toBe(
      "SELECT pgpool_remote_start('host1', '/var/lib/my data')",
    );
  });

  test("reach the shell as they are, whatever is in them", () => {
    const command = stageCommand(config, plan, "it's");
    expect(callSql(command)).toStartWith("SELECT pgpool_recovery('it''s', ");
    expect(programSql({ ...command, args: ["$HOME", "a'b", 1] }, "/d")).toBe(
      "COPY (SELECT 1 WHERE false) TO PROGRAM '''/d/it''\\''''s'' ''/d'' ''$HOME'' ''a''\\''''b'' ''1'''",
    );
    expect(programSql(remoteStartCommand(config, plan), "/d")).toBe(
      "COPY (SELECT 1 WHERE false) TO PROGRAM '''/d/pgpool_remote_start'' ''host1'' ''/var/lib/my data'''",
    );
  });
});

describe("a copy that has become a server of its own", () => {
  const source = { inRecovery: false, system: "7", timeline: "00000002", lsn: 1000n, branches: "" };
  const branches = (position: string) =>
    `1\t0/100\tno recovery target specified\n\n2\t${position}\tno recovery target specified\n`;
  const rows: readonly [string, Partial<History>, bigint | undefined][] = [
    ["branched off behind it", { branches: branches("0/3E8") }, 0n],
    ["branched off later", { branches: branches("0/FFFFFF") }, 0n],
    ["branched off too early, and has written since", { branches: branches("0/3E0") }, 8n],
    ["goes on with the same timeline", { timeline: "00000002", lsn: 1001n }, 0n],
    ["stopped before, on the same timeline", { timeline: "00000002", lsn: 900n }, 100n],
    ["is of another system", { system: "8", branches: branches("0/1") }, undefined],
    ["branched off an ancestor", { branches: "1\t0/100\t\n" }, undefined],
    ["has a history of no such form", { branches: "2 tomorrow" }, undefined],
  ];
  test.each(rows)("%s", (_, changes, lacking) => {
    const copy = { ...source, timeline: "00000003", lsn: 99_999n, ...changes };
    expect(bytesLacking(source, copy)).toBe(lacking);
  });

  test("cannot be judged where the source told nothing", () => {
    expect(bytesLacking({ ...source, lsn: undefined }, source)).toBeUndefined();
  });
});
