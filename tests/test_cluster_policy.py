"""The organisation's plan: DAG files that never heard of this package are woven, refused or reported when Airflow parses them."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec import cluster_policy
from airflow_pipesec.errors import PlanError
from airflow_pipesec.guards.base import GuardOperator
from airflow_pipesec.plan_form import sealed_plan
from airflow_pipesec.signing import entry_of, new_private_key
from tests.organisation import GUARD, GUARDED, PLAIN, Organisation, plan
from tests.stack import free_port


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Organisation:
    return Organisation(tmp_path, monkeypatch)


def test_without_a_plan_every_dag_is_as_it_was_written(here: Organisation) -> None:
    assert here.accepted().task_ids == ["collect", "train"]
    here.set(plan_url="  ")
    assert here.accepted().task_ids == ["collect", "train"]


@pytest.mark.parametrize("first", ["airflow_pipesec.cluster_policy", "airflow_pipesec.weave", "airflow"])
def test_airflow_finds_the_policy_whatever_is_imported_first(first: str) -> None:
    hooks = "airflow.settings.get_policy_plugin_manager().hook.dag_policy.get_hookimpls()"
    code = f"import {first}; import airflow.settings; assert any(one.plugin_name == 'pipesec' for one in {hooks})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", capture_output=True)


def test_weave_adds_the_guards(here: Organisation) -> None:
    here.has(plan("weave"))
    dag = here.accepted()
    assert dag.task_ids == GUARDED
    assert dag.task_dict["train"].upstream_task_ids == {"before_train.watch"}
    assert dag.task_dict["before_train.watch"].upstream_task_ids == {"collect"}


def test_enforce_refuses_a_dag_without_them(here: Organisation) -> None:
    where = here.has(plan("enforce"))
    told = here.refused()
    assert told.startswith(f"DAG plain is not guarded as the organisation's plan {where} says. What to add goes to the end of")
    assert "\nbefore stage train there has to be a Watch. Add:\n    from tests.weaving import Watch\n    guard = Watch(" in told


def test_report_lets_it_pass_and_logs_what_is_missing(here: Organisation, caplog: pytest.LogCaptureFixture) -> None:
    here.has(plan("report"))
    with caplog.at_level(logging.WARNING):
        assert here.accepted().task_ids == ["collect", "train"]
    assert "pipesec: DAG plain: DAG plain is not guarded as" in caplog.text


def test_report_lets_also_what_the_plan_does_not_fit_pass(here: Organisation, caplog: pytest.LogCaptureFixture) -> None:
    here.has(plan("report", stages=[{"task": "publish", "before": [GUARD]}]))
    with caplog.at_level(logging.WARNING):
        assert here.accepted().task_ids == ["collect", "train"]
    assert "no task of DAG plain is meant by publish" in caplog.text


@pytest.mark.parametrize("own", ["enforce", "weave", "report"])
def test_the_mode_of_this_airflow_goes_before_the_plans(here: Organisation, own: str) -> None:
    here.has(plan(own), plan_mode="enforce")
    here.refused()
    here.set(plan_mode="weave")
    assert here.accepted().task_ids == GUARDED
    here.set(plan_mode="report")
    assert here.accepted().task_ids == ["collect", "train"]


def test_a_mode_that_there_is_none_of_refuses(here: Organisation) -> None:
    here.has(plan(), plan_mode="warn")
    assert "[pipesec] plan_mode is none of enforce, weave, report" in here.refused()


@pytest.mark.parametrize("means", [{"dag_id": "pl*n"}, {"tag": "pi?"}, {"dag_id": ["x", "plain"], "tag": "pii"}])
def test_an_entry_means_dags_by_glob_and_by_tag(here: Organisation, means: dict[str, Any]) -> None:
    here.has(plan(dags=[means]))
    assert here.accepted().task_ids == GUARDED
    here.has(plan(dags=[means], unmatched="allow"))
    other = PLAIN.replace('"plain"', '"fancy"').replace('"pii", ', "")
    assert here.accepted(other).task_ids == ["collect", "train"]


@pytest.mark.parametrize("told", [True, False], ids=["Airflow says which", "by its place"])
def test_an_entry_means_dags_by_the_bundle_that_they_are_in(here: Organisation, told: bool) -> None:
    here.bundles("prod", "sandbox")
    entries = [{"bundle": "pr*"}, {"bundle": "sandbox", "exempt": "Nothing from there is shipped."}]
    here.has(plan(dags=entries))

    def parsed(bundle: str) -> Any:
        return here.accepted(folder=here.home / bundle, bundle=bundle if told else None)

    assert parsed("prod").task_ids == GUARDED
    assert parsed("sandbox").task_ids == ["collect", "train"]


@pytest.mark.parametrize(
    ("mode", "unmatched", "refused"),
    [("enforce", None, True), ("weave", None, False), ("weave", "refuse", True), ("enforce", "allow", False)],
)
def test_a_dag_that_no_entry_means(here: Organisation, mode: str, unmatched: str | None, refused: bool) -> None:
    here.has(plan(mode, dags=[{"dag_id": "other"}], **({"unmatched": unmatched} if unmatched else {})))
    if refused:
        assert "has no entry for DAG plain, and refuses those. Ask who owns the plan for one." in here.refused()
        here.set(plan_mode="report")
    assert here.accepted().task_ids == ["collect", "train"]


def test_the_environment_of_this_airflow_is_laid_over_the_plan(here: Organisation) -> None:
    strict = {"mode": "enforce", "stages": [{"task": "collect", "after": [GUARD]}]}
    here.has(plan("weave", environments={"production": strict, "development": {}}))
    assert here.accepted().task_ids == GUARDED
    here.set(environment="development")
    assert here.accepted().task_ids == GUARDED
    here.set(environment="production")
    told = here.refused()
    assert "after stage collect there has to be a Watch" in told
    assert ", environment='production')" in told
    here.set(environment="test")
    assert "has no environment test" in here.refused()


def test_a_file_with_two_dags_loses_only_the_one_that_is_refused(here: Organisation) -> None:
    here.has(plan("enforce", dags=[{"dag_id": "plain"}], unmatched="allow"))
    dags, error = here.parse(PLAIN + PLAIN.replace('"plain"', '"fancy"'))
    assert list(dags) == ["fancy"]
    assert "DAG plain is not guarded" in error


# ---- Signed plans


@pytest.fixture
def signer(tmp_path: Path) -> Any:
    return new_private_key(tmp_path / "plan.pem")


def believes(here: Organisation, signer: Any, **window: datetime) -> None:
    keys = here.home / "plan-keys.yaml"
    keys.write_text(entry_of(signer.public_key, name="security", valid_from=datetime.now(UTC) - timedelta(days=9), **window))
    here.set(plan_keys=str(keys))


def sealed(signer: Any, **more: Any) -> bytes:
    return sealed_plan(json.dumps(plan(**more)).encode(), "plan", signer)


def test_a_plan_that_the_right_key_signed_counts(here: Organisation, signer: Any) -> None:
    here.has(sealed(signer))
    believes(here, signer)
    assert here.accepted().task_ids == GUARDED


def test_where_no_key_is_named_a_signature_is_not_looked_at(here: Organisation, signer: Any) -> None:
    here.has(sealed(signer))
    assert here.accepted().task_ids == GUARDED


@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_plan_that_nobody_signed_refuses_every_dag(here: Organisation, signer: Any, mode: str) -> None:
    where = here.has(plan(mode))
    believes(here, signer)
    assert f"the organisation's plan {where} is not signed, and has to be" in here.refused()


def test_a_plan_that_was_changed_or_that_another_key_signed_refuses_every_dag(
    here: Organisation, signer: Any, tmp_path: Path
) -> None:
    believes(here, signer)
    whole = sealed(signer)
    payload = whole.partition(b'"payload":"')[2]
    here.has(whole.replace(payload[:40], payload[:39] + (b"A" if payload[39:40] != b"A" else b"B")))
    assert "is not believed" in here.refused()
    here.has(sealed(new_private_key(tmp_path / "other.pem")))
    assert "is not believed" in here.refused()


def test_a_plan_whose_key_is_no_longer_valid_refuses_every_dag(here: Organisation, signer: Any) -> None:
    here.has(sealed(signer))
    believes(here, signer, valid_until=datetime.now(UTC) - timedelta(days=1))
    assert "is not believed" in here.refused()


def test_keys_that_cannot_be_read_refuse_every_dag(here: Organisation, signer: Any) -> None:
    here.has(sealed(signer), plan_keys=str(here.home / "none.yaml"))
    assert "the keys that plans are signed with ([pipesec] plan_keys)" in here.refused()


# ---- Plans that cannot be read


def absent(here: Organisation) -> str:
    return str(here.home / "nothing.yaml")


def a_folder(here: Organisation) -> str:
    return str(here.home)


def a_link(here: Organisation) -> str:
    (here.home / "real.yaml").write_text(json.dumps(plan()))
    (here.home / "link.yaml").symlink_to(here.home / "real.yaml")
    return str(here.home / "link.yaml")


def not_permitted(here: Organisation) -> str:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    where = here.has(plan())
    Path(where).chmod(0)
    return where


def a_closed_port(here: Organisation) -> str:
    return f"http://127.0.0.1:{free_port()}/plan.yaml"


def no_such_host(here: Organisation) -> str:
    return "https://plans.invalid/plan.yaml"


def an_unknown_scheme(here: Organisation) -> str:
    return "nowhere://bucket/plan.yaml"


def a_bucket_at_a_closed_port(here: Organisation) -> str:
    here.monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    here.monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    here.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    return "s3://bucket/plan.yaml"


@pytest.mark.parametrize(
    "at", [absent, a_folder, not_permitted, a_closed_port, no_such_host, an_unknown_scheme, a_bucket_at_a_closed_port]
)
@pytest.mark.parametrize("mode", ["", "weave", "enforce"])
def test_a_plan_that_cannot_be_read_refuses_every_dag_soon_and_says_what_to_do(here: Organisation, at: Any, mode: str) -> None:
    where = at(here)
    here.monkeypatch.setattr(cluster_policy, "PATIENCE", 2.0)
    here.set(plan_url=where, plan_mode=mode)
    began = time.monotonic()
    told = here.refused()
    assert time.monotonic() - began < 10
    assert f"the organisation's plan {where} " in told
    assert "Mend [pipesec] plan_url, or what it names" in told


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"just text", b"version: 1\n", b"version: 2\nstages: []", b"stages: [", b'{"payload":"']
)
def test_a_plan_that_is_none_refuses_every_dag(here: Organisation, content: bytes) -> None:
    where = here.has(content)
    assert f"the organisation's plan {where}" in here.refused()


def test_report_lets_dags_pass_also_without_a_plan_that_can_be_read(here: Organisation, caplog: pytest.LogCaptureFixture) -> None:
    here.set(plan_url=absent(here), plan_mode="report")
    with caplog.at_level(logging.WARNING):
        assert here.accepted().task_ids == ["collect", "train"]
    assert f"pipesec: DAG plain: the organisation's plan {absent(here)} cannot be read" in caplog.text


@contextmanager
def deaf() -> Iterator[int]:
    """A port where somebody listens and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_server_that_does_not_answer_is_not_waited_for_once_for_each_dag(here: Organisation, scheme: str) -> None:
    assert cluster_policy.PATIENCE < 10
    here.monkeypatch.setattr(cluster_policy, "PATIENCE", 1.0)
    with deaf() as port:
        here.monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        here.monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        here.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        here.set(plan_url={"http": f"http://127.0.0.1:{port}/plan.yaml", "s3": "s3://bucket/plan.yaml"}[scheme])
        began = time.monotonic()
        dags, error = here.parse("".join(PLAIN.replace('"plain"', f'"plain_{number}"') for number in range(20)))
        took = time.monotonic() - began
    assert not dags
    assert "did not come within 1 s" in error
    assert took < 10, "a second for each of 20 would be 20"


