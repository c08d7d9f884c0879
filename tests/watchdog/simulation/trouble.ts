/** What befalls a played cluster: a run is a seed's worth of trouble, then peace. */

import type { Lease } from "../../../watchdog/node.ts";
import { randomOf } from "../../random.ts";
import { disagreement, Invariants } from "./invariants.ts";
import { CALM, type Weather } from "./network.ts";
import { World } from "./world.ts";

const TROUBLE_MS = 180_000;
const ROUGH: Weather = { delayMs: 40, loss: 0.02, duplication: 0.1, reordering: 0.2 };
const SLOW: Weather = { delayMs: 600, loss: 0, duplication: 0, reordering: 0 };
const WEATHERS = [CALM, CALM, SLOW, ROUGH];

/** After this the last recovery is over, and nobody is held by it any more. */
const HELD_MAX_MS = 180_000;

export type RunOptions = {
  readonly seed: number;
  readonly lease: Lease | undefined;
  readonly overlapMaxMs: number;
  /** From the end of all trouble until one leads and all agree. */
  readonly agreeWithinMs: number;
};

export type RunResult = {
  readonly failure: string | undefined;
  readonly story: readonly string[];
  readonly agreedAfterMs: number;
  readonly longestOverlapMs: number;
  readonly executions: number;
  /** Backends that were recovered, and recoveries that were doubted. */
  readonly recovered: number;
  readonly doubted: number;
};

export function play(options: RunOptions): RunResult {
  const random = randomOf(options.seed * 7919 + 1);
  const nodes = 3 + Math.floor(random() * 3);
  const drift = random() < 0.5 ? 0 : 0.05;
  const { seed, lease } = options;
  const asBytes = seed % 10 === 0;
  const world = new World({ seed, nodes, backends: 2, lease, drift, asBytes });
  const invariants = new Invariants(world, options.overlapMaxMs);
  let agreedAfterMs = 0;
  const failure = reasonOf(() => {
    const check = () => invariants.check();
    for (const { id } of world.hosts) world.time.after(random() * 8000, () => world.start(id));
    world.time.run(10_000, check);
    while (world.time.now < TROUBLE_MS) {
      world.time.run(world.time.now + random() * 20_000, check);
      befall(world, random);
    }
    makePeace(world);
    const peaceAt = world.time.now;
    for (;;) {
      world.time.run(world.time.now + 1000, check);
      agreedAfterMs = world.time.now - peaceAt;
      const why = disagreement(world);
      if (why === undefined) break;
      if (agreedAfterMs >= options.agreeWithinMs) throw new Error(`no agreement: ${why}`);
    }
    // And so it stays.
    world.time.run(world.time.now + 45_000, check);
    const why = disagreement(world);
    if (why !== undefined) throw new Error(`agreement did not last: ${why}`);
    world.time.run(world.time.now + HELD_MAX_MS, check);
    const held = world.hosts.filter(({ isHeld }) => isHeld).map(({ id }) => `n${id}`);
    if (held.length > 0) throw new Error(`held for ever: ${held.join(" ")}`);
  });
  return {
    failure,
    story: world.story,
    agreedAfterMs,
    longestOverlapMs: invariants.longestOverlapMs,
    executions: world.executions.length,
    recovered: world.recovered.length,
    doubted: world.doubted,
  };
}

function reasonOf(act: () => void): string | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function befall(world: World, random: () => number): void {
  const count = world.hosts.length;
  const any = () => Math.floor(random() * count);
  const kinds = [
    () => isolate(world, any(), random() < 0.3),
    () => split(world, random),
    () => cutSome(world, random),
    () => healAll(world),
    () => healAll(world),
    () => world.crash(any(), random() < 0.4),
    () => world.stop(any()),
    () => world.pause(any()),
    () => goOn(world),
    () => goOn(world),
    () => change(world, WEATHERS[Math.floor(random() * WEATHERS.length)] ?? CALM),
    () => toggleBackend(world, Math.floor(random() * 2)),
    () => world.recover(any(), 2000 + random() * 60_000),
    () => world.recover(any(), 2000 + random() * 60_000),
  ];
  kinds[Math.floor(random() * kinds.length)]?.();
}

function isolate(world: World, id: number, oneWay: boolean): void {
  world.tell(`n${id} is ${oneWay ? "not heard any more" : "cut off"}`);
  for (const other of world.hosts) {
    if (other.id === id) continue;
    world.network.cut(id, other.id);
    if (!oneWay) world.network.cut(other.id, id);
  }
}

function split(world: World, random: () => number): void {
  const left = new Set(world.hosts.filter(() => random() < 0.5).map(({ id }) => id));
  world.tell(`split: ${[...left].map((id) => `n${id}`).join(" ")} from the rest`);
  for (const { id: a } of world.hosts) {
    for (const { id: b } of world.hosts) {
      if (left.has(a) !== left.has(b)) world.network.cut(a, b);
    }
  }
}

function cutSome(world: World, random: () => number): void {
  for (const { id: a } of world.hosts) {
    for (const { id: b } of world.hosts) {
      if (a === b || random() > 0.3) continue;
      world.tell(`n${a} does not reach n${b}`);
      world.network.cut(a, b);
    }
  }
}

function healAll(world: World): void {
  world.tell("all links are whole");
  world.network.heal();
}

function goOn(world: World): void {
  for (const { id, node } of world.hosts) {
    if (node === undefined || isOver(node.state)) {
      world.crash(id, false);
      world.start(id);
    } else world.resume(id);
  }
}

const isOver = (state: string): boolean => state === "LOST" || state === "SHUTDOWN";

function change(world: World, weather: Weather): void {
  world.tell(`weather: ${JSON.stringify(weather)}`);
  world.network.weather = weather;
}

function toggleBackend(world: World, backend: number): void {
  const isUp = world.backendsUp[backend] === true;
  world.tell(`backend ${backend} ${isUp ? "fails" : "is back"}`);
  world.backendsUp[backend] = !isUp;
  if (!isUp) world.attach(backend);
}

function makePeace(world: World): void {
  world.tell("peace");
  change(world, CALM);
  healAll(world);
  goOn(world);
  for (const backend of world.backendsUp.keys()) {
    if (world.backendsUp[backend] !== true) toggleBackend(world, backend);
  }
}
