"""05_sac.py, second half: each piece of SAC against an independent reference, and a run that stops and goes on."""

import collections
import concurrent.futures
import copy
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

import common

slow = pytest.mark.skipif(os.environ.get("SLOW_TESTS") != "1", reason="takes minutes; asked for with SLOW_TESTS=1")


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


@slow  # half a minute, for the compiler
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler here")
def test_compiled_losses_and_gradients_equal_eager_ones(sac):
    torch.manual_seed(1)
    agent = sac.Agent((16, 20, 3), 3)
    target = copy.deepcopy(agent).requires_grad_(False)
    batch = [x.float() if x.dtype == torch.float64 else x for x in batch_of(sac)]
    seen = []
    for losses in (sac.sac_losses, sac.compile_losses(torch.device("cpu"))):
        agent.zero_grad()
        values = losses(agent, target, batch, torch.ones(2, 6, 3), 0.9)
        sum(values[:3]).backward()
        seen.append([*values, *(p.grad.clone() for p in agent.parameters())])
    for eager, compiled in zip(*seen):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def test_target_moves_by_tau(sac):
    fast, slow = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    start = slow.weight.detach().clone()
    for _ in range(3):
        sac.polyak(fast, slow, 0.1)
    torch.testing.assert_close(slow.weight, fast.weight + 0.9**3 * (start - fast.weight))


@slow  # 5 minutes
def test_pendulum_is_learned_from_its_state(sac, tmp_path):
    make = lambda: gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))
    config = sac.Config(steps=10_000, gamma=0.99, eval_every=10_000, eval_episodes=10, out=str(tmp_path), device="cpu")
    runs = sac.train(config, [make() for _ in range(3)], make())
    assert all(run.rows[-1]["return"] > -200 for run in runs), [run.rows[-1]["return"] for run in runs]


def test_the_paper_preset_is_table_iii_and_the_released_code(sac):
    paper = sac.Config.paper()
    assert (paper.gamma, paper.batch, paper.lr, paper.tau) == (0.99, 256, 3e-4, 0.005)
    assert (paper.random_steps, paper.update_every, paper.temperature) == (1000, 1, 1.0)
    assert paper.stage_cost == 0.2  # T = 10 and cost 2, T = 100 and cost 20
    assert not paper.bootstrap_truncation and not paper.shift_per_image and paper.encoder == "paper"


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


def test_a_million_steps_need_what_the_text_says(sac):
    ring = sac.Replay(1000, (48, 48, 3), 5)
    size = sum(x.nbytes for x in (ring.frames, ring.actions, ring.rewards, ring.terminal, ring.starts)) / 1000
    assert size == 6912 + 36 and 6.9e9 < 1e6 * size < 6.95e9


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
        return self._see(), np.float64(success), over and self.terminates, over and not self.terminates, {"success": bool(success)}


def settings(sac, tmp_path, **changes):
    config = sac.Config.smoke()
    config.out, config.device, config.steps, config.random_steps, config.eval_every = str(tmp_path), "cpu", 96, 24, 48
    for name, value in changes.items():
        setattr(config, name, value)
    return config


class Inline:
    """A pool that does the work at once, in this thread."""

    def submit(self, function, *arguments):
        done = concurrent.futures.Future()
        done.set_result(function(*arguments))
        return done


@pytest.mark.parametrize("terminates, bootstrap, expected", [(False, True, 0), (True, True, 1), (False, False, 1)])
def test_truncation_bootstraps_and_termination_does_not(sac, tmp_path, terminates, bootstrap, expected):
    env = Dot(terminates=terminates)
    run = sac.Run(settings(sac, tmp_path, bootstrap_truncation=bootstrap, random_steps=10**6), env)
    assert len(list(sac.collect_episode(run, env, Inline()))) == run.replay.count == 12
    stored = run.replay.terminal[run.replay.starts[:12]]
    assert stored[:-1].sum() == 0 and stored[-1] == expected


def test_training_moves_all_weights_and_writes_the_curve(sac, tmp_path):
    config = settings(sac, tmp_path)
    before = copy.deepcopy(sac.Run(config, Dot()).agent.state_dict())
    run, = sac.train(config, [Dot()], Dot())
    assert all(not torch.equal(before[k], v) for k, v in run.agent.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in run.target.state_dict().items())
    curve = common.read_csv(tmp_path / "curve.csv")
    assert curve["step"].tolist() == [48, 96] and {"return", "success", "success_last", "alpha", "steps_per_second"} <= set(curve)


