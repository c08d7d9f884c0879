/**
 * From pgpool.conf to Config, at the start and at a reload. Reading files is an argument; what
 * there is to say comes back as messages, in the order in which it was found.
 */

import { type NodeId, nodeId } from "../cluster/state.ts";
import { ConfigError } from "../errors.ts";
import type { LogSeverity } from "../ports.ts";
import { buildConfig, type Surroundings } from "./build.ts";
import { brokenRule, parseNodeId } from "./checks.ts";
import {
  ConfigFileError,
  type ConfigMessage,
  parseConfFile,
  type ReadFile,
  type Setting,
} from "./conf_file.ts";
import { translateNames } from "./legacy.ts";
import { translateWatchdog } from "./legacy_watchdog.ts";
import { isNotBuilt } from "./not_built.ts";
import { directoryOf, resolvePath } from "./path.ts";
import { type Config, isUsed } from "./schema.ts";
import {
  type Assignment,
  contextOf,
  type Given,
  keyOf,
  readSetting,
  type Settings,
  type Target,
  takesEffect,
  targetOf,
} from "./settings.ts";
import { initialValue } from "./value.ts";

export type ConfigSource = {
  /** Path of pgpool.conf; pgpool_node_id is looked for beside it. */
  readonly file: string;
  readonly readFile: ReadFile;
  /** Name of this host, for 4.1 files with an empty wd_hostname. */
  readonly osHostname: string;
  /** Directory that stands in for an empty backend_hostnameN. Default: `/tmp`, PostgreSQL's own. */
  readonly socketDirectory?: string;
};

/** A configuration, and what a reload of it starts from. */
export type Loaded = {
  readonly config: Config;
  readonly messages: readonly ConfigMessage[];
  /** Opaque to others. */
  readonly settings: Settings;
};

/**
 * Reads the configuration at the start. A file that cannot be read gives the defaults and a
 * warning, unchecked.
 *
 * @throws ConfigError with Pgpool's texts; a ConfigFileError where one line is to blame.
 */
export function loadConfig(source: ConfigSource): Loaded {
  const { settings: lines, messages, derivedNodeId } = readLines(source);
  const settings = new Map<string, Given>();
  for (const line of lines) {
    const assignment = readSetting(line);
    messages.push(...(assignment?.messages ?? [unknown(line)]));
    if (assignment !== undefined) settings.set(keyOf(assignment.target), assignment.given);
  }
  messages.push(...emptyHostnames(settings, socketDirectoryOf(source)));
  const usesWatchdog = settings.get("use_watchdog")?.value === true;
  const config = buildConfig(settings, {
    socketDirectory: socketDirectoryOf(source),
    pgpoolNodeId: usesWatchdog ? ownNodeId(source, derivedNodeId) : undefined,
  });
  const broken = lines.length === 0 ? undefined : brokenRule(config);
  if (broken !== undefined) throw broken;
  messages.push(...notBuilt([...settings.keys()], settings));
  return { config, messages, settings };
}

export type Reloaded = Loaded & {
  /** Names, with indexes, whose value is another than before. */
  readonly changed: readonly string[];
  /** Backends in slots that were unused before; they begin as down. */
  readonly added: readonly NodeId[];
};

/**
 * Reads the configuration again over an earlier one. Never throws for what is in the file: a
 * syntax error keeps everything, a wrong value keeps its own. Lines of context restart are passed
 * over, and lines that are gone leave their values behind, as upstream (section 8).
 *
 * `isDown` tells whether a backend is down, for only then may its data directory move.
 */
export function reloadConfig(
  old: Loaded,
  source: ConfigSource,
  isDown: (id: NodeId) => boolean,
): Reloaded {
  const settings = new Map(old.settings);
  let messages: ConfigMessage[];
  let lines: readonly Setting[];
  try {
    ({ settings: lines, messages } = readLines(source));
  } catch (error) {
    return { ...old, messages: asWarning(error), changed: [], added: [] };
  }
  for (const line of lines) messages.push(...reloadLine(line, settings, old.config, isDown));
  messages.push(...waiting(lines, settings));
  const surroundings: Surroundings = {
    socketDirectory: socketDirectoryOf(source),
    pgpoolNodeId: old.config.pgpoolNodeId,
  };
  const config = buildConfig(settings, surroundings);
  messages.push(...changedWeights(old.config, config));
  messages.push(...asWarning(brokenRule(config)));
  const changed = [...settings.keys()].filter(
    (key) => settings.get(key)?.text !== old.settings.get(key)?.text,
  );
  messages.push(...notBuilt(changed, settings));
  const added = config.backends
    .filter((backend) => isUsed(backend) && !wasUsed(old.config, backend.id))
    .map((backend) => backend.id);
  return { config, messages, settings, changed, added };
}

type Lines = {
  readonly settings: readonly Setting[];
  readonly messages: ConfigMessage[];
  /** Our id as a 4.1 file without pgpool_node_id gives it. */
  readonly derivedNodeId: number | undefined;
};

/** The lines of the file in today's names. */
function readLines(source: ConfigSource): Lines {
  const parsed = parseConfFile(source.file, source.readFile);
  const names = translateNames(parsed.settings);
  const watchdog = translateWatchdog(names.settings, {
    osHostname: source.osHostname,
    nodeIdText: source.readFile(nodeIdPath(source)),
  });
  return {
    settings: watchdog.settings,
    messages: [...parsed.messages, ...names.messages, ...watchdog.messages],
    derivedNodeId: watchdog.derivedNodeId,
  };
}

