"""Encryption against the stock ``age`` program and the bare cipher, and how many S3 objects are looked at in a minute.

Every contender reads the same file and writes to /dev/null, in a forked process of its own; see :mod:`benchmarks.hashing`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from rich.console import Console

from airflow_pipesec import age
from airflow_pipesec.checks.buckets import Wanted, encrypted_bucket
from airflow_pipesec.findings import Status
from airflow_pipesec.keys import write_identity
from airflow_pipesec.storage_remote import S3Store
from benchmarks.hashing import MIB, compare, make_file, show_goals

OBJECTS = 3000


def bare(path: Path, *, decrypt: bool = False) -> None:
    """Run the cipher over chunks of 64 KiB, with nothing else of the format: the floor."""
    cipher = ChaCha20Poly1305(bytes(32))
    size = age.CHUNK + (age.TAG if decrypt else 0)
    chunk, out = memoryview(bytearray(size)), memoryview(bytearray(age.CHUNK + age.TAG))
    with path.open("rb", buffering=0) as source, open("/dev/null", "wb", buffering=0) as sink:  # noqa: PTH123 - as is measured
        number = 0
        while count := source.readinto(chunk):
            nonce = number.to_bytes(12, "big")
            if decrypt:
                written = cipher.decrypt_into(nonce, chunk[:count], None, out[: count - age.TAG])
            else:
                written = cipher.encrypt_into(nonce, chunk[:count], None, out[: count + age.TAG])
            sink.write(out[:written])
            number += 1


def ours(path: Path, identity: age.Identity, *, decrypt: bool = False) -> None:
    with path.open("rb", buffering=0) as source, open("/dev/null", "wb", buffering=0) as sink:  # noqa: PTH123 - as above
        pieces = age.decrypted(source, [identity]) if decrypt else age.encrypted(source, [identity.recipient])
        for piece in pieces:
            sink.write(piece)


def program(*arguments: object) -> None:
    subprocess.run(["age", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--gib", type=float, default=1.0)
    options.add_argument("--rounds", type=int, default=4)
    chosen, _ = options.parse_known_args()
    console = Console(width=max(100, Console().width))
    scratch = Path(tempfile.mkdtemp(prefix="pipesec-bench-"))
    try:
        run(chosen, scratch, console)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    objects(console)


def run(chosen: argparse.Namespace, scratch: Path, console: Console) -> None:
    plain, small, sealed, bare_sealed = (scratch / name for name in ("plain", "small", "sealed", "bare"))
    make_file(plain, int(chosen.gib * 1024) * MIB)
    make_file(small, 16 * MIB)
    identity = write_identity(scratch / "key")
    with sealed.open("wb") as file, plain.open("rb", buffering=0) as source:
        for piece in age.encrypted(source, [identity.recipient]):
            file.write(piece)
    cipher = ChaCha20Poly1305(bytes(32))
    with bare_sealed.open("wb") as file, plain.open("rb") as source:
        number = 0
        while chunk := source.read(age.CHUNK):
            file.write(cipher.encrypt(number.to_bytes(12, "big"), chunk, None))
            number += 1
    stock = bool(shutil.which("age"))
    if not stock:
        console.print("age is not installed and is left out (Debian: apt-get install age)")
    rows = []
    for title, decrypt in (("Encrypt", False), ("Decrypt", True)):
        contenders = {
            "the bare cipher": lambda decrypt=decrypt: bare(bare_sealed if decrypt else plain, decrypt=decrypt),
            "ours": lambda decrypt=decrypt: ours(sealed if decrypt else plain, identity, decrypt=decrypt),
        }
        if stock:
            key = ("-d", "-i", scratch / "key", sealed) if decrypt else ("-r", identity.recipient, plain)
            contenders["age"] = lambda key=key: program(*key)
        if not decrypt:
            contenders["ours, 16 MiB"] = lambda: ours(small, identity)
        best = compare(f"{title}: {chosen.gib:g} GiB", contenders, chosen.rounds, "the bare cipher", console)
        ratio = best["ours"].cpu / best["the bare cipher"].cpu
        rows.append((f"{title.lower()}, CPU against the bare cipher", ratio, "<= 1.10", ratio <= 1.1))
        if stock:
            ratio = best["ours"].cpu / best["age"].cpu
            rows.append((f"{title.lower()}, CPU against age", ratio, "<= 1.00", ratio <= 1))
        if not decrypt:
            flat = best["ours"].memory - best["ours, 16 MiB"].memory
            rows.append(("memory beyond that for 16 MiB, MiB", flat, "< 2", flat < 2))
    show_goals(rows, console)


def objects(console: Console) -> None:
    """Look at every object of a bucket of a real server on loopback."""
    from tests.servers import seaweedfs

    with seaweedfs() as server:
        client = server.client()
        client.create_bucket(Bucket="many")
        with ThreadPoolExecutor(16) as pool:
            put = lambda number: client.put_object(  # noqa: E731 - one line less than a function of its own
                Bucket="many", Key=f"d/{number}", Body=b"x", ServerSideEncryption="AES256"
            )
            list(pool.map(put, range(OBJECTS)))
        started = time.monotonic()
        (found,) = [f for f in encrypted_bucket(S3Store("many/d", client), Wanted()) if f.control.id == "objects-encrypted"]
        seconds = time.monotonic() - started
    assert (found.status, found.count) == (Status.PASS, OBJECTS)
    rate = OBJECTS / seconds * 60
    console.print(f"S3 objects looked at: {OBJECTS:,} in {seconds:.1f} s, {rate:,.0f} a minute (goal: 5,000 or more)")


if __name__ == "__main__":
    main()
