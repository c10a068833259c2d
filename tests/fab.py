"""FAB's users and roles, over its REST API."""

from __future__ import annotations

import secrets
from typing import Any

import httpx

from tests.stack import Stack


def fab_call(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {stack.token('admin')}"}
    answer = httpx.request(method, f"{stack.url}/auth/fab/v1{path}", json=body, headers=headers, timeout=30)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def add_person(stack: Stack, name: str, role: str) -> None:
    """Add a user, who can sign in as those of the stack can."""
    password = stack.passwords.setdefault(name, secrets.token_hex(8))
    person = {"username": name, "password": password, "roles": [{"name": role}], "first_name": name, "last_name": "x"}
    fab_call(stack, "POST", "/users", person | {"email": f"{name}@example.org"})
