/**
 * What the tests with model servers share: how often, what one server alone says, how a cluster of
 * them is played, and reports.
 */
import fc from "fast-check";
import { FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { traceBackend, traceFrontend } from "../../core/wire/trace.ts";
import { type Losses, ModelPostgres } from "./model_postgres.ts";
import { message, type Script } from "./model_scripts.ts";
import { ModelStore } from "./model_sql.ts";
import { concat, Stage, type StageOptions } from "./stage.ts";

// The gate asks the same questions each time; for others: FC_SEED=$RANDOM FC_RUNS=20000 bun test …
const { FC_SEED, FC_RUNS } = process.env;
export const seed = Number(FC_SEED ?? 20_261_122);
export const numRuns = Number(FC_RUNS ?? 500);
/** A second each when nothing else is running. */
export const timeoutMs = Math.max(60_000, numRuns * 60);

/** What one server alone answers. */
export function alone(
  script: Script,
  losses: Losses = new Map(),
): { said: Uint8Array[]; misuse: readonly string[]; store: ModelStore } {
  const store = new ModelStore();
  const server = new ModelPostgres({ store, losses });
  const said: Uint8Array[] = [];
  for (const each of script) {
    server.feed(each);
    said.push(...server.run());
  }
  return { said, misuse: server.sql.misuse, store };
}

export const traceOf = (frames: readonly Uint8Array[]) =>
  frames.map((raw) => traceBackend(frameOf(raw)));

/** All that happened, for whoever must understand a failure. */
export class Report {
  readonly #parts: { readonly title: string; readonly lines: readonly string[] }[] = [];

  /** `lines` may grow until `fail`. */
  note(title: string, lines: readonly string[]): void {
    this.#parts.push({ title, lines });
  }

  fail(why: string): never {
    const told = this.#parts.flatMap(({ title, lines }) => [
      `${title}:`,
      ...lines.map((line) => `    ${line.replaceAll("\t", " ")}`),
    ]);
    throw new Error([why, ...told].join("\n"));
  }
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

function framesIn(stream: Uint8Array): string[] {
  const decoder = new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
  const lines = [...decoder.push(stream)].map((frame) => traceBackend(frame));
  return decoder.buffered === 0 ? lines : [...lines, `and ${decoder.buffered} bytes`];
}

const terminate = message({ kind: "Terminate" });

/** One cluster hears the script, and what it answers is compared. */
export function check(
  cluster: Cluster,
  script: Script,
  moves: readonly number[],
  draws: readonly number[],
): void {
  checkPlayed(cluster, script, (stage) => play(stage, script, moves), draws);
}

/** The same of a client that waits for its answers after each turn: only so can one come from memory. */
export function checkInTurn(
  cluster: Cluster,
  turns: readonly Script[],
  draws: readonly number[],
): void {
  const playInTurn = (stage: Stage) => {
    for (const turn of turns) {
      stage.say(concat(turn));
      stage.settle();
    }
  };
  checkPlayed(cluster, turns.flat(), playInTurn, draws);
}

type Cluster = Pick<StageOptions, "nodes" | "mode" | "cache">;

function checkPlayed(
  cluster: Cluster,
  script: Script,
  act: (stage: Stage) => void,
  draws: readonly number[],
): void {
  const happened: string[] = [];
  let drawn = 0;
  const decoders = new Map<string, FrameDecoder>();
  const log = (who: string, bytes: Uint8Array, trace: typeof traceBackend) => {
    const decoder = decoders.get(who) ?? new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
    decoders.set(who, decoder);
    for (const frame of decoder.push(bytes.slice())) happened.push(`${who} ${trace(frame)}`);
  };
  const stage = new Stage({
    ...cluster,
    random: () => draws[drawn++ % draws.length] ?? 0.5,
    onNode: (id, bytes) => log(`  to ${id}`, bytes, traceFrontend),
    onClient: (bytes) => log("to client", bytes, traceBackend),
  });
  act(stage);
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
  if (stage.session.busy) report.fail("answers are owed");
  const paused = [stage.client, ...stage.nodes.map((node) => node.sink)].filter(
    (sink) => sink.paused,
  );
  if (paused.length > 0) report.fail(`${paused.length} still paused`);
  const [first] = stage.stores;
  for (const store of stage.stores) {
    if (!Bun.deepEquals(store, first))
      report.fail(`the nodes differ: ${JSON.stringify(stage.stores)}`);
  }
  stage.say(terminate);
  stage.settle();
  if (stage.ended?.kind !== "terminate") report.fail("Terminate did not end the session");
}

/**
 * A message in a failed transaction may be wrong for another reason too. Which of the two the client
 * is told may differ where a statement or portal has to be sought on another node.
 */
export function isSame(expected: string, told: string): boolean {
  const isError = (line: string) => line.includes("ErrorResponse");
  const aborted = expected.includes('"25P02"') || told.includes('"25P02"');
  return expected === told || (aborted && isError(expected) && isError(told));
}

export const chance = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
