/**
 * `bun tests/bench/functions.ts`: what the codec and a routing decision cost, by mitata. Times are
 * of this machine at this moment: compare two runs made one after the other, and nothing else.
 */
import { bench, do_not_optimize as keep, run, summary } from "mitata";
import { decodeBackend, encodeBackend, readyForQuery } from "../../core/wire/backend.ts";
import { backendBodySizeMax, FrameDecoder, frameOf } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend } from "../../core/wire/frontend.ts";
import { decodeText, encodeText } from "../../core/wire/text.ts";
import { StatementParser } from "../../proxy/parser.ts";
import { decideRoute } from "../../proxy/routing/route.ts";
import { RoutingSession } from "../../proxy/routing/session_routing.ts";
import { catalogOf, clusterOf, nothingWritten, rulesOf } from "../proxy/routing/rules.ts";

const select = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711";

function benchCodec(): void {
  const query = frameOf(encodeFrontend({ kind: "Query", sql: select }));
  const bind = frameOf(
    encodeFrontend({
      kind: "Bind",
      portal: "",
      statement: "P0_1",
      parameterFormats: [],
      parameters: [encodeText("4711")],
      resultFormats: [],
    }),
  );
  const row = encodeBackend({ kind: "DataRow", values: [encodeText("4711"), null] });
  const ready = frameOf(readyForQuery("I"));
  const rows = Buffer.concat(Array.from({ length: 1_000 }, () => row));
  summary(() => {
    bench("decode Query", () => keep(decodeFrontend(query)));
    bench("decode Bind", () => keep(decodeFrontend(bind)));
    bench("decode ReadyForQuery", () => keep(decodeBackend(ready)));
    bench("encode ReadyForQuery", () => keep(readyForQuery("T")));
  });
  bench("cut 1000 rows out of one chunk", () => {
    const decoder = new FrameDecoder({ bodySizeMax: backendBodySizeMax });
    decoder.add(rows);
    let count = 0;
    while (decoder.next() !== undefined) count++;
    return keep(count);
  });
}

async function benchRouting(): Promise<void> {
  const parser = await StatementParser.load();
  const session = new RoutingSession({ user: "u", database: "d" });
  const view = {
    cluster: clusterOf([{}, {}]),
    rules: rulesOf({}, 2),
    // As a warm relation cache answers for an ordinary table.
    catalog: catalogOf({}),
    random: () => 0.7,
    writes: nothingWritten,
  };
  const facts = parser.facts(select);
  const bytes = encodeText(select);
  let literal = 0;
  summary(() => {
    // From bytes each time: a string that is itself the key would be found without being read.
    bench("facts of a text seen before", () => keep(parser.facts(decodeText(bytes))));
    bench("facts of a known shape with a new literal", () =>
      keep(parser.facts(`SELECT abalance FROM pgbench_accounts WHERE aid = ${literal++}`)),
    );
    bench("facts from the grammar", () => keep(parser.factsAfresh(select)));
    bench("route of a SELECT", () => keep(decideRoute(facts, select, "simple", session, view)));
  });
}

benchCodec();
await benchRouting();
await run({ colors: process.stdout.isTTY === true });
