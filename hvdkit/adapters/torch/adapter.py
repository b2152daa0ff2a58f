"""A `torch.nn.Module` taking steps: flat buffers, and buckets that leave during backward.

Parameters of a bucket are views into one buffer, its gradients into another (`buffers.py` says
how they come there), and the collective works on that in place as soon as the last of them is
there. The optimizer runs over the buffers in cache-sized pieces.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, cast

import numpy as np
import torch

from hvdkit.adapters.base import Adapter
from hvdkit.adapters.streams import stream_words
from hvdkit.adapters.torch.buffers import Buffers, pieces, store_all, view
from hvdkit.adapters.torch.ops import TorchOps
from hvdkit.errors import HvdkitError
from hvdkit.gradients.buckets import ParamSpec
from hvdkit.optimizers import LayerwiseOptimizer
from hvdkit.strategies import Parameter

_log = logging.getLogger(__name__)
Compile = Literal["model", "blocks"]


class TorchAdapter(Adapter):
    """Train a `torch.nn.Module`. `device` is "cpu", "cuda", or "auto".

    `compile` hands the "model" to torch.compile, or each of its repeated "blocks" (the members
    of its `ModuleList`s and `Sequential`s) by itself. A compiled region gives all its gradients
    at once: with the whole model no communication is hidden behind the backward pass.

    Weights of embeddings made with `sparse=True` are tables: their gradients travel as rows.
    """

    framework = "torch"

    def __init__(self, *, device: str = "auto", compile: Compile | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self._compile = compile
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise HvdkitError(
                "framework.adapter.device=cuda, but torch sees no GPU here: use cpu or auto"
            )
        self.device = torch.device(device)
        self.ops = TorchOps(self.device)
        self._buffers: list[Buffers] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._statistics: list[torch.Tensor] | None = None
        self._waiting_tables: set[str] = set()  # whose gradient has not come in this pass
        self._launching = False
        self._arrived: list[str] | None = None  # whose gradient has come, in a step that learns

    # ---- setup ---------------------------------------------------------------------------

    def build(self, example):
        self.model.to(self.device, getattr(torch, self.dtype))
        if any(isinstance(p, torch.nn.UninitializedParameter) for p in self.model.parameters()):
            with torch.no_grad():
                self.model(*self.task.inputs(self._tensors(example)))
        self.model.train()
        if self._compile == "model":
            _log.info(
                "the whole model is compiled: its gradients come together when the backward pass "
                "ends, so that nothing hides the communication (compile=blocks keeps that)"
            )
            self.model.compile()
        elif self._compile == "blocks":
            for block in _blocks(self.model):
                block.compile()

    def parameters(self):
        tables = {
            id(module.weight)
            for module in self.model.modules()
            if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.sparse
        }
        trained = [
            Parameter(_spec(name, param), param, sparse=id(param) in tables)
            for name, param in self.model.named_parameters()
            if param.requires_grad
        ]
        if not trained:
            raise HvdkitError("the model has no parameter with requires_grad=True to train")
        frozen = [
            (name, param)
            for name, param in self.model.named_parameters()
            if not param.requires_grad
        ]
        fixed = [*frozen, *self._persistent_buffers()]
        return trained + [Parameter(_spec(name, x), x, trainable=False) for name, x in fixed]

    def _persistent_buffers(self):
        saved = self.model.state_dict(keep_vars=True)
        counters = {
            f"{name}.num_batches_tracked".lstrip(".")
            for name, module in self.model.named_modules()
            if getattr(module, "momentum", None) is not None
        }
        # Only a batch norm without momentum reads its counter; Keras's has none.
        return [
            (name, x)
            for name, x in self.model.named_buffers()
            if name in saved and name not in counters
        ]

    def statistics(self):
        if self._statistics is None:  # looked up once: it takes a walk through all modules
            self._statistics = [x for _, x in self._persistent_buffers()]
        return self._statistics

    def allocate(self):
        self._remove_hooks()
        self._buffers = []
        by_name = dict(self.model.named_parameters())
        for bucket in self.strategy.buckets:
            params = [by_name[name] for name in bucket.names]
            buffers = self._allocate_bucket(bucket, params)
            self._buffers.append(buffers)
            for name, param in zip(bucket.names, params, strict=True):
                hook = self._hook(buffers, name)
                self._hooks.append(param.register_post_accumulate_grad_hook(hook))
        for table in self.strategy.tables:
            hook = self._table_hook(table)
            self._hooks.append(table.variable.register_post_accumulate_grad_hook(hook))

    def _allocate_bucket(self, bucket, params):
        values = self.ops.zeros((bucket.size,), bucket.dtype)
        for i, param in enumerate(params):
            place = view(values, bucket, i)
            place.copy_(param.detach())
            param.data = place
        slots = {name: self._new_slot(name, values) for name in self.optimizer.slots}
        return Buffers(bucket, params, values, slots, self._decay(bucket, values))

    def _new_slot(self, name, values):
        start = self.optimizer.slot_start(name)
        return values.clone() if start == "parameter" else torch.full_like(values, start)

    def _decay(self, bucket, values):
        if not self.optimizer.weight_decay:
            return 0.0
        decay = torch.zeros_like(values)
        for i, spec in enumerate(bucket.params):
            if len(spec.shape) > 1:
                view(decay, bucket, i).fill_(self.optimizer.weight_decay)
        return decay

    # ---- the step ------------------------------------------------------------------------

    def run_step(self, microbatches, local, scalars, step):
        self._seed_step(step)
        self._arrived = [] if step == self.learns_at else None
        for buffers in self._buffers:
            buffers.begin()
        for table in self.strategy.tables:
            table.variable.grad = None
        batches = [self._tensors(batch) for batch in microbatches]
        agreed = self.step_body(batches, torch.from_numpy(local).to(self.device), scalars)
        return agreed.cpu().numpy()

    def _seed_step(self, step):
        # Not torch.manual_seed: without a GPU it formats a traceback for a later one, at
        # every call.
        stream = int.from_bytes(stream_words(self._seed, step, self.comm.rank).tobytes(), "little")
        torch.default_generator.manual_seed(stream)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(stream)

    def backward(self, batch, *, last):
        with self._autocast():
            outputs = self.model(*self.task.inputs(batch))
            loss = self.task.losses(self.ops, outputs, batch).sum()
        if last:
            self._launching = True
            self._waiting_tables = {table.spec.name for table in self.strategy.tables}
            for buffers in self._buffers:
                buffers.expect_all()
        (loss * self.loss_factor(loss)).backward()
        if last:
            self._launching = False
            self._launch_rest()
        return loss.detach()

    def _hook(self, buffers, name):
        def arrived(param):
            if not self._launching:
                return
            if self._arrived is not None:
                self._arrived.append(name)
            if buffers.came(param, name) and self.overlap:
                self.hand_over(buffers.bucket, buffers.gather())

        return arrived

    def arrivals(self):
        return list(dict.fromkeys(reversed(self._arrived or ())))[::-1]  # last come of each

    def _autocast(self):
        return torch.autocast(
            self.device.type,
            dtype=getattr(torch, self.compute_dtype or "bfloat16"),
            enabled=self.compute_dtype is not None,
        )

    def _table_hook(self, table):
        def arrived(_param):
            if self._launching:
                self._launch_table(table)

        return arrived

    def _launch_table(self, table):
        self._waiting_tables.discard(table.spec.name)
        grad = table.variable.grad
        if grad is None:  # the batch never looked at it
            rows = torch.zeros(0, dtype=torch.int64, device=self.device)
            values = table.variable.detach()[rows]
        elif not grad.is_sparse:
            raise HvdkitError(
                f"{table.spec.name} is a sparse embedding, but its gradient is dense: something "
                "else than looking rows up uses it; make it with sparse=False"
            )
        else:
            rows, values = grad._indices()[0], grad._values()
        self.strategy.rows_ready(table, rows, values)

    def _launch_rest(self):
        """Send what an unused parameter kept from being complete."""
        for table in self.strategy.tables:
            if table.spec.name in self._waiting_tables:
                self._launch_table(table)
        for buffers in self._buffers:
            if not buffers.left:
                self.hand_over(buffers.bucket, buffers.gather())
            buffers.end()

    @torch.no_grad()
    def update(self, bucket, gradient, scalars, multiplier):
        buffers = self._buffers[bucket.index]
        on_cpu = gradient.device.type == "cpu"
        factor = float(multiplier) if on_cpu else multiplier
        if self.optimizer.layerwise:
            rule = cast("LayerwiseOptimizer", self.optimizer)
            self._update_layerwise(rule, buffers, gradient.mul_(factor), scalars)
            return
        for here in pieces(bucket.size, on_cpu):
            if not on_cpu or factor != 1.0:
                gradient[here].mul_(factor)
            values, slots = buffers.values[here], buffers.slots_at(here)
            decay = buffers.decay if isinstance(buffers.decay, float) else buffers.decay[here]
            new = self.optimizer.update(self.ops, values, gradient[here], slots, scalars, decay)
            store_all(values, slots, new)
            buffers.used(gradient, here)

    def _update_layerwise(self, rule, buffers, gradient, scalars):
        """A rule that needs the norms of whole parameters, on pieces of each in turn."""
        bucket = buffers.bucket
        for spec, start in zip(bucket.params, bucket.offsets, strict=True):
            vector = len(spec.shape) < 2
            decay = 0.0 if vector else rule.weight_decay
            direction = torch.empty(spec.numel, dtype=gradient.dtype, device=gradient.device)
            places = list(pieces(spec.numel, gradient.device.type == "cpu"))
            for place in places:
                here = slice(start + place.start, start + place.stop)
                values, slots = buffers.values[here], buffers.slots_at(here)
                direction[place], new = rule.prepare(
                    self.ops, values, gradient[here], slots, scalars, decay
                )
                store_all(values, slots, (values, new))
            ratio = 1.0
            if not vector:
                norms = (buffers.values[start : start + spec.numel].norm(), direction.norm())
                ratio = rule.ratio(self.ops, *norms, decay)
            for place in places:
                here = slice(start + place.start, start + place.stop)
                values, slots = buffers.values[here], buffers.slots_at(here)
                new = rule.apply(self.ops, values, direction[place], slots, scalars, ratio, decay)
                store_all(values, slots, new)

    @torch.no_grad()
    def swap_buckets(self, slot):
        for buffers in self._buffers:
            kept = buffers.slots[slot]
            weights = buffers.values.clone()
            buffers.values.copy_(kept)
            kept.copy_(weights)

    @torch.no_grad()
    def evaluate(self, batch):
        self.model.eval()
        tensors = self._tensors(batch)
        with self._autocast():
            outputs = self.model(*self.task.inputs(tensors))
            sums = self.task.metrics(self.ops, outputs, tensors)
        self.model.train()
        return {name: value.cpu().numpy() for name, value in sums.items()}

    @property
    def threads(self):
        return torch.get_num_threads()

    def communication_seconds(self):
        return getattr(self.comm, "waited", 0.0)

    def _tensors(self, batch):
        return {key: self._tensor(value) for key, value in batch.items()}

    def _tensor(self, value):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        dtype = getattr(torch, self.dtype) if tensor.is_floating_point() else tensor.dtype
        return tensor.to(self.device, dtype, non_blocking=True)

    # ---- state ---------------------------------------------------------------------------

    def read_trainable(self):
        return {
            name: param.detach().cpu().numpy()
            for name, param in self.model.named_parameters()
            if param.requires_grad
        }

    def read_arrays(self):
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._places().items()}

    def write_parameters(self, arrays):
        places = self._places()
        with torch.no_grad():
            for name, array in arrays.items():
                places[name].copy_(torch.from_numpy(np.array(array)))

    def _places(self):
        """Every tensor of the state under its name in a checkpoint."""
        places = {
            f"{'params' if param.requires_grad else 'statistics'}/{name}": param
            for name, param in self.model.named_parameters()
        }
        places |= {f"statistics/{name}": x for name, x in self._persistent_buffers()}
        for buffers in self._buffers:
            for i, name in enumerate(buffers.bucket.names):
                for slot, flat in buffers.slots.items():
                    places[f"optimizer/{slot}/{name}"] = view(flat, buffers.bucket, i)
        for name, slots in self._table_slots.items():
            places |= {f"optimizer/{slot}/{name}": kept for slot, kept in slots.items()}
        return places

    def _remove_hooks(self):
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def close(self):
        self._remove_hooks()
        for module in self.model.modules():
            module._compiled_call_impl = None


def _spec(name, tensor):
    return ParamSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _blocks(model):
    """The repeated parts of a model: what its outermost lists of modules hold."""
    for child in model.children():
        if isinstance(child, torch.nn.ModuleList | torch.nn.Sequential):
            yield from child
        else:
            yield from _blocks(child)
