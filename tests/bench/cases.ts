/** What is measured: each case runs one contender once and returns a sample. */
import { join } from "node:path";
import { cString, eventually, frame, type Postgres, RawClient } from "../cluster/harness.ts";
import { benchRole, type Contender, type Setting } from "./contenders.ts";
import { cpuSeconds, memoryMb, peakMemoryMb, pgbench, psqlSeconds } from "./measure.ts";
import type { Sample } from "./table.ts";

export type BenchContext = {
  readonly backend: Postgres;
  /** Of the whole run: pgbench's logs and the file to copy in live there. */
  readonly dir: string;
  readonly seconds: number;
  readonly copyMb: number;
  readonly idleClients: number;
};

export type Case = {
  readonly name: string;
  readonly setting: Setting;
  /** The proxy is started for this case alone, so that its memory is the case's. */
  readonly fresh: boolean;
  /** What PostgreSQL without a proxy has to say to it: nothing, where the proxy is the point. */
  readonly direct: boolean;
  readonly run: (contender: Contender, context: BenchContext) => Promise<Sample>;
};

const modes = ["simple", "extended", "prepared"] as const;
const clientCounts = [1, 8, 32];
const plain: Setting = { tls: false, auth: "trust", clients: 64 };

export function allCases(idleClients: number): Case[] {
  const settings = [plain, { ...plain, tls: true }];
  return [
    ...settings.flatMap((setting) => [
      ...modes.flatMap((mode) => clientCounts.map((clients) => queries(setting, mode, clients))),
      connections(setting),
      copyOut(setting),
      copyIn(setting),
      idle({ ...setting, clients: idleClients + 10 }, idleClients),
    ]),
    connections({ ...plain, auth: "scram-sha-256" }),
    connections({ ...plain, tls: true, auth: "scram-sha-256" }),
    ...cacheCases(),
    stalledReader(plain),
    stalledServer(plain),
  ];
}

const named = (setting: Setting, name: string) => (setting.tls ? `tls ${name}` : name);

function envOf(contender: Contender, setting: Setting): Record<string, string> {
  return {
    PGHOST: "127.0.0.1",
    PGPORT: String(contender.port),
    PGUSER: benchRole[setting.auth],
    PGPASSWORD: benchRole.password,
    PGDATABASE: "bench",
    PGSSLMODE: setting.tls ? "require" : "disable",
    PGCONNECT_TIMEOUT: "20",
  };
}

function queries(setting: Setting, mode: (typeof modes)[number], clients: number): Case {
  return {
    name: named(setting, `${mode} c=${clients}`),
    setting,
    fresh: false,
    direct: !setting.tls,
    run: (contender, context) => runPgbench(contender, context, setting, { mode, clients }),
  };
}

/** Answered from memory by those who can: a hundred statements, again and again. */
function cacheCases(): Case[] {
  const setting: Setting = { ...plain, cache: true };
  const hits = "\\set i random(1, 100)\nSELECT abalance FROM pgbench_accounts WHERE aid = :i;\n";
  const large = "SELECT aid, filler FROM pgbench_accounts WHERE aid <= 10000;\n";
  // Each statement is another one, of the same shape; the tables are not written.
  const misses =
    "\\set i random(1, 1000000)\n\\set j random(1, 1000000)\nSELECT abalance, :j AS j FROM pgbench_accounts WHERE aid = :i;\n";
  const of = (
    name: string,
    mode: (typeof modes)[number],
    clients: number,
    script: string,
  ): Case => ({
    name,
    setting,
    fresh: false,
    direct: true,
    run: (contender, context) => runPgbench(contender, context, setting, { mode, clients, script }),
  });
  return [
    ...(["simple", "prepared"] as const).flatMap((mode) =>
      clientCounts.map((clients) => of(`cache hits ${mode} c=${clients}`, mode, clients, hits)),
    ),
    of("cache hits of 1 MB c=1", "simple", 1, large),
    of("cache misses simple c=8", "simple", 8, misses),
  ];
}

function connections(setting: Setting): Case {
  return {
    name: named(setting, `connections ${setting.auth === "trust" ? "trust" : "scram"} c=8`),
    setting,
    fresh: false,
    direct: !setting.tls,
    run: (contender, context) =>
      runPgbench(contender, context, setting, { mode: "simple", clients: 8, reconnect: true }),
  };
}

async function runPgbench(
  contender: Contender,
  context: BenchContext,
  setting: Setting,
  options: {
    readonly mode: (typeof modes)[number];
    readonly clients: number;
    readonly reconnect?: boolean;
    readonly script?: string;
  },
): Promise<Sample> {
  const cpuBefore = cpuOf(contender);
  const result = await pgbench(context.backend.program("pgbench"), {
    ...options,
    env: envOf(contender, setting),
    seconds: context.seconds,
    dir: context.dir,
  });
  return {
    rate: result.perSecond,
    p50Ms: result.p50Ms,
    p99Ms: result.p99Ms,
    cpuUs: cpuSpent(contender, cpuBefore, result.transactions),
  };
}

const cpuOf = ({ pid }: Contender) => (pid === undefined ? undefined : cpuSeconds(pid));

/** Microseconds for each of `units` since `before`; undefined without a proxy. */
function cpuSpent(contender: Contender, before: number | undefined, units: number) {
  const now = cpuOf(contender);
  if (before === undefined || now === undefined) return undefined;
  return ((now - before) * 1e6) / units;
}

