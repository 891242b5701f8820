"""02_hold_r.py and 03_hold_c.py: losses, samples, networks and schedule against independent ones; runs."""

import math

import msgpack
import numpy as np
import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler

import common
from conftest import run, stopped_after


@pytest.fixture(params=["hold_r", "hold_c"])
def model(request):
    """02, then 03: what both must do."""
    return request.getfixturevalue(request.param)


def small(module, tmp_path, out="run", **changes):
    """A smoke config for the clips of a test."""
    base = dict(data=str(tmp_path / "clips"), out=str(tmp_path / out), device="cpu", clips_per_batch=2)
    return module.replace(module.Config.smoke(), **{**base, "width": 0.25, **changes})


def fresh_network(module, config):
    torch.manual_seed(config.seed)
    return module.make_network(config)


def checkpoint(path):
    return torch.load(str(path).replace("distance.pt2", "checkpoint.pt"))


def numbered_clips(lengths, fps, size=8):
    """Clips whose pixels hold the frame's number."""
    return [(np.full((L, size, size, 3), np.arange(L).reshape(L, 1, 1, 1), np.uint8), fps) for L in lengths]


@pytest.fixture
def no_export(hold_r, hold_c, monkeypatch):
    """Leave the distance file out, which takes the longest, where a test looks only at checkpoints."""
    for module in (hold_r, hold_c):
        monkeypatch.setattr(module, "write_distance", lambda config, *_, **__: f"{config.out}/distance.pt2")


def loss_by_loops(f, time, sequence, pos_radius, neg_radius, margin):
    """The released rule, pair by pair: (loss, pairs, gradient); negatives that tie share the gradient."""
    total, count, n, gradient = 0.0, 0, len(f), np.zeros_like(f)
    D = [[sum((a - b) ** 2 for a, b in zip(f[i], f[j])) for j in range(n)] for i in range(n)]
    for a in range(n):
        negatives = [j for j in range(n) if sequence[j] != sequence[a] or abs(time[j] - time[a]) > neg_radius]
        for p in range(n):
            if p == a or sequence[p] != sequence[a] or abs(time[p] - time[a]) > pos_radius:
                continue
            beyond = [D[a][j] for j in negatives if D[a][j] > D[a][p]]
            negative = min(beyond) if beyond else max((D[a][j] for j in negatives), default=0.0)
            tied = [j for j in negatives if D[a][j] == negative]
            cost, count = margin + D[a][p] - negative, count + 1
            if cost > 0:
                total += cost
                for other, weight in [(p, 2.0), *((j, -2.0 / len(tied)) for j in tied)]:
                    gradient[a] += weight * (f[a] - f[other])
                    gradient[other] -= weight * (f[a] - f[other])
    return total, count, gradient


@pytest.mark.parametrize("length, radii, loops", [
    (32, (2, 4), 1), (32, (2, 4), 3), (12, (1, 2), 2), (5, (2, 4), 1), (3, (1, 9), 1), (2, (2, 4), 1)])
def test_contrast_and_its_gradient_equal_the_triple_loop(hold_c, rng, length, radii, loops):
    f = rng.normal(0, 0.3, (4, length, 8))
    f[1] = np.round(8 * f[1]) / 8  # many ties, and exact in binary, so that both sums see the same ones
    per_loop = math.ceil(length / loops)
    time, sequence = np.arange(length) % per_loop, np.arange(length) // per_loop
    totals, counts, gradients = zip(*(loss_by_loops(x, time, sequence, *radii, 0.2) for x in f))
    times = [torch.from_numpy(np.broadcast_to(x, (4, length)).copy()) for x in (time, sequence)]
    embeddings = torch.from_numpy(f).requires_grad_()
    loss, count = hold_c.time_contrastive_loss(embeddings, *times, *radii, 0.2)
    assert loss.item() == pytest.approx(sum(totals), rel=1e-9) and count == sum(counts)
    loss.backward()
    np.testing.assert_allclose(embeddings.grad, gradients, atol=1e-9)
    one, _ = hold_c.time_contrastive_loss(torch.from_numpy(f[0]), *(x[0] for x in times), *radii, 0.2)
    assert one.item() == pytest.approx(totals[0], rel=1e-9)


