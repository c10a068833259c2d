"""Handles: what one task verified is what the next one opens, and anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.errors import ConfigurationError, VerificationError
from airflow_pipesec.verified import Handle, materialize, verified_open
from tests.test_verified import FILES, laid_out, recorded, sha256


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


def test_a_handle_goes_through_xcom_and_opens_what_was_verified(model: Path) -> None:
    tree = Handle(str(model), recorded(FILES).tree_digest, str(model.parent / "m.json"))
    single = Handle(str(model / "a"), sha256(b"alpha"))
    pinned = Handle("s3://bucket/key", sha256(b"alpha"), version="v1")
    for handle in (tree, single, pinned):
        sent = json.loads(json.dumps(handle.to_xcom()))
        assert sent["type"] == "airflow_pipesec/verified-handle/v1"
        assert all(isinstance(value, str) for value in sent.values())
        assert Handle.from_xcom(sent) == handle
    for stream in (False, True):
        assert verified_open(tree, name="deep/b.bin", stream=stream).read() == FILES["deep/b.bin"]
        assert verified_open(single, stream=stream).read() == b"alpha"


def test_a_handle_of_a_tree_of_one_file_opens_it(model: Path) -> None:
    (model.parent / "one.json").write_bytes(recorded({".": b"alpha"}).to_json())
    handle = Handle(str(model / "a"), recorded({".": b"alpha"}).tree_digest, str(model.parent / "one.json"))
    assert verified_open(handle).read() == b"alpha"
    with materialize(handle) as path:
        assert (path.name, path.read_bytes()) == ("a", b"alpha")


def test_another_manifest_than_the_one_verified_opens_nothing(model: Path) -> None:
    handle = Handle(str(model), recorded(FILES).tree_digest, str(model.parent / "m.json"))
    (model / "a").write_bytes(b"evil!")
    for files in (FILES | {"a": b"evil!"}, FILES | {"more": b""}, {"a": b"alpha"}):
        (model.parent / "m.json").write_bytes(recorded(files).to_json())
        with pytest.raises(VerificationError, match="is not the manifest that was verified"):
            verified_open(handle, name="a")
        with pytest.raises(VerificationError), materialize(handle):
            pass


@pytest.mark.parametrize(
    "change",
    [
        {"type": "airflow_pipesec/verified-handle/v2"},
        {"type": None},
        {"root": None},
        {"root": ""},
        {"root": 3},
        {"root": ["x"]},
        {"digest": None},
        {"digest": "a" * 64},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "a" * 63},
        {"digest": "md5:" + "a" * 32},
        {"digest": " sha256:" + "a" * 64},
        {"digest": "tree:sha256:" + "a" * 64},
        {"manifest": "m.json"},
        {"manifest": "m.json", "digest": "tree:sha256:" + "a" * 64, "version": "v"},
        {"version": None},
        {"version": ""},
        {"version": 3},
        {"more": "x"},
        {3: "x"},
    ],
)
def test_an_xcom_that_is_no_handle_is_refused(change: dict[Any, Any]) -> None:
    good = {"type": "airflow_pipesec/verified-handle/v1", "root": "s3://b/k", "digest": "sha256:" + "a" * 64, "version": "v"}
    Handle.from_xcom(good)
    with pytest.raises(ConfigurationError):
        Handle.from_xcom(good | change)


@pytest.mark.parametrize("key", ["type", "root", "digest"])
def test_a_handle_lacks_nothing(key: str) -> None:
    good = Handle("s3://b/k", "sha256:" + "a" * 64).to_xcom()
    del good[key]
    for wrong in (good, list(good), None, "s3://b/k", 3):
        with pytest.raises(ConfigurationError):
            Handle.from_xcom(wrong)
