/**
 * The extended query protocol: where each Parse, Bind, Describe, Execute, Close, Sync and Flush
 * goes (spec routing/extended-protocol.md; manual: "Extended Query"). Statements and portals are
 * remembered by name; a Bind whose statement is not on the node that routing chooses takes it
 * along: the Parse is repeated there, its answer swallowed, its errors shown.
 */
import type { RouteReason } from "../../core/routing/reasons.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { readyForQuery } from "../../core/wire/backend.ts";
import { FRONTEND } from "../../core/wire/codes.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { otherNodesSql, type Protocol } from "../routing/route.ts";
import type { NodesRoute } from "../routing/routes.ts";
import type { Desk } from "./desk.ts";
import {
  anyWriteSql,
  begins,
  concernsAll,
  declares,
  endsTransaction,
  explainedBy,
  forgets,
  isTwoPhase,
  mayClosePortals,
  mindsQueries,
  mindsReads,
  readsCopyData,
  takesSnapshot,
} from "./effects.ts";
import { queryMessage, statusLetter, text, transactionFailed } from "./messages.ts";
import { flushMessage, OWN_NAME, runOwn, syncMessage } from "./own_messages.ts";
import { alreadyPrepared, OwnStatements, parseComplete } from "./own_statements.ts";
import { type Asking, AWAITED, isAsking, Questions } from "./questions.ts";
import { FAILED, IDLE, IN_TRANSACTION, type NodeLink, type Owed } from "./replies.ts";
import type { Route } from "./router.ts";
import { StatementNames } from "./statement_names.ts";
import { Names, Portal, Prepared, PreparedNames } from "./statements.ts";
import type { Unit } from "./unit.ts";

/** No statement at all: PostgreSQL refuses it, and its log shows why it was sent. */
const failingMessage = encodeFrontend({
  kind: "Parse",
  statement: OWN_NAME,
  sql: "pgpool: this transaction has failed on another node",
  parameterTypes: [],
});
const runKinds = ["Parse", "Bind", "Execute", "Close", "Close"] as const;
const runMessages = runOwn("SELECT 1");
/** Without a snapshot of the data. */
const runBlindMessages = runOwn("SHOW transaction_isolation");
const lookKinds = ["Parse", "Close"] as const;
const lookMessages = Buffer.concat([
  encodeFrontend({ kind: "Parse", statement: OWN_NAME, sql: "SELECT 1", parameterTypes: [] }),
  encodeFrontend({ kind: "Close", target: "S", name: OWN_NAME }),
]);
/** Marks answers to it. */
export const FAILING = "failing";
/** Marks the Execute of a portal of which we know nothing. */
const UNKNOWN = "unknown";

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
type Bound = { readonly links: readonly NodeLink[]; readonly why: RouteReason };

export class Extended {
  readonly questions: Questions;
  readonly names: StatementNames;
  readonly #session: Desk;
  readonly #statements = new PreparedNames();
  readonly #portals = new Names<Portal>();
  /** Counts Syncs: a Bind in the segment of its Parse needs no second decision. */
  #segment = 1;
  #serial = 0;
  /** The segment has executed something on the write node: the rest of it belongs there. */
  #pinned = false;
  /** It has executed something there, or so far only elsewhere. */
  #ranHere = false;
  #ranElsewhere = false;
  /** And has looked at data there, if only to parse something. */
  #lookedElsewhere = false;
  /** A PREPARE TRANSACTION: with its Sync the transaction is over, and is still to be ended elsewhere. */
  #mayEndHere = false;
  /** A BEGIN behind such work, which becomes part of its transaction. */
  #lateBegin: Prepared | undefined;

