/**
 * Expressions that tell the time, which two servers never do alike: the calls, keywords and
 * constants for which the main node's answer is put (spec routing/native-replication.md 4.3).
 * Beyond Pgpool-II's list: transaction_timestamp(), statement_timestamp(), clock_timestamp(),
 * timeofday(), and the constants 'today', 'tomorrow' and 'yesterday'.
 */

import {
  anyField,
  childList,
  childNode,
  isNode,
  nameParts,
  numberField,
  type TreeNode,
  textField,
  unwrap,
} from "./parse_tree.ts";

export type TimeSpot = {
  readonly form: "call" | "keyword" | "constant";
  /** What the main node computes: a value of type text. */
  readonly asked: string;
  /** The type that the expression has, to be written in a CAST. */
  readonly type: string;
  /** The name that PostgreSQL gives a column made of it. */
  readonly name: string;
  /** It is the same throughout a transaction, whatever settings change meanwhile. */
  readonly steady: boolean;
  /** The type was given a precision. */
  readonly precise: boolean;
};

/**
 * A moment as text that is read again as what it was, whatever the session's DateStyle is; a date or
 * a time of day can be read from it as well.
 */
const momentSql = (expression: string): string =>
  `pg_catalog.to_char(${expression}, 'YYYY-MM-DD HH24:MI:SS.USOF')`;

const now = momentSql("pg_catalog.now()");
const timestamptz = "pg_catalog.timestamptz";

const calls: ReadonlyMap<string, Pick<TimeSpot, "asked" | "type" | "steady">> = new Map([
  ["now", { asked: now, type: timestamptz, steady: true }],
  ["transaction_timestamp", { asked: now, type: timestamptz, steady: true }],
  ...["statement_timestamp", "clock_timestamp"].map((name) => {
    const asked = momentSql(`pg_catalog.${name}()`);
    return [name, { asked, type: timestamptz, steady: false }] as const;
  }),
  ["timeofday", { asked: "pg_catalog.timeofday()", type: "pg_catalog.text", steady: false }],
]);

const keywordTypes: ReadonlyMap<string, string> = new Map([
  ["CURRENT_DATE", "date"],
  ["CURRENT_TIME", "timetz"],
  ["CURRENT_TIMESTAMP", "timestamptz"],
  ["LOCALTIME", "time"],
  ["LOCALTIMESTAMP", "timestamp"],
]);
const timeTypes: ReadonlySet<string> = new Set(keywordTypes.values());

const timeWords: ReadonlySet<string> = new Set(["now", "today", "tomorrow", "yesterday"]);

/** Whether the string constant between these indexes would tell the time, were it cast. */
export function isTimeWord(sql: string, from = 0, to = sql.length): boolean {
  if (to - from < 3 || to - from > 16) return false;
  return timeWords.has(sql.slice(from, to).trim().toLowerCase());
}

/** What the node under this tag tells of the time, if anything. */
export function timeSpotOf(tag: string, node: unknown): TimeSpot | undefined {
  if (!isNode(node)) return undefined;
  switch (tag) {
    case "FuncCall":
      return callOf(node);
    case "SQLValueFunction":
      return keywordOf(node);
    case "TypeCast":
      return constantOf(node);
    default:
      return undefined;
  }
}

function callOf(node: TreeNode): TimeSpot | undefined {
  const parts = nameParts(childList(node, "funcname"));
  const name = parts.at(-1) ?? "";
  const call = calls.get(name);
  if (call === undefined || childList(node, "args").length > 0) return undefined;
  if (parts.length > 1 && parts.at(-2) !== "pg_catalog") return undefined;
  return { form: "call", name, precise: false, ...call };
}

/** With a precision the operator's name ends in _N. */
function keywordOf(node: TreeNode): TimeSpot | undefined {
  const [, word = "", precise] = /^SVFOP_(.*?)(_N)?$/.exec(textField(node, "op")) ?? [];
  const type = keywordTypes.get(word);
  if (type === undefined) return undefined;
  const precision = precise === undefined ? "" : `(${numberField(node, "typmod")})`;
  return {
    form: "keyword",
    asked: now,
    type: `pg_catalog.${type}${precision}`,
    name: word.toLowerCase(),
    steady: type === "timestamptz",
    precise: precise !== undefined,
  };
}

/** `'now'::date`, `TIMESTAMP 'now'`, `'now'::text::time` and the like. */
function constantOf(node: TreeNode): TimeSpot | undefined {
  const type = nameParts(childList(childNode(node, "typeName") ?? {}, "names"));
  const name = type.at(-1) ?? "";
  if (!timeTypes.has(name) || (type.length > 1 && type.at(-2) !== "pg_catalog")) return undefined;
  const constant = timeConstant(node);
  const text = textField(childNode(constant ?? {}, "sval") ?? {}, "sval");
  if (!isTimeWord(text)) return undefined;
  const word = text.trim().toLowerCase();
  const asked = word === "now" ? now : momentSql(`CAST('${word}' AS ${timestamptz})`);
  const steady = name === "timestamptz" && word === "now";
  return { form: "constant", asked, type: `pg_catalog.${name}`, name, steady, precise: false };
}

/** The constant below a cast to a time type, or below a cast to text below that. */
export function timeConstant(cast: TreeNode): TreeNode | undefined {
  const direct = unwrap(anyField(cast, "arg"), "A_Const");
  if (direct !== undefined) return direct;
  const inner = unwrap(anyField(cast, "arg"), "TypeCast");
  if (inner === undefined) return undefined;
  const type = nameParts(childList(childNode(inner, "typeName") ?? {}, "names")).at(-1);
  return type === "text" ? unwrap(anyField(inner, "arg"), "A_Const") : undefined;
}
