/**
 * Failover without scripts, live: the primary's role that goes round, old primaries that come back as
 * they were, a hung primary that is fenced, and PostgreSQL's newest version.
 */
import { describe, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  Load,
  makeSynchronous,
  pcp,
  primaryOf,
  rejoin,
  script,
  statuses,
  untilStatuses,
  withTeam,
} from "./failover_stage.ts";
import {
  eventually,
  findPostgres,
  type Pgpool,
  type Postgres,
  Scope,
  testNeeding,
} from "./harness.ts";

const rewindTest = await testNeeding("postgres (system)", "dist/pgpool");
const newestTest = await testNeeding("postgres (embedded)", "dist/pgpool");

/** Waits until another node than `old` is the primary, and gives its number. */
async function untilReplaced(pgpool: Pgpool, old: number): Promise<number> {
  const heir = await eventually(
    () => primaryOf(pgpool),
    (found) => found !== undefined && found !== old,
    { deadlineMs: 20_000, what: `a primary in the place of node ${old}` },
  );
  return heir ?? -1;
}

async function expectAllAcked(load: Load, at: Postgres | undefined): Promise<void> {
  const rows = (await at?.sql("SELECT id FROM acked")) ?? [];
  const found = rows.map(({ id }) => Number(id));
  const there = new Set(found);
  expect(there.size).toBe(found.length);
  expect(load.acked.filter((id) => !there.has(id))).toEqual([]);
}

/** A standby that was away when another one was promoted is led to it when it is attached. */
async function leadLatecomer(pgpool: Pgpool, nodes: readonly Postgres[], chief: number) {
  for (const node of nodes) {
    // A commit that only the one that is away may have would forbid the promotion.
    await node.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    await node.reload();
  }
  // It was said before the first of them was synchronous, too.
  await eventually(
    () =>
      pgpool
        .log()
        .match(/timeline \d+, a?synchronous/g)
        ?.at(-1),
    (last) => last?.endsWith(" asynchronous") === true,
    { deadlineMs: 20_000, what: "pgpool to hear that nobody is synchronous" },
  );
  const away = (chief + 1) % nodes.length;
  await nodes[away]?.kill();
  await eventually(
    () => statuses(pgpool),
    (text) => text.split(" ")[away] === "down",
    { deadlineMs: 20_000, what: `node ${away} to be down` },
  );
  await nodes[chief]?.kill();
  const heir = await untilReplaced(pgpool, chief);
  await nodes[away]?.start();
  expect(await pcp(pgpool, "attach_node", String(away))).toMatchObject({ stderr: "" });
  await eventually(
    () => nodes[heir]?.value("SELECT application_name FROM pg_stat_replication"),
    (name) => name === `server${away}`,
    { deadlineMs: 20_000, what: "the latecomer to follow the new primary" },
  );
}

