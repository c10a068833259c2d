"""7z archives: good ones have no problems, and what is encrypted, packed by other methods or damaged is told."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan import sevenzip
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan, scan_view
from airflow_pipesec.scan.sevenzip import look_7z
from airflow_pipesec.scan.views import Memory

# What py7zr 1.1.4 wrote: a.txt, d/b.txt and the empty empty.txt, by different methods, and others.
WRITTEN = {
    "lzma2": (
        "N3q8ryccAASGvfQqlwAAAAAAAAAVAAAAAAAAACEunwTgAF8AH10AMIgJpzOo56+EV68ZQXcqsWB9KhXwcVbl6BEL1zb7oADgAIwAaF0AAIEzB6"
        "4P0Hif/J8/R0EFe+4dDhnPauRdVhXHE0TkKOZwgl76hHFEEqENmRNCjNAxxIYHX8U5hKQ5Mp/AFRfOtHAA4CkgZNcXYMuIuFEBR86iir0KTwMf"
        "6irSYUT+kXYkbWalvKAAAAAAFwYnAQlwAAcLAQABISEBGAyAjQAA"
    ),
    "lzma": (
        "N3q8ryccAASy1vNUngAAAAAAAAAVAAAAAAAAAKItf7YAMIgJpzOo56+EV68ZQXcqsWB9KhXwcVbl6BEL2XPiL//++tAA4ACYAHFdAACBMweuD9"
        "BaW3yfP0dBXPZnHBYFNfWydr1KqVFj0pc4OePJ+Kgvs8JZsDGoXmcVr4RkRq3sPd9mycl4Xw4dB9QpCdndAm95B03YVqAwO4D8Jc2loF0JHAln"
        "eMP7mm4hn1JHnH2ynmI5xRFT/3CdAAAAABcGJQEJeQAHCwEAASEhARgMgJkAAA=="
    ),
    "bzip2": (
        "N3q8ryccAAS3KTPJtwAAAAAAAAAVAAAAAAAAANSlmRZCWmg5MUFZJlNZ5YJqTAAAChGAQAAnR5RAIABQgGgAKqanqaehpOXiMRJooyLKNlEkGz"
        "Jo4eFnp0kok/F3JFOFCQ5YJqTA4ACMAGldAACBMweuD9JAZ31AwJDO5ct29kxIH3blJjalZlKfQIJQBfYxbRUa9mfTVI3hZaV4GcTVUlHqvnWr"
        "GCIM2kBBWdXSHijbK4VIwtdbEdSVYcjirOA7OLpjXsPbZb8A5c+laEuW/WhxfAAAAAAXBkYBCXEABwsBAAEhIQEYDICNAAA="
    ),
    "deflate": (
        "N3q8ryccAAQK2lG5jgAAAAAAAAAVAAAAAAAAANrpJOJLVMjNT0nNUchPUyhJrShRSCSVn5dfkpFahJMGAOAAjABpXQAAgTMHrg/P2W+8D+vqiX"
        "/ky20zPqAxiNuY8XJonl5Rz6HLGue8ca1+MYQ3VmJsVby2Ma74z9UKrUaQf1pDAPjz39ICnAmopMux3SHjUrGl89uFt5LcXVE6txG2HAPnkRBi"
        "zEtvHbAAAAAAFwYdAQlxAAcLAQABISEBGAyAjQAA"
    ),
    "copy": (
        "N3q8ryccAAQnzEUt0AAAAAAAAAAVAAAAAAAAAFYTlRZhIG1vZGVsIG9mIHRleHQgYSBtb2RlbCBvZiB0ZXh0IGEgbW9kZWwgb2YgdGV4dCBhIG"
        "1vZGVsIG9mIHRleHQgYW5vdGhlciBhbm90aGVyIGFub3RoZXIgYW5vdGhlciDgAJAAaF0AAIEzB64P04/j/UDAkPGtwVA1mZ64cZNB91GE8MQC"
        "gPOnwVJi6DAuzpfv+iV6hO8Bl8XJIxBnk5g6GevB05dxlt2f7HcWYCvUi6iZUCuxK0pf95HeuVNTKidyW4gKbPI4Wj9mB2QAAAAAFwZgAQlwAA"
        "cLAQABISEBGAyAkQAA"
    ),
    "branch": (
        "N3q8ryccAAQvb8V+nwAAAAAAAAAVAAAAAAAAAKZDuWXgAF8AH10AMIgJpzOo56+EV68ZQXcqsWB9KhXwcVbl6BEL1zb7oADgAJQAcF0AAIEzB6"
        "4P0Hif/J85EJxt+2pcRsiMI2VEKPU0RvV8JmHhBSLy7XIK0aQTHRYv8fvwPHhkCXZDYvG6mrhhLIOXZ79KZulueMV7iCYwa9n9FEG/T0tQYM9z"
        "WbvR4HdmKAXvnzNWBYmA7xZA4i1+7AAAAAAXBicBCXgABwsBAAEhIQEYDICVAAA="
    ),
    "delta": (
        "N3q8ryccAARyymHepQAAAAAAAAAVAAAAAAAAAMaPygvgAF8AI10AMK/FoCfoGi4Ehyj6MGr7DBgesNp+faPar+h4bHhcEU8RzYAA4ACYAHJdAA"
        "CBMweuD9C1KPyfORCcbOpWKFjc2S9R4km1UxGGwIDr1jCvjowmLaRTXoiFZF4b6bK/X4H3AfmhZtXVyhHn7yEx+oQghXAMYsVN4ppAGxw4VYft"
        "Ob0kWSWaGqoVvY+Ib3kk4jjuvrXnJyOU4R1hAAAAAAAXBisBCXoABwsBAAEhIQEYDICZAAA="
    ),
    "branch and lzma": (
        "N3q8ryccAATc42+6pgAAAAAAAAAWAAAAAAAAAD5OYCsAMIgJpzOo56+EV68ZQXcqsWB9KhXwcVbl6BEL2XPiL//++tAA4ACgAHldAACBMweuD9"
        "BaW3yfORCchoC+HgKNZDIkRX+HqhlEU8fbzHn+C7uAS8OE2aTdort3qdTC6K6GAiCebk2WnLf7TOEfLauQtmds1+T7B0I6wnBKjLxIhHPgDGRD"
        "JRRi+6+ybFYicMkjQM8/pQ/stKbzr8IDkAFHWQwAAAAAFwYlAQmAgQAHCwEAASEhARgMgKEAAA=="
    ),
    "ppmd": (
        "N3q8ryccAARtnpDelAAAAAAAAAAVAAAAAAAAAPZygKMAYL8TSJzB2Kx2xmIM1oo4IwaEFuNHywPVLjNIAOAAlABvXQAAgTMHrg/P2W+8D+vqng"
        "EO6MiCDZAmx/RXj/RojnuhfLsSAdGAXWUy9tW737sSVVjF66AH/Ii1RhQOb2N1URsJ1ikFCcIGKf95bf8UK+o3ZRtUoL1dTYuyohsYuhYvsvzQ"
        "tV8OF7hKVdzPqgcAAAAAFwYdAQl3AAcLAQABISEBGAyAlQAA"
    ),
    "zstandard": (
        "N3q8ryccAATcVcBJowAAAAAAAAAVAAAAAAAAAP6Y9AYotS/9AFj9AACwYSBtb2RlbCBvZiB0ZXh0IG5vdGhlcgIAK0vhRHMJ4ACYAHNdAACBMw"
        "euD9CHwjyfP0dBhMlsZC/1nuhzICvndszDtpoC1qNFcUjSMOF7a0FwL2OfSL4VAuwzUmMUs9HLXDTmQ0ZfsjtIIdEYu5P9rNOEuqAhSRhtZ6aH"
        "AYLTWkAFChQOprbn9n8d3Wk129DLNSBwl9UAAAAAFwYoAQl7AAcLAQABISEBGAyAmQAA"
    ),
    "encrypted": (
        "N3q8ryccAARHuHjOcQAAAAAAAAAUAAAAAAAAAC6uTC/NSrUHSNq/7/9MoI7NijgjAQBcAQQGAAEJEAoBR1tJxQAHCwEAAiQG8QcBElMPDQG9jw"
        "hZfVit6l+DQkaklCEhARgBAAwGAgAICgGsKpPYAAAFAREFAGEAAAAUCgEAoKd5Sv183QEVBgEAIICAgQAAABcGEAEJYQAHCwEAASEhARgMXQAA"
    ),
    "encrypted header": (
        "N3q8ryccAASoFfs6cAAAAAAAAAAoAAAAAAAAAFOvQv/T0sMaQExOU2uxO9ThKz1vpJuecXoitIZ9mtg8Ok7fAraw8EItUr2/F4KliA1H1yCiv+"
        "Riv5bphSqkqLN3uMj+ctV0Xob8yHf+S/LXG7I8cXDHuA++nwJe6Sv5ZJz5c1n4F7//moJSjphdheccb9gMFwYQAQlgAAcLAQABJAbxBwESUw+0"
        "wZGH6p56aTYrkVA3IEYBDF0AAA=="
    ),
    "plain header": (
        "N3q8ryccAARN3APJCQAAAAAAAABMAAAAAAAAAO4pplMBAARoZWxsbwABBAYAAQkJAAcLAQACISEBGAQDAwEDAQAMBQUACAoBhqYQNgAABQERDQ"
        "BhAC4AdAB4AHQAAAAUCgEA8DWgSv183QEVBgEAIICAgQAA"
    ),
    "nothing": ("N3q8ryccAASEhya9BgAAAAAAAAAUAAAAAAAAAELRML8BAAEBAAAXBgABCQYABwsBAAEhIQEYDAIAAA=="),
    "link": (
        "N3q8ryccAARsbZsxjAAAAAAAAAAVAAAAAAAAAEgnNPEBAAsvZXRjL3Bhc3N3ZHgA4ACwAHRdAACBMweuD87ysgwHsMPaKtdYZKyzeM5U33UKnc"
        "GX76kO9BeoIANMUx7mnnBalQqj8sWRsK/TB1dB2rheApQrS4+fjaVgEvuAq5PDSrn6Y4hhsu+4gEt+qWXLKUj0tw4kND3HSebT/qud15IHEX+v"
        "M2HSrgAAABcGEAEJfAAHCwEAASEhARgMgLEAAA=="
    ),
}
READ = ("lzma2", "lzma", "bzip2", "deflate", "copy", "branch", "delta", "plain header", "nothing")


def written(name: str) -> bytes:
    return base64.b64decode(WRITTEN[name])


def scanned(data: bytes, limits: Limits | None = None) -> Scan:
    scan = Scan(AllowList(), limits)
    Part(Memory(data), scan).look(look_7z)
    return scan


def sealed(header: bytes, packed: bytes = b"") -> bytes:
    """An archive of this header, with the checksums that belong to it."""
    start = len(packed).to_bytes(8, "little") + len(header).to_bytes(8, "little") + zlib.crc32(header).to_bytes(4, "little")
    return sevenzip.MAGIC + b"\0\4" + zlib.crc32(start).to_bytes(4, "little") + start + packed + header


DATA = b"a text, and no model"


def names(*given: str) -> bytes:
    raw = b"\0" + b"".join(name.encode("utf-16-le") + b"\0\0" for name in given)
    return b"\x11" + bytes([len(raw)]) + raw


def copied(
    *,
    items: bytes = b"\x01" + names("a.txt"),
    size: int = len(DATA),
    crc: int = zlib.crc32(DATA),
    coder: bytes = b"\x01\x01\x00",
    place: int = 0,
    more: bytes = b"",
    end: bytes = b"\0\0",
) -> bytes:
    """An archive with one file that is not compressed, part by part."""
    packs = b"\x06" + bytes([place]) + b"\x01\x09" + bytes([size]) + b"\0"
    unpacks = b"\x07\x0b\x01\0" + coder + b"\x0c" + bytes([size]) + b"\x0a\x01" + crc.to_bytes(4, "little") + b"\0"
    return sealed(b"\x01\x04" + packs + unpacks + more + b"\0\x05" + items + end, DATA)


@pytest.mark.parametrize("name", READ)
def test_what_py7zr_writes_has_no_problems(name: str) -> None:
    scan = scan_view(Memory(written(name)), AllowList())
    assert scan.problems == []
    assert scan.formats["7z"] == 1
    assert scan.formats["text"] == {"plain header": 1, "nothing": 0}.get(name, 2)


@pytest.mark.parametrize("name", ["branch and lzma", "ppmd", "zstandard"])
def test_another_method_is_unscannable(name: str) -> None:
    problems = scanned(written(name)).problems
    assert {problem.fault for problem in problems} == {Fault.UNSCANNABLE}
    assert {problem.why for problem in problems} == {"uses a method of 7z that is not read here"}


@pytest.mark.parametrize("name", ["encrypted", "encrypted header"])
def test_what_is_encrypted_is_unscannable(name: str) -> None:
    assert [str(problem) for problem in scanned(written(name)).problems] == ["is encrypted"]


def test_a_link_in_a_7z_archive_is_unsafe() -> None:
    problems = scanned(written("link")).problems
    assert [str(problem) for problem in problems if problem.fault is Fault.UNSAFE] == [
        "holds t/s, a link, which may lead anywhere"
    ]


def test_an_archive_of_one_copied_file_has_no_problems() -> None:
    assert scanned(copied()).problems == []


def test_a_pickle_in_a_7z_archive_is_followed() -> None:
    danger = b"cos\nsystem\n(S'a'\ntR."
    assert len(danger) == len(DATA)
    data = copied(crc=zlib.crc32(danger)).replace(DATA, danger)
    assert [problem.fault for problem in scanned(data).problems] == [Fault.UNSAFE]


@pytest.mark.parametrize("name", ["../a", "/a", "C:\\a", "..\\a"])
def test_a_name_in_a_7z_archive_that_leads_out_is_unsafe(name: str) -> None:
    assert Fault.UNSAFE in [problem.fault for problem in scanned(copied(items=b"\x01" + names(name))).problems]


EMPTY = b"\x0e\x01\x40\x0f\x01\x80"  # of two members the second has no stream, and is a file
WRONG: dict[str, tuple[bytes, str]] = {
    "another version": (sevenzip.MAGIC + b"\1" + written("copy")[7:], "version of 7z"),
    "a damaged start": (written("copy")[:8] + b"!" + written("copy")[9:], "checksum"),
    "a damaged header": (written("copy")[:-1] + b"!", "checksum"),
    "something after": (written("copy") + b"!", "not at its end"),
    "cut off": (written("copy")[:-1], "not at its end"),
    "a start alone": (written("copy")[:31], "ends too early"),
    "another checksum": (copied(crc=1), "a.txt: does not have the checksum"),
    "something between": (copied(size=19), "do not end where its header starts"),
    "something before": (copied(place=1, size=19), "before its first packed stream"),
    "an unknown method": (copied(coder=b"\x01\x01\x7f"), "method of 7z"),
    "properties of a method that has none": (copied(coder=b"\x01\x21\x00\x01\x00"), "method of 7z"),
    "an alternative method": (copied(coder=b"\x01\x81\x00"), "method of 7z"),
    "many methods": (copied(coder=b"\x05" + b"\x01\x00" * 5), "method of 7z"),
    "methods in a ring": (copied(coder=b"\x02\x01\x00\x01\x00\x00\x00"), "method of 7z"),
    "no method": (copied(coder=b"\x00"), "method of 7z"),
    "a file without a name": (copied(items=b"\x01"), "as many names as members"),
    "a name without a file": (copied(items=b"\x02" + names("a.txt", "b.txt")), "as many names as members"),
    "an empty name": (copied(items=b"\x01" + names("")), "as many names as members"),
    "a name that is no text": (copied(items=b"\x01\x11\x05\0\x00\xd8\0\0"), "name is no text"),
    "names elsewhere": (copied(items=b"\x01\x11\x02\x01\x00"), "several places"),
    "a name twice": (copied(items=b"\x02" + EMPTY + names("a.txt", "a.txt")), "more than once"),
    "names twice": (copied(items=b"\x01" + names("a.txt") * 2), "says one thing twice"),
    "an item for deletion": (copied(items=b"\x01" + names("a.txt") + b"\x10\x01\x80"), "not read here"),
    "more files than there is room for": (copied(items=b"\xc0\xff\xff" + names("a.txt")), "ends too early"),
    "an end that is none": (copied(end=b"\0\0\0"), "not read here"),
    "no end": (copied(end=b"\0"), "ends too early"),
    "files longer than their folder": (copied(more=b"\x08\x0d\x02\x09\x7f\0", items=b"\x02" + names("a", "b")), "longer than"),
    "very many files in a folder": (copied(more=b"\x08\x0d\xf0\xff\xff\xff\xff\0"), "holds more than"),
    "a file that is a folder": (copied(items=b"\x01" + names("a") + b"\x15\x06\x01\0\x10\0\0\0"), "whether it is a file"),
    "an unknown tag": (sealed(b"\x01\x33"), "not read here"),
    "a header that is packed as itself": (sealed(b"\x17\x00"), "not read here"),
    "a size that cannot be": (sealed(b"\x01\x04\x06\xff" + b"\xff" * 8), "size that cannot be"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_7z_archive_that_does_not_fit_is_unscannable(what: str) -> None:
    data, why = WRONG[what]
    problems = scanned(data).problems
    assert [problem.fault for problem in problems] == [Fault.UNSCANNABLE]
    assert why in str(problems[0])


def test_an_empty_file_beside_another_is_none_to_look_at() -> None:
    assert scanned(copied(items=b"\x02" + EMPTY + names("a.txt", "b.txt"))).problems == []


def test_files_of_one_folder_are_stretches_of_it() -> None:
    first = zlib.crc32(DATA[:6]).to_bytes(4, "little")
    second = zlib.crc32(DATA[6:]).to_bytes(4, "little")
    items = b"\x02" + names("a.txt", "b.txt")
    data = copied(more=b"\x08\x0d\x02\x09\x06\x0a\x01" + first + second + b"\0", items=items)
    scan = scan_view(Memory(data), AllowList())
    assert scan.problems == []
    assert scan.formats == {"7z": 1, "text": 2}
    data = copied(more=b"\x08\x0d\x02\x09\x06\x0a\x01" + second + second + b"\0", items=items)
    assert [problem.why for problem in scanned(data).problems] == ["does not have the checksum that it states"] * 2


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"\x7f", 127),
        (b"\x80\x80", 128),
        (b"\xbf\xff", 0x3FFF),
        (b"\xc0\x01\x02", 0x0201),
        (b"\xff" + b"\x01" * 8, 0x0101010101010101),
    ],
)
def test_a_number_is_read_as_7z_writes_it(raw: bytes, value: int) -> None:
    reader = sevenzip._Reader(raw)
    assert reader.number() == value
    assert not reader.left


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_7z_archive_that_was_changed_is_told_or_reads_as_before(data: st.DataObject) -> None:
    whole = bytearray(written(data.draw(st.sampled_from(READ[:-2]))))
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[at:]
    scan = scanned(bytes(whole))
    # The second half of the version and some bits of compressed streams tell nothing, and the checksums are verified.
    assert scan.problems or scan.formats == {"7z": 1, "text": 2}


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_header_can_be_read_or_is_told(data: st.DataObject) -> None:
    header = bytearray(copied()[32 + len(DATA) :])
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    for problem in scanned(sealed(bytes(header), DATA)).problems:
        assert "cannot be parsed" not in problem.why
