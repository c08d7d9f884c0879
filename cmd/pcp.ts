/**
 * The pcp_* programs, or `pgpool pcp NAME`: one row each. Options and exit codes are those of
 * Pgpool's own (spec config/commands.md section 4); `--json` is ours.
 */

import type { PcpReply } from "../core/pcp/reply.ts";
import { leadingInteger, type PcpRequest, type PcpScope } from "../core/pcp/request.ts";
import { compatibleVersion } from "../core/version.ts";
import { PcpFailure } from "../pcp/client.ts";
import { type Command, defineCommand, type Flags, type Invocation, refuse } from "./options.ts";
import {
  type CallValues,
  callFlags,
  openCall,
  type PcpMachine,
  portOf,
  reportFlags,
  thisMachine,
} from "./pcp_call.ts";
import {
  healthCheckJson,
  type Json,
  nodeCountJson,
  nodeInfoJson,
  poolStatusJson,
  processCountJson,
  processInfoJson,
  watchdogJson,
} from "./pcp_json.ts";
import {
  healthCheckText,
  type Manner,
  nodeCountText,
  nodeInfoText,
  poolStatusText,
  processCountText,
  processInfoText,
  watchdogText,
} from "./pcp_text.ts";

/** Every option that any of the programs has, as given. */
type Given = CallValues & {
  readonly [name in Subject | "mode" | "scope"]?: string;
} & { readonly [name in Switch]?: true };

type Switch = "all" | "gracefully" | "switchover" | keyof typeof reportFlags;

type Program = {
  /** What follows `pcp_`. */
  readonly name: string;
  readonly brief: string;
  readonly flags: Flags;
  /** The option that a bare word may stand for, and whether there is no doing without. */
  readonly subject?: { readonly option: Subject; readonly required: boolean };
  readonly request: (given: Given) => PcpRequest;
  /** How the answer is printed; a program without data says that it succeeded. */
  readonly text?: (reply: PcpReply, manner: Manner) => string;
  readonly json?: (reply: PcpReply, manner: Manner, given: Given) => Json;
};

type Subject = "node-id" | "process-id" | "watchdog-id";

const nodeFlag = { "node-id": { short: "n", arg: "NODEID", brief: "number of the node" } } as const;
const allFlag = (brief: string) => ({ all: { short: "a", brief } });
const gracefullyFlag = {
  gracefully: { short: "g", brief: "wait first until the clients have gone" },
} as const;
const scopeFlag = {
  scope: {
    short: "s",
    arg: "SCOPE",
    brief: "local, or cluster: every pgpool of the watchdog cluster (default: local)",
  },
} as const;

const needsNode = { option: "node-id", required: true } as const;
const nodeOf = (given: Given): string => argument(given["node-id"], "-1");
/** As the original sends it: the number that C reads in it. */
const argument = (value: string | undefined, otherwise: string): string =>
  value === undefined ? otherwise : String(leadingInteger(value));

const scopes: { readonly [word: string]: PcpScope } = {
  c: "cluster",
  cluster: "cluster",
  l: "local",
  local: "local",
};
const scopeOf = ({ scope }: Given): PcpScope => scopes[String(scope)] ?? "local";

const modes: readonly string[] = ["s", "smart", "f", "fast", "i", "immediate"];

