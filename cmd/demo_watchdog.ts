/**
 * `npm run demo -- --watchdog`: three pgpools guard each other, a client writes through their delegate
 * IP, the leader dies, and what follows is told as it happens. Each has a host of its own, a network
 * namespace; where none can be made all are on the loopback, and what that leaves out is said.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { HostNetwork, whyNoNetworks } from "./demo_network.ts";
import { heading, paint, run, type Stage, until } from "./demo_stage.ts";
import { SqlClient } from "./sql_client.ts";

const count = 3;
const ids = Array.from({ length: count }, (_, id) => id);
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

type Cluster = {
  readonly stage: Stage;
  readonly network: HostNetwork | undefined;
  /** Those started by us, one for each host. */
  readonly pgpools: (ChildProcess | undefined)[];
};

const home = ({ stage }: Cluster, id: number): string => join(stage.dir, `pgpool${id}`);
const configOf = (cluster: Cluster, id: number): string =>
  join(home(cluster, id), "etc/pgpool.conf");
const portOf = (stage: Stage, id: number): number => stage.port + 4 * id;

/** Resolves to what was not as it should be. */
export async function showWatchdog(
  stage: Stage,
  stay: (hints: readonly string[]) => Promise<void>,
) {
  const why = whyNoNetworks();
  const network = why === undefined ? await HostNetwork.make(count) : undefined;
  if (why !== undefined) {
    heading(`On the loopback, since ${why}`);
    console.log(`  Left out: no address moves from host to host. The client tries the ports of the three
  pgpools in turn, as libpq does with several hosts; and no cable can be cut.`);
  }
  const cluster: Cluster = { stage, network, pgpools: [] };
  try {
    const complaints = await play(cluster);
    await stay(hintsOf(cluster));
    return complaints;
  } catch (error) {
    if (!stage.signal.aborted) for (const id of ids) tellLog(cluster, id);
    throw error;
  } finally {
    await takeDown(cluster);
  }
}

async function play(cluster: Cluster): Promise<readonly string[]> {
  const { stage, network } = cluster;
  heading(`Making a PostgreSQL cluster and ${count} pgpools, in ${stage.dir}`);
  const ports = ["-wn", String(count), "-n", "1", "-wp", String(stage.port)];
  const made = await run(
    [stage.binary, "watchdog", "setup", ...ports, "-pg", String(stage.port + 4 * count)],
    { cwd: stage.dir },
  );
  if (made !== 0) return ["the installation could not be made"];
  prepare(cluster);
  await startClusters(cluster);
  heading(network ? "Starting a pgpool on each of three hosts" : "Starting three pgpools");
  for (const id of ids) start(cluster, id);
  const leader = await untilLed(cluster, ids);
  tell(cluster, leader);
  const first = await connectAnywhere(cluster);
  await first.query("CREATE TABLE visits (number int)");
  first.close();

  heading(network ? `A client writes through ${network.delegateIp}` : "A client writes");
  const writer = new Writer(cluster);
  try {
    await until(stage, "50 writes", () => writer.acked.length >= 50);
    await killLeader(cluster, leader, writer);
    const more = writer.acked.length + 50;
    await until(stage, "50 more writes", () => writer.acked.length >= more);
  } finally {
    await writer.stop();
  }
  const complaints = await tellWrites(cluster, writer);
  heading(`pgpool ${leader} comes back`);
  start(cluster, leader);
  const now = await untilLed(cluster, ids);
  tell(cluster, now);
  return now === leader ? [...complaints, "the one that came back took the lead"] : complaints;
}

function prepare(cluster: Cluster): void {
  const { network, stage } = cluster;
  const quick = ["wd_heartbeat_keepalive = 1", "wd_heartbeat_deadtime = 5"];
  heading("Looking at each other every second");
  for (const line of quick) console.log(`  ${line}`);
  const hosts = network?.hosts ?? [];
  const apart = hosts.flatMap(({ index, address }) => [
    `hostname${index} = '${address}'`,
    `heartbeat_hostname${index} = '${address}'`,
  ]);
  const delegate = Object.entries(network?.delegateSettings ?? {}).map(
    ([name, value]) => `${name} = '${value}'`,
  );
  const behind = network === undefined ? [] : [`backend_hostname0 = '${network.gateway}'`];
  for (const id of ids) {
    // All would listen on the same port of the virtual address otherwise, which only one has.
    const same = network === undefined ? [] : [`port = ${stage.port}`];
    const ports = network === undefined ? [] : ids.map((n) => `pgpool_port${n} = ${stage.port}`);
    const lines = [
      "",
      "# The demonstration.",
      // Namespaces share the file system.
      `unix_socket_directories = '${home(cluster, id)}/run'`,
      ...quick,
      ...same,
      ...ports,
      ...apart,
      ...behind,
      ...delegate,
    ];
    appendFileSync(configOf(cluster, id), `${lines.join("\n")}\n`);
  }
  if (network === undefined) return;
  const subnet = network.gateway.replace(/\d+$/, "0/24");
  appendFileSync(join(home(cluster, 0), "data0/pg_hba.conf"), `host all all ${subnet} trust\n`);
}

