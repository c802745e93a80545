# SPDX-License-Identifier: Apache-2.0
"""What CI runs, a laptop runs: ``nox -s lint types tests``. Extra arguments go to the tool."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "tests"]


def install(session: nox.Session) -> None:
    session.install("-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    install(session)
    session.run("mypy", *session.posargs)
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "tests/contract", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    install(session)
    # `tests/faults` first, as its options are known by then; the rest for the rows that stand elsewhere.
    session.run("pytest", "tests/faults", "tests", "-m", "faults or row", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "tests/docs", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(name="redis-lowest")
def redis_lowest(session: nox.Session) -> None:
    install(session)
    session.install("redis==5.0.*", "hiredis==2.3.*")
    session.run("pytest", "tests/unit/backends/redis", "tests/integration/redis", *session.posargs)
