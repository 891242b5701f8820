# %% [markdown]
r"""
# HOLD-R: distance by regression

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023, section
III-A(a).

How far is this picture from that goal picture? In a video there is one honest answer that costs no label: the number
of frames between the two. HOLD-R shows a network a moment $s$ and a later moment $g$ of the same clip, asks for that
number, and takes the answer as the distance $d(s, g)$. It is the simplest idea of the paper; `03_hold_c.py` has the
other one.

**Takes** a folder of video clips: the stand-in clips of `01_data.py`, Something-Something v2, or your own videos; no
labels. **Writes** `runs/hold_r/distance.pt2`, the *distance file* that 04, 05 and 06 read, with a log and two figures
beside it.

```
python 02_hold_r.py                                  # about 3 minutes on two cores, no GPU
python 02_hold_r.py --network vivit_tiny --lr 5e-4   # a small video transformer; from scratch it learns much slower
python 02_hold_r.py --preset gpu                     # ResNet-50 on the stand-in, for one GPU
torchrun --nproc_per_node 8 02_hold_r.py --preset paper_vivit --data ssv2/   # the paper's: days on several GPUs
python 02_hold_r.py --preset paper_vivit --convert holdr_checkpoint          # the authors' weights as a distance file
```

Expect a validation Spearman correlation of about 0.76 on the stand-in's held-out clips. Stop it at any moment; the same
command goes on.
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
    """HOLD-R: train a network to tell how many frames lie between two moments, and write it as a distance file."""

    data: str = "data/standin"  # folder of clips, SSv2 layout or any videos; this one, the stand-in, is made if it is missing
    out: str = "runs/hold_r"  # folder for distance.pt2, checkpoint.pt, log.csv and figures
    network: str = "resnet10t"  # any timm CNN, or vivit_tiny, vivit_small, vivit_base, vivit_large
    width: float = 0.5  # multiplies the channels of a timm ResNet
    patch: int = 16  # side of ViViT's patches, pixels; paper: 16
    drop_path: float = 0.0  # ViViT: share of dropped branches in the last layer; authors' code: 0.3
    init_from: str = ""  # start ViViT's spatial encoder from this timm ViT, by name (downloads it) or state-dict file
    history: int = 3  # frames of s the network sees; paper: 1 and 3
    fps: float = 11.84  # the frame rate d counts in; authors' code: the mean of SSv2
    size: int = 64  # side of the square picture the network sees, pixels; paper: 256
    clips_per_batch: int = 16  # over all processes and accumulated steps; paper Table I: 32, ViViT 64
    pairs_per_clip: int = 4  # ours: several pairs share the decoding and augmentation of a clip; authors' code: 1
    steps: int = 600  # optimiser steps
    optimizer: Literal["adam", "momentum"] = "adam"  # paper Table I: Adam for ResNet, momentum for ViViT
    lr: float = 1e-3  # peak learning rate; paper Table I: 3e-4, ViViT 0.1
    warmup: float = 0.1  # share of the steps with a linearly growing learning rate; cosine to zero after it
    clip_norm: float = 0.0  # largest gradient norm, 0 leaves it free; authors' code: 1 for ViViT
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
        """Table I, ResNet-50 column, for SSv2's 168,913 training clips."""
        epoch = 168_913 // 32
        return cls(out="runs/hold_r_paper", network="resnet50", width=1.0, size=256, clips_per_batch=32,
                   pairs_per_clip=1, steps=100 * epoch, lr=3e-4, warmup=0.5 / 100, augmentation="paper",
                   validate_every=epoch // 2, cache=False, workers=8)

    @classmethod
    def paper_vivit(cls):
        """Table I, ViViT column: ViViT-L with the factorised encoder, 20 epochs, 2.5 of them warm-up."""
        epoch = 168_913 // 64
        return cls(out="runs/hold_r_paper_vivit", network="vivit_large", drop_path=0.3, size=256,
                   clips_per_batch=64, pairs_per_clip=1, steps=20 * epoch, optimizer="momentum", lr=0.1,
                   warmup=2.5 / 20, clip_norm=1.0, augmentation="paper", validate_every=epoch // 2, cache=False,
                   workers=8)

    @classmethod
    def gpu(cls):
        """The stand-in clips on one GPU."""
        return cls(out="runs/hold_r_gpu", network="resnet50", width=1.0, size=96, clips_per_batch=64, steps=4000,
                   lr=5e-4, validate_every=500, workers=12)

    @classmethod
    def smoke(cls):
        """Real updates in seconds, for tests and a look around."""
        return cls(out="runs/smoke/hold_r", data="runs/smoke/clips", width=0.25, size=32, clips_per_batch=2, steps=4,
                   validate_every=2, limit=4)


# %% [markdown]
r"""
## The objective

Eq. 2 of the paper sums over all clips $i$, all frames $t$ of a clip and all later frames:

$$\theta^* = \arg\min_\theta \sum_i \sum_t \sum_{\delta \ge 1} \big(d_\theta(s^i_t, s^i_{t+\delta}) - \delta\big)^2 .$$

Any later frame may be the goal, not only the last: a clip of 45 frames holds 990 examples. Training samples this sum.
From a clip with $L$ frames we draw uniformly one of its $L(L-1)/2$ ordered pairs, which is to draw two different
frames and sort them. (As the clip is drawn first, long clips weigh no more than short ones; Eq. 2 taken literally
would let them.)

The mean target is $(L + 1)/3$. Most pairs are rather close, and a network that has learned nothing says about 15.
"""

# %%
def draw_pairs(num_frames, count, rng):
    """Draw `count` pairs s < g of a clip, uniform over all: two arrays (count,) of frame numbers (paper Eq. 2)."""
    a = rng.integers(num_frames, size=count)
    b = (a + rng.integers(1, num_frames, size=count)) % num_frames  # any frame but a
    return np.minimum(a, b), np.maximum(a, b)


s, g = draw_pairs(44, 4000, np.random.default_rng(0))
assert s.min() == 0 and g.max() == 43 and (g > s).all() and abs((g - s).mean() - 45 / 3) < 0.5

# %% [markdown]
r"""
What is a *moment*? One frame does not show where the hand is going. With `history` 3 the network sees $s$ with the two
frames before it; at the start of a clip the first frame is repeated. The goal is one frame, as a robot is given one
picture: 4 frames in all.
"""

# %%
def with_history(index, history):
    """The frames that stand for moment `index`, oldest first, clamped at the first frame: (...,) -> (..., history)."""
    return np.maximum(np.asarray(index)[..., None] + np.arange(1 - history, 1), 0)


assert with_history([0, 1, 9], 3).tolist() == [[0, 0, 0], [0, 0, 1], [7, 8, 9]]

# %% [markdown]
r"""
And what is *one frame* of distance? Cameras differ: 10 frames are a second on one phone and a third of a second on
another. The authors let the network speak in frames of the mean rate $\bar f$ of SSv2, 11.84 per second, and convert
its answer to the clip's own rate $f$ before they compare:

$$\mathcal L = \frac1B \sum_b \left( d_\theta(s_b, g_b)\, \frac{f_b}{\bar f} - \delta_b \right)^2 .$$

We keep the constant for all data (`--fps`), so that $d$ means the same whatever it was trained on: time, in units of
1/11.84 s.
"""

# %%
def regression_loss(d, delta, rate):
    """Mean squared error in frames of each clip (paper Eq. 2, rate as in the authors' code).

    Args:
        d: (B,) output of the network, frames of the mean rate.
        delta: (B,) frames of the clip between s and g.
        rate: (B,) the clip's frame rate over the mean rate.
    """
    return (d.float() * rate - delta).square().mean()


slow, fast = torch.tensor([10.0, 20.0]), torch.tensor([1.0, 2.0])  # the same second seen at 10 and at 20 frames
assert regression_loss(torch.tensor([10.0, 10.0]), slow, fast) == 0

# %% [markdown]
r"""
## Two networks

**A ResNet by stacked channels.** Put the $3 + 1$ pictures on top of each other and you have one picture with 12
channels. Only the first layer of a ResNet must change. There is no Siamese pair and no subtraction: the very first
filters may compare $s$ with $g$ pixel by pixel. Training is from scratch; batch normalisation uses the statistics of
the batch on one device (`# authors' code`), so with several processes each normalises its own share, and the running
averages are those of the first one.
"""

# %%
class StackedCNN(nn.Module):
    """A timm CNN that sees history and goal as channels, frame after frame: (B, history + 1, 3, S, S) -> (B,)."""

    def __init__(self, name, width, history):
        super().__init__()
        if name not in timm.list_models():
            raise UserError(f"timm has no model {name!r}; see timm.list_models('*resnet*'), or take {', '.join(VIVIT)}")
        narrow = {"channels": [round(c * width) for c in (64, 128, 256, 512)], "stem_width": round(32 * width)}
        narrow = narrow if width != 1.0 else {}
        try:
            self.cnn = timm.create_model(name, in_chans=3 * (history + 1), num_classes=1, **narrow)
        except Exception as error:
            raise UserError(f"timm's {name!r} does not work so ({error}); --width is for ResNets, other models want --width 1") from error

    def forward(self, x):
        """d(s, g) in frames of the mean rate."""
        return self.cnn(x.flatten(1, 2)).squeeze(-1)  # (B, 3 (history + 1), S, S) -> (B,)


# %% [markdown]
r"""
**ViViT with the factorised encoder.** A transformer over all patches of four frames at once would attend over 1,024
tokens. The factorised encoder (Arnab et al., 2021) first lets the patches of each frame speak to each other, keeps one
summary vector per frame, and then lets the four summaries speak. The paper's best HOLD-R is the large one: 24 layers
in space, 4 in time.

The block is the usual one: normalise, attend, add; normalise, transform, add. *Stochastic depth* drops a branch for a
whole example, more often in later layers. The usual recipe divides a branch that stays by $1 - p$, to keep its mean;
the authors' code does not, and so the summed branches are larger in testing than they were on average in training. We
follow it. One draw serves all frames of an example, as released.
"""

# %%
class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v, (N, L, D) -> (N, L, D)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        """Let the tokens of each row look at each other."""
        parts = (part(x).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
        x = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))  # (N, heads, L, D / heads)
        return self.out(x.transpose(1, 2).flatten(2))  # (N, L, D)


