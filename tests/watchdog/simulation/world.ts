/**
 * Watchdog nodes in a world that is played. The transitions are the real ones; sockets, clocks, life
 * checks, health checks, backends and the delegate IP are played, in virtual time from one seed.
 * Nothing but the status of the backends is saved by a node that crashes.
 */

import { attachAfterQuorum, syncBackends } from "../../../watchdog/backends.ts";
import { NO_SECRETS, REQUEST_FLAGS } from "../../../watchdog/bodies.ts";
import { requesterAction } from "../../../watchdog/consensus.ts";
import { stepWatchdog } from "../../../watchdog/election.ts";
import {
  type Answer,
  initialWatchdog,
  type Lease,
  type NodeSettings,
  type Notice,
  type Watchdog,
  type WatchdogEffect,
  type WatchdogEvent,
  type WatchdogRules,
} from "../../../watchdog/node.ts";
import { decodePacket, encodePacket, type Packet } from "../../../watchdog/wire.ts";
import { randomOf } from "../../random.ts";
import { initialRules, poolConfigOf } from "./config.ts";
import { type Connection, Network } from "./network.ts";
import { VirtualTime } from "./time.ts";

/** How long the commands of the delegate IP take. */
export const VIP_UP_MS = 1000;
export const VIP_DOWN_MS = 1000;
const HEARTBEAT_MS = 2000;
const DEAD_MS = 30_000;
const HEALTH_CHECK_MS = 5000;
/** For how long a vote counts, and may be on its way. */
const VOTE_MS = 20_000;
/** A SYN that nobody answers. */
const DIAL_TIMEOUT_MS = 10_000;

export type WorldOptions = {
  readonly seed: number;
  readonly nodes: number;
  readonly backends: number;
  readonly lease: Lease | undefined;
  /** How much faster or slower than time itself a node's clock may run. */
  readonly drift: number;
  /** Messages go by way of their bytes, with wd_authkey; else as they are, which is three times faster. */
  readonly asBytes: boolean;
};

type Host = {
  readonly id: number;
  readonly rules: WatchdogRules;
  readonly clockRate: number;
  readonly clockOffset: number;
  /** Undefined while it is down. */
  node: Watchdog | undefined;
  /** Counts the starts, so that what was meant for an earlier life is not done in a later one. */
  life: number;
  /** Its host is off: nobody answers at its address. */
  isUnplugged: boolean;
  paused: boolean;
  resumedAt: number;
  readonly postponed: (() => void)[];
  readonly outbound: Map<number, Connection>;
  readonly inbound: Map<number, Connection>;
  readonly heard: Map<number, number>;
  readonly reported: Set<number>;
  statuses: number[];
  quarantined: number[];
  quarantinedPrimary: number | undefined;
  primary: number;
  /** Questions that have no answer yet. */
  readonly asked: Map<number, (answer: Answer) => void>;
  vip: boolean;
  vipOrder: number;
  /** The last question about the leader's backends, and the last that was answered. */
  syncOrder: number;
  syncedOrder: number;
  /** Its clients wait, as another recovers a backend. */
  isHeld: boolean;
  recovery: Recovery | undefined;
};

/** A backend is copied while nobody writes. */
export type Recovery = {
  /** Undefined until all have said that their clients are gone. */
  since: number | undefined;
  /** Since when clients of a node could write, and who of these did so for longer than it takes to say so. */
  readonly open: Map<number, number>;
  readonly writers: Map<number, { readonly life: number }>;
};

/** So long it may take until the others hear that one has hung up, or one that has come is told. */
const HANG_UP_MS = 3000;

export type Execution = {
  readonly at: number;
  readonly host: number;
  readonly life: number;
  readonly leaderSince: number;
  readonly backend: number;
  /** How often an operator had attached it: after that it may be detached once more. */
  readonly incident: number;
  readonly voters: readonly number[];
  readonly quorum: number;
};

