"""Talk to a ComfyUI server: queue a graph, wait for it, read what became of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
"""A graph in API form: nodes by id, each with `class_type` and `inputs`."""

_RUN_SECONDS = 120.0
_POLL_SECONDS = 0.02

_PREVIEW, _TEXT = 1, 3
"""Kinds of binary messages."""


class Refused(Exception):  # noqa: N818
    """The server refused a graph before running it; the message holds what the page would show."""


@dataclass
class Run:
    """What became of a graph.

    Attributes:
        status: "success", "error" or "interrupted".
        cached: Ids of the nodes whose result was still there.
        error: The sentence that the page shows, or "".
        error_node: Id of the node that stopped, or "".
        outputs: What the output nodes show, by id.
        seconds: Duration on the server.
    """

    status: str
    cached: set[str]
    error: str
    error_node: str
    outputs: dict[str, dict[str, Any]]
    seconds: float

    @classmethod
    def from_history(cls, entry: Mapping[str, Any]) -> Run:
        """Read an entry of the server's history."""
        messages = dict(entry["status"]["messages"])
        ended = {
            "execution_success": "success",
            "execution_error": "error",
            "execution_interrupted": "interrupted",
        }
        end = next(name for name in ended if name in messages)
        begin = messages["execution_start"]["timestamp"]
        return cls(
            status=ended[end],
            cached=set(messages.get("execution_cached", {}).get("nodes", ())),
            error=messages[end].get("exception_message", "").strip(),
            error_node=messages[end].get("node_id", ""),
            outputs=entry["outputs"],
            seconds=(messages[end]["timestamp"] - begin) / 1000,
        )


@dataclass
class Heard:
    """What the server sent to one listening page.

    Attributes:
        messages: Kind and values of each message, in order.
        pictures: Previews, each an encoded picture.
        texts: Texts that nodes showed: node and text.
    """

    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def progress(self, node: str) -> list[float]:
        """Return the shares that a node's bar showed, 0 to 1."""
        return [
            values["value"] / values["max"]
            for kind, values in self.messages
            if kind == "progress" and values["node"] == node
        ]


class ComfyClient:
    """One page's view of a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """Fetch JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def download(self, path: str) -> bytes:
        """Fetch a file."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, values: Any) -> Any:
        """Send JSON and return the answer's.

        Raises:
            Refused: The server answered that the graph is not valid.
        """
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(values).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Refused(_sentences(json.loads(error.read()))) from error

    def upload(self, path: Path) -> str:
        """Put a file into the server's input folder and return its name there."""
        mark = uuid.uuid4().hex
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        request = urllib.request.Request(f"{self.url}/upload/image", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.loads(answer.read())["name"])

    def queue(self, graph: Graph) -> str:
        """Queue a graph and return its id.

        Raises:
            Refused: The server refuses it.
        """
        answer = self.post("/prompt", {"prompt": graph, "client_id": self.client_id})
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout_seconds: float = _RUN_SECONDS) -> Run:
        """Wait until a graph has ended, however it did."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Run.from_history(history[prompt_id])
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"The graph still runs after {timeout_seconds} s.")

    def run(self, graph: Graph) -> Run:
        """Queue a graph and wait for its end."""
        return self.wait(self.queue(graph))

    def files(self, run: Run, folder: Path) -> list[Path]:
        """Fetch the files that a run saved."""
        entries = [
            entry
            for output in run.outputs.values()
            for values in output.values()
            if isinstance(values, list)
            for entry in values
            if isinstance(entry, dict) and "filename" in entry
        ]
        return [self._fetch(entry, folder) for entry in entries]

    def _fetch(self, entry: Mapping[str, str], folder: Path) -> Path:
        query = urllib.parse.urlencode({k: entry[k] for k in ("filename", "subfolder", "type")})
        target = folder / entry["filename"]
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=60) as answer:
            target.write_bytes(answer.read())
        return target

    @contextmanager
    def listening(self) -> Iterator[Heard]:
        """Listen, as the page does, while the block runs."""
        heard, ready, done = Heard(), threading.Event(), threading.Event()
        address = f"{self.url}/ws?clientId={self.client_id}"
        listener = threading.Thread(
            target=lambda: asyncio.run(_listen(address, heard, ready, done)), daemon=True
        )
        listener.start()
        assert ready.wait(30), "The server does not take the web socket."
        try:
            yield heard
        finally:
            done.set()
            listener.join(30)


async def _listen(
    address: str, heard: Heard, ready: threading.Event, done: threading.Event
) -> None:
    # ComfyUI needs aiohttp itself, so wherever its server runs it is there.
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
        ready.set()
        while not done.is_set():
            try:
                message = await socket.receive(timeout=0.1)
            except (asyncio.TimeoutError, TimeoutError):
                continue
            if message.type == aiohttp.WSMsgType.TEXT:
                values = json.loads(message.data)
                heard.messages.append((values["type"], values["data"]))
            elif message.type == aiohttp.WSMsgType.BINARY:
                _take_binary(message.data, heard)
            else:
                return


def _take_binary(data: bytes, heard: Heard) -> None:
    kind, rest = int.from_bytes(data[:4], "big"), data[4:]
    if kind == _TEXT:
        length = int.from_bytes(rest[:4], "big")
        heard.texts.append((rest[4 : 4 + length].decode(), rest[4 + length :].decode()))
    elif kind == _PREVIEW:
        heard.pictures.append(rest[4:])


def _sentences(answer: Mapping[str, Any]) -> str:
    parts = [answer.get("error", {})]
    for node in answer.get("node_errors", {}).values():
        parts.extend(node["errors"])
    return "; ".join(f"{part.get('message', '')}: {part.get('details', '')}" for part in parts)