def test_batches_are_drawn_ahead_in_the_main_thread(sac, tmp_path, monkeypatch):
    drawn, used, draw, update = [], [], sac.draw_batch, sac.update

    def drawing(run):
        drawn.append((threading.current_thread(), run.episode, run.replay.count, *draw(run)))
        return drawn[-1][3:]

    def updating(run, batch, noise):
        used.append((threading.current_thread(), noise))
        return update(run, batch, noise)

    monkeypatch.setattr(sac, "draw_batch", drawing)
    monkeypatch.setattr(sac, "update", updating)
    run, = sac.train(settings(sac, tmp_path), [Dot()], Dot())  # episodes of 12 steps, updates from the third on
    main = threading.main_thread()
    assert all(thread is main for thread, *_ in drawn) and all(thread is not main for thread, _ in used)
    for episode in range(2, run.episode):
        batches = [(count, noise) for _, when, count, _, noise in drawn if when == episode]
        assert [count for count, _ in batches] == [12 * episode, *range(12 * episode, 12 * episode + 12)]
        assert all(noise is theirs for (_, noise), (_, theirs) in zip(batches, used[12 * (episode - 2):][:12]))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(sac, tmp_path, monkeypatch):
    train = lambda folder, **changes: sac.train(settings(sac, tmp_path / folder, **changes), [Dot(), Dot()], Dot())
    whole, real = train("whole"), sac.collect_episode

    def press_ctrl_c(run, env, pool):
        if run.episode == 5:
            sac.signal.raise_signal(sac.signal.SIGINT)
        return real(run, env, pool)

    monkeypatch.setattr(sac, "collect_episode", press_ctrl_c)
    monkeypatch.setattr(sac.StopAtEpisodeEnd, "_ask", lambda self, *_: setattr(self, "asked", True))  # one press per agent
    with pytest.raises(KeyboardInterrupt):
        train("halves")
    monkeypatch.setattr(sac, "collect_episode", real)
    for seed in (0, 1):
        assert common.load_checkpoint(tmp_path / f"halves/checkpoint-seed{seed}.pt")["step"] == 72  # the sixth episode's end
    again = train("halves")
    assert_same_runs(whole, again)
    with pytest.raises(common.UserError, match="another gamma"):
        train("halves", gamma=0.5)
    anew = train("halves", gamma=0.5, resume=False)
    assert [run.step for run in anew] == [96, 96] and anew[0].rows[-1]["critic_loss"] != whole[0].rows[-1]["critic_loss"]


def test_a_run_belongs_to_its_seed_settings_and_distance(sac, tmp_path):
    def train(shade=1.0, **changes):
        distance = lambda frames, goal: shade * np.abs(frames.astype(float) - goal).mean((1, 2, 3))
        env, eval_env = (sac.GoalReward(Dot(), distance, np.full((16, 16, 3), 99, np.uint8)) for _ in range(2))
        return sac.train(settings(sac, tmp_path / "run", **changes), [env], eval_env)

    run, = train()
    told, curve = ((tmp_path / "run" / name).read_text() for name in ("run.json", "curve.csv"))
    assert json.loads(told)["scale"] == run.scale > 0 and json.loads(told)["device"] == "cpu"
    for changes, words in (({"gamma": 0.5}, "another gamma"), ({"seed": 1}, "of another seed")):
        with pytest.raises(common.UserError, match=words):
            train(**changes)
    with pytest.raises(common.UserError, match="another distance .T was"):
        train(shade=2.0)
    assert train()[0].step == 96
    assert [(tmp_path / "run" / name).read_text() for name in ("run.json", "curve.csv")] == [told, curve]


def test_flags_that_would_do_nothing_are_refused(sac, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sac, "run_script", lambda *_: pytest.fail("only the default distance is made"))
    small = dict(task="pushing", height=24, device="cpu")
    for changes, words in ((dict(distance="none", sparse_weight=0.0), "for a distance file"), (dict(distance="oracle", goals="x.mp4"), "for a"),
                           (dict(distance="runs/hold_r/distance.pt2"), "no distance file")):
        with pytest.raises(common.UserError, match=words):
            sac.make_env(sac.Config(**small, **changes))
    with pytest.raises(common.UserError, match="temperature"):
        sac.train(settings(sac, tmp_path, temperature=0.0), [Dot()], Dot())


def assert_same_runs(some, others):
    time_free = lambda rows: [{k: v for k, v in row.items() if k not in ("minutes", "steps_per_second")} for row in rows]
    for one, other in zip(some, others, strict=True):
        assert all(torch.equal(v, other.agent.state_dict()[k]) for k, v in one.agent.state_dict().items())
        assert time_free(one.rows) == time_free(other.rows)


def test_a_finished_run_goes_on_with_more_steps(sac, tmp_path):
    train = lambda folder, **changes: sac.train(settings(sac, tmp_path / folder, **changes), [Dot(), Dot()], Dot())
    train("longer", steps=48)
    assert_same_runs(train("whole"), train("longer"))
    with pytest.raises(common.UserError, match="another steps"):
        train("longer", steps=48)
    train("full", steps=48, replay=20)
    assert_same_runs(train("whole full", replay=20), train("full", replay=20))


def test_a_memory_may_grow_until_it_is_full(sac):
    small, large = sac.Replay(4, (1,), actions=1), sac.Replay(9, (1,), actions=1)
    small.begin(np.zeros(1, np.float32))
    for t in (1, 2):
        small.add([0.0], t, False, np.full(1, t, np.float32))
    large.load_state_dict(small.state_dict())
    for t in (3, 4, 5):
        large.add([0.0], t, False, np.full(1, t, np.float32))
    _, _, reward, _, following = large.sample(99, np.random.default_rng(0))
    assert set(reward.tolist()) == {1, 2, 3, 4, 5} and torch.equal(following[:, 0], reward)
    small.add([0.0], 3, False, np.full(1, 3, np.float32))
    with pytest.raises(common.UserError, match="4 places is full"):
        large.load_state_dict(small.state_dict())