  constructor(session: Desk) {
    this.#session = session;
    this.questions = new Questions(session);
    this.names = new StatementNames(session, this.#statements, this.questions, (link, statement) =>
      this.#prepareOn(link, statement),
    );
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
    const isOwn = explainedBy(facts) !== undefined || this.ownDeallocated(facts) !== undefined;
    if (isOwn) return this.#parseOwn(name, facts, sql);
    if (this.#own?.nameIsTaken(name)) return this.refuse(alreadyPrepared(name));
    const known = name === "" ? undefined : this.#statements.get(name);
    // An earlier Parse of the name may turn out to have been discarded behind an error.
    if (known !== undefined && this.#isDoubtful(known)) return session.waitDrained();
    // Where the name is taken PostgreSQL will say so, unless the transaction has failed: then that.
    const failed = this.#hasFailed && !endsTransaction(facts);
    if (failed && name !== "" && !session.replies.empty) return session.waitDrained();
    const taken = known !== undefined && !failed;
    const bySql = failed ? undefined : this.names.preparedBySql(name);
    const links = taken ? this.#one(known.on[0]) : (bySql ?? this.#route(facts, sql));
    if (links === undefined) return false;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    if (facts.statement.kind === "unparsable") session.ports.noteUnparsable(sql);
    this.#noteLook(facts, links);
    const why = taken ? "prepared_statement" : this.#why;
    for (const link of links) session.ports.noteNodeStatement(link, "Parse", sql, facts, why);
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
        why,
        serial: ++this.#serial,
        segment: this.#segment,
      });
      statement.definitions = session.cache?.definitions ?? 0;
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
      const only = links[0];
      if (taken && only !== undefined && !known.on.includes(only)) this.#prepareOn(only, known);
      session.replies.expect("Parse", main, links, undefined);
    }
    session.out.passAll(links, at, end);
    return true;
  }

  /** The statement that a unit is about, if it can be answered from memory now. */
  statementOf(unit: Unit, bytes: Uint8Array): Prepared | undefined {
    const session = this.#session;
    if (session.inTransaction || this.#openLinks().length > 0) return undefined;
    const { parse, nameAt, valuesAt } = unit;
    const name = nameAt + 1 === valuesAt ? "" : text(bytes, nameAt, valuesAt - 1);
    if (this.#own?.has("S", name) || this.#own?.nameIsTaken(name)) return undefined;
    if (parse === undefined) {
      const known = this.#statements.get(name);
      return known?.confirmed && !known.isHearsay ? known : undefined;
    }
    const sqlEnd = bytes.indexOf(0, parse.at + 6);
    if (sqlEnd < 0 || sqlEnd >= parse.end) return undefined;
    const sql = text(bytes, parse.at + 6, sqlEnd);
    const statement = new Prepared({
      name: "",
      sql,
      facts: session.router.facts(sql),
      chunk: bytes,
      from: parse.at,
      to: parse.end,
      otherMessage: undefined,
      links: noLinks,
      why: "read",
      serial: ++this.#serial,
      segment: 0,
    });
    statement.isKept = statement.confirmed = true; // a node had parsed it when the answer was kept
    statement.definitions = session.cache?.definitions ?? 0;
    return statement;
  }

  /** The unit was answered from memory: no server has seen anything of it, and a Bind will take along what it needs. */
  answered({ parse }: Unit, statement: Prepared): void {
    if (parse !== undefined) this.#statements.set("", statement);
    this.#portals.delete("");
    this.#own?.forget("S", "");
    this.#own?.clearPortals();
  }

  bind(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const portalEnd = bytes.indexOf(0, at + 5);
    const nameEnd = portalEnd < 0 ? -1 : bytes.indexOf(0, portalEnd + 1);
    if (nameEnd < 0 || nameEnd >= end) return session.violation("invalid string in message");
    const portal = portalEnd === at + 5 ? "" : text(bytes, at + 5, portalEnd);
    const name = nameEnd === portalEnd + 1 ? "" : text(bytes, portalEnd + 1, nameEnd);
    if (this.#own?.has("S", name)) return this.#toOwn(this.#own, bytes, at, end);
    this.#own?.forget("P", portal);
    if (!this.names.carriedBySql(name)) {
      return session.router.failed ? this.refuse(transactionFailed) : session.waitDrained();
    }
    const statement = this.#statements.get(name) ?? this.#madeBySql(name);
    if (statement === undefined) return this.#unknown("Bind", "S", name, at, end);
    if (this.#isDoubtful(statement)) return session.waitDrained();
    const holders = this.holdersOf(portal);
    if (holders === "wait") return session.waitDrained();
    // Where the portal is, PostgreSQL will say so, if it knows the statement at all.
    const tells = holders !== undefined && this.#knowAll(holders, statement);
    const links = tells ? holders : this.#linksForBind(statement);
    if (links === undefined) return false;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    for (const link of links) {
      if (!statement.isHearsay && !statement.on.includes(link)) this.#prepareOn(link, statement);
    }
    this.#noteLook(statement.facts, links);
    const { why } = statement;
    this.#portals.set(portal, new Portal(statement, links, why, this.#segment));
    for (const link of links) {
      session.ports.noteNodeStatement(link, "Bind", statement.sql, statement.facts, why);
    }
    session.replies.expect("Bind", main, links, statement);
    session.out.passAll(links, at, end);
    return true;
  }

  describe(bytes: Uint8Array, at: number, end: number): boolean {
    const target = this.#named(bytes, at, end);
    if (target === undefined) return true;
    const { statement, portal, name, kind } = target;
    if (this.#own?.has(kind, name)) return this.#toOwn(this.#own, bytes, at, end);
    if (statement !== undefined) {
      if (this.#isDoubtful(statement)) return this.#session.waitDrained();
      const { inTransaction, writeLink } = this.#session;
      const known = this.#preparedOn(statement);
      // Begun within a longer text, the transaction is not there; and it may have failed.
      const link = inTransaction && known.status === IDLE ? writeLink : known;
      return this.#toOne("Describe", link, at, end, statement);
    }
    if (portal !== undefined) {
      return this.#toOne("Describe", this.#speakerOf(portal.links), at, end, portal);
    }
    const bySql = kind === "S" ? this.names.preparedBySql(name) : undefined;
    if (bySql !== undefined) return this.#toOne("Describe", this.#speakerOf(bySql), at, end);
    return this.#unknown("Describe", kind, name, at, end);
  }

  execute(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const nameEnd = bytes.indexOf(0, at + 5);
    if (nameEnd < 0 || nameEnd + 5 > end) return session.violation("invalid string in message");
    const name = nameEnd === at + 5 ? "" : text(bytes, at + 5, nameEnd);
    if (this.#own?.has("P", name)) return this.#toOwn(this.#own, bytes, at, end);
    const portal = this.#portals.get(name);
    if (portal === undefined) return this.#unknown("Execute", "P", name, at, end);
    if (portal.segment !== this.#segment && readsCopyData(portal.statement.facts)) {
      // Whether data will follow must be certain: has the portal ended with its transaction?
      if (!session.replies.empty) return session.waitDrained();
      if (!session.inTransaction) return this.#unknown("Execute", "P", name, at, end);
    }
    const { statement } = portal;
    if (session.cache?.mayGo(statement.facts) === false) return false;
    const bound = this.#alive(portal.links);
    const main = session.speaker(bound);
    if (!session.mayFollow(bound, main)) return session.waitDrained();
    // In a transaction that has begun in this very segment the nodes have not yet said so.
    const links = main.status === IDLE ? bound : session.targetsOf(statement.facts, bound, main);
    this.#join(links);
    if (this.#pinned && begins(statement.facts)) this.#lateBegin = statement;
    if (links.includes(session.writeLink)) {
      if (mindsQueries(statement.facts)) this.#runHere();
      this.#ranElsewhere = this.#lookedElsewhere = false;
    } else if (!this.#ranHere) {
      this.#ranElsewhere = true;
      this.#lookedElsewhere ||= takesSnapshot(statement.facts, "Execute");
    }
    if (main === session.writeLink) {
      this.#ranHere = true;
      if (!concernsAll(statement.facts)) this.#pinned = true;
    }
    session.ports.noteStatement(statement.sql);
    for (const link of links) {
      session.ports.noteNodeStatement(link, "Execute", statement.sql, statement.facts, portal.why);
    }
    session.router.noteSent(statement.facts);
    if (session.cache !== undefined) {
      if (mindsReads(statement.facts) && session.cache.takeUnseen()) this.readOn(links);
      session.cache.sent(statement.facts);
      statement.sentUnder = session.cache.definitions;
    }
    const owed = session.replies.expect("Execute", main, links, statement);
    session.out.passAll(links, at, end);
    if (forgets(statement.facts)) session.holdNext();
    if (isTwoPhase(statement.facts)) this.#mayEndHere = true;
    session.noteCopy(owed, statement.facts, links);
    return true;
  }

  /**
   * The write node has seen nothing of what the segment has done elsewhere, and would accept what
   * PostgreSQL refuses behind it: a change of isolation, COMMIT PREPARED. So it does the like.
   */
  #runHere(): boolean {
    const session = this.#session;
    const { writeLink, replies } = session;
    if (session.inTransaction || !(this.#ranElsewhere || this.#lookedElsewhere)) return false;
    const kinds = this.#ranElsewhere ? runKinds : lookKinds;
    for (const kind of kinds) replies.expect(kind, writeLink, noLinks, undefined).silent = true;
    const looks = this.#lookedElsewhere ? runMessages : runBlindMessages;
    session.out.send(writeLink, this.#ranElsewhere ? looks : lookMessages);
    return true;
  }

  /** These nodes are to have run a query in their transaction, as the client has in its own. */
  readOn(links: readonly NodeLink[]): void {
    const { replies, out } = this.#session;
    for (const link of links) {
      if (link.status !== IN_TRANSACTION || link.skipping) continue;
      for (const kind of runKinds) replies.expect(kind, link, noLinks, undefined).silent = true;
      out.send(link, runMessages);
    }
  }

  /** A Parse or Bind of this goes to `links`. */
  #noteLook(facts: StatementFacts, links: readonly NodeLink[]): void {
    if (this.#ranHere || links.includes(this.#session.writeLink)) return;
    if (takesSnapshot(facts, "Parse")) this.#lookedElsewhere = true;
  }

  close(bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    const target = this.#named(bytes, at, end);
    if (target === undefined) return true;
    const { statement, portal, name, kind } = target;
    if (this.#own?.has(kind, name)) return this.#toOwn(this.#own, bytes, at, end);
    const isKnown = statement !== undefined || portal !== undefined || name === "";
    // An earlier Close may yet turn out to have been discarded.
    if (!isKnown && !session.replies.empty) return session.waitDrained();
    const known = statement
      ? statement.on
      : (portal?.links ?? (kind === "S" ? this.names.preparedBySql(name) : undefined));
    const links = known === undefined || known.length === 0 ? this.#write() : this.#alive(known);
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    this.#join(links);
    let subject: Close | undefined;
    if (kind === "S") {
      this.#statements.delete(name);
      subject = { kind: "close", name, statement, serial: ++this.#serial };
    } else if (portal) this.#portals.delete(name);
    observe(this.#session, links, "C message");
    session.replies.expect("Close", main, links, subject);
    session.out.passAll(links.slice(), at, end);
    // Whether the name is free for the next Parse shows when this one is answered.
    if (kind === "S" && this.names.preparedBySql(name) !== undefined) session.holdNext();
    return true;
  }

  sync(at: number, end: number): boolean {
    const session = this.#session;
    if (!session.inTransaction) this.#own?.clearPortals();
    const open = this.#openLinks();
    if (session.discarding && open.length === 0) {
      // The error was ours; no node has anything to synchronise.
      session.discarding = false;
      session.replies.toClient(readyForQuery(statusLetter(session.replies.status())));
      return true;
    }
    session.discarding = false;
    const duringCopy = session.copyIn.links.length > 0;
    if (duringCopy && session.copyIn.reading) {
      observe(this.#session, session.copyIn.links, "Sync");
      session.out.passAll(session.copyIn.links, at, end);
      return true;
    }
    const links = duringCopy ? session.copyIn.links : open.length === 0 ? this.#write() : open;
    const main = session.speaker(links);
    if (!session.mayFollow(links, main)) return session.waitDrained();
    observe(this.#session, links, "Sync");
    const owed = session.replies.expect("Sync", main, links, undefined);
    session.cache?.follow(owed);
    owed.duringCopy = duringCopy;
    session.out.passAll(links, at, end);
    if (this.#mayEndHere) session.holdNext();
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
   * transaction with it and so must be followed there; one of reads elsewhere is closed first, unless
   * the query minds. Should the segment have failed, then the query is discarded with the rest of it.
   */
  segmentBeforeQuery(facts: StatementFacts): NodeLink | "wait" | undefined {
    const { replies, writeLink } = this.#session;
    const open = this.#openLinks();
    if (open.length === 0) return undefined;
    if (!replies.empty) return "wait";
    if (mindsQueries(facts) && this.#runHere()) {
      this.#ranElsewhere = this.#lookedElsewhere = false;
      this.#join(this.#write());
      return writeLink;
    }
    if (open.includes(writeLink)) return writeLink;
    this.closeSegment();
    return "wait";
  }

  /** The open segment has executed something on the write node. */
  get hasWorked(): boolean {
    return this.#pinned;
  }

  /** A simple query takes the place of what has no name; of the portal when it comes to be executed. */
  querySent({ statement }: StatementFacts): void {
    this.#statements.delete("");
    const isRefused = statement.kind !== "transaction" && this.#session.replies.status() === FAILED;
    if (!isRefused && statement.kind !== "empty") this.#portals.delete("");
    this.#own?.forget("S", "");
    this.#own?.forget("P", "");
  }

  /** A simple query has gone to `links`, and ends the segment there. Elsewhere it ends with the query. */
  segmentEnded(links: readonly NodeLink[]): void {
    const open = this.#openLinks();
    this.#closeSegment(links);
    this.#leftOpen = open.filter((link) => link.inSegment);
    if (this.#leftOpen.length > 0) this.#session.holdNext();
  }
  #leftOpen: readonly NodeLink[] = noLinks;

  /** The query that ended a segment is answered: on the other nodes too the segment has failed or not. */
  queryEnded(failed: boolean): void {
    if (this.#leftOpen.length === 0) return;
    const { replies, out } = this.#session;
    for (const link of this.#leftOpen) {
      if (replies.links[link.id] !== link) continue;
      if (failed && !link.skipping) this.failTransaction(link);
      replies.expect("Sync", link, noLinks, undefined).silent = true;
      out.send(link, syncMessage);
      link.inSegment = false;
    }
    this.#leftOpen = noLinks;
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
    this.#ranHere = false;
    this.#ranElsewhere = false;
    this.#lookedElsewhere = false;
    this.#mayEndHere = false;
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

  /** Where the portal of this name is, for SQL's cursors too; "wait": its transaction may be over. */
  holdersOf(portal: string): readonly NodeLink[] | "wait" | undefined {
    const session = this.#session;
    if (portal === "" || session.replies.status() === FAILED) return undefined;
    if (this.#cursors.has(portal)) return this.#write();
    const known = this.#portals.get(portal);
    if (known === undefined || known.segment === 0) return undefined;
    const isHere = known.segment === this.#segment;
    if (!isHere && !session.replies.empty) return "wait";
    return isHere || session.inTransaction ? this.#alive(known.links) : undefined;
  }

  /** Names that SQL's DECLARE has given on the write node; some may be gone with their transaction. */
  readonly #cursors = new Set<string>();

  /** Undefined when the session has to wait for the catalog first. */
  #route(facts: StatementFacts, sql: string): readonly NodeLink[] | undefined {
    const session = this.#session;
    const holders = facts.cursor === undefined ? undefined : this.holdersOf(facts.cursor);
    if (holders !== undefined) {
      this.#why = "cursor";
      if (holders !== "wait") return holders;
      session.waitDrained();
      return undefined;
    }
    if (this.#pinned && !concernsAll(facts)) {
      this.#why = "segment";
      return this.#carried(facts, sql, this.#write());
    }
    const route: Route = session.router.decide(facts, sql, "extended");
    switch (route.kind) {
      case "ask":
        this.questions.catalog(route.questions, "extended", takesSnapshot(facts, "Parse"));
        return undefined;
      case "proxy":
        this.#why = route.why === "show_pool" ? "read" : route.why;
        return this.#write();
      case "nodes":
        this.#why = route.why;
        return this.#carried(facts, sql, this.#inTransaction(facts, session.linksOf(route.nodes)));
    }
  }

  /** What it executes must be there too. Undefined when answers must be waited for first. */
  #carried(
    facts: StatementFacts,
    sql: string,
    links: readonly NodeLink[],
  ): readonly NodeLink[] | undefined {
    const session = this.#session;
    if (!links.includes(session.writeLink)) return links;
    if (this.names.carry(facts, sql, "extended")) return links;
    session.waitDrained();
    return undefined;
  }

  /** Of the last `#route`. */
  #why: RouteReason = "read";

  /**
   * Where the session holds a statement back from the route that was decided for it, and why;
   * undefined where it follows the route.
   */
  boundTo(facts: StatementFacts, route: NodesRoute, protocol: Protocol): Bound | undefined {
    const session = this.#session;
    if (protocol === "simple") {
      const open = this.#openLinks();
      const bound = open.length === 1 && open[0] === session.writeLink;
      if (!bound || route.nodes.includes(session.writeLink.id)) return undefined;
      return { links: open, why: "segment" };
    }
    if (this.#pinned && !concernsAll(facts)) return { links: this.#write(), why: "segment" };
    this.#why = route.why;
    const links = this.#inTransaction(facts, session.linksOf(route.nodes));
    return this.#why === route.why ? undefined : { links, why: this.#why };
  }

  /**
   * A transaction begun within a text of several statements is the write node's alone. A simple read
   * may run outside of it, as in Pgpool; but a portal would not outlive its segment there. Nor can it
   * be ended where it has not begun.
   */
  #inTransaction(facts: StatementFacts, links: readonly NodeLink[]): readonly NodeLink[] {
    if (!this.#session.inTransaction) return links;
    const outside = links.some(({ status }) => status === IDLE);
    if (!outside || (links.length > 1 && !endsTransaction(facts))) return links;
    this.#why = "multi_statement_transaction";
    return this.#write();
  }

  /** What SQL has prepared is not taken along to where a portal is. */
  #knowAll(links: readonly NodeLink[], { name, isHearsay }: Prepared): boolean {
    if (!isHearsay) return true;
    const nodes = this.#session.router.session.prepared.get(name)?.nodes;
    return nodes !== undefined && links.every(({ id }) => nodes.includes(id));
  }

  #linksForBind(statement: Prepared): readonly NodeLink[] | undefined {
    if (statement.segment === this.#segment && !this.#pinned) return this.#alive(statement.links);
    const links = this.#route(statement.facts, statement.sql);
    if (links !== undefined) {
      statement.links = links;
      statement.why = this.#why;
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
    observe(this.#session, this.#one(link), `Parse: ${statement.sql}`);
    const { message, otherMessage = message } = statement;
    this.#session.out.send(link, link === this.#session.writeLink ? message : otherMessage);
    statement.on.push(link);
    statement.confirmed = false;
    statement.parsedIn = this.#segment;
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
    if (name !== "") {
      if (kind === "Execute" && this.#session.cache?.mayGo(undefined) === false) return false;
      if (!this.#toOne(kind, link, at, end)) return false;
      if (kind === "Execute") {
        this.#pinned = this.#ranHere = true; // made by SQL, it may write
        this.#session.cache?.sentUnknown();
      }
      return true;
    }
    if (!this.#session.replies.empty) return this.#session.waitDrained();
    const before = target === "S" ? forgetStatement : forgetPortal;
    return this.#toOne(kind, link, at, end, undefined, before);
  }

  /** A statement that only the write node knows, if there is one: it may write. */
  #madeBySql(name: string): Prepared | undefined {
    if (name === "") return undefined;
    const statement = new Prepared({
      name,
      sql: this.#session.router.session.prepared.get(name)?.sql ?? "",
      facts: this.#session.router.facts(anyWriteSql),
      chunk: forgetStatement,
      from: 0,
      to: 0,
      otherMessage: undefined,
      links: this.#write(),
      why: "prepared_statement",
      serial: 0,
      segment: this.#segment,
    });
    statement.confirmed = true;
    statement.isHearsay = true;
    return statement;
  }

  #toOne(
    kind: Naming,
    link: NodeLink,
    at: number,
    end: number,
    subject: Prepared | Portal | undefined = undefined,
    before: Uint8Array | undefined = undefined,
  ): boolean {
    const session = this.#session;
    const links = this.#one(link);
    if (!session.mayFollow(links, link)) return session.waitDrained();
    this.#join(links);
    // The node that knew it may be gone.
    if (subject instanceof Prepared && !subject.on.includes(link)) this.#prepareOn(link, subject);
    if (before !== undefined) {
      session.replies.expect("Close", link, noLinks, undefined).silent = true;
      session.out.send(link, before);
    }
    if (kind === "Describe") observe(this.#session, links, "D message");
    const isUnknown = kind === "Execute" && subject === undefined;
    session.replies.expect(kind, link, links, isUnknown ? UNKNOWN : subject);
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

  /** What follows is refused, unless what is under way ends the transaction. */
  get #hasFailed(): boolean {
    return this.#session.replies.status() === FAILED && this.#session.router.failed;
  }

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
    observe(this.#session, this.#one(link), "COMMIT");
    out.send(link, commitMessage);
  }

  // ---------------------------------------------------------------- answers

  settled(owed: Owed): void {
    const subject = owed.subject as Prepared | Portal | Close | Asking | typeof UNKNOWN | undefined;
    switch (owed.kind) {
      case "Parse":
        if (!(subject instanceof Prepared)) return;
        if (owed.failed) {
          this.#statements.notParsed(subject, owed.links, owed.skipped);
          if (subject.exists) subject.confirmed = true;
        } else {
          subject.previous = undefined;
          subject.confirmed = true;
        }
        return;
      case "Close":
        if (!isClose(subject)) return;
        if (owed.failed) this.#statements.notClosed(subject.statement);
        else {
          this.#statements.closed(subject.name, subject.serial);
          this.#session.router.session.prepared.delete(subject.name);
        }
        return;
      case "Execute":
        if (owed.failed || subject === undefined) return;
        if (subject === UNKNOWN) this.#session.noteWrite(owed);
        else if (subject instanceof Prepared) {
          subject.definitions = subject.sentUnder;
          if (subject.facts.statement.kind === "transaction") this.#noteRevived(owed.links);
          if (endsTransaction(subject.facts) || isTwoPhase(subject.facts)) {
            this.#session.cache?.takeUnseen(); // it was that transaction's
          }
          this.#session.noteDone(owed, subject.facts);
          if (subject === this.#lateBegin) this.#session.noteWrite(owed);
        } else if (isAsking(subject)) subject.answered();
        return;
      case "Bind":
      case "Describe":
      case "Sync":
      case "Query":
      case "FunctionCall":
        return;
    }
  }

  /** Only what ends a failed transaction succeeds in it; the next ReadyForQuery tells what came of it. */
  #noteRevived(links: readonly NodeLink[]): void {
    for (const link of links) {
      if (link.status === FAILED && !link.skipping) link.status = IN_TRANSACTION;
    }
  }

  /** An error in a segment: the server ignores what follows until Sync, and so do we. */
  failed(owed: Owed, link: NodeLink): void {
    if (owed.kind === "Query" || owed.kind === "FunctionCall" || owed.kind === "Sync") return;
    const { subject } = owed;
    if (isAsking(subject)) this.questions.failed(link, subject);
    for (let i = 0; i < link.queue.size; i++) {
      const later = link.queue.at(i);
      if (later?.kind !== "Sync" || later.voided) continue;
      if (later.subject === AWAITED) {
        later.silent = false;
        this.#session.dropStalled();
      }
      return;
    }
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
    if (facts.cursor !== undefined && declares(facts)) this.#cursors.add(facts.cursor);
    if (mayClosePortals(facts)) for (const portal of this.#portals.values()) portal.segment = 0;
    if (
      statement.kind === "discard" &&
      (statement.target === "all" || statement.target === "plans")
    ) {
      if (statement.target !== "all") return;
      this.#statements.clearNamed();
      this.#portals.clear();
      this.#cursors.clear();
      this.#own = undefined;
      return;
    }
    if (statement.kind !== "deallocate" || facts.multiStatement) return;
    this.#own?.deallocate(statement.name);
    if (statement.name === undefined) this.#statements.clearNamed();
    else this.#statements.delete(statement.name);
  }

  /** What a DEALLOCATE names and no server knows, since pgpool answers it itself. */
  ownDeallocated({ statement, multiStatement }: StatementFacts): string | undefined {
    if (statement.kind !== "deallocate" || multiStatement) return undefined;
    const { name } = statement;
    return name !== undefined && this.#own?.has("S", name) ? name : undefined;
  }

  // ---------------------------------------------------------------- what pgpool answers itself

  /** Made when the first is parsed: hardly any session has one. */
  #own: OwnStatements | undefined;

  #parseOwn(name: string, facts: StatementFacts, sql: string): boolean {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    if (session.replies.status() === FAILED) return this.refuse(transactionFailed);
    const taken = name !== "" && (this.#statements.get(name) ?? this.#own?.nameIsTaken(name));
    if (taken) return this.refuse(alreadyPrepared(name));
    this.#statements.delete(name);
    this.#own ??= new OwnStatements((each) => session.explain(each, "extended"));
    const deallocated = this.ownDeallocated(facts);
    if (deallocated === undefined) this.#own.prepare(name, explainedBy(facts) ?? "");
    else this.#own.prepareDeallocate(name, deallocated);
    session.ports.noteStatement(sql);
    session.replies.toClient(parseComplete);
    return true;
  }

  /** A message about such a statement: answered in its turn, when nothing is owed. */
  #toOwn(own: OwnStatements, bytes: Uint8Array, at: number, end: number): boolean {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    const frame = frameOf(bytes.slice(at, end));
    if (frame.type !== FRONTEND.Close && session.replies.status() === FAILED) {
      return this.refuse(transactionFailed);
    }
    const answer = own.answer(frame);
    switch (answer.kind) {
      case "wait":
        return false;
      case "error":
        return this.refuse(answer.response);
      case "broken":
        return session.violation(answer.why);
      case "done":
        if (answer.bound !== undefined) this.#portals.delete(answer.bound);
        session.replies.toClient(answer.bytes);
        return true;
    }
  }

  /** An error of our own: what the segment has done on nodes, in the same transaction, is undone. */
  refuse(error: Uint8Array): boolean {
    const session = this.#session;
    if (!session.replies.empty) return session.waitDrained();
    session.replies.toClient(error);
    session.discarding = true;
    for (const link of this.#openLinks()) if (!link.skipping) this.failTransaction(link);
    if (session.inTransaction && !session.writeLink.skipping) {
      session.router.noteError("elsewhere", true);
      this.failTransaction(session.writeLink);
    }
    return true;
  }
}

const isClose = (subject: unknown): subject is Close =>
  typeof subject === "object" && subject !== null && "kind" in subject && subject.kind === "close";

/** The Parse of a transaction's beginning as a standby accepts it (spec load-balance.md 3.6). */
function otherParse(name: string, facts: StatementFacts): Uint8Array | undefined {
  const sql = otherNodesSql(facts);
  if (sql === undefined) return undefined;
  return encodeFrontend({ kind: "Parse", statement: name, sql, parameterTypes: [] });
}

const noLinks: readonly NodeLink[] = [];

function observe({ observer }: Desk, links: readonly NodeLink[], statement: string): void {
  if (observer !== undefined) for (const link of links) observer.toNode(link.id, statement);
}
