/**
 * Whether the servers that hold the same data have answered a statement alike, and who is in the
 * wrong when they have not (spec extended-protocol.md section 10, native-replication.md section 7).
 */
import type { NodeId } from "../cluster/state.ts";

/** What one server said. */
export type Answer = {
  readonly node: NodeId;
  /** Letter of the last message that completed something, or E. */
  readonly kind: string;
  /** The text of its error, if it is one. */
  readonly error: string | undefined;
  /** Rows inserted, updated or deleted, of each statement in the text. */
  readonly rowCounts: readonly number[];
};

export type Agreement =
  | { readonly kind: "same" }
  /** They have changed different numbers of rows. */
  | { readonly kind: "rows"; readonly wrong: readonly NodeId[]; readonly counts: string }
  /** One has failed where another has not, or they have done something else altogether. */
  | {
      readonly kind: "kinds";
      readonly wrong: readonly NodeId[];
      readonly right: string;
      /** It is the majority's, and not just the main node's. */
      readonly byMajority: boolean;
      readonly details: string;
    };

/** `answers`: the main node's first. `configured`: how many nodes the configuration names. */
export function agreementOf(answers: readonly Answer[], configured: number): Agreement {
  const main = answers[0];
  if (main === undefined) return { kind: "same" };
  if (answers.some(({ kind }) => kind !== main.kind)) {
    const { value: right, byMajority } = verdict(
      answers.map(({ kind }) => kind),
      configured,
    );
    const wrong = answers.filter(({ kind }) => kind !== right).map(({ node }) => node);
    const details = answers.map(detailOf).join(" ");
    return { kind: "kinds", wrong, right, byMajority, details };
  }
  const sums = answers.map(({ rowCounts }) => rowCounts.join());
  if (sums.every((sum) => sum === sums[0])) return { kind: "same" };
  // The vote is among the nodes that are there (native-replication.md 7.3).
  const { value } = verdict(sums, answers.length);
  return {
    kind: "rows",
    wrong: answers.filter((_, i) => sums[i] !== value).map(({ node }) => node),
    counts: answers.map(({ node, rowCounts }) => `node ${node}: ${rowCounts.join()}`).join(", "),
  };
}

/** More than half of all is a majority; without one the main node, which comes first, is right. */
function verdict(values: readonly string[], all: number): { value: string; byMajority: boolean } {
  for (const value of values) {
    if (values.filter((each) => each === value).length > all / 2)
      return { value, byMajority: true };
  }
  return { value: values[0] ?? "", byMajority: false };
}

const detailOf = ({ node, kind, error }: Answer): string =>
  error === undefined ? `${node}[${kind}]` : `${node}[${kind}: ${error}]`;

/**
 * SQLSTATEs with which a server has undone a transaction for what others were doing at the time: the
 * other servers need not come to the same end, and so are made to (spec native-replication.md 2.3).
 * A deadlock, a serialization failure, an active transaction, a cancelled query.
 */
export const ABORTING: ReadonlySet<string> = new Set(["40P01", "40001", "25001", "57014"]);
