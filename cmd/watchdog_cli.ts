/**
 * wd_cli, or `pgpool watchdog cli`: asks the watchdog of this host for the nodes it knows, or tells it
 * that one of them is dead or alive, as an external life check does (spec config/commands.md section
 * 5, watchdog/ipc.md section 7). `pgpool watchdog info` and `pgpool watchdog inform DEAD|ALIVE` are its
 * two operations by name; `--json` is ours.
 */

import { loadConfig } from "../core/config/load.ts";
import { PgpoolError } from "../core/errors.ts";
import {
  decodeWatchdogInfo,
  type WatchdogInfo,
  type WatchdogNode,
} from "../core/pcp/watchdog_info.ts";
import { compatibleVersion } from "../core/version.ts";
import { encodeIpcRequest, ipcSocketPath, jsonText, messageOf } from "../watchdog/ipc.ts";
import { askOverIpc, type IpcAnswer } from "../watchdog/ipc_client.ts";
import { CommandFailure } from "./failure.ts";
import { configSource } from "./load_config.ts";
import { type Command, defineCommand, type Invocation, refuse, type Values } from "./options.ts";
import { snakeCased } from "./pcp_json.ts";

const operationFlags = {
  info: { short: "i", brief: "show the nodes that fit, or all", group: "Operations" },
  inform: {
    short: "I",
    arg: "STATUS",
    brief: "tell the watchdog that the node is DEAD or ALIVE",
    group: "Operations",
  },
} as const;

const whichFlags = {
  all: { short: "a", brief: "every node (for --info only)", group: "Which node" },
  "node-id": { short: "n", arg: "ID", brief: "by its pgpool_node_id", group: "Which node" },
  "node-name": {
    short: "N",
    arg: "NAME",
    brief: 'by its name, such as "host:9999 Linux host"',
    group: "Which node",
  },
  "node-host": { short: "H", arg: "HOST", brief: "by its hostname", group: "Which node" },
  "node-port": { short: "P", arg: "PORT", brief: "by its wd_port", group: "Which node" },
} as const;

const otherFlags = {
  "config-file": {
    short: "f",
    arg: "CONFIG_FILE",
    brief: "pgpool.conf, for the three options below",
  },
  "auth-key": { short: "k", arg: "KEY", brief: "wd_authkey" },
  "socket-dir": {
    short: "s",
    arg: "DIRECTORY",
    brief: "wd_ipc_socket_dir (default: /tmp)",
  },
  "ipc-port": {
    short: "p",
    arg: "PORT",
    brief: "wd_port of this host's pgpool (default: 9898)",
  },
  message: { short: "m", arg: "TEXT", brief: "for the log of the watchdog that is informed" },
  json: { brief: "print one JSON document; a failure is one too" },
  verbose: { short: "v", brief: "print titles" },
  debug: { short: "d", brief: "print what is asked and answered" },
  help: { short: "?", brief: "print this help" },
  version: { short: "V", brief: "print the version" },
} as const;

const flags = { ...operationFlags, ...whichFlags, ...otherFlags } as const;
type Given = Values<typeof flags>;
/** The operation by name takes the place of its option. */
type Operation = { readonly kind: "info" } | { readonly kind: "inform"; readonly status: string };

const notes = `Criteria are ANDed; when several nodes fit, the first is meant. The exit code is 0 when it was done, 1
when it could not be, and 255 when the watchdog cannot be asked.
`;

const shared = {
  notes,
  version: `wd_cli (pgpool-II) ${compatibleVersion.split(" ")[0]}`,
  help: { to: "stderr", exitCode: 0 },
  misuse: { show: "hint and a line", to: "stderr", exitCode: 1 },
} as const;

export const wdCliCommand: Command<typeof flags> = defineCommand({
  name: "wd_cli",
  brief: "what the watchdog of this host knows, and what it should know",
  usage: ["-i [OPTION]...", "-I DEAD|ALIVE -n ID [OPTION]..."],
  flags,
  ...shared,
  async run(given, operands, call) {
    ignore(operands, call);
    if (given.info && given.inform !== undefined) {
      return fail(
        call,
        given,
        "Invalid option, 'info' and 'inform' are mutually exclusive options",
      );
    }
    if (given.inform !== undefined) {
      return await perform({ kind: "inform", status: given.inform }, given, call);
    }
    if (given.info) return await perform({ kind: "info" }, given, call);
    const hint = `Missing operation. Try ${call.program} --help" for more information.\n`;
    return fail(call, given, hint);
  },
});

