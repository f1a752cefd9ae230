#!/usr/bin/env bash
# Builds the disk of the lab machine, a Debian 12 as an operator would rent it: kernel (from
# backports, as docs/operate/hosts.md advises; the default one if the mirror has none), initramfs,
# root file system, and the keys for logging in.
#
#   build.sh <cacheDir>
#
# The result is <cacheDir>/machine-<digest of the inputs>/ with kernel, initrd, root.ext4,
# id_ed25519 and known_hosts, and the link <cacheDir>/machine. If nothing changed, the script
# returns at once. Needs root, mmdebstrap, mkfs.ext4, cpio, kmod, xz and ssh-keygen. Packages come
# from the sources of this machine's own apt, or from TORPOR_IMAGE_MIRROR.
set -euo pipefail

suite=bookworm
root_size_mib=3072
here=$(cd "$(dirname "$0")" && pwd)
cache=$(mkdir -p "${1:?usage: build.sh <cacheDir>}" && cd "$1" && pwd)
started=$SECONDS
say() { printf '  [%3ds] %s\n' "$((SECONDS - started))" "$*"; }

for tool in mmdebstrap mkfs.ext4 cpio depmod modprobe ssh-keygen unxz; do
  command -v "$tool" > /dev/null || { echo "the lab image needs $tool: run ./torpor, which installs it, or install it yourself" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "the lab image must be built as root, because it makes a root file system: run this again with sudo" >&2; exit 1; }

key=$(cat "$here/packages.txt" "$here/build.sh" "$here/init" "$here/../debian.sh" | sha256sum | cut -c1-16)
target=$cache/machine-$key
point() { ln -sfnT "machine-$key" "$cache/machine"; }
if [ -d "$target" ]; then
  point
  say "the lab machine is current ($key)"
  exit 0
fi

# shellcheck source=../debian.sh
source "$here/../debian.sh"
make_work_directory

# Adds the backports of the first mirror that has them. Uses apt for the request: apt may know a
# proxy.
add_backports() { # to the file $1
  local uri
  for uri in $(awk '$1 == "deb" { print $2 }' "$1" | sort -u); do
    /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "${uri%/}/dists/$suite-backports/InRelease" "$work/backports" > "$work/apt-helper.log" 2>&1 || continue
    echo "deb $uri $suite-backports main" >> "$1"
    return
  done
  say "no mirror has $suite-backports: the kernel is Debian's 6.1, which cannot do what Cloud Hypervisor asks of landlock"
}

# Run in the tree: downloads the newest kernel of the backports, or else of the suite itself, and a
# busybox, into /tmp.
# shellcheck disable=SC2016 # the tree's shell expands it
download_kernel='cd /tmp
version=$(apt-cache madison linux-image-amd64 | awk "{ print \$3 }" | grep "bpo" | head -1)
[ -n "$version" ] || version=$(apt-cache madison linux-image-amd64 | awk "{ print \$3 }" | head -1)
apt-get -qq download busybox-static "$(apt-cache show "linux-image-amd64=$version" | sed -n "s/^Depends: \(linux-image-[^ ,]*\).*/\1/p")"'

unpack_packages() { # into $1; kernel and busybox as files into $work/debs
  write_sources "$work/sources.list"
  add_backports "$work/sources.list"
  say "unpacking Debian packages: $(paste -sd' ' "$here/packages.txt")"
  # The kernel is only unpacked: its installation would make another initramfs, which takes minutes.
  # shellcheck disable=SC2016 # $1 is the hook's
  DOWNLOAD_KERNEL=$download_kernel mmdebstrap --quiet --mode=root --variant=apt --include="$(paste -sd, "$here/packages.txt")" \
    --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='force-unsafe-io' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --setup-hook="$mirror_lists" \
    --customize-hook='chroot "$1" sh -ec "$DOWNLOAD_KERNEL"' \
    --customize-hook="mkdir -p '$work/debs' && mv \"\$1\"/tmp/*.deb '$work/debs/'" \
    "$suite" "$1" "$work/sources.list" > "$work/mmdebstrap.log" 2>&1 || { tail -20 "$work/mmdebstrap.log" >&2; exit 1; }
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/extracted"; done
  version=$(ls "$work/extracted/lib/modules")
  # Newer kernels have compressed modules, which busybox cannot load.
  find "$work/extracted/lib/modules" -name '*.ko.xz' -exec unxz {} +
  depmod -b "$work/extracted" "$version"
  # Drivers without a device in a virtual machine: most of the size.
  rm -rf "$work/extracted/lib/modules/$version"/kernel/{sound,drivers/{gpu,media,infiniband,staging,iio,bluetooth,isdn,usb,hid,input/touchscreen,scsi,ata,mtd}}
  rm -rf "$work/extracted/lib/modules/$version"/kernel/drivers/net/{wireless,ethernet,can,usb}
  depmod -b "$work/extracted" "$version"
  cp -a "$work/extracted/lib/modules" "$1/usr/lib/"
}