function copyOut(setting: Setting): Case {
  return {
    name: named(setting, "copy out"),
    setting,
    fresh: false,
    direct: !setting.tls,
    run: (contender, context) => {
      const env = envOf(contender, setting);
      return timeCopy(contender, context, () =>
        psqlSeconds(context.backend.program("psql"), "COPY big TO STDOUT", { env }),
      );
    },
  };
}

function copyIn(setting: Setting): Case {
  return {
    name: named(setting, "copy in"),
    setting,
    fresh: false,
    direct: !setting.tls,
    run: async (contender, context) => {
      await context.backend.sql("TRUNCATE big_in", "bench");
      const options = { env: envOf(contender, setting), input: copyFile(context) };
      return timeCopy(contender, context, () =>
        psqlSeconds(context.backend.program("psql"), "COPY big_in FROM STDIN", options),
      );
    },
  };
}

/** The file that the prepared table `big` was written to. */
export const copyFile = (context: BenchContext): string => join(context.dir, "big.copy");

async function timeCopy(
  contender: Contender,
  context: BenchContext,
  copy: () => Promise<number>,
): Promise<Sample> {
  const cpuBefore = cpuOf(contender);
  let seconds = 0;
  const memory = await peakMemoryMb(contender.pid, async () => {
    seconds = await copy();
  });
  return {
    rate: context.copyMb / seconds,
    cpuUs: cpuSpent(contender, cpuBefore, context.copyMb),
    memoryMb: memory,
  };
}

function idle(setting: Setting, clients: number): Case {
  return {
    name: named(setting, `${clients} idle clients`),
    setting,
    fresh: true,
    direct: false,
    run: async (contender) => {
      const open: RawClient[] = [];
      try {
        while (open.length < clients) {
          const client = await login(contender, setting);
          open.push(client);
          await client.rows("SELECT 1");
        }
        return { memoryMb: contender.pid === undefined ? undefined : memoryMb(contender.pid) };
      } finally {
        for (const client of open) client.destroy();
      }
    },
  };
}

async function login(contender: Contender, setting: Setting): Promise<RawClient> {
  const client = await RawClient.connect({ host: "127.0.0.1", port: contender.port }, 60_000);
  if (setting.tls && (await client.requestTls()) !== "S") throw new Error("TLS was refused");
  const { error } = await client.login({
    user: benchRole[setting.auth],
    password: benchRole.password,
    database: "bench",
  });
  if (error !== undefined) throw new Error(`${contender.name}: ${error.M}`);
  return client;
}

/** A client that stops reading in the middle of a large answer must stop its backend as well. */
function stalledReader(setting: Setting): Case {
  return {
    name: named(setting, "copy out, client stalls"),
    setting,
    fresh: true,
    direct: false,
    run: async (contender, context) => {
      const client = await login(contender, setting);
      try {
        const [row] = await client.rows("SELECT pg_backend_pid() AS pid");
        const pid = Object.values(row ?? {})[0];
        client.send(frame("Q", cString("COPY big TO STDOUT")));
        client.pause();
        await stays(async () => {
          const sql = `SELECT wait_event FROM pg_stat_activity WHERE pid = ${pid}`;
          return (await context.backend.value(sql, "bench")) === "ClientWrite";
        }, "the backend to wait for its client");
        return { memoryMb: contender.pid === undefined ? undefined : memoryMb(contender.pid) };
      } finally {
        client.destroy();
      }
    },
  };
}

/** A backend that stops reading in the middle of COPY IN must stop the client as well. */
function stalledServer(setting: Setting): Case {
  return {
    name: named(setting, "copy in, server stalls"),
    setting,
    fresh: true,
    direct: false,
    run: async (contender, context) => {
      await context.backend.sql("TRUNCATE big_in", "bench");
      const client = await login(contender, setting);
      const [row] = await client.rows("SELECT pg_backend_pid() AS pid");
      const pid = Number(Object.values(row ?? {})[0]);
      const line = Buffer.from(`1\t${"x".repeat(990)}\n`);
      const chunk = Buffer.concat(Array.from({ length: 64 }, () => frame("d", line)));
      try {
        client.send(frame("Q", cString("COPY big_in FROM STDIN")));
        await client.until("G");
        process.kill(pid, "SIGSTOP");
        let leftMb = context.copyMb;
        // A kilobyte in each message; once a megabyte is not taken from us any more, we stop too.
        const full = async () => {
          for (; client.unsent < 2 ** 20 && leftMb > 0; leftMb -= 1 / 16) client.send(chunk);
          return client.unsent >= 2 ** 20 || leftMb <= 0;
        };
        await stays(full, "the client to be stopped");
        return { memoryMb: contender.pid === undefined ? undefined : memoryMb(contender.pid) };
      } finally {
        process.kill(pid, "SIGCONT");
        client.destroy();
      }
    },
  };
}

/** True ten times in a row: nothing moves any more. */
async function stays(fact: () => Promise<boolean>, what: string): Promise<void> {
  let times = 0;
  await eventually(
    async () => {
      times = (await fact()) ? times + 1 : 0;
      return times;
    },
    (count) => count >= 10,
    { deadlineMs: 60_000, what },
  );
}
