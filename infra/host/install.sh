#!/usr/bin/env bash
# Makes a bare Debian 12 machine a host of a fleet, or updates a host. Safe to run again: correct
# parts stay unchanged, and the last line reports whether anything changed. docs/operate/hosts.md is
# the manual.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: install.sh --release <dir> --node <bin> [options]

  --release <dir>            holds torpor-node-agent.mjs and torpor-fence.mjs (made by `pnpm build`)
  --node <bin>               a Node.js of version 24.11 or newer
  --cloud-hypervisor <bin>   may be repeated: versions are kept side by side
  --data-device <device>     an empty disk: becomes the XFS of /var/lib/torpor. One that holds an XFS is mounted as it is, one that holds anything else is refused
  --image <dir>              may be repeated: a sandbox image, as infra/images builds it
  --config <file>            becomes /etc/torpor/node-agent.env. Without it a template is put there, once
  --join <url>               joins the fleet whose API is there (torpor-node-agent join), once
  --token-file <file>        with --join: the token that an operator has made (./torpor hosts token)
  --identity <dir>           becomes /etc/torpor/identity: keys and a certificate that were made elsewhere
  --nats-password <file>     becomes /etc/torpor/nats-password
  --no-start                 start neither the node-agent nor the fence
USAGE
}

readonly VMM_USER=torpor-vmm VMM_UID=64055 LIB=/usr/lib/torpor DATA=/var/lib/torpor ETC=/etc/torpor UNIT=torpor-node-agent.service FENCE_UNIT=torpor-fence.service
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
changes=0 must_restart=0 must_restart_fence=0 must_reload=0

say() { printf 'install: %s\n' "$*"; }
fail() {
  printf 'install: %s\n' "$*" >&2
  exit 1
}
changed() {
  say "$*"
  changes=$((changes + 1))
}

release='' node='' data_device='' config='' nats_password='' join_url='' token_file='' identity='' may_start=1
hypervisors=() images=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --no-start) may_start=0; shift; continue ;;
    --release | --node | --cloud-hypervisor | --data-device | --image | --config | --nats-password | --join | --token-file | --identity) [ $# -ge 2 ] || fail "$1 needs a value" ;;
    *) usage >&2; fail "there is no option '$1'" ;;
  esac
  case "$1" in
    --release) release=$2 ;;
    --node) node=$2 ;;
    --cloud-hypervisor) hypervisors+=("$2") ;;
    --data-device) data_device=$2 ;;
    --image) images+=("$2") ;;
    --config) config=$2 ;;
    --nats-password) nats_password=$2 ;;
    --join) join_url=$2 ;;
    --token-file) token_file=$2 ;;
    --identity) identity=$2 ;;
  esac
  shift 2
done

# Installs a file atomically: a program that runs from the old file is not affected.
put() { # mode source target; true when it changed
  if cmp -s "$2" "$3" && [ "$(stat -c '%a %u %g' "$3")" = "$1 0 0" ]; then return 1; fi
  # The callers test the result, so `set -e` does not apply here.
  { install -D -m "$1" -o root -g root "$2" "$3.new" && mv -f "$3.new" "$3"; } || fail "$3 cannot be written: see the message above"
  changed "wrote $3"
}

check_machine() {
  [ "$(id -u)" = 0 ] || fail "run it as root (sudo): it installs packages, a user and systemd units"
  [ -z "$join_url" ] || [ -s "$token_file" ] || fail "--join needs --token-file with a token in it (./torpor hosts token makes one)"
  [ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m); hosts are x86_64"
  # shellcheck source=/dev/null
  (. /etc/os-release && [ "${ID:-}" = debian ] && [ "${VERSION_ID:-0}" -ge 12 ]) || fail "this is no Debian 12 or newer; docs/operate/hosts.md lists what to do by hand on other systems"
  [ -d /run/systemd/system ] || fail "systemd does not run here: the node-agent is installed as a systemd service"
  [ -n "$release" ] || fail "--release is missing: the directory that 'pnpm build' has made (.torpor/release)"
  local program
  for program in torpor-node-agent torpor-fence; do
    [ -f "$release/$program.mjs" ] || fail "$release holds no $program.mjs: run 'pnpm build' in a checkout and give its .torpor/release"
  done
  [ -n "$node" ] || fail "--node is missing: a Node.js binary of version 24.11 or newer, from https://nodejs.org/"
  local version
  version=$("$node" --version 2> /dev/null) || fail "$node cannot be run: give the path of a Node.js binary for Linux x86_64"
  [ "$(printf '%s\n' v24.11.0 "$version" | sort -V | head -1)" = v24.11.0 ] || fail "$node is $version; the node-agent needs 24.11 or newer"
}

