"""The reward: formulas by hand, proofs by value iteration, stages, history, vector environments, and the look."""

import importlib
import importlib.util
import re
import textwrap
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from conftest import ROOT, run

common = importlib.import_module("common")
FORMS = ("cumulative", "instantaneous", "printed", "potential")


class Dial(gym.Env):
    """An environment whose picture is one grey value, which the action sets. Resets to `start`; ends after `length` steps."""

    observation_space = gym.spaces.Box(0, 255, (4, 6, 3), np.uint8)
    action_space = gym.spaces.Box(0, 255, (1,), np.float32)

    def __init__(self, start=100, length=10**6, sparse=0.0):
        self.start, self.length, self.sparse = start, length, sparse

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return grey(self.start), {}

    def step(self, action):
        self.time += 1
        return grey(float(np.ravel(action)[0])), self.sparse, False, self.time >= self.length, {}


def grey(value, shape=(4, 6, 3)):
    """A picture of one grey value."""
    return np.full(shape, round(value), np.uint8)


def offset_distance(frames, goal):
    """|frame - goal| / 10 + 2: a distance with d(g, g) = 2."""
    return np.abs(frames[:, 0, 0, 0].astype(float) - goal[0, 0, 0]) / 10 + 2


class Motion:
    """A distance that sees three frames, and says which: 1, 10 and 100 times their grey values."""

    history = 3

    def __call__(self, frames, goal):
        assert frames.shape[1:] == (3, 4, 6, 3) and goal.shape == (4, 6, 3)
        return torch.as_tensor(frames[:, :, 0, 0, 0].astype(float) @ [1, 10, 100] - 0 * goal[0, 0, 0])


@pytest.fixture
def distance_files(tmp_path):
    """Two distance files, by two random networks."""
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
        paths.append(str(tmp_path / f"seed{seed}.pt2"))
        common.save_distance(paths[-1], network, {"kind": "embedding", "history": 1, "name": "random"}, common.Preprocess(8))
    return paths


def follow(env, values, **options):
    """Reset and step through grey values; returns the rewards and infos."""
    env.reset(**options)
    steps = [env.step(np.array([value], np.float32)) for value in values]
    return [step[1] for step in steps], [step[4] for step in steps]


# ---- The formulas ---------------------------------------------------------------------------------------------------


def test_formulas_by_hand(sac):
    previous, current = np.array([4.0, 1.0]), np.array([3.0, -2.0])
    expected = {"cumulative": [-1.5, 0], "instantaneous": [0.5, 0.5], "printed": [0, 0],
                "potential": [(4 - 0.9 * 3) / 2, (1 + 0.9 * 2) / 2]}
    for form in FORMS:
        assert sac.reward_from_distances(previous, current, 2, form, gamma=0.9) == pytest.approx(expected[form])
    assert sac.reward_from_distances(3, 4, 2, "printed") == -0.5
    assert sac.reward_from_distances(4.0, 3.0, 2, "cumulative", previous_cost=5, cost=1) == -2
    assert sac.reward_from_distances(4.0, 3.0, 2, "instantaneous", previous_cost=5, cost=1) == 2.5


GAMMA, GOAL = 0.9, 0
NEXT = {0: [0, 1], 1: [1, 0, 2, 5], 2: [2, 1, 3], 3: [3, 2, 4], 4: [4, 3, 1], 5: [5, 1]}  # a small deterministic world
EXACT = np.array([0, 1, 2, 3, 2, 2.0])  # steps to the goal; from 3 two ways are equally short


def best_moves(reward, ends=False):
    """Optimal moves of each state by value iteration; with `ends`, reaching the goal ends the episode."""
    value = np.zeros(len(NEXT))
    for _ in range(600):
        gains = {s: np.array([reward(s, n) + GAMMA * value[n] * (not (ends and n == GOAL)) for n in NEXT[s]]) for s in NEXT}
        value = np.array([gains[s].max() for s in NEXT])
    return {s: {n for n, gain in zip(NEXT[s], gains[s]) if gain > gains[s].max() - 1e-9} for s in NEXT if not (ends and s == GOAL)}


