# %% [markdown]
r"""
# A robot policy from a learned distance

*Learning Reward Functions for Robotic Manipulation by Observing Humans*, Alakuijala et al., ICRA 2023,
sections III-B and IV.

A distance $d(s, g)$ between pictures, learned from video, becomes the reward of a robot: the closer the
camera picture comes to a goal picture, the better. **Tasks**, **reward**, soft actor-critic (**SAC**).

**Takes** a distance file, `runs/hold_c-seed0/distance.pt2`; 03 makes it if it is missing. **Writes** to
`runs/sac/<task>-<reward>-seed<seed>/`: curve, settings (`run.json`), `look.png`, checkpoint, and the policy.

```
python 05_sac.py                           # pushing: 16 to 24 minutes of two cores, with the distance there
python 05_sac.py --task close_drawer --steps 6_000     # an easy task, in 4 minutes
python 05_sac.py --distance none --seed 1  # the sparse reward alone; one process is one seed, 06 starts many
python 05_sac.py --look --distances runs/*/distance.pt2   # compare distances, without training
python 05_sac.py --preset paper            # its agent, after 03 --preset paper
```

Expect success of .9 or more and a return (steps with the cup on its square) near 80 at the end.
"""

# %%
import atexit
import copy
import json
import math
import os
import time
import weakref
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF
from tqdm.auto import tqdm

try:
    import fcntl  # file locks; Windows has none of this kind
except ImportError:
    fcntl = None

from common import (STYLE, UserError, ensure, load_distance, load_run, parse_config, pick_device, pick_gl,
                    read_clip, read_csv, save_run, show, write_csv, write_video, write_whole)


# %%
@dataclass
class Config:
    """SAC on a Sawyer task with the learned distance as reward."""

    task: Literal["pushing", "drawer_open", "close_drawer", "cup_forward", "faucet_right"] = "pushing"
    distance: str = "runs/hold_c-seed{seed}/distance.pt2"  # a file, "pixels", "oracle", or "none"
    goals: str = ""  # a video: frame t is the goal at step t (TCN); else the task's goal pictures
    single_goal: bool = False  # the last goal picture alone: one goal on the drawer
    sparse_weight: float = 1.0  # of the sparse reward; 0 learns from pictures alone
    scale: float | None = None  # T; automatic: the start scores -1/3 (paper App. C)
    scale_factor: float = 1.0  # multiplies the automatic T (paper Fig. 6a and 7)
    form: Literal["cumulative", "instantaneous", "printed", "potential"] = "cumulative"  # of the reward
    threshold: float | None = None  # distance that ends a stage; automatic: a tenth of the automatic T
    stage_cost: float | None = None  # distance added per later goal; automatic: from goal to goal
    quality: Literal["fast", "faithful"] = "fast"  # fast: no shadows, no smooth edges
    height: int = 48  # rows of the picture, width follows from the task; 0: the original's size
    steps: int = 24_000  # environment steps; 0: as many as in the paper
    random_steps: int = 1000  # at first, with uniform random actions (paper Table III)
    random_start: int = 40  # at most so many random steps begin a training episode (paper: 0)
    random_hold: int = 10  # steps for which a random action is held (paper: 1)
    batch: int = 256  # as in the paper
    success_share: float = 0.25  # of a batch, drawn from episodes that succeeded (paper: 0)
    lr: float = 1e-3  # Adam (paper: 3e-4)
    temperature: float = 0.1  # initial alpha (authors: 1)
    encoder: Literal["strided", "paper"] = "strided"  # see make_encoder
    gamma: float = 0.95  # discount (paper: 0.99)
    tau: float = 0.005  # of the target critic, per update (authors' code)
    shift_per_image: bool = True  # one random shift per picture (authors: per batch)
    bootstrap_truncation: bool = True  # the time limit is not terminal (authors: it is)
    eval_every: int = 2000  # steps between two evaluations
    eval_episodes: int = 20  # of one evaluation (paper IV-B)
    resume: bool = True  # go on from the checkpoint in --out; --no-resume starts anew
    seed: int = 0  # of weights, exploration, batches and resets
    out: str = ""  # run folder
    device: str = "auto"  # cuda, mps or cpu
    look: bool = False  # compare distances, and stop
    distances: tuple[str, ...] = ()  # of --look; by default those of runs/*/
    tasks: tuple[str, ...] = ()  # of --look; by default all five
    positive: ClassVar[tuple] = ("random_hold", "batch", "eval_every", "eval_episodes")

    @classmethod
    def paper(cls):
        """Table III, the released network and picture sizes, and HOLD-C's numbers for two goals."""
        return cls(distance="runs/hold_c_paper-seed{seed}/distance.pt2", height=0, steps=0, random_start=0,
                   random_hold=1, success_share=0.0, lr=3e-4, temperature=1.0, encoder="paper", gamma=0.99,
                   shift_per_image=False, bootstrap_truncation=False, eval_every=1000, threshold=1.0,
                   stage_cost=2.0)  # HOLD-R: 20; R3M: .5 and 2

    @classmethod
    def smoke(cls):
        """Real updates in seconds."""
        return cls(distance="runs/smoke/hold_c-seed{seed}/distance.pt2", out="runs/smoke/sac", height=32,
                   steps=200, random_steps=60, batch=8, eval_every=100, eval_episodes=1)


# %%
def fill_in(config):
    """Set the folder that follows from task and reward, and the paper's steps where `steps` is 0."""
    if (config.tasks or config.distances) and not config.look:
        raise UserError("--tasks and --distances need --look; to train, give --task and --distance")
    reward = {"none": "sparse"}.get(config.distance, Path(config.distance).parent.name or config.distance)
    reward = reward.removesuffix(f"-seed{config.seed}") + ("-only" if config.sparse_weight == 0 else "")
    folder = "runs/look" if config.look else f"runs/sac/{config.task}-{reward}-seed{config.seed}"
    paper_steps = 400_000 if config.task in ("pushing", "drawer_open") else 35_000
    return replace(config, out=config.out or folder, steps=config.steps or paper_steps)


if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    config = fill_in(parse_config(Config))  # in Jupyter: parse_config(Config, steps=3000)
    print("writes to", config.out)

# %% [markdown]
r"""
## 1. Five tasks

| task | actions | episode | success | starts at | random, held |
|---|---|---|---|---|---|
| `pushing` | x, y | 100 steps of 0.1 s | cup under 3 cm from the square (L1) | 15 to 25 cm | 1% |
| `drawer_open` | x†, y, z, grip | 200 of 0.0125 s | drawer at least 12 cm open | 0 cm | 2% |
| `close_drawer` | x, y, z, turn†, grip | 60 of 0.0125 s | drawer less than 5 cm open | 7 cm | 35% |
| `cup_forward` | the same | the same | cup less than 7.5 cm from a point | 10 cm | 31% |
| `faucet_right` | the same | the same | lever turned by over 0.01 rad | 0 rad | 16% |

Actions with a dagger have no effect, but count in SAC's target entropy. The first two are called *RLV*, the
others *DVD*, after their projects. Quirks are kept: mirrored pictures, Pushing's hand jumps 20 cm on
the first step, DVD's mug is set upright after each; but Pushing's arm starts at rest, unless `authors=True`.
The simulator of 2021 is gone: trajectories differ.

**A scene** (`assets/scenes/`) is a short MJCF file that includes arm, table and things from the package
*metaworld*. Where a part must differ, a `<patch>` changes it: a path that finds elements, and the attributes
to set ("" deletes one) or the element that takes their place.

**Drawing** needs OpenGL; `pick_gl` tries what works without a screen, before a task imports MuJoCo. Without a
GPU, shadows (DVD has them) and smooth edges cost ten times more than all else, so `quality="fast"` goes
without: DVD pictures change by 11 of 255 levels. `simplify` hides what no camera here sees, half of all
triangles, merges corners within 4 mm (half a pixel), and builds coarser rods: that changes at most .4.
"""

# %%
def compose(scene):
    """MJCF text of a scene (file or text), includes and patches carried out. UserError for an idle patch."""
    package, own = (Path(find_spec(name).origin).parent / "assets" for name in ("metaworld", "common"))
    root = ET.fromstring(scene if scene.startswith("<") else (own / "scenes" / scene).read_text())
    for parent in list(root.iter()):
        for include in parent.findall("include"):
            at = list(parent).index(include)
            parent[at : at + 1] = list(ET.parse(package / include.get("file")).getroot())
    for patch in root.findall("patch"):
        root.remove(patch)
        path = patch.attrib.pop("path")
        parents = {child: parent for parent in root.iter() for child in parent}
        if not (found := root.findall(f".//{path}")):
            raise UserError(f"patch {path!r} finds nothing; is metaworld the version in requirements.txt?")
        for element in found:
            element.attrib = {k: v for k, v in {**element.attrib, **patch.attrib}.items() if v}
            if len(patch) or not patch.attrib:
                at = list(parents[element]).index(element)
                parents[element][at : at + 1] = list(patch)
    ET.SubElement(root, "compiler", meshdir=f"{package}/sawyer_xyz", texturedir=f"{package}/sawyer_xyz")
    return ET.tostring(root, "unicode")


# %%
def import_mujoco():
    """Import MuJoCo, with an off-screen OpenGL that works here, as the global `mujoco`."""
    global mujoco
    if not (find_spec("mujoco") and find_spec("metaworld")):
        raise UserError("tasks need mujoco and metaworld; install with: pip install -r requirements.txt")
    pick_gl()
    import mujoco
    mujoco.set_mju_user_warning(lambda message: None)  # `truncated` tells; this would fill MUJOCO_LOG.TXT


