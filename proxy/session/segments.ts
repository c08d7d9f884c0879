/**
 * The extended query protocol where one session writes to several servers (manual: "Extended
 * Query"). Nothing need be answered before a Sync, a Flush or an Execute, so messages are gathered
 * up to one of these and run as one unit: a driver's Parse, Bind, Describe, Execute, Sync is one
 * question to each node. A segment that is not over with its first unit runs in a transaction of
 * ours, which ends with its Sync; so each unit can end with a Sync of its own.
 */

import type { Table } from "../../core/admin/table.ts";
import type { RouteReason } from "../../core/routing/reasons.ts";
import { changesByCallsToo } from "../../core/sql/cache_facts.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { InsertLock } from "../../core/sql/insert_lock.ts";
import { quoteName } from "../../core/sql/quoting.ts";
import {
  literals,
  placeBefore,
  type Rewriting,
  withLiterals,
  withParameters,
} from "../../core/sql/rewrite.ts";
import type { TableColumns } from "../../core/sql/table_columns.ts";
import {
  bindWithValues,
  describedWithout,
  parseWithText,
} from "../../core/wire/added_parameters.ts";
import { decodeBackend, encodeBackend } from "../../core/wire/backend.ts";
import { FRONTEND } from "../../core/wire/codes.ts";
import { type Frame, frameOf } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend, type NameTarget } from "../../core/wire/frontend.ts";
import type { Parsed } from "../routing/session_routing.ts";
import type { NodeStatementLabel } from "./desk.ts";
import { anyWriteSql, explainedBy, mayUseName, mayUseNames, readsCopyData } from "./effects.ts";
import { statusLetter, text, transactionFailed, withPlace } from "./messages.ts";
import { forgetOwn, runOwn, syncMessage } from "./own_messages.ts";
import { alreadyPrepared, OwnStatements, parseComplete } from "./own_statements.ts";
import { preludeOf } from "./prelude.ts";
import type { Exchange, Replica } from "./replica.ts";
import type { ReplicatedSession } from "./replicated.ts";
import type { Lacking, Question, Script, Unit } from "./scripts.ts";
import { Names } from "./statements.ts";

/** A prepared statement: what the client said, and who knows it. */
type Statement = {
  readonly name: string;
  readonly sql: string;
  readonly facts: StatementFacts;
  /** Its Parse, as the client sent it. */
  readonly said: Uint8Array | undefined;
  /** The same as the nodes get it; undefined where SQL's PREPARE has made it. */
  parse: Uint8Array | undefined;
  on: Set<Replica>;
  /** What each Bind puts into it, as parameters behind the client's, the first of this number. */
  added: { readonly asked: readonly string[]; readonly first: number } | undefined;
  /** What was known of the tables that it fills. */
  filled: readonly (TableColumns | undefined)[];
  /** What its INSERT is to lock. */
  locks: readonly InsertLock[];
};

type Portal = {
  readonly statement: Statement;
  readonly replicas: readonly Replica[];
  readonly why: RouteReason;
};

type Values = readonly (string | null)[];
/** For the main node; `apply` makes the message of what it says. */
type PendingQuestion = {
  readonly asked: readonly string[];
  apply(values: Values): Uint8Array;
};

/** A message that waits to be run with others. */
type Pending = {
  /** As the nodes get it: known at the latest when its questions are answered. */
  bytes: Uint8Array;
  readonly question?: PendingQuestion | undefined;
  /** Where the client's text has what an error says of the nodes' text. */
  readonly placeOf?: ((place: number) => number) | undefined;
  /** A Describe of a statement with added parameters: the number of the first. */
  readonly hides?: number | undefined;
  readonly label: NodeStatementLabel | undefined;
  readonly statement: Statement | undefined;
  /** Whose portal a Describe is about. */
  readonly described?: Statement | undefined;
  readonly why: RouteReason;
  /** What the node may still hold of the same name, and the client has replaced elsewhere, goes first. */
  readonly forget?: Uint8Array | undefined;
  /** It was not carried out after all; `isRead`: it is what failed, else it was discarded. */
  undo(isRead: boolean): void;
  /** It was, and by these nodes: others were spared it when something behind it failed. */
  done?(by: readonly Replica[]): void;
};

