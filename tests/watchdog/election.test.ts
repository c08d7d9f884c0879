import { describe, expect, test } from "bun:test";
import type { StateName } from "../../watchdog/states.ts";
import type { ReceivedMessage } from "../../watchdog/wire.ts";
import { infoOf, nodeIn, Played, START } from "./node.ts";

const bare = (
  kind: "stand_for_coordinator" | "declare_coordinator" | "join_coordinator" | "reject",
) => ({ kind }) as const satisfies ReceivedMessage;
const stand = bare("stand_for_coordinator");
const declare = bare("declare_coordinator");

/** Node 1 has priority 2, node 0 has 3, node 2 has 1 (spec watchdog/states.md section 3). */
describe("a candidate's word", () => {
  test.each<[StateName, number, ReceivedMessage, string | undefined, StateName]>([
    ["LOADING", 0, stand, "0<accept", "PARTICIPATING IN ELECTION"],
    ["LOADING", 2, stand, "2<reject", "STANDING FOR LEADER"],
    ["JOINING", 0, stand, "0<accept", "PARTICIPATING IN ELECTION"],
    ["JOINING", 2, stand, "2<reject", "STANDING FOR LEADER"],
    ["INITIALIZING", 0, stand, undefined, "INITIALIZING"],
    ["INITIALIZING", 0, declare, undefined, "INITIALIZING"],
    ["STANDING FOR LEADER", 0, stand, "0<accept", "PARTICIPATING IN ELECTION"],
    ["STANDING FOR LEADER", 2, stand, "2<reject", "STANDING FOR LEADER"],
    ["STANDING FOR LEADER", 0, declare, "0<accept", "JOINING"],
    ["STANDING FOR LEADER", 2, declare, "2<reject", "STANDING FOR LEADER"],
    ["PARTICIPATING IN ELECTION", 0, stand, "0<accept", "PARTICIPATING IN ELECTION"],
    ["PARTICIPATING IN ELECTION", 2, stand, "2<reject", "STANDING FOR LEADER"],
    ["PARTICIPATING IN ELECTION", 0, declare, "0<accept", "INITIALIZING"],
    ["PARTICIPATING IN ELECTION", 2, declare, "2<reject", "STANDING FOR LEADER"],
    ["LEADER", 0, stand, "0<reject", "LEADER"],
    ["LEADER", 0, declare, "0<error", "LEADER"],
    ["STANDBY", 2, stand, "2<error", "STANDBY"],
    ["STANDBY", 2, declare, "2<error", "STANDBY"],
    ["STANDBY", 0, declare, "0<accept", "STANDBY"],
    ["NETWORK ISOLATION", 0, stand, undefined, "NETWORK ISOLATION"],
  ])("%s hears node %d %o", (state, from, message, reply, next) => {
    const leader = state === "STANDBY" ? 0 : state === "LEADER" ? 1 : undefined;
    const played = new Played(nodeIn({ state, ...(leader === undefined ? {} : { leader }) }));
    const words = played.packet(from, message);
    const answers = words.filter((word) => /<(accept|reject|error)$/.test(word));
    expect(answers).toEqual(reply === undefined ? [] : [reply]);
    expect(played.node.state).toBe(next);
  });

  test.each<[string, number, string]>([
    ["who started later gives way", -5000, "0<accept"],
    ["who started earlier stays", 5000, "0<reject"],
    ["in the same second both stay", 0, "0<reject"],
  ])("of equals, %s", (_, laterMs, reply) => {
    const node = nodeIn({ state: "STANDING FOR LEADER" });
    const remotes = node.remotes.map((remote) => ({
      ...remote,
      priority: 2,
      startedAt: node.startedAt + laterMs,
    }));
    expect(new Played({ ...node, remotes }).packet(0, stand)).toContain(reply);
  });
});

describe("a leader is lost", () => {
  test.each<[string, boolean, boolean, boolean]>([
    ["whose host refuses our calls", true, true, true],
    ["that is only out of sight", false, true, false],
    ["whose host refuses, but which was given up for its silence", true, false, false],
  ])("%s", (_, refused, closes, isAnswered) => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }));
    played.wait(20);
    played.packet(2, { kind: "request_info" });
    if (closes) played.on({ kind: "outbound_closed", node: 0 });
    else played.on({ kind: "lifecheck", node: 0, alive: false });
    played.on({ kind: "outbound_failed", node: 0, refused });
    played.packet(2, { kind: "node_info", info: infoOf(2, "JOINING") });
    played.wait(4);
    expect(played.node.state).toBe("INITIALIZING");
    played.packet(2, { kind: "node_info", info: infoOf(2, "STANDING FOR LEADER") });
    played.packet(2, stand);
    // What it will say is theirs to see who wait for it; a leader out of sight gains four seconds.
    expect(played.wait(1).includes("2<reject")).toBe(isAnswered);
  });
});

