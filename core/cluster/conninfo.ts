/**
 * libpq's connection strings, as `primary_conninfo` and pg_stat_wal_receiver hold them: both the
 * `keyword = value` form and URIs ("Connection Strings" in the manual of libpq).
 */

export type Conninfo = ReadonlyMap<string, string>;

/** Undefined for a text that libpq would not understand either. A later value of a keyword wins. */
export function parseConninfo(text: string): Conninfo | undefined {
  return /^postgres(ql)?:\/\//.test(text) ? parseUri(text) : parsePairs(text);
}

function parsePairs(text: string): Conninfo | undefined {
  const pairs = new Map<string, string>();
  // A value is quoted, or a run without blanks; a backslash takes what follows literally.
  const pair =
    /\s*([A-Za-z_]\w*)\s*=\s*(?:'((?:[^'\\]|\\[\s\S])*)'|((?:[^\s'\\]|\\[\s\S])*))(?=\s|$)/y;
  while (pair.lastIndex < text.trimEnd().length) {
    const match = pair.exec(text);
    if (match === null) return undefined;
    pairs.set(match[1] ?? "", (match[2] ?? match[3] ?? "").replace(/\\([\s\S])/g, "$1"));
  }
  return pairs;
}

function parseUri(text: string): Conninfo | undefined {
  const match = /^postgres(?:ql)?:\/\/(?:([^@/?]*)@)?([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/.exec(text);
  if (match === null) return undefined;
  const [, userinfo = "", hosts = "", database = "", query = ""] = match;
  const pairs = new Map<string, string>();
  const put = (keyword: string, value: string | undefined) => {
    if (value !== undefined && value !== "") pairs.set(keyword, decodeURIComponent(value));
  };
  try {
    const colon = userinfo.indexOf(":");
    put("user", colon < 0 ? userinfo : userinfo.slice(0, colon));
    if (colon >= 0) put("password", userinfo.slice(colon + 1));
    const places = hosts.split(",").map((host) => /^(\[[^\]]*\]|[^:]*)(?::(\d*))?$/.exec(host));
    put("host", places.map((place) => place?.[1]?.replace(/^\[|\]$/g, "") ?? "").join(","));
    const ports = places.map((place) => place?.[2] ?? "");
    if (ports.some((port) => port !== "")) put("port", ports.join(","));
    put("dbname", database);
    for (const option of query.split("&").filter((each) => each !== "")) {
      const equals = option.indexOf("=");
      if (equals < 1) return undefined;
      put(option.slice(0, equals), option.slice(equals + 1));
    }
  } catch {
    return undefined; // a percent sign without two digits
  }
  return pairs;
}

/** In the `keyword = value` form, each value quoted where it must be. */
export function formatConninfo(conninfo: Conninfo): string {
  const quoted = (value: string) =>
    /^[\w./-]+$/.test(value) ? value : `'${value.replace(/['\\]/g, "\\$&")}'`;
  return [...conninfo].map(([keyword, value]) => `${keyword}=${quoted(value)}`).join(" ");
}

/** The same, but to another server. An address that stood for the old name is left out. */
export function redirected(conninfo: Conninfo, host: string, port: number): Conninfo {
  const changed = new Map([...conninfo].filter(([keyword]) => keyword !== "hostaddr"));
  changed.set("host", host);
  changed.set("port", String(port));
  return changed;
}
