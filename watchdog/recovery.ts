/**
 * Online recovery where pgpool replicates, as the nodes of a cluster go through it together (spec
 * watchdog/wire.md): from START RECOVERY to END RECOVERY no client of any of them may write, for the
 * backend that is recovered would lack it. Who recovers must hear of each that lets clients in before;
 * who is held must not be so for ever.
 */
import { type FunctionCall, NO_SECRETS } from "./bodies.ts";
import type { Answer, Remote, Watchdog } from "./node.ts";
import { isActive } from "./states.ts";
import { isReachable, TIMES, type Turn } from "./turn.ts";

// ---------------------------------------------------------------- of this node

/** This node's pgpool recovers a backend, is about to attach it, or does so no longer. */
export function askRecovery(turn: Turn, client: number, call: FunctionCall): Answer | undefined {
  if (call.name === "CONFIRM_RECOVERY") return confirm(turn, client);
  const { node } = turn;
  const others = turn.active();
  if (call.name !== "START_RECOVERY" && call.name !== "END_RECOVERY") return { kind: "bad" };
  if (call.name === "START_RECOVERY") {
    if (node.state !== "STANDBY" && node.state !== "LEADER") return { kind: "in_transition" };
    if (node.inRecovery) return { kind: "bad" }; // another's, or one of ours
    begin(turn, turn.self);
    node.recoveryDoubt = undefined;
    node.recoverySound = others.map(({ id }) => id);
    node.recoveryTold = node.recoverySound;
    // By chance, for the numbers of messages begin anew with each pgpool.
    node.recoveryNumber = call.flags;
    for (const remote of others) owe(turn, remote);
    for (const remote of turn.remotes) if (isOutOfSight(remote)) warnOf(turn, remote);
  } else {
    if (node.recoveryBy !== turn.self) return { kind: "ok" };
    node.inRecovery = false;
    node.recoveryBy = undefined;
    for (const remote of turn.remotes) {
      // It has been told of the beginning, and not said yet what it is.
      if (!others.includes(remote) && isReachable(remote)) tellRecovery(turn, remote);
    }
  }
  if (others.length === 0) return { kind: "ok" };
  turn.command(
    { kind: "recovery", client },
    messageOf(call.name, node.recoveryNumber),
    others,
    Math.max(0, turn.rules.recoveryTimeoutS) + TIMES.reply,
  );
  return undefined;
}

/** Whoever has hung up does not answer any more: what all answer holds when it is asked. */
function confirm(turn: Turn, client: number): Answer | undefined {
  const { node } = turn;
  if (node.recoveryBy !== turn.self || recoveryDoubt(node) !== undefined) return { kind: "bad" };
  const told = turn.remotes.filter(({ id }) => node.recoveryTold.includes(id));
  if (told.length === 0) return { kind: "ok" };
  turn.command({ kind: "recovery_check", client }, { kind: "request_info" }, told, TIMES.reply);
  return undefined;
}

function begin({ node, now }: Turn, by: number): void {
  node.inRecovery = true;
  node.recoveryBy = by;
  node.recoverySeenAt = now;
  node.recoveryAskedAt = now;
}

/**
 * To the node of a new connection: one that starts has not heard that this node recovers a backend, and
 * one that was lost perhaps not that it does so no longer, for which alone its clients wait.
 */
export function tellRecovery(turn: Turn, remote: Remote): void {
  const { node } = turn;
  const isUnderWay = node.recoveryBy === turn.self;
  const owed = node.recoveryOwed.get(remote.id);
  if (!isUnderWay && owed === undefined) return;
  if (isUnderWay && node.recoveryTold.includes(remote.id)) {
    // Whoever loses sight of this node hangs up, and has let its clients in.
    doubt(turn, remote);
    if (isDue(turn, remote)) return;
  }
  if (!isUnderWay) {
    const message = messageOf("END_RECOVERY", owed ?? 0);
    turn.command({ kind: "recovery_over" }, message, [remote], TIMES.reply);
    return;
  }
  node.recoveryTold = [...without(node.recoveryTold, remote), remote.id];
  owe(turn, remote);
  turn.send(remote, messageOf("START_RECOVERY", node.recoveryNumber));
}

function owe({ node }: Turn, { id }: Remote): void {
  node.recoveryOwed = new Map([...node.recoveryOwed, [id, node.recoveryNumber]]);
}

/**
 * It has made a connection of its own. A newcomer is told by it, if that is all there is so far
 * (`tellRecovery` follows with ours); anybody else has hung up before.
 */
