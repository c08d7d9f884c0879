import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { frameOf, replyCutter } from "../../../core/pcp/frame.ts";
import {
  decodeNodeRecord,
  decodeProcessRecord,
  encodeNodeRecord,
  type NodeLayout,
  type NodeRecord,
  processColumns,
  statusName,
} from "../../../core/pcp/records.ts";
import { ReplyReader } from "../../../core/pcp/reply.ts";
import { nodeFrames } from "./vectors.ts";

const node: NodeRecord = {
  hostname: "/tmp/w2",
  port: 23_101,
  status: 1,
  quarantine: false,
  pgStatus: "up",
  weight: 1073741823.5 / 2147483647,
  role: 3,
  pgRole: "standby",
  delayByTime: false,
  delay: 0,
  replicationState: "streaming",
  replicationSyncState: "async",
  lastStatusChange: 1_795_367_283,
};

test("nodes as 4.3.5's server tells of them", () => {
  const cutter = replyCutter();
  cutter.push(Uint8Array.fromHex(nodeFrames));
  const reader = new ReplyReader();
  for (let piece = cutter.next(); piece !== undefined; piece = cutter.next()) {
    const reply = reader.add(frameOf(piece));
    if (reply === undefined) continue;
    const primary = { role: 2, pgRole: "primary", replicationState: "", replicationSyncState: "" };
    expect(reply.records.map(decodeNodeRecord)).toEqual([
      { ...node, port: 23_100, ...primary },
      node,
    ]);
  }
});

describe("a node of another release", () => {
  const old = { pgStatus: undefined, pgRole: undefined };
  const fields: [string, string, Partial<NodeRecord>][] = [
    ["4.1.0", "h 1 2 2147483647 2 5 streaming async 7", old],
    ["4.1.11", "h 1 2 0 2147483647 2 5 streaming async 7", old],
    ["4.3.0", "h 1 2 up 2147483647 2 primary 5 streaming async 7", {}],
    ["4.3.1", "h 1 2 0 up 2147483647 2 primary 5 streaming async 7", {}],
    ["4.4", "h 1 2 0 up 2147483647 2 primary 1 5 streaming async 7", { delayByTime: true }],
    ["ours", "h 1 2 0 up 2147483647 2 primary 5 streaming async 7 1 pgpool", { delayByTime: true }],
  ];
  test.each(fields)("%s is told by the number of its fields", (_, text, change) => {
    const changed = { hostname: "h", port: 1, status: 2, weight: 1, role: 2, pgRole: "primary" };
    const expected = { ...node, ...changed, delay: 5, lastStatusChange: 7, ...change };
    expect(decodeNodeRecord(text.split(" "))).toEqual(expected);
  });
  test.each([0, 8, 15, 40])("%d fields are no node", (count) => {
    expect(() => decodeNodeRecord(new Array(count).fill("1"))).toThrow(
      expect.objectContaining({ message: "invalid response from PCP server" }),
    );
  });
});

test("either layout carries everything", () => {
  const layout = fc.constantFrom<NodeLayout>("4.3", "4.4");
  const records = fc.record({ delay: fc.nat(), delayByTime: fc.boolean(), port: fc.nat(65_535) });
  fc.assert(
    fc.property(layout, records, (which, change) => {
      const record = { ...node, ...change };
      const fields = encodeNodeRecord(record, which);
      expect(fields.length).toBe(which === "4.3" ? 14 : 13);
      expect(decodeNodeRecord(fields)).toEqual(record);
    }),
  );
});

test("a node that is down may be quarantined", () => {
  expect(statusName({ ...node, status: 3 })).toBe("down");
  expect(statusName({ ...node, status: 3, quarantine: true })).toBe("quarantine");
  expect(statusName({ ...node, status: 2, quarantine: true })).toBe("up");
  expect(statusName({ ...node, status: 9 })).toBe("unknown");
});

test.each([
  [11, "create_time"],
  [17, "status"],
  [18, "load_balance_node"],
  [21, "statement"],
  [25, "statement"],
] as const)("a process of %d fields ends with %s", (count, last) => {
  const fields = Array.from({ length: count }, (_, at) => String(at));
  const record = decodeProcessRecord(fields);
  expect(record.has(last)).toBe(true);
  expect(record.size).toBe(Math.min(count, processColumns.length));
});

test("fewer fields than any release has are no process", () => {
  expect(() => decodeProcessRecord(["1", "2"])).toThrow(
    expect.objectContaining({ detail: "a process of 2 fields" }),
  );
});
