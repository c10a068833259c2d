"""Safetensors: raw numbers and a JSON header that accounts for every byte of them.

The format's own documentation is the specification: eight bytes of header length, a JSON object, then the tensors, which may
neither overlap nor leave a gap. Nothing in such a file runs; what is left to find is a file that is one thing for this format's
readers and something else for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.jsons import parsed
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["is_safetensors", "look_safetensors"]

LONGEST_HEADER = 100_000_000  # the reference implementation's limit
MOST_NUMBERS = 1 << 63
MOST_DIMENSIONS = 64

# Bits of one number; the total of a tensor must be whole bytes.
BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


def is_safetensors(view: View, head: bytes) -> bool:
    """Whether a plausible header length and the start of a JSON object lead a view whose first bytes are ``head``."""
    length = int.from_bytes(head[:8], "little")
    return len(head) >= 10 and 2 <= length <= min(LONGEST_HEADER, view.size - 8) and head[8:9] == b"{"


def look_safetensors(part: Part) -> None:
    """Look at a safetensors file: the header is strict, and the tensors fill the rest of the file exactly."""
    length = int.from_bytes(part.read(0, 8), "little")
    if not is_safetensors(part.view, part.view.read_at(0, 16)):
        raise Unscannable("has a safetensors header that is longer than the file or the format allows", 0)
    if length > part.scan.limits.text:
        raise Unscannable(f"has a safetensors header of more than {part.scan.limits.text:,} bytes", 0)
    part.saw("safetensors")
    header = parsed(part.read(8, length), "a safetensors header")
    if not isinstance(header, dict):
        raise Unscannable("has a safetensors header that is no JSON object", 8)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Unscannable("has safetensors metadata that are not texts", 8)
    if any("_target_" in value for value in metadata.values()):
        # Some libraries keep a configuration there, and have Hydra call what it names.
        part.unsafe("has metadata that name what is to be called (_target_)", 8)
    end = 0
    for name, (start, stop) in sorted(((name, _extent(name, tensor)) for name, tensor in header.items()), key=lambda one: one[1]):
        if start != end:
            what = "a gap before" if start > end else "an overlap with"
            raise Unscannable(f"has {what} the tensor {named(name)}", 8 + length + min(start, end))
        end = stop
    if 8 + length + end != part.size:
        what = "ends within the tensors" if 8 + length + end > part.size else "has bytes behind the last tensor"
        raise Unscannable(what, min(8 + length + end, part.size))


def _extent(name: str, tensor: Any) -> tuple[int, int]:
    """Return where a tensor starts and stops, once its type and shape say the same."""
    if not isinstance(tensor, dict) or tensor.keys() != {"dtype", "shape", "data_offsets"}:
        raise Unscannable(f"has an entry {named(name)} that is no tensor: dtype, shape and data_offsets make one")
    dtype, shape, offsets = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Unscannable(f"has a tensor {named(name)} of the unknown type {named(str(dtype))}")
    if not _whole_numbers(shape) or len(shape) > MOST_DIMENSIONS:
        raise Unscannable(f"has a tensor {named(name)} whose shape is no list of whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise Unscannable(f"has a tensor {named(name)} whose data_offsets are not two whole numbers")
    bits = BITS[dtype]
    for dimension in shape:
        bits *= dimension
        if bits > MOST_NUMBERS:
            raise Unscannable(f"has a tensor {named(name)} whose shape is larger than any file")
    start, stop = offsets
    if bits % 8 or stop - start != bits // 8:
        raise Unscannable(f"has a tensor {named(name)} whose type and shape do not fit its place")
    return start, stop


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MOST_NUMBERS for value in values)
