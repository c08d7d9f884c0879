import { describe, expect, test } from "bun:test";
import {
  carryOut,
  type FailoverEffect,
  type FailoverRequest,
  type FailoverRules,
  isSameRequest,
  refusalOf,
} from "../../../core/cluster/failover.ts";
import {
  type ClusteringMode,
  type ClusterState,
  type NodeId,
  type NodeStatus,
  nodeId,
  withNode,
} from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";

const command = "d=%d h=%h m=%m H=%H M=%M P=%P N=%N";

function rulesOf(changes: Readonly<Record<string, string>> = {}, nodes = 3): FailoverRules {
  const lines = Array.from({ length: nodes }, (_, id) => [
    `backend_hostname${id} = 'h${id}'`,
    `backend_port${id} = ${5000 + id}`,
    `backend_data_directory${id} = '/d${id}'`,
  ]).flat();
  for (const [name, value] of Object.entries(changes)) lines.push(`${name} = '${value}'`);
  const file = "/etc/pgpool.conf";
  const readFile = (path: string) => (path === file ? lines.join("\n") : undefined);
  return loadConfig({ file, readFile, osHostname: "localhost" }).config;
}

const statusOf: { readonly [letter: string]: NodeStatus } = {
  u: "up",
  w: "waiting",
  d: "down",
  q: "quarantine",
  "-": "unused",
};

/** One letter a node; the primary in upper case. */
function cluster(text: string, mode: ClusteringMode = "streaming_replication"): ClusterState {
  const nodes = [...text].map((letter, id) => ({
    id: nodeId(id),
    hostname: `h${id}`,
    port: letter === "-" ? 0 : 5000 + id,
    status: statusOf[letter.toLowerCase()] ?? "unused",
    serverRole: "unknown" as const,
    weight: 1,
    delay: 0,
    delayByTime: false,
    replicationState: "",
    replicationSyncState: "",
    lastStatusChange: 0,
  }));
  const at = [...text].findIndex((letter) => letter !== letter.toLowerCase());
  return { version: 1, mode, nodes, primary: at < 0 ? undefined : nodeId(at) };
}

function shown(state: ClusterState): string {
  const letterOf = (status: NodeStatus) =>
    Object.keys(statusOf).find((letter) => statusOf[letter] === status) ?? "?";
  return state.nodes
    .map(({ id, status }) => {
      const letter = letterOf(status);
      return state.primary === id ? letter.toUpperCase() : letter;
    })
    .join("");
}

/** Every effect in a line; a changed state as it looks then. */
function told(
  request: FailoverRequest,
  before: ClusterState,
  rules: FailoverRules,
  found?: number,
): readonly string[] {
  let state = before;
  const lines: string[] = [];
  const steps = carryOut(request, state, rules);
  let step = steps.next();
  while (step.done !== true) {
    const effect: FailoverEffect = step.value;
    let primary: NodeId | undefined;
    switch (effect.kind) {
      case "log":
        lines.push(effect.message);
        break;
      case "change":
        state = applied(state, effect);
        lines.push(`> ${shown(state)}${state.ongoing === undefined ? "" : ` ${state.ongoing}`}`);
        break;
      case "record":
        lines.push("> record");
        break;
      case "run":
        lines.push(`> run ${effect.text}`);
        break;
      case "find_primary": {
        const { lost } = effect;
        lines.push(`> find${lost ? ` for ${lost.node}${lost.mayReturn ? "" : " for good"}` : ""}`);
        primary = found === undefined ? undefined : nodeId(found);
        break;
      }
      case "follow":
        for (const { node, text } of effect.runs) lines.push(`> follow ${node}: ${text}`);
        break;
    }
    step = steps.next({ state, primary });
  }
  return lines;
}

function applied(
  before: ClusterState,
  change: Extract<FailoverEffect, { readonly kind: "change" }>,
): ClusterState {
  let state = before;
  for (const [id, status] of change.statuses ?? []) state = withNode(state, id, { status }, 0);
  return {
    ...state,
    primary: change.primary === undefined ? state.primary : change.primary.is,
    quarantinedPrimary: change.quarantinedPrimary?.is ?? state.quarantinedPrimary,
    ongoing: change.ongoing === undefined ? state.ongoing : change.ongoing.is,
  };
}

const detach = (...nodes: number[]): FailoverRequest => ({
  kind: "detach",
  nodes: nodes.map(nodeId),
  why: "",
});
const attach = (node: number): FailoverRequest => ({ kind: "attach", node: nodeId(node) });