@pytest.mark.parametrize("which", range(3))
def test_a_loss_that_is_not_finite_stops_and_names_the_step(sac, tmp_path, monkeypatch, which):
    real, calls = sac.sac_losses, []

    def broken(*arguments):
        calls.append(1)
        losses = list(real(*arguments))
        losses[which] = losses[which] * (math.inf if len(calls) == 15 else 1)
        return losses

    monkeypatch.setattr(sac, "sac_losses", broken)
    with pytest.raises(common.UserError, match=f"{sac.LOSSES[which]}.* not finite at step 38 of seed 0"):
        sac.train(settings(sac, tmp_path, checkpoint_minutes=0.0), [Dot()], Dot())
    kept = common.load_checkpoint(tmp_path / "checkpoint-seed0.pt")
    assert 12 <= kept["step"] <= 36 and all(v.isfinite().all() for v in kept["agent"].values())


def test_seeds_side_by_side_learn_what_each_learns_alone(sac, tmp_path, monkeypatch):
    real, seen = sac.update, collections.defaultdict(list)

    def recorded(run, *drawn):
        seen[run.config.out, run.config.seed].append(real(run, *drawn))
        return seen[run.config.out, run.config.seed][-1]

    class Early(Dot):  # episodes of different lengths, so that the seeds get out of step
        def step(self, action):
            image, reward, terminated, truncated, info = super().step(action)
            return image, reward, terminated or bool(reward), truncated, info

    monkeypatch.setattr(sac, "update", recorded)
    config = lambda name, **changes: settings(sac, tmp_path / name, steps=130, **changes)
    sac.train(config("together", seed=4), [Early() for _ in range(3)], Early())
    for seed in (4, 5, 6):
        sac.train(config(f"alone{seed}", seed=seed), [Early()], Early())
        together, alone = (torch.stack(seen[str(tmp_path / name), seed][:100]) for name in ("together", f"alone{seed}"))
        assert together.shape == (100, 5)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    curve = common.read_csv(tmp_path / "together" / "curve.csv")
    assert curve["step"].tolist() == sorted(curve["step"]) and set(curve["seed"]) == {4, 5, 6}
    rows = [common.read_csv(tmp_path / f"alone{seed}" / "curve.csv") for seed in (4, 5, 6)]
    for one in rows:
        mine = curve["seed"] == one["seed"][0]
        assert all(np.allclose(curve[k][mine], one[k]) for k in one if k not in ("minutes", "steps_per_second"))


def test_run_folders_are_named_after_their_seeds(sac):
    assert sac.default_out(sac.Config(distance="none", seed=2)) == "runs/sac/close_drawer-sparse-seed2"
    assert sac.default_out(sac.Config(distance="none", seed=2, seeds=5)) == "runs/sac/close_drawer-sparse-seed2-6"
    with pytest.raises(common.UserError, match="--seeds is 0"):
        sac.learn(sac.Config(seeds=0), None, None)


def test_a_folder_in_use_is_refused_until_its_process_is_gone(sac, tmp_path):
    hold = "import importlib, time; sac = importlib.import_module('05_sac')\nwith sac.claim_folder({!r}):\n    print('mine', flush=True); time.sleep(99)"
    other = subprocess.Popen([sys.executable, "-c", hold.format(str(tmp_path))], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(common.UserError, match="in use by another process"):
        sac.train(settings(sac, tmp_path), [Dot()], Dot())
    other.kill()
    other.wait()
    with sac.claim_folder(tmp_path):
        pass


def test_a_full_disk_is_one_line_and_keeps_the_previous_checkpoint(sac, tmp_path):
    run = sac.Run(settings(sac, tmp_path), Dot())
    run.save()
    before, (soft, hard) = run.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # a disk that takes half of it
    try:
        with pytest.raises(common.UserError, match="checkpoint-seed0.pt could not be written: File too large"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [run.path.name]


def test_slow_saving_makes_checkpoints_rarer(sac, tmp_path, monkeypatch):
    clock, saves = [0.0], []

    def episode(run, env, pool):  # takes 10 seconds
        clock[0], run.step, run.recent = clock[0] + 10, run.step + 12, [(0.0, False, {})]
        yield True

    def save(run):  # takes 3 seconds
        clock[0] += 3
        saves.append(run.step)

    monkeypatch.setattr(sac.time, "time", lambda: clock[0])
    monkeypatch.setattr(sac, "collect_episode", episode)
    monkeypatch.setattr(sac.Run, "save", save)
    sac.train(settings(sac, tmp_path, steps=240, eval_every=10**6, checkpoint_minutes=0.1), [Dot()], Dot())
    assert saves == [12, 96, 180, 240]  # after 10 seconds, and then after 60 seconds or more


@pytest.mark.parametrize("env, words", [(gym.wrappers.TransformObservation(Dot(), lambda x: x, gym.spaces.Discrete(3)), "uint8 images"),
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
