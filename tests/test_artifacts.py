"""An artifact passes only if every file of it was looked at and uses nothing but what is allowed."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from airflow_pipesec.checks.artifacts import scan_artifact
from airflow_pipesec.checks.integrity import take_stock
from airflow_pipesec.cli import main
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.policy import Policy, Verdict
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.opinions import Command, opinions_from
from airflow_pipesec.storage import Store, open_store
from tests.servers import S3Server

SHIPPED = AllowList.shipped()


class Gadget:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def judged(store: Store, **options: Any) -> Verdict:
    return Policy().judge(scan_artifact(store, options.pop("allow", SHIPPED), **options), today=date(2026, 11, 25))


def blocking(store: Store, **options: Any) -> list[tuple[str, str]]:
    return [(finding.control.id, finding.message) for finding in judged(store, **options).blocking]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    joblib.dump(fitted, folder / "model.joblib")
    np.save(folder / "means.npy", np.arange(3))
    (folder / "README.md").write_text("# A model\n")
    (folder / "config.json").write_text('{"classes": ["no", "yes"]}')
    return folder


def test_a_model_that_uses_only_allowed_names_passes_and_the_names_are_told(model: Path) -> None:
    verdict = judged(open_store(model))
    assert verdict.passed, verdict.reason
    texts = {item.finding.subject.name.rpartition("/")[2]: item.finding.message for item in verdict.judged}
    assert "sklearn.linear_model._logistic:LogisticRegression" in texts["model.joblib"]
    assert texts["means.npy"] == "uses no name of any library"
    assert "4 files of known formats: json (1), npy (1), pickle (1), text (1)" in texts["model"]


def test_the_evidence_names_the_digest_of_what_was_looked_at(model: Path) -> None:
    import hashlib

    file = model / "model.joblib"
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    subjects = [item.finding.subject for item in judged(open_store(model)).judged]
    assert digest in [subject.digest for subject in subjects]
    assert take_stock(open_store(model))[0].digest in [subject.digest for subject in subjects if subject.name == str(model)]
    (finding,) = (item.finding for item in judged(open_store(file)).judged if item.finding.control.id == "artifact-allow-listed")
    assert finding.subject.digest == digest
    assert not any(item.finding.subject.digest for item in judged(open_store(file), digests=False).judged)


def test_a_malicious_model_blocks_and_nothing_of_it_happens(model: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    joblib.dump([1, Gadget(marker)], model / "model.joblib")
    ((control, message),) = blocking(open_store(model))
    assert control == "artifact-allow-listed"
    assert message.startswith("unsafe: it refers to io:open, which is not on the allow-list (at byte ")
    assert not marker.exists()


def test_the_name_of_a_file_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(pickle.dumps(Gadget(tmp_path / "marker")))
    ((control, _),) = blocking(open_store(tmp_path))
    assert control == "artifact-allow-listed"


def test_what_nobody_can_judge_blocks(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x01\x02\x03\xff" * 100)
    (tmp_path / "empty.pkl").write_bytes(b"")
    found = blocking(open_store(tmp_path))
    assert {control for control, _ in found} == {"artifact-scannable"}
    assert {message for _, message in found} == {
        "unscannable: it is of no format that is known here",
        "unscannable: it is empty",
    }


def test_a_waiver_lets_one_file_of_an_unknown_format_be(model: Path) -> None:
    (model / "weights.bin").write_bytes(b"\x01\x02\x03\xff" * 100)
    waiver = {
        "control": "artifact-scannable",
        "subject": "*/weights.bin",
        "reason": "read by our own loader, as numbers",
        "approver": "vera@example.org",
        "expires": "2027-01-31",
    }
    findings = list(scan_artifact(open_store(model), SHIPPED))
    assert not Policy().judge(findings, today=date(2026, 11, 25)).passed
    assert Policy.load({"fail_on": "medium", "waivers": [waiver]}).judge(findings, today=date(2026, 11, 25)).passed


def test_nothing_and_what_cannot_be_read_never_pass(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert blocking(open_store(tmp_path / "empty")) == [("artifact-scannable", "holds no file at all")]
    assert "does not exist" in blocking(open_store(tmp_path / "nothing"))[0][1]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.txt").write_text("text")
    (tmp_path / "linked" / "b.txt").symlink_to("a.txt")
    assert blocking(open_store(tmp_path / "linked")) == [("artifact-scannable", "is a symbolic link")]


def test_a_file_that_changes_while_it_is_looked_at_is_told(model: Path) -> None:
    path = model / "means.npy"

    class Meddler(Command):
        def ask(self, view: Any, called: str) -> tuple[Status, str]:
            path.write_bytes(b"something else")
            return Status.PASS, "finds nothing"

    with pytest.raises(StorageError, match="changed while it was looked at"):
        list(scan_artifact(open_store(path), SHIPPED, opinions=[Meddler("meddler", ("true",))]))


def test_many_problems_of_one_file_are_summed(tmp_path: Path) -> None:
    data = b"\x80\x02" + b"".join(b"cmodule\nname%d\n0" % number for number in range(30)) + b"N."
    (tmp_path / "m.pkl").write_bytes(data)
    findings = list(scan_artifact(open_store(tmp_path / "m.pkl"), SHIPPED))
    assert [finding.count for finding in findings if finding.status is Status.FAIL] == [1] * 10 + [20]
    assert findings[-1].message == "is unsafe for 20 more reasons"


def test_the_users_list_adds_exact_names_and_can_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04\x8c\x06my.lib\x8c\x05Model\x93)\x81}b.")
    store = open_store(tmp_path / "m.pkl")
    assert blocking(store)
    assert not blocking(store, allow=AllowList.load({"new": {"my.lib": ["Model"]}}))
    assert not blocking(store, allow=AllowList.load(["my.lib:Model"]))
    joblib.dump(np.arange(3), tmp_path / "a.joblib")
    assert blocking(open_store(tmp_path / "a.joblib"), allow=AllowList.load({"shipped": False, "new": {"my.lib": ["Model"]}}))


@pytest.mark.parametrize(
    ("allow", "why"),
    [
        ({"new": {"my.lib": ["*"]}}, "no exact name"),
        ({"new": {"my.*": ["Model"]}}, "no exact name"),
        ({"call": {"my.lib": {"make": ["anything"]}}}, "anything is no argument"),
        ({"call": {"my.lib": {"make": "anything"}}}, "how it may be called"),
        ({"allow": {}}, "no section of an allow-list"),
        ({"shipped": "no"}, "true or false"),
        (["os.system"], "is no name"),
        ({"new": ["my.lib"]}, "mapping of modules"),
        (7, "allow is a int"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_an_allow_list_that_is_none_is_told(allow: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        AllowList.load(allow)


def test_the_shipped_lists_are_strict_yaml_and_list_nothing_twice() -> None:
    from airflow_pipesec.documents import strict_yaml
    from airflow_pipesec.scan.allow import HERE, LISTS

    files = sorted(HERE.glob("*.yaml"))
    assert len(files) >= 10
    for path in files:
        document = strict_yaml(path.read_bytes(), path.name)
        assert document["library"], path
        for right in ("new", "name"):
            for module, names in (document.get(right) or {}).items():
                assert len(names) == len(set(names)), (path, module)
        # What is read only for a format holds nothing for the others.
        if found := set(document) & set(LISTS):
            assert set(document) <= {"library", "versions", *found}, path
            assert all(SHIPPED.section(section) == set(document[section]) for section in found), path


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("builtins", "open"),
        ("io", "open"),
        ("os", "system"),
        ("posix", "system"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("functools", "reduce"),
        ("importlib", "import_module"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("joblib", "load"),
        ("joblib.numpy_pickle_compat", "NDArrayWrapper"),
        ("pandas", "read_pickle"),
        ("pandas", "eval"),
        ("pickle", "loads"),
        ("types", "FunctionType"),
        ("types", "CodeType"),
        ("sklearn.externals.joblib", "load"),
        ("cloudpickle.cloudpickle", "_make_function"),
    ],
)
def test_what_calls_imports_or_opens_is_not_on_the_shipped_lists(name: tuple[str, str]) -> None:
    assert not SHIPPED.has(*name)


def onnx_like(location: str) -> bytes:
    """An ONNX model with one initializer whose numbers lie elsewhere."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    tensor = b"\x08\x01\x10\x01" + field(8, b"w") + field(13, field(1, b"location") + field(2, location.encode())) + b"\x70\x01"
    graph = field(2, b"graph") + field(5, tensor)
    return b"\x08\x08" + field(7, graph) + field(8, field(1, b"") + b"\x10\x11")