describe("carryOut, event by event", () => {
  test("a lost standby leaves the primary alone, and the command is told", () => {
    const rules = rulesOf({ failover_command: command });
    expect(told(detach(1), cluster("Uuu"), rules)).toEqual([
      "=== Starting degeneration. shutdown host h1(5001) ===",
      "> Udu failover",
      "> record",
      "> run d=1 h=h1 m=0 H=h0 M=0 P=0 N=h0",
      "> Udu",
      "failover: set new primary node: 0",
      "failover: set new main node: 0",
      "=== Failover done. shutdown host h1(5001) ===",
    ]);
  });

  test("a lost primary is looked for after the command, and standbys follow the new one", () => {
    const rules = rulesOf({ failover_command: command, follow_primary_command: "f %d %m %P" });
    expect(told(detach(0), cluster("Uuu"), rules, 1)).toEqual([
      "=== Starting degeneration. shutdown host h0(5000) ===",
      "> duu failover",
      "> record",
      "> run d=0 h=h0 m=1 H=h1 M=0 P=0 N=h0",
      "> find for 0",
      "starting follow degeneration. shutdown host h2(5002)",
      "> dUd failover",
      "> record",
      "failover: 1 follow backends have been degenerated",
      "> follow 0: f 0 1 0",
      "> follow 2: f 2 1 0",
      "> dUd",
      "failover: set new primary node: 1",
      "failover: set new main node: 1",
      "=== Failover done. shutdown host h0(5000) ===",
    ]);
  });

  test("without a successor nobody follows, and the cluster has no primary", () => {
    const rules = rulesOf({ follow_primary_command: "f %d" });
    expect(told(detach(0), cluster("Uuu"), rules)).toEqual([
      "=== Starting degeneration. shutdown host h0(5000) ===",
      "> duu failover",
      "> record",
      "> find for 0",
      "> duu",
      "failover: set new primary node: -1",
      "failover: set new main node: 1",
      "=== Failover done. shutdown host h0(5000) ===",
    ]);
  });

  test("the last node leaves none behind", () => {
    const rules = rulesOf({ failover_command: command });
    expect(told(detach(2), cluster("ddU"), rules)).toEqual([
      "=== Starting degeneration. shutdown host h2(5002) ===",
      "> ddd failover",
      "> record",
      "failover: no valid backend node found",
      '> run d=2 h=h2 m=-1 H="" M=2 P=2 N=h2',
      "> find for 2",
      "> ddd",
      "failover: set new primary node: -1",
      "failover: set new main node: -1",
      "=== Failover done. shutdown host h2(5002) ===",
    ]);
  });

  test("an operator's word is for good: a primary that answers does not return", () => {
    const request = { kind: "detach", nodes: [nodeId(0)], why: "", byOperator: true } as const;
    expect(told(request, cluster("Uuu"), rulesOf(), 1)).toContain("> find for 0 for good");
  });

  test("what is down already is not lost again", () => {
    expect(told(detach(1), cluster("Udu"), rulesOf())).toEqual([
      "failover: no backends are degenerated",
    ]);
  });

  test("an attached standby is told to its command before the primary is looked for", () => {
    const rules = rulesOf({ failback_command: command });
    expect(told(attach(1), cluster("Udu"), rules, 0)).toEqual([
      "=== Starting fail back. reconnect host h1(5001) ===",
      "> Uwu failback",
      "> record",
      "> run d=1 h=h1 m=0 H=h0 M=0 P=0 N=h0",
      "> find",
      "> Uwu",
      "failover: set new primary node: 0",
      "failover: set new main node: 0",
      "=== Failback done. reconnect host h1(5001) ===",
    ]);
  });

  test("an attached former primary may be the new main node", () => {
    const rules = rulesOf({ failback_command: command });
    expect(told(attach(0), cluster("dUu"), rules, 1)).toContain(
      "> run d=0 h=h0 m=0 H=h0 M=1 P=1 N=h1",
    );
  });

  test("a search in vain does not depose a primary that serves", () => {
    expect(told(attach(1), cluster("Udu"), rulesOf())).toContain(
      "failover: set new primary node: 0",
    );
  });

  test("standbys follow a primary that an operator attaches, but not one that is back by itself", () => {
    const rules = rulesOf({ follow_primary_command: "f %d" });
    expect(told(attach(0), cluster("duu"), rules, 0)).toContain("> follow 1: f 1");
    const back = { ...attach(0), asBefore: true } as const;
    expect(told(back, cluster("duu"), rules, 0)).not.toContain("> follow 1: f 1");
    expect(told(back, cluster("duu"), rules, 2)).toContain("> follow 1: f 1");
  });

  test("an old primary beside its successor is turned away where we promote ourselves", () => {
    const claims = withNode(cluster("dUu"), nodeId(0), { serverRole: "primary" }, 0);
    const rules = rulesOf({ failover_method: "promote" });
    expect(told(attach(0), claims, rules, 1)).toEqual([
      "=== Starting fail back. reconnect host h0(5000) ===",
      "> wUu failback",
      "> record",
      "> find",
      "node 0 is detached again: beside the primary, node 1, it is another",
      "> dUu failback",
      "> record",
      "> dUu",
      "failover: set new primary node: 1",
      "failover: set new main node: 1",
    ]);
    const upstream = told(attach(0), claims, rulesOf(), 1);
    expect(upstream.at(-1)).toBe("=== Failback done. reconnect host h0(5000) ===");
    expect(told(attach(0), cluster("dUu"), rules, 1)).toEqual(upstream);
  });

  test("a live node cannot be attached", () => {
    expect(told(attach(2), cluster("Udu"), rulesOf())).toEqual([
      "invalid failback request, status: [up] of node id : 2 is invalid for failback",
    ]);
  });

  test("promotion moves our idea of the primary, and sets the others down", () => {
    expect(told({ kind: "promote", node: nodeId(1) }, cluster("Uuu"), rulesOf())).toEqual([
      "> uUu promote node operation",
      "starting follow degeneration. shutdown host h0(5000)",
      "starting follow degeneration. shutdown host h2(5002)",
      "> dUd promote node operation",
      "> record",
      "failover: 2 follow backends have been degenerated",
      "> dUd",
      "failover: set new primary node: 1",
      "failover: set new main node: 1",
      "=== Promotion done. promoted host h1(5001) ===",
    ]);
  });

  test("a node that is down is not promoted", () => {
    expect(told({ kind: "promote", node: nodeId(1) }, cluster("Udu"), rulesOf())).toEqual([
      "failover: no backends are promoted",
    ]);
  });

  test("a switchover detaches the primary and names the heir to the command", () => {
    const rules = rulesOf({ failover_command: command });
    const request = { kind: "switchover", node: nodeId(2) } as const;
    expect(told(request, cluster("Uuu"), rules, 2)).toEqual([
      "=== Starting degeneration. shutdown host h0(5000) ===",
      "> duu failover",
      "> record",
      "> run d=0 h=h0 m=2 H=h2 M=0 P=0 N=h0",
      "> find for 0 for good",
      "> duU",
      "failover: set new primary node: 2",
      "failover: set new main node: 1",
      "=== Failover done. shutdown host h0(5000) ===",
    ]);
  });

  test("quarantine runs nothing and writes nothing, and its end restores the primary", () => {
    const rules = rulesOf({ failover_command: command, failback_command: command });
    const request = { kind: "quarantine", nodes: [nodeId(0)], why: "" } as const;
    expect(told(request, cluster("Uuu"), rules)).toEqual([
      "=== Starting quarantine. shutdown host h0(5000) ===",
      "> quu failover",
      "> quu",
      "failover: set new primary node: -1",
      "failover: set new main node: 1",
      "=== Quarantine done. shutdown host h0(5000) ===",
    ]);
    const before = { ...cluster("quu"), quarantinedPrimary: nodeId(0) };
    expect(told({ kind: "restore", node: nodeId(0) }, before, rules)).toEqual([
      "=== Starting fail back. reconnect host h0(5000) ===",
      "> wuu failback",
      "> Wuu",
      "failover: set new primary node: 0",
      "failover: set new main node: 0",
      "=== Failback done. reconnect host h0(5000) ===",
    ]);
  });

  test("where pgpool replicates, a node in quarantine does not come back by itself", () => {
    const before = cluster("uqu", "native_replication");
    expect(told({ kind: "restore", node: nodeId(1) }, before, rulesOf({}))).toEqual([
      "node 1 stays in quarantine: others may have been written to meanwhile: recover it, or attach it when it is known to be the same",
    ]);
    expect(told({ kind: "attach", node: nodeId(1) }, before, rulesOf({}))).toContain(
      "> uwu failback",
    );
  });

  test("a quarantined primary that is lost is the primary to its command", () => {
    const rules = rulesOf({ failover_command: command });
    const before = { ...cluster("quu"), quarantinedPrimary: nodeId(0) };
    expect(told(detach(0), before, rules)).toContain("> run d=0 h=h0 m=1 H=h1 M=1 P=0 N=h0");
  });

  test("in raw mode nobody is looked for: the next node serves", () => {
    const rules = rulesOf({ failover_command: command, follow_primary_command: "f" });
    expect(told(detach(0), cluster("uuu", "raw"), rules)).toEqual([
      "=== Starting degeneration. shutdown host h0(5000) ===",
      "> duu failover",
      "> record",
      '> run d=0 h=h0 m=1 H=h1 M=0 P=-1 N=""',
      "> duu",
      "failover: set new main node: 1",
      "=== Failover done. shutdown host h0(5000) ===",
    ]);
  });

  test.each(["native_replication", "snapshot_isolation", "slony"] as const)(
    "in %s the next node is the main node, and there is no primary to look for",
    (mode) => {
      const rules = rulesOf({ failover_command: command, follow_primary_command: "f" });
      expect(told(detach(0), cluster("uuu", mode), rules)).toEqual([
        "=== Starting degeneration. shutdown host h0(5000) ===",
        "> duu failover",
        "> record",
        '> run d=0 h=h0 m=1 H=h1 M=0 P=-1 N=""',
        "> duu",
        "failover: set new main node: 1",
        "=== Failover done. shutdown host h0(5000) ===",
      ]);
      const back = told(attach(0), cluster("duu", mode), rulesOf({ failback_command: command }));
      expect(back).toEqual([
        "=== Starting fail back. reconnect host h0(5000) ===",
        "> wuu failback",
        "> record",
        "> run d=0 h=h0 m=0 H=h0 M=1 P=1 N=h1",
        "> wuu",
        "failover: set new main node: 0",
        "=== Failback done. reconnect host h0(5000) ===",
      ]);
    },
  );

  test("of several nodes that disagree those are left that may not be detached, or are already", () => {
    const rules = rulesOf({ backend_flag1: "DISALLOW_TO_FAILOVER" });
    const lines = told(detach(0, 1, 2), cluster("uud", "native_replication"), rules);
    expect(lines.filter((line) => line.startsWith("==="))).toEqual([
      "=== Starting degeneration. shutdown host h0(5000) ===",
      "=== Failover done. shutdown host h0(5000) ===",
    ]);
    expect(lines).toContain("> dud");
  });

  test("standbys follow a primary that is found where there was none, but not at the start", () => {
    const rules = rulesOf({ follow_primary_command: "f %d" });
    expect(told(attach(0), cluster("duu"), rules, 0)).toContain("> follow 1: f 1");
    const late = told({ kind: "find", lost: nodeId(0) }, cluster("duu"), rules, 1);
    expect(late).toContain("> follow 2: f 2");
    const first = told({ kind: "find", lost: undefined }, cluster("uuu"), rules, 0);
    expect(first).toEqual(["> find", "> Uuu"]);
  });
});

