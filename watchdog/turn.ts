/**
 * One event being digested: the node as it becomes, and the effects in the order in which they are to
 * happen. Everything that several transitions do alike stands here: sending, counting answers, and
 * going from one state to the next.
 */

import { authSum, nodeClaim } from "./auth_key.ts";
import type { NodeInfo } from "./bodies.ts";
import type {
  Answer,
  Command,
  CommandPurpose,
  Notice,
  Remote,
  Watchdog,
  WatchdogEffect,
  WatchdogNode,
  WatchdogRules,
} from "./node.ts";
import { type Electorate, quorumStatus, votesNeeded } from "./quorum.ts";
import { isActive, type QuorumStatus, type StateName, stateNumber } from "./states.ts";
import type { Service, WatchdogMessage } from "./wire.ts";

/** Seconds; spec watchdog/states.md section 2. */
export const TIMES = {
  elect: 5,
  initialize: 1,
  /** Of a leader that was declared after one that is known to be gone. */
  followDeclared: 0.3,
  standbyCheck: 10,
  isolation: 10,
  firstBeacon: 5,
  beacon: 10,
  electionReply: 4,
  reply: 5,
  redial: 10,
  dialPause: 1,
  functionReply: 5,
  leaderSilentAsk: 20,
  leaderSilentGiveUp: 30,
  recoveryAsk: 5,
  recoveryDoubt: 25,
  recoveryGiveUp: 60,
  recoveryNewborn: 4,
  sameService: 5,
} as const;
/** Of beacons without an answer, and of messages that could not be sent: one more is too many. */
export const MISSES_MAX = 3;

const ID_RANGE = 2 ** 24;

export class Turn {
  readonly rules: WatchdogRules;
  readonly now: number;
  readonly node: WatchdogNode;
  readonly effects: WatchdogEffect[] = [];

  constructor(rules: WatchdogRules, before: Watchdog, now: number) {
    this.rules = rules;
    this.now = now;
    this.node = { ...before, remotes: before.remotes.map((remote) => ({ ...remote })) };
  }

  get self(): number {
    return this.rules.self.id;
  }

  /** It leads, and nobody has said that it may not. */
  get isTrueLeader(): boolean {
    return this.node.state === "LEADER" && this.node.leader === this.self;
  }

  get remotes(): readonly Remote[] {
    return this.node.remotes;
  }

  remote(id: number | undefined): Remote | undefined {
    return this.node.remotes.find((remote) => remote.id === id);
  }

  get leader(): Remote | undefined {
    return this.remote(this.node.leader);
  }

  /** As it calls itself; by its host while it has not said. */
  nameOf({ nodeName, hostname, pgpoolPort }: Remote): string {
    return nodeName || `${hostname}:${pgpoolPort}`;
  }

  /** Milliseconds since `at`; a moment that never was is long ago. */
  since(at: number | undefined): number {
    return at === undefined ? Number.POSITIVE_INFINITY : this.now - at;
  }

  act(effect: WatchdogEffect): void {
    this.effects.push(effect);
  }

  log(severity: "LOG" | "WARNING" | "FATAL", message: string, detail?: string): void {
    this.effects.push({ kind: "log", severity, message, detail });
  }

  notify(notice: Notice): void {
    this.effects.push({ kind: "notify", notice });
  }

  answer(client: number, answer: Answer): void {
    this.effects.push({ kind: "answer", client, answer });
  }

  fatal(why: string): void {
    this.log("FATAL", why);
    this.effects.push({ kind: "fatal", why });
  }

  // ---------------------------------------------------------------- messages

  nextId(): number {
    const { lastId } = this.node;
    const base = lastId - (lastId % ID_RANGE);
    this.node.lastId = base + ((lastId + 1) % ID_RANGE);
    return this.node.lastId;
  }

  send(to: Remote, message: WatchdogMessage, id = this.nextId()): void {
    if (!isReachable(to)) {
      to.sendFailures++;
      return;
    }
    this.effects.push({ kind: "send", to: to.id, id, message });
  }

  active(): readonly Remote[] {
    return this.remotes.filter(({ state }) => isActive(state));
  }

  /** One id for all. Sends to those that have a connection, whatever their state. */
  broadcast(message: WatchdogMessage, id = this.nextId()): void {
    for (const remote of this.remotes) if (isReachable(remote)) this.send(remote, message, id);
  }

  tellInfo(to: Remote, id?: number): void {
    this.send(to, { kind: "node_info", info: this.info() }, id);
  }

