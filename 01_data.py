# %% [markdown]
r"""
# Clips of people handling things

HOLD learns from videos of *people* and is used on *robots*. The videos are Something-Something v2 (SSv2): 220,847
clips of two to six seconds, each showing one of 174 everyday actions on some object. This lecture shows what they
look like, makes a stand-in for those who do not have them, and follows a clip from the file to what a network sees.

**Takes** nothing. **Writes** a folder in SSv2's layout, which every later script reads:

```
data/standin/20bn-something-something-v2/<id>.webm              VP9, 12 frames per second
data/standin/labels/{labels,train,validation,test}.json         SSv2's own forms
data/standin/labels/controls.json                               failed, still and reversed counterparts, for 04
data/standin/manifest.json                                      the settings the clips were made with
data/standin/demonstrations/{pushing,drawer_open}/{0,1,2}.webm  people doing the robot's tasks, for 06
data/standin/figures/*.png                                      the pictures of this lecture
```

```
python 01_data.py                        # 1,000 clips of 96 x 72 pixels: one to two minutes on two cores, no GPU
python 01_data.py --preset full          # 20,000 clips of 320 x 240: three hours on one core, 24 minutes on eight
python 01_data.py --clips 3000           # adds the missing ones to those that are there
python 01_data.py --check ssv2/          # makes nothing: looks over SSv2, or any videos, and lists what is broken
python 01_data.py --benchmark            # how fast clips are read, in half a minute
```

Stop it at any moment; the same command goes on. Clip number $i$ depends on `--seed`, $i$, the picture size and the
variety asked for, and on nothing else.
"""

# %%
import atexit
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple

import av
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import zoom
from scipy.spatial.transform import Rotation
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

from common import (VIDEO_SUFFIXES, ClipSet, UserError, find_clips, find_labels, parse_config, pick_gl, plot_style, read_clip,
                    read_labels, survey, write_csv, write_video, write_whole)

FPS = 12  # SSv2's nominal rate
VERSION = 6  # of the recipe below; clips of different recipes do not share a folder


# %%
@dataclass
class Config:
    """Make stand-in clips in the layout of Something-Something v2."""

    out: str = "data/standin"  # folder to write
    clips: int = 1000  # number of clips, all splits together; SSv2 has 220,847
    seed: int = 0  # clip i depends on the seed, on i and on the picture size alone
    height: int = 72  # of the pictures, even; SSv2: 240
    width: int = 96  # of the pictures, even
    samples: int = 0  # multisampling against jagged edges; 0 is fastest
    controls: int = 40  # validation clips that get three counterparts: failed, still, reversed; 0 for none
    textures: bool = True  # off: flat grey surfaces and one lamp, to see what textures are good for
    cameras: bool = True  # off: the same steady camera for all clips
    actions: str = ""  # only templates with this word, such as Opening
    workers: int = 0  # processes that render; 0 takes one per core
    check: str = ""  # look at every frame of this folder instead (SSv2, or any videos), and list what cannot be used
    benchmark: bool = False  # measure how fast clips are read

    @classmethod
    def full(cls):
        """SSv2's picture height, and clips by the ten thousand."""
        return cls(out="data/standin-full", clips=20_000, height=240, width=320, samples=4)

    @classmethod
    def smoke(cls):
        """One clip of every action, for tests and a look around."""
        return cls(out="runs/smoke/clips", clips=len(ACTIONS), height=48, width=64, controls=2)


# %% [markdown]
r"""
## Something-Something v2

People were given a sentence with holes, such as *Pushing [something] from left to right*, took something at hand, did
it and filmed it. The sentence is the clip's **template**, what they took its **placeholders**. HOLD uses neither:
what it needs is that in thousands of homes, seen from all sides, *something changes because of a hand*, and that
clips begin shortly before the change and end shortly after.

Qualcomm gives the data to researchers after a registration. It comes as many parts of one archive and a package of
labels; join the parts and unpack them in one go:

```
cat 20bn-something-something-v2-?? | tar -xz        # -> 20bn-something-something-v2/1.webm ... 220847.webm
```

The splits hold 168,913 (train), 24,777 (validation) and 27,157 clips (test; its labels come apart from it, as lines
`id;label` in `test-answers.csv`). A training entry reads

```
{"id": "78687", "label": "pushing a cup from left to right",
 "template": "Pushing [something] from left to right", "placeholders": ["a cup"]}
```

and `labels.json` gives every template, brackets removed, a number written as text. Put the JSONs beside the videos or
into `labels/`, as `train.json` or `something-something-v2-train.json`, whichever you got, and look the folder over:

```
python 01_data.py --check ssv2/        # counts, and bad.csv: what cannot be used, and why
```

Then give it to a later script with `--data`. No script of ours learns from labels; they tell which clip belongs to
which split. A folder of videos *without* labels is therefore just as good: phone videos, say, cut into clips of one
action each. There the name decides: by a hash of it one in ten is held out for validation, and one at least.
"""

# %% [markdown]
r"""
## A stand-in: one clip, from the inside out

Our clips come from MuJoCo, a physics simulator with a renderer. We use only the renderer: nothing is simulated. A
clip is a small **play** on a table with one rule, the one that makes SSv2 worth learning from: *a thing moves only
where a hand moves it*. Five draws make a play:

1. **timing**: idle, *reach*, *act*, *leave*, idle again;
2. **action**: which thing, and how its pose follows the progress of the act;
3. **arm**: whose hand, from which side, how steep;
4. **camera**: from where, how shaky;
5. **world**: textures, colours, lights, clutter.

We work in the frame of the *picture*: $x$ points to the right of the picture, $y$ away from the camera, $z$ up.
Turning the camera around the table would be the same as turning everything else, so the arm and the thing get the
random directions, and a label that says *left* is right by construction.

**Timing.** A hand that moves from rest to rest follows closely the path of least jerk (the third derivative), which
is

$$ e(t) = 10t^3 - 15t^4 + 6t^5, \qquad 0 \le t \le 1 . $$
"""


# %%
def ease(t):
    """Minimum-jerk progress: 0 until t = 0, 1 from t = 1 on (Flash and Hogan, 1985)."""
    t = np.clip(t, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


class Timing(NamedTuple):
    """Progress from 0 to 1 of the three parts of a clip, (T,) each, and the seconds since the act was over."""

    reach: np.ndarray
    act: np.ndarray
    leave: np.ndarray
    after: np.ndarray


def draw_timing(rng):
    """Draw two to five seconds of idle, reach, act, leave and idle; some hands are there from the start, some stay."""
    idle, reach, act, leave, rest = rng.uniform((0, 0.5, 0.8, 0.5, 0.0), (0.3, 1.2, 1.8, 1.0, 0.6))
    idle, reach = idle * (rng.random() < 0.5), reach * (rng.random() < 0.85)
    stays, done = rng.random() < 0.35, idle + reach + act
    t = np.arange(round(np.clip(done + (0.2 if stays else leave) + rest, 2, 5) * FPS)) / FPS  # (T,)
    u = (t - idle - reach) / act
    if rng.random() < 0.2:  # a hesitation half way
        u = np.interp(u, [0, 0.35, 0.6, 1], [0, 0.45, 0.5, 1])
    progress = lambda start, seconds: ease((t - start) / seconds) if seconds else np.ones_like(t)
    leaving = 0 * t if stays else progress(done + 0.1, leave)
    return Timing(progress(idle, reach), ease(u), leaving, np.maximum(t - done, 0))


assert ease(np.array([-1, 0, 0.5, 1, 2])).tolist() == [0, 0, 0.5, 1, 1]

# %% [markdown]
r"""
**Things** are put together from boxes, cylinders and capsules (a cylinder with round ends), written as MJCF, MuJoCo's
XML. Lengths are metres, and every position is relative to the middle of the thing's foot. Small things are moved as a
whole. Colours are drawn with a random saturation, because real kitchens are greyer than a random number generator.
"""


# %%
def text(*values):
    """Write numbers as MJCF wants them."""
    return " ".join(f"{v:.4f}" for v in np.concatenate([np.ravel(v) for v in values]))


def rgb(rng):
    """Draw a colour, from grey to gaudy."""
    color = rng.uniform(0.05, 1, 3)
    return text(color.mean() + (color - color.mean()) * rng.uniform(0, 1))


def geom(kind, size, at, color, euler=(0, 0, 0)):
    """One MJCF shape of half-sizes `size` (m) at `at`; Euler angles in degrees."""
    return f'<geom type="{kind}" size="{text(size)}" pos="{text(at)}" euler="{text(euler)}" rgba="{color} 1"/>'


def rod(start, end, radius, color):
    """A capsule between two points."""
    return f'<geom type="capsule" size="{radius:.4f}" fromto="{text(start, end)}" rgba="{color} 1"/>'


class Thing(NamedTuple):
    """An object: shapes, radius of its foot, height; and, where it has a moving part, how far and where to take it."""

    name: str
    xml: str
    radius: float
    height: float
    range: float = 0.0  # of the joint, metres or radians
    handle: Callable = None  # joint (T,) -> where the hand takes the part (T, 3), in the frame of the thing


# %%
def small(rng, kinds=("box", "book", "can", "cup", "bottle", "ball")):
    """Draw something that a hand can move as a whole."""
    kind, r, h = rng.choice(kinds), rng.uniform(0.035, 0.075), rng.uniform(0.07, 0.15)
    main, other, third, side = rgb(rng), rgb(rng), rgb(rng), rng.choice([-1, 1])
    if kind == "ball":
        xml, h = geom("sphere", r, (0, 0, r), main), 2 * r
        xml += geom("cylinder", (r * 1.02, r / 5), (0, 0, r), other, (90, 0, 0))
    elif kind in ("box", "book"):
        x, y, h = r * rng.uniform(0.7, 1.5), r * rng.uniform(0.7, 1.5), h if kind == "box" else h / 4
        xml, r = geom("box", (x, y, h / 2), (0, 0, h / 2), main), max(x, y)
        xml += geom("box", (x * 1.02, y * 1.02, h / 10), (0, 0, h * rng.uniform(0.2, 0.8)), other)
        xml += geom("box", (x * 0.6, y * 0.6, 0.001), (0, 0, h), third)
    else:
        xml = geom("cylinder", (r, h / 2), (0, 0, h / 2), main)
        xml += geom("cylinder", (r * 1.03, h * rng.uniform(0.05, 0.3)), (0, 0, h / 2), other)
        xml += geom("cylinder", (r * 0.85, 0.002), (0, 0, h), third)
    if kind == "cup":
        loop = np.array([(1, 0, 0.8), (1.7, 0, 0.7), (1.7, 0, 0.3), (1, 0, 0.2)]) * [side * r, 1, h]
        xml += "".join(rod(a, b, r / 6, main) for a, b in zip(loop, loop[1:]))
    if kind == "bottle":
        xml += geom("ellipsoid", (r, r, h / 4), (0, 0, h), main)
        xml, h = xml + geom("cylinder", (r * 0.4, h / 6), (0, 0, h * 1.3), third), 1.45 * h
    return Thing(str(kind), xml, r, h)


# %% [markdown]
r"""
**Things with a moving part** have a joint $q$ and a handle whose place $h(q)$ follows from it. A drawer's moves along
a line. A lid's moves on a circle: the hinge is at the back edge of the box, at depth $d$ and height $2h$, the lid
reaches $2d$ to the front, so

$$ h(q) = (0,\; d - 2d\cos q,\; 2h + 2d\sin q), $$

which is the front edge for $q = 0$ and straight above the hinge for $q = \pi/2$. MuJoCo turns the lid by the same
$q$, so the hand that is put at $h(q)$ stays on it. Sizes and ranges are such that the part moves far in the picture.
"""


# %%
def part(xml, joint, axis, at=(0, 0, 0)):
    """A part that moves; the name of its joint is filled in when the thing is put on the table."""
    return f'<body pos="{text(at)}"><joint name="NAME" type="{joint}" axis="{text(axis)}"/>{xml}</body>'


def drawer(rng):
    """A case with a drawer that slides out towards -y."""
    w, d, h, t = rng.uniform(0.07, 0.13), rng.uniform(0.07, 0.12), rng.uniform(0.03, 0.07), 0.006
    case, inner, front, knob = (rgb(rng) for _ in range(4))
    xml = "".join(geom("box", (w, d, t), (0, 0, z), case) for z in (t, 2 * h)) + geom("box", (w, t, h), (0, d, h), case)
    xml += "".join(geom("box", (t, d, h), (x, 0, h), case) for x in (-w, w))
    tray = geom("box", (w * 0.94, t, h * 0.9), (0, -d, h), front)
    tray += geom("box", (w * 0.9, d * 0.95, t), (0, 0, 0.4 * h), inner)
    tray += "".join(geom("box", (t, d * 0.95, h / 2), (x, 0, 0.8 * h), inner) for x in (-w * 0.9, w * 0.9))
    bar, y = rng.choice([0.05, 0.5]) * w, -d - 0.025
    tray += rod((-bar, y, h), (bar, y, h), 0.009, knob) + rod((0, -d, h), (0, y, h), 0.007, knob)
    handle = lambda q: np.stack([0 * q, -d - 0.03 - q, h + 0 * q], -1)
    return Thing("drawer", xml + part(tray, "slide", (0, -1, 0)), max(w, d), 2 * h, 1.5 * d, handle)


def lid(rng):
    """A box, or a thing as flat as a laptop, with a lid hinged at its back."""
    w, d, h, t = rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.1), rng.uniform(0.008, 0.05), 0.006
    wall, inner, top = rgb(rng), rgb(rng), rgb(rng)
    xml = geom("box", (w, d, h), (0, 0, h), wall) + geom("box", (w * 0.9, d * 0.9, 0.002), (0, 0, 2 * h), inner)
    cover = geom("box", (w, d, t), (0, -d, t), top) + geom("box", (w * 0.9, d * 0.9, t), (0, -d, 0), inner)
    handle = lambda q: np.stack([0 * q, d - 2 * d * np.cos(q), 2 * h + 2 * d * np.sin(q)], -1)
    xml += part(cover, "hinge", (-1, 0, 0), (0, d, 2 * h))
    return Thing("box", xml, max(w, d), 2 * h + d, rng.uniform(1.4, 2.2), handle)


