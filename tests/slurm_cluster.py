"""A real Slurm of two nodes on this machine, for tests: installs Debian's where it is missing, starts it, stops it.

python -m tests.slurm_cluster      starts one and a shell in it, to try `sbatch recipes/launch.slurm`
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
SLURM_CONF = """
ClusterName=groklab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/%n.spool
SlurmdPidFile={home}/%n.pid
SlurmdLogFile={home}/%n.log
SlurmctldPidFile={home}/slurmctld.pid
SlurmctldLogFile={home}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=15
JobRequeue=1
SlurmdTimeout=10
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=node1,node2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def _where(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """`install()`, `start()`, `stop()`; commands of Slurm through `run`."""

    def __init__(self) -> None:
        # Not below a folder that is closed to others, which munged would refuse.
        self.home = Path(tempfile.mkdtemp(prefix="groklab-slurm-"))
        self.home.chmod(0o755)
        self.environment = {**os.environ, "SLURM_CONF": str(self.home / "slurm.conf")}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def install() -> float:
        """Installs what is missing; returns the seconds it took."""
        began = time.monotonic()
        if not all(
            shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") for program in ("slurmctld", "munged")
        ):
            command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began

    def start(self) -> float:
        """Starts the servers and waits until both nodes are idle; returns the seconds it took."""
        began = time.monotonic()
        # As Ctrl-C: what uses the cluster then stops it, and no job outlives the tests.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        for name in ("state", "node1.spool", "node2.spool"):
            (self.home / name).mkdir()
        sockets = [socket.socket() for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        text = SLURM_CONF.format(host=platform.node(), home=self.home, ports=ports)
        (self.home / "slurm.conf").write_text(text)
        (self.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.home / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        places = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
        words = [f"--{name}={self.home / file}" for name, file in places.items()]
        self._serve("munged", "--foreground", "--force", f"--seed-file={self.home / 'munge.seed'}", *words)
        self._until(lambda: (self.home / "munge.socket").exists(), 10)
        self._serve("slurmctld", "-D", "-c")
        self.start_node("node1")
        self.start_node("node2")
        self._until(
            lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split() == ["idle"] * 2, 60
        )
        return time.monotonic() - began

    def start_node(self, name: str) -> None:
        self._serve("slurmd", "-D", "-N", name, name=name)

    def kill_node(self, name: str) -> None:
        """As if its power had gone: the server of the node, and all that runs on it."""
        server = self._servers.pop(name)
        server.kill()
        server.wait()
        self._kill(f"SLURMD_NODENAME={name}".encode())

    def _kill(self, variable: bytes) -> None:
        """Kills this cluster's processes that have a variable in their environment; all of them where none is given."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                told = (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = f"SLURM_CONF={self.home / 'slurm.conf'}".encode() in told
            if ours and (not variable or variable in told):
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), 9)

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        result = subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, timeout=60
        )
        assert not check or result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def state(self, job: str) -> str:
        """The job's state, such as RUNNING; of one that Slurm has forgotten, GONE."""
        said = self.run("scontrol", "show", "job", job, "--oneliner", check=False)
        return next((word.removeprefix("JobState=") for word in said.split() if word.startswith("JobState=")), "GONE")

    def wait(self, job: str, *states: str, seconds: float = 300) -> str:
        """Until the job is in one of the states, or at its end."""
        ends = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "GONE", *states}
        self._until(lambda: self.state(job) in (states or ends), seconds)
        return self.state(job)

    def stop(self) -> None:
        """Cancels every job, ends the servers, and then whatever is left of the jobs' processes."""
        jobs = self.run("squeue", "--noheader", "--format=%A", check=False).split()
        if jobs:
            self.run("scancel", *jobs, check=False)
            with suppress(TimeoutError):
                self._until(lambda: not self.run("squeue", "--noheader", check=False).strip(), 30)
        for server in reversed(self._servers.values()):
            server.terminate()
        for server in self._servers.values():
            server.wait(20)
        self._kill(b"")
        shutil.rmtree(self.home, ignore_errors=True)

    def _serve(self, program: str, *words: str, name: str = "") -> None:
        with open(self.home / f"{name or program}.out", "ab") as out:
            self._servers[name or program] = subprocess.Popen(
                [_where(program) or program, *words], env=self.environment, stdout=out, stderr=out
            )

    def _until(self, holds: object, seconds: float) -> None:
        assert callable(holds)
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                logs = [f"{path.name}: {path.read_text()[-800:]}" for path in self.home.glob("*.log")]
                raise TimeoutError("\n".join([*logs, *(path.read_text()[-800:] for path in self.home.glob("*.out"))]))
            time.sleep(0.3)  # each look is a process of Slurm's


if __name__ == "__main__":
    cluster = Cluster()
    print(f"installed in {cluster.install():.1f} s, started in {cluster.start():.1f} s", flush=True)
    try:
        sys.exit(subprocess.run([os.environ.get("SHELL", "bash")], env=cluster.environment).returncode)
    finally:
        cluster.stop()
