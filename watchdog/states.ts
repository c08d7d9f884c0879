/** States of a watchdog node and what else has a number on the wire (spec watchdog/states.md 1). */

export const STATE_NAMES = [
  "DEAD",
  "LOADING",
  "JOINING",
  "INITIALIZING",
  "LEADER",
  "PARTICIPATING IN ELECTION",
  "STANDING FOR LEADER",
  "STANDBY",
  "LOST",
  "IN NETWORK TROUBLE",
  "SHUTDOWN",
  "ADD MESSAGE SENT",
  "NETWORK ISOLATION",
] as const;

/** As IPC and PCP print it. */
export type StateName = (typeof STATE_NAMES)[number];

export const stateNumber = (name: StateName): number => STATE_NAMES.indexOf(name);

/** Undefined for a number that is no state. */
export const stateOf = (number: number): StateName | undefined => STATE_NAMES[number];

/** A node that is being found, is looking for its place or is gone sends no heartbeats. */
export const hasPlace = (state: StateName): boolean => isActive(state) && !unplaced.has(state);
const unplaced: ReadonlySet<StateName> = new Set(["LOADING", "ADD MESSAGE SENT", "INITIALIZING"]);

/** Messages meant for all go to nodes in any other state than these. */
export const isActive = (state: StateName): boolean =>
  state !== "DEAD" && state !== "LOST" && state !== "SHUTDOWN";

/** 1 there is one, 0 it hangs on one more loss, -1 there is none. */
export type QuorumStatus = 1 | 0 | -1;

/** Whether a node counts when the majority is computed (spec watchdog/states.md 6.2). */
export const MEMBERSHIPS = [
  "MEMBER",
  "REVOKED-SHUTDOWN",
  "REVOKED-NO-SHOW",
  "REVOKED-LOST",
] as const;
export type Membership = (typeof MEMBERSHIPS)[number];

/** Why a node was given up; the words of the log. */
export type LostReason =
  /** Its own. */
  | "UNKNOWN REASON"
  | "REPORTED BY LIFECHECK"
  | "SEND MESSAGE FAILURES"
  | "MISSING BEACON REPLIES"
  | "RECEIVE TIMEOUT"
  | "NOT REACHABLE"
  | "SHUTDOWN";
