import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { classicNames } from "../../cmd/classic_names.ts";
import { choose, main } from "../../cmd/main.ts";
import { versionLine } from "../../core/version.ts";

/** Everything a call says, and its exit code. */
async function say(argv0: string, ...args: readonly string[]) {
  let out = "";
  let err = "";
  const exitCode = await main({
    argv0,
    args,
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { out, err, exitCode };
}

describe("choose()", () => {
  test.each<[argv0: string, args: string[], program: string, rest: string[]]>([
    ["/usr/bin/pg_md5", ["-p"], "pg_md5", ["-p"]],
    ["pcp_node_info", ["serve"], "pcp_node_info", ["serve"]],
    ["./pgpool", ["md5", "x"], "pgpool md5", ["x"]],
    ["pgpool", ["enc"], "pgpool enc", []],
    ["pgpool", ["pcp", "node_info", "-v"], "pgpool pcp node_info", ["-v"]],
    ["pgpool", ["watchdog", "cli", "-i"], "pgpool watchdog cli", ["-i"]],
    ["pgpool", ["watchdog", "info", "-n", "1"], "pgpool watchdog info", ["-n", "1"]],
    ["pgpool", ["watchdog", "inform", "DEAD"], "pgpool watchdog inform", ["DEAD"]],
    ["pgpool", ["setup", "-m", "s"], "pgpool setup", ["-m", "s"]],
    ["pgpool", ["serve", "-n"], "pgpool serve", ["-n"]],
    ["pgpool", ["-n", "serve"], "pgpool", ["-n", "serve"]],
    ["pgpool", ["-m", "f", "stop"], "pgpool", ["-m", "f", "stop"]],
    ["pgpool", [], "pgpool", []],
    ["pgpool-linux-x64", ["reload"], "pgpool-linux-x64", ["reload"]],
  ])("%s %p is %s", (argv0, args, program, rest) => {
    const choice = choose(argv0, args);
    expect([choice.program, choice.args]).toEqual([program, rest]);
  });

  test("every classic name is a tool of its own, under its words too", () => {
    const classic = choose("pgpool", []).run;
    for (const name of classicNames) {
      expect(choose(name, []).run).not.toBe(classic);
      expect(choose(name, []).program).toBe(name);
    }
  });
});

describe("main()", () => {
  test("--version and version name Pgpool-II's version third, and ours", async () => {
    const product = JSON.parse(
      readFileSync(join(import.meta.dirname, "../../package.json"), "utf8"),
    ).version;
    expect(versionLine).toMatch(/^pgpool-II version \d+\.\d+\.\d+ \([a-z]+\), pgpool /);
    expect(versionLine).toEndWith(` ${product}`);
    const text = `${versionLine}\n`;
    expect(await say("pgpool", "--version")).toEqual({ out: "", err: text, exitCode: 0 });
    expect(await say("pgpool", "-v")).toEqual({ out: "", err: text, exitCode: 0 });
    expect(await say("pgpool", "version")).toEqual({ out: text, err: "", exitCode: 0 });
  });

  test("--help speaks of both ways on stderr, help on stdout", async () => {
    const { out, err, exitCode } = await say("pgpool", "--help");
    expect([out, exitCode]).toEqual(["", 0]);
    expect(err).toContain("-D, --discard-status");
    expect(err).toContain("pgpool serve|md5|enc|setup|install");
    expect(await say("pgpool", "help")).toEqual({ out: err, err: "", exitCode: 0 });
    const serve = await say("pgpool", "help", "serve");
    expect(serve).toEqual(await say("pgpool", "serve", "--help"));
    expect(serve.out).toStartWith("pgpool serve - ");
  });

  test.each([
    [["-c"], "pgpool: illegal option -- c\n"],
    [["--no-such"], "pgpool: illegal option -- no-such\n"],
    [["-f"], "pgpool: option requires an argument -- f\n"],
    [["-m", "quickly", "stop"], ""],
    [["-f", "/nowhere/pgpool.conf", "start"], ""],
    [["-f", "/nowhere/pgpool.conf", "stop", "now"], ""],
  ])("%p is refused with the usage and exit code 1", async (args, message) => {
    const { out, err, exitCode } = await say("pgpool", ...args);
    expect([out, exitCode]).toEqual(["", 1]);
    expect(err).toBe(message + (await say("pgpool", "--help")).err);
  });

  test.each([
    ["pcp_node_info", [], "pcp_node_info"],
    ["pgpool", ["pcp", "node_info"], "pgpool pcp node_info"],
    ["pgpool", ["pcp", "node-info"], "pgpool pcp node_info"],
  ])("%s %p is the same tool under another name", async (argv0, args, name) => {
    const { out, err, exitCode } = await say(argv0, ...args, "--help");
    expect([out, exitCode]).toEqual(["", 0]);
    expect(err).toStartWith(`${name} - `);
  });

  test("pgpool pcp lists its programs, ours among them", async () => {
    for (const [args, exitCode] of [
      [["pcp"], 1],
      [["pcp", "--help"], 0],
    ] as const) {
      const said = await say("pgpool", ...args);
      expect([said.out, said.exitCode]).toEqual(["", exitCode]);
      for (const name of ["attach_node", "watchdog_info", "status"]) {
        expect(said.err).toContain(`  pgpool pcp ${name}\n`);
      }
    }
  });

  test.each([
    ["pcp_fly", [], "pcp_fly"],
    ["pgpool", ["pcp", "fly"], "pcp_fly"],
  ])("%s %p is no PCP utility", async (argv0, args, name) => {
    expect(await say(argv0, ...args)).toEqual({
      out: "",
      err: `${name} is a invalid PCP utility\n`,
      exitCode: 1,
    });
  });
});
