/**
 * The scripts of samples/, as operators would use them: three servers with passwords, a primary that
 * dies, standbys that follow. Only ssh is not the real one: a stub on PATH notes whom it was to reach
 * and runs the command here.
 */
import { expect, test } from "bun:test";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { sampleScriptNames as scripts } from "../../cmd/sample_script_names.ts";
import { recoveryFunctionsSql } from "../../core/cluster/recovery_functions.ts";
import { loadConfig } from "../../core/config/load.ts";
import {
  eventually,
  findPostgres,
  freePort,
  mustRun,
  ourBinary,
  Postgres,
  RawClient,
  repositoryRoot,
  runCommand,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";

const sampleDir = join(repositoryRoot, "samples");

const checkTest = await testNeeding("shellcheck");
const binaryTest = await testNeeding("dist/pgpool", "postgres");
const scriptTest = await testNeeding("postgres (system)", "psql");

checkTest("shellcheck finds nothing to say", async () => {
  const paths = [...scripts, "container_entrypoint"].map((name) => join(sampleDir, name));
  expect(await runCommand(["shellcheck", ...paths])).toMatchObject({ code: 0, stdout: "" });
});

/** Programs that stand in for the network's: each notes its arguments, one line a call. */
function stubs(scope: Scope) {
  const dir = scope.makeDir("stubs");
  const log = join(scope.dir, "calls");
  writeFileSync(log, "", { mode: 0o666 });
  scope.giveToOwner(log);
  const put = (name: string, body: string) =>
    writeFileSync(join(dir, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  const note = (what: string) => `printf '%s\\n' "${what}" >> ${log}`;
  const local = [
    'while [ "$#" -gt 2 ]; do shift; done',
    note("ssh $1"),
    `case $2 in *pg_rewind*) [ ! -f ${scope.dir}/no_rewind ] || exit 1;; esac`,
    'exec sh -c "$2"',
  ];
  put("ssh", local.join("\n"));
  for (const name of ["pcp_attach_node", "pcp_recovery_node"]) put(name, note(`${name} $*`));
  const calls = (): readonly string[] => {
    const all = readFileSync(log, "utf8").trim().split("\n");
    writeFileSync(log, "");
    return all;
  };
  return { dir, put, note, calls };
}

type Stage = {
  readonly scope: Scope;
  readonly stubs: ReturnType<typeof stubs>;
  readonly primary: Postgres;
  /** Ports and data directories by node id; node 0 is the first primary. */
  readonly nodes: readonly { readonly port: number; readonly data: string }[];
  readonly etc: string;
};

const host = "127.0.0.1";

async function setStage(scope: Scope): Promise<Stage> {
  const stub = stubs(scope);
  const install = await findPostgres("system");
  const archive = scope.makeDir("archive");
  const primary = await Postgres.create(scope, {
    install,
    settings: {
      wal_log_hints: "on",
      archive_mode: "on",
      archive_command: `cp %p ${archive}/%f`,
    },
    hba: [
      "host all all 127.0.0.1/32 scram-sha-256",
      "host replication all 127.0.0.1/32 scram-sha-256",
    ],
  });
  await primary.sql(`CREATE ROLE repl REPLICATION LOGIN PASSWORD 'repl''s'`);
  await primary.sql(`ALTER ROLE ${superuser} PASSWORD 'secret'`);
  await primary.sql(recoveryFunctionsSql, "postgres");
  await primary.sql(recoveryFunctionsSql, "template1");
  // the servers' home, and that of whoever runs the scripts
  const pgpass = join(scope.dir, ".pgpass");
  writeFileSync(pgpass, `*:*:*:repl:repl's\n*:*:*:${superuser}:secret\n`, { mode: 0o600 });
  scope.giveToOwner(pgpass);

  const etc = scope.makeDir("etc");
  const settings = [
    `PATH=${stub.dir}:$PATH`,
    `PG_BIN=${primary.install.bin}`,
    `PCP_BIN=${stub.dir}`,
    `ARCHIVE_DIR=${archive}`,
  ];
  for (const dir of [etc, primary.dataDir]) {
    for (const name of scripts) {
      copyFileSync(join(sampleDir, name), join(dir, name));
      scope.giveToOwner(join(dir, name));
    }
    writeFileSync(join(dir, "scripts.conf"), settings.map((line) => `${line}\n`).join(""));
    scope.giveToOwner(join(dir, "scripts.conf"));
  }
  const others = [await freePort(), await freePort()].map((port) => ({
    port,
    data: join(scope.makeDir(`node-${port}`), "it's data"),
  }));
  const nodes = [{ port: primary.port, data: primary.dataDir }, ...others];
  for (const { data } of others) {
    scope.defer(async () => {
      const stop = [
        join(primary.install.bin, "pg_ctl"),
        "-D",
        data,
        "-m",
        "immediate",
        "stop",
      ] as const;
      if (existsSync(join(data, "postmaster.pid"))) await runCommand(stop, { owner: scope.owner });
    });
  }
  return { scope, stubs: stub, primary, nodes, etc };
}

const script = ({ scope, etc }: Stage, name: string, args: readonly string[]) =>
  runCommand([join(etc, name), ...args], { owner: scope.owner, env: { HOME: scope.dir } });

/** Arguments in the order of failover_command, as pgpool fills them in. */
function failoverArgs({ nodes }: Stage, failed: number, newMain: number, oldPrimary: number) {
  const at = (node: number) => nodes[node] ?? { port: 0, data: "" };
  return [
    ...[String(failed), host, String(at(failed).port), at(failed).data],
    ...[String(newMain), host, "0", String(oldPrimary), String(at(newMain).port), at(newMain).data],
    ...[host, String(at(oldPrimary).port)],
  ];
}

async function ask(stage: Stage, node: number, sql: string): Promise<string | null> {
  const path = join(stage.scope.dir, `.s.PGSQL.${stage.nodes[node]?.port}`);
  const client = await RawClient.login({ path }, { user: superuser, database: "postgres" });
  try {
    const [row] = await client.rows(sql);
    return Object.values(row ?? {})[0] ?? null;
  } finally {
    client.destroy();
  }
}

async function recover({ primary, nodes }: Stage, node: number): Promise<void> {
  const to = nodes[node] ?? { port: 0, data: "" };
  const data = to.data.replaceAll("'", "''");
  const words = `'${host}', '${data}', '${primary.port}', ${node}, '${to.port}', '${host}'`;
  await primary.sql(`SELECT pgpool_recovery('recovery_1st_stage', ${words})`, "postgres");
  await primary.sql(`SELECT pgpool_remote_start('${host}', '${data}')`, "postgres");
}

const streaming =
  "SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'";
const slots = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";

scriptTest(
  "a cluster is built by online recovery, loses its primary, and its standby follows the new one",
  async () => {
    await using scope = new Scope();
    const stage = await setStage(scope);
    // as on a server that has followed others: no copy may take that over
    await stage.primary.sql("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    await stage.primary.sql("ALTER SYSTEM SET primary_slot_name = 'of_another_time'");
    await recover(stage, 1);
    await recover(stage, 2);
    expect(stage.stubs.calls()).toEqual(Array.from({ length: 4 }, () => `ssh postgres@${host}`));
    await eventually(
      () => ask(stage, 0, streaming),
      (names) => names === "server1,server2",
    );
    expect(await ask(stage, 0, slots)).toBe("pgpool_node1,pgpool_node2");
    await expect(recover(stage, 1)).rejects.toThrow("pgpool_recovery failed"); // it runs

    await stage.primary.sql("CREATE TABLE kept AS SELECT 1 AS n", "postgres");
    const lsn = await ask(stage, 0, "SELECT pg_current_wal_lsn()");
    for (const node of [1, 2]) {
      const caughtUp = `SELECT pg_last_wal_replay_lsn() >= '${lsn}'`;
      await eventually(
        () => ask(stage, node, caughtUp),
        (answer) => answer === "t",
      );
    }
    await stage.primary.kill();
    const failover = await script(stage, "failover.sh", failoverArgs(stage, 0, 1, 0));
    expect(failover).toMatchObject({ code: 0, stderr: "" });
    expect(failover.stdout).toContain("node 1 is the primary");
    expect(await ask(stage, 1, "SELECT pg_is_in_recovery()")).toBe("f");

    const follow = (node: number) =>
      script(stage, "follow_primary.sh", failoverArgs(stage, node, 1, 0).slice(0, 10));
    stage.stubs.calls();
    const dead = await follow(0);
    expect(dead.code).toBe(0);
    expect(dead.stdout).toContain("pcp_recovery_node -n 0");
    expect(stage.stubs.calls()).toEqual([`ssh postgres@${host}`]);

    const followed = await follow(2);
    expect(followed).toMatchObject({ code: 0 });
    expect(stage.stubs.calls().at(-1)).toBe(
      "pcp_attach_node -w -h localhost -p 9898 -U pgpool -n 2",
    );
    await eventually(
      () => ask(stage, 1, streaming),
      (names) => names === "server2",
    );
    expect(await ask(stage, 1, slots)).toContain("pgpool_node2");
    await ask(stage, 1, "CREATE TABLE later AS SELECT count(*) FROM kept");
    await eventually(() => ask(stage, 2, "SELECT 'later'::regclass"));

    // where pg_rewind fails it is to be copied anew
    writeFileSync(join(scope.dir, "no_rewind"), "");
    expect((await follow(2)).code).toBe(0);
    expect(stage.stubs.calls().at(-1)).toContain("pcp_recovery_node -w");
    rmSync(join(scope.dir, "no_rewind"));

    // a lost standby leaves no slot behind
    const pgCtl = join(stage.primary.install.bin, "pg_ctl");
    const stop = [pgCtl, "-D", stage.nodes[2]?.data ?? "", "-m", "fast", "stop"] as const;
    if (existsSync(join(stage.nodes[2]?.data ?? "", "postmaster.pid"))) {
      await mustRun(stop, { owner: scope.owner });
    }
    const lost = await script(stage, "failover.sh", failoverArgs(stage, 2, 1, 1));
    expect(lost).toMatchObject({ code: 0, stderr: "" });
    expect(await ask(stage, 1, slots)).toBeNull();
    expect(
      (
        await script(stage, "failover.sh", [
          "1",
          host,
          "1",
          "/d",
          "-1",
          "",
          "1",
          "1",
          "",
          "",
          "",
          "",
        ])
      ).stdout,
    ).toContain("no node is left");
  },
  180_000,
);

scriptTest("a promotion that fails is told, by words and by the exit code", async () => {
  await using scope = new Scope();
  const stage = await setStage(scope); // nobody has made node 1
  const failed = await script(stage, "failover.sh", failoverArgs(stage, 0, 1, 0));
  expect(failed.code).toBe(1);
  expect(failed.stdout).toContain("node 1 could not be promoted");
});

scriptTest("the second stage writes sequences down and waits for the archive", async () => {
  await using scope = new Scope();
  const stage = await setStage(scope);
  await stage.primary.sql(`CREATE DATABASE "odd ""name"`, "postgres");
  await stage.primary.sql(`CREATE SEQUENCE "a ""b"; SELECT nextval('"a ""b"')`, 'odd "name');
  const args = ["/data", host, "/data/1", String(stage.primary.port), "1", "5432", host];
  const done = await script(stage, "replication_mode_recovery_2nd_stage", args);
  expect(done).toMatchObject({ code: 0, stderr: "" });
  expect(existsSync(done.stdout.trim())).toBe(true);
  const log = await stage.primary.value(`SELECT log_cnt FROM "a ""b"`, 'odd "name');
  expect(log).toBe("0"); // as setval leaves it, where nextval has some values ahead
});

scriptTest(
  "escalation asks every other pgpool for the address, and serves whoever answers",
  async () => {
    await using scope = new Scope();
    const stub = stubs(scope);
    stub.put("ssh", `${stub.note("$*")}\nexit 255`);
    const dir = join(scope.dir, "escalation");
    mkdirSync(dir);
    copyFileSync(join(sampleDir, "escalation.sh"), join(dir, "escalation.sh"));
    const settings = [`PATH=${stub.dir}:$PATH`, `PGPOOL_HOSTS="a ${hostname()} b"`, "VIP=10.0.0.9"];
    writeFileSync(join(dir, "scripts.conf"), `${settings.join("\n")}\n`);
    expect(await runCommand([join(dir, "escalation.sh")])).toMatchObject({ code: 0, stdout: "" });
    const asked = stub.calls().filter((line) => line.includes("@"));
    expect(asked.map((line) => /@(\S+)/.exec(line)?.[1])).toEqual(["a", "b"]);
    expect(asked[0]).toContain("to 10.0.0.9/32");
  },
);

test("three_servers.conf says nothing that is not understood", () => {
  const text = readFileSync(join(sampleDir, "three_servers.conf"), "utf8");
  const files: Readonly<Record<string, string>> = { "/pgpool.conf": text, "/pgpool_node_id": "1" };
  const { config, messages } = loadConfig({
    file: "/pgpool.conf",
    readFile: (path) => files[path],
    osHostname: "server2",
  });
  expect(messages.filter(({ message }) => !message.includes("has no effect in this"))).toEqual([]);
  expect(config.backends.map(({ hostname: name }) => name)).toEqual([
    "server1",
    "server2",
    "server3",
  ]);
});

binaryTest("the container's entry point writes the files, and the server serves", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const prefix = scope.makeDir("pgpool");
  await mustRun([ourBinary()?.path ?? "", "install", "--prefix", prefix], { owner: scope.owner });
  const [port, pcpPort] = [await freePort(), await freePort()];
  const env = {
    PATH: `${prefix}/bin:/usr/bin:/bin`,
    PGPOOL_ETC: join(prefix, "etc"),
    PGPOOL_WORK_DIR: prefix,
    PGPOOL_RUN_DIR: prefix,
    PGPOOL_PARAMS_PORT: String(port),
    PGPOOL_PARAMS_PCP_PORT: String(pcpPort),
    PGPOOL_PARAMS_BACKEND_HOSTNAME0: postgres.host,
    PGPOOL_PARAMS_BACKEND_PORT0: String(postgres.port),
    PGPOOL_PARAMS_SR_CHECK_USER: superuser,
    PCP_PASSWORD: "secret",
  };
  const entry = join(sampleDir, "container_entrypoint");
  const wrong = await runCommand([entry, "true"], {
    owner: scope.owner,
    env: { ...env, PGPOOL_PARAMS_WORK_DIR: "it's" },
  });
  expect(wrong.code).not.toBe(0);
  expect(wrong.stderr).toContain("PGPOOL_PARAMS_WORK_DIR has an apostrophe");
  expect(existsSync(join(prefix, "etc/pgpool.conf"))).toBe(false);

  const argv = [entry, "pgpool", "-n"] as const;
  const logPath = join(scope.dir, "container.log");
  const server = scope.start({ name: "container", argv, env, owner: scope.owner, logPath });
  await server.untilReady(async () => {
    const client = await RawClient.login({ host, port }, { user: superuser, database: "test" });
    client.destroy();
    return true;
  });
  const etc = (name: string) => join(prefix, "etc", name);
  expect(statSync(etc("pgpool.conf")).mode & 0o777).toBe(0o600);
  expect(readFileSync(etc("pcp.conf"), "utf8")).toMatch(/^pgpool:[0-9a-f]{32}\n$/);
  expect(await server.stop("SIGINT")).toBe("exit 0");
});
