"""The reward: formulas by hand, proofs by value iteration, stages, history, vectors; and the look."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import common

FORMS = ("cumulative", "instantaneous", "printed", "potential")


def grey(value, shape=(4, 6, 3)):
    return np.full(shape, round(value), np.uint8)


class Dial(gym.Env):
    """An environment whose picture is one grey value, which the action sets. Ends after `length` steps."""

    action_space = gym.spaces.Box(0, 255, (1,), np.float32)
    observation_space = gym.spaces.Box(0, 255, (4, 6, 3), np.uint8)

    def __init__(self, start=100, length=10**6, sparse=0.0):
        self.start, self.length, self.sparse = start, length, sparse

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return grey(self.start), {}

    def step(self, action):
        self.time += 1
        return grey(float(np.ravel(action)[0])), self.sparse, False, self.time >= self.length, {}


def offset_distance(frames, goal):
    """|frame - goal| / 10 + 2: a distance with d(g, g) = 2."""
    return np.abs(frames[:, 0, 0, 0].astype(float) - goal[0, 0, 0]) / 10 + 2


class Motion:
    """A distance that sees three frames, and says which: 1, 10 and 100 times their grey values."""

    history = 3

    def __call__(self, frames, goal):
        return torch.as_tensor(frames[:, :, 0, 0, 0].astype(float) @ [1, 10, 100] - 0 * goal[0, 0, 0])


def follow(env, values):
    """Reset and step through grey values; returns the rewards and infos."""
    env.reset()
    steps = [env.step(np.array([value], np.float32)) for value in values]
    return [step[1] for step in steps], [step[4] for step in steps]


GAMMA, GOAL = 0.9, 0
NEXT = {0: [0, 1], 1: [1, 0, 2, 5], 2: [2, 1, 3], 3: [3, 2, 4], 4: [4, 3, 1], 5: [5, 1]}  # a small world
EXACT = np.array([0, 1, 2, 3, 2, 2.0])  # steps to the goal; from 3 two ways are equally short


def best_moves(reward, ends=False):
    """Optimal moves of each state by value iteration; with `ends`, reaching the goal ends the episode."""
    value, open_ = np.zeros(len(NEXT)), lambda s: not (ends and s == GOAL)
    for _ in range(600):
        gains = {s: np.array([reward(s, n) + GAMMA * value[n] * open_(n) for n in NEXT[s]]) for s in NEXT}
        value = np.array([gains[s].max() for s in NEXT])
    best = lambda s: {n for n, gain in zip(NEXT[s], gains[s]) if gain > gains[s].max() - 1e-9}
    return {s: best(s) for s in NEXT if open_(s)}


BEST = {0: {0}, 1: {0}, 2: {1}, 3: {2, 4}, 4: {1}, 5: {1}}  # the shortest way, then stay


def test_value_iteration_proves_the_table(sac):
    def moves(form, x, sparse, scale=3.0, ends=False):
        learned = lambda s, n: float(sac.reward_from_distances(x[s], x[n], scale, form, GAMMA))
        return best_moves(lambda s, n: learned(s, n) + sparse * (n == GOAL), ends)

    assert best_moves(lambda s, n: float(n == GOAL)) == BEST
    ending = best_moves(lambda s, n: float(n == GOAL), ends=True)
    assert moves("cumulative", EXACT, 0) == moves("instantaneous", EXACT, 0) == BEST
    printed = moves("printed", EXACT, 0)
    assert all(s in printed[s] for s in NEXT) and printed[4] == {4, 1}  # standing still is as good
    assert moves("potential", EXACT, 0) == {s: set(NEXT[s]) for s in NEXT}  # all policies tie
    wrong = np.array([0, 8, 9, 9, 9, 0.5])  # dead end 5 looks like the goal
    for form in FORMS:
        assert moves(form, EXACT, 1) == BEST and moves(form, EXACT, 1, ends=True) == ending
        assert (moves(form, wrong, 1, scale=0.01) == BEST) is (form == "potential")
    for form in ("cumulative", "instantaneous"):  # where d(g, g) is not subtracted
        assert moves(form, EXACT + 0.7, 0) == BEST  # positive: no harm
        assert moves(form, EXACT - 1.5, 0)[1] >= {0, 1}  # negative: the clamp hides the goal
    assert moves("printed", EXACT - 1.5, 0) == printed and moves("potential", EXACT + 50, 1) == BEST
    assert moves("potential", EXACT + 50, 1, ends=True) != ending  # only where the goal ends the episode


def test_two_stages_by_hand(sac):
    """Goals 100 and 200, start 150, threshold 1, T = 10, stage cost 2; d' = |value - goal| / 10."""
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(200)], scale=10, threshold=1,
                         stage_cost=2, goal_in_observation=True)
    for _ in range(2):  # a reset clears stage and hits
        picture, info = env.reset()
        assert picture.shape == (4, 6, 6) and env.observation_space.contains(picture)
        assert picture[0, 0].tolist() == [150] * 3 + [100] * 3 and info["stage"] == 0
        steps = [env.step(np.array([value])) for value in (120, 105, 95, 150, 105, 95, 100, 150, 100, 205)]
        expected = [-4, -2.5, -2.5, -7, -2.5, -2.5, -2, -5, -10, -0.5]  # the 7th: still goal 1
        assert [10 * step[1] for step in steps] == pytest.approx(expected)
        assert [step[4]["stage"] for step in steps] == [0] * 7 + [1] * 3
        assert [step[0][0, 0, 3] for step in steps] == [100] * 6 + [200] * 4  # the next observation: goal 2
        assert [info["stage"] for info in follow(env, [100] * 2)[1]] == [0, 0]


