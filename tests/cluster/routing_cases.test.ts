/**
 * The table of destinations (spec routing/load-balance.md section 12) with the built binary and real
 * servers, whose own logs tell what came to them. Each case is played four times: as it is written,
 * and in three ways of the extended protocol, which must change nothing but what `whenExtended` says.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  asWeDo,
  type CaseGroup,
  caseGroups,
  expectedNodes,
  isReplicated,
  type RoutingCase,
  titleOfCase,
  titleOfGroup,
  weightsOf,
} from "../proxy/routing/case_table.ts";
import { eventually, everyPostgres, type PostgresInstall, RawClient, Scope } from "./harness.ts";
import { type Outcome, RoutingStage, type Way } from "./routing_stage.ts";

const count = (groups: readonly CaseGroup[]) =>
  groups.reduce((sum, { cases }) => sum + cases.length, 0);

const everyWay: readonly Way[] = ["as written", "extended", "pipelined", "prepared"];

for (const [i, install] of (await everyPostgres()).entries()) {
  const ways = i === 0 ? everyWay : everyWay.slice(0, 1);
  describe(`PostgreSQL ${install.major}`, () => playAll(install, ways));
}

function playAll(install: PostgresInstall, ways: readonly Way[]): void {
  const refused: string[] = [];
  const arrived = new Map<Way, number>(ways.map((way) => [way, 0]));
  let scope: Scope;
  let streaming: RoutingStage;
  let replicated: RoutingStage;

  beforeAll(async () => {
    scope = new Scope();
    streaming = await RoutingStage.streaming(scope, install);
    replicated = await RoutingStage.replicated(scope, install);
  }, 300_000);
  afterAll(() => scope.close());

  describe.each(caseGroups.map((group) => [titleOfGroup(group), group] as const))(
    "%s",
    (_, group) => {
      let stage: RoutingStage;
      beforeAll(async () => {
        const isLogical = group.mode === "logical_replication";
        const shared = isReplicated(group.mode) ? replicated : streaming;
        stage = isLogical ? await RoutingStage.logical(scope, install) : shared;
        await stage.configure(group);
      }, 300_000);

      if (group.mode === "logical_replication") {
        test("no delay is measured where each server writes a WAL of its own", async () => {
          const nodes = await stage.pgpool.show("pool_nodes");
          expect(nodes.map(({ pg_role }) => pg_role)).toEqual(["primary", "standby", "standby"]);
          expect(nodes.map(({ replication_delay }) => replication_delay)).toEqual(["0", "0", "0"]);
        });
      }

      const plays = ways.flatMap((way) => group.cases.map((row) => ({ way, row })));
      for (const { way, row } of plays) {
        test(`${way}: ${titleOfCase(row)}`, async () => {
          const ours = asWeDo(row);
          const read = way === "as written" ? ours : whenExtended(ours, group, way);
          const outcome = await stage.play(row, way);
          if (outcome.refused) {
            refused.push(row.id);
            return;
          }
          expect(outcome.reached).toEqual(expectedTexts(read, group));
          expectAnswer(read, outcome);
          arrived.set(way, (arrived.get(way) ?? 0) + 1);
        });
      }
    },
  );

  test("every case was played and came to its nodes", () => {
    const all = count(caseGroups);
    const sums = [...arrived].map(([way, sum]) => `${sum} ${way}`).join(", ");
    console.log(`routing cases on PostgreSQL ${install.major}: ${sums}`);
    if (refused.length > 0) console.log(`not prepared by PostgreSQL: ${refused.join(" ")}`);
    expect(all).toBe(532);
    expect([...arrived]).toEqual(
      ways.map((way) => [way, way === "prepared" ? all - refused.length : all]),
    );
    // What it cannot read, several statements at once, and what is there only later.
    expect(refused.length).toBeLessThan(40);
  });

  test("in raw mode a session has one connection, to the main node", async () => {
    await streaming.configure({ mode: "raw", settings: {}, cases: [] });
    const login = { user: "postgres", database: "test" };
    const client = await RawClient.login(streaming.pgpool.tcp, login);
    await client.rows("SELECT * FROM t1");
    await eventually(
      () => streaming.sessions("test"),
      (counts) => counts.join() === "1,0,0",
      { what: "one connection" },
    );
    await client.terminate();
  });
}

/** Per node the texts that its server should have seen. */
function expectedTexts(row: RoutingCase, { mode }: CaseGroup): string[][] {
  const nodes = expectedNodes(row, mode);
  const text = (node: number) => (node === 0 ? row.sql : (row.otherNodesSql ?? row.sql));
  return weightsOf(mode).map((_, node) => (nodes.includes(node) ? [text(node)] : []));
}

/** Exactly one answer per statement, and from the proxy itself what it is known to say. */
function expectAnswer(row: RoutingCase, { answer }: Outcome): void {
  const failed = row.before?.some((sql) => sql.includes("1/0")) === true;
  if (row.expected !== "answered-by-proxy") {
    expect(answer.status).toBeDefined();
    return;
  }
  expect(answer.errors.map(({ C }) => C)).toEqual(failed ? ["25P02"] : []);
  expect(answer.status).toBe(failed ? "E" : "I");
  if (!failed) expect(answer.tags).toHaveLength(1);
}

/** What is different in the extended protocol (spec routing/extended-protocol.md). */
function whenExtended(row: RoutingCase, { mode }: CaseGroup, way: Way): RoutingCase {
  const { id, sql } = row;
  // Sent before the error is known, a read follows the one that fails, to be refused on that node.
  if (way === "pipelined" && id === "A252") return { ...row, expected: "load-balanced" };
  // Section 2: the proxy's own statements are known in a simple query only. SHOW is a read like any
  // other, of a parameter that PostgreSQL does not have; PGPOOL is a text that it cannot read; and a
  // failed transaction is refused by the server, which has been made to fail as well.
  if (row.expected === "answered-by-proxy") {
    if (mode === "raw") return { ...row, expected: "main-node" };
    return { ...row, expected: sql.startsWith("SHOW") ? "load-balanced" : "primary" };
  }
  // 2.2: a COMMIT goes to both nodes even where there is nothing to end.
  if (id === "A196") return { ...row, expected: "primary+load-balance-node" };
  // A transaction begun in a text of several statements is the primary's alone. A simple read runs
  // outside of it; a portal would end there with its segment, so it stays.
  if (id === "A259") return { ...row, expected: "primary" };
  return row;
}
