"""The five tasks: physics, success, pictures and scripts."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

NAMES = ("pushing", "drawer_open", "close_drawer", "cup_forward", "faucet_right")


def blind(sac, name, **options):
    """A task without drawing, for tests of physics alone."""
    env = sac.make_task(name, (24, 36), **options)
    env.unwrapped.picture = lambda: np.zeros((24, 36, 3), np.uint8)
    return env


@pytest.mark.parametrize("name, torquescale, joints, steps", [
    ("pushing", 1, "r0 r1 r2 r3 r4 r5 r6 claw puck square", 100),
    ("drawer_open", 1, "r0 r1 r2 r3 r4 r5 r6 r_close l_close drawer", 200),
    ("close_drawer", 5, "r0 r1 r2 r3 r4 r5 r6 r_close l_close mug drawer button faucet", 60)])
def test_scene_facts(sac, name, torquescale, joints, steps):
    env = blind(sac, name)
    model = env.unwrapped.model
    assert model.eq_data[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, torquescale]  # and no offset
    assert [model.joint(i).name.replace("right_j", "r") for i in range(model.njnt)] == joints.split()
    assert model.opt.timestep * env.unwrapped.substeps == pytest.approx(0.1 if name == "pushing" else 0.0125)
    assert sac.task_size(name) == ((48, 48) if torquescale == 1 else (120, 180))
    thing = model.jnt_bodyid[model.joint({"pushing": "puck", "close_drawer": "mug"}.get(name, "drawer")).id]
    mass = {"pushing": 0.1, "drawer_open": 5 * 1000 + 0.12, "close_drawer": 1.5}[name]  # the originals'
    assert model.body_subtreemass[thing] == pytest.approx(mass)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]


@pytest.mark.parametrize("name", NAMES)
def test_checker_of_gymnasium(sac, name):
    check_env(sac.TASKS[name](size=(48, 72)), skip_render_check=False)
    with gym.make(f"hold/{sac.TASKS[name].__name__}-v0", size=(24, 36)) as env:
        assert env.reset(seed=0)[0].shape == (24, 36, 3)
        assert env.spec.max_episode_steps == sac.TASKS[name].episode_length


@pytest.mark.parametrize("name, least", [
    ("pushing", 70), ("drawer_open", 76), ("close_drawer", 41), ("cup_forward", 49), ("faucet_right", 32)])
def test_script_solves_the_task_and_the_failure_fails_near_the_goal(sac, name, least):
    env, returns = blind(sac, name), []
    task, length = env.unwrapped, env.unwrapped.episode_length
    for seed in range(6 if name == "pushing" else 1):
        env.reset(seed=seed)
        record = [env.step(task.scripted_action()) for _ in range(length)]
        assert all(step[1] == float(step[4]["success"]) for step in record)  # paid on every successful step
        returns.append(sum(step[1] for step in record))
    assert min(returns) >= least
    if name == "cup_forward":
        assert task.joint("mug")[3:].tolist() == [1, 0, 0, 0]  # upright
    env.reset(seed=4)
    infos = [env.step(task.failed_action())[4] for _ in range(length)]
    assert not any(info["success"] for info in infos)
    assert np.linalg.norm(infos[-1]["hand"] - task.goals[-1][0]) < 0.13


@pytest.mark.parametrize("name, inside, outside", [
    ("pushing", (0.020, 0.759, 0, 1, 0, 0, 0), (0.020, 0.762, 0, 1, 0, 0, 0)),  # L1 .029 and .032
    ("drawer_open", -0.121, -0.119), ("close_drawer", -0.049, -0.051), ("faucet_right", -0.011, 0.5),
    ("cup_forward", (0.05, 0.65, 0, 1, 0, 0, 0), (0.05, 0.64, 0, 1, 0, 0, 0))])  # L2 .0707 and .0781
def test_success_boundaries(sac, name, inside, outside):
    task = blind(sac, name).unwrapped
    task.restore()
    for state, success in ((inside, True), (outside, False)):
        task.put(**{task.object: state})
        assert task.info()["success"] is success


def test_oracles(sac):
    """The DVD tasks' as released; ours bring the hand to the object and the object to its goal."""
    tasks = {name: sac.TASKS[name](size=(8, 8)) for name in NAMES}
    for task in tasks.values():
        task.reset(seed=0)
    oracle = lambda name: tasks[name].info()["oracle_reward"]
    far = lambda name, *point: np.sqrt(np.square(np.subtract(tasks[name].hand, point)).sum())
    assert oracle("close_drawer") == pytest.approx(-0.07 - far("close_drawer", 0.25, 0.62, 0.06))
    assert oracle("cup_forward") == pytest.approx(-0.1 - far("cup_forward", 0, 0.7, 0))  # not to the cup
    cup = tasks["pushing"].hand[:2] + (0.1, 0)
    tasks["pushing"].put(puck=(*cup, 0.02, 1, 0, 0, 0))
    assert oracle("pushing") == pytest.approx(-2 * np.abs(cup - (0, 0.75)).sum() - 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_decide_an_episode(sac, name):
    """Resets are exact, whatever was played before; only Pushing starts anew each time."""
    first, second = sac.make_task(name, (24, 36)), sac.make_task(name, (24, 36))
    first.reset(seed=9)
    first.step(first.action_space.sample())
    actions, clips, states = np.random.default_rng(0).uniform(-1, 1, (12, *first.action_space.shape)), [], []
    for env in (first, second, first):
        clips.append([env.reset(seed=3)[0], *(env.step(action)[0] for action in actions)])
        states.append(env.unwrapped.data.qpos.copy())
    assert all(np.array_equal(kept[0], other) for kept in (clips, states) for other in kept[1:])
    assert np.ptp(clips[0], axis=0).max() > 30  # something moves
    starts = [first.reset(seed=seed)[1]["object"][0] for seed in range(12)]
    assert (0.1 < np.ptp(starts) <= 0.2) if name == "pushing" else np.ptp(starts) == 0


def test_actions_move_the_mocap_body_as_documented(sac):
    pushing, drawer, cup, twin = (blind(sac, name) for name in (*NAMES[:2], "cup_forward", "cup_forward"))
    at = lambda env: env.unwrapped.data.mocap_pos[0].tolist()
    hand = {env: env.reset(seed=0)[1]["hand"] for env in (pushing, drawer, cup, twin)}
    assert np.abs(hand[pushing] - (0, 0.52, 0.12)).max() < 0.01
    assert np.abs(hand[drawer] - (0, 0.499, 0.249)).max() < 0.002
    assert np.abs(hand[cup] - (0, 0.5, 0.03)).max() < 0.02
    jumped = pushing.step((0, 0))[4]["hand"]  # the hand jumps back on the first step, clipped into the box
    assert np.abs(jumped - (0, 0.30, 0.07)).max() < 0.01
    assert at(pushing) == pytest.approx([0, 0.3, 0.07 - 0.02 * 0.02])
    pushing.step((5, 0.5))  # clipped to 1
    assert at(pushing) == pytest.approx([0.02, 0.31, 0.05 + 0.02 * 0.98**2])
    for env in (pushing, blind(sac, "pushing", authors=True)):  # what speed survives a reset
        env.reset(seed=0)
        env.step((1, 1))
        moving = np.abs(env.unwrapped.data.qvel[:7]).max()
        env.reset(seed=0)
        left = np.abs(env.unwrapped.data.qvel[:7]).max()
        assert moving > 0.01 and left == (pytest.approx(moving) if env.unwrapped.authors else 0)
    drawer.step((1, 0.5, -1, 1))  # x has no effect
    assert at(drawer) == pytest.approx([0, 0.505, 0.24]) and drawer.unwrapped.data.ctrl.tolist() == [1, -1]
    cup.step((1, -0.4, 1, 1, -1))
    twin.step((1, -0.4, 1, -1, -1))  # the turn has no effect
    assert at(cup) == pytest.approx([0.05, 0.48, 0.07])
    assert np.array_equal(cup.unwrapped.data.qpos, twin.unwrapped.data.qpos)


@pytest.fixture(scope="module")
def goals(sac):
    """{name: goal pictures}, faithful and large enough to look at single pixels."""
    sizes = {name: (96, 96 if name in NAMES[:2] else 144) for name in NAMES}
    return {name: sac.TASKS[name](sizes[name], "faithful").goal_images() for name in NAMES}


# Mean grey levels, bytes in hexadecimal, of 6 x 6 blocks of the authors' goal pictures (DVD: centre square).
MEASURED = {
    ("pushing", 0): "6933324f7e7d825e6c8686828667437488868a8b63728c8b8f907d7f9290939598999794",
    ("drawer_open", 0): "6b4c49383d6f5339345b7d7d5e32578f8c86413c8194918f929b9c9b9893aaa6a39e9b99",
    ("drawer_open", 1): "767d7d7d7d75535d8580744c694366816a354d5f6444513886674f59545aa9a69a939a9d",
    ("close_drawer", 0): "7d7d75757d7d94935c51878db2b96f63d2d78c774c4b626160608c64675f465658494749",
    ("cup_forward", 0): "7d7d75757d7d94935c51878db2b96f63d2d78371555962618c68614a655f6f6f6a54403e",
    ("faucet_right", 0): "7d7d75757d7d94935c51878db2b96f63d2d783714b4b665b8c688a64674c6f6f6f6f6f50"}


@pytest.mark.parametrize("name, stage", MEASURED)
def test_goals_are_the_authors(sac, goals, name, stage):
    def difference(picture):  # in grey levels of 255; pixel by pixel, pictures are 2 to 4 from the authors'
        square = picture[:, (picture.shape[1] - 96) // 2 :][:, :96].astype(float)
        blocks = square.reshape(6, 16, 6, 16, 3).mean((1, 3, 4))
        return np.abs(blocks.ravel() - np.frombuffer(bytes.fromhex(MEASURED[name, stage]), np.uint8)).mean()

    least = difference(goals[name][stage])
    assert least < (3 if stage else 2)
    assert difference(goals[name][stage][:, ::-1]) > 5 * least  # not mirrored
    assert all(difference(goals[n][s]) > 1.5 * least for n, s in MEASURED if (n, s) != (name, stage))
    task = blind(sac, name).unwrapped
    task.pose(*task.goals[stage])
    assert task.info()["success"] is ((name, stage) != ("drawer_open", 0))
    assert np.linalg.norm(task.hand - task.goals[stage][0]) < 0.01


@pytest.mark.parametrize("name, most", [("pushing", 0.4), ("drawer_open", 0.4), ("close_drawer", 14)])
def test_fast_draws_nearly_the_same_and_simulates_exactly_the_same(sac, name, most):
    fast, faithful = (sac.make_task(name, sac.task_size(name, 48), kind) for kind in ("fast", "faithful"))
    pictures = [env.reset(seed=0)[0].astype(int) for env in (fast, faithful)]
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < most
    for env in (fast, faithful):
        env.unwrapped.picture = lambda: pictures[0].astype(np.uint8)
        for action in np.random.default_rng(1).uniform(-1, 1, (15, *env.action_space.shape)):
            env.step(action)
    assert np.array_equal(fast.unwrapped.data.qpos, faithful.unwrapped.data.qpos)


def test_bad_actions_and_exploding_simulations(sac, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = blind(sac, "cup_forward")
    for speed in (1e12, 0):  # an explosion ends the episode, quietly
        env.reset()
        env.unwrapped.data.qvel[0] = speed
        assert env.step(np.zeros(5))[2:4] == (False, speed > 0)
    assert capfd.readouterr().err == "" and not list(tmp_path.iterdir())
    monkeypatch.setattr(sac.SawyerTask, "process", -1)
    for attempt, says in ((lambda: env.step([0.0] * 4), "5 finite numbers"),
                          (lambda: env.step([0.0, 0, 0, 0, np.nan]), "5 finite numbers"),
                          (lambda: sac.task_size("open_fridge"), "open_fridge.*close_drawer"),
                          (lambda: sac.compose('<mujoco><patch path="nowhere"/></mujoco>'), "finds nothing"),
                          (sac.Pushing((8, 8)).reset, "spawn")):  # as if in a fork
        with pytest.raises(sac.UserError, match=says):
            attempt()
