import { describe, expect, test } from "bun:test";
import { PcpError } from "../../core/pcp/frame.ts";
import { encodeRequest, type PcpRequest } from "../../core/pcp/request.ts";
import { encodeText } from "../../core/wire/text.ts";
import { login } from "../core/pcp/vectors.ts";
import { Stage, settled } from "./stage.ts";

const count: PcpRequest = { kind: "node_count" };
const mismatch =
  'FATAL | authentication failed for user "pcpadm" | username and/or password does not match';

describe("log-in", () => {
  test("with the right password is answered, and requests after it are", async () => {
    const peer = new Stage().connect();
    await peer.say({ kind: "salt" }, { kind: "authenticate", ...login }, count);
    const [salt, ok, counted] = peer.received();
    expect(salt?.body).toEqual(login.salt);
    expect(ok?.body).toEqual(encodeText("AuthenticationOK\0"));
    expect(counted?.body).toEqual(encodeText("CommandComplete\x002\0"));
    expect(peer.ended).toBe(false);
  });

  const bad: [string, readonly PcpRequest[], string][] = [
    [
      "a wrong password",
      [{ kind: "salt" }, { kind: "authenticate", user: login.user, response: "0".repeat(32) }],
      `E ${mismatch}`,
    ],
    [
      "an unknown user",
      [{ kind: "salt" }, { kind: "authenticate", user: "ghost", response: login.response }],
      `E ${mismatch.replace("pcpadm", "ghost")}`,
    ],
    [
      "a name that is too long",
      [{ kind: "salt" }, { kind: "authenticate", user: "u".repeat(129), response: "" }],
      `E ${mismatch.replace("pcpadm", "u".repeat(129))}`,
    ],
    [
      "a response before any salt",
      [{ kind: "authenticate", ...login }],
      "E FATAL | authentication failed",
    ],
    [
      "any other request",
      [count],
      "E FATAL | authentication failed for new PCP connection | connection not authorized",
    ],
  ];
  test.each(bad)("%s ends the connection", async (_, requests, said) => {
    const stage = new Stage();
    const peer = stage.connect();
    await peer.say(...requests);
    expect(peer.heard().at(-1)).toBe(said);
    expect(peer.ended).toBe(true);
    await peer.say(count);
    expect(peer.heard()).toEqual([]);
    expect(stage.logged.some((line) => line.startsWith("FATAL "))).toBe(true);
  });

  test("nothing but a salt and a log-in is done for whoever is not logged in", async () => {
    const bytes = Array.from({ length: 256 }, (_, letter) => letter);
    const others = bytes.filter((letter) => ![0x4d, 0x52, 0x58].includes(letter)); // M, R, X
    for (const letter of others) {
      const stage = new Stage();
      const peer = stage.connect();
      await peer.sendBytes(Uint8Array.of(letter, 0, 0, 0, 6, 0x31, 0));
      expect(peer.heard()).toEqual([
        "E FATAL | authentication failed for new PCP connection | connection not authorized",
      ]);
      expect([peer.ended, stage.deeds]).toEqual([true, []]);
    }
  });

  test("a salt is good for one attempt", async () => {
    const peer = await new Stage().logIn();
    await peer.say({ kind: "authenticate", ...login });
    expect(peer.heard()).toEqual(["E FATAL | authentication failed"]);
  });

  test("again, after a new salt, is possible", async () => {
    const peer = await new Stage().logIn();
    await peer.say({ kind: "salt" }, { kind: "authenticate", ...login }, count);
    expect(peer.heard()).toEqual(["m", "r", "l"]);
  });

  test("a second log-in that fails takes the first one away", async () => {
    const peer = await new Stage().logIn();
    await peer.say({ kind: "salt" }, { kind: "authenticate", user: "x", response: "" }, count);
    expect(peer.heard().length).toBe(2);
    expect(peer.ended).toBe(true);
  });

  test("without a readable pcp.conf nobody gets in", async () => {
    const passwords = async () => {
      const detail = "could not open /etc/pcp.conf. reason: No such file or directory";
      throw new PcpError("failed to authenticate PCP user", { severity: "FATAL", detail });
    };
    const peer = new Stage({ world: { passwords } }).connect();
    await peer.logIn();
    expect(peer.heard()).toEqual([
      "E FATAL | failed to authenticate PCP user | could not open /etc/pcp.conf. reason: No such file or directory",
    ]);
    expect(peer.ended).toBe(true);
  });

  test("that takes too long is not waited for", async () => {
    const stage = new Stage();
    const peer = stage.connect();
    const [timer] = stage.timers;
    expect(timer?.delayMs).toBe(60_000);
    timer?.callback();
    expect(peer.heard()).toEqual([
      "E FATAL | authentication failed for new PCP connection | log-in took too long",
    ]);
    expect(peer.ended).toBe(true);
  });

  test("ends the waiting", async () => {
    const stage = new Stage();
    await stage.logIn();
    expect(stage.timers.size).toBe(0);
  });
});

