"""02_hold_r.py: pairs, targets, both networks against independent ones, parts of a batch, resuming, others' weights."""

import math
from functools import partial

import numpy as np
import pytest
import timm
import torch
from scipy.stats import spearmanr

import common
from conftest import ROOT, run, stopped_after


def small(hold_r, tmp_path, **changes):
    config = hold_r.Config.smoke()
    config.data, config.out, config.device = str(tmp_path / "clips"), str(tmp_path / "run"), "cpu"
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def vivit(**changes):
    return dict(network="vivit_tiny", patch=8, **changes)


# ---- Pairs, targets, batches ----------------------------------------------------------------------------------------


def test_pairs_are_uniform_over_all_ordered_pairs(hold_r, rng):
    s, g = hold_r.draw_pairs(6, 30_000, rng)
    counts = np.bincount(6 * s + g, minlength=36).reshape(6, 6)
    assert (np.tril(counts) == 0).all()
    assert np.abs(counts[np.triu_indices(6, 1)] / 2000 - 1).max() < 0.1


def numbered_clips(lengths, fps):
    """Clips whose pixels hold the frame's number."""
    return [(np.arange(L, dtype=np.uint8).repeat(8 * 8 * 3).reshape(L, 8, 8, 3), fps) for L in lengths]


@pytest.mark.parametrize("history, fps", [(1, 12.0), (3, 24.0), (3, 0.0)])
def test_examples_hold_the_frames_the_target_and_the_rate_they_should(hold_r, monkeypatch, history, fps):
    monkeypatch.setattr(hold_r, "augment", lambda clip, *_: clip)
    config = hold_r.Config(history=history, clips_per_batch=4, pairs_per_clip=8)
    batches = hold_r.Batches(numbered_clips((2, 5, 40), fps), config)
    for k in range(20):
        frames, delta, rate = batches[k]
        shown = frames[:, :, 0, 0, 0].long()  # (N, history + 1) frame numbers
        s, g = shown[:, -2], shown[:, -1]
        assert frames.shape == (32, history + 1, 3, 8, 8) and (delta == g - s).all() and (delta >= 1).all()
        for back in range(history):
            assert (shown[:, history - 1 - back] == (s - back).clamp(min=0)).all()
        assert rate.unique().tolist() == [pytest.approx((fps or 11.84) / 11.84)]


def test_parts_of_all_processes_make_the_joint_batch(hold_r, monkeypatch):
    clips, config = numbered_clips(range(20, 33), 12.0), hold_r.Config(size=8, clips_per_batch=8, steps=5)
    joint = hold_r.Batches(clips, config)
    config = hold_r.Config(size=8, clips_per_batch=8, steps=5, accumulate=2)
    for step in range(5):
        parts = [hold_r.Batches(clips, config, rank, 2)[2 * step + part] for part in range(2) for rank in range(2)]
        assert all(torch.equal(torch.cat(column), whole) for column, whole in zip(zip(*parts), joint[step]))
    with pytest.raises(common.UserError, match="divided among 3"):
        hold_r.Batches(clips, config, 0, 3)


@pytest.mark.parametrize("kind", ["light", "paper"])
def test_augmentation_is_the_same_for_history_and_goal(hold_r, kind):
    picture = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    results = [hold_r.augment(picture.expand(8, 3, 40, 56), 32, kind, np.random.default_rng(i)) for i in range(30)]
    assert all(r.shape == (8, 3, 32, 32) and r.dtype == torch.uint8 for r in results)
    inside = [r[:, :, 2:-2] for r in results]  # sharpening the tall picture mixes the rows where two frames touch
    assert all((r == r[:1]).all() for r in inside)
    assert len({r[0].float().mean().item() for r in results}) > 10