def with_form(sac, form, x, sparse, scale=3.0, ends=False):
    return best_moves(lambda s, n: float(sac.reward_from_distances(x[s], x[n], scale, form, GAMMA)) + sparse * (n == GOAL), ends)


@pytest.fixture(scope="module")
def best():
    """Optimal moves for the sparse reward alone: the shortest way, then stay."""
    moves = best_moves(lambda s, n: float(n == GOAL))
    assert moves == {0: {0}, 1: {0}, 2: {1}, 3: {2, 4}, 4: {1}, 5: {1}}
    return moves


def test_exact_distance_alone(sac, best):
    assert with_form(sac, "cumulative", EXACT, 0) == best
    assert with_form(sac, "instantaneous", EXACT, 0) == best
    printed = with_form(sac, "printed", EXACT, 0)
    assert all(s in printed[s] for s in NEXT) and printed[4] == {4, 1}  # standing still is as good as moving on
    assert with_form(sac, "potential", EXACT, 0) == {s: set(NEXT[s]) for s in NEXT}  # all policies tie


def test_instantaneous_stakes_are_one_minus_gamma_of_cumulative(sac):
    path = [3, 2, 1, 0, 0, 0]
    gain = lambda form: sum(GAMMA**t * sac.reward_from_distances(EXACT[s], EXACT[n], 3, form) for t, (s, n) in enumerate(zip(path, path[1:])))
    assert gain("instantaneous") == pytest.approx(EXACT[3] / 3 + (1 - GAMMA) * gain("cumulative"))


@pytest.mark.parametrize("form", FORMS)
def test_exact_distance_with_sparse_reward(sac, best, form):
    assert with_form(sac, form, EXACT, 1) == best
    ending = best_moves(lambda s, n: float(n == GOAL), ends=True)
    assert with_form(sac, form, EXACT, 1, ends=True) == ending


def test_wrong_distance_misleads_all_but_the_potential(sac, best):
    wrong = np.array([0, 8, 9, 9, 9, 0.5])  # dead end 5 looks like the goal
    for form in FORMS:
        kept = with_form(sac, form, wrong, 1, scale=0.01) == best
        assert kept is (form == "potential")


def test_goal_distance_that_is_not_subtracted(sac, best):
    for form in ("cumulative", "instantaneous"):
        assert with_form(sac, form, EXACT + 0.7, 0) == best  # positive: no harm
        assert with_form(sac, form, EXACT - 1.5, 0)[1] >= {0, 1}  # negative: the clamp hides the goal
    assert with_form(sac, "printed", EXACT - 1.5, 0) == with_form(sac, "printed", EXACT, 0)
    assert with_form(sac, "potential", EXACT + 50, 1) == best
    ending = best_moves(lambda s, n: float(n == GOAL), ends=True)
    assert with_form(sac, "potential", EXACT, 1, ends=True) == ending
    assert with_form(sac, "potential", EXACT + 50, 1, ends=True) != ending  # only where the goal ends the episode


def test_advance_stage_by_hand(sac):
    stage, hits = np.zeros((2, 2), int)
    seen = []
    for excess in ([0.9, 0.9], [0.9, 1.0], [-3, 0.9], [0.9, 0.9], [0.9, 0.9], [0.9, 0.9]):
        stage, hits = sac.advance_stage(np.array(excess, float), stage, hits, num_stages=2)
        seen.append((stage.tolist(), hits.tolist()))
    assert seen == [([0, 0], [1, 1]), ([0, 0], [2, 0]), ([1, 0], [0, 1]), ([1, 0], [1, 2]), ([1, 1], [2, 0]), ([1, 1], [3, 1])]


# ---- The wrapper ----------------------------------------------------------------------------------------------------


