/** The tour of `npm run demo`: what a client of pgpool sees. */
import { setTimeout as delay } from "node:timers/promises";
import { replicates } from "../core/cluster/state.ts";
import { tourReplication } from "./demo_replication.ts";
import {
  ask,
  connectTo,
  heading,
  nodeCount,
  nodeOfPort,
  portOfNode,
  type Stage,
  show,
  showNodes,
} from "./demo_stage.ts";

/** Shows what a client sees. Resolves to what was not as it should be. */
export async function tour(stage: Stage): Promise<readonly string[]> {
  return [
    ...(await tourWho(stage)),
    ...(await tourReads(stage)),
    ...(await tourWrite(stage)),
    ...(replicates(stage) ? await tourReplication(stage) : []),
    ...(await tourNodes(stage)),
  ];
}

/** As SHOW pool_nodes has it at the start; node 0 is the first to be chosen everywhere. */
function roleOf({ mode }: Stage, node: number): string {
  if (mode === "raw") return "";
  if (mode === "streaming_replication" || mode === "logical_replication") {
    return node === 0 ? "primary" : "standby";
  }
  return node === 0 ? "main" : "replica";
}

function nodeName(stage: Stage, port: string | null): string {
  const node = nodeOfPort(stage, port);
  const role = roleOf(stage, node);
  return role === "" ? `node ${node}` : `node ${node} (${role})`;
}

async function tourWho(stage: Stage): Promise<readonly string[]> {
  heading("Who am I connected to?");
  const sql =
    "SELECT current_user, current_database(), inet_server_port(), current_setting('server_version')";
  const { rows } = await ask(stage, sql);
  const [user, database, port = null, version] = rows[0] ?? [];
  show(sql);
  console.log(`  user ${user}, database ${database}, PostgreSQL ${version}`);
  console.log(`  asked on port ${stage.port}, answered by port ${port}: ${nodeName(stage, port)}`);
  return user === stage.user ? [] : [`connected as ${user} instead of ${stage.user}`];
}

const readCount = 10;
const readsMax = 100;

/** A session keeps its node, so each read is a session of its own. */
async function tourReads(stage: Stage): Promise<readonly string[]> {
  heading(`${readCount} reads, each in a new session`);
  const sql = "SELECT inet_server_port()";
  show(sql);
  const counts = new Map<string, number>();
  // Nodes are drawn by lot: should all of the first ten hit one, a few more tell chance from a fault.
  for (let read = 0; read < readCount || (counts.size < 2 && read < readsMax); read++) {
    const { rows } = await ask(stage, sql);
    const name = nodeName(stage, rows[0]?.[0] ?? null);
    counts.set(name, (counts.get(name) ?? 0) + 1);
    if (stage.mode === "raw" && read + 1 === readCount) break;
  }
  for (const [name, count] of [...counts].sort()) {
    console.log(`  ${name.padEnd(18)} ${"#".repeat(count)} ${count}`);
  }
  if (stage.mode !== "raw") return counts.size > 1 ? [] : ["all reads went to one node"];
  return counts.size === 1 ? [] : ["in raw mode every statement belongs to one node"];
}

async function tourWrite(stage: Stage): Promise<readonly string[]> {
  heading("A write");
  const create = "CREATE TABLE visits (number int PRIMARY KEY)";
  const sql = "INSERT INTO visits VALUES (42) RETURNING inet_server_port()";
  if (stage.mode === "logical_replication") {
    console.log(
      "  Logical replication carries rows only: the table is made on every node, and subscribed to.",
    );
    await makeSubscribed(stage, create);
  } else {
    show(create);
    await ask(stage, create);
  }
  show(sql);
  const { rows } = await ask(stage, sql);
  const port = rows[0]?.[0] ?? null;
  const wrong = Number(port) === portOfNode(stage, 0) ? [] : [`the write went to port ${port}`];
  const everywhere = replicates(stage);
  console.log(
    everywhere
      ? `  went to every node; the answer is that of port ${port}: ${nodeName(stage, port)}`
      : `  went to port ${port}: ${nodeName(stage, port)}`,
  );
  if (stage.mode === "raw" || stage.mode === "slony") return wrong;
  const missing = await nodesWithout(stage, 42);
  if (missing.length === 0) console.log(`  and all ${nodeCount} nodes have it`);
  return [...wrong, ...missing.map((node) => `node ${node} does not have what was written`)];
}

async function makeSubscribed(stage: Stage, create: string): Promise<void> {
  for (let node = 0; node < nodeCount; node++) {
    await ask(stage, create, portOfNode(stage, node));
    if (node === 0) continue;
    const refresh = `ALTER SUBSCRIPTION pgpool_test_${node} REFRESH PUBLICATION`;
    await ask(stage, refresh, portOfNode(stage, node));
  }
}

/** The nodes that do not get to see the row within ten seconds. */
async function nodesWithout(stage: Stage, number: number): Promise<readonly number[]> {
  const missing: number[] = [];
  for (let node = 0; node < nodeCount; node++) {
    const sql = await connectTo(stage, portOfNode(stage, node));
    const seen = `SELECT count(*) FROM pg_class WHERE relname = 'visits'`;
    const found = `SELECT count(*) FROM visits WHERE number = ${number}`;
    try {
      const end = performance.now() + 10_000;
      const has = async () => (await sql.value(seen)) === "1" && (await sql.value(found)) === "1";
      while (!(await has()) && performance.now() < end) await delay(20);
      if (!(await has())) missing.push(node);
    } finally {
      sql.close();
    }
  }
  return missing;
}

async function tourNodes(stage: Stage): Promise<readonly string[]> {
  heading("What pgpool knows of its nodes");
  const nodes = await showNodes(stage);
  const wanted = stage.mode === "raw" ? "main" : roleOf(stage, 0);
  const chiefs = nodes.filter(({ role }) => role === wanted);
  return [
    ...(nodes.length === nodeCount ? [] : [`pgpool knows ${nodes.length} nodes`]),
    ...nodes.filter(({ status }) => status === "down").map(({ id }) => `node ${id} is down`),
    ...(chiefs.length === 1 ? [] : [`${chiefs.length} nodes have the role ${wanted}`]),
  ];
}
