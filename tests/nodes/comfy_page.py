"""The real page of ComfyUI in a headless Chromium, as a person meets it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from tests.nodes.comfy_client import Graph
from tests.nodes.ui_graphs import Workflow

_READY_MS = 120_000
_SETTLE_MS = 600
_PICTURE_WIDTH = 1600
_JPEG_QUALITY = 82

_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    "--autoplay-policy=no-user-gesture-required",
)
_READY = """() => window.app?.graph && window.app.extensionManager
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 50
    && !document.querySelector('#splash-loader')"""
_CANVAS_ONLY = """body *, .selection-toolbox * { visibility: hidden }
    #graph-canvas, .dom-widget, .dom-widget * { visibility: visible !important }"""
_BOUNDS = """() => {
    const boxes = [...app.graph._nodes.map(n => [n.pos[0], n.pos[1] - 60,
            n.pos[0] + n.size[0], n.pos[1] + n.size[1]]),
        ...app.graph._groups.map(g => [g.pos[0], g.pos[1],
            g.pos[0] + g.size[0], g.pos[1] + g.size[1]])];
    return [Math.min(...boxes.map(b => b[0])), Math.min(...boxes.map(b => b[1])),
            Math.max(...boxes.map(b => b[2])), Math.max(...boxes.map(b => b[3]))]; }"""
_LOOK = """([scale, left, top]) => {
    app.canvas.show_info = false;
    app.canvas.ds.scale = scale; app.canvas.ds.offset = [-left, -top];
    app.canvas.setDirty(true, true); }"""


def chromium_path() -> str | None:
    """Return the browser that `CHROMIUM_PATH` names, else an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = (shutil.which(name) for name in names)
    return os.environ.get("CHROMIUM_PATH") or next((path for path in found if path), None)


def why_no_browser() -> str | None:
    """Say why no page can be opened and how to change that; None where one can."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright: python -m pip install playwright (its own browsers are not needed)"
    if chromium_path() is None:
        return "no Chromium: install one (Debian: apt install chromium) or name it: CHROMIUM_PATH"
    return None


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a headless browser; one at a time, as Playwright wants it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, url: str, locale: str = "en-US") -> Iterator[ComfyPage]:
    """Open the page of a server in a profile of its own, and nothing beyond that server."""
    context = browser.new_context(viewport={"width": 1920, "height": 1080}, locale=locale)
    context.route(
        lambda address: not address.startswith((url, "data:", "blob:")),
        lambda route: route.abort(),
    )
    try:
        yield ComfyPage(context.new_page(), url)
    finally:
        context.close()


