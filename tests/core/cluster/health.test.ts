import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type HealthEffect,
  type HealthEvent,
  type HealthFacts,
  type HealthState,
  healthAtStart,
  hurried,
  stepHealth,
  wakeAt,
} from "../../../core/cluster/health.ts";
import { type NodeStatus, nodeId } from "../../../core/cluster/state.ts";

type Settings = Partial<HealthFacts["settings"]> &
  Partial<Pick<HealthFacts, "status" | "allowToFailover" | "streamsAgain">>;

/** One machine with a clock of its own. */
class Bench {
  state: HealthState = healthAtStart;
  now = 1_000_000;
  status: NodeStatus = "up";
  settings: Settings;

  constructor(settings: Settings = {}) {
    this.settings = settings;
  }

  step(event: HealthEvent): readonly HealthEffect[] {
    const { status, allowToFailover, streamsAgain, ...changes } = this.settings;
    const [state, effects] = stepHealth(this.state, event, {
      node: nodeId(1),
      settings: {
        health_check_period: 10,
        health_check_timeout: 20,
        health_check_max_retries: 0,
        health_check_retry_delay: 1,
        ...changes,
      },
      status: status ?? this.status,
      allowToFailover: allowToFailover ?? true,
      streamsAgain: streamsAgain ?? false,
      autoFailbackIntervalMs: 60_000,
      now: this.now,
    });
    this.state = state;
    return effects;
  }

  /** Sleeps as long as the machine wants, and ticks. */
  tick(): readonly HealthEffect[] {
    this.now = Math.max(this.now, wakeAt(this.state) ?? this.now);
    return this.step({ kind: "tick" });
  }

  answer(afterMs = 5): readonly HealthEffect[] {
    this.now += afterMs;
    return this.step({ kind: "answered" });
  }

  fail(afterMs = 5, timedOut = false): readonly HealthEffect[] {
    this.now += afterMs;
    return this.step({ kind: "failed", why: "refused", timedOut });
  }
}

const messages = (effects: readonly HealthEffect[]) =>
  effects.flatMap((effect) => (effect.kind === "log" ? [effect.message] : []));
const kinds = (effects: readonly HealthEffect[]) => effects.map(({ kind }) => kind).join(" ");

