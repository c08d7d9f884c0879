/**
 * A session on a stage: real routing and real parsing, but clients and servers are lists of frames.
 * Whoever directs says which server works when, and in which pieces what it said arrives.
 */

import { type ClusterState, nodeId } from "../../core/cluster/state.ts";
import type { Random } from "../../core/ports.ts";
import { commandComplete } from "../../core/wire/backend.ts";
import { RelationCache } from "../../proxy/cache/relcache.ts";
import { StatementParser } from "../../proxy/parser.ts";
import type { SessionEnd, SessionPorts } from "../../proxy/session/desk.ts";
import type { ByteSink, NodeLink } from "../../proxy/session/replies.ts";
import { SessionRouter } from "../../proxy/session/router.ts";
import { Session } from "../../proxy/session/session.ts";
import { clusterOf, rulesOf, type Settings } from "../proxy/routing/rules.ts";
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
  readonly random?: Random;
  /** Told of everything that leaves the session, in order. */
  readonly onNode?: (node: number, bytes: Uint8Array) => void;
  readonly onClient?: (bytes: Uint8Array) => void;
};

export class Stage {
  readonly session: Session;
  readonly router: SessionRouter;
  readonly nodes: readonly StageNode[];
  readonly client: StageSink;
  readonly store = new ModelStore();
  /** All that the client has been sent. */
  readonly #seen: Uint8Array[] = [];
  readonly dropped: string[] = [];
  readonly parameters: string[] = [];
  ended: SessionEnd | undefined;
  state: ClusterState;

  constructor(options: StageOptions) {
    const { nodes, settings = {}, random = () => 0.5 } = options;
    // All reading weight is on the standbys.
    const weights = Array.from({ length: nodes }, (_, id) => ({
      weight: nodes === 1 ? 1 : id === 0 ? 0 : 1,
    }));
    this.state = clusterOf(weights);
    const rules = rulesOf(settings, nodes);
    const relcache = new RelationCache({ sizeMax: 100, expireMs: 0, clock: () => 0 });
    const stage = this;
    const engine = {
      parser,
      rules,
      relcache,
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
    const servers = ids.map(
      (id) => new ModelPostgres({ store: this.store, standby: id > 0, processId: id + 1 }),
    );
    const sinks = ids.map(
      (id) =>
        new StageSink((bytes) => {
          servers[id]?.feed(bytes);
          options.onNode?.(id, bytes);
        }),
    );
    this.session = new Session({
      ports: this.#ports(),
      router: this.router,
      nodes: ids.map((id) => ({ id, sink: sinks[id] as StageSink })),
      writeNode: nodeId(0),
      transparent: false,
    });
    this.nodes = ids.map((id) => {
      const link = this.session.replies.links[id] as NodeLink;
      return new StageNode(id, servers[id] as ModelPostgres, sinks[id] as StageSink, link);
    });
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
      busy = false;
      for (const node of this.nodes) {
        if (node.gone || node.idle || node.sink.paused) continue;
        busy = true;
        this.hear(node);
      }
    }
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
      noteNodeStatement: () => {},
      noteError: () => {},
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