def door(rng):
    """A cupboard with a door hinged on the left or the right."""
    w, d, h, s = rng.uniform(0.06, 0.11), rng.uniform(0.04, 0.08), rng.uniform(0.06, 0.12), rng.choice([-1, 1])
    xml = geom("box", (w, d, h), (0, 0, h), rgb(rng)) + geom("box", (w * 0.9, 0.002, h * 0.9), (0, -d, h), rgb(rng))
    leaf = geom("box", (w, 0.006, h), (s * w, -0.006, 0), rgb(rng))
    leaf += rod((s * 1.8 * w, -0.02, -0.02), (s * 1.8 * w, -0.02, 0.02), 0.008, rgb(rng))
    handle = lambda q: np.stack([s * w * (1.8 * np.cos(q) - 1), -d - 0.02 - 1.8 * w * np.sin(q), h + 0 * q], -1)
    xml += part(leaf, "hinge", (0, 0, -s), (-s * w, -d, h))
    return Thing("cupboard", xml, max(w, d), 2 * h, rng.uniform(1.2, 2), handle)


# %% [markdown]
r"""
A lever and a knob turn about the vertical. They have no *open* and *closed*: any angle may be the first or the last,
and a distance that wants to know how far a turn has come has to look at the goal. Taps in a robot's world are like
that.
"""


# %%
def lever(rng):
    """A post with a lever that turns about the vertical; half of them have a spout, as taps do."""
    r, h, length = rng.uniform(0.015, 0.035), rng.uniform(0.03, 0.1), rng.uniform(0.07, 0.13)
    xml = "".join(geom("cylinder", size, (0, 0, size[1]), rgb(rng)) for size in ((r, h / 2), (2 * r, 0.006)))
    xml += rod((0, 0, h * 0.7), (0, length * 0.8, h * 0.7), r * 0.6, rgb(rng)) * int(rng.integers(2))
    bar = geom("cylinder", (r * 1.1, 0.012), (0, 0, 0), rgb(rng))
    bar += rod((0, 0, 0.01), (0, -length, 0.01), rng.uniform(0.008, 0.018), rgb(rng))
    handle = lambda q: 0.9 * length * np.stack([np.sin(q), -np.cos(q), 0 * q], -1) + [0, 0, h + 0.015]
    return Thing("lever", xml + part(bar, "hinge", (0, 0, 1), (0, 0, h + 0.01)), length, h + 0.03, 1.0, handle)


def dial(rng):
    """A knob with a mark on a plate."""
    r, h = rng.uniform(0.035, 0.07), rng.uniform(0.02, 0.05)
    top = geom("cylinder", (r, h / 2), (0, 0, h / 2), rgb(rng))
    top += geom("box", (r * 0.2, r * 0.6, h * 0.7), (0, -r * 0.5, h / 2), rgb(rng))
    xml = geom("box", (1.5 * r, 1.5 * r, 0.005), (0, 0, 0.005), rgb(rng)) + part(top, "hinge", (0, 0, 1))
    return Thing("knob", xml, 1.5 * r, h, 1.3, lambda q: np.outer(0 * q + h + 0.01, [0, 0, 1]))


# %% [markdown]
r"""
**Hands.** A forearm in a sleeve, a palm, and five fingers of two segments, bent by a random angle. The origin lies
where the fingertips meet the thing, $x$ along the fingers and $z$ out of the back of the hand, so that *placing the
hand* means *saying where it touches*. The finger joints open on the way to the thing. One manipulator in five is a
two-jaw gripper, and some hands hold a stick: people use tools, and the robot to come has no fingers.
"""


# %%
def finger(root, lengths, radius, color, bend, spread):
    """Two hinged segments, each bent by `bend` radians; their joints take the extra opening."""
    hinge, down = '<joint axis="0 1 0"/>', np.degrees(bend)
    inner, outer = (rod((0, 0, 0), (length, 0, 0), radius, color) for length in lengths)
    outer = f'<body pos="{lengths[0]} 0 0" euler="0 {down} 0">{hinge}{outer}</body>'
    return f'<body pos="{text(root)}" euler="0 {down} {np.degrees(spread)}">{hinge}{inner}{outer}</body>'


# %% [markdown]
r"""
With both segments bent by $b$, a finger reaches $\ell_1\cos b + \ell_2\cos 2b$ forward and
$\ell_1\sin b + \ell_2\sin 2b$ down; the knuckles go that far back and up from the origin. Skin
and sleeve have colours of people and of clothes.
"""


# %%
def arm(rng, wrist, radius, lower, upper):
    """A forearm from the wrist back to the elbow, and an upper arm that turns off there."""
    elbow = np.array(wrist) - [rng.uniform(0.25, 0.7), 0, 0]
    return rod(wrist, elbow, radius, lower) + rod(elbow, elbow + [-0.7, *rng.normal(0, 0.3, 2)], radius * 1.3, upper)


def hand(rng):
    """A left or right hand on a sleeved arm; one in eight holds a stick."""
    s, side, bend, cloth = rng.uniform(0.85, 1.25), rng.choice([-1, 1]), rng.uniform(0.1, 0.7), rgb(rng)
    skin = np.clip(np.array([0.95, 0.76, 0.62]) * rng.uniform(0.3, 1) + rng.normal(0, 0.03, 3), 0.05, 1)
    skin, dark = text(skin), text(skin * 0.88)
    stick = rng.uniform(0.08, 0.16) if rng.random() < 0.125 else 0
    x = -s * (0.042 * np.cos(bend) + 0.034 * np.cos(2 * bend)) - stick  # where the fingers begin
    z = s * (0.042 * np.sin(bend) + 0.034 * np.sin(2 * bend))
    xml = "".join(finger((x, 0.019 * i * s, z), (0.042 * s, 0.034 * s), 0.0085 * s, (skin, dark)[k % 2], bend, 0.06 * i)
                  for k, i in enumerate((-1.5, -0.5, 0.5, 1.5)))
    thumb = (x - 0.055 * s, side * 0.035 * s, z - 0.01)
    xml += finger(thumb, (0.045 * s, 0.032 * s), 0.01 * s, skin, bend / 2, side * 0.55)
    xml += geom("box", (0.042 * s, 0.034 * s, 0.011 * s), (x - 0.042 * s, 0, z), skin)
    xml += rod((x - 0.085 * s, 0, z), (x - 0.3 * s, 0, z), 0.024 * s, dark)
    xml += arm(rng, (x - rng.uniform(0.12, 0.3) * s, 0, z), rng.uniform(0.03, 0.045) * s, cloth, cloth)
    return xml + (rod((0, 0, 0), (-stick - 0.1, 0, 0.01), rng.uniform(0.004, 0.012), rgb(rng)) if stick else "")


def gripper(rng):
    """Two jaws on a thick arm, as robots have; the same frame as a hand."""
    s, metal, paint = rng.uniform(0.8, 1.4), text(rng.uniform(0.05, 0.8, 3).mean() * np.ones(3)), rgb(rng)
    gap = rng.uniform(0.012, 0.04) * s
    xml = "".join(geom("box", (0.03 * s, 0.007 * s, 0.012 * s), (-0.03 * s, y, 0), metal) for y in (-gap, gap))
    xml += geom("box", (0.02 * s, 0.045 * s, 0.02 * s), (-0.08 * s, 0, 0), paint)
    xml += rod((-0.1 * s, 0, 0), (-0.2, 0, 0), 0.035 * s, metal)
    return xml + arm(rng, (-0.2, 0, 0), rng.uniform(0.03, 0.07) * s, paint, metal if rng.random() < 0.3 else paint)


# %% [markdown]
r"""
## Actions

An action gets the progress of the act $u$ `(T,)` and the seconds $s$ `(T,)` since the hand let go, and returns a
`Play`: the things, a pose for each of them (position, rotation vector, joint) and where the fingertips are while they
touch. So **the thing's pose and the hand's place are two functions of one $u$**, and cannot come apart. Before the
act $u = 0$, hence a thing stays put until it is touched; what happens *after* the hand let go (falling, rolling on)
depends on $s$.

With `real=False` the hand does all its movements a little beside the thing, whose $u$ stays 0. Such clips, and those
where the hand comes, acts and *leaves*, are there on purpose: in both, a network that looks only at the hand cannot
tell late from early. For the same reason every change is there in both directions: a drawer is opened as often as
closed.
"""


