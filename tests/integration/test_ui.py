"""The security pages in a real browser, within a real Airflow: they show what happened, run nothing, and ask nobody else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Frame

from airflow_pipesec.cli import main
from tests.browser import PATIENCE, Watched, chromium, focused, settled, shortcomings
from tests.conftest import PROJECT
from tests.evil_world import EVIL, EVIL_RUN, PLAIN, SLASHED
from tests.stack import USER, Stack

GUARDED, SHAPES, EVIL_DAG, NAKED, NEVER = "ui_guarded", "ui_shapes", "ui_evil", "ui_naked", "ui_never"
SERVICE, ATTACKER = "service", "eve"
# Airflow's own, about its frames, whatever is in them.
ABOUT_FRAMES = "allow-scripts and allow-same-origin"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An Airflow that runs DAGs; its runs are under way while the tests of the other one go on."""
    home = tmp_path_factory.mktemp("ui") / "home"
    one = Stack(home, PROJECT / "tests" / "dags_ui", users={ATTACKER: "user", SERVICE: "op"})
    account = {"conn_type": "http", "host": "127.0.0.1", "port": one.port, "schema": "http"}
    account |= {"login": SERVICE, "password": one.passwords[SERVICE]}
    one.environment["AIRFLOW_CONN_AIRFLOW_API"] = json.dumps(account)
    with one:
        yield one


@pytest.fixture(scope="module")
def started(stack: Stack) -> dict[str, str]:
    for dag_id in (GUARDED, SHAPES, EVIL_DAG, NAKED):
        stack.wait_for_dag(dag_id)
    runs = {"held": stack.trigger(GUARDED, hold=True), "clean": stack.trigger(GUARDED)}
    runs["attacked"] = stack.trigger(GUARDED, user=ATTACKER, bad=True)
    runs |= {name: stack.trigger(dag_id) for name, dag_id in (("shapes", SHAPES), ("evil", EVIL_DAG), ("naked", NAKED))}
    return runs


@pytest.fixture(scope="module")
def runs(stack: Stack, started: dict[str, str]) -> dict[str, str]:
    """The runs as they are to be looked at: one attacked, one held, one that waits, the others over."""
    run = started["attacked"]
    until("the judge has failed", lambda: state(stack, run, "judge") == "failed")
    until("the gate will not be", lambda: state(stack, run, "gate") == "upstream_failed")
    stack.mark(GUARDED, run, "judge", "success", user=ATTACKER)
    until("the gate refuses", lambda: state(stack, run, "gate") == "failed")
    until("the clean run is over", lambda: stack.run_of(GUARDED, started["clean"])["state"] == "success")
    until("the evil run is over", lambda: stack.run_of(EVIL_DAG, started["evil"])["state"] == "failed")
    until("the held run has begun to judge", lambda: state(stack, started["held"], "judge") == "running")
    until("the sensor waits", lambda: state(stack, started["shapes"], "arrive", SHAPES) == "up_for_reschedule")
    until("the soft guard has warned", lambda: state(stack, started["shapes"], "judge_softly", SHAPES) == "success")
    until("the other way was not taken", lambda: state(stack, started["shapes"], "judge_that", SHAPES) == "skipped")
    note = f"{stack.url}/api/v2/dags/{GUARDED}/dagRuns/{run}/taskInstances/judge"
    headers = {"Authorization": f"Bearer {stack.token(USER)}"}
    httpx.patch(note, json={"note": f"{EVIL} {SLASHED}"}, headers=headers, timeout=PATIENCE).raise_for_status()
    return started