def test_scores_the_picture_the_action_led_to_and_zero_at_the_goal(sac):
    env = sac.GoalReward(Dial(100), offset_distance, grey(50), scale=10, sparse_weight=0)
    rewards, infos = follow(env, [80, 50, 40])
    assert rewards == pytest.approx([-0.3, 0, -0.1])
    assert [info["distance"] for info in infos] == pytest.approx([5, 2, 3])  # raw, with its d(g, g) = 2


def test_parts_and_weight(sac):
    env = sac.GoalReward(Dial(100, sparse=1.0), offset_distance, grey(50), scale=10, sparse_weight=0.25)
    rewards, infos = follow(env, [60])
    assert rewards == pytest.approx([-0.1 + 0.25])
    assert infos[0]["reward_distance"] == pytest.approx(-0.1) and infos[0]["reward_sparse"] == 1 and infos[0]["stage"] == 0


def test_two_stages_by_hand(sac):
    """Goals 100 and 200, start 150, threshold 1, T = 10, stage cost 2; d' = |value - goal| / 10."""
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(200)], scale=10, stage_cost=2, goal_in_observation=True)
    picture, info = env.reset()
    assert picture.shape == (4, 6, 6) and env.observation_space.contains(picture)
    assert picture[0, 0].tolist() == [150] * 3 + [100] * 3 and info["stage"] == 0
    steps = [env.step(np.array([value])) for value in (120, 105, 95, 150, 105, 95, 100, 150, 100, 205)]
    expected = [-(2 + 2) / 10, -2.5 / 10, -2.5 / 10, -7 / 10, -2.5 / 10, -2.5 / 10, -2 / 10, -5 / 10, -10 / 10, -0.5 / 10]
    assert [step[1] for step in steps] == pytest.approx(expected)  # the switching step (the 7th) still has goal 1 and its cost
    assert [step[4]["stage"] for step in steps] == [0] * 7 + [1] * 3
    assert [step[0][0, 0, 3] for step in steps] == [100] * 6 + [200] * 4  # the next observation already has goal 2
    assert env.reset()[0][0, 0, 3] == 100


def test_default_stage_cost_and_scale(sac):
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(200)])
    assert env.scorer.scale == pytest.approx(15)  # 3 * 5
    assert env.scorer.cost(np.array([0, 1])).tolist() == pytest.approx([10, 0])  # from goal to goal
    assert follow(env, [150])[0] == pytest.approx([-(5 + 10) / 15])
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(180), grey(200)])
    assert env.scorer.cost(np.array([0, 1, 2])).tolist() == pytest.approx([10, 2, 0])


def test_no_reward_is_lost_where_a_stage_ends(sac):
    """At the first goal the reward is the same before and after the switch; a smaller cost would make the switch a loss."""
    fall = {}
    for cost in (None, 2):
        env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(200)], scale=10, stage_cost=cost)
        rewards, infos = follow(env, [100] * 4)
        assert [info["stage"] for info in infos] == [0, 0, 0, 1]
        fall[cost] = rewards[2] - rewards[3]
    assert fall == {None: pytest.approx(0), 2: pytest.approx(0.8)}


def test_threshold_for_distances_of_any_unit(sac):
    env = sac.GoalReward(Dial(150), lambda f, g: offset_distance(f, g) / 100, [grey(100), grey(200)], threshold=None)
    assert env.scorer.scale == pytest.approx(0.15)  # so that the threshold is 0.015: 1.5 of the grey levels' tenths
    assert [info["stage"] for info in follow(env, [120, 110, 110, 110, 110])[1]] == [0, 0, 0, 0, 1]
    with pytest.raises(sac.UserError, match="threshold=None"):
        sac.GoalReward(Dial(150), lambda f, g: offset_distance(f, g) / 100, [grey(100), grey(200)])


def test_scale_makes_the_start_score_minus_a_third(sac):
    env = sac.GoalReward(sac.make_task("pushing", (16, 16)), sac.pixel_distance, sac.Pushing((16, 16)).goal_images()[0])
    starts = [env.reset(seed=seed)[1]["distance"] for seed in range(8)]
    assert -np.mean(starts) / env.scorer.scale == pytest.approx(-1 / 3)
    assert not np.array_equal(env.reset()[0], env.reset()[0])


