# %% [markdown]
r"""
# HOLD-C: distance by time contrast

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023, section III-A(b).

A robot needs a number that says how far a picture is from a goal picture. Nobody labels such numbers. But every video
carries them: frames that are close in time show nearly the same state of the world, frames far apart do not. HOLD-C
trains a network $f$ to place frames of one video so that time becomes distance, and then uses

$$d(s, g) = \lVert f(s) - f(g) \rVert_2 .$$

**Takes** a folder of video clips: the stand-in clips of `01_data.py`, Something-Something v2, or your own videos; no labels.
**Writes** `runs/hold_c/distance.pt2`, the *distance file* that 04, 05 and 06 read, with a log and two figures beside it.

```
python 03_hold_c.py                          # about 4 minutes on two cores, no GPU
python 03_hold_c.py --data my_videos/        # any folder of webm, mp4, mkv, mov, avi or gif
python 03_hold_c.py --preset paper --data ssv2/      # ResNet-50, 256 px, 100 epochs: days on several GPUs
```

Expect a validation Spearman correlation of about 0.63 on the stand-in's held-out clips. Stop it at any moment; the same command goes on.
"""

# %%
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (ClipSet, Preprocess, UserError, load_checkpoint, load_distance, parse_config, pick_device, plot_style,
                    read_csv, run_script, save_checkpoint, save_distance, write_csv, write_whole)