describe("at the door", () => {
  const flags = { backend_flag1: "DISALLOW_TO_FAILOVER" };
  const rows: readonly [string, FailoverRequest, string, RegExp | undefined][] = [
    ["a live node", detach(0), "Uuu", undefined],
    ["one of two", detach(0, 1), "Uuu", undefined],
    ["a node in quarantine", detach(2), "Uuq", undefined],
    [
      "an unknown node",
      detach(7),
      "Uuu",
      /node id: 7 is out of range. node id must be between \[0 and 128\]$/,
    ],
    [
      "a node that is down",
      detach(2),
      "Uud",
      /^invalid degenerate backend request, node id : 2 status: \[3\] is not valid for failover$/,
    ],
    [
      "a node that may not fail",
      detach(1),
      "Uuu",
      /^degenerate backend request for node_id: 1 from pid \[9\] is canceled because failover is disallowed on the node$/,
    ],
    ["an attachment", attach(2), "Uud", undefined],
    [
      "an attachment of nobody",
      attach(3),
      "Uud",
      /^invalid failback request, node id: 3 is out of range/,
    ],
    [
      "a promotion of nobody",
      { kind: "promote", node: nodeId(3) },
      "Uuu",
      /^node id 3 is not valid$/,
    ],
    [
      "a switchover without a primary",
      { kind: "switchover", node: nodeId(1) },
      "uuu",
      /no primary/,
    ],
    ["a switchover", { kind: "switchover", node: nodeId(1) }, "Uuu", undefined],
  ];
  test.each(rows)("%s", (_, request, text, refusal) => {
    const why = refusalOf(request, cluster(text), rulesOf(flags), 9);
    if (refusal === undefined) expect(why).toBeUndefined();
    else expect(why).toMatch(refusal);
  });

  test("a switchover by promotion is refused: nobody stops the present primary", () => {
    const rules = rulesOf({ failover_method: "promote" });
    const request = { kind: "switchover", node: nodeId(1) } as const;
    expect(refusalOf(request, cluster("Uuu"), rules, 9)).toMatch(/needs failover_command/);
  });

  test("the same is asked twice when kind and nodes are the same", () => {
    expect(isSameRequest(detach(1), { ...detach(1), why: "another" } as FailoverRequest)).toBe(
      true,
    );
    expect(isSameRequest(detach(1), detach(2))).toBe(false);
    expect(isSameRequest(attach(1), { kind: "restore", node: nodeId(1) })).toBe(false);
  });
});
