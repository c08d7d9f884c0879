/** Routing as sessions use it: what it costs in questions to the catalogs. */
import { expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import { RelationCache } from "../../../proxy/cache/relcache.ts";
import { SessionRouter } from "../../../proxy/session/router.ts";
import { parser } from "../../golden/stage.ts";
import { clusterOf, rulesOf, trackingOf } from "../routing/rules.ts";
import { routed } from "./routed.ts";

const nodes = [nodeId(0), nodeId(1)];

/** Sessions of one engine, with a count of what they ask. */
class Asking {
  asked = 0;
  readonly #engine = {
    parser,
    state: clusterOf([{ weight: 0 }, { weight: 1 }]),
    rules: rulesOf({}, 2),
    relcache: new RelationCache({ sizeMax: 256, expireMs: 0, clock: () => 0 }),
    random: () => 0.5,
    writes: trackingOf(() => 0),
    nodeOfPid: () => undefined,
  };

  session(): SessionRouter {
    return new SessionRouter({
      engine: this.#engine,
      user: "u",
      database: "d",
      applicationName: "",
      nodes,
      reset: true,
    });
  }

  run(router: SessionRouter, sql: string): void {
    routed(router, sql, router.facts(sql), () => {
      this.asked++;
    });
  }
}

test("a table or function is asked for once, whichever session reads it and how often", () => {
  const asking = new Asking();
  for (let client = 0; client < 20; client++) {
    const router = asking.session();
    for (let i = 0; i < 500; i++) {
      asking.run(router, `SELECT a.x FROM a JOIN b USING (id) WHERE a.id = ${i}`);
      asking.run(router, `SELECT * FROM c WHERE id = ${i} AND name <> '${client}'`);
      asking.run(router, "SELECT 1");
    }
  }
  expect(asking.asked).toBe(2);
});

test("what a function may have created for its session alone, each session asks for once", () => {
  const asking = new Asking();
  for (let client = 0; client < 20; client++) {
    const router = asking.session();
    for (let i = 0; i < 500; i++) {
      asking.run(router, `SELECT f(a.x) FROM a JOIN b USING (id) WHERE a.id = ${i}`);
      asking.run(router, `SELECT * FROM c WHERE id = ${i} AND g(${client}) > 0`);
    }
  }
  // a and b with f, c with g, all with the first session; then the temporary ones, once a session.
  expect(asking.asked).toBe(2 + 1 + 19 * 2);
});

test("one question serves a statement, whatever it reads", () => {
  const asking = new Asking();
  const tables = Array.from({ length: 100 }, (_, i) => `t${i}`).join(", ");
  asking.run(asking.session(), `SELECT f(1), g(2), h(3) FROM ${tables}`);
  expect(asking.asked).toBe(1);
});
