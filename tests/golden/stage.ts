/**
 * A session on a stage: real routing and real parsing, but clients and servers are lists of frames.
 * Whoever directs says which server works when, and in which pieces what it said arrives.
 */

import {
  type ClusteringMode,
  type ClusterState,
  type NodeId,
  type NodeStatus,
  nodeId,
  replicates,
} from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import { commandComplete, parameterStatus } from "../../core/wire/backend.ts";
import type { QueryCache } from "../../proxy/cache/query_cache.ts";
import { RelationCache } from "../../proxy/cache/relcache.ts";
import { StatementParser } from "../../proxy/parser.ts";
import type {
  ClientSession,
  ReplicationPorts,
  SessionEnd,
  SessionPorts,
} from "../../proxy/session/desk.ts";
import { ReplicatedSession } from "../../proxy/session/replicated.ts";
import type { ByteSink, NodeLink } from "../../proxy/session/replies.ts";
import { SessionRouter } from "../../proxy/session/router.ts";
import { Session } from "../../proxy/session/session.ts";
import type { CacheWorld } from "../../proxy/session/session_cache.ts";
import { SnapshotGate } from "../../proxy/snapshots.ts";
import { clusterOf, configOf, rulesOf, type Settings, trackingOf } from "../proxy/routing/rules.ts";
import { ModelPostgres } from "./model_postgres.ts";
import { ModelStore } from "./model_sql.ts";

/** One for all tests: it is told nothing that another could see. */
export const parser = await StatementParser.load();

export class StageSink implements ByteSink {
  readonly #onSend: (bytes: Uint8Array) => void;
  /** The peer reads slowly: each send says so. */
  full = false;
  paused = false;
  #sends = 0;

  constructor(onSend: (bytes: Uint8Array) => void) {
    this.#onSend = onSend;
  }

  send(bytes: Uint8Array): boolean {
    if (this.#sends++ > 10_000) throw new Error("the session never stops talking");
    this.#onSend(bytes);
    return !this.full;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }
}

export class StageNode {
  readonly id: number;
  readonly server: ModelPostgres;
  readonly sink: StageSink;
  readonly link: NodeLink;
  /** Said by the server, not yet received by the session. */
  #wire: Uint8Array = new Uint8Array(0);
  gone = false;

  constructor(id: number, server: ModelPostgres, sink: StageSink, link: NodeLink) {
    this.id = id;
    this.server = server;
    this.sink = sink;
    this.link = link;
  }

  get idle(): boolean {
    return this.server.pending === 0 && this.#wire.length === 0;
  }

  get sayable(): number {
    return this.#wire.length;
  }

  /** Works off up to `messages` messages; what is said waits on the wire. */
  work(messages?: number): void {
    for (const message of this.server.run(messages)) this.put(message);
  }

  put(message: Uint8Array): void {
    this.#wire = concat([this.#wire, message]);
  }

  /** Up to `size` bytes from the wire. */
  take(size = Number.POSITIVE_INFINITY): Uint8Array {
    const taken = this.#wire.slice(0, size);
    this.#wire = this.#wire.slice(taken.length);
    return taken;
  }
}

export type StageOptions = {
  readonly nodes: number;
  readonly settings?: Settings;
  /** Default: streaming_replication. */
  readonly mode?: ClusteringMode;
  readonly random?: Random;
  /** With the query cache. */
  readonly cache?: QueryCache | undefined;
  /** Which node's backend has this process id. */
  readonly nodeOfPid?: (pid: number) => NodeId | undefined;
  /** Told of everything that leaves the session, in order. */
  readonly onNode?: (node: number, bytes: Uint8Array) => void;
  readonly onClient?: (bytes: Uint8Array) => void;
};

function worldOf({ cache }: StageOptions): CacheWorld | undefined {
  return cache && { cache, database: "db", pidOf: () => 0, majorOf: () => 15, noteHit: () => {} };
}

export class Stage {
  readonly session: ClientSession;
  readonly router: SessionRouter;
  readonly nodes: StageNode[];
  readonly client: StageSink;
  /** What they hold together, where the standbys have what the primary has. */
  get store(): ModelStore {
    return this.stores[0] as ModelStore;
  }
  /** What each server holds. */
  readonly stores: readonly ModelStore[];
  /** All that the client has been sent. */
  readonly #seen: Uint8Array[] = [];
  readonly dropped: string[] = [];
  /** What else the session has told, in order. */
  readonly noted: string[] = [];
  readonly #tasks: (() => void)[] = [];
  readonly #onNode: StageOptions["onNode"];
  readonly parameters: string[] = [];
  ended: SessionEnd | undefined;
  /** The session has said that it waits for a node that takes writes. */
  homeless = false;
  /** Servers that have said goodbye, and it is not clear to whom. */
  readonly judging: NodeLink[] = [];
  state: ClusterState;

