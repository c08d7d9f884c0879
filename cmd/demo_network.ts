/**
 * Hosts with a network between them, on one machine: network namespaces that a bridge joins. It needs
 * root and Linux. The demonstration's hosts are these, and so are the tests', who add their faults.
 */
import { execFile, spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import { userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { isAlive } from "./pid_file.ts";

export type NetHost = {
  readonly index: number;
  readonly address: string;
  readonly namespace: string;
  /** The bridge's end of its cable. */
  readonly port: string;
  /** Words that run a program there: `[...host.under, "pgpool", "-n"]`. */
  readonly under: readonly string[];
};

/** Names begin with this and the process that made them: interfaces have at most 15 characters. */
const PREFIX = "pgn";
const nameOf = (what: string) => `${PREFIX}${process.pid}${what}`;
const ownerOf = (name: string): number => Number(/^pgn(\d+)[a-z]/.exec(name)?.[1] ?? Number.NaN);

/** Of a namespace's network interface, as its commands for the delegate IP name it. */
export const INTERFACE = "eth0";

let made = 0;
const open = new Set<HostNetwork>();

export class HostNetwork {
  readonly hosts: readonly NetHost[];
  /** This machine on the bridge: servers that all hosts reach listen here. */
  readonly gateway: string;
  /** An address that no host has at first. */
  readonly delegateIp: string;
  readonly bridge: string;

  protected constructor(subnet: string, count: number) {
    const id = made++;
    this.gateway = `${subnet}.254`;
    this.delegateIp = `${subnet}.100`;
    this.bridge = nameOf(`b${id}`);
    this.hosts = Array.from({ length: count }, (_, index) => {
      const namespace = nameOf(`n${id}${index}`);
      return {
        index,
        address: `${subnet}.${10 + index}`,
        namespace,
        port: nameOf(`v${id}${index}`),
        under: ["ip", "netns", "exec", namespace],
      };
    });
  }

  /** A bridge with `count` hosts, all links whole; `remove` takes it down, and so does our own end. */
  static async make(count: number): Promise<HostNetwork> {
    return await new HostNetwork(await freeSubnet(), count).build();
  }

  protected async build(): Promise<this> {
    sweep();
    if (open.size === 0) process.once("exit", removeAll);
    open.add(this);
    const { bridge } = this;
    await ip("link", "add", bridge, "type", "bridge");
    await ip("addr", "add", `${this.gateway}/24`, "dev", bridge);
    await ip("link", "set", bridge, "up");
    for (const { namespace, port, address } of this.hosts) {
      await ip("netns", "add", namespace);
      await ip("link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", namespace);
      await ip("link", "set", port, "master", bridge, "up");
      await ip("-n", namespace, "link", "set", "lo", "up");
      await ip("-n", namespace, "addr", "add", `${address}/24`, "dev", INTERFACE);
      await ip("-n", namespace, "link", "set", INTERFACE, "up");
    }
    return this;
  }

  host(index: number): NetHost {
    const host = this.hosts[index];
    if (host === undefined) throw new Error(`there is no host ${index}`);
    return host;
  }

  /** Takes the delegate IP off a host, as the loss of its power does. */
  async forget(index: number): Promise<void> {
    const { namespace } = this.host(index);
    const isThere = async () => (await this.holdersOf(this.delegateIp)).includes(index);
    if (!(await isThere())) return;
    try {
      await ip("-n", namespace, "addr", "del", `${this.delegateIp}/24`, "dev", INTERFACE);
    } catch (error) {
      if (await isThere()) throw error; // else pgpool's own guard was faster
    }
  }

  /** The hosts that have the address now. */
  async holdersOf(address: string): Promise<readonly number[]> {
    const texts = await Promise.all(
      this.hosts.map(({ namespace }) => ip("-n", namespace, "-o", "-4", "addr", "show")),
    );
    return texts.flatMap((text, index) => (text.includes(` ${address}/`) ? [index] : []));
  }

  /** Parameters of pgpool.conf for a delegate IP in such a host. */
  get delegateSettings(): Readonly<Record<string, string>> {
    const address = `$_IP_$/24 dev ${INTERFACE}`;
    return {
      delegate_IP: this.delegateIp,
      if_cmd_path: directoryOf("ip"),
      if_up_cmd: `ip addr add ${address}`,
      if_down_cmd: `ip addr del ${address}`,
      arping_path: directoryOf("arping"),
      arping_cmd: `arping -U $_IP_$ -w 1 -I ${INTERFACE}`,
      ping_path: directoryOf("ping"),
    };
  }

  remove(): void {
    if (!open.delete(this)) return;
    for (const { namespace, port } of this.hosts) {
      spawnSync("ip", ["link", "del", port]);
      spawnSync("ip", ["netns", "del", namespace]);
    }
    spawnSync("ip", ["link", "del", this.bridge]);
  }
}

const execute = promisify(execFile);

/** Runs `ip`; rejects with what it says when it fails. */
export const ip = async (...args: readonly string[]): Promise<string> =>
  (await execute("ip", args)).stdout;

function findDirectory(program: string): string | undefined {
  const { PATH = "" } = process.env;
  const folders = [...PATH.split(delimiter), "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
  return folders.find((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false; // not here
    }
  });
}

function directoryOf(program: string): string {
  const directory = findDirectory(program);
  if (directory === undefined) throw new Error(`${program} is not installed`);
  return directory;
}

function removeAll(): void {
  for (const network of open) network.remove();
}

/** What those have left who were killed. */
function sweep(): void {
  const isLeft = (name: string) => Number.isInteger(ownerOf(name)) && !isAlive(ownerOf(name));
  for (const name of namesIn("/run/netns").filter(isLeft)) spawnSync("ip", ["netns", "del", name]);
  for (const name of namesIn("/sys/class/net").filter(isLeft)) {
    spawnSync("ip", ["link", "del", name]);
  }
}

const namesIn = (folder: string): readonly string[] =>
  existsSync(folder) ? readdirSync(folder) : [];

export async function freeSubnet(): Promise<string> {
  const taken = await ip("-o", "-4", "addr", "show");
  for (;;) {
    const subnet = `10.${200 + Math.floor(Math.random() * 50)}.${Math.floor(Math.random() * 250)}`;
    if (!taken.includes(` ${subnet}.`)) return subnet;
  }
}

/** Why this process cannot make namespaces and bridges here; undefined where it can. */
export function whyNoNetworks(): string | undefined {
  if (userInfo().uid !== 0) return "network namespaces need root";
  const absent = ["ip", "arping", "ping"].filter((name) => findDirectory(name) === undefined);
  if (absent.length > 0) return `${absent.join(" and ")} not installed`;
  const [namespace, bridge] = [nameOf("probe"), nameOf("p")];
  const succeeds = (...args: readonly string[]) => spawnSync("ip", args).status === 0;
  const can =
    succeeds("netns", "add", namespace) && succeeds("link", "add", bridge, "type", "bridge");
  spawnSync("ip", ["link", "del", bridge]);
  spawnSync("ip", ["netns", "del", namespace]);
  return can ? undefined : "this kernel lets nobody make network namespaces and bridges";
}
