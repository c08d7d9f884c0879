/**
 * Routing as one session uses it: the decisions of proxy/routing with this client's memory, the
 * engine's latest snapshot of cluster and rules, and what the catalog caches know.
 */
import { type ClusterState, type NodeId, writeNode } from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { RelationCache, SessionCatalog } from "../cache/relcache.ts";
import type { StatementParser } from "../parser.ts";
import { chooseLoadBalanceNode } from "../routing/balance.ts";
import type { CatalogQuestion } from "../routing/catalog_lookups.ts";
import { decideRoute, type Protocol } from "../routing/route.ts";
import type { Route } from "../routing/routes.ts";
import type { RoutingRules } from "../routing/rules.ts";
import {
  noteError,
  noteIsolation,
  noteReady,
  noteSent,
  noteSuccess,
  RoutingSession,
  type TransactionStatus,
} from "../routing/session_routing.ts";

/** What the engine gives every session's routing; read anew for each decision. */
export interface RoutingEngine {
  readonly parser: StatementParser;
  readonly state: ClusterState;
  readonly rules: RoutingRules;
  readonly relcache: RelationCache;
  readonly random: Random;
}

export class SessionRouter {
  readonly #engine: RoutingEngine;
  readonly session: RoutingSession;
  readonly #catalog: SessionCatalog;

  constructor(options: {
    readonly engine: RoutingEngine;
    readonly user: string;
    readonly database: string;
    readonly applicationName: string;
    /** Nodes to which the session has a connection. */
    readonly nodes: readonly NodeId[];
    /** Whoever used the connections before has left no temporary tables on them. */
    readonly reset?: boolean;
  }) {
    this.#engine = options.engine;
    this.#state = options.engine.state;
    this.session = new RoutingSession(options);
    this.#catalog = options.engine.relcache.session(options.database);
    for (const { id } of options.engine.state.nodes) {
      if (!options.nodes.includes(id)) this.session.lostNodes.add(id);
    }
    const { state, rules, random } = options.engine;
    if (state.mode !== "raw") {
      this.session.loadBalanceNode = chooseLoadBalanceNode(this.session, state, rules, random);
    }
    this.#catalog.temporariesPossible = options.reset !== true;
  }

  /** Rules of this client's own, after PGPOOL SET; undefined for everybody's. */
  useRules(rules: RoutingRules | undefined): void {
    this.#ownRules = rules;
  }
  #ownRules: RoutingRules | undefined;

  get #rules(): RoutingRules {
    return this.#ownRules ?? this.#engine.rules;
  }

  get loadBalanceNode(): NodeId | undefined {
    return this.session.loadBalanceNode;
  }

  get failed(): boolean {
    return this.session.failed;
  }

  /** Where writes go now: it may have moved since the session began. */
  get writeNode(): NodeId | undefined {
    return writeNode(this.#engine.state);
  }

  /** standard_conforming_strings of the write node: off, a backslash in a string means something. */
  standardStrings = true;

  facts(sql: string): StatementFacts {
    return this.#engine.parser.facts(sql, this.standardStrings);
  }

  decide(facts: StatementFacts, sql: string, protocol: Protocol): Route {
    const { random } = this.#engine;
    const cluster = this.#cluster();
    const view = { cluster, rules: this.#rules, random, catalog: this.#catalog };
    const route = this.#whereTaken(facts) ?? decideRoute(facts, sql, protocol, this.session, view);
    if (this.#asked && route.kind !== "ask") {
      this.#asked = false;
      this.#catalog.decided();
    }
    return route;
  }
  #asked = false;

  /** PREPARE of a name that is taken goes where it is, for PostgreSQL to say so. */
  #whereTaken({ statement }: StatementFacts): Route | undefined {
    if (statement.kind !== "prepare" || this.session.failed) return undefined;
    const nodes = this.session.prepared.get(statement.name)?.nodes;
    const first = nodes?.[0];
    if (nodes === undefined || first === undefined) return undefined;
    const primary = writeNode(this.#state);
    const main = primary !== undefined && nodes.includes(primary) ? primary : first;
    return this.#rules.routes.several(nodes, main, "prepared_statement");
  }

  /** A transaction ends where it began, even when writes have moved to another node meanwhile. */
  #cluster(): ClusterState {
    const { state } = this.#engine;
    const began = this.#state;
    if (state !== began && this.session.status !== "I" && writeNode(state) !== writeNode(began)) {
      return began;
    }
    this.#state = state;
    return state;
  }
  #state: ClusterState;

  noteSent(facts: StatementFacts): void {
    if (mayCreateTemporary(facts)) this.#catalog.temporariesPossible = true;
    noteSent(this.session, facts, this.#rules);
  }

  noteReady(status: TransactionStatus): void {
    noteReady(this.session, status);
    // Also of what each statement, its own transaction, has changed in a pipeline.
    if (status === "I") this.#catalog.transactionEnded();
  }

  /** After an error there is no transaction: what failed was over before, within the same messages. */
  noteOver(): void {
    this.session.failed = false;
    this.session.wasInTransaction = false;
  }

  noteDone(facts: StatementFacts, nodes: readonly NodeId[]): void {
    noteSuccess(this.session, facts, this.#rules, this.#catalog, nodes);
    this.#catalog.noteSuccess(facts, this.session.status !== "I");
  }

  noteError(inTransaction: boolean): void {
    noteError(this.session, inTransaction);
  }

  lost(node: NodeId): void {
    this.session.lostNodes.add(node);
    if (this.session.loadBalanceNode === node) this.session.loadBalanceNode = undefined;
  }

  /** One statement that answers all questions in one row. */
  questionSql(questions: readonly CatalogQuestion[]): string {
    this.#asked = true;
    return this.#catalog.ask(questions);
  }

  /** `row` is the one that came back; undefined when asking failed. */
  answered(
    questions: readonly CatalogQuestion[],
    row: readonly (string | null)[] | undefined,
  ): void {
    if (row === undefined) return;
    const asked = questions.findIndex(({ kind }) => kind === "isolation");
    const isolation = asked < 0 ? undefined : row[asked];
    if (isolation) noteIsolation(this.session, isolation);
    this.#catalog.answer(questions, row, this.#snapshotIsOld());
  }

  /** Above READ COMMITTED a transaction may not see what others have committed since it began. */
  #snapshotIsOld(): boolean {
    const { status, isolation } = this.session;
    return status !== "I" && isolation !== "read_committed";
  }
}

/** Statements after which the session may have temporary tables: all but the surely harmless. */
function mayCreateTemporary(facts: StatementFacts): boolean {
  if (facts.multiStatement) return true;
  switch (facts.statement.kind) {
    case "select":
      return facts.calledFunctions.length > 0 || facts.destination === "primary";
    case "explain":
      return facts.statement.analyze;
    case "empty":
    case "pgpool":
    case "show":
    case "transaction":
    case "set":
    case "discard":
    case "deallocate":
    case "listen":
      return false;
    case "unparsable":
    case "write":
    case "copy":
    case "prepare":
    case "execute":
    case "create_temp_table":
    case "drop_table":
    case "other":
      return true;
  }
}

export type { CatalogQuestion, Route };