def simplify(model, unseen, cell=0.004):
    """Make a compiled model cheap to draw: hide bodies `unseen`, merge corners within `cell` metres."""
    model.mat_reflectance[:] = model.light_castshadow[:] = 0
    model.vis.quality.numslices, model.vis.quality.numstacks = 12, 8  # of a rod: MuJoCo takes 28 and 16
    model.vis.quality.numquads = 1  # of a box's edge: 4
    bodies = [model.body(i).name in unseen for i in model.geom_bodyid]
    model.geom_group[(model.geom_rgba[:, 3] == 0) | bodies] = 5  # a group that is not drawn
    for mesh in np.flatnonzero(model.mesh_facenum > 2000):
        corners = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]  # (V, 3)
        _, first, cube = np.unique(np.round(corners / cell), axis=0, return_index=True, return_inverse=True)
        rows = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        faces = first[cube.reshape(-1)][model.mesh_face[rows]]  # (F, 3)
        _, kept = np.unique(faces, axis=0, return_index=True)
        kept = kept[(np.diff(np.sort(faces[kept], 1), axis=1) > 0).all(1)]  # with three different corners
        model.mesh_face[rows][: len(kept)] = faces[kept]
        model.mesh_facenormal[rows][: len(kept)] = model.mesh_facenormal[rows][kept]
        model.mesh_facenum[mesh] = len(kept)


# %% [markdown]
r"""
**Control.** A policy shifts a *mocap body*, which nothing can stop, and a *weld* drags the hand after it like
a stiff spring: $m \leftarrow \mathrm{clip}(m + \lambda\, a_{xyz},\ \text{box})$ for an action $a \in [-1,
1]^n$. The reward is 1 on *every* step with success: a return of 80 means 80 good steps.

**A goal picture** is drawn by the policy's camera: hand and objects are put where they are in the authors'
picture (fitted, to about 1 cm). **A script** solves each task from positions, not pixels: the good rollouts
by which a distance is judged below.

**Your own robot**, if its hand follows a mocap body, is one more subclass: its `scene` is an MJCF file with
bodies `mocap` and `hand`; for torque control, override `step`. Any other environment that shows pictures does
too: the reward is a wrapper, its goal may be a photo.
"""

# %%
class SawyerTask(gym.Env):
    """A hand that follows a mocap body. Observation: uint8 (H, W, 3). Reward: 1 on success, else 0.

    A subclass sets the MJCF `scene`, `camera`, `size`, `action_size`, `episode_length`, `substeps`; of the
    mocap body `metres_per_action`, `box`, `grip_quat`; `object`, a joint; `goals`, a list of (hand, {joint:
    position}), one per stage; and `enough`, the progress that is success. It defines `place` (objects at
    reset), `control` (action -> hand's shift, fingers), `progress`, `reach` (where the oracle wants the hand)
    and `scripted_action`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    unseen = ()  # bodies not to draw
    mirror, samples = np.s_[:], 0  # how to index the picture; multisampling of the faithful one
    settling = ()  # what `follow` does before the first reset
    pace, miss = 1.0, (0, 0, 0.1)  # of the recorded script; by how much the failed hand misses
    carries_over, upright = False, None  # does speed survive `authors`' reset? what never tips over
    drawing, process = weakref.WeakSet(), None  # the tasks that have OpenGL open, and their process

    def __init__(self, size=None, quality="fast", render_mode="rgb_array", authors=False):
        import_mujoco()
        self.size, self.authors = tuple(size or self.size), authors
        self.render_mode, self.renderer = render_mode, None
        self.observation_space = gym.spaces.Box(0, 255, (*self.size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (self.action_size,), np.float32)
        self.model = mujoco.MjModel.from_xml_string(compose(self.scene))
        self.model.vis.global_.offheight, self.model.vis.global_.offwidth = self.size
        self.model.vis.quality.offsamples = {"fast": 0, "faithful": self.samples}[quality]
        if quality == "fast":
            simplify(self.model, self.unseen)
        self.view = self.camera  # a name in the scene, or the numbers of a free camera
        if isinstance(self.camera, dict):
            self.view = mujoco.MjvCamera()
            for name, value in self.camera.items():
                setattr(self.view, name, value)
        self.data = mujoco.MjData(self.model)
        for motion in self.settling:
            self.follow(*motion)
        self.settled = copy.copy(self.data)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.restore()
        return self.picture(), self.info()

    def restore(self):
        """Return to the settled arm, and place the objects."""
        if not (self.authors and self.carries_over):
            self.data = copy.copy(self.settled)
        self.place()

    def step(self, action):
        """Shift the mocap body, simulate, look. A simulation that explodes ends the episode (`truncated`)."""
        action = np.asarray(action, float)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise UserError(f"an action is {self.action_size} finite numbers from -1 to 1; got {action}")
        shift, fingers = self.control(np.clip(action, -1, 1))
        mocap = self.data.mocap_pos[0] + self.metres_per_action * np.array(shift)
        self.follow(np.clip(mocap, *self.box), fingers, self.substeps)
        if self.upright:
            self.data.joint(self.upright).qpos[3:] = (1, 0, 0, 0)
        info = self.info()
        return self.picture(), float(info["success"]), False, bool(self.data.warning.number.any()), info

    def follow(self, mocap, fingers, substeps):
        """Put the mocap body at (3,) metres, set the fingers' control, and simulate."""
        self.data.mocap_pos[0], self.data.mocap_quat[0] = mocap, self.grip_quat
        self.data.ctrl[:] = fingers
        mujoco.mj_step(self.model, self.data, substeps)

    def picture(self):
        """Draw what the camera sees: uint8 (H, W, 3)."""
        if self.renderer is None:
            if SawyerTask.process not in (None, os.getpid()):
                raise UserError("OpenGL does not survive a fork; give context='spawn' to AsyncVectorEnv")
            self.renderer = mujoco.Renderer(self.model, *self.size)
            if SawyerTask.process is None:  # closed before OpenGL itself, or there would be errors at exit
                SawyerTask.process = os.getpid()
                atexit.register(lambda: [task.close() for task in list(SawyerTask.drawing)])
            SawyerTask.drawing.add(self)
        self.renderer.update_scene(self.data, self.view)
        return np.ascontiguousarray(self.renderer.render()[self.mirror])

    render = picture

    def close(self):
        if self.renderer is not None:
            self.renderer.close()
            self.renderer = None

    @property
    def hand(self):
        """Position of the hand, (3,) metres."""
        return self.data.body("hand").xpos.copy()

    def joint(self, name):
        """Position of a joint, (1,) metres or radians, or of a free body, (7,): xyz and quaternion."""
        return self.data.joint(name).qpos.copy()

    def put(self, **joints):
        """Set joints to positions, at rest."""
        for name, position in joints.items():
            self.data.joint(name).qpos, self.data.joint(name).qvel = position, 0

    def info(self):
        """What the policy must not see: success, positions, and the dense reward a programmer would write."""
        success = bool(self.progress() > self.enough)
        oracle = float(success + self.progress() - np.linalg.norm(self.hand - self.reach))
        return {"success": success, "oracle_reward": oracle, "hand": self.hand,
                "object": self.joint(self.object)[:3]}

    def toward(self, target, *others):
        """Action that moves the mocap body straight toward a target (3,), with further entries as given."""
        shift = (np.array(target) - self.data.mocap_pos[0]) / self.metres_per_action
        return np.array([*(shift / max(1, np.abs(shift).max())), *others], np.float32)

    def failed_action(self):
        """Looks right and is not: the hand goes near its place in the goal picture, without the object."""
        return self.toward(np.array(self.goals[-1][0]) + self.miss, 0, 0)[: self.action_size]

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
        """Draw each stage's goal, (H, W, 3); hand or objects may stay at their start. Reset afterwards."""
        self.reset(seed=0)
        images, start = [], {name: self.joint(name) for name in self.goals[-1][1]}
        for place, joints in self.goals:
            self.pose(place if hand else None, joints if objects else start)
            images.append(self.picture())
        return images


# %% [markdown]
r"""
**Pushing**: the cup (the authors' puck) goes onto the black square. Two actions move the hand in the plane;
its height creeps from 7 to 5 cm. The cup starts up to 10 cm to a side.

**Drawer open**: pull a drawer of 5 tonnes (only the weld is strong enough), all boxes, from the first
metaworld. One goal picture does not teach it, says the paper: the hand goes where it is in the picture,
without the drawer. So there are **two**: hand at the handle, and drawer open.

**Close drawer, cup forward, faucet right** share a scene. One action shifts the level hand by up to 5 cm,
twice as far as the cup has to go: easy tasks, for comparing rewards, also with an *oracle*, the dense reward
of a programmer who sees the state.
"""