# %%
class Play(NamedTuple):
    """What happens between hand and things; all paths in metres, in the frame of the picture."""

    things: list
    poses: list  # per thing: position (T, 3), rotation vector (T, 3) or (3,), joint (T,) or a number
    touch: np.ndarray  # where the fingertips are during the act (T, 3)
    stand: np.ndarray = None  # direction from the touch to where the arm comes from (3,); None: anywhere
    twist: float = 0.0  # radians by which the hand turns during the act
    held: tuple = (False, False)  # is the thing in the air at the beginning, at the end? Then the hand must be there


UP = np.array([0.0, 0, 1])


def toward(rng, way=None, spread=0.3):
    """Draw a horizontal unit vector near `way`, or anywhere."""
    angle = np.arctan2(way[1], way[0]) + rng.uniform(-spread, spread) if way else rng.uniform(-np.pi, np.pi)
    return np.array([np.cos(angle), np.sin(angle), 0])


def spin(rng):
    """Draw a rotation about the vertical."""
    return UP * rng.uniform(-np.pi, np.pi)


def rotate(rotvec, point):
    """Rotate a point (3,) or points (T, 3) by rotation vectors (3,) or (T, 3)."""
    return Rotation.from_rotvec(rotvec).apply(point)


assert np.allclose(rotate(UP * np.pi / 2, [1, 0, 0]), [0, 1, 0])

# %% [markdown]
r"""
**Carrying.** Most of SSv2 is a hand that takes something from here to there. A push touches the far side of the way,
a pull the near side. What is dropped falls by $g s^2 / 2$ until it lies on something: one line of physics is enough.
"""


# %%
def shift(rng, u, s, way=None, push=None):
    """Push a thing from behind or pull it from the front, along a direction of the picture."""
    thing, way, push = small(rng), toward(rng, way), rng.random() < 0.6 if push is None else push
    length, side = rng.uniform(0.12, 0.3), -way if push else way
    path = np.outer(u - 0.5, way * length)
    touch = path + side * thing.radius + UP * (thing.height * rng.uniform(0.3, 0.8))
    return Play([thing], [(path, spin(rng), 0)], touch, side)


def raise_up(rng, u, s, up=True, drop=False, real=True):
    """Lift a thing up, lift and drop it, or put it down; unreal: an empty hand goes up."""
    thing, top = small(rng), toward(rng) * rng.uniform(0, 0.12) + UP * rng.uniform(0.1, 0.25)
    path = lambda u: np.outer(u if up else 1 - u, top)
    fall = np.minimum(4.9 * s**2, top[2]) * drop * (s > 0)  # g/2 s^2, down to the table
    touch = path(u) + UP * (thing.height * rng.uniform(0.7, 1) + 0.03 * (not real))
    held = not up, up and real and not drop
    return Play([thing], [(path(u * real) - np.outer(fall, UP), spin(rng), 0)], touch, held=held)


def near(rng, u, s, closer=True):
    """Move a thing closer to another one, or away from it."""
    thing, other, way = small(rng), small(rng), toward(rng)
    gap = thing.radius + other.radius + 0.015 + rng.uniform(0.15, 0.3) * (1 - u if closer else u)
    touch = np.outer(gap, way) + UP * thing.height * rng.uniform(0.5, 1) + way * thing.radius * 0.7
    return Play([thing, other], [(np.outer(gap, way), spin(rng), 0), (0 * touch, spin(rng), 0)], touch, way)


def onto(rng, u, s, drop=False):
    """Put a thing onto another one, or drop it there."""
    thing, other, way = small(rng), small(rng, ("box", "book", "can")), toward(rng)
    high, start = drop * rng.uniform(0.1, 0.2), way * (thing.radius + other.radius + rng.uniform(0.05, 0.2))
    over = (other.height + high) * ease(2 * u) + 0.05 * np.sin(np.pi * u)
    path = np.outer(1 - ease(1.4 * u - 0.2), start) + np.outer(over, UP)
    fallen = path - np.outer(np.minimum(4.9 * s**2, high), UP)
    return Play([thing, other], [(fallen, spin(rng), 0), (0 * path, spin(rng), 0)], path + UP * thing.height * 0.9)


# %% [markdown]
r"""
**Turning over, rolling on.** A can tipped over its edge $e$ by $\theta$ keeps the edge where it is: its foot moves to
$e + R(\theta)(-e)$. A ball of radius $r$ that has gone a way $x$ has turned by $x / r$, and once it is let go,
friction slows it down, so that it goes $x(s) = v\tau\,(1 - e^{-s/\tau})$.
"""


# %%
def tip_over(rng, u, s, over=True):
    """Tip a standing thing over the edge of its foot, or set a lying one upright."""
    thing, way = small(rng, ("box", "can", "cup", "bottle")), toward(rng)
    turn, edge = np.outer((u if over else 1 - u) * np.pi / 2, np.cross(UP, way)), way * thing.radius
    foot = edge + rotate(turn, -edge)
    return Play([thing], [(foot, turn, 0)], foot + rotate(turn, UP * thing.height * 0.85 - edge * 0.9), -way)


def tumble(rng, u, s, pour=False):
    """Turn a thing upside down on its place, or tilt it over another one as if to pour."""
    thing, other, way = small(rng, ("can", "cup", "bottle")), small(rng, ("cup", "can")), toward(rng)
    middle, axis = UP * thing.height / 2, np.cross(UP, way)
    if pour:
        center = np.outer(u - 1, way * 0.25) + np.outer(ease(2 * u), UP * (other.height + 0.05))
        center = center + middle - way * (other.radius + 0.03)
        turn = np.outer(ease(2 * u - 1) * 1.9, axis)
    else:
        center = middle + np.outer(np.sin(np.pi * u) * rng.uniform(0.1, 0.2), UP)
        turn = np.outer(ease(1.6 * u - 0.3) * np.pi, axis)
    poses = [(center - rotate(turn, middle), turn, 0), (0 * center, spin(rng), 0)]
    return Play([thing, other][:1 + pour], poses[:1 + pour], center - way * thing.radius, -way, held=(False, pour))


def roll(rng, u, s):
    """Give a ball a push; it rolls on by itself and slows down."""
    thing, way, speed, slowing = small(rng, ("ball",)), toward(rng), rng.uniform(0.2, 0.6), 0.7
    far = 0.06 * u + speed * slowing * (1 - np.exp(-s / slowing))
    turn, center = np.outer(far / thing.radius, np.cross(UP, way)), UP * thing.radius
    touch = np.outer(0.06 * u, way) - way * thing.radius + center
    return Play([thing], [(np.outer(far, way) + center - rotate(turn, center), turn, 0)], touch, -way)


center = roll(np.random.default_rng(0), np.ones(2), np.array([0.0, 9.0])).poses[0][0]
assert np.linalg.norm(center[1] - center[0]) > 0.1  # it rolls on after the hand let go

# %% [markdown]
r"""
**Joints.** Here the hand follows the handle. It stands in front of what it opens or closes, and on that side of a
lever from which it pushes. The last action only touches.
"""


# %%
def operate(rng, u, s, makers=(drawer, drawer, lid, door), opening=True, real=True):
    """Open or close a drawer, a lid or a door: the hand follows the handle, the handle the joint."""
    thing, turn = makers[rng.integers(len(makers))](rng), UP * rng.normal(0, 0.8)
    ends = np.array([rng.uniform(0, 0.1), rng.uniform(0.6, 1)]) * thing.range
    joint = lambda u: ends[0] + (ends[1] - ends[0]) * (u if opening else 1 - u)
    front = rotate(turn, [0, -1.0, 0])
    touch = rotate(turn, thing.handle(joint(u))) + (not real) * 0.035 * front
    return Play([thing], [(0 * touch, turn, joint(u * real))], touch, front)


def twist(rng, u, s, makers=(lever, dial)):
    """Turn a lever, a tap or a knob, left as often as right, from anywhere to anywhere."""
    thing, turn, sign = makers[rng.integers(len(makers))](rng), spin(rng), rng.choice([-1, 1])
    joint = rng.uniform(-1, 1) + sign * rng.uniform(0.8, 1.6) * (u - 0.5)
    behind = rotate(turn, [-sign * np.cos(joint[0]), -sign * np.sin(joint[0]), 0])
    touch = rotate(turn, thing.handle(joint)) + 0.01 * behind * (thing.name == "lever")
    return Play([thing], [(0 * touch, turn, joint)], touch, behind, 0.8 * (joint[-1] - joint[0]))


def poke(rng, u, s, makers=(small, small, drawer, lid, door, lever)):
    """Touch a thing and leave it where it is."""
    thing, way = makers[rng.integers(len(makers))](rng), toward(rng)
    spot = UP * thing.height * rng.uniform(0.4, 1) - way * thing.radius + np.outer(0 * u, UP)
    return Play([thing], [(0 * spot, spin(rng), rng.uniform(0, 1) * thing.range)], spot, -way)


# %% [markdown]
r"""
The table of actions, in SSv2's words. To add one, write a function like those above and a line here. Drawers have two
lines more than their share, because robots are so often asked to open them.
"""

# %%
ACTIONS = [
    ("Pushing [something] from left to right", partial(shift, way=(1, 0), push=True)),
    ("Pushing [something] from right to left", partial(shift, way=(-1, 0), push=True)),
    ("Pulling [something] from left to right", partial(shift, way=(1, 0), push=False)),
    ("Pulling [something] from right to left", partial(shift, way=(-1, 0), push=False)),
    ("Moving [something] towards the camera", partial(shift, way=(0, -1))),
    ("Moving [something] away from the camera", partial(shift, way=(0, 1))),
    ("Lifting [something] up completely without letting it drop down", raise_up),
    ("Lifting [something] up completely, then letting it drop down", partial(raise_up, drop=True)),
    ("Putting [something] on a surface", partial(raise_up, up=False)),
    ("Opening [something]", operate),
    ("Closing [something]", partial(operate, opening=False)),
    ("Opening [something]", partial(operate, makers=(drawer,))),
    ("Closing [something]", partial(operate, makers=(drawer,), opening=False)),
    ("Moving [part] of [something]", partial(twist, makers=(lever,))),
    ("Twisting [something]", twist),
    ("Tipping [something] over", tip_over),
    ("Putting [something] upright on the table", partial(tip_over, over=False)),
    ("Turning [something] upside down", tumble),
    ("Pouring [something] into [something]", partial(tumble, pour=True)),
    ("Moving [something] closer to [something]", near),
    ("Moving [something] away from [something]", partial(near, closer=False)),
    ("Putting [something] onto [something]", onto),
    ("Dropping [something] onto [something]", partial(onto, drop=True)),
    ("Rolling [something] on a flat surface", roll),
    ("Touching (without moving) [part] of [something]", poke),
    ("Pretending to pick [something] up", partial(raise_up, real=False)),
    ("Pretending to open [something] without actually opening it", partial(operate, real=False)),
    ("Pretending to close [something] without actually closing it", partial(operate, opening=False, real=False)),
]


# %% [markdown]
r"""
## Camera, arm and world

The camera looks down by 17 to 74 degrees on a ball of radius $r$ around the action. With a field of view $\varphi$
the ball just fits into the height of the picture at the distance

$$ a = \frac{r}{\tan(\varphi / 2)} , $$

and we stand 0.9 to 1.5 times as far away, one in four twice that far: half of the things cover 3 to 11% of the
picture. Most cameras are held by a hand: they drift and tremble. The arm comes from behind the thing if it pushes and
from the front if it pulls, or steeply from above. An arm that would come straight out of the camera hides everything;
such arms are drawn again.
"""


