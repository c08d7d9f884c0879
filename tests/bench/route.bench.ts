/** `bun tests/bench/route.bench.ts [filter]`: what finding a statement's node costs. */

import { bench, do_not_optimize, group, run } from "mitata";
import { shapeOf } from "../../core/sql/shape.ts";
import { RelationCache } from "../../proxy/cache/relcache.ts";
import { StatementParser } from "../../proxy/parser.ts";
import { decideRoute } from "../../proxy/routing/route.ts";
import {
  noteReady,
  noteSent,
  noteSuccess,
  RoutingSession,
} from "../../proxy/routing/session_routing.ts";
import { catalogOf, clusterOf, rulesOf } from "../proxy/routing/rules.ts";

const parser = await StatementParser.load();
const cluster = clusterOf([{ weight: 0.2 }, { weight: 0.4 }, { weight: 0.4 }]);
const rules = rulesOf({});
const session = new RoutingSession({ user: "u", database: "d" });
const catalog = new RelationCache({ sizeMax: 256, expireMs: 0, clock: Date.now }).session("d");
const view = { cluster, rules, catalog, random: Math.random };

const select = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";
const update = "UPDATE pgbench_accounts SET abalance = abalance + 77 WHERE aid = 12345;";
const join = "SELECT count(*), max(a.x) FROM a JOIN b USING (id) WHERE lower(b.n) = 'x' AND f(a.y)";

/** As a session does it: text to facts, facts to route, and the notes before and after. */
function route(sql: string): unknown {
  const facts = parser.facts(sql);
  let decided = decideRoute(facts, sql, "simple", session, view);
  if (decided.kind === "ask") {
    catalog.ask(decided.questions);
    catalog.answer(
      decided.questions,
      decided.questions.map(() => "e"),
      false,
    );
    decided = decideRoute(facts, sql, "simple", session, view);
    catalog.decided();
  }
  noteSent(session, facts, rules);
  noteReady(session, "I");
  noteSuccess(session, facts, rules, catalog, []);
  return decided;
}

let id = 0;
group("a statement, text to route", () => {
  bench("seen: select", () => do_not_optimize(route(select)));
  bench("seen: join with functions", () => do_not_optimize(route(join)));
  bench("seen: update", () => do_not_optimize(route(update)));
  bench("seen: BEGIN", () => do_not_optimize(route("BEGIN")));
  bench("seen but for a constant: select", () => do_not_optimize(route(`${select} -- ${id++}`)));
});

group("parts", () => {
  const facts = parser.facts(select);
  const everything = { ...view, catalog: catalogOf({}) };
  bench("decideRoute", () =>
    do_not_optimize(decideRoute(facts, select, "simple", session, everything)),
  );
  bench("shapeOf select", () => do_not_optimize(shapeOf(select)));
  bench("shapeOf join", () => do_not_optimize(shapeOf(join)));
  bench("parse select", () => do_not_optimize(parser.factsAfresh(select)));
  bench("parse join", () => do_not_optimize(parser.factsAfresh(join)));
});

const filter = process.argv[2];
await run(filter === undefined ? {} : { filter: new RegExp(filter) });
