"""Statements and names: what is read says just what was written, whatever stands there."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import (
    Attempt,
    Attestation,
    read_attestation,
    seal,
    statement,
    unseal,
)
from airflow_pipesec.documents import DEEPEST, MOST, canonical
from airflow_pipesec.errors import EvidenceError
from airflow_pipesec.evidence import Entry, RunEvidence, folder_of, name_of, part_of
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.operators import GuardOperator
from airflow_pipesec.storage import LocalStore
from tests.fuzz_evidence import (
    DOCUMENTS,
    ED25519,
    HOSTILE,
    KEYS,
    PLAIN,
    TRUSTED,
    attestation,
    mutated,
    run,
    sealed,
    summary,
)
from tests.runner import RunTask
from tests.test_attestation import ANY_JSON, ANY_TEXT, refused

# ---- the statement


def places(part: Any) -> Iterator[tuple[Any, Any]]:
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in list(inner):
        yield part, key
        yield from places(value)


def understood(document: Any) -> Attestation | None:
    """What a statement attests, which has to be all that it says."""
    try:
        read = read_attestation(document)
    except EvidenceError:
        return None
    assert canonical(statement(read)) == canonical(document)
    return read


@pytest.mark.parametrize("attested", [attestation(), PLAIN], ids=["everything", "little"])
def test_a_statement_with_anything_else_in_any_of_its_places_is_refused_or_says_just_that(attested: Attestation) -> None:
    number = len(list(places(statement(attested))))
    accepted = 0
    for place in range(number):
        for hostile in HOSTILE:
            document = json.loads(canonical(statement(attested)))
            holder, key = list(places(document))[place]
            before, holder[key] = holder[key], hostile
            accepted += understood(document) is not None and before != hostile
        document = json.loads(canonical(statement(attested)))
        holder, key = list(places(document))[place]
        del holder[key]
        accepted += understood(document) is not None
        for more in ("more", "url", "$", ""):
            document = json.loads(canonical(statement(attested)))
            holder, _ = list(places(document))[place]
            if isinstance(holder, dict) and more not in holder:
                holder[more] = "x"
                accepted += understood(document) is not None
    assert accepted  # another reason, another name: a statement that says just that
    assert accepted < number * len(HOSTILE) / 3


@pytest.mark.parametrize("member", ["dag", "run", "task", "attempt"])
def test_an_id_that_is_empty_or_no_text_is_refused(member: str) -> None:
    for value in ("", "\ud800", None, 7, ["x"]):
        document = statement(attestation())
        document["predicate"]["airflowPipesec"][member] = value
        with pytest.raises(EvidenceError):
            read_attestation(document)


def test_a_policy_in_a_statement_is_an_object() -> None:
    for policy in (b"[1]", b'"x"', b"7", b"true", b"{", b'{"a": 1}'):
        document = statement(attestation())
        (config, _) = document["predicate"]["configuration"]
        config |= {"content": base64.b64encode(policy).decode(), "digest": {"sha256": hashlib.sha256(policy).hexdigest()}}
        with pytest.raises(EvidenceError):
            read_attestation(document)


def test_a_verification_summary_is_no_attestation() -> None:
    for document in (summary(), summary(False), {}, DOCUMENTS[-1]):
        with pytest.raises(EvidenceError, match="is not a"):
            read_attestation(document)


# ---- what the controls are


TOLD = {"title": "t", "severity": "high", "remedy": "r", "references": ["CWE-354"]}


def test_a_statement_that_explains_no_control_is_written_as_ever() -> None:
    assert "controls" not in statement(PLAIN)["predicate"]["airflowPipesec"]
    assert read_attestation(statement(PLAIN)).controls == {}
    document = statement(PLAIN)
    document["predicate"]["airflowPipesec"]["controls"] = {}
    with pytest.raises(EvidenceError):
        read_attestation(document)


@pytest.mark.parametrize("member", TOLD)
def test_a_control_is_explained_by_just_its_four_members(member: str) -> None:
    document = statement(attestation())
    controls = document["predicate"]["airflowPipesec"]["controls"] = {"c": TOLD}
    assert read_attestation(document).controls == controls
    for hostile in (*HOSTILE, ["x", 1], [["x"]], {"x": "y"}, {"0": "x"}):
        document["predicate"]["airflowPipesec"]["controls"] = {"c": {**TOLD, member: hostile}}
        text = isinstance(hostile, str) and member != "references" and hostile != "\ud800"
        listed = isinstance(hostile, list) and all(isinstance(item, str) for item in hostile) and member == "references"
        assert (understood(document) is not None) == (text or listed), hostile
    for wrong in ({**TOLD, "more": "x"}, {key: TOLD[key] for key in TOLD if key != member}):
        document["predicate"]["airflowPipesec"]["controls"] = {"c": wrong}
        assert understood(document) is None


class Explained(GuardOperator):
    """A guard with many controls, of which one blocks."""

    def findings(self, context: Any) -> Iterator[Finding]:
        """Yield one finding a control, the one that fails last."""
        for number in range(self.number):
            control = Control(f"c-{number}", f"Title {number}", Severity.LOW, "Mend\nit.", ("CWE-1", "a\x1bb"))
            yield Finding(control, Subject("s"), Status.PASS, "good")
        yield Finding(Control("bad", "It is good", Severity.HIGH, "Mend it."), Subject("s"), Status.FAIL, "is bad")

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number


@pytest.mark.parametrize("number", [2, 600])
def test_a_guard_attests_what_its_controls_are_and_first_those_that_block(run_task: RunTask, evidence: Path, number: int) -> None:
    assert run_task(Explained(task_id="g", number=number)).state == "failed"
    (path,) = evidence.rglob("*.json")
    document = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    controls = read_attestation(document).controls
    assert len(controls) == min(number + 1, 500)
    assert controls["bad"] == {"title": "It is good", "severity": "high", "remedy": "Mend it.", "references": []}
    first = {"title": "Title 0", "severity": "low", "remedy": "Mend\\nit.", "references": ["CWE-1", "a\\x1bb"]}
    assert controls["c-0"] == first


@given(st.binary(max_size=300))
def test_whatever_the_bytes_what_is_raised_is_ours(data: bytes) -> None:
    refused(data)
    with suppress(EvidenceError):
        unseal(sealed(data), TRUSTED)


@given(ANY_JSON)
def test_whatever_the_json_what_is_raised_is_ours(document: Any) -> None:
    for raw in (json.dumps(document), json.dumps(document, sort_keys=True, separators=(",", ":"))):
        refused(raw.encode())
        with suppress(EvidenceError):
            unseal(sealed(raw.encode()), TRUSTED)
    assert understood(document) is None
    for name in ("_type", "subject", "predicateType", "predicate"):
        assert understood(statement(attestation()) | {name: document}) is None


@given(st.integers(0, 2**64))
def test_a_document_that_was_meddled_with_is_refused_or_says_just_that(seed: int) -> None:
    data = mutated(random.Random(seed))
    with suppress(EvidenceError):
        understood(unseal(sealed(data), TRUSTED).document)
    with suppress(ValueError, RecursionError):
        understood(json.loads(data))


@pytest.mark.parametrize("depth", [100, 900, 990, 5000, 100_000])
def test_a_statement_that_is_nested_without_end_is_refused(depth: int) -> None:
    nested: Any = {}
    for _ in range(depth):
        nested = {"a": nested}
    document = statement(attestation()) | {"predicate": nested}
    with pytest.raises(EvidenceError):
        read_attestation(document)
    document = statement(attestation())
    document["predicate"]["airflowPipesec"]["findings"] = [nested]
    with pytest.raises(EvidenceError):
        read_attestation(document)


def test_what_is_read_does_not_depend_on_the_depth_of_the_callers_stack() -> None:
    """Where the stack ends within ours, that is an EvidenceError; Python's own comes only where not even the call fits."""
    levels = DEEPEST - 8
    nested: Any = []
    for _ in range(levels - 2):
        nested = [nested]
    envelope = sealed(canonical({"a": nested}))
    calls = [partial(unseal, envelope, TRUSTED), partial(read_attestation, {"predicate": nested})]
    unseal(envelope, TRUSTED)
    leaked, reached = 0, 0

    def deep(level: int) -> None:
        nonlocal leaked, reached
        if level:
            deep(level - 1)
            return
        for call in calls:
            reached += 1
            try:
                call()
            except EvidenceError:
                pass
            except RecursionError:
                leaked += 1

    left = sys.getrecursionlimit() - len(inspect.stack(0))
    for level in range(left - 400, left):
        with suppress(RecursionError):  # of deep() itself
            deep(level)
    assert reached >= 2 * 390
    assert leaked < 20, "of 800 calls"


