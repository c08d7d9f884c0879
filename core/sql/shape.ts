/**
 * The shape of a statement: its text with constants made equal, so that SQL that differs in them
 * alone is parsed once. PostgreSQL's lexical rules (manual section "Lexical Structure", with
 * standard_conforming_strings on) decide what a constant is; whatever is in doubt stays as it is,
 * which costs a parse and nothing else.
 *
 * The shape is itself SQL of the same structure: comments are emptied but kept where they were, a
 * constant becomes one of its own kind, and only the fourth and later of a list of constants, or
 * of equal rows of them, are left out.
 */

import { isTimeWord } from "./time_of_day.ts";

export type Shape = {
  readonly text: string;
  /**
   * Equal shapes have equal facts. False where facts depend on constants (SET, PREPARE, …), or
   * where the text could not be read with certainty.
   */
  readonly shareable: boolean;
  /** Another statement follows a top-level semicolon. */
  readonly multiStatement: boolean;
};

/** Statements whose facts do not depend on the constants in them. */
const shareableVerbs: ReadonlySet<string> = new Set([
  "select",
  "with",
  "values",
  "table",
  "insert",
  "update",
  "delete",
  "merge",
  "explain",
  "call",
]);

/** How many constants of a list, or equal rows, remain: the grammar counts up to three at most. */
const KEPT_MAX = 3;

export function shapeOf(sql: string): Shape {
  return new ShapeReader(sql).read();
}

const charKind = { other: 0, space: 1, letter: 2, digit: 3 } as const;
/** Kind of each ASCII character; beyond ASCII all are letters to PostgreSQL. */
const kinds = Uint8Array.from({ length: 128 }, (_, code) => {
  if (code === 32 || (code >= 9 && code <= 13)) return charKind.space;
  if (code >= 48 && code <= 57) return charKind.digit;
  return /[A-Za-z_]/.test(String.fromCharCode(code)) ? charKind.letter : charKind.other;
});
/** Past the end of a text the code is NaN, which is `other`. */
const kindOf = (code: number): number =>
  code >= 128 ? charKind.letter : (kinds[code] ?? charKind.other);
const isWord = (code: number): boolean =>
  code === 0x24 || kindOf(code) === charKind.letter || kindOf(code) === charKind.digit;

/** What `#skim` does with each ASCII character; beyond ASCII all are words. */
const skim = { stop: 0, pass: 1, space: 2, word: 3, look: 4 } as const;
const skims = Uint8Array.from({ length: 128 }, (_, code) => {
  if (kinds[code] === charKind.space) return skim.space;
  if (kinds[code] === charKind.letter) return skim.word;
  if (kinds[code] === charKind.digit) return skim.stop;
  const sign = String.fromCharCode(code);
  if (".-/(".includes(sign)) return skim.look;
  return "'\"$;".includes(sign) ? skim.stop : skim.pass;
});
const words = Uint8Array.from({ length: 128 }, (_, code) => (isWord(code) ? 1 : 0));
const QUOTE = 0x27;
const TERMINATE_LENGTH = "pg_terminate_backend".length;

