"""The form of a plan: what may stand where, told with the place of each fault; and plans that are signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any, Literal

from airflow_pipesec.errors import EvidenceError, PlanError, PolicyError
from airflow_pipesec.findings import printable

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_pipesec.signing import Signer, TrustedKeys

__all__ = ["NotPlain", "faults_of", "model", "opened", "plain", "sealed_plan"]

SIGNED_TYPE = "application/vnd.airflow-pipesec.plan"
DEEPEST = 32
Path = tuple[int | str, ...]
TEXTS = {
    "version": "the version of this form: 1.",
    "name": "a word that the ids of the plan's guards begin with, so that two plans do not meet.",
    "mode": "what becomes of a DAG that lacks guards: `enforce` refuses it, `weave` adds them, `report` logs it. Of several that "
    "apply the strictest counts. `secure()` adds them in any mode.",
    "unmatched": "what becomes of a DAG that no entry of `dags` means: `refuse` (the default in mode `enforce`) or `allow`.",
    "policy": "the policy of all guards that are not given their own: a mapping, or the path of a file. Of the waivers of a "
    "mapping a release gate gets only those that it takes.",
    "vars": "values for the places `${name}` in parameters. `${stage}`, `${stage_name}` (without its TaskGroup), `${dag_id}` and "
    "`${environment}` are always there; `$${` stands for `${`.",
    "defaults": 'parameters by guard: those of `"*"` for every guard, those of a guard\'s name for it. What a guard is given '
    "itself goes first.",
    "sets": "lists of guards by name, for `use`.",
    "stages": "the rules: which tasks are stages, and the guards of each. Several may mean one task.",
    "environments": "by name, what is different there: the same keys, laid over the plan's. `[pipesec] environment` says which.",
    "dags": "which DAGs the plan is for, and what is particular to them. Without it, for every DAG that it is given to.",
    "task": "task ids or globs (`*` also matches the dot of a TaskGroup). One or a list.",
    "tag": "tags of the DAG, or globs. One or a list.",
    "operator": "class names, with or without module; a task whose class derives from one of them is meant too, but "
    "with `exempt` only that very class. One or a list.",
    "but_not": "task ids or globs that are not meant after all.",
    "before": "the guards that stand before the task, in order.",
    "after": "the guards that stand after the task, in order.",
    "exempt": "the reason why what is meant here needs no guards.",
    "optional": "let the rule mean no task at all. Otherwise that is an error.",
    "dag_id": "DAG ids or globs. One or a list.",
    "bundle": "names of DAG bundles, or globs: the one thing that the author of a DAG cannot choose.",
    "guard": "the guard: a class of `airflow_pipesec.operators` or `airflow_pipesec.sensors`, or `package.module.Class`.",
    "id": "what the guard is called; its class unless given. Its task id is `before_STAGE.ID` or `after_STAGE.ID`.",
    "use": "the name of a set, whose guards stand here.",
}


@cache
def model() -> type[BaseModel]:
    """Return the form as a pydantic model. Guards' parameters are looked at by who knows the guards."""
    from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

    from airflow_pipesec.policy import Policy

    def listed(value: object) -> object:
        return [value] if isinstance(value, str) else value

    # Not called policy: pydantic looks its name up in the class, where that is a member.
    def policed(value: object) -> object:
        if isinstance(value, Mapping):
            try:
                Policy.load(value)
            except PolicyError as error:
                raise ValueError(str(error)) from None
        elif not isinstance(value, str) or not value:
            raise ValueError("must be a policy, or the path of one")
        return value

    def number(value: object) -> object:
        if type(value) is not int:  # true and 1.0 equal it
            raise ValueError("must be 1")
        return value

    text = Annotated[str, Field(min_length=1, pattern=r"\S")]
    word = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    names = Annotated[list[text], BeforeValidator(listed), Field(min_length=1)]
    form = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    def member(key: str, **more: Any) -> Any:
        return Field(default=None, description=TEXTS[key], **more)

    class Item(BaseModel):
        model_config = ConfigDict(extra="allow", strict=True)
        guard: text | None = member("guard")
        id: Annotated[str, Field(pattern=r"^[\w$][\w.${}-]{0,199}$")] | None = member("id")
        use: text | None = member("use")

        @model_validator(mode="after")
        def one_of(self) -> Item:
            if (self.guard is None) == (self.use is None):
                raise ValueError("give guard: with its parameters, or use: with the name of a set")
            if self.use is not None and (self.id is not None or self.model_extra):
                raise ValueError("use: stands alone: the guards of a set have their own parameters")
            return self

    def no_set(item: Item) -> Item:
        if item.use is not None:
            raise ValueError("a set holds guards, and no other set")
        return item

    class Stage(BaseModel):
        model_config = form
        task: names | None = member("task")
        operator: names | None = member("operator")
        tag: names | None = member("tag")
        but_not: names | None = member("but_not")
        before: list[Item] | None = member("before")
        after: list[Item] | None = member("after")
        exempt: text | None = member("exempt")
        optional: bool | None = member("optional")
        vars: dict[name, Any] | None = member("vars")

        @model_validator(mode="after")
        def sensible(self) -> Stage:
            if self.task is None and self.operator is None and self.tag is None:
                raise ValueError('say which tasks are meant: task:, operator: or tag:. All of them are task: "*"')
            if self.exempt is not None and (self.before or self.after):
                raise ValueError("exempt: and guards exclude each other")
            if self.exempt is not None and self.tag is not None:
                raise ValueError("a tag is for the DAG's author to give and to take: it exempts nothing")
            if self.exempt is not None and any("." not in one for one in self.operator or ()):
                raise ValueError("anybody can call a class so: what is exempt by operator: is named with its module")
            if self.exempt is None and not self.before and not self.after:
                raise ValueError("give before: or after: a guard, or exempt: a reason")
            return self

    class Part(BaseModel):
        model_config = form
        policy: Annotated[Any, BeforeValidator(policed)] = Field(default=None, description=TEXTS["policy"])
        vars: dict[name, Any] | None = member("vars")
        defaults: dict[text, dict[str, Any]] | None = member("defaults")
        sets: dict[word, list[Annotated[Item, AfterValidator(no_set)]]] | None = member("sets")
        stages: list[Stage] | None = member("stages")

    modes = Literal["enforce", "weave", "report"]

    class Environment(Part):
        mode: modes | None = member("mode")

    class Dags(Part):
        dag_id: names | None = member("dag_id")
        tag: names | None = member("tag")
        bundle: names | None = member("bundle")
        mode: modes | None = member("mode")
        exempt: text | None = member("exempt")

        @model_validator(mode="after")
        def sensible(self) -> Dags:
            own = {key for key in ("policy", "vars", "defaults", "sets", "exempt") if getattr(self, key) is not None}
            if self.dag_id is None and self.tag is None and self.bundle is None:
                raise ValueError('say which DAGs are meant: dag_id:, tag: or bundle:. All of them are dag_id: "*"')
            if any(stage.exempt for stage in self.stages or ()):
                own.add("exempt")
            if own and self.tag is not None:
                raise ValueError(f"a tag is for the DAG's author to give and to take: with tag: there is no {sorted(own)[0]}:")
            if self.exempt is not None and (self.stages or self.mode):
                raise ValueError("exempt: excludes stages: and mode:")
            return self

    class Root(Part):
        version: Annotated[Literal[1], BeforeValidator(number)] = Field(description=TEXTS["version"])
        name: word | None = member("name")
        mode: modes | None = member("mode")
        unmatched: Literal["refuse", "allow"] | None = member("unmatched")
        environments: dict[word, Environment] | None = member("environments")
        dags: list[Dags] | None = member("dags")

        @model_validator(mode="after")
        def sensible(self) -> Root:
            if self.unmatched is not None and not self.dags:
                raise ValueError("unmatched: speaks of DAGs that no entry of dags: means, and there is no dags:")
            parts = [self, *(self.environments or {}).values(), *(self.dags or ())]
            if not any(part.stages or getattr(part, "exempt", None) for part in parts):
                raise ValueError("there are no stages: the plan demands nothing")
            return self

    return Root


