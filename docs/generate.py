# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 - a script, no package
"""Writes the parts of the documentation that follow from the code: ``python docs/generate.py``.

A page marks such a part with ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest is left alone. A test
fails when a part is stale.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import queuekit
from queuekit._values.capability import FEATURES, Capabilities
from queuekit._values.clock import SystemClock
from queuekit._values.duration import format_duration, format_size
from queuekit._values.url import QueueURL
from queuekit._wiring.engine_options import EngineOptions
from queuekit._wiring.opening import Opener
from queuekit._wiring.registry import find_spec
from queuekit.backend import Range, Size

DOCS = Path(__file__).parent
URLS = {
    "memory": "memory://queue",
    "sqlite": "sqlite:///file.db?queue=queue",
    "redis": "redis://host/0?queue=queue",
    "sqs": "sqs://region/queue",
    "pubsub": "pubsub://project/topic",
    "cloudtasks": "cloudtasks://project/location/queue",
}
"""One URL per backend."""

_PART = re.compile(r"(<!-- generated: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ENTRY = re.compile(r"^    (?P<name>\w+): (?P<text>.*?)(?=^    \w+: |^\S|\Z)", re.MULTILINE | re.DOTALL)
_LEFT_OUT = {"server", "assumed", "dead_letter_queue"}  # known after a probe only
_DERIVED = ("long_delay", "counted_attempts")  # they follow from the others


def attributes_of(kind: type[Any]) -> Mapping[str, str]:
    """The entries of the Attributes section of a class's docstring."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    return {each["name"]: " ".join(each["text"].split()).replace("``", "`") for each in _ENTRY.finditer(section)}


def show(value: object, name: str = "") -> str:
    """A value as the documentation writes it, with its unit."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return "0s" if not value else format_duration(value)
    if isinstance(value, float) and name.endswith("_s"):
        return show(timedelta(seconds=value))
    if isinstance(value, int) and name.endswith("_bytes"):
        return format_size(value)
    return f"{value}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def declared() -> list[Capabilities]:
    """What each backend declares with its default options; opening makes no I/O."""
    opener = Opener(SystemClock())
    return [opener.open(QueueURL.parse(url)).capabilities for url in URLS.values()]


def capabilities() -> str:
    """What every backend declares, side by side."""
    cans = declared()
    meanings = attributes_of(Capabilities)
    rows = [
        [f"`{each.name}`", *(show(getattr(can, each.name), each.name) for can in cans), meanings[each.name]]
        for each in dataclasses.fields(Capabilities)
        if each.name not in _LEFT_OUT
    ]
    for name in _DERIVED:
        meaning = " ".join((inspect.getdoc(getattr(Capabilities, name)) or "").split()).replace("``", "`")
        rows.append([f"`{name}`", *(show(getattr(can, name), name) for can in cans), meaning])
    return table(["capability", *URLS, "meaning"], rows)


def limits(scheme: str) -> str:
    """The numbers of one backend that a user may run into."""
    can = Opener(SystemClock()).open(QueueURL.parse(URLS[scheme])).capabilities
    rows = [
        ["bytes of a message: body, attributes and queuekit's metadata", show(can.max_message_bytes, "_bytes")],
        ["messages in one call that sends", f"{can.max_send_batch}; `send_many` takes any number and splits"],
        ["bytes in one call that sends", show(can.max_send_batch_bytes, "_bytes")],
        ["messages in one call that receives", f"{can.max_receive}"],
        ["settlements in one call", f"{can.max_settle_batch}"],
        ["a lease", f"{show(can.min_lease_s, '_s')} to {show(can.max_lease_s, '_s')}"],
        ["delay of a send", f"{show(can.max_delay_s, '_s')}, in steps of {show(can.delay_resolution_s, '_s')}"],
        [
            "delay of a retry",
            f"{show(can.max_retry_delay_s, '_s')}, in steps of {show(can.retry_delay_resolution_s, '_s')}",
        ],
        ["priorities", f"{can.priority_levels}"],
        ["memory of dedup ids, unless `dedup_window` says otherwise", show(can.dedup_window_s, "_s")],
    ]
    return table(["what", "at most"], [row for row in rows if row[1] != "none"])


def features() -> str:
    """The names that ``require=`` knows."""
    cans = declared()
    rows = [[f"`{name}`", *(_feature(feature(can)) for can in cans)] for name, feature in FEATURES.items()]
    return table(["feature", *URLS], rows)


def _feature(value: bool | float) -> str:
    return show(value) if isinstance(value, bool) else f"{value:.15g}"


def options(scheme: str) -> str:
    """The options of one scheme's URLs."""
    return _options_of(find_spec(scheme).options)


def engine_options() -> str:
    """The options of every URL."""
    return _options_of(EngineOptions)


def _options_of(kind: Any) -> str:
    hints = get_type_hints(kind, include_extras=True)
    meanings = attributes_of(kind)
    rows = [
        [f"`{each.name}`", _values(hint, each.metadata.get("range")), _default(each, hint), meanings[each.name]]
        for each in dataclasses.fields(kind)
        for hint in [hints[each.name]]
    ]
    return table(["option", "values", "default", "meaning"], rows)