const numberPattern = /(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?/y;
const dollarPattern = /\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$/y;

/** Blanks and comments to the end of a line, and then a quote: the constant before goes on. */
const goesOn = /^(?:\s|--[^\n\r]*)*'/;

type ConstantList = {
  /** What goes out for it: "(" and up to three constants. */
  group: string;
  count: number;
  last: string;
  /** Behind the last constant. */
  gapAt: number;
  /** A comma has come since. */
  comma: boolean;
  /** It follows a list and a comma. */
  readonly after: boolean;
};

class ShapeReader {
  readonly #sql: string;
  #out = "";
  /** Everything before this index is in `#out` or left out. */
  #from = 0;
  #at = 0;
  #shareable = true;
  #statementOpen = false;
  #statements = 0;
  /** Where the last word is. */
  #wordFrom = 0;
  #wordTo = 0;

  /** Inside "(" with nothing but constants and commas so far, these: */
  #list: ConstantList | undefined;
  /** The last such list, closed, with nothing but a comma since; how often it came in a row. */
  #row: { text: string; repeats: number; comma: boolean } | undefined;

  constructor(sql: string) {
    this.#sql = sql;
  }

  read(): Shape {
    const sql = this.#sql;
    while (this.#at < sql.length) {
      if (this.#statementOpen && this.#list === undefined && this.#row === undefined) this.#skim();
      if (this.#at < sql.length) this.#token();
    }
    this.#breakList();
    this.#flush(sql.length);
    return {
      text: this.#out,
      shareable: this.#shareable,
      multiStatement: this.#statements > 1,
    };
  }

  /**
   * Passes over what stays as it is, which is most of a text: words, single blanks, operators. Stops
   * before whatever else there is, for `#token` to look at.
   */
  #skim(): void {
    const sql = this.#sql;
    const end = sql.length;
    let at = this.#at;
    while (at < end) {
      const code = sql.charCodeAt(at);
      const what = code < 128 ? skims[code] : skim.word;
      if (what === skim.word) {
        let to = at + 1;
        for (; to < end; to++) {
          const next = sql.charCodeAt(to);
          if (next < 128 && words[next] === 0) break;
        }
        // The letter before a constant belongs to it; one function's constants matter.
        const length = to - at;
        if (length === TERMINATE_LENGTH) break;
        if (length === 1 && isPrefixed(sql.charCodeAt(to))) break;
        this.#wordFrom = at;
        this.#wordTo = to;
        at = to;
      } else if (what === skim.pass) {
        at++;
      } else if (what === skim.stop || !staysAlone(code, sql, at + 1)) {
        break;
      } else {
        at++;
      }
    }
    this.#at = at;
  }

  #token(): void {
    const code = this.#sql.charCodeAt(this.#at);
    switch (kindOf(code)) {
      case charKind.space:
        this.#space();
        return;
      case charKind.letter:
        this.#word();
        return;
      case charKind.digit:
        this.#number();
        return;
      default:
        this.#sign(code);
    }
  }

  #sign(code: number): void {
    const next = this.#sql.charCodeAt(this.#at + 1);
    switch (code) {
      case 0x27: // '
        this.#string(this.#at, false);
        return;
      case 0x22: // "
        this.#quotedName();
        return;
      case 0x24: // $
        this.#dollar();
        return;
      case 0x28: // (
        this.#open();
        return;
      case 0x29: // )
        this.#close();
        return;
      case 0x2c: // ,
        this.#comma();
        return;
      case 0x3b: // ;
        this.#plain();
        this.#statementOpen = false;
        return;
      case 0x2e: // .
        if (kindOf(next) === charKind.digit) this.#number();
        else this.#plain();
        return;
      case 0x2d: // -
        if (next === 0x2d) this.#lineComment();
        else this.#plain();
        return;
      case 0x2f: // /
        if (next === 0x2a) this.#blockComment();
        else this.#plain();
        return;
      default:
        this.#plain();
    }
  }

  /** A character that stays, and ends what was a list of constants. */
  #plain(): void {
    this.#significant("");
    this.#at++;
  }

  /** Called for every token that is no blank or comment; the first of a statement is its verb. */
  #significant(verb: string): void {
    this.#breakList();
    this.#begin(verb);
  }

  #begin(verb: string): void {
    if (this.#statementOpen || this.#sql.charCodeAt(this.#at) === 0x3b) return;
    this.#statementOpen = true;
    this.#statements++;
    if (verb !== "(" && !shareableVerbs.has(verb.toLowerCase())) this.#shareable = false;
  }

  #flush(to: number): void {
    if (to > this.#from) this.#out += this.#sql.slice(this.#from, to);
    this.#from = to;
  }

  /** The token from here to `end` becomes `text`. */
  #replace(end: number, text: string): void {
    this.#flush(this.#at);
    this.#out += text;
    this.#from = end;
    this.#at = end;
  }

  #space(): void {
    const sql = this.#sql;
    let end = this.#at;
    let newline = false;
    for (; end < sql.length && kindOf(sql.charCodeAt(end)) === charKind.space; end++) {
      const code = sql.charCodeAt(end);
      if (code === 10 || code === 13) newline = true;
    }
    if (this.#list !== undefined || this.#row !== undefined || end === this.#at + 1) {
      this.#at = end;
      return;
    }
    // A line break joins string constants, so it must not become a blank.
    this.#replace(end, newline ? "\n" : " ");
  }

  #lineComment(): void {
    this.#breakList();
    const sql = this.#sql;
    let end = this.#at + 2;
    while (end < sql.length && sql.charCodeAt(end) !== 10 && sql.charCodeAt(end) !== 13) end++;
    this.#replace(end, "--");
  }

  #blockComment(): void {
    this.#breakList();
    const sql = this.#sql;
    let depth = 1;
    let end = this.#at + 2;
    while (depth > 0 && end < sql.length) {
      const two = sql.charCodeAt(end) * 256 + sql.charCodeAt(end + 1);
      if (two === 0x2a2f) depth--;
      else if (two === 0x2f2a) depth++;
      end += two === 0x2a2f || two === 0x2f2a ? 2 : 1;
    }
    if (depth > 0) this.#giveUp();
    else this.#replace(end, "/**/");
  }

  /** Unterminated: the rest stays, and the parser will say what is wrong. */
  #giveUp(): void {
    this.#shareable = false;
    this.#begin("");
    this.#at = this.#sql.length;
  }

  #quotedName(): void {
    this.#significant("");
    const end = this.#quotedEnd(this.#at, '"');
    if (end === undefined) this.#giveUp();
    else this.#at = end;
  }

  /** Behind the closing quote; a doubled quote does not close. */
  #quotedEnd(open: number, quote: string): number | undefined {
    let end = this.#sql.indexOf(quote, open + 1);
    while (end >= 0 && this.#sql[end + 1] === quote) end = this.#sql.indexOf(quote, end + 2);
    return end < 0 ? undefined : end + 1;
  }

  #word(): void {
    const sql = this.#sql;
    let end = this.#at + 1;
    while (end < sql.length && isWord(sql.charCodeAt(end))) end++;
    const word = sql.slice(this.#at, end);
    const next = sql.charCodeAt(end);
    if (next === 0x27 && end === this.#at + 1 && "eEbBxXnN".includes(word)) {
      this.#significant("");
      this.#string(end, word === "e" || word === "E");
      return;
    }
    // U&"…" and U&'…' may take a UESCAPE clause, whose constant is part of the token.
    if (next === 0x26 && (word === "u" || word === "U")) this.#shareable = false;
    if (word.length === TERMINATE_LENGTH && /^pg_terminate_backend$/i.test(word))
      this.#shareable = false;
    this.#significant(word);
    this.#wordFrom = this.#at;
    this.#wordTo = end;
    this.#at = end;
  }

  /** A string constant whose opening quote is at `quote`; a prefix letter stands before it. */
  #string(quote: number, escapes: boolean): void {
    const end = escapes ? this.#escapedEnd(quote) : this.#quotedEnd(quote, "'");
    if (end === undefined) {
      this.#giveUp();
      return;
    }
    const prefix = this.#sql.slice(this.#at, quote);
    if (prefix !== "") {
      // An escape may be malformed, and a bit string has no doubled quote: the parser's business.
      const inside = this.#sql.slice(quote + 1, end - 1);
      if (inside.includes("\\") || inside.includes("'") || isTimeWord(inside)) {
        this.#at = end;
      } else this.#replace(end, `${prefix}''`);
      // What goes on in the next line is read by the prefix as well.
      if (goesOn.test(this.#sql.slice(end))) this.#shareable = false;
      return;
    }
    const tellsTime = isTimeWord(this.#sql, quote + 1, end - 1);
    this.#constant(end, tellsTime ? this.#sql.slice(quote, end) : "''");
  }

  #escapedEnd(open: number): number | undefined {
    const sql = this.#sql;
    for (let at = open + 1; at < sql.length; at++) {
      const code = sql.charCodeAt(at);
      if (code === 0x5c) at++;
      else if (code === 0x27) {
        if (sql.charCodeAt(at + 1) !== 0x27) return at + 1;
        at++;
      }
    }
    return undefined;
  }

  #dollar(): void {
    const sql = this.#sql;
    dollarPattern.lastIndex = this.#at;
    const tag = dollarPattern.exec(sql)?.[0];
    if (tag === undefined) {
      // A parameter: it stays, digits and all.
      this.#significant("");
      let end = this.#at + 1;
      while (end < sql.length && isWord(sql.charCodeAt(end))) end++;
      this.#at = end;
      return;
    }
    const close = sql.indexOf(tag, this.#at + tag.length);
    if (close < 0) {
      this.#significant("");
      this.#giveUp();
      return;
    }
    const end = close + tag.length;
    const tellsTime = isTimeWord(sql, this.#at + tag.length, close);
    this.#constant(end, tellsTime ? sql.slice(this.#at, end) : "$$$$");
  }

  #number(): void {
    const sql = this.#sql;
    let stop = this.#at;
    while (kindOf(sql.charCodeAt(stop)) === charKind.digit) stop++;
    const behind = sql.charCodeAt(stop);
    const short = stop > this.#at && stop - this.#at < INT_DIGITS_MIN;
    if (short && behind !== 0x2e && !isWord(behind) && !this.#followsFloat()) {
      this.#constant(stop, "1");
    } else this.#unusualNumber();
  }

  /** float(20) and float(30) are different types. */
  #followsFloat(): boolean {
    if (this.#wordTo - this.#wordFrom !== 5) return false;
    return this.#sql.slice(this.#wordFrom, this.#wordTo).toLowerCase() === "float";
  }

  #unusualNumber(): void {
    const sql = this.#sql;
    numberPattern.lastIndex = this.#at;
    const digits = numberPattern.exec(sql)?.[0] ?? "";
    const end = this.#at + digits.length;
    const next = sql.charCodeAt(end);
    const plain = numberShape(digits);
    if (plain === undefined || isWord(next) || next === 0x2e || this.#followsFloat()) {
      this.#significant("");
      let stop = end;
      while (stop < sql.length && (isWord(sql.charCodeAt(stop)) || sql[stop] === ".")) stop++;
      this.#at = Math.max(stop, this.#at + 1);
      return;
    }
    this.#constant(end, plain);
  }

  // ------------------------------------------------------------ lists of constants

  #constant(end: number, text: string): void {
    const list = this.#list;
    this.#begin("");
    if (list === undefined || (list.count > 0 && !list.comma)) {
      this.#breakList();
      this.#replace(end, text);
      return;
    }
    if (list.count < KEPT_MAX) list.group += list.count === 0 ? text : `,${text}`;
    list.count++;
    list.last = text;
    list.comma = false;
    list.gapAt = end;
    this.#at = end;
  }

  #open(): void {
    const after = this.#list === undefined && this.#row !== undefined && this.#row.comma;
    if (!after) this.#significant("(");
    this.#begin("(");
    if (!after) this.#flush(this.#at);
    this.#at++;
    this.#list = { group: "(", count: 0, gapAt: this.#at, comma: false, after, last: "" };
  }

  #comma(): void {
    const list = this.#list;
    if (list !== undefined && list.count > 0 && !list.comma) list.comma = true;
    else if (list === undefined && this.#row !== undefined && !this.#row.comma) {
      this.#row.comma = true;
    } else {
      this.#significant("");
    }
    this.#at++;
  }

  #close(): void {
    const list = this.#list;
    if (list === undefined || list.count === 0 || list.comma) {
      this.#plain();
      return;
    }
    const text = `${list.group})`;
    const repeats = list.after && this.#row?.text === text ? this.#row.repeats + 1 : 1;
    if (repeats <= KEPT_MAX) this.#out += list.after ? `,${text}` : text;
    this.#at++;
    this.#from = this.#at;
    this.#list = undefined;
    this.#row = { text, repeats, comma: false };
  }

  /** Something else came: what was held back goes out as it is. */
  #breakList(): void {
    const list = this.#list;
    this.#list = undefined;
    this.#row = undefined;
    if (list === undefined) return;
    const before = list.after ? `,${list.group}` : list.group;
    // The last constant may be a string that goes on in the next line.
    this.#out += list.count > KEPT_MAX ? `${before},${list.last}` : before;
    this.#from = list.gapAt;
  }
}

