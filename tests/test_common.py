"""common.py: the command line, files that appear whole, checkpoints, clips, and the distance file."""

import json
import os
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import nn

import common
from conftest import ROOT, run


@dataclass
class Settings:
    positive: ClassVar[tuple] = ("steps",)
    steps: int = 10  # how many
    task: Literal["a", "b"] = "a"  # which
    size: tuple[int, ...] = (4, 6)  # height and width
    flag: bool = True  # yes or no
    rate: float = 0.5  # how fast
    limit: float | None = None  # automatic
    out: str = "runs/x-seed{seed}"  # folder
    seed: int = 0  # of everything
    resume: bool = True  # go on

    @classmethod
    def smoke(cls):
        return cls(steps=1)


def parse(monkeypatch, *argv, smoke="0", program="script.py", **changes):
    monkeypatch.setattr("sys.argv", [program, *argv])
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setenv("SMOKE_TEST", smoke)
    return common.parse_config(Settings, **changes)


def test_command_line_overrides_changes_override_the_preset(monkeypatch):
    plain = Settings(out="runs/x-seed0")
    assert parse(monkeypatch) == plain and os.environ["SMOKE_TEST"] == "0"
    given = parse(monkeypatch, "--task", "b", *"--size 8 9 --no-flag --limit 0 --seed 3".split(), steps=7)
    assert given == Settings(7, "b", (8, 9), False, limit=0.0, out="runs/x-seed3", seed=3)
    assert parse(monkeypatch, "--preset", "smoke", "--task", "b") == replace(plain, steps=1, task="b")
    assert parse(monkeypatch, "--steps", "2", smoke="1", steps=5) == replace(plain, steps=2)
    assert parse(monkeypatch, "-f", "kernel.json", program="ipykernel_launcher.py") == plain


@pytest.mark.parametrize("argv, words", [
    (["--stepz", "3"], None), (["--task", "c"], None), (["--steps", "x"], None), (["--step", "3"], None),
    (["--steps", "0"], "--steps is 0; it must be 1 or more"),
    (["--rate", "-0.1"], "--rate is -0.1; it must be 0 or"), (["--rate", "nan"], "--rate is nan")])
def test_bad_flags_are_refused(monkeypatch, argv, words):
    assert parse(monkeypatch, "--rate", "0").rate == 0
    with pytest.raises(common.UserError if words else SystemExit, match=words):
        parse(monkeypatch, *argv)


