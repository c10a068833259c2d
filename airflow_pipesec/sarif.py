"""SARIF: what a survey found, in the form that code scanning reads (SARIF 2.1.0), each at its line of the DAG's file.

What every such log has, whatever it tells of, is made by :func:`log_of`, :func:`rule_of`, :func:`prints_of` and :func:`uri_of`.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_pipesec import __version__
from airflow_pipesec.coverage import Coverage, Survey
from airflow_pipesec.findings import escaped, printable

__all__ = ["log_of", "prints_of", "rule_of", "sarif", "uri_of"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
Region = Mapping[str, int]
START: Region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
# id: (title, what it means, remedy, level, security severity, precision)
RULES: dict[str, tuple[str, str, str, str, str, str]] = {
    "stage-unguarded": (
        "A stage of the pipeline is unguarded",
        "No guard before or after this stage keeps the pipeline from going on when something is wrong with its data.",
        "Put a guard before or after it, or a rule for it in the plan. A plan can exempt a stage that needs none, with why.",
        "error",
        "7.0",
        "high",
    ),
    "guard-without-effect": (
        "A guard has no effect",
        "The guard only warns, or what follows it runs although the guard did not pass. It does not count.",
        'Leave on_failure at "fail" and the trigger rules of the guard and of what follows it at all_success.',
        "warning",
        "5.0",
        "high",
    ),
    "dag-not-parsed": (
        "A DAG could not be examined",
        "The file could not be imported, or the DAG in it could not be read. Nothing is known of its guards.",
        "Run the file with Python where Airflow and everything that it imports is installed, and mend what it says.",
        "error",
        "6.0",
        "very-high",
    ),
    "plan-not-applied": (
        "The plan cannot be applied to a DAG",
        "The plan cannot be read, or a guard that it demands cannot stand where it has to.",
        "Mend the plan or the DAG as the message says.",
        "error",
        "6.0",
        "very-high",
    ),
}


def sarif(survey: Survey, *, here: str | None = None) -> dict[str, Any]:
    """Return a survey as a SARIF log. Files below ``here``, the current folder unless given, are named relative to it."""
    root = os.path.realpath(here or os.curdir)
    results = [_result(*found, root=root) for found in _found(survey)]
    return log_of([rule_of(name, *RULES[name]) for name in RULES], results, decided=survey.undecided is None)


def log_of(
    rules: Iterable[Mapping[str, Any]], results: Iterable[Mapping[str, Any]], *, decided: bool, **more: Any
) -> dict[str, Any]:
    """Return a SARIF log of one run of this program; ``more`` are other members of that run."""
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "airflow-pipesec",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": list(rules),
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [{"executionSuccessful": decided}],
                "results": list(results),
                **more,
            }
        ],
    }


def rule_of(
    name: str,
    title: str,
    meaning: str,
    remedy: str,
    level: str,
    severity: str,
    precision: str,
    references: Iterable[str] = (),
) -> dict[str, Any]:
    """Return a rule; its level is ``error``, ``warning`` or ``note``, and its severity a number from 0.1 to 10.0."""
    sources = ", ".join(references)
    weaknesses = sorted({f"external/cwe/cwe-{int(number)}" for number in re.findall(r"\bCWE-(\d{1,6})\b", sources, re.ASCII)})
    more = f"\n\n**References:** {sources}" if sources else ""
    return {
        "id": name,
        "name": "".join(word.capitalize() for word in name.split("-")),
        "shortDescription": {"text": title},
        "fullDescription": {"text": meaning},
        "help": {"text": f"{meaning} {remedy}", "markdown": f"{meaning}\n\n**Remedy:** {remedy}{more}"},
        "defaultConfiguration": {"level": level},
        "properties": {
            "tags": ["security", *weaknesses],  # without the first the severity does not count
            "precision": precision,
            "problem.severity": "recommendation" if level == "note" else level,
            "security-severity": severity,
        },
    }


def _found(survey: Survey) -> Iterator[tuple[str, str, str, Region, tuple[str, ...]]]:
    """Yield rule, message, file, place in it, and what tells a result from all others of its rule, whatever line it is at."""
    for trouble in survey.troubles:
        region = START if trouble.line is None else {**START, "startLine": trouble.line, "endLine": trouble.line}
        if trouble.line is None and trouble.dag_id is not None:
            region = Places(trouble.file).dag(trouble.dag_id)
        what = f"DAG {printable(trouble.dag_id)}: " if trouble.dag_id is not None else ""
        yield str(trouble.kind), f"{what}{trouble.text}", trouble.file, region, (trouble.dag_id or "", Path(trouble.file).name)
    for dag in survey.dags:
        found = dag.coverage
        places = Places(dag.file)
        name = printable(found.dag_id)
        for stage in found.naked:
            text = f"Stage {printable(stage.id)} of DAG {name} is unguarded."
            region = places.task(found.dag_id, stage.id)
            yield "stage-unguarded", f"{text}{_why(found, stage.id)}", dag.file, region, (found.dag_id, stage.id)
        for guard, reason in found.idle.items():
            text = f"Guard {printable(guard)} of DAG {name} has no effect: {reason}."
            yield "guard-without-effect", text, dag.file, places.task(found.dag_id, guard), (found.dag_id, guard)


def _why(found: Coverage, stage_id: str) -> str:
    (stage,) = (stage for stage in found.stages if stage.id == stage_id)
    reasons = [f"{printable(watch.guard)}: {watch.reason}." for watch in (*stage.before.guards, *stage.after.guards)]
    return f" What stands beside it does not count. {' '.join(reasons[:3])}" if reasons else " No guard stands beside it."


def _result(rule: str, text: str, file: str, region: Region, identity: tuple[str, ...], *, root: str) -> dict[str, Any]:
    return {
        "ruleId": rule,
        "ruleIndex": list(RULES).index(rule),
        "level": RULES[rule][3],
        "message": {"text": escaped(text)},
        "locations": [{"physicalLocation": {"artifactLocation": _artifact(file, root), "region": dict(region)}}],
        # The line may move and the message may change: it is still the same alert.
        "partialFingerprints": prints_of(rule, *identity),
    }


def prints_of(*identity: str) -> dict[str, str]:
    """Return what an alert is known by: the same as long as these texts are."""
    digest = hashlib.sha256("\0".join(identity).encode("utf-8", "surrogatepass")).hexdigest()
    return {"primaryLocationLineHash": f"{digest[:16]}:1", "pipesec/v1": digest}


def uri_of(place: str) -> str:
    """Return the URI of a URL, without what follows a ``?``, or of an absolute path."""
    if "://" in place:
        return quote(place.partition("?")[0], safe=":/%@+,;=~!$&'()*")
    return f"file://{quote(os.fsencode(place))}"


def _artifact(file: str, root: str) -> dict[str, str]:
    if "://" in file:
        return {"uri": uri_of(file)}
    path = os.path.realpath(file)
    if path == root or not Path(path).is_relative_to(root):
        return {"uri": uri_of(path)}
    return {"uri": quote(os.fsencode(os.path.relpath(path, root))), "uriBaseId": "%SRCROOT%"}


class Places:
    """Where in its file a DAG or a task is written, as far as the text tells; the file is read and not run."""

    def __init__(self, file: str) -> None:
        try:
            source = Path(file).read_bytes()
            self.tree: ast.Module | None = ast.parse(source)
            self.lines = source.splitlines()
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            self.tree, self.lines = None, []

    def dag(self, dag_id: str) -> Region:
        """Return the place of a DAG; the file's start where it is not found."""
        found = self._dag(dag_id)
        return START if found is None else self._region(found[0])

    def task(self, dag_id: str, task_id: str) -> Region:
        """Return the place of a task; its DAG's where it is not found."""
        if self.tree is None:
            return START
        dag = self._dag(dag_id)
        # A task that is called for the second time is name__1; a guard that was woven in is named after its stage.
        label = re.sub(r"__\d+$", "", task_id.rpartition(".")[2])
        woven = re.search(r"(?:^|[._])(?:before|after)_(?P<stage>[^.]+)\.[^.]+$", task_id)
        names = [woven["stage"], label] if woven else [label]
        for name in names:
            for scope in (*([dag[1]] if dag else []), self.tree):
                for node in ast.walk(scope):
                    if (place := _task_at(node, name)) is not None:
                        return self._region(place)
        return self.dag(dag_id)

    def _dag(self, dag_id: str) -> tuple[ast.AST, ast.AST] | None:
        """The node that says a DAG's id, and the one that its tasks are in."""
        if self.tree is None:
            return None
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                makers = [one for one in node.decorator_list if _called(one).partition(".")[0] in ("dag", "asset")]
                said = any(isinstance(one, ast.Call) and _says(one, "dag_id", dag_id) for one in makers)
                if said or (makers and node.name == dag_id):
                    return node, node
            if isinstance(node, ast.With):
                for item in node.items:
                    call = item.context_expr
                    if isinstance(call, ast.Call) and _called(call) == "DAG" and _says(call, "dag_id", dag_id):
                        return call, node
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and _called(node) == "DAG" and _says(node, "dag_id", dag_id):
                return node, self.tree
        return None

    def _region(self, node: Any) -> Region:
        end_line = node.lineno if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.end_lineno
        end = len(self.lines[end_line - 1]) if end_line != node.end_lineno else node.end_col_offset
        return {
            "startLine": node.lineno,
            "startColumn": self._column(node.lineno, node.col_offset),
            "endLine": end_line,
            "endColumn": self._column(end_line, end),
        }

    def _column(self, line: int, offset: int) -> int:
        """A column in characters, from 1; Python counts bytes of UTF-8."""
        text = self.lines[line - 1] if line <= len(self.lines) else b""
        return len(text[:offset].decode("utf-8", "replace")) + 1


def _task_at(node: ast.AST, name: str) -> ast.AST | None:
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == "task_id" and isinstance(keyword.value, ast.Constant) and keyword.value.value == name:
                return keyword
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
        decorators = [_called(one).partition(".")[0] for one in node.decorator_list]
        return node if {"task", "setup", "teardown", "asset"}.intersection(decorators) else None
    return None


def _called(node: ast.AST) -> str:
    """The name of what is called or used as a decorator: ``task.guard`` of ``task.guard(…)``, ``DAG`` of ``sdk.DAG(…)``."""
    if isinstance(node, ast.Call):
        node = node.func
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    name = ".".join(reversed(parts))
    last = name.rpartition(".")[2]
    if last in ("DAG", "dag"):
        return last
    return name.removeprefix("sdk.").removeprefix("airflow.sdk.")


def _says(call: ast.Call, keyword: str, value: str) -> bool:
    given = [one.value for one in call.keywords if one.arg == keyword] or call.args[:1]
    return any(isinstance(one, ast.Constant) and one.value == value for one in given)
