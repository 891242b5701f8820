"""Every numbered file as a command and as a notebook, in smoke mode; and the form of the repository."""

import os
import re
import signal
import subprocess
import threading
import time

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
    (folder / "assets").symlink_to(ROOT / "assets")
    return folder, run("05_sac.py", "--preset", "smoke", cwd=folder)


def test_the_main_job_makes_what_is_missing_and_ends_with_its_files(smoke):
    folder, finished = smoke
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert all(f"$ python {x}" in finished.stdout for x in ("03_hold_c.py --seed 0", "01_data.py --out"))
    assert re.search(r"success \d\.\d\d, return ", finished.stdout.splitlines()[-1])
    made = folder / "runs/smoke/sac"
    curve = common.read_csv(made / "curve.csv")
    assert len(curve["step"]) >= 2 and (curve["T"] > 0).all()
    frames, _ = common.read_clip(made / "policy.gif")
    assert len(frames) == 51 and frames.std() > 10
    assert {"curve.png", "look.png", "policy.png", "run.json"} <= {path.name for path in made.iterdir()}
    assert common.load_distance(folder / "runs/smoke/hold_c-seed0/distance.pt2").kind == "embedding"
    again = run("05_sac.py", "--preset", "smoke", cwd=folder)
    assert again.returncode == 0 and "going on from step" in again.stdout and "$ python" not in again.stdout


def test_smoke_training_moved_the_weights_of_both_models(smoke, hold_c, sac):
    trained = torch.load(smoke[0] / "runs/smoke/hold_c-seed0/checkpoint.pt")
    config = hold_c.Config(**trained["config"])
    torch.manual_seed(config.seed)
    fresh = dict(hold_c.make_network(config).named_parameters())
    assert all(not torch.equal(weight, trained["network"][name]) for name, weight in fresh.items())
    agent = torch.load(smoke[0] / "runs/smoke/sac/checkpoint.pt")
    config = sac.Config(**agent["config"])
    torch.manual_seed(config.seed)
    fresh = sac.Agent((32, 32, 3), 2, config.encoder, config.temperature).state_dict()
    assert all(not torch.equal(fresh[name], weight) for name, weight in agent["agent"].items())


@pytest.mark.parametrize("script, wrote", [
    ("04_eval_human.py", "eval_human/table.csv"), ("06_baselines.py", "baselines/claims.csv")])
def test_evaluation_and_comparison_write_their_tables(script, wrote, smoke):
    finished = run(script, "--preset", "smoke", cwd=smoke[0])
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert len(next(iter(common.read_csv(smoke[0] / "runs/smoke" / wrote).values()))) >= 3
    assert len(list((smoke[0] / "runs/smoke" / wrote).parent.rglob("*.png"))) >= 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_as_a_notebook_whose_cells_show(script, smoke, monkeypatch):
    monkeypatch.setenv("SMOKE_TEST", "1")
    book = jupytext.read(ROOT / script)
    where = {"metadata": {"path": str(smoke[0])}}  # what the scripts before it wrote is there
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    ran = [cell for cell in book.cells if cell.cell_type == "code"]
    outputs = [output for cell in ran for output in cell.outputs]
    assert all(cell.execution_count for cell in ran) and not any(o.output_type == "error" for o in outputs)
    talking = [c for c in ran if any(o.output_type != "stream" or o.name == "stdout" for o in c.outputs)]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(talking) >= len(ran) / 3, f"{len(talking)} of {len(ran)} cells show something"
    assert len(pictures) >= 5, f"{len(pictures)} pictures"


def test_an_interrupted_cell_goes_on_when_it_runs_again(smoke, monkeypatch):
    monkeypatch.setenv("SMOKE_TEST", "1")
    book = jupytext.read(ROOT / "03_hold_c.py")
    for cell in [cell for cell in book.cells if cell.cell_type == "code"]:
        changed = 'parse_config(Config, steps=60, validate_every=10, out="runs/again")'
        cell.source = cell.source.replace("parse_config(Config)", changed)
    index = next(i for i, c in enumerate(book.cells) if re.search(r"^    .* train\(config\)", c.source, re.M))
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(smoke[0])}})
    log = smoke[0] / "runs/again/log.csv"

    def interrupt():
        while not (log.is_file() and common.read_csv(log)["step"][-1] >= 20):
            time.sleep(0.05)
        os.kill(client.km.provisioner.pid, signal.SIGINT)

    with client.setup_kernel():
        for i, cell in enumerate(book.cells[:index]):
            client.execute_cell(cell, i)
        threading.Thread(target=interrupt).start()
        with pytest.raises(nbclient.exceptions.CellExecutionError, match="KeyboardInterrupt"):
            client.execute_cell(book.cells[index], index)
        assert common.read_csv(log)["step"][-1] < 60
        cell = client.execute_cell(book.cells[index], index)
    told = re.search(r"going on from step (\d+) of 60", "".join(o.get("text", "") for o in cell.outputs))
    assert 10 <= int(told[1]) < 60
    assert common.read_csv(log)["step"].tolist() == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize("script", SCRIPTS)
def test_jupytext_round_trip_is_byte_identical_and_no_code_is_shared(script):
    text = (ROOT / script).read_text()
    book = jupytext.reads(text, fmt="py:percent")
    assert jupytext.writes(book, fmt="py:percent") == text and text.startswith('# %% [markdown]\nr"""\n')
    assert not re.search(r"import_module\(|runpy|__import__|exec\(|^ *(from|import) \d", text, re.M)


def test_nothing_is_committed_that_should_not_be():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "README.md" in tracked and not [t for t in tracked if t.endswith((".ipynb", ".pt", ".pt2"))]
    assert not [t for t in tracked if (ROOT / t).is_file() and (ROOT / t).stat().st_size > 1_000_000]


@pytest.mark.parametrize("script, flags, words", [
    ("03_hold_c.py", ["--network", "resnet99"], "timm has no model"),
    ("06_baselines.py", ["--rewards", "gail"], "gail"),
    ("05_sac.py", ["--task", "dancing"], "invalid choice"),
    ("05_sac.py", ["--tasks", "faucet_right"], "need --look; to train, give --task"),
    ("03_hold_c.py", ["--data", "nowhere"], "nowhere is no folder with videos")])
def test_bad_flags_get_one_clear_line(script, flags, words, tmp_path):
    finished = run(script, *flags, "--out", tmp_path / "out")
    assert finished.returncode != 0 and words in finished.stderr.strip().splitlines()[-1]
    assert "Traceback" not in finished.stderr
