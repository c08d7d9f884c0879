/**
 * `npm run demo -- --failover`: the primary is killed while one client writes and another reads, and
 * what follows is told as it happens.
 */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Reader, Writer } from "./demo_clients.ts";
import {
  ask,
  heading,
  nodeCount,
  paint,
  poolNodes,
  portOfNode,
  run,
  type Stage,
  show,
  showNodes,
  until,
} from "./demo_stage.ts";
import { parsePid } from "./pid_file.ts";

const nodes = Array.from({ length: nodeCount }, (_, node) => node);
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

/** Resolves to what was not as it should be. */
export async function showFailover(stage: Stage): Promise<readonly string[]> {
  await prepare(stage);
  heading("Before");
  await showNodes(stage);
  heading("One client writes and one reads, without a pause");
  await ask(stage, "CREATE TABLE visits (number int)");
  show("INSERT INTO visits VALUES (1)", "INSERT INTO visits VALUES (2)", "…");
  const writer = new Writer(stage);
  const reader = new Reader(stage);
  try {
    const warm = () => writer.acked.length >= 200 && reader.reads >= 200;
    await until(stage, "200 writes and 200 reads", warm);
    console.log(`  ${writer.acked.length} writes and ${reader.reads} reads so far`);
    await killPrimary(stage, writer);
    const more = writer.acked.length + 200;
    await until(stage, "200 more writes", () => writer.acked.length >= more);
  } finally {
    await Promise.all([writer.stop(), reader.stop()]);
  }
  const complaints = [
    ...(await tellHealed(stage)),
    ...(await tellWrites(stage, writer)),
    ...tellReads(reader),
  ];
  return [...complaints, ...(await bringBack(stage))];
}

/** What the operator of such a cluster would have set from the beginning. */
async function prepare(stage: Stage): Promise<void> {
  heading("Setting up failover without scripts");
  const settings = [
    "failover_method = promote",
    "failover_command = ''",
    "follow_primary_command = ''",
    ...nodes.flatMap((node) => [
      `health_check_period${node} = 1`,
      `health_check_timeout${node} = 20`,
      `health_check_max_retries${node} = 0`,
    ]),
  ];
  for (const setting of settings.slice(0, 4)) console.log(`  ${setting}`);
  const conf = join(stage.dir, "etc/pgpool.conf");
  appendFileSync(conf, `\n# Failover without scripts.\n${settings.join("\n")}\n`);
  const synchronous = `synchronous_standby_names = 'ANY 1 (${nodes.map((n) => `server${n}`).join(", ")})'`;
  show(`ALTER SYSTEM SET ${synchronous}`);
  for (const node of nodes) {
    const port = portOfNode(stage, node);
    await ask(stage, `ALTER SYSTEM SET ${synchronous}`, port);
    await ask(stage, "SELECT pg_reload_conf()", port);
  }
  const quorum = "SELECT FROM pg_stat_replication WHERE sync_state = 'quorum'";
  const confirming = async () =>
    (await ask(stage, quorum, portOfNode(stage, 0))).rows.length === nodeCount - 1;
  await until(stage, "the standbys to confirm commits", confirming);
  await run(["sh", join(stage.dir, "pgpool_reload")], { cwd: stage.dir });
  // It tells what a promotion would go by once it has asked the primary.
  const learnt = /if node 0 is lost a standby will be promoted[\s\S]*synchronous with ANY 1/;
  await until(stage, "pgpool to know what the primary promises", () => learnt.test(log(stage)));
}

