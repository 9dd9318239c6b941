"""A server on loopback that answers like the Hugging Face hub and its storage.

The hub answers `/{owner}/{name}/resolve/{revision}/{filename}`: small files from git directly,
large ones by a redirect that carries the SHA-256 and leads to the storage, here a second port (to a
client another origin, as the real one is). What goes wrong is set on `HubServer` by the test.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LARGE_BYTES = 10_000
PIECE_BYTES = 16_384


@dataclass
class Request:
    """One request as it came in, and the bytes of a file that went out."""

    server: str
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def start(self) -> int:
        """Return the first byte that was asked for."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


@dataclass
class HubServer:
    """Repositories and their faults.

    Attributes:
        commits: Files by name of each commit, by (repository, commit).
        refs: Commit of each branch or tag, by (repository, name).
        cuts: For each coming transfer in turn, the bytes after which the connection breaks.
        corrupt: Whether the storage sends other bytes of the same length.
        ranges: Whether the storage obeys `Range`.
        checksums: Whether the hub reports checksums.
        gate: Transfers stop half-way until it is set.
    """

    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    corrupt: bool = False
    ranges: bool = True
    checksums: bool = True
    gate: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    endpoint: str = ""
    storage: str = ""

    def add(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Commit files to a repository and return the commit's hash."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[repo, commit] = files
        self.refs[repo, ref] = commit
        return commit

    def on(self, server: str, method: str = "GET") -> list[Request]:
        """Return the requests that a server, `hub` or `storage`, has had."""
        return [r for r in self.requests if (r.server, r.method) == (server, method)]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve on two free ports of 127.0.0.1 until the block is left."""
    hub = HubServer()
    hub.gate.set()
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
        for handler in (_HubHandler, _StorageHandler)
    ]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.gate.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    name = ""

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_log = Request(self.name, self.command, unquote(self.path), headers)
        self.hub.requests.append(self.request_log)
        self.answer()

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self) -> None:
        raise NotImplementedError

    def start(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, data: bytes, headers: dict[str, Any]) -> None:
        """Answer with a file or the asked part of it, as far as the test lets it through."""
        start = self.request_log.start if self.hub.ranges else 0
        body = data[start:]
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self.start(206 if start else 200, {"Content-Length": len(body), **span, **headers})
        if self.command == "HEAD":
            return
        limit = self.hub.cuts.pop(0) if self.hub.cuts else len(body)
        for position in range(0, min(limit, len(body)), PIECE_BYTES):
            if position >= len(body) // 2:
                self.hub.gate.wait(20)
            piece = body[position : min(position + PIECE_BYTES, limit)]
            try:
                self.wfile.write(piece)
            except OSError:
                return
            self.request_log.sent += len(piece)

    def log_message(self, *_args: Any) -> None:
        """Keep the test's output free of an access log."""


class _HubHandler(_Handler):
    name = "hub"

    def answer(self) -> None:
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        commit = self.hub.refs.get((repo, unquote(revision)), revision)
        files = self.hub.commits.get((repo, commit))
        if files is None:
            self.start(401, {"X-Error-Code": "RepoNotFound", "Content-Length": 0})
            return
        data = files.get(unquote(filename))
        if data is None:
            self.start(404, {"X-Error-Code": "EntryNotFound", "Content-Length": 0})
            return
        headers: dict[str, Any] = {"X-Repo-Commit": commit}
        if len(data) < LARGE_BYTES:
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self.send(data, {**headers, "ETag": f'"{blob}"'})
            return
        if self.hub.checksums:
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        headers |= {"X-Linked-Size": len(data), "Content-Length": 0}
        headers["Location"] = f"{self.hub.storage}/{repo}/{commit}/{filename}"
        self.start(302, headers)


class _StorageHandler(_Handler):
    name = "storage"

    def answer(self) -> None:
        owner, name, commit, filename = unquote(self.path).lstrip("/").split("/", 3)
        data = self.hub.commits[f"{owner}/{name}", commit][filename]
        self.send(data[::-1] if self.hub.corrupt else data, {})
