"""04_eval_human.py: metrics against plain loops and scipy, controls, error bars, one's own video."""

import importlib
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.stats
import torch

import common
from conftest import run

ev = importlib.import_module("04_eval_human")


@pytest.fixture
def curves(rng):
    """Curves of many lengths, down to a single frame, half of them with ties, and a constant one."""
    found = [rng.normal(10, 5, n) for n in rng.integers(1, 30, size=40)]
    return [np.round(c / 5) if i % 2 else c for i, c in enumerate(found)] + [np.full(7, 3.0)]


@pytest.mark.parametrize("pairs", ["adjacent", "all"])
def test_pair_metrics_equal_the_triple_loop(curves, rng, pairs):
    fps = rng.uniform(8, 30, len(curves))
    found = [(max(0, d[k] - d[j]), max(0, d[k] - d[j]) / f, d[k] > d[j]) for d, f in zip(curves, fps)
             for j in range(len(d)) for k in range(j + 1, len(d) if pairs == "all" else min(j + 2, len(d)))]
    (rise, seconds, wrong), count = np.sum(found, axis=0), len(found)
    frames = sum(map(len, curves))  # the sum of T - 1
    assert ev.hinge(curves, pairs=pairs) == pytest.approx(rise / count)
    assert ev.hinge(curves, fps, pairs=pairs) == pytest.approx(seconds / count)
    assert ev.misclassification(curves, pairs=pairs) == pytest.approx(wrong / count)
    assert ev.hinge(curves, pairs=pairs, printed=True) == pytest.approx(rise / frames)
    assert ev.misclassification(curves, pairs=pairs, printed=True) == pytest.approx(wrong / frames)


def test_time_metrics_equal_the_loop_over_frames(curves, rng):
    fps = rng.uniform(8, 30, len(curves))
    errors = [(d[t] - (len(d) - t), f) for d, f in zip(curves, fps) for t in range(len(d))]
    assert ev.mse(curves) == pytest.approx(np.mean([e * e for e, _ in errors]))
    assert ev.mean_error(curves) == pytest.approx(np.mean([abs(e) for e, _ in errors]))
    assert ev.mse(curves, fps) == pytest.approx(np.mean([(e / f) ** 2 for e, f in errors]))
    assert ev.mean_error(curves, fps) == pytest.approx(np.mean([abs(e) / f for e, f in errors]))


@pytest.mark.parametrize("name, metric", [("spearmanr", ev.spearman), ("kendalltau", ev.kendall)])
def test_rank_metrics_equal_scipy(curves, name, metric):
    reference = getattr(scipy.stats, name)
    ordered = [d for d in curves if len(d) > 1]
    expected = [reference(d, -np.arange(len(d))).statistic if np.ptp(d) else 0.0 for d in ordered]
    assert metric(curves) == pytest.approx(np.mean(expected))
    each, counted = np.array([metric.parts(d) for d in curves]).T
    np.testing.assert_allclose(each[counted > 0], expected, atol=1e-12)
    assert (counted == 0).sum() == len(curves) - len(ordered) > 0  # clips of fewer than three frames
    assert np.isnan(metric([[1.0], []])) and np.isnan(metric([])) and np.isnan(ev.hinge([[1.0]]))


def test_gap_by_hand_and_its_invariances(rng):
    success = [-np.sort(rng.uniform(-9, 0, n)) for n in (9, 30, 4)]
    failed = [rng.uniform(0, 9, n) for n in (5, 40, 1)]
    by_hand = sum(f[-1] - s[-1] for s, f in zip(success, failed)) / sum(s[0] - s[-1] for s in success)
    assert ev.gap(success, failed) == pytest.approx(by_hand)
    assert ev.gap([3 * s + 7 for s in success], [3 * f + 7 for f in failed]) == pytest.approx(by_hand)
    assert ev.gap([*success, [8.0, 1.0]], [*failed, []]) == pytest.approx(by_hand)  # no counterpart
    assert np.isnan(ev.gap(success, [[]] * 3)) and ev.gap(success, success) == 0


