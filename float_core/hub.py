"""Fetch weight files when asked, and only then: whole, checked, once.

The variables of `huggingface_hub` hold: the mirror (`HF_ENDPOINT`), the cache (`HF_HOME`,
`HF_HUB_CACHE`), the token (`HF_TOKEN` or a login), `HF_HUB_OFFLINE` and the timeouts. Its
`hf_hub_download` is not used: recent versions throw away what has arrived when a connection breaks,
alone or through `hf_xet`, and 2.5 GB deserve better. A file in that library's cache is hard-linked
(from another disk: copied) instead of fetched; a fetched one goes straight into the folder, so that
it lies on the disk once.

Revisions. Where the commit of a repository is known it stands in `hub_files.LAYOUTS`. Where it is
not, `main` is resolved to a commit once, and exactly that commit is fetched: a small
`<file>.hub.json` beside the weights records it with the size and the checksum that the hub
reported. Resuming, and fetching the rest of a layout later, go by that record, so that one folder
never mixes two revisions. To take the newest, delete a layout's files and their records, or name a
revision. An existing file is never overwritten.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .hub_files import FACE_DETECTOR, LAYOUTS, HubFile, WebFile, layout_files
from .transfer import (
    ChecksumError,
    DownloadError,
    FileProgress,
    NetworkError,
    checksum_of,
    disk_full_explained,
    fetch,
    folder_lock,
    network,
    partial_path,
    place_copy,
    require_space,
    size_of,
)

__all__ = [
    "FACE_DETECTOR",
    "LAYOUTS",
    "DownloadError",
    "HubFile",
    "Missing",
    "ProgressCallback",
    "WebFile",
    "download_face_detector",
    "download_weights",
    "plan",
]

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes there, bytes in all); what it raises stops a download, to be resumed later."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One file that is not there: where it goes, its size (about, until asked) and its address."""

    path: Path
    size_bytes: int
    url: str

    def __str__(self) -> str:
        size = f"{self.size_bytes:,} bytes"
        if self.size_bytes >= 1_000_000:
            size = f"{self.size_bytes / 1e6:,.0f} MB"
        return f"{self.path} ({size}) from {self.url}"


def plan(
    folder: str | os.PathLike[str], layout: str = "one-file", revision: str | None = None
) -> list[Missing]:
    """List what `download_weights` would fetch, without asking the network.

    Args:
        folder: Folder of the weights; it need not exist.
        layout: A key of `LAYOUTS`.
        revision: As for `download_weights`.

    Raises:
        ValueError: The layout is unknown.
    """
    folder = Path(folder)
    return [_missing(file, folder) for file in _absent(layout_files(layout, revision), folder)]


def download_weights(
    folder: str | os.PathLike[str],
    on_progress: ProgressCallback | None = None,
    layout: str = "one-file",
    revision: str | None = None,
) -> Path:
    """Fetch the files of a layout that are not in a folder yet.

    Args:
        folder: Folder of the weights; made where it does not exist.
        on_progress: Called with (bytes there, bytes in all) of the files that were missing.
        layout: A key of `LAYOUTS`.
        revision: Commit, tag or branch of the layout's own repository; None takes the recorded or
            tabled one.

    Returns:
        What to hand to the checkpoint loader: the file of a one-file layout, else the folder.

    Raises:
        ValueError: The layout is unknown.
        DownloadError: Offline or unreachable, refused, wrong checksum, full disk, or the folder
            holds another revision than the one named.
    """
    folder = Path(folder)
    files = layout_files(layout, revision)
    if revision is not None:
        _require_revision(files, folder)
    if _absent(files, folder):
        folder.mkdir(parents=True, exist_ok=True)
        report = on_progress or _silent
        missing = [_missing(file, folder) for file in _absent(files, folder)]
        with (
            folder_lock(folder, lambda: _report_others(missing, report)),
            _explained(lambda: [_missing(file, folder) for file in _absent(files, folder)]),
        ):
            # What is absent is asked again: another process may have fetched it meanwhile.
            _download_absent(files, folder, report)
    return folder / files[0].target if len(files) == 1 else folder