def test_recolour_by_hand(hold_r):
    clip = torch.tensor([[60.0, 90, 120], [30, 30, 30]]).view(2, 3, 1, 1).to(torch.uint8)  # greys 90 and 30, mean 60
    assert hold_r.recolour(clip, 1, 1, 1).equal(clip)
    assert hold_r.recolour(clip, 1, 1, 0).flatten().tolist() == [90, 90, 90, 30, 30, 30]
    assert hold_r.recolour(clip, 1, 0, 1).flatten().tolist() == [60] * 6
    assert hold_r.recolour(clip, 0.5, 1, 1).flatten().tolist() == [30, 45, 60, 15, 15, 15]


def test_loss_counts_frames_of_the_clip(hold_r, rng):
    d, delta, fps = rng.normal(10, 5, 50), rng.integers(1, 40, 50), rng.uniform(8, 30, 50)
    expected = np.mean([(d[i] * fps[i] / 11.84 - delta[i]) ** 2 for i in range(50)])
    loss = hold_r.regression_loss(*(torch.from_numpy(x).float() for x in (d, delta, fps / 11.84)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_presets_hold_the_numbers_of_table_one(hold_r):
    resnet, large = hold_r.Config.paper(), hold_r.Config.paper_vivit()
    assert (resnet.network, resnet.optimizer, resnet.lr, resnet.clips_per_batch) == ("resnet50", "adam", 3e-4, 32)
    assert (large.network, large.optimizer, large.lr, large.clips_per_batch) == ("vivit_large", "momentum", 0.1, 64)
    for config, epochs in ((resnet, 100), (large, 20)):
        assert config.steps * config.clips_per_batch / 168_913 == pytest.approx(epochs, rel=1e-2)
        assert config.pairs_per_clip == 1
    assert large.warmup * 20 == 2.5 and large.clip_norm == 1 and large.drop_path == 0.3


# ---- Networks --------------------------------------------------------------------------------------------------------


def test_vivit_large_has_the_released_size(hold_r):
    with torch.device("meta"):
        network = hold_r.ViViT("vivit_large", 256, 16, 3, 0.3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(353.76e6, abs=5e3)
    assert network.spatial.positions.shape == (1, 257, 1024) and network.temporal.positions.shape == (1, 5, 1024)
    drops = [block.drop for block in network.spatial.blocks]
    assert drops == pytest.approx(np.linspace(0, 0.3, 24)) and network.temporal.blocks[-1].drop == 0.3


def test_encoder_equals_torchs_own(hold_r):
    torch.manual_seed(0)
    ours = hold_r.Encoder(7, 32, 2, 4, 0.0, 1)
    gelu = partial(torch.nn.functional.gelu, approximate="tanh")
    layer = partial(torch.nn.TransformerEncoderLayer, 32, 4, 128, 0.0, gelu, 1e-6, batch_first=True, norm_first=True)
    x = torch.randn(3, 7, 32)
    y = torch.cat([ours.cls.repeat(3, 1, 1), x], 1) + ours.positions
    for block in ours.blocks:
        theirs, attention = layer(), block.attention
        qkv = attention.query, attention.key, attention.value
        theirs.load_state_dict({
            "self_attn.in_proj_weight": torch.cat([part.weight for part in qkv]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in qkv]),
            "self_attn.out_proj.weight": attention.out.weight, "self_attn.out_proj.bias": attention.out.bias,
            **{f"linear{i + 1}.{p}": getattr(block.mlp[2 * i], p) for i in range(2) for p in ("weight", "bias")},
            **{f"norm{i}.{p}": getattr(getattr(block, f"norm{i}"), p) for i in (1, 2) for p in ("weight", "bias")}})
        y = theirs(y)
    torch.testing.assert_close(ours(x), ours.norm(y[:, 0]), rtol=1e-4, atol=1e-5)


def test_dropped_branches_are_not_rescaled_and_go_with_the_example(hold_r):
    torch.manual_seed(0)
    block = hold_r.Block(8, 2, 0.5, frames=3)
    kept = block.keep(torch.ones(300, 4, 8)).view(100, 3, 4, 8)
    assert set(kept.unique().tolist()) == {0.0, 1.0}  # the usual recipe would give 2
    assert (kept == kept[:, :1, :1, :1]).all() and 0.3 < kept.mean() < 0.7
    x = torch.randn(3, 4, 8)
    block.drop = 1.0
    assert torch.equal(block(x), x) and not torch.equal(block.eval()(x), x)


@pytest.mark.parametrize("taps", [0, 2])
def test_spatial_encoder_takes_the_weights_of_a_timm_vit(hold_r, tmp_path, taps):
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(32, 8, num_classes=0, embed_dim=128, depth=4, num_heads=4,
                                           act_layer=partial(torch.nn.GELU, approximate="tanh")).eval()
    weights = theirs.state_dict()
    if taps:
        kernel = weights["patch_embed.proj.weight"]
        weights["patch_embed.proj.weight"] = torch.stack([0.25 * kernel, 0.75 * kernel], 2)
    torch.save(weights, tmp_path / "vit.pt")
    network = hold_r.make_network(hold_r.Config(size=32, init_from=str(tmp_path / "vit.pt"), **vivit())).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = network.spatial(network.embed(x).flatten(2).transpose(1, 2))
        torch.testing.assert_close(ours, theirs.forward_features(x)[:, 0], rtol=1e-4, atol=1e-5)
    larger = hold_r.make_network(hold_r.Config(size=64, init_from=str(tmp_path / "vit.pt"), **vivit()))
    assert larger.spatial.positions.shape == (1, 65, 128)
    for name, words in ((tmp_path / "vit.pt", "another width or depth"), ("no_such_vit", "cannot be had")):
        with pytest.raises(common.UserError, match=words):
            hold_r.make_network(hold_r.Config(network="vivit_small", size=32, patch=8, init_from=str(name)))


@pytest.mark.parametrize("network", [dict(), vivit(), dict(history=1)])
def test_the_distance_file_is_the_network_at_any_batch_and_size(hold_r, tmp_path, rng, network):
    config = small(hold_r, tmp_path, **network)
    model = hold_r.make_network(config).eval()
    if "network" in network:
        torch.nn.init.normal_(model.head.weight)  # it starts at zero
    d = common.load_distance(hold_r.write_distance(config, model, 45.0, {}, 0.0))
    assert d.kind == "pairwise" and d.history == config.history and d.meta["suggested_scale"] == 45
    for batch, height, width in ((1, 32, 32), (5, 60, 44)):
        s = rng.integers(0, 256, (batch, config.history, height, width, 3), np.uint8)
        g = rng.integers(0, 256, (50, 70, 3), np.uint8)
        preprocess = common.Preprocess(32)
        views = [preprocess(torch.from_numpy(s[:, i])) for i in range(config.history)]
        x = torch.stack([*views, preprocess(torch.from_numpy(g)[None]).expand(batch, -1, -1, -1)], 1)
        with torch.no_grad():
            np.testing.assert_allclose(d(s if config.history > 1 else s[:, 0], g), model(x), rtol=1e-4, atol=1e-4)


def test_wrong_names_and_sizes_get_one_line(hold_r):
    for changes, words in ((dict(network="resnet99"), "resnet99"), (dict(network="efficientnet_b0", width=0.5), "does not work"), (vivit(size=60), "no multiple of --patch")):
        with pytest.raises(common.UserError, match=words):
            hold_r.make_network(hold_r.Config(**changes))


# ---- Validation ------------------------------------------------------------------------------------------------------


def test_validation_of_a_network_whose_answers_are_known(hold_r):
    """The network returns 2 (mean of goal - mean of s) + 7, pixels are frame numbers: d = 2 (T - t) + 7."""
    class Known(torch.nn.Module):
        def forward(self, x):
            return ((x[:, -1] - x[:, -2]).mean((1, 2, 3)) * 127.5 * 2 + 7)

    clips = numbered_clips((20, 30), 11.84 * 3)
    found = hold_r.validate(Known(), common.Preprocess(8), clips, hold_r.Config(size=8), torch.device("cpu"))
    left = np.r_[np.arange(1, 20), np.arange(1, 30)]
    assert found["spearman"] == pytest.approx(1) and found["unit"] == pytest.approx(1 / 3)
    assert found["mse"] == pytest.approx(np.mean((3 * (2 * left + 7) - left) ** 2), rel=1e-3)
    assert found["scale"] == pytest.approx(3 * np.median([2 * 19, 2 * 29]), rel=1e-3)  # d(g, g) = 7 taken off
    assert found["curve"][-1] == pytest.approx(7, abs=1e-3) and len(found["curve"]) == 20


def test_weights_that_are_not_finite_do_not_pass_validation(hold_r):
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3, 4)) * math.nan

    with pytest.raises(common.UserError, match="not finite"):
        hold_r.validate(Broken(), common.Preprocess(8), numbered_clips((20,), 12.0), hold_r.Config(size=8), "cpu")


