/**
 * A watchdog node as a value: what it knows, what may happen to it, and what it wants done. The
 * transitions are in election.ts. Times are milliseconds of this host's monotonic clock.
 */

import type { BackendStatus, FailoverFunction, FailoverResult } from "./bodies.ts";
import type { VoteObject } from "./consensus.ts";
import type { FollowLock } from "./interlock.ts";
import type { IpcCommand, NodeList } from "./ipc.ts";
import type { PoolConfig } from "./pool_config.ts";
import type { LostReason, Membership, QuorumStatus, StateName } from "./states.ts";
import type { ReceivedMessage, Service, WatchdogMessage } from "./wire.ts";

/** Its `hostnameN`, `wd_portN` and `pgpool_portN`; `id` is N. */
export type NodeSettings = {
  readonly id: number;
  readonly hostname: string;
  readonly wdPort: number;
  readonly pgpoolPort: number;
};

/** The parameters that the machine obeys; replaced by a reload. */
export type WatchdogRules = {
  readonly self: NodeSettings & {
    readonly nodeName: string;
    readonly delegateIp: string;
    readonly priority: number;
    readonly pgpoolVersion: string;
  };
  /** In the order of the configuration. */
  readonly remotes: readonly NodeSettings[];
  readonly authKey: string;
  readonly failoverWhenQuorumExists: boolean;
  readonly failoverRequireConsensus: boolean;
  readonly allowMultipleRequests: boolean;
  readonly halfVotes: boolean;
  readonly removeShutdownNodes: boolean;
  /** 0 is never, for both. */
  readonly lostNodeRemovalS: number;
  readonly noShowNodeRemovalS: number;
  readonly recoveryTimeoutS: number;
  /** What is told to the leader, and compared with what standbys tell. */
  readonly config: PoolConfig;
  /** Undefined behaves as 4.3.5 does. Only for clusters in which every node has it. */
  readonly lease: Lease | undefined;
};

/**
 * Our own stricter rule, for clusters of our nodes alone. A member that answers a beacon promises to
 * answer no other leader's for `promiseMs`; a leader counts a member for `leaseMs` from the moment it
 * sent the beacon that was answered. While clocks run at speeds within promiseMs / leaseMs of each
 * other, each member is counted by one leader at a time, so that two majorities cannot stand side by
 * side, whatever the network does.
 */
export type Lease = {
  readonly beaconMs: number;
  readonly leaseMs: number;
  readonly promiseMs: number;
};

export const STRICT_LEASE: Lease = { beaconMs: 1000, leaseMs: 3000, promiseMs: 5000 };

export type LinkState = "closed" | "dialling" | "open";

/** Of one pgpool: its start by this node's clock, no word of its having come late; when it was heard last. */
export type Life = {
  readonly startedAt: number;
  readonly heardAt: number;
  /** In seconds, as it was told then. */
  readonly age: number;
};

/** Another node, as far as this one knows it. */
export type Remote = NodeSettings & {
  state: StateName;
  lostReason: LostReason | undefined;
  /** When it was given up; undefined while it was not. */
  lostAt: number | undefined;
  membership: Membership;
  /** Empty until it has said it. */
  nodeName: string;
  delegateIp: string;
  priority: number;
  startedAt: number | undefined;
  /** The pgpool that was heard last, which may be started anew; undefined until one has told its age. */
  life: Life | undefined;
  stateSince: number | undefined;
  quorumStatus: QuorumStatus;
  aliveNodeCount: number;
  escalated: boolean;
  dataVersion: { readonly major: number; readonly minor: number };
  outbound: LinkState;
  inbound: "closed" | "open";
  /** When the newest connection with it was made. */
  connectedAt: number;
  dialledAt: number | undefined;
  /** Its host answered our last call, but nobody listens there. */
  refusedUs: boolean;
  sendFailures: number;
  missedBeacons: number;
  receivedAt: number;
  /** When a request of ours went to it that it has not answered by any packet. */
  functionSentAt: number | undefined;
  /** It said that we appear lost to it. */
  hasLostUs: boolean;
  /** When the last beacon was sent that it has answered; counts only with a lease. */
  confirmedAt: number | undefined;
  config: PoolConfig | undefined;
};

/** A message of ours whose answers are counted. */
export type Command = {
  readonly id: number;
  readonly purpose: CommandPurpose;
  readonly sentAt: number;
  /** Undefined waits for as long as the nodes asked live. */
  readonly deadline: number | undefined;
  /** How many were asked: when nobody could be, there is nothing but the deadline to wait for. */
  readonly asked: number;
  readonly waiting: readonly number[];
  readonly replied: readonly number[];
};

export type CommandPurpose =
  | { readonly kind: "request_info" | "stand" | "declare" | "join" | "beacon" | "recovery_over" }
  | {
      readonly kind: "failover" | "leader_data" | "recovery" | "recovery_check";
      readonly client: number;
    };

