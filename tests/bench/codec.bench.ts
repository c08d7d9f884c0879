/** `bun tests/bench/codec.bench.ts [filter]`: what the wire codec costs for one message. */

import { bench, do_not_optimize, group, run } from "mitata";
import { decodeBackend, encodeBackend, errorResponse } from "../../core/wire/backend.ts";
import { FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend } from "../../core/wire/frontend.ts";
import { traceFrontend } from "../../core/wire/trace.ts";

const text = (value: string) => new TextEncoder().encode(value);
const sql = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";

const row = encodeBackend({ kind: "DataRow", values: [text("12345"), text("some text"), null] });
const query = encodeFrontend({ kind: "Query", sql });
const pipeline = [
  encodeFrontend({ kind: "Parse", statement: "", sql, parameterTypes: [] }),
  encodeFrontend({
    kind: "Bind",
    portal: "",
    statement: "",
    parameterFormats: [],
    parameters: [text("12345")],
    resultFormats: [0],
  }),
  encodeFrontend({ kind: "Describe", target: "P", name: "" }),
  encodeFrontend({ kind: "Execute", portal: "", rowsMax: 0 }),
  encodeFrontend({ kind: "Sync" }),
];
const answer = Buffer.concat([
  row,
  encodeBackend({ kind: "CommandComplete", tag: "SELECT 1" }),
  encodeBackend({ kind: "ReadyForQuery", status: "I" }),
]);
const rows = Buffer.concat(Array.from({ length: 1000 }, () => row));
const halves = [rows.subarray(0, rows.length / 2 + 3), rows.subarray(rows.length / 2 + 3)];

/** All frames of the chunks, through a decoder that lives as long as a connection. */
function cutter(chunks: readonly Uint8Array[]): () => number {
  const decoder = new FrameDecoder({ bodySizeMax: 1 << 20 });
  return () => {
    let size = 0;
    for (const chunk of chunks) {
      decoder.add(chunk);
      for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) {
        size += frame.raw.length;
      }
    }
    return size;
  };
}

group("frames", () => {
  const onAnswer = cutter([answer]);
  bench("frames: a short answer (3 messages)", () => do_not_optimize(onAnswer()));
  const onRows = cutter([rows]);
  bench("frames: 1000 rows in a chunk", () => do_not_optimize(onRows()));
  const onHalves = cutter(halves);
  bench("frames: 1000 rows in two chunks", () => do_not_optimize(onHalves()));
  const generated = new FrameDecoder({ bodySizeMax: 1 << 20 });
  bench("frames: 1000 rows by push()", () => {
    for (const frame of generated.push(rows)) do_not_optimize(frame);
  });
});

group("decode", () => {
  const queryFrame = frameOf(query);
  bench("decode: Query", () => do_not_optimize(decodeFrontend(queryFrame)));
  const frames = pipeline.map(frameOf);
  bench("decode: Parse, Bind, Describe, Execute, Sync", () => {
    for (const frame of frames) do_not_optimize(decodeFrontend(frame));
  });
  const rowFrame = frameOf(row);
  bench("decode: DataRow of 3", () => do_not_optimize(decodeBackend(rowFrame)));
  bench("trace: Query", () => do_not_optimize(traceFrontend(queryFrame)));
});

group("encode", () => {
  bench("encode: Query", () => do_not_optimize(encodeFrontend({ kind: "Query", sql })));
  bench("encode: ReadyForQuery", () =>
    do_not_optimize(encodeBackend({ kind: "ReadyForQuery", status: "I" })),
  );
  bench("encode: ErrorResponse", () =>
    do_not_optimize(errorResponse({ severity: "ERROR", code: "42601", message: "syntax error" })),
  );
});

const [filter] = process.argv.slice(2);
await run(filter === undefined ? {} : { filter: new RegExp(filter) });
