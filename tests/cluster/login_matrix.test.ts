/**
 * Who gets in: every method of pool_hba.conf against every demand of the backend and every kind of
 * pool_passwd entry, with the right and the wrong password, on fresh and on pooled connections, in
 * front of two nodes and of one. The table is that of the real Pgpool-II 4.3.5 (spec
 * wire/client-auth.md section 10) but for the cells where ours is stricter, which are marked.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { derivePoolKey, encryptPassword } from "../../core/auth/pool_key.ts";
import { Pgpool, Postgres, RawClient, Scope } from "./harness.ts";

const right = "pw:123 ä";
const wrong = "pw:123 a";
const poolKey = "a key of the pool";
const entries = ["none", "md5", "AES", "TEXT", "plain", "SCRAM"] as const;
const demands = ["trust", "md5", "scram", "password"] as const;
type Entry = (typeof entries)[number];
type Demand = (typeof demands)[number];

/**
 * A letter is what a wrong password gets where the right one logs in; `!` means that any password
 * does, because nobody asks for one. In capitals with a digit (or R): nobody gets in, and why.
 * Ours, not Pgpool's: A and B in place of its F1 to F3 and, without an entry, E1 and E2 (an unknown
 * user fails as a wrong password does); C in `password off trust none` and d in `trust on password
 * none` (it let any password in, the second time); and the column SCRAM.
 */
const matrix = `
  off      off trust    !  !  !  !  !  !
  off      off md5      A  a  a  a  a  E1
  off      off scram    B  E2 b  b  b  b
  off      off password d  E3 c  c  c  E3
  off      on  trust    !  !  !  !  !  !
  off      on  md5      a  a  a  a  a  E1
  off      on  scram    b  E2 b  b  b  b
  off      on  password d  E3 c  c  c  E3
  trust    off trust    !  !  !  !  !  !
  trust    off md5      E1 !  !  !  !  E1
  trust    off scram    E2 E2 !  !  !  E2
  trust    off password E3 E3 !  !  !  E3
  trust    on  trust    !  !  !  !  !  !
  trust    on  md5      E1 !  !  !  !  E1
  trust    on  scram    E2 E2 !  !  !  E2
  trust    on  password d  E3 !  !  !  E3
  md5      off trust    A  a  a  a  a  A
  md5      off md5      A  a  a  a  a  A
  md5      off scram    A  E2 a  a  a  A
  md5      off password A  E3 a  a  a  A
  scram    off trust    B  B  b  b  b  b
  scram    off md5      B  B  b  b  b  E1
  scram    off scram    B  B  b  b  b  b
  scram    off password B  B  b  b  b  E3
  password off trust    C  c  c  c  c  C0
  password off md5      a  c  c  c  c  C0
  password off scram    b  E2 c  c  c  C0
  password off password d  E3 c  c  c  C0
  reject   off trust    R  R  R  R  R  R
  reject   off md5      R  R  R  R  R  R
  reject   off scram    R  R  R  R  R  R
  reject   off password R  R  R  R  R  R
`;

const unfit = "password type stored in pool_passwd can't be used for clear text authentication";
const texts: Record<string, readonly [message: string, detail: RegExp, code: string]> = {
  A: ["md5 authentication failed", /^password does not match$/, "28P01"],
  B: ["authentication failed", /^username "\w+" or password does not exist in backend$/, "28P01"],
  C: ["clear text authentication failed", /^password does not match$/, "28P01"],
  C0: ["clear text authentication failed", new RegExp(`^${unfit}$`), "28P01"],
  D: ["clear text password authentication failed", /^password does not match$/, "28P01"],
  E1: ["failed to authenticate with backend using md5", /^valid password not found$/, "XX000"],
  E2: ["failed to authenticate with backend using SCRAM", /^valid password not found$/, "XX000"],
  E3: ["clear text password authentication failed", /^unable to get the password$/, "XX000"],
  R: ["client authentication failed", /^no pool_hba.conf entry for host "127.0.0.1"/, "28000"],
};

type Cell = {
  readonly rule: string;
  readonly allowClear: boolean;
  readonly demand: Demand;
  readonly entry: Entry;
  readonly outcome: string;
};

const cells: Cell[] = matrix
  .trim()
  .split("\n")
  .flatMap((line) => {
    const [rule = "", allow, demand, ...outcomes] = line.trim().split(/\s+/);
    return entries.map((entry, at) => ({
      rule,
      allowClear: allow === "on",
      demand: demand as Demand,
      entry,
      outcome: outcomes[at] ?? "",
    }));
  });

const methodOf = (demand: Demand) => (demand === "scram" ? "scram-sha-256" : demand);
const userOf = (demand: Demand, entry: Entry) => `u_${demand}_${entry}`.toLowerCase();
const rules = [
  "host all postgres all trust",
  "host trust all all trust",
  "host md5 all all md5",
  "host scram all all scram-sha-256",
  "host password all all password",
  "host reject all all reject",
];

let scope: Scope;
let primary: Postgres;
let standby: Postgres;
let passwd: string[];

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope, {
    databases: ["test", "off", "trust", "md5", "scram", "password", "reject"],
    hba: [
      "host all postgres all trust",
      ...demands.map((demand) => `host all +g_${demand} all ${methodOf(demand)}`),
    ],
  });
  passwd = await makeRoles(primary);
  standby = await primary.createStandby();
}, 300_000);