describe("a candidate's word while a node is initializing", () => {
  test.each<[number, ReceivedMessage, string]>([
    [0, stand, "0<accept"],
    [2, stand, "2<reject"],
    [0, declare, "0<accept"],
  ])("node %d %o is answered when it is done", (from, message, reply) => {
    const played = new Played(nodeIn({ state: "INITIALIZING", node: { timerAt: START } }));
    const remotes = played.node.remotes.map((remote) =>
      remote.id === from ? { ...remote, state: "STANDING FOR LEADER" as const } : remote,
    );
    played.node = { ...played.node, remotes };
    expect(played.packet(from, message)).not.toContain(reply);
    expect(played.wait(1)).toContain(reply);
  });
});

describe("the way to leadership", () => {
  test("alone it takes fifteen seconds, and there is no quorum", () => {
    const remotes = { state: "DEAD", outbound: "closed" } as const;
    const played = new Played(nodeIn({ state: "DEAD", remotes }));
    expect(played.on({ kind: "start" })).toEqual(["dial 0", "dial 2"]);
    for (const node of [0, 2]) played.on({ kind: "outbound_failed", node, refused: true });
    played.wait(5);
    expect(played.node.state).toBe("JOINING");
    played.wait(4);
    expect(played.node.state).toBe("INITIALIZING");
    played.wait(1);
    expect([played.node.state, played.node.leader]).toEqual(["LEADER", undefined]);
    const words = played.wait(4);
    expect(words).toContain("state_changed");
    expect(words).not.toContain("escalate");
    expect([played.node.leader, played.node.quorum]).toEqual([1, -1]);
  });

  test("a standby makes a majority, and with it the delegate IP comes", () => {
    const played = new Played(nodeIn({ state: "LEADER", leader: 1, node: { quorum: -1 } }));
    expect(played.packet(2, bare("join_coordinator"))).toEqual([
      "2<accept",
      "2<ask_config",
      "escalate",
      "0<info LEADER",
      "2<info LEADER",
      "quorum_changed",
    ]);
  });

  test("all accept: it declares itself; all accept that: it leads", () => {
    const played = new Played(nodeIn({ state: "INITIALIZING", node: { timerAt: START + 1000 } }));
    expect(played.wait(1)).toEqual([
      "0<stand_for_coordinator",
      "2<stand_for_coordinator",
      "0<info STANDING FOR LEADER",
      "2<info STANDING FOR LEADER",
    ]);
    expect(played.reply(0, { kind: "accept" })).toEqual([]);
    expect(played.reply(2, { kind: "accept" })[0]).toBe("0<declare_coordinator");
    played.reply(0, { kind: "accept" });
    expect(played.reply(2, { kind: "accept" })).toContain("state_changed");
    expect([played.node.state, played.node.leader]).toEqual(["LEADER", 1]);
  });

  test.each<[string, "accept" | "reject" | "error", StateName]>([
    ["a reject sends it to take part", "reject", "PARTICIPATING IN ELECTION"],
    ["an error shows that there is a leader", "error", "NETWORK ISOLATION"],
  ])("%s", (_, kind, next) => {
    const played = new Played(nodeIn({ state: "INITIALIZING", node: { timerAt: START + 1000 } }));
    played.wait(1);
    played.reply(0, { kind });
    expect(played.node.state).toBe(next);
  });

  test("silence for four seconds is consent", () => {
    const played = new Played(nodeIn({ state: "INITIALIZING", node: { timerAt: START + 1000 } }));
    played.wait(5);
    expect(played.node.state).toBe("LEADER");
  });

  test.each<[string, StateName, StateName]>([
    ["a leader is joined", "LEADER", "STANDBY"],
    ["a candidate is waited for", "STANDING FOR LEADER", "PARTICIPATING IN ELECTION"],
    ["nobody better is there", "INITIALIZING", "STANDING FOR LEADER"],
  ])("after INITIALIZING %s", (_, other, next) => {
    const played = new Played(nodeIn({ state: "INITIALIZING", node: { timerAt: START + 1000 } }));
    played.info(0, other);
    played.wait(1);
    expect(played.node.state).toBe(next);
  });
});

