"""What the numbered files share."""

import argparse
import contextlib
import csv
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import typing
import zipfile
import zlib
from datetime import timedelta
from pathlib import Path

import av
import numpy as np
import torch.export.passes
from matplotlib import pyplot
from scipy.stats import spearmanr
from torch import distributed, nn
from torchvision.transforms.v2 import functional as TF

VIDEO_SUFFIXES = (".webm", ".mp4", ".mkv", ".mov", ".avi", ".gif")
MAX_FRAMES = 1000  # of a clip; more would fill memory
MEAN_FPS = 11.84  # of SSv2 (authors' code) and files that say none
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "figure.constrained_layout.use": True, "font.size": 9}


class UserError(Exception):
    """Bad input in one line: what is wrong, where, what to do."""


def parse_config(cls, **changes):
    """Fill in a `Config`: its preset, then `changes`, then the command line (none in a notebook).

    Fields' comments are help, classmethods presets (SMOKE_TEST=1: `smoke`). UserError for numbers below 0,
    or below 1 if named in `cls.positive`. "{seed}" in a text becomes the seed.
    """
    sys.excepthook = _one_line_for_users
    comments = {}
    with contextlib.suppress(OSError, TypeError):  # a notebook has none
        comments = dict(re.findall(r"^ +(\w+):.*?  # (.*)$", inspect.getsource(cls), re.M))
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    presets = ["laptop"] + [name for name, value in vars(cls).items() if isinstance(value, classmethod)]
    default = "smoke" if os.environ.get("SMOKE_TEST") == "1" else "laptop"
    parser.add_argument("--preset", choices=presets, default=default, help="a set of defaults")
    for field in dataclasses.fields(cls):
        kind, parts = typing.get_origin(field.type), typing.get_args(field.type)
        options = {"type": parts[0] if parts else field.type, "nargs": "+" if kind is tuple else None}
        if field.type is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif kind is typing.Literal:
            options = {"choices": parts}
        text = f"{comments.get(field.name, '')} (default: {field.default})".replace("%", "%%")
        parser.add_argument("--" + field.name.replace("_", "-"), help=text, **options)
    given = vars(parser.parse_args([] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    preset = given.pop("preset")
    os.environ["SMOKE_TEST"] = str(int(preset == "smoke"))
    config = cls() if preset == "laptop" else getattr(cls, preset)()
    config = dataclasses.replace(config, **{**changes, **given})
    for name, value in vars(config).items():
        least = int(name in getattr(cls, "positive", ()))
        if isinstance(value, (int, float)) and not value >= least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")
        if isinstance(value, str):
            setattr(config, name, value.replace("{seed}", str(getattr(config, "seed", 0))))
    return config


def _one_line_for_users(kind, error, trace):
    words = str(error).rpartition("UserError: ")[2].strip()  # a worker's has a trace
    told = {UserError: f"error: {words}", KeyboardInterrupt: "\nstopped; the same command goes on"}.get(kind)
    print(told, file=sys.stderr) if told else sys.__excepthook__(kind, error, trace)


def run_script(script, *arguments):
    """Run a numbered file; UserError where it fails."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    print("$ python", script, *command[2:], flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"{script} stopped early; its message is above")


def ensure(path):
    """Run 01, 02 or 03 if `path` is what it writes by default and is missing, or half-made clips."""
    path, manifest = Path(path), Path(path) / "manifest.json"
    preset = "smoke" if "smoke" in path.parts else "laptop"
    trained = re.fullmatch(r"runs/(?:smoke/)?hold_([cr])-seed(\d+)/distance\.pt2", path.as_posix())
    if not (path / "labels/labels.json").is_file() and manifest.is_file() and "flags" in manifest.read_text():
        run_script("01_data.py", *json.loads(manifest.read_text())["flags"], "--out", path)
    elif path in (Path("data/standin"), Path("runs/smoke/clips")) and not path.exists():
        run_script("01_data.py", "--out", path, "--preset", preset)
    elif trained and not path.exists():
        script = "02_hold_r.py" if trained[1] == "r" else "03_hold_c.py"
        run_script(script, "--seed", trained[2], "--out", path.parent, "--preset", preset)


@contextlib.contextmanager
def write_whole(path):
    """A path beside `path`, renamed to it if all went well."""
    path = Path(path)
    draft = path.with_name(f".{os.getpid()}-{path.name}")  # suffix tells format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk's
        raise UserError(f"{path} could not be written: {error.__context__ or error}") from error
    finally:
        draft.exists() and draft.unlink()


def write_csv(path, rows):
    """Write dicts of equal keys as one CSV file."""
    with write_whole(path) as draft, open(draft, "w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([row[name] for name in rows[0]] for row in rows)])


def read_csv(path):
    """The columns of a CSV file, {name: array}, floats where all are numbers or empty."""
    try:
        header, *rows = csv.reader(Path(path).read_text().splitlines())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no CSV file, or empty; give another") from error
    columns = dict(zip(header, map(np.array, zip(*rows))))
    for name, column in columns.items():
        with contextlib.suppress(ValueError):
            columns[name] = np.where(column == "", "nan", column).astype(float)
    return columns


def save_run(path, config, parts, **state):
    """Write a checkpoint: config, state dicts of `parts` {name: module}, and plain values."""
    state |= {"config": dataclasses.asdict(config), **{k: part.state_dict() for k, part in parts.items()}}
    with write_whole(path) as draft, open(draft, "wb") as file:
        torch.save(state, file)


def load_run(path, config, parts, free=()):
    """Load what `save_run` wrote into `parts`; returns its values, or {}. `free` fields may differ."""
    if not (config.resume and Path(path).exists()):
        return {}
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, free = state.pop("config"), ("device", "out", "resume", "workers", *free)
        new = [k for k, v in dataclasses.asdict(config).items() if k not in free and before.get(k) != v]
        for name in () if new else parts:
            parts[name].load_state_dict(state.pop(name))
    except Exception as error:
        raise UserError(f"{path} is cut short, or of another network; delete it") from error
    if new:
        raise UserError(f"{path} has another {', '.join(new)}; give another --out or --no-resume")
    print(f"{path}: going on from step {state['step']} of {config.steps}", flush=True)
    return state


def pick_device(name="auto"):
    """The torch device `name`; `auto`: an accelerator (CUDA, MPS) where there is one."""
    if name == "auto":
        name = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device {name!r} here; use --device cpu") from None


def join_processes(name):
    """(rank, world size, device) of this process under `torchrun`; (0, 1, device) without."""
    rank, world, local = (int(os.environ.get(key, 0)) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = pick_device(name)
    gpu = torch.device("cuda", local) if world > 1 and device.type == "cuda" else None
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group(device_id=gpu, timeout=timedelta(days=1))
    return rank, max(1, world), gpu or device


def visited(n, clips, seed):
    """Which of `clips` clips is the n-th visited, in a new order each pass."""
    epoch, place = divmod(n, clips)
    return int(np.random.default_rng([seed, 1, epoch]).permutation(clips)[place])


def read_clip(path, short_side=None):
    """Decode a video, upright, resized to `short_side`: (uint8 RGB (T, H, W, 3), frames per second)."""
    frames, times = [], []
    painter = av.video.reformatter.VideoReformatter()  # twice as fast
    try:
        with av.open(str(path), metadata_errors="ignore") as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in file.decode(stream):
                if not frames:
                    scale = short_side / min(frame.width, frame.height) if short_side else 1
                    size = round(frame.width * scale), round(frame.height * scale)
                    turns = frame.rotation // 90  # as phones show it
                frames.append(painter.reformat(frame, *size, "rgb24", interpolation="AREA").to_ndarray())
                times.append(float((frame.pts or 0) * stream.time_base))
                if len(frames) > MAX_FRAMES:
                    raise UserError(f"{path} has over {MAX_FRAMES} frames; cut it up")
            span = max(times) - min(times)  # max of nothing is a ValueError
            fps = (len(times) - 1) / span if span > 0 else float(stream.average_rate or MEAN_FPS)
            promised = float((stream.duration or 0) * stream.time_base)
            if len(file.streams) == 1:  # sound may outlast pictures
                promised = promised or (file.duration or 0) / av.time_base
            last = max(float((frame.duration or 0) * stream.time_base), 1 / fps)
            if span and span + last < 0.9 * promised:
                raise UserError(f"{path} is cut short, after {span:.1f} of {promised:.1f} s; replace it")
    except (av.FFmpegError, OSError, IndexError, ValueError, ArithmeticError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "no video track, or no frames"
        raise UserError(f"{path} is not a readable video ({reason}); remove it") from error
    return np.ascontiguousarray(np.rot90(np.stack(frames), turns, (1, 2))), fps  # (T, H, W, 3)


def write_video(path, frames, fps, crf=30):
    """Write uint8 RGB (T, H, W, 3) as VP9 (.webm, `crf` 0 to 63) or H.264 (.mp4), sides cut to even."""
    codec, options = "libvpx-vp9", {"crf": str(crf), "b": "0", "deadline": "realtime", "cpu-used": "8"}
    if Path(path).suffix == ".mp4":
        codec, options = "libx264", {"crf": "18"}
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    with write_whole(path) as draft, av.open(str(draft), "w") as file:
        stream = file.add_stream(codec, fps, options, height=height, width=width, pix_fmt="yuv420p")
        for frame in frames:
            even = np.ascontiguousarray(frame[:height, :width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        file.mux(stream.encode())


def read_labels(folder, split):
    """The entries of a split's JSON, wherever SSv2 was unpacked to; None without one."""
    files = [p for where in ("", "*/", "*/labels/") for p in sorted(Path(folder).glob(f"{where}*.json"))]
    for path in [p for p in files if p.stem.removeprefix("something-something-v2-") == split]:
        try:
            return [entry | {"id": str(entry["id"])} for entry in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is broken JSON ({error})") from error


def find_clips(folder, split):
    """Clips of a split: of SSv2 by its JSONs, else by a hash that holds out one in ten; none of bad.csv."""
    folder, labels = Path(folder), read_labels(folder, split)
    bad = set(read_csv(folder / "bad.csv").get("path", ()) if (folder / "bad.csv").is_file() else ())
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES and p.name[0] != "."]
    videos = {name: path for path in files if (name := path.relative_to(folder).as_posix()) not in bad}
    if not videos:
        raise UserError(f"{folder} is no folder with videos; 01_data.py makes data/standin")
    if labels is not None:
        by_id = {p.stem: p for name, p in reversed(videos.items()) if not name.startswith("demonstrations/")}
        if missing := [entry["id"] for entry in labels if entry["id"] not in by_id]:
            print(f"{len(missing)} of {len(labels)} clips of {split} are missing or bad, first {missing[0]}")
        return [by_id[entry["id"]] for entry in labels if entry["id"] in by_id]
    if split not in ("train", "validation") or any(read_labels(folder, s) for s in ("train", "validation")):
        raise UserError(f"there is no {split}.json in {folder}; put it beside the others")
    rank = {name: zlib.crc32(name.encode()) for name in videos}
    held_out = {name for name in videos if rank[name] % 10 == 0} or {min(videos, key=rank.get)}
    return [path for name, path in videos.items() if (name in held_out) == (split == "validation")]


class ClipSet(torch.utils.data.Dataset):
    """The clips of a split: item i is (frames uint8 (T, H, W, 3), fps), or the next that can be read."""

    def __init__(self, folder, split, short_side, limit=0):
        self.paths, self.short_side = find_clips(folder, split)[: limit or None], short_side
        self.kept, self.told = {}, set()
        if not self.paths:
            raise UserError(f"no usable clip of split {split} in {folder}")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        first, info = range(len(self))[index], torch.utils.data.get_worker_info()
        order = [self.paths[i % len(self)] for i in range(first, first + min(len(self), 100))]
        for path in [p for p in order if p not in self.told]:
            if path in self.kept:
                return self.kept[path]
            try:
                frames, fps = read_clip(path, self.short_side)
                if len(frames) < 2:
                    raise UserError(f"{path} has a single frame; remove it")
                if sum(x.nbytes for x, _ in self.kept.values()) < 2e9 / (info.num_workers if info else 1):
                    self.kept[path] = frames, fps
                return frames, fps
            except UserError as error:
                print(f"left out: {error}", flush=True)
                self.told.add(path)
        raise UserError(f"{self.paths[first]} and the clips after it cannot be read")


RANDAUGMENT = {  # authors' code, magnitude 20, on one tall picture uint8 (3, T * H, W)
    "identity, posterize, solarize": lambda x: x,  # posterize to 8 bits, solarize above 512
    **{name: getattr(TF, name) for name in ("autocontrast", "equalize", "invert")},
    "color": lambda x: TF.adjust_saturation(x, 3.7),
    "contrast": lambda x: TF.adjust_contrast(x, 3.7),  # ours: about mean grey; authors' code: about white
    "brightness": lambda x: TF.adjust_brightness(x, 3.7),
    "sharpness": lambda x: TF.adjust_sharpness(x, 3.7),
    "solarize-add": lambda x: torch.where(x < 128, (x.int() + 220).clamp(max=255).byte(), x),
    "cutout": None,  # in `augment_steps`
}


def augment_steps(clip, size, kind, rng):
    """Yield (name, clip) after each step of `augment`, told in 01_data.py."""
    scale = 9 / 8 * size / min(clip.shape[-2:])  # short side 288 for a crop of 256
    H, W = (max(size, round(side * scale * rng.uniform(0.9, 1.33))) for side in clip.shape[-2:])
    yield "stretch", (clip := TF.resize(clip, [H, W], antialias=True))
    top, left = rng.integers(H - size + 1), rng.integers(W - size + 1)
    yield "crop", (clip := TF.crop(clip, top, left, size, size).contiguous())
    yield "flip", (clip := TF.horizontal_flip(clip) if rng.random() < 0.5 else clip)
    if kind == "light":  # ours
        brightness, contrast, saturation = rng.uniform(0.6, 1.4, 3)
        clip = TF.adjust_contrast(TF.adjust_saturation(clip, saturation), contrast)
        yield "colour", (clip := TF.adjust_brightness(clip, brightness))
        yield "hue", TF.adjust_hue(clip, rng.uniform(-0.1, 0.1)) if rng.random() < 0.5 else clip
        return
    for name in rng.choice(list(RANDAUGMENT), 2, p=[3 / 12, *[1 / 12] * 9]):
        if name == "cutout":
            half = round(80 / 256 * size)
            y, x = rng.integers(size, size=2)
            top, left = max(0, y - half), max(0, x - half)
            clip = TF.erase(clip, top, left, y + half - top, x + half - left, torch.zeros(1))
        else:  # statistics over the whole clip: no flicker
            tall = RANDAUGMENT[name](clip.transpose(0, 1).reshape(3, -1, size))  # (3, T * size, size)
            clip = tall.view(3, -1, size, size).transpose(0, 1)
        yield str(name), clip


def augment(clip, size, kind, rng):
    """Augment a clip (T, 3, H, W) uint8: (T, 3, size, size); kind "light" or "paper"."""
    return list(augment_steps(clip, size, kind, rng))[-1][1]


class Preprocess(nn.Module):
    """uint8 RGB (B, H, W, 3) of any size -> centre square -> (B, 3, size, size), normalised."""

    def __init__(self, size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255)

    def forward(self, x):
        """Normalise frames. index_select, not slices: torch.export then keeps height and width free."""
        height, width = x.shape[1:3]
        side = torch.sym_min(height, width)
        square = torch.arange(side, device=x.device)
        x = x.index_select(1, square + (height - side) // 2).index_select(2, square + (width - side) // 2)
        x = x.permute(0, 3, 1, 2).float().contiguous()  # (B, 3, side, side)
        x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return (x - self.mean) / self.std


def save_distance(path, program, meta):
    """Export a module as a distance file with its `meta` (kind, history, name, ...).

    Kind `embedding`: uint8 frames (B, H, W, 3) -> (B, E); `pairwise`: (B, history, H, W, 3), goals -> (B,).
    """
    frames, free = torch.zeros(2, 40, 56, 3, dtype=torch.uint8), torch.export.Dim.DYNAMIC
    example, shapes = (frames,), ({0: free, 1: free, 2: free},)  # any batch, height and width
    if meta["kind"] == "pairwise":
        example = (frames[:, None].repeat(1, meta["history"], 1, 1, 1), frames)
        shapes = ({0: free, 2: free, 3: free}, *shapes)
    program = program.eval().cpu().to(memory_format=torch.contiguous_format)
    exported = torch.export.export(program, example, dynamic_shapes=shapes)
    with write_whole(path) as draft:
        torch.export.save(exported, draft, extra_files={"meta.json": json.dumps(meta)})


class Distance:
    """A distance d(s, g) from a file, with its `kind`, `history` (frames of s that it sees), `meta`."""

    def __init__(self, program, meta, device="cpu"):
        self.program, self.device = program, torch.device(device)
        self.kind, self.history = meta["kind"], meta["history"]
        self.meta = meta
        self.goals = []  # the latest, with their embeddings

    @torch.no_grad()
    def __call__(self, frames, goal):
        """d(s, g), (B,), for uint8 RGB frames (B, [history, oldest first,] H, W, 3), goals ([B,] H, W, 3)."""
        frames, goal = (torch.as_tensor(x).to(self.device) for x in (frames, goal))
        past = (self.history,) if self.history > 1 else ()
        goals = goal[None] if goal.ndim == 3 else goal  # (1, H, W, 3) or (B, H, W, 3)
        fits = frames.shape == (len(frames), *past, *frames.shape[-3:-1], 3) and goals.shape[3:] == (3,)
        if not (fits and len(goals) in (1, len(frames)) and frames.dtype == goal.dtype == torch.uint8):
            raise UserError(f"wanted: uint8 frames {('B', *past, 'H', 'W', 3)} and goals (H, W, 3), given: "
                            f"{frames.dtype} {tuple(frames.shape)} and {goal.dtype} {tuple(goal.shape)}")
        if self.kind == "pairwise":
            frames = frames if past else frames[:, None]
            return self.program(frames, goals.expand(len(frames), -1, -1, -1).contiguous())
        known = [embedding for seen, embedding in self.goals if torch.equal(seen, goals)]
        if not known:
            known = [self.program(goals)]
            self.goals = [(goals.clone(), known[0]), *self.goals[:7]]
        return (self.program(frames) - known[0]).norm(dim=-1)


def load_distance(path, device="cpu"):
    """Read a distance file; it may run pickled code (`torch.export.load`): load only what you trust."""
    extra = {"meta.json": ""}
    try:
        with zipfile.ZipFile(path) as archive:  # or torch.export prints a page
            assert archive.testzip() is None
        program = torch.export.load(path, extra_files=extra)
        meta = json.loads(extra["meta.json"])
        assert {"kind", "history", "name"} <= set(meta)
    except Exception as error:
        fault = "missing" if isinstance(error, FileNotFoundError) else "no distance file, or cut short"
        raise UserError(f"{path} is {fault}; make it, like: python 03_hold_c.py") from error
    if torch.device(device).type != "cpu":
        program = torch.export.passes.move_to_device_pass(program, str(device))
    return Distance(program.module(), meta, device)


def read_flax(path):
    """Read a Flax checkpoint (msgpack): {"params/...": tensor, "batch_stats/...": tensor}."""
    import msgpack
    def array(code, data):  # Flax's extension types 1, array, and 3, scalar
        shape, dtype, raw = msgpack.unpackb(data)
        return torch.frombuffer(bytearray(raw), dtype=getattr(torch, dtype)).reshape(shape) if raw else None
    def leaves(tree, name):
        for key, value in tree.items():
            path = f"{name}/{key}"
            yield from leaves(value, path) if isinstance(value, dict) else [(path, value)]
    try:
        tree = msgpack.unpackb(Path(path).read_bytes(), ext_hook=array, strict_map_key=False)
        params = tree["optimizer"]["target"] if "optimizer" in tree else tree["params"]  # old and new Flax
        stats = (tree.get("model_state") or {}).get("batch_stats", {})
        return dict([*leaves(params, "params"), *leaves(stats, "batch_stats")])
    except Exception as error:
        raise UserError(f"{path} is not a Flax checkpoint ({type(error).__name__})") from error


def load_flax(network, arrays, paths, turn):
    """Load `read_flax` arrays by `paths` {our name: theirs}; `turn(array, shape)` gives our layout."""
    wrong, state = {*paths.values()} ^ {*arrays}, network.state_dict()  # what one alone has
    for name, path in () if wrong else paths.items():
        try:
            state[name].copy_(turn(arrays[path], state[name].shape).reshape(state[name].shape))
        except RuntimeError:
            wrong.add(path)
    if wrong:
        raise UserError(f"checkpoint and network differ in {min(wrong)}; give the checkpoint's --preset")


def spearman_to_go(d):
    """Spearman correlation of d(s_t, s_T), t < T, with time to go; nan for T < 3, 0 for a constant d."""
    if len(d) < 2 or np.ptp(d) == 0:
        return float("nan") if len(d) < 2 else 0.0
    return float(spearmanr(d, -np.arange(len(d))).statistic)


def pick_gl():
    """Try MuJoCo's off-screen GL back-ends before it is imported; sets `MUJOCO_GL`."""
    with contextlib.suppress(ImportError):
        import triton  # crashes if Mesa loads its own LLVM first
    if sys.platform != "linux" or os.environ.get("MUJOCO_GL"):
        return
    probe = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).close()"
    for name in ("egl", "osmesa", "glfw"):
        os.environ["MUJOCO_GL"] = name
        if not subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
            return
    del os.environ["MUJOCO_GL"]
    raise UserError("no off-screen OpenGL found: sudo apt-get install -y libegl1 libosmesa6")


def show(figure, path, update=False):
    """Save a figure; in a notebook show it too, with `update` in place of the last one of this path."""
    with write_whole(path) as draft:
        figure.savefig(draft)
    if "kernel_launcher" in sys.argv[0]:
        from IPython.display import display
        display(figure, display_id=str(path), update=update)
    pyplot.close(figure)
