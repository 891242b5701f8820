# %% [markdown]
r"""
# Clips of hands that change things

HOLD learns from videos of *people* and is used on *robots*. The videos are Something-Something v2 (SSv2):
220,847 clips of two to six seconds, each showing one of 174 everyday actions. This lecture says what they are
and how they are read, makes a stand-in, and shows what augmentation does to a clip.

**Takes** nothing, or SSv2. **Writes** a folder in SSv2's layout, which the later scripts read:

```
data/standin/20bn-something-something-v2/<id>.webm              VP9, 12 frames per second
data/standin/labels/{labels,train,validation,test}.json         SSv2's own forms
data/standin/labels/controls.json                               failed and still counterparts, for 04
data/standin/demonstrations/{pushing,drawer_open}/{0,1,2}.webm  hands doing the robot's tasks, for 06
data/standin/manifest.json                                      the settings the clips were made with
data/standin/figures/*.png                                      the pictures of this lecture
```

```
python 01_data.py                   # 1,000 clips of 96 x 72 pixels: a minute or two on two cores, no GPU
python 01_data.py --clips 3000      # adds the missing ones to those that are there
python 01_data.py --check ssv2/     # makes no clips: decodes every file of SSv2, or any folder of videos
```

Expect the line `train: 855 of 855 listed clips are there`. Stop it at any moment; the same command goes on.
"""

# %%
import atexit
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Callable, ClassVar, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import to_rgb
from scipy.ndimage import zoom
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from common import (RANDAUGMENT, STYLE, VIDEO_SUFFIXES, ClipSet, UserError, augment, augment_steps,
                    find_clips, parse_config, pick_gl, read_clip, read_labels, show, write_csv, write_video,
                    write_whole)

FPS = 12  # SSv2's nominal rate

# %%
@dataclass
class Config:
    """Make stand-in clips in the layout of Something-Something v2, or check a folder of videos."""

    out: str = "data/standin"  # folder to write
    clips: int = 1000  # all splits together; SSv2 has 220,847
    seed: int = 0  # clip i depends on the seed, on i and on the picture size alone
    height: int = 72  # of the frames, even; SSv2: 240
    width: int = 96  # of the frames, even
    controls: int = 40  # validation clips that get two counterparts, failed and still; 0 for none
    workers: int = 0  # processes that render; 0: by cores and clips
    check: str = ""  # make no clips: decode all of this folder (SSv2, or any videos), list the bad ones
    positive: ClassVar[tuple] = ("clips", "height", "width")

    @classmethod
    def smoke(cls):
        """Two clips of every action, for tests and a look around."""
        return cls(out="runs/smoke/clips", clips=24, height=48, width=64, controls=2)


# %%
def claim(config):
    """Write the manifest: flags that make the folder again, and a hash of those that decide how a clip looks.

    UserError where clips of another look, or anything else, are in it. The number of clips may change.
    """
    if config.height % 2 or config.width % 2 or config.clips > 220_846:
        raise UserError("--height and --width must be even, as VP9 wants them, and --clips at most 220846")
    flags = [f"--{name}={getattr(config, name)}" for name in ("clips", "controls", "seed", "height", "width")]
    digest = hashlib.sha1(" ".join(["recipe 7", *flags[2:]]).encode()).hexdigest()
    path = Path(config.out, "manifest.json")
    before = json.loads(path.read_text()) if path.is_file() and "flags" in path.read_text() else {}
    others = [p for p in path.parent.glob("*") if not p.name.startswith(".")]
    if before.get("hash") != digest and (others or path.parent.is_file()):
        raise UserError(f"{config.out} holds something else than clips with {' '.join(flags[2:])}; "
                        "delete it or give another --out")
    if before.get("flags") != flags:  # written last, labels.json says that the folder is complete
        Path(config.out, "labels", "labels.json").unlink(missing_ok=True)
    with write_whole(path) as draft:
        draft.write_text(json.dumps({"flags": flags, "hash": digest}, indent=1))


if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    config = parse_config(Config)  # in Jupyter: parse_config(Config, clips=100, out="data/few")
    folder = config.check or config.out
    if not config.check:
        claim(config)
    print(config)

# %% [markdown]
r"""
## Something-Something v2

People were given a sentence with holes, such as *Pushing [something] from left to right*, took something at
hand, did it and recorded it. The sentence is the clip's **template**, what they took its **placeholders**.
HOLD uses neither: what it needs is that in thousands of homes, seen from all sides, *something changes
because of a hand*, and that clips begin shortly before the change and end shortly after.

Qualcomm gives the data to researchers after a registration, as parts of one archive and a package of labels.
`cat 20bn-something-something-v2-?? | tar -xz` joins the parts and unpacks
`20bn-something-something-v2/1.webm` to `220847.webm`. Put the JSONs beside the videos or into `labels/`, as
`train.json` or `something-something-v2-train.json`. There are **two kinds of label**: training and validation
entries tell everything, test entries only an id; and `labels.json` numbers all templates. No script of ours
learns from labels; they tell which clip belongs to which split. A folder of videos *without* labels is
therefore just as good: phone videos, say, cut into clips of one action each. There a hash of the name
decides, and one in ten is held out.
"""

# %%
SSV2 = {"train": 168_913, "validation": 24_777, "test": 27_157}  # clips; paper, Table V


def plain(template):
    """A template as `labels.json` writes it: without brackets."""
    return re.sub(r"[\[\]]", "", template)


told = {"id": "78687", "label": "pushing a cup from left to right", "placeholders": ["a cup"],
        "template": "Pushing [something] from left to right"}
{"train.json": [told], "test.json": [{"id": "1420"}], "labels.json": {plain(told["template"]): "93"}}

# %% [markdown]
r"""
## A renderer, and no physics

The stand-in comes from MuJoCo, a physics simulator, of which we use only the renderer. A world is a text in
MJCF, MuJoCo's XML. What moves in it is a *mocap* body (for motion capture): it stands where we put it, frame
by frame, and obeys no force. Lengths are metres. A process keeps its OpenGL contexts, one a size: on a CPU,
making one takes longer than a clip.
"""