# %%
def draw_camera(rng, points, steps, varied=True):
    """Draw the field of view (degrees), positions (T, 3) and rotations (T) of a camera that sees `points` (N, 3)."""
    low, high = points.min(0), points.max(0)
    fovy, down, swing, tilt = rng.uniform(30, 60), rng.uniform(0.3, 1.3), rng.normal(0, 0.12), rng.normal(0, 0.06)
    far = np.linalg.norm(high - low) / 2 / np.tan(np.radians(fovy / 2)) * rng.uniform(0.9, 1.5)
    far = far * rng.choice([1, 1, 1, 2])  # some look on from a distance
    drift = np.cumsum(rng.normal(0, 0.003, (steps, 3)), 0) + np.outer(np.linspace(0, 1, steps), rng.normal(0, 0.03, 3))
    drift = drift * far * (rng.random() < 0.7)  # the others stand on a tripod
    if not varied:
        fovy, down, swing, tilt, drift = 45, 0.8, 0, 0, 0 * drift
        far = np.linalg.norm(high - low) / 2 / np.tan(np.radians(fovy / 2)) * 1.2
    base = Rotation.from_euler("ZX", [swing, np.pi / 2 - down])
    eye = (low + high) / 2 + rng.normal(0, 0.05, 3) * varied * far * [1, 1, 0.5] + far * base.apply(UP)
    return fovy, eye + drift, base * Rotation.from_euler("Z", tilt) * Rotation.from_rotvec(drift * rng.uniform(0, 1))


def draw_arm(rng, play, time, view):
    """Draw the fingertips' path (T, 3) and the hand's rotations (T): from home to the touch, with it, and away."""
    for _ in range(20):
        steep = play.stand is None or rng.random() < 0.35
        pitch = rng.uniform(0.7, 1.5) if steep else rng.uniform(0.1, 0.7)
        yaw = rng.uniform(-np.pi, np.pi)
        if play.stand is not None and pitch < 1.1:
            yaw = np.arctan2(-play.stand[1], -play.stand[0]) + rng.uniform(-0.9, 0.9)
        back = -Rotation.from_euler("ZY", [yaw, pitch]).apply([1, 0, 0])
        if back @ view < 0.75:  # the arm does not come out of the camera
            break
    yaws = yaw + play.twist * (time.act - 0.5)
    turn = Rotation.from_euler("ZYX", np.stack([yaws, pitch + 0 * yaws, rng.uniform(-0.5, 0.5) + 0 * yaws], -1))
    home, away = (back * rng.uniform(0.06, 0.45) + rng.normal(0, 0.05, 3) + UP * 0.06 for _ in range(2))
    path = play.touch + np.outer(1 - time.reach, home) + np.outer(time.leave, away)
    path[:, 2] = np.maximum(path[:, 2], 0.012)  # not through the table
    return path, turn


# %% [markdown]
r"""
**Textures** decide what a network can *not* rely on. MuJoCo makes checkers and gradients. For the rest we draw a few
random colours on a coarse grid and interpolate: 2 by 2 gives soft light, 64 by 2 wood, 64 by 64 sand.
"""


# %%
def noise(rng):
    """Draw a smooth random texture (64, 64, 3), uint8: blotches, stripes or grain around one colour."""
    rows, columns, channels = *rng.choice([2, 4, 8, 32, 64], 2), rng.choice([1, 3])
    coarse = rng.normal(0, rng.uniform(0.02, 0.25), (rows, columns, channels))
    pattern = zoom(coarse, (64 / rows, 64 / columns, 1), order=1)  # (64, 64, channels)
    return (255 * np.clip(np.array(rgb(rng).split(), float) + pattern, 0, 1)).astype(np.uint8)


SURFACES = ("table", "floor", "wall", "grain")


def texture(rng, name, varied=True):
    """A texture of MuJoCo's own (checkers, gradients, marks); half of them are painted over with noise later."""
    if not varied:
        return f'<material name="{name}" rgba="{".6 .6 .6" if name == "table" else ".8 .8 .8"} 1"/>'
    kind, mark = rng.choice(["checker", "gradient", "flat"]), rng.choice(["none", "random", "edge"])
    amount = rng.uniform(0.01, 0.1)  # of the marks
    return (f'<texture name="{name}" type="2d" builtin="{kind}" width="64" height="64"'
            f' rgb1="{rgb(rng)}" rgb2="{rgb(rng)}" mark="{mark}" markrgb="{rgb(rng)}" random="{amount}"/>'
            f'<material name="{name}" texture="{name}" texrepeat="{text(rng.uniform(1, 8, 2))}"/>')


def room(rng, varied=True):
    """A table, a floor, sometimes a wall, and one or two lamps."""
    xml = f'<geom type="box" size="{text(rng.uniform(0.35, 1.5, 2))} 0.02" pos="0 0 -0.02" material="table"/>'
    xml += '<geom type="plane" size="4 4 0.1" pos="0 0 -0.7" material="floor"/>'
    if rng.random() < 0.6:
        place = f'pos="0 {rng.uniform(0.6, 2)} 0" euler="0 0 {rng.uniform(-30, 30)}"'
        xml += f'<geom type="box" size="4 0.02 2" {place} material="wall"/>'
    for _ in range(rng.integers(1, 3) if varied else 1):
        light = text(rng.uniform(0.2, 0.7) * rng.uniform(0.7, 1, 3))
        xml += (f'<light directional="true" castshadow="false" pos="0 0 2" dir="{text(rng.normal(0, 0.6, 2))} -1"'
                f' diffuse="{light}" specular="{text(rng.uniform(0, 0.3, 3))}"/>')
    return xml


# %% [markdown]
r"""
**The world** is one MJCF text. Whatever moves is a *mocap* body (for motion capture): it stands where we put it,
frame by frame, and obeys no force. Geoms of some things get a light grain, because few real things have one flat
colour.
"""


# %%
def world(rng, play, points, fovy, config, two=False):
    """Write the whole scene as MJCF: what moves are mocap bodies, which stand where they are told to."""
    bodies = {"hand": (hand, gripper)[int(rng.random() < 0.2)](rng)} | ({"hand2": hand(rng)} if two else {})
    for i, thing in enumerate(play.things):
        look = '<geom material="grain"' if rng.random() < 0.4 else "<geom"
        bodies[f"thing{i}"] = thing.xml.replace("NAME", f"joint{i}").replace("<geom", look)
    xml = "".join(f'<body name="{name}" mocap="true">{inner}</body>' for name, inner in bodies.items())
    for _ in range(rng.integers(0, 5)):  # clutter, beside and behind the action
        far = (np.ptp(points[:, :2], 0).max() / 2 + 0.1) * rng.uniform(1, 2)
        xml += f'<body pos="{text((points.mean(0) + toward(rng, (0, 1), 2.0) * far)[:2])} 0">{small(rng).xml}</body>'
    sky = f'<texture type="skybox" builtin="gradient" width="32" height="32" rgb1="{rgb(rng)}" rgb2="{rgb(rng)}"/>'
    return f"""<mujoco><statistic extent="1"/><visual><map znear="0.02" zfar="20"/>
      <global offwidth="{config.width}" offheight="{config.height}"/>
      <quality shadowsize="0" offsamples="{config.samples}" numslices="14" numstacks="8" numquads="1"/>
      <headlight ambient="{text(rng.uniform(0.15, 0.45, 3))}" diffuse="{text([rng.uniform(0, 0.4)] * 3)}"/></visual>
      <asset>{sky}{"".join(texture(rng, name, config.textures) for name in SURFACES)}</asset>
      <worldbody>{room(rng, config.textures)}<body name="camera" mocap="true"><camera fovy="{fovy}"/></body>{xml}</worldbody></mujoco>"""


# %% [markdown]
r"""
## The five draws

All chance comes from one generator, seeded by the pair (seed, index). That is why clips can be made in any order, by
any number of processes, today or tomorrow, and come out the same. Timing and action are drawn first, because they
are all that a label needs: those of a thousand clips are known within a second, before anything is rendered.
"""


# %%
def clip_id(index, control=None):
    """A number like SSv2's, as a string; 7919 is prime and no divisor of 220,847, so no two are alike."""
    number = 1 + 7919 * (index + 1) % 220_847
    return str(number + 1_000_000 * (CONTROLS.index(control) + 1 if control else 0))


def template_of(config, index):
    """The template and the action of clip `index`; every action has its turn."""
    chosen = [line for line in ACTIONS if config.actions in line[0]]
    if not chosen:
        raise UserError(f"no template has {config.actions!r} in it; --actions takes a word such as Opening")
    return chosen[index % len(chosen)]


def draw_play(config, index, returned=False):
    """The first two draws of clip `index`: the generator for the others, the timing, the play; `returned` undoes the act."""
    rng = np.random.default_rng([config.seed, index])
    time, (_, action) = draw_timing(rng), template_of(config, index)
    if returned:  # half way and back, and nothing falls or rolls after it
        time = time._replace(act=0.6 * np.sin(np.pi * time.act), after=0 * time.after)
    play = action(rng, time.act, time.after)
    first, last = play.held[0], play.held[1] or returned and play.held[0]
    return rng, time._replace(reach=np.maximum(time.reach, first), leave=time.leave * (not last)), play


def entry(config, index):
    """What SSv2's label files say about a clip."""
    template, names = template_of(config, index)[0], [thing.name for thing in draw_play(config, index)[-1].things]
    names = ["part"] * ("[part]" in template) + names
    label = template.replace("[part]", "[something]")
    for name in names:
        label = label.replace("[something]", name, 1)
    return {"id": clip_id(index), "label": label.lower(), "template": template, "placeholders": names}


assert clip_id(0) == "7920" and len({clip_id(i) for i in range(1000)}) == 1000
assert entry(Config(), 0)["template"] == "Pushing [something] from left to right"


# %% [markdown]
r"""
**Two hands.** In one clip of five a second hand goes along at the side of the thing, or holds the case of what is
opened. It lets go when the first one does.

**Controls.** A distance that falls along good clips may have learned no more than *time passes*. So some validation
clips get three counterparts with the same world, arm and camera: in a **failed** one the hand acts above the thing,
or takes it half way and back; in a **still** one all stay as they are at first, and only the camera trembles; the
**reversed** one has the frames in the other order. They make a split of their own, `controls`, which no training
reads; `04_eval_human.py` does.
"""


# %%
CONTROLS = ("failed", "still", "reversed")


def second_hand(rng, play, time):
    """The play of a hand that helps at the side of the first thing; None in most clips, and where the thing turns over."""
    helps, side, high = rng.random() < 0.2, toward(rng), rng.uniform(0.3, 0.8)
    thing, (where, rotvec, _) = play.things[0], play.poses[0]
    if not helps or np.ndim(rotvec) > 1 or thing.name in ("lever", "knob"):
        return None
    across = np.cross(UP, play.touch[0] - where[0])
    if np.linalg.norm(across) > 0.02:  # the first hand touches a side, and not the top
        side = across / np.linalg.norm(across) * (1 if across @ side > 0 else -1)
    spot = where + side * thing.radius + UP * thing.height * high
    spot[time.after > 0] = spot[np.flatnonzero(time.after == 0)[-1]]  # what falls, falls without it
    return play._replace(touch=spot, stand=side, twist=0.0)


