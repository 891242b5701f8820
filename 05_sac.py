# %% [markdown]
r"""
# A robot policy from a learned distance

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023, section III-B
and IV.

A distance $d(s, g)$ between pictures, learned from videos of people, becomes the reward of a robot: the closer the
camera picture comes to a goal picture, the better. This file builds the paper's five tasks of a simulated Sawyer arm,
the reward, and soft actor-critic (SAC), and trains a policy from pixels.

**Takes** a distance file (`runs/hold_c/distance.pt2`, made by 03; made now if it is missing). **Writes**
`runs/sac/...`: curves as CSV, a figure, the policy, and a film of it.

```
python 05_sac.py                               # about 6 minutes on two cores, 12 with clips and distance
python 05_sac.py --task faucet_right --seeds 3 # three agents side by side
python 05_sac.py --task pushing --batch 256 --steps 24_000   # the paper's main task wants its batch: 40 minutes
python 05_sac.py --task drawer_open --batch 256 --steps 24_000   # two goal pictures: 45 minutes
python 05_sac.py --look                        # what does the distance say of good, failed and random tries?
python 05_sac.py --look --no-figures --distances runs/*/distance.pt2 --tasks pushing faucet_right
python 05_sac.py --benchmark                   # milliseconds per step, picture, distance and update
python 05_sac.py --plot "runs/sac/*/curve.csv" # compare runs: curves, table, how many times faster
python 05_sac.py --preset paper --task pushing # the paper's network, batch and steps
```

Expect the drawer shut from some 4,000 steps on: success 1.00, return 50 to 55 of 60 (random play: success in one
episode of four).
"""

# %%
import atexit
import contextlib
import copy
import glob
import importlib.util
import itertools
import json
import math
import os
import re
import signal
import time
import xml.etree.ElementTree as ET
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from scipy.stats import spearmanr, trim_mean
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

try:
    import fcntl  # file locks; Windows has none of this kind
except ImportError:
    fcntl = None

from common import (UserError, load_checkpoint, load_distance, parse_config, pick_device, pick_gl, plot_style, read_clip,
                    read_csv, run_script, save_checkpoint, write_csv, write_video, write_whole)

# %%
@dataclass
class Config:
    """SAC on a Sawyer task with the learned distance as reward. Without any flag: the main job, all the way."""

    task: Literal["pushing", "drawer_open", "close_drawer", "cup_forward", "faucet_right"] = "close_drawer"  # which
    distance: str = "runs/hold_c/distance.pt2"  # distance file; "none": sparse reward alone; "oracle": the programmer's dense reward
    goals: str = ""  # a film whose frame t is the goal at step t, as TCN wants; by default the task's goal pictures
    sparse_weight: float = 1.0  # weight of the environment's sparse reward; 0 learns from pictures alone
    scale: float = 0.0  # T; 0 computes it so that the start scores -1/3 (paper App. C)
    scale_factor: float = 1.0  # multiplies the T that is computed (paper Fig. 6a)
    form: Literal["cumulative", "instantaneous", "printed", "potential"] = "cumulative"  # of the distance reward
    stage_cost: float = 0.0  # of each later goal, as a share of T (authors' code: 0.2); 0 takes the distance from goal to goal
    quality: Literal["fast", "faithful"] = "fast"  # fast draws no shadows and smooths no edges
    height: int = 48  # rows of the picture, width follows from the task; 0 takes the original's size
    steps: int = 10_000  # environment steps
    random_steps: int = 1000  # first steps with uniform random actions (paper Table III), 0 for none
    update_every: int = 1  # environment steps per gradient step (paper Table III: 1)
    batch: int = 64  # paper Table III: 256
    lr: float = 1e-3  # Adam; paper Table III: 3e-4
    temperature: float = 0.1  # initial alpha; authors' code: 1
    encoder: Literal["strided", "paper"] = "strided"  # see make_encoder
    gamma: float = 0.95  # discount; paper Table III: 0.99
    tau: float = 0.005  # share of the fast weights in each update of the target (authors' code)
    shift_per_image: bool = True  # one random shift per picture; authors' code: one per batch
    bootstrap_truncation: bool = True  # the time limit is not terminal; authors' code: it is
    replay: int = 1_000_000  # pictures kept at most; authors' code: all of the run
    eval_every: int = 1000  # steps between two evaluations
    eval_episodes: int = 20  # paper section IV-B
    checkpoint_minutes: float = 3.0  # at most so much is lost
    resume: bool = True  # go on from the checkpoints in --out, if there are any; --no-resume starts anew
    seed: int = 0  # of weights, exploration, batches and resets
    seeds: int = 1  # agents trained side by side, from `seed` on; each learns what it would learn alone
    out: str = ""  # run folder; by default runs/sac/<task>-<reward>-seed<seed>
    device: str = "auto"  # cuda, mps or cpu
    compile: bool = False  # compile the losses; meant for GPUs, see compile_losses
    look: bool = False  # score and draw distances along good, failed and random tries, and stop
    distances: tuple[str, ...] = ()  # of --look: distance files; by default --distance and all in runs/*/
    tasks: tuple[str, ...] = ()  # of --look; by default all five
    figures: bool = True  # of --look; --no-figures writes scores.csv alone
    benchmark: bool = False  # time simulation, rendering and training, and stop
    plot: tuple[str, ...] = ()  # patterns like "runs/sac/*/curve.csv": compare these curves, beside them or in --out, and stop
    column: Literal["return", "success", "train_return", "train_success"] = "success"  # of --plot
    threshold: float = 0.9  # of --plot: the level that counts as learned
    pool: str = ""  # of --plot: strike what this regular expression matches out of the kinds' names, for strata of one kind

    @classmethod
    def paper(cls):
        """Table III and the released network, on the original picture size."""
        return cls(height=0, batch=256, lr=3e-4, gamma=0.99, temperature=1.0, encoder="paper", shift_per_image=False,
                   bootstrap_truncation=False, stage_cost=0.2, steps=400_000, eval_every=1000)

    @classmethod
    def smoke(cls):
        """Real updates in seconds."""
        return cls(distance="runs/smoke/hold_c/distance.pt2", out="runs/smoke/sac", height=32, steps=180,
                   random_steps=60, batch=8, eval_every=120, eval_episodes=1)


# %% [markdown]
r"""
## Five tasks

| task | actions | episode | success, tested after every step | starts at | random play succeeds |
|---|---|---|---|---|---|
| `pushing` | x, y | 100 steps of 0.1 s | cup under 3 cm from the square (L1) | 15 to 25 cm | 0 of 40 episodes |
| `drawer_open` | x†, y, z, grip | 200 of 0.0125 s | drawer at least 12 cm open | 0 cm | 0 of 60 |
| `close_drawer` | x, y, z, turn†, grip | 60 of 0.0125 s | drawer less than 5 cm open | 7 cm | 24% of 400 |
| `cup_forward` | the same | the same | cup less than 7.5 cm from a point | 10 cm | 32% |
| `faucet_right` | the same | the same | lever turned by over 0.01 rad | 0 rad | 15% |

Actions with a dagger have no effect: the authors overwrite them, and so do we. The first two tasks are called *RLV*,
the last three *DVD*, after the projects they come from. All are rebuilt here from the published numbers; what cannot
be had again is the exact arithmetic of the simulator of 2021, so single trajectories differ from the authors'.

The original has quirks. What we did with each:

| quirk | here | why |
|---|---|---|
| pictures mirrored left to right | kept | goal pictures and the names of tasks depend on it |
| x set to zero, turn overwritten | kept | they count as actions in SAC's target entropy |
| Pushing: hand jumps 20 cm on the first step | kept | it is in every episode of the paper |
| Pushing: the arm's speed survives a reset | mended (`authors=True` keeps it) | episodes should depend on seeds alone |
| Drawer: the first picture lags one substep | kept | it costs nothing |
| DVD: the mug is set upright after each step | kept | the task would be another without it |
| Cup forward: the oracle wants the hand at the cup's *target* | kept | curves stay comparable; hand and cup meet there |
| Pushing: success is an L1 distance | kept | it defines the returns that the paper reports |

MuJoCo simulates the arm and draws what its camera sees. Drawing needs OpenGL, and most machines that train have no
screen. MuJoCo settles how to draw when it is imported, from the environment variable `MUJOCO_GL`; so `pick_gl` has to
try what works here *before* the import. Processes started from this one inherit the variable.
"""

# %%
pick_gl()

import mujoco  # noqa: E402

if importlib.util.find_spec("metaworld") is None:
    raise UserError("the arm's meshes are in the package metaworld; install it with: pip install -r requirements.txt")
ASSETS = Path(importlib.util.find_spec("metaworld").origin).parent / "assets"  # found, not imported: nothing of it runs

# %% [markdown]
r"""
### How a scene is composed

The authors' scenes are lost in three old simulator packages, but their parts live on in one that pip installs: the
arm, the table, a drawer, a coffee machine, a faucet and a mug are files of *metaworld*. A scene of ours is a short
MJCF text that includes such files and says what is new. Where a part must differ from the package's, a *patch*
changes it: a path that finds elements, and the attributes to set (`None` deletes one), or the element that takes
their place (`None`: nothing does). Nothing of the package is copied into this repository.
"""

# %%
def compose(scene, patches):
    """Return one MJCF text: `scene` with its `<include>`s filled in from the metaworld package, and patched.

    Args:
        scene: MJCF text.
        patches: {ElementTree path: dict of attributes, MJCF text, or None}.
    Raises:
        UserError: a patch finds nothing to change.
    """
    root = ET.fromstring(scene)
    for parent in list(root.iter()):
        for include in parent.findall("include"):
            at = list(parent).index(include)
            parent[at : at + 1] = list(ET.parse(ASSETS / include.get("file")).getroot())
    for path, change in patches.items():
        parents = {child: parent for parent in root.iter() for child in parent}
        if not (found := root.findall(f".//{path}")):
            raise UserError(f"the patch {path!r} finds nothing; is metaworld the version in requirements.txt?")
        for element in found:
            if isinstance(change, dict):
                element.attrib = {k: v for k, v in {**element.attrib, **change}.items() if v is not None}
            else:
                at = list(parents[element]).index(element)
                parents[element][at : at + 1] = [ET.fromstring(change)] if change else []
    ET.SubElement(root, "compiler", meshdir=f"{ASSETS}/sawyer_xyz", texturedir=f"{ASSETS}/sawyer_xyz")
    return ET.tostring(root, "unicode")


toy = '<mujoco><worldbody><geom name="a" size="1" mass="2"/><geom name="b" size="1"/></worldbody></mujoco>'
toy = compose(toy, {"geom[@name='a']": {"size": "3", "mass": None}, "geom[@name='b']": None})
toy = mujoco.MjModel.from_xml_string(toy)
assert toy.ngeom == 1 and toy.geom_size[0, 0] == 3

# %% [markdown]
r"""
### From scene to picture

`Scene` holds what MuJoCo needs to simulate and draw. Three details decide whether the pictures are the paper's:

* **All five camera pictures are mirrored left to right.** The original code read the picture memory bottom-up and
  straightened it by a half turn or by a camera that hangs upside down; either way left and right stayed swapped.
  "Faucet right" means right *in the picture*. A model trained with flipped clips does not mind; the goal pictures
  must agree.
* **Multisampling** (smooth edges) is on for the three DVD tasks and off for the two others: the authors' goal
  pictures are closer that way, mean absolute difference .007 against .012 (Pushing) and .016 against .024 (Drawer).
* **Shadows** exist in the DVD scenes only, where one of three lights casts them.

And two decide how long a picture takes without a GPU. Shadows and multisampling cost ten times more than everything
else, so `quality="fast"` draws without them; DVD pictures change by 11 of 255 levels in the mean. Then corners are the
cost, since the light is computed at each. `simplify` hides bodies that no camera here ever sees (more than half of all
triangles; picture unchanged), merges corners of the big meshes that are less than 4 mm, half a pixel, apart, and
builds rods and boxes of fewer pieces. The last two change at most .4 levels. Only the drawing changes: collisions use
the convex hulls, which stay.
"""

# %%
def simplify(model, unseen, cell=0.004):
    """Make a compiled model cheap to draw, in place; its physics stay the same to the bit.

    Args:
        model: MjModel.
        unseen: names of bodies not to draw.
        cell: corners of meshes of over 2,000 faces that share a cube of this side, in metres, become one.
    """
    model.mat_reflectance[:] = model.light_castshadow[:] = 0
    pieces = model.vis.quality  # around and along a rod, and along a box's edge: MuJoCo takes 28, 16 and 4
    pieces.numslices, pieces.numstacks, pieces.numquads = 12, 8, 1
    bodies = [model.body(i).name in unseen for i in model.geom_bodyid]
    model.geom_group[(model.geom_rgba[:, 3] == 0) | bodies] = 5  # a group that is not drawn
    for mesh in np.flatnonzero(model.mesh_facenum > 2000):
        corners = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]  # (V, 3)
        rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        _, first, cube = np.unique(np.round(corners / cell), axis=0, return_index=True, return_inverse=True)
        faces, normals = first[cube.reshape(-1)][model.mesh_face[rows]], model.mesh_facenormal[rows]  # (F, 3) each
        _, kept = np.unique(faces, axis=0, return_index=True)
        kept = kept[(np.diff(np.sort(faces[kept], 1), axis=1) > 0).all(1)]  # a triangle has three different corners
        model.mesh_face[rows][: len(kept)], model.mesh_facenormal[rows][: len(kept)] = faces[kept], normals[kept]
        model.mesh_facenum[mesh] = len(kept)


# %%
class Scene:
    """A compiled scene and its camera. Subclasses fill in the first two lines of attributes."""

    scene, patches, camera, unseen = "", {}, {}, ()
    mirror, samples = np.s_[:], 0  # how to index the picture; multisampling of the faithful picture
    gl_process = None  # the process that opened OpenGL

    def __init__(self, size, quality):
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"size is {size}; give height and width in pixels, like (48, 48)")
        if quality not in ("fast", "faithful", "default"):
            raise UserError(f"there is no quality {quality!r}; choose fast, faithful, or default (MuJoCo's settings)")
        self.size, self.quality, self.renderer = tuple(size), quality, None
        self.model = mujoco.MjModel.from_xml_string(compose(self.scene, self.patches))
        self.data, self.view = mujoco.MjData(self.model), mujoco.MjvCamera()
        self.model.vis.global_.offheight, self.model.vis.global_.offwidth = size
        self.model.vis.quality.offsamples = {"fast": 0, "faithful": self.samples, "default": 4}[quality]
        if quality == "fast":
            simplify(self.model, self.unseen)
        if isinstance(self.camera, str):
            self.view.type, self.view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self.model.camera(self.camera).id
        else:
            for name, value in self.camera.items():
                setattr(self.view, name, value)

    def picture(self):
        """Draw what the camera sees: uint8 (H, W, 3)."""
        if self.renderer is None:
            if Scene.gl_process not in (None, os.getpid()):
                raise UserError("OpenGL does not survive a fork; give context='spawn' to AsyncVectorEnv")
            Scene.gl_process, self.renderer = os.getpid(), mujoco.Renderer(self.model, *self.size)
            atexit.register(self.renderer.close)  # left open at exit, it would print errors
        self.renderer.update_scene(self.data, self.view)
        return np.ascontiguousarray(self.renderer.render()[self.mirror])

    def close(self):
        """Free the renderer."""
        if getattr(self, "renderer", None) is not None:
            atexit.unregister(self.renderer.close)
            self.renderer.close()
            self.renderer = None

    __del__ = close


# %% [markdown]
r"""
### From scene to task

A policy does not drive the joints. It shifts a *mocap body*, a point that nothing can stop, and a *weld* drags the
hand after it like a stiff spring; the arm follows as it can. One action in $[-1, 1]^n$ becomes

$$m \leftarrow \mathrm{clip}(m + \lambda\, a_{xyz},\ \text{box}), \qquad
\lambda = 2,\ 1,\ 5\ \text{cm for Pushing, Drawer and DVD},$$

then the physics run for a fixed number of substeps, and the camera looks. The reward is 1 on *every* step on which
the task's test holds, otherwise 0, and success does not end an episode: a return of 80 means 80 good steps out of
100.

The weld has a trap. Its fields are "where the hand sits relative to the point", and "how much turning counts against
shifting" (`torquescale`). Left out, the compiler freezes the offset of the unposed arm, a metre. We set the offset to
zero and `torquescale` to 1 (Pushing, Drawer) or 5 (DVD). With 1 in the DVD scene the arm starts 168 degrees twisted
and stays so; with 5 in Pushing, whose last joint is locked, the hand is pulled centimetres off its target.

A reset restores the state of the arm once it has settled, computed on the first reset and then copied (MuJoCo's
*integration state*: everything the next step depends on). An exploding simulation would be reset by MuJoCo silently;
we end that episode instead (`truncated`).
"""

