"""Surveys: a DAG, or every DAG of a folder, is parsed by Airflow, woven by a plan, and measured.

All of it happens in this process, and a DAG's file that is run can end it; :mod:`airflow_pipesec.apart` has another run them.
Airflow is imported when something is measured and not before: it reads where its home is once, on its first import.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_pipesec.coverage import Coverage, Measured, Survey, Trouble, TroubleKind, coverage
from airflow_pipesec.errors import ConfigurationError, PipesecError, PlanError, place_of
from airflow_pipesec.findings import escaped, printable
from airflow_pipesec.pipeline import Kind, Pipeline
from airflow_pipesec.plan import Plan

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["Shape", "coverage_of", "looked_at", "measured", "plan_faults", "plan_schema", "survey"]

Progress = Callable[[int, int, int], None]
Source = str | PathLike[str] | Mapping[str, Any] | Plan
LONGEST_TEXT = 600
_OWN_LINE = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+)', re.MULTILINE)
_IN_A_PLAN = re.compile(r"line (\d+), column \d+")


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a DAG is measured: its tasks, those that are exempt with why, and the file that it is in."""

    pipeline: Pipeline
    exempt: Mapping[str, str]
    file: str


def coverage_of(dag: DAG, plan: Source | None = None, environment: str | None = None) -> Coverage:
    """Say which stages of a DAG are guarded, by what and against what.

    ::

        from airflow_pipesec import coverage_of

        found = coverage_of(dag, "plan.yaml")
        assert found.percent == 100, found.naked

    :param dag: the DAG. Guards that the plan demands are added to it, as :func:`~airflow_pipesec.weave.secure` adds them.
    :param plan: see there; none measures the DAG as it is.
    :param environment: the environment of the plan that counts; ``[pipesec] environment`` unless given.

    Raises :class:`~airflow_pipesec.errors.PlanError` where the plan cannot be applied, and
    :class:`~airflow_pipesec.errors.ConfigurationError` for a guard with a threat that is not in the catalogue.
    """
    shape = _shape(dag, plan, environment)
    return coverage(shape.pipeline, shape.exempt)


def _shape(dag: DAG, plan: Source | None, environment: str | None) -> Shape:
    from airflow_pipesec.dags import pipeline_of

    dag.check_cycle()
    _demand_known_threats(dag)
    exempt = {} if plan is None else _woven(dag, plan, environment)
    return Shape(pipeline_of(dag), exempt, dag.fileloc)


def _demand_known_threats(dag: DAG) -> None:
    """Look at the threats as the author wrote them: of a pipeline's node they are a tuple, whatever they were."""
    from airflow_pipesec.guards.base import Guard
    from airflow_pipesec.threats import demand_known

    tasks: dict[str, Any] = dag.task_dict
    for task in tasks.values():
        cls: Any = task.operator_class
        if issubclass(cls, Guard):
            own = vars(task) if isinstance(task, Guard) else task.partial_kwargs
            given = own.get("threats") or cls.threats or ()
            demand_known(given, f"guard {printable(task.task_id)} of DAG {printable(dag.dag_id)}")


def _woven(dag: DAG, source: Source, environment: str | None) -> Mapping[str, str]:
    """Weave a plan into a DAG and return the stages that are exempt, with why."""
    from airflow_pipesec.dags import facts_of, pipeline_of
    from airflow_pipesec.weave import environment_here, weave

    plan = Plan.load(source, beside=os.path.dirname(dag.fileloc))  # noqa: PTH120 - Airflow's file names are text
    effective = plan.for_dag(facts_of(dag), environment=environment or environment_here())
    if effective is None:
        if plan.refuses_unmatched(plan.mode(environment or environment_here())):
            raise PlanError(f"{plan.where} has no entry for DAG {printable(dag.dag_id)}, and refuses those. Add one under dags:.")
        return {}
    if effective.exempt:
        return {node.id: effective.exempt for node in pipeline_of(dag).of_kind(Kind.STAGE)}
    return weave(dag, effective).exempt


