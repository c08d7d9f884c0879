import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { CommandFailure, describeFailure } from "../../cmd/failure.ts";
import { ConfigError } from "../../core/errors.ts";

const view = {
  program: "pg_md5",
  debug: false,
  now: new Date(2026, 10, 2, 3, 4, 5, 6),
  pid: 42,
} as const;
const prefix = "2026-11-02 03:04:05.006: main pid 42: ";

describe("describeFailure()", () => {
  test("a server's failure reads as its log does, and ends with 3", () => {
    const error = new ConfigError("syntax error", { detail: "parse error", hint: "look" });
    expect(describeFailure(error, { ...view, style: "log" })).toEqual({
      text: `${prefix}FATAL:  syntax error\n${prefix}DETAIL:  parse error\n${prefix}HINT:  look\n`,
      exitCode: 3,
    });
  });

  test("a tool's failure begins with its name, and ends with 1", () => {
    const error = new ConfigError("syntax error", { detail: "parse error" });
    expect(describeFailure(error, { ...view, style: "plain" })).toEqual({
      text: "pg_md5: syntax error\nDETAIL:  parse error\n",
      exitCode: 1,
    });
  });

  test("a failure that names its exit code ends with it", () => {
    const error = new CommandFailure("could not read pid file", { exitCode: 1 });
    expect(describeFailure(error, { ...view, style: "log" }).exitCode).toBe(1);
  });

  test("a bug is one line without a stack, which only debugging shows", () => {
    const bug = new TypeError("x is\nundefined");
    const quiet = describeFailure(bug, { ...view, style: "plain" });
    expect(quiet.text).toBe("pg_md5: internal error: x is undefined\n");
    const loud = describeFailure(bug, { ...view, style: "plain", debug: true });
    expect(loud.text).toStartWith(quiet.text);
    expect(loud.text).toContain("failure.test.ts");
  });

  test("what the system refuses is told in its own words", () => {
    let refused: unknown;
    try {
      readFileSync("/nowhere/at/all");
    } catch (error) {
      refused = error;
    }
    expect(describeFailure(refused, { ...view, style: "plain" }).text).toBe(
      "pg_md5: ENOENT: no such file or directory, open '/nowhere/at/all'\n",
    );
  });

  test("whatever is thrown is told", () => {
    expect(describeFailure("oh", { ...view, style: "plain" }).text).toBe(
      "pg_md5: internal error: oh\n",
    );
  });
});