# %%
class Pushing(SawyerTask):
    """Push the cup onto the square. Numbers: authors' code (multiworld), unless said otherwise."""

    scene, unseen = "pushing.xml", ("right_l0", "head", "right_l1", "right_l2")
    camera = {"azimuth": 270, "elevation": -60, "distance": 0.45, "lookat": (0, 0.85, 0.45)}
    size, mirror = (48, 48), np.s_[:, ::-1]
    action_size, metres_per_action = 2, 0.02
    episode_length, substeps = 100, 50
    box, grip_quat = ((-0.28, 0.3, 0.05), (0.28, 0.9, 0.3)), (1, 0, 1, 0)  # gripper down
    object, enough = "puck", -0.06
    goals = [((-0.035, 0.66, 0.05), {"puck": (0.007, 0.754, 0, 1, 0, 0, 0)})]  # fitted
    arm = (1.7244448, -0.92036369, 0.10234232, 2.11178144, 2.97668632, -0.38664629, 0.54065733)
    target, carries_over = (0, 0.75), True

    def place(self):
        self.data.qpos[:7] = self.arm
        self.data.mocap_pos[0], self.data.mocap_quat[0] = (0, 0.2, 0.07), self.grip_quat  # outside the box
        puck = (self.np_random.uniform(-0.1, 0.1), 0.6, 0.02, 1, 0, 0, 0)
        self.put(puck=puck, square=(*self.target, 0.02, 1, 0, 0, 0))
        mujoco.mj_forward(self.model, self.data)

    def control(self, action):
        return (*action, 0.05 - self.data.mocap_pos[0, 2]), 1  # fingers closed

    def progress(self):  # twice the L1 distance; twice, and the oracle, are ours: the paper has none here
        return -2 * np.abs(self.joint("puck")[:2] - self.target).sum()

    @property
    def reach(self):
        return (*self.joint("puck")[:2], self.hand[2])

    def scripted_action(self):
        """Go behind the cup, on its line to the square, and push along the line."""
        puck, hand = self.joint("puck")[:2], self.hand[:2]
        ahead = (self.target - puck) / np.linalg.norm(self.target - puck)
        beside = (hand - puck) @ (ahead[1], -ahead[0])
        behind = abs(beside) < 0.006 and (hand - puck) @ ahead < 0
        push = self.toward((*(puck if behind else puck - 0.08 * ahead), self.data.mocap_pos[0, 2]))[:2]
        return push * (self.progress() <= self.enough)


# %%
class DrawerOpen(SawyerTask):
    """Open the drawer. Numbers: authors' code (metaworld, first version), unless said otherwise."""

    scene = "drawer_open.xml"
    unseen = ("right_l0", "head", "right_l1", "right_l2", "right_l3", "right_arm_base_link", "pedestal")
    camera = {"azimuth": -30, "elevation": -135, "distance": 0.5, "lookat": (0, 0.6, 0.2)}
    size, mirror = (48, 48), np.s_[::-1]
    action_size, metres_per_action = 4, 0.01
    episode_length, substeps = 200, 5
    box, grip_quat = ((-0.5, 0.4, 0.05), (0.5, 1, 0.5)), (1, 0, 1, 0)  # gripper down
    settling = [((0, 0.5, 0.25), (-1, 1), 99)]
    object, enough = "drawer", -0.16
    goals = [((0, 0.69, 0.131), {"drawer": 0}), ((0, 0.455, 0.093), {"drawer": -0.2})]  # fitted

    def place(self):  # the hundredth substep: the picture shows the positions before it, as in the original
        mujoco.mj_step(self.model, self.data)

    def control(self, action):
        return (0, action[1], action[2]), (action[3], -action[3])  # fingers open at -1, closed at 1

    def progress(self):  # twice, and the oracle, are ours
        return -2 * abs(self.joint("drawer")[0] + 0.2)

    @property
    def reach(self):  # the handle
        return np.array((0, 0.69 + self.joint("drawer")[0], 0.125))

    def scripted_action(self):
        """Over the handle, down behind its bar, and pull."""
        (_, y, z), handle = self.hand, self.reach
        if z > 0.16 and y < handle[1] - 0.03:
            return self.toward((0, handle[1] + 0.1, 0.2), 0)
        return self.toward(handle if z > 0.14 else (0, 0.4, 0.125), 0)


# %%
class DVDTask(SawyerTask):
    """What the three tasks share. Numbers: authors' code (dvd_sim_envs), unless said otherwise."""

    scene, unseen = "dvd.xml", ("right_l0", "head", "right_l1", "right_arm_base_link", "pedestal")
    camera, samples = "cam0", 4
    size, mirror = (120, 180), np.s_[::-1]
    action_size, metres_per_action = 5, 0.05
    episode_length, substeps = 60, 5
    box, grip_quat = ((-0.4, 0.4, 0), (0.4, 0.8, 0.2)), (0.5, 0, 0, 0.5)  # gripper level
    settling = [((0, 0.5, 0.02), (-1, 1), 500), ((0, 0.5, 0.02), (0, 0), 500)]  # the mug is knocked about
    miss, pace = (0, -0.12, 0), 0.3  # at full speed the scripts are over in ten steps
    start, upright = {"mug": (0, 0.6, 0, 1, 0, 0, 0), "drawer": -0.07, "button": 0, "faucet": 0}, "mug"

    def place(self):
        self.put(**self.start)
        mujoco.mj_forward(self.model, self.data)

    def control(self, action):
        return action[:3], (action[4], -action[4])  # fingers open at -1, closed at 1


class CloseDrawer(DVDTask):
    """Push the drawer shut, to less than 5 cm."""

    object, goals = "drawer", [((0.24, 0.57, 0.06), {**DVDTask.start, "drawer": 0})]  # fitted
    enough, reach = -0.05, (0.25, 0.62, 0.06)

    def progress(self):
        return self.joint("drawer")[0]

    def scripted_action(self):  # go before the handle, and push
        return self.toward((0.25, 0.62 if abs(self.hand[0] - 0.25) < 0.03 else 0.42, 0.07), 0, 0)


# %%
class CupForward(DVDTask):
    """Push the cup forward, to less than 7.5 cm from a point."""

    object, goals = "mug", [((-0.07, 0.658, 0.046), {**DVDTask.start, "mug": (-0.045, 0.735, 0, 1, 0, 0, 0)})]
    enough, reach = -0.075, (0, 0.7, 0)  # authors' code: the hand should be at the target, not at the cup

    def progress(self):
        return -np.linalg.norm(self.joint("mug")[:3] - self.reach)

    def scripted_action(self):  # push until the cup is there
        return self.toward((0, 0.7, 0.03) if self.joint("mug")[1] < 0.69 else self.data.mocap_pos[0], 0, 0)


class FaucetRight(DVDTask):
    """Turn the faucet's lever to the right of the picture."""

    object, goals = "faucet", [((-0.3, 0.52, 0.1), {**DVDTask.start, "faucet": -0.69})]
    enough, reach = 0.01, (-0.27, 0.53, 0.11)

    def progress(self):
        return -self.joint("faucet")[0]

    def scripted_action(self):  # go beside the lever, and across
        beside = self.hand[1] > 0.52 and self.hand[2] > 0.1
        return self.toward((-0.36, 0.55, 0.12) if beside else (-0.17, 0.56, 0.13), 0, 0)


# %%
TASKS = {"pushing": Pushing, "drawer_open": DrawerOpen, "close_drawer": CloseDrawer,
         "cup_forward": CupForward, "faucet_right": FaucetRight}
for task in TASKS.values():
    gym.register(f"hold/{task.__name__}-v0", task, max_episode_steps=task.episode_length)


def task_size(name, height=0):
    """Size (height, width) of a task's picture with so many rows; 0 rows: the paper's size."""
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; choose one of {', '.join(TASKS)}")
    rows, columns = TASKS[name].size
    return (height, round(height * columns / rows)) if height else (rows, columns)


def make_task(name, size=None, quality="fast", render_mode="rgb_array", authors=False):
    """Make a task under its time limit, as `gym.make("hold/Pushing-v0")` does; `size` is (height, width).

    `quality` "faithful" draws shadows and smooth edges; `authors` lets Pushing's speed survive a reset.
    """
    task = TASKS[name](size or task_size(name), quality, render_mode, authors)
    return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(task), task.episode_length)


if __name__ == "__main__":  # starts, and goals below
    figure, axes = plt.subplots(1, 5, figsize=(11, 4), width_ratios=(1, 1, 1.5, 1.5, 1.5))
    for axis, name in zip(axes, TASKS):
        task = TASKS[name]()
        axis.imshow(np.concatenate([task.reset(seed=0)[0], *task.goal_images()]))
        axis.set(title=name, xticks=[], yticks=[])
        task.close()
    show(figure, f"{config.out}/tasks.png")

# %% [markdown]
r"""
## 2. The reward

At the goal the distance between a camera picture $s$ and a goal picture $g$ is not zero for every model: a
network that looks at both together may say $d(g, g) = 7$. So we count from there, $x(s) = d(s, g) - d(g, g)$.
The step from $s$ to $s'$ pays, by the paper's text and the authors' code,

$$r = -\frac{\max(0,\ x(s'))}{T} + r_\text{sparse},$$

for the picture that the action *led to*. $T$ is such that the start scores about $-\frac13$, against the 1 of
success. Of the four forms the tests prove each entry by value iteration on a small world:

| `form` | pays | alone, exact $d$ | with the sparse reward | wrong $d$ |
|---|---|---|---|---|
| `cumulative` | $-\max(0, x')/T$ | best policy kept | kept | can mislead |
| `instantaneous` (paper's ablation) | $(\max(0, x) - \max(0, x'))/T$ | kept | kept | can mislead |
| `printed` (paper's Eq. 4) | $-\max(0, x' - x)/T$ | lost: standing still is as good | kept | can mislead |
| `potential` (Ng, 1999) | $\gamma\Phi(s') - \Phi(s)$, $\Phi = -x/T$ | lost: all tie | kept | **kept** |
"""

