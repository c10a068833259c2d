"""Draw the plain example without guards and with its plan for docs/coverage.md: python -m tests.make_coverage_pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from airflow_pipesec.cli_pipeline import picture
from airflow_pipesec.survey import survey
from tests.conftest import PROJECT

EXAMPLE = PROJECT / "dags" / "example_plain_training.py"
IMAGES = PROJECT / "docs" / "images"


def pictures() -> Iterator[tuple[Path, str]]:
    """Yield the files and what belongs into them."""
    for name, plan in (("naked", None), ("woven", EXAMPLE.with_suffix(".plan.yaml"))):
        found = survey(EXAMPLE, plan)
        assert not found.troubles, found.troubles
        (dag,) = found.dags
        yield IMAGES / f"plain-training-{name}.svg", picture(dag.coverage)


if __name__ == "__main__":
    for path, svg in pictures():
        path.write_text(svg, encoding="utf-8")
