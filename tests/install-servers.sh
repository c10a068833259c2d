#!/usr/bin/env bash
# Installs what the tests need beyond Python packages, where that can be done: as root on Debian or its kin. Otherwise it says what
# is missing, and the tests that need it skip (or fail, with PIPESEC_REQUIRE_SERVERS=1).
set -euo pipefail

have_chromium() { command -v chromium >/dev/null || command -v google-chrome >/dev/null; }
have_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

compose=/usr/local/lib/docker/cli-plugins/docker-compose
have_compose() { docker compose version >/dev/null 2>&1 || [ -x "$compose" ]; }

# The plugin for Docker's compose files, from Debian 13 or newer where this one has only its forerunner. It is unpacked, not
# installed: nothing else of that release comes in.
install_compose() {
  local scratch options mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | head -n 1)
  [ -n "$mirror" ] || { echo "could not be installed: docker compose (no mirror of Debian is set up)"; return; }
  scratch=$(mktemp -d)
  chmod 755 "$scratch"
  mkdir -p "$scratch/lists" "$scratch/cache"
  echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '"$mirror trixie main" >"$scratch/sources.list"
  options=(-o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$scratch/lists" -o "Dir::Cache=$scratch/cache")
  (
    cd "$scratch"
    apt-get "${options[@]}" update -qq
    apt-get "${options[@]}" download -qq docker-compose
    dpkg-deb --extract docker-compose_*.deb unpacked
    install -D -m 755 unpacked/usr/libexec/docker/cli-plugins/docker-compose "$compose"
  ) >/dev/null 2>&1 || echo "could not be installed: docker compose"
  rm -rf "$scratch"
}

wanted=()
command -v jq >/dev/null || wanted+=(jq)
command -v openssl >/dev/null || wanted+=(openssl)
have_postgresql || wanted+=(postgresql)
have_chromium || wanted+=(chromium)
command -v age >/dev/null || wanted+=(age)
command -v mkfs.btrfs >/dev/null || wanted+=(btrfs-progs)
if [ "$(id -u)" = 0 ] && command -v dpkg-deb >/dev/null && ! have_compose; then
  echo "installing for the tests: docker compose"
  install_compose
fi
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
