/**
 * Whichever servers are lost, and whenever: each request of the client is concluded, what it was told
 * is true of the data, and the session goes on unless it held what no other server has.
 */
import { test } from "bun:test";
import fc from "fast-check";
import { decodeBackend, encodeBackend, errorField } from "../../core/wire/backend.ts";
import { type Frame, FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend } from "../../core/wire/frontend.ts";
import { traceBackend, traceFrontend } from "../../core/wire/trace.ts";
import { alone, numRuns, Report, seed, timeoutMs, traceOf } from "./model_play.ts";
import { copyDone, query, type Script, steady, sync } from "./model_scripts.ts";
import { concat, Stage, type StageNode } from "./stage.ts";

const conclusions = (lines: readonly string[]) =>
  lines.filter((line) => line.includes("ReadyForQuery")).length;

/** Standbys go, one after the other, at any moments. */
function checkLosses(script: Script, moves: readonly number[], losses: readonly number[]) {
  const happened: string[] = [];
  const decoder = new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
  const stage = new Stage({
    nodes: 3,
    settings: { statement_level_load_balance: "on" },
    random: () => (happened.length * 0.37) % 1,
    onClient: (bytes) => {
      for (const frame of decoder.push(bytes.slice())) happened.push(traceBackend(frame));
    },
  });
  const standbys = stage.nodes.slice(1);
  const rounds = Math.max(1, Math.ceil(moves.length / (losses.length + 1)));
  const stream = concat(script);
  let at = 0;
  for (const [index, move] of moves.entries()) {
    const node = stage.nodes[move % 4];
    if (node === undefined) {
      stage.say(stream.slice(at, at + move));
      at += move;
    } else if (!node.gone) {
      node.work(1 + (move % 3));
      stage.arrive(node, 1 + (move >> 2));
    }
    const lost = standbys[losses[Math.floor(index / rounds)] ?? 9];
    if (index % rounds === rounds - 1 && lost !== undefined && !lost.gone) {
      lost.gone = true;
      happened.push(`node ${lost.id} is lost`);
      stage.session.nodeLost(lost.link, "lost");
    }
  }
  stage.say(stream.slice(at));
  stage.settle();
  // Half a row cannot be followed by anything: then the session has ended instead.
  if (stage.ended !== undefined) return;
  const report = new Report();
  report.note(
    "the client said",
    script.map((raw) => traceFrontend(frameOf(raw))),
  );
  report.note("what happened", happened);
  if (decoder.buffered > 0) report.fail(`${decoder.buffered} bytes of a message`);
  const due = conclusions(traceOf(alone(script).said));
  if (conclusions(happened) !== due) report.fail(`not ${due} but ${conclusions(happened)}`);
  if (stage.session.busy) report.fail("answers are owed");
  const told = happened.length;
  stage.say(query("ROLLBACK"));
  stage.settle();
  if (happened.at(-1) !== "B\t5\tReadyForQuery\t I" || happened.length === told) {
    report.fail("the session is of no further use");
  }
}

test(
  "whichever standbys are lost, every request is concluded and the session goes on",
  () => {
    fc.assert(
      fc.property(
        fc.array(steady, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
        fc.array(fc.nat(150), { minLength: 1, maxLength: 60 }),
        fc.constantFrom([0], [1], [0, 1], [1, 0]),
        checkLosses,
      ),
      { seed, numRuns, includeErrorInReport: true },
    );
  },
  timeoutMs,
);

// ---------------------------------------------------------------- the node that takes writes, too

/** What a client may conclude from what it is told. */
class Ledger {
  /** Rows that have been added for certain. */
  committed = 0;
  /** It has been told that it cannot know. */
  isUncertain = false;
  readonly contradictions: string[] = [];
  #pending = 0;
  #status = "I";
  #copiesOut = false;
  #heard = { began: false, ended: false, error: false };

  note(frame: Frame): void {
    const told = decodeBackend(frame);
    switch (told.kind) {
      case "CommandComplete":
        this.#done(told.tag);
        break;
      case "FunctionCallResponse":
        this.#pending++;
        break;
      case "CopyOutResponse":
        this.#copiesOut = true;
        break;
      case "ErrorResponse":
        this.#pending = 0;
        this.#copiesOut = false;
        this.#heard.error = true;
        if (errorField(told, "H")?.startsWith("It may have been executed")) this.isUncertain = true;
        break;
      case "ReadyForQuery":
        this.#ready(told.status);
        break;
      default:
    }
  }

  #done(tag: string): void {
    const [, added = "0"] = /^(?:INSERT 0|COPY) (\d+)$/.exec(tag) ?? [];
    if (!this.#copiesOut) this.#pending += Number(added);
    this.#copiesOut = false;
    if (tag === "BEGIN") this.#heard.began = true;
    if (tag !== "COMMIT" && tag !== "ROLLBACK") return;
    this.#heard.ended = true;
    if (tag === "COMMIT") this.committed += this.#pending;
    this.#pending = 0;
  }

  #ready(status: string): void {
    const before = this.#status;
    const { began, ended, error } = this.#heard;
    const isExplained =
      before === status ||
      (status === "I" && (ended || error)) ||
      (before === "I" && (began || ended)) ||
      (before === "T" && error) ||
      (before === "E" && ended);
    if (!isExplained) this.contradictions.push(`${before} and then ${status} for no reason`);
    if (status === "I") this.committed += this.#pending;
    if (status !== "T") this.#pending = 0;
    this.#status = status;
    this.#heard = { began: false, ended: false, error: false };
  }
}