def test_history_repeats_the_first_frame(sac):
    env = sac.GoalReward(Dial(1), Motion(), grey(5), scale=1.0, sparse_weight=0)
    for _ in range(2):  # a reset clears it
        rewards, infos = follow(env, [2, 3, 4])
        assert [info["distance"] for info in infos] == [1 + 10 + 200, 1 + 20 + 300, 2 + 30 + 400]


def test_reset_clears_stage_and_hits(sac):
    env = sac.GoalReward(Dial(150), offset_distance, [grey(100), grey(200)], scale=10, stage_cost=2)
    assert [info["stage"] for info in follow(env, [100] * 4)[1]] == [0, 0, 0, 1]
    assert [info["stage"] for info in follow(env, [100] * 2)[1]] == [0, 0]
    assert [info["stage"] for info in follow(env, [100] * 4)[1]] == [0, 0, 0, 1]  # not two hits from before


def test_time_indexed_goals(sac):
    film = np.stack([grey(value) for value in (100, 110, 120)])
    env = sac.GoalReward(Dial(100), offset_distance, film, scale=10, sparse_weight=0, time_indexed=True)
    assert follow(env, [100, 100, 100, 100])[0] == pytest.approx([-0.1, -0.2, -0.2, -0.2])  # the last frame repeats
    assert follow(env, [110, 120, 120])[0] == pytest.approx([0, 0, 0])
    env = sac.GoalReward(Dial(100), offset_distance, film, sparse_weight=0, time_indexed=True)
    assert env.scorer.scale == pytest.approx(3 * 2)  # from 100 to the film's end, not to its first frame, the start itself
    assert follow(env, [100])[0] == pytest.approx([-1 / 6])


@pytest.mark.parametrize("form", FORMS)
def test_equals_a_direct_computation_for_a_random_distance(sac, rng, form):
    values, table, goals = rng.integers(0, 256, 40), rng.uniform(0, 4, (256, 256)), (30, 210)
    distance = lambda frames, goal: table[frames[:, 0, 0, 0], goal[0, 0, 0]]
    env = sac.GoalReward(Dial(77, sparse=0.5), distance, [grey(g) for g in goals], 5.0, 0.7, form, threshold=1.5, hold_steps=2,
                         stage_cost=0.9, gamma=0.8)
    rewards, _ = follow(env, values)
    stage = hits = 0
    before, before_cost = table[77, goals[0]] - table[goals[0], goals[0]], 0.9
    for value, reward in zip(values, rewards):
        x, cost = table[value, goals[stage]] - table[goals[stage], goals[stage]], 0.9 * (1 - stage)
        expected = {"cumulative": -(max(0, x) + cost), "instantaneous": max(0, before) + before_cost - max(0, x) - cost,
                    "printed": -max(0, x + cost - before - before_cost), "potential": before + before_cost - 0.8 * (x + cost)}[form]
        assert reward == pytest.approx(expected / 5 + 0.7 * 0.5, abs=1e-6)
        before, before_cost = x, cost
        hits = hits + 1 if max(0, x) < 1.5 else 0
        if hits == 2 and stage == 0:
            stage, hits = 1, 0
    assert stage == 1


def test_works_with_a_distance_file_object(sac):
    mean_colour = lambda frames: frames.float().mean((1, 2))  # (B, 3)
    distance = common.Distance(mean_colour, {"kind": "embedding", "history": 1, "name": "mean"})
    env = sac.GoalReward(Dial(100), distance, grey(50), scale=100)
    assert follow(env, [80])[0] == pytest.approx([-30 * np.sqrt(3) / 100])


