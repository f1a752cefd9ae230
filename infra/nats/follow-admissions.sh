#!/bin/sh
# Updates the configuration of this NATS server with the hosts that have joined, and reloads the
# server after a change. Run by torpor-nats-hosts.timer, with these settings from
# /etc/torpor/nats-hosts.env:
#   HOPX_BASE_URL, HOPX_API_KEY   the fleet's API, and a key with the scope `operator`
#   NATS_CONFIGURE                the arguments of configure.ts, except --admissions
# For tests elsewhere, NATS_CONF, NATS_SERVER and NATS_RELOAD name another file, program and reload
# command.
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
# Checked first: after a failed reload, a server keeps its old configuration, but its next start
# fails.
"${NATS_SERVER:-nats-server}" -t -c "$work/nats.conf" > "$work/checked" 2>&1 || {
  cat "$work/checked" >&2
  exit 1
}
# Keeps owner and mode, and replaces the file atomically.
if [ -e "$conf" ]; then cp -p "$conf" "$conf.new"; else install -m 600 /dev/null "$conf.new"; fi
cat "$work/nats.conf" > "$conf.new"
mv -f "$conf.new" "$conf"
${NATS_RELOAD:-systemctl reload torpor-nats}
echo "$conf was written anew, and the server told"
