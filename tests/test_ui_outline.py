"""Outlines: what the serialized DAG tells of stages and guards is what the DAG itself does, and never more."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.sdk import DAG, Asset, BaseOperator, BaseOperatorLink, TaskGroup, setup, task, task_group, teardown
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from airflow_pipesec import secure
from airflow_pipesec.dags import pipeline_of
from airflow_pipesec.decorators import guard_task
from airflow_pipesec.guards.evidence import edges_above
from airflow_pipesec.guards.link import EvidenceLink
from airflow_pipesec.operators import DataValidationOperator, HashManifestOperator, HashVerificationOperator
from airflow_pipesec.pipeline import Kind, Node
from airflow_pipesec.sensors import HashVerificationSensor
from airflow_pipesec.survey import coverage_of
from airflow_pipesec.ui import records
from airflow_pipesec.ui.outline import EVIDENCE_LINK_KEY, Outline, outline_of
from tests.airflow_world import add_dag, plain_pipeline
from tests.conftest import PROJECT
from tests.test_weave_laws import attempt, dags
from tests.weaving import WATCH, Step, Waits, Watch, give, new_dag, plan, seen
from tests.worlds import RULES

FOLDERS = ("dags", "tests/dags_woven", "tests/dags_by_hand", "tests/dags_organisation", "tests/dags_ui")


class Theirs(Watch):
    """A guard that an organisation derives from another, and that says what it answers."""

    threats = ("drift", "bias")


class Linked(BaseOperator):
    """No guard, with a guard's link."""

    operator_extra_links = (EvidenceLink(),)


class Branching(ShortCircuitOperator):
    """No guard, with a guard's link; and it skips what follows it, as a guard may."""

    operator_extra_links = (EvidenceLink(),)


class OwnLink(BaseOperatorLink):
    name = "Security evidence"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return "https://example.org"


class Bare(Watch):
    """A guard whose author left its link away."""

    operator_extra_links = (OwnLink(),)


def written(dag: DAG) -> dict[str, Any]:
    """What is in the database of a DAG."""
    document: dict[str, Any] = json.loads(json.dumps(seen(dag)))
    return document


def agreed(dag: DAG, exempt: Mapping[str, str] | None = None) -> Outline:
    """The outline of a DAG, which says in every respect what the DAG itself does."""
    outline, pipeline = outline_of(written(dag)), pipeline_of(dag)
    assert outline.dag_id == dag.dag_id
    assert unordered(outline.pipeline.nodes) == unordered(pipeline.nodes)
    assert set(outline.guards) == {node.id for node in pipeline.of_kind(Kind.GUARD)}
    place = {name: number for number, name in enumerate(outline.pipeline.nodes)}
    assert all(place[other] < place[name] for name, node in outline.pipeline.nodes.items() for other in node.upstream)
    if exempt is None:
        assert ordered(outline.coverage.document(), place) == ordered(coverage_of(dag).document(), place)
    above: dict[str, dict[str, bool]] = {}
    for one in dag.task_dict.values():
        above |= edges_above(cast("Any", {"task": one}))  # it asks for no more
    assert {name: outline.edges[name] for name in above} == above
    return outline


def unordered(nodes: Mapping[str, Node]) -> dict[str, Node]:
    return {name: replace(node, threats=tuple(sorted(node.threats))) for name, node in nodes.items()}


def ordered(document: dict[str, Any], place: Mapping[str, int]) -> dict[str, Any]:
    """What coverage says, in one order: of stages of which none follows the other, and of threats, any order will do."""

    def of_stage(one: dict[str, Any]) -> dict[str, Any]:
        def side(watches: list[dict[str, Any]]) -> list[dict[str, Any]]:
            named = [watch | {"threats": sorted(watch["threats"])} for watch in watches]
            return sorted(named, key=lambda watch: place[watch["guard"]])

        return one | {"before": side(one["before"]), "after": side(one["after"])}

    details = sorted(map(of_stage, document["details"]), key=lambda one: place[one["stage"]])
    return document | {"details": details, "unguarded": sorted(document["unguarded"], key=place.__getitem__)}


