/**
 * What the query cache asks of a server, and what it makes of the answers. All questions go out
 * together as one SELECT of one row, on the session's own connection. As in relcache.ts everything is
 * qualified, operators included, and no name raises an error.
 */

import { type CacheHint, ofArgumentsAlone } from "../../core/sql/cache_facts.ts";
import type { FunctionName, RelationName, StatementFacts } from "../../core/sql/facts.ts";
import { belowSql, catalogOid, EQUALS, functionExists, relationExists } from "./relcache.ts";
import type { Reads } from "./table_versions.ts";
import { TwoGenerations } from "./two_generations.ts";

export type CacheQuestion =
  /** Who the session is and what it has set, of the node that reads. */
  | { readonly kind: "settings" }
  /** What is true of the database as a whole. */
  | { readonly kind: "database" }
  | { readonly kind: "relation"; readonly relation: RelationName }
  | { readonly kind: "function"; readonly function: FunctionName }
  /** Where the write node's WAL ends; how far a standby has replayed it. PostgreSQL 10 and later. */
  | { readonly kind: "position" }
  | { readonly kind: "replayed" }
  /** Whether one of these server processes is still there. */
  | { readonly kind: "processes"; readonly pids: readonly number[] };

/** What a relation of that name is, or what it reads if it is a view or a parent. */
export type RelationNature = {
  /** It stands in pg_catalog or information_schema, or reads what does; or is a sequence. */
  readonly isSystem: boolean;
  /** Rows are elsewhere, and changed there. */
  readonly isForeign: boolean;
  /** Who asks decides what is seen. */
  readonly hasRowSecurity: boolean;
  /** Kept only if the list of safe tables says so. */
  readonly needsVouching: boolean;
  /** Bare names of all tables that are read. */
  readonly names: readonly string[];
};

export type FunctionNature =
  /** Of its arguments alone; and it runs no code of a user's that might look elsewhere. */
  | "plain"
  /** What it answers may change, but it is PostgreSQL's own and changes nothing. */
  | "reads"
  /** The same is promised of code of a user's, which may still set something. */
  | "runs"
  /** It may change anything. */
  | "writes";

/** What the answers to a statement depend on, if its text and values let them be kept. */
export type Verdict = Reads | "never";

/** By facts, which statements of one shape share. */
type Verdicts = { readonly [H in CacheHint]: WeakMap<StatementFacts, Verdict> };
const newVerdicts = (): Verdicts => ({
  none: new WeakMap(),
  force: new WeakMap(),
  no: new WeakMap(),
});

/** One database's catalogs, as far as they were asked since definitions changed last. */
export class DatabaseCatalog {
  /** An operator, a cast or a function in the place of PostgreSQL's own could do anything. */
  readonly isOdd: boolean;
  readonly #wild: ReadonlySet<string>;
  readonly #edges: ReadonlyMap<string, readonly string[]>;
  readonly relations: TwoGenerations<RelationNature>;
  readonly functions: TwoGenerations<FunctionNature>;
  #verdicts = newVerdicts();

  constructor(answer: DatabaseAnswer, sizeMax: number) {
    this.isOdd = answer.odd;
    this.#wild = new Set(answer.wild);
    this.#edges = edgesOf(answer);
    this.relations = new TwoGenerations({ countMax: sizeMax });
    this.functions = new TwoGenerations({ countMax: sizeMax });
  }

  /** What was found of statements when all of it was known. */
  get verdicts(): Verdicts {
    return this.#verdicts;
  }

  forgetVerdicts(): void {
    this.#verdicts = newVerdicts();
  }

