/**
 * Failovers and failbacks in a row, under load: standbys are detached and attached, standbys and
 * primaries are stopped or killed, and come back as standbys. After each turn pgpool must see the
 * cluster as it is, and in the end nothing may have leaked or been lost. FAILOVERS=200 for a longer
 * run, SOAK_SEED=n to repeat one.
 */
import { expect } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Dice, diceOf } from "../random.ts";
import { checked, makeSynchronous, type Team } from "./failover_stage.ts";
import {
  eventually,
  Ledger,
  monitor,
  mustRun,
  Pgpool,
  Postgres,
  pcpAdmin,
  RawClient,
  Scope,
  superuser,
  tail,
  testNeeding,
} from "./harness.ts";
import { WriteLoad } from "./write_load.ts";

const { FAILOVERS = "10", SOAK_SEED } = process.env;
const turns = Number(FAILOVERS);
const seed = Number(SOAK_SEED ?? Math.floor(Math.random() * 2 ** 31));
const soakTest = await testNeeding("postgres (system)", "dist/pgpool");

const idleCount = 20;
const count = 3;
const ids = Array.from({ length: count }, (_, id) => id);

async function makeTeam(scope: Scope): Promise<Team> {
  const settings = { wal_log_hints: "on", max_connections: 150 };
  const hba = ["local all all trust", "host all all 127.0.0.1/32 trust"];
  const primary = await Postgres.create(scope, {
    settings,
    hba: [...hba, "host replication all 127.0.0.1/32 trust"],
  });
  await primary.sql(`CREATE TABLE acked (id int); CREATE ROLE ${monitor} SUPERUSER LOGIN`);
  const nodes = [primary];
  while (nodes.length < count) nodes.push(await primary.createStandby(settings));
  await makeSynchronous(nodes);
  const pgpool = await Pgpool.create(scope, {
    backends: nodes,
    pcpUsers: [pcpAdmin],
    config: {
      ...checked(count),
      failover_method: "promote",
      health_check_timeout: 10,
      health_check_user: monitor,
      sr_check_user: monitor,
      search_primary_node_timeout: 60,
      num_init_children: 60,
      max_pool: 1,
    },
  });
  await pgpool.untilServing();
  return { scope, nodes, pgpool };
}

type Deed = {
  readonly name: string;
  readonly of: "primary" | "standby";
  readonly run: (team: Team, id: number) => Promise<void>;
};

const replacing: Deed = {
  name: "stop",
  of: "primary",
  run: async (team, id) => replace(team, id, "stop"),
};

/** Each leaves the cluster as it was, but for who is the primary. */
const deeds: readonly Deed[] = [
  { name: "detach and attach", of: "standby", run: detachAndAttach },
  { name: "detach and attach", of: "standby", run: detachAndAttach },
  { name: "stop", of: "standby", run: async (team, id) => bringBack(team, id, "stop") },
  { name: "kill", of: "standby", run: async (team, id) => bringBack(team, id, "kill") },
  replacing,
  replacing,
  { name: "kill", of: "primary", run: async (team, id) => replace(team, id, "kill") },
];

async function detachAndAttach({ pgpool }: Team, id: number): Promise<void> {
  const node = ["-n", String(id)];
  expect(await pgpool.pcp(["detach-node", ...node])).toMatchObject({ code: 0, stderr: "" });
  expect(await statusOf(pgpool, id)).toBe("down");
  expect(await pgpool.pcp(["attach-node", ...node])).toMatchObject({ code: 0, stderr: "" });
}

/** A standby goes, is detached, comes again and is attached. */
async function bringBack(team: Team, id: number, how: "stop" | "kill"): Promise<void> {
  const { nodes, pgpool } = team;
  await nodes[id]?.[how]();
  await untilDown(pgpool, id);
  await nodes[id]?.start();
  await attach(team, id);
}

