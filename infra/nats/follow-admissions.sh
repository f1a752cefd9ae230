#!/bin/sh
# Brings the configuration of this NATS server to the hosts that have joined, and lets the server
# read it when it has changed. Run by torpor-nats-hosts.timer; what it needs is in
# /etc/torpor/nats-hosts.env:
#   HOPX_BASE_URL, HOPX_API_KEY   the fleet's API, and a key with the scope `operator`
#   NATS_CONFIGURE                the arguments of configure.ts, but --admissions
# For a try elsewhere: NATS_CONF, NATS_SERVER and NATS_RELOAD say which file, which program, and
# how.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
conf=${NATS_CONF:-/etc/torpor/nats.conf}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${NODE:-node}" "$root/packages/cli/src/main.ts" hosts admissions --json > "$work/hosts.json"
# One argument per word: none of them has a space in it.
# shellcheck disable=SC2086
"${NODE:-node}" "$root/infra/nats/configure.ts" $NATS_CONFIGURE --existing-secrets --admissions "$work/hosts.json" > "$work/nats.conf"
if cmp -s "$work/nats.conf" "$conf"; then exit 0; fi
# A server that is told to read what it cannot goes on with what it had, and is lost at its next
# start.
"${NATS_SERVER:-nats-server}" -t -c "$work/nats.conf" > "$work/checked" 2>&1 || {
  cat "$work/checked" >&2
  exit 1
}
# The same owner and mode as before; in one piece.
if [ -e "$conf" ]; then cp -p "$conf" "$conf.new"; else install -m 600 /dev/null "$conf.new"; fi
cat "$work/nats.conf" > "$conf.new"
mv -f "$conf.new" "$conf"
${NATS_RELOAD:-systemctl reload torpor-nats}
echo "$conf was written anew, and the server told"
