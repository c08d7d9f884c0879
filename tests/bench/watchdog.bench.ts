/**
 * `npm run bench:watchdog`: three pgpools on three hosts (network namespaces, so it must be root), the
 * leader killed by SIGKILL; how long it takes until a client of the delegate IP writes again. And what
 * a standby costs that does nothing. Ours and the real Pgpool-II take turns.
 */
import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import {
  type ConfigValue,
  canMakeNetworks,
  eventually,
  originalPgpool,
  ourBinary,
  Postgres,
  type Program,
  processTree,
  RawClient,
  Scope,
  superuser,
  TestNetwork,
} from "../cluster/harness.ts";
import { WatchdogCluster, type WatchdogNode } from "../cluster/watchdog_cluster.ts";
import { cell, markdown, spread } from "./table.ts";

const usage = `usage: npm run bench:watchdog -- [options]
  --rounds N    clusters made of each kind (default 3)
  --idle N      seconds that a standby is watched (default 30)
  --help        this

dist/pgpool must be built. Without pgpool2 installed there is no comparison.`;

const { values: args } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    idle: { type: "string", default: "30" },
    help: { type: "boolean", default: false },
  },
});

/** What Pgpool-II's pgpool.conf has when nobody changes it. */
const DEFAULTS = { wd_interval: 10, wd_heartbeat_keepalive: 2, wd_heartbeat_deadtime: 30 } as const;
/** The nodes know each other for so long before one dies, in milliseconds. */
const SETTLED_MS = 12_000;
/** A client that is not answered tries again after this. */
const PATIENCE_MS = 500;
/** Clock ticks a second of proc(5), as every Linux has them. */
const TICKS = 100;

type Contender = {
  readonly name: string;
  readonly program: Program | undefined;
  readonly config: Readonly<Record<string, ConfigValue>>;
};

const contenders: readonly Contender[] = [
  { name: "ours", program: ourBinary(), config: DEFAULTS },
  {
    name: "ours, wd_heartbeat_deadtime = 2",
    program: ourBinary(),
    config: { wd_interval: 1, wd_heartbeat_keepalive: 1, wd_heartbeat_deadtime: 2 },
  },
  { name: "Pgpool-II 4.3.5", program: originalPgpool(), config: DEFAULTS },
].filter(({ program }) => program !== undefined);

type Outcome = { readonly seconds: number; readonly idlePercent: number };

async function main(): Promise<number> {
  if (args.help) {
    console.log(usage);
    return 0;
  }
  if (ourBinary() === undefined || !canMakeNetworks()) {
    console.error("it needs dist/pgpool (npm run build), root, and the right to make namespaces");
    return 1;
  }
  const outcomes = new Map<string, Outcome[]>();
  const rounds = Number(args.rounds);
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const contender = contenders[(round + turn) % contenders.length];
      if (contender === undefined) continue;
      const outcome = await run(contender);
      const load = loadavg()[0]?.toFixed(1);
      const said = `${contender.name}: ${JSON.stringify(outcome)}, the machine's load is ${load}`;
      console.error(`${new Date().toISOString().slice(11, 19)} ${said}`);
      outcomes.set(contender.name, [...(outcomes.get(contender.name) ?? []), outcome]);
    }
  }
  const rows = contenders.map(({ name }) => {
    const own = outcomes.get(name) ?? [];
    return [
      name,
      cell(spread(own.map(({ seconds }) => seconds))),
      cell(spread(own.map(({ idlePercent }) => idlePercent))),
    ];
  });
  const title = `### kill -9 of the leader of three: median (min–max) of ${rounds}`;
  const header = ["", "seconds to the next write", "an idle standby, % of a core"];
  console.log(`\n${title}\n\n${markdown(header, rows)}`);
  return 0;
}

async function run({ program, config }: Contender): Promise<Outcome> {
  if (program === undefined) throw new Error("nothing to run");
  await using scope = new Scope();
  const network = await TestNetwork.create(scope, 3);
  const postgres = await Postgres.create(scope, {
    settings: { listen_addresses: `127.0.0.1,${network.gateway}` },
    hba: ["host all all 0.0.0.0/0 trust"],
  });
  await postgres.sql("CREATE TABLE written (at timestamptz DEFAULT now())");
  const cluster = await WatchdogCluster.create(scope, {
    programs: [program, program, program],
    network,
    backends: [{ host: network.gateway, port: postgres.port }],
    config: { health_check_period: 0, sr_check_period: 10, num_init_children: 32, ...config },
  });
  await cluster.start();
  const leader = await cluster.untilAgreed(undefined, 90_000);
  const target = { host: network.delegateIp, port: leader.pgpool.port };
  await eventually(() => write(target), undefined, { deadlineMs: 60_000, what: "a first write" });
  await delay(SETTLED_MS);
  const standby = cluster.node(leader.id === 0 ? 1 : 0);
  const idlePercent = await idleOf(standby);
  const killedAt = performance.now();
  const killed = leader.pgpool.kill();
  const stillThere = () => performance.now() - killedAt < 50;
  await killed;
  for (;;) {
    if ((await write(target).catch(() => false)) && !stillThere()) break;
  }
  return { seconds: (performance.now() - killedAt) / 1000, idlePercent };
}

async function write(target: { readonly host: string; readonly port: number }): Promise<true> {
  const act = async (): Promise<true> => {
    const client = await RawClient.login(
      target,
      { user: superuser, database: "test" },
      PATIENCE_MS,
    );
    try {
      await client.rows("INSERT INTO written DEFAULT VALUES");
      return true;
    } finally {
      client.destroy();
    }
  };
  const tooLate = delay(PATIENCE_MS).then(() => {
    throw new Error("no answer");
  });
  return await Promise.race([act(), tooLate]);
}

/** Of one core, over some seconds: the process and its children. */
async function idleOf({ pgpool }: WatchdogNode): Promise<number> {
  const seconds = Number(args.idle);
  const before = ticksOf(pgpool.pid);
  await delay(seconds * 1000);
  return ((ticksOf(pgpool.pid) - before) / TICKS / seconds) * 100;
}

function ticksOf(pid: number): number {
  return processTree(pid)
    .map((each) => {
      const stat = readFileSync(`/proc/${each}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return Number(fields[11]) + Number(fields[12]); // utime and stime
    })
    .reduce((sum, ticks) => sum + ticks, 0);
}

process.exit(await main());
