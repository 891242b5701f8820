"""03_hold_c.py: the loss against an independent triple loop, windows, options, parts, resuming, others' weights."""

import math

import numpy as np
import pytest
import torch

import common
from conftest import run, stopped_after
from test_hold_r import flax_bytes, released, resnet_by_numpy, resnet_tree


def loss_by_loops(f, time, sequence, pos_radius, neg_radius, margin):
    """The released rule, one pair at a time, in plain Python."""
    total, count, n = 0.0, 0, len(f)
    D = [[sum((a - b) ** 2 for a, b in zip(f[i], f[j])) for j in range(n)] for i in range(n)]
    for a in range(n):
        negatives = [D[a][j] for j in range(n) if sequence[j] != sequence[a] or abs(time[j] - time[a]) > neg_radius]
        for p in range(n):
            if p == a or sequence[p] != sequence[a] or abs(time[p] - time[a]) > pos_radius:
                continue
            beyond = [d for d in negatives if d > D[a][p]]
            negative = min(beyond) if beyond else max(negatives) if negatives else 0.0
            total, count = total + max(0.0, margin + D[a][p] - negative), count + 1
    return total, count


@pytest.mark.parametrize("length, radii, loops", [(32, (2, 4), 1), (32, (2, 4), 3), (12, (1, 2), 2), (5, (2, 4), 1),
                                                  (3, (1, 9), 1)])
def test_loss_equals_the_triple_loop(hold_c, rng, length, radii, loops):
    f = rng.normal(0, 0.3, (4, length, 8))
    f[1] = np.round(8 * f[1]) / 8  # many ties, and exact in binary, so that both sums see the same ones
    per_loop = math.ceil(length / loops)
    time, sequence = np.arange(length) % per_loop, np.arange(length) // per_loop
    expected = [loss_by_loops(x.tolist(), time, sequence, *radii, 0.2) for x in f]
    batch = [torch.from_numpy(np.broadcast_to(x, (4, length)).copy()) for x in (time, sequence)]
    loss, count = hold_c.time_contrastive_loss(torch.from_numpy(f), *batch, *radii, 0.2)
    assert loss.item() == pytest.approx(sum(l for l, _ in expected), rel=1e-9) and count == sum(c for _, c in expected)
    one, _ = hold_c.time_contrastive_loss(torch.from_numpy(f[0]), *(x[0] for x in batch), *radii, 0.2)
    assert one.item() == pytest.approx(expected[0][0], rel=1e-9)


def test_anchor_without_a_negative_pays_margin_plus_distance(hold_c):
    loss, count = hold_c.time_contrastive_loss(torch.tensor([[0.0], [3.0]]), torch.arange(2), margin=0.2)
    assert count == 2 and loss.item() == pytest.approx(2 * (0.2 + 9))


def test_frames_of_another_loop_are_negatives(hold_c):
    f = torch.tensor([[0.0], [0.1], [0.0], [0.1]])
    time, sequence = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    loss, count = hold_c.time_contrastive_loss(f, time, sequence, margin=0.2)
    # each of 4 anchors: D_ap = .01, negatives at 0 and .01, none beyond, farthest .01
    assert count == 4 and loss.item() == pytest.approx(4 * 0.2)


def test_gradient_flows_and_ties_share_it(hold_c):
    f = torch.tensor([[0.0], [0.1], [1.0], [-1.0]], requires_grad=True)
    time = torch.tensor([0, 1, 10, 11])  # for anchor 0 frames 2 and 3 are negatives at the same distance 1
    loss, _ = hold_c.time_contrastive_loss(f, time, pos_radius=1, neg_radius=2, margin=3.0)
    loss.backward()
    g_mining = torch.autograd.functional.jacobian(
        lambda x: hold_c.time_contrastive_loss(x, time[:], pos_radius=1, neg_radius=2, margin=3.0)[0], f.detach())
    assert torch.equal(f.grad, g_mining) and torch.isfinite(f.grad).all() and f.grad.abs().sum() > 0
    only = hold_c.squared_distances(f.detach())[0].requires_grad_()  # anchor 0 alone
    only[2:].amin().backward()
    assert only.grad[2:].tolist() == [0.5, 0.5]