# ---- names


TRICKS = [
    "..", ".", "../../etc/passwd", "/etc/passwd", "a/../b", "a/./b", "//", "a//b", "\\..\\x", "C:\\x", "%2e%2e", "%2F", "~",
    "~root",
    "a\0b", "\n", "-rf", "--", ".hidden", "x.json", "x.vsa.json", "con", "é", "e\u0301", "😀", "\u202e", "a" * 5000, "é" * 300,
    "%" * 500,
    " ", "*", "?", "a=b&c", "s3://b/k", "group.task", "A", "a",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKS)
def test_ids_with_the_tricks_of_paths_survive_and_stay_in_their_folder(text: str, tmp_path: Path) -> None:
    attempt = Attempt(text, text, text, -1, 1, "019abcde-0000-7000-8000-000000000001")
    envelope = seal(statement(attestation(attempt=attempt)), ED25519)
    assert read_attestation(unseal(envelope, TRUSTED).document).attempt == attempt
    folder = tmp_path / "evidence" / folder_of(text, text)
    run = RunEvidence(LocalStore(folder))
    run.write(attempt, envelope)
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written == folder / part_of(text) / "-1.1.019abcde-0000-7000-8000-000000000001.json"
    assert len(written.relative_to(tmp_path / "evidence").parts) == 4
    found = run.load(text, text, TRUSTED)
    assert [witness.attested.attempt for witness in found.witnesses.values()] == [attempt]
    assert not found.refused


