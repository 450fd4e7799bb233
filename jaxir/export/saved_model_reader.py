"""Calls the signatures of a SavedModel; a program of its own, without jaxir and JAX.

``python saved_model_reader.py DIRECTORY INPUTS.npz OUTPUTS.npz`` calls, for each group
``SIGNATURE/CASE/NAME`` of arrays in ``INPUTS.npz``, that signature, and writes what it
gives under ``SIGNATURE/CASE/OUTPUT``.
"""

import sys

__all__ = ["main"]


def main(directory: str, inputs: str, outputs: str) -> None:
    """Loads, calls and writes."""
    import numpy as np
    import tensorflow as tf

    signatures = tf.saved_model.load(directory).signatures
    cases: dict[str, dict] = {}
    with np.load(inputs) as stored:
        for path in stored.files:
            case, _, name = path.rpartition("/")
            cases.setdefault(case, {})[name] = tf.constant(stored[path])
    found = {
        f"{case}/{name}": value.numpy()
        for case, arguments in cases.items()
        for name, value in signatures[case.partition("/")[0]](**arguments).items()
    }
    np.savez(outputs, **found)


if __name__ == "__main__":
    # What is read here must not lean on what wrote it.
    for name in ("jaxir", "jax", "jaxlib", "flax"):
        sys.modules[name] = None  # type: ignore[assignment]
    main(*sys.argv[1:])
