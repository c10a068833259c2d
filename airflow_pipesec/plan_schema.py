"""The form of a plan as a JSON Schema, for editors: every key, every guard of this package and every parameter, with its text.

It accepts whatever :meth:`airflow_pipesec.plan.Plan.load` and the guards' own signatures accept. It is no second reader: what
only a DAG can tell (whether there is such a task, whether ``${name}`` has a value) it does not know. In two places it is
stricter, since a plan can only be wrong there: ``defaults`` for what is no guard, and a guard's policy that is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from airflow_pipesec.findings import Severity
from airflow_pipesec.guards.parameters import BASE, SENSOR, Parameter, guard_class, guard_names, parameters
from airflow_pipesec.plan_form import TEXTS, model

__all__ = ["json_schema", "markdown"]

Schema = dict[str, Any]
DOTTED = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$"
PLACEHOLDER = r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$"
NOT_BLANK: Schema = {"type": "string", "minLength": 1, "pattern": r"\S"}
GIVEN: Schema = {"not": {"type": "null"}}
NULL: Schema = {"type": "null"}
SIDES = ("before", "after")
# The parts of a plan that are laid over it, and the keyword of JSON Schema by which each of them is meant.
PARTS = {"environments": "additionalProperties", "dags": "items"}


def json_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a plan."""
    found = model().model_json_schema()
    parts: dict[str, Schema] = found["$defs"]
    root: Schema = {key: found[key] for key in ("type", "properties", "required", "additionalProperties")}
    several = {"Stage": ("task", "operator", "tag", "but_not"), "Dags": ("dag_id", "tag", "bundle")}
    forms = _Forms()
    guards = {name: _guard(name, forms) for name in guard_names()}
    defaults = _defaults(forms)
    own_guard = _own_guard(forms)
    for name, part in {"": root, **parts}.items():
        part.pop("title", None)
        part["properties"] = {
            key: _tidied(key, one, one_or_list=key in several.get(name, ())) for key, one in part["properties"].items()
        }
        if "defaults" in part["properties"]:
            part["properties"]["policy"] = {**_policy(open_places=False), "description": markdown(TEXTS["policy"])}
            part["properties"]["defaults"] = _ref("defaults")
    parts["Guard"] = {"anyOf": [*map(_ref, guards), _ref("own_guard")]}
    parts["Item"] = {"anyOf": [_ref("Guard"), _ref("use")]}
    for part in (root, *parts.values()):
        for one in _lists_of_sets(part):
            one["items"] = _ref("Guard")  # a set does not use another
    parts["Stage"] |= _stage_rules()
    parts["Dags"] |= _dags_rules()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan of airflow-pipesec",
        "description": "Which guards stand before and after which stages of which DAGs. See docs/plan.md.",
        **root,
        **_root_rules(),
        "$defs": {
            **parts,
            "use": _use(),
            **guards,
            "own_guard": own_guard,
            "defaults": defaults,
            **forms.kept,
            "has_defaults": _has_defaults(),
            "whole": _whole(),
            "whole_item": _whole_item(),
        },
    }