def test_spearman_is_that_of_scipy_per_clip(hold_r, rng):
    answers = iter(torch.from_numpy(rng.normal(size=(2, 15))))
    class Noise(torch.nn.Module):
        def forward(self, x):
            return next(answers)

    clips, copy = numbered_clips((15, 15), 11.84), np.random.default_rng(0).normal(size=(2, 15))
    found = hold_r.validate(Noise(), common.Preprocess(8), clips, hold_r.Config(size=8), torch.device("cpu"))
    scores = [spearmanr(d[:14], np.arange(14, 0, -1)).statistic for d in copy]
    assert found["spearman"] == pytest.approx(np.mean(scores))


# ---- Updates, parts, processes, resuming -----------------------------------------------------------------------------


def update(hold_r, config, parts, **changes):
    network, optimizer, scaler, dtype = hold_r.make_trainer(config, torch.device("cpu"))
    if isinstance(network, hold_r.ViViT):
        torch.nn.init.normal_(network.head.weight, std=0.1)
    dtype = changes.get("dtype", dtype)
    return hold_r.training_step(network, optimizer, scaler, parts, dtype, changes.get("clip_norm", 0.0)), network


def random_part(count, seed=0, size=32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (count, 4, 3, size, size), dtype=torch.uint8, generator=g),
            torch.randint(1, 30, (count,), generator=g).float(), torch.rand(count, generator=g) + 0.5]


