/**
 * `npm run bench:failover`: what a client notices of a server that dies. A cluster of three with
 * synchronous replication, in front of it ours or the real Pgpool-II. Each round makes its cluster
 * anew; the contenders take turns.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  eventually,
  originalPgpool,
  ourBinary,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  RawClient,
  Scope,
  superuser,
} from "../cluster/harness.ts";
import { WriteLoad } from "../cluster/write_load.ts";
import { cell, markdown, percentile, spread } from "./table.ts";

const usage = `usage: npm run bench:failover -- [options]
  --rounds N    clusters made for each measurement (default 5)
  --only WORDS  of these (comma-separated): primary, logins, sessions
  --clients N   writing clients when the primary is killed (default 8)
  --logins N    log-ins in each state of the standby and round (default 100)
  --help        this

primary   kill -9 of the primary under a writing load, to the first write that another server
          accepts: failover_method = promote, and Pgpool-II with a failover_command that only
          promotes; health_check_period = 1, failover_on_backend_error = on for both
logins    how long a log-in takes, with a standby up, refusing (killed), and hung (SIGSTOP); nobody
          detaches it meanwhile; no log-in finds a pooled connection
sessions  kill -9 of a standby: of 100 idle and 20 reading sessions, who loses what

dist/pgpool must be built. Without pgpool2 installed there is no comparison.`;

const { values: args } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    only: { type: "string", default: "primary,logins,sessions" },
    clients: { type: "string", default: "8" },
    logins: { type: "string", default: "100" },
    help: { type: "boolean", default: false },
  },
});
const rounds = Number(args.rounds);

async function main(): Promise<number> {
  if (args.help) {
    console.log(usage);
    return 0;
  }
  if (ourBinary() === undefined) {
    console.error("dist/pgpool is missing: npm run build makes it");
    return 1;
  }
  const all = { primary: benchPrimary, logins: benchLogins, sessions: benchSessions };
  for (const [name, bench] of Object.entries(all)) {
    if (!args.only.split(",").includes(name)) continue;
    progress(`${name}: the machine's load is ${loadavg()[0]?.toFixed(1)}`);
    console.log(`\n${await bench()}`);
  }
  return 0;
}

type Team = { readonly nodes: readonly [Postgres, ...Postgres[]]; readonly pgpool: Pgpool };

const hba = [
  "local all all trust",
  "host all all 127.0.0.1/32 trust",
  "host replication all 127.0.0.1/32 trust",
];

/** Three servers, of which the last two must confirm what the first commits: one of them, that is. */
async function makeTeam(
  scope: Scope,
  options: Omit<PgpoolOptions, "backends">,
  everywhere = false,
): Promise<Team> {
  const settings = { max_connections: 200 };
  const primary = await Postgres.create(scope, { hba, settings });
  const standbys = [await primary.createStandby(settings), await primary.createStandby(settings)];
  const nodes = [primary, ...standbys] as const;
  await primary.sql("CREATE TABLE acked (id int)");
  const rule = everywhere ? "ANY 1 (server0, server1, server2)" : "ANY 1 (server1, server2)";
  for (const node of everywhere ? nodes : [primary]) {
    await node.sql(`ALTER SYSTEM SET synchronous_standby_names = '${rule}'`);
    await node.reload();
  }
  await eventually(
    () => primary.sql("SELECT FROM pg_stat_replication WHERE sync_state = 'quorum'"),
    (rows) => rows.length === 2,
    { what: "both standbys to be synchronous" },
  );
  const pgpool = await Pgpool.create(scope, { ...options, backends: nodes });
  await pgpool.untilServing();
  return { nodes, pgpool };
}

// ---------------------------------------------------------------- the primary

const watched: NonNullable<PgpoolOptions["config"]> = {
  health_check_period: 1,
  health_check_timeout: 3,
  health_check_max_retries: 0,
  health_check_user: superuser,
  health_check_database: "postgres",
  failover_on_backend_error: true,
  sr_check_period: 1,
  search_primary_node_timeout: 60,
  num_init_children: 32,
  ...Object.fromEntries(
    [0, 1, 2].flatMap((node) => [
      [`backend_flag${node}`, "ALLOW_TO_FAILOVER"],
      [`backend_application_name${node}`, `server${node}`],
    ]),
  ),
};

type Outcome = {
  readonly ms: number;
  readonly missing: number;
  readonly twice: number;
  readonly sessionsLost: number;
};

