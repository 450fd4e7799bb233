"""docs/serve.md: its commands run, services and requests, and its tables are true."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import blocks
from tiny_service import make_place

from jaxir.cli.main import make_parser
from jaxir.serve.app import _METRICS
from jaxir.serve.requests import EMBEDDING_NAMES, RERANK_NAMES, SEARCH_NAMES

GUIDE = Path(__file__).parent.parent / "docs" / "serve.md"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as the guide supposes, entered."""
    make_place(tmp_path)
    (tmp_path / "my").mkdir()
    (tmp_path / "docs").rename(tmp_path / "my" / "collection")
    (tmp_path / "keys.txt").write_text("# ours\na-long-secret\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_commands(workplace):
    ports, services, asked = {}, [], []
    lines = [
        line
        for _, text in blocks(GUIDE, "bash")
        for line in text.splitlines()
        if line and not line.startswith("#")
    ]
    try:
        for line in lines:
            for port in re.findall(r"\b80\d\d\b", line):
                line = line.replace(port, str(ports.setdefault(port, free_port())))
            words = shlex.split(line)
            if words[:2] == ["jaxir", "serve"]:
                command = [sys.executable, "-m", *words]
                with open(workplace / f"log-{len(services)}", "wb") as out:
                    services.append(subprocess.Popen(command, stdout=out))
                continue
            done = subprocess.run(words, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, (line, done.stderr)
            asked.append(done.stdout)
        for service in services:
            assert service.poll() is None
            service.terminate()
            assert service.wait(60) == 0
    finally:
        for service in services:
            service.kill()
    assert len(services) == 2
    answers = [json.loads(text) for text in asked if text.startswith("{")]
    keys = ["indexes" in a or "results" in a or "data" in a or "status" in a
            for a in answers]  # fmt: skip
    assert all(keys)
    explained = [a for a in answers if '"matches"' in json.dumps(a)]
    assert len(explained) == 1
    assert "jaxir_requests_total" in asked[-1]


def test_flags_and_names_are_those_of_the_code():
    text = GUIDE.read_text()
    actions = make_parser("serve")._actions
    known = {flag for action in actions for flag in action.option_strings}
    flags = set(re.findall(r"`?(--[a-z_]+)\b", text)) - {
        "--silent", "--fail", "--retry"
    }  # fmt: skip
    flags = {flag for flag in flags if not flag.startswith("--retry")}
    assert flags <= known
    assert known - flags <= {"-h", "--help", "--quiet"}
    defaults = {f"--{action.dest}": action.default for action in actions}
    for flag, shown in re.findall(r"^\| `(--\w+)` \| (\d+) \|", text, re.M):
        assert float(shown) == defaults[flag], flag
    for name in (*SEARCH_NAMES, *RERANK_NAMES, *EMBEDDING_NAMES):
        assert f"`{name}`" in text, name
    for name, *_ in _METRICS:
        if not name.startswith("process_") and name != "jaxir_info":
            assert f"`{name}`" in text, name
