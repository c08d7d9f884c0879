/**
 * Generated configuration files, read by the real Pgpool-II and by us: both accept a file, or both
 * refuse it in the same words. Where we differ on purpose the generator stays away, and says why.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { configSource } from "../../cmd/load_config.ts";
import { loadConfig } from "../../core/config/load.ts";
import type { Row } from "../../core/config/param.ts";
import { paramNames, params } from "../../core/config/params.ts";
import { ConfigError } from "../../core/errors.ts";
import { findProgram, runCommand, Scope, testNeeding } from "../cluster/harness.ts";

const pgpoolTest = await testNeeding("pgpool2");

let scope: Scope;
let dir = "";
beforeAll(() => {
  scope = new Scope();
  dir = scope.makeDir("conf");
});
afterAll(() => scope.close());

/**
 * What the real one says of a file, without log prefixes. `reload` reads the configuration and then
 * wants a pid file, which here is one that never exists: nobody else's server is signalled.
 */
async function theirs(file: string): Promise<string> {
  const { stdout, stderr } = await runCommand([
    findProgram("pgpool") ?? "pgpool",
    "-f",
    file,
    "reload",
  ]);
  const lines = `${stderr}${stdout}`
    .split("\n")
    .map((line) => line.replace(/^.*?pid \d+: /, ""))
    .filter((line) => /^(FATAL|DETAIL|HINT): /.test(line));
  const fatal = lines.findIndex((line) => line.startsWith("FATAL"));
  const said = fatal < 0 ? [] : lines.slice(fatal);
  return said[0] === "FATAL:  could not read pid file" ? "" : said.join("\n");
}

function ours(file: string): string {
  try {
    loadConfig(configSource(file));
    return "";
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const { message, detail, hint } = error;
    const rest = [detail && `DETAIL:  ${detail}`, hint && `HINT:  ${hint}`];
    return [`FATAL:  ${message}`, ...rest.filter((line) => line !== undefined)].join("\n");
  }
}

async function sameAnswer(text: string): Promise<void> {
  const file = join(dir, "pgpool.conf");
  // A comment without an end of line is a syntax error to the real one.
  writeFileSync(file, `pid_file_name = '${dir}/none.pid' ${text}\n`);
  expect(ours(file)).toBe(await theirs(file));
}

const KEPT_AWAY: readonly string[] = [
  "pid_file_name",
  // Index-free health check values take units here, and only here.
  ...["health_check_period", "health_check_timeout", "health_check_retry_delay", "connect_timeout"],
  "wd_port", // without an index it is a line of 4.1
  "log_line_prefix", // the real one applies it to its own error
  // Words that came or went after 4.3.
  ...["backend_clustering_mode", "disable_load_balance_on_write"],
];

/** Known to 4.3, the release that distributions carry beside us. */
function knownTo43(name: (typeof paramNames)[number]): boolean {
  const { since }: Row = params[name];
  return since === undefined || /^4\.[23](\.|$)/.test(since);
}

const name = fc.constantFrom(
  ...paramNames.filter(knownTo43).flatMap((base) => {
    const row: Row = params[base];
    const indexed = row.perNode === undefined ? [] : [`${base}0`, `${base}1`, `${base}x`];
    return KEPT_AWAY.includes(base) ? indexed : [base, ...indexed];
  }),
);
const number = fc.oneof(
  fc.integer({ min: -10, max: 70_000 }).map(String),
  fc.constantFrom("1.5", "0x1F", "010", "08", "1e3", ".5", "5.", "1.e2", "1e", "0x", "+7", ""),
  fc.constantFrom("1.5h", "2min", "1us", "30s", "1.0001d", "4kB", "1.5MB", "1TB", "5 min", "5 5"),
  fc.constantFrom("2147483647", "2147483648", "99999999999999999999"),
);
const word = fc.constantFrom(
  ...["on", "off", "tru", "perhaps", "debug", "DEBUG1", "none", "verbose", "query", "heartbeat"],
  ...["stderr", "syslog,stderr", "LOCAL3", "a,b", "a:0", "a:b", "a:primary(0.5)"],
  ...["ALWAYS_PRIMARY", "ALLOW_TO_FAILOVER|DISALLOW_TO_FAILOVER"],
);
const setting = fc.tuple(name, fc.oneof(number, word)).map(([name, text]) => `${name} = '${text}'`);

const { FC_SEED } = process.env;
const seed = Number(FC_SEED ?? 20_261_130);

const pieces = fc.constantFrom(
  ...["a", "b9", "é", "=", " ", "\t", "\r", "\n", "'", "'x'", "\\", "'\\'", '"', "#", ";", ","],
  ...["1", "0x", "e", ".", "-", "+", "_", ":", "/"],
);
const scribble = fc.array(pieces, { maxLength: 12 }).map((parts) => parts.join(""));

describe("a configuration file", () => {
  pgpoolTest(
    "with a parameter set to anything is judged as by Pgpool-II",
    async () => {
      await fc.assert(fc.asyncProperty(setting, sameAnswer), { seed, numRuns: 300 });
    },
    60_000,
  );

  pgpoolTest(
    "of scribbles is cut into the same tokens",
    async () => {
      await fc.assert(fc.asyncProperty(scribble, sameAnswer), { seed, numRuns: 300 });
    },
    60_000,
  );
});