# %%
@lru_cache
def gl_context(height, width):
    """This process's OpenGL context for frames of this size; kept, and freed at exit."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software OpenGL would start threads in every process
    pick_gl()
    import mujoco

    context = mujoco.gl_context.GLContext(width, height)
    atexit.register(context.free)
    return context


# %%
def render(xml, poses, joint, paint, height, width):
    """Render a world (MJCF): uint8 RGB (T, height, width, 3).

    `poses` {body: (positions (T, 3), rotations (T) or one)}, `joint` (T,), `paint` {surface: (64, 64, 3)}.
    """
    gl_context(height, width).make_current()
    import mujoco

    model = mujoco.MjModel.from_xml_string(xml)
    model.vis.global_.offheight, model.vis.global_.offwidth = height, width
    model.vis.quality.offsamples = 4 if height > 72 else 0  # against jagged edges, where there is time for it
    for name, picture in paint.items():
        start = model.tex_adr[model.texture(name).id]
        model.tex_data[start : start + picture.size] = picture.ravel()
    data, view = mujoco.MjData(model), mujoco.MjvScene(model, 300)
    screen = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, screen)
    camera, option = mujoco.MjvCamera(), mujoco.MjvOption()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    window = mujoco.MjrRect(0, 0, width, height)
    bodies = {}
    for name, (where, turn) in poses.items():
        quat = np.broadcast_to(turn.as_quat(scalar_first=True), (len(joint), 4))
        bodies[model.body(name).mocapid[0]] = where, quat
    frames = np.empty((len(joint), height, width, 3), np.uint8)
    for t, frame in enumerate(frames):
        data.qpos[:] = joint[t]
        for mocap, (where, quat) in bodies.items():
            data.mocap_pos[mocap], data.mocap_quat[mocap] = where[t], quat[t]
        mujoco.mj_kinematics(model, data)  # where everything is, without any physics
        mujoco.mj_camlight(model, data)
        mujoco.mjv_updateScene(model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, view)
        mujoco.mjr_render(window, view, screen)
        mujoco.mjr_readPixels(frame, None, window, screen)
    screen.free()
    return frames[:, ::-1]  # OpenGL's first row is the lowest


# %%
def text(*values):
    """Write numbers as MJCF wants them."""
    return " ".join(f"{v:.4f}" for v in np.concatenate([np.ravel(v) for v in values]))


def geom(kind, size, at, color):
    """A box or cylinder of half-sizes `size` at `at`."""
    return f'<geom type="{kind}" size="{text(size)}" pos="{text(at)}" rgba="{color} 1"/>'


def boxes(color, *rows):
    """Boxes of one colour, each row its half-sizes and its place (6,)."""
    return "".join(geom("box", row[:3], row[3:], color) for row in rows)


def rod(start, end, radius, color):
    """A capsule, a cylinder with round ends, between two points."""
    return f'<geom type="capsule" size="{radius:.4f}" fromto="{text(start, end)}" rgba="{color} 1"/>'


def mjcf(bodies, fixed, fovy=45.0, assets="", ambient=0.5, diffuse=0.4):
    """A world of mocap bodies {name: shapes}, a camera, and what is fixed; without shadows."""
    moving = "".join(f'<body name="{name}" mocap="true">{xml}</body>' for name, xml in bodies.items())
    return f"""<mujoco><statistic extent="1"/><visual><map znear="0.02" zfar="20"/>
      <quality shadowsize="0" numslices="14" numstacks="8" numquads="1"/>
      <headlight ambient="{text(np.full(3, ambient))}" diffuse="{text(np.full(3, diffuse))}"/></visual>
      <asset>{assets}</asset><worldbody>
      <body name="camera" mocap="true"><camera fovy="{fovy}"/></body>{fixed}{moving}</worldbody></mujoco>"""


# %% [markdown]
r"""
## One clip, from the inside out

A clip of the stand-in is a small **play** on a table with one rule, the one that makes SSv2 worth learning
from: *a thing moves only where a hand moves it*. We work in the frame of the *picture*: $x$ points to its
right, $y$ away from the camera, $z$ up, so that a label that says *left* is right by construction. A hand
reaches, acts and leaves, from rest to rest along about the path of least jerk (the third derivative):

$$ e(t) = 10t^3 - 15t^4 + 6t^5, \qquad 0 \le t \le 1 . $$
"""

# %%
def ease(t):
    """Minimum-jerk progress: 0 until t = 0, 1 from t = 1 on (Flash and Hogan, 1985)."""
    t = np.clip(t, 0, 1)
    return t**3 * (10 - 15 * t + 6 * t**2)


def draw_timing(rng):
    """Draw two to five seconds: progress from 0 to 1 of reach, act and leave (3, T)."""
    idle, reach, act, leave, rest = rng.uniform((0, 0.5, 0.8, 0.5, 0.0), (0.3, 1.2, 1.8, 1.0, 0.6))
    waits, there, stays = rng.random(3) < (0.5, 0.15, 0.35)  # idles first; is there at once; never leaves
    begin = idle * waits + reach * (not there)
    done = begin + act
    t = np.arange(round(np.clip(done + (0.2 if stays else leave) + rest, 2, 5) * FPS)) / FPS  # (T,)
    reached = np.maximum(ease((t - begin + reach) / reach), there)
    return np.stack([reached, ease((t - begin) / act), ease((t - done - 0.1) / leave) * (not stays)])


draw_timing(np.random.default_rng(0))[:, ::6].round(2)

# %% [markdown]
r"""
**Things.** Boxes, cans and cups are moved as a whole. Drawers and levers have a joint $q$, and a handle whose
place $h(q)$ follows from it: a drawer's moves along a line, a lever's on a circle. MuJoCo moves the part by
the same $q$, so the hand that is put at $h(q)$ stays on it. A lever has no *open* and *closed*: as with taps,
any angle may be the last, and a distance that wants to know how far a turn has come has to look at the goal.

