/** The part of the tour for modes in which pgpool replicates: what is written is on every server. */
import { join } from "node:path";
import { ask, heading, nodeCount, portOfNode, run, type Stage } from "./demo_stage.ts";
import { canRun, findPostgres } from "./postgres_finder.ts";

const database = "bench_replication";
const tables = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"];

/** createdb and pgbench through pgpool, then the same rows on all. Resolves to what was not so. */
export async function tourReplication(stage: Stage): Promise<readonly string[]> {
  const { port, user } = stage;
  heading("A database made through pgpool, and filled");
  const { bin } = findPostgres();
  if (!canRun(join(bin, "pgbench"))) {
    console.log("  This PostgreSQL has neither createdb nor pgbench, so it is not shown.");
    return [];
  }
  const where = ["-h", "localhost", "-p", String(port), "-U", user];
  const commands: readonly (readonly [string, ...string[]])[] = [
    ["createdb", ...where, database],
    ["pgbench", "-i", "-q", ...where, database],
    ["pgbench", "-n", "-c", "4", "-t", "50", ...where, database],
  ];
  for (const [program, ...args] of commands) {
    console.log(`  ${program} ${args.join(" ")}`);
    const exitCode = await run([join(bin, program), ...args], { quiet: true });
    if (exitCode !== 0) return [`${program} ended with ${exitCode}`];
  }
  return await compareNodes(stage);
}

async function compareNodes(stage: Stage): Promise<readonly string[]> {
  heading("The same rows on every server, asked without pgpool");
  const complaints: string[] = [];
  for (const table of tables) {
    const sql = `SELECT count(*), coalesce(sum(hashtext(t::text)::bigint), 0) FROM ${table} t`;
    const found: string[] = [];
    for (let node = 0; node < nodeCount; node++) {
      const { rows } = await ask(stage, sql, portOfNode(stage, node), database);
      const [count, sum] = rows[0] ?? [];
      found.push(`${count} rows, sum ${sum}`);
    }
    const same = new Set(found).size === 1;
    console.log(
      `  ${table.padEnd(18)} ${same ? `${found[0]} on all ${nodeCount}` : found.join("; ")}`,
    );
    if (!same) complaints.push(`${table} is not the same on every node: ${found.join("; ")}`);
  }
  return complaints;
}
