# %% [markdown]
r"""
# How good is a distance? Five numbers, and what they miss

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023,
appendix B.

A distance $d(s, g)$ has been learned from videos. Before it rewards a robot for hours, we want to know
whether it is any good, and all we have is more video: held-out clips. This lecture makes the paper's five
numbers exact, puts know-nothings beside them, and then tries to fool them.

**Takes** distance files (of 02, 03, 06, or your own) and a folder of clips. **Writes** into
`runs/eval_human/` the table (`table.csv`) and the figures below.

```
python 04_eval_human.py                              # all runs/*/distance.pt2, side by side
python 04_eval_human.py --clip my.mp4 --goal 80      # your own video, to frame 80: a PNG, an MP4
python 04_eval_human.py --preset paper               # Something-Something v2 in ssv2/, on a GPU
```

It takes about a minute for each distance file on two cores. Expect a Spearman correlation of about .6 for
HOLD-C on the stand-in's clips, and of about .7 for the plain difference of pixels: why this is no scandal is
what the lecture is about.
"""

# %%
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from glob import glob
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (MEAN_FPS, STYLE, ClipSet, Distance, Preprocess, UserError, ensure, find_clips,
                    load_distance, parse_config, pick_device, read_clip, read_labels, show, spearman_to_go,
                    write_csv, write_video)

# %%
@dataclass
class Config:
    """Measure distance files on held-out clips, beside trivial rows and controls; or score one video."""

    distance: tuple[str, ...] = ("runs/*/distance.pt2",)  # files or patterns; without any, HOLD-C is trained
    data: str = "data/standin"  # folder of clips, SSv2 or any; this one, the stand-in, is made if missing
    split: str = "validation"  # which clips; without label files one video in ten is for validation
    out: str = "runs/eval_human"  # folder for the table and figures
    short_side: int | None = None  # pixels of the short side as read; automatic: 9/8 of the size a file says
    limit: int = 0  # use only the first clips; 0 takes all
    bootstraps: int = 1000  # resamples behind the 95% intervals
    seed: int = 0  # of resampling, shuffling and random weights
    device: str = "auto"  # cuda, mps or cpu
    clip: str = ""  # score this video instead, with the first distance file
    goal: str = "-1"  # with --clip: the number of a frame, or a picture or video (its last frame)
    failed: str = ""  # with --clip: a video of a failed attempt at the same goal
    positive: ClassVar[tuple] = ("bootstraps", "short_side")

    @classmethod
    def paper(cls):
        """Something-Something v2's validation clips, and the files that 02 and 03 make with their `paper`."""
        return cls(distance=("runs/*_paper-seed*/distance.pt2",), data="ssv2", out="runs/eval_paper")

    @classmethod
    def smoke(cls):
        """A few clips in seconds, for tests and a look around."""
        return cls(distance=("runs/smoke/*/distance.pt2",), data="runs/smoke/clips",
                   out="runs/smoke/eval_human", limit=4, bootstraps=50)

# %%
if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    config = parse_config(Config)  # in Jupyter: parse_config(Config, limit=20), or (Config, clip="my.mp4")

# %% [markdown]
r"""
## Curves

Take a clip $s_1, \dots, s_T$. Its last frame is the goal, because that is what the hand was after. The
**curve** of the clip is $d(s_t, s_T)$ for $t = 1, \dots, T-1$; a perfect one falls at every step. A network
with a history sees the frames before $s_t$ too; before the start, the first frame stands in for them.

Training crops 256 pixels out of 288. So clips are scored on the central 256 / 288 of their centre square, as
released; a robot's frames, in 05, on the whole square.
"""

# %%
def load_files(patterns, device):
    """Distance files {label: (path, Distance)}; one that 02 or 03 would write is trained if it is missing."""
    files = {}
    for path in [path for p in patterns for path in sorted(glob(p)) or [p.replace("/*/", "/hold_c-seed0/")]]:
        ensure(path)
        label = Path(path).parent.name if Path(path).stem == "distance" else Path(path).stem
        taken = files.get(label, [path])[0] != path  # by another file
        files[path if taken else label] = path, load_distance(path, device)
    return files


def centre(frames):
    """The central 8/9 of the centre square of frames: uint8 (T, H, W, 3) -> (T, S, S, 3)."""
    side = round(min(frames.shape[1:3]) * 8 / 9)
    square = TF.center_crop(torch.from_numpy(frames).movedim(-1, 1), [side, side])  # (T, 3, S, S)
    return np.ascontiguousarray(square.movedim(1, -1))


