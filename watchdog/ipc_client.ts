/**
 * The client's side of the watchdog's Unix socket: one command, one answer, and the connection is
 * over (spec watchdog/ipc.md sections 1 and 2).
 */

import { connect } from "node:net";
import { type IpcFrame, ipcCutter, ipcFrameOf } from "./ipc.ts";

/** How long a watchdog may think, in milliseconds; Pgpool's own programs wait as long. */
export const IPC_TIMEOUT_MS = 8000;

export type IpcAnswer =
  | { readonly kind: "frame"; readonly frame: IpcFrame }
  /** Closed without a word, which is the answer to a report of a node's status. */
  | { readonly kind: "silence" }
  /** Nobody listens, or whoever does says nothing that can be read. */
  | { readonly kind: "unreachable"; readonly reason: string };

/** Sends a whole command in one write: a watchdog of Pgpool-II stands still while half of one is there. */
export function askOverIpc(
  path: string,
  request: Uint8Array,
  timeoutMs: number = IPC_TIMEOUT_MS,
): Promise<IpcAnswer> {
  return new Promise((resolve) => {
    const cutter = ipcCutter();
    const socket = connect(path);
    let heard = false;
    const timer = setTimeout(() => {
      finish({ kind: "unreachable", reason: `no answer within ${timeoutMs / 1000} s` });
    }, timeoutMs);
    const finish = (answer: IpcAnswer) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    socket.on("connect", () => socket.write(request));
    socket.on("data", (chunk: Buffer) => {
      heard = true;
      try {
        cutter.push(chunk);
        const piece = cutter.next();
        if (piece !== undefined) finish({ kind: "frame", frame: ipcFrameOf(piece) });
      } catch (error) {
        finish({ kind: "unreachable", reason: reasonOf(error) });
      }
    });
    socket.on("error", (error) => finish({ kind: "unreachable", reason: reasonOf(error) }));
    socket.on("close", () => {
      const cut = { kind: "unreachable", reason: "the answer ends in its middle" } as const;
      finish(heard ? cut : { kind: "silence" });
    });
  });
}

const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);