@pytest.mark.parametrize("history, fps", [(1, 12.0), (3, 24.0)])
def test_pairs_and_their_loss_hold_the_frames_and_rates_they_should(hold_r, rng, monkeypatch, history, fps):
    monkeypatch.setattr(hold_r, "augment", lambda clip, *_: clip)
    pairs = hold_r.Pairs(numbered_clips((2, 5, 40), fps), hold_r.Config(history=history, pairs_per_clip=8))
    for n in range(40):
        frames, delta, rate = pairs[n]
        shown = frames[:, :, 0, 0, 0].long()  # (pairs, history + 1) frame numbers
        s, g = shown[:, -2], shown[:, -1]
        assert frames.shape == (8, history + 1, 3, 8, 8) and (g - s).tolist() == delta.tolist()
        assert all((shown[:, history - 1 - b] == (s - b).clamp(min=0)).all() for b in range(history))
        assert rate.tolist() == [pytest.approx(fps / 11.84)] * 8
    d, delta, fps = rng.normal(10, 5, 50), rng.integers(1, 40, 50), rng.uniform(8, 30, 50)
    loss = hold_r.regression_loss(*(torch.from_numpy(x).float() for x in (d, delta, fps / 11.84)))
    assert loss.item() == pytest.approx(np.mean((d * fps / 11.84 - delta) ** 2), rel=1e-5)
    s, g = hold_r.draw_pairs(6, 30_000, rng)  # uniform over all ordered pairs
    counts = np.bincount(6 * s + g, minlength=36).reshape(6, 6)
    assert (np.tril(counts) == 0).all() and np.abs(counts[np.triu_indices(6, 1)] / 2000 - 1).max() < 0.1


