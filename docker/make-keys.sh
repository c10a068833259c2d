#!/usr/bin/env bash
# Makes the secrets that docker/compose.yaml needs, each once: secrets/ beside this file, and .env with the digest of the base image.
# What is there already stays as it is. To make all anew: remove the folder, and the volume of the database with it.
# The key that signs evidence is not among them, nor is the example's: prepare.sh makes those in the image. A guard takes a key file
# only if its owner alone can read it, and what is handed over from here keeps the owner that it has on this machine.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

# Nobody else gets into the folder. The files in it are readable by all, since each container, which sees one file and not the
# folder, runs as a user of its own.
mkdir -p secrets
chmod 700 secrets

random() { # a random number of so many bytes, in hexadecimal
  od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

keep() { # file: writes standard input there, whole or not at all, unless the file exists
  if [ -e "secrets/$1" ]; then
    cat >/dev/null
    return
  fi
  rm -f "secrets/.$1.tmp"
  cat >"secrets/.$1.tmp"
  chmod 444 "secrets/.$1.tmp"
  mv "secrets/.$1.tmp" "secrets/$1"
  echo "made $(basename "$PWD")/secrets/$1"
}

random 24 | keep postgres_password
random 16 | keep admin_password
random 24 | keep service_password
random 32 | keep api_secret_key
random 64 | keep jwt_secret
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' | keep fernet_key
random 24 | keep redis_password
password=$(cat secrets/redis_password)
printf 'redis://:%s@redis:6379/0' "$password" | keep broker_url
printf 'redis://:%s@redis:6379/1' "$password" | keep result_backend
printf 'requirepass %s\nbind 0.0.0.0\nprotected-mode yes\nsave ""\nappendonly no\ndir /data\n' "$password" | keep redis.conf
printf 'postgresql+psycopg2://airflow:%s@postgres:5432/airflow' "$(cat secrets/postgres_password)" | keep sql_alchemy_conn

if [ ! -e .env ]; then
  base=${BASE_IMAGE:-docker.io/library/python:3.11-slim-bookworm}
  digest=${BASE_DIGEST:-$(docker buildx imagetools inspect "$base" --format '{{.Manifest.Digest}}' || true)}
  if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "the digest of $base could not be looked up; run this again as BASE_DIGEST=sha256:… $0" >&2
    exit 1
  fi
  printf 'BASE_IMAGE=%s\nBASE_DIGEST=%s\n' "$base" "$digest" >.env.tmp
  mv .env.tmp .env
  echo "made $(basename "$PWD")/.env: $base is pinned to $digest"
fi
if [ -d ../dags ] && [ -n "$(find ../dags '(' -type d ! -perm -o=rx ')' -o '(' -type f ! -perm -o=r ')' | head -n 1)" ]; then
  echo "the containers' user cannot read all of dags/; run: chmod -R go+rX dags" >&2
fi
echo "ready: docker compose -f $(basename "$PWD")/compose.yaml up --build --wait; sign in as admin with the password in $(basename "$PWD")/secrets/admin_password"
