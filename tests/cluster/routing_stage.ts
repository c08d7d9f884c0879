/**
 * The cluster that the table of routing cases speaks of: a primary and two standbys with its
 * tables and functions, and our binary in front, in one configuration after the other.
 */
import {
  type CaseGroup,
  caseGroups,
  type RoutingCase,
  weightsOf,
} from "../proxy/routing/case_table.ts";
import {
  bind,
  cString,
  describePortal,
  eventually,
  execute,
  frame,
  gatherResult,
  Pgpool,
  Postgres,
  type PostgresInstall,
  parse,
  type QueryResult,
  RawClient,
  type RawFrame,
  type Scope,
  sync,
} from "./harness.ts";
import { StatementLog, statementLogSettings } from "./statement_log.ts";

/** How a client says its statements. */
export type Way =
  /** Each with its answer before the next, in the protocol that the case asks for. */
  | "as written"
  /** Each as Parse, Bind, Describe, Execute, Sync, with its answer before the next. */
  | "extended"
  /** As that, but everything is sent before any answer is read. */
  | "pipelined"
  /** As "extended", but the case's own statement is parsed, with a name, before all others. */
  | "prepared";

/** What one case led to. */
export type Outcome = {
  /** PostgreSQL refused to parse it at the beginning, so nothing followed ("prepared" only). */
  readonly refused: boolean;
  /** Per node, what of the case's own statement came to the server, in whatever message. */
  readonly reached: readonly (readonly string[])[];
  /** Answers to the case's own statement. */
  readonly answer: QueryResult;
};

/** Tables and functions by the names that the cases use (load-balance.md section 12). */
const rows = "INSERT INTO t1 VALUES (1, 'a'), (2, 'b')";
const schema = `
  CREATE TABLE t1 (id int, v text);
  CREATE TABLE t2 (id int, ts timestamptz DEFAULT now());
  CREATE TABLE ser (id serial, v text);
  CREATE SEQUENCE seq1;
  CREATE UNLOGGED TABLE tunlog (id int);
  CREATE TABLE "Mixed Case" (id int);
  CREATE TABLE part (id int) PARTITION BY RANGE (id);
  CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (100);
  CREATE TABLE trls (id int);
  ALTER TABLE trls ENABLE ROW LEVEL SECURITY;
  CREATE VIEW v1 AS SELECT * FROM t1;
  CREATE VIEW v_unlog AS SELECT * FROM tunlog;
  CREATE MATERIALIZED VIEW mv1 AS SELECT * FROM t1;
  CREATE SCHEMA s1;
  CREATE TABLE s1.ts1 (id int);
  CREATE FUNCTION f_vol() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
  CREATE FUNCTION f_write() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t2(id) VALUES (1) RETURNING id';
  CREATE FUNCTION get_it() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
  CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
  CREATE FUNCTION set_it() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
  CREATE FUNCTION s1.f_sch() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
  CREATE FUNCTION f_set() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT 1';
  CREATE FUNCTION f_immut() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
  CREATE PROCEDURE p1() LANGUAGE sql AS 'SELECT 1';
  CREATE ROLE u1 LOGIN SUPERUSER;
  CREATE ROLE u2 LOGIN SUPERUSER;
`;

const settings = { ...statementLogSettings, max_prepared_transactions: 5, wal_level: "logical" };

async function createServer(scope: Scope, install: PostgresInstall): Promise<Postgres> {
  const server = await Postgres.create(scope, { install, settings, databases: ["test", "db2"] });
  await server.sql(schema);
  return server;
}

/** What a reload cannot change. */
type StartSettings = {
  readonly backend_clustering_mode: CaseGroup["mode"];
  readonly load_balance_mode: string;
};

export class RoutingStage {
  readonly #scope: Scope;
  readonly #nodes: readonly Postgres[];
  readonly #logs: readonly StatementLog[];
  #pgpool: Pgpool | undefined;
  /** What the running process was started with and cannot change. */
  #started = "";
  /** Of all that groups set, the values it has of itself: a line that is gone leaves its own behind. */
  #defaults: Record<string, string> = {};
  #reloads = 0;

  private constructor(scope: Scope, nodes: readonly Postgres[]) {
    this.#scope = scope;
    this.#nodes = nodes;
    this.#logs = nodes.map((node) => new StatementLog(node));
  }

  /** For all modes but logical replication. */
  static async streaming(scope: Scope, install: PostgresInstall): Promise<RoutingStage> {
    const primary = await createServer(scope, install);
    await primary.sql(rows);
    const standbys = [await primary.createStandby(settings), await primary.createStandby(settings)];
    return new RoutingStage(scope, [primary, ...standbys]);
  }

