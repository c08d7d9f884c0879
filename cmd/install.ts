/**
 * `pgpool install`: a directory laid out as scripts written for Pgpool-II expect one, bin/ with every
 * classic name, etc/ with samples, share/pgpool-II/. Run again, it brings the same directory up to
 * date; files without the ending `.sample` in etc/ are the operator's and are never touched.
 */
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  mkdirSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { versionLine } from "../core/version.ts";
import { classicNames } from "./classic_names.ts";
import { CommandFailure } from "./failure.ts";
import { type Command, defineCommand, refuse } from "./options.ts";
import { isCompiled } from "./self.ts";

const flags = {
  prefix: { arg: "DIR", brief: "where to install; made when it is missing" },
  help: { short: "h", brief: "print this help" },
} as const;

export const installCommand: Command<typeof flags> = defineCommand({
  name: "install",
  brief: "lay out DIR/bin (also as DIR/sbin), DIR/etc and DIR/share/pgpool-II",
  usage: ["--prefix DIR"],
  flags,
  help: { to: "stdout", exitCode: 0 },
  misuse: { show: "hint", to: "stderr", exitCode: 1 },
  async run(values, operands, call) {
    const [extra] = operands;
    if (extra !== undefined) return refuse(installCommand, call, `unexpected word "${extra}"`);
    if (values.prefix === undefined) return refuse(installCommand, call, "--prefix is missing");
    if (!isCompiled) {
      throw new CommandFailure("only the compiled binary can install itself", {
        hint: "Run `npm run build`, then `dist/pgpool install --prefix DIR`.",
        exitCode: 1,
      });
    }
    const { sampleFiles, scriptSamples } = await import("./samples.ts");
    const prefix = resolve(values.prefix);
    try {
      layOut(prefix, process.execPath, sampleFiles(), scriptSamples());
    } catch (error) {
      if (error instanceof CommandFailure) throw error;
      throw new CommandFailure(`could not install into ${prefix}`, {
        detail: error instanceof Error ? error.message : String(error),
        exitCode: 1,
        cause: error,
      });
    }
    call.out(`installed ${versionLine} in ${prefix}\n`);
    return 0;
  },
});

/** A file's name and its text. */
export type TextFiles = Readonly<Record<string, string>>;

/** Makes the directories, copies `binary` and writes the samples. Safe while the old binary runs. */
export function layOut(
  prefix: string,
  binary: string,
  samples: TextFiles,
  scripts: TextFiles = {},
): void {
  const bin = join(prefix, "bin");
  const etc = join(prefix, "etc");
  const share = join(prefix, "share", "pgpool-II");
  for (const name of classicNames) refuseForeign(join(bin, name));
  for (const dir of [bin, etc, share]) mkdirSync(dir, { recursive: true });
  copyBinary(binary, join(bin, "pgpool"));
  for (const name of classicNames) link(join(bin, name));
  link(join(prefix, "sbin"), "bin"); // where Debian's scripts look for some of them
  for (const [name, text] of Object.entries(samples)) replaceText(join(etc, name), text);
  for (const [name, text] of Object.entries(scripts)) replaceText(join(etc, name), text, 0o755);
  replaceText(join(share, "README"), shareReadme);
}

const shareReadme = `This directory holds what PostgreSQL servers and psql are given, as Pgpool-II's
share/pgpool-II does. It belongs to the installation: \`pgpool install\` writes it anew.
`;

/** A tool of another installation is not ours to replace. */
function refuseForeign(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined || (found.isSymbolicLink() && readlinkSync(path) === "pgpool")) return;
  throw new CommandFailure(`${path} exists and is not a link to pgpool`, {
    hint: "Choose another prefix, or remove that file first.",
    exitCode: 1,
  });
}

function copyBinary(from: string, to: string): void {
  const there = lstatSync(to, { throwIfNoEntry: false });
  if (there !== undefined && realpathSync(to) === realpathSync(from)) return;
  replace(to, (temporary) => {
    copyFileSync(from, temporary);
    chmodSync(temporary, 0o755);
  });
}

function link(path: string, to = "pgpool"): void {
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined) symlinkSync(to, path);
}

function replaceText(path: string, text: string, mode = 0o644): void {
  replace(path, (temporary) => {
    writeFileSync(temporary, text);
    chmodSync(temporary, mode);
  });
}

/** Writes beside and renames, so that nobody ever sees half a file, nor writes over a running one. */
function replace(path: string, write: (temporary: string) => void): void {
  const temporary = `${path}.new.${process.pid}`;
  try {
    write(temporary);
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}