/** As the script of pgpool 0 does, but for its last two lines, which start pgpool and wait for it. */
async function startClusters(cluster: Cluster): Promise<void> {
  const script = readFileSync(join(home(cluster, 0), "startall"), "utf8");
  const path = join(cluster.stage.dir, "start_clusters");
  const kept = script.split("\n").filter((line) => !line.includes("/pgpool "));
  writeFileSync(path, kept.join("\n"));
  if ((await run(["sh", path])) !== 0) throw new Error("PostgreSQL did not start");
}

function start(cluster: Cluster, id: number): void {
  const { stage, network } = cluster;
  const log = openSync(join(home(cluster, id), "log/pgpool.log"), "a");
  const argv = [
    ...(network?.host(id).under ?? []),
    stage.binary,
    ...["-n", "-D", "-f", configOf(cluster, id), "-F", join(home(cluster, id), "etc/pcp.conf")],
  ];
  const [program = "", ...args] = argv;
  // Out of reach of the terminal's Ctrl-C.
  cluster.pgpools[id] = spawn(program, args, { stdio: ["ignore", log, log], detached: true });
  closeSync(log);
}

// ---------------------------------------------------------------- the watchdog's view

type Info = {
  readonly escalated: boolean;
  readonly alive_node_count: number;
  readonly nodes: readonly { readonly id: number; readonly state_name: string }[];
};

/** What one of them says, itself first; undefined while it does not answer. */
function infoOf(cluster: Cluster, id: number): Info | undefined {
  const args = ["watchdog", "info", "--json", "-f", configOf(cluster, id)];
  const { status, stdout } = spawnSync(cluster.stage.binary, args, { encoding: "utf8" });
  return status === 0 ? (JSON.parse(stdout) as Info) : undefined;
}

/** Waits until one of these leads with a quorum and all others follow; resolves to its id. */
async function untilLed(cluster: Cluster, among: readonly number[]): Promise<number> {
  let leader = -1;
  const isLed = () => {
    const states = among.map((id) => infoOf(cluster, id));
    const at = states.findIndex((info) => info?.nodes[0]?.state_name === "LEADER");
    const following = states.filter((info) => info?.nodes[0]?.state_name === "STANDBY");
    leader = among[at] ?? -1;
    return following.length === among.length - 1 && states[at]?.escalated === true;
  };
  await until(cluster.stage, "one to lead the others", isLed, 60_000);
  return leader;
}

function tell(cluster: Cluster, asked: number): void {
  console.log(`  pgpool watchdog info -f ${configOf(cluster, asked)}`);
  const args = ["watchdog", "info", "-f", configOf(cluster, asked)];
  const { stdout } = spawnSync(cluster.stage.binary, args, { encoding: "utf8" });
  const lines = stdout.trimEnd().replaceAll(/^/gm, "  ");
  console.log(lines.replaceAll(/LEADER/g, (word) => paint("green", word)));
}

// ---------------------------------------------------------------- the client

/** How long a client of the demonstration waits for anything. */
const PATIENCE_MS = 1000;

async function inTime<T>(promise: Promise<T>): Promise<T> {
  const tooLate = delay(PATIENCE_MS).then(() => {
    throw new Error(`no answer within ${PATIENCE_MS / 1000} s`);
  });
  return await Promise.race([promise, tooLate]);
}

async function connectAnywhere({ stage, network }: Cluster): Promise<SqlClient> {
  const login = { user: stage.user, database: "test", applicationName: "demo" };
  const targets = network
    ? [{ host: network.delegateIp, port: stage.port }]
    : ids.map((id) => ({ host: "127.0.0.1", port: portOf(stage, id) }));
  let last: unknown;
  for (const target of targets) {
    try {
      return await inTime(SqlClient.connect(target, login));
    } catch (error) {
      last = error;
    }
  }
  throw last;
}

/** Inserts 1, 2, 3, … and connects anew whenever its connection is lost. */
class Writer {
  readonly acked: { readonly number: number; readonly at: number }[] = [];
  sessionsLost = 0;
  readonly #cluster: Cluster;
  readonly #done: Promise<void>;
  #stopping = false;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    this.#done = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #run(): Promise<void> {
    let sql: SqlClient | undefined;
    for (let number = 1; !this.#stopping && !this.#cluster.stage.signal.aborted; ) {
      try {
        sql ??= await connectAnywhere(this.#cluster);
        await inTime(sql.query(`INSERT INTO visits VALUES (${number})`));
        this.acked.push({ number, at: performance.now() });
        number++;
      } catch {
        if (sql !== undefined) this.sessionsLost++;
        sql?.close();
        sql = undefined;
        number++; // it may have been written: what was not acknowledged is not tried again
      }
      await delay(5);
    }
    sql?.close();
  }
}

