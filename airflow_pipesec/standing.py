"""Standing: guards stand where a plan wants them, and nothing below one runs unless it passed.

That is, and :func:`faults` tells of what it does not hold for, in every run:

* a stage runs only if each guard before it passed;
* where a stage succeeded, what reads what it left runs only if each guard after it passed;
* no stage runs if a guard above it, with no other between, failed, could not run or skipped itself, unless each way from there to
  it leads by a task that was skipped.

Not counted are guards that only warn, and stages that the plan exempts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from airflow_pipesec.findings import printable
from airflow_pipesec.pipeline import Kind, Pipeline

__all__ = ["Post", "consumers", "faults", "holds"]

# With these rules a task does not run when anything that it follows failed.
STRICT = frozenset(("all_success", "none_failed", "none_failed_min_one_success"))
_REMEDY = "Give it the trigger rule all_success, or let the plan exempt it, with the reason"


class Post(NamedTuple):
    """Where a guard has to stand: before or after a stage."""

    guard: str
    stage: str
    before: bool


def consumers(pipeline: Pipeline, stage: str, exempt: Collection[str] = ()) -> list[str]:
    """Return the stages that read what a stage left: the next ones, whatever else stands between."""
    return pipeline.nearest_below(stage, lambda node: node.kind is not Kind.STAGE or node.id in exempt)


def holds(pipeline: Pipeline, post: Post, exempt: Collection[str] = ()) -> str | None:
    """Say why a guard does not do its work at its post; None where it does."""
    guard, stage = post.guard, post.stage
    rule = pipeline.nodes[guard].rule
    if rule not in STRICT and not (post.before and rule == pipeline.nodes[stage].rule):
        return (
            f"{printable(guard)} has the trigger rule {rule}, and would look whatever became of what it follows. Leave it at "
            "all_success"
        )
    if post.before:
        if why := pipeline.runs_without(guard, stage):
            return f"stage {printable(stage)} would run although {printable(guard)} did not pass: {why}. {_REMEDY}"
        return _too_early(pipeline, post)
    if stage not in pipeline.nearest_above(guard) and stage not in pipeline.above(guard):
        return f"{printable(guard)} does not follow stage {printable(stage)}. Let it"
    for name in consumers(pipeline, stage, exempt):
        if why := pipeline.runs_without(guard, name, given=stage):
            return (
                f"{printable(name)} follows stage {printable(stage)} and would run although {printable(guard)} did not pass: "
                f"{why}. {_REMEDY}"
            )
    return None


def _too_early(pipeline: Pipeline, post: Post) -> str | None:
    """Say which of the tasks that a stage follows a guard before it does not wait for."""
    waits = set(pipeline.nearest_above(post.guard))
    missing = [name for name in pipeline.nearest_above(post.stage) if name not in waits]
    if missing:
        waits = pipeline.above(post.guard)
        missing = [name for name in missing if name not in waits and not _beside(pipeline, name, waits)]
    if missing:
        return (
            f"stage {printable(post.stage)} follows {printable(missing[0])}, and {printable(post.guard)} before it does not: it "
            "would look too early. Let it"
        )
    return None


def _beside(pipeline: Pipeline, name: str, waits: Collection[str]) -> bool:
    """Whether a task is a branch, and all that it follows is waited for: what stands beside it cannot wait for itself."""
    return pipeline.nodes[name].skips and all(
        other in waits or _beside(pipeline, other, waits) for other in pipeline.nearest_above(name)
    )


def faults(pipeline: Pipeline, posts: Iterable[Post], exempt: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong: guards that do not hold, and tasks below a guard that run whatever it says."""
    guards, named = set(), set()
    for post in posts:
        if pipeline.nodes[post.guard].warns:
            continue  # the plan says that it only tells
        guards.add(post.guard)
        if problem := holds(pipeline, post, exempt):
            named.add(post.stage)
            yield problem
    yield from _leaks(pipeline, guards, exempt, named)


def _leaks(pipeline: Pipeline, guards: Collection[str], exempt: Collection[str], named: Collection[str]) -> Iterator[str]:
    """Yield the stages anywhere below a guard that run although it did not pass.

    Where every task is strict, what fails stops all that is below it. So only those that are not, and those that follow one which
    runs all the same, are looked at closely.
    """
    below: set[str] = set()
    leaky = {guard for guard in guards if pipeline.nodes[guard].may_skip}
    for name, node in pipeline.nodes.items():
        if not any(other in guards or other in below for other in node.upstream):
            continue
        below.add(name)
        if name in guards or (node.rule in STRICT and not any(other in leaky for other in node.upstream)):
            continue
        if node.kind is not Kind.STAGE or name in exempt:
            leaky.add(name)
            continue
        if name in named:
            continue
        for guard in pipeline.nearest_above(name, lambda node: node.id not in guards):  # no other of them between
            if why := pipeline.runs_past(guard, name):
                yield f"{printable(name)} would run although {printable(guard)} above it did not pass: {why}. {_REMEDY}"
                break
