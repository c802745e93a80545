# SPDX-License-Identifier: Apache-2.0
"""The reference pages say what the code says."""

import dataclasses
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import queuekit
from queuekit._engine.journal import ACTIONS
from queuekit._engine.tally import RECEIVED, SENT
from queuekit._values.errors import QueueKitError
from queuekit._wiring.registry import BUILT_INS, find_spec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BACKEND_HEADINGS = [
    "URL",
    "Credentials",
    "What it can and cannot do",
    "How words map",
    "Limits",
    "Quirks",
    "Emulator",
    "Costs",
]

SCHEMES = list({each.target: scheme for scheme, each in reversed(BUILT_INS.items())}.values())
"""The first scheme of each backend, which names its page."""

_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
_ROW = re.compile(r"^\| `([^`]+)` \|([^|]*)\|([^|]*)\|([^|]*)\|", re.MULTILINE)
_LOGGED = re.compile(r'"action": "([a-z_.]+)"')


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def page(path: str) -> str:
    return (DOCS / path).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("queuekit_docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_generated_parts_are_fresh(path: Path, generator: ModuleType) -> None:
    text = path.read_text("utf-8")
    assert generator.generate(text) == text, "stale: run python docs/generate.py"


def test_every_generated_part_is_on_a_page(generator: ModuleType) -> None:
    marked = set(re.findall(r"<!-- generated: ([a-z ]+) -->", "".join(path.read_text("utf-8") for path in PAGES)))
    assert marked == set(generator.PARTS)


def test_the_api_page_has_every_public_name_and_no_other() -> None:
    assert first_cells(page("reference/api.md")) == queuekit.__all__


def test_the_options_of_a_send_are_the_fields_of_a_message() -> None:
    fields = [each.name for each in dataclasses.fields(queuekit.Message)]
    assert ["payload", *queuekit.SendOptions.__annotations__] == fields


def error_classes(root: type[QueueKitError]) -> list[type[QueueKitError]]:
    return [root, *(each for child in root.__subclasses__() for each in error_classes(child))]


def test_the_errors_page_has_every_class_with_its_parent_and_whether_it_can_be_retried() -> None:
    ours = [each for each in error_classes(QueueKitError) if each.__module__.startswith("queuekit._values")]
    expected = {
        each.__name__: (
            "none" if each is QueueKitError else f"`{each.__bases__[0].__name__}`",
            "yes" if each.default_retryable else "no",
        )
        for each in ours
    }
    table = page("reference/errors.md").partition("## Outcomes")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`"): (row[1], row[3]) for row in rows} == expected
    assert [row for row in rows if not (row[2] and row[4])] == []


def test_the_telemetry_page_has_every_action_with_its_level_and_no_other() -> None:
    counters, _, rest = page("reference/telemetry.md").partition("## Records that are no counters")
    others, _, counted = rest.partition("## Counts")
    levels = {10: "debug", 20: "info", 30: "warning", 40: "error"}
    assert {row[1]: row[2].strip() for row in _ROW.finditer(counters)} == {
        action: levels[level] for action, level in ACTIONS.items()
    }
    sources = (ROOT / "src" / "queuekit").rglob("*.py")
    logged = {action for path in sources for action in _LOGGED.findall(path.read_text("utf-8"))}
    assert set(re.findall(r"^\| `([^`]+)`", others, re.MULTILINE)) == logged
    keys = {*SENT, *RECEIVED, "queue_age", "handler_time"}
    assert set(re.findall(r"^\| `([^`]+)`", counted, re.MULTILINE)) == keys


def test_every_scheme_has_its_page_and_its_place_among_the_urls() -> None:
    urls, readme = page("reference/urls.md"), (ROOT / "README.md").read_text("utf-8")
    for scheme in BUILT_INS:
        assert f"`{scheme}:" in urls
    for scheme in SCHEMES:
        assert f"\n## {scheme}\n" in urls
        assert f"<!-- generated: {scheme} options -->" in urls
        assert f"`{scheme}://" in readme
        assert (DOCS / "backends" / f"{scheme}.md").exists()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_backend_page_has_the_fixed_headings_and_opens_with_what_it_cannot_do(scheme: str) -> None:
    text = page(f"backends/{scheme}.md")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == BACKEND_HEADINGS
    can = text.partition("## What it can and cannot do")[2].partition("\n## ")[0]
    assert can.strip().startswith("It cannot")
    assert all(f"`{each}`" in text for each in find_spec(scheme).options.__dataclass_fields__)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    broken = []
    for target, anchor in _LINK.findall(text):
        if "://" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        if not found.exists() or (anchor and found.suffix == ".md" and anchor[1:] not in anchors(found)):
            broken.append(target + anchor)
    assert broken == []


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}


def test_every_page_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    pending = [DOCS / "index.md"]
    while pending:
        path = pending.pop()
        if path in reached:
            continue
        reached.add(path)
        if path.is_dir():
            pending.extend(path.glob("*.md"))
        elif path.suffix == ".md" and DOCS in path.parents:
            links = [target for target, _ in _LINK.findall(path.read_text("utf-8")) if target and "://" not in target]
            pending.extend((path.parent / target).resolve() for target in links)
    assert sorted(name(each) for each in set(DOCS.rglob("*.md")) - reached) == []


def test_the_readme_has_both_commands_as_newcomers_paste_them() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert '```console\npip install ".[cli]" && queuekit demo\n```' in text
    assert '```console\npip install -e ".[dev]" && pytest\n```' in text
    assert "At least once" in text


@pytest.mark.parametrize("path", [each for each in PAGES if "not-exactly-once" not in each.name], ids=name)
def test_no_page_promises_more_than_at_least_once(path: Path) -> None:
    assert re.findall(r"(?<!not[ -])exactly[ -]once", path.read_text("utf-8"), re.IGNORECASE) == []
