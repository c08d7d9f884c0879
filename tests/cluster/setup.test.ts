/** `pgpool setup` and the scripts it leaves, run as a user would: by the compiled binary, no sources. */
import { expect } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  eventually,
  everyPostgres,
  findPostgres,
  freePorts,
  mustRun,
  occupy,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";
import { rows, setup, workDir } from "./setup_stage.ts";

const setupTest = await testNeeding("dist/pgpool");
const systemTest = await testNeeding("dist/pgpool", "postgres (system)", "psql");

/** Command lines that name the directory: its servers, and whatever they started. */
async function processesOf(dir: string): Promise<readonly string[]> {
  const all = await mustRun(["ps", "-eo", "args"]);
  return all.split("\n").filter((line) => line.includes(`${dir}/`));
}

/** A server removes its pid file, for which whoever stops it waits, a moment before it is gone. */
const untilNoneLeft = (dir: string) =>
  eventually(
    () => processesOf(dir),
    ({ length }) => length === 0,
    { what: "all to be gone" },
  );

for (const install of await everyPostgres()) {
  setupTest(
    `streaming mode leaves a cluster that startall and shutdownall serve, with PostgreSQL ${install.major}`,
    async () => {
      await using scope = new Scope();
      const dir = workDir(scope);
      const port = await freePorts(5);
      scope.defer(() => runCommand(["sh", join(dir, "shutdownall")]).then(() => undefined));

      const made = await setup(dir, ["-n", "3", "-p", String(port), "-s"], install);
      expect(made).toMatchObject({ code: 0, stderr: "" });
      const how = install.kind === "system" ? ", by online recovery" : "";
      expect(made.stdout).toContain(`making a standby, data2${how}`);
      await untilNoneLeft(dir);
      const files = ["README.port", "bashrc.ports", "data0", "data2", "etc", "log", "pcppass"];
      expect(readdirSync(dir)).toEqual(
        expect.arrayContaining([...files, "pgpool_reload", "run", "shutdownall", "startall"]),
      );
      expect(statSync(join(dir, "pcppass")).mode & 0o777).toBe(0o600);

      // from elsewhere, with an environment that points elsewhere
      const env = { PGPORT: "1", PGDATA: "/nowhere" };
      await mustRun(["sh", join(dir, "startall")], { cwd: "/", env });
      const nodes = await rows(scope, port, "SHOW pool_nodes");
      expect(nodes.map(({ port: at, role }) => [Number(at) - port, role])).toEqual([
        [2, "primary"],
        [3, "standby"],
        [4, "standby"],
      ]);
      await rows(scope, port, "CREATE TABLE written (n int)");
      const slots = await rows(scope, port + 2, "SELECT slot_name FROM pg_replication_slots");
      expect(slots.map(({ slot_name: name }) => name).sort()).toEqual(["server1", "server2"]);
      expect(await mustRun([join(dir, "pgpool_reload")], { cwd: "/" })).toBe("");

      await mustRun([join(dir, "shutdownall")], { cwd: "/" });
      expect(existsSync(join(dir, "run/pgpool.pid"))).toBe(false);
      await untilNoneLeft(dir);
    },
    120_000,
  );
}

setupTest(
  "raw mode makes clusters that know nothing of each other; --no-stop leaves all running",
  async () => {
    await using scope = new Scope();
    const dir = workDir(scope);
    const [port, postgresPort] = [await freePorts(2), await freePorts(2)];
    scope.defer(() => runCommand(["sh", join(dir, "shutdownall")]).then(() => undefined));
    const args = ["-m", "n", "-p", String(port), "-pg", String(postgresPort), "--no-stop"];
    expect(await setup(dir, args)).toMatchObject({ code: 0, stderr: "" });
    for (const of of [port, postgresPort, postgresPort + 1]) {
      expect(await rows(scope, of, "SELECT current_user AS me")).toEqual([
        { me: scope.owner.name },
      ]);
    }
    const sql = "SELECT count(*) AS n FROM pg_stat_replication";
    expect(await rows(scope, postgresPort, sql)).toEqual([{ n: "0" }]);
  },
  120_000,
);