# %%
mujoco.set_mju_user_warning(lambda message: None)  # `truncated` tells; this would fill stderr and MUJOCO_LOG.TXT
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


# %%
class HandEnv(Scene, gym.Env):
    """A hand that follows a mocap body. Observation: uint8 (H, W, 3). Reward: 1 while the task's test holds, else 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, size=None, quality="fast", render_mode="rgb_array", authors=False):
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"there is no render_mode {render_mode!r}; the tasks draw into arrays: rgb_array")
        super().__init__(size or self.size, quality)
        self.render_mode, self.authors, self.settled = render_mode, authors, None
        self.observation_space = gym.spaces.Box(0, 255, (*self.size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (self.action_size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.restore()
        return self.picture(), self.info()

    def restore(self):
        """Return to the settled arm, and place the objects."""
        if self.settled is None:
            self.settle()
            self.settled = np.empty(mujoco.mj_stateSize(self.model, STATE))
            mujoco.mj_getState(self.model, self.data, self.settled, STATE)
        elif not (self.authors and self.carries_over):
            mujoco.mj_resetData(self.model, self.data)
            mujoco.mj_setState(self.model, self.data, self.settled, STATE)
        self.place()

    def step(self, action):
        action = np.asarray(action, float)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(f"an action is {self.action_size} finite numbers from -1 to 1; got {action}")
        shift, fingers = self.control(np.clip(action, -1, 1))
        mocap = self.data.mocap_pos[0] + self.metres_per_action * np.array(shift)
        self.follow(np.clip(mocap, *self.box), fingers, self.substeps)
        self.after_step()
        info, exploded = self.info(), self.data.warning.number.any()
        return self.picture(), float(info["success"]), False, bool(exploded), info

    def follow(self, mocap, fingers, substeps):
        """Put the mocap body at (3,) metres, set the fingers' control, and simulate."""
        self.data.mocap_pos[0], self.data.mocap_quat[0], self.data.ctrl[:] = mocap, self.grip_quat, fingers
        mujoco.mj_step(self.model, self.data, substeps)

    def render(self):
        return self.picture() if self.render_mode else None


# %% [markdown]
r"""
What the tasks need to know and to do: where is the hand, where is a joint, which action leads the hand to a target?
With these, every task gets a *scripted policy* of a few lines: it sees the positions that the learned policy must
guess from pixels. It shows that a task can be solved, and makes the good tries with which a distance is judged below.
"""

# %%
class Task(HandEnv):
    """Measuring, scripts and goal pictures: what the tasks share beyond simulating."""

    carries_over, miss = False, (0, 0, 0.1)  # does speed survive a reset? by how much does a failed try miss, metres?

    @property
    def hand(self):
        """Position of the hand, (3,) metres."""
        return self.data.body("hand").xpos.copy()

    def joint(self, name):
        """Position of a joint, (1,) metres or radians, or of a free body, (7,): xyz and quaternion."""
        return self.data.joint(name).qpos.copy()

    def put(self, **joints):
        for name, position in joints.items():
            self.data.joint(name).qpos, self.data.joint(name).qvel = position, 0

    def info(self):
        """What the policy must not see: success, positions, and the reward that a programmer would write."""
        success = bool(self.success())
        return {"success": success, "hand": self.hand, "object": self.joint(self.object)[:3],
                "oracle_reward": float(success + self.oracle())}

    def toward(self, target, *others):
        """Action that moves the mocap body straight toward a target (3,), with further entries as given."""
        shift = (np.array(target) - self.data.mocap_pos[0]) / self.metres_per_action
        return np.array([*(shift / max(1, np.abs(shift).max())), *others], np.float32)

    def failed_action(self):
        """A try that looks right and is not: the hand goes near its place in the goal picture, without the object."""
        return self.toward(np.array(self.goals[-1][0]) + self.miss, 0, 0)[: self.action_size]

    # What a task may leave as it is: nothing to settle, nothing after a step, no oracle, one stage.
    settle = after_step = lambda self: None
    oracle = stage = lambda self: 0


# %% [markdown]
r"""
A goal picture is drawn by the same camera in the same quality as what the policy sees. So we do not load the authors'
pictures: we state where their hand and objects are (fitted by eye and pixel difference, to about 1 cm), let the arm
settle there, put the objects in place, and draw.
"""

# %%
class GoalTask(Task):
    """A task with goal states: `goals` is a list, one per stage, of (hand position, {joint: position})."""

    def pose(self, hand, joints):
        """Bring hand and objects to a goal state. A hand of None stays where a reset puts it."""
        self.restore()
        mocap, fingers = np.array(hand), self.control(np.zeros(self.action_size))[1]
        for _ in range(0 if hand is None else 3):
            for _ in range(80):
                self.follow(mocap, fingers, 5)
                self.put(**joints)
            mujoco.mj_forward(self.model, self.data)
            mocap += np.array(hand) - self.hand  # the weld gives way a little
        self.put(**joints)
        mujoco.mj_forward(self.model, self.data)

    def goal_images(self, hand=True, objects=True):
        """Draw each stage's goal, or what is left of it if the hand or the objects stay at their start.

        The episode that runs is not disturbed. Returns a list of uint8 (H, W, 3).
        """
        running, images = (self.data, self._np_random), []
        self.data, self.np_random = mujoco.MjData(self.model), np.random.default_rng(0)
        self.restore()
        start = {name: self.joint(name) for name in self.goals[-1][1]}
        for place, joints in self.goals:
            self.pose(place if hand else None, joints if objects else start)
            images.append(self.picture())
        self.data, self._np_random = running
        return images


# %% [markdown]
r"""
### Pushing

Push the cup (the authors call it puck) onto the black square: L1 distance of at most 3 cm. Two actions move the hand
in the plane; the cup starts up to 10 cm to either side. The arm is metaworld's with other joint limits and a hand of
its own: a box and two short fingers. The original's cup mesh is not in the package; metaworld's mug, scaled to the
same radius and height, takes its place. The seven motors of the original arm always get 0, so we leave them out.
"""

# %%
PUSHING = """<mujoco>
  <compiler angle="radian"/>
  <option timestep=".002" iterations="50" cone="elliptic"/>
  <visual><headlight ambient=".5 .5 .5"/></visual>
  <default><joint armature=".1" damping="1"/><geom solref=".008 1" solimp=".95 .95 .01" margin=".001"/></default>
  <include file="objects/assets/xyz_base_dependencies.xml"/>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".50 .495 .48" rgb2=".50 .495 .48" width="32" height="32"/>
    <material name="matte" shininess=".1" specular=".4"/>
    <mesh name="mug" file="../objects/meshes/coffeemachine/mug.stl" scale=".9404 .9404 .9335"/>
  </asset>
  <worldbody>
    <geom type="plane" pos="0 .6 0" size=".4 .4 1" rgba=".6 .6 .6 1" material="matte" contype="15" conaffinity="15"/>
    <include file="objects/assets/xyz_base.xml"/>
    <body name="puck">
      <joint name="puck" type="free" damping="1" armature="0"/>
      <inertial pos="0 0 0" mass=".1" diaginertia=".1 .1 .1"/>
      <geom type="mesh" mesh="mug" pos="0 0 .0313" rgba="1 .1 .1 1" friction=".1 .005 .0001" contype="2"
            conaffinity="2"/>
    </body>
    <body name="square">
      <freejoint name="square"/>
      <geom type="box" size=".04 .04 .001" rgba=".1 .1 .1 1" contype="0" conaffinity="8"/>
    </body>
  </worldbody>
  <actuator><motor joint="claw" gear="100" ctrlrange="0 1"/></actuator>
  <equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0" solref=".01 1" torquescale="1"/></equality>
</mujoco>"""

# %% [markdown]
r"""
`RLV_ARM` undoes for this scene and the next what metaworld has changed since: class defaults of the arm's shapes, and
weights computed from two groups of shapes only. The red dots that mark places on the arm go as well.
"""

# %%
RLV_ARM = {
    "body[@name='base']": {"childclass": None},
    "compiler": {"inertiagrouprange": "0 5"},
    "body[@name='base']//site": None,
}
FINGER = 'type="box" size=".025 .005 .02" rgba="0 0 0 1" condim="4" friction="1 .05 .01" contype="2" conaffinity="2"'
PUSHING_ARM = {
    **RLV_ARM,
    "joint[@name='right_j0']": {"range": "-1.5 1.5"},
    "joint[@name='right_j1']": {"range": "-2 -.5"},
    "joint[@name='right_j6']": {"range": "-.01 .01"},
    "geom[@mesh='l6']": {"contype": "2", "conaffinity": "2"},
    "geom[@mesh='eGripperBase']": None,
    "body[@name='hand']": f"""<body name="hand" quat="-1 0 1 0">
      <geom type="box" size=".01 .04 .01"/>
      <body pos=".03 -.03 0">
        <inertial pos="-.01 0 0" mass="4" diaginertia=".1 .1 .1"/>
        <joint name="claw" type="slide" axis="0 1 0" range="0 .04"/>
        <geom {FINGER} euler="0 0 .2"/>
      </body>
      <body pos=".03 .03 0">
        <inertial pos="-.01 0 0" mass="4" diaginertia=".1 .1 .1"/>
        <geom {FINGER} euler="0 0 -.2"/>
      </body>
    </body>""",
}

# %% [markdown]
r"""
The hand's height is not an action: it creeps from 7 toward 5 cm, 2% of what is left per step. A reset puts the mocap
body 10 cm outside its box, so on the first step the hand jumps back by 20 cm. The original resets nothing but joint
angles; what speed the arm and the fingers had when the last episode ended, they keep. We start from rest, unless
`authors=True`.
"""

# %%
class Pushing(GoalTask):
    """Push the cup onto the square. Numbers: authors' code (multiworld), unless said otherwise."""

    scene, patches, unseen = PUSHING, PUSHING_ARM, ("right_l0", "head", "right_l1", "right_l2")
    camera, mirror = {"azimuth": 270, "elevation": -60, "distance": 0.45, "lookat": (0, 0.85, 0.45)}, np.s_[:, ::-1]
    size, action_size, episode_length, substeps = (48, 48), 2, 100, 50
    metres_per_action, box, grip_quat = 0.02, ((-0.28, 0.3, 0.05), (0.28, 0.9, 0.3)), (1, 0, 1, 0)  # gripper down
    object, target = "puck", (0, 0.75)
    arm = (1.7244448, -0.92036369, 0.10234232, 2.11178144, 2.97668632, -0.38664629, 0.54065733)
    goals = [((-0.035, 0.66, 0.05), {"puck": (0.007, 0.754, 0, 1, 0, 0, 0)})]  # fitted to the authors' goal picture

    carries_over = True  # if authors=True

    def place(self):
        self.data.qpos[:7], self.data.mocap_pos[0], self.data.mocap_quat[0] = self.arm, (0, 0.2, 0.07), self.grip_quat
        self.put(puck=(self.np_random.uniform(-0.1, 0.1), 0.6, 0.02, 1, 0, 0, 0))
        self.put(square=(*self.target, 0.02, 1, 0, 0, 0))
        mujoco.mj_forward(self.model, self.data)

    def control(self, action):
        return (*action, 0.05 - self.data.mocap_pos[0, 2]), 1  # the hand's shift; fingers closed

    def gap(self):
        return np.abs(self.joint("puck")[:2] - self.target).sum()

    def success(self):
        return self.gap() < 0.03

    def oracle(self):
        return -2 * self.gap() - np.linalg.norm(self.hand[:2] - self.joint("puck")[:2])  # ours: the paper has no oracle here

    def scripted_action(self):
        """Go behind the cup, on its line to the square, and push along the line."""
        puck, hand, height = self.joint("puck")[:2], self.hand[:2], self.data.mocap_pos[0, 2]
        ahead = (self.target - puck) / np.linalg.norm(self.target - puck)
        beside = (hand - puck) @ (ahead[1], -ahead[0])
        behind = abs(beside) < 0.006 and (hand - puck) @ ahead < 0
        return self.toward((*(puck if behind else puck - 0.08 * ahead), height))[:2] * (not self.success())


# %% [markdown]
r"""
### Drawer open

Pull a heavy drawer (5 tonnes: only the weld is strong enough) at least 12 cm open. This is the drawer of the first
metaworld, all boxes, not the one that the package has today; so it is declared here. Four actions: x (ignored: the
authors set it to 0, "2D"), y, z and the grip, which is slow. One goal picture does not teach it, says the paper: the
hand goes where it is in the picture, without the drawer. So there are **two**: hand at the handle, and drawer open.
"""

# %%
GRIPPER = """<actuator>
    <position joint="r_close" kp="400" ctrlrange="-1 1"/>
    <position joint="l_close" kp="400" ctrlrange="-1 1"/>
  </actuator>"""
DRAWER_AND_COVER = """<body pos="0 .9 .04" childclass="drawer">
      <joint name="drawer" type="slide" axis="0 1 0" range="-.2 0"/>
      <geom size=".1 .1 .001" pos="0 0 .005"/>
      <geom size=".1 .001 .05" pos="0 .1 .054"/>
      <geom size=".1 .001 .05" pos="0 -.1 .054"/>
      <geom size=".001 .1 .05" pos=".1 0 .054"/>
      <geom size=".001 .1 .05" pos="-.101 0 .054"/>
      <geom size=".05 .005 .02" pos="0 -.2 .05" rgba="0 0 0 1"/>
      <geom size=".005 .05 .02" pos=".045 -.15 .05" rgba="0 0 0 1"/>
      <geom size=".005 .05 .02" pos="-.045 -.15 .05" rgba="0 0 0 1"/>
    </body>
    <body pos="0 .9 .02" childclass="cover">
      <geom size=".105 .105 .001" pos="0 0 .2"/>
      <geom size=".105 .001 .1" pos="0 .105 .102"/>
      <geom size=".001 .105 .1" pos=".105 0 .102"/>
      <geom size=".001 .105 .1" pos="-.106 0 .102"/>
      <geom class="post" pos=".105 .105 .1"/>
      <geom class="post" pos="-.105 .105 .1"/>
      <geom class="post" pos=".105 -.105 .1"/>
      <geom class="post" pos="-.105 -.105 .1"/>
    </body>"""

# %%
DRAWER = f"""<mujoco>
  <compiler angle="radian"/>
  <option timestep=".0025" iterations="50" tolerance="1e-10" solver="Newton" jacobian="dense" cone="elliptic"/>
  <visual><headlight ambient=".5 .5 .5"/></visual>
  <default>
    <joint armature=".1" damping="1"/>
    <geom solref=".02 1" solimp="1 1 0"/>
    <default class="cover">
      <geom type="box" material="wood" rgba=".3 .3 1 1" solimp=".99 .99 .01" solref=".01 1"/>
      <default class="drawer"><geom rgba="1 .3 .3 1" mass="1000"/></default>
      <default class="post"><geom type="capsule" size=".005 .1" contype="2" conaffinity="2"/></default>
    </default>
  </default>
  <include file="objects/assets/xyz_base_dependencies.xml"/>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1=".50 .495 .48" rgb2=".50 .495 .48" width="32" height="32"/>
    <texture name="wood" type="cube" file="../textures/light_wood_v2.png"/>
    <texture name="table" type="2d" file="../textures/light_wood_v3.png"/>
    <material name="wood" texture="wood"/>
    <material name="table" texture="table"/>
  </asset>
  <worldbody>
    <light pos="1 1 4" dir="0 -.15 -1" diffuse=".8 .8 .8" specular=".3 .3 .3" castshadow="false"/>
    <light pos="-3 -3 4" dir="0 -.15 -1" diffuse=".8 .8 .8" specular=".3 .3 .3" castshadow="false"/>
    <geom type="plane" pos="0 .6 0" size=".4 .4 1" rgba=".6 .6 .5 1" material="table" friction="2 .1 .002" contype="15"
          conaffinity="15"/>
    <include file="objects/assets/xyz_base.xml"/>
    {DRAWER_AND_COVER}
  </worldbody>
  {GRIPPER}
  <equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0" solref=".02 1" torquescale="1"/></equality>
</mujoco>"""

# %%
DRAWER_ARM = {
    **RLV_ARM,
    "geom[@name='rightclaw_it']": {"class": None},
    "geom[@name='leftclaw_it']": {"class": None},
    "geom[@name='rightpad_geom']": {"solimp": ".9 .9 .01", "mass": None},
    "geom[@name='leftpad_geom']": {"solimp": ".9 .9 .01"},
}