def kinds(dag: DAG) -> dict[str, Kind]:
    return {name: node.kind for name, node in agreed(dag).pipeline.nodes.items()}


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


# ---- DAGs that are there


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_dags_of_the_project_are_outlined_as_they_are(folder: str) -> None:
    from airflow.dag_processing.dagbag import DagBag

    place = PROJECT / folder
    with importable(place):
        bag = DagBag(place, bundle_path=place)
        assert bag.import_errors == {}
        assert bag.dags
        for dag in bag.dags.values():
            agreed(dag)


def test_the_example_is_guarded_and_its_guards_are_known() -> None:
    from airflow.dag_processing.dagbag import DagBag

    with importable(PROJECT / "dags"):
        dag: Any = DagBag(PROJECT / "dags", bundle_path=PROJECT / "dags").dags["example_secure_training"]
    outline = agreed(dag)
    assert set(outline.tags) == {"example", "pipesec"}
    assert outline.guards["release_ready"].operator == "HashVerificationSensor"
    assert {guard.on_failure for guard in outline.guards.values()} == {"fail"}
    assert outline.answers == {name: sum(name in stage.threats for stage in coverage_of(dag).counted) for name in outline.answers}
    assert outline.answers["tampered-artifacts"] > 0


@pytest.mark.parametrize("mapped", [False, True])
def test_the_pipeline_of_the_world_is_outlined_as_it_is(mapped: bool) -> None:
    on_failure = {"verify_collect": "warn", "validate_preprocess": "skip_downstream"}
    outline = agreed(plain_pipeline("outlined", mapped=mapped, tags=["team-a"], on_failure=on_failure))
    assert outline.tags == ("team-a",)
    assert {name: guard.on_failure for name, guard in outline.guards.items() if guard.on_failure != "fail"} == on_failure
    assert outline.guards["validate_preprocess"].mapped is mapped
    assert [stage.id for stage in outline.coverage.naked] == ["report"]


# ---- what a plan wove in


def test_what_a_plan_wove_in_and_what_it_exempts_is_in_the_outline() -> None:
    with new_dag() as dag:
        Step(task_id="extract") >> Step(task_id="train") >> Step(task_id="mail")
    demanded = plan(but_not="mail", stages=[{"task": "mail", "exempt": "it only tells"}])
    secure(dag, demanded)
    outline = agreed(dag, exempt={})
    assert outline.exempt == {"mail": "it only tells"}
    assert outline.coverage.document() == coverage_of(dag, demanded).document()
    assert outline.coverage.percent == 100
    notes = [guard.woven for guard in outline.guards.values()]
    assert all(notes)
    assert [note["exempt"] for note in notes if note and "exempt" in note] == [{"mail": "it only tells"}]


def test_the_environment_decides_what_is_woven_and_the_outline_follows_it() -> None:
    demanded = {
        "version": 1,
        "environments": {"dev": {}, "prod": {"stages": [{"task": "train", "before": [WATCH]}]}},
        "stages": [{"task": "extract", "exempt": "it only fetches"}],
    }
    found = {}
    for environment in ("dev", "prod"):
        with new_dag() as dag:
            Step(task_id="extract") >> Step(task_id="train")
        secure(dag, demanded, environment=environment)
        outline = agreed(dag, exempt={})
        wanted = coverage_of(dag, demanded, environment)
        found[environment] = [stage.id for stage in outline.coverage.naked]
        # A plan that wove nothing in has left no note of what it exempts: there more is naked, and never less.
        assert {stage.id for stage in wanted.naked} <= set(found[environment])
        assert outline.guards.keys() == {node.id for node in wanted.pipeline.of_kind(Kind.GUARD)}
    assert found == {"dev": ["extract", "train"], "prod": []}


