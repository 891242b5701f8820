"""01_data.py: clips are what their labels say, the same every time, and whole."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

import common

data = importlib.import_module("01_data")
TEMPLATES = [template for template, _ in data.ACTIONS]
UNTOUCHED = [i for i, t in enumerate(TEMPLATES) if t.startswith(("Pretending", "Touching"))]


@pytest.fixture(autouse=True, scope="module")
def open_gl():
    common.pick_gl()


def small_config(**changes):
    return dataclasses.replace(data.Config(height=48, width=64, workers=1), **changes)


def on_tripod(film, hidden=()):
    """The same film by a camera that does not move, some bodies far below the floor."""
    eye, gaze = film.poses["camera"]
    poses = film.poses | {"camera": (np.repeat(eye[:1], len(eye), 0), gaze[[0] * len(eye)])}
    return film._replace(poses={name: (where - [0, 0, 99 * (name in hidden)], turn) for name, (where, turn) in poses.items()})


def visible(film, name, config):
    """Where a body is seen (T, H, W): the pixels that change when it is taken away."""
    full, without = (data.render(on_tripod(film, hidden), config) for hidden in ((), (name,)))
    return (full != without).any(-1)


# ---- One clip ------------------------------------------------------------------------------------------------------


def test_a_clip_depends_on_seed_and_index_alone():
    config = small_config()
    first = data.render(data.compose(config, 5), config)
    data.render(data.compose(config, 9), config)
    np.random.seed(0)
    assert np.array_equal(first, data.render(data.compose(dataclasses.replace(config, clips=3, out="elsewhere"), 5), config))
    for other in (data.compose(config, 5 + len(TEMPLATES)), data.compose(dataclasses.replace(config, seed=1), 5)):
        frames = data.render(other, config)
        assert frames.shape != first.shape or not np.array_equal(frames, first)


@pytest.mark.parametrize("action", range(len(TEMPLATES)), ids=lambda i: TEMPLATES[i][:30])
def test_something_happens_and_only_the_hand_makes_it_happen(action):
    config = small_config()
    film = data.compose(config, action + 2 * len(TEMPLATES))
    frames = data.render(on_tripod(film), config)
    assert 24 <= len(frames) <= 60 and frames.shape[1:] == (48, 64, 3) and frames.dtype == np.uint8
    changed = (np.abs(frames.astype(int) - frames[0]) > 10).any(-1).mean((1, 2))  # (T,)
    assert changed.max() > 0.02, "hardly a pixel moves in this clip"
    alone = data.render(on_tripod(film, hidden=("hand", "hand2")), config)
    same = (alone == alone[0]).all((1, 2, 3))
    assert same[film.time.act == 0].all(), "the thing moves before the hand touches it"
    assert same.all() == (action in UNTOUCHED)


@pytest.mark.parametrize("template, axis, sign", [("from left to right", 1, 1), ("from right to left", 1, -1),
                                                  ("towards the camera", 0, 1), ("away from the camera", 0, -1)])
def test_the_label_names_the_direction_in_the_picture(template, axis, sign):
    config = small_config()
    for index in [i + k * len(TEMPLATES) for i, t in enumerate(TEMPLATES) if template in t for k in range(4)]:
        seen = visible(data.compose(config, index), "thing0", config)
        places = [np.argwhere(mask).mean(0)[axis] for mask in seen if mask.sum() > 5]  # row 0, column 1
        assert sign * (places[-1] - places[0]) > 4, f"clip {index} moves by {places[-1] - places[0]:.1f} pixels"


def test_drawers_open_and_close():
    config = small_config()
    for word, sign in (("Opening", 1), ("Closing", -1)):
        for index in [i for i, t in enumerate(TEMPLATES) if t.startswith(word)]:
            joint = data.compose(config, index).joints["joint0"]
            assert (sign * np.diff(joint) >= 0).all() and abs(joint[-1] - joint[0]) > 0.03


def test_the_fingertips_are_at_the_thing_during_the_act():
    config = small_config()
    for index in range(2 * len(TEMPLATES)):
        if index % len(TEMPLATES) not in UNTOUCHED:
            film, template = data.compose(config, index), TEMPLATES[index % len(TEMPLATES)]
            acts = (film.time.act > 0.05) & (film.time.act < 0.95) & (film.time.after == 0)
            gap = np.linalg.norm(film.poses["hand"][0] - film.poses["thing0"][0], axis=1)[acts]
            assert gap.max() < 0.4, f"clip {index}: {template}"
            assert "Rolling" in template or gap.max() - gap.min() < 0.3


@pytest.mark.parametrize("index", range(len(TEMPLATES) - 6, 2 * len(TEMPLATES), 7))
def test_controls_share_the_world_and_differ_in_the_act(index):
    config = small_config()
    film, failed, still = (data.compose(config, index, control) for control in (None, "failed", "still"))
    for other in (failed, still):
        assert other.xml == film.xml and np.array_equal(other.poses["camera"][0], film.poses["camera"][0])
        assert np.allclose(other.poses["thing0"][0][0], film.poses["thing0"][0][0], atol=1e-6)  # they begin alike
    for name in ("hand", "thing0"):
        assert np.ptp(still.poses[name][0], axis=0).max() == 0
    for failed_path, path in ((failed.poses["thing0"][0], film.poses["thing0"][0]), *((failed.joints[j], film.joints[j]) for j in film.joints)):
        assert np.allclose(failed_path[-1], failed_path[0], atol=1e-3), "a failed act leaves the thing where it was"
    assert np.ptp(failed.poses["hand"][0], axis=0).max() > 0.03  # somebody tried


def test_the_switches_of_variety():
    plain = [data.compose(small_config(textures=False, cameras=False), i) for i in range(3)]
    assert all(film.paint == {} and np.ptp(film.poses["camera"][0], axis=0).max() == 0 for film in plain)
    angles = [film.poses["camera"][1][0].as_rotvec() for film in plain]
    assert np.allclose(angles[0], angles[1]) and np.allclose(angles[0], angles[2])
    assert data.render(plain[0], small_config(textures=False)).std() > 5
    words = small_config(actions="Opening")
    assert {data.entry(words, i)["template"] for i in range(9)} == {"Opening [something]"}
    with pytest.raises(common.UserError, match="Juggling"):
        data.entry(small_config(actions="Juggling"), 0)


# ---- The folder ----------------------------------------------------------------------------------------------------


def test_layout_is_that_of_ssv2(tmp_path):
    config = small_config(out=str(tmp_path), clips=40)
    data.check_manifest(config)
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    controls = data.list_controls(config)
    for i, control in [(i, None) for i in range(40)] + controls:  # labels only: rendering is not under test here
        data.clip_path(config, i, control).touch()
    data.make_clips(config)
    files = {name: json.loads((tmp_path / "labels" / f"{name}.json").read_text()) for name in ("labels", "train", "validation", "test", "controls")}
    ids = {name: [entry["id"] for entry in files[name]] for name in ("train", "validation", "test", "controls")}
    assert len(controls) == len(ids["controls"]) > 3
    assert sorted(sum(ids.values(), [])) == sorted(p.stem for p in videos.iterdir()) and len(set(sum(ids.values(), []))) == 40 + len(controls)
    assert all(set(e) == {"id", "label", "template", "placeholders"} for e in files["train"] + files["validation"])
    assert all(set(e) == {"id"} for e in files["test"])
    for entry in files["train"] + files["validation"]:
        assert entry["template"].replace("[", "").replace("]", "") in files["labels"] and entry["id"].isdecimal()
        assert len(entry["placeholders"]) == entry["template"].count("[") and "[" not in entry["label"]
        assert all(name in entry["label"] for name in entry["placeholders"])
    for entry in files["controls"]:
        assert entry["control"] in ("failed", "still", "reversed") and entry["of"] in ids["validation"]
        assert not entry["template"].startswith(("Pretending", "Touching"))
    for split in ("train", "validation", "controls"):
        assert [p.stem for p in common.find_clips(tmp_path, split)] == ids[split] != []
    ids = [data.clip_id(i) for i in range(220_000)]
    assert len(set(ids)) == len(ids)


def test_runs_again_and_adds_only_what_is_missing(tmp_path):
    config = small_config(out=str(tmp_path), clips=4, workers=2)  # two processes
    data.make_clips(config)
    paths = [data.clip_path(config, i) for i in range(4)]
    frames = {path: common.read_clip(path)[0] for path in paths}
    stamps = {path: path.stat().st_mtime_ns for path in paths}
    assert common.read_clip(paths[0])[1] == 12 and not [p for p in tmp_path.rglob(".*")]
    paths[2].unlink()
    data.make_clips(dataclasses.replace(config, clips=5, workers=1))  # in this process
    assert data.clip_path(config, 4).is_file()
    assert [stamps[p] == p.stat().st_mtime_ns for p in paths] == [True, True, False, True]
    assert all(np.array_equal(common.read_clip(p)[0], frames[p]) for p in paths)
    raw = data.render(data.compose(config, 2), config)
    assert np.abs(frames[paths[2]].astype(int) - raw).mean() < 8  # the file shows what was rendered


def test_other_settings_are_refused_in_one_line(tmp_path):
    config = small_config(out=str(tmp_path), clips=0)
    data.check_manifest(config)
    data.check_manifest(dataclasses.replace(config, clips=9, workers=7))
    real = tmp_path / "ssv2"
    (real / "labels").mkdir(parents=True)
    for change in ({"seed": 1}, {"height": 72}, {"out": str(real)}, {"width": 65}):
        with pytest.raises(common.UserError) as error:
            data.check_manifest(dataclasses.replace(config, **change))
        assert "\n" not in str(error.value) and ("even" if "width" in change else str(tmp_path)) in str(error.value)
    assert [p.name for p in real.iterdir()] == ["labels"]


# ---- From clip to example ------------------------------------------------------------------------------------------


def test_pairs_are_uniform_and_windows_whole():
    rng = np.random.default_rng(0)
    counts = np.zeros((5, 5))
    for _ in range(4000):
        history, goal = data.draw_pair(5, rng)
        assert history.tolist() == [max(history[2] - 2, 0), max(history[2] - 1, 0), history[2]] and goal > history[2]
        counts[history[2], goal] += 1
    assert np.allclose(counts[np.triu_indices(5, 1)], 400, atol=90)  # 4.5 standard deviations
    starts = {data.draw_window(34, rng)[0] for _ in range(100)}
    assert starts == {0, 1, 2}
    assert (np.diff(data.draw_window(50, rng)) == 1).all()
    assert data.draw_window(20, rng).tolist() == [*range(20), *range(12)]


@pytest.mark.parametrize("operation", list(data.RANDAUGMENT))
def test_augmentation_against_torchvision_one_by_one(operation, monkeypatch):
    frames = np.random.default_rng(1).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)
    monkeypatch.setattr(data, "RANDAUGMENT", {operation: data.RANDAUGMENT[operation]})
    names, clips = zip(*data.augment(frames, np.random.default_rng(3)).items())
    rng = np.random.default_rng(3)
    height, width = round(288 * rng.uniform(0.9, 1.33)), round(384 * rng.uniform(0.9, 1.33))
    top, left, flip = rng.integers(height - 255), rng.integers(width - 255), rng.random() < 0.5
    rng.choice([0], 2)
    expected = torch.stack([torch.tensor(f).permute(2, 0, 1) for f in frames])
    expected = TF.resize(TF.resize(expected, (288, 384)), (height, width))[:, :, top:top + 256, left:left + 256]
    expected = expected.flip(-1) if flip else expected
    for _ in range(2):
        tall = torch.cat(list(expected), 1)  # the frames of a clip above each other
        x = tall.int()
        done = {"identity": tall, "posterize": tall, "solarize": tall, "invert": 255 - tall,
                "solarize_add": torch.where(x < 128, (x + 220).clamp(0, 255), x).byte(), "equalize": TF.equalize(tall),
                "autocontrast": TF.autocontrast(tall), "color": TF.adjust_saturation(tall, 3.7),
                "contrast": TF.adjust_contrast(tall, 3.7), "brightness": TF.adjust_brightness(tall, 3.7),
                "sharpness": TF.adjust_sharpness(tall, 3.7)}
        if operation == "cutout":
            (row, column), mask = rng.integers(0, 256, 2), torch.ones(256, 256, dtype=torch.bool)
            rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
            mask = (rows >= row - 80) & (rows < row + 80) & (columns >= column - 80) & (columns < column + 80)
            expected = expected.masked_fill(mask, 0)
        else:
            expected = torch.stack(done[operation].split(256, 1))
    assert names[-1] == f"2: {operation}" and clips[-1].shape == (3, 3, 256, 256)
    assert torch.equal(clips[-1], expected)
