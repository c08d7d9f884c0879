/**
 * Routing as one session uses it: the decisions of proxy/routing with this client's memory, the
 * engine's latest snapshot of cluster and rules, and what the catalog caches know.
 */
import type { RouteExplanation } from "../../core/admin/show_route.ts";
import {
  type ClusterState,
  type NodeId,
  roleOf,
  settledWriteNode,
  writeNode,
} from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import { READ_AS_WRITTEN, type StatementFacts } from "../../core/sql/facts.ts";
import { type InsertLock, insertLockOf } from "../../core/sql/insert_lock.ts";
import {
  needsRewriting,
  type RewriteContext,
  type Rewriting,
  withLiterals,
} from "../../core/sql/rewrite.ts";
import type { TableColumns } from "../../core/sql/table_columns.ts";
import type { RecentWrites } from "../cache/recent_writes.ts";
import type { RelationCache, SessionCatalog } from "../cache/relcache.ts";
import type { StatementParser } from "../parser.ts";
import { chooseLoadBalanceNode } from "../routing/balance.ts";
import type { CatalogQuestion } from "../routing/catalog_lookups.ts";
import { explainRoute, RecordedLookups } from "../routing/explain.ts";
import type { RecentlyWritten } from "../routing/recently_written.ts";
import { decideRoute, type Protocol } from "../routing/route.ts";
import type { Route } from "../routing/routes.ts";
import type { RoutingRules } from "../routing/rules.ts";
import {
  noteError,
  noteIsolation,
  noteReady,
  noteSent,
  noteSuccess,
  type Parsed,
  RoutingSession,
  type SqlPrepared,
  type TransactionStatus,
  takeCommitted,
} from "../routing/session_routing.ts";

/** What the engine gives every session's routing; read anew for each decision. */
export interface RoutingEngine {
  readonly parser: StatementParser;
  readonly state: ClusterState;
  readonly rules: RoutingRules;
  readonly relcache: RelationCache;
  readonly writes: RecentWrites;
  readonly random: Random;
  /** The node on which this process serves one of our clients, or will serve the next. */
  nodeOfPid(pid: number): NodeId | undefined;
}

/** A route that is not taken, with its explanation; or what must be asked before. */
export type Foreseen =
  | Extract<Route, { kind: "ask" }>
  | {
      readonly kind: "foreseen";
      readonly route: Exclude<Route, { kind: "ask" }>;
      readonly why: RouteExplanation;
    };

const nothing: readonly never[] = [];

export class SessionRouter {
  readonly #engine: RoutingEngine;
  readonly session: RoutingSession;
  readonly #catalog: SessionCatalog;
  readonly #writes: RecentlyWritten;

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
    this.#writes = options.engine.writes.of(options.database);
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

  /** What is known of tables and functions, and of this session's own. */
  get catalog(): SessionCatalog {
    return this.#catalog;
  }

  get loadBalanceNode(): NodeId | undefined {
    return this.session.loadBalanceNode;
  }

  get failed(): boolean {
    return this.session.failed;
  }

  /** The latest snapshot, whatever the session is in the middle of. */
  get cluster(): ClusterState {
    return this.#engine.state;
  }

