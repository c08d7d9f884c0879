/**
 * The servers that one session of native replication or snapshot isolation has, taken together (spec
 * native-replication.md). A statement runs on the main node first and on the others when that has
 * answered, so that who waits for a lock waits on the main node; a transaction ends on the main node
 * last. What they have answered must be the same, and the client is told it once. A statement that is
 * its own transaction runs in a block of ours until every node has run it.
 *
 * Each way of doing this is a generator that yields where it has to wait; the session runs them, one
 * at a time, and takes nothing more from the client meanwhile.
 */
import type { NodeId } from "../../core/cluster/state.ts";
import { ABORTING, type Agreement, agreementOf } from "../../core/routing/agreement.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { literal } from "../../core/sql/quoting.ts";
import { askedSql } from "../../core/sql/rewrite.ts";
import { errorResponse, noticeResponse } from "../../core/wire/backend.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import type { Protocol } from "../routing/route.ts";
import type { Errand, Turn } from "../snapshots.ts";
import { CopyToAll } from "./copy_to_all.ts";
import { begins, needsBlock } from "./effects.ts";
import { queryMessage, valuesOf } from "./messages.ts";
import { OWN_NAME, runOwnSync, syncMessage } from "./own_messages.ts";
import { Exchange, fieldOf, type Hearing, type Replica } from "./replica.ts";
import { FAILED, IDLE, IN_TRANSACTION } from "./replies.ts";
import {
  type Asked,
  type EnsembleHost,
  type Outcome,
  type OwnAnswer,
  over,
  type Script,
  type Unit,
} from "./scripts.ts";
import { levelSequences, Savepoints } from "./sequences.ts";
import { connectionLost } from "./stand_in.ts";

const failingMessages = Buffer.concat([
  encodeFrontend({
    kind: "Parse",
    statement: OWN_NAME,
    sql: "send invalid query from pgpool to abort transaction",
    parameterTypes: [],
  }),
  syncMessage,
]);
/** Makes the server take its snapshot; the answer is of use too. */
const snapshotMessages = runOwnSync(
  "SELECT pg_catalog.current_setting('transaction_read_only'), " +
    "pg_catalog.current_setting('transaction_isolation')",
);
const ownMessages = {
  simple: {
    begin: queryMessage("BEGIN"),
    commit: queryMessage("COMMIT"),
    rollback: queryMessage("ROLLBACK"),
  },
  extended: {
    begin: runOwnSync("BEGIN"),
    commit: runOwnSync("COMMIT"),
    rollback: runOwnSync("ROLLBACK"),
  },
} as const;

export class Ensemble {
  readonly #host: EnsembleHost;
  readonly #copyIn: CopyToAll;
  readonly links: (Replica | undefined)[] = [];
  /** The transaction that is open is ours: the client knows of none. */
  internal = false;
  /** Something in it has failed: it is to be rolled back. */
  #doomed = false;
  /**
   * What is going on must not end with the client: some nodes may have made it last already, or taken
   * from a sequence what stays taken.
   */
  mustFinish = false;
  /** The main node has run it, and the others are at it. */
  othersRun = false;
  /** What is run is not in any transaction. */
  #lasts = false;
  /** Snapshot isolation: every node has taken the snapshot of this transaction. */
  #hasSnapshot = false;
  #turn: Turn | undefined;
  #toldIsolation = false;

  constructor(host: EnsembleHost) {
    this.#host = host;
    this.#copyIn = new CopyToAll(host);
  }

  // ---------------------------------------------------------------- who they are

  /** Nodes with a connection, by id. */
  get members(): readonly Replica[] {
    return this.#members;
  }
  #members: readonly Replica[] = [];

  /** One has come, or gone. */
  changed(): void {
    this.#members = this.links.filter((link) => link !== undefined && !link.lost) as Replica[];
  }

  /** The one of the lowest id: it comes first, and its words are the client's. */
  get main(): Replica | undefined {
    return this.#members[0];
  }

  /** A transaction of the client's is open. */
  get inTransaction(): boolean {
    return !this.internal && (this.main?.status ?? IDLE) !== IDLE;
  }

  /** Transaction status as the client is to be told it. */
  get status(): number {
    const main = this.main;
    if (this.internal || main === undefined || main.status === IDLE) return IDLE;
    return this.members.some(({ status }) => status === FAILED) ? FAILED : main.status;
  }

  get isSnapshotMode(): boolean {
    return this.#host.replication.settings().backend_clustering_mode === "snapshot_isolation";
  }

  /** The transaction has failed. */
  get failed(): boolean {
    return this.status === FAILED;
  }

  /** lobj_lock_table. */
  get lockTable(): string {
    return this.#host.replication.settings().lobj_lock_table;
  }