def test_windows_loop_short_clips_and_cover_long_ones(hold_c, rng, monkeypatch):
    index, sequence = hold_c.draw_window(5, 32, rng)
    assert index.tolist() == [t % 5 for t in range(32)] and sequence.tolist() == [t // 5 for t in range(32)]
    assert {hold_c.draw_window(40, 32, rng)[0][0] for _ in range(400)} == set(range(9))  # all of 0 .. L - 32
    monkeypatch.setattr(hold_c, "augment", lambda clip, *_: clip)
    for seconds, rate in ((None, 1), (0.2, 30)):
        windows = hold_c.Windows(numbered_clips((10, 50), 30.0), hold_c.Config(window_seconds=seconds))
        for frames, times, _ in (windows[n] for n in range(10)):
            np.testing.assert_allclose(frames[:, 0, 0, 0], rate * times)


def test_radii_in_seconds_follow_the_rate(hold_c, tmp_path, clips, monkeypatch, no_export):
    real, seen = hold_c.positives_and_negatives, []
    monkeypatch.setattr(hold_c, "positives_and_negatives", lambda *a: seen.append((a, real(*a))) or real(*a))
    hold_c.train(small(hold_c, tmp_path, window_seconds=0.25, steps=1))
    (times, sequences, *_), masks = seen[0]
    assert all(map(torch.equal, masks, real((12 * times).round(), sequences, 3, 6)))


def test_the_learning_rate_is_timms_cosine_with_warm_up(model):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
    timms = CosineLRScheduler(optimizer, 90, warmup_t=10, warmup_prefix=True, t_in_epochs=False)
    for step in range(100):
        timms.step_update(step)
        ours = model.learning_rate(step, model.Config(steps=100, lr=0.3))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


def test_vivit_has_the_released_size_and_drops_whole_examples_without_rescaling(hold_r):
    with torch.device("meta"):
        network = hold_r.ViViT("vivit_large", 256, 3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(353.76e6, abs=5e3)
    for encoder, n in ((network.spatial, 257), (network.temporal, 5)):
        drops = [block.drop_path2[1].drop_prob for block in encoder.blocks]
        assert drops == pytest.approx(np.linspace(0, 0.3, len(drops))) and encoder.pos_embed.shape[1] == n
    block = network.spatial.blocks[23]
    kept = block.drop_path1(torch.ones(400, 5, 8)).view(100, 4, 5, 8)
    assert set(kept.unique().tolist()) == {0.0, 1.0}  # the usual recipe would give 1 / 0.7
    assert (kept == kept[:, :1, :1, :1]).all() and 0.5 < kept.mean() < 0.9
    assert (block.eval().drop_path1(torch.ones(4, 5, 8)) == 1).all()


@pytest.mark.parametrize("name, changes", [
    ("hold_r", {}), ("hold_r", dict(network="vivit_tiny", history=1)),
    ("hold_c", dict(network="vit_tiny_patch16_224"))])
def test_the_distance_file_is_the_network_at_any_batch_and_size(name, changes, request, tmp_path, rng):
    module = request.getfixturevalue(name)
    config = small(module, tmp_path, **changes)
    network, history = module.make_network(config).eval(), getattr(config, "history", 1)
    for layer in (m for m in network.modules() if isinstance(m, torch.nn.Linear)):
        torch.nn.init.normal_(layer.weight, std=0.1)  # ViViT's last one is zero
    d, see = common.load_distance(module.write_distance(config, network, 0.0, 45.0)), common.Preprocess(32)
    assert d.history == history and d.meta["suggested_scale"] == 45 and d.meta["training"] == vars(config)
    for shape in ((1, history, 32, 32, 3), (5, history, 60, 44, 3)):
        s, goal = (torch.from_numpy(rng.integers(0, 256, size, np.uint8)) for size in (shape, (50, 70, 3)))
        past, g = [see(frames) for frames in s.unbind(1)], see(goal[None]).expand(len(s), -1, -1, -1)
        with torch.no_grad():
            f = network(torch.stack([*past, g], 1)) if name == "hold_r" else network(past[0]) - network(g)
        expected = f if f.ndim == 1 else f.norm(dim=-1)
        np.testing.assert_allclose(d(s if history > 1 else s[:, 0], goal), expected, rtol=1e-4, atol=1e-4)


class Known(torch.nn.Module):
    """For 02: 2 (mean of goal - mean of s) + 7; for 03 an embedding whose distances are 2 (T - t)."""
    def forward(self, x):
        x = 2 * 127.5 * x.mean((-1, -2, -3))
        return x[:, -1] - x[:, -2] + 7 if x.ndim == 2 else x[:, None]


def test_validation_of_a_network_whose_answers_are_known(model):
    clips = numbered_clips((20, 30, 2), 30.0, 72)  # the clip of two frames is left out
    for frames, _ in clips:
        frames[:, :4], frames[:, :, -4:] = 255, 0  # outside the central 256 of 288, where nobody looks
    found = model.validate(Known(), clips, model.Config(size=64), "cpu")
    assert found["spearman"] == pytest.approx(1) and len(found["curve"]) == 20
    assert found["scale"] == pytest.approx(3 * 2 * 19, rel=1e-3)  # the median start, less 02's d(g, g) = 7
    assert found["curve"][0] == pytest.approx(found["curve"][-1] + 2 * 19, abs=1e-2)
    with pytest.raises(common.UserError, match="has three frames, or d is not finite"):
        model.validate(Known(), clips[2:], model.Config(size=64), "cpu")


@pytest.mark.parametrize("name, loss, changes", [
    ("hold_r", "regression_loss", {}), ("hold_c", "time_contrastive_loss", {}),
    ("hold_r", "regression_loss", dict(network="vivit_tiny", optimizer="momentum", lr=1e-3))])
def test_resumed_equals_one_go(name, loss, changes, request, tmp_path, clips, monkeypatch, no_export):
    module = request.getfixturevalue(name)
    if changes:
        monkeypatch.setitem(module.VIVIT, "vivit_tiny", (32, 2, 2, 2, 0.5))
    whole = checkpoint(module.train(small(module, tmp_path, out="whole", **changes)))
    with stopped_after(module, loss, 3), pytest.raises(KeyboardInterrupt):
        module.train(small(module, tmp_path, **changes))
    path = module.train(small(module, tmp_path, **changes))
    halves = checkpoint(path)
    assert [row["step"] for row in halves["log"]] == [0, 2, 4] and math.isnan(halves["log"][0]["loss"])
    assert all(torch.equal(whole[p][k], v) for p in ("network", "best") for k, v in halves[p].items())
    assert [r["loss"] for r in whole["log"][1:]] == [r["loss"] for r in halves["log"][1:]]
    assert whole["curves"] == halves["curves"]
    assert module.train(small(module, tmp_path, **changes)) == path  # finished: nothing to do


def test_training_moves_the_weights_and_the_file_holds_the_best(model, tmp_path, clips, monkeypatch, rng):
    scores, real = iter([0.9, 0.5, 0.2]), model.validate  # the untrained network does not count
    monkeypatch.setattr(model, "validate", lambda *arguments: {**real(*arguments), "spearman": next(scores)})
    path = model.train(config := small(model, tmp_path))
    state, network = checkpoint(path), fresh_network(model, config)
    assert all(not torch.equal(p, state["network"][k]) for k, p in network.named_parameters())
    assert any(not torch.equal(state["best"][k], v) for k, v in state["network"].items())
    network.load_state_dict(state["best"])
    expected = common.load_distance(model.write_distance(small(model, tmp_path, "best"), network, 0.0, 1.0))
    d, s = common.load_distance(path), rng.integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    s, g = s if d.history > 1 else s[:, 0], rng.integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_allclose(d(s, g), expected(s, g), rtol=1e-5)
    assert d.meta["validation"] == {"spearman": 0.5} and d.meta["suggested_scale"] > 0 < d.meta["minutes"]


def test_a_broken_run_stops_before_its_checkpoint(model, tmp_path, clips, no_export):
    with pytest.raises(common.UserError, match="the loss is (nan|inf|not finite)"):
        model.train(small(model, tmp_path, lr=1e30, steps=6, validate_every=6))
    assert checkpoint(tmp_path / "run/distance.pt2")["step"] == 0


@pytest.mark.parametrize("name, settings", [
    ("hold_r", dict(network="vivit_tiny", optimizer="momentum", lr=0.003, steps=6, warmup=0.2)),
    ("hold_c", dict(network="vit_tiny_patch16_224", frames_per_clip=12, steps=3, warmup=0.3))])
def test_two_processes_train_as_one(name, settings, request, tmp_path, clips, no_export):
    module = request.getfixturevalue(name)
    alone, pair = (small(module, tmp_path, out, **settings, validate_every=3, limit=3) for out in "ab")
    flags = [part for key, value in vars(pair).items() if value is not None and not isinstance(value, bool)
             for part in ("--" + key.replace("_", "-"), value)]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    ran = run(*torchrun, f"{module.__name__}.py", *flags)
    assert ran.returncode == 0 and ran.stdout.count("suggested T") == 1, ran.stderr[-2000:]
    flat = lambda state: torch.cat([v.flatten() for v in state.values()])
    one, two = (flat(checkpoint(p)["network"]) for p in (module.train(alone), tmp_path / "b/distance.pt2"))
    moved, apart = one - flat(fresh_network(module, alone).state_dict()), one - two
    assert moved.norm() > 1e-3 and apart.abs().mean() < 0.02 * moved.abs().mean()


def flax_file(path, params, stats=None, old=True):
    """Write a Flax checkpoint as the authors' code does; the optimiser's momentum is no parameter."""
    pack = lambda x: msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes())))
    state = {"momentum": np.zeros(3, np.float32), "step": np.array(9, np.int32)}
    tree = {"optimizer": {"target": params, "state": state}} if old else {"params": params, "opt": state}
    tree |= {"model_state": {"batch_stats": stats} if stats else {}, "rng": np.zeros(2, np.uint32)}
    path.write_bytes(msgpack.packb(tree, default=pack))
    return str(path)