def test_accumulated_parts_give_the_update_of_the_joint_batch(hold_r):
    config = hold_r.Config(size=32, optimizer="momentum", lr=1e-3, **vivit())
    parts = [random_part(3, seed) for seed in range(4)]
    joint = [[torch.cat(column) for column in zip(*parts)]]
    (loss, in_parts), (joint_loss, whole) = update(hold_r, config, parts), update(hold_r, config, joint)
    fresh = hold_r.make_trainer(config, torch.device("cpu"))[0].state_dict()
    assert loss == pytest.approx(joint_loss, rel=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(in_parts.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    moved = [k for k, v in whole.state_dict().items() if not torch.equal(v, fresh[k])]
    assert len(moved) > 0.9 * len(fresh) - 10


def test_clipping_and_half_precision(hold_r):
    config = hold_r.Config(size=32, optimizer="momentum", lr=1.0, **vivit())
    _, free = update(hold_r, config, [random_part(4)])
    torch.manual_seed(0)
    start = hold_r.make_network(config)
    torch.nn.init.normal_(start.head.weight, std=0.1)
    flat = lambda network: torch.cat([p.detach().flatten() for p in network.parameters()])
    length = lambda network: (flat(network) - flat(start)).norm().item()
    _, clipped = update(hold_r, config, [random_part(4)], clip_norm=0.5)
    assert length(clipped) == pytest.approx(0.5, rel=1e-3) and length(free) > 0.5
    full, _ = update(hold_r, config, [random_part(4)])
    half, _ = update(hold_r, config, [random_part(4)], dtype=torch.bfloat16)
    assert half == pytest.approx(full, rel=0.03) and half != full


def test_two_processes_train_as_one(hold_r, tmp_path, clips):
    """torchrun with two CPU processes, each its half of every batch, parts included: the weights of one process."""
    settings = dict(network="vivit_tiny", size=32, optimizer="momentum", lr=0.003, clips_per_batch=4, clip_norm=5.0, steps=6,
                    validate_every=3, warmup=0.2)
    hold_r.train(small(hold_r, tmp_path, out=str(tmp_path / "alone"), **settings))
    flags = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), value)]
    pair = run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "02_hold_r.py", *flags, "--device", "cpu",
               "--data", tmp_path / "clips", "--accumulate", 2, "--out", tmp_path / "pair", SMOKE_TEST="1", OMP_NUM_THREADS="1")
    assert pair.returncode == 0, pair.stderr[-2000:]
    states = [common.load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("alone", "pair")]
    fresh = hold_r.make_network(hold_r.Config(**states[0]["config"])).state_dict()
    for name, value in states[0]["network"].items():
        torch.testing.assert_close(states[1]["network"][name], value, rtol=1e-3, atol=1e-5)
    assert not torch.equal(states[0]["network"]["head.weight"], fresh["head.weight"])
    assert states[0]["log"][-1]["spearman"] == pytest.approx(states[1]["log"][-1]["spearman"], abs=0.02)
    assert common.load_distance(tmp_path / "pair/distance.pt2").history == 3 and pair.stdout.count("suggested T") == 1


