"""Containers on hosts of their own, over ssh: as the MPI operator starts them, and by hand."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.namespaces import Host, hosts
from tests.image.test_cpu_image import Run, summary

pytestmark = pytest.mark.system("ip", "tc", "unshare", "nsenter", "ssh", "sshd", "ssh-keygen")


@pytest.fixture(scope="module")
def three() -> Iterator[list[Host]]:
    with hosts(3) as made:
        yield made


@pytest.fixture
def names(three: Sequence[Host], tmp_path: Path) -> Path:
    """An /etc/hosts that knows them all."""
    path = tmp_path / "hosts"
    lines = [f"{host.address} {host.name}" for host in three]
    path.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    return path


def make_key(folder: Path, kind: str, *, owner: int, mode: int) -> Path:
    """A deployment's key, alone in a folder."""
    folder.mkdir()
    private = folder / f"id_{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", private], check=True)
    folder.chmod(0o755)
    for path in (private, private.with_suffix(".pub")):
        path.chmod(mode)
    subprocess.run(["chown", "--recursive", f"{owner}:0", folder], check=True)
    return folder


def test_an_mpijob_trains_and_is_stopped(
    run: Run, three: Sequence[Host], names: Path, tmp_path: Path
) -> None:
    """A launcher and two workers, with the secret and the hostfile as the operator makes them."""
    secret = make_key(tmp_path / "secret", "rsa", owner=0, mode=0o644)
    (secret / "authorized_keys").write_bytes((secret / "id_rsa.pub").read_bytes())
    config = tmp_path / "config"
    config.mkdir()
    (config / "hostfile").write_text("host1 slots=1\nhost2 slots=1\n")
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(0o777)
    volumes = {secret: "/home/hvdkit/.ssh", names: "/etc/hosts", runs: "/workspace/runs"}
    launch = (
        *("hvdkit", "launch", "--wait-for-hosts", "60", "recipes/vision.py"),
        *("hydra.run.dir=/workspace/runs/digits", "trainer.log_every=10", "trainer.resume=true"),
    )
    launcher = {"host": three[0], "volumes": {**volumes, config: "/etc/mpi"}}
    # Not yet there when the launcher looks for them, as pods often are not.
    first = run(*launch, "trainer.num_epochs=1000", **launcher)
    for host in three[1:]:
        run("sshd", host=host, volumes=volumes)
    first.wait_for("step 20", 180)
    first.first.terminate()
    assert first.wait(30) == 143, first.output
    told = summary(runs / "digits")
    assert (told["status"], told["world_size"]) == ("interrupted", 2)
    more = (f"trainer.num_steps={told['steps'] + 5}", "trainer.num_epochs=null")
    second = run(*launch, *more, **launcher)
    assert second.wait(180) == 0, second.output
    told = summary(runs / "digits")
    assert (told["status"], told["world_size"]) == ("completed", 2)


def test_ssh_as_any_user_id_reaches_only_holders_of_the_key(
    run: Run, three: Sequence[Host], names: Path, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", "ed25519", owner=54321, mode=0o600)
    other_key = make_key(tmp_path / "other", "ed25519", owner=54321, mode=0o600)
    mine = {"uid": 54321, "volumes": {key: "/home/hvdkit/.ssh", names: "/etc/hosts"}}
    run("sshd", host=three[1], **mine).wait_for("listening on 0.0.0.0 port 2222", 30)
    stranger = {"uid": 54321, "volumes": {other_key: "/home/hvdkit/.ssh", names: "/etc/hosts"}}
    run("sshd", host=three[2], **stranger).wait_for("listening on 0.0.0.0 port 2222", 30)
    # The other side has the image's environment, though sshd starts from an empty one.
    command = 'id --user; command -v orted hvdkit; echo "$OPAL_PREFIX"'
    told = run("ssh", "host1", command, host=three[0], **mine)
    assert told.wait(90) == 0, told.output
    assert told.output.splitlines() == [
        *("54321", "/opt/hvdkit/bin/orted", "/opt/hvdkit/bin/hvdkit", "/opt/hvdkit")
    ]
    refused = run("ssh", "host2", "true", host=three[0], **mine)
    assert refused.wait(60) == 255
    assert "verification failed" in refused.output
    intruder = run(
        *("ssh", "-o", "StrictHostKeyChecking=no", "host1", "true"), host=three[0], **stranger
    )
    assert intruder.wait(60) == 255
    assert "Permission denied" in intruder.output


def test_sshd_without_a_key_says_what_to_mount(run: Run) -> None:
    container = run("sshd")
    assert container.wait(20) == 1
    assert "ssh-keygen" in container.output