**Hands.** The origin lies where the fingertips meet the thing, $x$ along the fingers and $z$ out of the back
of the hand, so that *placing the hand* means *saying where it touches*.
"""

# %%
class Thing(NamedTuple):
    """An object: shapes, radius of its foot, height; where a part moves, how far, and where to take it."""
    name: str
    xml: str
    radius: float
    height: float
    range: float = 0.0  # of the joint, metres or radians
    handle: Callable = None  # joint (T,) -> where the hand takes the part (T, 3), in the frame of the thing


def rgb(rng):
    """Draw a colour, from grey to gaudy: real kitchens are greyer than a random number generator."""
    color = rng.uniform(0.05, 1, 3)
    return text(color.mean() + (color - color.mean()) * rng.uniform(0, 1))


def small(rng):
    """Draw a box, a can or a cup."""
    kind, (r, h) = str(rng.choice(["box", "can", "cup"])), rng.uniform((0.035, 0.07), (0.075, 0.15))
    main, other = rgb(rng), rgb(rng)
    if kind == "box":
        x, y = r * rng.uniform(0.7, 1.5, 2)
        band, top = (x * 1.02, y * 1.02, h / 10, 0, 0, h * 0.7), (x / 2, y / 2, 0.001, 0, 0, h)
        return Thing(kind, boxes(main, (x, y, h / 2, 0, 0, h / 2)) + boxes(other, band, top), max(x, y), h)
    xml = geom("cylinder", (r, h / 2), (0, 0, h / 2), main)
    xml += geom("cylinder", (r * 1.03, h * rng.uniform(0.05, 0.3)), (0, 0, h / 2), other)
    xml += geom("cylinder", (r * 0.8, 0.002), (0, 0, h), other)
    if kind == "cup":
        loop = np.array([(1, 0, 0.8), (1.7, 0, 0.7), (1.7, 0, 0.3), (1, 0, 0.2)]) * [r, 1, h]
        xml += "".join(rod(a, b, r / 6, main) for a, b in zip(loop, loop[1:]))
    return Thing(kind, xml, r, h)


# %%
def drawer(rng):
    """A case with a drawer that slides out towards -y."""
    w, d, h = rng.uniform((0.07, 0.07, 0.03), (0.13, 0.12, 0.07))
    case, inner, front, knob = (rgb(rng) for _ in range(4))
    xml = boxes(case, (w, 0.006, h, 0, d, h), (w, d, 0.006, 0, 0, 0.006), (w, d, 0.006, 0, 0, 2 * h),
                (0.006, d, h, -w, 0, h), (0.006, d, h, w, 0, h))
    tray = boxes(front, (w * 0.94, 0.006, h * 0.9, 0, -d, h))
    tray += boxes(inner, (w * 0.9, d * 0.95, 0.006, 0, 0, 0.4 * h))
    tray += boxes(inner, *((0.006, d * 0.95, h / 2, x, 0, 0.8 * h) for x in (-w * 0.9, w * 0.9)))
    bar, y = rng.choice([0.05, 0.5]) * w, -d - 0.025
    tray += rod((-bar, y, h), (bar, y, h), 0.009, knob) + rod((0, -d, h), (0, y, h), 0.007, knob)
    handle = lambda q: np.stack([0 * q, -d - 0.03 - q, h + 0 * q], -1)
    xml += f'<body><joint type="slide" axis="0 -1 0"/>{tray}</body>'
    return Thing("drawer", xml, max(w, d), 2 * h, 1.5 * d, handle)


def lever(rng):
    """A post with a lever that turns about the vertical."""
    r, h, length = rng.uniform((0.015, 0.03, 0.07), (0.035, 0.1, 0.13))
    bar = geom("cylinder", (r * 1.1, 0.012), (0, 0, 0), rgb(rng))
    bar += rod((0, 0, 0.01), (0, -length, 0.01), rng.uniform(0.008, 0.018), rgb(rng))
    xml = geom("cylinder", (r, h / 2), (0, 0, h / 2), rgb(rng))
    xml += f'<body pos="0 0 {h + 0.01}"><joint type="hinge" axis="0 0 1"/>{bar}</body>'
    handle = lambda q: 0.9 * length * np.stack([np.sin(q), -np.cos(q), 0 * q], -1) + [0, 0, h + 0.015]
    return Thing("lever", xml, length, h + 0.03, rng.choice([-1.8, 1.8]), handle)


# %%
def hand(rng):
    """A left or right hand on a sleeved arm; fingers of two segments, both bent by the same angle."""
    s, bend, tone = rng.uniform((0.85, 0.1, 0.3), (1.25, 0.7, 1))
    skin = np.clip(np.array([0.95, 0.76, 0.62]) * tone + rng.normal(0, 0.03, 3), 0.05, 1)
    light, dark = text(skin), text(skin * 0.88)
    middle = s * 0.034 * np.array([-np.cos(2 * bend), 0, np.sin(2 * bend)])
    knuckle = middle + s * 0.042 * np.array([-np.cos(bend), 0, np.sin(bend)])
    palm, side = knuckle - [0.042 * s, 0, 0], np.array([0, 0.035 * s, 0]) * rng.choice([-1, 1])
    xml = geom("box", (0.042 * s, 0.034 * s, 0.011 * s), palm, light)
    xml += rod(palm + side, palm + 1.6 * side + [0.05 * s, 0, -0.01], 0.01 * s, light)  # the thumb
    for y, color in zip((-0.8, -0.27, 0.27, 0.8), (light, dark, light, dark)):
        for start, end in ((0, middle), (middle, knuckle)):
            xml += rod(start + y * side, end + y * side, 0.0085 * s, color)
    wrist, elbow = palm - [s * rng.uniform(0.1, 0.3), 0, 0], palm - [rng.uniform(0.5, 1), 0, 0]
    cloth, radius = rgb(rng), s * rng.uniform(0.03, 0.045)
    xml += rod(palm - [0.04 * s, 0, 0], wrist, 0.024 * s, dark) + rod(wrist, elbow, radius, cloth)
    return xml + rod(elbow, elbow + [-0.7, *rng.normal(0, 0.3, 2)], radius * 1.3, cloth)


# %% [markdown]
r"""
**Actions.** An action gets the progress of the act $u$ `(T,)` and returns a `Play`: the thing, its pose, and
where the fingertips are while they touch. So *the thing's pose and the hand's place are two functions of one
$u$*, and cannot come apart; and as $u = 0$ before the act, a thing stays put until it is touched.

