"""Configurations: a JSON file of a model folder holds data, unless it names code; what it names is judged.

Which kind it is follows from its content, not from its name: a Keras configuration, a skops schema, a notebook, or one of the
many that loaders look into for the names of classes to import and for templates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.jsons import NotJson, parsed, walked
from airflow_pipesec.scan.keras import is_config, judge_config
from airflow_pipesec.scan.onnx import relative_fault
from airflow_pipesec.scan.plain import DOTTED, is_other_text, look_text
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.skops import is_schema, judge_schema

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["judge_json", "look_json"]

# Where loaders find code that comes with the model: Hugging Face's, and ONNX Runtime GenAI's shared libraries of operators.
CODE_KEYS = ("auto_map", "custom_ops_library", "custom_pipelines", "trust_remote_code")
# Names that Sentence Transformers imports and calls, and what they may start with. Other libraries have no dots in theirs.
IMPORTED = {
    "activation_fn": "torch.nn.",
    "activation_function": "torch.nn.",
    "sbert_ce_default_activation_function": "torch.nn.",
    "tokenizer_class": "sentence_transformers.",
}
# The libraries whose classes the parts of a Diffusers pipeline may be, and its own modules that stand in the same place.
PIPELINE_LIBRARIES = frozenset(
    (
        "diffusers",
        "transformers",
        "alt_diffusion",
        "deepfloyd_if",
        "kandinsky",
        "latent_diffusion",
        "paint_by_example",
        "stable_diffusion",
        "unclip",
        "versatile_diffusion",
        "wuerstchen",
    )
)
# The libraries that an adapter's base model may be of.
ADAPTER_LIBRARIES = frozenset(("diffusers", "peft", "sentence_transformers", "timm", "torch", "transformers"))
# Of an ONNX model in JSON, as protobuf writes them and as it takes them too.
ONNX_KEYS = frozenset(("irVersion", "ir_version", "opsetImport", "opset_import"))
JSON_NAMES = (".json", ".ipynb")


def look_json(part: Part) -> None:
    """Look at a file that starts as JSON does. What is none, and is not called so either, is text."""
    if part.size > part.scan.limits.text:
        raise Unscannable(f"is JSON of more than {part.scan.limits.text:,} bytes")
    data = part.read(0, part.size)
    try:
        value = parsed(data, "content")
    except NotJson:
        name = part.known.removeprefix("file:") if part.known.startswith("file:") else part.name.rpartition("/")[2]
        # Vocabularies start with [PAD], settings with [section], and templates with {%.
        if name.lower().endswith(JSON_NAMES):
            raise
        look_text(part)
        return
    judge_json(part, value)
    if is_other_text(part):
        # What reads it by this name takes JSON for what it is looking for as well, as YAML does.
        look_text(part)


def judge_json(part: Part, value: Any) -> None:
    """Judge a JSON value, whatever kind of configuration it is."""
    if is_schema(value):
        part.saw("skops")
        judge_schema(part, value)
        return
    if isinstance(value, dict) and "cells" in value and "nbformat" in value:
        part.saw("notebook")
        part.unsafe("is a notebook, which is code")
        return
    if isinstance(value, dict) and "graph" in value and ONNX_KEYS & value.keys():
        raise Unscannable("is an ONNX model in JSON, which is not read here")
    told: set[str] = set()
    keras = False
    templates: list[tuple[str, str]] = []
    for each in walked(value):
        if isinstance(each, dict):
            keras = keras or is_config(each)
            for why in _code_named(part, each):
                if why not in told:
                    told.add(why)
                    part.unsafe(why)
            templates += _templates(each)
    _judge_templates(part, templates)
    part.saw("keras" if keras else "json")
    if keras:
        # It builds the objects within one of another kind as well.
        judge_config(part, value)
    if isinstance(value, dict) and "_class_name" in value:
        _pipeline(part, value)
    if isinstance(value, list):
        _modules(part, value)


def _code_named(part: Part, value: dict[str, Any]) -> list[str]:
    """Return what an object says of code that a loader imports."""
    found = [f"names code that comes with the model ({key})" for key in CODE_KEYS if value.get(key)]
    mapping = value.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library is not None and str(library).partition(".")[0] not in ADAPTER_LIBRARIES:
        found.append(f"has its base model imported from {named(str(library))}")
    for key, start in IMPORTED.items():
        name = value.get(key)
        if isinstance(name, str) and "." in name and not name.startswith(start):
            found.append(f"has {named(name)} imported ({key})")
    if isinstance(value.get("types"), dict) and "structure" in value:
        found += [f"has {named(str(name))} imported (types)" for name in value["types"].values() if not _is_of_sentences(name)]
    for key in (each for each in value if each.endswith("attn_implementation")):
        # A name with a slash is that of a repository, and what is in it is imported.
        found += [f"has code loaded from {named(name)} ({key})" for name in _texts(value[key]) if "/" in name]
    shards = value.get("weight_map")
    for name in sorted({each for each in shards.values() if isinstance(each, str)}) if isinstance(shards, dict) else ():
        if fault := relative_fault(name):
            found.append(f"has weights read from a file whose name {fault}: {named(name)}")
            break
    target = value.get("_target_")
    if target is not None and not _may_be_called(part, str(target)):
        found.append(f"has {named(str(target))} called (_target_)")
    target = value.get("target")
    if isinstance(target, str) and DOTTED.fullmatch(target) and "params" in value and not _may_be_called(part, target):
        found.append(f"has {named(target)} called (target, params)")
    core = value.get("megatron_core")
    if core not in (None, "megatron.core"):
        found.append(f"has {named(str(core))} imported (megatron_core)")
    return found


def _is_of_sentences(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("sentence_transformers.")


def _may_be_called(part: Part, target: str) -> bool:
    """Whether the allow-list has the right to call what Hydra would look up and call."""
    module, _, name = target.rpartition(".")
    if "call" not in part.scan.allow.rights(module, name):
        part.scan.refused.add(f"{module}:{name}")
        return False
    part.scan.used[Entry("call", module, name)] += 1
    return True


def _templates(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the templates that an object holds, with their keys."""
    keys = [key for key in value if "chat_template" in key]
    if value.get("template_format") == "jinja2" and "template" in value:
        keys.append("template")
    return [(key, text) for key in keys for text in _texts(value[key])]


