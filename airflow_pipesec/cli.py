"""``pipesec``: the checks on the command line, without Airflow.

Exit codes: 0 the verdict is PASSED, 1 it is FAILED, 2 it could not be decided (nobody may look, a lost connection, a parameter
or a file that cannot work).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

from airflow_pipesec import __version__
from airflow_pipesec.cli_pipeline import FAILED, PASSED, UNDECIDED, add_commands, run_coverage, run_plan
from airflow_pipesec.cli_scan import Needs, add_scan, run_scan
from airflow_pipesec.errors import ConfigurationError, PipesecError, place_of
from airflow_pipesec.findings import Finding, Status, escaped
from airflow_pipesec.hashing import ALGORITHMS, Progress
from airflow_pipesec.policy import Policy, Verdict, report
from airflow_pipesec.storage import open_store

__all__ = ["main"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

MOST_DAYS = 36_500
WORKERS = "files read at once (default: as many as the storage makes good use of)"

DESCRIPTION = """\
Security checks for ML pipelines, the same that guard an Airflow DAG.

  pipesec manifest data/ -o data.manifest.json        record what is there
  pipesec verify data/ --manifest data.manifest.json  check that nothing changed
  pipesec validate data.csv --suite suite.json        check the rows against a Great Expectations suite
  pipesec scan model.joblib                           say what loading a model file can do
  pipesec verify-run EVIDENCE DAG RUN --trusted-keys keys.yaml   check what the guards of a run signed
  pipesec keygen -o key.txt                           make a key to encrypt with; --signing makes one to sign with
  pipesec keys keys.yaml                              show the keys that are trusted
  pipesec encrypt data/ -o data.enc -r age1…          encrypt for the holder of a key
  pipesec decrypt data.enc -o data/ -i file:key.txt   decrypt, if nothing was tampered with
  pipesec coverage dags/ --plan plan.yaml             show which stages of DAGs are guarded (needs Airflow)
  pipesec plan plan.yaml                              check a plan, and sign it (needs Airflow)
"""
EXIT_CODES = """\
exit codes:
  0  passed
  1  failed: a finding at or above the policy's threshold, or nothing was there to examine
  2  could not decide: access denied, a lost connection, a parameter or file that cannot work