@contextmanager
def served(content: bytes) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.path)
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_plan_from_a_server_is_read_once_for_the_dags_of_a_file(here: Organisation) -> None:
    with served(json.dumps(plan()).encode()) as (host, asked):
        here.set(plan_url=f"http://{host}/plan.yaml")
        dags, error = here.parse("".join(PLAIN.replace('"plain"', f'"plain_{number}"') for number in range(20)))
    assert not error
    assert all(dag.task_ids == GUARDED for dag in dags.values())
    assert len(dags) == 20
    assert len(asked) == 1


def test_what_opens_the_plans_url_is_told_to_no_author(here: Organisation) -> None:
    with served(json.dumps(plan("enforce")).encode()) as (host, _):
        here.set(plan_url=f"http://{host}/plan.yaml?signature=canary")
        told = here.refused()
    assert f"the organisation's plan http://{host}/plan.yaml says" in told
    assert "canary" not in told
    here.set(plan_url=f"http://user:canary@{host}/plan.yaml?signature=canary")
    here.monkeypatch.setattr(cluster_policy, "PATIENCE", 2.0)
    assert "canary" not in here.refused()


class Breaks(GuardOperator):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        raise RuntimeError("canary")


@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_an_error_within_the_policy_refuses_and_quotes_nothing(here: Organisation, mode: str) -> None:
    here.has(plan(mode, stages=[{"task": "train", "before": [{"guard": "tests.test_cluster_policy.Breaks"}]}]))
    told = here.refused()
    assert "RuntimeError" in told or "Breaks" in told
    assert "canary" not in told


