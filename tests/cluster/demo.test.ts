/** `npm run demo` as a newcomer runs it: build, cluster, tour, and nothing left behind. */
import { expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { everyPostgres, mustRun, repositoryRoot, runCommand } from "./harness.ts";

const installs = await everyPostgres();
const demoTest = (title: string, body: () => Promise<void>) =>
  installs.length > 0
    ? test(title, body, 120_000)
    : test.skip(`${title} [not installed: postgres]`, body);

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
  expect([code, stderr.includes("not as it should be")]).toEqual([0, false]);
  expect(stdout).toContain("10 reads, each in a new session");
  expect(stdout).toMatch(/went to port \d+: node 0 \(primary\)/);
  expect(stdout).toContain("and all 3 nodes have it");
  expect(stdout).toContain("All is as it should be.");
  await expectNothingLeft(directoryOf(stdout));
});

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
