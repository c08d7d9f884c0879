/**
 * The PCP server of the built binary, and the programs that talk to it: where it listens, whom it
 * lets in, what hostile peers get, and that nobody else notices.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import {
  type CommandResult,
  type ConfigValue,
  cString,
  errorFields,
  eventually,
  frame,
  ourBinary,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  pcpAdmin,
  RawClient,
  type RawFrame,
  RawPeer,
  runCommand,
  Scope,
} from "./harness.ts";

/** md5 of `secret`. */
const [, hash = ""] = pcpAdmin.split(":");

let scope: Scope;
let server: Postgres;
let pgpool: Pgpool;

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope);
  pgpool = await startPgpool(scope);
}, 300_000);
afterAll(() => scope.close());

async function startPgpool(
  own: Scope,
  config: Record<string, ConfigValue> = {},
  options: Partial<PgpoolOptions> = {},
): Promise<Pgpool> {
  const started = await Pgpool.create(own, {
    program: ourBinary(),
    backends: [server],
    pcpUsers: [pcpAdmin],
    config: { num_init_children: 4, backend_flag0: "ALLOW_TO_FAILOVER", ...config },
    ...options,
  });
  if (options.startLater !== true) await started.untilServing();
  return started;
}

/** `pgpool pcp NAME …`; the password comes from a file unless it is given to stdin. */
async function pcp(
  to: Pgpool,
  words: readonly string[],
  how: { readonly host?: string; readonly stdin?: string } = {},
): Promise<CommandResult> {
  const passFile = join(to.dir, "pcppass");
  writeFileSync(passFile, how.stdin === undefined ? "*:*:admin:secret\n" : "", { mode: 0o600 });
  const where = ["-h", how.host ?? "127.0.0.1", "-p", String(to.pcpPort), "-U", "admin"];
  const argv = [to.program.path, "pcp", ...words, ...where] as const;
  const env = { PCPPASSFILE: passFile };
  return await runCommand(argv, how.stdin === undefined ? { env } : { env, stdin: how.stdin });
}

const counted = { code: 0, stdout: "1\n", stderr: "" };

async function peerOf(to: Pgpool = pgpool): Promise<RawPeer> {
  const socket = connect(to.pcpPort, "127.0.0.1");
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  return new RawPeer(socket, 10_000);
}

function lastError(frames: readonly RawFrame[]): string {
  const last = frames.at(-1);
  if (last?.type !== "E") return `no error but ${last?.type ?? "silence"}`;
  const { S, M, D } = errorFields(last.body);
  return [S, M, ...(D === undefined ? [] : [D])].join(" | ");
}

/** Operators and clients are served as ever. */
async function allIsWell(of: Pgpool = pgpool): Promise<void> {
  expect(await pcp(of, ["node_count"])).toEqual({ ...counted, signal: null });
  expect(await of.sql("SELECT 1 AS one")).toEqual([{ one: "1" }]);
}

