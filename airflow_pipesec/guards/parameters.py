"""Guards by name: what a plan may say of each, checked by the guard's own signature, and the task made of it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from airflow.sdk import BaseSensorOperator

from airflow_pipesec import operators, sensors
from airflow_pipesec.errors import PlanError, PolicyError, place_of
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor
from airflow_pipesec.policy import Policy

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from pydantic import BaseModel

    from airflow_pipesec.plan import Plan

__all__ = [
    "Maker",
    "Parameter",
    "checked",
    "default_id",
    "demand_guards",
    "demand_names",
    "functions",
    "guard_class",
    "guard_names",
    "parameters",
]

# What every Airflow task has and a plan may set, with the type that a plan writes it in. None of them makes a guard weaker.
BASE: dict[str, tuple[Any, str]] = {
    "owner": (str, "who owns the task, for Airflow's lists."),
    "queue": (str, "the queue whose workers run the guard."),
    "pool": (str, "the pool in which the guard takes a slot."),
    "pool_slots": (int, "how many slots of the pool it takes."),
    "priority_weight": (int, "its weight against other tasks of the pool."),
    "executor": (str, "the executor that runs it."),
    "retries": (int, "how often it is tried again after trouble; never after a verdict of FAILED."),
    "retry_delay": (float, "seconds between two tries."),
    "execution_timeout": (float, "seconds after which a try is broken off, and fails."),
    "doc_md": (str, "what the UI says of it, in Markdown."),
}
SENSOR: dict[str, tuple[Any, str]] = {
    "poke_interval": (float, "seconds between two looks."),
    "timeout": (float, "seconds after which the waiting is over, and fails."),
    "exponential_backoff": (bool, "wait longer from look to look."),
    "max_wait": (float, "the most seconds between two looks."),
}
SECONDS = {"retry_delay", "execution_timeout"}
_CHANGEABLE = (set, list, dict)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a guard in a plan: its type, what it is when not given, and what the guard's documentation says of it."""

    name: str
    hint: Any
    required: bool
    default: Any
    templated: bool
    text: str


def guard_names() -> list[str]:
    """Return the names of the guards that come with this package."""
    ours = [*operators.__all__, *sensors.__all__]
    return [name for name in ours if name not in ("GuardOperator", "GuardSensor")]


@cache
def guard_class(name: str) -> type[BaseOperator]:
    """Return the guard of that name: one of this package, or one of your own as ``package.module.Class``.

    Raises :class:`PlanError` for what there is none of, and for a class that is no guard.
    """
    if name in guard_names():
        found: Any = getattr(operators, name, None) or getattr(sensors, name)
        return found  # type: ignore[no-any-return] # each is a guard and an operator
    if not _DOTTED.fullmatch(name):
        near = get_close_matches(name, guard_names(), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(guard_names())}."
        raise PlanError(f"there is no guard {printable(name)}. {hint} One of your own is written package.module.Class.")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:
        raise PlanError(
            f"guard {printable(name)} cannot be imported ({type(error).__name__}). Mend the name or the module."
        ) from None
    if not (isinstance(found, type) and issubclass(found, (GuardOperator, GuardSensor))) or found in (GuardOperator, GuardSensor):
        raise PlanError(f"{printable(name)} is no guard. Name a subclass of GuardOperator or GuardSensor.")
    return found


@cache
def parameters(cls: type[BaseOperator]) -> Mapping[str, Parameter]:
    """Return what a plan may give to a guard, its own parameters first. A function is none of it: a plan is data."""
    found: dict[str, Parameter] = {}
    texts = _documented(cls)
    for owner in cls.__mro__:
        if not issubclass(owner, Guard) or "__init__" not in vars(owner):
            continue
        init = inspect.unwrap(vars(owner)["__init__"])
        hints = get_type_hints(init)
        for name, one in inspect.signature(init).parameters.items():
            if one.kind is not one.KEYWORD_ONLY or name in found or name in BASE or _is_function(hints.get(name, Any)):
                continue
            required = one.default is one.empty
            default = None if required else one.default
            templated = name in cls.template_fields
            found[name] = Parameter(name, hints.get(name, Any), required, default, templated, texts.get(name, ""))
    for name, (hint, text) in (BASE | SENSOR if issubclass(cls, BaseSensorOperator) else BASE).items():
        found.setdefault(name, Parameter(name, hint, False, None, name in cls.template_fields, text))
    return found


def functions(cls: type[BaseOperator]) -> set[str]:
    """Return the parameters of a guard that take a function."""
    every = {
        name
        for owner in cls.__mro__
        if issubclass(owner, Guard) and "__init__" in vars(owner)
        for name, one in inspect.signature(inspect.unwrap(vars(owner)["__init__"])).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    return every - parameters(cls).keys()


def _is_function(hint: Any) -> bool:
    return get_origin(hint) is Callable or any(map(_is_function, get_args(hint)))


def _documented(cls: type) -> dict[str, str]:
    """The texts after ``:param name:`` in the docstrings of a guard and its bases."""
    found: dict[str, str] = {}
    for owner in cls.__mro__:
        if not owner.__module__.startswith("airflow."):
            for name, text in re.findall(r":param (\w+):\s*(.*?)(?=\n\s*\n|\n\s*:param |\Z)", owner.__doc__ or "", re.DOTALL):
                found.setdefault(name, " ".join(text.split()))
    return found


@cache
def _model(cls: type[BaseOperator]) -> type[BaseModel]:
    from pydantic import ConfigDict, create_model

    fields: dict[str, Any] = {
        one.name: (_as_written(one.hint), ...) if one.required else (_as_written(one.hint | None), None)
        for one in parameters(cls).values()
    }
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields)


