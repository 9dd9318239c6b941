"""Downloads: the real client of the hub, in a process of its own, against a server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from float_core import hub
from float_core.hub_files import FACE_DETECTOR, LAYOUTS

from .hub_server import HubServer, hub_server

ROOT = Path(__file__).resolve().parents[2]
REPO, NAME = "set-soft/float", "FLOAT.safetensors"
SIZE = 300_000

# What the other process runs. The client reads its variables when it is imported, so each test
# gives it an environment and a fresh interpreter.
CLIENT = """
import json, signal, sys
from dataclasses import replace
from float_core import hub, transfer

job = json.loads(sys.argv[1])
transfer.RETRY_SECONDS = 0.01
if "file_limit" in job:
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"],) * 2)
if "free" in job:
    usage = transfer.shutil.disk_usage
    transfer.shutil.disk_usage = lambda path: usage(path)._replace(free=job["free"])
if "detector" in job:
    hub.FACE_DETECTOR = replace(hub.FACE_DETECTOR, **job["detector"])
progress = []

def on_progress(done, total):
    if job.get("announce") and not progress:
        print("called", flush=True)
    progress.append((done, total))
    if done >= job.get("stop_at", float("inf")):
        raise KeyError("stopped by the caller")

answer = {}
try:
    if job["call"] == "fill_cache":
        from huggingface_hub import hf_hub_download
        result = hf_hub_download(*job["file"])
    elif job["call"] == "detector":
        result = hub.download_face_detector(job["folder"], on_progress)
    else:
        result = hub.download_weights(job["folder"], on_progress, **job.get("options", {}))
    answer["path"] = str(result)
except (hub.DownloadError, KeyError) as error:
    answer["error"] = str(error)
    answer["kind"] = type(error).__name__
answer["progress"] = progress
print(json.dumps(answer))
"""


def contents(size: int = SIZE, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        running.add(REPO, {NAME: contents()})
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "float"


Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def start(server: HubServer, folder: Path, tmp_path: Path) -> Start:
    """Return a function that starts a client: job entries by name, variables as `env`."""

    def start_client(call: str = "weights", env: dict[str, str] | None = None, **job: Any) -> Any:
        own = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "HUGGING"))}
        own |= {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", **(env or {})}
        text = json.dumps({"call": call, "folder": str(folder), **job})
        command = [sys.executable, "-c", CLIENT, text]
        return subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True)

    return start_client


@pytest.fixture
def run(start: Start) -> Run:
    """Return a function that runs a client to its end and gives its answer."""
    return lambda *args, **job: finish(start(*args, **job))


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def record(folder: Path, name: str = NAME) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.hub.json").read_text())
    return values


def names(folder: Path) -> list[str]:
    """Return the files that a download left, its lock aside."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != ".download.lock")


def test_download_fetches_the_commit_checks_and_records_it(
    server: HubServer, run: Run, folder: Path
) -> None:
    answer = run()
    assert answer["path"] == str(folder / NAME)
    assert (folder / NAME).read_bytes() == contents()
    assert names(folder) == [NAME, f"{NAME}.hub.json"]
    commit = server.refs[REPO, "main"]
    assert record(folder) == {
        "repo": REPO,
        "filename": NAME,
        "revision": "main",
        "commit": commit,
        "size_bytes": SIZE,
        "checksum": f"sha256:{sha256(contents())}",
    }
    assert [r.path for r in server.on("hub", "HEAD")] == [f"/{REPO}/resolve/main/{NAME}"]
    assert [r.path for r in server.on("hub")] == [f"/{REPO}/resolve/{commit}/{NAME}"]
    progress = answer["progress"]
    assert progress[0] == [0, SIZE]
    assert progress[-1] == [SIZE, SIZE]
    assert progress == sorted(progress)
    assert len(progress) > 2


def test_a_file_that_is_there_asks_nobody(server: HubServer, run: Run, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"the user's own")
    assert run()["path"] == str(folder / NAME)
    assert (folder / NAME).read_bytes() == b"the user's own"
    assert server.requests == []


