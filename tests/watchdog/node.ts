/** A watchdog node of three, put into a state, and what it does told in words. */

import type { NodeInfo } from "../../watchdog/bodies.ts";
import { stepWatchdog } from "../../watchdog/election.ts";
import {
  initialWatchdog,
  type Remote,
  type Watchdog,
  type WatchdogEffect,
  type WatchdogEvent,
  type WatchdogRules,
} from "../../watchdog/node.ts";
import type { StateName } from "../../watchdog/states.ts";
import type { ReceivedMessage } from "../../watchdog/wire.ts";
import { initialRules, poolConfigOf } from "./simulation/config.ts";

export const START = 1_000_000;

/** Node 1 of 0, 1 and 2, of priority 2; the others have 3 and 1. */
export const rules: WatchdogRules = {
  self: {
    id: 1,
    hostname: "h1",
    wdPort: 9000,
    pgpoolPort: 9999,
    nodeName: "h1:9999 Linux one",
    delegateIp: "",
    priority: 2,
    pgpoolVersion: "4.6.0",
  },
  remotes: [0, 2].map((id) => ({ id, hostname: `h${id}`, wdPort: 9000, pgpoolPort: 9999 })),
  authKey: "",
  ...initialRules,
  config: poolConfigOf(1, 3, 2),
  lease: undefined,
};

export const infoOf = (id: number, state: StateName, more: Partial<NodeInfo> = {}): NodeInfo => ({
  pgpoolVersion: "4.3.5",
  dataVersion: { major: 1, minor: 2 },
  state,
  wdPort: 9000,
  pgpoolPort: 9999,
  priority: 3 - id,
  nodeId: id,
  nodeName: `h${id}:9999 Linux n${id}`,
  hostName: `h${id}`,
  delegateIp: "",
  age: { kind: "ages", startup: 100, state: 10 },
  quorumStatus: 0,
  aliveNodeCount: 0,
  escalated: false,
  lifecheckStarted: undefined,
  authKey: undefined,
  ...more,
});

type Setting = {
  readonly state: StateName;
  readonly leader?: number;
  readonly standbys?: readonly number[];
  readonly remotes?: Partial<Remote>;
  readonly node?: Partial<Watchdog>;
};

/** Both others are connected standbys unless it is said otherwise. */
export function nodeIn({
  state,
  leader,
  standbys = [],
  remotes = {},
  node = {},
}: Setting): Watchdog {
  const initial = initialWatchdog(rules, START - 100_000);
  return {
    ...initial,
    state,
    since: START,
    leader,
    standbys,
    quorum: standbys.length > 0 ? 1 : 0,
    escalated: standbys.length > 0,
    remotes: initial.remotes.map((remote) => ({
      ...remote,
      state: remote.id === leader ? "LEADER" : "STANDBY",
      nodeName: `h${remote.id}:9999 Linux n${remote.id}`,
      priority: 3 - remote.id,
      startedAt: START - 100_000,
      life: { startedAt: START - 100_000, heardAt: START, age: 100 },
      stateSince: START - 10_000,
      outbound: "open",
      dialledAt: START,
      receivedAt: START,
      ...remotes,
    })),
    ...node,
  };
}

export class Played {
  node: Watchdog;
  now = START;
  readonly rules: WatchdogRules;

  constructor(node: Watchdog, changed: Partial<WatchdogRules> = {}) {
    this.node = node;
    this.rules = { ...rules, ...changed };
  }

  /** What happens then, in words; see `wordsOf`. */
  on(event: WatchdogEvent): readonly string[] {
    return this.effects(event).flatMap(wordsOf);
  }

  effects(event: WatchdogEvent): readonly WatchdogEffect[] {
    const [node, effects] = stepWatchdog(this.rules, this.node, event, this.now);
    this.node = node;
    return effects;
  }

  packet(from: number, message: ReceivedMessage, id = 77): readonly string[] {
    return this.on({ kind: "packet", from, id, message });
  }

  info(from: number, state: StateName, more: Partial<NodeInfo> = {}): readonly string[] {
    return this.packet(from, { kind: "node_info", info: infoOf(from, state, more) });
  }

  /** Answers to the command that is waited for. */
  reply(from: number, message: ReceivedMessage): readonly string[] {
    return this.packet(from, message, this.node.commands.at(-1)?.id);
  }

  /** Seconds pass, with a tick each. */
  wait(seconds: number): readonly string[] {
    return Array.from({ length: seconds }, () => {
      this.now += 1000;
      return this.on({ kind: "tick" });
    }).flat();
  }
}

/** `0<accept` is a message to node 0; logs and each node's own state told to all are left out. */
function wordsOf(effect: WatchdogEffect): readonly string[] {
  switch (effect.kind) {
    case "log":
      return [];
    case "send":
      return [`${effect.to}<${messageWord(effect.message)}`];
    case "notify":
      return [effect.notice];
    case "answer":
      return [`#${effect.client} ${answerWord(effect.answer)}`];
    case "dial":
    case "close":
    case "close_outbound":
      return [`${effect.kind} ${effect.node}`];
    case "failover":
      return [`failover ${effect.name} ${effect.nodes.join()} flags ${effect.flags}`];
    case "stop_pgpool":
      return [`stop_pgpool ${effect.mode}`];
    default:
      return [effect.kind];
  }
}

function messageWord(
  message: Extract<WatchdogEffect, { readonly kind: "send" }>["message"],
): string {
  switch (message.kind) {
    case "service":
      return `#${message.service}`;
    case "node_info":
      return `info ${message.info.state}`;
    case "failover_result":
      return message.result;
    default:
      return message.kind;
  }
}

function answerWord(
  answer: Extract<WatchdogEffect, { readonly kind: "answer" }>["answer"],
): string {
  switch (answer.kind) {
    case "failover_result":
      return answer.result;
    case "variable":
      return String(answer.value);
    case "follow_lock":
      return answer.granted ? "granted" : "not granted";
    default:
      return answer.kind;
  }
}
