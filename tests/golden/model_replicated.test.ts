/**
 * The same where pgpool replicates: servers that know nothing of each other hold the same at the end,
 * and the client is told what one of them alone would have told it.
 */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { nodeId } from "../../core/cluster/state.ts";
import { encodeBackend, errorResponse } from "../../core/wire/backend.ts";
import { FRONTEND } from "../../core/wire/codes.ts";
import { FrameDecoder } from "../../core/wire/frame.ts";
import type { NodeLink } from "../../proxy/session/replies.ts";
import { chance, check, numRuns, seed, timeoutMs } from "./model_play.ts";
import {
  bind,
  block,
  copyDone,
  describeOf,
  execute,
  parse,
  query,
  runs,
  type Script,
  single,
  sync,
} from "./model_scripts.ts";
import { concat, Stage, type StageNode } from "./stage.ts";

const cases: readonly (readonly [title: string, script: Script])[] = [
  [
    "what is bound behind its Describe runs on every node",
    [parse("s1", "INSERT INTO t VALUES (1)"), sync, describeOf("S", "s1"), ...runs("s1")],
  ],
  [
    "a setting of a pipeline is told before ReadyForQuery of what only one node ran",
    [
      ...[parse("", "SET application_name = 'app'"), bind("", ""), execute("")],
      ...[parse("", "BEGIN"), ...runs("")],
    ],
  ],
  [
    "a portal is described before the transaction ends in which it was made",
    [
      ...[parse("", "SELECT $1"), bind("", "", ["0"]), execute(""), describeOf("P", "")],
      ...[parse("", "COMMIT AND CHAIN"), ...runs("")],
    ],
  ],
  [
    "a BEGIN that fails within an implicit transaction leaves none open",
    [
      ...[parse("", "BEGIN"), bind("p1", ""), execute("p1"), sync],
      ...[query("ROLLBACK"), parse("", "SELECT $1"), bind("", "", ["0"]), execute("")],
      ...[execute("p1"), sync],
    ],
  ],
  [
    "a Parse without a name that has failed leaves nothing of what was there before",
    [
      ...[parse("", "BEGIN"), parse("", "SELECT n FROM missing"), ...runs("")],
      ...[bind("", ""), query("SELECT 1"), sync],
    ],
  ],
  [
    "a notification of one's own comes behind the answer that caused it",
    [query("LISTEN c"), query("NOTIFY c"), query("SELECT 1; NOTIFY c")],
  ],
  [
    "nodes that had no part in a failed transaction have one in what follows its end",
    [query("BEGIN"), query("SELECT 1/0"), query("COMMIT; INSERT INTO t VALUES (1)")],
  ],
  [
    "a transaction that has only read ends where it was",
    [query("BEGIN"), query("SELECT n FROM t"), query("COMMIT AND CHAIN"), query("ROLLBACK")],
  ],
];