def numpy_resnet(rng, x, outputs):
    """The authors' ResNet, two blocks a stage, random weights, on (B, H, W, C): (params, stats, outputs)."""
    array = lambda *shape: rng.normal(0, 1 / math.sqrt(max(1, np.prod(shape[:-1]))), shape).astype(np.float32)
    params, stats = {}, {}
    def conv_bn(x, group, conv, bn, size, width, stride=1):
        p, s = (tree.setdefault(group, {}) if group else tree for tree in (params, stats))
        p[conv] = {"kernel": array(size, size, x.shape[-1], width)}
        p[bn] = {"scale": rng.uniform(0.5, 1.5, width).astype(np.float32), "bias": array(width)}
        s[bn] = {"mean": array(width), "var": rng.uniform(0.5, 1.5, width).astype(np.float32)}
        x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
        y = np.einsum("bijchw,hwco->bijo", windows, p[conv]["kernel"].astype(float), optimize=True)
        return (y - s[bn]["mean"]) / np.sqrt(s[bn]["var"] + 1e-5) * p[bn]["scale"] + p[bn]["bias"]
    relu = lambda x: np.maximum(x, 0)
    x = relu(conv_bn(x, "", "stem_conv", "init_bn", 7, 64, 2))
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
    for number, width in enumerate((8, 8, 8, 8, 16, 16, 16, 16)):
        block, stride = f"ResidualBlock_{number}", 2 if number in (2, 4, 6) else 1
        shortcut = conv_bn(x, block, "proj_conv", "proj_bn", 1, 4 * width, stride) if number % 2 == 0 else x
        x = relu(conv_bn(x, block, "conv1", "bn1", 1, width))
        x = relu(conv_bn(x, block, "conv2", "bn2", 3, width, stride))
        x = relu(shortcut + conv_bn(x, block, "conv3", "bn3", 1, 4 * width))
    head = params["output_projection"] = {"kernel": array(64, outputs), "bias": array(outputs)}
    return params, stats, x.mean((1, 2)) @ head["kernel"] + head["bias"]


