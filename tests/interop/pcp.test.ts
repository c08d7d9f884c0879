/**
 * PCP in both directions: the programs of the real Pgpool-II and ours, each against the server of
 * the real one and against ours. The same question to the same server prints the same, to the byte.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { classicNames } from "../../cmd/classic_names.ts";
import {
  type CommandResult,
  eventually,
  originalPgpool,
  ourBinary,
  Pgpool,
  Postgres,
  pcpAdmin,
  runCommand,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";

const pcpTest = await testNeeding("pgpool2", "postgres", "dist/pgpool");

const servers = ["the original's server", "our server"] as const;
const tools = ["the original's programs", "our programs"] as const;
type Server = (typeof servers)[number];
type Tools = (typeof tools)[number];

let scope: Scope;
let bin = "";
let passFile = "";
const pgpools = new Map<Server, Pgpool>();

beforeAll(async () => {
  scope = new Scope();
  if ((await startServers()) === undefined) return;
  bin = scope.makeDir("bin");
  for (const name of classicNames) symlinkSync(ourBinary()?.path ?? "", join(bin, name));
  passFile = join(scope.dir, "pcppass");
  writeFileSync(passFile, "*:*:admin:secret\n", { mode: 0o600 });
}, 300_000);
afterAll(() => scope.close());

async function startServers(): Promise<true | undefined> {
  const programs = [originalPgpool(), ourBinary()];
  if (programs.includes(undefined)) return undefined;
  const primary = await Postgres.create(scope);
  const standby = await primary.createStandby();
  for (const [at, server] of servers.entries()) {
    const pgpool = await Pgpool.create(scope, {
      program: programs[at],
      backends: [primary, standby],
      pcpUsers: [pcpAdmin],
      config: {
        num_init_children: 3,
        max_pool: 2,
        backend_flag0: "ALLOW_TO_FAILOVER",
        backend_flag1: "ALLOW_TO_FAILOVER",
      },
    });
    pgpools.set(server, pgpool);
    await pgpool.untilServing();
    await untilBothUp(server);
  }
  return true;
}

function pgpoolOf(server: Server): Pgpool {
  const pgpool = pgpools.get(server);
  if (pgpool === undefined) throw new Error(`${server} was not started`);
  return pgpool;
}

const untilBothUp = (server: Server) =>
  eventually(
    () => pgpoolOf(server).show("pool_nodes"),
    (rows) =>
      rows.map(({ role, status }) => `${role} ${status}`).join() === "primary up,standby up",
    { deadlineMs: 30_000, what: "both nodes to be up" },
  );

type Call = readonly [program: string, ...args: readonly string[]];

function run(
  by: Tools,
  server: Server,
  [name, ...args]: Call,
  where: readonly string[] = tcp(server),
): Promise<CommandResult> {
  const program = by === "our programs" ? join(bin, name) : name;
  const argv = [program, ...where, "-U", "admin", "-w", ...args] as const;
  return runCommand(argv, { env: { PCPPASSFILE: passFile } });
}

const tcp = (server: Server) => ["-h", "127.0.0.1", "-p", String(pgpoolOf(server).pcpPort)];
const unix = (server: Server) => [
  "-h",
  pgpoolOf(server).dir,
  "-p",
  String(pgpoolOf(server).pcpPort),
];

const calls: readonly Call[] = [
  ["pcp_node_count"],
  ["pcp_node_count", "-v"],
  ["pcp_node_count", "-d"],
  ["pcp_node_count", "superfluous", "words"],
  ["pcp_node_info"],
  ["pcp_node_info", "-v"],
  ["pcp_node_info", "-a"],
  ["pcp_node_info", "-n", "0", "-d"],
  ["pcp_node_info", "1"],
  ["pcp_node_info", "-n", "99"],
  ["pcp_node_info", "-n", "129"],
  ["pcp_node_info", "-n", "-1"],
  ["pcp_node_info", "--no-such"],
  ["pcp_health_check_stats", "0"],
  ["pcp_health_check_stats", "-v", "-n", "1"],
  ["pcp_health_check_stats", "2"],
  ["pcp_health_check_stats", "3"],
  ["pcp_health_check_stats"],
  ["pcp_proc_count"],
  ["pcp_proc_count", "-v"],
  ["pcp_proc_info", "-P", "1"],
  ["pcp_proc_info", "-P", "0"],
  ["pcp_pool_status"],
  ["pcp_pool_status", "-v"],
  ["pcp_watchdog_info"],
  ["pcp_watchdog_info", "-n", "-1"],
  ["pcp_detach_node"],
  ["pcp_detach_node", "200", "-n", "120"],
  ["pcp_attach_node", "-n", "128"],
  ["pcp_promote_node", "0"],
  ["pcp_promote_node", "-s", "-g", "9"],
  ["pcp_recovery_node", "0"],
  ["pcp_recovery_node", "-n", "1"],
  ["pcp_recovery_node", "-n", "9"],
  ["pcp_reload_config"],
  ["pcp_reload_config", "-s", "cluster"],
  ["pcp_reload_config", "-s", "moon"],
  ["pcp_stop_pgpool", "-m", "slowly"],
  ["pcp_stop_pgpool", "-s", "moon"],
];

for (const server of servers) {
  describe(server, () => {
    for (const call of calls) {
      pcpTest(`answers both programs' \`${call.join(" ")}\` alike`, async () => {
        // Counters and times move on between the two calls, now and then.
        await eventually(
          async () => [await run(tools[0], server, call), await run(tools[1], server, call)],
          ([theirs, ours]) => Bun.deepEquals(theirs, ours),
          { what: "the same output" },
        );
      });
    }

    pcpTest(
      "tells both programs of its processes, ours what later releases tell as well",
      async () => {
        for (const args of [[], ["-a"]]) {
          const call: Call = ["pcp_proc_info", ...args];
          await eventually(
            async () => [
              (await run(tools[0], server, call)).stdout.split("\n"),
              (await run(tools[1], server, call)).stdout.split("\n"),
            ],
            ([theirs = [], ours = []]) =>
              theirs.length === ours.length &&
              theirs.length > 2 &&
              ours.every((line, at) => line.startsWith(theirs[at] ?? "\n")),
            { what: "the same processes" },
          );
        }
      },
    );

    pcpTest("is reached through its Unix socket", async () => {
      for (const by of tools) {
        const { code, stdout } = await run(by, server, ["pcp_node_count"], unix(server));
        expect([code, stdout]).toEqual([0, "2\n"]);
      }
    });

    pcpTest("lets neither program in with a wrong password", async () => {
      const wrong = join(scope.dir, "wrong");
      writeFileSync(wrong, "*:*:*:Secret\n", { mode: 0o600 });
      for (const name of [join(bin, "pcp_node_count"), "pcp_node_count"]) {
        const argv = [name, ...tcp(server), "-U", "admin", "-w"] as const;
        const result = await runCommand(argv, { env: { PCPPASSFILE: wrong } });
        expect(result).toMatchObject({
          code: 1,
          stdout: "",
          stderr:
            'FATAL:  authentication failed for user "admin"\nDETAIL:  username and/or password does not match\n\n',
        });
      }
    });

    for (const by of tools) {
      pcpTest(`detaches and attaches a node by ${by}`, async () => {
        const done = (name: string) => ({ code: 0, stdout: `${name} -- Command Successful\n` });
        const detached = pcpProcesses();
        expect(await run(by, server, ["pcp_detach_node", "-n", "1"])).toMatchObject(
          done("pcp_detach_node"),
        );
        await untilNodeIs(server, "3");
        if (server === "the original's server") await untilPcpProcesses(detached + 1);
        const again = await run(by, server, ["pcp_detach_node", "1"]);
        expect(again.stderr).toBe(
          "ERROR:  invalid degenerate backend request, node id : 1 status: [3] is not valid for failover\n\n",
        );
        expect(again.code).toBe(0);
        const attached = pcpProcesses();
        expect(await run(by, server, ["pcp_attach_node", "1"])).toMatchObject(
          done("pcp_attach_node"),
        );
        await untilNodeIs(server, "1", "2");
        if (server === "the original's server") await untilPcpProcesses(attached + 1);
        await pgpoolOf(server).untilServing();
        await untilBothUp(server);
      });
    }
  });
}

/** How many PCP processes the original's server has begun: it takes a new one after each failover. */
const pcpProcesses = () =>
  pgpoolOf("the original's server")
    .log()
    .match(/PCP process: \d+ started/g)?.length ?? 0;

