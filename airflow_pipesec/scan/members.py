"""Members: the names within an archive stay within the folder that it is unpacked to, and each is one file to every reader."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["Headers", "Names"]

SHORT = 1 << 10
LONG = 1 << 16
LONGEST_NAME = 4096
_DRIVE = re.compile(r"[A-Za-z]:")


class Headers:
    """Small reads here and there in a view: little is read around headers that lie far apart, and close ones come together."""

    __slots__ = ("base", "buffer", "view")

    def __init__(self, view: View) -> None:
        self.view, self.base, self.buffer = view, 0, b""

    def at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes. Raises :class:`Unscannable` where there are fewer."""
        start = offset - self.base
        if start < 0 or start + length > len(self.buffer):
            close = 0 <= start <= len(self.buffer) + LONG
            self.buffer, self.base, start = self.view.read_at(offset, max(length, LONG if close else SHORT)), offset, 0
        data = self.buffer[start : start + length]
        if len(data) != length or offset < 0:
            raise Unscannable("ends too early", offset)
        return data


class Names:
    """The names of an archive's members so far. What is wrong with one is told to the archive's part."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.files: dict[str, str] = {}  # as it is compared, and as it is
        self.folders: dict[str, str] = {}

    def take(self, name: str, *, folder: bool = False) -> None:
        """Note one more name."""
        if not self._is_name(name):
            return
        steps = [step for step in name.split("/") if step not in ("", ".")]
        path = "/".join(steps)
        if not path:
            if not folder:
                self.part.unscannable("holds a member without a name")
            return
        key = _compared(path)
        known = self.files.get(key) or self.folders.get(key, "")
        if known and known != path:
            self.part.unscannable(f"holds {named(known)} and {named(path)}, which are one name on some systems")
        elif key in self.files or (known and not folder):
            self.part.unscannable(f"holds {named(path)} more than once")
        if folder:
            self.folders[key] = path
        else:
            self.files[key] = path
        while (cut := path.rfind("/")) > 0:
            path = path[:cut]
            key = _compared(path)
            if key in self.files:
                self.part.unscannable(f"holds {named(path)} as a file and as a folder")
            elif self.folders.setdefault(key, path) == path:
                continue
            else:
                self.part.unscannable(f"holds {named(self.folders[key])} and {named(path)}, which are one name on some systems")

    def _is_name(self, name: str) -> bool:
        plain = name.replace("\\", "/")
        if plain.startswith("/") or _DRIVE.match(plain) or ".." in plain.split("/"):
            self.part.unsafe(f"holds {named(name)}, which leads out of the folder that it is unpacked to")
        elif "\\" in name:
            self.part.unscannable(f"holds {named(name)}, whose backslash is a folder on some systems")
        elif not name.isprintable():
            self.part.unscannable(f"holds {named(name)}, a name that is not plain text")
        elif len(name) > LONGEST_NAME:
            self.part.unscannable(f"holds a name of more than {LONGEST_NAME:,} characters")
        else:
            return True
        return False


def _compared(path: str) -> str:
    """Return a name as a system compares it that ignores case and writes accents in its own way."""
    return path if path.isascii() and path.islower() else unicodedata.normalize("NFC", path.casefold())
