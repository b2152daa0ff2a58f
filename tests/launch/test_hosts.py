"""Hosts and slots, in every way that they are written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.errors import HvdkitError
from hvdkit.launch import hosts
from hvdkit.launch.hosts import (
    Host,
    expand_counts,
    expand_nodes,
    parse_hosts,
    read_hostfile,
    scheduled_hosts,
    take_slots,
)

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
host_lists = st.lists(st.builds(Host, names, st.integers(1, 16)), min_size=1, max_size=6).map(
    lambda found: tuple({host.name: host for host in found}.values())
)


@given(host_lists)
def test_a_list_reads_as_it_was_written(found):
    assert parse_hosts(",".join(map(str, found))) == found


@given(host_lists, st.data())
def test_a_job_takes_its_slots_in_order_and_no_more(found, data):
    total = sum(host.slots for host in found)
    ranks = data.draw(st.integers(1, total))
    taken = take_slots(found, ranks)
    assert sum(host.slots for host in taken) == ranks
    assert [host.name for host in taken] == [host.name for host in found][: len(taken)]
    full = taken[:-1]
    assert full == found[: len(full)], "every host but the last is filled"
    with pytest.raises(HvdkitError, match="do not fit"):
        take_slots(found, total + 1)


def test_a_host_may_come_twice_or_without_a_number():
    assert parse_hosts("a,b:2, a:3") == (Host("a", 4), Host("b", 2))


WRONG = ["", ",", "a:", "a:0", "a:-1", "a:x", "-oProxyCommand=x:1", "a b:1"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_host_list_is_refused(text):
    with pytest.raises(HvdkitError, match="NAME:SLOTS"):
        parse_hosts(text)


def test_a_hostfile_in_either_form(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# the cluster\na slots=4 max_slots=8\n\nb:2 # the old one\nc\n")
    assert read_hostfile(file) == (Host("a", 4), Host("b", 2), Host("c", 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a slots=4\nb slot=2\n", "'slot=2' in line 2"),
        ("a slots=zero\n", "'slots=zero' in line 1"),
        ("a:x\n", "'a:x' in line 1"),
        ("@group\n", "'@group' in line 1"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_wrong_hostfile_is_refused_by_line(tmp_path, text, said):
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(HvdkitError) as caught:
        read_hostfile(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_hostfile_that_is_not_there(tmp_path):
    with pytest.raises(HvdkitError, match="cannot be read"):
        read_hostfile(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12],login", ["n08", "n09", "n10", "n12", "login"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
    ],
)
def test_slurms_short_names_in_full(text, expected):
    assert expand_nodes(text) == expected


def test_slurms_counts_in_full():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]


@pytest.mark.parametrize("text", ["n[1-", "n[a-b]", "n[1-2-3]"])
def test_a_node_list_that_cannot_be_read_is_quoted(text):
    with pytest.raises(HvdkitError, match="Slurm's node list"):
        expand_nodes(text)


def test_slurm_says_the_hosts():
    environ = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "4,2"}
    assert scheduled_hosts(environ) == (Host("n1", 4), Host("n2", 2))
    with pytest.raises(HvdkitError, match="2 nodes"):
        scheduled_hosts({**environ, "SLURM_TASKS_PER_NODE": "4"})


def test_the_operators_hostfile_is_found(tmp_path, monkeypatch):
    file = tmp_path / "hostfile"
    monkeypatch.setattr(hosts, "MPI_OPERATOR_HOSTFILE", file)
    assert scheduled_hosts({}) == ()
    file.write_text("train-worker-0.train slots=2\ntrain-worker-1.train slots=2\n")
    assert scheduled_hosts({}) == (Host("train-worker-0.train", 2), Host("train-worker-1.train", 2))
