/**
 * The texts of a test installation: configuration, scripts and notes (spec config/commands.md section
 * 6, drop-in.md). Pure: a plan in, texts out. Scripts that others wrote read and edit these files, so
 * some lines have the very shape that they look for.
 */
import { md5Hash, pcpMd5 } from "../core/auth/password.ts";
import { type ClusteringMode, replicates } from "../core/cluster/state.ts";

/** The letters of -m. */
export const setupModes: { readonly [letter: string]: ClusteringMode } = {
  s: "streaming_replication",
  r: "native_replication",
  i: "snapshot_isolation",
  l: "logical_replication",
  y: "slony",
  n: "raw",
};

export type SetupMode = ClusteringMode;

/** All that is decided before anything is made. Paths are absolute and need no quoting. */
export type SetupPlan = {
  readonly dir: string;
  readonly mode: SetupMode;
  /** The OS user who runs the servers; also the superuser, the pcp user and the passwords. */
  readonly user: string;
  readonly port: number;
  readonly pcpPort: number;
  /** One for each node, in order. */
  readonly postgresPorts: readonly number[];
  readonly socketDirs: readonly string[];
  /** The directory of `pgpool` and its classic names. */
  readonly pgpoolBin: string;
  /** The directory of `pg_ctl`. */
  readonly postgresBin: string;
  readonly useSlots: boolean;
  readonly useRewind: boolean;
  readonly debug: boolean;
  readonly healthCheckTest: boolean;
  /** The scripts of samples/ for failover and recovery, instead of the short ones made here. */
  readonly useSamples: boolean;
};

/** What a path may hold, so that shells, pgpool.conf and postgresql.conf all read it unquoted. */
export const isPlainPath = (path: string): boolean => /^[A-Za-z0-9_./+,@%=:~-]+$/.test(path);

export const dataDir = (plan: SetupPlan, node: number): string => `${plan.dir}/data${node}`;
export const configFile = (plan: SetupPlan): string => `${plan.dir}/etc/pgpool.conf`;
export const pidFile = (plan: SetupPlan): string => `${plan.dir}/run/pgpool.pid`;

const nodesOf = (plan: SetupPlan): readonly number[] => [...plan.postgresPorts.keys()];
const lines = (...all: readonly string[]): string => all.map((line) => `${line}\n`).join("");

/** What is appended to the sample: a later line wins. */
export function pgpoolSettings(plan: SetupPlan): string {
  const { dir, user, socketDirs } = plan;
  const sockets = socketDirs.join(",");
  const streaming = plan.mode === "streaming_replication";
  return lines(
    "",
    "# This test installation.",
    `backend_clustering_mode = ${plan.mode}`,
    "listen_addresses = '*'",
    `port = ${plan.port}`,
    `pcp_port = ${plan.pcpPort}`,
    `unix_socket_directories = '${sockets}'`,
    `pcp_socket_dir = '${sockets}'`,
    `pid_file_name = '${pidFile(plan)}'`,
    `work_dir = '${dir}/log'`,
    `memqcache_oiddir = '${dir}/log/pgpool/oiddir'`,
    "logging_collector = off",
    "log_line_prefix = '%m: %a pid %p: '",
    "log_per_node_statement = on",
    `sr_check_user = '${user}'`,
    `sr_check_password = '${user}'`,
    `recovery_user = '${user}'`,
    `recovery_password = '${user}'`,
    "recovery_database = 'template1'",
    `recovery_1st_stage_command = '${firstStageName(plan)}'`,
    ...(replicates(plan) ? [`recovery_2nd_stage_command = '${secondStageName(plan)}'`] : []),
    ...(plan.healthCheckTest ? ["health_check_test = on"] : []),
    ...(streaming
      ? [
          `failover_command = '${dir}/etc/failover.sh %d %h %p %D %m %H %M %P %r %R %N %S'`,
          `follow_primary_command = '${dir}/etc/follow_primary.sh %d %h %p %D %m %H %M %P %r %R'`,
        ]
      : []),
    ...nodesOf(plan).flatMap((node) => backendSettings(plan, node)),
  );
}

export function firstStageName(plan: SetupPlan): string {
  if (!plan.useSamples) return "basebackup.sh";
  return replicates(plan) ? "replication_mode_recovery_1st_stage" : "recovery_1st_stage";
}

