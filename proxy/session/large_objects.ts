/**
 * lobj_lock_table: lo_creat of the fast path, which would number a new large object on each node by
 * itself (spec native-replication.md section 6). When anything goes wrong the call goes out as it was.
 */
import {
  createWithNumber,
  functionIdsSql,
  lockSql,
  nextNumberSql,
} from "../../core/sql/large_objects.ts";
import type { Frame } from "../../core/wire/frame.ts";
import { decodeFrontend } from "../../core/wire/frontend.ts";
import type { Ensemble } from "./ensemble.ts";
import { valuesOf } from "./messages.ts";
import type { Replica } from "./replica.ts";
import type { Prelude, Script } from "./scripts.ts";

export class LargeObjects {
  readonly #ensemble: Ensemble;
  /** Numbers of lo_creat and lo_create; asked when first needed. */
  #functions: readonly [creat: number, create: number] | undefined;

  constructor(ensemble: Ensemble) {
    this.#ensemble = ensemble;
  }

  /** `change` is given the message that takes the place of the client's. */
  *preludeOf(
    frame: Frame,
    replicas: readonly Replica[],
    change: (message: Uint8Array) => void,
  ): Script<((main: Replica) => Script<Prelude>) | undefined> {
    const ensemble = this.#ensemble;
    const table = ensemble.lockTable;
    const [main] = replicas;
    if (table === "" || replicas.length < 2 || main === undefined) return undefined;
    const call = decodeFrontend(frame);
    if (call.kind !== "FunctionCall") return undefined;
    const functions = this.#functions ?? (yield* this.#ask(main));
    if (functions === undefined || call.functionId !== functions[0]) return undefined;
    return function* (now: Replica): Script<Prelude> {
      const [locked] = yield* ensemble.ask([now], lockSql(table));
      if (locked === undefined || locked.lost) return undefined;
      if (locked.error !== undefined) return locked.error;
      const [told] = yield* ensemble.ask([now], nextNumberSql);
      if (told === undefined || told.lost) return undefined;
      const number = valuesOf(told.rows[0])?.[0] ?? null;
      const message = createWithNumber(call, functions[1], number);
      if (message !== undefined) change(message);
      return "done";
    };
  }

  *#ask(main: Replica): Script<readonly [number, number] | undefined> {
    if (this.#ensemble.failed) return undefined;
    const [answer] = yield* this.#ensemble.ask([main], functionIdsSql);
    const [creat, create] = valuesOf(answer?.rows[0]) ?? [];
    if (!creat || !create) return undefined;
    this.#functions = [Number(creat), Number(create)];
    return this.#functions;
  }
}