With `real=False` the hand moves above or beside the thing, whose $u$ stays 0. There, and where the hand
comes, acts and *leaves*, a network that looks only at the hand cannot tell late from early. For the same
reason things are opened as often as closed.
"""

# %%
class Play(NamedTuple):
    """What happens between a hand and a thing; paths in metres, in the frame of the picture."""
    thing: Thing
    where: np.ndarray  # position of the thing (T, 3)
    turn: float  # its angle about the vertical, radians
    joint: np.ndarray  # (T,)
    touch: np.ndarray  # where the fingertips are during the act (T, 3)
    stand: np.ndarray = None  # direction from the touch to where the arm comes from (3,); None: anywhere
    held: tuple = (False, False)  # in the air at the beginning, at the end? Then the hand is there


UP = np.array([0.0, 0, 1])
SURFACES = ("table", "floor", "wall")
CONTROLS = ("failed", "still")


def spun(angle, points):
    """Turn points (..., 3) about the vertical by `angle` radians."""
    return Rotation.from_euler("Z", angle).apply(points)


def push(rng, u, degrees):
    """Push a thing from behind, along a direction of the picture."""
    thing, way = small(rng), spun(np.radians(degrees) + rng.uniform(-0.3, 0.3), [1.0, 0, 0])
    path = np.outer(u - 0.5, way * rng.uniform(0.12, 0.3))
    touch = path - way * thing.radius + UP * (thing.height * rng.uniform(0.3, 0.8))
    return Play(thing, path, rng.uniform(-np.pi, np.pi), 0 * u, touch, -way)


def lift(rng, u, up=True, real=True):
    """Lift a thing up, or put it down; unreal: an empty hand goes up."""
    thing, turn = small(rng), rng.uniform(-np.pi, np.pi)
    top = spun(turn, [rng.uniform(0, 0.12), 0, rng.uniform(0.1, 0.25)])
    path = np.outer(u if up else 1 - u, top)
    touch = path + UP * (thing.height * rng.uniform(0.7, 1) + 0.03 * (not real))
    return Play(thing, path * real, turn, 0 * u, touch, held=(not up, up and real))


def operate(rng, u, maker=drawer, opening=True, real=True):
    """Open or close a drawer, or turn a lever: the hand comes from the front, and follows the handle."""
    thing, turn = maker(rng), rng.normal(0, 0.8)
    first, last = rng.uniform((0, 0.6), (0.1, 1))[:: 1 if opening else -1] * thing.range
    front = spun(turn, [0, -1.0, 0])
    touch = spun(turn, thing.handle(first + (last - first) * u)) + (not real) * 0.035 * front
    return Play(thing, 0 * touch, turn, first + (last - first) * u * real, touch, front)


# %%
ACTIONS = [  # in SSv2's words; to add one, write a function like those above and a line here
    ("Pushing [something] from left to right", partial(push, degrees=0)),
    ("Pushing [something] from right to left", partial(push, degrees=180)),
    ("Moving [something] towards the camera", partial(push, degrees=270)),
    ("Moving [something] away from the camera", partial(push, degrees=90)),
    ("Lifting [something] up completely without letting it drop down", lift),
    ("Putting [something] on a surface", partial(lift, up=False)),
    ("Opening [something]", operate),
    ("Closing [something]", partial(operate, opening=False)),
    ("Moving [part] of [something]", partial(operate, maker=lever)),
    ("Twisting [something]", partial(operate, maker=lever, opening=False)),
    ("Pretending to pick [something] up", partial(lift, real=False)),
    ("Pretending to open [something] without actually opening it", partial(operate, real=False)),
]

# %% [markdown]
r"""
## Clip number i

All chance comes from one generator, seeded by the pair (seed, index). So clips can be made in any order, by
any number of processes, and come out the same. A clip's split follows from its id alone.

The camera looks down on a ball of radius $r$ around the action. With a field of view $\varphi$ the ball just
fits into the picture at about the distance $r / \tan(\varphi / 2)$; we stand 0.9 to 1.5 times as far away,
one in four twice that far. Most cameras drift and tremble. The arm comes from behind what it pushes, from the
front of what it opens, or steeply from above, and not straight out of the camera. Textures, one colour
with random blotches or grain, are there to be *not* relied on.