def test_a_guard_by_hand_has_no_plan() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Watch(task_id="g")
    assert agreed(dag).guards["g"].woven is None


# ---- guards


def test_guards_of_every_make_are_guards_and_answer_what_they_say() -> None:
    with new_dag() as dag:

        @task.guard
        def plain() -> None: ...

        @task.guard(threats=("drift",))
        def told() -> None: ...

        @guard_task(threats=["bias", "drift"])
        def listed(value: int) -> None: ...

        a, b = Step(task_id="a"), Step(task_id="b")
        guards = [plain(), told(), listed.expand(value=[1, 2]), Theirs(task_id="theirs"), Watch(task_id="w"), Waits(task_id="s")]
        guards += [
            HashVerificationOperator(task_id="verify", root="d", manifest="m"),
            HashManifestOperator(task_id="m", root="d", manifest="m"),
        ]
        for guard in guards:
            a >> guard >> b
    outline = agreed(dag)
    assert set(outline.guards) == {"plain", "told", "listed", "theirs", "w", "s", "verify", "m"}
    threats = {name: tuple(outline.pipeline.nodes[name].threats) for name in outline.guards}
    assert threats["told"] == ("drift",)
    assert set(threats["listed"]) == set(threats["theirs"]) == {"drift", "bias"}
    assert threats["w"] == threats["plain"] == ()
    assert {name: guard.operator for name, guard in outline.guards.items()} | {"told": "", "listed": ""} == {
        "plain": "@task.guard",
        "told": "",
        "listed": "",
        "theirs": "Theirs",
        "w": "Watch",
        "s": "Waits",
        "verify": "HashVerificationOperator",
        "m": "HashManifestOperator",
    }


def test_the_threats_of_a_mapped_guard_are_those_of_its_class_where_that_is_ours() -> None:
    with new_dag() as dag:
        a, b = Step(task_id="a"), Step(task_id="b")
        a >> DataValidationOperator.partial(task_id="ours", checks={}).expand(path=["x", "y"]) >> b
        sensor = HashVerificationSensor.partial(task_id="sensor", expected="sha256:" + "0" * 64).expand(root=["x"])
        a >> sensor >> b
    outline = agreed(dag)
    assert outline.pipeline.nodes["ours"].threats
    assert outline.guards["ours"].mapped


def test_of_a_mapped_guard_of_somebody_elses_class_it_is_not_known_what_it_answers() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Theirs.partial(task_id="g").expand(word=["x"]) >> Step(task_id="b")
    outline, real = outline_of(written(dag)), coverage_of(dag)
    assert outline.coverage.guarded == real.guarded == 2
    assert outline.pipeline.nodes["g"].threats == ()
    assert set(real.unanswered) < set(outline.coverage.unanswered)


def test_a_guard_of_another_version_of_this_package_is_a_guard_and_answers_nothing() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> DataValidationOperator.partial(task_id="g", checks={}).expand(path=["x"])
    for module, cls in (
        ("airflow_pipesec.to_come", "New"),
        ("airflow_pipesec.operators", "New"),
        ("airflow_pipesec.operators", None),
    ):
        data = written(dag)
        of = next(item["__var"] for item in data["dag"]["tasks"] if item["__var"]["task_id"] == "g")
        of |= {"_task_module": module, "task_type": cls}
        outline = outline_of(data)
        assert set(outline.guards) == {"g"}
        assert outline.pipeline.nodes["g"].threats == ()


@pytest.mark.parametrize("on_failure", ["fail", "warn", "skip_downstream", "{{ params.x }}"])
@pytest.mark.parametrize("how", ["given", "mapped", "by default_args"])
def test_what_a_guard_does_when_it_fails_is_known(on_failure: Any, how: str) -> None:
    with new_dag(default_args={"on_failure": on_failure} if how == "by default_args" else {}) as dag:
        own: Any = {"on_failure": on_failure} if how != "by default_args" else {}
        a, b = Step(task_id="a"), Step(task_id="b")
        a >> (Watch.partial(task_id="g", **own).expand(word=["x"]) if how == "mapped" else Watch(task_id="g", **own)) >> b
    outline = agreed(dag)
    assert outline.guards["g"].on_failure == on_failure
    assert outline.coverage.guarded == (2 if on_failure in ("fail", "skip_downstream") else 0)


