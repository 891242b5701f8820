"""05_sac.py, SAC: each piece against an independent reference, and runs that are stopped, or killed."""

import copy
import inspect
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

import common
from conftest import ROOT, stopped_after


def squashed(mean, std):
    return Independent(TransformedDistribution(Normal(mean, std), TanhTransform(cache_size=1)), 1)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0)])
def test_log_probability_against_numerical_integration(sac, mean, std):
    edges = np.tanh(np.linspace(-8, 8, 20001))
    probability = np.diff(norm.cdf((np.arctanh(edges) - mean) / std))  # of each bin, by the normal CDF alone
    middle = (edges[1:] + edges[:-1]) / 2
    noise = torch.from_numpy((np.arctanh(middle) - mean) / std)[:, None]
    full = lambda value: torch.full_like(noise, value)
    action, log_prob = sac.squashed_gaussian(full(mean), full(math.log(std)), noise)
    np.testing.assert_allclose(action[:, 0], middle, atol=1e-9)
    density, seen = log_prob.exp().numpy(), probability > 1e-6
    np.testing.assert_allclose(density[seen], (probability / np.diff(edges))[seen], rtol=2e-3)
    assert (density * np.diff(edges)).sum() == pytest.approx(probability.sum(), abs=1e-5)


def test_log_probability_adds_over_dimensions_and_survives_saturation(sac):
    torch.manual_seed(0)
    mean, log_std, noise = 0.5 * torch.randn(3, 5, 4, dtype=torch.float64)
    action, log_prob = sac.squashed_gaussian(mean, log_std, noise)
    np.testing.assert_allclose(log_prob, squashed(mean, log_std.exp()).log_prob(action), rtol=1e-6)
    far = torch.full((1, 1), 50.0, requires_grad=True)
    (log_prob := sac.squashed_gaussian(far, torch.zeros(1, 1), torch.zeros(1, 1))[1]).sum().backward()
    assert torch.isfinite(log_prob).all() and torch.isfinite(far.grad).all()