@pytest.mark.parametrize("network", [dict(), vivit(drop_path=0.5, accumulate=2)])
def test_training_stopped_and_resumed_equals_training_in_one_go(hold_r, tmp_path, clips, network):
    whole = hold_r.train(small(hold_r, tmp_path, out=str(tmp_path / "whole"), **network))
    config = small(hold_r, tmp_path, **network)
    with stopped_after(hold_r, "training_step", 3), pytest.raises(KeyboardInterrupt):
        hold_r.train(config)
    halves = hold_r.train(config)
    states = [common.load_checkpoint(path.parent / "checkpoint.pt") for path in (whole, halves)]
    assert states[0]["step"] == states[1]["step"] == 4 and (halves.parent / "strip.png").stat().st_size > 5000
    assert all(torch.equal(states[0]["network"][k], states[1]["network"][k]) for k in states[0]["network"])
    assert [r["loss"] for r in states[0]["log"]] == [r["loss"] for r in states[1]["log"]]
    assert states[0]["curves"] == states[1]["curves"] and len(states[0]["curves"]) == 2
    with pytest.raises(common.UserError, match="another history"):
        hold_r.train(small(hold_r, tmp_path, **{**network, "history": 1}))
    again = hold_r.train(small(hold_r, tmp_path, **{**network, "lr": 1e-4, "resume": False})).with_name("checkpoint.pt")
    assert common.load_checkpoint(again)["log"][-1]["loss"] != states[1]["log"][-1]["loss"]


def test_training_moves_the_weights_and_the_file_holds_the_best(hold_r, tmp_path, clips, monkeypatch):
    config = small(hold_r, tmp_path)
    scores = iter([0.5, 0.2])  # the first validation is the better one
    real = hold_r.validate
    monkeypatch.setattr(hold_r, "validate", lambda *arguments: {**real(*arguments), "spearman": next(scores)})
    path = hold_r.train(config)
    state = common.load_checkpoint(path.parent / "checkpoint.pt")
    fresh = hold_r.make_trainer(config, torch.device("cpu"))[0]
    assert all(not torch.equal(p, state["network"][k]) for k, p in fresh.named_parameters())
    assert any(not torch.equal(state["best_weights"][k], v) for k, v in state["network"].items())
    fresh.eval().load_state_dict(state["best_weights"])
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    x = torch.from_numpy(np.concatenate([frames, np.zeros((2, 1, 32, 32, 3), np.uint8)], 1))
    x = x.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    d = common.load_distance(path)
    with torch.no_grad():
        np.testing.assert_allclose(d(frames, np.zeros((32, 32, 3), np.uint8)), fresh(x), atol=1e-3, rtol=1e-4)
    assert d.meta["validation"]["spearman"] == 0.5 and d.meta["validation"]["mse"] == state["log"][0]["mse"]
    assert len(hold_r.plot_log(path.parent / "log.csv").axes) == 2


