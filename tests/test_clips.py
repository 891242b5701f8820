"""Clips as people have them: every layout of SSv2, any folder of videos, broken files, the cache; and what 01_data.py adds."""

import importlib
import json
import os
import shutil
import struct
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

import common
from conftest import run

data = importlib.import_module("01_data")


def film(length=12, height=48, width=64, seed=0):
    """Frames of slowly changing large squares, which every codec keeps well."""
    rng = np.random.default_rng(seed)
    ends = np.kron(rng.integers(0, 256, (2, height // 16, width // 16, 3)), np.ones((1, 16, 16, 1)))
    t = np.linspace(0, 1, length)[:, None, None, None]
    return (ends[0] * (1 - t) + ends[1] * t).astype(np.uint8)  # (T, H, W, 3)


def encode(path, frames, codec="libx264", times=None, rate=12, audio=False):
    """Write a video with PyAV; `times` in ticks of 1 / rate make a variable rate; `audio` adds a track of noise."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        sound = file.add_stream("aac", rate=44100) if audio else None
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=stream.pix_fmt)
            if times is not None:
                frame.pts = int(times[t])
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if audio:
            for start in range(0, 44100, 1024):
                noise = np.random.default_rng(start).uniform(-0.1, 0.1, (1, 1024)).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                file.mux(sound.encode(frame))
            file.mux(sound.encode())


def turn_by_header(path, matrix):
    """Write a display matrix (a, b, c, d) into the track header of an mp4 file, as phones do."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, five fields, reserved, layer to volume
    a, b, c, d = (v << 16 for v in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def labels(path, ids, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"id": i, **more} for i in ids]))


def files(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# ---- Layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("videos", ["", "20bn-something-something-v2/", "a/b/"])
@pytest.mark.parametrize("place", ["", "labels/", "package/", "package/labels/"])
@pytest.mark.parametrize("name", ["{}.json", "something-something-v2-{}.json"])
def test_every_layout_gives_each_split_its_ids_in_order(tmp_path, videos, place, name):
    files(tmp_path, [f"{videos}{i}.webm" for i in range(1, 9)])
    splits = {"train": ["5", "3", "1"], "validation": ["8", "2"], "test": ["7"], "controls": ["4"]}
    for split, ids in splits.items():
        labels(tmp_path / place / name.format(split), ids)
    (tmp_path / place / name.format("labels")).write_text('{"Opening something": "0"}')
    for split, ids in splits.items():
        assert common.find_clips(tmp_path, split) == [tmp_path / f"{videos}{i}.webm" for i in ids]


def test_ids_without_a_file_are_named_and_numbers_are_ids_too(tmp_path):
    files(tmp_path, ["1.webm", "2.webm", "demonstrations/pushing/0.webm", "demonstrations/pushing/3.webm"])
    labels(tmp_path / "train.json", [2, 3, "1"])
    missing = []
    assert [p.name for p in common.find_clips(tmp_path, "train", missing)] == ["2.webm", "1.webm"]
    assert missing == [tmp_path / "3.webm"]  # a demonstration is no clip of that id


@pytest.mark.parametrize("content", ["", "{", '[{"id": "1"}, {"i', '[{"label": "x"}]', '{"a": 1}', "[1]", "\xff"])
def test_broken_labels_get_one_line_and_no_split_leaks_into_another(tmp_path, content):
    files(tmp_path, ["1.webm", "2.webm"])
    (tmp_path / "train.json").write_bytes(content.encode("latin1"))
    with pytest.raises(common.UserError, match="train.json is broken") as error:
        common.find_clips(tmp_path, "train")
    assert "\n" not in str(error.value)
    for split in ("validation", "controls"):  # not drawn by hash from clips that are for training
        with pytest.raises(common.UserError, match=f"no {split}.json"):
            common.find_clips(tmp_path, split)


def test_own_videos_split_by_name_alone(tmp_path):
    names = [f"{folder}/{i}.{suffix}" for folder in "ab" for i in range(30) for suffix in ("mp4", "MOV")]
    files(tmp_path / "one", names)
    files(tmp_path / "two", names[::2] + ["new.gif", ".hidden.mp4", "a/._1.mp4", "notes.txt"])
    one, two = ({s: {str(p.relative_to(root)) for p in common.find_clips(root, s)} for s in ("train", "validation")}
                for root in (tmp_path / "one", tmp_path / "two"))
    assert one["train"] | one["validation"] == set(names) and not one["train"] & one["validation"]
    assert 4 <= len(one["validation"]) <= 24
    assert two["train"] | two["validation"] == {*names[::2], "new.gif"}
    assert two["validation"] - {"new.gif"} == one["validation"] & set(names[::2])
    for count in (2, 3, 5):  # however few, one is held out
        files(tmp_path / str(count), names[:count])
        assert len(common.find_clips(tmp_path / str(count), "validation")) >= 1
    with pytest.raises(common.UserError, match="no controls.json"):
        common.find_clips(tmp_path / "one", "controls")


# ---- Decoding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, codec, tolerance", [
    (".webm", "libvpx-vp9", 6), (".mp4", "libx264", 6), (".mkv", "libx264", 6), (".mov", "mpeg4", 10), (".avi", "mpeg4", 10),
    (".gif", "gif", 40)])
