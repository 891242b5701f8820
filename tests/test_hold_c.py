"""03_hold_c.py: the loss against an independent triple loop and hand-made cases, windows, resuming."""

import math

import numpy as np
import pytest
import torch

import common


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


@pytest.mark.parametrize("length, radii, loops", [(32, (2, 4), 1), (32, (2, 4), 3), (12, (1, 2), 2), (5, (2, 4), 1), (3, (1, 9), 1)])
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


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    for i in range(24):
        frames = np.full((30, 40, 48, 3), 9 * i, np.uint8)
        for t in range(30):
            frames[t, 10:25, t : t + 15] = (250, 8 * i, 60)
        common.write_video(tmp_path / "clips" / f"{i}.webm", frames, fps=12)


def test_training_stopped_and_resumed_equals_training_in_one_go(hold_c, tmp_path, clips, monkeypatch):
    whole = hold_c.train(small(hold_c, tmp_path, out=str(tmp_path / "whole")))
    config = small(hold_c, tmp_path)
    real, calls = hold_c.training_step, []

    def stops_after_three(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(hold_c, "training_step", stops_after_three)
    with pytest.raises(KeyboardInterrupt):
        hold_c.train(config)
    monkeypatch.setattr(hold_c, "training_step", real)
    halves = hold_c.train(config)
    states = [common.load_checkpoint(path.parent / "checkpoint.pt") for path in (whole, halves)]
    assert states[0]["step"] == states[1]["step"] == 4
    assert all(torch.equal(states[0]["network"][k], states[1]["network"][k]) for k in states[0]["network"])
    assert [r["loss"] for r in states[0]["log"]] == [r["loss"] for r in states[1]["log"]]
    with pytest.raises(common.UserError, match="another margin"):
        hold_c.train(small(hold_c, tmp_path, margin=0.5))


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
    assert d.meta["validation"]["spearman"] == max(r["spearman"] for r in state["log"]) and d.meta["suggested_scale"] > 0


def test_a_loss_that_is_not_finite_stops(hold_c, tmp_path):
    network = torch.nn.Linear(3, 2)
    network.weight.data.fill_(math.nan)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), network)
    batch = torch.zeros(1, 8, 3, 4, 4, dtype=torch.uint8), torch.arange(8)[None], torch.zeros(1, 8)
    with pytest.raises(common.UserError, match="not finite"):
        hold_c.training_step(model, torch.optim.Adam(model.parameters()), batch, hold_c.Config())


def test_unknown_networks_get_one_line(hold_c):
    with pytest.raises(common.UserError, match="resnet99"):
        hold_c.make_network("resnet99", 1.0, 32)
