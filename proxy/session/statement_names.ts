/**
 * Which nodes know which prepared statement, whether Parse made it or SQL's PREPARE, and how the
 * write node learns of one that it is to execute, and the others of one that it has forgotten
 * (spec routing/extended-protocol.md).
 */
import type { NodeId } from "../../core/cluster/state.ts";
import { changesByCallsToo } from "../../core/sql/cache_facts.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import type { Protocol } from "../routing/route.ts";
import type { Parsed } from "../routing/session_routing.ts";
import type { Desk } from "./desk.ts";
import { mayExecute, mayUseName, mayUseNames } from "./effects.ts";
import { syncMessage } from "./own_messages.ts";
import { AWAITED, type Questions } from "./questions.ts";
import type { NodeLink, Owed } from "./replies.ts";
import type { Prepared, PreparedNames } from "./statements.ts";

const noLinks: readonly NodeLink[] = [];

export class StatementNames {
  readonly #session: Desk;
  readonly #statements: PreparedNames;
  readonly #questions: Questions;
  /** Repeats its Parse on this node. */
  readonly #prepareOn: (link: NodeLink, statement: Prepared) => void;

  constructor(
    session: Desk,
    statements: PreparedNames,
    questions: Questions,
    prepareOn: (link: NodeLink, statement: Prepared) => void,
  ) {
    this.#session = session;
    this.#statements = statements;
    this.#questions = questions;
    this.#prepareOn = prepareOn;
  }

  /** The statement of this name, for SQL's EXECUTE and DEALLOCATE. */
  parsed(name: string): Parsed | undefined {
    const statement = name === "" ? undefined : this.#statements.get(name);
    if (statement === undefined || statement.on.length === 0) return undefined;
    const { facts } = statement;
    return {
      nodes: this.#nodesOf(statement),
      reads: facts.destination === "either",
      readTables: facts.maybeTemporary,
      changedTables: facts.changedTables,
      inserts: facts.inserts,
      added: statement.added,
      changes: changesByCallsToo(facts.cache),
      usesNames: mayUseNames(facts, statement.sql),
    };
  }

  /** Nodes that have the statement which was named last. */
  lastParsedOn(): readonly NodeId[] {
    const { last } = this.#statements;
    return last === undefined ? [] : this.#nodesOf(last);
  }

