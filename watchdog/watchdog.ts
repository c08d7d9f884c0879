/**
 * The watchdog of this pgpool at work: one machine (election.ts), one clock, and whatever carries its
 * effects out. Events are digested one after the other, those that effects bring about included.
 */

import type { Log } from "../core/ports.ts";
import { DelegateIp, type EscalationSettings } from "./delegate_ip.ts";
import { stepWatchdog } from "./election.ts";
import { type NetworkView, viewNetwork } from "./interfaces.ts";
import type { IpcCommand } from "./ipc.ts";
import { IpcServer } from "./ipc_server.ts";
import { Links, type WatchdogTls } from "./links.ts";
import {
  type Answer,
  type BackendView,
  initialWatchdog,
  type Notice,
  type Watchdog,
  type WatchdogEffect,
  type WatchdogEvent,
  type WatchdogRules,
} from "./node.ts";

/** What a watchdog asks of its pgpool. None of it may throw. */
export interface WatchdogDesk {
  notify(notice: Notice): void;
  /** The cluster has decided; nobody is to be asked again. */
  failover(decided: Extract<WatchdogEffect, { readonly kind: "failover" }>): void;
  stopPgpool(mode: "smart" | "fast" | "immediate"): void;
  reload(): void;
  rotateLog(): void;
  enterRecovery(): void;
  leaveRecovery(): void;
  clientCount(): number;
  /** This node leads with a quorum from now on. */
  escalated(): void;
  /** This node can be none of the cluster any more: pgpool must end. */
  giveUp(why: string): void;
}

export type WatchdogOptions = {
  readonly rules: () => WatchdogRules;
  readonly escalation: () => EscalationSettings;
  readonly listen: { readonly host: string | undefined; readonly port: number };
  readonly tls: WatchdogTls | undefined;
  readonly ipcPath: string;
  readonly monitored: readonly string[];
  readonly desk: WatchdogDesk;
  readonly log: Log;
  /** Milliseconds of a clock that no one sets. */
  readonly now: () => number;
  /** What programs of this process show on the socket; not 0. */
  readonly sharedKey: number;
};

const TICK_MS = 1000;

export class WatchdogService {
  readonly #options: WatchdogOptions;
  readonly #links: Links;
  readonly #ipc: IpcServer;
  readonly #delegateIp: DelegateIp;
  readonly #events: WatchdogEvent[] = [];
  readonly #answers = new Map<number, (answer: Answer) => void>();
  #node: Watchdog;
  #network: NetworkView;
  #isDigesting = false;
  #clients = 0;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #waker: ReturnType<typeof setTimeout> | undefined;
  #wakeAt: number | undefined;
  #joined: (outcome: "joined" | "over") => void = () => {};
  readonly #untilJoined: Promise<"joined" | "over">;
  #isOver = false;

