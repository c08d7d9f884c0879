/**
 * Upstream's own set-up script, as Debian's pgpool2 ships it, with our binary in the place of its own:
 * it builds a cluster by online recovery, and the scripts that it leaves serve a failover. Only ssh is
 * a stub, which runs the command here.
 */
import { expect } from "bun:test";
import { appendFileSync, existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  eventually,
  findPostgres,
  findProgram,
  freePorts,
  mustRun,
  ourBinary,
  RawClient,
  runCommand,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";

const setupTest = await testNeeding(
  "dist/pgpool",
  "pgpool2",
  "postgres (system)",
  "psql",
  "postgresql-15-pgpool2",
);

const sshStub = `#!/bin/sh
while [ "\${1#-}" != "$1" ]; do shift; done
shift
exec sh -c "$*"
`;

setupTest(
  "Debian's pgpool_setup builds, starts, fails over and stops a cluster of ours",
  async () => {
    await using scope = new Scope();
    const { owner } = scope;
    const [prefix, dir, stubs] = ["prefix", "work", "stubs"].map((name) => scope.makeDir(name));
    await mustRun([ourBinary()?.path ?? "", "install", "--prefix", prefix ?? ""], { owner });
    writeFileSync(join(stubs ?? "", "ssh"), sshStub, { mode: 0o755 });
    const bin = (await findPostgres("system"))?.bin ?? "";
    const port = await freePorts(5);
    const env = {
      HOME: scope.makeDir("home"),
      USER: owner.name,
      LOGNAME: owner.name,
      PATH: `${stubs}:/usr/bin:/bin:/usr/sbin:/sbin`,
      PGPOOL_INSTALL_DIR: prefix ?? "",
      PGPOOLDIR: join(prefix ?? "", "etc"),
      PGBIN: bin,
      PGLIB: join(bin, "../lib"),
      PGSOCKET_DIR: scope.makeDir("sockets"),
    };
    const run = (...argv: [string, ...string[]]) =>
      runCommand(argv, { cwd: dir ?? "", env, owner, deadlineMs: 150_000 });
    scope.defer(async () => {
      if (existsSync(join(dir ?? "", "shutdownall"))) await run("bash", "./shutdownall");
    });

    const script = findProgram("pgpool_setup") ?? "";
    const ports = ["-p", String(port), "-pg", String(port + 2)];
    const made = await run("bash", script, "-m", "s", "-n", "3", ...ports);
    expect(made.code).toBe(0);
    expect(made.stdout.match(/pcp_recovery_node -- Command Successful/g)).toHaveLength(2);
    expect(made.stdout).toContain("pgpool-II setting for streaming replication mode is done.");

    // its one second is little for servers that share a busy machine
    const patience = [0, 1, 2].map((id) => `connect_timeout${id} = 10000\n`).join("");
    appendFileSync(join(dir ?? "", "etc/pgpool.conf"), patience);

    // its servers keep the descriptors that they are started with
    const started = await run("bash", "-c", "./startall > startall.log 2>&1");
    expect(started.code).toBe(0);
    const ask = async (sql: string) => {
      const login = { user: owner.name, database: "test" };
      const client = await RawClient.login({ host: "127.0.0.1", port }, login);
      try {
        return await client.rows(sql);
      } finally {
        client.destroy();
      }
    };
    const nodes = async () =>
      (await ask("SHOW pool_nodes")).map(({ status: state, role }) => `${state} ${role}`).join();
    await eventually(nodes, (seen) => seen === "up primary,up standby,up standby", {
      deadlineMs: 30_000,
      what: "three nodes",
    });
    await ask("CREATE TABLE kept AS SELECT generate_series(1, 10) AS n");

    await mustRun(
      [join(bin, "pg_ctl"), "-D", join(dir ?? "", "data0"), "-m", "immediate", "stop"],
      {
        owner,
      },
    );
    await eventually(nodes, (seen) => seen === "down standby,up primary,up standby", {
      deadlineMs: 60_000,
      what: "the failover, and the other standby that follows",
    });
    await ask("INSERT INTO kept VALUES (11)");
    await eventually(
      async () => await ask("/*FORCE LOAD BALANCE*/ SELECT count(*) AS n FROM kept"),
      ([row]) => Object.values(row ?? {})[0] === "11",
    );

    expect((await run("bash", "./shutdownall")).code).toBe(0);
    expect(existsSync(join(dir ?? "", "run/pgpool.pid"))).toBe(false);
  },
  240_000,
);
