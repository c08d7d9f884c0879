/**
 * The query cache as one session uses it. Before a message is sent it is looked up; a miss that may
 * be kept is listened to while its answer streams to the client. What the session changes is told to
 * the cache by `SessionChanges`.
 *
 * Rows are kept under everything that can change them: the database, the role, all settings of the
 * session as the server itself tells them, the text, bound values and formats. Whatever is not known
 * is asked of the server first, on the session's own connection, or else nothing is kept.
 */

import {
  type CacheHint,
  cacheHintOf,
  isSteadyText,
  isSteadyValue,
} from "../../core/sql/cache_facts.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import {
  type CacheQuestion,
  cacheSql,
  type DatabaseCatalog,
  databaseAnswer,
  functionNature,
  relationNature,
  settingsKey,
  type Verdict,
} from "../cache/cache_questions.ts";
import type { QueryCache } from "../cache/query_cache.ts";
import type { ResultSpace } from "../cache/result_store.ts";
import type { Fetched, SharedResults } from "../cache/shared_results.ts";
import { lsnOf } from "../cache/standby_progress.ts";
import type { CachedDatabase, ReadMark, Reads } from "../cache/table_versions.ts";
import type { CatalogQuestion } from "../routing/catalog_lookups.ts";
import type { Protocol } from "../routing/route.ts";
import { keepable } from "./answer_frames.ts";
import type { Desk } from "./desk.ts";
import { FAILED, IDLE, IN_TRANSACTION, type NodeLink, type Owed } from "./replies.ts";
import { endOf, SessionChanges } from "./session_changes.ts";

/** What a session asks of the world for its cache. */
export interface CacheWorld {
  readonly cache: QueryCache;
  readonly database: string;
  /** The process that serves the session on this node; 0 when it is not known. */
  pidOf(link: NodeLink): number;
  /** The major version of the server of this node; 0 when it is not known. */
  majorOf(link: NodeLink): number;
  /** The client was answered from memory. */
  noteHit(sql: string): void;
}

/** Puts a question to one node, on the session's own connection; the session stalls. */
export type AskRow = (
  link: NodeLink,
  sql: string,
  protocol: Protocol,
  answered: (values: readonly (string | null)[] | undefined) => void,
) => false;

export type Asker = {
  readonly row: AskRow;
  readonly catalog: (questions: readonly CatalogQuestion[], protocol: Protocol) => false;
};

/** A statement to look up. */
export type Lookup = {
  readonly facts: StatementFacts;
  readonly sql: string;
  /** Distinguishes it from all others of the same settings. */
  readonly key: string;
  /** The values that are bound to it, as they were sent. */
  readonly values: string;
  readonly link: NodeLink;
  readonly protocol: Protocol;
};

/** What was asked of shared memory for one message, and came back. */
type Fetch = { readonly key: string; answer: Fetched | undefined };

type Candidate = {
  readonly space: ResultSpace;
  readonly key: string;
  readonly mark: ReadMark;
  readonly link: NodeLink;
  /** Of what it depends on, in shared memory. */
  readonly stamps: readonly Uint8Array[] | undefined;
  readonly pieces: Uint8Array[];
  bytes: number;
  owed: Owed | undefined;
};

/** How long the server's word on the session's settings is taken: its configuration may be read anew. */
const SETTINGS_LIFE_MS = 30_000;