def test_containers(tmp_path, suffix, codec, tolerance):
    frames = film()
    encode(tmp_path / f"x{suffix}", frames, codec)
    decoded, fps = common.read_clip(tmp_path / f"x{suffix}")
    assert decoded.shape == frames.shape and fps == pytest.approx(12, rel=0.02)
    assert np.abs(decoded.astype(int) - frames).mean() < tolerance
    assert common.probe_clip(tmp_path / f"x{suffix}") == (12, 48, 64, fps)


def test_odd_sizes_audio_and_wrong_names(tmp_path):
    encode(tmp_path / "odd.webm", film(height=48, width=64)[:, :45, :51], "libvpx-vp9")
    frames, _ = common.read_clip(tmp_path / "odd.webm", short_side=30)
    assert frames.shape == (12, 30, 34, 3)
    encode(tmp_path / "sound.mp4", film(), audio=True)
    frames, fps = common.read_clip(tmp_path / "sound.mp4")
    assert frames.shape == (12, 48, 64, 3) and fps == pytest.approx(12)
    shutil.copy(tmp_path / "sound.mp4", tmp_path / "named.webm")  # a good video under another's suffix is good
    assert np.array_equal(common.read_clip(tmp_path / "named.webm")[0], frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_variable_rate_gives_its_mean(tmp_path, suffix):
    times = np.concatenate([np.arange(8), 8 + 4 * np.arange(8)])  # 12 frames per second, then 3
    encode(tmp_path / f"x{suffix}", film(16), "libvpx-vp9" if suffix == ".webm" else "libx264", times)
    frames, fps = common.read_clip(tmp_path / f"x{suffix}")
    mean = 15 / (times[-1] / 12)
    assert len(frames) == 16 and fps == pytest.approx(mean, rel=0.05)
    assert common.probe_clip(tmp_path / f"x{suffix}")[3] == pytest.approx(fps, rel=0.05)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_phone_videos_stand_upright(tmp_path, matrix):
    """The header's matrix takes a pixel (x, y), y down, to (a x + c y, b x + d y), up to a shift."""
    frames, path = film(), tmp_path / "x.mp4"
    encode(path, frames)
    lying, _ = common.read_clip(path)
    turn_by_header(path, matrix)
    upright, _ = common.read_clip(path)
    (a, b, c, d), (height, width) = matrix, frames.shape[1:3]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    expected = np.empty((len(frames), np.ptp(to_y) + 1, np.ptp(to_x) + 1, 3), np.uint8)
    expected[:, to_y - to_y.min(), to_x - to_x.min()] = lying
    assert upright.shape == expected.shape and np.array_equal(upright, expected)
    small, _ = common.read_clip(path, short_side=24)
    assert small.shape[1:3] == ((32, 24) if a == 0 else (24, 32))


def test_long_and_huge_videos_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "MAX_FRAMES", 20)
    common.write_video(tmp_path / "long.webm", film(60), fps=12)
    painter, painted = common.VideoReformatter(), []
    counting = SimpleNamespace(reformat=lambda *a, **k: painted.append(1) or painter.reformat(*a, **k))
    monkeypatch.setattr(common, "VideoReformatter", lambda: counting)
    for read in (common.read_clip, common.probe_clip):
        with pytest.raises(common.UserError, match="more than 20 frames"):
            read(tmp_path / "long.webm")
    assert len(painted) == 21, "it goes on reading what it will refuse"
    encode(tmp_path / "huge.mp4", [np.zeros((1080, 1920, 3), np.uint8)] * 60, "mpeg4")
    code = f"""import common, resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
frames, _ = common.read_clip({str(tmp_path / 'huge.mp4')!r}, 72)
print(frames.shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"""
    finished = run("-c", code)
    shape, grown = finished.stdout.rsplit(maxsplit=1)
    assert shape == "(60, 72, 128, 3)" and int(grown) < 200_000, finished.stderr  # kB; all frames would be 364,500


