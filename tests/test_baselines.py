"""06_baselines.py: rivals are what they claim to be, runs are kept, the comparison computes what it says."""

import math
import re
import sys

import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torchvision
from torchvision.transforms.v2 import functional as TF

import common
from conftest import ROOT, stopped_after


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (3, 48, 72, 3), dtype=np.uint8)


def check_features(path, pictures, size, network, mean, std, cut=0):
    """The file measures the Euclidean distance of a network's features, preprocessed by torchvision."""
    square = torch.from_numpy(pictures[:, :, 12:60]).permute(0, 3, 1, 2).float() / 255
    x = TF.resize(square, [size, size], antialias=True)[..., cut : size - cut, cut : size - cut]
    with torch.no_grad():
        features = network.eval()(TF.normalize(x, mean, std))
    distance, expected = common.load_distance(path), (features - features[0]).norm(dim=1)
    assert torch.allclose(distance(pictures, pictures[0]), expected, rtol=1e-3, atol=1e-3)
    assert distance.program(torch.from_numpy(pictures)).shape == features.shape


def test_pixels_are_the_norm_over_the_centre_square(baselines, tmp_path, pictures):
    distance = common.load_distance(baselines.pixel_file(tmp_path / "p.pt2", 48))
    square = pictures[:, :, 12:60].astype(float) / 255
    expected = np.linalg.norm((square - square[1]).reshape(3, -1), axis=1)
    assert np.allclose(distance(pictures, pictures[1]), expected, rtol=1e-5)


def test_r3m_from_a_file_of_its_structure(baselines, tmp_path, pictures):
    torch.manual_seed(0)
    reference = torchvision.models.resnet50()
    for name, statistics in reference.named_buffers():  # a mistake would show in them
        if "running" in name:
            statistics.uniform_(0.5, 2)
    reference.fc = torch.nn.Identity()
    weights = {f"module.convnet.{k}": v for k, v in reference.state_dict().items()}
    torch.save({"r3m": weights | {"module.lang_enc.x": torch.zeros(1)}}, tmp_path / "model.pt")
    path = baselines.r3m_file(tmp_path / "r3m.pt2", tmp_path / "model.pt")
    check_features(path, pictures, 256, reference, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], cut=16)


def test_timm_features_use_the_models_own_preprocessing(baselines, tmp_path, pictures, monkeypatch):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, num_classes: network)
    path = baselines.timm_file(tmp_path / "f.pt2", "vit_tiny_patch16_224")
    check_features(path, pictures, 224, network, network.default_cfg["mean"], network.default_cfg["std"])


def test_tcn_is_the_formula_over_hold_c(baselines, tmp_path, pictures):
    torch.manual_seed(0)
    layers = torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 5)
    path = baselines.embedding_file(tmp_path / "c.pt2", "toy", common.Preprocess(16), *layers)
    tcn = baselines.tcn_file(tmp_path / "tcn.pt2", path)
    hold_c, tcn = map(common.load_distance, (path, tcn))
    D = hold_c(pictures, pictures[2]).double() ** 2
    expected = 0.005 * D + 0.02 * torch.sqrt(0.2 + D)
    assert torch.allclose(tcn(pictures, pictures[2]).double(), expected, rtol=1e-4)
    assert tcn(np.zeros((2, 100, 64, 3), np.uint8), pictures[0]).shape == (2,)  # sizes are free


def test_being_late_costs_tcn_and_being_early_too(baselines, tmp_path):
    columns = np.arange(40) - np.arange(30)[:, None]  # a bar that moves to the right
    video = np.tile(255 * ((columns >= 0) & (columns < 8)).astype(np.uint8)[:, None, :, None], (1, 20, 1, 3))
    pixels = common.load_distance(baselines.pixel_file(tmp_path / "p.pt2", 20))
    figure = baselines.rivals_figure(video, {"pixels": pixels}, lags=(-6, -2, 0, 2, 6))
    along, late = (line.get_ydata() for axis in figure.axes for line in axis.lines)
    assert along[0] == late.max() == 1 and along[-1] == late[2] == 0 < min(late[1], late[3])
    assert late[1] < late[0] and late[3] < late[4]


