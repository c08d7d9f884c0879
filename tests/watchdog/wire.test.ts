import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { authSum, heartbeatClaim, nodeClaim } from "../../watchdog/auth_key.ts";
import {
  decodeHeartbeat,
  encodeHeartbeat,
  HEARTBEAT_SIZE,
  isNewer,
} from "../../watchdog/heartbeat.ts";
import { stateNumber } from "../../watchdog/states.ts";
import {
  BODY_SIZE_MAX,
  decodePacket,
  encodePacket,
  OversizedMessage,
  packetCutter,
} from "../../watchdog/wire.ts";
import { bytesOf, heartbeats, packets } from "./captures.ts";
import { message } from "./messages.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const packet = (letter: string, body: string, id = 7) =>
  bytesOf({ line: "", isForeign: false, letter, id, body: bytes(body) });
const decoded = (letter: string, body: string) => decodePacket(packet(letter, body)).message;

describe("packets of real nodes", () => {
  test("there are some of every letter that 4.3.5 sends", () => {
    const letters = new Set(packets.map(({ letter }) => letter));
    expect([...letters].sort().join("")).toBe("!#-ABCDEFGHIJKMRSXYZdfr");
  });

  test.each(
    packets.filter(({ isForeign }) => !isForeign).map((each) => [each.line, each] as const),
  )("%s is read, and written to the same bytes", (_, captured) => {
    const original = bytesOf(captured);
    const read = decodePacket(original);
    if (read.message.kind === "unreadable") throw new Error("unreadable");
    expect(read.id).toBe(captured.id);
    const again = encodePacket({ id: read.id, message: read.message });
    expect(Buffer.from(again).toString("latin1")).toBe(Buffer.from(original).toString("latin1"));
  });

  test.each(packets.filter(({ isForeign }) => isForeign).map((each) => [each.line, each] as const))(
    "%s is read, though it is spaced otherwise",
    (_, captured) => {
      expect(decodePacket(bytesOf(captured)).message.kind).not.toBe("unreadable");
    },
  );

  test("with wd_authkey, the sum in each NODE INFO is the one we compute", () => {
    let checked = 0;
    for (const captured of packets) {
      const { message: read } = decodePacket(bytesOf(captured));
      if (read.kind !== "node_info" && read.kind !== "add_node") continue;
      const { authKey, wdPort, state } = read.info;
      if (authKey === undefined || captured.isForeign) continue;
      expect(authSum("w3-secret-key", nodeClaim(stateNumber(state), wdPort))).toBe(authKey);
      checked++;
    }
    expect(checked).toBeGreaterThan(5);
  });
});

describe("packets", () => {
  test("any message comes back as it was", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 32 - 1), message, (id, original) => {
        expect(decodePacket(encodePacket({ id, message: original }))).toEqual({
          id,
          message: original,
        });
      }),
    );
  });

  test("a length that nobody sends ends the connection, before anything is allocated for it", () => {
    const cutter = packetCutter();
    cutter.push(Uint8Array.of(0x49, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff));
    expect(() => cutter.next()).toThrow(OversizedMessage);
    expect(cutter.allocated).toBeLessThan(10_000);
  });

  test("a length that could be sent is believed only as bytes arrive", () => {
    const cutter = packetCutter();
    const header = Buffer.alloc(9);
    header.writeUInt32BE(BODY_SIZE_MAX, 5);
    cutter.push(header);
    expect(cutter.next()).toBeUndefined();
    expect(cutter.allocated).toBeLessThan(10_000);
  });

  test.each([
    ["an empty object, which killed 4.3.5", "A", "{}"],
    ["no body", "A", ""],
    ["no JSON", "I", "hello"],
    ["an array", "I", "[1]"],
    [
      "a number in the place of a text",
      "D",
      '{"BackendNodeStatusList":[1],"PrimaryNodeId":0,"NodeName":5}',
    ],
    [
      "a state that there is not",
      "M",
      '{"State":99,"SecondsSinceStartup":1,"SecondsSinceCurrentState":1,"QuorumStatus":1,"AliveNodeCount":1,"Escalated":1}',
    ],
    ["a list shorter than its count", "f", '{"Function":"X","NodeCount":2,"NodeIdList":[1]}'],
    ["a backend that there cannot be", "f", '{"Function":"X","NodeCount":1,"NodeIdList":[128]}'],
    ["no statuses", "D", '{"BackendNodeStatusList":[],"PrimaryNodeId":-1,"NodeName":""}'],
    [
      "a primary that is no backend",
      "D",
      '{"BackendNodeStatusList":[1],"PrimaryNodeId":1,"NodeName":""}',
    ],
    ["a service message of two bytes", "#", "BB"],
    ["a service message of none", "#", ""],
    ["an unknown service", "#", "q"],
    ["an unknown letter", "?", ""],
    ["the failover of before 4.0", "V", ""],
    [
      "an argument that is too long",
      "!",
      `{"Command":"c","nArgs":1,"argument_list":[{"arg_name":"${"a".repeat(64)}","arg_value":""}]}`,
    ],
    ["a result that there is not", "-", '{"FAILOVER_COMMAND_RESULT":12}'],
    ["a thousand levels", "I", "[".repeat(1000)],
    ["a million levels of objects", "I", '{"a":'.repeat(40_000)],
  ])("%s is unreadable", (_, letter, body) => {
    expect(decoded(letter, body).kind).toBe("unreadable");
  });

  test("fields may come in any order and case, with spaces, and with others", () => {
    expect(
      decoded("d", '{ "extra": [1, {"x": 2.5}], "dATArequestTYPE" : "BackendStatus" }\0'),
    ).toMatchObject({ kind: "data_request", request: { type: "BackendStatus" } });
  });

  test("of two fields of one name the first counts", () => {
    expect(decoded("d", '{"DataRequestType":"a","datarequesttype":"b"}')).toMatchObject({
      request: { type: "a" },
    });
  });

  test("bytes that are no UTF-8 come back", () => {
    const body = Buffer.from('{"DataRequestType":"K\xf6ln"}', "latin1");
    const read = decodePacket(bytesOf({ line: "", isForeign: false, letter: "d", id: 1, body }));
    if (read.message.kind !== "data_request") throw new Error(read.message.kind);
    const again = encodePacket({ id: 1, message: read.message });
    expect(Buffer.from(again.subarray(9)).toString("latin1")).toContain("K\xf6ln");
  });

  test("a NODE INFO of before 3.5 has a start and no ages", () => {
    const body =
      '{"State":4,"WdPort":1,"PgpoolPort":2,"WdPriority":1,"PgpoolNodeId":0,"NodeName":"n","HostName":"h","VIP":"","StartupTimeSecs":1000,"QuorumStatus":1,"AliveNodeCount":2,"Escalated":true}';
    expect(decoded("I", body)).toMatchObject({
      info: {
        age: { kind: "startup_time", startup: 1000 },
        dataVersion: { major: 1, minor: 0 },
        escalated: true,
        lifecheckStarted: undefined,
      },
    });
  });
});