function log(stage: Stage): string {
  const path = join(stage.dir, "log/pgpool.log");
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/** Kills it, and tells what happens until a write is accepted and both standbys have their roles. */
async function killPrimary(stage: Stage, writer: Writer): Promise<void> {
  const pidFile = join(stage.dir, "data0/postmaster.pid");
  const pid = parsePid(readFileSync(pidFile, "latin1").split("\n")[0] ?? "");
  if (pid === undefined) throw new Error("the primary has no pid");
  heading(`kill -9 ${pid}: the primary is gone`);
  const logged = log(stage).length;
  const oldPort = portOfNode(stage, 0);
  const killedAt = performance.now();
  process.kill(pid, "SIGKILL");
  const told = new Set<string>();
  const tell = (what: string, at = performance.now()) => {
    if (told.has(what)) return;
    told.add(what);
    console.log(`  ${seconds(at - killedAt).padStart(7)}  ${what}`);
  };
  const look = () => {
    for (const { at, message } of writer.failed) tell(`a write fails: ${message}`, at);
    const news = log(stage).slice(logged);
    for (const [pattern, text] of tellable) {
      const match = pattern.exec(news);
      if (match !== null) tell(text(match[1] ?? ""));
    }
    const first = writer.acked.find(({ port }) => port !== oldPort);
    const node = first === undefined ? "" : `node ${first.port - oldPort}`;
    if (first !== undefined)
      tell(paint("green", `the first write is accepted, by ${node}`), first.at);
    return first !== undefined && / follows node /.test(news);
  };
  await until(stage, "a write on a new primary, and a standby that follows it", look, 60_000);
}

/** What pgpool logs, and how it is told. */
const tellable: readonly (readonly [RegExp, (group: string) => string])[] = [
  [/=== Starting degeneration/, () => "pgpool marks node 0 as down"],
  [/promoting node (\d+)/, (node) => `pgpool promotes node ${node}, which has received most`],
  [/node (\d+) is promoted/, (node) => `node ${node} is the primary`],
  [/node (\d+ follows node \d+)/, (who) => `node ${who}`],
];

async function tellHealed(stage: Stage): Promise<readonly string[]> {
  heading("After");
  const found = await showNodes(stage);
  const [lost, ...others] = found;
  const primaries = others.filter(({ role }) => role === "primary").length;
  return [
    ...(lost?.status === "down" ? [] : ["node 0 was killed and is not down"]),
    ...others.filter(({ status }) => status === "down").map(({ id }) => `node ${id} is down`),
    ...(primaries === 1 ? [] : [`${primaries} primaries`]),
  ];
}

/** Looks for every acknowledged number on every server that is up. */
async function tellWrites(stage: Stage, writer: Writer): Promise<readonly string[]> {
  heading("Was anything lost?");
  const { acked, failed, sessionsLost } = writer;
  const complaints: string[] = [];
  for (const { id } of (await poolNodes(stage)).filter(({ status }) => status !== "down")) {
    const numbers = async () =>
      (await ask(stage, "SELECT number FROM visits", portOfNode(stage, id))).rows.map(([n]) => n);
    let there: (string | null | undefined)[] = [];
    const missing = () => {
      const set = new Set(there);
      return acked.filter(({ number }) => !set.has(String(number))).length;
    };
    const complete = async () => {
      there = await numbers();
      return missing() === 0;
    };
    await until(stage, "the last writes to arrive", complete, 10_000).catch(() => undefined);
    stage.signal.throwIfAborted();
    const twice = there.length - new Set(there).size;
    console.log(
      `  node ${id}: of ${acked.length} acknowledged writes ${missing()} are missing, ${twice} are there twice`,
    );
    if (missing() > 0) complaints.push(`node ${id} lacks ${missing()} acknowledged writes`);
    if (twice > 0) complaints.push(`node ${id} has ${twice} writes twice`);
  }
  const failures = failed.length === 1 ? "1 write" : `${failed.length} writes`;
  console.log(`  the writer: ${failures} failed, and it kept its session`);
  if (sessionsLost === 0) return complaints;
  return [...complaints, `the writing client lost its session ${sessionsLost} times`];
}

function tellReads({ reads, failures, slowestMs, sessionsLost }: Reader): readonly string[] {
  console.log(
    `  the reader: ${reads} reads, ${failures} failed, the slowest took ${Math.round(slowestMs)} ms`,
  );
  return [
    ...(failures === 0 ? [] : [`${failures} reads on a standby failed`]),
    ...(sessionsLost === 0 ? [] : [`the reading client lost its session`]),
  ];
}

async function bringBack(stage: Stage): Promise<readonly string[]> {
  heading("Bringing the old primary back as a standby");
  const binDir = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";
  const [[bin] = []] = (await ask(stage, binDir, portOfNode(stage, 1))).rows;
  if (!existsSync(join(bin ?? "", "pg_basebackup"))) {
    console.log("  It went another way than the new primary, and must be rewound or copied anew.");
    console.log(
      `  That needs pg_rewind or pg_basebackup, and this PostgreSQL has neither (${bin}).`,
    );
    console.log("  So it stays down.");
    return [];
  }
  const pcp = ["-h", "localhost", "-p", String(stage.port + 1), "-U", stage.user, "-w"];
  console.log(`  pcp_recovery_node ${pcp.join(" ")} -n 0`);
  const startedAt = performance.now();
  const env = { PCPPASSFILE: join(stage.dir, "pcppass") };
  const recovered = run([stage.binary, "pcp", "recovery-node", ...pcp, "-n", "0"], {
    cwd: stage.dir,
    env,
    apart: true,
    limitMs: 90_000,
  });
  if ((await recovered) !== 0) return ["node 0 could not be recovered"];
  const back = async () => {
    const node = (await poolNodes(stage))[0];
    return node?.status !== "down" && node?.role === "standby";
  };
  await until(stage, "node 0 to be a standby", back);
  console.log(`  done in ${seconds(performance.now() - startedAt)}`);
  const all = await showNodes(stage);
  return all.filter(({ status }) => status === "down").map(({ id }) => `node ${id} is down`);
}