  /** Where writes go now: it may have moved since the session began. Undefined while that is open. */
  get writeNode(): NodeId | undefined {
    const { state } = this.#engine;
    const settled = settledWriteNode(state);
    if (settled !== undefined) this.#makesDo = false;
    return settled ?? (this.#makesDo ? writeNode(state) : undefined);
  }

  /** standard_conforming_strings of the write node: off, a backslash in a string means something. */
  standardStrings = true;

  facts(sql: string): StatementFacts {
    return this.#engine.parser.facts(sql, this.standardStrings);
  }

  decide(facts: StatementFacts, sql: string, protocol: Protocol): Route {
    const { random } = this.#engine;
    const cluster = this.#cluster();
    const catalog = this.#catalog;
    if (this.#decided) {
      this.#decided = false;
      catalog.decided();
    }
    const view = { cluster, rules: this.#rules, random, catalog, writes: this.#writes };
    const route =
      this.#ahead(facts, protocol) ?? decideRoute(facts, sql, protocol, this.session, view);
    // Also one that a view calls, of which the statement's own text says nothing.
    if (route.kind === "nodes" && route.why === "writing_function") {
      this.#catalog.temporariesPossible = true;
    }
    if (this.#asked && route.kind !== "ask") {
      this.#asked = false;
      this.#decided = true;
    }
    return route;
  }
  #asked = false;
  /** Answers for one decision are still there, for what is asked of the statement after it. */
  #decided = false;

  /**
   * What the statement is to be changed into for several nodes (core/sql/rewrite.ts); undefined is
   * nothing. To be called when its route is known, before the next is decided.
   */
  rewriting(facts: StatementFacts, sql: string): Rewriting | undefined {
    this.session.adding.clear();
    if (!needsRewriting(facts, this.#rewriteContext)) return undefined;
    const rewriting = this.#engine.parser.rewriting(sql, facts, this.#rewriteContext);
    for (const { name, sql } of rewriting === undefined ? [] : facts.prepares) {
      this.session.adding.set(name, this.#preparedAs(sql));
    }
    return rewriting;
  }

  readonly #rewriteContext: RewriteContext = {
    columnsOf: (table) => this.#catalog.columns(table),
    addedTo: (name) => this.#prepared(name)?.added ?? nothing,
  };

  /** A PREPARE as the nodes get it, and what each EXECUTE must add. */
  #preparedAs(sql: string): Pick<SqlPrepared, "text" | "added" | "first"> {
    const rewriting = this.#engine.parser.rewriting(sql, this.facts(sql), this.#rewriteContext);
    const text = rewriting === undefined ? sql : withLiterals(sql, rewriting, nothing);
    const { asked: added = nothing, first = 0 } = rewriting?.prepares[0] ?? {};
    return { text, added, first };
  }

  /**
   * A default that tells the time, and that its table has had since the PREPARE of this name, must be
   * filled in, too: then no node has the statement as it must be.
   */
  renewPrepared(name: string): void {
    const known = this.session.prepared.get(name);
    if (known === undefined) return;
    const filled = known.inserts.map((table) => this.#catalog.columns(table));
    if (filled.includes(undefined) || filled.every((table, i) => table === known.filled[i])) return;
    const renewed = this.#preparedAs(known.sql);
    const nodes = renewed.text === known.text ? known.nodes : nothing;
    this.session.prepared.set(name, { ...known, ...renewed, filled, nodes });
  }

  /** What is known of the tables that it fills: the same objects until their definitions are asked anew. */
  columnsFilled({ fills }: StatementFacts): readonly (TableColumns | undefined)[] {
    return fills.map((table) => this.#catalog.columns(table));
  }

  /**
   * The locks that it needs before it goes to several nodes, in the order in which everybody takes
   * them (core/sql/insert_lock.ts). To be called as `rewriting`.
   */
  insertLocks({ statement, inserts }: StatementFacts, sql: string): readonly InsertLock[] {
    const executed = statement.kind === "execute" ? this.#prepared(statement.name) : undefined;
    const targets = executed?.inserts ?? inserts;
    if (targets.length === 0) return nothing;
    const { insertLock: enabled, readBit } = this.#rules;
    const locks: InsertLock[] = [];
    for (const target of targets) {
      const table = this.#catalog.columns(target);
      if (table === undefined || table.columns.length === 0) continue;
      const trimmed = readBit !== READ_AS_WRITTEN;
      const lock = insertLockOf({ text: sql, trimmed, enabled, table });
      if (lock !== undefined) locks.push(lock);
    }
    return locks.sort((a, b) => (a.table < b.table ? -1 : 1));
  }

  #prepared(name: string): Parsed | undefined {
    return this.session.prepared.get(name) ?? this.session.parsed(name);
  }

  /** What `decide` would say now, and why. Changes nothing; what it asks is asked as for `decide`. */
  foresee(facts: StatementFacts, sql: string, protocol: Protocol): Foreseen {
    const { random } = this.#engine;
    const lookups = new RecordedLookups(this.#catalog);
    const cluster = this.#cluster();
    const view = { cluster, rules: this.#rules, random, catalog: lookups, writes: this.#writes };
    // Reads fall through to the session; what the decision notes stays on top of it.
    const session: RoutingSession = Object.create(this.session);
    const route = this.#ahead(facts, protocol) ?? decideRoute(facts, sql, protocol, session, view);
    if (route.kind === "ask") return route;
    const why = explainRoute(facts, sql, route, session, view, lookups);
    this.#asked = false;
    this.#catalog.decided();
    return { kind: "foreseen", route, why };
  }

  /** Whoever is told of a commit finds it on every node. */
  get nodesAreEqual(): boolean {
    const { mode } = this.#engine.state;
    return mode === "native_replication" || mode === "snapshot_isolation";
  }

  /** The other nodes replay what the write node writes. */
  get replaysWal(): boolean {
    return this.#engine.state.mode === "streaming_replication";
  }

  /** As SHOW pool_nodes calls it. */
  roleOf(node: NodeId): string {
    return roleOf(this.#engine.state, node);
  }

  /** What comes before all rules: where the thing is that the statement is about. */
  #ahead(facts: StatementFacts, protocol: Protocol): Route | undefined {
    if (facts.terminatesPid === undefined) return this.#whereTaken(facts);
    if (protocol === "extended" || facts.multiStatement || this.session.failed) return undefined;
    const node = this.#engine.nodeOfPid(facts.terminatesPid);
    return node === undefined ? undefined : this.#rules.routes.one(node, "backend_pid");
  }

  /** PREPARE of a name that is taken goes where it is, for PostgreSQL to say so. */
  #whereTaken({ statement }: StatementFacts): Route | undefined {
    if (statement.kind !== "prepare" || this.session.failed) return undefined;
    const { name } = statement;
    const nodes = this.session.prepared.get(name)?.nodes ?? this.session.parsed(name)?.nodes;
    const first = nodes?.[0];
    if (nodes === undefined || first === undefined) return undefined;
    const primary = writeNode(this.#state);
    const main = primary !== undefined && nodes.includes(primary) ? primary : first;
    return this.#rules.routes.several(nodes, main, "prepared_statement");
  }

  /**
   * A transaction ends where it began, even when writes have moved to another node meanwhile. While it
   * is open who takes them, statements are meant for the one that did: there they wait.
   */
  #cluster(): ClusterState {
    const { state } = this.#engine;
    const began = this.#state;
    if (state === began) return state;
    const moved = writeNode(state) !== writeNode(began);
    if (moved && (this.session.status !== "I" || this.isBound() || this.#isOpen(state))) {
      return began;
    }
    this.#state = state;
    return state;
  }

  /** The session cannot go over to another node now: what is under way may begin a transaction. */
  isBound: () => boolean = () => false;

  #isOpen(state: ClusterState): boolean {
    return !this.#makesDo && settledWriteNode(state) === undefined;
  }

  /** It has waited long enough: the node that is there has to do, though it may refuse to write. */
  makeDo(): void {
    this.#makesDo = true;
  }
  #makesDo = false;
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
    this.session.failure = "none";
    this.session.wasInTransaction = false;
    this.session.multiStatementTransaction = false;
  }

  noteDone(facts: StatementFacts, nodes: readonly NodeId[]): void {
    const rules = this.#rules;
    const { failed } = this.session;
    noteSuccess(this.session, facts, rules, this.#catalog, nodes);
    if (rules.tracksWrites) {
      const committed = takeCommitted(this.session, facts, rules, failed);
      if (committed.length > 0) this.#engine.writes.record(this.session.database, committed);
    }
    this.#catalog.noteSuccess(facts, this.session.status !== "I");
  }

  /** What PREPARE made elsewhere is made on this node too. */
  alsoPrepared(name: string, node: NodeId): void {
    const { prepared } = this.session;
    const known = prepared.get(name);
    if (known === undefined || known.nodes.includes(node)) return;
    prepared.set(name, { ...known, nodes: [...known.nodes, node].sort((a, b) => a - b) });
  }

  notPrepared(name: string, node: NodeId): void {
    const { prepared } = this.session;
    const known = prepared.get(name);
    if (known === undefined || !known.nodes.includes(node)) return;
    prepared.set(name, { ...known, nodes: known.nodes.filter((id) => id !== node) });
  }

  noteError(where: "write_node" | "elsewhere", inTransaction: boolean): void {
    noteError(this.session, where, inTransaction);
  }

  lost(node: NodeId): void {
    this.session.lostNodes.add(node);
    if (this.session.loadBalanceNode === node) this.session.loadBalanceNode = undefined;
  }

  /** The session has a new connection to a node that it had lost. */
  regained(node: NodeId): void {
    this.session.lostNodes.delete(node);
    for (const name of this.session.prepared.keys()) this.notPrepared(name, node);
  }

  /**
   * The node to ask (relcache_query_target); undefined is the write node. It alone knows what this
   * session's transaction has done, and which temporary tables there are.
   */
  askedNode(questions: readonly CatalogQuestion[]): NodeId | undefined {
    if (!this.#rules.asksReadingNode || !this.#catalog.standbyKnows) return undefined;
    const own = questions.some(({ kind }) => kind !== "relation" && kind !== "volatile");
    return own ? undefined : this.session.loadBalanceNode;
  }

  /**
   * One statement that answers all questions in one row. `mayLook`: the statement that waits for the
   * answer takes a snapshot of the data, and so may this one.
   */
  questionSql(questions: readonly CatalogQuestion[], mayLook = false): string {
    this.#asked = true;
    return this.#catalog.ask(questions, mayLook);
  }

  /** `row` is the one that came back from this node; undefined when asking failed. */
  answered(
    questions: readonly CatalogQuestion[],
    row: readonly (string | null)[] | undefined,
    node: NodeId | undefined = this.writeNode,
  ): void {
    if (row === undefined) return;
    const asked = questions.findIndex(({ kind }) => kind === "isolation");
    const isolation = asked < 0 ? undefined : row[asked];
    if (isolation) noteIsolation(this.session, isolation);
    const standby = node !== this.writeNode;
    this.#catalog.answer(questions, row, { oldSnapshot: this.#snapshotIsOld(), standby });
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
      return facts.reachesUnnamed !== "nothing" || facts.destination === "primary";
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