def test_a_loss_that_is_not_finite_stops(hold_r):
    config = hold_r.Config(size=32, **vivit())
    network, optimizer, scaler, _ = hold_r.make_trainer(config, torch.device("cpu"))
    network.head.bias.data.fill_(math.nan)
    before = network.embed.weight.clone()
    with pytest.raises(common.UserError, match="not finite"):
        hold_r.training_step(network, optimizer, scaler, [random_part(2)])
    assert torch.equal(network.embed.weight, before)


def test_benchmark_measures_three_loops(hold_r, tmp_path, clips):
    for network in (dict(), vivit()):
        speed = hold_r.benchmark(small(hold_r, tmp_path, steps=1, **network), rounds=1, updates=2)
        assert list(speed) == ["training", "from memory", "bare timm"] and all(v > 0 for v in speed.values())


# ---- The authors' weights --------------------------------------------------------------------------------------------


def flax_bytes(tree):
    """A Flax checkpoint of nested dicts of arrays, as flax.serialization writes it."""
    msgpack = pytest.importorskip("msgpack", reason="pip install msgpack")

    def pack(value):
        if isinstance(value, np.ndarray):
            return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))
        return {k: pack(v) for k, v in value.items()} if isinstance(value, dict) else value

    return msgpack.packb(pack(tree), use_bin_type=True)


def released(params, stats, old=True):
    """The state around the parameters: the optimiser keeps a momentum of each, which is no parameter."""
    momentum = {"param_states": {"momentum": np.zeros(3, np.float32)}, "step": np.array(9, np.int32)}
    body = {"optimizer": {"target": params, "state": momentum}} if old else {"params": params, "opt_state": momentum}
    return {**body, "global_step": 9, "model_state": {"batch_stats": stats} if stats else {},
            "rng": np.zeros(2, np.uint32), "accum_train_time": 1}


def resnet_tree(rng, in_chans, outputs, stem=64, widths=(8, 8, 16, 16), blocks=2):
    """Random parameters of the authors' bottleneck ResNet, by their names and layouts."""
    array = lambda *shape: rng.normal(0, 1 / math.sqrt(max(1, np.prod(shape[:-1]))), shape).astype(np.float32)
    params, stats = {}, {}

    def conv_bn(where, stat, conv, bn, *shape):
        where[conv] = {"kernel": array(*shape)}
        where[bn] = {"scale": rng.uniform(0.5, 1.5, shape[-1]).astype(np.float32), "bias": array(shape[-1])}
        stat[bn] = {"mean": array(shape[-1]), "var": rng.uniform(0.5, 1.5, shape[-1]).astype(np.float32)}

    conv_bn(params, stats, "stem_conv", "init_bn", 7, 7, in_chans, stem)
    channels, number = stem, 0
    for stage, width in enumerate(widths):
        for block in range(blocks):
            p, s = params.setdefault(f"ResidualBlock_{number}", {}), stats.setdefault(f"ResidualBlock_{number}", {})
            if channels != 4 * width or (block == 0 and stage > 0):
                conv_bn(p, s, "proj_conv", "proj_bn", 1, 1, channels, 4 * width)
            conv_bn(p, s, "conv1", "bn1", 1, 1, channels, width)
            conv_bn(p, s, "conv2", "bn2", 3, 3, width, width)
            conv_bn(p, s, "conv3", "bn3", 1, 1, width, 4 * width)
            channels, number = 4 * width, number + 1
    params["output_projection"] = {"kernel": array(channels, outputs), "bias": array(outputs)}
    return params, stats


def convolve(x, kernel, stride=1):
    """NHWC convolution with a HWIO kernel, odd size, padded by half of it, in NumPy."""
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("bijchw,hwco->bijo", windows, kernel, optimize=True)


