/**
 * Transparency, proved by tests that we did not write: PostgreSQL's regression tests (the fast part
 * of them; `bun tests/interop/regress.ts --all` runs the whole) and libpq_pipeline give the same
 * through pgpool as straight from PostgreSQL. What may differ, and why, is in regress_accepted.json.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { missing, Scope } from "../cluster/harness.ts";
import { findPostgres } from "../cluster/postgres.ts";
import {
  type Comparison,
  compareRuns,
  fastPart,
  type PipelineRun,
  type Place,
  readAccepted,
  readSchedule,
  runPipelines,
  runSuite,
  type SuiteRun,
  startPlace,
} from "./regress_run.ts";
import { type RegressSuite, regressSuite, Unavailable } from "./regress_source.ts";

const suite = await suiteOrReason();
const title = typeof suite === "string" ? ` [not available: ${suite}]` : "";
const deadlineMs = 1_200_000;

async function suiteOrReason(): Promise<RegressSuite | string> {
  if ((await missing("dist/pgpool")).length > 0) return "dist/pgpool";
  try {
    return await regressSuite(await findPostgres("system"));
  } catch (error) {
    if (error instanceof Unavailable) return error.message;
    throw error;
  }
}

describe.skipIf(typeof suite === "string")(`PostgreSQL's own tests${title}`, () => {
  let scope: Scope;
  let direct: Awaited<ReturnType<typeof runAll>>;
  beforeAll(async () => {
    scope = new Scope();
    direct = await runAll(await startPlace(scope, "direct"));
  }, deadlineMs);
  afterAll(() => scope.close());

  async function runAll(place: Place): Promise<{ run: SuiteRun; pipelines: PipelineRun[] }> {
    if (typeof suite === "string") throw new Error(suite);
    const run = await runSuite(scope, suite, place, fastPart(readSchedule(suite)));
    return { run, pipelines: await runPipelines(scope, suite, place) };
  }

  test("run straight on PostgreSQL as their authors expect", () => {
    const passed = [...direct.run.outcomes].filter(([, { ok }]) => ok);
    // Some know a neighbouring minor version: its source may be the newest that a mirror has.
    expect(passed.length).toBeGreaterThan(direct.run.outcomes.size * 0.8);
    expect(direct.run.outcomes.size).toBeGreaterThan(50);
    for (const { test, code, trace, expectedTrace } of direct.pipelines) {
      expect({ test, code, trace }).toEqual({ test, code: 0, trace: expectedTrace });
    }
  });

  for (const way of ["raw", "streaming", "native"] as const) {
    test(
      `give the same in ${way} mode`,
      async () => {
        const { run, pipelines } = await runAll(await startPlace(scope, way));
        const found = await compareRuns(scope, way, direct.run, run);
        const different = found.filter(({ kind }) => kind === "different");
        expect(different.map(({ diff }) => diff).join("\n")).toBe("");
        expect(pipelines).toEqual(direct.pipelines);
      },
      deadlineMs,
    );
  }
});

test("whatever differs and is not accepted is told, be it a line like the head of a diff", async () => {
  await using scope = new Scope();
  const runOf = (output: string, ok = false): SuiteRun => ({
    outcomes: new Map([["transactions", { ok, output }]]),
    log: "",
  });
  const rows: readonly [string, string, Comparison["kind"]][] = [
    ["a\n", "a\n", "equal"],
    [" off\n", " on\n", "accepted"],
    [" off\n", " on\nmore\n", "different"],
    ["a\n-- b\n", "a\n", "different"],
    ["a\n", "a\n++ b\n", "different"],
  ];
  const ended = [
    "WARNING:  packet kind of backend 1 ['E'] does not match with main/majority nodes packet kind ['V']",
    "FATAL:  failed to read kind from backend",
    'DETAIL:  kind mismatch among backends. Possible last query was: "function call" kind details are: 0[V] 1[E: large object 20989 does not exist]',
    "HINT:  check data consistency among db nodes",
    "server closed the connection unexpectedly",
    "no connection to the server\n",
  ].join("\n");
  const large = (output: string) => ({
    ...runOf(""),
    outcomes: new Map([["largeobject", { ok: false, output }]]),
  });
  const [found] = await compareRuns(scope, "native", large("1\n2\n3\n"), large(`1\n${ended}`));
  expect(found?.kind).toBe("accepted");
  for (const [straight, other, kind] of rows) {
    const found = await compareRuns(scope, "streaming", runOf(straight), runOf(other));
    expect([straight, other, found.map((each) => each.kind)]).toEqual([straight, other, [kind]]);
  }
});

test("an accepted difference has its reason and its lines", () => {
  for (const { test, reason, lines } of readAccepted()) {
    expect({ test, reasoned: reason.length > 20, exact: lines.length > 0 }).toEqual({
      test,
      reasoned: true,
      exact: true,
    });
  }
});
