"""common.py: the command line, files that appear whole, videos, and the distance file."""

import json
import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

import common
from conftest import run


@dataclass
class Settings:
    """A config for the tests."""

    steps: int = 10  # how many
    task: Literal["a", "b"] = "a"  # which
    size: tuple[int, ...] = (4, 6)  # height and width
    flag: bool = True  # yes or no
    pause: int = 3  # steps between two; 0 never pauses
    rate: float = 0.5  # how fast

    @classmethod
    def smoke(cls):
        return cls(steps=1)


def parse(monkeypatch, *argv, smoke=None, program="script.py"):
    monkeypatch.setattr("sys.argv", [program, *argv])
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setenv("SMOKE_TEST", smoke or "0")
    return common.parse_config(Settings)


def test_command_line_overrides_the_preset(monkeypatch):
    assert parse(monkeypatch) == Settings()
    assert parse(monkeypatch, "--steps", "7", "--task", "b", "--size", "8", "9", "--no-flag") == Settings(7, "b", (8, 9), False)
    assert parse(monkeypatch, "--preset", "smoke", "--task", "b") == Settings(1, "b")
    assert parse(monkeypatch, smoke="1") == Settings(1)


def test_numbers_below_zero_and_meaningless_zeros_are_refused(monkeypatch):
    assert parse(monkeypatch, "--pause", "0", "--rate", "0").pause == 0
    for flag, value, least in (("--steps", "0", "1 or more"), ("--steps", "-1", "1 or more"), ("--pause", "-1", "0 or more"),
                               ("--rate", "-0.1", "0 or more")):
        with pytest.raises(common.UserError, match=f"{flag} is {value}; it must be {least}"):
            parse(monkeypatch, flag, value)


def test_a_device_that_is_not_there_gets_one_line():
    for name in ("gpu", *(["cuda"] if not common.torch.cuda.is_available() else [])):
        with pytest.raises(common.UserError, match=f"no device '{name}'"):
            common.pick_device(name)
    assert common.pick_device("cpu").type == "cpu"


def test_only_the_default_folder_is_filled_with_stand_ins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(common, "run_script", lambda *arguments: made.append(arguments))
    with pytest.raises(common.UserError, match="no folder my_vidoes"):
        common.ensure_clips("my_vidoes/")
    assert not made
    common.ensure_clips("data/standin/")
    assert made == [("01_data.py", "--out", common.Path("data/standin"))]


def test_command_line_is_ignored_in_a_notebook_and_strict_elsewhere(monkeypatch, capsys):
    assert parse(monkeypatch, "-f", "kernel.json", program="ipykernel_launcher.py") == Settings()
    for bad in (["--stepz", "3"], ["--task", "c"], ["--steps", "x"], ["--step", "3"]):
        with pytest.raises(SystemExit):
            parse(monkeypatch, *bad)
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    assert "how many (default: 10)" in capsys.readouterr().out


def test_user_errors_are_one_line_for_commands(tmp_path):
    script = tmp_path / "s.py"
    script.write_text("from dataclasses import dataclass\nimport common\n@dataclass\nclass Config:\n    a: int = 1\n"
                      "common.parse_config(Config)\nraise common.UserError('no cake; bake one')\n")
    finished = run(script, PYTHONPATH=str(common.Path(common.__file__).parent))
    assert finished.returncode == 1 and finished.stderr.strip() == "error: no cake; bake one"


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with pytest.raises(RuntimeError), common.write_whole(target) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    with common.write_whole(target) as draft:
        draft.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all" and len(list(target.parent.iterdir())) == 1


def test_csv_round_trip(tmp_path):
    rows = [{"step": 1, "loss": 0.5, "name": "x"}, {"step": 2, "loss": 0.25, "name": "y"}]
    common.write_csv(tmp_path / "log.csv", rows)
    columns = common.read_csv(tmp_path / "log.csv")
    assert columns["loss"].tolist() == [0.5, 0.25] and columns["name"].tolist() == ["x", "y"]
    with pytest.raises(common.UserError, match="there is no"):
        common.read_csv(tmp_path / "none.csv")