def test_default_costs_scale_and_threshold(sac):
    goals = [grey(100), grey(200)]
    env = sac.GoalReward(Dial(150), offset_distance, goals)
    assert env.scale == pytest.approx(15) and env.threshold == pytest.approx(1.5)  # x = 5 at the start
    assert follow(env, [150])[0] == pytest.approx([-(5 + 10) / 15])  # -1/3, and the way from goal to goal
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(180), grey(200)])
    assert env.costs.tolist() == pytest.approx([10, 2, 0])
    fall = []
    for cost in (None, 2):  # at the first goal nothing is lost by the switch; with a smaller cost it is
        env = sac.GoalReward(Dial(150), offset_distance, goals, 10, stage_cost=cost)
        rewards, infos = follow(env, [100] * 4)
        assert [info["stage"] for info in infos] == [0, 0, 0, 1]
        fall.append(rewards[2] - rewards[3])
    assert fall == pytest.approx([0, 0.8])
    for scale in (None, 0.01, 50):  # the unit of the distance decides where a stage ends, not T
        env = sac.GoalReward(Dial(150), lambda f, g: offset_distance(f, g) / 100, goals, scale)
        assert [info["stage"] for info in follow(env, [120, 110, 110, 110, 110])[1]] == [0, 0, 0, 0, 1]


def test_history_and_time_indexed_goals(sac):
    env = sac.GoalReward(Dial(1), Motion(), grey(5), scale=1.0, sparse_weight=0)
    for _ in range(2):  # the first frame repeats; a reset clears the memory
        assert [info["distance"] for info in follow(env, [2, 3, 4])[1]] == [211, 321, 432]
    video = np.stack([grey(value) for value in (100, 110, 120)])
    env = sac.GoalReward(Dial(100), offset_distance, video, scale=10, sparse_weight=0, time_indexed=True)
    assert follow(env, [100, 100, 100, 100])[0] == pytest.approx([-0.1, -0.2, -0.2, -0.2])  # the last repeats
    assert follow(env, [110, 120, 120])[0] == pytest.approx([0, 0, 0])
    env = sac.GoalReward(Dial(100), offset_distance, video, sparse_weight=0, time_indexed=True)
    assert env.scale == pytest.approx(3 * 2)  # from 100 to the video's end, not to its first frame, the start


@pytest.mark.parametrize("form", FORMS)
def test_equals_a_direct_computation_for_a_random_distance(sac, rng, form):
    values, table, goals = rng.integers(0, 256, 40), rng.uniform(0, 4, (256, 256)), (30, 210)
    distance = lambda frames, goal: table[frames[:, 0, 0, 0], goal[0, 0, 0]]
    env = sac.GoalReward(Dial(77, sparse=0.5), distance, [grey(g) for g in goals], 5.0, 0.7, form,
                         threshold=1.5, hold_steps=2, stage_cost=0.9, gamma=0.8)
    stage = hits = 0
    before, before_cost = table[77, goals[0]] - table[goals[0], goals[0]], 0.9
    for value, reward in zip(values, follow(env, values)[0]):
        x, cost = table[value, goals[stage]] - table[goals[stage], goals[stage]], 0.9 * (1 - stage)
        expected = {"cumulative": -(max(0, x) + cost),
                    "instantaneous": max(0, before) + before_cost - max(0, x) - cost,
                    "printed": -max(0, x + cost - before - before_cost),
                    "potential": before + before_cost - 0.8 * (x + cost)}[form]
        assert reward == pytest.approx(expected / 5 + 0.7 * 0.5, abs=1e-6)
        before, before_cost = x, cost
        hits = hits + 1 if max(0, x) < 1.5 else 0
        if hits == 2 and stage == 0:
            stage, hits = 1, 0
    assert stage == 1


