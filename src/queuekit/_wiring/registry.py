# SPDX-License-Identifier: Apache-2.0
"""Which backend a scheme means, and which extra brings it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from queuekit._values.errors import BackendMissingError, SetupError, UnknownSchemeError
from queuekit.backend import SPI_VERSION, BackendSpec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "queuekit.backends"


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A backend that ships with queuekit.

    Attributes:
        target: ``module:attribute`` of its `BackendSpec`.
        extra: The extra that brings its packages; empty where it needs none.
    """

    target: str
    extra: str = ""


BUILT_INS: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "memory": BuiltIn("queuekit.backends.memory:SPEC"),
        "sqlite": BuiltIn("queuekit.backends.sqlite:SPEC"),
    }
)


def known_schemes() -> tuple[str, ...]:
    """Every scheme that can be opened here, third parties' included, sorted."""
    return tuple(sorted({*BUILT_INS, *_entry_points()}))


def find_spec(scheme: str) -> BackendSpec:
    """Import the backend of a scheme.

    Entry points are read only for a scheme that is not built in, and only the one asked for is imported,
    so that a broken plug-in cannot break another scheme.

    Raises:
        UnknownSchemeError: No backend has this scheme; the nearest known one is offered.
        BackendMissingError: Its packages are not installed; the message holds the command.
        SetupError: The plug-in does not load, two claim the scheme, or it was written for another SPI.
    """
    if scheme in BUILT_INS:
        return _load_built_in(scheme, BUILT_INS[scheme])
    candidates = _entry_points().get(scheme)
    if not candidates:
        raise UnknownSchemeError(_unknown(scheme))
    chosen, *others = candidates
    if others:
        packages = ", ".join(sorted(each.value for each in candidates))
        msg = f"two packages register the scheme {scheme!r}: {packages}; uninstall one"
        raise SetupError(msg)
    return _load_plugin(scheme, chosen)


def _entry_points() -> dict[str, tuple[EntryPoint, ...]]:
    # Costs a tenth of importing everything else, and only foreign and misspelt schemes need it.
    from importlib.metadata import entry_points

    found: dict[str, tuple[EntryPoint, ...]] = {}
    for each in entry_points(group=ENTRY_POINT_GROUP):
        if all(each.value != known.value for known in found.get(each.name, ())):
            found[each.name] = (*found.get(each.name, ()), each)
    return found


def _load_built_in(scheme: str, entry: BuiltIn) -> BackendSpec:
    module, _, attribute = entry.target.partition(":")
    try:
        spec: BackendSpec = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        remedy = f"pip install 'queuekit[{entry.extra}]'" if entry.extra else "see the cause"
        msg = f"the {scheme} backend needs packages that are not installed; {remedy}"
        raise BackendMissingError(msg) from error
    return spec


def _load_plugin(scheme: str, entry: EntryPoint) -> BackendSpec:
    try:
        spec = entry.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        msg = f"the plug-in {entry.value!r} for the scheme {scheme!r} cannot be imported; see the cause"
        raise SetupError(msg) from error
    if not isinstance(spec, BackendSpec):
        msg = f"the plug-in {entry.value!r} for the scheme {scheme!r} is no BackendSpec; ask its author"
        raise SetupError(msg)
    if spec.spi_version != SPI_VERSION:
        msg = (
            f"the plug-in {entry.value!r} was written for version {spec.spi_version} of the backend interface, "
            f"and this queuekit has {SPI_VERSION}; install versions that match"
        )
        raise SetupError(msg)
    return spec


def _unknown(scheme: str) -> str:
    from difflib import get_close_matches

    known = known_schemes()
    near = get_close_matches(scheme, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"no backend for scheme {scheme!r}; {hint}"