def test_windows_loop_short_clips_and_cover_long_ones(hold_c, rng):
    index, time, sequence = hold_c.draw_window(5, 32, 1, rng)
    assert index.tolist() == [t % 5 for t in range(32)] and sequence.tolist() == [t // 5 for t in range(32)]
    starts = {hold_c.draw_window(40, 32, 1, rng)[0][0] for _ in range(400)}
    assert starts == set(range(9))  # uniform over 0 .. L - 32


@pytest.mark.parametrize("kind", ["light", "paper"])
def test_augmentation_is_the_same_for_all_frames(hold_c, kind):
    picture = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    results = [hold_c.augment(picture.expand(6, 3, 40, 56), 32, kind, np.random.default_rng(i)) for i in range(30)]
    assert all(r.shape == (6, 3, 32, 32) and r.dtype == torch.uint8 for r in results)
    inside = [r[:, :, 2:-2] for r in results]  # sharpening the tall picture mixes the rows where two frames touch
    assert all((r == r[:1]).all() for r in inside)
    assert len({r[0].float().mean().item() for r in results}) > 10


def test_paper_augmentation_has_the_published_sizes(hold_c):
    seen = []
    resize, hold_c.TF = hold_c.TF.resize, type("Spy", (), dict(vars(hold_c.TF)))
    hold_c.TF.resize = staticmethod(lambda x, size, **k: seen.append(size) or resize(x, size, **k))
    try:
        for i in range(60):
            hold_c.augment(torch.zeros(1, 3, 60, 80, dtype=torch.uint8), 256, "light", np.random.default_rng(i))
    finally:
        hold_c.TF = __import__("torchvision.transforms.v2.functional", fromlist=["x"])
    heights, widths = np.array(seen).T
    assert 259 <= heights.min() < 275 and 370 < heights.max() <= 384  # 288 x (0.9 .. 1.33)
    assert 345 <= widths.min() < 370 and 490 < widths.max() <= 511  # 384 x (0.9 .. 1.33), drawn on its own


def test_spearman_of_known_curves(hold_c):
    assert hold_c.spearman_to_goal(np.arange(10.0)[:, None]) == pytest.approx(1)
    assert hold_c.spearman_to_goal(np.r_[np.arange(9.0), -1][:, None]) == pytest.approx(-1)
    assert hold_c.spearman_to_goal(np.ones((10, 4))) == 0


def small(hold_c, tmp_path, **changes):
    config = hold_c.Config.smoke()
    config.data, config.out, config.device = str(tmp_path / "clips"), str(tmp_path / "run"), "cpu"
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def test_training_stopped_and_resumed_equals_training_in_one_go(hold_c, tmp_path, clips):
    whole = hold_c.train(small(hold_c, tmp_path, out=str(tmp_path / "whole")))
    config = small(hold_c, tmp_path)
    with stopped_after(hold_c, "training_step", 3), pytest.raises(KeyboardInterrupt):
        hold_c.train(config)
    halves = hold_c.train(config)
    states = [common.load_checkpoint(path.parent / "checkpoint.pt") for path in (whole, halves)]
    assert states[0]["step"] == states[1]["step"] == 4
    assert all(torch.equal(states[0]["network"][k], states[1]["network"][k]) for k in states[0]["network"])
    assert [r["loss"] for r in states[0]["log"]] == [r["loss"] for r in states[1]["log"]]
    assert states[0]["curves"] == states[1]["curves"] and (halves.parent / "strip.png").stat().st_size > 5000
    with pytest.raises(common.UserError, match="another margin"):
        hold_c.train(small(hold_c, tmp_path, margin=0.5))
    anew = common.load_checkpoint(hold_c.train(small(hold_c, tmp_path, margin=0.5, resume=False)).with_name("checkpoint.pt"))
    assert anew["step"] == 4 and [r["loss"] for r in anew["log"]] != [r["loss"] for r in states[1]["log"]]


def test_training_moves_the_weights_and_the_file_holds_the_best(hold_c, tmp_path, clips):
    config = small(hold_c, tmp_path)
    torch.manual_seed(config.seed)
    before = hold_c.make_network(config.network, config.width, config.embedding).state_dict()
    path = hold_c.train(config)
    state = common.load_checkpoint(path.parent / "checkpoint.pt")
    assert all(not torch.equal(before[k], v) for k, v in state["network"].items() if k.endswith("conv1.weight"))
    network = hold_c.make_network(config.network, config.width, config.embedding).eval()
    network.load_state_dict(state["best_weights"])
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.no_grad():
        f = network(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1)
    d = common.load_distance(path)
    np.testing.assert_allclose(d(frames[1:], frames[0]), (f[1:] - f[0]).norm(dim=1), atol=1e-4)
    assert d.meta["validation"]["spearman"] == max(r["spearman"] for r in state["log"])
    assert d.meta["suggested_scale"] > 0


def test_a_loss_that_is_not_finite_stops(hold_c, tmp_path):
    network = torch.nn.Linear(3, 2)
    network.weight.data.fill_(math.nan)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), network)
    batch = torch.zeros(1, 8, 3, 4, 4, dtype=torch.uint8), torch.arange(8)[None], torch.zeros(1, 8)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(common.UserError, match="not finite"):
        hold_c.training_step(model, torch.optim.Adam(model.parameters()), scaler, [batch], hold_c.Config())