def numpy_vivit(rng, x, taps=1, width=128, heads=4):
    """The authors' ViViT, tiny, random weights, on (B, T, 32, 32, 3): (params, outputs (B,))."""
    array = lambda *shape: rng.normal(0, 0.1, shape).astype(np.float32)
    def norm(tree, name, x):
        p = tree[name] = {"scale": 1 + array(width), "bias": array(width)}
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["scale"] + p["bias"]
    def dense(tree, name, x, outputs):
        p = tree[name] = {"kernel": array(x.shape[-1], outputs), "bias": array(outputs)}
        return x @ p["kernel"] + p["bias"]
    def attention(tree, x, e=width // heads):
        for name in ("query", "key", "value"):
            tree[name] = {"kernel": array(width, heads, e), "bias": array(heads, e)}
        q, k, v = (np.einsum("nld,dhe->nhle", x, p["kernel"]) + p["bias"][:, None] for p in tree.values())
        a = np.exp(np.einsum("nhle,nhme->nhlm", q, k) / math.sqrt(e))
        out = tree["out"] = {"kernel": array(heads, e, width), "bias": array(width)}
        y = np.einsum("nhlm,nhme,hed->nld", a / a.sum(-1, keepdims=True), v, out["kernel"])
        return y + out["bias"]
    def encoder(name, x, layers):
        cls, tree = params.setdefault(f"cls_{name}", array(1, 1, width)), params.setdefault(name, {})
        positions = tree["posembed_input"] = {"pos_embedding": array(1, 1 + x.shape[1], width)}
        x = np.concatenate([np.repeat(cls, len(x), 0), x], 1) + positions["pos_embedding"]
        for b in (tree.setdefault(f"encoderblock_{i}", {}) for i in range(layers)):
            x = x + attention(b.setdefault("MultiHeadDotProductAttention_0", {}), norm(b, "LayerNorm_0", x))
            mlp = b.setdefault("MlpBlock_0", {})
            h = dense(mlp, "Dense_0", norm(b, "LayerNorm_1", x), 4 * width)
            h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
            x = x + dense(mlp, "Dense_1", h, width)
        return norm(tree, "encoder_norm", x)[:, 0]
    params, (B, T) = {}, x.shape[:2]
    embed = params["embedding"] = {"kernel": array(taps, 16, 16, 3, width), "bias": array(width)}
    patches = x.reshape(B * T, 2, 16, 2, 16, 3)
    tokens = np.einsum("nihjwc,hwcd->nijd", patches, embed["kernel"].sum(0)).reshape(B * T, 4, width)
    frames = encoder("SpatialTransformer", tokens + embed["bias"], 4).reshape(B, T, width)
    return params, dense(params, "output_projection", encoder("TemporalTransformer", frames, 2), 1)[:, 0]


def test_released_resnets_are_the_numpy_network(hold_r, hold_c, tmp_path, rng, monkeypatch):
    real = timm.create_model  # timm's ResNet-26 is the authors' layout, small
    monkeypatch.setattr(timm, "create_model", lambda name, **k: real(name, **k, channels=(8, 8, 16, 16)))
    frames = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    params, stats, f = numpy_resnet(rng, frames / 127.5 - 1, 32)
    settings = dict(network="resnet26", width=1.0)
    for old in (True, False):  # ways of Flax
        settings["convert"] = flax_file(tmp_path / "released", params, stats, old)
        d = common.load_distance(hold_c.convert(small(hold_c, tmp_path, **settings)))
        np.testing.assert_allclose(d(frames[:3], frames[3]), np.linalg.norm(f[:3] - f[3], axis=-1), rtol=1e-3)
    network = hold_r.stacked_cnn("resnet26", 1.0, 3).eval()
    views = rng.normal(size=(2, 4, 3, 32, 32))
    params, stats, out = numpy_resnet(rng, views.reshape(2, 12, 32, 32).transpose(0, 2, 3, 1), 1)
    arrays = common.read_flax(flax_file(tmp_path / "r", params, stats))
    turn = lambda array, _: array.movedim((-1, -2), (0, 1)) if array.ndim > 1 else array
    common.load_flax(network[1], arrays, hold_c.flax_paths(network[1]), turn)
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(views).float()), out[:, 0], rtol=1e-3, atol=1e-4)
    less, more = {k: v for k, v in params.items() if k != "init_bn"}, {**params, "extra": params["stem_conv"]}
    for tree in (less, more, params):  # a layer missing, one left over, one of 12 channels
        settings["convert"] = flax_file(tmp_path / "misfit", tree, stats)
        with pytest.raises(common.UserError, match="give the checkpoint's --preset"):
            hold_c.convert(small(hold_c, tmp_path, "none", **settings))
    assert not (tmp_path / "none").exists()