describe("the health check of a node", () => {
  test("tries at once, and again a period after the answer", () => {
    const bench = new Bench();
    expect(bench.tick()).toEqual([{ kind: "try", timeoutMs: 20_000 }]);
    expect(wakeAt(bench.state)).toBeUndefined();
    expect(bench.answer(40)).toEqual([]);
    expect(wakeAt(bench.state)).toBe(bench.now + 10_000);
    expect(bench.step({ kind: "tick" })).toEqual([]); // not yet
    expect(kinds(bench.tick())).toBe("try");
  });

  test("retries before it gives up, and says so", () => {
    const bench = new Bench({ health_check_max_retries: 2, health_check_retry_delay: 3 });
    bench.tick();
    expect(messages(bench.fail())).toEqual(["health check retrying on DB node: 1 (round:1)"]);
    expect(wakeAt(bench.state)).toBe(bench.now + 3000);
    expect(kinds(bench.tick())).toBe("try");
    expect(messages(bench.fail())).toEqual(["health check retrying on DB node: 1 (round:2)"]);
    bench.tick();
    const verdict = bench.fail();
    expect(messages(verdict)).toEqual(["health check failed on node 1 (timeout:0)"]);
    expect(verdict.at(-1)).toEqual({ kind: "detach", switchover: true, why: "refused" });
    expect(bench.state.stats).toMatchObject({ total: 1, fail: 1, retry: 2, maxRetry: 2 });
  });

  test("an answer to a retry clears the node", () => {
    const bench = new Bench({ health_check_max_retries: 2 });
    bench.tick();
    bench.fail();
    bench.tick();
    expect(messages(bench.answer())).toEqual(["health check retrying on DB node: 1 succeeded"]);
    expect(bench.state.stats).toMatchObject({ total: 1, success: 1, fail: 0, retry: 1 });
    expect(bench.state.answers).toBe(true);
  });

  test("a time-out is told apart, for what becomes of the sessions", () => {
    const bench = new Bench();
    bench.tick();
    const verdict = bench.fail(20_000, true);
    expect(messages(verdict)).toEqual(["health check failed on node 1 (timeout:1)"]);
    expect(verdict.at(-1)).toMatchObject({ kind: "detach", switchover: false });
  });

  test("a node that may not fail is only talked about", () => {
    const bench = new Bench({ allowToFailover: false });
    bench.tick();
    const verdict = bench.fail();
    expect(kinds(verdict)).toBe("log");
    expect(messages(verdict)).toEqual([
      "health check failed on node 1 but failover is disallowed for the node",
    ]);
  });

  test("a node that is down is skipped, which is counted, but looked at", () => {
    const bench = new Bench({ status: "down", health_check_max_retries: 2 });
    expect(bench.tick().map(({ kind }) => kind)).toEqual(["try"]);
    expect(bench.fail()).toEqual([]);
    expect(bench.state.answers).toBe(false);
    bench.tick();
    expect(bench.answer()).toEqual([]);
    expect(bench.state.stats).toMatchObject({ total: 2, skip: 2, success: 0, fail: 0, retry: 0 });
    expect(bench.state.answers).toBe(true);
  });

  test("a look has a limit where checks have none", () => {
    const bench = new Bench({ status: "down", health_check_timeout: 0 });
    expect(bench.tick()).toEqual([{ kind: "try", timeoutMs: 10_000 }]);
    expect(new Bench({ health_check_timeout: 0 }).tick()).toEqual([{ kind: "try", timeoutMs: 0 }]);
  });

  test("a node that is attached while it is looked at is checked at once", () => {
    const bench = new Bench();
    bench.status = "down";
    bench.tick();
    bench.status = "waiting";
    expect(bench.fail()).toEqual([]);
    const { phase } = bench.state;
    expect(phase.name === "resting" && phase.wakeAt).toBe(bench.now);
  });

  test("a node that was detached while it was tried is not detached again", () => {
    const bench = new Bench();
    bench.tick();
    bench.status = "down";
    expect(bench.fail()).toEqual([]);
  });

  test("an answer ends a quarantine, a failure does not", () => {
    const bench = new Bench({ status: "quarantine" });
    bench.tick();
    expect(bench.fail()).toEqual([]);
    bench.tick();
    expect(bench.answer()).toEqual([{ kind: "attach", restore: true }]);
  });

  test("a node that streams again is tried once, attached, and then left alone for a while", () => {
    const bench = new Bench({ status: "down", streamsAgain: true });
    expect(kinds(bench.tick())).toBe("try");
    const asked = bench.answer();
    expect(messages(asked)).toEqual(["request auto failback, node id:1"]);
    expect(asked.at(-1)).toEqual({ kind: "attach", restore: false });
    expect(bench.state.stats).toMatchObject({ total: 1, skip: 1, success: 0 });
    bench.tick();
    expect(bench.answer()).toEqual([]); // 10 seconds later: the interval is a minute
    bench.now += 60_000;
    expect(kinds(bench.tick())).toBe("try");
  });

  test("a node that streams again and does not answer stays down without a word", () => {
    const bench = new Bench({ status: "down", streamsAgain: true });
    bench.tick();
    expect(bench.fail()).toEqual([]);
    expect(bench.state.stats).toMatchObject({ skip: 1, fail: 0 });
  });

  test("switched off it asks nothing, and a reload wakes it", () => {
    const bench = new Bench({ health_check_period: 0 });
    expect(bench.tick()).toEqual([]);
    expect(wakeAt(bench.state)).toBe(bench.now + 30_000);
    expect(bench.state).toMatchObject({ answers: undefined, stats: { total: 0 } });
    bench.settings = { health_check_period: 5 };
    bench.state = hurried(bench.state);
    expect(kinds(bench.step({ kind: "tick" }))).toBe("try");
    expect(hurried(bench.state)).toBe(bench.state); // a try under way is not repeated
  });

  test("durations cover a round with its retries", () => {
    const bench = new Bench({ health_check_max_retries: 1, health_check_retry_delay: 2 });
    bench.tick();
    bench.answer(10);
    bench.tick();
    bench.fail(100);
    bench.tick();
    bench.answer(100);
    expect(bench.state.stats).toMatchObject({
      minDurationMs: 10,
      maxDurationMs: 2200,
      totalDurationMs: 2210,
    });
  });

  test("whatever happens, what is counted adds up and no node is detached that is not in use", () => {
    const status = fc.constantFrom<NodeStatus>("up", "waiting", "down", "quarantine", "unused");
    const action = fc.record({
      what: fc.constantFrom("tick", "answer", "fail", "late", "hurry"),
      status,
      period: fc.constantFrom(0, 1, 10),
      retries: fc.nat(3),
      streams: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const bench = new Bench();
        for (const { what, status, period, retries, streams } of actions) {
          bench.settings = {
            status,
            health_check_period: period,
            health_check_max_retries: retries,
            streamsAgain: streams,
          };
          const trying = bench.state.phase.name === "trying";
          if (what === "hurry") bench.state = hurried(bench.state);
          let effects: readonly HealthEffect[] = [];
          if (what === "tick" || what === "hurry") effects = bench.tick();
          else if (what === "answer") effects = bench.answer();
          else effects = bench.fail(5, what === "late");
          const tries = effects.filter(({ kind }) => kind === "try").length;
          expect(tries).toBeLessThanOrEqual(trying ? 0 : 1);
          const detached = effects.some(({ kind }) => kind === "detach");
          if (detached) expect(["up", "waiting"]).toContain(status);
          const { total, success, fail, skip, maxRetry, retry } = bench.state.stats;
          const underWay = bench.state.phase.name === "resting" ? 0 : 1;
          expect(total).toBeGreaterThanOrEqual(success + fail + skip);
          expect(total - success - fail - skip).toBeLessThanOrEqual(underWay);
          expect(maxRetry).toBeLessThanOrEqual(retry);
        }
      }),
    );
  });
});
