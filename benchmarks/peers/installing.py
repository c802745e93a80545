# SPDX-License-Identifier: Apache-2.0
"""The peers' programs, in a folder of their own: an environment for Python, node's modules, and what Go builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
_PACKAGES = ("celery[redis]", "gevent", "dramatiq[redis]", "taskiq", "taskiq-redis", "hiredis")
_MODULES = ("bullmq", "ioredis")
_GO = {"GO111MODULE": "off", "CGO_ENABLED": "0"}
_INSTALLING_S = 600


class Tools:
    """What was found or installed, and why the rest is missing."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.missing: dict[str, str] = {}
        self.versions: dict[str, str] = {
            "Python": sys.version.split()[0],
            **{name: version(name) for name in ("queuekit", "redis", "hiredis", "pydantic")},
        }

    @property
    def environment(self) -> Mapping[str, str]:
        """For every process of a run."""
        return {"NODE_PATH": str(self._cache / "node" / "node_modules")}

    def path(self, name: str) -> str:
        """The program that a command names."""
        for folder in (self._cache / "python" / "bin", self._cache):
            if (folder / name).is_file():
                return str(folder / name)
        return shutil.which(name) or name

    def provide(self, need: str) -> bool:
        """Whether a need is met, installing what there is not."""
        if not need:
            return True
        if need not in self.missing:
            try:
                _PROVIDERS[need](self, self._cache)
            except FileNotFoundError as error:
                self.missing[need] = f"there is no {error}"
            except subprocess.SubprocessError as error:
                lines = (getattr(error, "stderr", "") or "").strip().splitlines()
                self.missing[need] = lines[-1] if lines else str(error)
        return need not in self.missing


def _python(tools: Tools, cache: Path) -> None:
    folder = cache / "python"
    if not (folder / "installed").exists():
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "pip"), "install", "--quiet", *_PACKAGES)
        (folder / "installed").touch()
    listed = json.loads(_run(str(folder / "bin" / "pip"), "list", "--format", "json"))
    wanted = {each.partition("[")[0] for each in _PACKAGES} - {"hiredis"}
    tools.versions.update({each["name"]: each["version"] for each in listed if each["name"] in wanted})


def _node(tools: Tools, cache: Path) -> None:
    folder = cache / "node"
    npm, node = _found("npm"), _found("node")
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", *_MODULES)
        (folder / "installed").touch()
    tools.versions["Node"] = _run(node, "--version").strip()
    for name in _MODULES:
        package = folder / "node_modules" / name / "package.json"
        tools.versions[name] = json.loads(package.read_text(encoding="utf-8"))["version"]


def _go(tools: Tools, cache: Path) -> None:
    go, folder = _found("go"), cache / "go"
    folder.mkdir(parents=True, exist_ok=True)
    made = {**os.environ, **_GO, "GOCACHE": str(folder)}
    _run(go, "build", "-o", str(cache / "by_hand"), str(FOLDER / "by_hand.go"), environment=made)
    tools.versions["Go"] = _run(go, "version").split()[2].removeprefix("go")


_PROVIDERS: dict[str, Callable[[Tools, Path], None]] = {"python": _python, "node": _node, "go": _go}


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(program)
    return path


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=_INSTALLING_S, env=environment
    ).stdout
