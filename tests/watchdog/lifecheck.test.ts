import { describe, expect, test } from "bun:test";
import { replyOf } from "../../watchdog/answers.ts";
import { encodeIpcReply } from "../../watchdog/ipc.ts";
import {
  allHeard,
  checkHeartbeats,
  excuse,
  hear,
  noteQuery,
  type QueriedNode,
  unheard,
} from "../../watchdog/lifecheck.ts";
import type { Answer } from "../../watchdog/node.ts";

const nodes = unheard([
  { id: 0, hostname: "h0", pgpoolPort: 9999 },
  { id: 2, hostname: "h2", pgpoolPort: 9999 },
]);
const beat = (host: string, seconds: number, pgpoolPort = 9999) => ({
  host,
  pgpoolPort,
  seconds,
  microseconds: 0,
});

describe("heartbeats", () => {
  test("the check begins when all have been heard", () => {
    const one = hear(nodes, beat("h0", 1), "192.0.2.1", 0);
    expect(allHeard(one)).toBe(false);
    // By its address, as its own name for itself is another.
    const named = unheard([{ id: 2, hostname: "192.0.2.2", pgpoolPort: 9999 }]);
    expect(allHeard(hear(named, beat("h2", 1), "192.0.2.2", 0))).toBe(true);
    expect(allHeard(hear(named, beat("h2", 1, 5), "192.0.2.2", 0))).toBe(false);
  });

  test("a node that was never heard is not dead", () => {
    expect(checkHeartbeats(nodes, 30_000, 1e9)[1]).toEqual([]);
  });

  test("silence for longer than the dead time is reported once, and its end too", () => {
    const heard = hear(nodes, beat("h0", 1), "", 0);
    expect(checkHeartbeats(heard, 30_000, 30_999)[1]).toEqual([]);
    const [silent, reports] = checkHeartbeats(heard, 30_000, 31_000);
    expect(reports).toEqual([{ node: 0, alive: false, text: "No heartbeat signal from node" }]);
    expect(checkHeartbeats(silent, 30_000, 40_000)[1]).toEqual([]);
    const again = hear(silent, beat("h0", 2), "", 50_000);
    expect(checkHeartbeats(again, 30_000, 51_000)[1]).toEqual([
      { node: 0, alive: true, text: "Heartbeat signal found" },
    ]);
  });

  test("the silence of a node that is looking for its place is not its death", () => {
    const heard = hear(nodes, beat("h0", 1), "", 0);
    const returning = excuse(heard, () => false, 31_000);
    expect(checkHeartbeats(returning, 30_000, 31_000)[1]).toEqual([]);
    expect(checkHeartbeats(returning, 30_000, 62_000)[1]).toHaveLength(1);
    const placed = excuse(heard, () => true, 31_000);
    expect(checkHeartbeats(placed, 30_000, 31_000)[1]).toHaveLength(1);
    const [dead] = checkHeartbeats(heard, 30_000, 31_000);
    expect(
      checkHeartbeats(
        excuse(dead, () => false, 40_000),
        30_000,
        40_000,
      )[1],
    ).toEqual([]);
  });

  test("a node that begins anew is heard, though its clock was set back", () => {
    const heard = hear(nodes, beat("h0", 7000), "", 0);
    const returning = excuse(heard, () => false, 1000);
    const again = hear(returning, beat("h0", 7), "", 20_000);
    expect(checkHeartbeats(again, 30_000, 40_000)[1]).toEqual([]);
  });

  test("a stranger's heartbeat from the future does not make a node's own ones old", () => {
    const forged = hear(nodes, beat("h0", 2 ** 32 - 1), "", 0, false);
    const heard = hear(forged, beat("h0", 7), "", 29_000, false);
    expect(checkHeartbeats(heard, 30_000, 31_000)[1]).toEqual([]);
  });

  test("whoever repeats a signed heartbeat does not keep a node alive", () => {
    const heard = hear(nodes, beat("h0", 7), "", 0);
    const repeated = hear(hear(heard, beat("h0", 7), "", 29_000), beat("h0", 6), "", 29_000);
    expect(checkHeartbeats(repeated, 30_000, 31_000)[1]).toHaveLength(1);
  });
});

describe("queries", () => {
  test("all life points lost are a death, one answer gives them back", () => {
    let node: QueriedNode = { id: 2, points: 3, dead: false };
    const reports = [false, false, true, false, false, false, false, true].map((answered) => {
      const [next, report] = noteQuery(node, answered, 3);
      node = next;
      return report?.alive;
    });
    expect(reports).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
      false,
      undefined,
      true,
    ]);
  });
});

describe("replyOf()", () => {
  test.each<[Answer, string | undefined]>([
    [{ kind: "ok" }, "7 0 "],
    [{ kind: "bad" }, "6 0 "],
    [{ kind: "in_transition" }, "5 0 "],
    [{ kind: "silence" }, undefined],
    [{ kind: "kept_open" }, undefined],
    [{ kind: "unknown_command" }, '6 48 {"MESSAGE":"unknown cluster command requested"}\0'],
    [
      { kind: "failover_result", result: "INVALID_FUNCTION" },
      '7 54 {"FAILOVER_COMMAND_RESULT":7,"FAILOVER_COMMAND_ID":0}\0',
    ],
    [{ kind: "variable", value: 4 }, '7 34 {"ValueDataType":1,"ValueData":4}\0'],
    [
      {
        kind: "backend_status",
        status: { statuses: [1, 1], primary: 0, nodeName: "127.0.0.1:24000 Linux vm" },
      },
      '7 88 {"BackendNodeStatusList": [1,1],"PrimaryNodeId":0,"NodeName":"127.0.0.1:24000 Linux vm"}',
    ],
  ])("%o", (answer, expected) => {
    const reply = replyOf(answer);
    const bytes = reply === undefined ? undefined : encodeIpcReply(reply);
    const length = bytes && new DataView(bytes.buffer, bytes.byteOffset).getUint32(1);
    const text = bytes && Buffer.from(bytes).toString();
    expect(text && `${text[0]} ${length} ${text.slice(5)}`).toBe(expected);
  });
});
