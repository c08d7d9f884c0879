/** `pgpool pcp status`: nodes, sessions, pool and last events of a running server on one screen. */

import {
  type Overview,
  type OverviewCache,
  type OverviewNode,
  overviewOf,
} from "../core/pcp/overview.ts";
import { decodeProcessRecord } from "../core/pcp/records.ts";
import { formatTime } from "../core/time.ts";
import { type PcpClient, PcpFailure } from "../pcp/client.ts";
import { type Command, defineCommand, type Invocation, refuse, type Values } from "./options.ts";
import { tellFailure } from "./pcp.ts";
import {
  callFlags,
  openCall,
  type PcpMachine,
  portOf,
  reportFlags,
  thisMachine,
} from "./pcp_call.ts";
import { snakeCased } from "./pcp_json.ts";
import { nodesOf } from "./pcp_text.ts";
import { tableText } from "./table.ts";

const { json, help } = reportFlags;
const statusFlags = {
  ...callFlags,
  watch: { brief: "show it again and again, until interrupted" },
  interval: { arg: "SECONDS", brief: "between two screens of --watch (default: 2)" },
  json,
  help,
} as const;

type StatusValues = Values<typeof statusFlags>;

/** Where the screens go, and what ends a watch; tests give their own. */
export type Screen = {
  readonly machine: PcpMachine;
  /** Colours and clearing are for a terminal only. */
  readonly terminal: boolean;
  readonly colours: boolean;
  readonly now: () => number;
  /** Resolves to false when there is to be no next screen. */
  readonly pause: (ms: number) => Promise<boolean>;
};

const { NO_COLOR } = process.env;
const thisScreen: Screen = {
  machine: thisMachine,
  terminal: process.stdout.isTTY === true,
  colours: process.stdout.isTTY === true && !NO_COLOR,
  now: Date.now,
  pause: (ms) => new Promise((resolve) => setTimeout(() => resolve(true), ms)),
};

export function makeStatusCommand(screen: Screen): Command<typeof statusFlags> {
  const command: Command<typeof statusFlags> = defineCommand({
    name: "pcp_status",
    brief: "nodes, sessions, pool and last events on one screen",
    usage: ["[OPTION]..."],
    flags: statusFlags,
    notes: "Works with servers of Pgpool-II as well, which keep no events.\n",
    help: { to: "stderr", exitCode: 0 },
    misuse: { show: "hint", to: "stderr", exitCode: 1 },
    async run(values, operands, call) {
      const [extra] = operands;
      if (extra !== undefined) return refuse(command, call, `unexpected argument "${extra}"`);
      if (portOf(values) === undefined) {
        return refuse(command, call, `Invalid port number "${values.port}"`);
      }
      const seconds = Number(values.interval ?? 2);
      if (!(seconds >= 0.1 && seconds <= 86_400)) {
        return refuse(command, call, `invalid interval "${values.interval}"`);
      }
      return values.watch
        ? await watch(values, seconds * 1000, call, screen)
        : await showOnce(values, call, screen);
    },
  });
  return command;
}

async function showOnce(values: StatusValues, call: Invocation, screen: Screen): Promise<number> {
  try {
    call.out(await picture(values, call, screen));
    return 0;
  } catch (error) {
    if (!(error instanceof PcpFailure)) throw error;
    return tellFailure(error, values, call, 1);
  }
}

const CLEAR = "\x1b[H\x1b[2J";

/** A server that cannot be reached may come back: the watch goes on. */
async function watch(
  values: StatusValues,
  intervalMs: number,
  call: Invocation,
  screen: Screen,
): Promise<number> {
  const begin = screen.terminal && !values.json ? CLEAR : "";
  do {
    try {
      call.out(begin + (await picture(values, call, screen)));
    } catch (error) {
      if (!(error instanceof PcpFailure)) throw error;
      call.out(begin);
      tellFailure(error, values, call, 1);
    }
  } while (await screen.pause(intervalMs));
  return 0;
}

async function picture(values: StatusValues, call: Invocation, screen: Screen): Promise<string> {
  const warn = (line: string) => call.err(`${line}\n`);
  const client = await openCall(values, screen.machine, { warn });
  try {
    const overview = await askOverview(client);
    if (values.json) return `${JSON.stringify(snakeCased(overview))}\n`;
    return screenText(overview, screen);
  } finally {
    client.close();
  }
}

async function askOverview(client: PcpClient): Promise<Overview> {
  const nodes = nodesOf(await client.ask({ kind: "node_info", argument: "-1" }));
  const { records } = await client.ask({ kind: "process_info", argument: "0" });
  return overviewOf(nodes, records.map(decodeProcessRecord), await ownWords(client));
}