**Controls.** A distance that falls along good clips may have learned no more than *time passes*. So some
validation clips get two counterparts with the same world, arm and camera: in a **failed** one the hand takes
the thing part way and back; in a **still** one at most the camera moves. They make a split of their own,
`controls`, which no training reads; `04_eval_human.py` does.
"""

# %%
def draw_camera(rng, points, steps):
    """Draw field of view (degrees), positions (T, 3), rotations (T) of a camera that sees `points` (N, 3)."""
    low, high = points.min(0), points.max(0)
    fovy, down = rng.uniform((30, 0.3), (60, 1.3))
    far = np.linalg.norm(high - low) / 2 / np.tan(np.radians(fovy / 2))
    far = far * rng.uniform(0.9, 1.5) * rng.choice([1, 1, 1, 2])  # some look on from a distance
    tremble, pan = np.cumsum(rng.normal(0, 0.003, (steps, 3)), 0), rng.normal(0, 0.03, 3)
    drift = (tremble + np.outer(np.linspace(0, 1, steps), pan)) * far * (rng.random() < 0.7)  # or a tripod
    base = Rotation.from_euler("ZX", [rng.normal(0, 0.12), np.pi / 2 - down])
    eye = (low + high) / 2 + rng.normal(0, 0.05, 3) * far * [1, 1, 0.5] + far * base.apply(UP)
    shake = Rotation.from_rotvec(drift * rng.uniform(0, 1))
    return fovy, eye + drift, base * Rotation.from_euler("Z", rng.normal(0, 0.06)) * shake


def draw_arm(rng, play, reach, leave, view):
    """Draw the fingertips' path (T, 3) and the hand's rotation: from home to the touch, with it, and away."""
    for _ in range(20):
        steep = play.stand is None or rng.random() < 0.35
        yaw, pitch = rng.uniform(-np.pi, np.pi), rng.uniform(0.7, 1.5) if steep else rng.uniform(0.1, 0.7)
        if play.stand is not None and pitch < 1.1:
            yaw = np.arctan2(-play.stand[1], -play.stand[0]) + rng.uniform(-0.9, 0.9)
        turn = Rotation.from_euler("ZYX", [yaw, pitch, rng.uniform(-0.5, 0.5)])
        back = turn.apply([-1, 0, 0])
        if back @ view < 0.75:  # the arm does not come out of the camera
            break
    home, away = (back * rng.uniform(0.06, 0.45) + rng.normal(0, 0.05, 3) + UP * 0.06 for _ in range(2))
    path = play.touch + np.outer(1 - reach, home) + np.outer(leave, away)
    path[:, 2] = np.maximum(path[:, 2], 0.012)  # not through the table
    return path, turn


# %%
def noise(rng):
    """Draw a random texture (64, 64, 3), uint8: blotches, tiles, stripes or grain around one colour."""
    rows, columns = rng.choice([2, 4, 8, 32, 64], 2)
    coarse = rng.normal(0, rng.uniform(0.02, 0.25), (rows, columns, rng.choice([1, 3])))
    pattern = zoom(coarse, (64 / rows, 64 / columns, 1), order=rng.integers(2))  # (64, 64, 1 or 3)
    return (255 * np.clip(np.array(rgb(rng).split(), float) + pattern, 0, 1)).astype(np.uint8)


def world(rng, thing, points, fovy):
    """Write the scene of a play as MJCF: a hand, the thing, clutter beside and behind `points` (N, 3)."""
    table, far = rng.uniform(0.35, 1.5, 2), rng.choice([0.8, 1.5, 9])
    fixed = f'<geom type="box" size="{text(table)} 0.02" pos="0 0 -0.02" material="table"/>'
    fixed += '<geom type="plane" size="4 4 0.1" pos="0 0 -0.7" material="floor"/>'
    fixed += f'<geom type="box" size="4 0.02 2" pos="0 {far} 0" material="wall"/>'
    for _ in range(rng.integers(1, 3)):
        light, way = rng.uniform(0.2, 0.7) * rng.uniform(0.7, 1, 3), (*rng.normal(0, 0.6, 2), -1)
        fixed += f'<light directional="true" dir="{text(way)}" diffuse="{text(light)}" castshadow="false"/>'
    for _ in range(rng.integers(0, 5)):
        far = (np.ptp(points[:, :2], 0).max() / 2 + 0.1) * rng.uniform(1, 2)
        place = points.mean(0) + spun(rng.uniform(-0.4, np.pi + 0.4), [far, 0, 0])
        fixed += f'<body pos="{text(place[:2])} 0">{small(rng).xml}</body>'
    assets = f'<texture type="skybox" builtin="gradient" width="32" rgb1="{rgb(rng)}" rgb2="{rgb(rng)}"/>'
    for name in SURFACES:
        assets += f'<texture name="{name}" type="2d" builtin="flat" width="64" height="64"/>'
        assets += f'<material name="{name}" texture="{name}" texrepeat="{text(rng.uniform(1, 8, 2))}"/>'
    ambient, diffuse = rng.uniform((0.15, 0), (0.45, 0.4))
    return mjcf({"hand": hand(rng), "thing": thing.xml}, fixed, fovy, assets, ambient, diffuse)


# %%
def draw_play(seed, index, control=None):
    """The first draws of clip `index`, or a control of it: (generator for more, timing (3, T), play)."""
    rng = np.random.default_rng([seed, index])
    reach, act, leave = draw_timing(rng)
    if control == "failed":
        act = 0.6 * np.sin(np.pi * act)  # part way and back
    play = ACTIONS[index % len(ACTIONS)][1](rng, act)
    first, last = play.held[0], play.held[0 if control == "failed" else 1]
    time = np.stack([np.maximum(reach, first), act, leave * (not last)])
    if control == "still":
        stop = lambda x: x[:1] + 0 * x
        play = play._replace(where=stop(play.where), joint=stop(play.joint), touch=stop(play.touch))
        time = time[:, :1] + 0 * time
    return rng, time, play


def compose(seed, index, control=None):
    """Draw clip `index`, or a control of it: the first four arguments of `render`."""
    rng, _, play = draw_play(seed, index)
    _, (reach, act, leave), shown = draw_play(seed, index, control)
    r, h = play.thing.radius, play.thing.height
    corners = np.array([[-r, -r, 0], [r, r, 0], [0, 0, h]])
    points = np.concatenate([play.where[0] + corners, play.where[-1] + corners, play.touch])  # (N, 3)
    fovy, eye, gaze = draw_camera(rng, points, len(act))
    poses = {"camera": (eye, gaze), "hand": draw_arm(rng, shown, reach, leave, gaze[0].apply(UP)),
             "thing": (shown.where, Rotation.from_euler("Z", play.turn))}
    paint = {name: noise(rng) for name in SURFACES}
    return world(rng, play.thing, points, fovy), poses, shown.joint, paint


# %%
def gallery(pictures, columns, inches=9.5):
    """Pictures {title: (H, W, 3)} in rows of `columns`. Returns a figure."""
    H, W = next(iter(pictures.values())).shape[:2]
    rows, height = -(-len(pictures) // columns), inches / columns * H / W + 0.2
    figure, axes = plt.subplots(rows, columns, figsize=(inches, rows * height), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items()):
        axis.imshow(picture)
        axis.set_title(title, fontsize=7, loc="left", pad=2)
    return figure


if __name__ == "__main__" and not config.check:
    pictures = {}
    for i, (template, _) in enumerate(ACTIONS):
        frames = render(*compose(config.seed, i), 96, 128)
        pictures[template[:30]] = frames[len(frames) // 2]
    show(gallery(pictures, 6), f"{folder}/figures/ingredients.png")

# %%
def clip_id(index, control=None):
    """A number like SSv2's, as a string; 7919 is prime and no divisor of 220,847, so no two are alike."""
    number = 1 + 7919 * (index + 1) % 220_847
    return str(number + 1_000_000 * (CONTROLS.index(control) + 1 if control else 0))


