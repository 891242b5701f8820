# %% [markdown]
r"""
# Baselines: is it HOLD, or would any distance do?

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023, section IV-C and
Appendices C and D.

A learned reward that works proves little until something simpler has failed. This lecture turns each rival into what
`05_sac.py` already reads, a distance file or a flag, trains them all alike, and draws the paper's figures from the curves.

**Takes** the distance files of 02 and 03, made if they are missing, and for `tcn` the demonstrations of 01.
**Writes** `runs/baselines/<task>/<reward>-seed<k>/curve.csv`, beside these folders `comparison.png` and what `05_sac.py --plot`
makes of them (`table.csv`, `speedups.csv`), and `runs/baselines/claims.csv`.

```
python 06_baselines.py --dry-run                        # the commands it would run, and the minutes they take
python 06_baselines.py --rewards sparse pixels hold_c   # close drawer, 3 seeds each: about 35 minutes on two cores
python 06_baselines.py --task pushing --rewards sparse hold_c --steps 24000 --flags "--batch 256"   # the main claim: 100 minutes
python 06_baselines.py --task pushing --preset paper    # 80,000 steps, 5 seeds: for a machine with a GPU
python 06_baselines.py --ablation scale                 # also: form, architecture, long-sparse
python 06_baselines.py --film runs/look/pushing-success.mp4 --rewards pixels tcn hold_c   # the rivals along a film of 05 --look
```

Finished runs are kept, a stopped one goes on, and a table of what is there is drawn each time.
"""

# %%
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (Preprocess, UserError, load_distance, parse_config, plot_style, read_clip, read_csv, run_script,
                    save_distance, write_csv, write_whole)


# %%
@dataclass
class Config:
    """Train the same agent on HOLD's reward and on its rivals', and compare the curves."""

    task: Literal["pushing", "drawer_open", "close_drawer", "cup_forward", "faucet_right"] = "close_drawer"  # which
    rewards: tuple[str, ...] = ("sparse", "oracle", "pixels", "tcn-robot", "hold_r", "hold_c")  # see the table of rewards
    seeds: int = 3  # runs of each; paper: 5 on pushing and drawer_open, 10 on the others
    steps: int = 10_000  # environment steps of a run
    flags: str = ""  # further flags for 05_sac.py, such as "--preset paper"
    hold_c: str = "runs/hold_c/distance.pt2"  # distance file of 03; also the embedding that TCN uses
    hold_r: str = "runs/hold_r/distance.pt2"  # distance file of 02
    r3m: str = ""  # R3M's checkpoint, model.pt, for the reward r3m
    timm: str = ""  # a timm model whose frozen features are the reward frozen, such as resnet50.a1_in1k
    demonstrations: str = "data/standin/demonstrations"  # folder of 01 with <task>/<k>.webm, for the reward tcn
    height: int = 48  # rows of the robot's picture
    threshold: float = 0.0  # return or success that counts as learned; 0 takes the paper's
    ablation: Literal["", "scale", "form", "architecture", "long-sparse"] = ""  # of Figs. 6 to 8, in place of rewards
    jobs: int = 0  # runs at a time; 0 takes one for each core
    film: str = ""  # a film of a success, such as runs/look/pushing-success.mp4 of 05: draw the rivals along it, and stop
    out: str = "runs/baselines"  # folder of the runs
    dry_run: bool = False  # print the commands and an estimate of minutes, and stop

    @classmethod
    def paper(cls):
        """The paper's seeds, steps and network on pushing and drawer_open."""
        return cls(task="pushing", seeds=5, steps=80_000, flags="--preset paper", jobs=4,
                   rewards=("sparse", "pixels", "r3m", "tcn", "hold_r", "hold_c"))

    @classmethod
    def smoke(cls):
        """Two short runs, for tests and a look around."""
        return cls(task="pushing", rewards=("sparse", "pixels"), seeds=1, steps=120, flags="--preset smoke", height=32,
                   hold_c="runs/smoke/hold_c/distance.pt2", demonstrations="runs/smoke/clips/demonstrations",
                   out="runs/smoke/baselines")