def act_out(config, index, time, play, control):
    """The play and the timing that a control of clip `index` shows; those given where `control` is None or reversed."""
    fixed = lambda x: np.repeat(x[:1], len(x), 0) if len(np.atleast_1d(x)) == len(time.act) else x
    poses = [tuple(map(fixed, pose)) for pose in play.poses]
    if control == "still":
        return play._replace(poses=poses, touch=fixed(play.touch)), Timing(*map(fixed, time))
    if control == "failed" and (index // len(ACTIONS) % 2 or play.held[0]):
        _, time, play = draw_play(config, index, returned=True)
    elif control == "failed":
        above = np.maximum(play.touch, UP * (play.things[0].height + 0.03) - 9 * (1 - UP))  # only z is raised
        play = play._replace(poses=poses, touch=above)
    return play, time


# %%
class Film(NamedTuple):
    """A clip before it is rendered."""

    xml: str  # the world
    poses: dict  # body -> positions (T, 3), rotations (T)
    joints: dict  # joint -> (T,)
    opening: np.ndarray  # of the fingers (T,), radians
    paint: dict  # surface -> texture (64, 64, 3)
    time: Timing
    crf: int  # strength of the compression


def compose(config, index, control=None):
    """Draw clip `index`, or a control of it; depends on the seed, the index, the picture size and the variety asked for."""
    rng, time, play = draw_play(config, index)
    steps, first = len(time.act), play.things[0]
    corners = np.array([[-first.radius, -first.radius, 0], [first.radius, first.radius, 0], [0, 0, first.height]])
    ends = np.concatenate([where[[0, -1]] for where, *_ in play.poses])  # where things are first and last (N, 3)
    points = np.concatenate([*(ends[:, None] + corners), play.touch])
    fovy, eye, gaze = draw_camera(rng, points, steps, config.cameras)
    shown, shown_time = act_out(config, index, time, play, control)
    poses, joints = {"camera": (eye, gaze), "hand": draw_arm(rng, shown, shown_time, gaze[0].apply(UP))}, {}
    if (helping := second_hand(rng, shown, shown_time)) is not None:
        poses["hand2"] = draw_arm(rng, helping, shown_time, gaze[0].apply(UP))
    for i, (thing, (where, rotvec, joint)) in enumerate(zip(play.things, shown.poses)):
        poses[f"thing{i}"] = where, Rotation.from_rotvec(rotvec + np.zeros((steps, 3)))
        joints |= {f"joint{i}": joint + np.zeros(steps)} if thing.handle else {}
    paint = {name: noise(rng) for name in SURFACES if rng.random() < 0.5}
    paint["grain"] = 128 + noise(rng) // 2  # a light one, because it is multiplied with a thing's colour
    paint = paint if config.textures else {}
    opening = -0.5 * np.maximum(1 - shown_time.reach, shown_time.leave)
    xml = world(rng, play, points, fovy, config, "hand2" in poses)
    return Film(xml, poses, joints, opening, paint, shown_time, int(rng.integers(20, 45)))


# %% [markdown]
r"""
## Rendering

Each clip is its own MuJoCo model, and its setup must cost less than its frames. On a CPU a new OpenGL context takes
250 ms, so a process makes one and keeps it. A clip's textures and buffers take 6 ms, but 54 with room for a shadow
map (`shadowsize`) that nobody would see. Compiling the model takes 2 ms, drawing a frame of 96 x 72 pixels 1.5 ms,
encoding it 0.7 ms. Together that is a tenth of a second per clip. Shadows and reflections stay off.

`mujoco` is imported only here, because on import it looks at the environment for the OpenGL library to use, and
`pick_gl` has to find out first which one works.
"""

# %%
CONTEXT = {}


def gl_context(width, height):
    """Make this process's OpenGL context current; made once, freed at exit."""
    import mujoco

    if (width, height) not in CONTEXT:
        CONTEXT[width, height] = mujoco.gl_context.GLContext(width, height)
        atexit.register(CONTEXT[width, height].free)
    CONTEXT[width, height].make_current()
    return mujoco


def render(film, config):
    """Render a film: uint8 RGB (T, H, W, 3)."""
    mujoco = gl_context(config.width, config.height)
    model = mujoco.MjModel.from_xml_string(film.xml)
    for name, picture in film.paint.items():
        start = model.tex_adr[model.texture(name).id]
        model.tex_data[start:start + picture.size] = picture.ravel()
    data, scene = mujoco.MjData(model), mujoco.MjvScene(model, 300)
    scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    screen = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, screen)
    camera, option, window = mujoco.MjvCamera(), mujoco.MjvOption(), mujoco.MjrRect(0, 0, config.width, config.height)
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    bodies = [(model.body(name).mocapid[0], where, turn.as_quat(scalar_first=True))
              for name, (where, turn) in film.poses.items()]
    frames = np.empty((len(film.opening), config.height, config.width, 3), np.uint8)
    for t, frame in enumerate(frames):
        data.qpos[:] = film.opening[t]  # the fingers; then the joints of things
        for name, q in film.joints.items():
            data.joint(name).qpos = q[t]
        for mocap, where, quat in bodies:
            data.mocap_pos[mocap], data.mocap_quat[mocap] = where[t], quat[t]
        mujoco.mj_kinematics(model, data)  # where everything is, without any physics
        mujoco.mj_camlight(model, data)
        mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
        mujoco.mjr_render(window, scene, screen)
        mujoco.mjr_readPixels(frame, None, window, screen)
    screen.free()
    return frames[:, ::-1]  # OpenGL's first row is the lowest


# %% [markdown]
r"""
## Files

One process per core renders and encodes. Files appear under their name when they are complete, so what is there is
good, and what is missing is made. The manifest keeps clips of different settings apart: a seed or a size that differs
is an error, a larger number of clips is not.
"""


# %%
def write_clip(config, index, control=None):
    """Render clip `index` and write it as VP9; one task of a worker process."""
    film = compose(config, index, control)
    frames = render(film, config)[::-1 if control == "reversed" else 1]
    write_video(clip_path(config, index, control), frames, FPS, film.crf)


def clip_path(config, index, control=None):
    """Where clip `index` or a control of it lies."""
    return Path(config.out) / "20bn-something-something-v2" / f"{clip_id(index, control)}.webm"