def _default(each: Any, hint: Any) -> str:
    if each.default == "":
        return "empty"
    return f"`{show(each.default, '_bytes' if _is_size(hint) else '')}`" if each.default is not None else "no limit"


def _is_size(hint: Any) -> bool:
    return hint == Size or Size in get_args(hint)


def _values(hint: Any, bounds: Range | None) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{each}`" for each in get_args(hint))
    kind = "size" if _is_size(hint) else _kind(hint)
    if bounds is None:
        return kind
    name = "_bytes" if _is_size(hint) else ""
    return f"{kind}, `{show(bounds.least, name)}` to `{show(bounds.greatest, name)}`"


def _kind(hint: Any) -> str:
    inner = [each for each in get_args(hint) if each is not type(None)] if get_args(hint) else [hint]
    known = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", timedelta: "duration"}
    return known[inner[0]]


def names() -> str:
    """Every public name, its summary and where its docstring is."""
    rows = []
    for name in queuekit.__all__:
        found = getattr(queuekit, name)
        if get_origin(found) is Union or not hasattr(found, "__module__") or found.__module__ in {"types", "typing"}:
            cases = ", ".join(f"`{each.__name__}`" for each in get_args(found))
            rows.append([f"`{name}`", f"One of {cases}.", "`queuekit._values.outcome`"])
            continue
        path = Path(inspect.getsourcefile(found) or "")
        place = path.relative_to(DOCS.parent / "src").as_posix()
        summary = (inspect.getdoc(found) or "").partition("\n")[0].replace("``", "`")
        rows.append([f"`{name}`", summary, f"[{path.name}](../../src/{place})"])
    return table(["name", "what it is", "docstring"], rows)


def groups() -> str:
    """The groups of the contract suite."""
    from queuekit.testing.contract.ids import GROUPS

    return table(["group", "about", "cases"], [[f"`{key}`", title, f"{n}"] for key, (title, n) in GROUPS.items()])


def waiting() -> str:
    """The cases of the contract suite that have no test yet."""
    from queuekit.testing.contract.waiting import WAITING

    return table(["case", "waits for"], [[f"`{case}`", reason] for case, reason in WAITING.items()])


def commands() -> str:
    """Every command, with its arguments and options."""
    from queuekit.cli.commands import app, dead, emulator, moving

    parts = []
    groups = {"queuekit": app, "queuekit dead": dead, "queuekit dead move": moving, "queuekit emulator": emulator}
    for prefix, group in groups.items():
        for each in group.registered_commands:
            function = each.callback
            if function is not None:
                title = f"### {prefix} {each.name or function.__name__}"
                parts.append(f"{title}\n\n{inspect.getdoc(function)}\n\n{_parameters(function)}")
    return "\n".join(parts)


def _parameters(function: Callable[..., Any]) -> str:
    hints = get_type_hints(function, include_extras=True)
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2]
        dashed = name.replace("_", "-")
        # Beside Annotated, typer keeps the first spelling where a default would stand.
        names = [each for each in (info.default, *(info.param_decls or ())) if str(each).startswith("--")]
        spelling = info.metavar or dashed.upper()
        if type(info).__name__ == "OptionInfo":
            spelling = names[0] if names else f"--{dashed}"
            spelling += "" if kind is bool else f" {info.metavar or _placeholder(kind)}"
        required = parameter.default is inspect.Parameter.empty
        rows.append([f"`{spelling}`", "required" if required else _cli_default(parameter.default), info.help or ""])
    return table(["argument or option", "default", "meaning"], rows)


def _placeholder(kind: Any) -> str:
    inner = next((each for each in (get_args(kind) or (kind,)) if each is not type(None)), str)
    inner = (get_args(inner) or (inner,))[0]
    members = getattr(inner, "__members__", None)
    return "|".join(each.value for each in members.values()) if members else {int: "N"}.get(inner, "TEXT")


def _cli_default(value: Any) -> str:
    return "" if value is None or value is False else f"`{getattr(value, 'value', value)}`"


PARTS: Mapping[str, Callable[[], str]] = {
    "capabilities": capabilities,
    "commands": commands,
    "features": features,
    "engine options": engine_options,
    "groups": groups,
    "names": names,
    "memory limits": lambda: limits("memory"),
    "memory options": lambda: options("memory"),
    "redis limits": lambda: limits("redis"),
    "pubsub options": lambda: options("pubsub"),
    "pubsub limits": lambda: limits("pubsub"),
    "sqs options": lambda: options("sqs"),
    "sqs limits": lambda: limits("sqs"),
    "cloudtasks options": lambda: options("cloudtasks"),
    "cloudtasks limits": lambda: limits("cloudtasks"),
    "redis options": lambda: options("redis"),
    "sqlite limits": lambda: limits("sqlite"),
    "sqlite options": lambda: options("sqlite"),
    "waiting": waiting,
}


def generate(text: str) -> str:
    """A page with its generated parts made anew."""
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match['name']]()}\n{match[3]}", text)


def main() -> None:
    """Write every page anew whose parts are stale."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text("utf-8")
        fresh = generate(text)
        if fresh != text:
            path.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
