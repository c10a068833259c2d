"""Checks: pure functions that yield findings and know nothing of Airflow."""
