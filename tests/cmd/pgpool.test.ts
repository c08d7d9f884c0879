/** The verbs of `pgpool`, against a process that stands in for the server: any that can be signalled. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { main } from "../../cmd/main.ts";
import { daemonArgs, stopSignal } from "../../cmd/pgpool.ts";
import { eventually } from "../cluster/machine.ts";

let dir = "";
let conf = "";
let pidFile = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "pgpool-verbs-"));
  conf = join(dir, "pgpool.conf");
  pidFile = join(dir, "pgpool.pid");
  writeFileSync(conf, "pid_file_name = 'pgpool.pid'\n");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function pgpool(...args: readonly string[]) {
  let err = "";
  const exitCode = await main({
    argv0: "pgpool",
    args,
    out: () => {},
    err: (text) => {
      err += text;
    },
  });
  // what varies: the time and our own pid
  return { exitCode, err: err.replace(/^\S+ \S+: main pid \d+: /gm, "") };
}

/** Tells each signal that reaches it; TERM, INT and QUIT end it after that. */
async function standIn() {
  const script = `for s in TERM INT QUIT; do trap "echo $s; exit" $s; done
    trap "echo HUP" HUP; echo ready; while :; do read line || :; done`;
  const child = Bun.spawn(["sh", "-c", script, "pgpool"], { stdin: "pipe", stdout: "pipe" });
  const reader = child.stdout.getReader();
  const line = async () => new TextDecoder().decode((await reader.read()).value).trim();
  expect(await line()).toBe("ready");
  writeFileSync(pidFile, `${child.pid}\0`);
  return { child, line };
}

describe("stop", () => {
  test.each([
    ["smart", "TERM"],
    ["f", "INT"],
    ["immediate", "QUIT"],
  ])(
    "-m %s sends SIG%s, waits until the server has gone and removes the pid file",
    async (mode, signal) => {
      const { child, line } = await standIn();
      const said = await pgpool("-f", conf, "-m", mode, "stop");
      expect(said.exitCode).toBe(0);
      expect(said.err).toMatch(
        new RegExp(
          `^LOG:  stop request sent to pgpool \\(pid: ${child.pid}\\)\\. waiting for termination\\.\\.\\.\n\\.+done\\.\n$`,
        ),
      );
      expect(await line()).toBe(signal);
      expect(existsSync(pidFile)).toBe(false);
    },
  );

  test("options may follow the verb", async () => {
    const { line } = await standIn();
    expect((await pgpool("stop", "-m", "f", "-f", conf)).exitCode).toBe(0);
    expect(await line()).toBe("INT");
  });

  test("without a pid file it fails with exit code 3", async () => {
    expect(await pgpool("-f", conf, "stop")).toEqual({
      exitCode: 3,
      err: "FATAL:  could not read pid file\n",
    });
  });

  test("a program that has got the number since is not stopped: exit code 3", async () => {
    const other = Bun.spawn(["sleep", "600"]);
    await eventually(() => readFileSync(`/proc/${other.pid}/comm`, "utf8") === "sleep\n"); // not our copy any more
    writeFileSync(pidFile, `${other.pid}\0`);
    expect(await pgpool("-f", conf, "stop")).toEqual({
      exitCode: 3,
      err: `FATAL:  could not stop process with pid: ${other.pid}\nDETAIL:  another program has this pid now\n`,
    });
    expect(other.killed).toBe(false);
    other.kill("SIGKILL");
    await other.exited;
  });

  test("a server that is gone cannot be stopped: exit code 3", async () => {
    const gone = Bun.spawnSync(["true"]).pid;
    writeFileSync(pidFile, `${gone}\0`);
    expect(await pgpool("-f", conf, "stop")).toEqual({
      exitCode: 3,
      err: `FATAL:  could not stop process with pid: ${gone}\nDETAIL:  No such process\n`,
    });
  });
});

describe("reload", () => {
  test("sends SIGHUP and says nothing", async () => {
    const { child, line } = await standIn();
    expect(await pgpool("-f", conf, "reload")).toEqual({ exitCode: 0, err: "" });
    expect(await line()).toBe("HUP");
    child.kill("SIGKILL");
    await child.exited;
  });

  test("fails with exit code 1, unlike stop", async () => {
    expect(await pgpool("-f", conf, "reload")).toEqual({
      exitCode: 1,
      err: "FATAL:  could not read pid file\n",
    });
    const gone = Bun.spawnSync(["true"]).pid;
    writeFileSync(pidFile, `${gone}\0`);
    expect(await pgpool("-f", conf, "reload")).toEqual({
      exitCode: 1,
      err: `FATAL:  could not reload configuration file pid: ${gone}\nDETAIL:  No such process\n`,
    });
  });
});

test("errors of the configuration come before anything else, with exit code 3", async () => {
  writeFileSync(conf, "port = 'abc'\n");
  for (const words of [["stop"], ["reload"], ["a", "b"], []]) {
    const { exitCode, err } = await pgpool("-f", conf, ...words);
    expect(exitCode).toBe(3);
    expect(err).toStartWith('FATAL:  invalid value for parameter "port": "abc"\n');
  }
});

test("a missing configuration file is a warning, as ever", async () => {
  const path = join(dir, "none.conf");
  expect((await pgpool("-f", path, "reload")).err).toStartWith(
    `WARNING:  could not open configuration file: "${path}"\n` +
      "DETAIL:  using default configuration parameter values\n",
  );
});

test("a second start is refused with exit code 1, in the foreground and detached", async () => {
  const { child } = await standIn();
  const refusal = `ERROR: pid file found. is another pgpool(${child.pid}) is running?\n`;
  for (const args of [["-n"], ["-D"], []]) {
    expect(await pgpool("-f", conf, ...args)).toEqual({ exitCode: 1, err: refusal });
  }
  child.kill("SIGKILL");
  await child.exited;
});

test.each([
  ["smart", "SIGTERM"],
  ["s", "SIGTERM"],
  ["fast", "SIGINT"],
  ["fish", "SIGINT"],
  ["i", "SIGQUIT"],
  ["", undefined],
  ["Fast", undefined],
])("mode %p is %p", (mode, signal) => {
  expect(stopSignal(mode)).toBe(signal as ReturnType<typeof stopSignal>);
});

test("a detached server gets the same options, with paths that hold elsewhere", () => {
  expect(daemonArgs({ "config-file": "a/pgpool.conf", "discard-status": true })).toEqual([
    `--config-file=${process.cwd()}/a/pgpool.conf`,
    "--discard-status",
  ]);
});