export const secondStageName = (plan: SetupPlan): string =>
  plan.useSamples ? "replication_mode_recovery_2nd_stage" : "pgpool_recovery_pitr";

function backendSettings(plan: SetupPlan, node: number): readonly string[] {
  const streaming = plan.mode === "streaming_replication";
  const primary = plan.mode === "logical_replication" && node === 0;
  return [
    `backend_hostname${node} = 'localhost'`,
    `backend_port${node} = ${plan.postgresPorts[node]}`,
    `backend_weight${node} = 1`,
    `backend_data_directory${node} = '${dataDir(plan, node)}'`,
    ...(streaming ? [`backend_application_name${node} = 'server${node}'`] : []),
    ...(primary ? [`backend_flag${node} = ALWAYS_PRIMARY`] : []),
    `health_check_period${node} = 10`,
    `health_check_timeout${node} = 20`,
    `health_check_user${node} = '${plan.user}'`,
    `health_check_password${node} = '${plan.user}'`,
    `health_check_database${node} = 'postgres'`,
    `health_check_max_retries${node} = 3`,
    `health_check_retry_delay${node} = 1`,
    `connect_timeout${node} = 1000`,
  ];
}

/** The sample's own trust rules give way to ours, which let the two test users in by password only. */
export function poolHba(sample: string): string {
  const quiet = sample.replace(/^((?:local|host)\s+all\s+all\b.*\btrust\s*)$/gm, "#$1");
  const rules = [
    ["local", "all", "scram_user", "", "scram-sha-256"],
    ["local", "all", "md5_user", "", "md5"],
    ["local", "all", "all", "", "trust"],
    ...["0.0.0.0/0", "::/0"].flatMap((everywhere) => [
      ["host", "all", "scram_user", everywhere, "scram-sha-256"],
      ["host", "all", "md5_user", everywhere, "md5"],
    ]),
    ["host", "all", "all", "127.0.0.1/32", "trust"],
    ["host", "all", "all", "::1/128", "trust"],
  ];
  const widths = [8, 8, 16, 16, 0];
  const texts = rules.map((rule) =>
    rule
      .map((word, at) => word.padEnd(widths[at] ?? 0))
      .join("")
      .trimEnd(),
  );
  return `${quiet.trimEnd()}\n${lines("", "# This test installation.", ...texts)}`;
}

export const pcpConf = (plan: SetupPlan): string =>
  lines(`${plan.user}:${pcpMd5(new TextEncoder().encode(plan.user))}`);

export const poolPasswd = (plan: SetupPlan): string =>
  lines(`${plan.user}:md5${md5Hash(new TextEncoder().encode(plan.user), plan.user)}`);

export const pcpPass = (plan: SetupPlan): string =>
  lines(`localhost:${plan.pcpPort}:${plan.user}:${plan.user}`);

/** In each data directory, included by postgresql.conf, which tests append to. */
export const postgresSettingsName = "pgpool_setup.conf";

export function postgresSettings(plan: SetupPlan, node: number): string {
  return lines(
    `port = ${plan.postgresPorts[node]}`,
    "listen_addresses = '*'",
    `unix_socket_directories = '${plan.socketDirs.join(",")}'`,
    `wal_level = ${plan.mode === "logical_replication" ? "logical" : "replica"}`,
    "hot_standby = on",
    "max_wal_senders = 20",
    "max_replication_slots = 20",
    "max_prepared_transactions = 10",
    "archive_mode = on",
    // Run in the data directory, of whichever node it is a copy.
    `archive_command = 'cp %p ${plan.dir}/archivedir/$(basename "$PWD")/%f </dev/null'`,
    ...(plan.mode === "snapshot_isolation"
      ? ["default_transaction_isolation = 'repeatable read'"]
      : []),
    `${plan.useRewind ? "" : "#"}wal_log_hints = on`,
    "fsync = off # a test installation need not outlive the machine",
    "log_line_prefix = '%m [%p] %q%u@%d %a '",
  );
}

/** In a standby's data directory, included by postgresql.conf: whom it follows. */
export const standbySettingsName = "myrecovery.conf";