def test_token_goes_to_the_hub_only(server: HubServer, run: Run) -> None:
    data = contents(seed=5)
    server.add("zoo/faces", {"yunet.onnx": data})
    url = f"{server.endpoint}/zoo/faces/resolve/main/yunet.onnx"
    token = {"HF_TOKEN": "hf_abc"}
    run(env=token)
    asked = [r.headers.get("authorization") for r in server.requests if r.server == "hub"]
    assert asked == ["Bearer hf_abc", "Bearer hf_abc"]
    detector = {"url": url, "size_bytes": len(data), "sha256": sha256(data)}
    run("detector", env=token, detector=detector)
    others = [r for r in server.requests if r.server == "storage" or "/zoo/" in r.path]
    assert len(others) == 3
    assert not any("authorization" in r.headers for r in others)


def test_cut_connection_is_resumed_by_range(server: HubServer, run: Run, folder: Path) -> None:
    server.cuts = [100_000, 0, 150_000]
    answer = run()
    assert (folder / NAME).read_bytes() == contents()
    first, nothing, second, last = server.on("storage")
    assert (first.start, first.sent) == (0, 100_000)
    assert 0 < nothing.start <= 100_000
    assert second.start == nothing.start
    assert second.start < last.start <= second.start + 150_000
    assert last.sent == SIZE - last.start
    assert answer["progress"] == sorted(answer["progress"])


def test_a_later_call_goes_on_at_the_same_commit(server: HubServer, run: Run, folder: Path) -> None:
    server.cuts = [120_000] + [0] * 20
    answer = run()
    commit = server.refs[REPO, "main"]
    assert answer["kind"] == "DownloadError"
    url = f"{server.endpoint}/{REPO}/resolve/{commit}/{NAME}"
    assert f"{folder / NAME} ({SIZE:,} bytes) from {url}" in answer["error"]
    assert names(folder) == [f"{NAME}.hub.json", f"{NAME}.incomplete"]
    there = (folder / f"{NAME}.incomplete").stat().st_size
    assert 0 < there <= 120_000
    server.cuts.clear()
    server.requests.clear()
    server.add(REPO, {NAME: contents(seed=1)})
    answer = run()
    assert (folder / NAME).read_bytes() == contents()
    assert record(folder)["commit"] == commit
    assert answer["progress"][0] == [there, SIZE]
    (transfer,) = server.on("storage")
    assert (transfer.start, transfer.sent) == (there, SIZE - there)


def test_a_server_without_ranges_still_gives_the_file(
    server: HubServer, run: Run, folder: Path
) -> None:
    server.cuts = [100_000]
    server.ranges = False
    run()
    assert (folder / NAME).read_bytes() == contents()
    assert [r.sent for r in server.on("storage")] == [100_000, SIZE]


def test_wrong_bytes_are_refused_and_deleted(server: HubServer, run: Run, folder: Path) -> None:
    server.corrupt = True
    error = run()["error"]
    assert f"Expected sha256:{sha256(contents())} for {NAME}" in error
    assert f"got sha256:{sha256(contents()[::-1])}" in error
    assert names(folder) == []
    server.corrupt = False
    run()
    assert (folder / NAME).read_bytes() == contents()


def test_full_disk_leaves_no_weights_and_is_resumed(
    server: HubServer, run: Run, folder: Path
) -> None:
    pytest.importorskip("resource")
    limit = 100_000
    error = run(file_limit=limit)["error"]
    assert f"Expected room for {SIZE:,} bytes in {folder}" in error
    assert f"stopped at {limit:,}" in error
    assert f"{SIZE - limit:,} too few" in error
    assert names(folder) == [f"{NAME}.hub.json", f"{NAME}.incomplete"]
    run()
    assert (folder / NAME).read_bytes() == contents()
    assert server.on("storage")[-1].start == limit


def test_space_is_asked_for_before_anything_is_fetched(
    server: HubServer, run: Run, folder: Path
) -> None:
    error = run(free=SIZE - 1)["error"]
    assert f"Expected {SIZE:,} bytes free in {folder}, found {SIZE - 1:,}" in error
    assert server.on("storage") == []
    assert "path" in run(free=SIZE)


