/**
 * A client of pgpool and its twin of PostgreSQL itself: equal log-ins, which are told the same, so
 * that whatever the cache answers can be compared with what PostgreSQL would have said.
 */
import { expect } from "bun:test";
import {
  type BoundValue,
  bind,
  describePortal,
  execute,
  type Login,
  type Pgpool,
  type Postgres,
  RawClient,
  sync,
} from "./harness.ts";

export type Told = {
  readonly rows: readonly (readonly (string | null)[])[];
  readonly columns: readonly string[];
  readonly tags: readonly string[];
  readonly codes: readonly (string | undefined)[];
  readonly status: string | undefined;
};

export class Twins {
  readonly proxied: RawClient;
  readonly direct: RawClient;

  private constructor(proxied: RawClient, direct: RawClient) {
    this.proxied = proxied;
    this.direct = direct;
  }

  static async login(pgpool: Pgpool, server: Postgres, login: Partial<Login> = {}): Promise<Twins> {
    const whole = { user: "postgres", database: "test", ...login };
    const proxied = await RawClient.login(pgpool.tcp, whole, 30_000);
    const direct = await RawClient.login(server, whole, 30_000);
    return new Twins(proxied, direct);
  }

  leave(): void {
    this.proxied.destroy();
    this.direct.destroy();
  }

  /** Both are told this, which must mean the same to both. */
  async both(sql: string): Promise<void> {
    await this.same(sql);
  }

  /** What is answered, which is the same. */
  async same(sql: string): Promise<Told> {
    const told = await tell(this.proxied, sql);
    expect({ sql, ...told }).toEqual({ sql, ...(await tell(this.direct, sql)) });
    return told;
  }

  /** The same of messages of the extended protocol that end with Sync, message by message. */
  async sameFrames(...frames: readonly Uint8Array[]): Promise<string> {
    const tellFrames = async (client: RawClient) => {
      client.send(...frames);
      const told = await client.until("Z");
      return told.map(({ type, body }) => `${type} ${body.toString("latin1")}`);
    };
    const told = await tellFrames(this.proxied);
    expect(told).toEqual(await tellFrames(this.direct));
    return told.map((each) => each.charAt(0)).join("");
  }

  /** As often as it takes for the answer to come from memory, if it ever does. */
  async thrice(sql: string): Promise<Told> {
    await this.same(sql);
    await this.same(sql);
    return await this.same(sql);
  }
}

/** What drivers send to run a statement. `formats`: of the result's columns, 1 is binary. */
export const run = (
  name: string,
  values: readonly BoundValue[] = [],
  formats: readonly number[] = [],
): Buffer[] => [bind(name, values, { formats }), describePortal(), execute(), sync];

async function tell(client: RawClient, sql: string): Promise<Told> {
  const { rows, columns, tags, errors, status } = await client.query(sql);
  return { rows, columns, tags, codes: errors.map(({ C }) => C), status };
}

/** A number of the one row that a SHOW gives. */
export async function shown(pgpool: Pgpool, name: string, column: string): Promise<number> {
  const [row = {}] = await pgpool.show(name);
  return Number(row[column]);
}

/** Hits so far. */
export const hitsOf = (pgpool: Pgpool): Promise<number> =>
  shown(pgpool, "pool_cache", "num_cache_hits");

/** How many hits there were while `body` ran, and what it gave. */
export async function countHits(pgpool: Pgpool, body: () => Promise<unknown>): Promise<number> {
  const before = await hitsOf(pgpool);
  await body();
  return (await hitsOf(pgpool)) - before;
}
