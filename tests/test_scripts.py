"""Every numbered file as a command and as a notebook, in smoke mode, with real updates; and the form of the repository."""

import re
import subprocess
from pathlib import Path

import jupytext
import nbclient
import pytest
import torch

import common
from conftest import ROOT, run

SCRIPTS = sorted(p.name for p in ROOT.glob("[0-9][0-9]_*.py"))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The main job in smoke mode, from nothing, in a folder of its own: (folder, finished process)."""
    folder = tmp_path_factory.mktemp("smoke")
    for script in (*SCRIPTS, "common.py"):
        (folder / script).write_bytes((ROOT / script).read_bytes())
    return folder, run("05_sac.py", cwd=folder, SMOKE_TEST="1")


def test_the_main_job_makes_what_is_missing_and_ends_with_its_files(smoke):
    folder, finished = smoke
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "$ python 03_hold_c.py" in finished.stdout and "$ python 01_data.py" in finished.stdout
    assert re.search(r"success \d\.\d\d, return .* after 180 steps", finished.stdout.splitlines()[-1])
    made = folder / "runs/smoke/sac"
    assert len(common.read_csv(made / "curve.csv")["step"]) == 2
    frames, _ = common.read_clip(made / "policy.mp4")
    assert len(frames) == 61 and frames.std() > 10
    assert (made / "curve.png").stat().st_size > 5000 and (made / "look.png").stat().st_size > 20_000
    distance = common.load_distance(folder / "runs/smoke/hold_c/distance.pt2")
    assert distance.kind == "embedding" and distance.history == 1


def test_smoke_training_moved_the_weights_of_both_models(smoke, hold_c, sac):
    folder, _ = smoke
    trained = common.load_checkpoint(folder / "runs/smoke/hold_c/checkpoint.pt")
    config = hold_c.Config(**trained["config"])
    torch.manual_seed(config.seed)
    fresh = dict(hold_c.make_network(config.network, config.width, config.embedding).named_parameters())
    assert all(not torch.equal(weight, trained["network"][name]) for name, weight in fresh.items())
    agent = common.load_checkpoint(folder / "runs/smoke/sac/checkpoint-seed0.pt")
    config = sac.Config(**agent["config"])
    torch.manual_seed(config.seed)
    fresh = sac.Agent((32, 48, 3), 5, config.encoder, config.temperature).state_dict()
    assert all(not torch.equal(fresh[k], v) for k, v in agent["agent"].items())


def test_running_again_goes_on_instead_of_starting_anew(smoke):
    folder, _ = smoke
    before = (folder / "runs/smoke/hold_c/checkpoint.pt").stat().st_mtime
    again = run("05_sac.py", cwd=folder, SMOKE_TEST="1")
    assert again.returncode == 0 and "going on from step 180 of 180" in again.stdout
    assert (folder / "runs/smoke/hold_c/checkpoint.pt").stat().st_mtime == before
    other = run("05_sac.py", "--gamma", "0.5", cwd=folder, SMOKE_TEST="1")
    assert other.returncode == 1 and other.stderr.strip().splitlines()[-1].startswith("error: ") and "gamma" in other.stderr


def test_the_evaluation_writes_its_table_and_figures(smoke):
    folder, _ = smoke
    finished = run("04_eval_human.py", cwd=folder, SMOKE_TEST="1")
    assert finished.returncode == 0, finished.stderr[-2000:]
    made = folder / "runs/smoke/eval_human"
    assert (common.read_csv(made / "table.csv")["distance"] == "hold_c").any() and (made / "videos.png").stat().st_size > 5000


def test_the_comparison_runs_its_rivals_and_draws_them(smoke):
    folder, _ = smoke
    finished = run("06_baselines.py", cwd=folder, SMOKE_TEST="1")
    assert finished.returncode == 0, finished.stderr[-2000:]
    made = folder / "runs/smoke/baselines/pushing"
    assert {"sparse", "pixels"} == set(common.read_csv(made / "table.csv")["kind"])
    assert len(common.read_csv(made.parent / "claims.csv")["claim"]) > 8 and (made / "comparison.png").stat().st_size > 5000
    assert (made / "curves.png").stat().st_size > 5000 and (made / "pixels-seed0" / "checkpoint-seed0.pt").is_file()
    again = run("06_baselines.py", "--dry-run", cwd=folder, SMOKE_TEST="1")
    assert "05_sac.py" in again.stdout and ", 0 steps to go" in again.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_as_a_notebook(script, smoke, monkeypatch):
    folder, _ = smoke  # its files are there, so each notebook starts from what the scripts before it wrote
    monkeypatch.setenv("SMOKE_TEST", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    book = jupytext.read(ROOT / script)
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    ran = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran) and not any(o.output_type == "error" for c in ran for o in c.outputs)


@pytest.mark.parametrize("script", SCRIPTS)
def test_jupytext_round_trip_is_byte_identical(script, tmp_path):
    text = (ROOT / script).read_text()
    book = jupytext.reads(text, fmt="py:percent")
    assert jupytext.writes(book, fmt="py:percent") == text and book.cells[0].cell_type == "markdown"
    jupytext.write(book, tmp_path / "book.ipynb")
    back = jupytext.writes(jupytext.read(tmp_path / "book.ipynb"), fmt="py:percent")
    assert back[back.index("# %%"):] == text  # a notebook on disk gains a header when it comes back, and nothing else


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_share_files_never_code(script):
    text = (ROOT / script).read_text()
    assert text.startswith('# %% [markdown]\nr"""\n')
    for other in SCRIPTS:
        assert not re.search(rf"import_module\(['\"]{other[:-3]}|runpy|__import__", text)


def test_nothing_is_committed_that_should_not_be():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [t for t in tracked if t.endswith((".ipynb", ".pt", ".pt2"))]
    assert not [t for t in tracked if Path(ROOT / t).is_file() and Path(ROOT / t).stat().st_size > 1_000_000]


@pytest.mark.parametrize("script, flags, words", [
    ("03_hold_c.py", ["--network", "resnet99"], "timm has no model"),
    ("02_hold_r.py", ["--network", "resnet99"], "timm has no model"),
    ("06_baselines.py", ["--rewards", "gail"], "choose among"),
    ("05_sac.py", ["--task", "dancing"], "invalid choice"),
    ("05_sac.py", ["--distance", "common.py"], "not a distance file"),
])
def test_bad_flags_get_one_clear_line(script, flags, words, tmp_path):
    finished = run(script, *flags, "--out", tmp_path / "out")
    assert finished.returncode != 0 and words in finished.stderr.strip().splitlines()[-1] and "Traceback" not in finished.stderr
