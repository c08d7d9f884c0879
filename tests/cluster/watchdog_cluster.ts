/**
 * Clusters of pgpools that guard each other: ours, the original, or both side by side, on the loopback,
 * where ports tell them apart, or each on a host of its own.
 */
import type { Socket } from "node:net";
import { decodeWatchdogInfo, type WatchdogInfo } from "../../core/pcp/watchdog_info.ts";
import { encodeIpcRequest, ipcSocketPath, jsonText } from "../../watchdog/ipc.ts";
import { askOverIpc } from "../../watchdog/ipc_client.ts";
import { type Config, checked, telling } from "./failover_stage.ts";
import {
  type Backend,
  type ConfigValue,
  eventually,
  freePort,
  Pgpool,
  type Program,
  patient,
  pcpAdmin,
  runCommand,
  type Scope,
  type TestNetwork,
} from "./harness.ts";

export type WatchdogOptions = {
  /** What each node runs; its place is its pgpool_node_id. Default: three of the program under test. */
  readonly programs?: readonly (Program | undefined)[];
  /** Each node on a host of its own; else all on 127.0.0.1. */
  readonly network?: TestNetwork;
  readonly backends: readonly Backend[];
  /** Over what all nodes have. */
  readonly config?: Config;
  /** Over that, for one node. */
  readonly configOf?: (id: number) => Config;
  /** Whose file is one of 4.1, which describes its own node and then the others. */
  readonly legacy?: readonly number[];
};

/** Quick, but with room for a busy machine, which may leave a node without its turn for some seconds. */
const quick: Config = {
  wd_interval: 1,
  wd_heartbeat_keepalive: 1,
  wd_heartbeat_deadtime: 10,
  health_check_timeout: 5,
  health_check_max_retries: 1,
  health_check_retry_delay: 1,
  failover_on_backend_error: false,
  num_init_children: 8,
  max_pool: 1,
};

type Place = {
  readonly id: number;
  readonly host: string;
  readonly port: number;
  readonly pcpPort: number;
  readonly wdPort: number;
  readonly heartbeatPort: number;
};

export class WatchdogNode {
  readonly id: number;
  readonly pgpool: Pgpool;
  readonly wdPort: number;
  readonly heartbeatPort: number;
  readonly #authKey: string;

  constructor({ id, wdPort, heartbeatPort }: Place, pgpool: Pgpool, authKey: string) {
    this.id = id;
    this.pgpool = pgpool;
    this.wdPort = wdPort;
    this.heartbeatPort = heartbeatPort;
    this.#authKey = authKey;
  }

  get ipcPath(): string {
    return ipcSocketPath(this.pgpool.dir, this.wdPort);
  }

  /** What it knows of the cluster. Rejects when it does not answer. */
  async info(): Promise<WatchdogInfo> {
    const request = encodeIpcRequest("3", { NodeID: -1 }, this.#authKey);
    const answer = await askOverIpc(this.ipcPath, request, 3000);
    if (answer.kind !== "frame" || answer.frame.letter !== "7") {
      throw new Error(`node ${this.id} does not answer: ${JSON.stringify(answer)}`);
    }
    return decodeWatchdogInfo(jsonText(answer.frame.body));
  }

  /** As it sees itself: "LEADER", "STANDBY", and "-" when it does not answer. */
  async state(): Promise<string> {
    try {
      const { nodes, escalated } = await this.info();
      const state = nodes.find(({ id }) => id === this.id)?.stateName ?? "?";
      return state === "LEADER" && !escalated ? "LEADER without quorum" : state;
    } catch {
      return "-";
    }
  }

  /** As it sees each node, by id: "LEADER STANDBY LOST". */
  async view(): Promise<string> {
    return statesIn(await this.info()).join(" ");
  }

  untilState(wanted: string | RegExp, deadlineMs = 60_000): Promise<string> {
    const what = `node ${this.id} to be ${wanted}`;
    return eventually(() => this.state(), matching(wanted), { deadlineMs, what });
  }

  untilView(wanted: string | RegExp, deadlineMs = 60_000): Promise<string> {
    const what = `node ${this.id} to see ${wanted}`;
    return eventually(() => this.view(), matching(wanted), { deadlineMs, what });
  }
}

export class WatchdogCluster {
  readonly nodes: readonly WatchdogNode[];

  private constructor(nodes: readonly WatchdogNode[]) {
    this.nodes = nodes;
  }

  /** Makes their files; starts none. */
  static async create(scope: Scope, options: WatchdogOptions): Promise<WatchdogCluster> {
    const { network, backends, programs = [undefined, undefined, undefined] } = options;
    const places = await Promise.all(programs.map((_, id) => placeOf(id, network)));
    const nodes = places.map(async (place) => {
      const { id, host } = place;
      const config: Config = {
        use_watchdog: true,
        wd_priority: places.length - id,
        ...checked(backends.length),
        ...quick,
        ...(options.legacy?.includes(id) === true ? legacyMembers(place, places) : members(places)),
        ...(network === undefined ? {} : { listen_addresses: "*", ...network.delegateSettings }),
        ...options.config,
        ...options.configOf?.(id),
      };
      const pgpool = await Pgpool.create(scope, {
        program: programs[id],
        host,
        ports: place,
        under: network?.host(id).under ?? [],
        backends,
        pcpUsers: [pcpAdmin],
        files: { pgpool_node_id: String(id) },
        startLater: true,
        config,
      });
      const { wd_authkey: authKey = "" } = config;
      return new WatchdogNode(place, pgpool, String(authKey));
    });
    return new WatchdogCluster(await Promise.all(nodes));
  }

