"""Pipeline: the shape of a DAG, and whether a guard that does not pass really keeps a stage from running.

Knows nothing of Airflow but its trigger rules; :mod:`airflow_pipesec.weave` makes a pipeline of a DAG.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import product

__all__ = ["Kind", "Node", "Pipeline"]

# How a task can end. What was deleted or removed by hand is no end that a trigger rule brings about.
SUCCESS, FAILED, SKIPPED, UPSTREAM_FAILED = "success", "failed", "skipped", "upstream_failed"
Ends = frozenset[str]
Facts = Mapping[str, Ends]
_ANY: Ends = frozenset((SUCCESS, FAILED, SKIPPED, UPSTREAM_FAILED))
_BAD: Ends = frozenset((FAILED, UPSTREAM_FAILED))
_GOOD: Ends = frozenset((SUCCESS, SKIPPED))
_SUCCEEDED: Ends = frozenset((SUCCESS,))
_RAN: Ends = frozenset((SUCCESS, FAILED))
_RUNS = "runs"
MOST_WAYS = 256


class Kind(StrEnum):
    """What a task is to a plan."""

    STAGE = "stage"
    GUARD = "guard"
    SETUP = "setup"
    TEARDOWN = "teardown"
    EMPTY = "empty"  # a task that runs nothing


@dataclass(frozen=True, slots=True)
class Node:
    """One task.

    ``rule`` is its trigger rule. ``skips`` says that it may skip what follows it by name, as a branch does; ``may_skip`` that a
    guard may end as skipped itself; ``warns`` that a guard which fails lets the pipeline go on. ``threats`` are the ids of those
    that a guard answers, ``operator`` the name of the task's class as Airflow shows it, ``group`` the TaskGroup that it is in.
    """

    id: str
    upstream: Collection[str] = ()
    kind: Kind = Kind.STAGE
    rule: str = "all_success"
    skips: bool = False
    may_skip: bool = False
    warns: bool = False
    threats: Collection[str] = ()
    operator: str = ""
    label: str = ""
    group: str | None = None


def _is_guard(node: Node) -> bool:
    return node.kind is Kind.GUARD


@dataclass(frozen=True)
class Pipeline:
    """All tasks of a DAG by id, in an order in which each comes after those upstream of it."""

    dag_id: str
    nodes: Mapping[str, Node]
    downstream: Mapping[str, Sequence[str]] = field(init=False)

    def __post_init__(self) -> None:
        below: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, node in self.nodes.items():
            for other in node.upstream:
                below[other].append(name)
        object.__setattr__(self, "downstream", below)

    def of_kind(self, kind: Kind) -> Iterator[Node]:
        """Yield the tasks of one kind."""
        return (node for node in self.nodes.values() if node.kind is kind)

    def above(self, name: str) -> set[str]:
        """Return the ids of all tasks upstream of one."""
        return self._closure(self.nodes[name].upstream, lambda other: self.nodes[other].upstream)

    def below(self, name: str) -> set[str]:
        """Return the ids of all tasks downstream of one."""
        return self._closure(self.downstream[name], lambda other: self.downstream[other])

    def nearest_above(self, name: str, through: Callable[[Node], bool] = _is_guard) -> list[str]:
        """Return the tasks that one follows with nothing between but such tasks, guards unless told, in the pipeline's order."""
        return self._nearest(self.nodes[name].upstream, lambda other: self.nodes[other].upstream, through)

    def nearest_below(self, name: str, through: Callable[[Node], bool] = _is_guard) -> list[str]:
        """Return the tasks that follow one with nothing between but such tasks, guards unless told, in the pipeline's order."""
        return self._nearest(self.downstream[name], lambda other: self.downstream[other], through)

    def guards_before(self, name: str) -> list[str]:
        """Return the guards that a task follows with no other stage between, in the pipeline's order."""
        return self._passed(self.nodes[name].upstream, lambda other: self.nodes[other].upstream)

    def guards_after(self, name: str) -> list[str]:
        """Return the guards that follow a task with no other stage between, in the pipeline's order."""
        return self._passed(self.downstream[name], lambda other: self.downstream[other])

    def _passed(self, start: Iterable[str], onward: Callable[[str], Iterable[str]]) -> list[str]:
        found, waiting = set(), list(start)
        while waiting:
            current = waiting.pop()
            kind = self.nodes[current].kind
            if current in found or kind is Kind.STAGE:
                continue
            found.add(current)
            waiting += onward(current)
        return [name for name in self._in_order(found) if self.nodes[name].kind is Kind.GUARD]

    def _nearest(
        self, start: Iterable[str], onward: Callable[[str], Iterable[str]], through: Callable[[Node], bool]
    ) -> list[str]:
        found: set[str] = set()
        seen: set[str] = set()
        waiting = list(start)
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if through(self.nodes[current]):
                waiting += onward(current)
            else:
                found.add(current)
        return self._in_order(found)

    def _in_order(self, names: set[str]) -> list[str]:
        return [name for name in self.nodes if name in names] if len(names) > 1 else list(names)

    @staticmethod
    def _closure(start: Iterable[str], onward: Callable[[str], Iterable[str]]) -> set[str]:
        seen: set[str] = set()
        waiting = list(start)
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                waiting += onward(current)
        return seen

    def runs_without(self, guard: str, stage: str, given: str | None = None) -> str | None:
        """Say how a stage can run although a guard did not pass; None where it cannot.

        ``given`` is a task: only the runs count in which it succeeded. For a guard that examines what a task left it is that
        task. Considered is every way in which a guard comes not to pass: it fails; what it waits for fails or is skipped; a
        branch skips it. The answer errs on the side of "it can run". Setting states by hand is no matter of a DAG's shape, see
        :mod:`airflow_pipesec.evidence`.
        """
        if not self.nodes[guard].warns and self._needs(stage, guard):
            return None
        return self._how(guard, stage, [*self._ways_failed(guard), *self._ways_skipped(guard)], given, self._may_run)

    def runs_past(self, guard: str, stage: str) -> str | None:
        """Say how a stage can run although a guard above it failed, could not run or skipped itself; None where it cannot.

        Runs do not count in which each way from the guard to the stage leads by a task that was skipped: nothing came that way.
        """
        itself: list[dict[str, Ends]] = [{guard: frozenset((SKIPPED,))}] if self.nodes[guard].may_skip else []
        return self._how(guard, stage, [*self._ways_failed(guard), *itself], None, partial(self._may_run, past=True))

    def _how(self, guard: str, stage: str, ways: Iterable[Facts], given: str | None, may_run: Callable[..., bool]) -> str | None:
        if self.nodes[guard].warns:
            return f"{guard} only warns"
        if stage not in self.below(guard):
            return f"{stage} does not follow {guard}"
        for facts in ways:
            known = self._with_what_follows(facts if given is None else _both(facts, {given: _SUCCEEDED}))
            if all(known.values()) and may_run(guard, stage, known):
                how = "; ".join(f"{name} {' or '.join(sorted(ends))}" for name, ends in sorted(facts.items()))
                return f"its trigger rule is {self.nodes[stage].rule}, and it runs with {how}"
        return None

    @cached_property
    def _setups(self) -> Mapping[str, frozenset[str]]:
        """By task the setups that it waits for beside what it follows, whatever its trigger rule is."""
        found: dict[str, set[str]] = {}
        for setup in self.of_kind(Kind.SETUP):
            teardowns = [name for name in self.downstream[setup.id] if self.nodes[name].kind is Kind.TEARDOWN]
            scope = self.below(setup.id)
            if teardowns:
                scope &= set().union(*map(self.above, teardowns))
            for name in scope:
                node = self.nodes[name]
                if setup.id not in node.upstream and node.kind is not Kind.TEARDOWN and node.rule != "always":
                    found.setdefault(name, set()).add(setup.id)
        return {name: frozenset(setups) for name, setups in found.items()}

    def _needs(self, stage: str, guard: str) -> bool:
        """Whether every task on some path from the guard to the stage demands the success of the one before it."""
        waiting, seen = [stage], set()
        while waiting:
            current = waiting.pop()
            if self.nodes[current].rule != "all_success":
                continue
            for other in self.nodes[current].upstream:
                if other == guard:
                    return True
                # Beyond stages a path is longer than what this short cut is for.
                if other not in seen and self.nodes[other].kind is not Kind.STAGE:
                    seen.add(other)
                    waiting.append(other)
        return False

    def _ways_failed(self, name: str) -> list[dict[str, Ends]]:
        """What can make a guard fail, or not run because something failed."""
        ways: list[dict[str, Ends]] = []
        waiting, seen = [name], set()
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            ways += [{setup: _BAD} for setup in sorted(self._setups.get(current, ()))]
            if self.nodes[current].kind is Kind.GUARD:
                ways.append({current: frozenset((FAILED,))})
                waiting += self.nodes[current].upstream
            else:
                ways.append({current: _BAD})
        return ways

    def _ways_skipped(self, name: str) -> list[dict[str, Ends]]:
        """What can make a guard be skipped."""
        node = self.nodes[name]
        skipped: dict[str, Ends] = {name: frozenset((SKIPPED,))}
        if node.kind is not Kind.GUARD:
            return [skipped]
        ways = [skipped] if node.may_skip or any(self.nodes[other].skips for other in node.upstream) else []
        ways += [{**skipped, setup: frozenset((SKIPPED,))} for setup in sorted(self._setups.get(name, ()))]
        if not node.upstream:
            return ways
        above = [self._ways_skipped(other) for other in node.upstream]
        if node.rule == "all_success":
            ways += [way for some in above for way in some]
        elif node.rule == "none_failed_min_one_success":
            combined = list(_some(product(*above)))
            # Too many to look at one by one: any of them.
            ways += [skipped] if len(combined) > MOST_WAYS else [_merged(one) for one in combined]
        elif node.rule != "none_failed":
            ways.append(skipped)
        return ways

    def _with_what_follows(self, facts: Facts) -> Facts:
        """Add what must have become of those above a task that ran. Of one that cannot be so no end is left."""
        known = dict(facts)
        waiting = [name for name, ends in facts.items() if ends <= _RAN]
        while waiting:
            node = self.nodes[waiting.pop()]
            must: dict[str, Ends] = dict.fromkeys(self._setups.get(node.id, ()), _SUCCEEDED)
            if node.rule == "all_success" or (node.rule == "none_failed_min_one_success" and len(node.upstream) == 1):
                must |= dict.fromkeys(node.upstream, _SUCCEEDED)
            elif node.rule in ("none_failed", "none_failed_min_one_success"):
                must |= dict.fromkeys(node.upstream, _GOOD)
            for other, ends in must.items():
                before = known.get(other, _ANY)
                known[other] = before & ends
                if known[other] <= _RAN and not before <= _RAN:
                    waiting.append(other)
        return known

    def _may_run(self, guard: str, stage: str, facts: Facts, *, past: bool = False) -> bool:
        """Whether a stage can come to run when some tasks ended in a known way, and the guard not with success.

        With ``past`` only where what follows the guard was not skipped on some way from it to the stage.
        """
        between = self.above(stage) | {stage}
        ends: dict[str, Ends] = dict(facts)
        # Of those, what a task can end as when some way from the guard to it leads by none that was skipped.
        unbroken: dict[str, Ends] = {guard: facts[guard]} if guard in facts else {}
        # What is neither known nor follows what is known may end in any way.
        touched: set[str] = set(facts)
        for name in self.nodes:
            if name not in between:
                continue
            node = self.nodes[name]
            setups = self._setups.get(name, frozenset())
            if touched.isdisjoint(node.upstream) and touched.isdisjoint(setups):
                continue
            touched.add(name)
            above = {other: ends.get(other, _ANY) for other in node.upstream}
            waits = [ends.get(setup, _ANY) for setup in setups]
            can_end = self._ends(node, above, waits)
            if name in facts or name == guard:
                ends[name] = can_end & facts.get(name, _ANY - _SUCCEEDED)
                if not ends[name]:
                    return False
                if name == guard:
                    unbroken[name] = ends[name]
                continue
            found = [self._ends(node, {**above, other: unbroken[other]}, waits) for other in node.upstream if unbroken.get(other)]
            unbroken[name] = frozenset().union(*found) - {SKIPPED}
            if name == stage:
                return _RUNS in (unbroken[name] if past else can_end)
            ends[name] = can_end - {_RUNS}
            unbroken[name] -= {_RUNS}
        return not past

    def _ends(self, node: Node, above: Facts, setups: Collection[Ends]) -> Ends:
        """How a task can end, and whether it can run, given how those directly above it and its setups can end."""
        runs, otherwise = _outcomes(node.rule, list(above.values()))
        found = set(otherwise)
        if runs and all(SUCCESS in ends for ends in setups):
            found |= {_RUNS, SUCCESS, FAILED} if node.kind is Kind.GUARD and not node.may_skip else {_RUNS, *_RAN, SKIPPED}
        for ends in setups:
            found |= ends & {SKIPPED}
            if ends & _BAD:
                found.add(UPSTREAM_FAILED)
        if any(self.nodes[other].skips and SUCCESS in ends for other, ends in above.items()):
            found.add(SKIPPED)
        return frozenset(found)


