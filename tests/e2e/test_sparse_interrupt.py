"""Changes of a sparse index, killed while its lists are written, and made again."""

import signal
import subprocess
import sys

import pytest
from tiny_pq import many_documents
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.main import main
from jaxir.index import build_index
from jaxir.manifest import verify

KILLED = """
import os, signal, sys
from jaxir import sparse_change
from jaxir.cli.main import main

build = sparse_change.build_postings

def killed(*args, **kwargs):
    build(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

sparse_change.build_postings = killed
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)
    save_model(tmp_path / "model", tiny_sparse(tmp_path / "words"))
    whole = many_documents(tmp_path / "whole", 20)
    more = many_documents(tmp_path / "more", 4, prefix="e", seed=1)
    index, ids = tmp_path / "i", tmp_path / "ids.txt"
    ids.write_text("d3\nd7\n")
    before = build_index(load_model(tmp_path / "model"), whole, index)
    for change, docs in ((("--add", more), 24), (("--delete", ids), 22)):
        words = list(map(str, ("index", "--index", index, *change)))
        done = subprocess.run(
            [sys.executable, "-c", KILLED, *words], capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert verify(index, deep=True) == before
        assert main(words) == 0
        before = verify(index, deep=True)
        assert before.counts == {"docs": docs}
