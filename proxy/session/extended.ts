/**
 * The extended query protocol: where each Parse, Bind, Describe, Execute, Close, Sync and Flush
 * goes (spec routing/extended-protocol.md; manual: "Extended Query"). Statements and portals are
 * remembered by name; a Bind whose statement is not on the node that routing chooses takes it
 * along: the Parse is repeated there, its answer swallowed, its errors shown.
 */
import type { NodeId } from "../../core/cluster/state.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { decodeBackend, errorResponse, readyForQuery } from "../../core/wire/backend.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { decodeText } from "../../core/wire/text.ts";
import { otherNodesSql } from "../routing/route.ts";
import type { Desk } from "./desk.ts";
import { statusLetter, text, transactionFailed } from "./messages.ts";
import type { NodeLink, Owed } from "./replies.ts";
import type { CatalogQuestion, Route } from "./router.ts";
import { Names, type Portal, Prepared } from "./statements.ts";

const flushMessage = encodeFrontend({ kind: "Flush" });
const syncMessage = encodeFrontend({ kind: "Sync" });
/** Names of our own, out of the way of any client's. */
const ASK = "pgpool_ask";

type Close = { readonly kind: "close"; readonly statement: Prepared };
type Asking = { readonly kind: "ask" };

export class Extended {
  readonly #session: Desk;
  readonly #statements = new Names<Prepared>();
  readonly #portals = new Names<Portal>();
  /** Counts Syncs: a Bind in the segment of its Parse needs no second decision. */
  #segment = 1;
  /** The segment has executed something on the write node: the rest of it belongs there. */
  #pinned = false;

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
    if (this.#failedElsewhere(facts)) return this.#refuse();
    const known = name === "" ? undefined : this.#statements.get(name);
    const links = known === undefined ? this.#route(facts, sql) : this.#one(known.on[0]);
    if (links === undefined) return false;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    session.ports.noteStatement(sql, facts);
    for (const link of links) session.ports.noteNodeStatement(link, "Parse", sql, facts);
    if (known === undefined) {
      const message = name === "" ? bytes.subarray(at, end) : bytes.slice(at, end);
      const otherMessage = otherParse(name, facts);
      const options = { name, sql, facts, message, otherMessage, links, segment: this.#segment };
      const statement = new Prepared(options);
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
    if (statement === undefined) return this.#toWriteNode("Bind", at, end);
    if (this.#failedElsewhere(statement.facts)) return this.#refuse();
    const links = this.#linksForBind(statement);
    if (links === undefined) return false;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    for (const link of links) if (!statement.on.includes(link)) this.#prepareOn(link, statement);
    this.#portals.set(portal, { statement, links });
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
    const link = target.statement
      ? this.#preparedOn(target.statement)
      : this.#speakerOf(target.portal?.links);
    return this.#toOne("Describe", link, at, end);
  }

  execute(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const nameEnd = bytes.indexOf(0, at + 5);
    if (nameEnd < 0 || nameEnd + 5 > end) return session.violation("invalid string in message");
    const portal = this.#portals.get(nameEnd === at + 5 ? "" : text(bytes, at + 5, nameEnd));
    if (portal === undefined) return this.#toWriteNode("Execute", at, end);
    const { statement } = portal;
    const links = this.#alive(portal.links);
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    if (main === session.writeLink) this.#pinned = true;
    for (const link of links) {
      session.ports.noteNodeStatement(link, "Execute", statement.sql, statement.facts);
    }
    session.router.noteSent(statement.facts);
    session.replies.expect("Execute", main, links, statement);
    session.out.passAll(links, at, end);
    if (session.readsFromClient(statement.facts)) session.copyLinks = links;
    return true;
  }

  close(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const target = this.#named(bytes, at, end);
    if (target === undefined) return true;
    const { statement, portal, name } = target;
    const known = statement ? statement.on : portal?.links;
    const links = known === undefined || known.length === 0 ? this.#write() : this.#alive(known);
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    if (statement) this.#statements.delete(name);
    else if (portal) this.#portals.delete(name);
    const subject: Close | undefined = statement && { kind: "close", statement };
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
    if (open.length === 1 && open[0] === this.#session.writeLink) {
      this.#closeSegment(open);
      return open[0];
    }
    this.closeSegment();
    return "wait";
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
    if (this.#pinned) return this.#write();
    const route: Route = session.router.decide(facts, sql, "extended");
    switch (route.kind) {
      case "ask":
        this.ask(route.questions);
        return undefined;
      case "proxy":
        return this.#write();
      case "nodes":
        return session.linksOf(route.nodes);
    }
  }

  #linksForBind(statement: Prepared): readonly NodeLink[] | undefined {
    if (statement.segment === this.#segment) return this.#alive(statement.links);
    const links = this.#route(statement.facts, statement.sql);
    if (links !== undefined) {
      statement.links = links;
      statement.segment = this.#segment;
    }
    return links;
  }

  #prepareOn(link: NodeLink, statement: Prepared): void {
    const owed = this.#session.replies.expect("Parse", link, [], statement);
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

  #toWriteNode(kind: "Bind" | "Execute", at: number, end: number): boolean {
    return this.#toOne(kind, this.#session.writeLink, at, end);
  }

  #toOne(kind: "Bind" | "Execute" | "Describe", link: NodeLink, at: number, end: number): boolean {
    const session = this.#session;
    const links = this.#one(link);
    if (!session.mayFollow(links, link)) return session.waitDrained();
    this.#join(links);
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
      name,
      statement: ofStatement ? this.#statements.get(name) : undefined,
      portal: ofStatement ? undefined : this.#portals.get(name),
    };
  }

  // ---------------------------------------------------------------- failed transactions

  /**
   * The client's transaction has failed on a standby while the write node's is sound: PostgreSQL
   * would refuse everything but its end, so we do.
   */
  #failedElsewhere(facts: StatementFacts): boolean {
    const session = this.#session;
    if (!session.router.failed || session.writeLink.status !== 0x54) return false;
    const { statement } = facts;
    return !(
      statement.kind === "transaction" &&
      (statement.control.kind === "commit" ||
        statement.control.kind === "rollback" ||
        statement.control.kind === "rollback_to")
    );
  }

