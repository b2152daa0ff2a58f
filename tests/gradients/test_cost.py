"""The cost model does what no cluster may contradict, whatever the numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.gradients.cost import Cluster, Link, Message, Work, buckets_of, predict

KINDS = ("allreduce", "reduce_scatter", "all_gather", "all_to_all")
links = st.builds(Link, st.floats(0, 1e-3), st.floats(1e6, 1e11))
sizes = st.floats(1, 1e9)


@st.composite
def clusters(draw):
    inside, hosts = draw(st.integers(1, 8)), draw(st.integers(1, 64))
    return Cluster(
        workers=inside * hosts,
        local_workers=inside,
        network=draw(links),
        local=draw(links),
        sum_rate=draw(st.sampled_from([math.inf, 1e9])),
        cycle=draw(st.floats(0, 0.01)),
    )


messages = st.builds(
    lambda ready, kind, size, encode, decode: Message(ready, ((kind, size),), encode, decode),
    st.floats(0, 1),
    st.sampled_from(KINDS),
    sizes,
    st.floats(0, 0.1),
    st.floats(0, 0.1),
)
works = st.builds(Work, st.floats(1, 2), st.floats(0, 1), st.lists(messages, max_size=6).map(tuple))
algorithms = st.sampled_from(["ring", "hierarchical"])


@given(works, clusters(), algorithms)
def test_one_worker_computes_and_nothing_else(work, cluster, algorithm):
    alone = predict(work, dataclasses.replace(cluster, workers=1), algorithm)
    assert alone.seconds == work.compute + work.update
    assert alone.efficiency == 1


@given(works, clusters(), algorithms)
def test_a_step_is_never_shorter_than_its_parts(work, cluster, algorithm):
    found = predict(work, cluster, algorithm)
    assert found.seconds >= work.seconds
    assert 0 < found.efficiency <= 1
    first = min((message.ready for message in work.messages), default=0.0)
    assert found.seconds >= first * (cluster.workers > 1) + found.wire_seconds + work.update - 1e-9
    extra = sum(m.encode + m.decode for m in work.messages) * (cluster.workers > 1)
    assert found.seconds == pytest.approx(work.seconds + found.exposed + extra)


@given(works, clusters(), algorithms, st.floats(1, 100))
def test_more_bandwidth_is_never_slower(work, cluster, algorithm, factor):
    faster = dataclasses.replace(
        cluster,
        network=Link(cluster.network.latency, factor * cluster.network.bandwidth),
        local=Link(cluster.local.latency, factor * cluster.local.bandwidth),
    )
    now, then = (predict(work, c, algorithm).seconds for c in (cluster, faster))
    assert then <= now * (1 + 1e-9)


@given(works, clusters(), algorithms, st.floats(0, 1))
def test_less_latency_is_never_slower(work, cluster, algorithm, factor):
    nearer = dataclasses.replace(
        cluster,
        network=Link(factor * cluster.network.latency, cluster.network.bandwidth),
        local=Link(factor * cluster.local.latency, cluster.local.bandwidth),
    )
    assert predict(work, nearer, algorithm).seconds <= predict(work, cluster, algorithm).seconds * (
        1 + 1e-9
    )


@given(clusters(), sizes)
def test_hierarchical_is_never_slower_than_a_ring_where_inner_links_are_free(cluster, size):
    free = dataclasses.replace(cluster, local=Link(0.0, math.inf), sum_rate=math.inf)
    ring, hierarchical = (free.seconds("allreduce", size, a) for a in ("ring", "hierarchical"))
    assert hierarchical <= ring * (1 + 1e-9)


@given(clusters(), sizes)
def test_one_worker_a_host_has_no_hierarchy(cluster, size):
    flat = dataclasses.replace(cluster, local_workers=1)
    assert flat.seconds("allreduce", size, "hierarchical") == pytest.approx(
        flat.seconds("allreduce", size, "ring")
    )


@given(links, sizes, st.integers(2, 512))
def test_a_ring_moves_the_least_there_is_to_move(link, size, workers):
    """Patarasuk & Yuan: 2 (p - 1) / p of the buffer, at 2 (p - 1) latencies."""
    cluster = Cluster(workers=workers, network=link)
    share = 2 * (workers - 1) / workers
    expected = 2 * (workers - 1) * link.latency + share * size / link.bandwidth
    assert cluster.seconds("allreduce", size) == pytest.approx(expected)


@given(clusters(), sizes, algorithms)
def test_scatter_and_gather_make_an_allreduce(cluster, size, algorithm):
    flat = dataclasses.replace(cluster, local_workers=1, sum_rate=math.inf)
    two = flat.seconds("reduce_scatter", size, algorithm)
    two += flat.seconds("all_gather", size / flat.workers, algorithm)
    assert two == pytest.approx(flat.seconds("allreduce", size, algorithm))


def test_messages_that_are_ready_early_hide_behind_the_backward_pass():
    link = Link(0.0, 1e9)
    cluster = Cluster(workers=2, network=link, cycle=0.0)
    early = Work(1.0, 0.1, (Message(0.1, (("allreduce", 0.5e9),)),))
    late = Work(1.0, 0.1, (Message(1.0, (("allreduce", 0.5e9),)),))
    assert predict(early, cluster).seconds == pytest.approx(1.1)
    assert predict(late, cluster).seconds == pytest.approx(1.6)
    assert predict(late, cluster).exposed == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1), st.floats(1, 300))
def test_grouping_loses_no_byte_and_sends_none_early(layers, cap):
    grouped = buckets_of(layers, cap)
    assert sum(n for _, n in grouped) == pytest.approx(sum(n for _, n in layers))
    assert max(r for r, _ in grouped) == max(r for r, _ in layers)
    assert all(n <= max(cap, max(n for _, n in layers)) + 1e-6 for _, n in grouped)


def test_hosts_that_are_not_full_are_refused():
    with pytest.raises(ValueError, match="whole hosts"):
        Cluster(workers=10, local_workers=4, network=Link(0.0, 1e9))
    assert Cluster(workers=3, local_workers=4, network=Link(0.0, 1e9)).hosts == 1
