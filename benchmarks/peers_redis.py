# SPDX-License-Identifier: Apache-2.0
"""queuekit on redis:// beside Celery, dramatiq, taskiq, BullMQ, a Go worker by hand and a bare redis-py loop.

All on one server that the script starts itself, in turns. It installs what it needs into ``--cache`` (or into a
folder that is removed at the end), and says who is missing and why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import TextIO

import redis

from _bench import arguments
from _payloads import pushes
from _servers import redis_server
from peers.contenders import CONTENDERS, SCENARIOS, Contender
from peers.installing import Tools
from peers.running import Figures, Load, RunFailedError, run

_SMALL = {"to": "ada@example.com", "subject": "Your order", "template": 3, "urgent": False}
_LARGE_BYTES = 100_000
_SHOWN = {"simple": "queuekit", "io": "queuekit async", "cpu": "queuekit", "large": "queuekit"}
"""Whose drain the ratios of a scenario are those of."""


@dataclass(frozen=True)
class Row:
    """One contender in one scenario: medians of its rounds."""

    scenario: str
    name: str
    messages: int
    figures: Figures
    ratio: float
    """queuekit's drain over this one's: how many times as fast queuekit is."""
    lowest: float
    highest: float
    of_bare: float | None
    """This drain over the bare loop's."""