def test_the_tensors_that_an_onnx_model_refers_to_are_known(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_like("model.data"))
    (tmp_path / "model.data").write_bytes(b"\x01\x02\x03\xff" * 10)
    assert not blocking(open_store(tmp_path))
    (tmp_path / "other.data").write_bytes(b"\x01\x02\x03\xff" * 10)
    assert [control for control, _ in blocking(open_store(tmp_path))] == ["artifact-scannable"]
    (tmp_path / "other.data").unlink()
    (tmp_path / "model.onnx").write_bytes(onnx_like("../model.data"))
    assert "artifact-allow-listed" in {control for control, _ in blocking(open_store(tmp_path))}


def torch_like(path: Path, megabytes: int) -> None:
    """What torch.save makes of a dictionary of tensors, made without torch."""
    rebuilt, parts = b"", []
    for number in range(megabytes):
        key = str(number).encode()
        rebuilt += (
            b"\x8c" + bytes([len(key)]) + key + b"ctorch._utils\n_rebuild_tensor_v2\n((\x8c\x07storagectorch\nFloatStorage\n"
            b"\x8c"
            + bytes([len(key)])
            + key
            + b"\x8c\x03cpuJ"
            + (262_144).to_bytes(4, "little")
            + b"tQK\x00J"
            + (262_144).to_bytes(4, "little")
            + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
        )
        parts.append((f"archive/data/{number}", bytes(1 << 20)))
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", b"\x80\x02}(" + rebuilt + b"u.")
        for name, data in [*parts, ("archive/version", b"3\n"), ("archive/byteorder", b"little")]:
            made.writestr(name, data)


def test_of_a_torch_archive_in_s3_only_what_is_needed_is_read(s3_server: S3Server, tmp_path: Path) -> None:
    torch_like(tmp_path / "model.pt", 24)
    client, sizes = s3_server.client(), []
    client.create_bucket(Bucket="models")
    client.upload_file(str(tmp_path / "model.pt"), "models", "model.pt")
    client.meta.events.register("after-call.s3.GetObject", lambda parsed, **_: sizes.append(parsed["ContentLength"]))
    verdict = judged(open_store("s3://models/model.pt", client=client), digests=False)
    assert verdict.passed, [finding.message for finding in verdict.blocking]
    assert sum(sizes) < 2 << 20
    assert judged(open_store("s3://models/model.pt", client=client)).passed
    assert sum(sizes) > 24 << 20, "with the digest all of it is read"


def test_a_thousand_small_files_are_one_call(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(3))
    for number in range(1000):
        (tmp_path / f"{number}.pkl").write_bytes(data)
    verdict = judged(open_store(tmp_path))
    assert verdict.passed
    assert max(item.finding.count for item in verdict.judged) == 1000


def test_progress_counts_every_file(model: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    list(scan_artifact(open_store(model), SHIPPED, progress=lambda *numbers: seen.append(numbers)))
    assert sum(files for files, _, _ in seen) == 4
    assert {total for _, _, total in seen} == {4}


def test_the_stricter_opinion_wins(model: Path) -> None:
    file = open_store(model / "model.joblib")
    assert not blocking(file, opinions=opinions_from("mine=true"))
    assert [control for control, _ in blocking(file, opinions=opinions_from("mine=false"))] == ["artifact-second-opinion"]
    script = [sys.executable, "-c", "import sys, os; sys.exit(7 if 'AIRFLOW_HOME' not in os.environ else 0)"]
    asked = Command("strange", tuple(script))
    (finding,) = (found for found in scan_artifact(file, SHIPPED, opinions=[asked]) if found.status is Status.ERROR)
    assert finding.message == "strange gave no answer (exit code 7)"


def test_a_scanner_that_hangs_or_is_not_there_gives_no_pass(model: Path) -> None:
    file = open_store(model / "means.npy")
    slow = Command("slow", (sys.executable, "-c", "import time; time.sleep(30)"), seconds=0.2)
    assert "gave no answer" in str(blocking(file, opinions=[slow]))
    with pytest.raises(ConfigurationError, match="cannot be started"):
        blocking(file, opinions=opinions_from("gone=/nowhere/scanner"))
    for text in ("modelscan", "=x", "x=", "x='"):
        with pytest.raises(ConfigurationError, match="no other scanner"):
            opinions_from(text)


def test_picklescan_is_asked_in_this_process(tmp_path: Path) -> None:
    pytest.importorskip("picklescan")
    (tmp_path / "m.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    controls = {control for control, _ in blocking(open_store(tmp_path), opinions=opinions_from(["picklescan"]))}
    assert controls == {"artifact-allow-listed", "artifact-second-opinion"}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([1]))
    assert not blocking(open_store(tmp_path), opinions=opinions_from("picklescan"))


def test_another_scanner_sees_a_private_copy_under_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps([1]))
    script = (
        "import sys, pathlib; p = pathlib.Path(sys.argv[1]); sys.exit(p.name != 'model.pkl' or p.parent == pathlib.Path({!r}))"
    )
    asked = Command("nosy", (sys.executable, "-c", script.format(str(tmp_path))))
    assert not blocking(open_store(tmp_path), opinions=[asked])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_the_command_line_says_what_it_found(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "scan", model)
    assert code == 0
    assert out.startswith(f"PASSED  scan {model}")
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(pickle.dumps(Gadget(tmp_path / "marker")))
    code, out, _ = run(capsys, "scan", model, bad)
    assert code == 1
    assert "refers to io:open" in out
    code, out, _ = run(capsys, "scan", bad, "--json")
    assert code == 1
    assert json.loads(out)["blocking_controls"] == ["artifact-allow-listed"]
    assert run(capsys, "scan", bad, "--allow", tmp_path / "none.yaml")[0] == 2


def test_a_suggested_allow_list_is_just_enough(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "scan", model, "--suggest-allow")
    assert code == 0
    assert err.startswith("PASSED")
    (tmp_path / "allow.yaml").write_text(out)
    own = AllowList.load(tmp_path / "allow.yaml")
    assert ("sklearn.linear_model._logistic", "LogisticRegression") in own.new
    assert len(own.new) + len(own.call) + len(own.name) < 12
    assert not blocking(open_store(model), allow=own)
    joblib.dump(np.random.RandomState(0), tmp_path / "other.joblib")
    assert blocking(open_store(tmp_path / "other.joblib"), allow=own)
    assert not blocking(open_store(tmp_path / "other.joblib"))
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Gadget(tmp_path / "marker")))
    code, out, _ = run(capsys, "scan", tmp_path / "bad.pkl", "--suggest-allow")
    assert code == 1
    assert "# refused, and to be added only by who knows what it does: io:open" in out