  /**
   * Not to nodes that are loading, unless this one leads: one of 4.3.5 goes on with the first it hears
   * of anybody, and asks all when it is done.
   */
  tellInfoToAll(): void {
    const message = { kind: "node_info", info: this.info() } as const;
    const id = this.nextId();
    for (const remote of this.remotes) {
      const isLoading = isLoadingNow(this, remote) && !this.isTrueLeader;
      if (isReachable(remote) && !isLoading) this.send(remote, message, id);
    }
  }

  /** To one node. */
  service(service: Service, to: Remote, id?: number): void {
    this.send(to, { kind: "service", service }, id);
  }

  /** To all; the same word is not said again within five seconds. */
  broadcastService(service: Service, id?: number): void {
    const last = this.node.lastService;
    const isFresh = last?.service === service && this.since(last.at) < TIMES.sameService * 1000;
    if (isFresh) return;
    this.node.lastService = { service, at: this.now };
    this.broadcast({ kind: "service", service }, id);
  }

  info(): NodeInfo {
    const { rules, node } = this;
    const { self } = rules;
    const seconds = (at: number) => Math.max(0, Math.trunc(this.since(at) / 1000));
    const claim = nodeClaim(stateNumber(node.state), self.wdPort);
    return {
      pgpoolVersion: self.pgpoolVersion,
      dataVersion: { major: 1, minor: 2 },
      state: node.state,
      wdPort: self.wdPort,
      pgpoolPort: self.pgpoolPort,
      priority: node.priority,
      nodeId: self.id,
      nodeName: self.nodeName,
      hostName: self.hostname,
      delegateIp: self.delegateIp,
      age: { kind: "ages", startup: seconds(node.startedAt), state: seconds(node.since) },
      quorumStatus: node.quorum,
      aliveNodeCount: node.standbys.length,
      escalated: node.escalated,
      lifecheckStarted: node.lifecheckStarted,
      authKey: rules.authKey === "" ? undefined : authSum(rules.authKey, claim),
    };
  }

  // ---------------------------------------------------------------- commands

  /** Sends and waits. Without `seconds` it waits for as long as those asked live. */
  command(
    purpose: CommandPurpose,
    message: WatchdogMessage,
    to: readonly Remote[],
    seconds?: number,
  ): void {
    const id = this.nextId();
    for (const remote of to) this.send(remote, message, id);
    const command: Command = {
      id,
      purpose,
      sentAt: this.now,
      deadline: seconds === undefined ? undefined : this.now + seconds * 1000,
      asked: to.length,
      waiting: to.map((remote) => remote.id),
      replied: [],
    };
    this.node.commands = [...this.node.commands, command];
  }

  forget(command: Command): void {
    this.node.commands = this.node.commands.filter(({ id }) => id !== command.id);
  }

  replace(command: Command): void {
    this.node.commands = this.node.commands.map((each) =>
      each.id === command.id ? command : each,
    );
  }

  startTimer(seconds: number): void {
    this.node.timerAt = this.now + seconds * 1000;
  }

  /** It ends no later than that. */
  hurryTimer(seconds: number): void {
    const at = this.now + seconds * 1000;
    this.node.timerAt = Math.min(this.node.timerAt ?? at, at);
  }

  // ---------------------------------------------------------------- quorum

  get electorate(): Electorate {
    // With a lease a majority is one of all, and more than half: else there might be two.
    const { lease, halfVotes } = this.rules;
    if (lease !== undefined) return { remotes: this.remotes.length, halfVotes: false };
    const members = this.remotes.filter(({ membership }) => membership === "MEMBER");
    return { remotes: members.length, halfVotes };
  }

  get votesNeeded(): number {
    return votesNeeded(this.electorate);
  }

  /** By whom this node's leadership is supported now. */
  currentQuorum(): QuorumStatus {
    const { lease } = this.rules;
    const { standbys, promise, startedAt } = this.node;
    if (lease === undefined) return quorumStatus(this.electorate, standbys.length);
    // A promise given before a restart is not remembered, so it is waited for.
    const isBound = promise !== undefined && promise.to !== this.self && this.now < promise.until;
    if (isBound || this.since(startedAt) < lease.promiseMs) return -1;
    const confirmed = standbys.filter(
      (id) => this.since(this.remote(id)?.confirmedAt) < lease.leaseMs,
    );
    return quorumStatus(this.electorate, confirmed.length);
  }