def test_two_processes_share_one_download(server: HubServer, start: Start, folder: Path) -> None:
    server.gate.clear()
    processes = [start(announce=True), start(announce=True)]
    # One has begun, the other waits; the transfer is held half-way until both have said so.
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "called\n"
    server.gate.set()
    answers = [finish(process) for process in processes]
    assert [a["path"] for a in answers] == [str(folder / NAME)] * 2
    assert (folder / NAME).read_bytes() == contents()
    assert [r.sent for r in server.on("storage")] == [SIZE]
    assert names(folder) == [NAME, f"{NAME}.hub.json"]


def test_offline_lists_every_file_its_size_place_and_address(
    server: HubServer, run: Run, folder: Path
) -> None:
    (folder / "fmt").mkdir(parents=True)
    (folder / "fmt" / "fmt.safetensors").touch()
    error = run(env={"HF_HUB_OFFLINE": "1"}, options={"layout": "parts"})["error"]
    assert "HF_HUB_OFFLINE" in error
    lines = error.splitlines()[1:]
    wanted = [file for file in LAYOUTS["parts"] if file.target != "fmt/fmt.safetensors"]
    sizes = ["91 MB", "90 MB", "19 MB", "2,000 bytes", "378 MB", "2,000 bytes", "1,266 MB"]
    assert lines == [
        f"  {folder / file.target} ({size}) from "
        f"{server.endpoint}/{file.repo}/resolve/{file.revision}/{file.filename}"
        for file, size in zip(wanted, sizes, strict=True)
    ]
    assert server.requests == []


def test_unreachable_and_refused_list_what_is_missing(
    server: HubServer, run: Run, folder: Path
) -> None:
    closed = "http://127.0.0.1:9"
    error = run(env={"HF_ENDPOINT": closed})["error"]
    assert f"{folder / NAME} (2,470 MB) from {closed}/{REPO}/resolve/main/{NAME}" in error
    error = run(options={"layout": "published"})["error"]
    assert "401" in error
    assert str(folder / "float.pth") in error
    assert len(server.requests) == 1


def test_a_mirror_that_reports_no_checksum_is_refused(server: HubServer, run: Run) -> None:
    server.checksums = False
    assert "expected commit, size and SHA-256" in run()["error"]
    assert server.on("storage") == []


def test_what_the_callback_raises_stops_and_is_resumed(
    server: HubServer, run: Run, folder: Path
) -> None:
    answer = run(stop_at=50_000)
    assert answer["kind"] == "KeyError"
    assert names(folder) == [f"{NAME}.hub.json", f"{NAME}.incomplete"]
    there = (folder / f"{NAME}.incomplete").stat().st_size
    assert 50_000 <= there < SIZE
    run()
    assert (folder / NAME).read_bytes() == contents()
    assert server.on("storage")[-1].start == there


def test_the_hubs_cache_is_used_even_offline(server: HubServer, run: Run, folder: Path) -> None:
    cached = run("fill_cache", file=[REPO, NAME])["path"]
    server.requests.clear()
    answer = run(env={"HF_HUB_OFFLINE": "1"})
    assert (folder / NAME).samefile(cached)
    assert answer["progress"][-1] == [SIZE, SIZE]
    assert record(folder)["commit"] == server.refs[REPO, "main"]
    assert server.requests == []


def test_a_spoilt_cache_is_passed_over(server: HubServer, run: Run, folder: Path) -> None:
    cached = Path(run("fill_cache", file=[REPO, NAME])["path"])
    cached.resolve().write_bytes(contents(seed=3))
    server.requests.clear()
    run()
    assert (folder / NAME).read_bytes() == contents()
    assert [r.sent for r in server.on("storage")] == [SIZE]


def published(seed: int) -> dict[str, bytes]:
    """Return files of the published layout: configs small enough to lie in git, weights not."""
    files = LAYOUTS["published"]
    return {
        file.filename: contents(500 if file.filename.endswith("json") else 40_000, seed + index)
        for index, file in enumerate(files)
    }