describe("where it listens", () => {
  test("TCP, and a socket in each directory, which goes with the server", async () => {
    await using own = new Scope();
    const dirs = [own.makeDir("one"), own.makeDir("two")];
    const several = await startPgpool(own, { pcp_socket_dir: dirs.join(",") });
    for (const host of ["127.0.0.1", "localhost", ...dirs]) {
      expect(await pcp(several, ["node_count"], { host })).toMatchObject(counted);
    }
    expect(await several.stop()).toBe("exit 0");
    expect(dirs.flatMap((dir) => readdirSync(dir))).toEqual([]);
  });

  test("sockets alone, when there are no addresses", async () => {
    await using own = new Scope();
    const silent = await startPgpool(own, { pcp_listen_addresses: "" });
    expect(await pcp(silent, ["node_count"], { host: silent.dir })).toMatchObject(counted);
    const refused = await pcp(silent, ["node_count"]);
    expect(refused).toMatchObject({
      code: 1,
      stderr: 'ERROR: connection to host "127.0.0.1" failed with error "Connection refused"\n',
    });
  });

  test("nowhere, when there is neither; clients are served", async () => {
    await using own = new Scope();
    const none = await startPgpool(own, { pcp_listen_addresses: "", pcp_socket_dir: "" });
    expect(await none.sql("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  });

  test("a port that is taken ends the start with its name", async () => {
    await using own = new Scope();
    const late = await startPgpool(own, { pcp_port: pgpool.pcpPort }, { startLater: true });
    await late.start().catch(() => undefined); // it may have been seen listening for a moment
    await late.logged(new RegExp(`failed to bind a socket: "127.0.0.1:${pgpool.pcpPort}"`));
    await eventually(
      () => late.end,
      (end) => end !== undefined,
    );
    await allIsWell();
  });

  test("a socket that a killed server left behind is no obstacle", async () => {
    await using own = new Scope();
    const killed = await startPgpool(own);
    await killed.kill();
    expect(existsSync(join(killed.dir, `.s.PGSQL.${killed.pcpPort}`))).toBe(true);
    await killed.start();
    // It listens for clients first.
    await eventually(
      () => pcp(killed, ["node_count"], { host: killed.dir }),
      (answer) => answer.code === counted.code && answer.stdout === counted.stdout,
    );
  });
});

describe("whom it lets in", () => {
  test("edits of pcp.conf count from the next log-in on; without the file nobody gets in", async () => {
    await using own = new Scope();
    const edited = await startPgpool(own);
    const path = join(edited.dir, "pcp.conf");
    writeFileSync(path, "admin:0123\n");
    const mismatch =
      'FATAL:  authentication failed for user "admin"\nDETAIL:  username and/or password does not match\n\n';
    expect(await pcp(edited, ["node_count"])).toMatchObject({ code: 1, stderr: mismatch });
    rmSync(path);
    expect(await pcp(edited, ["node_count"])).toMatchObject({
      code: 1,
      stderr: `FATAL:  failed to authenticate PCP user\nDETAIL:  could not open ${path}. reason: No such file or directory\n\n`,
    });
    mkdirSync(path);
    expect((await pcp(edited, ["node_count"])).stderr).toContain("could not open");
    rmSync(path, { recursive: true });
    writeFileSync(path, `# comment\n${pcpAdmin}\n`);
    expect(await pcp(edited, ["node_count"])).toMatchObject(counted);
  });

  test("who types the password, at the prompt or where none is found", async () => {
    for (const words of [["node_count"], ["node_count", "-W"]]) {
      const typed = await pcp(pgpool, words, { stdin: "secret\n" });
      expect(typed).toMatchObject({ code: 0, stdout: "1\n", stderr: "Password: \n" });
    }
    const none = await pcp(pgpool, ["node_count", "-w"], { stdin: "secret\n" });
    expect(none.code).toBe(1);
    expect(none.stderr).toStartWith("FATAL:  authentication failed");
  });

  test("nobody by a password file that others can read, which is said", async () => {
    const passFile = join(pgpool.dir, "open");
    writeFileSync(passFile, "*:*:*:secret\n", { mode: 0o644 });
    const port = String(pgpool.pcpPort);
    const where = ["-h", "127.0.0.1", "-p", port, "-U", "admin"];
    const argv = [pgpool.program.path, "pcp", "node_count", "-w", ...where] as const;
    const { code, stderr } = await runCommand(argv, { env: { PCPPASSFILE: passFile } });
    expect(code).toBe(1);
    expect(stderr).toStartWith(
      `WARNING: password file "${passFile}" has group or world access; permissions should be u=rw (0600) or less\nFATAL:`,
    );
  });

  test("no secret gets into the log, however much is logged", async () => {
    await using own = new Scope();
    const loud = await startPgpool(own, { log_min_messages: "debug5", log_pcp_processes: true });
    expect(await pcp(loud, ["pool_status"])).toMatchObject({ code: 0 });
    expect(await pcp(loud, ["node_count"], { stdin: "wrong\n" })).toMatchObject({ code: 1 });
    await loud.logged(/authentication failed for user "admin"/);
    await loud.logged(/forked new pcp worker, pid=1 socket=1[\s\S]*exit with SUCCESS/);
    expect(loud.log()).not.toContain(hash);
    expect(loud.log()).not.toContain("secret");
  });
});

describe("hostile peers", () => {
  const unauthorized =
    "FATAL | authentication failed for new PCP connection | connection not authorized";
  const invalid = (length: number) =>
    `FATAL | invalid PCP packet | incorrect packet length (${length})`;
  const header = (type: string, length: number) => {
    const bytes = Buffer.from(`${type}\0\0\0\0`, "latin1");
    bytes.writeInt32BE(length, 1);
    return bytes;
  };
  const cases: [string, Buffer, string][] = [
    ["a request before the log-in", frame("L"), unauthorized],
    ["an order before the log-in", frame("T", Buffer.from("f")), unauthorized],
    ["an unknown letter", frame("K"), unauthorized],
    ["a length of 0", header("M", 0), invalid(0)],
    ["a length of 3", header("M", 3), invalid(3)],
    ["a length of 260", header("R", 260), invalid(260)],
    ["a length of 2 GB", header("R", 0x7fff_ffff), invalid(0x7fff_ffff)],
    ["a negative length", header("R", -1), invalid(-1)],
    ["a start-up packet", Buffer.from("0000000804d2162f", "hex"), invalid(2052)],
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\n\r\n"), invalid(0x4554_202f)],
    [
      "a response without a question",
      frame("R", cString("admin"), cString("0".repeat(32))),
      "FATAL | authentication failed",
    ],
  ];
  test.each(cases)("%s is refused in words, and the connection closed", async (_, bytes, said) => {
    const peer = await peerOf();
    peer.send(bytes);
    expect(lastError(await peer.closed())).toBe(said);
    await allIsWell();
  });

  test("a packet cut short, and then nothing, is forgotten", async () => {
    for (const size of [1, 4, 5, 6]) {
      const peer = await peerOf();
      peer.send(frame("R", cString("admin")).subarray(0, size));
      peer.end();
      expect(await peer.closed()).toEqual([]);
    }
    await allIsWell();
  });

  test("who does not log in is sent away after authentication_timeout", async () => {
    await using own = new Scope();
    const strict = await startPgpool(own, { authentication_timeout: 1 });
    const peer = await peerOf(strict);
    peer.send(Buffer.from("M"));
    expect(lastError(await peer.closed())).toBe(
      "FATAL | authentication failed for new PCP connection | log-in took too long",
    );
  });

  test("a thousand who announce much and say nothing cost little and lock nobody out", async () => {
    const before = memoryOf(pgpool.pid);
    const peers: RawPeer[] = [];
    for (let i = 0; i < 1000; i++) {
      const peer = await peerOf();
      peer.send(header("R", 259));
      peers.push(peer);
    }
    await allIsWell();
    expect(memoryOf(pgpool.pid) - before).toBeLessThan(40 * 1024 * 1024);
    for (const peer of peers) peer.destroy();
    await allIsWell();
  });

  test("who asks for much and reads nothing makes nobody wait, nor the server grow", async () => {
    const peer = await loggedIn();
    const before = memoryOf(pgpool.pid);
    peer.pause();
    // 800 MB of answers.
    peer.send(Buffer.concat(Array.from({ length: 40_000 }, () => frame("B"))));
    await allIsWell();
    expect(memoryOf(pgpool.pid) - before).toBeLessThan(150 * 1024 * 1024);
    peer.destroy();
    await allIsWell();
  });
});

/** Bytes of memory in use. */
function memoryOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) * 1024;
}

async function loggedIn(): Promise<RawPeer> {
  const peer = await peerOf();
  peer.send(frame("M"));
  const salt = (await peer.next())?.body ?? Buffer.alloc(0);
  const md5 = (...parts: readonly (string | Uint8Array)[]) => {
    const hasher = new Bun.CryptoHasher("md5");
    for (const part of parts) hasher.update(part);
    return hasher.digest("hex");
  };
  const response = md5(md5(hash, "admin"), salt);
  peer.send(frame("R", cString("admin"), cString(response)));
  expect((await peer.next())?.type).toBe("r");
  return peer;
}

describe("orders", () => {
  test("reload takes effect, and log files are begun anew where there are any", async () => {
    await using own = new Scope();
    const logs = own.makeDir("logs");
    const config = {
      logging_collector: true,
      log_directory: logs,
      log_filename: "pgpool-%H%M%S.log",
      log_destination: "stderr",
    };
    const collecting = await startPgpool(own, config);
    collecting.writeFiles({ client_idle_limit: 77 });
    expect(await pcp(collecting, ["reload-config"])).toMatchObject({ code: 0 });
    const [row] = await collecting.sql("PGPOOL SHOW client_idle_limit");
    expect(row).toEqual({ client_idle_limit: "77s" });
    const before = readdirSync(logs).length;
    await eventually(
      async () => {
        expect(await pcp(collecting, ["log_rotate"])).toMatchObject({ code: 0, stderr: "" });
        return readdirSync(logs).length;
      },
      (count) => count > before,
      { what: "a new log file" },
    );
    expect(await pcp(pgpool, ["log_rotate"])).toMatchObject({
      code: 0,
      stderr:
        "ERROR:  process log rotation request failed\nDETAIL:  logging_collector is disabled\n\n",
    });
  });

  test("a node that is detached is let go of, and taken up again when it is attached", async () => {
    await using own = new Scope();
    const detaching = await startPgpool(own);
    const client = await RawClient.login(detaching.tcp, { user: "postgres", database: "test" });
    const [{ pid } = {}] = await client.rows("SELECT pg_backend_pid() AS pid");
    await client.terminate();
    const pooled = () =>
      server.value(`SELECT count(*) FROM pg_stat_activity WHERE pid = ${pid}`, "postgres");
    expect(await pooled()).toBe("1");
    expect(await pcp(detaching, ["detach_node", "0"])).toMatchObject({ code: 0, stderr: "" });
    await eventually(pooled, (count) => count === "0", { what: "the pooled connection to end" });
    expect(await pcp(detaching, ["attach_node", "0"])).toMatchObject({ code: 0, stderr: "" });
    await detaching.untilServing();
    await eventually(
      () => detaching.show("pool_nodes"),
      ([{ status } = {}]) => status === "up",
      { what: "the node to be up" },
    );
  });

  test("a smart stop waits for clients, and a harder one can still be asked for", async () => {
    await using own = new Scope();
    const stopping = await startPgpool(own);
    const client = await RawClient.login(stopping.tcp, { user: "postgres", database: "test" });
    const stop = (mode: string) => pcp(stopping, ["stop_pgpool", "-m", mode]);
    const done = { code: 0, stdout: "pgpool pcp stop_pgpool -- Command Successful\n" };
    expect(await stop("smart")).toMatchObject(done);
    await stopping.logged(/shutting down by signal 15/);
    expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
    expect(stopping.end).toBeUndefined();
    expect(await stop("fast")).toMatchObject(done);
    await eventually(
      () => stopping.end,
      (end) => end === "exit 0",
      { what: "the end" },
    );
    client.destroy();
  });

  test("with --json a refusal is a document and the exit code 1", async () => {
    const refused = await pcp(pgpool, ["attach_node", "7", "--json"]);
    expect(refused).toMatchObject({ code: 1, stderr: "" });
    expect(JSON.parse(refused.stdout)).toMatchObject({
      error: { severity: "ERROR", message: expect.stringContaining("node id: 7 is out of range") },
    });
    const done = await pcp(pgpool, ["reload_config", "--json"]);
    expect(JSON.parse(done.stdout)).toEqual({ command: "reload_config", successful: true });
    const unreachable = await pcp(pgpool, ["node_count", "--json"], { host: "/nowhere" });
    expect(unreachable.code).toBe(1);
    expect(JSON.parse(unreachable.stdout)).toMatchObject({ error: { severity: "ERROR" } });
  });

  test("status is drawn again and again until it is interrupted, without colours in a pipe", async () => {
    const words = ["status", "--watch", "--interval", "0.1"];
    const passFile = join(pgpool.dir, "pcppass");
    writeFileSync(passFile, "*:*:admin:secret\n", { mode: 0o600 });
    const where = ["-h", pgpool.dir, "-p", String(pgpool.pcpPort), "-U", "admin"];
    const { stdout, signal } = await runCommand([pgpool.program.path, "pcp", ...words, ...where], {
      env: { PCPPASSFILE: passFile },
      onStart: (child) => {
        let seen = "";
        child.stdout?.on("data", (chunk: Buffer) => {
          seen += chunk.toString();
          if (seen.split("last events").length > 3) child.kill("SIGINT");
        });
      },
    });
    expect(signal).toBe("SIGINT");
    expect(stdout.match(/sessions {3}\d of 4/g)?.length).toBeGreaterThanOrEqual(3);
    expect(stdout).not.toContain("\x1b");
  });
});
