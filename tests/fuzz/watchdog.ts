/** Fuzzers of the watchdog's formats: what a stranger may send to its ports and its socket. */

import { deepStrictEqual, ok } from "node:assert";
import fc from "fast-check";
import { decodeHeartbeat, encodeHeartbeat } from "../../watchdog/heartbeat.ts";
import { decodeIpcCommand, encodeIpcFrame, ipcCutter, ipcFrameOf } from "../../watchdog/ipc.ts";
import {
  decodePacket,
  encodePacket,
  OversizedMessage,
  type Packet,
  packetCutter,
} from "../../watchdog/wire.ts";
import { ipcFrames } from "../watchdog/captures.ts";
import { message } from "../watchdog/messages.ts";
import { type Fuzzer, fuzzer, mutated } from "./fuzzer.ts";
import { concat, cuts, pieces } from "./wire.ts";

const stream = fc
  .array(fc.record({ id: fc.nat(2 ** 32 - 1), message }), { maxLength: 4 })
  .map((packets) => concat(packets.map(encodePacket)));

/** Everything that comes of a stream, until a length ends it. */
function taken(chunks: readonly Uint8Array[]): readonly (Packet | "refused")[] {
  const cutter = packetCutter();
  const found: (Packet | "refused")[] = [];
  let pushed = 0;
  try {
    for (const chunk of chunks) {
      cutter.push(chunk);
      pushed += chunk.length;
      for (let piece = cutter.next(); piece !== undefined; piece = cutter.next()) {
        found.push(decodePacket(piece));
      }
      ok(cutter.allocated <= Math.max(8192, pushed * 2));
    }
  } catch (error) {
    if (!(error instanceof OversizedMessage)) throw error;
    found.push("refused");
  }
  return found;
}

const heartbeat = fc
  .record({ host: fc.constantFrom("a", "::1"), pgpoolPort: fc.nat(65_535), seconds: fc.nat() })
  .map((beat) => encodeHeartbeat({ ...beat, microseconds: 7 }, "key"));

const command = fc
  .constantFrom(...ipcFrames.filter(({ direction }) => direction === ">"))
  .map(encodeIpcFrame);

export const watchdogFuzzers: readonly Fuzzer[] = [
  fuzzer({
    name: "watchdog",
    claim: "any bytes between watchdogs are the same messages however they are cut, or refused",
    runs: 20_000,
    input: fc.tuple(mutated(stream), cuts),
    check([bytes, places]) {
      const whole = taken([bytes]);
      deepStrictEqual(taken(pieces(bytes, places)), whole);
      for (const packet of whole) {
        if (packet === "refused" || packet.message.kind === "unreadable") continue;
        const { id, message: read } = packet;
        deepStrictEqual(decodePacket(encodePacket({ id, message: read })), packet);
      }
    },
  }),
  fuzzer({
    name: "heartbeat",
    claim: "a heartbeat whose sum does not fit is nobody's",
    runs: 40_000,
    input: fc.tuple(heartbeat, fc.nat(351), fc.integer({ min: 1, max: 255 })),
    check([bytes, at, change]) {
      const bad = bytes.with(at, (bytes[at] ?? 0) ^ change);
      const beat = decodeHeartbeat(bad, "key");
      // Padding and what stands after a NUL is not summed, nor is the port.
      const good = decodeHeartbeat(bytes, "key");
      if (beat !== undefined)
        deepStrictEqual({ ...beat, pgpoolPort: 0 }, { ...good, pgpoolPort: 0 });
    },
  }),
  fuzzer({
    name: "watchdog_ipc",
    claim: "any command on the watchdog's socket is understood or refused, and needs its key",
    runs: 20_000,
    input: mutated(command),
    check(bytes) {
      const cutter = ipcCutter();
      cutter.push(bytes);
      try {
        for (let piece = cutter.next(); piece !== undefined; piece = cutter.next()) {
          const frame = ipcFrameOf(piece);
          const done = decodeIpcCommand(frame, { sharedKey: 0.5, authKey: "" });
          // No integer is that shared key, so only what needs none may pass.
          ok(done.kind === "refused" || "023v".includes(frame.letter), done.kind);
        }
      } catch (error) {
        if (!(error instanceof OversizedMessage)) throw error;
      }
    },
  }),
];
