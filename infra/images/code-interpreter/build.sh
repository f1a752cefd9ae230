#!/usr/bin/env bash
# Builds the image `code-interpreter` from Debian packages: kernel, initramfs, read-only root file
# system, image.json.
#
#   build.sh <imagesDir> [<cacheDir>]
#
# The root file system (slow) and the initramfs with the guest agent (fast) are cached separately,
# each under a digest of its inputs; if nothing changed, the script returns at once. The result is
# <imagesDir>/<sha256>/ and the link <imagesDir>/code-interpreter. Needs root, mmdebstrap,
# mkfs.ext4, cpio, kmod and Node.js 24. Packages come from the sources of this machine's own apt, or
# from TORPOR_IMAGE_MIRROR.
set -euo pipefail

template=code-interpreter
suite=bookworm
root_size_mib=2560
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../../.." && pwd)
images=$(mkdir -p "${1:?usage: build.sh <imagesDir> [<cacheDir>]}" && cd "$1" && pwd)
cache=${2:-$images/.cache}
mkdir -p "$cache"
started=$SECONDS
say() { printf '  [%3ds] %s\n' "$((SECONDS - started))" "$*"; }
digest() { sha256sum | cut -c1-16; }

for tool in mmdebstrap mkfs.ext4 cpio depmod modprobe node; do
  command -v "$tool" > /dev/null || { echo "the image build needs $tool: run ./torpor, which installs it, or install it yourself" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "the image build must run as root, because it makes a root file system: run this again with sudo" >&2; exit 1; }

# shellcheck source=../../debian.sh
source "$here/../../debian.sh"
make_work_directory

build_rootfs() { # into $1
  local tree=$work/tree includes
  includes=$(paste -sd, "$here/packages.txt")
  write_sources "$work/sources.list"
  say "unpacking Debian packages: $includes"
  mmdebstrap --quiet --mode=root --variant=apt --include="$includes" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='force-unsafe-io' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/locale/locale.alias' \
    --dpkgopt='path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED' --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --setup-hook="$mirror_lists" \
    --customize-hook='cd "$1/tmp" && chroot "$1" sh -c "cd /tmp && apt-get -qq download busybox-static $(chroot "$1" apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -1)"' \
    --customize-hook="mkdir -p '$work/debs' && mv \"\$1\"/tmp/*.deb '$work/debs/'" \
    "$suite" "$tree" "$work/sources.list" > "$work/mmdebstrap.log" 2>&1 || { tail -20 "$work/mmdebstrap.log" >&2; exit 1; }
  rm -rf "$tree"/var/cache/apt/*.bin "$tree"/var/log/*.log
  mkdir -p "$tree/workspace" "$tree/var/lib/torpor"
  chmod 1777 "$tree/workspace"
  : > "$tree/etc/machine-id"
  : > "$tree/etc/resolv.conf"
  complete_tree "$tree"
  install_npm "$tree"
  # A sandbox's first start adds its own name (packages/guest-agent/src/system/names.ts).
  printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$tree/etc/hosts"
  rm -f "$tree/etc/hostname"
  say "compiling Python modules"
  chroot "$tree" python3 -m compileall -q -j 0 /usr/lib/python3 > /dev/null 2>&1 || true
  # The first import of matplotlib scans every font, which takes half a minute in an emulated guest.
  # The environment is empty, since an XDG_CACHE_HOME of this machine would move the cache to a
  # place where no guest searches.
  chroot "$tree" env -i HOME=/root PATH=/usr/bin:/bin python3 -c 'import matplotlib.font_manager'
  [ -d "$tree/root/.cache/matplotlib" ] || { echo "matplotlib has kept no list of fonts in the image" >&2; exit 1; }
  say "packing the root file system"
  truncate -s "${root_size_mib}M" "$1/rootfs.ext4"
  mkfs.ext4 -q -F -O ^has_journal,^metadata_csum_seed -m 0 -E "hash_seed=00000000-0000-4000-8000-000000000000,lazy_itable_init=0" \
    -U 00000000-0000-4000-8000-000000000001 -L torpor-root -d "$tree" "$1/rootfs.ext4"
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/extracted"; done
  cp "$work"/extracted/boot/vmlinuz-* "$1/kernel"
  mkdir -p "$1/initrd-parts"
  cp "$work"/extracted/bin/busybox "$1/initrd-parts/busybox"
  collect_modules "$1/initrd-parts/modules"
}

# Files that programs expect on every machine, and that Debian leaves to its installer.
complete_tree() { # tree
  ln -s ../proc/self/mounts "$1/etc/mtab"
  # Some installers link manual pages there, and fail without the directories, although the pages
  # themselves are left out.
  mkdir -p "$1"/usr/share/man/man{1..8}
  # PAM sets separate limits for processes under sudo and su: here, the same as for all others
  # (supervise).
  printf '%s - nofile 65536\n%s - nproc unlimited\n' '*' '*' root root \
    > "$1/etc/security/limits.d/sandbox.conf"
  # Users are root in their own machine, and it may have no access to an index to check versions.
  printf '[global]\nroot-user-action = ignore\ndisable-pip-version-check = true\n' > "$1/etc/pip.conf"
  echo 'en_US.UTF-8 UTF-8' > "$1/etc/locale.gen"
  chroot "$1" locale-gen > "$work/locale-gen.log" 2>&1 || { tail -20 "$work/locale-gen.log" >&2; exit 1; }
}

# npm's own archive, which contains its dependencies: Debian's package needs hundreds of others.
npm=$repository/packages/guest-agent/node_modules/npm
install_npm() { # tree
  local target=$1/usr/lib/node_modules/npm program
  mkdir -p "$target" "$1/usr/local/lib/node_modules"
  cp -r "$npm/." "$target"
  rm -rf "$target/docs" "$target/man"
  printf 'prefix=/usr/local\nupdate-notifier=false\nfund=false\n' > "$target/npmrc"
  for program in npm npx; do
    chmod 755 "$target/bin/$program-cli.js"
    ln -s "../lib/node_modules/npm/bin/$program-cli.js" "$1/usr/bin/$program"
  done
}

collect_modules() { # into $1, with the order to load them in
  local version module
  version=$(ls "$work/extracted/lib/modules")
  depmod -b "$work/extracted" "$version"
  mkdir -p "$1"
  for module in virtio_pci virtio_blk virtio_net virtio_rng virtio_balloon overlay vmw_vsock_virtio_transport vsock_loopback tcp_diag ptp_kvm button; do
    modprobe -C /dev/null -d "$work/extracted" -S "$version" --show-depends "$module" | sed -n 's/^insmod \(.*\.ko[.a-z]*\).*/\1/p'
  done | awk '!seen[$0]++' > "$work/module-paths"
  while read -r path; do cp "$path" "$1/"; basename "$path"; done < "$work/module-paths" > "$1/order"
}

