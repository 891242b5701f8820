# %% [markdown]
r"""
# HOLD-C: distance by time contrast

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023, section
III-A(b).

A robot needs a number that says how far a picture is from a goal picture. Nobody labels such numbers. But every video
carries them: frames that are close in time show nearly the same state of the world, frames far apart do not. HOLD-C
trains a network $f$ to place frames of one video so that time becomes distance, and then uses

$$d(s, g) = \lVert f(s) - f(g) \rVert_2 .$$

**Takes** a folder of video clips: the stand-in clips of `01_data.py`, Something-Something v2, or your own videos; no
labels. **Writes** `runs/hold_c/distance.pt2`, the *distance file* that 04, 05 and 06 read, with a log and two figures
beside it.

```
python 03_hold_c.py                          # about 5 minutes on two cores, no GPU
python 03_hold_c.py --data my_videos/        # any folder of webm, mp4, mkv, mov, avi or gif
python 03_hold_c.py --objective vip --out runs/vip   # another objective on the same loop, to compare
python 03_hold_c.py --preset gpu             # ResNet-50 on the stand-in, for one GPU
torchrun --nproc_per_node 8 03_hold_c.py --preset paper --data ssv2/   # ResNet-50, 256 px, 100 epochs: days
python 03_hold_c.py --preset paper --convert holdc_checkpoint          # the authors' weights as a distance file
```

Expect a validation Spearman correlation of about 0.63 on the stand-in's held-out clips. Stop it at any moment; the
same command goes on.
"""

# %%
import contextlib
import functools
import math
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from scipy.stats import spearmanr
from torch import distributed, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (ClipSet, Preprocess, UserError, ensure_clips, load_checkpoint, load_distance, parse_config,
                    pick_device, plot_style, read_csv, save_checkpoint, save_distance, write_csv, write_whole)

