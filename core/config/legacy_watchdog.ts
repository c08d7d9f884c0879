/**
 * The watchdog lines of Pgpool-II 4.1, where every host had a file of its own that described
 * itself and then the others, become today's lines, which are the same on every host
 * (spec config/config-file.md section 9).
 */

import type { ConfigMessage, Setting } from "./conf_file.ts";
import type { Translation } from "./legacy.ts";
import { parseBool } from "./value.ts";

const LOCAL_NAMES = ["wd_hostname", "wd_port", "wd_heartbeat_port"];
const REMOTE_NAME =
  /^(other_pgpool_hostname|other_pgpool_port|other_wd_port|heartbeat_destination|heartbeat_destination_port)([0-9]+)$/;
const MODERN_NAME = /^(hostname|wd_port|pgpool_port)[0-9]+$/;

export const isLegacyWatchdogName = (name: string): boolean =>
  LOCAL_NAMES.includes(name) || REMOTE_NAME.test(name);

export type LocalIdentity = {
  /** Stands in for an empty wd_hostname. */
  readonly osHostname: string;
  /** The text of the file pgpool_node_id, when there is one. */
  readonly nodeIdText: string | undefined;
};

export type WatchdogTranslation = Translation & {
  /** The id of this host as its place among all of them gives it; undefined when nothing was translated. */
  readonly derivedNodeId: number | undefined;
};

type Member = {
  readonly hostname: string;
  readonly wdPort: string;
  readonly pgpoolPort: string | undefined;
};

/** Takes the lines of 4.1 out, and puts modern ones in where the watchdog is on and has none. */
export function translateWatchdog(
  settings: readonly Setting[],
  local: LocalIdentity,
): WatchdogTranslation {
  const legacy = settings.filter((setting) => isLegacyWatchdogName(setting.name));
  const first = legacy[0];
  if (first === undefined) return { settings, messages: [], derivedNodeId: undefined };
  const others = settings.filter((setting) => !isLegacyWatchdogName(setting.name));
  if (!isOn(settings, "use_watchdog"))
    return { settings: others, messages: [], derivedNodeId: undefined };
  if (others.some((setting) => MODERN_NAME.test(setting.name))) {
    return { settings: others, messages: [ignored(legacy)], derivedNodeId: undefined };
  }
  const value = lastValues(settings);
  const self: Member = {
    hostname: value("wd_hostname") || local.osHostname,
    wdPort: value("wd_port") ?? "9000",
    pgpoolPort: value("port") ?? "9999",
  };
  const remotes = remoteMembers(legacy, value);
  const ids = memberIds(self, remotes, nodeIdOf(local.nodeIdText));
  const lines = memberLines(self, remotes, ids);
  const heartbeats = heartbeatLines(others, legacy, value, remotes, ids);
  const placed = [...lines, ...heartbeats.lines].map(([name, text]) => ({
    ...first,
    name,
    value: text,
  }));
  return {
    settings: [...heartbeats.others, ...placed],
    messages: [],
    derivedNodeId: ids.self,
  };
}

const ignored = (legacy: readonly Setting[]): ConfigMessage => ({
  severity: "WARNING",
  message: `ignoring watchdog parameters of Pgpool-II 4.1: ${legacy.map((setting) => setting.name).join(", ")}`,
  hint: "hostnameN, wd_portN and pgpool_portN describe the watchdog cluster already.",
});

type LastValue = (name: string) => string | undefined;

function lastValues(settings: readonly Setting[]): LastValue {
  const values = new Map(settings.map((setting) => [setting.name, setting.value]));
  return (name) => values.get(name);
}

function isOn(settings: readonly Setting[], name: string): boolean {
  const text = lastValues(settings)(name);
  return text !== undefined && parseBool(name, text).value;
}

/** Places of the numbered lines of one kind, in their order. */
function indexes(legacy: readonly Setting[], name: string): readonly number[] {
  const found = legacy.flatMap((setting) => {
    const match = REMOTE_NAME.exec(setting.name);
    return match?.[1] === name ? [Number(match[2])] : [];
  });
  return [...new Set(found)].sort((a, b) => a - b);
}