def check_manifest(config):
    """Write the manifest of a new folder; raise UserError where one of other settings is."""
    if config.height % 2 or config.width % 2 or config.clips > 220_846:
        raise UserError("--height and --width must be even, as VP9 wants them, and --clips at most 220846")
    names = ("seed", "height", "width", "samples", "controls", "textures", "cameras", "actions")
    settings = {name: getattr(config, name) for name in names} | {"version": VERSION}
    digest = hashlib.sha1(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = Path(config.out) / "manifest.json"
    if not path.is_file():
        if any(not p.name.startswith(".") for p in path.parent.glob("*")):
            raise UserError(f"{config.out} holds something that this script did not make; give another --out")
        with write_whole(path) as draft:
            draft.write_text(json.dumps({"settings": settings, "hash": digest}, indent=1))
    if digest not in path.read_text():
        raise UserError(f"{config.out} holds clips of other settings than {settings}; delete it or give another --out")


# %% [markdown]
r"""
A clip's split follows from its id, so that it stays in its split when more clips are made. The three split files and
`labels.json` are written last and anew each time.
"""


# %%
def split_of(index):
    """85% of the ids are for training, 10% for validation, 5% for testing, by a hash."""
    share = int(hashlib.sha1(clip_id(index).encode()).hexdigest(), 16) % 100
    return "train" if share < 85 else "validation" if share < 95 else "test"


def list_controls(config):
    """The (index, control) of all controls: of the first validation clips in which something happens."""
    acted = (i for i in range(config.clips) if split_of(i) == "validation" and template_of(config, i)[0][:3] not in ("Pre", "Tou"))
    return [(index, control) for index in islice(acted, config.controls) for control in CONTROLS]


def write_labels(config):
    """Write SSv2's four label files, and one of the same form for the controls."""
    splits = {"train": [], "validation": [], "test": []}
    for index in range(config.clips):
        split = split_of(index)
        splits[split].append({"id": clip_id(index)} if split == "test" else entry(config, index))
    splits["controls"] = [entry(config, index) | {"id": clip_id(index, control), "control": control, "of": clip_id(index)}
                          for index, control in list_controls(config)]
    templates = sorted({template.replace("[", "").replace("]", "") for template, _ in ACTIONS})
    for name, content in (splits | {"labels": {template: str(k) for k, template in enumerate(templates)}}).items():
        with write_whole(Path(config.out) / "labels" / f"{name}.json") as draft:
            draft.write_text(json.dumps(content))


def make_clips(config):
    """Write every clip that is missing, and the labels."""
    check_manifest(config)
    wanted = [(i, None) for i in range(config.clips)] + list_controls(config)
    missing = [job for job in wanted if not clip_path(config, *job).is_file()]
    workers = config.workers or min(os.cpu_count(), len(missing) // 50)  # a process takes seconds to start
    if missing:
        pick_gl()
        os.environ.setdefault("LP_NUM_THREADS", "1")  # software OpenGL would start threads in every process
    if workers < 2 or not hasattr(sys.modules["__main__"], "__file__"):  # a notebook cannot send functions to processes
        for job in tqdm(missing, "clips", disable=not missing):
            write_clip(config, *job)
    else:
        ears = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit deafness: Ctrl-C is for the parent
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        jobs = [pool.submit(write_clip, config, *job) for job in missing]
        signal.signal(signal.SIGINT, ears)
        try:
            for job in tqdm(as_completed(jobs), "clips", len(missing)):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)  # workers finish the clip they are at
    write_labels(config)


# %% [markdown]
r"""
## Demonstrations for a robot

One baseline of the paper (TCN) needs more than a goal picture: a video of a *person doing the robot's task*, from the
robot's camera, step by step in the robot's time. We film three for each of two tasks, with the hands from above. The
table, the cup and the drawer have the robot tasks' places, sizes and colours, and the camera is theirs: MuJoCo's free
camera, which stands at distance $\rho$ from the point $c$ it looks at, at azimuth $\alpha$ and elevation $\epsilon$:

$$ c - \rho\,(\cos\alpha\cos\epsilon,\; \sin\alpha\cos\epsilon,\; \sin\epsilon) . $$

The robot's pictures are mirrored, so these are as well.
"""


# %%
def free_camera(azimuth, elevation, distance, lookat):
    """Position (3,) and rotation of MuJoCo's free camera; angles in degrees."""
    a, e = np.radians((azimuth, elevation))
    ahead = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    up = np.array([-np.cos(a) * np.sin(e), -np.sin(a) * np.sin(e), np.cos(e)])
    return np.array(lookat) - distance * ahead, Rotation.from_matrix(np.stack([np.cross(ahead, up), up, -ahead], 1))


where, turn = free_camera(90, -90, 2, (0, 0, 0))
assert np.allclose(where, (0, 0, 2)) and np.allclose(turn.apply([0, 0, -1]), (0, 0, -1))  # above, looking down


class Stage(NamedTuple):
    """A robot task's scene without the robot: what stands, what the hand moves, and how the pictures are taken."""

    fixed: str  # MJCF
    moved: str  # MJCF, in the frame of the thing that moves
    home: tuple  # where that frame is when nothing has moved, metres
    camera: tuple  # azimuth, elevation, distance, lookat
    mirror: tuple  # how to index a picture (H, W, 3)
    fps: int  # control steps of the robot per second


# %%
def cup_stage():
    """Pushing: a cup and a black square on a grey table."""
    fixed = geom("plane", (0.4, 0.4, 1), (0, 0.6, 0), "0.62 0.62 0.62")
    fixed += geom("box", (0.04, 0.04, 0.001), (0, 0.75, 0.001), "0.1 0.1 0.1")
    cup = geom("cylinder", (0.0254, 0.0307), (0, 0, 0.0307), "1 0.1 0.1")
    cup += geom("cylinder", (0.02, 0.001), (0, 0, 0.061), "0.5 0 0")
    return Stage(fixed, cup, (0, 0.6, 0), (270, -60, 0.45, (0, 0.85, 0.45)), np.s_[:, ::-1], 10)


def drawer_stage():
    """Drawer open: a red drawer with a black handle in a blue cover; all boxes, half-sizes and places in metres."""
    red, blue, black, wood = "0.95 0.28 0.18", "0.33 0.28 0.5", "0.02 0.02 0.02", "0.8 0.72 0.52"
    boxes = lambda color, base, *rows: "".join(geom("box", size, np.add(base, at), color) for size, at in rows)
    fixed = geom("plane", (0.4, 0.4, 1), (0, 0.6, 0), wood)
    fixed += boxes(blue, (0, 0.9, 0.02), ((0.105, 0.105, 0.001), (0, 0, 0.2)), ((0.105, 0.001, 0.1), (0, 0.105, 0.102)),
                   ((0.001, 0.105, 0.1), (0.105, 0, 0.102)), ((0.001, 0.105, 0.1), (-0.106, 0, 0.102)))
    moved = boxes(red, (0, 0, 0), ((0.1, 0.1, 0.001), (0, 0, 0.005)), ((0.1, 0.001, 0.05), (0, 0.1, 0.054)),
                  ((0.1, 0.001, 0.05), (0, -0.1, 0.054)), ((0.001, 0.1, 0.05), (0.1, 0, 0.054)),
                  ((0.001, 0.1, 0.05), (-0.101, 0, 0.054)))
    moved += boxes(black, (0, 0, 0.05), ((0.05, 0.005, 0.02), (0, -0.2, 0)), ((0.005, 0.05, 0.02), (0.045, -0.15, 0)),
                   ((0.005, 0.05, 0.02), (-0.045, -0.15, 0)))
    return Stage(fixed, moved, (0, 0.9, 0.04), (-30, -135, 0.5, (0, 0.6, 0.2)), np.s_[::-1], 80)


# %% [markdown]
r"""
A demonstration is a path of the fingertips through a few points, at rest in each, and the steps at which the thing
begins and ends to follow. At most 2 cm (cup) or 1 cm (drawer) a step is what the robot can do. No two demonstrations
are alike: the hand comes from elsewhere, the cup starts elsewhere, the speed differs by up to a third, and the picture
is cut by a few per cent. The paper found that little enough to spoil TCN's reward, and our reader can see it too.
"""


# %%
def through(points, steps):
    """A path (T, 3) through points (N, 3), from rest to rest; `steps` (N - 1,) says how long each way takes."""
    ways = [a + (b - a) * ease(np.arange(n) / n)[:, None] for a, b, n in zip(points, points[1:], steps)]
    return np.concatenate([*ways, points[-1:]])


def demonstrate_push(rng, speed):
    """Fingertips (T, 3), way of the cup (T, 3) and direction of the fingers: behind the cup, and on to the square."""
    cup, goal = np.array([rng.uniform(-0.08, 0.08), 0.6, 0.03]), np.array([0, 0.75, 0.03])
    ahead = (goal - cup) / np.linalg.norm(goal - cup)
    start, behind = np.array([rng.uniform(-0.05, 0.05), 0.32, 0.07]), cup - 0.035 * ahead
    steps = np.round(np.array([34, 24]) / speed).astype(int)
    tip = through(np.stack([start, behind, goal - 0.028 * ahead]), steps)
    way = np.maximum((tip - cup) @ ahead + 0.028, 0)[:, None] * ahead * (np.arange(len(tip)) >= steps[0])[:, None]
    return tip, way + (cup - (0, 0.6, 0.03)), ahead


def demonstrate_open(rng, speed):
    """The same for the drawer: over its handle, down behind the bar, and pull."""
    start, grip = np.array([rng.uniform(-0.03, 0.03), 0.5, 0.25]) + rng.normal(0, 0.01, 3), np.array([0, 0.69, 0.085])
    steps = np.round(np.array([60, 25, 50]) / speed).astype(int)
    pull = np.array([0, 0.2, 0])
    tip = through(np.stack([start, grip + (0, 0, 0.09), grip, grip - pull]), steps)
    way = np.concatenate([np.zeros((steps[:2].sum(), 3)), tip[steps[:2].sum():] - grip])
    return tip, way, np.array([0.0, 1, 0])


# %%
def demonstration(stage, moves, seed, size=64):
    """Film one demonstration: uint8 (T, size, size, 3)."""
    rng = np.random.default_rng([seed, 7])
    tip, way, ahead = moves(rng, rng.uniform(0.75, 1.3))
    azimuth, elevation, distance, lookat = stage.camera
    lookat = np.add(lookat, rng.normal(0, 0.006, 3))
    where, turn = free_camera(azimuth, elevation, distance * rng.uniform(0.97, 1.03), lookat)
    still = np.zeros((len(tip), 3))
    spin, pitch = np.arctan2(ahead[1], ahead[0]) + rng.normal(0, 0.1), rng.uniform(0.5, 0.8)
    hands = Rotation.from_euler("ZY", np.array([spin, pitch]) + still[:, :2])
    xml = f"""<mujoco><statistic extent="1"/><visual><map znear="0.02" zfar="20"/>
      <global offwidth="{size}" offheight="{size}"/><quality shadowsize="0" offsamples="0"/>
      <headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4"/></visual>
      <worldbody><body name="camera" mocap="true"><camera fovy="45"/></body>{stage.fixed}
      {geom("plane", (9, 9, 1), (0, 0, -1), "0.58 0.57 0.55")}
      <body name="thing" mocap="true">{stage.moved}</body><body name="hand" mocap="true">{hand(rng)}</body></worldbody></mujoco>"""
    poses = {"camera": (where + still, Rotation.concatenate([turn] * len(tip))), "hand": (tip, hands),
             "thing": (stage.home + way, Rotation.from_rotvec(still))}
    picture = SimpleNamespace(height=size, width=size)
    return render(Film(xml, poses, {}, np.zeros(len(tip)), {}, None, 30), picture)[(slice(None), *np.index_exp[stage.mirror])]


def make_demonstrations(config):
    """Write `demonstrations/<task>/<k>.webm`, three each, one frame for one control step of the robot."""
    for task, stage, moves in (("pushing", cup_stage(), demonstrate_push), ("drawer_open", drawer_stage(), demonstrate_open)):
        for k in range(3):
            path = Path(config.out) / "demonstrations" / task / f"{k}.webm"
            if not path.is_file():
                pick_gl()
                write_video(path, demonstration(stage, moves, config.seed + k), stage.fps, 20)


# %% [markdown]
r"""
## From a file to a tensor

From here on the clips could as well be SSv2's. Three things in `common.py` lead from a folder to a network.

`find_clips` lists the files of a split. `read_clip` decodes one: all its frames as bytes, upright however the phone
was held, and the frame rate, which is a property of the file. Pictures are made smaller *while* they are decoded, so
that memory holds small frames only. A video of more than 1,000 frames is refused by name: it shows many actions, and
its last frame is the goal of none.

`ClipSet` is a split as a network wants it: item $i$ is a clip. Two facts decide how it works. First, real folders
have **bad files**. A network that meets one in hour nine must not stop, and its batches should not depend on it. So
each file is looked at before training: header, first picture, and the times of all pictures, which costs a fifth of
decoding it. What was seen is kept in `.clips.json`, and only new files are looked at again. Second, **decoding is slow
and disks are large**. A clip of 40 frames of 96 x 72 pixels is 0.8 MB as plain bytes. With the cache on, it is decoded
when it is first asked for, written as such, and from then on read, forty times faster. When 8 GB are full, the
remaining clips are decoded each time: so the stand-in trains from plain bytes, and SSv2 from webm.
"""


# %%
def entries(folder, split):
    """What the JSONs say about a split: a list of dicts with `id`, and `label` where it is known; [] without JSONs."""
    labels = find_labels(folder, split)
    listed = read_labels(labels) if labels else []
    places = ("*answers.csv", "*/*answers.csv", "*/labels/*answers.csv")  # of the test split
    found = [p for place in places for p in sorted(Path(folder).glob(place))] if split == "test" else []
    answers = dict(line.split(";", 1) for line in found[0].read_text().splitlines() if ";" in line) if found else {}
    return [{"label": answers[e["id"]]} | e if e["id"] in answers else e for e in listed]


def contact_sheet(folder, split="train", rows=8, columns=8):
    """One clip per row, its label above: the way to look at a data set. Returns a figure."""
    labels = {e["id"]: e.get("label", "") for e in entries(folder, split)}
    paths = ClipSet(folder, split, 96, rows, cache=False).paths
    figure, axes = plt.subplots(len(paths), 1, figsize=(9, 1.05 * len(paths)), squeeze=False)
    for axis, path in zip(axes[:, 0], paths):
        frames, _ = read_clip(path, 96)  # (T, 96, W, 3)
        chosen = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        axis.imshow(np.concatenate(list(chosen), 1))
        axis.set_title(f"{path.stem}: {labels.get(path.stem, '')} ({len(frames)} frames)", fontsize=7, loc="left", pad=2)
        axis.axis("off")
    return figure


# %% [markdown]
r"""
## Is the folder whole?

`check` tells before a training of days what is missing: ids without a file, files without an entry, templates that
`labels.json` does not know, and every file that cannot be used, with the reason. It decodes all frames, which finds
what a first look cannot: a file that breaks in its middle. Such files are marked in `.clips.json`, so that training
leaves them out from then on. One core decodes SSv2's 220,847 clips in a few hours; stopped, it goes on.
"""


# %%
SIZES = {"train": 168_913, "validation": 24_777, "test": 27_157}  # clips of SSv2; paper, Table V


def decode_all(folder, seen):
    """Read every clip that looked well to its end; add `decoded` or the `fault` to its facts, here and in the index."""
    def read(path):
        try:
            return {"decoded": bool(read_clip(path, 16))}
        except UserError as error:
            return {"fault": str(error).removeprefix(f"{path} ")}

    index, todo = Path(folder) / ".clips.json", [p for p, facts in seen.items() if not {"decoded", "fault"} & set(facts)]
    with tqdm(total=len(todo), desc="decoding", delay=2) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for some in (todo[i : i + 1000] for i in range(0, len(todo), 1000)):
            for path, found in zip(some, pool.map(read, some)):
                seen[path] |= found
                bar.update()
            with contextlib.suppress(OSError, UserError), write_whole(index) as draft:  # the folder may be for reading only
                names = {path.relative_to(folder).as_posix(): facts for path, facts in seen.items()}
                draft.write_text(json.dumps(json.loads(index.read_text()) | names))


# %%
def check(folder):
    """Look at all files and labels of a folder and print the counts. Returns what is wrong: rows of `path`, `reason`."""
    folder, rows, listed = Path(folder), [], set()
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to check")
    bad = lambda path, reason: rows.append({"path": str(path), "reason": reason})
    labelled = [s for s in (*SIZES, "controls") if find_labels(folder, s)]
    for split in labelled or ("train", "validation"):
        before, missing, seen = len(rows), [], {}
        try:
            seen = survey(folder, find_clips(folder, split, missing))
        except UserError as error:  # the other splits may be whole
            bad(find_labels(folder, split) or folder, str(error))
        decode_all(folder, seen)
        for path in missing:
            bad(path, f"missing; {split} has this id")
        for path, facts in seen.items():
            if "fault" in facts:
                bad(path, facts["fault"])
        listed |= seen.keys()
        expected = f", of SSv2's {SIZES[split]:,}" if split in SIZES and labelled else ""
        print(f"{split}: {len(seen) + len(missing):,} clips{expected}; {len(rows) - before:,} cannot be used")
    if labelled:
        check_labels(folder, bad)
        for path in folder.rglob("*"):
            stranger = path.suffix.lower() in VIDEO_SUFFIXES and path not in listed and path.name[0] != "."
            if stranger and "demonstrations" not in path.parts:
                bad(path, "no label file has this id")
    return rows


# %%
def check_labels(folder, bad):
    """Count the templates and the test split's answers; tell `bad(path, reason)` what does not fit."""
    templates, path = {}, find_labels(folder, "labels")
    try:
        templates = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError as error:
        bad(path, f"broken JSON ({error})")
    print(f"templates: {len(templates)}, of SSv2's 174")
    for split in SIZES:
        listed = []
        with contextlib.suppress(UserError):  # `check` has told already
            listed = entries(folder, split)
        for template in sorted({plain(e.get("template", "")) for e in listed} - {"", *templates}) if templates else ():
            bad(find_labels(folder, split), f"the template {template!r} is not in {path.name}")
    print(f"test answers: {sum('label' in e for e in listed):,}, of SSv2's {SIZES['test']:,}")


def plain(template):
    """A template as `labels.json` writes it: without brackets."""
    return re.sub(r"[\[\]]", "", template)


assert plain("Pushing [something] from left to right") == "Pushing something from left to right"

# %% [markdown]
r"""
## Has anybody shown the robot's task?

HOLD's claim is that a *new* task can be learned from videos of others. How new are the robot's tasks? The paper's
Appendix E picks for each task the closest template $a$ and the closest object $o$ and counts the clips of train and
validation that have $a$, that have $o$, and that have both. We take the object from the placeholders, whole and
without its article: a *bottle cap* is no *cap* (`# ours: the paper does not say, but counts these two apart`).

Many clips show the action, hundreds the object, next to none both. With the stand-in the table tells about the
stand-in: it has the actions, and its objects are a dozen.
"""

# %%
TABLE_V = {  # robot task: closest action, closest object, and how many clips of SSv2 have the action, the object, both
    "pushing": ("Moving something towards the camera", "cap", (927, 611, 3)),
    "drawer open": ("Opening something", "drawer", (1585, 619, 67)),
    "close drawer": ("Closing something", "drawer", (1296, 619, 62)),
    "cup forward": ("Moving something away from the camera", "mug", (937, 951, 4)),
    "faucet right": ("Pushing something from left to right", "faucet", (3199, 28, 0)),
}


def coverage(folder):
    """Count the clips closest to each robot task (paper, App. E). Returns {task: (with a, with o, with both)}."""
    listed = [e for split in ("train", "validation") for e in entries(folder, split)]
    objects = [{re.sub("^(an?|the) ", "", name.strip().lower()) for name in e.get("placeholders", ())} for e in listed]
    counts = {}
    for task, (action, thing, _) in TABLE_V.items():
        a = np.array([plain(e.get("template", "")) == action for e in listed], bool)
        o = np.array([thing in names for names in objects], bool)
        counts[task] = int(a.sum()), int(o.sum()), int((a & o).sum())
    return counts


def print_coverage(counts):
    """Print Table V with our counts beside the paper's."""
    print("| robot task | closest action a | closest object o | a | o | a and o | paper: a | o | a and o |\n" + "|---" * 9 + "|")
    for task, (action, thing, paper) in TABLE_V.items():
        print("|", " | ".join(map(str, (task, action, thing, *counts[task], *paper))), "|")


# %%
def coverage_figure(counts):
    """Clips with the action, the object, and both: here and in SSv2 as the paper counts. Returns a figure."""
    figure, axes = plt.subplots(1, len(TABLE_V), figsize=(10, 2.4), sharey=True)
    for axis, (task, (_, thing, paper)) in zip(axes, TABLE_V.items()):
        for shift, numbers, label in ((-0.2, counts[task], "this folder"), (0.2, paper, "SSv2 (paper)")):
            bars = axis.bar(np.arange(3) + shift, numbers, 0.4, label=label)
            axis.bar_label(bars, fontsize=6)
        axis.set(title=f"{task}: {thing}", yscale="symlog", xticks=range(3), xticklabels=["action", "object", "both"])
    axes[0].set_ylabel("clips")
    axes[-1].legend(fontsize=7)
    return figure


# %% [markdown]
r"""
## What the two models draw from a clip

**HOLD-R** learns $d(s, g)$ as the number of frames between two frames of a clip. One example is a pair $s < g$,
uniform over all $L(L-1)/2$ pairs, and the model sees the two frames before $s$ as well; at the start of a clip the
first frame is repeated. Two different frames drawn blindly and sorted are such a pair.

**HOLD-C** sees 32 consecutive frames. Those at most two frames from an anchor are its positives, those more than four
frames away its negatives. A clip shorter than 32 frames is looped, and a frame of another loop counts as a negative.
"""


# %%
def draw_pair(length, rng):
    """HOLD-R: draw history indices (3,), clamped at the start, and a later goal index."""
    start, goal = sorted(rng.choice(length, 2, replace=False))
    return np.maximum([start - 2, start - 1, start], 0), goal


def draw_window(length, rng, size=32):
    """HOLD-C: draw the indices (size,) of a window; a clip shorter than that is looped from its first frame."""
    return (rng.integers(max(1, length - size + 1)) + np.arange(size)) % length


assert draw_pair(2, np.random.default_rng(0))[0].tolist() == [0, 0, 0]
assert draw_window(3, np.random.default_rng(0), 5).tolist() == [0, 1, 2, 0, 1]


# %%
def sampling_figure(frames, rng):
    """Draw a pair and a window below the frames they come from. Returns a figure."""
    length = len(frames)
    (history, goal), window = draw_pair(length, rng), draw_window(length, rng)
    figure, (top, axis) = plt.subplots(2, 1, figsize=(9, 2.4), height_ratios=(1, 1.3), sharex=True)
    shown = frames[np.linspace(0, length - 1, 9).round().astype(int)]
    top.imshow(np.concatenate(list(shown), 1), extent=(-0.5, length - 0.5, 0, 1), aspect="auto")
    axis.plot(history, np.full(3, 3), "o", color="tab:blue", label="HOLD-R: two frames of history, and s")
    axis.plot(goal, 3, "*", color="tab:blue", markersize=11, label=f"g, {goal - history[-1]} frames later")
    anchor = int(np.median(window))
    near = [t for t in window if 0 < abs(t - anchor) <= 2]
    far = [t for t in window if abs(t - anchor) > 4]
    axis.plot(anchor, 2, "s", color="k", label="HOLD-C: an anchor")
    axis.plot(near, np.full(len(near), 2), "o", color="tab:green", label="positives")
    axis.plot(far, np.full(len(far), 2), "x", color="tab:red", label="negatives")
    axis.set(ylim=(1.5, 3.5), yticks=[], xlabel="frame")
    axis.legend(ncols=5, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    top.axis("off")
    return figure


# %% [markdown]
r"""
## Augmentation

The paper's training pictures go through five steps, and **all frames of an example share every draw**: a clip whose
frames are jittered one by one would show changes that never happened.

1. Resize so that the short side has 288 pixels (SSv2's 240 are enlarged).
2. Stretch height and width by two independent factors from $U(0.9, 1.33)$.
3. Crop 256 x 256 at random.
4. Flip left-right half of the time. A flipped push to the left is a push to the right; HOLD uses no labels, so it is
   fine.
5. RandAugment: two operations in a row, drawn from the twelve below, at magnitude 20 where others use 10. No
   rotation, no shear, because where things are matters. Magnitude 20 turns into a factor of $2 \cdot 1.8 + 0.1 = 3.7$
   for colour, contrast, brightness and sharpness; *posterize* and *solarize* reach their end and do nothing.

The authors put the frames of a clip on top of each other and treat them as one tall picture. So the histograms of
*equalize* and *contrast* are taken over the whole clip, and so are ours.
"""

# %%
RANDAUGMENT = {  # authors' code: scenic's video RandAugment; a tall picture (3, T * H, W), uint8
    "identity": lambda x: x,
    "autocontrast": TF.autocontrast,
    "equalize": TF.equalize,
    "invert": TF.invert,
    "posterize": partial(TF.posterize, bits=8),
    "solarize": lambda x: x,  # threshold 512 > 255
    "color": partial(TF.adjust_saturation, saturation_factor=3.7),
    "contrast": partial(TF.adjust_contrast, contrast_factor=3.7),
    "brightness": partial(TF.adjust_brightness, brightness_factor=3.7),
    "sharpness": partial(TF.adjust_sharpness, sharpness_factor=3.7),
    "solarize_add": lambda x: torch.where(x < 128, (x.int() + 220).clamp(max=255).byte(), x),
    "cutout": None,  # needs to know where one frame ends; in `augment`
}


def cutout(clip, row, column, half=80):
    """Blacken one box of up to 160 x 160 pixels in all frames (T, 3, H, W)."""
    clip = clip.clone()
    clip[..., max(0, row - half):row + half, max(0, column - half):column + half] = 0
    return clip


def augment(frames, rng, short_side=288, size=256):
    """The paper's training pipeline: uint8 frames (T, H, W, 3) -> {step: uint8 (T, 3, h, w)}, the result last.

    Networks take the result as `x / 127.5 - 1`. All frames share all draws of `rng`, a `numpy.random.Generator`.
    """
    clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # (T, 3, H, W)
    steps = {f"short side {short_side}": TF.resize(clip, short_side)}
    height, width = (round(n * rng.uniform(0.9, 1.33)) for n in [*steps.values()][-1].shape[-2:])
    steps[f"stretch to {height} x {width}"] = clip = TF.resize([*steps.values()][-1], (height, width))
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    steps[f"crop {size} x {size}"] = clip = TF.crop(clip, top, left, size, size)
    steps["flip"] = clip = TF.horizontal_flip(clip) if rng.random() < 0.5 else clip
    for layer, name in enumerate(rng.choice(list(RANDAUGMENT), 2), 1):
        if name == "cutout":
            clip = cutout(clip, *rng.integers(0, size, 2))
        else:
            tall = clip.transpose(0, 1).reshape(3, -1, size)  # (3, T * size, size)
            clip = RANDAUGMENT[name](tall).view(3, -1, size, size).transpose(0, 1)
        steps[f"{layer}: {name}"] = clip
    return steps


# %%
def augmentation_figure(frames, rng):
    """First and last frame of a clip after each step of `augment`. Returns a figure."""
    steps = augment(frames, rng)
    figure, axes = plt.subplots(2, len(steps), figsize=(1.7 * len(steps), 3.2))
    for column, (name, clip) in zip(axes.T, steps.items()):
        for axis, picture in zip(column, clip[[0, -1]]):
            axis.imshow(picture.permute(1, 2, 0))
            axis.axis("off")
        column[0].set_title(name, fontsize=8)
    return figure


# %% [markdown]
r"""
## How fast are clips read?

`--benchmark` reads the same clips in turns with whatever is installed: PyAV frame by frame, as its manual shows;
`read_clip`, which differs in one thing, a colour converter that all frames share; decord and torchcodec, if there;
and the cache. Turns matter: a machine that is busy for a second is busy for all of them. We take the fastest of three
rounds of each, and the time that the processor worked, on all cores together: it does not wait for others.

The last rows are what counts for HOLD-R. An example is four frames of a clip. To decode a clip for every example
is to throw away nearly all that was decoded; so one should either take many examples from a clip while it is there,
or keep it. Processor time on stand-in clips of 35 frames, milliseconds per clip, or per pair in the last three rows
(two cores, fastest of three rounds):

| | 96 x 72 | 320 x 240 |
|---|---|---|
| PyAV, frame by frame | 20.7 | 38.0 |
| `read_clip` | 9.2 | 23.6 |
| decord 0.6 | 10.1 | 29.5 |
| `read_clip`, made smaller on the way, short side 72 | 9.8 | 25.8 |
| cache, short side 72, every byte looked at | 0.25 | 0.27 |
| a pair: decode for each, PyAV | 19.7 | 35.7 |
| a pair: decode once, 16 pairs | 0.62 | 1.6 |
| a pair: cache | 0.31 | 0.27 |

torchcodec 0.17 took half to two thirds of decord's time in an earlier run; it needs FFmpeg's libraries on the machine,
PyAV brings its own. With the cache it hardly matters which of them decodes. The cache is read and not mapped into
memory: for clips as small as these a mapping, set up for each clip anew, takes twice as long as reading all of it.
"""


# %%
def readers():
    """Ways to decode a whole file at its own size, {name: function of a path}: those whose packages are installed."""
    def frame_by_frame(path):
        with av.open(str(path)) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])

    found = {"PyAV, frame by frame": frame_by_frame, "read_clip": lambda path: read_clip(path)[0]}
    with contextlib.suppress(ImportError):
        import decord
        found["decord"] = lambda path: (film := decord.VideoReader(str(path))).get_batch(range(len(film))).asnumpy()
    with contextlib.suppress(ImportError, RuntimeError, OSError):  # needs FFmpeg's libraries on the machine
        from torchcodec.decoders import VideoDecoder
        found["torchcodec"] = lambda path: VideoDecoder(str(path), dimension_order="NHWC")[:].numpy()
    return found