  #refuse(): boolean {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    session.replies.toClient(transactionFailed);
    session.discarding = true;
    return true;
  }

  // ---------------------------------------------------------------- questions of our own

  /**
   * Asks the catalog on the session's own connection, where uncommitted objects are seen. Always
   * stalls: the statement that needs the answer is read again when it is there.
   */
  ask(questions: readonly CatalogQuestion[]): false {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    const sql = session.router.questionSql(questions);
    const link = session.writeLink;
    const rows: Uint8Array[] = [];
    const expect = (kind: "Parse" | "Bind" | "Execute" | "Close" | "Sync", subject?: unknown) => {
      const owed = session.replies.expect(kind, link, [], subject);
      owed.silent = true;
      return owed;
    };
    expect("Parse");
    expect("Bind");
    expect("Execute").collect = (row) => rows.push(row.slice());
    const asking: Asking & { done: (failed: boolean) => void } = {
      kind: "ask",
      done: (failed) => session.router.answered(questions, failed ? undefined : valuesOf(rows[0])),
    };
    // In a transaction the portal would outlive its statement, in the way of the next question.
    expect("Close");
    expect("Close", asking);
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
      expect("Sync");
      messages.push(syncMessage);
    }
    session.out.send(link, Buffer.concat(messages));
    return false;
  }

  // ---------------------------------------------------------------- answers

  settled(owed: Owed): void {
    const subject = owed.subject as Prepared | Close | (Asking & { done(failed: boolean): void });
    switch (owed.kind) {
      case "Parse":
        if (owed.failed && subject instanceof Prepared) this.#notPrepared(subject);
        return;
      case "Close":
        if (subject === undefined || subject instanceof Prepared) return;
        if (subject.kind === "ask") subject.done(owed.failed);
        else if (owed.failed) this.#statements.set(subject.statement.name, subject.statement);
        return;
      case "Execute":
        if (subject instanceof Prepared && !owed.failed) {
          this.#session.noteDone(owed, subject.facts);
        }
        return;
      case "Bind":
      case "Describe":
      case "Sync":
      case "Query":
      case "FunctionCall":
        return;
    }
  }

  #notPrepared(statement: Prepared): void {
    const { links } = statement;
    for (const link of links) statement.forget(link);
    const stillThere = statement.on.length > 0;
    if (!stillThere && this.#statements.get(statement.name) === statement) {
      this.#statements.delete(statement.name);
    }
  }

  /** An error in a segment: the server ignores what follows until Sync, and so do we. */
  failed(owed: Owed, link: NodeLink): void {
    if (owed.kind === "Query" || owed.kind === "FunctionCall" || owed.kind === "Sync") return;
    for (let i = 0; i < link.queue.size; i++) if (link.queue.at(i)?.kind === "Sync") return;
    if (link.inSegment) this.#session.discarding = true;
    if (owed.silent && !owed.errorsShow) this.#session.replies.toClient(questionFailed);
  }

  /** SQL that undoes what the protocol prepared. */
  noteSqlDone(facts: StatementFacts): void {
    const { statement } = facts;
    if (
      statement.kind === "discard" &&
      (statement.target === "all" || statement.target === "plans")
    ) {
      if (statement.target === "all") this.#forgetAll();
      return;
    }
    if (statement.kind !== "deallocate") return;
    if (statement.name === undefined) this.#forgetAll();
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

const questionFailed = errorResponse({
  severity: "ERROR",
  code: "XX000",
  message: "failed to look up the catalog for query routing",
});