export class World {
  readonly time = new VirtualTime();
  readonly network: Network;
  readonly random: () => number;
  readonly hosts: Host[];
  readonly options: WorldOptions;
  readonly backendsUp: boolean[];
  readonly executions: Execution[] = [];
  readonly story: string[] = [];
  /** Recoveries that ended undoubted: who was told of them and wrote all the same. */
  readonly recovered: { readonly by: number; readonly writers: readonly number[] }[] = [];
  doubted = 0;
  /** Who asked for a backend to be detached. */
  readonly requests: {
    readonly at: number;
    readonly by: number;
    readonly backend: number;
    readonly incident: number;
  }[] = [];
  /** Whose first packet is being looked at. */
  readonly #strangers = new Map<number, Connection>();
  #connections = 0;
  #clients = 0;
  readonly #attached: number[];

  constructor(options: WorldOptions) {
    this.options = options;
    this.random = randomOf(options.seed);
    this.network = new Network(this.time, this.random);
    this.#attached = Array.from({ length: options.backends }, () => 0);
    this.backendsUp = Array.from({ length: options.backends }, () => true);
    this.hosts = Array.from({ length: options.nodes }, (_, id) => this.#host(id));
  }

  #host(id: number): Host {
    const { nodes, backends, lease, drift, asBytes } = this.options;
    const settings = (n: number): NodeSettings => ({
      id: n,
      hostname: `10.0.0.${n}`,
      wdPort: 9000,
      pgpoolPort: 9999,
    });
    const others = Array.from({ length: nodes }, (_, n) => n).filter((n) => n !== id);
    return {
      id,
      rules: {
        self: {
          ...settings(id),
          nodeName: `10.0.0.${id}:9999 Linux sim`,
          delegateIp: "10.0.0.100",
          priority: 1 + (id % 3),
          pgpoolVersion: "4.6.0",
        },
        remotes: others.map(settings),
        authKey: asBytes ? "secret" : "",
        ...initialRules,
        config: poolConfigOf(id, nodes, backends),
        lease,
      },
      clockRate: 1 + drift * (2 * this.random() - 1),
      clockOffset: this.random() * 1e6,
      node: undefined,
      life: 0,
      isUnplugged: false,
      paused: false,
      resumedAt: 0,
      postponed: [],
      outbound: new Map(),
      inbound: new Map(),
      heard: new Map(),
      reported: new Set(),
      statuses: Array.from({ length: backends }, () => 2),
      quarantined: [],
      quarantinedPrimary: undefined,
      primary: 0,
      asked: new Map(),
      vip: false,
      vipOrder: 0,
      syncOrder: 0,
      syncedOrder: 0,
      isHeld: false,
      recovery: undefined,
    };
  }

  tell(text: string): void {
    this.story.push(`${(this.time.now / 1000).toFixed(3).padStart(9)}  ${text}`);
  }

  hostOf(id: number): Host {
    const host = this.hosts[id];
    if (host === undefined) throw new Error(`no host ${id}`);
    return host;
  }

  // ---------------------------------------------------------------- what befalls hosts