def along(distance, frames, goal, at_once=256):
    """d(s_t, g) along frames (n, H, W, 3) to a goal (H, W, 3): (n,)."""
    window = np.maximum(0, np.arange(len(frames))[:, None] + np.arange(1 - distance.history, 1))
    window = window if distance.history > 1 else window[:, 0]  # (n, history) or (n,)
    parts = [distance(frames[window[i : i + at_once]], goal) for i in range(0, len(frames), at_once)]
    return torch.cat(parts).float().cpu().numpy()

# %%
def plot_strips(title, strips, behind=None, fps=1.0):
    """A row for each (name, frames (n, S, S, 3), goal, curve (n,)): seven frames, the goal, the curve."""
    size = 11, 0.5 + 1.2 * len(strips)
    figure, axes = plt.subplots(len(strips), 2, figsize=size, width_ratios=(2, 1), squeeze=False)
    for (left, right), (name, frames, goal, curve) in zip(axes, strips):
        picks = np.linspace(0, len(frames) - 1, 7).round().astype(int)
        left.imshow(np.concatenate([*frames[picks], np.full_like(goal, 255)[:, ::4], goal], axis=1))
        left.set_title(f"{name}; on the right its goal", loc="left")
        left.set_axis_off()
        if behind is not None:
            right.plot(np.arange(len(behind)) / fps, behind, color="gray", linewidth=0.7)
        right.plot(np.arange(len(curve)) / fps, curve, color="tab:red")
        right.plot(picks / fps, curve[picks], ".", color="tab:red")
        right.set_title(f"d(s, goal), Spearman {spearman_to_go(curve):.2f}", loc="left")
    axes[-1, 1].set_xlabel("frame" if fps == 1 else "seconds")
    figure.suptitle(title)
    return figure

# %%
if __name__ == "__main__":
    device = pick_device(config.device)
    files = load_files(config.distance, device)
    label, (_, distance) = next(iter(files.items()))
    if config.short_side is None:
        sizes = [d.meta.get("training", {}).get("size", 64) for _, d in files.values()]
        config.short_side = round(max(sizes) * 9 / 8)

if __name__ == "__main__" and not config.clip:
    ensure(config.data)
    clips = ClipSet(config.data, config.split, config.short_side, config.limit)
    frames, fps = centre(clips[0][0]), clips[0][1]
    strip = "a clip", frames[:-1], frames[-1], along(distance, frames[:-1], frames[-1])
    show(plot_strips(label, [strip]), f"{config.out}/clip.png")

# %% [markdown]
r"""
## Five metrics, one form

Each video gives a **numerator** and a **denominator**, and the metric is $\sum_i a_i / \sum_i b_i$ over
videos. So a metric is written as the function that takes one curve and returns its two parts; `pooled` makes
the ratio of sums.
"""

# %%
def pooled(parts):
    """Make a metric over videos of `parts`: one curve in, (numerator, denominator) out. NaN unless b > 0.

    The metric takes a list of curves, then lists of what else there is per video; options are given by name.
    """
    @wraps(parts)
    def metric(curves, *others, **options):
        rows = zip(curves, *others, strict=True)
        found = [parts(np.asarray(curve, float), *rest, **options) for curve, *rest in rows]
        above, below = np.sum(found, axis=0) if found else (0, 0)
        return float(above / below) if below > 0 else math.nan
    metric.parts = parts
    return metric

# %% [markdown]
r"""
### Time: mean squared error, mean error

HOLD-R predicts time, so it can be asked how wrong it is. The target is the time **to go**, $T - t$ frames.
(HOLD-R counts frames of a mean rate, 11.84 per second; its curves are turned into frames of the clip first.)

$$\mathrm{MSE} = \frac{\sum_i \sum_t (d(s^i_t, s^i_{T_i}) - (T_i - t))^2}{\sum_i (T_i - 1)},$$

and the mean error has $|\cdot|$ for the square. With frame rates: in s^2 and in s.

**Why two columns of Table IV cannot be compared.** The released test code takes as target the time that has
*passed*, $t - 1$, instead of the time to go. For a clip of 45 frames we can count out what this does.
"""

# %%
def time_to_go(n):
    """Targets of a curve of n frames: n, n - 1, ..., 1 frames before the goal."""
    return np.arange(n, 0, -1.0)