@pytest.fixture(scope="module")
def below(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An Airflow below a path, with rows in its database that no Airflow would have made."""
    home = tmp_path_factory.mktemp("below") / "home"
    one = Stack(home, home / "no-dags", runs_dags=False)
    one.url += "/airflow/x"
    one.environment["AIRFLOW__API__BASE_URL"] = one.url
    with one:
        command = [sys.executable, "-m", "tests.evil_world"]
        subprocess.run(command, env=one.environment, cwd=PROJECT, check=True, capture_output=True)
        yield one


def _window(browser: Browser, stack: Stack) -> Iterator[Watched]:
    with Watched.window(browser, stack.url, stack.token(USER)) as found:
        yield found


@pytest.fixture(scope="module")
def one_window(browser: Browser, stack: Stack) -> Iterator[Watched]:
    yield from _window(browser, stack)


@pytest.fixture(scope="module")
def other_window(browser: Browser, below: Stack) -> Iterator[Watched]:
    yield from _window(browser, below)


@pytest.fixture
def window(one_window: Watched, runs: dict[str, str]) -> Iterator[Watched]:
    """The window that looks at the Airflow that runs DAGs: whatever a test does with it, nothing complains."""
    yield from _watched(one_window)


@pytest.fixture
def below_window(other_window: Watched) -> Iterator[Watched]:
    yield from _watched(other_window)


def _watched(window: Watched) -> Iterator[Watched]:
    window.complaints.clear()
    window.requests.clear()
    yield window
    window.clean(ABOUT_FRAMES)
    assert_nothing_ran(window)


def assert_nothing_ran(window: Watched) -> None:
    for frame in window.page.frames:
        assert frame.evaluate("window.__pwned === undefined"), frame.url


def until(what: str, holds: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it never came to be that {what}"
        time.sleep(0.3)


def state(stack: Stack, run: str, task: str, dag_id: str = GUARDED) -> str | None:
    found = stack.tasks_of(dag_id, run)[task]["state"]
    return None if found is None else str(found)


def dag_url(stack: Stack, dag_id: str) -> str:
    return f"{stack.url}/dags/{quote(dag_id, safe='')}/plugin/pipesec_dag"


def run_url(stack: Stack, dag_id: str, run: str) -> str:
    return f"{stack.url}/dags/{quote(dag_id, safe='')}/runs/{quote(run, safe='')}/plugin/pipesec_run"


def task_url(stack: Stack, dag_id: str, run: str, task: str, index: int | None = None) -> str:
    mapped = "" if index is None else f"/mapped/{index}"
    return f"{stack.url}/dags/{quote(dag_id, safe='')}/runs/{quote(run, safe='')}/tasks/{task}{mapped}/plugin/pipesec_task"


def text_of(frame: Frame) -> str:
    return " ".join(frame.locator("main").inner_text().split())


def names_of(frame: Frame) -> list[str]:
    """The DAGs that the overview lists, in their order."""
    return [item.inner_text() for item in frame.locator("table").first.locator("tbody td:first-child a").all()]


def asked_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def until_asked(window: Watched, name: str, value: str | None) -> Frame:
    """Wait until Airflow's own address has a parameter, and our page is the one of it."""
    window.page.wait_for_url(lambda url: asked_of(url).get(name) == (None if value is None else [value]))
    return settled(window.page, path="overview")


# Below a path, and among rows that are markup.


def test_below_a_path_the_overview_has_style_and_verdicts(started: dict[str, str], below: Stack, below_window: Watched) -> None:
    below_window.page.goto(f"{below.url}/")
    below_window.page.get_by_role("link", name="Security", exact=True).click()
    frame = settled(below_window.page, path="overview")
    assert frame.url == f"{below.url}/pipesec/overview"
    assert re.search(r"Evidence of (\d+) of \1 runs read\.", text_of(frame))
    assert frame.evaluate("getComputedStyle(document.querySelector('.chip')).borderRadius") == "99px"
    assert set(names_of(frame)) == {PLAIN, EVIL, SLASHED}
    frame.get_by_label("Name").fill("below")
    frame.get_by_role("button", name="Show").click()
    assert names_of(until_asked(below_window, "q", "below")) == [PLAIN]
    below_window.page.reload()
    assert names_of(settled(below_window.page, path="overview")) == [PLAIN]


def test_below_a_path_tabs_links_and_downloads_work(below: Stack, below_window: Watched, tmp_path: Path) -> None:
    frame = below_window.open(dag_url(below, PLAIN), path="dag")
    assert "Evidence of 3 of 3 runs read." in text_of(frame)
    frame.locator(".runs a").nth(1).click()
    frame = settled(below_window.page, path="run")
    assert below_window.page.url == run_url(below, PLAIN, "attacked")
    assert "mallory set it to success" in text_of(frame)
    verify_download(frame, below, PLAIN, "attacked", tmp_path, good=False)
    frame.get_by_role("table").get_by_role("link", name="validate_preprocess[1]").first.click()
    frame = settled(below_window.page, path="task")
    assert below_window.page.url == task_url(below, PLAIN, "attacked", "validate_preprocess", 1)
    assert "Set by hand" in text_of(frame)


def test_below_a_path_the_button_on_a_guard_leads_to_its_page(below: Stack, below_window: Watched) -> None:
    follow_evidence_link(below_window, below, PLAIN, "good", "record_train")


@pytest.mark.parametrize("path", ["overview", "static/pipesec.css", "verdict?dag_id=x&run_id=y", "access?user=a&dag_id=b"])
def test_beside_that_path_nothing_of_ours_answers(below: Stack, path: str) -> None:
    headers = {"Authorization": f"Bearer {below.token(USER)}"}
    answer = httpx.get(f"{below.url.removesuffix('/airflow/x')}/pipesec/{path}", headers=headers, timeout=PATIENCE)
    assert answer.status_code == 404


def test_ids_people_and_findings_that_are_markup_are_shown_as_text(below: Stack, below_window: Watched) -> None:
    for run in (EVIL_RUN, f"{EVIL_RUN} again"):
        frame = look(below_window, run_url(below, EVIL, run))
        assert EVIL in text_of(frame)
        assert SLASHED in (frame.locator("main").text_content() or "")
        assert_nothing_ran(below_window)
        frame = look(below_window, task_url(below, EVIL, run, "validate_preprocess"))
        assert SLASHED in (frame.locator("main").text_content() or "")
        assert_nothing_ran(below_window)
    frame = look(below_window, dag_url(below, EVIL))
    assert EVIL in text_of(frame)
    frame.locator(".runs a").first.click()
    settled(below_window.page, path="run")
    assert below_window.page.url == run_url(below, EVIL, EVIL_RUN)


@pytest.mark.parametrize("page", ["dag?", f"run?run_id={quote(EVIL_RUN)}&", f"task?task_id=train&run_id={quote(EVIL_RUN)}&"])
def test_a_page_by_itself_runs_nothing_either(below: Stack, below_window: Watched, page: str) -> None:
    below_window.page.goto(f"{below.url}/pipesec/{page}dag_id={quote(SLASHED)}")
    assert SLASHED in (below_window.page.locator("main").text_content() or "")


# A real Airflow, and runs that really ran.


def test_the_overview_is_found_from_airflow_and_the_attacked_run_is_on_top(
    stack: Stack, runs: dict[str, str], window: Watched
) -> None:
    window.page.goto(f"{stack.url}/")
    window.page.get_by_role("link", name="Security", exact=True).click()
    frame = settled(window.page, path="overview")
    assert {GUARDED, SHAPES, NAKED, NEVER} < set(names_of(frame))
    text = text_of(frame)
    assert re.search(r"Evidence of (\d+) of \1 runs read\.", text)
    assert all(words in text for words in ("running", "never run", "no guard", "stopped"))


def test_the_attacked_run_is_on_top_of_the_alarms(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    frame = look(window, f"{stack.url}/plugin/pipesec")
    alarm = frame.locator("#alarms li").first
    assert f"{GUARDED}, {runs['attacked']}: " in alarm.inner_text()
    assert names_of(frame)[0] == GUARDED
    alarm.get_by_role("link").click()
    settled(window.page, path="run")
    assert window.page.url == run_url(stack, GUARDED, runs["attacked"])


def test_search_filter_and_sort_are_in_the_address_and_survive_a_reload(
    stack: Stack, runs: dict[str, str], window: Watched
) -> None:
    frame = window.open(f"{stack.url}/plugin/pipesec", path="overview")
    frame.get_by_label("Name").fill("ui_")
    frame.get_by_label("Name").press("Enter")
    frame = until_asked(window, "q", "ui_")
    frame.locator("select[name=result]").select_option("never run")
    frame = until_asked(window, "result", "never run")
    assert names_of(frame) == [NEVER]
    window.page.reload()
    frame = settled(window.page, path="overview")
    assert names_of(frame) == [NEVER]
    assert frame.get_by_label("Name").input_value() == "ui_"
    frame.get_by_role("link", name="Show all").first.click()
    frame = until_asked(window, "q", None)
    frame.get_by_role("columnheader", name="DAG").get_by_role("link").first.click()
    frame = until_asked(window, "sort", "dag")
    there = names_of(frame)
    frame.get_by_role("columnheader", name="DAG").get_by_role("link").first.click()
    frame = until_asked(window, "down", "true")
    assert names_of(frame) == there[::-1]
    assert frame.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    address = window.page.url
    window.page.goto("about:blank")
    frame = window.open(address, path="overview", anew=True)
    assert names_of(frame) == there[::-1]


def test_links_in_a_frame_lead_airflow_itself_from_all_dags_to_one_guard(
    stack: Stack, runs: dict[str, str], window: Watched
) -> None:
    frame = window.open(f"{stack.url}/plugin/pipesec", path="overview")
    frame.locator("table").first.get_by_role("link", name=GUARDED, exact=True).click()
    frame = settled(window.page, path="dag")
    assert window.page.url == dag_url(stack, GUARDED)
    frame.locator(".runs a").nth(2).click()
    frame = settled(window.page, path="run")
    assert window.page.url == run_url(stack, GUARDED, runs["attacked"])
    window.clean(ABOUT_FRAMES)
    frame.locator("svg.pipesec a").first.click()  # a guard in the picture
    frame = settled(window.page, path="task")
    assert "/tasks/record/plugin/pipesec_task" in window.page.url
    frame.get_by_role("link", name=runs["attacked"]).click()
    settled(window.page, path="run")
    assert window.page.url == run_url(stack, GUARDED, runs["attacked"])
    window.page.go_back()
    settled(window.page, path="task")


def test_the_tab_of_a_dag_shows_its_guards_and_what_it_lacks(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    frame = look(window, dag_url(stack, GUARDED))
    text = text_of(frame)
    assert all(name in text for name in ("record", "judge", "judge_each", "judge_again", "gate", "deploy", "mapped"))
    assert "Evidence of 3 of 3 runs read." in text
    assert [item.get_attribute("class") for item in frame.locator(".runs a").all()] == ["cell run", "cell good", "cell alarm"]
    assert "on_failure=warn" in text_of(look(window, dag_url(stack, SHAPES)))
    assert "This DAG has no guard" in text_of(look(window, dag_url(stack, NAKED)))
    assert "It has never run." in text_of(look(window, dag_url(stack, NEVER)))


def test_the_tab_of_a_run_that_passed_says_so(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    frame = window.open(run_url(stack, GUARDED, runs["clean"]), path="run")
    assert "Passed 7 of 7 guards passed, and their evidence verifies" in text_of(frame)


def test_the_tab_of_an_attacked_run_says_who_did_what(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    text = text_of(look(window, run_url(stack, GUARDED, runs["attacked"])))
    assert "Does not verify judge: concluded FAILED, and Airflow shows success" in text
    assert f"{ATTACKER} set it to success" in text
    assert "By hand When Who What To" in text
    assert "signed FAILED: 1 failed" in text  # what the gate says of it


def test_the_tab_of_a_run_without_guards_says_how_to_get_some(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    assert "The DAG of this run has no guard" in text_of(look(window, run_url(stack, NAKED, runs["naked"])))


def test_the_tab_of_a_run_under_way_shows_what_runs_waits_and_was_skipped(
    stack: Stack, runs: dict[str, str], window: Watched
) -> None:
    tells(stack, window, run_url(stack, SHAPES, runs["shapes"]), ["1 passed", "1 failed, let go on", "1 waiting", "1 skipped"])
    tells(stack, window, run_url(stack, GUARDED, runs["held"]), ["1 running"])


@pytest.mark.parametrize(
    ("run", "task", "words"),
    [
        ("clean", "judge", ["Passed", "PASSED", "thing-good", "verified", "Airflow's audit log tells of nobody who touched it"]),
        ("clean", "gate", ["Passed", "guard-passed", "model"]),
        ("attacked", "judge", ["Set by hand", "FAILED", f"{ATTACKER} set it to success", "Make it good."]),
        ("attacked", "gate", ["Failed", "guard-passed", "signed FAILED: 1 failed"]),
        ("clean", "judge_again", ["Passed", "All attempts that left evidence", "PASSED", "ERROR"]),
        ("held", "judge", ["Running", "There is no evidence of this guard in this run"]),
        ("held", "gate", ["Not run", "There is no evidence of this guard in this run"]),
        ("clean", "deploy", ["This task is a stage, and no guard", "guarded", "Guards before it", "gate"]),
        ("clean", "collect", ["This task is a stage, and no guard", "Guards after it", "record"]),
    ],
)
def test_the_tab_of_a_task_shows_how_it_stands(
    stack: Stack, runs: dict[str, str], window: Watched, run: str, task: str, words: list[str]
) -> None:
    tells(stack, window, task_url(stack, GUARDED, runs[run], task), words)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("judge_that", ["Skipped", "There is no evidence of this guard in this run"]),
        ("judge_softly", ["Failed, let go on", "FAILED", "only warns"]),
        ("arrive", ["Waiting", "There is no evidence of this guard in this run"]),
    ],
)
def test_the_tab_of_a_guard_of_another_shape_does_too(
    stack: Stack, runs: dict[str, str], window: Watched, task: str, words: list[str]
) -> None:
    tells(stack, window, task_url(stack, SHAPES, runs["shapes"], task), words)
    if task == "arrive":  # now it may come
        arriving = Path(stack.environment["PIPESEC_EXAMPLE_DATA"]) / "arriving"
        arriving.mkdir()
        (arriving / "late").write_text("late")


def test_a_mapped_guard_has_a_list_and_a_page_for_each(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    window.page.goto(f"{stack.url}/pipesec/task?dag_id={GUARDED}&run_id={quote(runs['clean'])}&task_id=judge_each")
    assert "2 instances of this guard" in text_of(window.page.main_frame)
    frame = window.open(task_url(stack, GUARDED, runs["clean"], "judge_each", 1), path="task")
    text = text_of(frame)
    assert "judge_each[1]" in text
    assert "thing 1" in text
    assert "The other instances" in text


def test_the_button_on_a_guard_leads_to_its_page(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    follow_evidence_link(window, stack, GUARDED, runs["clean"], "judge")


def test_the_evidence_that_was_downloaded_verifies_elsewhere(
    stack: Stack, runs: dict[str, str], window: Watched, tmp_path: Path
) -> None:
    frame = window.open(run_url(stack, GUARDED, runs["clean"]), path="run")
    verify_download(frame, stack, GUARDED, runs["clean"], tmp_path, good=True)
    for name, kind in (("SARIF", "sarif"), ("JSON", "json")):
        with window.page.expect_download() as coming:
            frame.get_by_role("link", name=name, exact=True).click()
        assert coming.value.suggested_filename.endswith(f".{kind}")
        json.loads(coming.value.path().read_text())


def test_the_report_that_was_downloaded_opens_and_runs_nothing(
    stack: Stack, runs: dict[str, str], window: Watched, browser: Browser, tmp_path: Path
) -> None:
    frame = window.open(run_url(stack, EVIL_DAG, runs["evil"]), path="run")
    assert "</script>" in text_of(frame)
    with window.page.expect_download() as coming:
        frame.get_by_role("link", name="Report (HTML)").click()
    coming.value.save_as(tmp_path / "report.html")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url))
    page.goto(f"file://{tmp_path}/report.html")
    assert "</script>" in page.locator("h1 + p").inner_text()
    assert page.evaluate("window.__pwned === undefined")
    assert page.locator("svg").first.bounding_box()
    assert page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"
    assert said == [f"file://{tmp_path}/report.html"]
    page.close()


def test_findings_and_names_that_are_markup_are_shown_as_text(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    assert "<img src=x" in text_of(window.open(f"{stack.url}/plugin/pipesec", path="overview"))
    for url in (
        dag_url(stack, EVIL_DAG),
        run_url(stack, EVIL_DAG, runs["evil"]),
        task_url(stack, EVIL_DAG, runs["evil"], "judge_evil"),
    ):
        assert "<img src=x onerror=top.__pwned=1>" in text_of(window.open(url))
        assert_nothing_ran(window)
    assert "\\x1b[31m is \\u202e bad" in text_of(settled(window.page, path="task"))


def test_airflows_own_switch_to_dark_changes_the_page_at_once(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    frame = window.open(run_url(stack, GUARDED, runs["clean"]), path="run")
    frame.evaluate("window.__stayed = true")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    chip = "getComputedStyle(document.querySelector('.chip')).color"
    light = frame.evaluate(paper), frame.evaluate(chip)
    choose_appearance(window, "Dark")
    frame.wait_for_function("document.documentElement.classList.contains('dark')")
    dark = frame.evaluate(paper), frame.evaluate(chip)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    theirs = "getComputedStyle(document.documentElement).getPropertyValue('--chakra-colors-bg')"
    assert frame.evaluate(theirs) == window.page.evaluate(theirs)
    choose_appearance(window, "Light")
    frame.wait_for_function("!document.documentElement.classList.contains('dark')")
    assert (frame.evaluate(paper), frame.evaluate(chip)) == light
    assert frame.evaluate("window.__stayed")


def test_every_control_is_reached_with_keys_and_shows_that_it_is(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    frame = window.open(f"{stack.url}/plugin/pipesec", path="overview")
    seen = tabbed(window, frame)
    assert {one["at"] for one in seen} == {"form", "page"}, "the small pictures of many runs are no links"
    assert {"a", "button", "input", "select"} <= {one["tag"] for one in seen}
    assert [one for one in seen if not one["visible"]] == []
    frame = window.open(run_url(stack, GUARDED, runs["clean"]), path="run")
    seen = tabbed(window, frame)
    names = [one["name"] for one in seen]
    assert {"Evidence (zip)", "Report (HTML)", "Copy"} <= set(names)
    assert "picture" in {one["at"] for one in seen}
    assert [one for one in seen if not one["visible"]] == []
    frame.locator("svg.pipesec a").first.focus()
    window.page.keyboard.press("Enter")
    settled(window.page, path="task")
    assert "/tasks/record/" in window.page.url


def test_the_checks_of_pages_see_what_is_wrong(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content(
        "<main><h1>a</h1><h3>b</h3><img src='data:,'><input><button></button><p id=x style='color:#999'>dim</p><p id=x>c</p>"
        "<table><tr><th>d</table><svg></svg></main>"
    )
    found = "\n".join(shortcomings(page.main_frame))
    for what in (
        "no language",
        "no title",
        "leaves out a level",
        "contrast 2.8",
        "two elements",
        "heads no row",
        "without a role",
    ):
        assert what in found
    assert found.count("has no name") == 4
    page.close()


def test_a_window_tells_of_what_goes_wrong_in_it(browser: Browser, below: Stack) -> None:
    with Watched.window(browser, below.url, below.token(USER)) as window:
        window.page.goto(f"{below.url}/api/v2/version")  # which has no policy of its own
        window.clean()
        policy = "<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\">"
        window.page.set_content(f"{policy}<img src='http://example.invalid/a.png'><script>undefined.thing</script>")
        window.page.evaluate("fetch('nowhere').then(() => fetch('http://127.0.0.1:9/')).catch(() => console.error('lost'))")
        until("all was told", lambda: window.page.evaluate("true") and "lost" in "".join(window.complaints), 30)
        said = "\n".join(window.complaints)
        assert [one for one in ("img-src", "error in a page", "HTTP 404", "failed: http://127.0.0.1:9/") if one not in said] == []
        window.complaints.clear()
        with pytest.raises(AssertionError, match=r"127\.0\.0\.1:9"):
            window.clean()


# What else loads the pages: nothing.


def test_workers_scheduler_and_dag_processor_have_loaded_no_page(stack: Stack, runs: dict[str, str]) -> None:
    noted: dict[str, list[Any]] = {}
    for path in Path(stack.environment["PIPESEC_EXAMPLE_DATA"]).glob("modules-*.json"):
        noted.setdefault(path.name.split("-")[1], []).append(json.loads(path.read_text()))
    processor = [one for one in noted["parse"] if one["of_processor"]]
    workers = noted["worker"]
    assert processor
    assert all(one["of_scheduler"] for one in workers)  # forked from the scheduler, with all that it had loaded
    for one in (*processor, *workers):
        assert "airflow_pipesec.guards.base" in one["modules"]
        assert [name for name in one["modules"] if name.startswith(("airflow_pipesec.ui", "airflow_pipesec.api"))] == []


# Last, since it lets go what was held.


def test_a_run_that_goes_on_ends_well(stack: Stack, runs: dict[str, str], window: Watched) -> None:
    Path(stack.environment["PIPESEC_EXAMPLE_DATA"], "go-on").touch()
    until("the held run is over", lambda: stack.run_of(GUARDED, runs["held"])["state"] == "success")
    until("what was waited for is there", lambda: stack.run_of(SHAPES, runs["shapes"])["state"] == "success")
    assert "evidence verifies" in text_of(look(window, run_url(stack, GUARDED, runs["held"])))
    assert "Passed with warnings" in text_of(look(window, run_url(stack, SHAPES, runs["shapes"])))
    text = text_of(window.open(task_url(stack, SHAPES, runs["shapes"], "arrive"), path="task"))
    assert "digest-matches" in text


def tells(stack: Stack, window: Watched, url: str, words: list[str]) -> None:
    """Demand of a page that it tells something, if need be at another look: what waits looks again itself, now and then."""
    for turn in range(5):
        text = text_of(look(window, url))
        if all(one in text for one in words):
            return
        if "1 waiting" not in words and "Waiting" not in words:
            break
        window.page.wait_for_timeout(1000 * turn)
    raise AssertionError(f"{[one for one in words if one not in text]} is not in {text}")


def verify_download(frame: Frame, stack: Stack, dag_id: str, run: str, folder: Path, *, good: bool) -> None:
    with frame.page.expect_download() as coming:
        frame.get_by_role("link", name="Evidence (zip)").click()
    coming.value.save_as(folder / "evidence.zip")
    assert zipfile.is_zipfile(folder / "evidence.zip")
    keys = stack.environment["AIRFLOW__PIPESEC__TRUSTED_KEYS"]
    assert main(["verify-run", str(folder / "evidence.zip"), dag_id, run, "--trusted-keys", keys]) == (0 if good else 1)


def follow_evidence_link(window: Watched, stack: Stack, dag_id: str, run: str, task: str) -> None:
    window.page.goto(task_url(stack, dag_id, run, task).replace("plugin/pipesec_task", "details"))
    window.page.get_by_role("link", name="Security evidence").click()
    frame = settled(window.page, path="task")
    assert urlsplit(window.page.url).path == urlsplit(task_url(stack, dag_id, run, task)).path
    assert task in text_of(frame)


def choose_appearance(window: Watched, name: str) -> None:
    window.page.get_by_role("button", name="User").first.click()
    window.page.get_by_role("menuitem", name="Appearance").click()
    window.page.get_by_role("menuitem", name=name).or_(window.page.get_by_role("menuitemradio", name=name)).first.click()
    window.page.keyboard.press("Escape")


def tabbed(window: Watched, frame: Frame) -> list[dict[str, Any]]:
    """Press Tab until all of the page was gone through, or often enough."""
    frame.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    seen = []
    for _ in range(80):
        window.page.keyboard.press("Tab")
        one = focused(frame)
        if one["tag"] == "body":
            break
        seen.append(one)
    return seen


def look(window: Watched, url: str) -> Frame:
    """Open a page, and demand that nobody misses anything of it, by day and by night."""
    frame = window.open(url)
    for theme in ("dark", "light"):
        window.page.evaluate("document.documentElement.classList.remove('light', 'dark')")
        window.page.evaluate(f"document.documentElement.classList.add('{theme}')")
        frame.wait_for_function(f"document.documentElement.classList.contains('dark') === {json.dumps(theme == 'dark')}")
        assert shortcomings(frame) == [], theme
    return frame
