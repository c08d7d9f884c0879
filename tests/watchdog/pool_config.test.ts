import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  configDifferences,
  consensusTimeoutS,
  decodePoolConfig,
  encodePoolConfig,
  type PoolConfig,
} from "../../watchdog/pool_config.ts";
import { packets } from "./captures.ts";
import { poolConfig } from "./messages.ts";

function captured(isForeign: boolean): PoolConfig {
  const packet = packets.find((each) => each.letter === "Z" && each.isForeign === isForeign);
  const config = packet === undefined ? undefined : decodePoolConfig(packet.body);
  if (config === undefined) throw new Error("no such capture");
  return config;
}
const config = captured(false);
const withItems = (items: Partial<PoolConfig["items"]>): PoolConfig => ({
  ...config,
  items: { ...config.items, ...items },
});

describe("configDifferences()", () => {
  test("finds none in two equal configurations", () => {
    fc.assert(
      fc.property(poolConfig, (any) => {
        expect(configDifferences(any, any, "n")).toEqual([]);
      }),
    );
  });

  test("says of the captured pair what the real leader logged", () => {
    const other: PoolConfig = { ...captured(true), watchdogNodes: config.watchdogNodes };
    expect(configDifferences(config, other, "127.0.0.1:24030 Linux mock")).toEqual([
      {
        message:
          'configurations value for "num_init_children" on node "127.0.0.1:24030 Linux mock" is different',
        detail: '"num_init_children" on this node is 4 while on "127.0.0.1:24030 Linux mock" is 7',
      },
    ]);
  });

  test.each([
    ["a flag is ON or OFF", withItems({ load_balance_mode: 0 }), ["load_balance_mode ON OFF"]],
    ["who it is, and how eager, may differ", withItems({ wd_priority: 9, pgpool_node_id: 2 }), []],
    [
      "host names are compared without regard to case",
      { ...config, backends: config.backends.map((each) => ({ ...each, hostname: "H" })) },
      ["backend_hostname0 127.0.0.1 H", "backend_hostname1 127.0.0.1 H"],
    ],
    [
      "a backend that is missing is counted, and not compared",
      { ...config, backends: config.backends.slice(0, 1) },
      ["number of backend nodes 2 1"],
    ],
    ["so are watchdog nodes", { ...config, watchdogNodes: [] }, ["number of watchdog nodes 3 0"]],
  ])("%s", (_, other, expected) => {
    const found = configDifferences(config, other, "n").map(({ detail }) =>
      detail.replace(/"(.*?)" on this node is (.*) while on "n" is (.*)/, "$1 $2 $3"),
    );
    expect(found).toEqual(expected);
  });
});

describe("decodePoolConfig()", () => {
  test("takes 4.3's form without, and 4.4's with, the settings of its process management", () => {
    expect(config.processItems).toBeUndefined();
    const processItems = {
      min_spare_children: 5,
      max_spare_children: 10,
      process_management_mode: 0,
      process_management_strategy: 1,
    };
    const read = decodePoolConfig(encodePoolConfig({ ...config, processItems }));
    expect(read?.processItems).toEqual(processItems);
  });

  test("does not take a form in which an item is missing, as 4.1's", () => {
    const json = new TextDecoder().decode(encodePoolConfig(config));
    const cut = json.replace('"pgpool_node_id":1,', "");
    expect(cut).not.toBe(json);
    expect(decodePoolConfig(new TextEncoder().encode(cut))).toBeUndefined();
  });
});

describe("consensusTimeoutS()", () => {
  const periods = (period: number, retries: number, delay: number): PoolConfig =>
    withItems({
      health_check_period: period,
      health_check_max_retries: retries,
      health_check_retry_delay: delay,
    });

  test.each([
    ["is fifteen seconds at least", [periods(5, 0, 1)], 15],
    ["is what one health check may take", [periods(10, 3, 5)], 25],
    ["is that of the slowest node", [periods(10, 3, 5), periods(60, 0, 1), periods(1, 1, 1)], 60],
    [
      "counts a backend's own health check",
      [
        {
          ...config,
          healthChecks: [
            { timeout: 1, period: 20, maxRetries: 2, retryDelay: 4, connectTimeoutMs: 1 },
          ],
        },
      ],
      28,
    ],
  ])("%s", (_, configs, seconds) => {
    expect(consensusTimeoutS(configs)).toBe(seconds);
  });
});
