/**
 * `PGPOOL SHOW …`, `PGPOOL SET …`, `PGPOOL RESET …`, and ours, `PGPOOL EXPLAIN ROUTE …`: statements
 * unknown to PostgreSQL's grammar, hence read here by hand (spec config/show.md sections 10 and 11).
 */

export type PgpoolCommand =
  | { readonly kind: "show"; readonly name: string }
  | { readonly kind: "show_all" }
  | { readonly kind: "set"; readonly name: string; readonly value: string }
  | { readonly kind: "set_default"; readonly name: string }
  | { readonly kind: "cache_delete"; readonly query: string }
  | { readonly kind: "reset"; readonly name: string }
  | { readonly kind: "reset_all" }
  /** `sql`: all that follows, from its first character that is no blank. */
  | { readonly kind: "explain_route"; readonly sql: string };

const blank = String.raw`(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)`;
const introduction = new RegExp(`^${blank}*pgpool(?=\\s|/\\*|--)`, "i");
const explainRoute = new RegExp(`^${blank}+explain${blank}+route(?![\\w$])\\s*`, "i");
/** A word, a quoted identifier, a string, a number or one of `= , ;`. */
const tokenPattern = new RegExp(
  `${blank}*(?:("(?:[^"]|"")*")|('(?:[^']|'')*')|([A-Za-z_][\\w$.]*|[+-]?[\\d.]+\\w*)|([=,;]))`,
  "y",
);

type Token = { readonly kind: "word" | "quoted" | "string" | "sign"; readonly text: string };

/**
 * Characters of a command, and of what stands before the statement of EXPLAIN ROUTE, which may be as
 * long as any. Beyond that we do not look: to read tens of megabytes so would keep all clients waiting.
 */
const COMMAND_LENGTH_MAX = 16 * 1024;

/** Undefined when the text is not such a command, or is one with a mistake in it. */
export function pgpoolCommandOf(sql: string): PgpoolCommand | undefined {
  const head = sql.length > COMMAND_LENGTH_MAX ? sql.slice(0, COMMAND_LENGTH_MAX) : sql;
  const start = introduction.exec(head);
  if (start === null) return undefined;
  const rest = head.slice(start[0].length);
  const explained = explainRoute.exec(rest);
  if (explained !== null) {
    const statement = sql.slice(start[0].length + explained[0].length);
    return statement === "" ? undefined : { kind: "explain_route", sql: statement };
  }
  if (sql.length > COMMAND_LENGTH_MAX) return undefined;
  const tokens = tokensOf(rest);
  return tokens === undefined ? undefined : commandOf(tokens);
}

/** The tokens of the first statement; undefined when something else stands in it. */
function tokensOf(text: string): readonly Token[] | undefined {
  const tokens: Token[] = [];
  tokenPattern.lastIndex = 0;
  while (tokenPattern.lastIndex < text.length) {
    const at = tokenPattern.lastIndex;
    const match = tokenPattern.exec(text);
    if (match === null) return isBlank(text.slice(at)) ? tokens : undefined;
    const [, quoted, string, word, sign] = match;
    if (sign === ";") return tokens;
    if (quoted !== undefined) tokens.push({ kind: "quoted", text: unquote(quoted, '"') });
    else if (string !== undefined) tokens.push({ kind: "string", text: unquote(string, "'") });
    else if (word !== undefined) tokens.push({ kind: "word", text: word });
    else tokens.push({ kind: "sign", text: sign ?? "" });
  }
  return tokens;
}

const blankOnly = new RegExp(`^${blank}*(?:--[^\\n]*)?$`);
const isBlank = (text: string): boolean => blankOnly.test(text);

function unquote(text: string, quote: string): string {
  return text.slice(1, -1).replaceAll(quote + quote, quote);
}

function commandOf(tokens: readonly Token[]): PgpoolCommand | undefined {
  const [verb, subject, ...rest] = tokens;
  const name = subject === undefined ? undefined : nameOf(subject);
  if (verb?.kind !== "word" || subject === undefined || name === undefined) return undefined;
  const all = subject.kind === "word" && name === "all";
  switch (verb.text.toLowerCase()) {
    case "show":
      if (rest.length > 0) return undefined;
      return all ? { kind: "show_all" } : { kind: "show", name };
    case "reset":
      if (rest.length > 0) return undefined;
      return all ? { kind: "reset_all" } : { kind: "reset", name };
    case "set":
      return setCommandOf(name, rest);
    default:
      return undefined;
  }
}

function nameOf(token: Token): string | undefined {
  if (token.kind === "word") return token.text.toLowerCase();
  return token.kind === "quoted" ? token.text : undefined;
}

function setCommandOf(name: string, rest: readonly Token[]): PgpoolCommand | undefined {
  const [assign, ...values] = rest;
  const first = values[0];
  if (assign === undefined || first === undefined) return undefined;
  const word = assign.text.toLowerCase();
  if (name === "cache" && word === "delete" && values.length === 1 && first.kind === "string") {
    return { kind: "cache_delete", query: first.text };
  }
  const assigns = assign.text === "=" || (assign.kind === "word" && word === "to");
  if (!assigns) return undefined;
  if (values.length === 1 && first.kind === "word" && first.text.toLowerCase() === "default") {
    return { kind: "set_default", name };
  }
  const value = listValue(values);
  return value === undefined ? undefined : { kind: "set", name, value };
}

/** `a, b` as one value, the parts joined as PostgreSQL joins them. */
function listValue(tokens: readonly Token[]): string | undefined {
  const parts: string[] = [];
  for (const [index, token] of tokens.entries()) {
    const separates = token.kind === "sign";
    if (separates !== (index % 2 === 1) || (separates && token.text !== ",")) return undefined;
    if (!separates) parts.push(token.text);
  }
  return tokens.length % 2 === 1 ? parts.join(", ") : undefined;
}