  forget(link: Replica): void {
    this.links[link.id] = undefined;
    this.changed();
  }

  // ---------------------------------------------------------------- a unit of the client's

  *run(unit: Unit, targets: readonly Replica[]): Script<Outcome> {
    const outcome = yield* this.#run(unit, targets);
    if (this.#brought.length > 0) {
      for (const { exchange, undo } of this.#brought.splice(0)) {
        if (exchange.error !== undefined) undo();
      }
    }
    if (this.#isQuiet && outcome.failed) this.internal = this.#doomed = true; // no BEGIN made it theirs
    this.#isQuiet = false;
    if (this.main?.status === IDLE) this.#hasSnapshot = false;
    if (unit.executes && !this.internal) {
      this.#savepoints.note(unit.facts, unit.sql, this.main?.status ?? IDLE, outcome.failed);
    }
    return outcome;
  }
  readonly #savepoints = new Savepoints();

  *#run(unit: Unit, targets: readonly Replica[]): Script<Outcome> {
    if (this.internal && unit.executes) {
      const error = yield* this.#meetsOurs(unit);
      if (error !== undefined) {
        this.#host.toClient(error);
        return { failed: true, completed: 0, untold: undefined, readyTold: false };
      }
    }
    if (this.#wraps(unit, targets)) this.internal = true;
    if (this.isSnapshotMode && unit.executes) yield* this.takeSnapshot(unit, targets);
    const only = targets[0];
    if (only === undefined) return yield* this.nobodyLeft("no DB node is left");
    if (targets.length === 1) return yield* this.#alone(unit, only);
    const ends = unit.executes ? endOf(unit.facts) : undefined;
    if (ends !== undefined) return yield* this.#endByClient(unit, targets, ends);
    this.mustFinish = unit.executes;
    const isOwn = !this.internal && !this.inTransaction;
    this.#lasts = unit.executes && (isOwn || undoing(unit.facts) !== undefined);
    const outcome = yield* this.#together(unit, targets);
    this.#release();
    return outcome;
  }

  /** What these run can be undone no more, since another node has done it. */
  #bind(replicas: readonly Replica[]): void {
    for (const replica of replicas) replica.isBound = true;
  }

