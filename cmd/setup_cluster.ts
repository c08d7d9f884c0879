/**
 * What `pgpool setup` does to the machine: files given to the user who runs the servers, clusters
 * made, copied and started. Each step writes what its programs say into pgpool_setup.log.
 */
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { recoveryFunctionsSql } from "../core/cluster/recovery_functions.ts";
import { replicates } from "../core/cluster/state.ts";
import { classicNames } from "./classic_names.ts";
import { CommandFailure } from "./failure.ts";
import { type Owner, runAs } from "./owner.ts";
import { copyEmbedded, findPostgres, type PostgresInstall } from "./postgres_finder.ts";
import { sampleScripts } from "./sample_scripts.ts";
import {
  baseBackupScript,
  dataDir,
  firstStageName,
  postgresSettings,
  postgresSettingsName,
  remoteStartScript,
  type SetupPlan,
  scriptSettings,
  secondStageName,
  standbySettings,
  standbySettingsName,
} from "./setup_files.ts";
import { SqlClient } from "./sql_client.ts";

/** Where the work is done, by whom, and how it is given up. */
export type Site = {
  readonly dir: string;
  readonly owner: Owner;
  readonly signal: AbortSignal;
};

export const logPath = (site: Site): string => join(site.dir, "pgpool_setup.log");

/** Writes a file and gives it to the owner. */
export function put(site: Site, path: string, text: string, mode = 0o644): void {
  writeFileSync(path, text, { mode });
  chmodSync(path, mode);
  give(site, path);
}

export function makeDir(site: Site, path: string): void {
  mkdirSync(path, { recursive: true });
  give(site, path);
}

export function give({ owner }: Site, path: string): void {
  if (owner.switching) chownSync(path, owner.uid, owner.gid);
}

/** Runs a program as the owner; what it says goes to the log. Rejects when it fails. */
export async function must(site: Site, argv: readonly [string, ...string[]]): Promise<string> {
  const { exitCode, output } = await attempt(site, argv);
  if (exitCode === 0) return output;
  throw new CommandFailure(`${argv.slice(0, 4).join(" ")} … failed with exit code ${exitCode}`, {
    detail: output.trim().split("\n").slice(-5).join(" "),
    exitCode: 1,
  });
}

export async function attempt(site: Site, argv: readonly [string, ...string[]]) {
  site.signal.throwIfAborted();
  const ran = await runAs(site.owner, argv, { cwd: site.dir, signal: site.signal });
  appendFileSync(logPath(site), `$ ${argv.join(" ")}\n${ran.output}\n`);
  return ran;
}

/** Asks until the answer is true. Rejects at the deadline with the last error, if there was one. */
export async function waitFor(
  what: string,
  holds: () => Promise<boolean>,
  options: { readonly deadlineMs: number; readonly signal?: AbortSignal },
): Promise<void> {
  const end = performance.now() + options.deadlineMs;
  for (;;) {
    let last = "";
    try {
      if (await holds()) return;
    } catch (error) {
      if (error instanceof CommandFailure) throw error;
      last = error instanceof Error ? error.message : String(error);
    }
    if (performance.now() >= end) {
      const detail = last === "" ? {} : { detail: last };
      throw new CommandFailure(`waited ${options.deadlineMs / 1000} s in vain for ${what}`, {
        ...detail,
        exitCode: 1,
      });
    }
    await delay(100, undefined, options.signal === undefined ? {} : { signal: options.signal });
  }
}

/**
 * The PostgreSQL to use, one that the owner can run: the npm package is copied into the directory
 * when its links are missing or the owner cannot reach it.
 */
export async function choosePostgres(site: Site): Promise<PostgresInstall> {
  const found = findPostgres();
  const runs = await attempt(site, ["test", "-x", join(found.bin, "initdb")]);
  if (runs.exitCode === 0 && found.major !== undefined) return found;
  if (found.embedded === undefined) {
    throw new CommandFailure(`user "${site.owner.name}" cannot run ${found.bin}/initdb`, {
      hint: "Set PGBIN to a PostgreSQL that this user can reach.",
      exitCode: 1,
    });
  }
  const copy = copyEmbedded(found.embedded, join(site.dir, "pgsql"));
  await makeReadable(site, join(site.dir, "pgsql"));
  return copy;
}

async function makeReadable(site: Site, path: string): Promise<void> {
  const self: Site = { ...site, owner: { ...site.owner, switching: false } };
  await must(self, ["chmod", "-R", "u+w,go+rX", path]);
}

/**
 * A directory with `pgpool` that the owner can run: where it is, else one made here from it. The
 * name must be `pgpool`, since scripts look for that.
 */
