# %% [markdown]
r"""
# Baselines: is it HOLD, or would any distance do?

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, ICRA 2023, section IV-C, App. C, D.

A learned reward proves little until something simpler has failed: the same agent, each rival, one rule.

**Takes** distance files of 02 and 03, demonstrations of 01, all made where missing. **Writes**
`runs/baselines/<task>/<reward>-seed<k>/curve.csv`, and beside these folders figures and tables.

```
python 06_baselines.py --flags="--batch 64 --random-start 0 --eval-every 1000"  # 20 runs: 40 minutes
python 06_baselines.py --figure 3 --task pushing --steps 16000      # 25 runs: 4 hours, two cores
python 06_baselines.py --figure 3 --preset paper      # the paper's agent and distances: for GPUs
python 06_baselines.py --plot "runs/sac/pushing-*/curve.csv" --task pushing --out runs/plot
```

**Expect** half of the episodes to succeed within 4,000 steps with `sparse` and with `hold_c`, in any order.
"""

# %%
import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from scipy.stats import trim_mean
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms.v2 import CenterCrop
from tqdm.auto import tqdm

import common
from common import (STYLE, Preprocess, UserError, ensure, load_distance, parse_config, read_clip, read_csv,
                    run_script, save_distance, show, write_csv)

# %%
@dataclass
class Config:
    """Train the same agent on HOLD's reward and on its rivals', and compare the curves."""

    task: Literal["pushing", "drawer_open", "close_drawer", "cup_forward", "faucet_right"] = "close_drawer"
    rewards: tuple[str, ...] = ("sparse", "pixels", "untrained", "hold_c")  # names in REWARDS
    figure: Literal["", "3", "4", "5", "6a", "6b", "6c", "6d", "7", "8"] = ""  # the paper's, instead
    seeds: int = 5  # runs of each reward
    steps: int = 6_000  # of every run, fixed before the first starts; 0: the paper's
    cores: int = 0  # runs at a time, one on each core; 0: all cores
    agent: Literal["laptop", "paper", "smoke"] = "laptop"  # preset of 05_sac.py
    flags: str = "--eval-every 1000"  # more of 05's: --flags="--batch 64"
    learned: str = "runs/{reward}-seed{seed}/distance.pt2"  # distance files of 02 and 03, {seed} is the run's
    r3m: str = "runs/r3m.pt"  # R3M's checkpoint, for the reward r3m
    timm: str = "resnet50.a1_in1k"  # the timm model of the reward frozen
    data: str = "data/standin"  # with demonstrations/<task>/<k>.webm, TCN's goals; trains on the stand-in
    plot: tuple[str, ...] = ()  # patterns of curve files: compare these, write to --out, and stop
    column: Literal["", "return", "success", "train_return", "train_success"] = ""  # of --plot, and
    level: float = 0.5  # what counts as learned in it; without a column: the two levels of --task
    out: str = "runs/baselines"  # folder of the runs
    seed: ClassVar[str] = "{seed}"  # each run fills in its own

    @classmethod
    def paper(cls):
        """The paper's agent and steps, with the distances of 02 and 03 --preset paper."""
        return cls(task="pushing", rewards=("sparse", "pixels", "r3m", "tcn", "hold_r", "hold_c"), steps=0,
                   agent="paper", learned="runs/{reward}_paper-seed{seed}/distance.pt2")

    @classmethod
    def smoke(cls):
        """Two short runs, for tests and a look around."""
        return cls(task="pushing", rewards=("sparse", "untrained"), seeds=1, steps=200, agent="smoke",
                   flags="--eval-every 100", learned="runs/smoke/{reward}-seed{seed}/distance.pt2",
                   data="runs/smoke/clips", out="runs/smoke/baselines")

# %%
trains, table = False, []
if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    config = parse_config(Config)  # in Jupyter: parse_config(Config, rewards=("sparse", "oracle"), seeds=2)
    trains = not config.plot