  constructor(options: WatchdogOptions) {
    this.#options = options;
    const rules = options.rules();
    this.#node = initialWatchdog(rules, options.now());
    this.#network = viewNetwork(options.monitored);
    this.#delegateIp = new DelegateIp(options.escalation, options.log);
    this.#links = new Links({
      ...options.listen,
      remotes: rules.remotes,
      tls: options.tls,
      happen: (event) => this.happen(event),
      complain: (message, detail) => options.log.write("WARNING", message, { detail }),
    });
    this.#ipc = new IpcServer({
      path: options.ipcPath,
      keys: () => ({ sharedKey: options.sharedKey, authKey: options.rules().authKey }),
      ask: (command, answer) => this.#ask(command, answer),
    });
    this.#untilJoined = new Promise((resolve) => {
      this.#joined = resolve;
    });
  }

  /** Resolves when the sockets listen and the first words are said; rejects with the system's error. */
  async start(): Promise<void> {
    await this.#links.listen();
    await this.#ipc.listen();
    await this.#delegateIp.releaseStale();
    process.on("exit", this.#releaseNow);
    this.happen({ kind: "start" });
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Resolves when this node leads or follows, or never will. */
  async untilJoined(): Promise<"joined" | "over"> {
    return await this.#untilJoined;
  }

  get node(): Watchdog {
    return this.#node;
  }

  get isTrueLeader(): boolean {
    const { state, leader } = this.#node;
    return state === "LEADER" && leader === this.#options.rules().self.id;
  }

  /** Tells the cluster that this node leaves, and gives up the delegate IP. */
  async stop(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#ticker);
    clearTimeout(this.#waker);
    // One of its own effects may have brought this about: the rest of them come first.
    await Promise.resolve();
    this.#options.log.write("LOG", "Watchdog is shutting down");
    this.happen({ kind: "stop" });
    for (const answer of this.#answers.values()) answer({ kind: "bad" });
    this.#answers.clear();
    this.#ipc.close();
    this.#joined("over");
    await Promise.all([this.#links.close(), this.#delegateIp.settled()]);
    process.off("exit", this.#releaseNow);
  }

  readonly #releaseNow = () => this.#delegateIp.releaseNow();

  /** Asks as a program of this host does; answered in its own time. */
  async ask(command: IpcCommand): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.#ask(command, resolve);
    return await promise;
  }

  /** Whether the lock could be had; it is released by whoever has it. */
  async followLock(wanted: boolean): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    const client = this.#newClient(resolve);
    this.happen({ kind: "follow_lock", wanted, client });
    const answer = await promise;
    return answer.kind === "follow_lock" && answer.granted;
  }

  showBackends(view: BackendView): void {
    this.happen({ kind: "backends", view });
  }

  happen(event: WatchdogEvent): void {
    this.#events.push(event);
    if (this.#isDigesting) return;
    this.#isDigesting = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        this.#digest(next);
      }
    } finally {
      this.#isDigesting = false;
    }
  }

  #digest(event: WatchdogEvent): void {
    const { rules, now } = this.#options;
    const [node, effects] = stepWatchdog(rules(), this.#node, event, now());
    this.#node = node;
    for (const effect of effects) this.#act(effect);
    this.#wakeInTime();
  }

  /** An election need not wait for the next second. */
  #wakeInTime(): void {
    const { timerAt, commands } = this.#node;
    const deadlines = commands.flatMap(({ deadline }) =>
      deadline === undefined ? [] : [deadline],
    );
    const at = Math.min(timerAt ?? Number.POSITIVE_INFINITY, ...deadlines);
    if (at === this.#wakeAt || this.#isOver) return;
    this.#wakeAt = at;
    clearTimeout(this.#waker);
    if (!Number.isFinite(at)) return;
    const delayMs = Math.max(0, Math.ceil(at - this.#options.now()));
    this.#waker = setTimeout(() => {
      this.#wakeAt = undefined;
      this.happen({ kind: "tick" });
    }, delayMs);
  }

  #act(effect: WatchdogEffect): void {
    const { desk, log } = this.#options;
    switch (effect.kind) {
      case "send":
      case "dial":
      case "close":
      case "close_outbound":
      case "attach":
      case "refuse":
      case "hang_up":
        this.#links.perform(effect);
        return;
      case "escalate":
        desk.escalated();
        this.#delegateIp.escalate();
        return;
      case "de_escalate":
        this.#delegateIp.deEscalate();
        return;
      case "restore_delegate_ip":
        this.#delegateIp.restore();
        return;
      case "notify":
        if (effect.notice === "state_changed") this.#joined("joined");
        desk.notify(effect.notice);
        return;
      case "failover":
        desk.failover(effect);
        return;
      case "answer": {
        const waiting = this.#answers.get(effect.client);
        this.#answers.delete(effect.client);
        waiting?.(effect.answer);
        return;
      }
      case "stop_pgpool":
        desk.stopPgpool(effect.mode);
        return;
      case "reload":
        desk.reload();
        return;
      case "rotate_log":
        desk.rotateLog();
        return;
      case "enter_recovery":
        desk.enterRecovery();
        this.#countClients();
        return;
      case "leave_recovery":
        desk.leaveRecovery();
        return;
      case "log":
        log.write(effect.severity, effect.message, { detail: effect.detail });
        return;
      case "fatal":
        this.#joined("over");
        desk.giveUp(effect.why);
    }
  }

  #newClient(answer: (answer: Answer) => void): number {
    const client = ++this.#clients;
    this.#answers.set(client, answer);
    return client;
  }

  #ask(command: IpcCommand, answer: (answer: Answer) => void): () => void {
    const client = this.#newClient(answer);
    this.happen({ kind: "ask", client, command });
    return () => {
      if (this.#answers.delete(client)) this.happen({ kind: "client_gone", client });
    };
  }

  #tick(): void {
    this.#watchNetwork();
    this.#countClients();
    this.happen({ kind: "tick" });
  }

  #countClients(): void {
    this.happen({ kind: "client_count", count: this.#options.desk.clientCount() });
  }

  #watchNetwork(): void {
    const { monitored, escalation } = this.#options;
    const before = this.#network;
    const view = viewNetwork(monitored);
    this.#network = view;
    const { delegate_ip: address } = escalation();
    const isMissing =
      address !== "" && this.#delegateIp.isSettledUp && !view.addresses.includes(address);
    if (view.signature === before.signature && !isMissing) return;
    this.happen({ kind: "network", up: view.up, hasDelegateIp: !isMissing });
  }
}