const contenders: readonly { readonly name: string; readonly run: () => Promise<Outcome> }[] = [
  { name: "ours", run: () => killPrimary("ours", false) },
  { name: "ours, the successor waits for a standby too", run: () => killPrimary("ours", true) },
  ...(originalPgpool() === undefined
    ? []
    : [{ name: "Pgpool-II", run: () => killPrimary("pgpool2", false) }]),
];

async function benchPrimary(): Promise<string> {
  const outcomes = new Map<string, Outcome[]>();
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const one = contenders[(round + turn) % contenders.length];
      if (one === undefined) continue;
      const outcome = await one.run();
      progress(`${one.name}, round ${round + 1} of ${rounds}: ${JSON.stringify(outcome)}`);
      outcomes.set(one.name, [...(outcomes.get(one.name) ?? []), outcome]);
    }
  }
  const theirs = outcomes.get("Pgpool-II")?.map(({ ms }) => ms) ?? [];
  const rows = contenders.map(({ name }) => {
    const own = outcomes.get(name) ?? [];
    const sum = (key: keyof Outcome) => own.reduce((all, outcome) => all + outcome[key], 0);
    return [
      name,
      cell(spread(own.map(({ ms }) => ms / 1000))),
      cell(spread(own.map(({ ms }, round) => ms / (theirs[round] ?? NaN)))),
      String(sum("missing")),
      String(sum("twice")),
      String(sum("sessionsLost")),
    ];
  });
  const title = `### kill -9 of the primary: seconds to the first write elsewhere, median (min–max) of ${rounds}`;
  const header = [
    "",
    "seconds",
    "of Pgpool-II's",
    "acknowledged writes missing",
    "twice",
    `sessions lost of ${rounds} × ${args.clients}`,
  ];
  return `${title}\n\n${markdown(header, rows)}`;
}

async function killPrimary(kind: "ours" | "pgpool2", everywhere: boolean): Promise<Outcome> {
  await using scope = new Scope();
  const team = await makeTeam(scope, await takingOver(scope, kind), everywhere);
  const { nodes, pgpool } = team;
  const [primary] = nodes;
  const load = new WriteLoad(pgpool, Number(args.clients));
  await load.untilAcked(500);
  if (kind === "ours") await pgpool.logged(/synchronous with ANY 1/);
  const killedAt = performance.now();
  const killed = primary.kill();
  const first = await load.firstAckElsewhere(primary.port, 90_000);
  await killed;
  await load.untilAcked(load.acked.length + 200);
  await load.stop();
  const heir = nodes.find(({ port }) => port === first.port);
  const rows = (await heir?.sql("SELECT id FROM acked")) ?? [];
  const { missing, twice } = load.compare(rows.map(({ id }) => Number(id)));
  const { sessionsLost } = load;
  return { ms: Math.round(first.at - killedAt), missing: missing.length, twice, sessionsLost };
}

/** Ours promotes by itself; the other is given a script that does nothing but that. */
async function takingOver(
  scope: Scope,
  kind: "ours" | "pgpool2",
): Promise<Omit<PgpoolOptions, "backends">> {
  if (kind === "ours") {
    return { program: ourBinary(), config: { ...watched, failover_method: "promote" } };
  }
  const script = join(scope.dir, "promote.sh");
  const psql = 'psql -X -h "$3" -p "$4" -U postgres -d postgres -c "SELECT pg_promote()"';
  writeFileSync(script, `#!/bin/sh\n[ "$1" = "$2" ] && ${psql}\nexit 0\n`);
  chmodSync(script, 0o755);
  return {
    program: originalPgpool(),
    config: { ...watched, failover_command: `${script} %d %P %H %r` },
  };
}

// ---------------------------------------------------------------- log-ins

const states = ["up", "refusing", "hung", "up again"] as const;