# %% [markdown]
r"""
## The rivals

| reward | $d(s, g)$ | what it assumes |
|---|---|---|
| `sparse` | none: 1 where the task is done | chance will get there |
| `oracle` | none: a formula over the simulator's state | somebody knows the state |
| `pixels` | $\lVert s - g \rVert_2$ over pixels in $[0, 1]$ | nothing moves but what should |
| `frozen`, `r3m` | $\lVert \phi(s) - \phi(g) \rVert_2$, $\phi$ trained for something else | what is far in $\phi$ is far in time |
| `tcn` | $\alpha D + \beta\sqrt{\gamma + D}$ to the frame $g_t$ of a human demonstration | robot and human act in step |
| `tcn-robot` | the same, the demonstration being a film of the robot's own script | somebody solved it already |
| `hold_r` | predicted frames from $s$ to $g$ | robots move as hands do |
| `hold_c` | $\lVert f(s) - f(g) \rVert_2$ | the same |
| `untrained` | the same, with the weights that `hold_c` started from | a camera that stands still |

All but the first two become distance files, so that 05 needs to know nothing about them.

### Pixels

The least a picture can do. The centre square, scaled to $[0, 1]$, is its own embedding:
"""


# %%
def pixel_file(path, height):
    """Write the pixel L2 baseline as a distance file for pictures of `height` rows (authors' code: no resize)."""
    meta = {"name": "pixels", "kind": "embedding", "history": 1}
    save_distance(path, nn.Flatten(), meta, Preprocess(height, mean=(0.0, 0, 0), std=(1.0, 1, 1)))
    return path


# %% [markdown]
r"""
### Frozen features

R3M (Nair et al. 2022) trains a ResNet-50 on egocentric video with language, for a policy to stand on. The paper uses
its 2048 features as they are, with their Euclidean distance. The released file holds more than the network: keys begin
with `module.convnet.`, and the language parts are left out. Pictures are scaled to 256 on the short side, cut to 224 and
normalised as ImageNet's. `# ours:` we cut the centre square before we scale it, not after; for a square picture that is
the same.
"""


# %%
class Frozen(nn.Module):
    """A network without its classifier on the centre crop of preprocessed pictures: (B, 3, S, S) -> (B, features)."""

    def __init__(self, network, crop):
        super().__init__()
        self.network, self.crop = network, crop

    def forward(self, pictures):
        """Embed pictures."""
        return self.network(TF.center_crop(pictures, [self.crop, self.crop]))


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def r3m_file(path, checkpoint):
    """Write R3M's released ResNet-50 as a distance file. Raises UserError where its checkpoint is absent or another."""
    if not Path(checkpoint).is_file():
        raise UserError(f"the reward r3m needs R3M's checkpoint, and {checkpoint or '--r3m'} is no file; get it with: pip install gdown"
                        " && gdown 1Xu0ssuG0N1zjZS54wmWzJ7-nb0-7XzbA -O model.pt, and give --r3m model.pt")
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["r3m"]
        prefix = "module.convnet."
        weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        network = resnet50()
        network.fc = nn.Identity()
        network.load_state_dict(weights)
    except Exception as error:
        raise UserError(f"{checkpoint} does not hold R3M's ResNet-50 (key r3m, names module.convnet.*); get model.pt again") from error
    meta = {"name": "R3M", "kind": "embedding", "history": 1}
    save_distance(path, Frozen(network, 224), meta, Preprocess(256, **IMAGENET))
    return path


# %% [markdown]
r"""
R3M's link may die, and better features appear every year. timm has most of them, under one name each, with the input
size and the normalisation they were trained with.
"""


# %%
def timm_file(path, name, pretrained=True):
    """Write the frozen features of a timm model as a distance file. Raises UserError where its weights cannot be had."""
    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"timm has no model {name!r}; see timm.list_models('*dino*')")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # no network, no such tag, no space: whatever the hub says
        raise UserError(f"the weights of {name} could not be fetched ({type(error).__name__}); fetch them once with: "
                        f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\"") from error
    data = timm.data.resolve_model_data_config(network)
    size = data["input_size"][-1]
    meta = {"name": name, "kind": "embedding", "history": 1}
    save_distance(path, Frozen(network, size), meta, Preprocess(size, data["mean"], data["std"]))
    return path


