/** `pgpool` without -n: the process that was called ends, and the server lives on without it. */
import { expect } from "bun:test";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { parsePid } from "../../cmd/pid_file.ts";
import {
  eventually,
  isAlive,
  mustRun,
  Pgpool,
  Postgres,
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