# %%
def reward_from_distances(previous, current, scale, form="cumulative", gamma=0.95, previous_cost=0, cost=0):
    """Reward of the step from s to s', given x(s) and x(s'), (B,) or scalars; `scale` is T.

    `gamma`, the discount, is for "potential". The costs of goals still to come are added after clamping.
    """
    near, far = np.maximum(0, current) + cost, np.maximum(0, previous) + previous_cost
    now, before = np.add(current, cost), np.add(previous, previous_cost)
    forms = {"cumulative": -near, "instantaneous": far - near, "printed": -np.maximum(0, now - before),
             "potential": before - gamma * now}
    if form not in forms or not scale > 0:
        raise UserError(f"T is {scale}, and must be positive; form is {form!r}: one of {', '.join(forms)}")
    return forms[form] / scale


nearer_back_past = np.array([6.0, 3.0, 3.0]), np.array([3.0, 6.0, -1.0])
assert reward_from_distances(*nearer_back_past, scale=3).tolist() == [-1, -2, 0]
reward_from_distances(*nearer_back_past, 3, "printed")

# %% [markdown]
r"""
**Two goals.** The drawer's reward aims at the first goal until $\max(0, x)$ is below a threshold on three
steps in a row; the new goal is in force, and in the policy's sight, from the next observation on. Each goal
still to come costs extra, lest the policy linger where it was paid well: ours is its distance from the goal
before, so that the reward is minus the length of the way through all goals, and no switch loses. The authors
add a constant, $T / 5$. Where the second goal is farther than that, whoever reaches the first is paid less
ever after, and a policy learns to hover outside the threshold. As in the released code $T$ looks at the first
goal alone: with two, the start scores $-\frac13$ *and* the cost.

**A video of goals** (`time_indexed`): step $t$ is compared with frame $t$ of a demonstration, as TCN needs.
**Motion**: a distance with a `history` above 1 gets so many frames; before the first one it stands still.
"""

# %%
def measure(distance, frames, goal):
    """d(frames, goal), float (B,), checked: uint8 (B, history, H, W, 3), oldest first, and (H, W, 3).

    `distance` is a callable (frames, goal) -> (B,), array or tensor, maybe with a `device`, and a `history`:
    above 1 it gets the frames like this, else the last ones, (B, H, W, 3).
    """
    frames = frames if getattr(distance, "history", 1) > 1 else frames[:, -1]
    device = torch.device(getattr(distance, "device", "cpu")).type
    with torch.autocast(device, enabled=device == "cuda"):
        found = torch.as_tensor(distance(frames, goal)).detach().cpu().double().numpy()
    if found.shape != frames.shape[:1] or not np.isfinite(found).all():
        raise UserError(f"for {len(frames)} frames the distance gave {found.shape} values, or NaN; "
                        "it must give one finite number each, (B,)")
    return found


def pixel_distance(frames, goal):
    """L2 norm of the difference of pixels in [0, 1], on the centre square: the paper's weakest baseline."""
    side = min(goal.shape[:2])
    top, left = (goal.shape[0] - side) // 2, (goal.shape[1] - side) // 2
    change = (frames / 255.0 - goal / 255.0)[:, top : top + side, left : left + side]
    return np.linalg.norm(change.reshape(len(frames), -1), axis=1)


pixel_distance(np.zeros((1, 2, 4, 3)), np.full((2, 4, 3), 255))  # sqrt(2 * 2 * 3)

# %%
class GoalReward(gym.Wrapper):
    """Pay for pictures that come closer to a goal picture.

    Args:
        env: any environment with uint8 image observations (H, W, 3).
        distance: callable (frames, goal) -> (B,); see `measure`.
        goals: a picture (H, W, 3), a list of them (stages), or with `time_indexed` a video (N, H, W, 3).
        scale: T; None: three times the mean x at the start of eight episodes.
        sparse_weight: of the environment's own reward. `form`, `gamma`: see `reward_from_distances`.
        threshold, hold_steps: a stage ends after so many steps in a row with max(0, x) below the threshold;
            None: a tenth of the automatic T, whatever `scale` is.
        stage_cost: distance added for each later goal; None: the distance from goal to goal.
        goal_in_observation: stack the goal in force behind the picture's channels, (H, W, 6).

    `info` holds "distance" (raw), "stage" (goal it was measured to), "reward_distance", "reward_sparse".
    """

    def __init__(self, env, distance, goals, scale=None, sparse_weight=1.0, form="cumulative", threshold=None,
                 hold_steps=3, stage_cost=None, gamma=0.95, time_indexed=False, goal_in_observation=False):
        super().__init__(env)
        reward_from_distances(0, 0, 1 if scale is None else scale, form)  # refuses what it does not know
        self.distance, self.sparse_weight = distance, sparse_weight
        self.goals = self._check(goals if isinstance(goals, list) or np.ndim(goals) == 4 else [goals])
        self.scale, self.threshold = scale, threshold
        self.form, self.gamma = form, gamma
        self.hold_steps, self.goal_in_observation = hold_steps, goal_in_observation
        self.time_indexed, self.last_stage = time_indexed, 0 if time_indexed else len(self.goals) - 1
        self.baseline = np.zeros(len(self.goals))
        self.baseline = np.array([self._x(self._still(goal), i) for i, goal in enumerate(self.goals)])
        ways = [self._x(self._still(self.goals[i]), i + 1) for i in range(self.last_stage)]
        ways = np.maximum(0, ways) if stage_cost is None else np.full(self.last_stage, stage_cost)
        self.costs = np.zeros(len(self.goals))  # of the goals still to come
        self.costs[: self.last_stage] = ways[::-1].cumsum()[::-1]
        if scale is None or (threshold is None and self.last_stage):
            self._measure_starts()
        if goal_in_observation:
            self.observation_space = gym.spaces.Box(0, 255, (*self.goals.shape[1:3], 6), np.uint8)

    def _check(self, goals):
        space, shapes = self.env.observation_space, {np.shape(goal) for goal in goals}
        goals = np.stack(goals) if len(shapes) == 1 else np.zeros(0)
        alike = space.dtype == goals.dtype == np.uint8 and goals.shape[1:] == space.shape
        if not alike or goals.ndim != 4 or goals.shape[-1] != 3 or goals.max() <= 1:
            raise UserError(f"goals are {goals.dtype} {shapes}, observations {space}; both must be uint8 "
                            "pictures of the same shape (H, W, 3), from 0 to 255, and one goal at least")
        return goals

    def _measure_starts(self):
        goal = len(self.goals) - 1 if self.time_indexed else 0  # a video begins at the start itself
        starts = [self._x(self._still(self.env.reset(seed=seed)[0]), goal) for seed in range(8)]
        self.env.reset(seed=int(np.random.SeedSequence().entropy % 2**31))  # or all episodes would be alike
        start, least = float(np.mean(starts)), self.threshold or 0 if self.last_stage else 0
        if not start > least:
            raise UserError(f"by this distance the start is {start:.3g} from the goal, and must be more than "
                            f"{least:.3g}; give scale and threshold, or another goal picture")
        self.scale = 3 * start if self.scale is None else self.scale
        self.threshold = 0.3 * start if self.threshold is None else self.threshold

    def _still(self, picture):
        return np.repeat(picture[None], getattr(self.distance, "history", 1), 0)  # (history, H, W, 3)

    def _x(self, frames, goal):
        return measure(self.distance, frames[None], self.goals[goal]).item() - self.baseline[goal]

    def reset(self, **kwargs):
        """Begin an episode: memory, stage, hits and time start anew."""
        picture, info = self.env.reset(**kwargs)
        self.frames = self._still(picture)
        self.goal = self.hits = self.time = 0
        self.previous = self._x(self.frames, 0), self.costs[0]
        return self._seen(picture), {**info, "distance": self.previous[0] + self.baseline[0], "stage": 0}

    def step(self, action):
        """Step, and score the picture it led to."""
        picture, sparse, terminated, truncated, info = self.env.step(action)
        self.frames = np.concatenate([self.frames[1:], picture[None]])
        self.time += 1
        if self.time_indexed:
            self.goal = min(self.time, len(self.goals) - 1)
        goal, (x_before, cost_before) = self.goal, self.previous
        x, cost = self._x(self.frames, goal), self.costs[goal]
        learned = reward_from_distances(x_before, x, self.scale, self.form, self.gamma, cost_before, cost)
        self.previous = x, cost
        if goal < self.last_stage:
            self.hits = self.hits + 1 if max(0, x) < self.threshold else 0
            if self.hits == self.hold_steps:
                self.goal, self.hits = goal + 1, 0
        info = {**info, "distance": x + self.baseline[goal], "stage": goal, "reward_distance": float(learned),
                "reward_sparse": float(sparse)}
        reward = float(learned + self.sparse_weight * sparse)
        return self._seen(picture), reward, terminated, truncated, info

    def _seen(self, picture):
        return np.concatenate([picture, self.goals[self.goal]], -1) if self.goal_in_observation else picture


# %% [markdown]
r"""
### Look before you train

Training takes minutes or days, a look seconds. Four rollouts: the script's success, the
same frames backwards, a failure (the hand goes where it is in the goal picture, without the object), and
random play. A useful distance falls along success and stays up on the failure. Where the failure scores as
well, the distance alone will teach the arm's pose, not the task. Even so it can help: hand and object meet on
the way, and the sparse reward pays.

The **sanity table** says what a run will be paid. `--look` compares distances, pixels first, in `scores.csv`:
`contrast` is $1 - \bar x / \bar x_\text{random}$, $\bar x$ being the mean of $\max(0, x)$ at the last 3
frames of success, wanted near 1; `failed` the same for the failure, wanted far below; `spearman` the rank
correlation of $-x$ with time along success; `hand_alone` and `object_alone` by what share the start's
$\max(0, x)$ falls when one of the two alone moves to its goal.
"""

