#!/usr/bin/env bash
# Makes the image of the container tests: Debian 13 in a folder, with its own Python (3.13) and the torch of Debian.
# Needs root, debootstrap, and a mirror of Debian; without them it says so, and the tests that need it say so too.
set -euo pipefail

image=${1:?usage: make-image.sh FOLDER}
# One of several checkouts makes it, the others have it copied by hard links.
cache=${VLLM_HPC_IMAGE_CACHE:-/var/cache/vllm-hpc-tests/trixie-torch}

if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap > /dev/null; then
  echo "make: no image for the container tests: it is made by root, with debootstrap" >&2
  exit 0
fi
mkdir -p "$(dirname "$cache")"
exec 9> "$cache.lock"
flock 9
if [ ! -e "$cache/ch/made" ]; then
  rm -rf "$cache"
  if ! debootstrap --variant=minbase --include=python3-torch trixie "$cache" > "$cache.log" 2>&1; then
    echo "make: no image for the container tests: $(tail -n 1 "$cache.log") (see $cache.log)" >&2
    rm -rf "$cache"
    exit 0
  fi
  rm -rf "$cache"/var/cache/apt/archives/*.deb "$cache"/usr/share/{doc,man,locale}/*
  mkdir -p "$cache/ch"
  printf '%s\n' 'PATH=/usr/local/bin:/usr/bin:/bin' 'OF_THE_IMAGE=yes' > "$cache/ch/environment"
  touch "$cache/ch/made"
fi
rm -rf "$image"
cp -al "$cache" "$image" 2> /dev/null || cp -a "$cache" "$image"