@pytest.mark.parametrize("make, words", [
    (lambda b, at: b.r3m_file(at / "x.pt2", at / "none.pt"), "gdown"),
    (lambda b, at: b.r3m_file(at / "x.pt2", at / "broken.pt"), "module.convnet"),
    (lambda b, at: b.r3m_file(at / "x.pt2", at / "text.pt"), "R3M's ResNet-50"),
    (lambda b, at: b.timm_file(at / "x.pt2", "resnet5000"), "timm has no resnet5000"),
    (lambda b, at: b.make_files("hold_c", 3, b.Config(learned=f"{at}/mine/x.pt2")), "first.*--seed 3"),
    (lambda b, at: b.list_jobs(b.Config(rewards=("gail",))), "choose among sparse"),
    (lambda b, at: b.read_curves([at / "table.csv"], "success"), "no column step"),
    (lambda b, at: b.read_curves([at], "success"), "is no CSV file"),
    (lambda b, at: b.read_curves([at / "a-seed1.csv"] * 2, "success"), "second file with seed 1 of a"),
    (lambda b, at: b.compare([at / "a-seed1.csv"], [("return", 80)], at), "none with numbers in return"),
    (lambda b, at: b.compare([], [("return", 80)], at), "no curve")])
def test_bad_input_is_one_line(baselines, tmp_path, make, words):
    torch.save({"r3m": {"module.convnet.conv1.weight": torch.zeros(1)}}, tmp_path / "broken.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    common.write_csv(tmp_path / "table.csv", [{"kind": "a"}])
    common.write_csv(tmp_path / "a-seed1.csv", [{"step": 10, "success": 1}])
    with pytest.raises(common.UserError, match=words) as error:
        make(baselines, tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "x.pt2").exists()


def test_a_run_with_seed_k_reads_what_was_trained_with_seed_k(baselines, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(baselines, "run_script", lambda *words: asked.append(" ".join(map(str, words))))
    monkeypatch.chdir(tmp_path)
    rewards = ("sparse", "r3m", "untrained", "hold_c-T0.1", "tcn", "sparse-long")
    config = baselines.Config(task="pushing", rewards=rewards, seeds=2, steps=500, flags="--batch 256")
    jobs = {job.folder.name: job for job in baselines.list_jobs(config)}
    assert "r3m is left out: there is no runs/r3m.pt" in capsys.readouterr().out
    assert list(jobs) == [f"{name}-seed{k}" for k in (0, 1) for name in rewards if name != "r3m"]
    told = {name: " ".join(job.command[2:]) for name, job in jobs.items()}
    assert told["untrained-seed1"] == (
        "--preset laptop --task pushing --steps 500 --batch 256 --distance runs/untrained-seed1/distance.pt2 "
        "--seed 1 --out runs/baselines/pushing/untrained-seed1")
    assert "--distance runs/hold_c-seed1/distance.pt2 --scale-factor 0.1 " in told["hold_c-T0.1-seed1"]
    assert "runs/hold_c-seed1/tcn.pt2 --goals data/standin/demonstrations/pushing/1.webm" in told["tcn-seed1"]
    assert "--steps 5000 " in told["sparse-long-seed1"] and jobs["sparse-long-seed1"].steps == 5000
    baselines.make_files("untrained", 1, config)
    assert asked == ["03_hold_c.py --steps 0 --seed 1 --out runs/untrained-seed1"]
    paper = baselines.list_jobs(baselines.Config.paper())
    command = {job.folder.name: job.command for job in paper if job.steps == 400_000}
    assert {"paper", "runs/hold_c_paper-seed4/distance.pt2"} < set(command["hold_c-seed4"])
    assert not {"--height", "laptop", "20"} & set(command["hold_c-seed4"]) and "20" in command["hold_r-seed4"]


def test_every_reward_is_a_command_that_05_understands(baselines, sac, monkeypatch):
    for task, figure in (("pushing", ""), ("drawer_open", "7"), ("close_drawer", "6c")):
        config = baselines.Config(task=task, rewards=tuple(baselines.REWARDS), figure=figure, seeds=1)
        for job in baselines.list_jobs(config):
            monkeypatch.setattr(sys, "argv", list(job.command[1:]))
            told = common.parse_config(sac.Config)
            assert (told.task, told.out, told.steps, told.seed) == (task, str(job.folder), job.steps, 0)


def jobs_of(baselines, folder, **scripts):
    write = "import pathlib; pathlib.Path({!r}, 'curve.csv').write_text('step\\n20\\n'); print('done')"
    return [baselines.Job(home, 20, (sys.executable, "-c", script or write.format(str(home))))
            for home, script in ((folder / f"{name}-seed0", script) for name, script in scripts.items())]


def test_finished_runs_are_kept_and_a_failed_one_is_told(baselines, tmp_path):
    drawn = []
    baselines.run_jobs(jobs_of(baselines, tmp_path, old=""), draw=lambda: drawn.append(1))
    jobs = jobs_of(baselines, tmp_path, old="", new="", bad="import sys; sys.exit('error: the disk is full')")
    with pytest.raises(common.UserError, match="1 of 3 runs failed.*bad-seed0 with: error: the disk is full"):
        baselines.run_jobs(jobs, cores=2, draw=lambda: drawn.append(1))
    assert len(drawn) == 2 and (tmp_path / "new-seed0/curve.csv").is_file()
    assert (tmp_path / "old-seed0/log.txt").read_text() == "done\n"  # once
    baselines.run_jobs(jobs_of(baselines, tmp_path, bad=""))  # mended
    with pytest.raises(common.UserError, match="new-seed0 was made with other settings"):
        baselines.run_jobs(jobs_of(baselines, tmp_path, new="another command"))


def test_an_interrupt_stops_the_runs(baselines, tmp_path, monkeypatch):
    started, start = [], baselines.start
    monkeypatch.setattr(baselines, "start", lambda *words: started.append(start(*words)) or started[-1])
    with stopped_after(baselines.time, "sleep", 0), pytest.raises(KeyboardInterrupt):
        baselines.run_jobs(jobs_of(baselines, tmp_path, a="import time; time.sleep(600)"), cores=1)
    assert len(started) == 1 and started[0].returncode < 0


def test_speed_up_against_a_naive_bootstrap(baselines):
    rng, steps = np.random.default_rng(3), np.arange(10, 110, 10.0)
    slow, fast = ([(steps, steps / scale + rng.normal(0, 0.05, 10)) for _ in range(5)] for scale in (90, 60))
    slow[0] = steps, 0 * steps  # never arrives, and counts with its last step

    def cross(values):
        k = next(k for k, value in enumerate(values) if value >= 0.5)
        return np.interp(0.5, values[k - 1 : k + 1], steps[k - 1 : k + 1])

    n_slow, n_fast = [100, *(cross(run[1]) for run in slow[1:])], [cross(run[1]) for run in fast]
    ratio, low, high = baselines.speed_up(slow, fast, 0.5)
    assert ratio == pytest.approx(sum(n_slow) / sum(n_fast)) and low < ratio < high
    drawn = lambda n: np.mean([n[i] for i in rng.integers(5, size=5)])
    naive = [drawn(n_slow) / drawn(n_fast) for _ in range(4000)]
    assert np.allclose([low, high], np.quantile(naive, [0.025, 0.975]), rtol=0.05)


def test_arrival_is_where_the_line_crosses_and_censored_runs_count(baselines):
    curve = lambda values: (np.arange(10, 10 * len(values) + 10, 10), np.array(values, float))
    found, end = baselines.arrivals([curve([0, 0.5, 1]), curve([0.9, 0, 0]), curve([0, 0.5, 0.7])], 0.75)
    assert found.tolist() == [25, 10, math.inf] and end == 30
    never, soon, late = [curve([0] * 10)] * 2, [curve([1] * 10)] * 2, [curve([0] * 9 + [1] * 30)] * 2
    assert baselines.speed_up(never, soon, 0.5) == (10, 10, 10)  # at least
    assert baselines.speed_up(soon, never, 0.5) == pytest.approx((0.1, 0.1, 0.1))
    for slow, fast in ((never, never), (late, [curve([0] * 5)] * 2)):  # nobody arrives while both run
        assert all(map(math.isnan, baselines.speed_up(slow, fast, 0.5)))
    ratio, *nothing = baselines.speed_up(late, soon[:1], 0.5)  # beyond the end of the other, which arrived
    assert ratio == pytest.approx(9.5) and all(map(math.isnan, nothing))  # one seed has no interval


def test_the_rule(baselines):
    assert baselines.verdict(1.01, 3, 5) == "holds" and baselines.verdict(0.3, 0.99, 5) == "does not hold"
    for low, high, seeds in ((0.9, 3, 9), (1, 3, 5), (1.5, 3, 4), (0.3, 0.9, 4), (math.nan, math.nan, 5)):
        assert baselines.verdict(low, high, seeds) == "undecided"


def test_mean_error_interquartile_mean_and_interval_against_scipy(baselines, rng):
    values = rng.normal(0, 1, (40, 3)) + np.array([0, 5, 9])  # (S, K)
    found = baselines.summary([(np.arange(3), run) for run in values], np.arange(3))
    for name, numbers in (("mean", values.mean(0)), ("error", scipy.stats.sem(values)),
                          ("iqm", np.sort(values, 0)[10:30].mean(0))):  # the middle half of forty
        assert found[name] == pytest.approx(numbers)
    middle = lambda drawn, axis: scipy.stats.trim_mean(drawn, 0.25, axis=axis)
    reference = scipy.stats.bootstrap((values,), middle, method="percentile", rng=1).confidence_interval
    assert np.allclose([found["low"], found["high"]], reference, atol=0.1)
    assert np.isnan(baselines.summary([([1], [2])], [1])["low"])


def write_runs(folder, kind, runs, column="train_success", **other):
    for seed, values in enumerate(runs):
        rows = [{"step": 10 * k, column: value, **other} for k, value in enumerate(values, 1)]
        common.write_csv(folder / f"{kind}-seed{seed}" / "curve.csv", rows)


def test_files_of_one_seed_or_many_give_the_same_curves_and_nan_is_left_out(baselines, tmp_path):
    runs = [[math.nan, 0.5, 1], [0, 0.2, 0.4], [0.1, 0.1, 0.7]]
    write_runs(tmp_path, "a-T0.1", runs)
    rows = [{"seed": s, "step": 10 + 10 * k, "train_success": runs[s][k]} for k in range(3) for s in range(3)]
    common.write_csv(tmp_path / "b-seed0-2.csv", rows)
    curves = baselines.read_curves(tmp_path, "train_success")
    assert list(curves) == ["a-T0.1", "b"] and baselines.read_curves(tmp_path, "distance") == {}
    for found in curves.values():
        assert [steps.tolist() for steps, _ in found] == [[20, 30], [10, 20, 30], [10, 20, 30]]
        assert [values.tolist() for _, values in found] == [[0.5, 1], *runs[1:]]


def test_comparison_writes_tables_and_claims_follow_the_rule(baselines, tmp_path):
    home = tmp_path / "pushing"
    for kind, zeros in {"sparse": 3, "hold_c": 1, "hold_r": 0, "tcn": 4}.items():
        write_runs(home, kind, [zeros * [0] + (4 - zeros) * [100]] * 5, "return", T=3.5)
    write_runs(home, "pixels", [[0, 0, 100, 100]] * 4, "return")
    write_runs(tmp_path / "close_drawer", "hold_c-only", [[0, 1]] * 3 + [[0, 0]] * 2)
    rows = {row["kind"]: row for row in baselines.compare(home, [("return", 50)], home)}
    row = rows["hold_c"]["ends"], rows["hold_c"]["T"], rows["hold_c"]["step"]
    assert row == (" ".join(5 * ["100.00"]), " ".join(5 * ["3.500"]), 40)
    table = common.read_csv(home / "speedups.csv")
    ratio = dict(zip(zip(table["slower"], table["faster"]), table["ratio"]))
    assert ratio["sparse", "hold_c"] == pytest.approx(35 / 15) and len(ratio) == 20
    found = {(row["claim"], row["task"], row["level"]): (row["verdict"], row["measured"])
             for row in baselines.claims_table(tmp_path)}
    never, soon, sooner = "tcn" + 5 * " never", "hold_c" + 5 * " 18", "hold_r" + 5 * " 10"
    assert found["HOLD-C beats TCN", "pushing", 80] == ("holds", f"2.222 (2.222 to 2.222): {never}; {soon}")
    lost = "does not hold", f"0.5556 (0.5556 to 0.5556): {sooner}; {soon}"
    assert found["HOLD-C beats HOLD-R", "pushing", 80] == lost
    assert found["HOLD-C + sparse beats sparse (10x, drawer 18x)", "drawer_open", 145] == ("not tested", "")
    assert found["The task is learned without sparse reward", "close_drawer", 0.5][1] == "3 of 5 runs arrive"
    assert found["HOLD-C beats pixel L2", "pushing", 80][0] == "undecided"  # four seeds
    assert found["Scores on human video do not predict the robot", "all", ""][0] == "undecided"


def test_results_and_readme_say_what_the_committed_curves_say(baselines, tmp_path):
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "assets/RESULTS.md"))
    spoken, sentence = [], r"(\d?\.\d\d)[^\d(]*\((\d?\.\d\d) to (\d?\.\d\d)\)"  # .87 (.77 to .97)
    for home in [path.parent for path in ROOT.glob("assets/*/table.csv")]:
        task, levels = home.name, baselines.LEVELS[home.name]
        rows = baselines.compare(sorted(home.glob("*-seed*.csv")), levels, tmp_path)
        assert "|---|\n" + "\n".join(baselines.ROW.format(**row) for row in rows) + "\n\n" in results, task
        section = results.split(f"\n## {task.replace('_', ' ').capitalize()}\n")[1].split("\n## ")[0]
        prose, pairs = re.sub(r"\n\|.*|\s+", " ", section), common.read_csv(home / "speedups.csv")
        made = common.read_csv(tmp_path / "speedups.csv")
        assert (made["runs"] == pairs["runs"]).all() and (made["verdict"] == pairs["verdict"]).all()
        table = zip(*(pairs[name] for name in ("ratio", "low", "high")))
        known = {tuple(f"{x:.2f}".lstrip("0") for x in row) for row in table}
        spoken += [(task, found, found in known) for found in re.findall(sentence, prose)]
        told, when = {}, {}
        for row in (row for row in rows if (row["column"], row["level"]) == levels[0]):
            first = np.array(row["first"].replace("never", "inf").split(), float)
            when[row["kind"]] = mean = np.minimum(first, row["step"]).mean()
            told[row["kind"]] = f"{mean:,.0f} ({np.isfinite(first).sum()} of {len(first)})"
        rival = min((kind for kind in when if not kind.startswith(("hold_c", "sparse"))), key=when.get)
        assert f"| {told['hold_c']} | {told['sparse']} | {rival} {told[rival]} |" in readme
    assert len(spoken) >= 22 and all(found for *_, found in spoken), spoken
    judged = baselines.claims_table(ROOT / "assets")
    assert "|---|\n" + "\n".join(baselines.CLAIM.format(**row) for row in judged) + "\n\n" in results
    told = re.findall(r"\*\*([a-z ]+)\*\*[^*]*?([\d.]+ \([\d.]+ to [\d.]+\)|\d of \d runs arrive)", readme)
    assert len(told) >= 7 and all(any(row["verdict"] == verdict and row["measured"].startswith(number)
                                      for row in judged) for verdict, number in told)
