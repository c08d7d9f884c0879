/**
 * Command lines as getopt_long reads them, over `parseArgs` of node:util: short clusters (`-vw`,
 * `-p9898`, `-n -1`), long options by unique prefix, operands anywhere, `--`. A command is one table
 * of rows; parsing, messages and `--help` are made from the same rows.
 */
import { parseArgs } from "node:util";

export type Flag = {
  /** One character. `-h` may be anything: only a row named `help` asks for help. */
  readonly short?: string;
  /** The argument's name in help; absent when the option takes none. */
  readonly arg?: string;
  readonly brief: string;
  /** A whole word that means this option too, such as `-pg`, which getopt would read as `-p g`. */
  readonly word?: string;
  /** Heading in help under which the row stands; rows without one come first. */
  readonly group?: string;
};
export type Flags = Readonly<Record<string, Flag>>;

/** What was given: an option's argument, or true for one that takes none. The last one given wins. */
export type Values<F extends Flags> = {
  readonly [K in keyof F]?: F[K] extends { arg: string } ? string : true;
};

type Reply = { readonly to: "stdout" | "stderr"; readonly exitCode: number };

/** How one call of a command speaks to the person who made it. */
export type Invocation = {
  /** The name that messages and help call the program by: `pg_md5`, `pgpool md5`. */
  readonly program: string;
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
};

export type Command<F extends Flags> = {
  readonly name: string;
  readonly brief: string;
  /** What may follow the program's name, one form each. */
  readonly usage: readonly string[];
  readonly flags: F;
  /** Stands below the options in help. */
  readonly notes?: string;
  /** What a row named `version` prints, without the newline. */
  readonly version?: string;
  readonly help: Reply;
  /** After the message about a wrong option (always on stderr): the usage text or a hint to it. */
  readonly misuse: Reply & {
    /** The hint with an empty line after it is how the pcp programs have always said it. */
    readonly show: "usage" | "hint" | "hint and a line";
  };
  /** Whose words a wrong option is told in: glibc's getopt (the default), or BSD's. */
  readonly wording?: "gnu" | "bsd";
  /** The exit code. `operands` are the words that are not options, in order. */
  run(values: Values<F>, operands: readonly string[], call: Invocation): Promise<number>;
};

export const defineCommand = <const F extends Flags>(command: Command<F>): Command<F> => command;

export type Parsed<F extends Flags> =
  | { readonly kind: "run"; readonly values: Values<F>; readonly operands: readonly string[] }
  | { readonly kind: "help" }
  | { readonly kind: "version" }
  | { readonly kind: "misuse"; readonly message: string };

/** Parses `args` (without the program's name) and runs the command, or answers for it. */
export async function runCommand<F extends Flags>(
  command: Command<F>,
  args: readonly string[],
  call: Invocation,
): Promise<number> {
  const parsed = parseOptions(command, args);
  switch (parsed.kind) {
    case "run":
      return await command.run(parsed.values, parsed.operands, call);
    case "help":
      say(call, command.help, helpText(command, call.program));
      return command.help.exitCode;
    case "version":
      say(call, command.help, `${command.version ?? command.name}\n`);
      return command.help.exitCode;
    case "misuse":
      return refuse(command, call, parsed.message);
  }
}

/** Tells what is wrong with the command line, in the command's way, and gives its exit code. */
export function refuse<F extends Flags>(
  command: Command<F>,
  call: Invocation,
  message: string | undefined,
): number {
  if (message !== undefined) call.err(`${call.program}: ${message}\n`);
  say(
    call,
    command.misuse,
    command.misuse.show === "usage"
      ? helpText(command, call.program)
      : `Try "${call.program} --help" for more information.\n${command.misuse.show === "hint" ? "" : "\n"}`,
  );
  return command.misuse.exitCode;
}

function say(call: Invocation, reply: Reply, text: string): void {
  if (reply.to === "stdout") call.out(text);
  else call.err(text);
}

/** Decides what a command line asks for. As with getopt, the first thing wrong ends the reading. */
export function parseOptions<F extends Flags>(
  command: Pick<Command<F>, "flags" | "wording">,
  args: readonly string[],
): Parsed<F> {
  const { flags } = command;
  const bsd = command.wording === "bsd";
  const read = readTokens(flags, args);
  const values: Record<string, string | true> = {};
  const operands: string[] = [];
  for (const token of read) {
    if (token.kind === "positional") operands.push(token.value);
    if (token.kind !== "option") continue;
    const wrong = bsd ? faultBsd(flags, token) : faultGnu(flags, token);
    if (wrong !== undefined) return { kind: "misuse", message: wrong };
    if (token.name === "help") return { kind: "help" };
    if (token.name === "version") return { kind: "version" };
    values[token.name] = token.value ?? true;
  }
  return { kind: "run", values: values as Values<F>, operands };
}

type Token =
  | { readonly kind: "positional"; readonly index: number; readonly value: string }
  | { readonly kind: "option-terminator"; readonly index: number }
  | OptionToken;
type OptionToken = {
  readonly kind: "option";
  readonly index: number;
  readonly name: string;
  readonly rawName: string;
  readonly value?: string | undefined;
};

/**
 * An abbreviated long option may take the next word as its argument, and `parseArgs` knows whole
 * names only: so the first abbreviation is written out, and the line is read again.
 */
