/**
 * What a session itself costs for one query, sockets left out: client bytes to decisions to node
 * bytes, and the answer back. `bun tests/bench/session.bench.ts`.
 */
import { bench, group, run } from "mitata";
import { nodeId } from "../../core/cluster/state.ts";
import { commandComplete, encodeBackend, readyForQuery } from "../../core/wire/backend.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { QueryCache } from "../../proxy/cache/query_cache.ts";
import { RelationCache } from "../../proxy/cache/relcache.ts";
import { StatementParser } from "../../proxy/parser.ts";
import type { ByteSink } from "../../proxy/session/replies.ts";
import { SessionRouter } from "../../proxy/session/router.ts";
import { Session } from "../../proxy/session/session.ts";
import { cacheParams } from "../proxy/cache/cache_params.ts";
import { clusterOf, rulesOf, trackingOf } from "../proxy/routing/rules.ts";
import { percentile } from "./table.ts";

const parser = await StatementParser.load();
const sink: ByteSink = { send: () => true, pause() {}, resume() {} };

const sql = "SELECT abalance FROM pgbench_accounts WHERE aid = ";

function sessionOf(nodes: number, cache?: QueryCache) {
  const engine = {
    parser,
    rules: rulesOf({}),
    relcache: new RelationCache({ sizeMax: 256, expireMs: 0, clock: () => 0 }),
    writes: trackingOf(() => 0),
    nodeOfPid: () => undefined,
    random: Math.random,
    state: clusterOf(Array.from({ length: nodes }, () => ({}))),
  };
  const ids = Array.from({ length: nodes }, (_, id) => nodeId(id));
  const router = new SessionRouter({
    engine,
    user: "u",
    database: "d",
    applicationName: "",
    nodes: ids,
    reset: true,
  });
  router.session.loadBalanceNode = nodeId(nodes - 1);
  // What the catalogs say is known, as it is after a session's first statements.
  for (const text of [`${sql}1`, `${sql}$1`]) {
    const route = router.decide(parser.facts(text), text, "simple");
    if (route.kind === "ask")
      router.answered(
        route.questions,
        route.questions.map(() => "-"),
      );
  }
  const session = new Session({
    ports: {
      client: sink,
      ended() {},
      dropped() {},
      parameterStatus() {},
      answer: () => new Uint8Array(0),
      noteStatement() {},
      noteUnparsable() {},
      noteNodeStatement() {},
      noteError() {},
      soon: queueMicrotask,
      saidGoodbye() {},
      writeNodeNeeded() {},
      disagreed: async () => false,
      writeNodeMoved() {},
    },
    router,
    nodes: ids.map((id) => ({ id, sink })),
    writeNode: nodeId(0),
    transparent: false,
    cache: cache && { cache, database: "d", pidOf: () => 0, majorOf: () => 15, noteHit() {} },
  });
  return session;
}

/** What the query cache asks first, answered once. */
function answerQuestions(session: Session): void {
  session.fromClient(encodeFrontend({ kind: "Query", sql: `${sql}0` }));
  const nothing = '{"odd": false, "wild": null, "kin": null, "follows": null}';
  for (const values of [["UTF8 settings"], [nothing, ' ["pgbench_accounts"]']]) {
    const told = [
      encodeBackend({ kind: "ParseComplete" }),
      encodeBackend({ kind: "BindComplete" }),
      encodeBackend({ kind: "DataRow", values: values.map((value) => Buffer.from(value)) }),
      commandComplete("SELECT 1"),
      encodeBackend({ kind: "CloseComplete" }),
      encodeBackend({ kind: "CloseComplete" }),
      readyForQuery("I"),
    ];
    session.fromNode(session.writeLink, Buffer.concat(told));
  }
  answer(session, 1, simpleAnswer);
}

const row = encodeBackend({ kind: "DataRow", values: [Buffer.from("12345")] });
const description = encodeBackend({
  kind: "RowDescription",
  fields: [
    {
      name: "abalance",
      tableId: 1,
      columnNumber: 1,
      typeId: 23,
      typeSize: 4,
      typeModifier: -1,
      format: 0,
    },
  ],
});
const simpleAnswer = Buffer.concat([
  description,
  row,
  commandComplete("SELECT 1"),
  readyForQuery("I"),
]);
const extendedAnswer = (parses: boolean) =>
  Buffer.concat([
    ...(parses ? [encodeBackend({ kind: "ParseComplete" })] : []),
    encodeBackend({ kind: "BindComplete" }),
    description,
    row,
    commandComplete("SELECT 1"),
    readyForQuery("I"),
  ]);