/** Bytes of messages that are gathered of one statement's executions: an answer is due some time. */
const GATHERED_BYTES_MAX = 16 * 1024;

const closeComplete = encodeBackend({ kind: "CloseComplete" });
const nothing = () => {};

export class Segments {
  readonly #session: ReplicatedSession;
  readonly #statements = new Names<Statement>();
  readonly #portals = new Names<Portal>();
  #pending: Pending[] = [];
  #replicas: readonly Replica[] = [];
  #pendingBytes = 0;
  /** The last of them is an Execute: what comes next shows whether the segment is over. */
  #executed: Statement | undefined;

  constructor(session: ReplicatedSession) {
    this.#session = session;
  }

  scriptFor(frame: Frame): Script | undefined {
    switch (frame.type) {
      case FRONTEND.Parse:
        return this.#parse(frame.raw);
      case FRONTEND.Bind:
        return this.#bind(frame.raw);
      case FRONTEND.Describe:
        return this.#describe(frame.raw);
      case FRONTEND.Execute:
        return this.#execute(frame.raw);
      case FRONTEND.Close:
        return this.#close(frame.raw);
      case FRONTEND.Sync:
        return this.#sync();
      default:
        return this.runPending();
    }
  }

  // ---------------------------------------------------------------- messages

  *#parse(raw: Uint8Array): Script {
    const session = this.#session;
    const nameEnd = raw.indexOf(0, 5);
    const sqlEnd = nameEnd < 0 ? -1 : raw.indexOf(0, nameEnd + 1);
    if (sqlEnd < 0) return session.violation("invalid string in message");
    const name = text(raw, 5, nameEnd);
    const sql = text(raw, nameEnd + 1, sqlEnd);
    if (yield* this.#isCutOff()) return;
    const facts = session.router.facts(sql);
    const explained = explainedBy(facts);
    if (explained !== undefined) return yield* this.#parseOwn(name, explained, sql);
    if (this.#own?.nameIsTaken(name)) return yield* this.#refuse(alreadyPrepared(name));
    if (facts.statement.kind === "unparsable") session.ports.noteUnparsable(sql);
    const known = name === "" ? undefined : this.#statements.get(name);
    if (known !== undefined) {
      // PostgreSQL will say that the name is taken; the old statement stays.
      const pending = {
        bytes: raw,
        label: "Parse",
        statement: known,
        why: "prepared_statement",
      } as const;
      yield* this.#add({ ...pending, undo: nothing }, this.#knowing(known));
      return;
    }
    const way = yield* session.decide(facts, sql, "extended");
    if (way.kind === "unknown") return yield* this.#refuse(way.error);
    const replicas = way.kind === "proxy" ? this.#main() : way.replicas;
    const why = way.kind === "proxy" ? "read" : way.why;
    session.renewPrepared(facts);
    const rewriting = session.rewriting(facts, sql, replicas);
    const rewritten = rewriting && rewrittenParse(raw, sql, rewriting);
    // What is kept for long must not hold on to all that came with it.
    const said = name === "" ? raw : raw.slice();
    const bytes = rewritten?.bytes ?? said;
    const statement: Statement = {
      name,
      sql,
      facts,
      said,
      parse: bytes,
      on: new Set(replicas),
      added: rewritten?.added,
      filled: session.router.columnsFilled(facts),
      locks: session.locks(facts, sql, replicas),
    };
    const before = this.#statements.get(name);
    const undo = (isRead: boolean) => {
      if (this.#statements.get(name) !== statement) return;
      // One without a name has ended what was there before, though it has failed.
      if (before === undefined || (isRead && name === "")) this.#statements.delete(name);
      else this.#statements.set(name, before);
    };
    const question = rewritten?.literal && {
      asked: rewritten.literal.asked,
      apply: (values: Values) => {
        statement.parse = rewritten.literal?.apply(values) ?? said;
        return statement.parse;
      },
    };
    const done = (by: readonly Replica[]) => {
      statement.on = new Set(by);
    };
    yield* this.#add(
      {
        ...{ bytes, question, label: "Parse", statement, why, undo, done },
        placeOf: rewritten?.placeOf,
      },
      replicas,
      () => this.#statements.set(name, statement),
    );
  }

  *#bind(raw: Uint8Array): Script {
    const session = this.#session;
    const portalEnd = raw.indexOf(0, 5);
    const nameEnd = portalEnd < 0 ? -1 : raw.indexOf(0, portalEnd + 1);
    if (nameEnd < 0) return session.violation("invalid string in message");
    const portalName = text(raw, 5, portalEnd);
    const name = text(raw, portalEnd + 1, nameEnd);
    if (yield* this.#isCutOff(this.#statements.get(name))) return;
    if (this.#own?.has("S", name)) return yield* this.#toOwn(this.#own, raw);
    this.#own?.forget("P", portalName);
    const statement = this.#statements.get(name) ?? this.#madeBySql(name);
    if (statement === undefined) {
      yield* this.#add(unknown(raw, "Bind", "S", name), this.#main());
      return;
    }
    const place = yield* this.#placeOf(statement);
    if (place === undefined || session.discarding) return;
    const { replicas, why } = place;
    const { added } = statement;
    const question = added && {
      asked: added.asked,
      apply: (values: Values) => boundWith(raw, added.first, values),
    };
    const portal = { statement, replicas, why };
    const before = this.#portals.get(portalName);
    const undo = () => {
      if (this.#portals.get(portalName) !== portal) return;
      if (before === undefined) this.#portals.delete(portalName);
      else this.#portals.set(portalName, before);
    };
    yield* this.#add({ bytes: raw, question, label: "Bind", statement, why, undo }, replicas, () =>
      this.#portals.set(portalName, portal),
    );
  }

  /** Where a statement is bound: where it was just parsed, else where routing says now, if it can. */
  *#placeOf(
    statement: Statement,
  ): Script<{ readonly replicas: readonly Replica[]; readonly why: RouteReason } | undefined> {
    const parsed = this.#pending.find(
      (each) => each.label === "Parse" && each.statement === statement,
    );
    if (parsed !== undefined) return { replicas: this.#replicas, why: parsed.why };
    const { facts, sql } = statement;
    const way = yield* this.#session.decide(facts, sql, "extended");
    if (way.kind === "unknown") return yield* this.#refuse(way.error);
    if (way.kind === "proxy") return { replicas: this.#main(), why: "read" };
    statement.locks = this.#session.locks(facts, sql, way.replicas);
    if (statement.parse === undefined) {
      this.#session.renewPrepared(facts);
      statement.added = this.#addedBySql(statement.name);
    }
    if (this.#isOutdated(statement)) {
      // What is gathered of it was bound in its older form.
      if (this.#pending.some((each) => each.statement === statement)) yield* this.runPending();
      this.#renew(statement, way.replicas);
    }
    return way;
  }

  /** More, or less, is known of its tables than at its Parse. */
  #isOutdated({ facts, said, filled }: Statement): boolean {
    const { ensemble, router } = this.#session;
    if (facts.fills.length === 0 || said === undefined || ensemble.failed) return false;
    return router.columnsFilled(facts).some((table, i) => table !== filled[i]);
  }

  /** A default that tells the time, and that the table has had since its Parse, must be filled in, too. */
  #renew(statement: Statement, replicas: readonly Replica[]): void {
    const { facts, sql, said, on } = statement;
    const session = this.#session;
    if (said === undefined || session.discarding) return;
    statement.filled = session.router.columnsFilled(facts);
    const rewriting = session.rewriting(facts, sql, replicas);
    if (rewriting?.literalsOnly === true) return;
    const rewritten = rewriting && rewrittenParse(said, sql, rewriting);
    const bytes = rewritten?.bytes ?? said;
    if (statement.parse !== undefined && Buffer.from(bytes).equals(statement.parse)) return;
    statement.parse = bytes;
    statement.added = rewritten?.added;
    on.clear(); // they know it in an older form
  }

  *#describe(raw: Uint8Array): Script {
    const target = this.#named(raw);
    if (target === undefined || (yield* this.#isCutOff(target.portal?.statement))) return;
    const { statement, portal, kind, name } = target;
    if (this.#own?.has(kind, name)) return yield* this.#toOwn(this.#own, raw);
    const replicas = statement ? this.#knowing(statement) : (portal?.replicas ?? this.#main());
    // With what is gathered it goes where that goes; else to the node whose answer is shown.
    const isJoined = this.#pending.length > 0 && sameNodes(replicas, this.#replicas);
    const isKnown = statement !== undefined || portal !== undefined;
    const hides = kind === "S" ? statement?.added?.first : undefined;
    const forget = isKnown ? undefined : forgets(kind, name);
    yield* this.#add(
      {
        ...{ bytes: raw, label: undefined, statement, described: portal?.statement },
        ...{ why: "read", forget, hides, undo: nothing },
      },
      isJoined ? replicas : replicas.slice(0, 1),
    );
  }

  *#execute(raw: Uint8Array): Script {
    const nameEnd = raw.indexOf(0, 5);
    if (nameEnd < 0 || nameEnd + 5 > raw.length) {
      return this.#session.violation("invalid string in message");
    }
    const name = text(raw, 5, nameEnd);
    if (yield* this.#isCutOff(this.#portals.get(name)?.statement)) return;
    if (this.#own?.has("P", name)) return yield* this.#toOwn(this.#own, raw);
    const portal = this.#portals.get(name);
    if (portal === undefined) {
      // SQL's DECLARE may have made it, and that on every node.
      const replicas = name === "" ? this.#main() : this.#session.ensemble.members;
      yield* this.#add(unknown(raw, "Execute", "P", name), replicas);
      this.#executed = this.#foreign(name);
      return;
    }
    const { statement, replicas, why } = portal;
    yield* this.#add({ bytes: raw, label: "Execute", statement, why, undo: nothing }, replicas);
    this.#executed = statement;
    this.#session.noteSent(statement.facts, statement.sql);
    // Its data may follow at once, and a Sync before them is ignored.
    if (readsCopyData(statement.facts)) yield* this.runPending();
  }

  *#close(raw: Uint8Array): Script {
    const target = this.#named(raw);
    if (target === undefined || (yield* this.#isCutOff())) return;
    const { statement, portal, kind, name } = target;
    if (this.#own?.has(kind, name)) return yield* this.#toOwn(this.#own, raw);
    const pending = { bytes: raw, label: undefined, statement, why: "read" } as const;
    if (statement !== undefined) {
      const bySql = this.#session.router.session.prepared;
      const undo = () => this.#statements.set(name, statement);
      const done = (by: readonly Replica[]) => {
        const before = this.#leftovers.get(name) ?? [];
        const spared = [...before, ...statement.on].filter((each) => {
          return !each.lost && !by.includes(each);
        });
        if (spared.length > 0) this.#leftovers.set(name, new Set(spared));
        else this.#leftovers.delete(name);
      };
      yield* this.#add({ ...pending, undo, done }, this.#knowing(statement), () => {
        this.#statements.delete(name);
        bySql.delete(name);
      });
    } else if (portal !== undefined) {
      const undo = () => this.#portals.set(name, portal);
      yield* this.#add({ ...pending, undo }, portal.replicas, () => this.#portals.delete(name));
    } else if (name === "" || this.#session.ensemble.status === 0x45) {
      yield* this.runPending();
      if (!this.#session.discarding) this.#session.toClient(closeComplete);
    } else yield* this.#add({ ...pending, undo: nothing }, this.#session.ensemble.members);
  }

  *#sync(): Script {
    const session = this.#session;
    const { ensemble } = session;
    const told = this.#pending.length > 0 && (yield* this.#run(true));
    session.discarding = false;
    if (!told) {
      const facts = this.#lastFacts;
      const error = yield* ensemble.finish("extended");
      if (error !== undefined) {
        session.toClient(error);
        session.noteDone(facts ?? session.router.facts(""), true, ensemble.members);
      }
      session.ready();
    }
    session.router.noteReady(statusLetter(ensemble.status));
    if (!ensemble.inTransaction) this.transactionEnded();
  }
  #lastFacts: StatementFacts | undefined;

  // ---------------------------------------------------------------- units

  get isPending(): boolean {
    return this.#pending.length > 0;
  }

  /** Runs what was gathered when more follows in its segment. */
  *runPending(): Script {
    if (this.#pending.length > 0) yield* this.#run(false);
  }

  /**
   * Behind an Execute a unit is complete, unless the message goes on with the same write. True when it
   * has failed, and the message is discarded.
   */
  *#isCutOff(next?: Statement): Script<boolean> {
    if (this.#executed !== undefined && !this.#goesOn(next)) yield* this.runPending();
    return this.#session.discarding;
  }

  /** A write that is executed many times, as drivers do for many rows, is asked of a node as one. */
  #goesOn(next: Statement | undefined): boolean {
    const executed = this.#executed;
    if (executed === undefined || next !== executed) return false;
    const { facts, added } = executed;
    return (
      facts.statement.kind === "write" &&
      facts.inBlock === "undone" &&
      added === undefined &&
      this.#pendingBytes < GATHERED_BYTES_MAX
    );
  }

  /** `done`: what it changes here, for the messages that follow it. */
  *#add(pending: Pending, replicas: readonly Replica[], done?: () => void): Script {
    const { statement } = pending;
    // A transaction of ours may have to end before it, and not before what is gathered.
    const isApart =
      statement?.facts.inBlock === "refused" &&
      this.#pending.some((each) => (each.statement ?? each.described) !== statement);
    if (this.#pending.length > 0 && (isApart || !sameNodes(replicas, this.#replicas))) {
      yield* this.runPending();
      if (this.#session.discarding) return;
    }
    this.#replicas = replicas;
    this.#pending.push(pending);
    this.#pendingBytes += pending.bytes.length;
    done?.();
  }

  /** Returns whether the client has had ReadyForQuery. */
  *#run(last: boolean): Script<boolean> {
    const session = this.#session;
    const pending = this.#pending;
    const replicas = this.#replicas;
    const executed = this.#executed;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#executed = undefined;
    const bound = pending.find(({ label }) => label === "Bind")?.statement;
    const subject = executed ?? bound ?? pending.find(({ statement }) => statement)?.statement;
    const facts = subject?.facts ?? session.router.facts("");
    this.#lastFacts = facts;
    const hidden = pending.map(({ hides }) => hides).filter((first) => first !== undefined);
    const answers: [Replica, Exchange][] = [];
    const unit: Unit = {
      sql: subject?.sql ?? "",
      facts,
      protocol: "extended",
      executes: executed !== undefined,
      // A portal of an earlier unit is on its own node only.
      repeatable: facts.destination === "either" && (bound !== undefined || executed === undefined),
      last,
      lasting: executed !== undefined || bound !== undefined,
      prelude: this.#prelude(pending, executed),
      along: undefined,
      numbered: executed?.locks.map(({ table }) => table) ?? [],
      parameters: hidden.length === 0 ? undefined : (frame) => describedAs(frame, hidden.shift()),
      message: () => Buffer.concat([...pending.map(({ bytes }) => bytes), syncMessage]),
      before: (replica) => this.#lacking(pending, replica),
      note: (replica, exchange) => {
        answers.push([replica, exchange]);
        if (pending.some(({ placeOf }) => placeOf !== undefined)) {
          exchange.instead = (error) => {
            const placeOf = pending[exchange.completed]?.placeOf;
            return placeOf && withPlace(error, placeOf);
          };
        }
        for (const { label, statement, why } of pending) {
          if (label === undefined || statement === undefined) continue;
          session.ports.noteNodeStatement(replica, label, statement.sql, statement.facts, why);
        }
      },
    };
    const outcome = yield* session.ensemble.run(unit, replicas);
    const { failed, completed, untold, readyTold } = outcome;
    for (const [i, { done }] of pending.entries()) {
      if (done === undefined || (failed && i >= completed)) continue;
      done(answers.flatMap(([replica, { completed }]) => (completed > i ? [replica] : [])));
    }
    if (untold !== undefined) session.toClient(untold);
    if (failed) {
      for (let i = pending.length - 1; i >= completed; i--) pending[i]?.undo(i === completed);
      session.discarding = !last;
    }
    if (executed !== undefined || failed) session.noteDone(facts, failed, replicas);
    return readyTold;
  }

  #prelude(pending: readonly Pending[], executed: Statement | undefined): Unit["prelude"] {
    const questions = pending.flatMap((each): Question[] => {
      const { question } = each;
      if (question === undefined) return [];
      const answer = (values: Values) => {
        each.bytes = question.apply(values);
      };
      return [{ asked: question.asked, answer }];
    });
    return preludeOf({
      ensemble: this.#session.ensemble,
      protocol: "extended",
      locks: executed?.locks ?? [],
      questions,
    });
  }

  /** Statements that are bound here and that this node does not know yet. */
  #lacking(pending: readonly Pending[], replica: Replica): Lacking | undefined {
    const messages: Uint8Array[] = [];
    const undo: (() => void)[] = [];
    this.#closeLeftovers(replica, messages);
    for (const { label, statement, forget, done, bytes } of pending) {
      if (forget !== undefined) messages.push(forget);
      if (statement !== undefined && label === "Bind") {
        this.#carry(statement.facts, statement.sql, replica, messages, undo);
      }
      if (statement?.parse === undefined || bytes[0] === FRONTEND.Close) continue;
      const isNew = label === "Parse" && done !== undefined;
      const isKnown = statement.on.has(replica);
      statement.on.add(replica);
      if (isNew || isKnown) continue;
      undo.push(() => statement.on.delete(replica));
      messages.push(...broughtAnew(statement, statement.parse));
    }
    return lacking(messages, undo);
  }

