"""Processes find each other, or say in a line whom they miss; each knows its GPUs."""

import os
import socket
import subprocess
import sys
import threading

import jax
import pytest

from quantjax.run import connection, devices
from tests import programs

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


@pytest.mark.parametrize(
    ("environment", "due"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_NTASKS": "4"}, False),  # inside sbatch, not yet a step of it
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "x"}, False),
        ({"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_launchers_are_known_by_what_they_set(environment, due):
    assert connection.in_a_cluster(environment) is due


@pytest.mark.parametrize(
    ("environment", "due"),
    [
        ({}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x16)"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1(x3)"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "JAX_LOCAL_DEVICE_IDS": "0,1"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": "3"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": UUID}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": f"{UUID},{UUID}0"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": "MIG-0a1b2c3d"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, False),
    ],
)
def test_it_is_known_whether_all_gpus_are_a_processs_own(environment, due):
    assert connection.has_all_gpus(environment) is due


@pytest.mark.parametrize(
    ("tasks", "by_hand", "due"),
    [("1(x2)", False, "all"), ("2", False, "0"), ("2", True, "all")],
    ids=["alone on its host", "one of two", "by hand"],
)
@pytest.mark.by_default("alone*", "one*")
def test_a_task_sees_all_gpus_of_its_host_or_its_own_of_several(tasks, by_hand, due):
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "1",  # nobody else comes
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    port = programs.free_port()
    place = f"coordinator='localhost:{port}', num_processes=1, process_id=0"
    program = (
        "import jax; from quantjax.run import connection; "
        f"connection.start({place if by_hand else ''}); "
        "print(jax.config.values['jax_cuda_visible_devices'])"
    )
    variables = {"SLURM_STEP_TASKS_PER_NODE": tasks, "JAX_COORDINATOR_PORT": str(port)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=programs.ROOT,
        env={**os.environ, **slurm, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout.strip() == due


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "a:1"}, "go together; missing: num_processes, process_id"),
        (
            {"coordinator": "a", "num_processes": 2, "process_id": 0},
            "coordinator must be HOST:PORT of process 0, got 'a'",
        ),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "process_id must lie in 0 to num_processes - 1 = 1, got 2",
        ),
        (
            {"coordinator": "a:1", "num_processes": 0, "process_id": 0},
            "num_processes must be 1 or more, got 0",
        ),
        (
            {"coordinator": "a:99999", "num_processes": 2, "process_id": 0},
            "coordinator must be HOST:PORT of process 0, got 'a:99999'",
        ),
        (
            {"coordinator": "nowhere.invalid:1234", "num_processes": 2, "process_id": 1},
            r"the coordinator's name 'nowhere.invalid' is unknown \(.*\); give HOST:PORT",
        ),
        (
            {"coordinator": "192.0.2.1:1234", "num_processes": 2, "process_id": 0},
            r"process 0 cannot listen at 192.0.2.1:1234 \(.*\); run it on that host",
        ),
        ({"start_timeout": 0}, "start_timeout must be 1 or more, got 0"),
    ],
)
def test_a_wrong_start_by_hand_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        connection.start(**arguments)


def test_a_port_in_use_is_refused_ahead_of_jax():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"Address already in use.*take a port that is free"):
            connection.start(coordinator=address, num_processes=2, process_id=0)


class Slow:
    """Stands in for the clock and for JAX's wait, which here lasts until it is released."""

    def __init__(self, monkeypatch):
        self.released, self.seconds, self.options = threading.Event(), 0.0, None
        monkeypatch.setattr(jax.distributed, "initialize", self.initialize)
        monkeypatch.setattr(connection.time, "monotonic", self.now)
        monkeypatch.setattr(connection, "_CHECKED_EVERY", 0.001)

    def initialize(self, **options):
        self.options = options
        assert self.released.wait(60)

    def now(self):
        self.seconds += 10
        if self.seconds > 120:
            self.released.set()
        return self.seconds


def waited(monkeypatch, capsys, **options):
    """What a process says while it waits: its options for JAX, and the lines."""
    slow = Slow(monkeypatch)
    connection.start(**options)
    return slow.options, capsys.readouterr().out.splitlines()


