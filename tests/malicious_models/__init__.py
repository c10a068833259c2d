"""Malicious models, by published techniques. What each would do is make one empty file, in a folder that the caller names.

`python -m tests.malicious_models prove` has the real loaders load them, and says for how many the file appeared.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tests.malicious_models.sample import LOADERS, Payload, Sample

__all__ = ["LOADERS", "Sample", "malicious"]

FAMILIES = ("stdlib", "libraries", "opcodes", "streams", "arrays", "torch_files", "archives", "formats")


def malicious(marker: Path) -> Iterator[Sample]:
    """Return every sample; each makes the marker when its loader loads it."""
    payload = Payload.of(marker)
    for family in FAMILIES:
        yield from import_module(f"tests.malicious_models.{family}").samples(payload)
