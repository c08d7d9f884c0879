#!/bin/sh
# failover_command for servers with streaming replication, one to a host.
#
#   failover_command = '/etc/pgpool/failover.sh %d %h %p %D %m %H %M %P %r %R %N %S'
#
# When the primary was lost, the new main node is promoted. When a standby was lost, its replication
# slot on the primary is dropped, or WAL would pile up there until the disk is full.
# samples/README.md says what this needs. Settings may stand in scripts.conf beside this file.
set -u

# shellcheck source=/dev/null
conf=$(dirname "$0")/scripts.conf && [ -r "$conf" ] && . "$conf"
: "${PG_BIN:=/usr/lib/postgresql/15/bin}"   # on every host
: "${PG_OS_USER:=postgres}"                 # who runs PostgreSQL there
: "${PG_SUPERUSER:=postgres}"               # its password is in ~/.pgpass
: "${SSH:=ssh -T -o BatchMode=yes -o ConnectTimeout=10}"

failed_id=$1 failed_host=$2 new_main_id=$5 new_main_host=$6 old_primary_id=$8
new_main_data=${10} old_primary_host=${11} old_primary_port=${12}

say() { echo "$(date '+%F %T') failover.sh: $*"; }
# One word for a shell at the other end, whatever is in it.
quote() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

say "node $failed_id on $failed_host is lost, the main node is $new_main_id, the primary was $old_primary_id"

if [ "$new_main_id" -lt 0 ]; then
  say "no node is left"
  exit 0
fi

if [ "$failed_id" != "$old_primary_id" ]; then
  slot="pgpool_node$failed_id"
  say "dropping replication slot $slot on $old_primary_host"
  # A slot in use stays: its standby lives, and only pgpool cannot reach it.
  "$PG_BIN/psql" -h "$old_primary_host" -p "$old_primary_port" -U "$PG_SUPERUSER" -d postgres -w -qAt \
    -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
        WHERE slot_name = '$slot' AND NOT active" ||
    say "the slot could not be dropped: look for it on $old_primary_host"
  exit 0
fi

say "promoting node $new_main_id on $new_main_host"
# SSH is a command with its options, so it is split here.
# shellcheck disable=SC2086
if $SSH "$PG_OS_USER@$new_main_host" \
  "$(quote "$PG_BIN/pg_ctl") -D $(quote "$new_main_data") -w promote"; then
  say "node $new_main_id is the primary"
else
  say "node $new_main_id could not be promoted"
  exit 1
fi
