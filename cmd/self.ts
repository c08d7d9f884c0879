/** This program as a command line: how it runs itself again, compiled or from source. */
import process from "node:process";

/** What to spawn, and the arguments that must stand before our own. */
export type Self = { readonly file: string; readonly args: readonly string[] };

/** True in the compiled binary, where sources and node_modules do not exist. */
export const isCompiled: boolean = "Bun" in globalThis && Bun.isStandaloneExecutable;

export function selfCommand(): Self {
  if (isCompiled) return { file: process.execPath, args: [] };
  const main = process.argv[1];
  const script = main === undefined ? [] : [main];
  const isDeno = "Deno" in globalThis;
  return { file: process.execPath, args: isDeno ? ["run", "-A", ...script] : script };
}
