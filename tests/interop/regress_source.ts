/**
 * PostgreSQL's own regression tests, from Debian's source package: fetched by apt-get (with lists,
 * sources and cache of its own, so the machine's configuration stays as it is), unpacked and
 * compiled in a cache folder outside of the repository. What is there already is used again.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { findProgram, isExecutable, mustRun, runCommand } from "../cluster/machine.ts";
import type { PostgresInstall } from "../cluster/postgres.ts";

/** Paths in the cache; nothing in there may be changed by a run. */
export type RegressSuite = {
  /** Debian's version of the source, such as `15.18-0+deb12u1`. */
  readonly version: string;
  /** `src/test/regress`: sql, expected, data, parallel_schedule. */
  readonly regress: string;
  /** Holds regress.so, refint.so and autoinc.so, which the tests load into the server. */
  readonly lib: string;
  /** `src/test/modules/libpq_pipeline`, with the compiled program of that name. */
  readonly pipeline: string;
  /** PostgreSQL's driver of these tests. */
  readonly pgRegress: string;
};

/** The machine lacks something that tests may be skipped for: a program, or the way to the package. */
export class Unavailable extends Error {
  override readonly name = "Unavailable";
}

/**
 * The suite that belongs to an installed PostgreSQL of Debian: of exactly its version where a mirror
 * has the source of it, else of the newest of its major.
 * @throws {Unavailable} when programs are missing or the package cannot be fetched
 */
export async function regressSuite(install: PostgresInstall | undefined): Promise<RegressSuite> {
  if (install?.kind !== "system") throw new Unavailable("PostgreSQL as Debian packages it");
  const lib = join(install.bin, "../lib");
  const pgRegress = join(lib, "pgxs/src/test/regress/pg_regress");
  const programs = ["apt-get", "dpkg-query", "dpkg-deb", "dpkg-source", "bzip2", "gcc"];
  const absent = programs.filter((name) => findProgram(name) === undefined);
  if (!isExecutable(pgRegress)) absent.push(pgRegress);
  if (absent.length > 0) throw new Unavailable(absent.join(", "));
  const name = `postgresql-${install.major}`;
  const installed = await packageVersion(name);
  const home = join(cacheFolder(), `${name}_${installed}`);
  if (!existsSync(home)) await fill(home, { name, installed, lib });
  const [version] = readdirSync(home).flatMap((entry) =>
    entry.startsWith("version_") ? [entry.slice("version_".length)] : [],
  );
  if (version === undefined) throw new Error(`${home} is not what we made: remove it`);
  return {
    version,
    regress: join(home, "source/src/test/regress"),
    lib: join(home, "lib"),
    pipeline: join(home, "source/src/test/modules/libpq_pipeline"),
    pgRegress,
  };
}

function cacheFolder(): string {
  const { XDG_CACHE_HOME } = process.env;
  return join(XDG_CACHE_HOME || join(homedir(), ".cache"), "pgpool-tests");
}

async function packageVersion(name: string): Promise<string> {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's placeholder, not ours
  const result = await runCommand(["dpkg-query", "-W", "-f", "${Version}", name]);
  if (result.code !== 0) throw new Unavailable(`package ${name}`);
  return result.stdout;
}

type Wanted = { readonly name: string; readonly installed: string; readonly lib: string };