  /** It is done everywhere. */
  #release(): void {
    this.mustFinish = this.othersRun = this.#lasts = false;
    for (const replica of this.members) replica.isBound = false;
  }

  /** The client has gone: what is ours to make last does not. */
  abandon(): void {
    if (this.internal) this.#doomed = true;
  }

  /** Whether it is to run in a block of ours, for it has none of the client's. */
  #wraps({ facts, executes, last, lasting }: Unit, targets: readonly Replica[]): boolean {
    if (this.internal || this.main?.status !== IDLE || facts.inBlock === "refused") return false;
    if (!last && lasting) return true; // what follows belongs to it, wherever that will go
    return executes && facts.inBlock === "undone" && (targets.length > 1 || this.isSnapshotMode);
  }

  /**
   * What PostgreSQL does with a statement about transactions where there is no block of the client's,
   * but work of the same segment before it: BEGIN makes that part of its block, COMMIT makes it last,
   * and what needs a block is an error, which undoes it. DISCARD, which has no place in a block, and a
   * text with transactions of its own end ours too. Returns the error of that end.
   */
  *#meetsOurs({ facts, protocol }: Unit): Script<Uint8Array | undefined> {
    if (begins(facts) && !facts.multiStatement) {
      this.#forget();
      this.#isQuiet = true;
      return undefined;
    }
    const { control } = facts.statement.kind === "transaction" ? facts.statement : {};
    if (facts.inBlock !== "refused" || facts.statement.kind === "unparsable") return undefined;
    const isApart = facts.multiStatement || facts.statement.kind === "discard";
    // What PostgreSQL refuses in a block is refused, and undoes what came before, as in a pipeline.
    if (!isApart && control === undefined && !needsBlock(facts)) return undefined;
    const lasts = isApart || (control?.kind === "commit" && !control.chain);
    if (!lasts) this.#doomed = true;
    const error = yield* this.finish(protocol);
    return lasts ? error : undefined;
  }
  /** The next BEGIN warns of a transaction that the client does not know. */
  #isQuiet = false;

  /** BEGIN, where our transaction has not reached yet. */
  #open(replica: Replica, protocol: Protocol): Exchange | undefined {
    if (!this.internal || replica.status !== IDLE || this.#opening.has(replica)) return undefined;
    this.#opening.add(replica);
    return replica.ask(new Exchange("nothing"), ownMessages[protocol].begin);
  }
  /** BEGIN has been sent there, and our transaction has not ended. */
  readonly #opening = new Set<Replica>();

  #ask(unit: Unit, replica: Replica, hearing: Hearing): Exchange {
    const opened = this.#open(replica, unit.protocol);
    const brought = this.#bring(unit, replica, opened);
    // Should that fail, then its error is the client's, and not the one that follows from it.
    const passes = hearing === "all" || hearing === "answer";
    const held = brought !== undefined && passes ? "rows" : hearing;
    const { parameters } = unit;
    const options = { before: brought ?? opened, quiet: this.#isQuiet, parameters };
    const exchange = replica.ask(new Exchange(held, options), unit.message(replica));
    unit.note(replica, exchange);
    return exchange;
  }

  #bring(unit: Unit, replica: Replica, opened: Exchange | undefined): Exchange | undefined {
    const lacking = unit.before(replica);
    if (lacking === undefined) return undefined;
    const exchange = replica.ask(new Exchange("nothing", { before: opened }), lacking.messages);
    this.#brought.push({ exchange, undo: () => lacking.undo() });
    return exchange;
  }
  readonly #brought: { readonly exchange: Exchange; readonly undo: () => void }[] = [];

  /** On one node, whose answer passes as it comes. */
  *#alone(unit: Unit, replica: Replica): Script<Outcome> {
    if (unit.prelude !== undefined) {
      const prelude = yield* this.#prelude(unit.prelude, unit, [replica]);
      if (prelude === undefined) {
        const next = this.main;
        if (next === undefined) return yield* this.nobodyLeft(replica.why);
        if (unit.repeatable) return yield* this.#alone(unit, next);
        this.#host.toClient(connectionLost("ERROR", replica, replica.why));
        yield* this.failTogether();
        return { failed: true, completed: 0, untold: undefined, readyTold: false };
      }
      if (prelude !== "done") return prelude;
    }
    // A BEGIN within a transaction of ours that fails leaves it ours.
    const isOver = unit.last && !this.internal && !this.#isQuiet;
    const exchange = this.#ask(unit, replica, isOver ? "all" : "answer");
    yield "answers";
    if (exchange.copying) yield* this.#copyIn.run([{ replica, exchange }], unit);
    if (exchange.lost) {
      const next = this.main;
      if (next === undefined) return yield* this.nobodyLeft(replica.why);
      if (exchange.heard === 0 && unit.repeatable) return yield* this.#alone(unit, next);
      return yield* this.#tellLost({ replica, exchange });
    }
    const isHeld = exchange.hearing === "rows";
    const error = exchange.failure;
    if (error !== undefined) {
      if (isHeld) this.#host.toClient(error);
      yield* this.failTogether();
    }
    return {
      failed: error !== undefined,
      completed: exchange.completed,
      untold: isHeld && error === undefined ? exchange.outcome : undefined,
      readyTold: exchange.hearing === "all",
    };
  }

  /** The main node is lost: what it has not told the client of its answer is told by another. */
  #tellKept(main: Exchange | undefined, asked: readonly Asked[]): void {
    if (main?.lost === false) return;
    const next = asked.find(({ exchange }) => !exchange.lost)?.exchange;
    for (const frame of next?.kept.slice(main?.heard ?? 0) ?? []) this.#host.toClient(frame);
  }

  *#tellLost({ replica, exchange }: Asked): Script<Outcome> {
    this.#host.toClient(connectionLost("ERROR", replica, replica.why));
    yield* this.failTogether();
    return failure(exchange);
  }

  /** On the main node, then on the others; and what they said is compared. */
  *#together(unit: Unit, targets: readonly Replica[]): Script<Outcome> {
    const asked: Asked[] = [];
    const isInBlock = this.internal || this.inTransaction;
    this.#mainFor = 0;
    const isAlone = this.#host.replication.settings().num_init_children === 1;
    const isHarmless = mayRunAtOnce(unit);
    const isReady = unit.prelude === undefined && unit.along === undefined;
    if (isHarmless || (isAlone && isReady)) {
      for (const replica of this.#alive(targets)) {
        const hearing = asked.length === 0 ? "rows" : isHarmless ? "kept" : "nothing";
        asked.push({ replica, exchange: this.#ask(unit, replica, hearing) });
      }
      yield "answers";
      if (isHarmless) this.#tellKept(asked[0]?.exchange, asked);
      else if (asked[0]?.exchange.lost === true) return yield* this.#tellLost(asked[0]);
    } else {
      const first = yield* this.#first(unit, targets);
      if (!("replica" in first)) return first;
      const { exchange } = first;
      const isUnbrought = exchange.before?.error !== undefined;
      const isOver = isUnbrought || (isAborted(exchange) && !unit.facts.endsWithin);
      if (exchange.failure !== undefined && isOver) {
        // Where what it lacked could not be brought it has not even begun: no other shall.
        if (!isUnbrought)
          this.#log(`received ${ABORTED_BY} error message from main node. query: ${unit.sql}`);
        this.#host.toClient(exchange.failure);
        if (!isUnbrought && isInBlock) yield* this.#level(unit, targets);
        yield* this.failTogether();
        return failure(exchange);
      }
      asked.push(first);
      if (this.#lasts) this.#bind(targets);
      this.othersRun = true;
      for (const replica of this.#alive(targets)) {
        if (replica !== first.replica) asked.push(this.#asking(unit, replica, false));
      }
      const isVain = exchange.failure !== undefined && !unit.facts.endsWithin;
      this.#mayGiveUp(isVain ? asked.slice(1).map(({ replica }) => replica) : none);
      yield "answers";
      this.#mayGiveUp(none);
    }
    if (asked.some(({ exchange }) => exchange.copying)) yield* this.#copyIn.run(asked, unit);
    const heard = asked.filter(({ replica }) => !this.#gaveUp.delete(replica));
    if (heard.length < asked.length) this.#warnOfNumbers(unit, "it was cancelled on some nodes");
    return yield* this.#agree(unit, heard, isInBlock);
  }

  /**
   * What others do though the main node has failed: run the statement for the traces that it leaves, or
   * take its numbers. That one has given its locks back, so others may have overtaken it there: then it
   * waits for them elsewhere while they wait for it, which no server can see, and they all would for ever.
   */
  #vain: readonly Replica[] = none;
  /** Seconds for which that has gone on, and for which the main node had run the statement. */
  #vainFor = 0;
  #mainFor = 0;
  readonly #gaveUp = new Set<Replica>();
  #cancels = 0;

  #mayGiveUp(replicas: readonly Replica[]): void {
    this.#vain = replicas;
    this.#vainFor = 0;
  }

  /** A node is being told to cancel: what it is asked next must not be what that hits. */
  get isCancelling(): boolean {
    return this.#cancels > 0;
  }

  /** A second has passed: nobody waits for long for what is in vain. */
  tick(): void {
    if (this.#vain.length === 0) this.#mainFor++;
    else if (this.#vainFor++ > Math.min(2 * this.#mainFor, VAIN_SECONDS_MAX)) {
      for (const replica of this.#vain) if (replica.isCancellable) this.#giveUp(replica);
    }
  }

  #giveUp(replica: Replica): void {
    if (!this.#gaveUp.has(replica)) {
      this.#gaveUp.add(replica);
      this.#log(`what failed on the main node still runs on node ${replica.id}: canceling it`);
    }
    this.#cancels++;
    void this.#host.replication.cancel(replica).then(() => {
      this.#cancels--;
      this.#host.wake();
    });
  }

  /** Undefined when the main node was lost: then all of it is to be done with the next one. */
  *#prelude(
    steps: NonNullable<Unit["prelude"]>,
    { protocol }: Unit,
    replicas: readonly Replica[],
  ): Script<"done" | Outcome | undefined> {
    for (const replica of replicas) this.#open(replica, protocol);
    const [main, ...others] = replicas;
    const prelude = main && (yield* steps(main, others));
    if (prelude === "done" || prelude === undefined) return prelude;
    this.#host.toClient(prelude);
    yield* this.failTogether();
    return { failed: true, completed: 0, untold: undefined, readyTold: false };
  }

  #asking(unit: Unit, replica: Replica, isMain: boolean): Asked {
    return { replica, exchange: this.#ask(unit, replica, isMain ? "rows" : "nothing") };
  }

  /** By the node that comes first; should that be lost, by the next one, for no other has run it. */
  *#first(unit: Unit, targets: readonly Replica[]): Script<Asked | Outcome> {
    for (;;) {
      const alive = this.#alive(targets);
      const [replica] = alive;
      if (replica === undefined) return yield* this.nobodyLeft("no DB node is left");
      if (unit.prelude !== undefined) {
        const prelude = yield* this.#prelude(unit.prelude, unit, alive);
        if (prelude === undefined) continue;
        if (prelude !== "done") return prelude;
      }
      const told = this.#askAlong(unit, replica);
      const asked = this.#asking(unit, replica, true);
      yield "answers";
      const { exchange } = asked;
      if (told?.exchange.error !== undefined) {
        this.#host.toClient(told.exchange.error);
        yield* this.failTogether();
        return failure(exchange);
      }
      if (!exchange.lost) {
        // What the others run is the same also when it has failed here: it has left its traces.
        if (told !== undefined) unit.along?.answer(valuesOf(told.rows[0]) ?? []);
        return asked;
      }
      if (exchange.heard > 0) return yield* this.#tellLost(asked);
    }
  }

  #alive(targets: readonly Replica[]): readonly Replica[] {
    return targets.every(this.#isAlive) ? targets : targets.filter(this.#isAlive);
  }
  readonly #isAlive = (each: Replica): boolean => !each.lost && this.links[each.id] === each;

  // ---------------------------------------------------------------- many answers made one

  /** `isInBlock`: it has run in a transaction that was open before, so under its locks. */
  *#agree(unit: Unit, all: readonly Asked[], isInBlock: boolean): Script<Outcome> {
    const asked = all.filter(({ exchange }) => !exchange.lost);
    const main = asked[0]?.exchange;
    if (main === undefined) return yield* this.nobodyLeft("no DB node is left");
    const agreement = isSame(asked) ? same : this.#agreementOf(asked);
    switch (agreement.kind) {
      case "same":
        break;
      case "rows":
        return yield* this.#rowsDiffer(unit, agreement, main);
      case "kinds": {
        const undo = undoing(unit.facts);
        if (undo !== undefined) return yield* this.#undo(undo, unit, asked, agreement);
        const aborted = asked.find(({ exchange }) => isAborted(exchange));
        const mayFail = endOf(unit.facts) === undefined && (this.internal || this.inTransaction);
        const others = asked.every(
          ({ exchange }) => exchange.failure === undefined || isAborted(exchange),
        );
        if (!others || !mayFail || aborted === undefined) {
          return yield* this.#kindsDiffer(unit.sql, agreement);
        }
        // One node has undone it for what others did there: it is undone everywhere.
        this.#host.toClient(aborted.exchange.failure ?? noError);
        const replicas = all.map(({ replica }) => replica);
        if (isInBlock) yield* this.#level(unit, replicas);
        yield* this.failTogether();
        return failure(main);
      }
    }
    if (main.failure === undefined) {
      const { completed, outcome: untold } = main;
      return { failed: false, completed, untold, readyTold: false };
    }
    this.#host.toClient(main.failure);
    yield* this.failTogether();
    return failure(main);
  }

  /** One has refused what the others can still take back. */
  *#undo(
    sql: string,
    unit: Unit,
    asked: readonly Asked[],
    agreement: Extract<Agreement, { kind: "kinds" }>,
  ): Script<Outcome> {
    const refusal = asked.find(({ exchange }) => exchange.failure !== undefined)?.exchange;
    const done = asked.filter(({ exchange }) => exchange.failure === undefined);
    const replicas = done.map(({ replica }) => replica);
    this.mustFinish = true;
    this.#bind(replicas);
    const undone = yield* this.ask(replicas, sql, unit.protocol);
    this.#release();
    const left = replicas.filter((_, i) => undone[i]?.lost || undone[i]?.error !== undefined);
    for (const { id } of left)
      this.#log(`node ${id} has kept what others refused: ${unit.sql}`, sql);
    if (refusal?.failure === undefined || undone.some(({ error }) => error !== undefined)) {
      return yield* this.#kindsDiffer(unit.sql, agreement);
    }
    this.#host.toClient(refusal.failure);
    return failure(refusal);
  }

  /** What the statement has taken from sequences on one node is taken on all, before it fails on all. */
  *#level(unit: Unit, replicas: readonly Replica[]): Script {
    const { numbered: tables, protocol } = unit;
    if (tables.length === 0) return;
    const undo = this.internal ? "ROLLBACK AND CHAIN" : this.#savepoints.undo;
    if (undo === undefined) {
      this.#warnOfNumbers(unit, "savepoints were set among other statements");
      return;
    }
    const ask = (some: readonly Replica[], text: string) => this.ask(some, text, protocol);
    this.#mainFor = 0;
    this.#mayGiveUp(replicas);
    const why = yield* levelSequences({ replicas, tables, undo, ask });
    this.#mayGiveUp(none);
    this.#gaveUp.clear();
    if (why !== undefined) this.#warnOfNumbers(unit, why);
  }

  #warnOfNumbers({ numbered, sql }: Unit, why: string): void {
    if (numbered.length === 0) return;
    const detail = `${why}: ${sql}`;
    this.#log(`sequences of ${numbered.join(", ")} may differ among the nodes`, detail);
  }

  #agreementOf(asked: readonly Asked[]): Agreement {
    const answers = asked.map(({ replica, exchange }) => ({
      node: replica.id,
      kind: exchange.failure === undefined ? String.fromCharCode(exchange.kind) : "E",
      error: exchange.failure && fieldOf(exchange.failure, "M"),
      rowCounts: exchange.rowCounts,
    }));
    return agreementOf(answers, this.#host.replication.settings().backends.length);
  }

  *#rowsDiffer(
    unit: Unit,
    { wrong, counts }: Extract<Agreement, { kind: "rows" }>,
    main: Exchange,
  ): Script<Outcome> {
    const message = `pgpool detected difference of the number of inserted, updated or deleted tuples. Possible last query was: "${unit.sql}"`;
    this.#log(message, counts);
    const hint = "check data consistency between main and other db node";
    const error = { code: "XX001", message, hint } as const;
    if (!this.#host.replication.settings().failover_if_affected_tuples_mismatch) {
      this.#host.toClient(errorResponse({ severity: "ERROR", ...error }));
      yield* this.failTogether();
      return failure(main);
    }
    this.#disagreed(wrong, `it has changed a different number of rows: ${counts}`);
    this.#host.end(
      { kind: "broken", why: message },
      errorResponse({ severity: "FATAL", ...error }),
    );
    return yield* over();
  }

  *#kindsDiffer(
    sql: string,
    { wrong, right, byMajority, details }: Extract<Agreement, { kind: "kinds" }>,
  ): Script<never> {
    const host = this.#host;
    for (const node of wrong) {
      const who = byMajority ? "majority" : "main";
      const kind =
        details
          .split(" ")
          .find((each) => each.startsWith(`${node}[`))
          ?.charAt(2) ?? "?";
      const message = `packet kind of backend ${node} ['${kind}'] does not match with main/majority nodes packet kind ['${right}']`;
      this.#log(message, `the ${who} decides`);
      host.toClient(noticeResponse({ severity: "WARNING", code: "01000", message }));
    }
    const message = "failed to read kind from backend";
    const detail = `kind mismatch among backends. Possible last query was: "${sql}" kind details are: ${details}`;
    this.#log(message, detail);
    const { replication_stop_on_mismatch } = host.replication.settings();
    if (replication_stop_on_mismatch) this.#disagreed(wrong, detail);
    const hint = "check data consistency among db nodes";
    host.end(
      { kind: "broken", why: detail },
      errorResponse({ severity: "FATAL", code: "XX000", message, detail, hint }),
    );
    return yield* over();
  }

  #disagreed(wrong: readonly NodeId[], why: string): void {
    const links = this.links.flatMap((link) => (link && wrong.includes(link.id) ? [link] : []));
    void this.#host.ports.disagreed(links, why);
  }

  /** Its connection has ended, not the server, around a COMMIT that others do, or undo. */
  parted(replica: Replica): void {
    const what = replica.isAhead
      ? "may have committed what other nodes lack"
      : "may lack what other nodes have committed";
    const why = `node ${replica.id} ${what}: ${replica.why}`;
    this.#log(why, "check data consistency among db nodes");
    if (this.#host.replication.settings().replication_stop_on_mismatch)
      this.#disagreed([replica.id], why);
  }

  /** One transaction to the client is one on every node: when it has failed on one, it fails on all. */
  *failTogether(): Script {
    if (this.internal) {
      this.#doomed = true;
      return;
    }
    const open = this.members.filter(({ status }) => status === IN_TRANSACTION);
    const isOpen = this.members.some(({ status }) => status !== IDLE);
    if (!isOpen || open.length === 0) return;
    for (const replica of open) replica.ask(new Exchange("nothing"), failingMessages);
    yield "answers";
  }

  /** The session ends, for there is no server left. */
  *nobodyLeft(why: string): Script<never> {
    const message = "unable to read data from DB node";
    this.#host.end(
      { kind: "broken", why },
      errorResponse({ severity: "FATAL", code: "57P01", message, detail: why }),
    );
    return yield* over();
  }

  #log(message: string, detail?: string): void {
    this.#host.replication.warn(message, detail);
  }

  // ---------------------------------------------------------------- the end of a transaction

  /**
   * Our own transaction ends, if there is one: what it did lasts, or nothing of it does. Returns the
   * error that it ended with.
   */
  *finish(protocol: Protocol): Script<Uint8Array | undefined> {
    if (!this.internal) return undefined;
    const open = this.members.filter((each) => each.status !== IDLE || this.#opening.has(each));
    const messages = ownMessages[protocol];
    const commits = !this.#doomed && open.every(({ status }) => status === IN_TRANSACTION);
    const ask = (replica: Replica) =>
      replica.ask(
        new Exchange(replica === this.main ? "notices" : "nothing"),
        commits ? messages.commit : messages.rollback,
      );
    const result = yield* this.#conclude(open, commits, ask, messages.rollback);
    this.#forget();
    if (result.refusal !== undefined) return result.refusal;
    // Whoever was lost on the way has left the cluster, and has no say in it.
    const asked = result.asked.filter(({ exchange }) => !exchange.lost);
    if (asked.length < result.asked.length && this.main === undefined) {
      return yield* this.nobodyLeft("no DB node is left");
    }
    const agreement = this.#agreementOf(asked);
    if (agreement.kind === "kinds") yield* this.#kindsDiffer("COMMIT", agreement);
    return asked[0]?.exchange.error;
  }

  *#endByClient(unit: Unit, targets: readonly Replica[], end: Ending): Script<Outcome> {
    const commits = end === "commit" && this.status === IN_TRANSACTION;
    const main = targets[0];
    const ask = (replica: Replica) => this.#ask(unit, replica, replica === main ? "rows" : "kept");
    const rollback = ownMessages[unit.protocol].rollback;
    const result = yield* this.#conclude(targets, commits, ask, rollback);
    if (result.refusal === undefined) {
      this.#tellKept(result.asked.find(({ replica }) => replica === main)?.exchange, result.asked);
      return yield* this.#agree(unit, result.asked, false);
    }
    const [refused] = result.asked;
    for (const frame of refused?.exchange.kept ?? []) this.#host.toClient(frame);
    this.#host.toClient(result.refusal);
    const completed = refused?.exchange.completed ?? 0;
    return { failed: true, completed, untold: undefined, readyTold: false };
  }

  #forget(): void {
    this.internal = false;
    this.#doomed = false;
    this.#opening.clear();
  }

  /**
   * The other nodes first, the main node last: its locks are those that others wait for. One of the
   * others goes ahead of all; should that refuse to commit, then nobody has, and nobody will.
   */
  *#conclude(
    targets: readonly Replica[],
    commits: boolean,
    ask: (replica: Replica) => Exchange,
    rollback: Uint8Array,
  ): Script<{ readonly asked: readonly Asked[]; readonly refusal: Uint8Array | undefined }> {
    const turn = this.#hasSnapshot ? yield* this.#enter("commit") : undefined;
    this.mustFinish = true;
    const [main, ...others] = targets;
    const asked: Asked[] = [];
    const asking = (replica: Replica) => asked.push({ replica, exchange: ask(replica) });
    let refusal: Uint8Array | undefined;
    const ahead = commits ? others.shift() : undefined;
    if (ahead !== undefined) {
      ahead.isAhead = true;
      asking(ahead);
      yield "answers";
      ahead.isAhead = false;
      const first = asked[0]?.exchange;
      refusal = first?.lost === true ? undefined : first?.failure; // lost, it has not said no
      // Whose connection has ended meanwhile lacks it; whoever left the cluster has left the links.
      const parted = refusal === undefined ? targets.filter((each) => each.lost) : [];
      for (const each of parted) if (this.links[each.id] === each) this.parted(each);
    }
    this.#bind(targets);
    if (refusal === undefined) {
      for (const replica of this.#alive(others)) asking(replica);
      if (others.length > 0) yield "answers";
      if (main !== undefined && this.#alive([main]).length > 0) {
        const exchange = ask(main);
        yield "answers";
        asked.unshift({ replica: main, exchange });
      }
    } else {
      // It has not even tried, when its transaction is still there: then that has failed everywhere.
      const end = ahead?.status === FAILED ? failingMessages : rollback;
      for (const replica of this.#alive(targets)) {
        if (replica !== ahead) replica.ask(new Exchange("nothing"), end);
      }
      yield "answers";
    }
    this.#release();
    if (this.main?.status === IDLE) this.#hasSnapshot = false;
    if (turn !== undefined) this.#leave();
    return { asked, refusal };
  }

  // ---------------------------------------------------------------- snapshot isolation

  /** Before the first statement of a transaction that looks at data (spec section 9). */
  *takeSnapshot(
    { facts, protocol }: Pick<Unit, "facts" | "protocol">,
    targets: readonly Replica[],
  ): Script {
    if (this.#hasSnapshot || !looksAtData(facts)) return;
    // A statement that is alone in a transaction of ours needs one only where it runs.
    const nodes = this.internal ? targets : this.members;
    if (!this.internal && this.status !== IN_TRANSACTION) return;
    yield* this.#enter("snapshot");
    const rows: Uint8Array[] = [];
    for (const replica of nodes) {
      this.#open(replica, protocol);
      const collect = (row: Uint8Array) => rows.push(row);
      replica.ask(new Exchange("nothing", { collect }), snapshotMessages);
    }
    yield "answers";
    this.#leave();
    this.#hasSnapshot = true;
    this.#noteSnapshot(rows.at(-1));
  }

  #noteSnapshot(row: Uint8Array | undefined): void {
    const [readOnly, isolation] = valuesOf(row) ?? [];
    this.#host.router.session.readOnlyTransaction = readOnly === "on";
    if (this.#toldIsolation || isolation !== "read committed") return;
    this.#toldIsolation = true;
    const detail =
      "the servers of a cluster in snapshot isolation mode need default_transaction_isolation = 'repeatable read'";
    this.#log("transaction isolation level is read committed", detail);
  }

  *#enter(errand: Errand): Script<Turn> {
    const turn = this.#host.replication.enter(errand);
    this.#turn = turn;
    turn.onTurn = () => this.#host.wake();
    while (turn.state === "waiting") yield "turn";
    return turn;
  }

  get waitsItsTurn(): boolean {
    return this.#turn?.state === "waiting";
  }

  /** Others may go on; also when the session is over. */
  #leave(): void {
    if (this.#turn !== undefined) this.#host.replication.leave(this.#turn);
    this.#turn = undefined;
  }

  /** The session is over. */
  close(): void {
    this.#leave();
  }

  // ---------------------------------------------------------------- questions of our own

  /** Asks all of these the same, at once, and gives what each has answered. */
  *ask(
    replicas: readonly Replica[],
    sql: string,
    protocol: Protocol = "extended",
  ): Script<readonly OwnAnswer[]> {
    const asked = replicas.map((replica) => askOwn(replica, sql, protocol));
    yield "answers";
    return asked.map(({ rows, exchange }) => ({
      rows,
      error: exchange.failure,
      lost: exchange.lost,
    }));
  }

  #askAlong({ along, protocol }: Unit, main: Replica): OwnQuestion | undefined {
    if (along === undefined) return undefined;
    this.#open(main, protocol);
    return askOwn(main, askedSql(along.asked), protocol);
  }
}

