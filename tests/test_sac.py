"""05_sac.py, second half: each piece of SAC against an independent reference, and a run that stops and goes on."""

import copy
import math
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

import common


# ---- The squashed Gaussian ----


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.7, 0.3), (-1.5, 2.0)])
def test_log_probability_against_numerical_integration(sac, mean, std):
    edges = np.tanh(np.linspace(-8, 8, 20001))
    probability = np.diff(norm.cdf((np.arctanh(edges) - mean) / std))  # of each bin of actions, from the normal CDF alone
    middle = (edges[1:] + edges[:-1]) / 2
    u = np.arctanh(middle)
    noise = torch.from_numpy((u - mean) / std)[:, None]
    full = lambda value: torch.full_like(noise, value)
    action, log_prob = sac.squashed_gaussian(full(mean), full(math.log(std)), noise)
    np.testing.assert_allclose(action[:, 0], middle, atol=1e-9)
    density = log_prob.exp().numpy()
    seen = probability > 1e-6
    np.testing.assert_allclose(density[seen], (probability / np.diff(edges))[seen], rtol=2e-3)
    assert (density * np.diff(edges)).sum() == pytest.approx(probability.sum(), abs=1e-5)


def test_log_probability_adds_over_dimensions_and_survives_saturation(sac):
    torch.manual_seed(0)
    mean, log_std, noise = 0.5 * torch.randn(3, 5, 4, dtype=torch.float64)
    action, log_prob = sac.squashed_gaussian(mean, log_std, noise)
    reference = Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1)), 1)
    np.testing.assert_allclose(log_prob, reference.log_prob(action), rtol=1e-6)
    far = torch.full((1, 1), 50.0, requires_grad=True)
    _, log_prob = sac.squashed_gaussian(far, torch.zeros(1, 1), torch.zeros(1, 1))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all() and torch.isfinite(far.grad).all()


# ---- One update ----


def batch_of(sac, size=6, shape=(16, 20, 3), actions=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = lambda: torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=g)
    return (images(), torch.rand(size, actions, generator=g).double() * 2 - 1, torch.randn(size, generator=g).double(),
            (torch.rand(size, generator=g) < 0.5).double(), images())