  /** Before anything else is asked of this node: DEALLOCATE, too, would find what is no more. */
  #closeLeftovers(replica: Replica, messages: Uint8Array[]): void {
    for (const [name, on] of this.#leftovers) {
      if (on.delete(replica)) messages.push(closeOf(name));
      if (on.size === 0) this.#leftovers.delete(name);
    }
  }

  /** Nodes that have been spared the Close of a name, and still have what it named. */
  readonly #leftovers = new Map<string, Set<Replica>>();

  // ---------------------------------------------------------------- names

  #main(): readonly Replica[] {
    return this.#session.ensemble.members.slice(0, 1);
  }

  #knowing({ on }: Statement): readonly Replica[] {
    const known = this.#session.ensemble.members.filter((each) => on.has(each));
    return known.length > 0 ? known : this.#main();
  }

  #madeBySql(name: string): Statement | undefined {
    const known = name === "" ? undefined : this.#session.router.session.prepared.get(name);
    if (known === undefined) return undefined;
    const nodes: readonly number[] = known.nodes;
    const on = this.#session.ensemble.members.filter(({ id }) => nodes.includes(id));
    // To bind it is to do what SQL's EXECUTE does.
    const sql = `EXECUTE ${quoteName(name)}`;
    const facts = this.#session.router.facts(sql);
    const added = this.#addedBySql(name);
    return { ...this.#foreign(name), sql, facts, on: new Set(on), added };
  }

  #addedBySql(name: string): Statement["added"] {
    const { added: asked = [], first = 0 } = this.#session.router.session.prepared.get(name) ?? {};
    return asked.length === 0 ? undefined : { asked, first };
  }

  /** Of what the client names we have seen no Parse: it may do anything. */
  #foreign(name: string): Statement {
    const facts = this.#session.router.facts(anyWriteSql);
    const parse = undefined;
    const said = parse;
    const on = new Set<Replica>();
    return { name, sql: "", facts, said, parse, on, added: parse, filled: [], locks: [] };
  }

  #named(raw: Uint8Array) {
    const nameEnd = raw.indexOf(0, 6);
    if (nameEnd < 0) {
      this.#session.violation("invalid string in message");
      return undefined;
    }
    const name = text(raw, 6, nameEnd);
    const ofStatement = raw[5] === 0x53;
    const statement = ofStatement
      ? (this.#statements.get(name) ?? this.#madeBySql(name))
      : undefined;
    const kind: NameTarget = ofStatement ? "S" : "P";
    return { kind, name, statement, portal: ofStatement ? undefined : this.#portals.get(name) };
  }

  /** Statements that a text may execute, and that this node does not know: they are prepared there. */
  carried(facts: StatementFacts, sql: string, replica: Replica): Lacking | undefined {
    const messages: Uint8Array[] = [];
    const undo: (() => void)[] = [];
    this.#closeLeftovers(replica, messages);
    this.#carry(facts, sql, replica, messages, undo);
    return lacking(messages, undo);
  }

  #carry(
    facts: StatementFacts,
    sql: string,
    replica: Replica,
    messages: Uint8Array[],
    undo: (() => void)[],
  ): void {
    if (!mayUseNames(facts, sql) || this.#session.ensemble.failed) return;
    for (const statement of this.#statements.values()) {
      const { name, parse, on } = statement;
      if (name === "" || parse === undefined || on.has(replica)) continue;
      if (!mayUseName(facts, sql, name)) continue;
      on.add(replica);
      undo.push(() => on.delete(replica));
      messages.push(...broughtAnew(statement, parse));
    }
    const { router } = this.#session;
    for (const [name, known] of router.session.prepared) {
      if (known.nodes.includes(replica.id) || !mayUseName(facts, sql, name)) continue;
      router.alsoPrepared(name, replica.id);
      undo.push(() => router.notPrepared(name, replica.id));
      messages.push(closeOf(name), forgetOwn, runOwn(known.text));
    }
  }

  /** The statement of this name, for SQL's EXECUTE and DEALLOCATE. */
  parsed(name: string): Parsed | undefined {
    const statement = name === "" ? undefined : this.#statements.get(name);
    if (statement === undefined) return undefined;
    const { facts } = statement;
    return {
      nodes: this.#knowing(statement).map(({ id }) => id),
      reads: facts.destination === "either",
      readTables: facts.maybeTemporary,
      changedTables: facts.changedTables,
      changes: changesByCallsToo(facts.cache),
      inserts: facts.inserts,
      added: statement.added?.asked ?? [],
    };
  }

  /** A simple query takes the place of what has no name. */
  querySent(): void {
    this.#statements.delete("");
    this.#portals.delete("");
    this.#own?.forget("S", "");
    this.#own?.forget("P", "");
  }

  transactionEnded(): void {
    this.#portals.clear();
    this.#own?.clearPortals();
  }

  /** SQL that undoes what the protocol prepared. */
  noteSqlDone({ statement, deallocates }: StatementFacts): void {
    if (statement.kind === "discard" && statement.target === "all") {
      this.#deallocated(undefined);
      this.transactionEnded();
    }
    if (statement.kind === "deallocate") this.#deallocated(statement.name);
    for (const name of deallocates) this.#deallocated(name === "" ? undefined : name);
  }

  #deallocated(name: string | undefined): void {
    if (name === undefined) this.#statements.clearNamed();
    else this.#statements.delete(name);
    this.#own?.deallocate(name);
  }

  // ---------------------------------------------------------------- what pgpool answers itself

  /** Made when the first is parsed: hardly any session has one. */
  #own: OwnStatements | undefined;
  /** The answer to the one that is being executed. */
  #explained: Table | undefined;

  *#parseOwn(name: string, explained: string, sql: string): Script {
    const session = this.#session;
    yield* this.runPending();
    if (session.discarding) return;
    if (session.ensemble.failed) return yield* this.#refuse(transactionFailed);
    const taken = this.#statements.get(name) ?? this.#madeBySql(name) ?? this.#own?.has("S", name);
    if (taken && name !== "") return yield* this.#refuse(alreadyPrepared(name));
    this.#statements.delete(name);
    this.#own ??= new OwnStatements(() => this.#explained);
    this.#own.prepare(name, explained);
    session.ports.noteStatement(sql);
    session.toClient(parseComplete);
  }

  *#toOwn(own: OwnStatements, raw: Uint8Array): Script {
    const session = this.#session;
    yield* this.runPending();
    if (session.discarding) return;
    const frame = frameOf(raw);
    if (frame.type !== FRONTEND.Close && session.ensemble.failed) {
      return yield* this.#refuse(transactionFailed);
    }
    let answer = own.answer(frame);
    if (answer.kind === "wait") {
      const told = yield* session.explain(answer.sql, "extended");
      if ("error" in told) return yield* this.#refuse(told.error);
      this.#explained = told;
      answer = own.answer(frame);
      this.#explained = undefined;
    }
    switch (answer.kind) {
      case "wait":
        return;
      case "error":
        return yield* this.#refuse(answer.response);
      case "broken":
        return session.violation(answer.why);
      case "done":
        if (answer.bound !== undefined) this.#portals.delete(answer.bound);
        session.toClient(answer.bytes);
    }
  }

  /** An error of our own: what the segment has done, in the same transaction, is undone. */
  *#refuse(error: Uint8Array): Script<undefined> {
    const session = this.#session;
    yield* this.runPending();
    if (session.discarding) return undefined;
    session.toClient(error);
    yield* session.ensemble.failTogether();
    session.noteDone(session.router.facts(""), true, session.ensemble.members);
    session.discarding = true;
    return undefined;
  }

  /** A DEALLOCATE of what no server knows. */
  deallocatesOwn({ statement }: StatementFacts): boolean {
    if (this.#own === undefined || statement.kind !== "deallocate") return false;
    return statement.name !== undefined && this.#own.has("S", statement.name);
  }
}