const programs: readonly Program[] = [
  {
    name: "attach_node",
    brief: "give a node back to the cluster",
    flags: nodeFlag,
    subject: needsNode,
    request: (given) => ({ kind: "attach_node", argument: nodeOf(given) }),
  },
  {
    name: "detach_node",
    brief: "take a node out of the cluster",
    flags: { ...nodeFlag, ...gracefullyFlag },
    subject: needsNode,
    request: (given) => ({
      kind: "detach_node",
      argument: nodeOf(given),
      gracefully: given.gracefully === true,
    }),
  },
  {
    name: "health_check_stats",
    brief: "what the health check of a node has counted",
    flags: nodeFlag,
    subject: needsNode,
    request: (given) => ({ kind: "health_check_stats", argument: nodeOf(given) }),
    text: healthCheckText,
    json: healthCheckJson,
  },
  {
    name: "invalidate_query_cache",
    brief: "forget all cached results",
    flags: {},
    request: () => ({ kind: "invalidate_cache" }),
  },
  {
    name: "log_rotate",
    brief: "begin a new log file",
    flags: scopeFlag,
    request: (given) => ({ kind: "rotate_log", scope: scopeOf(given) }),
  },
  {
    name: "node_count",
    brief: "how many nodes there are",
    flags: {},
    request: () => ({ kind: "node_count" }),
    text: nodeCountText,
    json: nodeCountJson,
  },
  {
    name: "node_info",
    brief: "the state of one node, or of all",
    flags: { ...nodeFlag, ...allFlag("also nodes without a host name") },
    subject: { option: "node-id", required: false },
    request: (given) => ({ kind: "node_info", argument: nodeOf(given) }),
    text: nodeInfoText,
    json: (reply, manner, given) =>
      nodeInfoJson(reply, manner, Math.max(0, Number.parseInt(nodeOf(given), 10))),
  },
  {
    name: "pool_status",
    brief: "the configuration in force",
    flags: {},
    request: () => ({ kind: "pool_status" }),
    text: poolStatusText,
    json: poolStatusJson,
  },
  {
    name: "proc_count",
    brief: "the numbers of the processes that serve clients",
    flags: {},
    request: () => ({ kind: "process_list" }),
    text: processCountText,
    json: processCountJson,
  },
  {
    name: "proc_info",
    brief: "what the processes that serve clients are doing",
    flags: {
      "process-id": { short: "P", arg: "PID", brief: "only of this process" },
      ...allFlag("also places that hold no connection"),
    },
    subject: { option: "process-id", required: false },
    request: (given) => ({ kind: "process_info", argument: argument(given["process-id"], "0") }),
    text: processInfoText,
    json: processInfoJson,
  },
  {
    name: "promote_node",
    brief: "make a node the primary",
    flags: {
      ...nodeFlag,
      ...gracefullyFlag,
      switchover: { short: "s", brief: "detach the present primary for it" },
    },
    subject: needsNode,
    request: (given) => ({
      kind: "promote_node",
      argument: nodeOf(given),
      gracefully: given.gracefully === true,
      switchover: given.switchover === true,
    }),
  },
  {
    name: "recovery_node",
    brief: "build a node anew by online recovery, and attach it",
    flags: nodeFlag,
    subject: needsNode,
    request: (given) => ({ kind: "recovery_node", argument: nodeOf(given) }),
  },
  {
    name: "reload_config",
    brief: "read the configuration files again",
    flags: scopeFlag,
    request: (given) => ({ kind: "reload", scope: scopeOf(given) }),
  },
  {
    name: "stop_pgpool",
    brief: "stop the server",
    flags: {
      mode: { short: "m", arg: "MODE", brief: "smart, fast or immediate (default: smart)" },
      ...scopeFlag,
      ...allFlag("does nothing"),
    },
    request: (given) => ({
      kind: "stop",
      scope: scopeOf(given),
      mode: String(given.mode ?? "s").charAt(0),
    }),
  },
  {
    name: "watchdog_info",
    brief: "the state of the watchdog cluster",
    flags: {
      "watchdog-id": {
        short: "n",
        arg: "ID",
        brief: "only of this node, by its pgpool_node_id (default: all)",
      },
    },
    subject: { option: "watchdog-id", required: false },
    request: (given) => ({ kind: "watchdog_info", argument: argument(given["watchdog-id"], "-1") }),
    text: watchdogText,
    json: watchdogJson,
  },
];

/** By what follows `pcp_`; `machine` is replaced only by tests. */
export function pcpCommand(name: string, machine: PcpMachine = thisMachine): Command<Flags> {
  const program = programs.find((row) => row.name === name);
  if (program === undefined) throw new Error(`no pcp program ${name}`);
  const flags = { ...callFlags, ...program.flags, ...reportFlags };
  const { subject } = program;
  const operand = subject === undefined ? "" : ` [${subject.option}]`;
  const command: Command<Flags> = defineCommand<Flags>({
    name: `pcp_${name}`,
    brief: program.brief,
    usage: [`[OPTION]...${operand}`],
    flags,
    notes: NOTES,
    version: `pcp_${name} (pgpool-II) ${compatibleVersion.split(" ")[0]}`,
    help: { to: "stderr", exitCode: 0 },
    misuse: { show: "hint and a line", to: "stderr", exitCode: 1 },
    async run(values, operands, call) {
      const given = withOperand(program, values as Given, operands, call);
      const wrong = faultOf(program, given);
      if (wrong !== undefined && wrong.exitCode === 1 && wrong.hint) {
        return refuse(command, call, wrong.message);
      }
      if (wrong !== undefined) {
        call.err(`${call.program}: ${wrong.message}\n`);
        return wrong.exitCode;
      }
      return await perform(program, given, call, machine);
    },
  });
  return command;
}

