/**
 * What a session logs of its messages: log_client_messages, log_backend_messages, and the lines of
 * log_per_node_statement that are about no statement of the client's. A session has one only while
 * such a setting is on.
 */
import type { NodeId } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import {
  BackendMessageLines,
  clientMessageLine,
  copyDataLine,
  type MessageLine,
} from "../core/message_lines.ts";
import type { Log } from "../core/ports.ts";
import { FRONTEND } from "../core/wire/codes.ts";
import type { Observer } from "./session/desk.ts";

export type MessageLogOptions = {
  readonly log: Log;
  /** The session's own, asked for each message. */
  readonly config: () => Config;
  readonly pidOf: (node: NodeId) => number;
  /** A text as it may be logged. */
  readonly shown: (text: string) => string;
};

/** Whether a session with this configuration has anything to log of its messages. */
export const logsMessages = (config: Config): boolean =>
  config.log_client_messages ||
  config.log_per_node_statement ||
  config.log_backend_messages !== "none";

export class MessageLog implements Observer {
  readonly #options: MessageLogOptions;
  readonly #backend = new BackendMessageLines();
  #copyData = 0;

  constructor(options: MessageLogOptions) {
    this.#options = options;
  }

  fromClient(bytes: Uint8Array, at: number, end: number): void {
    if (!this.#options.config().log_client_messages) return;
    if (bytes[at] === FRONTEND.CopyData) {
      this.#copyData++;
      return;
    }
    this.#tellCopyData();
    this.#tell(clientMessageLine(bytes, at, end));
  }

  fromNode(node: NodeId, type: number): void {
    const { log, config } = this.#options;
    const { log_backend_messages } = config();
    if (log_backend_messages === "none") return;
    if (log_backend_messages === "terse") {
      for (const line of this.#backend.terse(node, type)) log.write("LOG", line);
      return;
    }
    const line = this.#backend.verbose(node, type);
    if (line !== undefined) log.write("LOG", line);
  }

  toNode(node: NodeId, statement: string): void {
    const { log, config, pidOf, shown } = this.#options;
    if (config().log_per_node_statement)
      log.write("LOG", nodeLine(node, pidOf(node), shown(statement)));
  }

  /** The session is over: what was only counted is told. */
  end(): void {
    this.#tellCopyData();
    for (const line of this.#backend.rest()) this.#options.log.write("LOG", line);
  }

  #tellCopyData(): void {
    if (this.#copyData === 0) return;
    this.#tell(copyDataLine(this.#copyData));
    this.#copyData = 0;
  }

  #tell(line: MessageLine | undefined): void {
    const { log, shown } = this.#options;
    if (line === undefined) return;
    log.write("LOG", line.message, { detail: line.detail && shown(line.detail) });
  }
}

/** The line of log_per_node_statement. */
export const nodeLine = (node: NodeId, pid: number, statement: string): string =>
  `DB node id: ${node} backend pid: ${pid} statement: ${statement}`;