Locations are paths, s3://bucket/key (credentials from boto3's own chain) or any URL that fsspec knows.
"""


def _parser() -> argparse.ArgumentParser:
    class Form(argparse.RawDescriptionHelpFormatter):
        def __init__(self, prog: str) -> None:
            super().__init__(prog, max_help_position=30)

    parser = argparse.ArgumentParser("pipesec", description=DESCRIPTION, epilog=EXIT_CODES, formatter_class=Form)
    parser.add_argument("--version", action="version", version=f"pipesec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("verdict and output")
    group.add_argument("--policy", metavar="FILE", help="policy file: severity threshold and waivers (default: fail on medium)")
    group.add_argument("--json", action="store_true", help="print the verdict and every finding as one JSON document")
    group.add_argument("--quiet", action="store_true", help="no progress bar")

    manifest = commands.add_parser(
        "manifest",
        parents=[shared],
        formatter_class=Form,
        help="record the digest of every file of an artifact",
        description="Record the digest of every file under ROOT in a manifest. Nothing is written when the artifact is\n"
        "doubtful: a symbolic link, a special file, something unreadable, a name that leads outside.\n\n"
        "  pipesec manifest models/v3 -o models/v3.manifest.json\n"
        "  pipesec manifest s3://bucket/models/v3 -o v3.manifest.json --algorithm blake3",
        epilog=EXIT_CODES,
    )
    manifest.add_argument("root", metavar="ROOT", help="a file, a folder or a URL")
    manifest.add_argument("-o", "--output", metavar="FILE", required=True, help="where to write the manifest")
    manifest.add_argument("--algorithm", choices=list(ALGORITHMS), default="sha256", help="(default: %(default)s)")
    manifest.add_argument("--workers", type=int, metavar="N", help=WORKERS)
    sign_help = "sign it: file:PATH, env:NAME or awskms:KEY of a P-256 key (OpenSSF Model Signing v1.0)"
    manifest.add_argument("--sign", metavar="KEY", help=sign_help)

    verify = commands.add_parser(
        "verify",
        parents=[shared],
        formatter_class=Form,
        help="check that an artifact is what was recorded",
        description="Compare every file under ROOT with a manifest, or with a digest given outright: changed, missing, extra,\n"
        "unreadable and ambiguous files are findings.\n\n"
        "  pipesec verify models/v3 --manifest models/v3.manifest.json\n"
        "  pipesec verify model.joblib --expected sha256:9f86d081884c7d65…",
        epilog=EXIT_CODES,
    )
    verify.add_argument("root", metavar="ROOT", help="a file, a folder or a URL")
    against = verify.add_mutually_exclusive_group(required=True)
    against.add_argument("--manifest", metavar="FILE", help="the manifest that was recorded")
    against.add_argument("--expected", metavar="DIGEST", help="the digest of a file (sha256:…) or of a tree (tree:sha256:…)")
    verify.add_argument("--trusted-keys", metavar="FILE", help="demand that the manifest is signed by one of these keys")
    verify.add_argument("--allow-extra", action="store_true", help="let files be that were not recorded")
    verify.add_argument("--workers", type=int, metavar="N", help=WORKERS)

    validate = commands.add_parser(
        "validate",
        parents=[shared],
        formatter_class=Form,
        help="check the rows of a file against expectations",
        description="Validate a CSV, Parquet or JSON-lines file against a Great Expectations suite.\n"
        "No value of the data is printed.\n\n"
        "  pipesec validate rows.csv --suite suite.json\n"
        "  pipesec validate s3://bucket/rows.parquet --suite suite.json --quarantine failing.parquet",
        epilog=EXIT_CODES,
    )
    validate.add_argument("path", metavar="FILE", help="the data: .csv, .parquet, .jsonl")
    validate.add_argument("--suite", metavar="FILE", required=True, help="Great Expectations suite in JSON")
    validate.add_argument(
        "--quarantine", metavar="FILE", help="write the failing rows aside as Parquet; the source stays as it is"
    )
    validate.add_argument("--data-docs", metavar="DIR", help="write Great Expectations' Data Docs there")
    validate.add_argument(
        "--sample-unexpected", type=int, default=0, metavar="N", help="show up to N unexpected values per expectation, masked"
    )
    add_scan(commands, Form, shared, EXIT_CODES)
    encrypt = commands.add_parser(
        "encrypt",
        parents=[shared],
        formatter_class=Form,
        help="encrypt an artifact for the holders of some keys",
        description="Encrypt a file, or every file of a tree, in age format. The source stays as it is.\n\n"
        '  pipesec encrypt model.joblib -o model.joblib.age -r "$(pipesec keygen -o key.txt)"\n'
        "  pipesec encrypt data/ -o s3://bucket/data -r file:recipients.txt",
        epilog=EXIT_CODES,
    )
    encrypt.add_argument("root", metavar="ROOT", help="a file, a folder or a URL")
    encrypt.add_argument("-o", "--output", metavar="PLACE", required=True, help="where the encrypted form goes")
    recipient_help = "a public key (age1…) or file:PATH; may be given several times"
    encrypt.add_argument("-r", "--recipient", metavar="KEY", action="append", required=True, help=recipient_help)

    decrypt = commands.add_parser(
        "decrypt",
        parents=[shared],
        formatter_class=Form,
        help="decrypt an artifact",
        description="Decrypt a file, or every .age file of a tree. A file that was cut, extended or changed is a finding, and\n"
        "nothing of it appears at its place.\n\n"
        "  pipesec decrypt model.joblib.age -o model.joblib -i file:key.txt",
        epilog=EXIT_CODES,
    )
    decrypt.add_argument("root", metavar="ROOT", help="a file, a folder or a URL")
    decrypt.add_argument("-o", "--output", metavar="PLACE", required=True, help="where the plain form goes")
    decrypt.add_argument("-i", "--identity", metavar="WHERE", required=True, help="file:PATH, env:NAME or kms:PATH")

    _add_evidence(commands, Form, shared)
    _add_keys(commands, Form)
    add_commands(commands, Form)
    return parser


def _add_evidence(commands: Commands, form: type[argparse.HelpFormatter], shared: argparse.ArgumentParser) -> None:
    run = commands.add_parser(
        "verify-run",
        parents=[shared],
        formatter_class=form,
        help="check what the guards of a run signed",
        description="Verify the evidence of a run, offline: every attestation is signed by a trusted key that was valid then,\n"
        "belongs to this run, is linked to those of the guards before it, and says PASSED. What must be there is followed\n"
        "from the release gate.\n\n"
        "  pipesec verify-run s3://evidence training manual__2026-11-25T03:00:00+00:00 --trusted-keys keys.yaml\n"
        "  pipesec verify-run evidence/ training run_7 --trusted-keys keys.yaml --artifact model.joblib\n"
        "  pipesec verify-run run_7.zip training run_7 --trusted-keys keys.yaml",
        epilog=EXIT_CODES,
    )
    run.add_argument("evidence", metavar="EVIDENCE", help="the evidence store: a folder, a URL, or an archive of a run (.zip)")
    run.add_argument("dag", metavar="DAG", help="the id of the DAG")
    run.add_argument("run", metavar="RUN", help="the id of the run")
    run.add_argument("--trusted-keys", metavar="FILE", required=True, help="the public keys that are believed")
    gate_help = "the guards that must be there and have passed, each with those before it (default: the release gates)"
    run.add_argument("--gate", metavar="TASK", action="append", default=[], help=gate_help)
    run.add_argument(
        "--may-be-skipped", metavar="TASK", action="append", default=[], help="a guard that may have left no evidence"
    )
    artifact_help = "a file, a folder or a URL that a guard must have examined; may be given several times"
    run.add_argument("--artifact", metavar="PATH", action="append", default=[], help=artifact_help)


def _add_keys(commands: Commands, form: type[argparse.HelpFormatter]) -> None:
    keygen = commands.add_parser(
        "keygen",
        formatter_class=form,
        help="make a key to encrypt for, or to sign with",
        description="Make a new key. The file holds the private half; only you can read it.\n\n"
        "To encrypt for: the public half is printed, and the age program can use the key. With --kms the file holds it\n"
        "wrapped by AWS KMS, and is no secret by itself.\n\n"
        "  pipesec keygen -o key.txt\n"
        "  pipesec keygen -o key.kms.json --kms arn:aws:kms:eu-central-1:111122223333:key/1234abcd\n\n"
        "To sign with: the public half is printed as an entry for a file of trusted keys. With --kms nothing is made: the\n"
        "entry is that of a key which AWS KMS has, and which never leaves it.\n\n"
        "  pipesec keygen --signing -o signing.pem >> trusted-keys.yaml\n"
        "  pipesec keygen --signing --kms alias/pipesec --days 365 >> trusted-keys.yaml",
        epilog=EXIT_CODES,
    )
    keygen.add_argument("-o", "--output", metavar="FILE", help="where the key goes; never overwritten")
    keygen.add_argument("--kms", metavar="KEY", help="the AWS KMS key (id, ARN or alias) that wraps it, or that signs")
    keygen.add_argument("--signing", action="store_true", help="a key that signs evidence and manifests")
    algorithm_help = "of a key that signs; only P-256 can sign manifests (default: ecdsa-p256)"
    keygen.add_argument("--algorithm", choices=["ecdsa-p256", "ed25519"], help=algorithm_help)
    keygen.add_argument("--name", metavar="NAME", help="what people call a key that signs (default: the file's name)")
    keygen.add_argument("--days", type=int, metavar="N", help="how long a key that signs is valid (default: no end)")

    keys = commands.add_parser(
        "keys",
        formatter_class=form,
        help="show the keys that are trusted",
        description="Show a file of trusted keys, and which of them are valid now. Exit code 1 when none is.\n\n"
        "  pipesec keys trusted-keys.yaml",
        epilog=EXIT_CODES,
    )
    keys.add_argument("file", metavar="FILE", help="the file")
    keys.add_argument("--json", action="store_true", help="print one JSON document")


def _keygen(options: argparse.Namespace) -> str:
    from airflow_pipesec.keys import wrap_identity, write_identity

    if options.signing:
        return _signing_key(options)
    if options.algorithm or options.name or options.days is not None:
        raise ConfigurationError("--algorithm, --name and --days are for keys that sign. Add --signing, or leave them out.")
    if not options.output:
        raise ConfigurationError("there is no --output FILE for the key to go to. Give one.")
    path = Path(options.output)
    identity = wrap_identity(path, options.kms) if options.kms else write_identity(path)
    return str(identity.recipient)


def _signing_key(options: argparse.Namespace) -> str:
    from airflow_pipesec.signing import KMSSigner, Signer, entry_of, new_private_key

    if (options.kms is None) == (options.output is None):
        raise ConfigurationError("give either --output FILE for a new key, or --kms KEY for one that AWS KMS has.")
    if options.days is not None and not 1 <= options.days <= MOST_DAYS:
        raise ConfigurationError(f"--days {options.days} is not a number of days from 1 to {MOST_DAYS}.")
    signer: Signer
    if options.kms is not None:
        if options.algorithm not in (None, "ecdsa-p256"):
            raise ConfigurationError("keys of AWS KMS are P-256 here. Leave --algorithm out.")
        signer = KMSSigner(options.kms)
    else:
        signer = new_private_key(Path(options.output), options.algorithm or "ecdsa-p256")
    now = datetime.now(UTC)
    until = None if options.days is None else now + timedelta(days=options.days)
    name = options.name or (Path(options.output).stem if options.output else options.kms)
    # Dated back a little, for the clocks of workers that are behind this one.
    start = now - timedelta(minutes=5)
    return entry_of(signer.public_key, name=name, valid_from=start, valid_until=until).rstrip("\n")


def _keys(options: argparse.Namespace) -> tuple[int, str]:
    from airflow_pipesec.signing import TrustedKeys

    now = datetime.now(UTC)
    rows = [
        {
            "name": key.name,
            "key_id": key.key_id,
            "algorithm": key.algorithm,
            "valid_from": key.valid_from and key.valid_from.isoformat(),
            "valid_until": key.valid_until and key.valid_until.isoformat(),
            "valid_now": not key.fault(now),
            "reason": key.fault(now),
        }
        for key in TrustedKeys.load(options.file)
    ]
    code = PASSED if any(row["valid_now"] for row in rows) else FAILED
    if options.json:
        return code, json.dumps(rows, indent=1)
    lines = [f"{'key id':<18}{'algorithm':<12}{'state':<9}name"]
    for row in rows:
        state = "valid" if row["valid_now"] else "refused"
        reason = f": {row['reason']}" if row["reason"] else ""
        lines.append(escaped(f"{str(row['key_id'])[:16]:<18}{row['algorithm']:<12}{state:<9}{row['name']}{reason}"))
    return code, "\n".join(lines)


def _verify_run(options: argparse.Namespace, progress: Progress | None) -> Iterator[Finding]:
    from airflow_pipesec.archive import evidence_store
    from airflow_pipesec.checks.release import examined_of, stock_of, verify_stored
    from airflow_pipesec.evidence import RunEvidence, folder_of
    from airflow_pipesec.signing import TrustedKeys

    trusted = TrustedKeys.load(options.trusted_keys)
    run = RunEvidence(evidence_store(options.evidence, folder_of(options.dag, options.run)))
    artifacts = {}
    if options.artifact:
        examined = examined_of(run.load(options.dag, options.run, trusted).witnesses.values())
        for path in options.artifact:
            manifest, problems = stock_of(open_store(path), examined, progress=progress)
            yield from problems
            if manifest is not None:
                artifacts[path] = manifest.digest
    yield from verify_stored(
        run,
        options.dag,
        options.run,
        trusted,
        now=datetime.now(UTC),
        gates=options.gate,
        may_be_skipped=options.may_be_skipped,
        artifacts=artifacts,
    )


def _findings(options: argparse.Namespace, progress: Progress | None, needs: Needs) -> Iterable[Finding]:
    if options.command == "scan":
        return run_scan(options, progress, needs)
    if options.command == "validate":
        from airflow_pipesec.checks.quality import Rules, load_suite, refuse_replacing, validate_file

        suite = open_store(options.suite)
        quarantine = None if options.quarantine is None else open_store(options.quarantine)
        if quarantine is not None:
            refuse_replacing(quarantine, suite)
        return validate_file(
            open_store(options.path),
            Rules(suite=load_suite(suite)),
            sample_unexpected=options.sample_unexpected,
            quarantine=quarantine,
            data_docs_dir=options.data_docs,
        )
    if options.command == "verify-run":
        return _verify_run(options, progress)
    root = open_store(options.root)
    if options.command in ("encrypt", "decrypt"):
        from airflow_pipesec.checks import encryption
        from airflow_pipesec.keys import identities_from, recipients_from

        target = open_store(options.output)
        if options.command == "encrypt":
            return encryption.encrypt(root, target, recipients_from(options.recipient), progress=progress)
        return encryption.decrypt(root, target, identities_from(options.identity), progress=progress)
    from airflow_pipesec.checks import integrity
    from airflow_pipesec.signing import TrustedKeys

    if options.command == "manifest":
        from airflow_pipesec.signing import signer_from

        return integrity.write_manifest(
            root,
            open_store(options.output),
            algorithm=options.algorithm,
            workers=options.workers,
            progress=progress,
            signer=None if options.sign is None else signer_from(options.sign, parameter="--sign="),
        )
    return integrity.verify(
        root,
        manifest=None if options.manifest is None else open_store(options.manifest),
        expected=options.expected,
        allow_extra=options.allow_extra,
        workers=options.workers,
        progress=progress,
        trusted=None if options.trusted_keys is None else TrustedKeys.load(options.trusted_keys),
    )


@contextmanager
def _progress_bar(stream: IO[str] | None, *, wanted: bool) -> Iterator[Progress | None]:
    """A bar on a terminal, nothing anywhere else."""
    if not wanted or stream is None or not stream.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn())
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def progress(files: int, size: int, total: int) -> None:
            bar.update(task, advance=files, total=total)

        yield progress


def _exit_code(verdict: Verdict) -> int:
    if verdict.passed:
        return PASSED
    blocking = verdict.blocking
    return UNDECIDED if blocking and all(finding.status is Status.ERROR for finding in blocking) else FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        parser.print_help()
        return UNDECIDED
    options = parser.parse_args(arguments)
    try:
        code, text = _run(options)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its number
        if text:
            print(text, flush=True)  # noqa: T201 - the output of the program
    except OSError as error:
        # Python would try to write the rest once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever reads no further has seen enough
            print(f"pipesec: the output could not be written: {error.strerror}", file=sys.stderr)  # noqa: T201 - see above
            return UNDECIDED
    return code


def _run(options: argparse.Namespace) -> tuple[int, str]:
    """Run one command and return its exit code and what it prints."""
    started = time.monotonic()
    try:
        if options.command == "keygen":
            return PASSED, _keygen(options)
        if options.command == "keys":
            return _keys(options)
        if options.command == "plan":
            return run_plan(options)
        if options.command == "coverage":
            return run_coverage(options, lambda: _progress_bar(sys.stderr, wanted=not options.quiet))
        policy = Policy.load(options.policy)
        if options.command == "verify-run":
            from airflow_pipesec.checks.release import WAIVABLE

            policy.demand_only(WAIVABLE)
        # A file that is validated is read as a whole: there is nothing to count.
        wanted = not options.quiet and not options.json and options.command != "validate"
        with _progress_bar(sys.stderr, wanted=wanted) as progress:
            verdict = policy.judge(_findings(options, progress, needs := Needs()), today=datetime.now(UTC).date())
    except PipesecError as error:
        return _undecided(options, escaped(str(error))), ""
    except KeyboardInterrupt:
        return _undecided(options, "interrupted, nothing was decided"), ""
    except Exception as error:
        # A defect, or an error of a library: nothing was decided, and its message may quote the data.
        return _undecided(options, f"{place_of(error)}: this should not happen, please report it"), ""
    seconds = time.monotonic() - started
    if options.json:
        return _exit_code(verdict), json.dumps(verdict.document() | {"seconds": round(seconds, 3)}, indent=1)
    what = {"scan": "paths", "validate": "path", "verify-run": "run"}.get(options.command, "root")
    named = getattr(options, what)
    # What follows a "?" of a URL may be a signature, which opens the file to whoever reads it.
    shown = " ".join(each.partition("?")[0] if "://" in each else each for each in ([named] if isinstance(named, str) else named))
    text = "\n".join(line.text for line in report(verdict, title=f"{options.command} {shown}", seconds=seconds))
    if options.command == "scan" and options.suggest_allow:
        from airflow_pipesec.scan.allow import AllowList

        if sys.stderr is not None:
            print(text, file=sys.stderr)  # noqa: T201 - the output of the program
        text = needs.allow_list(AllowList.load(options.allow)).rstrip("\n")
    return _exit_code(verdict), text


def _undecided(options: argparse.Namespace, reason: str) -> int:
    if getattr(options, "json", False):
        print(json.dumps({"outcome": "ERROR", "reason": reason}))  # noqa: T201 - the output of the program
    if sys.stderr is not None:  # closed by whoever started us; print() would turn to standard output
        print(f"pipesec: {reason}", file=sys.stderr)  # noqa: T201 - the output of the program
    return UNDECIDED


if __name__ == "__main__":
    sys.exit(main())