  /** Servers of which none knows of another, with the same in them. */
  static async replicated(scope: Scope, install: PostgresInstall): Promise<RoutingStage> {
    const nodes = await Promise.all([createServer(scope, install), createServer(scope, install)]);
    for (const node of nodes) await node.sql(rows);
    return new RoutingStage(scope, nodes);
  }

  /** Servers that all take writes: what is written on the first comes to the others as well. */
  static async logical(scope: Scope, install: PostgresInstall): Promise<RoutingStage> {
    const publisher = await createServer(scope, install);
    const subscribers = [await createServer(scope, install), await createServer(scope, install)];
    await publisher.sql("CREATE PUBLICATION everything FOR TABLE t1, t2");
    // Its WAL is the longest by far, of which nothing follows: see the test of the delays.
    await publisher.sql("CREATE TABLE unpublished AS SELECT generate_series(1, 100000)");
    const source = `host=${publisher.socketDir} port=${publisher.port} user=postgres dbname=test`;
    for (const subscriber of subscribers) {
      // Its name is also that of the slot at the publisher.
      const name = `subscriber_${subscriber.port}`;
      await subscriber.sql(
        `CREATE SUBSCRIPTION ${name} CONNECTION '${source}' PUBLICATION everything`,
      );
    }
    await publisher.sql(rows);
    for (const subscriber of subscribers) {
      const count = () => subscriber.value("SELECT count(*) FROM t1");
      await eventually(count, (found) => found === "2", { what: "the rows to be copied" });
    }
    return new RoutingStage(scope, [publisher, ...subscribers]);
  }

  get pgpool(): Pgpool {
    if (this.#pgpool === undefined) throw new Error("no configuration was chosen yet");
    return this.#pgpool;
  }

  /** Puts the group's configuration into effect: by a reload where that is enough. */
  async configure({ mode, settings }: CaseGroup): Promise<void> {
    const { load_balance_mode = "on", ...reloaded } = settings;
    const start = { backend_clustering_mode: mode, load_balance_mode };
    if (this.#started !== JSON.stringify(start)) {
      await this.#pgpool?.stop();
      this.#started = JSON.stringify(start);
      this.#pgpool = await this.#start(start);
      const names = caseGroups.flatMap((group) => Object.keys(group.settings));
      for (const name of names.filter((each) => !(each in start))) {
        this.#defaults[name] = (await this.#shown(name))[0] ?? "";
      }
    }
    // Shows that the file was read again; nothing is checked here, so its value is of no effect.
    const health_check_max_retries = ++this.#reloads;
    this.pgpool.reload({ ...this.#defaults, ...reloaded, health_check_max_retries });
    await eventually(
      () => this.#shown("health_check_max_retries"),
      (values) => values.includes(String(health_check_max_retries)),
      { what: "the reload" },
    );
  }

  /** The value; of a parameter that each node may have for itself it is one of several columns. */
  async #shown(name: string): Promise<(string | null)[]> {
    const [row] = await this.pgpool.sql(`PGPOOL SHOW ${name}`);
    return Object.values(row ?? {});
  }

  async #start(start: StartSettings): Promise<Pgpool> {
    const weights = weightsOf(start.backend_clustering_mode);
    const pgpool = await Pgpool.create(this.#scope, {
      backends: this.#nodes.map(({ host, port }, i) => ({ host, port, weight: weights[i] ?? 0 })),
      config: {
        ...start,
        // Where every server takes writes nobody but us can say which one is meant to.
        ...(start.backend_clustering_mode === "logical_replication" && {
          backend_flag0: "ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER",
        }),
        // One slot: the next client is let in only when the reset of the last one's is over.
        num_init_children: 1,
        // Told from the ABORT and DISCARD ALL of the cases by their texts.
        reset_query_list: "ABORT /* reset */; DISCARD ALL /* reset */",
      },
    });
    await pgpool.untilServing();
    return pgpool;
  }