# %% [markdown]
r"""
### TCN

Time-contrastive networks (Sermanet et al. 2018) are trained like HOLD-C; what differs is how a policy uses them. The
robot is to be at time $t$ where a *demonstration* was at time $t$:

$$d(s_t, g_t) = \alpha D + \beta\sqrt{\gamma + D}, \qquad D = \lVert f(s_t) - f(g_t) \rVert_2^2 ,$$

with $\alpha = 0.005$, $\beta = 0.02$, $\gamma = 0.2$ (paper IV-C). The first term pulls from afar, the second near by.
At $D = 0$ it is $\beta\sqrt\gamma$, which GoalReward subtracts as $d(g, g)$. Goals are the frames of the
demonstration one by one, and its last frame from then on. The policy that is as fast as the demonstrator,
from the same start, in the same crop, is paid in full. All others pay for being early or late, even on the right way:
"""


# %%
def tcn_distance(D, alpha=0.005, beta=0.02, gamma=0.2):
    """TCN's distance from the squared Euclidean distance D of embeddings, any shape (paper IV-C)."""
    return alpha * D + beta * (gamma + D).sqrt()


far, near, there = tcn_distance(torch.tensor([100.0, 1.0, 0.0]))
assert abs(there - 0.02 * 0.2**0.5) < 1e-9 and abs(far - 0.70020) < 1e-4

where = np.arange(8)  # a demonstration moves by one a step; so does the robot, two steps later
late = np.abs(np.maximum(where - 2, 0) - where)
assert late.tolist() == [0, 1, 2, 2, 2, 2, 2, 2]  # never close again, though every step was right


# %%
class TCN(nn.Module):
    """`tcn_distance` of the embeddings of another distance file: frames (B, 1, H, W, 3), goals (B, H, W, 3) -> (B,)."""

    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, frames, goal):
        """Measure."""
        return tcn_distance((self.embed(frames[:, 0]) - self.embed(goal)).square().sum(-1))


def tcn_file(path, hold_c):
    """Write TCN's distance over the embedding of a HOLD-C distance file as a pairwise distance file."""
    distance = load_distance(hold_c)
    if distance.kind != "embedding":
        raise UserError(f"TCN needs an embedding, and {hold_c} is of the kind {distance.kind}; give --hold-c a file of 03_hold_c.py")
    save_distance(path, TCN(distance.program), {"name": "TCN", "kind": "pairwise", "history": 1})
    return path


# %% [markdown]
r"""
## Side by side, along one film

What a policy is paid for shows in a film of a success. Left, each distance to the last frame, over its value at the
start: a useful one falls all the way, and begins to fall when the hand begins to move. Right, the same film played
$k$ frames late, with TCN's time-indexed goals: the mean distance grows with $k$, though every frame is on the right
way. A distance to one goal does not ask *when*, and its mean changes only by the frames that are missing at the end.
"""


# %%
def distance_along(distance, frames, goals):
    """d(s_t, g_t) - d(g_t, g_t) along a film (T, H, W, 3) with goals (T, H, W, 3); the first frame fills the history."""
    history = distance.history
    window = np.maximum(0, np.arange(len(frames))[:, None] + np.arange(1 - history, 1))  # (T, history)
    shown = frames[window] if history > 1 else frames
    still = np.repeat(goals[:, None], history, 1) if history > 1 else goals
    return (distance(shown, goals) - distance(still, goals)).clamp(min=0).numpy()


def film_figure(frames, distances, lags=tuple(range(0, 13, 2))):
    """A film strip, each distance along it, and what being late costs. `distances`: {name: Distance}. Returns the figure."""
    goal, time = np.repeat(frames[-1:], len(frames), 0), np.arange(len(frames))
    figure, axes = plt.subplot_mosaic([["film", "film"], ["along", "late"]], figsize=(10, 4.4), height_ratios=(1, 2))
    axes["film"].imshow(np.concatenate(list(frames[np.linspace(0, len(frames) - 1, 10).astype(int)]), 1))
    axes["film"].axis("off")
    for name, distance in distances.items():
        along = distance_along(distance, frames, goal)
        axes["along"].plot(along / along[0], label=name)
        indexed = name.startswith("tcn")
        late = [distance_along(distance, frames[np.maximum(time - lag, 0)], frames if indexed else goal).mean() for lag in lags]
        axes["late"].plot(lags, np.array(late) / along[0], marker=".", label=name)
    axes["along"].set(xlabel="frame", ylabel="distance to the last frame / at the start", ylim=(0, None))
    axes["late"].set(xlabel="frames late", ylabel="mean distance / at the start", ylim=(0, None))
    axes["late"].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# %% [markdown]
