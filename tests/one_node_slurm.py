"""A SLURM of one node on this machine, started for a test and stopped after it.

Needs Debian's packages `slurm-wlm` and `munge`, no systemd, no cgroups and no root. Daemons, keys
and logs live in one temporary folder and listen on 127.0.0.1 alone; no configuration of the machine
is read or changed. Without a database for accounts, `squeue` tells how jobs ended. Two CPUs and
16,000 MiB are counted out to jobs that ask for them, whatever there is.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
HERE = ("127.0.0.1", 0)  # at any free port
QUIET = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
CONFIGURATION = """\
ClusterName=one-node
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
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
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=study Nodes=node1 Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """Why there can be no SLURM on this machine, in one sentence."""


@contextmanager
def one_node_slurm() -> Iterator[dict[str, str]]:
    """Start the daemons, give the environment in which SLURM's commands find them, stop them.

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
        files = {"socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        files |= {"log-file": "munged.log", "key-file": "munge.key"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        munged = ["munged", "--foreground", "--force", "--num-threads=1", *options]
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            command[0] = _program(command[0])
            daemon = subprocess.Popen(command, env=environment, **QUIET)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            if command is munged:
                _wait((folder / "munge.socket").exists, folder)
        _wait(lambda: "idle" in _answer(environment, "sinfo", "-h", "-o", "%T"), folder)
        stack.callback(_end_jobs, environment, folder)
        yield environment


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


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
    settings = {"folder": folder, "user": pwd.getpwuid(os.getuid()).pw_name}
    settings["host"] = socket.gethostname().partition(".")[0]
    with socket.create_server(HERE) as one, socket.create_server(HERE) as other:
        settings |= {"controller_port": one.getsockname()[1], "node_port": other.getsockname()[1]}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**settings), encoding="utf-8")


def _end_jobs(environment: dict[str, str], folder: Path) -> None:
    """Cancel what is left of the jobs, and wait until their processes are gone."""
    _answer(environment, "scancel", "--user", pwd.getpwuid(os.getuid()).pw_name)
    _wait(lambda: not _answer(environment, "squeue", "--noheader").strip(), folder)


def _answer(environment: dict[str, str], *command: str) -> str:
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return asked.stdout


def _wait(ready, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            said = [path.read_text(errors="replace")[-500:] for path in folder.glob("*.log")]
            raise CannotStart("no answer after 60 s:\n" + "\n".join(said))
        time.sleep(0.2)
