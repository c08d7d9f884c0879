/**
 * wd_cli of the real Pgpool-II and ours, asking and informing the watchdog of either: the same call
 * prints the same, to the byte.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { symlinkSync } from "node:fs";
import { join } from "node:path";
import {
  type CommandResult,
  eventually,
  findProgram,
  freePort,
  originalPgpool,
  ourBinary,
  runCommand,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";
import { WatchdogCluster } from "../cluster/watchdog_cluster.ts";

const cliTest = await testNeeding("pgpool2", "dist/pgpool");

const AUTH_KEY = "opensesame";
let scope: Scope;
let ours = "";
const servers = ["the original's server", "our server"] as const;
type Server = (typeof servers)[number];
const clusters = new Map<Server, WatchdogCluster>();

beforeAll(async () => {
  scope = new Scope();
  const [theirs, binary] = [originalPgpool(), ourBinary()];
  if (theirs === undefined || binary === undefined) return;
  ours = join(scope.makeDir("bin"), "wd_cli");
  symlinkSync(binary.path, ours);
  const starting = servers.map(async (server) => {
    const program = server === "our server" ? binary : theirs;
    const cluster = await WatchdogCluster.create(scope, {
      programs: [program, program, program],
      // 4.3.5 without any backend dies of its first election.
      backends: [{ host: "127.0.0.1", port: await freePort() }],
      config: { wd_authkey: AUTH_KEY, health_check_period: 0 },
    });
    await cluster.telling(async () => {
      await cluster.start([0, 1]); // and the third is never seen
      await cluster.untilAgreed([0, 1]);
    });
    clusters.set(server, cluster);
  });
  await Promise.all(starting);
}, 300_000);
afterAll(() => scope.close());

type Said = Pick<CommandResult, "code" | "stdout" | "stderr">;

/** Without process ids, and without the reasons that only we give. */
async function say(program: string, args: readonly string[]): Promise<Said> {
  const { code, stdout, stderr } = await runCommand([program, ...args]);
  const plain = stderr
    .replace(/pid \d+:/g, "pid N:")
    .replace(/^DETAIL: .*\n/gm, "")
    .replaceAll(`${program}:`, "wd_cli:");
  return { code, stdout, stderr: plain };
}

const theirs = () => findProgram("wd_cli") ?? "wd_cli";

function clusterOf(server: Server): WatchdogCluster {
  const cluster = clusters.get(server);
  if (cluster === undefined) throw new Error(`${server} was not started`);
  return cluster;
}

/** How the call finds its watchdog. */
type Place = "file" | "nothing" | "port";

function placed(server: Server, place: Place, ...args: readonly string[]): readonly string[] {
  if (place === "nothing") return args;
  const { pgpool, wdPort } = clusterOf(server).node(0);
  return [...args, ...(place === "file" ? ["-f", pgpool.configPath] : ["-p", String(wdPort)])];
}

const calls: readonly (readonly [Place, readonly string[]])[] = [
  ["file", ["-i"]],
  ["file", ["-i", "-a"]],
  ["file", ["-i", "-v"]],
  ["file", ["-iv", "-n", "1"]],
  ["file", ["--info", "--node-id=2", "--verbose"]],
  ["file", ["-i", "-n", "1", "-a"]],
  ["file", ["-i", "-H", "127.0.0.1"]],
  ["file", ["-i", "-n", "1", "-H", "127.0.0.1"]],
  ["file", ["-i", "-n", "9"]],
  ["file", ["-i", "-N", "nobody", "-H", "nowhere", "-P", "12"]],
  ["file", ["-i", "-N", "Not_Set"]],
  ["file", ["-i", "-d"]],
  ["file", ["-i", "-n", "1", "-d"]],
  ["file", ["-i", "-k", "wrong"]],
  ["file", ["-i", "-k", AUTH_KEY]],
  ["file", ["-I", "DEAD", "-n", "1", "-k", "wrong"]],
  ["file", ["-I", "ALIVE", "-n", "0"]],
  ["file", ["-I", "alive", "-n", "0", "-m", "seen by hand"]],
  ["file", ["-I", "ALIVE", "-n", "7"]],
  ["file", ["-I", "ALIVE", "-n", "0", "-d", "-v"]],
  ["port", ["-i"]],
  ["port", ["-I", "DEAD", "-n", "1"]],
  ["nothing", []],
  ["nothing", ["-n", "1"]],
  ["nothing", ["-i", "-I", "DEAD"]],
  ["nothing", ["-I", "FOO"]],
  ["nothing", ["-I", "DE", "-n", "1"]],
  ["nothing", ["-I", "DEAD", "-a", "-n", "1"]],
  ["nothing", ["-i", "-n", "1x"]],
  ["nothing", ["-i", "-n", "-1"]],
  ["nothing", ["-i", "-P", "abc"]],
  ["nothing", ["-i", "-p", "abc"]],
  ["nothing", ["-i", "-p", "10"]],
  ["nothing", ["-i", "-p", "70000"]],
  ["nothing", ["-i", "-f", "/nowhere/pgpool.conf"]],
  ["nothing", ["-h"]],
  ["nothing", ["--inf"]],
  ["nothing", ["--info=3"]],
  ["nothing", ["-I"]],
];