def test_half_precision_changes_little_and_keeps_zero_at_the_goal(sac, monkeypatch):
    """What a GPU does under autocast, on the CPU in bfloat16."""
    entered, real = [], torch.autocast
    monkeypatch.setattr(sac.torch, "autocast", lambda device, enabled: entered.append(enabled) or real("cpu", torch.bfloat16))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 2 * 4, 16)).requires_grad_(False)
    embed = lambda frames: network(frames.permute(0, 3, 1, 2) / 255)
    assert embed(torch.zeros(1, 4, 6, 3, dtype=torch.uint8)).dtype == torch.float32
    env = sac.GoalReward(Dial(200), common.Distance(embed, {"kind": "embedding", "history": 1, "name": "conv"}), grey(50))
    rewards, infos = follow(env, [150, 100, 50])
    exact = [float((embed(torch.from_numpy(grey(v)[None])) - embed(torch.from_numpy(grey(50)[None]))).norm()) for v in (150, 100, 50)]
    assert [info["distance"] for info in infos] == pytest.approx(exact, rel=0.05, abs=1e-6) and rewards[-1] == 0
    assert entered and not any(entered)  # on the CPU it is off


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_score_as_single_ones(sac, rng, mode):
    starts, lengths, goals = (100, 150, 180), (3, 5, 4), [grey(100), grey(200)]
    options = dict(scale=10, stage_cost=2, hold_steps=2, form="instantaneous", goal_in_observation=True)
    makers = [lambda s=s, n=n: Dial(s, n, 0.5) for s, n in zip(starts, lengths)]
    envs = sac.VectorGoalReward(SyncVectorEnv(makers, autoreset_mode=mode), offset_distance, goals, **options)
    singles = [sac.GoalReward(make(), offset_distance, goals, **options) for make in makers]
    pictures, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(pictures)
    assert np.array_equal(pictures, np.stack([env.reset()[0] for env in singles]))
    ended = np.zeros(3, bool)
    for t in range(14):
        actions = rng.choice([95, 100, 105, 150, 200], (3, 1)).astype(np.float32)
        if mode is AutoresetMode.DISABLED and ended.any():
            pictures, _ = envs.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                assert np.array_equal(pictures[i], singles[i].reset()[0])
            ended[:] = False
        pictures, rewards, _, truncated, infos = envs.step(actions)
        for i, env in enumerate(singles):
            if mode is AutoresetMode.NEXT_STEP and ended[i]:
                assert rewards[i] == 0 and np.array_equal(pictures[i], env.reset()[0])
                continue
            picture, reward, _, end, info = env.step(actions[i])
            assert rewards[i] == pytest.approx(reward) and end == truncated[i]
            assert infos["stage"][i] == info["stage"] and infos["distance"][i] == pytest.approx(info["distance"])
            if mode is AutoresetMode.SAME_STEP and end:
                assert np.array_equal(infos["final_obs"][i], picture)
                picture, _ = env.reset()
            assert np.array_equal(pictures[i], picture)
        ended = truncated.copy()
    assert t == 13


def test_one_batch_per_step_for_all_environments(sac):
    sizes = []

    def counting(frames, goal):
        sizes.append(len(frames))
        return offset_distance(frames, goal)

    envs = sac.VectorGoalReward(SyncVectorEnv([Dial] * 5), counting, grey(50), scale=10)
    envs.reset()
    sizes.clear()
    envs.step(np.full((5, 1), 70, np.float32))
    assert sizes == [5]


class Floats(Dial):
    """A picture in [0, 1]."""

    observation_space = gym.spaces.Box(0, 1, (4, 6, 3), np.float32)


class Flat(Dial):
    """No picture."""

    observation_space = gym.spaces.Box(0, 255, (72,), np.uint8)


@pytest.mark.parametrize("attempt, says", [
    (lambda sac: sac.GoalReward(Floats(), offset_distance, grey(5)), "uint8 pictures"),
    (lambda sac: sac.GoalReward(Flat(), offset_distance, grey(5)), "uint8 pictures"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, grey(5) / 255), "float64"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, grey(1)), "from 0 to 255"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, grey(5, (6, 4, 3))), r"\(6, 4, 3\).*\(4, 6, 3\)"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, [grey(5), grey(9, (4, 6))]), r"\(4, 6\)"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, []), "no goal"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, grey(5), form="best"), "best"),
    (lambda sac: sac.GoalReward(Dial(), offset_distance, grey(5), scale=0), "positive"),
    (lambda sac: sac.GoalReward(Dial(100), offset_distance, grey(100)), "give scale"),
    (lambda sac: sac.GoalReward(Dial(), lambda frames, goal: 3.0, grey(5)), "one finite number"),
    (lambda sac: sac.GoalReward(Dial(), lambda frames, goal: np.full(len(frames), np.nan), grey(5)), "one finite number")])