type Move =
  | { readonly kind: "client"; readonly bytes: number }
  | {
      readonly kind: "node";
      readonly id: number;
      readonly messages: number;
      readonly bytes: number;
    }
  | { readonly kind: "tasks" }
  | { readonly kind: "slow"; readonly id: number; readonly full: boolean }
  /** `goodbye`: it says so, and of what it has said this many bytes still arrive. */
  | {
      readonly kind: "lose";
      readonly id: number;
      readonly goodbye: boolean;
      readonly bytes: number;
    }
  | { readonly kind: "verdict"; readonly alive: boolean }
  /** By order of an operator. */
  | { readonly kind: "detach"; readonly id: number }
  /** In use again, but not by sessions that have lost it. */
  | { readonly kind: "attach"; readonly id: number }
  | { readonly kind: "notice" }
  | { readonly kind: "promote"; readonly id: number }
  | { readonly kind: "renew"; readonly id: number };

const anyNode = fc.nat(2);
const arrivals = fc.oneof(fc.nat(40), fc.constant(10_000));
const anyMove: fc.Arbitrary<Move> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: fc.constant("client"), bytes: fc.nat(150) }) },
  {
    weight: 10,
    arbitrary: fc.record({
      kind: fc.constant("node"),
      id: anyNode,
      messages: fc.nat(4),
      bytes: arrivals,
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("tasks") }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("slow"), id: fc.nat(3), full: fc.boolean() }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("lose"),
      id: fc.constantFrom(0, 0, 0, 1, 2),
      goodbye: fc.boolean(),
      bytes: arrivals,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("verdict"),
      alive: fc.constantFrom(false, false, false, false, true),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("notice") }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("detach"), id: anyNode }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("attach"), id: anyNode }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("promote"), id: anyNode }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("renew"), id: anyNode }) },
);

const goodbyeMessage = encodeBackend({
  kind: "ErrorResponse",
  fields: Object.entries({ S: "FATAL", V: "FATAL", C: "57P01", M: "shutting down" }).map(
    ([code, value]) => ({ code, value }),
  ),
});

/** Servers that come and go under a session, as its runner and the control plane would tell it. */
class Fate {
  readonly stage: Stage;
  readonly happened: string[];
  /** The server that said goodbye was still there: the session had been meant. */
  wasMeant = false;

  constructor(stage: Stage, happened: string[]) {
    this.stage = stage;
    this.happened = happened;
  }

