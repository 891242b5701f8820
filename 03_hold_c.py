# %% [markdown]
r"""
# HOLD-C: distance by time contrast

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023,
section III-A(b).

A robot needs a number that says how far a picture is from a goal picture. Nobody labels such numbers, but
every video carries them: frames close in time show nearly the same state of the world, frames far apart do
not. HOLD-C trains a network $f$ to place the frames of a video so that time becomes distance, and then uses

$$d(s, g) = \lVert f(s) - f(g) \rVert_2 .$$

**Takes** a folder of clips: the stand-in of `01_data.py`, Something-Something v2 (SSv2), or your own videos;
no labels. **Writes** `runs/hold_c-seed0/distance.pt2`, the *distance file* that 04, 05 and 06 read; beside it
a log, a checkpoint and the pictures below.

```
python 03_hold_c.py                     # 3 to 5 minutes on two cores; held-out Spearman about 0.6 of 1
python 03_hold_c.py --data my_videos/ --out runs/mine   # any folder of webm, mp4, mkv, mov, avi or gif
python 03_hold_c.py --steps 0 --out runs/untrained      # an untrained network, to compare
torchrun --nproc_per_node 8 03_hold_c.py --preset paper         # SSv2 in ssv2/, ResNet-50, 100 epochs: days
python 03_hold_c.py --preset paper --convert holdc_checkpoint   # the authors' weights as a distance file
```
"""

# %%
import copy
import math
import re
import time
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (STYLE, ClipSet, Preprocess, UserError, augment, ensure, join_processes, load_distance,
                    load_flax, load_run, parse_config, read_flax, save_distance, save_run, show,
                    spearman_to_go, visited, write_csv)