export async function choosePgpool(site: Site, binary: string): Promise<string> {
  const named = binary.endsWith("/pgpool");
  const reachable = (await attempt(site, ["test", "-x", binary])).exitCode === 0;
  if (named && reachable && existsSync(join(dirname(binary), "pcp_node_info"))) {
    return dirname(binary);
  }
  const bin = join(site.dir, "bin");
  makeDir(site, bin);
  const copy = join(bin, "pgpool");
  try {
    linkSync(binary, copy); // a hundred megabytes need not be written twice
  } catch {
    copyFileSync(binary, copy); // another file system
  }
  for (const name of classicNames) symlinkSync("pgpool", join(bin, name));
  return bin;
}

/** Makes a new cluster, with its own settings in a file that postgresql.conf includes. */
export async function createCluster(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const data = dataDir(plan, node);
  await must(site, [
    join(plan.postgresBin, "initdb"),
    ...["-D", data, "-U", plan.user, "-A", "trust"],
    ...["--no-locale", "-E", "UTF_8", "--data-checksums", "--no-sync"],
  ]);
  const includes = [postgresSettingsName, standbySettingsName];
  const text = includes.map((name) => `include_if_exists = '${name}'\n`).join("");
  appendFileSync(join(data, "postgresql.conf"), `\n# This test installation.\n${text}`);
  writeClusterFiles(site, plan, node);
  for (const [name, text] of recoveryScripts(plan)) put(site, join(data, name), text, 0o755);
  put(site, join(data, "scripts.conf"), scriptSettings(plan));
}

/** What online recovery runs, by name. The second stage is in no need of a shorter form than its sample. */
function recoveryScripts(plan: SetupPlan): readonly (readonly [string, string])[] {
  const { useSamples } = plan;
  const first = replicates(plan) ? "replication_mode_recovery_1st_stage" : "recovery_1st_stage";
  const second = sampleScripts.replication_mode_recovery_2nd_stage;
  return [
    [firstStageName(plan), useSamples ? sampleScripts[first] : baseBackupScript(plan)],
    ...(replicates(plan) ? [[secondStageName(plan), second] as const] : []),
    [
      "pgpool_remote_start",
      useSamples ? sampleScripts.pgpool_remote_start : remoteStartScript(plan),
    ],
  ];
}

function writeClusterFiles(site: Site, plan: SetupPlan, node: number): void {
  const path = join(dataDir(plan, node), postgresSettingsName);
  put(site, path, postgresSettings(plan, node), 0o600);
}

/** Starts a cluster and waits until it takes connections. */
export async function startCluster(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const log = join(plan.dir, "log", `data${node}.log`);
  const data = dataDir(plan, node);
  const start = ["-D", data, "-w", "-l", log, "start"] as const;
  const { exitCode } = await attempt(site, [join(plan.postgresBin, "pg_ctl"), ...start]);
  if (exitCode === 0) return;
  throw new CommandFailure(`data${node} did not start`, {
    detail: lastLines(log, /WARNING|ERROR|FATAL|could not/),
    exitCode: 1,
  });
}

/** The last three lines of a log that match, in one; undefined when there are none. */
export function lastLines(path: string, pattern: RegExp): string | undefined {
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  const found = text.split("\n").filter((line) => pattern.test(line));
  return found.length === 0 ? undefined : found.slice(-3).join(" ");
}

/** Stops without waiting for anybody; a cluster that does not run is no failure. */
export async function stopCluster(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const data = dataDir(plan, node);
  if (!existsSync(join(data, "postmaster.pid"))) return;
  await attempt(site, [join(plan.postgresBin, "pg_ctl"), "-D", data, "-m", "immediate", "stop"]);
}

export function connectTo(plan: SetupPlan, port: number, database = "postgres") {
  return SqlClient.connect(
    { host: "127.0.0.1", port },
    { user: plan.user, database, applicationName: "pgpool_setup" },
  );
}

/**
 * What every cluster has: the database `test`, a password for the user, and the functions of online
 * recovery, by the extension where it is installed.
 */
export async function fillCluster(plan: SetupPlan, node: number): Promise<void> {
  const sql = await connectTo(plan, plan.postgresPorts[node] ?? 0);
  try {
    await sql.query("CREATE DATABASE test");
    await sql.query(`ALTER ROLE "${plan.user}" PASSWORD '${plan.user}'`);
  } finally {
    sql.close();
  }
  const template = await connectTo(plan, plan.postgresPorts[node] ?? 0, "template1");
  try {
    const wanted = "name IN ('pgpool_recovery', 'pgpool_regclass')";
    const { rows } = await template.query(
      `SELECT name FROM pg_available_extensions WHERE ${wanted}`,
    );
    for (const [name] of rows) await template.query(`CREATE EXTENSION IF NOT EXISTS ${name}`);
    const extension = rows.some(([name]) => name === "pgpool_recovery");
    if (!extension) await template.query(recoveryFunctionsSql);
  } finally {
    template.close();
  }
}

