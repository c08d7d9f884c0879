/**
 * The process as operators see it: `pgpool` without -n, whose caller goes on; stops, reloads, what a
 * second start meets, and a start after kill -9.
 */
import { expect } from "bun:test";
import {
  existsSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { parsePid } from "../../cmd/pid_file.ts";
import {
  eventually,
  isAlive,
  mustRun,
  Pgpool,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";

const daemonTest = await testNeeding("dist/pgpool", "postgres");

/** A configured pgpool that nobody has started, and its command line without -n. */
async function prepare(scope: Scope) {
  const postgres = await Postgres.create(scope);
  const pgpool = await Pgpool.create(scope, { backends: [postgres], startLater: true });
  const argv = pgpool.argv.filter((word) => word !== "-n") as [string, ...string[]];
  const pidFile = join(pgpool.dir, "pgpool.pid");
  scope.defer(async () => {
    if (existsSync(pidFile)) await runCommand([...argv, "-m", "i", "stop"]);
  });
  return { pgpool, argv, pidFile };
}

daemonTest(
  "it serves when the caller returns, belongs to no terminal, and stops when told",
  async () => {
    await using scope = new Scope();
    const { pgpool, argv, pidFile } = await prepare(scope);
    const started = await runCommand(argv);
    expect(started).toMatchObject({ code: 0, stdout: "" });

    const pid = parsePid(readFileSync(pidFile, "latin1")) ?? 0;
    expect(isAlive(pid)).toBe(true);
    await pgpool.untilServing();
    expect(readlinkSync(`/proc/${pid}/cwd`)).toBe("/");
    expect(readlinkSync(`/proc/${pid}/fd/2`)).toBe("/dev/null");
    expect((await mustRun(["ps", "-o", "sid=", "-p", String(pid)])).trim()).toBe(String(pid));

    const again = await runCommand(argv);
    expect(again).toMatchObject({
      code: 1,
      stderr: `ERROR: pid file found. is another pgpool(${pid}) is running?\n`,
    });
    await mustRun([...argv, "reload"]);

    const stopped = await runCommand([...argv, "-m", "fast", "stop"]);
    expect(stopped.code).toBe(0);
    expect(stopped.stderr).toMatch(/waiting for termination\.\.\.\n\.+done\.\n$/);
    await eventually(() => !isAlive(pid));
    expect(existsSync(pidFile)).toBe(false);
  },
  60_000,
);

daemonTest("what keeps it from starting is told to the caller", async () => {
  await using scope = new Scope();
  const { pgpool, argv, pidFile } = await prepare(scope);
  const squatter = createServer();
  await new Promise<void>((resolve) => squatter.listen(pgpool.port, "127.0.0.1", resolve));
  scope.defer(() => {
    squatter.close();
  });
  const refused = await runCommand(argv);
  expect(refused.code).toBe(3);
  expect(refused.stderr).toContain("FATAL:");
  expect(existsSync(pidFile)).toBe(false);

  pgpool.writeFiles({ num_init_children: "many" });
  const wrong = await runCommand(argv);
  expect(wrong.code).toBe(3);
  expect(wrong.stderr).toContain('invalid value for parameter "num_init_children": "many"');
});

/** Every file of the server and its own, with its mode. */
function modes(dir: string): Readonly<Record<string, string>> {
  const entries = readdirSync(dir).map((name) => {
    const { mode } = statSync(join(dir, name));
    return [name, (mode & 0o777).toString(8)] as const;
  });
  return Object.fromEntries(entries);
}

daemonTest("files have the modes and the group that are asked for", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  // root may give files to anybody, others to their own groups
  const group = process.getuid?.() === 0 ? scope.owner.gid : (process.getgid?.() ?? 0);
  const workDir = scope.makeDir("work");
  const pgpool = await Pgpool.create(scope, {
    backends: [postgres],
    config: {
      unix_socket_permissions: "0750",
      unix_socket_group: String(group),
      work_dir: workDir,
    },
  });
  await pgpool.untilServing();
  expect(modes(pgpool.dir)).toMatchObject({
    [`.s.PGSQL.${pgpool.port}`]: "750",
    "pgpool.pid": "600",
  });
  expect(statSync(pgpool.socketPath).gid).toBe(group);
  expect(readFileSync(join(pgpool.dir, "pgpool.pid"), "latin1")).toBe(`${pgpool.pid}\0`);
  expect(readFileSync(join(workDir, "pgpool_status"), "utf8")).toBe("up\n");
  expect(existsSync(join(pgpool.dir, "pgpool_status"))).toBe(false);
  expect(await pgpool.stop()).toBe("exit 0");

  pgpool.writeFiles({ unix_socket_group: "no such group" });
  const refused = await runCommand(pgpool.argv);
  expect(refused).toMatchObject({ code: 3 });
  expect(refused.stderr).toContain('FATAL:  unix_socket_group "no such group" does not exist');
});

daemonTest("-D forgets pgpool_status, and without it a node that was down stays so", async () => {
  await using scope = new Scope();
  const primary = await Postgres.create(scope);
  const standby = await primary.createStandby();
  const pgpool = await Pgpool.create(scope, { backends: [primary, standby], startLater: true });
  const status = join(pgpool.dir, "pgpool_status");
  const states = async () => (await pgpool.show("pool_nodes")).map(({ status: state }) => state);
  writeFileSync(status, "up\ndown\n");
  await pgpool.start();
  await pgpool.untilServing();
  expect(await states()).toEqual(["up", "down"]);
  await pgpool.stop();
  expect(pgpool.status()).toBe("up\ndown\n");

  const daemon = pgpool.argv.filter((word) => word !== "-n") as [string, ...string[]];
  await mustRun([...daemon, "-D", "-C"]);
  scope.defer(async () => {
    if (existsSync(join(pgpool.dir, "pgpool.pid")))
      await runCommand([...daemon, "-m", "i", "stop"]);
  });
  await pgpool.untilServing();
  await eventually(states, (now) => now.every((state) => state !== "down"));
  await mustRun([...daemon, "-m", "i", "stop"]);
});

daemonTest("after kill -9 it starts again, and nobody has to clean up", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const pgpool = await Pgpool.create(scope, { backends: [postgres] });
  await pgpool.untilServing();
  const client = await RawClient.login(
    { path: pgpool.socketPath },
    { user: "postgres", database: "test" },
  );
  const { pid } = pgpool;
  await pgpool.kill();
  client.destroy();
  expect(modes(pgpool.dir)).toMatchObject({
    [`.s.PGSQL.${pgpool.port}`]: expect.any(String),
    "pgpool.pid": "600",
  });
  await pgpool.start();
  await pgpool.untilServing();
  expect(pgpool.log()).toContain(
    "NOTICE: pid file found but it seems bogus. Trying to start pgpool anyway...\n",
  );
  expect(pgpool.pid).not.toBe(pid);
  const again = await RawClient.login(
    { path: pgpool.socketPath },
    { user: "postgres", database: "test" },
  );
  expect(await again.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  again.destroy();
  expect(await pgpool.stop()).toBe("exit 0");
  expect(existsSync(pgpool.socketPath)).toBe(false);
});

daemonTest("a start on a port in use fails at once and disturbs nobody", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const first = await Pgpool.create(scope, { backends: [postgres] });
  await first.untilServing();
  const workDir = scope.makeDir("second");
  const second = await Pgpool.create(scope, {
    backends: [{ host: "127.0.0.1", port: first.pcpPort }],
    config: { work_dir: first.dir, port: first.port, unix_socket_directories: workDir },
    startLater: true,
  });
  const refused = await runCommand([...second.argv, "-D"]);
  expect(refused.code).toBe(3);
  expect(refused.stderr).toContain(`FATAL:  failed to bind a socket: "127.0.0.1:${first.port}"`);
  expect(refused.stderr).toContain("Address already in use");
  expect(existsSync(join(second.dir, "pgpool.pid"))).toBe(false);
  expect(first.status()).toBe("up\n");

  // the same Unix socket, on another address
  second.writeFiles({ listen_addresses: "", unix_socket_directories: first.dir });
  const taken = await runCommand(second.argv);
  expect(taken.code).toBe(3);
  expect(taken.stderr).toContain(`failed to bind a socket: "${first.socketPath}"`);
  const client = await RawClient.login(
    { path: first.socketPath },
    { user: "postgres", database: "test" },
  );
  expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  client.destroy();
});

