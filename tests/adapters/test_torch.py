"""The torch adapter: plain torch's result from flat buffers, on models of every shape."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hvdkit.comm import Done, Handle, SoloComm
from hvdkit.errors import HvdkitError
from hvdkit.optimizers import SGD, Adam
from tests.adapters.images import CLASSES, SHAPE, adapter, arrays, loss, train, train_data

PIXELS = SHAPE[0] * SHAPE[1] * SHAPE[2]


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice, self.head = nn.Linear(PIXELS, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(x.flatten(1)))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


class Tied(Shared):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(5, 5, bias=False)
        self.again.weight = self.twice.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.twice(torch.tanh(self.enter(x.flatten(1)))))
        return self.head(self.again(x))


class Unused(Shared):
    """A layer that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(4, 4)


class Frozen(Shared):
    """A layer that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.enter.requires_grad_(False)


class Backwards(nn.Module):
    """Layers that are used in another order than the model names them in."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(5, 5)
        self.first, self.last = nn.Linear(PIXELS, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x.flatten(1))))))


class Recomputed(Shared):
    """A layer in two reentrant checkpoints: its gradient comes in two parts."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(x.flatten(1)))
        for _ in range(2):
            x = checkpoint(self.twice, x, use_reentrant=True).tanh()
        return self.head(x)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(SHAPE[2], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared,
    "tied": Tied,
    "unused": Unused,
    "frozen": Frozen,
    "backwards": Backwards,
    "recomputed": Recomputed,
    "convolutions": convolutions,
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind]()


def plain(model: nn.Module, *, steps: int = 4) -> nn.Module:
    """The same training in torch's own words."""
    from hvdkit.tasks import Classification

    model = model.double()
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.grad = torch.zeros_like(p)
    decayed = [{"params": [p], "weight_decay": 0.1 if p.dim() > 1 else 0.0} for p in trained]
    rule = torch.optim.SGD(decayed, lr=0.1, momentum=0.9)
    data = train_data(Classification(layout="nchw"))
    for ((batch,),) in zip(data.batches(start=0, stop=steps, replica=(0, 1)), strict=True):
        rule.zero_grad(set_to_none=False)
        outputs = model(torch.from_numpy(batch["image"]).double())
        nn.functional.cross_entropy(outputs, torch.from_numpy(batch["label"])).backward()
        rule.step()
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bucket_mb", [1e-6, 4.0], ids=["a bucket each", "one bucket"])
def test_training_is_plain_torchs(kind: str, bucket_mb: float) -> None:
    rule = SGD(lr=0.1, weight_decay=0.1)
    ours, theirs = made(kind), plain(made(kind))
    mine = adapter("torch", ours, precision="fp64", optimizer=rule, bucket_mb=bucket_mb)
    train(mine)
    expected = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)


class Doubling(SoloComm):
    """Reduces in place, as Horovod does: every sum is twice what came in."""

    def allreduce(self, x: Any, *, name: str, op: Any = "sum", group: Any = None) -> Handle:
        return Done(x.mul_(2) if name.startswith("bucket") else x)