def test_many_files_are_one_commit_and_repaired_at_it(
    server: HubServer, run: Run, folder: Path
) -> None:
    repo = LAYOUTS["published"][0].repo
    old = published(seed=10)
    commit = server.add(repo, old)
    answer = run(options={"layout": "published"})
    assert answer["path"] == str(folder)
    assert {name: (folder / name).read_bytes() for name in old} == old
    total = sum(map(len, old.values()))
    assert answer["progress"][-1] == [total, total]
    assert answer["progress"] == sorted(answer["progress"])
    config = "wav2vec2-base-960h/config.json"
    assert record(folder, config)["checksum"].startswith("git-sha1:")
    server.add(repo, published(seed=20))
    for name in (config, "float.pth"):
        (folder / name).unlink()
        (folder / f"{name}.hub.json").unlink()
    run(options={"layout": "published"})
    assert {name: (folder / name).read_bytes() for name in old} == old
    assert record(folder, config)["commit"] == commit


def test_a_named_revision_is_fetched_and_never_mixed_up(
    server: HubServer, run: Run, folder: Path
) -> None:
    commit = server.add(REPO, {NAME: contents(seed=7)}, ref="v1")
    run(options={"revision": "v1"})
    assert (folder / NAME).read_bytes() == contents(seed=7)
    assert "path" in run(options={"revision": commit})
    assert "path" in run()
    other = server.refs[REPO, "main"]
    error = run(options={"revision": other})["error"]
    assert f"Expected {folder / NAME} to be revision {other}" in error
    assert (folder / NAME).read_bytes() == contents(seed=7)


def test_bytes_of_another_revision_are_not_resumed(
    server: HubServer, run: Run, folder: Path
) -> None:
    server.add(REPO, {NAME: contents(seed=7)}, ref="v1")
    run(stop_at=50_000)
    run(options={"revision": "v1"})
    assert (folder / NAME).read_bytes() == contents(seed=7)
    assert server.on("storage")[-1].start == 0


def test_face_detector_is_checked_against_its_known_hash(
    server: HubServer, run: Run, folder: Path
) -> None:
    data = contents(seed=5)
    server.add("zoo/faces", {"yunet.onnx": data})
    url = f"{server.endpoint}/zoo/faces/resolve/main/yunet.onnx"
    detector = {"url": url, "size_bytes": len(data), "sha256": "0" * 64}
    error = run("detector", detector=detector)["error"]
    assert f"Expected sha256:{'0' * 64}" in error
    assert f"got sha256:{sha256(data)}" in error
    assert names(folder) == []
    server.cuts = [100_000]
    answer = run("detector", detector=detector | {"sha256": sha256(data)})
    assert answer["path"] == str(folder / FACE_DETECTOR.target)
    assert Path(answer["path"]).read_bytes() == data
    assert answer["progress"][-1] == [len(data), len(data)]
    error = run("detector", detector=detector, env={"HF_HUB_OFFLINE": "1"}).get("error")
    assert error is None
    (folder / FACE_DETECTOR.target).unlink()
    error = run("detector", detector=detector, env={"HF_HUB_OFFLINE": "1"})["error"]
    assert f"{folder / FACE_DETECTOR.target} ({len(data):,} bytes) from {url}" in error


def test_plan_lists_without_asking(server: HubServer, tmp_path: Path) -> None:
    missing = hub.plan(tmp_path / "nowhere")
    assert [(entry.path, entry.size_bytes) for entry in missing] == [
        (tmp_path / "nowhere" / NAME, 2_470_000_000)
    ]
    assert missing[0].url.endswith(f"/{REPO}/resolve/main/{NAME}")
    (tmp_path / NAME).touch()
    assert hub.plan(tmp_path) == []
    assert not (tmp_path / "nowhere").exists()
    assert server.requests == []


def test_unknown_layout_is_named() -> None:
    with pytest.raises(ValueError, match="layout must be one of one-file, published, parts"):
        hub.plan("anywhere", layout="two-file")


def test_importing_does_not_import_the_client() -> None:
    code = "import sys, float_core.hub; print('huggingface_hub' in sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == "False\n"
