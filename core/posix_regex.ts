/**
 * POSIX extended regular expressions, as the lists of pgpool.conf are written, in JavaScript's
 * notation. They differ inside brackets: there a backslash is itself, `]` may come first, and
 * classes have names.
 */

const classes: { readonly [name: string]: string } = {
  alnum: "a-zA-Z0-9",
  alpha: "a-zA-Z",
  blank: " \\t",
  cntrl: "\\x00-\\x1f\\x7f",
  digit: "0-9",
  graph: "\\x21-\\x7e",
  lower: "a-z",
  print: "\\x20-\\x7e",
  punct: "!-\\/:-@\\[-`{-~",
  space: "\\s",
  upper: "A-Z",
  xdigit: "0-9a-fA-F",
};

/**
 * A list item as Pgpool compiles it: without regard to case, `^` put before it and `$` after it
 * unless they are there. Undefined when it is no regular expression.
 */
export function anchoredPattern(item: string): RegExp | undefined {
  if (item === "") return undefined;
  const start = item.startsWith("^") ? "" : "^";
  const end = item.endsWith("$") ? "" : "$";
  const source = translate(item);
  if (source === undefined) return undefined;
  try {
    return new RegExp(start + source + end, "is");
  } catch {
    // The engine's message speaks of JavaScript; our caller names the parameter instead.
    return undefined;
  }
}

function translate(posix: string): string | undefined {
  let out = "";
  for (let at = 0; at < posix.length; ) {
    const char = posix.charAt(at);
    if (char === "\\") {
      if (at + 1 >= posix.length) return undefined;
      out += posix.slice(at, at + 2);
      at += 2;
    } else if (char === "[") {
      const end = bracketEnd(posix, at);
      if (end === undefined) return undefined;
      const set = bracket(posix.slice(at + 1, end));
      if (set === undefined) return undefined;
      out += set;
      at = end + 1;
    } else if (char === "(" && posix.charAt(at + 1) === "?") {
      return undefined;
    } else {
      out += char;
      at += 1;
    }
  }
  return out;
}

/** Where the bracket expression that opens at `open` is closed. */
function bracketEnd(posix: string, open: number): number | undefined {
  let at = open + 1;
  if (posix.charAt(at) === "^") at++;
  if (posix.charAt(at) === "]") at++;
  while (at < posix.length) {
    if (posix.startsWith("[:", at)) {
      const close = posix.indexOf(":]", at + 2);
      if (close < 0) return undefined;
      at = close + 2;
    } else if (posix.charAt(at) === "]") {
      return at;
    } else {
      at++;
    }
  }
  return undefined;
}

function bracket(content: string): string | undefined {
  const negated = content.startsWith("^");
  let unknown = false;
  const inner = content
    .slice(negated ? 1 : 0)
    .replace(/\[:(\w+):\]|[\\\][^]/g, (found, name?: string) => {
      if (name === undefined) return `\\${found}`;
      const range = classes[name];
      if (range === undefined) unknown = true;
      return range ?? "";
    });
  return unknown ? undefined : `[${negated ? "^" : ""}${inner}]`;
}