  move(move: Exclude<Move, { kind: "client" }>): void {
    const { stage } = this;
    const node = "id" in move ? stage.nodes[move.id] : undefined;
    switch (move.kind) {
      case "tasks":
        stage.runTasks();
        return;
      case "slow":
        if (node === undefined) stage.clientFull(move.full);
        else if (!node.gone) stage.nodeFull(node, move.full);
        return;
      case "verdict":
        this.#judge(move.alive);
        return;
      case "notice":
        if (!this.#settled) stage.failOver();
        return;
      case "renew":
        this.#renew(move.id);
        return;
      case "attach":
        if (node?.gone && this.#settled) stage.setStatus(move.id, "up");
        return;
    }
    if (node === undefined || node.gone) return;
    switch (move.kind) {
      case "node":
        node.work(move.messages);
        if (!node.sink.paused) stage.arrive(node, move.bytes);
        return;
      case "lose":
        this.#lose(node, move.goodbye, move.bytes);
        return;
      case "detach":
        this.happened.push(`node ${move.id} is detached`);
        stage.setStatus(move.id, "down");
        if (stage.state.primary === move.id) stage.failOver();
        stage.session.retire(node.link);
        return;
      case "promote":
        if (!this.#settled && this.#isUp(node)) this.#promote(node);
    }
  }

  /** There is a live node that takes writes, as far as the control plane knows. */
  get #settled(): boolean {
    const { primary, ongoing } = this.stage.state;
    return ongoing === undefined && this.stage.nodes[primary ?? 9]?.gone === false;
  }

  #isUp = ({ id }: StageNode): boolean => this.stage.state.nodes[id]?.status === "up";

  #lose(node: StageNode, goodbye: boolean, bytes: number): void {
    this.happened.push(`node ${node.id} is lost${goodbye ? " with a goodbye" : ""}`);
    if (goodbye) node.put(goodbyeMessage);
    if (!node.sink.paused) this.stage.arrive(node, bytes);
    node.gone = true;
    this.stage.session.nodeLost(node.link, "lost");
  }

  #judge(alive: boolean): void {
    const link = this.stage.judging.shift();
    if (link === undefined) return;
    this.happened.push(`it was ${alive ? "" : "not "}meant`);
    if (alive) this.wasMeant = true;
    this.stage.session.verdict(link, alive);
  }

