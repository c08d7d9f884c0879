/** What the machine answers to a program, as the reply on the watchdog's Unix socket. */

import { encodeBackendStatus, encodeFailoverResult } from "./bodies.ts";
import {
  BAD,
  IN_TRANSITION,
  type IpcReply,
  nodeListBody,
  okReply,
  unknownClusterCommand,
  variableBody,
} from "./ipc.ts";
import type { Answer } from "./node.ts";

/**
 * Undefined where the connection stays open without a word: 4.3.5 says that it will tell news there,
 * and never does. A status is passed on as it came, without the NUL that other bodies end in.
 */
export function replyOf(answer: Answer): IpcReply | undefined {
  switch (answer.kind) {
    case "ok":
      return okReply();
    case "bad":
      return BAD;
    case "in_transition":
      return IN_TRANSITION;
    case "silence":
      return { kind: "silence" };
    case "unknown_command":
      return unknownClusterCommand;
    case "kept_open":
      return undefined;
    case "failover_result":
      return okReply(encodeFailoverResult(answer.result));
    case "backend_status":
      return okReply(encodeBackendStatus(answer.status));
    case "variable":
      return okReply(variableBody(answer.value));
    case "node_list":
      return okReply(nodeListBody(answer.list));
    case "follow_lock":
      // Asked for by our own process alone; over a socket it is APPLY_LOCK_ON_STANDBY.
      return answer.granted ? okReply() : IN_TRANSITION;
  }
}