describe("a standby", () => {
  const standby = () => new Played(nodeIn({ state: "STANDBY", leader: 0 }));

  test("asks a silent leader after twenty seconds and gives it up after thirty", () => {
    const played = standby();
    expect(played.wait(19)).not.toContain("0<request_info");
    expect(played.wait(1)).toEqual(["0<request_info"]);
    expect(played.wait(10)).toContain("0<#appears_lost");
    expect([played.node.state, played.node.remotes[0]?.state]).toEqual(["JOINING", "LOST"]);
  });

  test("answers its leader's beacon, and tells all of another's", () => {
    const beacon = {
      state: "LEADER",
      startupAge: 9,
      stateAge: 5,
      quorumStatus: 1,
      aliveNodeCount: 2,
      escalated: true,
    } as const;
    const played = standby();
    expect(played.packet(0, { kind: "beacon", beacon })).toEqual(["0<info STANDBY"]);
    expect(played.packet(2, { kind: "beacon", beacon })).toEqual([
      "0<#split_brain",
      "2<#split_brain",
    ]);
    // The same word not twice within five seconds.
    expect(played.packet(2, { kind: "beacon", beacon })).toEqual([]);
  });

  test.each<[string, (played: Played) => void]>([
    ["its leader leaves", (played) => played.packet(0, { kind: "going_down" })],
    ["its leader follows another", (played) => played.info(0, "STANDBY")],
    [
      "its leader begins anew",
      (played) => played.packet(0, { kind: "add_node", info: infoOf(0, "LOADING") }),
    ],
    [
      "its leader has lost it",
      (played) => played.packet(0, { kind: "service", service: "appears_lost" }),
    ],
    ["its leader resigns", (played) => played.packet(0, { kind: "service", service: "resigning" })],
    [
      "another is the true leader",
      (played) => played.packet(2, { kind: "service", service: "true_leader" }),
    ],
    [
      "an election is needed",
      (played) => played.packet(2, { kind: "service", service: "needs_election" }),
    ],
    [
      "the life check finds its leader dead",
      (played) => played.on({ kind: "lifecheck", node: 0, alive: false }),
    ],
  ])("joins anew when %s", (_, happen) => {
    const played = standby();
    happen(played);
    expect(played.node.state).toBe("JOINING");
  });

  test.each<[string, ReceivedMessage]>([
    ["another resigns", { kind: "service", service: "resigning" }],
    ["another leaves", { kind: "going_down" }],
    ["it cannot read a word", { kind: "unreadable", letter: "I", body: new Uint8Array(3) }],
    ["a peer could not read its own", { kind: "service", service: "invalid_version" }],
    ["it is rejected for nothing", { kind: "reject" }],
    [
      "it is told to die as before 4.0",
      { kind: "unreadable", letter: "V", body: new Uint8Array() },
    ],
  ])("stays where it is when %s", (_, message) => {
    const played = standby();
    expect(played.packet(2, message)).not.toContain("fatal");
    expect(played.node.state).toBe("STANDBY");
  });

  test("takes the leader's backends at the end of a failover, and joins when it is asked to", () => {
    const played = standby();
    expect(played.packet(0, { kind: "failover_start" })).toEqual([]);
    expect(played.packet(0, { kind: "failover_end" })).toEqual(["sync_backends"]);
    expect(played.packet(0, { kind: "service", service: "reload_state" })).toEqual([
      "0<join_coordinator",
    ]);
    expect(played.reply(0, { kind: "accept" })).toContain("state_changed");
  });
});