/** A remote counts once its other_wd_portX is given. */
function remoteMembers(legacy: readonly Setting[], value: LastValue): readonly Member[] {
  return indexes(legacy, "other_wd_port").map((x) => ({
    hostname: value(`other_pgpool_hostname${x}`) ?? "localhost",
    wdPort: value(`other_wd_port${x}`) ?? "",
    pgpoolPort: value(`other_pgpool_port${x}`),
  }));
}

/** A file that is wrong is the loader's to refuse; here it only gives no number. */
const nodeIdOf = (text: string | undefined): number | undefined =>
  text !== undefined && /^\s*[0-9]+\s*$/.test(text) ? Number(text) : undefined;

type Ids = { readonly self: number; readonly remotes: readonly number[] };

/**
 * Without a file pgpool_node_id the ids are ranks among all (host, port) pairs, which every host
 * computes alike. With one, it is ours, and the others share out the rest in the order written.
 */
function memberIds(self: Member, remotes: readonly Member[], given: number | undefined): Ids {
  if (given !== undefined) {
    return { self: given, remotes: remotes.map((_, at) => (at < given ? at : at + 1)) };
  }
  const ranked = [self, ...remotes].sort(byHostAndPort);
  return { self: ranked.indexOf(self), remotes: remotes.map((member) => ranked.indexOf(member)) };
}

/** By code units and not by locale, so that hosts of different languages agree. */
function byHostAndPort(a: Member, b: Member): number {
  if (a.hostname !== b.hostname) return a.hostname < b.hostname ? -1 : 1;
  return Number(a.wdPort) - Number(b.wdPort);
}

type Line = readonly [name: string, value: string];

function memberLines(self: Member, remotes: readonly Member[], ids: Ids): readonly Line[] {
  const lines = (member: Member, id: number): readonly Line[] => [
    [`hostname${id}`, member.hostname],
    [`wd_port${id}`, member.wdPort],
    ...(member.pgpoolPort === undefined ? [] : [[`pgpool_port${id}`, member.pgpoolPort] as const]),
  ];
  return [
    ...lines(self, ids.self),
    ...remotes.flatMap((member, at) => lines(member, ids.remotes[at] ?? at)),
  ];
}

/**
 * Each destination becomes one more target. One that names a member's host takes that member's
 * place; the rest, such as second addresses, take places after the last member.
 */
function heartbeatLines(
  others: readonly Setting[],
  legacy: readonly Setting[],
  value: LastValue,
  remotes: readonly Member[],
  ids: Ids,
): { readonly others: readonly Setting[]; readonly lines: readonly Line[] } {
  const free = new Map(remotes.map((member, at) => [member.hostname, ids.remotes[at] ?? at]));
  let spare = Math.max(ids.self, ...ids.remotes) + 1;
  const receiver: readonly Line[] = [
    [`heartbeat_hostname${ids.self}`, "*"],
    [`heartbeat_port${ids.self}`, value("wd_heartbeat_port") ?? "9694"],
    [`heartbeat_device${ids.self}`, value("heartbeat_device0") ?? ""],
  ];
  const targets = indexes(legacy, "heartbeat_destination").flatMap((x): readonly Line[] => {
    const host = value(`heartbeat_destination${x}`) ?? "";
    if (host === "") return [];
    const id = free.get(host) ?? spare++;
    free.delete(host);
    return [
      [`heartbeat_hostname${id}`, host],
      [`heartbeat_port${id}`, value(`heartbeat_destination_port${x}`) ?? "9694"],
      [`heartbeat_device${id}`, value(`heartbeat_device${x}`) ?? ""],
    ];
  });
  // heartbeat_deviceX was numbered like the destinations, and is placed with them above.
  const kept = others.filter((setting) => !/^heartbeat_device[0-9]+$/.test(setting.name));
  return { others: kept, lines: [...receiver, ...targets] };
}
