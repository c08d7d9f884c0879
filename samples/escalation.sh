#!/bin/sh
# wd_escalation_command: run on the pgpool that becomes the leader, before it takes the virtual
# address. A pgpool that died, or was cut off, may have left the address on its host; it is taken away
# there, as far as the host can still be reached.
# Settings may stand in scripts.conf beside this file.
set -u

# shellcheck source=/dev/null
conf=$(dirname "$0")/scripts.conf && [ -r "$conf" ] && . "$conf"
: "${PGPOOL_HOSTS:=server1 server2 server3}" # of all pgpools, as `hostname` says
: "${PGPOOL_OS_USER:=postgres}"              # may run `ip` there by sudo
: "${VIP:=192.168.100.50}"                   # delegate_ip
: "${VIP_PREFIX:=24}"
: "${VIP_DEVICE:=eth0}"
: "${SSH:=ssh -T -o BatchMode=yes -o ConnectTimeout=5}"

say() { echo "$(date '+%F %T') escalation.sh: $*"; }

self=$(hostname)
for host in $PGPOOL_HOSTS; do
  [ "$host" = "$self" ] && continue
  # SSH is a command with its options, so it is split here.
  # shellcheck disable=SC2086,SC2029
  if $SSH "$PGPOOL_OS_USER@$host" "/sbin/ip -o addr show dev $VIP_DEVICE to $VIP/32 | grep -q . &&
    sudo -n /sbin/ip addr del $VIP/$VIP_PREFIX dev $VIP_DEVICE"; then
    say "took $VIP away from $host"
  fi
done
exit 0 # a host that cannot be reached must not keep us from serving
