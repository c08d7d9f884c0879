/** Fuzzers of core/wire: mutated messages, against decoders that may only refuse or understand. */

import { deepStrictEqual, ok } from "node:assert";
import fc from "fast-check";
import { ProtocolViolation } from "../../core/errors.ts";
import { decodeBackend, encodeBackend } from "../../core/wire/backend.ts";
import { ByteReader } from "../../core/wire/bytes.ts";
import { FrameDecoder, frameOf, StartupDecoder } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend, type FrontendPhase } from "../../core/wire/frontend.ts";
import { decodeText, encodeText } from "../../core/wire/text.ts";
import { traceBackend, traceFrontend, traceStartup } from "../../core/wire/trace.ts";
import {
  answer,
  backendMessage,
  frameOfAnything,
  queryMessage,
  startupRequest,
} from "../core/wire/messages.ts";
import { type Fuzzer, fuzzer, mutated } from "./fuzzer.ts";

export const concat = (pieces: readonly Uint8Array[]) => Uint8Array.from(Buffer.concat(pieces));
const fromClient = fc.oneof(
  queryMessage.map(encodeFrontend),
  answer.map(([, message]) => encodeFrontend(message)),
);
const fromServer = backendMessage.map(encodeBackend);
const phase = fc.constantFrom<FrontendPhase>("query", "password", "sasl_initial", "sasl", "gss");
export const cuts = fc.array(fc.nat(10_000), { maxLength: 20 });

/** The frame with the length word put right, so that a mutated body reaches the decoder. */
function reframed(bytes: Uint8Array): Uint8Array {
  const raw = Uint8Array.from([...bytes, 0, 0, 0, 0, 0].slice(0, Math.max(5, bytes.length)));
  new DataView(raw.buffer).setInt32(1, raw.length - 1);
  return raw;
}

/** Runs what may refuse its input in one way only. */
function mayRefuse(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof ProtocolViolation)) throw error;
  }
}

export function pieces(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const edges = [0, ...places.map((at) => at % (bytes.length + 1)), bytes.length];
  edges.sort((a, b) => a - b);
  return edges.slice(1).map((end, i) => bytes.slice(edges[i], end));
}

const BODY_SIZE_MAX = 4000;

export const wireFuzzers: readonly Fuzzer[] = [
  fuzzer({
    name: "frames",
    claim: "a stream gives the same frames or violation however it is cut, and none is kept long",
    runs: 20_000,
    input: fc.tuple(mutated(fc.array(fc.oneof(fromClient, fromServer)).map(concat)), cuts),
    check([stream, places]) {
      const outcome = (chunks: readonly Uint8Array[]): readonly unknown[] => {
        const decoder = new FrameDecoder({ bodySizeMax: BODY_SIZE_MAX });
        const seen: unknown[] = [];
        mayRefuse(() => {
          for (const chunk of chunks) {
            for (const frame of decoder.push(chunk)) seen.push(frame.raw);
            ok(decoder.buffered < 5 + BODY_SIZE_MAX);
          }
          seen.push("ended", decoder.rest());
        });
        return seen;
      };
      deepStrictEqual(outcome(pieces(stream, places)), outcome([stream]));
    },
  }),
  fuzzer({
    name: "frontend",
    claim: "a client's message is refused, or understood to the last byte",
    runs: 40_000,
    input: fc.tuple(mutated(fromClient), phase),
    check([bytes, awaited]) {
      mayRefuse(() => {
        const raw = reframed(bytes);
        deepStrictEqual(encodeFrontend(decodeFrontend(frameOf(raw), awaited)), raw);
      });
    },
  }),
  fuzzer({
    name: "backend",
    claim: "a server's message is refused, or understood to the last byte",
    runs: 40_000,
    input: mutated(fromServer),
    check(bytes) {
      mayRefuse(() => {
        const raw = reframed(bytes);
        deepStrictEqual(encodeBackend(decodeBackend(frameOf(raw))), raw);
      });
    },
  }),
  fuzzer({
    name: "startup",
    claim: "start-up packets are refused, or understood to the last byte",
    runs: 40_000,
    input: fc.tuple(mutated(startupRequest.map(encodeFrontend)), cuts),
    check([bytes, places]) {
      mayRefuse(() => {
        const decoder = new StartupDecoder();
        let at = 0;
        for (const packet of pieces(bytes, places).flatMap((chunk) => [...decoder.push(chunk)])) {
          if (packet.kind === "DirectTls") return;
          if (packet.kind === "StartupMessage" && packet.major !== 3) return;
          const again = encodeFrontend(packet);
          deepStrictEqual(again, bytes.slice(at, at + again.length));
          at += again.length;
        }
      });
    },
  }),
  fuzzer({
    name: "text",
    claim: "any bytes survive being text",
    runs: 40_000,
    input: mutated(fc.string({ unit: "binary", maxLength: 50 }).map(encodeText)),
    check(bytes) {
      deepStrictEqual(encodeText(decodeText(bytes)), bytes);
    },
  }),
  fuzzer({
    name: "trace",
    claim: "whatever was sent is traced in one line",
    runs: 20_000,
    input: fc.tuple(frameOfAnything, mutated(startupRequest.map(encodeFrontend)), phase),
    check([frame, startup, awaited]) {
      for (const line of [
        traceFrontend(frame, { phase: awaited }),
        traceBackend(frame),
        traceStartup(startup),
      ]) {
        ok(!line.includes("\n"));
      }
    },
  }),
];

/** Believes a length that the peer announced: what a fuzzer is for. */
export const canary: Fuzzer = fuzzer({
  name: "canary",
  claim: "a decoder that trusts a length is found out (this one must fail)",
  runs: 2_000,
  mustFail: true,
  input: mutated(backendMessage.filter((message) => message.kind === "DataRow").map(encodeBackend)),
  check(bytes) {
    mayRefuse(() => {
      const raw = reframed(bytes);
      const reader = new ByteReader(raw.subarray(5));
      for (let count = reader.uint16(); count > 0; count--) {
        const length = reader.int32();
        if (length !== -1) new DataView(raw.buffer, 5, length);
      }
    });
  },
});
