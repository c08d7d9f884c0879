/**
 * The health check of one node as a machine (spec wire/failover.md section 3): when to try, when to
 * try again, when to give the node up, and the numbers of SHOW pool_health_check_stats. It holds no
 * timer: it says until when nothing is to be done, and whoever runs it comes back then.
 */

import { NEVER_CHECKED } from "../admin/show_nodes.ts";
import type { HealthCheckView } from "../admin/view.ts";
import type { BackendConfig } from "../config/schema.ts";
import type { LogSeverity } from "../ports.ts";
import type { NodeId, NodeStatus } from "./state.ts";

/** The parameters of one node; a BackendConfig is one. Read anew at each step, so a reload is felt. */
export type HealthSettings = Pick<
  BackendConfig,
  | "health_check_period"
  | "health_check_timeout"
  | "health_check_max_retries"
  | "health_check_retry_delay"
>;

/** What the machine must know of its node at a step. */
export type HealthFacts = {
  readonly node: NodeId;
  readonly settings: HealthSettings;
  readonly status: NodeStatus;
  /** `backend_flagN`. */
  readonly allowToFailover: boolean;
  /** A node that is down streams again, and auto_failback is on (spec section 8). */
  readonly streamsAgain: boolean;
  /** `auto_failback_interval` in milliseconds. */
  readonly autoFailbackIntervalMs: number;
  /** Milliseconds. */
  readonly now: number;
};

export type HealthEvent =
  /** `wakeAt` has come, or something changed that may matter. */
  | { readonly kind: "tick" }
  | { readonly kind: "answered" }
  | { readonly kind: "failed"; readonly why: string; readonly timedOut: boolean };

export type HealthEffect =
  /** Connect once; 0 is no limit. Report by `answered` or `failed`. */
  | { readonly kind: "try"; readonly timeoutMs: number }
  | {
      readonly kind: "log";
      readonly severity: LogSeverity;
      readonly message: string;
      readonly detail?: string;
    }
  /** `switchover`: sessions that do not use the node may stay, which a time-out does not grant upstream. */
  | { readonly kind: "detach"; readonly switchover: boolean; readonly why: string }
  /** `restore` ends a quarantine; else auto_failback attaches the node. */
  | { readonly kind: "attach"; readonly restore: boolean };

export type HealthPhase =
  | { readonly name: "resting"; readonly wakeAt: number }
  | Round<"trying">
  | (Round<"pausing"> & { readonly wakeAt: number });

/** A node that is down is tried to attach it, because it streams again, or just to say whether it answers. */
type Purpose = "check" | "failback" | "look";

type Round<N extends string> = {
  readonly name: N;
  readonly since: number;
  readonly retries: number;
  readonly purpose: Purpose;
};

export type HealthState = {
  readonly phase: HealthPhase;
  /** Whether the last try was answered: `pg_status`. Undefined until there was one. */
  readonly answers: boolean | undefined;
  /** auto_failback does not ask again before this time. */
  readonly nextFailbackAt: number;
  readonly stats: HealthCheckView;
};

/** What is known of a node by its checks, for SHOW and PCP. */
export type NodeHealth = {
  /** Undefined while the node is not checked. */
  readonly stats: HealthCheckView | undefined;
  /** Whether its server answered last; undefined while nothing asks it. */
  readonly answers: boolean | undefined;
};

type Step = readonly [HealthState, readonly HealthEffect[]];

/** How often a check that is off is looked at, in milliseconds: a reload may turn it on. */
const OFF_MS = 30_000;

/** The limit of a look at a node that is down, where checks have none, in milliseconds. */
const LOOK_MS = 10_000;

/** Begins at once with its first step. */
export const healthAtStart: HealthState = {
  phase: { name: "resting", wakeAt: 0 },
  answers: undefined,
  nextFailbackAt: 0,
  stats: NEVER_CHECKED,
};

export function stepHealth(state: HealthState, event: HealthEvent, facts: HealthFacts): Step {
  const { phase } = state;
  switch (phase.name) {
    case "resting":
      if (event.kind !== "tick" || facts.now < phase.wakeAt) return [state, []];
      return beginRound(state, facts);
    case "pausing":
      if (event.kind !== "tick" || facts.now < phase.wakeAt) return [state, []];
      return [{ ...state, phase: trying(phase) }, [tryOnce(facts)]];
    case "trying":
      if (event.kind === "answered") return answered(state, phase, facts);
      if (event.kind === "failed") return failed(state, phase, event, facts);
      return [state, []];
  }
}

/** The same, with its next check due at once: its settings, or its node, have changed. */
export const hurried = (state: HealthState): HealthState =>
  state.phase.name === "resting" ? { ...state, phase: { name: "resting", wakeAt: 0 } } : state;

/** When the machine wants its next tick; undefined while an answer is awaited. */
export const wakeAt = ({ phase }: HealthState): number | undefined =>
  phase.name === "trying" ? undefined : phase.wakeAt;

