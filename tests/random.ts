/** Chance from a seed: the same everywhere (mulberry32). */

/** Numbers in [0, 1). */
export function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A whole number from 0 on that is below the one asked. */
export type Dice = (below: number) => number;

export function diceOf(seed: number): Dice {
  const random = randomOf(seed);
  return (below) => Math.floor(random() * below);
}