function readTokens(flags: Flags, given: readonly string[]): readonly Token[] {
  const args = given.map((arg) => wholeWord(flags, arg));
  const options = Object.fromEntries(
    Object.entries(flags).map(([name, flag]) => [
      name,
      {
        type: flag.arg === undefined ? ("boolean" as const) : ("string" as const),
        ...(flag.short === undefined ? {} : { short: flag.short }),
      },
    ]),
  );
  for (;;) {
    const { tokens } = parseArgs({ args, options, strict: false, tokens: true });
    const short = tokens.find(
      (token) => token.kind === "option" && isLong(token) && expansion(flags, token) !== undefined,
    );
    if (short?.kind !== "option") return tokens;
    const tail = (args[short.index] ?? "").slice(short.rawName.length);
    args[short.index] = `--${expansion(flags, short)}${tail}`;
  }
}

function wholeWord(flags: Flags, arg: string): string {
  const row = Object.entries(flags).find(([, flag]) => flag.word === arg);
  return row === undefined ? arg : `--${row[0]}`;
}

function isLong(token: OptionToken): boolean {
  return token.rawName.startsWith("--") && token.rawName.length > 2; // `-v-` holds a short `-`
}

/** The whole name of an abbreviation, when it is one and can mean one option only. */
function expansion(flags: Flags, token: OptionToken): string | undefined {
  if (Object.hasOwn(flags, token.name)) return undefined;
  const names = candidates(flags, token);
  return names.length === 1 ? names[0] : undefined;
}

function candidates(flags: Flags, token: OptionToken): readonly string[] {
  return Object.keys(flags).filter((name) => name.startsWith(token.name));
}

/** What glibc's getopt_long would say of this option; undefined when it is right. */
function faultGnu(flags: Flags, token: OptionToken): string | undefined {
  const flag = flagOf(flags, token);
  const spelled = `option '${token.rawName}'`;
  if (flag === undefined) {
    if (!isLong(token)) return `invalid option -- '${token.name}'`;
    const names = candidates(flags, token);
    if (names.length === 0) return `unrecognized ${spelled}`;
    return `${spelled} is ambiguous; possibilities: ${names.map((n) => `'--${n}'`).join(" ")}`;
  }
  if (flag.arg !== undefined && token.value === undefined) {
    return isLong(token)
      ? `${spelled} requires an argument`
      : `option requires an argument -- '${flag.short}'`;
  }
  if (flag.arg === undefined && token.value !== undefined) {
    return `${spelled} doesn't allow an argument`;
  }
  return undefined;
}

/** The same in the words of BSD's getopt, which the `pgpool` program itself has always used. */
function faultBsd(flags: Flags, token: OptionToken): string | undefined {
  const flag = flagOf(flags, token);
  const bare = token.rawName.slice(isLong(token) ? 2 : 1);
  if (flag === undefined) {
    const several = isLong(token) && candidates(flags, token).length > 1;
    return several ? `ambiguous option -- ${bare}` : `illegal option -- ${bare}`;
  }
  if (flag.arg !== undefined && token.value === undefined) {
    return `option requires an argument -- ${bare}`;
  }
  if (flag.arg === undefined && token.value !== undefined) {
    return `option doesn't take an argument -- ${bare}`;
  }
  return undefined;
}

/** `parseArgs` names an unknown short option by its letter, which may happen to be a long name. */
function flagOf(flags: Flags, token: OptionToken): Flag | undefined {
  if (!Object.hasOwn(flags, token.name)) return undefined;
  const flag = flags[token.name];
  return isLong(token) || token.rawName === `-${flag?.short}` ? flag : undefined;
}

const briefColumn = 26;
const lineWidth = 79;

/** The text of `--help`, made from the rows. */
export function helpText<F extends Flags>(command: Command<F>, program: string): string {
  const groups = new Map<string, string[]>();
  for (const [name, flag] of Object.entries<Flag>(command.flags)) {
    const group = flag.group ?? "Options";
    groups.set(group, [...(groups.get(group) ?? []), optionText(name, flag)]);
  }
  const sections = [...groups].map(([group, rows]) => `${group}:\n${rows.join("")}`);
  const usage = command.usage.map((form) => `  ${program} ${form}`.trimEnd()).join("\n");
  const notes = command.notes === undefined ? [] : [`${command.notes.trimEnd()}\n`];
  const head = `${program} - ${command.brief}\n\nUsage:\n${usage}\n`;
  return [head, ...sections, ...notes].join("\n");
}

function optionText(name: string, flag: Flag): string {
  const short = flag.word ?? (flag.short === undefined ? undefined : `-${flag.short}`);
  const long = flag.arg === undefined ? `--${name}` : `--${name}=${flag.arg}`;
  const left = `  ${short === undefined ? "    " : `${short}, `}${long}`;
  const [first = "", ...rest] = wrap(flag.brief, lineWidth - briefColumn);
  const lead =
    left.length < briefColumn - 1
      ? left.padEnd(briefColumn) + first
      : `${left}\n${" ".repeat(briefColumn)}${first}`;
  return [lead, ...rest.map((line) => " ".repeat(briefColumn) + line)]
    .map((l) => `${l}\n`)
    .join("");
}

function wrap(text: string, width: number): readonly string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