const bindToSync = (statement: string) =>
  Buffer.concat([
    encodeFrontend({
      kind: "Bind",
      portal: "",
      statement,
      parameterFormats: [],
      parameters: [Buffer.from("4711")],
      resultFormats: [],
    }),
    encodeFrontend({ kind: "Describe", target: "P", name: "" }),
    encodeFrontend({ kind: "Execute", portal: "", rowsMax: 0 }),
    encodeFrontend({ kind: "Sync" }),
  ]);

function cachingSession(): Session {
  const clock = performance.now.bind(performance);
  const session = sessionOf(1, new QueryCache({ params: cacheParams, clock }));
  answerQuestions(session);
  return session;
}

group("with the query cache", () => {
  const session = cachingSession();
  let aid = 1;
  bench("misses, new constants", () => {
    session.fromClient(encodeFrontend({ kind: "Query", sql: sql + aid++ }));
    answer(session, 1, simpleAnswer);
  });
  bench("hits", () => {
    session.fromClient(encodeFrontend({ kind: "Query", sql: `${sql}0` }));
    if (session.busy) throw new Error("it was no hit");
  });
});

for (const nodes of [1, 2]) {
  group(`${nodes} node${nodes === 1 ? "" : "s"}`, () => {
    const simple = sessionOf(nodes);
    let aid = 0;
    const query = (text: string) => {
      simple.fromClient(encodeFrontend({ kind: "Query", sql: text }));
      if (!simple.busy) throw new Error("nothing was sent");
      answer(simple, nodes, simpleAnswer);
    };
    bench("simple, new constants", () => query(sql + aid++));
    bench("simple, same text", () => query(`${sql}1`));
    const extended = sessionOf(nodes);
    const parse = encodeFrontend({
      kind: "Parse",
      statement: "",
      sql: `${sql}$1`,
      parameterTypes: [],
    });
    const message = Buffer.concat([parse, bindToSync("")]);
    bench("extended", () => {
      extended.fromClient(message.slice());
      answer(extended, nodes, extendedAnswer(true));
    });
    const prepared = sessionOf(nodes);
    prepared.fromClient(
      Buffer.concat([
        encodeFrontend({ kind: "Parse", statement: "p", sql: `${sql}$1`, parameterTypes: [] }),
        encodeFrontend({ kind: "Sync" }),
      ]),
    );
    answer(
      prepared,
      nodes,
      Buffer.concat([encodeBackend({ kind: "ParseComplete" }), readyForQuery("I")]),
    );
    const bound = bindToSync("p");
    bench("prepared", () => {
      prepared.fromClient(bound.slice());
      answer(prepared, nodes, extendedAnswer(false));
    });
  });
}

function answer(session: Session, nodes: number, bytes: Uint8Array): void {
  const link = session.replies.links[nodes - 1];
  if (link === undefined) throw new Error("no link");
  session.fromNode(link, bytes.slice());
  if (session.busy) throw new Error("something is still owed");
}

await run();
printExtraOfMisses();

/** Batches with and without the cache in turn, by CPU time: whoever shares the machine is left out of it. */
function printExtraOfMisses(): void {
  const size = 2000;
  let aid = 0;
  const cpuOf = (session: Session): number => {
    const queries = Array.from({ length: size }, () =>
      encodeFrontend({ kind: "Query", sql: sql + aid++ }),
    );
    const before = process.cpuUsage();
    for (const query of queries) {
      session.fromClient(query);
      answer(session, 1, simpleAnswer);
    }
    const { user, system } = process.cpuUsage(before);
    return (user + system) / size;
  };
  const [caching, plain] = [cachingSession(), sessionOf(1)];
  const extras: number[] = [];
  for (let batch = 0; batch < 200; batch++) extras.push(cpuOf(caching) - cpuOf(plain));
  const [p50, p75] = [0.5, 0.75].map((p) => percentile(extras.slice(50), p)?.toFixed(1));
  console.log(`A miss costs ${p50} µs (p75: ${p75}) more of the CPU than without the query cache.`);
}