configure() { # the tree $1, as an installer would
  local tree=$1 unit
  rm -rf "$tree"/var/cache/apt/*.bin "$tree"/var/log/*.log
  echo lab > "$tree/etc/hostname"
  printf '127.0.0.1 localhost lab\n' > "$tree/etc/hosts"
  echo "nameserver 192.168.76.3" > "$tree/etc/resolv.conf"
  # The initramfs has mounted the root disk; systemd would wait for a line about it here.
  : > "$tree/etc/fstab"
  : > "$tree/etc/machine-id"
  # Not needed here, and each unit adds seconds to an emulated boot.
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service getty@tty1.service \
    serial-getty@ttyS0.service systemd-pstore.service systemd-binfmt.service systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-journal-flush.service systemd-machine-id-commit.service systemd-firstboot.service systemd-sysusers.service systemd-hwdb-update.service ldconfig.service \
    systemd-journal-catalog-update.service systemd-update-done.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    systemd-logind.service systemd-user-sessions.service kmod-static-nodes.service modprobe@.service systemd-remount-fs.service systemd-tmpfiles-clean.timer \
    console-getty.service systemd-ask-password-console.path systemd-ask-password-wall.path; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
  done
  mkdir -p "$tree/etc/systemd/journald.conf.d" "$tree/root/.ssh" "$tree/var/lib/torpor" "$tree/mnt/payload" "$tree/mnt/image"
  ln -sfn /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
  printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\n' > "$tree/etc/systemd/journald.conf.d/lab.conf"
  # Reachable on a loopback port of the machine that emulates this one, only with this key.
  rm -f "$tree"/etc/ssh/ssh_host_*
  ssh-keygen -q -t ed25519 -N "" -C lab -f "$tree/etc/ssh/ssh_host_ed25519_key"
  ssh-keygen -q -t ed25519 -N "" -C torpor-lab -f "$work/out/id_ed25519"
  install -m 600 "$work/out/id_ed25519.pub" "$tree/root/.ssh/authorized_keys"
  chmod 700 "$tree/root/.ssh"
  printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\nUsePAM no\nUseDNS no\nPrintMotd no\n' > "$tree/etc/ssh/sshd_config.d/lab.conf"
  echo "lab $(cut -d' ' -f1,2 "$tree/etc/ssh/ssh_host_ed25519_key.pub")" > "$work/out/known_hosts"
}

pack_initrd() { # into $1
  local initrd=$work/initrd module path
  mkdir -p "$initrd/bin" "$initrd/modules"
  cp "$work/extracted/bin/busybox" "$initrd/bin/"
  install -m 755 "$here/init" "$initrd/init"
  for module in virtio_pci virtio_blk virtio_net virtio_rng ext4; do
    modprobe -C /dev/null -d "$work/extracted" -S "$version" --show-depends "$module" | sed -n 's/^insmod \(.*\.ko[.a-z]*\).*/\1/p'
  done | awk '!seen[$0]++' > "$work/module-paths"
  while read -r path; do cp "$path" "$initrd/modules/"; basename "$path"; done < "$work/module-paths" > "$initrd/modules/order"
  (cd "$initrd" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0) > "$1"
}

mkdir "$work/out"
unpack_packages "$work/tree"
configure "$work/tree"
pack_initrd "$work/out/initrd"
cp "$work"/extracted/boot/vmlinuz-* "$work/out/kernel"
say "packing the root file system"
truncate -s "${root_size_mib}M" "$work/out/root.ext4"
mkfs.ext4 -q -F -m 0 -E lazy_itable_init=0 -L lab-root -d "$work/tree" "$work/out/root.ext4"
mv "$work/out" "$target"
point
say "the lab machine is ready ($(du -sh "$target" | cut -f1) on disk)"
