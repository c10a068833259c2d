"""Scan: what loading a model file can do, decided from its bytes, without importing or executing anything in them.

:mod:`airflow_pipesec.scan.scanner` looks at one artifact and says what it found, part by part: :func:`~scanner.scan_view`. The
formats have a module each, and :mod:`airflow_pipesec.scan.sniff` tells from the bytes which of them a part is.
:mod:`airflow_pipesec.scan.allow` holds the names that a file may use; all others are refused. Nothing here knows Airflow.
"""

__all__: list[str] = []