# %%
@dataclass
class Config:
    """HOLD-C: train a time-contrastive embedding on clips and write it as a distance file."""

    data: str = "data/standin"  # folder of clips, SSv2 layout or any videos; the stand-in is made if it is missing
    out: str = "runs/hold_c"  # folder for distance.pt2, checkpoint.pt, log.csv and figures
    network: str = "resnet10t"  # any timm image model
    width: float = 0.5  # multiplies the channels of a timm ResNet
    size: int = 64  # side of the square picture the network sees, pixels
    embedding: int = 32  # dimensions of f(s); authors' code: 32, linear, not normalised
    clips_per_batch: int = 4  # paper Table II: 8
    frames_per_clip: int = 32  # paper Table II: 32 subsequent frames
    frame_stride: int = 1  # native frames between two sampled ones; paper: 1
    pos_radius: int = 2  # frames this close are positives; authors' code: 2 frames, where the paper says 0.2 s
    neg_radius: int = 4  # frames farther than this are negatives; authors' code: 4 frames, where the paper says 0.4 s
    margin: float = 0.2  # paper Table II
    steps: int = 800  # optimiser steps
    lr: float = 1e-3  # peak learning rate of Adam; paper Table II: 1e-4
    warmup: float = 0.1  # share of the steps with a linearly growing learning rate; cosine to zero after it
    augmentation: Literal["light", "paper"] = "light"  # paper: RandAugment on top of jitter, crop and flip
    validate_every: int = 200  # steps between two validations, each with a checkpoint
    limit: int = 0  # use only the first clips of each split; 0 takes all
    cache: bool = True  # keep decoded clips in memory; turn off for clips that do not fit
    workers: int = 0  # processes that prepare batches; use 0 in notebooks
    seed: int = 0  # of weights, sampling and augmentation
    device: str = "auto"  # cuda, mps or cpu

    @classmethod
    def paper(cls):
        """Table II, ResNet-50 column, for SSv2's 168,913 training clips."""
        epoch = 168_913 // 8
        return cls(network="resnet50", width=1.0, size=256, clips_per_batch=8, steps=100 * epoch, lr=1e-4, warmup=0.5 / 100,
                   augmentation="paper", validate_every=epoch // 2, cache=False, workers=8)

    @classmethod
    def smoke(cls):
        """Real updates in seconds, for tests and a look around."""
        return cls(out="runs/smoke/hold_c", data="runs/smoke/clips", width=0.25, size=32, clips_per_batch=2, steps=4,
                   validate_every=2, limit=4)


# %% [markdown]
r"""
## The objective

Take an *anchor* frame $s$, a *positive* $s_p$ close to it in time and a *negative* $s_n$ far from it. The paper wants, for
all such triplets (Eq. 3),

$$\lVert f(s) - f(s_p)\rVert_2^2 + m < \lVert f(s) - f(s_n)\rVert_2^2 .$$

Everything starts from the matrix $D$ of squared distances between the frames of one clip. We subtract and square instead
of expanding the square: for 32 frames the cost is nothing, and distances cannot come out below zero by rounding.
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
assert pos[10].nonzero().flatten().tolist() == [8, 9, 11, 12] and neg[10, [5, 6, 14, 15]].tolist() == [True, False, False, True]

# %% [markdown]
r"""
"All triplets" (the paper's words for Eq. 3) would be many, and most of them already satisfied. The authors' code
takes one negative per pair of anchor and positive, by the *semi-hard* rule of face recognition:

$$n^*(a, p) = \arg\min \{ D_{an} : n \text{ negative}, D_{an} > D_{ap} \},$$

the closest negative that is still farther away than the positive; where there is none, the farthest negative. The hardest
negative of all would be a stronger signal, but early in training it collapses $f$ to a point. Then

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

Anchor 0, positive 1: $D_{01} = 1$. Its negatives are frames 3, 4, 5 at squared distances 9, 16, 0. Frame 5 is nearer than
the positive, so it is not semi-hard; frame 3 is the closest beyond, and $\max(0, 1 + 1 - 9) = 0$. The twin at distance 0
costs nothing: the rule forgives clips in which a state returns.
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
## From a clip to a window

The paper draws 32 subsequent frames, 2.7 seconds of a four-second clip. The loss only asks for time stamps, so a stride is
possible too: 16 frames two apart see the same seconds for half the price. A clip that is too short is looped, and the number
of the loop is the sequence id.
"""

# %%
def draw_window(num_frames, length, stride, rng):
    """Choose frames of a clip: `length` of them, `stride` apart, from a random start; short clips are looped.

    Returns (index, timestep, sequence_id), each (length,): which frame, its time within its pass, the number of the pass.
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
*within* a clip, tell the network what it may not rely on. The paper takes ViViT's pipeline: short side to 288, height and
width jittered separately by 0.9 to 1.33, a 256 crop, a flip, and RandAugment with two operations at magnitude 20.
At this magnitude, posterize and solarize of the authors' table do nothing, and colour, contrast, brightness and sharpness
are enhanced 3.7-fold. `01_data.py` shows each step as a picture.

Operations with statistics (equalize, auto-contrast) must see the whole clip at once, or the colours would flicker: we
stack the frames into one tall picture, as the authors do.
"""

# %%
def randaugment(clip, rng, layers=2, factor=3.7):
    """Two random colour operations on a clip, uint8 (T, 3, H, W) (authors' code: 11 operations and identity, no geometry)."""
    T, _, H, W = clip.shape
    same = lambda x: x
    operations = [TF.autocontrast, TF.equalize, TF.invert, same, same, same,  # posterize to 8 bits, solarize at 512: no-ops
                  lambda x: TF.adjust_saturation(x, factor), lambda x: TF.adjust_contrast(x, factor),
                  lambda x: TF.adjust_brightness(x, factor), lambda x: TF.adjust_sharpness(x, factor), "cutout",
                  lambda x: torch.where(x < 128, (x.int() + 220).clamp(max=255).to(x.dtype), x)]  # solarize-add
    for choice in rng.integers(len(operations), size=layers):
        if operations[choice] == "cutout":  # one black box for all frames, 160 of 256 pixels wide, cut off at the border
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
    H, W = (round(side * rng.uniform(0.9, 1.33) * 9 / 8 * size / min(clip.shape[-2:])) for side in clip.shape[-2:])  # 288 / 256
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

Batch number $k$ is a function of the seed and of $k$ alone: which clips (a fresh permutation for every pass over the data),
which windows, which augmentation. So a run that was stopped goes on exactly as if it had not been, with any number of
loader processes, and there is no sampler state to save.
"""

# %%
class Batches(torch.utils.data.Dataset):
    """Batch k of training: (frames uint8 (B, T, 3, size, size), timesteps (B, T), sequence_ids (B, T))."""

    def __init__(self, clips, config):
        self.clips, self.config = clips, config

    def __len__(self):
        return self.config.steps

    def __getitem__(self, step):
        c, rows = self.config, []
        for n in range(step * c.clips_per_batch, (step + 1) * c.clips_per_batch):
            epoch, place = divmod(n, len(self.clips))
            order = np.random.default_rng([c.seed, 1, epoch]).permutation(len(self.clips))
            rng = np.random.default_rng([c.seed, 2, n])
            frames, _ = self.clips[order[place]]  # (L, H, W, 3)
            index, timestep, sequence = draw_window(len(frames), c.frames_per_clip, c.frame_stride, rng)
            clip = torch.from_numpy(frames[index]).permute(0, 3, 1, 2)  # (T, 3, H, W)
            rows.append((augment(clip, c.size, c.augmentation, rng), torch.from_numpy(timestep), torch.from_numpy(sequence)))
        return tuple(torch.stack(column) for column in zip(*rows))


# %% [markdown]
r"""
## The network

Any timm image model whose classifier is replaced by a linear map to 32 numbers. No softmax, no normalisation: the length of
a difference must be free to grow with time. The paper's ResNet-50 is `--network resnet50`, trained from scratch; its batch
normalisation uses the statistics of the batch on one device, ours too.
"""

# %%
def make_network(name, width, embedding):
    """A timm model that maps (B, 3, S, S) in [-1, 1] to (B, embedding). Raises UserError for names timm does not know."""
    if name not in timm.list_models():
        raise UserError(f"timm has no model {name!r}; see timm.list_models('*resnet*')")
    narrow = {"channels": [round(c * width) for c in (64, 128, 256, 512)], "stem_width": round(32 * width)} if width != 1.0 else {}
    return timm.create_model(name, num_classes=embedding, **narrow)


toy = make_network("resnet10t", 0.125, 32)
assert toy(torch.zeros(2, 3, 32, 32)).shape == (2, 32)

# %% [markdown]
r"""
## Is it a distance? Spearman on held-out clips

The last frame of a clip is its goal. A perfect distance would fall at every step towards it. So rank the frames by
$d(s_t, s_T)$, rank them by the time that is left, and correlate the ranks: 1 is perfect order, 0 is chance. The paper stops
training by this number (App. B); so do we, by keeping the weights of the best validation. `04_eval_human.py` shows what it
hides.
"""

# %%
def spearman_to_goal(embeddings):
    """Spearman correlation of d(s_t, s_T) with the time to go, t = 1..T-1, of one clip (T, E); a constant d scores 0."""
    d = np.linalg.norm(embeddings[:-1] - embeddings[-1], axis=-1)  # (T-1,)
    return 0.0 if np.ptp(d) == 0 else spearmanr(d, -np.arange(len(d))).statistic


there = np.linspace(1, 0, 9)[:, None]
assert spearman_to_goal(there) > 0.999 and abs(spearman_to_goal(np.abs(there - 0.5))) < 0.5

# %%
@torch.no_grad()
def validate(network, preprocess, clips, device):
    """Mean Spearman over clips, and 3 x the median d(s_1, s_T): the reward scale T that puts a start at -1/3 (paper App. C)."""
    network.eval()
    scores, starts = [], []
    for frames, _ in (clips[i] for i in range(len(clips))):
        if len(frames) > 3:
            f = network(preprocess(torch.from_numpy(frames).to(device))).float().cpu().numpy()  # (T, E)
            scores.append(spearman_to_goal(f))
            starts.append(np.linalg.norm(f[0] - f[-1]))
    network.train()
    if not scores:
        raise UserError("no validation clip has more than three frames; add clips or raise --limit")
    return float(np.mean(scores)), 3 * float(np.median(starts))


# %% [markdown]
r"""
## Training

One step: embed all frames of all clips at once, mine inside each clip, follow the gradient of the sum. The learning rate
grows linearly and then falls as a cosine (`# authors' code`; the paper does not say).
"""

# %%
def learning_rate(step, steps, warmup):
    """Share of the peak learning rate at a step: linear warm-up times cosine decay to zero."""
    rise = max(1, round(warmup * steps))
    return min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * max(0, step - rise) / max(1, steps - rise)))


def training_step(network, optimizer, batch, config):
    """One update. Returns the mean loss per positive pair."""
    frames, timesteps, sequences = batch
    x = frames.flatten(0, 1).float() / 127.5 - 1  # (B*T, 3, S, S)
    f = network(x).unflatten(0, frames.shape[:2])  # (B, T, E)
    loss, positives = time_contrastive_loss(f, timesteps, sequences, config.pos_radius, config.neg_radius, config.margin)
    if not torch.isfinite(loss):
        raise UserError("the loss is not finite; the last good checkpoint is kept, try a lower --lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item() / positives.item()


# %% [markdown]
r"""
The loop saves itself at every validation: weights, optimiser, log, best weights so far. A checkpoint knows its settings,
and refuses to go on under others.
"""

# %%
def start_or_resume(config, network, optimizer):
    """Load `checkpoint.pt` where there is one; returns the training state {step, best, best_weights, log}."""
    path, settings = Path(config.out) / "checkpoint.pt", asdict(config)
    if not path.exists():
        return {"step": 0, "best": -math.inf, "best_weights": None, "scale": 1.0, "log": [], "seconds": 0.0}
    state = load_checkpoint(path)
    changed = [k for k, v in settings.items() if k not in ("device", "workers", "out") and state["config"].get(k) != v]
    if changed:
        raise UserError(f"{path} was trained with another {', '.join(changed)}; give another --out or delete that folder")
    network.load_state_dict(state.pop("network"))
    optimizer.load_state_dict(state.pop("optimizer"))
    print(f"going on from step {state['step']} of {config.steps}")
    return state


# %%
def train(config):
    """Train HOLD-C and write `distance.pt2`. Returns the path of the distance file."""
    out, device = Path(config.out), pick_device(config.device)
    torch.manual_seed(config.seed)
    network = make_network(config.network, config.width, config.embedding).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    state = start_or_resume(config, network, optimizer)
    if state["step"] < config.steps:
        data = Path(config.data)
        if not data.exists() or ((data / "manifest.json").exists() and not (data / "labels/labels.json").exists()):
            print(f"the clips in {data} are missing or unfinished, so they are made first", flush=True)
            run_script("01_data.py", "--out", data)
        side = config.size * 9 // 8
        clips = ClipSet(config.data, "train", side, config.limit, config.cache)
        held_out = ClipSet(config.data, "validation", side, config.limit or 500, config.cache)
        fit(config, network, optimizer, clips, held_out, state, device)
    network.load_state_dict(state["best_weights"])
    meta = {"name": "HOLD-C", "kind": "embedding", "history": 1, "training": asdict(config), "suggested_scale": state["scale"],
            "validation": {"spearman": state["best"]}, "minutes": state["seconds"] / 60}
    save_distance(out / "distance.pt2", network.cpu(), meta, Preprocess(config.size))
    return out / "distance.pt2"


# %%
def fit(config, network, optimizer, clips, held_out, state, device):
    """Update the network from `state["step"]` to the end, validating and saving on the way; `state` is changed in place."""
    preprocess, losses = Preprocess(config.size).to(device), []
    todo = torch.utils.data.Subset(Batches(clips, config), range(state["step"], config.steps))
    loader = torch.utils.data.DataLoader(todo, batch_size=None, num_workers=config.workers)
    bar = tqdm(loader, "HOLD-C", initial=state["step"], total=config.steps)
    since = time.time()
    for batch in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * learning_rate(state["step"], config.steps, config.warmup)
        losses.append(training_step(network, optimizer, [x.to(device) for x in batch], config))
        state["step"] += 1
        if state["step"] % config.validate_every == 0 or state["step"] == config.steps:
            spearman, scale = validate(network, preprocess, held_out, device)
            if spearman > state["best"]:
                weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
                state.update(best=spearman, scale=scale, best_weights=weights)
            state["log"].append({"step": state["step"], "loss": float(np.mean(losses)), "spearman": spearman})
            state["seconds"] += time.time() - since
            since, losses = time.time(), []
            save_checkpoint(Path(config.out) / "checkpoint.pt", {
                **state, "network": network.state_dict(), "optimizer": optimizer.state_dict(), "config": asdict(config)})
            write_csv(Path(config.out) / "log.csv", state["log"])
            bar.set_postfix(loss=f"{state['log'][-1]['loss']:.3f}", spearman=f"{spearman:.3f}")


# %% [markdown]
r"""
## Looking at it

Two figures. The log, and what the numbers mean: a film strip of a held-out clip with the distance to its last frame
under it. A good curve falls while the hand reaches, falls while it acts, and is flat while nothing happens.
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


def plot_strip(distance, frames, shown=9):
    """A film strip of a clip (T, H, W, 3) over the curve of its distance to the last frame."""
    d = distance(frames, frames[-1]).cpu().numpy()  # (T,)
    picks = np.linspace(0, len(frames) - 1, shown).round().astype(int)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 3.2), height_ratios=[1, 1.4])
    top.imshow(np.concatenate(list(frames[picks]), axis=1))
    top.axis("off")
    bottom.plot(d, color="tab:red")
    bottom.plot(picks, d[picks], "o", color="tab:red")
    bottom.set(xlabel="frame", ylabel="d(s, goal)", xlim=(-0.5 * len(d) / shown, len(d) - 1 + 0.5 * len(d) / shown))
    return figure


# %%
if __name__ == "__main__":
    plot_style()
    config = parse_config(Config)
    distance = load_distance(train(config))
    print(f"{config.out}/distance.pt2: validation Spearman {distance.meta['validation']['spearman']:.3f}, "
          f"suggested T {distance.meta['suggested_scale']:.2f}, {distance.meta['minutes']:.1f} minutes")

# %%
if __name__ == "__main__":
    clip, _ = ClipSet(config.data, "validation", config.size, 1)[0]
    for name, figure in (("log", plot_log(f"{config.out}/log.csv")), ("strip", plot_strip(distance, clip))):
        with write_whole(f"{config.out}/{name}.png") as draft:
            figure.savefig(draft)

# %% [markdown]
r"""
## What we learned

- A video is its own teacher: "close in time" needs no label, and one triplet rule turns it into a distance.
- The mining decides what is learned. Semi-hard negatives forgive clips in which a state comes back.
- The released loss is a sum over ordered pairs with radii in frames; the paper's text says seconds and "all triplets".

**Exercises.**
1. Take the farthest negative always (`D_an_star = farthest.expand_as(D)`). Expect a loss near zero within a few steps and a
   Spearman that stops improving: the task has become too easy.
2. Set `--margin 2`. Expect distances about three times as large, the same order of frames, and a suggested T that grows along.
3. Set `--frames-per-clip 8 --clips-per-batch 16`. Expect a lower Spearman: windows of 0.7 s never see a whole action.
"""
