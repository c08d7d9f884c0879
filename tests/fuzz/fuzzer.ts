/** What a row of the fuzzers' table is, and the mutations that make good input slightly bad. */

import fc from "fast-check";

export type Fuzzer = {
  readonly name: string;
  /** The claim, as a sentence: what holds of every input. */
  readonly claim: string;
  /** Runs when none are asked for: some seconds' worth. */
  readonly runs: number;
  /** Set for the canary alone: the check that checks are made. */
  readonly mustFail?: true;
  /** Rejects with fast-check's report, which holds the smallest input that breaks the claim. */
  run(options: { readonly seed: number; readonly runs: number }): Promise<void>;
};

/** No input may take longer, in milliseconds of CPU: the machine may be busy with other things. */
const INPUT_MS_MAX = 5_000;

/** A row from an arbitrary and a check that throws, or rejects, when the claim is broken. */
export function fuzzer<T>(row: {
  readonly name: string;
  readonly claim: string;
  readonly runs: number;
  readonly mustFail?: true;
  readonly input: fc.Arbitrary<T>;
  readonly check: (input: T) => void | Promise<void>;
}): Fuzzer {
  const property = fc.asyncProperty(row.input, async (input) => {
    const began = process.cpuUsage();
    await row.check(input);
    const { user, system } = process.cpuUsage(began);
    const tookMs = (user + system) / 1000;
    if (tookMs > INPUT_MS_MAX) throw new Error(`one input took ${Math.round(tookMs)} ms`);
  });
  return {
    ...row,
    run: ({ seed, runs }) => fc.assert(property, { seed, numRuns: runs }),
  };
}

/** Values that lengths and counts go wrong at. */
const BOUNDARIES = [0, 1, 3, 4, 5, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

type Mutation = (bytes: number[]) => number[];

const place = fc.nat(10_000);
const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  // One byte is another.
  fc.tuple(place, fc.nat(255)).map(
    ([at, byte]): Mutation =>
      (bytes) =>
        bytes.with(at % bytes.length, byte),
  ),
  // Four bytes are a boundary.
  fc.tuple(place, fc.constantFrom(...BOUNDARIES)).map(
    ([at, value]): Mutation =>
      (bytes) =>
        splice(bytes, at, 4, [value >>> 24, value >>> 16, value >>> 8, value]),
  ),
  // Some are missing.
  fc.tuple(place, fc.integer({ min: 1, max: 8 })).map(
    ([at, count]): Mutation =>
      (bytes) =>
        splice(bytes, at, count, []),
  ),
  // Some are too many.
  fc.tuple(place, fc.array(fc.nat(255), { minLength: 1, maxLength: 8 })).map(
    ([at, extra]): Mutation =>
      (bytes) =>
        splice(bytes, at, 0, extra),
  ),
  // The end is missing.
  place.map(
    (at): Mutation =>
      (bytes) =>
        bytes.slice(0, at % bytes.length),
  ),
);

function splice(bytes: number[], at: number, count: number, extra: readonly number[]): number[] {
  return bytes.toSpliced(at % bytes.length, count, ...extra.map((byte) => byte & 0xff));
}

/** Good bytes made bad in up to four places; sometimes left as they are. */
export function mutated(good: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> {
  return fc.tuple(good, fc.array(mutation, { maxLength: 4 })).map(([bytes, mutations]) => {
    let result = [...bytes];
    for (const mutate of mutations) if (result.length > 0) result = mutate(result);
    return Uint8Array.from(result);
  });
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Good text made bad likewise, byte by byte. */
export function mutatedText(good: fc.Arbitrary<string>): fc.Arbitrary<string> {
  return mutated(good.map((text) => encoder.encode(text))).map((bytes) => decoder.decode(bytes));
}