const subcommandFlags = { ...whichFlags, ...otherFlags } as const;

export const infoCommand: Command<typeof subcommandFlags> = defineCommand({
  name: "watchdog info",
  brief: "the nodes of the watchdog cluster, as this host's pgpool sees them",
  usage: ["[OPTION]..."],
  flags: subcommandFlags,
  ...shared,
  async run(given, operands, call) {
    ignore(operands, call);
    // By this name, wanting no node in particular is no mistake that a warning is due for.
    const searches = criteriaOf(given).length > 0;
    const all: { readonly all?: true } = searches ? {} : { all: true };
    return await perform({ kind: "info" }, { ...all, ...given }, call);
  },
});

export const informCommand: Command<typeof subcommandFlags> = defineCommand({
  name: "watchdog inform",
  brief: "tell this host's pgpool that a node of the watchdog cluster is dead or alive",
  usage: ["DEAD|ALIVE -n ID [OPTION]..."],
  flags: subcommandFlags,
  ...shared,
  async run(given, operands, call) {
    const [status, ...rest] = operands;
    if (status === undefined) return refuse(informCommand, call, "DEAD or ALIVE is missing");
    ignore(rest, call);
    return await perform({ kind: "inform", status }, given, call);
  },
});

function ignore(operands: readonly string[], call: Invocation): void {
  for (const word of operands) {
    call.err(`${call.program}: Warning: extra command-line argument "${word}" ignored\n`);
  }
}

// ---------------------------------------------------------------- the command line

type Criterion = readonly [title: string, fits: (node: WatchdogNode) => boolean, text: string];

const criteriaOf = (given: Given): readonly Criterion[] => {
  const { "node-id": id, "node-name": name, "node-host": host, "node-port": port } = given;
  const all: (Criterion | undefined)[] = [
    id === undefined ? undefined : ["ID", (node) => node.id === Number(id), id],
    name === undefined ? undefined : ["Name", (node) => node.nodeName === name, name],
    host === undefined ? undefined : ["Host", (node) => node.hostName === host, host],
    port === undefined ? undefined : ["WDPort", (node) => node.wdPort === Number(port), port],
  ];
  return all.filter((each) => each !== undefined);
};

function criteriaText(criteria: readonly Criterion[]): string {
  const textOf = (title: string) => criteria.find(([each]) => each === title)?.[2] ?? "ANY";
  const words = ["ID", "Name", "Host", "WDPort"].map((title) => `${title}=${textOf(title)}`);
  return `[${words.join(" AND ")}]`;
}

const STATUSES = { DEAD: 1, ALIVE: 2 } as const;
const statusOf = (text: string): keyof typeof STATUSES | undefined =>
  (["DEAD", "ALIVE"] as const).find((status) => status === text.toUpperCase());

/** What is wrong, and the exit code; wrong numbers of ports end with 0, as they always have. */
function faultOf(operation: Operation, given: Given): readonly [string, number] | undefined {
  const { "ipc-port": ipcPort } = given;
  for (const [title, text] of [
    ["node-id", given["node-id"]],
    ["node-port", given["node-port"]],
    ["port", ipcPort],
  ] as const) {
    if (text !== undefined && !/^\d+$/.test(text)) {
      return [`Invalid value ${text}, ${title} can only contain numeric values`, 1];
    }
  }
  if (ipcPort !== undefined && (Number(ipcPort) <= 1024 || Number(ipcPort) > 65535)) {
    return [`Invalid port number "${ipcPort}", must be between 1024 and 65535`, 0];
  }
  if (operation.kind === "info") return undefined;
  if (statusOf(operation.status) === undefined) {
    return [`Invalid node status "${operation.status}", Allowed options are DEAD or ALIVE''`, 1];
  }
  if (given.all) {
    const hint = `Try wd_cli --help" for more information.\n`;
    return [`Invalid option "-a --all" for inform status operation. ${hint}`, 1];
  }
  // The first node is the local one, and a watchdog that is told of its own death stops pgpool.
  if (criteriaOf(given).length === 0) {
    return ["Missing node search criteria. Which node is meant must be said", 1];
  }
  return undefined;
}

