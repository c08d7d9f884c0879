/**
 * Patterns in lists (`write_function_list` and its kin): POSIX extended regular expressions, case
 * ignored, anchored at both ends. Translated to JavaScript's, which differ in brackets and escapes.
 */

/** What `^` and `$` make of an item: the text that a warning about it quotes. */
export function anchored(item: string): string {
  return `${item.startsWith("^") ? "" : "^"}${item}${item.endsWith("$") ? "" : "$"}`;
}

/** Undefined when the item is not a regular expression. */
export function compilePattern(item: string): RegExp | undefined {
  try {
    return new RegExp(translate(anchored(item)), "is");
  } catch {
    return undefined; // a syntax error in the operator's pattern; the caller warns
  }
}

const CLASSES: { readonly [name: string]: string } = {
  alpha: "a-zA-Z",
  digit: "0-9",
  alnum: "a-zA-Z0-9",
  upper: "A-Z",
  lower: "a-z",
  space: "\\s",
  blank: " \\t",
  punct: "!-\\/:-@\\[-`{-~",
  cntrl: "\\x00-\\x1f\\x7f",
  print: " -~",
  graph: "!-~",
  xdigit: "0-9A-Fa-f",
};

/** GNU escapes that JavaScript spells otherwise. */
const ESCAPES: { readonly [character: string]: string } = {
  "<": "\\b",
  ">": "\\b",
  "`": "^",
  "'": "$",
};

function translate(posix: string): string {
  let out = "";
  for (let at = 0; at < posix.length; at++) {
    const character = posix.charAt(at);
    if (character === "[") {
      const bracket = translateBracket(posix, at);
      out += bracket.text;
      at = bracket.last;
    } else if (character === "\\") {
      const escaped = posix.charAt(++at);
      if (escaped === "") throw new SyntaxError("trailing backslash");
      out += ESCAPES[escaped] ?? (/[wWsSbB1-9]/.test(escaped) ? `\\${escaped}` : literal(escaped));
    } else if (character === "(" && posix[at + 1] === "?") {
      throw new SyntaxError("nothing to repeat"); // `(?…)` means something else in JavaScript
    } else {
      out += character;
    }
  }
  return out;
}

const literal = (character: string): string =>
  /[\^$\\.*+?()[\]{}|/]/.test(character) ? `\\${character}` : character;

function translateBracket(posix: string, start: number): { text: string; last: number } {
  let at = start + 1;
  let body = "";
  if (posix[at] === "^") {
    body = "^";
    at += 1;
  }
  for (const first = at; at < posix.length; at++) {
    const character = posix.charAt(at);
    if (character === "]" && at > first) return { text: `[${body}]`, last: at };
    const named = /^\[([:.=])(.*?)\1\]/s.exec(posix.slice(at, at + 32));
    if (named !== null) {
      const [all, kind, name = ""] = named;
      const members = kind === ":" ? CLASSES[name] : inBracket(name);
      if (members === undefined) throw new SyntaxError(`no class ${name}`);
      body += members;
      at += all.length - 1;
    } else {
      body += inBracket(character);
    }
  }
  throw new SyntaxError("bracket without end");
}

/** A backslash is an ordinary character between brackets. */
const inBracket = (text: string): string => text.replace(/[\\[\]^]/g, "\\$&");