# %%
def recordings(name, size=None, quality="fast", seed=4):
    """Rollouts of one length, {kind: (frames (T, H, W, 3), success (T,), stage (T,))}, and the goals.

    Success ends when the script rests; the second goal counts once the object moves. Seed 4: cup aside.
    """
    env, rng = make_task(name, size, quality), np.random.default_rng(seed)
    policies = {"success": lambda task: task.pace * task.scripted_action(),
                "failed": lambda task: task.pace * task.failed_action(),
                "random": lambda task: rng.uniform(-1, 1, task.action_size)}
    rollouts, goals = {}, env.unwrapped.goal_images()
    length = math.inf
    for kind, policy in policies.items():
        picture, first = env.reset(seed=seed)
        record, rest = [(picture, first["success"], 0)], 0
        ended = False
        while not ended and len(record) < length and rest < 3:
            action = policy(env.unwrapped)
            picture, _, terminated, truncated, info = env.step(action)
            moved = len(goals) > 1 and np.abs(info["object"] - first["object"]).max() > 0.002
            record.append((picture, info["success"], int(moved)))
            rest = rest + 1 if kind == "success" and info["success"] and np.abs(action).max() < 0.05 else 0
            ended = terminated or truncated
        rollouts[kind] = tuple(map(np.array, zip(*record)))
        length = len(record)
        if kind == "success":
            rollouts["reverse"] = tuple(part[::-1] for part in rollouts[kind])
    env.close()
    return rollouts, goals


# %%
def distance_along(distance, frames, goals, stages):
    """x = d(s_t, g) - d(g, g) along frames (T, H, W, 3), to the goal of each frame's stage (T,): (T,)."""
    past = np.arange(1 - getattr(distance, "history", 1), 1)
    windows = frames[np.maximum(0, np.arange(len(frames))[:, None] + past)]  # (T, history, H, W, 3)
    x = np.zeros(len(frames))
    for stage in np.unique(stages):
        still = np.repeat(goals[stage][None, None], len(past), 1)
        d = measure(distance, np.concatenate([still, windows[stages == stage]]), goals[stage])
        x[stages == stage] = d[1:] - d[0]
    return x


def along_rollouts(distance, rollouts, goals):
    """`distance_along` each rollout of `recordings`: {kind: x (T,)}."""
    return {kind: distance_along(distance, roll[0], goals, roll[2]) for kind, roll in rollouts.items()}


def look_figure(name, rollouts, goals, curves):
    """Goals and strips of the rollouts over `curves`, {distance: {kind: x along it}}; returns the figure."""
    x = list(curves.values())[-1]
    figure = plt.figure(figsize=(11, 1.1 * len(rollouts) + 2.8))
    strips, below = figure.subfigures(2, 1, height_ratios=(1.1 * len(rollouts), 2.8))
    for axis, (kind, (frames, *_)) in zip(strips.subplots(len(rollouts), 1), rollouts.items()):
        gap = np.full((len(frames[0]), 3, 3), 255)
        axis.imshow(np.concatenate([*goals, gap, *frames[np.linspace(0, len(frames) - 1, 8).astype(int)]], 1))
        axis.set(title=f"{name}: goal, {kind} ({x[kind][0]:.2f} to {x[kind][-1]:.2f})", xticks=[], yticks=[])
    for axis, (label, along) in zip(below.subplots(1, len(curves), squeeze=False).flat, curves.items()):
        for kind, values in along.items():
            axis.plot(values, label=kind)
        axis.set(title=label, xlabel="step", ylabel="d(s, g) - d(g, g)", ylim=(0, None))
        axis.legend()
    return figure


def open_distance(config):
    """The distance of a run, trained first if it is missing; None for "none" and "oracle"."""
    if config.distance in ("none", "oracle", "pixels"):
        return pixel_distance if config.distance == "pixels" else None
    ensure(config.distance)
    return load_distance(config.distance, pick_device(config.device))


if __name__ == "__main__" and not config.look:
    distance = open_distance(config)
    rollouts, goals = recordings(config.task, task_size(config.task, config.height), config.quality)
    curves = {"pixels": along_rollouts(pixel_distance, rollouts, goals)}
    if distance:
        curves[config.distance] = along_rollouts(distance, rollouts, goals)
    show(look_figure(config.task, rollouts, goals, curves), f"{config.out}/look.png")

# %%
def sanity_table(rollouts, along, env):
    """Print and return {moment: (x, cumulative reward)} for a run's `GoalReward`; later goals cost."""
    moments = {"start": ("success", 0), "end of success": ("success", -1),
               "best of failure": ("failed", along["failed"].argmin()), "end of random play": ("random", -1)}
    table = {}
    for moment, (kind, at) in moments.items():
        x, cost = along[kind][at], env.costs[min(rollouts[kind][2][at], len(env.costs) - 1)]
        table[moment] = float(x), float(reward_from_distances(0, x, env.scale, cost=cost))
        print(f"{moment:20} x = {x:7.3f}   reward = {table[moment][1]:7.3f}   with T = {env.scale:.3g}")
    return table


def drop(far, near):
    """By what share max(0, x) falls, in the mean, from some frames to others."""
    far, near = (float(np.maximum(0, x).mean()) for x in (far, near))
    return 1 - near / far if far > 0 else math.nan


def score_rollouts(distance, rollouts, goals, pictures):
    """Score a distance, a dict per stage; `pictures`: start, hand and object alone, (3, stages, H, W, 3)."""
    rows, stages = [], rollouts["success"][2]
    for stage in np.unique(stages):
        x = lambda frames: distance_along(distance, frames, goals, np.full(len(frames), stage))
        success, random, failed = (x(rollouts[kind][0]) for kind in ("success", "random", "failed"))
        success, (start, hand, thing) = success[stages == stage], x(pictures[:, stage])
        rows.append({"stage": int(stage) + 1,
                     "spearman": float(spearmanr(-success, np.arange(len(success))).statistic),
                     "contrast": drop(random, success[-3:]), "failed": drop(random, failed[-3:]),
                     "hand_alone": drop(start, hand), "object_alone": drop(start, thing)})
    return rows


# %%
def look(config):
    """Score distances on tasks, draw them, and write scores.csv; returns the rows."""
    found = config.distances or sorted(map(str, Path("runs").glob("*/distance.pt2")))
    rows, distances = [], {"pixels": pixel_distance}
    distances |= {path: load_distance(path, pick_device(config.device)) for path in found}
    for name in tqdm(config.tasks or TASKS, "tasks"):
        size = task_size(name, config.height)
        (rollouts, goals), curves = recordings(name, size, config.quality), {}
        task = TASKS[name](size, config.quality)
        pictures = np.stack([task.goal_images(*which) for which in ((0, 0), (1, 0), (0, 1))])
        task.close()
        for path, distance in distances.items():
            curves[path] = along_rollouts(distance, rollouts, goals)
            label = path if distance is pixel_distance else distance.meta["name"]
            for scores in score_rollouts(distance, rollouts, goals, pictures):
                rows.append({"distance": path, "name": label, "task": name, **scores})
        show(look_figure(name, rollouts, goals, curves), f"{config.out}/{name}.png")
        write_video(f"{config.out}/{name}-success.mp4", rollouts["success"][0], fps=10)
    write_csv(f"{config.out}/scores.csv", rows)
    print(*rows[0], sep="\t")
    for row in rows:
        print(*(f"{value:.2f}" if isinstance(value, float) else value for value in row.values()), sep="\t")
    return rows


if __name__ == "__main__" and config.look:
    look(config)

# %% [markdown]
r"""
## 3. Soft actor-critic

The reward is there; now somebody has to collect it. SAC (Haarnoja et al. 2018) maximises reward and entropy,

$$J(\pi) = \mathbb E \sum_t \gamma^t \bigl( r_t + \alpha \, \mathcal H(\pi(\cdot \mid s_t)) \bigr),$$

since a learned reward is smooth and often wrong: a policy that commits to the first uphill direction finds
its nearest flaw; one that is paid for staying random tries longer.

**The policy** draws $u \sim \mathcal N(\mu(s), \sigma(s))$ and acts with $a = \tanh u$, so actions stay in
$[-1, 1]$. Squashing changes the density by the slope of tanh,

$$\log \pi(a \mid s) = \sum_i \log \mathcal N(u_i; \mu_i, \sigma_i) - \log (1 - \tanh^2 u_i),$$

and $1 - \tanh^2 u$ rounds to 0 for $|u| > 9$ in float32. The same logarithm, written as
$2(\log 2 - u - \mathrm{softplus}(-2u))$, stays finite.
"""

# %%
def squashed_gaussian(mean, log_std, noise):
    """Reparameterised tanh-Gaussian: (B, A) each -> action tanh(u) (B, A) and log-probability (B,)."""
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (log_normal - log_slope).sum(-1)


zero = torch.zeros(1, 1)
assert abs(squashed_gaussian(zero, zero, zero)[1].exp() - 0.3989) < 1e-4  # the density N(0; 0, 1)
squashed_gaussian(zero + 30, zero, zero)  # action 1, and a finite log-probability