# %%
@dataclass
class Config:
    """HOLD-C: train a time-contrastive embedding on clips and write it as a distance file."""

    data: str = "data/standin"  # folder of clips: SSv2 or any videos; the stand-in is made if missing
    out: str = "runs/hold_c-seed{seed}"  # folder for distance.pt2 and what comes with it
    network: str = "resnet10t"  # any timm image model, e.g. resnet50 or vit_base_patch16_224
    width: float = 0.5  # multiplies the channels of a timm ResNet; other models want 1
    pretrained: bool = False  # start from timm's weights (a download); paper: ImageNet-21k for the ViT
    size: int = 64  # side of the square the network sees, pixels; paper: 256
    clips_per_batch: int = 4  # over all processes; paper Table II: 8
    frames_per_clip: int = 32  # paper Table II: 32 subsequent frames
    radius: int = 2  # frames this close are positives, beyond twice that negatives; authors' code: 2
    window_seconds: float | None = None  # the radius in seconds instead of frames; paper: 0.2
    margin: float = 0.2  # m, in squared distance; paper Table II: 0.2
    steps: int = 800  # optimiser steps; 0 writes the untrained network
    lr: float = 1e-3  # peak learning rate of Adam; paper Table II: 1e-4
    warmup: float = 0.1  # share of the steps in which it grows; then cosine to zero
    augmentation: Literal["light", "paper"] = "light"  # paper: RandAugment on top of jitter, crop, flip
    validate_every: int = 200  # steps between two validations, each with a checkpoint
    limit: int = 0  # clips of each split to use; 0 takes all, of validation 500
    workers: int = 0  # processes that prepare batches; use 0 in notebooks
    seed: int = 0  # of weights, sampling and augmentation
    resume: bool = True  # go on from the checkpoint in --out; --no-resume starts anew
    device: str = "auto"  # cuda, mps or cpu
    convert: str = ""  # the authors' checkpoint (Flax) to make a distance file of

    positive: ClassVar = ("size", "clips_per_batch", "frames_per_clip", "radius", "validate_every")  # >= 1

    @classmethod
    def paper(cls):
        """Table II, ResNet-50: 100 epochs of SSv2's 168,913 clips (see the last cell for what is unclear)."""
        return cls(data="ssv2", out="runs/hold_c_paper-seed{seed}", network="resnet50", width=1.0, size=256,
                   clips_per_batch=8, window_seconds=0.2, steps=100 * 21_114, lr=1e-4, warmup=0.5 / 100,
                   augmentation="paper", validate_every=21_114 // 2, workers=8)

    @classmethod
    def paper_vit(cls):
        """Table II, ViT: 5 epochs from ImageNet-21k; the paper does not say which ViT."""
        return replace(cls.paper(), out="runs/hold_c_paper_vit-seed{seed}", steps=5 * 21_114, warmup=0.5 / 5,
                       network="vit_base_patch16_224.augreg_in21k", pretrained=True)

    @classmethod
    def smoke(cls):
        """Real updates in seconds, for tests."""
        return cls("runs/smoke/clips", "runs/smoke/hold_c-seed{seed}", size=32, steps=4, validate_every=2)


# %%
if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    config = parse_config(Config)  # in Jupyter: parse_config(Config, steps=200)
    rank, world, device = join_processes(config.device)  # torchrun starts `world` copies of this file
    look = rank == 0 and not config.convert  # the first copy makes the clips and draws
    if look:
        ensure(config.data)
    if world > 1:
        distributed.barrier()  # until the clips are there

# %%
def open_clips(config):
    """The training and the held-out clips of a config."""
    short_side = config.size * 9 // 8  # authors' code: 288 for crops of 256
    held_out = ClipSet(config.data, "validation", short_side, config.limit or 500)
    return ClipSet(config.data, "train", short_side, config.limit), held_out


def draw_frames(axis, frames, shown=9):
    """Draw a row of frames of a clip (T, H, W, 3), evenly spaced."""
    picks = np.linspace(0, len(frames) - 1, shown).round().astype(int)
    axis.imshow(np.concatenate(list(frames[picks]), axis=1))
    axis.axis("off")


if __name__ == "__main__" and look:
    clips, held_out = open_clips(config)
    clip, fps = held_out[0]  # uint8 (T, H, W, 3), frames per second
    figure, axis = plt.subplots(figsize=(9, 1.1))
    draw_frames(axis, clip)
    axis.set_title(f"{len(clip)} frames at {fps:.1f} per second")
    show(figure, f"{config.out}/clip.png")

# %% [markdown]
r"""## The objective

Take an *anchor* frame $s$, a *positive* $s_p$ close to it in time and a *negative* $s_n$ far from it. The
paper wants, for all such triplets (Eq. 3),

$$\lVert f(s) - f(s_p)\rVert_2^2 + m < \lVert f(s) - f(s_n)\rVert_2^2 .$$

Everything starts from the matrix $D$ of squared distances between the frames of one clip. We subtract and
square instead of expanding the square, so that no distance comes out below zero by rounding."""

# %%
def squared_distances(embeddings):
    """D[a, b] = ||f_a - f_b||^2 for all pairs of frames: (..., T, E) -> (..., T, T)."""
    return (embeddings[..., :, None, :] - embeddings[..., None, :, :]).square().sum(-1)


on_a_line = torch.tensor([[0.0], [1.0], [3.0]])  # (T=3, E=1)
squared_distances(on_a_line)

# %% [markdown]
r"""Who is whose positive? Two frames of the same sequence at most `pos_radius` apart. Who is a negative?
Frames more than `neg_radius` apart, or of another sequence. Between the radii, time is too short to be sure
that something changed, and too long to be sure that nothing did.

*Another sequence* inside one clip? Clips shorter than the window are looped, and each loop counts as a new
sequence: its first frame is no neighbour of the last frame before. The price: positives in one loop are
negatives from loop to loop. The authors' code does so, and we keep it."""

# %%
def positives_and_negatives(timesteps, sequence_ids, pos_radius=2, neg_radius=4):
    """Boolean masks (..., T, T): [a, b] says whether b is a positive (a negative) of anchor a."""
    gap = (timesteps[..., :, None] - timesteps[..., None, :]).abs()
    same = sequence_ids[..., :, None] == sequence_ids[..., None, :]
    itself = torch.eye(timesteps.shape[-1], dtype=torch.bool, device=timesteps.device)
    return same & (gap <= pos_radius) & ~itself, ~same | (gap > neg_radius)


pos, neg = positives_and_negatives(torch.arange(32), torch.zeros(32))
assert pos.sum() == 122  # what the authors' code counts for a 32-frame window
assert neg[10, [5, 6, 14, 15]].tolist() == [True, False, False, True]
pos[10].nonzero().flatten()  # the positives of frame 10

# %%
if __name__ == "__main__" and look:  # a clip of 20 frames, looped; red: positives, grey: negatives
    t = torch.arange(32)
    pos, neg = positives_and_negatives(t % 20, t // 20)
    figure, axis = plt.subplots(figsize=(3.2, 3.2))
    axis.imshow(0.8 * pos - 0.4 * neg, cmap="RdGy_r", vmin=-1, vmax=1)
    axis.set(xlabel="frame", ylabel="anchor")
    show(figure, f"{config.out}/masks.png")

# %% [markdown]
r"""The paper says "all triplets". They would be many, and most are satisfied already. The authors' code takes
one negative per pair of anchor and positive, by the *semi-hard* rule of FaceNet (Schroff et al., 2015):

$$n^*(a, p) = \arg\min \{ D_{an} : n \text{ negative}, D_{an} > D_{ap} \},$$

the closest negative that is still farther away than the positive; where there is none, the farthest negative.
The closest of all would be a stronger signal, but early in training it can collapse $f$ to a point. Then

$$\mathcal L = \sum_{(a, p)} \max(0, m + D_{ap} - D_{a n^*}) .$$

Three details of the released code matter to anyone who compares numbers. The loss is the *sum* over ordered
positives; the mean is only logged. Ties share their gradient (so `amin`, where `min` would pick one). An
anchor without any negative pays $m + D_{ap}$, as if its negative sat at distance 0: `D * neg` below is 0
there, and so is its maximum."""

# %%
def time_contrastive_loss(embeddings, timesteps, sequence_ids=None, pos_radius=2, neg_radius=4, margin=0.2):
    """Semi-hard triplet loss over time, mined inside each clip (paper Eq. 3; mining as in the authors' code).

    Args:
        embeddings: (..., T, E), one clip of T frames per leading index, not normalised.
        timesteps: (..., T) times in the clip: frame numbers, or seconds.
        sequence_ids: (..., T), equal for frames of the same pass through the clip; None for a single pass.
        pos_radius, neg_radius: in the unit of `timesteps`.
        margin: m, in units of squared distance.
    Returns:
        (loss_sum, num_positives): the sum over ordered positive pairs, and how many there are.
    """
    sequence_ids = torch.zeros_like(timesteps) if sequence_ids is None else sequence_ids
    D = squared_distances(embeddings)  # (..., T, T)
    pos, neg = positives_and_negatives(timesteps, sequence_ids, pos_radius, neg_radius)
    D_ap, D_an = D[..., :, :, None], D[..., :, None, :]  # (..., a, p, 1), (..., a, 1, n)
    beyond = neg[..., :, None, :] & (D_an > D_ap)  # (..., a, p, n): negatives farther away than p
    semi_hard = D_an.masked_fill(~beyond, math.inf).amin(-1)  # (..., a, p); inf where there is none
    farthest = (D * neg).amax(-1, keepdim=True)  # (..., a, 1); 0 where an anchor has no negative
    D_an_star = torch.where(semi_hard.isinf(), farthest, semi_hard)  # (..., a, p)
    return (F.relu(margin + D - D_an_star) * pos).sum(), pos.sum()


# %% [markdown]
r"""A toy to check by hand: six frames on a line, radii 1 and 2, margin 1. Frames 0 and 5 sit at the same
place (the hand came back in one jump), other neighbours one unit apart. Anchor 0, positive 1: $D_{01} = 1$,
and the negatives 3, 4, 5 are at 9, 16, 0. Frame 5 is nearer than the positive, so not semi-hard; frame 3 is
the closest beyond: $\max(0, 1 + 1 - 9) = 0$. The twin at distance 0 costs nothing: a state may return.

Only the jump costs. Anchor 4, positive 5: $D = 16$, no negative beyond, farthest at 16: $1 + 16 - 16 = 1$.
Anchor 5, positive 4: $D = 16$, the negatives at 0, 1 and 4: $1 + 16 - 4 = 13$."""

# %%
line = torch.tensor([0.0, 1, 2, 3, 4, 0]).view(6, 1)
loss, count = time_contrastive_loss(line, torch.arange(6), pos_radius=1, neg_radius=2, margin=1.0)
assert (loss.item(), count.item()) == (14.0, 10)
time_contrastive_loss(0.1 * line, torch.arange(6), pos_radius=1, neg_radius=2, margin=1.0)  # all ten pay

# %% [markdown]
r"""## From clips to batches

The paper draws 32 subsequent frames, 2.7 seconds of a four-second clip. Is the radius 0.2 seconds, as the
paper says, or 2 frames, as in the released code? At SSv2's 12 frames per second the two agree. At 30, two
frames are hardly a movement; `--window-seconds 0.2` goes by each clip's own rate, as does `--preset paper`.
Crops, flips and colours that change from clip to clip, but never *within* a clip, tell the network what it
may not rely on; `01_data.py` shows each step of `augment`.

Window $n$ depends on the seed and $n$ alone: its clip (`visited` takes all clips in a new order in each pass
over the data), start and augmentation. So a run that was stopped goes on as if it had not been."""

# %%
def draw_window(num_frames, length, rng):
    """Draw `length` subsequent frames, of a short clip in loops: (frame numbers, pass numbers), (length,)."""
    raw = rng.integers(max(1, num_frames - length + 1)) + np.arange(length)
    return raw % num_frames, raw // num_frames


draw_window(5, 8, np.random.default_rng(0))

# %%
class Windows(Dataset):
    """Item n, of the n-th clip visited: frames uint8 (T, 3, size, size), times (T,), sequence ids (T,)."""

    def __init__(self, clips, config):
        self.clips, self.config = clips, config

    def __getitem__(self, n):
        c = self.config
        rng = np.random.default_rng([c.seed, 2, n])
        frames, fps = self.clips[visited(n, len(self.clips), c.seed)]  # (L, H, W, 3)
        index, sequence = draw_window(len(frames), c.frames_per_clip, rng)
        times = np.float32(index / (fps if c.window_seconds else 1))
        window = torch.from_numpy(frames[index]).permute(0, 3, 1, 2)  # (T, 3, H, W)
        return augment(window, c.size, c.augmentation, rng), times, sequence


# %%
if __name__ == "__main__" and look:
    figure, axes = plt.subplots(2, 1, figsize=(9, 2.2))
    for n in range(2):
        draw_frames(axes[n], Windows(clips, config)[n][0].permute(0, 2, 3, 1))
    figure.suptitle("the first two windows, augmented")
    show(figure, f"{config.out}/windows.png")

# %% [markdown]
r"""## The network

Any timm image model whose classifier is replaced by a linear map to 32 numbers, as in the authors' code. No
softmax, no normalisation: the length of a difference must be free to grow with time. The paper trains its
ResNet-50 from scratch and starts its ViT from ImageNet-21k. Batch normalisation makes the number of processes
matter: one process normalises over all clips of a batch; the released code, and the `torchrun` line above,
over the 32 frames of the one clip a device has."""

# %%
def make_network(config):
    """A timm model (B, 3, S, S) in [-1, 1] -> (B, 32). UserError for names or weights out of reach."""
    name, changes = config.network, {}
    if name not in timm.list_models() + timm.list_pretrained():
        raise UserError(f"timm has no model {name!r}; see timm.list_models('*resnet*')")
    if name.startswith(("vit", "deit")):
        changes = {"img_size": config.size}  # resizes the grid of positions
    elif config.width != 1:
        changes = {"channels": [round(c * config.width) for c in (64, 128, 256, 512)],
                   "stem_width": round(32 * config.width)}
    try:
        network = timm.create_model(name, pretrained=config.pretrained, num_classes=32, **changes)
        network.eval()(torch.zeros(1, 3, config.size, config.size))  # some models take one size only
        return network.train()
    except Exception as error:
        hint = "try --width 1, another --size, or leave --pretrained away"
        raise UserError(f"timm gives no such {name!r} ({str(error)[:90]!r}); {hint}") from error


make_network(Config(width=0.125))(torch.zeros(2, 3, 64, 64)).shape

# %%
@torch.no_grad()
def embed(network, frames, size, device="cpu"):
    """Embed a clip of a `ClipSet`, uint8 (T, H, W, 3), by its central 8/9: (T, E) on the CPU."""
    frames = TF.center_crop(torch.from_numpy(frames).permute(0, 3, 1, 2), size)  # authors' code: 256 of 288
    return torch.cat([network(x.to(device).float() / 127.5 - 1).float().cpu() for x in frames.split(64)])


def show_matrix(d, path):
    """Show d (T, T) between frames of a clip; dark is near."""
    figure, axis = plt.subplots(figsize=(3, 2.6))
    figure.colorbar(axis.imshow(d, cmap="Greys_r"), ax=axis)
    show(figure, path)


if __name__ == "__main__" and look:  # before training: even this tells changed pictures from unchanged ones
    torch.manual_seed(config.seed)
    f = embed(make_network(config).eval(), clip[::3], config.size)
    show_matrix(squared_distances(f).sqrt(), f"{config.out}/before.png")

# %% [markdown]
r"""## Is it a distance? Spearman on held-out clips

The last frame of a clip is its goal. A perfect distance would fall at every step towards it. So rank the
frames by $d(s_t, s_T)$, rank them by the time that is left, and correlate the ranks: 1 is perfect order, 0 is
chance. The paper stops training by this number (App. B); we keep the weights of the best validation.

The curves also suggest a $T$, three times the median clip's first distance, for a robot of yours.
`05_sac.py` measures its own where a task starts, by the same rule: $-1/3$ at first, as in the paper."""

# %%
def validate(network, clips, config, device):
    """Of clips: mean `spearman`, reward `scale` 3 x median d(s_1, s_T), `curve` of d along the first one."""
    network.eval()
    embedded = [embed(network, clips[i][0], config.size, device) for i in range(len(clips))]
    network.train()
    curves = [(f - f[-1]).norm(dim=-1).numpy() for f in embedded]  # d(s_t, s_T), t = 1..T
    scores = [spearman_to_go(d[:-1]) for d in curves]
    if not np.isfinite(scores).any():
        raise UserError(f"no score: in {config.data} no held-out clip has three frames, or d is not finite")
    return {"spearman": float(np.nanmean(scores)), "curve": curves[0].tolist(),
            "scale": 3 * float(np.median([d[0] for d in curves])) or 1.0}


# %% [markdown]
r"""## Training

The learning rate grows linearly, then falls as a cosine (authors' code; the paper does not say). Each
validation writes a checkpoint: interrupt training (Ctrl-C, or the kernel in Jupyter), and the same command or
cell goes on from there. It also draws its picture anew: the clip, below it the distance to its last frame,
pale to dark as the network learns. A good curve falls while the hand reaches and acts, and is flat while
nothing happens."""

# %%
def learning_rate(step, config):
    """Linear warm-up times cosine decay to zero."""
    rise = max(1, round(config.warmup * config.steps))
    fall = max(0, step - rise) / max(1, config.steps - rise)
    return config.lr * min(1.0, step / rise) * 0.5 * (1 + math.cos(math.pi * fall))


# %%
def record(config, parts, state, loss, held_out, device):
    """Validate, keep the best weights in `parts["best"]`, write checkpoint and log; changes `state`."""
    found = validate(parts["network"], held_out, config, device)
    score = (state["step"] > 0, found["spearman"])  # any trained weights beat the untrained ones
    state["curves"].append(found.pop("curve"))
    if score > state["score"]:
        state.update(score=score, found=found)
        parts["best"].load_state_dict(parts["network"].state_dict())
    state["log"].append({"step": state["step"], "loss": loss, **found, "minutes": state["minutes"]})
    write_csv(f"{config.out}/log.csv", state["log"])
    save_run(f"{config.out}/checkpoint.pt", config, parts, **state)


def plot_training(frames, state):
    """A clip (T, H, W, 3), its distance to the last frame at each validation, and all clips' Spearman."""
    figure, axes = plt.subplot_mosaic("AAA;BBC", figsize=(9, 3.4), height_ratios=[1, 1.6])
    draw_frames(axes["A"], frames)
    for age, d in enumerate(state["curves"], 1):
        axes["B"].plot(d, color=plt.cm.Reds(0.15 + 0.75 * age / len(state["curves"])))
    axes["B"].set(xlabel="frame", ylabel="d(s, goal)")
    axes["C"].plot(*zip(*((row["step"], row["spearman"]) for row in state["log"])), marker="o")
    axes["C"].set(xlabel="step", ylabel="validation Spearman")
    return figure


# %%
def start(config, device):
    """A run, fresh or from its checkpoint: (modules, numbers), both by name."""
    torch.manual_seed(config.seed)
    network = make_network(config).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    parts = {"network": network, "best": copy.deepcopy(network), "optimizer": optimizer}
    state = {"step": 0, "score": (), "minutes": 0.0, "log": [], "curves": []}
    return parts, state | load_run(f"{config.out}/checkpoint.pt", config, parts)


def load_batches(clips, config, first, rank, world):
    """This process's share of batch `first` and all later ones, with a progress bar."""
    B = config.clips_per_batch
    if B % world:
        raise UserError(f"--clips-per-batch {B} cannot be divided among {world} processes")
    shares = (range(k * B + rank, (k + 1) * B, world) for k in range(first, config.steps))
    batches = DataLoader(Windows(clips, config), batch_sampler=shares, num_workers=config.workers)
    return tqdm(batches, "HOLD-C", initial=first, total=config.steps, disable=rank > 0)


# %% [markdown]
r"""One step: embed all frames of all clips at once, mine inside each clip, follow the gradient of the sum. On
a GPU the network runs in bfloat16, the distances in float32: a difference of close numbers is what we are
after. `torchrun` starts the same command once per GPU and averages the gradients of the processes, so we
multiply by their number, `world`, to keep the sum."""

# %%
def update(model, optimizer, batch, config, world):
    """One step down the gradient of a batch of `Windows`; returns the mean loss of a pair."""
    frames, times, sequences = batch  # (B, T, 3, S, S), (B, T), (B, T)
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.is_cuda):
        f = model(frames.flatten(0, 1).float() / 127.5 - 1)  # (B T, E)
    f = f.float().unflatten(0, times.shape)  # (B, T, E)
    radius = 1.001 * config.window_seconds if config.window_seconds else config.radius  # so 6 / 30 <= 0.2
    loss, positives = time_contrastive_loss(f, times, sequences, radius, 2 * radius, config.margin)
    optimizer.zero_grad()
    (world * loss).backward()
    optimizer.step()
    return (loss / positives).item()


# %%
def train(config):
    """Train HOLD-C, or go on from its checkpoint, and write `distance.pt2`. Returns its path."""
    rank, world, device = join_processes(config.device)
    clips, held_out = open_clips(config)
    parts, state = start(config, device)
    network, optimizer = parts["network"], parts["optimizer"]
    if rank == 0 and not state["log"]:
        record(config, parts, state, math.nan, held_out, device)
    if rank == 0:
        show(plot_training(held_out[0][0], state), f"{config.out}/training.png")
    model = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    losses, began = [], time.time() - 60 * state["minutes"]
    for batch in load_batches(clips, config, state["step"], rank, world):
        optimizer.param_groups[0]["lr"] = learning_rate(state["step"], config)
        losses.append(update(model, optimizer, [x.to(device) for x in batch], config, world))
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss is {losses[-1]:.3g}; lower --lr, or widen the radius")
        state["step"] += 1
        if rank == 0 and (state["step"] % config.validate_every == 0 or state["step"] == config.steps):
            state["minutes"] = (time.time() - began) / 60
            record(config, parts, state, float(np.mean(losses)), held_out, device)
            show(plot_training(held_out[0][0], state), f"{config.out}/training.png", update=True)
            losses = []
    if world > 1:
        distributed.destroy_process_group()
    if rank > 0:
        raise SystemExit  # the first process does the rest
    return write_distance(config, parts["best"], state["minutes"], **state["found"])


# %% [markdown]
r"""## The authors' weights

(Skip it at first.) The authors trained in JAX and released Flax checkpoints: a tree of named
arrays. Convolution kernels lie there as (height, width, in, out), ours as (out, in, height, width); dense
kernels as (in, out), ours transposed. The rest is names. Their HOLD-C is the ResNet-50, which timm's
`resnet50` equals layer by layer."""

# %%
FLAX = {"conv1": "stem_conv", "bn1": "init_bn", "fc": "output_projection", "running_mean": "mean",
        "running_var": "var", ".downsample.0": ".proj_conv", ".downsample.1": ".proj_bn"}  # authors' code


def flax_paths(network):
    """Where the authors' tree keeps the parameters of a timm ResNet: {name: "params/..."}."""
    paths, state = {}, network.state_dict()
    blocks = list(dict.fromkeys(re.findall(r"layer\d\.\d+", " ".join(state))))  # counted through all stages
    for name in (name for name in state if "num_batches" not in name):
        block, layer, leaf = re.fullmatch(r"(layer\d\.\d+)?(.+)\.(\w+)", name).groups()
        module = (f"ResidualBlock_{blocks.index(block)}" if block else "") + FLAX.get(layer, layer)
        leaf = FLAX.get(leaf, leaf)
        if leaf == "weight":
            leaf = "scale" if state[name].ndim == 1 else "kernel"
        group = "batch_stats" if leaf in ("mean", "var") else "params"
        paths[name] = "/".join([group, *module.split("."), leaf])
    return paths


# %%
def write_distance(config, network, minutes, scale, **validation):
    """Write the distance file, for frames uint8 (B, H, W, 3) of any size, and return its path."""
    meta = {"name": "HOLD-C", "kind": "embedding", "history": 1, "training": asdict(config),
            "suggested_scale": scale, "validation": validation, "minutes": minutes}
    save_distance(f"{config.out}/distance.pt2", nn.Sequential(Preprocess(config.size), network), meta)
    return f"{config.out}/distance.pt2"


def convert(config):
    """Write a released checkpoint as `distance.pt2`, returned; the paper's T: `05_sac.py --scale 5`."""
    network = make_network(config)
    load_flax(network, read_flax(config.convert), flax_paths(network),
              lambda array, shape: array.movedim((-1, -2), (0, 1)) if array.ndim > 1 else array)
    return write_distance(config, network, 0.0, 5.0)


if __name__ == "__main__":
    meta = load_distance(convert(config) if config.convert else train(config)).meta
    found = ", ".join(f"{name} {value:.3f}" for name, value in meta["validation"].items()) or "converted"
    print(f"{config.out}/distance.pt2: {found}, suggested T {meta['suggested_scale']:.2f}, "
          f"{meta['minutes']:.1f} minutes")

# %%
if __name__ == "__main__" and look:  # frames of the held-out clip, and how far its last one is
    distance = load_distance(f"{config.out}/distance.pt2")  # all that other files need: no class of this one
    d = distance(clip, clip[-1])  # uint8 (T, H, W, 3) and (H, W, 3) -> (T,)
    figure, axes = plt.subplots(1, 9, figsize=(9, 1.1))
    for axis, t in zip(axes, np.linspace(0, len(clip) - 1, 9).round().astype(int)):
        axis.imshow(clip[t])
        axis.set_title(f"{d[t]:.2f}")
        axis.axis("off")
    show(figure, f"{config.out}/distances.png")

# %%
if __name__ == "__main__" and look:  # the matrix from above, by the trained network
    show_matrix(torch.stack([distance(clip[::3], goal) for goal in clip[::3]]), f"{config.out}/after.png")

# %% [markdown]
r"""
## What we learned

- A video is its own teacher: "close in time" needs no label, and one triplet rule turns it into a distance.
- The mining decides what is learned. Semi-hard negatives can forgive clips in which a state comes back.
- Paper and released code differ: "all triplets" are one semi-hard negative per pair; 0.2 s are 2 frames; an
  epoch has 68,913 clips, not all 168,913. The presets: the code for the rule and where the paper is silent.
- Order on held-out clips is not all. Five seeds each (`assets/RESULTS.md`): HOLD-R orders the stand-in's
  better (.76, .60), HOLD-C the robot's rollouts (.43, .76), its random network too (batch norm fitted: .73).

**Exercises**, each with a new `--out`.
1. Take the farthest negative always (`D_an_star = farthest.expand_as(D)`). Expect a loss near zero within a
   few steps and a Spearman that stops improving: too easy.
2. Set `--margin 2`. Expect distances about three times as large, the same order, and a suggested T to match.
3. Set `--frames-per-clip 8 --clips-per-batch 16`. Expect a lower Spearman: 0.7 s show little, and
   two of 8 lack a negative.
"""