@pytest.mark.parametrize("encoder", ["strided", "paper"])
def test_losses_and_gradients_equal_a_plain_rederivation(sac, encoder, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # the agent turns bytes into floats; here into doubles
    torch.manual_seed(1)
    agent = sac.Agent((16, 20, 3), 3, encoder, temperature=0.3).double()
    target = copy.deepcopy(agent)
    for p in target.parameters():
        p.data += 0.05 * torch.randn_like(p)
    s, a, r, terminal, s2 = batch = batch_of(sac)
    noise = torch.randn(2, 6, 3, dtype=torch.float64)
    sum(sac.sac_losses(agent, target, batch, noise, gamma=0.9)[:3]).backward()
    mine = {name: p.grad for name, p in agent.named_parameters()}

    def encode(net, x, k):
        return net.encoders[k if encoder == "paper" else 0](x.permute(0, 3, 1, 2).double() / 255 - 0.5)

    def dist(x):
        z = encode(agent, x, 2)
        mean, log_std = agent.actor(z if encoder == "paper" else z.detach()).chunk(2, -1)
        return mean, log_std.exp(), Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1)), 1)

    alpha = agent.log_alpha.exp().item()
    with torch.no_grad():
        mean, std, pi = dist(s2)
        a2 = torch.tanh(mean + std * noise[0])
        q2 = [target.critics[k](torch.cat([encode(target, s2, k), a2], 1))[:, 0] for k in (0, 1)]
        y = r + 0.9 * (1 - terminal) * (torch.minimum(*q2) - alpha * pi.log_prob(a2))
    q_loss = sum(0.5 * torch.mean((agent.critics[k](torch.cat([encode(agent, s, k), a], 1))[:, 0] - y) ** 2) for k in (0, 1))
    mean, std, pi = dist(s)
    new = torch.tanh(mean + std * noise[1])
    log_prob = pi.log_prob(new)
    q_new = [agent.critics[k](torch.cat([encode(agent, s, k).detach(), new], 1))[:, 0] for k in (0, 1)]
    pi_loss = (alpha * log_prob - torch.minimum(*q_new)).mean()
    alpha_loss = -(agent.log_alpha * (log_prob.detach() - 3)).mean()
    critic = [*agent.critics.named_parameters("critics"), *agent.encoders.named_parameters("encoders")]
    actor = [*agent.actor.named_parameters("actor"), *(agent.encoders[2].named_parameters("encoders.2") if encoder == "paper" else [])]
    actor_names = {name for name, _ in actor}
    for loss, named in ((q_loss, [(n, p) for n, p in critic if n not in actor_names]), (pi_loss, actor),
                        (alpha_loss, [("log_alpha", agent.log_alpha)])):
        for (name, _), gradient in zip(named, torch.autograd.grad(loss, [p for _, p in named], retain_graph=True)):
            torch.testing.assert_close(mine[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
    mine_losses = sac.sac_losses(agent, target, batch, noise, gamma=0.9)
    torch.testing.assert_close(torch.stack(mine_losses[:3]), torch.stack([q_loss, pi_loss, alpha_loss]))
    assert all(g is not None for g in mine.values()) and all(p.requires_grad for p in agent.parameters())


def test_target_moves_by_tau(sac):
    fast, slow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    start = slow.weight.detach().clone()
    for _ in range(3):
        sac.polyak(fast, slow, 0.1)
    torch.testing.assert_close(slow.weight, fast.weight + 0.9**3 * (start - fast.weight))


# ---- Memory ----


def test_replay_never_crosses_an_episode_even_when_it_wraps(sac, rng):
    ring, number, kept = sac.Replay(23, (1, 1, 3), 1), 0, []
    for episode in range(30):
        length = int(rng.integers(1, 8))
        code = lambda t: np.array([[[episode, t, 0]]], np.uint8)
        ring.begin(code(0))
        for t in range(length):
            ring.add([number], number, t == length - 1, code(t + 1))
            kept.append((episode, t, number))
            number += 1
        images, actions, rewards, terminal, following = ring.sample(200, rng)
        for i in range(200):
            (e, t, _), (e2, t2, _) = images[i, 0, 0].tolist(), following[i, 0, 0].tolist()
            assert e == e2 and t2 == t + 1 and (e, t, int(rewards[i])) in kept[-22:] and actions[i] == rewards[i]
        assert ring.count <= 22
    oldest = {tuple(x) for x in zip(images[:, 0, 0, 0].tolist(), images[:, 0, 0, 1].tolist())}
    assert ring.count >= 15 and len(oldest) == ring.count  # 200 draws from about 20 places see every one


def test_random_shift_moves_whole_pictures(sac, rng):
    images = torch.randint(1, 256, (32, 12, 10, 3), dtype=torch.uint8)
    shifted = sac.random_shift(images, rng, pad=4)
    padded = np.pad(images.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)))
    for picture, big in zip(shifted.numpy(), padded):
        assert any(np.array_equal(picture, big[y : y + 12, x : x + 10]) for y in range(9) for x in range(9))


# ---- Runs ----


class Dot(gym.Env):
    """A bright dot that actions move; success where it reaches the right edge. Ends after `limit` steps."""

    def __init__(self, limit=12, terminates=False):
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.limit, self.terminates = limit, terminates

    def _see(self):
        image = np.zeros((16, 16, 3), np.uint8)
        image[tuple(np.clip(self.at, 0, 15).astype(int))] = 255
        return image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.time = np.array([self.np_random.uniform(3, 12), 2.0]), 0
        return self._see(), {}

    def step(self, action):
        self.at, self.time = np.clip(self.at + 2 * np.asarray(action), 0, 15), self.time + 1
        success, over = self.at[1] > 13, self.time >= self.limit
        return self._see(), float(success), over and self.terminates, over and not self.terminates, {"success": bool(success)}


