"""One rank of one TensorFlow contender: python worker_tensorflow.py CONTENDER MODEL STEPS OUT.

Every contender has one compute thread, the same weights at the start, the same batches a
rank and the same rule (SGD with momentum), in one tf.function. step.py starts it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from models_keras import MAKERS
from workload import MODELS, MOMENTUM, Contender, batches, measure, rank_and_size


def _make(name):
    keras.utils.set_random_seed(0)
    model = MAKERS[name]()
    optimizer = keras.optimizers.SGD(MODELS[name].lr, momentum=MOMENTUM)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def _limit_threads():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _tensors(name, rank):
    return [
        (tf.constant(batch["image"]), tf.constant(batch["label"]))
        for batch in batches(MODELS[name], rank)
    ]


def _loss(model, image, label):
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(label, model(image, training=True))
    )


def _contender(name, rank, model, train, barrier) -> Contender:
    data = _tensors(name, rank)
    losses = []

    def step(i):
        losses.append(train(*data[i % len(data)]).numpy())  # waits, as hvdkit's step does

    def mean_loss():
        mean = float(np.mean(losses))
        losses.clear()
        return mean

    return Contender(
        step, barrier, mean_loss, lambda: [v.numpy() for v in model.trainable_variables]
    )


def single(name: str) -> Contender:
    """One process alone, no communication: the limit."""
    _limit_threads()
    model, optimizer = _make(name)

    @tf.function
    def train(image, label):
        with tf.GradientTape() as tape:
            loss = _loss(model, image, label)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return _contender(name, 0, model, train, lambda: None)


def horovod(name: str) -> Contender:
    """hvd.DistributedGradientTape with its defaults."""
    import horovod.tensorflow as hvd

    _limit_threads()
    hvd.init()
    model, optimizer = _make(name)
    hvd.broadcast_variables([v.value for v in model.variables], root_rank=0)

    @tf.function
    def train(image, label):
        with hvd.DistributedGradientTape(tf.GradientTape()) as tape:
            loss = _loss(model, image, label)
        values = [v.value for v in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, values), model.trainable_variables)
        return loss

    def barrier():  # its module for TensorFlow has none
        hvd.allreduce(tf.ones(()), name="barrier")

    return _contender(name, hvd.rank(), model, train, barrier)


def mwms(name: str) -> Contender:
    """tf.distribute.MultiWorkerMirroredStrategy with its ring."""
    rank, size = rank_and_size()
    _limit_threads()
    ring = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.RING
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=ring)
    with strategy.scope():
        model, optimizer = _make(name)

    def replica(image, label):
        with tf.GradientTape() as tape:
            loss = _loss(model, image, label)
            share = loss / size  # Keras sums gradients over replicas
        gradients = tape.gradient(share, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def train(image, label):
        return strategy.run(replica, args=(image, label))

    @tf.function
    def meet():
        def one():
            return tf.distribute.get_replica_context().all_reduce("sum", tf.ones(()))

        return strategy.run(one)

    return _contender(name, rank, model, train, lambda: meet().numpy())


def hvdkit(name: str) -> Contender:
    """The call that hvdkit's trainer makes every step, with hvdkit's defaults."""
    from hvdkit.adapters import start
    from hvdkit.adapters.tensorflow import TensorFlowAdapter
    from hvdkit.gradients.compression import NoCompression
    from hvdkit.optimizers import SGD
    from hvdkit.strategies import AllReduce
    from hvdkit.tasks import Classification

    comm = start("tensorflow", threads=1)
    model, _ = _make(name)
    adapter = TensorFlowAdapter(
        model=model,
        task=Classification(layout="nhwc"),
        optimizer=SGD(lr=MODELS[name].lr, momentum=MOMENTUM),
        strategy=AllReduce(compression=NoCompression()),
        comm=comm,
    )
    data = batches(MODELS[name], comm.rank)
    adapter.setup(seed=0, reference_count=MODELS[name].batch * comm.size, example=data[0])

    def step(i):
        adapter.train_step([data[i % len(data)]], step=i, lr=MODELS[name].lr)

    def mean_loss():
        total, count = adapter.totals
        adapter.totals = (0.0, 0.0)
        return total / count

    return Contender(
        step, comm.barrier, mean_loss, lambda: [v.numpy() for v in model.trainable_variables]
    )


CONTENDERS = {"single": single, "mwms": mwms, "horovod": horovod, "hvdkit": hvdkit}


def main(contender: str, name: str, steps: str, out: str) -> None:
    measure(CONTENDERS[contender](name), steps=int(steps), out=Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