  /**
   * All tables whose rows may be others when these were written: partitions and parents, and what
   * refers to them by foreign keys that act. "unknown" where code of a user's runs, or rows go elsewhere.
   */
  writtenWith(names: readonly string[]): readonly string[] | "unknown" {
    const [only] = names;
    if (names.length === 1 && only !== undefined && !this.#edges.has(only)) {
      return this.#wild.has(only) ? "unknown" : names;
    }
    const found = new Set(names);
    // A set is walked to its end, however it grows meanwhile.
    for (const name of found) {
      if (this.#wild.has(name)) return "unknown";
      for (const next of this.#edges.get(name) ?? []) found.add(next);
    }
    return [...found];
  }
}

export type DatabaseAnswer = {
  readonly odd: boolean;
  /** Tables with triggers or rules, views, foreign tables, …: to write them may change anything. */
  readonly wild: readonly string[];
  /** Parent and child. */
  readonly kin: readonly (readonly [string, string])[];
  /** Referred to and referring, where a change of the first changes the second. */
  readonly follows: readonly (readonly [string, string])[];
};

function edgesOf({ kin, follows }: DatabaseAnswer): ReadonlyMap<string, readonly string[]> {
  const edges = new Map<string, string[]>();
  const add = (from: string, to: string) => {
    const known = edges.get(from);
    if (known === undefined) edges.set(from, [to]);
    else known.push(to);
  };
  for (const [parent, child] of kin) {
    add(parent, child);
    add(child, parent);
  }
  for (const [from, to] of follows) add(from, to);
  return edges;
}

// ---------------------------------------------------------------- answers

/** Undefined when the answer is not what was expected: then nothing is kept. */
export function databaseAnswer(json: string | null | undefined): DatabaseAnswer | undefined {
  const value = parsed(json);
  if (typeof value !== "object" || value === null) return undefined;
  const { odd, wild, kin, follows } = value as { readonly [field: string]: unknown };
  if (typeof odd !== "boolean") return undefined;
  return { odd, wild: namesOf(wild), kin: pairsOf(kin), follows: pairsOf(follows) };
}

function parsed(json: string | null | undefined): unknown {
  try {
    return typeof json === "string" ? JSON.parse(json) : undefined;
  } catch {
    return undefined;
  }
}

const namesOf = (value: unknown): readonly string[] =>
  Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];

function pairsOf(value: unknown): readonly (readonly [string, string])[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((item): [string, string][] => {
    const [from, to] = namesOf(item);
    return from !== undefined && to !== undefined ? [[from, to]] : [];
  });
}

/** Letters, a blank, the names as JSON. */
export function relationNature(answer: string | null | undefined): RelationNature {
  const [letters = "", ...rest] = (answer ?? "").split(" ");
  return {
    isSystem: answer === null || answer === undefined || /[sq]/.test(letters),
    isForeign: letters.includes("f"),
    hasRowSecurity: letters.includes("r"),
    needsVouching: /[vmu]/.test(letters),
    names: namesOf(parsed(rest.join(" "))),
  };
}

export function functionNature(answer: string | null | undefined): FunctionNature {
  if (answer === "p") return "plain";
  if (answer === "u") return "runs";
  return answer === "r" ? "reads" : "writes";
}

/** What all answers of a session are kept under; undefined where nothing may be. */
export function settingsKey(answer: string | null | undefined): string | undefined {
  const [encoding, key] = (answer ?? "").split(" ");
  // In another encoding we could not tell names apart.
  return encoding === "UTF8" && key !== undefined && key.length > 0 ? key : undefined;
}

// ---------------------------------------------------------------- SQL

/** One row; a column for each question, in order. */
export const cacheSql = (questions: readonly CacheQuestion[]): string =>
  `SELECT ${questions.map(expressionOf).join(", ")}`;

function expressionOf(question: CacheQuestion): string {
  switch (question.kind) {
    case "settings":
      return settingsSql;
    case "database":
      return databaseSql;
    case "relation":
      return relationSql(question.relation);
    case "function":
      return functionSql(question.function);
    case "position":
      return (
        "CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL " +
        "ELSE pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text END"
      );
    case "replayed":
      return "pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text";
    case "processes":
      return (
        "CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity AS a WHERE a.pid " +
        `OPERATOR(pg_catalog.=) ANY ('{${question.pids.join()}}'::pg_catalog.int4[])) THEN 'y' ELSE 'n' END`
      );
  }
}

/** Settings that concern how long, where to and by whom, but not what is answered. */
const unheeded = [
  ...["application_name", "client_min_messages", "statement_timeout", "lock_timeout"],
  ...["idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"],
  ...["transaction_isolation", "transaction_read_only", "transaction_deferrable"],
  ...["default_transaction_isolation", "default_transaction_read_only", "track_activities"],
];

/** Every setting that a session may change and that is not as PostgreSQL has it by itself. */
const settingsSql =
  "(SELECT pg_catalog.concat(pg_catalog.pg_client_encoding(), ' ', pg_catalog.md5(" +
  "pg_catalog.concat_ws(pg_catalog.chr(1), CURRENT_USER, SESSION_USER, " +
  "pg_catalog.string_agg(pg_catalog.concat(s.name, '=', s.setting), pg_catalog.chr(1) ORDER BY s.name)))) " +
  `FROM pg_catalog.pg_settings AS s WHERE s.context ${EQUALS} ANY ('{user,superuser}'::pg_catalog.text[]) ` +
  "AND s.source OPERATOR(pg_catalog.<>) 'default' " +
  `AND s.name OPERATOR(pg_catalog.<>) ALL ('{${unheeded.join()}}'::pg_catalog.text[]))`;

const FIRST_USER_OID = "16384";
const ofUser = (alias: string): string =>
  `${alias}.oid OPERATOR(pg_catalog.>=) ${FIRST_USER_OID}::pg_catalog.oid`;
/** PostgreSQL's languages `internal` and `c`: they run no SQL of a user's. */
const compiled = (alias: string): string =>
  `${alias}.prolang ${EQUALS} ANY ('{12,13}'::pg_catalog.oid[])`;

/** It is an aggregate, which runs functions; all of them, or those that `what` says something of. */
const runs = (alias: string, what = ""): string =>
  "EXISTS (SELECT 1 FROM pg_catalog.pg_aggregate AS a JOIN pg_catalog.pg_proc AS f ON " +
  "f.oid OPERATOR(pg_catalog.=) ANY (ARRAY[a.aggtransfn, a.aggfinalfn, a.aggmtransfn, " +
  `a.aggminvtransfn, a.aggmfinalfn]::pg_catalog.oid[]) WHERE a.aggfnoid ${EQUALS} ${alias}.oid${what})`;

const oddSql =
  "EXISTS (SELECT 1 FROM pg_catalog.pg_operator AS o JOIN pg_catalog.pg_proc AS p " +
  `ON p.oid ${EQUALS} o.oprcode::pg_catalog.oid WHERE ${ofUser("o")} ` +
  `AND (p.provolatile ${EQUALS} 'v' OR p.prosecdef OR NOT ${compiled("p")})) ` +
  "OR EXISTS (SELECT 1 FROM pg_catalog.pg_cast AS k JOIN pg_catalog.pg_proc AS p " +
  `ON p.oid ${EQUALS} k.castfunc WHERE ${ofUser("k")} ` +
  `AND (p.provolatile ${EQUALS} 'v' OR p.prosecdef OR NOT ${compiled("p")})) ` +
  `OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc AS p WHERE ${ofUser("p")} ` +
  `AND (p.provolatile OPERATOR(pg_catalog.<>) 'i' OR p.prosecdef OR NOT ${compiled("p")} ` +
  `OR ${runs("p")}) ` +
  `AND p.proname ${EQUALS} ANY ('{${[...ofArgumentsAlone].join()}}'::pg_catalog.name[]))`;

const relationsOfUsers =
  "pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON " +
  `n.oid ${EQUALS} c.relnamespace AND n.nspname OPERATOR(pg_catalog.<>) ALL ` +
  "('{pg_catalog,information_schema,pg_toast}'::pg_catalog.name[])";

/** Functions of PostgreSQL's own leave no trace in pg_depend: what is found there is a user's. */
const callsFunction = (catalog: string, owner: string): string =>
  `EXISTS (SELECT 1 FROM pg_catalog.${catalog} AS x JOIN pg_catalog.pg_depend AS d ` +
  `ON d.classid ${EQUALS} ${catalogOid(catalog)} AND d.objid ${EQUALS} x.oid ` +
  `AND d.refclassid ${EQUALS} ${catalogOid("pg_proc")} WHERE x.${owner} ${EQUALS} c.oid)`;

const wildSql =
  `SELECT pg_catalog.json_agg(DISTINCT c.relname::pg_catalog.text) FROM ${relationsOfUsers} ` +
  `WHERE c.relkind ${EQUALS} ANY ('{v,f}'::pg_catalog."char"[]) ` +
  `OR EXISTS (SELECT 1 FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid ${EQUALS} c.oid AND NOT t.tgisinternal) ` +
  `OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite AS r WHERE r.ev_class ${EQUALS} c.oid ` +
  "AND r.ev_type OPERATOR(pg_catalog.<>) '1') " +
  `OR ${callsFunction("pg_attrdef", "adrelid")} OR ${callsFunction("pg_constraint", "conrelid")}`;

const pairSql =
  "SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.relname::pg_catalog.text, b.relname::pg_catalog.text))";
const pairFrom = (catalog: string, from: string, to: string): string =>
  `FROM pg_catalog.${catalog} AS x JOIN pg_catalog.pg_class AS a ON a.oid ${EQUALS} x.${from} ` +
  `JOIN pg_catalog.pg_class AS b ON b.oid ${EQUALS} x.${to}`;
const acts = (column: string): string =>
  `x.${column} ${EQUALS} ANY ('{c,n,d}'::pg_catalog."char"[])`;

const databaseSql =
  `pg_catalog.json_build_object('odd', ${oddSql}, 'wild', (${wildSql}), ` +
  `'kin', (${pairSql} ${pairFrom("pg_inherits", "inhparent", "inhrelid")}), ` +
  `'follows', (${pairSql} ${pairFrom("pg_constraint", "confrelid", "conrelid")} ` +
  `WHERE x.contype ${EQUALS} 'f' AND (${acts("confdeltype")} OR ${acts("confupdtype")})))`;

function relationSql({ schema, name }: RelationName): string {
  const isSystem =
    `${relationExists(name)} AND n.nspname ${EQUALS} ANY ` +
    "('{pg_catalog,information_schema}'::pg_catalog.name[]))";
  const found = (condition: string, letter: string): string =>
    `(SELECT '${letter}' FROM whole WHERE ${condition} LIMIT 1)`;
  const kind = (letters: string): string =>
    `relkind ${EQUALS} ANY ('{${letters}}'::pg_catalog."char"[])`;
  return (
    `CASE WHEN ${isSystem} THEN 's []' ELSE (WITH RECURSIVE ${belowSql(name, schema)}, ` +
    "whole AS (SELECT b.relkind, b.relpersistence, c.relname, n.nspname, " +
    // Settings of a client's own making, as who he is, pg_settings does not tell.
    `(c.relrowsecurity OR (c.relkind ${EQUALS} 'v' AND pg_catalog.pg_get_viewdef(c.oid) ` +
    "OPERATOR(pg_catalog.~) 'current_setting')) AS relrowsecurity " +
    `FROM below AS b JOIN pg_catalog.pg_class AS c ON c.oid ${EQUALS} b.oid ` +
    `JOIN pg_catalog.pg_namespace AS n ON n.oid ${EQUALS} c.relnamespace) ` +
    "SELECT pg_catalog.concat(" +
    `${found(`nspname ${EQUALS} ANY ('{pg_catalog,information_schema}'::pg_catalog.name[])`, "s")}, ` +
    `${found(kind("S"), "q")}, ${found(kind("f"), "f")}, ${found(kind("v,m"), "v")}, ` +
    `${found(`relpersistence ${EQUALS} 'u'`, "u")}, ${found("relrowsecurity", "r")}, ' ', ` +
    "(SELECT pg_catalog.json_agg(DISTINCT relname::pg_catalog.text) FROM whole))) END"
  );
}

/** Volatile functions of PostgreSQL's that change no table. */
const harmlessVolatile = [
  ...["nextval", "currval", "lastval", "setval", "random", "setseed", "clock_timestamp"],
  ...["timeofday", "pg_sleep", "pg_sleep_for", "pg_sleep_until", "gen_random_uuid", "uuidv7"],
  ...["pg_advisory_lock", "pg_advisory_unlock", "pg_advisory_xact_lock", "pg_try_advisory_lock"],
  ...["pg_try_advisory_xact_lock", "pg_advisory_unlock_all", "pg_notify", "pg_is_in_recovery"],
  ...["txid_current", "pg_current_xact_id", "pg_current_wal_lsn", "pg_last_wal_replay_lsn"],
  ...["pg_cancel_backend", "pg_terminate_backend", "pg_database_size", "pg_relation_size"],
  ...["pg_total_relation_size", "pg_table_size", "pg_indexes_size", "set_config", "array_sample"],
];

function functionSql(called: FunctionName): string {
  if (called.schema === "pg_temp") return "'w'"; // the session's own, of which we know nothing
  const found = functionExists(called);
  const harmless =
    `(NOT ${ofUser("p")} AND p.proname ${EQUALS} ` +
    `ANY ('{${harmlessVolatile.join()}}'::pg_catalog.name[]))`;
  return (
    `CASE WHEN NOT ${found}) THEN 'w' ` +
    `WHEN ${found} AND (p.provolatile ${EQUALS} 'v' OR ${ofUser("p")} ` +
    `AND ${runs("p", ` AND f.provolatile ${EQUALS} 'v'`)}) AND NOT ${harmless}) THEN 'w' ` +
    `WHEN ${found} AND ${ofUser("p")} AND (p.provolatile OPERATOR(pg_catalog.<>) 'i' OR p.prosecdef ` +
    `OR NOT ${compiled("p")} OR ${runs("p", ` AND NOT ${compiled("f")}`)})) THEN 'u' ` +
    `WHEN ${found} AND (p.provolatile OPERATOR(pg_catalog.<>) 'i' OR p.prosecdef)) ` +
    "THEN 'r' ELSE 'p' END"
  );
}