# ---- Bad files -----------------------------------------------------------------------------------------------------


def spoil(folder, stem, kind):
    """Put a broken file in the place of a clip; returns a word that its reason must have."""
    path = folder / f"{stem}.webm"
    good = film(24, seed=int(stem))
    if kind == "missing":
        return "missing"
    if kind == "one frame":
        common.write_video(path, good[:1], fps=12)
        return "single frame"
    if kind == "sound only":
        with av.open(str(path), "w", format="matroska") as file:
            sound = file.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            file.mux(sound.encode(frame))
            file.mux(sound.encode())
        return "no video track"
    common.write_video(path, good, fps=12)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello " * 50, "header only": whole[:300], "cut": whole[: len(whole) * 6 // 10]}[kind])
    return {"empty": "not a readable", "text": "not a readable", "header only": "", "cut": "cut short"}[kind]


KINDS = ("missing", "empty", "text", "header only", "cut", "one frame", "sound only")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same good clips twice: alone, and with one broken file of each kind among them."""
    root = tmp_path_factory.mktemp("clips")
    mixed, good, words, n = root / "mixed", root / "good", {}, 0
    ids, good_ids = [], []
    for kind in [k for kind in KINDS for k in (kind, "good", "good")]:
        n += 1
        ids.append(str(n))
        mixed.mkdir(exist_ok=True)
        good.mkdir(exist_ok=True)
        if kind == "good":
            good_ids.append(str(n))
            for folder in (mixed, good):
                common.write_video(folder / f"{n}.webm", film(16 + n, seed=n), fps=12)
        else:
            words[f"{n}.webm"] = spoil(mixed, str(n), kind)
    labels(mixed / "labels" / "train.json", ids)
    labels(good / "labels" / "train.json", good_ids)
    return mixed, good, words


def test_every_kind_of_bad_file_is_left_out_with_its_reason(folders, tmp_path):
    mixed, good, words = folders
    clips = common.ClipSet(mixed, "train", 24, cache=False)
    assert len(clips) == len(common.ClipSet(good, "train", 24)) == 14 and len(clips.bad) == len(KINDS)
    for name, word in words.items():
        assert [word in reason for reason in clips.bad if f"/{name}" in reason] == [True], (name, word, clips.bad)
    for name in ("only.webm", "other.mp4"):
        (tmp_path / name).write_text("no video")
    with pytest.raises(common.UserError, match="no usable clip of split train") as error:
        common.ClipSet(tmp_path, "train", 24)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", [True, False])
def test_broken_files_do_not_change_a_single_batch(folders, hold_c, cache):
    mixed, good, _ = folders
    config = hold_c.Config(size=16, clips_per_batch=4, frames_per_clip=8, steps=9)
    with_bad, without = (hold_c.Batches(common.ClipSet(f, "train", 18, cache=cache), config) for f in (mixed, good))
    for step in range(9):  # twice and a half over the clips: the second time from the cache
        assert all(torch.equal(a, b) for a, b in zip(with_bad[step], without[step]))
    assert any(not torch.equal(with_bad[0][0], with_bad[step][0]) for step in range(1, 9))


def test_permissions_and_a_limit(folders, monkeypatch):
    mixed, good, _ = folders
    clips = common.ClipSet(mixed, "train", 24, limit=5)
    assert len(clips) == 5 and [p.name for p in clips.paths] == [p.name for p in common.ClipSet(good, "train", 24).paths[:5]]
    (mixed / ".clips.json").unlink()
    opened = av.open

    def locked(path, *args, **kwargs):
        if path.endswith("/2.webm"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(common.av, "open", locked)
    assert "Permission denied" in " ".join(common.ClipSet(mixed, "train", 24).bad)
    (mixed / ".clips.json").unlink()


def test_a_clip_that_breaks_later_is_replaced_and_named(folders, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(folders[1], folder)
    clips = common.ClipSet(folder, "train", 24, cache=False)
    clips.paths[3].write_bytes(b"gone")
    assert np.array_equal(clips[3][0], clips[4][0]) and str(clips.paths[3]) in clips.bad[-1] and len(clips.bad) == 1
    assert str(clips.paths[3]) in capsys.readouterr().out
    for path in clips.paths:
        path.write_bytes(b"gone")
    with pytest.raises(common.UserError, match="in a row"):
        clips[0]
    with pytest.raises(IndexError):
        clips[len(clips)]


# ---- Index and cache -----------------------------------------------------------------------------------------------


def test_a_file_is_looked_at_once_until_it_changes(folders, tmp_path, monkeypatch):
    folder, looked = tmp_path / "clips", []
    shutil.copytree(folders[1], folder, ignore=shutil.ignore_patterns(".*"))
    probe = common.probe_clip
    monkeypatch.setattr(common, "probe_clip", lambda path: looked.append(path.name) or probe(path))
    first = common.ClipSet(folder, "train", 24)
    assert len(looked) == 14
    common.ClipSet(folder, "train", 32)
    assert len(looked) == 14
    old = first[2][0].copy()
    cached = first.files[2]
    assert cached.is_file() and np.array_equal(first[2][0], old)
    common.write_video(first.paths[2], film(30, seed=99), fps=6)
    second = common.ClipSet(folder, "train", 24)
    assert looked[14:] == [first.paths[2].name] and not cached.exists(), "the picture of the old file is kept"
    assert second[2][0].shape[0] == 30 and second[2][1] == pytest.approx(6) and second.files[2] != cached
    (folder / ".clips.json").write_text("[broken")
    assert len(common.ClipSet(folder, "train", 24)) == 14


def test_cached_clips_are_the_decoded_ones_and_within_the_room(folders, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(folders[1], folder, ignore=shutil.ignore_patterns(".*"))
    clips, plain = common.ClipSet(folder, "train", 24), common.ClipSet(folder, "train", 24, cache=False)
    for _ in range(2):
        for i in range(len(clips)):
            (frames, fps), (expected, expected_fps) = clips[i], plain[i]
            assert np.array_equal(frames, expected) and fps == expected_fps and frames.dtype == np.uint8
    with monkeypatch.context() as patch:
        patch.setattr(common, "read_clip", None)  # nothing is decoded any more
        torch.from_numpy(clips[0][0])[:] = 0  # a copy: what one user writes no other sees
        kept = clips[0][0]
    assert np.array_equal(kept, plain[0][0])
    clips.files[1].write_bytes(b"scrap")
    assert np.array_equal(clips[1][0], plain[1][0]) and np.array_equal(np.load(clips.files[1]), plain[1][0])
    monkeypatch.setattr(common, "CACHE_GB", 5 * plain[0][0].nbytes / 1e9)
    shutil.rmtree(folder / ".cache-24")
    small = common.ClipSet(folder, "train", 24)
    [small[i] for i in range(len(small))]
    used = sum(p.stat().st_size for p in (folder / ".cache-24").iterdir())
    assert 2 <= sum(small.fits) < len(small) and used <= common.CACHE_GB * 1e9 + 200 * len(small)


def test_a_folder_for_reading_only_works(folders, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(folders[1], folder, ignore=shutil.ignore_patterns(".*"))

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(common, "write_whole", refuse)
    clips = common.ClipSet(folder, "train", 24)
    assert len(clips) == 14 and clips[0][0].shape[1:] == (24, 32, 3) and sorted(p.name for p in folder.glob(".*")) == []


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_share_one_cache(folders, tmp_path, start):
    folder = tmp_path / "clips"
    shutil.copytree(folders[1], folder, ignore=shutil.ignore_patterns(".*"))
    clips = common.ClipSet(folder, "train", 24)
    twice = torch.utils.data.ConcatDataset([clips, clips])
    loader = torch.utils.data.DataLoader(twice, batch_size=None, num_workers=2 if start == "fork" else 1, multiprocessing_context=start)
    plain = common.ClipSet(folder, "train", 24, cache=False)
    for i, (frames, fps) in enumerate(loader):
        assert np.array_equal(frames, plain[i % 14][0]) and fps == pytest.approx(12)
    assert sorted(p.name for p in (folder / ".cache-24").iterdir()) == sorted(f.name for f in clips.files)


# ---- 01_data.py: the folder, the table, the demonstrations, the benchmark ------------------------------------------


def ssv2(folder, counts, noise=0):
    """Label files in SSv2's form, with `counts` = {(template, placeholder): (in train, in validation)}, and no videos."""
    splits = {"train": [], "validation": []}
    for (template, thing), numbers in counts.items():
        for split, number in zip(splits, numbers):
            for _ in range(number):
                splits[split].append({"id": str(len(splits[split]) + 1), "label": "x", "template": template, "placeholders": [thing]})
    for split, listed in splits.items():
        (folder / f"something-something-v2-{split}.json").write_text(json.dumps(listed))