# %% [markdown]
r"""
**From pixels to features.** The authors' code gives policy and critics an encoder each: two blocks of 5x5
convolution with 8 filters, ReLU and 2x2 max-pooling, slow on a CPU. Our `strided` encoder shrinks the picture
eightfold in two layers, one serves all, and only the critics train it (as in DrQ): the policy sees
`features.detach()`, since its gradient is known to spoil shared features. A critic on few pictures learns
them by heart; DrQ's cure is `random_shift`: pad by four pixels and crop back at a random place. The authors'
code draws one offset for the whole batch; one for each picture is the usual form, and ours.
"""

# %%
def make_encoder(kind, shape):
    """Encoder of images of `shape` (H, W, C): float (B, C, H, W) -> (B, F). The identity for vectors (D,)."""
    if len(shape) == 1:
        return nn.Identity()
    if kind == "paper":  # authors' code: no dense layer, no normalisation
        block = lambda c: [nn.Conv2d(c, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*block(shape[2]), *block(8), nn.Flatten())
    layers = [nn.Conv2d(shape[2], 16, 6, stride=4, padding=1), nn.ReLU(),
              nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()]
    flat = nn.Sequential(*layers)(torch.zeros(1, shape[2], *shape[:2])).shape[1]
    return nn.Sequential(*layers, nn.Linear(flat, 64), nn.LayerNorm(64), nn.Tanh())  # ours: the neck of DrQ


# %%
class Agent(nn.Module):
    """Policy, twin critics, temperature; for uint8 (B, H, W, C) or float (B, D), and actions (B, A)."""

    def __init__(self, shape, actions, encoder="strided", temperature=1.0):
        super().__init__()
        count = 3 if encoder == "paper" else 1
        self.encoders = nn.ModuleList(make_encoder(encoder, shape) for _ in range(count))
        width = self.encoders[0](torch.zeros(1, *np.roll(shape, 1))).shape[1]
        hidden = lambda inputs: [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        critic = lambda: nn.Sequential(*hidden(width + actions), nn.Linear(256, 1))
        self.critics = nn.ModuleList([critic(), critic()])
        self.actor = nn.Sequential(*hidden(width), nn.Linear(256, 2 * actions))
        self.log_alpha = nn.Parameter(torch.tensor(math.log(max(temperature, 1e-6))))

    def features(self, seen):
        """Features for critic 1, critic 2 and the policy, each (B, F)."""
        if seen.ndim == 4:
            seen = seen.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)  # (B, C, H, W)
        if len(self.encoders) == 1:
            shared = self.encoders[0](seen)
            return shared, shared, shared.detach()
        return tuple(encoder(seen) for encoder in self.encoders)

    def q(self, features, actions):
        """Both critics' values, (2, B)."""
        inputs = [torch.cat([z, actions], 1) for z in features]
        return torch.stack([critic(x).squeeze(1) for critic, x in zip(self.critics, inputs)])

    def policy(self, features, noise):
        """Action (B, A) and log-probability (B,); `noise` is standard normal (B, A)."""
        mean, log_std = self.actor(features[2]).chunk(2, 1)
        return squashed_gaussian(mean, log_std.clamp(-20, 2), noise)  # authors' code: these bounds

    @torch.no_grad()
    def act(self, seen, noise=torch.zeros(1)):
        """One action (A,) for one observation, with noise (1, A); without, the mean of the policy."""
        device = self.log_alpha.device
        features = self.features(torch.as_tensor(seen.copy(), device=device)[None])
        return self.policy(features, noise.to(device))[0][0].cpu().numpy()


# %%
class Replay:
    """All observations of a run, uint8 (H, W, C) or float32 (D,), and the transitions between neighbours.

    Each is stored once. No transition starts at an episode's last one, so none crosses a reset.
    """

    ARRAYS = ("frames", "actions", "rewards", "terminal", "starts", "good")

    def __init__(self, capacity, shape, actions):
        self.frames = np.empty((capacity, *shape), np.uint8 if len(shape) == 3 else np.float32)
        self.actions = np.empty((capacity, actions), np.float32)
        self.rewards, self.terminal = np.empty((2, capacity), np.float32)
        self.starts, self.good = np.empty((2, capacity), bool)  # a transition starts here; of a good episode
        self.filled = 0

    def add(self, seen, action=None, reward=0.0, terminal=False):
        """Store an observation, and the step that led to it but for an episode's first. Doubles when full."""
        if self.filled == len(self.frames):
            for name in self.ARRAYS:
                setattr(self, name, np.concatenate([getattr(self, name)] * 2))
        if action is not None:
            self.actions[self.filled - 1] = action
            self.rewards[self.filled - 1] = reward
            self.terminal[self.filled - 1] = terminal
            self.starts[self.filled - 1] = True
        self.frames[self.filled] = seen
        self.starts[self.filled] = self.good[self.filled] = False
        self.filled += 1

    def sample(self, batch, rng, share=0.0):
        """Draw (images, actions, rewards, terminal, next_images), arrays, uniformly with replacement.

        A `share` of the batch is drawn from transitions marked as good, once there are any.
        """
        starts = np.flatnonzero(self.starts[: self.filled])
        good = starts[self.good[starts]]
        i = rng.choice(starts, batch)
        if len(good):
            count = round(min(share, 1) * batch)
            i[:count] = rng.choice(good, count)
        return self.frames[i], self.actions[i], self.rewards[i], self.terminal[i], self.frames[i + 1]

    def state_dict(self):
        """The filled part of the memory, as tensors."""
        return {name: torch.from_numpy(getattr(self, name)[: self.filled]) for name in self.ARRAYS}

    def load_state_dict(self, state):
        """Take back what `state_dict` gave."""
        self.filled = len(state["frames"])
        for name in self.ARRAYS:
            setattr(self, name, np.concatenate([state[name].numpy(), getattr(self, name)[self.filled :]]))

# %%
memory = Replay(2, (1, 1, 1), actions=1)
for picture in (10, 11, 12, 20, 21, 22):  # two episodes of two steps
    memory.add(picture, action=None if picture % 10 == 0 else 0)
s, *_, s_next = memory.sample(50, np.random.default_rng(0))
assert {*zip(s.flat, s_next.flat)} == {(10, 11), (11, 12), (20, 21), (21, 22)}
memory.frames[:6].ravel(), memory.starts[:6]

# %%
def random_shift(images, rng, pad=4, per_image=True):
    """Zero-pad images, an array (B, H, W, C), and crop them back at random offsets."""
    B, H, W, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))  # (B, H + 2 pad, W + 2 pad, C)
    offsets = rng.integers(2 * pad + 1, size=(B if per_image else 1, 2))
    windows = zip(padded, np.broadcast_to(offsets, (B, 2)).tolist())
    return np.stack([image[y : y + H, x : x + W] for image, (y, x) in windows])


if __name__ == "__main__" and not config.look:
    batch = rollouts["random"][0][:8]
    figure, axis = plt.subplots(figsize=(9, 2.6))
    axis.imshow(np.vstack([np.hstack(batch), np.hstack(random_shift(batch, np.random.default_rng(0)))]))
    axis.set(title="a batch, before and after the shift", xticks=[], yticks=[])
    show(figure, f"{config.out}/shift.png")

# %% [markdown]
r"""
**One update.** The critics regress on the soft Bellman target, built from the smaller of two slow copies,

$$y = r + \gamma (1 - \text{terminal}) \bigl( \min_j \bar Q_j(s', a') - \alpha \log \pi(a' \mid s') \bigr),
\qquad a' \sim \pi(\cdot \mid s'),$$

$$L_Q = \sum_j \tfrac12 (Q_j(s, a) - y)^2, \quad L_\pi = \alpha \log \pi(\tilde a \mid s) -
\min_j Q_j(s, \tilde a), \quad L_\alpha = -\log \alpha \, (\log \pi(\tilde a \mid s) + \mathcal H^*),$$

with the target entropy $\mathcal H^* = -\dim A$. They touch separate parameters once the critics are held
still in $L_\pi$, so one backward pass and one Adam serve all. Three choices matter:

- *Terminal.* A time limit is no property of the world: the last state has a future, so the critic must
  bootstrap through it. The authors' code stores it as terminal, as does `--no-bootstrap-truncation`.
- *Discount.* A success that can be held pays 1 at every step, so a state may be worth $1 / (1 - \gamma)$: 100
  with the paper's 0.99, 20 with our 0.95. While the critics climb there from 0, after slow copies of
  themselves, the policy follows values that move. The price: what lies 20 steps ahead counts for a third.
- *Rare successes.* Where random play fails, the first success is one episode among fifty, and a batch drawn
  evenly hardly meets it. So a quarter of each batch (`success_share`; ours, paper: none) comes from episodes
  that succeeded, once there are any; without sparse reward, none.
"""

# %%
def sac_losses(agent, target, batch, noise, gamma):
    """The three losses of SAC and the mean log-probability, scalars (Haarnoja et al. 2018b, Eq. 5, 7 and 18).

    `batch` is as `Replay.sample` draws it; `noise` is standard normal (2, B, A), for a' and the new action.
    """
    images, actions, rewards, terminal, next_images = batch
    alpha = agent.log_alpha.exp().detach()
    with torch.no_grad():
        next_actions, next_log_prob = agent.policy(agent.features(next_images), noise[0])
        next_q = target.q(target.features(next_images), next_actions).min(0).values  # (B,)
        y = rewards + gamma * (1 - terminal) * (next_q - alpha * next_log_prob)
    features = agent.features(images)
    critic_loss = 0.5 * (agent.q(features, actions) - y).square().mean(1).sum()
    agent.critics.requires_grad_(False)  # L_pi: for the policy alone, as `features`
    new_actions, log_prob = agent.policy(features, noise[1])
    new_q = agent.q([z.detach() for z in features], new_actions).min(0).values
    policy_loss = (alpha * log_prob - new_q).mean()
    agent.critics.requires_grad_(True)
    alpha_loss = -agent.log_alpha * (log_prob.detach().mean() - actions.shape[1])
    return critic_loss, policy_loss, alpha_loss, log_prob.mean().detach()