type OwnQuestion = { readonly rows: readonly Uint8Array[]; readonly exchange: Exchange };

function askOwn(replica: Replica, sql: string, protocol: Protocol): OwnQuestion {
  const message = protocol === "simple" ? queryMessage(sql) : runOwnSync(sql);
  const rows: Uint8Array[] = [];
  const collect = (row: Uint8Array) => rows.push(row);
  return { rows, exchange: replica.ask(new Exchange("nothing", { collect }), message) };
}

const none: readonly never[] = [];

/** Others get twice the time that the main node took for what failed there, but no more than this. */
const VAIN_SECONDS_MAX = 10;

const ABORTED_BY = "deadlock, serialization failure or cancel";

const failure = (exchange: Exchange): Outcome => ({
  failed: true,
  completed: exchange.completed,
  untold: undefined,
  readyTold: false,
});

const same: Agreement = { kind: "same" };

/** All have done it, and the same; nearly always so, and told without a look at the words. */
function isSame(asked: readonly Asked[]): boolean {
  const main = asked[0]?.exchange;
  return asked.every(({ exchange: { failure, kind, rowCounts } }) => {
    if (main === undefined || failure !== undefined || kind !== main.kind) return false;
    const { rowCounts: counts } = main;
    return rowCounts.length === counts.length && rowCounts.every((count, i) => count === counts[i]);
  });
}

