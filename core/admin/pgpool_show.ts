/** PGPOOL SHOW name, group or ALL (spec config/show.md section 10). */

import { RENAMED } from "../config/legacy.ts";
import type { Row } from "../config/param.ts";
import { paramNames, params, rowOf } from "../config/params.ts";
import type { Config } from "../config/schema.ts";
import { refusing } from "../config/session.ts";
import { targetOf } from "../config/settings.ts";
import { formatValue } from "../config/value.ts";
import { PgpoolError } from "../errors.ts";
import {
  indexMax,
  isNodeParam,
  type NodeParamName,
  nodeValue,
  scalarValue,
  usedIndexes,
} from "./node_values.ts";
import { SHOW_ALL_ORDER } from "./order.ts";
import type { Table } from "./table.ts";

/** A parameter that no row knows, or an index it cannot have. ERROR XX000. */
export class NoSuchParameter extends PgpoolError {}

/** What each group shows of every node, in order. */
const GROUPS: { readonly [group: string]: readonly NodeParamName[] } = {
  backend: [
    "backend_hostname",
    "backend_port",
    "backend_weight",
    "backend_data_directory",
    "backend_application_name",
    "backend_flag",
  ],
  watchdog: ["hostname", "pgpool_port", "wd_port"],
  heartbeat: ["heartbeat_device", "heartbeat_hostname", "heartbeat_port"],
  health_check: [
    "health_check_period",
    "health_check_timeout",
    "health_check_user",
    "health_check_password",
    "health_check_database",
    "health_check_max_retries",
    "health_check_retry_delay",
    "connect_timeout",
  ],
};

/** @throws NoSuchParameter */
export function pgpoolShow(config: Config, name: string): Table {
  const group = Object.hasOwn(GROUPS, name) ? GROUPS[name] : undefined;
  if (group !== undefined) return items(groupRows(config, group));
  if (isNodeParam(name)) return items(groupRows(config, [name]));
  return { columns: [name], rows: [[oneValue(config, name)]] };
}

/** Every group, then every other parameter. */
export function pgpoolShowAll(config: Config): Table {
  const rows = Object.values(GROUPS).flatMap((group) => groupRows(config, group));
  const ours = paramNames.filter((name) => !isNodeParam(name) && !SHOW_ALL_ORDER.includes(name));
  const scalars = [...SHOW_ALL_ORDER, ...ours].flatMap((name): readonly ItemRow[] => {
    const row = rowOf(name);
    if (row !== undefined) return [[name, scalarText(config, name, row), row.brief]];
    // Parsed for the sake of old files, but nothing in Config: the mode says what it amounts to.
    return name === "replication_mode" ? [[name, replicationMode(config), REPLICATION_BRIEF]] : [];
  });
  return items([...rows, ...scalars]);
}

const REPLICATION_BRIEF = "Old switch of native replication; see backend_clustering_mode";
const replicationMode = (config: Config): string =>
  config.backend_clustering_mode === "native_replication" ? "on" : "off";

type ItemRow = readonly [name: string, value: string, description: string];
const items = (rows: readonly ItemRow[]): Table => ({
  columns: ["item", "value", "description"],
  rows,
});

/** First the values without index, for names that have one, then index by index. */
function groupRows(config: Config, names: readonly NodeParamName[]): readonly ItemRow[] {
  const indexFree = names.flatMap((name): readonly ItemRow[] => {
    const row: Row = params[name];
    return row.indexFree === true ? [[name, scalarText(config, name, row), row.brief]] : [];
  });
  const kind = names[0] === undefined ? "backend" : params[names[0]].perNode;
  const indexed = usedIndexes(config, kind).flatMap((index) =>
    names.map((name): ItemRow => {
      const row: Row = params[name];
      return [`${name}${index}`, formatValue(row, nodeValue(config, name, index)), row.brief];
    }),
  );
  return [...indexFree, ...indexed];
}

function oneValue(config: Config, name: string): string {
  const row = rowOf(name);
  if (row !== undefined) return scalarText(config, name, row);
  if (name === "replication_mode") return replicationMode(config);
  const renamed = RENAMED[name]?.to;
  if (renamed !== undefined) return oneValue(config, renamed);
  return indexedValue(config, name);
}

function indexedValue(config: Config, name: string): string {
  const [, base = "", digits = ""] = /^(.*?)([0-9]+)$/.exec(name) ?? [];
  if (isNodeParam(base) && Number(digits) <= indexMax(base)) {
    return formatValue(params[base], nodeValue(config, base, Number(digits)));
  }
  if (isNodeParam(base)) {
    throw new NoSuchParameter(`invalid index ${digits} for configuration parameter "${base}"`, {
      detail: `allowed index is between 0 and ${indexMax(base)}`,
    });
  }
  refusing(() => targetOf(name)); // a per-node name with something else than digits after it
  throw new NoSuchParameter(`config variable "${name}" not found`);
}

function scalarText(config: Config, name: string, row: Row): string {
  const asWritten = row.type === "list" ? config.listsAsWritten[name] : undefined;
  if (asWritten !== undefined && row.secret !== true) return asWritten;
  return formatValue(row, scalarValue(config, name) ?? row.initial);
}