const NOTES = `The password is looked for in the file that PCPPASSFILE names, or ~/.pcppass, in lines
host:port:user:password. The exit code is 1 when the server cannot be reached or does not let the
user in, and 0 when it refuses the command: what it said is on stderr.
`;

/** A bare word is the node or process meant, unless an option says it; other words are ignored. */
function withOperand(
  { subject }: Program,
  values: Given,
  operands: readonly string[],
  call: Invocation,
): Given {
  const words = [...operands];
  const takes = subject !== undefined && values[subject.option] === undefined;
  const word = takes ? words.shift() : undefined;
  for (const extra of words) {
    call.err(`${call.program}: Warning: extra command-line argument "${extra}" ignored\n`);
  }
  return word === undefined || subject === undefined
    ? values
    : { ...values, [subject.option]: word };
}

type Fault = { readonly message: string; readonly exitCode: number; readonly hint?: boolean };

/** Wrong numbers end with 0, as they always have: scripts rely on the text. */
function faultOf({ subject }: Program, given: Given): Fault | undefined {
  const { port, mode, scope } = given;
  if (portOf(given) === undefined) {
    const message = `Invalid port number "${port}", must be between 1024 and 65535`;
    return { message, exitCode: 0 };
  }
  if (mode !== undefined && !modes.includes(mode)) {
    const message = `Invalid shutdown mode "${mode}", must be either "smart" "immediate" or "fast" `;
    return { message, exitCode: 1 };
  }
  if (scope !== undefined && !Object.hasOwn(scopes, scope)) {
    const message = `Invalid command scope "${scope}", must be either "cluster" or "local" `;
    return { message, exitCode: 1 };
  }
  if (subject === undefined) return undefined;
  const text = given[subject.option];
  if (text !== undefined) return subjectFault(subject.option, text);
  return subject.required
    ? { message: `missing ${subject.option}`, exitCode: 1, hint: true }
    : undefined;
}

const NODE_ID_MAX = 128;

function subjectFault(option: Subject, text: string): Fault | undefined {
  const number = leadingInteger(text);
  const wrong = (must: string): Fault => {
    return { message: `Invalid ${option} "${text}", must be ${must}`, exitCode: 0 };
  };
  switch (option) {
    case "node-id":
      return number < 0 || number > NODE_ID_MAX ? wrong(`between 0 and ${NODE_ID_MAX}`) : undefined;
    case "process-id":
      return number <= 0 ? wrong("greater than 0") : undefined;
    case "watchdog-id":
      return number < 0 ? wrong("a positive number or zero for a local watchdog node") : undefined;
  }
}

async function perform(
  program: Program,
  given: Given,
  call: Invocation,
  machine: PcpMachine,
): Promise<number> {
  const trace = given.debug && !given.json ? (line: string) => call.out(`${line}\n`) : undefined;
  const warn = (line: string) => call.err(`${line}\n`);
  let loggedIn = false;
  try {
    const client = await openCall(given, machine, { warn, trace });
    loggedIn = true;
    try {
      call.out(answerText(program, given, call, await client.ask(program.request(given))));
    } finally {
      client.close();
    }
    return 0;
  } catch (error) {
    if (!(error instanceof PcpFailure)) throw error;
    return tellFailure(error, given, call, loggedIn ? 0 : 1);
  }
}

function answerText(program: Program, given: Given, call: Invocation, reply: PcpReply): string {
  const manner: Manner = { verbose: given.verbose === true, all: given.all === true };
  if (given.json) {
    const { name, json } = program;
    const document: Json = json?.(reply, manner, given) ?? { command: name, successful: true };
    return `${JSON.stringify(document)}\n`;
  }
  return program.text?.(reply, manner) ?? `${call.program} -- Command Successful\n`;
}

/** With `--json` a program that failed says so; without, a refused command ends with 0. */
export function tellFailure(
  failure: PcpFailure,
  given: { readonly json?: true },
  call: Invocation,
  exitCode: number,
): number {
  if (given.json !== true) {
    call.err(failure.text);
    return exitCode;
  }
  const { severity = "ERROR", message = failure.message, detail = null } = failure.report ?? {};
  call.out(`${JSON.stringify({ error: { severity, message, detail } })}\n`);
  return 1;
}