def resnet_by_numpy(params, stats, x, blocks=2):
    """The authors' ResNet (v1.5, testing) on NHWC float64, straight from its description."""
    def conv_bn(p, s, conv, bn, x, stride=1):
        y = convolve(x, p[conv]["kernel"].astype(float), stride)
        return (y - s[bn]["mean"]) / np.sqrt(s[bn]["var"] + 1e-5) * p[bn]["scale"] + p[bn]["bias"]

    relu = lambda x: np.maximum(x, 0)
    x = relu(conv_bn(params, stats, "stem_conv", "init_bn", x, 2))
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
    for number in range(4 * blocks):
        p, s = params[f"ResidualBlock_{number}"], stats[f"ResidualBlock_{number}"]
        stride = 2 if number and number % blocks == 0 else 1
        shortcut = conv_bn(p, s, "proj_conv", "proj_bn", x, stride) if "proj_conv" in p else x
        y = relu(conv_bn(p, s, "conv1", "bn1", x))
        y = relu(conv_bn(p, s, "conv2", "bn2", y, stride))
        x = relu(shortcut + conv_bn(p, s, "conv3", "bn3", y))
    head = params["output_projection"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]


@pytest.fixture
def small_resnet(hold_r, monkeypatch):
    """timm's ResNet-26 with 8, 8, 16, 16 channels per stage: the authors' layout, small."""
    real = timm.create_model
    monkeypatch.setattr(hold_r.timm, "create_model", lambda name, **k: real(name, **k, channels=(8, 8, 16, 16)))


def test_a_released_resnet_becomes_a_distance_file(hold_r, tmp_path, rng, small_resnet):
    params, stats = resnet_tree(rng, 12, 1)
    (tmp_path / "new").write_bytes(flax_bytes(released(params, stats, old=False)))
    (tmp_path / "checkpoint").write_bytes(flax_bytes(released(params, stats)))
    old, new = hold_r.read_flax(tmp_path / "checkpoint"), hold_r.read_flax(tmp_path / "new")
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    config = small(hold_r, tmp_path, network="resnet26", width=1.0, convert=str(tmp_path / "checkpoint"))
    d = common.load_distance(hold_r.convert(config))
    s, g = rng.integers(0, 256, (2, 3, 32, 32, 3), np.uint8), rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    x = np.concatenate([s, g[:, None]], 1).transpose(0, 2, 3, 1, 4).reshape(2, 32, 32, 12) / 127.5 - 1
    expected = resnet_by_numpy(params, stats, x)[:, 0]
    np.testing.assert_allclose(d(s, g), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected).min() > 1e-3 and d.meta["suggested_scale"] == 45


