"""Threats: the catalogue is whole and strict, and what guards say they answer is in it, before and after serialization."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization

from airflow_pipesec import operators, sensors
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor
from airflow_pipesec.threats import STAGES, Reference, Threat, catalogue, demand_known, read_catalogue
from tests.make_threats_page import PAGE, guards, page, section
from tests.runner import RunTask

THREATS = list(catalogue().values())
REFERENCES = [reference for threat in THREATS for reference in threat.references]
NIST = "https://csrc.nist.gov/pubs/sp/800/53/r5/upd1/final"
# What an identifier looks like, and the page that then belongs to it.
FORMS = {
    r"MITRE ATLAS (AML\.T\d{4}(?:\.\d{3})?)": r"https://atlas\.mitre\.org/techniques/{0}",
    r"OWASP (ML\d\d):2023": r"https://owasp\.org/www-project-machine-learning-security-top-10/docs/{0}_2023-[A-Za-z_]+",
    r"NIST SP 800-53 ([A-Z]{2}-\d{1,2})": re.escape(NIST),
    r"CWE-(\d+)": r"https://cwe\.mitre\.org/data/definitions/{0}\.html",
    r"NIST AI 100-2e2025": r"https://csrc\.nist\.gov/pubs/ai/100/2/e2025/final",
    r"NIST SP 1270": r"https://www\.nist\.gov/publications/[a-z-]+",
    r"GDPR Art\. (\d+)": r"https://eur-lex\.europa\.eu/eli/reg/2016/679/oj",
}
GOOD: dict[str, Any] = {
    "id": "rot",
    "title": "Rot",
    "short": "rot",
    "meaning": "Things rot.",
    "stages": ["collection", "training"],
    "references": [{"id": "CWE-1", "title": "Rot", "url": "https://example.org"}],
}
REF = GOOD["references"][0]


def read(*entries: Any, **changes: Any) -> Mapping[str, Threat]:
    document = {"threats": list(entries) or [GOOD | changes]}
    return read_catalogue(json.dumps(document).encode(), "c.yaml")


def test_the_catalogue_has_every_threat_that_a_pipeline_faces() -> None:
    assert set(catalogue()) >= {
        "adversarial-examples",
        "bias",
        "data-poisoning",
        "drift",
        "missing-access-control",
        "model-inversion",
        "no-audit-trail",
        "personal-data",
        "supply-chain",
        "tampered-artifacts",
        "unsecured-storage",
        "unsecured-transport",
        "unvalidated-input",
    }
    assert {stage for threat in THREATS for stage in threat.stages} == set(STAGES)


def test_the_catalogue_is_in_the_order_of_its_file_and_cannot_be_changed() -> None:
    document = yaml.safe_load((PAGE.parent.parent / "airflow_pipesec" / "threats.yaml").read_bytes())
    assert [entry["id"] for entry in document["threats"]] == list(catalogue())
    assert catalogue() is catalogue()
    with pytest.raises(TypeError):
        catalogue()["rot"] = THREATS[0]  # type: ignore[index] # what is tested
    with pytest.raises(AttributeError):
        THREATS[0].title = "Rot"  # type: ignore[misc] # what is tested


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.id)
def test_each_threat_is_told_in_two_or_three_sentences(threat: Threat) -> None:
    assert threat.meaning.endswith(".")
    assert 2 <= len(re.findall(r"[.](?: |$)", threat.meaning)) <= 3
    assert threat.title[0].isupper()
    assert not threat.title.endswith(".")


def test_short_names_and_titles_are_unique() -> None:
    for name in ("short", "title"):
        values = [getattr(threat, name).casefold() for threat in THREATS]
        assert sorted(values) == sorted(set(values))


@pytest.mark.parametrize("reference", sorted(set(REFERENCES), key=lambda one: one.id), ids=lambda one: one.id)
def test_each_reference_has_the_form_of_its_source_and_its_page(reference: Reference) -> None:
    matches = [(found, page_of) for form, page_of in FORMS.items() if (found := re.fullmatch(form, reference.id))]
    assert len(matches) == 1, "no known form of an identifier"
    found, page_of = matches[0]
    assert re.fullmatch(page_of.format(*map(re.escape, found.groups())), reference.url)
    assert reference.title[0].isupper()


def test_a_reference_has_one_title_wherever_it_is_cited() -> None:
    assert len({reference.id for reference in REFERENCES}) == len(set(REFERENCES))


def test_a_good_catalogue_can_be_read() -> None:
    assert read()["rot"] == Threat(
        "rot", "Rot", "rot", "Things rot.", ("collection", "training"), (Reference("CWE-1", "Rot", "https://example.org"),)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Rot"}, "id of threat 1 of c.yaml is not in kebab-case"),
        ({"id": "rot\n"}, "is not one line of text"),
        ({"id": 7}, "is not one line of text"),
        ({"title": ""}, "title of threat 1 of c.yaml is not one line"),
        ({"meaning": "  "}, "meaning of threat 1 of c.yaml is not one line"),
        ({"short": "thirteen char"}, "longer than 12"),
        ({"stages": []}, "stages of threat 1 of c.yaml is not a list with something in it"),
        ({"stages": "training"}, "is not a list"),
        ({"stages": ["traning"]}, "are not some of collection"),
        ({"stages": ["training", "training"]}, "each once"),
        ({"stages": ["training", "collection"]}, "in that order"),
        ({"stages": [["training"]]}, "are not some of collection"),
        ({"references": []}, "references of threat 1 of c.yaml is not a list with something in it"),
        ({"references": [REF, REF]}, "one id twice"),
        ({"references": [REF | {"url": "http://example.org"}]}, "does not begin with https://"),
        ({"references": [REF | {"title": None}]}, "title of reference 1 of threat 1 of c.yaml is not one line"),
        ({"references": [{"id": "CWE-1", "title": "Rot"}]}, "reference 1 of threat 1 of c.yaml lacks url"),
        ({"references": [REF | {"link": ""}]}, "reference 1 of threat 1 of c.yaml has unknown link"),
        ({"references": ["CWE-1"]}, "reference 1 of threat 1 of c.yaml is not an object"),
        ({"severity": "high"}, "threat 1 of c.yaml has unknown severity"),
    ],
)
def test_an_entry_that_is_not_one_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read(**changes)


@pytest.mark.parametrize("name", GOOD)
def test_an_entry_that_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"threat 1 of c.yaml lacks {name}"):
        read({key: value for key, value in GOOD.items() if key != name})


def test_an_id_or_a_short_name_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has threat rot twice"):
        read(GOOD, GOOD | {"short": "other"})
    with pytest.raises(ConfigurationError, match="two threats with the short name rot"):
        read(GOOD, GOOD | {"id": "other"})


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"threats: []", b"threats: {}", b"more: 1\nthreats: [1]", b"threats: [1]\nthreats: [1]"]
)
def test_a_file_that_is_no_catalogue_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"c\.yaml"):
        read_catalogue(raw, "c.yaml")


@pytest.mark.parametrize("guard", guards(), ids=lambda guard: guard.__name__)
def test_each_guard_says_which_known_threats_it_answers(guard: type[Guard]) -> None:
    assert guard.threats
    assert len(set(guard.threats)) == len(guard.threats)
    demand_known(guard.threats, guard.__name__)
    assert "threats" not in guard.template_fields


def test_an_operator_and_its_sensor_answer_the_same() -> None:
    pairs = [name for name in sensors.__all__ if name != "GuardSensor"]
    assert pairs
    for name in pairs:
        assert getattr(sensors, name).threats == getattr(operators, name.replace("Sensor", "Operator")).threats


def test_the_bases_answer_nothing_by_themselves() -> None:
    assert (Guard.threats, GuardOperator.threats, GuardSensor.threats) == ((), (), ())


def test_known_threats_are_accepted() -> None:
    demand_known((), "guard g")
    demand_known(catalogue(), "guard g")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("drift", "dirft"), "threats of guard g names dirft, which is not in the catalogue. Did you mean drift?"),
        (("x\x1b[31m",), "names x\\x1b[31m, which is not in the catalogue. There are unvalidated-input, "),
        ("drift", "threats of guard g is a str. Give several ids"),
        (None, "threats of guard g is a NoneType"),
        ((None,), "threats of guard g holds a NoneType"),
        ((["drift"],), "threats of guard g holds a list"),
    ],
)
def test_what_is_no_known_threat_is_an_error(ids: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        demand_known(ids, "guard g")


class Fair(GuardOperator):
    threats = ("bias",)

    def findings(self, context: Any) -> Iterable[Finding]:
        return ()


class FairSensor(GuardSensor):
    threats = ("bias",)

    def findings(self, context: Any) -> Iterable[Finding]:
        return ()


def scored(part: int = 0) -> Iterator[Finding]:
    control = Control("score-holds", "The score holds", Severity.HIGH, remedy="Train anew.")
    yield Finding(control, Subject(f"part {part}"), Status.PASS, "holds")


def build() -> DAG:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        task.guard(task_id="told", threats=("drift", "bias"))(scored)()
        task.guard(task_id="mapped", threats=("drift",))(scored).expand(part=[1, 2])
        task.guard(task_id="untold")(scored)()
        Fair(task_id="own")
        FairSensor(task_id="own_sensor")
        operators.HashManifestOperator(task_id="ours", root="r", manifest="m")
    return dag


def test_a_function_says_what_it_answers_and_no_field_is_templated() -> None:
    dag = build()
    told = dag.get_task("told")
    assert told.threats == ("drift", "bias")
    assert dag.get_task("untold").threats == ()
    assert dag.get_task("own").threats == ("bias",)
    assert "threats" not in told.template_fields
    assert type(told).threats == (), "one function's threats are not another's"


def test_a_function_that_is_mapped_still_says_what_it_answers(run_task: RunTask) -> None:
    mapped = build().get_task("mapped")
    assert mapped.partial_kwargs["threats"] == ("drift",)
    made = mapped.unmap({"op_kwargs": {"part": 2}})
    assert made.threats == ("drift",)
    assert run_task(made).state == "success"


def test_threats_survive_the_serialization_of_the_dag() -> None:
    encoded = DagSerialization.to_dict(build())
    DagSerialization.validate_schema(encoded)
    back = DagSerialization.from_dict(json.loads(json.dumps(encoded)))
    assert {name: list(back.get_task(name).threats) for name in ("told", "untold", "own", "own_sensor", "ours")} == {
        "told": ["drift", "bias"],
        "untold": [],
        "own": ["bias"],
        "own_sensor": ["bias"],
        "ours": ["tampered-artifacts"],
    }
    assert list(back.get_task("mapped").partial_kwargs["threats"]) == ["drift"]


def test_the_page_is_what_the_catalogue_and_the_guards_say() -> None:
    told = PAGE.read_text(encoding="utf-8")
    assert told == page(), "docs/threats.md is stale: run python -m tests.make_threats_page"
    for threat in THREATS:
        assert f"## {threat.title}\n" in told
        assert threat.meaning in " ".join(section(threat).split())
        assert all(f"[{one.id}]({one.url}), {one.title}" in section(threat) for one in threat.references)
        assert all((f"`{guard.__name__}`" in section(threat)) == (threat.id in guard.threats) for guard in guards())