export type CommandOutcome =
  | { readonly kind: "all_replied" | "timeout" | "nobody_left" }
  | { readonly kind: "rejected"; readonly by: number; readonly with: "error" | "reject" };

/** What the local pgpool thinks of the backends. */
export type BackendView = {
  readonly status: Omit<BackendStatus, "nodeName">;
  readonly quarantined: readonly number[];
  /** The primary that was quarantined, if one was. */
  readonly quarantinedPrimary: number | undefined;
};

export type Postponed = {
  readonly from: number;
  readonly id: number;
  readonly message: { readonly kind: "stand_for_coordinator" | "declare_coordinator" };
};

/** A cluster's recovery that another node leads, or that waits for our clients to go. */
export type RecoveryWait = {
  readonly node: number;
  readonly id: number;
  readonly deadline: number;
};

export type WatchdogNode = {
  state: StateName;
  since: number;
  readonly startedAt: number;
  timerAt: number | undefined;
  /** -1 after a resignation. */
  priority: number;
  leader: number | undefined;
  /** The last leader was given up because it is out of sight; nothing says that it is gone. */
  mayStillLead: boolean;
  /** Of the leader: who has joined it. */
  standbys: readonly number[];
  quorum: QuorumStatus;
  escalated: boolean;
  lifecheckStarted: boolean;
  remotes: Remote[];
  /** Of the last message sent. */
  lastId: number;
  commands: readonly Command[];
  votes: readonly VoteObject[];
  voteTimeoutMs: number;
  lastService: { readonly service: Service; readonly at: number } | undefined;
  /** What a candidate said while this node was initializing, one word of each. */
  postponed: readonly Postponed[];
  askedLeaderAt: number;
  beaconAt: number;
  promise: { readonly to: number; readonly until: number } | undefined;
  backends: BackendView;
  inRecovery: boolean;
  /** Who recovers a backend. */
  recoveryBy: number | undefined;
  recoveryWait: RecoveryWait | undefined;
  /** That of this node's own: the end of an earlier one may come late, and must not end it. */
  recoveryNumber: number;
  /** Which one a node was told of that has not said that it heard of the end. */
  recoveryOwed: ReadonlyMap<number, number>;
  /** Which one of another node holds this one's clients, and which ended last; 0 where 4.3.5 leads it. */
  recoveryHeard: { readonly number: number; readonly ended: number };
  /** Who was told at once that this node recovers a backend, or right after it was started. */
  recoverySound: readonly number[];
  /** Who was told that this node recovers a backend, and is not known to have ended since. */
  recoveryTold: readonly number[];
  /** Whose clients may have come in all the same: that node's name. */
  recoveryDoubt: string | undefined;
  /** Until then silence means nothing. */
  recoverySeenAt: number;
  recoveryAskedAt: number;
  clientCount: number;
  followLock: FollowLock;
};

export type Watchdog = Readonly<Omit<WatchdogNode, "remotes">> & {
  readonly remotes: readonly Readonly<Remote>[];
};

export type WatchdogEvent =
  /** The sockets listen. */
  | { readonly kind: "start" }
  /** Comes about once a second; never being late is not required. */
  | { readonly kind: "tick" }
  /** From a connection that is known to be that node's. */
  | {
      readonly kind: "packet";
      readonly from: number;
      readonly id: number;
      readonly message: ReceivedMessage;
    }
  /** The first packet of a connection that somebody opened. */
  | {
      readonly kind: "stranger";
      readonly connection: number;
      readonly address: string;
      readonly id: number;
      readonly message: ReceivedMessage;
    }
  | {
      readonly kind: "outbound_opened" | "outbound_closed" | "inbound_closed";
      readonly node: number;
    }
  /** `refused` when its host says that nobody listens. */
  | { readonly kind: "outbound_failed"; readonly node: number; readonly refused: boolean }
  | { readonly kind: "send_failed"; readonly node: number }
  | { readonly kind: "lifecheck"; readonly node: number; readonly alive: boolean }
  /** Whether a monitored link is up and an address is left, and whether the delegate IP is on one. */
  | { readonly kind: "network"; readonly up: boolean; readonly hasDelegateIp: boolean }
  /** A program on the socket, or our own pgpool. Answered once, by that number, in its own time. */
  | { readonly kind: "ask"; readonly client: number; readonly command: IpcCommand }
  | { readonly kind: "client_gone"; readonly client: number }
  | { readonly kind: "backends"; readonly view: BackendView }
  | { readonly kind: "client_count"; readonly count: number }
  /** The local pgpool is about to, or has finished to, follow a new primary. */
  | { readonly kind: "follow_lock"; readonly wanted: boolean; readonly client: number }
  | { readonly kind: "stop" };