export function standbySettings(plan: SetupPlan, node: number, primary = 0): string {
  const source = `host=localhost port=${plan.postgresPorts[primary]} user=${plan.user}`;
  return lines(
    `primary_conninfo = '${source} application_name=server${node}'`,
    "recovery_target_timeline = 'latest'",
    `${plan.useSlots ? "" : "#"}primary_slot_name = 'server${node}'`,
  );
}

/** PostgreSQL refuses root, so root runs the same script as the user whose servers these are. */
function scriptHead(plan: SetupPlan, purpose: string): string {
  const again = `exec su -s /bin/sh -c 'exec sh "$0" "$@"' -- ${plan.user} "$0" "$@"`;
  return lines(
    "#! /bin/sh",
    `# ${purpose}`,
    `if [ "$(id -u)" = 0 ]; then ${again}; fi`,
    "unset PGDATA PGHOST PGPORT PGDATABASE PGUSER",
    `cd ${plan.dir} || exit 1`,
  );
}

/**
 * Waits for facts: each cluster until it takes connections, pgpool until it answers. The line that
 * starts pgpool stands alone, since test scripts take it out and run it, or take its -D away. What it
 * leaves running holds none of the caller's descriptors, who may be reading our output to its end.
 */
export function startAll(plan: SetupPlan): string {
  const { dir, pgpoolBin, postgresBin, debug } = plan;
  const clusters = nodesOf(plan).map((node) => {
    const ctl = `${postgresBin}/pg_ctl -D ${dataDir(plan, node)}`;
    const start = `${ctl} -w -l ${dir}/log/data${node}.log start`;
    return `${ctl} status >/dev/null || ${start} >/dev/null || echo "data${node} did not start: see ${dir}/log/data${node}.log" >&2`;
  });
  const files = `-f ${configFile(plan)} -F ${dir}/etc/pcp.conf -a ${dir}/etc/pool_hba.conf`;
  const options = debug ? "-D -n -d" : "-D -n";
  return `${scriptHead(plan, "Starts the PostgreSQL clusters, then pgpool.")}${lines(
    ...clusters,
    `${pgpoolBin}/pgpool ${options} ${files} 2>&1 | cat > ${dir}/log/pgpool.log 2>&1 &`,
    `${pgpoolBin}/pgpool setup --wait-ready ${plan.port} --while $!`,
  )}`;
}

export function shutdownAll(plan: SetupPlan): string {
  const stops = nodesOf(plan)
    .toReversed()
    .map((node) => `${plan.postgresBin}/pg_ctl -D ${dataDir(plan, node)}`)
    .map((ctl) => `! ${ctl} status >/dev/null || ${ctl} -m f stop >/dev/null`);
  const gone = `while [ -f ${pidFile(plan)} ]; do sleep 1; done`;
  return `${scriptHead(plan, "Stops pgpool, then the PostgreSQL clusters.")}${lines(
    `${plan.pgpoolBin}/pgpool -f ${configFile(plan)} -m f stop && ${gone}`,
    ...stops,
  )}`;
}

export const pgpoolReload = (plan: SetupPlan): string =>
  `${scriptHead(plan, "Makes pgpool read its configuration again.")}${lines(
    `${plan.pgpoolBin}/pgpool -f ${configFile(plan)} reload`,
  )}`;

export const bashrcPorts = (plan: SetupPlan): string =>
  lines(
    `export PGPOOL_PORT=${plan.port}`,
    `export PCP_PORT=${plan.pcpPort}`,
    `export PCPPASSFILE=${plan.dir}/pcppass`,
  );

export const readmePort = (plan: SetupPlan): string =>
  lines(
    ...plan.postgresPorts.map((port, node) => `#${node + 1} port is ${port}`),
    `pgpool port is ${plan.port}`,
    `pcp port is ${plan.pcpPort}`,
  );