r"""
## From rewards to commands

A run is a command line of `05_sac.py`: a name, and the flags that make it different. $T$ is computed by 05 from the
task's resets, by the one rule of the paper (a start scores $-1/3$), for all rewards; `table.csv` shows it. Beside it, as
released, $T$, and for the two stages of the drawer what a later stage still costs in the one before, and the distance
below which a stage is over. We compute these two as well, as $T/5$ and $T/10$. That gives the released numbers but for
the threshold of HOLD-R and pixels (1 for a $T$ of 100) and the cost of R3M (2 for a $T$ of 5).

| as released | $T$ pushing | others | drawer_open: $T$ | cost | threshold |
|---|---|---|---|---|---|
| `hold_c` | 5 | 5 | 10 | 2 | 1 |
| `hold_r` | 45 | 45 | 100 | 20 | 1 |
| `pixels` | 30 | 30 | 100 | 20 | 1 |
| `r3m` | 3 | | 5 | 2 | 0.5 |

The paper trains TCN on three demonstrations and averages; so `tcn` stands for three rewards.
"""


# %%
class Reward(NamedTuple):
    """A row of the comparison: its name, and the flags of 05_sac.py that make it."""

    name: str
    flags: tuple


def make_file(config, name):
    """The distance file of a reward; it is made where it is missing."""
    trained = {"hold_c": (config.hold_c, "03_hold_c.py"), "hold_r": (config.hold_r, "02_hold_r.py")}
    if name in trained:
        path, script = trained[name]
        if not Path(path).is_file() and not config.dry_run:
            run_script(script, "--out", Path(path).parent)
        return path
    path = Path(config.out) / "distances" / name / "distance.pt2"
    source = str({"pixels": config.height, "r3m": config.r3m, "frozen": config.timm, "tcn": config.hold_c}.get(name, name))
    if not path.is_file() and not config.dry_run:
        makers = {"pixels": lambda: pixel_file(path, config.height), "r3m": lambda: r3m_file(path, config.r3m),
                  "frozen": lambda: timm_file(path, config.timm),
                  "untrained": lambda: run_script("03_hold_c.py", "--steps", 1, "--lr", 0, "--limit", 8, "--out", path.parent),
                  "tcn": lambda: tcn_file(path, make_file(config, "hold_c"))}
        makers[name]()
        path.with_name("made_of.txt").write_text(source)
    elif path.is_file() and (note := path.with_name("made_of.txt")).is_file() and note.read_text() != source:
        raise UserError(f"{path} was made of {note.read_text()}, not of {source}; give another --out")
    return path


# %%
REWARDS = ("sparse", "oracle", "pixels", "frozen", "untrained", "r3m", "tcn", "tcn-robot", "hold_r", "hold_c")


def robot_film(config):
    """A film of the task's script, from the run's own start; 05 makes it where it is missing."""
    film = Path(config.out) / "films" / f"{config.task}-success.mp4"
    if not film.is_file() and not config.dry_run:
        run_script("05_sac.py", "--look", "--tasks", config.task, "--distances", make_file(config, "pixels"), "--height",
                   config.height, "--out", film.parent)
    return film


def check_name(name):
    """Raise UserError for unknown names."""
    if name not in REWARDS:
        raise UserError(f"there is no reward {name!r}; choose among {' '.join(REWARDS)}")