def survey(
    folder: str | PathLike[str],
    plan: Source | None = None,
    environment: str | None = None,
    *,
    only: Collection[str] = (),
    progress: Progress | None = None,
) -> Survey:
    """Measure every DAG of a DAGS_FOLDER, or of one file. The files are run in this process, as Airflow runs them to parse them.

    One that ends its process ends this one, with the exit code that it likes: before a verdict depends on files that you have not
    read, take :func:`airflow_pipesec.apart.survey_apart`, as ``pipesec coverage`` does.

    :param plan: a plan that is woven into each DAG before it is measured; a relative path is looked for in the current folder.
    :param environment: the environment of plans that counts, also for those that the files weave themselves.
    :param only: ids of the DAGs that are measured, instead of all.
    :param progress: called with 1, 0 and the number of files, after each file.

    The organisation's plan of this machine (``[pipesec] plan_url``) is left out. Where neither ``AIRFLOW_HOME`` is set nor
    Airflow imported, Airflow gets an empty home that is gone with this process. What cannot be measured is in the survey's
    ``troubles``, and nothing passes that has any.

    Raises :class:`~airflow_pipesec.errors.ConfigurationError` where there is no such folder.
    """
    return measured(folder, *looked_at(folder, plan, environment, only=only, progress=progress))


def measured(folder: str | PathLike[str], shapes: Iterable[Shape], troubles: Iterable[Trouble]) -> Survey:
    """Return the survey of what was looked at. Needs no Airflow."""
    found: list[Measured] = []
    failed: list[Trouble] = []
    for shape in shapes:
        try:
            found.append(Measured(coverage(shape.pipeline, shape.exempt), shape.file))
        except Exception as error:
            failed.append(_of_dag(error, shape.file, shape.pipeline.dag_id))
    return Survey(str(folder), tuple(found), (*troubles, *failed))


def looked_at(
    folder: str | PathLike[str],
    plan: Source | None = None,
    environment: str | None = None,
    *,
    only: Collection[str] = (),
    progress: Progress | None = None,
    begins: Callable[[str], None] = lambda file: None,
    home: str | None = None,
) -> tuple[list[Shape], list[Trouble]]:
    """Return what there is to measure, and what could not be looked at; :func:`survey` has the other parameters.

    :param begins: called with a file before anything in it is run.
    :param home: an empty folder for Airflow where it has no home; one is made unless given.
    """
    place = Path(folder).absolute()
    if not place.exists():
        raise ConfigurationError(f"{escaped(str(folder))} does not exist. Give the folder, or the file, that your DAGs are in.")
    try:
        read = None if plan is None else Plan.load(plan)
    except PlanError as error:
        return [], [_of_the_plan(error, plan, folder)]
    found: list[Shape] = []
    with _home(place, home), _settings(environment), _importable(place if place.is_dir() else place.parent):
        if read is not None and (faults := plan_faults(read)):
            return [], [_of_the_plan(PlanError(" ".join(faults)), plan, folder)]
        dags, troubles = _parsed(place, progress, begins)
        for dag in sorted(dags, key=lambda one: (one.fileloc, one.dag_id)):
            if only and dag.dag_id not in only:
                continue
            begins(dag.fileloc)
            try:
                found.append(_shape(dag, read, environment))
            except PlanError as error:
                troubles.append(_of_plan(error, dag.fileloc, dag.dag_id))
            except Exception as error:
                troubles.append(_of_dag(error, dag.fileloc, dag.dag_id))
    for dag_id in sorted(set(only) - {dag.dag_id for dag in dags}):
        text = f"there is no DAG {printable(dag_id)}"
        troubles.append(Trouble(TroubleKind.NOT_PARSED, text, str(place), dag_id))
    return found, troubles


