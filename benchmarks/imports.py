"""What importing operators, sensors and consume adds to a DAG file that already imports airflow.sdk, in milliseconds."""

from __future__ import annotations

import statistics
import subprocess
import sys

PROGRAM = """
import time
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task
start = time.perf_counter()
import airflow_pipesec.operators, airflow_pipesec.sensors, airflow_pipesec.consume
print(time.perf_counter() - start)
"""


def main() -> None:
    runs = [
        float(subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout.split()[-1])
        for _ in range(7)
    ]
    best, middle = min(runs) * 1000, statistics.median(runs) * 1000
    print(
        f"import of operators, sensors and consume after airflow.sdk: {best:.1f} ms best, {middle:.1f} ms median (goal: < 50 ms)"
    )


if __name__ == "__main__":
    main()