def test_errors_are_one_clear_line(sac, attempt, says):
    with pytest.raises(sac.UserError, match=says) as caught:
        attempt(sac)
    assert "\n" not in str(caught.value)


def test_make_env_multiplies_the_scale_once(sac, distance_files):
    config = dict(task="close_drawer", distance=distance_files[0], height=16)
    (plain, _), (env, distance) = (sac.make_env(sac.Config(**config, scale_factor=factor)) for factor in (1, 0.1))
    twin, _ = sac.make_env(sac.Config(**config, scale_factor=0.1), twin=env)
    assert env.scorer.scale == pytest.approx(0.1 * plain.scorer.scale) and twin.scorer.scale == env.scorer.scale
    assert twin.scorer.distance is distance
    for each in (plain, env, twin):
        each.close()


def test_make_env_knows_both_costs_of_a_stage(sac, distance_files):
    config = dict(task="drawer_open", distance=distance_files[0], height=16)
    (ours, _), (authors, _) = (sac.make_env(sac.Config(**config, stage_cost=cost)) for cost in (0, 0.2))
    scorer = ours.scorer
    expected = max(0, float(scorer.distance(scorer.goals[:1], scorer.goals[1])[0]) - scorer.baseline[1])
    assert scorer.cost(np.array([0, 1])).tolist() == pytest.approx([expected, 0]) and expected > 0
    assert authors.scorer.cost(np.array([0, 1])).tolist() == pytest.approx([authors.scorer.scale / 5, 0])
    for each in (ours, authors):
        each.close()


def test_benchmark_prints_the_parts_of_a_step_and_the_speed(sac, distance_files, tmp_path, capsys):
    config = sac.Config(distance=distance_files[0], height=16, batch=4, out=str(tmp_path / "none"))
    parts, speeds = sac.benchmark_training(config, repeats=1)
    assert set(parts) == {"picture", "distance", "act", "update"} and min(parts.values()) > 0
    others = {"stable-baselines3", "with a shared encoder"} if importlib.util.find_spec("stable_baselines3") else set()
    assert set(speeds) == {"ours"} | others and 0 < speeds["ours"] < 1000 / parts["picture"]
    said = capsys.readouterr().out
    assert f"update {parts['update']:.2f} ms" in said and f"ours {speeds['ours']:.1f} steps/s" in said
    assert not (tmp_path / "none").exists()


def test_stable_baselines_gets_the_same_network(sac):
    """The optional comparison: as many weights in encoder, policy and critics as ours."""
    pytest.importorskip("stable_baselines3")
    size = lambda *modules: sum(weight.numel() for module in modules for weight in module.parameters())
    env = sac.make_task("close_drawer", (16, 24))
    ours, theirs = sac.Run(sac.Config(), env).agent, sac.make_sb3(sac.Config(), env, shared=True).policy
    assert size(theirs.actor.features_extractor) == size(ours.encoders)
    assert size(theirs.actor.latent_pi, theirs.actor.mu, theirs.actor.log_std) == size(ours.actor)
    assert size(*theirs.critic.q_networks) == size(ours.critics)
    env.close()


# ---- Copied with common.py ------------------------------------------------------------------------------------------

