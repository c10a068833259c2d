"""Plans: which of their rules, values and guards apply to a DAG, and which DAG bundle a file is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.dags import bundle_of
from airflow_pipesec.plan import Effective, Facts, Mode, Plan, Task
from tests.test_plan import HASH, WATCH, demands, effective, plan, refused

# ---- what applies


def test_rules_mean_tasks_by_id_class_and_tag_all_of_which_have_to_fit() -> None:
    tasks = [Task("load", frozenset(("Step", "m.Step"))), Task("group.load", frozenset(("Other",))), Task("train", frozenset())]

    def meant(tags: Any = (), **rule: Any) -> list[str]:
        document = {"version": 1, "stages": [{"before": [HASH], "optional": True, **rule}]}
        return [one.stage for one in effective(document, tags=tags).demands(tasks)[0]]

    assert meant(task="*") == ["load", "group.load", "train"]
    assert meant(task="*load") == meant(task=["*load"]) == ["load", "group.load"]
    assert meant(task="?rain") == ["train"]
    assert meant(task="*", but_not="group.*") == ["load", "train"]
    assert meant(operator="Step") == meant(operator=["m.Step"]) == meant(task="*", operator="Step") == ["load"]
    assert meant(task="train", operator="Step") == []
    assert meant(task="Load") == []
    assert meant(tag="ml*") == []
    assert meant(["ml-x"], tag="ml*", task="train") == ["train"]


def test_a_setup_or_teardown_is_meant_by_its_own_id_alone() -> None:
    tasks = [Task("a"), Task("b", named_only=True)]

    def meant(task: Any) -> list[str]:
        return [one.stage for one in effective({"version": 1, "stages": [{"task": task, "before": [HASH]}]}).demands(tasks)[0]]

    assert meant("*") == ["a"]
    assert meant(["*", "b"]) == ["a", "b"]


def test_an_exemption_goes_before_every_guard_and_is_told() -> None:
    stages = [{"task": "*", "before": [HASH]}, {"task": "b", "exempt": "first"}, {"task": "*b", "exempt": "second"}]
    found, exempt = effective({"version": 1, "stages": stages}).demands([Task("a"), Task("b")])
    assert [one.stage for one in found] == ["a"]
    assert exempt == {"b": "first"}


def test_what_a_guard_is_given_goes_before_its_defaults_and_those_before_the_defaults_of_all() -> None:
    document = plan(
        WATCH | {"word": "own"},
        WATCH | {"retries": 9},
        policy="/policy.yaml",
        defaults={"*": {"word": "all", "retries": 1}, "tests.weaving.Watch": {"retries": 2}},
        environments={"prod": {"defaults": {"*": {"word": "prod"}, "tests.weaving.Watch": {"policy": "/other.yaml"}}}},
    )
    assert [one[2] for one in demands(document)] == [
        {"policy": "/policy.yaml", "word": "own", "retries": 2},
        {"policy": "/policy.yaml", "word": "all", "retries": 9},
    ]
    assert [one[2] for one in demands(document, environment="prod")] == [
        {"policy": "/other.yaml", "word": "own", "retries": 2},
        {"policy": "/other.yaml", "word": "prod", "retries": 9},
    ]


def test_an_environment_is_laid_over_the_plan() -> None:
    document = plan(
        {"use": "s"},
        mode="enforce",
        policy={"fail_on": "low"},
        vars={"v": "plan", "w": "plan"},
        sets={"s": [WATCH | {"word": "${v} ${w} ${environment}"}]},
        environments={
            "dev": {"mode": "report", "policy": {"fail_on": "critical"}, "vars": {"v": "dev"}},
            "prod": {"sets": {"s": [HASH]}, "stages": [{"task": "a", "after": [WATCH]}]},
        },
    )
    assert demands(document) == [("a", "tests.weaving.Watch", {"policy": {"fail_on": "low"}, "word": "plan plan "})]
    dev = [("a", "tests.weaving.Watch", {"policy": {"fail_on": "critical"}, "word": "dev plan dev"})]
    assert demands(document, environment="dev") == dev
    assert [one[1] for one in demands(document, environment="prod")] == ["HashVerificationOperator", "tests.weaving.Watch"]
    assert effective(document, environment="dev").mode is Mode.REPORT
    assert effective(document, environment="prod").mode is Mode.ENFORCE


def test_a_value_that_stands_alone_keeps_its_type_and_within_a_text_it_is_text() -> None:
    values_of = {"number": 3, "items": ["x", {"y": 1}], "text": "t", "flag": True, "none": None}
    filled = demands(
        plan(
            WATCH
            | {
                "word": "${number}",
                "things": "${items}",
                "passes": "${flag}",
                "doc_md": "${none}",
                "owner": "a ${text}/${number} ${dag_id} ${stage} ${stage_name}",
                "queue": "$${text} $$ $ ${text}$${",
                "pool": "$${text}",
            },
            vars=values_of,
        ),
        "group.a",
    )
    assert filled[0][2] == {
        "word": 3,
        "things": ["x", {"y": 1}],
        "passes": True,
        "doc_md": None,
        "owner": "a t/3 d group.a a",
        "queue": "${text} $$ $ t${",
        "pool": "${text}",
    }


@pytest.mark.parametrize("value", [["x"], {"x": 1}, True, None, 1.5])
def test_what_is_no_text_cannot_stand_within_one(value: Any) -> None:
    assert "${v} is no text, and stands within one" in refused(plan(WATCH | {"word": "a ${v}"}, vars={"v": value}))


def test_a_rules_own_values_go_before_the_plans_and_what_is_known_of_the_stage_before_both() -> None:
    rule = {"task": "*", "before": [WATCH | {"word": "${v} ${w} ${stage}"}], "vars": {"v": "rule", "stage": "no"}}
    document = {"version": 1, "vars": {"v": "plan", "w": "plan", "dag_id": "no"}, "stages": [rule]}
    assert demands(document)[0][2] == {"word": "rule plan a"}


@given(st.text(max_size=30).map(lambda text: text.replace("${", "").replace("$$", "")), st.text(max_size=9))
def test_text_without_a_place_stays_as_it_is(text: str, value: str) -> None:
    assert demands(plan(WATCH | {"word": text}))[0][2]["word"] == text
    if "$" not in text:
        assert demands(plan(WATCH | {"word": f"{text}${{v}}"}, vars={"v": value}))[0][2]["word"] == text + value


def test_guards_that_two_rules_ask_for_alike_stand_once() -> None:
    rules = [{"task": "*", "before": [HASH, WATCH]}, {"task": "a", "before": [WATCH, HASH | {"workers": 2}]}]
    assert [one[1:] for one in demands({"version": 1, "stages": rules})] == [
        ("HashVerificationOperator", {"root": "/data"}),
        ("tests.weaving.Watch", {}),
        ("HashVerificationOperator", {"root": "/data", "workers": 2}),
    ]


# ---- which DAGs


def entry(document: Any, dag_id: str = "d", tags: Any = (), bundle: str | None = None) -> Effective | None:
    return Plan.load(document).for_dag(Facts(dag_id, tags, bundle))


def test_an_entry_means_a_dag_that_has_all_it_names() -> None:
    document = plan(dags=[{"dag_id": ["ml_*", "x"], "bundle": "prod-*"}, {"tag": "ml"}])
    assert entry(document, "ml_1", bundle="prod-eu") is not None
    assert entry(document, "x", bundle="prod-eu") is not None
    assert entry(document, "y", bundle="prod-eu") is None
    assert entry(document, "ml_1", bundle="dev") is None
    assert entry(document, "ml_1", bundle=None) is None
    assert entry(document, "y", tags=["a", "ml"]) is not None
    assert entry(document, "y", tags=["a"]) is None
    assert entry(plan(), "anything") is not None


def test_what_an_entry_says_comes_after_the_environment() -> None:
    document = plan(
        WATCH | {"word": "${v}"},
        vars={"v": "plan"},
        environments={"prod": {"vars": {"v": "prod"}}},
        dags=[
            {"dag_id": "d", "vars": {"v": "dag"}, "stages": [{"task": "a", "after": [HASH]}]},
            {"dag_id": "*"},
            {"dag_id": "e", "exempt": "a toy"},
        ],
    )
    assert demands(document, environment="prod") == [
        ("a", "tests.weaving.Watch", {"word": "dag"}),
        ("a", "HashVerificationOperator", {"root": "/data"}),
    ]
    assert demands(document, dag_id="f", environment="prod") == [("a", "tests.weaving.Watch", {"word": "prod"})]
    exempt = entry(document, "e")
    assert exempt is not None
    assert exempt.exempt == "a toy"


@pytest.mark.parametrize(
    ("modes", "found"),
    [((), "weave"), (("report",), "report"), (("report", "enforce"), "enforce"), (("report", "weave"), "weave")],
)
def test_of_the_modes_of_several_entries_the_strictest_counts(modes: tuple[str, ...], found: str) -> None:
    entries = [{"dag_id": "*"}, *({"dag_id": "d", "mode": mode} for mode in modes)]
    assert effective(plan(mode="weave", dags=entries)).mode == found


def test_a_tag_makes_the_mode_stricter_and_never_looser() -> None:
    document = plan(mode="weave", dags=[{"dag_id": "*"}, {"tag": "loose", "mode": "report"}, {"tag": "hard", "mode": "enforce"}])
    assert effective(document).mode is Mode.WEAVE
    assert effective(document, tags=["loose"]).mode is Mode.WEAVE
    assert effective(document, tags=["hard"]).mode is Mode.ENFORCE
    assert effective(document, tags=["hard", "loose"]).mode is Mode.ENFORCE


@pytest.mark.parametrize(
    ("more", "refuses"),
    [
        ({}, True),
        ({"mode": "enforce"}, True),
        ({"mode": "weave"}, False),
        ({"mode": "weave", "unmatched": "refuse"}, True),
        ({"unmatched": "allow"}, False),
    ],
)
def test_a_dag_that_no_entry_means_is_refused_where_the_plan_enforces_or_says_so(more: Any, refuses: bool) -> None:
    found = Plan.load(plan(dags=[{"dag_id": "x"}], **more))
    assert found.refuses_unmatched(found.mode(None)) is refuses


# ---- bundles


@pytest.fixture
def bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two local bundles, one within the other, one of Git, and one that is Airflow's folder of DAGs."""
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    entries = [
        {"name": "all", "classpath": local, "kwargs": {"path": str(tmp_path / "all")}},
        {"name": "inner", "classpath": local, "kwargs": {"path": str(tmp_path / "all/inner")}},
        {"name": "folder", "classpath": local, "kwargs": {}},
        {"name": "git", "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": {"path": str(tmp_path)}},
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(entries))
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "storage"))
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "dags"))
    for name in ("all/inner/deep", "all/other", "dags", "storage/git/tracking_repo", "outside"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("all/dag.py", "all"),
        ("all/other/dag.py", "all"),
        ("all/inner/dag.py", "inner"),
        ("all/inner/deep/dag.py", "inner"),
        ("all/innermost.py", "all"),
        ("dags/dag.py", "folder"),
        ("storage/git/tracking_repo/dag.py", "git"),
        ("storage/other/dag.py", None),
        ("outside/dag.py", None),
        ("all/../outside/dag.py", None),
    ],
)
def test_a_file_is_in_the_innermost_bundle_around_it(bundles: Path, file: str, name: str | None) -> None:
    assert bundle_of(str(bundles / file)) == name


def test_a_bundle_by_a_link_is_the_bundle_that_it_links_to(bundles: Path) -> None:
    (bundles / "link").symlink_to(bundles / "all")
    assert bundle_of(str(bundles / "link/dag.py")) == "all"


def test_a_link_out_of_a_bundle_is_not_in_another_one(bundles: Path) -> None:
    (bundles / "outside/dag.py").write_text("")
    (bundles / "all/inner/linked.py").symlink_to(bundles / "outside/dag.py")
    assert bundle_of(str(bundles / "all/inner/linked.py")) == "inner"