daemonTest("a smart stop waits, and a second one ends it", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const pgpool = await Pgpool.create(scope, { backends: [postgres] });
  await pgpool.untilServing();
  const client = await RawClient.login(pgpool.tcp, { user: "postgres", database: "test" });
  pgpool.signal("SIGTERM");
  await pgpool.logged(/shutting down by signal 15/);
  await eventually(() => !existsSync(pgpool.socketPath));
  expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  pgpool.signal("SIGTERM"); // as `pgpool stop` does every five seconds
  expect(await client.rows("SELECT 2 AS two")).toEqual([{ two: "2" }]);
  const stop = [...pgpool.argv, "-m", "fast", "stop"] as const;
  const stopped = await runCommand(stop);
  expect(stopped).toMatchObject({ code: 0 });
  const said = await client.closed();
  expect(said.map(({ type }) => type)).toEqual(["E"]);
  expect(await pgpool.stop()).toBe("exit 0");
  expect(existsSync(join(pgpool.dir, "pgpool.pid"))).toBe(false);
});

daemonTest("a server that hangs in a query does not keep an immediate stop", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const pgpool = await Pgpool.create(scope, { backends: [postgres] });
  await pgpool.untilServing();
  const client = await RawClient.login(pgpool.tcp, { user: "postgres", database: "test" });
  postgres.suspend();
  expect(await pgpool.stop("immediate")).toBe("exit 0");
  postgres.continue();
  client.destroy();
});

