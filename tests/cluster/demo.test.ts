/** `npm run demo` as a newcomer runs it: build, cluster, tour, and nothing left behind. */
import { expect } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { findPostgres, mustRun, repositoryRoot, runCommand, testNeeding } from "./harness.ts";

const anyTest = await testNeeding("postgres");
const systemTest = await testNeeding("postgres (system)");
const embeddedTest = await testNeeding("postgres (embedded)");
const demoTest = (title: string, body: () => Promise<void>) => anyTest(title, body, 120_000);

const demo = [process.execPath, join(repositoryRoot, "cmd/demo.ts")] as const;

/** The directory it worked in, by what it said. */
const directoryOf = (output: string): string => / and a pgpool, in (\S+)\n/.exec(output)?.[1] ?? "";

async function expectNothingLeft(directory: string): Promise<void> {
  expect(directory).toContain("pgpool-demo-");
  expect(existsSync(directory)).toBe(false);
  expect(await mustRun(["ps", "-eo", "args"])).not.toContain(directory);
}

demoTest("--check shows the tour, exits 0 and leaves nothing", async () => {
  const { code, stdout, stderr } = await runCommand([...demo, "--check"], { deadlineMs: 100_000 });
  if (code !== 0) throw new Error(`exit code ${code}\n${stdout.slice(-3000)}\n${stderr}`);
  expect(stderr).not.toContain("not as it should be");
  expect(stdout).toContain("10 reads, each in a new session");
  expect(stdout).toMatch(/went to port \d+: node 0 \(primary\)/);
  expect(stdout).toContain("and all 3 nodes have it");
  expect(stdout).toContain("All is as it should be.");
  await expectNothingLeft(directoryOf(stdout));
});

systemTest(
  "--mode native: what createdb and pgbench make through pgpool is the same on every server",
  async () => {
    const words = ["--mode", "native", "--check"];
    const { code, stdout, stderr } = await runCommand([...demo, ...words], { deadlineMs: 150_000 });
    if (code !== 0) throw new Error(`exit code ${code}\n${stdout.slice(-3000)}\n${stderr}`);
    expect(stderr).not.toContain("not as it should be");
    expect(stdout).toMatch(/went to every node; the answer is that of port \d+: node 0 \(main\)/);
    expect(stdout).toMatch(/pgbench_accounts +100000 rows, sum -?\d+ on all 3/);
    await expectNothingLeft(directoryOf(stdout));
  },
  180_000,
);

systemTest(
  "--mode logical: rows reach every server by publication and subscription",
  async () => {
    const words = ["--mode", "logical", "--check"];
    const { code, stdout } = await runCommand([...demo, ...words], { deadlineMs: 100_000 });
    expect(code).toBe(0);
    expect(stdout).toMatch(/went to port \d+: node 0 \(primary\)\n {2}and all 3 nodes have it/);
    await expectNothingLeft(directoryOf(stdout));
  },
  120_000,
);

demoTest("without --check it stays, tells how to connect, and Ctrl-C takes all down", async () => {
  let seen = "";
  const { code, stdout } = await runCommand([...demo], {
    deadlineMs: 100_000,
    onStart: (child) => {
      child.stdout?.on("data", (chunk: Buffer) => {
        const stayed = seen.includes("Ctrl-C stops everything");
        seen += chunk.toString();
        if (!stayed && seen.includes("Ctrl-C stops everything")) child.kill("SIGINT");
      });
    },
  });
  expect(code).toBe(0);
  expect(stdout).toMatch(/psql -h localhost -p \d+ -U \S+ test\n/);
  await expectNothingLeft(directoryOf(stdout));
});

demoTest(
  "--watchdog --check has a client go on writing when the leader of three dies",
  async () => {
    const { code, stdout, stderr } = await runCommand([...demo, "--watchdog", "--check"], {
      deadlineMs: 115_000,
    });
    if (code !== 0) throw new Error(`exit code ${code}\n${stdout.slice(-3000)}\n${stderr}`);
    expect(stderr).not.toContain("not as it should be");
    expect(stdout).toMatch(/kill -9 \d+: the leader, pgpool \d, is gone/);
    expect(stdout).toMatch(/^ {2}\d+\.\d\d s {2}the client has connected again, and writes$/m);
    expect(stdout).toMatch(
      /of \d+ acknowledged writes 0 are missing, 0 are there twice; [1-9]\d* session/,
    );
    expect(stdout).toContain("All is as it should be.");
    const directory = / and 3 pgpools, in (\S+)\n/.exec(stdout)?.[1] ?? "";
    await expectNothingLeft(directory);
  },
);

