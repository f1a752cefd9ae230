# Sourced by the scripts that build Debian trees. They set `suite` and `cache` first.

# A directory for what is being made; gone with the script, however it ends.
make_work_directory() {
  work=$(mktemp -d "$cache/work.XXXXXX")
  trap 'rm -rf --one-file-system "$work"' EXIT
  trap 'exit 1' INT TERM
}

# Lines for a sources.list, into $1: apt's own sources of this machine, the Debian ones alone, or TORPOR_IMAGE_MIRROR.
write_sources() {
  if [ -n "${TORPOR_IMAGE_MIRROR:-}" ]; then
    echo "deb $TORPOR_IMAGE_MIRROR $suite main" > "$1"
    return
  fi
  # shellcheck disable=SC2016 # apt fills these in
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' \
    | awk -v suite="$suite" '$4 == "Debian" && ($2 == suite || $2 == suite "-security" || $2 == suite "-updates") && $3 == "main" { print "deb", $1, $2, $3 }' | sort -u > "$1"
  [ -s "$1" ] || { echo "apt knows no Debian $suite packages: run 'apt-get update', or set TORPOR_IMAGE_MIRROR" >&2; exit 1; }
}