class Block(nn.Module):
    """Pre-norm transformer block; branches drop with probability `drop`, alike for the `frames` of an example."""

    def __init__(self, width, heads, drop, frames):
        super().__init__()
        self.drop, self.frames = drop, frames
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def keep(self, branch):
        """Stochastic depth without rescaling (authors' code)."""
        if not (self.training and self.drop):
            return branch
        kept = torch.rand(len(branch) // self.frames, 1, 1, device=branch.device) >= self.drop
        return branch * kept.repeat_interleave(self.frames, 0)

    def forward(self, x):
        """(N, L, D) -> (N, L, D)."""
        x = x + self.keep(self.attention(self.norm1(x)))
        return x + self.keep(self.mlp(self.norm2(x)))


# %% [markdown]
r"""
An encoder adds a summary token (CLS) and learned positions, and returns what the summary token has become. Two of them,
a patch embedding before and one number after, are the whole network. The last layer starts at zero, so the first answer
to every question is 0 frames.
"""

# %%
class Encoder(nn.Module):
    """Tokens of N rows -> the summary token of each: (N, L, D) -> (N, D)."""

    def __init__(self, length, width, layers, heads, drop_path, frames):
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, length + 1, width))
        drops = [drop_path * i / max(1, layers - 1) for i in range(layers)]  # linear in depth
        self.blocks = nn.Sequential(*(Block(width, heads, drop, frames) for drop in drops))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        """Prepend CLS, add positions, run the blocks, return CLS."""
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.positions  # (N, 1 + L, D)
        return self.norm(self.blocks(x))[:, 0]  # (N, D)


