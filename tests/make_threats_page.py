"""Makes docs/threats.md of the catalogue and of what the guards say of themselves: ``python -m tests.make_threats_page``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from airflow_pipesec import operators, sensors
from airflow_pipesec.guards.base import Guard
from airflow_pipesec.threats import Threat, catalogue

PAGE = Path(__file__).resolve().parent.parent / "docs" / "threats.md"
INTRO = """\
# Threats

What an ML pipeline faces, from collection to deployment, and which guards answer it, at least in part. The catalogue is
`airflow_pipesec/threats.yaml`; `python -m tests.make_threats_page` makes this page of it. Whom the guards themselves withstand
is in [threat-model.md](threat-model.md), what each examines in [controls.md](controls.md).

A guard names the threats that it answers in its attribute `threats`. That is a claim of its author, for coverage, and changes
nothing about what it does. An operator or a sensor of your own has it as a class attribute, `threats = ("bias",)`; a function is
told it:

```python
from airflow.sdk import dag, task

from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject

SCORE = Control("score-holds", "The model is still good enough", Severity.HIGH, remedy="Look at the new data, and train anew.")


@dag
def watch():
    @task
    def score_on_new_data():
        return 0.93

    @task.guard(threats=("drift",))
    def score_holds(score):
        yield Finding(SCORE, Subject("model"), Status.PASS if score >= 0.9 else Status.FAIL, "was scored on last week's data")

    score_holds(score_on_new_data())


watch()
```
"""


def guards() -> Iterator[type[Guard]]:
    """Yield the guards of this package."""
    for module in (operators, sensors):
        yield from (getattr(module, name) for name in module.__all__ if name not in ("GuardOperator", "GuardSensor"))


def section(threat: Threat) -> str:
    """Return what the page has of one threat."""
    answering = [f"`{guard.__name__}`" for guard in guards() if threat.id in guard.threats]
    answered = f"Answered by {', '.join(answering)}." if answering else "No guard of this package answers it: write your own."
    lines = [
        f"## {threat.title}",
        "",
        f"`{threat.id}`, in a table `{threat.short}`. Strikes at {', '.join(threat.stages)}.",
        "",
        textwrap.fill(threat.meaning, 130, break_long_words=False, break_on_hyphens=False),
        "",
        answered,
        "",
        *(f"* [{reference.id}]({reference.url}), {reference.title}" for reference in threat.references),
    ]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRO, *map(section, catalogue().values())])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
