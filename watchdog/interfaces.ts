/**
 * The network of this host as the watchdog watches it (spec watchdog/states.md section 10): whether a
 * monitored link is up and an address is left.
 */

import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { ConfigError } from "../core/errors.ts";

export type NetworkView = {
  /** False when all monitored links are down, or no IPv4 address is left beside the loopback's. */
  readonly up: boolean;
  /** Of every interface; another text is a change. */
  readonly signature: string;
  readonly addresses: readonly string[];
};

/** Without names nothing is monitored, and the network counts as up. */
export function viewNetwork(names: readonly string[]): NetworkView {
  const all = networkInterfaces();
  const addresses = Object.values(all).flatMap((list) => list ?? []);
  const signature = addresses.map(({ address, cidr }) => cidr ?? address).sort();
  const texts = addresses.map(({ address }) => address);
  if (names.length === 0) {
    return { up: true, signature: signature.join(), addresses: texts };
  }
  const monitored = monitoredNames(names);
  const links = monitored.map((name) => `${name}=${isLinkUp(name)}`);
  const hasAddress = addresses.some(({ family, internal }) => family === "IPv4" && !internal);
  return {
    up: hasAddress && monitored.some(isLinkUp),
    signature: [...signature, ...links].join(),
    addresses: texts,
  };
}

/** @throws ConfigError for a name that no interface has, or when none of them is up */
export function checkMonitored(names: readonly string[]): void {
  const monitored = monitoredNames(names);
  for (const name of monitored) {
    if (stateOf(name) !== undefined) continue;
    throw new ConfigError(`initializing watchdog failed. invalid interface name "${name}"`);
  }
  if (names.length === 0 || monitored.some(isLinkUp)) return;
  throw new ConfigError("initializing watchdog failed. no monitored interface is up", {
    detail: `wd_monitoring_interfaces_list: ${names.join(", ")}`,
  });
}

function monitoredNames(names: readonly string[]): readonly string[] {
  if (!names.some((name) => name.toLowerCase() === "any")) return names;
  return Object.keys(networkInterfaces()).filter((name) => !name.startsWith("lo"));
}

/** As the kernel says; a device without a carrier to speak of is in state unknown. */
const isLinkUp = (name: string): boolean => ["up", "unknown"].includes(stateOf(name) ?? "");

function stateOf(name: string): string | undefined {
  try {
    return readFileSync(`/sys/class/net/${name}/operstate`, "utf8").trim();
  } catch {
    // Where there is no such file, an interface that is listed has an address and is up.
    return networkInterfaces()[name] === undefined ? undefined : "up";
  }
}
