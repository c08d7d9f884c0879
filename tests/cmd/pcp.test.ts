/** Options of the pcp programs, and what they say of an answer; no server is asked. */
import { describe, expect, test } from "bun:test";
import { pcpNames } from "../../cmd/classic_names.ts";
import { runCommand } from "../../cmd/options.ts";
import { pcpCommand } from "../../cmd/pcp.ts";
import type { PcpMachine } from "../../cmd/pcp_call.ts";
import {
  healthCheckJson,
  nodeInfoJson,
  processInfoJson,
  watchdogJson,
} from "../../cmd/pcp_json.ts";
import {
  type Manner,
  nodeInfoText,
  poolStatusText,
  processInfoText,
  watchdogText,
} from "../../cmd/pcp_text.ts";
import type { PcpReply } from "../../core/pcp/reply.ts";
import { formatTime } from "../../core/time.ts";

/** Where no server is, and nobody answers. */
const nowhere: PcpMachine = {
  env: {},
  account: () => ({ name: "ann", home: "/nowhere" }),
  prompt: { ask: async () => "" },
};

async function say(program: string, ...args: readonly string[]) {
  let out = "";
  let err = "";
  const exitCode = await runCommand(pcpCommand(program, nowhere), args, {
    program: `pcp_${program}`,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { out, err, exitCode };
}

describe("a wrong command line", () => {
  const hint = (program: string) => `Try "pcp_${program} --help" for more information.\n\n`;
  const missing = (program: string, what: string) =>
    `pcp_${program}: missing ${what}\n${hint(program)}`;
  const cases: [string, readonly string[], string, number][] = [
    ["attach_node", [], missing("attach_node", "node-id"), 1],
    ["detach_node", ["-g"], missing("detach_node", "node-id"), 1],
    ["promote_node", ["-s"], missing("promote_node", "node-id"), 1],
    ["recovery_node", [], missing("recovery_node", "node-id"), 1],
    ["health_check_stats", ["-v"], missing("health_check_stats", "node-id"), 1],
    ["node_info", ["-x"], `pcp_node_info: invalid option -- 'x'\n${hint("node_info")}`, 1],
    [
      "node_info",
      ["-n"],
      `pcp_node_info: option requires an argument -- 'n'\n${hint("node_info")}`,
      1,
    ],
    [
      "node_info",
      ["-n", "-1"],
      'pcp_node_info: Invalid node-id "-1", must be between 0 and 128\n',
      0,
    ],
    ["node_info", ["129"], 'pcp_node_info: Invalid node-id "129", must be between 0 and 128\n', 0],
    [
      "proc_info",
      ["-P", "x"],
      'pcp_proc_info: Invalid process-id "x", must be greater than 0\n',
      0,
    ],
    [
      "watchdog_info",
      ["-n", "-1"],
      'pcp_watchdog_info: Invalid watchdog-id "-1", must be a positive number or zero for a local watchdog node\n',
      0,
    ],
    [
      "node_count",
      ["-p", "1024"],
      'pcp_node_count: Invalid port number "1024", must be between 1024 and 65535\n',
      0,
    ],
    [
      "node_count",
      ["-p", "65536"],
      'pcp_node_count: Invalid port number "65536", must be between 1024 and 65535\n',
      0,
    ],
    [
      "stop_pgpool",
      ["-m", "smartly"],
      'pcp_stop_pgpool: Invalid shutdown mode "smartly", must be either "smart" "immediate" or "fast" \n',
      1,
    ],
    [
      "log_rotate",
      ["-s", "x"],
      'pcp_log_rotate: Invalid command scope "x", must be either "cluster" or "local" \n',
      1,
    ],
  ];
  test.each(cases)("pcp_%s %j says %j", async (program, args, err, exitCode) => {
    expect(await say(program, ...args)).toEqual({ out: "", err, exitCode });
  });

  test("words too many are warned about, and a server that is not there is an error", async () => {
    const { err, exitCode } = await say("node_count", "-w", "-h", "/nowhere", "a", "b");
    expect(exitCode).toBe(1);
    expect(err).toBe(
      ['"a"', '"b"']
        .map((word) => `pcp_node_count: Warning: extra command-line argument ${word} ignored\n`)
        .join("") +
        'ERROR: connection to socket "/nowhere/.s.PGSQL.9898" failed with error "No such file or directory"\n',
    );
  });
});

test("every program tells its options and its version on stderr", async () => {
  for (const name of pcpNames) {
    const help = await say(name, "--help");
    expect([help.out, help.exitCode]).toEqual(["", 0]);
    for (const option of ["-U, --username", "-w, --no-password", "    --json", "-?, --help"]) {
      expect(help.err).toContain(option);
    }
    const { err, exitCode } = await say(name, "-V");
    expect(err).toMatch(new RegExp(`^pcp_${name} \\(pgpool-II\\) \\d+\\.\\d+\\.\\d+\n$`));
    expect(exitCode).toBe(0);
  }
});

const plain: Manner = { verbose: false, all: false };
const verbose: Manner = { verbose: true, all: false };
const all: Manner = { verbose: false, all: true };
const array = (...records: readonly string[]): PcpReply => ({
  texts: [],
  records: records.map((record) => record.split(" ").map((field) => (field === "-" ? "" : field))),
});
const texts = (...fields: readonly string[]): PcpReply => ({ texts: fields, records: [] });
const changed = formatTime(1_795_367_283_000);

describe("nodes", () => {
  const of43 = "h 1 3 1 up 1073741823.5 3 standby 7 - - 1795367283";
  const of44 = "h 1 2 0 up 2147483647 3 standby 1 2500000 streaming sync 1795367283";
  const of42 = "h 1 2 1073741823.5 3 7 - - 1795367283";

  test("have a line each", () => {
    expect(nodeInfoText(array(of43, of44), plain)).toBe(
      `h 1 3 0.500000 quarantine up standby standby 7 none none ${changed}\n` +
        `h 1 2 1.000000 up up standby standby 2.500000 streaming sync ${changed}\n`,
    );
  });
  test("of a server before 4.3 come one at a time and say less", () => {
    expect(nodeInfoText(texts(...array(of42).records.flat()), plain)).toBe(
      `h 1 2 0.500000 up standby 7   ${changed}\n`,
    );
  });
  test("have titles when asked for, and delays their unit", () => {
    const text = nodeInfoText(array(of44), verbose);
    expect(text).toContain("Replication Delay      : 2.500000 seconds\n");
    expect(text).toEndWith(`Last Status Change     : ${changed}\n\n`);
    const less = nodeInfoText(array(of44.replace("2500000", "1500000")), verbose);
    expect(less).toContain(": 1.500000 second\n");
  });
  test("without a host name show with -a", () => {
    const reply = array(of43.replace("h", "-"));
    expect(nodeInfoText(reply, plain)).toBe("No node information available\n\n");
    expect(nodeInfoText(reply, all)).toStartWith(" 1 3");
  });
  test("as JSON have numbers, and null for what is not there", () => {
    expect(nodeInfoJson(array(of43, of44), plain, 0)).toMatchObject([
      { node_id: 0, status: "quarantine", lb_weight: 0.5, replication_state: null },
      { node_id: 1, replication_delay: 2.5, replication_delay_unit: "seconds" },
    ]);
    expect(nodeInfoJson(array(of43), plain, 7)).toMatchObject([{ node_id: 7 }]);
  });
});

describe("processes", () => {
  const row = "42 s 3 0 1 app ann b c d 5 3 0 9 901 1 Idle";
  test("print in their own order, with what the release knows", () => {
    const old = "app ann s 3 3 0 b c 5 d 9 901 1 42 1 Idle";
    expect(processInfoText(array(row), plain)).toBe(`${old}\n`);
    expect(processInfoText(array(`${row} 1 host 4711 SELECT`), plain)).toBe(
      `${old} 1 host 4711 SELECT\n`,
    );
    expect(processInfoText(array("42 app ann 1795367283 1795367283 3 0 9 1 901 1"), plain)).toBe(
      `app ann ${changed} ${changed} 3 0 9 901 1 42 1\n`,
    );
  });
  test("without a connection show with -a, and those that do not exist never", () => {
    const unused = row.replace("app ann", "- -");
    expect(processInfoText(array(unused), plain)).toBe("No process information available\n\n");
    expect(processInfoText(array(unused), all)).toStartWith("  s 3");
    expect(processInfoText(array(unused.replace("42", "-")), all)).toStartWith("No process");
  });
  test("as JSON have numbers and truths", () => {
    expect(processInfoJson(array(`${row} 0 - - -`), plain)).toMatchObject([
      { pool_pid: 42, pool_connected: true, load_balance_node: false, client_host: null },
    ]);
  });
});

test("settings print in two forms", () => {
  const reply: PcpReply = { texts: [], records: [["port", "9999", "where clients come"]] };
  expect(poolStatusText(reply, plain)).toBe(
    "name : port\nvalue: 9999\ndesc : where clients come\n\n",
  );
  expect(poolStatusText(reply, verbose)).toBe(
    "Name [  0]:\tport\nValue:      \t9999\nDescription:\twhere clients come\n\n",
  );
});

test("a health check as JSON counts in numbers, and never is null", () => {
  const fields = ["1", "h", "5432", "up", "standby", "t"].concat(new Array(10).fill("1.5"), "a");
  expect(healthCheckJson(texts(...fields))).toMatchObject({
    node_id: 1,
    hostname: "h",
    last_status_change: "t",
    average_duration: 1.5,
    last_health_check: "a",
    last_failed_health_check: null,
  });
});

describe("the watchdog", () => {
  const node = (at: number, state: number, name: string) => ({
    ...{ ID: at, State: state, StateName: name, Membership: 0, MembershipString: "MEMBER" },
    ...{ NodeName: `127.0.0.1:240${at}0 Linux vm`, HostName: "127.0.0.1", DelegateIP: "Not_Set" },
    ...{ WdPort: 24_002 + at * 10, PgpoolPort: 24_000 + at * 10, Priority: 3 - at },
  });
  const cluster = {
    ...{ RemoteNodeCount: 1, MemberRemoteNodeCount: 1, NodesRequireForQuorum: 2 },
    ...{ QuorumStatus: 1, AliveNodeCount: 1, Escalated: 1, NodeCount: 2 },
    ...{ LeaderNodeName: "127.0.0.1:24000 Linux vm", LeaderHostName: "127.0.0.1" },
  };
  const of = (change: object, ...nodes: readonly object[]): PcpReply =>
    texts(JSON.stringify({ ...cluster, ...change, WatchdogNodes: nodes }));

  test("prints as 4.3 does", () => {
    expect(watchdogText(of({}, node(0, 4, "LEADER"), node(1, 7, "STANDBY")), plain)).toBe(
      `2 2 YES 127.0.0.1:24000 Linux vm 127.0.0.1

127.0.0.1:24000 Linux vm 127.0.0.1 24000 24002 4 LEADER 0 MEMBER
127.0.0.1:24010 Linux vm 127.0.0.1 24010 24012 7 STANDBY 0 MEMBER
`,
    );
  });
  test("prints one column more for 4.8", () => {
    const text = watchdogText(of({}, { ...node(0, 4, "LEADER"), LifecheckStarted: 1 }), plain);
    expect(text).toEndWith(" 0 MEMBER YES\n");
  });
  test("has titles", () => {
    const titles = `Watchdog Cluster Information 
Total Nodes              : 2
Remote Nodes             : 1
Member Remote Nodes      : 1
Alive Remote Nodes       : 1
Nodes required for quorum: 2
Quorum state             : QUORUM EXIST
Local node escalation    : YES
Leader Node Name         : 127.0.0.1:24000 Linux vm
Leader Host Name         : 127.0.0.1

Watchdog Node Information 
Node Name         : 127.0.0.1:24000 Linux vm
Host Name         : 127.0.0.1
Delegate IP       : Not_Set
Pgpool port       : 24000
Watchdog port     : 24002
Node priority     : 3
Status            : 4
Status Name       : LEADER
Membership Status : MEMBER

`;
    expect(watchdogText(of({}, node(0, 4, "LEADER")), verbose)).toBe(titles);
  });
  test.each([
    [0, "QUORUM IS ON THE EDGE"],
    [-1, "QUORUM ABSENT"],
    [-2, "NO LEADER NODE"],
    [9, "UNKNOWN"],
  ])("calls quorum state %d %s", (QuorumStatus, words) => {
    expect(watchdogText(of({ QuorumStatus }), verbose)).toContain(
      `Quorum state             : ${words}\n`,
    );
  });
  test("as JSON has names like all others", () => {
    expect(watchdogJson(of({}, node(0, 4, "LEADER")))).toMatchObject({
      remote_node_count: 1,
      escalated: true,
      nodes: [{ state_name: "LEADER", wd_port: 24_002, lifecheck_started: null }],
    });
  });
});