# %%
@dataclass
class Config:
    """HOLD-C: train a time-contrastive embedding on clips and write it as a distance file."""

    data: str = "data/standin"  # folder of clips, SSv2 layout or any videos; this one, the stand-in, is made if it is missing
    out: str = "runs/hold_c"  # folder for distance.pt2, checkpoint.pt, log.csv and figures
    network: str = "resnet10t"  # any timm image model, e.g. resnet50 or vit_base_patch16_224
    width: float = 0.5  # multiplies the channels of a timm ResNet
    pretrained: bool = False  # start from timm's weights, which it downloads; paper: ImageNet-21k for the ViT
    size: int = 64  # side of the square picture the network sees, pixels
    embedding: int = 32  # dimensions of f(s); authors' code: 32, linear, not normalised
    clips_per_batch: int = 4  # paper Table II: 8
    frames_per_clip: int = 32  # paper Table II: 32 subsequent frames
    frame_stride: int = 1  # native frames between two sampled ones; paper: 1
    pos_radius: int = 2  # frames this close are positives; authors' code: 2 frames, where the paper says 0.2 s
    neg_radius: int = 4  # frames farther than this are negatives; authors' code: 4 frames, where the paper says 0.4 s
    window_seconds: float = 0.0  # positives this close in seconds, negatives beyond twice that; paper: 0.2; 0: frames
    margin: float = 0.2  # paper Table II
    objective: Literal["contrast", "vip"] = "contrast"  # the paper's time contrast, or VIP's, to compare
    reverse: float = 0.0  # share of clips played backwards
    steps: int = 800  # optimiser steps
    lr: float = 1e-3  # peak learning rate of Adam; paper Table II: 1e-4
    warmup: float = 0.1  # share of the steps with a linearly growing learning rate; cosine to zero after it
    augmentation: Literal["light", "paper"] = "light"  # paper: RandAugment on top of jitter, crop and flip
    accumulate: int = 1  # parts of a batch that go through the network one after the other, to fit its memory
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on a GPU, else float32
    compile: bool = False  # torch.compile: slower to start, faster to run
    validate_every: int = 200  # steps between two validations, each with a checkpoint
    limit: int = 0  # use only the first clips of each split; 0 takes all, of validation 500
    cache: bool = True  # keep decoded clips on disk; turn off for clips that do not fit
    workers: int = 0  # processes that prepare batches; use 0 in notebooks
    seed: int = 0  # of weights, sampling and augmentation
    resume: bool = True  # go on from the checkpoint in --out, if there is one; --no-resume starts anew
    device: str = "auto"  # cuda, mps or cpu
    convert: str = ""  # do not train: turn this checkpoint of the authors (Flax) into a distance file
    benchmark: bool = False  # do not train: compare images/s of this loop with its limits

    @classmethod
    def paper(cls):
        """Table II, ResNet-50 column, for SSv2's 168,913 training clips."""
        epoch = 168_913 // 8
        return cls(out="runs/hold_c_paper", network="resnet50", width=1.0, size=256, clips_per_batch=8,
                   steps=100 * epoch, lr=1e-4, warmup=0.5 / 100, augmentation="paper", validate_every=epoch // 2,
                   cache=False, workers=8)

    @classmethod
    def paper_vit(cls):
        """Table II, ViT column: 5 epochs from ImageNet-21k; the paper does not say which ViT."""
        epoch = 168_913 // 8
        return cls(out="runs/hold_c_paper_vit", network="vit_base_patch16_224.augreg_in21k", pretrained=True, width=1.0,
                   size=256, clips_per_batch=8, steps=5 * epoch, lr=1e-4, warmup=0.5 / 5, augmentation="paper",
                   validate_every=epoch // 2, cache=False, workers=8)

    @classmethod
    def gpu(cls):
        """The stand-in clips on one GPU."""
        return cls(out="runs/hold_c_gpu", network="resnet50", width=1.0, size=96, clips_per_batch=8, steps=6000,
                   lr=3e-4, validate_every=1000, workers=12)

    @classmethod
    def smoke(cls):
        """Real updates in seconds, for tests and a look around."""
        return cls(out="runs/smoke/hold_c", data="runs/smoke/clips", width=0.25, size=32, clips_per_batch=2, steps=4,
                   validate_every=2, limit=4)


# %% [markdown]
r"""
## The objective

Take an *anchor* frame $s$, a *positive* $s_p$ close to it in time and a *negative* $s_n$ far from it. The paper wants,
for all such triplets (Eq. 3),

$$\lVert f(s) - f(s_p)\rVert_2^2 + m < \lVert f(s) - f(s_n)\rVert_2^2 .$$

Everything starts from the matrix $D$ of squared distances between the frames of one clip. We subtract and square
instead of expanding the square: for 32 frames the cost is nothing, and distances cannot come out below zero by
rounding.
"""

# %%
def squared_distances(embeddings):
    """D[a, b] = ||f_a - f_b||^2 for all pairs of frames: (..., T, E) -> (..., T, T)."""
    return (embeddings[..., :, None, :] - embeddings[..., None, :, :]).square().sum(-1)


on_a_line = torch.tensor([[0.0], [1.0], [3.0]])  # (T=3, E=1)
assert squared_distances(on_a_line).tolist() == [[0, 1, 9], [1, 0, 4], [9, 4, 0]]

# %% [markdown]
r"""
Who is whose positive? Two frames of the same sequence at most `pos_radius` apart. Who is a negative? Frames more than
`neg_radius` apart, or of another sequence. Frames between the two radii are neither: there time is too short to be sure
that something changed, and too long to be sure that nothing did.

*Another sequence* sounds odd inside one clip. It comes from clips shorter than the window: the authors loop them, and a
second loop counts as a new sequence, so that the last frame of one loop is no neighbour of the first frame of the next.
The price is that two copies of one frame become negatives of each other (`# authors' code`, which we keep).

The paper states the radii in seconds, 0.2 and 0.4, the released code in frames, 2 and 4: 0.17 and 0.34 s at SSv2's
11.84 frames per second. The function does not care about the unit. `--window-seconds 0.2` divides the time stamps by
each clip's own frame rate, which matters for videos of 30 frames per second, where 2 frames are hardly a movement.
"""

# %%
def positives_and_negatives(timesteps, sequence_ids, pos_radius=2, neg_radius=4):
    """Boolean masks (..., T, T): [a, b] says whether b is a positive (a negative) of anchor a."""
    gap = (timesteps[..., :, None] - timesteps[..., None, :]).abs()
    same = sequence_ids[..., :, None] == sequence_ids[..., None, :]
    itself = torch.eye(timesteps.shape[-1], dtype=torch.bool, device=timesteps.device)
    return same & (gap <= pos_radius) & ~itself, ~same | (gap > neg_radius)


pos, neg = positives_and_negatives(torch.arange(32), torch.zeros(32))
assert pos.sum() == 122  # what the authors' code counts for a 32-frame window
assert pos[10].nonzero().flatten().tolist() == [8, 9, 11, 12]
assert neg[10, [5, 6, 14, 15]].tolist() == [True, False, False, True]

# %% [markdown]
r"""
"All triplets" (the paper's words for Eq. 3) would be many, and most of them already satisfied. The authors' code
takes one negative per pair of anchor and positive, by the *semi-hard* rule of face recognition:

$$n^*(a, p) = \arg\min \{ D_{an} : n \text{ negative}, D_{an} > D_{ap} \},$$

the closest negative that is still farther away than the positive; where there is none, the farthest negative. The
hardest negative of all would be a stronger signal, but early in training it collapses $f$ to a point. Then

$$\mathcal L = \sum_{(a, p)} \max(0, m + D_{ap} - D_{a n^*}) .$$

Three details of the released code matter for anyone who compares numbers. The loss is the *sum* over ordered positives,
and the mean is only logged. Ties share their gradient (so `amin`, where `min` would pick one). An anchor without any
negative pays $m + D_{ap}$, as if its negative sat at distance 0: `D * neg` below is 0 there, and so is its maximum.
"""

# %%
def time_contrastive_loss(embeddings, timesteps, sequence_ids=None, pos_radius=2, neg_radius=4, margin=0.2):
    """Semi-hard triplet loss over time, mined inside each clip (paper Eq. 3; mining as in the authors' code).

    Args:
        embeddings: (..., T, E), one clip of T frames per leading index, not normalised.
        timesteps: (..., T) frame numbers in the clip.
        sequence_ids: (..., T), equal for frames of the same pass through the clip; None for a single pass.
        pos_radius, neg_radius: in frames.
        margin: m, in units of squared distance.
    Returns:
        (loss_sum, num_positives): the sum over ordered positive pairs, and how many there are.
    """
    sequence_ids = torch.zeros_like(timesteps) if sequence_ids is None else sequence_ids
    D = squared_distances(embeddings)  # (..., T, T)
    pos, neg = positives_and_negatives(timesteps, sequence_ids, pos_radius, neg_radius)

    D_ap, D_an = D[..., :, :, None], D[..., :, None, :]  # (..., a, p, 1), (..., a, 1, n)
    semi_hard = D_an.masked_fill(~(neg[..., :, None, :] & (D_an > D_ap)), math.inf).amin(-1)  # (..., a, p)
    farthest = (D * neg).amax(-1, keepdim=True)  # (..., a, 1); 0 where an anchor has no negative
    D_an_star = torch.where(semi_hard.isinf(), farthest, semi_hard)  # (..., a, p)
    return (F.relu(margin + D - D_an_star) * pos).sum(), pos.sum()


# %% [markdown]
r"""
A toy to check by hand. Six frames on a line, radii 1 and 2, margin 1. Frames 0 and 5 sit at the same place (the hand
came back), the others are one unit apart.

Anchor 0, positive 1: $D_{01} = 1$. Its negatives are frames 3, 4, 5 at squared distances 9, 16, 0. Frame 5 is nearer
than the positive, so it is not semi-hard; frame 3 is the closest beyond, and $\max(0, 1 + 1 - 9) = 0$. The twin at
distance 0 costs nothing: the rule forgives clips in which a state returns.
"""

# %%
line = torch.tensor([0.0, 1, 2, 3, 4, 0]).view(6, 1)
loss, count = time_contrastive_loss(line, torch.arange(6), pos_radius=1, neg_radius=2, margin=1.0)
# (4, 5): D = 16, no negative beyond 16, farthest of frames 0 and 1 is 16: 1 + 16 - 16 = 1
# (5, 4): D = 16, negatives 0, 1, 2 at 0, 1, 4, none beyond, farthest 4:  1 + 16 - 4 = 13; all other pairs cost 0
assert (loss.item(), count.item()) == (14.0, 10)

squeezed, _ = time_contrastive_loss(line * 0.1, torch.arange(6), pos_radius=1, neg_radius=2, margin=1.0)
assert squeezed > 8  # a collapsed embedding violates every margin: what pulls it apart

# %% [markdown]
r"""
## Another objective, to compare

VIP (Ma et al., *VIP: Towards Universal Visual Reward and Representation via Value-Implicit Pre-Training*, ICLR 2023)
wants the same thing, a distance in $f$, by another road. Call $V(o; g) = -\lVert f(o) - f(g) \rVert$ a value: every
step before the goal costs 1, so along a film that leads to $g$ we should have $V(o) = -1 + \gamma V(o')$ for
neighbours $o, o'$. The dual of that reinforcement learning problem needs no actions:

$$\mathcal L = (1 - \gamma)\, \mathbb E[-V(o_0; g)] + \log \mathbb E\left[ e^{1 + V(o; g) - \gamma V(o'; g)} \right] .$$

The first term pulls the first frame to the goal, the second pushes apart in between. Our windows are its films: $o_0$
is the first frame, $g$ the last of the first pass. (`# ours`; VIP draws a sub-film at random, and its released code
adds negatives from other films.)
"""

# %%
def vip_loss(embeddings, sequence_ids, gamma=0.98):
    """VIP's dual objective on windows (B, T, E) whose first pass is marked by the first id of `sequence_ids` (B, T)."""
    last = (sequence_ids == sequence_ids[:, :1]).sum(1) - 1  # (B,) place of the goal
    goal = embeddings[torch.arange(len(last)), last]  # (B, E)
    d = (embeddings - goal[:, None]).norm(dim=-1)  # (B, T), -V
    error = 1 - d[:, :-1] + gamma * d[:, 1:]  # (B, T-1)
    inside = torch.arange(error.shape[1], device=d.device) < last[:, None]
    return (1 - gamma) * d[:, 0].mean() + error[inside].logsumexp(0) - math.log(inside.sum())


steps_to_go = torch.arange(9.0, -1, -1).view(1, 10, 1)  # each frame one unit nearer: 1 - d + (d - 1) = 0
assert vip_loss(steps_to_go, torch.zeros(1, 10), gamma=1.0).abs() < 1e-6

# %% [markdown]
r"""
A cheap way to more films is to play some backwards (Nair et al., *Time Reversal as Self-Supervision*, 2018): most of
what hands do can be undone. `--reverse 0.5` does it. Before trying, think: can the time contrast see a difference? It
knows only gaps $|t - t'|$, and those a reversed film keeps. VIP can, as it knows which end is the goal.
"""

# %%
film, tick = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12)
assert torch.isclose(time_contrastive_loss(film, tick)[0], time_contrastive_loss(film.flip(0), tick)[0])
assert not torch.isclose(vip_loss(film[None], torch.zeros(1, 12)), vip_loss(film[None].flip(1), torch.zeros(1, 12)))

