import { expect, test } from "bun:test";
import { checkMonitored, viewNetwork } from "../../watchdog/interfaces.ts";

test("without monitoring the network counts as up, and its addresses are seen", () => {
  const { up, addresses } = viewNetwork([]);
  expect(up).toBe(true);
  expect(addresses).toContain("127.0.0.1");
});

test("links that are not there are down, and wrong at the start", () => {
  expect(viewNetwork(["no-such-link"]).up).toBe(false);
  expect(() => checkMonitored(["no-such-link"])).toThrow(
    'initializing watchdog failed. invalid interface name "no-such-link"',
  );
  expect(() => checkMonitored(["lo"])).not.toThrow();
});

test("an unchanged network gives the same signature", () => {
  expect(viewNetwork(["any"]).signature).toBe(viewNetwork(["any"]).signature);
});
