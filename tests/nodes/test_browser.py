"""What a person sees: the real page in a headless Chromium."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.nodes.checkouts import vhs_path
from tests.nodes.comfy_client import ComfyClient, Run
from tests.nodes.comfy_page import ComfyPage, open_page
from tests.nodes.comfy_server import PACK_NAME, ComfyServer
from tests.nodes.graphs import WEIGHTS
from tests.nodes.test_locales import NAMES
from tests.nodes.ui_graphs import (
    DEMO,
    WORKFLOWS,
    api_graph,
    first_weights,
    node_box,
    overlap,
    read,
)

LOCALES = ("zh-CN", "ja-JP", "ko-KR")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Any, server: ComfyServer) -> Iterator[ComfyPage]:
    with open_page(browser, server.url) as opened:
        yield opened


def wait_for_run(client: ComfyClient, known: set[str]) -> Run:
    """Wait until a graph that the page queued has ended; `known` are the earlier ones."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for prompt in set(client.get("/history")) - known:
            return client.wait(prompt)
        time.sleep(0.1)
    raise TimeoutError("The page queued nothing.")


@pytest.mark.parametrize("title", WORKFLOWS)
def test_a_template_is_opened_run_and_watched(
    title: str, page: ComfyPage, client: ComfyClient, tmp_path: Path, refresh_pictures: bool
) -> None:
    if title.endswith("Video Combine") and vhs_path() is None:
        pytest.skip("no VideoHelperSuite: name its checkout in VHS_PATH")
    assert page.open_template(PACK_NAME, title) or refresh_pictures, "a card without its picture"
    assert page.unknown_kinds() == []
    expected = api_graph(read(WORKFLOWS[title]), client.get("/object_info"))
    assert page.api_graph() == expected

    page.photograph(tmp_path / "before.jpg")
    if first_weights() != DEMO:
        page.set_widget("FLOATLoadModel", "weights", WEIGHTS)
    known = set(client.get("/history"))
    page.press_run()
    run = wait_for_run(client, known)
    assert run.status == "success", run.error
    page.settle(4)
    video = page.play_video()
    assert video["seconds"] == pytest.approx(10.1, abs=0.15)
    assert video["at"] > 0.2, "the video does not play"
    page.photograph(tmp_path / "after.jpg")
    if refresh_pictures:
        page.photograph(WORKFLOWS[title].with_suffix(".jpg"))
    boxes = [node_box(node) for node in page.workflow()["nodes"]]
    for one, other in itertools.combinations(boxes, 2):
        assert not overlap(one, other), "what a node shows after a run covers another node"
    assert differ(tmp_path / "before.jpg", tmp_path / "after.jpg")


def differ(one: Path, other: Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        return first.size != second.size or first.tobytes() != second.tobytes()


def test_saving_gives_the_shipped_graph(page: ComfyPage) -> None:
    for title, path in WORKFLOWS.items():
        shipped = read(path)
        page.open_workflow(shipped, title)
        saved = page.workflow()
        places = {node["id"]: node["pos"] for node in shipped["nodes"]}
        assert {node["id"]: [round(x) for x in node["pos"]] for node in saved["nodes"]} == places
        assert json.dumps(saved["links"]) == json.dumps(shipped["links"])


@pytest.mark.parametrize("locale", LOCALES)
def test_the_page_speaks_the_persons_language(
    locale: str, browser: Any, server: ComfyServer, tmp_path: Path
) -> None:
    title = "Talking portrait - one node"
    with open_page(browser, server.url, locale) as page:
        page.open_workflow(read(WORKFLOWS[title]), title)
        page.photograph(tmp_path / f"{locale}.jpg")
        shown = page.page.evaluate(
            "() => app.graph._nodes.find(n => n.type === 'FLOATLoadModel').title"
        )
    assert shown == NAMES["Load Model (FLOAT)"][locale[:2]]
