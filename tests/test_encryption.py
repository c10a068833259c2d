"""Encryption at rest: what is encrypted passes with its reason, what is not fails, and no tampered file yields plaintext."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pipesec.age import Identity, new_identity
from airflow_pipesec.checks.devices import Machine
from airflow_pipesec.checks.encryption import decrypt, encrypt, encrypted_locally
from airflow_pipesec.cli import main
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.operators import DecryptArtifactOperator, EncryptArtifactOperator, EncryptionAtRestOperator
from airflow_pipesec.storage import LocalStore
from tests.conftest import RunTask

US = new_identity()
FILES = {"a.csv": b"1,2\n" * 9000, "deep/empty": b"", "deep/b.bin": bytes(70_000)}


def build(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return build(tmp_path / "plain", FILES)


@pytest.fixture
def sealed(plain: Path, tmp_path: Path) -> Path:
    assert not bad(sealing(plain, tmp_path / "sealed"))
    return tmp_path / "sealed"


def sealing(source: Path, target: Path, *identities: Identity) -> list[Finding]:
    return list(encrypt(LocalStore(source), LocalStore(target), [identity.recipient for identity in identities or (US,)]))


def opening(source: Path, target: Path, *identities: Identity) -> list[Finding]:
    return list(decrypt(LocalStore(source), LocalStore(target), identities or (US,)))


def at_rest(path: Path, machine: Machine | None = None) -> list[Finding]:
    return list(encrypted_locally(LocalStore(path), machine=machine))


def bad(findings: list[Finding]) -> Counter[tuple[str, str]]:
    assert findings, "silence"
    return Counter((f.control.id, f.status.value) for f in findings if f.status in (Status.FAIL, Status.ERROR))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- encrypt, decrypt


def test_a_tree_comes_back_as_it_was(plain: Path, sealed: Path, tmp_path: Path) -> None:
    assert set(contents(sealed)) == {f"{name}.age" for name in FILES}
    assert not any(FILES["a.csv"][:40] in data for data in contents(sealed).values())
    assert not bad(opening(sealed, tmp_path / "back"))
    assert contents(tmp_path / "back") == FILES
    assert contents(plain) == FILES


def test_each_of_several_holders_can_decrypt_and_nobody_else(plain: Path, tmp_path: Path) -> None:
    ours, theirs, stranger = new_identity(), new_identity(), new_identity()
    sealing(plain, tmp_path / "sealed", ours, theirs)
    for number, identity in enumerate((ours, theirs)):
        assert not bad(opening(tmp_path / "sealed", tmp_path / f"back{number}", identity))
    assert bad(opening(tmp_path / "sealed", tmp_path / "never", stranger)) == {("ciphertext-authentic", "fail"): 3}
    assert not (tmp_path / "never").exists() or not contents(tmp_path / "never")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_tampered_file_never_yields_plaintext_at_its_place(tmp_path: Path, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([0, 1, 65535, 65536, 65537, 131072, 200_000]))
    (tmp_path / "x").write_bytes(random.Random(size).randbytes(size))
    sealing(tmp_path / "x", tmp_path / "x.age")
    whole = (tmp_path / "x.age").read_bytes()
    header = whole.index(b"\n---") + 49
    chunk, kind = 65536 + 16, data.draw(st.sampled_from(["flip", "cut", "extend", "swap", "drop"]))
    if kind == "flip":
        place = data.draw(st.integers(0, len(whole) - 1))
        changed = bytearray(whole)
        changed[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        changed = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "extend":
        changed = bytearray(whole + data.draw(st.binary(min_size=1, max_size=40)))
    else:
        first, second = header + 16, header + 16 + chunk
        one, two = whole[first:second], whole[second : second + chunk]
        middle = two + one if kind == "swap" else two
        changed = bytearray(whole[:first] + middle + whole[first + len(one) + len(two) :])
    if bytes(changed) == whole:
        return
    (tmp_path / "y.age").write_bytes(changed)
    (tmp_path / "y").write_bytes(b"what was there before")
    findings = opening(tmp_path / "y.age", tmp_path / "y")
    assert bad(findings) == {("ciphertext-authentic", "fail"): 1}, kind
    assert (tmp_path / "y").read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.age", "y", "y.age"]


def test_a_doubtful_artifact_is_not_encrypted(plain: Path, tmp_path: Path) -> None:
    (plain / "link").symlink_to("a.csv")
    assert bad(sealing(plain, tmp_path / "sealed")) == {("artifact-encrypted", "fail"): 1}
    assert not (tmp_path / "sealed").exists()


def test_a_file_put_beside_encrypted_ones_is_a_finding(sealed: Path, tmp_path: Path) -> None:
    (sealed / "planted.pkl").write_bytes(b"x")
    (sealed / ".age").write_bytes(b"x")
    assert bad(opening(sealed, tmp_path / "back")) == {("ciphertext-authentic", "fail"): 2}


def test_neither_form_replaces_the_other(plain: Path) -> None:
    for target in (plain, plain / "inside"):
        with pytest.raises(ConfigurationError, match="lies in what is read"):
            sealing(plain, target)


def test_what_is_not_there_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty"):
        assert bad(sealing(tmp_path / place, tmp_path / "x")) == {("storage-looked-at", "fail"): 1}
        assert bad(opening(tmp_path / place, tmp_path / "x")) == {("storage-looked-at", "fail"): 1}
        assert bad(at_rest(tmp_path / place)) == {("storage-looked-at", "fail"): 1}


def test_the_plain_form_is_deleted_only_when_asked_for_and_everything_is_encrypted(plain: Path, tmp_path: Path) -> None:
    us = [US.recipient]
    (finding,) = encrypt(LocalStore(plain), LocalStore(tmp_path / "sealed"), us, remove_source=True)
    assert "the plain form was deleted" in finding.message
    assert not contents(plain)
    assert not bad(opening(tmp_path / "sealed", tmp_path / "back"))
    (tmp_path / "back/link").symlink_to("a.csv")
    assert bad(list(encrypt(LocalStore(tmp_path / "back"), LocalStore(tmp_path / "no"), us, remove_source=True)))
    assert contents(tmp_path / "back").keys() >= FILES.keys()
    with pytest.raises(ConfigurationError, match="remove_source"):
        list(encrypt(LocalStore(plain), LocalStore(tmp_path / "no"), us, remove_source="False"))  # type: ignore[arg-type] # tested


# ---- the guards and the command


def test_guards_encrypt_and_decrypt_with_keys_from_airflow(
    plain: Path, tmp_path: Path, run_task: RunTask, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_KEY", json.dumps({"conn_type": "generic", "password": US.reveal()}))
    monkeypatch.setenv("AIRFLOW_VAR_MODEL_KEY", f"# a comment\n{US.reveal()}\n")
    monkeypatch.setenv("AIRFLOW_VAR_RECIPIENT", str(US.recipient))
    seal = EncryptArtifactOperator(
        task_id="e", source=str(plain), target=str(tmp_path / "sealed"), recipients="{{ dag_run.conf.recipient }}"
    )
    assert run_task(seal, conf={"recipient": str(US.recipient)}).state == "success"
    for number, identity in enumerate(("connection:model_key", "variable:model_key")):
        opened = tmp_path / f"back{number}"
        ran = run_task(
            DecryptArtifactOperator(task_id="d", source=str(tmp_path / "sealed"), target=str(opened), identity=identity)
        )
        assert ran.state == "success"
        assert contents(opened) == FILES
    for identity in ("connection:nowhere", US.reveal(), "file:/nowhere"):
        ran = run_task(
            DecryptArtifactOperator(task_id="x", source=str(tmp_path / "sealed"), target=str(tmp_path / "no"), identity=identity)
        )
        assert ran.state in ("failed", "up_for_retry")
        assert US.reveal()[20:] not in str(ran) + repr(ran.error)
    assert US.reveal()[20:] not in "".join(capfd.readouterr())
    assert (
        run_task(EncryptionAtRestOperator(task_id="r", targets=str(tmp_path / "sealed"), trust_device=False)).state == "success"
    )
    assert run_task(EncryptionAtRestOperator(task_id="s", targets=[str(plain)], trust_device=False)).state == "failed"
    assert run_task(EncryptionAtRestOperator(task_id="t", targets=str(plain), trust_device="False")).state == "failed"


def test_the_command_makes_a_key_encrypts_and_decrypts(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out

    code, recipient = run("keygen", "-o", tmp_path / "key")
    assert code == 0
    assert run("keygen", "-o", tmp_path / "key")[0] == 2
    assert run("encrypt", plain, "-o", tmp_path / "sealed", "-r", recipient.strip())[0] == 0
    assert run("decrypt", tmp_path / "sealed", "-o", tmp_path / "back", "-i", f"file:{tmp_path}/key")[0] == 0
    assert contents(tmp_path / "back") == FILES
    (tmp_path / "sealed/a.csv.age").write_bytes(b"age-encryption.org/v1\n")
    code, out = run("decrypt", tmp_path / "sealed", "-o", tmp_path / "again", "-i", f"file:{tmp_path}/key", "--json")
    assert (code, json.loads(out)["blocking_controls"]) == (1, ["ciphertext-authentic"])
    assert run("decrypt", tmp_path / "sealed", "-o", tmp_path / "no", "-i", "env:NOT_SET")[0] == 2


# ---- at rest: files


PLAIN_DISK = Machine()


def recorded(tmp_path: Path, number: str, *, kind: str = "ext4", source: str = "/dev/vda1", point: str = "/") -> Machine:
    """A machine on which the device of these tests' files is what the test says."""
    root = tmp_path / "machine"
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(f"22 1 {number} / {point} rw,relatime shared:1 - {kind} {source} rw\n")
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/class/block").mkdir(parents=True)
    return Machine(root)


