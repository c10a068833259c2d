"""Access: a person who is known and may passes; nobody, a stranger, and an answer that cannot be had never do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.checks.access import Answer, Asked, NotAnswered, Run, Touch, Wanted, assert_access
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding, Status

OPERATOR = Answer(True, ("op", "user"), True)
VERA = Run("train", "manual", "vera")


def check(
    run: Run = VERA, answer: Answer | Exception = OPERATOR, touches: Sequence[Touch] | Exception = (), **wanted: Any
) -> list[Finding]:
    def ask(asked: Asked) -> Answer:
        assert asked.dag_id == run.dag_id
        if isinstance(answer, Exception):
            raise answer
        return answer

    def touched() -> Sequence[Touch]:
        if isinstance(touches, Exception):
            raise touches
        return touches

    return list(assert_access(run, Wanted(**(wanted or {"allowed_roles": ["op"]})), ask, touched))


def bad(findings: list[Finding]) -> Counter[tuple[str, str]]:
    assert findings, "silence"
    return Counter((f.control.id, f.status.value) for f in findings if f.status in (Status.FAIL, Status.ERROR))


def test_a_person_with_the_role_passes() -> None:
    findings = check()
    assert not bad(findings)
    assert [f.control.id for f in findings] == ["triggered-by-person", "user-known", "role-held"]
    assert all("vera" in f.subject.name for f in findings)


@pytest.mark.parametrize(
    ("wanted", "control"),
    [
        ({"allowed_users": ["olga"]}, "user-allowed"),
        ({"allowed_users": ["VERA"]}, "user-allowed"),
        ({"allowed_roles": ["admin"]}, "role-held"),
        ({"allowed_roles": ["Op"]}, "role-held"),
    ],
)
def test_one_who_is_not_allowed_fails_and_is_told_why(wanted: dict[str, Any], control: str) -> None:
    assert bad(check(**wanted)) == {(control, "fail"): 1}


def test_the_permission_is_airflows_word() -> None:
    wanted = {"permission": ("PUT", "dag_run")}
    assert not bad(check(**wanted))
    assert bad(check(answer=Answer(True, ("op",), False), **wanted)) == {("permission-held", "fail"): 1}
    assert bad(check(answer=Answer(True, ("op",), None), **wanted)) == {("access-asked", "error"): 1}


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (Run("train", "scheduled", None), ("triggered-by-person", "fail")),
        (Run("train", "manual", None), ("triggered-by-person", "fail")),
        (Run("train", "manual", ""), ("triggered-by-person", "fail")),
        (Run("train", "manual", "vera", cleared=1), ("triggered-by-person", "fail")),
        (Run("train", "manual", "dag_test", local=True), ("triggered-by-person", "fail")),
    ],
)
def test_a_run_without_a_person_fails(run: Run, found: tuple[str, str]) -> None:
    assert bad(check(run)) == {found: 1}


def test_scheduled_runs_pass_only_where_they_may() -> None:
    for kind in ("scheduled", "asset_triggered"):
        assert not bad(check(Run("train", kind, None), allowed_roles=["op"], allow_scheduled=True))
    assert bad(check(Run("train", "manual", None), allowed_roles=["op"], allow_scheduled=True))
    assert bad(check(Run("train", "backfill", "stranger"), Answer(False), allowed_roles=["op"], allow_scheduled=True))


def test_a_run_that_somebody_else_touched_fails() -> None:
    clear = "post_clear_task_instances"
    assert not bad(check(touches=[Touch("vera", clear)]))
    assert bad(check(touches=[Touch("vera", clear), Touch("uma", clear)])) == {("triggered-by-person", "fail"): 1}
    assert bad(check(touches=NotAnswered("down"))) == {("access-asked", "error"): 1}
    scheduled = Run("train", "scheduled", None)
    assert bad(check(scheduled, touches=[Touch("vera", clear)], allow_scheduled=True, allowed_roles=["op"]))
    assert bad(check(Run("train", "scheduled", None, cleared=1), allow_scheduled=True, allowed_roles=["op"]))


def test_a_local_test_is_judged_as_the_person_it_names() -> None:
    local = Run("train", "manual", "dag_test", local=True)
    assert not bad(check(local, allowed_roles=["op"], local_user="vera"))
    assert bad(check(local, Answer(True, ("viewer",)), allowed_roles=["op"], local_user="vera"))
    for user in ("uma", "dag_test"):  # whoever takes that name in a real run
        assert bad(check(Run("train", "manual", user), allowed_users=["vera"], local_user="vera")) == {
            ("user-allowed", "fail"): 1
        }


def test_a_stranger_fails_and_an_answer_that_cannot_be_had_is_an_error() -> None:
    assert bad(check(answer=Answer(False, ("op",), True))) == {("user-known", "fail"): 1}
    assert bad(check(answer=NotAnswered("down"))) == {("access-asked", "error"): 1}


def other(name: str) -> Callable[[], str]:
    return lambda: name


def fails() -> str:
    raise NotAnswered("nobody is known to have approved it")


@pytest.mark.parametrize(
    ("apart", "found"),
    [
        (other("olga"), {}),
        (other("vera"), {("duties-separated", "fail"): 1}),
        (other("Vera"), {("duties-separated", "fail"): 1}),
        (other(" vera "), {("duties-separated", "fail"): 1}),
        (other(""), {("duties-separated", "fail"): 1}),
        (fails, {("duties-separated", "error"): 1}),
    ],
)
def test_four_eyes_are_two_people(apart: Callable[[], str], found: dict[tuple[str, str], int]) -> None:
    assert bad(check(apart_from=apart)) == found


@pytest.mark.parametrize(
    "wanted",
    [
        {"allow_scheduled": True},
        {"allowed_users": "vera"},
        {"allowed_roles": [1]},
        {"allowed_roles": [""]},
        {"permission": ("PATCH", "dag_run")},
        {"permission": ("PUT",)},
        {"permission": 5},
        {"permission": ("PUT", 5)},
        {"allowed_users": None},
        {"allowed_roles": 5},
    ],
)
def test_what_requires_nothing_or_cannot_be_required_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        check(**wanted)


@given(
    st.sampled_from([None, "", "vera"]),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([OPERATOR, Answer(False), Answer(True), Answer(True, ("viewer",), False), NotAnswered("x")]),
)
def test_only_a_known_person_with_the_role_passes(user: str | None, local: bool, cleared: int, answer: Any) -> None:
    findings = check(Run("train", "manual", user, cleared, local), answer)
    assert (not bad(findings)) == (user == "vera" and not local and not cleared and answer is OPERATOR)