export function calledInRecovery(turn: Turn, remote: Remote): void {
  const { node } = turn;
  if (node.recoveryBy !== turn.self) return;
  const isNewborn = (remote.life?.age ?? 0) <= TIMES.recoveryNewborn;
  if (node.recoveryTold.includes(remote.id) && !isNewborn) doubt(turn, remote);
  if (remote.outbound === "open") return;
  owe(turn, remote);
  turn.send(remote, messageOf("START_RECOVERY", node.recoveryNumber));
}

/** 4.3.5 has no use for the flags here. */
const messageOf = (name: "START_RECOVERY" | "END_RECOVERY", number: number) =>
  ({ kind: "online_recovery", call: { ...NO_SECRETS, name, flags: number, nodes: [] } }) as const;

/** It has said that it knows of the end. */
export function heardOfEnd({ node, self }: Turn, remote: Remote): void {
  if (node.recoveryBy === self) return;
  node.recoveryOwed = new Map([...node.recoveryOwed].filter(([id]) => id !== remote.id));
}

/** It may serve clients, and cannot be told. */
const isOutOfSight = ({ state, refusedUs }: Remote): boolean =>
  (state === "LOST" || state === "DEAD") && !refusedUs;

function warnOf(turn: Turn, remote: Remote): void {
  const message = `"${turn.nameOf(remote)}" is out of sight while a backend is recovered`;
  turn.log(
    "WARNING",
    message,
    "what clients of it, if it has any, write meanwhile the backend will lack",
  );
}

/** What this node's recovery has begun with may not hold any more: its end must not count. */
function doubt(turn: Turn, remote: Remote): void {
  turn.node.recoveryDoubt ??= turn.nameOf(remote);
}

/** Whether it has still to say that its clients are gone. */
const isDue = ({ node }: Turn, { id }: Remote): boolean =>
  node.commands.some(({ purpose, waiting }) => purpose.kind === "recovery" && waiting.includes(id));

const without = (ids: readonly number[], { id }: Remote): readonly number[] =>
  ids.filter((each) => each !== id);

// ---------------------------------------------------------------- of another node

/** Another node recovers a backend: no client may come in, and those inside are waited for. */
export function receiveRecovery(turn: Turn, remote: Remote, call: FunctionCall, id: number): void {
  const { node } = turn;
  const reply = (kind: "accept" | "reject" | "error") => turn.send(remote, { kind }, id);
  if (call.name === "END_RECOVERY") {
    // Whoever was turned away says so too, and ends nobody else's; nor does one that comes late.
    const { number } = node.recoveryHeard;
    const isThis = number === 0 || call.flags === 0 || call.flags === number;
    if (node.recoveryBy === remote.id && isThis) leave(turn);
    node.recoveryHeard = { ...node.recoveryHeard, ended: call.flags };
    reply("accept");
    return;
  }
  if (call.name !== "START_RECOVERY") {
    reply("error");
    return;
  }
  if (call.flags !== 0 && call.flags === node.recoveryHeard.ended) {
    reply("accept"); // it comes behind its own end, by another connection
    return;
  }
  if (node.inRecovery) {
    // Said once more, by a new connection: its clients are held, and may all be gone.
    const isHeld = node.recoveryBy === remote.id;
    if (isHeld) node.recoveryHeard = { ...node.recoveryHeard, number: call.flags };
    if (!isHeld) reply("reject");
    else if (node.recoveryWait === undefined && node.clientCount === 0) reply("accept");
    else waitForClients(turn, remote, id);
    return;
  }
  turn.log("LOG", `"${turn.nameOf(remote)}" recovers a backend`, "new clients wait");
  begin(turn, remote.id);
  node.recoveryHeard = { ...node.recoveryHeard, number: call.flags };
  waitForClients(turn, remote, id);
}

function waitForClients(turn: Turn, remote: Remote, id: number): void {
  const { node, rules } = turn;
  const deadline = turn.now + Math.max(0, rules.recoveryTimeoutS) * 1000;
  node.recoveryWait = { node: remote.id, id, deadline };
  // Answered when it is told how many clients there are then: some have come since it heard last.
  turn.act({ kind: "enter_recovery" });
}

/** Answers a node that waits for our clients to go, once they have or have had their time. */
export function answerRecovery(turn: Turn): void {
  const { recoveryWait: wait, clientCount } = turn.node;
  if (wait === undefined || (clientCount > 0 && turn.now < wait.deadline)) return;
  turn.node.recoveryWait = undefined;
  const remote = turn.remote(wait.node);
  if (remote === undefined) return;
  turn.send(remote, { kind: clientCount === 0 ? "accept" : "reject" }, wait.id);
}

function leave(turn: Turn): void {
  turn.log("LOG", "another node's recovery of a backend is over");
  turn.node.inRecovery = false;
  turn.node.recoveryBy = undefined;
  turn.node.recoveryWait = undefined;
  turn.act({ kind: "leave_recovery" });
}

// ---------------------------------------------------------------- what becomes of the others