/** The primary goes, another takes its place, and it comes back as a standby of that one. */
async function replace(team: Team, id: number, how: "stop" | "kill"): Promise<void> {
  const { nodes, pgpool } = team;
  const old = nodes[id];
  if (old === undefined) throw new Error(`there is no node ${id}`);
  await old[how]();
  await untilDown(pgpool, id);
  const heirId = await eventually(
    () => primaryOf(pgpool),
    (found) => found !== undefined && found !== id,
    { deadlineMs: 30_000, what: "another primary" },
  );
  const heir = nodes[heirId ?? -1];
  if (heir === undefined) throw new Error(`there is no node ${heirId}`);
  if (how === "kill") await rewind(team.scope, old, heir);
  makeStandby(team.scope, old, { id, of: heir });
  await old.start();
  await attach(team, id);
}

/** What it wrote and nobody received is taken back. It takes the other's files of settings along. */
async function rewind(scope: Scope, old: Postgres, heir: Postgres): Promise<void> {
  await heir.sql("CHECKPOINT"); // the new timeline is told by the control file
  const source = `host=127.0.0.1 port=${heir.port} user=${superuser} dbname=postgres`;
  await mustRun(
    [heir.program("pg_rewind"), "-D", old.dataDir, `--source-server=${source}`, "--no-sync"],
    { owner: scope.owner },
  );
}

function makeStandby(
  scope: Scope,
  old: Postgres,
  { id, of }: { readonly id: number; readonly of: Postgres },
): void {
  old.configure({ wal_log_hints: "on", max_connections: 150 });
  const source = `host=127.0.0.1 port=${of.port} user=${superuser} application_name=server${id}`;
  const auto = join(old.dataDir, "postgresql.auto.conf");
  const others = readFileSync(auto, "utf8").replace(/^primary_conninfo .*\n/gm, "");
  writeFileSync(auto, `${others}primary_conninfo = '${source}'\n`);
  const signal = join(old.dataDir, "standby.signal");
  writeFileSync(signal, "");
  scope.giveToOwner(signal);
}

async function attach({ nodes, pgpool }: Team, id: number): Promise<void> {
  const primary = nodes[(await primaryOf(pgpool)) ?? -1];
  await eventually(
    () =>
      primary?.value(
        `SELECT state FROM pg_stat_replication WHERE application_name = 'server${id}'`,
      ),
    (state) => state === "streaming",
    { deadlineMs: 30_000, what: `server${id} to stream` },
  );
  const ordered = await pgpool.pcp(["attach-node", "-n", String(id)]);
  expect(ordered).toMatchObject({ code: 0, stderr: "" });
}

async function statusOf(pgpool: Pgpool, id: number): Promise<string | undefined> {
  return (await pgpool.show("pool_nodes")).map(({ status }) => status)[id];
}

const untilDown = (pgpool: Pgpool, id: number) =>
  eventually(
    () => statusOf(pgpool, id),
    (status) => status === "down",
    { deadlineMs: 30_000, what: `node ${id} to be down` },
  );

async function primaryOf(pgpool: Pgpool): Promise<number | undefined> {
  const roles = (await pgpool.show("pool_nodes")).map(({ role }) => role);
  const found = roles.indexOf("primary");
  return found === -1 ? undefined : found;
}

/** pgpool sees what is: every node up, one primary, and that one is not in recovery. */
async function untilTrue({ nodes, pgpool }: Team): Promise<void> {
  const seen = async () => {
    const rows = await pgpool.show("pool_nodes");
    return rows.map(({ status, role }) => `${status === "down" ? "down" : "up"} ${role}`);
  };
  const real = await Promise.all(
    nodes.map(async (node) => `up ${(await node.isInRecovery()) ? "standby" : "primary"}`),
  );
  expect(real.filter((role) => role === "up primary")).toHaveLength(1);
  await eventually(seen, (rows) => rows.join() === real.join(), {
    deadlineMs: 15_000,
    what: `pgpool to see ${real.join(", ")}`,
  });
}

/** Megabytes of the process that are in memory. */
function residentMb(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
}

