/** The texts that make several pgpools of `pgpool setup` guard each other. Pure: a plan in, texts out. */

/** One of the pgpools, and its ports. */
export type Guard = {
  readonly id: number;
  readonly port: number;
  readonly wdPort: number;
  readonly heartbeatPort: number;
};

/** Each takes four: for clients, for PCP, for the watchdog, for heartbeats. */
const PORTS_EACH = 4;

export const portsOf = (basePort: number, id: number): Omit<Guard, "id"> => {
  const port = basePort + PORTS_EACH * id;
  return { port, wdPort: port + 2, heartbeatPort: port + 3 };
};

const lines = (all: readonly string[]): string => all.map((line) => `${line}\n`).join("");

/** What is appended to the pgpool.conf of `self`. */
export function watchdogSettings(
  guards: readonly Guard[],
  self: Guard,
  delegateIp: string | undefined,
): string {
  return lines([
    "",
    "# The cluster of pgpools.",
    "use_watchdog = on",
    "wd_interval = 1",
    `wd_priority = ${guards.length - self.id}`,
    ...guards.flatMap(({ id, port, wdPort, heartbeatPort }) => [
      `hostname${id} = 'localhost'`,
      `pgpool_port${id} = ${port}`,
      `wd_port${id} = ${wdPort}`,
      `heartbeat_hostname${id} = 'localhost'`,
      `heartbeat_port${id} = ${heartbeatPort}`,
    ]),
    ...(delegateIp === undefined ? [] : delegateSettings(delegateIp)),
  ]);
}

/** An address of the loopback network is there without being brought up, and needs no privileges. */
function delegateSettings(address: string): readonly string[] {
  const name = `delegate_ip = '${address}'`;
  if (!address.startsWith("127.")) return [name];
  const nothing = ["if_up_cmd", "if_down_cmd", "arping_cmd"].map(
    (command) => `${command} = '/bin/true $_IP_$'`,
  );
  return [name, ...nothing, "arping_path = '/bin'"];
}

/** A script of a pgpool other than the first: the clusters are the first one's to start and stop. */
export function withoutClusters(script: string, dir: string): string {
  // Directories above may be called anything.
  return script
    .split("\n")
    .filter((line) => !/\bdata\d/.test(line.replaceAll(dir, "")))
    .join("\n");
}

/** Runs a script of each. The first has the clusters, so it starts first and stops last. */
const forEachGuard = (
  dir: string,
  title: string,
  order: readonly Guard[],
  script: string,
): string =>
  lines([
    "#! /bin/sh",
    `# ${title}`,
    `cd ${dir} || exit 1`,
    ...order.flatMap(({ id }) => [`cd pgpool${id}`, `./${script}`, "cd .."]),
  ]);

export const startAllOf = (dir: string, guards: readonly Guard[]): string =>
  forEachGuard(dir, "Starts the PostgreSQL clusters, then the pgpools.", guards, "startall");

export const shutdownAllOf = (dir: string, guards: readonly Guard[]): string =>
  forEachGuard(
    dir,
    "Stops the pgpools, then the PostgreSQL clusters.",
    guards.toReversed(),
    "shutdownall",
  );
