"""Beside: what lies beside a model and is none is known by its structure, to its last byte: pictures, and SentencePiece's texts.

PNG by its third edition (W3C), JPEG by ITU-T T.81, GIF by its version 89a; ``sentencepiece_model.proto`` of SentencePiece 0.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.protobuf import Wire, message
from airflow_pipesec.scan.scanner import Unscannable

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["PNG", "is_picture", "is_sentencepiece", "look_picture", "look_sentencepiece"]

PNG: Final = b"\x89PNG\r\n\x1a\n"
JPEG: Final = b"\xff\xd8\xff"
GIF: Final = (b"GIF87a", b"GIF89a")
MOST_CHUNKS: Final = 100_000

MODEL: Final = message(data="2 3 4 5", many="1")
PIECE: Final = message(ints="3", f32="2", data="1")
# What it was trained with. The second field of each is where a SavedModel has its graphs, and these their nodes.
TRAINER: Final = message(
    ints="3 4 6 11 12 13 14 16 17 18 19 20 21 22 23 24 25 26 32 33 34 35 40 41 42 43 49 50 52",
    f32="10 15 51",
    data="2 7 36 44 45 46 47 48 53 54",
    many="1 5 30 31",
)
TRAINER_SPEC: Final = 2
MODEL_PREFIX: Final = 2
MOST_PIECES: Final = 4_000_000
PIECES_TRIED: Final = 100


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is a picture."""
    return head.startswith((PNG, JPEG, *GIF))


def look_picture(part: Part) -> None:
    """Look at a picture: it ends where its format says, and nothing follows."""
    part.saw("picture")
    head = part.view.read_at(0, 8)
    if head == PNG:
        _png(part)
    elif part.read(part.size - 2, 2)[head[:3] != JPEG :] != (b"\xff\xd9" if head[:3] == JPEG else b";"):
        raise Unscannable("does not end as a picture of its kind does", part.size)


def _png(part: Part) -> None:
    place = len(PNG)
    for _ in range(MOST_CHUNKS):
        head = part.read(place, 8)
        place += 12 + int.from_bytes(head[:4], "big")
        if place > part.size:
            raise Unscannable("ends within a picture", part.size)
        if head[4:] == b"IEND":
            if place != part.size:
                raise Unscannable(f"goes on for {part.size - place:,} bytes after its picture", place)
            return
    raise Unscannable(f"has more than {MOST_CHUNKS:,} chunks")


def is_sentencepiece(view: View) -> bool:
    """Whether a view begins as a model of SentencePiece: with pieces, each of a text and a score."""
    wire, count = Wire(view, MOST_PIECES), 0
    try:
        for field in wire.fields(0, view.size, MODEL, "a model"):
            if field.number != 1:
                break
            if not {1, 2} <= {inner.number for inner in wire.fields(field.start, field.end, PIECE, "a piece")}:
                return False
            count += 1
            if count == PIECES_TRIED:
                break
    except Unscannable:
        return False
    return count > 0


def look_sentencepiece(part: Part) -> None:
    """Look at a model of SentencePiece: pieces of text with their scores, and how it was trained and normalizes."""
    part.saw("sentencepiece")
    wire = Wire(part.view, MOST_PIECES)
    for field in wire.fields(0, part.size, MODEL, "a model"):
        if field.number == 1:
            for inner in wire.fields(field.start, field.end, PIECE, "a piece"):
                if inner.number == 1:
                    wire.text(inner, "a piece")
        elif field.number == TRAINER_SPEC:
            for inner in wire.fields(field.start, field.end, TRAINER, "what it was trained with"):
                if inner.number == MODEL_PREFIX and not wire.text(inner, "a model's name").isprintable():
                    raise Unscannable("has a model's name that is no plain text", inner.place)