def _as_written(hint: Any) -> Any:
    """The type as a plan writes it: what is a tuple to the guard is a list there."""
    from pydantic import Strict

    if get_origin(hint) is tuple:
        return Annotated[hint, Strict(False)]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_as_written, get_args(hint)))]  # noqa: UP007 - of parts that are only known now
    return hint


def checked(cls: type[BaseOperator], given: Mapping[str, Any]) -> None:
    """Raise :class:`PlanError` where a guard does not take what it is given. No value is quoted."""
    from pydantic import ValidationError

    demand_names(cls, given)
    try:
        _model(cls).model_validate(dict(given))
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        missing = [str(fault["loc"][0]) for fault in faults if fault["type"] == "missing"]
        if missing:
            raise PlanError(f"{cls.__name__} lacks {', '.join(missing)}. Give it.") from None
        fault = faults[0]
        raise PlanError(f"{fault['loc'][0]} of {cls.__name__} is not right: {fault['msg']}.") from None
    policy = given.get("policy")
    if isinstance(policy, Mapping) and "{{" not in repr(policy):
        try:
            Policy.load(policy)
        except PolicyError as error:
            raise PlanError(str(error)) from None


def demand_guards(plan: Plan) -> None:
    """Raise :class:`PlanError` where a plan names a guard or a parameter that there is none of, used or not."""
    for spec in plan.specs:
        with _at(plan, spec.path):
            demand_names(guard_class(spec.guard), spec.parameters)
    named = {spec.guard for spec in plan.specs}
    for path, name, given in plan.defaults():
        with _at(plan, path):
            if name != "*":
                demand_names(guard_class(name), given)
            elif unknown := [one for one in given if not any(one in parameters(guard_class(guard)) for guard in named)]:
                raise PlanError(f"no guard of the plan has a parameter {printable(unknown[0])}. Mend the name, or leave it out.")


@contextmanager
def _at(plan: Plan, path: tuple[int | str, ...]) -> Iterator[None]:
    try:
        yield
    except PlanError as error:
        raise plan.fault(path, str(error)) from None


def demand_names(cls: type[BaseOperator], given: Iterable[str]) -> None:
    """Raise :class:`PlanError` for a parameter that a guard does not have."""
    known = parameters(cls)
    for name in given:
        if name in known:
            continue
        if name in functions(cls):
            raise PlanError(f"{cls.__name__} takes a function as {name}, and a plan is data. Guard with it in the DAG file.")
        near = get_close_matches(name, known, n=1)
        own = ", ".join(one for one in known if one not in BASE)
        hint = f"Did you mean {near[0]}?" if near else f"It takes {own}, and of every task {', '.join(BASE)}."
        raise PlanError(f"{cls.__name__} has no parameter {printable(name)}. {hint}")


@cache
def default_id(cls: type[BaseOperator]) -> str:
    """Return what a guard is called in a plan that gives it no id: ``HashVerificationOperator`` is ``hash_verification``."""
    name = cls.__name__.removesuffix("Operator")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Maker:
    """Makes guards of what a plan says, outside every DAG: nobody's ``default_args`` reach them.

    A constructor of Airflow's costs a tenth of a millisecond, and those of this package only assign: of several guards of one
    class with parameters of the same names, all are copies of a first with their own values assigned.
    """

    def __init__(self) -> None:
        self._patterns: dict[Any, _Pattern] = {}

    def made(self, cls: type[BaseOperator], task_id: str, given: Mapping[str, Any]) -> BaseOperator:
        """Return a guard that belongs to no DAG yet."""
        if not cls.__module__.startswith("airflow_pipesec."):
            return _constructed(cls, task_id, given)
        base = [(name, value) for name, value in given.items() if name in BASE or name in SENSOR]
        key = (cls, tuple(given), repr(base))
        if key not in self._patterns:
            self._patterns[key] = _Pattern(_constructed(cls, task_id, given))
        return self._patterns[key].copy(task_id, given)


class _Pattern:
    """A guard that others are copies of."""

    def __init__(self, first: BaseOperator) -> None:
        self.first = first
        # No two tasks share what can be changed.
        self.changeable = [name for name, value in vars(first).items() if type(value) in _CHANGEABLE]

    def copy(self, task_id: str, given: Mapping[str, Any]) -> BaseOperator:
        new = object.__new__(type(self.first))
        attributes = self.first.__dict__.copy()
        for name in self.changeable:
            attributes[name] = attributes[name].copy()
        init = attributes["_BaseOperator__init_kwargs"]
        for name, value in given.items():
            if name not in BASE and name not in SENSOR:
                init[name] = value
                attributes[name] = value.copy() if type(value) in _CHANGEABLE else value
        display = task_id.rpartition(".")[2].replace("_", " ")
        init["task_id"] = attributes["task_id"] = task_id
        init["task_display_name"] = attributes["_task_display_name"] = display
        attributes["params"] = type(self.first.params)()
        new.__dict__.update(attributes)
        return new


def _constructed(cls: type[BaseOperator], task_id: str, given: Mapping[str, Any]) -> BaseOperator:
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    arguments: dict[str, Any] = {name: timedelta(seconds=value) if name in SECONDS else value for name, value in given.items()}
    DagContext.push(None)  # type: ignore[arg-type] # as Airflow itself does where a task is to have no DAG
    try:
        return cls(task_id=task_id, task_display_name=task_id.rpartition(".")[2].replace("_", " "), **arguments)
    except Exception as error:
        # Its message may quote what was given.
        raise PlanError(
            f"guard {printable(task_id)} cannot be made of what the plan gives it: {place_of(error)}. Mend its parameters."
        ) from None
    finally:
        DagContext.pop()
