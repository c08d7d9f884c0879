/**
 * One connection to one PostgreSQL: opened and logged in, used by a session, cleaned, kept idle,
 * closed. Also the small conversations that need no session: a query of our own, a cancel request.
 */

import { BackendRefused, loginToBackend } from "../core/auth/client.ts";
import { type BackendDemand, type BackendSecret, runDialogue } from "../core/auth/dialogue.ts";
import type { ScramKeyCache } from "../core/auth/key_cache.ts";
import type { NodeId } from "../core/cluster/state.ts";
import { BackendUnavailable, PgpoolError } from "../core/errors.ts";
import { decodeBackend, errorField } from "../core/wire/backend.ts";
import { BACKEND } from "../core/wire/codes.ts";
import { backendBodySizeMax, type Frame } from "../core/wire/frame.ts";
import { encodeFrontend } from "../core/wire/frontend.ts";
import { Channel } from "./channel.ts";
import type { ClientTls, Conn, ConnectTarget, ConnHandler, Transport } from "./transport/conn.ts";

export const terminateMessage = encodeFrontend({ kind: "Terminate" });
const sslRequest = encodeFrontend({ kind: "SSLRequest" });

/** What every connection to a backend needs to know. */
export type BackendWorld = {
  readonly transport: Transport;
  /** Undefined: `ssl` is off and no SSLRequest is sent. */
  readonly tls: ClientTls | undefined;
  readonly scramKeys: ScramKeyCache;
  /** Where a server without a host name listens. */
  readonly defaultSocketDir: string;
};

export type BackendAddress = {
  readonly id: NodeId;
  readonly hostname: string;
  readonly port: number;
  readonly connectTimeoutMs: number;
};

export type BackendLogin = {
  /** The whole start-up packet, length included. */
  readonly startup: Uint8Array;
  readonly user: string;
  /** Asked only when the server demands something. */
  secretFor(demand: BackendDemand): Promise<BackendSecret>;
};

/** Hears of an idle connection that is no use any more. */
export type IdleListener = (backend: Backend) => void;

export class Backend implements ConnHandler {
  readonly node: NodeId;
  readonly conn: Conn;
  readonly target: ConnectTarget;
  readonly demand: BackendDemand | "trust";
  readonly processId: number;
  readonly secretKey: Uint8Array;
  /** ParameterStatus frames as last seen, by name, in the order first seen. */
  readonly parameters: Map<string, Uint8Array>;
  /** NegotiateProtocolVersion as the server sent it: every later user of the connection gets it too. */
  readonly negotiated: Uint8Array | undefined;
  onIdleLost: IdleListener | undefined;
  #notices: readonly Uint8Array[];
  #closed = false;

  constructor(options: {
    readonly node: NodeId;
    readonly conn: Conn;
    readonly target: ConnectTarget;
    readonly demand: BackendDemand | "trust";
    readonly greeting: Greeting;
  }) {
    this.node = options.node;
    this.conn = options.conn;
    this.target = options.target;
    this.demand = options.demand;
    this.processId = options.greeting.processId;
    this.secretKey = options.greeting.secretKey;
    this.parameters = options.greeting.parameters;
    this.negotiated = options.greeting.negotiated;
    this.#notices = options.greeting.notices;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Idle from now on: a byte or a close means that it cannot be used again. */
  watch(onLost: IdleListener): void {
    this.onIdleLost = onLost;
    this.conn.handler = this;
    this.conn.resume();
  }

  /** An idle server speaks only to say that it is going down, or that a parameter changed. */
  onData(chunk: Uint8Array): void {
    if (chunk[0] === BACKEND.ParameterStatus) this.rememberParameter(chunk);
    this.#lost();
  }

  onDrain(): void {}

  onClose(): void {
    this.#closed = true;
    this.#lost();
  }

  rememberParameter(frame: Uint8Array): void {
    const nameEnd = frame.indexOf(0, 5);
    if (nameEnd < 0) return;
    this.parameters.set(Buffer.from(frame.subarray(5, nameEnd)).toString(), frame.slice());
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onIdleLost = undefined;
    this.conn.handler = deaf;
    this.conn.send(terminateMessage);
    this.conn.end();
  }

  /** What the server said besides while it let us in: for the first client of the connection. */
  takeNotices(): readonly Uint8Array[] {
    const notices = this.#notices;
    this.#notices = [];
    return notices;
  }

  markClosed(): void {
    this.#closed = true;
  }

  #lost(): void {
    const tell = this.onIdleLost;
    this.onIdleLost = undefined;
    tell?.(this);
  }
}

const deaf: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };

