/** Requests and replies of PCP at random, for the tests of both ends and the fuzzers. */

import fc from "fast-check";
import type { PcpRequest } from "../../../core/pcp/request.ts";

export const text = fc
  .string({ unit: "binary", maxLength: 30 })
  .map((value) => value.replaceAll("\0", ""));
const is = <K extends string>(...kinds: readonly [K, ...K[]]) => fc.constantFrom(...kinds);
/** A blank at the end of a number is what divides it from the option of a promotion. */
const argument = text.filter((value) => !value.endsWith(" "));
const scope = is("local", "cluster");

export const pcpRequest: fc.Arbitrary<PcpRequest> = fc.oneof(
  fc.record({ kind: is("salt", "pool_status", "node_count", "process_list", "stop_recovery") }),
  fc.record({ kind: is("status", "disconnect", "invalidate_cache") }),
  fc.record({ kind: is("authenticate"), user: text, response: text }),
  fc.record({ kind: is("set"), name: text, value: text }),
  fc.record({ kind: is("attach_node", "node_info", "process_info", "watchdog_info"), argument }),
  fc.record({ kind: is("recovery_node", "health_check_stats"), argument }),
  fc.record({ kind: is("detach_node"), argument, gracefully: fc.boolean() }),
  fc.record({
    kind: is("promote_node"),
    argument,
    gracefully: fc.boolean(),
    switchover: fc.boolean(),
  }),
  fc.record({ kind: is("stop"), scope, mode: is("s", "f", "i", "x") }),
  fc.record({ kind: is("reload", "rotate_log"), scope }),
);
