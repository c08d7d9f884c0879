/**
 * The values that lines have set so far, before nodes are gathered from them: what a reload starts
 * from, and what Config is built of.
 */

import { ConfigError } from "../errors.ts";
import { ConfigFileError, type ConfigMessage, type Setting } from "./conf_file.ts";
import { parseBackendFlag } from "./flag.ts";
import { type Context, INDEX_MAX, type Row, type Value } from "./param.ts";
import { type ParamName, params, rowOf } from "./params.ts";
import { isRedirectList, parseRedirects } from "./redirect.ts";
import { initialValue, parseValue } from "./value.ts";

export type Given = { readonly value: Value; readonly text: string };

/** By the name as written, index included (`backend_port0`); names that nothing set are absent. */
export type Settings = ReadonlyMap<string, Given>;

/** What a name in a file stands for. */
export type Target = {
  readonly name: ParamName;
  readonly row: Row;
  readonly index: number | undefined;
};

const PER_NODE = Object.entries(params)
  .filter(([, row]) => "perNode" in row)
  .map(([name]) => name as ParamName)
  .sort((a, b) => b.length - a.length);

/**
 * Looks a name up, with its index. Undefined when no parameter is called so.
 *
 * @throws ConfigError when the name of a per-node parameter is followed by something else than an
 *   index in its range: such names are never taken for unknown ones.
 */
export function targetOf(name: string): Target | undefined {
  const row = rowOf(name);
  if (row !== undefined && (row.perNode === undefined || row.indexFree)) {
    return { name: name as ParamName, row, index: undefined };
  }
  const base = PER_NODE.find((candidate) => name.startsWith(candidate));
  if (base === undefined) return undefined;
  return perNodeTarget(base, name);
}

function perNodeTarget(base: ParamName, name: string): Target {
  const row: Row = params[base];
  const digits = name.slice(base.length);
  if (digits === "") throw new ConfigError(`parameter "${name}" expects the index value`);
  if (!/^[0-9]+$/.test(digits)) {
    throw new ConfigError(`invalid index value for parameter "${name}" `, {
      detail: "index part contains the invalid non digit character",
    });
  }
  const index = Number(digits);
  const max = INDEX_MAX[row.perNode ?? "backend"];
  if (index > max) {
    const text = `${digits} index outside the valid range for parameter "${name}" (0 .. ${max})`;
    throw new ConfigError(text);
  }
  return { name: base, row, index };
}

/** The one spelling of a target, so that `backend_port00` and `backend_port0` are the same line. */
export const keyOf = (target: Target): string =>
  target.index === undefined ? target.name : `${target.name}${target.index}`;

/** The value of a name, given or initial. */
export function settingValue(settings: Settings, key: string, name: ParamName): Value {
  const given = settings.get(key);
  if (given !== undefined) return given.value;
  const row: Row = params[name];
  // An index-free value is the default of every node, in whatever order the lines stand.
  const indexFree = row.indexFree === true ? settings.get(name) : undefined;
  return indexFree?.value ?? initialValue(name, row);
}

/** One line understood: where it goes, its value, and what to say about it. */
export type Assignment = {
  readonly target: Target;
  readonly given: Given;
  readonly messages: readonly ConfigMessage[];
};

/**
 * Reads one line as far as it can be read by itself. Undefined for an unknown name.
 *
 * @throws ConfigFileError
 */
export function readSetting(setting: Setting): Assignment | undefined {
  const { name, value: text, file, line } = setting;
  try {
    const target = targetOf(name);
    if (target === undefined) return undefined;
    const { value, warnings } = parseValue(name, target.row, text);
    if (target.name === "backend_flag") parseBackendFlag(name, text);
    if (isRedirectList(target.name)) parseRedirects(target.name, text);
    const context = contextOf(setting);
    const messages = warnings.map((warning) => ({
      severity: "WARNING" as const,
      ...warning,
      context,
    }));
    return { target, given: { value, text }, messages };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const { message, detail, hint } = error;
    throw new ConfigFileError(message, { file, line, parameter: name }, { detail, hint });
  }
}

/** Where a line stands, as the context of a message. */
export const contextOf = ({ file, line }: { file: string; line: number }): string =>
  `line ${line} of configuration file "${file}"`;

/** Whether a line of this context has an effect at this moment. */
export function takesEffect(context: Context, moment: "start" | "reload"): boolean {
  return moment === "start" || context !== "restart";
}