# %%
VIVIT = {  # width, layers in space, layers in time, heads
    "vivit_tiny": (128, 4, 2, 4), "vivit_small": (384, 12, 4, 6), "vivit_base": (768, 12, 4, 12),
    "vivit_large": (1024, 24, 4, 16),  # authors' code: 353.76 million parameters at 256 px, patch 16
}


class ViViT(nn.Module):
    """ViViT's factorised encoder: (B, history + 1, 3, S, S) -> (B,) (paper section IV-A)."""

    def __init__(self, name, size, patch, history, drop_path):
        super().__init__()
        if size % patch:
            raise UserError(f"--size {size} is no multiple of --patch {patch}")
        self.frames, (width, space, time_, heads) = history + 1, VIVIT[name]
        self.embed = nn.Conv2d(3, width, patch, patch)  # a 3-D convolution of 16 x 16 x 1 is this one, frame by frame
        self.spatial = Encoder((size // patch) ** 2, width, space, heads, drop_path, self.frames)
        self.temporal = Encoder(self.frames, width, time_, heads, drop_path, 1)
        self.head = nn.Linear(width, 1)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        """d(s, g) in frames of the mean rate."""
        tokens = self.embed(x.flatten(0, 1)).flatten(2).transpose(1, 2)  # (B T, patches, D)
        frames = self.spatial(tokens).unflatten(0, (-1, self.frames))  # (B, T, D)
        return self.head(self.temporal(frames)).squeeze(-1)  # (B,)


# %%
def make_network(config):
    """The network of a config: (B, history + 1, 3, S, S) in [-1, 1] -> (B,) frames. Raises UserError if unknown."""
    if config.network not in VIVIT:
        return StackedCNN(config.network, config.width, config.history)
    network = ViViT(config.network, config.size, config.patch, config.history, config.drop_path)
    if config.init_from:
        copy_spatial_weights(network, read_timm_vit(config.init_from))
    return network


pictures = torch.zeros(2, 4, 3, 32, 32)  # (B=2, history + 1 = 4, 3, S, S)
assert StackedCNN("resnet10t", 0.125, 3)(pictures).shape == (2,)
assert ViViT("vivit_tiny", 32, 8, 3, 0.0)(pictures).tolist() == [0, 0]

# %% [markdown]
r"""
ViViT is hungry for data, and the paper starts it from weights trained to name SSv2's actions. A picture ViT from timm
does for the layers in space: same blocks, other names. The grid of positions is resized to ours, a patch kernel that
spans several frames is summed over time (so that a still film gives the tokens it gave before), and the layers in time
start anew.
"""

# %%
def read_timm_vit(name):
    """The state dict of a timm ViT, from a file or by timm's name. Raises UserError where the weights cannot be had."""
    if Path(name).is_file():
        return load_checkpoint(name)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:
        raise UserError(f"the weights {name!r} cannot be had ({type(error).__name__}); give the name of a timm ViT "
                        "while on line, or a file with its state dict") from error


def copy_spatial_weights(vivit, weights):
    """Start the spatial encoder of a `ViViT` from the state dict of a timm ViT of the same depth and width."""
    kernel, grid = weights["patch_embed.proj.weight"], round((vivit.spatial.positions.shape[1] - 1) ** 0.5)
    kernel = kernel.sum(2) if kernel.ndim == 5 else kernel  # (D, 3, time, p, p) -> (D, 3, p, p); authors' code
    new = {"embed.weight": timm.layers.resample_patch_embed(kernel, list(vivit.embed.kernel_size)),
           "embed.bias": weights["patch_embed.proj.bias"], "spatial.cls": weights["cls_token"],
           "spatial.positions": timm.layers.resample_abs_pos_embed(weights["pos_embed"], (grid, grid))}
    for key, value in weights.items():
        ours = re.sub(r"attn\.(proj|qkv)", r"attention.\1", key).replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2")
        if "qkv" in ours:
            for part, third in zip(("query", "key", "value"), value.chunk(3)):
                new["spatial." + ours.replace("qkv", part)] = third
        elif key.startswith(("blocks.", "norm.")):
            new["spatial." + ours.replace("attention.proj", "attention.out")] = value
    spatial = {k: v for k, v in vivit.state_dict().items() if k.startswith(("embed.", "spatial."))}
    if {k: v.shape for k, v in new.items()} != {k: v.shape for k, v in spatial.items()}:
        raise UserError("the ViT of --init-from has another width or depth than the spatial encoder of this --network")
    vivit.load_state_dict(new, strict=False)


# %% [markdown]
r"""
## Augmentation

The same as in `03_hold_c.py`, which explains it: scale jitter and crop, a flip, then either RandAugment (paper) or a
light change of colour. What matters here: history *and* goal get the same draw. If the goal alone were flipped, the
answer in frames would make no sense.
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
def recolour(clip, brightness, contrast, saturation):
    """Mix each pixel with its grey, then with the mean grey, then with black: uint8 (T, 3, H, W) -> the same."""
    x = clip.float()
    grey = x.mean(1, keepdim=True)  # (T, 1, H, W)
    rest = brightness * contrast * (1 - saturation) * grey + brightness * (1 - contrast) * grey.mean()
    return x.mul_(brightness * contrast * saturation).add_(rest).clamp_(0, 255).to(torch.uint8)


def augment(clip, size, kind, rng):
    """Augment all frames of a clip alike: uint8 (T, 3, H, W) -> (T, 3, size, size)."""
    scale = 9 / 8 * size / min(clip.shape[-2:])  # short side 288 for a crop of 256
    H, W = (max(size, round(side * scale * rng.uniform(0.9, 1.33))) for side in clip.shape[-2:])
    clip = TF.resize(clip, [H, W], antialias=True)
    clip = TF.crop(clip, rng.integers(H - size + 1), rng.integers(W - size + 1), size, size).contiguous()
    if rng.random() < 0.5:
        clip = TF.hflip(clip)
    if kind == "paper":
        return randaugment(clip, rng)
    return recolour(clip, *rng.uniform(0.6, 1.4, 3))  # ours: what helps most for the least work


# %% [markdown]
r"""
## Batches that a crash cannot change

Batch $k$ is a function of the seed and of $k$ alone: which clips (a fresh permutation for every pass over the data),
which pairs, which augmentation. There is no sampler state to save. And it can be divided: with $R$ processes and $A$
accumulated parts, each of the $RA$ parts takes its own clips of batch $k$, and together they make the same batch as
one process alone.
"""

# %%
@functools.lru_cache(maxsize=2)
def visiting_order(seed, epoch, clips):
    """The permutation of clips in a pass over the data."""
    return np.random.default_rng([seed, 1, epoch]).permutation(clips)


class Batches(torch.utils.data.Dataset):
    """Part i of this process: (frames uint8 (N, history + 1, 3, size, size), delta (N,), rate (N,)), N pairs."""

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
        rows = zip(*(self.draw(n) for n in range(first, first + share)))
        return tuple(torch.cat(column) for column in rows)

    def draw(self, n):
        """The pairs of the n-th clip visited in training."""
        c = self.config
        epoch, place = divmod(n, len(self.clips))
        rng = np.random.default_rng([c.seed, 2, n])
        frames, fps = self.clips[visiting_order(c.seed, epoch, len(self.clips))[place]]  # (L, H, W, 3)
        s, g = draw_pairs(len(frames), c.pairs_per_clip, rng)
        index = np.c_[with_history(s, c.history), g]  # (pairs, history + 1)
        clip = augment(torch.from_numpy(frames[index.ravel()]).permute(0, 3, 1, 2), c.size, c.augmentation, rng)
        rate = np.full(len(g), (fps or c.fps) / c.fps)  # a file that does not say its rate counts as average
        return clip.unflatten(0, index.shape), torch.from_numpy(g - s).float(), torch.from_numpy(rate).float()


# %% [markdown]
r"""
## Two numbers on held-out clips

The last frame of a clip is the goal, every earlier one a start. **Spearman** asks only for the right order: it ranks
the starts by $d$, ranks them by the time that is left, and correlates the ranks (1 perfect, 0 chance). The **mean
squared error** asks for the right number of frames. For a reward the order matters most, and the paper keeps the
weights with the best Spearman (App. B); we print the error beside it, as the two may disagree.

One more number comes for free. The reward of `05_sac.py` is $-\max(0, d(s, g) - d(g, g))/T$ with $T$ such that a start
is worth about $-1/3$; so we suggest three times the median start. (That $d(g, g)$ is not 0 is a weakness of
regression: nothing in training shows a pair with $\delta = 0$.)
"""

# %%
@torch.no_grad()
def distances_to_goal(network, preprocess, frames, history, device):
    """d(s_t, s_T) for t = 1..T-1 and last d(s_T, s_T), of one clip uint8 (T, H, W, 3): (T,)."""
    T = len(frames)
    index = np.c_[with_history(np.arange(T), history), np.full(T, T - 1)]
    index[-1] = T - 1  # goal against itself: copies of the goal as history; authors' code
    x = preprocess(torch.from_numpy(frames).to(device))  # (T, 3, S, S)
    return torch.cat([network(x[rows]) for rows in torch.from_numpy(index).split(64)]).float().cpu().numpy()


def validate(network, preprocess, clips, config, device):
    """Mean `spearman` over clips, mean squared error `mse` in frames over all starts, the suggested reward `scale` T;
    and of the first `clip` its `curve` of d and the `unit` in which it falls per frame."""
    network.eval()
    scores, errors, starts, shown = [], [], [], {}
    for frames, fps in (clips[i] for i in range(len(clips))):
        if len(frames) > 3:
            d = distances_to_goal(network, preprocess, frames, config.history, device)
            left = np.arange(len(frames) - 1, 0, -1)  # frames to the goal
            scores.append(0.0 if np.ptp(d[:-1]) == 0 else spearmanr(d[:-1], left).statistic)
            rate = (fps or config.fps) / config.fps
            errors.extend((d[:-1] * rate - left) ** 2)
            starts.append(max(0.0, d[0] - d[-1]))
            shown = shown or {"clip": frames, "curve": d.tolist(), "unit": 1 / rate}
    network.train()
    if not np.isfinite(errors).all():  # before they could be saved
        raise UserError("the distances are not finite; the last good checkpoint is kept, try a lower --lr")
    if not scores:
        raise UserError("no validation clip has more than three frames; add clips or raise --limit")
    return {"spearman": float(np.mean(scores)), "mse": float(np.mean(errors)), **shown,
            "scale": max(1.0, 3 * float(np.median(starts)))}  # never 0, which an untrained network would suggest


# %% [markdown]
r"""
## One update

The learning rate grows linearly and then falls as a cosine (`# authors' code`). A batch may be worked off in parts:
the gradients of the parts add up, each divided by their number. On a GPU the forward pass runs in bfloat16, which has
the range of float32; float16 has not, and needs a loss scaled up before and down after. With several processes,
`DistributedDataParallel` averages the gradients when the last part has been worked off. As every part has the same
number of pairs, the average over all is the gradient of the whole batch, unless batch normalisation looks at each part
alone.
"""

# %%
def learning_rate(step, steps, warmup):
    """Share of the peak learning rate at a step: linear warm-up times cosine decay to zero."""
    rise = max(1, round(warmup * steps))
    return min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise)))


def training_step(model, optimizer, scaler, parts, dtype=torch.float32, clip_norm=0.0):
    """One update from the parts of a batch. Returns the mean squared error; UserError where it is not finite."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for left, (frames, delta, rate) in zip(reversed(range(len(parts))), parts):
        wait = model.no_sync() if left and hasattr(model, "no_sync") else contextlib.nullcontext()
        with wait:
            with torch.autocast(frames.device.type, dtype, enabled=dtype != torch.float32):
                d = model(frames.float() / 127.5 - 1)  # (N, history + 1, 3, S, S) -> (N,)
            loss = regression_loss(d, delta, rate) / len(parts)
            scaler.scale(loss).backward()
        total += loss.item()
    if not math.isfinite(total):
        raise UserError("the loss is not finite; the last good checkpoint is kept, try a lower --lr or --clip-norm 1")
    if clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return total


# %% [markdown]
r"""
## The whole run

`torchrun` starts the same command once per GPU and tells each process its number. All of them read clips and follow
the same weights; the first one also validates, prints and writes. The loop saves itself at every validation: last
weights, best weights, optimiser, log. A checkpoint knows its settings, and refuses to go on under others.
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
    """Load `checkpoint.pt` where there is one; returns the training state {step, best, log, ...}."""
    path, settings = Path(config.out) / "checkpoint.pt", asdict(config)
    if not (config.resume and path.exists()):
        return {"step": 0, "best": {"spearman": -math.inf}, "best_weights": None, "log": [], "curves": [],
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
    network = make_network(config).to(device, memory_format=torch.channels_last)
    if config.compile:
        network.compile()
    if config.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=config.lr, momentum=0.9)
    auto = "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, auto if config.precision == "auto" else config.precision)
    return network, optimizer, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16), dtype


def train(config):
    """Train HOLD-R and write `distance.pt2`. Returns the path of the distance file."""
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
    validation = {k: state["best"][k] for k in ("spearman", "mse")}
    return write_distance(config, network, state["best"]["scale"], validation, state["seconds"] / 60)


# %%
def write_distance(config, network, scale, validation, minutes):
    """Write `distance.pt2` and return its path."""
    meta = {"name": "HOLD-R", "kind": "pairwise", "history": config.history, "training": asdict(config),
            "suggested_scale": scale, "validation": validation, "minutes": minutes}
    save_distance(Path(config.out) / "distance.pt2", network.cpu().eval(), meta, Preprocess(config.size))
    return Path(config.out) / "distance.pt2"


# %%
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
    bar = tqdm(range(first, config.steps), "HOLD-R", initial=first, total=config.steps, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(step, config.steps, config.warmup)
        torch.manual_seed((config.seed * config.steps + step) * world + rank)  # stochastic depth after a stop as before
        losses.append(training_step(model, optimizer, scaler, draw(), dtype, config.clip_norm))
        state["step"] = step + 1
        if rank == 0 and (state["step"] % config.validate_every == 0 or state["step"] == config.steps):
            found = validate(network, preprocess, held_out, config, device)
            state["seconds"], since = state["seconds"] + time.time() - since, time.time()
            record(config, state, found, float(np.mean(losses)), network, optimizer, scaler)
            bar.set_postfix({k: f"{v:.3f}" for k, v in state["log"][-1].items() if k in ("loss", "spearman", "mse")})
            losses = []


def record(config, state, found, loss, network, optimizer, scaler):
    """Put a validation into the state, keep the weights if they are the best, write checkpoint and log."""
    if found["spearman"] > state["best"]["spearman"]:
        weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        state.update(best={k: found[k] for k in ("spearman", "mse", "scale")}, best_weights=weights)
    state["curves"].append(found["curve"])
    numbers = {"loss": loss, "spearman": found["spearman"], "mse": found["mse"], "seconds": state["seconds"]}
    state["log"].append({"step": state["step"], **numbers})
    save_checkpoint(Path(config.out) / "checkpoint.pt", {
        **state, "network": network.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
        "config": asdict(config)})
    write_csv(Path(config.out) / "log.csv", state["log"])
    with write_whole(f"{config.out}/strip.png") as draft:
        figure = plot_strip(found["clip"], state["curves"], found["unit"])
        figure.savefig(draft)
        plt.close(figure)


# %% [markdown]
r"""
## Looking at it

Two figures. The log, and what its numbers mean: a film strip of a held-out clip with the distance to its last frame
under it, once for every validation so far, pale to dark. The dotted line is the truth. `strip.png` is written anew
while the training runs: open it and watch the line learn to fall.
"""

# %%
def plot_log(path):
    """Loss, validation error and validation Spearman against steps, from log.csv."""
    log = read_csv(path)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6))
    for column, label in (("loss", "training"), ("mse", "validation, goal last")):
        left.plot(log["step"], log[column], marker="o", label=label)
    left.set(xlabel="step", ylabel="squared error, frames²", yscale="log")
    left.legend()
    right.plot(log["step"], log["spearman"], marker="o")
    right.set(xlabel="step", ylabel="validation Spearman")
    return figure


def plot_strip(frames, curves, unit, shown=9):
    """A film strip of a clip (T, H, W, 3) over curves (T,) of d to its last frame; the truth is (T - t) `unit`."""
    picks = np.linspace(0, len(frames) - 1, shown).round().astype(int)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 3.2), height_ratios=[1, 1.4])
    top.imshow(np.concatenate(list(frames[picks]), axis=1))
    top.axis("off")
    for age, d in enumerate(curves, 1):
        bottom.plot(d, color=plt.cm.Reds(0.15 + 0.75 * age / len(curves)))
    bottom.plot(unit * np.arange(len(frames) - 1, -1, -1), ":", color="black")
    edge = 0.5 * len(frames) / shown
    bottom.set(xlabel="frame", ylabel="d(s, goal)", xlim=(-edge, len(frames) - 1 + edge))
    return figure


# %% [markdown]
r"""
## The authors' weights

The authors trained in JAX and released Flax checkpoints: a tree of named arrays in msgpack. Convolution kernels lie
there as (height, width, in, out), ours as (out, in, height, width); dense kernels as (in, out), ours transposed;
attention kernels keep the heads apart. So each of our parameters has a path in that tree and a way to turn, and the
rest is bookkeeping: every parameter of the network must be found, and no array of the tree may be left over.
"""

# %%
FLAX_NAMES = (  # pattern of our module names -> theirs, applied in this order (authors' code: scenic's modules)
    (r"^cnn\.conv1$", "stem_conv"), (r"^cnn\.bn1$", "init_bn"), (r"^cnn\.fc$", "output_projection"),
    (r"downsample\.0$", "proj_conv"), (r"downsample\.1$", "proj_bn"),
    (r"^embed$", "embedding"), (r"^head$", "output_projection"),
    (r"^spatial", "SpatialTransformer"), (r"^temporal", "TemporalTransformer"), (r"r\.norm$", "r.encoder_norm"),
    (r"blocks\.", "encoderblock_"), (r"norm1$", "LayerNorm_0"), (r"norm2$", "LayerNorm_1"),
    (r"attention", "MultiHeadDotProductAttention_0"),
    (r"mlp\.0", "MlpBlock_0.Dense_0"), (r"mlp\.2", "MlpBlock_0.Dense_1"),
    (r"(.*)\.cls$", r"cls_\1"), (r"positions$", "posembed_input.pos_embedding"),
)
FLAX_LEAVES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def flax_paths(network):
    """Where the authors' tree keeps each of our parameters: {our name: "params/..." or "batch_stats/..."}."""
    state, paths = network.state_dict(), {}
    blocks = list(dict.fromkeys(re.findall(r"cnn\.layer\d\.\d+\.", " ".join(state))))  # counted through all stages
    for name, value in state.items():
        module, leaf = name.rsplit(".", 1) if not name.endswith(("cls", "positions")) else (name, "")
        for number, block in enumerate(blocks):
            module = module.replace(block, f"ResidualBlock_{number}.")
        for pattern, theirs in FLAX_NAMES:
            module = re.sub(pattern, theirs, module)
        if leaf != "num_batches_tracked":
            leaf = "scale" if leaf == "weight" and value.ndim == 1 else FLAX_LEAVES.get(leaf, "")
            group = "batch_stats" if leaf in ("mean", "var") else "params"
            paths[name] = f"{group}.{module}.{leaf}".strip(".").replace(".", "/")
    return paths


# %%
def from_flax(array, shape):
    """Turn a Flax array to our layout: (h, w, in, out) -> (out, in, h, w), (in, out) -> (out, in)."""
    if len(shape) == 4:
        array = array.sum(0) if array.ndim == 5 else array  # ViViT's kernel has a time axis of length 1
        return array.permute(3, 2, 0, 1)
    if len(shape) == 2:
        return array.reshape(shape[1], shape[0]).T  # attention: (in, heads, each) or (heads, each, out)
    return array.reshape(shape)


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


# %%
def load_flax(network, arrays):
    """Load arrays of `read_flax` into a network. UserError if one is missing, left over, or of another shape."""
    state, paths = network.state_dict(), flax_paths(network)
    missing, left = sorted(set(paths.values()) - set(arrays)), sorted(set(arrays) - set(paths.values()))
    if missing or left:
        raise UserError(f"this network does not fit the checkpoint: {len(missing)} parameters missing {missing[:1]}, "
                        f"{len(left)} left over {left[:1]}; give the checkpoint's --preset or --network")
    for name, path in paths.items():
        try:
            turned = from_flax(arrays[path], state[name].shape)
            assert turned.shape == state[name].shape
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"{path} is {tuple(arrays[path].shape)}, the network's {name} {tuple(state[name].shape)}; "
                            "check --history, --size, --patch and --width") from error
        state[name].copy_(turned)


def convert(config):
    """Turn a released checkpoint into `distance.pt2`; the suggested T is the paper's 45 (App. C)."""
    network = make_network(config)
    load_flax(network, read_flax(config.convert))
    return write_distance(config, network, 45.0, {}, 0.0)


# %% [markdown]
r"""
## How fast is it?

A training loop can be no faster than its network. `--benchmark` measures three loops by turns, so that a busy machine
slows all of them: ours with everything; the same update fed again and again with one batch that is already in the
device's memory; and a bare loop around a timm model (for ViViT, around timm's picture ViT on as many frames). The
first over the second says what decoding and augmentation cost, the first over the third what this file costs.
"""

# %%
def bare_loop(config, device, dtype, pairs):
    """An update of a plain timm model of like size on pictures in memory, as a function without arguments."""
    shape = pairs, 3 * (config.history + 1), config.size, config.size
    if config.network in VIVIT:
        width, depth, _, heads = VIVIT[config.network]
        model = timm.models.VisionTransformer(config.size, config.patch, num_classes=1, embed_dim=width, depth=depth,
                                              num_heads=heads)
        shape = pairs * (config.history + 1), 3, config.size, config.size
    else:
        model = StackedCNN(config.network, config.width, config.history).cnn
    model, x = model.to(device, memory_format=torch.channels_last), torch.randn(shape, device=device)
    optimizer = torch.optim.Adam(model.parameters())

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
    device, pairs = pick_device(config.device), config.clips_per_batch * config.pairs_per_clip
    network, optimizer, scaler, dtype = make_trainer(config, device)
    ensure_clips(config.data)
    clips = ClipSet(config.data, "train", config.size * 9 // 8, config.limit, config.cache)
    config = replace(config, steps=1 + updates * (rounds + 1))  # so many batches are drawn
    draw = batch_reader(Batches(clips, config), config, device)
    step = lambda batch: training_step(network, optimizer, scaler, batch, dtype, config.clip_norm)
    kept = draw()
    loops = {"training": lambda: step(draw()), "from memory": lambda: step(kept),
             "bare timm": bare_loop(config, device, dtype, pairs)}
    seconds = {name: [] for name in loops}
    for name, update in [*loops.items()] * (rounds + 1):
        since = time.perf_counter()
        for _ in range(updates):
            update()
        seconds[name].append(time.perf_counter() - since)
    images = pairs * (config.history + 1) * updates
    return {name: images / float(np.median(s[1:])) for name, s in seconds.items()}  # the first turn warms up


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
        print(f"{config.out}/distance.pt2: {found}, suggested T {distance.meta['suggested_scale']:.1f}, "
              f"{distance.meta['minutes']:.1f} minutes")

# %%
if __name__ == "__main__" and not (config.benchmark or config.convert):
    with write_whole(f"{config.out}/log.png") as draft:
        plot_log(f"{config.out}/log.csv").savefig(draft)

# %% [markdown]
r"""
## What we learned

- The time between two frames is a label that every video carries; regression on it already is a distance.
- The answer is a number of frames, so it can be checked twice: by its order (Spearman) and by its size (squared
  error). On noisy human timing the order is learned better than the size.
- Two pictures can be compared by stacking them as channels; a video transformer does it with summaries of frames. Stacking has
  the difference from the first step on. From summaries it must be learned: with 600 steps from scratch ViViT stays at a Spearman
  of .07, three seeds, where the ResNet has .75 (`03_hold_c.py` has the table).
- The answer in frames is tied to people's pace: on pictures of a robot its order is worse than HOLD-C's, .61 to .80 in the mean.

**Exercises.**
1. Set `--history 1`. Expect nearly the same Spearman: the paper's Table IV has 0.7136 for one frame and 0.7139 for
   three.
2. Let only the last frame be the goal (`g = np.full_like(s, len(frames) - 1)` in `draw`). Expect a lower training loss
   and a worse $d$ for goals that are not the end of a film: the robot's.
3. Take the absolute error (`.abs()` for `.square()` in `regression_loss`). Expect smaller distances: the network now
   answers with the median of what it has seen, not the mean.
"""
