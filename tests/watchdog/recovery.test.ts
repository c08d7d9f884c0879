/** Online recovery in a replicating mode, as three nodes go through it: who is told, held and doubted. */
import { describe, expect, test } from "bun:test";
import { NO_SECRETS } from "../../watchdog/bodies.ts";
import type { IpcCommand } from "../../watchdog/ipc.ts";
import { infoOf, nodeIn, Played } from "./node.ts";

const standby = () => new Played(nodeIn({ state: "STANDBY", leader: 0 }));
const leading = () => new Played(nodeIn({ state: "LEADER", leader: 1, standbys: [0, 2] }));
const call = (name: string) => ({ ...NO_SECRETS, name, flags: 0, nodes: [] });
const ask = (command: IpcCommand) => ({ kind: "ask", client: 9, command }) as const;

describe("online recovery", () => {
  const start = { kind: "online_recovery", call: call("START_RECOVERY") } as const;
  const end = { kind: "online_recovery", call: call("END_RECOVERY") } as const;
  const ours = (name: string) => ask({ kind: "recovery", call: call(name) });
  const clients = (count: number) => ({ kind: "client_count", count }) as const;

  test("waits for clients to go, for as long as they may take", () => {
    const played = standby();
    expect(played.packet(0, start)).toEqual(["enter_recovery"]);
    expect(played.on(clients(1))).toEqual([]);
    expect(played.on(clients(0))).toEqual(["0<accept"]);
    expect(played.packet(2, start)).toEqual(["2<reject"]);
    expect(played.packet(0, end)).toEqual(["leave_recovery", "0<accept"]);
    expect(played.packet(0, start)).toEqual(["enter_recovery"]);
  });

  test("looks for clients when it begins: some may have come since it last did", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }), { recoveryTimeoutS: 0 });
    played.on(clients(0));
    expect(played.packet(0, start)).toEqual(["enter_recovery"]);
    expect(played.on(clients(1))).toEqual(["0<reject"]);
  });

  test("is rejected when they stay", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }), { recoveryTimeoutS: 9 });
    played.on({ kind: "client_count", count: 1 });
    played.packet(0, start);
    expect(played.wait(8)).not.toContain("0<reject");
    expect(played.wait(1)).toEqual(["0<reject"]);
  });

  test("ends by the word of the node that recovers, or with its loss, and by nobody else's", () => {
    const played = standby();
    expect(played.packet(2, start)).toEqual(["enter_recovery"]);
    expect(played.packet(0, end)).toEqual(["0<accept"]);
    expect(played.packet(0, start)).toEqual(["0<reject"]);
    expect(played.on({ kind: "lifecheck", node: 2, alive: false })).toContain("leave_recovery");
    expect(played.packet(0, start)).toEqual(["enter_recovery"]);
    expect(played.packet(0, end)).toEqual(["leave_recovery", "0<accept"]);
    expect(played.packet(0, end)).toEqual(["0<accept"]);
  });

  test("is told from one before and one after it, whatever comes late", () => {
    const numbered = (name: string, flags: number) =>
      ({ kind: "online_recovery", call: { ...call(name), flags } }) as const;
    const played = standby();
    played.packet(2, numbered("START_RECOVERY", 7));
    played.on(clients(0));
    expect(played.packet(2, numbered("START_RECOVERY", 8))).toEqual(["2<accept"]);
    expect(played.packet(2, numbered("END_RECOVERY", 7))).toEqual(["2<accept"]);
    expect(played.packet(2, numbered("END_RECOVERY", 8))).toEqual(["leave_recovery", "2<accept"]);
    expect(played.packet(2, numbered("START_RECOVERY", 8))).toEqual(["2<accept"]);
    expect(played.packet(2, numbered("START_RECOVERY", 9))).toEqual(["enter_recovery"]);
    expect(played.packet(2, numbered("END_RECOVERY", 0))).toEqual(["leave_recovery", "2<accept"]);
  });

  test("goes on, of whatever else a program speaks", () => {
    const played = standby();
    played.on(ours("START_RECOVERY"));
    expect(played.on(ours("X"))).toEqual(["#9 bad"]);
    expect(played.node.recoveryBy).toBe(1);
  });

  test("that nobody knows is an error", () => {
    const message = { kind: "online_recovery", call: call("X") } as const;
    expect(standby().packet(0, message)).toEqual(["0<error"]);
  });

  test("is asked of all, and one may refuse", () => {
    const agreed = leading();
    expect(agreed.on(ours("START_RECOVERY"))).toEqual(["0<online_recovery", "2<online_recovery"]);
    expect(agreed.reply(0, { kind: "accept" })).toEqual([]);
    expect(agreed.reply(2, { kind: "accept" })).toEqual(["#9 ok"]);
    const refused = leading();
    refused.on(ours("START_RECOVERY"));
    expect(refused.reply(0, { kind: "reject" })).toEqual(["#9 bad"]);
    const joining = new Played(nodeIn({ state: "JOINING" }));
    expect(joining.on(ours("START_RECOVERY"))).toEqual(["#9 in_transition"]);
  });

  test("of two nodes at the same time is refused to both", () => {
    const played = standby();
    played.on(ours("START_RECOVERY"));
    expect(played.packet(2, start)).toEqual(["2<reject"]);
    const other = standby();
    other.packet(2, start);
    expect(other.on(ours("START_RECOVERY"))).toEqual(["#9 bad"]);
    expect(other.on(ours("END_RECOVERY"))).toEqual(["#9 ok"]);
    expect(other.node.recoveryBy).toBe(2);
  });

  test("that a node does not answer is given up when its clients have had their time", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }), { recoveryTimeoutS: 9 });
    played.on(ours("START_RECOVERY"));
    played.reply(0, { kind: "accept" });
    expect(played.wait(13)).not.toContain("#9 bad");
    expect(played.wait(1)).toContain("#9 bad");
  });

  test("is over for all, whatever becomes of this node meanwhile", () => {
    const played = standby();
    played.on(ours("START_RECOVERY"));
    for (const id of [0, 2]) played.reply(id, { kind: "accept" });
    played.packet(0, { kind: "going_down" });
    expect(played.node.state).toBe("JOINING");
    expect(played.on(ours("END_RECOVERY"))).toEqual(["2<online_recovery"]);
    expect(played.reply(2, { kind: "accept" })).toEqual(["#9 ok"]);
    expect(played.on({ kind: "outbound_opened", node: 2 })).not.toContain("2<online_recovery");
  });

  test("is told to a node that comes while it is under way, which holds its clients too", () => {
    const played = standby();
    played.on({ kind: "lifecheck", node: 2, alive: false });
    played.on(ours("START_RECOVERY"));
    expect(played.reply(0, { kind: "accept" })).toEqual(["#9 ok"]);
    expect(played.on({ kind: "outbound_opened", node: 2 })).toContain("2<online_recovery");
    expect(played.on(ours("END_RECOVERY"))).toEqual(["2<online_recovery", "0<online_recovery"]);
    const late = new Played(nodeIn({ state: "LOADING" }));
    expect(late.packet(2, start, 5)).toEqual(["enter_recovery"]);
    expect(late.on(clients(0))).toEqual(["2<accept"]);
    expect(late.packet(2, start, 6)).toEqual(["2<accept"]);
    expect(late.packet(2, end)).toEqual(["leave_recovery", "2<accept"]);
  });

  test("is said to be over once more to a node that may not have heard it", () => {
    const played = standby();
    played.on(ours("START_RECOVERY"));
    for (const id of [0, 2]) played.reply(id, { kind: "accept" });
    played.on({ kind: "lifecheck", node: 2, alive: false });
    played.on(ours("END_RECOVERY"));
    expect(played.on({ kind: "outbound_opened", node: 2 })).toContain("2<online_recovery");
  });

  test("is said to be over once more though another has begun and ended since", () => {
    const played = standby();
    played.on(ours("START_RECOVERY"));
    for (const id of [0, 2]) played.reply(id, { kind: "accept" });
    played.on({ kind: "lifecheck", node: 2, alive: false });
    played.on(ours("END_RECOVERY"));
    played.on(ours("START_RECOVERY"));
    played.on(ours("END_RECOVERY"));
    expect(played.on({ kind: "outbound_opened", node: 2 })).toContain("2<online_recovery");
  });

  describe("is in doubt", () => {
    /** This node recovers, and the others have no clients any more. */
    function begun(): Played {
      const played = standby();
      played.on(ours("START_RECOVERY"));
      for (const id of [0, 2]) played.reply(id, { kind: "accept" });
      return played;
    }
    const name = "h2:9999 Linux n2";
    const life = (alive: boolean) => ({ kind: "lifecheck", node: 2, alive }) as const;
    const opened = { kind: "outbound_opened", node: 2 } as const;
    const refused = { kind: "outbound_failed", node: 2, refused: true } as const;
    const introduces = (startup: number) => {
      const info = infoOf(2, "LOADING", { age: { kind: "ages", startup, state: 0 } });
      const message = { kind: "add_node", info } as const;
      return { kind: "stranger", connection: 5, address: "h2", id: 3, message } as const;
    };
    const ends = () => {
      const played = begun();
      played.wait(2); // who was called just now is not called again at once
      played.on({ kind: "outbound_closed", node: 2 });
      played.on({ kind: "inbound_closed", node: 2 });
      played.on(refused);
      return played;
    };

    test("when a node that was told has been out of sight, until it begins anew", () => {
      const played = begun();
      expect(played.node.recoveryDoubt).toBeUndefined();
      played.on(life(false));
      expect(played.node.recoveryDoubt).toBe(name);
      played.on(ours("END_RECOVERY"));
      played.on(ours("START_RECOVERY"));
      expect(played.node.recoveryDoubt).toBeUndefined();
    });

    test("when a node that was told calls again, or is called", () => {
      const played = begun();
      played.on(opened);
      expect(played.node.recoveryDoubt).toBe(name);
      const called = begun();
      called.on(introduces(100));
      expect(called.node.recoveryDoubt).toBe(name);
    });

    test("when a node that could not be told shows that it was there all the time", () => {
      const played = standby();
      played.on(life(false));
      played.on(ours("START_RECOVERY"));
      expect(played.reply(0, { kind: "accept" })).toEqual(["#9 ok"]);
      played.on(introduces(100));
      expect(played.node.recoveryDoubt).toBe(name);
    });

    test("when a node that comes meanwhile is older than it takes to be told", () => {
      const gone = standby();
      gone.packet(2, { kind: "going_down" });
      gone.on(ours("START_RECOVERY"));
      gone.now += 1000_000;
      gone.on(introduces(500)); // started since it went, and long before it is told
      expect(gone.node.recoveryDoubt).toBe(name);
      const found = standby();
      found.on(life(false));
      found.on(ours("START_RECOVERY"));
      found.on(life(true));
      found.on(opened);
      expect(found.node.recoveryDoubt).toBeUndefined();
      found.info(2, "STANDBY");
      expect(found.node.recoveryDoubt).toBe(name);
    });

    test("not when a newcomer is told at once, by its own connection", () => {
      const played = standby();
      played.on(life(false));
      played.on(ours("START_RECOVERY"));
      played.now += 5000;
      expect(played.on(introduces(1))).toContain("2<online_recovery");
      expect([...played.node.recoveryOwed.keys()]).toEqual([0, 2]);
      expect(played.on(opened)).toContain("2<online_recovery");
      expect(played.node.recoveryDoubt).toBeUndefined();
      played.now += 60_000;
      played.info(2, "STANDBY", { age: { kind: "ages", startup: 61, state: 50 } });
      expect(played.node.recoveryDoubt).toBeUndefined();
    });

    test("already when all have answered: nothing is begun then", () => {
      const played = standby();
      played.on(ours("START_RECOVERY"));
      played.packet(2, { kind: "going_down" });
      expect(played.reply(0, { kind: "accept" })).toEqual(["#9 bad"]);
    });

    test("when a node that goes has not said that its clients are gone", () => {
      const played = standby();
      played.on(ours("START_RECOVERY"));
      played.packet(2, { kind: "going_down" });
      expect(played.node.recoveryDoubt).toBe(name);
    });

    test("not when a node has gone whose clients were gone, and comes back", () => {
      const stopped = begun();
      stopped.packet(2, { kind: "going_down" });
      stopped.info(2, "SHUTDOWN");
      expect(stopped.on(opened)).toContain("2<online_recovery");
      expect(stopped.node.recoveryDoubt).toBeUndefined();
      const killed = ends();
      expect(killed.node.remotes[1]?.state).toBe("LOST");
      expect(killed.on(opened)).toContain("2<online_recovery");
      killed.on(introduces(1));
      expect(killed.on(opened)).toContain("2<online_recovery");
      expect(killed.node.recoveryDoubt).toBeUndefined();
    });

    test("when nothing is heard of a node for 25 seconds, unless this one stood still", () => {
      const played = begun();
      expect(played.wait(5)).toEqual(["0<request_info", "2<request_info"]);
      for (let i = 0; i < 5; i++) {
        for (const id of [0, 2]) played.info(id, id === 0 ? "LEADER" : "STANDBY");
        played.wait(5);
      }
      expect(played.node.recoveryDoubt).toBeUndefined();
      played.now += 20_000;
      for (let i = 0; i < 4; i++) {
        played.info(0, "LEADER");
        played.wait(5);
      }
      expect(played.node.recoveryDoubt).toBeUndefined();
      played.info(0, "LEADER");
      played.wait(6);
      expect(played.node.recoveryDoubt).toBe(name);
    });

    test("when this one was away for so long that others may have given it up", () => {
      const played = begun();
      played.now += 26_000;
      played.wait(1);
      expect(played.node.recoveryDoubt).toBe("h0:9999 Linux n0");
    });

    test("at the end, when a node cannot be reached, or does not answer any more", () => {
      const confirm = ours("CONFIRM_RECOVERY");
      const sound = begun();
      expect(sound.on(confirm)).toEqual(["0<request_info", "2<request_info"]);
      expect(sound.reply(0, { kind: "node_info", info: infoOf(0, "LEADER") })).toEqual([]);
      expect(sound.reply(2, { kind: "node_info", info: infoOf(2, "STANDBY") })).toEqual(["#9 ok"]);
      const silent = begun();
      silent.on(confirm);
      silent.reply(0, { kind: "node_info", info: infoOf(0, "LEADER") });
      expect(silent.wait(5)).toContain("#9 bad");
      const cut = begun();
      cut.on(confirm);
      cut.reply(0, { kind: "node_info", info: infoOf(0, "LEADER") });
      expect(cut.on({ kind: "lifecheck", node: 2, alive: false })).toContain("#9 bad");
      expect(cut.on(confirm)).toEqual(["#9 bad"]);
      expect(standby().on(confirm)).toEqual(["#9 bad"]);
    });
  });

  test("of a node that is not heard of any more holds nobody for ever", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }), { recoveryTimeoutS: 9 });
    played.packet(2, start);
    played.on(clients(0));
    const words: string[] = [];
    for (let i = 0; i < 11; i++) {
      played.info(0, "LEADER");
      words.push(...played.wait(5));
    }
    expect(words).toContain("2<request_info");
    expect(words).not.toContain("leave_recovery");
    played.info(0, "LEADER");
    expect(played.wait(10)).toContain("leave_recovery");
  });

  test("holds a node that has stood still until it has heard nothing for a minute", () => {
    const played = new Played(nodeIn({ state: "STANDBY", leader: 0 }));
    played.packet(2, start);
    played.now += 70_000;
    expect(played.wait(2)).not.toContain("leave_recovery");
    for (let i = 0; i < 11; i++) {
      played.info(0, "LEADER");
      expect(played.wait(5)).not.toContain("leave_recovery");
    }
    played.info(0, "LEADER");
    expect(played.wait(10)).toContain("leave_recovery");
  });

  test("is over when the pgpool that recovers has been started anew, though nobody saw it end", () => {
    const played = standby();
    played.packet(2, start);
    played.now += 2000;
    const info = infoOf(2, "LOADING", { age: { kind: "ages", startup: 1, state: 0 } });
    const message = { kind: "add_node", info } as const;
    const words = played.on({ kind: "stranger", connection: 5, address: "h2", id: 3, message });
    expect(words).toContain("leave_recovery");
  });
});
