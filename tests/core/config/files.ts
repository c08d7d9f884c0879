/** Configurations out of texts: `/etc/pgpool.conf` and whatever else a test lays beside it. */
import { type Loaded, loadConfig } from "../../../core/config/load.ts";
import { ConfigError } from "../../../core/errors.ts";

export const FILE = "/etc/pgpool.conf";

export const source = (text: string | undefined, others: Record<string, string> = {}) => ({
  file: FILE,
  readFile: (path: string) => (path === FILE ? text : others[path]),
  osHostname: "here",
  socketDirectory: "/run/postgresql",
});

export const load = (text: string | undefined, others: Record<string, string> = {}): Loaded =>
  loadConfig(source(text, others));

/** What `run` throws, which must be a ConfigError. */
export function errorOf(run: () => unknown): ConfigError {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
