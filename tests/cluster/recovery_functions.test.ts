/** The recovery functions without a C extension, in real servers; and `pgpool install-functions`. */
import { expect } from "bun:test";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { recoveryFunctionsSql } from "../../core/cluster/recovery_functions.ts";
import {
  eventually,
  everyPostgres,
  findPostgres,
  ourBinary,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";

const functionsTest = await testNeeding("dist/pgpool", "postgres");
const extensionTest = await testNeeding("dist/pgpool", "postgresql-15-pgpool2");

/** A script in the data directory that writes down how it was called, then ends with `code`. */
function putScript(scope: Scope, postgres: Postgres, name: string, code = 0): string {
  const seen = join(scope.dir, `${name}.seen`);
  const path = join(postgres.dataDir, name);
  const body = [
    `{ for word in "$@"; do printf '[%s]' "$word"; done; echo`,
    'pwd; id -un; wc -c; printf "%s\\n" "$0"; }',
  ].join("\n");
  writeFileSync(path, `#!/bin/sh\n${body} > ${seen}\nexit ${code}\n`);
  chmodSync(path, 0o755);
  scope.giveToOwner(path);
  return seen;
}

const lines = (path: string): readonly string[] => readFileSync(path, "utf8").trim().split("\n");

for (const install of await everyPostgres()) {
  functionsTest(
    `scripts get their arguments as they are, PostgreSQL ${install.major}`,
    async () => {
      await using scope = new Scope();
      const postgres = await Postgres.create(scope, { install });
      const { dataDir } = postgres;
      for (const again of [1, 2]) {
        await postgres.sql(recoveryFunctionsSql, "template1");
        expect(again).toBeLessThan(3);
      }
      const ask = (sql: string) => postgres.value(sql, "template1");
      const seen = putScript(scope, postgres, "first_stage");
      const words = [
        "'first_stage'",
        "'ho st'",
        "'/d''ir/$HOME`'",
        "'5432'",
        "1",
        "'5433'",
        "'main'",
      ];
      const given = ["ho st", "/d'ir/$HOME`", "5432", "1", "5433", "main"];
      for (const count of [3, 4, 5, 6, 7]) {
        expect(await ask(`SELECT pgpool_recovery(${words.slice(0, count).join(", ")})`)).toBe("t");
        expect(lines(seen)).toEqual([
          [dataDir, ...given.slice(0, count - 1)].map((word) => `[${word}]`).join(""),
          dataDir,
          scope.owner.name,
          "0",
          `${dataDir}/first_stage`,
        ]);
      }
      const started = putScript(scope, postgres, "pgpool_remote_start");
      expect(await ask("SELECT pgpool_remote_start('host 1', '/data/1')")).toBe("t");
      expect(lines(started)[0]).toBe("[host 1][/data/1]");
      expect(await ask("SELECT pgpool_remote_start(NULL, '/data/1')")).toBeNull();
    },
  );

  functionsTest(
    `a script that fails is an error that says how, PostgreSQL ${install.major}`,
    async () => {
      await using scope = new Scope();
      const postgres = await Postgres.create(scope, { install });
      await postgres.sql(recoveryFunctionsSql);
      await postgres.sql("CREATE ROLE plain LOGIN");
      putScript(scope, postgres, "broken", 7);
      const as = async (user: string, sql: string) => {
        const login = { user, database: "test" };
        const client = await RawClient.login({ path: postgres.socketPath }, login);
        try {
          return await client.rows(sql).then(
            () => "no error",
            (error: unknown) => String(error),
          );
        } finally {
          client.destroy();
        }
      };
      const call = (script: string) => `SELECT pgpool_recovery('${script}', 'h', '/d', '1')`;
      expect(await as(superuser, call("broken"))).toContain("pgpool_recovery failed");
      await eventually(() => postgres.log().includes("child process exited with exit code 7"));
      expect(await as(superuser, call("missing"))).toContain("pgpool_recovery failed");
      await postgres.setHba(["local all all trust"]);
      expect(await as("plain", call("broken"))).toContain(
        "must be superuser to use pgpool_recovery function",
      );
      expect(await as("plain", "SELECT pgpool_pgctl('stop', 'f')")).toContain("must be superuser");
    },
  );

  functionsTest(`pg_ctl and the switch of WAL work, PostgreSQL ${install.major}`, async () => {
    await using scope = new Scope();
    const archive = scope.makeDir("archive");
    const postgres = await Postgres.create(scope, {
      install,
      settings: { archive_mode: "on", archive_command: `cp %p ${archive}/%f` },
    });
    await postgres.sql(recoveryFunctionsSql);
    const path = await postgres.value(
      `CREATE TABLE t (n int); SELECT pgpool_switch_xlog('${archive}')`,
    );
    expect(path?.startsWith(`${archive}/`)).toBe(true);
    expect(existsSync(path ?? "")).toBe(true);
    const pgCtl = `SET pgpool.pg_ctl = '${postgres.install.bin}/pg_ctl'`;
    expect(await postgres.value(`${pgCtl}; SELECT pgpool_pgctl('reload', '')`)).toBe("t");
    await eventually(() => postgres.log().includes("received SIGHUP"));
    // The server may be quicker to end this connection than to answer.
    const stop = postgres.value(`${pgCtl}; SELECT pgpool_pgctl('stop', 'fast')`);
    expect(await stop.catch(String)).toMatch(/^t$|57P01/);
    await eventually(() => !postgres.running);
  });
}

functionsTest("install-functions puts them where it is told, by password too", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope, {
    hba: ["host all all 127.0.0.1/32 scram-sha-256"],
  });
  await postgres.sql("CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'open sesame'");
  const binary = ourBinary()?.path ?? "";
  const at = ["-h", postgres.host, "-p", String(postgres.port), "-U", "boss"];
  const install = (password: string, ...args: string[]) =>
    runCommand([binary, "install-functions", ...at, ...args], { env: { PGPASSWORD: password } });

  const done = await install("open sesame", "test", "template1");
  expect(done).toMatchObject({ code: 0, stderr: "" });
  expect(done.stdout).toContain("template1");
  const count = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'pgpool\\_%'";
  expect(await postgres.value(count, "template1")).toBe("8");
  expect(await postgres.value(count, "postgres")).toBe("0");

  const refused = await install("wrong", "test");
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain('password authentication failed for user "boss"');

  const printed = await runCommand([binary, "install-functions", "--print"]);
  expect(printed).toMatchObject({ code: 0, stdout: recoveryFunctionsSql });
});

extensionTest("install-functions leaves a database with the C extension as it is", async () => {
  await using scope = new Scope();
  const postgres = await Postgres.create(scope, { install: await findPostgres("system") });
  await postgres.sql("CREATE EXTENSION pgpool_recovery");
  const binary = ourBinary()?.path ?? "";
  const at = ["-h", postgres.socketDir, "-p", String(postgres.port), "-U", superuser];
  const done = await runCommand([binary, "install-functions", ...at, "test", "postgres"]);
  expect(done).toMatchObject({
    code: 0,
    stdout:
      "test: has the extension pgpool_recovery, left as it is\npostgres: functions installed\n",
  });
  const language = "SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = prolang";
  const named = `${language} WHERE proname LIKE 'pgpool\\_%' AND lanname = 'c'`;
  expect(await postgres.value(named)).toBe("8");
});