def vivit_tree(rng, width=128, heads=4, patch=8, tokens=16, frames=4, layers=(4, 2)):
    """Random parameters of the authors' ViViT, by their names and layouts."""
    array = lambda *shape: rng.normal(0, 0.1, shape).astype(np.float32)
    norm = lambda: {"scale": 1 + array(width), "bias": array(width)}
    dense = lambda *shape: {"kernel": array(*shape), "bias": array(shape[-1])}
    to_heads = lambda: {"kernel": array(width, heads, width // heads), "bias": array(heads, width // heads)}

    def block():
        attention = {**{k: to_heads() for k in ("query", "key", "value")}, "out": dense(heads, width // heads, width)}
        return {"LayerNorm_0": norm(), "MultiHeadDotProductAttention_0": attention, "LayerNorm_1": norm(),
                "MlpBlock_0": {"Dense_0": dense(width, 4 * width), "Dense_1": dense(4 * width, width)}}

    tree = {"embedding": dense(1, patch, patch, 3, width), "output_projection": dense(width, 1)}
    for name, length, depth in (("SpatialTransformer", tokens, layers[0]), ("TemporalTransformer", frames, layers[1])):
        tree[f"cls_{name}"] = array(1, 1, width)
        tree[name] = {"posembed_input": {"pos_embedding": array(1, length + 1, width)}, "encoder_norm": norm(),
                      **{f"encoderblock_{i}": block() for i in range(depth)}}
    return tree


def vivit_by_numpy(tree, x, patch=8):
    """The authors' factorised encoder (testing) on (B, T, H, W, 3) float64, straight from its description."""
    def norm(p, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def attention(p, x):
        parts = (p[name] for name in ("query", "key", "value"))
        q, k, v = (np.einsum("nld,dhe->nhle", x, part["kernel"]) + part["bias"][:, None] for part in parts)
        a = np.einsum("nhle,nhme->nhlm", q, k) / math.sqrt(q.shape[-1])
        a = np.exp(a - a.max(-1, keepdims=True))
        return np.einsum("nhlm,nhme,hed->nld", a / a.sum(-1, keepdims=True), v, p["out"]["kernel"]) + p["out"]["bias"]

    def encoder(p, cls, x):
        x = np.concatenate([np.repeat(cls, len(x), 0), x], 1) + p["posembed_input"]["pos_embedding"]
        for i in range(len(p) - 2):
            b = p[f"encoderblock_{i}"]
            x = x + attention(b["MultiHeadDotProductAttention_0"], norm(b["LayerNorm_0"], x))
            first, second = b["MlpBlock_0"]["Dense_0"], b["MlpBlock_0"]["Dense_1"]
            h = norm(b["LayerNorm_1"], x) @ first["kernel"] + first["bias"]
            h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            x = x + h @ second["kernel"] + second["bias"]
        return norm(p["encoder_norm"], x)[:, 0]

    B, T, H, W, _ = x.shape
    patches = x.reshape(B * T, H // patch, patch, W // patch, patch, 3)
    tokens = np.einsum("nihjwc,hwcd->nijd", patches, tree["embedding"]["kernel"][0]) + tree["embedding"]["bias"]
    tokens = tokens.reshape(B * T, -1, tokens.shape[-1])
    frames = encoder(tree["SpatialTransformer"], tree["cls_SpatialTransformer"], tokens)
    last = encoder(tree["TemporalTransformer"], tree["cls_TemporalTransformer"], frames.reshape(B, T, -1))
    return last @ tree["output_projection"]["kernel"] + tree["output_projection"]["bias"]


def test_a_released_vivit_becomes_a_distance_file(hold_r, tmp_path, rng):
    tree = vivit_tree(rng)
    (tmp_path / "checkpoint").write_bytes(flax_bytes(released(tree, {})))
    d = common.load_distance(hold_r.convert(small(hold_r, tmp_path, convert=str(tmp_path / "checkpoint"), **vivit())))
    s, g = rng.integers(0, 256, (2, 3, 32, 32, 3), np.uint8), rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = vivit_by_numpy(tree, np.concatenate([s, g[:, None]], 1) / 127.5 - 1)[:, 0]
    np.testing.assert_allclose(d(s, g), expected, rtol=1e-3, atol=1e-4)


def test_checkpoints_that_do_not_fit_get_one_line(hold_r, tmp_path, rng, small_resnet):
    def attempt(params, stats, words, **changes):
        (tmp_path / "checkpoint").write_bytes(flax_bytes(released(params, stats)))
        settings = dict(network="resnet26", width=1.0, convert=str(tmp_path / "checkpoint"))
        config = small(hold_r, tmp_path, **{**settings, **changes})
        with pytest.raises(common.UserError, match=words) as caught:
            hold_r.convert(config)
        assert "\n" not in str(caught.value) and not (tmp_path / "run/distance.pt2").exists()

    params, stats = resnet_tree(rng, 12, 1)
    attempt(params, stats, "--history", history=1)
    attempt({**params, "extra": {"kernel": params["stem_conv"]["kernel"]}}, stats, "1 left over .*params/extra/kernel")
    attempt({k: v for k, v in params.items() if k != "ResidualBlock_7"}, stats, "missing .*ResidualBlock_7")
    attempt(params, {k: v for k, v in stats.items() if k != "init_bn"}, "2 parameters missing .*batch_stats/init_bn")
    attempt(params, stats, "does not fit", **vivit())
    (tmp_path / "no").write_bytes(b"\x93\x01")
    for path in (tmp_path / "no", tmp_path / "absent", ROOT / "LICENSE"):
        with pytest.raises(common.UserError, match="not a Flax checkpoint"):
            hold_r.read_flax(path)