/** Everything is made beside its place and moved there when it is whole. */
async function fill(home: string, wanted: Wanted): Promise<void> {
  mkdirSync(cacheFolder(), { recursive: true });
  const draft = mkdtempSync(join(cacheFolder(), "making-"));
  try {
    const version = await fetchSource(draft, wanted);
    writeFileSync(join(draft, `version_${version}`), "");
    await compile(draft, wanted, await headers(draft, wanted));
    for (const scrap of ["apt", "download"]) rmSync(join(draft, scrap), { recursive: true });
    renameSync(draft, home);
  } catch (error) {
    // Somebody else was quicker: theirs is as good.
    if (!existsSync(home)) throw error;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** Unpacks what we need of the source into `source`; returns its version. */
async function fetchSource(draft: string, wanted: Wanted): Promise<string> {
  const apt = await sourceApt(draft);
  const download = join(draft, "download");
  mkdirSync(download);
  const known = await mustRun([...apt("apt-cache"), "showsrc", wanted.name]);
  const versions = [...known.matchAll(/^Version: (.+)$/gm)].flatMap(([, version = ""]) => version);
  const isFirst = (version: string) => (version === wanted.installed ? 0 : 1);
  // A security mirror may list a source that it does not have.
  const inOrder = versions.sort((a, b) => isFirst(a) - isFirst(b) || b.localeCompare(a));
  let said = "no version is known";
  for (const version of inOrder) {
    const result = await runCommand(
      [...apt("apt-get"), "source", "--download-only", `${wanted.name}=${version}`],
      { cwd: download, deadlineMs: 300_000 },
    );
    if (result.code === 0) {
      await unpack(draft, download);
      return version;
    }
    said = result.stderr.trim();
  }
  throw new Unavailable(`the source package ${wanted.name} (${said})`);
}

async function unpack(draft: string, download: string): Promise<void> {
  const archive = readdirSync(download).find((name) => name.includes(".orig.tar."));
  if (archive === undefined) throw new Error(`no original archive in ${readdirSync(download)}`);
  mkdirSync(join(draft, "source"));
  const folders = ["*/src/test/regress", "*/src/test/modules/libpq_pipeline"];
  await mustRun(
    [
      "tar",
      ...["-xf", join(download, archive), "-C", join(draft, "source")],
      ...["--strip-components=1", "--no-same-owner", "--wildcards", ...folders],
    ],
    { deadlineMs: 300_000 },
  );
}

/** apt with `deb-src` lines for the Debian mirrors that the machine itself uses. */
async function sourceApt(
  draft: string,
): Promise<(program: "apt-get" | "apt-cache") => [string, ...string[]]> {
  const folder = join(draft, "apt");
  for (const part of ["lists/partial", "cache/archives/partial"])
    mkdirSync(join(folder, part), { recursive: true });
  const targets = await mustRun([
    "apt-get",
    ...["indextargets", "--format"],
    "$(CREATED_BY) $(ORIGIN) $(REPO_URI) $(CODENAME) $(COMPONENT)",
  ]);
  const keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
  const signed = existsSync(keys) ? `[signed-by=${keys}] ` : "";
  const lines = [...targets.matchAll(/^Packages Debian (\S+) (\S+) (\S+)$/gm)].map(
    ([, uri, suite, component]) => `deb-src ${signed}${uri} ${suite} ${component}\n`,
  );
  if (lines.length === 0) throw new Unavailable("a Debian mirror (apt-get update was never run)");
  writeFileSync(join(folder, "sources.list"), [...new Set(lines)].join(""));
  const settings = {
    "Dir::Etc::SourceList": join(folder, "sources.list"),
    "Dir::Etc::SourceParts": "/dev/null",
    "Dir::State::Lists": join(folder, "lists"),
    "Dir::Cache": join(folder, "cache"),
    // As root apt would drop to a user who may not write here.
    "APT::Sandbox::User": "root",
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  const update = await runCommand(["apt-get", ...options, "update"], { deadlineMs: 300_000 });
  if (update.code !== 0) throw new Unavailable(`the lists of a mirror (${update.stderr.trim()})`);
  return (program) => [program, ...options];
}

type Development = { readonly include: string; readonly archives: string };

/**
 * The server's headers, and the libraries that PostgreSQL's programs share. Where the package is not
 * installed it is unpacked without being installed: it depends on all of LLVM, which we do not need.
 */
async function headers(draft: string, wanted: Wanted): Promise<Development> {
  const major = wanted.name.slice("postgresql-".length);
  const include = `usr/include/postgresql/${major}/server`;
  if (existsSync(join("/", include))) return { include: `/${include}`, archives: wanted.lib };
  const download = join(draft, "download");
  const result = await runCommand(["apt-get", "download", `postgresql-server-dev-${major}`], {
    cwd: download,
    deadlineMs: 300_000,
  });
  const file = readdirSync(download).find((name) => name.endsWith(".deb"));
  if (result.code !== 0 || file === undefined)
    throw new Unavailable(`package postgresql-server-dev-${major} (${result.stderr.trim()})`);
  const root = join(download, "development");
  await mustRun(["dpkg-deb", "-x", join(download, file), root]);
  return {
    include: join(root, include),
    archives: join(root, `usr/lib/postgresql/${major}/lib`),
  };
}

async function compile(draft: string, wanted: Wanted, dev: Development): Promise<void> {
  if (!existsSync("/usr/include/postgresql/libpq-fe.h")) throw new Unavailable("libpq-dev");
  const lib = join(draft, "lib");
  mkdirSync(lib);
  const tests = join(draft, "source/src/test");
  await mustRun([
    "gcc",
    ...["-shared", "-fPIC", "-O1", "-w", "-D_GNU_SOURCE", `-I${dev.include}`],
    ...["-o", join(lib, "regress.so"), join(tests, "regress/regress.c")],
  ]);
  for (const name of ["refint.so", "autoinc.so"])
    copyFileSync(join(wanted.lib, name), join(lib, name));
  const pipeline = join(tests, "modules/libpq_pipeline");
  await mustRun([
    "gcc",
    ...["-O1", "-w", "-D_GNU_SOURCE", `-I${dev.include}`, "-I/usr/include/postgresql"],
    ...["-o", join(pipeline, "libpq_pipeline"), join(pipeline, "libpq_pipeline.c")],
    ...[`-L${dev.archives}`, "-lpgcommon", "-lpgport", "-lpq", "-lm"],
  ]);
}
