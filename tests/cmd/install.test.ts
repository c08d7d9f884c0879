import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { classicNames } from "../../cmd/classic_names.ts";
import { layOut } from "../../cmd/install.ts";
import { sampleFiles, scriptSamples } from "../../cmd/samples.ts";

let dir = "";
let binary = "";
let prefix = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "install-"));
  binary = join(dir, "built");
  prefix = join(dir, "deep", "prefix");
  writeFileSync(binary, "one", { mode: 0o700 });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe("layOut()", () => {
  test("makes bin/ with every classic name, etc/ with the samples, share/pgpool-II/", () => {
    layOut(prefix, binary, sampleFiles());
    expect(readdirSync(prefix).sort()).toEqual(["bin", "etc", "sbin", "share"]);
    expect(readlinkSync(join(prefix, "sbin"))).toBe("bin");
    expect(readdirSync(join(prefix, "bin")).sort()).toEqual(["pgpool", ...classicNames].sort());
    for (const name of classicNames) {
      expect(readlinkSync(join(prefix, "bin", name))).toBe("pgpool");
    }
    expect(readFileSync(join(prefix, "bin/pgpool"), "utf8")).toBe("one");
    expect(statSync(join(prefix, "bin/pgpool")).mode & 0o777).toBe(0o755);
    expect(readdirSync(join(prefix, "etc")).sort()).toEqual(Object.keys(sampleFiles()).sort());
    expect(readdirSync(join(prefix, "share/pgpool-II"))).toEqual(["README"]);
  });

  test("scripts are executable, configuration is not", () => {
    layOut(prefix, binary, sampleFiles(), scriptSamples());
    const mode = (name: string) => statSync(join(prefix, "etc", name)).mode & 0o777;
    expect(Object.keys(scriptSamples())).toContain("failover.sh.sample");
    for (const name of Object.keys(scriptSamples())) expect(mode(name)).toBe(0o755);
    for (const name of Object.keys(sampleFiles())) expect(mode(name)).toBe(0o644);
  });

  test("done again, brings binary and samples up to date and leaves the operator's files", () => {
    layOut(prefix, binary, sampleFiles());
    writeFileSync(join(prefix, "etc/pgpool.conf"), "port = 1\n");
    writeFileSync(join(prefix, "etc/pgpool.conf.sample"), "old");
    writeFileSync(binary, "two");
    const before = lstatSync(join(prefix, "bin/pgpool")).ino;
    layOut(prefix, binary, sampleFiles());
    expect(readFileSync(join(prefix, "bin/pgpool"), "utf8")).toBe("two");
    expect(lstatSync(join(prefix, "bin/pgpool")).ino).not.toBe(before); // a new file: the old may run
    expect(readFileSync(join(prefix, "etc/pgpool.conf"), "utf8")).toBe("port = 1\n");
    expect(readFileSync(join(prefix, "etc/pgpool.conf.sample"), "utf8")).not.toBe("old");
    const left = readdirSync(join(prefix, "bin")).filter((name) => name.includes(".new"));
    expect(left).toEqual([]);
  });

  test("the installed binary may install itself where it is", () => {
    layOut(prefix, binary, sampleFiles());
    layOut(prefix, join(prefix, "bin/pgpool"), sampleFiles());
    expect(readFileSync(join(prefix, "bin/pgpool"), "utf8")).toBe("one");
  });

  test.each([
    ["a program", (path: string) => writeFileSync(path, "real")],
    ["a link elsewhere", (path: string) => symlinkSync("/usr/sbin/pcp_node_info", path)],
  ])("refuses a directory where a classic name is %s, before it writes anything", (_, occupy) => {
    mkdirSync(join(prefix, "bin"), { recursive: true });
    occupy(join(prefix, "bin/pcp_node_info"));
    expect(() => layOut(prefix, binary, sampleFiles())).toThrow(
      `${join(prefix, "bin/pcp_node_info")} exists and is not a link to pgpool`,
    );
    expect(existsSync(join(prefix, "bin/pgpool"))).toBe(false);
    expect(existsSync(join(prefix, "etc"))).toBe(false);
  });
});

test("there are 20 classic names besides pgpool", () => {
  expect(new Set(classicNames).size).toBe(20);
});
