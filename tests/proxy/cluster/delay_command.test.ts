import { describe, expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import type { Config } from "../../../core/config/schema.ts";
import type { Log } from "../../../core/ports.ts";
import { delaysByCommand } from "../../../proxy/cluster/delay_command.ts";

function configOf(command: string, nodes = 3): Config {
  const lines = [`replication_delay_source_cmd = '${command.replaceAll("'", "\\'")}'`];
  lines.push(`replication_delay_source_timeout = ${command.startsWith("sleep") ? 1 : 60}`);
  for (let id = 0; id < nodes; id++) {
    lines.push(`backend_hostname${id} = 'h${id}'`, `backend_port${id} = ${5432 + id}`);
  }
  const source = { file: "/c", readFile: () => lines.join("\n"), osHostname: "localhost" };
  return loadConfig(source).config;
}

async function measure(config: Config, primary: number | "none" = 0) {
  const said: string[] = [];
  const log: Log = {
    enabled: () => true,
    write: (severity, message) => said.push(`${severity}: ${message}`),
    as: () => log,
  };
  const node = primary === "none" ? undefined : nodeId(primary);
  const delays = await delaysByCommand(config, node, log, new AbortController().signal);
  return { delays: delays && [...delays], said };
}

describe("replication_delay_source_cmd", () => {
  test("is given the standbys and prints a delay for each", async () => {
    // It has been given "h0:5432" and "h2:5434", each of seven characters.
    const lengths = "f() { expr length $1; expr length $2; }; f";
    const { delays, said } = await measure(configOf(lengths), 1);
    expect(delays).toEqual([
      [nodeId(0), 7000],
      [nodeId(2), 7000],
    ]);
    expect(said).toEqual([]);
  });

  test.each([
    ["exit 3 #", "failed with exit code 3"],
    ["kill -TERM $$ #", "terminated by signal SIGTERM"],
    ["sleep 30 #", "timed out after 1 seconds"],
    ["/nonexistent/program", "failed with exit code 127"],
  ])("%s: %s, and the delays stay as they were", async (command, how) => {
    const { delays, said } = await measure(configOf(command));
    expect(delays).toEqual([]);
    expect(said).toEqual([`ERROR: replication delay command ${how}: ${command}`]);
  });

  test("a flood of output is read over", async () => {
    const { delays } = await measure(configOf("echo 1 2; head -c 1000000 /dev/zero #"));
    expect(delays?.[0]).toEqual([nodeId(1), 1000]);
  });

  test("is not run without a primary, a standby, or a command", async () => {
    expect((await measure(configOf("exit 1 #"), "none")).delays).toBeUndefined();
    expect((await measure(configOf("exit 1 #", 1))).delays).toBeUndefined();
    expect((await measure(configOf(""))).delays).toBeUndefined();
  });
});
