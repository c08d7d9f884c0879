/**
 * The extended query protocol: where each Parse, Bind, Describe, Execute, Close, Sync and Flush
 * goes (spec routing/extended-protocol.md; manual: "Extended Query"). Statements and portals are
 * remembered by name; a Bind whose statement is not on the node that routing chooses takes it
 * along: the Parse is repeated there, its answer swallowed, its errors shown.
 */
import type { NodeId } from "../../core/cluster/state.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { decodeBackend, readyForQuery } from "../../core/wire/backend.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { decodeText } from "../../core/wire/text.ts";
import { otherNodesSql, type Protocol } from "../routing/route.ts";
import type { Desk } from "./desk.ts";
import { begins, concernsAll, forgets, mayClosePortals, readsCopyData } from "./effects.ts";
import { queryMessage, statusLetter, text } from "./messages.ts";
import { FAILED, IDLE, type NodeLink, type Owed, type OwedKind } from "./replies.ts";
import type { CatalogQuestion, Route } from "./router.ts";
import { Names, type Portal, Prepared, PreparedNames } from "./statements.ts";

const flushMessage = encodeFrontend({ kind: "Flush" });
const syncMessage = encodeFrontend({ kind: "Sync" });
/** Names of our own, out of the way of any client's. */
const ASK = "pgpool_ask";
/** No statement at all: PostgreSQL refuses it, and its log shows why it was sent. */
const failingMessage = encodeFrontend({
  kind: "Parse",
  statement: ASK,
  sql: "pgpool: this transaction has failed on another node",
  parameterTypes: [],
});
/** Marks answers to it. */
export const FAILING = "failing";

const commitMessage = queryMessage("COMMIT");
const forgetStatement = encodeFrontend({ kind: "Close", target: "S", name: "" });
const forgetPortal = encodeFrontend({ kind: "Close", target: "P", name: "" });

type Naming = "Bind" | "Describe" | "Execute";
type Close = {
  readonly kind: "close";
  readonly name: string;
  readonly statement: Prepared | undefined;
  readonly serial: number;
};
type Asking = { readonly kind: "ask"; failed(): void; answered(): void };

export class Extended {
  readonly #session: Desk;
  readonly #statements = new PreparedNames();
  readonly #portals = new Names<Portal>();
  /** Counts Syncs: a Bind in the segment of its Parse needs no second decision. */
  #segment = 1;
  #serial = 0;
  /** The segment has executed something on the write node: the rest of it belongs there. */
  #pinned = false;
  /** A BEGIN behind such work, which becomes part of its transaction. */
  #lateBegin: Prepared | undefined;

  constructor(session: Desk) {
    this.#session = session;
  }

  // ---------------------------------------------------------------- messages

  parse(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const nameEnd = bytes.indexOf(0, at + 5);
    const sqlEnd = nameEnd < 0 ? -1 : bytes.indexOf(0, nameEnd + 1);
    if (sqlEnd < 0 || sqlEnd >= end) return session.violation("invalid string in message");
    const name = nameEnd === at + 5 ? "" : text(bytes, at + 5, nameEnd);
    const sql = text(bytes, nameEnd + 1, sqlEnd);
    const facts = session.router.facts(sql);
    const known = name === "" ? undefined : this.#statements.get(name);
    // Where the name is taken PostgreSQL will say so, unless the transaction has failed: then that.
    const taken = known !== undefined && session.replies.status() !== FAILED;
    const links = taken ? this.#one(known.on[0]) : this.#route(facts, sql);
    if (links === undefined) return false;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    session.ports.noteStatement(sql, facts);
    for (const link of links) session.ports.noteNodeStatement(link, "Parse", sql, facts);
    if (known === undefined) {
      const otherMessage = otherParse(name, facts);
      const keeps = name !== ""; // for as long as it likes, and not the whole chunk with it
      const statement = new Prepared({
        name,
        sql,
        facts,
        chunk: keeps ? bytes.slice(at, end) : bytes,
        from: keeps ? 0 : at,
        to: keeps ? end - at : end,
        otherMessage,
        links,
        serial: ++this.#serial,
        segment: this.#segment,
      });
      if (name === "") statement.previous = this.#statements.get(name);
      this.#statements.set(name, statement);
      session.replies.expect("Parse", main, links, statement);
      if (otherMessage !== undefined && links.length > 1) {
        for (const link of links) {
          if (link === session.writeLink) session.out.pass(link, at, end);
          else session.out.send(link, otherMessage);
        }
        return true;
      }
    } else {
      // PostgreSQL will say that it exists already; the old one stays.
      session.replies.expect("Parse", main, links, undefined);
    }
    session.out.passAll(links, at, end);
    return true;
  }

