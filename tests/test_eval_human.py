"""04_eval_human.py: metrics against plain loops and scipy, films, controls, the cache, error bars, and the robot's correlation."""

import importlib
import json
import shutil
import time

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


def pairs_of(curve, pairs):
    return [(j, k) for j in range(len(curve)) for k in range(j + 1, len(curve)) if pairs == "all" or k == j + 1]


# ---- metrics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", ["adjacent", "all"])
def test_pair_metrics_equal_the_triple_loop(curves, rng, pairs):
    fps = rng.uniform(8, 30, len(curves))
    rise = seconds = wrong = count = 0
    for d, f in zip(curves, fps):
        for j, k in pairs_of(d, pairs):
            rise, seconds = rise + max(0, d[k] - d[j]), seconds + max(0, d[k] - d[j]) / f
            wrong, count = wrong + (d[k] > d[j]), count + 1
    frames = sum(map(len, curves))  # the sum of T - 1
    assert ev.hinge(curves, pairs) == pytest.approx(rise / count) and ev.hinge(curves, pairs, fps) == pytest.approx(seconds / count)
    assert ev.misclassification(curves, pairs) == pytest.approx(wrong / count)
    assert ev.hinge(curves, pairs, printed=True) == pytest.approx(rise / frames)
    assert ev.misclassification(curves, pairs, printed=True) == pytest.approx(wrong / frames)


def test_time_metrics_equal_the_loop_over_frames(curves, rng):
    fps = rng.uniform(8, 30, len(curves))
    errors = [(d[t] - (len(d) - t), f) for d, f in zip(curves, fps) for t in range(len(d))]  # 0-based t: T - 1 - t frames to go
    assert ev.mse(curves) == pytest.approx(np.mean([e * e for e, _ in errors]))
    assert ev.mean_error(curves) == pytest.approx(np.mean([abs(e) for e, _ in errors]))
    assert ev.mse(curves, fps) == pytest.approx(np.mean([(e / f) ** 2 for e, f in errors]))
    assert ev.mean_error(curves, fps) == pytest.approx(np.mean([abs(e) / f for e, f in errors]))


@pytest.mark.parametrize("name, reference", [("spearman", scipy.stats.spearmanr), ("kendall", scipy.stats.kendalltau)])
def test_rank_metrics_equal_scipy(curves, name, reference):
    expected = [0.0 if np.ptp(d) == 0 else reference(d, -np.arange(len(d))).statistic for d in curves if len(d) > 1]
    metric = getattr(ev, name)
    assert metric(curves) == pytest.approx(np.mean(expected))
    each, counted = metric.parts(curves)
    np.testing.assert_allclose(each[counted > 0], expected, atol=1e-12)
    assert (counted == 0).sum() == sum(len(d) < 2 for d in curves) > 0  # of videos with fewer than three frames


def test_metrics_of_nothing_are_nan_and_bad_pairs_are_refused():
    assert np.isnan(ev.spearman([[1.0]])) and np.isnan(ev.hinge([[1.0], []])) and np.isnan(ev.mse([]))
    with pytest.raises(common.UserError, match="neighbours"):
        ev.misclassification([[1, 2]], "neighbours")


def test_agreement_equals_scipy(curves, rng):
    others = [c + rng.normal(0, 3, len(c)) for c in curves]
    expected = [0.0 if np.ptp(a) == 0 else scipy.stats.spearmanr(a, b).statistic for a, b in zip(curves, others) if len(a) > 1]
    assert ev.agreement(curves, others) == pytest.approx(np.mean(expected))


def test_metrics_are_fast_enough_for_ssv2(rng):
    sizes = np.clip(rng.normal(45, 13, 25_000).round().astype(int), 12, 72)
    many, fps = [rng.normal(size=n - 1).astype(np.float32) for n in sizes], np.full(25_000, 12.0)
    for call in (lambda: ev.mse(many, fps), lambda: ev.hinge(many, "all", fps), lambda: ev.misclassification(many, "all"),
                 lambda: ev.spearman(many), lambda: ev.kendall(many), lambda: ev.gap(many, many), lambda: ev.agreement(many, many)):
        since = time.process_time()
        call()
        assert time.process_time() - since < 2


# ---- the gap -------------------------------------------------------------------------------------------------------