class DrawerOpen(GoalTask):
    """Open the drawer. Numbers: authors' code (metaworld, first version), unless said otherwise."""

    scene, patches = DRAWER, DRAWER_ARM
    unseen = ("right_l0", "head", "right_l1", "right_l2", "right_l3", "right_arm_base_link", "pedestal")
    camera, mirror = {"azimuth": -30, "elevation": -135, "distance": 0.5, "lookat": (0, 0.6, 0.2)}, np.s_[::-1]
    size, action_size, episode_length, substeps = (48, 48), 4, 200, 5
    metres_per_action, box, grip_quat = 0.01, ((-0.5, 0.4, 0.05), (0.5, 1, 0.5)), (1, 0, 1, 0)  # gripper down
    object = "drawer"
    goals = [((0, 0.69, 0.131), {"drawer": 0}), ((0, 0.455, 0.093), {"drawer": -0.2})]  # fitted

    def settle(self):
        """Let the arm settle from its zero pose: 20 times 5 substeps, but for the last one."""
        self.follow((0, 0.5, 0.25), (-1, 1), 99)

    def place(self):
        """Simulate the last substep: the picture shows the positions before it, as in the original."""
        mujoco.mj_step(self.model, self.data)

    def control(self, action):
        return (0, action[1], action[2]), (action[3], -action[3])  # x dropped; fingers open at -1, closed at 1

    @property
    def handle(self):
        return np.array((0, 0.69 + self.joint("drawer")[0], 0.125))

    def gap(self):
        return abs(self.joint("drawer")[0] + 0.2)

    def success(self):
        return self.gap() <= 0.08

    def oracle(self):
        return -2 * self.gap() - np.linalg.norm(self.hand - self.handle)  # ours: the paper has no oracle here

    def stage(self):
        return int(self.joint("drawer")[0] < -0.002)

    def scripted_action(self):
        """Over the handle, down behind its bar, and pull."""
        (_, y, z), over = self.hand, self.handle[1]
        if z > 0.16 and y < over - 0.03:
            return self.toward((0, over + 0.1, 0.2), 0)
        return self.toward(self.handle if z > 0.14 else (0, 0.4, 0.125), 0)


# %% [markdown]
r"""
### Close drawer, cup forward, faucet right

Three tasks share one scene (from the *DVD* benchmark): a table with a drawer, a coffee machine, a faucet and a heavy
mug. Here the gripper lies level and points away from the base. Five actions: x, y, z, a rotation that the original
computes and then overwrites (kept, without effect, because it counts in SAC's target entropy), and the grip.
"""

# %%
DVD = f"""<mujoco>
  <include file="scene/basic_scene.xml"/>
  <include file="objects/assets/drawer_dependencies.xml"/>
  <include file="objects/assets/coffeemachine_dependencies.xml"/>
  <include file="objects/assets/faucet_dependencies.xml"/>
  <include file="objects/assets/xyz_base_dependencies.xml"/>
  <worldbody>
    <camera name="cam0" pos=".05 -.05 .6" quat=".0218097 -.0377755 .4995241 -.8652011" fovy="45"/>
    <include file="objects/assets/xyz_base.xml"/>
    <body pos="0 .5 .1"><joint name="mug" type="free"/><include file="objects/assets/mug.xml"/></body>
    <body pos=".25 .75 0"><include file="objects/assets/drawer.xml"/></body>
    <body pos="-.04 .85 0"><include file="objects/assets/coffeemachine.xml"/></body>
    <body pos="-.25 .7 0"><include file="objects/assets/faucet.xml"/></body>
  </worldbody>
  {GRIPPER}
  <equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0" solref=".02 1" torquescale="5"/></equality>
</mujoco>"""
DVD_PATCHES = {
    "body[@name='RetainingWall']": None,  # metaworld added it later
    "visual/map": {"znear": ".1"},
    "body[@name='base']": {"pos": "0 -.2 -.3"},
    "body[@name='hand']": {"pos": "0 0 .05"},
    "geom[@name='rightpad_geom']": {"solimp": ".9 .9 .01"},
    "geom[@name='leftpad_geom']": {"solimp": ".9 .9 .01"},
    "body[@name='mug']/site": '<inertial pos="0 0 0" mass="1.5" diaginertia=".01 .01 .01"/>',  # the heavy mug
    "body[@name='drawer_link']/joint": {"name": "drawer"},  # the coffee machine's button has the same name
    "body[@name='cmbutton']/joint": {"name": "button"},
    "body[@name='faucet_link2']/joint": {"name": "faucet"},
}

# %% [markdown]
r"""
All three start alike: the arm settles for 1,000 substeps, knocking the mug about meanwhile; then the objects are put
in place. One action shifts the hand by up to 5 cm, twice as far as the cup has to go: these tasks are easy, made for
comparing rewards, not for showing off.
"""

# %%
class DVDTask(GoalTask):
    """What the three tasks share. Numbers: authors' code (dvd_sim_envs), unless said otherwise."""

    scene, patches, samples = DVD, DVD_PATCHES, 4
    unseen = ("right_l0", "head", "right_l1", "right_arm_base_link", "pedestal")
    camera, mirror = "cam0", np.s_[::-1]
    size, action_size, episode_length, substeps = (120, 180), 5, 60, 5
    metres_per_action, box, grip_quat = 0.05, ((-0.4, 0.4, 0), (0.4, 0.8, 0.2)), (0.5, 0, 0, 0.5)  # gripper level
    miss = (0, -0.12, 0)
    start = {"mug": (0, 0.6, 0, 1, 0, 0, 0), "drawer": -0.07, "button": 0, "faucet": 0}

    def settle(self):
        """Let the arm settle from its zero pose, fingers open, then half closed."""
        self.follow((0, 0.5, 0.02), (-1, 1), 500)
        self.follow((0, 0.5, 0.02), (0, 0), 500)

    def place(self):
        self.put(**self.start)
        mujoco.mj_forward(self.model, self.data)

    def control(self, action):
        return action[:3], (action[4], -action[4])  # the turn dropped; fingers open at -1, closed at 1

    def after_step(self):
        self.data.joint("mug").qpos[3:] = (1, 0, 0, 0)


# %% [markdown]
r"""
Each task has the test that pays the sparse reward, and an *oracle*: the dense reward that a programmer with access to
the state would write, and that the paper compares with. It is `success` plus what `oracle` returns, in
`info["oracle_reward"]`.
"""

# %%
class CloseDrawer(DVDTask):
    """Push the drawer shut, to less than 5 cm."""

    object, goals = "drawer", [((0.24, 0.57, 0.06), {**DVDTask.start, "drawer": 0})]  # fitted to the authors' picture

    def success(self):
        return self.joint("drawer")[0] > -0.05

    def oracle(self):
        return self.joint("drawer")[0] - np.linalg.norm(self.hand - (0.25, 0.62, 0.06))

    def scripted_action(self):
        """Go before the handle, and push."""
        return self.toward((0.25, 0.62, 0.07) if abs(self.hand[0] - 0.25) < 0.03 else (0.25, 0.42, 0.07), 0, 0)


class CupForward(DVDTask):
    """Push the cup forward, to less than 7.5 cm from a point."""

    object, target = "mug", (0, 0.7, 0)
    goals = [((-0.07, 0.658, 0.046), {**DVDTask.start, "mug": (-0.045, 0.735, 0, 1, 0, 0, 0)})]  # fitted

    def success(self):
        return np.linalg.norm(self.joint("mug")[:3] - self.target) < 0.075

    def oracle(self):
        cup, hand = self.joint("mug")[:3], self.hand
        return -np.linalg.norm(cup - self.target) - np.linalg.norm(hand - self.target)  # authors' code: not hand - cup

    def scripted_action(self):
        """Push until the cup is there."""
        return self.toward((0, 0.7, 0.03) if self.joint("mug")[1] < 0.69 else self.data.mocap_pos[0], 0, 0)


class FaucetRight(DVDTask):
    """Turn the faucet's lever to the right of the picture."""

    object, goals = "faucet", [((-0.3, 0.52, 0.1), {**DVDTask.start, "faucet": -0.69})]  # fitted

    def success(self):
        return self.joint("faucet")[0] < -0.01

    def oracle(self):
        return -self.joint("faucet")[0] - np.linalg.norm(self.hand - (-0.27, 0.53, 0.11))

    def scripted_action(self):
        """Go beside the lever, and across."""
        beside = self.hand[1] > 0.52 and self.hand[2] > 0.1
        return self.toward((-0.36, 0.55, 0.12) if beside else (-0.17, 0.56, 0.13), 0, 0)


# %% [markdown]
r"""
### Using them

`make_task` gives a task under its time limit. The same five are registered with gymnasium, for
`gym.make("hold/Pushing-v0")` and `gym.make_vec`. Several at once, in processes of their own, need `context="spawn"`
(OpenGL does not survive a fork):

    gym.vector.AsyncVectorEnv([functools.partial(make_task, "pushing")] * 4, context="spawn")
"""

# %%
TASKS = {"pushing": Pushing, "drawer_open": DrawerOpen, "close_drawer": CloseDrawer, "cup_forward": CupForward,
         "faucet_right": FaucetRight}
for task in TASKS.values():
    gym.registry.pop(f"hold/{task.__name__}-v0", None)  # a cell may run twice
    gym.register(f"hold/{task.__name__}-v0", task, max_episode_steps=task.episode_length)


def task_size(name, height=0):
    """Size (height, width) of a task's picture with so many rows; 0 rows: the paper's size."""
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    rows, columns = TASKS[name].size
    return (height, round(height * columns / rows)) if height else (rows, columns)


def make_task(name, size=None, quality="fast", render_mode="rgb_array", authors=False):
    """Make one of the five tasks, under its time limit.

    Args:
        name: a key of `TASKS`.
        size: (height, width) of the observation; by default the paper's: (48, 48), or (120, 180) for the DVD tasks.
        quality: "fast"; "faithful", with shadows and smooth edges as in the authors' pictures; or "default", MuJoCo's.
        render_mode: "rgb_array" or None.
        authors: keep the one oddity that would make an episode depend on the one before (see Pushing).
    """
    task_size(name)  # refuses what it does not know
    task = TASKS[name](size, quality, render_mode, authors)
    return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(task), task.episode_length)


# %% [markdown]
r"""
**Your own robot** needs an MJCF file and a photo of the goal. A hand that follows a mocap body inherits everything;
so does this one-ball robot, which has to touch a red wall. Put your file in `scene`, and replace what differs: for
torque control, override `step`.
"""

# %%
class TouchWall(GoalTask):
    """A scene of one's own: a ball on a weld, and a wall to touch."""

    scene = """<mujoco><worldbody>
      <light pos="0 0 3"/><geom type="plane" size="1 1 1" rgba=".8 .8 .8 1"/><body name="mocap" mocap="true"/>
      <geom type="box" pos="0 .5 .1" size=".3 .02 .1" rgba="1 0 0 1"/>
      <body name="hand"><freejoint name="hand"/><geom size=".05" rgba="0 0 1 1"/></body></worldbody>
      <equality><weld body1="mocap" body2="hand" relpose="0 0 0 1 0 0 0"/></equality></mujoco>"""
    camera = {"azimuth": 90, "elevation": -45, "distance": 1.5}
    size, action_size, episode_length, substeps = (48, 48), 2, 40, 10
    metres_per_action, box, grip_quat = 0.03, ((-0.4, -0.4, 0.1), (0.4, 0.43, 0.1)), (1, 0, 0, 0)
    object, goals = "hand", [((0, 0.43, 0.1), {})]  # a photo does as well: GoalReward takes any uint8 array

    def place(self):
        self.put(hand=(0, 0, 0.1, 1, 0, 0, 0))
        self.data.mocap_pos[0] = (0, 0, 0.1)
        mujoco.mj_forward(self.model, self.data)

    def control(self, action):
        return (*action, 0), ()  # the hand's shift; no fingers

    def success(self):
        return self.hand[1] > 0.4

    def scripted_action(self):
        return self.toward((0, 0.43, 0.1))[:2]


# %% [markdown]
r"""
### What they look like, and what they cost

`tasks_figure` draws each task's start, and its goal pictures. `benchmark_rendering` times them. "default" is how
metaworld's scenes draw by themselves.
"""

# %%
def tasks_figure(quality="fast"):
    """Start and goal pictures of the five tasks, side by side; returns the figure."""
    plot_style()
    figure, axes = plt.subplots(2, 6, figsize=(11, 3), width_ratios=(1, 1, 1, 1.5, 1.5, 1.5))
    columns = iter(axes.T)
    for name in TASKS:
        task = TASKS[name](quality=quality)
        start = task.reset(seed=0)[0]
        for goal, (above, below) in zip(task.goal_images(), columns):
            above.imshow(start)
            below.imshow(goal)
            above.set_title(name.replace("_", " "))
        task.close()
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


# %%
def milliseconds(function, repeats=30):
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def benchmark_rendering(names=tuple(TASKS)):
    """Print milliseconds per simulated step, picture and reset in each quality; returns the rows.

    The last column is the mean absolute difference to the faithful goal picture, in levels of 255: what fast costs.
    """
    rows = []
    print(f"{'task':14}{'size':>9}  {'quality':9}{'step':>7}{'picture':>9}{'reset':>7}  ms  change")
    for name in names:
        for size in sorted({TASKS[name].size, task_size(name, min(64, TASKS[name].size[0]))}):
            goals = {}
            for quality in ("faithful", "default", "fast"):
                task = TASKS[name](size, quality)
                goals[quality], _ = task.goal_images()[-1].astype(float), task.reset(seed=0)
                step = milliseconds(lambda: mujoco.mj_step(task.model, task.data, task.substeps))
                picture, reset = milliseconds(task.picture), milliseconds(task.restore)
                change = np.abs(goals[quality] - goals["faithful"]).mean()
                costs = f"{step:7.2f}{picture:9.2f}{reset:7.2f}{change:12.2f}"
                print(f"{name:14}{size[0]:5}x{size[1]:<3}  {quality:9}{costs}")
                rows.append({"task": name, "height": size[0], "width": size[1], "quality": quality, "step": step,
                             "picture": picture, "reset": reset, "difference": change})
                task.close()
    return rows


# %% [markdown]
r"""
## The reward

The distance $d(s, g)$ between a camera picture $s$ and a goal picture $g$ is not zero at the goal for every model: a
network that looks at both pictures together is free to say $d(g, g) = 7$. So we count from there, $x(s) = d(s, g) -
d(g, g)$. The step from $s$ to $s'$ pays, by the paper's text and the authors' code,

$$r = -\frac{\max(0,\ x(s'))}{T} + r_\text{sparse},$$

which scores the picture that the action *led to*. $T$ sets the size against the sparse reward of 1; the authors chose
it such that the start scores about $-\frac13$, and $T$ can be computed so. Four forms are on offer:

| `form` | pays | alone, exact $d$ | with the sparse reward | wrong $d$ | $d(g,g)$ not subtracted |
|---|---|---|---|---|---|
| `cumulative` | $-\max(0, x')/T$ | best policy kept | kept | can mislead | fails below 0 |
| `instantaneous` | $(\max(0, x) - \max(0, x'))/T$ | kept | kept | can mislead | fails below 0 |
| `printed` | $-\max(0, x' - x)/T$ | lost | kept | can mislead | no matter |
| `potential` | $\gamma\Phi(s') - \Phi(s)$, $\Phi = -x/T$ | lost: all tie | kept | **kept** | matters if the goal ends episodes |

`cumulative` pays every step near the goal. Where $d(g, g)$ is negative and not subtracted, the clamp makes all states
near the goal look alike.

`instantaneous` is the paper's ablation, which learned worse. Over an episode it sums to the way gained, whatever the
pace; discounting alone asks for haste, so its stakes are only $1 - \gamma$ as high as those of `cumulative`.

`printed` is Eq. 4 as it stands in the paper, with $d(s_t, g)$ in the place of $d(g, g)$; the sentence after it, and
the code, have the cumulative form. It punishes steps back and pays nothing for steps forward, so standing still is as
good as moving on.

`potential` (Ng, Harada and Russell, 1999) cannot change which policy is best, however wrong $d$ is. For the same
reason it says nothing without the sparse reward: it helps to find the best policy, not to define it.

The tests prove each entry of the table by value iteration on a small world.
"""