def find_reward(config, name):
    """The rewards (mostly one) that a name stands for. Raises UserError for unknown names."""
    if name in ("sparse", "oracle"):
        return [Reward(name, ("--distance", "none" if name == "sparse" else "oracle"))]
    check_name(name)
    flags = ("--distance", str(make_file(config, name.removesuffix("-robot"))))
    if name == "tcn-robot":
        return [Reward(name, (*flags, "--goals", str(robot_film(config))))]
    if name != "tcn":
        return [Reward(name, flags)]
    films = sorted((Path(config.demonstrations) / config.task).glob("*.webm"))
    if not films:
        raise UserError(f"the reward tcn needs demonstrations {config.demonstrations}/{config.task}/*.webm; 01_data.py makes them"
                        " for pushing and drawer_open, for another task put films of your own there")
    return [Reward(f"tcn{film.stem}", (*flags, "--goals", str(film))) for film in films]


# %% [markdown]
r"""
A name with `-only` is trained without the sparse reward. The **ablations** of Appendix C change a flag of the reward
that stands last in `--rewards`: `scale` multiplies $T$ (Figs. 6a and 7), `form` takes the difference of two rewards in
place of the reward itself (6b, 6d), `architecture` takes other networks (6c), and `long-sparse` asks how long chance
alone would need (Fig. 8).
"""

# %%
ARCHITECTURES = {  # name -> the command that trains it
    "hold_r-1frame": ("02_hold_r.py", "--history", "1"), "hold_r-3frames": ("02_hold_r.py",),
    "hold_r-vivit": ("02_hold_r.py", "--network", "vivit_tiny"), "hold_c-resnet": ("03_hold_c.py",),
    "hold_c-vit": ("03_hold_c.py", "--network", "vit_tiny_patch16_224")}


def ablated_rewards(config):
    """The rewards of one of the paper's ablations."""
    if config.ablation == "long-sparse":
        return [*find_reward(config, config.rewards[-1]), Reward("sparse-long", ("--distance", "none", "--steps", str(10 * config.steps)))]
    if config.ablation == "architecture":
        for name, (script, *flags) in ARCHITECTURES.items():
            if not Path(f"runs/{name}/distance.pt2").is_file() and not config.dry_run:
                run_script(script, *flags, "--out", f"runs/{name}")
        return [Reward(name, ("--distance", f"runs/{name}/distance.pt2")) for name in ARCHITECTURES]
    (name, flags), *_ = find_reward(config, config.rewards[-1])
    scaled = [Reward(f"{name}-T{factor:g}", (*flags, "--scale-factor", f"{factor:g}")) for factor in (0.1, 0.3, 3)]
    if config.ablation == "scale":
        return [Reward(name, flags), *scaled]
    other = Reward(f"{name}-instantaneous", (*flags, "--form", "instantaneous"))
    return [Reward(name, flags), scaled[0], other, Reward(f"{other.name}-T0.1", (*other.flags, *scaled[0].flags[-2:]))]


def list_rewards(config):
    """The rows of this comparison."""
    if config.ablation:
        return ablated_rewards(config)
    rewards = []
    for name in config.rewards:
        only = ("--sparse-weight", "0") if name.endswith("-only") else ()
        found = find_reward(config, name.removesuffix("-only"))
        rewards += [Reward(r.name + "-only" * bool(only), r.flags + only) for r in found]
    return rewards


# %%
class Job(NamedTuple):
    """One run of 05_sac.py."""

    reward: str
    folder: Path
    command: tuple


def list_jobs(config):
    """All runs of a comparison, seed by seed, so that an early stop leaves a fair one."""
    rewards, home = list_rewards(config), Path(config.out) / config.task
    start = (sys.executable, "05_sac.py", *config.flags.split(), "--task", config.task, "--steps", str(config.steps),
             "--height", str(config.height))
    folders = [(r, seed, home / f"{r.name}-seed{seed}") for seed in range(config.seeds) for r in rewards]
    return [Job(r.name, folder, (*start, *r.flags, "--seed", str(seed), "--out", str(folder))) for r, seed, folder in folders]


def settings_of(job):
    """The command of a run without its number of steps, which may grow."""
    words = job.command[1:]
    return " ".join(word for before, word in zip(("", *words), words) if "--steps" not in (before, word))


def check_settings(jobs):
    """Raise UserError where a run's folder holds one that another command made."""
    for job in jobs:
        note = job.folder / "command.txt"
        if (job.folder / "curve.csv").is_file() and note.is_file() and note.read_text() != settings_of(job):
            raise UserError(f"{job.folder} was made with other settings, python {note.read_text()}; give another --out")