@pytest.mark.parametrize("expanded", [{"on_failure": ["warn", "fail"]}, [{"on_failure": "warn", "word": "x"}, {"word": "y"}]])
def test_a_guard_that_is_mapped_over_what_it_does_when_it_fails_may_only_warn(expanded: Any) -> None:
    with new_dag() as dag:
        partial = Watch.partial(task_id="g")
        guard = partial.expand(**expanded) if isinstance(expanded, dict) else partial.expand_kwargs(expanded)
        Step(task_id="a") >> guard >> Step(task_id="b")
    outline = agreed(dag)
    assert outline.guards["g"].on_failure not in ("fail", "skip_downstream")
    assert outline.coverage.guarded == 0


def test_a_guard_that_an_xcom_is_expanded_into_may_only_warn_for_nobody_knows_what_is_in_it() -> None:
    with new_dag() as dag:
        Watch.partial(task_id="g").expand_kwargs(give([{"word": "x"}])) >> Step(task_id="b")
    assert agreed(dag).coverage.guarded == 0


def test_a_guard_that_is_expanded_with_other_parameters_alone_does_what_it_was_told() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Watch.partial(task_id="g").expand_kwargs([{"word": "x"}]) >> Step(task_id="b")
    assert agreed(dag).coverage.guarded == 2


def test_a_function_of_a_guard_may_have_an_argument_of_any_name() -> None:
    with new_dag() as dag:

        @task.guard
        def check(on_failure: str) -> None: ...

        Step(task_id="a") >> check.expand(on_failure=["warn"]) >> Step(task_id="b")
    assert agreed(dag).coverage.guarded == 2


@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_sensor_that_skips_instead_of_failing_may_be_skipped(flag: str, mapped: bool) -> None:
    more: Any = {flag: True}
    with new_dag() as dag:
        guard: Any = Waits.partial(task_id="s", **more).expand(policy=[None]) if mapped else Waits(task_id="s", **more)
        Step(task_id="a") >> guard >> Step(task_id="b", trigger_rule="none_failed")
    outline = agreed(dag)
    assert outline.pipeline.nodes["s"].may_skip
    assert [stage.id for stage in outline.coverage.naked] == ["a", "b"]


def test_the_policy_is_the_authors() -> None:
    policy = {"fail_on": "high", "waivers": []}
    with new_dag(default_args={"policy": "from/default.yaml"}) as dag:
        Watch(task_id="none")
        Watch(task_id="own", policy=policy)
        Watch.partial(task_id="mapped", policy=policy).expand(word=["x"])
    assert {name: guard.policy for name, guard in agreed(dag).guards.items()} == {
        "none": "from/default.yaml",
        "own": policy,
        "mapped": policy,
    }


# ---- what is no guard


def test_a_task_that_is_no_guard_is_never_taken_for_one() -> None:
    with new_dag() as dag:
        a, b = Step(task_id="a"), Step(task_id="b")
        a >> Linked(task_id="linked") >> b
        a >> Linked.partial(task_id="mapped").expand(doc=["x", "y"]) >> b
        a >> Branching(task_id="branching", python_callable=bool) >> b
        a >> PythonOperator(task_id="watch", python_callable=bool, op_kwargs={"threats": ["drift"], "woven": {}}) >> b
        a >> Step(task_id="guard", task_display_name="Watch", doc=EVIDENCE_LINK_KEY) >> b
    assert kinds(dag) == dict.fromkeys(dag.task_dict, Kind.STAGE)
    assert outline_of(written(dag)).guards == {}


