"""airflow_pipesec: a security guard between every two stages of an Airflow ML pipeline.

Start here::

    from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator
    from airflow_pipesec.sensors import HashVerificationSensor

The parts, from the inside out:

* :mod:`airflow_pipesec.findings`: what a check says: one control on one subject, pass, fail, skip or error.
* :mod:`airflow_pipesec.checks`: pure functions that yield findings and know nothing of Airflow.
* :mod:`airflow_pipesec.policy`: what the findings mean: severity threshold and waivers make a verdict.
* :mod:`airflow_pipesec.guards`: the Airflow faces of the checks, one operator and one sensor each.

Importing this package imports nothing else.
"""

__version__ = "0.1.0"
