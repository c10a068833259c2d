"""An auth manager that separates DAGs, as Airflow's simple one cannot, and Airflow's own app in this process, the pages in it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import quote, urlencode

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN, BaseAuthManager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

if TYPE_CHECKING:
    from starlette.testclient import TestClient

__all__ = ["Asked", "Person", "SeparatingAuthManager", "Server", "routes", "serving"]


@dataclass(frozen=True)
class Person(BaseUser):
    """Who asks, the DAGs that they may read (None: each), what of these they may not, and whether they may read connections."""

    name: str
    reads: frozenset[str] | None = frozenset()
    denied: frozenset[DagAccessEntity] = frozenset()
    connections: bool = False

    def get_id(self) -> str:
        return self.name

    def get_name(self) -> str:
        return self.name


class SeparatingAuthManager(BaseAuthManager[Person]):
    """Lets each person read the DAGs that are theirs, and change nothing. All that it knows of them stands in their token."""

    def deserialize_user(self, token: dict[str, Any]) -> Person:
        reads = token["reads"]
        return Person(
            token["sub"],
            None if reads is None else frozenset(reads),
            frozenset(DagAccessEntity[name] for name in token["denied"]),
            token["connections"],
        )

    def serialize_user(self, user: Person) -> dict[str, Any]:
        return {
            "sub": user.name,
            "reads": None if user.reads is None else sorted(user.reads),
            "denied": sorted(entity.name for entity in user.denied),
            "connections": user.connections,
        }

    def get_url_login(self, **kwargs: Any) -> str:
        return "/auth/login"

    def is_authorized_dag(self, *, method: str, user: Person, access_entity: Any = None, details: Any = None) -> bool:
        if method != "GET" or access_entity in user.denied:
            return False
        return user.reads is None or (details is not None and details.id in user.reads)

    def is_authorized_connection(self, *, method: str, user: Person, details: Any = None) -> bool:
        return method == "GET" and user.connections

    def is_authorized_configuration(self, *, method: str, user: Person, details: Any = None) -> bool:
        return False

    def is_authorized_asset(self, *, method: str, user: Person, details: Any = None) -> bool:
        return False

    def is_authorized_asset_alias(self, *, method: str, user: Person, details: Any = None) -> bool:
        return False

    def is_authorized_pool(self, *, method: str, user: Person, details: Any = None) -> bool:
        return False

    def is_authorized_variable(self, *, method: str, user: Person, details: Any = None) -> bool:
        return False

    def is_authorized_view(self, *, access_view: Any, user: Person) -> bool:
        return False

    def is_authorized_custom_view(self, *, method: str, resource_name: str, user: Person) -> bool:
        return False

    def filter_authorized_menu_items(self, menu_items: list[Any], *, user: Person) -> list[Any]:
        return []


@dataclass(frozen=True)
class Server:
    """Airflow's app, with the pages in it."""

    app: Any

    def token(self, person: Person, *, seconds: int = 3600) -> str:
        """Return a token of a person; with a negative number of seconds, one that has expired."""
        from airflow.api_fastapi.app import get_auth_manager

        return str(get_auth_manager().generate_jwt(person, expiration_time_in_seconds=seconds))

    def client(
        self, person: Person | None = None, *, cookie: bool = False, headers: Mapping[str, str] | None = None
    ) -> TestClient:
        """Return a client of a person, or of nobody. An exception in the server is an answer of it, as elsewhere: HTTP 500."""
        from starlette.testclient import TestClient

        given = dict(headers or {})
        cookies: dict[str, str] = {}
        if person is not None and cookie:
            cookies[COOKIE_NAME_JWT_TOKEN] = self.token(person)
        elif person is not None:
            given["authorization"] = f"Bearer {self.token(person)}"
        return TestClient(
            self.app, "http://airflow.test", headers=given, cookies=cookies, raise_server_exceptions=False, follow_redirects=False
        )

    def reader(self, *dag_ids: str, denied: Collection[DagAccessEntity] = ()) -> TestClient:
        """Return a client of somebody who may read some DAGs."""
        return self.client(Person("rita", frozenset(dag_ids), frozenset(denied)))


@cache
def _app() -> tuple[Any, Any]:
    from airflow.api_fastapi import app as airflows

    airflows.purge_cached_app()
    return airflows.create_app(apps="core"), airflows.get_auth_manager()


@contextmanager
def serving() -> Iterator[Server]:
    """Have the app that Airflow's API server serves, made once, with this auth manager; which is gone again at the end."""
    from airflow.api_fastapi import app as airflows

    name = f"{SeparatingAuthManager.__module__}.{SeparatingAuthManager.__name__}"
    told = {"AIRFLOW__CORE__AUTH_MANAGER": name, "AIRFLOW__API_AUTH__JWT_SECRET": "not secret " * 8}
    with mock.patch.dict("os.environ", told):
        app, manager = _app()
        with mock.patch.object(airflows._AuthManagerState, "instance", manager):
            yield Server(app)
    airflows.purge_cached_app()


@dataclass(frozen=True)
class Asked:
    """A route of the pages, and what can be asked of it: the names of its parameters, and those that it demands."""

    path: str
    methods: frozenset[str]
    parameters: tuple[str, ...]
    demanded: frozenset[str]

    def url(self, given: Mapping[str, Any]) -> str:
        """Return its address with what is given of its parameters, and with nothing else; a list is given one by one."""
        place = "/pipesec" + self.path
        for name in re.findall(r"{(\w+)}", self.path):
            place = place.replace(f"{{{name}}}", quote(str(given[name]), safe=""))
        query = [(name, value) for name, value in given.items() if name in self.parameters and f"{{{name}}}" not in self.path]
        return place + (f"?{urlencode(query, doseq=True)}" if query else "")


def routes() -> list[Asked]:
    """Return every route of the pages, as they are now: one that is new is among them."""
    from fastapi.dependencies.utils import get_flat_dependant
    from fastapi.routing import APIRoute

    from airflow_pipesec.api import app

    found = []
    for route in app.routes:
        assert isinstance(route, APIRoute), f"{route} is no route that can be walked"
        flat = get_flat_dependant(route.dependant)
        fields = [*flat.path_params, *flat.query_params]
        assert not flat.body_params, f"{route.path} takes a body"
        demanded = frozenset(field.alias for field in fields if field.field_info.is_required())
        found.append(Asked(route.path, frozenset(route.methods), tuple(field.alias for field in fields), demanded))
    return found
