/** What the parts of the demonstration share: the installation, questions to it, and how it is shown. */
import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { ClusteringMode } from "../core/cluster/state.ts";
import { queryOnce, SqlClient, type SqlLogin, type SqlResult } from "./sql_client.ts";
import { tableText } from "./table.ts";

export const nodeCount = 3;
const root = fileURLToPath(new URL("..", import.meta.url).href);

export type Stage = {
  readonly dir: string;
  /** pgpool's; PCP has the next one, and the nodes those after it. */
  readonly port: number;
  readonly user: string;
  readonly mode: ClusteringMode;
  readonly binary: string;
  /** Aborted when the demonstration is to end. */
  readonly signal: AbortSignal;
};

export const portOfNode = (stage: Stage, node: number): number => stage.port + 2 + node;
export const nodeOfPort = (stage: Stage, port: string | number | null): number =>
  Number(port) - portOfNode(stage, 0);

const loginOf = (stage: Stage, database = "test"): SqlLogin => ({
  user: stage.user,
  database,
  applicationName: "demo",
});

export const connectTo = (stage: Stage, port = stage.port): Promise<SqlClient> =>
  SqlClient.connect({ host: "127.0.0.1", port }, loginOf(stage));

/** One question in a session of its own, through pgpool unless a port is given. */
export const ask = (
  stage: Stage,
  sql: string,
  port = stage.port,
  database?: string,
): Promise<SqlResult> => queryOnce({ host: "127.0.0.1", port }, loginOf(stage, database), sql);

export type NodeRow = { readonly id: number; readonly status: string; readonly role: string };

/** Asks pgpool for its nodes. */
export const poolNodes = async (stage: Stage): Promise<readonly NodeRow[]> =>
  nodeRows(await ask(stage, "SHOW pool_nodes"));

function nodeRows({ columns, rows }: SqlResult): readonly NodeRow[] {
  const at = (name: string) => columns.indexOf(name);
  return rows.map((row) => ({
    id: Number(row[at("node_id")]),
    status: row[at("status")] ?? "",
    role: row[at("role")] ?? "",
  }));
}

/** Asks for the nodes and shows them. */
export async function showNodes(stage: Stage): Promise<readonly NodeRow[]> {
  show("SHOW pool_nodes");
  const result = await ask(stage, "SHOW pool_nodes");
  const wanted = ["node_id", "hostname", "port", "status", "lb_weight", "role", "select_cnt"];
  const at = wanted.map((name) => result.columns.indexOf(name));
  const rows = result.rows.map((row) => at.map((index) => row[index] ?? ""));
  const table = tableText({ columns: wanted, rows }).replaceAll(/^/gm, "  ");
  console.log(
    table
      .replaceAll(/\b(up|waiting|primary|main)\b/g, (word) => paint("green", word))
      .replaceAll(/\bdown\b/g, (word) => paint("red", word)),
  );
  return nodeRows(result);
}

/**
 * Asks until it holds.
 *
 * @throws Error at the deadline, or when the demonstration is to end
 */
export async function until(
  stage: Stage,
  what: string,
  holds: () => Promise<boolean> | boolean,
  deadlineMs = 30_000,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    stage.signal.throwIfAborted();
    let last = "";
    try {
      if (await holds()) return;
    } catch (error) {
      last = error instanceof Error ? `: ${error.message}` : "";
    }
    if (performance.now() >= end) {
      throw new Error(`waited ${deadlineMs / 1000} s in vain for ${what}${last}`);
    }
    await delay(10);
  }
}

const escapes = { bold: 1, red: 31, green: 32, dim: 2 } as const;

/** Coloured on a terminal that wants colours, elsewhere as it is. */
export function paint(style: keyof typeof escapes, text: string): string {
  const { TERM } = process.env;
  const colours = process.stdout.isTTY && !("NO_COLOR" in process.env) && TERM !== "dumb";
  return colours ? `\x1b[${escapes[style]}m${text}\x1b[0m` : text;
}

export function heading(text: string): void {
  console.log(`\n${paint("bold", text)}`);
}

export function show(...statements: readonly string[]): void {
  for (const sql of statements) console.log(`  ${sql};`);
}

type RunOptions = {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Out of reach of the terminal's Ctrl-C. */
  readonly apart?: boolean;
  /** What it says is shown only when it fails. */
  readonly quiet?: boolean;
  /** After this it is killed. */
  readonly limitMs?: number;
};

/** Runs a program with our terminal, and waits for its end; resolves to the exit code. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<number> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd: options.cwd ?? root,
    env: { ...process.env, ...options.env },
    stdio: options.quiet === true ? ["ignore", "ignore", "pipe"] : ["ignore", "inherit", "inherit"],
    detached: options.apart === true,
    ...(options.limitMs === undefined ? {} : { timeout: options.limitMs, killSignal: "SIGKILL" }),
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    let said = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    child.once("close", (code) => {
      if (code !== 0) process.stderr.write(said);
      resolve(code ?? 1);
    });
  });
}