def _some(combinations: Iterable[tuple[dict[str, Ends], ...]]) -> Iterator[tuple[dict[str, Ends], ...]]:
    for number, one in enumerate(combinations):
        if number > MOST_WAYS:
            return
        yield one


def _both(one: Facts, other: Facts) -> Facts:
    return {name: one.get(name, _ANY) & other.get(name, _ANY) for name in {**one, **other}}


def _merged(facts: Iterable[Mapping[str, Ends]]) -> dict[str, Ends]:
    return {name: ends for one in facts for name, ends in one.items()}


def _outcomes(rule: str, above: Sequence[Ends]) -> tuple[bool, Ends]:
    """Whether a task of that trigger rule can run, and how it can end without running, given how those above it can end.

    As Airflow 3.3 evaluates the rules (``airflow.ti_deps.deps.trigger_rule_dep``). A rule that is not known may run.
    """

    def some(ends: Ends) -> bool:
        return any(one & ends for one in above)

    def every(ends: Ends) -> bool:
        return all(one & ends for one in above)

    if not above:
        return True, frozenset()
    success, skipped = frozenset((SUCCESS,)), frozenset((SKIPPED,))
    failed_above = frozenset((UPSTREAM_FAILED,)) if some(_BAD) else frozenset()
    nothing: Ends = frozenset()
    if rule == "all_success":
        # Skipped as soon as one above it is, although another is yet to fail.
        return every(success), failed_above | (skipped if some(skipped) else nothing)
    if rule == "none_failed":
        return every(_GOOD), failed_above
    if rule == "none_failed_min_one_success":
        return every(_GOOD) and some(success), failed_above | (skipped if every(skipped) else nothing)
    if rule == "one_success":
        return some(success), _ANY - success - frozenset((FAILED,)) if every(_ANY - success) else nothing
    if rule == "all_done_min_one_success":
        return every(_ANY - skipped) and some(success), frozenset((UPSTREAM_FAILED, SKIPPED))
    if rule == "all_failed":
        return every(_BAD), skipped
    if rule == "one_failed":
        return some(_BAD), skipped
    if rule == "none_skipped":
        return every(_ANY - skipped), skipped
    if rule == "all_skipped":
        return every(skipped), skipped
    if rule == "one_done":
        return some(frozenset((SUCCESS, FAILED))), skipped
    return True, frozenset((UPSTREAM_FAILED, SKIPPED))
