"""``pipesec scan``: what loading model files can do, and the allow-list that they need."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding, escaped
from airflow_pipesec.storage import open_store

if TYPE_CHECKING:
    from airflow_pipesec.hashing import Progress
    from airflow_pipesec.scan.allow import Entry
    from airflow_pipesec.scan.scanner import Scan

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["Needs", "add_scan", "run_scan"]

HEAD = """\
# What the files use that were scanned, and nothing else: no list that comes with airflow_pipesec counts beside this one.
# A name under call that has arguments behind it may be called with those alone.
shipped: false
"""


@dataclass(slots=True)
class Needs:
    """What the files that were scanned use of the allow-list, and the names that were refused."""

    used: set[Entry] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def see(self, url: str, scan: Scan) -> None:
        """Take in one file."""
        self.used.update(scan.used)
        self.refused.update(scan.refused)

    def allow_list(self, allow: Any) -> str:
        """Return an allow-list, as YAML, of what was used; how things may be called is taken from ``allow``."""
        import yaml

        from airflow_pipesec.scan.allow import LISTS, RIGHTS, written

        sections: dict[str, Any] = {}
        for right in RIGHTS:
            names: dict[str, set[str]] = defaultdict(set)
            for entry in self.used:
                if entry.right == right:
                    names[entry.module].add(entry.name)
            if right == "call":
                section: Any = {
                    module: {name: written(allow.call.get((module, name))) for name in sorted(names[module])}
                    for module in sorted(names)
                }
            else:
                section = {module: sorted(names[module]) for module in sorted(names)}
            if section:
                sections[right] = section
        for right in LISTS:
            if found := sorted(str(entry) for entry in self.used if entry.right == right):
                sections[right] = found
        body = yaml.safe_dump(sections, sort_keys=False, width=120, allow_unicode=True) if sections else ""
        lines = [f"# refused, and to be added only by who knows what it does: {escaped(name)}" for name in sorted(self.refused)]
        return HEAD + body + "\n".join(lines) + ("\n" if lines else "")


def add_scan(commands: Commands, form: type[argparse.HelpFormatter], shared: argparse.ArgumentParser, codes: str) -> None:
    """Add the command to the command line."""
    scan = commands.add_parser(
        "scan",
        parents=[shared],
        formatter_class=form,
        help="say what loading model files can do, without loading them",
        description="Look at model files, by their bytes: pickle, joblib, torch, numpy, Keras, SavedModel, ONNX, GGUF,\n"
        "safetensors, skops, and the archives around them. Nothing in them is imported or executed. A file passes when\n"
        "loading it uses only names that are on the allow-list; one that nobody can judge fails.\n\n"
        "  pipesec scan model.joblib\n"
        "  pipesec scan models/ s3://bucket/model.pt --allow allow.yaml\n"
        "  pipesec scan models/ --suggest-allow > allow.yaml      what these files need, and nothing else",
        epilog=codes,
    )
    scan.add_argument("paths", metavar="PATH", nargs="+", help="a file, a folder or a URL")
    scan.add_argument("--allow", metavar="FILE", help="an allow-list, besides those that come with this package")
    scan.add_argument("--suggest-allow", action="store_true", help="print an allow-list of just what the files use")
    scan.add_argument("--digest", action="store_true", help="read each file whole, and name its SHA-256")
    opinion_help = "ask picklescan, NAME=PROGRAM or NAME=COMMAND as well; may be given several times"
    scan.add_argument("--second-opinion", metavar="SCANNER", action="append", default=[], help=opinion_help)


def run_scan(options: argparse.Namespace, progress: Progress | None, needs: Needs) -> Iterator[Finding]:
    """Yield the findings of ``pipesec scan``, and note what the files need."""
    from airflow_pipesec.checks.artifacts import scan_artifact
    from airflow_pipesec.scan.allow import AllowList
    from airflow_pipesec.scan.opinions import opinions_from

    if options.suggest_allow and options.json:
        raise ConfigurationError("--suggest-allow prints an allow-list, and --json something else. Leave one of them out.")
    allow, opinions = AllowList.load(options.allow), opinions_from(options.second_opinion)
    stores: Iterable[Any] = [open_store(path) for path in options.paths]
    for store in stores:
        yield from scan_artifact(store, allow, digests=options.digest, opinions=opinions, progress=progress, seen=needs.see)
