"""Processes for the tests that stop one: ``stops.py VERB ARGUMENTS``."""

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


def delete(index, place, *ids):
    """Deletes from copies of an index, each in a process that ends a touch later.

    Prints what stands after each: the documents of a whole index, or what is wrong.
    """
    import contextlib
    import shutil
    from pathlib import Path

    from jaxir.errors import InputError
    from jaxir.manifest import DocIdFile, verify
    from jaxir.pq_change import delete_documents

    def whole():
        try:
            docs = verify(place, deep=True).counts["docs"]
            return docs if docs == len(DocIdFile(place)) else "other ids"
        except InputError as error:
            return str(error)

    def killed(touches):
        def touch(event, args):
            nonlocal touches
            touches -= event.startswith(("open", "os.", "shutil.")) and folder in str(
                args
            )
            if not touches:
                os._exit(9)

        folder = str(Path(place).parent)
        sys.addaudithook(touch)
        delete_documents(place, ids)
        os._exit(0)

    code = None
    for touches in range(1, 1000):
        shutil.rmtree(Path(place).parent, ignore_errors=True)
        shutil.copytree(index, place)
        child = os.fork()
        if not child:
            killed(touches)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = whole()
        with contextlib.suppress(InputError):  # it is done already
            delete_documents(place, ids)
        print(code, found, whole(), flush=True)
        if not code:
            return


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    verbs = {"index": index, "train": train, "rerank": rerank, "delete": delete}
    sys.exit(verbs[sys.argv[1]](*sys.argv[2:]))