afterAll(() => scope.close());

/** A role for each demand and entry, and the lines of pool_passwd for them. */
async function makeRoles(server: Postgres): Promise<string[]> {
  const lines: string[] = [];
  for (const demand of demands) {
    await server.sql(`CREATE ROLE g_${demand}`, "postgres");
    for (const entry of entries) {
      const user = userOf(demand, entry);
      await server.createRole(user, right, demand === "md5" ? "md5" : "scram-sha-256");
      await server.sql(`GRANT g_${demand} TO ${user}`, "postgres");
      const stored = await storedAs(server, entry, user);
      if (stored !== undefined) lines.push(`${user}:${stored.replaceAll(":", "\\:")}`);
    }
  }
  return lines;
}

async function storedAs(server: Postgres, entry: Entry, user: string): Promise<string | undefined> {
  switch (entry) {
    case "none":
      return undefined;
    case "md5":
      return `md5${createHash("md5").update(`${right}${user}`).digest("hex")}`;
    case "AES":
      return `AES${encryptPassword(Buffer.from(right), derivePoolKey(Buffer.from(poolKey)))}`;
    case "TEXT":
      return `TEXT${right}`;
    case "plain":
      return right;
    case "SCRAM": {
      const stored = `SELECT rolpassword FROM pg_authid WHERE rolname = '${user}'`;
      const verifier = await server.value(stored, "postgres");
      // Where the server keeps an md5 hash, another role's verifier of the same password will do.
      if (verifier?.startsWith("SCRAM-SHA-256$")) return verifier;
      return storedAs(server, entry, userOf("trust", entry));
    }
  }
}

type Attempt = {
  readonly in: boolean;
  readonly pid?: number;
  readonly M?: string;
  readonly D?: string;
  readonly C?: string;
};

async function attempt(pgpool: Pgpool, cell: Cell, password: string): Promise<Attempt> {
  const client = await RawClient.connect(pgpool.tcp);
  const user = userOf(cell.demand, cell.entry);
  const { error, key, sequence } = await client.login({ user, password, database: cell.rule });
  if (error === undefined) {
    await client.terminate();
    return { in: true, ...(key && { pid: key.pid }) };
  }
  const rest = (await client.closed()).map(({ type }) => type).join("");
  expect({ cell, answer: sequence + rest }).not.toMatchObject({ answer: /[KZ]/ });
  return { in: false, M: error.M ?? "", D: error.D ?? "", C: error.C ?? "" };
}

/** All that one cell claims; the wrong password comes first, and again when a set is pooled. */
async function judge(pgpool: Pgpool, cell: Cell): Promise<void> {
  const { outcome } = cell;
  const first = await attempt(pgpool, cell, wrong);
  const second = await attempt(pgpool, cell, right);
  if (outcome !== "!" && outcome === outcome.toUpperCase()) {
    expect({ cell, in: first.in }).toEqual({ cell, in: false });
    return expectText(cell, second, outcome);
  }
  expect({ cell, in: [first.in, second.in] }).toEqual({ cell, in: [outcome === "!", true] });
  const third = await attempt(pgpool, cell, wrong);
  const fourth = await attempt(pgpool, cell, right);
  // The wrong password took nothing from whoever knows the right one.
  expect({ cell, in: fourth.in, pid: fourth.pid }).toEqual({ cell, in: true, pid: second.pid });
  if (outcome !== "!") return expectText(cell, third, outcome.toUpperCase());
  expect({ cell, in: third.in }).toEqual({ cell, in: true });
}

function expectText(cell: Cell, { in: entered, M, D, C }: Attempt, code: string): void {
  const [message, detail, sqlstate] = texts[code] ?? [];
  expect({ cell, code, entered, M, D, C }).toEqual({
    ...{ cell, code, entered: false, M: message, C: sqlstate },
    D: expect.stringMatching(detail ?? /./),
  });
}

describe.each([
  ["streaming_replication", "two nodes"],
  ["raw", "one node"],
])("in mode %s, %s", (mode) => {
  test.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])(
    "enable_pool_hba %p, allow_clear_text_frontend_auth %p: as the table says",
    async (hba, allowClear) => {
      await using own = new Scope();
      const pgpool = await Pgpool.create(own, {
        backends: mode === "raw" ? [primary] : [primary, standby],
        passwd,
        key: poolKey,
        ...(hba && { hba: rules }),
        config: {
          backend_clustering_mode: mode,
          allow_clear_text_frontend_auth: allowClear,
          num_init_children: 1, // the next client comes when the last one's connections are pooled
          max_pool: 2,
          ssl: false,
        },
      });
      await pgpool.untilServing("off");
      const wanted = cells.filter(
        (cell) => cell.allowClear === allowClear && (cell.rule !== "off") === hba,
      );
      expect(wanted.length).toBeGreaterThanOrEqual(24);
      for (const cell of wanted) await judge(pgpool, cell);
      expect(pgpool.log()).not.toContain(right);
      expect(await pgpool.stop("smart")).toBe("exit 0");
    },
    300_000,
  );
});
