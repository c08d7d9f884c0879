/** `pgpool setup` and the scripts it leaves, run as a user would: by the compiled binary, no sources. */
import { expect } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import {
  everyPostgres,
  freePort,
  mustRun,
  ourBinary,
  type PostgresInstall,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";

const setupTest = await testNeeding("dist/pgpool");

/** The first of `count` free ports in a row. */
async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 50; tries++) {
    const first = await freePort();
    const taken = Array.from({ length: count }, (_, i) => occupy(first + i));
    const servers = await Promise.all(taken);
    for (const server of servers) server?.close();
    if (servers.every((server) => server !== undefined)) return first;
  }
  throw new Error(`no ${count} free ports in a row`);
}

function occupy(port: number): Promise<ReturnType<typeof createServer> | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(undefined));
    server.listen(port, () => resolve(server));
  });
}

function workDir(scope: Scope): string {
  const dir = join(scope.dir, "work");
  mkdirSync(dir);
  scope.giveToOwner(dir);
  return dir;
}

/** Runs `pgpool setup` there. PostgreSQL is the machine's own choice unless told. */
function setup(dir: string, args: readonly string[], install?: PostgresInstall) {
  const env = install === undefined ? {} : { PGBIN: install.bin };
  const binary = ourBinary()?.path ?? "";
  return runCommand([binary, "setup", ...args], { cwd: dir, env, deadlineMs: 120_000 });
}

async function rows(scope: Scope, port: number, sql: string) {
  const login = { user: scope.owner.name, database: "test" };
  const client = await RawClient.login({ host: "127.0.0.1", port }, login);
  try {
    return await client.rows(sql);
  } finally {
    client.destroy();
  }
}

/** Command lines that name the directory: its servers, and whatever they started. */
async function processesOf(dir: string): Promise<readonly string[]> {
  const all = await mustRun(["ps", "-eo", "args"]);
  return all.split("\n").filter((line) => line.includes(`${dir}/`));
}

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
      expect(made.stdout).toContain("making a standby, data2");
      expect(await processesOf(dir)).toEqual([]);
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
      expect(await processesOf(dir)).toEqual([]);
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
    expect(made.stderr).toMatch(/data1 did not start\nDETAIL: .*Address already in use/);
    expect(readdirSync(dir)).toEqual([]);
    expect(await processesOf(dir)).toEqual([]);
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
