r"""The small shared remainder: what every numbered file needs and none teaches.

No models, losses, environments or figures of the paper live here. Importing this file has no side effects.
"""

import argparse
import contextlib
import csv
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import typing
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".mov", ".avi", ".gif")


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do. Commands print it without a stack trace."""


# ---- Command line, seeds, files ------------------------------------------------------------------------------------


def parse_config(cls):
    """Turn a `Config` dataclass into a command line and return the filled-in config.

    The trailing comment of a field is its `--help` text, and every classmethod without arguments (`paper`, `smoke`) is a
    `--preset`. `SMOKE_TEST=1` in the environment picks `smoke`. Under a notebook kernel the command line is ignored.
    Raises SystemExit (argparse) for unknown flags.
    """
    sys.excepthook = _one_line_for_users
    presets = [name for name, value in vars(cls).items() if isinstance(value, classmethod)]
    default = "smoke" if os.environ.get("SMOKE_TEST") == "1" else "laptop"
    argv = [] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=["laptop", *presets], default=default, help="a named set of defaults")
    chosen = first.parse_known_args(argv)[0].preset
    config = cls() if chosen == "laptop" else getattr(cls, chosen)()
    comments = {}
    with contextlib.suppress(OSError, TypeError):  # a class typed into a notebook has no source file, and needs no help
        comments = dict(re.findall(r"^ +(\w+):.*?  # (.*)$", inspect.getsource(cls), re.M))
        first.description = (inspect.getdoc(cls) or "").split("\n")[0]
    parser = argparse.ArgumentParser(parents=[first], allow_abbrev=False, description=first.description)
    for name, kind in typing.get_type_hints(cls).items():
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        text = f"{comments.get(name, '')} (default: {value})".replace("%", "%%")
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=value, help=text)
        elif typing.get_origin(kind) is tuple:
            parser.add_argument(flag, type=typing.get_args(kind)[0], nargs="+", default=value, help=text)
        else:
            choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
            parser.add_argument(flag, type=str if choices else kind, choices=choices, default=value, help=text)
    given = vars(parser.parse_args(argv))
    given.pop("preset")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _one_line_for_users(kind, error, trace):
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def run_script(script, *arguments):
    """Run another numbered file as a command, its output shown, its failure ours."""
    command = [sys.executable, script, *map(str, arguments)]
    print("$ python", *command[1:], flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"{script} stopped before it was done; its message is above")


def pick_device(name="auto"):
    """Return the torch device called `name`; `auto` takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


@contextlib.contextmanager
def write_whole(path):
    """Give a temporary path beside `path` to write to, and rename it when all went well: files appear whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}-{path.name}")  # keeps the suffix, which tells video writers the format
    try:
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def write_csv(path, rows):
    """Write a list of dicts with equal keys as one CSV file."""
    with write_whole(path) as draft, open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    """Return the columns of a CSV file as {name: array}, floats where all entries are numbers."""
    if not Path(path).is_file():
        raise UserError(f"there is no {path}")
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    columns = {name: np.array(column) for name, column in zip(header, zip(*rows))}
    number = re.compile(r"-?(\d+\.?\d*(e[-+]?\d+)?|nan|inf)")
    return {n: c.astype(float) if all(map(number.fullmatch, c)) else c for n, c in columns.items()}


def save_checkpoint(path, state):
    """Write a dict of tensors and plain values, whole or not at all."""
    with write_whole(path) as draft:
        torch.save(state, draft)


def load_checkpoint(path):
    """Read what `save_checkpoint` wrote; refuses pickled code (`weights_only=True`)."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint of this project, or is cut short; delete it to start anew") from error


# ---- Video ---------------------------------------------------------------------------------------------------------