/** What every failover must show, whatever PostgreSQL it is. */
function expectHealed(stdout: string): void {
  const [before = "", after = ""] = stdout.split(/^kill -9 \d+: the primary is gone$/m);
  expect(before).toMatch(/ 0 .*\| up +\|.*\| primary /);
  expect(after).toMatch(/\d s {2}pgpool promotes node [12], which has received most/);
  expect(after).toMatch(/\d s {2}the first write is accepted, by node [12]/);
  expect(after).toMatch(/ 0 .*\| down +\|.*\| standby /);
  const counts = [
    ...after.matchAll(/of (\d+) acknowledged writes 0 are missing, 0 are there twice/g),
  ];
  expect(counts.map(([, count]) => Number(count) >= 400)).toEqual([true, true]);
  expect(after).toMatch(/writer: \d+ writes? failed, and it kept its session/);
  expect(after).not.toContain("read-only"); // a write waits for the new primary
  expect(after).toMatch(/reader: \d+ reads, 0 failed/);
  expect(after).toContain("All is as it should be.");
}

systemTest(
  "--failover --check: the cluster heals, nothing acknowledged is lost, the old primary comes back",
  async () => {
    const { code, stdout, stderr } = await runCommand([...demo, "--failover", "--check"], {
      deadlineMs: 100_000,
    });
    if (code !== 0) throw new Error(`exit code ${code}\n${stdout.slice(-3000)}\n${stderr}`);
    expect(stderr).not.toContain("not as it should be");
    expectHealed(stdout);
    expect(stdout.split("Bringing the old primary back")[1]).toMatch(/ 0 .*\| up +\|.*\| standby /);
    expect(stdout).not.toContain("\x1b["); // no terminal, no colours
    await expectNothingLeft(directoryOf(stdout));
  },
  120_000,
);

embeddedTest(
  "--failover --check with a PostgreSQL that has no pg_basebackup says why the old primary stays down",
  async () => {
    const embedded = await findPostgres("embedded");
    const { code, stdout } = await runCommand([...demo, "--failover", "--check"], {
      env: { PGBIN: embedded?.bin ?? "" },
      deadlineMs: 100_000,
    });
    expect(code).toBe(0);
    expectHealed(stdout);
    expect(stdout).toContain(
      "That needs pg_rewind or pg_basebackup, and this PostgreSQL has neither",
    );
    await expectNothingLeft(directoryOf(stdout));
  },
  120_000,
);

demoTest("Ctrl-C in the middle of a failover takes all down", async () => {
  let seen = "";
  const { code, stdout } = await runCommand([...demo, "--failover"], {
    deadlineMs: 100_000,
    onStart: (child) => {
      child.stdout?.on("data", (chunk: Buffer) => {
        const killed = seen.includes("the primary is gone");
        seen += chunk.toString();
        if (!killed && seen.includes("the primary is gone")) child.kill("SIGINT");
      });
    },
  });
  expect(code).toBe(1);
  expect(stdout).not.toMatch(/^ {2}done in /m); // the last that is said of the old primary's return
  await expectNothingLeft(directoryOf(stdout));
});

demoTest("a command line that makes no sense is refused before anything is made", async () => {
  for (const words of [["--mode", "x"], ["--failover", "--mode", "n"], ["now"]]) {
    const { code, stdout, stderr } = await runCommand([...demo, ...words]);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toContain('Try "npm run demo -- --help"');
  }
  const help = await runCommand([...demo, "--help"]);
  expect(help.code).toBe(0);
  for (const word of ["--failover", "--check", "--mode=MODE", "PGBIN", "NO_COLOR"]) {
    expect(help.stdout).toContain(word);
  }
});