/** Logical replication of every table that `test` will have: tables are to be made on each server. */
export async function subscribe(plan: SetupPlan): Promise<void> {
  const [publisher = 0, ...subscribers] = plan.postgresPorts;
  const on = async (port: number, text: string) => {
    const sql = await connectTo(plan, port, "test");
    await sql.query(text).finally(() => sql.close());
  };
  await on(publisher, "CREATE PUBLICATION pgpool_test FOR ALL TABLES");
  const source = `host=localhost port=${publisher} dbname=test user=${plan.user}`;
  for (const [at, port] of subscribers.entries()) {
    await on(
      port,
      `CREATE SUBSCRIPTION pgpool_test_${at + 1} CONNECTION '${source}' PUBLICATION pgpool_test`,
    );
  }
}

/** Makes a standby as an operator would: pcp_recovery_node, which exits with 0 whatever the server says. */
export async function recoverNode(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const call = `${plan.pgpoolBin}/pcp_recovery_node -w -h localhost -p ${plan.pcpPort} -U ${plan.user}`;
  const said = await must(site, ["sh", "-c", `PCPPASSFILE=${plan.dir}/pcppass ${call} -n ${node}`]);
  if (said.includes("Command Successful")) return;
  const log = join(plan.dir, "log", `data${node}.log`);
  throw new CommandFailure(`data${node} could not be recovered`, {
    detail:
      `${said.trim().replaceAll("\n", " ")} ${lastLines(log, /FATAL|could not/) ?? ""}`.trim(),
    exitCode: 1,
  });
}

/** Copies the running primary (node 0) into a standby, which is not started yet. */
export async function createStandby(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const baseBackup = join(plan.postgresBin, "pg_basebackup");
  if (plan.useSlots) {
    const sql = await connectTo(plan, plan.postgresPorts[0] ?? 0);
    await sql
      .query(`SELECT pg_create_physical_replication_slot('server${node}')`)
      .finally(() => sql.close());
  }
  if (existsSync(baseBackup)) {
    await must(site, [
      baseBackup,
      ...["-h", "localhost", "-p", String(plan.postgresPorts[0]), "-U", plan.user],
      ...["-D", dataDir(plan, node), "-X", "stream", "-c", "fast", "--no-sync"],
    ]);
  } else {
    await copyPrimary(site, plan, node);
  }
  const data = dataDir(plan, node);
  writeClusterFiles(site, plan, node);
  put(site, join(data, standbySettingsName), standbySettings(plan, node), 0o600);
  put(site, join(data, "standby.signal"), "", 0o600);
}

/** The manual's "low level" base backup, for installations without pg_basebackup. */
async function copyPrimary(site: Site, plan: SetupPlan, node: number): Promise<void> {
  const data = dataDir(plan, node);
  const sql = await connectTo(plan, plan.postgresPorts[0] ?? 0);
  try {
    await sql.query(`SELECT pg_backup_start('pgpool_setup', true)`);
    await copyLiveFiles(site, dataDir(plan, 0), data);
    const label = await sql.value("SELECT labelfile FROM pg_backup_stop(false)");
    put(site, join(data, "backup_label"), label ?? "", 0o600);
  } finally {
    sql.close();
  }
  for (const name of ["postmaster.pid", "postmaster.opts"])
    rmSync(join(data, name), { force: true });
}

/** Files may vanish while they are copied; PostgreSQL's recovery expects that. */
async function copyLiveFiles(site: Site, from: string, to: string): Promise<void> {
  const { exitCode, output } = await attempt(site, ["cp", "-a", from, to]);
  const complaints = output.split("\n").filter((line) => line !== "");
  if (exitCode === 0 || complaints.every((line) => line.includes("No such file"))) return;
  throw new CommandFailure(`copying ${from} failed`, { detail: complaints[0], exitCode: 1 });
}

/** Resolves when every standby streams from the primary and has replayed what it has. */
export async function untilStreaming(site: Site, plan: SetupPlan): Promise<void> {
  const standbys = plan.postgresPorts.length - 1;
  const sql = await connectTo(plan, plan.postgresPorts[0] ?? 0);
  const caughtUp =
    "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= sent_lsn";
  try {
    await waitFor(
      "the standbys to stream",
      async () => Number(await sql.value(caughtUp)) >= standbys,
      { deadlineMs: 60_000, signal: site.signal },
    );
  } finally {
    sql.close();
  }
}