def device(
    machine: Machine, name: str, number: str, *, parent: str = "", uuid: str = "", dm_name: str = "", slaves: tuple[str, ...] = ()
) -> None:
    """Lay out a block device as Linux does: its folder under devices, and links to it by number and by name."""
    folder = machine.root / "sys/devices/virtual/block" / parent / name
    (folder / "slaves").mkdir(parents=True)
    (folder / "dev").write_text(number + "\n")
    if parent:
        (folder / "partition").write_text("1\n")
    if uuid:
        (folder / "dm").mkdir()
        (folder / "dm/uuid").write_text(uuid + "\n")
        (folder / "dm/name").write_text(dm_name + "\n")
    for slave in slaves:
        (target,) = (machine.root / "sys/devices/virtual/block").rglob(slave + "/dev")
        (folder / "slaves" / slave).symlink_to(target.parent)
    (machine.root / "sys/dev/block" / number).symlink_to(folder)
    (machine.root / "sys/class/block" / name).symlink_to(folder)


@pytest.fixture
def number(tmp_path: Path) -> str:
    """The number of the device that the tests' files really lie on."""
    status = tmp_path.stat().st_dev
    return f"{os.major(status)}:{os.minor(status)}"


def verdict(path: Path, machine: Machine) -> tuple[str, str]:
    (finding,) = [f for f in at_rest(path, machine) if f.control.id == "encrypted-at-rest"]
    return finding.status.value, finding.message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"plain")
    return tmp_path / "file"