class ComfyPage:
    """One open page.

    Attributes:
        page: Playwright's page.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(_READY, timeout=_READY_MS)
        self.settle()

    def settle(self, times: float = 1) -> None:
        """Wait until what was just done is drawn."""
        self.page.wait_for_timeout(_SETTLE_MS * times)

    def open_workflow(self, workflow: Workflow | Graph, name: str) -> None:
        """Load a workflow, in UI form or in API form."""
        in_api_form = "nodes" not in workflow
        script = """([workflow, name, api]) => api ? app.loadApiJson(workflow, name)
            : app.loadGraphData(workflow, true, true, name)"""
        self.page.evaluate(script, [workflow, name, in_api_form])
        self.settle()

    def open_template(self, pack: str, title: str) -> int:
        """Choose a pack's workflow in the template browser, by mouse.

        Returns:
            The width of the picture on the workflow's card in pixels; 0 where none is shown.
        """
        self.command("Comfy.BrowseTemplates")
        self.page.get_by_text(pack, exact=True).first.click()
        card = self.page.get_by_test_id(f"template-workflow-{title}")
        self.settle()
        width = card.locator("img").first.evaluate("image => image.naturalWidth")
        card.click()
        card.wait_for(state="detached")
        self.settle()
        return int(width)

    def command(self, name: str) -> None:
        """Run one of the page's commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def press_run(self) -> None:
        """Press the Run button."""
        self.page.get_by_role("button", name="Run", exact=True).click()

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        """Set a widget of every node of a kind."""
        script = """([kind, name, value]) => {
            for (const node of app.graph._nodes.filter(n => n.type === kind))
                node.widgets.find(w => w.name === name).value = value; }"""
        self.page.evaluate(script, [kind, name, value])

    def unknown_kinds(self) -> list[str]:
        """Return the kinds of nodes on the canvas that the page does not know."""
        script = """() => app.graph._nodes.map(n => n.type)
            .filter(kind => !(kind in LiteGraph.registered_node_types))"""
        return list(self.page.evaluate(script))

    def api_graph(self) -> Graph:
        """Return the graph on the canvas as the page would queue it."""
        graph = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {key: {k: v for k, v in node.items() if k != "_meta"} for key, node in graph.items()}

    def workflow(self) -> Workflow:
        """Return the graph on the canvas as the page would save it."""
        script = "async () => JSON.stringify((await app.graphToPrompt()).workflow)"
        return dict(json.loads(self.page.evaluate(script)))

    def arrange_in_columns(self, columns: list[list[str]]) -> None:
        """Put nodes side by side, each column's from top to bottom, by their ids."""
        script = """columns => {
            let left = 0;
            for (const ids of columns) {
                const nodes = ids.map(id => app.graph._nodes.find(n => String(n.id) === id));
                const width = Math.max(...nodes.map(n => Math.max(270, n.computeSize()[0])));
                let top = 0;
                for (const node of nodes) {
                    node.pos = [left, top];
                    node.setSize([width, node.computeSize()[1]]);
                    top += node.size[1] + 80;
                }
                left += width + 90;
            } }"""
        self.page.evaluate(script, [column for column in columns if column])

    def select(self, node_id: str) -> None:
        """Select one node."""
        script = """id => app.canvas.selectNode(
            app.graph._nodes.find(n => String(n.id) === id))"""
        self.page.evaluate(script, node_id)

    def help_text(self, node_id: str) -> str:
        """Open a node's help page by the button above it and return what is shown."""
        self.select(node_id)
        self.command("Comfy.Canvas.FitView")
        self.settle()
        self.page.get_by_test_id("info-button").click()
        self.settle()
        return str(self.page.locator(".node-help-content").first.inner_text())

    def play_video(self) -> dict[str, float]:
        """Play the video on the canvas for a moment and return what the browser knows of it."""
        script = """async () => {
            const video = [...document.querySelectorAll('video')].find(v => v.videoWidth);
            if (!video) return {};
            video.muted = true; video.loop = false;
            video.currentTime = 0; await video.play();
            await new Promise(done => setTimeout(done, 700));
            return {seconds: video.duration, at: video.currentTime, width: video.videoWidth}; }"""
        return dict(self.page.evaluate(script))

    def photograph(self, path: Path, scale: float | None = None, margin: float = 20) -> None:
        """Save a picture of the graph alone, without the page around it; a selected node shines.

        Args:
            path: A JPEG file.
            scale: Size of a unit of the canvas in pixels; the whole canvas is filled where None.
            margin: Around the graph, in pixels.
        """
        canvas = self.page.locator("#graph-canvas").bounding_box()
        left, top, right, bottom = self.page.evaluate(_BOUNDS)
        width, height = right - left, bottom - top
        room = canvas["width"] - 2 * margin, canvas["height"] - 2 * margin
        scale = scale or min(room[0] / width, room[1] / height)
        self.page.evaluate(_LOOK, [scale, left - margin / scale, top - margin / scale])
        style = self.page.add_style_tag(content=_CANVAS_ONLY)
        self.settle()
        clip = {"width": width * scale + 2 * margin, "height": height * scale + 2 * margin}
        shot = self.page.screenshot(clip={"x": canvas["x"], "y": canvas["y"], **clip})
        style.evaluate("style => style.remove()")
        _save_picture(shot, path)


def _save_picture(shot: bytes, path: Path) -> None:
    picture = Image.open(BytesIO(shot)).convert("RGB")
    if picture.width > _PICTURE_WIDTH:
        height = round(picture.height * _PICTURE_WIDTH / picture.width)
        picture = picture.resize((_PICTURE_WIDTH, height), Image.Resampling.LANCZOS)
    picture.save(path, quality=_JPEG_QUALITY, optimize=True)
