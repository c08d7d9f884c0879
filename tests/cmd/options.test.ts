import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  defineCommand,
  type Flags,
  helpText,
  parseOptions,
  refuse,
  runCommand,
} from "../../cmd/options.ts";

const flags = {
  host: { short: "h", arg: "HOSTNAME", brief: "host" },
  port: { short: "p", arg: "PORT", brief: "port" },
  "node-id": { short: "n", arg: "NODEID", brief: "ID of a node" },
  verbose: { short: "v", brief: "say more" },
  "no-password": { short: "w", brief: "never ask" },
  password: { short: "W", brief: "always ask" },
  "pg-port": { arg: "PORT", word: "-pg", brief: "first port of PostgreSQL", group: "Ports" },
  help: { short: "?", brief: "print this help" },
} as const satisfies Flags;

type Spoken = { readonly out: string; readonly err: string; readonly exitCode: number };

/** What a person sees of one call, and what the command was given. */
async function call(args: readonly string[], show: "usage" | "hint" = "hint") {
  let out = "";
  let err = "";
  const given: unknown[] = [];
  const command = defineCommand({
    name: "tool",
    brief: "does a thing",
    usage: ["[OPTION]... [NODE]"],
    flags: { ...flags, version: { short: "V", brief: "print the version" } },
    version: "tool 1.0",
    notes: "A note.",
    help: { to: "stdout", exitCode: 0 },
    misuse: { show, to: "stderr", exitCode: 7 },
    async run(values, operands) {
      given.push(values, operands);
      return 3;
    },
  });
  const invocation = {
    program: "tool",
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
  };
  const exitCode = await runCommand(command, args, invocation);
  const spoken: Spoken = { out, err, exitCode };
  return { spoken, given, command, invocation };
}

describe("parseOptions() reads what getopt_long reads", () => {
  test.each<[line: string, values: Record<string, string | true>, operands: string[]]>([
    ["", {}, []],
    ["-vw", { verbose: true, "no-password": true }, []],
    ["-p9898", { port: "9898" }, []],
    ["-p 9898", { port: "9898" }, []],
    ["--port 9898", { port: "9898" }, []],
    ["--port=9898", { port: "9898" }, []],
    ["--port=a=b", { port: "a=b" }, []],
    ["-hlocalhost", { host: "localhost" }, []],
    ["-vhlocalhost", { verbose: true, host: "localhost" }, []],
    ["-n -1", { "node-id": "-1" }, []],
    ["--host --verbose", { host: "--verbose" }, []],
    [
      "-h 127.0.0.1 -p9898 -vw 0",
      { host: "127.0.0.1", port: "9898", verbose: true, "no-password": true },
      ["0"],
    ],
    ["0 -v 1", { verbose: true }, ["0", "1"]],
    ["-v -- -w 0", { verbose: true }, ["-w", "0"]],
    ["-h -- -v", { host: "--", verbose: true }, []],
    ["-", {}, ["-"]],
    ["--nod 3 4", { "node-id": "3" }, ["4"]],
    ["--nod=3", { "node-id": "3" }, []],
    ["--verb --nod 3 --ho x", { verbose: true, "node-id": "3", host: "x" }, []],
    ["-p 1 -p 2", { port: "2" }, []],
    ["-pg 11002 -p 11000", { "pg-port": "11002", port: "11000" }, []],
    ["v h", {}, ["v", "h"]],
  ])("%p", (line, values, operands) => {
    const parsed = parseOptions(
      { flags },
      line.split(" ").filter((word) => word !== ""),
    );
    expect(parsed).toEqual({ kind: "run", values, operands });
  });
});

describe("parseOptions() complains in getopt's words", () => {
  test.each([
    ["-Z", "invalid option -- 'Z'", "illegal option -- Z"],
    ["-vZ", "invalid option -- 'Z'", "illegal option -- Z"],
    ["-v-", "invalid option -- '-'", "illegal option -- -"],
    ["-p", "option requires an argument -- 'p'", "option requires an argument -- p"],
    ["-vp", "option requires an argument -- 'p'", "option requires an argument -- p"],
    ["--foo", "unrecognized option '--foo'", "illegal option -- foo"],
    ["--foo=1", "unrecognized option '--foo'", "illegal option -- foo"],
    ["--host", "option '--host' requires an argument", "option requires an argument -- host"],
    [
      "--verbose=3",
      "option '--verbose' doesn't allow an argument",
      "option doesn't take an argument -- verbose",
    ],
    [
      "--no",
      "option '--no' is ambiguous; possibilities: '--node-id' '--no-password'",
      "ambiguous option -- no",
    ],
    ["-Z --help", "invalid option -- 'Z'", "illegal option -- Z"],
  ])("%s", (line, gnu, bsd) => {
    const args = line.split(" ");
    expect(parseOptions({ flags }, args)).toEqual({ kind: "misuse", message: gnu });
    const other = parseOptions({ flags, wording: "bsd" }, args);
    expect(other).toEqual({ kind: "misuse", message: bsd });
  });
});

