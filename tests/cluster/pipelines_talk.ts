/**
 * What a client may say in a sequence of the pipeline fuzzer: every message of the protocol in every
 * sensible order and many that are not. A sequence is a list of steps; after a step the client may
 * wait for answers, as an interactive one does, or go on at once, as one that pipelines does.
 */
import fc from "fast-check";
import { encodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";
import { encodeText } from "../../core/wire/text.ts";
import * as sql from "./pipelines_sql.ts";

export type Step = {
  readonly messages: readonly Uint8Array[];
  /** ReadyForQuery that the messages earn whatever happens; in a COPY gone wrong perhaps fewer. */
  readonly ready: number;
  /**
   * What to wait for before the next step: all ReadyForQuery earned so far, at least one answer (or
   * an error in this segment, behind which there is none), nothing.
   */
  readonly wait: "ready" | "answer" | "nothing";
};

type Script = readonly Uint8Array[];

const message = (m: FrontendMessage): Uint8Array => encodeFrontend(m);
export const query = (text: string) => message({ kind: "Query", sql: text });
const parse = (statement: string, text: string, parameterTypes: readonly number[] = []) =>
  message({ kind: "Parse", statement, sql: text, parameterTypes });
type Binding = {
  readonly values?: readonly (string | null)[];
  readonly parameterFormats?: readonly number[];
  readonly resultFormats?: readonly number[];
};
const bind = (portal: string, statement: string, binding: Binding = {}) =>
  message({
    kind: "Bind",
    portal,
    statement,
    parameterFormats: binding.parameterFormats ?? [],
    parameters: (binding.values ?? []).map((v) => (v === null ? null : encodeText(v))),
    resultFormats: binding.resultFormats ?? [],
  });
const describeOf = (target: "S" | "P", name: string) => message({ kind: "Describe", target, name });
const execute = (portal: string, rowsMax = 0) => message({ kind: "Execute", portal, rowsMax });
const closeOf = (target: "S" | "P", name: string) => message({ kind: "Close", target, name });
const copyData = (text: string) => message({ kind: "CopyData", data: encodeText(text) });
const copyFail = message({ kind: "CopyFail", reason: "no more" });
export const copyDone = message({ kind: "CopyDone" });
export const sync = message({ kind: "Sync" });
export const flush = message({ kind: "Flush" });

const pick = (...lists: readonly (readonly string[])[]) => fc.constantFrom(...lists.flat());
const anySql = fc.oneof(
  { weight: 7, arbitrary: pick(sql.reads) },
  { weight: 5, arbitrary: pick(sql.writes) },
  { weight: 6, arbitrary: pick(sql.boundaries) },
  { weight: 3, arbitrary: pick(sql.failures) },
  { weight: 2, arbitrary: pick(sql.settings) },
  { weight: 2, arbitrary: pick(sql.prepared) },
  { weight: 2, arbitrary: pick(sql.cursors) },
  { weight: 1, arbitrary: pick(sql.temporaries) },
  { weight: 1, arbitrary: pick(sql.others) },
);
const statementName = fc.constantFrom("", "", "s1", "s2");
/** `c` is also what SQL calls its cursor. */
const portalName = fc.constantFrom("", "", "p1", "c");
const rowsMax = fc.constantFrom(0, 0, 0, 1, 2, 3);

/** One statement through the extended protocol, as a driver sends it. */
const whole = fc
  .tuple(statementName, portalName, anySql, fc.nat(7), rowsMax)
  .map(
    ([name, portal, text, options, rows]): Script => [
      ...(name !== "" && (options & 1) === 0 ? [closeOf("S", name)] : []),
      parse(name, text),
      ...((options & 2) === 0 ? [describeOf("S", name)] : []),
      ...(portal !== "" && (options & 1) === 0 ? [closeOf("P", portal)] : []),
      bind(portal, name),
      ...((options & 4) === 0 ? [describeOf("P", portal)] : []),
      execute(portal, rows),
      ...(rows === 0 ? [] : [execute(portal, 1), execute(portal)]),
    ],
  );

const bindings: readonly Binding[] = [
  { values: ["1"] },
  { values: ["0"] },
  { values: ["6"] },
  { values: [null] },
  { values: ["word"] },
  { values: ["\0\0\0\u0002"], parameterFormats: [1] },
  { values: ["3"], resultFormats: [1] },
  { values: ["3"], resultFormats: [0, 1] },
  { values: ["4"], resultFormats: [1, 1, 1, 1, 1] },
  { values: [] },
  { values: ["1", "2"] },
  { values: ["5"], parameterFormats: [0, 0] },
];
const parameterTypes = fc.constantFrom<readonly number[]>([], [], [0], [23], [25], [23, 25]);
const bound = fc
  .tuple(statementName, pick(sql.withParameter), parameterTypes, fc.constantFrom(...bindings))
  .map(
    ([name, text, types, binding]): Script => [
      closeOf("S", name),
      parse(name, text, types),
      bind("", name, binding),
      describeOf("P", ""),
      execute(""),
    ],
  );

/** Pieces of the protocol in any order, sensible or not. */
const piece = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.tuple(statementName, anySql).map(([name, text]) => parse(name, text)),
  },
  {
    weight: 5,
    arbitrary: fc.tuple(portalName, statementName).map(([portal, name]) => bind(portal, name)),
  },
  { weight: 6, arbitrary: fc.tuple(portalName, rowsMax).map(([p, rows]) => execute(p, rows)) },
  { weight: 2, arbitrary: statementName.map((name) => describeOf("S", name)) },
  { weight: 2, arbitrary: portalName.map((name) => describeOf("P", name)) },
  { weight: 1, arbitrary: statementName.map((name) => closeOf("S", name)) },
  { weight: 1, arbitrary: portalName.map((name) => closeOf("P", name)) },
  { weight: 1, arbitrary: fc.constant(flush) },
);