def test_help_is_the_comment_and_user_errors_are_one_line(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("import common, dataclasses, torch\n@dataclasses.dataclass\nclass Config:\n  a: int = 1"
                      "  # many\ncommon.parse_config(Config)\nclass Cakes(list):\n"
                      "  def __getitem__(self, i): raise common.UserError('no cake')\n"
                      "list(torch.utils.data.DataLoader(Cakes('a'), num_workers=1))\n")
    assert "many (default: 1)" in run(script, "--help", PYTHONPATH=str(ROOT)).stdout
    finished = run(script, PYTHONPATH=str(ROOT))  # raised in another process
    assert finished.returncode == 1 and finished.stderr.strip() == "error: no cake"


def test_what_is_missing_is_made_with_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = []
    finished = type("Finished", (), {"returncode": 0})
    monkeypatch.setattr(common.subprocess, "run", lambda command: commands.append(command[1:]) or finished)
    common.ensure("my_vidoes/")
    with pytest.raises(common.UserError, match="my_vidoes is no folder with videos"):
        common.find_clips("my_vidoes/", "train")
    common.ensure("runs/mine/distance.pt2")
    assert commands == []  # nothing of ours
    parse(monkeypatch, "--preset", "smoke")
    for path, preset in (("data/standin", "laptop"), ("runs/smoke/clips", "smoke")):  # nothing small in data/
        common.ensure(path)
        assert commands.pop() == [f"{ROOT}/01_data.py", "--out", path, "--preset", preset]
    common.ensure("runs/hold_r-seed3/distance.pt2")
    words = "--seed 3 --out runs/hold_r-seed3 --preset laptop"
    assert commands.pop() == [f"{ROOT}/02_hold_r.py", *words.split()] and os.environ["SMOKE_TEST"] == "1"
    common.Path("begun").mkdir()
    common.Path("begun/manifest.json").write_text(json.dumps({"flags": ["--clips", "3000"]}))
    common.ensure("begun")
    assert commands.pop() == [str(ROOT / "01_data.py"), "--clips", "3000", "--out", "begun"]
    finished.returncode = 1
    with pytest.raises(common.UserError, match="02_hold_r.py stopped"):
        common.ensure("runs/hold_r-seed4/distance.pt2")


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with pytest.raises(KeyError), common.write_whole(target) as draft:
        draft.write_text("half")
        raise KeyError
    assert list(target.parent.iterdir()) == []
    with common.write_whole(target) as draft:
        draft.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all" and len(list(target.parent.iterdir())) == 1
    with pytest.raises(common.UserError, match="No space left"), common.write_whole(target):
        raise OSError(28, "No space left on device")


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    path, layer, config = tmp_path / "checkpoint.pt", nn.Linear(2, 2), Settings()
    assert common.load_run(path, config, {"layer": layer}) == {}
    common.save_run(path, config, {"layer": layer}, step=4)
    fresh = nn.Linear(2, 2)
    assert common.load_run(path, replace(config, out="elsewhere"), {"layer": fresh}) == {"step": 4}
    assert torch.equal(fresh.weight, layer.weight)
    assert common.load_run(path, replace(config, resume=False), {}) == {}
    with pytest.raises(common.UserError, match="another rate"):
        common.load_run(path, replace(config, rate=0.1), {"layer": fresh})
    assert common.load_run(path, replace(config, rate=0.1), {"layer": fresh}, free=("rate",)) == {"step": 4}
    with pytest.raises(common.UserError, match="of another network"):
        common.load_run(path, config, {"layer": nn.Linear(3, 2)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(common.UserError, match="cut short.*delete it"):
        common.load_run(path, config, {})
    torch.save({"code": os.system}, path)
    with pytest.raises(common.UserError):  # no pickled code
        common.load_run(path, config, {})


def test_bad_clips_are_named_once_and_the_next_takes_their_place(tmp_path, capsys, rng):
    for name in "123":
        common.write_video(tmp_path / f"{name}.webm", rng.integers(0, 256, (6, 16, 24, 3), np.uint8), fps=12)
    common.write_video(tmp_path / "4.webm", np.zeros((1, 16, 24, 3), np.uint8), fps=12)
    (tmp_path / "5.webm").write_text("no video")
    (tmp_path / "train.json").write_text(json.dumps([{"id": i} for i in (5, 4, 1, 2, 8)]))  # 8 has no file
    clips = common.ClipSet(tmp_path, "train", 8)
    assert "1 of 5 clips of train are missing or bad, first 8" in capsys.readouterr().out and len(clips) == 4
    frames = clips[0][0]  # of clip 1: 5 and 4 cannot be used
    assert frames.shape == (6, 8, 12, 3) and frames is clips[2][0] is clips[1][0]  # kept in memory
    told = capsys.readouterr().out
    assert told.count("5.webm") == 1 and "4.webm has a single frame" in told and not capsys.readouterr().out
    common.write_csv(tmp_path / "bad.csv", [{"path": f"{name}.webm", "reason": "?"} for name in "45"])
    assert [path.stem for path in common.ClipSet(tmp_path, "train", 8).paths] == ["1", "2"]
    common.write_csv(tmp_path / "bad.csv", [{"path": f"{name}.webm", "reason": "?"} for name in "1245"])
    with pytest.raises(common.UserError, match="no folder with|no usable clip"):
        common.ClipSet(tmp_path, "train", 8)


def test_augmentation_is_the_released_one(rng):
    picture = np.kron(rng.integers(20, 220, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    pil, x = Image.fromarray(picture), torch.from_numpy(picture).permute(2, 0, 1)
    expected = {"autocontrast": ImageOps.autocontrast(pil), "equalize": ImageOps.equalize(pil),
                "invert": ImageOps.invert(pil), "identity, posterize, solarize": pil,
                **{name.lower(): getattr(ImageEnhance, name)(pil).enhance(3.7)
                   for name in ("Color", "Contrast", "Brightness", "Sharpness")},
                "solarize-add": np.where(picture < 128, np.minimum(255, picture + 220.0), picture)}
    for name, reference in expected.items():  # Pillow rounds in between
        ours = common.RANDAUGMENT[name](x).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - np.asarray(reference, float)).mean() < 1.5, name
    clip, boxes = torch.full((3, 3, 72, 96), 200, dtype=torch.uint8), []
    for n in range(60):
        steps = list(common.augment_steps(clip, 64, "paper", np.random.default_rng(n)))
        assert steps[-1][1].shape == (3, 3, 64, 64) and len(steps) == 5
        for (_, before), (name, after) in zip(steps, steps[1:]):
            if name == "cutout":
                black = (after == 0).all(1)  # (3, 64, 64)
                rows, columns = black[0].any(1).sum().item(), black[0].any(0).sum().item()
                assert (black == black[0]).all() and black[0].sum() == rows * columns > 0
                assert torch.equal(after[:, :, ~black[0]], before[:, :, ~black[0]])
                boxes.append((rows, columns))
    assert np.max(boxes) == 40 > np.min(boxes)  # 160 of 256 pixels, less what is beyond the edge
    ramp = torch.linspace(60, 190, 96).expand(2, 3, 72, 96).byte()
    light = [dict(common.augment_steps(ramp, 64, "light", np.random.default_rng(n))) for n in range(60)]
    heights, tones = zip(*[(steps["stretch"].shape[2], steps["hue"].float().mean()) for steps in light])
    assert 64 <= min(heights) < 68 and 92 < max(heights) <= 96 and np.ptp(tones) > 40
    assert 20 < sum(bool(steps["flip"][0, 0, 0, 0] > steps["flip"][0, 0, 0, -1]) for steps in light) < 40


class Mean(nn.Module):
    """The mean colour of a picture."""

    def __init__(self):
        super().__init__()
        self.preprocess = common.Preprocess(16)

    def forward(self, frames):
        return self.preprocess(frames).mean((-1, -2))


def distance_file(path):
    common.save_distance(path, Mean(), {"name": "mean", "kind": "embedding", "history": 1})
    return common.load_distance(path)


def centre_mean(image):
    """The mean colour of the centre square in [-1, 1], where the resize is the identity."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return (image[top : top + side, left : left + side].astype(float) / 127.5 - 1).mean((0, 1))


def test_embedding_file_equals_a_computation_by_hand(tmp_path, rng):
    d = distance_file(tmp_path / "d.pt2")
    for shape in ((16, 16, 3), (16, 40, 3), (41, 16, 3)):
        frames, goal = rng.integers(0, 256, (5, *shape), np.uint8), rng.integers(0, 256, shape, np.uint8)
        by_hand = [np.linalg.norm(centre_mean(frame) - centre_mean(goal)) for frame in frames]
        np.testing.assert_allclose(d(frames, goal), by_hand, atol=1e-5)
        np.testing.assert_allclose(d(torch.from_numpy(frames), np.stack([goal] * 5)), by_hand, atol=1e-5)
        assert d(goal[None], goal).item() == 0
    goal[:] = 0  # changed in place: the kept embedding must not be used
    np.testing.assert_allclose(d(frames, goal), [np.linalg.norm(centre_mean(f) + 1) for f in frames], 0, 1e-5)
    assert d.kind == "embedding" and d.meta["name"] == "mean"
    assert common.load_distance(tmp_path / "d.pt2", "meta").device.type == "meta"  # as for a GPU


def test_wrong_pictures_and_files_get_one_clear_line(tmp_path):
    path, good = tmp_path / "d.pt2", np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(common.UserError, match="no device 'gpu'"):
        common.pick_device("gpu")
    with pytest.raises(common.UserError, match="is missing; .* 03_hold_c.py"):
        common.load_distance(path)
    d = distance_file(path)
    for frames, goal in ((good * 1.0, good[0]), (good.reshape(2, 3, 8, 8), good[0]), (good[0], good[0]),
                         (good, good[[0, 0, 0]]), (good, good[0, 0])):
        with pytest.raises(common.UserError, match="wanted: uint8 frames"):
            d(frames, goal)
    whole = path.read_bytes()
    for scrap in (b"", b"hello", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(scrap)
        with pytest.raises(common.UserError, match="no distance file, or cut short"):
            common.load_distance(path)


def test_a_distance_file_can_be_read_after_a_picture_was_drawn(tmp_path):
    """Software OpenGL and torch.export bring an LLVM each; in the wrong order the process dies."""
    distance_file(tmp_path / "d.pt2")
    code = f"""import common; common.pick_gl(); import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
print(common.load_distance({str(tmp_path / "d.pt2")!r}).kind)
renderer.close()"""
    finished = run("-c", code, MUJOCO_GL="")
    assert finished.returncode == 0 and finished.stdout.strip() == "embedding", finished.stderr
