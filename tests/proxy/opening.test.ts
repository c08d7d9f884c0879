/** Where pgpool replicates, a session has a connection to every live node or does not begin. */
import { describe, expect, test } from "bun:test";
import { BackendRefused } from "../../core/auth/client.ts";
import type { ClusterState, NodeId } from "../../core/cluster/state.ts";
import { BackendUnavailable } from "../../core/errors.ts";
import type { Backend } from "../../proxy/backend.ts";
import { Opening, openEverywhere } from "../../proxy/opening.ts";
import { clusterOf } from "./routing/rules.ts";

type Answer = "in" | "refused" | "unreachable" | "silent";

/** A cluster whose clock runs only while somebody waits for a change. */
class Play {
  now = 0;
  state: ClusterState;
  readonly answers: readonly Answer[];
  readonly closed: NodeId[] = [];
  readonly stop = new AbortController();
  readonly #changes: readonly (readonly [ms: number, ClusterState])[];

  constructor(
    before: ClusterState,
    answers: readonly Answer[],
    changes: readonly (readonly [ms: number, ClusterState])[] = [],
  ) {
    this.state = before;
    this.answers = answers;
    this.#changes = changes;
  }

  clock = () => this.now;
  async stateChanged(timeoutMs: number): Promise<void> {
    this.now += timeoutMs;
    for (const [ms, state] of this.#changes) if (ms <= this.now) this.state = state;
  }

  /** The nodes that a session would begin with, or why there is none. */
  async logIn(): Promise<string> {
    const opening = new Opening(this.stop.signal, (node) => this.#open(node));
    for (const { id, status } of this.state.nodes) {
      if (status === "up") void opening.begin(id).catch(() => undefined);
    }
    try {
      await openEverywhere(opening, this, this.stop.signal);
      return `nodes ${opening.opened.flatMap((backend) => backend?.node ?? [])}`;
    } catch (error) {
      return `${error instanceof Error ? error.message : error}, ${this.now < 1000 ? "soon" : "late"}`;
    }
  }

  async #open(node: NodeId): Promise<Backend> {
    switch (this.answers[node] ?? "silent") {
      case "in":
        return { node, closed: false, close: () => this.closed.push(node) } as unknown as Backend;
      case "refused":
        throw new BackendRefused("no such database", "", new Uint8Array(0));
      case "unreachable":
        throw new BackendUnavailable("unreachable");
      case "silent":
        return await new Promise<never>(() => {});
    }
  }
}

const both = clusterOf([{}, {}]);
const alone = clusterOf([{}, { status: "down" }]);

describe("a log-in to every node", () => {
  const rows: readonly [string, Play, string][] = [
    ["begins with all of them", new Play(both, ["in", "in"]), "nodes 0,1"],
    ["needs none that is down", new Play(alone, ["in", "in"]), "nodes 0"],
    ["fails as one of them refuses", new Play(both, ["in", "refused"]), "no such database, soon"],
    [
      "goes on without a node that is detached because it cannot be reached",
      new Play(both, ["in", "unreachable"], [[500, alone]]),
      "nodes 0",
    ],
    [
      "fails when a node that cannot be reached stays",
      new Play(both, ["in", "unreachable"]),
      "unreachable, late",
    ],
    [
      "waits for a silent node for as long as it is not detached",
      new Play(both, ["in", "silent"], [[60_000, alone]]),
      "nodes 0",
    ],
  ];
  test.each(rows)("%s", async (_, play, result) => {
    expect(await play.logIn()).toBe(result);
  });

  test("opens a node that is attached while another keeps it waiting", async () => {
    const three = clusterOf([{}, { status: "down" }, {}]);
    const joined = clusterOf([{}, {}, { status: "down" }]);
    const play = new Play(three, ["in", "in", "silent"], [[250, joined]]);
    expect(await play.logIn()).toBe("nodes 0,1");
  });

  test("is given up with its client", async () => {
    const play = new Play(both, ["in", "silent"]);
    play.stop.abort(new Error("the client is gone"));
    expect(await play.logIn()).toBe("the client is gone, soon");
  });
});