describe("failover_method = promote", () => {
  const { ROUNDS = "3" } = process.env;
  rewindTest(
    `the role goes round ${ROUNDS} times, each old primary rewound, and nothing acknowledged is lost (ROUNDS=n)`,
    async () => {
      await withTeam(
        2,
        { failover_method: "promote" },
        async ({ nodes, pgpool, scope }) => {
          await nodes[0]?.sql("CREATE TABLE acked (id int)");
          await makeSynchronous(nodes);
          await pgpool.logged(/synchronous with ANY 1/);
          const load = new Load(pgpool, 4);
          let chief = 0;
          for (let round = 0; round < Number(ROUNDS); round++) {
            await load.untilAcked(load.acked.length + 50);
            const old = chief;
            await nodes[old]?.kill();
            chief = await untilReplaced(pgpool, old);
            await load.untilAcked(load.acked.length + 50);
            const [server, source] = [nodes[old], nodes[chief]];
            if (server === undefined || source === undefined) throw new Error("no such node");
            await rejoin(server, source, `server${old}`, scope);
            expect(await pcp(pgpool, "attach_node", String(old))).toMatchObject({ stderr: "" });
            await untilStatuses(pgpool, "up up up");
            await eventually(
              () => source.sql("SELECT FROM pg_stat_replication WHERE state = 'streaming'"),
              (rows) => rows.length === 2,
              { deadlineMs: 20_000, what: "both others to follow the new primary" },
            );
            expect(await primaryOf(pgpool)).toBe(chief);
          }
          await load.stop();
          await expectAllAcked(load, nodes[chief]);
          await leadLatecomer(pgpool, nodes, chief);
          expect(pgpool.log()).not.toContain("internal error");
        },
        { settings: { wal_log_hints: "on" } },
      );
    },
    60_000 + Number(ROUNDS) * 20_000,
  );

  newestTest(
    "on PostgreSQL 18 the heir has the others' slots, and an old primary as it was is turned away",
    async () => {
      const install = await findPostgres("embedded");
      const config = { failover_method: "promote" };
      await withTeam(
        2,
        config,
        async ({ nodes, pgpool }) => {
          const [primary, ...standbys] = nodes;
          expect(await primary?.value("SHOW server_version_num")).toMatch(/^18/);
          for (const [i, standby] of standbys.entries()) {
            const slot = `of_server${i + 1}`;
            await primary?.sql(`SELECT pg_create_physical_replication_slot('${slot}')`);
            await standby.sql(`ALTER SYSTEM SET primary_slot_name = '${slot}'`);
            await standby.reload();
          }
          await eventually(
            () => primary?.sql("SELECT FROM pg_replication_slots WHERE active"),
            (rows) => rows?.length === 2,
            { what: "the slots to be used" },
          );
          await pgpool.logged(/if node 0 is lost a standby will be promoted/);
          await primary?.kill();
          const heir = await untilReplaced(pgpool, 0);
          await pgpool.sql("CREATE TABLE afterwards (a int)");
          const active = "SELECT slot_name FROM pg_replication_slots WHERE active";
          await eventually(
            () => nodes[heir]?.value(active),
            (slot) => slot === `of_server${3 - heir}`,
            { deadlineMs: 20_000, what: "the other standby to follow by its slot" },
          );

          await primary?.start();
          expect(await pcp(pgpool, "attach_node", "0")).toMatchObject({
            stderr: expect.stringContaining("its server is a primary of its own"),
          });
          expect(await statuses(pgpool)).toBe("down up up");
          expect(await primaryOf(pgpool)).toBe(heir);
          expect(pgpool.status()).toBe("down\nup\nup\n");
        },
        { install },
      );
    },
    90_000,
  );
});

describe("fence_command", () => {
  rewindTest(
    "lets a hung primary be replaced once it succeeds; and the last node comes back by itself",
    async () => {
      await using own = new Scope();
      own.giveToOwner(own.dir);
      const [gate, target] = [join(own.dir, "gate"), join(own.dir, "target")];
      const fence = script(own, "fence", `[ -e '${gate}' ] && kill -9 "$(cat '${target}')"`);
      const config = {
        failover_method: "promote",
        health_check_timeout0: 1,
        fence_command: `${fence.path} %d %h %p %m`,
      };
      await withTeam(1, config, async ({ nodes, pgpool }) => {
        const [primary, standby] = nodes;
        if (primary === undefined) throw new Error("no primary");
        await primary.sql("CREATE TABLE acked (id int)");
        await makeSynchronous(nodes);
        await pgpool.logged(/synchronous with ANY 1/);
        const load = new Load(pgpool, 4);
        await load.untilAcked(100);
        writeFileSync(target, String(primary.pid));
        primary.suspend();
        await pgpool.logged(/fence_command did not succeed for node 0/, 20_000);
        expect(fence.calls()).toStartWith(`0 127.0.0.1 ${primary.port} 1\n`);
        expect(await standby?.isInRecovery()).toBe(true);
        writeFileSync(gate, "");
        expect(await untilReplaced(pgpool, 0)).toBe(1);
        // Alone, the heir has no standby to be synchronous with.
        await standby?.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        await standby?.reload();
        await load.untilAcked(load.acked.length + 50);
        await load.stop();
        await expectAllAcked(load, standby);
        await primary.kill(); // what its postmaster has left

        await standby?.kill();
        await pgpool.logged(/failover: set new main node: -1/);
        await standby?.start();
        await pgpool.logged(/the primary answers again: node 1/);
        await pgpool.untilServing();
        expect(await statuses(pgpool)).toBe("down up");
        expect(await primaryOf(pgpool)).toBe(1);
      });
    },
    60_000,
  );
});