  constructor(options: StageOptions) {
    const { nodes, settings = {}, random = () => 0.5, mode = "streaming_replication" } = options;
    const store = new ModelStore();
    const ours = replicates({ mode });
    this.stores = Array.from({ length: nodes }, () => (ours ? new ModelStore() : store));
    // All reading weight is on the standbys.
    const weights = Array.from({ length: nodes }, (_, id) => ({
      weight: nodes === 1 ? 1 : id === 0 ? 0 : 1,
    }));
    this.state = clusterOf(weights, ours ? { mode, primary: undefined } : { mode });
    const rules = rulesOf(settings, nodes);
    const relcache = new RelationCache({ sizeMax: 100, expireMs: 0, clock: () => 0 });
    const stage = this;
    const engine = {
      parser,
      rules,
      relcache,
      writes: trackingOf(() => 0),
      nodeOfPid: options.nodeOfPid ?? (() => undefined),
      random,
      get state() {
        return stage.state;
      },
    };
    const ids = weights.map((_, id) => nodeId(id));
    this.router = new SessionRouter({
      engine,
      user: "alice",
      database: "db",
      applicationName: "",
      nodes: ids,
      reset: false,
    });
    this.client = new StageSink((bytes) => {
      this.#seen.push(bytes.slice());
      options.onClient?.(bytes);
    });
    this.#onNode = options.onNode;
    const servers = ids.map((id) => this.#serverOf(id));
    const sinks = servers.map((server, id) => this.#sinkOf(id, server));
    const seats = ids.map((id) => ({ id, sink: sinks[id] as StageSink }));
    const given = { ports: this.#ports(), router: this.router, nodes: seats };
    const replication = this.#replicationPorts(settings, nodes, mode);
    const parameters = new Map([["application_name", parameterStatus("application_name", "")]]);
    this.session = ours
      ? new ReplicatedSession({ ...given, replication, parameters })
      : new Session({
          ...given,
          writeNode: nodeId(0),
          transparent: false,
          cache: worldOf(options),
        });
    this.nodes = ids.map((id) => {
      const link = this.session.links[id] as NodeLink;
      return new StageNode(id, servers[id] as ModelPostgres, sinks[id] as StageSink, link);
    });
  }

  #serverOf(id: number): ModelPostgres {
    const standby = id > 0 && !replicates(this.state);
    const store = this.stores[id] as ModelStore;
    return new ModelPostgres({ store, standby, processId: id + 1 });
  }

  #sinkOf(id: number, server: ModelPostgres): StageSink {
    return new StageSink((bytes) => {
      server.feed(bytes);
      this.#onNode?.(id, bytes);
    });
  }

  /** The session is given a new connection to a node that was lost, and that takes writes now. */
  renew(id: number): void {
    this.setStatus(id, "up");
    this.state = { ...this.state, primary: nodeId(id), ongoing: undefined };
    const server = this.#serverOf(id);
    server.sql.readOnly = false;
    const sink = this.#sinkOf(id, server);
    this.nodes[id] = new StageNode(id, server, sink, this.session.adopt(nodeId(id), sink));
    this.session.nodesChanged();
  }

  /** What the client has been sent so far, as one stream. */
  get seen(): Uint8Array {
    return concat(this.#seen);
  }

  /** The client says this, in pieces of `size` bytes. */
  say(bytes: Uint8Array, size = bytes.length): void {
    for (let at = 0; at < bytes.length; at += size) {
      this.session.fromClient(bytes.slice(at, at + size));
    }
  }

  /** A node works off `messages` messages and all of its words arrive, in pieces of `size` bytes. */
  hear(node: StageNode, messages?: number, size?: number): void {
    node.work(messages);
    while (node.sayable > 0) this.arrive(node, size);
  }

  /** Up to `size` bytes of what the node has said arrive. */
  arrive(node: StageNode, size?: number): void {
    const bytes = node.take(size);
    if (bytes.length > 0 && !node.gone) this.session.fromNode(node.link, bytes);
  }

  /** Every node works and is heard, unless it is paused, until nobody has anything to say. */
  settle(): void {
    let busy = true;
    for (let round = 0; busy; round++) {
      if (round > 10_000) throw new Error("the nodes are never done");
      busy = this.#tasks.length > 0;
      this.runTasks();
      for (const node of this.nodes) {
        if (node.gone || node.idle || node.sink.paused) continue;
        busy = true;
        this.hear(node);
      }
    }
  }

  /** What the session has put off until the present chunk was dealt with. */
  runTasks(): void {
    for (let task = this.#tasks.shift(); task !== undefined; task = this.#tasks.shift()) task();
  }

  /** The control plane has taken a node in or out; the session has not heard of it. */
  setStatus(id: number, status: NodeStatus): void {
    const nodes = this.state.nodes.map((each) => (each.id === id ? { ...each, status } : each));
    this.state = { ...this.state, nodes };
  }

  /** The control plane has noticed who is gone, and looks for a primary. */
  failOver(): void {
    this.state = { ...this.state, nodes: this.#seenNodes(), ongoing: "failover" };
    this.session.nodesChanged();
  }

  #seenNodes(): ClusterState["nodes"] {
    return this.state.nodes.map((each) => {
      const status = this.nodes[each.id]?.gone ? ("down" as const) : each.status;
      return { ...each, status };
    });
  }

  /** The control plane has made a node the primary; those that are gone are down. */
  promote(node: StageNode): void {
    const nodes = this.#seenNodes();
    this.state = { ...this.state, nodes, primary: nodeId(node.id), ongoing: undefined };
    node.server.sql.readOnly = false;
    this.session.nodesChanged();
  }

  /** The client begins or ends to read slowly. */
  clientFull(full: boolean): void {
    this.client.full = full;
    if (!full) this.session.clientDrained();
  }

  nodeFull(node: StageNode, full: boolean): void {
    node.sink.full = full;
    if (!full) this.session.nodeDrained();
  }

  #replicationPorts(settings: Settings, nodes: number, mode: ClusteringMode): ReplicationPorts {
    const { config } = configOf({ ...settings, backend_clustering_mode: mode }, nodes);
    const gate = new SnapshotGate();
    return {
      settings: () => config,
      warn: (message) => this.noted.push(message),
      cancel: async (link) => void this.noted.push(`node ${link.id} is to cancel`),
      lost: (link) => {
        this.judging.push(link);
        this.noted.push(`node ${link.id} is lost`);
      },
      enter: (errand) => gate.enter(errand),
      leave: (turn) => gate.leave(turn),
    };
  }

  #ports(): SessionPorts {
    const stage = this;
    return {
      get client() {
        return stage.client;
      },
      ended: (end) => {
        this.ended = end;
      },
      dropped: (link, why) => {
        this.dropped.push(`${link.id}: ${why}`);
        const node = this.nodes[link.id];
        if (node !== undefined) node.gone = true;
      },
      parameterStatus: (link, frame) => {
        this.parameters.push(`${link.id}: ${Buffer.from(frame.subarray(5)).toString("latin1")}`);
      },
      answer: (sql) => commandComplete(`ANSWER ${sql}`),
      noteStatement: () => {},
      noteUnparsable: () => {},
      noteNodeStatement: () => {},
      noteError: () => {},
      soon: (task) => this.#tasks.push(task),
      saidGoodbye: (link) => {
        this.judging.push(link);
        this.noted.push(`node ${link.id} has said goodbye`);
      },
      writeNodeNeeded: () => {
        this.homeless = true;
        this.noted.push("waits for a node that takes writes");
      },
      disagreed: async (links, why) => {
        this.noted.push(`nodes ${links.map(({ id }) => id)} disagree: ${why}`);
        return false;
      },
      writeNodeMoved: (from, to) => {
        this.homeless = false;
        this.noted.push(`writes move from ${from.id} to ${to.id}`);
      },
    };
  }
}

export function concat(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