LUKS = "CRYPT-LUKS2-1f0d7a52-data"


@pytest.mark.parametrize(
    ("uuid", "status"),
    [
        ("CRYPT-LUKS1-1f0d7a52-data", "pass"),
        (LUKS, "pass"),
        ("CRYPT-PLAIN-data", "pass"),
        ("CRYPT-VERITY-1f0d7a52-data", "fail"),
        ("CRYPT-INTEGRITY-data", "fail"),
        ("LVM-1f0d7a52", "fail"),
        ("mpath-1f0d7a52", "fail"),
    ],
)
def test_a_device_is_encrypted_by_dm_crypt_and_by_nothing_that_only_sounds_like_it(
    file: Path, tmp_path: Path, number: str, uuid: str, status: str
) -> None:
    machine = recorded(tmp_path, number, source="/dev/mapper/data")
    device(machine, "vda", "254:9999")
    device(machine, "dm-0", number, uuid=uuid, dm_name="data", slaves=("vda",))
    assert verdict(file, machine)[0] == status


def test_a_volume_on_encrypted_disks_is_encrypted_when_all_of_them_are(file: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number, source="/dev/mapper/vg-data")
    device(machine, "vda", "8:1")
    device(machine, "vdb", "8:2")
    device(machine, "dm-1", "253:1", uuid=LUKS, dm_name="one", slaves=("vda",))
    device(machine, "dm-2", "253:2", uuid=LUKS, dm_name="two", slaves=("vdb",))
    device(machine, "dm-0", number, uuid="LVM-x", dm_name="vg-data", slaves=("dm-1", "dm-2"))
    assert verdict(file, machine)[0] == "pass"
    shutil.rmtree(machine.root / "sys/devices/virtual/block/dm-2/dm")
    status, text = verdict(file, machine)
    assert (status, "nothing encrypts vdb" in text) == ("fail", True)


