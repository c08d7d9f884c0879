/** Where files are when the command line does not say: beside the installation that runs. */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";

const debianConfigDir = "/etc/pgpool2";
const sourceConfigDir = "/usr/local/etc";

/**
 * The directory of pgpool.conf, pcp.conf and pool_hba.conf: `<prefix>/etc` for a binary in
 * `<prefix>/bin`, else Debian's, else that of a build from source (spec config/config-file.md
 * section 1).
 */
export function defaultConfigDir(
  executable: string = process.execPath,
  exists: (path: string) => boolean = existsSync,
): string {
  const binDir = dirname(executable);
  const beside = join(dirname(binDir), "etc");
  const systemWide = binDir === "/usr/bin" || binDir === "/bin";
  if (basename(binDir) === "bin" && !systemWide && exists(beside)) return beside;
  return exists(debianConfigDir) ? debianConfigDir : sourceConfigDir;
}

/** The key file for AES entries of pool_passwd: `$PGPOOLKEYFILE`, else `~/.pgpoolkey`. */
export function defaultKeyFile(env: NodeJS.ProcessEnv = process.env): string {
  const { PGPOOLKEYFILE: named } = env;
  return named === undefined || named === "" ? join(homedir(), ".pgpoolkey") : resolve(named);
}
