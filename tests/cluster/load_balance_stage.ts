/**
 * One primary, two standbys and a pgpool whose settings a test changes by reload. Where a statement
 * was run the servers themselves say, by the port they answer on.
 */
import { expect } from "bun:test";
import {
  type ConfigValue,
  type ErrorFields,
  eventually,
  Pgpool,
  Postgres,
  type RawClient,
  type Scope,
} from "./harness.ts";

export type Settings = Readonly<Record<string, ConfigValue>>;

/** A reader of `t` that says where it was read. */
export const readT = "SELECT inet_server_port() FROM t";

export class LoadBalanceStage {
  readonly nodes: readonly [Postgres, Postgres, Postgres];
  readonly pgpool: Pgpool;
  #reloads = 0;

  private constructor(nodes: readonly [Postgres, Postgres, Postgres], pgpool: Pgpool) {
    this.nodes = nodes;
    this.pgpool = pgpool;
  }

  static async create(scope: Scope, objects: readonly string[]): Promise<LoadBalanceStage> {
    const primary = await Postgres.create(scope, { databases: ["test", "other"] });
    for (const sql of objects) await primary.sql(sql);
    // Tells of its progress often enough for delays by time to be measured in a test.
    const first = await primary.createStandby({ wal_receiver_status_interval: 1 });
    const second = await primary.createStandby({ wal_receiver_status_interval: 1 });
    const nodes = [primary, first, second] as const;
    const pgpool = await Pgpool.create(scope, { backends: nodes, config: base });
    await pgpool.untilServing();
    const stage = new LoadBalanceStage(nodes, pgpool);
    await stage.caughtUp();
    return stage;
  }

  /** Another pgpool before the same servers, for settings that need a start of their own. */
  async another(scope: Scope, settings: Settings): Promise<Pgpool> {
    const config = { ...base, ...settings };
    const pgpool = await Pgpool.create(scope, { backends: this.nodes, config });
    await pgpool.untilServing();
    return pgpool;
  }

  /** These settings and no others are in force when this resolves. */
  async reload(settings: Settings = {}): Promise<void> {
    // Not a whole number of minutes, or it would be shown in those.
    const mark = `${60 * (1000 + ++this.#reloads) + 1}`;
    this.pgpool.reload({ ...settings, client_idle_limit: mark });
    await eventually(
      () => this.pgpool.sql("PGPOOL SHOW client_idle_limit"),
      ([row]) => Object.values(row ?? {})[0] === `${mark}s`,
      { what: "the reload" },
    );
  }

  /** Both standbys have replayed what the primary has written so far. */
  async caughtUp(): Promise<void> {
    const [primary, ...standbys] = this.nodes;
    for (const standby of standbys) await standby.catchUpWith(primary);
  }

  client(login: Partial<Login> = {}, pgpool = this.pgpool): Promise<RawClient> {
    return pgpool.loginWhole(loginOf(login));
  }

  /** Runs `body` as one session. */
  async session<T>(
    body: (client: RawClient) => Promise<T>,
    login: Partial<Login> = {},
    pgpool = this.pgpool,
  ): Promise<T> {
    return (await this.client(login, pgpool)).during(body);
  }

  /** The node that answered: its port is the first value of the last row. */
  async where(client: RawClient, sql = readT): Promise<number | ErrorFields["C"]> {
    const { rows, errors } = await client.query(sql);
    if (errors[0] !== undefined) return errors[0].C;
    const port = rows.at(-1)?.[0];
    const node = this.nodes.findIndex((each) => String(each.port) === port);
    if (node < 0) throw new Error(`no node answered ${sql}, but ${port}`);
    return node;
  }

  /** Where the reads of new sessions go: how many of `count` to each node. */
  async spread(count: number, login: Partial<Login> = {}, pgpool = this.pgpool): Promise<number[]> {
    const counts = this.nodes.map(() => 0);
    for (let i = 0; i < count; i++) {
      const node = await this.session((client) => this.where(client), login, pgpool);
      counts[Number(node)] = (counts[Number(node)] ?? 0) + 1;
    }
    return counts;
  }

  async delayOf(node: number): Promise<string> {
    const rows = await this.pgpool.show("pool_nodes");
    const { replication_delay = "" } = rows[node] ?? {};
    return replication_delay;
  }
}

export type Login = { readonly user: string; readonly database: string; readonly app: string };

function loginOf({ user = "postgres", database = "test", app = "" }: Partial<Login>) {
  return { user, database, ...(app === "" ? {} : { parameters: { application_name: app } }) };
}

/**
 * All reads go to node 1 unless a test says otherwise. A line that is missing leaves the value behind
 * that was there before a reload, so whatever any test changes has one here.
 */
const base: Settings = {
  backend_weight0: 0,
  backend_weight1: 1,
  backend_weight2: 0,
  backend_application_name1: "server1",
  backend_application_name2: "server2",
  num_init_children: 16,
  sr_check_period: 1,
  statement_level_load_balance: false,
  user_redirect_preference_list: "",
  database_redirect_preference_list: "",
  app_name_redirect_preference_list: "",
  read_only_function_list: "",
  write_function_list: "",
  primary_routing_query_pattern_list: "",
  allow_sql_comments: false,
  ignore_leading_white_space: true,
  check_temp_table: "catalog",
  check_unlogged_table: true,
  disable_load_balance_on_write: "transaction",
  dml_adaptive_object_relationship_list: "",
  track_table_mutation_ttl_factor: 5,
  track_table_mutation_max_staleness: 60_000,
  track_table_mutation_cold_start_duration: 2000,
  delay_threshold: 0,
  delay_threshold_by_time: 0,
  prefer_lower_delay_standby: false,
  log_standby_delay: "if_over_threshold",
  replication_delay_source_cmd: "",
  relcache_query_target: "primary",
};

/** Each count is within five standard deviations of its share: fails once in a million runs. */
export function expectShares(counts: readonly number[], shares: readonly number[]): void {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const whole = shares.reduce((sum, share) => sum + share, 0);
  for (const [node, count] of counts.entries()) {
    const share = (shares[node] ?? 0) / whole;
    const deviation = Math.sqrt(total * share * (1 - share));
    expect(Math.abs(count - total * share)).toBeLessThanOrEqual(5 * deviation);
  }
}