def test_a_partition_is_as_good_as_its_disk(file: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number)
    device(machine, "vda", "8:1")
    device(machine, "vda1", number, parent="vda")
    status, text = verdict(file, machine)
    assert (status, "nothing encrypts vda" in text) == ("fail", True)


@pytest.mark.parametrize("kind", ["overlay", "nfs4", "fuse.sshfs", "xfs"])
def test_what_cannot_be_seen_is_an_error_and_no_pass(file: Path, tmp_path: Path, number: str, kind: str) -> None:
    assert verdict(file, recorded(tmp_path, number, kind=kind, source="none"))[0] == "error"


def test_memory_is_not_encrypted(file: Path, tmp_path: Path, number: str) -> None:
    assert verdict(file, recorded(tmp_path, number, kind="tmpfs", source="tmpfs"))[0] == "fail"


def test_every_disk_of_a_btrfs_counts(file: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, "0:77", kind="btrfs", source="/dev/mapper/one")
    (machine.root / "proc/self/mountinfo").write_text(f"22 1 {number} / / rw - btrfs /dev/mapper/one rw\n")
    device(machine, "vda", "8:1")
    device(machine, "vdb", "8:2")
    device(machine, "dm-1", "253:1", uuid=LUKS, dm_name="one", slaves=("vda",))
    members = machine.root / "sys/fs/btrfs/1f0d7a52/devices"
    members.mkdir(parents=True)
    (members / "dm-1").symlink_to(machine.root / "sys/devices/virtual/block/dm-1")
    assert verdict(file, machine)[0] == "pass"
    (members / "vdb").symlink_to(machine.root / "sys/devices/virtual/block/vdb")
    assert verdict(file, machine)[0] == "fail"


