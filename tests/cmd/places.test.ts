import { expect, test } from "bun:test";
import { defaultConfigDir, defaultKeyFile } from "../../cmd/places.ts";

test.each<[title: string, executable: string, existing: string[], dir: string]>([
  ["beside the installation", "/opt/pgpool/bin/pgpool", ["/opt/pgpool/etc"], "/opt/pgpool/etc"],
  ["beside it, before Debian's", "/opt/p/bin/pgpool", ["/opt/p/etc", "/etc/pgpool2"], "/opt/p/etc"],
  ["Debian's when nothing is beside", "/opt/p/bin/pgpool", ["/etc/pgpool2"], "/etc/pgpool2"],
  ["a source build's at last", "/opt/p/bin/pgpool", [], "/usr/local/etc"],
  ["never beside a binary outside bin/", "/src/dist/pgpool", ["/src/etc"], "/usr/local/etc"],
  ["never /usr/etc", "/usr/bin/pgpool", ["/usr/etc", "/etc/pgpool2"], "/etc/pgpool2"],
])("configuration files are looked for %s", (_, executable, existing, dir) => {
  expect(defaultConfigDir(executable, (path) => existing.includes(path))).toBe(dir);
});

test("the key file is the one the environment names, else one at home", () => {
  expect(defaultKeyFile({ PGPOOLKEYFILE: "/k" })).toBe("/k");
  expect(defaultKeyFile({})).toEndWith("/.pgpoolkey");
  expect(defaultKeyFile({ PGPOOLKEYFILE: "" })).toBe(defaultKeyFile({}));
});
