/**
 * The redirect lists: `pattern:node(ratio)`, comma-separated. Reads of a user, database or
 * application whose name fits go to that node.
 */

import { nodeId } from "../cluster/state.ts";
import { ConfigError } from "../errors.ts";
import { anchoredPattern } from "../posix_regex.ts";
import { INDEX_MAX } from "./param.ts";
import type { Redirect } from "./schema.ts";

/** The words by which an error about a pattern calls it. */
const SUBJECT = {
  user_redirect_preference_list: "user name",
  database_redirect_preference_list: "dbname",
  app_name_redirect_preference_list: "app name",
} as const;
export type RedirectListName = keyof typeof SUBJECT;

export const isRedirectList = (name: string): name is RedirectListName =>
  Object.hasOwn(SUBJECT, name);

/**
 * In the order written; the first that fits counts. An item without a node is passed over, and a
 * ratio that is no number from 0 to 1 counts as 1, as upstream has it.
 *
 * @throws ConfigError when a node or a pattern is wrong.
 */
export function parseRedirects(name: RedirectListName, text: string): readonly Redirect[] {
  const redirects: Redirect[] = [];
  for (const item of text.split(",")) {
    const colon = item.indexOf(":");
    if (colon < 0) continue;
    const pattern = item.slice(0, colon).trim();
    const [, spec = "", ratioText] = /^([^(]*)(?:\((.*)\))?/s.exec(item.slice(colon + 1)) ?? [];
    const node = nodeOf(spec.trim());
    if (node === undefined) throw wrong(name, `wrong redirect db node spec: "${spec.trim()}"`);
    const compiled = anchoredPattern(pattern);
    if (compiled === undefined) {
      throw wrong(name, `wrong redirect ${SUBJECT[name]} regular expression: "${pattern}"`);
    }
    redirects.push({ pattern: compiled, node, ratio: ratioOf(ratioText) });
  }
  return redirects;
}

function nodeOf(spec: string): Redirect["node"] | undefined {
  if (spec === "primary" || spec === "standby") return spec;
  if (!/^[0-9]+$/.test(spec) || Number(spec) > INDEX_MAX.backend) return undefined;
  return nodeId(Number(spec));
}

function ratioOf(text: string | undefined): number {
  const ratio = text === undefined || text.trim() === "" ? 1 : Number(text);
  return ratio >= 0 && ratio <= 1 ? ratio : 1;
}

const wrong = (name: string, detail: string): ConfigError =>
  new ConfigError(`invalid configuration for key "${name}"`, { detail });
