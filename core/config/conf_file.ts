/**
 * The grammar of pgpool.conf (spec config/config-file.md section 2): a stream of tokens from which
 * settings `key [=] value` are taken, with no regard for line ends after a value.
 */

import { ConfigError, type ErrorOptions } from "../errors.ts";
import type { LogFields, LogSeverity } from "../ports.ts";
import { directoryOf, resolvePath } from "./path.ts";

/** One `key = value`, and where it stands. */
export type Setting = {
  readonly name: string;
  /** Quotes are stripped; what stood between them is kept letter for letter. */
  readonly value: string;
  readonly file: string;
  /** Counted from 1. */
  readonly line: number;
};

/** What reading a configuration has to say; the caller logs it once the log exists. */
export type ConfigMessage = {
  readonly severity: LogSeverity;
  readonly message: string;
} & LogFields;

/** The text of a file, or undefined when it cannot be read. */
export type ReadFile = (path: string) => string | undefined;

/** A line of a configuration file is wrong. `file` and `line` say which; the texts are Pgpool's. */
export class ConfigFileError extends ConfigError {
  readonly file: string;
  readonly line: number;
  /** Undefined when the line could not be read as a setting. */
  readonly parameter: string | undefined;
  /** What to log ahead of the error. */
  readonly before: readonly ConfigMessage[];

  constructor(
    message: string,
    where: {
      file: string;
      line: number;
      parameter?: string;
      before?: readonly ConfigMessage[];
    },
    options: ErrorOptions = {},
  ) {
    super(message, options);
    this.before = where.before ?? [];
    this.file = where.file;
    this.line = where.line;
    this.parameter = where.parameter;
  }
}

const INCLUDE_DEPTH_MAX = 10;

export type ParsedFile = {
  /** In the order in which they apply, those of included files at the place of the `include`. */
  readonly settings: readonly Setting[];
  readonly messages: readonly ConfigMessage[];
};

/**
 * Reads a file and those it includes. A file that cannot be read gives no settings and a warning;
 * an included one is an error of the line that names it.
 */
export function parseConfFile(file: string, readFile: ReadFile): ParsedFile {
  const text = readFile(file);
  if (text === undefined) return { settings: [], messages: [cannotOpen(file)] };
  const settings: Setting[] = [];
  collect(file, text, readFile, 0, settings);
  return { settings, messages: [] };
}

function collect(
  file: string,
  text: string,
  readFile: ReadFile,
  depth: number,
  into: Setting[],
): void {
  const tokens = new Lexer(text);
  for (let token = tokens.next(); token.kind !== "end"; token = tokens.next()) {
    if (token.kind === "newline") continue;
    if (token.kind !== "key") throw syntaxError(file, token);
    let value = tokens.next();
    if (value.kind === "equals") value = tokens.next();
    if (token.text === "include") {
      const included = resolvePath(directoryOf(file), unquoted(value));
      if (depth === INCLUDE_DEPTH_MAX) {
        throw new ConfigFileError(
          `could not open configuration file "${unquoted(value)}": maximum nesting depth exceeded`,
          { file, line: token.line },
        );
      }
      const includedText = readFile(included);
      if (includedText === undefined) throw syntaxError(file, value, [cannotOpen(included)]);
      collect(included, includedText, readFile, depth + 1, into);
    } else {
      into.push({ name: token.text, value: unquoted(value), file, line: token.line });
    }
  }
}

const cannotOpen = (file: string): ConfigMessage => ({
  severity: "WARNING",
  message: `could not open configuration file: "${file}"`,
  detail: "using default configuration parameter values",
});

function syntaxError(
  file: string,
  token: Token,
  before: readonly ConfigMessage[] = [],
): ConfigFileError {
  return new ConfigFileError(
    `syntax error in configuration file "${file}"`,
    { file, line: token.line, before },
    {
      detail: `parse error at line ${token.line} '${token.text}' token = ${TOKEN_NUMBER[token.kind]}`,
    },
  );
}

const unquoted = (token: Token): string =>
  token.kind === "string" ? token.text.slice(1, -1) : token.text;

type TokenKind =
  | "end"
  | "key"
  | "integer"
  | "real"
  | "string"
  | "unquoted_string"
  | "equals"
  | "newline"
  | "other";
type Token = { readonly kind: TokenKind; readonly text: string; readonly line: number };

/** The numbers that Pgpool's syntax error prints. */
const TOKEN_NUMBER: { readonly [K in TokenKind]: number } = {
  end: 0,
  key: 1,
  integer: 2,
  real: 3,
  string: 4,
  unquoted_string: 5,
  equals: 6,
  newline: 7,
  other: 8,
};

/** Characters beyond ASCII count as letters, as bytes above 0x7f do upstream. */
const KEY = /[A-Za-z_\u0080-\uffff][A-Za-z_0-9\u0080-\uffff]*/y;
const UNQUOTED = /[A-Za-z_\u0080-\uffff][A-Za-z_0-9\u0080-\uffff\-._:/]*/y;
const INTEGER = /[-+]?(?:0x[0-9a-fA-F]+|[0-9]+)[A-Za-z]*/y;
const REAL = /[-+]?[0-9]*\.[0-9]*(?:[eE][-+]?[0-9]+)?/y;
const BLANK = /(?:[ \t\r]|#[^\n]*)+/y;

/** Cuts text into tokens; of several that fit the longest wins, and of equals the first below. */
class Lexer {
  readonly #text: string;
  #at = 0;
  #line = 1;

  constructor(text: string) {
    this.#text = text;
  }

  next(): Token {
    this.#at += this.#lengthOf(BLANK);
    const first = this.#text[this.#at];
    if (first === undefined) return { kind: "end", text: "", line: this.#line };
    if (first === "\n") {
      const token = this.#take("newline", 1);
      this.#line += 1;
      return token;
    }
    if (first === "=") return this.#take("equals", 1);
    if (first === "'") {
      const length = this.#quotedLength();
      return length === 0 ? this.#take("other", 1) : this.#take("string", length);
    }
    return this.#word();
  }

  #word(): Token {
    const key = this.#lengthOf(KEY);
    if (key > 0) {
      const unquotedString = this.#lengthOf(UNQUOTED);
      return unquotedString > key
        ? this.#take("unquoted_string", unquotedString)
        : this.#take("key", key);
    }
    const integer = this.#lengthOf(INTEGER);
    const real = this.#lengthOf(REAL);
    if (integer > 0 && integer >= real) return this.#take("integer", integer);
    if (real > 0) return this.#take("real", real);
    return this.#take("other", 1);
  }

  /**
   * Length of the longest quoted string from here, or 0. A backslash may be an ordinary character
   * or the first of an escape, so a quote after one can end the string as well as belong to it:
   * the last such quote on the line ends it, or the first quote without a backslash.
   */
  #quotedLength(): number {
    let length = 0;
    for (let at = this.#at + 1; at < this.#text.length; at++) {
      const character = this.#text[at];
      if (character === "\n") break;
      if (character !== "'") continue;
      length = at + 1 - this.#at;
      const escapable = this.#text[at - 1] === "\\" && at - 1 > this.#at;
      if (!escapable) break;
    }
    return length;
  }

  #lengthOf(pattern: RegExp): number {
    pattern.lastIndex = this.#at;
    return pattern.exec(this.#text)?.[0].length ?? 0;
  }

  #take(kind: TokenKind, length: number): Token {
    const text = this.#text.slice(this.#at, this.#at + length);
    this.#at += length;
    return { kind, text, line: this.#line };
  }
}
