"""The security pages in Airflow's UI."""