export type Notice =
  /** It leads or follows now: the status of the backends is to be asked for. */
  | "state_changed"
  | "quorum_changed"
  /** Ask again about each quarantined backend. */
  | "revote_quarantined"
  /** Take the leader's status of the backends. */
  | "sync_backends";

export type Answer =
  | { readonly kind: "ok" | "bad" | "in_transition" | "silence" | "unknown_command" | "kept_open" }
  | { readonly kind: "failover_result"; readonly result: FailoverResult }
  | { readonly kind: "backend_status"; readonly status: BackendStatus }
  | { readonly kind: "variable"; readonly value: number | boolean }
  | { readonly kind: "node_list"; readonly list: NodeList }
  | { readonly kind: "follow_lock"; readonly granted: boolean };

/** Carried out in their order. None of them answers, except by a later event. */
export type WatchdogEffect =
  /** By either connection of that node, outbound first. */
  | {
      readonly kind: "send";
      readonly to: number;
      readonly id: number;
      readonly message: WatchdogMessage;
    }
  | { readonly kind: "dial"; readonly node: number }
  /** Both connections, after what is to be sent has gone. No event tells of an end that was ordered. */
  | { readonly kind: "close"; readonly node: number }
  | { readonly kind: "close_outbound"; readonly node: number }
  /** The connection is that node's inbound one from now on; an older one is closed. */
  | { readonly kind: "attach"; readonly connection: number; readonly node: number }
  | { readonly kind: "refuse"; readonly connection: number; readonly id: number }
  | { readonly kind: "hang_up"; readonly connection: number }
  | { readonly kind: "escalate" | "de_escalate" | "restore_delegate_ip" }
  | { readonly kind: "notify"; readonly notice: Notice }
  /** The cluster has decided; nobody is to be asked again. */
  | {
      readonly kind: "failover";
      readonly name: FailoverFunction;
      readonly nodes: readonly number[];
      readonly flags: number;
      readonly requestedBy: number;
    }
  | { readonly kind: "answer"; readonly client: number; readonly answer: Answer }
  | { readonly kind: "stop_pgpool"; readonly mode: "smart" | "fast" | "immediate" }
  | { readonly kind: "reload" | "rotate_log" | "enter_recovery" | "leave_recovery" }
  | {
      readonly kind: "log";
      readonly severity: "LOG" | "WARNING" | "FATAL";
      readonly message: string;
      readonly detail?: string | undefined;
    }
  /** The whole pgpool ends; Pgpool's watchdog exits with code 3. */
  | { readonly kind: "fatal"; readonly why: string };

export function initialWatchdog(rules: WatchdogRules, now: number): Watchdog {
  return {
    state: "DEAD",
    since: now,
    startedAt: now,
    timerAt: undefined,
    priority: rules.self.priority,
    leader: undefined,
    mayStillLead: false,
    standbys: [],
    quorum: 0,
    escalated: false,
    lifecheckStarted: false,
    remotes: rules.remotes.map((settings) => initialRemote(settings, now)),
    // Ids of different nodes never meet, so that no chance packet counts as an answer.
    lastId: (rules.self.id % 128) * 2 ** 24 + 1,
    commands: [],
    votes: [],
    voteTimeoutMs: 15_000,
    lastService: undefined,
    postponed: [],
    askedLeaderAt: now,
    beaconAt: now,
    promise: undefined,
    backends: {
      status: { statuses: [], primary: -2 },
      quarantined: [],
      quarantinedPrimary: undefined,
    },
    inRecovery: false,
    recoveryBy: undefined,
    recoveryWait: undefined,
    recoveryNumber: 0,
    recoveryOwed: new Map(),
    recoveryHeard: { number: 0, ended: 0 },
    recoverySound: [],
    recoveryTold: [],
    recoveryDoubt: undefined,
    recoverySeenAt: now,
    recoveryAskedAt: now,
    clientCount: 0,
    followLock: { holder: "nobody", pending: false },
  };
}

const initialRemote = (settings: NodeSettings, now: number): Remote => ({
  ...settings,
  state: "DEAD",
  lostReason: undefined,
  lostAt: undefined,
  membership: "MEMBER",
  nodeName: "",
  delegateIp: "",
  priority: 0,
  startedAt: undefined,
  life: undefined,
  stateSince: undefined,
  quorumStatus: 0,
  aliveNodeCount: 0,
  escalated: false,
  dataVersion: { major: 1, minor: 0 },
  outbound: "closed",
  inbound: "closed",
  dialledAt: undefined,
  refusedUs: false,
  sendFailures: 0,
  missedBeacons: 0,
  connectedAt: now,
  receivedAt: now,
  functionSentAt: undefined,
  hasLostUs: false,
  confirmedAt: undefined,
  config: undefined,
});