  bind(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const portalEnd = bytes.indexOf(0, at + 5);
    const nameEnd = portalEnd < 0 ? -1 : bytes.indexOf(0, portalEnd + 1);
    if (nameEnd < 0 || nameEnd >= end) return session.violation("invalid string in message");
    const portal = portalEnd === at + 5 ? "" : text(bytes, at + 5, portalEnd);
    const name = nameEnd === portalEnd + 1 ? "" : text(bytes, portalEnd + 1, nameEnd);
    const statement = this.#statements.get(name);
    if (statement === undefined) return this.#unknown("Bind", "S", name, at, end);
    if (this.#isDoubtful(statement)) return session.waitDrained();
    let links = this.#linksForBind(statement);
    if (links === undefined) return false;
    const known = portal === "" ? undefined : this.#portals.get(portal);
    if (known !== undefined && known.segment !== 0 && session.replies.status() !== FAILED) {
      // Where it is PostgreSQL will say so. If answers are due, its transaction may be over.
      const isHere = known.segment === this.#segment;
      if (!isHere && !session.replies.empty) return session.waitDrained();
      if (isHere || session.inTransaction) links = this.#alive(known.links);
    }
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    for (const link of links) if (!statement.on.includes(link)) this.#prepareOn(link, statement);
    this.#portals.set(portal, { statement, links, segment: this.#segment });
    for (const link of links) {
      session.ports.noteNodeStatement(link, "Bind", statement.sql, statement.facts);
    }
    session.replies.expect("Bind", main, links, undefined);
    session.out.passAll(links, at, end);
    return true;
  }

  describe(bytes: Uint8Array, at: number, end: number): boolean {
    const target = this.#named(bytes, at, end);
    if (target === undefined) return true;
    const { statement, portal, name, kind } = target;
    if (statement !== undefined) {
      if (this.#isDoubtful(statement)) return this.#session.waitDrained();
      return this.#toOne("Describe", this.#preparedOn(statement), at, end);
    }
    if (portal !== undefined) {
      return this.#toOne("Describe", this.#speakerOf(portal.links), at, end);
    }
    return this.#unknown("Describe", kind, name, at, end);
  }

  execute(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const nameEnd = bytes.indexOf(0, at + 5);
    if (nameEnd < 0 || nameEnd + 5 > end) return session.violation("invalid string in message");
    const name = nameEnd === at + 5 ? "" : text(bytes, at + 5, nameEnd);
    const portal = this.#portals.get(name);
    if (portal === undefined) return this.#unknown("Execute", "P", name, at, end);
    if (portal.segment !== this.#segment && readsCopyData(portal.statement.facts)) {
      // Whether data will follow must be certain: has the portal ended with its transaction?
      if (!session.replies.empty) return session.waitDrained();
      if (!session.inTransaction) return this.#unknown("Execute", "P", name, at, end);
    }
    const { statement } = portal;
    const links = this.#alive(portal.links);
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    if (this.#pinned && begins(statement.facts)) this.#lateBegin = statement;
    if (main === session.writeLink && !concernsAll(statement.facts)) this.#pinned = true;
    for (const link of links) {
      session.ports.noteNodeStatement(link, "Execute", statement.sql, statement.facts);
    }
    session.router.noteSent(statement.facts);
    const owed = session.replies.expect("Execute", main, links, statement);
    session.out.passAll(links, at, end);
    if (forgets(statement.facts)) session.holdNext();
    session.noteCopy(owed, statement.facts, links);
    return true;
  }

  close(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const target = this.#named(bytes, at, end);
    if (target === undefined) return true;
    const { statement, portal, name, kind } = target;
    const isKnown = statement !== undefined || portal !== undefined || name === "";
    // An earlier Close may yet turn out to have been discarded.
    if (!isKnown && !session.replies.empty) return session.waitDrained();
    const known = statement ? statement.on : portal?.links;
    const links = known === undefined || known.length === 0 ? this.#write() : this.#alive(known);
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    let subject: Close | undefined;
    if (kind === "S") {
      this.#statements.delete(name);
      subject = { kind: "close", name, statement, serial: ++this.#serial };
    } else if (portal) this.#portals.delete(name);
    session.replies.expect("Close", main, links, subject);
    session.out.passAll(links.slice(), at, end);
    return true;
  }

  sync(at: number, end: number): boolean {
    const session = this.#session;
    const open = this.#openLinks();
    if (session.discarding && open.length === 0) {
      // The error was ours; no node has anything to synchronise.
      session.discarding = false;
      session.replies.toClient(readyForQuery(statusLetter(session.replies.status())));
      return true;
    }
    session.discarding = false;
    const duringCopy = session.copyLinks.length > 0;
    if (duringCopy && session.copying) {
      session.out.passAll(session.copyLinks, at, end);
      return true;
    }
    const links = duringCopy ? session.copyLinks : open.length === 0 ? this.#write() : open;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    const owed = session.replies.expect("Sync", main, links, undefined);
    owed.duringCopy = duringCopy;
    session.out.passAll(links, at, end);
    if (!duringCopy) this.#closeSegment(links);
    return true;
  }

  flush(at: number, end: number): boolean {
    const open = this.#openLinks();
    this.#session.out.passAll(open.length === 0 ? this.#write() : open, at, end);
    return true;
  }

  // ---------------------------------------------------------------- segments

  /**
   * What a simple query must heed: an unfinished segment on the write node is one implicit
   * transaction with it and so must be followed there; one of reads elsewhere is closed first.
   */
  segmentBeforeQuery(): NodeLink | "wait" | undefined {
    const open = this.#openLinks();
    if (open.length === 0) return undefined;
    if (open.length === 1 && open[0] === this.#session.writeLink) return open[0];
    this.closeSegment();
    return "wait";
  }

  /** A simple query takes the place of what has no name. */
  querySent(): void {
    this.#statements.delete("");
    this.#portals.delete("");
  }

  /** A simple query has gone to the node of an unfinished segment, and ends it. */
  segmentEnded(): void {
    this.#closeSegment(this.#openLinks());
  }

  /** Ends an unfinished segment on our own account. */
  closeSegment(): void {
    const session = this.#session;
    const open = this.#openLinks();
    for (const link of open) {
      session.replies.expect("Sync", link, [], undefined).silent = true;
      session.out.send(link, syncMessage);
    }
    this.#closeSegment(open);
  }

  /** Answers that no Sync has asked for yet would stay in the server's buffer. */
  flushOwed(): void {
    for (const link of this.#openLinks()) {
      if (link.queue.size > 0) this.#session.out.send(link, flushMessage);
    }
  }

  transactionEnded(): void {
    if (this.#session.replies.empty && this.#openLinks().length === 0) this.#portals.clear();
  }

  #closeSegment(links: readonly NodeLink[]): void {
    for (const link of links) link.inSegment = false;
    this.#segment++;
    this.#pinned = false;
  }

  #join(links: readonly NodeLink[]): void {
    for (const link of links) link.inSegment = true;
  }

  #openLinks(): readonly NodeLink[] {
    const links = this.#session.replies.links;
    let open: NodeLink | undefined;
    for (const link of links) {
      if (link === undefined || !link.inSegment) continue;
      if (open !== undefined) return links.filter((each) => each?.inSegment) as NodeLink[];
      open = link;
    }
    return open === undefined ? noLinks : this.#one(open);
  }

  // ---------------------------------------------------------------- routes

  /** Undefined when the session has to wait for the catalog first. */
  #route(facts: StatementFacts, sql: string): readonly NodeLink[] | undefined {
    const session = this.#session;
    if (this.#pinned && !concernsAll(facts)) return this.#write();
    const route: Route = session.router.decide(facts, sql, "extended");
    switch (route.kind) {
      case "ask":
        this.ask(route.questions, "extended");
        return undefined;
      case "proxy":
        return this.#write();
      case "nodes":
        return this.#inTransaction(session.linksOf(route.nodes));
    }
  }

  /**
   * A transaction begun within a text of several statements is the write node's alone. A simple read
   * may run outside of it, as in Pgpool; but a portal would not outlive its segment there.
   */
  #inTransaction(links: readonly NodeLink[]): readonly NodeLink[] {
    const outside = links.length === 1 && links[0]?.status === IDLE;
    return outside && this.#session.inTransaction ? this.#write() : links;
  }

  #linksForBind(statement: Prepared): readonly NodeLink[] | undefined {
    if (statement.segment === this.#segment && !this.#pinned) return this.#alive(statement.links);
    const links = this.#route(statement.facts, statement.sql);
    if (links !== undefined) {
      statement.links = links;
      statement.segment = this.#segment;
    }
    return links;
  }

  /** Its Parse may yet turn out to have been discarded with the rest of an earlier segment. */
  #isDoubtful({ confirmed, parsedIn }: Prepared): boolean {
    return !confirmed && parsedIn !== this.#segment && !this.#session.replies.empty;
  }

  #prepareOn(link: NodeLink, statement: Prepared): void {
    const owed = this.#session.replies.expect("Parse", link, this.#one(link), statement);
    owed.silent = true;
    owed.errorsShow = true;
    const { message, otherMessage = message } = statement;
    this.#session.out.send(link, link === this.#session.writeLink ? message : otherMessage);
    statement.on.push(link);
  }