def pair_makers(clips, per_clip=16):
    """Ways to get HOLD-R's pairs, {name: function of a clip's number, how many pairs a call gives}; 4 frames a pair."""
    rng = np.random.default_rng(0)

    def pick(frames):
        history, goal = draw_pair(len(frames), rng)
        return frames[[*history, goal]]  # (4, H, W, 3)

    def decode_once(i):
        frames, _ = read_clip(clips.paths[i], clips.short_side)
        return [pick(frames) for _ in range(per_clip)]

    slow = readers()["PyAV, frame by frame"]
    return {"pairs: decode for each, PyAV": (lambda i: [pick(slow(clips.paths[i]))], 1),
            "pairs: decode for each, read_clip": (lambda i: [pick(read_clip(clips.paths[i], clips.short_side)[0])], 1),
            f"pairs: decode once, {per_clip} pairs": (decode_once, per_clip),
            "pairs: cache": (lambda i: [pick(clips[i][0])], 1)}


# %%
def benchmark(folder, count=64, rounds=3, short_side=72):
    """Time all ways to read `count` clips, in turns.

    Returns rows: `way`, `clips_per_s`, `frames_per_s` and `pairs_per_s` (0 where that is not what is made), `cpu_ms` per clip.
    """
    clips, plain_clips = (ClipSet(folder, "train", short_side, count, cache) for cache in (True, False))
    frames = sum(len(clips[i][0]) for i in range(len(clips)))  # fills the cache
    ways = {name: (lambda i, read=read: read(clips.paths[i]), 0) for name, read in readers().items()}
    ways |= {f"read_clip, short side {short_side}": (lambda i: plain_clips[i], 0),
             f"cache, short side {short_side}": (lambda i: clips[i][0].max(), 0)}  # every byte is looked at
    ways |= pair_makers(clips)
    best = {name: (np.inf, np.inf) for name in ways}
    for turn in tqdm(range(rounds * len(ways)), "benchmark"):
        name = [*ways][turn % len(ways)]
        start, worked = time.perf_counter(), time.process_time()
        for i in range(len(clips)):
            ways[name][0](i)
        best[name] = tuple(np.minimum(best[name], (time.perf_counter() - start, time.process_time() - worked)))
    n = len(clips)
    return [{"way": name, "clips_per_s": round(n / wall), "frames_per_s": round(frames / wall) * (not ways[name][1]),
             "cpu_ms": round(1000 * cpu / n, 2), "pairs_per_s": round(n * ways[name][1] / wall)}
            for name, (wall, cpu) in best.items()]