def markdown(text: str) -> str:
    """Return a text of a docstring, or of the form, as Markdown that begins with a capital letter."""
    text = text.removesuffix("(templated)").rstrip().replace("``", "`")
    text = re.sub(r":meth:`(?:\w+\.)*(\w+\.\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text)
    return text[:1].upper() + text[1:]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _tidied(key: str, schema: Schema, *, one_or_list: bool) -> Schema:
    """A key as an editor shows it: pydantic's titles and nulls would hide its text."""
    alternatives = schema.get("anyOf") or [{name: value for name, value in schema.items() if name not in ("title", "default")}]
    for one in alternatives:
        one.pop("description", None)
        if "patternProperties" in one:
            one["additionalProperties"] = False
    return {**_merged([NOT_BLANK, *alternatives] if one_or_list else alternatives), "description": markdown(TEXTS[key])}


def _merged(alternatives: Iterable[Schema]) -> Schema:
    """One schema for several types, where their keywords do not meet: an error then names the place, not only "none of these"."""
    found = list(alternatives)
    keys = [key for one in found for key in one if key != "type"]
    types = [one.get("type") for one in found]
    if len(found) > 1 and (len({*keys}) < len(keys) or None in types or len({*types}) < len(types) or "enum" in keys):
        return {"anyOf": found}
    merged = {key: value for one in found for key, value in one.items()}
    return merged | {"type": types} if len(found) > 1 else merged


class _Forms:
    """The forms of parameters, each kept once: many guards share them."""

    def __init__(self) -> None:
        self.kept: dict[str, Schema] = {}

    def of(self, one: Parameter) -> Schema:
        form = _parameter(one)
        name = next(name for name in self._names(one.name) if self.kept.setdefault(name, form) == form)
        return _ref(name)

    def _names(self, name: str) -> Iterable[str]:
        return (f"parameter-{name}" + (f"-{number}" if number > 1 else "") for number in range(1, 100))


def _parameter(one: Parameter) -> Schema:
    """One parameter: its type, what it is when not given, and its text."""
    schema = _policy(open_places=True) if one.name == "policy" else _type(one.hint if one.required else one.hint | None)
    found = {**schema, "description": markdown(one.text) + (" Required, here or under `defaults`." if one.required else "")}
    if not one.required and one.name not in BASE and one.name not in SENSOR:
        found["default"] = list(one.default) if isinstance(one.default, tuple) else one.default
    return found


@cache
def _type(hint: Any) -> Schema:
    from pydantic import TypeAdapter

    return _open(TypeAdapter(hint).json_schema())


def _open(schema: Schema) -> Schema:
    """Let a placeholder stand wherever text alone does not do; where the text is one of a few, it may be a part of it."""
    alternatives = [_inside(one) for one in schema.get("anyOf", [schema])]
    if not any(not one or (one.get("type") == "string" and "enum" not in one) for one in alternatives):
        pattern = r"\$\{[^{}]*\}" if any("enum" in one for one in alternatives) else PLACEHOLDER
        alternatives.append({"type": "string", "pattern": pattern})
    return _merged(alternatives)


def _inside(schema: Schema) -> Schema:
    inner: Schema = {key: _open(schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)}
    if "prefixItems" in schema:
        inner["prefixItems"] = [_open(one) for one in schema["prefixItems"]]
    return schema | inner


def _policy(*, open_places: bool) -> Schema:
    """A policy, or the path of one. In a guard's parameters values may be left open, by ``${name}`` or a template."""
    left_open: list[Schema] = [{"type": "string", "pattern": r"\$\{|\{\{"}] if open_places else []
    severities: Schema = {"enum": [severity.label for severity in Severity]}
    texts = {
        "control": "The id of a control, as in the log and in docs/controls.md.",
        "subject": "A glob over the subject's name; `*` also matches `/`.",
        "reason": "Why this is accepted.",
        "approver": "Who accepted it.",
    }
    waiver = {
        "type": "object",
        "properties": {
            **{name: {**NOT_BLANK, "description": text} for name, text in texts.items()},
            "expires": {
                "type": "string",
                "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" + (r"|\$\{|\{\{" if open_places else ""),
                "description": "The last day on which it applies, such as 2027-01-31, UTC.",
            },
            "include_errors": {
                **_merged([{"type": "boolean"}, *left_open]),
                "default": False,
                "description": 'Whether "nobody could look" is waived as well.',
            },
        },
        "required": [*texts, "expires"],
        "additionalProperties": False,
    }
    fail_on = {**_merged([severities, *left_open]), "default": "medium", "description": "The severity from which on it blocks."}
    waivers = {
        **_merged([{"type": "array", "items": waiver}, *left_open]),
        "description": "What a named person accepts, for a reason and until a day.",
    }
    mapping = {"type": "object", "properties": {"fail_on": fail_on, "waivers": waivers}, "additionalProperties": False}
    # A guard may be told to have the default policy, and says of a path that is none when it runs.
    return _merged([{"type": "string"}, mapping, NULL] if open_places else [{"type": "string", "minLength": 1}, mapping])


def _own(name: str) -> Mapping[str, Parameter]:
    return parameters(guard_class(name))


def _id() -> Schema:
    form = model().model_json_schema()["$defs"]["Item"]["properties"]["id"]
    return _tidied("id", form, one_or_list=False)


def _guard(name: str, forms: _Forms) -> Schema:
    """A guard of this package. What it requires may come from ``defaults``: ``whole`` looks at that."""
    head = " ".join((guard_class(name).__doc__ or "").partition("\n\n")[0].split())
    return {
        "type": "object",
        "description": markdown(re.sub(r"(?<=\.) The parameters are .*", "", head)),
        "properties": {
            "guard": {"const": name, "description": markdown(TEXTS["guard"])},
            "id": _id(),
            **{one.name: forms.of(one) for one in _own(name).values()},
        },
        "required": ["guard"],
        "additionalProperties": False,
    }


def _base(forms: _Forms) -> Schema:
    return {name: forms.of(Parameter(name, hint, False, None, False, text)) for name, (hint, text) in BASE.items()}


def _own_guard(forms: _Forms) -> Schema:
    return {
        "type": "object",
        "description": "A guard of your own, as `package.module.Class`. Its parameters are those of its class.",
        "properties": {
            "guard": {"type": "string", "pattern": DOTTED, "description": markdown(TEXTS["guard"])},
            "id": _id(),
            **_base(forms),
        },
        "required": ["guard"],
        "not": {"required": ["use"]},
    }


def _use() -> Schema:
    return {
        "type": "object",
        "description": "The guards of a set.",
        "properties": {"use": {**NOT_BLANK, "description": markdown(TEXTS["use"])}},
        "required": ["use"],
        "additionalProperties": False,
    }


def _defaults(forms: _Forms) -> Schema:
    """Parameters by guard, none of them required. Those of every guard may be any that a guard of this package takes."""
    own = {name: {one.name: forms.of(one) for one in _own(name).values()} for name in guard_names()}
    common: dict[str, list[Schema]] = {}
    for given in own.values():
        for name, form in given.items():
            if form not in common.setdefault(name, []):
                common[name].append(form)
    every = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in common.items()}
    return {
        "type": ["object", "null"],
        "description": markdown(TEXTS["defaults"]),
        "properties": {
            name: {"type": "object", "properties": given, "additionalProperties": False}
            for name, given in {"*": every, **own}.items()
        },
        "patternProperties": {DOTTED: {"type": "object", "properties": _base(forms)}},
        "additionalProperties": False,
    }