@pooled
def mse(curve, fps=1.0):
    """Mean squared error of d as the time to go, in frames^2, or in s^2 where frame rates are given."""
    return np.sum(((curve - time_to_go(len(curve))) / fps) ** 2), len(curve)


@pooled
def mean_error(curve, fps=1.0):
    """Mean absolute error of d as the time to go, in frames, or in s where frame rates are given."""
    return np.sum(np.abs(curve - time_to_go(len(curve))) / fps), len(curve)


assert mse([[3, 2, 1], [2, 1]]) == 0 and mean_error([[3, 1]], [12]) == 1 / 2 / 12
mean_error([[3, 2, 1], [3, 1]])  # one frame wrong in five

# %%
perfect = time_to_go(44)
half = np.full(44, 22.5)
passed = np.arange(44.0)
assert mse([perfect]) == 0 and round(mse([half])) == 161
against_passed = [float(np.mean((curve - passed) ** 2)) for curve in (perfect, half)]
assert against_passed[0] > 645 and against_passed[1] < 163
against_passed  # of the perfect curve, and of the constant

# %% [markdown]
r"""
Table IV's three MSEs lie between 482 and 514: far worse than a constant against the right target (161), and
between constant (162) and perfect (646) against the wrong one. We believe, but cannot prove: this is why.
The other three numbers ask for order only and are not touched.

### Order: hinge loss and misclassification rate

Nobody acts at constant speed. What matters is that a later frame is not farther from the goal than an earlier
one. Over pairs $j < k$ of frames,

$$\mathcal L_h = \frac{\sum_i \sum_{j<k} \max(0, d_k - d_j)}{\#\text{pairs}}, \qquad
\mathcal L_{miscl} = \frac{\sum_i \sum_{j<k} \mathbb I[d_k > d_j]}{\#\text{pairs}} .$$

Here the paper and its numbers part. Equations 5 and 6 take all pairs and divide by $\sum_i (T_i - 1)$, which
makes no rate: a reversed clip of 45 frames scores 21.5. The released code takes **adjacent** frames only and
divides by their number; so must Table IV, whose rates are about .4. We offer both sets of pairs, each divided
by its number, and `printed=True` for the divisor as printed.
"""

# %%
def differences(curve, pairs="adjacent"):
    """d_k - d_j of a curve (n,) over pairs j < k, "adjacent" or "all": (n - 1,) or (n (n - 1) / 2,)."""
    if pairs not in ("adjacent", "all"):
        raise UserError(f"pairs={pairs!r}; it must be 'adjacent' or 'all'")
    if pairs == "adjacent":
        return np.diff(curve)
    j, k = np.triu_indices(len(curve), 1)
    return curve[k] - curve[j]


@pooled
def hinge(curve, fps=1.0, pairs="adjacent", printed=False):
    """Mean rise of d over pairs of frames (Eq. 5), in its unit; in s where d is in frames, given rates."""
    rises = np.maximum(0, differences(curve, pairs))
    return rises.sum() / fps, len(curve) if printed else len(rises)


@pooled
def misclassification(curve, pairs="adjacent", printed=False):
    """Share of pairs of frames in which the later is farther from the goal (Eq. 6); ties count as right."""
    wrong = differences(curve, pairs) > 0
    return wrong.sum(), len(curve) if printed else len(wrong)


bumpy = [[3, 4, 1, 2]]  # rises: 3-4 and 1-2, both between neighbours
assert misclassification(bumpy) == 2 / 3 and misclassification(bumpy, pairs="all") == 2 / 6
assert hinge(bumpy) == 2 / 3 and hinge(bumpy, [2]) == 1 / 3
assert misclassification([half]) == hinge([half]) == 0  # a constant wins both: nothing ever rises
misclassification([perfect[::-1]], pairs="all", printed=True)

# %% [markdown]
r"""
### Ranks: Spearman and Kendall

Rank the frames by distance and by time to go, and correlate the ranks (Spearman's $\rho$): 1 is perfect
order, 0 is chance, -1 is backwards. A constant orders nothing: 0. (The released code breaks ties by position
and so gives it -1.) Kendall's $\tau_b$, ours, counts pairs instead,

$$\tau_b = \frac{\#\text{falling} - \#\text{rising}}{\sqrt{\#\text{pairs} \cdot \#\text{untied pairs}}} ,$$

so without ties $\tau_b = 1 - 2 \mathcal L_{miscl}$ over all pairs of one video. Both are means over videos. A
clip of fewer than three frames has no order and is left out.
"""