# %% [markdown]
r"""
## From a clip to a window

The paper draws 32 subsequent frames, 2.7 seconds of a four-second clip. The loss only asks for time stamps, so a
stride is possible too: 16 frames two apart see the same seconds for half the price. A clip that is too short is
looped, and the number of the loop is the sequence id.
"""

# %%
def draw_window(num_frames, length, stride, rng):
    """Choose frames of a clip: `length` of them, `stride` apart, from a random start; short clips are looped.

    Returns (index, timestep, sequence_id), each (length,): which frame, its time within its pass, which pass.
    """
    start = rng.integers(max(1, num_frames - (length - 1) * stride))
    raw = start + stride * np.arange(length)
    return raw % num_frames, raw % num_frames, raw // num_frames


index, timestep, sequence = draw_window(10, 8, 2, np.random.default_rng(0))
assert index.tolist() == [0, 2, 4, 6, 8, 0, 2, 4] and sequence.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]

# %% [markdown]
r"""
## Augmentation

A robot's camera is not a phone in somebody's hand. Crops, flips and colours that change from clip to clip, but never
*within* a clip, tell the network what it may not rely on. The paper takes ViViT's pipeline: short side to 288, height
and width jittered separately by 0.9 to 1.33, a 256 crop, a flip, and RandAugment with two operations at magnitude 20.
At this magnitude, posterize and solarize of the authors' table do nothing, and colour, contrast, brightness and
sharpness are enhanced 3.7-fold. `01_data.py` shows each step as a picture.

Operations with statistics (equalize, auto-contrast) must see the whole clip at once, or the colours would flicker: we
stack the frames into one tall picture, as the authors do.
"""

