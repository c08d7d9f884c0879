/**
 * How backends stand with a standby pgpool after it has heard the leader, and what the leader does
 * with its quarantined backends when the quorum is back (spec watchdog/states.md section 8).
 */

import { type BackendStatus, REQUEST_FLAGS } from "./bodies.ts";

export type OwnBackends = {
  /** By backend, as in BackendStatus; 3 for a quarantined one. */
  readonly statuses: readonly number[];
  readonly quarantined: readonly number[];
  /** -1 none. */
  readonly primary: number;
};

export type BackendSync = {
  /** What each backend is from now on; quarantines are over. */
  readonly statuses: readonly ("unused" | "waiting" | "down")[];
  readonly primary: number;
  /** Who must connect anew. */
  readonly sessions: "all" | "of_backends_gone_down" | "none";
};

const DOWN = 3;

/** `isStreaming`: the mode in which a primary is looked for. */
export function syncBackends(
  own: OwnBackends,
  leader: BackendStatus,
  isStreaming: boolean,
): BackendSync {
  const statuses = own.statuses.map((mine, id) => {
    const told = leader.statuses[id] ?? mine;
    if (told === 0) return "unused";
    return told === DOWN ? "down" : "waiting";
  });
  const primary = primaryAfter(own, leader);
  const wasDown = (id: number) => own.statuses[id] === DOWN;
  const wentDown = statuses.some((status, id) => status === "down" && !wasDown(id));
  const cameUp = statuses.some((status, id) => status === "waiting" && wasDown(id));
  const isChanged = wentDown || cameUp || primary !== own.primary;
  if (!isChanged) return { statuses, primary, sessions: "none" };
  const needsAll = !isStreaming || primary !== own.primary;
  const sessions = needsAll ? "all" : wentDown ? "of_backends_gone_down" : "none";
  return { statuses, primary, sessions };
}

/** A leader that knows no primary does not take away one that lives here. */
function primaryAfter(own: OwnBackends, leader: BackendStatus): number {
  const isLive = own.primary >= 0 && own.statuses[own.primary] !== DOWN;
  return leader.primary < 0 && isLive ? own.primary : leader.primary;
}

/** What a leader asks of its own pgpool at a change of quorum: these are attached again. */
export const attachAfterQuorum = (
  quorum: number,
  quarantined: readonly number[],
): { readonly nodes: readonly number[]; readonly flags: number } => ({
  nodes: quorum >= 0 ? quarantined : [],
  flags: REQUEST_FLAGS.update | REQUEST_FLAGS.watchdog,
});