/** failover_command: promotes the new main node when it was the primary that failed. */
export const failoverScript = (plan: SetupPlan): string =>
  `${scriptHead(plan, "Run by pgpool when a node has failed: %d %h %p %D %m %H %M %P %r %R %N %S")}${lines(
    "failed=$1 new_main=$5 old_primary=$8",
    "shift 9",
    "new_main_dir=$1",
    `exec >> ${plan.dir}/log/failover.log 2>&1`,
    'echo "$(date): node $failed failed, new main node is $new_main, primary was $old_primary"',
    '[ "$failed" = "$old_primary" ] && [ "$new_main" -ge 0 ] || exit 0',
    `${plan.postgresBin}/pg_ctl -D "$new_main_dir" promote`,
  )}`;

/** follow_primary_command: a standby that runs is made to follow the new primary, and attached again. */
export const followPrimaryScript = (plan: SetupPlan): string =>
  `${scriptHead(plan, "Run by pgpool for each standby after a failover: %d %h %p %D %m %H %M %P %r %R")}${lines(
    "node=$1 port=$3 data=$4 new_host=$6 new_port=$9",
    `exec >> ${plan.dir}/log/failover.log 2>&1`,
    'echo "$(date): node $node shall follow the primary on port $new_port"',
    `pcp() { PCPPASSFILE=${plan.dir}/pcppass "${plan.pgpoolBin}/$1" -w -h localhost -U ${plan.user} -p ${plan.pcpPort} -n "$node"; }`,
    `${plan.postgresBin}/pg_ctl -D "$data" status || exit 0`,
    `${plan.postgresBin}/pg_ctl -D "$data" -w -m f stop || exit 1`,
    ...(plan.useRewind
      ? [
          `${plan.postgresBin}/pg_rewind -D "$data" --source-server="host=$new_host port=$new_port user=${plan.user} dbname=postgres" || { pcp pcp_recovery_node; exit; }`,
        ]
      : []),
    ...(plan.useRewind ? [becomeItself("$data")] : []),
    ...becomeStandby(plan, "$data", "host=$new_host port=$new_port"),
    ...(plan.useSlots
      ? [
          `${plan.postgresBin}/pg_receivewal -h "$new_host" -p "$new_port" -U ${plan.user} --create-slot --if-not-exists -S "server$node"`,
        ]
      : []),
    'touch "$data/standby.signal"',
    `${plan.postgresBin}/pg_ctl -D "$data" -w -l ${plan.dir}/log/data$node.log start || { pcp pcp_recovery_node; exit; }`,
    "pcp pcp_attach_node",
  )}`;

/** Of a copy, or of what pg_rewind has made of a server: the settings by which it is itself, not its source. */
const becomeItself = (data: string): string =>
  `sed -i "s/^port = .*/port = $port/" "${data}/${postgresSettingsName}"`;

/** Whom it follows; what ALTER SYSTEM said of that, here or at its source, would have the last word. */
const becomeStandby = (plan: SetupPlan, data: string, source: string): readonly string[] => [
  `sed -i '/^primary_conninfo /d; /^primary_slot_name /d' "${data}/postgresql.auto.conf"`,
  `cat > "${data}/${standbySettingsName}" <<EOF`,
  `primary_conninfo = '${source} user=${plan.user} application_name=server$node'`,
  "recovery_target_timeline = 'latest'",
  ...(plan.useSlots ? ["primary_slot_name = 'server$node'"] : []),
  "EOF",
];

/** In the data directories: the first stage of online recovery, run on the primary or the main node. */
export const baseBackupScript = (plan: SetupPlan): string =>
  replicates(plan) ? copyForReplay(plan) : copyAsStandby(plan);

/**
 * A server that was detached may run on. One that was killed may still be in the table of processes,
 * where nobody collects the dead: it would be waited for in vain, and the lock beside its socket, by
 * which a server knows that another one has its port, would keep its successor from starting.
 */
const makeWay = ({ postgresBin, socketDirs }: SetupPlan): readonly string[] => [
  'pid=$(head -n 1 "$dest/postmaster.pid" 2> /dev/null)',
  'runs() { [ -n "$pid" ] && kill -0 "$pid" 2> /dev/null && ! grep -qs "^State:.*Z" "/proc/$pid/status"; }',
  `! runs || ${postgresBin}/pg_ctl -D "$dest" -m immediate stop || exit 1`,
  ...socketDirs
    .map((dir) => `${dir}/.s.PGSQL.$port.lock`)
    .map(
      (lock) =>
        `[ -z "$pid" ] || [ "$(head -n 1 "${lock}" 2> /dev/null)" != "$pid" ] || rm -f "${lock}"`,
    ),
  'rm -rf "$dest"',
];

