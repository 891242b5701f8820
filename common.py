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
from av.video.reformatter import VideoReformatter
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".mov", ".avi", ".gif")
MAX_FRAMES = 1000  # of a clip; a longer video shows many actions, and would fill the memory
CACHE_GB = 8  # room on disk for the decoded clips of one split


class UserError(ValueError):
    """Bad input, told in one line: what is wrong, where, and what to do. Commands print it without a stack trace."""


# ---- Command line, seeds, files ------------------------------------------------------------------------------------


def parse_config(cls):
    """Turn a `Config` dataclass into a command line and return the filled-in config.

    The trailing comment of a field is its `--help` text, and every classmethod without arguments (`paper`, `smoke`) is a
    `--preset`. `SMOKE_TEST=1` in the environment picks `smoke`. Under a notebook kernel the command line is ignored.
    A whole number may be 0 only where its default is 0 or its help says what 0 means, and no number may be negative.
    Raises SystemExit (argparse) for unknown flags, UserError for such numbers.
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
    for name, value in given.items():
        counts = type(value) is int and getattr(cls, name) > 0 and not re.search(r"(?<![\d.])0(?![\d.])", comments.get(name, "0"))
        if isinstance(value, (int, float)) and (value < 0 or counts and value == 0):
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {'1 or more' if counts else '0 or more'}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def _one_line_for_users(kind, error, trace):
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        but = " without --no-resume" * ("--no-resume" in sys.argv)
        print(f"\nstopped; the same command{but} goes on from the last checkpoint", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def run_script(script, *arguments):
    """Run another numbered file as a command, its output shown, its failure ours."""
    command = [sys.executable, script, *map(str, arguments)]
    print("$ python", *command[1:], flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"{script} stopped before it was done; its message is above")


def ensure_clips(folder):
    """Let 01 make the stand-in clips where its own folder is missing or unfinished. UserError where another is missing."""
    folder = Path(folder)
    if not folder.exists() and folder not in (Path("data/standin"), Path("runs/smoke/clips")):
        raise UserError(f"there is no folder {folder}; 'python 01_data.py --out {folder}' would make the stand-in there")
    if not folder.exists() or (folder / "manifest.json").exists() and not (folder / "labels/labels.json").exists():
        print(f"the clips in {folder} are missing or unfinished, so they are made first", flush=True)
        run_script("01_data.py", "--out", folder)


def pick_device(name="auto"):
    """Return the torch device called `name`; `auto` takes CUDA, then MPS, then the CPU. UserError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"there is no device {name!r} here ({reason}); --device cpu is always there") from None
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
    with write_whole(path) as draft, open(draft, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own follows the system's, which says that the disk is full
            raise error.__context__ or error


def load_checkpoint(path):
    """Read what `save_checkpoint` wrote; refuses pickled code (`weights_only=True`)."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a checkpoint of this project, or is cut short; delete it to start anew") from error


# ---- Video ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _video(path):
    """Open the first video track of a file; whatever is wrong with the file becomes one line that names it."""
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            yield file, stream
    except IndexError as error:
        raise UserError(f"{path} has no video track; replace or remove it") from error
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror}); replace or remove it") from error


def _check_times(path, file, stream, times):
    """Average frame rate of frames shown at `times`, in ticks. Raises UserError for files that are empty, long or cut."""
    if not times:
        raise UserError(f"{path} holds no frames; replace or remove it")
    if len(times) > MAX_FRAMES:
        raise UserError(f"{path} has more than {MAX_FRAMES} frames; cut it into clips that show one action each")
    span, header = float((max(times) - min(times)) * stream.time_base), float(stream.average_rate or 0)
    mean = (len(times) - 1) / span if span else header
    fps = header if abs(header - mean) <= 0.02 * mean else mean  # files round times; a variable rate has a mean only
    promised = float(stream.duration * stream.time_base) if stream.duration else (file.duration or 0) / av.time_base
    if span and span + 1 / fps < 0.9 * promised:
        raise UserError(f"{path} is cut short, after {span:.1f} of {promised:.1f} seconds; replace or remove it")
    return fps


def read_clip(path, short_side=None):
    """Decode a video file, upright, as phones show it.

    Args:
        path: any container FFmpeg knows (webm, mp4, ...); only the first video track is read.
        short_side: resize to this many pixels on the short side while decoding, so that memory stays small.
    Returns:
        (frames, fps): uint8 RGB (T, H, W, 3) and the file's own average frame rate.
    Raises:
        UserError: the file cannot be opened, is cut short, or holds no frame or more than MAX_FRAMES.
    """
    frames, times, painter = [], [], VideoReformatter()  # one for all frames is twice as fast as to_ndarray's own
    with _video(path) as (file, stream):
        for frame in file.decode(stream):
            if not frames:  # a later change of size within a file is resized to the first one
                scale = short_side / min(frame.width, frame.height) if short_side else 1
                size, turns = (round(frame.width * scale), round(frame.height * scale)), frame.rotation // 90
            frames.append(painter.reformat(frame, *size, "rgb24", interpolation="AREA").to_ndarray())
            times.append(frame.pts or 0)
            if len(frames) > MAX_FRAMES:
                break
        fps = _check_times(path, file, stream, times)
    return np.ascontiguousarray(np.rot90(np.stack(frames), turns, (1, 2))), fps  # (T, H, W, 3)


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


def probe_clip(path):
    """Decode the first frame and count the others by their packets, many times faster than reading the clip.

    Returns (frames, height, width, fps). Raises UserError for what `read_clip` refuses, and for a single frame.
    """
    with _video(path) as (file, stream):
        times, shown, stream.thread_type = [], [], "NONE"  # frames in several threads would come packets later
        for packet in file.demux(stream):
            times += [packet.dts if packet.pts is None else packet.pts or 0] if packet.size else []
            shown = shown or packet.decode()
            if len(times) > MAX_FRAMES:
                break
        fps = _check_times(path, file, stream, times if shown else [])
    if len(times) < 2:
        raise UserError(f"{path} has a single frame; replace or remove it")
    return len(times), shown[0].height, shown[0].width, fps


def find_labels(folder, split):
    """The JSON of a split, under the names and in the places that SSv2 is unpacked to; None where there is none."""
    names = (f"{split}.json", f"something-something-v2-{split}.json")
    found = (p for name in names for place in ("", "*/", "*/labels/") for p in sorted(Path(folder).glob(place + name)))
    return next(found, None)


def read_labels(path):
    """The entries of a split's JSON, a list of dicts, each with an `id`. Raises UserError where it is none."""
    try:
        return [entry | {"id": str(entry["id"])} for entry in json.loads(Path(path).read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is broken JSON ({error}); get or make it again") from error


def find_clips(folder, split, missing=None):
    """List the clips of one split: by the label JSONs where there are any, else one video in ten is held out, at least one.

    Args:
        folder: SSv2's layout (`<id>.webm` anywhere below, JSONs beside or in `labels/`), or any folder of videos.
        split: "train" or "validation", or another for which there is a JSON ("test", "controls").
        missing: a list, which takes `<folder>/<id>.webm` for each id of the JSON that has no video.
    Raises:
        UserError: no video below the folder, no such split, or a broken JSON.
    """
    folder, labels = Path(folder), find_labels(folder, split)
    videos = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*"))
              if p.suffix.lower() in VIDEO_SUFFIXES and p.name[0] != "." and p.is_file()}
    if not videos:
        raise UserError(f"there is no video in {folder}; make the stand-in clips with: python 01_data.py --out {folder}")
    if labels:
        by_id = {p.stem: p for name, p in reversed(videos.items()) if not name.startswith("demonstrations/")}
        ids = [entry["id"] for entry in read_labels(labels)]
        if missing is not None:
            missing += [folder / f"{i}.webm" for i in ids if i not in by_id]
        return [by_id[i] for i in ids if i in by_id]
    if split not in ("train", "validation") or any(find_labels(folder, s) for s in ("train", "validation", "test")):
        raise UserError(f"there is no {split}.json in {folder} or {folder}/labels; put it beside the other label files")
    rank = {name: int(hashlib.sha1(name.encode()).hexdigest(), 16) for name in videos}
    held_out = {name for name in videos if rank[name] % 10 == 0} or {min(videos, key=rank.get)}
    return [p for name, p in videos.items() if (name in held_out) == (split == "validation")]


def survey(folder, paths, limit=0):
    """Probe each file once and remember what was seen, in `<folder>/.clips.json`, for as long as the file is the same.

    Stops after `limit` clips that can be used. Returns {path: facts}: `key` (a hash of name, size and time of the last
    change) and either `frames`, `height`, `width` and `fps`, or `fault`, the reason why the clip cannot be used.
    """
    index, known, seen, usable = Path(folder) / ".clips.json", {}, {}, 0
    with contextlib.suppress(OSError, ValueError):
        known = dict(json.loads(index.read_text()))

    def look(path):
        stat, name = path.stat(), path.relative_to(folder).as_posix()
        key, old = hashlib.sha1(f"{name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:20], known.get(name, {})
        if old.get("key") == key:
            return old
        for stale in Path(folder).glob(f".cache-*/{old['key']}.npy") if old else ():
            stale.unlink(missing_ok=True)
        try:
            facts = dict(zip(("frames", "height", "width", "fps"), probe_clip(path)))
        except UserError as error:
            facts = {"fault": str(error).removeprefix(f"{path} ")}
        known[name] = {"key": key, **facts}
        return known[name]

    before, pool = known.copy(), ThreadPoolExecutor(os.cpu_count())  # FFmpeg works outside the GIL
    try:
        for path, facts in zip(paths, tqdm(pool.map(look, paths), "looking at clips", len(paths), delay=2)):
            seen[path], usable = facts, usable + ("fault" not in facts)
            if limit and usable == limit:
                break
    finally:
        pool.shutdown(cancel_futures=True)
        if known != before:
            with contextlib.suppress(UserError, OSError), write_whole(index) as draft:  # a folder may be for reading only
                draft.write_text(json.dumps(known))
    return seen


class ClipSet(torch.utils.data.Dataset):
    """The clips of one split that can be used. Item i is (frames uint8 (T, H, W, 3), fps), resized while decoding.

    Files that cannot be used are left out from the start; `bad` says why. With `cache`, a clip that was decoded once is
    kept in `<folder>/.cache-<short_side>/`, as long as there is room in CACHE_GB, and from then on read from there; it is
    made anew when its video changes.
    """

    def __init__(self, folder, split, short_side, limit=0, cache=True):
        self.short_side, missing = short_side, []
        seen = survey(folder, find_clips(folder, split, missing), limit)
        self.bad = [f"{path} is missing, and listed for {split}" for path in missing]
        self.bad += [f"{path} {facts['fault']}" for path, facts in seen.items() if "fault" in facts]
        if self.bad:
            print(f"left out {len(self.bad)} clips, the first because {self.bad[0]}")
        good = {path: facts for path, facts in seen.items() if "fault" not in facts}
        if not good:
            raise UserError(f"no usable clip of split {split} in {folder}" + "".join(f"; {reason}" for reason in self.bad[:1]))
        self.paths, self.fps = list(good), [facts["fps"] for facts in good.values()]
        shapes = np.array([(f["frames"], f["height"], f["width"]) for f in good.values()])  # (N, 3)
        size = 3 * shapes[:, 0] * short_side**2 * shapes[:, 1:].max(1) / shapes[:, 1:].min(1)  # bytes (N,)
        self.fits = np.cumsum(size) <= CACHE_GB * 1e9 * cache  # which clips have room, the same in all processes
        self.files = [Path(folder) / f".cache-{short_side}" / f"{facts['key']}.npy" for facts in good.values()]

    def __len__(self):
        return len(self.paths)

    def _read(self, i):
        if self.fits[i]:
            with contextlib.suppress(OSError, ValueError, EOFError):
                return np.load(self.files[i]), self.fps[i]
        frames, _ = read_clip(self.paths[i], self.short_side)
        if self.fits[i]:
            with contextlib.suppress(UserError, OSError), write_whole(self.files[i]) as draft:
                np.save(draft, frames)
        return frames, self.fps[i]

    def __getitem__(self, index):
        first = range(len(self))[index]
        for i in range(first, first + min(len(self), 100)):
            try:
                return self._read(i % len(self))
            except UserError as error:  # its first frame was well; the next clip takes its place
                if str(error) not in self.bad:
                    print(f"left out: {error}")
                    self.bad.append(str(error))
        raise UserError(f"100 clips in a row cannot be read, the last because {self.bad[-1]}")


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


def save_distance(path, network, meta, preprocess=None):
    """Export a network as a distance file (`torch.export` program, preprocessing inside, metadata in `extra_files`).

    Args:
        network: kind `embedding`: (B, 3, S, S) -> (B, E). Kind `pairwise`: (B, history + 1, 3, S, S), goal last, -> (B,).
        meta: JSON-able dict; `kind`, `history` and `name` are required.
        preprocess: a `Preprocess`; None where the network takes uint8 frames (B, [history,] H, W, 3) [and goals] itself.
    """
    free = {"min": 2, "max": 1 << 14}
    batch, sides = torch.export.Dim("batch", max=1 << 16), [torch.export.Dim(name, **free) for name in ("h", "w", "goal_h", "goal_w")]
    example, shapes = (torch.zeros(2, 40, 56, 3, dtype=torch.uint8),), ({0: batch, 1: sides[0], 2: sides[1]},)
    if meta["kind"] == "pairwise":
        example = (example[0][:, None].repeat(1, meta["history"], 1, 1, 1), example[0])
        shapes = ({0: batch, 2: sides[0], 3: sides[1]}, {0: batch, 1: sides[2], 2: sides[3]})
    program = _Program(network, preprocess, meta["kind"]).eval() if preprocess else network
    program = program.cpu().to(memory_format=torch.contiguous_format)
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
        raise UserError(f"there is no distance file {path}; make one with 02_hold_r.py, 03_hold_c.py or 06_baselines.py")
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