def test_a_guard_without_its_link_counts_as_a_stage_and_guards_nothing() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Bare(task_id="bare") >> Step(task_id="b")
    outline = outline_of(written(dag))
    assert outline.guards == {}
    assert [stage.id for stage in outline.coverage.naked] == ["a", "bare", "b"]


# ---- other tasks


def works(*_: Any) -> None: ...


EMPTIES: dict[str, Callable[[], Any]] = {
    "empty": lambda: EmptyOperator(task_id="e"),
    "its callback runs": lambda: EmptyOperator(task_id="e", on_success_callback=works),
    "its callback runs when it is tried again": lambda: EmptyOperator(task_id="e", on_retry_callback=works),
    "its callback runs when it is skipped": lambda: EmptyOperator(task_id="e", on_skipped_callback=works),
    "its hook runs": lambda: EmptyOperator(task_id="e", pre_execute=works),
    "its other hook runs": lambda: EmptyOperator(task_id="e", post_execute=works),
    "its outlet is for a worker": lambda: EmptyOperator(task_id="e", outlets=[Asset("s3://b/x")]),
    "its executor is told something": lambda: EmptyOperator(task_id="e", executor_config={"image": "x"}),
    "it is mapped": lambda: EmptyOperator.partial(task_id="e").expand(doc=["a", "b"]),
    "it is derived": lambda: type("EmptyOperator", (EmptyOperator,), {})(task_id="e"),
}


@pytest.mark.parametrize("which", EMPTIES)
def test_a_task_runs_nothing_where_the_survey_says_so_too(which: str) -> None:
    with new_dag() as dag:
        Step(task_id="a") >> EMPTIES[which]() >> Watch(task_id="g") >> Step(task_id="b")
    assert kinds(dag)["e"] is (Kind.EMPTY if which == "empty" else Kind.STAGE)


def test_an_empty_task_under_default_args_with_a_callback_runs_something() -> None:
    with new_dag(default_args={"on_failure_callback": works}) as dag:
        EmptyOperator(task_id="e") >> Watch(task_id="g")
    assert kinds(dag)["e"] is Kind.STAGE


def test_setup_and_teardown_are_what_they_are() -> None:
    with new_dag() as dag:
        create, work, more, destroy = (cast("Any", Step(task_id=name)) for name in ("create", "work", "more", "destroy"))
        create.as_setup() >> work >> Watch(task_id="g") >> more >> destroy.as_teardown(setups=create)
    found = kinds(dag)
    assert (found["create"], found["destroy"], found["work"]) == (Kind.SETUP, Kind.TEARDOWN, Kind.STAGE)


def test_mapped_tasks_are_what_they_are_with_parameters_that_stand_apart() -> None:
    """A mapped guard that looks whatever happened guards nothing, and a mapped setup is no stage."""
    with new_dag() as dag:

        @setup
        def create(value: int) -> None: ...

        @teardown
        def destroy(value: int) -> None: ...

        a, b = Step(task_id="a"), Step(task_id="b")
        create.expand(value=[1]) >> a >> destroy.expand(value=[1])
        a >> Watch.partial(task_id="g", trigger_rule="all_done").expand(word=["x"]) >> b
        b >> Watch(task_id="h") >> Step.partial(task_id="c", trigger_rule="one_done").expand(ends=["success"])
    outline = agreed(dag)
    kinds = {name: outline.pipeline.nodes[name].kind for name in ("create", "destroy")}
    assert kinds == {"create": Kind.SETUP, "destroy": Kind.TEARDOWN}
    assert [stage.id for stage in outline.coverage.naked] == ["a", "b", "c"]