# ---- Enforce: what the author is told is what has to be added

DEMANDING = plan(
    "enforce",
    stages=[
        {"task": "train", "before": [GUARD, GUARD | {"id": "again", "word": "there", "retry_delay": 5, "execution_timeout": 60}]},
        {"task": "*.scale", "after": [GUARD]},
        {"task": "collect", "after": [{"guard": "EncryptionAtRestOperator", "targets": ["/srv/'a'", "/srv/b"]}]},
        {"task": "publish", "before": [{"guard": "tests.weaving.Waits", "timeout": 60}]},
        {"task": "join", "before": [GUARD | {"word": "join"}]},
        {"task": "x", "before": [GUARD | {"word": "x"}]},
    ],
)
LARGE = """
from airflow.sdk import DAG, task, task_group, TaskGroup

@task
def stage(value=None): return [1, 2]

@task.branch
def choose(): return ["x"]

@task_group
def each(value):
    stage.override(task_id="scale")(value) >> stage.override(task_id="rest")()

with DAG("plain", schedule=None) as dag:
    collected = stage.override(task_id="collect")()
    trained = stage.override(task_id="train")(collected)
    last = each.expand(value=trained)
    branch = choose()
    x, y = stage.override(task_id="x")(), stage.override(task_id="y")()
    last >> branch >> [x, y]
    join = stage.override(task_id="join", trigger_rule="none_failed_min_one_success")()
    [x, y] >> join >> stage.override(task_id="publish")()
"""