def last_step(job):
    """The number of steps of a run: its last --steps."""
    return [int(value) for flag, value in zip(job.command, job.command[1:]) if flag == "--steps"][-1]


def is_finished(job):
    """Does the run's curve reach its last step?"""
    path = job.folder / "curve.csv"
    return path.is_file() and read_csv(path)["step"][-1] >= last_step(job)


# %% [markdown]
r"""
Runs are processes of their own, one on each core, and none may stray to another's: two runs that share two cores make 11 steps
a second each, two that own one each make 28, and a single run on both makes 32. Each keeps what it prints in `log.txt`.
Ctrl-C is passed on: a run ends its episode, saves itself, and goes on next time. One run that fails does not stop the others.
"""


# %%
def start(job, cores):
    """Start a run as a process that stays on these cores, where the system has such a notion (Linux)."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "command.txt").write_text(settings_of(job))
    with open(job.folder / "log.txt", "a") as log:
        process = subprocess.Popen(job.command, stdout=log, stderr=log, start_new_session=True,
                                   env={"OMP_NUM_THREADS": str(len(cores))} | os.environ)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, cores)
    return process


def run_jobs(jobs, at_once=0):
    """Run what is not finished, `at_once` at a time. Raises UserError, with the run's last line, where one failed."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    at_once = at_once or len(cores)
    shares = [cores[i % len(cores) :: at_once] for i in range(at_once)]  # which cores each of them owns
    todo, running, failed = [job for job in jobs if not is_finished(job)], {}, []
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc="runs")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us by `kill` stops the runs too
    try:
        while todo or running:
            while todo and shares:
                job, share = todo.pop(0), shares.pop(0)
                running[job] = start(job, share), share
            for job in [job for job, (process, _) in running.items() if process.poll() is not None]:
                process, share = running.pop(job)
                shares.append(share)
                failed += [job] * (process.returncode != 0)
                bar.update()
            time.sleep(0.2)
    finally:
        for process, _ in running.values():
            process.send_signal(signal.SIGINT)
        for process, _ in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    if failed:
        last = (failed[0].folder / "log.txt").read_text().strip().splitlines()[-1:] or [""]
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed, {failed[0].folder} with: {last[0]}")


# %% [markdown]
r"""
## What to compare

The paper compares *when*, not only *how high*: how many steps one method needs to a level, over the steps of another.
`05_sac.py --plot` computes it, with intervals over seeds, and writes what it finds as CSV files; we only read them. The
levels are the paper's: a return of 80 on pushing, of 145 on drawer_open (how many steps the task is in its done state), a
success of 0.9 on the others. These others always start in the same state, so that a policy without noise plays one
single episode, and its success is a coin that falls anew at each evaluation. `# ours:` we read the success of the
latest 20 training episodes there. The demonstrations of TCN count as one kind, each a stratum.
"""


# %%
MEASURE = {"pushing": ("return", 80), "drawer_open": ("return", 145), "close_drawer": ("train_success", 0.9),
           "cup_forward": ("train_success", 0.9), "faucet_right": ("train_success", 0.9)}
POOL = r"(?<=^tcn)\d+"  # tcn0, tcn1 and tcn2 are one kind, tcn


def compare_runs(folder, threshold=0):
    """Let 05 compare the runs below a task's folder: curves.csv, table.csv, speedups.csv and curves.png."""
    column, level = MEASURE[folder.name]
    run_script("05_sac.py", "--plot", folder / "*-seed*" / "curve.csv", "--column", column, "--threshold", threshold or level,
               "--pool", POOL, "--out", folder)


def read_rows(path):
    """The rows of a CSV file, each a dict; none where there is no file."""
    table = read_csv(path) if path.is_file() else {}
    return [dict(zip(table, row)) for row in zip(*table.values())]


