/**
 * replication_delay_source_cmd: the command line that is run and what it prints, one number of
 * milliseconds for each node that is not the primary (spec routing/delay-and-primary.md section 4).
 */

import type { LogSeverity } from "../ports.ts";
import type { NodeId } from "./state.ts";

export type DelayTarget = {
  readonly id: NodeId;
  readonly hostname: string;
  readonly port: number;
};

/** The configured text, then `host:port` of each node but the primary, for `/bin/sh -c`. */
export function delayCommandLine(command: string, targets: readonly DelayTarget[]): string {
  return [command, ...targets.map((target) => shellWord(addressOf(target)))].join(" ");
}

function addressOf({ id, hostname, port }: DelayTarget): string {
  return hostname === "" || port === 0 ? `unknown_node_${id}` : `${hostname}:${port}`;
}

/** A host name is a word to the shell whatever is in it. (Pgpool passes it on as it is.) */
const shellWord = (text: string): string =>
  /^[\w.:/@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

export type DelayOutput = {
  /** Microseconds. A node that is not here keeps the delay it had. */
  readonly delays: ReadonlyMap<NodeId, number>;
  readonly complaints: readonly { readonly severity: LogSeverity; readonly message: string }[];
};

/** Milliseconds beyond which a delay is thought a mistake, though believed. */
const PLAUSIBLE_MAX_MS = 3_600_000;

export function parseDelays(output: string, targets: readonly DelayTarget[]): DelayOutput {
  const words = output.split(/[ \t\r\n]+/).filter((word) => word !== "");
  const delays = new Map<NodeId, number>();
  const complaints: { severity: LogSeverity; message: string }[] = [];
  if (words.length !== targets.length) {
    const message = `replication delay command printed ${words.length} values, expected ${targets.length}`;
    complaints.push({ severity: "WARNING", message });
  }
  for (const [index, { id }] of targets.entries()) {
    const word = words[index];
    if (word === undefined) continue;
    const { delayMs, complaint } = delayOf(word);
    if (delayMs !== undefined) delays.set(id, Math.round(delayMs * 1000));
    if (complaint === undefined) continue;
    const severity = delayMs === undefined ? "LOG" : "WARNING";
    complaints.push({ severity, message: `${complaint} for node ${id}` });
  }
  return { delays, complaints };
}

type Read = { readonly delayMs: number | undefined; readonly complaint?: string };

function delayOf(word: string): Read {
  const delayMs = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i.test(word) ? Number(word) : undefined;
  if (delayMs === -1) {
    return { delayMs: undefined, complaint: "replication delay command believes the node is down" };
  }
  if (delayMs === undefined || !Number.isFinite(delayMs) || delayMs < 0) {
    const complaint = `invalid replication delay "${word.slice(0, 64)}", 0 is assumed`;
    return { delayMs: 0, complaint };
  }
  if (delayMs > PLAUSIBLE_MAX_MS) {
    return { delayMs, complaint: `replication delay of ${delayMs} ms is very long` };
  }
  return { delayMs };
}
