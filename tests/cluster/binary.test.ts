/**
 * The compiled binary alone: copied away, and run where neither the sources nor node_modules exist. A
 * bundler that leaves paths of the build machine in it works on that machine and nowhere else.
 */
import { describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { classicNames } from "../../cmd/classic_names.ts";
import { versionLine } from "../../core/version.ts";
import {
  missing,
  mustRun,
  ourBinary,
  Pgpool,
  Postgres,
  repositoryRoot,
  runCommand,
  Scope,
} from "./harness.ts";

/** The ways to a mount namespace of one's own: as root, or by a user namespace where allowed. */
const waysApart = [
  ["unshare", "-m"],
  ["unshare", "-r", "-m"],
] as const;

async function findWayApart(): Promise<readonly [string, ...string[]] | undefined> {
  for (const way of waysApart) {
    const ran = await runCommand([...way, "mount", "-t", "tmpfs", "none", "/mnt"]).catch(() => {});
    if (ran?.code === 0) return way;
  }
  return undefined;
}

const wayApart = await findWayApart();
const lacking = [
  ...(await missing("dist/pgpool")),
  ...(wayApart === undefined ? ["a mount namespace (unshare)"] : []),
];
const hidden = (title: string, body: () => Promise<void>, timeoutMs?: number) =>
  lacking.length === 0
    ? test(title, body, timeoutMs)
    : test.skip(`${title} [not available: ${lacking.join(", ")}]`, body);

/** A copy of the binary, and a program that runs it with the repository covered by nothing. */
async function isolate(scope: Scope): Promise<{ readonly bin: string; readonly wrapped: string }> {
  const bin = join(scope.dir, "alone", "pgpool");
  mkdirSync(join(scope.dir, "alone"));
  copyFileSync(ourBinary()?.path ?? "", bin);
  const wrapped = join(scope.dir, "alone", "wrapped");
  const way = (wayApart ?? []).join(" ");
  const cover = `mount -t tmpfs none '${repositoryRoot}' && cd / && exec "$0" "$@"`;
  writeFileSync(
    wrapped,
    `#!/bin/sh\nexec ${way} sh -c '${cover.replaceAll("'", "'\\''")}' ${bin} "$@"\n`,
    {
      mode: 0o755,
    },
  );
  return { bin, wrapped };
}

describe("the binary, with sources and node_modules hidden", () => {
  hidden("the sources are hidden indeed", async () => {
    const way = wayApart ?? ["false"];
    const cover = `mount -t tmpfs none '${repositoryRoot}' && ls -A '${repositoryRoot}'`;
    expect(await mustRun([way[0], ...way.slice(1), "sh", "-c", cover])).toBe("");
  });

  hidden("tells its version, and refuses a wrong option", async () => {
    await using scope = new Scope();
    const { wrapped } = await isolate(scope);
    const version = await runCommand([wrapped, "--version"]);
    expect(version).toMatchObject({ code: 0, stdout: "", stderr: `${versionLine}\n` });
    const wrong = await runCommand([wrapped, "-Z"]);
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toStartWith("pgpool: illegal option -- Z\n");
  });

  hidden("installs itself, and is each tool by its classic name", async () => {
    await using scope = new Scope();
    const { wrapped } = await isolate(scope);
    const prefix = join(scope.dir, "prefix");
    await mustRun([wrapped, "install", "--prefix", prefix]);
    expect(readdirSync(join(prefix, "bin")).sort()).toEqual(["pgpool", ...classicNames].sort());
    expect(readlinkSync(join(prefix, "bin/pg_md5"))).toBe("pgpool");
    const hash = await mustRun([join(prefix, "bin/pg_md5"), "postgres"]);
    expect(hash).toBe("e8a48653851e28c69d0506508fb27fc5\n");
    const pcp = await runCommand([join(prefix, "bin/pcp_node_info"), "--version"]);
    expect(pcp.stderr).toStartWith("pcp_node_info (pgpool-II) ");
    const help = await runCommand([join(prefix, "bin/pgpool"), "--help"]);
    expect(help.stderr).toContain(join(prefix, "etc/pgpool.conf"));
  });

  hidden(
    "serves, which takes the SQL parser it carries",
    async () => {
      await using scope = new Scope();
      const { wrapped } = await isolate(scope);
      const primary = await Postgres.create(scope);
      const standby = await primary.createStandby();
      const pgpool = await Pgpool.create(scope, {
        program: { kind: "ours", path: wrapped },
        backends: [
          { host: primary.host, port: primary.port, weight: 0 },
          { host: standby.host, port: standby.port, weight: 1 },
        ],
      });
      await pgpool.untilServing();
      // Only who parsed it knows that the one may be read anywhere and the other locks a row.
      const read = await pgpool.sql("SELECT inet_server_port() AS port");
      expect(read).toEqual([{ port: String(standby.port) }]);
      const lock = await pgpool.sql(
        "SELECT inet_server_port() AS port FROM (SELECT 1 FROM pg_class LIMIT 1 FOR UPDATE) AS x",
      );
      expect(lock).toEqual([{ port: String(primary.port) }]);
    },
    300_000,
  );
});
