"""Plans: which guards stand before and after which stages, as data that a security team can own.

A plan knows nothing of Airflow: it is asked what it demands of a DAG's tasks, and :mod:`airflow_pipesec.weave` does it. The form
is in docs/plan.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

from airflow_pipesec.documents import place_in_yaml, strict_yaml
from airflow_pipesec.errors import PlanError
from airflow_pipesec.findings import escaped, printable

if TYPE_CHECKING:
    from airflow_pipesec.signing import TrustedKeys

__all__ = ["Demand", "Effective", "Facts", "Mode", "Plan", "Rule", "Spec", "Task", "shown_place"]

MAX_PLAN_BYTES = 1 << 20
_GLOB = re.compile(r"[*?\[]")
_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_FAULTS_SHOWN = 5
Path = tuple[int | str, ...]


class Mode(StrEnum):
    """What becomes of a DAG that lacks guards: it is refused, they are added, or it is told. The strictest comes first."""

    ENFORCE = "enforce"
    WEAVE = "weave"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Spec:
    """A guard as the plan has it: its name, its id if it gives one, its parameters, and where in the plan it stands."""

    guard: str
    id: str | None
    parameters: Mapping[str, Any]
    path: Path


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tasks are meant, and the guards before and after each, or the reason why those tasks are no stages."""

    task: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    but_not: tuple[str, ...] = ()
    before: tuple[Spec, ...] = ()
    after: tuple[Spec, ...] = ()
    exempt: str | None = None
    optional: bool = False
    vars: Mapping[str, Any] = field(default_factory=dict)
    path: Path = ()

    def names(self, task_id: str) -> bool:
        """Whether the rule names that very task."""
        return task_id in self.task

    def fits(self, task: Task, tags: Sequence[str]) -> bool:
        """Whether the rule means that task.

        What only exempts means a class itself, and none that derives from it: anybody can derive one.
        """
        classes = task.classes if self.exempt is None else (task.itself,)
        return (
            (not self.task or _any_glob(self.task, task.id))
            and (not self.operator or any(name in classes for name in self.operator))
            and (not self.tag or any(_any_glob(self.tag, tag) for tag in tags))
            and not _any_glob(self.but_not, task.id)
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What a plan is told of a task: its id, and the names, with and without module, of its class and of those it derives from.

    ``itself`` is its own class with the module, where it can be found there under that name. ``named_only`` says that a glob or a
    class does not mean it: only its own id does.
    """

    id: str
    classes: frozenset[str] = frozenset()
    itself: str = ""
    named_only: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan is told of a DAG. What an author writes (id, tags) an author can choose; a bundle is given by who deploys."""

    dag_id: str
    tags: Sequence[str] = ()
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """One guard at one stage: ``side`` is ``before`` or ``after``; the parameters have their values."""

    stage: str
    side: str
    spec: Spec
    id: str | None
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Effective:
    """What of a plan applies to one DAG."""

    plan: Plan
    facts: Facts
    environment: str | None
    mode: Mode
    exempt: str | None = None
    policy: Mapping[str, Any] | str | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sets: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def demands(self, tasks: Sequence[Task]) -> tuple[list[Demand], dict[str, str]]:
        """Return the guards that the plan demands for these tasks, in the tasks' order, and the tasks that are exempt, with why.

        Raises :class:`PlanError` where a rule means no task at all, unless it is optional, or needs a value that nothing gives.
        """
        met: set[int] = set()
        exempt: dict[str, str] = {}
        found: list[Demand] = []
        for task in tasks:
            rules = []
            for number, rule in enumerate(self.rules):
                if (not task.named_only or rule.exempt or rule.names(task.id)) and rule.fits(task, self.facts.tags):
                    met.add(number)
                    rules.append(rule)
            reasons = [rule.exempt for rule in rules if rule.exempt]
            if reasons:
                exempt[task.id] = reasons[0]
            else:
                found += self._at(task, rules)
        for number, rule in enumerate(self.rules):
            if number not in met and not rule.optional:
                raise self.plan.fault(rule.path, self._unmet(rule, tasks))
        return found, exempt

    def _at(self, task: Task, rules: Sequence[Rule]) -> Iterator[Demand]:
        for side in ("before", "after"):
            seen: list[tuple[str, str | None, Any]] = []
            for rule in rules:
                values = {**self.vars, **rule.vars} | self._given(task)
                for spec in rule.before if side == "before" else rule.after:
                    for one in self._unfolded(spec):
                        filled = {name: self._filled(value, values, one.path) for name, value in self._with_defaults(one).items()}
                        name = None if one.id is None else self._filled(one.id, values, one.path)
                        if (one.guard, name, filled) not in seen:  # two rules may ask for the same guard
                            seen.append((one.guard, name, filled))
                            yield Demand(task.id, side, one, name, filled)

    def _given(self, task: Task) -> dict[str, Any]:
        return {
            "stage": task.id,
            "stage_name": task.id.rpartition(".")[2],
            "dag_id": self.facts.dag_id,
            "environment": self.environment or "",
        }

    def _unfolded(self, spec: Spec) -> Iterable[Spec]:
        """The guard itself, or those of the set that is used."""
        return self.sets[spec.parameters["use"]] if spec.guard == "use" else (spec,)

    def _with_defaults(self, spec: Spec) -> Mapping[str, Any]:
        policy = {} if self.policy is None else {"policy": self.policy}
        return {**policy, **self.defaults.get("*", {}), **self.defaults.get(spec.guard, {}), **spec.parameters}

    def _filled(self, value: Any, values: Mapping[str, Any], path: Path) -> Any:
        """Put values into the places that a plan leaves open: ``${name}``; ``$${`` is ``${`` itself."""
        if isinstance(value, str):
            if "${" not in value:
                return value
            if (whole := _PLACEHOLDER.fullmatch(value)) and whole[1] is not None:
                return deepcopy(self._value(whole[1], values, path))  # no two guards share what can be changed
            return _PLACEHOLDER.sub(lambda found: "${" if found[1] is None else self._text(found[1], values, path), value)
        if isinstance(value, Mapping):
            return {self._key(name, values, path): self._filled(item, values, path) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._filled(item, values, path) for item in value]
        return value

    def _key(self, name: str, values: Mapping[str, Any], path: Path) -> str:
        key = self._filled(name, values, path)
        if not isinstance(key, str):
            raise self.plan.fault(path, "a key is filled with what is no text. Give it a text under vars:.")
        return key

    def _value(self, name: str, values: Mapping[str, Any], path: Path) -> Any:
        if name in values:
            return values[name]
        near = get_close_matches(name, values, n=1)
        hint = f"Did you mean ${{{near[0]}}}?" if near else "Give it under vars:."
        raise self.plan.fault(path, f"nothing gives ${{{printable(name)}}} a value. {hint}")

    def _text(self, name: str, values: Mapping[str, Any], path: Path) -> str:
        value = self._value(name, values, path)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self.plan.fault(path, f"${{{printable(name)}}} is no text, and stands within one. Let it stand alone.")
        return str(value)

    def _unmet(self, rule: Rule, tasks: Sequence[Task]) -> str:
        wanted = ", ".join(printable(name) for name in (*rule.task, *rule.operator, *rule.tag))
        names = [task.id for task in tasks]
        if len(rule.task) == 1 and not rule.operator and not _GLOB.search(rule.task[0]):
            near = get_close_matches(rule.task[0], names, n=1)
            if near:
                return f"DAG {printable(self.facts.dag_id)} has no task {wanted}. Did you mean {printable(near[0])}?"
        return (
            f"no task of DAG {printable(self.facts.dag_id)} is meant by {wanted}. It has {_listed(names)}. Mend the rule, or say "
            "optional: true where that is right."
        )


@dataclass(frozen=True)
class Plan:
    """A plan as it was read. Where it came from is for messages, and so are the bytes."""

    where: str
    document: Mapping[str, Any]
    raw: bytes | None = None
    signed_by: str | None = None

    @classmethod
    def load(
        cls,
        source: str | PathLike[str] | Mapping[str, Any] | Plan,
        *,
        beside: str | None = None,
        trusted: TrustedKeys | None = None,
    ) -> Plan:
        """Read a plan from a YAML file, a URL, what :func:`~airflow_pipesec.plan_form.sealed_plan` made of one, or a mapping.

        :param beside: the folder that a relative path is looked for in; the current one unless given.
        :param trusted: demand that the plan is signed by one of these keys.

        The form is strict: an unknown key, a key given twice, a value of the wrong type raises :class:`PlanError` that names line
        and column. What cannot be read raises it too.
        """
        if isinstance(source, Plan):
            return source
        if isinstance(source, Mapping):
            if trusted is not None:
                raise PlanError("a plan that has to be signed is no mapping. Give the file that `pipesec plan --sign` wrote.")
            from airflow_pipesec.plan_form import NotPlain, plain

            try:
                document = plain(source)
            except NotPlain as error:
                raise cls("plan", {}).fault(error.path, f"{error}.") from None
            return cls("plan", document)._checked()
        if not isinstance(source, str | PathLike) or not str(source) or "\0" in str(source):
            raise PlanError(f"a plan is no {type(source).__name__}. Give the path of a YAML file, or a mapping.")
        place = os.fspath(source)
        if "://" not in place:
            place = os.path.join(beside or "", place)  # noqa: PTH118 - as text, for the messages
        return cls.read(_bytes_at(place), f"plan {shown_place(place)}", trusted=trusted)

    @classmethod
    def read(cls, raw: bytes, where: str, *, trusted: TrustedKeys | None = None) -> Plan:
        """Read a plan from its bytes; ``where`` names it in messages."""
        from airflow_pipesec.plan_form import opened

        content, key = opened(raw, where, trusted)
        document = strict_yaml(content, where, PlanError)
        if not isinstance(document, Mapping):
            raise PlanError(f"{where} holds no mapping. It starts with version: 1 and stages:. See docs/plan.md.")
        return cls(where, document, content, key)._checked()

    def _checked(self) -> Plan:
        from airflow_pipesec.plan_form import faults_of

        faults = list(faults_of(self.document))
        if faults:
            shown = [f"{self._place(path)}{text}" for path, text in faults[:_FAULTS_SHOWN]]
            more = f" And {len(faults) - len(shown)} more." if len(faults) > len(shown) else ""
            raise PlanError(f"{self.where}: {' '.join(shown)}{more} See docs/plan.md for the form.")
        return self

    def fault(self, path: Path, text: str) -> PlanError:
        """Return the error for a place of the plan."""
        return PlanError(f"{self.where}: {self._place(path)}{text}")

    def _place(self, path: Path) -> str:
        named = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in path).removeprefix(".")
        mark = place_in_yaml(self.raw, path) if self.raw is not None else None
        place = "" if mark is None else f"line {mark[0]}, column {mark[1]}"
        parts = [part for part in (place, named) if part]
        return f"{', '.join(parts)}: " if parts else ""

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of what the plan says, however it is written: of its document as JSON with sorted keys."""
        written = json.dumps(self.document, sort_keys=True, default=str)
        return hashlib.sha256(written.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The plan's name, which its groups of guards begin with; empty unless it has one."""
        return str(self.document.get("name") or "")

    def refuses_unmatched(self, mode: Mode) -> bool:
        """Whether a DAG that no entry of ``dags`` means is refused, in the mode that counts."""
        given = self.document.get("unmatched")
        return (mode is Mode.ENFORCE) if given is None else given == "refuse"

    def mode(self, environment: str | None) -> Mode:
        """Return the plan's mode where no entry says otherwise."""
        found = self.document.get("mode") or Mode.ENFORCE
        overlay = (self.document.get("environments") or {}).get(environment or "") or {}
        return Mode(overlay.get("mode") or found)

    def _mode_of(self, entries: Iterable[Mapping[str, Any]], environment: str | None) -> Mode:
        """The strictest mode of the entries that mean a DAG; one that goes by a tag can only make it stricter."""
        given = [(Mode(entry["mode"]), not entry.get("tag")) for entry in entries if entry.get("mode")]
        modes = [mode for mode, sure in given if sure] or [self.mode(environment)]
        return min([*modes, *(mode for mode, sure in given if not sure)], key=list(Mode).index)

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """Every guard of the plan, wherever it stands."""
        found: list[Spec] = []
        for path, part in self.parts():
            for number, rule in enumerate(part.get("stages") or ()):
                one = _rule(rule, (*path, "stages", number))
                found += [spec for spec in (*one.before, *one.after) if spec.guard != "use"]
            for name, items in (part.get("sets") or {}).items():
                found += _specs(items, (*path, "sets", name))
        return tuple(found)

    def defaults(self) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
        """Yield the default parameters of each guard, wherever they stand."""
        for path, part in self.parts():
            for name, given in (part.get("defaults") or {}).items():
                yield (*path, "defaults", name), name, given

    def parts(self) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        """Yield what may have stages, values, defaults and sets, with its place: the plan, its environments, its entries."""
        yield (), self.document
        for name, part in (self.document.get("environments") or {}).items():
            yield ("environments", name), part
        for number, part in enumerate(self.document.get("dags") or ()):
            yield ("dags", number), part

    def for_dag(self, facts: Facts, *, environment: str | None = None) -> Effective | None:
        """Return what applies to a DAG; None when the plan has entries for DAGs and none means this one.

        Raises :class:`PlanError` for an environment that the plan does not know.
        """
        parts: list[tuple[Path, Mapping[str, Any]]] = [((), self.document)]
        known = self.document.get("environments") or {}
        if environment:
            if environment not in known:
                near = get_close_matches(environment, known, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known) or 'none'}."
                raise PlanError(f"{self.where} has no environment {printable(environment)}. {hint}")
            parts.append((("environments", environment), known[environment]))
        entries = self.document.get("dags")
        matching = [(("dags", number), entry) for number, entry in enumerate(entries or ()) if _means(entry, facts)]
        if entries and not matching:
            return None
        exempt = [entry["exempt"] for _, entry in matching if entry.get("exempt")]
        mode = self._mode_of([entry for _, entry in matching], environment)
        found = Effective(self, facts, environment, mode, exempt[0] if exempt else None)
        for path, part in (*parts, *matching):
            found = _with(found, part, path)
        unknown = [spec for rule in found.rules for spec in (*rule.before, *rule.after) if spec.guard == "use"]
        for spec in unknown:
            if (name := spec.parameters["use"]) not in found.sets:
                near = get_close_matches(name, found.sets, n=1)
                hint = f"Did you mean {near[0]}?" if near else "Define it under sets:."
                raise self.fault(spec.path, f"there is no set {printable(name)}. {hint}")
        return found


