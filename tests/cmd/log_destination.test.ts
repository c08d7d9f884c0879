import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DestinationSettings, openLogDestination } from "../../cmd/log_destination.ts";
import { createLog } from "../../core/log.ts";
import { eventually } from "../cluster/machine.ts";

const HOUR = 3_600_000;
const usual: DestinationSettings = {
  log_destination: ["stderr"],
  logging_collector: true,
  log_directory: "logs",
  log_filename: "p-%H.log",
  log_file_mode: 0o600,
  log_truncate_on_rotation: false,
  log_rotation_age: 60,
  log_rotation_size: 0,
  syslog_facility: "LOCAL0",
  syslog_ident: "pgpool",
};

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "log-destination-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** A destination whose clock and settings the test moves. */
function opened(settings: Partial<DestinationSettings> = {}) {
  let now = new Date(2026, 10, 22, 17, 30).getTime();
  let current = { ...usual, ...settings };
  let stderr = "";
  const destination = openLogDestination({
    settings: () => current,
    directory,
    clock: () => now,
    stderr: (lines) => {
      stderr += lines;
    },
  });
  const log = createLog(
    {
      settings: () => ({
        log_line_prefix: "",
        log_min_messages: "warning",
        log_error_verbosity: "default",
        log_format: "text",
      }),
      write: (lines, severity) => destination.write(lines, severity),
      clock: () => now,
    },
    { processName: "MAIN", applicationName: "main", pid: 1 },
  );
  return {
    destination,
    log,
    stderr: () => stderr,
    passHours: (hours: number) => {
      now += hours * HOUR;
    },
    reload: (change: Partial<DestinationSettings>) => {
      current = { ...current, ...change };
    },
  };
}
const files = (sub = "logs") =>
  Object.fromEntries(
    readdirSync(join(directory, sub))
      .sort()
      .map((name) => [name, readFileSync(join(directory, sub, name), "utf8")]),
  );

describe("without log files", () => {
  test("lines go to standard error", async () => {
    const { destination, log, stderr } = opened({ logging_collector: false });
    destination.announce(log);
    log.write("LOG", "a");
    await destination.close();
    expect(stderr()).toBe("LOG:  a\n");
  });

  test("of a destination without stderr nothing appears there", async () => {
    const { destination, log, stderr, reload } = opened({ logging_collector: false });
    reload({ log_destination: [] });
    log.write("LOG", "a");
    await destination.close();
    expect(stderr()).toBe("");
  });
});