type Place = { readonly dir: string; readonly port: number; readonly authKey: string };

/** @throws PgpoolError when the configuration named cannot be read */
function placeOf(given: Given): Place {
  const { "config-file": file, "auth-key": key, "socket-dir": dir, "ipc-port": port } = given;
  const config = file === undefined ? undefined : loadPlace(file);
  return {
    dir: dir ?? config?.dir ?? "/tmp",
    port: port === undefined ? (config?.port ?? 9898) : Number(port),
    authKey: key ?? config?.authKey ?? "",
  };
}

function loadPlace(file: string): Place {
  const { config, messages } = loadConfig(configSource(file));
  const unread = messages.find(({ message }) => message.startsWith("could not open configuration"));
  if (unread !== undefined) throw new CommandFailure(unread.message, { exitCode: 1 });
  const own = config.watchdogNodes.find(({ id }) => id === (config.pgpoolNodeId ?? 0));
  return {
    dir: config.wd_ipc_socket_dir,
    port: own?.wd_port ?? 9898,
    authKey: config.wd_authkey,
  };
}

// ---------------------------------------------------------------- the dialogue

async function perform(operation: Operation, given: Given, call: Invocation): Promise<number> {
  const fault = faultOf(operation, given);
  if (fault !== undefined) return fail(call, given, ...fault);
  let place: Place;
  try {
    place = placeOf(given);
  } catch (error) {
    if (!(error instanceof PgpoolError)) throw error;
    note(call, given, `WARNING: pid ${process.pid}: ${error.message}`);
    return fail(call, given, "Unable to get configuration. Exiting...\n", 1, error.message);
  }
  const criteria = criteriaOf(given);
  if (given.debug) traceRequest(operation, given, place, call);
  const path = ipcSocketPath(place.dir, place.port);
  const answer = await askOverIpc(path, encodeIpcRequest("3", { NodeID: -1 }, place.authKey));
  const json = listOf(answer);
  if (json === undefined) return failToAsk(call, given, answer, path);
  if (given.debug && !given.json) call.out(`DEBUG:************\n${json}\n************\n`);
  const list = decodeWatchdogInfo(json);
  if (operation.kind === "info") return showInfo(list, criteria, given, call);
  const [node] = fitting(list, criteria);
  if (node === undefined) return notFound(call, given, criteria);
  return await inform(operation.status, node, { given, call, place, path });
}

/** The JSON of the list of nodes; undefined when the answer holds none. */
function listOf(answer: IpcAnswer): string | undefined {
  if (answer.kind !== "frame" || answer.frame.letter !== "7") return undefined;
  const json = jsonText(answer.frame.body);
  return json === "" ? undefined : json;
}

/** The original's two lines, and between them the reason, which it keeps to itself. */
function failToAsk(call: Invocation, given: Given, answer: IpcAnswer, path: string): number {
  const pid = `pid ${process.pid}:`;
  const said = answer.kind === "frame" ? messageOf(answer.frame.body) : undefined;
  const reason =
    answer.kind === "unreachable"
      ? `${path}: ${answer.reason}`
      : `the watchdog refused${said === undefined ? "" : `: ${said}`}`;
  if (answer.kind !== "frame")
    note(call, given, `WARNING: ${pid} get watchdog nodes command failed`);
  note(call, given, `DETAIL:  ${reason}`);
  const message = "get node list command reply contains no data";
  return fail(call, given, given.json ? message : `${pid} ${message}`, 255, reason);
}

const fitting = (list: WatchdogInfo, criteria: readonly Criterion[]): readonly WatchdogNode[] =>
  list.nodes.filter((node) => criteria.every(([, fits]) => fits(node)));

function showInfo(
  list: WatchdogInfo,
  criteria: readonly Criterion[],
  given: Given,
  call: Invocation,
): number {
  const wantsAll = given.all === true || criteria.length === 0;
  if (wantsAll && given.all !== true) {
    note(call, given, "WARNING: Missing node search criteria. applying --all option");
  }
  const nodes = wantsAll ? list.nodes : fitting(list, criteria).slice(0, 1);
  if (nodes.length === 0) return notFound(call, given, criteria);
  if (given.json) {
    call.out(`${JSON.stringify(snakeCased({ ...list, nodes }))}\n`);
    return 0;
  }
  const total = `Total Watchdog nodes configured for lifecheck:    ${list.nodes.length}\n`;
  call.out(total + (given.verbose ? verboseText(nodes) : nodes.map(plainLine).join("")));
  return 0;
}