def test_who_adds_the_lines_that_the_message_has_is_accepted(here: Organisation) -> None:
    here.has(DEMANDING)
    told = here.refused(LARGE)
    lines = [line[4:] for line in told.splitlines() if line.startswith("    ")]
    assert sum(line.startswith("guard = ") for line in lines) == 7
    dag = here.accepted("\n".join((LARGE, *lines)))
    assert len(dag.task_ids) == 9 + 7
    assert dag.task_dict["before_train_again"].upstream_task_ids == {"before_train_watch"}


def test_who_adds_a_part_of_the_lines_is_told_the_rest(here: Organisation) -> None:
    here.has(DEMANDING)
    source, rounds = LARGE, 0
    while found := re.search(r"^before.*\n((?:    .*\n)+)|^after.*\n((?:    .*\n)+)", here.parse(source)[1], re.MULTILINE):
        source += "\n" + "".join(line[4:] for line in found[0].splitlines(keepends=True)[1:])
        rounds += 1
        assert rounds < 9
    assert rounds == 7
    here.accepted(source)


def test_who_adds_the_one_line_is_accepted(here: Organisation) -> None:
    here.has(DEMANDING)
    line = here.refused(LARGE).rpartition("with one line at the end of the file: ")[2]
    dag = here.accepted(f"{LARGE}\n{line}")
    assert {"before_train.watch", "before_train.again", "each.after_scale.watch"} <= set(dag.task_ids)