# %%
def randaugment(clip, rng, layers=2, factor=3.7):
    """Two random colour operations on a clip, uint8 (T, 3, H, W) (authors' code: 11 operations and identity)."""
    T, _, H, W = clip.shape
    same = lambda x: x
    operations = [TF.autocontrast, TF.equalize, TF.invert, same, same, same,  # posterize to 8 bits, solarize at 512
                  lambda x: TF.adjust_saturation(x, factor), lambda x: TF.adjust_contrast(x, factor),
                  lambda x: TF.adjust_brightness(x, factor), lambda x: TF.adjust_sharpness(x, factor), "cutout",
                  lambda x: torch.where(x < 128, (x.int() + 220).clamp(max=255).to(x.dtype), x)]  # solarize-add
    for choice in rng.integers(len(operations), size=layers):
        if operations[choice] == "cutout":  # one black box for all frames, 160 of 256 pixels wide
            y, x, half = rng.integers(H), rng.integers(W), round(80 / 256 * H)
            clip = clip.clone()
            clip[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        else:
            tall = operations[choice](clip.transpose(0, 1).reshape(3, T * H, W))  # (3, T*H, W)
            clip = tall.view(3, T, H, W).transpose(0, 1)
    return clip


# %%
def augment(clip, size, kind, rng):
    """Augment all frames of a clip alike: uint8 (T, 3, H, W) -> (T, 3, size, size)."""
    short = min(clip.shape[-2:])  # becomes 288 for a crop of 256
    H, W = (round(side * rng.uniform(0.9, 1.33) * 9 / 8 * size / short) for side in clip.shape[-2:])
    H, W = max(size, H), max(size, W)
    clip = TF.resize(clip, [H, W], antialias=True)
    clip = TF.crop(clip, rng.integers(H - size + 1), rng.integers(W - size + 1), size, size)
    if rng.random() < 0.5:
        clip = TF.hflip(clip)
    if kind == "paper":
        return randaugment(clip, rng)
    brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)  # ours: what helps most for the least work
    clip = TF.adjust_brightness(TF.adjust_contrast(TF.adjust_saturation(clip, saturation), contrast), brightness)
    return TF.adjust_hue(clip, rng.uniform(-0.1, 0.1)) if rng.random() < 0.5 else clip


# %% [markdown]
r"""
## Batches that a crash cannot change

Batch number $k$ is a function of the seed and of $k$ alone: which clips (a fresh permutation for every pass over the
data), which windows, which augmentation. So a run that was stopped goes on exactly as if it had not been, with any
number of loader processes, and there is no sampler state to save. And it can be divided: with $R$ processes and $A$
accumulated parts, each of the $RA$ parts takes its own clips of batch $k$.
"""

# %%
@functools.lru_cache(maxsize=2)
def visiting_order(seed, epoch, clips):
    """The permutation of clips in a pass over the data."""
    return np.random.default_rng([seed, 1, epoch]).permutation(clips)


class Batches(torch.utils.data.Dataset):
    """Part i of this process: (frames uint8 (B, T, 3, size, size), timesteps (B, T), sequence_ids (B, T)), B clips."""

    def __init__(self, clips, config, rank=0, world=1):
        self.clips, self.config, self.rank, self.world = clips, config, rank, world
        if config.clips_per_batch % (config.accumulate * world):
            raise UserError(f"--clips-per-batch {config.clips_per_batch} cannot be divided among {world} processes "
                            f"with --accumulate {config.accumulate}")

    def __len__(self):
        return self.config.steps * self.config.accumulate

    def __getitem__(self, i):
        c = self.config
        step, part = divmod(i, c.accumulate)
        share = c.clips_per_batch // (c.accumulate * self.world)
        first = step * c.clips_per_batch + (part * self.world + self.rank) * share
        return tuple(torch.stack(column) for column in zip(*(self.draw(n) for n in range(first, first + share))))

    def draw(self, n):
        """The window of the n-th clip visited in training."""
        c = self.config
        epoch, place = divmod(n, len(self.clips))
        rng = np.random.default_rng([c.seed, 2, n])
        frames, fps = self.clips[visiting_order(c.seed, epoch, len(self.clips))[place]]  # (L, H, W, 3)
        index, timestep, sequence = draw_window(len(frames), c.frames_per_clip, c.frame_stride, rng)
        if c.window_seconds:
            timestep = np.float32(timestep / (fps or 12.0))  # a file that does not say its rate counts as SSv2's
        if c.reverse and rng.random() < c.reverse:
            index = len(frames) - 1 - index
        clip = augment(torch.from_numpy(frames[index]).permute(0, 3, 1, 2), c.size, c.augmentation, rng)
        return clip, torch.from_numpy(timestep), torch.from_numpy(sequence)


# %% [markdown]
r"""
## The network

Any timm image model whose classifier is replaced by a linear map to 32 numbers. No softmax, no normalisation: the
length of a difference must be free to grow with time. The paper's ResNet-50 is `--network resnet50`, trained from
scratch; its batch normalisation uses the statistics of the batch on one device, ours too. A vision transformer is
`--network vit_base_patch16_224`; with `--pretrained` it starts from the weights timm has under that name.
"""