describe("a leader", () => {
  const leading = () =>
    new Played(nodeIn({ state: "LEADER", leader: 1, standbys: [0, 2], node: { timerAt: START } }));

  test("gives up a standby that misses four beacons, some forty seconds later", () => {
    const played = leading();
    for (let second = 0; second < 60; second++) {
      played.wait(1);
      const beacon = played.node.commands.find(({ purpose }) => purpose.kind === "beacon");
      if (beacon?.waiting.includes(0) !== true) continue;
      played.packet(0, { kind: "node_info", info: infoOf(0, "STANDBY") }, beacon.id);
    }
    expect(played.node.remotes[1]?.state).toBe("LOST");
    expect(played.node.remotes[1]?.lostReason).toBe("MISSING BEACON REPLIES");
    expect((played.node.remotes[1]?.lostAt ?? 0) - START).toBeWithin(35_000, 45_001);
    expect([played.node.standbys, played.node.quorum]).toEqual([[0], 1]);
  });

  test("without a majority lets the delegate IP go, and stays", () => {
    const played = leading();
    played.on({ kind: "lifecheck", node: 0, alive: false });
    expect(played.node.escalated).toBe(true);
    expect(played.on({ kind: "lifecheck", node: 2, alive: false })).toContain("de_escalate");
    expect([played.node.state, played.node.quorum]).toEqual(["LEADER", -1]);
  });

  test("does not let a node in that its life check finds dead", () => {
    const played = leading();
    played.on({ kind: "lifecheck", node: 2, alive: false });
    expect(played.packet(2, bare("join_coordinator"))).toEqual([]);
    expect(played.info(2, "STANDBY")).toEqual([]);
    expect(played.node.remotes[1]?.state).toBe("LOST");
    expect(played.on({ kind: "lifecheck", node: 2, alive: true })).toEqual([]);
    expect(played.node.remotes[1]?.state).toBe("LOADING");
  });

  test("brings the delegate IP back when somebody takes it off", () => {
    const event = { kind: "network", up: true, hasDelegateIp: false } as const;
    expect(leading().on(event)).toEqual(["restore_delegate_ip"]);
  });

  test("ends with its network", () => {
    const words = leading().on({ kind: "network", up: false, hasDelegateIp: false });
    expect(words).toContain("fatal");
    expect(words).toContain("de_escalate");
  });

  test("says goodbye and lets the delegate IP go", () => {
    expect(leading().on({ kind: "stop" })).toEqual(["0<going_down", "2<going_down", "de_escalate"]);
  });

  test("that is its own life check's dead ends", () => {
    expect(leading().on({ kind: "lifecheck", node: 1, alive: false })).toContain("fatal");
  });
});

describe("two leaders", () => {
  const leading = () => new Played(nodeIn({ state: "LEADER", leader: 1, standbys: [2] }));

  test.each<[string, Parameters<typeof infoOf>[2], string, StateName]>([
    ["the escalated one stays", { escalated: false }, "0<#true_leader", "LEADER"],
    [
      "more standbys win",
      { escalated: true, quorumStatus: 1, aliveNodeCount: 2 },
      "0<#not_true_leader",
      "JOINING",
    ],
    [
      "then the older one",
      {
        escalated: true,
        quorumStatus: 1,
        aliveNodeCount: 1,
        age: { kind: "ages", startup: 9, state: 90 },
      },
      "0<#not_true_leader",
      "JOINING",
    ],
    [
      "and the younger one gives way",
      {
        escalated: true,
        quorumStatus: 1,
        aliveNodeCount: 1,
        age: { kind: "ages", startup: 9, state: 0 },
      },
      "0<#true_leader",
      "LEADER",
    ],
    [
      "of equal claims and an unknown age nobody stays",
      {
        escalated: true,
        quorumStatus: 1,
        aliveNodeCount: 1,
        age: { kind: "startup_time", startup: 9 },
      },
      "0<#needs_election",
      "JOINING",
    ],
    [
      "one that stood up alone gives way, though its age is unknown",
      { escalated: false, quorumStatus: -1, age: { kind: "startup_time", startup: 9 } },
      "0<#true_leader",
      "LEADER",
    ],
  ])("%s", (_, more, word, next) => {
    const played = leading();
    played.now += 30_000;
    expect(played.info(0, "LEADER", more)).toContain(word);
    expect(played.node.state).toBe(next);
  });

  test("the one that is told of a truer one resigns", () => {
    const played = leading();
    expect(played.packet(0, { kind: "service", service: "true_leader" })).toContain("0<#resigning");
    expect(played.node.state).toBe("JOINING");
  });
});