@pytest.mark.parametrize("source", [PLAIN, LARGE])
def test_what_weaving_makes_of_a_dag_is_accepted_by_enforce(here: Organisation, source: str) -> None:
    where = here.has(DEMANDING if source is LARGE else plan("enforce"))
    here.accepted(f"{source}\nfrom airflow_pipesec import secure\nsecure(dag, {where!r})")


def by_hand(guard: str = "", edges: str = "collect() >> guard >> train()", after: str = "", **given: str) -> str:
    """The plain DAG with a guard that its author wrote."""
    made = guard or f"Watch(task_id='mine', word='here'{''.join(f', {name}={value}' for name, value in given.items())})"
    return (
        PLAIN.partition("with DAG")[0]
        + "from tests.weaving import Watch\nfrom datetime import timedelta\n"
        + f"with DAG('plain', schedule=None) as dag:\n    guard = {made}\n    {edges}\n{after}\n"
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"retries": "3", "queue": "'guards'", "owner": "'me'", "pool": "'p'", "execution_timeout": "timedelta(hours=1)"},
        {"on_failure_callback": "print", "doc_md": "'why'", "priority_weight": "7", "depends_on_past": "True"},
        {"trigger_rule": "'none_failed'"},
    ],
    ids=str,
)
def test_a_guard_that_the_author_wrote_counts_under_any_id(here: Organisation, given: dict[str, str]) -> None:
    here.has(plan("enforce"))
    assert here.accepted(by_hand(**given)).task_ids == ["mine", "collect", "train"]