/** Asked last: a server that is not one of ours closes the connection. */
async function ownWords(client: PcpClient): Promise<readonly string[] | undefined> {
  try {
    return (await client.ask({ kind: "status" })).texts;
  } catch (error) {
    if (error instanceof PcpFailure) return undefined;
    throw error;
  }
}

const EVENTS_SHOWN = 10;

/** Ends with a newline. */
export function screenText(overview: Overview, screen: Pick<Screen, "now" | "colours">): string {
  const { server, sessions, pool } = overview;
  const now = screen.now();
  const life =
    server === undefined
      ? "Pgpool-II"
      : `pgpool ${server.version}, ${server.mode}, up ${duration(now / 1000 - server.startedAt)}`;
  const doing = sessions.byActivity.map(
    ({ activity, count }) => `${count} ${activity.toLowerCase()}`,
  );
  const sections = [
    `${life}    ${formatTime(now)}`,
    nodeTable(overview.nodes, screen.colours),
    [
      `sessions   ${sessions.busy} of ${sessions.places}${listed(doing)}`,
      ...sessions.byOwner.slice(0, EVENTS_SHOWN).map(({ database, user, count }) => {
        return `           ${count} ${harmless(user)} in ${harmless(database)}`;
      }),
      `pool       ${pool.used} of ${pool.places} places hold connections, ${pool.inUse} in use`,
      ...(overview.cache === undefined ? [] : [cacheLine(overview.cache)]),
    ].join("\n"),
    ...(server === undefined ? [] : [eventLines(overview)]),
  ];
  return `${sections.join("\n\n")}\n`;
}

function cacheLine({ hits, misses, entries, bytes: size, forgotten }: OverviewCache): string {
  const asked = hits + misses;
  const ratio = asked === 0 ? 0 : Math.round((100 * hits) / asked);
  const void_ = Object.values(forgotten).reduce((sum, count) => sum + count, 0);
  return `cache      ${entries} results in ${bytes(size)}, ${ratio} % of ${asked} reads, ${void_} forgotten`;
}

/** Names are chosen by others, and a terminal obeys what is not printable. */
const harmless = (name: string): string => name.replace(/\p{Cc}/gu, "?");

const listed = (parts: readonly string[]): string =>
  parts.length === 0 ? "" : `: ${parts.join(", ")}`;

function eventLines({ events }: Overview): string {
  if (events.length === 0) return "no events since the start";
  const latest = events.slice(-EVENTS_SHOWN).reverse();
  return ["last events", ...latest.map(({ at, text }) => `${formatTime(at * 1000)}  ${text}`)].join(
    "\n",
  );
}

const nodeColumns = [
  ...["node", "server", "status", "answers", "role", "weight", "delay", "replication"],
  ...["connections", "since"],
];

function nodeTable(nodes: readonly OverviewNode[], colours: boolean): string {
  const text = tableText({ columns: nodeColumns, rows: nodes.map(nodeCells) });
  if (!colours) return text;
  const headLines = 2;
  const lines = text.split("\n");
  return lines
    .map((line, at) => {
      const node = nodes[at - headLines];
      return node === undefined ? line : `${colourOf(node)}${line}\x1b[0m`;
    })
    .join("\n");
}

function nodeCells(node: OverviewNode): readonly string[] {
  const role = node.pgRole === node.role || node.pgRole === "unknown" ? "" : ` (is ${node.pgRole})`;
  const states = [node.replicationState, node.replicationSyncState].filter((state) => state !== "");
  return [
    String(node.id),
    `${node.hostname}:${node.port}`,
    node.status,
    node.pgStatus,
    node.role + role,
    node.weight.toFixed(2),
    node.delayByTime ? `${(node.delay / 1_000_000).toFixed(3)} s` : bytes(node.delay),
    states.join(" "),
    `${node.connectionsInUse} of ${node.pooledConnections} in use`,
    formatTime(node.lastStatusChange * 1000),
  ];
}

const green = "\x1b[32m";
const yellow = "\x1b[33m";
const red = "\x1b[31m";

/** Green is as it should be; yellow deserves a look. */
function colourOf({ status, pgStatus, role, pgRole }: OverviewNode): string {
  if (status === "down") return red;
  const agrees = pgRole === role || pgRole === "unknown";
  return status === "up" && pgStatus !== "down" && agrees ? green : yellow;
}

const units = ["B", "kB", "MB", "GB", "TB"] as const;

export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** `3 d 04:05:06`, without the days while there are none. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  const time = `${two((whole % 86_400) / 3600)}:${two((whole % 3600) / 60)}:${two(whole % 60)}`;
  return whole < 86_400 ? time : `${Math.floor(whole / 86_400)} d ${time}`;
}

export const statusCommand = makeStatusCommand(thisScreen);
