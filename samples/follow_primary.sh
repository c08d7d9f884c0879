#!/bin/sh
# follow_primary_command for servers with streaming replication, one to a host.
#
#   follow_primary_command = '/etc/pgpool/follow_primary.sh %d %h %p %D %m %H %M %P %r %R'
#
# pgpool calls it after a failover for each node that is to follow the new primary. A standby that
# runs is rewound where it needs it, pointed to the new primary and attached again; where that fails
# it is copied anew by online recovery. One that does not run, as the old primary, is left to the
# operator: pcp_recovery_node brings it back once it is known why it died.
# samples/README.md says what this needs. Settings may stand in scripts.conf beside this file.
set -u

# shellcheck source=/dev/null
conf=$(dirname "$0")/scripts.conf && [ -r "$conf" ] && . "$conf"
: "${PG_BIN:=/usr/lib/postgresql/15/bin}"   # on every host
: "${PG_OS_USER:=postgres}"                 # who runs PostgreSQL there
: "${PG_SUPERUSER:=postgres}"               # passwords are in ~/.pgpass, here and on every host
: "${REPL_USER:=repl}"
: "${PCP_BIN:=/usr/bin}"                    # where pcp_attach_node is, on this host
: "${PCP_HOST:=localhost}"
: "${PCP_PORT:=9898}"
: "${PCP_USER:=pgpool}"                     # its password is in ~/.pcppass
: "${SSH:=ssh -T -o BatchMode=yes -o ConnectTimeout=10}"

id=$1 host=$2 port=$3 data=$4 primary_id=$5 primary_host=$6 primary_port=$9
slot="pgpool_node$id"

say() { echo "$(date '+%F %T') follow_primary.sh: $*"; }
# One word for a shell at the other end, whatever is in it.
quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }
# SSH is a command with its options, so it is split here.
# shellcheck disable=SC2086
on_node() { $SSH "$PG_OS_USER@$host" "$1"; }

pg_ctl="$(quote "$PG_BIN/pg_ctl") -D $(quote "$data")"

if ! on_node "$pg_ctl status" > /dev/null; then
  say "node $id on $host does not run; bring it back with pcp_recovery_node -n $id"
  exit 0
fi
say "node $id on $host shall follow node $primary_id on $primary_host"

"$PG_BIN/psql" -h "$primary_host" -p "$primary_port" -U "$PG_SUPERUSER" -d postgres -w -qAt -c "
  SELECT pg_create_physical_replication_slot('$slot')
  WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = '$slot')" > /dev/null || {
  say "no replication slot could be made on $primary_host"
  exit 1
}

# The settings of a standby are in a file of their own, which postgresql.conf includes. What ALTER
# SYSTEM says of them, here or at the server that pg_rewind copies from, would have the last word.
rewind="$(quote "$PG_BIN/pg_rewind") -D $(quote "$data") --source-server=$(
  quote "host=$primary_host port=$primary_port user=$PG_SUPERUSER dbname=postgres"
)"
settings="port = $port
primary_conninfo = 'host=$primary_host port=$primary_port user=$REPL_USER application_name=server$id'
primary_slot_name = '$slot'
recovery_target_timeline = 'latest'"

if on_node "set -e
  $pg_ctl -w -m fast stop
  $rewind
  cd $(quote "$data")
  grep -qx \"include_if_exists = 'standby.conf'\" postgresql.conf ||
    echo \"include_if_exists = 'standby.conf'\" >> postgresql.conf
  printf '%s\n' $(quote "$settings") > standby.conf
  sed -i -e '/^primary_conninfo /d' -e '/^primary_slot_name /d' postgresql.auto.conf
  touch standby.signal
  $pg_ctl -w -l startup.log start < /dev/null > /dev/null 2>&1"; then
  command=pcp_attach_node
else
  say "node $id could not be rewound or started: copying it anew"
  on_node "$pg_ctl -w -m fast stop" > /dev/null 2>&1
  command=pcp_recovery_node
fi
"$PCP_BIN/$command" -w -h "$PCP_HOST" -p "$PCP_PORT" -U "$PCP_USER" -n "$id" || {
  say "$command -n $id failed"
  exit 1
}
say "$command -n $id is done"