# %%
@pooled
def spearman(curve):
    """Mean over videos of Spearman's rank correlation of d with the time to go (paper App. B)."""
    rho = spearman_to_go(curve)
    return (0, 0) if math.isnan(rho) else (rho, 1)


@pooled
def kendall(curve):
    """Mean over videos of Kendall's tau-b of d with the time to go."""
    signs = np.sign(differences(curve, "all"))
    return -signs.sum() / math.sqrt(max(1, len(signs) * np.abs(signs).sum())), int(len(curve) > 1)


assert spearman([[9, 5, 1]]) == kendall([[9, 5, 1]]) == 1 and spearman([[1, 2, 3], [3, 2, 1], [7]]) == 0
assert spearman([half]) == kendall([half]) == 0
spearman(bumpy), kendall(bumpy)

# %%
if __name__ == "__main__" and not config.clip:
    noisy = perfect + 5 * np.random.default_rng(0).normal(size=44)
    toys = {"constant": half, "another unit": perfect / 10, "noisy": noisy,
            "waits, then acts": np.minimum(44 - passed / 20, 4 * perfect), "time passed": passed}
    figure, axes = plt.subplots(1, len(toys), figsize=(12, 2.6), sharey=True)
    for axis, (name, curve) in zip(axes, toys.items()):
        axis.plot(perfect, color="gray", linewidth=0.7)
        axis.plot(curve, color="tab:red")
        axis.set_title(name, loc="left")
        axis.set_xlabel(f"Spearman {spearman([curve]):.2f}, Kendall {kendall([curve]):.2f}\n"
                        f"misclassified {misclassification([curve]):.2f}, "
                        f"all pairs {misclassification([curve], pairs='all'):.2f}\n"
                        f"hinge {hinge([curve]):.2f}, MSE {mse([curve]):.0f}")
    show(figure, f"{config.out}/disagree.png")

# %% [markdown]
r"""
These are curves that a clip of 45 frames might have (gray: the perfect one); no number finds them all. MSE
and mean error ask whether $d$ counts frames, and people differ in pace. Adjacent pairs and hinge ask whether
it ever rises: a constant is perfect, noise a coin toss, and the hinge falls with the unit: compare it in
seconds only. All pairs, Kendall and Spearman ask whether $d$ falls, and not whether it looked at the goal.

## What none of them can see

All would be won by a **clock**: a model that knows how clips go (the hand comes, acts, leaves) and never
looks at the thing, or at the goal. So each clip is played in other ways, and each way asks one question.

| played | goal | what an honest distance does |
|---|---|---|
| **reversed** | its last frame, so the clip's first | orders it too; "hands come, then leave" fails |
| **shuffled** | the clip's last | Spearman 0: only what sees the order of the file still wins |
| **swapped** goal | the last frame of another clip | Spearman near 0, or the goal is not looked at |
| **still**: hand and thing at rest | the clip's last | stays where it was |
| **failed**: an attempt in the same scene | the last frame of the *successful* clip | stays high |
| **mirrored**, red and blue exchanged, darker | treated likewise | the same curve |

Two goals need care. A *reversed* clip scored against the old goal would teach nothing: without history, the
curve is the old one read backwards. And nearly every *failed* attempt arrives at its own last frame.

*Still* and *failed* need a second clip of the same scene. The stand-in lists some in `labels/controls.json`.
In Something-Something v2 those who *pretend* to act do so in other rooms than those who act: there, and for
your own videos, both stay empty. (A first frame repeated would be no control: no distance could fail it.)
"""

# %%
VERSIONS = ("forward", "reversed", "shuffled", "swapped", "still", "failed", "mirrored")


def cut_versions(frames, other=None, still=None, failed=None, seed=0):
    """Ways to play a clip (T, S, S, 3), given what else there is: {version: (frames (n, S, S, 3), goal)}."""
    twin = (frames[:, :, ::-1, ::-1] * 0.7).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(frames) - 1)
    versions = {"forward": (frames[:-1], frames[-1]), "reversed": (frames[:0:-1], frames[0]),
                "shuffled": (frames[order], frames[-1]), "mirrored": (twin[:-1], twin[-1])}
    if other is not None:
        versions["swapped"] = frames[:-1], other[-1]
    counterparts = {"still": still, "failed": failed}
    return versions | {name: (more, frames[-1]) for name, more in counterparts.items() if more is not None}