# %% [markdown]
r"""
## The rivals

| reward | $d(s, g)$ | what it assumes |
|---|---|---|
| `sparse`, `oracle` | none: success alone; a formula over the simulator's state | luck; a programmer |
| `pixels` | $\lVert s - g \rVert_2$ over pixels in $[0, 1]$ | nothing moves but what should |
| `frozen`, `r3m` | $\lVert \phi(s) - \phi(g) \rVert_2$, $\phi$ of another task | far in $\phi$, far in time |
| `tcn` | below, to frame $t$ of a demonstration | the robot keeps its pace |
| `hold_r`, `hold_c` | predicted frames to go; $\lVert f(s) - f(g) \rVert_2$ | robots move as hands do |
| `untrained` | `hold_c` with the random weights that it starts from | a camera that stands still |

**R3M** (Nair et al., 2022) is a ResNet-50 trained on egocentric video; **timm** has most of what followed.
"""

# %%
R3M_ABSENT = "there is no {0}, R3M's weights; by pip's gdown: gdown 1Xu0ssuG0N1zjZS54wmWzJ7-nb0-7XzbA -O {0}"


def embedding_file(path, name, *layers):
    """Write layers, uint8 frames (B, H, W, 3) -> (B, E), as the distance file `path`, and return it."""
    save_distance(path, nn.Sequential(*layers), {"name": name, "kind": "embedding", "history": 1})
    return path


def pixel_file(path, size=48):
    """Write pixel L2, over the centre square scaled to [0, 1], as a distance file."""
    return embedding_file(path, "pixels", Preprocess(size, mean=(0.0, 0, 0), std=(1.0, 1, 1)), nn.Flatten())