def _with(found: Effective, part: Mapping[str, Any], path: Path) -> Effective:
    defaults = dict(found.defaults)
    for name, given in (part.get("defaults") or {}).items():
        defaults[name] = {**defaults.get(name, {}), **given}
    sets = {name: _specs(items, (*path, "sets", name)) for name, items in (part.get("sets") or {}).items()}
    rules = [_rule(rule, (*path, "stages", number)) for number, rule in enumerate(part.get("stages") or ())]
    policy = part.get("policy")
    return replace(
        found,
        policy=found.policy if policy is None else policy,
        vars={**found.vars, **(part.get("vars") or {})},
        defaults=defaults,
        sets={**found.sets, **sets},
        rules=(*found.rules, *rules),
    )


def _rule(document: Mapping[str, Any], path: Path) -> Rule:
    return Rule(
        task=_several(document.get("task")),
        tag=_several(document.get("tag")),
        operator=_several(document.get("operator")),
        but_not=_several(document.get("but_not")),
        before=_specs(document.get("before") or (), (*path, "before")),
        after=_specs(document.get("after") or (), (*path, "after")),
        exempt=document.get("exempt"),
        optional=bool(document.get("optional")),
        vars=document.get("vars") or {},
        path=path,
    )


def _specs(items: Iterable[Mapping[str, Any]], path: Path) -> tuple[Spec, ...]:
    found = []
    for number, item in enumerate(items):
        if item.get("use") is not None:
            found.append(Spec("use", None, {"use": item["use"]}, (*path, number)))
        else:
            given = {name: value for name, value in item.items() if name not in ("guard", "id", "use")}
            found.append(Spec(item["guard"], item.get("id"), given, (*path, number)))
    return tuple(found)


def _several(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _any_glob(globs: Iterable[str], name: str) -> bool:
    return any(name == one or fnmatchcase(name, one) for one in globs)


def _means(entry: Mapping[str, Any], facts: Facts) -> bool:
    """Whether an entry of ``dags`` means a DAG: everything that it names has to fit."""
    dag_ids, tags, bundles = (_several(entry.get(key)) for key in ("dag_id", "tag", "bundle"))
    return (
        (not dag_ids or _any_glob(dag_ids, facts.dag_id))
        and (not tags or any(_any_glob(tags, tag) for tag in facts.tags))
        and (not bundles or (facts.bundle is not None and _any_glob(bundles, facts.bundle)))
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "no task"


def shown_place(url: str) -> str:
    """Return the place of a plan without what opens it: a signature after a "?", a password before an "@"."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return escaped(url)
    host, slash, path = rest.partition("?")[0].partition("/")
    return escaped(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def _bytes_at(place: str) -> bytes:
    from airflow_pipesec.errors import PipesecError
    from airflow_pipesec.storage import open_store

    try:
        return open_store(place).read(limit=MAX_PLAN_BYTES)
    except PipesecError as error:
        raise PlanError(f"plan {shown_place(place)} cannot be read: {error}") from None