/** A node is lost; `isGone`: its pgpool has ended, as far as can be known. */
export function lostInRecovery(turn: Turn, remote: Remote, isGone: boolean): void {
  const { node } = turn;
  // Nobody else will say that its recovery is over.
  if (node.recoveryBy === remote.id) leave(turn);
  if (node.recoveryBy !== turn.self || !node.recoveryTold.includes(remote.id)) return;
  // One that says that it goes may still have clients.
  if (!isGone || isDue(turn, remote)) doubt(turn, remote);
  forget(turn, remote);
}

function forget({ node }: Turn, remote: Remote): void {
  node.recoveryTold = without(node.recoveryTold, remote);
  node.recoverySound = without(node.recoverySound, remote);
}

/** Its age in seconds, if it tells it. Who was not told at once must be too young to have served anybody. */
export function agedInRecovery(turn: Turn, remote: Remote, age: number | undefined): void {
  const { node } = turn;
  if (node.recoveryBy !== turn.self || node.recoverySound.includes(remote.id)) return;
  if (!isActive(remote.state)) return; // its last word
  if (age === undefined || age > TIMES.recoveryNewborn) doubt(turn, remote);
  else node.recoverySound = [...node.recoverySound, remote.id];
}

/** Its pgpool has been started anew: what was said to the one before, or by it, is void. */
export function restartedInRecovery(turn: Turn, remote: Remote): void {
  const { node } = turn;
  if (node.recoveryBy === remote.id) leave(turn);
  forget(turn, remote);
  node.commands = node.commands.map((command) =>
    command.purpose.kind === "recovery"
      ? { ...command, waiting: without(command.waiting, remote) }
      : command,
  );
}

/** Whoever stood still could hear nobody. Before anything else on a tick. */
export function wakeInRecovery(turn: Turn): void {
  const { node } = turn;
  const pauseMs = turn.since(node.recoveryAskedAt);
  if (node.inRecovery && pauseMs > 3 * TIMES.recoveryAsk * 1000) node.recoverySeenAt = turn.now;
}

/**
 * On every tick. The life check rests meanwhile, and standbys say nothing to each other: so those who
 * are in it together ask each other how they are, and mind when nothing is heard.
 */
export function watchRecovery(turn: Turn): void {
  const { node, now } = turn;
  const pauseMs = turn.since(node.recoveryAskedAt);
  if (pauseMs < TIMES.recoveryAsk * 1000) return;
  node.recoveryAskedAt = now;
  if (node.recoveryBy !== turn.self) sayOverAgain(turn);
  if (!node.inRecovery) return;
  // Who was away for so long may have been given up.
  const wasAway = pauseMs >= TIMES.recoveryDoubt * 1000;
  const isOurs = node.recoveryBy === turn.self;
  for (const remote of turn.remotes) {
    if (isOurs ? !node.recoveryTold.includes(remote.id) : node.recoveryBy !== remote.id) continue;
    const isSilent = silenceOf(node, remote, now) >= TIMES.recoveryDoubt * 1000;
    if (isOurs && (wasAway || (isSilent && !isDue(turn, remote)))) doubt(turn, remote);
    if (isReachable(remote)) turn.send(remote, { kind: "request_info" });
  }
}

/** To those who have not said that they heard it. */
function sayOverAgain(turn: Turn): void {
  const { commands, recoveryOwed } = turn.node;
  const isAsked = (id: number) =>
    commands.some(
      ({ purpose: { kind }, waiting }) =>
        (kind === "recovery" || kind === "recovery_over") && waiting.includes(id),
    );
  for (const remote of turn.remotes) {
    const { id } = remote;
    if (recoveryOwed.has(id) && isReachable(remote) && !isAsked(id)) tellRecovery(turn, remote);
  }
}

/** The node that holds this one's clients is not heard of any more. */
export const isSilentInRecovery = ({ node, now }: Turn, remote: Remote): boolean =>
  node.recoveryBy === remote.id && silenceOf(node, remote, now) >= TIMES.recoveryGiveUp * 1000;

const silenceOf = (node: Watchdog, { receivedAt }: Remote, now: number): number =>
  now - Math.max(receivedAt, node.recoverySeenAt);

/** The name of a node whose clients may have come in since this node's recovery began. */
export function recoveryDoubt(node: Watchdog): string | undefined {
  if (node.recoveryDoubt !== undefined) return node.recoveryDoubt;
  const { recoveryTold: told, recoverySound: sound } = node;
  // Cut off just now, or just come, and it has not said how old it is.
  const doubtful = node.remotes.find(
    (remote) => told.includes(remote.id) && (!isReachable(remote) || !sound.includes(remote.id)),
  );
  return doubtful && (doubtful.nodeName || doubtful.hostname);
}
