"""Coverage: which stages of a pipeline are guarded, by which guards, against which threats, and which are not.

Knows nothing of Airflow; :mod:`airflow_pipesec.survey` measures DAGs and folders of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from airflow_pipesec.findings import amount, printable
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.standing import STRICT, Post, consumers, holds
from airflow_pipesec.threats import catalogue, demand_known

__all__ = ["Coverage", "Effect", "Measured", "Side", "StageCoverage", "Survey", "Trouble", "TroubleKind", "Watch", "coverage"]


class Effect(StrEnum):
    """What a guard is good for where it stands.

    ``part``: it guards some of what the stage reads, or some of those that read what the stage left. With the others it may do.
    """

    HOLDS = "holds"
    PART = "part"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Watch:
    """A guard beside a stage. ``reason`` says why it does not hold there by itself; it is empty where it does."""

    guard: str
    operator: str
    threats: tuple[str, ...]
    effect: Effect
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Return it in the types that JSON has."""
        return {
            "guard": self.guard,
            "operator": self.operator,
            "threats": list(self.threats),
            "effect": str(self.effect),
            "reason": self.reason or None,
        }


@dataclass(frozen=True, slots=True)
class Side:
    """The guards before a stage, or after it; whether they hold, alone or together; and the threats that they answer there."""

    guards: tuple[Watch, ...] = ()
    holds: bool = False
    threats: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageCoverage:
    """One stage. ``exempt`` is the reason why it needs no guard."""

    id: str
    before: Side = Side()
    after: Side = Side()
    exempt: str | None = None

    @property
    def guarded(self) -> bool:
        """Whether a guard before it or after it holds."""
        return self.before.holds or self.after.holds

    @property
    def naked(self) -> bool:
        """Whether it needs a guard and none holds."""
        return self.exempt is None and not self.guarded

    @property
    def threats(self) -> dict[str, str]:
        """The threats that are answered here, and where: ``before``, ``after`` or ``both``."""
        found = {}
        for name in catalogue():
            sides = [side for side in ("before", "after") if name in getattr(self, side).threats]
            if sides:
                found[name] = sides[0] if len(sides) == 1 else "both"
        return found

    def document(self) -> dict[str, Any]:
        """Return it in the types that JSON has."""
        return {
            "stage": self.id,
            "guarded": self.guarded,
            "exempt": self.exempt,
            "before": [watch.document() for watch in self.before.guards],
            "after": [watch.document() for watch in self.after.guards],
            "threats": self.threats,
        }


class _Counted:
    """What a DAG and all DAGs together have in common. What is exempt does not count."""

    __slots__ = ()

    @property
    def counted(self) -> Sequence[StageCoverage]:
        """The stages that need a guard."""
        raise NotImplementedError

    @property
    def guarded(self) -> int:
        """How many of them have one that holds."""
        return sum(stage.guarded for stage in self.counted)

    @property
    def naked(self) -> list[StageCoverage]:
        """Those that have none."""
        return [stage for stage in self.counted if stage.naked]

    @property
    def percent(self) -> float | None:
        """How many of a hundred are guarded; None where there is nothing to guard, which is not 100."""
        return 100 * self.guarded / len(self.counted) if self.counted else None

    @property
    def unanswered(self) -> list[str]:
        """The threats that no guard answers at any of these stages, in the catalogue's order."""
        answered = {name for stage in self.counted for name in stage.threats}
        return [name for name in catalogue() if name not in answered]

    def _figures(self) -> dict[str, Any]:
        percent = self.percent
        return {
            "stages": len(self.counted),
            "guarded": self.guarded,
            "percent": None if percent is None else round(percent, 3),
            "unguarded": [stage.id for stage in self.naked],
            "unanswered_threats": self.unanswered,
        }


@dataclass(frozen=True)
class Coverage(_Counted):
    """What one pipeline is guarded by. ``loose`` are guards that stand beside no stage."""

    pipeline: Pipeline = field(repr=False)
    stages: tuple[StageCoverage, ...]
    loose: tuple[str, ...] = ()

    @property
    def dag_id(self) -> str:
        """The id of the DAG."""
        return self.pipeline.dag_id

    @property
    def counted(self) -> Sequence[StageCoverage]:
        """The stages that are not exempt."""
        return [stage for stage in self.stages if stage.exempt is None]

    @property
    def idle(self) -> dict[str, str]:
        """The guards that do nothing at some stage which they stand beside, or beside none, with the reason."""
        found: dict[str, str] = {}
        for stage in self.stages:
            for watch in (*stage.before.guards, *stage.after.guards):
                if watch.effect is Effect.NONE and stage.exempt is None:
                    found.setdefault(watch.guard, watch.reason)
        return found | dict.fromkeys(self.loose, "it stands beside no stage")

    def document(self) -> dict[str, Any]:
        """Return it in the types that JSON has."""
        figures = self._figures()
        return {
            "dag_id": self.dag_id,
            **figures,
            "idle_guards": self.idle,
            "details": [stage.document() for stage in self.stages],
        }