async function benchLogins(): Promise<string> {
  const found = new Map<string, number[][]>();
  for (let round = 0; round < rounds; round++) {
    await using scope = new Scope();
    const config = { num_init_children: 8, max_pool: 1, sr_check_period: 0 };
    const { nodes, pgpool } = await makeTeam(scope, { config });
    const standby = nodes[2];
    if (standby === undefined) throw new Error("there is no third server");
    const change: Record<(typeof states)[number], () => Promise<void> | void> = {
      up: () => undefined,
      refusing: () => standby.kill(),
      hung: async () => {
        await standby.start();
        standby.suspend();
      },
      "up again": () => standby.continue(),
    };
    await logIns(pgpool, "warm up");
    for (const state of states) {
      await change[state]();
      const times = await logIns(pgpool, state);
      found.set(state, [...(found.get(state) ?? []), times]);
    }
    progress(`round ${round + 1} of ${rounds} done`);
  }
  const up = found.get("up")?.map((times) => percentile(times, 0.5)) ?? [];
  const rows = states.map((state) => {
    const all = found.get(state) ?? [];
    const medians = all.map((times) => percentile(times, 0.5) ?? NaN);
    return [
      state,
      cell(spread(medians)),
      cell(spread(medians.map((median, round) => median / (up[round] ?? NaN)))),
      cell(spread(all.map((times) => percentile(times, 0.99) ?? NaN)), 1),
      cell(spread(all.map((times) => Math.max(...times))), 1),
    ];
  });
  const title = `### A log-in while one of two standbys is …: milliseconds, median (min–max) of ${rounds} rounds of ${args.logins}`;
  const header = ["", "median", "of that with it up", "99th percentile", "slowest"];
  return `${title}\n\n${markdown(header, rows)}`;
}

/** Milliseconds of each, one after the other, and each by a name of its own. */
async function logIns(pgpool: Pgpool, state: string): Promise<number[]> {
  const times: number[] = [];
  for (let i = 0; i < Number(args.logins); i++) {
    const start = performance.now();
    const parameters = { application_name: `${state} ${i}` };
    const client = await RawClient.login(
      pgpool.tcp,
      { user: superuser, database: "test", parameters },
      60_000,
    );
    times.push(performance.now() - start);
    await client.terminate();
  }
  return times;
}

// ---------------------------------------------------------------- sessions

const idleCount = 100;
const readerCount = 20;

type Losses = {
  readonly sessions: number;
  readonly statementsThere: number;
  readonly statementsElsewhere: number;
};

async function benchSessions(): Promise<string> {
  const all: Losses[] = [];
  for (let round = 0; round < rounds; round++) {
    const losses = await killStandby();
    progress(`round ${round + 1} of ${rounds}: ${JSON.stringify(losses)}`);
    all.push(losses);
  }
  const counts = (key: keyof Losses) => cell(spread(all.map((losses) => losses[key])), 0);
  const title = `### kill -9 of a standby: ${idleCount} idle and ${readerCount} reading sessions, median (min–max) of ${rounds}`;
  return `${title}\n\n${markdown(
    ["sessions lost", "reads failed on that standby", "reads failed elsewhere"],
    [[counts("sessions"), counts("statementsThere"), counts("statementsElsewhere")]],
  )}`;
}

async function killStandby(): Promise<Losses> {
  await using scope = new Scope();
  const config = { ...watched, num_init_children: idleCount + readerCount + 10, max_pool: 1 };
  const { nodes, pgpool } = await makeTeam(scope, { config });
  const standby = nodes[1];
  const logIn = () => RawClient.login(pgpool.tcp, { user: superuser, database: "test" }, 60_000);
  const many = (count: number) => Promise.all(Array.from({ length: count }, logIn));
  const idle = await many(idleCount);
  const readers = await many(readerCount);
  const losses = { sessions: 0, statementsThere: 0, statementsElsewhere: 0 };
  let reads = 0;
  let over = false;
  const read = async (client: RawClient) => {
    const [{ port } = {}] = await client.rows("SELECT inet_server_port() AS port");
    while (!over) {
      const { errors, status } = await client.query("SELECT count(*) FROM acked");
      if (status === undefined) return;
      reads++;
      if (errors.length === 0) continue;
      if (port === String(standby?.port)) losses.statementsThere++;
      else losses.statementsElsewhere++;
    }
  };
  const reading = readers.map(read);
  await eventually(
    () => reads,
    (count) => count > 1000,
    { what: "1000 reads" },
  );
  await standby?.kill();
  await eventually(
    async () => (await pgpool.show("pool_nodes")).map(({ status }) => status),
    ([, status]) => status === "down",
    { what: "the standby to be down" },
  );
  const before = reads;
  await eventually(
    () => reads,
    (count) => count > before + 1000,
    { what: "1000 more reads" },
  );
  over = true;
  await Promise.all(reading);
  for (const client of [...idle, ...readers]) {
    const answer = client.ended ? undefined : await client.query("INSERT INTO acked VALUES (1)");
    if (answer?.status !== "I" || answer.errors.length > 0) losses.sessions++;
    client.destroy();
  }
  return losses;
}

/** On stderr, so that the tables alone are the output. */
function progress(text: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);
}

process.exit(await main());