def main() -> None:
    options = _options()
    chosen = [each for each in CONTENDERS if not options.peers or each.name in options.peers]
    with _cache(options.cache) as cache, redis_server() as server, tempfile.TemporaryDirectory() as folder:
        tools = Tools(cache)
        ready = [each for each in chosen if tools.provide(each.needs)]
        for need, why in tools.missing.items():
            gone = ", ".join(each.name for each in chosen if each.needs == need)
            print(f"missing: {gone}: {why}", flush=True, file=_telling(options))
        about = redis.Redis(port=server.port).info("server")
        tools.versions["Valkey"] = str(about["valkey_version"])
        rows = []
        for scenario in options.scenarios:
            found = _measured(scenario, ready, tools, options, _Place(server.port, _payload(scenario, Path(folder))))
            rows += found
            if options.markdown:
                print(_table(scenario, found), flush=True)
            elif not options.json:
                print(_lines(scenario, found), flush=True)
    if options.json:
        print(json.dumps([asdict(each) for each in rows], indent=2))
    else:
        if options.markdown:
            print(_settings(ready))
        print(", ".join(f"{name} {version}" for name, version in tools.versions.items()))


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "", messages=20_000, rounds=3)
    parser.add_argument("--cache", type=Path, help="keep what is installed here (default: install anew each time)")
    parser.add_argument(
        "--idle", type=float, default=3.0, help="seconds to watch an idle worker (default: %(default)s)"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables for a page")
    parser.add_argument("--peers", type=_names([each.name for each in CONTENDERS]), default=[], help="NAME,NAME")
    parser.add_argument("--scenarios", type=_names(list(SCENARIOS)), default=list(SCENARIOS), help="NAME,NAME")
    options = parser.parse_args()
    if options.profile:
        parser.error("--profile: these are other processes; redis_throughput.py profiles queuekit's")
    options.scenarios = [each for each in options.scenarios if options.only in each]
    return options


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [each.strip() for each in text.split(",")]
        if unknown := [each for each in names if each not in known]:
            message = f"{unknown[0]!r} is none of {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return names

    return parse


def _telling(options: argparse.Namespace) -> TextIO:
    return sys.stderr if options.json else sys.stdout


@contextmanager
def _cache(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@dataclass(frozen=True)
class _Place:
    port: int
    payload: Path


def _payload(scenario: str, folder: Path) -> Path:
    path = folder / f"{scenario}.json"
    value = _SMALL if scenario != "large" else {**_SMALL, "pushes": _large()}
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def _large() -> list[object]:
    one = pushes(1)[0].model_dump()
    return [one] * max(1, round(_LARGE_BYTES / len(json.dumps(one))))


def _measured(
    scenario: str, contenders: Sequence[Contender], tools: Tools, options: argparse.Namespace, place: _Place
) -> list[Row]:
    """All rounds of a scenario, in turns."""
    runs: dict[str, list[Figures]] = {each.name: [] for each in contenders if scenario in each.worker}
    for number in range(options.rounds):
        for contender in contenders:
            if contender.name not in runs:
                continue
            # The idle worker is that of the first round; its memory and its processor time hardly vary.
            idle_s = options.idle if scenario == "simple" and not number else 0.0
            try:
                found = _one_run(contender, scenario, tools, _load(contender, scenario, options, idle_s), place)
            except RunFailedError as error:
                print(f"failed: {contender.name}, {scenario}: {error}", flush=True, file=_telling(options))
                del runs[contender.name]
                continue
            runs[contender.name].append(found)
    return [_row(scenario, name, runs, _count(name, scenario, options)) for name, made in runs.items() if made]


def _load(contender: Contender, scenario: str, options: argparse.Namespace, idle_s: float) -> Load:
    count = _count(contender.name, scenario, options)
    singly = max(1, count // 10)
    return Load(warm_up=max(1, min(200, count // 5)), many=max(1, count - singly), singly=singly, idle_s=idle_s)


def _count(name: str, scenario: str, options: argparse.Namespace) -> int:
    (contender,) = (each for each in CONTENDERS if each.name == name)
    return max(2, int(options.messages * SCENARIOS[scenario][1] * contender.share.get(scenario, 1.0)))


def _one_run(contender: Contender, scenario: str, tools: Tools, load: Load, place: _Place) -> Figures:
    environment = {
        **tools.environment,
        **contender.environment,
        "PEERS_URL": f"redis://127.0.0.1:{place.port}/0",
        "PEERS_SCENARIO": scenario,
        "PEERS_PAYLOAD": str(place.payload),
    }
    worker, sender = contender.worker_command(scenario, tools), contender.sender_command(tools)
    with redis.Redis(port=place.port) as client:
        client.flushall()
        return run(worker, sender, environment, load, server_cpu_s=partial(_cpu_s, client))


def _cpu_s(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _row(scenario: str, name: str, runs: Mapping[str, Sequence[Figures]], count: int) -> Row:
    own = runs[name]
    shown, bare = runs.get(_SHOWN[scenario]) or own, runs.get("bare loop")
    ratios = [ours.drained / each.drained for ours, each in zip(shown, own, strict=False)]
    of_bare = [each.drained / by_hand.drained for each, by_hand in zip(own, bare, strict=False)] if bare else None
    return Row(
        scenario,
        name,
        count,
        Figures(**{each.name: _middle([getattr(one, each.name) for one in own]) for each in fields(Figures)}),
        median(ratios),
        min(ratios),
        max(ratios),
        median(of_bare) if of_bare else None,
    )


def _middle(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return median(known) if known else None


def _lines(scenario: str, rows: Sequence[Row]) -> str:
    return "\n".join(
        f"{scenario + ', ' + each.name:<24} ratio {each.ratio:.2f}  [{each.lowest:.2f} to {each.highest:.2f}]"
        f"   {_rates(each.figures)}{_idle(each.figures)}"
        for each in rows
    )


def _rates(own: Figures) -> str:
    rates = f"drain {own.drained:,.0f}, send {own.sent:,.0f}, singly {own.sent_singly:,.0f} /s"
    return f"{rates}, {own.cpu_us:,.0f} us CPU and {own.server_us:,.0f} of the server, {own.rss_mb:.0f} MB"


def _idle(own: Figures) -> str:
    return "" if own.idle_rss_mb is None else f", idle {own.idle_rss_mb:.0f} MB and {own.idle_cpu_percent:.1f} %"


def _table(scenario: str, rows: Sequence[Row]) -> str:
    idle = scenario == "simple"
    head = ["drained /s", f"{_SHOWN[scenario]} is x", "of bare", "sent /s", "singly /s", "CPU us", "server us", "MB"]
    head += ["idle MB", "idle CPU %"] if idle else []
    lines = [f"| {scenario} | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for each in rows:
        own = each.figures
        cells = [f"{own.drained:,.0f}", f"{each.ratio:.2f}", "" if each.of_bare is None else f"{each.of_bare:.2f}"]
        cells += [f"{own.sent:,.0f}", f"{own.sent_singly:,.0f}", f"{own.cpu_us:,.0f}"]
        cells += [f"{own.server_us:,.0f}", f"{own.rss_mb:.0f}"]
        if idle:
            cells += [_known(own.idle_rss_mb, ".0f"), _known(own.idle_cpu_percent, ".1f")]
        lines.append(f"| {each.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _settings(contenders: Sequence[Contender]) -> str:
    lines = ["| contender | as it was set |", "|---|---|"]
    return "\n".join([*lines, *(f"| {each.name} | {each.settings} |" for each in contenders)]) + "\n"


def _known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
