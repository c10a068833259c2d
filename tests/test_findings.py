"""Findings: text from outside becomes harmless, a pass examined something, and a cap keeps the total."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.errors import FindingError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, printable

CONTROL = Control("is-good", "It is good", Severity.HIGH, remedy="Make it good.")
anything = st.text(st.characters())


@given(anything)
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()


@given(anything, anything)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[2J", "\u202egnp.exe", "\udcff", "a\rb", "\u200b", "\\n"])
def test_hostile_names_are_escaped(hostile: str) -> None:
    assert printable(hostile) != hostile
    assert Subject(hostile).name.isprintable()
    assert Finding(CONTROL, Subject("s"), Status.FAIL, hostile).message.isprintable()


def test_a_pass_that_examined_nothing_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one thing examined"):
        Finding(CONTROL, Subject("s"), Status.PASS, "looks good", count=0)
    assert Finding(CONTROL, Subject("s"), Status.FAIL, "nothing there", count=0).count == 0


def test_a_finding_has_its_controls_severity_unless_it_brings_its_own() -> None:
    assert Finding(CONTROL, Subject("s"), Status.FAIL, "").level is Severity.HIGH
    assert Finding(CONTROL, Subject("s"), Status.FAIL, "", severity=Severity.LOW).level is Severity.LOW


@pytest.mark.parametrize(
    "wrong", [{"status": "FAIL"}, {"status": False}, {"count": float("nan")}, {"count": True}, {"severity": 0}]
)
def test_what_is_no_finding_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"has a status that is none|whole number|severity"):
        Finding(**{"control": CONTROL, "subject": Subject("s"), "status": Status.FAIL, "message": "m"} | wrong)
    with pytest.raises(ValueError, match="severity"):
        Finding(Control("c", "C", "critical", remedy="r"), Subject("s"), Status.FAIL, "m")  # type: ignore[arg-type] # what is tested


def test_a_status_may_be_written_as_text() -> None:
    assert Finding(CONTROL, Subject("s"), "skip", "m").status is Status.SKIP  # type: ignore[arg-type] # what is tested


def test_severities_are_ordered() -> None:
    assert Severity.INFO < Severity.LOW < Severity.MEDIUM < Severity.HIGH < Severity.CRITICAL


@pytest.mark.parametrize(
    "parts", [{"control": "is-good"}, {"subject": "/data/a"}, {"message": 5}, {"message": None}, {"subject": None}]
)
def test_a_finding_with_a_part_of_the_wrong_type_is_refused(parts: dict[str, Any]) -> None:
    whole = {"control": CONTROL, "subject": Subject("x"), "status": Status.PASS, "message": "m"}
    with pytest.raises(FindingError, match="give a"):
        Finding(**(whole | parts))


def test_a_subject_is_named_by_text() -> None:
    with pytest.raises(FindingError, match="give text"):
        Subject(Path("/data"))  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize("parts", [{"id": ""}, {"remedy": None}, {"title": 5}])
def test_a_control_has_its_texts(parts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give text"):
        Control(**({"id": "c", "title": "t", "severity": Severity.LOW, "remedy": "r"} | parts))


def test_a_control_cannot_forge_a_line() -> None:
    control = Control("c\nPASSED", "t\r", Severity.LOW, remedy="\x1b[31mred")
    assert all(text.isprintable() for text in (control.id, control.title, control.remedy))