describe("requests", () => {
  test("are served one after the other, however they are cut", async () => {
    const stage = new Stage();
    const peer = await stage.logIn();
    const bytes = Buffer.concat(
      [count, { kind: "process_list" } as const, count].map(encodeRequest),
    );
    for (const byte of bytes) peer.handler.onData(Uint8Array.of(byte));
    await settled();
    expect(peer.heard()).toEqual(["l", "n", "l"]);
  });

  test("wait while one is being carried out, and nothing more is read", async () => {
    const detached = Promise.withResolvers<void>();
    const stage = new Stage({ desk: { detachNode: () => detached.promise } });
    const peer = await stage.logIn();
    await peer.say({ kind: "detach_node", argument: "0", gracefully: true }, count);
    expect(peer.heard()).toEqual([]);
    expect(peer.paused).toBe(true);
    detached.resolve();
    await settled();
    expect(peer.heard()).toEqual(["d", "l"]);
    expect(peer.paused).toBe(false);
  });

  test("are not answered faster than the peer reads", async () => {
    const stage = new Stage();
    const peer = await stage.logIn();
    peer.reads = false;
    peer.sends = 0;
    await peer.say(...Array.from({ length: 10 }, () => count));
    expect(peer.sends).toBe(1);
    for (let i = 0; i < 20; i++) {
      peer.handler.onDrain();
      await settled();
    }
    expect(peer.sends).toBe(10);
  });

  test("of nobody: a peer that has gone while it was waited for is forgotten", async () => {
    const detached = Promise.withResolvers<void>();
    const stage = new Stage({ desk: { detachNode: () => detached.promise } });
    const peer = await stage.logIn();
    await peer.say({ kind: "detach_node", argument: "0", gracefully: true }, count);
    peer.handler.onClose();
    detached.resolve();
    await settled();
    expect(stage.server.sessionCount).toBe(0);
    expect(stage.timers.size).toBe(0);
    expect(stage.logged.filter((line) => line.startsWith("ERROR"))).toEqual([]);
  });

  test("that make no sense end the connection", async () => {
    const peer = await new Stage().logIn();
    await peer.sendBytes(Uint8Array.fromHex("4b00000004"));
    expect(peer.heard()).toEqual([
      'E FATAL | PCP processing request | unknown PCP packet type "K"',
    ]);
    expect(peer.ended).toBe(true);
  });

  test.each(["4c00000000", "4c00000003", "4c00989680", "4cffffffff"])(
    "with the length of %s end the connection, logged in or not",
    async (hex) => {
      const stage = new Stage();
      for (const peer of [stage.connect(), await stage.logIn()]) {
        await peer.sendBytes(Uint8Array.fromHex(hex));
        const length = Buffer.from(hex, "hex").readInt32BE(1);
        const said = `E FATAL | invalid PCP packet | incorrect packet length (${length})`;
        expect(peer.heard()).toEqual([said]);
        expect(peer.ended).toBe(true);
      }
    },
  );

  test("a mistake of ours is told without its inside, and ends this connection alone", async () => {
    const stage = new Stage({
      desk: {
        detachNode: async () => {
          throw new TypeError("undefined is not a function");
        },
      },
    });
    const other = await stage.logIn();
    const peer = await stage.logIn();
    await peer.say({ kind: "detach_node", argument: "0", gracefully: false });
    expect(peer.heard()).toEqual(["E FATAL | internal error of the PCP server"]);
    expect(stage.logged.at(-1)).toContain("undefined is not a function");
    await other.say(count);
    expect(other.heard()).toEqual(["l"]);
  });

  test("goodbye is not answered", async () => {
    const peer = await new Stage().logIn();
    await peer.say({ kind: "disconnect" });
    expect(peer.heard()).toEqual([]);
    expect(peer.ended).toBe(true);
  });
});

describe("client_min_messages", () => {
  const set = (value: string, name = "client_min_messages"): PcpRequest => {
    return { kind: "set", name, value };
  };
  test("lets the client hear what is logged, from then on", async () => {
    const peer = await new Stage().logIn();
    await peer.say(set("LOG"), count, set("debug1"), count);
    expect(peer.heard()).toEqual([
      "a",
      "l",
      'N LOG | set configuration parameter, "client_min_messages TO debug1"',
      'N DEBUG | PCP setting parameter "client_min_messages" to "debug1"',
      "a",
      "N DEBUG | received PCP packet | PCP packet type of service 'L'",
      "l",
    ]);
  });
  test.each([
    [set("zzz"), 'invalid value "zzz" for parameter "client_min_messages"'],
    [set("fatal"), 'invalid value "fatal" for parameter "client_min_messages"'],
    [set("log", "foo"), 'invalid parameter "foo"'],
  ])("refuses %j", async (request, detail) => {
    const peer = await new Stage().logIn();
    await peer.say(request, count);
    const refused = `E ERROR | PCP: set configuration parameter failed | ${detail}`;
    expect(peer.heard()).toEqual([refused, "l"]);
  });
});

describe("many connections", () => {
  test("who has not logged in makes room for who comes later", async () => {
    const stage = new Stage();
    const operator = await stage.logIn();
    const idlers = Array.from({ length: 300 }, () => stage.connect());
    expect(stage.server.sessionCount).toBe(128);
    const late = await stage.logIn();
    await late.say(count);
    await operator.say(count);
    expect([...late.heard(), ...operator.heard()]).toEqual(["l", "l"]);
    expect(idlers.filter((peer) => peer.ended).length).toBe(174);
  });

  test("who has logged in is not sent away", async () => {
    const stage = new Stage();
    const peers = [];
    for (let i = 0; i < 128; i++) peers.push(await stage.logIn());
    const late = stage.connect();
    expect(late.heard()).toEqual([
      "E FATAL | authentication failed for new PCP connection | too many PCP connections",
    ]);
    expect(peers.some((peer) => peer.ended)).toBe(false);
  });

  test("a peer that does not go when it is told to is cut off", async () => {
    const stage = new Stage();
    const peer = await stage.logIn();
    await peer.say({ kind: "disconnect" });
    for (const timer of stage.timers) timer.callback();
    expect(peer.destroyed).toBe(true);
    expect(stage.server.sessionCount).toBe(0);
  });

  test("log_pcp_processes tells of their begin and end", async () => {
    const stage = new Stage();
    stage.connect().handler.onClose();
    expect(stage.logged).toEqual([
      "LOG forked new pcp worker, pid=1 socket=1",
      "LOG PCP process with pid: 1 exit with SUCCESS.",
    ]);
  });
});
