/**
 * A connection during a dialogue: bytes in, whole packets out, awaited one at a time. Log-in on
 * both sides speaks through it; the session that follows takes the connection and the unread rest.
 */
import type { PgpoolError } from "../core/errors.ts";
import {
  type BodySizeMax,
  type Frame,
  FrameDecoder,
  StartupDecoder,
  type StartupPacket,
} from "../core/wire/frame.ts";
import type { Conn, ConnHandler } from "./transport/conn.ts";

/** Bytes that may wait unread before the peer is paused. */
const UNREAD_BYTES_MAX = 64 * 1024;

/** The peer closed the connection, or it was given up, while something was awaited. */
export class ChannelClosed extends Error {
  override name = "ChannelClosed";
}

/** The peer's part in a TLS handshake was wrong, or it went in the middle; the connection is closed. */
export class HandshakeFailed extends ChannelClosed {
  override name = "HandshakeFailed";
}

export class Channel implements ConnHandler {
  readonly conn: Conn;
  readonly #decoder: FrameDecoder;
  readonly #frames: Frame[] = [];
  #chunks: Uint8Array[] = [];
  #unread = 0;
  #closed: Error | undefined;
  #securing = false;
  #gone = false;
  #wake: (() => void) | undefined;
  /** Told when the peer is gone, also while nothing is awaited of it. */
  onClosed: (() => void) | undefined;

  constructor(conn: Conn, options: { readonly bodySizeMax: BodySizeMax }) {
    this.conn = conn;
    this.#decoder = new FrameDecoder(options);
    conn.handler = this;
  }

  /** The next packet without a type byte: StartupMessage, SSLRequest, CancelRequest, … */
  async startupPacket(): Promise<StartupPacket> {
    const decoder = new StartupDecoder({ encrypted: this.conn.tls !== undefined });
    for (;;) {
      const chunk = await this.#chunk();
      for (const packet of decoder.push(chunk)) {
        const rest = decoder.rest();
        if (rest.length > 0) {
          this.#chunks.unshift(rest);
          this.#unread += rest.length;
        }
        return packet;
      }
    }
  }

  /** One byte: the answer to SSLRequest has no frame. */
  async byte(): Promise<number> {
    const chunk = await this.#chunk();
    if (chunk.length > 1) {
      this.#chunks.unshift(chunk.subarray(1));
      this.#unread += chunk.length - 1;
    }
    return chunk[0] as number;
  }

  async frame(): Promise<Frame> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame !== undefined) return frame;
      for (const next of this.#decoder.push(await this.#chunk())) this.#frames.push(next);
    }
  }

  /** Bytes received and not yet asked for. */
  get hasUnread(): boolean {
    return this.#chunks.length > 0 || this.#frames.length > 0;
  }

  /** Takes what was received and not asked for, in order: the next owner of the connection begins with it. */
  takeRest(): Uint8Array[] {
    const rest = this.#frames.splice(0).map((frame) => frame.raw);
    const half = this.#decoder.rest();
    if (half.length > 0) rest.push(half);
    rest.push(...this.#chunks.splice(0));
    this.#unread = 0;
    return rest;
  }

  /** The dialogue is over. The next owner hears of the connection's end, even when it has come already. */
  handOver(owner: ConnHandler): void {
    this.conn.handler = owner;
    if (this.#gone) owner.onClose();
  }

  /** Runs a TLS handshake, during which only the end of the connection can give the channel up. */
  async secure(handshake: Promise<void>): Promise<void> {
    this.#securing = true;
    try {
      await handshake;
    } catch (error) {
      if (this.#closed !== undefined && !(this.#closed instanceof ChannelClosed))
        throw this.#closed;
      throw new HandshakeFailed(error instanceof Error ? error.message : String(error));
    } finally {
      this.#securing = false;
    }
    this.conn.handler = this;
  }

  /** Whoever awaits something is told that it will not come. The connection is left as it is. */
  giveUp(reason: Error | PgpoolError): void {
    this.#closed ??= reason;
    if (this.#securing) this.conn.destroy();
    this.#wake?.();
  }

  onData(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#unread += chunk.length;
    if (this.#unread > UNREAD_BYTES_MAX) this.conn.pause();
    this.#wake?.();
  }

  onDrain(): void {}

  onClose(error?: Error): void {
    this.#gone = true;
    this.giveUp(new ChannelClosed(error?.message ?? "connection closed", { cause: error }));
    this.onClosed?.();
  }

  async #chunk(): Promise<Uint8Array> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        const wasFull = this.#unread > UNREAD_BYTES_MAX;
        this.#unread -= chunk.length;
        if (wasFull && this.#unread <= UNREAD_BYTES_MAX) this.conn.resume();
        return chunk;
      }
      if (this.#closed !== undefined) throw this.#closed;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