/** It does so a second behind the failover, and cuts off whom the old one is about to answer. */
const untilPcpProcesses = (count: number) =>
  eventually(pcpProcesses, (begun) => begun >= count, { what: "the new PCP process" });

/** By the word of either program, which is told the status's number. */
async function untilNodeIs(server: Server, ...numbers: readonly string[]): Promise<void> {
  for (const by of tools) {
    await eventually(
      async () => (await run(by, server, ["pcp_node_info", "1"])).stdout.split(" ")[2] ?? "",
      (status) => numbers.includes(status),
      { what: `the status of node 1 to be ${numbers.join(" or ")}` },
    );
  }
}

describe("both servers refuse in the same words", () => {
  const refused: readonly Call[] = [
    ["pcp_node_info", "-n", "99"],
    ["pcp_health_check_stats", "2"],
    ["pcp_health_check_stats", "3"],
    ["pcp_proc_info", "-P", "1"],
    ["pcp_watchdog_info"],
    ["pcp_attach_node", "-n", "128"],
    ["pcp_promote_node", "0"],
    ["pcp_promote_node", "9"],
    ["pcp_recovery_node", "0"],
    ["pcp_recovery_node", "1"],
    ["pcp_recovery_node", "9"],
  ];
  for (const call of refused) {
    pcpTest(`\`${call.join(" ")}\``, async () => {
      const by = "the original's programs";
      const theirs = await run(by, "the original's server", call);
      expect(theirs.stderr).toMatch(/^(ERROR|FATAL): /);
      expect(await run(by, "our server", call)).toEqual(theirs);
    });
  }
});

