/**
 * The claim the proxy stands on: whatever a client says, and however bytes are cut and nodes hurry
 * or dawdle, the client of a cluster is told exactly what one PostgreSQL would have told it.
 */
import { describe, test } from "bun:test";
import fc from "fast-check";
import { FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { encodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";
import { encodeText } from "../../core/wire/text.ts";
import { traceBackend, traceFrontend } from "../../core/wire/trace.ts";
import { ModelPostgres } from "./model_postgres.ts";
import { ModelStore } from "./model_sql.ts";
import { concat, Stage } from "./stage.ts";

// The gate asks the same questions each time; for others: FC_SEED=$RANDOM FC_RUNS=20000 bun test …
const { FC_SEED, FC_RUNS } = process.env;
const seed = Number(FC_SEED ?? 20_261_122);
const numRuns = Number(FC_RUNS ?? 500);
/** A second each when nothing else is running. */
const timeoutMs = 60_000;

// ---------------------------------------------------------------- what clients say

const reads = [
  "SELECT 1",
  "SELECT n FROM t",
  "SELECT generate_series(1, 5)",
  "SHOW statement_timeout",
];
const failures = ["SELECT 1/0", "SELCT", "SELECT n FROM missing", "INSERT INTO missing VALUES (1)"];
const writes = ["INSERT INTO t VALUES (1)", "SELECT nextval('s')"];
const boundaries = [
  "BEGIN",
  "BEGIN ISOLATION LEVEL SERIALIZABLE",
  "COMMIT",
  "ROLLBACK",
  "COMMIT AND CHAIN",
  "ROLLBACK AND CHAIN",
  "SAVEPOINT a",
  "ROLLBACK TO a",
  "RELEASE a",
];
const settings = [
  "SET statement_timeout = '7'",
  "SET statement_timeout = '8'",
  "SET application_name = 'app'",
  "SHOW application_name",
];
const prepared = [
  "PREPARE q AS SELECT 7",
  "PREPARE r AS INSERT INTO t VALUES (1)",
  "EXECUTE q",
  "EXECUTE r",
  "DEALLOCATE q",
  "DEALLOCATE s1",
  "DEALLOCATE ALL",
  "DISCARD ALL",
];
const others = [
  "",
  "COPY t TO STDOUT",
  "LISTEN c",
  "NOTIFY c",
  "DECLARE c CURSOR FOR SELECT generate_series(1, 4)",
  "FETCH 2 FROM c",
  "CLOSE c",
];
const several = [
  "SELECT 1; INSERT INTO t VALUES (1)",
  "INSERT INTO t VALUES (1); SELECT 1/0",
  "BEGIN; SELECT n FROM t",
  "SELECT 1; COMMIT",
];

const pick = (...lists: readonly (readonly string[])[]) => fc.constantFrom(...lists.flat());
const anySql = fc.oneof(
  { weight: 5, arbitrary: pick(reads) },
  { weight: 4, arbitrary: pick(writes) },
  { weight: 4, arbitrary: pick(boundaries) },
  { weight: 2, arbitrary: pick(failures) },
  { weight: 1, arbitrary: pick(settings) },
  { weight: 1, arbitrary: pick(prepared) },
  { weight: 1, arbitrary: pick(others) },
);

const statementName = fc.constantFrom("", "s1", "s2");
const portalName = fc.constantFrom("", "p1");

const message = (m: FrontendMessage): Uint8Array => encodeFrontend(m);
const query = (sql: string) => message({ kind: "Query", sql });
const parse = (statement: string, sql: string) =>
  message({ kind: "Parse", statement, sql, parameterTypes: [] });
const bind = (portal: string, statement: string, values: readonly string[] = []) =>
  message({
    kind: "Bind",
    portal,
    statement,
    parameterFormats: [],
    parameters: values.map(encodeText),
    resultFormats: [],
  });
const describeOf = (target: "S" | "P", name: string) => message({ kind: "Describe", target, name });
const execute = (portal: string, rowsMax = 0) => message({ kind: "Execute", portal, rowsMax });
const closeOf = (target: "S" | "P", name: string) => message({ kind: "Close", target, name });
const sync = message({ kind: "Sync" });
const flush = message({ kind: "Flush" });
const copyData = (text: string) => message({ kind: "CopyData", data: encodeText(text) });
const copyDone = message({ kind: "CopyDone" });
const functionCall = message({
  kind: "FunctionCall",
  functionId: 1,
  argumentFormats: [],
  arguments: [],
  resultFormat: 0,
});

type Script = readonly Uint8Array[];

/** One statement through the extended protocol, as a driver sends it. */
const whole = fc
  .tuple(statementName, portalName, anySql, fc.boolean())
  .map(
    ([name, portal, sql, described]): Script => [
      ...(name === "" ? [] : [closeOf("S", name)]),
      parse(name, sql),
      ...(described ? [describeOf("S", name)] : []),
      ...(portal === "" ? [] : [closeOf("P", portal)]),
      bind(portal, name),
      ...(described ? [describeOf("P", portal)] : []),
      execute(portal),
    ],
  );
const withParameter = fc
  .tuple(fc.constantFrom("SELECT $1", "SELECT 1/$1", "INSERT INTO t VALUES ($1)"), fc.nat(2))
  .map(([sql, value]): Script => [parse("", sql), bind("", "", [String(value)]), execute("")]);
/** Pieces of the protocol in any order, sensible or not. */
const piece = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(statementName, anySql).map(([name, sql]) => parse(name, sql)) },
  { weight: 4, arbitrary: statementName.map((name) => bind("", name)) },
  { weight: 5, arbitrary: fc.tuple(portalName, fc.nat(3)).map(([p, n]) => execute(p, n)) },
  { weight: 1, arbitrary: statementName.map((name) => describeOf("S", name)) },
  { weight: 1, arbitrary: portalName.map((name) => describeOf("P", name)) },
  { weight: 1, arbitrary: statementName.map((name) => closeOf("S", name)) },
  { weight: 1, arbitrary: portalName.map((name) => closeOf("P", name)) },
  { weight: 1, arbitrary: fc.constant(flush) },
);
const copy = fc
  .array(fc.constantFrom("1\n", "2\n", "bad\n", "3\n"), { maxLength: 4 })
  .map((lines) => lines.map(copyData));