def test_coverage_counts_actions_objects_and_both(tmp_path):
    ssv2(tmp_path, {("Opening [something]", "a drawer"): (5, 2), ("Opening [something]", "Drawer"): (1, 0),
                    ("Opening [something]", "drawer handle"): (3, 0), ("Opening [something]", "bottle"): (0, 4),
                    ("Closing [something]", "the drawer"): (1, 1), ("Holding [something]", "drawer"): (2, 0),
                    ("Moving [something] towards the camera", "bottle cap"): (6, 1),
                    ("Pretending to open [something] without actually opening it", "faucet"): (0, 3)})
    counts = data.coverage(tmp_path)
    assert counts == {"pushing": (7, 0, 0), "drawer open": (15, 12, 8), "close drawer": (2, 12, 2), "cup forward": (0, 0, 0),
                      "faucet right": (0, 3, 0)}
    assert len(data.coverage_figure(counts).axes) == 5


def test_check_lists_everything_that_is_wrong_and_training_leaves_it_out(folders, tmp_path, capsys):
    folder = tmp_path / "clips"
    shutil.copytree(folders[0], folder, ignore=shutil.ignore_patterns(".*"))
    common.write_video(folder / "demonstrations" / "pushing" / "0.webm", film(), fps=10)
    common.write_video(folder / "77.webm", film(), fps=12)
    (folder / "labels" / "validation.json").write_text("[{")
    (folder / "labels" / "labels.json").write_text('{"Opening something": "0"}')
    labels(folder / "labels" / "test.json", ["2", "3"], template="Closing [something]")
    (folder / "labels" / "test-answers.csv").write_text("2;Closing something\n9;Closing something\n")
    rows = {row["path"]: row["reason"] for row in data.check(folder)}
    out = capsys.readouterr().out
    for name, word in folders[2].items():
        assert [word in reason for path, reason in rows.items() if path.endswith("/" + name)] == [True], name
    assert rows.pop(str(folder / "77.webm")) == "no label file has this id"
    assert "broken" in rows[str(folder / "labels" / "validation.json")]
    assert "Closing something" in rows[str(folder / "labels" / "test.json")]
    assert not any("demonstrations" in path for path in rows) and len(rows) == len(KINDS) + 2
    assert "train: 21 clips, of SSv2's 168,913; 7 cannot be used" in out and "test answers: 1, of SSv2's 27,157" in out


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(common.UserError, match="no folder"):
        data.check(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_clip_that_breaks_in_the_middle_is_found_by_check(folders, tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    shutil.copytree(folders[1], folder, ignore=shutil.ignore_patterns(".*"))
    assert len(common.ClipSet(folder, "train", 24)) == 14
    read, tried = data.read_clip, []

    def breaks(path, short_side=None):
        tried.append(path.name)
        if path.name == "3.webm":
            raise common.UserError(f"{path} is not a readable video (broken in the middle)")
        return read(path, short_side)

    monkeypatch.setattr(data, "read_clip", breaks)
    assert [row["reason"] for row in data.check(folder)] == ["is not a readable video (broken in the middle)"]
    assert len(tried) == 14
    data.check(folder)
    assert len(tried) == 14, "what was decoded once is not decoded again"
    clips = common.ClipSet(folder, "train", 24)
    assert len(clips) == 13 and folder / "3.webm" not in clips.paths and "in the middle" in clips.bad[0]


def test_the_command_checks_a_folder_of_phone_videos(tmp_path):
    for i in range(4):
        common.write_video(tmp_path / f"film {i}.mp4", film(seed=i), fps=12)
    (tmp_path / "film 9.webm").write_text("no video")
    finished = run("01_data.py", "--check", tmp_path, "--out", tmp_path / "none", MPLBACKEND="agg")
    assert finished.returncode == 0, finished.stderr
    assert "1 faults, listed in" in finished.stdout and "SSv2" not in finished.stdout
    assert common.read_csv(tmp_path / "bad.csv")["path"].tolist() == [str(tmp_path / "film 9.webm")]
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["augmentation.png", "clips.png", "samples.png"]
    assert not (tmp_path / "none").exists()


def test_benchmark_reads_the_same_clips_in_all_ways(folders):
    mixed, good, _ = folders
    rows = data.benchmark(good, count=3, rounds=1, short_side=24)
    assert {"PyAV, frame by frame", "read_clip", "cache, short side 24", "pairs: cache"} <= {row["way"] for row in rows}
    assert all(row["clips_per_s"] > 0 and row["cpu_ms"] > 0 for row in rows)
    expected = common.read_clip(good / "2.webm")[0].astype(int)
    for name, read in data.readers().items():
        assert np.abs(read(good / "2.webm") - expected).mean() < 3, name  # decoders differ in how they convert colours
    for make, number in data.pair_makers(common.ClipSet(good, "train", 24, 3), 5).values():
        pairs = make(1)
        assert len(pairs) == number and all(pair.shape == (4, 24, 32, 3) or number == 1 for pair in pairs)


def centroid(picture, mask):
    """Mean row and column of the pixels of a picture (H, W, 3) for which mask(r, g, b) holds, as shares of its size."""
    found = np.argwhere(mask(*np.moveaxis(picture.astype(int), -1, 0)))
    assert len(found), "nothing of that colour"
    return found.mean(0) / picture.shape[:2]


RED = lambda r, g, b: (r > 120) & (g < 60) & (b < 60)
BLACK = lambda r, g, b: (r < 40) & (g < 40) & (b < 40)


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    common.pick_gl()
    out = tmp_path_factory.mktemp("out")
    data.make_demonstrations(data.Config(out=str(out)))
    return {task: [common.read_clip(out / "demonstrations" / task / f"{k}.webm") for k in range(3)] for task in ("pushing", "drawer_open")}


def test_demonstrations_agree_in_layout_with_the_robot_s_goals(demonstrations, sac):
    """Where cup, square and drawer are in the last frame is where they are in the goal pictures of 05_sac.py."""
    for task, mask, tolerance in (("pushing", RED, 0.06), ("drawer_open", RED, 0.08)):
        robot = sac.make_task(task, (64, 64)).unwrapped
        goal = robot.goal_images()[-1]
        robot.close()
        right = goal.copy()
        if task == "drawer_open":
            right[:, 48:] = 128  # the robot is red too; the drawer is on the left
        else:
            right[:40] = 128  # and over the cup
        for frames, fps in demonstrations[task]:
            last = frames[-1].copy()
            last[:, 48:] = 128 if task == "drawer_open" else last[:, 48:]
            assert np.abs(centroid(last, mask) - centroid(right, mask)).max() < tolerance, task
            assert frames.shape[1:] == (64, 64, 3) and fps == pytest.approx({"pushing": 10, "drawer_open": 80}[task], rel=0.02)


def test_demonstrations_differ_and_are_no_faster_than_the_robot(demonstrations):
    for task, moves, fastest, room in (("pushing", data.demonstrate_push, 0.02, 100), ("drawer_open", data.demonstrate_open, 0.01, 200)):
        lengths = [len(frames) for frames, _ in demonstrations[task]]
        assert len(set(lengths)) > 1 and max(lengths) <= room
        assert not np.array_equal(demonstrations[task][0][0][0], demonstrations[task][1][0][0])
        for seed in range(20):
            for speed in (0.75, 1.3):
                tip, way, _ = moves(np.random.default_rng(seed), speed)
                step = np.abs(np.diff(tip, axis=0)).max()
                assert step <= fastest, f"{task}: {100 * step:.1f} cm in a step"
                touched = np.linalg.norm(np.diff(way, axis=0), axis=1) > 1e-9
                assert touched.any() and not touched[: len(way) // 3].any()
                if task == "pushing":
                    assert np.abs(way[-1] + (0, 0.6, 0) - (0, 0.75, 0))[:2].sum() < 0.03  # success, as 05_sac.py has it
                else:
                    assert way[-1, 1] == pytest.approx(-0.2)
