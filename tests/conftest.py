"""Every test runs from the repository's root, on one torch thread (the tensors are small), with the scripts importable by name."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hold_c():
    """The module 03_hold_c."""
    return importlib.import_module("03_hold_c")


@pytest.fixture(scope="session")
def sac():
    """The module 05_sac."""
    return importlib.import_module("05_sac")


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


def run(*arguments, cwd=ROOT, **environment):
    """Run a script as a user does; returns the finished process with its output as text."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=600,
                          env={**os.environ, **environment})