def download_face_detector(
    folder: str | os.PathLike[str], on_progress: ProgressCallback | None = None
) -> Path:
    """Fetch the face detector's file unless it is there.

    Args:
        folder: Folder to keep it in; made where it does not exist.
        on_progress: Called with (bytes there, bytes in all).

    Returns:
        Path of the file.

    Raises:
        DownloadError: Offline or unreachable, wrong checksum, or full disk.
    """
    folder, file = Path(folder), FACE_DETECTOR
    target = folder / file.target
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        report = on_progress or _silent
        missing = [Missing(target, file.size_bytes, file.url)]
        with (
            folder_lock(folder, lambda: _report_others(missing, report)),
            _explained(lambda: missing),
        ):
            _download_web_file(file, target, report)
    return target


def _download_web_file(file: WebFile, target: Path, on_progress: ProgressCallback) -> None:
    if target.is_file():
        return  # another process has just fetched it
    require_space(target.parent, [(target, file.size_bytes)])
    report = _from(0, file.size_bytes, on_progress)
    # No headers: the token is for the hub alone.
    fetch(file.url, {}, target, file.size_bytes, f"sha256:{file.sha256}", report)


def _silent(_done: int, _total: int) -> None:
    """Report to nobody."""


def _from(before: int, total: int, on_progress: ProgressCallback) -> FileProgress:
    """Return the report of one file that follows `before` bytes of others."""
    return lambda done: on_progress(before + done, total)


def _report_others(missing: list[Missing], on_progress: ProgressCallback) -> None:
    """Report what another process has fetched of these files so far."""
    total = sum(entry.size_bytes for entry in missing)
    done = sum(size_of(partial_path(entry.path)) or size_of(entry.path) for entry in missing)
    on_progress(min(done, total), total)


@contextmanager
def _explained(missing: Callable[[], list[Missing]]) -> Iterator[None]:
    """Turn a failed request into an error that lists what is missing."""
    try:
        yield
    except NetworkError as error:
        listing = "\n".join(f"  {entry}" for entry in missing())
        raise DownloadError(
            f"Could not download: {error}. Missing (try again, which goes on where it stopped, or "
            f"put them there by hand):\n{listing}"
        ) from error


def _absent(files: Iterable[HubFile], folder: Path) -> list[HubFile]:
    return [file for file in files if not (folder / file.target).is_file()]


def _missing(file: HubFile, folder: Path) -> Missing:
    pin = _recorded(file, folder)
    if pin is None:
        return Missing(folder / file.target, file.size_bytes, file.url(file.revision))
    return Missing(folder / file.target, pin.size_bytes, file.url(pin.commit))


@dataclass(frozen=True, slots=True)
class _Pin:
    """What exactly is fetched for a `HubFile`: the record beside the weights holds these fields.

    Attributes:
        repo: Repository.
        filename: Path inside it.
        revision: What was asked for.
        commit: The commit that this was.
        size_bytes: Exact size.
        checksum: `sha256:…`; `git-sha1:…` for small files, which the hub keeps in git itself.
    """

    repo: str
    filename: str
    revision: str
    commit: str
    size_bytes: int
    checksum: str


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.hub.json")


def _recorded(file: HubFile, folder: Path) -> _Pin | None:
    """Return the record of a file where it speaks of the revision that is wanted."""
    path = _record_path(folder / file.target)
    if not path.is_file():
        return None
    try:
        pin = _Pin(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError):
        return None  # not one of ours: the file is resolved anew
    same = (pin.repo, pin.filename) == (file.repo, file.filename)
    return pin if same and file.revision in ("main", pin.revision, pin.commit) else None


