"""How fast is it, and beside what? Ratios, since milliseconds belong to a machine:

    python tests/benchmark.py read     # decoding clips, beside PyAV frame by frame and decord
    python tests/benchmark.py render   # pictures of the tasks, beside what MuJoCo draws by default
    python tests/benchmark.py train    # 02 and 03, beside updates from memory
    python tests/benchmark.py sac      # 05 at batch 64 and 256, beside stable-baselines3 in two forms

What is not installed is left out. All ways take turns, so that a busy machine is busy for all; a number is a
median. Clips and distance file are made where they are missing. Two to five minutes each.
"""

import argparse
import contextlib
import importlib
import sys
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import common  # noqa: E402  # after the path is set


def in_turns(ways, rounds=5):
    """Call each of `ways` {name: function} once a round, after a warm-up: {name: (seconds, processor s)}."""
    times = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            start, worked = time.perf_counter(), time.process_time()
            work()
            times[name].append((time.perf_counter() - start, time.process_time() - worked))
    return {name: np.median(seen[1:], axis=0) for name, seen in times.items()}


def table(title, times, ours, count=1):
    """Print the milliseconds of each way, for one of `count` items, and the ratio to those of `ours`."""
    print(title)
    for name, (wall, worked) in times.items():
        print(f"  {name:28}{1000 * wall / count:9.2f} ms, of processors {1000 * worked / count:9.2f} ms, "
              f"{wall / times[ours][0]:6.2f} times {ours}")


def readers():
    """Ways to decode a whole file at its own size, {name: function of a path}: those installed."""

    def frame_by_frame(path):
        with av.open(str(path)) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])

    found = {"read_clip": lambda path: common.read_clip(path)[0], "PyAV, frame by frame": frame_by_frame}
    with contextlib.suppress(ImportError):
        from decord import VideoReader

        found["decord"] = lambda path: (clip := VideoReader(str(path))).get_batch(range(len(clip))).asnumpy()
    return found


def benchmark_read(folder="data/standin", count=64):
    """Time all ways to decode the first clips."""
    common.ensure(folder)
    clips = common.ClipSet(folder, "train", 72, count)
    ways = {name: partial(lambda read: [read(path) for path in clips.paths], read)
            for name, read in readers().items()}
    table(f"a clip of {folder}, {len(clips)} of them", in_turns(ways), "read_clip", len(clips))


def benchmark_render(rows=48, pictures=20):
    """Time a picture of each task: fast, faithful, and with MuJoCo's defaults."""
    sac = importlib.import_module("05_sac")
    for name, make in sac.TASKS.items():
        size = sac.task_size(name, rows)
        tasks = {way: make(size, way) for way in ("fast", "faithful")} | {"default": make(size, "faithful")}
        tasks["default"].model.vis.quality.offsamples = 4  # samples a pixel; before the first picture
        for task in tasks.values():
            task.reset(seed=0)
        ways = {way: partial(lambda task: [task.picture() for _ in range(pictures)], task)
                for way, task in tasks.items()}
        table(f"a picture of {name}, {size[0]} x {size[1]}", in_turns(ways), "fast", pictures)
        for task in tasks.values():
            task.close()


def training_loops(module, loss, config):
    """{name: one update}: of a batch in memory, and with decoding and augmentation."""
    device = common.pick_device(config.device)
    common.ensure(config.data)
    parts, _ = module.start(config, device)
    batches = iter(module.load_batches(module.open_clips(config)[0], config, 0, 0, 1))

    def learn(batch):
        frames, *others = (x.to(device) for x in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = parts["network"](frames.flatten(0, 1).float() / 127.5 - 1)
        parts["optimizer"].zero_grad()
        loss(seen.float(), *others).backward()
        parts["optimizer"].step()

    kept = next(batches)
    return {"from memory": lambda: learn(kept), "training": lambda: learn(next(batches))}


def benchmark_train():
    """Time the loops of 02 and 03, each with the settings it has by default."""
    hold_r, hold_c = map(importlib.import_module, ("02_hold_r", "03_hold_c"))

    def regression(d, delta, rate):
        return hold_r.regression_loss(d, delta.flatten(0, 1), rate.flatten(0, 1))

    def contrast(f, times, sequences):
        return hold_c.time_contrastive_loss(f.unflatten(0, times.shape), times, sequences)[0]

    for module, loss in ((hold_r, regression), (hold_c, contrast)):
        loops = training_loops(module, loss, module.Config(resume=False))
        table(f"an update of {module.__name__}.py", in_turns(loops), "training")


def make_sb3(sac, config, env, shared):
    """stable-baselines3's SAC with our encoder, layers and settings. It shifts no pictures."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Encoder(BaseFeaturesExtractor):
        def __init__(self, space):
            network = sac.make_encoder(config.encoder, (*space.shape[1:], space.shape[0]))
            super().__init__(space, network(torch.zeros(1, *space.shape)).shape[1])
            self.network = network

        def forward(self, images):  # (B, C, H, W) in [0, 1]
            return self.network(images - 0.5)

    policy = {"features_extractor_class": Encoder, "share_features_extractor": shared, "net_arch": [256, 256]}
    return SAC("CnnPolicy", env, config.lr, 10_000, config.random_steps, config.batch, config.tau,
               config.gamma, ent_coef=f"auto_{config.temperature}", policy_kwargs=policy)


def benchmark_sac(batch, task="close_drawer"):
    """Time episodes with updates, ours and stable-baselines3's, then the parts of our step."""
    sac = importlib.import_module("05_sac")
    length = sac.TASKS[task].episode_length
    config = sac.Config(task, "runs/hold_c-seed0/distance.pt2", batch=batch, random_steps=length, steps=2000)
    distance = sac.open_distance(config)
    envs = [sac.make_env(config, distance) for _ in range(3)]
    run = sac.Run(config, envs[0])
    ways = {"ours": lambda: sac.train_episode(run, envs[0], tqdm(disable=True))}
    with contextlib.suppress(ImportError):
        for name, env in zip(("stable-baselines3", "the same, shared encoder"), envs[1:]):
            model = make_sb3(sac, config, env, "shared" in name)
            ways[name] = partial(model.learn, length, reset_num_timesteps=False)
    table(f"a step of {task}, batch {batch}", in_turns(ways), "ours", length)
    seen, _ = envs[0].reset(seed=0)
    parts = {"update": lambda: sac.update(run), "picture": envs[0].unwrapped.picture,
             "act": lambda: run.agent.act(seen), "distance": lambda: distance(seen[None], envs[0].goals[0])}
    table(f"parts of our step, batch {batch}", in_turns(parts, 20), "update")
    for env in envs:
        env.close()


if __name__ == "__main__":
    works = {"read": benchmark_read, "render": benchmark_render, "train": benchmark_train,
             "sac": lambda: [benchmark_sac(batch) for batch in (64, 256)]}
    parser = argparse.ArgumentParser(description="Times of this project, beside those of others.")
    parser.add_argument("what", choices=works)
    works[parser.parse_args().what]()