for (const server of servers) {
  describe(server, () => {
    for (const [place, args] of calls) {
      cliTest(
        `\`wd_cli ${args.join(" ")}\` (place: ${place}) says what the original says`,
        async () => {
          const words = placed(server, place, ...args);
          // A node may be lost or found between the two.
          await eventually(
            async () => [await say(ours, words), await say(theirs(), words)] as const,
            ([own, original]) => Bun.deepEquals(own, original),
            { what: "the same words" },
          );
        },
      );
    }

    for (const [whose, program] of [
      ["the original", theirs],
      ["ours", () => ours],
    ] as const) {
      cliTest(`a node that ${whose} reports dead is lost, and back when it is alive`, async () => {
        const { pgpool } = clusterOf(server).node(0);
        const lost = () => pgpool.log().match(/remote node "[^"]+" is lost/g)?.length ?? 0;
        const before = lost();
        const inform = (status: string) =>
          say(program(), placed(server, "file", "-I", status, "-n", "1"));
        expect((await inform("DEAD")).code).toBe(0);
        // It comes back by itself, and perhaps before anybody looks.
        await eventually(lost, (count) => count > before, { deadlineMs: 20_000 });
        expect((await inform("ALIVE")).code).toBe(0);
        await clusterOf(server).untilAgreed([0, 1]);
      });
    }

    cliTest(
      "the directory of the socket may be given by hand, which crashes the original",
      async () => {
        const { pgpool, wdPort } = clusterOf(server).node(0);
        const place = ["-s", pgpool.dir, "-p", String(wdPort), "-k", AUTH_KEY];
        await eventually(
          async () => {
            const said = await say(ours, ["-i", "-n", "0", ...place]);
            expect(said).toMatchObject({ code: 0, stderr: "" });
            return [said, await say(theirs(), placed(server, "file", "-i", "-n", "0"))] as const;
          },
          ([own, original]) => own.stdout === original.stdout,
          { what: "the same words" },
        );
      },
    );

    cliTest("by its words, with JSON for programs", async () => {
      const binary = ourBinary()?.path ?? "";
      const run = (...words: string[]) =>
        runCommand([binary, "watchdog", ...placed(server, "file", ...words)]);
      const { stdout, stderr, code } = await eventually(
        () => run("info", "--json"),
        ({ stdout: told }) => JSON.parse(told).quorum_status === 1,
        { what: "node 0 to know of the quorum" },
      );
      expect([stderr, code]).toEqual(["", 0]);
      expect(JSON.parse(stdout)).toMatchObject({
        remote_node_count: 2,
        quorum_status: 1,
        nodes: [{ id: 0 }, { id: 1 }, { id: 2, state: 0, state_name: "DEAD" }],
      });
      const informed = await run("inform", "ALIVE", "-n", "0", "--json");
      expect(JSON.parse(informed.stdout)).toEqual({ node_id: 0, informed: "alive" });
      const unknown = await run("info", "-n", "5", "--json");
      expect(JSON.parse(unknown.stdout).error.message).toMatch(/unable to find the node/);
      expect(unknown.code).toBe(1);
    });
  });
}

cliTest("nobody's death is reported without saying whose", async () => {
  const said = await say(ours, ["-I", "DEAD", "-p", "20000"]);
  expect(said.code).toBe(1);
  expect(said.stderr).toContain("Missing node search criteria");
});
