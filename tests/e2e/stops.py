"""Processes for the tests that stop one: ``stops.py index|train|rerank ARGUMENTS``."""

import os
import sys
import time


def index(model, collection, directory, delay):
    """Encodes in shards of two documents, slowly."""
    from jaxir import encode
    from jaxir.index import BuildOptions, build_index

    write = encode._write_shard

    def slow(*args):
        write(*args)
        print("shard", flush=True)
        time.sleep(float(delay))

    encode._write_shard = slow
    options = BuildOptions(shard_rows=2)
    build_index(model, collection, directory, options=options)


def train(delay, *words):
    """``jaxir train`` that says each batch it takes, slowly."""
    from jaxir.cli.main import main
    from jaxir.data import pipeline

    following = pipeline.Batches.__next__

    def slow(self):
        time.sleep(float(delay))
        print("batch", self.position, flush=True)
        return following(self)

    pipeline.Batches.__next__ = slow
    return main(["train", *words])


def rerank(delay, *words):
    """``jaxir rerank`` in windows of two queries that says each one, slowly."""
    from jaxir import rerank
    from jaxir.cli.main import main
    from jaxir.data import resumable

    append = resumable.ResumableLines.append

    def slow(self, key, lines, counts=None):
        append(self, key, lines, counts)
        print("query", len(self.done), flush=True)
        time.sleep(float(delay))

    resumable.ResumableLines.append = slow
    rerank._window_size = lambda *args: 8
    return main(["rerank", *words])


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    verbs = {"index": index, "train": train, "rerank": rerank}
    sys.exit(verbs[sys.argv[1]](*sys.argv[2:]))
