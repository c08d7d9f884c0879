/**
 * The JSON of the watchdog, as Pgpool-II writes and reads it (spec watchdog/wire.md section 3): names
 * without regard to case, the first of several equal ones counts, an integer is not a text and not a
 * float. The reader takes what any stranger may send: it is bounded in size and in depth, allocates
 * only for what has arrived, and refuses in one way, `undefined`.
 */

import { decodeText, encodeText } from "../core/wire/text.ts";

/** Numbers are integers: any other number is of no use to anyone here and reads as null. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
/** Names in lower case. */
export type JsonObject = ReadonlyMap<string, JsonValue>;

/** Messages are three deep. */
const DEPTH_MAX = 8;

/** Refuses the whole text; never leaves this folder's decoders. */
export class MalformedJson extends Error {}

/**
 * The object in `bytes`, which may end in NULs, as most writers let it. Undefined for anything else,
 * the empty object included: no message has one.
 */
export function parseJsonObject(bytes: Uint8Array): JsonObject | undefined {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return refusing(() => {
    const value = new Parser(decodeText(bytes.subarray(0, end))).whole();
    return value instanceof Map && value.size > 0 ? value : undefined;
  });
}

/** What `read` makes of the fields; undefined when one is missing or is of another type. */
export function readJson<T>(bytes: Uint8Array, read: (fields: Fields) => T): T | undefined {
  const object = parseJsonObject(bytes);
  return object === undefined ? undefined : refusing(() => read(new Fields(object)));
}

function refusing<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    // The one refusal; anything else is a mistake of ours and must be seen.
    if (error instanceof MalformedJson) return undefined;
    throw error;
  }
}

/** Typed access to an object. A wrong type is refused, also where absence is allowed. */
export class Fields {
  readonly #object: JsonObject;

  constructor(object: JsonObject) {
    this.#object = object;
  }

  has(name: string): boolean {
    return this.#object.has(name.toLowerCase());
  }

  int(name: string): number {
    const value = this.#value(name);
    if (typeof value !== "number") throw new MalformedJson(name);
    return value;
  }

  intOr<T>(name: string, absent: T): number | T {
    return this.has(name) ? this.int(name) : absent;
  }

  /** Written as 0 or 1, or as JSON has it. */
  flag(name: string): boolean {
    const value = this.#value(name);
    if (typeof value === "boolean") return value;
    if (typeof value !== "number") throw new MalformedJson(name);
    return value !== 0;
  }

  text(name: string): string {
    const value = this.#value(name);
    if (typeof value !== "string") throw new MalformedJson(name);
    return value;
  }

  textOr<T>(name: string, absent: T): string | T {
    return this.has(name) ? this.text(name) : absent;
  }

  ints(name: string): readonly number[] {
    return this.#list(name).map((value) => {
      if (typeof value !== "number") throw new MalformedJson(name);
      return value;
    });
  }

  objects<T>(name: string, read: (fields: Fields) => T): readonly T[] {
    return this.#list(name).map((value) => {
      if (!(value instanceof Map)) throw new MalformedJson(name);
      return read(new Fields(value));
    });
  }

  #value(name: string): JsonValue | undefined {
    return this.#object.get(name.toLowerCase());
  }

  #list(name: string): readonly JsonValue[] {
    const value = this.#value(name);
    if (!Array.isArray(value)) throw new MalformedJson(name);
    return value as readonly JsonValue[];
  }
}

const ESCAPES: { readonly [letter: string]: string } = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

