"""Bring one file from an address to its place: resumed, checked, moved only when whole.

Used by `hub` alone, which knows what to fetch and from where. Bytes come by plain HTTP through the
session of `huggingface_hub` (requests, httpx or what it uses next), so that its proxies, timeouts
and offline switch hold.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

RETRIES = 5
"""Attempts after a break that brought nothing new; any new byte starts the count again."""

RETRY_SECONDS = 0.5
"""Pause before the first of them, in seconds; doubled for each further one, up to 4 s."""

FileProgress = Callable[[int], None]
"""Called with the bytes of the file that are there; what it raises stops the transfer."""

_READ_BYTES = 1 << 20
_LOCK_POLL_SECONDS = 0.2
_DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class DownloadError(RuntimeError):
    """Files could not be fetched; the message says which, why, and what to do."""


class ChecksumError(DownloadError):
    """A whole file arrived and is not the one that was promised; it has been deleted."""


class NetworkError(Exception):
    """A request failed; `final` where asking again would not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def partial_path(target: Path) -> Path:
    """Return where the bytes of a file gather until it is whole."""
    return target.with_name(f"{target.name}.incomplete")


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def fetch(
    url: str,
    headers: dict[str, str],
    target: Path,
    size_bytes: int,
    checksum: str,
    report: FileProgress,
) -> None:
    """Download a file, check what then lies on the disk, and move it into place.

    Args:
        url: Address.
        headers: Headers of the request, such as the token.
        target: Where the file goes.
        size_bytes: Its exact size.
        checksum: `sha256:…` or `git-sha1:…`, in hexadecimal digits.
        report: Called as bytes arrive, before each further attempt, and while checking.

    Raises:
        NetworkError: The address cannot be reached or refuses; what has arrived is kept.
        ChecksumError: What arrived is another file; it has been deleted.
        DownloadError: The disk is full; what has arrived is kept.
    """
    part = partial_path(target)
    _download(url, headers, part, size_bytes, report)
    found = checksum_of(part, checksum, lambda _read: report(size_bytes))
    if found != checksum:
        part.unlink()
        raise ChecksumError(
            f"Expected {checksum} for {target.name} from {url}, got {found}: what arrived was "
            "deleted; try again, or another mirror"
        )
    os.replace(part, target)


def place_copy(source: Path, target: Path) -> None:
    """Put a file that lies elsewhere on this machine into place, by a hard link where possible.

    Raises:
        DownloadError: The disk is full.
    """
    part = partial_path(target)
    try:
        os.link(source, target)
    except OSError:
        # Another disk, or one without hard links.
        with disk_full_explained(part, size_of(source)):
            shutil.copyfile(source, part)
        os.replace(part, target)
    part.unlink(missing_ok=True)


def checksum_of(path: Path, like: str, report: FileProgress) -> str:
    """Return the checksum of a file in the form of `like`, reporting the bytes read."""
    kind = like.partition(":")[0]
    digest = hashlib.sha256()
    if kind == "git-sha1":
        digest = hashlib.sha1(b"blob %d\0" % size_of(path), usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            done += len(chunk)
            report(done)
    return f"{kind}:{digest.hexdigest()}"


def require_space(folder: Path, files: list[tuple[Path, int]]) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: Existing folder on the disk.
        files: Target and size in bytes of each file; what has arrived of it counts as there.

    Raises:
        DownloadError: Too little is free.
    """
    needed = sum(max(0, size - size_of(partial_path(target))) for target, size in files)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"Expected {needed:,} bytes free in {folder}, found {free:,}: free some space or "
            "choose another folder"
        )


@contextmanager
def folder_lock(folder: Path, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a folder against other processes that download into it.

    Args:
        folder: Existing folder.
        while_waiting: Called several times a second; what it raises ends the wait.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".download.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_LOCK_POLL_SECONDS)
        except Timeout:
            while_waiting()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def network(url: str) -> Iterator[None]:
    """Turn what a request to `url` raises into a `NetworkError`."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise NetworkError("the network is switched off by HF_HUB_OFFLINE", final=True)
    # It descends from the HTTPError of whichever library carries the requests.
    carriers = tuple(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        yield
    except (OSError, *carriers) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        reason = " ".join(str(error).split()) or type(error).__name__
        final = 400 <= status < 500 and status not in (408, 429)
        raise NetworkError(f"{reason} ({url})", final=final) from error


@contextmanager
def disk_full_explained(path: Path, size_bytes: int) -> Iterator[None]:
    """Turn a full disk under `path` into a `DownloadError` that counts the bytes."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        there = size_of(path)
        raise DownloadError(
            f"Expected room for {size_bytes:,} bytes in {path.parent}, but writing stopped at "
            f"{there:,} ({error.strerror}), {max(0, size_bytes - there):,} too few: free some "
            f"space and try again, which goes on where it stopped, or delete {path}"
        ) from error


def _download(
    url: str, headers: dict[str, str], part: Path, size_bytes: int, report: FileProgress
) -> None:
    """Append to a partial file until it has all bytes, through breaks."""
    if size_of(part) > size_bytes:
        part.unlink()
    failures = 0
    with part.open("ab", buffering=0) as file:
        done = file.tell()
        report(done)
        while done < size_bytes:
            before, failure = done, NetworkError(f"{url} ended before {size_bytes:,} bytes")
            try:
                with closing(_stream(url, headers, done)) as chunks:
                    for chunk in chunks:
                        with disk_full_explained(part, size_bytes):
                            done += _write(file, chunk[: size_bytes - done])
                        report(done)
            except NetworkError as error:
                failure = error
            if done < size_bytes:
                failures = 1 if done > before else failures + 1
                _pause_or_raise(failure, failures)
                report(done)
        os.fsync(file.fileno())


def _pause_or_raise(failure: NetworkError, failures: int) -> None:
    if failure.final or failures > RETRIES:
        raise failure
    time.sleep(min(4.0, RETRY_SECONDS * 2 ** (failures - 1)))


def _write(file: Any, chunk: bytes) -> int:
    """Write a chunk to an unbuffered file, which may take it piece by piece."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
    return len(chunk)


def _stream(url: str, headers: dict[str, str], start: int) -> Generator[bytes, None, None]:
    """Yield the bytes of an address from `start` on."""
    from huggingface_hub.utils import hf_raise_for_status

    # Never compressed: sizes and positions are those of the file itself.
    headers = {**headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with network(url), _open(url, headers) as (response, chunks):
        hf_raise_for_status(response)
        # A server may ignore the range and send all: what is there already is passed over.
        surplus = 0 if response.status_code == 206 else start
        for chunk in chunks:
            yield chunk[surplus:]
            surplus = max(0, surplus - len(chunk))


@contextmanager
def _open(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """Start a GET request; the session drops the token where it is sent on to another host."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    options: dict[str, Any] = {"headers": headers, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
    if callable(getattr(session, "stream", None)):  # httpx, since version 1 of the library
        with session.stream("GET", url, follow_redirects=True, **options) as response:
            yield response, response.iter_bytes()
    else:  # requests
        with session.get(url, stream=True, **options) as response:
            yield response, response.iter_content(1 << 16)