rootfs_key=$(cat "$here/packages.txt" "$here/build.sh" "$here/../../debian.sh" "$npm/package.json" | digest)
rootfs=$cache/rootfs-$rootfs_key
if [ ! -d "$rootfs" ]; then
  mkdir "$work/rootfs"
  build_rootfs "$work/rootfs"
  mv "$work/rootfs" "$rootfs"
fi

node "$repository/packages/guest-agent/build.ts" "$work/agent.cjs"
agent_key=$( (cat "$work/agent.cjs" "$repository"/packages/guest-agent/guest/* "$repository/packages/guest-agent/package.json" "$here/init" "$here/supervise" "$here/manifest.ts"; echo "$rootfs_key") | digest)
built=$cache/image-$agent_key
if [ -f "$built" ] && [ -d "$images/$(cat "$built")" ] && [ "$(readlink "$images/$template" || true)" = "$(cat "$built")" ]; then
  say "image $template is current ($(cut -c1-12 "$built"))"
  exit 0
fi

say "packing the initramfs with the guest agent"
initrd=$work/initrd
mkdir -p "$initrd/bin" "$initrd/torpor" "$work/out"
cp "$rootfs/initrd-parts/busybox" "$initrd/bin/"
cp -r "$rootfs/initrd-parts/modules" "$initrd/modules"
install -m 755 "$here/init" "$initrd/init"
install -m 755 "$here/supervise" "$initrd/torpor/"
cp "$work/agent.cjs" "$initrd/torpor/agent.cjs"
cp "$repository"/packages/guest-agent/guest/*.{py,cjs} "$initrd/torpor/"
find "$initrd" -exec touch -h -d @0 {} +
(cd "$initrd" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) > "$work/out/initrd"
cp --reflink=auto --sparse=always "$rootfs/rootfs.ext4" "$rootfs/kernel" "$work/out/"

say "writing the manifest"
sha256=$(node "$here/manifest.ts" "$work/out" "$template")
if [ ! -d "$images/$sha256" ]; then
  chmod 0444 "$work"/out/*
  chmod 0755 "$work/out"
  sync -f "$work/out"
  mv "$work/out" "$images/$sha256"
fi
ln -sfn "$sha256" "$work/link"
mv -T "$work/link" "$images/$template"
echo "$sha256" > "$built"
say "image $template is ready ($(echo "$sha256" | cut -c1-12), $(du -sh "$images/$sha256" | cut -f1) on disk)"
