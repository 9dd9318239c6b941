"""What all tests share: the ComfyUI tests skip where there is no ComfyUI, and say so last."""

from __future__ import annotations

import pytest

from tests.nodes.checkouts import why_not

_SKIPPED = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ComfyUI-FLOAT-Portrait")
    group.addoption(
        "--refresh-pictures",
        action="store_true",
        help="the browser tests write the pictures in workflows/ and web/docs/ anew",
    )
    group.addoption(
        "--refresh-locales",
        action="store_true",
        help="the ComfyUI tests write locales/*/nodeDefs.json anew from locales/strings.json",
    )


@pytest.fixture(scope="session")
def refresh_pictures(request: pytest.FixtureRequest) -> bool:
    """Return whether the shipped pictures are to be written anew."""
    return bool(request.config.getoption("--refresh-pictures"))


@pytest.fixture(scope="session")
def refresh_locales(request: pytest.FixtureRequest) -> bool:
    """Return whether the shipped translations are to be written anew."""
    return bool(request.config.getoption("--refresh-locales"))


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
