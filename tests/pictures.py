"""Draw the pictures of the documentation: ``python -m tests.pictures`` runs the example in a real Airflow and looks at it.

Needs Chromium (``apt-get install chromium``), found on the PATH.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.demo import DEPLOYER, FINISHED, FORGERY, GUARDED, PROJECT, TRAINEE, example_stack
from tests.stack import USER, Stack

# The picture of each run, and the task that is looked at.
SHOWN = {
    "none": ("guard-passes", "verify_model"),
    "malicious_model": ("scan-stops", "scan_model"),
    "swapped_model": ("guard-stops", "verify_model"),
    FORGERY: ("gate-stops", "release_gate"),
}
DAG, FORGED = GUARDED.dag_id, GUARDED.forged
IMAGES = PROJECT / "docs" / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

# A graph from top to bottom on the left, the task on the right.
VIEW = f"""
localStorage.setItem('default_dag_view', JSON.stringify('graph'));
localStorage.setItem('direction-{DAG}', JSON.stringify('DOWN'));
const panels = JSON.stringify({{'details-panel,main-panel': {{expandToSizes: {{}}, layout: [26, 74]}}}});
localStorage.setItem('react-resizable-panels:graph-ltr', panels);
"""


def sign_in(page: Page, stack: Stack) -> None:
    page.goto(stack.url)
    page.get_by_role("textbox", name="username").or_(page.locator("input[name=username]")).first.fill(USER)
    page.locator("input[name=password]").fill(stack.password)
    page.locator("button[type=submit]").click()
    page.wait_for_url(f"{stack.url}/**")


def main() -> None:
    """Run the example clean and under attack, and take the pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium is missing; on Debian: apt-get install chromium")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pipesec-") as folder:
        stack = example_stack(Path(folder) / "home", print)
        stack.environment["PIPESEC_EXAMPLE_DATA"] = "/tmp/pipesec-example"
        take(stack, chromium)


def wait(stack: Stack, runs: dict[str, str]) -> None:
    while any(stack.run_of(DAG, run)["state"] not in FINISHED for run in runs.values()):
        time.sleep(2)


def take(stack: Stack, chromium: str) -> None:
    with stack:
        stack.wait_for_dag(DAG)
        runs = {attack: stack.trigger(DAG, user=DEPLOYER, attack=attack) for attack in SHOWN if attack != FORGERY}
        runs[FORGERY] = stack.trigger(DAG, user=TRAINEE, attack="none")
        wait(stack, runs)
        stack.mark(DAG, runs[FORGERY], FORGED, "success", user=TRAINEE)
        wait(stack, runs)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1600, "height": 1000}, device_scale_factor=1.5)
            sign_in(page, stack)
            page.add_init_script(VIEW)
            for attack, run in runs.items():
                picture, task = SHOWN[attack]
                page.goto(f"{stack.url}/dags/{DAG}/runs/{run}/tasks/{task}")
                page.wait_for_timeout(5000)  # the graph is laid out, and moves while it is
                page.add_style_tag(content=".react-flow__minimap, .react-flow__controls { display: none }")
                trace = page.get_by_text("AirflowFailException:")
                if trace.count():
                    trace.first.dispatch_event("click")  # fold the frames, which name the places of this machine
                page.wait_for_timeout(1000)
                page.screenshot(path=IMAGES / f"{picture}.png")
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
