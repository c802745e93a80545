# SPDX-License-Identifier: Apache-2.0
"""Which backend, or which store, a scheme means, and which extra brings it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from queuekit._values.errors import BackendMissingError, SetupError, UnknownSchemeError
from queuekit.backend import SPI_VERSION, BackendSpec
from queuekit.stores import STORE_VERSION, StoreSpec

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


_REDIS = BuiltIn("queuekit.backends.redis:SPEC", extra="redis")
_REDIS_STORE = BuiltIn("queuekit.backends.redis._idempotency:STORE", extra="redis")
_REDIS_SCHEMES = tuple(
    f"{name}{form}" for name in ("redis", "valkey") for form in ("", "s", "+unix", "+cluster", "+sentinel")
)

BUILT_INS: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "memory": BuiltIn("queuekit.backends.memory:SPEC"),
        "sqlite": BuiltIn("queuekit.backends.sqlite:SPEC"),
        **dict.fromkeys(_REDIS_SCHEMES, _REDIS),
        "sqs": BuiltIn("queuekit.backends.sqs:SPEC", extra="sqs"),
        "pubsub": BuiltIn("queuekit.backends.pubsub:SPEC", extra="pubsub"),
        "cloudtasks": BuiltIn("queuekit.backends.cloudtasks:SPEC", extra="cloudtasks"),
    }
)


STORE_ENTRY_POINT_GROUP = "queuekit.stores"

BUILT_IN_STORES: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "memory": BuiltIn("queuekit.backends._memory_idempotency:STORE"),
        "sqlite": BuiltIn("queuekit.backends.sqlite._idempotency:STORE"),
        **dict.fromkeys(_REDIS_SCHEMES, _REDIS_STORE),
    }
)


def known_schemes() -> tuple[str, ...]:
    """Every scheme that can be opened here, third parties' included, sorted."""
    return _backends().known()


def find_spec(scheme: str) -> BackendSpec:
    """Import the backend of a scheme.

    Entry points are read only for a scheme that is not built in, and only the one asked for is imported,
    so that a broken plug-in cannot break another scheme.

    Raises:
        UnknownSchemeError: No backend has this scheme; the nearest known one is offered.
        BackendMissingError: Its packages are not installed; the message holds the command.
        SetupError: The plug-in does not load, two claim the scheme, or it was written for another SPI.
    """
    return _backends().find(scheme)


def find_store(scheme: str) -> StoreSpec:
    """Import the idempotency store of a scheme. Raises as `find_spec` does."""
    return _stores().find(scheme)


class _Versioned(Protocol):
    @property
    def spi_version(self) -> int: ...


S = TypeVar("S", bound=_Versioned)


@dataclass(frozen=True, slots=True)
class _Shelf(Generic[S]):
    """What is found by scheme: built in, or by entry point."""

    noun: str
    kind: type[S]
    version: int
    group: str
    built_ins: Mapping[str, BuiltIn]

    def known(self) -> tuple[str, ...]:
        return tuple(sorted({*self.built_ins, *self._entry_points()}))

    def find(self, scheme: str) -> S:
        if scheme in self.built_ins:
            return self._load_built_in(scheme, self.built_ins[scheme])
        candidates = self._entry_points().get(scheme)
        if not candidates:
            raise UnknownSchemeError(self._unknown(scheme))
        chosen, *others = candidates
        if others:
            packages = ", ".join(sorted(each.value for each in candidates))
            msg = f"two packages register the scheme {scheme!r}: {packages}; uninstall one"
            raise SetupError(msg)
        return self._load_plugin(scheme, chosen)

    def _entry_points(self) -> dict[str, tuple[EntryPoint, ...]]:
        # Costs a tenth of importing everything else, and only foreign and misspelt schemes need it.
        from importlib.metadata import entry_points

        found: dict[str, tuple[EntryPoint, ...]] = {}
        for each in entry_points(group=self.group):
            if all(each.value != known.value for known in found.get(each.name, ())):
                found[each.name] = (*found.get(each.name, ()), each)
        return found

    def _load_built_in(self, scheme: str, entry: BuiltIn) -> S:
        module, _, attribute = entry.target.partition(":")
        try:
            spec: S = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            remedy = f"pip install 'queuekit[{entry.extra}]'" if entry.extra else "see the cause"
            msg = f"the {scheme} {self.noun} needs packages that are not installed; {remedy}"
            raise BackendMissingError(msg) from error
        return spec

    def _load_plugin(self, scheme: str, entry: EntryPoint) -> S:
        try:
            spec = entry.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            msg = f"the plug-in {entry.value!r} for the scheme {scheme!r} cannot be imported; see the cause"
            raise SetupError(msg) from error
        if not isinstance(spec, self.kind):
            msg = f"the plug-in {entry.value!r} for the scheme {scheme!r} is no {self.kind.__name__}; ask its author"
            raise SetupError(msg)
        if spec.spi_version != self.version:
            msg = (
                f"the plug-in {entry.value!r} was written for version {spec.spi_version} of the {self.noun} "
                f"interface, and this queuekit has {self.version}; install versions that match"
            )
            raise SetupError(msg)
        return spec

    def _unknown(self, scheme: str) -> str:
        from difflib import get_close_matches

        known = self.known()
        near = get_close_matches(scheme, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"no {self.noun} for scheme {scheme!r}; {hint}"


def _backends() -> _Shelf[BackendSpec]:
    return _Shelf("backend", BackendSpec, SPI_VERSION, ENTRY_POINT_GROUP, BUILT_INS)


def _stores() -> _Shelf[StoreSpec]:
    return _Shelf("idempotency store", StoreSpec, STORE_VERSION, STORE_ENTRY_POINT_GROUP, BUILT_IN_STORES)