ROBOT = """
import gymnasium as gym
import numpy as np

class MyRobot(gym.Env):
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(0, 4, 2), 0
        return self.picture(), {}

    def step(self, action):
        self.place, self.time = np.clip(self.place + action, 0, 15), self.time + 1
        return self.picture(), float(self.place.sum() > 25), False, self.time == 20, {}

    def picture(self):
        image = np.zeros((16, 16, 3), np.uint8)
        image[tuple(self.place.astype(int))] = 255
        return image

goal = np.zeros((16, 16, 3), np.uint8)
goal[15, 15] = 255
picture = goal
"""
PROVE = """
import torch
from sac import Agent

for run in (*seen, *plain):
    torch.manual_seed(run.config.seed)
    fresh = Agent((16, 16, 3), 2, config.encoder, config.temperature).state_dict()
    assert all(not torch.equal(fresh[name], weight) for name, weight in run.agent.state_dict().items())
    assert run.step == config.steps and np.isfinite(list(run.rows[-1].values())).all()
assert seen[0].rows[-1]["distance"] > 0 == plain[0].rows[-1]["distance"] and action.shape == (2,)
print("proven", [run.config.seed for run in plain])
"""


def test_two_files_are_enough_for_an_environment_of_ones_own(tmp_path, distance_files):
    """The example of 05's text, word for word, with a robot of the test's."""
    text = (ROOT / "05_sac.py").read_text()
    example = re.search(r"\n    from sac import .*?(?=\n\"\"\")", text, re.S)[0]
    for name, content in (("sac.py", text), ("common.py", (ROOT / "common.py").read_text()),
                          ("my_robot.py", ROBOT + textwrap.dedent(example) + PROVE)):
        (tmp_path / name).write_text(content)
    Path(distance_files[0]).rename(tmp_path / "distance.pt2")
    finished = run("my_robot.py", "--steps", "100", cwd=tmp_path, SMOKE_TEST="1")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.splitlines()[-1] == "proven [0, 1]"
    assert common.read_csv(tmp_path / "runs/plain/curve.csv")["seed"].tolist() == [0, 1]


# ---- Look before you train ------------------------------------------------------------------------------------------


def test_pixel_distance_sees_the_centre_square(sac, rng):
    frames, goal = rng.integers(0, 256, (3, 4, 8, 3), np.uint8), rng.integers(0, 256, (4, 8, 3), np.uint8)
    direct = [np.sqrt(sum((int(a) - int(b)) ** 2 for a, b in zip(f[:, 2:6].ravel(), goal[:, 2:6].ravel()))) / 255 for f in frames]
    assert sac.pixel_distance(frames, goal) == pytest.approx(direct)


def test_distance_along_a_film_equals_the_wrapper(sac):
    values = [100, 120, 160, 200]
    frames, stages = np.stack([grey(v) for v in values]), np.array([0, 0, 1, 1])
    assert sac.distance_along(offset_distance, frames, [grey(100), grey(200)], stages) == pytest.approx([0, 2, 4, 0])
    along = sac.distance_along(Motion(), frames, [grey(0)], np.zeros(4, int))
    assert along == pytest.approx([111 * 100, 11 * 100 + 100 * 120, 100 + 1200 + 16000, 120 + 1600 + 20000])


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_scores_by_hand(sac):
    """Goals 100 and 200; x = |value - goal| / 10. Success passes both, random play stays at 180, the failed try at 105."""
    film = lambda *values: np.stack([grey(v) for v in values])
    tries = {"success": (film(150, 120, 110, 190, 195, 185, 200), None, np.array([0, 0, 0, 1, 1, 1, 1])),
             "failed": (film(150, 100, 105, 110), None, None), "random": (film(170, 190), None, None)}
    pictures = np.stack([film(150, 110, 140), film(150, 200, 160)])  # start, hand alone, object alone, of each stage
    scores = sac.score_tries(offset_distance, tries, [grey(100), grey(200)], pictures)
    expected = [{"stage": 1, "spearman": 1, "contrast": 1 - (5 + 2 + 1) / 3 / 8, "failed": 1 - 0.5 / 8, "hand_alone": 0.8, "object_alone": 0.2},
                # stage 2: distances 10, 5, 15, 0 at times 0..3: closeness ranks 2, 3, 1, 4; rho = 1 - 6 * (1 + 1 + 4 + 0) / (4 * 15)
                {"stage": 2, "spearman": 0.4, "contrast": 1 - 2 / 3 / 2, "failed": 1 - 9.5 / 2, "hand_alone": 1, "object_alone": 0.2}]
    assert [pytest.approx(row) for row in expected] == scores
    still = (np.stack([grey(100)] * 4), None, np.zeros(4, int))  # all at the goal: nothing to compare with
    scores = sac.score_tries(offset_distance, dict.fromkeys(tries, still), [grey(100)], np.stack([film(100, 100, 100)]))
    assert all(np.isnan(scores[0][column]) for column in ("contrast", "failed", "hand_alone", "object_alone"))