  node(id: number): WatchdogNode {
    const node = this.nodes[id];
    if (node === undefined) throw new Error(`there is no node ${id}`);
    return node;
  }

  pgpool(id: number): Pgpool {
    return this.node(id).pgpool;
  }

  /** All at the same time; resolves when each serves clients. */
  async start(ids = this.#ids): Promise<void> {
    await Promise.all(ids.map((id) => this.pgpool(id).start()));
  }

  /** Waits until of these all see one lead, with a quorum, and the others follow; returns the leader. */
  async untilAgreed(ids = this.#ids, deadlineMs = 60_000): Promise<WatchdogNode> {
    const { leader = -1 } = await eventually(
      async () => {
        const infos = await Promise.all(ids.map((id) => this.node(id).info()));
        const views = infos.map((info) => ids.map((id) => statesIn(info)[id]));
        const at = views[0]?.indexOf("LEADER") ?? -1;
        const { escalated = false, aliveNodeCount = 0 } = infos[at] ?? {};
        return { views, leader: ids[at], escalated, aliveNodeCount };
      },
      ({ views, leader, escalated, aliveNodeCount }) =>
        escalated &&
        aliveNodeCount >= ids.length - 1 &&
        views.every((states) =>
          states.every((state, at) => state === (ids[at] === leader ? "LEADER" : "STANDBY")),
        ),
      { deadlineMs, what: `nodes ${ids.join()} to agree` },
    );
    return this.node(leader);
  }

  /** What the life check of node `at`, where it is somebody else's program, says of node `id`. */
  async inform(at: number, id: number, status: "DEAD" | "ALIVE"): Promise<void> {
    const { program, configPath } = this.pgpool(at);
    const which = ["-n", String(id), "-f", configPath];
    const done = await runCommand([program.path, "watchdog", "inform", status, ...which]);
    if (done.code !== 0) throw new Error(done.stderr);
  }

  /** Runs `body`; when it fails, what the nodes have logged says why. */
  telling<T>(body: () => Promise<T>): Promise<T> {
    return telling(
      this.nodes.map(({ pgpool }) => pgpool),
      body,
    );
  }

  get #ids(): readonly number[] {
    return this.nodes.map(({ id }) => id);
  }
}

async function placeOf(id: number, network: TestNetwork | undefined): Promise<Place> {
  const ports = { port: 9999, pcpPort: 9898, wdPort: 9000, heartbeatPort: 9694 };
  if (network !== undefined) return { id, host: network.host(id).address, ...ports };
  const [port, pcpPort] = [await freePort(), await freePort()];
  const [wdPort, heartbeatPort] = [await freePort(), await freePort()];
  return { id, host: "127.0.0.1", port, pcpPort, wdPort, heartbeatPort };
}

const members = (places: readonly Place[]): Config =>
  Object.assign(
    {},
    ...places.map(({ id, host, port, wdPort, heartbeatPort }) => ({
      [`hostname${id}`]: host,
      [`wd_port${id}`]: wdPort,
      [`pgpool_port${id}`]: port,
      [`heartbeat_hostname${id}`]: host,
      [`heartbeat_port${id}`]: heartbeatPort,
    })),
  );

function legacyMembers(own: Place, places: readonly Place[]): Config {
  const config: Record<string, ConfigValue> = {
    wd_hostname: own.host,
    wd_port: own.wdPort,
    wd_heartbeat_port: own.heartbeatPort,
  };
  const others = places.filter(({ id }) => id !== own.id);
  for (const [x, { host, port, wdPort, heartbeatPort }] of others.entries()) {
    config[`other_pgpool_hostname${x}`] = host;
    config[`other_pgpool_port${x}`] = port;
    config[`other_wd_port${x}`] = wdPort;
    config[`heartbeat_destination${x}`] = host;
    config[`heartbeat_destination_port${x}`] = heartbeatPort;
  }
  return config;
}

/** By id; whoever answers tells of itself first. */
const statesIn = ({ nodes }: WatchdogInfo): readonly string[] =>
  nodes.toSorted((one, other) => one.id - other.id).map(({ stateName }) => stateName);

const matching =
  (wanted: string | RegExp) =>
  (found: string): boolean =>
    typeof wanted === "string" ? found === wanted : wanted.test(found);

/**
 * Sends bytes by a socket that is being connected; resolves to what came back until its end, which is
 * ours after `hangUpMs`.
 */
export function exchange(
  socket: Socket,
  bytes: Uint8Array,
  hangUpMs?: number,
): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    const late = setTimeout(() => {
      socket.destroy();
      if (hangUpMs === undefined) reject(new Error("the connection was not closed"));
    }, hangUpMs ?? patient(10_000));
    socket.on("error", () => {}); // its end is told by "close"
    socket.on("data", (chunk: Buffer) => void chunks.push(chunk));
    socket.on("close", () => {
      clearTimeout(late);
      resolve(new Uint8Array(Buffer.concat(chunks)));
    });
    socket.write(bytes);
  });
}