four = cut_versions(np.arange(4, dtype=np.uint8).repeat(12).reshape(4, 2, 2, 3))
list(four), four["reversed"][0][:, 0, 0, 0]  # frames 3, 2, 1, on the way to frame 0

# %%
def curves_of(distance, versions, fps):
    """d along each version: {version: (n,)}, HOLD-R's in frames of the clip. Raises UserError for NaN."""
    curves = {name: along(distance, frames, goal) for name, (frames, goal) in versions.items()}
    if not all(np.isfinite(curve).all() for curve in curves.values()):
        raise UserError(f"distance {distance.meta['name']} gave NaN or infinity; train it again")
    unit = fps / MEAN_FPS if distance.meta["name"] == "HOLD-R" else 1.0  # it counts frames of a mean rate
    return {name: unit * curve for name, curve in curves.items()}


def find_items(clips, folder):
    """[(clip, the clip that lends it a wrong goal, still, failed)]: paths, or None where there is none."""
    listed, pairs = read_labels(folder, "controls"), {}
    if listed:
        found = {path.stem: path for path in find_clips(folder, "controls")}
        pairs = {(str(e.get("of")), e.get("control")): found.get(e["id"]) for e in listed}
    others = clips[-1:] + clips[:-1] if len(clips) > 1 else [None]
    return [(clip, other, pairs.get((clip.stem, "still")), pairs.get((clip.stem, "failed")))
            for clip, other in zip(clips, others)]


def read_item(paths, short_side, seed=0):
    """Decode one of `find_items`: (versions, fps); None where its clip is of no use."""
    clips = []
    for path in paths:
        try:
            clips.append(read_clip(path, short_side) if path else (None, 0))
        except UserError as error:
            clips.append((None, 0))
            if path == paths[0]:
                print(f"left out: {error}", flush=True)
    (frames, fps), *_ = clips
    if frames is None or len(frames) < 2:
        return None
    squares = [None if shown is None else centre(shown) for shown, _ in clips]
    return cut_versions(*squares, [seed, *paths[0].name.encode()]), fps

# %%
if __name__ == "__main__" and not config.clip:
    items = find_items(clips.paths, config.data)
    ordered = sorted(items, key=lambda paths: paths[3] is None)  # rather one with a failed attempt
    readable = filter(None, (read_item(paths, config.short_side) for paths in ordered))
    versions, fps = next(readable, (cut_versions(frames), fps))
    curves = curves_of(distance, versions, fps)
    strips = [(name, *versions[name], curves[name]) for name in VERSIONS if name in curves]
    show(plot_strips(label, strips, curves["forward"]), f"{config.out}/versions.png")

# %% [markdown]
r"""
### Success minus failure, in one number

Success brings the distance down from $d(s_1, g)$ to $d(s_{T-1}, g)$. Call this drop 1. How much of it does
the failed attempt $f_1, \dots, f_n$ get, in the same scene, for the same goal? The **gap** is what it does
not get:

$$G = \frac{\sum_i d(f^i_n, g_i) - d(s^i_{T-1}, g_i)}{\sum_i d(s^i_1, g_i) - d(s^i_{T-1}, g_i)} .$$

$G = 1$: failing gains nothing. $G = 0$: failing looks as good as success, and a robot may learn to fail. The
unit of $d$ cancels, and so does a constant added to it. `at=np.min` takes the best moment of each, where a
reward could be cheated. The same ratio with a still clip tells whether standing still pays.
"""

# %%
@pooled
def gap(success, other, at=lambda curve: curve[-1]):
    """Success minus failure, as a share of the drop along success; only videos with a counterpart count."""
    if not (len(success) and len(other)):
        return 0, 0
    return at(other) - at(success), success[0] - at(success)


reach = [[10, 6, 2.0]]
assert gap(reach, [[10, 9, 10]]) == 1 and gap(reach, [[10, 5, 2]]) == 0 and gap(reach, [[10, 4, 6]]) == 0.5
assert gap(reach, [[10, 2, 10]], at=np.min) == 0 and math.isnan(gap([half], [half]))  # nothing to share
gap([[70, 66, 62.0]], [[70, 64, 66]])  # another zero, the same gap

# %% [markdown]
r"""
## Rows

A number alone says little. Beside every distance stand four rows that have learned nothing from video
(others, like R3M or a frozen image model, are distance files of 06):

- **constant**: 22 for every frame, half of Something-Something's average clip;
- **frame index**: the time to go, read off the file: a clock, perfect in the five metrics, gap 0;
- **pixel L2**: the norm of the difference of two frames of 32 x 32 pixels;
- **untrained**: the same network, its weights drawn anew (He's rule; batch normalisation is the identity).
"""