def test_branches_skip_what_follows_them() -> None:
    with new_dag() as dag:

        @task.branch
        def choose() -> str:
            return "x"

        @task.short_circuit
        def perhaps() -> bool:
            return True

        x, y = Step(task_id="x"), Step(task_id="y")
        Step(task_id="start") >> Watch(task_id="g") >> choose() >> [x, y] >> Step(task_id="join", trigger_rule="none_failed")
        perhaps() >> x
    outline = agreed(dag)
    assert {name for name, node in outline.pipeline.nodes.items() if node.skips} == {"choose", "perhaps"}


@pytest.mark.parametrize("rule", RULES[:-1])  # the last is Airflow's own, for teardowns
def test_the_trigger_rule_counts(rule: str) -> None:
    with new_dag() as dag:
        guard = Watch(task_id="g", trigger_rule=rule) if rule != "always" else Watch(task_id="g")
        Step(task_id="a") >> guard >> Step(task_id="b", trigger_rule=rule)
    assert agreed(dag).pipeline.nodes["b"].rule == rule


def test_the_trigger_rule_may_come_from_default_args() -> None:
    with new_dag(default_args={"trigger_rule": "all_done", "retries": 4}) as dag:
        Step(task_id="a") >> Watch(task_id="g") >> Step(task_id="b")
        Watch.partial(task_id="m").expand(word=["x"])
    outline = agreed(dag)
    assert {node.rule for node in outline.pipeline.nodes.values()} == {"all_done"}
    assert outline.coverage.guarded == 0


def test_names_are_shown_as_airflow_shows_them() -> None:
    with new_dag() as dag:
        with TaskGroup("one"):
            with TaskGroup("deep"):
                Watch(task_id="a")
                Step(task_id="b", task_display_name="Bee")
            with TaskGroup("flat", prefix_group_id=False):
                Step(task_id="c")
                with TaskGroup("below"):
                    Step(task_id="d")
        Watch.partial(task_id="e", task_display_name="Every one").expand(word=["x"])
    nodes = agreed(dag).pipeline.nodes
    assert {name: (node.label, node.group) for name, node in nodes.items()} == {
        "one.deep.a": ("a", "one.deep"),
        "one.deep.b": ("Bee", "one.deep"),
        "c": ("c", "one.flat"),
        "below.d": ("d", "below"),
        "e": ("Every one", None),
    }


# ---- edges


def test_in_a_mapped_group_a_guard_follows_the_one_of_its_index_and_else_all_of_them() -> None:
    with new_dag() as dag:

        @task_group
        def each(value: int) -> None:
            first = Watch(task_id="first")
            give(value) >> first >> Step(task_id="work") >> Watch(task_id="second")

        many = Watch.partial(task_id="many").expand(word=["x", "y"])
        Watch(task_id="start") >> each.expand(value=[1, 2]) >> many >> Watch(task_id="last")
    outline = agreed(dag)
    assert outline.edges == {
        "start": {},
        "each.first": {"start": False},
        "each.second": {"each.first": True},
        "many": {"each.second": False},
        "last": {"many": False},
    }


def test_a_group_within_a_mapped_group_is_mapped_as_well() -> None:
    with new_dag() as dag:

        @task_group
        def each(value: int) -> None:
            with TaskGroup("one"):
                first = Watch(task_id="first")
            with TaskGroup("two"):
                second = Watch(task_id="second")
            give(value) >> first >> Step(task_id="work") >> second >> Watch(task_id="third")

        each.expand(value=[1, 2])
    edges = agreed(dag).edges
    assert edges["each.two.second"] == {"each.one.first": True}
    assert edges["each.third"] == {"each.two.second": True}


def test_two_mapped_groups_of_one_name_in_different_groups_are_two() -> None:
    with new_dag() as dag:
        made = []
        for outer in ("one", "two"):
            with TaskGroup(outer):

                @task_group(group_id="each")
                def each(value: int) -> None:
                    Step(task_id="a") >> Watch(task_id="g")

                made.append(each.expand(value=[1, 2]))
        made[0] >> made[1] >> Watch(task_id="last")
    outline = agreed(dag)
    assert outline.edges["two.each.g"] == {"one.each.g": False}
    assert set(outline.mapped_groups.values()) == {"one.each", "two.each"}


