"""jaxir: neural information retrieval in JAX.

Importing this package imports neither JAX nor a model; a name is loaded when it is
first used (PEP 562).  The verbs are functions named like their modules, as in
``from jaxir.search import search``, ``from jaxir.rerank import rerank`` and ``from
jaxir.pretrain import pretrain``.

Example::

  >>> import jaxir
  >>> jaxir.Ranking(doc_ids=[3, 1], scores=[0.9, 0.2]).doc_ids
  [3, 1]
  >>> jaxir.Reranker.rank.__name__, jaxir.load_reranker.__name__
  ('rank', 'load_reranker')
"""

import importlib

__version__ = "0.1.0"

# Public name -> the module that defines it.  A name that is also a module of this
# package cannot stand here: importing that module would replace it.
_HOME = {
    "InputError": "jaxir.errors",
    "RankBatch": "jaxir.types",
    "Ranking": "jaxir.types",
    "Reranker": "jaxir.reranker",
    "Task": "jaxir.types",
    "TokenBatch": "jaxir.types",
    "build_index": "jaxir.index",
    "encode_corpus": "jaxir.encode",
    "encode_texts": "jaxir.encode",
    "load_model": "jaxir.checkpoints.model_dir",
    "load_reranker": "jaxir.reranker",
    "load_tokenizer": "jaxir.text",
    "open_collection": "jaxir.data.collection",
    "open_index": "jaxir.search",
    "read_qrels": "jaxir.data.formats",
    "read_run": "jaxir.data.formats",
    "save_model": "jaxir.checkpoints.model_dir",
    "write_report": "jaxir.report",
    "write_run": "jaxir.data.formats",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'jaxir' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