const NUMBER = /-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const PLAIN = /[^"\\]*/y;
const SPACE = /[ \t\r\n]*/y;

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  whole(): JsonValue {
    const value = this.#value(0);
    this.#skip();
    if (this.#at < this.#text.length) throw new MalformedJson("text after the value");
    return value;
  }

  #value(depth: number): JsonValue {
    if (depth > DEPTH_MAX) throw new MalformedJson("too deep");
    this.#skip();
    switch (this.#text[this.#at]) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
      case '"':
        return this.#string();
      case "t":
        return this.#word("true", true);
      case "f":
        return this.#word("false", false);
      case "n":
        return this.#word("null", null);
      default:
        return this.#number();
    }
  }

  #object(depth: number): JsonObject {
    const fields = new Map<string, JsonValue>();
    this.#at++;
    if (this.#takes("}")) return fields;
    for (;;) {
      this.#skip();
      if (this.#text[this.#at] !== '"') throw new MalformedJson("a name is wanted");
      const name = this.#string().toLowerCase();
      if (!this.#takes(":")) throw new MalformedJson("a colon is wanted");
      const value = this.#value(depth + 1);
      if (!fields.has(name)) fields.set(name, value);
      if (this.#takes("}")) return fields;
      if (!this.#takes(",")) throw new MalformedJson("a comma is wanted");
    }
  }

  #array(depth: number): readonly JsonValue[] {
    const values: JsonValue[] = [];
    this.#at++;
    if (this.#takes("]")) return values;
    for (;;) {
      values.push(this.#value(depth + 1));
      if (this.#takes("]")) return values;
      if (!this.#takes(",")) throw new MalformedJson("a comma is wanted");
    }
  }

  #string(): string {
    this.#at++;
    let text = this.#match(PLAIN);
    for (;;) {
      const end = this.#text[this.#at++];
      if (end === '"') return text;
      if (end !== "\\") throw new MalformedJson("an open string");
      text += this.#escape() + this.#match(PLAIN);
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at++] ?? "";
    if (letter === "u") {
      const digits = this.#text.slice(this.#at, this.#at + 4);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw new MalformedJson("not four digits");
      this.#at += 4;
      return String.fromCharCode(Number.parseInt(digits, 16));
    }
    const character = Object.hasOwn(ESCAPES, letter) ? ESCAPES[letter] : undefined;
    if (character === undefined) throw new MalformedJson("an unknown escape");
    return character;
  }

  #number(): number | null {
    const digits = this.#match(NUMBER);
    if (digits === "") throw new MalformedJson("a value is wanted");
    const value = Number(digits);
    // The sum turns -0 into 0, which is how it is written.
    return /^-?[0-9]+$/.test(digits) && Number.isSafeInteger(value) ? value + 0 : null;
  }

  #word<T extends JsonValue>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) throw new MalformedJson("an unknown word");
    this.#at += word.length;
    return value;
  }

  #takes(character: string): boolean {
    this.#skip();
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #skip(): void {
    this.#match(SPACE);
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0] ?? "";
    this.#at += found.length;
    return found;
  }
}

/** What may be written. Fields that are undefined are left out; booleans become 0 and 1. */
export type JsonFields = { readonly [name: string]: JsonField };
export type JsonField =
  | undefined
  | boolean
  | number
  | string
  | readonly number[]
  | readonly JsonFields[];

/** In Pgpool's manner, to the byte: no spaces but the one between a colon and a list. */
export const writeJson = (fields: JsonFields): Uint8Array => encodeText(objectText(fields));

function objectText(fields: JsonFields): string {
  const parts: string[] = [];
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) parts.push(`"${name}":${fieldText(value)}`);
  }
  return `{${parts.join(",")}}`;
}

function fieldText(value: Exclude<JsonField, undefined>): string {
  if (typeof value === "string") return quoted(value);
  if (typeof value === "number") return String(value);
  if (typeof value === "boolean") return value ? "1" : "0";
  const items = value.map((item) => (typeof item === "number" ? String(item) : objectText(item)));
  return ` [${items.join(",")}]`;
}

const WRITTEN_ESCAPES: { readonly [character: string]: string } = {
  '"': '\\"',
  "\\": "\\\\",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

const quoted = (text: string): string =>
  `"${text.replace(/["\\\b\f\n\r\t]/g, (character) => WRITTEN_ESCAPES[character] ?? character)}"`;
