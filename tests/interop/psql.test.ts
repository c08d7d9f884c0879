/** psql through pgpool: its catalogue commands, \copy, \watch, and Ctrl-C. */
import { afterAll, beforeAll, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { runCommand, Scope, testNeeding } from "../cluster/harness.ts";
import {
  type Route,
  routeEnv,
  sleeping,
  startTopology,
  type Topology,
  untilAsleep,
} from "./topology.ts";

const psqlTest = await testNeeding("psql");
let scope: Scope;
let topology: Topology;

beforeAll(async () => {
  scope = new Scope();
  topology = await startTopology(scope);
  await topology.primary.sql(`
    CREATE TABLE fruit (id serial PRIMARY KEY, name text NOT NULL DEFAULT 'none', price numeric(6, 2));
    CREATE INDEX fruit_by_name ON fruit (lower(name));
    CREATE VIEW dear AS SELECT * FROM fruit WHERE price > 2;
    CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE SEQUENCE countdown;
    INSERT INTO fruit (name, price) VALUES ('apple', 1), ('mango', 3.5)`);
}, 300_000);
afterAll(() => scope.close());

const programOf = () => topology.primary.program("psql");

/** Runs a script as from a terminal's user: no start-up file, each error shown, all in order. */
async function psql(route: Route, script: string, ...options: string[]): Promise<string> {
  const { stdout, stderr, code } = await runCommand(
    ["sh", "-c", 'exec "$0" "$@" 2>&1', programOf(), "-X", ...options],
    { env: { ...routeEnv(route), PAGER: "" }, stdin: script, cwd: scope.dir, deadlineMs: 60_000 },
  );
  return `${stdout}${stderr}exit ${code}`;
}

async function same(script: string, ...options: string[]): Promise<string> {
  const expected = await psql(topology.direct, script, ...options);
  for (const route of topology.proxied) {
    const output = await psql(route, script, ...options);
    expect(`${route.name}: ${output}`).toBe(`${route.name}: ${expected}`);
  }
  return expected;
}

psqlTest("\\d and its kin show the same", async () => {
  const output = await same(
    `\\d\n\\d fruit\n\\d+ dear\n\\df twice\n\\di\n\\dt *.fruit\n\\l\n\\du\n\\dn\n`,
  );
  expect(output).toContain("fruit_by_name");
  expect(output).toContain("exit 0");
});

psqlTest("queries, errors and variables go the same way", async () => {
  const output = await same(
    `SELECT * FROM fruit ORDER BY id;
     SELECT 1/0;
     \\errverbose
     SELECT name, price FROM fruit WHERE id = 1 \\gset
     \\echo :name :price
     SELECT name, price FROM fruit \\gdesc
     SELECT format('SELECT %s AS n', g) FROM generate_series(1, 3) g \\gexec
     SELECT 1 \\; SELECT 2 \\; SELECT 3;
     \\set FETCH_COUNT 10
     SELECT g FROM generate_series(1, 35) g;
     BEGIN; INSERT INTO fruit (name) VALUES ('fig'); ROLLBACK;
     \\set ON_ERROR_ROLLBACK on
     BEGIN; SELECT 1/0; SELECT 'the transaction lives'; COMMIT;
     SELECT count(*) FROM fruit;
     \\encoding LATIN1
     \\encoding`,
  );
  expect(output).toContain("division by zero");
  expect(output).toContain("the transaction lives");
});

psqlTest("-1 stops at the first error and leaves nothing", async () => {
  const script = "INSERT INTO fruit (name) VALUES ('kiwi'); SELECT 1/0; SELECT 2;";
  const output = await same(script, "-1", "-v", "ON_ERROR_STOP=1");
  expect(output).toContain("exit 3");
  expect(await topology.primary.value("SELECT count(*) FROM fruit WHERE name = 'kiwi'")).toBe("0");
});

psqlTest("\\copy goes in and out, and an error within it is told", async () => {
  const file = join(scope.dir, "rows");
  writeFileSync(file, Array.from({ length: 3_000 }, (_, i) => `${i}\tvalue ${i}\n`).join(""));
  const output = await same(
    `CREATE TEMP TABLE copied (id int, v text);
     \\copy copied FROM '${file}'
     \\copy (SELECT * FROM copied WHERE id % 1000 = 1 ORDER BY id) TO STDOUT
     \\copy copied FROM STDIN CSV
1,one
two,2
\\.
     COPY copied FROM STDIN;
5\tfive
\\.
     SELECT count(*), sum(id) FROM copied;`,
  );
  expect(output).toContain("COPY 3000");
  expect(output).toContain("invalid input syntax for type integer");
});

psqlTest("\\watch repeats until the query fails", async () => {
  // psql 15 has no count: the countdown runs into a division by zero at the fifth time.
  const output = await same(
    `SELECT setval('countdown', 1);
     SELECT 12 / (5 - nextval('countdown')) AS left \\watch 0.01`,
    "-t",
    "-A",
    "-P",
    "title=",
  );
  expect(output).toContain("division by zero");
});

psqlTest("Ctrl-C cancels the statement and not the session", async () => {
  const codes: (number | null)[] = [];
  for (const route of [topology.direct, ...topology.proxied]) {
    let interrupted: Promise<boolean> | undefined;
    const result = await runCommand([programOf(), "-X", "-A", "-t"], {
      env: routeEnv(route),
      stdin: "SELECT pg_sleep(600);\nSELECT 'still here';\n",
      onStart: (child) => {
        interrupted = untilAsleep(topology).then(() => child.kill("SIGINT"));
      },
    });
    expect(await interrupted).toBe(true);
    expect(result.stderr).toContain("canceling statement due to user request");
    codes.push(result.code);
  }
  // How psql goes on without a terminal is its own affair; it must be the same both ways.
  expect(new Set(codes).size).toBe(1);
  expect(await sleeping(topology)).toBe(0);
});