describe("log files", () => {
  test("begin where standard error says so", async () => {
    const { destination, log, stderr } = opened();
    log.write("LOG", "before");
    destination.announce(log);
    log.write("LOG", "after");
    await destination.close();
    expect(stderr()).toBe(
      'LOG:  before\nLOG:  redirecting log output to logging collector process\nHINT:  Future log output will appear in directory "logs".\n',
    );
    expect(files()).toEqual({ "p-17.log": "LOG:  after\n" });
  });

  test("have the mode of log_file_mode, writable by their owner, in a directory of 0700", async () => {
    const { destination } = opened({ log_file_mode: 0o440 });
    await destination.close();
    expect(statSync(join(directory, "logs/p-17.log")).mode & 0o777).toBe(0o640);
    expect(statSync(join(directory, "logs")).mode & 0o777).toBe(0o700);
  });

  test("change by age", async () => {
    const { destination, log, passHours } = opened();
    destination.announce(log);
    log.write("LOG", "a");
    passHours(0.4);
    log.write("LOG", "b");
    passHours(0.2);
    log.write("LOG", "c");
    await destination.close();
    expect(files()).toEqual({ "p-17.log": "LOG:  a\nLOG:  b\n", "p-18.log": "LOG:  c\n" });
  });

  test("change by size", async () => {
    const { destination, log, passHours } = opened({ log_rotation_age: 0, log_rotation_size: 1 });
    destination.announce(log);
    log.write("LOG", "x".repeat(1100));
    passHours(1);
    log.write("LOG", "b");
    await destination.close();
    expect(Object.keys(files())).toEqual(["p-17.log", "p-18.log"]);
  });

  test("go on when a full one has no other name", async () => {
    const { destination, log } = opened({ log_rotation_size: 1 });
    destination.announce(log);
    for (let line = 0; line < 3; line++) log.write("LOG", "x".repeat(1100));
    await destination.close();
    expect(files()["p-17.log"]).toHaveLength(3 * 1107);
  });

  test("of an old name are continued, or overwritten if that is wanted", async () => {
    for (const truncate of [false, true]) {
      const { destination, log, passHours } = opened({ log_truncate_on_rotation: truncate });
      destination.announce(log);
      writeFileSync(join(directory, "logs/p-18.log"), "old\n");
      passHours(1);
      log.write("LOG", "new");
      await destination.close();
      expect(files()["p-18.log"]).toBe(truncate ? "LOG:  new\n" : "old\nLOG:  new\n");
    }
  });

  test("follow a reload to another directory", async () => {
    const { destination, log, reload } = opened();
    destination.announce(log);
    log.write("LOG", "a");
    reload({ log_directory: "other" });
    log.write("LOG", "b");
    await destination.close();
    expect(files("other")).toEqual({ "p-17.log": "LOG:  b\n" });
  });

  test("change on request", async () => {
    const { destination, log, passHours } = opened({ log_rotation_age: 0 });
    destination.announce(log);
    passHours(1);
    destination.rotate();
    log.write("LOG", "a");
    await destination.close();
    expect(files()["p-18.log"]).toBe("LOG:  a\n");
  });

  test("stay when the next cannot be opened, until a reload", async () => {
    const { destination, log, passHours, reload } = opened();
    destination.announce(log);
    writeFileSync(join(directory, "blocked"), "");
    reload({ log_directory: "blocked/logs" });
    log.write("LOG", "a");
    passHours(3);
    log.write("LOG", "b");
    reload({ log_directory: "free" });
    log.write("LOG", "c");
    await destination.close();
    expect(files()["p-17.log"]).toMatch(
      /^LOG: {2}could not open log file ".*blocked\/logs\/p-17.log": .*\nLOG: {2}disabling automatic rotation \(use SIGHUP to re-enable\)\nLOG: {2}a\nLOG: {2}b\n$/,
    );
    expect(files("free")).toEqual({ "p-20.log": "LOG:  c\n" });
  });

  test("that cannot be opened at the start are fatal", () => {
    writeFileSync(join(directory, "blocked"), "");
    expect(() => opened({ log_directory: "blocked/logs" })).toThrow(/^could not open log file "/);
  });
});

describe("syslog", () => {
  const { PATH: path = "" } = process.env;
  const setPath = (to: string) => Object.assign(process.env, { PATH: to });
  afterEach(() => {
    setPath(path);
  });

  test("receives each message by way of logger, with its priority", async () => {
    const heard = join(directory, "heard");
    writeFileSync(join(directory, "logger"), `#!/bin/sh\n{ echo "$@"; cat; } > ${heard}\n`, {
      mode: 0o755,
    });
    setPath(`${directory}:${path}`);
    const { destination, log } = opened({
      logging_collector: false,
      log_destination: ["syslog"],
      syslog_facility: "LOCAL1",
    });
    log.write("LOG", "a", { detail: "b" });
    log.write("FATAL", "c");
    await destination.close();
    const wanted = `--prio-prefix --id=${process.pid} --tag pgpool\n<142>[1-1] LOG:  a\n<142>[1-2] DETAIL:  b\n<139>[2] FATAL:  c\n`;
    await eventually(
      () => readFileSync(heard, "utf8"), // it may take longer than its end is waited for
      (text) => text === wanted,
      { what: wanted },
    );
  });
});