/** `'` of a constant with a prefix, `&` of U&. */
const isPrefixed = (next: number): boolean => next === QUOTE || next === 0x26;

/** Whether a blank, `.`, `-`, `/` or `(` is nothing but itself, given what comes behind it. */
function staysAlone(code: number, sql: string, behind: number): boolean {
  const next = sql.charCodeAt(behind);
  switch (code) {
    case 0x2e: // .
      return kindOf(next) !== charKind.digit;
    case 0x2d: // -
      return next !== 0x2d;
    case 0x2f: // /
      return next !== 0x2a;
    case 0x28: // ( before a name, `*` or `)` begins no list of constants
      if (next === 0x2a || next === 0x29) return true;
      return kindOf(next) === charKind.letter && sql.charCodeAt(behind + 1) !== QUOTE;
    default:
      return kindOf(next) !== charKind.space;
  }
}

/** Fewer digits than this always fit int4. */
const INT_DIGITS_MIN = 10;

/**
 * An integer that fits int4 and any other number are different tokens to the grammar. Undefined
 * where telling them apart would need care.
 */
function numberShape(digits: string): string | undefined {
  // What begins with a point may stand right behind a word.
  if (digits.startsWith(".")) return ".5";
  if (/[.eE]/.test(digits)) return "1.5";
  if (digits.length < INT_DIGITS_MIN) return "1";
  if (digits.startsWith("0")) return undefined;
  return Number(digits) <= 2_147_483_647 ? "1" : "1.5";
}