def test_checkpoints_refuse_code_and_scraps(tmp_path):
    path = tmp_path / "checkpoint.pt"
    common.save_checkpoint(path, {"w": torch.arange(3), "step": 4})
    assert common.load_checkpoint(path)["w"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(common.UserError, match="delete it"):
        common.load_checkpoint(path)
    torch.save({"code": os.system}, path)
    with pytest.raises(common.UserError):
        common.load_checkpoint(path)


# ---- Videos ----


def moving_square(length=24, height=48, width=64):
    frames = np.full((length, height, width, 3), 200, np.uint8)
    for t in range(length):
        frames[t, 10:30, t : t + 20] = (220, 30, 40)
    return frames


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
def test_video_round_trip(tmp_path, suffix):
    frames = moving_square()
    common.write_video(tmp_path / f"clip{suffix}", frames, fps=12)
    decoded, fps = common.read_clip(tmp_path / f"clip{suffix}")
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8 and fps == pytest.approx(12)
    assert np.abs(decoded.astype(int) - frames).mean() < 6
    small, _ = common.read_clip(tmp_path / f"clip{suffix}", short_side=24)
    assert small.shape == (24, 24, 32, 3)
    assert np.abs(small.astype(int) - frames[:, ::2, ::2]).mean() < 12


def test_bad_clips_are_told_apart_and_left_out(tmp_path):
    for name in ("1", "2", "3"):
        common.write_video(tmp_path / f"{name}.webm", moving_square(), fps=12)
    common.write_video(tmp_path / "4.webm", moving_square(1), fps=12)
    (tmp_path / "5.webm").write_text("no video")
    (tmp_path / "6.webm").write_bytes(b"")
    (tmp_path / "7.webm").write_bytes((tmp_path / "1.webm").read_bytes()[:200])
    for scrap in "567":
        with pytest.raises(common.UserError, match=f"{scrap}.webm"):
            common.read_clip(tmp_path / f"{scrap}.webm")
    (tmp_path / "labels").mkdir()
    ids = [{"id": str(i)} for i in range(1, 9)]  # 8 has no file
    (tmp_path / "labels" / "train.json").write_text(json.dumps(ids))
    clips = common.ClipSet(tmp_path, "train", 24)
    assert len(clips) == 3 and clips[0][0].shape == (24, 24, 32, 3)
    reasons = {name: reason for name in "45678" for reason in clips.bad if f"{name}.webm" in reason}
    assert len(clips.bad) == len(reasons) == 5 and "single frame" in reasons["4"] and "is missing" in reasons["8"]
    lazy = common.ClipSet(tmp_path, "train", 24, cache=False)
    assert lazy.paths == clips.paths and lazy.bad == clips.bad and np.array_equal(lazy[2][0], clips[2][0])


def test_folders_without_labels_split_by_a_stable_hash(tmp_path):
    for i in range(60):
        (tmp_path / f"clip{i}.mp4").touch()
    train, held_out = (common.find_clips(tmp_path, split) for split in ("train", "validation"))
    assert not set(train) & set(held_out) and len(train) + len(held_out) == 60 and 1 <= len(held_out) <= 15
    (tmp_path / "clip60.mp4").touch()
    assert set(held_out) <= set(common.find_clips(tmp_path, "validation"))
    with pytest.raises(common.UserError, match="01_data.py"):
        common.find_clips(tmp_path / "empty", "train")
    (tmp_path / "something-something-v2-train.json").write_text('[{"id": "clip3"}, {"id"')
    with pytest.raises(common.UserError, match="broken"):
        common.find_clips(tmp_path, "train")


# ---- The distance file ----


class Mean(nn.Module):
    """Embeds a picture as its mean colour; a pair as the difference of mean colours of the last frame and the goal."""

    def forward(self, x):
        m = x.mean((-1, -2))
        return m if m.ndim == 2 else (m[:, -2] - m[:, -1]).abs().sum(-1, keepdim=True)


def distance_file(path, kind, history):
    meta = {"name": "mean", "kind": kind, "history": history}
    common.save_distance(path, Mean(), meta, common.Preprocess(16))
    return common.load_distance(path)


def centre_square(image):
    """The preprocessing again, in NumPy for sizes where the resize is the identity."""
    height, width = image.shape[:2]
    top, left, side = (height - min(height, width)) // 2, (width - min(height, width)) // 2, min(height, width)
    return image[top : top + side, left : left + side].astype(float) / 127.5 - 1


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 40, 3), (41, 16, 3)])
def test_embedding_file_equals_a_computation_by_hand(tmp_path, rng, shape):
    d = distance_file(tmp_path / "d.pt2", "embedding", 1)
    frames, goal = rng.integers(0, 256, (5, *shape), np.uint8), rng.integers(0, 256, shape, np.uint8)
    by_hand = [np.linalg.norm(centre_square(f).mean((0, 1)) - centre_square(goal).mean((0, 1))) for f in frames]
    np.testing.assert_allclose(d.distance(frames, goal), by_hand, atol=1e-5)
    np.testing.assert_allclose(d(torch.from_numpy(frames), np.stack([goal] * 5)), by_hand, atol=1e-5)
    assert d.distance(goal[None], goal).item() == 0 and d.kind == "embedding" and d.meta["name"] == "mean"


