/**
 * Online recovery by PCP, with real servers: the scripts run on the primary's host through the
 * extension, through functions of ours, and without any function.
 */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { recoveryFunctionsSql } from "../../core/cluster/recovery_functions.ts";
import {
  eventually,
  freePort,
  monitor,
  Pgpool,
  Postgres,
  pcpAdmin,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";

const login = { user: "postgres", database: "test" };

const recoveryTest = await testNeeding("dist/pgpool", "postgres (system)");

type Stage = {
  readonly primary: Postgres;
  readonly pgpool: Pgpool;
  /** Of the node that is to be recovered. */
  readonly port: number;
  readonly data: string;
  /** What the scripts were called with, one line a call. */
  calls(): string[];
};

/** A primary and a node that was never there, marked down. */
async function setStage(scope: Scope, dataName = "two words"): Promise<Stage> {
  const primary = await Postgres.create(scope);
  await primary.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN; CREATE TABLE t AS SELECT 1 AS a`);
  const port = await freePort();
  const data = join(scope.makeDir("node1"), dataName);
  const log = join(scope.dir, "calls");
  writeFileSync(log, "");
  scope.giveToOwner(log);
  const put = (name: string, lines: readonly string[]) => {
    const path = join(primary.dataDir, name);
    const note = `printf '%s' "\${0##*/}" >> ${log}; for a; do printf ' <%s>' "$a" >> ${log}; done; echo >> ${log}`;
    writeFileSync(path, ["#!/bin/sh", note, ...lines].map((line) => `${line}\n`).join(""), {
      mode: 0o755,
    });
    scope.giveToOwner(path);
  };
  const bin = primary.install.bin;
  put("stage1", [
    `while [ -e ${scope.dir}/hold ]; do sleep 0.1; done`,
    `[ ! -f ${scope.dir}/refuse ] || { echo 'the disk is full' >&2; exit 7; }`,
    `rm -rf "$3"; ${bin}/pg_basebackup -h ${primary.socketDir} -p "$4" -U postgres -D "$3" -X stream -c fast || exit 1`,
    `printf '%s\\n' "port = $6" "primary_conninfo = 'host=${primary.socketDir} port=$4 user=postgres application_name=server1'" >> "$3/postgresql.conf"`,
    'touch "$3/standby.signal"',
  ]);
  put("pgpool_remote_start", [
    `cd / && exec ${bin}/pg_ctl -D "$2" -w -l ${scope.dir}/node1.log start < /dev/null > /dev/null 2>&1`,
  ]);
  scope.defer(async () => {
    const stop = [`${bin}/pg_ctl`, "-D", data, "-m", "immediate", "stop"] as const;
    if (existsSync(join(data, "postmaster.pid"))) await runCommand(stop, { owner: scope.owner });
  });
  scope.giveToOwner(join(scope.dir, "node1"));
  const pgpool = await Pgpool.create(scope, {
    backends: [primary, { host: "127.0.0.1", port }],
    pcpUsers: [pcpAdmin],
    config: {
      num_init_children: 8,
      sr_check_user: monitor,
      sr_check_period: 1,
      backend_flag1: "ALLOW_TO_FAILOVER",
      backend_data_directory0: primary.dataDir,
      backend_data_directory1: data,
      recovery_user: "postgres",
      recovery_1st_stage_command: "stage1",
      recovery_timeout: 20,
    },
  });
  await pgpool.untilServing();
  const calls = () => readFileSync(log, "utf8").trimEnd().split("\n");
  const stage = { primary, pgpool, port, data, calls };
  expect(await pcp(stage, ["detach-node", "-n", "1"])).toMatchObject({ stderr: "" });
  return stage;
}

const pcp = ({ pgpool }: Stage, words: readonly string[]) => pgpool.pcp(words);

const recover = (stage: Stage) => pcp(stage, ["recovery-node", "-n", "1"]);

/** The rows of `t` at the recovered server itself. */
async function recovered({ primary, port }: Stage): Promise<string | null | undefined> {
  const client = await RawClient.login(
    { path: join(primary.socketDir, `.s.PGSQL.${port}`) },
    login,
  );
  const sql = "SELECT pg_is_in_recovery() || ' ' || count(*) AS n FROM t";
  const [{ n } = {}] = await client.rows(sql);
  client.destroy();
  return n;
}

const ways: readonly [string, (primary: Postgres) => Promise<unknown>][] = [
  ["the extension", (primary) => primary.sql("CREATE EXTENSION pgpool_recovery", "postgres")],
  ["functions of ours", (primary) => primary.sql(recoveryFunctionsSql, "postgres")],
  ["no function", async () => undefined],
];

for (const [what, install] of ways) {
  recoveryTest(
    `a node is recovered with ${what}, while clients work`,
    async () => {
      await using scope = new Scope();
      // The extension leaves the name to the shell as it is.
      const stage = await setStage(scope, what === "the extension" ? "data" : undefined);
      const { primary, pgpool, data, port } = stage;
      await install(primary);
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      await client.rows("INSERT INTO t VALUES (2)");

      expect(await recover(stage)).toMatchObject({
        code: 0,
        stdout: "pgpool pcp recovery_node -- Command Successful\n",
        stderr: "",
      });
      const host = "<127.0.0.1>";
      expect(stage.calls()).toEqual([
        `stage1 <${primary.dataDir}> ${host} <${data}> <${primary.port}> <1> <${port}> ${host}`,
        `pgpool_remote_start ${host} <${data}>`,
      ]);
      expect((await pgpool.show("pool_nodes"))[1]).toMatchObject({ role: "standby" });
      expect(await recovered(stage)).toBe("true 2");
      await client.rows("INSERT INTO t VALUES (3)"); // it was never disturbed
      await client.terminate();

      expect(await recover(stage)).toMatchObject({
        code: 0,
        stderr: "ERROR:  node recovery failed, node id: 1 is alive\n\n",
      });
    },
    120_000,
  );
}

recoveryTest(
  "a recovery that cannot be says why, and the next one may succeed",
  async () => {
    await using scope = new Scope();
    const stage = await setStage(scope);
    const primaryItself = await pcp(stage, ["recovery-node", "-n", "0"]);
    expect(primaryItself.stderr).toContain(
      "primary server cannot be recovered by online recovery.",
    );
    const nobody = await pcp(stage, ["recovery-node", "-n", "7"]);
    expect(nobody.stderr).toContain("node id 7 is not valid");

    const refuse = join(scope.dir, "refuse");
    writeFileSync(refuse, "");
    expect((await recover(stage)).stderr).toBe(
      'ERROR:  executing recovery, execution of command failed at "1st stage"\nDETAIL:  command:"stage1"\n\n',
    );
    expect((await stage.pgpool.show("pool_nodes"))[1]).toMatchObject({ status: "down" });
    rmSync(refuse);

    rmSync(join(stage.primary.dataDir, "pgpool_remote_start"));
    expect((await recover(stage)).stderr).toContain("executing remote start failed with error:");

    const hold = join(scope.dir, "hold");
    writeFileSync(hold, "");
    const before = stage.calls().length;
    const first = recover(stage);
    await eventually(() => stage.calls().length > before, Boolean, { what: "the first to begin" });
    expect((await recover(stage)).stderr).toContain(
      "FATAL:  pgpool-II is already processing another recovery request.",
    );
    rmSync(hold);
    expect((await first).stderr).toContain("executing remote start failed with error:");
  },
  120_000,
);

test("the log of a failed script tells what the server said", async () => {
  await using scope = new Scope();
  const stage = await setStage(scope);
  writeFileSync(join(scope.dir, "refuse"), "");
  await recover(stage);
  await stage.pgpool.logged(/the script of the 1st stage failed/);
  await stage.pgpool.logged(/child process exited with exit code 7|exit code 7|failed/);
}, 300_000);