def _any_given(*keys: str) -> Schema:
    return {"anyOf": [{"required": [key], "properties": {key: GIVEN}} for key in keys]}


def _stage_rules() -> Schema:
    guards = [{"required": [side], "properties": {side: {"type": "array", "minItems": 1}, "exempt": NULL}} for side in SIDES]
    empty = {side: {"maxItems": 0} for side in SIDES}
    # What an author can choose exempts nothing: no tag, and no class but by the name of its module.
    named = {"pattern": r"\.", "items": {"pattern": r"\."}}
    own = {"exempt": {"type": "string"}, "tag": NULL, "operator": named}
    exempt = {"required": ["exempt"], "properties": own | empty}
    return {"allOf": [_any_given("task", "operator", "tag"), {"anyOf": [*guards, exempt]}]}


def _dags_rules() -> Schema:
    by_tag: Schema = dict.fromkeys(("vars", "defaults", "sets", "exempt"), NULL) | {"policy": False}
    by_tag["stages"] = {"items": {"properties": {"exempt": NULL}}}
    return {
        "allOf": [
            _any_given("dag_id", "tag", "bundle"),
            {"if": _any_given("tag"), "then": {"properties": by_tag}},
            {"if": _any_given("exempt"), "then": {"properties": {"mode": NULL, "stages": {"maxItems": 0}}}},
        ]
    }


def _root_rules() -> Schema:
    stages: Schema = {"required": ["stages"], "properties": {"stages": {"type": "array", "minItems": 1}}}
    entry = {"anyOf": [stages, _any_given("exempt")]}
    some = {"anyOf": [stages, *_in_some_part({"environments": stages, "dags": entry})]}
    dags = {"required": ["dags"], "properties": {"dags": {"type": "array", "minItems": 1}}}
    return {
        "allOf": [
            some,
            {"if": _any_given("unmatched"), "then": dags},
            {"if": {"not": _ref("has_defaults")}, "then": _ref("whole")},
        ]
    }


def _in_some_part(wanted: Mapping[str, Schema]) -> list[Schema]:
    """That an environment, or an entry for DAGs, is so."""
    some_environment = {"type": "object", "not": {"additionalProperties": {"not": wanted["environments"]}}}
    some_entry = {"type": "array", "contains": wanted["dags"]}
    return [
        {"required": ["environments"], "properties": {"environments": some_environment}},
        {"required": ["dags"], "properties": {"dags": some_entry}},
    ]


def _has_defaults() -> Schema:
    given = _any_given("defaults")
    return {"anyOf": [given, *_in_some_part({"environments": given, "dags": given})]}


def _lists_of_sets(part: Schema) -> Iterator[Schema]:
    """Yield what says that a set is a list."""
    yield from part.get("properties", {}).get("sets", {}).get("patternProperties", {}).values()


def _whole_item() -> Schema:
    """That a guard has what it requires."""
    cases = []
    for name in guard_names():
        if required := [one.name for one in _own(name).values() if one.required]:
            cases.append(
                {"if": {"required": ["guard"], "properties": {"guard": {"const": name}}}, "then": {"required": required}}
            )
    return {"allOf": cases}


def _whole() -> Schema:
    """That every guard has what it requires, in a plan without ``defaults``."""
    guards: Schema = {"items": _ref("whole_item")}
    part = {
        "stages": {"items": {"properties": dict.fromkeys(SIDES, guards)}},
        "sets": {"additionalProperties": guards},
    }
    return {"properties": part | {name: {keyword: {"properties": part}} for name, keyword in PARTS.items()}}
