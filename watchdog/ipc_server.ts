/**
 * The watchdog's Unix socket, where programs of this host ask (spec watchdog/ipc.md sections 1 and 2).
 * One command per connection; somebody who sends half of one keeps nobody but himself waiting.
 */

import { chmodSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { replyOf } from "./answers.ts";
import {
  decodeIpcCommand,
  encodeIpcReply,
  type IpcCommand,
  type IpcKeys,
  type IpcReply,
  ipcCutter,
  ipcFrameOf,
} from "./ipc.ts";
import type { Answer } from "./node.ts";

export type IpcServerOptions = {
  readonly path: string;
  readonly keys: () => IpcKeys;
  /** `answer` is called once, if ever. The function given back says that nobody waits any more. */
  readonly ask: (command: IpcCommand, answer: (answer: Answer) => void) => () => void;
};

const COMMAND_LIMIT_MS = 10_000;
/** Of connections, those that wait for news which never come included. */
const CONNECTIONS_MAX = 128;

export class IpcServer {
  readonly #options: IpcServerOptions;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(options: IpcServerOptions) {
    this.#options = options;
  }

  /** Replaces a file that an earlier process left behind. Rejects with the system's error. */
  async listen(): Promise<void> {
    const { path } = this.#options;
    rmSync(path, { force: true });
    const server = createServer((socket) => this.#welcome(socket));
    this.#server = server;
    const listening = new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.once("listening", resolve);
    });
    // Only the owner may connect, from the first moment on: the file is made before `listen` returns.
    const umask = process.umask(0o077);
    server.listen({ path, backlog: 32 });
    process.umask(umask);
    await listening;
    chmodSync(path, 0o700);
    server.on("error", () => {}); // an accept that failed concerns one caller
  }

  close(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
    rmSync(this.#options.path, { force: true });
  }

  #welcome(socket: Socket): void {
    if (this.#sockets.size >= CONNECTIONS_MAX) {
      socket.on("error", () => {});
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    let withdraw: (() => void) | undefined;
    const late = setTimeout(() => socket.destroy(), COMMAND_LIMIT_MS);
    socket.on("error", () => {}); // its end is told by "close"
    socket.once("close", () => {
      clearTimeout(late);
      this.#sockets.delete(socket);
      withdraw?.();
    });
    const cutter = ipcCutter();
    let isAsked = false;
    socket.on("data", (chunk: Buffer) => {
      if (isAsked) return; // one command for each connection
      let piece: Uint8Array | undefined;
      try {
        cutter.push(new Uint8Array(chunk));
        piece = cutter.next();
      } catch {
        socket.destroy(); // longer than any command is
        return;
      }
      if (piece === undefined) return;
      isAsked = true;
      clearTimeout(late);
      withdraw = this.#obey(socket, piece);
    });
  }

  #obey(socket: Socket, piece: Uint8Array): (() => void) | undefined {
    const { keys, ask } = this.#options;
    const command = decodeIpcCommand(ipcFrameOf(piece), keys());
    if (command.kind === "refused") {
      reply(socket, command.reply);
      return undefined;
    }
    return ask(command, (answer) => {
      const replied = replyOf(answer);
      if (replied !== undefined) reply(socket, replied);
    });
  }
}

/** So long whoever was answered may take to read it and to close. */
const LINGER_MS = 5000;

function reply(socket: Socket, answer: IpcReply): void {
  const bytes = encodeIpcReply(answer);
  const late = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once("close", () => clearTimeout(late));
  if (bytes === undefined) socket.end();
  else socket.end(bytes);
}
