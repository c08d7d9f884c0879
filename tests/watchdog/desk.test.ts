import { describe, expect, test } from "bun:test";
import { NO_SECRETS, REQUEST_FLAGS } from "../../watchdog/bodies.ts";
import type { IpcCommand } from "../../watchdog/ipc.ts";
import { STRICT_LEASE } from "../../watchdog/node.ts";
import type { StateName } from "../../watchdog/states.ts";
import { infoOf, nodeIn, Played, START } from "./node.ts";
import { poolConfigOf } from "./simulation/config.ts";

const leading = (more = {}) =>
  new Played(nodeIn({ state: "LEADER", leader: 1, standbys: [0, 2], ...more }));
const standby = (more = {}) => new Played(nodeIn({ state: "STANDBY", leader: 0, ...more }));
const call = (name: string, flags = 1, nodes: readonly number[] = [1]) => ({
  ...NO_SECRETS,
  name,
  flags,
  nodes,
});
const down = call("DEGENERATE_BACKEND_REQUEST");
const ask = (command: IpcCommand) => ({ kind: "ask", client: 9, command }) as const;
const failover = (flags = 1) =>
  ask({ kind: "failover", call: call("DEGENERATE_BACKEND_REQUEST", flags) });

describe("a request about a backend", () => {
  test("of two nodes is done by the leader, which tells the second so", () => {
    const played = leading();
    expect(played.packet(0, { kind: "failover_function", call: down })).toEqual([
      "0<waiting_for_consensus",
      "2<waiting_for_consensus",
      "revote_quarantined",
      "0<BUILDING_CONSENSUS",
    ]);
    expect(played.packet(2, { kind: "failover_function", call: down })).toEqual([
      "failover DEGENERATE_BACKEND_REQUEST 1 flags 3",
      "2<WILL_BE_DONE",
    ]);
  });

  test("that the leader itself completes is done by whoever asked it", () => {
    const played = leading();
    played.packet(0, { kind: "failover_function", call: down });
    expect(played.on(failover())).toEqual(["#9 PROCEED"]);
  });

  test("needs a quorum, and an operator's does not", () => {
    const played = new Played(nodeIn({ state: "LEADER", leader: 1, node: { quorum: -1 } }));
    expect(played.on(failover())).toEqual(["#9 NO_QUORUM"]);
    expect(played.on(failover(REQUEST_FLAGS.confirmed))).toEqual(["#9 PROCEED"]);
  });

  test("goes from a standby to its leader, without the secrets of this host", () => {
    const played = standby();
    const secret = { ...down, sharedKey: 12345, authKey: "secret" };
    expect(played.on(ask({ kind: "failover", call: secret }))).toEqual(["0<failover_function"]);
    expect(played.reply(0, { kind: "failover_result", result: "WILL_BE_DONE" })).toEqual([
      "#9 WILL_BE_DONE",
    ]);
  });

  test.each([
    [
      "a leader that has gone",
      (played: Played) => played.packet(0, { kind: "going_down" }),
      "#9 bad",
    ],
    [
      "a node that leads no more",
      (played: Played) => played.reply(0, { kind: "error" }),
      "#9 LEADER_REJECTED",
    ],
  ])("to %s comes back", (_, happen, word) => {
    const played = standby();
    played.on(failover());
    expect(happen(played)).toContain(word);
  });

  test("that a leader does not answer in five seconds is the end of it", () => {
    const played = standby();
    played.on(failover());
    expect(played.wait(5)).toContain("#9 bad");
    expect(played.node.remotes[0]?.lostReason).toBe("RECEIVE TIMEOUT");
  });

  test.each(["LOST", "SHUTDOWN"] as const)("to a leader that says it is %s comes back", (state) => {
    const played = standby();
    played.on(failover());
    expect(played.info(0, state)).toContain("#9 bad");
    expect(played.node.remotes[0]?.state).toBe(state);
  });

  test("whose answer is lost comes back, though the leader goes on to be heard", () => {
    const played = standby();
    played.on(failover());
    const heard = [1, 2, 3, 4, 5].flatMap(() => [...played.wait(1), ...played.info(0, "LEADER")]);
    expect(heard).toContain("#9 bad");
  });

  test("to somebody who does not lead is an error", () => {
    const message = { kind: "failover_function", call: down } as const;
    expect(standby().packet(2, message)).toEqual(["2<error"]);
  });

  test("that nobody knows is invalid, from near and far", () => {
    const nope = call("NOPE");
    expect(leading().on(ask({ kind: "failover", call: nope }))).toEqual(["#9 INVALID_FUNCTION"]);
    expect(leading().packet(0, { kind: "failover_function", call: nope })).toEqual([
      "0<INVALID_FUNCTION",
    ]);
  });

  test("of a client that has gone is answered to nobody", () => {
    const played = standby();
    played.on(failover());
    const id = played.node.commands[0]?.id;
    played.on({ kind: "client_gone", client: 9 });
    const message = { kind: "failover_result", result: "PROCEED" } as const;
    expect(played.packet(0, message, id)).toEqual([]);
  });
});