class TroubleKind(StrEnum):
    """What kept a DAG from being measured."""

    NOT_PARSED = "dag-not-parsed"
    PLAN = "plan-not-applied"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something could not be measured: the file, the DAG where one is known, and the line where one is."""

    kind: TroubleKind
    text: str
    file: str
    dag_id: str | None = None
    line: int | None = None

    def document(self) -> dict[str, Any]:
        """Return it in the types that JSON has."""
        return {"kind": str(self.kind), "text": self.text, "file": self.file, "dag_id": self.dag_id, "line": self.line}


@dataclass(frozen=True, slots=True)
class Measured:
    """A DAG that was measured, and the file that it is in."""

    coverage: Coverage
    file: str


@dataclass(frozen=True)
class Survey(_Counted):
    """All DAGs of a folder, and what could not be measured."""

    folder: str
    dags: tuple[Measured, ...]
    troubles: tuple[Trouble, ...] = ()

    @property
    def counted(self) -> Sequence[StageCoverage]:
        """The stages of all DAGs that are not exempt."""
        return [stage for dag in self.dags for stage in dag.coverage.counted]

    @property
    def undecided(self) -> str | None:
        """Why nothing can be said of the whole; None where it can."""
        if self.troubles:
            return f"{amount(len(self.troubles), 'thing')} could not be measured"
        if not self.dags:
            return "no DAG was found"
        return None if self.counted else "there is nothing to guard: no DAG has a stage that counts"

    def reaches(self, threshold: float) -> bool:
        """Whether all was measured and at least so many of a hundred stages are guarded."""
        return self.undecided is None and self.percent is not None and self.percent >= threshold

    def document(self) -> dict[str, Any]:
        """Return it in the types that JSON has."""
        return {
            "format": "pipesec-coverage",
            "version": 1,
            "folder": self.folder,
            **self._figures(),
            "undecided": self.undecided,
            "troubles": [trouble.document() for trouble in self.troubles],
            "dags": [{"file": dag.file, **dag.coverage.document()} for dag in self.dags],
        }


def coverage(pipeline: Pipeline, exempt: Mapping[str, str] | None = None) -> Coverage:
    """Measure a pipeline; ``exempt`` are the stages that need no guard, with the reason.

    A guard counts where a stage that follows it cannot run unless it passed, see :func:`airflow_pipesec.standing.holds`. One that
    only warns does not. Where several guards look at a part each of what a stage reads, they count if they leave nothing out.

    Raises :class:`~airflow_pipesec.errors.ConfigurationError` for a guard with a threat that is not in the catalogue.
    """
    reasons = dict(exempt or {})
    for guard in pipeline.of_kind(Kind.GUARD):
        demand_known(guard.threats, f"guard {printable(guard.id)} of DAG {printable(pipeline.dag_id)}")
    stages = []
    for stage in pipeline.of_kind(Kind.STAGE):
        before = _side(pipeline, stage.id, pipeline.guards_before(stage.id), reasons, before=True)
        after = _side(pipeline, stage.id, pipeline.guards_after(stage.id), reasons, before=False)
        stages.append(StageCoverage(stage.id, before, after, reasons.get(stage.id)))
    placed = {watch.guard for stage in stages for watch in (*stage.before.guards, *stage.after.guards)}
    loose = tuple(guard.id for guard in pipeline.of_kind(Kind.GUARD) if guard.id not in placed)
    return Coverage(pipeline, tuple(stages), loose)


def _side(pipeline: Pipeline, stage: str, guards: Sequence[str], exempt: Collection[str], *, before: bool) -> Side:
    watches: list[Watch] = []
    reach: dict[str, set[str]] = {}
    for guard in guards:
        node = pipeline.nodes[guard]
        reason = "it only warns" if node.warns else holds(pipeline, Post(guard, stage, before), exempt) or ""
        effect = Effect.NONE if reason else Effect.HOLDS
        if reason and not node.warns:
            reach[guard] = _read_through(pipeline, guard, stage) if before else _stopped(pipeline, guard, stage, exempt)
            effect = Effect.PART if reach[guard] else Effect.NONE
        watches.append(Watch(guard, node.operator, tuple(node.threats), effect, reason))
    wanted = _inputs(pipeline, stage) if before else set(consumers(pipeline, stage, exempt))

    def together(some: Iterable[Watch]) -> bool:
        some = list(some)
        if any(watch.effect is Effect.HOLDS for watch in some):
            return True
        covered = set().union(*(reach[watch.guard] for watch in some if watch.effect is Effect.PART))
        return bool(wanted) and wanted <= covered

    named = {name for watch in watches for name in watch.threats}
    answered = tuple(
        name for name in catalogue() if name in named and together(watch for watch in watches if name in watch.threats)
    )
    return Side(tuple(watches), together(watches), answered)


def _leaves_nothing(node: Node) -> bool:
    return node.kind in (Kind.GUARD, Kind.EMPTY, Kind.SETUP)


def _inputs(pipeline: Pipeline, stage: str) -> set[str]:
    """The tasks whose work a stage goes on with. For a branch stands what it follows itself: it leaves nothing."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = pipeline.nearest_above(stage, _leaves_nothing)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        above = pipeline.nearest_above(name, _leaves_nothing) if pipeline.nodes[name].skips else []
        if above:
            waiting += above
        else:
            found.add(name)
    return found


def _read_through(pipeline: Pipeline, guard: str, stage: str) -> set[str]:
    """Those of a stage's inputs that a guard waits for, where the stage does not run unless it passed."""
    rule = pipeline.nodes[guard].rule
    if (rule not in STRICT and rule != pipeline.nodes[stage].rule) or pipeline.runs_without(guard, stage):
        return set()
    return _inputs(pipeline, stage) & pipeline.above(guard)


def _stopped(pipeline: Pipeline, guard: str, stage: str, exempt: Collection[str]) -> set[str]:
    """Those of the stages after one that do not run unless a guard passed."""
    if pipeline.nodes[guard].rule not in STRICT or stage not in pipeline.above(guard):
        return set()
    behind = pipeline.below(guard).intersection(consumers(pipeline, stage, exempt))
    return {name for name in behind if not pipeline.runs_without(guard, name, given=stage)}
