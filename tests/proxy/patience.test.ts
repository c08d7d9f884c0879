import { expect, test } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { type NodeId, nodeId } from "../../core/cluster/state.ts";
import type { Opening } from "../../proxy/opening.ts";
import { Patience } from "../../proxy/patience.ts";

/** Somebody logs in, and node 1 has let them in when `settled` resolves. Returns whom they go without. */
async function passedOver(settled: Promise<unknown>): Promise<readonly NodeId[]> {
  const doubted: NodeId[] = [];
  const patience = new Patience(
    async () => false,
    (node) => doubted.push(node),
  );
  const opening: Pick<Opening, "settled" | "pending" | "abandonRest"> = {
    settled: async () => void (await settled),
    pending: new Set([nodeId(1)]),
    abandonRest: () => undefined,
  };
  await patience.for(opening as Opening, () => true);
  patience.stop();
  return doubted;
}

test("a standby that does not answer is not waited for", async () => {
  expect(await passedOver(new Promise(() => undefined))).toEqual([nodeId(1)]);
});

test("what has come while we stood still counts as an answer in time", async () => {
  const server = createServer();
  const connected = once(server, "connection");
  await once(server.listen(0, "127.0.0.1"), "listening");
  const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const [standby] = (await connected) as [Socket];
  try {
    const waiting = passedOver(once(client, "data"));
    standby.write("R");
    const end = performance.now() + 700;
    while (performance.now() < end); // whoever is stopped reads nothing, and finds all timers due
    expect(await waiting).toEqual([]);
  } finally {
    for (const socket of [client, standby]) socket.destroy();
    server.close();
  }
});