def test_weights_that_are_not_finite_do_not_pass_validation(hold_c):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) * math.nan

    with pytest.raises(common.UserError, match="not finite"):
        hold_c.validate(Broken(), common.Preprocess(8), numbered_clips((20,), 12.0), "cpu")


def test_unknown_networks_get_one_line(hold_c):
    with pytest.raises(common.UserError, match="resnet99"):
        hold_c.make_network("resnet99", 1.0, 32)
    for name, width in (("efficientnet_b0", 0.5), ("swin_tiny_patch4_window7_224", 1.0)):  # no such width, no such size
        with pytest.raises(common.UserError, match=f"{name}' does not work"):
            hold_c.make_network(name, width, 32)


def test_windows_without_positives_get_one_line(hold_c, tmp_path, clips):
    with pytest.raises(common.UserError, match="raise --pos-radius"):
        hold_c.train(small(hold_c, tmp_path, frame_stride=3))


# ---- Options ---------------------------------------------------------------------------------------------------------


def numbered_clips(lengths, fps):
    """Clips whose pixels hold the frame's number."""
    return [(np.arange(L, dtype=np.uint8).repeat(8 * 8 * 3).reshape(L, 8, 8, 3), fps) for L in lengths]


def test_windows_in_seconds_follow_the_rate_of_each_clip(hold_c, monkeypatch):
    """At 30 frames per second 0.2 s are 6 frames and 0.4 s are 12, at 10 they are 2 and 4 - as the released radii."""
    monkeypatch.setattr(hold_c, "augment", lambda clip, *_: clip)
    torch.manual_seed(0)
    for fps, radii in ((30.0, (6, 12)), (10.0, (2, 4))):
        config = hold_c.Config(size=8, clips_per_batch=1, window_seconds=0.2)
        frames, timesteps, sequences = hold_c.Batches(numbered_clips((40,), fps), config)[0]
        f = torch.randn(1, 32, 4)
        loss, count = hold_c.window_loss(f, timesteps, sequences, config)
        expected = loss_by_loops(f[0].double().tolist(), frames[0, :, 0, 0, 0].tolist(), [0] * 32, *radii, 0.2)
        assert (loss.item(), int(count)) == (pytest.approx(expected[0], rel=1e-4), expected[1])


def test_reversed_clips_are_the_same_window_backwards(hold_c, monkeypatch):
    monkeypatch.setattr(hold_c, "augment", lambda clip, *_: clip)
    for k in range(20):
        frames, timesteps, _ = hold_c.Batches(numbered_clips((12, 40, 50), 12.0), hold_c.Config(size=8, reverse=1.0))[k]
        shown = frames[:, :, 0, 0, 0].int()
        within = timesteps.diff() == 1
        assert (shown.diff()[within] == -1).all() and (timesteps.diff()[~within] < 0).all()
    batches = hold_c.Batches(numbered_clips((40,), 12.0), hold_c.Config(size=8, reverse=0.5))
    halves = [batches[k][0][0, :2, 0, 0, 0] for k in range(60)]
    assert 15 < sum(int(a) > int(b) for a, b in halves) < 45


