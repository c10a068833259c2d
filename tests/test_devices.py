"""Encryption at rest: a file passes when it, or what lies under it, is encrypted, and not when it only looks so."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_pipesec.age import payload_fits
from airflow_pipesec.checks.devices import Machine, Protection, on_device
from airflow_pipesec.checks.encryption import encrypted_locally
from airflow_pipesec.findings import Status
from airflow_pipesec.storage import LocalStore
from tests.test_encryption import FILES, at_rest, bad, build, sealing

VECTORS = Path(__file__).parent / "vectors" / "machines"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return build(tmp_path / "plain", FILES)


@pytest.fixture
def sealed(plain: Path, tmp_path: Path) -> Path:
    assert not bad(sealing(plain, tmp_path / "sealed"))
    return tmp_path / "sealed"


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


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("fuse.rclone", "/dev/mapper/data"),
        ("fuse.bindfs", "/mnt/elsewhere/dm-0"),
        ("fuse", "dm-0"),
        ("fuse.gocryptfs", "/home/sealed"),
        ("fuse.glusterfs", "host:/volume"),
        ("ecryptfs", "/dev/mapper/data"),
        ("bcachefs", "/dev/vda:/dev/mapper/data"),
    ],
)
def test_what_a_mount_calls_its_source_is_no_proof(file: Path, tmp_path: Path, number: str, kind: str, source: str) -> None:
    machine = recorded(tmp_path, number, kind=kind, source=source)
    device(machine, "vda", "8:1")
    device(machine, "dm-0", "253:1", uuid=LUKS, dm_name="data", slaves=("vda",))
    assert verdict(file, machine)[0] == "error"


def test_a_device_is_found_by_its_whole_name_alone(tmp_path: Path) -> None:
    machine = recorded(tmp_path, "0:40")
    device(machine, "vda", "8:1")
    device(machine, "cciss!c0d0", "104:0")
    device(machine, "dm-0", "253:1", uuid=LUKS, dm_name="data", slaves=("vda",))
    device(machine, "dm-1", "253:2")
    names = {
        "/dev/vda": "vda",
        "/dev/mapper/data": "dm-0",
        "/dev/dm-0": "dm-0",
        "/dev/cciss/c0d0": "cciss!c0d0",
        "/dev/mapper/vda": None,
        "/dev/mapper/dm-0": None,
        "/dev/data": None,
        "/dev/x/vda": None,
        "/dev/mapper/": None,
        "/dev/": None,
        "vda": None,
        "/mnt/dev/vda": None,
    }
    found = {source: machine.named(source) for source in names}
    assert {source: folder and folder.name for source, folder in found.items()} == names


def test_a_list_of_mounts_that_is_none_is_an_error(file: Path, tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number)
    for text in ("garbage\n", "22 1 - ext4 x\n", "\n"):
        (machine.root / "proc/self/mountinfo").write_text(text)
        assert verdict(file, machine)[0] == "error"


def test_a_subvolume_of_btrfs_has_a_number_that_no_mount_has(file: Path, tmp_path: Path) -> None:
    machine = recorded(tmp_path, "0:54", kind="btrfs", source="/dev/mapper/data")
    device(machine, "vda", "8:1")
    device(machine, "dm-0", "253:1", uuid=LUKS, dm_name="data", slaves=("vda",))
    members = machine.root / "sys/fs/btrfs/1f0d7a52/devices"
    members.mkdir(parents=True)
    (members / "dm-0").symlink_to(machine.root / "sys/devices/virtual/block/dm-0")
    assert verdict(file, machine)[0] == "pass"
    mounts = machine.root / "proc/self/mountinfo"
    whole = mounts.read_text()
    mounts.write_text(whole + f"23 22 8:1 / {tmp_path} rw - ext4 /dev/vda rw\n")
    assert verdict(file, machine)[0] == "error", "another file system is nearer, and it is not btrfs"
    mounts.write_text(whole.replace("btrfs", "ext4"))
    assert verdict(file, machine)[0] == "error"


def look(machine: str, path: str) -> Protection:
    root = VECTORS / machine
    number = json.loads((root / "stat.json").read_text())[path]
    return on_device(number, path, Machine(root))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/srv/images/e1", "nothing encrypts vda"),
        ("/mnt/ext4/a", "loop2 is a file; nothing encrypts vda"),
        ("/mnt/partition/a", "loop3 is a file; nothing encrypts vda"),
        ("/mnt/btrfs/a", "loop0 is a file; nothing encrypts vda"),
        ("/mnt/btrfs/sub/a", "loop0 is a file; nothing encrypts vda"),
    ],
)
def test_a_tree_that_a_kernel_wrote(path: str, reason: str) -> None:
    """ext4 on a disk, a loop device and a partition, and btrfs with a subvolume on two loop devices, told by Linux 6.18."""
    assert look("loop-devices", path) == Protection(False, reason)


def test_a_tree_that_a_kernel_wrote_on_an_encrypted_disk(tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    shutil.copytree(VECTORS / "loop-devices", machine, symlinks=True)
    (machine / "sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda/dm").mkdir()
    (machine / "sys/devices/pci0000:00/0000:00:02.0/virtio1/block/vda/dm/uuid").write_text(LUKS)
    for path, number in json.loads((machine / "stat.json").read_text()).items():
        assert on_device(number, path, Machine(machine)).encrypted is True, path
    for name in ("loop0", "loop1"):
        (machine / f"sys/devices/virtual/block/{name}/loop/backing_file").write_text("/dev/shm/image\n")
        assert on_device("0:55", "/mnt/btrfs/a", Machine(machine)).encrypted is False, "a part of it lies in memory"


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
    looked, finding = at_rest(sealed, machine)
    assert (finding.control.id, finding.status, finding.count) == ("encrypted-at-rest", Status.PASS, 3)
    assert "age format, recipients of kind X25519" in finding.message
    assert (looked.control.id, looked.status, looked.count) == ("storage-looked-at", Status.PASS, 3)
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


AGE = b"age-encryption.org/v1\n"
MAC = b"--- " + b"A" * 43 + b"\n"
X25519 = b"-> X25519 " + base64.b64encode(bytes(range(32))).rstrip(b"=") + b"\n" + b"A" * 43 + b"\n"


def by_itself(path: Path, data: bytes) -> tuple[str, str]:
    path.write_bytes(data)
    (finding,) = (f for f in encrypted_locally(LocalStore(path), trust_device=False) if f.control.id == "encrypted-at-rest")
    return finding.status.value, finding.message


@pytest.mark.parametrize(
    "stanza",
    [
        b"-> X25519 QQ\n\n",
        b"-> X25519\n" + b"A" * 43 + b"\n",
        X25519.replace(b"\n", b" QQ\n", 1),
        X25519[:-44] + b"\n",
        X25519[:-2] + b"\n",
        X25519.replace(b"AAEC", b"AA"),
    ],
)
def test_a_recipient_that_is_none_makes_no_age_file(tmp_path: Path, stanza: bytes) -> None:
    payload = random.Random(1).randbytes(5000)
    assert by_itself(tmp_path / "x", AGE + X25519 + MAC + payload) == ("pass", "1 file: age format, recipients of kind X25519")
    status, text = by_itself(tmp_path / "x", AGE + stanza + MAC + payload)
    assert (status, "header" in text) == ("fail", True)


def test_recipients_of_unknown_kinds_are_said_to_be_unknown_and_not_quoted(tmp_path: Path) -> None:
    payload = random.Random(1).randbytes(5000)
    status, text = by_itself(tmp_path / "x", AGE + b"-> password=hunter2\n\n" + MAC + payload)
    assert (status, text) == ("pass", "1 file: age format, recipients of unknown kinds alone")
    _, text = by_itself(tmp_path / "x", AGE + b"-> x-grease 5\n\n" + X25519 + MAC + payload)
    assert text == "1 file: age format, recipients of kind X25519"


@pytest.mark.parametrize("length", [32, 63, 64, 100, 511, 512, 2047, 2048, 65552])
@pytest.mark.parametrize("pattern", [b"password=hunter2\n", b"0.25,17,-3\r\n", b"QmFzZTY0IG9mIHNvbWV0aGluZw"])
def test_text_behind_a_header_is_not_encrypted(tmp_path: Path, length: int, pattern: bytes) -> None:
    text = (pattern * length)[:length]
    assert by_itself(tmp_path / "x", AGE + X25519 + MAC + text)[0] == "fail"
    utf8 = ("Прощай, немытая Россия, " * length).encode()[:length]
    if length >= 64:
        assert by_itself(tmp_path / "x", AGE + X25519 + MAC + utf8)[0] == "fail"


def test_what_a_cipher_writes_passes_whatever_its_length(tmp_path: Path) -> None:
    source = random.Random(2)
    for length in [*range(32, 700), 2047, 2048, 5000, 65568, 65569 + 16, 300_000]:
        if payload_fits(length):
            assert by_itself(tmp_path / "x", AGE + X25519 + MAC + source.randbytes(length))[0] == "pass", length


@pytest.mark.parametrize("size", [3 << 20, 70 << 20])
def test_clear_text_between_random_windows_is_found(tmp_path: Path, size: int) -> None:
    """Random where three windows would look, at the start, in the middle and at the end, and clear everywhere else."""
    data = bytearray(b"card,4111111111111111\n" * (size // 22))
    while not payload_fits(len(data)):
        data += b"x"
    for place in (0, len(data) // 2 - 8192, len(data) - 65536):
        data[place : place + 65536] = random.Random(3).randbytes(65536)
    assert by_itself(tmp_path / "x", AGE + X25519 + MAC + bytes(data))[0] == "fail"
    (tmp_path / "x").unlink()  # large, and pytest keeps folders


def test_armor_is_recognised_and_not_read(tmp_path: Path) -> None:
    armor = b"-----BEGIN AGE ENCRYPTED FILE-----\n" + base64.encodebytes(AGE) + b"-----END AGE ENCRYPTED FILE-----\n"
    for text in (armor, armor.replace(b"\n", b"\r\n")):
        status, message = by_itself(tmp_path / "x", text)
        assert (status, "in armor" in message) == ("fail", True)


def test_how_many_files_were_looked_at_is_a_finding_whatever_they_are(tmp_path: Path, number: str) -> None:
    machine = recorded(tmp_path, number)
    device(machine, "vda", number)
    build(tmp_path / "t", {"a": b"x", "b": b"y", "empty": b""})
    looked = [f for f in at_rest(tmp_path / "t", machine) if f.control.id == "storage-looked-at"]
    assert [(f.status, f.message, f.count) for f in looked] == [(Status.PASS, "2 files looked at, and 1 empty", 2)]
    assert bad(at_rest(tmp_path / "t", machine)) == {("encrypted-at-rest", "fail"): 2}


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
        found = [(f.status, f.message) for f in at_rest(mount / "sealed")]
        assert found == [(Status.PASS, "1 file looked at"), (Status.PASS, "1 file: fscrypt encrypts the file")]
        assert bad(at_rest(mount / "clear"))
    finally:
        subprocess.run(["umount", mount], check=True)


@contextmanager
def mounted(device: Path, point: Path) -> Iterator[None]:
    point.mkdir()
    if subprocess.run(["mount", device, point], check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def test_btrfs_on_a_real_loop_device(tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("mkfs.btrfs") or not Path("/dev/loop-control").exists():
        pytest.skip("needs root, mkfs.btrfs and loop devices")
    image, mount = tmp_path / "image", tmp_path / "mount"
    image.write_bytes(b"x")
    below = verdict(image, Machine())
    os.truncate(image, 300 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    made = subprocess.run(["losetup", "-f", "--show", image], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip("there is no free loop device")
    loop = Path(made.stdout.strip())
    try:
        with mounted(loop, mount):
            subprocess.run(["btrfs", "subvolume", "create", mount / "sub"], check=True, capture_output=True)
            for path in (mount / "a", mount / "sub/a"):
                path.write_bytes(b"x")
                status, text = verdict(path, Machine())
                assert (status, f"{loop.name} is a file" in text) == (below[0], True)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


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
            looked, finding = at_rest(mount / "a")
            assert looked.status is finding.status is Status.PASS
            assert "dm-crypt (LUKS2)" in finding.message
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        subprocess.run(["cryptsetup", "close", name], check=True)