# ---- what is in the database


@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize("compressed", [False, True])
def test_the_outline_of_a_stored_dag_is_that_of_the_dag(compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.models import serialized_dag
    from airflow.utils.session import create_session
    from sqlalchemy import select

    monkeypatch.setattr(serialized_dag, "_COMPRESS_SERIALIZED_DAGS", compressed)
    dag = plain_pipeline(f"outline_stored_{compressed}", mapped=True, tags=["b", "a"])
    add_dag(dag)
    with create_session(scoped=False) as session:
        row = session.scalars(
            select(serialized_dag.SerializedDagModel).where(serialized_dag.SerializedDagModel.dag_id == dag.dag_id)
        ).one()
        assert (row._data is None) is compressed
        (record,) = records.dags(session, {dag.dag_id})
        outline = records.outlines(session, [record])[dag.dag_id]
        assert outline is not None
        assert outline == outline_of(written(dag))
        assert records.outlines(session, [record])[dag.dag_id] is outline, "what did not change is not read again"
        assert records.outline_at(session, record.version) is outline
    assert outline.coverage.document() == coverage_of(dag).document()


@pytest.mark.usefixtures("airflow_db")
def test_a_dag_whose_copy_is_broken_has_no_outline_and_the_others_have_theirs() -> None:
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    for name in ("outline_broken", "outline_whole"):
        add_dag(plain_pipeline(name))
    with create_session(scoped=False) as session:
        broken: Any = {"dag": {"dag_id": "outline_broken", "tasks": "none"}}
        session.execute(update(SerializedDagModel).where(SerializedDagModel.dag_id == "outline_broken").values(_data=broken))
        found = records.outlines(session, records.dags(session, {"outline_broken", "outline_whole"}))
    assert found["outline_broken"] is None
    assert found["outline_whole"] is not None


@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize("raw", ["", "{not json", "[" * 5000, b"\xff\xfe"])
def test_a_copy_that_is_no_json_does_not_keep_the_others_from_being_read(raw: str | bytes) -> None:
    from airflow.utils.session import create_session
    from sqlalchemy import text

    ids = {"outline_no_json", "outline_json"}
    for name in ids:
        add_dag(plain_pipeline(name))
    records._outlines.known.clear()
    change = text("UPDATE serialized_dag SET data = :value WHERE dag_id = 'outline_no_json'")
    with create_session(scoped=False) as session:
        whole = session.scalar(text("SELECT data FROM serialized_dag WHERE dag_id = 'outline_no_json'"))
        session.execute(change, {"value": raw})
        try:
            listed = records.dags(session, ids)
            found = records.outlines(session, listed)
            assert found["outline_no_json"] is None
            assert found["outline_json"] is not None
            assert records.outlines(session, listed) == found, "and is not read again and again"
            records._outlines.known.clear()
            (broken,) = [record for record in listed if record.dag_id == "outline_no_json"]
            assert records.outline_at(session, broken.version) is None
        finally:  # of others that read all DAGs
            session.execute(change, {"value": whole})


@pytest.mark.usefixtures("airflow_db")
def test_a_dag_that_changed_is_read_again_and_its_old_version_stays_readable() -> None:
    from airflow.utils.session import create_session

    from tests.airflow_world import add_run

    first = plain_pipeline("outline_changing")
    add_dag(first)
    with create_session(scoped=False) as session:
        (before,) = records.dags(session, {"outline_changing"})
        old = records.outlines(session, [before])["outline_changing"]
    add_run(first, "once")  # so that the version is kept
    add_dag(plain_pipeline("outline_changing", stages=7))
    with create_session(scoped=False) as session:
        (after,) = records.dags(session, {"outline_changing"})
        new = records.outlines(session, [after])["outline_changing"]
        assert before.version != after.version
        assert records.outline_at(session, before.version) == old
        assert records.outline_at(session, after.version) is new
        assert records.outline_at(session, None) is None
    assert old is not None
    assert new is not None
    assert len(new.guards) == len(old.guards) + 2


# ---- laws

NOT_AN_OUTLINE = (KeyError, TypeError, ValueError, AttributeError)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("dag", "tasks", "__var", "dag_id", "x")), inner),
    max_leaves=12,
)