def test_vip_by_loops(hold_c, rng):
    """The objective one neighbour at a time; the second clip is looped, and its second pass does not count."""
    f = rng.normal(size=(2, 8, 4))
    passes = np.array([[0] * 8, [0] * 5 + [1] * 3])
    first, errors = [], []
    for clip, length in zip(f, (8, 5)):
        V = [-np.linalg.norm(clip[t] - clip[length - 1]) for t in range(length)]
        first.append(-V[0])
        errors += [math.exp(1 + V[t] - 0.98 * V[t + 1]) for t in range(length - 1)]
    expected = 0.02 * np.mean(first) + math.log(np.mean(errors))
    embeddings = torch.from_numpy(f).requires_grad_()
    loss = hold_c.vip_loss(embeddings, torch.from_numpy(passes))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all() and (embeddings.grad[0] != 0).any()
    assert (embeddings.grad[1, 5:] == 0).all()


def test_vip_trains_and_is_named_so(hold_c, tmp_path, clips):
    path = hold_c.train(small(hold_c, tmp_path, objective="vip", reverse=0.5))
    assert common.load_distance(path).meta["name"] == "VIP"
    assert all(math.isfinite(row["loss"]) for row in common.load_checkpoint(path.parent / "checkpoint.pt")["log"])


def test_vision_transformers_fit_any_size_and_weights_out_of_reach_get_one_line(hold_c, monkeypatch):
    network = hold_c.make_network("vit_tiny_patch16_224", 0.5, 32, size=64)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 32) and network.pos_embed.shape == (1, 17, 192)
    real = hold_c.timm.create_model

    def unreachable(name, pretrained=False, **k):
        if pretrained:
            raise OSError("no route to host")
        return real(name, **k)

    monkeypatch.setattr(hold_c.timm, "create_model", unreachable)
    with pytest.raises(common.UserError, match="weights of 'vit_tiny_patch16_224' cannot be had .*--pretrained away"):
        hold_c.make_network("vit_tiny_patch16_224", 1.0, 32, 64, pretrained=True)
    with pytest.raises(common.UserError, match="full width"):
        hold_c.make_network("resnet18", 0.5, 32, 64, pretrained=True)


# ---- Parts, processes ------------------------------------------------------------------------------------------------


def test_parts_of_all_processes_make_the_joint_batch(hold_c):
    clips, joint = numbered_clips(range(20, 33), 12.0), hold_c.Config(size=8, clips_per_batch=4, steps=4)
    config = hold_c.Config(size=8, clips_per_batch=4, steps=4, accumulate=2)
    for step in range(4):
        parts = [hold_c.Batches(clips, config, rank, 2)[2 * step + part] for part in range(2) for rank in range(2)]
        whole = hold_c.Batches(clips, joint)[step]
        assert all(torch.equal(torch.cat(column), value) for column, value in zip(zip(*parts), whole))
    with pytest.raises(common.UserError, match="divided among 3"):
        hold_c.Batches(clips, config, 0, 3)


