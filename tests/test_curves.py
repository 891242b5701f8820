"""Curves of several runs: which belong together, what is computed of them, and what `--plot` writes."""

import json
import math

import numpy as np
import pytest
import scipy.stats

import common


def write_run(path, values, column="success", every=10, seeds=None):
    """A curve.csv with one evaluation every `every` steps; `seeds` {seed: values} writes a column of seeds, step by step."""
    rows = [{"step": (k + 1) * every, "seed": s, column: float(v[k]), "minutes": 1.0 + k}
            for k in range(len(values)) for s, v in (seeds or {0: values}).items()]
    if not seeds:
        rows = [{name: value for name, value in row.items() if name != "seed"} for row in rows]
    common.write_csv(path, rows)
    return path


# ---- Numbers -------------------------------------------------------------------------------------------------------


def test_threshold_is_where_the_line_crosses(sac):
    steps = np.array([100.0, 200, 300])
    assert sac.steps_to_threshold(steps, np.array([0, 0.5, 1]), 0.75) == 250
    assert sac.steps_to_threshold(steps, np.array([0.9, 0, 0]), 0.75) == 100
    assert sac.steps_to_threshold(steps, np.array([0, 0.5, 0.7]), 0.75) == math.inf
    many = np.array([[[0, 0.5, 1], [0, 1, 0]], [[1, 1, 1], [0, 0, 0]]])
    assert sac.steps_to_threshold(steps, many, 0.75).tolist() == [[250, 175], [100, math.inf]]


def test_speed_up_against_a_naive_bootstrap(sac):
    rng = np.random.default_rng(3)
    steps = np.arange(10, 110, 10.0)
    slow, fast = (np.clip(steps / scale + rng.normal(0, 0.1, (4, 10)), 0, 1) for scale in (90, 40))
    ratio, low, high = sac.speed_up((steps, slow, "aaaa"), (steps, fast, "bbbb"), 0.5)

    def cross(values):
        k = next(k for k, value in enumerate(values) if value >= 0.5)
        return np.interp(0.5, values[k - 1 : k + 1], steps[k - 1 : k + 1])

    assert ratio == pytest.approx(cross(slow.mean(0)) / cross(fast.mean(0))) and low <= ratio <= high
    other = np.random.default_rng(99)
    naive = [cross(slow[other.integers(4, size=4)].mean(0)) / cross(fast[other.integers(4, size=4)].mean(0)) for _ in range(4000)]
    assert np.allclose([low, high], np.quantile(naive, [0.025, 0.975]), rtol=0.1)


def test_speed_up_when_one_never_arrives(sac):
    never, soon = (np.array([10.0, 20]), np.zeros((2, 2)), "aa"), (np.array([10.0, 20]), np.ones((2, 2)), "aa")
    assert sac.speed_up(never, soon, 0.5) == (math.inf,) * 3
    assert sac.speed_up(soon, never, 0.5) == (0, 0, 0)
    assert all(map(math.isnan, sac.speed_up(never, never, 0.5)))
    late = np.array([10.0, 20, 90, 100]), np.array([[0, 0, 0, 1.0]] * 2), "aa"  # after the other was stopped
    assert all(map(math.isnan, sac.speed_up(never, late, 0.5))) and all(map(math.isnan, sac.speed_up(late, never, 0.5)))
    assert sac.speed_up(late, soon, 0.5)[0] == 9.5
    half = np.array([10.0, 20]), np.array([[1.0, 1], [1, 1], [0, 0], [0, 0]]), "aaaa"  # a draw in which neither arrives is a tie
    assert sac.speed_up(never, half, 0.5) == (math.inf, 1, math.inf)
    ratio, *nothing = sac.speed_up(late, (soon[0], soon[1][:1], "a"), 0.5)
    assert ratio == 9.5 and all(map(math.isnan, nothing))  # one seed has no interval


def test_interquartile_mean_and_interval_against_scipy(sac, rng):
    values = rng.normal(0, 1, (40, 3)) + np.array([0, 5, 9])  # (S, K)
    found = sac.summary(np.arange(3), values, "a" * 16 + "b" * 24)
    assert found["mean"] == pytest.approx(values.mean(0)) and found["error"] == pytest.approx(scipy.stats.sem(values))
    assert found["iqm"] == pytest.approx(np.sort(values, 0)[10:30].mean(0))  # the middle half of forty
    middle = lambda a, b, axis: scipy.stats.trim_mean(np.concatenate([a, b], axis), 0.25, axis=axis)
    reference = scipy.stats.bootstrap((values[:16], values[16:]), middle, axis=0, method="percentile", rng=1).confidence_interval
    assert found["low"] == pytest.approx(reference.low, abs=0.1) and found["high"] == pytest.approx(reference.high, abs=0.1)


def test_strata_are_drawn_each_for_itself(sac, rng):
    draws = sac.draw_seeds(["x", "y", "x", "y", "y"], rng, draws=500)
    assert draws.shape == (500, 5) and set(draws[:, [0, 2]].ravel()) == {0, 2} and set(draws[:, [1, 3, 4]].ravel()) == {1, 3, 4}
    apart = np.array([[0.0], [0.0], [1.0], [1.0]])  # two strata without any spread inside
    found = sac.summary([1], apart, "xxyy")
    assert found["low"] == found["high"] == found["iqm"] == 0.5
    assert sac.summary([1], apart, "xxxx")["low"] == 0
    assert len(sac.draw_seeds("xxy", rng)) == 0 and np.isnan(sac.summary([1], apart, "xxxy")["high"])


# ---- Files ---------------------------------------------------------------------------------------------------------


