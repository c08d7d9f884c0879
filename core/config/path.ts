/** The two sums on POSIX paths that configuration needs; core may not import node:path. */

/** The directory a file stands in, as far as its name tells: `.` for a bare name. */
export function directoryOf(file: string): string {
  const slash = file.lastIndexOf("/");
  if (slash < 0) return ".";
  return slash === 0 ? "/" : file.slice(0, slash);
}

/** `name` if absolute, else below `directory`. */
export function resolvePath(directory: string, name: string): string {
  if (name.startsWith("/")) return name;
  return directory.endsWith("/") ? directory + name : `${directory}/${name}`;
}
