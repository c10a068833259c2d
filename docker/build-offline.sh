#!/usr/bin/env bash
# Builds docker/Dockerfile for real where no container registry and no Docker engine can be reached: with buildah, as root, on a
# Debian base that mmdebstrap puts together (Debian: apt-get install buildah mmdebstrap). Prints the image's name, or, with a folder
# as argument, unpacks the image there. A package index other than PyPI is taken from pip's own configuration.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
buildah() { command buildah --storage-driver vfs "$@"; }

if ! buildah inspect --type image localhost/pipesec-base:bookworm >/dev/null 2>&1; then
  echo "making a base" >&2
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$scratch/base.tar"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$scratch/base.tar" / >/dev/null
  buildah commit --quiet --rm "$container" localhost/pipesec-base:bookworm >/dev/null
fi
digest=$(buildah inspect --type image --format '{{.FromImageDigest}}' localhost/pipesec-base:bookworm)

# pip's settings, without what leads to files of this machine that the build does not see.
python3 -m pip config list 2>/dev/null | sed -nE "s/^(global|user|:env:)\.(index-url|timeout|default-timeout)='(.*)'\$/\2 = \3/p" >"$scratch/settings"
{ echo "[global]"; cat "$scratch/settings"; echo "cert = /etc/ssl/certs/ca-certificates.crt"; } >"$scratch/pip.conf"
certificates=(--volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro)

echo "building on $digest" >&2
buildah build --isolation chroot --network host --pull-never --layers=false --quiet --format docker \
  --build-arg BASE_IMAGE=localhost/pipesec-base --build-arg "BASE_DIGEST=$digest" \
  --secret "id=pip.conf,src=$scratch/pip.conf" "${certificates[@]}" \
  --ignorefile .dockerignore -f docker/Dockerfile -t localhost/airflow-pipesec:offline . >&2
if [ -n "$target" ]; then
  container=$(buildah from --pull-never localhost/airflow-pipesec:offline)
  mount=$(buildah mount "$container")
  mkdir -p "$target"
  cp -a "$mount/." "$target/"
  buildah umount "$container" >/dev/null
  buildah rm "$container" >/dev/null
fi
echo localhost/airflow-pipesec:offline