  #promote(node: StageNode): void {
    this.happened.push(`node ${node.id} is promoted`);
    this.stage.promote(node);
  }

  #renew(id: number): void {
    const { stage } = this;
    const { session, homeless, nodes } = stage;
    if (nodes[id]?.gone !== true || !homeless || !session.writeLink.lost) return;
    if (!session.leftNothing || stage.ended !== undefined) return;
    this.happened.push(`node ${id} is there on a new connection`);
    stage.renew(id);
  }

  /** In the end all is well. False when there is no node that the session could write to. */
  conclude(): boolean {
    const { stage } = this;
    for (let round = 0; round < 10; round++) {
      for (const node of stage.nodes) if (!node.gone) stage.nodeFull(node, false);
      stage.clientFull(false);
      stage.settle();
      if (stage.judging.length > 0) this.#judge(false);
      else if (stage.ended !== undefined || !stage.session.writeLink.lost) return true;
      else {
        const next = stage.nodes.find((node) => !node.gone && this.#isUp(node));
        if (this.#settled) stage.session.nodesChanged();
        else if (next !== undefined) this.#promote(next);
        else if (stage.homeless && !stage.session.leftNothing) return false;
        else this.#renew(0);
      }
    }
    return true;
  }
}

/** Each INSERT is another, so that it can be told how often it was executed. */
function distinct(script: Script): Script {
  let serial = 100;
  const renamed = (sql: string) =>
    sql.startsWith("PREPARE")
      ? sql
      : sql.replace("INSERT INTO t VALUES (1)", () => `INSERT INTO t VALUES (${serial++})`);
  return script.map((raw) => {
    const said = decodeFrontend(frameOf(raw));
    return said.kind === "Query" || said.kind === "Parse"
      ? encodeFrontend({ ...said, sql: renamed(said.sql) })
      : raw;
  });
}

function checkWrites(nodes: number, anew: boolean, said: Script, moves: readonly Move[]) {
  const script = distinct(said);
  const happened: string[] = [];
  const decoder = new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
  const ledger = new Ledger();
  const inputs = new WeakMap<StageNode, FrameDecoder>();
  const stage = new Stage({
    nodes,
    settings: { statement_level_load_balance: anew ? "on" : "off" },
    random: () => (happened.length * 0.37) % 1,
    onNode: (id, bytes) => {
      const node = stage.nodes[id] as StageNode;
      const input = inputs.get(node) ?? new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
      inputs.set(node, input);
      for (const frame of input.push(bytes.slice()))
        happened.push(`  to ${id} ${traceFrontend(frame)}`);
    },
    onClient: (bytes) => {
      for (const frame of decoder.push(bytes.slice())) {
        happened.push(traceBackend(frame));
        ledger.note(frame);
      }
    },
  });
  const fate = new Fate(stage, happened);
  const report = new Report();
  report.note(
    "the client said",
    script.map((raw) => traceFrontend(frameOf(raw))),
  );
  report.note("what happened", happened);
  const stream = concat(script);
  let at = 0;
  for (const move of moves) {
    if (stage.ended !== undefined) break;
    if (move.kind !== "client") fate.move(move);
    else if (!stage.client.paused) {
      stage.say(stream.slice(at, at + move.bytes));
      at += move.bytes;
    }
  }
  if (stage.ended === undefined) stage.say(stream.slice(at));
  if (!fate.conclude()) return;
  const sqls = script.map(sqlOf);
  checkData(stage, ledger, script, report);
  const { ended, session } = stage;
  if (ended !== undefined) {
    const listened = sqls.some((sql) => sql.startsWith("LISTEN"));
    if (decoder.buffered === 0 && !fate.wasMeant && !listened) report.fail(JSON.stringify(ended));
    if (decoder.buffered === 0 && !happened.some((line) => line.includes('"FATAL"'))) {
      report.fail("the session ended without a word");
    }
    return;
  }
  if (decoder.buffered > 0) report.fail(`${decoder.buffered} bytes of a message`);
  const due = script.filter((raw) => "QFS".includes(String.fromCharCode(raw[0] ?? 0))).length;
  const told = conclusions(happened);
  // A COPY that is bound once more swallows a Sync, if it comes so far.
  const mayCopyAgain = script.some((raw) => raw[0] === 0x50 && sqlOf(raw).startsWith("COPY"));
  if (told > due || (told < due && !mayCopyAgain)) report.fail(`not ${due} but ${told}`);
  if (session.busy) report.fail("answers are owed");
  const sinks = [stage.client, ...stage.nodes.filter(({ gone }) => !gone).map(({ sink }) => sink)];
  if (sinks.some(({ paused }) => paused)) report.fail("somebody is still paused");
  const before = happened.length;
  stage.say(query("ROLLBACK"));
  if (!fate.conclude()) return;
  if (happened.at(-1) !== "B\t5\tReadyForQuery\t I" || happened.length === before) {
    report.fail("the session is of no further use");
  }
}

const sqlOf = (raw: Uint8Array): string => {
  const said = decodeFrontend(frameOf(raw));
  return said.kind === "Query" || said.kind === "Parse" ? said.sql : "";
};

/** What the client was told is what is there, and nothing was done twice. */
function checkData(stage: Stage, ledger: Ledger, script: Script, report: Report): void {
  const { store } = stage;
  if (ledger.contradictions.length > 0) report.fail(ledger.contradictions.join(", "));
  if (ledger.committed > store.rows) {
    report.fail(`${ledger.committed} rows are committed, it was told, but there are ${store.rows}`);
  }
  const sqls = script.map(sqlOf);
  const mayKnow = !ledger.isUncertain && stage.ended === undefined;
  if (
    mayKnow &&
    !sqls.some((sql) => /SAVEPOINT|ROLLBACK TO/.test(sql)) &&
    ledger.committed < store.rows
  ) {
    report.fail(`it was told of ${ledger.committed} rows, but there are ${store.rows}`);
  }
  const executions = script.filter((raw) => raw[0] === 0x45).length;
  for (const raw of script) {
    const insert = /INSERT INTO t VALUES \(\d{3}\)/.exec(sqlOf(raw))?.[0];
    const times = insert === undefined ? 0 : (store.executed.get(insert) ?? 0);
    if (times > (raw[0] === 0x51 ? 1 : executions)) report.fail(`${times} times ${insert}`);
  }
  const misuse = stage.nodes.flatMap((node) => node.server.sql.misuse);
  const onStandby = misuse.filter((what) => what.includes("on a standby"));
  if (onStandby.length > 0) report.fail(onStandby.join(", "));
}

test(
  "whichever nodes are lost, each request is concluded once, and what the client is told is true",
  () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3 }),
        fc.boolean(),
        fc.array(steady, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
        fc.array(anyMove, { minLength: 1, maxLength: 80 }),
        checkWrites,
      ),
      { seed, numRuns, includeErrorInReport: true },
    );
  },
  timeoutMs,
);
