"""docs/opensearch.md: its commands run, in order, against the tests' own cluster."""

import json
import re
import shlex
import urllib.request
from pathlib import Path

import pytest
from fake_opensearch import FakeOpenSearch, serving
from test_readme import blocks, commands
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.main import main, make_parser
from jaxir.export import opensearch_client, opensearch_config
from jaxir.export.opensearch_files import FORMATS

GUIDE = Path(__file__).parent.parent / "docs" / "opensearch.md"
URL = "http://localhost:9200"


@pytest.fixture
def cluster():
    fake = FakeOpenSearch()
    with serving(fake) as url:
        yield fake, url


def curl(line):
    """Does what a command line of curl says."""
    words = shlex.split(line)[1:]
    method, url = words[words.index("-X") + 1], next(w for w in words if "://" in w)
    name, _, value = words[words.index("-H") + 1].partition(":")
    data = b""
    if "--data-binary" in words:
        data = Path(words[-1].removeprefix("@")).read_bytes()
    request = urllib.request.Request(url, data, {name: value}, method=method)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


@pytest.mark.slow
def test_commands(tiny_collection, tmp_path, monkeypatch, capfd, cluster):
    fake, url = cluster
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    tiny_collection.rename("my/collection")
    save_model(Path("models/sparse"), tiny_sparse(Path("words")))
    verbs = []
    for _, text in blocks(GUIDE, "bash"):
        for line in text.replace(URL, url).splitlines():
            if line.startswith("curl"):
                assert curl(line).get("errors", False) is False
                continue
            (words,) = commands(line)
            assert main(words) == 0, f"{words}\n{capfd.readouterr().err}"
            verbs.append(words[0])
    assert set(verbs) == {"index", "search", "evaluate", "export"}
    docs, exported = (fake.indexes[name]["visible"] for name in ("docs", "exported"))
    assert len(docs) == 12
    assert docs == exported
    assert "fast-two-phase" in fake.pipelines


def test_options_and_variables_are_told():
    text = GUIDE.read_text()
    known = make_parser("export")._option_string_actions
    for option in re.findall(r"`(--\w+)", text):
        verbs = ("export", "index", "search")
        assert any(option in make_parser(v)._option_string_actions for v in verbs)
    for name in ("--texts", "--seismic", "--version", "--max_bytes", "--scale"):
        assert name in known
        assert name in text
    for name in ("expansion_rate", "max_window_size", "prune_ratio", "prune_type"):
        assert name in text
    for name in re.findall(r"OPENSEARCH_[A-Z_]+", opensearch_client.__doc__):
        assert f"`{name}`" in text
    for name in FORMATS:
        assert f"--format {name} " in text


def test_versions_are_told():
    text = GUIDE.read_text()
    told = re.findall(r"^\| (\d\.\d+) \|", text, re.M)
    written = re.findall(r"^(\d\.\d+) ", opensearch_config.__doc__, re.M)
    assert told == written == ["2.11", "2.14", "2.15", "2.19", "3.3"]
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = [
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in headings
        ]
        assert anchor in anchors
    for name in re.findall(r"^    (ci/\w+|.*pytest (\S+))", text, re.M):
        path = name[1] or name[0]
        assert (GUIDE.parent.parent / path).is_file(), path