def test_released_vivits_are_the_numpy_network_and_a_place_to_start(hold_r, tmp_path, rng, monkeypatch):
    s, g = rng.integers(0, 256, (2, 3, 32, 32, 3), np.uint8), rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    params, expected = numpy_vivit(rng, np.concatenate([s, g[:, None]], 1) / 127.5 - 1)
    config = small(hold_r, tmp_path, network="vivit_tiny", convert=flax_file(tmp_path / "released", params))
    d = common.load_distance(hold_r.convert(config))
    np.testing.assert_allclose(d(s, g), expected, rtol=1e-3, atol=1e-4)
    classifier, _ = numpy_vivit(rng, np.zeros((1, 16, 32, 32, 3)), taps=2)  # 16 pairs of frames, 174 classes
    classifier["output_projection"] = {"kernel": np.zeros((128, 174)), "bias": np.zeros(174)}
    start = hold_r.replace(config, convert="", init_from=flax_file(tmp_path / "classifier", classifier))
    network = hold_r.make_network(start)
    kernel = torch.from_numpy(classifier["embedding"]["kernel"].sum(0)).permute(3, 2, 0, 1)
    torch.testing.assert_close(network.spatial.patch_embed.proj.weight.data, kernel)
    last = classifier["TemporalTransformer"]["encoder_norm"]["scale"]
    assert np.array_equal(network.temporal.norm.weight.data, last) and not network.temporal.head.weight.any()
    larger = hold_r.make_network(hold_r.replace(start, size=64))  # positions are resized
    assert larger.spatial.pos_embed.shape == (1, 17, 128)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network.spatial)
    timms = hold_r.make_network(hold_r.replace(start, init_from="a_timm_vit")).spatial.state_dict()
    assert all(torch.equal(v, timms[k]) for k, v in network.spatial.state_dict().items())


def test_presets_hold_the_numbers_of_tables_one_and_two(hold_r, hold_c):
    r, c = hold_r.Config, hold_c.Config
    for config, network, lr, clips, epochs, warmup in (
            (r.paper(), "resnet50", 3e-4, 32, 100, 0.5), (r.paper_vivit(), "vivit_large", 0.1, 64, 20, 2.5),
            (c.paper(), "resnet50", 1e-4, 8, 100, 0.5), (c.paper_vit(), "vit_base", 1e-4, 8, 5, 0.5)):
        assert (config.lr, config.clips_per_batch, config.augmentation) == (lr, clips, "paper")
        assert config.network.startswith(network) and config.warmup * epochs == warmup and config.size == 256
        assert config.steps * clips / 168_913 == pytest.approx(epochs, rel=1e-2) and config.data == "ssv2"
    assert (config.margin, config.frames_per_clip, config.window_seconds) == (0.2, 32, 0.2)
    assert (r.paper().optimizer, r.paper_vivit().optimizer, config.pretrained) == ("adam", "momentum", True)
