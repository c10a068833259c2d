"""Every world of a small DAG: how its tasks can end, in every order in which a scheduler may come to look at them.

Written from Airflow's own evaluation of the rules (``airflow.ti_deps.deps.trigger_rule_dep``, ``not_previously_skipped_dep`` and
the execution API's ``skip-downstream``) and from nothing of this package, which it judges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, combinations

from airflow_pipesec.pipeline import Kind, Node, Pipeline

RULES = """all_success all_failed all_done always one_success one_failed one_done none_failed none_failed_min_one_success
    none_skipped all_skipped all_done_min_one_success all_done_setup_success""".split()  # noqa: SIM905 - easier to read
# A task waits, runs, or has ended: with success, as failed, as skipped (without having run, or by itself), as upstream_failed. A
# guard with on_failure="skip_downstream" that does not pass is a success to Airflow, and here it is a REFUSED.
WAITS, RUNS, SUCCESS, FAILED, SKIPPED, SKIPPED_ITSELF, UPSTREAM_FAILED, REFUSED = "-rsfkKux"
RAN = frozenset((SUCCESS, FAILED, SKIPPED_ITSELF, REFUSED))
World = dict[str, str]


def worlds(pipeline: Pipeline) -> Iterator[World]:
    """Yield every way in which the tasks can end."""
    names = list(pipeline.nodes)
    place = {name: number for number, name in enumerate(names)}
    start = WAITS * len(names)
    seen, waiting = {start}, [start]
    while waiting:
        current = waiting.pop()
        following = list(_steps(pipeline, names, place, current))
        if not following:
            yield dict(zip(names, current, strict=True))
        for state in following:
            if state not in seen:
                seen.add(state)
                waiting.append(state)


def _steps(pipeline: Pipeline, names: list[str], place: Mapping[str, int], state: str) -> Iterator[str]:
    for number, name in enumerate(names):
        node = pipeline.nodes[name]
        if state[number] == WAITS:
            new = evaluated(node.rule, [state[place[other]] for other in node.upstream])
            if node.rule != "always":
                new = held(new, [state[place[other]] for other in _setups(pipeline, name)])
            if new != WAITS:
                yield state[:number] + new + state[number + 1 :]
        elif state[number] == RUNS:
            for end in _ends(node):
                ended = state[:number] + end + state[number + 1 :]
                if end == REFUSED:
                    below = [other for other in pipeline.below(name) if pipeline.nodes[other].rule != "always"]
                    yield _skipped(ended, [place[other] for other in below])
                elif node.skips and end == SUCCESS:
                    children = [place[other] for other in pipeline.downstream[name]]
                    for chosen in chain.from_iterable(combinations(children, size) for size in range(len(children) + 1)):
                        yield _skipped(ended, chosen)
                else:
                    yield ended


def _setups(pipeline: Pipeline, name: str) -> list[str]:
    """The setups above a task that it does not follow directly and in whose scope it is."""
    if pipeline.nodes[name].kind is Kind.TEARDOWN:
        return []
    found = []
    for setup in pipeline.above(name) - set(pipeline.nodes[name].upstream):
        teardowns = {other for other in pipeline.downstream[setup] if pipeline.nodes[other].kind is Kind.TEARDOWN}
        if pipeline.nodes[setup].kind is Kind.SETUP and (not teardowns or teardowns & pipeline.below(name)):
            found.append(setup)
    return found


def held(new: str, setups: list[str]) -> str:
    """What becomes of a task for the sake of its setups, which all have to succeed before it runs."""
    if any(one in (FAILED, UPSTREAM_FAILED) for one in setups):
        return UPSTREAM_FAILED
    if any(one in (SKIPPED, SKIPPED_ITSELF) for one in setups):
        return SKIPPED
    return WAITS if new == RUNS and any(one != SUCCESS for one in setups) else new


def _ends(node: Node) -> str:
    if node.kind is Kind.EMPTY:
        return SUCCESS
    if node.kind is Kind.GUARD:
        return SUCCESS + FAILED + (SKIPPED_ITSELF + REFUSED if node.may_skip else "")
    return SUCCESS + FAILED + SKIPPED_ITSELF


def _skipped(state: str, places: Iterator[int] | list[int] | tuple[int, ...]) -> str:
    """What runs or has run stays as it is; what has not is skipped, also where it was upstream_failed already."""
    found = list(state)
    for place in places:
        if found[place] in (WAITS, UPSTREAM_FAILED):
            found[place] = SKIPPED
    return "".join(found)


def evaluated(rule: str, above: list[str]) -> str:
    """What becomes of a task that waits when the scheduler looks at it."""
    success = sum(one in (SUCCESS, REFUSED) for one in above)
    skipped = sum(one in (SKIPPED, SKIPPED_ITSELF) for one in above)
    failed = sum(one == FAILED for one in above)
    bad = failed + sum(one == UPSTREAM_FAILED for one in above)
    every = len(above)
    done = success + skipped + bad == every
    if not above or rule == "always":
        return RUNS
    match rule:
        case "all_success":
            return UPSTREAM_FAILED if bad else SKIPPED if skipped else RUNS if done else WAITS
        case "all_failed":
            return SKIPPED if success or skipped else RUNS if done else WAITS
        case "one_success":
            return RUNS if success else WAITS if not done else SKIPPED if skipped == every else UPSTREAM_FAILED
        case "one_failed":
            return RUNS if bad else SKIPPED if done else WAITS
        case "one_done":
            return RUNS if success or failed else SKIPPED if done else WAITS
        case "none_failed":
            return UPSTREAM_FAILED if bad else RUNS if done else WAITS
        case "none_failed_min_one_success":
            return UPSTREAM_FAILED if bad else SKIPPED if skipped == every else RUNS if done else WAITS
        case "none_skipped":
            return SKIPPED if skipped else RUNS if done else WAITS
        case "all_skipped":
            return SKIPPED if success or bad else RUNS if done else WAITS
        case "all_done_min_one_success":
            return SKIPPED if skipped else WAITS if not done else RUNS if success else UPSTREAM_FAILED
        case "all_done" | "all_done_setup_success":  # the latter without a setup among them
            return RUNS if done else WAITS
    raise AssertionError(rule)