def split_of(index):
    """The split of clip `index`, by a hash of its id."""
    share = int(hashlib.sha1(clip_id(index).encode()).hexdigest(), 16) % 100
    return "train" if share < 85 else "validation" if share < 95 else "test"


def list_controls(config):
    """The (index, control) of all controls: of the first validation clips in which something happens."""
    acted = [i for i in range(config.clips) if split_of(i) == "validation"
             and not ACTIONS[i % len(ACTIONS)][0].startswith("Pretending")]
    return [(index, control) for index in acted[: config.controls] for control in CONTROLS]


def entry(seed, index):
    """What SSv2's label files say about clip `index`."""
    template = ACTIONS[index % len(ACTIONS)][0]
    names = ["part"] * ("[part]" in template) + [draw_play(seed, index)[2].thing.name]
    label = re.sub(r"\[\w+\]", "{}", template).format(*names).lower()
    return {"id": clip_id(index), "label": label, "template": template, "placeholders": names}


entry(0, 8)

# %%
def write_labels(config):
    """Write SSv2's label files, and one of the same form for the controls; `labels.json` last."""
    files = {split: [] for split in SSV2}
    for index in range(config.clips):
        split = split_of(index)
        files[split].append({"id": clip_id(index)} if split == "test" else entry(config.seed, index))
    own = lambda i, control: {"id": clip_id(i, control), "control": control, "of": clip_id(i)}
    files["controls"] = [entry(config.seed, i) | own(i, control) for i, control in list_controls(config)]
    files["labels"] = {plain(template): str(k) for k, (template, _) in enumerate(ACTIONS)}
    for name, content in files.items():
        with write_whole(Path(config.out, "labels", f"{name}.json")) as draft:
            draft.write_text(json.dumps(content))


def clip_path(config, index, control=None):
    """Where clip `index` or a control of it lies."""
    return Path(config.out, "20bn-something-something-v2", f"{clip_id(index, control)}.webm")


def write_clip(config, index, control=None):
    """Render clip `index` and write it as VP9, compressed more or less; one task of a worker process."""
    frames = render(*compose(config.seed, index, control), config.height, config.width)
    write_video(clip_path(config, index, control), frames, FPS, crf=20 + 7 * index % 25)


