#!/bin/sh
# Makes the mesh's authorities, and a fresh join token for each process. Safe to repeat: what is there stays, and
# a process that has an identity ignores its token.
set -eu
umask 077

# What is past half of its life is renewed, as long as the root key is there.
python -m certs init --home "$TELLTALE_HOME" --mesh "$TELLTALE_MESH" --domains servers network platform analysis operators --renew

# join PROCESS DOMAIN PATH [SERVER NAME ...]
join() {
  process=$1 domain=$2 path=$3
  shift 3
  names=
  for name in "$@"; do names="$names --dns $name"; done
  # shellcheck disable=SC2086  # server names have no spaces
  token=$(python -m certs join-token --home "$TELLTALE_HOME" --domain "$domain" --path "$path" $names)
  # Emptied and written, not replaced: the agent mounts the file's directory as another user.
  printf '%s\n' "$token" > "$TELLTALE_JOIN/$process/token"
}

join platform platform /service "service.platform.$TELLTALE_MESH"
join servers servers /service "service.servers.$TELLTALE_MESH"
join network network /service "service.network.$TELLTALE_MESH"
join analysis analysis /service "service.analysis.$TELLTALE_MESH"
join gateway platform /gateway "gateway.platform.$TELLTALE_MESH" localhost
join writer platform /writer "writer.platform.$TELLTALE_MESH"
join agent servers "/agent/$TELLTALE_HOST"