type Greeting = {
  readonly processId: number;
  readonly secretKey: Uint8Array;
  readonly parameters: Map<string, Uint8Array>;
  readonly negotiated: Uint8Array | undefined;
  readonly notices: readonly Uint8Array[];
};

/** A server that says more than this before it is ready has no good in mind. */
const noticeCountMax = 64;

/**
 * Connects, encrypts where the server agrees, logs in, and reads up to ReadyForQuery. Rejects with
 * `BackendRefused` when the server says no, `BackendUnavailable` when it cannot be reached.
 */
export async function openBackend(
  world: BackendWorld,
  address: BackendAddress,
  login: BackendLogin,
  signal?: AbortSignal,
): Promise<Backend> {
  const target = targetOf(address, world.defaultSocketDir);
  const conn = await connect(world, address, target, signal);
  const channel = new Channel(conn, { bodySizeMax: backendBodySizeMax });
  const giveUp = () => channel.giveUp(signal?.reason as Error);
  signal?.addEventListener("abort", giveUp, { once: true });
  if (signal?.aborted) giveUp();
  try {
    if (world.tls !== undefined) await encrypt(channel, world.tls, address.id);
    channel.conn.send(login.startup);
    const { demand, relayed } = await authenticate(world, channel, login);
    const greeting = await readGreeting(channel, address.id, relayed);
    const backend = new Backend({ node: address.id, conn, target, demand, greeting });
    channel.handOver(backend); // other nodes may take longer: it can be lost before its session begins
    return backend;
  } catch (error) {
    conn.destroy();
    if (error instanceof PgpoolError) throw error;
    throw unavailable(address, error);
  } finally {
    signal?.removeEventListener("abort", giveUp);
  }
}

export function targetOf(address: BackendAddress, defaultSocketDir: string): ConnectTarget {
  const { hostname, port } = address;
  if (hostname !== "" && !hostname.startsWith("/")) return { kind: "tcp", host: hostname, port };
  const dir = hostname === "" ? defaultSocketDir : hostname;
  return { kind: "unix", path: `${dir}/.s.PGSQL.${port}` };
}

async function connect(
  world: BackendWorld,
  address: BackendAddress,
  target: ConnectTarget,
  signal: AbortSignal | undefined,
  timeoutMs = address.connectTimeoutMs,
): Promise<Conn> {
  try {
    return await world.transport.connect(target, { timeoutMs, signal });
  } catch (error) {
    throw unavailable(address, error);
  }
}

function unavailable(address: BackendAddress, cause: unknown): BackendUnavailable {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new BackendUnavailable(`failed to create a backend ${address.id} connection`, {
    detail: `host "${address.hostname}" port ${address.port}: ${reason}`,
    cause,
  });
}

/** One byte decides; anything behind it came before encryption and could be anyone's. */
async function encrypt(channel: Channel, tls: ClientTls, node: NodeId): Promise<void> {
  channel.conn.send(sslRequest);
  const answer = await channel.byte();
  if (answer === 0x4e) return; // 'N'
  if (answer !== 0x53) {
    throw new BackendUnavailable("server sent an error response during SSL exchange", {
      detail: `backend ${node} answered with byte ${answer}`,
    });
  }
  if (channel.hasUnread) {
    throw new BackendUnavailable("received unencrypted data after SSL response", {
      detail: `from backend ${node}`,
    });
  }
  await channel.secure(channel.conn.startClientTls(tls));
}

function authenticate(world: BackendWorld, channel: Channel, login: BackendLogin) {
  const dialogue = loginToBackend({ user: login.user, scramNonce: randomNonce() });
  return runDialogue(dialogue, {
    send: (bytes) => void channel.conn.send(bytes),
    receive: () => channel.frame(),
    derive: (work) => world.scramKeys.keysOf(work),
    secretFor: (asked) => login.secretFor(asked),
  });
}

function randomNonce(): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(18))).toString("base64");
}

function refused(frame: Frame): BackendRefused {
  const message = decodeBackend(frame);
  const text = message.kind === "ErrorResponse" ? errorField(message, "M") : undefined;
  const what = "authentication failed, backend node replied with an error";
  return new BackendRefused(what, text ?? "", frame.raw.slice());
}

async function readGreeting(
  channel: Channel,
  node: NodeId,
  relayed: readonly Uint8Array[],
): Promise<Greeting> {
  const negotiated = relayed.find((frame) => frame[0] === BACKEND.NegotiateProtocolVersion);
  const notices = relayed.filter((frame) => frame[0] === BACKEND.NoticeResponse);
  const parameters = new Map<string, Uint8Array>();
  let processId = 0;
  let secretKey: Uint8Array = new Uint8Array(0);
  for (;;) {
    const frame = await channel.frame();
    const message = decodeBackend(frame);
    switch (message.kind) {
      case "ParameterStatus":
        parameters.set(message.name, frame.raw.slice());
        break;
      case "BackendKeyData":
        processId = message.processId;
        secretKey = message.secretKey.slice();
        break;
      case "ErrorResponse":
        throw refused(frame);
      case "ReadyForQuery":
        return { processId, secretKey, parameters, negotiated, notices };
      case "NoticeResponse":
        if (notices.length >= noticeCountMax) throw unexpectedAtLogin(node, message.kind);
        notices.push(frame.raw.slice());
        break;
      default:
        throw unexpectedAtLogin(node, message.kind);
    }
  }
}