describe("a leader whose primary only it cannot reach", () => {
  const view = {
    status: { statuses: [1, 2], primary: -1 },
    quarantined: [0],
    quarantinedPrimary: 0,
  };
  const voted = (backends: typeof view) => {
    const played = leading();
    played.on({ kind: "backends", view: backends });
    played.on(ask({ kind: "failover", call: call("DEGENERATE_BACKEND_REQUEST", 1, [0]) }));
    played.now += 14_000;
    return played;
  };

  test("resigns when nobody has agreed in time, and stands last in the next election", () => {
    const played = voted(view);
    expect(played.wait(1)).toContain("0<#resigning");
    expect([played.node.state, played.node.priority]).toEqual(["JOINING", -1]);
  });

  test("stays if it has another primary by then", () => {
    const played = voted({ ...view, status: { statuses: [1, 2], primary: 1 } });
    played.wait(1);
    expect([played.node.state, played.node.votes.length]).toEqual(["LEADER", 0]);
  });

  test("waits longer where a standby's health check is slower", () => {
    const slow = poolConfigOf(0, 3, 2);
    const config = { ...slow, items: { ...slow.items, health_check_period: 40 } };
    const played = leading();
    played.packet(0, { kind: "config", config });
    expect(played.node.voteTimeoutMs).toBe(40_000);
  });
});

describe("the leader's status of the backends", () => {
  const request = { ...NO_SECRETS, type: "BackendStatus" };

  test("is a standby's to ask for, and the leader's own", () => {
    const command = { kind: "leader_data", request } as const;
    expect(leading().on(ask(command))).toEqual(["#9 ok"]);
    expect(new Played(nodeIn({ state: "JOINING" })).on(ask(command))).toEqual(["#9 in_transition"]);
    const played = standby();
    expect(played.on(ask(command))).toEqual(["0<data_request"]);
    const status = { statuses: [2, 3], primary: 0, nodeName: "n" };
    expect(played.reply(0, { kind: "backend_status", status })).toEqual(["#9 backend_status"]);
  });

  test("is asked for again when no answer has come", () => {
    const played = standby();
    played.on(ask({ kind: "leader_data", request }));
    expect(played.wait(5)).toEqual(["sync_backends", "#9 bad"]);
  });

  test("is told in every state, and nothing else is", () => {
    for (const state of ["LOADING", "STANDBY", "LEADER"] as const satisfies readonly StateName[]) {
      const played = new Played(nodeIn({ state, leader: 0 }));
      expect(played.packet(2, { kind: "data_request", request })).toContain("2<backend_status");
      const other = { ...request, type: "Passwords" };
      expect(played.packet(2, { kind: "data_request", request: other })).toContain("2<error");
    }
  });
});

