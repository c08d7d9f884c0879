/**
 * `pgpool install-functions`: the functions that online recovery calls, made in databases of the
 * primary without the extension's C library (core/cluster/recovery_functions.ts).
 */
import { userInfo } from "node:os";
import { recoveryExtensionSql, recoveryFunctionsSql } from "../core/cluster/recovery_functions.ts";
import { CommandFailure } from "./failure.ts";
import { type Command, defineCommand } from "./options.ts";
import { SqlClient, type SqlLogin, type SqlTarget } from "./sql_client.ts";

const flags = {
  host: { short: "h", arg: "HOST", brief: "host of the primary, or directory of its Unix socket" },
  port: { short: "p", arg: "PORT", brief: "its port (5432)" },
  username: { short: "U", arg: "NAME", brief: "a superuser (default: who runs this program)" },
  print: { brief: "connect to nobody; print the statements, for psql or a migration" },
  help: { short: "?", brief: "print this help" },
} as const;

export const installFunctionsCommand: Command<typeof flags> = defineCommand({
  name: "install-functions",
  brief: "make the functions of online recovery, without a C library",
  usage: ["[-h HOST] [-p PORT] [-U NAME] [DATABASE]...", "--print"],
  flags,
  notes: `Makes pgpool_recovery, pgpool_remote_start, pgpool_pgctl and pgpool_switch_xlog in the schema
public of each DATABASE (postgres and template1 when none is named: the databases that pgpool and
Pgpool-II before 4.7 call them in). Run it again after an update; a database that has the extension
pgpool_recovery is left as it is. Once is enough: standbys have what the primary has.
Environment: PGHOST, PGPORT, PGUSER, PGPASSWORD. A server that demands TLS: use --print and psql.
`,
  help: { to: "stdout", exitCode: 0 },
  misuse: { show: "hint", to: "stderr", exitCode: 1 },
  async run(values, databases, call) {
    if (values.print) {
      call.out(recoveryFunctionsSql);
      return 0;
    }
    const { PGHOST, PGPORT, PGUSER, PGPASSWORD } = process.env;
    const port = portOf(values.port ?? PGPORT ?? "5432");
    const target = targetOf(values.host ?? PGHOST ?? "localhost", port);
    const user = values.username ?? PGUSER ?? userInfo().username;
    for (const database of databases.length > 0 ? databases : ["postgres", "template1"]) {
      const done = await installFunctions(target, { user, database, password: PGPASSWORD });
      call.out(`${database}: ${texts[done]}\n`);
    }
    return 0;
  },
});

const texts = {
  installed: "functions installed",
  extension: "has the extension pgpool_recovery, left as it is",
} as const;

/** Makes the functions in one database, all of them or none. */
export async function installFunctions(
  target: SqlTarget,
  login: SqlLogin,
): Promise<"installed" | "extension"> {
  const sql = await SqlClient.connect(target, { applicationName: "pgpool", ...login });
  try {
    if ((await sql.query(recoveryExtensionSql)).rows.length > 0) return "extension";
    await sql.query(`BEGIN;\n${recoveryFunctionsSql}\nCOMMIT`);
    return "installed";
  } finally {
    sql.close();
  }
}

function portOf(text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port > 0 && port < 65536) return port;
  throw new CommandFailure(`"${text}" is no port`, { exitCode: 1 });
}

const targetOf = (host: string, port: number): SqlTarget =>
  host.startsWith("/") ? { path: `${host}/.s.PGSQL.${port}` } : { host, port };