def test_no_message_holds_what_is_in_the_file(tmp_path: Path) -> None:
    secret = "s3cr3t-value-in-the-model"
    for name, data in {
        "a.pkl": pickle.dumps({"token": secret, "x": Gadget(tmp_path)}),
        "b.json": json.dumps({"token": secret, "auto_map": {"AutoModel": "x.Y"}}).encode(),
        "c.pkl": pickle.dumps([secret])[:-1],
        "d.npy": b"\x93NUMPY\x01\x00\x20\x00" + secret.encode().ljust(32),
    }.items():
        (tmp_path / name).write_bytes(data)
    findings: list[Finding] = list(scan_artifact(open_store(tmp_path), SHIPPED))
    assert len([finding for finding in findings if finding.status is Status.FAIL]) == 4
    assert secret not in "".join(f"{finding.subject} {finding.message}" for finding in findings)


def test_nothing_is_left_behind_and_nothing_is_written(model: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    shutil.make_archive(str(tmp_path / "packed"), "gztar", model)
    file = io.BytesIO()
    joblib.dump(np.zeros(100_000), file, compress=3)
    (tmp_path / "z.joblib").write_bytes(file.getvalue())
    added = {tmp_path / "packed.tar.gz", tmp_path / "z.joblib"}
    assert not blocking(open_store(tmp_path))
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path not in added}
    assert after == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("pipesec-")]
