/** Fuzzers of core/config and of what prints it: whatever a file or a client writes, it is an answer or a refusal. */

import { ok, strictEqual } from "node:assert";
import fc from "fast-check";
import { pgpoolShow } from "../../core/admin/pgpool_show.ts";
import { parseConfFile } from "../../core/config/conf_file.ts";
import { loadConfig, reloadConfig } from "../../core/config/load.ts";
import { paramNames } from "../../core/config/params.ts";
import { sampleText } from "../../core/config/sample.ts";
import { setParameter } from "../../core/config/session.ts";
import { ConfigError, PgpoolError } from "../../core/errors.ts";
import { redactPasswords } from "../../core/redact.ts";
import { source } from "../core/config/files.ts";
import { knownNames } from "../core/config/known_names.ts";
import { type Fuzzer, fuzzer, mutatedText } from "./fuzzer.ts";

const name = fc.oneof(
  fc.constantFrom(...knownNames, ...paramNames),
  fc.tuple(fc.constantFrom(...paramNames), fc.nat(300)).map(([base, index]) => `${base}${index}`),
  fc.string(),
);
const value = fc.oneof(
  fc.string(),
  fc.nat(70_000).map(String),
  fc.constantFrom(
    "on",
    "off",
    "'1min'",
    "'64MB'",
    "0x10",
    "1e400",
    "'a:primary(0.5),b:9'",
    "'(,['",
  ),
);
const line = fc
  .tuple(name, fc.constantFrom(" = ", " ", "="), value, fc.constantFrom("\n", " ", "\r\n", " # "))
  .map((parts) => parts.join(""));
const uncommented = sampleText().replace(/^#([a-z]\w* = )/gm, "$1");
const file = fc.oneof(
  mutatedText(fc.array(line).map((lines) => lines.join(""))),
  // A whole file is long; a stretch of it is mutated where it matters.
  mutatedText(fc.nat(uncommented.length).map((at) => uncommented.slice(at, at + 600))),
  fc.string(),
);

/** Runs what may refuse its input in one way only. */
function mayRefuse(kind: typeof PgpoolError | typeof ConfigError, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof kind)) throw error;
  }
}

const start = loadConfig(source("backend_port0 = 5432"));

export const configFuzzers: readonly Fuzzer[] = [
  fuzzer({
    name: "conf_file",
    claim: "any text is settings in the order of their lines, or a ConfigError",
    runs: 20_000,
    input: file,
    check: (text) =>
      mayRefuse(ConfigError, () => {
        const lines = parseConfFile("f", (path) => (path === "f" ? text : undefined)).settings.map(
          (setting) => setting.line,
        );
        ok(lines.every((at, index) => index === 0 || at >= (lines[index - 1] ?? 0)));
      }),
  }),
  fuzzer({
    name: "config",
    claim: "any file gives a Config or a ConfigError, and a reload of it never throws",
    runs: 4000,
    input: file,
    check(text) {
      mayRefuse(ConfigError, () => {
        const { config } = loadConfig(source(text, { "/etc/pgpool_node_id": "1" }));
        ok(config.port >= 1024 && config.backends.length <= 128);
      });
      const { config } = reloadConfig(start, source(text), () => false);
      strictEqual(config.port, start.config.port);
      strictEqual(config.backends[0]?.port, 5432);
    },
  }),
  fuzzer({
    name: "pgpool_set",
    claim: "any PGPOOL SET or SHOW is answered or refused, and changes no other session",
    runs: 20_000,
    input: fc.tuple(name, fc.string()),
    check([name, text]) {
      const before = JSON.stringify(start.config);
      mayRefuse(PgpoolError, () => setParameter(start.config, name, text));
      mayRefuse(PgpoolError, () => pgpoolShow(start.config, name));
      strictEqual(JSON.stringify(start.config), before);
    },
  }),
  fuzzer({
    name: "redact",
    claim: "a password after PASSWORD is in no log, whatever stands before it",
    runs: 20_000,
    input: fc.tuple(
      fc.string(),
      fc.constantFrom(
        "ALTER ROLE a",
        "CREATE USER b WITH ENCRYPTED",
        "alter user c valid until 'x'",
      ),
    ),
    check([noise, statement]) {
      const sql = `${noise}\n${statement} PASSWORD 'hunter2hunter2'`;
      ok(!redactPasswords(sql).includes("hunter2"), redactPasswords(sql));
    },
  }),
];