# %%
@torch.no_grad()
def forget(distance, seed=0):
    """Draw all weights of a distance anew, in place, and return it."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in distance.program.named_parameters():
        weight.fill_(1.0 if name.endswith("weight") else 0.0)
        if weight.ndim > 1:
            he = (2 / weight[0].numel()) ** 0.5
            weight.copy_(he * torch.randn(weight.shape, generator=generator))
    for name, buffer in distance.program.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.fill_(1.0 if name.endswith("var") else 0.0)
    return distance


def all_rows(files, device, seed=0):
    """{label: (function (versions, fps) -> curves, is d a time?)}: distance files, then the trivial rows."""
    def rule(to_go):
        return lambda versions, fps: {name: to_go(len(frames)) for name, (frames, _) in versions.items()}

    meta = {"kind": "embedding", "history": 1, "name": "pixel L2"}
    pixels = Distance(torch.nn.Sequential(Preprocess(32), torch.nn.Flatten()).to(device), meta, device)
    rows = {label: (partial(curves_of, d), d.meta["name"] == "HOLD-R") for label, (_, d) in files.items()}
    rows |= {"constant": (rule(lambda n: np.full(n, 22.0)), True), "frame index": (rule(time_to_go), True),
             "pixel L2": (partial(curves_of, pixels), False)}
    for label, (path, distance) in files.items():
        name = re.sub(r"-seed\d+", "", label) + ", untrained"
        if name not in rows and any(True for _ in distance.program.parameters()):
            rows[name] = partial(curves_of, forget(load_distance(path, device), seed)), rows[label][1]
    return rows

# %% [markdown]
r"""
## The table, with error bars