setupTest(
  "logical mode makes subscribers of the first cluster, and writes go to it alone",
  async () => {
    await using scope = new Scope();
    const dir = workDir(scope);
    const port = await freePorts(4);
    scope.defer(() => runCommand(["sh", join(dir, "shutdownall")]).then(() => undefined));
    const made = await setup(dir, ["-m", "l", "-p", String(port), "--no-stop"]);
    expect(made).toMatchObject({ code: 0, stderr: "" });
    const nodes = await rows(scope, port, "SHOW pool_nodes");
    expect(nodes.map(({ role }) => role)).toEqual(["primary", "standby"]);
    for (const of of [port + 2, port + 3])
      await rows(scope, of, "CREATE TABLE t (n int PRIMARY KEY)");
    await rows(scope, port + 3, "ALTER SUBSCRIPTION pgpool_test_1 REFRESH PUBLICATION");
    await rows(scope, port, "INSERT INTO t SELECT generate_series(1, 100)");
    await eventually(
      () => rows(scope, port + 3, "SELECT count(*) AS n FROM t"),
      ([row]) => Object.values(row ?? {})[0] === "100",
    );
  },
  120_000,
);

systemTest(
  "-c installs the sample scripts, by which a standby can be made anew",
  async () => {
    await using scope = new Scope();
    const dir = workDir(scope);
    const port = await freePorts(4);
    scope.defer(() => runCommand(["sh", join(dir, "shutdownall")]).then(() => undefined));
    const made = await setup(dir, ["-c", "-r", "-p", String(port), "--no-stop"]);
    expect(made).toMatchObject({ code: 0, stderr: "" });
    const pgCtl = join((await findPostgres("system"))?.bin ?? "", "pg_ctl");
    const data = join(dir, "data1");
    await mustRun([pgCtl, "-D", data, "-m", "fast", "stop"], { owner: scope.owner });
    const words = `'localhost', '${data}', '${port + 2}', 1, '${port + 3}', 'localhost'`;
    const ask = (sql: string) => rows(scope, port + 2, sql, "template1");
    await ask(`SELECT pgpool_recovery('recovery_1st_stage', ${words})`);
    await ask(`SELECT pgpool_remote_start('localhost', '${data}')`);
    expect(await rows(scope, port + 3, "SELECT pg_is_in_recovery() AS standby")).toEqual([
      { standby: "t" },
    ]);
    await eventually(
      () => ask("SELECT application_name AS name FROM pg_stat_replication"),
      (found) => found.some(({ name }) => name === "server1"),
    );
  },
  120_000,
);

setupTest(
  "a failure is told, and leaves the directory empty and nothing running",
  async () => {
    await using scope = new Scope();
    const dir = workDir(scope);
    const port = await freePorts(4);
    const squatter = await occupy(port + 3);
    scope.defer(() => {
      squatter?.close();
    });
    const made = await setup(dir, ["-n", "2", "-p", String(port)]);
    expect(made.code).toBe(1);
    expect(made.stderr).toMatch(
      /data1 (could not be recovered|did not start)\nDETAIL: .*Address already in use/,
    );
    expect(readdirSync(dir)).toEqual([]);
    await untilNoneLeft(dir);
    const log = /see (\S+)/.exec(made.stderr)?.[1] ?? "";
    expect(readFileSync(log, "utf8")).toContain("Address already in use");
    await mustRun(["rm", log]);
  },
  120_000,
);

setupTest("a directory that is not empty is refused and left as it was", async () => {
  await using scope = new Scope();
  const dir = workDir(scope);
  writeFileSync(join(dir, "mine"), "mine");
  expect(await setup(dir, [])).toMatchObject({
    code: 1,
    stderr:
      "pgpool setup: Current directory is not empty. Please remove files and directories then try again.\n",
  });
  expect(readdirSync(dir)).toEqual(["mine"]);
});

setupTest("whatever is not understood shows the usage on stdout, exit code 1", async () => {
  const usage = /Usage:\n {2}pgpool setup /;
  for (const args of [["--help"], ["-o"], ["word"]]) {
    const { code, stdout } = await setup("/", args);
    expect(code).toBe(1);
    expect(stdout).toMatch(usage);
  }
});
