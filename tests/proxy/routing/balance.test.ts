import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { nodeId } from "../../../core/cluster/state.ts";
import { chooseLoadBalanceNode, isTooLate, type Reader } from "../../../proxy/routing/balance.ts";
import { clusterOf, rulesOf, type Settings } from "./rules.ts";

const reader: Reader = {
  user: "u",
  database: "d",
  applicationName: "app",
  lostNodes: new Set(),
};

/** Chance in the order it is drawn; drawing more is an error. */
function draws(...values: number[]): () => number {
  return () => {
    const value = values.shift();
    if (value === undefined) throw new Error("drew more than given");
    return value;
  };
}

describe("the lottery", () => {
  test("gives each node exactly its share of the draws", () => {
    const weights = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(weights, (parts) => {
        const total = parts.reduce((sum, part) => sum + part, 0);
        fc.pre(total > 0);
        const cluster = clusterOf(parts.map((part) => ({ weight: part })));
        const rules = rulesOf({});
        const won = parts.map(() => 0);
        // One draw in the middle of each of `total` equal slices of [0, 1).
        for (let slice = 0; slice < total; slice++) {
          const draw = (slice + 0.5) / total;
          const node = chooseLoadBalanceNode(reader, cluster, rules, draws(0, draw));
          won[node] = (won[node] ?? 0) + 1;
        }
        expect(won).toEqual(parts);
      }),
    );
  });

  test("never chooses a node that is down, out of reach or without weight", () => {
    const cluster = clusterOf([
      { weight: 0.4, status: "down" },
      { weight: 0.3 },
      { weight: 0 },
      { weight: 0.3, status: "waiting" },
    ]);
    const lost = { ...reader, lostNodes: new Set([nodeId(1)]) };
    fc.assert(
      fc.property(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (draw) => {
        expect(chooseLoadBalanceNode(lost, cluster, rulesOf({}), draws(0, draw))).toBe(nodeId(3));
      }),
    );
  });

  test("falls back on the main node when nobody has weight", () => {
    const cluster = clusterOf([{ weight: 0, status: "down" }, { weight: 0 }, { weight: 0 }]);
    expect(chooseLoadBalanceNode(reader, cluster, rulesOf({}), draws(0, 0.9))).toBe(nodeId(1));
  });

  test("is not held when load balancing is off", () => {
    const rules = rulesOf({ load_balance_mode: "off" });
    expect(chooseLoadBalanceNode(reader, clusterOf([{}, {}]), rules, draws())).toBe(nodeId(0));
  });
});

describe("redirect preferences", () => {
  const lists = (app: string, database = "", user = ""): Settings => ({
    app_name_redirect_preference_list: app,
    database_redirect_preference_list: database,
    user_redirect_preference_list: user,
  });
  const cases: [title: string, Settings, draw: number[], node: number][] = [
    ["application before database before user", lists("app:2", "d:1", "u:0"), [0], 2],
    ["database before user", lists("other:2", "d:1", "u:0"), [0], 1],
    ["within its ratio a node is taken", lists("app:2(0.3)"), [0.3], 2],
    ["beyond its ratio the others draw, without it", lists("app:2(0.3)"), [0.31, 0.99], 1],
    ["`primary` is the primary", lists("app:primary"), [0.5], 0],
    ["`standby` draws among the standbys", lists("app:standby"), [0.5, 0], 1],
    ["`standby` beyond its ratio is the primary", lists("app:standby(0.5)"), [0.6], 0],
    ["a number beyond the backends is the main node", lists("app:7"), [0], 0],
    ["names fit without regard to case, and whole", lists("AP.:2,xapp:1"), [0], 2],
    ["a name that fits in part does not", lists("ap:2"), [0, 0], 0],
  ];
  test.each(cases)("%s", (_, settings, values, node) => {
    const rules = rulesOf(settings);
    const cluster = clusterOf([{}, {}, {}]);
    expect(chooseLoadBalanceNode(reader, cluster, rules, draws(...values))).toBe(nodeId(node));
  });

  test("a node that is down is no preference", () => {
    const cluster = clusterOf([{}, {}, { status: "down" }]);
    const rules = rulesOf(lists("app:2"));
    expect(chooseLoadBalanceNode(reader, cluster, rules, draws(0, 0.9))).toBe(nodeId(1));
  });

  test("does not exist where pgpool replicates", () => {
    const cluster = clusterOf([{}, {}], { mode: "native_replication", primary: undefined });
    const rules = rulesOf(lists("app:1"));
    expect(chooseLoadBalanceNode(reader, cluster, rules, draws(0, 0))).toBe(nodeId(0));
  });
});

describe("delay", () => {
  const late = { delay: 5001, weight: 0.5 };
  const cases: [title: string, Settings, node: object, late: boolean][] = [
    ["bytes above delay_threshold", { delay_threshold: "5000" }, late, true],
    ["bytes at delay_threshold", { delay_threshold: "5001" }, late, false],
    ["no threshold", {}, late, false],
    [
      "time above its threshold",
      { delay_threshold_by_time: "5" },
      { ...late, delayByTime: true },
      true,
    ],
    [
      "time is not compared with bytes",
      { delay_threshold: "1" },
      { ...late, delayByTime: true },
      false,
    ],
  ];
  test.each(cases)("%s", (_, settings, node, expected) => {
    expect(isTooLate(clusterOf([{}, node]), rulesOf(settings), nodeId(1))).toBe(expected);
  });

  test("is looked at in streaming replication only, and never on the primary", () => {
    const rules = rulesOf({ delay_threshold: "1" });
    const logical = clusterOf([{}, late], { mode: "logical_replication" });
    expect(isTooLate(logical, rules, nodeId(1))).toBe(false);
    expect(isTooLate(clusterOf([late, {}]), rules, nodeId(0))).toBe(false);
  });

  const standbys = (...delays: number[]) =>
    clusterOf([
      { weight: 0 },
      ...delays.map((delay, i) => ({ delay, weight: i === 0 ? 0.8 : 0.1 })),
    ]);
  const prefer = rulesOf({ delay_threshold: "100", prefer_lower_delay_standby: "on" });
  const preferences: [title: string, delays: number[], node: number][] = [
    ["the winner stays within the limit", [100, 0, 0], 1],
    ["the least delayed is taken instead of a late winner", [101, 50, 20], 3],
    ["of equals the first with the greater weight", [101, 20, 20], 2],
    ["the primary is taken when all are late", [101, 200, 300], 0],
  ];
  test.each(preferences)("prefer_lower_delay_standby: %s", (_, delays, node) => {
    const chosen = chooseLoadBalanceNode(reader, standbys(...delays), prefer, draws(0, 0));
    expect(chosen).toBe(nodeId(node));
  });
});
