/**
 * A rewriting that holds for every text of the same tokens but for what its constants say: found by
 * the grammar once, and then put where the tokens of each text stand.
 */

import type { Rewriting } from "./rewrite.ts";
import type { TokenText } from "./tokens.ts";

/** A token by its index, and whether its end is meant. */
type Edge = { readonly token: number; readonly end: boolean };

export class RewritingPattern {
  readonly tokenCount: number;
  readonly #rewriting: Rewriting | undefined;
  /** Of each edit. */
  readonly #edges: readonly { readonly from: Edge; readonly to: Edge }[];

  /** `rewriting` of `text`; undefined when nothing in it is to be changed. */
  constructor(text: TokenText, rewriting: Rewriting | undefined) {
    this.tokenCount = text.tokens.length;
    this.#rewriting = rewriting;
    this.#edges = (rewriting?.edits ?? []).map(({ from, to }) => {
      const first = beginning(text, from);
      return { from: first, to: from === to ? first : ending(text, to) };
    });
  }

  get editCount(): number {
    return this.#edges.length;
  }

  /** For a text with as many tokens, of the same kinds. */
  appliedTo(text: TokenText): Rewriting | undefined {
    const rewriting = this.#rewriting;
    if (rewriting === undefined) return undefined;
    const placeOf = ({ token, end }: Edge) => (end ? text.toOf(token) : text.fromOf(token));
    const edits = rewriting.edits.map(({ pieces }, i) => {
      const { from, to } = this.#edges[i] as { from: Edge; to: Edge };
      return { from: placeOf(from), to: placeOf(to), pieces };
    });
    return { ...rewriting, edits };
  }
}

/** Where tokens touch, the one that begins there. */
function beginning(text: TokenText, at: number): Edge {
  const token = text.tokenAt(at);
  return token === undefined ? ending(text, at) : { token, end: false };
}

function ending(text: TokenText, at: number): Edge {
  const token = text.tokens.findIndex(({ to }) => to === at);
  return token < 0 ? { token: text.tokens.length, end: false } : { token, end: true };
}
