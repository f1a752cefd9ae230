# Sourced by the scripts that build Debian trees, after they have set `suite` and `cache`.

# Makes a work directory, which is removed at every end of the script.
make_work_directory() {
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf --one-file-system "$work"' EXIT
  trap 'exit 1' INT TERM
}

# For mmdebstrap --setup-hook: sources may name a list of mirrors (mirror+file:/etc/apt/mirrors/…,
# as in Debian's cloud images), which the apt in the tree needs too.
# shellcheck disable=SC2016,SC2034 # $1 is the hook's; the scripts use it
mirror_lists='[ ! -d /etc/apt/mirrors ] || { mkdir -p "$1/etc/apt"; cp -r /etc/apt/mirrors "$1/etc/apt/"; }'

# Writes the lines of a sources.list into $1: the Debian sources of this machine's own apt, or
# TORPOR_IMAGE_MIRROR.
write_sources() {
  if [ -n "${TORPOR_IMAGE_MIRROR:-}" ]; then
    echo "deb $TORPOR_IMAGE_MIRROR $suite main" > "$1"
    return
  fi
  list_sources > "$1"
  # A new machine may have no package lists yet.
  [ -s "$1" ] || { apt-get -qq update && list_sources > "$1"; }
  [ -s "$1" ] || { echo "apt knows no Debian $suite packages: mend its sources, or set TORPOR_IMAGE_MIRROR" >&2; exit 1; }
}

list_sources() {
  # shellcheck disable=SC2016 # apt fills these in
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' \
    | awk -v suite="$suite" '$4 == "Debian" && ($2 == suite || $2 == suite "-security" || $2 == suite "-updates") && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u
}