class Sharing(nn.Module):
    """Parameters whose gradients are views of memory that autograd uses elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(PIXELS, 6), nn.Linear(6, 3)
        self.place = nn.Parameter(torch.zeros(6))
        self.a, self.b = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.enter(x.flatten(1)).sum(0, keepdim=True) + self.place.unsqueeze(0)
        return self.head(torch.tanh(one + (self.a.view(-1) + self.b.view(-1)))).expand(len(x), 3)


def test_a_gradient_that_shares_its_memory_is_not_reduced_in_place() -> None:
    torch.manual_seed(0)
    ours = Sharing().double()
    theirs = copy.deepcopy(ours)
    rule = SGD(lr=0.1, momentum=0.0)
    mine = adapter("torch", ours, precision="fp64", optimizer=rule, bucket_mb=1e-6, comm=Doubling())
    train(mine, stop=1)
    ((batch,),) = train_data(mine.task).batches(start=0, stop=1, replica=(0, 1))
    outputs = theirs(torch.from_numpy(batch["image"]).double())
    nn.functional.cross_entropy(outputs, torch.from_numpy(batch["label"])).backward()
    for mine_now, before in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert before.grad is not None
        torch.testing.assert_close(mine_now, before - 0.2 * before.grad)


@pytest.mark.parametrize("accumulate", [3, 8])
def test_microbatches_change_nothing(accumulate: int) -> None:
    whole, parts = (adapter("torch", made("shared"), precision="fp64") for _ in range(2))
    train(whole)
    train(parts, accumulate=accumulate)
    for name, array in arrays(whole).items():
        np.testing.assert_allclose(arrays(parts)[name], array, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_and_gradients_are_views_into_one_buffer_a_bucket(kind: str) -> None:
    model = made(kind)
    mine = adapter("torch", model)
    train(mine, stop=2)
    trained = [p for p in model.parameters() if p.requires_grad]
    for tensors in ([p.data for p in trained], [p.grad for p in trained]):
        places = set()
        for tensor in tensors:
            assert tensor is not None
            places.add(tensor.untyped_storage().data_ptr())
        assert len(places) == len(mine.strategy.buckets) == 1


def test_an_unused_parameter_has_a_zero_gradient_and_stays() -> None:
    model = made("unused")
    before = copy.deepcopy(model.idle.state_dict())
    train(adapter("torch", model))
    for name, parameter in model.idle.named_parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
        assert torch.equal(parameter, before[name])


def test_buckets_are_planned_anew_for_the_order_their_gradients_come_in() -> None:
    # One bucket holds all but what the middle layer has, if the model's order is gone by.
    cap = 1550 / 2**20
    mine, stays = (adapter("torch", made(k), bucket_mb=cap) for k in ("backwards", "tied"))
    planned = [each.strategy.buckets for each in (mine, stays)]
    for each in (mine, stays):
        train(each, stop=2)
    assert planned == [each.strategy.buckets for each in (mine, stays)]
    for each in (mine, stays):
        train(each, start=2, stop=4)
    layers = [{name.partition(".")[0] for name in b.names} for b in mine.strategy.buckets]
    assert [{"first", "last"}, {"middle"}] == [
        {name.partition(".")[0] for name in b.names} for b in planned[0]
    ]
    assert layers == [{"last", "middle", "first"}, {"first"}]
    assert mine.strategy.buckets[1].names == ("first.weight",)
    assert stays.strategy.buckets == planned[1]  # the model's own order will do


@pytest.mark.parametrize("kind", ["shared", "unused", "recomputed"])
def test_other_buckets_between_two_steps_change_nothing(kind: str) -> None:
    stays, changes = (adapter("torch", made(kind), optimizer=Adam(lr=0.01)) for _ in range(2))
    train(stays)
    train(changes, stop=2)
    changes.overlap = False
    changes.lay_out(changes.strategy.planned_with(bucket_mb=1e-6))
    train(changes, start=2)
    assert len(changes.strategy.buckets) > 1
    for name, array in arrays(stays).items():
        np.testing.assert_array_equal(arrays(changes)[name], array)


def test_an_order_is_not_learnt_where_that_is_turned_off() -> None:
    mine = adapter("torch", made("backwards"), bucket_mb=1550 / 2**20, learn_order=False)
    planned = mine.strategy.buckets
    train(mine)
    assert mine.strategy.buckets == planned


def test_a_gradient_whose_second_part_comes_too_late_is_refused() -> None:
    class Later(Recomputed):
        twofold = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.twofold else Shared.forward(self, x)

    model = Later()
    mine = adapter("torch", model, bucket_mb=1e-6)
    train(mine, stop=2)
    model.twofold = True
    with pytest.raises(HvdkitError, match=r"second part of the gradient of twice.*use_reentrant"):
        train(mine, start=2, stop=3)


def test_a_parameter_that_falls_out_of_use_has_no_gradient_left_over() -> None:
    class Skipping(Shared):
        skips = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.enter(x.flatten(1)))
            return self.head(x if self.skips else torch.tanh(self.twice(x)))

    model = Skipping()
    mine = adapter("torch", model, optimizer=SGD(lr=0.1, momentum=0.0))
    train(mine, stop=2)
    before = model.twice.weight.detach().clone()
    model.skips = True
    train(mine, start=2, stop=4)
    assert torch.equal(model.twice.weight, before)


def test_a_frozen_parameter_stays_and_is_saved() -> None:
    model = made("frozen")
    before = copy.deepcopy(model.enter.state_dict())
    mine = adapter("torch", model)
    train(mine)
    for name, parameter in model.enter.named_parameters():
        assert torch.equal(parameter, before[name])
        assert f"statistics/enter.{name}" in arrays(mine)
        assert f"optimizer/velocity/enter.{name}" not in arrays(mine)


def test_a_model_that_builds_itself_is_built_from_the_data() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(CLASSES))
    mine = adapter("torch", model)
    before = loss(mine)
    train(mine, stop=20)
    assert model[1].weight.shape == (5, PIXELS)
    assert loss(mine) < before


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(HvdkitError, match="no parameter with requires_grad"):
        adapter("torch", made("shared").requires_grad_(False))


class Dropped(Shared):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=self.training))


@pytest.mark.parametrize("rule", [SGD(lr=0.1), Adam(lr=0.01)], ids=["sgd", "adam"])
@pytest.mark.parametrize("make", [Dropped, convolutions])
def test_going_on_from_a_saved_state_gives_the_same_bits(make: Callable, rule: Any) -> None:
    whole, first, second = (adapter("torch", make(), optimizer=rule) for _ in range(3))
    whole.load_state(start := arrays(whole))
    first.load_state(start)
    train(whole, stop=6)
    train(first, stop=3)
    second.load_state(arrays(first))
    train(second, start=3, stop=6)
    assert second.weights_sha256() == whole.weights_sha256()
    for name, array in arrays(whole).items():
        np.testing.assert_array_equal(arrays(second)[name], array)


def test_afterwards_the_model_is_an_ordinary_one() -> None:
    model = made("shared")
    mine = adapter("torch", model)
    train(mine)
    mine.close()
    x = torch.randn(4, SHAPE[2], *SHAPE[:2])
    expected = copy.deepcopy(model)
    for module in (model, expected):
        module.zero_grad(set_to_none=True)
        module(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours.grad, theirs.grad)