describe("variables and nodes", () => {
  test.each([
    ["state", leading(), "4"],
    ["quorum", leading(), "1"],
    ["escalated", leading(), "true"],
    ["state", standby(), "7"],
    ["quorum", new Played(nodeIn({ state: "JOINING" })), "-2"],
  ] as const)("%s", (variable, played, value) => {
    expect(played.on(ask({ kind: "variable", variable }))).toEqual([`#9 ${value}`]);
  });

  test("the local node comes first, then the others as they are configured", () => {
    const played = leading();
    const [effect] = played.effects(ask({ kind: "node_list", node: -1 }));
    expect(effect).toMatchObject({
      answer: {
        list: {
          remoteCount: 2,
          memberRemoteCount: 2,
          votesNeeded: 2,
          quorumStatus: 1,
          aliveNodeCount: 2,
          escalated: true,
          leader: { nodeName: "h1:9999 Linux one", hostName: "h1" },
          nodes: [
            { id: 1, state: "LEADER", hostName: "h1", priority: 2 },
            { id: 0, state: "STANDBY", hostName: "h0", priority: 3 },
            { id: 2, state: "STANDBY", hostName: "h2", priority: 1 },
          ],
        },
      },
    });
  });

  test("a node that there is not has no entry", () => {
    const [effect] = leading().effects(ask({ kind: "node_list", node: 7 }));
    expect(effect).toHaveProperty("answer.list.nodes", undefined);
  });
});

describe("a life check's report over the socket", () => {
  test.each([
    [2, "DEAD", "#9 silence"],
    [2, "ALIVE", "#9 silence"],
    [2, undefined, "#9 silence"],
    [7, "DEAD", "#9 bad"],
  ] as const)("of node %d as %s", (node, status, word) => {
    const words = leading().on(ask({ kind: "node_status", node, status, text: "" }));
    expect(words).toContain(word);
  });
});

describe("commands for all", () => {
  const command = (name: string, args: Record<string, string> = {}) => ({
    ...NO_SECRETS,
    name,
    args: Object.entries(args).map(([key, value]) => ({ name: key, value })),
  });
  const lock = (operation: string) =>
    command("APPLY_LOCK_ON_STANDBY", { StandbyLockType: "1", LockingOperation: operation });

  test.each([
    [command("SHUTDOWN_CLUSTER", { mode: "f" }), ["stop_pgpool fast"]],
    [command("SHUTDOWN_CLUSTER"), ["stop_pgpool smart"]],
    [command("SHUTDOWN_CLUSTER", { mode: "x" }), []],
    [command("RELOAD_CONFIG_CLUSTER"), ["reload"]],
    [command("LOGROTATE_CLUSTER"), ["rotate_log"]],
    [command("REELECT_LEADER"), []],
  ])("%o is obeyed", (order, words) => {
    expect(standby().packet(2, { kind: "cluster_command", command: order })).toEqual(words);
  });

  test("are passed on, and what nobody knows is not", () => {
    const passOn = (name: string) => ask({ kind: "cluster_command", command: command(name) });
    expect(standby().on(passOn("RELOAD_CONFIG_CLUSTER"))).toEqual([
      "0<cluster_command",
      "2<cluster_command",
      "#9 ok",
    ]);
    expect(standby().on(passOn("NOSUCH"))).toEqual(["#9 unknown_command"]);
    expect(standby().on(passOn("APPLY_LOCK_ON_STANDBY"))).toEqual(["#9 bad"]);
  });

  test("the leader's lock waits for who holds it here, and a lost leader's goes with it", () => {
    const played = standby();
    const wish = (wanted: boolean) => played.on({ kind: "follow_lock", wanted, client: 5 });
    expect(wish(true)).toEqual(["#5 granted"]);
    played.packet(0, { kind: "cluster_command", command: lock("acquire") });
    expect(played.node.followLock).toEqual({ holder: "local", pending: true });
    wish(false);
    expect(played.node.followLock.holder).toBe("leader");
    expect(wish(true)).toEqual(["#5 not granted"]);
    played.packet(0, { kind: "service", service: "reload_state" });
    played.reply(0, { kind: "accept" });
    expect(wish(true)).toEqual(["#5 granted"]);
  });

  test("a leader that has inherited the lock of the one before is rid of it", () => {
    const played = standby();
    played.packet(0, { kind: "cluster_command", command: lock("acquire") });
    expect(played.node.followLock.holder).toBe("leader");
    played.packet(0, { kind: "going_down" });
    played.info(2, "JOINING", { priority: 1 });
    played.wait(1);
    played.reply(2, { kind: "node_info", info: infoOf(2, "JOINING") });
    played.wait(1);
    expect(played.node.state).toBe("STANDING FOR LEADER");
    played.reply(2, { kind: "accept" });
    played.reply(2, { kind: "accept" });
    expect([played.node.state, played.node.leader]).toEqual(["LEADER", 1]);
    expect(played.node.followLock.holder).toBe("nobody");
  });

  test("whoever joins while standbys are led to a new primary hears of the lock", () => {
    const played = leading();
    const join = () => played.packet(2, { kind: "join_coordinator" });
    expect(join()).toEqual(["2<accept", "2<ask_config"]);
    played.on({ kind: "follow_lock", wanted: true, client: 5 });
    expect(join()).toEqual(["2<accept", "2<ask_config", "2<cluster_command"]);
  });

  test("a lock is not had of a watchdog that is over", () => {
    const played = new Played(nodeIn({ state: "SHUTDOWN" }));
    expect(played.on({ kind: "follow_lock", wanted: true, client: 5 })).toEqual(["#5 bad"]);
  });

  test("a lock is the leader's to ask for", () => {
    const played = standby();
    played.packet(2, { kind: "cluster_command", command: lock("acquire") });
    expect(played.node.followLock.holder).toBe("nobody");
  });
});