def test_gap_by_hand_and_its_invariances(rng):
    success, failed = [np.sort(rng.uniform(0, 9, n))[::-1] for n in (9, 30, 4)], [rng.uniform(0, 9, n) for n in (5, 40, 1)]
    by_hand = sum(f[-1] - s[-1] for s, f in zip(success, failed)) / sum(s[0] - s[-1] for s in success)
    assert ev.gap(success, failed) == pytest.approx(by_hand)
    assert ev.gap([3 * s + 7 for s in success], [3 * f + 7 for f in failed]) == pytest.approx(by_hand)  # any unit, any zero
    assert ev.gap([*success, [8.0, 1.0]], [*failed, []]) == pytest.approx(by_hand)  # a clip without counterpart
    assert np.isnan(ev.gap(success, [[]] * 3)) and ev.gap(success, success) == 0


# ---- films and distances -------------------------------------------------------------------------------------------


def test_films_show_the_right_pictures_and_goals(rng):
    frames, failed, still = (rng.integers(0, 256, (n, 6, 6, 3), np.uint8) for n in (8, 5, 3))
    goal = rng.integers(0, 256, (6, 6, 3), np.uint8)
    pictures, films = ev.cut_films(frames, goal, failed, still)
    assert set(films) == set(ev.FILMS)
    expected = {"forward": (frames[:-1], frames[-1]), "reversed": (frames[:0:-1], frames[0]), "swapped": (frames[:-1], goal),
                "failed": (failed, frames[-1]), "still": (still, frames[-1]),
                "mirrored": ((frames[:-1, :, ::-1, ::-1] * 0.7).astype(np.uint8), (frames[-1, :, ::-1, ::-1] * 0.7).astype(np.uint8))}
    for name, (shown, end) in expected.items():
        np.testing.assert_array_equal(pictures[films[name][0]], shown)
        np.testing.assert_array_equal(pictures[films[name][1]], end)
    assert sorted(films["shuffled"][0]) == list(range(7)) and films["shuffled"][0].tolist() != list(range(7))
    _, alone = ev.cut_films(frames)
    assert alone["still"][0].tolist() == [0] * 7 and "failed" not in alone and "swapped" not in alone


class Pair(torch.nn.Module):
    """A pairwise network whose value can be told by hand: brightness of each frame of history, weighted, minus the goal's."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.1, 0.3, 1.0, -2.0]))

    def forward(self, x):  # (B, 4, 3, S, S)
        return x.mean((2, 3, 4)) @ self.weight


class Embedding(torch.nn.Module):
    """A small convolution with normalisation."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
                                          torch.nn.Linear(36, 5))
        self.layers[1].running_var.fill_(9.0)

    def forward(self, x):
        return self.layers(x)