def _record(pin: _Pin, target: Path) -> None:
    """Write the record; bytes that arrived for another revision are dropped."""
    path = _record_path(target)
    text = json.dumps(asdict(pin), indent=2) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_path(target).unlink(missing_ok=True)
    draft = partial_path(path)
    with disk_full_explained(draft, len(text)):
        draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _require_revision(files: Iterable[HubFile], folder: Path) -> None:
    """Refuse to answer a named revision with files of another one."""
    for file in files:
        target = folder / file.target
        if target.is_file() and file.revision != "main" and _recorded(file, folder) is None:
            raise DownloadError(
                f"Expected {target} to be revision {file.revision} of {file.repo}, but it is "
                "recorded as another one or not at all: move it and its .hub.json away, or name "
                "no revision"
            )


def _download_absent(
    files: tuple[HubFile, ...], folder: Path, on_progress: ProgressCallback
) -> None:
    pins = _resolve(files, folder)
    total = sum(pin.size_bytes for _, pin in pins)
    done, rest = 0, []
    for file, pin in pins:
        target = folder / file.target
        _record(pin, target)
        if _take_from_cache(pin, target, _from(done, total, on_progress)):
            done += pin.size_bytes
        else:
            rest.append((file.url(pin.commit), pin, target))
    require_space(folder, [(target, pin.size_bytes) for _, pin, target in rest])
    for url, pin, target in rest:
        report = _from(done, total, on_progress)
        try:
            fetch(url, _hub_headers(), target, pin.size_bytes, pin.checksum, report)
        except ChecksumError:
            # The promise may have come from the same faulty server: ask again next time.
            _record_path(target).unlink()
            raise
        done += pin.size_bytes


def _resolve(files: tuple[HubFile, ...], folder: Path) -> list[tuple[HubFile, _Pin]]:
    """Return what to fetch for each absent file, at one commit a repository."""
    commits: dict[str, str] = {}
    for file in files:
        if pin := _recorded(file, folder):
            commits.setdefault(file.repo, pin.commit)
    pins = []
    for file in _absent(files, folder):
        revision = commits.get(file.repo, file.revision)
        pin = _recorded(file, folder) or _pin_from_cache(file, revision) or _ask(file, revision)
        commits.setdefault(file.repo, pin.commit)
        pins.append((file, pin))
    return pins


def _checksum_from_etag(etag: str) -> str | None:
    """Return the checksum that the hub's etag is: SHA-256 of a large file, git's of a small one."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        return f"sha256:{etag}"
    return f"git-sha1:{etag}" if re.fullmatch("[0-9a-f]{40}", etag) else None


def _ask(file: HubFile, revision: str) -> _Pin:
    """Ask the hub which commit a revision is, and for the file's size and checksum there."""
    from huggingface_hub import constants, get_hf_file_metadata

    url = file.url(revision)
    with network(url):
        found = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    checksum = _checksum_from_etag(found.etag or "")
    if checksum is None or not found.commit_hash or found.size is None:
        raise NetworkError(
            f"expected commit, size and SHA-256 of {url}, got commit {found.commit_hash}, size "
            f"{found.size} and etag {found.etag}: use the hub or a mirror that passes them on",
            final=True,
        )
    commit, size = found.commit_hash, int(found.size)
    return _Pin(file.repo, file.filename, file.revision, commit, size, checksum)


def _cached(repo: str, filename: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _pin_from_cache(file: HubFile, revision: str) -> _Pin | None:
    """Resolve a file by the hub's cache, where an entry links to a blob named by its etag."""
    entry = _cached(file.repo, file.filename, revision)
    if entry is None or not entry.is_symlink():
        return None
    checksum = _checksum_from_etag(Path(os.readlink(entry)).name)
    if checksum is None:
        return None
    commit, size = entry.parents[file.filename.count("/")].name, size_of(entry)
    return _Pin(file.repo, file.filename, file.revision, commit, size, checksum)


def _take_from_cache(pin: _Pin, target: Path, report: FileProgress) -> bool:
    """Link or copy a file from the hub's cache; False where it is not there or not sound."""
    entry = _cached(pin.repo, pin.filename, pin.commit)
    if entry is None or size_of(entry) != pin.size_bytes:
        return False
    source = entry.resolve()
    if checksum_of(source, pin.checksum, report) != pin.checksum:
        return False
    place_copy(source, target)
    return True


def _hub_headers() -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers())