# Retries: a machine that has just booted may run apt itself, and holds its lock.
apt_update() {
  local tries
  for tries in 1 2 3 4; do
    apt-get -qq update && return 0
    [ "$tries" = 4 ] || sleep 10
  done
  return 1
}

simulates() {
  [ "$(sed -n 's/^DRIVER=//p' "${config:-$ETC/node-agent.env}" 2> /dev/null | tail -1)" = simulated ]
}

install_packages() {
  local missing=() pair simulator=()
  if simulates; then simulator=(python3:python3); fi
  for pair in nft:nftables ip:iproute2 setpriv:util-linux nsenter:util-linux flock:util-linux mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs modprobe:kmod sysctl:procps tar:tar useradd:passwd "${simulator[@]}"; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing Debian packages: ${missing[*]}"
  (apt_update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends "${missing[@]}") > /var/log/torpor-install.log 2>&1 \
    || { tail -5 /var/log/torpor-install.log >&2; fail "apt-get failed; its output is in /var/log/torpor-install.log"; }
  changed "installed ${missing[*]}"
}

add_user() {
  local found
  if found=$(id -u "$VMM_USER" 2> /dev/null); then
    [ "$found" = "$VMM_UID" ] || fail "the user $VMM_USER has uid $found, not $VMM_UID: remove it, or set VMM_UID=$found and see docs/operate/hosts.md"
  else
    groupadd --gid "$VMM_UID" "$VMM_USER"
    useradd --uid "$VMM_UID" --gid "$VMM_UID" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$VMM_USER"
    changed "added the user $VMM_USER"
  fi
  if getent group kvm > /dev/null && ! id -nG "$VMM_USER" | grep -qw kvm; then
    usermod --append --groups kvm "$VMM_USER"
    changed "added $VMM_USER to the group kvm"
  fi
}

mount_data() {
  [ -n "$data_device" ] || return 0
  [ -b "$data_device" ] || fail "$data_device is no block device"
  local kind uuid
  kind=$(blkid -o value -s TYPE "$data_device" || true)
  case "$kind" in
    xfs) ;;
    '') mkfs.xfs -q -m reflink=1 -L torpor "$data_device"; changed "made an XFS on $data_device" ;;
    *) fail "$data_device holds $kind: give an empty disk, or wipe it yourself (wipefs --all $data_device)" ;;
  esac
  uuid=$(blkid -o value -s UUID "$data_device")
  mkdir -p "$DATA"
  if ! grep -q "^UUID=$uuid " /etc/fstab; then
    # The daemon-reload that follows the units covers this line too.
    echo "UUID=$uuid $DATA xfs noatime,nofail 0 2" >> /etc/fstab
    must_reload=1
    changed "mounts $data_device at $DATA (/etc/fstab)"
  fi
  mountpoint -q "$DATA" || { mount "$DATA"; changed "mounted $DATA"; }
}

make_directory() { # mode path
  [ -d "$2" ] && [ "$(stat -c '%a %u %g' "$2")" = "$1 0 0" ] && return 0
  install -d -m "$1" -o root -g root "$2"
  changed "made $2"
}

make_directories() {
  # VMMs run as another user and must be able to reach their own directories.
  make_directory 755 "$DATA"
  make_directory 755 "$DATA/images"
  make_directory 700 "$ETC"
  make_directory 755 "$LIB"
}

install_programs() {
  if put 755 "$node" "$LIB/node"; then must_restart=1 must_restart_fence=1; fi
  if put 644 "$release/torpor-fence.mjs" "$LIB/torpor-fence.mjs"; then must_restart_fence=1; fi
  if put 644 "$release/torpor-node-agent.mjs" "$LIB/torpor-node-agent.mjs"; then must_restart=1; fi
  local part
  for part in torpor-simulated-vmm/{main,guest,connections}.py; do put 644 "$release/$part" "$LIB/$part" || true; done
  put 755 "$here/torpor-node-agent" /usr/local/bin/torpor-node-agent || true
  local binary version
  for binary in "${hypervisors[@]}"; do
    version=$("$binary" --version 2> /dev/null | sed -n 's/^cloud-hypervisor v\{0,1\}\([0-9][0-9.]*\).*/\1/p')
    [ -n "$version" ] || fail "$binary does not say its version: give a cloud-hypervisor release binary for Linux x86_64"
    if put 755 "$binary" "$LIB/cloud-hypervisor/$version/cloud-hypervisor"; then must_restart=1; fi
  done
}

