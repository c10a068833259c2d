"""Guards: the Airflow faces of the checks, one operator and one sensor each."""
