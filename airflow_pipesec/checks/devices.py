"""Devices: what lies under a local file, and whether it is encrypted before it reaches a disk.

Linux says so in its own files: ``/proc/self/mountinfo`` names the device under a path, ``/sys`` what a device is made of. A
device counts as encrypted when dm-crypt does it, or when everything below it is encrypted. What can't be seen from here (a
network file system, the lower layers of a container's overlay, a disk that encrypts itself) is unknown, and unknown is no yes.
"""

from __future__ import annotations

import array
import fcntl
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Machine", "Protection", "has_fscrypt", "on_device"]

# From cryptsetup. Others that begin with CRYPT- encrypt nothing: CRYPT-VERITY and CRYPT-INTEGRITY only detect changes.
_CRYPT = re.compile(r"CRYPT-(LUKS1|LUKS2|PLAIN|LOOPAES|TCRYPT|BITLK|FVAULT2)\b")
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "glusterfs", "virtiofs")
_FS_IOC_GETFLAGS = 0x80086601
_FS_ENCRYPT_FL = 0x800
DEPTH = 16


class Protection(NamedTuple):
    """Whether what lies under a path is encrypted (None: it can't be told), and why one says so."""

    encrypted: bool | None
    reason: str


class _Mount(NamedTuple):
    device: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the system's own files are; another root for a tree that was recorded elsewhere."""

    root: Path = Path("/")

    def mounts(self) -> list[_Mount]:
        """Read ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)), later mounts last."""
        found = []
        for line in (self.root / "proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            fields, (kind, source, *_) = before.split(" "), after.split(" ")
            found.append(_Mount(fields[2], _unescaped(fields[4]), kind, _unescaped(source)))
        return found

    def block(self, number: str) -> Path | None:
        """Return the folder of a block device in ``/sys`` by its number, ``major:minor``."""
        link = self.root / "sys/dev/block" / number
        return Path(os.path.realpath(link)) if link.exists() else None

    def named(self, source: str) -> Path | None:
        """Return the folder of a block device by the name it was mounted by, ``/dev/sda1`` or ``/dev/mapper/name``.

        Only for file systems whose source the kernel checks: a FUSE mount may call itself ``/dev/sda1``.
        """
        mapped = source.startswith("/dev/mapper/")
        name = source.removeprefix("/dev/mapper/" if mapped else "/dev/")
        if not name or name == source:
            return None
        for folder in sorted((self.root / "sys/class/block").glob("*")):
            # The kernel writes a "/" inside of a device's name as "!".
            if name == (_text(folder / "dm/name") if mapped else folder.name.replace("!", "/")):
                return Path(os.path.realpath(folder))
        return None

    def number_of(self, path: str) -> str:
        """Return the number of the device that a path is on; on a recorded machine that of the mount that it lies in."""
        if self.root.samefile("/"):
            device = Path(path).stat().st_dev
            return f"{os.major(device)}:{os.minor(device)}"
        mount = _innermost(self.mounts(), path)
        if mount is None:
            raise FileNotFoundError(path)
        return mount.device


def on_device(number: str, path: str, machine: Machine, depth: int = 0) -> Protection:
    """Say what is known of the device that a path is on, by the device's number and the path."""
    try:
        mounts = machine.mounts()
    except (OSError, ValueError, IndexError):
        return Protection(None, "the system's list of mounts cannot be read")
    here = [mount for mount in mounts if mount.device == number]
    mount = _innermost(here, path) or (here[-1] if here else None)
    if mount is None:
        # btrfs gives each of its subvolumes a number of its own, which is that of no mount.
        mount = _innermost(mounts, path)
        if mount is None or mount.kind != "btrfs":
            return Protection(None, f"no mount has the device {number}")
    if mount.kind in _MEMORY:
        return Protection(False, f"{mount.kind} is memory, which may be swapped to a disk in the clear")
    if mount.kind in _NETWORK:
        return Protection(None, f"{mount.kind} is a file system on another machine, which does not tell")
    if mount.kind == "overlay":
        return Protection(None, "a container's overlay does not tell what lies below it; mount a volume for the data")
    if mount.kind == "zfs":
        return _zfs(mount.source)
    if mount.kind == "btrfs":
        return _btrfs(mount.source, machine, depth)
    folder = machine.block(number)
    if folder is None and mount.kind.partition(".")[0] == "fuse":
        return Protection(None, f"{mount.kind} is a program's file system, which does not tell")
    if folder is None:
        return Protection(None, f"{mount.kind} is on no block device that the system lists")
    return _device(folder, machine, depth)


def _innermost(mounts: list[_Mount], path: str) -> _Mount | None:
    """Return the mount that a path lies in: the one furthest down, and at one place the last, which covers the others."""
    inside = [mount for mount in mounts if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(reversed(inside), key=lambda mount: len(mount.point), default=None)


def _device(folder: Path, machine: Machine, depth: int) -> Protection:
    name = folder.name
    if depth > DEPTH:
        return Protection(None, f"the layers below {name} go too deep")
    uuid = _text(folder / "dm/uuid")
    if kind := _CRYPT.match(uuid):
        return Protection(True, f"dm-crypt ({kind[1]}) encrypts {name}")
    slaves = sorted((folder / "slaves").glob("*"))
    if slaves:
        return _all_of(name, [_device(Path(os.path.realpath(slave)), machine, depth + 1) for slave in slaves])
    if backing := _text(folder / "loop/backing_file"):
        try:
            number = machine.number_of(backing)
        except OSError:
            return Protection(None, f"{name} is a file that cannot be looked at")
        below = on_device(number, backing, machine, depth + 1)
        return Protection(below.encrypted, f"{name} is a file; {below.reason}")
    if (folder / "partition").exists():
        return _device(folder.parent, machine, depth + 1)
    return Protection(False, f"nothing encrypts {name}")


def _all_of(name: str, layers: list[Protection]) -> Protection:
    for verdict in (False, None):
        for layer in layers:
            if layer.encrypted is verdict:
                return layer
    return Protection(True, f"{name} lies on what is encrypted: {'; '.join(dict.fromkeys(layer.reason for layer in layers))}")


def _btrfs(source: str, machine: Machine, depth: int) -> Protection:
    """Every device of the file system counts, not only the one that it was mounted by."""
    folder = machine.named(source)
    for devices in sorted((machine.root / "sys/fs/btrfs").glob("*/devices")):
        members = [Path(os.path.realpath(member)) for member in sorted(devices.glob("*"))]
        if folder in members:
            return _all_of("btrfs", [_device(member, machine, depth + 1) for member in members])
    return Protection(None, "the devices of the btrfs file system are not listed")


def _zfs(dataset: str) -> Protection:
    """Ask ``zfs``: its datasets are encrypted one by one, and no file of the system says so."""
    try:
        command = ["zfs", "get", "-H", "-p", "-o", "value", "encryption", dataset]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return Protection(None, f"zfs did not say whether the dataset is encrypted ({type(error).__name__})")
    value = answer.stdout.strip()
    if re.fullmatch(r"aes-(128|192|256)-(ccm|gcm)", value):
        return Protection(True, f"ZFS encrypts the dataset ({value})")
    return Protection(
        False if value == "off" else None, "the ZFS dataset is not encrypted" if value == "off" else "zfs did not say"
    )


def has_fscrypt(descriptor: int) -> bool:
    """Whether an open file is encrypted by its file system (ext4, f2fs, ubifs, ceph), by the flag that lsattr shows as E."""
    flags = array.array("L", [0])
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags, True)
    except OSError:
        return False  # the file system has no such flags
    return bool(flags[0] & _FS_ENCRYPT_FL)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