describe("with a lease", () => {
  const beacon = {
    kind: "beacon",
    beacon: {
      state: "LEADER",
      startupAge: 9,
      stateAge: 9,
      quorumStatus: 1,
      aliveNodeCount: 2,
      escalated: true,
    },
  } as const;
  const strict = (node: Parameters<typeof nodeIn>[0]) =>
    new Played(nodeIn(node), { lease: STRICT_LEASE });

  test("a standby answers no other leader until its promise is over", () => {
    const played = strict({ state: "STANDBY", leader: 0 });
    expect(played.packet(0, beacon)).toEqual(["0<info STANDBY"]);
    played.node = { ...played.node, leader: 2 };
    played.now += STRICT_LEASE.promiseMs - 1;
    expect(played.packet(2, beacon)).toEqual([]);
    played.now += 1;
    expect(played.packet(2, beacon)).toEqual(["2<info STANDBY"]);
  });

  test("a node that has just started answers none: it may have promised before", () => {
    const played = strict({ state: "STANDBY", leader: 0, node: { startedAt: START - 1000 } });
    expect(played.packet(0, beacon)).toEqual([]);
  });

  test("a leader counts who has answered, and only for so long", () => {
    const played = strict({ state: "LEADER", leader: 1, node: { quorum: -1 } });
    played.packet(2, { kind: "join_coordinator" });
    expect(played.node.quorum).toBe(-1);
    expect(played.reply(2, { kind: "node_info", info: infoOf(2, "STANDBY") })).toContain(
      "escalate",
    );
    played.now += STRICT_LEASE.leaseMs;
    expect(played.on({ kind: "backends", view: played.node.backends })).toContain("de_escalate");
  });

  test("half of the nodes are no majority, whatever else is set, nor are those that are left", () => {
    const changed = {
      lease: STRICT_LEASE,
      halfVotes: true,
      remotes: [{ id: 2, hostname: "h2", wdPort: 1, pgpoolPort: 1 }],
    };
    const node = nodeIn({ state: "LEADER", leader: 1, node: { quorum: -1 } });
    const two = { ...node, remotes: node.remotes.slice(1) };
    const revoked = two.remotes.map(
      (remote) => ({ ...remote, membership: "REVOKED-LOST" }) as const,
    );
    const played = new Played({ ...two, remotes: revoked }, changed);
    played.on({ kind: "backends", view: node.backends });
    expect([played.node.quorum, played.node.escalated]).toEqual([-1, false]);
    const real = new Played({ ...two, remotes: revoked }, { ...changed, lease: undefined });
    expect(real.on({ kind: "backends", view: node.backends })).toContain("escalate");
  });

  test("a leader that was stopped for long decides nothing with what it believed", () => {
    const played = strict({ state: "LEADER", leader: 1, node: { quorum: -1 } });
    played.packet(2, { kind: "join_coordinator" });
    played.reply(2, { kind: "node_info", info: infoOf(2, "STANDBY") });
    played.packet(2, { kind: "failover_function", call: down });
    played.now += 60_000;
    expect(played.packet(0, { kind: "failover_function", call: down })).toContain("0<NO_QUORUM");
  });
});
