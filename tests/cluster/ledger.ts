/**
 * "Nothing leaks", as something a test can ask: a bystander stays connected through a fault, and
 * afterwards slots, pool and server connections must be what they were, and the others served.
 */
import { eventually } from "./machine.ts";
import type { MockPostgres } from "./mock_postgres.ts";
import type { Pgpool, ShowRow } from "./pgpool.ts";
import { Postgres, superuser } from "./postgres.ts";
import { gatherResult, type Login, RawClient } from "./raw_client.ts";
import { cString, frame } from "./raw_peer.ts";

/** Who pgpool itself logs in as for its checks, so that its own connections are told apart. */
export const monitor = "monitor";

type Account = {
  /** Client slots that are not waiting for a client. */
  readonly busySlots: number;
  /** Backend connections lent to a session, by SHOW pool_pools. */
  readonly lent: number;
  /** Connections at the server that pgpool's books do not know. */
  readonly unknown: number;
};

export class Ledger {
  readonly #pgpool: Pgpool;
  readonly #server: Postgres | MockPostgres;
  readonly #bystander: RawClient;
  readonly #login: Login;
  readonly #before: Account;

  private constructor(
    pgpool: Pgpool,
    server: Postgres | MockPostgres,
    own: { readonly bystander: RawClient; readonly login: Login; readonly before: Account },
  ) {
    this.#pgpool = pgpool;
    this.#server = server;
    this.#bystander = own.bystander;
    this.#login = own.login;
    this.#before = own.before;
  }

  /** Connects the bystander and writes down how things stand. */
  static async open(
    pgpool: Pgpool,
    server: Postgres | MockPostgres,
    login: Login = { user: superuser, database: "test" },
  ): Promise<Ledger> {
    // Where the time for a log-in is short, a busy machine may need more than one try.
    const bystander = await eventually(() => RawClient.login(pgpool.tcp, login, 30_000));
    const account = () => takeAccount(bystander, server);
    // The slot of whoever was here before is freed a moment after its socket closed.
    const before = await eventually(account, ({ busySlots, lent }) => busySlots === 1 && lent >= 1);
    return new Ledger(pgpool, server, { bystander, login, before });
  }

  get bystander(): RawClient {
    return this.#bystander;
  }

  /** Fails unless all is as before, the bystander answers and a newcomer is served. */
  async balanced(): Promise<void> {
    const now = () => takeAccount(this.#bystander, this.#server);
    const same = (account: Account) =>
      account.busySlots === this.#before.busySlots &&
      account.lent === this.#before.lent &&
      account.unknown === 0;
    await eventually(now, same, {
      what: `slots and connections to be as before: ${JSON.stringify(this.#before)}`,
    });
    const newcomer = await eventually(() => RawClient.login(this.#pgpool.tcp, this.#login));
    await newcomer.rows("SELECT 1");
    await newcomer.terminate();
  }

  async close(): Promise<void> {
    if (this.#bystander.ended) return;
    await this.#bystander.terminate();
  }
}

async function takeAccount(
  bystander: RawClient,
  server: Postgres | MockPostgres,
): Promise<Account> {
  const processes = await show(bystander, "pool_processes");
  const pools = await show(bystander, "pool_pools");
  const known = new Set(pools.map(({ pool_backendpid }) => pool_backendpid));
  const present = await serverPids(server);
  return {
    busySlots: processes.filter(({ status }) => status !== "Wait for connection").length,
    lent: pools.filter(({ pool_connected }) => pool_connected === "1").length,
    unknown: present.filter((pid) => !known.has(pid)).length,
  };
}

/** The last non-empty result: Pgpool-II 4.3 sends a row description twice for some of these. */
async function show(client: RawClient, name: string): Promise<ShowRow[]> {
  client.send(frame("Q", cString(`SHOW ${name}`)));
  const { columns, rows } = gatherResult(await client.until("Z"));
  return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i] ?? ""])));
}

async function serverPids(server: Postgres | MockPostgres): Promise<string[]> {
  if (!(server instanceof Postgres)) return server.open.map((session) => session.pid);
  const rows = await server.sql(
    `SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'
       AND application_name <> 'harness' AND usename <> '${monitor}'`,
    "postgres",
  );
  return rows.map((row) => Object.values(row)[0] ?? "");
}