  #alive(links: readonly NodeLink[]): readonly NodeLink[] {
    const known = this.#session.replies.links;
    const first = links[0];
    if (links.length === 1 && first !== undefined && known[first.id] === first) return links;
    const alive = links.filter((link) => known[link.id] === link);
    return alive.length === 0 ? this.#write() : alive;
  }

  #preparedOn(statement: Prepared): NodeLink {
    if (statement.segment === this.#segment) return this.#speakerOf(statement.links);
    return this.#speakerOf(statement.on);
  }

  #speakerOf(links: readonly NodeLink[] | undefined): NodeLink {
    const session = this.#session;
    if (links === undefined || links.length === 0) return session.writeLink;
    return session.speaker(this.#alive(links));
  }

  #one(link: NodeLink | undefined): readonly NodeLink[] {
    return link === undefined ? this.#write() : this.#session.linksOf([link.id]);
  }

  #write(): readonly NodeLink[] {
    return this.#session.linksOf([this.#session.writeLink.id]);
  }

  /**
   * What the client names does not exist, or was made by SQL: the write node will tell. Without a
   * name it is known not to exist; what a node may still hold of a statement or portal that the
   * client has replaced elsewhere goes first.
   */
  #unknown(kind: Naming, target: "S" | "P", name: string, at: number, end: number): boolean {
    const link = this.#session.writeLink;
    if (name !== "") return this.#toOne(kind, link, at, end);
    if (!this.#session.replies.empty) return this.#session.waitDrained();
    return this.#toOne(kind, link, at, end, target === "S" ? forgetStatement : forgetPortal);
  }

  #toOne(
    kind: Naming,
    link: NodeLink,
    at: number,
    end: number,
    before: Uint8Array | undefined = undefined,
  ): boolean {
    const session = this.#session;
    const links = this.#one(link);
    if (!session.mayFollow(links, link)) return session.waitDrained();
    this.#join(links);
    if (before !== undefined) {
      session.replies.expect("Close", link, noLinks, undefined).silent = true;
      session.out.send(link, before);
    }
    session.replies.expect(kind, link, links, undefined);
    session.out.pass(link, at, end);
    return true;
  }

  /** The statement or portal that Describe and Close name. Undefined after a violation. */
  #named(bytes: Uint8Array, at: number, end: number) {
    const nameEnd = bytes.indexOf(0, at + 6);
    if (nameEnd < 0 || nameEnd >= end) {
      this.#session.violation("invalid string in message");
      return undefined;
    }
    const name = nameEnd === at + 6 ? "" : text(bytes, at + 6, nameEnd);
    const ofStatement = bytes[at + 5] === 0x53;
    return {
      kind: ofStatement ? ("S" as const) : ("P" as const),
      name,
      statement: ofStatement ? this.#statements.get(name) : undefined,
      portal: ofStatement ? undefined : this.#portals.get(name),
    };
  }

  // ---------------------------------------------------------------- failed transactions

  /**
   * Makes the transaction of `link` fail because it has on another node: then the server itself
   * refuses what follows, and COMMIT rolls back everywhere. Prepared statements and portals of the
   * client, the unnamed ones too, are left alone.
   */
  failTransaction(link: NodeLink): void {
    const { replies, out } = this.#session;
    replies.expect("Parse", link, noLinks, FAILING).silent = true;
    out.send(link, failingMessage);
    link.skipping = true;
    if (link.inSegment) return;
    replies.expect("Sync", link, noLinks, FAILING).silent = true;
    out.send(link, syncMessage);
  }

  /** The write node's transaction is over and this one's is not: it was ended within a text of several statements. */
  endTransaction(link: NodeLink): void {
    const { replies, out } = this.#session;
    replies.expect("Query", link, noLinks, undefined).silent = true;
    out.send(link, commitMessage);
  }

  // ---------------------------------------------------------------- questions of our own

  /**
   * Asks the catalog on the session's own connection, where uncommitted objects are seen. Always
   * stalls: the statement that needs the answer is read again when it is there. Should asking fail
   * (a cancel request, statement_timeout), then the statement has failed with the same error.
   */
  ask(questions: readonly CatalogQuestion[], protocol: Protocol): false {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    const sql = session.router.questionSql(questions);
    const link = session.writeLink;
    const rows: Uint8Array[] = [];
    let sync: Owed | undefined;
    const asking: Asking = {
      kind: "ask",
      failed: () => {
        if (protocol === "extended") session.discarding = true;
        else if (sync !== undefined) {
          // The error was the client's: what would have been the end of the asking ends its answer.
          sync.silent = false;
          session.dropStalled();
        }
      },
      answered: () => session.router.answered(questions, valuesOf(rows[0])),
    };
    const expect = (kind: OwedKind) => {
      const owed = session.replies.expect(kind, link, noLinks, asking);
      owed.silent = true;
      owed.errorsShow = true;
      return owed;
    };
    expect("Parse");
    expect("Bind");
    const answer = expect("Execute");
    answer.collect = (row) => rows.push(row.slice());
    // In a transaction the portal would outlive its statement, in the way of the next question.
    expect("Close");
    expect("Close");
    const messages = [
      encodeFrontend({ kind: "Parse", statement: ASK, sql, parameterTypes: [] }),
      encodeFrontend({
        kind: "Bind",
        portal: ASK,
        statement: ASK,
        parameterFormats: [],
        parameters: [],
        resultFormats: [],
      }),
      encodeFrontend({ kind: "Execute", portal: ASK, rowsMax: 0 }),
      encodeFrontend({ kind: "Close", target: "P", name: ASK }),
      encodeFrontend({ kind: "Close", target: "S", name: ASK }),
    ];
    if (link.inSegment) messages.push(flushMessage);
    else {
      sync = expect("Sync");
      messages.push(syncMessage);
    }
    session.out.send(link, Buffer.concat(messages));
    return false;
  }

  // ---------------------------------------------------------------- answers

  settled(owed: Owed): void {
    const subject = owed.subject as Prepared | Close | Asking | undefined;
    switch (owed.kind) {
      case "Parse":
        if (!(subject instanceof Prepared)) return;
        if (owed.failed) this.#statements.notParsed(subject, owed.links, owed.skipped);
        else {
          subject.previous = undefined;
          subject.confirmed = true;
        }
        return;
      case "Close":
        if (subject === undefined || subject instanceof Prepared || subject.kind === "ask") return;
        if (owed.failed) this.#statements.notClosed(subject.statement);
        else this.#statements.closed(subject.name, subject.serial);
        return;
      case "Execute":
        if (owed.failed || subject === undefined) return;
        if (subject instanceof Prepared) {
          this.#session.noteDone(owed, subject.facts);
          if (subject === this.#lateBegin) this.#session.noteWrite(owed);
        } else if (subject.kind === "ask") subject.answered();
        return;
      case "Bind":
      case "Describe":
      case "Sync":
      case "Query":
      case "FunctionCall":
        return;
    }
  }

  /** An error in a segment: the server ignores what follows until Sync, and so do we. */
  failed(owed: Owed, link: NodeLink): void {
    if (owed.kind === "Query" || owed.kind === "FunctionCall" || owed.kind === "Sync") return;
    const { subject } = owed;
    if (isAsking(subject)) subject.failed();
    for (let i = 0; i < link.queue.size; i++) if (link.queue.at(i)?.kind === "Sync") return;
    if (!link.inSegment) return;
    this.#session.discarding = true;
    // What the rest of the segment has done elsewhere, in the same implicit transaction, is undone.
    for (const other of this.#openLinks()) {
      if (other !== link && !other.skipping) this.failTransaction(other);
    }
  }

  /** A Sync that a COPY might have swallowed was one: the segment is over for the other nodes too. */
  syncOthers(links: readonly NodeLink[]): void {
    const { replies, out } = this.#session;
    for (const link of this.#openLinks()) {
      if (links.includes(link)) continue;
      replies.expect("Sync", link, noLinks, undefined).silent = true;
      out.send(link, syncMessage);
      link.inSegment = false;
    }
  }

  /** SQL that undoes what the protocol prepared. */
  noteSqlDone(facts: StatementFacts): void {
    const { statement } = facts;
    if (mayClosePortals(facts)) for (const portal of this.#portals.values()) portal.segment = 0;
    if (
      statement.kind === "discard" &&
      (statement.target === "all" || statement.target === "plans")
    ) {
      if (statement.target === "all") this.#forgetAll();
      return;
    }
    if (statement.kind !== "deallocate") return;
    if (statement.name === undefined) this.#statements.clear();
    else this.#statements.delete(statement.name);
  }

  /** Where a statement of this name is prepared, for SQL's EXECUTE and DEALLOCATE. */
  nodesOf(name: string): readonly NodeId[] | undefined {
    const statement = name === "" ? undefined : this.#statements.get(name);
    return statement?.on.map(({ id }) => id);
  }

  #forgetAll(): void {
    this.#statements.clear();
    this.#portals.clear();
  }
}

const isAsking = (subject: unknown): subject is Asking =>
  typeof subject === "object" && subject !== null && "kind" in subject && subject.kind === "ask";

/** The Parse of a transaction's beginning as a standby accepts it (spec load-balance.md 3.6). */
function otherParse(name: string, facts: StatementFacts): Uint8Array | undefined {
  const sql = otherNodesSql(facts);
  if (sql === undefined) return undefined;
  return encodeFrontend({ kind: "Parse", statement: name, sql, parameterTypes: [] });
}

/** The columns of a DataRow frame as texts. */
function valuesOf(row: Uint8Array | undefined): readonly (string | null)[] | undefined {
  if (row === undefined) return undefined;
  const message = decodeBackend(frameOf(row));
  if (message.kind !== "DataRow") return undefined;
  return message.values.map((value) => (value === null ? null : decodeText(value)));
}

const noLinks: readonly NodeLink[] = [];