def _of_dag(error: Exception, file: str, dag_id: str) -> Trouble:
    # What the author wrote wrong says so; of a defect only the place is told.
    text = str(error) if isinstance(error, PipesecError) else place_of(error)
    return Trouble(TroubleKind.NOT_PARSED, escaped(text), file, dag_id)


def _of_the_plan(error: PlanError, plan: object, folder: str | PathLike[str]) -> Trouble:
    return _of_plan(error, str(plan) if isinstance(plan, str | PathLike) else str(folder))


def _of_plan(error: PlanError, file: str, dag_id: str | None = None) -> Trouble:
    line = _IN_A_PLAN.search(str(error)) if dag_id is None else None
    return Trouble(TroubleKind.PLAN, escaped(str(error)), file, dag_id, int(line[1]) if line else None)


def _parsed(place: Path, progress: Progress | None, begins: Callable[[str], None]) -> tuple[list[DAG], list[Trouble]]:
    """Let Airflow parse every file, one after the other: whatever comes of one, it is told and the next one has its turn."""
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag
    from airflow.dag_processing.importers import get_importer_registry

    safe_mode = conf.getboolean("core", "DAG_DISCOVERY_SAFE_MODE")
    bundle = place if place.is_dir() else place.parent
    bag: Any = DagBag(bundle, bundle_path=bundle, collect_dags=False)
    troubles: list[Trouble] = []
    with _quiet():
        try:
            files = get_importer_registry().list_dag_files(place, safe_mode=safe_mode)
            passed_over = set(get_importer_registry().list_dag_files(place, safe_mode=False)).difference(files)
        except (OSError, RuntimeError) as error:  # the latter where links lead in a circle
            text = f"the folder cannot be listed ({place_of(error)}). Look for links that lead in a circle"
            return [], [Trouble(TroubleKind.NOT_PARSED, text, str(place))]
        # Airflow passes over what it cannot read, as over what has no DAG.
        troubles += [Trouble(TroubleKind.NOT_PARSED, why, file) for file in sorted(passed_over) if (why := _unreadable(file))]
        # In order, so that of two DAGs of one id it is always the same that is refused.
        files.sort()
        for file in files:
            begins(file)
            bag.import_errors.clear()
            try:
                bag.process_file(file, only_if_updated=False, safe_mode=safe_mode)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also SystemExit, which Airflow lets through from a zip
                troubles.append(Trouble(TroubleKind.NOT_PARSED, place_of(error), file))
            troubles += [_of_import(text, _place(name, file, bundle)) for name, text in bag.import_errors.items()]
            if progress is not None:
                progress(1, 0, len(files))
    return list(bag.dags.values()), troubles


def _unreadable(file: str) -> str | None:
    try:
        with Path(file).open("rb"):
            return None
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"


def _place(name: str, file: str, bundle: Path) -> str:
    """The file that Airflow reports an error of: within a zip it is another than the one that was parsed."""
    inside = str(bundle / name)
    return inside if inside.startswith(file) else file


def _of_import(text: str, file: str) -> Trouble:
    """Make a trouble of a traceback: its last words, and the last line of the file that it speaks of."""
    lines = text.rstrip().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith((" ", "Traceback "))), default=-1)
    said = " ".join(lines[last + 1 :]) or "it could not be imported"
    kind = TroubleKind.NOT_PARSED
    if said.startswith("airflow_pipesec.errors.PlanError: "):
        kind, said = TroubleKind.PLAN, said.partition(": ")[2]
    places = [int(found["line"]) for found in _OWN_LINE.finditer(text) if found["file"] == file]
    said = escaped(said)
    return Trouble(
        kind, said if len(said) <= LONGEST_TEXT else f"{said[:LONGEST_TEXT]}…", file, None, places[-1] if places else None
    )