How far would a number move with other videos of the same kind? Draw as many videos as there are, with
replacement, and compute again; a thousand times. The middle 95% is the interval. A resample is a vector of
counts $w$, and all thousand are one matrix product, $\sum_i w_i a_i / \sum_i w_i b_i$. Files whose names
differ in `-seed<n>` alone also get a common row; its interval resamples the files as well.
"""

# %%
def score(rows, items, config, at_once=32):
    """Curves of every row on every clip that can be read: [(path, fps, {label: {version: curve}})]."""
    read, found = partial(read_item, short_side=config.short_side, seed=config.seed), []
    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(items), at_once), "scoring", unit="batch"):
            batch = items[start : start + at_once]
            for (path, *_), clip in zip(batch, pool.map(read, batch)):
                if clip:
                    found.append((path, clip[1], {label: row(*clip) for label, (row, _) in rows.items()}))
    if not any(len(curves["constant"]["forward"]) > 1 for _, _, curves in found):
        raise UserError(f"no clip of split {config.split} in {config.data} has three frames; ranks need them")
    return found


def interval(files, weights, seed=0):
    """(value, low, high) of parts (files, N, 2); weights (resamples, N): how often each video is drawn."""
    above, below = np.moveaxis(np.asarray(files, float), 2, 0)  # (files, N) each
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (above.sum(1) / np.where(below.sum(1) > 0, below.sum(1), math.nan)).mean()
        draws = (weights @ above.T) / np.where(weights @ below.T > 0, weights @ below.T, math.nan)
    picks = np.random.default_rng(seed).integers(len(files), size=draws.shape)
    draws = np.take_along_axis(draws, picks, 1).mean(1)
    draws = draws[np.isfinite(draws)] if np.isfinite(value) else ()
    return value, *(np.percentile(draws, [2.5, 97.5]) if len(draws) else (math.nan, math.nan))

# %%
METRICS = {"spearman": spearman.parts, "kendall": kendall.parts, "misclassification": misclassification.parts,
           "misclassification_all": partial(misclassification.parts, pairs="all"),  # and where d is a time:
           "mse_frames": mse.parts, "error_frames": mean_error.parts, "error_s": mean_error.parts,
           "hinge_s": hinge.parts}
CONTROLS = {"gap": (gap.parts, "failed"), "gap_best": (partial(gap.parts, at=np.min), "failed"),
            "gap_still": (gap.parts, "still")}  # of the forward curve and this one


def all_parts(clips, timed):
    """Parts of every number on N clips (fps, {version: curve}): {(version, metric): (N, 2)}."""
    parts, none = {}, np.zeros(0)
    for name, function in METRICS.items():
        for version in VERSIONS if timed or not name.endswith(("_frames", "_s")) else ():
            parts[version, name] = [function(curves.get(version, none), *[fps] * name.endswith("_s"))
                                    for fps, curves in clips]
    for name, (function, version) in CONTROLS.items():
        parts[version, name] = [function(curves["forward"], curves.get(version, none)) for _, curves in clips]
    return {key: np.array(values, float) for key, values in parts.items()}


def tabulate(rows, found, config):
    """All numbers: {(distance, version, metric): (value, low, high, number of clips that count)}."""
    groups, table = {}, {}
    for label, (_, timed) in rows.items():
        parts = all_parts([(fps, curves[label]) for _, fps, curves in found], timed)
        for name in dict.fromkeys([label, re.sub(r"-seed\d+", ", all seeds", label)]):
            groups.setdefault(name, []).append(parts)
    N = len(found)
    weights = np.random.default_rng(config.seed).multinomial(N, np.full(N, 1 / N), config.bootstraps)
    for label, members in sorted(groups.items(), key=lambda pair: pair[0] not in rows):
        for version, name in min(members, key=len) if len(members) > 1 or label in rows else ():
            files = [own[version, name] for own in members]
            count = int((files[0][:, 1] != 0).sum())
            table[label, version, name] = *interval(files, weights, config.seed), count
    return table

# %%
def plot_table(table):
    """Spearman of every version, forward with its interval, and the gaps; blank without counterpart."""
    labels = list(dict.fromkeys(key[0] for key in table))
    columns = [(v, "spearman") for v in VERSIONS] + [(v, name) for name, (_, v) in CONTROLS.items()]
    values = np.array([[table[label, *column][0] for column in columns] for label in labels])
    figure, axis = plt.subplots(figsize=(12, 1 + 0.35 * len(labels)))
    axis.imshow(values, cmap="RdBu", vmin=-1.2, vmax=1.2, aspect="auto")
    for y, x in np.argwhere(np.isfinite(values)):
        _, low, high, _ = table[labels[y], *columns[x]]
        text = f"{values[y, x]:.2f}" + (f"\n[{low:.2f}, {high:.2f}]" if x == 0 else "")
        axis.text(x, y, text, ha="center", va="center")
    axis.set_xticks(range(len(columns)), [*VERSIONS, *(name.replace("_", ",\n") for name in CONTROLS)])
    axis.set_yticks(range(len(labels)), labels)
    axis.axvline(len(VERSIONS) - 0.5, color="k")
    axis.set_title("Spearman on each version [95% over clips] | gaps: 1 is best", loc="left")
    axis.grid(False)
    return figure

# %%
if __name__ == "__main__" and not config.clip:
    rows = all_rows(files, device, config.seed)
    found = score(rows, items, config)
    table = tabulate(rows, found, config)
    names = ("distance", "version", "metric", "value", "low", "high", "clips")
    here = {"data": f"{config.data} {config.split}"}
    write_csv(f"{config.out}/table.csv", [here | dict(zip(names, key + line)) for key, line in table.items()])
    print(" " * 24 + "".join(f"{name.replace('classification', 'cl.'):>14}" for name in METRICS))
    for line in dict.fromkeys(key[0] for key in table):
        values = [table.get((line, "forward", name), [math.nan])[0] for name in METRICS]
        print(f"{line:24}" + "".join(" " * 14 if math.isnan(v) else f"{v:14.3f}" for v in values))
    show(plot_table(table), f"{config.out}/table.png")

# %% [markdown]
r"""
Read it from the trivial rows up, and trained rows as a little too good: 02 and 03 keep the weights that do
best on the first 500 clips of the validation split, which is the split scored here.

Pixels and a random HOLD-C do well. We read it so: **within one clip, all but the hand and the thing stays
the same, and then any difference of pictures is small near the end.** Every one of these numbers compares
pictures of one camera in one room. A robot's reward does so too, but its room is like none in training, and
an arm is not a hand. Whether $d$ has learned *what matters* is a question about transfer, and no number here
asks it. The paper found that its scores did not tell which of its models would serve a robot; 06 has our
verdict among its claims.

