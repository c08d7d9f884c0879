/** `watchdog_setup` and the scripts it leaves, run as a user would: three pgpools before one cluster. */
import { expect } from "bun:test";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import {
  eventually,
  freePorts,
  mustRun,
  ourBinary,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "./harness.ts";

const setupTest = await testNeeding("dist/pgpool", "postgres");

setupTest(
  "its startall makes three pgpools agree, and its shutdownall leaves nothing running",
  async () => {
    await using scope = new Scope();
    const dir = scope.makeDir("work");
    const port = await freePorts(13);
    const binary = ourBinary()?.path ?? "";
    scope.defer(() => runCommand(["sh", join(dir, "shutdownall")]).then(() => undefined));
    const ports = ["-wp", String(port), "-pg", String(port + 12)];
    const made = await runCommand(
      [binary, "watchdog", "setup", ...ports, "-n", "1", "-m", "s", "-vip"],
      { cwd: dir, deadlineMs: 120_000 },
    );
    expect(made).toMatchObject({ code: 0, stderr: "" });
    expect(made.stdout).toContain("============= setting up pgpool 2 =============");
    for (const id of [1, 2]) {
      expect(readlinkSync(join(dir, `pgpool${id}/data0`))).toBe("../pgpool0/data0");
      expect(readFileSync(join(dir, `pgpool${id}/etc/pgpool_node_id`), "utf8")).toBe(`${id}\n`);
      for (const script of ["startall", "shutdownall"]) {
        expect(readFileSync(join(dir, `pgpool${id}`, script), "utf8")).not.toContain("pg_ctl");
      }
    }

    // from elsewhere
    await mustRun(["sh", join(dir, "startall")], { cwd: "/", deadlineMs: 150_000 });
    const config = join(dir, "pgpool2/etc/pgpool.conf");
    const states = async () => {
      const said = await mustRun([binary, "watchdog", "info", "--json", "-f", config]);
      const { nodes } = JSON.parse(said) as { nodes: { id: number; state_name: string }[] };
      return nodes.sort((a, b) => a.id - b.id).map(({ state_name: state }) => state);
    };
    await eventually(states, (seen) => seen.join() === "LEADER,STANDBY,STANDBY", {
      deadlineMs: 60_000,
      what: "the three to agree",
    });
    for (const offset of [0, 4, 8]) {
      const target = { host: "127.0.0.1", port: port + offset };
      const login = { user: scope.owner.name, database: "test" };
      const client = await RawClient.login(target, login);
      expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      client.destroy();
    }

    await mustRun(["sh", join(dir, "shutdownall")], { cwd: "/", deadlineMs: 60_000 });
    for (const id of [0, 1, 2]) {
      expect(existsSync(join(dir, `pgpool${id}/run/pgpool.pid`))).toBe(false);
    }
    const processes = await mustRun(["ps", "-eo", "args"]);
    expect(processes.split("\n").filter((line) => line.includes(`${dir}/`))).toEqual([]);
  },
  240_000,
);

setupTest("one pgpool is no cluster, and a directory in use is left alone", async () => {
  const setup = (cwd: string, ...args: readonly string[]) =>
    runCommand([ourBinary()?.path ?? "", "watchdog", "setup", ...args], { cwd });
  expect(await setup("/", "-wn", "1")).toMatchObject({
    code: 1,
    stdout: "number of Pgpool-II nodes must be greater than 1\n",
  });
  expect(await setup("/")).toMatchObject({
    code: 1,
    stderr:
      "pgpool watchdog setup: Current directory is not empty. Please remove files and directories then try again.\n",
  });
  const usage = await setup("/", "--help");
  expect([usage.code, usage.stdout.includes("Usage:\n  pgpool watchdog setup ")]).toEqual([
    1,
    true,
  ]);
});
