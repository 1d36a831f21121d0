"""What numba needs around the compiled code: a cache that may be missing or damaged, and few kinds of arrays."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rolemask
from rolemask.masking.kernels import numba_kernel

MARKERS = """
import rolemask
markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
for masker in (markers.compile(), markers.compile(turns="last")):
    print(masker([2, 6, 9]), type(masker._paths.array_path).__name__)
"""


def label(cache: Path, *before: str) -> tuple[str, list[str]]:
    """Label a row with two maskers in a process of its own; return what it prints, and its warnings."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | {"NUMBA_CACHE_DIR": str(cache)}
    code = "\n".join([*before, MARKERS])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout, done.stderr.splitlines()


def test_a_damaged_cache_is_told_of_and_not_used(tmp_path: Path) -> None:
    expected = "[-100, 6, 9] NumbaKernel\n" * 2
    assert label(tmp_path) == (expected, [])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"damaged")
    printed, warnings = label(tmp_path)
    assert printed == expected
    assert len(warnings) == 1
    assert "Set NUMBA_CACHE_DIR to a folder that can be written" in warnings[0]


def test_without_a_folder_for_the_cache_the_code_is_compiled_in_memory(tmp_path: Path) -> None:
    printed, warnings = label(tmp_path, "import numba.core.caching", "numba.core.caching.CacheImpl._locator_classes = []")
    assert printed == "[-100, 6, 9] NumbaKernel\n" * 2
    assert len(warnings) == 1
    assert "numba cannot use its cache (RuntimeError: cannot cache function" in warnings[0]


def test_without_a_numba_that_works_numpy_is_used(tmp_path: Path) -> None:
    printed, warnings = label(tmp_path, "import numba", "def njit(**options): raise ValueError('broken')", "numba.njit = njit")
    assert printed == "[-100, 6, 9] NumpyKernel\n" * 2
    assert warnings == ["numba does not work (ValueError: broken), so NumPy is used, which is slower. Reinstall numba, or remove it"]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_arrays_of_every_kind_use_one_compiled_function(dtype: type) -> None:
    markers = rolemask.MarkerSet.from_role_boundaries([{"role": "assistant", "start": {"ids": [2]}, "end": {"ids": [9]}}])
    masker = markers.compile()
    ids = np.array([[2, 6, 9, 0], [0, 2, 7, 9]], dtype=dtype)
    expected = masker(ids.tolist())
    read_only = ids.copy()
    read_only.flags.writeable = False
    for array in (ids, read_only, np.asfortranarray(ids), np.repeat(ids, 2, axis=1)[:, ::2], ids[::-1][::-1]):
        labels = masker(array, attention_mask=np.broadcast_to(np.array([1]), (2, 4)), position_ids=array * 0 + [0, 1, 2, 3])
        assert (labels.tolist(), labels.dtype) == (expected, ids.dtype)
    assert len(numba_kernel._mask_rows.signatures) == 1
    assert masker(torch.from_numpy(ids)).tolist() == expected
