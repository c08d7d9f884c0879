import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import {
  isAlive,
  parsePid,
  readPidFile,
  refuseSecondStart,
  removePidFile,
  writePidFile,
} from "../../cmd/pid_file.ts";
import { eventually } from "../cluster/machine.ts";

let dir = "";
let path = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "pid-file-"));
  path = join(dir, "pgpool.pid");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A number that no process has: above Linux's and macOS's largest. */
const noProcess = 2 ** 30;

/** A process of ours that has ended and been waited for, and so is certainly gone. */
const endedPid = (): number => Bun.spawnSync(["true"]).pid;

describe("parsePid()", () => {
  test.each<[text: string, pid: number | undefined]>([
    ["123\0", 123],
    ["123", 123],
    ["123\n", 123],
    ["123\0rest", 123],
    ["", undefined],
    ["abc\0", undefined],
    ["12x\0", undefined],
    ["0\0", undefined],
    ["-1\0", undefined],
    ["99999999999999999999\0", undefined],
  ])("%p is %p", (text, pid) => {
    expect(parsePid(text)).toBe(pid);
  });

  test("whatever the file holds, a pid is a positive number or absent", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const pid = parsePid(text);
        expect(pid === undefined || pid > 0).toBe(true);
      }),
    );
  });
});

test("writePidFile() writes the decimal pid and one NUL byte, readable by its owner alone", () => {
  writePidFile(path);
  expect(readFileSync(path, "latin1")).toBe(`${process.pid}\0`);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test("writePidFile() replaces a stale file, whatever its mode was", () => {
  writeFileSync(path, "1\0", { mode: 0o644 });
  writePidFile(path);
  expect(readFileSync(path, "latin1")).toBe(`${process.pid}\0`);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test("writePidFile() fails with exit code 3 where no file can be made", () => {
  expect(() => writePidFile(join(dir, "no", "such", "dir.pid"))).toThrow(
    expect.objectContaining({ exitCode: 3 }),
  );
});

describe("readPidFile() and refuseSecondStart()", () => {
  const refusal = (): { refused: unknown; notices: string[] } => {
    const notices: string[] = [];
    const refused = refuseSecondStart(path, (line) => notices.push(line));
    return { refused, notices };
  };

  test("a missing file is in nobody's way", () => {
    expect(readPidFile(path)).toEqual({ kind: "missing" });
    expect(refusal()).toEqual({ refused: undefined, notices: [] });
  });

  test("a living pgpool refuses the start, with exit code 1", async () => {
    await using child = Bun.spawn(["sh", "-c", "read forever", "pgpool"], { stdin: "pipe" });
    const other = child.pid;
    writeFileSync(path, `${other}\0`);
    expect(readPidFile(path)).toEqual({ kind: "running", pid: other });
    expect(refusal()).toEqual({
      refused: {
        text: `ERROR: pid file found. is another pgpool(${other}) is running?\n`,
        exitCode: 1,
      },
      notices: [],
    });
  });

  test("another program that has got the number since is in nobody's way", async () => {
    await using child = Bun.spawn(["sleep", "600"]);
    await eventually(() => readFileSync(`/proc/${child.pid}/comm`, "utf8") === "sleep\n"); // not our copy any more
    writeFileSync(path, `${child.pid}\0`);
    expect(readPidFile(path)).toEqual({ kind: "stale", pid: child.pid });
    expect(refusal()).toMatchObject({ refused: undefined, notices: [expect.any(String)] });
  });

  test("a file that holds our own number was left by an earlier life", () => {
    writeFileSync(path, `${process.pid}\0`);
    expect(refusal()).toEqual({ refused: undefined, notices: [] });
  });

  test.each([
    ["dead", `${noProcess}\0`],
    ["nonsense", "hello\0"],
  ])("a %s pid is told and ignored", (_, text) => {
    writeFileSync(path, text);
    expect(readPidFile(path).kind).toBe("stale");
    expect(refusal()).toEqual({
      refused: undefined,
      notices: ["NOTICE: pid file found but it seems bogus. Trying to start pgpool anyway...\n"],
    });
  });

  test("an empty file is fatal, with exit code 3", () => {
    writeFileSync(path, "");
    expect(() => readPidFile(path)).toThrow(
      expect.objectContaining({
        message: `EOF detected while reading pid file "${path}"`,
        exitCode: 3,
      }),
    );
  });
});

describe("removePidFile()", () => {
  test("removes the file of the pid it is told", () => {
    writePidFile(path);
    removePidFile(path);
    expect(existsSync(path)).toBe(false);
    removePidFile(path);
  });

  test("leaves the file of a server that started since", () => {
    writeFileSync(path, `${process.ppid}\0`);
    removePidFile(path);
    expect(existsSync(path)).toBe(true);
  });
});

describe("isAlive()", () => {
  test("is true of ourselves and false of a process that has ended", () => {
    expect(isAlive(process.pid)).toBe(true);
    expect(isAlive(endedPid())).toBe(false);
  });

  test.if(process.platform === "linux")("is false of a zombie, which serves nobody", async () => {
    // The child ends once its parent has become a program that never waits for it.
    const child = `while [ "$(cat /proc/$PPID/comm)" != tee ]; do :; done`;
    const parent = Bun.spawn(["sh", "-c", `sh -c '${child}' & echo $!; exec tee`], {
      stdin: "pipe",
      stdout: "pipe",
    });
    try {
      const { value } = await parent.stdout.getReader().read();
      const pid = Number(new TextDecoder().decode(value));
      await eventually(
        () => readFileSync(`/proc/${pid}/stat`, "latin1"),
        (stat) => stat.includes(") Z"),
      );
      expect(isAlive(pid)).toBe(false);
    } finally {
      parent.kill();
      await parent.exited;
    }
  });
});