function lacking(
  messages: readonly Uint8Array[],
  undo: readonly (() => void)[],
): Lacking | undefined {
  if (messages.length === 0) return undefined;
  return {
    messages: Buffer.concat([...messages, syncMessage]),
    undo: () => {
      for (const each of undo) each();
    },
  };
}

function unknown(
  bytes: Uint8Array,
  label: "Bind" | "Execute",
  kind: NameTarget,
  name: string,
): Pending {
  const forget = forgets(kind, name);
  return { bytes, label, statement: undefined, why: "unknown_statement", forget, undo: nothing };
}

/** Its Parse, in the place of whatever the node may have of this name. */
const broughtAnew = ({ name }: Statement, parse: Uint8Array): readonly Uint8Array[] =>
  name === "" ? [parse] : [closeOf(name), parse];

const closeOf = (name: string) => encodeFrontend({ kind: "Close", target: "S", name });

/** Without a name it is known not to exist. */
const forgets = (target: NameTarget, name: string): Uint8Array | undefined =>
  name === "" ? encodeFrontend({ kind: "Close", target, name }) : undefined;

/** A Parse with what the proxy puts into its text, or the places for it. */
function rewrittenParse(raw: Uint8Array, sql: string, rewriting: Rewriting) {
  const parse = decodeFrontend(frameOf(raw));
  if (parse.kind !== "Parse") return undefined;
  const { asked, literalsOnly } = rewriting;
  if (literalsOnly) {
    let filling = literals([]);
    const apply = (values: Values) => {
      filling = literals(values);
      return encodeFrontend(parseWithText(parse, withLiterals(sql, rewriting, values)));
    };
    const placeOf = (place: number) => placeBefore(sql, rewriting, filling, place);
    return { bytes: raw, added: undefined, literal: { asked, apply }, placeOf };
  }
  const given = parse.parameterTypes.length;
  const { sql: text, filling, first } = withParameters(sql, rewriting, given);
  const bytes = encodeFrontend(parseWithText(parse, text));
  const placeOf = (place: number) => placeBefore(sql, rewriting, filling, place);
  return { bytes, added: { asked, first }, literal: undefined, placeOf };
}

function boundWith(raw: Uint8Array, first: number, values: Values): Uint8Array {
  const bind = decodeFrontend(frameOf(raw));
  return bind.kind === "Bind" ? encodeFrontend(bindWithValues(bind, first, values)) : raw;
}

function describedAs(frame: Uint8Array, first: number | undefined): Uint8Array {
  const description = decodeBackend(frameOf(frame));
  if (first === undefined || description.kind !== "ParameterDescription") return frame;
  return encodeBackend(describedWithout(description, first));
}

const sameNodes = (a: readonly Replica[], b: readonly Replica[]): boolean =>
  a.length === b.length && a.every((each, i) => each === b[i]);
