"""airflow_pipesec: a security guard between every two stages of an Airflow ML pipeline.

Start here::

    from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator
    from airflow_pipesec.sensors import HashVerificationSensor

or, for a DAG that is there already, at the end of its file::

    from airflow_pipesec import secure

    secure(dag, "plan.yaml")

The parts, from the inside out:

* :mod:`airflow_pipesec.findings`: what a check says: one control on one subject, pass, fail, skip or error.
* :mod:`airflow_pipesec.checks`: pure functions that yield findings and know nothing of Airflow.
* :mod:`airflow_pipesec.policy`: what the findings mean: severity threshold and waivers make a verdict.
* :mod:`airflow_pipesec.guards`: the Airflow faces of the checks, one operator and one sensor each.
* :mod:`airflow_pipesec.plan` and :mod:`airflow_pipesec.weave`: which guards stand where, and how they come between the stages.

* :mod:`airflow_pipesec.scan`: what loading a model file can do, by its bytes; :func:`load_pickle` loads what that lets pass.

Importing this package imports nothing else; :func:`secure`, :func:`coverage_of` and :func:`load_pickle` are looked up when they
are asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_pipesec.scan.loading import load_pickle
    from airflow_pipesec.survey import coverage_of
    from airflow_pipesec.weave import secure

__all__ = ["__version__", "coverage_of", "load_pickle", "secure"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Every module of the package imports this one first, also those that do without Airflow.
    if name == "secure":
        from airflow_pipesec.weave import secure

        return secure
    if name == "coverage_of":
        from airflow_pipesec.survey import coverage_of

        return coverage_of
    if name == "load_pickle":
        from airflow_pipesec.scan.loading import load_pickle

        return load_pickle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
