/**
 * Where pgpool replicates, and nodes are lost: the client is told what one server alone would have
 * told it. If it is told of a loss, in the place of an answer, then that is an error like others, and
 * all that follows from it follows as it would from theirs.
 */
import { test } from "bun:test";
import fc from "fast-check";
import { decodeBackend, errorField } from "../../core/wire/backend.ts";
import { FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { decodeFrontend } from "../../core/wire/frontend.ts";
import { traceFrontend } from "../../core/wire/trace.ts";
import { alone, chance, isSame, numRuns, Report, seed, timeoutMs, traceOf } from "./model_play.ts";
import { asides } from "./model_postgres.ts";
import {
  bind,
  closeOf,
  copyDone,
  execute,
  functionCall,
  parse,
  query,
  runs,
  type Script,
  single,
  sync,
} from "./model_scripts.ts";
import { concat, Stage, type StageNode } from "./stage.ts";

const nodes = 3;

type Move =
  | { readonly kind: "client"; readonly bytes: number }
  | { readonly kind: "node"; readonly id: number; readonly messages: number }
  /** Its connection ends, and of what it has said this many bytes still arrive. */
  | { readonly kind: "lose"; readonly id: number; readonly bytes: number }
  /** A node that is gone leaves the cluster. */
  | { readonly kind: "detach"; readonly id: number };

const id = fc.nat(nodes - 1);
const arrivals = fc.oneof(fc.nat(40), fc.constant(10_000));
const anyMove: fc.Arbitrary<Move> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant("client"), bytes: fc.nat(150) }) },
  {
    weight: 16,
    arbitrary: fc.record({ kind: fc.constant("node"), id, messages: fc.nat({ max: 4 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("lose"),
      id: fc.constantFrom(0, 0, 1, 2),
      bytes: arrivals,
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("detach"), id }) },
);

function lose(stage: Stage, node: StageNode, bytes: number): void {
  if (stage.nodes.filter(({ gone }) => !gone).length === 1) return;
  stage.arrive(node, bytes);
  node.gone = true;
  stage.session.nodeLost(node.link, "lost");
}

function detach(stage: Stage, node: StageNode): void {
  stage.setStatus(node.id, "down");
  stage.session.nodeLost(node.link, "detached");
}

function check(script: Script, moves: readonly Move[], draws: readonly number[]): void {
  const happened: string[] = [];
  let drawn = 0;
  const stage = new Stage({
    nodes,
    mode: "native_replication",
    random: () => draws[drawn++ % draws.length] ?? 0.5,
    onNode: (node, bytes) => {
      for (const frame of new FrameDecoder({ bodySizeMax: 0x3fff_ffff }).push(bytes.slice()))
        happened.push(`  to ${node} ${traceFrontend(frame)}`);
    },
    onClient: (bytes) => happened.push(`client is sent ${bytes.length} bytes`),
  });
  const report = new Report();
  report.note(
    "the client said",
    script.map((raw) => traceFrontend(frameOf(raw))),
  );
  report.note("what happened", happened);
  const stream = concat(script);
  let at = 0;
  for (const move of moves) {
    if (move.kind === "client") {
      stage.say(stream.slice(at, at + move.bytes));
      at += move.bytes;
      continue;
    }
    const node = stage.nodes[move.id] as StageNode;
    if (move.kind === "detach" ? !node.gone : node.gone) continue;
    if (move.kind !== "node") happened.push(`${move.kind} ${move.id}`);
    if (move.kind === "node") stage.hear(node, move.messages);
    else if (move.kind === "lose") lose(stage, node, move.bytes);
    else detach(stage, node);
  }
  for (const node of stage.nodes) if (node.gone) detach(stage, node);
  stage.say(stream.slice(at));
  stage.settle();
  if (stage.ended !== undefined) report.fail(`it has ended: ${JSON.stringify(stage.ended)}`);
  if (stage.session.busy) report.fail("answers are owed");
  const { rows } = compare(stage, script, report);
  const survivors = stage.nodes.filter(({ gone }) => !gone).map(({ id }) => stage.stores[id]);
  const held = survivors.map((store) => ({ rows: store?.rows, sequence: store?.sequence }));
  const isTrue = script.some(endsWithin) || held[0]?.rows === rows;
  if (!isTrue || held.some((each) => !Bun.deepEquals(each, held[0]))) {
    report.fail(`${rows} rows should be there, and there are ${JSON.stringify(held)}`);
  }
}

/** Work before an end within a pipeline lasts a little longer where something fails between them. */
function endsWithin(raw: Uint8Array): boolean {
  const said = decodeFrontend(frameOf(raw));
  return said.kind === "Parse" && /^(?:BEGIN|COMMIT|ROLLBACK|DISCARD)/.test(said.sql);
}

/** What one server holds in the end that has failed the same as its client was told. */
function compare(stage: Stage, script: Script, report: Report) {
  const told = [...new FrameDecoder({ bodySizeMax: 0x3fff_ffff }).push(stage.seen)]
    .filter((frame) => !asides.has(decodeBackend(frame).kind))
    .map(({ raw }) => raw);
  const lines = traceOf(told);
  const losses = new Map<number, Uint8Array>();
  for (;;) {
    const { said, store } = alone(script, losses);
    const expected = traceOf(said.filter((raw) => !asides.has(decodeBackend(frameOf(raw)).kind)));
    const length = Math.max(lines.length, expected.length);
    const wrong = Array.from({ length }, (_, i) => i).find(
      (i) => !isSame(expected[i] ?? "", lines[i] ?? ""),
    );
    if (wrong === undefined) return store;
    const raw = told[wrong];
    if (raw !== undefined && tellsOfLoss(raw) && !losses.has(wrong)) {
      losses.set(wrong, raw);
      continue;
    }
    report.note("expected", expected);
    report.note("told", lines);
    return report.fail(`message ${wrong}: expected ${expected[wrong]}, got ${lines[wrong]}`);
  }
}

function tellsOfLoss(raw: Uint8Array): boolean {
  const message = decodeBackend(frameOf(raw));
  if (message.kind !== "ErrorResponse") return false;
  return errorField(message, "M")?.startsWith("unable to read data from DB node") === true;
}

const all: Move = { kind: "client", bytes: 1000 };
/** Works off its question of the catalogs, and then our BEGIN and the client's first message. */
const hears = (messages: number): Move => ({ kind: "node", id: 0, messages });
const dies = (id: number): Move => ({ kind: "lose", id, bytes: 0 });

const cases: readonly (readonly [title: string, script: Script, moves: readonly Move[]])[] = [
  [
    "a statement that only the node which died has parsed is prepared on the others",
    [parse("s1", "INSERT INTO t VALUES (1)"), ...runs("s1"), ...runs("s1")],
    [all, hears(8), hears(9), dies(0)],
  ],
  [
    "a statement that was parsed before a deadlock is prepared on the nodes that were spared both",
    [
      parse("s1", "INSERT INTO t VALUES (1)"),
      parse("", "UPDATE busy SET n = 1"),
      ...runs(""),
      ...runs("s1"),
    ],
    [],
  ],
  [
    "what is closed behind a deadlock is closed on the nodes that were spared both",
    [
      ...[parse("s1", "INSERT INTO t VALUES ($1)"), sync],
      ...[closeOf("S", "s1"), parse("", "UPDATE busy SET n = 1"), ...runs("")],
      ...[parse("", "DEALLOCATE s1"), ...runs("")],
    ],
    [],
  ],
  [
    "what only the node which died has parsed is closed in a failed transaction",
    [
      ...[parse("s1", "SELECT 1/0"), sync],
      ...[query("BEGIN"), execute("missing"), sync],
      ...[closeOf("S", "s1"), parse("s1", "ROLLBACK"), ...runs("s1")],
    ],
    [{ kind: "client", bytes: 26 }, { kind: "node", id: 1, messages: 9 }, dies(1)],
  ],
  [
    "a read that another node has repeated, and that has failed there, is known there",
    [parse("s1", "SELECT 1/0"), ...runs("s1"), ...runs("s1")],
    [all, dies(1)],
  ],
  [
    "BEGIN in the extended protocol is answered in full though the main node dies of it",
    [parse("", "BEGIN"), ...runs(""), query("SELECT n FROM t"), query("COMMIT")],
    [all, dies(0)],
  ],
  [
    "a COMMIT that cannot be bound leaves no node in the failed transaction",
    [
      query("BEGIN"),
      parse("", "COMMIT"),
      bind("", "", ["1"]),
      execute(""),
      sync,
      query("ROLLBACK"),
      query("BEGIN"),
      query("INSERT INTO t VALUES (1)"),
      query("COMMIT"),
    ],
    [],
  ],
  [
    "a function call leaves the unnamed statement alone",
    [parse("", "SELECT 1"), sync, functionCall, ...runs("")],
    [],
  ],
];
for (const [title, script, moves] of cases) test(title, () => check(script, moves, [0]));

test(
  "whichever nodes are lost, the client is told what one server would have told it",
  () => {
    fc.assert(
      fc.property(
        fc.array(single, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
        fc.array(anyMove, { minLength: 1, maxLength: 80 }),
        fc.array(chance, { minLength: 1, maxLength: 4 }),
        check,
      ),
      { seed, numRuns, includeErrorInReport: true },
    );
  },
  timeoutMs,
);
