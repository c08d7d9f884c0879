/**
 * The grammar below pool_hba.conf's records: lines of fields, a field being a list of tokens, with
 * quotes, comments and `@file` inclusion (spec wire/files.md 4.1).
 */

/** A token that began with a quote is never a keyword: `"all"` is a database of that name. */
export type HbaToken = { readonly text: string; readonly quoted: boolean };
/** Tokens joined by commas. */
export type HbaField = readonly HbaToken[];
export type HbaLine = { readonly number: number; readonly fields: readonly HbaField[] };

/** One line for the log. The file that caused it is refused as a whole unless it is a remark. */
export type HbaMessage = {
  readonly message: string;
  readonly hint?: string | undefined;
  /** `line N of configuration file "F"`. */
  readonly context: string;
  readonly fatal: boolean;
};

/** The text of a file, or why there is none (`No such file or directory`). */
export type FileText = { readonly text: string } | { readonly reason: string };
export type ReadFile = (path: string) => FileText;

export const hbaLineSizeMax = 8191;
export const hbaTokenSizeMax = 255;
/** An `@file` within an `@file`, …: deep enough for any sane use, and an end for a circle. */
export const hbaIncludeDepthMax = 10;

type Source = {
  readonly path: string;
  readonly readFile: ReadFile;
  readonly messages: HbaMessage[];
  readonly depth: number;
};

/** Cuts a file into lines that have fields. What is wrong is added to `source.messages`. */
export function tokenizeHba(text: string, source: Source): readonly HbaLine[] {
  const lines = text.split("\n").map((line, at) => {
    const number = at + 1;
    return { number, fields: tokenizeLine(line, number, source) };
  });
  return lines.filter((line) => line.fields.length > 0);
}

export const hbaContext = (path: string, line: number): string =>
  `line ${line} of configuration file "${path}"`;

function tokenizeLine(line: string, number: number, source: Source): readonly HbaField[] {
  const complain = (message: string) => {
    source.messages.push({ message, context: hbaContext(source.path, number), fatal: true });
  };
  if (line.length > hbaLineSizeMax) {
    complain("authentication file line too long");
    return [];
  }
  const complaintsBefore = source.messages.length;
  const scanner = new LineScanner(line);
  const fields: HbaField[] = [];
  for (;;) {
    const tokens: HbaToken[] = [];
    let more = true;
    while (more) {
      const found = scanner.next();
      if (found === undefined) break;
      more = found.commaFollows;
      if (found.token.text.length > hbaTokenSizeMax) {
        const start = found.token.text.slice(0, hbaTokenSizeMax);
        complain(`authentication file token too long, skipping: "${start}"`);
        return [];
      }
      tokens.push(...expand(found.token, source, complain));
    }
    if (tokens.length > 0) fields.push(tokens);
    if (scanner.atEnd) break;
  }
  // Fields that lack an included file would only be misread and complained about once more.
  return source.messages.length > complaintsBefore ? [] : fields;
}

/** An `@name` gives all tokens of that file; any other token is itself. */
function expand(
  token: HbaToken,
  source: Source,
  complain: (m: string) => void,
): readonly HbaToken[] {
  if (token.quoted || !token.text.startsWith("@") || token.text === "@") return [token];
  const path = besideFile(source.path, token.text.slice(1));
  const file =
    source.depth < hbaIncludeDepthMax
      ? source.readFile(path)
      : { reason: "maximum nesting depth exceeded" };
  if ("reason" in file) {
    complain(
      `could not open secondary authentication file "${token.text}" as "${path}": ${file.reason}`,
    );
    return [];
  }
  const lines = tokenizeHba(file.text, { ...source, path, depth: source.depth + 1 });
  return lines.flatMap((line) => line.fields.flat());
}

/** A relative name is looked up in the directory of the file that mentions it. */
function besideFile(path: string, name: string): string {
  if (name.startsWith("/")) return name;
  return path.slice(0, path.lastIndexOf("/") + 1) + name;
}

/** Reads one line token by token. */
class LineScanner {
  readonly #line: string;
  #at = 0;

  constructor(line: string) {
    this.#line = line;
  }

  /** Nothing is left but blanks or a comment. */
  get atEnd(): boolean {
    this.#skipBlanks();
    return this.#at >= this.#line.length || this.#line[this.#at] === "#";
  }

  /**
   * The next token, and whether a comma stands at its end (the field then goes on). A comma on its
   * own is passed over, as PostgreSQL's reader of that age does.
   */
  next(): { readonly token: HbaToken; readonly commaFollows: boolean } | undefined {
    while (!this.atEnd) {
      const quoted = this.#line[this.#at] === '"';
      const text = this.#readText();
      const commaFollows = this.#line[this.#at] === ",";
      if (commaFollows) this.#at++;
      if (text !== "" || quoted) return { token: { text, quoted }, commaFollows };
    }
    return undefined;
  }

  #skipBlanks(): void {
    while (isBlank(this.#line[this.#at])) this.#at++;
  }

  #readText(): string {
    let text = "";
    let inQuotes = false;
    for (; this.#at < this.#line.length; this.#at++) {
      const character = this.#line[this.#at] ?? "";
      if (!inQuotes && (isBlank(character) || character === "," || character === "#")) break;
      if (character !== '"') {
        text += character;
      } else if (inQuotes && this.#line[this.#at + 1] === '"') {
        text += '"';
        this.#at++;
      } else {
        inQuotes = !inQuotes;
      }
    }
    return text;
  }
}

const isBlank = (character: string | undefined): boolean =>
  character === " " || character === "\t" || character === "\r";