const extendedParts = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: whole },
      { weight: 2, arbitrary: bound },
      { weight: 4, arbitrary: piece.map((one): Script => [one]) },
    ),
    { maxLength: 5 },
  )
  .map((parts): Script => parts.flat());

const step = (messages: Script, ready: number, wait: Step["wait"]): Step => ({
  messages,
  ready,
  wait,
});
const goesOn = fc.constantFrom<Step["wait"]>("ready", "ready", "nothing", "nothing", "nothing");

const simple = fc
  .tuple(anySql, goesOn)
  .map(([text, wait]): Step[] => [step([query(text)], 1, wait)]);
const multiple = fc
  .tuple(pick(sql.several), goesOn)
  .map(([text, wait]): Step[] => [step([query(text)], 1, wait)]);
const segment = fc
  .tuple(extendedParts, goesOn)
  .map(([parts, wait]): Step[] => [step([...parts, sync], 1, wait)]);
/** Reads each answer before it says the next thing, with Flush and no Sync until the end. */
const flushed = fc
  .array(fc.oneof(whole, bound), { minLength: 1, maxLength: 3 })
  .map((parts): Step[] => [
    ...parts.flat().map((one) => step([one, flush], 0, "answer")),
    step([sync], 1, "ready"),
  ]);
/** A simple query in the middle of a segment ends it. */
const interrupted = fc
  .tuple(extendedParts, anySql, fc.boolean())
  .map(([parts, text, syncs]): Step[] => [
    step([...parts, query(text), ...(syncs ? [sync] : [])], 0, "nothing"),
    step([sync], 1, "nothing"),
  ]);
const call = (functionId: number, ...values: readonly string[]) =>
  message({
    kind: "FunctionCall",
    functionId,
    argumentFormats: [],
    arguments: values.map(encodeText),
    resultFormat: 0,
  });
/** int4pl, int4div; one that does not exist. */
const functionCall = fc
  .constantFrom(call(177, "1", "2"), call(154, "1", "0"), call(177, "1"), call(4_000_000_000))
  .map((one): Step[] => [step([one], 1, "ready")]);
/** Stray messages that PostgreSQL ignores outside of COPY. */
const stray = fc
  .constantFrom(copyData("stray\n"), copyDone, copyFail, flush)
  .map((one): Step[] => [step([one], 0, "nothing")]);
const definition = fc
  .tuple(pick(sql.definitions), fc.boolean())
  .map(([text, extended]): Step[] => [
    step([query("ROLLBACK")], 1, "nothing"),
    extended
      ? step([parse("", text), bind("", ""), describeOf("P", ""), execute(""), sync], 1, "nothing")
      : step([query(text)], 1, "nothing"),
  ]);

/**
 * PostgreSQL refuses these behind other statements of a pipeline, which pgpool may have sent to
 * another node; so they stand alone.
 */
const alone = fc
  .tuple(pick(sql.alone), fc.boolean())
  .map(([text, extended]): Step[] => [
    extended
      ? step([parse("", text), bind("", ""), describeOf("P", ""), execute(""), sync], 1, "nothing")
      : step([query(text)], 1, "nothing"),
  ]);

// ---------------------------------------------------------------- COPY

const copyLines = fc
  .array(fc.constantFrom("50\ta\n", "51\tb\n", "52\t", "c\n", "bad\n", "1\ttwice\n", "\\.\n"), {
    maxLength: 5,
  })
  .map((lines) => lines.map(copyData));