def read_clip(path, short_side=None):
    """Decode a video file.

    Args:
        path: any container FFmpeg knows (webm, mp4, ...); only the first video stream is read.
        short_side: resize to this many pixels on the short side while decoding, so that memory stays small.
    Returns:
        (frames, fps): uint8 RGB (T, H, W, 3) and the file's own average frame rate.
    Raises:
        UserError: the file cannot be opened or holds no frame.
    """
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            fps = float(stream.average_rate or 0)
            scale = short_side / min(stream.width, stream.height) if short_side else 1
            size = {"width": round(stream.width * scale), "height": round(stream.height * scale)} if short_side else {}
            frames = [f.to_ndarray(format="rgb24", interpolation="AREA", **size) for f in file.decode(stream)]
    except (av.FFmpegError, IndexError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable video ({type(error).__name__}); replace or remove it") from error
    if not frames:
        raise UserError(f"{path} holds no frames; replace or remove it")
    return np.stack(frames), fps  # (T, H, W, 3)


def write_video(path, frames, fps, crf=30):
    """Write uint8 RGB frames (T, H, W, 3) as VP9 (.webm; `crf` 0 to 63) or H.264 (.mp4). Height and width must be even."""
    codec, options = ("libvpx-vp9", {"crf": str(crf), "b": "0", "deadline": "realtime", "cpu-used": "8"})
    if Path(path).suffix == ".mp4":
        codec, options = "libx264", {"crf": "18"}
    with write_whole(path) as draft, av.open(str(draft), "w") as file:
        stream = file.add_stream(codec, rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())


def find_clips(folder, split):
    """List the clips of one split: by the label JSONs where there are any, else one video in ten is for validation.

    Args:
        folder: SSv2's layout (`<id>.webm` anywhere below, label JSONs beside or in `labels/`), or any folder of videos.
        split: "train" or "validation".
    Raises:
        UserError: no video below the folder, or broken label files.
    """
    videos = {p.stem: p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES and p.name[0] != "."}
    if not videos:
        raise UserError(f"there is no video in {folder}; make the stand-in clips with: python 01_data.py --out {folder}")
    for name in (f"labels/{split}.json", f"something-something-v2-{split}.json", f"labels/something-something-v2-{split}.json"):
        if (Path(folder) / name).is_file():
            try:
                ids = [entry["id"] for entry in json.loads((Path(folder) / name).read_text())]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{Path(folder) / name} is broken JSON; get or make it again") from error
            return [videos[i] for i in ids if i in videos]
    held_out = {s for s in videos if int(hashlib.sha1(s.encode()).hexdigest(), 16) % 10 == 0}
    return [p for s, p in videos.items() if (s in held_out) == (split == "validation")]


class ClipSet(torch.utils.data.Dataset):
    """The clips of one split. Item i is (frames uint8 (T, H, W, 3), fps), resized while decoding.

    With `cache` every clip is decoded once, in threads, and kept in memory; clips that cannot be read or have a single
    frame are left out, and `bad` holds their reasons. Without, a clip is decoded when asked for, a bad one replaced by the next.
    """

    def __init__(self, folder, split, short_side, limit=0, cache=True):
        self.paths, self.short_side, self.cache, self.bad = find_clips(folder, split)[: limit or None], short_side, [], []
        if cache:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # FFmpeg decodes outside the GIL
                self.cache = [c for c in tqdm(pool.map(self._read, self.paths), f"reading {split}", len(self.paths)) if c]
            self.paths = self.paths[: len(self.cache)]
            if self.bad:
                print(f"left out {len(self.bad)} clips, the first because {self.bad[0]}")
        if not self.paths:
            raise UserError(f"no usable clip of split {split} in {folder}" + "".join(f"; {reason}" for reason in self.bad[:1]))

    def _read(self, path):
        try:
            frames, fps = read_clip(path, self.short_side)
            if len(frames) > 1:
                return frames, fps
            self.bad.append(f"{path} has a single frame")
        except UserError as error:
            self.bad.append(str(error))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if self.cache:
            return self.cache[index]
        for path in self.paths[index:] + self.paths[:index]:
            if clip := self._read(path):
                return clip
        raise UserError(f"none of {len(self.paths)} clips can be read; {self.bad[0]}")


# ---- The distance file ---------------------------------------------------------------------------------------------


class Preprocess(nn.Module):
    """uint8 RGB (B, H, W, 3) of any size -> centre square -> (B, 3, size, size), normalised."""

    def __init__(self, size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255)

    def forward(self, frames):
        """Normalise frames. index_select instead of slices: torch.export then keeps height and width free."""
        height, width = frames.shape[1:3]
        side = torch.sym_min(height, width)
        square = torch.arange(side, device=frames.device)
        x = frames.index_select(1, square + (height - side) // 2).index_select(2, square + (width - side) // 2)
        x = x.permute(0, 3, 1, 2).float().contiguous()  # (B, 3, side, side)
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        return (x - self.mean) / self.std


class _Program(nn.Module):
    def __init__(self, network, preprocess, kind):
        super().__init__()
        self.network, self.preprocess, self.kind = network, preprocess, kind

    def forward(self, frames, goal=None):
        if self.kind == "embedding":
            return self.network(self.preprocess(frames))  # (B, E)
        views = [self.preprocess(view) for view in (*frames.unbind(1), goal)]
        return self.network(torch.stack(views, 1)).reshape(-1)  # (B, history + 1, 3, size, size) -> (B,)


def save_distance(path, network, meta, preprocess):
    """Export a network as a distance file (`torch.export` program, preprocessing inside, metadata in `extra_files`).

    Args:
        network: kind `embedding`: (B, 3, S, S) -> (B, E). Kind `pairwise`: (B, history + 1, 3, S, S), goal last, -> (B,).
        meta: JSON-able dict; `kind`, `history` and `name` are required.
        preprocess: a `Preprocess`.
    """
    free = {"min": 2, "max": 1 << 14}
    batch, sides = torch.export.Dim("batch", max=1 << 16), [torch.export.Dim(name, **free) for name in ("h", "w", "goal_h", "goal_w")]
    example, shapes = (torch.zeros(2, 40, 56, 3, dtype=torch.uint8),), ({0: batch, 1: sides[0], 2: sides[1]},)
    if meta["kind"] == "pairwise":
        example = (example[0][:, None].repeat(1, meta["history"], 1, 1, 1), example[0])
        shapes = ({0: batch, 2: sides[0], 3: sides[1]}, {0: batch, 1: sides[2], 2: sides[3]})
    program = _Program(network, preprocess, meta["kind"]).cpu().eval().to(memory_format=torch.contiguous_format)
    exported = torch.export.export(program, example, dynamic_shapes=shapes)
    with write_whole(path) as draft:
        torch.export.save(exported, draft, extra_files={"meta.json": json.dumps(meta)})


class Distance:
    """A distance d(s, g) between pictures, read from a distance file by `load_distance`.

    Attributes: `kind` ("embedding" or "pairwise"), `history` (frames of s the model sees), `meta` (dict), `device`.
    """

    def __init__(self, program, meta, device="cpu"):
        self.program, self.meta, self.device = program, meta, torch.device(device)
        self.kind, self.history, self._goals = meta["kind"], meta["history"], deque(maxlen=8)

    @torch.no_grad()
    def distance(self, frames, goal):
        """Return d(s, g), float32 (B,).

        Args:
            frames: uint8 RGB array or tensor (B, H, W, 3), or (B, history, H, W, 3) where `history` > 1, oldest first.
            goal: uint8 RGB (H, W, 3) for all, or (B, H, W, 3). The embeddings of the latest eight goals are kept.
        Raises:
            UserError: not uint8, or not of these shapes.
        """
        frames, goal = self._check(frames, "frames"), self._check(goal, "goal")
        wanted = 5 if self.history > 1 else 4
        if frames.ndim != wanted or (wanted == 5 and frames.shape[1] != self.history):
            raise UserError(f"frames are {tuple(frames.shape)}; this distance wants (B, {'history, ' * (wanted == 5)}H, W, 3) with history {self.history}")
        if goal.ndim not in (3, 4) or (goal.ndim == 4 and len(goal) not in (1, len(frames))):
            raise UserError(f"goal is {tuple(goal.shape)}; give one picture (H, W, 3) or one per frame ({len(frames)}, H, W, 3)")
        goal = goal.reshape(-1, *goal.shape[-3:])
        if self.kind == "pairwise":
            frames = frames if frames.ndim == 5 else frames[:, None]
            return self.program(frames, goal.expand(len(frames), -1, -1, -1).contiguous())
        return (self.program(frames) - self._embed_goal(goal)).norm(dim=-1)

    __call__ = distance

    def _embed_goal(self, goal):
        for seen, embedding in self._goals:
            if torch.equal(seen, goal):
                return embedding
        self._goals.append((goal.clone(), self.program(goal)))
        return self._goals[-1][1]

    def _check(self, images, name):
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.shape[-1:] != (3,):
            raise UserError(f"{name} must be uint8 RGB with the colour last; got {images.dtype} {tuple(images.shape)}")
        return images.to(self.device)


def load_distance(path, device="cpu"):
    """Read a distance file. Reading may run pickled code (`torch.export.load`): load only files you trust."""
    if not Path(path).is_file():
        raise UserError(f"there is no distance file {path}; make one with: python 03_hold_c.py")
    extra = {"meta.json": ""}
    try:
        with zipfile.ZipFile(path) as archive:  # torch.export prints a page of log lines on anything else
            assert archive.testzip() is None
        program = torch.export.load(path, extra_files=extra)
        meta = json.loads(extra["meta.json"])
        assert {"kind", "history", "name"} <= set(meta)
    except Exception as error:
        raise UserError(f"{path} is not a distance file, or is cut short; make it again with: python 03_hold_c.py") from error
    if torch.device(device).type != "cpu":
        program = torch.export.passes.move_to_device_pass(program, str(device))
    return Distance(program.module(), meta, device)


# ---- Rendering and figures -----------------------------------------------------------------------------------------


def pick_gl():
    """Choose MuJoCo's off-screen GL back-end by trying EGL, OSMesa and the window system; call before importing mujoco.

    The choice is left in the environment (`MUJOCO_GL`), so that child processes need not try again.
    Raises UserError, naming the package to install, where none works.
    """
    with contextlib.suppress(ImportError):  # comes with torch on Linux and has an LLVM inside, as Mesa's software OpenGL has:
        import triton  # noqa: F401  # loaded after Mesa's, by torch.export, it would crash the process
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL"):
        return
    probe = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).close()"
    for name in ("egl", "osmesa", "glfw"):
        found = subprocess.run([sys.executable, "-c", probe], env={**os.environ, "MUJOCO_GL": name}, capture_output=True)
        if found.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return
    raise UserError("no off-screen OpenGL found; install one with: sudo apt-get install -y libegl1 libosmesa6")


def plot_style():
    """Plain, readable figures."""
    import matplotlib

    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "font.size": 9,
                                "axes.grid": True, "grid.alpha": 0.25, "figure.constrained_layout.use": True})