def _judge_templates(part: Part, templates: list[tuple[str, str]]) -> None:
    from airflow_pipesec.scan.templates import MOST_TEXT, judge_template

    if sum(len(text) for _, text in templates) > MOST_TEXT:
        raise Unscannable(f"has templates of more than {MOST_TEXT:,} characters")
    for key, text in templates:
        try:
            for why in judge_template(text):
                part.unsafe(f"has a template under {named(key)} that {why}")
        except Unscannable as error:
            part.unscannable(error.why)


def _texts(held: Any) -> list[str]:
    """Return the texts of a template, or of several: a list of ``{"name", "template"}``, or a mapping by name."""
    if isinstance(held, str):
        return [held]
    inner = held.values() if isinstance(held, dict) else held if isinstance(held, list) else ()
    return [text for each in inner for text in ([each] if isinstance(each, str) else _inner_texts(each))]


def _inner_texts(each: Any) -> list[str]:
    return [text for text in each.values() if isinstance(text, str)] if isinstance(each, dict) else []


def _pipeline(part: Part, value: dict[str, Any]) -> None:
    """Judge the libraries that the parts of a Diffusers pipeline are imported from."""
    if not isinstance(value["_class_name"], str):
        part.unsafe("is a Diffusers pipeline whose class comes with the model")
    for key, component in value.items():
        if key.startswith("_") or not isinstance(component, list) or len(component) != 2:
            continue
        library = component[0]
        if library is not None and library not in PIPELINE_LIBRARIES and isinstance(component[1], str):
            part.unsafe(f"has {named(key)} imported from {named(str(library))}")


def _modules(part: Part, value: list[Any]) -> None:
    """Judge the modules of a Sentence Transformers model, which are imported by name."""
    for each in value:
        if isinstance(each, dict) and {"idx", "path", "type"} <= each.keys() and not _is_of_sentences(each["type"]):
            part.unsafe(f"has a module imported by the name {named(str(each['type']))}")
        if isinstance(each, dict) and {"idx", "path", "type"} <= each.keys() and (fault := relative_fault(str(each["path"]))):
            part.unsafe(f"has a module whose folder {fault}: {named(str(each['path']))}")
