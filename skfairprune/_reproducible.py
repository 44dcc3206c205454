"""What makes a fit give the same bits again: own seeds, a GPU's algorithms that do not race, plain modes."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["plain_modes", "reproducible"]

# The networks draw from the generators of all threads: one fit at a time.
_ONE_FIT = threading.RLock()
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_MEMORY: Any = torch.utils.deterministic  # its setting is a property that type checkers do not see


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and leave them in the end as they were.

    On a GPU torch is told to take deterministic algorithms, and warns of an operation that has none (of a
    network of the user's: those of this package have one).

    Parameters
    ----------
    seed : int
        The seed.
    device : torch.device
        Where the fit runs.
    """
    on_gpu = device.type == "cuda"
    with _ONE_FIT, _other_generators(seed), torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device), _deterministic():
                torch.cuda.manual_seed(seed)
                yield
        else:
            if device.type != "cpu":
                torch.get_device_module(device).manual_seed(seed)
            yield


@contextmanager
def _other_generators(seed: int) -> Iterator[None]:
    """Seed the global generators of numpy and Python, which iterators and networks of the user's may read."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


@contextmanager
def plain_modes() -> Iterator[None]:
    """Leave the modes of the caller that would matter: autocast, a default device, raised underflow."""
    with ExitStack() as stack:
        stack.enter_context(np.errstate(under="ignore"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch take deterministic algorithms, and leave its settings in the end as they were."""
    cudnn, memory = torch.backends.cudnn, _MEMORY
    before = torch.get_deterministic_debug_mode(), cudnn.benchmark, memory.fill_uninitialized_memory
    unset = _WORKSPACE not in os.environ
    if unset:
        os.environ[_WORKSPACE] = ":4096:8"  # or torch warns at each matrix product
    torch.set_deterministic_debug_mode(max(before[0], 1))  # at least a warning
    cudnn.benchmark = memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.benchmark, memory.fill_uninitialized_memory = before[1:]
        if unset:
            os.environ.pop(_WORKSPACE, None)
