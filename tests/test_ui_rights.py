"""The security pages show each person what that person may read: on every route, whatever is asked for, and however."""

from __future__ import annotations

import html
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

from airflow_pipesec.checks.quality import DATA_PRESENT, EXPECTATIONS_MET
from airflow_pipesec.findings import Finding, Severity, Status, Subject
from airflow_pipesec.policy import Waiver
from tests.airflow_world import Played, add_dag, add_run, naked_pipeline, plain_pipeline
from tests.separating import Asked, Person, Server, routes, serving

OWN, BARE, THEIRS = "rights_own", "rights_own_bare", "rights_theirs"
GOOD, BAD = "own_good_run", "own_bad_run"
THEIR_RUN, THEIR_TASK, THEIR_APPROVER = "their_secret_run", "stage_2", "their_approver"
TOUCHED = "mallory_touched_it"  # who set a guard to success by hand, as the audit log has it
GUARD = "validate_preprocess"
NO_LOG = (DagAccessEntity.AUDIT_LOG,)
ALL = Person("ada", None, connections=True)
NOBODY = Person("nemo", frozenset())
ROUTES = routes()
OF_A_DAG = [route for route in ROUTES if "dag_id" in route.parameters]
OF_RIGHTS = [route for route in OF_A_DAG if route.path != "/access"]  # which is about the rights of others, and has its own rule
EACH = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
EACH_OF_A_DAG = pytest.mark.parametrize("route", OF_A_DAG, ids=lambda route: route.path)
EACH_OF_RIGHTS = pytest.mark.parametrize("route", OF_RIGHTS, ids=lambda route: route.path)
PLAIN, AS_PAGE = {"accept": "*/*"}, {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def given(dag_id: str = OWN, run_id: str = BAD, task_id: str = GUARD) -> dict[str, Any]:
    """What every route can be asked with: a parameter that is new needs a value here, where it is demanded."""
    return {"name": "pipesec.css", "dag_id": dag_id, "run_id": run_id, "task_id": task_id, "user": "vera"}


@pytest.fixture(scope="module")
def folder(airflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def own(folder: Path) -> None:
    dag = plain_pipeline(OWN)
    add_dag(dag)
    add_run(dag, GOOD)
    add_run(dag, BAD, plays={GUARD: Played.OVERRIDDEN}, by=TOUCHED)
    bare = naked_pipeline(BARE)
    add_dag(bare)
    add_run(bare, GOOD)


VIEWS = [
    {},
    {"q": "rights"},
    {"q": "theirs"},
    {"result": "does not verify"},
    {"guarded": "some"},
    {"threat": "tampering"},
    {"page": 2},
    *({"sort": sort, "down": down} for sort, down in product(("verdict", "dag", "coverage", "findings", "last run"), (0, 1))),
]


@pytest.fixture(scope="module")
def before(own: None, server: Server) -> list[str]:
    """The overview of who reads some DAGs, before there are others."""
    client = server.reader(OWN, BARE)
    return [client.get("/pipesec/overview", params=view).text for view in VIEWS]


@pytest.fixture(scope="module")
def world(before: list[str]) -> None:
    """DAGs of others: with alarms, findings, waivers, a DAG that cannot be read, and more stages."""
    today = datetime.now(UTC).date()
    waiver = Waiver(EXPECTATIONS_MET.id, "*", "their secret reason", THEIR_APPROVER, today + timedelta(days=3))
    seen = [Finding(EXPECTATIONS_MET, Subject("/their/secret/file"), Status.FAIL, "their secret", severity=Severity.CRITICAL)]
    seen.append(Finding(DATA_PRESENT, Subject("/their/secret/file"), Status.PASS, "1 row"))
    for number in range(30):  # more than a page of them
        dag = plain_pipeline(THEIRS if not number else f"{THEIRS}_{number}", stages=7)
        add_dag(dag)
        if number < 3:
            add_run(dag, f"{THEIR_RUN}_0", waivers={GUARD: [waiver]}, findings={GUARD: seen})
        if number < 2:
            add_run(dag, THEIR_RUN, plays={GUARD: Played.FAILED, "record_train": Played.OVERRIDDEN}, by="their_mallory")
    broken = plain_pipeline(f"{THEIRS}_broken")
    add_dag(broken)
    overwrite(f"{THEIRS}_broken", {})


def overwrite(dag_id: str, data: Any) -> None:
    """Write something else for Airflow's copy of a DAG."""
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session(scoped=False) as session:
        table = SerializedDagModel.__table__
        session.execute(update(table).where(table.c.dag_id == dag_id).values(data=data, dag_hash="0" * 32))


def secrets(answer: Any) -> list[str]:
    """Return what an answer tells of the DAGs of others."""
    told = html.unescape(answer.text) + str(answer.headers)
    return [word for word in (THEIRS, THEIR_RUN, THEIR_TASK, THEIR_APPROVER, "secret", "their_mallory") if word in told]


def test_the_walk_is_of_every_route_and_each_only_reads() -> None:
    assert {"/overview", "/verdict", "/dag", "/run", "/task", "/access", "/static/{name}", "/evidence.zip"} <= {
        route.path for route in ROUTES
    }
    assert len(OF_A_DAG) >= 9
    assert all(route.methods <= {"GET", "HEAD"} for route in ROUTES)


@EACH
@pytest.mark.parametrize("accept", [PLAIN, AS_PAGE], ids=["any", "html"])
def test_nobody_is_told_anything(world: None, server: Server, route: Asked, accept: dict[str, str]) -> None:
    for asked in (given(), given(THEIRS, THEIR_RUN), given("no such DAG"), {"name": "no such file"}):
        answer = server.client(headers=accept).get(route.url({**dict.fromkeys(route.parameters, ""), **asked}))
        assert answer.status_code == 401
        assert "Not authenticated" in answer.text
        assert OWN not in answer.text


@EACH
@pytest.mark.parametrize("accept", [PLAIN, AS_PAGE], ids=["any", "html"])
def test_a_token_that_is_none_any_more_is_nobodys(world: None, server: Server, route: Asked, accept: dict[str, str]) -> None:
    token = server.token(ALL, seconds=-60)
    for client in (
        server.client(headers=accept | {"authorization": f"Bearer {token}"}),
        server.client(headers=accept | {"cookie": f"_token={token}"}),
    ):
        answer = client.get(route.url(given()))
        assert answer.status_code == 401
        assert OWN not in answer.text


def garbage(token: str) -> list[str]:
    head, claims, signature = token.split(".")
    return ["x", "x.y.z", f"{head}.{claims}.", f"{head}.{claims}", f"{head}.{claims}x.{signature}", f"e30.{claims}.{signature}"]


@EACH
def test_a_token_that_never_was_one_is_refused_as_airflow_refuses_it(world: None, server: Server, route: Asked) -> None:
    for token, accept in product(garbage(server.token(ALL)), (PLAIN, AS_PAGE)):
        for how in ({"authorization": f"Bearer {token}"}, {"cookie": f"_token={token}"}):
            client = server.client(headers=accept | how)
            answer = client.get(route.url(given()))
            assert answer.status_code == client.get("/api/v2/dags").status_code
            assert answer.status_code in (401, 403)
            assert OWN not in answer.text


@EACH
def test_another_scheme_of_authorization_is_nobodys(world: None, server: Server, route: Asked) -> None:
    token = server.token(ALL)
    for value in (f"Basic {token}", token, "Bearer ", f"Bearer  , {token}"):
        answer = server.client(headers={"authorization": value}).get(route.url(given()))
        assert answer.status_code in (401, 403)
        assert OWN not in answer.text
    for name in ("token", "_token", "access_token", "jwt"):
        assert server.client().get(route.url(given()), params={**given(), name: token}).status_code == 401


@EACH
def test_who_may_read_it_is_answered(world: None, server: Server, route: Asked) -> None:
    for cookie in (False, True):
        for run_id, task_id in product((GOOD, BAD), (GUARD, "train")):
            answer = server.client(Person("rita", frozenset({OWN}), connections=True), cookie=cookie).get(
                route.url(given(OWN, run_id, task_id))
            )
            assert answer.status_code == 200, answer.text
            assert not secrets(answer)


@EACH_OF_A_DAG
@pytest.mark.parametrize("accept", [PLAIN, AS_PAGE], ids=["any", "html"])
def test_a_dag_of_others_is_refused_in_the_same_words_whether_or_not_it_is_there(
    world: None, server: Server, route: Asked, accept: dict[str, str]
) -> None:
    client = server.client(Person("rita", frozenset({OWN, BARE})), headers=accept)
    answers = [
        client.get(route.url(given(dag_id, run_id, task_id)))
        for dag_id, run_id, task_id in product(
            (
                THEIRS,
                f"{THEIRS}_broken",
                "no_such_dag",
                OWN.upper(),
                f"{OWN} ",
                f" {OWN}",
                f"{OWN}\u200b",
                f"{OWN}%",
                "_" * len(OWN),
                "~",
            ),
            (THEIR_RUN, GOOD, "no_such_run"),
            (GUARD, THEIR_TASK, "no_such_task"),
        )
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1
    assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1
    assert not secrets(answers[0])


@EACH_OF_RIGHTS
@pytest.mark.parametrize("denied", [DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE], ids=lambda entity: entity.name)
def test_who_may_read_the_dag_alone_is_refused_what_is_of_its_runs(
    world: None, server: Server, route: Asked, denied: DagAccessEntity
) -> None:
    client = server.reader(OWN, denied=[denied])
    assert client.get(f"/api/v2/dags/{OWN}").status_code == 200
    for asked in (given(), given(OWN, "no_such_run"), given(OWN, BAD, "no_such_task")):
        answer = client.get(route.url(asked))
        assert (answer.status_code, GUARD in answer.text) == (403, False)


@pytest.mark.parametrize("denied", [DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE], ids=lambda entity: entity.name)
def test_a_dag_whose_runs_one_may_not_read_is_not_in_the_overview(world: None, server: Server, denied: DagAccessEntity) -> None:
    shown = server.reader(OWN, THEIRS, denied=[denied]).get("/pipesec/overview")
    assert shown.text == server.client(NOBODY).get("/pipesec/overview").text
    assert "There is no DAG here that you may read" in shown.text


def test_a_parameter_that_is_repeated_is_one_and_the_same_for_the_right_and_for_the_page(world: None, server: Server) -> None:
    client = server.client(Person("rita", frozenset({OWN})))
    for route in OF_A_DAG:
        for ids in ([OWN, THEIRS], [THEIRS, OWN], [OWN, THEIRS, OWN], [THEIRS, OWN, THEIRS]):
            for run_ids in ([GOOD, THEIR_RUN], [THEIR_RUN, GOOD]):
                answer = client.get(route.url(given() | {"dag_id": ids, "run_id": run_ids}))
                assert answer.status_code in (200, 403, 404)
                assert not secrets(answer)
        for name in ("dag_id[]", "DAG_ID", "dagId", "dag_id "):
            assert not secrets(client.get(route.url(given()), params={**given(), name: THEIRS}))


def test_a_run_of_others_is_not_to_be_had_by_way_of_a_dag_of_ones_own(world: None, server: Server) -> None:
    client = server.reader(OWN)
    for route in OF_RIGHTS:
        if "run_id" in route.parameters:
            answer = client.get(route.url(given(OWN, THEIR_RUN, THEIR_TASK)))
            assert answer.status_code == 404
            assert "no such run" in answer.text


def test_the_overview_is_what_it_would_be_if_the_dags_of_others_did_not_exist(
    before: list[str], world: None, server: Server
) -> None:
    client = server.reader(OWN, BARE)
    with mock.patch.dict("airflow_pipesec.ui.proofs._memory", clear=True):  # of what other tests had verified
        for view, was in zip(VIEWS, before, strict=True):
            now = client.get("/pipesec/overview", params=view)
            assert not secrets(now)
            assert now.text == was, view
    assert "2 DAGs" in before[0]
    assert TOUCHED not in before[0]
    # There was something to leave out.
    theirs = html.unescape(server.reader(THEIRS, f"{THEIRS}_1", f"{THEIRS}_2", f"{THEIRS}_broken").get("/pipesec/overview").text)
    assert all(word in theirs for word in (THEIRS, THEIR_RUN, f"{THEIRS}_broken", EXPECTATIONS_MET.id))


def test_the_overview_stays_so_when_others_had_their_evidence_verified(before: list[str], world: None, server: Server) -> None:
    everybody, client = server.client(ALL), server.reader(BARE)
    was = client.get("/pipesec/overview").text
    assert everybody.get("/pipesec/verdict", params=given(THEIRS, THEIR_RUN)).json()["result"] == "does not verify"
    assert client.get("/pipesec/overview").text == was
    assert client.get("/pipesec/verdict", params=given(THEIRS, THEIR_RUN)).status_code == 403


def test_one_dag_is_counted_as_one_and_each_at_all(world: None, server: Server) -> None:
    for ids, number in (([OWN], "1 DAG<"), ([OWN, BARE], "2 DAGs<"), ([OWN, BARE, THEIRS], "3 DAGs<"), ([], "0 DAGs<")):
        shown = server.reader(*ids, "no_such_dag").get("/pipesec/overview").text
        assert number in shown
        assert (THEIRS in shown) == (THEIRS in ids)


def told_of(answer: Any) -> bool:
    return TOUCHED in html.unescape(answer.text)


NAMING = ("/run", "/task", "/report.html", "/findings.json", "/findings.sarif")


@EACH
def test_only_who_may_read_the_audit_log_is_told_who_did_what(world: None, server: Server, route: Asked) -> None:
    everybody = server.client(Person("ada", frozenset({OWN}), connections=True))
    others = server.client(Person("rita", frozenset({OWN}), frozenset(NO_LOG), connections=True))
    # In both orders: what was found for one is not told the other.
    answers = [client.get(route.url(given())) for client in (others, everybody, others, everybody)]
    assert {answer.status_code for answer in answers} == {200}
    assert [told_of(answer) for answer in answers] == [False, route.path in NAMING] * 2


def test_what_all_are_told_of_a_run_names_nobody(world: None, server: Server) -> None:
    everybody, others = server.reader(OWN), server.reader(OWN, denied=NO_LOG)
    for client in (everybody, others, everybody):
        assert told_of(everybody.get("/pipesec/run", params=given()))
        answer = client.get("/pipesec/verdict", params=given())
        assert answer.json()["result"] == "does not verify"
        assert not told_of(answer)
        assert not told_of(client.get("/pipesec/overview"))
        assert not told_of(client.get("/pipesec/dag", params=given()))
    assert "You may not read the audit log" in others.get("/pipesec/run", params=given()).text


def test_who_may_not_read_connections_learns_nothing_of_other_users(world: None, server: Server) -> None:
    for method, entity in (("", ""), ("GET", "dag"), ("junk", "dag"), ("GET", "junk")):
        asked = {"user": "vera", "dag_id": OWN, "method": method, "entity": entity}
        assert server.reader(OWN).get("/pipesec/access", params=asked).status_code == 403
        answer = server.client(ALL).get("/pipesec/access", params=asked)
        assert answer.json() == {
            "manager": "SeparatingAuthManager",
            "supported": False,
            "known": False,
            "roles": [],
            "permitted": None,
        }


@EACH
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_is_done_but_reading(world: None, server: Server, route: Asked, method: str) -> None:
    for client in (server.client(), server.client(NOBODY), server.client(ALL), server.client(ALL, cookie=True)):
        for more in ({}, {"json": given()}, {"headers": {"x-http-method-override": "GET", "origin": "https://elsewhere.test"}}):
            answer = client.request(method, route.url(given()), **more)
            assert answer.status_code in (401, 405)
            assert "access-control-allow-origin" not in answer.headers
            assert OWN not in answer.text


TABLES = ("dag", "dag_run", "task_instance", "xcom", "log", "serialized_dag", "dag_version", "task_instance_history", "variable")


def everything(folder: Path) -> dict[str, Any]:
    """All rows of the tables that matter, and all that lies among the evidence."""
    from airflow.utils.session import create_session
    from sqlalchemy import text

    with create_session(scoped=False) as session:
        found: dict[str, Any] = {
            name: sorted(repr(tuple(row)) for row in session.execute(text(f"SELECT * FROM {name}")))  # noqa: S608 - names of ours
            for name in TABLES
        }
    found["files"] = sorted(
        (str(path.relative_to(folder)), path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )
    return found


def test_looking_at_every_page_changes_nothing(world: None, server: Server, folder: Path) -> None:
    was = everything(folder)
    assert all(was[name] for name in TABLES if name not in ("variable", "task_instance_history"))
    assert len(was["files"]) > 10
    people = (server.client(), server.client(NOBODY), server.reader(OWN), server.client(ALL), server.client(ALL, cookie=True))
    for client, route in product(people, ROUTES):
        for asked in (given(), given(OWN, GOOD, "train"), given(THEIRS, THEIR_RUN), given(BARE, GOOD, "train"), given("none")):
            assert client.get(route.url(asked), headers=AS_PAGE).status_code < 500
    now = everything(folder)
    for name, rows in was.items():
        assert now[name] == rows, name


def test_no_answer_sets_a_cookie(world: None, server: Server) -> None:
    for client, route in product((server.client(), server.client(ALL), server.client(ALL, cookie=True)), ROUTES):
        assert "set-cookie" not in client.get(route.url(given())).headers


def other_ways(url: str) -> Iterator[str]:
    """Other spellings of an address, by which some server on the way might take it for another or for the same."""
    path, question, query = url.partition("?")
    last = path.removeprefix("/pipesec")
    for other in (
        f"{path}/",
        f"{path}//",
        f"/{path}",
        f"//{path}",
        f"/pipesec/{last}",
        f"/pipesec/.{last}",
        f"/pipesec/x/..{last}",
        f"/pipesec/%2e%2e/pipesec{last}",
        f"/pipesec/..%2fpipesec{last}",
        f"/pipesec/static/..{last}",
        f"/pipesec/static/..%2f{last[1:]}",
        f"/pipesec/static/pipesec.css/..{last}",
        f"/pipesec%2f{last[1:]}",
        f"/pipesec%252f{last[1:]}",
        f"/%70ipesec{last}",
        f"/pipesec\\{last[1:]}",
        f"/pipesec/%5c{last[1:]}",
        path.upper(),
        f"/Pipesec{last}",
        f"/pipesec{last.upper()}",
        f"/pipesec{last.title()}",
        f"{path}%20",
        f"{path}%00",
        f"{path};x=y",
        f"{path};.css",
        f"{path}%3f",
        f"{path}.json",
        f"{path}/pipesec.css",
        f"/airflow{path}",
        f"/api/v2{path}",
        f"/auth/..{path}",
        f"/ui{path}",
        f"/execution{path}",
    ):
        yield f"{other}{question}{query}"


def raw(client: Any, url: str) -> Any:
    """Ask for an address as it is written."""
    return client.get(httpx.URL("http://airflow.test").copy_with(raw_path=url.encode()), headers=AS_PAGE)


@EACH
def test_no_other_spelling_of_an_address_leads_around_the_guard(world: None, server: Server, route: Asked) -> None:
    nowhere = raw(server.client(), "/nowhere/at/all").text  # Airflow's own page, for whatever it does not know
    for dag_id in (OWN, THEIRS):
        for url in other_ways(route.url(given(dag_id))):
            for client in (server.client(), server.client(NOBODY)):
                answer = raw(client, url)
                told = answer.text.replace(nowhere, "")
                assert (
                    answer.status_code in (307, 401, 403, 404, 405) or not told or route.path in ("/overview", "/static/{name}")
                ), url
                assert OWN not in told, url
                assert GUARD not in told, url
                if answer.status_code == 307:
                    assert answer.headers["location"].startswith("http://airflow.test/pipesec/"), url
                    assert raw(client, answer.headers["location"].removeprefix("http://airflow.test")).status_code in (
                        200,
                        401,
                        403,
                    )
            answer = raw(server.client(), url)
            assert answer.status_code in (307, 401, 403, 404, 405) or answer.text == nowhere, url


def test_the_case_of_an_id_is_part_of_it(world: None, server: Server) -> None:
    client = server.reader(OWN, OWN.upper(), OWN.title())
    for dag_id in (OWN.upper(), OWN.title()):
        for route in OF_RIGHTS:
            assert client.get(route.url(given(dag_id))).status_code == 404
    for run_id in (BAD.upper(), f"{BAD} ", f"{BAD}%", "own%"):
        assert client.get("/pipesec/run", params=given(OWN, run_id)).status_code == 404