@pytest.fixture(scope="module")
def pushing_tries(sac):
    """The four tries of Pushing, small."""
    return sac.recordings("pushing", (24, 24))


def test_recordings_are_what_they_say(pushing_tries):
    tries, goals = pushing_tries
    assert len(goals) == 1 and list(tries) == ["success", "reverse", "failed", "random"]
    frames, success, stages = tries["success"]
    assert success[-3:].all() and not success[0] and not tries["failed"][1].any() and not tries["random"][1].any()
    assert np.array_equal(tries["reverse"][0], frames[::-1]) and len({len(part[0]) for part in tries.values()}) == 1


def test_sanity_table(sac, pushing_tries, capsys):
    tries, goals = pushing_tries
    along = sac.along_tries(sac.pixel_distance, tries, goals)
    assert list(along) == list(tries) and along["reverse"] == pytest.approx(along["success"][::-1])
    rows = dict((where, (x, reward)) for where, x, reward in sac.sanity_table("pushing", tries, along))
    assert rows["start"][1] == pytest.approx(-1 / 3) and rows["goal"] == (0, 0)
    assert "T = " in capsys.readouterr().out
    rows = dict((where, (x, reward)) for where, x, reward in sac.sanity_table("pushing", tries, along, scale=2.0))
    assert rows["start"] == pytest.approx((along["success"][0], -along["success"][0] / 2))
    assert rows["failed try, at its best"][0] == along["failed"].min()


def test_look_scores_several_files_and_draws(sac, pushing_tries, distance_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sac, "recordings", lambda *_: pushing_tries)
    rows = sac.look(sac.Config(tasks=("pushing",), distances=tuple(distance_files), height=24))
    columns = common.read_csv("runs/look/scores.csv")
    assert list(columns) == ["distance", "name", "task", "stage", "spearman", "contrast", "failed", "hand_alone", "object_alone"]
    assert columns["distance"].tolist() == ["pixels", *distance_files] and columns["name"].tolist() == ["pixels", "random", "random"]
    assert columns["contrast"] == pytest.approx([row["contrast"] for row in rows]) and len(set(columns["contrast"])) == 3
    film, _ = common.read_clip("runs/look/pushing.mp4")
    plain, _ = common.read_clip("runs/look/pushing-success.mp4")
    assert len(plain) == len(film) and plain.shape[1:] == (24, 24, 3)
    assert len(film) == len(pushing_tries[0]["success"][0]) and film.std() > 10
    assert film[-1].min(-1)[:, film.shape[2] // 2 :].min() < film[0].min(-1)[:, film.shape[2] // 2 :].min() + 1  # the curve grew
    assert Path("runs/look/pushing.png").stat().st_size > 10_000 and "pixels" in capsys.readouterr().out


def test_look_without_figures_and_with_wrong_names(sac, pushing_tries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sac, "recordings", lambda *_: pushing_tries)
    quick = dict(tasks=("pushing",), figures=False, height=24, out="here")
    assert [row["distance"] for row in sac.look(sac.Config(**quick))] == ["pixels"]
    assert [path.name for path in Path("here").iterdir()] == ["scores.csv"]
    with pytest.raises(sac.UserError, match="nowhere.pt2"):
        sac.look(sac.Config(**quick, distances=("nowhere.pt2",)))
    with pytest.raises(sac.UserError, match="open_fridge"):
        sac.look(sac.Config(tasks=("open_fridge",)))
