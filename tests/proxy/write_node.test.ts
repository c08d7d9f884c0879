/** How long, and for what, a session without a node for its writes waits; the clock is the test's. */
import { expect, test } from "bun:test";
import { BackendRefused } from "../../core/auth/client.ts";
import { type ClusterState, type NodeId, nodeId } from "../../core/cluster/state.ts";
import { BackendUnavailable } from "../../core/errors.ts";
import { errorResponse } from "../../core/wire/backend.ts";
import type { Backend } from "../../proxy/backend.ts";
import { awaitWriteNode, findWriteNode, WRITE_NODE_WAIT_MS } from "../../proxy/write_node.ts";
import { clusterOf } from "./routing/rules.ts";

const down = { status: "down" } as const;
const failing = clusterOf([down, {}], { primary: undefined, ongoing: "failover" });
const promoted = clusterOf([down, {}], { primary: nodeId(1) });

/** A cluster whose every change is a quarter of a second away. */
class Watch {
  now = 0;
  state: ClusterState;
  readonly #later: Map<number, ClusterState>;

  constructor(states: Readonly<Record<number, ClusterState>>) {
    this.#later = new Map(Object.entries(states).map(([ms, state]) => [Number(ms), state]));
    this.state = this.#later.get(0) ?? failing;
  }

  clock = () => this.now;
  async stateChanged(timeoutMs: number): Promise<void> {
    this.now += timeoutMs;
    this.state = this.#later.get(this.now) ?? this.state;
  }
}

type Behaviour = {
  readonly mayAdopt?: boolean;
  /** Nodes to which the session is connected already. */
  readonly links?: readonly number[];
  open?(node: NodeId): Promise<Backend>;
  /** The client is gone when this comes true. */
  isGone?(): boolean;
  /** Each connection ends as soon as it is taken over. */
  readonly adoptsInVain?: boolean;
};

async function play(watch: Watch, behaviour: Behaviour) {
  const { mayAdopt = true, links = [], open, isGone, adoptsInVain = false } = behaviour;
  const done: string[] = [];
  let over = false;
  const client = {
    isOver: () => over || isGone?.() === true,
    follow: () => {
      const { primary } = watch.state;
      if (primary === undefined || !links.includes(primary)) return;
      done.push(`followed ${primary}`);
      over = true;
    },
    makeDo: () => {
      const main = watch.state.nodes.find(({ status }) => status === "up")?.id;
      if (main === undefined || !links.includes(main)) return;
      done.push(`made do with ${main}`);
      over = true;
    },
    mayAdopt: () => mayAdopt,
    open: async (node: NodeId, limitMs: number) => {
      done.push(`opened ${node}`);
      expect(limitMs).toBeWithin(1, 5001);
      const close = () => void done.push(`closed ${node}`);
      return await (open?.(node) ?? ({ node, close } as Backend));
    },
    adopt: (backend: Backend) => {
      done.push(`adopted ${backend.node}`);
      over = !adoptsInVain;
    },
  };
  const failure = await findWriteNode(client, watch);
  return { done, failure };
}

const refusal = (code: string) =>
  new BackendRefused("refused", "", errorResponse({ severity: "FATAL", code, message: "no" }));

test("a connected standby is followed when it has become the primary, and not before", async () => {
  const watch = new Watch({ 0: failing, 5000: promoted });
  expect(await play(watch, { links: [1] })).toEqual({ done: ["followed 1"], failure: undefined });
  expect(watch.now).toBe(5000);
});

test("a new connection is opened when there is none, unless something would be lost by it", async () => {
  const opened = await play(new Watch({ 0: promoted }), {});
  expect(opened.done).toEqual(["opened 1", "adopted 1"]);
  const kept = await play(new Watch({ 0: promoted }), { mayAdopt: false });
  expect(kept.done).toEqual([]);
  expect(kept.failure).toMatchObject({ sqlstate: "57P01", severity: "FATAL" });
});

test("a server that is starting is tried again, one that refuses for good is not", async () => {
  let tries = 0;
  const open = async (node: NodeId) => {
    if (++tries < 4) throw refusal("57P03");
    return { node } as Backend;
  };
  expect((await play(new Watch({ 0: promoted }), { open })).done.at(-1)).toBe("adopted 1");
  expect(tries).toBe(4);
  const wrong = refusal("28P01");
  const refused = await play(new Watch({ 0: promoted }), { open: () => Promise.reject(wrong) });
  expect(refused).toEqual({ done: ["opened 1"], failure: wrong });
});

test("after half a minute the node that is there has to do, or the client hears why not", async () => {
  const watch = new Watch({ 0: failing });
  expect((await play(watch, { links: [1] })).done).toEqual(["made do with 1"]);
  expect(watch.now).toBe(WRITE_NODE_WAIT_MS);
  const unreachable = new BackendUnavailable("it does not answer");
  const alone = await play(new Watch({ 0: promoted }), {
    open: () => Promise.reject(unreachable),
  });
  expect(alone.failure).toBe(unreachable);
});

test("a node that is detached while a connection to it is opened is not gone over to", async () => {
  const late = new Watch({ 0: clusterOf([{}, {}]), 250: promoted });
  const close = () => {};
  const open = async (node: NodeId) => {
    if (late.now === 0) late.state = failing;
    return { node, close } as Backend;
  };
  expect((await play(late, { open })).done).toEqual(["opened 0", "opened 1", "adopted 1"]);
});

test("no connection is left behind by a client that goes while it is opened", async () => {
  let gone = false;
  const closed: NodeId[] = [];
  const open = async (node: NodeId) => {
    gone = true;
    return { node, close: () => void closed.push(node) } as Backend;
  };
  const { done } = await play(new Watch({ 0: promoted }), { open, isGone: () => gone });
  expect([done, closed]).toEqual([["opened 1"], [nodeId(1)]]);
});

test("a server that ends each connection at once is not asked for ever", async () => {
  const watch = new Watch({ 0: promoted });
  const { failure } = await play(watch, { adoptsInVain: true });
  expect(failure).toMatchObject({ sqlstate: "57P01" });
  expect(watch.now).toBe(WRITE_NODE_WAIT_MS);
});

test("a log-in waits while a failover is carried out, for so long and no longer", async () => {
  const short = new Watch({ 0: failing, 2000: promoted });
  await awaitWriteNode(short, new AbortController().signal);
  expect(short.now).toBe(2000);
  const long = new Watch({ 0: failing });
  await awaitWriteNode(long, new AbortController().signal);
  expect(long.now).toBe(WRITE_NODE_WAIT_MS);
  const searching = new Watch({ 0: { ...failing, ongoing: undefined, lostPrimary: nodeId(0) } });
  await awaitWriteNode(searching, new AbortController().signal);
  expect(searching.now).toBe(0);
});
