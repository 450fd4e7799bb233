"""Indexes, a reranker and documents, made once for all tests of the service."""

import shutil
from pathlib import Path

import pytest
from tiny_service import make_place


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """What :func:`tiny_service.make_place` writes; left as it is by all tests."""
    return make_place(tmp_path_factory.mktemp("service"))


@pytest.fixture
def own(place, tmp_path):
    """A copy of two indexes, for a test to change."""
    for kind in ("dense", "bm25"):
        shutil.copytree(place / "indexes" / kind, tmp_path / kind)
    return tmp_path