def write_file(path, network, kind="embedding", history=1, **training):
    meta = {"name": "HOLD-R" if kind == "pairwise" else "HOLD-C", "kind": kind, "history": history, "training": training}
    common.save_distance(path, network.eval(), meta, common.Preprocess(16))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A pairwise file that predicts time, and two embeddings that differ in the seed."""
    folder = tmp_path_factory.mktemp("files")
    return [write_file(folder / "r/distance.pt2", Pair(), "pairwise", 3, fps=24.0, seed=0, size=16),
            *(write_file(folder / f"c-s{i}/distance.pt2", Embedding(i), seed=i, size=16) for i in range(2))]


def test_pairwise_curves_see_their_history(files, rng):
    distance = common.load_distance(files[0])
    frames = rng.integers(0, 256, (9, 20, 24, 3), np.uint8)
    tone = [common.Preprocess(16)(torch.from_numpy(f[None])).mean().item() for f in frames]
    weights = [0.1, 0.3, 1.0]
    expected = [sum(w * tone[max(0, t - 2 + i)] for i, w in enumerate(weights)) - 2 * tone[8] for t in range(8)]
    np.testing.assert_allclose(ev.along(distance, frames[:-1], frames[-1], at_once=3), expected, atol=1e-5)


def test_curves_of_a_stack_equal_the_distance_called_on_each_film(files, rng):
    pictures, films = ev.cut_films(rng.integers(0, 256, (6, 16, 16, 3), np.uint8), rng.integers(0, 256, (16, 16, 3), np.uint8))
    distance = common.load_distance(files[1])
    for name, curve in ev.curves_of(distance, pictures, films).items():
        places, goal = films[name]
        np.testing.assert_allclose(curve, distance(pictures[places], pictures[goal]), atol=1e-5)


def test_forgetting_draws_weights_anew_and_leaves_preprocessing_alone(files, rng):
    frames = rng.integers(0, 256, (4, 16, 16, 3), np.uint8)
    before, one, two = (common.load_distance(files[1]) for _ in range(3))
    ev.forget(one, seed=1), ev.forget(two, seed=1)
    kept = dict(before.program.named_buffers())
    for (name, old), new in zip(before.program.named_parameters(), one.program.parameters()):
        assert new.ndim == 1 or not torch.equal(old, new), name
    for name, new in one.program.named_buffers():
        assert "running_var" not in name or new.eq(1).all()
        assert "preprocess" not in name or torch.equal(new, kept[name])
    np.testing.assert_array_equal(one(frames, frames[0]), two(frames, frames[0]))
    assert one(frames, frames[0])[1:].min() > 0


# ---- scoring a folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, rng):
    """Seven clips of a square that moves right, with labels; one file is broken, one clip has a single frame, two have controls."""
    data, videos, entries, controls = tmp_path / "clips", tmp_path / "clips/videos", [], []
    (data / "labels").mkdir(parents=True)

    def film(path, places, shade):
        frames = np.full((len(places), 20, 28, 3), shade, np.uint8)
        for frame, x in zip(frames, places):
            frame[6:14, x : x + 8] = (250, 30, 90)
        common.write_video(path, frames, fps=12)

    for i in range(7):
        film(videos / f"{i}.webm", range(0, 10 + i) if i != 3 else [0], 30 * i)
        entries.append({"id": str(i), "label": "pushing", "template": f"Pushing {i % 2}", "placeholders": []})
    (videos / "5.webm").write_bytes(b"no video")
    for i in (0, 1):
        for k, (kind, places) in enumerate({"failed": [0, 1, 0, 0], "still": [0] * 5, "reversed": range(9, -1, -1)}.items()):
            film(videos / f"{1_000_001 + 3 * i + k}.webm", places, 30 * i)
            controls.append(entries[i] | {"id": str(1_000_001 + 3 * i + k), "control": kind, "of": str(i)})
    (data / "labels/validation.json").write_text(json.dumps(entries))
    (data / "labels/controls.json").write_text(json.dumps(controls))
    return data


def config_for(folder, files, tmp_path, **changes):
    return ev.Config(**{"distance": tuple(files), "data": str(folder), "out": str(tmp_path / "out"), "short_side": 18, "batch": 2,
                        "bootstraps": 50, "device": "cpu", **changes})


def test_the_whole_evaluation(folder, files, tmp_path, capsys):
    config = config_for(folder, files, tmp_path)
    rows, scores, table, items = ev.evaluate(config)
    printed = capsys.readouterr().out
    assert "left out 2 of 7 clips" in printed and [i.path.stem for i in items] == ["0", "1", "2", "4", "6"]
    labels = {row.label for row in rows}
    assert labels == {"r", "c-s0", "c-s1", "constant", "frame index", "pixel L2", "untrained r", "untrained c-s0"}
    assert "c (2 seeds)" in printed and table["frame index", "forward", "spearman"] == (1, 1, 1)
    assert table["frame index", "all", "gap"][0] == 0 and table["constant", "forward", "misclassification"][0] == 0
    assert table["pixel L2", "all", "gap"][0] > 0.9 and table["pixel L2", "all", "gap_still"][0] > 0.9
    assert [len(c) for c in scores["pixel L2"]["failed"]] == [4, 4, 0, 0, 0]  # only two have a failed counterpart
    assert [len(c) for c in scores["pixel L2"]["still"]] == [5, 5, 11, 13, 15]  # the others repeat their first frame
    assert ("c-s0", "forward", "mse_frames") not in table and ("constant", "forward", "mse_frames") in table
    first = common.load_distance(files[0])
    frames, fps = ev.read_square(items[0].path, 18)
    np.testing.assert_allclose(scores["r"]["forward"][0], ev.along(first, frames[:-1], frames[-1]) * fps / 24, rtol=1e-4, atol=1e-5)
    csv = common.read_csv(tmp_path / "out/table.csv")
    mine = (csv["distance"] == "c-s0") & (csv["film"] == "forward") & (csv["metric"] == "spearman")
    assert float(csv["value"][mine][0]) == pytest.approx(ev.spearman(scores["c-s0"]["forward"]), rel=1e-5)
    paper = {(d, m): p for d, f, m, p in zip(*(csv[k] for k in ("distance", "film", "metric", "paper_ssv2"))) if p and f == "forward"}
    assert paper["c-s0", "spearman"] == "0.6246" and paper["r", "mse_frames"] == "514.1"  # Table IV: HOLD-C, HOLD-R with 3 frames
    assert {label for label, _ in paper} == {"r", "c-s0", "c-s1", "c (2 seeds)"} and len(paper) == 6 + 3 * 2
    figures = ev.draw_all(rows, scores, table, items, config)
    assert set(figures) == {"table", "controls", "videos", "templates"}
    assert all((tmp_path / f"out/{name}.png").stat().st_size > 5000 for name in figures)


def test_interrupted_scoring_loses_one_batch_and_goes_on(folder, files, tmp_path, monkeypatch):
    whole = ev.evaluate(config_for(folder, files[1:2], tmp_path, out=str(tmp_path / "whole")))[1]
    config, real, calls = config_for(folder, files[1:2], tmp_path), ev.curves_of, []

    def stops(*arguments):
        if len(calls) == 6:  # three distances scored two clips of the first batch; this is the second batch
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(ev, "curves_of", stops)
    with pytest.raises(KeyboardInterrupt):
        ev.evaluate(config)
    assert len(list((tmp_path / "out/cache").rglob("000000.npz"))) == 3 and not list((tmp_path / "out").rglob(".*.npz"))
    calls.clear()
    monkeypatch.setattr(ev, "curves_of", lambda *a: calls.append(1) or real(*a))
    halves = ev.evaluate(config)[1]
    assert len(calls) == 3 * 3  # clips 2, 4 and 6; the first batch is not scored again
    for label, films in whole.items():
        for film, curves in films.items():
            assert all(np.array_equal(a, b) for a, b in zip(curves, halves[label][film], strict=True))
    monkeypatch.setattr(ev, "read_item", lambda *a: pytest.fail("a clip was decoded though all is in the cache"))
    ev.evaluate(config)


def test_a_changed_file_or_clip_is_scored_again(folder, files, tmp_path):
    rows = ev.file_rows(config_for(folder, files[1:], tmp_path), "cpu")
    assert rows[0].key != rows[1].key and rows[0].group == rows[1].group
    before = ev.evaluate(config_for(folder, files[1:2], tmp_path))[1]
    (folder / "videos/0.webm").write_bytes((folder / "videos/2.webm").read_bytes())
    after = ev.evaluate(config_for(folder, files[1:2], tmp_path))[1]
    assert len(before["c-s0"]["forward"][0]) == 9 and len(after["c-s0"]["forward"][0]) == 11


def test_a_folder_without_labels_has_controls_of_its_own(folder, files, tmp_path):
    for path in (folder / "labels").iterdir():
        path.unlink()
    for path in list((folder / "videos").glob("1*.webm")):
        path.unlink() if len(path.stem) > 1 else None
    items = ev.find_items(folder, "train")
    assert all(item.failed is None and item.still is None and item.other not in (None, item.path) for item in items)
    _, _, table, _ = ev.evaluate(config_for(folder, files[1:2], tmp_path, split="train"))
    assert ("c-s0", "all", "gap") not in table and table["c-s0", "still", "spearman"][0] == 0 and ("c-s0", "swapped", "kendall") in table


def test_a_film_that_stands_still_is_scored_once(rng):
    class Rounding:  # equal pictures at other places of a batch differ by rounding
        kind, history, meta = "pairwise", 1, {"name": "rounding"}

        def __call__(self, frames, goal):
            return torch.arange(len(frames)) * 1e-6  # along a film of equal pictures too

    pictures = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    curves = ev.curves_of(Rounding(), pictures, {"forward": (np.arange(5), 5), "still": (np.zeros(5, int), 5)})
    assert ev.spearman([curves["still"]]) == 0 and len(curves["still"]) == 5 and np.ptp(curves["forward"]) > 0


def test_a_file_called_untrained_keeps_its_row(folder, files, tmp_path):
    path = tmp_path / "untrained/distance.pt2"
    path.parent.mkdir()
    path.write_bytes(open(files[1], "rb").read())
    rows, scores, _, _ = ev.evaluate(config_for(folder, [str(path)], tmp_path))
    assert [row.label for row in rows if row.path] == ["untrained"] and "untrained (trivial)" in scores
    distance, (frames, _) = common.load_distance(path), ev.read_square(folder / "videos/0.webm", 18)
    np.testing.assert_allclose(scores["untrained"]["forward"][0], ev.along(distance, frames[:-1], frames[-1]), atol=1e-4)


def test_clips_can_be_chosen_by_template(folder):
    assert [i.path.stem for i in ev.find_items(folder, "validation", templates="1$")] == ["1", "3", "5"]
    assert [i.path.stem for i in ev.find_items(folder, "validation", 2, "^(?!.*1)")] == ["0", "2"]
    for pattern in ("nothing", "("):
        with pytest.raises(common.UserError, match="templates"):
            ev.find_items(folder, "validation", templates=pattern)


def test_clips_read_too_small_for_a_network_are_refused(folder, tmp_path):
    path = write_file(tmp_path / "big/distance.pt2", Embedding(), size=64)
    with pytest.raises(common.UserError, match="--short-side 72"):
        ev.evaluate(config_for(folder, [path], tmp_path))


# ---- error bars ----------------------------------------------------------------------------------------------------


def test_intervals_of_a_mean_are_those_of_theory(rng):
    x = rng.normal(5, 2, 400)
    value, low, high = ev.interval([(x, np.ones(400))], ev.resamples(400, 2000))
    expected = scipy.stats.norm.interval(0.95, x.mean(), x.std() / 20)
    assert value == pytest.approx(x.mean()) and (low, high) == pytest.approx(expected, abs=0.03)


def test_intervals_over_seeds_are_wider_than_over_videos(rng):
    files = [(rng.normal(m, 1, 200), np.ones(200)) for m in (0.0, 1, 2)]
    weights = ev.resamples(200, 500)
    value, low, high = ev.interval(files, weights)
    alone = ev.interval(files[:1], weights)
    assert value == pytest.approx(np.mean([a.mean() for a, _ in files])) and high - low > 3 * (alone[2] - alone[1])


# ---- does it predict the robot? ------------------------------------------------------------------------------------


def robot_case(tmp_path, rng, count=8):
    rows = [ev.Row(f"d{i}", None, "k", str(tmp_path / f"d{i}.pt2"), f"g{i // 2}") for i in range(count)]
    table = {(row.label, film, metric): (float(rng.normal()), 0, 0) for row in rows for film, metric, _ in ev.MEASURES.values()}
    lines = [{"distance": row.path, "name": row.label, "task": task, "stage": 0, "spearman": table[row.label, "all", "gap"][0] + shift,
              "contrast": float(rng.normal()), "failed": 0.25} for row in rows for task, shift in (("cup", 0.0), ("faucet", 1.0))]
    lines.append({**lines[0], "distance": "pixels", "spearman": 0.3})
    common.write_csv(tmp_path / "look.csv", lines)
    return rows, table


def test_correlation_finds_the_measure_that_predicts(tmp_path, rng, capsys):
    rows, table = robot_case(tmp_path, rng)
    config = ev.Config(out=str(tmp_path), robot=(str(tmp_path / "look.csv"),), bootstraps=200)
    lines = {(line["measure"], line["target"]): line for line in ev.predict_robot(table, rows, config)}
    assert lines["gap", "robot Spearman"]["rho"] == pytest.approx(1) and lines["gap", "Spearman, cup"]["files"] == 8
    robot = ev.read_robot(config.robot, rows)["robot contrast"]
    for measure, (film, metric, sign) in ev.MEASURES.items():
        expected = scipy.stats.spearmanr([sign * table[r.label, film, metric][0] for r in rows], [robot[r.label] for r in rows])
        line = lines[measure, "robot contrast"]
        assert (line["rho"], line["p"]) == pytest.approx((expected.statistic, expected.pvalue)) and line["low"] <= line["rho"] <= line["high"]
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1].endswith("gap.") and (tmp_path / "robot.png").is_file()
    assert len(common.read_csv(tmp_path / "correlation.csv")["rho"]) == len(ev.MEASURES) * 5
    gaps = ev.read_robot(config.robot, rows)["robot gap"]
    assert gaps == pytest.approx({label: value - 0.25 for label, value in robot.items()})


def test_few_files_get_a_clear_line_and_a_wrong_csv_too(tmp_path, rng, capsys):
    rows, table = robot_case(tmp_path, rng, count=4)
    assert ev.predict_robot(table, rows, ev.Config(out=str(tmp_path), robot=(str(tmp_path / "look.csv"),))) == []
    assert "needs at least 5" in capsys.readouterr().out
    common.write_csv(tmp_path / "other.csv", [{"step": 1}])
    with pytest.raises(common.UserError, match="no column contrast, distance, spearman, task"):
        ev.read_robot([tmp_path / "other.csv"], rows)


def test_steps_to_threshold_of_runs(tmp_path):
    rows = [ev.Row(name, None, "k") for name in ("c1000-s0", "c1000-s1")]
    runs = {"close_drawer-c1000-s0-seed0": [0, 30, 60], "close_drawer-c1000-s0-seed1": [30, 30, 50], "close_drawer/c1000-s1-seed0": [0, 0, 10],
            "close_drawer-sparse-seed0": [90, 90, 90]}
    for name, returns in runs.items():
        common.write_csv(tmp_path / name / "curve.csv", [{"step": 100 * (i + 1), "train_return": r} for i, r in enumerate(returns)])
    assert ev.read_steps([tmp_path], rows) == {"speed, close_drawer": {"c1000-s0": -150, "c1000-s1": -np.inf}}


# ---- one's own video, and the command line --------------------------------------------------------------------------


def test_one_video_becomes_a_strip_and_a_film(files, folder, tmp_path, capsys):
    clip = shutil.copy(folder / "videos/6.webm", tmp_path / "holiday.part2.webm")
    config = config_for(folder, files[1:2], tmp_path, clip=clip, failed=str(folder / "videos/1000001.webm"), goal="-1")
    curves = ev.film_one(config)
    np.testing.assert_allclose(curves["reversed"], curves["forward"][::-1], atol=1e-5)
    frames, fps = common.read_clip(tmp_path / "out/holiday.part2.mp4")
    assert frames.shape == (16, 540, 960, 3) and fps == 12 and (tmp_path / "out/holiday.part2.png").stat().st_size > 10_000
    lower = frames[:, 300:].astype(int)
    red = ((lower[..., 0] > 180) & (lower[..., 1] < 90) & (lower[..., 2] < 90)).sum((1, 2))
    assert red[-1] > red[5] > red[1] > 0  # the curve grows with the film
    moved = np.abs(frames[8, 40:250].astype(int) - frames[0, 40:250]).mean(-1) > 60
    assert moved[:, 250:].sum() > 100 and moved[:, :230].sum() == 0  # pictures play, the goal stands


def test_goals_by_number_picture_and_mistake(folder, tmp_path, rng):
    import matplotlib.pyplot as plt

    frames = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    assert np.array_equal(ev.read_goal("2", frames), frames[2]) and np.array_equal(ev.read_goal("-1", frames), frames[4])
    plt.imsave(tmp_path / "goal.png", frames[3])
    assert np.array_equal(ev.read_goal(str(tmp_path / "goal.png"), frames), frames[3])
    with pytest.raises(common.UserError, match="5 frames"):
        ev.read_goal("5", frames)


@pytest.mark.parametrize("name, pretrained, words", [("resnet99", False, "not known to timm"), ("resnet10t.no_such", True, "no weights")])
def test_unknown_timm_models_get_one_line(name, pretrained, words):
    with pytest.raises(common.UserError, match=words):
        ev.timm_distance(name, pretrained, 64, 0, "cpu")


def test_a_missing_file_gets_one_clear_line(tmp_path):
    finished = run("04_eval_human.py", "--distance", "nothing.pt2", "--out", tmp_path / "out")
    assert finished.returncode == 1 and finished.stderr.strip().splitlines()[-1].startswith("error: there is no distance file nothing.pt2")
    assert "Traceback" not in finished.stderr