const unexpectedAtLogin = (node: NodeId, kind: string): BackendUnavailable =>
  new BackendUnavailable("unexpected message from backend during log-in", {
    detail: `node ${node} sent ${kind}`,
  });

/**
 * Runs one statement on a connection that nobody else uses and gives its rows as texts (null is
 * undefined). An ErrorResponse rejects with `BackendRefused`; the connection stays usable.
 */
export async function queryRows(
  backend: Backend,
  sql: string,
): Promise<readonly (readonly (string | undefined)[])[]> {
  const channel = new Channel(backend.conn, { bodySizeMax: backendBodySizeMax });
  backend.conn.send(encodeFrontend({ kind: "Query", sql }));
  const rows: (string | undefined)[][] = [];
  let failure: BackendRefused | undefined;
  for (;;) {
    const frame = await channel.frame();
    const message = decodeBackend(frame);
    if (message.kind === "DataRow") {
      rows.push(
        message.values.map((value) => (value === null ? undefined : Buffer.from(value).toString())),
      );
    } else if (message.kind === "ErrorResponse") {
      failure = refused(frame);
    } else if (message.kind === "ReadyForQuery") {
      if (failure !== undefined) throw failure;
      return rows;
    }
  }
}

/**
 * Sends the reset queries in one write and waits until each is done. Gives false when one of them
 * failed or the time is up: the connection cannot be kept.
 */
export async function resetBackend(
  backend: Backend,
  queries: readonly string[],
  timeoutMs: number,
): Promise<boolean> {
  const channel = new Channel(backend.conn, { bodySizeMax: backendBodySizeMax });
  const timer = setTimeout(() => channel.giveUp(new Error("reset timed out")), timeoutMs);
  try {
    backend.conn.resume();
    backend.conn.send(Buffer.concat(queries.map((sql) => encodeFrontend({ kind: "Query", sql }))));
    for (let left = queries.length; left > 0; ) {
      const frame = await channel.frame();
      if (frame.type === BACKEND.ErrorResponse) return false;
      if (frame.type === BACKEND.ParameterStatus) backend.rememberParameter(frame.raw);
      if (frame.type !== BACKEND.ReadyForQuery) continue;
      left--;
      if (left === 0) return frame.body[0] === 0x49;
    }
    return true;
  } catch {
    return false; // gone, or too slow: it is closed and not kept
  } finally {
    clearTimeout(timer);
    channel.handOver(backend);
  }
}

/**
 * Whether a server takes connections: it asks for a password, or refuses for whatever reason of its
 * own, but is neither out of reach nor going down nor starting. Nobody is logged in.
 */
export async function takesConnections(
  world: BackendWorld,
  address: BackendAddress,
  startup: Uint8Array,
  timeoutMs: number,
): Promise<boolean> {
  const target = targetOf(address, world.defaultSocketDir);
  const limitMs = Math.min(address.connectTimeoutMs, timeoutMs);
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    const conn = await connect(world, address, target, undefined, limitMs);
    timer = setTimeout(() => conn.destroy(), timeoutMs);
    try {
      const channel = new Channel(conn, { bodySizeMax: backendBodySizeMax });
      conn.send(startup);
      const message = decodeBackend(await channel.frame());
      const code = message.kind === "ErrorResponse" ? errorField(message, "C") : undefined;
      return code !== CANNOT_CONNECT_NOW;
    } finally {
      conn.destroy();
    }
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

const CANNOT_CONNECT_NOW = "57P03";

/** A connection of its own that carries nothing but the request; the server closes it. */
export async function sendCancel(
  world: BackendWorld,
  backend: Pick<Backend, "target" | "processId" | "secretKey">,
  timeoutMs: number,
): Promise<void> {
  const conn = await world.transport.connect(backend.target, { timeoutMs });
  const { processId, secretKey } = backend;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => conn.destroy(), timeoutMs);
    conn.handler = {
      onData() {},
      onDrain() {},
      onClose() {
        clearTimeout(timer);
        resolve();
      },
    };
    conn.send(encodeFrontend({ kind: "CancelRequest", processId, secretKey }));
  });
}
