/**
 * Where the tokens of a statement stand, by PostgreSQL's lexical rules (manual section "Lexical
 * Structure", standard_conforming_strings on). The parse tree says what stands where something
 * begins; this says where it ends.
 */

export type Token = {
  readonly kind: "word" | "quoted" | "string" | "number" | "parameter" | "sign";
  /** Indexes into the text, not bytes. A string takes in its prefix and its continuation lines. */
  readonly from: number;
  readonly to: number;
};

const blanks = /(?:\s|--[^\n\r]*)+/y;
const word = /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/y;
const number = /0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?/y;
const parameter = /\$\d+/y;
const dollarQuote = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y;
const quotedName = /(?:[uU]&)?"(?:[^"]|"")*"/y;
const plainString = /(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'/y;
const escapeString = /[eE]'(?:[^'\\]|''|\\[\s\S])*'/y;
/** A string goes on behind blanks that hold the end of a line. */
const continuation = /(?:[^\S\n\r]|--[^\n\r]*)*[\n\r](?:\s|--[^\n\r]*)*(?=')/y;
const plainRest = /'(?:[^']|'')*'/y;
const escapeRest = /'(?:[^'\\]|''|\\[\s\S])*'/y;

function matchEnd(pattern: RegExp, sql: string, at: number): number | undefined {
  pattern.lastIndex = at;
  return pattern.test(sql) ? pattern.lastIndex : undefined;
}

/** Behind blanks and comments. */
function skipBlank(sql: string, from: number): number {
  let at = from;
  for (;;) {
    const behind = matchEnd(blanks, sql, at) ?? at;
    if (!sql.startsWith("/*", behind)) return behind;
    at = commentEnd(sql, behind);
  }
}

/** Comments nest; one that is not closed takes the rest of the text. */
function commentEnd(sql: string, open: number): number {
  let depth = 1;
  let at = open + 2;
  while (at < sql.length && depth > 0) {
    if (sql.startsWith("*/", at)) depth--;
    else if (sql.startsWith("/*", at)) depth++;
    else {
      at++;
      continue;
    }
    at += 2;
  }
  return at;
}

function stringEnd(sql: string, at: number): number | undefined {
  const escaped = matchEnd(escapeString, sql, at);
  let end = escaped ?? matchEnd(plainString, sql, at);
  while (end !== undefined) {
    const next = matchEnd(continuation, sql, end);
    if (next === undefined) break;
    const rest = matchEnd(escaped === undefined ? plainRest : escapeRest, sql, next);
    if (rest === undefined) break;
    end = rest;
  }
  return end;
}

function dollarEnd(sql: string, at: number): number | undefined {
  const open = matchEnd(dollarQuote, sql, at);
  if (open === undefined) return undefined;
  const close = sql.indexOf(sql.slice(at, open), open);
  return close < 0 ? undefined : close + open - at;
}

/** The token that begins at `at`, which is no blank. */
function tokenAt(sql: string, at: number): Token {
  const found = (kind: Token["kind"], to: number): Token => ({ kind, from: at, to });
  const string = stringEnd(sql, at) ?? dollarEnd(sql, at);
  if (string !== undefined) return found("string", string);
  const quoted = matchEnd(quotedName, sql, at);
  if (quoted !== undefined) return found("quoted", quoted);
  const name = matchEnd(word, sql, at);
  if (name !== undefined) return found("word", name);
  const digits = matchEnd(number, sql, at);
  if (digits !== undefined) return found("number", digits);
  const numbered = matchEnd(parameter, sql, at);
  if (numbered !== undefined) return found("parameter", numbered);
  // Operators of several characters are taken apart, which is all the same to whoever looks here.
  return found("sign", sql.startsWith("::", at) ? at + 2 : at + 1);
}