GONE = """
gone = dag.task_dict.pop({!r})
gone.task_group.children.pop(gone.task_id)
for one in dag.tasks:
    one.upstream_task_ids.discard(gone.task_id), one.downstream_task_ids.discard(gone.task_id)
dag.task_dict["collect"] >> dag.task_dict["train"]
"""
REFUSED = {
    "another parameter": (by_hand("Watch(task_id='mine', word='elsewhere')"), "mine is not it: its word is another"),
    "a parameter besides": (by_hand(passes="False"), "its passes is another"),
    "it only warns": (by_hand(on_failure="'warn'"), "its on_failure is another"),
    "another policy": (by_hand(policy="{'fail_on': 'critical'}"), "its policy is another"),
    "a hook": (by_hand(pre_execute="print"), "its pre_execute_hook is another"),
    "a hook afterwards": (by_hand(post_execute="print"), "its post_execute_hook is another"),
    "a callback when it starts": (by_hand(on_execute_callback="print"), "its on_execute_callback is another"),
    "an executor of its own": (by_hand(executor_config="{'pod_override': 1}"), "its executor_config is another"),
    "execute replaced": (by_hand(after="guard.execute = print"), "its execute was set"),
    "findings replaced": (by_hand(after="guard.findings = lambda context: []"), "its findings was set"),
    "template fields": (by_hand(after="guard.template_fields = ()"), "its template_fields was set"),
    "a string that says it equals all others": (
        by_hand("Watch(task_id='mine', word=type('S', (str,), {'__eq__': lambda *_: True, '__ne__': lambda *_: False})('x'))"),
        "its word is another",
    ),
    "a policy that says it equals all others": (
        by_hand(policy="type('D', (dict,), {'__eq__': lambda *_: True, '__ne__': lambda *_: False})(fail_on='critical')"),
        "its policy is another",
    ),
    "as a teardown": (by_hand(after="guard.as_teardown()"), "its is_teardown is another"),
    "always": (by_hand(trigger_rule="'always'"), "mine has the trigger rule always"),
    "all_done": (by_hand(trigger_rule="'all_done'"), "mine has the trigger rule all_done"),
    "without an XCom": (by_hand("Watch(task_id='mine', word=collect())", "guard >> train()"), "its word is another"),
    "mapped": (by_hand("Watch.partial(task_id='mine').expand(word=['here'])"), "there has to be a Watch"),
    "beside the stage": (by_hand(edges="collect() >> [guard, train()]"), "train does not follow mine"),
    "after the stage": (by_hand(edges="collect() >> train() >> guard"), "train does not follow mine"),
    "too early": (by_hand(edges="guard >> train(); collect() >> dag.get_task('train')"), "it would look too early"),
    "passed by": (
        by_hand(edges="collect() >> guard >> train.override(trigger_rule='one_success')() << collect.override(task_id='c')()"),
        "would run although mine did not pass",
    ),
    "a subclass": (
        by_hand("type('Watch', (Watch,), {'findings': lambda *_: []})(task_id='mine', word='here')"),
        "there has to be a Watch",
    ),
    "a subclass in its place": (
        by_hand("type('Watch', (Watch,), {})(task_id='before_train_watch', word='here')"),
        "there has to be a Watch",
    ),
    "taken out again": (by_hand(after=GONE.format("mine")), "there has to be a Watch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_guard_that_is_not_what_the_plan_demands_does_not_count(here: Organisation, what: str) -> None:
    here.has(plan("enforce"))
    source, told = REFUSED[what]
    assert told in here.refused(source)


def test_a_guard_that_allows_what_is_unsigned_does_not_count(here: Organisation) -> None:
    demanded = {"guard": "HashVerificationOperator", "root": "/srv/x", "manifest": "/srv/x.json"}
    here.has(plan("enforce", stages=[{"task": "train", "before": [demanded]}]))
    made = "HashVerificationOperator(task_id='mine', root='/srv/x', manifest='/srv/x.json'{})"
    source = by_hand(made.format("")).replace("from tests.weaving import Watch", "from airflow_pipesec.operators import *")
    here.accepted(source)
    assert "its allow_unsigned is another" in here.refused(source.replace("x.json'", "x.json', allow_unsigned=True"))


def test_a_guard_that_was_taken_out_after_secure_is_missed(here: Organisation) -> None:
    where = here.has(plan("enforce"))
    source = f"{PLAIN}\nfrom airflow_pipesec import secure\nsecure(dag, {where!r})\n"
    here.accepted(source)
    assert "there has to be a Watch" in here.refused(source + GONE.format("before_train.watch"))


def test_guards_that_the_plan_has_in_an_order_have_to_stand_in_it(here: Organisation) -> None:
    here.has(plan("enforce", stages=[{"task": "train", "before": [GUARD, GUARD | {"id": "b", "word": "b"}]}]))
    first = by_hand("Watch(task_id='mine', word='here'); b = Watch(task_id='b', word='b')", "collect() >> [guard, b] >> train()")
    told = here.refused(first)
    line = told.partition("which the plan has before it. Add: ")[2].partition("\n")[0]
    assert line == "dag.get_task('mine') >> dag.get_task('b')"
    here.accepted(f"{first}\n{line}")


def test_one_guard_between_two_stages_may_be_after_one_and_before_the_other(here: Organisation) -> None:
    here.has(plan("enforce", stages=[{"task": "collect", "after": [GUARD]}, {"task": "train", "before": [GUARD]}]))
    here.accepted(by_hand())


def test_a_plan_that_each_process_would_look_for_elsewhere_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.yaml").write_text("version: 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match=r"plan_url=plan\.yaml is no absolute path"):
        cluster_policy.organisation_plan("plan.yaml")
