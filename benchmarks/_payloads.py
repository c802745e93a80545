# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks send: a small model, and one as large as a webhook."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter


class Email(BaseModel):
    """A message as most are: a few short fields."""

    to: str
    subject: str
    template: int
    urgent: bool = False


class Commit(BaseModel):
    """One of many in a webhook."""

    id: str
    message: str
    author: str
    added: list[str]
    modified: list[str]
    distinct: bool


class Push(BaseModel):
    """About 10 KB of JSON, shaped like a webhook of a code host."""

    ref: str
    repository: dict[str, str]
    commits: list[Commit]


EMAIL: TypeAdapter[Email] = TypeAdapter(Email)
PUSH: TypeAdapter[Push] = TypeAdapter(Push)


def emails(count: int) -> list[Email]:
    """Small payloads, each different."""
    return [Email(to=f"ada{i}@example.com", subject=f"Your order {i}", template=i % 7) for i in range(count)]


def pushes(count: int) -> list[Push]:
    """Large payloads, each different."""
    repository = {f"url_{n}": f"https://code.example/api/repositories/1/resource/{n}{{/id}}" for n in range(40)}
    return [Push(ref=f"refs/heads/{i}", repository=repository, commits=_commits(i)) for i in range(count)]


def _commits(seed: int) -> list[Commit]:
    return [
        Commit(
            id=f"{seed:020x}{n:020x}",
            message=f"Correct the {n}th of many things, and say at some length why it was wrong before",
            author="Ada Lovelace <ada@example.com>",
            added=[f"src/package/module_{n}.py", f"tests/test_module_{n}.py"],
            modified=[f"docs/reference/page_{n}.md", "CHANGELOG.md"],
            distinct=True,
        )
        for n in range(20)
    ]


def dump(adapter: TypeAdapter[Any], value: Any) -> bytes:
    """As queuekit's codec dumps."""
    return adapter.dump_json(value, by_alias=True, round_trip=True, warnings="error")