const copyAsStandby = (plan: SetupPlan): string =>
  `${scriptHead(plan, "MAIN_DIR HOST RECOVERY_DIR MAIN_PORT NODE RECOVERY_PORT: copies the primary into RECOVERY_DIR.")}${lines(
    "dest=$3 main_port=$4 node=$5 port=$6",
    `exec >> ${plan.dir}/log/recovery.log 2>&1`,
    'echo "$(date): recovering node $node on port $port from port $main_port"',
    ...makeWay(plan),
    `${plan.postgresBin}/pg_basebackup -h localhost -p "$main_port" -U ${plan.user} -D "$dest" -X stream -c fast || exit 1`,
    becomeItself("$dest"),
    ...becomeStandby(plan, "$dest", "host=localhost port=$main_port"),
    ...(plan.useSlots
      ? [
          `${plan.postgresBin}/pg_receivewal -h localhost -p "$main_port" -U ${plan.user} --create-slot --if-not-exists -S "server$node"`,
        ]
      : []),
    'touch "$dest/standby.signal"',
  )}`;

/**
 * The copy replays what its source archives until the second stage, and is a server of its own then.
 * WAL that a former server of its name has archived must never be replayed by others.
 */
const copyForReplay = (plan: SetupPlan): string =>
  `${scriptHead(plan, "MAIN_DIR HOST RECOVERY_DIR MAIN_PORT NODE RECOVERY_PORT: copies the main node into RECOVERY_DIR.")}${lines(
    "source=$1 dest=$3 main_port=$4 node=$5 port=$6",
    `exec >> ${plan.dir}/log/recovery.log 2>&1`,
    'echo "$(date): recovering node $node on port $port from port $main_port"',
    ...makeWay(plan),
    `rm -rf ${plan.dir}/archivedir/"$(basename "$dest")"/*`,
    `${plan.postgresBin}/pg_basebackup -h localhost -p "$main_port" -U ${plan.user} -D "$dest" -X stream -c fast || exit 1`,
    becomeItself("$dest"),
    `cat > "$dest/${standbySettingsName}" <<EOF`,
    `restore_command = 'cp ${plan.dir}/archivedir/$(basename "$source")/%f %p'`,
    "recovery_target_timeline = 'latest'",
    "EOF",
    'touch "$dest/recovery.signal"',
  )}`;

/** In the data directories: the end of online recovery, run on the primary. No ssh: one machine. */
export const remoteStartScript = (plan: SetupPlan): string =>
  `${scriptHead(plan, "HOST DATA_DIR: starts the recovered cluster.")}${lines(
    `${plan.postgresBin}/pg_ctl -D "$2" -w -l "${plan.dir}/log/$(basename "$2").log" start >/dev/null 2>&1 </dev/null`,
  )}`;

/** Beside the sample scripts: their settings, for servers that are all on this machine. */
export const scriptSettings = (plan: SetupPlan): string =>
  lines(
    `PG_BIN=${plan.postgresBin}`,
    `PG_OS_USER=${plan.user}`,
    `PG_SUPERUSER=${plan.user}`,
    `REPL_USER=${plan.user}`,
    `PCP_BIN=${plan.pgpoolBin}`,
    `PCP_PORT=${plan.pcpPort}`,
    `PCP_USER=${plan.user}`,
    `export PCPPASSFILE=${plan.dir}/pcppass`,
    // Of the server in whose data directory a script lies, and of the one that is its third argument.
    `ARCHIVE_DIR=${plan.dir}/archivedir/$(basename "$(dirname "$0")")`,
    `RECOVERED_ARCHIVE_DIR=${plan.dir}/archivedir/$(basename "\${3:-}")`,
    `SSH=${plan.dir}/etc/ssh_here`,
  );

/** In the place of ssh: the command, which is the last word, runs on this machine. */
export const sshHere = (): string =>
  lines(
    "#! /bin/sh",
    "# Called as ssh is, with a host and a command; every host of this installation is this one.",
    'while [ "$#" -gt 1 ]; do shift; done',
    'exec sh -c "$1"',
  );