/** The second word is the life check's state, which no release has ever told. */
const plainLine = (node: WatchdogNode): string =>
  `${node.id} 0 "${node.stateName}""${node.nodeName}""${node.hostName}" ${node.wdPort} ${node.pgpoolPort}\n`;

const verboseText = (nodes: readonly WatchdogNode[]): string =>
  `*****************\n${nodes
    .map(
      (node) => `Node ID:           ${node.id}
Node Status code:  ${node.state}
Node Status:       ${node.stateName}
Node Name:         ${node.nodeName}
Node Host:         ${node.hostName}
Node WD Port:      ${node.wdPort}
Node Pgpool Port:  ${node.pgpoolPort}

`,
    )
    .join("")}`;

async function inform(
  status: string,
  node: WatchdogNode,
  {
    given,
    call,
    place,
    path,
  }: {
    readonly given: Given;
    readonly call: Invocation;
    readonly place: Place;
    readonly path: string;
  },
): Promise<number> {
  const known = statusOf(status) ?? "DEAD";
  const { message } = given;
  const shown = `node id :${node.id} status = "NODE ${known}" message:"${message ?? "(null)"}"`;
  // The original ends neither line.
  if (!given.json) call.err(`INFO: informing the node status change to watchdogINFO: ${shown}`);
  const fields = { NodeID: node.id, NodeStatus: STATUSES[known] };
  const text = message === undefined ? {} : { Message: message };
  const answer = await askOverIpc(
    path,
    encodeIpcRequest("2", { ...fields, ...text }, place.authKey),
  );
  const asked = given["node-id"] === undefined ? -1 : node.id;
  const done =
    answer.kind === "silence" || (answer.kind === "frame" && answer.frame.letter === "7");
  const word = known.toLowerCase();
  if (!done) {
    const reason =
      answer.kind === "unreachable"
        ? answer.reason
        : answer.kind === "frame"
          ? (messageOf(answer.frame.body) ?? "it was refused")
          : "";
    const what = `failed to inform watchdog about node id ${asked} is ${word}`;
    return fail(call, given, what, 1, reason);
  }
  if (given.json) call.out(`${JSON.stringify({ node_id: node.id, informed: word })}\n`);
  else call.err(`INFO: informed watchdog about node id ${asked} is ${word}\n`);
  return 0;
}

function notFound(call: Invocation, given: Given, criteria: readonly Criterion[]): number {
  const message = "unable to find the node with the requested criteria";
  const detail = `Criteria:${criteriaText(criteria)}`;
  if (given.json) return fail(call, given, message, 1, detail);
  call.err(`ERROR: ${message}\n${detail}\n`);
  return 1;
}

// ---------------------------------------------------------------- what is said

function traceRequest(operation: Operation, given: Given, place: Place, call: Invocation): void {
  const { "config-file": file } = given;
  if (given.json) return;
  if (file !== undefined) call.out(`DEBUG: From config ${place.dir}:${place.port}\n`);
  const what = operation.kind === "info" ? "INFO REQUEST" : "INFORM NODE STATUS";
  const all = given.all === true ? "TRUE" : "FALSE";
  call.err(
    `DEBUG: setting IPC address to ${place.dir}:${place.port}
DEBUG: OPERATION:"${what}" ALL NODE CRITERIA = ${all}
DEBUG: Search criteria:${criteriaText(criteriaOf(given))}
`,
  );
}

/** A remark, which has no place in a JSON document. */
function note(call: Invocation, given: Pick<Given, "json">, line: string): void {
  if (!given.json) call.err(`${line}\n`);
}

function fail(
  call: Invocation,
  given: Pick<Given, "json">,
  message: string,
  exitCode = 1,
  detail: string | null = null,
): number {
  if (given.json) {
    call.out(
      `${JSON.stringify({ error: { severity: "ERROR", message: message.trim(), detail } })}\n`,
    );
    return exitCode === 0 ? 1 : exitCode;
  }
  call.err(`ERROR: ${message}\n`);
  return exitCode;
}