# %%
def reward_from_distances(previous, current, scale, form="cumulative", gamma=0.95, previous_cost=0.0, cost=0.0):
    """Reward of the step from s to s', element by element.

    Args:
        previous, current: x(s) and x(s'), with x = d(s, g) - d(g, g); (B,) or scalars.
        scale: T.
        form: "cumulative", "instantaneous", "printed" or "potential".
        gamma: discount, for "potential" alone.
        previous_cost, cost: added to the distances for stages still to come, after clamping.
    """
    near, far = np.maximum(0, current) + cost, np.maximum(0, previous) + previous_cost
    change = np.add(current, cost) - np.add(previous, previous_cost)
    forms = {"cumulative": -near, "instantaneous": far - near, "printed": -np.maximum(0, change),
             "potential": np.add(previous, previous_cost) - gamma * np.add(current, cost)}
    if form not in forms or not scale > 0:
        raise UserError(f"form is {form!r} and T is {scale}; T must be positive, form one of {', '.join(forms)}")
    return forms[form] / scale


x, after = np.array([6.0, 3.0, 3.0]), np.array([3.0, 6.0, -1.0])  # a step nearer, a step back, a step past the goal
assert reward_from_distances(x, after, scale=3).tolist() == [-1, -2, 0]
assert reward_from_distances(x, after, 3, "instantaneous").tolist() == [1, -1, 1]
assert reward_from_distances(x, after, 3, "printed").tolist() == [0, -1, 0]

# %% [markdown]
r"""
**Stages.** The drawer has two goal pictures, so the reward aims at the first until it is reached: $\max(0, x)$ below
a threshold on three steps in a row, before division by $T$. A miss starts the count anew. The step that completes the
third hit is still scored with the old goal; the new goal is in force, and in the policy's sight, from the next observation on.

For each later goal a cost is added, lest the policy linger where it was paid well. Ours is the distance from each goal picture
to the next: then the reward is minus the length of the way through all of them,

$$R = -\frac{1}{T} \Bigl( \max(0, x_k(s')) + \sum_{j \ge k} \max\bigl(0, d(g_j, g_{j+1}) - d(g_{j+1}, g_{j+1})\bigr) \Bigr),$$

and at $s' = g_k$ nothing is lost by the switch. The authors' code adds a constant, $T / 5$ (`--stage-cost 0.2`). Of 39 distances we
tried on the drawer, trained and untrained, and of the pixels, each says that its second goal is farther from the first than that:
.25 to 1.03 $T$. A policy that reaches the first goal is then paid less for ever after, so it learns to hover just outside the
threshold. With HOLD-C and a batch of 256 it stood there, at $d = 1.4$, from step 12,000 to 17,000; with the distance from goal to
goal, same seed, the drawer opened in all of the latest 20 episodes at step 20,000. Another seed did not get as far as the first goal
(the README has the curves).
"""

# %%
def advance_stage(excess, stage, hits, num_stages, threshold=1.0, hold_steps=3):
    """Count the steps in a row with max(0, x) below the threshold; returns the new (stage, hits), each (B,)."""
    hits = np.where(np.maximum(0, excess) < threshold, hits + 1, 0)
    done = (hits >= hold_steps) & (stage < num_stages - 1)
    return stage + done, np.where(done, 0, hits)


def suggest_scale(start_excess):
    """T with which the start scores -1/3 in the mean over resets."""
    scale = 3 * float(np.mean(start_excess))
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(f"by this distance the start is as near to the goal as the goal itself (mean {scale / 3:.3g}); "
                        "give scale, or another goal picture")
    return scale


stage, hits = np.zeros((2, 1), int)
for excess in (0.5, 2.0, 0.5, 0.5, 0.5, 9.0):  # the miss costs the first hit; the fifth step switches
    stage, hits = advance_stage(np.array([excess]), stage, hits, num_stages=2)
assert stage == 1 and hits == 0
assert suggest_scale([4.0, 6.0]) == 15

# %% [markdown]
r"""
### Measuring

Any function `distance(frames, goal) -> (B,)` will do. A distance file (`common.load_distance`) is one; so is the
plain norm of the difference in pixels, the paper's weakest baseline. Some models want to see motion: if the distance
has a `history` of more than 1, it gets that many frames, oldest first, and the first frame of an episode fills the
places before it.
"""

# %%
def pixel_distance(frames, goal):
    """L2 norm of the difference of pixels in [0, 1], on the centre square: (B, H, W, 3), (H, W, 3) -> (B,)."""
    side = min(goal.shape[:2])
    top, left = (goal.shape[0] - side) // 2, (goal.shape[1] - side) // 2
    square = np.s_[..., top : top + side, left : left + side, :]
    return np.linalg.norm((frames[square] / 255.0 - goal[square] / 255.0).reshape(len(frames), -1), axis=1)


black, white = np.zeros((1, 2, 4, 3), np.uint8), np.full((2, 4, 3), 255, np.uint8)
assert pixel_distance(black, white).tolist() == [np.sqrt(2 * 2 * 3)]  # one column is cut off on either side


# %%
def distances_to_goals(distance, frames, goals, index):
    """d(frames[b], goals[index[b]]) for each b: one call of `distance` per goal in use.

    Args:
        distance: callable (frames, goal) -> (B,), array or tensor; may have attributes `history` and `device`.
        frames: uint8 (B, history, H, W, 3), oldest first.
        goals: uint8 (N, H, W, 3).
        index: which goal each frame is measured to, (B,).
    Returns:
        float (B,).
    """
    values = np.zeros(len(frames))
    frames = frames if getattr(distance, "history", 1) > 1 else frames[:, -1]
    device = torch.device(getattr(distance, "device", "cpu")).type
    for i in np.unique(index):
        with torch.autocast(device, enabled=device == "cuda"):
            found = torch.as_tensor(distance(frames[index == i], goals[i])).detach().float().cpu().numpy()
        if found.shape != (np.sum(index == i),) or not np.isfinite(found).all():
            raise UserError(f"for {np.sum(index == i)} frames the distance gave {found.shape} values, or NaN; "
                            "it must give one finite number each, (B,)")
        values[index == i] = found
    return values


def goal_distances(distance, goals, ahead=0):
    """d(g_j, g_(j + ahead)) for goals (N, H, W, 3): (N - ahead,). Where the model sees a history, g_j fills it (authors' code)."""
    still = np.repeat(goals[: len(goals) - ahead, None], getattr(distance, "history", 1), 1)
    return distances_to_goals(distance, still, goals, np.arange(ahead, len(goals)))


# %%
def check_goals(goals, space):
    """Return the goals as one uint8 array (N, H, W, 3). Raises UserError unless they look like the observations."""
    shape = getattr(space, "shape", None) or ()
    if getattr(space, "dtype", None) != np.uint8 or len(shape) != 3 or shape[-1] != 3 or space.high.max() < 255:
        raise UserError(f"the observations are {space}; the reward needs uint8 pictures (H, W, 3) from 0 to 255")
    goals = list(goals) if isinstance(goals, (list, tuple)) or np.ndim(goals) == 4 else [goals]
    for goal in map(np.asarray, goals):
        if goal.dtype != np.uint8 or goal.shape != shape or goal.max() <= 1:
            raise UserError(f"a goal is {goal.dtype} {goal.shape} with values up to {goal.max(initial=0)}; "
                            f"it must be uint8 {shape} from 0 to 255, like the observations")
    if not goals:
        raise UserError("there is no goal; give a picture, a list of pictures (stages), or a film with time_indexed")
    return np.stack(goals)


# %% [markdown]
r"""
`GoalScorer` keeps what the reward remembers between steps, for a batch of environments: the last frames, $x(s)$, the
stage, the hits, the time. One environment is a batch of one. The goals are one picture, a list of pictures (stages),
or a film: with `time_indexed`, step $t$ is compared with frame $t$ of a demonstration (its last frame repeats), as
the baseline TCN needs.
"""

# %%
class GoalScorer:
    """Scores pictures by their distance to goals, for B environments. See `GoalReward` for the arguments."""

    def __init__(self, batch, space, distance, goals, scale=None, form="cumulative", threshold=1.0, hold_steps=3,
                 stage_cost=None, gamma=0.95, time_indexed=False):
        reward_from_distances(0, 0, 1 if scale is None else scale, form)  # refuses what is not known
        self.distance, self.goals, self.time_indexed = distance, check_goals(goals, space), time_indexed
        self.scale, self.form, self.gamma, self.stage_cost = scale, form, gamma, stage_cost
        self.num_stages, self.threshold, self.hold_steps = 1 if time_indexed else len(self.goals), threshold, hold_steps
        self.stage, self.hits, self.time, self.previous_stage = np.zeros((4, batch), int)
        self.excess = np.zeros(batch)  # x(s)
        self.frames = np.zeros((batch, getattr(distance, "history", 1), *space.shape), np.uint8)  # (B, hist, H, W, 3)
        self.baseline = goal_distances(distance, self.goals)  # (N,)
        onward = goal_distances(distance, self.goals[: self.num_stages], ahead=1) - self.baseline[1 : self.num_stages]
        self.to_next = np.maximum(0, onward)  # from each stage's goal to the next one, (num_stages - 1,)

    @property
    def index(self):  # which goal is in force in each environment, (B,)
        return np.minimum(self.time, len(self.goals) - 1) if self.time_indexed else self.stage

    def cost(self, stage):  # what the unfinished later stages add to the distance, (B,)
        each = self.to_next if self.stage_cost is None else np.full(self.num_stages - 1, self.stage_cost)
        return np.append(each[::-1].cumsum()[::-1], 0.0)[stage]

    def excess_now(self):  # x of the frames in memory
        return distances_to_goals(self.distance, self.frames, self.goals, self.index) - self.baseline[self.index]

    def reset(self, pictures, who=None):
        """Begin episodes in the environments of the mask `who` (B,): memory, stage, hits and time start anew."""
        who = np.ones(len(self.frames), bool) if who is None else who
        self.frames[who] = pictures[who][:, None]
        for counter in (self.stage, self.hits, self.time, self.previous_stage):
            counter[who] = 0
        self.excess[who] = self.excess_now()[who]
        return {"distance": self.excess + self.baseline[self.index], "stage": self.index.copy()}

    def score(self, pictures):
        """Score the pictures s' (B, H, W, 3) a step led to: {"distance", "stage", "reward_distance"}, (B,) each."""
        self.frames = np.concatenate([self.frames[:, 1:], pictures[:, None]], 1)
        self.time += 1
        before, costs, index = self.excess, (self.cost(self.previous_stage), self.cost(self.stage)), self.index.copy()
        self.excess, self.previous_stage = self.excess_now(), self.stage
        reward = reward_from_distances(before, self.excess, self.scale, self.form, self.gamma, *costs)
        limit = self.scale / 10 if self.threshold is None else self.threshold  # authors' code: 1 for T = 10
        self.stage, self.hits = advance_stage(self.excess, self.stage, self.hits, self.num_stages, limit, self.hold_steps)
        return {"distance": self.excess + self.baseline[index], "stage": index, "reward_distance": reward}

    def with_goal(self, pictures):  # the goal in force behind each picture's channels, (B, H, W, 6)
        return np.concatenate([pictures, self.goals[self.index]], -1)


# %%
def scale_from_resets(scorer, reset):
    """T from the first pictures of eight seeded resets; `reset(seed)` returns pictures (B, H, W, 3).

    Of goals in a row the first one counts, of a film the last frame.
    """
    starts = []
    for seed in range(0, 8, len(scorer.frames)):
        scorer.reset(reset(seed))
        scorer.time[:] = len(scorer.goals)  # of a film, the end: its first frame is the start itself
        starts.extend(scorer.excess_now())
    reset(int(np.random.SeedSequence().entropy % 2**31))  # or episodes without a seed would all be alike
    start, threshold = np.mean(starts), scorer.threshold
    if scorer.num_stages > 1 and threshold is not None and start < threshold:
        raise UserError(f"by this distance the start ({start:.3g}) is below the threshold ({threshold:.3g}) at which the "
                        "first stage ends; give a lower one, or threshold=None for T/10")
    return suggest_scale(starts)


# %% [markdown]
r"""
`GoalReward` puts the scorer around an environment, ours or any other whose observations are pictures.
"""

# %%
class GoalReward(gym.Wrapper):
    """Pay for pictures that come closer to a goal picture.

    Args:
        env: any environment with uint8 image observations (H, W, 3).
        distance: callable (frames, goal) -> (B,); see `distances_to_goals`.
        goals: one picture (H, W, 3), a list of pictures (stages), or with `time_indexed` a film (N, H, W, 3).
        scale: T; by default such that the start scores -1/3 in the mean over eight resets.
        sparse_weight: weight of the environment's own reward.
        form: "cumulative", "instantaneous", "printed" or "potential"; `gamma`, the agent's discount, is for the last.
        threshold, hold_steps: a stage ends after so many steps in a row with max(0, d - d(g, g)) below the threshold;
            None takes T/10, which fits a distance of any unit.
        stage_cost: added to the distance for each later stage; None adds the distance from each goal to the next.
        goal_in_observation: stack the goal in force behind the picture's channels, (H, W, 6).

    `info` holds "distance" (raw), "stage" (index of the goal it was measured to), "reward_distance", and
    "reward_sparse" (the environment's own reward, before the weight).
    """

    def __init__(self, env, distance, goals, scale=None, sparse_weight=1.0, form="cumulative", threshold=1.0,
                 hold_steps=3, stage_cost=None, gamma=0.95, time_indexed=False, goal_in_observation=False):
        super().__init__(env)
        self.sparse_weight, self.goal_in_observation = sparse_weight, goal_in_observation
        self.scorer = GoalScorer(1, env.observation_space, distance, goals, scale, form, threshold, hold_steps,
                                 stage_cost, gamma, time_indexed)
        if scale is None:
            self.scorer.scale = scale_from_resets(self.scorer, lambda seed: env.reset(seed=seed)[0][None])
        if goal_in_observation:
            self.observation_space = gym.spaces.Box(0, 255, (*env.observation_space.shape[:2], 6), np.uint8)

    def reset(self, **kwargs):
        """Begin an episode."""
        picture, info = self.env.reset(**kwargs)
        return self._finish(picture, info, self.scorer.reset(picture[None]))

    def step(self, action):
        """Step, and score the picture it led to."""
        picture, sparse, terminated, truncated, info = self.env.step(action)
        picture, info = self._finish(picture, info, self.scorer.score(picture[None]))
        info["reward_sparse"] = float(sparse)
        return picture, info["reward_distance"] + self.sparse_weight * sparse, terminated, truncated, info

    def _finish(self, picture, info, parts):
        picture = self.scorer.with_goal(picture[None])[0] if self.goal_in_observation else picture
        return picture, {**info, **{name: values[0].item() for name, values in parts.items()}}


# %% [markdown]
r"""
For many environments at once, `VectorGoalReward` measures all their pictures in one batch. What is tricky is who
starts anew when. Gymnasium's vector environments reset themselves: either on the step after an episode's end (its
action is ignored and nothing is to be paid), or on the same step (the last picture is then in `final_obs`, and that
is what counts).
"""

# %%
class VectorGoalReward(gym.vector.VectorWrapper):
    """`GoalReward` for a vector environment: the same arguments, one batch of distances per step."""

    def __init__(self, env, distance, goals, scale=None, sparse_weight=1.0, form="cumulative",
                 goal_in_observation=False, **options):
        super().__init__(env)
        self.sparse_weight, self.goal_in_observation = sparse_weight, goal_in_observation
        space, self.mode = env.single_observation_space, env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.scorer = GoalScorer(env.num_envs, space, distance, goals, scale, form, **options)
        self.ended = np.zeros(env.num_envs, bool)  # episodes that will be reset on the next step
        if scale is None:
            self.scorer.scale = scale_from_resets(self.scorer, lambda seed: env.reset(seed=seed)[0])
        if goal_in_observation:
            self.single_observation_space = gym.spaces.Box(0, 255, (*space.shape[:2], 6), np.uint8)
            self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed=None, options=None):
        """Begin episodes; `options={"reset_mask": ...}` in some of the environments only."""
        who = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))  # the environment takes it out of options
        pictures, infos = self.env.reset(seed=seed, options=options)
        self.ended = self.ended & ~who
        infos.update(self.scorer.reset(pictures, who))
        return self._see(pictures), infos

    def step(self, actions):
        """Step all, and score the pictures that the actions led to."""
        pictures, sparse, terminated, truncated, infos = self.env.step(actions)
        done, led_to = terminated | truncated, pictures.copy()
        if "final_obs" in infos:
            led_to[done] = np.stack(infos["final_obs"][done])
        parts = self.scorer.score(led_to)
        parts["reward_distance"][self.ended] = 0  # these actions were ignored
        if "final_obs" in infos:
            for i, seen in zip(np.flatnonzero(done), self._see(led_to)[done]):
                infos["final_obs"][i] = seen
        begun = done if self.mode is AutoresetMode.SAME_STEP else self.ended
        if begun.any():
            self.scorer.reset(pictures, begun)
        self.ended = done & (self.mode is AutoresetMode.NEXT_STEP)
        infos.update(parts, reward_sparse=sparse)
        return self._see(pictures), parts["reward_distance"] + self.sparse_weight * sparse, terminated, truncated, infos

    def _see(self, pictures):
        return self.scorer.with_goal(pictures) if self.goal_in_observation else pictures


