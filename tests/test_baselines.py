"""06_baselines.py: rivals are what they claim to be, runs are kept, and the numbers of the comparison are right."""

import importlib
import sys

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms.v2 import functional as TF

import common

base = importlib.import_module("06_baselines")


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (3, 48, 72, 3), dtype=np.uint8)


def small_embedding(path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 5))
    common.save_distance(path, network, {"name": "toy", "kind": "embedding", "history": 1}, common.Preprocess(16))
    return path


# ---- Rivals --------------------------------------------------------------------------------------------------------


def test_pixels_are_the_norm_over_the_centre_square(tmp_path, pictures):
    distance = common.load_distance(base.pixel_file(tmp_path / "p.pt2", 48))
    square = pictures[:, :, 12:60].astype(float) / 255
    expected = [np.sqrt(((s - square[1]) ** 2).sum()) for s in square]
    assert np.allclose(distance(pictures, pictures[1]), expected, rtol=1e-5)


def test_r3m_from_a_file_of_its_structure(tmp_path, pictures):
    torch.manual_seed(0)
    reference = torchvision.models.resnet50()
    for module in reference.modules():  # running statistics that a mistake would show in
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
    weights = {f"module.convnet.{k}": v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    torch.save({"r3m": weights | {"module.lang_enc.x": torch.zeros(1), "module.lang_rew.y": torch.zeros(1)}}, tmp_path / "model.pt")
    distance = common.load_distance(base.r3m_file(tmp_path / "r3m.pt2", tmp_path / "model.pt"))
    reference.fc = torch.nn.Identity()
    square = torch.from_numpy(pictures[:, :, 12:60]).permute(0, 3, 1, 2).float() / 255  # as released: resize, crop, normalise
    x = TF.resize(square, [256, 256], antialias=True)[..., 16:240, 16:240]
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        f = reference.eval()(x)
    assert torch.allclose(distance(pictures, pictures[0]), (f - f[0]).norm(dim=1), rtol=1e-3, atol=1e-3)
    assert distance.program(torch.from_numpy(pictures)).shape == (3, 2048)


def test_r3m_absent_or_of_another_kind_is_one_line(tmp_path):
    torch.save({"r3m": {"module.convnet.conv1.weight": torch.zeros(1)}}, tmp_path / "broken.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for path, words in (("", "gdown"), (tmp_path / "no.pt", "gdown"), (tmp_path / "broken.pt", "module.convnet"), (tmp_path / "text.pt", "r3m")):
        with pytest.raises(common.UserError, match=words) as error:
            base.r3m_file(tmp_path / "r3m.pt2", path)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "r3m.pt2").exists()


def test_timm_features_use_the_models_own_preprocessing(tmp_path, pictures):
    import timm

    torch.manual_seed(0)
    distance = common.load_distance(base.timm_file(tmp_path / "f.pt2", "vit_tiny_patch16_224", pretrained=False))
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    mean, std = (torch.tensor(network.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    x = TF.resize(torch.from_numpy(pictures[:, :, 12:60]).permute(0, 3, 1, 2).float() / 255, [224, 224], antialias=True)
    with torch.no_grad():
        f = network((x - mean) / std)
    assert torch.allclose(distance(pictures, pictures[0]), (f - f[0]).norm(dim=1), rtol=1e-3, atol=1e-3)
    with pytest.raises(common.UserError, match="timm has no model"):
        base.timm_file(tmp_path / "g.pt2", "resnet5000")


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch):
    def unreachable(name, **options):
        raise OSError("cannot reach the hub\nat all")

    monkeypatch.setattr(base.timm, "create_model", unreachable)
    with pytest.raises(common.UserError, match="fetch them once with") as error:
        base.timm_file(tmp_path / "f.pt2", "resnet18.a1_in1k")
    assert "\n" not in str(error.value)


def test_tcn_is_the_formula_over_hold_c(tmp_path, pictures):
    hold_c = common.load_distance(small_embedding(tmp_path / "c.pt2"))
    tcn = common.load_distance(base.tcn_file(tmp_path / "tcn.pt2", tmp_path / "c.pt2"))
    D = hold_c(pictures, pictures[2]).double() ** 2
    assert torch.allclose(tcn(pictures, pictures[2]).double(), 0.005 * D + 0.02 * torch.sqrt(0.2 + D), rtol=1e-4)
    large = np.random.default_rng(1).integers(0, 256, (2, 100, 64, 3), dtype=np.uint8)
    assert tcn(large, pictures[0]).shape == (2,)  # sizes of frames and goals are free
    with pytest.raises(common.UserError, match="embedding"):
        base.tcn_file(tmp_path / "no.pt2", tmp_path / "tcn.pt2")


def test_being_late_costs_tcn_and_not_a_goal_distance(tmp_path):
    pytest.importorskip("matplotlib")
    film = np.zeros((30, 20, 40, 3), np.uint8)
    for t in range(30):
        film[t, :, t : t + 8] = 255  # a bar that moves to the right
    pixels = common.load_distance(base.pixel_file(tmp_path / "p.pt2", 20))
    along = base.distance_along(pixels, film, np.repeat(film[-1:], 30, 0))
    assert along[-1] == 0 and along[0] > 0
    time = np.arange(30)
    late = [base.distance_along(pixels, film[np.maximum(time - lag, 0)], film).mean() for lag in (0, 2, 6)]
    assert late[0] == 0 < late[1] < late[2]
    assert set(base.film_figure(film, {"pixels": pixels, "tcn": pixels}).axes[1].get_legend_handles_labels()[1]) == {"pixels", "tcn"}


# ---- Numbers -------------------------------------------------------------------------------------------------------


def write_run(folder, name, seed, values, column="train_success", every=10):
    path = folder / f"{name}-seed{seed}" / "curve.csv"
    common.write_csv(path, [{"step": (k + 1) * every, column: float(v), "minutes": 1.0 + k} for k, v in enumerate(values)])
    return path


@pytest.fixture
def compare(monkeypatch, sac):
    """`compare_runs`, with 05 in this process instead of one of its own."""
    def run_script(script, *flags):
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        sac.compare_curves(common.parse_config(sac.Config))

    monkeypatch.setattr(base, "run_script", run_script)
    return base.compare_runs


def test_the_figure_is_drawn_from_what_05_wrote(tmp_path, compare):
    for seed in range(3):
        write_run(tmp_path / "close_drawer", "sparse", seed, [0, 0, 0, 0.5, 1])
        write_run(tmp_path / "close_drawer", "hold_c", seed, [0, 1, 1, 1, 1 - 0.3 * seed])
        write_run(tmp_path / "close_drawer", "tcn0", seed, [0, 0, 0, 0, 0.1])
        write_run(tmp_path / "close_drawer", "tcn1", seed, [0, 0, 0, 0, 0.3])
    compare(tmp_path / "close_drawer")
    axis = base.plot_comparison(tmp_path / "close_drawer", ("hold_c", "tcn")).axes[0]
    assert [line.get_ydata()[-1] for line in axis.lines] == pytest.approx([0.7, 0.2]) and axis.get_ylabel() == "train_success"
    assert [text.get_text() for text in axis.get_legend().texts] == ["hold_c", "tcn"]
    assert base.read_rows(tmp_path / "nothing.csv") == []


def test_verdicts_follow_the_intervals_on_every_task_with_runs(tmp_path, compare):
    for seed in range(3):
        write_run(tmp_path / "pushing", "sparse", seed, [0, 0, 0, 100], "return")
        write_run(tmp_path / "pushing", "hold_c", seed, [0, 100, 100, 100], "return")
        write_run(tmp_path / "pushing", "hold_r", seed, [100, 100, 100, 100], "return")
        write_run(tmp_path / "pushing", "pixels", seed, [0, 100 * (seed == 1), 100, 100], "return")
        write_run(tmp_path / "pushing", "tcn-robot", seed, [0, 0, 0, 10], "return")
        write_run(tmp_path / "close_drawer", "hold_c-only", seed, [0, 1 if seed else 0])
        write_run(tmp_path / "close_drawer", "hold_c", seed, [0.2, 0.5])
        write_run(tmp_path / "close_drawer", "untrained", seed, [0, 0])
    write_run(tmp_path / "close_drawer", "sparse", 0, [0, 1])
    for task in ("pushing", "close_drawer"):
        compare(tmp_path / task)
    rows = base.claims_table(tmp_path)
    assert list(rows[0]) == ["claim", "paper_task", "task", "verdict", "measured"]
    found = {(row["claim"][:20], row["task"]): (row["verdict"], row["measured"]) for row in rows}
    assert found["HOLD-C + sparse beat", "pushing"][0] == "holds" and found["HOLD-C + sparse beat", "drawer_open"] == ("not tested", "")
    assert found["HOLD-C + sparse beat", "close_drawer"] == ("undecided", "0x sparse (one seed: no interval)")
    assert found["HOLD-C beats HOLD-R", "pushing"][0] == "does not hold" and "hold_r" in found["HOLD-C beats HOLD-R", "pushing"][1]
    assert found["The task is learned ", "close_drawer"] == ("undecided", "67% of 3 seeds")
    assert found["HOLD-C beats TCN", "pushing"] == ("holds", "infx tcn-robot (inf to inf)")
    assert found["HOLD-C beats an untr", "close_drawer"] == ("undecided", "neither hold_c nor untrained arrives while both run")
    assert found["Pixel L2 is slower t", "pushing"][0] == "undecided"
    assert found["Cumulative beats ins", "pushing"] == ("not tested", "") and len(base.CLAIMS) == 9
    assert ("HOLD-C beats TCN", "close_drawer") not in found


# ---- Runs ----------------------------------------------------------------------------------------------------------


def jobs_of(tmp_path, scripts):
    return [base.Job(name, tmp_path / f"{name}-seed0", (sys.executable, "-c", text, "--steps", "20")) for name, text in scripts.items()]


WRITE = "import pathlib, sys; pathlib.Path({folder!r}, 'curve.csv').write_text('step,success\\n20,1\\n'); print('done', len(sys.argv))"


def test_finished_runs_are_kept_and_a_failed_one_is_told(tmp_path):
    done = tmp_path / "kept-seed0" / "curve.csv"
    common.write_csv(done, [{"step": 20, "success": 0.5}])
    scripts = {"kept": "raise SystemExit('must not run')", "new": WRITE.format(folder=str(tmp_path / "new-seed0")),
               "bad": "import sys; sys.exit('error: the disk is full')"}
    with pytest.raises(common.UserError, match="1 of 3 runs failed.*the disk is full"):
        base.run_jobs(jobs_of(tmp_path, scripts), at_once=2)
    assert read_success(done) == 0.5 and read_success(tmp_path / "new-seed0" / "curve.csv") == 1
    assert not (tmp_path / "kept-seed0" / "log.txt").exists()
    scripts["bad"] = WRITE.format(folder=str(tmp_path / "bad-seed0"))  # mended; the finished ones are not run again
    base.run_jobs(jobs_of(tmp_path, {"bad": scripts["bad"], "kept": scripts["kept"], "new": scripts["new"]}))
    with pytest.raises(common.UserError, match="other settings"):
        base.check_settings(jobs_of(tmp_path, {"new": "raise SystemExit('again')"}))


def read_success(path):
    return common.read_csv(path)["success"][0]


def test_every_reward_is_a_command_05_understands(tmp_path, monkeypatch):
    sac = importlib.import_module("05_sac")
    small_embedding(tmp_path / "hold_c.pt2")
    (tmp_path / "demos" / "pushing").mkdir(parents=True)
    for k in range(2):
        common.write_video(tmp_path / "demos" / "pushing" / f"{k}.webm", np.full((5, 48, 48, 3), 90 + k, np.uint8), 10)
    rewards = ("sparse", "oracle", "pixels", "tcn", "hold_c", "hold_c-only")
    config = base.Config(task="pushing", rewards=rewards, seeds=2, out=str(tmp_path), hold_c=str(tmp_path / "hold_c.pt2"),
                         demonstrations=str(tmp_path / "demos"))
    jobs = base.list_jobs(config)
    assert [job.reward for job in jobs] == 2 * ["sparse", "oracle", "pixels", "tcn0", "tcn1", "hold_c", "hold_c-only"]
    for job in jobs:
        monkeypatch.setattr(sys, "argv", list(job.command[1:]))
        told = common.parse_config(sac.Config)
        assert told.task == "pushing" and told.out == str(job.folder) and told.steps == config.steps
        env, distance = sac.make_env(told)
        assert (distance is None) == (job.reward in ("sparse", "oracle"))
        env.reset(seed=0)
        _, reward, _, _, info = env.step(env.action_space.sample())
        assert np.isfinite(reward) and (job.reward == "sparse" or reward < 0) and env.unwrapped.size == (48, 48)
        env.close()
    for name in ("scale", "form", "long-sparse"):
        for job in base.list_jobs(base.Config(**{**vars(config), "rewards": ("hold_c",), "ablation": name})):
            monkeypatch.setattr(sys, "argv", list(job.command[1:]))
            common.parse_config(sac.Config)


def test_unknown_rewards_and_missing_demonstrations_are_one_line(tmp_path):
    config = base.Config(out=str(tmp_path), demonstrations=str(tmp_path), hold_c=str(small_embedding(tmp_path / "c.pt2")))
    for name, words in (("gail", "choose among"), ("tcn", "demonstrations")):
        with pytest.raises(common.UserError, match=words):
            base.find_reward(config, name)