def test_accumulated_parts_give_the_gradients_of_the_joint_batch(hold_c):
    config = hold_c.Config(network="vit_tiny_patch16_224", size=32)
    clips, results = numbered_clips(range(30, 50), 12.0), []
    for accumulate in (1, 4):
        config.accumulate = accumulate
        network, optimizer, scaler, _ = hold_c.make_trainer(config, torch.device("cpu"))
        batches = hold_c.Batches(clips, config)
        loss = hold_c.training_step(network, optimizer, scaler, [batches[i] for i in range(accumulate)], config)
        results.append((loss, [p.grad for p in network.parameters()]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, parts in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(parts, one, rtol=1e-3, atol=1e-4 * one.abs().max().item() + 1e-7)


def test_two_processes_train_as_one(hold_c, tmp_path, clips):
    """torchrun with two CPU processes: the weights of one, but for the signs of vanishing gradients under Adam."""
    settings = dict(network="vit_tiny_patch16_224", size=32, frames_per_clip=12, steps=3, warmup=0.3, limit=3)
    hold_c.train(small(hold_c, tmp_path, out=str(tmp_path / "alone"), **settings))
    flags = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), value)]
    pair = run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "03_hold_c.py", *flags, "--device", "cpu",
               "--data", tmp_path / "clips", "--out", tmp_path / "pair", SMOKE_TEST="1", OMP_NUM_THREADS="1")
    assert pair.returncode == 0, pair.stderr[-2000:]
    one, two = (common.load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("alone", "pair"))
    config = hold_c.Config(**one["config"])
    torch.manual_seed(config.seed)
    fresh = hold_c.make_network(config.network, config.width, config.embedding, config.size).state_dict()
    flat = lambda state: torch.cat([v.flatten() for v in state.values()])
    moved, apart = (flat(one["network"]) - flat(fresh)).abs(), (flat(one["network"]) - flat(two["network"])).abs()
    assert moved.mean() > 1e-4 and apart.mean() < 0.02 * moved.mean()


def test_benchmark_measures_three_loops(hold_c, tmp_path, clips):
    speed = hold_c.benchmark(small(hold_c, tmp_path, steps=1), rounds=1, updates=2)
    assert list(speed) == ["training", "from memory", "bare timm"] and all(v > 0 for v in speed.values())


# ---- The authors' weights --------------------------------------------------------------------------------------------


@pytest.fixture
def small_resnet(hold_c, monkeypatch):
    """timm's ResNet-26 with 8, 8, 16, 16 channels per stage: the authors' layout, small."""
    real = hold_c.timm.create_model
    monkeypatch.setattr(hold_c.timm, "create_model", lambda name, **k: real(name, **k, channels=(8, 8, 16, 16)))


def test_a_released_resnet_becomes_a_distance_file(hold_c, tmp_path, rng, small_resnet):
    params, stats = resnet_tree(rng, 3, 32)
    (tmp_path / "checkpoint").write_bytes(flax_bytes(released(params, stats)))
    config = small(hold_c, tmp_path, network="resnet26", width=1.0, convert=str(tmp_path / "checkpoint"))
    d = common.load_distance(hold_c.convert(config))
    frames, goal = rng.integers(0, 256, (3, 32, 32, 3), np.uint8), rng.integers(0, 256, (32, 32, 3), np.uint8)
    f = resnet_by_numpy(params, stats, np.concatenate([frames, goal[None]]) / 127.5 - 1)  # (4, 32)
    expected = np.linalg.norm(f[:3] - f[3], axis=-1)
    np.testing.assert_allclose(d(frames, goal), expected, rtol=1e-3)
    assert expected.min() > 1e-3 and d.meta["suggested_scale"] == 5


def test_checkpoints_that_do_not_fit_get_one_line(hold_c, tmp_path, rng, small_resnet):
    params, stats = resnet_tree(rng, 3, 32)
    extra = {**params, "extra": {"kernel": params["stem_conv"]["kernel"]}}
    less = {k: v for k, v in params.items() if k != "ResidualBlock_7"}
    for tree, changes, words in (
            (extra, {}, "1 left over .*params/extra/kernel"), (less, {}, "missing .*ResidualBlock_7"),
            (params, dict(embedding=16), "--embedding"), (params, dict(network="resnet14t"), "does not fit")):
        (tmp_path / "checkpoint").write_bytes(flax_bytes(released(tree, stats)))
        settings = dict(network="resnet26", width=1.0, convert=str(tmp_path / "checkpoint"))
        config = small(hold_c, tmp_path, **{**settings, **changes})
        with pytest.raises(common.UserError, match=words) as caught:
            hold_c.convert(config)
        assert "\n" not in str(caught.value) and not (tmp_path / "run/distance.pt2").exists()
    with pytest.raises(common.UserError, match="not a Flax checkpoint"):
        hold_c.read_flax(tmp_path / "absent")