def settings(sac, tmp_path, **changes):
    config = sac.Config.smoke()
    config.out, config.device, config.steps, config.random_steps, config.eval_every = str(tmp_path), "cpu", 96, 24, 48
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def start(sac, config, env):
    return sac.Run(config, env.observation_space.shape, 2, torch.device("cpu"))


@pytest.mark.parametrize("terminates, bootstrap, expected", [(False, True, 0), (True, True, 1), (False, False, 1)])
def test_truncation_bootstraps_and_termination_does_not(sac, tmp_path, terminates, bootstrap, expected):
    env = Dot(terminates=terminates)
    run = start(sac, settings(sac, tmp_path, bootstrap_truncation=bootstrap, random_steps=10**6), env)
    sac.collect_episode(run, env, types.SimpleNamespace(update=lambda: None))
    assert run.replay.count == 12
    stored = run.replay.terminal[run.replay.starts[:12]]
    assert stored[:-1].sum() == 0 and stored[-1] == expected


def test_training_moves_all_weights_and_writes_the_curve(sac, tmp_path):
    env = Dot()
    run = start(sac, settings(sac, tmp_path), env)
    before = copy.deepcopy(run.agent.state_dict())
    sac.train(run, env, Dot())
    assert all(not torch.equal(before[k], v) for k, v in run.agent.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in run.target.state_dict().items())
    curve = common.read_csv(tmp_path / "curve.csv")
    assert curve["step"].tolist() == [48, 96] and {"return", "success", "success_last", "alpha", "steps_per_second"} <= set(curve)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(sac, tmp_path, monkeypatch):
    whole = start(sac, settings(sac, tmp_path / "whole"), Dot())
    sac.train(whole, Dot(), Dot())

    halves = start(sac, settings(sac, tmp_path / "halves"), Dot())
    real = sac.collect_episode

    def press_ctrl_c(run, env, bar):
        if run.episode == 5:
            sac.signal.raise_signal(sac.signal.SIGINT)
        return real(run, env, bar)

    monkeypatch.setattr(sac, "collect_episode", press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        sac.train(halves, Dot(), Dot())
    monkeypatch.setattr(sac, "collect_episode", real)
    assert halves.step == 72  # the sixth episode was finished first
    again = start(sac, settings(sac, tmp_path / "halves"), Dot())
    again.load()
    sac.train(again, Dot(), Dot())
    assert all(torch.equal(v, again.agent.state_dict()[k]) for k, v in whole.agent.state_dict().items())
    time_free = lambda rows: [{k: v for k, v in row.items() if k not in ("minutes", "steps_per_second")} for row in rows]
    assert time_free(whole.rows) == time_free(again.rows)

    other = start(sac, settings(sac, tmp_path / "halves", gamma=0.5), Dot())
    with pytest.raises(common.UserError, match="another gamma"):
        other.load()


def test_a_loss_that_is_not_finite_stops_and_names_the_step(sac, tmp_path):
    run = start(sac, settings(sac, tmp_path), Dot())
    run.agent.actor[0].weight.data.fill_(math.nan)
    with pytest.raises(common.UserError, match="not finite at step 24"):
        sac.train(run, Dot(), Dot())


@pytest.mark.parametrize("env, words", [(gym.make("Pendulum-v1"), "uint8 images"),
                                        (gym.wrappers.RescaleAction(Dot(), -2, 2), "RescaleAction")])
def test_environments_that_do_not_fit_get_one_line(sac, env, words):
    with pytest.raises(common.UserError, match=words):
        sac.check_spaces(env)


def test_evaluation_plays_a_fixed_start_once_and_random_starts_often(sac, tmp_path):
    agent, resets = sac.Agent((16, 16, 3), 2), []

    class Counting(Dot):
        def reset(self, **kwargs):
            resets.append(1)
            image, info = super().reset(**kwargs)
            if self.fixed:
                self.at[0] = 5.0
            return self._see(), info

    for fixed, plays in ((True, 1), (False, 7)):
        env, resets[:] = Counting(), []
        env.fixed = fixed
        sac.evaluate(agent, env, 7)
        assert len(resets) == 5 + plays  # five resets to see whether the start varies