def make_clips(config):
    """Write every clip that is missing, and the labels."""
    wanted = [(i, None) for i in range(config.clips)] + list_controls(config)
    missing = [job for job in wanted if not clip_path(config, *job).is_file()]
    workers = config.workers or min(os.cpu_count(), len(missing) // 50)  # a process takes seconds to start
    if min(workers, len(missing)) < 2 or not hasattr(sys.modules["__main__"], "__file__"):  # or in a notebook
        for job in tqdm(missing, "clips", disable=not missing):
            write_clip(config, *job)
    else:
        spawn = multiprocessing.get_context("spawn")
        deaf = signal.SIGINT, signal.SIG_IGN  # Ctrl-C is for this process; others finish the clip they are at
        with ProcessPoolExecutor(workers, spawn, signal.signal, deaf) as pool:
            list(tqdm(pool.map(partial(write_clip, config), *zip(*missing)), "clips", len(missing)))
    write_labels(config)


# %% [markdown]
r"""
## Demonstrations for a robot

One baseline (TCN, in 06) needs more than a goal picture: a video of *somebody doing the robot's task*, step
by step in the robot's time. Here are three for each of two tasks, with the robot tasks' places, sizes,
colours, cameras and flips (`mirror`). The fingertips go through a few points, at rest in each, and take the
thing along on the last way, by at most 2 cm (cup) or 1 cm (drawer) a step, as the robot can.
"""

# %%
STAGES = {"pushing": {  # a red cup and a black square on a grey table
    "fixed": boxes("0.62 0.62 0.62", (0.4, 0.4, 0.01, 0, 0.6, -0.01))
    + boxes("0.1 0.1 0.1", (0.04, 0.04, 0.001, 0, 0.75, 0.001)),
    "moved": geom("cylinder", (0.0254, 0.0307), (0, 0, 0.0307), "1 0.1 0.1")
    + geom("cylinder", (0.02, 0.001), (0, 0, 0.061), "0.5 0 0"),
    "camera": (270, -60, 0.45), "lookat": (0, 0.85, 0.45), "mirror": np.s_[:, :, ::-1], "fps": 10,
}, "drawer_open": {  # a red drawer with a black handle in a blue cover
    "fixed": boxes("0.8 0.72 0.52", (0.4, 0.4, 0.01, 0, 0.6, -0.01))
    + boxes("0.33 0.28 0.5", (0.105, 0.105, 0.001, 0, 0.9, 0.22), (0.105, 0.001, 0.1, 0, 1.005, 0.122),
            (0.001, 0.105, 0.1, -0.106, 0.9, 0.122), (0.001, 0.105, 0.1, 0.105, 0.9, 0.122)),
    "moved": boxes("0.95 0.28 0.18", (0.1, 0.1, 0.001, 0, 0, 0.005), (0.1, 0.001, 0.05, 0, -0.1, 0.054),
                   (0.1, 0.001, 0.05, 0, 0.1, 0.054), (0.001, 0.1, 0.05, -0.1, 0, 0.054),
                   (0.001, 0.1, 0.05, 0.1, 0, 0.054))
    + boxes("0.02 0.02 0.02", (0.05, 0.005, 0.02, 0, -0.2, 0.05), (0.005, 0.05, 0.02, -0.045, -0.15, 0.05),
            (0.005, 0.05, 0.02, 0.045, -0.15, 0.05)),
    "camera": (-30, -135, 0.5), "lookat": (0, 0.6, 0.2), "mirror": np.s_[:, ::-1], "fps": 80}}

# %%
def demonstrate(task, rng):
    """Draw paths of the fingertips and of the thing (T, 3), metres."""
    if task == "pushing":  # behind the cup, and on to the square
        home, goal = np.array([rng.uniform(-0.08, 0.08), 0.6, 0]), np.array([0, 0.75, 0])
        grip = home + (0, 0, 0.03) - 0.028 * (goal - home) / np.linalg.norm(goal - home)
        points, steps = [(rng.uniform(-0.05, 0.05), 0.32, 0.07), grip, grip + goal - home], (34, 24)
    else:  # over the drawer's handle, down behind its bar, and pull
        home, grip = np.array([0, 0.9, 0.04]), np.array([0, 0.69, 0.085])
        points = [(rng.normal(0, 0.02), 0.5, 0.25), grip + (0, 0, 0.09), grip, grip - (0, 0.2, 0)]
        steps = 60, 25, 50
    points, steps = np.array(points), np.round(np.array(steps) / rng.uniform(0.75, 1.3)).astype(int)
    ways = [a + np.outer(ease(np.arange(n) / n), b - a) for a, b, n in zip(points, points[1:], steps)]
    tip = np.concatenate([*ways, points[-1:]])
    return tip, home + (tip - grip) * (np.arange(len(tip)) >= steps[:-1].sum())[:, None]


def demonstration(task, seed, size=64):
    """Render one demonstration of a task: uint8 (T, size, size, 3)."""
    rng, stage = np.random.default_rng([seed, 7]), STAGES[task]
    tip, path = demonstrate(task, rng)
    azimuth, elevation, distance = stage["camera"]  # MuJoCo's free camera
    gaze = Rotation.from_euler("ZX", [azimuth - 90, elevation + 90], degrees=True)
    eye = stage["lookat"] + rng.normal(0, 0.006, 3) + distance * gaze.apply(UP)
    x, y = path[-1, :2] - path[0, :2] if task == "pushing" else (0, 1)
    turn = Rotation.from_euler("ZY", [np.arctan2(y, x) + rng.normal(0, 0.1), rng.uniform(0.5, 0.8)])
    poses = {"camera": (eye + 0 * tip, gaze), "hand": (tip, turn), "thing": (path, Rotation.identity())}
    floor = boxes("0.58 0.57 0.55", (9, 9, 0.1, 0, 0, -1.1))
    xml = mjcf({"thing": stage["moved"], "hand": hand(rng)}, stage["fixed"] + floor)
    return render(xml, poses, np.zeros(len(tip)), {}, size, size)[stage["mirror"]]


def make_demonstrations(config):
    """Write `demonstrations/<task>/<k>.webm`, three each, one frame for one control step of the robot."""
    for task, k in ((task, k) for task in STAGES for k in range(3)):
        path = Path(config.out, "demonstrations", task, f"{k}.webm")
        if not path.is_file():
            write_video(path, demonstration(task, config.seed + k), STAGES[task]["fps"], 20)


# %% [markdown]
r"""
## Reading, and checking

In `common.py`, `find_clips` lists the files of a split, `read_clip` decodes one, upright however the phone
was held, and `ClipSet` is a split as a network wants it: item $i$ is a clip, kept in memory while there is
room. Real folders have bad files. One that is met in training is named and another takes its place; better to
know before: `check` decodes every file once and lists in `bad.csv` what training is to leave out.

Has anybody shown the robot's task? The paper's Table V picks for each task the closest template $a$ and the
closest object $o$, and counts the clips that have $a$, that have $o$, and that have both. We take the object
from the placeholders, without its article: a *bottle cap* is no *cap* (our rule).
"""

# %%
def find_videos(folder):
    """All videos below a folder, sorted."""
    found = Path(folder).rglob("*")
    return sorted(p for p in found if p.suffix.lower() in VIDEO_SUFFIXES and p.name[0] != ".")


def check(folder):
    """Decode every video below a folder; write those that cannot be used to its `bad.csv`: path, reason."""
    def fault(path):
        try:
            return "" if len(read_clip(path, 16)[0]) > 1 else "has a single frame"
        except UserError as error:
            return str(error).removeprefix(f"{path} ")

    if not Path(folder).is_dir():
        raise UserError(f"there is no folder {folder} to check")
    videos, rows = find_videos(folder), []
    with ThreadPool() as pool:
        for video, reason in zip(videos, tqdm(pool.imap(fault, videos), "decoding", len(videos))):
            if reason:
                rows.append({"path": video.relative_to(folder).as_posix(), "reason": reason})
    table = Path(folder, "bad.csv")
    table.unlink(missing_ok=True)
    if rows:
        write_csv(table, rows)
    print(f"{len(rows):,} of {len(videos):,} videos cannot be used" + f", see {table}" * bool(rows))


def check_labels(folder):
    """Print how many clips each split lists, and how many of them are there. Returns {split: entries}."""
    stems, listed = {p.stem for p in find_videos(folder)}, {}
    for split in (*SSV2, "controls"):
        listed[split] = []
        try:
            listed[split] = read_labels(folder, split) or []
        except UserError as error:
            print(error)
        there = sum(e["id"] in stems for e in listed[split])
        print(f"{split}: {there:,} of {len(listed[split]):,} listed clips are there")
    return listed


# %%
TABLE_V = {  # robot task: closest action, closest object; clips of SSv2 with the action, the object, both
    "pushing": ("Moving something towards the camera", "cap", (927, 611, 3)),
    "drawer open": ("Opening something", "drawer", (1585, 619, 67)),
    "close drawer": ("Closing something", "drawer", (1296, 619, 62)),
    "cup forward": ("Moving something away from the camera", "mug", (937, 951, 4)),
    "faucet right": ("Pushing something from left to right", "faucet", (3199, 28, 0)),
}


def coverage(listed):
    """Count the entries closest to each robot task (paper, App. E): {task: (with a, with o, with both)}."""
    bare = lambda name: re.sub("^(an?|the) ", "", name.strip().lower())
    counts = {}
    for task, (action, thing, _) in TABLE_V.items():
        a = {e["id"] for e in listed if plain(e.get("template", "")) == action}
        o = {e["id"] for e in listed if thing in map(bare, e.get("placeholders", ()))}
        counts[task] = len(a), len(o), len(a & o)
    return counts


# %%
if __name__ == "__main__":
    if config.check:
        check(folder)
    else:
        make_demonstrations(config)
        make_clips(config)
    listed = check_labels(folder)
    print("| robot task | action a | object o | a | o | both | SSv2: a | o | both |\n" + "|---" * 9 + "|")
    for task, counts in coverage(listed["train"] + listed["validation"]).items():
        action, thing, paper = TABLE_V[task]
        print("|", " | ".join(map(str, (task, action, thing, *counts, *paper))), "|")

# %%
if __name__ == "__main__":
    told = {e["id"]: f"{e.get('label')} {e.get('control', '')}" for e in listed["train"] + listed["controls"]}
    paths = [*ClipSet(folder, "train", 96, 3).paths, *sorted(Path(folder, "demonstrations").glob("*/0.webm"))]
    if listed["controls"]:
        paths += find_clips(folder, "controls")[:2]
    rows = {}
    for path in paths:
        frames, _ = read_clip(path, 96)
        shown = frames[np.linspace(0, len(frames) - 1, 8).round().astype(int)]
        rows[f"{path.relative_to(folder)}: {told.get(path.stem, '')}"] = np.concatenate(list(shown), 1)
    show(gallery(rows, 1), f"{folder}/figures/clips.png")

# %% [markdown]
r"""
## What the two models see

**HOLD-R** gets a moment $s$ with the two frames before it, a later moment $g$, and learns how many frames lie
between. **HOLD-C** gets 32 frames in a row. Take any as anchor (black): those up to two away are positives
(green), three and four nothing (grey), the rest negatives (red). Shorter clips start again.
"""

# %%
def tiled(frames, colors, columns):
    """Frames (N, H, W, 3) with borders of these colours, in rows of `columns`: one picture."""
    H, W = frames.shape[1:3]
    paint = 255 * np.array([to_rgb(color) for color in colors])[:, None, None]  # (N, 1, 1, 3)
    tiles = np.broadcast_to(paint, (len(frames), H + 6, W + 6, 3)).astype(np.uint8)
    tiles[:, 3:-3, 3:-3] = frames
    rows = tiles.reshape(-1, columns, H + 6, W + 6, 3)
    return np.concatenate([np.concatenate([*row], 1) for row in rows])


if __name__ == "__main__":
    clips = ClipSet(folder, "train", 96, 2)
    pairs, windows = {}, {}
    apart = np.abs(np.arange(32) - 16)
    colors = np.where(apart == 0, "black", np.where(apart <= 2, "lime", np.where(apart > 4, "red", "gray")))
    for path, (frames, fps) in zip(clips.paths, clips):
        s, g = len(frames) // 3, 2 * len(frames) // 3
        pair, window = frames[np.maximum([s - 2, s - 1, s, g], 0)], frames[np.arange(32) % len(frames)]
        pairs[f"HOLD-R, {path.name}: g - s = {g - s}"] = tiled(pair, "gray gray black blue".split(), 4)
        windows[f"HOLD-C, {path.name}: {len(frames)} frames, {fps:.3g} a second"] = tiled(window, colors, 8)
    show(gallery(windows | pairs, 2), f"{folder}/figures/models.png")

# %% [markdown]
r"""
## Augmentation

**All frames of an example share every draw**: a clip whose frames are changed one by one would show changes
that never happened. At 256 pixels, the authors' code has four:

1. Resize to a short side of 288, and stretch height and width by two independent factors from $U(0.9, 1.33)$.
2. Crop 256 x 256 at random.
3. Flip left-right half of the time. A push to the left becomes one to the right: without labels, fine.
4. RandAugment: two of twelve operations in turn, at magnitude 20 on a scale to 10; none moves anything.
   Colour, contrast, brightness and sharpness are multiplied by $1.8 \cdot 20 / 10 + 0.1 = 3.7$;
   *posterize* and *solarize* reach their end and do nothing.

The frames are treated as one tall picture, so that *equalize* and *contrast* look at the whole clip, as in
the authors' code. There contrast spreads colours about white, as it takes the number of pixels for the mean;
here about the mean grey. `light` augmentation, our default, has a mild colour jitter for step 4, its
contrast about the mean of each frame.
"""

# %%
if __name__ == "__main__":
    frames = torch.from_numpy(clips[0][0][[0, -1]]).permute(0, 3, 1, 2)  # (2, 3, H, W)
    for kind in ("paper", "light"):
        steps = augment_steps(frames, 96, kind, np.random.default_rng(config.seed + 2))
        pictures = {}
        for name, clip in steps:
            pictures[f"{kind} {len(pictures) + 1}: {name}"] = torch.cat([*clip], 1).permute(1, 2, 0)
        show(gallery(pictures, 5), f"{folder}/figures/augment_{kind}.png")
    pictures = {name: change(frames[1]).permute(1, 2, 0) for name, change in RANDAUGMENT.items() if change}
    show(gallery(pictures, 5), f"{folder}/figures/randaugment.png")

# %%
still = torch.randint(256, (1, 3, 40, 56), dtype=torch.uint8).expand(4, -1, -1, -1)
changed = augment(still, 32, "light", np.random.default_rng(0))
assert (changed == changed[:1]).all()  # what does not move still does not move
changed.shape

# %% [markdown]
r"""
## What was learned

* SSv2 is a folder of short clips and four JSONs; HOLD reads frames and their times, no more.
* Real folders have bad files: decode all of them once, before a training of days.
* Hardly anybody in SSv2 has done what the robot is to do. What transfers is *change*, not the task.
* In the stand-in nothing is soft or wet, and nobody makes a mistake. A number measured on it tells whether a
  *method* works, not how well a robot would do with SSv2.

**Exercises**

1. Make `--clips 100 --out data/few`, and train 03 with `--data data/few --out runs/few`. *Expect* 05's
   `--look` to find it as good as with 1,000 clips: in a training of minutes it is not clips that lack.
2. In `RANDAUGMENT` of `common.py`, let contrast spread about white: `(255 - 3.7 * (255 - x.float())).clamp(0)
   .byte()`. *Expect* black wherever a colour was below 187, in `figures/randaugment.png`.
3. In `augment` of `common.py`, which 02 and 03 call, change each frame by itself: `clip = torch.cat([list(
   augment_steps(f[None], size, kind, rng))[-1][1] for f in clip])`. *Expect* the assertion above to fail.
"""