def test_files_of_one_seed_or_many_give_the_same_curves(sac, tmp_path, capsys):
    values = {0: [0, 0.5, 1], 1: [0, 0.2, 0.4], 2: [0.1, 0.1, 0.7]}
    for seed, curve in values.items():
        write_run(tmp_path / f"a-seed{seed}" / "curve.csv", curve)
        write_run(tmp_path / f"b-seed{seed}.csv", curve)
    write_run(tmp_path / "c-seed0-2" / "curve.csv", values[0], seeds=values)
    paths = [*sorted(tmp_path.glob("*/curve.csv")), *sorted(tmp_path.glob("*.csv"))]
    curves = sac.read_curves(paths, "success")
    assert list(curves) == ["a", "c", "b"]
    for steps, found, strata in curves.values():
        assert steps.tolist() == [10, 20, 30] and np.array_equal(found, list(values.values())) and len(set(strata)) == 1
    write_run(tmp_path / "b-seed3.csv", [0, 0.5])  # has just begun
    steps, found, _ = sac.read_curves(sorted(tmp_path.glob("*.csv")), "success")["b"]
    assert steps.tolist() == [10, 20] and len(found) == 4 and "b is compared up to step 20" in capsys.readouterr().out
    write_run(tmp_path / "c-seed1" / "curve.csv", values[1])
    with pytest.raises(common.UserError, match="second file with seed 1 of c"):
        sac.read_curves(tmp_path.glob("c-*/curve.csv"), "success")


def test_plot_writes_tables_and_a_figure(sac, tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / f"sparse-seed{seed}" / "curve.csv", [0, 0, 0, 0.5, 1])
        write_run(tmp_path / f"hold_c-seed{seed}" / "curve.csv", [0, 1, 1, 1, 1 - 0.3 * seed])
        write_run(tmp_path / f"tcn{seed}-seed0" / "curve.csv", [0, 0, 0.1 * seed])  # shorter than the others
    (tmp_path / "hold_c-seed0" / "run.json").write_text(json.dumps({"scale": 4.5}))
    (tmp_path / "sparse-seed0" / "run.json").write_text(json.dumps({"scale": None}))  # as a run without a distance writes it
    config = sac.Config(plot=(f"{tmp_path}/*-seed*/curve.csv",), pool=r"(?<=tcn)\d", out=str(tmp_path))
    rows = {row["kind"]: row for row in sac.compare_curves(config)}
    assert "tcn ends at step 30" in capsys.readouterr().out and all(row["step"] == 30 for row in rows.values())
    table = common.read_csv(tmp_path / "table.csv")
    assert table["kind"].tolist() == list(rows) == ["hold_c", "sparse", "tcn"] and table["seeds"].tolist() == [3, 3, 3]
    assert rows["sparse"]["steps_to_level"] == pytest.approx(48) and rows["hold_c"]["steps_to_level"] == pytest.approx(19)
    assert rows["hold_c"]["mean"] == 1 and rows["tcn"]["mean"] == pytest.approx(0.1) and rows["tcn"]["learned"] == 0
    assert rows["hold_c"]["scale"] == 4.5 and math.isnan(rows["sparse"]["scale"]) and rows["sparse"]["minutes"] == 15
    assert rows["sparse"]["low"] == 0 and math.isnan(rows["tcn"]["low"])  # each of tcn's strata has one run
    curves = common.read_csv(tmp_path / "curves.csv")
    assert list(curves) == ["kind", "step", "mean", "error", "iqm", "low", "high"] and len(curves["kind"]) == 5 + 5 + 3
    last = (curves["kind"] == "hold_c") & (curves["step"] == 50)
    assert curves["mean"][last] == pytest.approx(0.7) and curves["error"][last] == pytest.approx(0.3 / 3**0.5)
    pairs = {(row[0], row[1]): row[2:] for row in zip(*common.read_csv(tmp_path / "speedups.csv").values())}
    assert len(pairs) == 6 and pairs["sparse", "hold_c"] == pytest.approx((48 / 19,) * 3)
    assert np.isinf(pairs["tcn", "hold_c"][0]) and np.isnan(pairs["tcn", "sparse"]).all() and (tmp_path / "curves.png").stat().st_size > 5000


def test_plot_beside_the_files_twice_and_one_kind_with_one_seed(sac, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "only-seed4.csv", [0, 3.0], column="return")
    for _ in range(2):  # the second time, its own files match the pattern too
        (row,) = sac.compare_curves(sac.Config(plot=("*.csv",), column="return", threshold=2))
    assert "one seed: no interval" in capsys.readouterr().out and row["steps_to_level"] == pytest.approx(10 + 20 / 3)
    assert {path.name for path in tmp_path.iterdir()} == {"only-seed4.csv", "curves.csv", "curves.png", "table.csv"}
    left, right = sac.plot_curves({"return": sac.read_curves(["only-seed4.csv"], "return")}, 2).axes
    assert left.lines[0].get_ydata().tolist() == right.lines[0].get_ydata().tolist() == [0, 3]


def test_bad_patterns_are_one_line(sac, tmp_path):
    write_run(tmp_path / "a-seed0.csv", [0, 1])
    for flags, words in (({"plot": (f"{tmp_path}/none*",)}, "no file matches"), ({"column": "return"}, "a-seed0.csv has no column return"),
                         ({"pool": "("}, "regular expression")):
        with pytest.raises(common.UserError, match=words) as error:
            sac.compare_curves(sac.Config(**{"plot": (f"{tmp_path}/*.csv",), **flags}))
        assert "\n" not in str(error.value)