def test_whom_a_process_waits_for_is_said_every_half_minute(monkeypatch, capsys):
    address = f"127.0.0.1:{programs.free_port()}"
    by_hand = {"coordinator": address, "num_processes": 3}
    found, lines = waited(monkeypatch, capsys, **by_hand, process_id=0)
    assert found["coordinator_bind_address"] == address
    due = f"not all of the other 2 have connected to {address}"
    assert lines[:3] == [f"{seconds} s of 300 s: {due}" for seconds in (30, 60, 90)]
    _, lines = waited(monkeypatch, capsys, **by_hand, process_id=1)
    assert lines[0].startswith(f"30 s of 300 s: process 0 does not answer at {address} (")
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        _, lines = waited(monkeypatch, capsys, **by_hand, process_id=1)
    assert lines[0].startswith(f"30 s of 300 s: process 0 answers at {address}, but not all")
    _, lines = waited(monkeypatch, capsys, detect=True)
    assert lines[0] == "30 s of 300 s: not all processes of the cluster have started"


def test_a_name_that_no_other_host_can_reach_is_said(monkeypatch, capsys):
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 1))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: loopback)
    monkeypatch.setattr(socket, "create_server", lambda *_, **__: socket.socket())
    by_hand = {"coordinator": "node0:1", "num_processes": 2, "process_id": 0}
    _, lines = waited(monkeypatch, capsys, **by_hand)
    assert "(127.0.1.1 here, which no other host can reach: name another address)" in lines[0]


def test_a_start_ends_in_a_line_and_is_known_to_be_unfinished(monkeypatch, capsys):
    slow = Slow(monkeypatch)
    with pytest.raises(ValueError, match=r"did not find each other in 50 s: .*raise start_timeout"):
        connection.start(detect=True, start_timeout=50)
    assert slow.options["initialization_timeout"] > 50  # JAX would abort
    assert connection.unfinished()
    slow.released.set()
    for thread in threading.enumerate():
        if thread.name == "connect":
            thread.join()
    assert not connection.unfinished()


def test_no_cluster_is_one_line_that_says_what_to_do():
    # In a process of its own, since JAX is at work in this one; and with JAX's real words.
    program = "from quantjax.run import connection; connection.start(detect=True)"
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "PYTHONPATH": str(programs.ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert "InputError: JAX recognises no cluster here (in Kuber" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("visible", "chosen", "due"),
    [
        (None, "all", "all GPUs"),
        (None, "3", "GPU 3"),
        ("4,5", "all", "GPUs 4, 5"),
        ("4,5", "1", "GPU 5"),
        (f"GPU-a,{UUID}", "1", f"GPU {UUID}"),
        (UUID, "all", f"GPU {UUID}"),
        ("", "all", "no GPU"),
    ],
)
def test_the_gpus_of_a_process_are_named(visible, chosen, due):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert connection.own_gpus(environment, chosen) == due


def test_a_process_without_a_gpu_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"process 2 of this host has no GPU of its own: .* 2;"):
        connection.own_gpus({"CUDA_VISIBLE_DEVICES": f"0,{UUID}"}, "2")


H100 = "NVIDIA H100"


@pytest.mark.parametrize(
    ("places", "due"),
    [
        ([("vm", ["cpu"] * 8, None)], ["1 process on vm; 8 x cpu; float32; batch 64, 8 on each"]),
        (
            [("a", [H100] * 4, "all GPUs"), ("b", [H100] * 4, "all GPUs")],
            ["2 processes on a, b; 8 x NVIDIA H100; float32; batch 64, 8 on each"],
        ),
        (
            [("a", [H100], "GPU 0"), ("a", ["A100"], "GPU 1")],
            [
                "2 processes on a; 1 x NVIDIA H100, 1 x A100; float32; batch 64, 32 on each",
                "a: process 0 takes GPU 0, process 1 takes GPU 1",
            ],
        ),
        (
            [(host, ["A100"], "GPU 0") for host in "abcde"],
            ["5 processes on a, b, c and 2 more hosts; 5 x A100; float32; batch 65, 13 on each"],
        ),
    ],
)
def test_the_start_says_processes_devices_and_batch(places, due):
    batch_size = 65 if len(places) == 5 else 64
    places = [
        {"host": host, "kinds": kinds, **({} if gpus is None else {"gpus": gpus})}
        for host, kinds, gpus in places
    ]
    assert devices.in_words(places, batch_size, "float32") == due


def test_no_device_is_one_line(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match="no device of cpu: Unable to initialize backend 'tpu';"):
        devices.check()