# %%
def plot_comparison(folder, names):
    """Mean over seeds with its standard error, a line per reward (paper Figs. 3 to 5). Returns the figure."""
    table, (figure, axis) = read_csv(folder / "curves.csv"), plt.subplots(figsize=(7, 3.6))
    for name in names:
        step, mean, error = (table[column][table["kind"] == name] for column in ("step", "mean", "error"))
        axis.plot(step, mean, label=name)
        axis.fill_between(step, mean - error, mean + error, alpha=0.15, lw=0)
    axis.set(xlabel="environment steps", ylabel=MEASURE[folder.name][0], title=folder.name)
    axis.legend(title="reward", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


# %% [markdown]
r"""
## The paper's claims

Each claim about speed is one line of this table: where the paper shows it, the method said to be faster, the one said
to be slower (the first of these that was run). It is judged on every task whose runs are there. The verdict is the
interval's: *holds* if all of it lies above 1, *does not hold* if all of it lies below, *undecided* if 1 is inside or if
neither arrives, *not tested* if a run is missing. One claim is ours: R3M's weights may be out of reach, an untrained
network never is. The paper's tenth claim is not about policies: `04_eval_human.py` tests it.
"""

# %%
CLAIMS = [
    ("HOLD-C + sparse beats sparse (10x and over 18x)", "pushing drawer_open", "hold_c", "sparse"),
    ("HOLD-C beats HOLD-R", "pushing", "hold_c", "hold_r"),
    ("The task is learned without sparse reward", "close_drawer", "hold_c-only", ""),
    ("HOLD-C beats TCN", "pushing", "hold_c", "tcn or tcn-robot"),
    ("HOLD-C beats R3M or frozen features", "pushing", "hold_c", "r3m or frozen"),
    ("HOLD-C beats an untrained network (ours)", "pushing", "hold_c", "untrained"),
    ("Pixel L2 is slower than HOLD-C", "pushing", "hold_c", "pixels"),
    ("Cumulative beats instantaneous", "pushing", "hold_c", "hold_c-instantaneous"),
    ("T a tenth as large does worse (Fig. 6a)", "pushing", "hold_c", "hold_c-T0.1"),
]


def judge(folder, faster, slower):
    """(verdict, what was measured) for one claim on one task, from what 05 wrote there."""
    kinds = {row["kind"]: row for row in read_rows(folder / "table.csv")}
    found = [name for name in slower.split(" or ") if name in kinds]
    if faster not in kinds or (slower and not found):
        return "not tested", ""
    if not slower:
        share, seeds = kinds[faster]["learned"], kinds[faster]["seeds"]
        return ("holds" if share == 1 else "does not hold" if share == 0 else "undecided"), f"{share:.0%} of {seeds:.0f} seeds"
    (pair,) = [row for row in read_rows(folder / "speedups.csv") if (row["slower"], row["faster"]) == (found[0], faster)]
    if math.isnan(pair["ratio"]):
        return "undecided", f"neither {faster} nor {found[0]} arrives while both run"
    verdict = "holds" if pair["low"] > 1 else "does not hold" if pair["high"] < 1 else "undecided"
    spread = "one seed: no interval" if math.isnan(pair["low"]) else "{low:.2g} to {high:.2g}".format(**pair)
    return verdict, f"{pair['ratio']:.2g}x {found[0]} ({spread})"


def claims_table(folder):
    """A row for each claim and task: the paper's, and those whose runs below `folder` can judge it."""
    rows = []
    for claim, paper, faster, slower in CLAIMS:
        for task in MEASURE:
            verdict, measured = judge(Path(folder) / task, faster, slower)
            if task in paper.split() or verdict != "not tested":
                rows.append({"claim": claim, "paper_task": paper, "task": task, "verdict": verdict, "measured": measured})
    return rows


# %% [markdown]
r"""
## Run, or say what would run
"""

# %%
if __name__ == "__main__":
    config = parse_config(Config)
    plot_style()
    jobs, problem = [] if config.film else list_jobs(config), None
    check_settings(jobs)
    if config.film:
        names = [name.removesuffix("-only") for name in config.rewards]
        list(map(check_name, names))
        names = dict.fromkeys(name.removesuffix("-robot") for name in names if name not in ("sparse", "oracle"))
        distances = {name: load_distance(make_file(config, name)) for name in names}
        with write_whole(Path(config.out) / "film.png") as draft:
            film_figure(read_clip(config.film)[0], distances).savefig(draft)
    elif config.dry_run:
        for job in jobs:
            print("python", *job.command[1:])
        steps = sum(last_step(job) for job in jobs if not is_finished(job))
        print(f"{len(jobs)} runs, {steps} steps to go: about {steps / 50 / 60:.0f} minutes at the 50 steps/s of two laptop cores (batch 64; half of it with 256)")
    else:
        try:
            run_jobs(jobs, config.jobs)
        except UserError as error:  # of the others there may be a table
            if not any((Path(config.out) / config.task).glob("*-seed*/curve.csv")):
                raise
            problem = error

# %%
if __name__ == "__main__" and not (config.dry_run or config.film):
    home = Path(config.out) / config.task
    for folder in {path.parents[1] for path in Path(config.out).glob("*/*-seed*/curve.csv") if path.parents[1].name in MEASURE}:
        compare_runs(folder, config.threshold * (folder == home))
    claims, names = claims_table(config.out), dict.fromkeys(re.sub(POOL, "", job.reward) for job in jobs)
    write_csv(Path(config.out) / "claims.csv", claims)
    with write_whole(home / "comparison.png") as draft:
        plot_comparison(home, names).savefig(draft)

# %%
if __name__ == "__main__" and not (config.dry_run or config.film):
    costs = {row["kind"]: "T {scale:.3g}, {minutes:.0f} minutes".format(**row) for row in read_rows(home / "table.csv")}
    for row in read_rows(home / "speedups.csv"):
        if row["slower"] == "sparse" and row["faster"] in names:
            print("{faster:24} {ratio:.2g}x sparse ({low:.2g} to {high:.2g})".format(**row), costs[row["faster"]], sep=", ")
    for row in claims:
        print("{claim}, on {task}: {verdict} {measured}".format(**row))
    if problem:
        raise problem

# %% [markdown]
r"""
## What we learned

- A rival is a distance file and a T. With T set by one rule for all, what differs is the distance alone.
- TCN asks where the robot *should be now*. Whoever is late is punished on the right way, so a demonstration must fit in
  start, crop and speed. Where it fits perfectly, as in `tcn-robot`, it is among the others on close drawer: 1.3 times
  sparse (.8 to 2.2), HOLD-C 1.4 (.7 to 2.3), the programmer's own reward 1.6 (1.0 to 2.2). And $T$ counts: measured to the film's
  *first* frame, which is the start itself, it was eleven times too small, and TCN 1.8 times sparse (.9 to 2.7), as HOLD-C is with a tenth of its $T$.
- Pixels are enough while nothing but the object and the arm moves, and the arm's way to the goal is straight: 1.3 (.7 to 1.9).
- With few seeds an interval is wide, and "undecided" is an honest verdict. Of ten rewards on close drawer, three seeds each,
  none is faster than sparse beyond doubt (`assets/close_drawer/`; the README has the table). By
  success at the end, one seed shows HOLD-C as the last of ten, the other two among the first.
- On pushing, the paper's main task, a weak agent hides what the reward is worth. With 64 pictures an update neither HOLD-C (60,000 steps),
  HOLD-R, pixels, a human film (TCN) nor sparse (10,000) passes 15% of the episodes, and one would have said that rewards do not matter.
  With the paper's 256 HOLD-C returns 80 after 17,000 to 22,000 steps, and sparse alone never in 32,000 (`assets/pushing/`; three
  seeds and one). Compare rewards where one of them arrives.
- Cup and faucet decide something, and then the discount decides otherwise. With the paper's .99 HOLD-C and the sparse reward pass
  50% 1.7 (1.02 to 2.1) and 1.8 times (1.6 to 2.0) as fast as sparse alone; with 05's .95 it is .7 (.6 to 1.1) and 1.4 (1.07 to
  2.6), because sparse alone became faster (`assets/cup_forward/`, `assets/faucet_right/`). Whoever compares two rewards should
  tune the agent for both.

**Exercises.**
1. `--rewards sparse hold_c hold_c-only`: *expect* the arm to reach the goal's pose without the sparse reward, and to stay
   there whether or not the object came along.
2. In `tcn_distance`, set `beta=0`. *Expect* a weaker pull near the goal, where $D$ is small, and worse last centimetres.
3. `--ablation form`: *expect* the instantaneous form to be slower: it pays for coming closer, and takes it back for every
   step away, so that standing at the goal is worth nothing.
"""
