"""Coverage as a table for people: in words and signs, as wide as the terminal, with nothing that only a colour says."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from airflow_pipesec.coverage import Coverage, Effect, Side, StageCoverage, Survey
from airflow_pipesec.findings import amount, escaped, printable
from airflow_pipesec.threats import catalogue

__all__ = ["share", "summary", "table"]

WIDTH = 100
HEADS = ("stage", "guards before", "guards after")
LEAST, GAP = 12, 2
SIGNS = {"before": "<", "after": ">", "both": "<>"}


def table(found: Survey, threshold: float = 100.0, *, width: int | None = None) -> str:
    """Return a survey as text for people: a table for each DAG, what does not count and why, and the sum."""
    from shutil import get_terminal_size

    columns = width or max(60, get_terminal_size((WIDTH, 24)).columns)
    parts = [_of_dag(dag.coverage, dag.file, columns) for dag in found.dags]
    return "\n\n".join([*parts, "\n".join(summary(found, threshold))])


def _of_dag(found: Coverage, file: str, width: int) -> str:
    lines = [f"DAG {printable(found.dag_id)}  ({escaped(_near(file))})"]
    if found.stages:
        answered = [name for name in catalogue() if name not in found.unanswered]
        texts = [_cells(stage) for stage in found.stages]
        for threats, letters in ((list(catalogue()), False), (answered, False), (answered, True)):
            heads = _heads(threats, letters=letters)
            room = width - sum(GAP + max(2, len(head)) for head in heads)
            if sum(_widths(texts)) <= room:
                break
        lines += [line.rstrip() for line in _grid(found, texts, threats, heads, _widths(texts, room)).splitlines()]
        if letters:
            key = ", ".join(f"{head}={catalogue()[name].short}" for head, name in zip(heads, threats, strict=True))
            lines += _wrapped(f"< before, > after: {key}", width)
        if threats == answered and found.unanswered:
            lines += _wrapped("answered by no guard: " + ", ".join(catalogue()[name].short for name in found.unanswered), width)
    for guard, reason in found.idle.items():
        lines += _wrapped(f"no effect: {printable(guard)}: {reason}.", width)
    for stage in found.stages:
        if stage.exempt is not None:
            lines += _wrapped(f"exempt: {printable(stage.id)}: {escaped(stage.exempt)}", width)
    return "\n".join(lines)


def _near(file: str) -> str:
    relative = file if "://" in file else os.path.relpath(file)
    return file if relative.startswith("..") else relative


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)


def _heads(threats: Sequence[str], *, letters: bool) -> list[str]:
    """The heads of the threats' columns: what they are, or, where that is too wide, letters that are told below."""
    return list(ascii_uppercase[: len(threats)]) if letters else [catalogue()[name].short for name in threats]


def _grid(
    found: Coverage, texts: Sequence[Sequence[str]], threats: Sequence[str], heads: Sequence[str], widths: Sequence[int]
) -> str:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Like rich's SIMPLE, in characters that every terminal and every log has.
    plain = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    grid = Table(box=plain, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0), header_style="")
    for head, width in zip(HEADS, widths, strict=True):
        grid.add_column(Text(head), width=width)
    for head in heads:
        grid.add_column(Text(head), no_wrap=True, min_width=2)
    for stage, cells in zip(found.stages, texts, strict=True):
        counts = stage.exempt is None
        signs = [SIGNS.get(stage.threats.get(name, ""), ".") if counts else "" for name in threats]
        folded = ["\n".join(_folded(cell, width)) for cell, width in zip(cells, widths, strict=True)]
        grid.add_row(*(Text(cell) for cell in (*folded, *signs)))
    console = Console(width=10_000, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(grid)
    return captured.get()


def _widths(texts: Sequence[Sequence[str]], room: int | None = None) -> list[int]:
    """How wide the columns of text are: as they need, or, where there is less room, the widest narrowed first."""
    widths = [
        max(len(line) for cell in (head, *cells) for line in cell.splitlines())
        for head, *cells in zip(HEADS, *texts, strict=True)
    ]
    least = [min(width, LEAST) for width in widths]
    while room is not None and sum(widths) + GAP * (len(widths) - 1) > room and widths != least:
        widest = max(range(len(widths)), key=lambda number: widths[number] - least[number])
        widths[widest] -= 1
    return widths if room is not None else [width + GAP for width in widths]


def _folded(cell: str, width: int) -> Iterator[str]:
    """The lines of a cell, broken where the parts of a name meet; what goes on is indented."""
    for line in cell.splitlines():
        rest = ""
        for part in re.findall(r"[^._ -]*[._ -]?", line):
            if rest.strip() and len(rest) + len(part.rstrip()) > width:
                yield rest.rstrip()
                rest = "  "
            rest += part
            while len(rest) > width:
                yield rest[:width]
                rest = f"  {rest[width:]}" if rest[width:].strip() else ""
        if rest.strip():
            yield rest.rstrip()


def _cells(stage: StageCoverage) -> tuple[str, str, str]:
    """A stage, and the guards before and after it."""
    name = printable(stage.id)
    if stage.exempt is not None:
        return name, "(exempt)", ""
    before, after = _names(stage, stage.before), _names(stage, stage.after)
    if stage.naked:
        return name, "\n".join(["UNGUARDED", *([before] if before != "-" else [])]), after
    return name, before, after


def _names(stage: StageCoverage, side: Side) -> str:
    """The guards of one side, without the TaskGroup that says no more than where they stand."""
    named = []
    for watch in side.guards:
        group, _, label = watch.guard.rpartition(".")
        own = group.rpartition(".")[2].endswith((f"before_{_label(stage.id)}", f"after_{_label(stage.id)}"))
        shown = printable(label if own else watch.guard)
        if watch.effect is Effect.NONE:
            shown += " (no effect)"
        elif watch.effect is Effect.PART and not side.holds:
            shown += " (in part)"
        named.append(shown)
    return "\n".join(named) or "-"


def _label(task_id: str) -> str:
    return task_id.rpartition(".")[2]


def share(found: Coverage | Survey) -> str:
    """Say how much is guarded. A share is never rounded up: 99.96 % is not 100 %."""
    if found.percent is None:
        return "nothing to guard"
    return f"{found.guarded} of {amount(len(found.counted), 'stage')} guarded, {int(found.percent * 10) / 10:g} %"


def summary(found: Survey, threshold: float) -> list[str]:
    """Return a line for each DAG, one for each trouble, and the verdict."""
    lines = [f"{printable(dag.coverage.dag_id)}: {share(dag.coverage)}" for dag in found.dags]
    for trouble in found.troubles:
        what = f"DAG {printable(trouble.dag_id)} in {_near(trouble.file)}" if trouble.dag_id is not None else _near(trouble.file)
        line = f":{trouble.line}" if trouble.line is not None else ""
        lines.append(escaped(f"NOT MEASURED  {what}{line}: {trouble.text} [{trouble.kind}]"))
    verdict = "UNDECIDED" if found.undecided else "PASSED" if found.reaches(threshold) else "FAILED"
    why = f"; {found.undecided}" if found.undecided else ""
    return [*lines, f"{verdict}  {amount(len(found.dags), 'DAG')}: {share(found)} (at least {threshold:g} %){why}"]