@contextmanager
def _home(folder: Path | None, home: str | None = None) -> Iterator[None]:
    """Give Airflow an empty home where it has none: nothing of this machine counts then, and nothing is left behind."""
    if "airflow" in sys.modules:
        yield
        return
    values = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL", "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    if "AIRFLOW_HOME" not in os.environ:
        if home is None:
            import atexit
            import shutil
            import tempfile

            # Gone at the end and not sooner: Airflow, once imported, keeps this home.
            home = tempfile.mkdtemp(prefix="pipesec-airflow-")
            atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["AIRFLOW_HOME"] = home
        if folder is not None:  # so that Airflow's own bundle is what is measured
            values["AIRFLOW__CORE__DAGS_FOLDER"] = str(folder)
    with _environment({name: os.environ.get(name, value) for name, value in values.items()}):
        yield


@contextmanager
def _settings(environment: str | None) -> Iterator[None]:
    """Leave the organisation's plan out, and tell the files which environment it is."""
    # An empty value is a value: without it the one of airflow.cfg would count.
    chosen = {"AIRFLOW__PIPESEC__PLAN_URL": ""}
    # As much of a traceback as leads back to the line of the DAG's file.
    chosen |= {
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "True",
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "64",
    }
    with _environment(chosen if environment is None else chosen | {"AIRFLOW__PIPESEC__ENVIRONMENT": environment}):
        yield


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let DAG files import their neighbours, as they can where Airflow runs them, and leave nothing of it behind."""
    entry, here, bytecode = str(folder), Path.cwd(), sys.dont_write_bytecode
    sys.path.append(entry)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        os.chdir(here)
        with suppress(ValueError):
            sys.path.remove(entry)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Airflow from logging what is in the troubles anyway, with tracebacks, to whoever waits for a table."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def plan_faults(plan: Plan) -> list[str]:
    """Return what is wrong with the guards of a plan: names, parameters, and values where nothing is left open in them."""
    with _home(None):
        return _guard_faults(plan)


def _guard_faults(plan: Plan) -> list[str]:
    from airflow_pipesec.guards.parameters import checked, demand_guards, demand_names, guard_class, parameters

    faults: list[str] = []
    everywhere = (plan.document.get("defaults") or {}).get("*") or {}
    defaults: dict[str, dict[str, Any]] = {}

    def told(path: Sequence[int | str], error: PlanError) -> None:
        fault = str(plan.fault(tuple(path), str(error)))
        if fault not in faults:
            faults.append(fault)

    for path, name, given in plan.defaults():
        defaults.setdefault(name, {}).update(given)
        try:
            if name != "*":
                demand_names(guard_class(name), given)
        except PlanError as error:
            told(path, error)
    for spec in plan.specs:
        given = {**defaults.get("*", {}), **defaults.get(spec.guard, {}), **spec.parameters}
        if plan.document.get("policy") is not None:
            given.setdefault("policy", plan.document["policy"])
        try:
            cls = guard_class(spec.guard)
            # What stands in an environment for all guards may be for others than this one.
            demand_names(cls, {**everywhere, **defaults.get(spec.guard, {}), **spec.parameters})
            missing = [one.name for one in parameters(cls).values() if one.required and one.name not in given]
            if missing:
                raise PlanError(f"{cls.__name__} lacks {', '.join(missing)}. Give it.")
            known = {name: value for name, value in given.items() if name in parameters(cls) and not _open(value)}
            # A value that is open may be required: then only the names can be looked at.
            if all(name in known for name, one in parameters(cls).items() if one.required):
                checked(cls, known)
        except PlanError as error:
            told(spec.path, error)
    if not faults:
        try:
            demand_guards(plan)  # what weaving looks at first
        except PlanError as error:
            faults.append(str(error))
    return faults


def _open(value: Any) -> bool:
    """Whether a value has places that are filled for each stage."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(_open(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_open, value))


def plan_schema() -> dict[str, Any]:
    """Return the form of a plan as JSON Schema."""
    with _home(None):
        from airflow_pipesec.plan_schema import json_schema

        return json_schema()
