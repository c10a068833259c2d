"""``pipesec coverage`` and ``pipesec plan``: which stages of DAGs are guarded, and whether a plan can be used.

These two need Airflow: DAG files are run to be read, by another process than this one, and guards are looked up. It is imported
when one of them runs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from airflow_pipesec.errors import ConfigurationError, PlanError
from airflow_pipesec.findings import escaped, printable
from airflow_pipesec.storage import open_store

if TYPE_CHECKING:
    from airflow_pipesec.coverage import Coverage, Survey
    from airflow_pipesec.hashing import Progress
    from airflow_pipesec.plan import Plan

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["FAILED", "PASSED", "UNDECIDED", "add_commands", "run_coverage", "run_plan"]

PASSED, FAILED, UNDECIDED = 0, 1, 2
MOST_FAULTS = 10
COVERAGE_CODES = """\
exit codes:
  0  that many stages are guarded, or more
  1  fewer are
  2  could not decide: a file that cannot be imported or ends its process, a plan that cannot be applied, no DAG,
     nothing to guard
"""
PLAN_CODES = """\
exit codes:
  0  the plan can be read, and its guards and their parameters are there
  2  something is wrong with it, or it cannot be read
"""


def _percent(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:  # also NaN
        raise argparse.ArgumentTypeError("is not a number from 0 to 100")
    return value


def add_commands(commands: Commands, form: type[argparse.HelpFormatter]) -> None:
    """Add both commands to the command line."""
    coverage = commands.add_parser(
        "coverage",
        formatter_class=form,
        help="show which stages of DAGs are guarded, and fail when too few are",
        description="Parse the DAGs in a folder as Airflow does (their files are run), and show for each stage which guards\n"
        "before and after it hold, and which threats they answer. A guard that only warns does not count.\n\n"
        "  pipesec coverage dags/\n"
        "  pipesec coverage dags/ --plan plan.yaml --environment production --fail-under 90\n"
        "  pipesec coverage dags/ --format sarif -o coverage.sarif --svg pictures/",
        epilog=COVERAGE_CODES,
    )
    coverage.add_argument("folder", metavar="DAGS_FOLDER", help="the folder with the DAGs, or one file")
    coverage.add_argument("--plan", metavar="FILE", help="weave the guards of this plan into each DAG first")
    coverage.add_argument("--environment", metavar="NAME", help="which environment of plans counts")
    coverage.add_argument("--dag", metavar="ID", action="append", default=[], help="only this DAG; may be given several times")
    coverage.add_argument("--format", choices=["table", "json", "sarif"], default="table", help="(default: %(default)s)")
    coverage.add_argument("-o", "--output", metavar="FILE", help="write it there, and print one line for each DAG")
    coverage.add_argument("--svg", metavar="FOLDER", help="write a picture of each DAG there")
    under_help = "how many of a hundred stages have to be guarded (default: 100)"
    coverage.add_argument("--fail-under", metavar="PERCENT", type=_percent, default=100.0, help=under_help)
    coverage.add_argument("--quiet", action="store_true", help="no progress bar")

    plan = commands.add_parser(
        "plan",
        formatter_class=form,
        help="check a plan, and sign it",
        description="Read a plan, check its form, its guards and their parameters, and show what it says. A parameter with ${…}\n"
        "in it is checked by its name; its value is known only when a DAG is woven.\n\n"
        "  pipesec plan plan.yaml --environment production\n"
        "  pipesec plan plan.yaml --sign file:key.pem -o plan.signed.json\n"
        "  pipesec plan --json-schema > plan.schema.json",
        epilog=PLAN_CODES,
    )
    plan.add_argument("file", metavar="FILE", nargs="?", help="the plan, signed or not: a file or a URL")
    plan.add_argument("--environment", metavar="NAME", help="demand that the plan has this environment, and show its mode")
    plan.add_argument("--json-schema", action="store_true", help="print the form as JSON Schema, for editors")
    plan.add_argument("--sign", metavar="KEY", help="sign it: file:PATH, env:NAME or awskms:KEY")
    plan.add_argument("-o", "--output", metavar="FILE", help="where the signed plan goes")
    plan.add_argument("--trusted-keys", metavar="FILE", help="demand that the plan is signed by one of these keys")


def run_coverage(options: argparse.Namespace, bar: Callable[[], AbstractContextManager[Progress | None]]) -> tuple[int, str]:
    """Run ``pipesec coverage`` and return its exit code and what it prints. ``bar`` makes the progress bar."""
    options.json = options.format == "json" and not options.output  # what an error is told as
    # What is written, and where, is known to work before anything is measured for minutes.
    output = None if options.output is None else open_store(options.output)
    pictures = None if options.svg is None else open_store(options.svg)
    from airflow_pipesec.apart import survey_apart
    from airflow_pipesec.coverage_table import summary

    found = survey_apart(options.folder, options.plan, options.environment, only=options.dag, bar=bar)
    code = UNDECIDED if found.undecided else PASSED if found.reaches(options.fail_under) else FAILED
    if pictures is not None:
        from airflow_pipesec.evidence import part_of

        for dag in found.dags:
            pictures.write(picture(dag.coverage).encode("utf-8"), f"{part_of(dag.coverage.dag_id)}.svg")
    text = _written(found, options.format, options.fail_under)
    if output is not None:
        output.write(f"{text}\n".encode())
        text = "\n".join(summary(found, options.fail_under))
    return code, text


def _written(found: Survey, form: str, threshold: float) -> str:
    if form == "json":
        document = found.document() | {"fail_under": threshold, "passed": found.reaches(threshold)}
        return json.dumps(document, indent=1)
    if form == "sarif":
        from airflow_pipesec.sarif import sarif

        return json.dumps(sarif(found), indent=1)
    from airflow_pipesec.coverage_table import table

    return table(found, threshold)


@contextmanager
def _nothing_else_on_stdout() -> Iterator[None]:
    """Let what Airflow logs go to standard error: standard output is for the answer."""
    aside = sys.stderr if sys.stderr is not None else io.StringIO()
    try:
        kept = os.dup(1)
    except OSError:  # closed by whoever started us
        with redirect_stdout(aside):
            yield
        return
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        with redirect_stdout(aside), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path of ours
            try:
                os.dup2(2, 1)
            except OSError:
                os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def picture(found: Coverage) -> str:
    """Return the picture of a DAG, with what its guards answer and why some do not count."""
    from airflow_pipesec.coverage_table import share
    from airflow_pipesec.drawing import draw
    from airflow_pipesec.threats import catalogue

    known = catalogue()
    notes = {
        node.id: "answers " + ", ".join(known[name].title.lower() for name in node.threats)
        for node in found.pipeline.nodes.values()
        if node.threats
    }
    notes |= {guard: f"no effect: {reason}" for guard, reason in found.idle.items()}
    notes |= {stage.id: f"exempt: {stage.exempt}" for stage in found.stages if stage.exempt is not None}
    title = f"DAG {printable(found.dag_id)}: {share(found)}"
    naked = [stage.id for stage in found.naked]
    exempt = [stage.id for stage in found.stages if stage.exempt is not None]
    return draw(found.pipeline, title=title, notes=notes, naked=naked, exempt=exempt)


def run_plan(options: argparse.Namespace) -> tuple[int, str]:
    """Run ``pipesec plan`` and return its exit code and what it prints."""
    from airflow_pipesec.plan import Facts, Plan
    from airflow_pipesec.signing import TrustedKeys, signer_from

    if options.json_schema:
        if options.file or options.sign or options.output:
            raise ConfigurationError("--json-schema stands alone. Leave the rest out.")
        with _nothing_else_on_stdout():
            from airflow_pipesec.survey import plan_schema

            return PASSED, json.dumps(plan_schema(), indent=1)
    if not options.file:
        raise ConfigurationError("there is no FILE. Give the plan.")
    if (options.sign is None) != (options.output is None):
        raise ConfigurationError("--sign KEY and --output FILE go together. Give both.")
    trusted = None if options.trusted_keys is None else TrustedKeys.load(options.trusted_keys)
    plan = Plan.load(options.file, trusted=trusted)
    if options.environment:
        plan.for_dag(Facts(""), environment=options.environment)  # raises for one that is not there
    with _nothing_else_on_stdout():
        from airflow_pipesec.survey import plan_faults

        faults = [*plan_faults(plan), *_unknown_sets(plan)]
    if faults:
        more = f" And {len(faults) - MOST_FAULTS} more." if len(faults) > MOST_FAULTS else ""
        raise PlanError(" ".join(faults[:MOST_FAULTS]) + more)
    lines = list(_told(plan, options.environment))
    if options.sign is not None and plan.raw is not None:
        from airflow_pipesec.plan_form import sealed_plan

        signer = signer_from(options.sign, parameter="--sign=")
        open_store(options.output).write(sealed_plan(plan.raw, plan.where, signer))
        lines.append(f"signed with key {signer.key_id[:16]}: {escaped(str(options.output))}")
    return PASSED, "\n".join(lines)


def _unknown_sets(plan: Plan) -> Iterator[str]:
    known = {name for _, part in plan.parts() for name in part.get("sets") or {}}
    for path, part in plan.parts():
        for number, rule in enumerate(part.get("stages") or ()):
            for side in ("before", "after"):
                for place, item in enumerate(rule.get(side) or ()):
                    if item.get("use") is not None and item["use"] not in known:
                        where = (*path, "stages", number, side, place)
                        yield str(plan.fault(where, f"there is no set {printable(item['use'])}. Define it under sets:."))


def _told(plan: Plan, environment: str | None) -> Iterator[str]:
    document = plan.document
    name = f" ({plan.name})" if plan.name else ""
    yield f"OK  {plan.where}{name}"
    if plan.signed_by is not None:
        yield f"signed by: {escaped(plan.signed_by)}"
    else:
        yield "signed by: not checked, since --trusted-keys is not given"
    yield f"mode: {plan.mode(environment)}{f' in {environment}' if environment else ''}"
    for one in document.get("environments") or {}:
        yield f"environment {one}: mode {plan.mode(one)}"
    rules = [rule for _, part in plan.parts() for rule in part.get("stages") or ()]
    exempt = sum(1 for rule in rules if rule.get("exempt"))
    yield f"rules for stages: {len(rules)}, of them {exempt} that exempt"
    guards = Counter(spec.guard for spec in plan.specs)
    yield f"guards: {guards.total()}" + "".join(f"\n  {number} x {printable(guard)}" for guard, number in sorted(guards.items()))
    entries = document.get("dags")
    if entries:
        unmatched = "refused" if plan.refuses_unmatched(plan.mode(environment)) else "left alone"
        yield f"entries for DAGs: {len(entries)}; a DAG that none means is {unmatched}"
    else:
        yield "for every DAG that it is given to"