const copyEnd = fc.oneof(
  { weight: 3, arbitrary: fc.constant(copyDone) },
  { weight: 1, arbitrary: fc.constant(message({ kind: "CopyFail", reason: "no" })) },
);
const simpleCopy = fc
  .tuple(copy, copyEnd)
  .map(([data, end]): Script => [query("COPY t FROM STDIN"), ...data, end]);
/** As libpq does: a Sync that COPY swallows, and one that it does not. */
const extendedCopy = fc
  .tuple(copy, copyEnd, fc.boolean())
  .map(
    ([data, end, early]): Script => [
      parse("", "COPY t FROM STDIN"),
      bind("", ""),
      execute(""),
      ...(early ? [sync] : []),
      ...data,
      end,
      sync,
    ],
  );

const segment = fc
  .tuple(
    fc.array(
      fc.oneof(
        whole,
        withParameter,
        piece.map((one): Script => [one]),
      ),
      { maxLength: 5 },
    ),
  )
  .map(([parts]): Script => [...parts.flat(), sync]);
const block = fc.oneof(
  { weight: 6, arbitrary: anySql.map((sql): Script => [query(sql)]) },
  { weight: 1, arbitrary: pick(several).map((sql): Script => [query(sql)]) },
  { weight: 6, arbitrary: segment },
  { weight: 1, arbitrary: simpleCopy },
  { weight: 1, arbitrary: extendedCopy },
  { weight: 1, arbitrary: fc.constant<Script>([functionCall]) },
);

// ---------------------------------------------------------------- how it is played

/** What one server alone answers. */
function alone(script: Script): { said: Uint8Array[]; misuse: readonly string[] } {
  const server = new ModelPostgres({ store: new ModelStore() });
  const said: Uint8Array[] = [];
  for (const each of script) {
    server.feed(each);
    said.push(...server.run());
  }
  return { said, misuse: server.sql.misuse };
}

/**
 * Chances for who moves next and by how much, then in turn until nothing moves. Whoever is full says
 * so to each write; who is paused is not read from.
 */
function play(stage: Stage, script: Script, moves: readonly number[]): void {
  const stream = concat(script);
  const { nodes, client } = stage;
  let at = 0;
  const clientSays = (size: number) => {
    const chunk = stream.slice(at, at + size);
    at += chunk.length;
    if (chunk.length > 0) stage.say(chunk);
  };
  for (const move of moves) {
    const actor = move % (2 + 3 * nodes.length);
    const much = 1 + Math.floor(move / (2 + 3 * nodes.length));
    const node = nodes[Math.floor((actor - 2) / 3)];
    if (actor === 0) clientSays(much);
    else if (actor === 1) stage.clientFull(!client.full);
    else if (node === undefined) throw new Error(`nobody is actor ${actor}`);
    else if (actor % 3 === 0) stage.nodeFull(node, !node.sink.full);
    else if (actor % 3 === 1) node.work(1 + (much % 3));
    else if (!node.sink.paused) stage.arrive(node, much);
  }
  clientSays(Number.POSITIVE_INFINITY);
  stage.clientFull(false);
  for (const node of nodes) stage.nodeFull(node, false);
  stage.settle();
}

const traceOf = (frames: readonly Uint8Array[]) => frames.map((raw) => traceBackend(frameOf(raw)));