@pytest.mark.parametrize("goals, options, says", [
    (grey(5) / 255, {}, "uint8 pictures"), (grey(1), {}, "from 0 to 255"), ([], {}, "one goal at least"),
    (grey(5, (6, 4, 3)), {}, r"6, 4, 3\).*\(4, 6, 3\)"), (grey(5), {"form": "best"}, "best"),
    (grey(5), {"scale": 0}, "positive"), ([grey(150)] * 2, {"threshold": 6.0}, "give scale and threshold"),
    (grey(5), {"distance": lambda frames, goal: 3.0}, "one finite number"),
    (grey(5), {"distance": lambda frames, goal: np.full(len(frames), np.nan)}, "one finite number")])
def test_errors_are_one_clear_line(sac, goals, options, says):
    with pytest.raises(sac.UserError, match=says) as caught:
        sac.GoalReward(Dial(), **{"distance": offset_distance, "goals": goals, **options})
    assert "\n" not in str(caught.value)


def test_pixels_and_distances_along_frames(sac, rng):
    frames, goal = rng.integers(0, 256, (3, 4, 8, 3), np.uint8), rng.integers(0, 256, (4, 8, 3), np.uint8)
    square = lambda picture: picture[:, 2:6].ravel().tolist()
    direct = [np.sqrt(sum((a - b) ** 2 for a, b in zip(square(f), square(goal)))) / 255 for f in frames]
    assert sac.pixel_distance(frames, goal) == pytest.approx(direct)
    frames, stages = np.stack([grey(v) for v in (100, 120, 160, 200)]), np.array([0, 0, 1, 1])
    along = sac.distance_along(offset_distance, frames, [grey(100), grey(200)], stages)
    assert along == pytest.approx([0, 2, 4, 0])  # as the wrapper's
    along = sac.distance_along(Motion(), frames, [grey(0)], np.zeros(4, int))
    assert along == pytest.approx([111 * 100, 11 * 100 + 100 * 120, 100 + 1200 + 16000, 120 + 1600 + 20000])


def test_scores_by_hand(sac):
    """Goals 100 and 200; x = |value - goal| / 10."""
    clip = lambda *values: np.stack([grey(v) for v in values])
    rollouts = {"success": (clip(150, 120, 110, 190, 195, 185, 200), None, np.array([0, 0, 0, 1, 1, 1, 1])),
                "failed": (clip(150, 100, 105, 110), None, None), "random": (clip(170, 190), None, None)}
    pictures = np.stack([clip(150, 150), clip(110, 200), clip(140, 160)])  # start, hand, object
    columns = "stage", "spearman", "contrast", "failed", "hand_alone", "object_alone"
    expected = [(1, 1, 1 - (5 + 2 + 1) / 3 / 8, 1 - 0.5 / 8, 0.8, 0.2),
                # distances 10, 5, 15, 0 at times 0..3; rho = 1 - 6 * (1 + 1 + 4 + 0) / (4 * 15)
                (2, 0.4, 1 - 2 / 3 / 2, 1 - 9.5 / 2, 1, 0.2)]
    scores = sac.score_rollouts(offset_distance, rollouts, [grey(100), grey(200)], pictures)
    assert [pytest.approx(dict(zip(columns, row))) for row in expected] == scores


def test_recordings_and_sanity_table(sac):
    for name in ("pushing", "drawer_open"):
        rolls, goals = sac.recordings(name, (24, 24))
        _, success, stages = rolls["success"]
        assert success[-1] and not success[0] and not rolls["failed"][1].any()
        assert [stages[0], stages[-1]] == [0, len(goals) - 1]
        env = sac.GoalReward(sac.make_task(name, (24, 24)), sac.pixel_distance, goals)
        starts = [env.reset(seed=seed)[1]["distance"] for seed in range(8)]
        assert -np.mean(starts) / env.scale == pytest.approx(-1 / 3)
        assert np.array_equal(env.reset()[0], env.reset()[0]) is (name != "pushing")  # it left no seed
        along = sac.along_rollouts(sac.pixel_distance, rolls, goals)
        later = float(env.costs[0] / env.scale)  # T knows the first goal alone
        table = sac.sanity_table(rolls, along, env)
        assert table["start"][1] == pytest.approx(-along["success"][0] / env.scale - later)
        assert (later > 0.1) is (name == "drawer_open")


def test_look_scores_files_and_draws(sac, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(common.Preprocess(8), torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    common.save_distance("own.pt2", network, {"kind": "embedding", "history": 1, "name": "random"})
    config = sac.Config(tasks=("drawer_open",), distances=("own.pt2",), height=24, look=True)
    sac.look(sac.fill_in(config))
    columns = common.read_csv("runs/look/scores.csv")
    assert columns["name"].tolist() == ["pixels"] * 2 + ["random"] * 2
    assert columns["stage"].tolist() == [1, 2] * 2 and columns["object_alone"].tolist()[0] == 0
    assert {"drawer_open.png", "drawer_open-success.mp4"} <= {p.name for p in Path("runs/look").iterdir()}