def test_versions_show_the_right_frames_and_goals(rng):
    frames, other, still, failed = (rng.integers(0, 256, (n, 6, 6, 3), np.uint8) for n in (8, 4, 3, 5))
    twin = (frames[:, :, ::-1, ::-1] * 0.7).astype(np.uint8)
    versions = ev.cut_versions(frames, other, still, failed)
    shuffled = versions.pop("shuffled")[0]
    assert not np.array_equal(shuffled, frames[:7])
    assert sorted(map(bytes, shuffled)) == sorted(map(bytes, frames[:7]))
    for name, shown, goal in (("forward", frames[:7], frames[7]), ("reversed", frames[::-1][:7], frames[0]),
                              ("mirrored", twin[:7], twin[7]), ("swapped", frames[:7], other[3]),
                              ("still", still, frames[7]), ("failed", failed, frames[7])):
        played = versions.pop(name)
        assert np.array_equal(played[0], shown) and np.array_equal(played[1], goal)
    assert not versions and not {"swapped", "still", "failed"} & set(ev.cut_versions(frames))


class Pair(torch.nn.Module):  # brightness, weighted: it can be told by hand
    def __init__(self):
        super().__init__()
        self.look, self.weight = common.Preprocess(16), torch.nn.Parameter(torch.tensor([0.1, 0.3, 1.0]))

    def forward(self, frames, goals):  # (B, 3, H, W, 3), (B, H, W, 3)
        tones = torch.stack([self.look(frames[:, i]).mean((1, 2, 3)) for i in range(3)], 1)
        return tones @ self.weight - 2 * self.look(goals).mean((1, 2, 3))