/** The file has the word, and must be right; a 4.1 configuration can do without. */
function ownNodeId(source: ConfigSource, derived: number | undefined): number {
  const text = source.readFile(nodeIdPath(source));
  return text === undefined && derived !== undefined
    ? derived
    : parseNodeId(nodeIdPath(source), text);
}

const nodeIdPath = (source: ConfigSource): string =>
  resolvePath(directoryOf(source.file), "pgpool_node_id");
const socketDirectoryOf = (source: ConfigSource): string => source.socketDirectory ?? "/tmp";

const unknown = (setting: Setting): ConfigMessage => ({
  severity: "INFO",
  message: `unrecognized configuration parameter "${setting.name}"`,
  context: contextOf(setting),
});

function emptyHostnames(settings: Settings, socketDirectory: string): readonly ConfigMessage[] {
  const ports = [...settings.keys()].flatMap(
    (key) => /^backend_port([0-9]+)$/.exec(key)?.[1] ?? [],
  );
  return ports
    .filter((index) => (settings.get(`backend_hostname${index}`)?.value ?? "") === "")
    .map((index) => ({
      severity: "LOG",
      message: "initializing pool configuration",
      detail: `empty backend_hostname${index}, use PostgreSQL's default unix socket path (${socketDirectory})`,
    }));
}

/** One warning a parameter, however many nodes it is set for. */
function notBuilt(keys: readonly string[], settings: Settings): readonly ConfigMessage[] {
  const names = keys.flatMap((key) => {
    const target = targetOf(key);
    if (target === undefined || !isNotBuilt(target.name)) return [];
    const initial = initialValue(target.name, target.row);
    return String(settings.get(key)?.value) === String(initial) ? [] : [target.name];
  });
  return [...new Set(names)].map((name) => ({
    severity: "WARNING",
    message: `parameter "${name}" is accepted, but has no effect in this version`,
  }));
}

/** Applies one line of a reload, if it may, and says what the line gives reason to say. */
function reloadLine(
  line: Setting,
  settings: Map<string, Given>,
  old: Config,
  isDown: (id: NodeId) => boolean,
): readonly ConfigMessage[] {
  let assignment: Assignment | undefined;
  try {
    assignment = readSetting(line);
  } catch (error) {
    return asWarning(error);
  }
  if (assignment === undefined) return [unknown(line)];
  const { target, given, messages } = assignment;
  if (!takesEffect(target.row.context, "reload")) {
    const message = `invalid Context, value for parameter "${line.name}" cannot be changed`;
    return [{ severity: "DEBUG2", message }];
  }
  if (mayMove(target, old, isDown)) settings.set(keyOf(target), given);
  return messages;
}

/**
 * Names each parameter whose new value has to wait. Pgpool says nothing of them, and the operator
 * looks for an effect in vain. Of several lines for one parameter the last one counts.
 */
function waiting(lines: readonly Setting[], settings: Settings): readonly ConfigMessage[] {
  const last = new Map<string, Assignment>();
  for (const line of lines) {
    try {
      const assignment = readSetting(line);
      if (assignment !== undefined) last.set(keyOf(assignment.target), assignment);
    } catch {
      // A value that cannot be read was told of when the line was applied.
    }
  }
  return [...last].flatMap(([key, { target, given }]): readonly ConfigMessage[] => {
    const present = settings.get(key)?.value ?? initialValue(target.name, target.row);
    if (String(present) === String(given.value)) return [];
    const until =
      target.name === "backend_data_directory"
        ? "while its node is in use"
        : "without restarting the server";
    return [{ severity: "LOG", message: `parameter "${key}" cannot be changed ${until}` }];
  });
}

/** A backend in use keeps its address, and its data directory unless it is down. */
function mayMove(target: Target, old: Config, isDown: (id: NodeId) => boolean): boolean {
  const { name, index } = target;
  if (index === undefined || !wasUsed(old, nodeId(index))) return true;
  if (name === "backend_hostname" || name === "backend_port") return false;
  return name !== "backend_data_directory" || isDown(nodeId(index));
}

function wasUsed(old: Config, id: NodeId): boolean {
  const backend = old.backends[id];
  return backend !== undefined && isUsed(backend);
}

function changedWeights(old: Config, config: Config): readonly ConfigMessage[] {
  return config.backends.flatMap(({ id, weight }): readonly ConfigMessage[] => {
    const before = old.backends[id];
    if (before === undefined || !isUsed(before) || before.weight === weight) return [];
    const [from, to] = [before.weight.toFixed(6), weight.toFixed(6)];
    return [
      {
        severity: "LOG",
        message: `initializing pool configuration: backend weight for backend:${id} changed from ${from} to ${to}`,
        detail: "This change will be effective from next client session",
      },
    ];
  });
}

/** An error that stops a start is a warning to a running program. */
function asWarning(error: unknown): ConfigMessage[] {
  if (error === undefined) return [];
  if (!(error instanceof ConfigError)) throw error;
  return [...(error instanceof ConfigFileError ? error.before : []), toMessage("WARNING", error)];
}

/** How an error of the configuration is logged: its text, and the line to blame. */
export function toMessage(severity: LogSeverity, error: ConfigError): ConfigMessage {
  const { message, detail, hint } = error;
  if (!(error instanceof ConfigFileError)) return { severity, message, detail, hint };
  return { severity, message, detail, hint, context: contextOf(error) };
}