# %%
def make_network(name, width, embedding, size=64, pretrained=False):
    """A timm model that maps (B, 3, S, S) in [-1, 1] to (B, embedding). UserError for names or weights out of reach."""
    if name not in timm.list_models() + timm.list_pretrained():
        raise UserError(f"timm has no model {name!r}; see timm.list_models('*resnet*')")
    changes = {"channels": [round(c * width) for c in (64, 128, 256, 512)], "stem_width": round(32 * width)}
    if name.startswith(("vit", "deit")):
        changes = {"img_size": size}  # resizes the grid of positions
    elif width == 1.0:
        changes = {}
    elif pretrained:
        raise UserError(f"the weights of {name!r} are of full width; add --width 1")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=embedding, **changes)
        network.eval()(torch.zeros(1, 3, size, size))  # some models take one size only
        return network.train()
    except Exception as error:
        if not pretrained:
            raise UserError(f"timm's {name!r} does not work so ({error}); --width is for ResNets, other models want --width 1") from error
        raise UserError(f"the weights of {name!r} cannot be had ({type(error).__name__}); go on line once, or leave "
                        "--pretrained away") from error


toy = make_network("resnet10t", 0.125, 32)
assert toy(torch.zeros(2, 3, 32, 32)).shape == (2, 32)

# %% [markdown]
r"""
## Is it a distance? Spearman on held-out clips

The last frame of a clip is its goal. A perfect distance would fall at every step towards it. So rank the frames by
$d(s_t, s_T)$, rank them by the time that is left, and correlate the ranks: 1 is perfect order, 0 is chance. The paper
stops training by this number (App. B); so do we, by keeping the weights of the best validation. `04_eval_human.py`
shows what it hides.
"""

# %%
def spearman_to_goal(embeddings):
    """Spearman correlation of d(s_t, s_T) with the time to go, t = 1..T-1, of one clip (T, E); 0 for a constant d."""
    d = np.linalg.norm(embeddings[:-1] - embeddings[-1], axis=-1)  # (T-1,)
    return 0.0 if np.ptp(d) == 0 else spearmanr(d, -np.arange(len(d))).statistic


there = np.linspace(1, 0, 9)[:, None]
assert spearman_to_goal(there) > 0.999 and abs(spearman_to_goal(np.abs(there - 0.5))) < 0.5

# %%
@torch.no_grad()
def validate(network, preprocess, clips, device):
    """Mean `spearman` over clips; `scale`, 3 x the median d(s_1, s_T), the reward scale T that puts a start at -1/3
    (paper App. C); and of the first `clip` its `curve` of d."""
    network.eval()
    scores, starts, shown = [], [], {}
    for frames, _ in (clips[i] for i in range(len(clips))):
        if len(frames) > 3:
            f = network(preprocess(torch.from_numpy(frames).to(device))).float().cpu().numpy()  # (T, E)
            scores.append(spearman_to_goal(f))
            starts.append(np.linalg.norm(f[0] - f[-1]))
            shown = shown or {"clip": frames, "curve": np.linalg.norm(f - f[-1], axis=-1).tolist()}
    network.train()
    if not np.isfinite(starts).all():  # before they could be saved
        raise UserError("the distances are not finite; the last good checkpoint is kept, try a lower --lr")
    if not scores:
        raise UserError("no validation clip has more than three frames; add clips or raise --limit")
    return {"spearman": float(np.mean(scores)), "scale": 3 * float(np.median(starts)), **shown}


# %% [markdown]
r"""
## Training

One step: embed all frames of all clips at once, mine inside each clip, follow the gradient of the sum. The learning
rate grows linearly and then falls as a cosine (`# authors' code`; the paper does not say). A batch may be worked off
in parts, and on several devices: `DistributedDataParallel` averages the gradients of the processes, so we multiply by
their number to keep the sum. (The authors average over devices; Adam hardly sees a constant factor.) On a GPU the
forward pass runs in bfloat16; the distances are computed in float32, since a difference of close numbers is what we
are after.
"""

# %%
def learning_rate(step, steps, warmup):
    """Share of the peak learning rate at a step: linear warm-up times cosine decay to zero."""
    rise = max(1, round(warmup * steps))
    return min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise)))


def window_loss(f, timesteps, sequences, config):
    """(loss, number of terms) of embedded windows (B, T, E) under the objective of the config."""
    if config.objective == "vip":
        return vip_loss(f, sequences) * len(f), len(f)
    radii = config.pos_radius, config.neg_radius
    if config.window_seconds:
        radii = config.window_seconds + 1e-4, 2 * config.window_seconds + 1e-4  # 3 / 30 s is within 0.1 s
    return time_contrastive_loss(f, timesteps, sequences, *radii, config.margin)


def training_step(model, optimizer, scaler, parts, config, dtype=torch.float32, world=1):
    """One update from the parts of a batch. Returns the mean loss per positive; UserError where it is not finite."""
    optimizer.zero_grad(set_to_none=True)
    total, terms = 0.0, 0
    for left, (frames, timesteps, sequences) in zip(reversed(range(len(parts))), parts):
        wait = model.no_sync() if left and hasattr(model, "no_sync") else contextlib.nullcontext()
        with wait:
            x = frames.flatten(0, 1).float() / 127.5 - 1  # (B*T, 3, S, S)
            with torch.autocast(frames.device.type, dtype, enabled=dtype != torch.float32):
                f = model(x)
            f = f.float().unflatten(0, frames.shape[:2])  # (B, T, E)
            loss, count = window_loss(f, timesteps, sequences, config)
            scaler.scale(world * loss).backward()
        total, terms = total + loss.item(), terms + int(count)
    if not math.isfinite(total):
        raise UserError("the loss is not finite; the last good checkpoint is kept, try a lower --lr")
    if not terms:
        raise UserError("no frame of the batch has a positive and a negative; raise --pos-radius or --window-seconds, or lower --frame-stride")
    scaler.step(optimizer)
    scaler.update()
    return total / terms


# %% [markdown]
r"""
The loop saves itself at every validation: weights, optimiser, log, best weights so far. A checkpoint knows its
settings, and refuses to go on under others. `torchrun` starts the same command once per GPU and tells each process its
number; all of them read clips and follow the same weights, and the first one also validates, prints and writes.
"""

