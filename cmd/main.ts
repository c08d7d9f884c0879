/**
 * One program under many names. Called by a classic name (`pg_md5`, `pcp_node_info`, usually links
 * to the binary) it is that tool; called as `pgpool` its first word may choose one; otherwise it is
 * the classic `pgpool` program. Tools are loaded when chosen, so that `--version` stays quick.
 */
import { basename } from "node:path";
import { versionLine } from "../core/version.ts";
import { type ClassicName, pcpNames } from "./classic_names.ts";
import { describeFailure } from "./failure.ts";
import { type Command, type Flags, helpText, type Invocation, runCommand } from "./options.ts";
import { isCompiled } from "./self.ts";

/** One call of the binary, as the system made it. */
export type Call = Omit<Invocation, "program"> & {
  /** The name it was run by, path included. */
  readonly argv0: string;
  readonly args: readonly string[];
};

type Program = {
  /** The name of the link in bin/; what Pgpool-II does not have has none. */
  readonly classic?: ClassicName;
  /** What follows `pgpool`. */
  readonly words: readonly string[];
  readonly run: (args: readonly string[], call: Invocation) => Promise<number>;
};

const runs =
  <F extends Flags>(load: () => Promise<Command<F>>): Program["run"] =>
  async (args, call) =>
    await runCommand(await load(), args, call);

const pcpPrograms: readonly Program[] = pcpNames.map((name) => ({
  classic: `pcp_${name}`,
  words: ["pcp", name],
  run: runs(async () => (await import("./pcp.ts")).pcpCommand(name)),
}));

const programs: readonly Program[] = [
  {
    classic: "pg_md5",
    words: ["md5"],
    run: runs(async () => (await import("./password.ts")).md5Command),
  },
  {
    classic: "pg_enc",
    words: ["enc"],
    run: runs(async () => (await import("./password.ts")).encCommand),
  },
  {
    classic: "pgpool_setup",
    words: ["setup"],
    run: runs(async () => (await import("./setup.ts")).setupCommand),
  },
  {
    classic: "wd_cli",
    words: ["watchdog", "cli"],
    run: runs(async () => (await import("./watchdog_cli.ts")).wdCliCommand),
  },
  {
    words: ["watchdog", "info"],
    run: runs(async () => (await import("./watchdog_cli.ts")).infoCommand),
  },
  {
    words: ["watchdog", "inform"],
    run: runs(async () => (await import("./watchdog_cli.ts")).informCommand),
  },
  {
    classic: "watchdog_setup",
    words: ["watchdog", "setup"],
    run: async (args, call) => {
      const { watchdogSetupCommand, withDelegateIp } = await import("./watchdog_setup.ts");
      return await runCommand(watchdogSetupCommand, withDelegateIp(args), call);
    },
  },
  ...pcpPrograms,
  {
    words: ["pcp", "status"],
    run: runs(async () => (await import("./pcp_status.ts")).statusCommand),
  },
];

const serveRun = runs(async () => (await import("./pgpool.ts")).serveCommand);
const installRun = runs(async () => (await import("./install.ts")).installCommand);
const installFunctionsRun = runs(
  async () => (await import("./install_functions.ts")).installFunctionsCommand,
);
const pgpoolRun = runs(async () => (await import("./pgpool.ts")).pgpoolCommand);

const invalidPcp: Program["run"] = async (_, call) => {
  call.err(`${call.program} is a invalid PCP utility\n`);
  return 1;
};

/** `pgpool pcp` by itself, or asked for help: which programs there are. */
const pcpList: Program["run"] = async (args, call) => {
  const names = programs.flatMap(({ words }) => (words[0] === "pcp" ? [words[1]] : []));
  const list = names.map((name) => `  pgpool pcp ${name}\n`).join("");
  call.err(`Programs that talk to a running server; each tells more with --help:\n${list}`);
  return args.length === 0 ? 1 : 0;
};

const version: Program["run"] = async (_, call) => {
  call.out(`${versionLine}\n`);
  return 0;
};

const help: Program["run"] = async (args, call) => {
  if (args.length > 0) return await main({ ...call, argv0: "pgpool", args: [...args, "--help"] });
  const { pgpoolCommand } = await import("./pgpool.ts");
  call.out(helpText(pgpoolCommand, "pgpool"));
  return 0;
};

/** What a call means: which tool, the name it goes by in its messages, and what is left for it. */
export type Choice = {
  readonly program: string;
  readonly run: Program["run"];
  readonly args: readonly string[];
  /** How a failure is told: the server's way, or a tool's. */
  readonly style: "log" | "plain";
};

/** Chooses by the name the program was called by, then by the first words. */
export function choose(argv0: string, args: readonly string[]): Choice {
  const name = basename(argv0);
  const classic = programs.find((program) => program.classic === name);
  if (classic !== undefined) return { program: name, run: classic.run, args, style: "plain" };
  if (name.startsWith("pcp_")) return { program: name, run: invalidPcp, args, style: "plain" };

  const named = programs.find(({ words }) => words.every((word, at) => spelled(args, at) === word));
  if (named !== undefined) {
    const program = `pgpool ${named.words.join(" ")}`;
    return { program, run: named.run, args: args.slice(named.words.length), style: "plain" };
  }
  const rest = args.slice(1);
  switch (args[0]) {
    case "serve":
      return { program: "pgpool serve", run: serveRun, args: rest, style: "log" };
    case "install":
      return { program: "pgpool install", run: installRun, args: rest, style: "plain" };
    case "install-functions":
      return {
        program: "pgpool install-functions",
        run: installFunctionsRun,
        args: rest,
        style: "plain",
      };
    case "pcp": {
      const lists = rest.length === 0 || rest[0] === "--help" || rest[0] === "-?";
      if (lists) return { program: "pgpool pcp", run: pcpList, args: rest, style: "plain" };
      return { program: `pcp_${rest[0] ?? ""}`, run: invalidPcp, args: rest, style: "plain" };
    }
    case "help":
      return { program: "pgpool help", run: help, args: rest, style: "plain" };
    case "version":
      return { program: "pgpool version", run: version, args: rest, style: "plain" };
    default:
      return { program: name, run: pgpoolRun, args, style: "log" };
  }
}

/** `node-info` is `node_info`. */
function spelled(args: readonly string[], at: number): string | undefined {
  return args[0] === "pcp" && at === 1 ? args[at]?.replaceAll("-", "_") : args[at];
}

/** Runs whatever the call asks for. Resolves to the exit code; a failure is told in one line. */
export async function main(call: Call): Promise<number> {
  const { program, run, args, style } = choose(call.argv0, call.args);
  try {
    return await run(args, { program, out: call.out, err: call.err });
  } catch (error) {
    const { text, exitCode } = describeFailure(error, {
      style,
      program,
      debug: args.includes("-d") || args.includes("--debug"),
      now: new Date(),
      pid: process.pid,
    });
    call.err(text);
    return exitCode;
  }
}

/** Ends the process once what was written has left it: a pipe may still hold some of it. */
async function endProcess(exitCode: number): Promise<never> {
  for (const stream of [process.stdout, process.stderr]) {
    await new Promise<void>((resolve) => {
      stream.once("error", () => resolve()); // whoever read it has gone
      stream.write("", () => resolve());
    });
  }
  process.exit(exitCode);
}

if (import.meta.main) {
  const exitCode = await main({
    argv0: isCompiled ? process.argv0 : "pgpool",
    args: process.argv.slice(2),
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
  });
  await endProcess(exitCode);
}