describe("several servers that pgpool keeps the same answer as one", () => {
  const clusters = [
    { nodes: 1, mode: "native_replication" },
    { nodes: 2, mode: "native_replication" },
    { nodes: 3, mode: "native_replication" },
    { nodes: 2, mode: "snapshot_isolation" },
  ] as const;
  for (const cluster of clusters) {
    for (const [title, script] of cases) {
      test(`${title}: ${cluster.nodes} nodes in ${cluster.mode}`, () =>
        check(cluster, [...script, copyDone, sync], [], [0.5]));
    }
    test(
      `with ${cluster.nodes} nodes in ${cluster.mode}`,
      () => {
        fc.assert(
          fc.property(
            // Ends that leave nobody waiting for data.
            fc.array(block, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
            fc.array(fc.nat(500), { maxLength: 60 }),
            fc.array(chance, { minLength: 1, maxLength: 4 }),
            (script, moves, draws) => check(cluster, script, moves, draws),
          ),
          { seed, numRuns, includeErrorInReport: true },
        );
      },
      timeoutMs,
    );
  }
});

test("one write for many rows is asked of a node as one, and stops where a row is refused", () => {
  const syncs = [0, 0];
  const stage = new Stage({
    nodes: 2,
    mode: "native_replication",
    onNode: (node, bytes) => {
      const asked = new FrameDecoder({ bodySizeMax: 0x3fff_ffff }).push(bytes.slice());
      for (const { type } of asked)
        if (type === FRONTEND.Sync) syncs[node] = (syncs[node] ?? 0) + 1;
    },
  });
  const row = (value: string) => [bind("", "many", [value]), describeOf("P", ""), execute("")];
  const rows = (values: readonly string[]) => concat([...values.flatMap(row), sync]);
  stage.say(concat([parse("many", "INSERT INTO t VALUES ($1)"), sync]));
  stage.settle();
  const before = syncs[1] ?? 0;
  stage.say(rows(Array.from({ length: 50 }, String)));
  stage.settle();
  expect(stage.stores.map((store) => store.rows)).toEqual([50, 50]);
  stage.say(rows(["1", "bad", "2"]));
  stage.settle();
  expect(stage.stores.map((store) => store.rows)).toEqual([50, 50]);
  expect(syncs[1]).toBe(before + 6); // of BEGIN, the rows and COMMIT or ROLLBACK, twice
});

/** The client says all of it at once, nodes move in turn, and then it is gone. */
function leave(script: Script, moves: readonly number[], draws: readonly number[]): void {
  let drawn = 0;
  const stage = new Stage({
    nodes: 3,
    mode: "native_replication",
    random: () => draws[drawn++ % draws.length] ?? 0.5,
  });
  stage.say(concat(script));
  for (const move of moves) {
    const node = stage.nodes[move % 3];
    if (node !== undefined) stage.hear(node, 1 + Math.floor(move / 3));
  }
  stage.session.end({ kind: "broken", why: "the client closed the connection" });
  stage.settle();
  expect(stage.ended?.kind).toBe("broken");
  const [first, ...others] = stage.stores.map(({ rows, sequence }) => ({ rows, sequence }));
  for (const other of others) expect(other).toEqual(first as typeof other);
}

/** Of three nodes: the main one has run what is said when the client leaves, and then `happens`. */
function leaveBehindMain(sql: string, happens: (stage: Stage) => void): Stage {
  const stage = new Stage({ nodes: 3, mode: "native_replication", random: () => 0.5 });
  stage.say(query(sql));
  const [main] = stage.nodes;
  if (main !== undefined) for (let i = 0; i < 12; i++) stage.hear(main, 1);
  stage.session.end({ kind: "broken", why: "the client closed the connection" });
  happens(stage);
  stage.settle();
  return stage;
}

test("a session without a client ends when its nodes disagree", () => {
  const { ended } = leaveBehindMain("INSERT INTO t VALUES (1)", (stage) => {
    const other = stage.nodes[1];
    if (other === undefined) throw new Error("no node 1");
    stage.session.fromNode(
      other.link,
      concat([
        encodeBackend({ kind: "ReadyForQuery", status: "T" }),
        errorResponse({ severity: "ERROR", code: "23505", message: "duplicate" }),
        encodeBackend({ kind: "ReadyForQuery", status: "E" }),
      ]),
    );
  });
  expect(ended?.kind).toBe("broken");
});

test("EXECUTE of what writes runs on every node, also where only some know the statement", () => {
  const stage = new Stage({ nodes: 3, mode: "native_replication", random: () => 0.5 });
  stage.say(query("PREPARE r AS INSERT INTO t VALUES (1)"));
  stage.settle();
  for (const id of [1, 2]) stage.router.notPrepared("r", nodeId(id));
  stage.say(query("EXECUTE r"));
  stage.settle();
  expect(stage.stores.map(({ rows }) => rows)).toEqual([1, 1, 1]);
});

test.each([
  ["simple", query("INSERT INTO t VALUES (1)")],
  ["extended", concat([parse("", "INSERT INTO t VALUES (1)"), ...runs("")])],
])("what could not be asked about is not run, and the client is told why: %s", (_, messages) => {
  const stage = new Stage({ nodes: 3, mode: "native_replication", random: () => 0.5 });
  const [main] = stage.nodes;
  if (main === undefined) throw new Error("no node 0");
  stage.say(messages);
  main.put(
    concat([
      errorResponse({ severity: "ERROR", code: "57014", message: "canceling statement" }),
      encodeBackend({ kind: "ReadyForQuery", status: "I" }),
    ]),
  );
  stage.arrive(main);
  for (const { id } of stage.nodes.slice(1)) expect(stage.nodes[id]?.idle).toBe(true);
  const seen = Buffer.from(stage.seen).toString("latin1");
  expect(seen).toContain("C57014");
  expect(seen.slice(-6).at(0)).toBe("Z");
  expect(stage.session.inTransaction).toBe(false);
});

test("what failed on the main node is not waited for where it waits for somebody", async () => {
  const stage = new Stage({ nodes: 2, mode: "native_replication", random: () => 0.5 });
  const [main, other] = stage.nodes;
  if (main === undefined || other === undefined) throw new Error("no nodes");
  for (const sql of ["BEGIN", "INSERT INTO t VALUES (1)"]) {
    stage.say(query(sql));
    stage.settle();
  }
  const answer = (node: StageNode, code: string) => {
    node.put(
      concat([
        errorResponse({ severity: "ERROR", code, message: "no" }),
        encodeBackend({ kind: "ReadyForQuery", status: "E" }),
      ]),
    );
    stage.arrive(node);
  };
  const before = stage.seen.length;
  stage.say(query("INSERT INTO t VALUES (2)"));
  answer(main, "23505");
  const cancels = () => stage.noted.filter((each) => each === "node 1 is to cancel").length;
  const seen = [1, 2].map(() => {
    stage.session.tick?.();
    return cancels();
  });
  expect(seen).toEqual([0, 1]);
  expect(stage.seen.length).toBe(before);
  answer(other, "57014");
  await Promise.resolve(); // the server has been told to cancel
  const told = Buffer.from(stage.seen.slice(before)).toString("latin1");
  expect([told.includes("C23505"), told.at(-6), told.at(-1)]).toEqual([true, "Z", "E"]);
});

/** Node 1 has been told to commit a row, ahead of all. `id`: the node of `link`. */
function committing(nodes: number, id: number): { stage: Stage; link: NodeLink } {
  const stage = new Stage({ nodes, mode: "native_replication", random: () => 0.5 });
  for (const sql of ["BEGIN", "INSERT INTO t VALUES (1)"]) {
    stage.say(query(sql));
    stage.settle();
  }
  stage.say(query("COMMIT"));
  const link = stage.nodes[id]?.link;
  if (link === undefined) throw new Error(`no node ${id}`);
  return { stage, link };
}

test("a node whose connection ends while it commits ahead of all may have what others lack", () => {
  const { stage, link: ahead } = committing(2, 1);
  stage.session.nodeLost(ahead, "the connection ended");
  stage.session.verdict(ahead, true);
  expect(stage.ended?.kind).toBe("broken");
  const warning = "node 1 may have committed what other nodes lack: the connection ended";
  expect(stage.noted).toContain(warning);
});

test("a node whose connection ends while another commits ahead of all may lack it", () => {
  const { stage, link: main } = committing(3, 0);
  stage.session.nodeLost(main, "the connection ended");
  stage.session.verdict(main, true);
  stage.settle();
  expect(stage.ended?.kind).toBe("broken");
  expect(stage.stores.slice(1).map(({ rows }) => rows)).toEqual([1, 1]);
  const warning = "node 0 may lack what other nodes have committed: the connection ended";
  expect(stage.noted).toContain(warning);
});

test("a node that says farewell behind its COMMIT has committed", () => {
  const { stage, link: ahead } = committing(2, 1);
  const farewell = errorResponse({ severity: "FATAL", code: "57P01", message: "terminating" });
  const completed = encodeBackend({ kind: "CommandComplete", tag: "COMMIT" });
  stage.session.fromNode(ahead, concat([completed, farewell]));
  stage.session.nodeLost(ahead, "the connection ended");
  stage.session.verdict(ahead, true);
  const warning = "node 1 may have committed what other nodes lack: the connection ended";
  expect(stage.noted).toContain(warning);
});

test("a session without a client ends when it has lost its nodes", () => {
  const { ended } = leaveBehindMain("INSERT INTO t VALUES (1)", (stage) => {
    for (const node of stage.nodes) {
      stage.setStatus(node.id, "down");
      stage.session.nodeLost(node.link, "detached");
    }
  });
  expect(ended?.kind).toBe("broken");
});

test(
  "a client that leaves in the middle of anything leaves the nodes the same",
  () => {
    fc.assert(
      fc.property(
        fc.array(single, { minLength: 1, maxLength: 4 }).map((blocks) => blocks.flat()),
        fc.array(fc.nat(20), { maxLength: 30 }),
        fc.array(chance, { minLength: 1, maxLength: 4 }),
        leave,
      ),
      { seed, numRuns, includeErrorInReport: true },
    );
  },
  timeoutMs,
);
