/** A PCP server without sockets: what a peer sends, and what it is sent. */

import type { AdminView } from "../../core/admin/view.ts";
import type { Config } from "../../core/config/schema.ts";
import { pcpResponse } from "../../core/pcp/auth.ts";
import { frameOf, type PcpFrame, replyCutter } from "../../core/pcp/frame.ts";
import { decodeReport, type PcpReport } from "../../core/pcp/reply.ts";
import { encodeRequest, type PcpRequest } from "../../core/pcp/request.ts";
import type { Log, LogFields, LogSeverity } from "../../core/ports.ts";
import { encodeText } from "../../core/wire/text.ts";
import type { PcpConn, PcpConnHandler, PcpDesk } from "../../pcp/desk.ts";
import { PcpServer } from "../../pcp/server.ts";
import type { PcpWorld } from "../../pcp/session.ts";
import { cluster, view } from "../core/admin/views.ts";
import { login } from "../core/pcp/vectors.ts";

const deaf: PcpConnHandler = { onData() {}, onDrain() {}, onClose() {} };

/** The peer's end of a connection. */
export class Peer implements PcpConn {
  readonly peer = { kind: "unix" } as const;
  handler: PcpConnHandler = deaf;
  readonly #cutter = replyCutter();
  paused = false;
  ended = false;
  destroyed = false;
  /** While false, nothing that is sent leaves. */
  reads = true;
  sends = 0;

  send(bytes: Uint8Array): boolean {
    this.sends++;
    this.#cutter.push(bytes.slice());
    return this.reads;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  end(): void {
    this.ended = true;
  }
  destroy(): void {
    this.destroyed = true;
    this.handler.onClose();
  }

  /** All that has come since the last call. */
  received(): PcpFrame[] {
    const frames: PcpFrame[] = [];
    for (let piece = this.#cutter.next(); piece !== undefined; piece = this.#cutter.next()) {
      frames.push(frameOf(piece));
    }
    return frames;
  }

  /** The letters of what came, and of an error what it says. */
  heard(): string[] {
    return this.received().map((frame) => {
      if (frame.letter !== "E" && frame.letter !== "N") return frame.letter;
      return `${frame.letter} ${spoken(decodeReport(frame))}`;
    });
  }

  async say(...requests: readonly PcpRequest[]): Promise<void> {
    await this.sendBytes(Buffer.concat(requests.map(encodeRequest)));
  }

  async sendBytes(bytes: Uint8Array): Promise<void> {
    this.handler.onData(bytes);
    await settled();
  }

  async logIn(user: string = login.user, hash: string = login.hash): Promise<void> {
    await this.say({ kind: "salt" });
    const salt = this.received().at(-1)?.body ?? new Uint8Array(4);
    const response = pcpResponse(hash, user, salt);
    await this.say({ kind: "authenticate", user, response });
  }
}

const spoken = ({ severity, message, detail }: PcpReport): string =>
  [severity, message, ...(detail === undefined ? [] : [detail])].join(" | ");

/** All that follows from what has happened has happened: no timer and no socket is involved. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
}

export type Deed = readonly [name: string, ...args: readonly unknown[]];

/** A server whose desk writes down what it is asked to do. */
export class Stage {
  readonly deeds: Deed[] = [];
  readonly logged: string[] = [];
  readonly timers = new Set<{ readonly delayMs: number; readonly callback: () => void }>();
  readonly desk: PcpDesk;
  readonly server: PcpServer;

  constructor(
    changes: {
      readonly desk?: Partial<PcpDesk>;
      readonly view?: Partial<AdminView>;
      readonly config?: Partial<Config>;
      readonly world?: Partial<PcpWorld>;
    } = {},
  ) {
    const config = { ...view.config, ...changes.config };
    const note =
      (name: string) =>
      async (...args: readonly unknown[]): Promise<void> => {
        this.deeds.push([name, ...args]);
      };
    this.desk = {
      view: () => ({ ...view, cluster, ...changes.view, config }),
      events: () => [],
      probe: async () => ({ pgStatus: "up", serverRole: "standby" }),
      busyWith: () => undefined,
      attachNode: note("attach"),
      detachNode: note("detach"),
      promoteNode: note("promote"),
      recoverNode: note("recover"),
      stop: (mode, scope) => void this.deeds.push(["stop", mode, scope]),
      reload: note("reload"),
      rotateLog: note("rotate"),
      invalidateCache: note("invalidate"),
      watchdogInfo: async (id) => JSON.stringify({ id }),
      ...changes.desk,
    };
    const world: PcpWorld = {
      desk: this.desk,
      passwords: async () => encodeText(`${login.user}:${login.hash}\n`),
      salt: () => login.salt,
      after: (delayMs, callback) => {
        const timer = { delayMs, callback };
        this.timers.add(timer);
        return () => this.timers.delete(timer);
      },
      loginLimitMs: () => 60_000,
      ...changes.world,
    };
    this.server = new PcpServer(world, { log: this.#log(), logsSessions: () => true });
  }

  connect(): Peer {
    const peer = new Peer();
    this.server.accept(peer);
    return peer;
  }

  async logIn(): Promise<Peer> {
    const peer = this.connect();
    await peer.logIn();
    peer.received();
    return peer;
  }

  #log(): Log {
    const log: Log = {
      enabled: () => true,
      write: (severity: LogSeverity, message: string, fields?: LogFields) => {
        const detail = fields?.detail === undefined ? "" : ` | ${fields.detail}`;
        this.logged.push(`${severity} ${message}${detail}`);
      },
      as: () => log,
    };
    return log;
  }
}