def is_a_part(part: str) -> bool:
    return part not in ("", ".", "..") and not {"/", "\0"} & set(part) and part.isascii() and len(part) <= 255


@given(st.text())
def test_a_part_of_a_name_is_one_and_leads_nowhere(text: str) -> None:
    if text:
        assert is_a_part(part_of(text))
        assert folder_of(text, text).split("/") == [part_of(text)] * 2
        attempt = Attempt(text, text, text, 7, 1, "0")
        task, file = name_of(attempt).split("/")
        assert (task, file) == (part_of(text), "7.1.0.json")
        assert Entry.of(name_of(attempt)) == Entry(part_of(text), 7, 1, "0", name_of(attempt))


@given(st.text(), st.text(), st.integers(0, 300))
def test_different_texts_have_different_parts(one: str, other: str, much: int) -> None:
    for first, second in (
        (one, other),
        (one * much, other * much),
        ("x" * much + one, "x" * much + other),
        ("é" * much + one, other),
    ):
        assert (part_of(first) == part_of(second)) == (first == second)
    assert part_of(one) == one or not re.fullmatch("[-_+:=@,A-Za-z0-9]+", one) or len(one) > 200


def test_no_text_at_all_has_a_part_too() -> None:
    assert is_a_part(part_of(""))
    assert folder_of("", "r").count("/") == 1
    assert len({part_of(text) for text in ("", "%", " ", ".")}) == 4


@given(ANY_TEXT, st.sampled_from(["", "\ud800", "\udfff" * 300]))
def test_half_a_surrogate_pair_in_an_id_has_a_part(text: str, half: str) -> None:
    assert part_of(text + half) != part_of(half + text) or text + half == half + text
    assert is_a_part(part_of("a" + text + half))


@given(st.text(min_size=201))
def test_no_text_can_be_written_that_has_the_part_of_a_longer_one(text: str) -> None:
    assert part_of(part_of(text)) != part_of(text)


def test_a_number_in_a_name_that_is_too_long_for_one_makes_it_none() -> None:
    assert Entry.of(f"t/{'9' * 5000}.1.0.json") is None
    assert Entry.of(f"t/-1.{'9' * 5000}.0.json") is None
    largest = Entry.of(f"t/{MOST}.{MOST}.0.json")
    assert largest is not None
    assert (largest.map_index, largest.try_number) == (MOST, MOST)


@given(st.text(st.sampled_from("-0123456789abcXYZ./\0é\n")))
def test_an_attempts_id_is_letters_digits_and_hyphens(attempt: str) -> None:
    asked = Attempt("d", "r", "t", -1, 1, attempt)
    if re.fullmatch("[-0-9A-Za-z]{1,64}", attempt):
        assert name_of(asked) == f"t/-1.1.{attempt}.json"
    else:
        with pytest.raises(EvidenceError, match="not a UUID"):
            name_of(asked)


@given(ANY_TEXT)
def test_a_name_that_is_none_is_no_error(text: str) -> None:
    for name in (text, f"{text}.json", f"t/{text}.json", f"t/-1.1.{text}.json", f"{text}/-1.1.0.json"):
        entry = Entry.of(name)
        assert entry is None or f"{entry.task}/{entry.map_index}.{entry.try_number}.{entry.attempt}.json" == name


@given(ANY_TEXT.filter(lambda text: not text.isprintable()))
def test_half_a_surrogate_pair_in_an_id_is_one_clear_error(text: str) -> None:
    for attempt in (
        Attempt(text, "r", "t", -1, 1, "0"),
        Attempt("d", text, "t", -1, 1, "0"),
        Attempt("d", "r", text, -1, 1, "0"),
    ):
        try:
            text.encode()
        except UnicodeEncodeError:
            with pytest.raises(EvidenceError, match="half a surrogate pair"):
                seal(statement(attestation(attempt=attempt)), ED25519)
        else:
            assert seal(statement(attestation(attempt=attempt)), ED25519)


# ---- fuzzing


def test_fuzzing_for_a_while_finds_nothing() -> None:
    assert run(seconds=4, seed=20261125) > 100
    assert run(seconds=2, seed=random.randrange(2**32)) > 100


def test_the_fuzz_target_says_when_atheris_is_missing() -> None:
    import importlib.util

    if importlib.util.find_spec("atheris") is not None:
        pytest.skip("atheris is installed")
    done = subprocess.run([sys.executable, "-m", "tests.fuzz_evidence"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "atheris is not installed" in done.stderr


def test_the_fuzz_target_notices_a_forgery(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import fuzz_evidence

    stranger = seal({"predicateType": "y"}, ED25519)  # signed, and not among what the target knows to be
    with pytest.raises(AssertionError, match="forgery"):
        fuzz_evidence.one_input(stranger)
    assert KEYS
