/**
 * Drivers run one script each, straight and through pgpool: what they get must be equal, line by
 * line. On each major of PostgreSQL that this machine has.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { everyPostgres, findPython, mustRun, Scope, testNeeding } from "../cluster/harness.ts";
import { nodePostgres } from "./node_postgres.ts";
import { postgresJs } from "./postgres_js.ts";
import { type Route, routeEnv, startTopology, type Topology, untilAsleep } from "./topology.ts";

const psycopgTest = await testNeeding("psycopg");
const psycopg2Test = await testNeeding("psycopg2");

describe.each(await everyPostgres())("PostgreSQL $major", (install) => {
  let scope: Scope;
  let topology: Topology;

  beforeAll(async () => {
    scope = new Scope();
    topology = await startTopology(scope, install);
  }, 300_000);
  afterAll(() => scope.close());

  /** The two transcripts must be alike, and long enough to have been about something. */
  async function compare(run: (route: Route) => Promise<readonly string[]>): Promise<void> {
    const afresh = async (route: Route) => {
      await topology.primary.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
      return run(route);
    };
    const expected = await afresh(topology.direct);
    expect(expected.length).toBeGreaterThan(20);
    expect(expected.filter((line) => line.includes("unexpected"))).toEqual([]);
    for (const route of topology.proxied) {
      expect([route.name, ...(await afresh(route))]).toEqual([route.name, ...expected]);
    }
  }

  test("node-postgres gets the same answers", async () => {
    await compare(({ port }) => nodePostgres(port));
  }, 300_000);

  test("postgres.js gets the same answers", async () => {
    await compare(({ port }) => postgresJs(port, () => untilAsleep(topology)));
  }, 300_000);

  psycopgTest(
    "psycopg 3 gets the same answers",
    () => compare(python("psycopg", "psycopg3.py")),
    90_000,
  );

  psycopg2Test(
    "psycopg 2 gets the same answers",
    () => compare(python("psycopg2", "psycopg2_script.py")),
    90_000,
  );
});

function python(module: string, script: string): (route: Route) => Promise<readonly string[]> {
  return async (route) => {
    const interpreter = await findPython(module);
    if (interpreter === undefined) throw new Error(`no Python has ${module}`);
    const path = join(import.meta.dirname, script);
    const env = { ...routeEnv(route), PYTHONDONTWRITEBYTECODE: "1" };
    const output = await mustRun([interpreter, path], { env, deadlineMs: 60_000 });
    return output.trim().split("\n");
  };
}
