/**
 * PGPOOL SET and RESET: values that one session changes for itself (spec config/config-file.md
 * section 7). The session keeps the Config it began with, and asks for another one here.
 */

import { ConfigError, PgpoolError } from "../errors.ts";
import type { Row, Value } from "./param.ts";
import { type ParamName, paramNames, params } from "./params.ts";
import type { Config } from "./schema.ts";
import { targetOf } from "./settings.ts";
import { parseValue } from "./value.ts";

/** A client asked for a setting that it cannot have. ERROR XX000, and the session goes on. */
export class SettingRefused extends PgpoolError {}

/** @throws SettingRefused */
export function setParameter(config: Config, name: string, text: string): Config {
  const { name: known, row } = changeable(name);
  return withValue(config, known, refusing(() => parseValue(name, row, text)).value);
}

/**
 * Back to the value in `base`, the configuration without the session's own settings. Upstream goes
 * back to the value at the start of the server even when a reload came between; we do not.
 *
 * @throws SettingRefused
 */
export function resetParameter(config: Config, base: Config, name: string): Config {
  const { name: known } = changeable(name);
  return withValue(config, known, base[known]);
}

/** Carries the session's own settings over to a configuration that a reload brought. */
export function rebase(config: Config, base: Config, reloaded: Config): Config {
  return sessionNames.reduce(
    (result, name) =>
      config[name] === base[name] ? result : withValue(result, name, config[name]),
    reloaded,
  );
}

type SessionName = {
  [N in ParamName]: (typeof params)[N] extends { readonly context: "session" } ? N : never;
}[ParamName];

const sessionNames = paramNames.filter(
  (name): name is SessionName => params[name].context === "session",
);

function changeable(name: string): { readonly name: SessionName; readonly row: Row } {
  const target = refusing(() => targetOf(name));
  if (target === undefined) {
    throw new SettingRefused(`unrecognized configuration parameter "${name}"`);
  }
  const known = sessionNames.find((candidate) => candidate === target.name);
  if (known === undefined) {
    throw new SettingRefused(`invalid Context, value for parameter "${name}" cannot be changed`);
  }
  return { name: known, row: target.row };
}

/** What would stop a start is to a session an error like any other. */
export function refusing<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const { message, detail, hint } = error;
    throw new SettingRefused(message, { detail, hint });
  }
}

const withValue = (config: Config, name: SessionName, value: Value): Config => ({
  ...config,
  [name]: value,
});