describe("what the original lacks", () => {
  pcpTest("our server refuses to attach or detach a node that does not exist", async () => {
    for (const by of tools) {
      const attached = await run(by, "our server", ["pcp_attach_node", "-n", "7"]);
      expect(attached.stderr).toBe(
        "ERROR:  invalid failback request, node id: 7 is out of range. node id must be between [0 and 128]\n\n",
      );
      const detached = await run(by, "our server", ["pcp_detach_node", "-n", "7"]);
      expect(detached.stderr).toStartWith("ERROR:  invalid degenerate backend request, node id: 7");
    }
  });

  pcpTest("pgpool pcp status shows either server, and keeps events for ours", async () => {
    const pgpool = ourBinary()?.path ?? "";
    for (const server of servers) {
      const argv = [pgpool, "pcp", "status", ...tcp(server), "-U", "admin", "-w"] as const;
      const env = { PCPPASSFILE: passFile };
      const { code, stdout } = await runCommand(argv, { env });
      expect(code).toBe(0);
      expect(stdout).toContain("| primary |");
      expect(stdout.includes("last events")).toBe(server === "our server");
      const { stdout: json } = await runCommand([...argv, "--json"], { env });
      expect(JSON.parse(json)).toMatchObject({
        nodes: [{ role: "primary" }, { role: "standby" }],
        sessions: { places: 3 },
      });
    }
  });

  pcpTest("programs of 4.4 and later get their fields when the server is told to", async () => {
    const server = pgpoolOf("our server");
    const count = async () => {
      const { stdout } = await run("our programs", "our server", ["pcp_node_info", "0", "-d"]);
      const [, record] = stdout.matchAll(/recv: tos="i", len=(\d+)/g);
      return Number(record?.[1]);
    };
    const before = await count();
    server.reload({ pcp_node_info_layout: "4.4" });
    await eventually(count, (now) => now < before, { what: "the shorter record" });
    await eventually(
      async () => (await run("our programs", "our server", ["pcp_node_info", "0"])).stdout,
      (stdout) => / primary primary 0 none none \d{4}-/.test(stdout),
      { what: "the fields" },
    );
    server.reload({ pcp_node_info_layout: "4.3" });
    await eventually(count, (now) => now === before, { what: "the longer record" });
  });
});

describe("at the end", () => {
  const stops: [Server, Tools, string][] = [
    ["the original's server", "our programs", "fast"],
    ["our server", "the original's programs", "fast"],
  ];
  for (const [server, by, mode] of stops) {
    pcpTest(`${server} is stopped by ${by}`, async () => {
      const pgpool = pgpoolOf(server);
      const stopped = await run(by, server, ["pcp_stop_pgpool", "-m", mode]);
      expect(stopped).toMatchObject({
        code: 0,
        stdout: "pcp_stop_pgpool -- Command Successful\n",
        stderr: "",
      });
      await eventually(
        () => pgpool.end,
        (end) => end === "exit 0",
        { deadlineMs: 30_000, what: "the end of the server" },
      );
    });
  }
});