async function oneTurn(
  team: Team,
  load: WriteLoad,
  { turn, random }: { readonly turn: number; readonly random: Dice },
) {
  // Two primaries in a row: the second successor has known the first one's timeline for moments only.
  const deed = turn < 2 ? replacing : deeds[random(deeds.length)];
  const primary = await primaryOf(team.pgpool);
  const able = ids.filter((id) => (id === primary) === (deed?.of === "primary"));
  const id = able[random(able.length)];
  if (deed === undefined || id === undefined) throw new Error("nothing to do");
  const startedAt = performance.now();
  try {
    await deed.run(team, id);
    await untilTrue(team);
    await load.untilAcked(load.acked.length + 20);
  } catch (error) {
    throw new Error(`${deed.name} of node ${id}, the ${deed.of}: ${error}`, { cause: error });
  }
  const seconds = (performance.now() - startedAt) / 1000;
  return { what: `${deed.of}: ${deed.name}`, seconds };
}

soakTest(
  `${turns} failovers and failbacks in a row lose and leak nothing (seed ${seed})`,
  async () => {
    await using scope = new Scope();
    const team = await makeTeam(scope);
    const { nodes, pgpool } = team;
    const random = diceOf(seed);
    const idle = await Promise.all(
      Array.from({ length: idleCount }, () =>
        RawClient.login(pgpool.tcp, { user: superuser, database: "test" }, 60_000),
      ),
    );
    const load = new WriteLoad(pgpool, 6, 5);
    const done = new Map<string, number>();
    let earlyMb = 0;
    try {
      await load.untilAcked(100);
      await pgpool.logged(/synchronous with ANY 1/);
      for (let turn = 0; turn < turns; turn++) {
        const { what, seconds } = await oneTurn(team, load, { turn, random });
        done.set(what, (done.get(what) ?? 0) + 1);
        if (turn < turns / 4 || turn < 10) earlyMb = Math.max(earlyMb, residentMb(pgpool.pid));
        if (turns > 20) {
          const mb = Math.round(residentMb(pgpool.pid));
          console.log(`${turn + 1} ${what}: ${seconds.toFixed(1)} s, ${mb} MB`);
        }
      }
      await load.stop();
      await judge(team, load, idle);
      const mb = residentMb(pgpool.pid);
      console.log(
        `${JSON.stringify(Object.fromEntries(done))}, ${load.acked.length} writes acknowledged, ` +
          `${load.failures.length} failed; ${Math.round(earlyMb)} MB early, ${Math.round(mb)} MB at the end`,
      );
      expect(mb).toBeLessThan(earlyMb * 1.3 + 30);
    } catch (error) {
      const logs = [pgpool, ...nodes].map(endOfLog).join("\n----\n");
      throw new Error(`${error}\nthe logs end so:\n${logs}`, { cause: error });
    }
  },
  60_000 + turns * 20_000,
);

/** Without what statements say, which under load is nearly all. */
function endOfLog(server: { log(): string }): string {
  const said = /pool_send_and_wait|STATEMENT:|read-only transaction/;
  const lines = server.log().split("\n");
  return tail(lines.filter((line) => !said.test(line)).join("\n"), 50);
}

async function judge(team: Team, load: WriteLoad, idle: readonly RawClient[]): Promise<void> {
  const { nodes, pgpool } = team;
  expect(load.sessionsLost).toBe(0);
  for (const node of nodes) {
    const numbers = async () =>
      (await node.sql("SELECT id FROM acked")).map(({ id }) => Number(id));
    const found = await eventually(numbers, (all) => load.compare(all).missing.length === 0, {
      deadlineMs: 20_000,
      what: `all acknowledged writes on port ${node.port}`,
    });
    expect(load.compare(found)).toEqual({ missing: [], twice: 0 });
  }
  for (const client of idle) {
    expect(await client.rows("SELECT 1 AS n")).toEqual([{ n: "1" }]);
    await client.terminate();
  }
  const primary = nodes[(await primaryOf(pgpool)) ?? -1];
  if (primary === undefined) throw new Error("no primary at the end");
  for (const node of nodes) {
    const ledger = await Ledger.open(pgpool, node === primary ? primary : node);
    await ledger.balanced();
    await ledger.close();
  }
}