toy, states = Agent((3,), actions=2), torch.eye(3)
toy_batch = states, states[:, :2], torch.ones(3), torch.ones(3), states
critic_loss, policy_loss, *_ = sac_losses(toy, toy, toy_batch, torch.zeros(2, 3, 2), gamma=0.99)
by_hand = 0.5 * (toy.q(toy.features(states), states[:, :2]) - 1).square().mean(1).sum()
assert torch.allclose(critic_loss, by_hand)  # terminal everywhere: the target is the reward, 1
policy_loss.backward()
assert all(weight.grad is None for weight in toy.critics.parameters())
critic_loss, policy_loss

# %%
LOSSES = ("critic_loss", "policy_loss", "alpha_loss", "entropy", "alpha")


def update(run):
    """One gradient step of a `Run` on a fresh batch. Returns the numbers that LOSSES names."""
    config, rng = run.config, run.rng
    drawn = run.replay.sample(config.batch, rng, config.success_share)
    images, actions, rewards, terminal, next_images = drawn
    if images.ndim == 4:
        images = random_shift(images, rng, per_image=config.shift_per_image)
        next_images = random_shift(next_images, rng, per_image=config.shift_per_image)
    noise = rng.standard_normal((2, *actions.shape), np.float32)
    arrays = images, actions, rewards, terminal, next_images, noise
    *batch, noise = (torch.from_numpy(array).to(run.agent.log_alpha.device) for array in arrays)
    *losses, log_prob = sac_losses(run.agent, run.target, batch, noise, config.gamma)
    run.optimizer.zero_grad()
    sum(losses).backward()
    run.optimizer.step()
    with torch.no_grad():  # target <- (1 - tau) target + tau agent
        for slow, fast in zip(run.target.parameters(), run.agent.parameters()):
            slow.lerp_(fast, config.tau)
    values = torch.stack([*losses, -log_prob, run.agent.log_alpha.exp()]).tolist()
    if not np.isfinite(values).all():
        raise UserError(f"step {run.step}: {dict(zip(LOSSES, values))}; give a smaller --lr, and --no-resume")
    return values


# %% [markdown]
r"""
### Training

**Exploring.** Soon the hand rests at its place in the goal picture, where the distance pays best; entropy has
fallen, and nothing new happens. So training episodes begin with 0 to 40 random steps, and a random action is
held for ten (ours; paper: only the run's first 1,000 steps are random). On Pushing that is up to 20 cm, which
meets things; ten single actions nearly cancel out. Evaluations begin with the policy.

Evaluation plays the mean action and counts only the environment's own reward.
`success` is true where any step succeeded, as in the paper; `success_last` asks for the last. All runs are
evaluated on the same starts, and none trains on these: seeds of evaluation are odd, of training even.

A run's folder belongs to one set of settings and to one process at a time. An environment cannot be asked for
its state in general, so an episode starts from a seed made of the run's seed and the episode's number, and
checkpoints are made between episodes: a run that is stopped, or killed, goes on from the last one and ends in
the same numbers (on a CPU, as many torch threads).
"""

# %%
def start_seed(episode, seed=None):
    """What seeds `env.reset`: in evaluation, alike for all runs, or in the training of run `seed`."""
    stream = [1, episode] if seed is None else [0, seed, episode]
    return int(np.random.SeedSequence(stream).generate_state(1)[0]) // 4 * 2 + (seed is None)  # below 2**31


def play(agent, env, seed):
    """One episode of the mean action. Returns frames (T + 1, ...), actions (T, A), and T + 1 infos."""
    seen, info = env.reset(seed=seed)
    frames, infos = [seen], [{"distance": math.nan, **info}]
    actions, over = [], False
    while not over:
        actions.append(agent.act(seen))
        seen, reward, terminated, truncated, info = env.step(actions[-1])
        frames.append(seen)
        infos.append({"reward_sparse": float(reward), "success": False, "distance": math.nan, **info})
        over = terminated or truncated
    return np.stack(frames), np.stack(actions), infos


def evaluate(agent, env, episodes):
    """Play episodes, or one where the start is always the same. Returns (means, the first `play`)."""
    first, *others = (env.reset(seed=start_seed(i))[0] for i in range(5))
    same = all(np.array_equal(first, other) for other in others)  # not on Pushing
    played = [play(agent, env, start_seed(i)) for i in range(1 if same else episodes)]
    steps = [infos[1:] for _, _, infos in played]
    scores = {"return": [sum(info["reward_sparse"] for info in infos) for infos in steps],
              "success": [any(info["success"] for info in infos) for infos in steps],
              "success_last": [infos[-1]["success"] for infos in steps],
              "distance": [info["distance"] for infos in steps for info in infos]}  # nan where there is none
    return {name: float(np.mean(values)) for name, values in scores.items()}, played[0]


[start_seed(i) for i in range(3)], [start_seed(i, seed=0) for i in range(3)]

