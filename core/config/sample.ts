/** pgpool.conf.sample: every parameter with its default, made of the rows themselves. */

import { formatWithUnit } from "./number.ts";
import type { NumberRow, Row } from "./param.ts";
import { chapters } from "./params.ts";

/** Where the default says nothing, a value that shows what is meant. */
const EXAMPLES: { readonly [name: string]: string } = {
  backend_hostname: "'localhost'",
  backend_port: "5432",
  backend_weight: "1",
  backend_data_directory: "'/var/lib/postgresql/data'",
  backend_application_name: "'server0'",
  wd_port: "9000",
  pgpool_port: "9999",
  wd_listen_port: "9000",
  heartbeat_hostname: "'localhost'",
  heartbeat_port: "9694",
};

const HEADER = `# pgpool.conf
#
# A line is "name = value"; text with blanks or signs stands between single quotes, and # begins a
# comment. Each parameter below is commented out and shows its default, or an example where the
# default is empty. Of two lines for one parameter the later counts.
#
# Sizes take B, kB, MB, GB and TB; times take us, ms, s, min, h and d. Without a unit a number is in
# the one that its description names.
#
# Parameters of nodes end in a number: backend_hostname0 and backend_port0 are the first backend.
#
# After a change: "pgpool reload". What is marked "restart" waits for the next start; what is marked
# "session" can also be changed by a client, with PGPOOL SET.
`;

/** The whole file; reading it gives the defaults, since every setting is a comment. */
export function sampleText(): string {
  const parts = chapters.map(({ title, rows }) => {
    const body = Object.entries(rows).map(([name, row]) => entry(name, row));
    return `\n# ${"-".repeat(title.length)}\n# ${title}\n# ${"-".repeat(title.length)}\n\n${body.join("\n")}`;
  });
  return HEADER + parts.join("");
}

function entry(name: string, row: Row): string {
  const index = row.perNode !== undefined && row.indexFree !== true ? "0" : "";
  return `${describe(row)}\n#${name}${index} = ${EXAMPLES[name] ?? defaultText(row)}\n`;
}

const UNIT_NAMES = {
  B: "bytes",
  kB: "kilobytes",
  ms: "milliseconds",
  s: "seconds",
  min: "minutes",
};

function describe(row: Row): string {
  const marks: string[] = [];
  if ("unit" in row && row.unit !== undefined) marks.push(UNIT_NAMES[row.unit]);
  if (row.indexFree === true) marks.push("also per node");
  if (row.context !== "reload") marks.push(row.context);
  const words = row.type === "enum" ? `\n#   ${(row.listed ?? row.values).join(", ")}` : "";
  return `# ${row.brief}${marks.length > 0 ? ` (${marks.join(", ")})` : ""}${words}`;
}

/** A default as a file would write it. */
export function defaultText(row: Row): string {
  switch (row.type) {
    case "bool":
      return row.initial ? "on" : "off";
    case "int":
    case "long":
    case "real":
      return numberText(row);
    case "enum":
      return row.initial;
    case "string":
    case "list":
      return `'${row.initial}'`;
  }
}

function numberText(row: NumberRow): string {
  if (row.written === "octal") return `0${row.initial.toString(8)}`;
  if (row.type === "real") return row.initial.toFixed(1);
  return row.unit === undefined ? String(row.initial) : formatWithUnit(row.initial, row.unit);
}