# %%
def join_processes(name):
    """(rank, world size, device) of this process; (0, 1, device) without `torchrun`."""
    rank, world, local = (int(os.environ.get(key, 0)) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world, device = max(1, world), pick_device(name)
    if world > 1:
        if device.type == "cuda":
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        if not distributed.is_initialized():  # the others wait while the first one reads clips and validates
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=3))
    return rank, world, device


def start_or_resume(config, network, optimizer, scaler):
    """Load `checkpoint.pt` where there is one; returns the training state {step, best, best_weights, log}."""
    path, settings = Path(config.out) / "checkpoint.pt", asdict(config)
    if not (config.resume and path.exists()):
        return {"step": 0, "best": -math.inf, "best_weights": None, "scale": 1.0, "log": [], "curves": [],
                "seconds": 0.0}
    state, free = load_checkpoint(path), ("device", "workers", "out", "cache", "compile", "resume")
    changed = [k for k, v in settings.items() if k not in free and state["config"].get(k) != v]
    if changed:
        raise UserError(f"{path} was trained with another {', '.join(changed)}; give another --out, or --no-resume to start anew")
    network.load_state_dict(state.pop("network"))
    optimizer.load_state_dict(state.pop("optimizer"))
    scaler.load_state_dict(state.pop("scaler"))
    print(f"going on from step {state['step']} of {config.steps}")
    return state


# %%
def make_trainer(config, device):
    """(network, optimizer, gradient scaler, dtype of the forward pass), all fresh."""
    torch.manual_seed(config.seed)
    network = make_network(config.network, config.width, config.embedding, config.size, config.pretrained)
    network = network.to(device, memory_format=torch.channels_last)
    if config.compile:
        network.compile()
    auto = "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, auto if config.precision == "auto" else config.precision)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    return network, optimizer, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16), dtype


def train(config):
    """Train HOLD-C and write `distance.pt2`. Returns the path of the distance file."""
    rank, world, device = join_processes(config.device)
    network, optimizer, scaler, dtype = make_trainer(config, device)
    state = start_or_resume(config, network, optimizer, scaler)
    if state["step"] < config.steps:
        if rank == 0:
            ensure_clips(config.data)
        if world > 1:
            distributed.barrier()
        side = config.size * 9 // 8
        clips = ClipSet(config.data, "train", side, config.limit, config.cache)
        held_out = ClipSet(config.data, "validation", side, config.limit or 500, config.cache) if rank == 0 else None
        fit(config, (network, optimizer, scaler, dtype), clips, held_out, state, (rank, world, device))
    if world > 1:
        distributed.destroy_process_group()
    if rank > 0:
        raise SystemExit  # the first process does the rest
    network.load_state_dict(state["best_weights"])
    return write_distance(config, network, state["scale"], {"spearman": state["best"]}, state["seconds"] / 60)


# %%
def write_distance(config, network, scale, validation, minutes):
    """Write `distance.pt2` and return its path."""
    meta = {"name": "HOLD-C" if config.objective == "contrast" else "VIP", "kind": "embedding", "history": 1,
            "training": asdict(config), "suggested_scale": scale, "validation": validation, "minutes": minutes}
    save_distance(Path(config.out) / "distance.pt2", network.cpu().eval(), meta, Preprocess(config.size))
    return Path(config.out) / "distance.pt2"


def batch_reader(batches, config, device, first=0):
    """A function that returns the parts of the next batch on the device, from step `first` on."""
    todo = torch.utils.data.Subset(batches, range(first * config.accumulate, len(batches)))
    parts = iter(torch.utils.data.DataLoader(todo, batch_size=None, num_workers=config.workers,
                                             pin_memory=device.type == "cuda"))
    return lambda: [[x.to(device, non_blocking=True) for x in next(parts)] for _ in range(config.accumulate)]


# %%
def fit(config, trainer, clips, held_out, state, processes):
    """Update the network from `state["step"]` to the end, validating and saving on the way; changes `state`."""
    (network, optimizer, scaler, dtype), (rank, world, device) = trainer, processes
    preprocess, losses = Preprocess(config.size).to(device), []
    model = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    draw = batch_reader(Batches(clips, config, rank, world), config, device, state["step"])
    since, first = time.time(), state["step"]
    bar = tqdm(range(first, config.steps), "HOLD-C", initial=first, total=config.steps, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(step, config.steps, config.warmup)
        losses.append(training_step(model, optimizer, scaler, draw(), config, dtype, world))
        state["step"] = step + 1
        if rank == 0 and (state["step"] % config.validate_every == 0 or state["step"] == config.steps):
            found = validate(network, preprocess, held_out, device)
            state["seconds"], since = state["seconds"] + time.time() - since, time.time()
            record(config, state, found, float(np.mean(losses)), network, optimizer, scaler)
            bar.set_postfix({k: f"{state['log'][-1][k]:.3f}" for k in ("loss", "spearman")})
            losses = []


def record(config, state, found, loss, network, optimizer, scaler):
    """Put a validation into the state, keep the weights if they are the best, write checkpoint, log and strip."""
    if found["spearman"] > state["best"]:
        weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        state.update(best=found["spearman"], scale=found["scale"], best_weights=weights)
    state["curves"].append(found["curve"])
    numbers = {"loss": loss, "spearman": found["spearman"], "seconds": state["seconds"]}
    state["log"].append({"step": state["step"], **numbers})
    save_checkpoint(Path(config.out) / "checkpoint.pt", {
        **state, "network": network.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
        "config": asdict(config)})
    write_csv(Path(config.out) / "log.csv", state["log"])
    with write_whole(f"{config.out}/strip.png") as draft:
        figure = plot_strip(found["clip"], state["curves"])
        figure.savefig(draft)
        plt.close(figure)


# %% [markdown]
r"""
## Looking at it

Two figures. The log, and what the numbers mean: a film strip of a held-out clip with the distance to its last frame
under it, once for every validation so far, pale to dark. A good curve falls while the hand reaches, falls while it
acts, and is flat while nothing happens. `strip.png` is written anew while the training runs.
"""

# %%
def plot_log(path):
    """Loss and validation Spearman against steps, from log.csv."""
    log = read_csv(path)
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
    for axis, column, label in zip(axes, ("loss", "spearman"), ("loss per positive pair", "validation Spearman")):
        axis.plot(log["step"], log[column], marker="o")
        axis.set(xlabel="step", ylabel=label)
    return figure


def plot_strip(frames, curves, shown=9):
    """A film strip of a clip (T, H, W, 3) over curves (T,) of its distance to the last frame."""
    picks, edge = np.linspace(0, len(frames) - 1, shown).round().astype(int), 0.5 * len(frames) / shown
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 3.2), height_ratios=[1, 1.4])
    top.imshow(np.concatenate(list(frames[picks]), axis=1))
    top.axis("off")
    for age, d in enumerate(curves, 1):
        bottom.plot(d, color=plt.cm.Reds(0.15 + 0.75 * age / len(curves)))
    bottom.plot(picks, np.array(curves[-1])[picks], "o", color="tab:red")
    bottom.set(xlabel="frame", ylabel="d(s, goal)", xlim=(-edge, len(frames) - 1 + edge))
    return figure