def faults_of(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the form of a plan, and where. No value is quoted, only keys."""
    from pydantic import ValidationError

    try:
        plain(document)
    except NotPlain as refused:
        yield refused.path, f"{refused}."
        return
    try:
        model().model_validate(dict(document))
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            path = tuple(part for part in fault["loc"] if part != "[key]")
            if fault["type"] == "extra_forbidden":
                near = get_close_matches(str(path[-1]), TEXTS, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                yield path, f"unknown key.{hint}"
            else:
                yield path, f"{fault['msg'].removeprefix('Value error, ').rstrip('.')}."


class NotPlain(PlanError):
    """What a document holds that is no data, and where."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


def plain(part: Any, path: Path = ()) -> Any:
    """Return a copy of a document in the types that JSON has; a day becomes its text. Raises :class:`PlanError` for others."""
    if len(path) > DEEPEST:
        raise NotPlain(path[:DEEPEST], f"is nested deeper than {DEEPEST} levels")
    if isinstance(part, Mapping):
        for key in part:
            if not isinstance(key, str):
                raise NotPlain(path, "has a key that is not text")
        return {key: plain(value, (*path, key)) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [plain(value, (*path, number)) for number, value in enumerate(part)]
    if isinstance(part, date) and not isinstance(part, datetime):
        return part.isoformat()
    if isinstance(part, float) and not isfinite(part):
        raise NotPlain(path, "is no number")
    if part is None or isinstance(part, str | bool | int | float):
        return part
    raise NotPlain(path, f"is a {type(part).__name__}, and a plan is data: text, numbers, lists and mappings")


def sealed_plan(content: bytes, where: str, signer: Signer) -> bytes:
    """Return a plan in a signed envelope (DSSE v1). Raises :class:`PlanError` where it is no plan."""
    from airflow_pipesec.attestation import sealed
    from airflow_pipesec.plan import Plan

    Plan.read(content, where)
    return sealed(content, SIGNED_TYPE, signer)


def opened(raw: bytes, where: str, trusted: TrustedKeys | None) -> tuple[bytes, str | None]:
    """Return the YAML of a plan, out of its envelope if it is in one, and the name of the key that signed it.

    Raises :class:`PlanError` where a signature is demanded and is none of a trusted key that is valid now. Where none is
    demanded, a signature is not looked at.
    """
    from airflow_pipesec.attestation import unsealed
    from airflow_pipesec.documents import strict_base64, strict_json

    if not raw.startswith(b'{"payload":'):
        if trusted is not None:
            raise PlanError(f"{where} is not signed, and has to be. Sign it with `pipesec plan --sign KEY`.")
        return raw, None
    try:
        if trusted is None:
            outer = strict_json(raw, "the envelope")
            return strict_base64(outer.get("payload"), "the payload"), None
        payload, key = unsealed(raw, trusted, SIGNED_TYPE)
    except EvidenceError as error:
        raise PlanError(f"{where} is not believed: {error}. Sign it again with a key that is trusted for plans.") from None
    if problem := key.fault(datetime.now(UTC)):
        raise PlanError(f"{where} is not believed: {printable(problem)}. Sign it again with a key that is trusted for plans.")
    return payload, key.name
