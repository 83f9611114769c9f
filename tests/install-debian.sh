#!/usr/bin/env bash
# Installs what make needs of Debian's packages and finds missing: `venv` for the demo, `test` for the test suite, and
# `browser` for the tests of pages in test-full.
# As root it installs; otherwise it says what is missing, and make goes on (the tests that need it say so too).
set -euo pipefail

missing=()
need() { # COMMAND-OR-TEST PACKAGE
  if ! bash -c "$1" > /dev/null 2>&1; then missing+=("$2"); fi
}

case "${1:-}" in
  venv) need "${PYTHON:-python3} -c 'import ensurepip, venv'" python3-venv ;;
  test)
    need "command -v shellcheck" shellcheck
    need "command -v ch-run" charliecloud
    need "command -v debootstrap" debootstrap # the image of tests/containers
    need "command -v g++" g++ # vLLM compiles for pipeline parallelism on the CPU
    need "test -x /usr/sbin/slurmctld && test -x /usr/sbin/slurmd" slurm-wlm
    need "test -x /usr/sbin/munged" munge
    need "test -x /usr/sbin/slurmdbd" slurmdbd
    need "test -x /usr/sbin/mariadbd" mariadb-server
    need "command -v kubectl" kubernetes-client
    ;;
  browser) need "command -v chromium || command -v google-chrome" chromium ;;
  *) echo "usage: $0 venv|test|browser" >&2; exit 2 ;;
esac

if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ]; then
  echo "make: not installed: ${missing[*]}: ask for 'apt-get install ${missing[*]}'" >&2
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" > /dev/null