  /** A client says what the case says; the servers tell what came to them. */
  async play(row: RoutingCase, way: Way): Promise<Outcome> {
    const { user = "postgres", database = "test", application_name } = row;
    const parameters = application_name === undefined ? {} : { application_name };
    const client = await this.pgpool.loginWhole({ user, database, parameters }, 20_000);
    try {
      const refused = way === "prepared" && !(await prepare(client, row.sql));
      for (const log of this.#logs) log.skip();
      const sayings = refused ? [] : sayingsOf(row, way);
      const answer = await converse(client, sayings, way === "pipelined");
      await client.terminate();
      await this.#untilReset();
      return { refused, answer, reached: this.#evidence(row, database) };
    } finally {
      client.destroy();
    }
  }

  /** Per node, how many clients are connected to this database. */
  sessions(database: string): Promise<(string | null)[]> {
    const count = `SELECT count(*) FROM pg_stat_activity
      WHERE datname = '${database}' AND backend_type = 'client backend'`;
    return Promise.all(this.#nodes.map((node) => node.value(count, "postgres")));
  }

  /**
   * A client sends all these bytes, and hears so many ReadyForQuery. Per node, which of the texts
   * were executed, in order, and the tags that the client got.
   */
  async sendAll(
    bytes: readonly Buffer[],
    readies: number,
    texts: readonly string[],
  ): Promise<{ readonly executed: readonly (readonly string[])[]; readonly tags: string }> {
    const login = { user: "postgres", database: "test" };
    const client = await this.pgpool.loginWhole(login, 20_000);
    try {
      for (const log of this.#logs) log.skip();
      client.send(...bytes);
      const frames: RawFrame[] = [];
      for (let i = 0; i < readies; i++) frames.push(...(await client.until("Z")));
      await client.terminate();
      await this.#untilReset();
      const executed = this.#logs.map((log) =>
        log
          .take()
          .filter(({ kind, sql }) => kind === "execute" && texts.includes(sql))
          .map(({ sql }) => sql),
      );
      return { executed, tags: frames.map(tagOf).filter(Boolean).join(", ") };
    } finally {
      client.destroy();
    }
  }

  /** What was sent to a node has come to it when the reset queries after it are answered. */
  async #untilReset(): Promise<void> {
    const next = await RawClient.login(this.pgpool.tcp, { user: "postgres", database: "test" });
    await next.terminate();
  }

  /** The distinct texts per node, be they logged for a Query, a Parse, a Bind or an Execute. */
  #evidence(row: RoutingCase, database: string): readonly (readonly string[])[] {
    const texts = [row.sql, row.otherNodesSql];
    return this.#logs.map((log) => {
      const here = log.take().filter((it) => it.database === database);
      const own = here.map(({ sql }) => beforeRewriting(sql)).filter((sql) => texts.includes(sql));
      return [...new Set(own)];
    });
  }
}

/** Native replication fills in the one default of these tables that tells the time. */
const beforeRewriting = (sql: string): string =>
  sql.replace(/(INTO t2 ?\(id), "ts"(\).*), (?:'[^']*'|\$\d+)\)$/, "$1$2)");

/** What ends the answer to an Execute, in short. */
function tagOf({ type, body }: RawFrame): string {
  if (type === "s") return "suspended";
  if (type === "E") return "error";
  return type === "C" ? (/^\w+/.exec(body.toString("latin1"))?.[0] ?? "") : "";
}

type Saying = { readonly protocol: "simple" | "extended"; readonly bytes: Buffer };

function sayingsOf(row: RoutingCase, way: Way): Saying[] {
  const asWritten = way === "as written";
  // A Parse takes one statement.
  const isOne = (sql: string) => !/;\s*\S/.test(sql);
  const before = (row.before ?? []).map((sql) =>
    asWritten || !isOne(sql) ? simple(sql) : extended(sql),
  );
  if (way === "prepared") return [...before, bound(caseName)];
  const isSimple = asWritten && row.protocol !== "extended";
  return [...before, isSimple ? simple(row.sql) : extended(row.sql)];
}

/** Of the statement that is parsed before all others. */
const caseName = "the_case";

function simple(sql: string): Saying {
  return { protocol: "simple", bytes: frame("Q", cString(sql)) };
}

function extended(sql: string): Saying {
  return { protocol: "extended", bytes: Buffer.concat([parse("", sql), bound("").bytes]) };
}

function bound(statement: string): Saying {
  const bytes = Buffer.concat([bind(statement), describePortal(), execute(), sync]);
  return { protocol: "extended", bytes };
}

/** Whether PostgreSQL accepts it. */
async function prepare(client: RawClient, sql: string): Promise<boolean> {
  client.send(parse(caseName, sql), sync);
  return gatherResult(await client.until("Z")).errors.length === 0;
}

/** Returns the answer to the last. */
async function converse(
  client: RawClient,
  sayings: readonly Saying[],
  pipelined: boolean,
): Promise<QueryResult> {
  if (pipelined) client.send(...sayings.map(({ bytes }) => bytes));
  let frames: RawFrame[] = [];
  for (const saying of sayings) {
    if (!pipelined) client.send(saying.bytes);
    frames = await answerTo(client, saying);
  }
  return gatherResult(frames);
}

async function answerTo(client: RawClient, { protocol }: Saying): Promise<RawFrame[]> {
  const frames = await client.until("Z", "G");
  if (frames.at(-1)?.type !== "G") return frames;
  // While it copies the server passes over Sync, so one more is due.
  client.send(frame("c"), ...(protocol === "simple" ? [] : [frame("S")]));
  return [...frames, ...(await client.until("Z"))];
}
