"""Integrity: what was recorded passes, and every way of tampering with it is found under a control of its own."""

from __future__ import annotations

import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from airflow_pipesec.checks.integrity import verify, write_manifest
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.policy import Policy
from airflow_pipesec.storage import LocalStore

FILES = {"a.csv": b"1,2\n", "deep/er/b.bin": b"\0" * 70_000, "deep/c": b"", ".hidden": b"h"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "artifact", FILES)


@pytest.fixture
def manifest(root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "artifact.manifest.json"
    record(root, path)
    return path


def build(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def record(root: Path, manifest: Path, **options: str) -> list[Finding]:
    return list(write_manifest(LocalStore(root), LocalStore(manifest), **options))  # type: ignore[arg-type] # algorithm only


def check(root: Path, manifest: Path | None = None, **options: object) -> list[Finding]:
    source = None if manifest is None else LocalStore(manifest)
    return list(verify(LocalStore(root), manifest=source, **options))  # type: ignore[arg-type] # options differ from test to test


def bad(findings: list[Finding]) -> Counter[str]:
    assert findings, "silence"
    return Counter(finding.control.id for finding in findings if finding.status in (Status.FAIL, Status.ERROR))


def test_an_untouched_tree_passes_with_positive_findings(root: Path, manifest: Path) -> None:
    findings = check(root, manifest)
    assert not bad(findings)
    passed = {finding.control.id: finding.count for finding in findings if finding.status is Status.PASS}
    assert passed["digest-matches"] == passed["files-present"] == passed["no-extra-files"] == 4
    assert set(passed) >= {"manifest-intact", "names-unambiguous", "no-symlinks", "no-special-files", "paths-contained"}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
def test_each_algorithm_records_and_verifies(root: Path, tmp_path: Path, algorithm: str) -> None:
    record(root, tmp_path / "m.json", algorithm=algorithm)
    assert Manifest.from_json((tmp_path / "m.json").read_bytes()).algorithm == algorithm
    assert not bad(check(root, tmp_path / "m.json"))
    (root / "a.csv").write_bytes(b"1,3\n")
    assert bad(check(root, tmp_path / "m.json")) == {"digest-matches": 1}


def test_a_changed_byte_fails_and_names_the_file(root: Path, manifest: Path) -> None:
    (root / "a.csv").write_bytes(b"1,3\n")
    (finding,) = [f for f in check(root, manifest) if f.status is Status.FAIL]
    assert finding.control.id == "digest-matches"
    assert finding.subject.name == f"{root}/a.csv"
    assert "1,3" not in finding.message


def test_a_missing_file_fails(root: Path, manifest: Path) -> None:
    (root / "deep/c").unlink()
    assert bad(check(root, manifest)) == {"files-present": 1}


def test_an_extra_file_fails_unless_allowed(root: Path, manifest: Path) -> None:
    (root / "deep/.git").mkdir()
    (root / "deep/.git/evil").write_bytes(b"")
    assert bad(check(root, manifest)) == {"no-extra-files": 1}
    findings = check(root, manifest, allow_extra=True)
    assert not bad(findings)
    assert [f.count for f in findings if f.status is Status.SKIP] == [1]


def test_extra_links_fail_even_where_extra_files_are_allowed(root: Path, manifest: Path) -> None:
    (root / "link").symlink_to("a.csv")
    assert bad(check(root, manifest, allow_extra=True)) == {"no-symlinks": 1}


def test_a_file_replaced_by_a_link_to_its_own_content_fails(root: Path, manifest: Path, tmp_path: Path) -> None:
    shutil.copy(root / "a.csv", tmp_path / "same.csv")
    (root / "a.csv").unlink()
    (root / "a.csv").symlink_to(tmp_path / "same.csv")
    assert bad(check(root, manifest)) == {"paths-contained": 1, "files-present": 1}


def test_a_folder_replaced_by_a_link_fails(root: Path, manifest: Path, tmp_path: Path) -> None:
    shutil.move(root / "deep", tmp_path / "moved")
    (root / "deep").symlink_to(tmp_path / "moved")
    assert bad(check(root, manifest)) == {"paths-contained": 1, "files-present": 2}


def test_a_root_that_is_a_link_fails(root: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert "no-symlinks" in bad(check(tmp_path / "alias", manifest))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: bind(path)])
def test_a_special_file_fails(root: Path, manifest: Path, make: Callable[[str], object]) -> None:
    kept = make(str(root / "special"))
    assert bad(check(root, manifest)) == {"no-special-files": 1}
    del kept


def bind(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    return server


def test_names_that_differ_only_by_normalization_fail(root: Path, tmp_path: Path) -> None:
    build(root, {"é": b"composed", "e\u0301": b"decomposed"})
    findings = record(root, tmp_path / "m.json")
    assert bad(findings) == {"names-unambiguous": 1, "manifest-intact": 1}
    assert not (tmp_path / "m.json").exists()


def test_a_name_that_normalizes_to_an_ascii_one_fails(root: Path, tmp_path: Path) -> None:
    build(root, {"K": b"k", "\u212a": b"the Kelvin sign"})
    assert bad(record(root, tmp_path / "m.json")) == {"names-unambiguous": 1, "manifest-intact": 1}


def test_a_file_renamed_to_its_other_normalization_is_named_as_such(root: Path, tmp_path: Path) -> None:
    build(root, {"é": b"x"})
    record(root, tmp_path / "m.json")
    (root / "é").rename(root / "e\u0301")
    assert bad(check(root, tmp_path / "m.json")) == {"names-unambiguous": 1, "files-present": 1, "no-extra-files": 1}


def test_a_name_that_is_not_utf8_fails(root: Path, manifest: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).write_bytes(b"")
    findings = check(root, manifest)
    assert bad(findings) == {"names-unambiguous": 1, "no-extra-files": 1}
    assert all(f.subject.name.isprintable() for f in findings)


def test_names_in_the_manifest_that_lead_outside_are_findings_and_never_opened(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"s")
    for number, name in enumerate(("../secret", str(outside), "deep/../../secret", "a//b", "./a.csv", "")):
        if name:
            evil = Manifest.of("artifact", "sha256", [resource("a.csv", b"1,2\n"), resource(name, b"s")])
            path = tmp_path / f"{number}.json"
            path.write_bytes(evil.to_json())
            found = bad(check(root, path, allow_extra=True))
            assert found == {"paths-contained": 1}, name


def resource(name: str, content: bytes) -> object:
    import hashlib

    from airflow_pipesec.manifest import Resource

    return Resource(name, hashlib.sha256(content).hexdigest())


def test_an_unreadable_file_is_an_error_and_not_a_pass(root: Path, manifest: Path) -> None:
    if os.geteuid() != 0:
        (root / "a.csv").chmod(0)
        assert bad(check(root, manifest)) == {"files-readable": 1}
        return
    for path in (root.parent, *root.parents):
        if path == Path("/tmp"):
            break
        path.chmod(0o755)
    (root / "a.csv").chmod(0)
    (root / "deep").chmod(0)
    # A process of another user: the superuser reads everything.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.write(writer, " ".join(sorted(bad(check(root, manifest)).elements())).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    os.waitpid(pid, 0)
    assert found.split() == ["files-readable", "files-readable"], "what lies behind a closed door is not missing"


def test_a_missing_artifact_is_missing_and_was_not_compared(tmp_path: Path, manifest: Path) -> None:
    assert bad(check(tmp_path / "nowhere", manifest)) == {"files-present": 1, "digest-matches": 1}


def test_an_artifact_without_a_byte_is_not_recorded(tmp_path: Path) -> None:
    build(tmp_path / "hollow", {"a": b"", "b": b""})
    assert bad(record(tmp_path / "hollow", tmp_path / "m.json")) == {"files-present": 1, "manifest-intact": 1}
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json"])
def test_a_missing_or_malformed_manifest_fails(root: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    assert bad(check(root, path)) == {"manifest-intact": 1}


def test_a_manifest_of_nothing_fails(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(Manifest.of("artifact", "sha256", []).to_json())
    assert bad(check(root, path)) == {"manifest-intact": 1}


def test_an_empty_artifact_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "empty/folder").mkdir(parents=True)
    assert bad(record(tmp_path / "empty", tmp_path / "m.json")) == {"files-present": 1, "manifest-intact": 1}
    assert not (tmp_path / "m.json").exists()


def test_a_doubtful_artifact_leaves_the_old_manifest_alone(root: Path, manifest: Path) -> None:
    before = manifest.read_bytes()
    (root / "link").symlink_to("a.csv")
    assert bad(record(root, manifest)) == {"no-symlinks": 1, "manifest-intact": 1}, "a waived link makes no manifest"
    assert manifest.read_bytes() == before


def test_a_manifest_inside_the_artifact_does_not_record_itself(root: Path) -> None:
    inside = root / "deep/manifest.json"
    record(root, inside)
    assert not bad(check(root, inside))
    assert [r.name for r in Manifest.from_json(inside.read_bytes()).resources] == [".hidden", "a.csv", "deep/c", "deep/er/b.bin"]
    record(root, inside)
    assert not bad(check(root, inside)), "recording again gives the same manifest"
    (root / "deep/other.json").write_bytes(b"")
    assert bad(check(root, inside)) == {"no-extra-files": 1}


def test_a_manifest_never_replaces_the_artifact_itself(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "other").symlink_to(tmp_path)
    for target in ("model.bin", "other/model.bin"):
        with pytest.raises(ConfigurationError, match="would replace the artifact itself"):
            record(tmp_path / "model.bin", tmp_path / target)
    assert (tmp_path / "model.bin").read_bytes() == b"weights"


def test_a_single_file_is_recorded_and_verified(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"w")
    record(model, tmp_path / "m.json")
    assert not bad(check(model, tmp_path / "m.json"))
    model.write_bytes(b"v")
    assert bad(check(model, tmp_path / "m.json")) == {"digest-matches": 1}


def test_the_expected_digest_of_a_file(tmp_path: Path) -> None:
    import hashlib

    model = tmp_path / "model.bin"
    model.write_bytes(b"w")
    digest = hashlib.sha512(b"w").hexdigest()
    assert not bad(check(model, expected=f"sha512:{digest}"))
    model.write_bytes(b"v")
    assert bad(check(model, expected=f"sha512:{digest}")) == {"digest-matches": 1}
    model.unlink()
    assert bad(check(model, expected=f"sha512:{digest}")) == {"files-present": 1, "digest-matches": 1}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
def test_the_expected_digest_of_a_tree_binds_names_and_bytes(root: Path, tmp_path: Path, algorithm: str) -> None:
    record(root, tmp_path / "m.json", algorithm=algorithm)
    digest = Manifest.from_json((tmp_path / "m.json").read_bytes()).tree_digest
    assert digest.startswith(f"tree:{algorithm}:")
    assert not bad(check(root, expected=digest))
    (root / "a.csv").rename(root / "a.pkl")
    assert bad(check(root, expected=digest)) == {"digest-matches": 1}
    (root / "a.pkl").rename(root / "a.csv")
    (root / "a.csv").write_bytes(b"1,3\n")
    assert bad(check(root, expected=digest)) == {"digest-matches": 1}


def test_neither_a_file_nor_a_tree_stands_in_for_the_other(root: Path, manifest: Path, tmp_path: Path) -> None:
    recorded = Manifest.from_json(manifest.read_bytes())
    (tmp_path / "fake").write_bytes(b"".join(bytes.fromhex(item.digest) for item in recorded.resources))
    assert bad(check(tmp_path / "fake", expected=recorded.tree_digest)) == {"digest-matches": 1}
    assert bad(check(root, expected=str(recorded.root_digest))) == {"digest-matches": 1}


@pytest.mark.parametrize("value", ["False", "", None, 0, 1])
def test_only_true_and_false_allow_extra_files(root: Path, manifest: Path, value: object) -> None:
    with pytest.raises(ConfigurationError, match="allow_extra"):
        check(root, manifest, allow_extra=value)


def test_a_manifest_replaces_no_file_of_the_artifact_but_its_own_old_self(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="belongs to the artifact"):
        record(root, root / "a.csv")
    assert (root / "a.csv").read_bytes() == FILES["a.csv"]
    assert not bad(record(root, root / "manifest.json"))
    assert not bad(record(root, root / "manifest.json"))


def test_a_manifest_replaces_no_pipe(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not replaced"):
        record(root, tmp_path / "pipe")


def test_a_file_is_not_hidden_behind_the_manifests_name(tmp_path: Path) -> None:
    build(tmp_path / "other/y", {})
    (tmp_path / "other/y").mkdir(parents=True)
    build(tmp_path / "data", {"x/weights": b"1"})
    build(tmp_path / "other", {"x/weights": b"1"})
    (tmp_path / "data/link").symlink_to("../other/y")
    root = tmp_path / "data/link/../x"  # which the system opens as other/x
    manifest = tmp_path / "data/x/evil.pkl"
    record(root, manifest)
    build(tmp_path / "other", {"x/evil.pkl": b"2"})
    assert bad(check(root, manifest)) == {"no-extra-files": 1}


@pytest.mark.parametrize("policy", [{"fail_on": "critical"}])
def test_a_missing_artifact_fails_under_every_policy(root: Path, manifest: Path, tmp_path: Path, policy: dict[str, str]) -> None:
    digest = Manifest.from_json(manifest.read_bytes()).tree_digest
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        for findings in (check(place, expected=digest), check(place, manifest)):
            assert not Policy.load(policy).judge(findings, today=date(2026, 1, 1)).passed
    shutil.copy(root / "a.csv", tmp_path / "elsewhere")
    (root / "a.csv").unlink()
    (root / "a.csv").symlink_to(tmp_path / "elsewhere")
    assert not Policy.load(policy).judge(check(root, manifest), today=date(2026, 1, 1)).passed


@pytest.mark.parametrize("control", ["files-present", "no-symlinks", "files-readable", "names-unambiguous", "no-extra-files"])
def test_a_waiver_for_something_else_never_passes_what_was_not_compared(
    root: Path, manifest: Path, tmp_path: Path, control: str
) -> None:
    waiver = {"control": control, "subject": "*", "reason": "r", "approver": "a", "expires": "2030-01-01", "include_errors": True}
    policy = Policy.load({"waivers": [waiver]})

    def passed(findings: list[Finding]) -> bool:
        return policy.judge(findings, today=date(2026, 1, 1)).passed

    wrong = "tree:sha256:" + "0" * 64
    assert not passed(check(tmp_path / "nowhere", manifest))
    assert not passed(check(build(tmp_path / "other", {"z": b"z"}), manifest, allow_extra=True))
    assert not passed(check(tmp_path / "nowhere", expected=wrong))
    (root / "latest").symlink_to("a.csv")
    assert not passed(check(root, expected=wrong))
    (root / "latest").unlink()
    for name in ("\u00e9", "e\u0301"):
        (root / name).write_bytes(b"x")
    assert not passed(check(root, expected=wrong))


def test_folders_whose_names_cannot_be_told_apart_are_found(tmp_path: Path) -> None:
    build(tmp_path / "t", {"\u00e9/a": b"1", "e\u0301/b": b"2", "K/c": b"3", "\u212a/d": b"4"})
    assert bad(record(tmp_path / "t", tmp_path / "m.json")) == {"names-unambiguous": 2, "manifest-intact": 1}
    build(tmp_path / "fine", {"\u00e9/a": b"1", "\u00e9/b": b"2", "\u00e9/\u00e9/c": b"3"})
    assert not bad(record(tmp_path / "fine", tmp_path / "m.json"))


def test_names_that_lead_outside_are_not_counted_as_present(root: Path, tmp_path: Path) -> None:
    evil = Manifest.of("artifact", "sha256", [resource("a.csv", b"1,2\n"), resource("../secret", b"s")])  # type: ignore[list-item] # see there
    (tmp_path / "m.json").write_bytes(evil.to_json())
    (there,) = [f for f in check(root, tmp_path / "m.json", allow_extra=True) if f.control.id == "files-present"]
    assert (there.status, there.count) == (Status.PASS, 1)


def test_expected_digests_by_name(root: Path, manifest: Path) -> None:
    digests = {r.name: f"sha256:{r.digest}" for r in Manifest.from_json(manifest.read_bytes()).resources}
    assert not bad(check(root, expected=digests))
    del digests["a.csv"]
    assert bad(check(root, expected=digests)) == {"no-extra-files": 1}


@pytest.mark.parametrize(
    "options",
    [{}, {"manifest": True, "expected": "0" * 64}, {"expected": {}}, {"expected": {"a": "0" * 64, "b": "blake3:" + "0" * 64}}],
)
def test_parameters_that_cannot_work_are_errors(root: Path, manifest: Path, options: dict[str, object]) -> None:
    source = manifest if options.pop("manifest", None) else None
    with pytest.raises(ConfigurationError):
        check(root, source, **options)


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="/\\"), min_size=1, max_size=8)
contents = st.binary(max_size=300)


@given(st.dictionaries(names.filter(lambda n: n not in (".", "..")), contents, min_size=1, max_size=6), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_single_change_is_found(tmp_path: Path, files: dict[str, bytes], data: st.DataObject) -> None:
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    build(tmp_path / "t", files)
    assume(not bad(record(tmp_path / "t", tmp_path / "t.json")))
    assert not bad(check(tmp_path / "t", tmp_path / "t.json"))
    victim = tmp_path / "t" / data.draw(st.sampled_from(sorted(files)))
    content = bytearray(victim.read_bytes())
    match data.draw(st.sampled_from(["flip", "append", "rename", "add", "remove"])):
        case "flip" if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
            victim.write_bytes(content)
        case "rename":
            victim.rename(victim.with_name(victim.name + "x"))
        case "add":
            victim.with_name(victim.name + "+").write_bytes(data.draw(contents))
        case "remove":
            victim.unlink()
        case _:
            victim.write_bytes(content + b"\0")
    assert bad(check(tmp_path / "t", tmp_path / "t.json"))
