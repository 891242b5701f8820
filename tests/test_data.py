"""01_data.py: clips are what their labels say; and videos as people have them, broken ones too."""

import dataclasses
import importlib
import itertools
import json
import struct
import sys
import tracemalloc

import av
import numpy as np
import pytest

import common
from conftest import run, stopped_after

data = importlib.import_module("01_data")
TEMPLATES = [template for template, _ in data.ACTIONS]
CODECS = dict(webm="libvpx-vp9", mp4="libx264", mkv="libx264", mov="mpeg4", avi="mpeg4", gif="gif")


def squares(length=12, height=48, width=64, seed=0):
    """Frames (T, H, W, 3) of slowly changing large squares, which every codec keeps well."""
    ends = np.random.default_rng(seed).integers(0, 256, (2, height // 16, width // 16, 3))
    t = np.linspace(0, 1, length)[:, None, None, None]
    return np.kron(ends[0] * (1 - t) + ends[1] * t, np.ones((1, 16, 16, 1))).astype(np.uint8)


def encode(path, frames, times=None, sound=0, hold=0, title=""):
    """Write a video: `times` in 1/12 s, seconds of `sound`, seconds to `hold` a gif's last frame, a title."""
    codec = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as file:
        file.metadata["title"] = title
        pixels = "rgb8" if codec == "gif" else "yuv420p"
        height, width = frames[0].shape[:2]
        stream = file.add_stream(codec, 12, height=height, width=width, pix_fmt=pixels)
        track = file.add_stream("libopus" if path.suffix == ".webm" else "aac", 48000) if sound else None
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format=pixels)
            frame.pts = int(times[t]) if times else t
            file.mux(stream.encode(frame))
        for start in range(0, 48000 * sound, 960):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, start
            file.mux(track.encode(frame))
        for each in filter(None, (stream, track)):
            file.mux(each.encode())
    if hold:  # the delay, in 1/100 s, stands behind the mark of the last graphic control extension
        raw = bytearray(path.read_bytes())
        struct.pack_into("<H", raw, raw.rindex(b"\x21\xf9\x04") + 4, 100 * hold)
        path.write_bytes(raw)


VARIABLE, LATE = [*range(8), 8, 12, 16, 20], [*range(11), 19]
READABLE = [*((suffix, {}) for suffix in CODECS), ("gif", {"hold": 60}), ("mkv", {"title": "q" * 8}),
            *((suffix, {"sound": 3}) for suffix in ("webm", "mp4", "mov")),
            *((suffix, {"times": times}) for suffix in ("webm", "mp4") for times in (VARIABLE, LATE))]


@pytest.mark.parametrize("suffix, options", READABLE)
def test_all_containers_rates_and_lengths_are_read(tmp_path, suffix, options):
    path, frames = tmp_path / f"x.{suffix}", squares()
    encode(path, frames, **options)  # what lasts longer than the pictures is no sign of a cut
    path.write_bytes(path.read_bytes().replace(b"q" * 8, b"\xff\xfe" * 4))  # a title that is not UTF-8
    decoded, fps = common.read_clip(path.rename(tmp_path / "x.mp4"))  # whatever its name
    rate = 132 / options.get("times", [11])[-1]
    assert decoded.shape == frames.shape and fps == pytest.approx(rate, rel=0.05)
    assert np.abs(decoded.astype(int) - frames).mean() < {"gif": 40, "mov": 10, "avi": 10}.get(suffix, 6)


@pytest.mark.parametrize("matrix, turned", [
    ((0, 1, -1, 0), lambda x: x.swapaxes(1, 2)[:, :, ::-1]), ((-1, 0, 0, -1), lambda x: x[:, ::-1, ::-1])])
def test_phone_videos_stand_upright(tmp_path, matrix, turned):
    """The header's matrix (a, b, c, d) takes a pixel (x, y) to (a x + c y, b x + d y), y down, shifted."""
    encode(tmp_path / "x.mp4", squares())
    lying, raw = common.read_clip(tmp_path / "x.mp4")[0], bytearray((tmp_path / "x.mp4").read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, five fields, reserved, layer to volume
    struct.pack_into(">9i", raw, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "x.mp4").write_bytes(raw)
    assert np.array_equal(common.read_clip(tmp_path / "x.mp4")[0], turned(lying))


def damaged(raw, way, rng):
    """The bytes of a file, spoilt."""
    raw, (a, b) = np.frombuffer(raw, np.uint8).copy(), np.sort(rng.integers(len(raw), size=2))
    if way in ("flipped", "header"):
        places = rng.integers(len(raw) if way == "flipped" else 400, size=rng.integers(1, 30))
        raw[places] = rng.integers(0, 256, len(places))
    raw[a:b] *= way != "zeroed"
    return bytes({"cut": raw[:a], "empty": raw[:0], "doubled": np.append(raw[:b], raw[a:])}.get(way, raw))


def test_200_damaged_videos_give_frames_or_one_line(tmp_path):
    rng, results = np.random.default_rng(16), []
    ways = ("flipped", "header", "cut", "zeroed", "doubled", "flipped", "header", "cut")
    for suffix, i in itertools.product(("webm", "mp4", "mkv", "avi", "gif"), range(40)):
        path, whole = tmp_path / f"{i}.{suffix}", tmp_path / f"whole.{suffix}"
        if i == 0:
            encode(whole, squares(10, 32, 48))
        path.write_bytes(damaged(whole.read_bytes(), ways[i % 8] if i else "empty", rng))
        try:
            frames, fps = common.read_clip(path)
            assert frames.dtype == np.uint8 and frames.ndim == 4 and len(frames) and 0 < fps < np.inf
        except common.UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            results.append(path)
    assert 50 < len(results) < 150


def files(folder, names, content=""):
    for path in (folder / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def labels(ids):
    return json.dumps([{"id": i, "template": "Opening [something]"} for i in ids])


@pytest.mark.parametrize("videos", ["", "20bn-something-something-v2/", "a/b/"])
@pytest.mark.parametrize("place", ["", "labels/", "package/", "package/labels/"])
@pytest.mark.parametrize("name", ["{}.json", "something-something-v2-{}.json"])
def test_every_layout_of_ssv2_gives_each_split_its_ids_in_order(tmp_path, videos, place, name):
    files(tmp_path, [f"{videos}{i}.webm" for i in range(1, 9)] + ["demonstrations/pushing/9.webm"])
    splits = {"train": ["5", 3, "1"], "validation": [8, 2], "test": ["7"], "controls": ["4"]}
    for split, ids in splits.items():
        files(tmp_path, [place + name.format(split)], labels([*ids, 9]))  # 9: a demonstration is no clip
    files(tmp_path, [place + name.format("labels")], '{"Opening something": "0"}')
    for split, ids in splits.items():
        assert common.find_clips(tmp_path, split) == [tmp_path / f"{videos}{i}.webm" for i in ids]


def test_own_videos_split_by_name_alone(tmp_path):
    names, parts = [f"{folder}/{i}.{end}" for folder in "ab" for i in range(30) for end in ("mp4", "MOV")], {}
    for folder, listed in {"all": names, "half": names[::2] + ["new.gif"], "two": names[:2]}.items():
        files(tmp_path / folder, listed + [".hidden.mp4", "a/._1.mp4", "notes.txt"])
        train, held_out = (set(common.find_clips(tmp_path / folder, s)) for s in ("train", "validation"))
        assert train | held_out == {tmp_path / folder / name for name in listed} and not train & held_out
        parts[folder] = {path.relative_to(tmp_path / folder).as_posix() for path in held_out}
    assert parts["half"] - {"new.gif"} == parts["all"] & {*names[::2]} and 4 < len(parts["all"]) < 25
    assert len(parts["two"]) == 1  # however few, one is held out


def test_check_lists_every_bad_file_and_training_leaves_them_out(clips):
    whole = (clips / "0.webm").read_bytes()
    broken = {"empty": b"", "text": b"hello" * 50, "header": whole[:300], "cut": whole[: len(whole) // 2]}
    for name, content in broken.items():
        (clips / f"{name}.webm").write_bytes(content)
    common.write_video(clips / "still.webm", squares(1), fps=12)
    files(clips, ["labels/train.json"], labels([*range(20), 99, *broken, "still"]))
    files(clips, ["validation.json"], "[{")
    finished = run("01_data.py", "--check", clips, MPLBACKEND="agg")
    for words in ("5 of 29 videos cannot be used", "train: 25 of 26 listed", "validation.json is broken"):
        assert words in finished.stdout, finished.stderr
    bad = dict(zip(*common.read_csv(clips / "bad.csv").values()))
    assert set(bad) == {f"{name}.webm" for name in (*broken, "still")} and "single frame" in bad["still.webm"]
    assert bad["cut.webm"].startswith("is cut short") and bad["empty.webm"].startswith("is not a readable")
    assert [p.stem for p in common.ClipSet(clips, "train", 24).paths] == [str(i) for i in range(20)]
    with pytest.raises(common.UserError, match="no controls.json"):  # the other splits' clips are none
        common.find_clips(clips, "controls")


@pytest.fixture(autouse=True)
def config(tmp_path):
    common.pick_gl()
    return data.Config(out=str(tmp_path / "clips"), clips=6, seed=3, height=48, width=64, workers=1)


def frames_of(index, hidden=""):
    """Clip `index` by a camera that does not move, a body far below the floor."""
    xml, poses, joint, paint = data.compose(0, index)
    eye, gaze = poses["camera"]
    poses |= {"camera": (eye[:1] + 0 * eye, gaze[0])}
    poses |= {name: (poses[name][0] - [0, 0, 99], poses[name][1]) for name in [hidden] if name}
    return data.render(xml, poses, joint, paint, 48, 64)


@pytest.mark.parametrize("action", range(len(TEMPLATES)), ids=lambda i: TEMPLATES[i][:30])
def test_something_happens_and_only_the_hand_makes_it_happen(action):
    index = action + 2 * len(TEMPLATES)
    frames, act = frames_of(index), data.draw_play(0, index)[1][1]
    assert 24 <= len(frames) <= 60 and frames.shape[1:] == (48, 64, 3) and frames.dtype == np.uint8
    changed = (np.abs(frames.astype(int) - frames[0]) > 10).any(-1).mean((1, 2))  # (T,)
    assert changed.max() > 0.02, "hardly a pixel moves"
    alone = frames_of(index, hidden="hand")
    same = (alone == alone[0]).all((1, 2, 3))
    assert same[act == 0].all(), "the thing moves before the hand touches it"
    assert same.all() == TEMPLATES[action].startswith("Pretending")
    if TEMPLATES[action] in ("Opening [something]", "Closing [something]"):
        moved = np.diff(data.compose(0, index)[2]) * (1 if "Open" in TEMPLATES[action] else -1)
        assert (moved >= 0).all() and moved.sum() > 0.03


@pytest.mark.parametrize("action, axis, sign", [(0, 1, 1), (1, 1, -1), (2, 0, 1), (3, 0, -1)])
def test_the_label_names_the_direction_in_the_picture(action, axis, sign):
    for index in range(action, 4 * len(TEMPLATES), len(TEMPLATES)):
        seen = (frames_of(index) != frames_of(index, hidden="thing")).any(-1)
        places = [np.argwhere(mask).mean(0)[axis] for mask in seen if mask.sum() > 5]  # row 0, column 1
        assert sign * (places[-1] - places[0]) > 4, f"{TEMPLATES[action]}, clip {index}"


@pytest.mark.parametrize("index", [*range(len(TEMPLATES) - 3), *range(18, 22)])
def test_controls_share_the_world_and_differ_in_the_act(index):
    clip, failed, still = (data.compose(0, index, control) for control in (None, "failed", "still"))
    for xml, poses, joint, _ in (failed, still):
        assert xml == clip[0] and np.array_equal(poses["camera"][0], clip[1]["camera"][0])
        assert np.allclose(poses["thing"][0][0], clip[1]["thing"][0][0], atol=1e-6) and joint[0] == clip[2][0]
    for path in (still[1]["hand"][0], still[1]["thing"][0], still[2]):
        assert np.ptp(path, axis=0).max() == 0
    where, joint = failed[1]["thing"][0], failed[2]
    assert np.allclose(where[-1], where[0], atol=1e-3) and abs(joint[-1] - joint[0]) < 1e-3  # as before
    assert np.ptp(failed[1]["hand"][0], axis=0).max() > 0.03  # somebody tried


def test_labels_are_those_of_ssv2(config):
    config = dataclasses.replace(config, clips=40)
    jobs = [(i, None) for i in range(40)] + data.list_controls(config)
    files(data.Path("/"), [data.clip_path(config, *job) for job in jobs])  # nothing to render
    data.make_clips(config)
    found = {p.stem: json.loads(p.read_text()) for p in data.Path(config.out, "labels").glob("*.json")}
    templates, controls, test = (found.pop(name) for name in ("labels", "controls", "test"))
    told = found["train"] + found["validation"]
    ids = {e["id"] for e in told + controls + test}
    assert ids == {p.stem for p in data.find_videos(config.out)} and len(ids) == len(jobs)
    assert all(set(e) == {"id"} for e in test) and len(told + test) == 40
    for e in told:
        assert e["template"].replace("[", "").replace("]", "") in templates
        assert sum(name in e["label"] for name in e["placeholders"]) == e["template"].count("[")
    for e in controls:
        assert e["control"] in ("failed", "still") and e["of"] in [clip["id"] for clip in found["validation"]]


def test_what_was_interrupted_is_finished_with_the_same_flags(config, monkeypatch):
    data.claim(config)
    with stopped_after(data, "write_clip", 3), pytest.raises(KeyboardInterrupt):
        data.make_clips(config)
    paths = [data.clip_path(config, i) for i in range(6)]
    complete = data.Path(config.out, "labels", "labels.json")
    assert [p.exists() for p in paths] == [True] * 3 + [False] * 3 and not complete.exists()
    first = common.read_clip(paths[0])[0]
    paths[0].unlink()
    paths[1].write_bytes(b"kept")

    def in_this_process(*command):
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--workers", "1"])
        assert common.parse_config(data.Config) == config
        data.claim(config)
        data.make_clips(config)

    monkeypatch.setattr(common, "run_script", in_this_process)
    common.ensure(config.out)  # as 02, 03 and 04 do
    frames, fps = common.read_clip(paths[0])
    raw, other = (data.render(*data.compose(seed, 0), 48, 64) for seed in (3, 4))
    assert fps == 12 and np.abs(frames.astype(int) - raw).mean() < 8  # the file shows what was rendered
    assert np.array_equal(frames, first) and not np.array_equal(raw, other)
    assert all(p.exists() for p in paths) and paths[1].read_bytes() == b"kept" and complete.is_file()


@pytest.mark.parametrize("change, words", [({"seed": 1}, "holds"), ({"width": 65}, "even"),
                                           ({"clips": 10**6}, "at most"), ({"out": "tests"}, "holds")])
def test_other_settings_and_folders_are_refused_in_one_line(config, change, words):
    data.claim(config)
    with pytest.raises(common.UserError, match=words) as error:
        data.claim(dataclasses.replace(config, **change))
    assert "\n" not in str(error.value) and not data.Path("tests", "manifest.json").exists()


@pytest.mark.parametrize("task, length, fastest, end, tolerance", [
    ("pushing", 100, 0.02, (0, 0.75, 0), 0.06), ("drawer_open", 200, 0.01, (0, 0.7, 0.04), 0.08)])
def test_demonstrations_are_what_the_robot_can_do(sac, task, length, fastest, end, tolerance):
    """Not too fast or long; the red cup or drawer ends where it is in the goal picture of 05_sac.py."""
    for seed in range(20):
        tip, path = data.demonstrate(task, np.random.default_rng(seed))
        assert len(tip) <= length and np.abs(np.diff(tip, axis=0)).max() <= fastest
        moves = np.linalg.norm(np.diff(path, axis=0), axis=1) > 1e-9
        assert moves.any() and not moves[: len(path) // 3].any() and np.allclose(path[-1], end)
    robot = sac.make_task(task, (64, 64)).unwrapped
    goal, places = robot.goal_images()[-1].copy(), []
    robot.close()
    clips = [data.demonstration(task, seed) for seed in range(3)]
    if task == "pushing":
        goal[:40] = 128  # there the robot is, red too
    for picture in (goal, *(frames[-1] for frames in clips)):
        r, g, b = np.moveaxis(picture[:, : 48 if task == "drawer_open" else 64].astype(int), -1, 0)
        places.append(np.argwhere((r > 120) & (g < 60) & (b < 60)).mean(0) / 64)
    assert np.abs(np.array(places[1:]) - places[0]).max() < tolerance
    assert len({len(frames) for frames in clips}) > 1 and not np.array_equal(clips[0][0], clips[1][0])


def test_odd_long_and_huge_videos(tmp_path, monkeypatch):
    encode(tmp_path / "odd.webm", squares()[:, :45, :51])
    assert common.read_clip(tmp_path / "odd.webm", short_side=30)[0].shape == (12, 30, 34, 3)
    encode(tmp_path / "huge.mov", [np.zeros((1080, 1920, 3), np.uint8)] * 30)
    tracemalloc.start()
    assert common.read_clip(tmp_path / "huge.mov", 72)[0].shape == (30, 72, 128, 3)
    assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes; all frames would be 187e6
    tracemalloc.stop()
    monkeypatch.setattr(common, "MAX_FRAMES", 20)
    with pytest.raises(common.UserError, match="huge.mov has .* frames"):
        common.read_clip(tmp_path / "huge.mov", 72)
