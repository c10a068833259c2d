#!/usr/bin/env bash
# Installs what the tests need beyond Python packages, where that can be done: as root on Debian or its kin. Otherwise it says what
# is missing, and the tests that need it skip (or fail, with PIPESEC_REQUIRE_SERVERS=1).
set -euo pipefail

have_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

wanted=()
have_postgresql || wanted+=(postgresql)
command -v age >/dev/null || wanted+=(age)
[ "${#wanted[@]}" = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed: ${wanted[*]}; tests that need them will be skipped (Debian: apt-get install ${wanted[*]})"
  exit 0
fi
echo "installing for the tests: ${wanted[*]}"
export DEBIAN_FRONTEND=noninteractive
# Without this file the package would make and start a cluster of its own.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
apt-get update -qq >/dev/null || true
apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null || echo "could not be installed: ${wanted[*]}"