async function killLeader(cluster: Cluster, leader: number, writer: Writer): Promise<void> {
  const { stage, network, pgpools } = cluster;
  const { pid } = pgpools[leader] ?? {};
  const before = writer.acked.length;
  const killedAt = performance.now();
  pgpools[leader]?.kill("SIGKILL");
  const host = network === undefined ? "" : ", and its host is off the network";
  heading(`kill -9 ${pid}: the leader, pgpool ${leader}, is gone${host}`);
  if (network !== undefined) await network.forget(leader);
  const rest = ids.filter((id) => id !== leader);
  if (network !== undefined) {
    await until(
      stage,
      "the address to move",
      async () => (await network.holdersOf(network.delegateIp)).some((id) => rest.includes(id)),
      60_000,
    );
    const [holder] = await network.holdersOf(network.delegateIp);
    const after = seconds(performance.now() - killedAt);
    console.log(`  ${after}  host ${holder} has ${network.delegateIp}`);
  }
  const isNew = () => (writer.acked.at(-1)?.at ?? 0) > killedAt && writer.sessionsLost > 0;
  await until(stage, "a write after the loss", isNew, 60_000);
  const next = writer.acked
    .slice(before)
    .find(({ at }, i, all) => at - (all[i - 1]?.at ?? at) > 100);
  const first = (next ?? writer.acked.at(-1))?.at ?? performance.now();
  console.log(`  ${seconds(first - killedAt)}  the client has connected again, and writes`);
  const now = await untilLed(cluster, rest);
  tell(cluster, now);
}

async function tellWrites(cluster: Cluster, writer: Writer): Promise<readonly string[]> {
  const sql = await connectAnywhere(cluster);
  const { rows } = await sql.query("SELECT number, count(*) FROM visits GROUP BY number");
  sql.close();
  const found = new Map(rows.map(([number, times]) => [Number(number), Number(times)]));
  const missing = writer.acked.filter(({ number }) => !found.has(number)).length;
  const twice = [...found.values()].filter((times) => times > 1).length;
  console.log(
    `  of ${writer.acked.length} acknowledged writes ${missing} are missing, ${twice} are there twice; ${writer.sessionsLost} session lost`,
  );
  return missing + twice === 0 ? [] : ["writes were lost, or made twice"];
}

/** The end of a log, where the reason of a failure is. */
function tellLog(cluster: Cluster, id: number): void {
  const path = join(home(cluster, id), "log/pgpool.log");
  const lines = existsSync(path) ? readFileSync(path, "utf8").trimEnd().split("\n") : [];
  console.log([`--- ${path}`, ...lines.slice(-8)].join("\n"));
}

const hintsOf = (cluster: Cluster): readonly string[] => {
  const { stage, network } = cluster;
  const host = network?.delegateIp ?? "127.0.0.1";
  return [
    `psql -h ${host} -p ${stage.port} -U ${stage.user} test`,
    `${stage.binary} watchdog info -v -f ${configOf(cluster, 0)}`,
    `logs: ${stage.dir}/pgpool*/log/pgpool.log`,
    ...(network === undefined
      ? []
      : [`ip link set ${network.host(0).port} nomaster    # cuts the cable of host 0`]),
  ];
};

async function takeDown(cluster: Cluster): Promise<void> {
  const { pgpools, network, stage } = cluster;
  for (const pgpool of pgpools) pgpool?.kill("SIGINT");
  const isGone = (pgpool: ChildProcess | undefined) =>
    pgpool === undefined || pgpool.exitCode !== null || pgpool.signalCode !== null;
  const end = performance.now() + 15_000;
  while (!pgpools.every(isGone) && performance.now() < end) await delay(20);
  for (const pgpool of pgpools) if (!isGone(pgpool)) pgpool?.kill("SIGKILL");
  network?.remove();
  rmSync(join(stage.dir, "shutdownall"), { force: true }); // it would look for what is gone
  const script = join(stage.dir, "pgpool0/shutdownall");
  if (!existsSync(script)) return;
  const text = readFileSync(script, "utf8");
  const kept = text.split("\n").filter((line) => !line.includes("/pgpool "));
  const path = join(stage.dir, "stop_clusters");
  writeFileSync(path, kept.join("\n"));
  await run(["sh", path], { apart: true, limitMs: 30_000 });
}
