import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { findUser } from "../../cmd/owner.ts";
import { sampleFiles } from "../../cmd/samples.ts";
import { readChoice } from "../../cmd/setup.ts";
import * as files from "../../cmd/setup_files.ts";
import { tableText } from "../../cmd/table.ts";
import { parseHba } from "../../core/auth/hba.ts";
import { loadConfig } from "../../core/config/load.ts";
import { eventually } from "../cluster/machine.ts";

const plan: files.SetupPlan = {
  dir: "/x/y",
  mode: "streaming_replication",
  user: "alice",
  port: 11000,
  pcpPort: 11001,
  postgresPorts: [11002, 11003, 11004],
  socketDirs: ["/tmp", "/var/run/postgresql"],
  pgpoolBin: "/opt/pgpool/bin",
  postgresBin: "/opt/pg/bin",
  useSlots: false,
  useRewind: false,
  debug: false,
  healthCheckTest: false,
  useSamples: false,
};

/** The generated pgpool.conf as pgpool reads it. */
function configOf(text: string) {
  const source = { file: "/x/y/etc/pgpool.conf", readFile: () => text, osHostname: "here" };
  return loadConfig(source);
}

describe("etc/", () => {
  test("pgpool.conf is the sample with settings appended that win", () => {
    const text = sampleFiles()["pgpool.conf.sample"] + files.pgpoolSettings(plan);
    const { config, messages } = configOf(text);
    expect(messages.filter((message) => message.message.includes("unrecognized"))).toEqual([]);
    expect(config).toMatchObject({
      backend_clustering_mode: "streaming_replication",
      port: 11000,
      pcp_port: 11001,
      log_line_prefix: "%m: %a pid %p: ",
      pid_file_name: "/x/y/run/pgpool.pid",
      work_dir: "/x/y/log",
      sr_check_user: "alice",
      log_per_node_statement: true,
    });
    expect(config.backends.map((backend) => [backend.hostname, backend.port])).toEqual([
      ["localhost", 11002],
      ["localhost", 11003],
      ["localhost", 11004],
    ]);
    expect(config.backends.map((backend) => backend.application_name)).toEqual([
      "server0",
      "server1",
      "server2",
    ]);
    expect(config.failover_command.split(" ").length).toBe(13);
  });

  test("upstream's tests count one backend_data_directory line for each node", () => {
    const lines = files.pgpoolSettings(plan).split("\n");
    expect(lines.filter((line) => line.includes("backend_data")).length).toBe(3);
  });

  test("raw mode has no failover_command and no application names", () => {
    const text = files.pgpoolSettings({ ...plan, mode: "raw" });
    expect(configOf(text).config.backend_clustering_mode).toBe("raw");
    expect(text).not.toMatch(/failover_command|application_name/);
  });

  test("logical mode names its primary, and its servers decode their WAL", () => {
    const logical = { ...plan, mode: "logical_replication" } as const;
    const { config } = configOf(files.pgpoolSettings(logical));
    expect(config.backend_clustering_mode).toBe("logical_replication");
    expect(config.backends.map(({ flag }) => flag.alwaysPrimary)).toEqual([true, false, false]);
    expect(config.failover_command).toBe("");
    expect(files.postgresSettings(logical, 1)).toContain("wal_level = logical\n");
  });

  test.each(["native_replication", "snapshot_isolation"] as const)(
    "%s has a second stage of recovery, and nobody is promoted",
    (mode) => {
      const replicated = { ...plan, mode };
      const text = files.pgpoolSettings(replicated);
      const { config } = configOf(text);
      expect(config).toMatchObject({
        backend_clustering_mode: mode,
        recovery_1st_stage_command: "basebackup.sh",
        recovery_2nd_stage_command: "pgpool_recovery_pitr",
        failover_command: "",
      });
      expect(files.postgresSettings(replicated, 1).includes("'repeatable read'")).toBe(
        mode === "snapshot_isolation",
      );
      const samples = files.pgpoolSettings({ ...replicated, useSamples: true });
      expect(configOf(samples).config).toMatchObject({
        recovery_1st_stage_command: "replication_mode_recovery_1st_stage",
        recovery_2nd_stage_command: "replication_mode_recovery_2nd_stage",
      });
    },
  );

  test("the sample scripts get settings for this machine", () => {
    const samples = { ...plan, useSamples: true };
    expect(files.pgpoolSettings(samples)).toContain(
      "recovery_1st_stage_command = 'recovery_1st_stage'\n",
    );
    expect(files.scriptSettings(samples)).toContain("SSH=/x/y/etc/ssh_here\n");
  });

  test("pool_hba.conf lets the two test users in by password, everybody else local without", () => {
    const text = files.poolHba(sampleFiles()["pool_hba.conf.sample"]);
    const hba = parseHba(text, {
      path: "pool_hba.conf",
      readFile: () => ({ reason: "nothing is included" }),
      tlsEnabled: false,
    });
    expect(hba.messages).toEqual([]);
    const methods = hba.ok ? hba.rules.map((rule) => `${rule.type} ${rule.method}`) : [];
    expect(methods).toEqual([
      "local scram-sha-256",
      "local md5",
      "local trust",
      ...["host scram-sha-256", "host md5", "host scram-sha-256", "host md5"],
      ...["host trust", "host trust"],
    ]);
  });

  test("pcp.conf, pool_passwd and pcppass name the user, whose password is the same word", () => {
    const postgres = { ...plan, user: "postgres" };
    expect(files.pcpConf(postgres)).toBe("postgres:e8a48653851e28c69d0506508fb27fc5\n");
    expect(files.poolPasswd(postgres)).toBe("postgres:md53175bce1d3201d16594cebf9d7eb3f9d\n");
    expect(files.pcpPass(postgres)).toBe("localhost:11001:postgres:postgres\n");
  });
});