install_images() {
  local dir sha256 template
  for dir in "${images[@]}"; do
    [ -f "$dir/image.json" ] || fail "$dir holds no image.json: give a directory that infra/images/*/build.sh has made"
    sha256=$(sed -n 's/^  "sha256": "\([0-9a-f]\{64\}\)".*/\1/p' "$dir/image.json")
    template=$(sed -n 's/^  "templateName": "\([a-z0-9-]*\)".*/\1/p' "$dir/image.json")
    if [ -z "$sha256" ] || [ -z "$template" ]; then fail "$dir/image.json has no sha256 or templateName"; fi
    if [ ! -d "$DATA/images/$sha256" ]; then
      rm -rf "$DATA/images/.new"
      mkdir "$DATA/images/.new"
      cp --sparse=always "$dir"/{image.json,kernel,initrd,rootfs.ext4} "$DATA/images/.new/"
      chmod 444 "$DATA/images/.new"/*
      sync -f "$DATA/images/.new"
      mv -T "$DATA/images/.new" "$DATA/images/$sha256"
      changed "copied the image $template (${sha256:0:12})"
    fi
    if [ "$(readlink "$DATA/images/$template" || true)" != "$sha256" ]; then
      ln -sfnT "$sha256" "$DATA/images/$template"
      must_restart=1
      changed "the template $template is ${sha256:0:12}"
    fi
  done
}

install_settings() {
  if put 644 "$here/modules.conf" /etc/modules-load.d/torpor.conf; then
    # A module without a file is built into the kernel, or missing: `check` distinguishes the two.
    grep -v '^#' "$here/modules.conf" | xargs -n 1 modprobe --quiet || true
  fi
  if put 644 "$here/sysctl.conf" /etc/sysctl.d/90-torpor.conf; then sysctl --quiet --load=/etc/sysctl.d/90-torpor.conf; fi
  if [ -n "$config" ]; then
    if put 600 "$config" "$ETC/node-agent.env"; then must_restart=1 must_restart_fence=1; fi
  elif [ ! -e "$ETC/node-agent.env" ]; then
    put 600 "$here/node-agent.env" "$ETC/node-agent.env" || true
  fi
  if [ -n "$nats_password" ] && put 600 "$nats_password" "$ETC/nats-password"; then must_restart=1; fi
  local file
  for file in ${identity:+"$identity"/*}; do
    if put 600 "$file" "$ETC/identity/${file##*/}"; then must_restart=1; fi
  done
}

# A host that has joined keeps its keys; joining with others is a manual step.
join_fleet() {
  [ -n "$join_url" ] || return 0
  [ ! -s "$ETC/identity/identity.env" ] || return 0
  say "joining the fleet at $join_url"
  /usr/local/bin/torpor-node-agent join --url "$join_url" --token-file "$token_file" || fail "this host has not joined: see the message above, then run this again"
  changed 'joined the fleet'
  must_restart=1
}

install_units() {
  local unit
  for unit in "$UNIT" torpor-vms.slice; do
    if put 644 "$here/systemd/$unit" "/etc/systemd/system/$unit"; then must_reload=1 must_restart=1; fi
  done
  if put 644 "$here/systemd/$FENCE_UNIT" "/etc/systemd/system/$FENCE_UNIT"; then must_reload=1 must_restart_fence=1; fi
  [ "$must_reload" = 0 ] || systemctl daemon-reload
}

is_configured() {
  grep -qs '^NATS_URL=.' "$ETC/node-agent.env" "$ETC/identity/identity.env"
}

start_unit() { # unit, 1 where it has to be restarted, what to add when it was
  if ! systemctl is-enabled --quiet "$1"; then
    systemctl enable --quiet --no-reload "$1"
    changed "enabled $1"
  fi
  [ "$may_start" = 1 ] || return 0
  if ! systemctl is-active --quiet "$1"; then
    systemctl start "$1"
    changed "started $1"
  elif [ "$2" = 1 ]; then
    systemctl restart "$1"
    changed "restarted $1$3"
  fi
}

start_services() {
  if ! is_configured; then
    say "not started: this host has not joined a fleet; run this again with --join and --token-file (docs/operate/hosts.md)"
    return 0
  fi
  # The fence first: an agent without a fence gets no sandboxes that need one.
  start_unit "$FENCE_UNIT" "$must_restart_fence" ''
  start_unit "$UNIT" "$must_restart" '; virtual machines go on'
}

check_machine
install_packages
add_user
mount_data
make_directories
install_programs
install_images
install_settings
join_fleet
install_units
start_services
if [ "$changes" = 0 ]; then say "nothing to do: everything is in place"; else say "done, $changes changes. 'torpor-node-agent check' says whether this machine can run virtual machines"; fi