  start(id: number): void {
    const host = this.hostOf(id);
    if (host.node !== undefined) return;
    this.tell(`n${id} starts`);
    host.life++;
    host.isUnplugged = false;
    host.paused = false;
    host.postponed.length = 0;
    host.node = initialWatchdog(host.rules, this.#clock(host));
    host.heard.clear();
    host.reported.clear();
    host.asked.clear();
    host.quarantined = [];
    host.quarantinedPrimary = undefined;
    this.#showBackends(host);
    this.#happen(host, { kind: "start" });
    const life = host.life;
    this.#every(host, life, 1000, () => this.#happen(host, { kind: "tick" }));
    this.#every(host, life, HEARTBEAT_MS, () => this.#heartbeat(host));
    this.#every(host, life, 10_000, () => this.#lifecheck(host));
    this.#every(host, life, HEALTH_CHECK_MS, () => this.#healthCheck(host));
  }

  /** `silently` is the host's death, without a FIN to anybody; else only the process dies. */
  crash(id: number, silently: boolean): void {
    const host = this.hostOf(id);
    if (host.node === undefined) return;
    this.tell(`n${id} crashes${silently ? " with its host" : ""}`);
    host.node = undefined;
    host.isUnplugged = silently;
    host.vip = false;
    host.vipOrder++;
    host.isHeld = false;
    host.recovery = undefined;
    for (const links of [host.outbound, host.inbound]) {
      for (const connection of links.values()) {
        if (silently) connection.open[id] = false;
        else this.#closeEnd(connection, id);
      }
      links.clear();
    }
  }

  stop(id: number): void {
    const host = this.hostOf(id);
    if (host.node === undefined || host.paused) return;
    this.tell(`n${id} is stopped`);
    this.#happen(host, { kind: "stop" });
    this.crash(id, false);
  }

  pause(id: number): void {
    const host = this.hostOf(id);
    if (host.node === undefined || host.paused) return;
    this.tell(`n${id} is paused`);
    host.paused = true;
  }

  resume(id: number): void {
    const host = this.hostOf(id);
    if (!host.paused) return;
    this.tell(`n${id} goes on`);
    host.paused = false;
    host.resumedAt = this.time.now;
    for (const act of host.postponed.splice(0)) act();
  }

  /** Runs now, or when the host goes on; not at all in another life. */
  #in(host: Host, life: number, act: () => void): void {
    if (host.life !== life || host.node === undefined) return;
    if (host.paused) host.postponed.push(() => this.#in(host, life, act));
    else act();
  }

  #every(host: Host, life: number, ms: number, act: () => void): void {
    let isWaiting = false;
    const again = () => {
      if (host.life !== life || host.node === undefined) return;
      this.time.after(ms / host.clockRate, again);
      // A paused process finds one expired timer when it goes on, not many.
      if (isWaiting) return;
      isWaiting = true;
      this.#in(host, life, () => {
        isWaiting = false;
        act();
      });
    };
    this.time.after((ms / host.clockRate) * this.random(), again);
  }

  #clock(host: Host): number {
    return host.clockOffset + this.time.now * host.clockRate;
  }

  // ---------------------------------------------------------------- events and effects

  #happen(host: Host, event: WatchdogEvent): void {
    if (host.node === undefined) return;
    const before = host.node.state;
    const [node, effects] = stepWatchdog(host.rules, host.node, event, this.#clock(host));
    host.node = node;
    if (node.state !== before) this.tell(`n${host.id} ${before} -> ${node.state}`);
    for (const effect of effects) this.#act(host, effect);
  }

  #act(host: Host, effect: WatchdogEffect): void {
    if (host.node === undefined) return;
    switch (effect.kind) {
      case "send":
        return void this.#send(host, effect);
      case "dial":
        return void this.#dial(host, effect.node);
      case "close":
        for (const links of [host.outbound, host.inbound]) {
          const connection = links.get(effect.node);
          links.delete(effect.node);
          if (connection !== undefined) this.#closeEnd(connection, host.id);
        }
        return;
      case "close_outbound": {
        const connection = host.outbound.get(effect.node);
        host.outbound.delete(effect.node);
        if (connection !== undefined) this.#closeEnd(connection, host.id);
        return;
      }
      case "answer": {
        const waiting = host.asked.get(effect.client);
        host.asked.delete(effect.client);
        waiting?.(effect.answer);
        return;
      }
      case "escalate":
      case "de_escalate":
        return void this.#moveVip(host, effect.kind === "escalate");
      case "notify":
        return void this.#notice(host, effect.notice);
      case "failover":
        return void this.#execute(host, effect.nodes);
      case "fatal":
        this.tell(`n${host.id} gives up: ${effect.why}`);
        return void this.crash(host.id, false);
      case "attach":
        this.#attach(host, effect.connection, effect.node);
        return;
      case "refuse":
      case "hang_up": {
        const connection = this.#strangers.get(effect.connection);
        if (connection !== undefined) this.#closeEnd(connection, host.id);
        return;
      }
      case "restore_delegate_ip":
      case "stop_pgpool":
      case "reload":
      case "rotate_log":
      case "enter_recovery":
        return void this.#hold(host);
      case "leave_recovery":
        host.isHeld = false;
        this.tell(`n${host.id} lets its clients in`);
        return;
      case "log":
    }
  }

  #moveVip(host: Host, up: boolean): void {
    const order = ++host.vipOrder;
    this.tell(`n${host.id} ${up ? "escalates" : "de-escalates"}`);
    this.time.after(up ? VIP_UP_MS : VIP_DOWN_MS, () => {
      if (host.vipOrder === order) host.vip = up;
    });
  }

  // ---------------------------------------------------------------- connections

  #dial(host: Host, to: number): void {
    const { life } = host;
    const peer = this.hostOf(to);
    const fail = (ms: number, refused: boolean) =>
      this.time.after(ms, () =>
        this.#in(host, life, () =>
          this.#happen(host, { kind: "outbound_failed", node: to, refused }),
        ),
      );
    const isCut = () => this.network.isCut(host.id, to) || this.network.isCut(to, host.id);
    if (isCut()) {
      fail(DIAL_TIMEOUT_MS, false);
      return;
    }
    this.time.after(this.network.weather.delayMs, () => {
      if (peer.node === undefined || isCut()) {
        const isRefused = !isCut() && !peer.isUnplugged;
        fail(isRefused ? 1 : DIAL_TIMEOUT_MS, isRefused);
        return;
      }
      const id = ++this.#connections;
      const connection: Connection = {
        id,
        from: host.id,
        to,
        open: { [host.id]: true, [to]: true },
        lastAt: {},
        broken: false,
      };
      this.#in(host, life, () => {
        host.outbound.set(to, connection);
        this.#happen(host, { kind: "outbound_opened", node: to });
      });
    });
  }

  #send(host: Host, effect: Extract<WatchdogEffect, { readonly kind: "send" }>): void {
    const outbound = host.outbound.get(effect.to);
    const inbound = host.inbound.get(effect.to);
    const connection = outbound?.open[host.id] === true ? outbound : inbound;
    if (connection === undefined || connection.open[host.id] !== true) {
      this.#happen(host, { kind: "send_failed", node: effect.to });
      return;
    }
    const packet = this.options.asBytes ? decodePacket(encodePacket(effect)) : effect;
    const peer = this.hostOf(effect.to);
    const { life } = peer;
    this.#carry(connection, peer.id, () => {
      const isGone = peer.life !== life || connection.open[peer.id] !== true;
      // A process that is not, or knows nothing of the connection, has a kernel that says so.
      if (isGone && !peer.isUnplugged) this.#reset(connection, host.id);
      else this.#in(peer, life, () => this.#receive(peer, connection, packet));
    });
  }

  #reset(connection: Connection, id: number): void {
    const from = connection.from === id ? connection.to : connection.from;
    connection.open[from] = true;
    this.#closeEnd(connection, from);
  }

  #receive(host: Host, connection: Connection, { id, message }: Packet): void {
    if (connection.open[host.id] !== true) return;
    const from = connection.from === host.id ? connection.to : connection.from;
    const isKnown = connection.from === host.id || host.inbound.get(from) === connection;
    if (isKnown) {
      this.#happen(host, { kind: "packet", from, id, message });
      return;
    }
    this.#strangers.set(connection.id, connection);
    const address = `10.0.0.${from}`;
    this.#happen(host, { kind: "stranger", connection: connection.id, address, id, message });
    this.#strangers.delete(connection.id);
  }

  #attach(host: Host, id: number, node: number): void {
    const connection = this.#strangers.get(id);
    const older = host.inbound.get(node);
    if (connection === undefined) throw new Error(`no connection ${id} to attach`);
    host.inbound.set(node, connection);
    if (older !== undefined) this.#closeEnd(older, host.id);
  }

  /** One end lets go; the other hears of it when its FIN arrives. */
  #closeEnd(connection: Connection, id: number): void {
    if (connection.open[id] !== true) return;
    connection.open[id] = false;
    const peer = this.hostOf(connection.from === id ? connection.to : connection.from);
    this.#carry(connection, peer.id, () => this.#hearEnd(connection, peer));
  }

  #hearEnd(connection: Connection, host: Host): void {
    this.#in(host, host.life, () => {
      if (connection.open[host.id] !== true) return;
      connection.open[host.id] = false;
      const isOutbound = connection.from === host.id;
      const peer = isOutbound ? connection.to : connection.from;
      const links = isOutbound ? host.outbound : host.inbound;
      if (links.get(peer) !== connection) return;
      links.delete(peer);
      this.#happen(host, { kind: isOutbound ? "outbound_closed" : "inbound_closed", node: peer });
    });
  }

  #carry(connection: Connection, to: number, deliver: () => void): void {
    this.network.carry(connection, to, deliver, () => {
      this.#hearEnd(connection, this.hostOf(connection.from));
      this.#hearEnd(connection, this.hostOf(connection.to));
    });
  }

  // ---------------------------------------------------------------- online recovery

  /** Its clients take their time to leave. */
  #hold(host: Host): void {
    host.isHeld = true;
    this.tell(`n${host.id} holds its clients for n${host.node?.recoveryBy}`);
    const { life } = host;
    this.#happen(host, { kind: "client_count", count: 1 });
    this.time.after(3000 * this.random(), () =>
      this.#in(host, life, () => this.#happen(host, { kind: "client_count", count: 0 })),
    );
  }

  /** An operator has it recover a backend. */
  recover(id: number, copyMs: number): void {
    const host = this.hostOf(id);
    if (host.node === undefined || host.paused || host.recovery !== undefined) return;
    this.tell(`n${id} recovers a backend`);
    const recovery: Recovery = { since: undefined, open: new Map(), writers: new Map() };
    host.recovery = recovery;
    const { life } = host;
    const end = () => {
      host.recovery = undefined;
      this.#ask(host, { kind: "recovery", call: recoveryCall("END_RECOVERY") }, () => {});
    };
    const call = { ...recoveryCall("START_RECOVERY"), flags: 1 + Math.floor(this.random() * 1e9) };
    this.#ask(host, { kind: "recovery", call }, (answer) => {
      if (answer.kind !== "ok") {
        this.tell(`n${id} cannot: ${answer.kind}`);
        end();
        return;
      }
      this.tell(`n${id} copies it`);
      recovery.since = this.time.now;
      this.lookAtWriters();
      this.time.after(copyMs, () =>
        this.#in(host, life, () => {
          const call = recoveryCall("CONFIRM_RECOVERY");
          this.#ask(host, { kind: "recovery", call }, ({ kind }) => {
            const isSound = kind === "ok" && mayAttach(host);
            this.tell(`n${id} has copied it, ${isSound ? "and attaches it" : "in doubt"}`);
            if (isSound)
              this.recovered.push({ by: id, writers: this.#toldWriters(host, recovery) });
            else this.doubted++;
            end();
          });
        }),
      );
    });
  }

  /** Whose clients can write while a recovery is under way. */
  lookAtWriters(): void {
    for (const { node, recovery, id } of this.hosts) {
      if (node === undefined || recovery?.since === undefined) continue;
      for (const other of this.hosts) {
        if (other.id === id) continue;
        const serves = other.node?.state === "STANDBY" || other.node?.state === "LEADER";
        if (!serves || other.isHeld || other.paused) {
          recovery.open.delete(other.id);
          continue;
        }
        const since = recovery.open.get(other.id) ?? this.time.now;
        recovery.open.set(other.id, since);
        if (this.time.now - since <= HANG_UP_MS) continue;
        recovery.writers.set(other.id, { life: other.life });
      }
    }
  }

  /** Nobody can know of those that are still out of sight. */
  #toldWriters({ node }: Host, { writers }: Recovery): readonly number[] {
    const told = node?.recoveryTold ?? [];
    return told.filter((id) => writers.get(id)?.life === this.hostOf(id).life);
  }

  // ---------------------------------------------------------------- life checks

  #heartbeat(host: Host): void {
    for (const peer of this.hosts) {
      if (peer === host) continue;
      const { life } = peer;
      this.network.cast(host.id, peer.id, () =>
        this.#in(peer, life, () => peer.heard.set(host.id, this.#clock(peer))),
      );
    }
  }

  #lifecheck(host: Host): void {
    // As the original, it begins when everybody has been heard once.
    if (host.heard.size < this.hosts.length - 1 || host.node?.inRecovery === true) return;
    for (const [id, at] of host.heard) {
      const isDead = this.#clock(host) - at > DEAD_MS;
      if (isDead === host.reported.has(id)) continue;
      if (isDead) host.reported.add(id);
      else host.reported.delete(id);
      this.tell(`n${host.id} life check: n${id} ${isDead ? "dead" : "alive"}`);
      this.#happen(host, { kind: "lifecheck", node: id, alive: !isDead });
    }
  }

  // ---------------------------------------------------------------- backends

  #showBackends(host: Host): void {
    const statuses = host.statuses.map((status, id) =>
      host.quarantined.includes(id) ? 1 : status,
    );
    this.#happen(host, {
      kind: "backends",
      view: {
        status: { statuses, primary: host.primary },
        quarantined: host.quarantined,
        quarantinedPrimary: host.quarantinedPrimary,
      },
    });
  }

  #ask(host: Host, command: Parameters<typeof askEvent>[1], then: (answer: Answer) => void): void {
    const client = ++this.#clients;
    host.asked.set(client, then);
    this.#happen(host, askEvent(client, command));
  }

  #healthCheck(host: Host): void {
    for (const [id, isUp] of this.backendsUp.entries()) {
      const status = host.statuses[id];
      if (isUp && host.quarantined.includes(id)) this.#release(host, [id]);
      if (!isUp && status !== 3) this.#askToDetach(host, id, REQUEST_FLAGS.switchover);
    }
  }

  #askToDetach(host: Host, backend: number, flags: number): void {
    const name = "DEGENERATE_BACKEND_REQUEST";
    const incident = this.#incident(backend);
    this.requests.push({ at: this.time.now, by: host.id, backend, incident });
    const call = { ...NO_SECRETS, name, flags, nodes: [backend] };
    this.#ask(host, { kind: "failover", call }, (answer) => {
      if (answer.kind !== "failover_result") return;
      switch (requesterAction(name, answer.result)) {
        case "do_it":
          this.#execute(host, [backend]);
          break;
        case "quarantine":
          this.#quarantine(host, backend);
          break;
        default:
      }
    });
  }

  #quarantine(host: Host, backend: number): void {
    if (host.quarantined.includes(backend) || host.statuses[backend] === 3) return;
    host.quarantined = [...host.quarantined, backend];
    host.statuses[backend] = 3;
    if (host.primary === backend) {
      host.quarantinedPrimary = backend;
      host.primary = -1;
    }
    this.tell(`n${host.id} quarantines backend ${backend}`);
    this.#showBackends(host);
  }

  #release(host: Host, backends: readonly number[]): void {
    if (backends.length === 0) return;
    for (const id of backends) {
      host.statuses[id] = 1;
      if (host.quarantinedPrimary === id) {
        host.primary = id;
        host.quarantinedPrimary = undefined;
      }
    }
    host.quarantined = host.quarantined.filter((id) => !backends.includes(id));
    this.#showBackends(host);
    this.#indicate(host);
  }

  /** Detaches a backend for the whole cluster. */
  #execute(host: Host, backends: readonly number[]): void {
    const { node } = host;
    if (node === undefined) return;
    for (const backend of backends) {
      // The queue of failovers turns away what is done already.
      if (host.statuses[backend] === 3 && !host.quarantined.includes(backend)) continue;
      // Votes outlive an operator's word by their time; and without a lease a leader that was stopped
      // counts such as are long over when it goes on.
      const since = this.time.now - VOTE_MS;
      const asked = this.requests.filter(
        (each) =>
          each.backend === backend &&
          (this.options.lease === undefined ||
            each.at >= since ||
            each.incident === this.#incident(backend)),
      );
      this.executions.push({
        at: this.time.now,
        host: host.id,
        life: host.life,
        leaderSince: node.since,
        backend,
        incident: this.#incident(backend),
        voters: [...new Set(asked.map(({ by }) => by))],
        quorum: node.quorum,
      });
      this.tell(`n${host.id} fails over backend ${backend}`);
      host.statuses[backend] = 3;
      host.quarantined = host.quarantined.filter((id) => id !== backend);
      if (host.quarantinedPrimary === backend) host.quarantinedPrimary = undefined;
      if (host.primary === backend || host.primary === -1) {
        host.primary = host.statuses.findIndex((status) => status !== 3);
      }
    }
    this.#showBackends(host);
    this.#indicate(host);
  }

  /** The leader tells the others that the backends have changed. */
  #indicate(host: Host): void {
    this.#ask(host, { kind: "failover_indication", begins: true }, () => {});
    this.#ask(host, { kind: "failover_indication", begins: false }, () => {});
  }

  /** How often an operator has attached it. */
  #incident(backend: number): number {
    return this.#attached[backend] ?? 0;
  }

  /** An operator's word at the leader. */
  attach(backend: number): void {
    this.#attached[backend] = this.#incident(backend) + 1;
    for (const host of this.hosts) {
      const { node } = host;
      if (node?.state !== "LEADER" || node.leader !== host.id || host.paused) continue;
      host.statuses[backend] = 1;
      host.quarantined = host.quarantined.filter((id) => id !== backend);
      if (host.primary < 0) host.primary = backend;
      this.#showBackends(host);
      this.#indicate(host);
    }
  }

  #notice(host: Host, notice: Notice): void {
    switch (notice) {
      case "state_changed":
      case "sync_backends":
        this.#sync(host);
        return;
      case "quorum_changed": {
        const { node } = host;
        if (node?.leader !== host.id) return;
        this.#release(host, attachAfterQuorum(node.quorum, host.quarantined).nodes);
        return;
      }
      case "revote_quarantined":
        for (const id of host.quarantined) this.#askToDetach(host, id, REQUEST_FLAGS.update);
    }
  }

  /** An answer that was overtaken by one to a later question is old. */
  #sync(host: Host): void {
    const order = ++host.syncOrder;
    this.#ask(
      host,
      { kind: "leader_data", request: { ...NO_SECRETS, type: "BackendStatus" } },
      (answer) => {
        if (answer.kind !== "backend_status" || order < host.syncedOrder) return;
        host.syncedOrder = order;
        const sync = syncBackends(host, answer.status, true);
        host.statuses = sync.statuses.map((status) => (status === "down" ? 3 : 1));
        host.quarantined = [];
        host.quarantinedPrimary = undefined;
        host.primary = sync.primary;
        this.#showBackends(host);
      },
    );
  }
}

/** Else a vote on it finds nobody. */
const mayAttach = ({ node }: Host): boolean =>
  node?.state === "STANDBY" || (node?.state === "LEADER" && node.quorum >= 0);

const recoveryCall = (name: `${"START" | "CONFIRM" | "END"}_RECOVERY`) => ({
  ...NO_SECRETS,
  name,
  flags: 0,
  nodes: [],
});

type AskCommand = Extract<WatchdogEvent, { readonly kind: "ask" }>["command"];
const askEvent = (client: number, command: AskCommand): WatchdogEvent => ({
  kind: "ask",
  client,
  command,
});
