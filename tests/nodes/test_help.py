"""The help pages: one for every node, naming everything that the node has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_page import ComfyPage, open_page
from tests.nodes.comfy_server import PACK, PACK_NAME, ComfyServer
from tests.nodes.ui_graphs import first_weights, input_names
from tests.nodes.wirings import NODE, wiring

DOCS = PACK / "web" / "docs"
PAGES = {path.stem: path for path in sorted(DOCS.glob("*.md"))}
DOCS_BYTES = 1_500_000
WIRING_SCALE = 1.2

in_comfyui = pytest.mark.comfyui
in_browser = pytest.mark.browser


@pytest.fixture(scope="module")
def listing(server: ComfyServer) -> dict[str, Any]:
    return dict(ComfyClient(server.url).get("/object_info"))


@pytest.fixture(scope="module")
def page(browser: Any, server: ComfyServer) -> Iterator[ComfyPage]:
    with open_page(browser, server.url) as opened:
        yield opened


def kinds_of(listing: dict[str, Any]) -> list[str]:
    return [kind for kind in listing if kind.startswith("FLOAT")]


def entries(text: str, heading: str) -> dict[str, str]:
    """Return what a list under a heading says, by the name that stands first."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    return dict(re.findall(r"^- `([^`]+)`: (.{3,})$", section, re.MULTILINE))


def test_the_whole_is_small() -> None:
    files = [path for path in DOCS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < DOCS_BYTES


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_shows_pictures_that_exist(kind: str) -> None:
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGES[kind].read_text(encoding="utf-8"))
    assert names, "no picture of the wiring"
    for name in names:
        with Image.open(DOCS / name) as picture:
            assert picture.width >= 300


def test_no_picture_is_left_over() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES.values())
    unused = [path.name for path in (DOCS / "pictures").iterdir() if path.name not in text]
    assert unused == []


@in_comfyui
def test_there_is_a_page_for_every_node_and_no_other(listing: dict[str, Any]) -> None:
    assert sorted(PAGES) == sorted(kinds_of(listing))


@in_comfyui
def test_every_page_names_every_input_and_output(listing: dict[str, Any]) -> None:
    for kind in kinds_of(listing):
        text = PAGES[kind].read_text(encoding="utf-8")
        assert text.startswith(f"# {listing[kind]['display_name']}\n")
        inputs, outputs = entries(text, "Inputs"), entries(text, "Outputs")
        assert list(inputs) == input_names(listing[kind]), kind
        assert list(outputs) == list(listing[kind]["output_name"]), kind


@in_comfyui
def test_every_choice_is_explained(listing: dict[str, Any]) -> None:
    for kind in kinds_of(listing):
        text = PAGES[kind].read_text(encoding="utf-8").lower()
        for name, declared in listing[kind]["input"].get("required", {}).items():
            if declared[0] == "COMBO" and name != "weights" and not kind.startswith("FLOATTalking"):
                absent = [c for c in declared[1]["options"] if str(c).lower() not in text]
                assert absent == [] or name == "emotion", (kind, name, absent)


@in_comfyui
def test_the_server_gives_out_the_pages(client: ComfyClient, tmp_path: Path) -> None:
    address = f"/extensions/{PACK_NAME}/docs/"
    for kind, path in PAGES.items():
        (tmp_path / kind).write_bytes(client.download(f"{address}{kind}.md"))
        assert (tmp_path / kind).read_bytes() == path.read_bytes()


@in_browser
def test_a_wiring_is_photographed_and_the_page_shown(
    page: ComfyPage, listing: dict[str, Any], tmp_path: Path, refresh_pictures: bool
) -> None:
    for kind in kinds_of(listing):
        graph, columns = wiring(kind, listing)
        page.open_workflow(graph, kind)
        page.arrange_in_columns(columns)
        page.set_widget("FLOATLoadModel", "weights", first_weights())
        page.select(NODE)
        assert page.unknown_kinds() == []
        picture = (DOCS / "pictures" if refresh_pictures else tmp_path) / f"{kind}.jpg"
        page.photograph(picture, WIRING_SCALE)
        shown = page.help_text(NODE)
        for name in input_names(listing[kind]):
            assert name in shown, (kind, name)
        broken = page.page.evaluate(
            "[...document.querySelectorAll('.node-help-content img')]"
            ".filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
        )
        assert broken == [] or refresh_pictures, kind
        page.page.screenshot(path=tmp_path / f"{kind} page.png")
