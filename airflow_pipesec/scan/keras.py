"""Keras: a configuration builds only classes and functions of Keras that neither run code from it nor reach for other files.

What Keras calls a configuration is a program: every object ``{"module", "class_name", "config"}`` in it, at any depth, is looked
up, called and given what stands in it. Its own safe mode was bypassed again and again (CVE-2024-3660, CVE-2025-1550,
CVE-2025-8747, CVE-2025-9905, CVE-2025-9906, CVE-2025-12058, CVE-2025-49655), so it plays no part here: the names are judged, by
section ``keras`` of the allow-list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.jsons import walked
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["is_config", "judge_config"]

# Values that JSON has no form for. __lambda__ and __typespec__ are none: they run code and import modules.
VALUES = frozenset(
    ("__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__", "TensorShape")
)
# Where Keras looks for a function of which it only knows the name.
FUNCTION_MODULES = (
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.regularizers",
)
RUNS_CODE = {
    "Lambda": "a Lambda layer, which runs code from the file",
    "__lambda__": "a Python function as code",
    "TFSMLayer": "a TFSMLayer, which loads another model",
    "TorchModuleWrapper": "a TorchModuleWrapper, which unpickles",
    "JaxLayer": "a JaxLayer, which calls a function that it names",
    "FlaxLayer": "a FlaxLayer, which calls a module that it names",
}


def is_config(value: Any) -> bool:
    """Whether a JSON value is the configuration of a Keras object."""
    return isinstance(value, dict) and isinstance(value.get("class_name"), str) and "config" in value


def judge_config(part: Part, config: Any) -> None:
    """Judge every object of a Keras 3 or Keras 2 configuration, or of what a model is compiled with."""
    told: set[str] = set()
    for each in walked(config):
        if not isinstance(each, dict):
            continue
        if isinstance(each.get("vocabulary"), str) and "vocabulary" not in told:
            told.add("vocabulary")
            part.unsafe("has a layer that reads its vocabulary from a file that it names")
        if "class_name" not in each:
            continue
        if not isinstance(each["class_name"], str):
            raise Unscannable("has a Keras object whose class_name is no text")
        for name, why in _refused(part, each):
            if name not in told:
                told.add(name)
                part.scan.refused.add(name)
                part.unsafe(why)


def _refused(part: Part, config: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what of one object is refused: names as ``module:name``, with the reasons."""
    name, module, registered = config["class_name"], config.get("module"), config.get("registered_name")
    if name in VALUES:
        return []
    if not isinstance(module, str | None) or not isinstance(registered, str | None):
        raise Unscannable(f"has a Keras object {named(name)} whose module or registered_name is no text")
    what = "the class"
    if name == "function":
        what, name = "the function", config.get("config")
        if not isinstance(name, str):
            raise Unscannable("has a Keras object that is a function without a name")
    elif name == "__typespec__":
        what, name = "the type", config.get("spec_name")
        if not isinstance(name, str):
            raise Unscannable("has a Keras object that is a type without a name")
    found = []
    full = f"{module or ''}:{name}"
    if not _allowed(part, module or "", name, is_function=what == "the function"):
        known = RUNS_CODE.get(name)
        found.append((full, f"holds {known}" if known else f"uses {what} {named(full)}, which is not allowed"))
    # A registered name comes first where an object of that name is registered, whatever the class is called.
    if registered and registered not in (name, "function") and not _allowed(part, "", registered):
        found.append((f":{registered}", f"uses the registered object {named(registered)}, which is not allowed"))
    if name == "TFOpLambda":
        inner = config.get("config")
        function = inner.get("function") if isinstance(inner, dict) else None
        if not isinstance(function, str):
            raise Unscannable("has a TFOpLambda layer without a function")
        if not _allowed(part, "tf", function):
            found.append((f"tf:{function}", f"calls the TensorFlow function {named(function)}, which is not allowed"))
    return found


def _allowed(part: Part, module: str, name: str, *, is_function: bool = False) -> bool:
    """Whether a name is on the list, which is noted."""
    if module == "tf_keras" or module.startswith("tf_keras."):
        module = module.removeprefix("tf_")  # the same names, by the package that goes on with Keras 2
    modules = FUNCTION_MODULES if is_function and module == "builtins" else ()
    for each in (module, *modules):
        full = f"{each}:{name}"
        if part.scan.allow.lists_name("keras", full):
            part.scan.used[Entry("keras", "", full)] += 1
            return True
    return False