const sqlstateOf = (error: Uint8Array): string => fieldOf(error, "C") ?? "";

const isAborted = ({ failure: error }: Exchange): boolean =>
  error !== undefined && ABORTING.has(sqlstateOf(error));

const noError = errorResponse({ severity: "ERROR", code: "XX000", message: "no error" });

type Ending = "commit" | "rollback";

/** A statement that gives locks back, and so ends on the main node last. */
function endOf({ statement, multiStatement }: StatementFacts): Ending | undefined {
  if (multiStatement || statement.kind !== "transaction") return undefined;
  const { control } = statement;
  switch (control.kind) {
    case "commit":
      return "commit";
    case "rollback":
    case "rollback_to":
      return "rollback";
    case "two_phase":
      return control.step === "prepare" ? undefined : "rollback";
    case "begin":
    case "savepoint":
    case "release":
      return undefined;
  }
}

/** What takes it back where it has succeeded, though it ended the transaction: PREPARE TRANSACTION. */
function undoing({ statement, multiStatement }: StatementFacts): string | undefined {
  if (multiStatement || statement.kind !== "transaction") return undefined;
  const { control } = statement;
  if (control.kind !== "two_phase" || control.step !== "prepare") return undefined;
  return `ROLLBACK PREPARED ${literal(control.gid)}`;
}

/** Takes no lock that anybody could wait for: no order of nodes matters to it. */
function mayRunAtOnce({ facts, executes }: Unit): boolean {
  const { statement, multiStatement } = facts;
  if (!executes || multiStatement) return false;
  if (statement.kind === "set") return true;
  if (statement.kind !== "transaction") return false;
  const { kind } = statement.control;
  return kind === "begin" || kind === "savepoint" || kind === "release";
}

/** All but what may come before the first look at the data (spec 9.3). */
function looksAtData({ statement, multiStatement }: StatementFacts): boolean {
  if (multiStatement) return true;
  switch (statement.kind) {
    case "transaction":
    case "set":
    case "show":
    case "empty":
    case "discard":
    case "deallocate":
      return false;
    default:
      return true;
  }
}
