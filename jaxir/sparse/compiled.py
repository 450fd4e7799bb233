"""Loops over postings as Numba compiles them.

Numba takes a second to import: this file, and those whose loops it compiles, are
imported inside functions.

A compiled function is kept in a cache: beside this file, or in the user's own cache
directory where that is read-only, or in ``NUMBA_CACHE_DIR``.  Where nothing can be
written it is compiled anew in each process.  Numba compares the time of the file that a
function stands in: who changes a function here deletes the caches of those who call it.

Equal input gives equal bits: nothing is reordered, and no product is fused with a sum.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

__all__ = ["compiled", "lower_bound", "real"]


def compiled(function: Callable) -> Any:
    """Compiles a function at its first call; other threads run beside it."""
    # A checker of annotations may have wrapped it; Numba reads the function itself.
    function = inspect.unwrap(function)
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # there is no directory for the cache
        return numba.njit(nogil=True, error_model="numpy")(function)


def real(weight):
    """A stored weight as float32; inside compiled functions only.

    A float32 is itself, a code of 8 bits its number, and 16 bits are those of a
    float16: with its exponent's place moved it is ``2**-112`` of its value.
    """
    raise NotImplementedError


@overload(real, inline="always")
def _real(weight):  # Numba wants the signature that real has
    if isinstance(weight, types.Float):
        return lambda weight: weight
    if weight.bitwidth == 8:
        return lambda weight: np.float32(weight)
    return lambda weight: (
        np.uint32(np.uint32(weight) << np.uint32(13)).view(np.float32)
        * np.float32(2.0**112)
    )


@compiled
def lower_bound(values, start, stop, least):
    """First position from ``start`` whose value is ``least`` or more; ``values`` rise.

    Doubling steps first: what is looked for is often near.
    """
    step = 1
    low = start
    while start + step < stop and values[start + step] < least:
        low = start + step
        step *= 2
    high = min(start + step, stop)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low
