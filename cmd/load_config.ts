/** pgpool.conf from the disk, for the programs that need a value of it. */
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import type { ConfigMessage } from "../core/config/conf_file.ts";
import { type ConfigSource, loadConfig } from "../core/config/load.ts";
import { directoryOf, resolvePath } from "../core/config/path.ts";

/** What `loadConfig` and `reloadConfig` of core read this file with. */
export const configSource = (file: string): ConfigSource => ({
  file,
  readFile: readIfPossible,
  osHostname: hostname(),
});

function readIfPossible(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // missing or unreadable: the reader of the configuration says so
  }
}

/**
 * Where the server of this configuration keeps its pid. `messages` say that the file could not be
 * read; remarks on parameters in it are for the server's own log.
 *
 * @throws ConfigError, which ends a program with exit code 3
 */
export function pidFileOf(file: string): {
  readonly pidFile: string;
  readonly messages: readonly ConfigMessage[];
} {
  const { config, messages } = loadConfig(configSource(file));
  return {
    pidFile: resolvePath(directoryOf(file), config.pid_file_name),
    messages: messages.filter(({ message }) => message.startsWith("could not open configuration")),
  };
}
