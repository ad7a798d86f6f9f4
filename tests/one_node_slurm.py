"""A SLURM of one node on this machine, started for a test and stopped after it.

Needs Debian's packages `slurm-wlm` and `munge`, no systemd, no cgroups and no root. Daemons, keys
and logs live in one temporary folder and listen on 127.0.0.1 alone; no configuration of the machine
is read or changed. Without a database for accounts, `squeue` tells how jobs ended. One GPU is
counted out to jobs that ask for it, though there is none.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONFIGURATION = """\
ClusterName=one-node
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MinJobAge=3600
KillWait=2
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 Gres=gpu:1
PartitionName=study Nodes=node1 Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there can be no SLURM on this machine, in one sentence."""


@contextmanager
def one_node_slurm() -> Iterator[dict[str, str]]:
    """Start the daemons, give the environment in which SLURM's commands find them, stop them.

    The node offers two CPUs and 16,000 MiB, whatever it has; jobs are not held to their limits.

    Raises:
        CannotStart: a program is not installed, or a daemon ends or does not answer.
    """
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        raise CannotStart(f"not installed: {', '.join(missing)} (Debian: slurm-wlm and munge)")
    with ExitStack() as stack:
        # Sockets have short paths, so the folder is not one of pytest's.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm")))
        folder.chmod(0o755)
        _configure(folder)
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        environment["PATH"] = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
        stack.enter_context(_daemon(_munged(folder), folder, environment))
        _wait(lambda: (folder / "munge.socket").exists(), "munged", folder)
        for name in ("slurmctld", "slurmd"):
            stack.enter_context(_daemon([_program(name), "-D"], folder, environment))
        _wait(lambda: "idle" in _answer(["sinfo", "-h", "-o", "%T"], environment), "SLURM", folder)
        stack.callback(_end_jobs, environment)
        yield environment


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _munged(folder: Path) -> list[str]:
    files = {"socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    files |= {"log-file": "munged.log", "key-file": "munge.key"}
    options = [f"--{option}={folder / name}" for option, name in files.items()]
    return [_program("munged"), "--foreground", "--force", "--num-threads=1", *options]


def _configure(folder: Path) -> None:
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    # Snakemake's step within a job takes SLURM_CONF away, as clusters have it in one known place.
    step = folder / "bin" / "srun"
    step.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    step.chmod(0o755)
    (folder / "gres.conf").write_text("NodeName=node1 Name=gpu Count=1 File=/dev/null\n")
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
    text = CONFIGURATION.format(folder=folder, host=host, user=user, **ports)
    (folder / "slurm.conf").write_text(text, encoding="utf-8")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


@contextmanager
def _daemon(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a daemon in the foreground; on exit it is asked to end, and killed if it does not."""
    name = Path(command[0]).name
    with (folder / f"{name}.out").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_jobs(environment: dict[str, str]) -> None:
    """Cancel what is left of the jobs, and wait until their processes are gone."""
    _answer(["scancel", "--user", pwd.getpwuid(os.getuid()).pw_name], environment)
    for _ in range(100):
        if not _answer(["squeue", "--noheader"], environment).strip():
            return
        time.sleep(0.2)


def _answer(command: Sequence[str], environment: dict[str, str]) -> str:
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return asked.stdout


def _wait(ready, what: str, folder: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            said = [path.read_text(errors="replace")[-500:] for path in folder.glob("*.[lo][ou]*")]
            raise CannotStart(f"{what} does not answer after {seconds:.0f} s:\n" + "\n".join(said))
        time.sleep(0.2)
