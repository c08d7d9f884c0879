/** An installation of `pgpool setup` whose servers only pgpool keeps the same, with its scripts for recovery. */
import { expect } from "bun:test";
import { appendFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { contentsOf } from "./contents.ts";
import {
  eventually,
  findPostgres,
  freePorts,
  mustRun,
  ourBinary,
  RawClient,
  runCommand,
  type Scope,
} from "./harness.ts";
import { rows, setup, workDir } from "./setup_stage.ts";

export class Site {
  readonly scope: Scope;
  readonly dir: string;
  readonly port: number;

  private constructor(scope: Scope, dir: string, port: number) {
    this.scope = scope;
    this.dir = dir;
    this.port = port;
  }

  static async make(scope: Scope, nodes: number, ...args: readonly string[]): Promise<Site> {
    const site = new Site(scope, workDir(scope), await freePorts(nodes + 2));
    scope.defer(() => runCommand(["sh", join(site.dir, "shutdownall")]).then(() => undefined));
    const where = ["-n", String(nodes), "-p", String(site.port), "--no-stop"];
    expect(await setup(site.dir, [...args, ...where])).toMatchObject({ code: 0, stderr: "" });
    // The original's second is little for servers that share a busy machine.
    await site.configure(
      ...Array.from({ length: nodes }, (_, id) => `connect_timeout${id} = 10000`),
    );
    return site;
  }

  get tcp() {
    return { host: "127.0.0.1", port: this.port };
  }

  login(port = this.port): Promise<RawClient> {
    const login = { user: this.scope.owner.name, database: "test" };
    return RawClient.login({ host: "127.0.0.1", port }, login, 60_000);
  }

  sql(text: string) {
    return rows(this.scope, this.port, text);
  }

  async statuses(): Promise<string> {
    const nodes = await this.sql("SHOW pool_nodes");
    return nodes.map(({ status }) => (status === "waiting" ? "up" : status)).join(" ");
  }

  untilStatuses(wanted: string) {
    return eventually(
      () => this.statuses(),
      (found) => found === wanted,
      { deadlineMs: 60_000, what: `the nodes to be ${wanted}` },
    );
  }

  log(): string {
    return readFileSync(join(this.dir, "log/pgpool.log"), "utf8");
  }

  async configure(...lines: readonly string[]): Promise<void> {
    appendFileSync(join(this.dir, "etc/pgpool.conf"), lines.map((line) => `${line}\n`).join(""));
    const reloads = () => this.log().split("reload config files.").length;
    const before = reloads();
    await mustRun([join(this.dir, "pgpool_reload")], { cwd: "/" });
    await eventually(reloads, (count) => count > before, { what: `a reload: ${lines}` });
  }

  async crash(node: number): Promise<void> {
    const pgCtl = join((await findPostgres("system"))?.bin ?? "", "pg_ctl");
    const stop = ["-D", join(this.dir, `data${node}`), "-m", "immediate", "stop"];
    await mustRun([pgCtl, ...stop], { owner: this.scope.owner });
  }

  /** What pcp_recovery_node says; empty when the node was recovered. */
  async recover(node: number): Promise<string> {
    const where = ["-h", "localhost", "-p", String(this.port + 1), "-U", this.scope.owner.name];
    const argv = [ourBinary()?.path ?? "", "pcp", "recovery-node", "-w", ...where] as const;
    const env = { PCPPASSFILE: join(this.dir, "pcppass") };
    const { stdout, stderr } = await runCommand([...argv, "-n", String(node)], {
      env,
      owner: this.scope.owner,
      deadlineMs: 120_000,
    });
    return stdout.includes("Command Successful") ? stderr : `${stdout}${stderr}`;
  }

  /** What each node holds, asked without pgpool. */
  async contents(nodes: number): Promise<readonly (readonly string[])[]> {
    const all: (readonly string[])[] = [];
    for (let node = 0; node < nodes; node++) {
      const client = await this.login(this.port + 2 + node);
      all.push(await contentsOf(client));
      await client.terminate();
    }
    return all;
  }
}
