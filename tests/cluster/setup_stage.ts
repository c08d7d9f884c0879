/** Installations that `pgpool setup` makes, for tests. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { ourBinary, type PostgresInstall, RawClient, runCommand, type Scope } from "./harness.ts";

export function workDir(scope: Scope): string {
  const dir = join(scope.dir, "work");
  mkdirSync(dir);
  scope.giveToOwner(dir);
  return dir;
}

/** Runs `pgpool setup` there. PostgreSQL is the machine's own choice unless told. */
export function setup(dir: string, args: readonly string[], install?: PostgresInstall) {
  const env = install === undefined ? {} : { PGBIN: install.bin };
  const binary = ourBinary()?.path ?? "";
  return runCommand([binary, "setup", ...args], { cwd: dir, env, deadlineMs: 120_000 });
}

export async function rows(scope: Scope, port: number, sql: string, database = "test") {
  const login = { user: scope.owner.name, database };
  const client = await RawClient.login({ host: "127.0.0.1", port }, login);
  try {
    return await client.rows(sql);
  } finally {
    client.destroy();
  }
}