daemonTest("a reload changes what may change, and names what has to wait", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope);
  const pgpool = await Pgpool.create(scope, { backends: [postgres] });
  await pgpool.untilServing();
  const client = await RawClient.login(pgpool.tcp, { user: "postgres", database: "test" });
  pgpool.reload({ client_idle_limit: 77, num_init_children: 5, max_pool: 9 });
  await pgpool.logged(
    /LOG: {2}parameter "num_init_children" cannot be changed without restarting the server/,
  );
  const show = async (name: string) => await client.rows(`PGPOOL SHOW ${name}`);
  await eventually(
    () => show("client_idle_limit"),
    ([row]) => Object.values(row ?? {})[0] === "77s",
  );
  expect(await show("num_init_children")).toEqual([{ num_init_children: "32" }]);
  expect(pgpool.log()).not.toContain('parameter "port" cannot be changed');
  client.destroy();
});

daemonTest(
  "log files are made where their directory is missing, and begin anew on SIGUSR1",
  async () => {
    await using scope = new Scope();
    const postgres = await Postgres.create(scope);
    const pgpool = await Pgpool.create(scope, {
      backends: [postgres],
      config: {
        logging_collector: true,
        log_destination: "stderr",
        log_directory: "new/log",
        log_filename: "first.log",
        log_file_mode: "0640",
        log_disconnections: true,
      },
    });
    await pgpool.untilServing();
    const log = join(pgpool.dir, "new/log");
    expect(modes(log)).toEqual({ "first.log": "640" });
    expect(readFileSync(join(log, "first.log"), "utf8")).toContain("successfully started");
    expect(pgpool.log()).toContain("redirecting log output to logging collector process");

    // as logrotate does: moved away, then a signal
    rmSync(join(log, "first.log"));
    pgpool.signal("SIGUSR1");
    await eventually(() => existsSync(join(log, "first.log")));
    pgpool.signal("SIGUSR2");
    await pgpool.sql("SELECT 1");
    await eventually(() => readFileSync(join(log, "first.log"), "utf8").includes("disconnection"));

    // a directory that goes away comes back with the next file
    rmSync(log, { recursive: true });
    pgpool.signal("SIGUSR1");
    await eventually(() => existsSync(join(log, "first.log")));
    expect(await pgpool.stop()).toBe("exit 0");
  },
);

daemonTest(
  "a work_dir that is missing or full does not keep anybody from the servers",
  async () => {
    await using scope = new Scope();
    const postgres = await Postgres.create(scope);
    const pgpool = await Pgpool.create(scope, {
      backends: [postgres],
      config: { work_dir: join(scope.dir, "nowhere") },
    });
    await pgpool.untilServing();
    await pgpool.logged(/WARNING: {2}.*pgpool_status/);
    expect(await pgpool.stop()).toBe("exit 0");
  },
);