const copyEnd = fc.oneof(
  { weight: 3, arbitrary: fc.constant(copyDone) },
  { weight: 1, arbitrary: fc.constant(copyFail) },
);
const copyInto = fc.constantFrom(
  "COPY t FROM STDIN",
  "COPY t FROM STDIN",
  "COPY t (n) FROM STDIN",
  "COPY tmp FROM STDIN",
  "COPY missing FROM STDIN",
  "COPY t FROM STDIN WITH (FORMAT csv, DELIMITER E'\\t')",
);
const simpleCopy = fc
  .tuple(copyInto, copyLines, copyEnd, goesOn)
  .map(([into, data, end, wait]): Step[] => [step([query(into), ...data, end], 1, wait)]);
const severalCopies = fc
  .tuple(
    fc.constantFrom(
      "COPY t FROM STDIN; COPY t FROM STDIN",
      "BEGIN; COPY t FROM STDIN; COMMIT",
      "COPY t FROM STDIN; SELECT 1/0",
      "SELECT 1; COPY t FROM STDIN; SELECT n FROM t ORDER BY n",
    ),
    copyLines,
    copyLines,
    copyEnd,
  )
  .map(([text, first, second, end]): Step[] => [
    step([query(text), ...first, copyDone, ...second, end, copyDone, sync], 1, "nothing"),
  ]);
/** As libpq does: a Sync that COPY swallows, and one that it does not. */
const extendedCopy = fc
  .tuple(extendedParts, copyInto, copyLines, copyEnd, fc.nat(3))
  .map(([before, into, data, end, options]): Step[] => [
    step(
      [
        ...((options & 2) === 0 ? before : []),
        parse("", into),
        bind("", ""),
        execute(""),
        ...((options & 1) === 0 ? [sync] : []),
        ...data,
        end,
        sync,
      ],
      1,
      "nothing",
    ),
  ]);
/** COPY fails of its data, of which more is under way, and so is the next query. */
const failedCopy = fc
  .tuple(copyInto, copyLines, anySql, copyLines)
  .map(([into, before, text, after]): Step[] => [
    step(
      [query(into), ...before, copyData("\nbad\n"), query(text), ...after, copyDone],
      2,
      "nothing",
    ),
  ]);

/** What is no data while COPY reads: PostgreSQL ends the connection. */
const confusedCopy = fc
  .tuple(copyInto, copyLines, anySql, fc.nat(3))
  .map(([into, before, text, options]): Step[] => {
    const opening =
      (options & 1) === 0 ? [query(into)] : [parse("", into), bind("", ""), execute("")];
    const stray = (options & 2) === 0 ? [query(text)] : [parse("", text), sync];
    return [step([...opening, ...before, ...stray, copyDone, sync], 0, "nothing")];
  });

const block = fc.oneof(
  { weight: 14, arbitrary: simple },
  { weight: 3, arbitrary: multiple },
  { weight: 14, arbitrary: segment },
  { weight: 3, arbitrary: flushed },
  { weight: 2, arbitrary: interrupted },
  { weight: 1, arbitrary: functionCall },
  { weight: 1, arbitrary: stray },
  { weight: 1, arbitrary: definition },
  { weight: 2, arbitrary: alone },
  { weight: 1, arbitrary: simpleCopy },
  { weight: 1, arbitrary: severalCopies },
  { weight: 2, arbitrary: extendedCopy },
  { weight: 1, arbitrary: failedCopy },
  { weight: 1, arbitrary: confusedCopy },
);

const extended: ReadonlySet<string> = new Set(["P", "B", "D", "E", "C"]);

/**
 * PostgreSQL 15 dies of an Execute of the portal without a name when what it finds is left of a simple
 * query that has failed: its statements are freed memory by then. So that portal is closed first.
 */
function withoutRemains(steps: readonly Step[]): readonly Step[] {
  let remains = false;
  return steps.map((each) => ({
    ...each,
    messages: each.messages.flatMap((raw) => {
      const type = String.fromCharCode(raw[0] ?? 0);
      const closes = remains && extended.has(type);
      if (closes || type === "Q") remains = type === "Q";
      return closes ? [closeOf("P", ""), raw] : [raw];
    }),
  }));
}

export const sequence: fc.Arbitrary<readonly Step[]> = fc
  .array(block, { minLength: 1, maxLength: 12 })
  .map((blocks) => withoutRemains(blocks.flat()));

/** Out of whatever the sequence has left behind: a COPY that still reads, a segment, a transaction. */
export const wayOut: Script = [copyDone, sync, copyDone, sync, query("ROLLBACK"), sync];