function beginRound(state: HealthState, facts: HealthFacts): Step {
  const { settings, status, now } = facts;
  if (settings.health_check_period <= 0 || status === "unused") {
    return [{ ...state, answers: undefined, phase: { name: "resting", wakeAt: now + OFF_MS } }, []];
  }
  const streams = facts.streamsAgain && now >= state.nextFailbackAt;
  const purpose = status !== "down" ? "check" : streams ? "failback" : "look";
  const total = state.stats.total + 1;
  const counted = { ...state.stats, total, lastCheck: now };
  const stats =
    purpose === "check" ? counted : { ...counted, skip: counted.skip + 1, lastSkip: now };
  const phase = { name: "trying", since: now, retries: 0, purpose } as const;
  const attempt = tryOnce(facts);
  // Nothing hangs on a look, which must not keep a node that is back from being seen.
  const limited = purpose === "look" && attempt.timeoutMs === 0;
  return [{ ...state, stats, phase }, [limited ? { ...attempt, timeoutMs: LOOK_MS } : attempt]];
}

function answered(state: HealthState, phase: Round<"trying">, facts: HealthFacts): Step {
  const { node, now, status } = facts;
  const effects: HealthEffect[] = [];
  if (phase.retries > 0) {
    effects.push(log("LOG", `health check retrying on DB node: ${node} succeeded`));
  }
  const well = { ...state, answers: true };
  if (phase.purpose === "look") return [seen(well, facts), effects];
  if (phase.purpose === "failback") {
    if (status !== "down") return [rest(well, facts), effects]; // somebody was quicker
    effects.push(log("LOG", `request auto failback, node id:${node}`));
    effects.push({ kind: "attach", restore: false });
    const nextFailbackAt = now + facts.autoFailbackIntervalMs;
    return [rest({ ...well, nextFailbackAt }, facts), effects];
  }
  if (status === "quarantine") effects.push({ kind: "attach", restore: true });
  const stats = timed(state.stats, phase, now);
  const counted = { ...stats, success: stats.success + 1, lastSuccess: now };
  return [rest({ ...well, stats: counted }, facts), effects];
}

function failed(
  state: HealthState,
  phase: Round<"trying">,
  event: HealthEvent & { readonly kind: "failed" },
  facts: HealthFacts,
): Step {
  const { node, now, settings } = facts;
  const ill = { ...state, answers: false };
  if (phase.purpose === "look") return [seen(ill, facts), []];
  if (phase.retries < settings.health_check_max_retries) {
    const retries = phase.retries + 1;
    const wakeAt = now + settings.health_check_retry_delay * 1000;
    const { stats } = state;
    const counted =
      phase.purpose === "failback"
        ? stats
        : { ...stats, retry: stats.retry + 1, maxRetry: Math.max(stats.maxRetry, retries) };
    const message = `health check retrying on DB node: ${node} (round:${retries})`;
    const pausing: HealthPhase = { ...phase, name: "pausing", retries, wakeAt };
    return [{ ...state, stats: counted, phase: pausing }, [log("LOG", message, event.why)]];
  }
  if (phase.purpose === "failback") return [rest(ill, facts), []];
  const stats = timed(state.stats, phase, now);
  const counted = { ...stats, fail: stats.fail + 1, lastFail: now };
  return [rest({ ...ill, stats: counted }, facts), verdict(event, facts)];
}

/** What a node that failed its last try has to expect. */
function verdict(
  { why, timedOut }: HealthEvent & { readonly kind: "failed" },
  { node, status, allowToFailover }: HealthFacts,
): readonly HealthEffect[] {
  if (status !== "up" && status !== "waiting") return []; // in quarantine, or detached meanwhile
  if (!allowToFailover) {
    const message = `health check failed on node ${node} but failover is disallowed for the node`;
    return [log("LOG", message, why)];
  }
  const message = `health check failed on node ${node} (timeout:${timedOut ? 1 : 0})`;
  return [log("LOG", message, why), { kind: "detach", switchover: !timedOut, why }];
}

const trying = ({ since, retries, purpose }: Round<"pausing">): Round<"trying"> => ({
  name: "trying",
  since,
  retries,
  purpose,
});

const rest = (state: HealthState, { settings, now }: HealthFacts): HealthState => ({
  ...state,
  phase: { name: "resting", wakeAt: now + settings.health_check_period * 1000 },
});

/** A node that was attached while it was looked at is due for a check. */
const seen = (state: HealthState, facts: HealthFacts): HealthState =>
  facts.status === "down"
    ? rest(state, facts)
    : { ...state, phase: { name: "resting", wakeAt: facts.now } };

const tryOnce = ({ settings }: HealthFacts): HealthEffect & { readonly kind: "try" } => ({
  kind: "try",
  timeoutMs: settings.health_check_timeout * 1000,
});

/** The duration of a round, its retries and pauses included. */
function timed(stats: HealthCheckView, { since }: Round<"trying">, now: number): HealthCheckView {
  const ms = now - since;
  const first = stats.success + stats.fail === 0;
  return {
    ...stats,
    totalDurationMs: stats.totalDurationMs + ms,
    maxDurationMs: Math.max(stats.maxDurationMs, ms),
    minDurationMs: first ? ms : Math.min(stats.minDurationMs, ms),
  };
}

function log(severity: LogSeverity, message: string, detail?: string): HealthEffect {
  return detail === undefined
    ? { kind: "log", severity, message }
    : { kind: "log", severity, message, detail };
}