# %% [markdown]
r"""
## Look before you train

Training takes minutes or days; a look at the distance takes seconds, and tells most of what can go wrong. Four tries
are recorded: the script's success, the same film backwards, a failed try (the hand goes where it is in the goal
picture, without the object), and random play. A useful distance falls along success, rises along its reverse, and
stays up on the failed try. The last is the hardest: where the failed try scores as well as success, the reward alone
will teach the arm's pose, not the task. In a notebook, `look(Config())` does what `--look` does.

A distance may order success *backwards* and be no worse for it. On `faucet_right` pixels do (Spearman -.26, HOLD-R -.18):
the picture of the start shows a small hand at the edge, the way to the lever leads the whole arm through the middle of the
picture, and the script ends with the hand higher and farther right than in the goal. So the norm goes from 5.3 up to 8.1 and
only back to 6.4. The failed try, which slides along the edge, ends at 4.7, nearer than success! Nothing is wrong with the
film or its order; a difference of pictures pays for hiding the arm. HOLD-C, at .45 to .62, ends below its start.

And on `pushing` the warning comes true. HOLD-C orders the script's success well (Spearman .84 to .93), but ends there at 1.5, and at
.8 on the failed try: in the goal picture the hand stands beside the square, the script stops behind it, and the cup counts for
little. So it went when we trained with small batches: in 60,000 steps of 64 (one seed, 41 minutes of one core) the hand learned
within 20 steps of an episode to stand as in the goal picture, $d$ about .6, and the cup came along to the square in 3 of 100
training episodes. Drawing the picture four times as large, or cutting it to the table, does not help the distance to see the cup
(ten files). Yet it is enough: hand and cup meet on the way, the sparse reward pays where the cup comes along, and with
the paper's batch of 256 the critics make something of those few episodes: a return of 80 after 17,000 to 22,000 steps (three seeds;
sparse alone, one seed: never in 32,000). So a look tells what a reward cannot teach by itself, and not what it can help to find.
"""

# %%
def record_try(env, policy, seed=0, settle=3):
    """Play one episode. Returns (frames uint8 (T+1, H, W, 3), success bool (T+1,), stage int (T+1,)).

    Args:
        policy: function of the task, -> action.
        settle: stop after success, once actions have been nearly zero for so many steps; 0 plays to the time limit.
    """
    task, still, ended = env.unwrapped, 0, False
    picture, info = env.reset(seed=seed)
    record = [(picture, info["success"], task.stage())]
    while not ended:
        action = policy(task)
        picture, _, terminated, truncated, info = env.step(action)
        record.append((picture, info["success"], task.stage()))
        still = still + 1 if info["success"] and np.abs(action).max() < 0.05 else 0
        ended = terminated or truncated or (settle and still >= settle)
    return tuple(map(np.array, zip(*record)))


def recordings(name, size=None, quality="fast", seed=4):
    """Record the tries, {kind: (frames, success, stage)}, and the goal pictures. Seed 4 puts Pushing's cup aside."""
    env, rng = make_task(name, size, quality), np.random.default_rng(seed)
    pace = 0.3 if isinstance(env.unwrapped, DVDTask) else 1.0  # at full speed those scripts are over in ten steps
    tries = {"success": record_try(env, lambda task: pace * task.scripted_action(), seed)}
    tries["reverse"] = tuple(part[::-1] for part in tries["success"])
    others = {"failed": lambda task: pace * task.failed_action(),
              "random": lambda task: rng.uniform(-1, 1, task.action_size)}
    for kind, policy in others.items():
        tries[kind] = tuple(part[: len(tries["success"][0])] for part in record_try(env, policy, seed, settle=0))
    goals = env.unwrapped.goal_images()
    env.close()
    return tries, goals


# %%
def alone(name, size=None, quality="fast"):
    """Three pictures per stage, uint8 (stages, 3, H, W, 3): the start, with the goal's hand alone, its object alone."""
    task = TASKS[name](size, quality)
    pictures = [task.goal_images(hand, objects) for hand, objects in ((False, False), (True, False), (False, True))]
    task.close()
    return np.stack(pictures, 1)


def distance_along(distance, frames, goals, stages):
    """d(s_t, g) - d(g, g) along a film (T, H, W, 3), to the goal of each frame's stage (T,): returns (T,)."""
    history = getattr(distance, "history", 1)
    window = np.maximum(0, np.arange(len(frames))[:, None] + np.arange(1 - history, 1))  # the first frame repeats
    goals = np.stack(goals)
    return distances_to_goals(distance, frames[window], goals, stages) - goal_distances(distance, goals)[stages]


def along_tries(distance, tries, goals):
    """`distance_along` each of the tries of `recordings`: {kind: x (T,)}."""
    return {kind: distance_along(distance, frames, goals, stages) for kind, (frames, _, stages) in tries.items()}


# %% [markdown]
r"""
Two tables sum it up. The **sanity table** is printed before every training run: $x$ and the reward at the start, at
the goal, at the best frame of success, and under random play, with the $T$ that will be used. The **scores** compare
distances: a row for each distance, task and stage, in `scores.csv`. The pixel norm stands beside every learned
distance, as the least one should beat.

| column | is | wanted |
|---|---|---|
| `spearman` | rank correlation of $-x$ with time along success | 1: every step forward looks closer |
| `contrast` | $1 - \bar x / \bar x_\text{random}$, with the mean $\bar x$ of $\max(0, x)$ at success's last 3 frames | 1 |
| `failed` | the same for the failed try's last 3 frames | far below `contrast` |
| `hand_alone` | share of $\max(0, x)$ at the start that goes when the hand alone moves to its goal | above 0 |
| `object_alone` | the same for the object alone; 0 in the drawer's first stage, which moves none | above 0 |
"""

# %%
def sanity_table(name, tries, along, scale=None):
    """Print and return [(where, x, reward)] from `along_tries`; the reward is the cumulative form's."""
    scale, ok = scale or suggest_scale(along["success"][:1]), tries["success"][1]
    rows = [("start", along["success"][0]), ("goal", 0.0), ("success, in the mean", along["success"][ok].mean()),
            ("failed try, at its best", along["failed"].min()), ("random play, in the mean", along["random"].mean())]
    rows = [(where, float(x), float(reward_from_distances(0, x, scale))) for where, x in rows]
    print(f"{name}: d(s, g) - d(g, g), and the reward with T = {scale:.3g}")
    for where, x, reward in rows:
        print(f"  {where:26}{x:9.3f}{reward:9.3f}")
    return rows


def drop(far, near):
    """By what share max(0, x) falls, in the mean, from some frames to others."""
    far, near = (float(np.maximum(0, x).mean()) for x in (far, near))
    return 1 - near / far if far > 0 else math.nan


def score_tries(distance, tries, goals, pictures):
    """Score one distance on one task: a list of dicts, one per stage.

    Args:
        distance: callable.
        tries, goals: of `recordings`.
        pictures: of `alone`.
    """
    rows, stages = [], tries["success"][2]
    for stage in np.unique(stages):
        x = lambda frames: distance_along(distance, frames, goals, np.full(len(frames), stage))
        success, random, failed = (x(tries[kind][0]) for kind in ("success", "random", "failed"))
        success, (start, hand, thing) = success[stages == stage], (x(picture[None]) for picture in pictures[stage])
        rows.append({"stage": int(stage) + 1,
                     "spearman": float(spearmanr(-success, np.arange(len(success))).statistic),
                     "contrast": drop(random, success[-3:]), "failed": drop(random, failed[-3:]),
                     "hand_alone": drop(start, hand), "object_alone": drop(start, thing)})
    return rows


# %%
def look_figure(name, tries, goals, curves):
    """Film strips of the four tries, the goals, and `curves`, {distance: {try: x along it}}; returns the figure."""
    plot_style()
    figure = plt.figure(figsize=(11, 1.1 * len(tries) + 2.8))
    strips, below = figure.subfigures(2, 1, height_ratios=(1.1 * len(tries), 2.8))
    for row, (kind, (frames, _, _)) in zip(strips.subplots(len(tries), 8 + len(goals)), tries.items()):
        pictures = [*goals, *frames[np.linspace(0, len(frames) - 1, 8).astype(int)]]
        titles = [*(f"goal {i + 1}" for i in range(len(goals))), kind, *7 * [""]]
        for axis, picture, title in zip(row, pictures, titles):
            axis.imshow(picture)
            axis.set_title(title, loc="left")
            axis.set_axis_off()
    for axis, (label, along) in zip(below.subplots(1, len(curves), squeeze=False).flat, curves.items()):
        for kind, values in along.items():
            axis.plot(values, label=kind)
        axis.set(title=label, xlabel="step", ylabel="d(s, g) - d(g, g)", ylim=(0, None))
        axis.legend()
    figure.suptitle(name.replace("_", " "))
    return figure


