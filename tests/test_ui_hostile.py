"""The security pages show whatever is written anywhere as text, and answer whatever is asked: nothing of it runs."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from airflow.sdk import DAG

from airflow_pipesec.checks.quality import DATA_PRESENT
from airflow_pipesec.evidence import folder_of
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator
from airflow_pipesec.policy import Waiver
from airflow_pipesec.ui.judged import Result
from airflow_pipesec.ui.overview import severities
from airflow_pipesec.ui.render import CONTENT_POLICY
from tests.airflow_world import Played, add_dag, add_run, naked_pipeline, plain_pipeline
from tests.separating import Asked, Person, Server, routes, serving

INVISIBLE = "\u202e\u2066\u2069\u200b\u200d\ufeff\u00ad\u2028\u0085\x1b\x07"
MARKUP = "\"'><img src=x onerror=alert(1)><svg/onload=alert(1)></title></script></style><script>alert(1)</script><!--{{7*7}}"
EVIL = f"{MARKUP}{INVISIBLE}"
EVIL_DAG, EVIL_RUN, OTHER_RUN = f"dag{EVIL}", f"javascript:alert(1);//{EVIL}", f"other{EVIL}"
STAGE, FIRST, SECOND = f"stage{EVIL}", f"first{EVIL}", f"second{EVIL}"
PLAIN, RUN, GUARD = "hostile_plain", "good", "validate_preprocess"
ALL = Person("ada", None, connections=True)
ROUTES = routes()
EACH = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
OF_A_RUN = [route for route in ROUTES if "run_id" in route.parameters]
AS_PAGE = {"accept": "text/html"}

TAGS = set(
    """a b body br button circle code dd defs desc details div dl dt footer form g h1 h2 h3 head header html input label li line
    link main meta nav ol option p path pattern pre rect script section select span strong style summary svg table tbody td text
    th thead time title tr tspan ul""".split()  # noqa: SIM905 - words are easier to read than a list
)
SHAPES = {"a", "circle", "defs", "desc", "g", "line", "path", "pattern", "rect", "svg", "text", "title", "tspan"}
# What runs, loads, looks or leads elsewhere: no element has one of these.
NEVER = re.compile(
    r"on.*|style|xlink:.*|xml:.*|srcdoc|srcset|formaction|ping|poster|background|data|codebase|target|nonce|is|slot"
)


class Page(HTMLParser):
    """A page as a browser would read it: its elements, its text, and what is not to be in any."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.odd: list[str] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len({name for name, _ in attrs}) != len(attrs):
            self.odd.append(f"an attribute twice: {attrs}")
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"option", "style"} & set(self.inside):
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.odd.append(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        self.odd.append(f"an instruction: {data}")

    def unknown_decl(self, data: str) -> None:
        self.odd.append(f"a declaration: {data}")

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def values(self, *names: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements for name in names if name in attributes]


def innocent(answer: Any) -> Page:
    """Read a page, in which there is nothing but what its template has: what was written by others is text in it."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    report = str(answer.url.path).endswith("report.html") and answer.status_code == 200
    assert not page.odd
    assert {tag for tag, _ in page.elements} <= TAGS
    for name in {name for _, attributes in page.elements for name in attributes}:
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name), name
        assert not NEVER.fullmatch(name), name
    assert [re.sub(r"\?v=[0-9a-f]{12}$", "", str(script["src"])) for script in page.of("script")] == (
        [] if report else ["/pipesec/static/pipesec.js"]
    )
    assert len(page.of("style")) == int(report)
    assert len(page.of("meta")) == 2
    assert len(page.of("form")) <= 1
    for place in page.values("href", "src", "action", "data-url"):
        assert re.match(r"(/(pipesec|dags|plugin)/|#|\?)[!-~]*\Z", place), place
        assert not re.search(r"[<>\"'`\\]", place), place
    for shown in (answer.text, page.text, *(value for _, attributes in page.elements for value in attributes.values() if value)):
        assert all(character.isprintable() or character == "\n" for character in shown), ascii(shown)
    assert "49" not in page.text.replace(MARKUP, "") or "{{7*7}}" in page.text or "7*7" not in str(answer.url)
    return page


def headed(answer: Any) -> None:
    """Look at the headers that each answer is to have."""
    told = answer.headers
    policies = told.get_list("content-security-policy")
    assert len(policies) == 1
    if not (answer.status_code == 200 and str(answer.url.path).endswith("report.html")):
        assert policies == [CONTENT_POLICY]
    assert "unsafe" not in policies[0]
    assert "*" not in policies[0]
    assert told.get_list("x-content-type-options") == ["nosniff"]
    assert told.get_list("x-frame-options") == ["SAMEORIGIN"]
    assert told.get_list("referrer-policy") == ["same-origin"]
    assert told.get_list("cross-origin-resource-policy") == ["same-origin"]
    static = answer.status_code == 200 and "/static/" in str(answer.url.path)
    assert told.get_list("cache-control") == ["private, max-age=86400" if static else "no-store"]
    assert "set-cookie" not in told
    assert "access-control-allow-origin" not in told
    for name, value in told.items():
        assert re.fullmatch(r"[\x20-\x7e]*", value), (name, value)


def telling(answer: Any, *, status: int = 500) -> None:
    """Look for what an answer tells of the server."""
    assert answer.status_code < status, answer.text
    for word in ("Traceback", 'File "', "site-packages", "sqlalchemy", "sqlite", os.environ["AIRFLOW_HOME"], ".py"):
        assert word not in answer.text.replace("operators.py", ""), word


def given(**other: Any) -> dict[str, Any]:
    return {"name": "pipesec.css", "dag_id": PLAIN, "run_id": RUN, "task_id": GUARD, "user": "vera"} | other


EVIL_GIVEN = given(dag_id=EVIL_DAG, run_id=EVIL_RUN, task_id=FIRST)


@pytest.fixture(scope="module")
def folder(airflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def plain(folder: Path) -> DAG:
    dag = plain_pipeline(PLAIN)
    add_dag(dag)
    add_run(dag, RUN)
    bare = naked_pipeline(f"{PLAIN}_naked")
    add_dag(bare)
    add_run(bare, RUN)
    add_dag(plain_pipeline(f"{PLAIN}_never"))
    return dag


@contextmanager
def rows() -> Iterator[Any]:
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        yield session


def evil_pipeline() -> DAG:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.providers.standard.operators.python import PythonOperator

    with DAG(EVIL_DAG, schedule=None, dag_display_name=f"name{EVIL}", tags=[EVIL[:99]], description=EVIL, doc_md=EVIL) as dag:
        first = HashVerificationOperator(
            task_id=FIRST, root=f"/data/{EVIL}", manifest=f"/m/{EVIL}", task_display_name=f"task{EVIL}", doc_md=EVIL, owner=EVIL
        )
        second = DataValidationOperator.partial(task_id=SECOND, checks={EVIL: {"min": 1}}, on_failure="warn", owner=EVIL).expand(
            path=[f"/x/{EVIL}", "/y"]
        )
        stage, last = (PythonOperator(task_id=name, python_callable=print, doc_md=EVIL) for name in (STAGE, f"last{EVIL}"))
        stage >> first >> second >> last >> EmptyOperator(task_id=f"end{EVIL}")
    return dag


@pytest.fixture(scope="module")
def evil(folder: Path) -> DAG:
    """A DAG in which everything that anybody may write is markup."""
    from airflow.models.log import Log
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance, TaskInstanceNote
    from sqlalchemy import insert, select, update

    own = Control("own-control", title=EVIL, severity=Severity.HIGH, remedy=EVIL, refs=(EVIL, "javascript:alert(1)"))
    findings = [
        Finding(own, Subject(f"/data/{EVIL}"), Status.FAIL, EVIL),
        Finding(own, Subject("javascript:alert(1)"), Status.FAIL, EVIL),
        Finding(own, Subject(EVIL), Status.ERROR, EVIL),
        Finding(DATA_PRESENT, Subject(EVIL), Status.PASS, EVIL),
    ]
    excused = [Waiver(own.id, "*", EVIL, EVIL, datetime.now(UTC).date(), include_errors=True)]
    with mock.patch("airflow.sdk.definitions.dag.validate_key"), mock.patch("airflow.sdk.bases.operator.validate_key"):
        dag = evil_pipeline()
        add_dag(dag)
        add_run(dag, OTHER_RUN, plays={FIRST: Played.TAMPERED, (SECOND, 1): Played.FORGED}, findings={SECOND: findings[3:]})
        add_run(
            dag,
            EVIL_RUN,
            plays={FIRST: Played.OVERRIDDEN},
            findings={FIRST: findings, SECOND: findings},
            waivers={SECOND: excused},
            user=f"user{EVIL}",
            by=f"by{EVIL}",
        )
    with rows() as session:
        # What a plan that wove them in had noted.
        table = SerializedDagModel.__table__
        data = session.scalar(select(table.c.data).where(table.c.dag_id == EVIL_DAG))
        woven = {"plan": f"/plans/{EVIL}", "name": EVIL, "sha256": EVIL, "environment": EVIL, "exempt": {STAGE: EVIL}}
        for task in data["dag"]["tasks"]:
            if task["__var"]["task_id"] == FIRST:
                task["__var"]["woven"] = json.dumps(woven)
                task["__var"]["policy"] = {"fail_on": EVIL, "waivers": [EVIL]}
        session.execute(update(table).where(table.c.dag_id == EVIL_DAG).values(data=data, dag_hash="1" * 32))
        session.execute(update(TaskInstance).where(TaskInstance.dag_id == EVIL_DAG).values(_rendered_map_index=EVIL))
        notes = [
            {"ti_id": key, "user_id": EVIL[:99], "content": EVIL}
            for key in session.scalars(select(TaskInstance.id).where(TaskInstance.dag_id == EVIL_DAG))
        ]
        session.execute(insert(TaskInstanceNote), notes)
        about = {
            "dttm": datetime.now(UTC),
            "dag_id": EVIL_DAG,
            "run_id": EVIL_RUN,
            "owner": f"who{EVIL}",
            "owner_display_name": EVIL,
        }
        extras: list[tuple[str, str | None, str | None]] = [
            ("patch_task_instance", FIRST, json.dumps({"new_state": EVIL, "map_index": EVIL})),
            ("patch_task_instance", EVIL, EVIL),
            (
                "post_clear_task_instances",
                EVIL,
                json.dumps({"task_ids": [FIRST, [SECOND, EVIL], [EVIL, 10**30], {EVIL: EVIL}, None]}),
            ),
            ("clear_dag_run", None, "[" * 300),
            ("bulk_dag_runs", EVIL, None),
            ("create_xcom_entry", FIRST, json.dumps([EVIL])),
            ("update_xcom_entry", FIRST, json.dumps({"map_index": [EVIL], "new_state": {"a": EVIL}})),
            ("delete_xcom_entry", FIRST, "NaN"),
        ]
        told = [about | {"event": event, "task_id": task and task[:250], "extra": extra} for event, task, extra in extras]
        session.execute(insert(Log), told)
    place = folder / folder_of(EVIL_DAG, EVIL_RUN)
    litter(place)
    litter(next(path for path in place.iterdir() if path.is_dir()))
    return dag


def litter(place: Path) -> None:
    """Put into a folder what is no evidence, under names that are to be shown."""
    hidden = f"{MARKUP}{INVISIBLE}".replace("/", "_")
    for name in (
        f"{hidden}.json",
        f"-1.1.{hidden}.json",
        ".hidden",
        "-1.1.abc.json",
        "not-carried-x",
        "a\nb.json",
        "a\\b.json",
        "%2e%2e",
    ):
        (place / name).write_text(EVIL)
    for data in (b"\xff\xfe<b>.json", b"\xed\xa0\x80.json"):
        Path(os.fsdecode(os.fsencode(place) + b"/" + data)).write_text("x")
    (place / f"folder{hidden}").mkdir()
    (place / f"folder{hidden}" / "-1.1.abc.json").write_text(EVIL)
    (place / f"link{hidden}.json").symlink_to("/etc/passwd")
    os.mkfifo(place / "fifo.json")
    (place / "big.json").write_bytes(b"[" * 3_000_000)


# --- what each answer says of itself ---


@EACH
def test_each_answer_says_what_a_browser_may_do_with_it(plain: DAG, server: Server, route: Asked) -> None:
    clients = (server.client(), server.client(Person("nemo")), server.client(ALL))
    seen = set()
    for client in clients:
        for asked in (
            given(),
            given(dag_id="nothing", name="nothing"),
            given(page=0, map_index="x" * 99, method="x" * 99),
            {"name": "x"},
        ):
            for accept in ("text/html", "*/*"):
                answer = client.get(route.url(asked), headers={"accept": accept})
                headed(answer)
                seen.add(answer.status_code)
        for method in ("HEAD", "POST", "OPTIONS"):
            headed(client.request(method, route.url(given()), headers=AS_PAGE))
        headed(client.get(route.url(given()).replace("?", "/?")))
        headed(client.get("/pipesec/nothing"))
    assert seen >= {200, 401}


@EACH
@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_an_answer_that_failed_says_so_too_and_nothing_else(
    plain: DAG, server: Server, monkeypatch: pytest.MonkeyPatch, route: Asked, accept: str
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"a secret at {os.environ['AIRFLOW_HOME']}")

    for name in ("root_of", "overview", "_dag", "_run", "create_session"):
        monkeypatch.setattr(f"airflow_pipesec.ui.pages.{name}", breaks)
    monkeypatch.setattr("airflow_pipesec.ui.render.asset", breaks)
    monkeypatch.setattr("airflow_pipesec.api.DagModel.get_team_name", breaks)
    answer = server.client(ALL).get(route.url(given()), headers={"accept": accept})
    assert answer.status_code == 500
    headed(answer)
    telling(answer, status=501)
    assert "secret" not in answer.text
    assert RuntimeError.__name__ not in answer.text


def test_the_policy_allows_no_more_than_the_pages_need() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in CONTENT_POLICY.split(";"))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'self'",
        "object-src": "'none'",
    }


def test_static_files_are_what_they_are_and_no_others(server: Server) -> None:
    client = server.client(ALL)
    for name, kind in (("pipesec.css", "text/css"), ("pipesec.js", "text/javascript"), ("shield.svg", "image/svg+xml")):
        answer = client.get(f"/pipesec/static/{name}")
        assert answer.headers["content-type"].startswith(kind)
        headed(answer)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", client.get("/pipesec/static/pipesec.js").text
    )
    for name in ("shield.svg", "shield-dark.svg"):
        assert not re.search(r"<script|\son|href|style=|<style|<foreignObject", client.get(f"/pipesec/static/{name}").text)
    for name in (
        "..",
        "base.html",
        "render.py",
        "%2e%2e",
        "..%2frender.py",
        "%2fetc%2fpasswd",
        "pipesec.css%00",
        "PIPESEC.CSS",
        "con",
    ):
        answer = client.get(httpx.URL("http://airflow.test").copy_with(raw_path=f"/pipesec/static/{name}".encode()))
        assert "import" not in answer.text
        assert answer.status_code in (401, 404, 307) or answer.text.startswith("<!doctype html>")


# --- whatever is asked for ---

NASTY = [
    "",
    " ",
    ".",
    "..",
    "../../../etc/passwd",
    "..\\..\\windows",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/etc/passwd",
    "//elsewhere.test/x",
    "file:///etc/passwd",
    "s3://conn@bucket/x",
    "http://169.254.169.254/",
    "javascript:alert(1)",
    "\0",
    "a\0b",
    "a\r\nx-injected: yes\r\n\r\n<script>alert(1)</script>",
    "a\nb",
    "\u2028",
    'x"; filename="evil.exe',
    "x'; DROP TABLE dag; --",
    "' OR '1'='1",
    "%",
    "_____",
    "%' ESCAPE '\\",
    "{{7*7}}",
    "{{ self.__init__.__globals__ }}",
    "{% for x in range(9**9) %}{% endfor %}",
    "${jndi:ldap://x}",
    "%s%s%s%n",
    "{0.__class__}",
    "{MAP_INDEX}",
    "{DAG_ID}",
    "<script>alert(1)</script>",
    MARKUP,
    INVISIBLE,
    "\u0130\u0131\u017f\ufb03\u212a",
    "e\u0301" * 60,
    "\U0001f600" * 30,
    "\ufdfa" * 40,
    "-1",
    "0",
    "00",
    "+1",
    "\u0661",
    "\u00b2",
    "1e9",
    "1.5",
    "NaN",
    "-9223372036854775809",
    "99999999999999999999",
    "9" * 5000,
    "true",
    "null",
    "[]",
    "~",
    "*",
    "x" * 250,
    "x" * 251,
    "x" * 20_000,
    "\x7f\x80\x9f",
]
RAW = [
    "%ED%A0%80",
    "%FF%FE",
    "%C0%AE%C0%AE%C0%AF",
    "%",
    "%zz",
    "%u0041",
    "%00",
    "%0d%0ax-injected:%20yes",
    "a&b",
    "+",
    "%EF%BB%BF",
]


def fares(answer: Any) -> None:
    telling(answer)
    headed(answer)
    assert "x-injected" not in answer.headers
    if "text/html" in answer.headers.get("content-type", ""):
        innocent(answer)
    named = answer.headers.get("content-disposition")
    assert named is None or re.fullmatch(r'attachment; filename="[A-Za-z0-9.-]{1,210}\.(zip|html|json|sarif)"', named)


@EACH
def test_a_parameter_may_be_anything(plain: DAG, server: Server, route: Asked) -> None:
    client, stranger = server.client(ALL), server.client(Person("nemo", frozenset({PLAIN})))
    for name in route.parameters:
        if f"{{{name}}}" not in route.path:
            for value in NASTY:
                fares(client.get(route.url(given() | {name: value}), headers=AS_PAGE))
                fares(stranger.get(route.url(given() | {name: value})))
                fares(client.get(route.url(given() | {name: [given().get(name, ""), value]})))
            for value in RAW:
                plainly = route.url({key: item for key, item in given().items() if key != name})
                url = f"{plainly}{'&' if '?' in plainly else '?'}{name}={value}"
                fares(client.get(httpx.URL("http://airflow.test").copy_with(raw_path=url.encode()), headers=AS_PAGE))
    fares(client.get(route.url(given()) + "".join(f"&x{number}={number}" for number in range(300))))
    fares(client.get(route.url(given()), headers=AS_PAGE | {"x-forwarded-prefix": MARKUP, "x-forwarded-host": "elsewhere.test"}))
    fares(client.get(route.url(given()), headers=AS_PAGE | {"host": "elsewhere.test"}))


@pytest.mark.parametrize("name", ["dag_id", "run_id", "task_id"])
def test_no_id_has_a_nul_which_postgresql_cannot_be_asked_for(plain: DAG, server: Server, name: str) -> None:
    for value in ("\0", f"{given()[name]}\0", f"\0{given()[name]}", "a\n\0"):
        for route in ROUTES:
            if name in route.parameters:
                answer = server.client(ALL).get(route.url(given(**{name: value})), headers=AS_PAGE)
                assert answer.status_code == 422
                assert name in innocent(answer).text


def test_a_page_number_and_a_choice_are_what_they_can_be(plain: DAG, server: Server) -> None:
    client = server.client(ALL)
    for asked in (
        {"page": 0},
        {"page": -1},
        {"page": "1e9"},
        {"page": 10_001},
        {"sort": "nothing"},
        {"guarded": "most"},
        {"down": "up"},
    ):
        answer = client.get("/pipesec/overview", params=asked, headers=AS_PAGE)
        assert answer.status_code == 422
        assert next(iter(asked)) in innocent(answer).text
    for more in ({"page": 10_000}, {"result": "nothing"}, {"threat": "nothing"}, {"result": MARKUP[:40]}, {"threat": EVIL[:40]}):
        assert client.get("/pipesec/overview", params=more).status_code == 200
    shown = innocent(client.get("/pipesec/overview", params={"q": EVIL}))
    assert MARKUP in next(str(field["value"]) for field in shown.of("input"))


def test_a_map_index_that_is_none_is_that_of_a_task_that_is_not_mapped(plain: DAG, server: Server) -> None:
    client = server.client(ALL)
    was = client.get("/pipesec/task", params=given(map_index="-1")).text
    for value in ("{MAP_INDEX}", "", "x", "-2", "1e9", "\u0661", "99999999999999999999", "0x10", " 1", "1_0"):
        assert client.get("/pipesec/task", params=given(map_index=value)).text == was


# --- whatever is written somewhere ---


@EACH
def test_what_others_wrote_is_text(evil: DAG, server: Server, monkeypatch: pytest.MonkeyPatch, route: Asked) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__PLAN_URL", f"/plans/{EVIL}.yaml")
    monkeypatch.setenv("AIRFLOW__PIPESEC__PLAN_MODE", MARKUP)
    monkeypatch.setenv("AIRFLOW__PIPESEC__ENVIRONMENT", EVIL)
    client = server.client(ALL)
    for run_id in (EVIL_RUN, OTHER_RUN):
        for task_id in (FIRST, SECOND, STAGE, f"end{EVIL}"):
            for map_index in ("-1", "0", "1"):
                asked = EVIL_GIVEN | {"run_id": run_id, "task_id": task_id, "map_index": map_index}
                answer = client.get(route.url(asked), headers=AS_PAGE)
                assert answer.status_code == 200
                fares(answer)
            if route.path != "/task":
                break


def shows(page: Page, *texts: str) -> None:
    shown = "\n".join([page.text, *page.values("title", "aria-label")])
    for text in texts:
        assert text in shown, text


def test_it_is_there_and_what_nobody_would_see_is_an_escape(evil: DAG, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__PLAN_URL", f"/plans/{EVIL}.yaml")
    client = server.client(ALL)
    seen = r"\u202e\u2066\u2069\u200b\u200d\ufeff\xad\u2028\x85\x1b\x07"
    name = f"name{MARKUP}{seen}"
    pages = {
        route.path: innocent(client.get(route.url(EVIL_GIVEN), headers=AS_PAGE))
        for route in ROUTES
        if route.path in ("/overview", "/dag", "/run", "/task", "/report.html")
    }
    assert len(pages) == 5
    for page in pages.values():
        shows(page, name)
    shows(pages["/dag"], f"first{MARKUP}", f"stage{MARKUP}", f"/plans/{MARKUP}", f"exempt: {MARKUP}"[:20])
    for path in ("/run", "/report.html"):
        shows(pages[path], f"first{MARKUP}", f"javascript:alert(1);//{MARKUP}{seen}", f"user{MARKUP}{seen}", f"/data/{MARKUP}")
    shows(pages["/run"], f"by{MARKUP}", f"who{MARKUP}", "folder")
    shows(pages["/task"], f"by{MARKUP}", f"who{MARKUP}", MARKUP)
    mapped = innocent(client.get("/pipesec/task", params=EVIL_GIVEN | {"task_id": SECOND, "map_index": "0"}))
    shows(mapped, f"Waived until {datetime.now(UTC).date()} by {MARKUP}", f"second{MARKUP}", "own-control")


def test_the_runs_that_the_script_asks_for_are_the_ones_that_there_are(evil: DAG, server: Server) -> None:
    client = server.client(ALL)
    page = innocent(client.get("/pipesec/dag", params=EVIL_GIVEN))
    (told,) = page.values("data-runs")
    assert [run_id for _, _, run_id, *_ in json.loads(told)] == [EVIL_RUN, OTHER_RUN]
    for mark, dag_id, run_id, href, *_ in json.loads(told):
        assert re.fullmatch(r"[0-9a-f]{16}", mark)
        assert mark in page.values("data-result")
        assert re.fullmatch(r"/dags/[!-~]+/plugin/pipesec_run", href)
        assert client.get("/pipesec/verdict", params={"dag_id": dag_id, "run_id": run_id}).json()["result"] == "does not verify"


def test_what_the_script_is_told_of_a_run_is_printable(evil: DAG, server: Server) -> None:
    told = server.client(ALL).get("/pipesec/verdict", params=EVIL_GIVEN).json()
    assert all(value.isprintable() for value in told.values()), ascii(told)


def test_the_report_allows_its_own_style_and_nothing_else(evil: DAG, server: Server) -> None:
    answer = server.client(ALL).get("/pipesec/report.html", params=EVIL_GIVEN)
    page = innocent(answer)
    rules = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert len(rules) == 1
    digest = base64.b64encode(hashlib.sha256(rules[0].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    (meta,) = [str(item["content"]) for item in page.of("meta") if item.get("http-equiv")]
    assert meta == policy
    assert answer.headers["content-security-policy"] == policy
    # The policy stands before whatever it is to hold.
    assert answer.text.index("http-equiv") < answer.text.index(EVIL_RUN[:20])
    assert not page.values("href", "src", "action", "style")
    assert not [tag for tag, _ in page.elements if tag in ("link", "script", "form", "a")]
    assert not re.search(r"url\(|@import|expression", rules[0])


def test_pictures_are_made_of_shapes_and_escaped_text(evil: DAG, server: Server) -> None:
    client = server.client(ALL)
    for path in ("overview", "dag", "run", "report.html"):
        text = client.get(f"/pipesec/{path}", params=EVIL_GIVEN).text
        pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        assert pictures
        for picture in pictures:
            page = Page(picture)
            assert {tag for tag, _ in page.elements} <= SHAPES
            ids = page.values("id")
            assert all(re.fullmatch(r"[A-Za-z0-9_-]+", one) for one in ids)
    ids = Page(client.get("/pipesec/overview", params=EVIL_GIVEN).text).values("id")
    assert len(ids) == len(set(ids))


def test_documents_for_programs_are_what_they_say(evil: DAG, server: Server) -> None:
    client = server.client(ALL)
    found = client.get("/pipesec/findings.json", params=EVIL_GIVEN)
    assert found.headers["content-type"] == "application/json"
    assert found.json()["run"] == {"dag_id": EVIL_DAG, "run_id": EVIL_RUN}
    assert found.content.isascii()
    sarif = client.get("/pipesec/findings.sarif", params=EVIL_GIVEN)
    assert sarif.json()["version"] == "2.1.0"
    packed = zipfile.ZipFile(BytesIO(client.get("/pipesec/evidence.zip", params=EVIL_GIVEN).content))
    assert packed.testzip() is None
    for name in packed.namelist():
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert name.isprintable()
    assert not any(packed.read(name).startswith(b"root:") for name in packed.namelist())


WAIVERS: list[Any] = [
    None,
    5,
    EVIL,
    {},
    {"expires": "2026-01-01"},
    [5],
    [None],
    [EVIL],
    [[]],
    [{}],
    [{"expires": EVIL}],
    [{"expires": 5, "control": "x"}],
    [{"expires": None, "control": "x"}],
    [{"expires": ["2026-01-01"], "control": "x"}],
    [{"expires": "0001-01-01", "control": EVIL}],
    [{"expires": "2026-01-01", "control": {EVIL: EVIL}}],
    [{"expires": "20260101", "control": [1]}],
    [{"expires": "2026-W01-1", "control": None}],
    [{"expires": "2026-01-01"}],
    [{"expires": "\u0662026-01-01", "control": "x"}],
    [{"expires": "2026-01-01", "control": EVIL}] * 2000,
]
OUTCOMES: list[Any] = [None, True, 5, EVIL, [], ["PASSED"], {}, {"a": "PASSED"}, "passed", "PASSED ", float("nan")]
ATTESTATIONS: list[Any] = [5, [], {}, EVIL, "sha256:", None, True]
JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**300,
    -(10**4000),
    float("nan"),
    float("inf"),
    "",
    "text",
    EVIL,
    "\ud800",
    "a\0b",
    [],
    [1, [2, [3]]],
    [EVIL] * 50,
    {},
    {"": ""},
    {EVIL: EVIL},
    *(
        {"outcome": value}
        for value in (None, True, 5, EVIL, [], ["PASSED"], {}, {"a": "PASSED"}, "passed", "PASSED ", float("nan"))
    ),
    *(
        {"outcome": "PASSED", "by_severity": value}
        for value in (
            None,
            5,
            "high",
            [],
            [["high", 1]],
            {EVIL: 1},
            {"high": "1"},
            {"high": -1},
            {"high": True},
            {"high": 1.5},
            {"high": 10**30},
            {"high": float("inf")},
            {"high": [1]},
            {"high": {"high": 1}},
            {"high": EVIL},
            {"HIGH": 1},
            {"critical": None},
        )
    ),
    *({"outcome": "PASSED", "waivers": value} for value in WAIVERS),
    *({"outcome": "PASSED", "attestation": value} for value in ATTESTATIONS),
]


def write_summary(dag_id: str, task_id: str, value: Any, run_id: str = RUN) -> None:
    """Write an XCom by hand, as anybody can who may edit XComs."""
    from airflow.models.xcom import XComModel
    from sqlalchemy import update

    of_it = (
        XComModel.dag_id == dag_id,
        XComModel.run_id == run_id,
        XComModel.task_id == task_id,
        XComModel.key == "return_value",
    )
    with rows() as session:
        assert session.execute(update(XComModel).where(*of_it).values(value=value)).rowcount == 1


def test_a_summary_that_was_written_by_hand_may_be_anything(folder: Path, server: Server) -> None:
    dag = plain_pipeline("hostile_xcom")
    add_dag(dag)
    add_run(dag, RUN)
    client = server.reader("hostile_xcom")
    for value in JUNK:
        write_summary("hostile_xcom", GUARD, value)
        for path in ("overview", "dag", "run", "task", "report.html", "verdict", "findings.json"):
            answer = client.get(f"/pipesec/{path}", params=given(dag_id="hostile_xcom"), headers=AS_PAGE)
            assert answer.status_code == 200, (ascii(value)[:200], path)
            fares(answer)
        # The evidence counts, whatever the XCom says.
        assert client.get("/pipesec/verdict", params=given(dag_id="hostile_xcom")).json()["result"] == "passed"


@pytest.mark.parametrize(
    "counts", [item["by_severity"] for item in JUNK if isinstance(item, dict) and "by_severity" in item], ids=ascii
)
def test_a_count_that_is_no_count_is_not_counted(counts: Any) -> None:
    assert severities({"by_severity": counts}) == {}


def test_waivers_that_were_written_by_hand_are_shown_as_text(folder: Path, server: Server) -> None:
    dag = plain_pipeline("hostile_waivers")
    add_dag(dag)
    add_run(dag, RUN)
    many = [{"expires": "2026-01-01", "control": f"{number}{EVIL}"} for number in range(500)]
    write_summary("hostile_waivers", GUARD, {"outcome": "PASSED", "waivers": many, "by_severity": {"high": 3, EVIL: 4}})
    answer = server.reader("hostile_waivers").get("/pipesec/overview", headers=AS_PAGE)
    shows(innocent(answer), MARKUP, "3 high")
    assert len(answer.content) < 200_000


# --- what Airflow's copy of a DAG may be ---


def broken() -> Iterator[Any]:
    yield from ({}, [], "text", 5, True, None, {"dag": None}, {"dag": 5}, {"dag": []}, {"dag": {}}, {"dag": {"tasks": []}})
    task = {"__var": {"task_id": "a", "downstream_task_ids": ["a"]}}
    group = {"_group_id": None, "children": {"a": ["operator", "a"]}}
    yield {"dag": {"dag_id": "x", "tasks": [task], "task_group": group}}
    for wrong in ({"task_id": "a", "downstream_task_ids": ["b"]}, {"task_id": ["a"]}, {}, 5, None, {"task_id": "a", "woven": 5}):
        yield {"dag": {"dag_id": "x", "tasks": [{"__var": wrong}], "task_group": {"children": 5}}}
    links = {"_operator_extra_links": {"x": "_link_pipesec_evidence"}}
    for more in (
        {"policy": [EVIL], "on_failure": [EVIL], "threats": 5},
        {"_is_mapped": True, "partial_kwargs": [EVIL]},
        {"_is_mapped": True, "_task_module": "airflow_pipesec.nothing", "task_type": EVIL},
        {"_is_mapped": True, "_task_module": "airflow_pipesec.api", "task_type": "app"},
        {"_is_mapped": True, "_task_module": "airflow_pipesec.operators", "task_type": 5},
        {"trigger_rule": {EVIL: EVIL}, "_operator_name": [EVIL], "task_type": {}},
        {"woven": json.dumps({"exempt": [EVIL], "plan": {EVIL: 1}})},
        {"woven": EVIL},
    ):
        one = {"__var": {"task_id": "a", **links, **more}}
        yield {"dag": {"dag_id": "x", "tasks": [one], "task_group": {"children": {"a": ["operator", "a"]}}}}
    deep: dict[str, Any] = {"children": {}}
    for _ in range(150):
        deep = {"children": {"g": ["taskgroup", deep]}}
    yield {"dag": {"dag_id": "x", "tasks": [], "task_group": deep}}


@pytest.fixture(scope="module")
def breakable(folder: Path) -> str:
    dag = plain_pipeline("hostile_broken")
    add_dag(dag)
    add_run(dag, RUN)
    return dag.dag_id


def overwrite(dag_id: str, copy: Any, **raw: Any) -> None:
    """Write something else for Airflow's copy of a DAG; ``raw`` is written without being made JSON."""
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import text, update

    table = SerializedDagModel.__table__
    digest = hashlib.sha256(repr((copy, raw)).encode()).hexdigest()[:32]
    with rows() as session:
        session.execute(update(table).where(table.c.dag_id == dag_id).values(data=copy, dag_hash=digest))
        for column, value in raw.items():
            wanted = text(f"UPDATE serialized_dag SET {column} = :value WHERE dag_id = :id")  # noqa: S608 - names of ours
            session.execute(wanted, {"value": value, "id": dag_id})


@pytest.mark.parametrize("data", list(broken()), ids=lambda data: ascii(data)[:60])
def test_a_dag_that_is_written_down_wrongly_is_told_as_that(breakable: str, plain: DAG, server: Server, data: Any) -> None:
    overwrite(breakable, data)
    unreadable(server, breakable)


@pytest.mark.parametrize(
    "raw",
    [
        {"data": "{not json"},
        {"data": ""},
        {"data": b"\xff\xfe"},
        {"data": None, "data_compressed": b"junk"},
        {"data": "[" * 5000},
    ],
    ids=["text", "nothing", "bytes", "compressed", "deep"],
)
def test_a_copy_that_is_no_json_is_told_as_that(breakable: str, plain: DAG, server: Server, raw: Mapping[str, Any]) -> None:
    try:
        overwrite(breakable, {}, **raw)
        unreadable(server, breakable)
    finally:  # of others that read all DAGs
        overwrite(breakable, {}, data_compressed=None)


def unreadable(server: Server, dag_id: str) -> None:
    client = server.reader(dag_id, PLAIN)
    for route in ROUTES:
        answer = client.get(route.url(given(dag_id=dag_id)), headers=AS_PAGE)
        fares(answer)
        if route in OF_A_RUN and route.path not in ("/evidence.zip", "/verdict") and answer.status_code == 409:
            assert "Airflow's copy of the DAG cannot be read" in innocent(answer).text
        elif route.path not in ("/access", "/task"):
            assert answer.status_code == 200, route.path
    told = client.get("/pipesec/verdict", params=given(dag_id=dag_id)).json()
    assert told["result"] not in (Result.PASSED, Result.WARNED)
    shown = innocent(client.get("/pipesec/overview", headers=AS_PAGE)).text
    assert PLAIN in shown
    assert dag_id in shown


# --- what is not there ---


def not_passed(server: Server, dag_id: str, *, tells: str | None = None) -> None:
    """Look at every page of a run of which nothing was verified."""
    client = server.reader(dag_id)
    with mock.patch.dict("airflow_pipesec.ui.proofs._memory", clear=True):
        for again in range(2):
            for route in ROUTES:
                answer = client.get(route.url(given(dag_id=dag_id)), headers=AS_PAGE)
                assert answer.status_code in ((200, 404, 502) if route.path == "/evidence.zip" else (200, 403)), (
                    again,
                    route.path,
                )
                headed(answer)
                if "text/html" not in answer.headers.get("content-type", ""):
                    continue
                page = innocent(answer)
                for attributes in (one for _, one in page.elements):
                    classes = str(attributes.get("class") or "").split()
                    assert "good" not in classes or not {"banner", "verdict", "cell"} & set(classes)
                    assert "good" not in classes or "data-result" not in attributes
                if route.path in ("/run", "/task", "/report.html"):
                    shown = re.sub("waits until it passed|whether or not it passed", "", page.text)  # said of any guard
                    assert not re.search(r"\bpassed\b", shown, re.IGNORECASE), route.path
                    assert tells is None or "Clear it" not in shown  # which would be the wrong thing to do
                    assert tells is None or tells in page.text
            told = client.get("/pipesec/verdict", params=given(dag_id=dag_id)).json()
            assert told["result"] not in (Result.PASSED, Result.WARNED)
            assert tells is None or tells in told["why"]
            found = client.get("/pipesec/findings.json", params=given(dag_id=dag_id)).json()
            assert found["verdict"] == "FAILED"


@pytest.mark.parametrize("kind", ["nothing", "below nothing", "file", "below a file", "empty", "scheme", "bad name"])
def test_without_an_evidence_store_nothing_has_passed(
    plain: DAG, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    place = {
        "nothing": f"{tmp_path}/nothing",
        "below nothing": f"{tmp_path}/nothing/at/all",
        "file": f"{tmp_path}/file",
        "below a file": f"{tmp_path}/file/x",
        "empty": f"{tmp_path}/empty",
        "scheme": "gopher://nowhere/x",
        "bad name": f"{tmp_path}/{EVIL}",
    }[kind]
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", place)
    not_passed(server, PLAIN, tells="There is no evidence store" if kind in ("nothing", "below nothing") else None)


@pytest.mark.parametrize("kind", ["unset", "empty", "nothing", "folder", "junk", "bytes", "not a list", "no key", "forbidden"])
def test_without_keys_that_are_trusted_nothing_has_passed(
    plain: DAG, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    keys = tmp_path / "keys.yaml"
    monkeypatch.setenv("AIRFLOW__PIPESEC__TRUSTED_KEYS", str(keys))
    if kind == "unset":
        monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    elif kind == "empty":
        monkeypatch.setenv("AIRFLOW__PIPESEC__TRUSTED_KEYS", "")
    elif kind == "folder":
        keys.mkdir()
    elif kind == "forbidden":
        keys.symlink_to("/proc/1/mem")
    elif kind != "nothing":
        keys.write_bytes({"junk": EVIL.encode(), "bytes": b"\xff\xfe\0", "not a list": b"a: 5", "no key": b"[]"}[kind])
    not_passed(server, PLAIN, tells="trusts no keys" if kind in ("unset", "empty") else None)


def test_a_dag_that_never_ran_has_not_passed(plain: DAG, server: Server) -> None:
    client = server.reader(f"{PLAIN}_never")
    assert "never run" in innocent(client.get("/pipesec/overview")).text
    page = innocent(client.get("/pipesec/dag", params={"dag_id": f"{PLAIN}_never"}))
    assert "It has never run" in page.text
    assert not re.search(r"\bpassed\b", page.text)
    for route in OF_A_RUN:
        assert client.get(route.url(given(dag_id=f"{PLAIN}_never"))).status_code == 404


def test_a_dag_without_a_guard_has_not_passed_and_is_told_what_to_write(plain: DAG, server: Server) -> None:
    naked = given(dag_id=f"{PLAIN}_naked", task_id="train")
    client = server.reader(f"{PLAIN}_naked")
    for path in ("overview", "dag", "run", "task"):
        answer = client.get(f"/pipesec/{path}", params=naked)
        assert not re.search(r"\bpassed\b", innocent(answer).text)
        assert 'secure(dag, "plan.yaml")' in html.unescape(answer.text)
    assert client.get("/pipesec/verdict", params=naked).json()["result"] == "no guard"
    assert "has no guard" in innocent(client.get("/pipesec/report.html", params=naked)).text
    assert client.get("/pipesec/evidence.zip", params=naked).status_code == 404
    assert client.get("/pipesec/findings.json", params=naked).json()["verdict"] == "FAILED"


def test_where_there_is_no_dag_that_is_said(server: Server) -> None:
    for person in (Person("nemo"), Person("rita", frozenset({"no_such_dag"}))):
        page = innocent(server.client(person).get("/pipesec/overview"))
        assert "There is no DAG here that you may read" in page.text
        assert not re.search(r"\bpassed\b", page.text)
        assert page.values("data-runs") == ["[]"]
    for route in OF_A_RUN:
        assert server.reader("no_such_dag").get(route.url(given(dag_id="no_such_dag"))).status_code == 404