# %% [markdown]
r"""
## The authors' weights

The authors trained in JAX and released Flax checkpoints: a tree of named arrays in msgpack. Convolution kernels lie
there as (height, width, in, out), ours as (out, in, height, width); dense kernels as (in, out), ours transposed. The
rest is bookkeeping: every parameter of the network must be found, and no array of the tree may be left over. Their
HOLD-C is the ResNet-50, which timm's `resnet50` equals layer by layer.
"""

# %%
FLAX_NAMES = (  # pattern of timm's module names -> theirs (authors' code: scenic's ResNet)
    (r"^conv1$", "stem_conv"), (r"^bn1$", "init_bn"), (r"^fc$", "output_projection"),
    (r"downsample\.0$", "proj_conv"), (r"downsample\.1$", "proj_bn"),
)
FLAX_LEAVES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def flax_paths(network):
    """Where the authors' tree keeps each parameter of a timm ResNet: {name: "params/..." or "batch_stats/..."}."""
    state, paths = network.state_dict(), {}
    blocks = list(dict.fromkeys(re.findall(r"layer\d\.\d+\.", " ".join(state))))  # counted through all stages
    for name, value in state.items():
        module, leaf = name.rsplit(".", 1)
        for number, block in enumerate(blocks):
            module = module.replace(block, f"ResidualBlock_{number}.")
        for pattern, theirs in FLAX_NAMES:
            module = re.sub(pattern, theirs, module)
        if leaf != "num_batches_tracked":
            leaf = "scale" if leaf == "weight" and value.ndim == 1 else FLAX_LEAVES.get(leaf, leaf)
            group = "batch_stats" if leaf in ("mean", "var") else "params"
            paths[name] = f"{group}.{module}.{leaf}".replace(".", "/")
    return paths


# %%
def read_flax(path):
    """Read a Flax checkpoint: {"params/...": tensor, "batch_stats/...": tensor}. Raises UserError if it is none."""
    try:
        import msgpack
    except ImportError as error:
        raise UserError("--convert needs one more package: pip install msgpack") from error

    def array(code, data):  # Flax's extension types 1 (array) and 3 (scalar): shape, name of the dtype, bytes
        shape, dtype, raw = msgpack.unpackb(data)
        return torch.frombuffer(bytearray(raw), dtype=getattr(torch, dtype)).reshape(shape) if raw else None

    def leaves(tree, name):
        for key, value in tree.items():
            yield from leaves(value, f"{name}/{key}") if isinstance(value, dict) else [(f"{name}/{key}", value)]

    try:
        tree = msgpack.unpackb(Path(path).read_bytes(), ext_hook=array, strict_map_key=False)
        params = tree["optimizer"]["target"] if "optimizer" in tree else tree["params"]  # old and new way of Flax
        stats = (tree.get("model_state") or {}).get("batch_stats", {})
        return {**dict(leaves(params, "params")), **dict(leaves(stats, "batch_stats"))}
    except Exception as error:
        raise UserError(f"{path} is not a Flax checkpoint ({type(error).__name__}); give the file itself") from error


def load_flax(network, arrays):
    """Load arrays of `read_flax` into a network. UserError if one is missing, left over, or of another shape."""
    state, paths = network.state_dict(), flax_paths(network)
    missing, left = sorted(set(paths.values()) - set(arrays)), sorted(set(arrays) - set(paths.values()))
    if missing or left:
        raise UserError(f"this network does not fit the checkpoint: {len(missing)} parameters missing {missing[:1]}, "
                        f"{len(left)} left over {left[:1]}; give the checkpoint's --preset or --network")
    for name, path in paths.items():
        turned = arrays[path].permute(*reversed(range(arrays[path].ndim)))  # (h, w, in, out) -> (out, in, w, h)
        turned = turned.transpose(2, 3) if turned.ndim == 4 else turned  # (out, in, h, w)
        if turned.shape != state[name].shape:
            raise UserError(f"{path} is {tuple(arrays[path].shape)}, the network's {name} {tuple(state[name].shape)}; "
                            "check --network, --width and --embedding")
        state[name].copy_(turned)


