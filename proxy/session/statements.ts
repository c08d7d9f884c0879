/**
 * Prepared statements and portals as the client knows them, and the nodes that know them too.
 * A statement is prepared where its Parse went; a Bind that goes elsewhere takes it along.
 */
import type { RouteReason } from "../../core/routing/reasons.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { byteText } from "./messages.ts";
import type { NodeLink } from "./replies.ts";

export class Prepared {
  readonly name: string;
  readonly sql: string;
  readonly facts: StatementFacts;
  /** Where the Parse message stands as the client sent it; a view is made only when it is needed. */
  readonly #chunk: Uint8Array;
  readonly #from: number;
  readonly #to: number;
  /** What nodes other than the write node get instead: options that a standby refuses are left out. */
  readonly otherMessage: Uint8Array | undefined;
  /** Nodes on which it exists, or will when what was sent has been answered. */
  readonly on: NodeLink[] = [];
  /** Grows with each Parse and Close. */
  readonly serial: number;
  /** What the name stood for before: it does so again if this Parse is never read. */
  previous: Prepared | undefined;
  /**
   * For the query cache: how often definitions had changed when a server has last parsed or executed
   * it, and when it was sent last. A plan from before a change may be refused, as its result is another.
   */
  definitions = 0;
  sentUnder = 0;
  /** A node has said that it is parsed. Until then a later segment cannot count on it. */
  confirmed = false;
  /** It was answered from memory: no node need know it. */
  isKept = false;
  /** Nobody here has seen its Parse: SQL made it on the write node, if anybody has. */
  isHearsay = false;
  /** What each Bind must add to the client's parameters (core/sql/rewrite.ts). */
  added: readonly string[] = [];
  parsedIn: number;
  /** The segment (messages up to a Sync) in which it was last routed, and where it went. */
  segment: number;
  links: readonly NodeLink[];
  why: RouteReason;

  constructor(options: {
    readonly name: string;
    readonly sql: string;
    readonly facts: StatementFacts;
    readonly chunk: Uint8Array;
    readonly from: number;
    readonly to: number;
    readonly otherMessage: Uint8Array | undefined;
    readonly serial: number;
    readonly segment: number;
    readonly links: readonly NodeLink[];
    readonly why: RouteReason;
  }) {
    this.name = options.name;
    this.sql = options.sql;
    this.facts = options.facts;
    this.#chunk = options.chunk;
    this.#from = options.from;
    this.#to = options.to;
    this.otherMessage = options.otherMessage;
    this.serial = options.serial;
    this.parsedIn = options.segment;
    this.segment = options.segment;
    this.links = options.links;
    this.why = options.why;
    for (const link of options.links) this.on.push(link);
  }

  get message(): Uint8Array {
    return this.#chunk.subarray(this.#from, this.#to);
  }

  /** The types of its parameters as Parse gave them, for comparing. */
  get parameterTypes(): string {
    if (this.#parameterTypes === undefined) {
      const sqlAt = this.#chunk.indexOf(0, this.#from + 5) + 1;
      const typesAt = this.#chunk.indexOf(0, sqlAt) + 1;
      this.#parameterTypes = byteText(this.#chunk, typesAt, this.#to);
    }
    return this.#parameterTypes;
  }
  #parameterTypes: string | undefined;

  /** Else its own Parse has failed. */
  get exists(): boolean {
    return this.isKept || this.on.length > 0;
  }

  forget(link: NodeLink): void {
    const index = this.on.indexOf(link);
    if (index >= 0) this.on.splice(index, 1);
  }
}

export class Portal {
  readonly statement: Prepared;
  readonly links: readonly NodeLink[];
  readonly why: RouteReason;
  /** The segment in which it was bound; 0 when something may have closed it since. */
  segment: number;

  constructor(statement: Prepared, links: readonly NodeLink[], why: RouteReason, segment: number) {
    this.statement = statement;
    this.links = links;
    this.why = why;
    this.segment = segment;
  }
}

/** Names and what they stand for; the unnamed one is replaced without being closed. */
export class Names<T> {
  #unnamed: T | undefined;
  readonly #named = new Map<string, T>();

  get(name: string): T | undefined {
    return name === "" ? this.#unnamed : this.#named.get(name);
  }

  /** Of those with a name, the one whose name is the newest. */
  get last(): T | undefined {
    return [...this.#named.values()].at(-1);
  }

  set(name: string, value: T): void {
    if (name === "") this.#unnamed = value;
    else this.#named.set(name, value);
  }

  delete(name: string): void {
    if (name === "") this.#unnamed = undefined;
    else this.#named.delete(name);
  }

  clear(): void {
    this.#unnamed = undefined;
    if (this.#named.size > 0) this.#named.clear();
  }

  /** What DEALLOCATE ALL and DISCARD ALL drop: the unnamed statement outlives them. */
  clearNamed(): void {
    if (this.#named.size > 0) this.#named.clear();
  }

  *values(): Generator<T> {
    if (this.#unnamed !== undefined) yield this.#unnamed;
    yield* this.#named.values();
  }
}

/**
 * Statements by name, kept right though Parse and Close are sent on trust: each may turn out to have
 * been discarded behind an error, when others of the same name are already on their way.
 */
export class PreparedNames extends Names<Prepared> {
  /** What the name stood for before is gone, also what an earlier Close that was discarded left. */
  closed(name: string, serial: number): void {
    let later = this.get(name);
    if (later === undefined) return;
    if (later.serial < serial) {
      this.delete(name);
      return;
    }
    while (later.previous !== undefined && later.previous.serial > serial) later = later.previous;
    later.previous = undefined;
  }

  /** The Close of this statement was discarded. */
  notClosed(closing: Prepared | undefined): void {
    let statement = closing;
    while (statement !== undefined && !statement.exists) statement = statement.previous;
    if (statement === undefined) return;
    let later = this.get(statement.name);
    while (later?.previous !== undefined) later = later.previous;
    if (later === undefined) this.set(statement.name, statement);
    else later.previous = statement;
  }

  /**
   * Its Parse has failed on `links`; `skipped`: it was discarded. Only an unnamed one that was read
   * has ended what was there before.
   */
  notParsed(statement: Prepared, links: readonly NodeLink[], skipped: boolean): void {
    for (const link of links) statement.forget(link);
    if (statement.exists) return;
    const { name } = statement;
    if (!skipped && name === "") statement.previous = undefined;
    const before = statement.previous;
    let later = this.get(name);
    if (later === statement) {
      if (before === undefined) this.delete(name);
      else this.set(name, before);
      return;
    }
    while (later !== undefined && later.previous !== statement) later = later.previous;
    if (later !== undefined) later.previous = before;
  }
}