def r3m_file(path, checkpoint):
    """Write R3M's released ResNet-50 as a distance file. UserError where the checkpoint is none."""
    if not Path(checkpoint).is_file():
        raise UserError(R3M_ABSENT.format(checkpoint))
    network, prefix = resnet50(), "module.convnet."  # beside it the file holds language models
    network.fc = nn.Identity()
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["r3m"]
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    except Exception as error:
        raise UserError(f"{checkpoint} does not hold R3M's ResNet-50, {prefix}*; get it anew") from error
    preprocess = Preprocess(256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return embedding_file(path, "R3M", preprocess, CenterCrop(224), network)


def timm_file(path, name, pretrained=True):
    """Write the frozen features of a timm model as a distance file. UserError where it cannot be had."""
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # no such model or tag, no network, no space: whatever timm and the hub say
        raise UserError(f"timm has no {name}, or cannot fetch it ({type(error).__name__}); fetch it once: "
                        f"python -c \"import timm; timm.create_model('{name}', True)\"") from error
    data = timm.data.resolve_model_data_config(network)
    return embedding_file(path, name, Preprocess(data["input_size"][-1], data["mean"], data["std"]), network)

# %% [markdown]
r"""
**TCN** (Sermanet et al., 2018) is trained like HOLD-C; what differs is its use. The robot is to be at time
$t$ where a *demonstration* was at time $t$, and to stay where it ended:

$$d(s_t, g_t) = \alpha D + \beta\sqrt{\gamma + D}, \qquad D = \lVert f(s_t) - f(g_t) \rVert_2^2 ,$$

with $\alpha = 0.005$, $\beta = 0.02$, $\gamma = 0.2$ (paper IV-C). The first term pulls from afar, the second
near by. At $D = 0$ it is $\beta\sqrt\gamma$, which 05 subtracts as $d(g, g)$. Below, a rollout of the task's
script. Left, each distance to its last frame: a useful one falls all the way. Right, TCN's mean distance to
the same rollout, early or late: it grows, though every frame is on the right way.
"""

# %%
def tcn_distance(D, alpha=0.005, beta=0.02, gamma=0.2):
    """TCN's distance from the squared Euclidean distance D of embeddings, any shape (paper IV-C)."""
    return alpha * D + beta * (gamma + D).sqrt()


far, there = tcn_distance(torch.tensor([100.0, 0.0]))
assert abs(there - 0.02 * 0.2**0.5) < 1e-9 and abs(far - 0.70020) < 1e-4


class TCN(nn.Module):
    """`tcn_distance` over an embedding program: frames (B, 1, H, W, 3), goals (B, H, W, 3) -> (B,)."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, frames, goal):
        """Measure."""
        return tcn_distance((self.embed(frames[:, 0]) - self.embed(goal)).square().sum(-1))


def tcn_file(path, embedding):
    """Write TCN's distance over the embedding in a distance file of 03."""
    embed = load_distance(embedding).program
    embed.train = lambda mode: embed  # an exported program has one mode
    save_distance(path, TCN(embed), {"name": "TCN", "kind": "pairwise", "history": 1})
    return path

# %% [markdown]
r"""
## From rewards to commands

A run is a command line of `05_sac.py`, a reward the flags that make it different: this dictionary is the
whole experiment. 05 computes $T$ by the paper's one rule, a start scores $-1/3$, for all rewards.

Two runs that share a distance file share its luck. So the run with seed $k$ uses the distance *trained* with
seed $k$, for `untrained` another draw of weights, for `tcn` demonstration $k \bmod 3$ (ours; paper: five
seeds on each). `-T0.1` multiplies $T$ by 0.1, but not the threshold that ends a stage of the drawer.
Lengths are fixed before a run starts: runs stopped when they look good make a method look fast. Each has a
core. All curves in `--out` are compared: other flags want another. Interrupted, the same command goes on.
"""

# %%
TRAINED = {  # distance: the command that trains it, but for --seed and --out
    "hold_c": "03_hold_c.py", "hold_r": "02_hold_r.py", "untrained": "03_hold_c.py --steps 0",
    "hold_c-vit": "03_hold_c.py --network vit_tiny_patch16_224", "hold_r-1frame": "02_hold_r.py --history 1",
    "hold_r-vivit": "02_hold_r.py --network vivit_tiny", "hold_c-long": "03_hold_c.py --steps 2400"}
REWARDS = {  # reward: flags of 05_sac.py
    "sparse": "--distance none", "sparse-long": "--distance none", "oracle": "--distance oracle",
    "pixels": "--distance pixels", "frozen": "--distance {out}/{timm}.pt2",
    "r3m": "--distance {out}/r3m.pt2 --threshold 0.5",  # authors' code
    "tcn": "--distance {tcn} --goals {data}/demonstrations/{task}/{third}.webm --random-start 0",
    **{name: f"--distance {{{name}}}" for name in TRAINED}}
for name in ("hold_c", "hold_r"):
    REWARDS[f"{name}-only"] = REWARDS[name] + " --sparse-weight 0"
    REWARDS[f"{name}-instantaneous"] = REWARDS[name] + " --form instantaneous"
    for factor in ("0.1", "0.3", "3"):
        REWARDS[f"{name}-T{factor}"] = f"{REWARDS[name]} --scale-factor {factor}"
FIGURES = {  # figure of the paper: its rewards
    "3": "sparse hold_r hold_c hold_r-only hold_c-only", "5": "sparse pixels r3m tcn hold_c",
    "4": "sparse oracle hold_r hold_c hold_r-only hold_c-only", "8": "hold_c sparse-long",
    "6b": "hold_r hold_r-instantaneous", "6c": "hold_r-1frame hold_r hold_r-vivit hold_c hold_c-vit",
    "6d": "hold_c hold_c-instantaneous",
    **dict.fromkeys(("6a", "7"), "hold_r-T0.1 hold_r-T0.3 hold_r hold_r-T3")}
STEPS = {"pushing": 400_000, "drawer_open": 400_000, "close_drawer": 35_000, "cup_forward": 35_000,
         "faucet_right": 35_000}  # of a run in the paper


def flags_of(reward, config, k):
    """The flags of 05_sac.py for a reward and seed k, a list of words."""
    files = {name: config.learned.format(reward=name, seed=k) for name in TRAINED}
    tcn = Path(files["hold_c"]).with_name("tcn.pt2")
    flags = [word.format(**vars(config), **files, tcn=tcn, third=k % 3) for word in REWARDS[reward].split()]
    large = config.agent == "paper" and reward.startswith(("hold_r", "pixels"))
    return [*flags, "--stage-cost", "20"] if large else flags  # authors' code; HOLD-C: 2


flags_of("hold_c-T0.1", Config(), k=3)

# %%
def robot_video(config):
    """A video of the task's success, as the robot's camera sees it; 05 makes it where it is missing."""
    path = Path(config.out, "videos", f"{config.task}-success.mp4")
    if not path.is_file():
        pixels = pixel_file(f"{config.out}/pixels.pt2")
        run_script("05_sac.py", "--look", "--tasks", config.task, "--distances", pixels, "--out", path.parent)
    return path


def make_files(reward, k, config):
    """Make what a run reads where it is missing; returns its distance file. UserError where it cannot."""
    _, path, *more = map(Path, flags_of(reward, config, k))
    if reward == "tcn" and not (ensure(config.data) or more[1].is_file()):
        raise UserError(f"there is no {more[1]}; 01 makes those of pushing and drawer_open, add your own")
    if path.suffix != ".pt2" or path.exists():
        return path
    if reward == "tcn":
        tcn_file(path, make_files("hold_c", k, config))
    elif reward in ("r3m", "frozen"):
        r3m_file(path, config.r3m) if reward == "r3m" else timm_file(path, config.timm)
    elif (name := path.parent.name.removesuffix(f"-seed{k}")) in TRAINED:
        run_script(*TRAINED[name].split(), "--seed", k, "--out", path.parent)
    else:  # not the laptop's: it takes days, or wants your data
        raise UserError(f"there is no {path}; train it first, with 02 or 03, --preset or --data, --seed {k}")
    return path

# %%
Job = NamedTuple("Job", [("folder", Path), ("steps", int), ("command", tuple)])  # a run of 05_sac.py


def list_jobs(config):
    """All runs of a comparison, seed by seed: an early stop is fair. UserError for unknown rewards."""
    rewards = FIGURES[config.figure].split() if config.figure else list(config.rewards)
    if unknown := [name for name in rewards if name not in REWARDS]:
        raise UserError(f"there is no reward {unknown[0]!r}; choose among {' '.join(REWARDS)}")
    if len(rewards) > 1 and "r3m" in rewards and not Path(config.r3m).is_file():
        print("r3m is left out:", R3M_ABSENT.format(config.r3m))
        rewards.remove("r3m")
    script, jobs = str(Path(common.__file__).with_name("05_sac.py")), []
    for k, reward in itertools.product(range(config.seeds), rewards):
        folder = Path(config.out, config.task, f"{reward}-seed{k}")
        steps = (config.steps or STEPS[config.task]) * (10 if reward == "sparse-long" else 1)
        words = f"--preset {config.agent} --task {config.task} --steps {steps} {config.flags}".split()
        words += [*flags_of(reward, config, k), "--seed", str(k), "--out", str(folder)]
        jobs.append(Job(folder, steps, (sys.executable, script, *words)))
    return jobs


def steps_done(job):
    """Environment steps of a run that its curve shows. UserError where another command made it."""
    curve, note = job.folder / "curve.csv", job.folder / "command.txt"
    if not curve.is_file():
        return 0
    made = note.read_text() if note.is_file() else "unknown"
    if made != " ".join(job.command[2:]):
        raise UserError(f"{job.folder} was made with other settings ({made}); give another --out")
    return min(job.steps, int(read_csv(curve)["step"].max()))

# %%
def distance_along(distance, frames, goals):
    """d(s_t, g_t) - d(g_t, g_t) along a video (T, H, W, 3), goals (T, H, W, 3); frame 0 fills the history."""
    history = distance.history
    window = np.maximum(0, np.arange(len(frames))[:, None] + np.arange(1 - history, 1))  # (T, history)
    shown = frames[window] if history > 1 else frames
    still = np.repeat(goals[:, None], history, 1) if history > 1 else goals
    return (distance(shown, goals) - distance(still, goals)).clamp(min=0).numpy()


def rivals_figure(frames, distances, lags=range(-12, 13, 3)):
    """Frames (T, H, W, 3), each of {name: Distance} along them, and what it costs TCN over it to be late."""
    figure, axes = plt.subplot_mosaic([["strip", "strip"], ["along", "late"]], figsize=(9, 4))
    axes["strip"].imshow(np.concatenate(list(frames[np.linspace(0, len(frames) - 1, 10).astype(int)]), 1))
    axes["strip"].axis("off")
    for name, distance in distances.items():
        along = distance_along(distance, frames, np.repeat(frames[-1:], len(frames), 0))
        axes["along"].plot(along / along[0], label=name)
        at = [np.clip(np.arange(len(frames)) - lag, 0, len(frames) - 1) for lag in lags]  # (lags, T)
        late = [distance_along(distance, frames[shown], frames) for shown in at]
        cost = (tcn_distance(torch.tensor(np.array(late)) ** 2) - there).mean(1)
        axes["late"].plot(lags, cost / cost.max())
    axes["along"].set(xlabel="frame", ylabel="distance / at the start", ylim=(0, None))
    axes["late"].set(xlabel="frames late", ylabel="mean of TCN / its maximum", ylim=(0, None))
    axes["along"].legend()
    return figure


if trains:
    jobs = list_jobs(config)  # refuses what it does not know before anything is made
    files = {"pixels": pixel_file(f"{config.out}/pixels.pt2")}
    kinds = dict.fromkeys(job.folder.name.rpartition("-seed")[0] for job in jobs)
    files |= {name: make_files(name, 0, config) for name in kinds if name in TRAINED}
    distances = {name: load_distance(path) for name, path in files.items()}
    show(rivals_figure(read_clip(robot_video(config))[0], distances), f"{config.out}/rivals.png")

# %%
def start(job, core):
    """Start a run as a process with one thread, on Linux bound to one core."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "command.txt").write_text(" ".join(job.command[2:]))
    with open(job.folder / "log.txt", "a") as log:
        alone = dict(os.environ, OMP_NUM_THREADS="1")
        process = subprocess.Popen(job.command, stdout=log, stderr=log, env=alone)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {core})
    return process


def run_jobs(jobs, cores=0, draw=lambda: None):
    """Run what is not finished, `draw` when a curve grows; in the end, UserError where a run has failed."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    free = [own[i % len(own)] for i in range(cores or len(own))]
    todo = [job for job in jobs if steps_done(job) < job.steps]
    running, failed = {}, []
    bar = tqdm(total=sum(job.steps for job in jobs), initial=sum(map(steps_done, jobs)), unit="step")
    try:
        while todo or running:
            while todo and free:
                core, job = free.pop(0), todo.pop(0)
                running[start(job, core)] = job, core
            time.sleep(0.3)
            for process in [process for process in running if process.poll() is not None]:
                job, core = running.pop(process)
                free.append(core)
                failed += [job] * (process.returncode != 0)
            done = sum(map(steps_done, jobs))
            if done > bar.n:
                bar.update(done - bar.n)
                draw()
    finally:
        for process in running:
            process.terminate()
            process.wait()
    if failed:
        last = (failed[0].folder / "log.txt").read_text().strip().splitlines()[-1:]
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed, {failed[0].folder} with: {''.join(last)}")

# %% [markdown]
r"""
## Curves people trust

Two runs that differ only in the seed may differ more than two methods do. So a *kind* of run is trained with
$S$ seeds, and told by the mean with its standard error $\hat\sigma / \sqrt S$, as in the paper, and by the
**interquartile mean** (IQM; Agarwal et al., 2021), without the best and the worst quarter of the runs. How
sure is a number? Draw $S$ of the $S$ runs with replacement, compute it, 2,000 times: the middle 95%.
"""

# %%
def kind_of(path):
    """(kind, seed) of a curve, `<kind>-seed<k>/curve.csv` or `<kind>-seed<k>.csv`."""
    name = Path(path).parent.name if Path(path).name == "curve.csv" else Path(path).stem
    kind, found, seeds = name.rpartition("-seed")  # -seed0-2: a file of three, with a column seed
    return (kind, int(first)) if found and (first := seeds.split("-")[0]).isdigit() else (name, 0)


def read_curves(paths, column):
    """Read files or a task's folder: {kind: [(steps (K,), values (K,)) without nan]}; UserError: no curve."""
    if isinstance(paths, Path):
        paths = sorted([*paths.glob("*-seed*/curve.csv"), *paths.glob("*-seed*.csv")])
    kinds = {}
    for path in paths:
        (kind, seed), table = kind_of(path), read_csv(path)
        if "step" not in table:
            raise UserError(f"{path} has no column step; give curves that 05_sac.py writes")
        values = table.get(column, np.full(len(table["step"]), np.nan))
        seeds = table.get("seed", np.full(len(values), seed))
        for seed in np.unique(seeds):
            rows, runs = (seeds == seed) & ~np.isnan(values), kinds.setdefault(kind, {})
            if seed in runs:
                raise UserError(f"{path} is the second file with seed {seed:g} of {kind}; choose one")
            runs[seed] = table["step"][rows], values[rows]
    return {kind: own for kind, runs in kinds.items() if (own := [r for r in runs.values() if len(r[0])])}

# %%
def interval(statistic, *groups, draws=2000):
    """Bootstrap: middle 95% of a statistic of groups of runs (S, ...), drawn anew; nan for a single run."""
    rng = np.random.default_rng(0)
    drawn = statistic(*(group[rng.integers(len(group), size=(draws, len(group)))] for group in groups))
    return np.quantile(drawn, (0.025, 0.975), 0) + (0 if min(map(len, groups)) > 1 else np.nan)


def summary(runs, steps):
    """Of runs at steps (K,): {"mean", "error", "iqm", "low", "high"}, each (K,)."""
    values = np.stack([np.interp(steps, *run) for run in runs])  # (S, K)
    error = values.std(0, ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else np.full(len(steps), np.nan)
    low, high = interval(lambda drawn: trim_mean(drawn, 0.25, axis=1), values)
    return {"mean": values.mean(0), "error": error, "iqm": trim_mean(values, 0.25), "low": low, "high": high}


toy = summary([([1], [end]) for end in (0, 6, 7, 8, 99)], steps=[1])  # the mean follows the last run
assert toy["mean"] == 24 and toy["low"] < toy["iqm"] == 7 < toy["high"]
toy

# %% [markdown]
r"""
The paper's "10 times as fast" is the steps that one method needs to a level, over the other's. With
$n_i(\theta)$ the first step at which run $i$ reaches the level $\theta$,

$$\text{speed-up} = \text{mean}_i\, n_i^\text{slow}(\theta) \,/\, \text{mean}_j\, n_j^\text{fast}(\theta) ,$$

with the interval from seeds drawn anew on both sides. A run that never arrives is *censored*: it counts with
the last step of its kind, and so do later arrivals. So such runs make a ratio too small on the slow side, too
large on the fast; if all of a side are, it has no spread: three arrivals to none hold, 1 in 12 by chance.
"""

# %%
def arrivals(runs, level):
    """(first step at which each run reaches a level (S,), inf for never; the last step that all have)."""
    first = []
    for steps, values in runs:
        k = np.argmax(values >= level)
        two = slice(max(0, k - 1), k + 1)  # on the straight line between two numbers
        first.append(np.interp(level, values[two], steps[two]) if values[k] >= level else np.inf)
    return np.array(first), min(steps[-1] for steps, _ in runs)


def speed_up(slow, fast, level):
    """How many times fewer steps the runs `fast` need than the runs `slow`: (ratio, low, high)."""
    (slow, slow_end), (fast, fast_end) = arrivals(slow, level), arrivals(fast, level)
    end = min(slow_end if np.isinf(slow).any() else np.inf, fast_end if np.isinf(fast).any() else np.inf)
    if min(slow.min(), fast.min()) >= end:
        return np.nan, np.nan, np.nan
    slow, fast = np.minimum(slow, end), np.minimum(fast, end)
    low, high = interval(lambda slow, fast: slow.mean(1) / fast.mean(1), slow, fast)
    return float(slow.mean() / fast.mean()), float(low), float(high)


speed_up([(np.arange(9), np.arange(9))] * 2, [(np.arange(9), 2 * np.arange(9))] * 2, level=6)  # twice as fast

# %% [markdown]
r"""
**The rule.** Two levels: half of the latest 20 *training* episodes succeed (four tasks start alike, so an
evaluation is one episode, a coin), and the paper's (a return of 80 on pushing, 145 on drawer open; elsewhere
none: .9). "Faster" *holds*, or *does not hold*, where both sides have five seeds and the interval excludes 1;
"is learned" where all of five runs arrive, or none does. All else is *undecided*.
"""

# %%
SEEDS = 5
LEVELS = {task: [("train_success", 0.5), ("train_success", 0.9)] for task in STEPS}
LEVELS["pushing"][1], LEVELS["drawer_open"][1] = ("return", 80), ("return", 145)


def verdict(low, high, seeds):
    """What may be said of a speed-up with this interval and at least so many seeds on each side."""
    if seeds < SEEDS or not (low > 1 or high < 1):
        return "undecided"
    return "holds" if low > 1 else "does not hold"


def each(numbers, digits=0):
    """Numbers of runs in words, one by one; inf is never."""
    return " ".join(f"{n:.{digits}f}" for n in numbers).replace("inf", "never")


def compare_two(curves, slower, faster, column, level):
    """A row of speedups.csv: how many times as fast one kind in `curves` is as another, and the verdict."""
    ratio, low, high = speed_up(curves[slower], curves[faster], level)
    told = verdict(low, high, min(len(curves[slower]), len(curves[faster])))
    first = {kind: arrivals(curves[kind], level)[0] for kind in (slower, faster)}
    return {"slower": slower, "faster": faster, "column": column, "level": level, "ratio": ratio, "low": low,
            "high": high, "verdict": told, "runs": "; ".join(f"{k} {each(first[k])}" for k in first)}

# %%
def plot_curves(panels):
    """An axis for each {title: (curves, column, level)}: mean, standard error, every run."""
    figure, axes = plt.subplots(1, len(panels) or 1, figsize=(1.5 + 3.5 * len(panels), 3), squeeze=False)
    for axis, (title, (curves, column, level)) in zip(axes[0], panels.items()):
        for color, (kind, runs) in enumerate(curves.items()):
            steps = min((steps for steps, _ in runs), key=lambda steps: steps[-1])
            mean, error, *_ = summary(runs, steps).values()
            axis.plot(steps, mean, f"C{color}.-", label=f"{kind} ({len(runs)})")
            axis.fill_between(steps, mean - error, mean + error, alpha=0.2, lw=0, color=f"C{color}")
            axis.plot(*itertools.chain(*runs), color=f"C{color}", lw=0.5, alpha=0.5)
        axis.axhline(level, color="grey", lw=0.8, ls=":")
        axis.set(xlabel="environment steps", ylabel=column, title=title)
        axis.legend(fontsize=6, title="kind (seeds)")
    return figure


def paper_figure(number, home):
    """A figure of the paper from the curves below `home`, an axis for each task with runs."""
    panels = {}
    for task in LEVELS:
        curves = read_curves(Path(home, task), LEVELS[task][1][0])
        if own := {kind: curves[kind] for kind in FIGURES[number].split() if kind in curves}:
            panels[task] = own, *LEVELS[task][1]
    return plot_curves(panels)


ASSETS = Path(common.__file__).with_name("assets")  # the committed curves, see its RESULTS.md
if trains and ASSETS.is_dir():
    for number in ("3", "4", "5"):
        show(paper_figure(number, ASSETS), f"{config.out}/figure{number}.png")

# %% [markdown]
r"""
## The paper's claims

Statements about policies: the paper's tasks, the reward said to be faster, the one said to be slower. The
last two are ours. One more, that scores on human video tell nothing of robots, can only be refuted.
"""

# %%
CLAIMS = [  # claim, the paper's tasks, faster, slower
    ("HOLD-C + sparse beats sparse (10x, drawer 18x)", "pushing drawer_open", "hold_c", "sparse"),
    ("HOLD-C beats HOLD-R", "pushing drawer_open", "hold_c", "hold_r"),
    ("The task is learned without sparse reward", "close_drawer", "hold_c-only", ""),
    ("HOLD-C beats TCN", "pushing drawer_open", "hold_c", "tcn"),
    ("HOLD-C beats R3M or frozen features", "pushing drawer_open", "hold_c", "r3m or frozen"),
    ("HOLD-C beats pixel L2", "pushing drawer_open", "hold_c", "pixels"),
    ("Cumulative beats instantaneous", "pushing", "hold_c", "hold_c-instantaneous"),
    ("T beats a tenth of it (paper: a fifth)", "pushing", "hold_c", "hold_c-T0.1"),
    ("HOLD-C beats its network untrained (ours)", "pushing", "hold_c", "untrained"),
    ("HOLD-C trained three times as long does (ours)", "pushing", "hold_c-long", "untrained")]


def judge(curves, faster, slower, column, level):
    """(verdict, what was measured) of one claim at one level, from the curves of one task."""
    others = [name for name in slower.split(" or ") if name in curves]
    if faster not in curves or (slower and not others):
        return "not tested", ""
    if slower:
        row = compare_two(curves, others[0], faster, column, level)
        told = "{ratio:.4g} ({low:.4g} to {high:.4g}): {runs}".format(**row)
        return row["verdict"], told.removeprefix("nan (nan to nan): ")
    found = np.isfinite(arrivals(curves[faster], level)[0])
    share = found.mean() if len(found) >= SEEDS else 0.5
    told = {1: "holds", 0: "does not hold"}.get(share, "undecided")
    return told, f"{found.sum()} of {len(found)} runs arrive"


def claims_table(folder):
    """A row for each claim, task and level: on the paper's tasks always, on others where there are runs."""
    rows = []
    for (claim, tasks, *sides), task in itertools.product(CLAIMS, LEVELS):
        for column, level in LEVELS[task]:
            told = judge(read_curves(Path(folder, task), column), *sides, column, level)
            if task in tasks or told[0] != "not tested":
                rows.append((claim, task, column, level, *told))
    if (path := ASSETS / "predicts_the_robot.csv").is_file():  # its first row: Spearman there and here
        rho, low, high, n = (read_csv(path)[name][0] for name in ("rho", "low", "high", "files"))
        rows.append(("Scores on human video do not predict the robot", "all", "", "",
                     "undecided" if low <= 0 <= high else "does not hold",
                     f"rank correlation {rho:.2f} ({low:.2f} to {high:.2f}) over {n:.0f} distance files"))
    return [dict(zip(("claim", "task", "column", "level", "verdict", "measured"), row)) for row in rows]


CLAIM = "| {verdict} | {claim} | {task} | {column} {level} | {measured} |"  # rows of Markdown tables
if trains:
    print(*(CLAIM.format(**row) for row in claims_table(ASSETS)), sep="\n")

# %%
ROW = ("| `{kind}` | {T} | {column} at {step:.0f}: {ends} | {mean:.2f} ± {error:.2f} "
       "| {iqm:.2f} ({low:.2f} to {high:.2f}) | {level:g}: {first} |")


def compare(paths, levels, folder, update=False):
    """Write table.csv, speedups.csv (of two kinds or more) and curves.png; returns the table's rows."""
    read, scales = {level: read_curves(paths, level[0]) for level in levels}, read_curves(paths, "T")
    if not all(read.values()):
        raise UserError(f"no curve, or none with numbers in {levels[-1][0]}; give other files or --column")
    rows, pairs = [], []
    for (column, level), curves in read.items():
        end = min(arrivals(runs, level)[1] for runs in curves.values())  # the last step that all have
        for kind, runs in curves.items():
            numbers = {name: float(number[0]) for name, number in summary(runs, [end]).items()}
            rows.append({"kind": kind, "seeds": len(runs), "column": column, "level": level, "step": end,
                         **numbers, "ends": each([np.interp(end, *run) for run in runs], 2),
                         "first": each(arrivals(runs, level)[0]),
                         "T": each([T[-1] for _, T in scales.get(kind, [])], 3)})
        pairs += [compare_two(curves, *pair, column, level) for pair in itertools.permutations(curves, 2)]
    write_csv(Path(folder, "table.csv"), rows)
    if pairs:
        write_csv(Path(folder, "speedups.csv"), pairs)
    panels = {f"level {level[1]:g}": (curves, *level) for level, curves in read.items()}
    show(plot_curves(panels), f"{folder}/curves.png", update)
    return rows


if trains:
    home, drawn = Path(config.out, config.task), []
    for job in [job for job in jobs if steps_done(job) < job.steps]:
        make_files(*kind_of(job.folder / "curve.csv"), config)
    run_jobs(jobs, config.cores, lambda: drawn.append(compare(home, LEVELS[config.task], home, bool(drawn))))

# %%
if trains:
    table = compare(home, LEVELS[config.task], home)
    write_csv(f"{config.out}/claims.csv", claims_table(config.out))
    if config.figure:
        show(paper_figure(config.figure, config.out), f"{config.out}/paper{config.figure}.png")
elif __name__ == "__main__":
    found = {path for pattern in config.plot for path in glob(pattern, recursive=True)}
    own = [(config.column, config.level)]
    table = compare(sorted(found), own if config.column else LEVELS[config.task], config.out)
for row in table:
    print(ROW.format(**row))

# %% [markdown]
r"""
## What we learned

- TCN asks where the robot *should be now*: a demonstration must fit in start, crop and speed.
- With few seeds "undecided" is an honest verdict, and a level chosen after a look decides what one wanted.
- A weak agent hides what a reward is worth, and so does an easy task, where most rewards arrive.

**Exercises.**
1. `--rewards hold_c hold_c-only --out runs/only`: *expect* the arm to learn without the sparse reward too.
2. In `tcn_distance`, `beta=0`, without the `assert`. *Expect* right curves that are rounder at the bottom.
3. In `interval`, ask for the middle 50%. *Expect* verdicts that hold, and that the next five seeds overturn.
"""
