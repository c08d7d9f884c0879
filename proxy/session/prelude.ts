/**
 * What is done for a statement before it goes to several nodes, in its own transaction: the locks of
 * insert_lock, and the questions to the main node whose answers are put into the statement (core/sql/
 * insert_lock.ts, rewrite.ts).
 */
import { type InsertLock, takeInsertLock } from "../../core/sql/insert_lock.ts";
import { askedSql } from "../../core/sql/rewrite.ts";
import type { Protocol } from "../routing/route.ts";
import type { Ensemble } from "./ensemble.ts";
import { valuesOf } from "./messages.ts";
import type { Replica } from "./replica.ts";
import type { Prelude, Question, Script } from "./scripts.ts";

export type PreludeOptions = {
  readonly ensemble: Ensemble;
  readonly protocol: Protocol;
  readonly locks: readonly InsertLock[];
  readonly questions: readonly Question[];
};

/** Undefined when there is nothing to be done. */
export function preludeOf(
  options: PreludeOptions,
): ((main: Replica, others: readonly Replica[]) => Script<Prelude>) | undefined {
  if (options.locks.length === 0 && options.questions.length === 0) return undefined;
  return (main, others) => prelude(options, main, others);
}

function* prelude(
  { ensemble, protocol, locks, questions }: PreludeOptions,
  main: Replica,
  others: readonly Replica[],
): Script<Prelude> {
  const isLocked = ensemble.internal || ensemble.inTransaction;
  for (const lock of isLocked ? locks : []) {
    const steps = takeInsertLock(lock);
    for (let step = steps.next(); step.done !== true; ) {
      const { on, sql } = step.value;
      const answers = yield* ensemble.ask(on === "main" ? [main] : others, sql, protocol);
      if (main.lost) return undefined;
      const error = answers.find((answer) => answer.error !== undefined)?.error;
      if (error !== undefined) return error;
      const there = answers.filter(({ lost }) => !lost);
      step = steps.next(Math.min(...there.map(({ rows }) => rows.length)));
    }
  }
  for (const { asked, answer } of questions) {
    if (asked.length === 0) {
      answer([]);
      continue;
    }
    const [told] = yield* ensemble.ask([main], askedSql(asked), protocol);
    if (told === undefined || told.lost) return undefined;
    if (told.error !== undefined) return told.error;
    answer(valuesOf(told.rows[0]) ?? []);
  }
  return "done";
}
