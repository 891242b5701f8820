"""Every test runs from the repository's root, on one torch thread, with the scripts importable by name."""

import importlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for commands that tests start

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)

import common  # noqa: E402  # after the path is set


def _module(fixture, name):
    @pytest.fixture(scope="session", name=fixture)
    def module():
        return importlib.import_module(name)

    return module


data = _module("data", "01_data")
hold_r = _module("hold_r", "02_hold_r")
hold_c = _module("hold_c", "03_hold_c")
human = _module("human", "04_eval_human")
sac = _module("sac", "05_sac")
baselines = _module("baselines", "06_baselines")


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def moving_squares(tmp_path_factory):
    """A folder of 24 clips, a square moving to the right in each."""
    folder = tmp_path_factory.mktemp("moving")
    for i in range(24):
        frames = np.full((30, 40, 48, 3), 9 * i, np.uint8)
        for t in range(30):
            frames[t, 10:25, t : t + 15] = (250, 8 * i, 60)
        common.write_video(folder / f"{i}.webm", frames, fps=12)
    return folder


@pytest.fixture
def clips(tmp_path, moving_squares):
    """`tmp_path / "clips"`, a fresh copy of `moving_squares`."""
    return shutil.copytree(moving_squares, tmp_path / "clips")


@contextmanager
def stopped_after(module, function, calls):
    """Within the block, call number `calls + 1` of a module's function raises KeyboardInterrupt."""
    real, done = getattr(module, function), []

    def stops(*arguments):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, stops)
        yield


def run(*arguments, cwd=ROOT, **environment):
    """Run a script as a user does; returns the finished process with its output as text."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
                          timeout=600, env={**os.environ, **environment})
