/** A dialogue's connection with a list for a socket: bytes in, packets out, one at a time. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { readyForQuery } from "../../core/wire/backend.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { Channel, ChannelClosed } from "../../proxy/channel.ts";
import type { Conn, ConnHandler } from "../../proxy/transport/conn.ts";

class FakeConn implements Conn {
  readonly peer = { kind: "unix" } as const;
  readonly tls = undefined;
  readonly buffered = 0;
  handler: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };
  paused = false;
  destroyed = false;

  send(): boolean {
    return true;
  }
  pause(): void {
    this.paused = true;
  }
  resume(): void {
    this.paused = false;
  }
  end(): void {}
  destroy(): void {
    this.destroyed = true;
  }
  startServerTls(): Promise<void> {
    return Promise.resolve();
  }
  startClientTls(): Promise<void> {
    return Promise.resolve();
  }
}

const query = (sql: string) => encodeFrontend({ kind: "Query", sql });
const startup = encodeFrontend({
  kind: "StartupMessage",
  major: 3,
  minor: 0,
  parameters: new Map([["user", "alice"]]),
});

function open(): { conn: FakeConn; channel: Channel } {
  const conn = new FakeConn();
  return { conn, channel: new Channel(conn, { bodySizeMax: 1_000_000 }) };
}

const concat = (pieces: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(pieces));

describe("Channel", () => {
  test("gives whole packets in order, however the bytes come", async () => {
    const frames = [query("SELECT 1"), encodeFrontend({ kind: "Sync" }), query("")];
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 9 })), async (sizes) => {
        const { conn, channel } = open();
        const stream = concat([startup, ...frames]);
        let at = 0;
        for (const size of [...sizes, stream.length]) {
          if (at < stream.length) conn.handler.onData(stream.slice(at, at + size));
          at += size;
        }
        expect(await channel.startupPacket()).toMatchObject({ kind: "StartupMessage" });
        for (const frame of frames) expect((await channel.frame()).raw).toEqual(frame);
        expect(channel.hasUnread).toBe(false);
      }),
    );
  });

  test("who waits is woken by what comes", async () => {
    const { conn, channel } = open();
    const frame = channel.frame();
    conn.handler.onData(query("SELECT 1").slice(0, 7));
    conn.handler.onData(query("SELECT 1").slice(7));
    expect((await frame).raw).toEqual(query("SELECT 1"));
  });

  test("a single byte is taken alone", async () => {
    const { conn, channel } = open();
    conn.handler.onData(concat([Uint8Array.of(0x53), readyForQuery("I")]));
    expect(await channel.byte()).toBe(0x53);
    expect((await channel.frame()).raw).toEqual(readyForQuery("I"));
  });

  test("what was not asked for goes to the next owner, half packets included", async () => {
    const { conn, channel } = open();
    const stream = concat([startup, query("a"), query("b"), query("c").slice(0, 3)]);
    conn.handler.onData(stream);
    await channel.startupPacket();
    await channel.frame();
    expect(channel.hasUnread).toBe(true);
    expect(concat(channel.takeRest())).toEqual(stream.slice(startup.length + query("a").length));
    expect(channel.hasUnread).toBe(false);
  });

  test("a peer that says too much unasked is paused until it has been heard", async () => {
    const { conn, channel } = open();
    const long = query("x".repeat(40_000));
    conn.handler.onData(long);
    expect(conn.paused).toBe(false);
    conn.handler.onData(long);
    expect(conn.paused).toBe(true);
    await channel.frame();
    expect(conn.paused).toBe(false);
    expect((await channel.frame()).raw).toEqual(long);
  });

  test("the end of the connection is told to who waits, after what came before it", async () => {
    const { conn, channel } = open();
    let told = 0;
    channel.onClosed = () => told++;
    conn.handler.onData(query("last words"));
    conn.handler.onClose(new Error("reset"));
    expect((await channel.frame()).raw).toEqual(query("last words"));
    const failure = await channel.frame().catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(ChannelClosed);
    expect(failure).toMatchObject({ message: "reset" });
    expect(told).toBe(1);
  });

  test("what is given up stays given up, for the first reason", async () => {
    const { channel } = open();
    const waiting = channel.frame().catch((error: unknown) => error);
    const reason = new Error("authentication timeout");
    channel.giveUp(reason);
    channel.giveUp(new Error("another"));
    expect(await waiting).toBe(reason);
    expect(await channel.byte().catch((error: unknown) => error)).toBe(reason);
  });

  test("lengths that cannot be are refused", async () => {
    for (const bytes of [
      [0x51, 0, 0, 0, 3],
      [0x51, 0x7f, 0xff, 0xff, 0xff],
      [0x51, 0x80, 0, 0, 0],
    ]) {
      const { conn, channel } = open();
      conn.handler.onData(Uint8Array.from(bytes));
      expect(await channel.frame().catch((error: unknown) => error)).toMatchObject({
        message: "invalid message length",
      });
    }
  });
});
