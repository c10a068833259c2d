"""Rendering: templates that escape everything, answers that forbid what the pages do not need, and the few static files.

Whatever was scanned, or written by a user, is hostile: DAG ids, run ids, file names, messages. In a page it is text, made
printable; no style and no script stands in a page, and the policy of its content allows none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import HTTPException, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from airflow_pipesec.findings import escaped

__all__ = [
    "CONTENT_POLICY",
    "HEADERS",
    "Secured",
    "asset",
    "compile_templates",
    "page",
    "run_mark",
    "static_text",
    "text",
    "version",
]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'; object-src 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def _printed(value: Any) -> Any:
    """What a template prints: invisible characters, and those that turn the direction of writing, as escapes."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaped(value)


def _when(moment: datetime | None) -> Markup:
    """A time as people read it, in UTC; the page's script turns it into the reader's own."""
    if moment is None:
        return Markup('<span class="soft">not yet</span>')
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M UTC"))


def run_mark(dag_id: str, run_id: str) -> str:
    """Return what the elements of a page that show the same run are found by: any id can be a run's, and not any an element's."""
    return hashlib.sha256(f"{dag_id}\0{run_id}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _short(digest: str | None, length: int = 12) -> str:
    """The beginning of a digest, with its algorithm."""
    if not digest:
        return ""
    kind, colon, digits = digest.rpartition(":")
    return f"{kind}{colon}{digits[:length]}{'…' if len(digits) > length else ''}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("airflow_pipesec.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": _when, "short": _short}
    environment.globals["run_mark"] = run_mark
    return environment


def compile_templates() -> None:
    """Make the templates ready."""
    version()
    for name in _environment().list_templates():
        _environment().get_template(name)


def page(template: str, values: Mapping[str, Any], *, status: int = 200) -> Response:
    """Return a page. It is of the moment, and of who asked: nobody keeps it."""
    body = _environment().get_template(template).render(**values, version=version())
    return Response(body, status, media_type="text/html; charset=utf-8")


def text(template: str, values: Mapping[str, Any]) -> str:
    """Return what a template comes to."""
    return _environment().get_template(template).render(**values)


@cache
def _assets() -> Mapping[str, bytes]:
    from airflow_pipesec.drawing_style import style
    from airflow_pipesec.ui import charts

    folder = files("airflow_pipesec.ui").joinpath("static")
    found = {item.name: item.read_bytes() for item in folder.iterdir() if item.name.rpartition(".")[2] in _TYPES}
    found["pipesec.css"] += f"\n{charts.CSS}\n{style(dark='.dark')}".encode()
    return found


def static_text(name: str) -> str:
    """Return the text of a static file."""
    return _assets()[name].decode()


@cache
def version() -> str:
    """Return what the static files are called by, which changes when they do."""
    digest = hashlib.sha256()
    for name, data in sorted(_assets().items()):
        digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()[:12]


def asset(name: str) -> Response:
    """Return a static file: one of those that there are, and nothing else has a name here. HTTP 404 for another."""
    data = _assets().get(name)
    if data is None:
        raise HTTPException(404, "There is no such file.")
    headers = {"cache-control": "private, max-age=86400"}
    return Response(data, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


class Secured:
    """An ASGI middleware by which each answer, errors too, says what a browser may do with it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the application does, with our headers where it gave none of that name."""

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                ours = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)
