/** The delegate IP's commands, which are scripts here, when they take longer than their turn. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Log } from "../../core/ports.ts";
import { DelegateIp, type EscalationSettings } from "../../watchdog/delegate_ip.ts";
import { eventually } from "../cluster/machine.ts";

const log: Log = { enabled: () => false, write: () => {}, as: () => log };

test("an address that a slow de-escalation takes after all is missed, and so brought back", async () => {
  const dir = mkdtempSync(join(tmpdir(), "delegate-ip-"));
  try {
    const [gate, taken, arpings] = [join(dir, "gate"), join(dir, "taken"), join(dir, "arpings")];
    const put = (name: string, body: string) =>
      writeFileSync(join(dir, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
    writeFileSync(gate, "");
    put("up", ":");
    put("down", `touch ${taken}`);
    put("ping", ":");
    put("arping", `echo >> ${arpings}; while [ -e ${gate} ]; do sleep 0.01; done`);
    const settings: EscalationSettings = {
      delegate_ip: "192.0.2.1",
      if_cmd_path: dir,
      if_up_cmd: "up $_IP_$",
      if_down_cmd: "down $_IP_$",
      arping_path: dir,
      arping_cmd: "arping $_IP_$",
      ping_path: dir,
      wd_escalation_command: "",
      wd_de_escalation_command: "",
    };
    const address = new DelegateIp(() => settings, log, 20);
    address.escalate();
    address.deEscalate();
    address.escalate();
    const settled = address.settled();
    // The second escalation, which waits behind it no longer than its turn, is at its own arping.
    const isThere = () => existsSync(taken) && readFileSync(arpings, "utf8") === "\n\n";
    await eventually(isThere, Boolean, { what: "all three to be at work" });
    rmSync(gate);
    await settled;
    expect(address.isSettledUp).toBe(true);
    address.releaseNow();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