def write_file(path, seed=None):
    """HOLD-R's kind of file without a seed, else HOLD-C's: a small convolution with normalisation."""
    program, meta = Pair(), {"name": "HOLD-R", "kind": "pairwise", "history": 3, "training": {"size": 16}}
    if seed is not None:
        torch.manual_seed(seed)
        layers = [torch.nn.Conv2d(3, 4, 5, 4), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()]
        program = torch.nn.Sequential(common.Preprocess(16), *layers, torch.nn.Linear(36, 5))
        layers[1].running_var.fill_(9.0)
        meta |= {"name": "HOLD-C", "kind": "embedding", "history": 1}
    common.save_distance(path, program, meta)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pairwise file that predicts time, and two embeddings that differ in the seed."""
    folder, seeds = tmp_path_factory.mktemp("files"), {"r-seed0": None, "c-seed0": 0, "c-seed1": 1}
    return [write_file(folder / name / "distance.pt2", seed) for name, seed in seeds.items()]


def test_pairwise_curves_see_their_history_and_count_frames_of_the_clip(files, rng):
    distance = common.load_distance(files[0])
    frames = rng.integers(0, 256, (9, 20, 24, 3), np.uint8)
    tone = [common.Preprocess(16)(torch.from_numpy(f[None])).mean().item() for f in frames]
    past = [(0.1, 2), (0.3, 1), (1.0, 0)]
    expected = [sum(w * tone[max(0, t - ago)] for w, ago in past) - 2 * tone[8] for t in range(8)]
    np.testing.assert_allclose(ev.along(distance, frames[:-1], frames[-1], at_once=3), expected, atol=1e-5)
    curve = ev.curves_of(distance, {"forward": (frames[:-1], frames[-1])}, 23.68)["forward"]
    np.testing.assert_allclose(curve, 2 * np.array(expected), atol=1e-5)  # twice the mean rate


def test_forgetting_draws_weights_anew_and_leaves_preprocessing_alone(files, rng):
    frames = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
    before = common.load_distance(files[1])
    one, two = (ev.forget(common.load_distance(files[1]), seed=1) for _ in range(2))
    old = dict(before.program.named_parameters()) | dict(before.program.named_buffers())
    for name, new in (*one.program.named_parameters(), *one.program.named_buffers()):
        changed = not torch.equal(old[name], new)
        assert changed if new.ndim in (2, 4) or "running_var" in name else new.ndim != 3 or not changed, name
    np.testing.assert_array_equal(one(frames, frames[0]), two(frames, frames[0]))


def write_square(path, places, shade):
    frames = np.full((len(places), 20, 28, 3), shade, np.uint8)
    for frame, x in zip(frames, places):
        frame[6:14, x : x + 8] = (250, 30, 90)
    common.write_video(path, frames, fps=12)


@pytest.fixture
def folder(tmp_path):
    """Seven clips of a moving square: the first is broken, 3 has a single frame, 1 has controls."""
    data, controls = tmp_path / "clips", []
    for i in range(7):
        write_square(data / f"videos/{i}.webm", range(0, 10 + i) if i != 3 else [0], 30 * i)
    (data / "videos/0.webm").write_bytes(b"no video")
    for number, kind, places in ((101, "failed", [0, 1, 0, 0]), (102, "still", [0] * 5)):
        write_square(data / f"videos/{number}.webm", places, 30)
        controls.append({"id": str(number), "control": kind, "of": "1"})
    (data / "labels").mkdir()
    (data / "labels/validation.json").write_text(json.dumps([{"id": str(i)} for i in range(7)]))
    (data / "labels/controls.json").write_text(json.dumps(controls))
    return data


def test_the_whole_evaluation_as_a_command(folder, files, tmp_path):
    finished = run("04_eval_human.py", "--distance", *files, "--data", folder, "--out", tmp_path / "out",
                   "--bootstraps", 50, "--device", "cpu", SMOKE_TEST="0")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "5 of 7 clips could be read" in finished.stdout and "0.webm is not a" in finished.stdout
    csv = common.read_csv(tmp_path / "out/table.csv")
    value = dict(zip(zip(*(csv[k] for k in ("distance", "version", "metric"))), csv["value"]))
    assert set(csv["distance"]) == {"r-seed0", "c-seed0", "c-seed1", "c, all seeds", "constant",
                                    "frame index", "pixel L2", "r, untrained", "c, untrained"}
    assert csv["clips"][csv["metric"] == "gap"].max() == 1 and csv["clips"].max() == 5
    assert value["frame index", "shuffled", "spearman"] == 1 and value["frame index", "failed", "gap"] == 0
    assert value["pixel L2", "failed", "gap"] > 0.9 and value["pixel L2", "still", "gap_still"] > 0.9
    assert value["constant", "forward", "hinge_s"] == 0 and np.isnan(value["constant", "failed", "gap"])
    assert ("c-seed0", "forward", "mse_frames") not in value and ("r-seed0", "forward", "mse_frames") in value
    for name in ("clip", "disagree", "versions", "table", "videos"):
        assert plt.imread(tmp_path / f"out/{name}.png").std() > 0.02


def test_numbers_are_those_of_the_curves_and_controls_empty_without_counterparts(folder, files):
    (folder / "labels/controls.json").unlink()
    config, clips = ev.Config(data=str(folder), short_side=18), common.ClipSet(folder, "validation", 18).paths
    rows = ev.all_rows(ev.load_files(files, "cpu"), "cpu")
    found = ev.score(rows, ev.find_items(clips, folder), config, at_once=2)
    table = ev.tabulate(rows, found, config)
    assert [path.stem for path, _, _ in found] == ["1", "2", "4", "5", "6"]
    frames, fps = common.read_clip(folder / "videos/1.webm", 18)
    frames = np.ascontiguousarray(frames[:, 1:17, 4:20])  # the central 8/9 of 18 x 25
    curve = ev.along(common.load_distance(files[0]), frames[:-1], frames[-1]) * fps / common.MEAN_FPS
    np.testing.assert_allclose(found[0][2]["r-seed0"]["forward"], curve, atol=1e-5)
    forward = {label: [curves[label]["forward"] for _, _, curves in found] for label in rows}
    hinge = ev.hinge(forward["r-seed0"], [f for _, f, _ in found])
    assert table["r-seed0", "forward", "hinge_s"][0] == pytest.approx(hinge)
    both = np.mean([ev.spearman(forward[label]) for label in ("c-seed0", "c-seed1")])
    assert table["c, all seeds", "forward", "spearman"][0] == pytest.approx(both)
    for version, metric in (("still", "spearman"), ("still", "gap_still"), ("failed", "gap")):
        assert np.isnan(table["c-seed0", version, metric][:3]).all()
    assert np.isfinite(table["c-seed0", "swapped", "spearman"]).all()


def test_intervals_of_a_mean_are_those_of_theory_and_wider_over_seeds(rng):
    weights = rng.multinomial(400, np.full(400, 1 / 400), 2000)
    files = [np.stack([rng.normal(m, 2, 400), np.ones(400)], 1) for m in (5.0, 6, 7)]
    value, low, high = ev.interval(files[:1], weights)
    expected = scipy.stats.norm.interval(0.95, files[0][:, 0].mean(), files[0][:, 0].std() / 20)
    assert value == pytest.approx(np.mean(expected)) and (low, high) == pytest.approx(expected, abs=0.03)
    shared = ev.interval(files, weights)
    assert shared[0] == pytest.approx(np.mean([f[:, 0].mean() for f in files]))
    assert shared[2] - shared[1] > 3 * (high - low)


def test_one_video_becomes_strips_and_a_video(files, folder, tmp_path):
    clip = str((folder / "videos/6.webm").rename(tmp_path / "holiday.part2.webm"))
    config = ev.Config(clip=clip, failed=str(folder / "videos/101.webm"), out=str(tmp_path / "out"))
    curves = ev.score_video(config, common.load_distance(files[1]))
    np.testing.assert_allclose(curves["reversed"], curves["forward"][::-1], atol=1e-5)
    frames, fps = common.read_clip(tmp_path / "out/holiday.part2.mp4")
    assert frames.shape == (16, 500, 976, 3) and fps == 12 and (tmp_path / "out/holiday.part2.png").is_file()
    dark = (frames[:, 250:440, 60:] < 60).all(-1).mean(1)  # the cursor is the darkest column, and moves right
    assert (np.diff(dark.argmax(1)) > 20).all()
    moved = np.abs(frames[8, :240].astype(int) - frames[0, :240]).mean(-1) > 60
    assert moved[:, 244:].sum() > 100 and moved[:, :240].sum() == 0  # the videos play, the goal stands
    plt.imsave(tmp_path / "goal.png", common.read_clip(clip)[0][4])
    for goal, place in (("4", 4), ("-3", 13), (str(tmp_path / "goal.png"), 4)):
        config.goal = goal
        assert ev.score_video(config, common.load_distance(files[1]))["forward"].argmin() == place


def test_bad_input_gets_one_clear_line(folder, files, tmp_path, monkeypatch):
    distance, rows = common.load_distance(files[1]), ev.all_rows({}, "cpu")
    config = ev.Config(clip=str(folder / "videos/6.webm"), goal="16", out=str(tmp_path), short_side=18)
    monkeypatch.setattr(distance, "program", lambda x: torch.full((len(x), 2), torch.nan))
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    write_square(tmp_path / "short/0.mkv", [0, 5], 60)  # two frames: no ranks
    short = ev.find_items([tmp_path / "short/0.mkv"], tmp_path / "short")
    for words, call in {
        "neighbours": lambda: ev.misclassification([[1, 2]], pairs="neighbours"),
        "frames 0 to 15": lambda: ev.score_video(config, distance),
        "train it again": lambda: ev.curves_of(distance, {"forward": (frames, frames[0])}, 12.0),
        "nothing.pt2": lambda: ev.load_files(("nothing.pt2",), "cpu"),
        "three frames": lambda: ev.score(rows, short, config),
    }.items():
        with pytest.raises(common.UserError, match=words):
            call()