@pytest.mark.parametrize(
    ("answer", "status"),
    [("aes-256-gcm", "pass"), ("off", "fail"), ("-", "error"), ("aes-256-gcm; rm", "error"), (None, "error")],
)
def test_zfs_is_asked(
    file: Path, tmp_path: Path, number: str, monkeypatch: pytest.MonkeyPatch, answer: str | None, status: str
) -> None:
    machine = recorded(tmp_path, number, kind="zfs", source="tank/data")
    tools = tmp_path / "bin"
    tools.mkdir()
    if answer is not None:
        script = f'#!/bin/sh\n[ "$*" = "get -H -p -o value encryption tank/data" ] || exit 1\necho "{answer}"\n'
        (tools / "zfs").write_text(script)
        (tools / "zfs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert verdict(file, machine)[0] == status


def test_age_files_are_encrypted_on_any_disk(sealed: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number)
    device(machine, "vda", number)
    (finding,) = at_rest(sealed, machine)
    assert (finding.status, finding.count) == (Status.PASS, 3)
    assert "age format, recipients of kind X25519" in finding.message
    (sealed / "clear").write_bytes(b"x")
    assert bad(at_rest(sealed, machine)) == {("encrypted-at-rest", "fail"): 1}


@pytest.mark.parametrize("kind", ["cut", "extended", "fake", "header only"])
def test_what_only_looks_like_age_is_not(plain: Path, tmp_path: Path, number: str, kind: str) -> None:
    machine = recorded(tmp_path, number)
    device(machine, "vda", number)
    sealing(plain / "a.csv", tmp_path / "x.age")
    whole = (tmp_path / "x.age").read_bytes()
    header = whole.index(b"\n---") + 49
    cut = header + 16 + 10
    changed = {
        "cut": whole[:cut],
        "extended": whole + b"x" * 65552,
        "fake": whole[:header] + (b"1,2,3\n" * len(whole))[: len(whole) - header],
        "header only": whole[:header],
    }[kind]
    (tmp_path / "x.age").write_bytes(changed)
    assert verdict(tmp_path / "x.age", machine)[0] == "fail"


def test_a_link_a_pipe_and_an_unreadable_file_are_no_pass(plain: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number)
    device(machine, "dm-0", number, uuid=LUKS, dm_name="data")
    (plain / "link").symlink_to("/etc/hostname")
    os.mkfifo(plain / "pipe")
    assert bad(at_rest(plain, machine)) == {("storage-looked-at", "fail"): 2}


def test_a_tree_of_empty_files_was_not_examined(tmp_path: Path) -> None:
    build(tmp_path / "empty", {"a": b"", "b": b""})
    assert bad(at_rest(tmp_path / "empty")) == {("storage-looked-at", "fail"): 1}


def test_fscrypt_on_a_real_file_system(tmp_path: Path) -> None:
    """On a loop device, by the kernel's own interface (fscrypt, policy v2)."""
    import fcntl
    import struct

    if os.geteuid() or not shutil.which("mkfs.ext4") or not Path("/dev/loop-control").exists():
        pytest.skip("needs root, mkfs.ext4 and loop devices")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    image.touch()
    os.truncate(image, 64 << 20)
    if subprocess.run(["mkfs.ext4", "-q", "-O", "encrypt", image], check=False).returncode:
        pytest.skip("mkfs.ext4 makes no file system that can encrypt")
    if subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        key = os.urandom(64)
        argument = bytearray(struct.pack("<II32sII32s", 2, 0, b"", len(key), 0, b"") + key)
        top = os.open(mount, os.O_RDONLY)
        try:
            fcntl.ioctl(top, 0xC0506617, argument, True)  # FS_IOC_ADD_ENCRYPTION_KEY
        except OSError as error:
            pytest.skip(f"the kernel knows no fscrypt: {error.strerror}")
        finally:
            os.close(top)
        (mount / "sealed").mkdir()
        folder = os.open(mount / "sealed", os.O_RDONLY)
        policy = bytearray(struct.pack("<BBBB4s16s", 2, 1, 4, 3, b"", bytes(argument[8:24])))
        fcntl.ioctl(folder, 0x800C6613, policy)  # FS_IOC_SET_ENCRYPTION_POLICY
        os.close(folder)
        (mount / "sealed/a").write_bytes(b"x" * 5000)
        (mount / "clear").write_bytes(b"x" * 5000)
        assert [(f.status, f.message) for f in at_rest(mount / "sealed")] == [(Status.PASS, "1 file: fscrypt encrypts the file")]
        assert bad(at_rest(mount / "clear"))
    finally:
        subprocess.run(["umount", mount], check=True)


def test_luks_on_a_real_loop_device(tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("cryptsetup") or not Path("/dev/mapper/control").exists():
        pytest.skip("needs root, cryptsetup and the kernel's device mapper")
    image, key, mount = tmp_path / "image", tmp_path / "key", tmp_path / "mount"
    image.touch()
    os.truncate(image, 64 << 20)
    key.write_bytes(os.urandom(64))
    mount.mkdir()
    name = f"pipesec-test-{os.getpid()}"
    quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    made = subprocess.run(["cryptsetup", "-q", "luksFormat", *quick, image, key], check=False, capture_output=True)
    if (
        made.returncode
        or subprocess.run(["cryptsetup", "open", "-d", key, image, name], check=False, capture_output=True).returncode
    ):
        pytest.skip("the kernel has no dm-crypt")
    try:
        subprocess.run(["mkfs.ext4", "-q", f"/dev/mapper/{name}"], check=True)
        subprocess.run(["mount", f"/dev/mapper/{name}", mount], check=True)
        try:
            (mount / "a").write_bytes(b"x")
            (finding,) = at_rest(mount / "a")
            assert finding.status is Status.PASS
            assert "dm-crypt (LUKS2)" in finding.message
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        subprocess.run(["cryptsetup", "close", name], check=True)