@given(JSON)
def test_what_is_no_serialized_dag_raises_what_is_caught(data: Any) -> None:
    with pytest.raises(NOT_AN_OUTLINE):
        outline_of(data)


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from parts(item, (*path, key))


WHOLE = written(plain_pipeline("broken", mapped=True))
PATHS = list(parts(WHOLE["dag"]))


@settings(max_examples=300)
@given(st.sampled_from(PATHS), st.sampled_from((None, 1, "x", [], {}, [1], {"x": 1})), st.booleans())
def test_a_copy_that_is_broken_somewhere_is_read_or_refused_as_what_it_is(path: tuple[Any, ...], value: Any, gone: bool) -> None:
    data = json.loads(json.dumps(WHOLE))
    place = data["dag"]
    for key in path[:-1]:
        place = place[key]
    if gone:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    try:
        outline = outline_of(data)
    except NOT_AN_OUTLINE:
        event("refused")
        return
    event("read")
    assert outline.coverage.guarded <= len(outline.coverage.counted)
    assert outline.edges.keys() == outline.guards.keys()


@st.composite
def guarded(draw: st.DrawFn) -> DAG:
    """A small DAG of stages and guards of every make, in any order."""
    with new_dag() as dag:
        groups: list[TaskGroup | None] = [TaskGroup("one"), TaskGroup("two", prefix_group_id=False)]
        groups += [TaskGroup("deep", parent_group=groups[0]), None, None, None]
        made: list[Any] = []
        for number in range(draw(st.integers(1, 8))):
            given_too: dict[str, Any] = {"task_id": f"t{number}", "trigger_rule": draw(st.sampled_from(RULES[:-1]))}
            if draw(st.booleans()):
                given_too["trigger_rule"] = "all_success"
            group = draw(st.sampled_from(groups))
            given_too |= {"task_group": group} if group is not None else {}
            above = draw(st.lists(st.sampled_from(made), unique_by=id, max_size=3)) if made else []
            kind = draw(st.sampled_from(("stage", "stage", "guard", "guard", "theirs", "sensor", "mapped", "empty", "branch")))
            on_failure: Any = draw(st.sampled_from(("fail", "fail", "warn", "skip_downstream", "{{ x }}")))
            if kind == "guard":
                one: Any = Watch(on_failure=on_failure, **given_too)
            elif kind == "theirs":
                one = Theirs(on_failure=on_failure, **given_too)
            elif kind == "sensor":
                one = Waits(on_failure=on_failure, soft_fail=draw(st.booleans()), **given_too)
            elif kind == "mapped" and given_too["trigger_rule"] != "always":
                one = Watch.partial(on_failure=on_failure, **given_too).expand(word=["x", "y"])
            elif kind == "empty":
                one = EmptyOperator(outlets=[Asset("s3://b/x")] if draw(st.booleans()) else [], **given_too)
            elif kind == "branch":
                one = ShortCircuitOperator(python_callable=bool, **given_too)
            else:
                one = Step(**given_too)
            for other in above:
                other >> one
            made.append(one)
    return dag


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(guarded())
def test_any_dag_of_stages_and_guards_is_outlined_as_it_is(dag: DAG) -> None:
    outline = agreed(dag)
    event(f"{outline.coverage.guarded} guarded")


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.one_of(dags(), dags(rules=RULES)))
def test_any_dag_that_a_plan_was_woven_into_is_outlined_as_it_is(dag: DAG) -> None:
    attempt(dag, plan())
    agreed(dag)
