/** What the clients of the model tests say: sensible and not, in one protocol, the other and both. */
import fc from "fast-check";
import { encodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";
import { encodeText } from "../../core/wire/text.ts";

const reads = [
  "SELECT 1",
  "SELECT n FROM t",
  "SELECT generate_series(1, 5)",
  "SHOW statement_timeout",
];
const failures = [
  "SELECT 1/0",
  "SELCT",
  "SELECT n FROM missing",
  "INSERT INTO missing VALUES (1)",
  "UPDATE busy SET n = 1",
];
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
  "COMMIT; INSERT INTO t VALUES (1)",
];
const severalWithCopy = ["BEGIN; COPY t FROM STDIN; COMMIT"];

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

export const message = (m: FrontendMessage): Uint8Array => encodeFrontend(m);
export const query = (sql: string) => message({ kind: "Query", sql });
export const parse = (statement: string, sql: string) =>
  message({ kind: "Parse", statement, sql, parameterTypes: [] });
export const bind = (portal: string, statement: string, values: readonly string[] = []) =>
  message({
    kind: "Bind",
    portal,
    statement,
    parameterFormats: [],
    parameters: values.map(encodeText),
    resultFormats: [],
  });
export const execute = (portal: string, rowsMax = 0) =>
  message({ kind: "Execute", portal, rowsMax });
export const closeOf = (target: "S" | "P", name: string) =>
  message({ kind: "Close", target, name });
export const describeOf = (target: "S" | "P", name: string) =>
  message({ kind: "Describe", target, name });
export const sync = message({ kind: "Sync" });
const flush = message({ kind: "Flush" });
const copyData = (text: string) => message({ kind: "CopyData", data: encodeText(text) });
export const copyDone = message({ kind: "CopyDone" });
export const functionCall = message({
  kind: "FunctionCall",
  functionId: 1,
  argumentFormats: [],
  arguments: [],
  resultFormat: 0,
});

export type Script = readonly Uint8Array[];

/** Binds and executes a statement in a segment of its own. */
export const runs = (name: string): Script => [bind("", name), execute(""), sync];

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
/** One write for many rows. */
const many = fc
  .tuple(
    statementName,
    fc.array(fc.tuple(fc.constantFrom("1", "1", "bad"), fc.boolean()), { maxLength: 4 }),
  )
  .map(
    ([name, rows]): Script => [
      ...(name === "" ? [] : [closeOf("S", name)]),
      parse(name, "INSERT INTO t VALUES ($1)"),
      ...rows.flatMap(([value, described]) => [
        bind("", name, [value]),
        ...(described ? [describeOf("P", "")] : []),
        execute(""),
      ]),
    ],
  );
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
  .tuple(
    fc.constantFrom("", "SELECT 1; ", "BEGIN; ", "INSERT INTO t VALUES (1); "),
    copy,
    copyEnd,
    fc.constantFrom("", "; SELECT 1", "; COMMIT"),
  )
  .map(
    ([before, data, end, after]): Script => [
      query(`${before}COPY t FROM STDIN${after}`),
      ...data,
      end,
    ],
  );
const twoCopies = fc
  .tuple(copy, copyEnd, copy, copyEnd)
  .map(
    ([first, firstEnd, second, secondEnd]): Script => [
      query("COPY t FROM STDIN; COPY t FROM STDIN"),
      ...first,
      firstEnd,
      ...second,
      secondEnd,
    ],
  );
/** COPY reads what is not for it, or has failed before. */
const brokenCopy = fc
  .tuple(copy, anySql, copy)
  .map(
    ([data, sql, more]): Script => [
      query("COPY t FROM STDIN"),
      ...data,
      query(sql),
      ...more,
      copyDone,
    ],
  );
/** As libpq does: a Sync that COPY swallows, and one that it does not. */
const copyOf = (early: fc.Arbitrary<boolean>) =>
  fc
    .tuple(copy, copyEnd, early)
    .map(
      ([data, end, isEarly]): Script => [
        parse("", "COPY t FROM STDIN"),
        bind("", ""),
        execute(""),
        ...(isEarly ? [sync] : []),
        ...data,
        end,
        sync,
      ],
    );
const extendedCopy = copyOf(fc.boolean());

const segment = fc
  .tuple(
    fc.array(
      fc.oneof(
        whole,
        withParameter,
        many,
        piece.map((one): Script => [one]),
      ),
      { maxLength: 5 },
    ),
  )
  .map(([parts]): Script => [...parts.flat(), sync]);
/** A simple query takes the place of a Sync, or is discarded with the rest of a segment. */
const interrupted = fc
  .tuple(segment, anySql)
  .map(([parts, sql]): Script => [...parts.slice(0, -1), query(sql), sync]);
const plain = [
  { weight: 6, arbitrary: anySql.map((sql): Script => [query(sql)]) },
  { weight: 6, arbitrary: segment },
  { weight: 1, arbitrary: fc.constant<Script>([functionCall]) },
];
const answered = [
  ...plain,
  { weight: 1, arbitrary: pick(several).map((sql): Script => [query(sql)]) },
  { weight: 1, arbitrary: simpleCopy },
  { weight: 1, arbitrary: twoCopies },
];
/** Reads that come again and again, as a driver sends them. */
export const reading = fc
  .tuple(
    fc.constantFrom(
      "SELECT n FROM t",
      "SELECT n FROM t",
      "SELECT generate_series(1, 5)",
      "SELECT $1",
    ),
    fc.constantFrom("simple", "parsed", "bound"),
    fc.boolean(),
    fc.nat(1),
  )
  .map(([sql, way, described, value]): Script => {
    const hasParameter = sql.includes("$1");
    if (way === "simple" && !hasParameter) return [query(sql)];
    return [
      ...(way === "bound" ? [] : [parse("", sql)]),
      bind("", "", hasParameter ? [String(value)] : []),
      ...(described ? [describeOf("P", "")] : []),
      execute(""),
      sync,
    ];
  });
const whatever = [
  ...answered,
  { weight: 1, arbitrary: pick(severalWithCopy).map((sql): Script => [query(sql)]) },
  { weight: 1, arbitrary: brokenCopy },
  { weight: 1, arbitrary: extendedCopy },
];
/**
 * Each Query, FunctionCall and Sync of it is answered, whether a COPY before it began or not: with a
 * BEGIN that was lost, a COPY that its failed transaction would have refused reads what comes next.
 */
const steadyCopy = { weight: 1, arbitrary: copyOf(fc.constant(false)) };
export const steady = fc.oneof(...answered, steadyCopy);
/** Each message has one statement at most. */
export const single = fc.oneof(...plain, steadyCopy);
export const block = fc.oneof(...whatever, { weight: 1, arbitrary: interrupted });
