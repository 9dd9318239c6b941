"""What all tests share: the ComfyUI tests skip where there is no ComfyUI, and say so last."""

from __future__ import annotations

import pytest

from tests.nodes.checkouts import why_not

_SKIPPED = pytest.StashKey[str]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected = [item for item in items if item.get_closest_marker("comfyui")]
    reason = why_not() if selected else None
    if reason is None:
        return
    config.stash[_SKIPPED] = f"{len(selected)} tests against ComfyUI were skipped: {reason}"
    for item in selected:
        item.add_marker(pytest.mark.skip(reason=reason))


def pytest_unconfigure(config: pytest.Config) -> None:
    message = config.stash.get(_SKIPPED, None)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if message and reporter:
        reporter.write_line(message)