describe("scripts", () => {
  test("startall has one line with pgpool.conf, which stands alone and says `pgpool -D`", () => {
    for (const debug of [false, true]) {
      const lines = files.startAll({ ...plan, debug }).split("\n");
      const starting = lines.filter((line) => line.includes("pgpool.conf"));
      expect(starting).toEqual([
        `/opt/pgpool/bin/pgpool -D -n ${debug ? "-d " : ""}-f /x/y/etc/pgpool.conf -F /x/y/etc/pcp.conf -a /x/y/etc/pool_hba.conf 2>&1 | cat > /x/y/log/pgpool.log 2>&1 &`,
      ]);
    }
  });

  test("without the lines that contain `data`, startall still starts pgpool and only that", () => {
    const rest = files
      .startAll(plan)
      .split("\n")
      .filter((line) => !/data/.test(line));
    expect(rest.join("\n")).toContain("pgpool -D");
    expect(rest.join("\n")).not.toContain("pg_ctl");
  });

  test("shutdownall waits for the pid file to vanish", () => {
    expect(files.shutdownAll(plan)).toContain(
      "/opt/pgpool/bin/pgpool -f /x/y/etc/pgpool.conf -m f stop && while [ -f /x/y/run/pgpool.pid ]; do sleep 1; done\n",
    );
  });

  const scripts = {
    startAll: files.startAll(plan),
    shutdownAll: files.shutdownAll(plan),
    reload: files.pgpoolReload(plan),
    failover: files.failoverScript(plan),
    follow: files.followPrimaryScript({ ...plan, useSlots: true, useRewind: true }),
    backup: files.baseBackupScript({ ...plan, useSlots: true }),
    copy: files.baseBackupScript({ ...plan, mode: "native_replication" }),
    remoteStart: files.remoteStartScript(plan),
    sshHere: files.sshHere(),
  };
  test.each(Object.entries(scripts))("%s is a script that the shell can read", (_, text) => {
    expect(text).toStartWith("#! /bin/sh\n");
    const checked = Bun.spawnSync(["sh", "-n"], { stdin: Buffer.from(text) });
    expect([checked.exitCode, checked.stderr.toString()]).toEqual([0, ""]);
  });

  test("a killed server whom nobody collects is no obstacle to its successor", async () => {
    const dir = mkdtempSync(join(tmpdir(), "pgpool-"));
    // The child of what becomes `sleep`, which waits for no child: once it is that, the child ends,
    // and is a zombie for as long as the parent lives.
    const child = "until grep -qs ^sleep /proc/$PPID/comm; do :; done";
    const become = `sh -c '${child}' & echo $!; exec sleep 60`;
    const parent = Bun.spawn(["sh", "-c", become], { stdout: "pipe" });
    try {
      const { value } = await parent.stdout.getReader().read();
      const killed = Buffer.from(value ?? []).toString();
      const status = () => readFileSync(`/proc/${killed.trim()}/status`, "latin1");
      await eventually(() => status().includes("Z (zombie)"));

      const bin = join(dir, "bin");
      for (const each of ["bin", "log", "data0"]) mkdirSync(join(dir, each));
      const [own, foreign] = [11002, 11003].map((port) => join(dir, `.s.PGSQL.${port}.lock`));
      writeFileSync(join(dir, "data0", "postmaster.pid"), killed);
      writeFileSync(own ?? "", killed);
      writeFileSync(foreign ?? "", killed);
      writeFileSync(join(bin, "pg_ctl"), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
      writeFileSync(join(bin, "pg_basebackup"), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
      const user = process.getuid?.() === 0 ? "nobody" : userInfo().username;
      const here = { ...plan, dir, user, postgresBin: bin, socketDirs: [dir] };
      if (user === "nobody") Bun.spawnSync(["chown", "-R", "nobody", dir]);

      const script = join(dir, "basebackup.sh");
      writeFileSync(script, files.baseBackupScript(here), { mode: 0o755 });
      const args = ["/main", "localhost", join(dir, "data0"), "11003", "0", "11002"];
      Bun.spawnSync([script, ...args]); // it ends where it would copy
      expect(existsSync(own ?? "")).toBe(false);
      expect(existsSync(foreign ?? "")).toBe(true);
      expect(existsSync(join(dir, "data0"))).toBe(false);
    } finally {
      parent.kill("SIGKILL");
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test("the ports are where scripts look for them", () => {
    expect(files.readmePort(plan)).toBe(
      "#1 port is 11002\n#2 port is 11003\n#3 port is 11004\npgpool port is 11000\npcp port is 11001\n",
    );
    expect(files.bashrcPorts(plan)).toBe(
      "export PGPOOL_PORT=11000\nexport PCP_PORT=11001\nexport PCPPASSFILE=/x/y/pcppass\n",
    );
  });
});

describe("readChoice()", () => {
  test("defaults are pgpool_setup's", () => {
    expect(readChoice({}, {})).toEqual({
      mode: "streaming_replication",
      port: 11000,
      nodeCount: 2,
      postgresPort: 11002,
      socketDirs: ["/tmp", "/var/run/postgresql"],
      useSlots: false,
      useRewind: false,
      debug: false,
      healthCheckTest: false,
      useSamples: false,
    });
  });

  test("the environment changes them, and the command line wins", () => {
    const env = {
      ...{ BASEPORT: "12000", NUMCLUSTERS: "4", PGSOCKET_DIR: "/s" },
      ...{ ENABLE_TEST: "true", TEST_SAMPLES: "true" },
    };
    expect(readChoice({ nodes: "3", "pg-port": "13000" }, env)).toMatchObject({
      port: 12000,
      nodeCount: 3,
      postgresPort: 13000,
      socketDirs: ["/s"],
      healthCheckTest: true,
      useSamples: true,
    });
  });

  test.each<[Parameters<typeof readChoice>[0], string]>([
    [{ mode: "q" }, 'unknown mode "q"'],
    [{ nodes: "0" }, "the number of clusters must be between 1 and 128"],
    [{ nodes: "x" }, "the number of clusters must be between 1 and 128"],
    [{ port: "70000" }, '"70000" is no port'],
  ])("%p is refused", (values, message) => {
    expect(() => readChoice(values, {})).toThrow(message);
  });
});

test.each([
  ["/tmp/a-b_c.1/x", true],
  ["/tmp/a b", false],
  ["/tmp/it's", false],
  ["/tmp/$x", false],
])("a path %p is plain: %p", (path, plain) => {
  expect(files.isPlainPath(path)).toBe(plain);
});

test("findUser() reads /etc/passwd", () => {
  const text =
    "root:x:0:0::/root:/bin/sh\npostgresx:x:9:9::/:\npostgres:x:101:102:,,,:/v:/bin/sh\n";
  expect(findUser(text, "postgres")).toEqual({ name: "postgres", uid: 101, gid: 102 });
  expect(findUser(text, "nobody")).toBeUndefined();
});

test("tableText() looks like psql's tables", () => {
  const table = {
    columns: ["id", "name"],
    rows: [
      ["0", "one"],
      ["10", null],
    ],
  };
  expect(tableText(table)).toBe(" id | name\n----+------\n 0  | one\n 10 |");
});