describe("authSum", () => {
  // Check values of spec watchdog/wire.md sections 7 and 8.
  test.each([
    [nodeClaim(1, 24012), "d18fb41b25e5d979dcbb31cf54147930fb47a9d567d3f10a5ae20aa14a4b539b"],
    [nodeClaim(4, 24002), "c1dc8b3ae91cf1320f38560ac9e7e8b605b4f0adcc92798d810e77963957a9d9"],
    [
      heartbeatClaim(1795368358, 226942, "127.0.0.1"),
      "e5b7c7d101142f51d4f5aa5160ca6587d31f5ad0e06cdcfbd9254602319dc4dc",
    ],
  ])("of %s is that of 4.3.5", (claim, sum) => {
    expect(authSum("w3-secret-key", claim)).toBe(sum);
  });

  test("without OpenSSL the halves of the key are a user and a password of MD5", () => {
    const md5 = (text: string) => new Bun.CryptoHasher("md5").update(text).digest("hex");
    expect(authSum("userpass", "state=1 wd_port=9000", "md5")).toBe(
      md5(`${md5("passuser")}state=1 wd_port=9000`),
    );
  });
});

describe("heartbeats", () => {
  test.each(heartbeats.map((beat) => [beat.bytes.subarray(0, 9).toString(), beat] as const))(
    "of a real node at %s is read, and written alike but for its padding",
    (_, { key, bytes: original }) => {
      const beat = decodeHeartbeat(original, key);
      if (beat === undefined) throw new Error("not read");
      expect(beat.host).toBe("127.0.0.1");
      const again = encodeHeartbeat(beat, key);
      expect(again.length).toBe(HEARTBEAT_SIZE);
      const parts: [number, number][] = [
        [0, 10],
        [256, 260],
        [264, 280],
      ];
      if (key !== "") parts.push([280, 345]);
      for (const [from, to] of parts) {
        expect(again.subarray(from, to)).toEqual(new Uint8Array(original.subarray(from, to)));
      }
    },
  );

  test("with another key, or none, is nobody's", () => {
    for (const { key, bytes: original } of heartbeats) {
      expect(decodeHeartbeat(original, `${key}x`)).toBeUndefined();
    }
    const beat = { host: "h", pgpoolPort: 1, seconds: 2, microseconds: 3 };
    expect(decodeHeartbeat(encodeHeartbeat(beat, ""), "key")).toBeUndefined();
  });

  test("any other size is nobody's", () => {
    for (const size of [0, 1, 224, 351, 353, 65_507]) {
      expect(decodeHeartbeat(new Uint8Array(size), "")).toBeUndefined();
    }
  });

  test("a host name without an end is nobody's", () => {
    expect(decodeHeartbeat(new Uint8Array(HEARTBEAT_SIZE).fill(65), "")).toBeUndefined();
  });

  test("one that was heard already, or an older one, tells nothing new", () => {
    const at = (seconds: number, microseconds: number) => ({
      host: "h",
      pgpoolPort: 1,
      seconds,
      microseconds,
    });
    expect(isNewer(at(5, 1), at(5, 1))).toBe(false);
    expect(isNewer(at(4, 9), at(5, 1))).toBe(false);
    expect(isNewer(at(5, 2), at(5, 1))).toBe(true);
    expect(isNewer(at(6, 0), at(5, 1))).toBe(true);
  });
});