function framesIn(stream: Uint8Array): string[] {
  const decoder = new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
  const lines = [...decoder.push(stream)].map((frame) => traceBackend(frame));
  return decoder.buffered === 0 ? lines : [...lines, `and ${decoder.buffered} bytes`];
}

const terminate = message({ kind: "Terminate" });

/** All that happened, for whoever must understand a failure. */
class Report {
  readonly #lines: string[] = [];

  note(title: string, lines: readonly string[]): void {
    this.#lines.push(`${title}:`, ...lines.map((line) => `    ${line.replaceAll("\t", " ")}`));
  }

  fail(why: string): never {
    throw new Error([why, ...this.#lines].join("\n"));
  }
}

function check(nodes: number, script: Script, moves: readonly number[], draws: readonly number[]) {
  const happened: string[] = [];
  let drawn = 0;
  const decoders = new Map<string, FrameDecoder>();
  const log = (who: string, bytes: Uint8Array, trace: typeof traceBackend) => {
    const decoder = decoders.get(who) ?? new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
    decoders.set(who, decoder);
    for (const frame of decoder.push(bytes.slice())) happened.push(`${who} ${trace(frame)}`);
  };
  const stage = new Stage({
    nodes,
    random: () => draws[drawn++ % draws.length] ?? 0.5,
    onNode: (id, bytes) => log(`  to ${id}`, bytes, traceFrontend),
    onClient: (bytes) => log("to client", bytes, traceBackend),
  });
  play(stage, script, moves);
  const told = framesIn(stage.seen);
  const standard = alone(script);
  const expected = traceOf(standard.said);
  const report = new Report();
  report.note(
    "the client said",
    script.map((raw) => traceFrontend(frameOf(raw))),
  );
  report.note("what happened", happened);
  report.note("expected", expected);
  const misuse = stage.nodes
    .flatMap((node) => node.server.sql.misuse)
    .filter((what) => !standard.misuse.includes(what));
  if (misuse.length > 0) report.fail(misuse.join(", "));
  if (stage.dropped.length > 0) report.fail(`dropped ${stage.dropped.join(", ")}`);
  const wrong = expected.findIndex((line, index) => !isSame(line, told[index] ?? ""));
  if (wrong >= 0) report.fail(`expected ${expected[wrong]}, got ${told[wrong]}`);
  if (told.length > expected.length) report.fail(`too much: ${told[expected.length]}`);
  if (stage.session.replies.size > 0) report.fail(`${stage.session.replies.size} answers owed`);
  const paused = [stage.client, ...stage.nodes.map((node) => node.sink)].filter(
    (sink) => sink.paused,
  );
  if (paused.length > 0) report.fail(`${paused.length} still paused`);
  stage.say(terminate);
  stage.settle();
  if (stage.ended?.kind !== "terminate") report.fail("Terminate did not end the session");
}

/**
 * A message in a failed transaction may be wrong for another reason too. Which of the two the client
 * is told may differ where a statement or portal has to be sought on another node.
 */
function isSame(expected: string, told: string): boolean {
  const isError = (line: string) => line.includes("ErrorResponse");
  const aborted = expected.includes('"25P02"') || told.includes('"25P02"');
  return expected === told || (aborted && isError(expected) && isError(told));
}

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
  if (stage.session.replies.size > 0) report.fail(`${stage.session.replies.size} answers owed`);
  const told = happened.length;
  stage.say(query("ROLLBACK"));
  stage.settle();
  if (happened.at(-1) !== "B\t5\tReadyForQuery\t I" || happened.length === told) {
    report.fail("the session is of no further use");
  }
}

const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

describe("the client of a cluster sees what one PostgreSQL would have said", () => {
  for (const nodes of [1, 2, 3]) {
    test(
      `with ${nodes} nodes`,
      () => {
        fc.assert(
          fc.property(
            // Ends that leave nobody waiting for data.
            fc.array(block, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
            fc.array(fc.nat(500), { maxLength: 60 }),
            fc.array(chance, { minLength: 1, maxLength: 4 }),
            (script, moves, draws) => check(nodes, script, moves, draws),
          ),
          { seed, numRuns, includeErrorInReport: true },
        );
      },
      timeoutMs,
    );
  }
});

test(
  "whichever standbys are lost, every request is concluded and the session goes on",
  () => {
    fc.assert(
      fc.property(
        fc.array(block, { maxLength: 8 }).map((blocks) => [...blocks.flat(), copyDone, sync]),
        fc.array(fc.nat(150), { minLength: 1, maxLength: 60 }),
        fc.constantFrom([0], [1], [0, 1], [1, 0]),
        checkLosses,
      ),
      { seed, numRuns, includeErrorInReport: true },
    );
  },
  timeoutMs,
);