export class SessionCache {
  readonly #world: CacheWorld;
  readonly #cache: QueryCache;
  readonly #database: CachedDatabase;
  readonly #desk: Desk;
  readonly #ask: Asker;
  /** By node: where its answers are kept. */
  readonly #spaces: (
    | { readonly space: ResultSpace | undefined; readonly until: number }
    | undefined
  )[] = [];
  readonly #changes: SessionChanges;
  /** Settings were changed by what is not known to be committed. */
  #unsettledHere = false;
  /** In this transaction a read was answered from memory: the servers do not know of it. */
  #readUnseen = false;
  #candidate: Candidate | undefined;
  #fetch: Fetch | undefined;
  #isOver = false;
  /** By node: since when its connection has been open, in the count of `StandbyProgress`. */
  readonly #openSince: number[] = [];

  constructor(world: CacheWorld, desk: Desk, ask: Asker) {
    this.#world = world;
    this.#cache = world.cache;
    this.#database = world.cache.versions.database(world.database);
    this.#desk = desk;
    this.#ask = ask;
    this.#changes = new SessionChanges(world.cache, this.#database, desk);
    for (const link of desk.replies.links) if (link !== undefined) this.connected(link);
  }

  /** A new connection to this node is the session's. */
  connected({ id }: NodeLink): void {
    this.#openSince[id] = this.#cache.standbys.serial;
    this.#spaces[id] = undefined;
  }

  // ---------------------------------------------------------------- looking up

  /**
   * The kept answer; "pass": the servers are to answer; "stall": a question was sent, and the message
   * is to be read again. Only while nothing is owed, before a message for one node.
   */
  look(lookup: Lookup): Uint8Array | "pass" | "stall" {
    this.#drop();
    const { facts, protocol } = lookup;
    const { cache } = facts;
    if (facts.statement.kind !== "select" || facts.multiStatement) return "pass";
    const hint = cacheHintOf(lookup.sql);
    const wanted = hint === "force" ? cache.mayForce : cache.mayKeep && hint === "none";
    if (!wanted && cache.functions.length === 0) return "pass";
    const known = this.#isOpen(protocol);
    if (known !== "open") return known;
    if (!wanted) return this.#verdict(facts, hint, protocol) === "stall" ? "stall" : "pass";
    const space = this.#spaceOf(lookup.link);
    if (space === "unknown") return this.#askAll([{ kind: "settings" }], protocol, lookup.link);
    if (space === undefined) return "pass";
    const shadowed = this.#isShadowed(facts, protocol);
    if (shadowed !== false) return shadowed;
    const bytes = this.#cache.find(space, lookup.key);
    if (bytes !== undefined) return this.#hit(bytes, lookup.sql);
    const verdict = this.#verdict(facts, hint, protocol);
    if (verdict === "stall") return "stall";
    return verdict === "never" ? "pass" : this.#consider(lookup, hint, space, verdict);
  }

  /** Whether this session may be answered from memory, and its answers be kept, at this moment. */
  #isOpen(protocol: Protocol): "open" | "pass" | "stall" {
    const { replies, router, writeLink } = this.#desk;
    if (replies.clientFull || writeLink.lost || writeLink.inSegment) return "pass";
    const { status } = writeLink;
    if (status === FAILED || !this.#changes.none) return "pass";
    if (status !== IN_TRANSACTION) return "open";
    const { isolation, failed } = router.session;
    if (failed) return "pass";
    if (isolation === "unknown")
      return this.#ask.catalog([{ kind: "isolation" }], protocol) || "stall";
    return isolation === "read_committed" ? "open" : "pass";
  }

  #hit(bytes: Uint8Array, sql: string): Uint8Array {
    this.#cache.hits++;
    this.#world.noteHit(sql);
    if (this.#desk.inTransaction) this.#readUnseen = true;
    return bytes;
  }

  /** Undefined where nothing may be kept. */
  #spaceOf(link: NodeLink): ResultSpace | "unknown" | undefined {
    const known = this.#spaces[link.id];
    if (known === undefined || this.#cache.coarseNow >= known.until) return "unknown";
    return known.space;
  }

  /** A temporary table of the session's own may stand before the one that is meant elsewhere. */
  #isShadowed(facts: StatementFacts, protocol: Protocol): false | "pass" | "stall" {
    const { catalog } = this.#desk.router;
    if (!catalog.temporariesPossible) return false;
    let unknown: CatalogQuestion[] | undefined;
    for (const { name } of facts.cache.reads) {
      const temporary = catalog.temporary(name);
      if (temporary === true) return "pass";
      if (temporary === undefined) {
        unknown ??= [];
        unknown.push({ kind: "temporary", name });
      }
    }
    return unknown === undefined ? false : this.#ask.catalog(unknown, protocol) || "stall";
  }

  /** What this depends on, or that it is not to be kept; "stall": the servers are asked first. */
  #verdict(facts: StatementFacts, hint: CacheHint, protocol: Protocol): Verdict | "stall" {
    const { catalog } = this.#database;
    const pids = this.#cache.orphansOf(this.#database);
    const known = catalog?.verdicts[hint].get(facts);
    if (known !== undefined && pids === undefined && knows(catalog, facts)) return known;
    const missing = this.#missing(facts, hint, pids);
    if (catalog === undefined || missing.length > 0) return this.#askAll(missing, protocol);
    const verdict = this.#judge(facts, hint, catalog);
    catalog.verdicts[hint].set(facts, verdict);
    return verdict;
  }

  /** What must be known of the database before this can be kept, or be said to change nothing. */
  #missing(
    facts: StatementFacts,
    hint: CacheHint,
    pids: readonly number[] | undefined,
  ): readonly CacheQuestion[] {
    const { reads, functions } = facts.cache;
    const { catalog } = this.#database;
    const questions: CacheQuestion[] = [];
    if (catalog === undefined) questions.push({ kind: "database" });
    for (const relation of reads) {
      if (hint !== "force" && this.#cache.isUnsafe(relation)) continue;
      if (catalog?.relations.get(relation.key) === undefined) {
        questions.push({ kind: "relation", relation });
      }
    }
    for (const called of functions) {
      if (catalog?.functions.get(called.key) === undefined) {
        questions.push({ kind: "function", function: called });
      }
    }
    if (pids !== undefined) questions.push({ kind: "processes", pids });
    return questions.length > QUESTIONS_MAX ? questions.slice(0, QUESTIONS_MAX) : questions;
  }

  #judge({ cache }: StatementFacts, hint: CacheHint, catalog: DatabaseCatalog): Verdict {
    const isForced = hint === "force";
    if (hint === "no" || !(isForced ? cache.mayForce : cache.mayKeep)) return "never";
    const names = new Set<string>();
    for (const relation of cache.reads) {
      const nature = catalog.relations.get(relation.key);
      if (nature === undefined) return "never";
      const mayKeep = !this.#cache.isUnsafe(relation) && this.#cache.mayKeep(relation, nature);
      if (!isForced && !mayKeep) return "never";
      names.add(relation.name);
      for (const name of nature.names) names.add(name);
    }
    if (!isForced) {
      if (catalog.isOdd) return "never";
      for (const { key } of cache.functions) {
        if (catalog.functions.get(key) !== "plain") return "never";
      }
    }
    return this.#cache.versions.reads(this.#database, names);
  }

  /** Definitions are asked of the node that takes writes: a standby may not know the latest. */
  #askAll(
    questions: readonly CacheQuestion[],
    protocol: Protocol,
    link = this.#desk.writeLink,
  ): "stall" {
    const { generation } = this.#database;
    this.#ask.row(link, cacheSql(questions), protocol, (values) => {
      for (const [index, question] of questions.entries()) {
        this.#learn(question, values?.[index], generation, link);
      }
    });
    return "stall";
  }

  #learn(
    question: CacheQuestion,
    answer: string | null | undefined,
    generation: number,
    link: NodeLink,
  ): void {
    const database = this.#database;
    switch (question.kind) {
      case "settings": {
        const key = settingsKey(answer);
        const space = key === undefined ? undefined : this.#cache.space(database, key);
        this.#spaces[link.id] = { space, until: this.#cache.coarseNow + SETTINGS_LIFE_MS };
        return;
      }
      case "database": {
        const known = databaseAnswer(answer) ?? { odd: true, wild: [], kin: [], follows: [] };
        this.#cache.learn(database, known, generation);
        return;
      }
      case "relation":
        if (database.generation !== generation) return;
        database.catalog?.relations.set(question.relation.key, relationNature(answer));
        return;
      case "function":
        if (database.generation !== generation) return;
        database.catalog?.functions.set(question.function.key, functionNature(answer));
        return;
      case "position": {
        const lsn = lsnOf(answer);
        if (lsn !== undefined) this.#cache.standbys.notePosition(this.#positionVersion, lsn);
        return;
      }
      case "replayed": {
        const lsn = lsnOf(answer);
        if (lsn !== undefined) this.#cache.standbys.noteReplayed(link.id, lsn);
        return;
      }
      case "processes":
        if (answer === "n") this.#cache.orphansGone(database, question.pids);
        return;
    }
  }

  // ---------------------------------------------------------------- keeping

  /** Decides whether the answer to this is to be kept; then it is listened to. */
  #consider(
    { key, sql, values, link, protocol }: Lookup,
    hint: CacheHint,
    space: ResultSpace,
    reads: Reads,
  ): Uint8Array | "pass" | "stall" {
    if (key.includes(unreadable)) return "pass";
    if (hint !== "force" && !(isSteadyText(sql) && isSteadyValue(values))) return "pass";
    const mark = this.#cache.versions.begin(reads);
    if (mark === undefined) return "pass";
    let stamps: Candidate["stamps"];
    if (this.#cache.shared !== undefined) {
      const fetched = this.#fetched(this.#cache.shared, this.#cache.sharedKey(space, key), mark);
      if (fetched === "stall") return "stall";
      if (fetched.kind === "none") return "pass";
      if (fetched.kind === "hit") return this.#hit(fetched.bytes, sql);
      ({ stamps } = fetched);
    }
    if (link !== this.#desk.writeLink) {
      const step = this.#showsAll(link, mark, protocol);
      if (step !== "yes") return step;
    }
    this.#candidate = { space, key, mark, link, stamps, pieces: [], bytes: 0, owed: undefined };
    return "pass";
  }

  /** What shared memory has of this, once it has answered. */
  #fetched(shared: SharedResults, key: string, mark: ReadMark): Fetched | "stall" {
    const asked = this.#fetch;
    if (asked?.key === key) {
      if (asked.answer === undefined) return "stall";
      this.#fetch = undefined;
      return asked.answer;
    }
    if (!shared.isReady) return { kind: "none" };
    const fetch: Fetch = { key, answer: undefined };
    this.#fetch = fetch;
    void shared.fetch(key, mark.reads.dependencies).then((answer) => {
      // What others have changed meanwhile may have been its definitions: then it is judged anew.
      if (this.#cache.versions.holds(mark)) fetch.answer = answer;
      else if (this.#fetch === fetch) this.#fetch = undefined;
      if (!this.#isOver) this.#desk.resume();
    });
    return "stall";
  }

  /** Whether a node for reads has every change that the cache knows of. */
  #showsAll(link: NodeLink, { changedAt }: ReadMark, protocol: Protocol): "yes" | "pass" | "stall" {
    const { router, writeLink } = this.#desk;
    if (router.nodesAreEqual) return "yes";
    const { standbys, versions } = this.#cache;
    if (standbys.shows(link.id, changedAt, this.#openSince[link.id] ?? Number.POSITIVE_INFINITY)) {
      return "yes";
    }
    if (!router.replaysWal || Math.min(...[link, writeLink].map(this.#world.majorOf)) < 10)
      return "pass";
    const next = standbys.next(link.id, changedAt);
    if (next === "nothing") return "pass";
    if (next === "replayed") return this.#askAll([{ kind: "replayed" }], protocol, link);
    this.#positionVersion = versions.now;
    return this.#askAll([{ kind: "position" }], protocol);
  }
  /** Of the last question for the write node's position. */
  #positionVersion = 0;

  /** What was looked up in vain is about to be sent: its answer is listened to. */
  listen(): void {
    if (this.#candidate !== undefined) this.#desk.replies.tap = this.#tap;
  }
  readonly #tap = (bytes: Uint8Array): void => {
    if (this.#candidate !== undefined) this.#hear(this.#candidate, bytes);
  };

  /** With this answer it is complete. */
  follow(owed: Owed): void {
    const candidate = this.#candidate;
    if (candidate === undefined || candidate.owed !== undefined) return;
    if (owed.main !== candidate.link || owed.asked > 1) this.#drop();
    else candidate.owed = owed;
  }

  #hear(candidate: Candidate, bytes: Uint8Array): void {
    candidate.bytes += bytes.length;
    if (candidate.bytes > this.#cache.resultMax + MESSAGES_BESIDE) this.#drop();
    else candidate.pieces.push(bytes);
  }

  #drop(): void {
    if (this.#candidate === undefined) return;
    this.#candidate = undefined;
    this.#desk.replies.tap = undefined;
  }

  /** An answer is complete: if it is the one that was listened to, it is kept. */
  settled(owed: Owed): void {
    const candidate = this.#candidate;
    if (candidate === undefined || candidate.owed !== owed) return;
    this.#drop();
    if (owed.failed || owed.interrupted || !this.#changes.none) return;
    const bytes = keepable(candidate.pieces, candidate.bytes, this.#cache.resultMax);
    if (bytes === undefined) return;
    const { space, key, mark, stamps } = candidate;
    if (stamps === undefined) this.#cache.keep(space, key, bytes, mark);
    else if (this.#cache.versions.holds(mark)) {
      space.used = true;
      const name = this.#cache.sharedKey(space, key);
      void this.#cache.shared?.store(name, mark.reads.dependencies, stamps, bytes);
    }
  }

  // ---------------------------------------------------------------- what the session does

  /** Whether a statement may be sent now, or is to be read again; undefined: something unknown. */
  mayGo(facts: StatementFacts | undefined): boolean {
    return this.#changes.mayGo(facts);
  }

  /** To be called for each statement that is sent to a server, before it is. */
  sent(facts: StatementFacts): void {
    if (facts.cache.unsettles || facts.setsHere !== "nothing") this.#unsettle(facts.multiStatement);
    else if (this.#changes.natureOf(facts) !== "reads") this.#unsettle(false);
    // What was set since the savepoint, or in the transaction, may be undone.
    if (this.#unsettledHere && (endOf(facts) !== "none" || isRollbackTo(facts))) {
      this.#spaces.length = 0;
    }
    this.#changes.sent(facts);
  }

  /** A function is called by its number. */
  sentUnknown(): void {
    this.#unsettle(false);
    this.#changes.sentUnknown();
  }

  /** How often definitions have changed in this database. */
  get definitions(): number {
    return this.#database.generation;
  }

  /**
   * What the server said of settings may be true no longer; `among`: by one of several statements,
   * of which another may begin a transaction.
   */
  #unsettle(among: boolean): void {
    this.#spaces.length = 0;
    if (among || this.#desk.writeLink.status !== IDLE || !this.#desk.replies.empty)
      this.#unsettledHere = true;
  }

  /** A server reports a setting anew. */
  parameterChanged(link: NodeLink): void {
    this.#spaces[link.id] = undefined;
  }

  /** Nothing is owed any more: what was to be committed is, if a transaction has ended. */
  drained(): void {
    const { writeLink } = this.#desk;
    if (writeLink.inSegment) return; // what it did is committed by the Sync that is still to come
    const isOver = writeLink.status === IDLE;
    this.#changes.drained(isOver);
    if (!isOver) return;
    if (this.#unsettledHere) this.#spaces.length = 0;
    this.#unsettledHere = false;
    this.#readUnseen = false;
  }

  /**
   * The connection to the node that takes writes is lost, or the session ends: of what was under way
   * nobody will know how it went until the server's process is gone.
   */
  abandoned(link: NodeLink): void {
    this.#drop();
    this.#changes.abandoned(this.#world.pidOf(link));
  }

  /** The session is over. */
  ended(): void {
    this.abandoned(this.#desk.writeLink);
    this.#isOver = true;
    this.#changes.ended();
  }

  /** In this transaction the servers have not seen a read that they would mind. */
  takeUnseen(): boolean {
    const unseen = this.#readUnseen;
    this.#readUnseen = false;
    return unseen;
  }

  /** A SELECT has succeeded on a server. */
  noteSelect(): void {
    this.#cache.selects++;
  }
}

/** Of the functions too it is known what they do: `sent` will want to know. */
const knows = (catalog: DatabaseCatalog | undefined, { cache }: StatementFacts): boolean =>
  cache.functions.every(({ key }) => catalog?.functions.get(key) !== undefined);

/** Stands for bytes that are no UTF-8: several texts would be one. */
const unreadable = "\ufffd";
/** Each is a column of the question. */
const QUESTIONS_MAX = 500;
/** Bytes of an answer that do not count as its result. */
const MESSAGES_BESIDE = 16;

const isRollbackTo = ({ statement }: StatementFacts): boolean =>
  statement.kind === "transaction" && statement.control.kind === "rollback_to";