@pytest.mark.parametrize("encoder", ["strided", "paper"])
def test_losses_and_gradients_equal_a_plain_rederivation(sac, encoder, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # of the bytes of a picture
    torch.manual_seed(1)
    agent = sac.Agent((16, 20, 3), 3, encoder, temperature=0.3).double()
    target = copy.deepcopy(agent)
    for p in target.parameters():
        p.data += 0.05 * torch.randn_like(p)
    s, s2 = torch.randint(0, 256, (2, 6, 16, 20, 3), dtype=torch.uint8)
    a, r, terminal = torch.rand(6, 3).double() * 2 - 1, *torch.randn(2, 6).double()
    terminal, noise = (terminal > 0).double(), torch.randn(2, 6, 3, dtype=torch.float64)
    losses = sac.sac_losses(agent, target, (s, a, r, terminal, s2), noise, gamma=0.9)
    sum(losses[:3]).backward()
    mine = {name: p.grad for name, p in agent.named_parameters()}

    def encode(net, x, k):
        return net.encoders[k if encoder == "paper" else 0](x.permute(0, 3, 1, 2).double() / 255 - 0.5)

    def policy(x, noise):
        z = encode(agent, x, 2)
        mean, log_std = agent.actor(z if encoder == "paper" else z.detach()).chunk(2, -1)
        action = torch.tanh(mean + log_std.exp() * noise)
        return action, squashed(mean, log_std.exp()).log_prob(action)

    alpha = agent.log_alpha.exp().item()
    q = lambda net, z, k, action: net.critics[k](torch.cat([z, action], 1))[:, 0]
    with torch.no_grad():
        a2, log_prob = policy(s2, noise[0])
        q2 = [q(target, encode(target, s2, k), k, a2) for k in (0, 1)]
        y = r + 0.9 * (1 - terminal) * (torch.minimum(*q2) - alpha * log_prob)
    q_loss = sum(0.5 * torch.mean((q(agent, encode(agent, s, k), k, a) - y) ** 2) for k in (0, 1))
    new, log_prob = policy(s, noise[1])
    q_new = [q(agent, encode(agent, s, k).detach(), k, new) for k in (0, 1)]
    pi_loss = (alpha * log_prob - torch.minimum(*q_new)).mean()
    alpha_loss = -(agent.log_alpha * (log_prob.detach() - 3)).mean()
    critic = dict(agent.named_parameters())
    own = ("actor.", "encoders.2.") if encoder == "paper" else "actor."
    actor = {name: critic.pop(name) for name in mine if name.startswith(own)}
    alpha_part = {"log_alpha": critic.pop("log_alpha")}
    for loss, part in ((q_loss, critic), (pi_loss, actor), (alpha_loss, alpha_part)):
        for name, gradient in zip(part, torch.autograd.grad(loss, list(part.values()), retain_graph=True)):
            torch.testing.assert_close(mine[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
    torch.testing.assert_close(torch.stack(losses[:3]), torch.stack([q_loss, pi_loss, alpha_loss]))
    assert all(g is not None for g in mine.values()) and all(p.requires_grad for p in agent.parameters())


def test_the_paper_preset_is_table_iii_and_the_released_code(sac):
    paper = sac.Config.paper()
    assert (paper.gamma, paper.batch, paper.lr, paper.tau) == (0.99, 256, 3e-4, 0.005)
    assert (paper.random_steps, paper.temperature, paper.encoder) == (1000, 1, "paper")
    assert (paper.random_hold, paper.success_share, paper.threshold, paper.stage_cost) == (1, 0, 1, 2)
    assert not (paper.bootstrap_truncation or paper.shift_per_image or paper.height or paper.random_start)
    steps = {task: sac.fill_in(replace(paper, task=task)).steps for task in ("pushing", "close_drawer")}
    assert steps == {"pushing": 400_000, "close_drawer": 35_000}


def test_replay_never_crosses_an_episode_even_when_it_grows(sac, rng):
    memory, kept = sac.Replay(3, (1, 1, 3), 1), {}
    for episode in range(30):
        for t in range(int(rng.integers(2, 9))):
            n = len(kept)
            memory.add(np.array([[[episode, t, 0]]]), [n] if t else None, n, n % 2)
            kept |= {(episode, t - 1): n} if t else {}
        images, actions, rewards, terminal, following = memory.sample(200, rng)
        assert np.array_equal(following[:, 0, 0], images[:, 0, 0] + [0, 1, 0])
        assert rewards.tolist() == [kept[e, t] for e, t, _ in images[:, 0, 0].tolist()]
        assert np.array_equal(actions[:, 0], rewards) and np.array_equal(terminal, rewards % 2)
    assert set(memory.sample(5000, rng)[2].tolist()) == set(kept.values())


def test_a_share_of_each_batch_is_from_episodes_that_succeeded(sac, tmp_path, rng, monkeypatch):
    run = sac.train(settings(sac, tmp_path, random_steps=96), Dot())  # random play alone: some succeed
    found, memory = run.replay.good[: run.replay.filled].reshape(8, 13), run.replay  # episodes of 13 pictures
    rewards = memory.rewards[: memory.filled].reshape(8, 13)[:, :12]
    succeeded = rewards.any(1)
    assert 0 < succeeded.mean() == run.rows[-1]["train_success"] < 1 and (found == succeeded[:, None]).all()
    assert run.rows[-1]["train_return"] == pytest.approx(rewards.sum() / 8)
    memory.frames[: memory.filled, 0, 0, 0] = memory.good[: memory.filled]
    for share in (0, 0.25, 1):
        drawn = np.mean([memory.sample(40, rng, share)[0][:, 0, 0, 0].mean() for _ in range(200)])
        assert drawn == pytest.approx(share + (1 - share) * succeeded.mean(), abs=0.03)
    drawn, shifted = [], []
    memory.sample = lambda *words: drawn.append(words[::2]) or sac.Replay.sample(memory, *words)
    monkeypatch.setattr(sac, "random_shift", lambda x, _, per_image: shifted.append(per_image) or x)
    sac.update(run)
    assert drawn == [(8, 0.25)] and shifted == [True, True]
    blind = sac.train(settings(sac, tmp_path / "blind", random_steps=96, sparse_weight=0.0), Dot()).replay
    assert not blind.good[: blind.filled].any() and len(blind.sample(40, rng, 1.0)[0]) == 40  # drawn evenly


def test_random_actions_are_held_and_begin_training_episodes(sac, tmp_path):
    run = sac.train(settings(sac, tmp_path, random_steps=24, random_start=8, random_hold=4), Dot())
    actions = run.replay.actions[: run.replay.filled].reshape(8, 13, 2)[:, :12]
    held = (np.diff(actions, axis=1) == 0).all(-1)  # (8, 11)
    assert held[:2].all(0).nonzero()[0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    lengths = [int(np.argmin([*row, False])) for row in held[2:]]  # of the first action
    assert set(lengths) <= {0, 1, 2, 3} and held[2:, 8:].sum() == 0 < max(lengths)


@pytest.mark.parametrize("per_image", [True, False])
def test_random_shift_moves_whole_pictures(sac, rng, per_image):
    images = rng.integers(1, 256, (200, 12, 10, 6), np.uint8)
    places = []
    for picture, shifted in zip(images, sac.random_shift(images, rng, pad=4, per_image=per_image)):
        padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (12, 10, 6))
        places += map(tuple, np.argwhere((windows == shifted).all((2, 3, 4, 5))))
    assert len(places) == 200 and (len(set(places)) > 60 if per_image else len(set(places)) == 1)


class Dot(gym.Env):
    """A bright dot that actions move; success where it reaches the right edge. Ends after 12 steps."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, terminates=False, fixed=False):
        self.terminates, self.fixed, self.seeds = terminates, fixed, []

    def _see(self):
        seen = np.zeros((16, 16, 3), np.uint8)
        seen[tuple(self.at.astype(int))] = 255
        return seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.at, self.time = np.array([5 if self.fixed else self.np_random.uniform(3, 12), 2.0]), 0
        return self._see(), {}

    def step(self, action):
        self.at, self.time = np.clip(self.at + 2 * np.asarray(action), 0, 15), self.time + 1
        success, over = bool(self.at[1] > 13), self.time == 12
        ends = over and bool(self.terminates), over and not self.terminates
        return self._see(), float(success), *ends, {"success": success}


def settings(sac, folder, **changes):
    small = dict(out=str(folder), device="cpu", steps=96, random_steps=24, eval_every=48)
    return replace(sac.Config.smoke(), **{**small, **changes})


def assert_same(folder, other):
    weights, others = (torch.load(path / "checkpoint.pt") for path in (folder, other))
    for part in ("agent", "target"):
        assert all(torch.equal(weight, others[part][name]) for name, weight in weights[part].items())
    one, two = (common.read_csv(path / "curve.csv") for path in (folder, other))
    for name in set(one) - {"minutes", "steps_per_second"}:
        np.testing.assert_array_equal(one[name], two[name], name)


def test_training_moves_all_weights_and_missing_numbers_are_nan(sac, tmp_path):
    config = settings(sac, tmp_path, eval_every=24, tau=0.25)
    fresh = copy.deepcopy(sac.Run(config, Dot()).agent.state_dict())
    run = sac.train(config, Dot())
    assert all(not torch.equal(fresh[name], weight) for name, weight in run.agent.state_dict().items())
    curve = common.read_csv(tmp_path / "curve.csv")
    assert curve["step"].tolist() == [24, 48, 72, 96] and set(curve["seed"]) == {0}
    assert np.isnan(curve["distance"]).all() and np.isnan(curve["T"]).all()
    for name in sac.LOSSES:
        assert np.isnan(curve[name][0]) and np.isfinite(curve[name][1:]).all()  # 24 steps are random
    assert {"curve.png", "policy.png"} <= {path.name for path in tmp_path.iterdir()}
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["T"] is None and told["batch"] == 8 and told["device"] == "cpu" and told["threads"] == 1
    before = [weight.clone() for weight in run.target.parameters()]
    assert sac.update(run)[-1] == pytest.approx(run.agent.log_alpha.exp().item())
    for old, slow, fast in zip(before, run.target.parameters(), run.agent.parameters()):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast.detach())


@pytest.mark.parametrize("terminates, bootstrap, last", [(0, True, 0), (1, True, 1), (0, False, 1)])
def test_truncation_of_vectors_bootstraps_termination_not(sac, tmp_path, terminates, bootstrap, last):
    box = gym.spaces.Box(0, 1, (768,), np.float32)  # a vector, and no picture
    env = gym.wrappers.TransformObservation(Dot(terminates), lambda x: np.float32(x.ravel() / 255), box)
    run = sac.train(settings(sac, tmp_path, bootstrap_truncation=bootstrap, steps=12, random_steps=6), env)
    assert run.replay.terminal[:12].tolist() == [0] * 11 + [last]


def test_evaluation_never_meets_training(sac, tmp_path):
    evaluation = {sac.start_seed(i) for i in range(20)}
    training = {sac.start_seed(episode, seed) for seed in range(5) for episode in range(10_000)}
    assert len(evaluation) == 20 and len(training) > 49_990 and not training & evaluation
    env = Dot()
    sac.train(settings(sac, tmp_path, steps=48, seed=1), env)
    assert env.seeds[:4] == [sac.start_seed(episode, 1) for episode in range(4)]
    assert set(env.seeds[4:]) == {sac.start_seed(i) for i in range(5)}  # one is played, after a look at five
    for fixed, plays in ((True, 1), (False, 7)):
        env = Dot(fixed=fixed)
        scores, (frames, actions, infos) = sac.evaluate(SimpleNamespace(act=lambda _: [0, 1]), env, 7)
        assert len(env.seeds) == 5 + plays and math.isnan(scores.pop("distance"))
        assert scores == {"return": 7, "success": 1, "success_last": 1}  # from 2 to over 13, by 2 a step
        assert len(frames) == len(actions) + 1 == len(infos) == 13


def test_a_stopped_run_goes_on_as_if_it_had_not_been(sac, tmp_path):
    def train(name, shade=1.0, **changes):
        distance = lambda frames, goal: shade * np.abs(frames.astype(float) - goal).mean((1, 2, 3))
        env = sac.GoalReward(Dot(), distance, np.full((16, 16, 3), 99, np.uint8))
        return sac.train(settings(sac, tmp_path / name, **changes), env, save_seconds=0)

    T, curve = train("whole").T, common.read_csv(tmp_path / "whole/curve.csv")
    assert json.loads((tmp_path / "whole/run.json").read_text())["T"] == T > 0
    assert (curve["T"] == T).all() and (curve["distance"] > 0).all()
    with stopped_after(sac, "update", 50), pytest.raises(KeyboardInterrupt):  # within the seventh episode
        train("halves")
    assert torch.load(tmp_path / "halves/checkpoint.pt")["step"] in range(12, 73, 12)
    for changes, words in ((dict(gamma=0.5), "another gamma"), (dict(shade=2.0), "another distance")):
        with pytest.raises(common.UserError, match=words):
            train("halves", **changes)
    train("halves")
    train("longer", steps=48)
    train("longer")
    for name in ("halves", "longer"):
        assert_same(tmp_path / "whole", tmp_path / name)
    assert train("halves").step == train("halves", gamma=0.5, resume=False).step == 96


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(sac, tmp_path, monkeypatch):
    real, calls = sac.sac_losses, []

    def broken(*arguments):
        critic, *others = calls.append(arguments[-1]) or real(*arguments)
        return critic * (math.inf if len(calls) == 15 else 1), *others

    monkeypatch.setattr(sac, "sac_losses", broken)
    with pytest.raises(common.UserError, match="step 38: .'critic_loss': inf"):
        sac.train(settings(sac, tmp_path, gamma=0.7), Dot(), save_seconds=0)
    kept = torch.load(tmp_path / "checkpoint.pt")
    assert kept["step"] <= 36 and all(weight.isfinite().all() for weight in kept["agent"].values())
    assert set(calls) == {0.7}


def test_make_env_reads_its_flags_and_bad_input_gets_one_line(sac, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make = lambda **flags: sac.make_env(replace(sac.Config("drawer_open", "pixels", height=24), **flags))
    both, last = make(form="printed", threshold=2.0, stage_cost=3.0, gamma=0.5), make(single_goal=True)
    assert (both.form, both.threshold, both.costs[0], both.gamma) == ("printed", 2, 3, 0.5)
    (oracle := make(distance="oracle")).reset(seed=0)
    _, paid, *_, info = oracle.step(np.zeros(4))
    assert paid == info["oracle_reward"] < 0 == info["reward_sparse"]
    assert both.observation_space.shape == (24, 24, 6) and last.observation_space.shape == (24, 24, 3)
    assert len(both.goals) == 2 and np.array_equal(last.goals[0], both.goals[1])
    common.write_video("goals.mp4", np.repeat(both.goals, 4, 0), fps=5)
    video = make(goals="goals.mp4", scale=7.0, scale_factor=0.5, sparse_weight=0.0)
    assert len(video.goals) == 8 and video.time_indexed and video.scale == 3.5 and video.sparse_weight == 0
    for flags, words in ((dict(distance="none", sparse_weight=0.0), "knows no"),
                         (dict(distance="oracle", goals="x.mp4"), "knows no"),
                         (dict(distance="runs/x/distance.pt2"), "is missing")):
        with pytest.raises(common.UserError, match=words):
            make(**flags)
    strange = gym.wrappers.TransformObservation(Dot(), lambda x: x, gym.spaces.Discrete(3))
    for env, share, words in ((strange, 0.2, "observations are"), (Dot(), 25, "25 is not a share"),
                              (gym.wrappers.RescaleAction(Dot(), -2, 2), 0.2, "Rescale")):
        with pytest.raises(common.UserError, match=words):
            sac.train(settings(sac, tmp_path, success_share=share), env)


OWN = """import sys
sys.modules.update(dict.fromkeys(("mujoco", "metaworld", "OpenGL")))  # importing these fails
import gymnasium as gym
import numpy as np
import sac

{environment}
config = sac.parse_config(sac.Config, random_steps=12, batch=4, eval_every=48, eval_episodes=1)
env = sac.GoalReward(Dot(), lambda frames, goal: np.ones(len(frames)), np.full((16, 16, 3), 9, np.uint8), 1.0)
sac.train(config, env, save_seconds=0)
"""


def test_ones_own_environment_needs_two_files_is_locked_and_survives_a_kill(sac, tmp_path):
    for name, source in (("sac.py", "05_sac.py"), ("common.py", "common.py")):
        (tmp_path / name).write_bytes((ROOT / source).read_bytes())
    (tmp_path / "own.py").write_text(OWN.format(environment=inspect.getsource(Dot)))
    command = [sys.executable, "own.py", "--out"]
    start = lambda out, steps: subprocess.Popen([*command, out, "--steps", str(steps)], cwd=tmp_path)
    process = start("out", 9600)
    while not (tmp_path / "out/checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.05)
    with pytest.raises(common.UserError, match="in use by another process"):
        sac.train(settings(sac, tmp_path / "out"), Dot())
    process.kill()
    assert process.wait() == -signal.SIGKILL
    steps = (torch.load(tmp_path / "out/checkpoint.pt")["step"] // 48 + 1) * 48
    assert [one.wait() for one in (start("out", steps), start("whole", steps))] == [0, 0]
    assert_same(tmp_path / "whole", tmp_path / "out")
