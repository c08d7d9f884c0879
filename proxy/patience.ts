/**
 * How long log-ins wait for the servers that they could do without. A standby that neither answers
 * nor refuses (a dropped packet, a stopped process) would hold up every client until a time limit:
 * so the first log-in that notices waits a moment, and the others not at all, until it answers.
 */
import type { NodeId } from "../core/cluster/state.ts";
import type { Opening } from "./opening.ts";

/** What a standby may take longer than the node that is needed, in milliseconds. */
const PATIENCE_MS = 500;
const PROBE_EVERY_MS = 1000;

export class Patience {
  readonly #doubtful = new Map<NodeId, ReturnType<typeof setInterval>>();
  readonly #isAlive: (node: NodeId) => Promise<boolean>;
  readonly #note: (node: NodeId, isDoubtful: boolean) => void;

  /**
   * `isAlive` asks a node whether it takes connections, within a limit of its own. `note` hears when
   * a node is begun or no longer to be passed over.
   */
  constructor(
    isAlive: (node: NodeId) => Promise<boolean>,
    note: (node: NodeId, isDoubtful: boolean) => void,
  ) {
    this.#isAlive = isAlive;
    this.#note = note;
  }

  /** Log-ins are to go without this node for now. */
  isDoubtful(node: NodeId): boolean {
    return this.#doubtful.size > 0 && this.#doubtful.has(node);
  }

  /** It has kept a log-in waiting for too long. Asked again and again until it answers. */
  doubt(node: NodeId): void {
    if (this.#doubtful.has(node)) return;
    this.#note(node, true);
    let asking = false;
    const ask = async () => {
      if (asking) return;
      asking = true;
      const alive = await this.#isAlive(node);
      asking = false;
      if (alive) this.trust(node);
    };
    this.#doubtful.set(node, setInterval(ask, PROBE_EVERY_MS));
  }

  /** It has answered, or has left the cluster and is asked by others. */
  trust(node: NodeId): void {
    const timer = this.#doubtful.get(node);
    if (timer === undefined) return;
    clearInterval(timer);
    this.#doubtful.delete(node);
    this.#note(node, false);
  }

  /** Nobody asks any more. */
  stop(): void {
    for (const timer of this.#doubtful.values()) clearInterval(timer);
    this.#doubtful.clear();
  }

  /**
   * Waits for what is opened besides the needed node. When that takes too long, and `mayGiveUp` says
   * that nobody is to blame but the nodes, they are doubtful and the rest is abandoned.
   */
  async for(opening: Opening, mayGiveUp: () => boolean): Promise<void> {
    let timer: ReturnType<typeof setInterval> | undefined;
    let halves = 0;
    let lookedAt = performance.now();
    const late = new Promise<true>((resolve) => {
      timer = setInterval(() => {
        // After a standstill of ours, what came meanwhile is read before anybody is judged.
        const stoodStill = performance.now() - lookedAt > PATIENCE_MS;
        lookedAt = performance.now();
        halves = stoodStill || !mayGiveUp() ? 0 : halves + 1;
        if (halves === 2) resolve(true);
      }, PATIENCE_MS / 2);
    });
    const isLate = await Promise.race([opening.settled(), late]);
    clearInterval(timer);
    if (isLate !== true) return;
    for (const node of opening.pending) this.doubt(node);
    opening.abandonRest();
  }
}
