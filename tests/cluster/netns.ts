/**
 * The hosts and the network of cmd/demo_network.ts, with what a network may do to those who rely on it:
 * links can be cut, lose packets or carry them one way only. Whatever happens nothing stays behind,
 * and what a killed test left is removed by the next one.
 */
import { freeSubnet, HostNetwork, INTERFACE, ip, whyNoNetworks } from "../../cmd/demo_network.ts";
import { findProgram, mustRun, runCommand, type Scope } from "./machine.ts";

export class TestNetwork extends HostNetwork {
  /** A bridge with `count` hosts, all links whole; taken down at the end of the scope. */
  static async create(scope: Scope, count: number): Promise<TestNetwork> {
    const network = new TestNetwork(await freeSubnet(), count);
    scope.defer(() => network.remove());
    return await network.build();
  }

  /** As the host itself sees it. */
  async setInterface(index: number, state: "up" | "down"): Promise<void> {
    await ip("-n", this.host(index).namespace, "link", "set", INTERFACE, state);
  }

  /** Its link stays up, but leads nowhere. */
  async isolate(...indexes: readonly number[]): Promise<void> {
    for (const index of indexes) await ip("link", "set", this.host(index).port, "nomaster");
  }

  async rejoin(...indexes: readonly number[]): Promise<void> {
    for (const index of indexes) {
      await ip("link", "set", this.host(index).port, "master", this.bridge);
    }
  }

  /** The whole network, and this machine's way to all hosts. */
  async setBridge(state: "up" | "down"): Promise<void> {
    await ip("link", "set", this.bridge, state);
  }

  /** Drops what `from` sends to `to`, and no answer to it: a link that is half open. */
  async cutOneWay(from: number, to: number): Promise<void> {
    await this.#filter(to, `ip saddr ${this.host(from).address} drop`);
  }

  /** Drops a share of what arrives at the host. */
  async lose(index: number, percent: number): Promise<void> {
    await this.#filter(index, `numgen random mod 100 < ${percent} drop`);
  }

  async #filter(index: number, rule: string): Promise<void> {
    const { namespace } = this.host(index);
    const nft = (text: string) => mustRun(["ip", "netns", "exec", namespace, "nft", text]);
    await nft("add table inet faults");
    await nft("add chain inet faults arriving { type filter hook input priority 0 ; }");
    await nft(`add rule inet faults arriving ${rule}`);
  }

  /** Ends losses and one-way cuts of every host. */
  async unfilter(): Promise<void> {
    for (const { namespace } of this.hosts) {
      // Fails where there is none, which is as well.
      await runCommand(["ip", "netns", "exec", namespace, "nft", "delete table inet faults"]);
    }
  }
}

/** Whether this process may make namespaces and bridges here. */
export const canMakeNetworks = (): boolean =>
  findProgram("nft") !== undefined && whyNoNetworks() === undefined;