  dropStandby(id: number): void {
    if (this.node.standbys.includes(id)) {
      const remote = this.remote(id);
      const name = remote === undefined ? String(id) : this.nameOf(remote);
      this.log("LOG", `removing watchdog node "${name}" from the standby list`);
      this.node.standbys = this.node.standbys.filter((each) => each !== id);
    }
  }

  // ---------------------------------------------------------------- states

  /** Goes to another state, or into the same one anew, and tells everyone. */
  enter(state: StateName): void {
    const { node } = this;
    if (node.state === "LEADER") this.#leaveLeadership();
    this.log("LOG", `watchdog node state changed from [${node.state}] to [${state}]`);
    node.state = state;
    node.since = this.now;
    // What was asked in the state before is of no interest in this one.
    node.commands = node.commands.filter(({ purpose }) => "client" in purpose);
    this.#onEntering(state);
    this.tellInfoToAll();
  }

  #leaveLeadership(): void {
    const { node } = this;
    if (node.escalated) {
      node.escalated = false;
      this.act({ kind: "de_escalate" });
    }
    if (node.leader === this.self) node.leader = undefined;
    node.standbys = [];
    node.votes = [];
    for (const remote of this.remotes) remote.confirmedAt = undefined;
  }

  #onEntering(state: StateName): void {
    switch (state) {
      case "LOADING":
        this.#enterLoading();
        return;
      case "JOINING":
        this.#enterJoining();
        return;
      case "INITIALIZING":
        this.startTimer(TIMES.initialize);
        return;
      case "STANDING FOR LEADER":
        this.command({ kind: "stand" }, { kind: "stand_for_coordinator" }, this.active(), 4);
        this.startTimer(TIMES.elect);
        return;
      case "PARTICIPATING IN ELECTION":
        this.startTimer(TIMES.elect);
        return;
      case "LEADER":
        this.#enterLeader();
        return;
      case "STANDBY":
        this.#enterStandby();
        return;
      case "NETWORK ISOLATION":
        this.startTimer(TIMES.isolation);
        return;
      case "LOST":
      case "IN NETWORK TROUBLE":
        this.fatal(`this watchdog node is ${state.toLowerCase()}`);
        return;
      case "DEAD":
      case "SHUTDOWN":
      case "ADD MESSAGE SENT":
        return;
    }
  }

  #enterLoading(): void {
    this.startTimer(TIMES.elect);
    for (const remote of this.remotes) {
      if (remote.state !== "DEAD" || !isReachable(remote)) continue;
      remote.state = "ADD MESSAGE SENT";
      this.send(remote, { kind: "add_node", info: this.info() });
    }
  }

  #enterJoining(): void {
    this.node.leader = undefined;
    for (const remote of this.remotes) this.dialUnconnected(remote);
    this.command(
      { kind: "request_info" },
      { kind: "request_info" },
      this.remotes.filter(isReachable),
      TIMES.electionReply,
    );
    this.startTimer(TIMES.elect);
  }

  #enterLeader(): void {
    const { node, rules } = this;
    node.leader = undefined;
    node.mayStillLead = false;
    node.priority = rules.self.priority;
    for (const remote of this.remotes) {
      remote.missedBeacons = 0;
      remote.confirmedAt = undefined;
    }
    const message = { kind: "declare_coordinator" } as const;
    this.command({ kind: "declare" }, message, this.active(), TIMES.electionReply);
    this.startTimer(TIMES.firstBeacon);
  }

  #enterStandby(): void {
    const { node, leader } = this;
    node.priority = this.rules.self.priority;
    this.startTimer(TIMES.standbyCheck);
    if (leader === undefined) return;
    // It has this long to be heard, whenever it was heard before.
    leader.receivedAt = Math.max(leader.receivedAt, this.now);
    this.command({ kind: "join" }, { kind: "join_coordinator" }, [leader], TIMES.reply);
  }

  dialUnconnected(remote: Remote): void {
    const isFree = remote.outbound === "closed" && remote.inbound === "closed";
    if (isFree && remote.state !== "SHUTDOWN") this.dial(remote);
  }

  dial(remote: Remote): void {
    remote.outbound = "dialling";
    remote.dialledAt = this.now;
    this.act({ kind: "dial", node: remote.id });
  }
}

/** It has said so, and cannot have been at it for longer. */
const isLoadingNow = (turn: Turn, { state, stateSince }: Remote): boolean =>
  state === "LOADING" && turn.since(stateSince) <= (TIMES.elect + 1) * 1000;

export const isReachable = ({ outbound, inbound }: Remote): boolean =>
  outbound === "open" || inbound === "open";