An average hides clips. Look at the worst first: to blame is often the video, and sometimes the distance.
"""

# %%
if __name__ == "__main__" and not config.clip:
    ranked = [(path, curves[label]["forward"]) for path, _, curves in found]
    ranked = sorted([pair for pair in ranked if len(pair[1]) > 1], key=lambda pair: spearman_to_go(pair[1]))
    strips = []
    for name, place in (("worst", 0), ("median", len(ranked) // 2), ("best", -1)):
        path, curve = ranked[place]
        frames = centre(read_clip(path, config.short_side)[0])
        strips.append((f"{name}: {path.name}", frames[:-1], frames[-1], curve))
    show(plot_strips(label, strips), f"{config.out}/videos.png")
    print(f"{len(found)} of {len(items)} clips could be read; table and figures in {config.out}")

# %% [markdown]
r"""
## One video of your own

`--clip my.mp4` draws strips, and a video with the curves below: played forward, played backward, and the
failed attempt if you have one. Here all have the *same* goal, so a good distance falls, rises, and stays. To
draw a figure takes a tenth of a second; so the curves are drawn once, and each frame moves a cursor.
"""

# %%
def animate(versions, curves, fps):
    """The goal and the versions side by side, a cursor on their curves below: [uint8 (H, W, 3)]."""
    goal = versions["forward"][1]
    figure, axis = plt.subplots(figsize=((4 + goal.shape[1]) * (1 + len(curves)) / 100, 2.6), dpi=100)
    for name, curve in curves.items():
        axis.plot(np.arange(len(curve)) / fps, curve, label=name)
    axis.legend(title="beside the goal:")
    axis.set(xlabel="seconds", ylabel="d(s, goal)")
    figure.canvas.draw()
    plot, pictures = np.asarray(figure.canvas.buffer_rgba())[..., :3], []
    plt.close(figure)
    for t in range(max(map(len, curves.values()))):
        below, now = plot.copy(), round(axis.transData.transform((t / fps, 0))[0])
        below[:, now : now + 2] = 0
        above = [goal, *(frames[min(t, len(frames) - 1)] for frames, _ in versions.values())]
        above = np.pad(above, ((0, 0), (0, 0), (2, 2), (0, 0)), constant_values=255)
        pictures.append(np.concatenate([np.concatenate(above, axis=1), below]))
    return pictures

# %%
def score_video(config, distance):
    """Score one video and write its strips (PNG) and its video (MP4). Returns {version: curve}."""
    frames, fps = read_clip(config.clip, 270)  # 8/9 of it: squares of 240
    frames = centre(frames)
    try:
        goal = frames[int(config.goal)]
    except ValueError:
        goal = centre(read_clip(config.goal, 270)[0])[-1]
    except IndexError:
        raise UserError(f"--goal {config.goal}: the clip has frames 0 to {len(frames) - 1}") from None
    versions = {"forward": (frames, goal), "reversed": (frames[::-1], goal)}
    if config.failed:
        versions["failed"] = centre(read_clip(config.failed, 270)[0]), goal
    curves, out = curves_of(distance, versions, fps), Path(config.out) / Path(config.clip).stem
    strips = [(name, *versions[name], curve) for name, curve in curves.items()]
    show(plot_strips(distance.meta["name"], strips, curves["forward"], fps), f"{out}.png")
    write_video(f"{out}.mp4", animate(versions, curves, fps), fps=max(1, round(fps)))
    for name, curve in curves.items():
        print(f"{name:9} d at the start {curve[0]:.3f}, lowest {curve.min():.3f}, at the end {curve[-1]:.3f}")
    print(f"{out}.png and {out}.mp4")
    return curves


if __name__ == "__main__" and config.clip:
    print(f"{label}: {', '.join(score_video(config, distance))}")

# %% [markdown]
r"""
## What we learned

- "Misclassification rate" as printed is no rate, and a constant scores 0. Table IV's MSE probably
  measures the wrong thing. Spearman is the one to read, and only beside trivial rows.
- A clock is the oracle of all. What tells a distance from a clock are controls: a wrong goal, a failure.
- While the camera and the room stay the same, pixels and a random HOLD-C order a clip well. Always show them.
- The fair goal of a failed attempt is what success looks like. A control that cannot fail is none.

**Exercises.**
1. In `cut_versions`, let the reversed version be `(frames[-2::-1], frames[-1])`, with the goal of the forward
   one. Expect Spearman of the forward version with its sign changed, to the last digit without history.
2. In `cut_versions`, let counterparts run to their own last frame, `(more[:-1], more[-1])`. Expect gaps near
   0: the wrong goal makes every attempt a success.
3. In `misclassification`, let ties count as wrong (`>= 0`). Expect an assert to fail: constants score 1.
"""
