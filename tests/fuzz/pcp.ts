/** Fuzzers of PCP: what a peer may send to the server, and what a server may send to the programs. */

import { deepStrictEqual, ok } from "node:assert";
import fc from "fast-check";
import { PgpoolError } from "../../core/errors.ts";
import { frameOf, replyCutter } from "../../core/pcp/frame.ts";
import { decodeNodeRecord, decodeProcessRecord } from "../../core/pcp/records.ts";
import {
  decodeReport,
  encodeArray,
  encodeError,
  encodeTexts,
  ReplyReader,
} from "../../core/pcp/reply.ts";
import { encodeRequest, type PcpRequest } from "../../core/pcp/request.ts";
import { decodeWatchdogInfo } from "../../core/pcp/watchdog_info.ts";
import { pcpRequest, text } from "../core/pcp/messages.ts";
import { login } from "../core/pcp/vectors.ts";
import { type Peer, Stage, settled } from "../pcp/stage.ts";
import { type Fuzzer, fuzzer, mutated } from "./fuzzer.ts";
import { concat, cuts, pieces } from "./wire.ts";

const logIn: readonly PcpRequest[] = [{ kind: "salt" }, { kind: "authenticate", ...login }];
const requests = fc
  .tuple(fc.boolean(), fc.array(pcpRequest, { maxLength: 6 }))
  .map(([known, rest]) => concat([...(known ? logIn : []), ...rest].map(encodeRequest)));

const fields = fc.array(text, { maxLength: 22 });
const replies = fc.oneof(
  fc.tuple(fc.constantFrom("l", "n", "h", "w"), fields).map(([letter, texts]) => {
    return encodeTexts(letter, texts);
  }),
  fc
    .tuple(fc.constantFrom("node_info", "process_info", "pool_status" as const), fc.array(fields))
    .map(([kind, records]) => concat([...encodeArray(kind, records)])),
  fc.tuple(text, text).map(([message, detail]) => {
    return encodeError({ severity: "ERROR", sqlstate: "XX000", message, detail });
  }),
);

/** What came of a stream: what was done, what was heard, and whether the connection lives. */
async function outcome(chunks: readonly Uint8Array[]): Promise<readonly unknown[]> {
  const stage = new Stage();
  const peer: Peer = stage.connect();
  for (const chunk of chunks) await peer.sendBytes(chunk);
  await settled();
  const heard = peer.heard();
  // Whoever is sent away is told why, unless it said goodbye itself.
  const last = heard.at(-1);
  ok(!(last?.startsWith("E FATAL") ?? false) || peer.ended);
  ok(stage.deeds.length === 0 || heard.includes("r"));
  peer.handler.onClose();
  deepStrictEqual([stage.server.sessionCount, stage.timers.size], [0, 0]);
  ok(!stage.logged.some((line) => line.includes("internal error")));
  return [stage.deeds, heard, peer.ended];
}

/** The one way in which a program may find fault with a server. */
function mayRefuse(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof PgpoolError)) throw error;
  }
}

export const pcpFuzzers: readonly Fuzzer[] = [
  fuzzer({
    name: "pcp_server",
    claim:
      "a PCP peer is answered or sent away, alike however its bytes are cut; nobody acts unknown",
    runs: 8_000,
    input: fc.tuple(mutated(requests), cuts),
    async check([stream, places]) {
      deepStrictEqual(await outcome(pieces(stream, places)), await outcome([stream]));
    },
  }),
  fuzzer({
    name: "pcp_client",
    claim: "a PCP server's answer is refused in words, or understood",
    runs: 40_000,
    input: mutated(replies),
    check(stream) {
      mayRefuse(() => {
        const cutter = replyCutter();
        const reader = new ReplyReader();
        cutter.push(stream);
        for (let piece = cutter.next(); piece !== undefined; piece = cutter.next()) {
          const frame = frameOf(piece);
          decodeReport(frame);
          const reply = reader.add(frame);
          for (const record of reply?.records ?? []) {
            mayRefuse(() => decodeNodeRecord(record));
            mayRefuse(() => decodeProcessRecord(record));
          }
          for (const json of reply?.texts ?? []) mayRefuse(() => decodeWatchdogInfo(json));
        }
        ok(cutter.allocated <= Math.max(8192, stream.length * 2));
      });
    },
  }),
];