describe("strangers", () => {
  const address = "192.0.2.7";
  const stranger = (message: ReceivedMessage, from = address) =>
    ({ kind: "stranger", connection: 5, address: from, id: 3, message }) as const;
  const add = (more: Partial<ReturnType<typeof infoOf>> = {}) =>
    ({ kind: "add_node", info: infoOf(0, "LOADING", more) }) as const;

  test.each<[string, ReceivedMessage, string]>([
    ["says something else first", { kind: "declare_coordinator" }, "hang_up"],
    ["makes itself the leader first", { kind: "node_info", info: infoOf(0, "LEADER") }, "hang_up"],
    [
      "asks for a failover first",
      { kind: "unreadable", letter: "f", body: new Uint8Array() },
      "hang_up",
    ],
    ["cannot be read", { kind: "unreadable", letter: "A", body: new Uint8Array() }, "refuse"],
    ["has another port", add({ wdPort: 9001 }), "refuse"],
    ["has another pgpool port", add({ pgpoolPort: 1 }), "refuse"],
    ["is no node of ours", add({ nodeId: 7 }), "refuse"],
    ["has another host", add({ hostName: "evil" }), "refuse"],
    ["says that it is us", add({ nodeId: 1, hostName: "h1" }), "hang_up"],
  ])("who %s is sent away, and nothing has changed", (_, message, word) => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }));
    const before = structuredClone(played.node);
    expect(played.on(stranger(message))).toEqual([word]);
    expect(played.node).toEqual(before);
  });

  test.each([
    ["without the sum", undefined],
    ["with a wrong one", "0".repeat(64)],
    // The check value of another state: spec watchdog/wire.md section 7.
    [
      "with that of another message",
      "d18fb41b25e5d979dcbb31cf54147930fb47a9d567d3f10a5ae20aa14a4b539b",
    ],
  ])("where there is a wd_authkey, %s nobody comes in", (_, authKey) => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }), {
      authKey: "w3-secret-key",
    });
    const before = structuredClone(played.node);
    expect(played.on(stranger(add({ authKey }), "h0"))).toEqual(["refuse"]);
    expect(played.node).toEqual(before);
  });

  test("a node is known by its host name, or by where it comes from", () => {
    const played = new Played(
      nodeIn({ state: "STANDBY", leader: 2, remotes: { outbound: "closed" } }),
    );
    expect(played.on(stranger(add()))).toEqual(["attach", "dial 0"]);
    expect(played.on(stranger(add({ hostName: "other" }), "h0"))).toEqual(["attach"]);
  });

  test("a newcomer is answered by the leader alone: the first answer may make it go on", () => {
    const played = new Played(
      nodeIn({ state: "LEADER", leader: 1, remotes: { outbound: "closed" }, node: { quorum: -1 } }),
    );
    expect(played.on(stranger(add()))).toEqual(["attach", "dial 0", "0<info LEADER"]);
  });

  test("a node that was given up is found, asked, and told to join", () => {
    const lost = { state: "LOST", lostReason: "NOT REACHABLE", outbound: "closed" } as const;
    const played = new Played(
      nodeIn({ state: "LEADER", leader: 1, remotes: lost, node: { quorum: -1 } }),
    );
    expect(played.on(stranger(add()))).toEqual([
      "attach",
      "dial 0",
      "0<info LEADER",
      "0<#appears_found",
      "0<request_info",
      "0<#reload_state",
    ]);
  });
});

describe("a newcomer", () => {
  test("that the cluster rejects ends", () => {
    const remotes = { state: "DEAD", outbound: "open" } as const;
    const played = new Played(nodeIn({ state: "LOADING", remotes }));
    expect(played.packet(0, { kind: "reject" })).toEqual(["fatal"]);
  });

  test("that nobody answers dials again", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }));
    expect(played.on({ kind: "outbound_closed", node: 2 })).toEqual(["close 2"]);
    expect(played.node.remotes[1]?.lostReason).toBe("NOT REACHABLE");
    played.packet(0, { kind: "request_info" });
    expect(played.wait(11)).toContain("dial 2");
  });
});

describe("membership", () => {
  const waited = (changed: object, remotes: object, seconds: number) => {
    const played = new Played(nodeIn({ state: "LEADER", leader: 1, remotes }), changed);
    played.wait(seconds);
    return played.node.remotes.map(({ membership }) => membership);
  };
  const absent = { outbound: "closed", inbound: "closed" } as const;

  test("ends for who never came, after its time", () => {
    const dead = { state: "DEAD", ...absent };
    expect(waited({ noShowNodeRemovalS: 105 }, dead, 4)).toEqual(["MEMBER", "MEMBER"]);
    expect(waited({ noShowNodeRemovalS: 105 }, dead, 5)).toEqual([
      "REVOKED-NO-SHOW",
      "REVOKED-NO-SHOW",
    ]);
  });

  test("ends for who is lost, after its time", () => {
    const lost = { state: "LOST", lostAt: START, ...absent };
    expect(waited({ lostNodeRemovalS: 9 }, lost, 8)).toEqual(["MEMBER", "MEMBER"]);
    expect(waited({ lostNodeRemovalS: 9 }, lost, 9)).toEqual(["REVOKED-LOST", "REVOKED-LOST"]);
  });

  test("ends for who leaves, when it is so set, and comes back with the node", () => {
    const leaving = new Played(nodeIn({ state: "LEADER", leader: 1, standbys: [0, 2] }), {
      removeShutdownNodes: true,
    });
    leaving.packet(2, { kind: "going_down" });
    expect(leaving.node.remotes[1]?.membership).toBe("REVOKED-SHUTDOWN");
    const message = { kind: "add_node", info: infoOf(2, "LOADING") } as const;
    leaving.on({ kind: "stranger", connection: 1, address: "h2", id: 1, message });
    expect(leaving.node.remotes[1]?.membership).toBe("MEMBER");
  });
});
