/** What the programs and the server of Debian's Pgpool-II 4.3.5 sent (spec wire/pcp.md section 9). */

import type { PcpRequest } from "../../../core/pcp/request.ts";

export const requests: readonly (readonly [hex: string, request: PcpRequest])[] = [
  ["4d00000004", { kind: "salt" }],
  [
    "520000002c70637061646d00373065313033323133343334393832386566306334383762323532623937646400",
    { kind: "authenticate", user: "pcpadm", response: "70e1032134349828ef0c487b252b97dd" },
  ],
  ["4c00000004", { kind: "node_count" }],
  ["49000000063000", { kind: "node_info", argument: "0" }],
  ["49000000072d3100", { kind: "node_info", argument: "-1" }],
  ["490000000878797a00", { kind: "node_info", argument: "xyz" }],
  ["48000000063100", { kind: "health_check_stats", argument: "1" }],
  ["4e00000004", { kind: "process_list" }],
  ["500000000a313634373100", { kind: "process_info", argument: "16471" }],
  ["4200000004", { kind: "pool_status" }],
  ["44000000063100", { kind: "detach_node", argument: "1", gracefully: false }],
  ["64000000063100", { kind: "detach_node", argument: "1", gracefully: true }],
  ["43000000063100", { kind: "attach_node", argument: "1" }],
  [
    "4a000000083120006e",
    { kind: "promote_node", argument: "1", gracefully: false, switchover: false },
  ],
  [
    "6a000000083120006e",
    { kind: "promote_node", argument: "1", gracefully: true, switchover: false },
  ],
  [
    "4a0000000831200073",
    { kind: "promote_node", argument: "1", gracefully: false, switchover: true },
  ],
  ["4f000000063100", { kind: "recovery_node", argument: "1" }],
  ["5a000000056c", { kind: "reload", scope: "local" }],
  ["5a0000000563", { kind: "reload", scope: "cluster" }],
  ["56000000056c", { kind: "rotate_log", scope: "local" }],
  ["4700000004", { kind: "invalidate_cache" }],
  ["57000000063700", { kind: "watchdog_info", argument: "7" }],
  ["540000000569", { kind: "stop", scope: "local", mode: "i" }],
  ["740000000566", { kind: "stop", scope: "cluster", mode: "f" }],
  ["4600000004", { kind: "stop_recovery" }],
  [
    "410000001c636c69656e745f6d696e5f6d65737361676573006c6f6700",
    { kind: "set", name: "client_min_messages", value: "log" },
  ],
  ["5800000004", { kind: "disconnect" }],
];

/** The salt, the user and the answer of one log-in with the password `secret`. */
export const login = {
  hash: "5ebe2294ecd0e0f08eab7690d2a6ee69",
  user: "pcpadm",
  salt: Uint8Array.of(0x7e, 0xfa, 0x60, 0x49),
  response: "70e1032134349828ef0c487b252b97dd",
} as const;

/** Two nodes as the server told of them, and as we read them. */
export const nodeFrames =
  "6900000010417272617953697a65003200" +
  "690000004d4e6f6465496e666f002f746d702f77320032333130300031003000757000313037333734313832332e3530303030300032007072696d61727900300000003137393533363732383300" +
  "690000005b4e6f6465496e666f002f746d702f77320032333130310031003000757000313037333734313832332e3530303030300033007374616e64627900300073747265616d696e67006173796e63003137393533363732383300" +
  "6900000014436f6d6d616e64436f6d706c65746500";

export const refusals: readonly (readonly [
  hex: string,
  report: { severity: string; message: string; detail?: string },
])[] = [
  [
    "4500000057534552524f5200435858303030004d696e666f726d696e67206e6f646520696e666f206661696c65640044696e76616c6964206e6f6465204944203a203900467063705f776f726b65722e63004c3834330000",
    { severity: "ERROR", message: "informing node info failed", detail: "invalid node ID : 9" },
  ],
  [
    "4500000086534552524f5200435858303030004d696e76616c696420646567656e6572617465206261636b656e6420726571756573742c206e6f6465206964203a2037207374617475733a205b315d206973206e6f742076616c696420666f72206661696c6f7665720046706f6f6c5f696e7465726e616c5f636f6d6d732e63004c3132340000",
    {
      severity: "ERROR",
      message:
        "invalid degenerate backend request, node id : 7 status: [1] is not valid for failover",
    },
  ],
];