# %%
class Run:
    """One training: what was learned, what was seen, and where it stands."""

    COUNTERS = ("step", "episode", "seconds", "rows", "recent", "T")

    def __init__(self, config, env):
        seen, acts = env.observation_space, env.action_space
        if (seen.dtype, len(seen.shape or ())) not in ((np.uint8, 3), (np.float32, 1)):
            raise UserError(f"observations are {seen.dtype} {seen.shape}, not uint8 (H, W, C), float32 (D,)")
        if not (hasattr(acts, "low") and np.all(acts.low == -1) and np.all(acts.high == 1)):
            raise UserError(f"actions are {acts}, not a Box in [-1, 1]; see gymnasium.wrappers.RescaleAction")
        if not 0 <= config.success_share <= 1:
            raise UserError(f"--success-share {config.success_share:g} is not a share, from 0 to 1")
        shape, actions = seen.shape, acts.shape[0]
        torch.manual_seed(config.seed)
        self.config, self.path = config, Path(config.out) / "checkpoint.pt"
        self.agent = Agent(shape, actions, config.encoder, config.temperature).to(pick_device(config.device))
        self.target = copy.deepcopy(self.agent).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=config.lr, fused=True)
        self.replay = Replay(config.steps + config.steps // 10 + 1000, shape, actions)  # and episodes' ends
        self.parts = {name: getattr(self, name) for name in ("agent", "target", "optimizer", "replay")}
        self.rng = np.random.default_rng([config.seed, 5])
        self.step = self.episode = self.seconds = 0
        self.rows = []  # of curve.csv
        self.recent = []  # (return, success, losses) of the last 20 training episodes
        self.T = float(env.scale) if isinstance(env, GoalReward) else math.nan

    def save(self):
        """Write the checkpoint, whole or not at all."""
        counters = {name: getattr(self, name) for name in self.COUNTERS}
        save_run(self.path, self.config, self.parts, rng=self.rng.bit_generator.state, **counters)

    def load(self):
        """Go on from the checkpoint, if there is one. UserError where other settings or another T made it."""
        T, state = self.T, load_run(self.path, self.config, self.parts, free=("steps",))
        for name in state.keys() & set(self.COUNTERS):
            setattr(self, name, state[name])
        if not np.isclose(self.T, T, rtol=1e-3, equal_nan=True):
            raise UserError(f"{self.path} is of another distance: T was {self.T:.4g}; give another --out")
        if state:
            self.rng.bit_generator.state = state["rng"]

# %%
def choose_action(run, seen, t, random_until):
    """The action (A,) of step t of an episode: of the policy, or at first uniform, each held for a while."""
    size = run.replay.actions.shape[1]
    if run.step < run.config.random_steps or t < random_until:
        if t % run.config.random_hold == 0:
            run.held = run.rng.uniform(-1, 1, size).astype(np.float32)
        return run.held
    return run.agent.act(seen, torch.from_numpy(run.rng.standard_normal((1, size), np.float32)))


def train_episode(run, env, bar):
    """Play one episode with exploration, and learn after every step."""
    config = run.config
    told, losses = [], []
    seen, _ = env.reset(seed=start_seed(run.episode, config.seed))
    run.replay.add(seen)
    first, over = run.replay.filled - 1, False
    random_until = run.rng.integers(config.random_start + 1)
    while not over:
        action = choose_action(run, seen, len(told), random_until)
        seen, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        run.replay.add(seen, action, reward, terminated or (truncated and not config.bootstrap_truncation))
        if run.step >= config.random_steps:
            losses.append(update(run))
        run.step += 1
        told.append((float(info.get("reward_sparse", reward)), bool(info.get("success", False))))
        bar.update()
    run.episode += 1
    means = np.mean(losses or [len(LOSSES) * [math.nan]], 0).tolist()
    rewards, success = zip(*told)
    run.replay.good[first : run.replay.filled] = any(success) and config.sparse_weight > 0
    run.recent = [*run.recent, (sum(rewards), any(success), means)][-20:]


# %%
def claim_folder(folder):
    """Lock a run's folder against other processes, until the file returned is closed or this process ends."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = open(Path(folder) / ".lock", "w")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{folder} is in use by another process; wait, or give another --out") from None
    return file


def train(config, env, save_seconds=60):
    """Train an agent in `env` for `config.steps` steps; between episodes it is evaluated there, and saved.

    For uint8 images or float32 vectors, actions in [-1, 1]. Writes curve.csv, run.json, figures, and each
    `save_seconds` (or 20 times as long as saving takes) a checkpoint to resume from. Returns a `Run`.
    """
    with claim_folder(config.out):
        run = Run(config, env)
        run.load()
        about = {"T": None if math.isnan(run.T) else run.T, "device": str(run.agent.log_alpha.device),
                 "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        with write_whole(Path(config.out) / "run.json") as draft:
            draft.write_text(json.dumps({**asdict(config), **about}, indent=1))
        started = time.time() - run.seconds
        due, shown = time.time() + save_seconds, False
        with tqdm(total=config.steps, initial=run.step, desc=f"SAC, seed {config.seed}", unit="step") as bar:
            while run.step < config.steps:
                before = run.step
                train_episode(run, env, bar)
                run.seconds = time.time() - started
                done = run.step >= config.steps
                if done or run.step // config.eval_every > before // config.eval_every:
                    bar.set_postfix(report(run, env, update=shown))
                    shown = True
                if done or time.time() > due:
                    begun = time.time()
                    run.save()
                    due = time.time() + max(save_seconds, 20 * (time.time() - begun))
    if not shown:  # the run was complete
        show(curve_figure(run.rows), f"{config.out}/curve.png")
    return run


# %%
def report(run, env, update):
    """Evaluate, add a row to curve.csv, draw curve.png and policy.png. Returns what the bar shows."""
    scores, (frames, _, infos) = evaluate(run.agent, env, run.config.eval_episodes)
    returns, successes, losses = zip(*run.recent)  # of training; the losses of the latest episode count
    training = {"train_return": float(np.mean(returns)), "train_success": float(np.mean(successes))}
    run.rows.append({"seed": run.config.seed, "step": run.step, **scores, **training,
                     **dict(zip(LOSSES, losses[-1])), "T": run.T, "steps_per_second": run.step / run.seconds,
                     "minutes": run.seconds / 60})
    write_csv(f"{run.config.out}/curve.csv", run.rows)
    show(curve_figure(run.rows), f"{run.config.out}/curve.png", update=update)
    if frames.ndim == 4:
        show(rollout_figure(frames[..., :3], *measured(infos)), f"{run.config.out}/policy.png", update=update)
    return {"return": scores["return"], "success": scores["success"], "d": scores["distance"]}


def curve_figure(rows):
    """Return, success and distance of evaluations over the steps; dotted, the last 20 training episodes."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.2))
    for axis, name in zip(axes, ("return", "success", "distance")):
        for column, style in ((name, "o-"), (f"train_{name}", ":")):
            axis.plot([row["step"] for row in rows], [row.get(column, math.nan) for row in rows], style, ms=3)
        axis.set(title=name, xlabel="environment steps")
    return figure


# %%
def measured(infos):
    """What to draw of an episode, and its name: the distance, or without one the count of good steps."""
    if math.isnan(infos[0]["distance"]):
        return np.cumsum([info.get("success", False) for info in infos]), "steps with success"
    return [info["distance"] for info in infos], "d(s, g)"


def rollout_figure(frames, values, label):
    """Eight frames of an episode (T + 1, H, W, 3) over a curve of it (T + 1,)."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 2.6), height_ratios=[1, 1.2])
    picks = np.linspace(0, len(frames) - 1, 8).round().astype(int)
    top.imshow(np.hstack(frames[picks]))
    top.set(title=f"steps {', '.join(map(str, picks))}", xticks=[], yticks=[])
    bottom.plot(values, color="tab:red")
    bottom.set(xlabel="step", ylabel=label, ylim=(0, 1.1 * bottom.get_ylim()[1]))
    return figure


def film_policy(run, env):
    """Play an evaluation episode again before a larger camera: policy.png, and policy.gif with the curve."""
    _, actions, infos = play(run.agent, env, start_seed(0))
    large = make_task(run.config.task, task_size(run.config.task, 144))
    goal = large.unwrapped.goal_images()[-1]
    frames = np.stack([large.reset(seed=start_seed(0))[0], *(large.step(action)[0] for action in actions)])
    large.close()
    values, label = measured(infos)
    show(rollout_figure(frames, values, label), f"{run.config.out}/policy.png")
    figure, axes = plt.subplots(1, 3, figsize=(6.4, 1.9), width_ratios=(1, 1, 1.6))
    axes[0].imshow(goal)
    seen = axes[1].imshow(frames[0])
    line, = axes[2].plot(values, color="tab:red")
    for axis, title in zip(axes, ("goal", "policy", label)):
        axis.set(title=title, xticks=[], yticks=[])
    axes[2].set(ylim=(0, 1.1 * axes[2].get_ylim()[1]), yticks=[0], xlabel=f"{len(actions)} steps")

    def draw(t):
        seen.set_data(frames[t])
        line.set_data(range(t + 1), values[: t + 1])

    film = FuncAnimation(figure, draw, range(0, len(frames), 2))
    with write_whole(f"{run.config.out}/policy.gif") as draft:
        film.save(draft, PillowWriter(fps=10), dpi=100)
    plt.close(figure)


# %% [markdown]
r"""
**Your own environment.** Copy this file as `sac.py`, and `common.py`. Episodes must end (`TimeLimit`); a seed
fixes their start; `success` in info feeds `success_share`; if short, less `random_start`.

    from sac import Config, GoalReward, load_distance, parse_config, train

    config = parse_config(Config, out="runs/goal")  # your script understands --steps, --batch, --seed, ...
    env = GoalReward(MyRobot(), load_distance("distance.pt2"), goal)  # or MyRobot() alone: its own reward
    action = train(config, env).agent.act(picture)

Only settings and $T$ are compared with a checkpoint's: a changed environment wants another `out`.

**The main job.** Stop it at will; the same command, or cell, goes on.
"""

# %%
class OracleReward(gym.Wrapper):
    """Pay what a programmer with access to the state would pay (the upper bound of paper Fig. 4)."""

    def step(self, action):
        picture, sparse, terminated, truncated, info = self.env.step(action)
        return picture, info["oracle_reward"], terminated, truncated, {**info, "reward_sparse": float(sparse)}


def make_env(config, distance=None):
    """The task, paid by the distance; by its own sparse reward or the programmer's where there is none."""
    distance = distance or open_distance(config)
    if distance is None and (config.goals or config.single_goal or config.sparse_weight != 1):
        raise UserError(f"--distance {config.distance} knows no --goals, --single-goal or --sparse-weight")
    env = make_task(config.task, task_size(config.task, config.height), config.quality)
    if distance is None:
        return OracleReward(env) if config.distance == "oracle" else env
    goals = env.unwrapped.goal_images()[-1 if config.single_goal else 0 :]
    if video := bool(config.goals):
        frames = torch.from_numpy(read_clip(config.goals)[0]).permute(0, 3, 1, 2)  # (N, 3, h, w)
        goals = list(TF.resize(frames, env.unwrapped.size, antialias=True).permute(0, 2, 3, 1).numpy())
    env = GoalReward(env, distance, goals, config.scale, config.sparse_weight, config.form, config.threshold,
                     stage_cost=config.stage_cost, gamma=config.gamma, time_indexed=video,
                     goal_in_observation=len(goals) > 1 and not video)
    env.scale *= config.scale_factor
    return env


# %%
if __name__ == "__main__" and not config.look:
    env = make_env(config, distance)
    if distance and not (config.goals or config.single_goal):
        sanity_table(rollouts, curves[config.distance], env)
    run = train(config, env)

# %%
def sparse_alone(task, step):
    """One line: what committed runs of the sparse reward alone had reached by then; "" without any."""
    told = []
    for path in sorted(Path(find_spec("common").origin).parent.glob(f"assets/{task}/sparse-seed*.csv")):
        curve = read_csv(path)
        for seed in np.unique(curve["seed"]):
            last = np.flatnonzero((curve["seed"] == seed) & (curve["step"] <= step))[-1:]
            told += [f"{curve['return'][i]:.0f} at {curve['step'][i]:,.0f} (seed {seed:.0f})" for i in last]
    return f"sparse reward alone (assets/RESULTS.md), return at step: {', '.join(told)}" * bool(told)


if __name__ == "__main__" and not config.look:
    film_policy(run, env)
    print(sparse_alone(config.task, run.step))
    print("{}: success {success:.2f}, return {return:.1f}, training success {train_success:.2f} after {step} "
          "steps and {minutes:.1f} minutes".format(config.out, **run.rows[-1]))

# %% [markdown]
r"""
## What we learned

- A goal picture and a distance learned from videos can tell a robot whether it is getting warmer: the sparse
  reward says *that*, the distance says *where to*. $T$ is chosen so that neither drowns the other.
- Two goals: charge less for the second than it is away, and the first may be a trap.
- SAC is three losses and one backward pass. What costs time is looking: convolutions and rendering.

**Exercises.**
1. `--sparse-weight 0`, pictures alone: expect the arm to copy the goal's pose. Does the object follow?
2. `--scale 0.1 --out runs/big`, a far too large reward: expect the sparse one to be ignored.
3. `--task faucet_right --gamma 0.99 --steps 9000`: expect `policy_loss` (minus the value) to fall longer.
"""
