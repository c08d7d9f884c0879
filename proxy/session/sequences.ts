/**
 * Rows are numbered alike on all nodes because INSERTs into one table take turns (insert_lock). One that
 * has failed on one node has taken numbers there, and the others are not to run it. They still hold
 * its locks, so that nobody else takes a number anywhere: now they can be brought to where the main
 * node's sequences are.
 */
import type { StatementFacts } from "../../core/sql/facts.ts";
import { quoteName } from "../../core/sql/quoting.ts";
import { catchUpSql, readSequenceLevels, sequenceLevelsSql } from "../../core/sql/sequences.ts";
import { mayHoldSeveral } from "./effects.ts";
import { valuesOf } from "./messages.ts";
import { fieldOf, type Replica } from "./replica.ts";
import { FAILED, IDLE } from "./replies.ts";
import type { OwnAnswer, Script } from "./scripts.ts";

/** Savepoints of the transaction that is open, the innermost last; undefined when nobody knows. */
export class Savepoints {
  #names: string[] | undefined = [];

  /** Goes back to the innermost one, or else to the beginning of a transaction that is like this one. */
  get undo(): string | undefined {
    if (this.#names === undefined) return undefined;
    const last = this.#names.at(-1);
    return last === undefined ? "ROLLBACK AND CHAIN" : `ROLLBACK TO ${quoteName(last)}`;
  }

  /** A statement has succeeded, or a text has been run up to an error. `status`: of the transaction now. */
  note(facts: StatementFacts, sql: string, status: number, failed: boolean): void {
    if (status === IDLE) {
      this.#names = [];
      return;
    }
    const { statement } = facts;
    if (mayHoldSeveral(facts)) {
      if (controlWords.test(sql)) this.#names = undefined;
      return;
    }
    if (failed || statement.kind !== "transaction") return;
    const { control } = statement;
    switch (control.kind) {
      case "savepoint":
        this.#names?.push(control.name);
        return;
      case "release":
        this.#leave(control.name, false);
        return;
      case "rollback_to":
        this.#leave(control.name, true);
        return;
      case "commit":
      case "rollback":
        this.#names = []; // and a new one has begun
        return;
      case "begin":
      case "two_phase":
        return;
    }
  }

  #leave(name: string, stays: boolean): void {
    const names = this.#names;
    const at = names?.lastIndexOf(name) ?? -1;
    if (at >= 0) names?.splice(stays ? at + 1 : at);
  }
}

const controlWords = /\b(?:savepoint|release|rollback|begin|start|commit|end|abort)\b/i;

export type Levelling = {
  /** With the main node first. All in one transaction, which has failed on some. */
  readonly replicas: readonly Replica[];
  /** Quoted, with their schemas. */
  readonly tables: readonly string[];
  /** What makes a node where it has failed answer again. */
  readonly undo: string;
  ask(replicas: readonly Replica[], sql: string): Script<readonly OwnAnswer[]>;
};

/** Returns why it could not be done, or not wholly. */
export function* levelSequences(options: Levelling): Script<string | undefined> {
  const { replicas, tables, undo, ask } = options;
  const undone = yield* ask(
    replicas.filter(({ status }) => status === FAILED),
    undo,
  );
  if (undone.some(({ error }) => error !== undefined)) return errorOf(undone);
  const [main, ...others] = replicas.filter(({ lost }) => !lost);
  if (main === undefined || others.length === 0) return undefined;
  const told = yield* ask([main], sequenceLevelsSql(tables));
  if (told.some(({ error }) => error !== undefined)) return errorOf(told);
  if (main.lost) return "the main node was lost";
  const { levels, unsure } = readSequenceLevels(valuesOf(told[0]?.rows[0])?.[0]);
  if (levels.length > 0) {
    const taken = yield* ask(others, catchUpSql(levels));
    if (taken.some(({ error }) => error !== undefined)) return errorOf(taken);
  }
  return unsure.length > 0 ? unsure.join(", ") : undefined;
}

function errorOf(answers: readonly OwnAnswer[]): string {
  const error = answers.find((each) => each.error !== undefined)?.error;
  return (error && fieldOf(error, "M")) ?? "unknown error";
}