/** All tokens of a text that the grammar has accepted; of any other text, something. */
export function tokensOf(sql: string): readonly Token[] {
  const tokens: Token[] = [];
  for (let at = skipBlank(sql, 0); at < sql.length; ) {
    const token = tokenAt(sql, at);
    tokens.push(token);
    at = skipBlank(sql, token.to);
  }
  return tokens;
}

/**
 * The tokens of one statement text with the questions that rewriting asks of them. Positions of the
 * tree are bytes of UTF-8; those here are indexes of tokens or of the text.
 */
export class TokenText {
  readonly sql: string;
  readonly tokens: readonly Token[];
  /** For each byte of the UTF-8 the index in the text; null when they are the same. Made when wanted. */
  #bytes: Uint32Array | null | undefined;

  constructor(sql: string) {
    this.sql = sql;
    this.tokens = tokensOf(sql);
  }

  /** The index of the token that begins at this byte; undefined when none does. */
  tokenAtByte(byte: number): number | undefined {
    if (this.#bytes === undefined) this.#bytes = textIndexes(this.sql);
    return this.tokenAt(this.#bytes === null ? byte : this.#bytes[byte]);
  }

  /** The index of the token that begins at this index of the text. */
  tokenAt(at: number | undefined): number | undefined {
    if (at === undefined) return undefined;
    let low = 0;
    let high = this.tokens.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.fromOf(middle) < at) low = middle + 1;
      else high = middle;
    }
    return this.fromOf(low) === at ? low : undefined;
  }

  /** Beyond the last token: the end of the text. */
  fromOf(index: number): number {
    return this.tokens[index]?.from ?? this.sql.length;
  }

  toOf(index: number): number {
    return this.tokens[index]?.to ?? this.sql.length;
  }

  /** A sign, or a keyword in any case; a quoted name is neither. */
  is(index: number, text: string): boolean {
    const token = this.tokens[index];
    if (token === undefined || token.to - token.from !== text.length) return false;
    if (token.kind !== "word" && token.kind !== "sign") return false;
    return this.sql.slice(token.from, token.to).toLowerCase() === text;
  }

  word(index: number): string {
    const token = this.tokens[index];
    return token?.kind === "word" ? this.sql.slice(token.from, token.to).toLowerCase() : "";
  }

  /** The index of the `)` or `]` that closes the one at `open`; the number of tokens if none does. */
  close(open: number): number {
    let depth = 0;
    for (let index = open; index < this.tokens.length; index++) {
      if (this.is(index, "(") || this.is(index, "[")) depth++;
      else if (this.is(index, ")") || this.is(index, "]")) depth--;
      if (depth === 0) return index;
    }
    return this.tokens.length;
  }

  /** Behind a name with its qualifications that begins at `index`. */
  nameEnd(index: number): number {
    let at = index + 1;
    while (this.is(at, ".")) at += 2;
    return at;
  }

  /** The tokens from `from` to `to` cut at the commas between them; `to` is not among them. */
  items(from: number, to: number): readonly { readonly from: number; readonly to: number }[] {
    const items: { from: number; to: number }[] = [];
    let start = from;
    for (let at = from; at < to; at++) {
      if (this.is(at, "(") || this.is(at, "[")) at = this.close(at);
      else if (this.is(at, ",")) {
        items.push({ from: start, to: at });
        start = at + 1;
      }
    }
    if (start < to) items.push({ from: start, to });
    return items;
  }
}

function textIndexes(sql: string): Uint32Array | null {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: all of ASCII is meant.
  if (/^[\x00-\x7f]*$/.test(sql)) return null;
  const indexes = new Uint32Array(3 * sql.length + 1);
  let byte = 0;
  for (let at = 0; at < sql.length; at++) {
    indexes[byte] = at;
    const code = sql.codePointAt(at) ?? 0;
    // A lone surrogate, which stands for some other byte, went to the grammar as U+FFFD.
    byte += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x1_0000 ? 3 : 4;
    if (code >= 0x1_0000) at++;
  }
  indexes[byte] = sql.length;
  return indexes;
}