# %% [markdown]
r"""
## Make them, look at them

With `--check` the folder is somebody else's, so nothing is made, and the same pictures are drawn of it.
"""

# %%
if __name__ == "__main__":
    config = parse_config(Config)
    plot_style()
    folder = Path(config.check or config.out)
    if config.check:
        faults = check(folder)
        print(f"{len(faults)} faults" + f", listed in {folder / 'bad.csv'}" * bool(faults))
        (folder / "bad.csv").unlink(missing_ok=True)
        if faults:
            write_csv(folder / "bad.csv", faults)
    else:
        make_clips(config)
        make_demonstrations(config)
        for split in ("train", "validation"):
            print(f"{split}: {len(find_clips(folder, split))} clips")

# %%
if __name__ == "__main__" and config.benchmark:
    rows = benchmark(folder)
    write_csv(folder / "benchmark.csv", rows)
    for row in rows:
        print(f"{row['way']:36}" + "  ".join(f"{row[name]:>8g} {name}" for name in [*row][1:]))

# %%
if __name__ == "__main__":
    path = ClipSet(folder, "train", 96, 1, cache=False).paths[0]
    frames, fps = read_clip(path)
    print(f"{path.name}: {frames.shape} {frames.dtype}, {fps:g} frames per second, {path.stat().st_size / 1000:.0f} kB")
    rng = np.random.default_rng(config.seed)
    figures = {"clips": contact_sheet(folder), "samples": sampling_figure(frames, rng),
               "augmentation": augmentation_figure(frames, rng)}
    if find_labels(folder, "train"):
        counts = coverage(folder)
        print_coverage(counts)
        figures["coverage"] = coverage_figure(counts)
    for name, figure in figures.items():
        with write_whole(folder / "figures" / f"{name}.png") as draft:
            figure.savefig(draft)

# %% [markdown]
r"""
## What was learned

* SSv2 is a folder of short clips and four JSONs; HOLD reads the clips and the order of their frames, nothing else.
* Real folders have bad files. Look at all of them before training, say which are left out and why, and no batch
  depends on them.
* To decode a clip costs tens of times what it costs to read its plain bytes. Keep small clips; take many examples
  from a large one while it is there.
* Hardly anybody in SSv2 has done what the robot is to do. What transfers is *change*, not the task.
* Frames of one example share every random draw of the augmentation.

### What of it helps?

Looks prove nothing. So we trained HOLD-C (03's default, 800 steps) on variants of the stand-in, and asked each result
to order pictures of a *robot*: the Spearman correlation of $-d$ with time along scripted successes, the mean of the
six goals of five tasks (`05_sac.py --look`; all numbers in `assets/robot_scores.csv`).

| trained on | Spearman, three training seeds | mean | contrast | failed try | object alone |
|---|---|---|---|---|---|
| nothing: 03's network, random weights | .62, .63, .64 | .63 | .63 | .24 | .08 |
| the same, batch normalisation fitted to one batch of clips | .74, .76, .63 | .71 | .58 | .19 | .04 |
| the same, fitted to forty (03 with `--lr 0 --steps 40`) | .65, .69, .69 | .68 | .46 | .24 | .07 |
| nothing: features of a random ResNet-18 | .39, .58, .48 | .48 | .55 | .33 | .08 |
| nothing: pixel L2 | .58 | .58 | .25 | .21 | .12 |
| 100 clips | .78, .76, .81 | .78 | .62 | .27 | .08 |
| 300 clips | .74, .80, .77 | .77 | .58 | .24 | .09 |
| 1,000 clips | .73, .82, .85 | .80 | .51 | .23 | .06 |
| 3,000 clips | .72, .82, .79 | .78 | .56 | .22 | .10 |
| 1,000 clips without textures (`--no-textures`) | .74, .81, .79 | .78 | .58 | .26 | .11 |
| 1,000 clips from one camera (`--no-cameras`) | .72, .74, .83 | .77 | .56 | .25 | .13 |
| 1,000 clips of 6 of the 28 actions (`--actions from`) | .81, .82, .68 | .77 | .55 | .24 | .07 |

The last columns are means over seeds. Contrast: by what share $d$ is lower at success than under random play; failed try:
the same for a try that failed; object alone: by what share it falls where the object alone has moved (05 has the formulas).

Training helps to *order*, less than one would hope: 21 trained networks score .68 to .85, nine with random weights .62 to
.76, and nearly half of that difference comes with the statistics of batch normalisation, before anything is learned. *What* it is
trained on does not show: the seven settings lie within .04, three seeds of one setting within .04 to .14. At 3,200
windows in all, a hundred clips last as long as three thousand. Tables of one seed told a different story each time we
trained anew. And training does not help to *tell success from failure*: the contrast of random weights is as good as
any, a failed try gets a quarter of the way in all rows, and with the hand held still no network sees the object move. So
nothing here was dropped, and nothing earns its place by this measure; whether variety pays in a longer training, with
a larger network, is open.

### What the stand-in can teach, and what it cannot

It has examples of things that change because a hand comes; of states in between; of hands that act beside a thing and
do nothing; and of one act in many lights, colours, rooms and views. A script, a loss or a reward that works on SSv2 works on it, and in minutes.

It **cannot** teach what its few hundred lines do not contain. Nothing is soft here, wet, torn, folded or cooked. There are a dozen
kinds of things where people took thousands, and each is handled in the one way that we thought of, without mistakes or detours. Nobody
looks for a thing, changes their mind, or does two things at once. The hands are stiff, and are all that is seen of a
person. So a number measured on stand-in clips tells whether a *method* works and which of two settings is better; it
does not tell how well a robot would do with SSv2. For that, get SSv2: every command here takes it with `--data`.

**Exercises**

1. Make clips with `--actions Opening --out data/opening` and train 03 on them (`--data data/opening`). *Expect* a distance that orders opening drawers well and closing ones
   backwards.
2. In `draw_timing`, let no hand leave (`stays = True`). *Expect* the distance to follow the hand, and to lose on
   frames where the hand is away.
3. In `augment`, draw the RandAugment operations per frame instead of per clip. *Expect* time contrast to learn the
   colours: they now tell the frames of a clip apart better than anything that happens on the table.
"""