test("however options are written, the same values are read", () => {
  const word = fc.string({ minLength: 1, maxLength: 8 }).filter((s) => !/[-=\s]/.test(s[0] ?? ""));
  const option = fc.record({
    name: fc.constantFrom("host" as const, "port" as const, "node-id" as const),
    value: word,
    form: fc.constantFrom("short", "glued", "long", "equals", "prefix"),
  });
  fc.assert(
    fc.property(
      fc.array(option, { maxLength: 5 }),
      fc.array(word, { maxLength: 3 }),
      (given, operands) => {
        const args = given.flatMap(({ name, value, form }) => {
          const { short } = flags[name];
          if (form === "short") return [`-${short}`, value];
          if (form === "glued") return [`-${short}${value}`];
          if (form === "long") return [`--${name}`, value];
          if (form === "equals") return [`--${name}=${value}`];
          return [`--${name.slice(0, 3)}`, value];
        });
        const values = Object.fromEntries(given.map(({ name, value }) => [name, value]));
        fc.pre(!args.includes("-pg")); // a word of its own
        expect(parseOptions({ flags }, [...args, "--", ...operands])).toEqual({
          kind: "run",
          values,
          operands,
        });
      },
    ),
  );
});

test("any words are read or refused, never thrown at", () => {
  fc.assert(
    fc.property(fc.array(fc.string()), (args) => {
      expect(["run", "help", "version", "misuse"]).toContain(parseOptions({ flags }, args).kind);
    }),
  );
});

describe("runCommand()", () => {
  test("runs the command and gives its exit code", async () => {
    const { spoken, given } = await call(["-v", "5"]);
    expect(spoken).toEqual({ out: "", err: "", exitCode: 3 });
    expect(given).toEqual([{ verbose: true }, ["5"]]);
  });

  test("answers help where the command wants it, from its rows", async () => {
    const { spoken, command, given } = await call(["--help"]);
    expect(spoken).toEqual({ out: helpText(command, "tool"), err: "", exitCode: 0 });
    expect(given).toEqual([]);
    expect(spoken.out).toContain("Usage:\n  tool [OPTION]... [NODE]\n");
    expect(spoken.out).toContain("  -h, --host=HOSTNAME     host\n");
    expect(spoken.out).toContain("Ports:\n  -pg, --pg-port=PORT     first port of PostgreSQL\n");
    expect(spoken.out).toEndWith("A note.\n");
  });

  test("answers the version", async () => {
    expect((await call(["-V"])).spoken).toEqual({ out: "tool 1.0\n", err: "", exitCode: 0 });
  });

  test("a wrong option is told on stderr, with a hint or the usage", async () => {
    const hint = (await call(["-Z"])).spoken;
    expect(hint).toEqual({
      out: "",
      err: "tool: invalid option -- 'Z'\nTry \"tool --help\" for more information.\n",
      exitCode: 7,
    });
    const usage = await call(["-Z"], "usage");
    expect(usage.spoken.err).toBe(
      `tool: invalid option -- 'Z'\n${helpText(usage.command, "tool")}`,
    );
  });

  test("refuse() without a message shows the usage alone", async () => {
    const { command, invocation } = await call([], "usage");
    let shown = "";
    const err = (text: string) => {
      shown += text;
    };
    expect(refuse(command, { ...invocation, err }, undefined)).toBe(7);
    expect(shown).toBe(helpText(command, "tool"));
  });
});

test("help keeps to 79 columns and shows every option", () => {
  const long = { "a-very-long-option": { arg: "VALUE", brief: "word ".repeat(40).trim() } };
  const command = defineCommand({
    name: "tool",
    brief: "does a thing",
    usage: [""],
    flags: long,
    help: { to: "stdout", exitCode: 0 },
    misuse: { show: "usage", to: "stderr", exitCode: 1 },
    run: async () => 0,
  });
  const lines = helpText(command, "tool").split("\n");
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(79);
  expect(lines).toContain("      --a-very-long-option=VALUE");
  expect(lines.join(" ").split("word").length - 1).toBe(40);
});