def film_with_curve(frames, values, label, side=288):
    """Frames (T, H, W, 3) beside the growing curve of `values` (T,): uint8 (T, side, W', 3) for `write_video`."""
    plot_style()
    wide = frames.shape[2] / frames.shape[1]
    size = (0.01 * side * (wide + 1.6), 0.01 * side)  # inches, at 100 dots each
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(wide, 1.6), dpi=100)
    image, (line,) = left.imshow(frames[0]), right.plot(values)
    left.set_axis_off()
    right.set(xlabel="step", title=label, ylim=(min(0, np.min(values)), None))
    film = []
    for t, frame in enumerate(frames):
        image.set_data(frame)
        line.set_data(np.arange(t + 1), values[: t + 1])
        figure.canvas.draw()
        film.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    plt.close(figure)
    return np.stack(film)[:, : film[0].shape[0] // 2 * 2, : film[0].shape[1] // 2 * 2]  # video wants even sides


# %%
def distances_at_hand(config):
    """Load one distance after the other: yields (path, distance), the pixels first."""
    yield "pixels", pixel_distance
    found = [config.distance] * Path(config.distance).is_file() + sorted(map(str, Path("runs").glob("*/distance.pt2")))
    for path in tqdm(config.distances or dict.fromkeys(found), "distances"):
        yield path, load_distance(path, pick_device(config.device))


def look(config):
    """Score distances on tasks, write scores.csv, and draw them; returns the rows."""
    tasks, rows, curves, folder = {}, [], defaultdict(dict), Path(config.out or "runs/look")
    for task in tqdm(config.tasks or TASKS, "tries"):
        how = task, task_size(task, config.height), config.quality
        tasks[task] = *recordings(*how), alone(*how)
    for path, distance in distances_at_hand(config):
        name = distance.meta["name"] if path != "pixels" else path
        for task, (tries, goals, pictures) in tasks.items():
            scores = score_tries(distance, tries, goals, pictures)
            rows += [{"distance": path, "name": name, "task": task, **score} for score in scores]
            if config.figures:
                curves[task][path] = along_tries(distance, tries, goals)
    write_csv(folder / "scores.csv", rows)
    for task in curves:
        draw_look(folder / task, task, *tasks[task][:2], curves[task])
    wide, columns = max(len(row["distance"]) for row in rows), list(rows[0])[4:]
    print(f"in {folder}:\n{'distance':{wide}}  {'task':13}stage" + "".join(f"{column:>13}" for column in columns))
    for path, _, task, stage, *scores in map(dict.values, rows):
        print(f"{path:{wide}}  {task:13}{stage:5}" + "".join(f"{score:13.2f}" for score in scores))
    return rows


def draw_look(path, task, tries, goals, curves):
    """Write one task's figure (.png), film with the last distance's curve (.mp4), and success as it is (-success.mp4)."""
    figure = look_figure(task, tries, goals, curves)
    with write_whole(path.with_suffix(".png")) as draft:
        figure.savefig(draft)
    plt.close(figure)
    label, along = list(curves.items())[-1]
    film = film_with_curve(tries["success"][0], along["success"], f"{label}: d(s, g) - d(g, g)")
    write_video(path.with_suffix(".mp4"), film, fps=10)
    height, width = (side // 2 * 2 for side in tries["success"][0].shape[1:3])  # video wants even sides
    write_video(path.with_name(f"{task}-success.mp4"), tries["success"][0][:, :height, :width], fps=10)


# %% [markdown]
r"""
## Soft actor-critic

The reward is there; now somebody has to collect it. SAC (Haarnoja et al. 2018) learns a policy that maximises reward *and*
its own randomness,

$$J(\pi) = \mathbb E \sum_t \gamma^t \bigl( r_t + \alpha \, \mathcal H(\pi(\cdot \mid s_t)) \bigr).$$

Why the entropy? A learned reward is smooth and often wrong. A policy that commits to the first uphill direction finds the
nearest flaw of the reward; one that is paid for staying random keeps trying until the sparse reward tells it what counts.

**The policy** draws $u \sim \mathcal N(\mu(s), \sigma(s))$ and acts with $a = \tanh u$, which keeps actions in the box
$[-1, 1]$. Squashing changes the density by the slope of tanh,

$$\log \pi(a \mid s) = \sum_i \log \mathcal N(u_i; \mu_i, \sigma_i) - \log (1 - \tanh^2 u_i),$$

and $1 - \tanh^2 u$ rounds to 0 for $|u| > 9$ in float32. The identity
$\log(1 - \tanh^2 u) = 2(\log 2 - u - \mathrm{softplus}(-2u))$ does not.
"""

# %%
def squashed_gaussian(mean, log_std, noise):
    """Reparameterised tanh-Gaussian: (B, A) each -> action tanh(u) (B, A) and log-probability (B,)."""
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (log_normal - log_slope).sum(-1)


action, log_prob = squashed_gaussian(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
assert action == 0 and torch.isclose(log_prob.exp(), torch.tensor(0.3989), atol=1e-4)  # N(0; 0, 1), slope 1
assert torch.isfinite(squashed_gaussian(torch.tensor([[30.0]]), torch.zeros(1, 1), torch.zeros(1, 1))[1])

# %% [markdown]
r"""
**From pixels to features.** The paper gives the policy and both critics an encoder each: two blocks of 5x5 convolution with 8
filters, ReLU and 2x2 max-pooling. At full resolution these convolutions cost half a second per update on two CPU cores. The
`strided` encoder shrinks the picture eightfold in two layers, one encoder serves all, and only the critic trains it (as in
DrQ): the policy sees `features.detach()`, because its gradient is known to spoil shared features. An observation that is
a vector of numbers is its own feature, and needs no encoder.
"""

# %%
def make_encoder(kind, shape):
    """Convolutional encoder for images of `shape` (H, W, C): float (B, C, H, W) -> (B, features). None for vectors (D,)."""
    if len(shape) == 1:
        return nn.Identity()
    if kind == "paper":  # authors' code: no dense layer, no normalisation
        block = lambda c: [nn.Conv2d(c, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*block(shape[2]), *block(8), nn.Flatten())
    layers = [nn.Conv2d(shape[2], 16, 6, stride=4, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    flat = nn.Sequential(*layers)(torch.zeros(1, shape[2], *shape[:2])).shape[1]
    return nn.Sequential(*layers, nn.Linear(flat, 64), nn.LayerNorm(64), nn.Tanh())  # ours: the neck of DrQ


def mlp(inputs, outputs, hidden=256):
    """Two hidden layers of ReLU units."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


# %%
class Agent(nn.Module):
    """Policy, twin critics and temperature. Observations are uint8 (B, H, W, C) or float (B, D), actions (B, A) in [-1, 1]."""

    def __init__(self, shape, actions, encoder="strided", temperature=1.0):
        super().__init__()
        self.encoders = nn.ModuleList(make_encoder(encoder, shape) for _ in range(3 if encoder == "paper" else 1))
        width = self.encoders[0](torch.zeros(1, *np.roll(shape, 1))).shape[1]
        self.critics = nn.ModuleList(mlp(width + actions, 1) for _ in range(2))
        self.actor = mlp(width, 2 * actions)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(temperature)))

    def features(self, seen):
        """Features for critic 1, critic 2 and the policy, each (B, F)."""
        x = seen if seen.ndim == 2 else seen.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)  # (B, D) or (B, C, H, W)
        if len(self.encoders) == 1:
            shared = self.encoders[0](x)
            return shared, shared, shared.detach()
        return tuple(encoder(x) for encoder in self.encoders)

    def q(self, features, actions, frozen=False):
        """Both critics' values, (2, B). Where `frozen`, gradients reach the actions alone."""
        if frozen:
            still = [{name: weight.detach() for name, weight in q.named_parameters()} for q in self.critics]
            inputs = [torch.cat([z.detach(), actions], 1) for z in features]
            return torch.stack([functional_call(q, w, x).squeeze(1) for q, w, x in zip(self.critics, still, inputs)])
        return torch.stack([q(torch.cat([z, actions], 1)).squeeze(1) for q, z in zip(self.critics, features)])

    def policy(self, features, noise):
        """Action (B, A) and log-probability (B,); `noise` is standard normal (B, A)."""
        mean, log_std = self.actor(features[2]).chunk(2, 1)
        return squashed_gaussian(mean, log_std.clamp(-20, 2), noise)  # authors' code: these bounds

    @torch.no_grad()
    def act(self, seen, noise=None):
        """One action (A,) for one observation; the mean of the policy where no noise is given."""
        features = self.features(torch.as_tensor(seen, device=self.log_alpha.device)[None])
        noise = torch.zeros(1, self.actor[-1].out_features // 2) if noise is None else noise
        return self.policy(features, noise.to(self.log_alpha.device))[0][0].cpu().numpy()


# %% [markdown]
r"""
**Replay.** Every picture is stored once, as bytes; the picture after frame $i$ is frame $i + 1$. An episode of $n$ steps
fills $n + 1$ places, and the last place of an episode starts no transition, so nothing is ever drawn across a reset. When
the memory is full the oldest transitions go first. A place takes $48 \cdot 48 \cdot 3 = 6912$ bytes for the picture and
36 for five actions, reward, end and index, so a million places of that size take 6.9 GB. Storing both pictures of each
transition would take twice that.
"""

# %%
class Replay:
    """A ring of frames, bytes for images (H, W, C) and floats for vectors (D,), and the transitions between neighbours."""

    def __init__(self, capacity, shape, actions, device="cpu"):
        self.frames = torch.empty((capacity, *shape), dtype=torch.uint8 if len(shape) == 3 else torch.float32, device=device)
        self.actions = torch.empty((capacity, actions), device=device)
        self.rewards, self.terminal = (torch.empty(capacity, device=device) for _ in range(2))
        self.starts = np.empty(capacity, np.int64)  # ring of the places where a transition starts, oldest first
        self.head, self.first, self.count, self.filled = -1, 0, 0, 0

    def _put(self, image):
        self.head = (self.head + 1) % len(self.frames)
        self.filled = max(self.filled, self.head + 1)
        if self.count and self.starts[self.first] == self.head:  # overwrites the oldest transition
            self.first, self.count = (self.first + 1) % len(self.frames), self.count - 1
        self.frames[self.head] = torch.as_tensor(image)

    def begin(self, image):
        """Store the first picture of an episode."""
        self._put(image)

    def add(self, action, reward, terminal, next_image):
        """Store one step: what was done in the latest picture and what it led to."""
        here = self.head
        self.actions[here] = torch.as_tensor(action)
        self.rewards[here], self.terminal[here] = float(reward), float(terminal)
        self._put(next_image)
        self.starts[(self.first + self.count) % len(self.frames)] = here
        self.count += 1

    def sample(self, batch, rng):
        """Draw (images, actions, rewards, terminal, next_images) uniformly with replacement."""
        at = self.starts[(self.first + rng.integers(self.count, size=batch)) % len(self.frames)]
        here = torch.from_numpy(at).to(self.frames.device)
        return (self.frames[here], self.actions[here], self.rewards[here], self.terminal[here],
                self.frames[(here + 1) % len(self.frames)])

    def state_dict(self):
        """What a checkpoint needs: the filled part of the memory, and the ring's counters."""
        parts = {k: getattr(self, k)[: self.filled] for k in ("frames", "actions", "rewards", "terminal")}
        return {**parts, "starts": torch.from_numpy(self.starts), "ring": [self.head, self.first, self.count, self.filled]}

    def load_state_dict(self, state):
        """Take back what `state_dict` gave, to a memory as large, or larger if it was not full. Raises UserError otherwise."""
        if state["ring"][-1] == len(state["starts"]) != len(self.starts):
            raise UserError(f"a replay memory of {len(state['starts'])} places is full and cannot change its size; "
                            "give the same --steps, or --no-resume to start anew")
        self.head, self.first, self.count, self.filled = state["ring"]
        self.starts[: len(state["starts"])] = state["starts"]
        for k in ("frames", "actions", "rewards", "terminal"):
            getattr(self, k)[: self.filled] = state[k]


# %%
ring = Replay(4, (1, 1, 1), actions=1)
for episode in (10, 20):  # two episodes of two steps: pictures 10, 11, 12 and 20, 21, 22
    ring.begin(np.full((1, 1, 1), episode, np.uint8))
    for t in (1, 2):
        ring.add([0.0], reward=episode + t, terminal=False, next_image=np.full((1, 1, 1), episode + t, np.uint8))
s, _, r, _, s_next = ring.sample(50, np.random.default_rng(0))
assert set(zip(s.flatten().tolist(), s_next.flatten().tolist())) == {(20, 21), (21, 22)}  # the first episode was overwritten

# %% [markdown]
r"""
**Random shifts.** A critic on few pictures learns them by heart. DrQ's cure: pad by four pixels and crop back at a random
place, anew each time a picture is used. The authors' code draws a single offset for the whole batch (a quirk of its crop
function, here `per_image=False`); one offset per picture is the usual form, and ours. On `pushing` with the oracle's reward it
returns 49 after 10,000 steps, and one offset per batch 0 (one seed each).
"""

# %%
def random_shift(images, rng, pad=4, per_image=True):
    """Zero-pad images (B, H, W, C) and crop them back at random offsets."""
    B, H, W, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))  # (B, H + 2 pad, W + 2 pad, C)
    windows = padded.unfold(1, H, 1).unfold(2, W, 1).permute(0, 1, 2, 4, 5, 3)  # (B, 9, 9, H, W, C), a view
    y, x = torch.from_numpy(rng.integers(2 * pad + 1, size=(2, B if per_image else 1))).to(images.device)
    return windows[torch.arange(B, device=images.device), y, x]


dot = torch.zeros(64, 9, 9, 1, dtype=torch.uint8)
dot[:, 4, 4] = 1
moved = random_shift(dot, np.random.default_rng(0)).flatten(1).float().argmax(1)
assert 20 < len(moved.unique()) <= 81 and random_shift(dot, np.random.default_rng(0), per_image=False).unique(dim=0).shape[0] == 1

# %% [markdown]
r"""
**One update**, as in the algorithm box. The critics regress on the soft Bellman target, built from the smaller of two slowly
moving copies,

$$y = r + \gamma (1 - \text{terminal}) \bigl( \min_j \bar Q_j(s', a') - \alpha \log \pi(a' \mid s') \bigr), \qquad a' \sim \pi(\cdot \mid s'),$$

$$L_Q = \sum_j \tfrac12 (Q_j(s, a) - y)^2, \quad L_\pi = \alpha \log \pi(\tilde a \mid s) - \min_j Q_j(s, \tilde a), \quad
L_\alpha = -\log \alpha \, (\log \pi(\tilde a \mid s) + \mathcal H^*),$$

with the target entropy $\mathcal H^* = -\dim A$. *Terminal* is where the pitfall sits. A time limit is no property of the
world: the state after step 60 has a future, so the critic must bootstrap through it. The authors' code stores the time
limit as terminal; `--no-bootstrap-truncation` does the same.

*The discount* is the other pitfall. A success that can be held pays 1 at every step, so a state may be worth $1 / (1 - \gamma)$:
100 with the paper's $\gamma = 0.99$. The critics start at 0 and climb there by way of a slow copy of themselves, and as long as they
climb, the policy follows values that move. With 0.95 (ours) the top is 20, and a laptop's ten thousand steps suffice. On the
faucet, three seeds succeed in 100, 95 and 100% of their latest training episodes after 9,000 steps, with 0.99 in 90, 60 and 100%;
of the second, the critic's loss is .5 with 0.95, and 1.6 with 0.99, on its way to 8.6 at step 18,000. The price is a short
sight: what lies 20 steps ahead counts for a third.

*The batch* is the third. With 64 pictures (ours) a laptop makes some 30 steps a second, with the paper's 256 about 12. On the
three DVD tasks that is mostly no loss; of nine runs one, on the cup, wanted 256. Where few episodes succeed at first, all that can
be learned from them is in the replay, and 64 pictures an update are too few: on `pushing`, where the cup stands elsewhere each
time, nothing comes of it, and the drawer opens in half of the episodes after 35,500 steps, with 256 after 17,400 (one seed each;
the README has the curves).

The three losses touch separate parameters once the critics are held still in $L_\pi$. So one backward pass and one Adam, which
treats every parameter on its own, serve all three.
"""

# %%
def sac_losses(agent, target, batch, noise, gamma):
    """The three losses of SAC and the mean log-probability, each a scalar tensor (Haarnoja et al. 2018b, Eq. 5, 7 and 18).

    Args:
        batch: (images, actions, rewards, terminal, next_images) as `Replay.sample` gives them.
        noise: standard normal (2, B, A), for a' and for the policy's new action.
    """
    images, actions, rewards, terminal, next_images = batch
    alpha = agent.log_alpha.exp().detach()
    with torch.no_grad():
        next_actions, next_log_prob = agent.policy(agent.features(next_images), noise[0])
        next_q = target.q(target.features(next_images), next_actions).min(0).values  # (B,)
        y = rewards + gamma * (1 - terminal) * (next_q - alpha * next_log_prob)

    features = agent.features(images)
    critic_loss = 0.5 * (agent.q(features, actions) - y).square().mean(1).sum()

    new_actions, log_prob = agent.policy(features, noise[1])
    new_q = agent.q(features, new_actions, frozen=True).min(0).values
    policy_loss = (alpha * log_prob - new_q).mean()
    alpha_loss = -agent.log_alpha * (log_prob.detach().mean() - actions.shape[1])
    return critic_loss, policy_loss, alpha_loss, log_prob.mean().detach()


# %%
@torch.no_grad()
def polyak(agent, target, tau):
    """target <- (1 - tau) target + tau agent."""
    for slow, fast in zip(target.parameters(), agent.parameters()):
        slow.lerp_(fast, tau)


LOSSES = ("critic_loss", "policy_loss", "alpha_loss", "entropy", "alpha")


def draw_batch(run):
    """What an update reads: (images, actions, rewards, terminal, next_images), shifted anew, and standard normal noise (2, B, A)."""
    config, rng = run.config, run.rng
    seen, actions, *rest, following = run.replay.sample(config.batch, rng)
    if seen.ndim == 4:
        seen, following = (random_shift(x, rng, per_image=config.shift_per_image) for x in (seen, following))
    noise = torch.from_numpy(rng.standard_normal((2, *actions.shape), np.float32)).to(actions.device)
    return (seen, actions, *rest, following), noise


def update(run, batch, noise):
    """One gradient step of a `Run` on what `draw_batch` gave. Returns what LOSSES names, one tensor (5,)."""
    *losses, log_prob = run.losses(run.agent, run.target, batch, noise, run.config.gamma)
    run.optimizer.zero_grad(set_to_none=True)
    sum(losses).backward()
    run.optimizer.step()
    polyak(run.agent, run.target, run.config.tau)
    return torch.stack([*losses, -log_prob, run.agent.log_alpha.exp()]).detach()


def compile_losses(device):
    """`sac_losses` and its backward pass as one program; on a GPU as CUDA graphs, each started with a single call.

    Small networks keep a GPU waiting for Python, so that is where it should pay (not measured here). On a CPU it does not:
    1.07 times the time of an update as it is, after a minute of compiling.
    """
    return torch.compile(sac_losses, mode="reduce-overhead" if device.type == "cuda" else "default", fullgraph=True)


# %%
toy_agent = Agent((16, 16, 3), actions=2)
toy_target = copy.deepcopy(toy_agent)
toy_batch = (torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8), torch.zeros(8, 2), torch.ones(8), torch.ones(8),
             torch.zeros(8, 16, 16, 3, dtype=torch.uint8))
critic_loss, policy_loss, _, _ = sac_losses(toy_agent, toy_target, toy_batch, torch.zeros(2, 8, 2), gamma=0.99)
by_hand = 0.5 * (toy_agent.q(toy_agent.features(toy_batch[0]), toy_batch[1]) - 1).square().mean(1).sum()
assert torch.allclose(critic_loss, by_hand)  # terminal everywhere: the target is the reward, 1
policy_loss.backward()
assert all(p.grad is None for p in [*toy_agent.critics.parameters(), *toy_agent.encoders.parameters()])

# %% [markdown]
r"""
## Training

One environment step, one update. The first steps are random. Evaluation plays the mean action and counts only the
environment's own reward, never the learned one. `success` is true where any step of the episode succeeded, as in the paper;
`success_last` asks for the last step.
"""

# %%
def play(agent, env, seed):
    """One episode of the mean action. Returns (actions (T, A), infos of the T steps, sum of the environment's own reward)."""
    image, _ = env.reset(seed=seed)
    actions, infos, total, over = [], [], 0.0, False
    while not over:
        actions.append(agent.act(image))
        image, reward, terminated, truncated, info = env.step(actions[-1])
        infos.append(info)
        total += info.get("reward_sparse", reward)
        over = terminated or truncated
    return np.stack(actions), infos, total


def evaluate(agent, env, episodes, seed=10**6):
    """Mean return of the environment's own reward, share of episodes with success (any step, last step), mean distance.

    Where the first picture does not depend on the seed, all episodes of a policy without noise are one and the same: it is
    played once (the three DVD tasks and the drawer).
    """
    first, *others = (env.reset(seed=seed + i)[0] for i in range(5))
    episodes = 1 if all(np.array_equal(first, other) for other in others) else episodes
    played = [play(agent, env, seed + i)[1:] for i in range(episodes)]
    success = [[bool(info.get("success", False)) for info in infos] for infos, _ in played]
    distances = [info["distance"] for infos, _ in played for info in infos if "distance" in info]
    return {"return": float(np.mean([total for _, total in played])), "success": float(np.mean([any(s) for s in success])),
            "success_last": float(np.mean([s[-1] for s in success])), "distance": float(np.mean(distances)) if distances else 0.0}


# %% [markdown]
r"""
A run directory belongs to one set of settings, to its seeds and its $T$, and to one process at a time. The checkpoint
holds everything the rest of the run depends on: agent, target, optimiser, replay memory, random states, counters and
the rows of the curve. Environments cannot be asked for their state in general. So an episode starts from
`reset(seed=...)` with a seed made of the run's seed and the episode's number, and a run can stop at the end of any
episode and go on as if it had not: Ctrl-C waits for that end, saves, and leaves. A finished run goes on when its
command is given again with more `--steps`. Saving a memory of gigabytes takes a while; then checkpoints become rarer,
and cost at most a twentieth of the time.
"""

# %%
class Run:
    """One agent's training: what it has learned, what it has seen, and where it stands."""

    COUNTERS = ("step", "episode", "seconds", "rows", "recent")

    def __init__(self, config, env):
        check_spaces(env)
        if not config.temperature > 0:
            raise UserError(f"--temperature is {config.temperature}; alpha starts there and stays above 0")
        self.config, self.path = config, Path(config.out) / f"checkpoint-seed{config.seed}.pt"
        shape, actions, device = env.observation_space.shape, env.action_space.shape[0], pick_device(config.device)
        torch.manual_seed(config.seed)
        self.scale = float(getattr(getattr(env, "scorer", None), "scale", math.nan))  # T: another one, another reward
        self.agent = Agent(shape, actions, config.encoder, config.temperature).to(device)
        self.target = copy.deepcopy(self.agent).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=config.lr, fused=True)
        self.replay = Replay(min(config.replay, config.steps + config.steps // 10 + 1000), shape, actions, device)
        self.losses = compile_losses(device) if config.compile else sac_losses
        self.rng = np.random.default_rng([config.seed, 5])
        self.step, self.episode, self.seconds, self.rows, self.recent = 0, 0, 0.0, [], []

    def save(self):
        """Write the checkpoint, whole or not at all."""
        parts = {k: getattr(self, k).state_dict() for k in ("agent", "target", "optimizer", "replay")}
        counters = {k: getattr(self, k) for k in self.COUNTERS}
        reward = {"config": asdict(self.config), "scale": self.scale}
        save_checkpoint(self.path, {**parts, **counters, **reward, "rng": self.rng.bit_generator.state})

    def load(self):
        """Go on from the checkpoint, if there is one. Raises UserError where it belongs to other settings."""
        if not (self.config.resume and self.path.exists()):
            return
        state = load_checkpoint(self.path)
        may_change = ("device", "out", "checkpoint_minutes", "resume", "seeds", "compile", "steps")
        changed = [k for k, v in asdict(self.config).items() if k not in may_change and state["config"].get(k) != v]
        if not np.isclose(state.get("scale", self.scale), self.scale, rtol=1e-3, equal_nan=True):
            changed.append(f"distance (T was {state['scale']:.4g} and is {self.scale:.4g})")
        if changed := changed + ["steps"] * (self.config.steps < state["config"]["steps"]):
            raise UserError(f"{self.path} was made with another {', '.join(changed)}; give another --out, or --no-resume to start anew")
        for k in ("agent", "target", "optimizer", "replay"):
            getattr(self, k).load_state_dict(state[k])
        for k in self.COUNTERS:
            setattr(self, k, state[k])
        self.rng.bit_generator.state = state["rng"]
        print(f"{self.path}: going on from step {self.step} of {self.config.steps}")


# %% [markdown]
r"""
**Two things at once.** The simulator and torch both let go of Python's lock while they calculate. So the update runs in
a thread of its own while the environment steps, and we wait for it before the new transition is stored. The environment
stays in the main thread, because OpenGL wants to be used where it was opened. While it waits, the main thread also draws the
next batch: all random numbers come from there, so a run can be repeated; the price is that an update does not know the newest
two of its thousands of transitions. Measured in turn on two cores with other work beside, a step with learned reward and update
takes 30 ms, and 45 one after the other with torch on both cores; drawing ahead then takes 9% off (median of fifteen sittings). On a quiet
machine little of that is left: 24 to 30 ms overlapped, 26 to 31 one after the other.

**Seeds.** `--seeds 5` trains five agents in one process. Each has weights, memory, random numbers and an environment
of its own, so it learns what it would learn alone. An episode is a *generator*: it pauses after it has handed in an update,
and the next agent has its turn while the update runs. On two cores, five agents take 3.7 times as long as one.

Why not stack the weights of the five and update all at once? On one core, five updates take this many times as long as one:

| a loop over agents | `torch.vmap` of the loss | batched linear layers, grouped convolutions | ... and a loop over convolutions |
|---|---|---|---|
| 4.9 | 5.9 | 5.4 | 4.3 |

The small convolutions keep a core busy as they are, and stacked they are slower. The last column would gain a little, but
then every layer and every loss has an axis more. So it is the loop, and an update reads as that of one agent.
"""

# %%
def collect_episode(run, env, pool):
    """Play one episode with exploration, a step per `next`; each update runs in `pool` while the environment steps."""
    config, losses, drawn, success, total, over = run.config, [], None, False, 0.0, False
    seen, _ = env.reset(seed=config.seed * 1_000_003 + run.episode)
    run.replay.begin(seen)
    while not over:
        noise = torch.from_numpy(run.rng.standard_normal((1, env.action_space.shape[0]), np.float32))
        explore = run.rng.uniform(-1, 1, noise.shape[1]).astype(np.float32)
        action = explore if run.step < config.random_steps else run.agent.act(seen, noise)
        due = run.step >= max(1, config.random_steps) and run.step % config.update_every == 0
        job = pool.submit(update, run, *(drawn or draw_batch(run))) if due else None
        yield True
        seen, reward, terminated, truncated, info = env.step(action)
        if job:
            drawn = draw_batch(run)  # for the next update, while this one runs
            losses.append(job.result())
            check_losses(run, losses[-1])
        over = terminated or truncated
        run.replay.add(action, reward, terminated or (truncated and not config.bootstrap_truncation), seen)
        success, total = success or bool(info.get("success", False)), total + float(info.get("reward_sparse", reward))
        run.step += 1
    run.episode += 1
    mean = dict(zip(LOSSES, torch.stack(losses).mean(0).tolist())) if losses else {}
    run.recent = [*run.recent, (total, success, mean)][-20:]


def check_losses(run, losses):
    """Raise UserError where one of LOSSES is not finite."""
    if bad := [name for name, value in zip(LOSSES, losses.tolist()) if not math.isfinite(value)]:
        raise UserError(f"{', '.join(bad)} not finite at step {run.step} of seed {run.config.seed}; {run.path} is as it was")


@contextlib.contextmanager
def start_workers(seeds, device):
    """Threads for the updates, with a share of torch's cores each; afterwards all cores are the main thread's again."""
    cores = torch.get_num_threads()
    count = min(seeds, cores) if device.type == "cpu" else 1  # a GPU works through one queue
    torch.set_num_threads(max(1, cores // (count + 1)))
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)


# %%
@contextlib.contextmanager
def claim_folder(folder):
    """Keep other processes out of a run folder; the lock ends with this process, however it ends."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / ".lock", "w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by another process; wait for its end, or give another --out") from None
        yield


class StopAtEpisodeEnd:
    """Ctrl-C and `kill` set `asked`, once; a second Ctrl-C stops at once."""

    def __enter__(self):
        self.asked, self.before = False, {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nfinishing the episode, then saving (press again to leave now)", flush=True)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def check_spaces(env):
    """Raise UserError unless observations are uint8 (H, W, C) or float32 (D,), and actions a Box in [-1, 1]."""
    seen, acts = env.observation_space, env.action_space
    if (seen.dtype, len(seen.shape or ())) not in ((np.uint8, 3), (np.float32, 1)):
        raise UserError(f"SAC here reads uint8 images (H, W, C) or float32 vectors (D,); this environment gives {seen.dtype} {seen.shape}")
    if not (hasattr(acts, "low") and np.all(acts.low == -1) and np.all(acts.high == 1)):
        raise UserError(f"actions must be a Box in [-1, 1], not {acts}; wrap it in gymnasium.wrappers.RescaleAction(env, -1, 1)")


# %%
def train(config, envs, eval_env):
    """Train an agent in each of `envs`, with seeds `config.seed`, `config.seed + 1`, ..., for `config.steps` steps each.

    Writes curve.csv, checkpoints, and run.json (settings, T, machine) to `config.out`, and goes on from the checkpoints it
    finds there. Ctrl-C saves and leaves. Works with any gymnasium environment of uint8 images or float32 vectors and
    actions in [-1, 1]. Returns a list of `Run`.
    """
    device = pick_device(config.device)
    with claim_folder(config.out), StopAtEpisodeEnd() as stop, start_workers(len(envs), device) as pool:
        runs = [Run(replace(config, seed=config.seed + k), env) for k, env in enumerate(envs)]
        for run in runs:
            run.load()
        if others := {path.name for path in Path(config.out).glob("checkpoint-seed*.pt")} - {run.path.name for run in runs}:
            raise UserError(f"{config.out} holds {min(others)}, of another seed; give another --out")
        write_settings(config, runs[0].scale, device)
        started, saved, saving = time.time() - runs[0].seconds, time.time(), 0.0
        first, total = sum(run.step for run in runs), config.steps * len(runs)
        with tqdm(total=total, initial=first, desc=f"SAC {config.task}", unit="step") as bar:
            while playing := [(run, env) for run, env in zip(runs, envs) if run.step < config.steps]:
                play_round(playing, pool, bar)
                for run in runs:
                    run.seconds = time.time() - started
                extend_curve(runs, eval_env, bar)
                done = all(run.step >= config.steps for run in runs)
                if done or stop.asked or time.time() - saved > max(60 * config.checkpoint_minutes, 20 * saving):
                    before = time.time()
                    for run in runs:
                        run.save()
                    saved = time.time()
                    saving = saved - before  # at most a twentieth of the time
                if stop.asked and not done:
                    raise KeyboardInterrupt
    return runs


# %%
def write_settings(config, scale, device):
    """Write run.json: the config, T (null where the reward has none) and the machine."""
    about = {"scale": None if math.isnan(scale) else scale, "device": str(device), "cores": os.cpu_count(), "torch": torch.__version__}
    with write_whole(Path(config.out) / "run.json") as draft:
        draft.write_text(json.dumps({**asdict(config), **about}, indent=1))


def play_round(playing, pool, bar):
    """One episode with each (run, env), in turn step by step."""
    games = [collect_episode(run, env, pool) for run, env in playing]
    while games := [game for game in games if next(game, False)]:
        bar.update(len(games))


def extend_curve(runs, eval_env, bar):
    """Evaluate the runs that have come to a multiple of `eval_every` or to their end, and write curve.csv."""
    for run in runs:
        every, last = run.config.eval_every, run.rows[-1]["step"] if run.rows else 0
        if run.step // every > last // every or run.step >= run.config.steps > last:
            run.rows.append(measure(run, eval_env))
            rows = sorted((row for run in runs for row in run.rows), key=lambda row: (row["step"], row["seed"]))
            write_csv(Path(run.config.out) / "curve.csv", rows)
            bar.set_postfix({k: f"{run.rows[-1][k]:.2f}" for k in ("success", "return")})


def measure(run, eval_env):
    """One row of the curve: evaluation, the last 20 training episodes, losses, speed."""
    scores = evaluate(run.agent, eval_env, run.config.eval_episodes)
    returns, successes, losses = zip(*run.recent)
    losses = {k: losses[-1].get(k, 0.0) for k in LOSSES}
    return {"seed": run.config.seed, "step": run.step, **scores, "train_return": float(np.mean(returns)),
            "train_success": float(np.mean(successes)), **losses, "minutes": run.seconds / 60, "steps_per_second": run.step / run.seconds}


# %% [markdown]
r"""
**Your own environment.** Copy two files, this one as `sac.py` and `common.py`; add a distance file and a picture of
the goal, or neither. `train` takes any gymnasium environment of pictures, uint8 (H, W, 3), or vectors, float32 (D,),
with actions from -1 to 1. In each environment of the list an agent of its own learns, the last one is for evaluation.
`TouchWall` above would do as `MyRobot`.

    from sac import Config, GoalReward, load_distance, parse_config, train

    config = parse_config(Config)  # your script understands --steps, --batch, --seed, ...
    config.out = "runs/goal"  # learn from a picture of the goal, and from the environment's reward where it pays
    env, eval_env = (GoalReward(MyRobot(), load_distance("distance.pt2"), goal) for _ in range(2))
    seen = train(config, [env], eval_env)

    config.out = "runs/plain"  # learn from the environment's reward alone: two seeds
    plain = train(config, [MyRobot(), MyRobot()], MyRobot())
    action = plain[0].agent.act(picture)
"""

# %% [markdown]
r"""
## Curves people trust

Two runs that differ in nothing but the seed may differ more than two methods do. So a *kind* of run is trained with
several seeds, and a curve is drawn of all of them: the mean with its standard error $\hat\sigma / \sqrt S$, as in the
paper, and the **interquartile mean** (IQM; Agarwal et al., 2021): drop the best and the worst quarter of the runs, and
average the rest. One run that never starts pulls the mean of five down by a fifth, and the IQM hardly at all. With
three seeds there is no whole run to drop, and the two are the same.

How sure is it? Draw $S$ of the $S$ runs with replacement, compute the number again, do so 2,000 times, and give the
middle 95%: the *bootstrap*. Runs of a kind may come in *strata*, like tasks or demonstrations; then each stratum is
drawn for itself, so that no draw misses one. One run in a stratum says nothing of its spread: the interval is `nan`.

A kind is known by the name of its file or folder: `<kind>-seed<k>.csv`, `<kind>-seed<k>/curve.csv`, or
`<kind>-seed0-4/curve.csv` with a column `seed`.
"""

# %%
def kind_of(path, pool=""):
    """(kind, stratum, seed) by a curve's file name. What the pattern `pool` matches is struck out of the kind's name."""
    path = Path(path).absolute()
    stratum, seed = re.fullmatch(r"(.*?)(?:-seed(\d+)(?:-\d+)?)?",
                                 path.parent.name if path.name == "curve.csv" else path.stem).groups()
    return re.sub(pool, "", stratum), stratum, int(seed or 0)


def read_curves(paths, column, pool=""):
    """Read curves, {kind: (steps (K,), values (S, K), stratum of each of the S runs)}, each kind up to its shortest run.

    Raises UserError where a file lacks the column, or where two hold the same seed.
    """
    kinds, curves = defaultdict(dict), {}
    for path in paths:
        (kind, stratum, seed), table = kind_of(path, pool), read_csv(path)
        if missing := {"step", column} - set(table):
            raise UserError(f"{path} has no column {min(missing)}; --plot draws the curves that 05_sac.py writes")
        seeds, runs = table.get("seed", np.full(len(table["step"]), seed)), kinds[kind]
        for seed in np.unique(seeds):
            if (stratum, seed) in runs:
                raise UserError(f"{path} is the second file with seed {seed:g} of {stratum}; let --plot match one of them")
            runs[stratum, seed] = table["step"][seeds == seed], table[column][seeds == seed]
    for kind, runs in kinds.items():
        steps, ends = min((steps for steps, _ in runs.values()), key=lambda steps: steps[-1]), [x[-1] for x, _ in runs.values()]
        if min(ends) < max(ends):
            print(f"{kind} is compared up to step {min(ends):g}, where its shortest run ends; the longest ends at {max(ends):g}")
        values = np.stack([np.interp(steps, *run) for run in runs.values()])
        curves[kind] = steps, values, [stratum for stratum, _ in runs]
    return curves


assert kind_of("runs/sac/hold_c-T0.1-seed3/curve.csv") == ("hold_c-T0.1", "hold_c-T0.1", 3)
assert kind_of("tcn2-seed0.csv", pool=r"(?<=tcn)\d") == ("tcn", "tcn2", 0)

# %%
def draw_seeds(strata, rng, draws=2000):
    """Bootstrap: the runs of each draw, (draws, S); no draw at all where a stratum has one run only."""
    strata, places = np.array(list(strata)), np.empty((draws, len(strata)), int)
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        if len(own) < 2:
            return places[:0]
        places[:, own] = rng.choice(own, (draws, len(own)))
    return places


def interval(drawn):
    """The middle 95% of numbers (draws, ...): low and high, (...) each; nan where there is no draw."""
    if not len(drawn):
        return np.full((2, *drawn.shape[1:]), math.nan)
    return np.quantile(drawn, (0.025, 0.975), axis=0, method="nearest")  # nearest: some numbers are infinite


def summary(steps, values, strata):
    """What is drawn and written of one kind: {"step", "mean", "error", "iqm", "low", "high"}, each (K,)."""
    error = values.std(0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(len(steps), math.nan)
    drawn = values[draw_seeds(strata, np.random.default_rng(0))]  # (draws, S, K)
    low, high = interval(trim_mean(drawn, 0.25, axis=1))
    return {"step": steps, "mean": values.mean(0), "error": error, "iqm": trim_mean(values, 0.25), "low": low, "high": high}


toy = summary([1], np.array([[0.0], [6.0], [7.0], [8.0], [99.0]]), "aaaaa")  # the mean follows the last run
assert toy["mean"] == 24 and toy["low"] < toy["iqm"] == 7 < toy["high"]
assert np.isnan(summary([1], np.ones((1, 1)), "a")["low"])

# %% [markdown]
r"""
The paper compares *when*, not only *how high*: "10 times as fast" is the number of steps at which the mean return of
one method first reaches a level, over the other's. With $\bar R_m(n)$ the mean over seeds after $n$ steps and a level
$\theta$,

$$n_m(\theta) = \min \{ n : \bar R_m(n) \ge \theta \}, \qquad
\text{speed-up} = \frac{n_\text{slower}(\theta)}{n_\text{faster}(\theta)} ,$$

with the interval from seeds drawn anew for both. A method that never arrives counts as infinitely slow. If neither
arrives while both are running, nothing is known: `nan`, and in the draws of the interval a tie, 1.
"""

# %%
def steps_to_threshold(steps, values, threshold):
    """First step at which curves (..., K) reach the threshold, interpolated between evaluations; inf if never: (...)."""
    reached = values >= threshold
    after = reached.argmax(-1)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(values, at[..., None], -1)[..., 0] for at in (before, after))
    share = (threshold - low) / np.where(high > low, high - low, 1)
    return np.where(reached.any(-1), steps[before] + share * (steps[after] - steps[before]), math.inf)


def speed_up(slow, fast, threshold):
    """How many times fewer steps `fast` needs than `slow`, both of `read_curves`: (ratio, low, high)."""
    rng = np.random.default_rng(0)

    def arrivals(steps, values, strata):  # of the mean over all runs, then of each draw: (1 + draws,)
        means = [values.mean(0, keepdims=True), values[draw_seeds(strata, rng)].mean(1)]
        return steps_to_threshold(steps, np.concatenate(means), threshold)

    n = np.array(list(zip(arrivals(*slow), arrivals(*fast))))  # (1 + draws, 2); without draws where either has none
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(n.min(1) > min(slow[0][-1], fast[0][-1]), math.nan, n[:, 0] / n[:, 1])
    low, high = interval(np.where(np.isnan(ratio[1:]), 1, ratio[1:]))
    return (math.nan,) * 3 if np.isnan(ratio[0]) else (float(ratio[0]), float(low), float(high))


assert steps_to_threshold(np.array([0, 10, 20]), np.array([[0, 4, 8], [0, 4, 5]]), 6).tolist() == [15, math.inf]
toy = np.arange(0, 101, 10.0)  # steps; two seeds each, one method twice as fast
assert speed_up((toy, np.stack([toy, toy]), "aa"), (toy, np.stack([2 * toy, 2 * toy]), "aa"), threshold=50) == (2, 2, 2)

# %%
def plot_curves(panels, threshold=math.nan):
    """Several kinds over each other; `panels` are {column: curves of `read_curves`}. Returns the figure."""
    figure, axes = plt.subplots(len(panels), 2, figsize=(8.5, 2.8 * len(panels)), squeeze=False, sharex=True, sharey="row")
    for (column, curves), (left, right) in zip(panels.items(), axes):
        for kind, curve in curves.items():
            step, mean, error, iqm, low, high = summary(*curve).values()
            left.plot(step, mean, label=f"{kind} ({len(curve[1])})")
            left.fill_between(step, mean - error, mean + error, alpha=0.2)
            right.plot(step, iqm)
            right.fill_between(step, low, high, alpha=0.2)
        left.set_ylabel(column)
    for axis in axes.flat:
        axis.axhline(threshold, color="grey", lw=0.8, ls=":")
    for bottom, top, title in zip(axes[-1], axes[0], ("mean, standard error", "interquartile mean, 95% interval")):
        bottom.set_xlabel("environment steps")
        top.set_title(title)
    axes[0, 0].legend(fontsize=7, title="kind (seeds)", title_fontsize=7)
    return figure


def table_row(kind, curve, paths, end, threshold):
    """What there is to say of one kind: its value at step `end`, when it reached the threshold, what it cost."""
    steps, values, strata = curve
    last = summary([end], np.stack([np.interp([end], steps, run) for run in values]), strata)
    settings = Path(paths[0]).with_name("run.json")
    scale = json.loads(settings.read_text())["scale"] if settings.is_file() else None
    return {"kind": kind, "seeds": len(values), **{name: float(value[0]) for name, value in last.items()},
            "learned": float((values.max(1) >= threshold).mean()),  # share of runs that reach the level at all
            "steps_to_level": float(steps_to_threshold(steps, values.mean(0), threshold)),
            "minutes": sum(read_csv(path).get("minutes", [math.nan])[-1] for path in paths), "scale": scale or math.nan}


# %%
def compare_curves(config):
    """Write curves.png, curves.csv, table.csv and speedups.csv of the files that `config.plot` matches; returns the table."""
    found = {path for pattern in config.plot for path in glob.glob(pattern, recursive=True)}
    paths = sorted(path for path in found if Path(path).stem not in ("curves", "table", "speedups"))
    try:
        re.compile(config.pool)
    except re.error as error:
        raise UserError(f"--pool {config.pool!r} is not a regular expression: {error}") from error
    if not paths:
        raise UserError(f"no file matches --plot {' '.join(config.plot)}; give a pattern like 'runs/sac/*-seed*/curve.csv'")
    folder, curves = Path(config.out or Path(paths[0]).parent), read_curves(paths, config.column, config.pool)
    ends = {kind: steps[-1] for kind, (steps, *_) in curves.items()}
    if min(ends.values()) < max(ends.values()):
        print(f"{min(ends, key=ends.get)} ends at step {min(ends.values()):g}, so the table compares all at that step")
    rows, steps, pairs = [], [], []
    for kind, curve in curves.items():
        own = [path for path in paths if kind_of(path, config.pool)[0] == kind]
        rows.append(table_row(kind, curve, own, min(ends.values()), config.threshold))
        columns = summary(*curve)
        steps += [{"kind": kind, **dict(zip(columns, values))} for values in zip(*columns.values())]
    for slower, faster in itertools.permutations(curves, 2):
        ratio, low, high = speed_up(curves[slower], curves[faster], config.threshold)
        pairs.append({"slower": slower, "faster": faster, "ratio": ratio, "low": low, "high": high})
    for name, lines in (("table", rows), ("curves", steps), ("speedups", pairs)):
        if lines:  # there are no pairs of one kind
            write_csv(folder / f"{name}.csv", lines)
    with write_whole(folder / "curves.png") as draft:
        plot_curves({config.column: curves}, config.threshold).savefig(draft)
    for row in rows:
        print("{kind:24} {mean:7.2f} +- {error:.2f}, IQM {iqm:.2f} ({low:.2f} to {high:.2f})".format(**row)
              + f", {config.threshold:g} after {row['steps_to_level']:.0f} steps" + ", one seed: no interval" * (row["seeds"] == 1))
    return rows


# %% [markdown]
r"""
## Pictures of a run

The video is made with the trained policy. The policy sees 48 rows of pixels; for our eyes the same actions are
replayed in a second, larger environment.
"""

# %%
def policy_figure(frames, goal, curve, label, shown=7):
    """The goal and pictures of an episode (T + 1, H, W, 3) over the curve (T + 1,) of its distance to the goal."""
    picks = np.linspace(0, len(frames) - 1, shown).round().astype(int)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 2.9), height_ratios=[1, 1.1])
    top.imshow(np.concatenate([goal, *frames[picks]], 1))
    top.set_title(f"goal, and steps {', '.join(map(str, picks))}", loc="left")
    top.set_axis_off()
    bottom.plot(curve, color="tab:red")
    bottom.plot(picks, curve[picks], "o", color="tab:red")
    bottom.set(xlabel="step", ylabel=label, ylim=(0, None))
    return figure


def film_policy(run, env, distance, folder):
    """Play one evaluation episode, replay its actions before a larger camera, and write policy.mp4 and policy.png."""
    actions, infos, _ = play(run.agent, env, seed=10**6)
    large = make_task(run.config.task, task_size(run.config.task, 240))
    goal = large.unwrapped.goal_images()[-1]
    frames = np.stack([large.reset(seed=10**6)[0], *(large.step(action)[0] for action in actions)])  # (T + 1, H, W, 3)
    large.close()
    if distance is None:
        curve, label = np.cumsum([0.0, *(info["success"] for info in infos)]), "steps with success"
    else:
        start = env.reset(seed=10**6)[1]["distance"]
        curve, label = np.array([start, *(info["distance"] for info in infos)]), "d(s, g)"
    with write_whole(Path(folder) / "policy.png") as draft:
        policy_figure(frames, goal, curve, label).savefig(draft)
    panels = np.concatenate([np.broadcast_to(goal, frames.shape), frames], 2)  # (T + 1, H, 2 W, 3)
    write_video(Path(folder) / "policy.mp4", film_with_curve(panels, curve, f"left: goal, middle: policy, right: {label}"), fps=10)


# %% [markdown]
r"""
## The main job

`python 05_sac.py` with nothing else runs all of it: where the distance file is missing, `03_hold_c.py` is started as a
command, and that one starts `01_data.py` where the clips are missing.
"""

# %%
class OracleReward(gym.Wrapper):
    """Pay what a programmer with access to the state would pay (the upper bound of paper Fig. 4)."""

    def step(self, action):
        """Step; the environment's own reward is kept in `info`."""
        picture, sparse, terminated, truncated, info = self.env.step(action)
        return picture, info["oracle_reward"], terminated, truncated, {**info, "reward_sparse": float(sparse)}


def make_goals(config, task):
    """The goals of a run: the task's own pictures, or the frames of a film in their size; (N, H, W, 3)."""
    if not config.goals:
        return task.goal_images()
    frames = torch.from_numpy(read_clip(config.goals)[0]).permute(0, 3, 1, 2)  # (N, 3, h, w)
    return list(TF.resize(frames, list(task.size)).permute(0, 2, 3, 1).numpy())


# %%
def make_env(config, twin=None):
    """The task under the learned reward. Returns (env, distance or None).

    A missing distance file is made first. `twin`, made by this function before, lends its distance, goals and T.
    """
    env = make_task(config.task, task_size(config.task, config.height), config.quality)
    if config.distance in ("none", "oracle"):
        if config.goals or config.sparse_weight != 1:
            raise UserError(f"--goals and --sparse-weight are for a distance file, and --distance is {config.distance!r}")
        return OracleReward(env) if config.distance == "oracle" else env, None
    if twin:
        distance, goals, scale = twin.scorer.distance, twin.scorer.goals, twin.scorer.scale
    else:
        if not Path(config.distance).exists() and config.distance in (Config.distance, Config.smoke().distance):
            print(f"there is no {config.distance}, so it is made first", flush=True)
            run_script("03_hold_c.py", "--out", Path(config.distance).parent)
        distance = load_distance(config.distance, pick_device(config.device))
        goals, scale = make_goals(config, env.unwrapped), config.scale or None
    film = bool(config.goals)
    env = GoalReward(env, distance, goals, scale, config.sparse_weight, config.form, threshold=None,
                     gamma=config.gamma, time_indexed=film, goal_in_observation=len(goals) > 1 and not film)
    if not twin:
        env.scorer.scale *= config.scale_factor
    env.scorer.stage_cost = config.stage_cost * env.scorer.scale or None
    return env, distance


def default_out(config):
    """The run folder where none is given."""
    reward = {"none": "sparse", "oracle": "oracle"}.get(config.distance, Path(config.distance).parent.name)
    reward += "-only" if config.sparse_weight == 0 else ""
    last = f"-{config.seed + config.seeds - 1}" if config.seeds > 1 else ""
    return config.out or f"runs/sac/{config.task}-{reward}-seed{config.seed}{last}"


def learn(config, env, distance):
    """Train from the checkpoint on. Returns a run per seed and the environment of their evaluations."""
    if config.seeds < 1:
        raise UserError(f"--seeds is {config.seeds}; it is the number of agents to train, 1 or more")
    *others, eval_env = (make_env(config, twin=env)[0] for _ in range(config.seeds))
    return train(config, [env, *others], eval_env), eval_env


# %% [markdown]
r"""
### What a training step costs

`--benchmark` plays episodes with updates and says where the time goes. If `stable-baselines3` is installed, its SAC
trains in turn with ours, as it comes, with torch on all cores: same environment, encoder, layers, batch and one update per step. It
shifts no pictures. By default its policy and its critics have an encoder each; with a shared one, as ours, only the policy's
loss trains it.
"""

# %%
def make_sb3(config, env, shared):
    """The SAC of stable-baselines3 with our encoder and settings, trained by its method `learn`."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Encoder(BaseFeaturesExtractor):
        def __init__(self, space):  # it sees (C, H, W)
            network = make_encoder(config.encoder, (*space.shape[1:], space.shape[0]))
            super().__init__(space, network(torch.zeros(1, *space.shape)).shape[1])
            self.network = network

        def forward(self, images):
            return self.network(images - 0.5)

    network = {"features_extractor_class": Encoder, "share_features_extractor": shared, "net_arch": [256, 256]}
    return SAC("CnnPolicy", env, config.lr, 10_000, config.random_steps, config.batch, config.tau, config.gamma, train_freq=1,
               ent_coef=f"auto_{config.temperature}", policy_kwargs=network, device=pick_device(config.device))


# %%
def on_threads(count, work):
    """Call `work` with so many threads for torch."""
    torch.set_num_threads(count)
    work()


def benchmark_training(config, repeats=5):
    """Print the parts of a training step and the speed of training; returns ({part: ms}, {trainer: steps/s})."""
    length = TASKS[config.task].episode_length
    config = replace(config, random_steps=length, steps=(repeats + 2) * length)
    env, distance = make_env(config)
    run, noise = Run(config, env), torch.zeros(1, *env.action_space.shape)
    cores = torch.get_num_threads()
    with start_workers(1, pick_device(config.device)) as pool:
        trainers = {"ours": partial(on_threads, torch.get_num_threads(), lambda: list(collect_episode(run, env, pool)))}
        if importlib.util.find_spec("stable_baselines3") and env.observation_space.shape[2] == 3:
            for name, shared in (("stable-baselines3", False), ("with a shared encoder", True)):
                model = make_sb3(config, make_env(config, twin=env)[0], shared)
                trainers[name] = partial(on_threads, cores, partial(model.learn, length, reset_num_timesteps=False))
        for name in 2 * list(trainers):  # a random episode, and one to warm up
            trainers[name]()
        times = [{name: milliseconds(trainers[name], 1) for name in trainers} for _ in range(repeats)]  # in turn
    seen, _ = env.reset(seed=0)
    parts = {"picture": env.unwrapped.picture, "act": lambda: run.agent.act(seen, noise),
             "update": lambda: update(run, *draw_batch(run)).tolist()}
    parts |= {"distance": env.scorer.excess_now} if distance else {}
    parts = {name: milliseconds(part) for name, part in parts.items()}
    speeds = {name: 1000 * length / np.median([time[name] for time in times]) for name in trainers}
    print(f"{config.task} at {env.unwrapped.size}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in parts.items()))
    print("training: " + ", ".join(f"{name} {speed:.1f} steps/s" for name, speed in speeds.items()))
    return parts, speeds


# %%
if __name__ == "__main__":
    plot_style()
    config = parse_config(Config)
    if config.look:
        look(config)
    elif config.benchmark:
        benchmark_rendering()
        benchmark_training(config)
    elif config.plot:
        compare_curves(config)
    else:
        config.out = default_out(config)
        env, distance = make_env(config)

# %% [markdown]
r"""
Look before you train: in a notebook this cell shows what the distance says of the task, in a run's folder it is
`look.png`. If the curve of the failed try ends as low as that of success, expect the arm to copy the pose.
"""

# %%
TRAINS = __name__ == "__main__" and not (config.look or config.benchmark or config.plot)
if TRAINS and distance is not None:
    tries, goals = recordings(config.task, task_size(config.task, config.height), config.quality)
    along = {label: along_tries(d, tries, goals) for label, d in (("pixels", pixel_distance), (config.distance, distance))}
    sanity_table(config.task, tries, along[config.distance], env.scorer.scale)
    with write_whole(f"{config.out}/look.png") as draft:
        look_figure(config.task, tries, goals, along).savefig(draft)

# %%
if TRAINS:
    runs, eval_env = learn(config, env, distance)

# %%
if TRAINS:
    with write_whole(f"{config.out}/curve.png") as draft:
        plot_curves({name: read_curves([f"{config.out}/curve.csv"], name) for name in ("return", "success")}).savefig(draft)
    film_policy(runs[0], eval_env, distance, config.out)
    last = {k: np.mean([run.rows[-1][k] for run in runs]) for k in runs[0].rows[-1]}
    print(f"{config.out}: success {last['success']:.2f}, return {last['return']:.1f}, training success {last['train_success']:.2f} "
          f"after {last['step']:.0f} steps in {last['minutes']:.1f} minutes ({last['steps_per_second']:.0f} steps/s)")

# %% [markdown]
r"""
## What we learned

- A picture of the goal and videos of strangers' hands are enough to tell a robot whether it is getting warmer.
- The sparse reward says *that*, the distance says *where to*; with $T$ chosen so that a start scores -1/3 neither drowns the other.
- How far the agent looks ahead counts as much as the reward: with a discount of .95 in place of the paper's .99, the sparse
  reward alone is learned 1.3 (faucet) and 1.6 times (cup) as fast, and HOLD-C's lead shrinks from 1.8 to 1.4 and from 1.7 to
  .7 times (three seeds, 50% of the training episodes; the README has the intervals).
- With two goal pictures the reward is the way through both. Charge less for the second than it is away, and the first is a trap.
- SAC is three losses, one backward pass. What costs time is looking: convolutions and rendering.

**Exercises.**
1. `--sparse-weight 0`: pictures alone. Expect the arm to copy the goal's pose; whether the object follows depends on the task.
2. `--scale 0.1`: a distance reward 10 or more times too large. Expect the sparse reward to be ignored.
3. `--task faucet_right --gamma 0.99`, then with `--no-bootstrap-truncation` too. Expect success that comes and goes, and in the
   second run less of it: where the time limit ends the world, values have less far to climb (seen with seed 1).
"""
