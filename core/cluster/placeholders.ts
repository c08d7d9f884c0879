/**
 * `%d`, `%h` and their kin in failover_command, failback_command and follow_primary_command (spec
 * wire/failover.md section 9). Numbers are bare, as Pgpool-II up to 4.3 wrote them: later versions
 * put a blank before some, which breaks `"%d"`.
 */

import type { NodeId } from "./state.ts";

/** A node as a command is told of it. */
export type CommandNode = {
  readonly id: NodeId;
  /** As configured: a socket directory stays one. */
  readonly hostname: string;
  readonly port: number;
  readonly dataDirectory: string;
};

export type CommandValues = {
  /** The node that was lost, attached, or is to follow. */
  readonly node: CommandNode;
  /** Undefined: no node is left. */
  readonly newMain: CommandNode | undefined;
  readonly oldMain: NodeId | undefined;
  readonly oldPrimary: CommandNode | undefined;
};

/** What stands for a host, port or directory that there is none of: an empty word of the shell. */
const NOTHING = '""';

const PLACEHOLDERS: { readonly [letter: string]: (values: CommandValues) => string } = {
  d: ({ node }) => String(node.id),
  h: ({ node }) => node.hostname,
  p: ({ node }) => String(node.port),
  D: ({ node }) => node.dataDirectory,
  m: ({ newMain }) => idOf(newMain?.id),
  H: ({ newMain }) => newMain?.hostname ?? NOTHING,
  r: ({ newMain }) => (newMain === undefined ? NOTHING : String(newMain.port)),
  R: ({ newMain }) => newMain?.dataDirectory ?? NOTHING,
  M: ({ oldMain }) => idOf(oldMain),
  P: ({ oldPrimary }) => idOf(oldPrimary?.id),
  N: ({ oldPrimary }) => oldPrimary?.hostname ?? NOTHING,
  S: ({ oldPrimary }) => (oldPrimary === undefined ? NOTHING : String(oldPrimary.port)),
  "%": () => "%",
};

const idOf = (id: NodeId | undefined): string => String(id ?? -1);

/** The command line for the shell. Nothing is quoted; an unknown placeholder, or a last `%`, is left out. */
export function commandLine(template: string, values: CommandValues): string {
  return template.replace(/%([\s\S]?)/g, (_, letter: string) =>
    Object.hasOwn(PLACEHOLDERS, letter) ? (PLACEHOLDERS[letter]?.(values) ?? "") : "",
  );
}