def convert(config):
    """Turn a released checkpoint into `distance.pt2`; the suggested T is the paper's 5 (App. C)."""
    network = make_network(config.network, config.width, config.embedding, config.size)
    load_flax(network, read_flax(config.convert))
    return write_distance(config, network, 5.0, {}, 0.0)


# %% [markdown]
r"""
## How fast is it?

A training loop can be no faster than its network. `--benchmark` measures three loops by turns, so that a busy machine
slows all of them: ours with everything; the same update fed again and again with one batch that is already in the
device's memory; and a bare loop around the same timm model. The first over the second says what decoding and
augmentation cost.
"""

# %%
def bare_loop(config, device, dtype, images):
    """An update of the timm model on pictures in memory, as a function without arguments."""
    model = make_network(config.network, config.width, config.embedding, config.size)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer, x = torch.optim.Adam(model.parameters()), torch.randn(images, 3, config.size, config.size, device=device)

    def update():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return update


def benchmark(config, rounds=5, updates=8):
    """Images/s of training, of the same update from memory, and of a bare timm loop: {name: images/s}, medians."""
    device, images = pick_device(config.device), config.clips_per_batch * config.frames_per_clip
    network, optimizer, scaler, dtype = make_trainer(config, device)
    ensure_clips(config.data)
    clips = ClipSet(config.data, "train", config.size * 9 // 8, config.limit, config.cache)
    config = replace(config, steps=1 + updates * (rounds + 1))  # so many batches are drawn
    draw = batch_reader(Batches(clips, config), config, device)
    step = lambda batch: training_step(network, optimizer, scaler, batch, config, dtype)
    kept = draw()
    loops = {"training": lambda: step(draw()), "from memory": lambda: step(kept),
             "bare timm": bare_loop(config, device, dtype, images)}
    seconds = {name: [] for name in loops}
    for name, update in [*loops.items()] * (rounds + 1):
        since = time.perf_counter()
        for _ in range(updates):
            update()
        seconds[name].append(time.perf_counter() - since)
    return {name: images * updates / float(np.median(s[1:])) for name, s in seconds.items()}  # the first turn warms up


# %%
if __name__ == "__main__":
    plot_style()
    config = parse_config(Config)
    if config.benchmark:
        speed = benchmark(config)
        print(", ".join(f"{name} {images:.0f} images/s" for name, images in speed.items()),
              f"- training is at {speed['training'] / speed['from memory']:.2f} of its limit")
    else:
        distance = load_distance(convert(config) if config.convert else train(config))
        found = ", ".join(f"validation {k} {v:.3f}" for k, v in distance.meta["validation"].items()) or "converted"
        print(f"{config.out}/distance.pt2: {found}, suggested T {distance.meta['suggested_scale']:.2f}, "
              f"{distance.meta['minutes']:.1f} minutes")

# %%
if __name__ == "__main__" and not (config.benchmark or config.convert):
    with write_whole(f"{config.out}/log.png") as draft:
        plot_log(f"{config.out}/log.csv").savefig(draft)

# %% [markdown]
r"""
## Five networks, three seeds each

HOLD-R is `02_hold_r.py`, trained on the same 855 clips. Human video: the 102 held-out clips, by `04_eval_human.py`. Robot: Spearman
along five scripted tasks, six goals, by `05_sac.py --look`. Minutes are of one core; all of it is in `assets/models.csv`.

| | human: Spearman | neighbours in wrong order | robot: Spearman | minutes |
|---|---|---|---|---|
| HOLD-R, ResNet-10, 3 frames | .77, .74, .74 | .34, .37, .39 | .62, .52, .69 | 3 |
| HOLD-R, ResNet-10, 1 frame | .78, .77, .79 | .36, .34, .35 | .58, .60, .43 | 3 |
| HOLD-R, ViViT (tiny), 3 frames | .08, .07, .07 | .39, .38, .36 | .31, .01, -.13 | 6 |
| HOLD-C, ResNet-10 | .64, .66, .63 | .38, .38, .38 | **.73, .82, .85** | 6 (11 and 16 on shared cores) |
| HOLD-C, ViT (tiny), 300 steps | .54, .52, .49 | .43, .43, .45 | .42, .67, .40 | 7 |

The order turns round from one side to the other: HOLD-R is better on people, HOLD-C on robots. The paper has both halves too, the
first in Table IV (Spearman .71 and .62), the second in its curves of pushing. Why? Our guess: a number of frames is tied to the
pace of people, a distance in a space only to what changes. One frame does as well as three on people, as in Table IV, and no
better on the robot. And transformers want more than minutes: given the ResNet's time, the ViT stays behind, and ViViT, from
scratch, does not order films at all, though it errs on neighbours about as often as the others. So much for that column.
The paper starts both from networks trained before. By the first column HOLD-C is no better than its own random weights
(ResNet .66, ViT .60, one seed): what changes steadily in a film is easily seen. On the robot training shows, .80 to .63.
"""

# %% [markdown]
r"""
## What we learned

- A video is its own teacher: "close in time" needs no label, and one triplet rule turns it into a distance.
- The mining decides what is learned. Semi-hard negatives forgive clips in which a state comes back.
- The released loss is a sum over ordered pairs with radii in frames; the paper's text says seconds and "all triplets".

**Exercises.**
1. Take the farthest negative always (`D_an_star = farthest.expand_as(D)`). Expect a loss near zero within a few steps
   and a Spearman that stops improving: the task has become too easy.
2. Set `--margin 2`. Expect distances about three times as large, the same order of frames, and a suggested T that
   grows along.
3. Set `--frames-per-clip 8 --clips-per-batch 16`. Expect a lower Spearman: windows of 0.7 s never see a whole action.
"""
