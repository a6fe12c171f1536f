"""How torch computes in a worker: threads, precision, memory."""

from __future__ import annotations

import ctypes
import os
import sys


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step: up to 256 MB, of arrays of up to 32 MB each.

    A step allocates what the step before has freed. Giving pages back in between, and getting them zeroed again, took a
    seventh of a small model's step. Only glibc can be told so; elsewhere nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim, pad, mmap = -1, -2, -3  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD of malloc.h
        for option, size in ((mmap, 2**25), (trim, 2**28), (pad, 2**26)):
            mallopt(option, size)


def repeatable(threads: int) -> None:
    """Make torch repeatable, with `threads` CPU threads and full float32.

    By default, convolutions on a GPU round to TF32, and codes and pixels differ from the CPU's in the third digit. The
    spec says what may be coarser (`precision`, `generate.decode_precision`).
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may sum in another order each time
    import torch

    torch.set_num_threads(threads)
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:  # the same, without an import of the compiler to tell it so: that took longer than a small job
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
        torch.set_deterministic_debug_mode("warn")
    # a debugging aid that takes 4% of a step on a GPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False
