"""The translations: made from one table, nothing missing, nothing stale."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_server import PACK, ComfyServer

LOCALES = PACK / "locales"
LANGUAGES = ("zh", "ja", "ko")
STRINGS = json.loads((LOCALES / "strings.json").read_text(encoding="utf-8"))
ENTRIES = [*STRINGS["names"], *STRINGS["texts"]]
NAMES = {entry["en"]: entry for entry in STRINGS["names"]}
TEXTS = {entry["en"]: entry for entry in STRINGS["texts"]}

Listing = dict[str, Any]
"""What the server tells of each node of the pack, by id."""

in_comfyui = pytest.mark.comfyui


@pytest.fixture(scope="module")
def listing(server: ComfyServer) -> Listing:
    everything = ComfyClient(server.url).get("/object_info")
    return {kind: info for kind, info in everything.items() if kind.startswith("FLOAT")}


def inputs_of(info: dict[str, Any]) -> dict[str, str]:
    """Return a node's inputs with their tooltips."""
    groups = (info["input"].get(group, {}) for group in ("required", "optional"))
    return {name: declared[1]["tooltip"] for group in groups for name, declared in group.items()}


def outputs_of(info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a node's outputs with their tooltips."""
    return list(zip(info["output_name"], info["output_tooltips"], strict=True))


def names_of(listing: Listing) -> set[str]:
    names = {info["display_name"] for info in listing.values()}
    for info in listing.values():
        names |= {*inputs_of(info), *info["output_name"]}
    return names


def texts_of(listing: Listing) -> set[str]:
    texts = {info["description"] for info in listing.values()}
    for info in listing.values():
        texts |= {*inputs_of(info).values(), *info["output_tooltips"]}
    return texts


def translated(listing: Listing, language: str) -> dict[str, Any]:
    """Return a language's `nodeDefs.json`."""

    def slot(name: str, tooltip: str) -> dict[str, str]:
        return {"name": NAMES[name][language], "tooltip": TEXTS[tooltip][language]}

    return {
        kind: {
            "display_name": NAMES[info["display_name"]][language],
            "description": TEXTS[info["description"]][language],
            "inputs": {name: slot(name, tip) for name, tip in inputs_of(info).items()},
            "outputs": {str(i): slot(*output) for i, output in enumerate(outputs_of(info))},
        }
        for kind, info in sorted(listing.items())
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_entry_is_translated(language: str) -> None:
    assert len(ENTRIES) == len(NAMES) + len(TEXTS), "an entry stands twice"
    for entry in ENTRIES:
        assert set(entry) == {"en", *LANGUAGES}
        assert entry[language].strip() == entry[language] != entry["en"], entry
        assert re.search(r"[^\x00-\x7f]", entry[language]), entry


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_paths_and_choices_stay_as_they_are(language: str) -> None:
    for entry in STRINGS["texts"]:
        fixed = re.findall(r"models/\w+|#?\d+(?:\.\d+)?|[a-z]+\d+|\b[A-Z]{4,}\b", entry["en"])
        assert [part for part in fixed if part not in entry[language]] == [], entry


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_use_the_translated_names(language: str) -> None:
    kinds = [name for name in NAMES if name.endswith("(FLOAT)")]
    widgets = [name for name in NAMES if "_" in name]
    for entry in STRINGS["texts"]:
        for name in (*kinds, *widgets):
            if name in entry["en"]:
                assert NAMES[name][language] in entry[language], entry


@pytest.mark.parametrize("language", LANGUAGES)
def test_different_nodes_have_different_names(language: str) -> None:
    kinds = [entry[language] for name, entry in NAMES.items() if name.endswith("(FLOAT)")]
    assert len(set(kinds)) == len(kinds)


@in_comfyui
def test_the_table_holds_what_the_nodes_say_and_nothing_else(listing: Listing) -> None:
    assert sorted(names_of(listing) - set(NAMES)) == [], "missing names"
    assert sorted(set(NAMES) - names_of(listing)) == [], "stale names"
    assert sorted(texts_of(listing) - set(TEXTS)) == [], "missing texts"
    assert sorted(set(TEXTS) - texts_of(listing)) == [], "stale texts"


@in_comfyui
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_files_are_made_from_the_table(
    listing: Listing, language: str, refresh_locales: bool
) -> None:
    path = LOCALES / language / "nodeDefs.json"
    expected = json.dumps(translated(listing, language), ensure_ascii=False, indent=1) + "\n"
    if refresh_locales:
        path.parent.mkdir(exist_ok=True)
        path.write_text(expected, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == expected, "run this test with --refresh-locales"


@in_comfyui
def test_comfyui_hands_them_to_the_page(client: ComfyClient, listing: Listing) -> None:
    served = client.get("/i18n")
    for language in LANGUAGES:
        ours = {kind: served[language]["nodeDefs"][kind] for kind in sorted(listing)}
        assert ours == translated(listing, language)