def test_pairwise_file_with_history(tmp_path, rng):
    d = distance_file(tmp_path / "d.pt2", "pairwise", 3)
    frames, goal = rng.integers(0, 256, (4, 3, 16, 20, 3), np.uint8), rng.integers(0, 256, (24, 16, 3), np.uint8)
    by_hand = [np.abs(centre_square(f[-1]).mean((0, 1)) - centre_square(goal).mean((0, 1))).sum() for f in frames]
    np.testing.assert_allclose(d.distance(frames, goal), by_hand, atol=1e-5)
    single = distance_file(tmp_path / "d1.pt2", "pairwise", 1)
    np.testing.assert_allclose(single.distance(frames[:, -1], goal), by_hand, atol=1e-5)


def test_the_goal_is_embedded_once_and_anew_when_it_changes(tmp_path, rng):
    d = distance_file(tmp_path / "d.pt2", "embedding", 1)
    calls, program = [], d.program
    d.program = lambda x: calls.append(len(x)) or program(x)
    frames, goal = rng.integers(0, 256, (2, 16, 16, 3), np.uint8), rng.integers(0, 256, (16, 16, 3), np.uint8)
    first = d.distance(frames, goal)
    assert torch.equal(d.distance(frames, goal), first) and calls.count(1) == 1 and calls.count(2) == 2
    goal[:] = 0  # changed in place: the kept embedding must not be used
    assert not torch.equal(d.distance(frames, goal), first) and calls.count(1) == 2


@pytest.mark.parametrize("frames, goal, words", [
    (np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), "uint8"),
    (np.zeros((2, 3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), "colour last"),
    (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), r"wants \(B, H, W, 3\)"),
    (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8), "one per frame"),
])
def test_wrong_pictures_get_one_clear_line(tmp_path, frames, goal, words):
    with pytest.raises(common.UserError, match=words):
        distance_file(tmp_path / "d.pt2", "embedding", 1).distance(frames, goal)


def test_wrong_distance_files_get_one_clear_line(tmp_path):
    path = tmp_path / "d.pt2"
    with pytest.raises(common.UserError, match="03_hold_c.py"):
        common.load_distance(path)
    distance_file(path, "embedding", 1)
    whole = path.read_bytes()
    for scrap in (b"", b"hello", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(scrap)
        with pytest.raises(common.UserError, match="not a distance file"):
            common.load_distance(path)


def test_gl_backend_is_found_without_being_told():
    code = "import common, os; common.pick_gl(); print(os.environ.get('MUJOCO_GL', 'native'))"
    finished = run("-c", code, MUJOCO_GL="")
    assert finished.stdout.strip() in ("egl", "osmesa", "glfw", "native"), finished.stderr


def test_a_distance_file_can_be_read_after_a_picture_was_drawn(tmp_path):
    """Software OpenGL and torch.export bring an LLVM each; in the wrong order the process dies."""
    distance_file(tmp_path / "d.pt2", "embedding", 1)
    code = f"""import common; common.pick_gl(); import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
print(common.load_distance({str(tmp_path / "d.pt2")!r}).kind)
renderer.close()"""
    finished = run("-c", code, MUJOCO_GL="")
    assert finished.returncode == 0 and finished.stdout.strip() == "embedding", finished.stderr


def test_gl_names_the_package_where_nothing_works_and_takes_the_first_that_does(monkeypatch):
    tried = []

    def probe(command, env, **_):
        tried.append(env["MUJOCO_GL"])
        return type("Finished", (), {"returncode": 0 if env["MUJOCO_GL"] == works else 1})

    monkeypatch.setattr(common.subprocess, "run", probe)
    monkeypatch.setattr(common.sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "")  # so that the end of the test brings back what was there
    for works, order in ((None, ["egl", "osmesa", "glfw"]), ("osmesa", ["egl", "osmesa"])):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        tried.clear()
        if works is None:
            with pytest.raises(common.UserError, match="apt-get install -y libegl1 libosmesa6"):
                common.pick_gl()
        else:
            common.pick_gl()
            assert os.environ["MUJOCO_GL"] == works
        assert tried == order
    monkeypatch.setenv("MUJOCO_GL", "egl")
    tried.clear()
    common.pick_gl()
    assert tried == []  # a choice that was made is kept