  #nodesOf({ on }: Prepared): NodeId[] {
    const { links } = this.#session.replies;
    const known = on.filter((link) => links[link.id] === link);
    return known.map(({ id }) => id).sort((a, b) => a - b);
  }

  /** What SQL's PREPARE has made is bound on the write node: false while it cannot be taken there. */
  carriedBySql(name: string): boolean {
    const { router, replies, writeLink } = this.#session;
    if (name === "" || this.#statements.get(name) !== undefined) return true;
    const known = router.session.prepared.get(name);
    if (known === undefined || known.nodes.includes(writeLink.id)) return true;
    if (router.failed || !replies.empty) return false;
    if (!this.#session.mayFollow(this.#write(), writeLink)) return false;
    this.#prepareBySql(name, known.sql);
    writeLink.inSegment = true;
    return true;
  }

  /** Where SQL's PREPARE has made a statement of this name. */
  preparedBySql(name: string): readonly NodeLink[] | undefined {
    if (name === "") return undefined;
    const nodes = this.#session.router.session.prepared.get(name)?.nodes;
    return nodes && this.#session.linksOf(nodes);
  }

  /**
   * The write node is to be sent this: what it executes and is prepared elsewhere is prepared there
   * too. False when answers must be waited for first.
   */
  carry(facts: StatementFacts, sql: string, protocol: Protocol): boolean {
    const { replies, out, writeLink, router } = this.#session;
    if (!mayUseNames(facts, sql)) return true;
    const missing = this.#missing(facts, sql);
    const executed = router.failed ? [] : missing.filter((name) => mayExecute(facts, name));
    const undone = missing.filter((name) => !mayExecute(facts, name));
    if (executed.length + undone.length === 0) return true;
    if (!replies.empty || !this.#session.mayFollow(this.#write(), writeLink)) return false;
    const inSegment = protocol === "extended" || writeLink.inSegment;
    const waits = executed.length > 0 && !inSegment;
    for (const name of executed) this.#prepareHere(name);
    if (!waits) for (const name of undone) this.#holdPlace(name);
    if (inSegment) {
      writeLink.inSegment = true;
      return true;
    }
    replies.expect("Sync", writeLink, noLinks, waits ? AWAITED : undefined).silent = true;
    out.send(writeLink, syncMessage);
    return !waits;
  }

  /** What this may use and the write node does not know; what is executed by others comes first. */
  #missing(facts: StatementFacts, sql: string): readonly string[] {
    const { router, writeLink } = this.#session;
    const missing: string[] = [];
    const uses = [{ facts, sql }, ...this.executedBy(facts)];
    const isUsed = (name: string) => uses.some((each) => mayUseName(each.facts, each.sql, name));
    for (const [name, { nodes }] of router.session.prepared) {
      if (!nodes.includes(writeLink.id) && isUsed(name)) missing.push(name);
    }
    for (const { name, on } of this.#statements.values()) {
      if (name !== "" && !on.includes(writeLink) && isUsed(name)) missing.push(name);
    }
    return missing;
  }

  /** What SQL's EXECUTE runs: Parse may have made anything, another EXECUTE too. */
  executedBy({ statement }: StatementFacts): readonly Prepared[] {
    const found: Prepared[] = [];
    let executes = statement;
    while (executes.kind === "execute") {
      const next = this.#statements.get(executes.name);
      if (next === undefined || found.includes(next)) break;
      found.push(next);
      executes = next.facts.statement;
    }
    return found;
  }

  #prepareHere(name: string): void {
    const { writeLink, router } = this.#session;
    const statement = this.#statements.get(name);
    if (statement !== undefined) this.#prepareOn(writeLink, statement);
    else this.#prepareBySql(name, router.session.prepared.get(name)?.sql ?? "");
  }

  /** DEALLOCATE finds something of this name, which a search_path cannot make invalid. */
  #holdPlace(name: string): void {
    const { replies, out, writeLink } = this.#session;
    replies.expect("Parse", writeLink, noLinks, undefined).silent = true;
    out.send(
      writeLink,
      encodeFrontend({ kind: "Parse", statement: name, sql: "", parameterTypes: [] }),
    );
  }

  /** What SQL's PREPARE made. */
  #prepareBySql(name: string, sql: string): void {
    const { router, writeLink } = this.#session;
    this.#questions.run(writeLink, sql, () => router.alsoPrepared(name, writeLink.id));
  }

  /** What DEALLOCATE has undone on the nodes that it went to the others forget too. */
  noteForgotten(facts: StatementFacts, { completed, links }: Owed): void {
    const { statement, multiStatement, deallocates, deallocatesAfter } = facts;
    if (statement.kind === "deallocate" && !multiStatement) {
      if (completed > 0) this.#forget(statement.name ?? "", links);
      return;
    }
    for (const [index, name] of deallocates.entries()) {
      if (completed < (deallocatesAfter[index] ?? 0)) this.#leavePlace(name);
      else this.#forget(name, links);
    }
  }

  /** DEALLOCATE was not reached. */
  #leavePlace(name: string): void {
    const { writeLink } = this.#session;
    const on = this.#linksKnowing(name);
    if (on.length > 0 && !on.includes(writeLink)) this.#forgetOn(writeLink, name);
  }

  /** `name`: "" for all; `done`: where it is forgotten already. */
  #forget(name: string, done: readonly NodeLink[]): void {
    for (const each of name === "" ? this.#namesKnown() : [name]) {
      for (const link of this.#linksKnowing(each)) {
        if (!done.includes(link)) this.#forgetOn(link, each);
      }
      this.#statements.delete(each);
      this.#session.router.session.prepared.delete(each);
    }
  }

  #namesKnown(): readonly string[] {
    const parsed = [...this.#statements.values()].map(({ name }) => name);
    return [
      ...parsed.filter((name) => name !== ""),
      ...this.#session.router.session.prepared.keys(),
    ];
  }

  #linksKnowing(name: string): readonly NodeLink[] {
    const { links } = this.#session.replies;
    const on = this.#statements.get(name)?.on ?? noLinks;
    const nodes = this.#session.router.session.prepared.get(name)?.nodes;
    return links.filter(
      (link) => link && (on.includes(link) || nodes?.includes(link.id)),
    ) as NodeLink[];
  }

  #forgetOn(link: NodeLink, name: string): void {
    const { replies, out } = this.#session;
    replies.expect("Close", link, noLinks, undefined).silent = true;
    out.send(link, encodeFrontend({ kind: "Close", target: "S", name }));
    if (link.inSegment) return;
    replies.expect("Sync", link, noLinks, undefined).silent = true;
    out.send(link, syncMessage);
  }

  #write(): readonly NodeLink[] {
    return this.#session.linksOf([this.#session.writeLink.id]);
  }
}
