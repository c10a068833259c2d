"""What a worker is told of a run's tasks: every instance, whoever acted, and no answer rather than half of one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from airflow_pipesec.acts import Act
from airflow_pipesec.checks.access import NotAnswered
from airflow_pipesec.guards.airflow_api import AirflowAPI

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
R = "r1"


class Told(AirflowAPI):
    """Answers as the test says."""

    def __init__(self, answers: Any) -> None:
        super().__init__("airflow_api")
        self.answers = answers

    def _get(self, path: str, *, query: dict[str, Any] | None = None) -> Any:
        return self.answers(path, query or {})


def item(map_index: int = -1, **changes: Any) -> dict[str, Any]:
    version = {"id": str(UUID(int=9)), "version_number": 3}
    dates = {"start_date": "2026-01-01T00:00:00Z", "end_date": None}
    ids = {"id": str(UUID(int=map_index + 2)), "task_id": "g", "map_index": map_index, "dag_id": "d", "dag_run_id": R}
    return ids | dates | {"try_number": 1, "state": "success", "pid": 7, "hostname": "h", "dag_version": version} | changes


def pages(*items: list[dict[str, Any]]) -> Any:
    def answer(_: str, query: dict[str, Any]) -> dict[str, Any]:
        number = int(query["cursor"] or 0)
        return {"task_instances": items[number], "next_cursor": str(number + 1) if number + 1 < len(items) else None}

    return answer


def test_every_page_is_read_and_the_later_of_two_is_kept() -> None:
    again = item(0, id=str(UUID(int=77)), try_number=2)
    found = Told(pages([item(0), item(1)], [item(2)], [again])).instances("d", R, ["g"])
    assert [(one.map_index, one.try_number) for one in found] == [(0, 2), (1, 1), (2, 1)]
    assert found[0].id == str(UUID(int=77))
    assert found[1].started == datetime(2026, 1, 1, tzinfo=UTC)
    assert (found[1].version, found[1].version_id) == (3, str(UUID(int=9)))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"task_instances": [item()]},
        {"task_instances": [], "next_cursor": "x"},
        {"task_instances": [item(task_id="other")], "next_cursor": None},
        {"task_instances": [item(dag_run_id="other")], "next_cursor": None},
        {"task_instances": [item(id="no uuid")], "next_cursor": None},
        {"task_instances": [item(try_number=None)], "next_cursor": None},
    ],
)
def test_half_an_answer_is_none(answer: Any) -> None:
    with pytest.raises(NotAnswered):
        Told(lambda _, __: answer).instances("d", R, ["g"])


def acts(*entries: dict[str, Any]) -> list[Act]:
    whole = {"owner": "uma", "event": "patch_task_instance", "run_id": R, "task_id": "g", "map_index": None, "extra": "{}"}
    log = [whole | {"when": f"2026-01-01T00:00:{59 - i}Z"} | entry for i, entry in enumerate(entries)]
    for entry in log:
        if not isinstance(entry["extra"], str):
            entry["extra"] = json.dumps(entry["extra"] | {"method": "PATCH"})

    def answer(_: str, query: dict[str, Any]) -> dict[str, Any]:
        found = [entry for entry in log if query.get("run_id") in (None, entry["run_id"])]
        return {"total_entries": len(found), "event_logs": found[query["offset"] :]}

    return Told(answer).acts("d", R, SINCE)


MARK = {"new_state": "success"}


def concerned(found: list[Act]) -> list[str]:
    instances = {"g": ("g", -1), "m0": ("m", 0), "m1": ("m", 1)}
    return [name for name, which in instances.items() if any(act.concerns(*which) for act in found)]


@pytest.mark.parametrize(
    ("entry", "tasks"),
    [
        ({"extra": MARK}, ["g"]),
        ({"task_id": "m", "extra": MARK}, ["m0", "m1"]),
        ({"task_id": "m", "extra": MARK | {"map_index": "1"}}, ["m1"]),
        ({"extra": MARK | {"include_downstream": True}}, ["g", "m0", "m1"]),
        ({"extra": {}}, ["g", "m0", "m1"]),
        ({"extra": "no json"}, ["g", "m0", "m1"]),
        ({"extra": {"note": "x"}}, ["g"]),
        ({"event": "patch_task_group_instances", "task_id": None, "extra": MARK | {"group_id": "m"}}, ["g", "m0", "m1"]),
        ({"event": "post_clear_task_instances", "task_id": None, "extra": {"task_ids": ["g", ["m", 0]]}}, ["g", "m0"]),
        ({"event": "post_clear_task_instances", "task_id": "zzz", "extra": {"task_ids": ["g"]}}, ["g"]),
        ({"event": "post_clear_task_instances", "task_id": "zzz", "extra": {}}, ["g", "m0", "m1"]),
        ({"event": "post_clear_task_instances", "task_id": None, "extra": {"task_ids": [5]}}, ["g", "m0", "m1"]),
        ({"event": "clear_dag_runs", "task_id": None, "run_id": None, "extra": {"dag_run_ids": ["other"]}}, []),
        ({"event": "clear_dag_runs", "task_id": None, "run_id": None, "extra": {"dag_run_ids": [R]}}, ["g", "m0", "m1"]),
        ({"event": "clear_dag_runs", "task_id": None, "run_id": None, "extra": {"dry_run": True}}, []),
        ({"run_id": "other", "extra": MARK}, []),
        ({"run_id": "other", "extra": MARK | {"include_past": True}}, ["g"]),
        ({"run_id": "other", "extra": {}}, ["g", "m0", "m1"]),
        ({"run_id": "other", "event": "post_clear_task_instances", "extra": {"dag_run_id": R, "task_ids": ["g"]}}, ["g"]),
        ({"event": "update_xcom_entry", "extra": {"xcom_key": "k"}}, ["g"]),
    ],
)
def test_whom_a_request_may_concern(entry: dict[str, Any], tasks: list[str]) -> None:
    assert concerned(acts(entry)) == tasks


def test_an_act_says_who_when_and_what() -> None:
    later, sooner = {"extra": MARK}, {"owner": "olga", "event": "patch_dag_run", "task_id": None, "extra": {"state": "queued"}}
    found = acts(later, sooner)
    assert [(act.user, act.event, act.state, act.noted) for act in found] == [
        ("olga", "patch_dag_run", "queued", False),
        ("uma", "patch_task_instance", "success", False),
    ]
    assert acts({"extra": {"note": "x"}})[0].noted
    assert found[0].when < found[1].when


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AirflowAPI, "_signed_in", lambda _: pytest.fail("asked"))
