import { describe, expect, test } from "bun:test";
import { bytes, duration, screenText } from "../../cmd/pcp_status.ts";
import { overviewOf } from "../../core/pcp/overview.ts";
import { decodeProcessRecord, type NodeRecord } from "../../core/pcp/records.ts";
import { formatTime } from "../../core/time.ts";

const at = 1_795_367_283;
const node = (change: Partial<NodeRecord>): NodeRecord => ({
  ...{ hostname: "db", port: 5432, status: 2, quarantine: false, pgStatus: "up", weight: 0.5 },
  ...{ role: 2, pgRole: "primary", delayByTime: false, delay: 0, lastStatusChange: at },
  ...{ replicationState: "", replicationSyncState: "" },
  ...change,
});
const nodes = [
  node({}),
  node({ role: 3, pgRole: "standby", delay: 2048, replicationState: "streaming" }),
  node({ role: 3, status: 3, pgStatus: "down", pgRole: "unknown" }),
];

/** A place of one process: what it does, whose session, whether in use. */
function place(pid: number, pool: number, backend: number, busy: string, owner = "", used = "0") {
  const [database = "", user = ""] = owner.split("/");
  return decodeProcessRecord([
    ...[String(pid), "s", "1", String(pool), String(backend), database, user, "t", "t", "", "0"],
    ...["3", "0", "1", owner === "" ? "0" : "900", used, busy, "0", "", "", ""],
  ]);
}
const processes = [0, 1].flatMap((backend) => [
  place(11, 0, backend, "Idle in transaction", "app/ann", "1"),
  place(11, 1, backend, "Idle in transaction", "app/bob"),
  place(12, 0, backend, "Execute command", "app/ann", "1"),
  place(12, 1, backend, "Execute command"),
  place(13, 0, backend, "Wait for connection", "app/ann"),
  place(13, 1, backend, "Wait for connection"),
]);
const own = ["1.2.3", String(at - 90_061), "streaming_replication"];
const events = [String(at), "2", "node 2 (db:5432) is down, was up"];

describe("an overview", () => {
  const overview = overviewOf(nodes, processes, [...own, ...events]);
  test("counts sessions once, however many sets and nodes they have", () => {
    expect(overview.sessions).toEqual({
      places: 3,
      busy: 2,
      byActivity: [
        { activity: "Idle in transaction", count: 1 },
        { activity: "Execute command", count: 1 },
      ],
      byOwner: [{ database: "app", user: "ann", count: 2 }],
    });
  });
  test("counts sets once, and each node's connections", () => {
    expect(overview.pool).toEqual({ places: 6, used: 4, inUse: 2 });
    const counts = overview.nodes.map((one) => [one.pooledConnections, one.connectionsInUse]);
    expect(counts).toEqual([
      [4, 2],
      [4, 2],
      [0, 0],
    ]);
  });
  test("of a server that is not ours has no life and no events", () => {
    const theirs = overviewOf(nodes, processes, undefined);
    expect([theirs.server, theirs.events]).toEqual([undefined, []]);
    expect(screenText(theirs, { now: () => at * 1000, colours: false })).not.toContain("events");
  });
  test("of a server before 4.3 knows who is connected", () => {
    const old = decodeProcessRecord("11 app ann 1 1 3 0 1 0 900 1".split(" "));
    expect(overviewOf([], [old], undefined).sessions).toMatchObject({
      busy: 1,
      byActivity: [{ activity: "connected", count: 1 }],
    });
  });
});

test("the screen", () => {
  const overview = overviewOf(nodes, processes, [...own, ...events]);
  const text = screenText(overview, { now: () => at * 1000, colours: false });
  const now = formatTime(at * 1000);
  expect(text).toBe(`pgpool 1.2.3, streaming_replication, up 1 d 01:01:01    ${now}

 node | server  | status | answers |  role   | weight | delay  | replication |  connections  |        since
------+---------+--------+---------+---------+--------+--------+-------------+---------------+---------------------
 0    | db:5432 | up     | up      | primary | 0.50   | 0 B    |             | 2 of 4 in use | ${now}
 1    | db:5432 | up     | up      | standby | 0.50   | 2.0 kB | streaming   | 2 of 4 in use | ${now}
 2    | db:5432 | down   | down    | standby | 0.50   | 0 B    |             | 0 of 0 in use | ${now}

sessions   2 of 3: 1 idle in transaction, 1 execute command
           2 ann in app
pool       4 of 6 places hold connections, 2 in use

last events
${now}  node 2 (db:5432) is down, was up
`);
});

test("no name makes the terminal do anything", () => {
  const evil = place(11, 0, 0, "Idle", "a\x1b[2J/b\n", "1");
  const text = screenText(overviewOf(nodes, [evil], undefined), { now: () => 0, colours: false });
  expect(text).toContain("1 b? in a?[2J\n");
});

test("on a terminal a node that is down is red, one that needs a look yellow, the others green", () => {
  const doubtful = node({ role: 2, pgRole: "standby" });
  const overview = overviewOf([...nodes, doubtful], [], undefined);
  const text = screenText(overview, { now: () => 0, colours: true });
  const colours = text.split("\x1b[").flatMap((part) => {
    const [, colour, id] = /^(3\d)m (\d)/.exec(part) ?? [];
    return colour === undefined ? [] : [`${id} ${colour}`];
  });
  expect(colours).toEqual(["0 32", "1 32", "2 31", "3 33"]);
  expect(text).toContain("primary (is standby)");
});

test.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1536, "1.5 kB"],
  [5 * 1024 ** 3, "5.0 GB"],
  [2 ** 60, "1048576.0 TB"],
])("%d bytes are %s", (count, text) => {
  expect(bytes(count)).toBe(text);
});

test.each([
  [-1, "00:00:00"],
  [59.9, "00:00:59"],
  [3661, "01:01:01"],
  [200_000, "2 d 07:33:20"],
])("%d seconds are %s", (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});
