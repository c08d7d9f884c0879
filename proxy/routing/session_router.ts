/**
 * Routing as one session uses it: parser, catalog view, rules and cluster joined, with the notes
 * taken at the right moments. Holds no socket and sends nothing.
 */

import type { NodeId } from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { SessionCatalog } from "../cache/relcache.ts";
import type { StatementParser } from "../parser.ts";
import type { CatalogQuestion } from "./catalog_lookups.ts";
import { decideRoute, type Protocol, type RoutingView } from "./route.ts";
import type { Route } from "./routes.ts";
import type { RoutingRules } from "./rules.ts";
import {
  noteError,
  noteIsolation,
  noteReady,
  noteSent,
  noteSuccess,
  type RoutingSession,
  type TransactionStatus,
} from "./session_routing.ts";

const nowhere: readonly NodeId[] = [];

export class SessionRouter {
  readonly session: RoutingSession;
  readonly #parser: StatementParser;
  readonly #catalog: SessionCatalog;
  #view: RoutingView;
  /** Nodes of the last PREPARE sent, by its facts: they are its home once it has succeeded. */
  #preparing: { readonly facts: StatementFacts; readonly nodes: readonly NodeId[] } | undefined;
  #decidedNodes: readonly NodeId[] = nowhere;

  constructor(options: {
    readonly session: RoutingSession;
    readonly parser: StatementParser;
    readonly catalog: SessionCatalog;
    readonly cluster: RoutingView["cluster"];
    readonly rules: RoutingRules;
    readonly random: Random;
  }) {
    this.session = options.session;
    this.#parser = options.parser;
    this.#catalog = options.catalog;
    const { cluster, rules, catalog, random } = options;
    this.#view = { cluster, rules, catalog, random };
  }

  /** A newer cluster snapshot, or rules after a reload: the next decision uses it. */
  update(change: {
    readonly cluster?: RoutingView["cluster"];
    readonly rules?: RoutingRules;
  }): void {
    this.#view = { ...this.#view, ...change };
  }

  get failed(): boolean {
    return this.session.failed && this.session.status !== "I";
  }

  facts(sql: string, standardStrings = true): StatementFacts {
    return this.#parser.facts(sql, standardStrings);
  }

  decide(facts: StatementFacts, sql: string, protocol: Protocol): Route {
    const route = decideRoute(facts, sql, protocol, this.session, this.#view);
    if (route.kind === "ask") return route;
    this.#catalog.decided();
    this.#decidedNodes = route.kind === "nodes" ? route.nodes : nowhere;
    return route;
  }

  /** The statement last decided upon is on its way. */
  noteSent(facts: StatementFacts): void {
    noteSent(this.session, facts, this.#view.rules);
    if (facts.prepares.length > 0) this.#preparing = { facts, nodes: this.#decidedNodes };
  }

  /** ReadyForQuery of the write node: before `noteDone` of the statement that it completes. */
  noteReady(status: TransactionStatus): void {
    noteReady(this.session, status);
    if (status === "I") this.#catalog.transactionEnded();
  }

  noteDone(facts: StatementFacts): void {
    const nodes = this.#preparing?.facts === facts ? this.#preparing.nodes : nowhere;
    if (nodes !== nowhere) this.#preparing = undefined;
    const { rules, catalog } = this.#view;
    noteSuccess(this.session, facts, rules, catalog, nodes);
    const inTransaction = this.session.status !== "I";
    this.#catalog.noteSuccess(facts, inTransaction);
    if (!inTransaction) this.#catalog.transactionEnded();
  }

  /** An error was answered; `inTransaction` as `noteError` of session_routing.ts has it. */
  noteError(inTransaction: boolean): void {
    this.#preparing = undefined;
    noteError(this.session, inTransaction);
  }

  questionSql(questions: readonly CatalogQuestion[]): string {
    return this.#catalog.ask(questions);
  }

  /** The row of text columns that `questionSql` has brought. */
  answered(questions: readonly CatalogQuestion[], row: readonly (string | null)[]): void {
    const { session } = this;
    const index = questions.findIndex((question) => question.kind === "isolation");
    if (index >= 0) noteIsolation(session, row[index] ?? "");
    const snapshotIsOld = session.status !== "I" && session.isolation !== "read_committed";
    this.#catalog.answer(questions, row, snapshotIsOld);
  }
}
