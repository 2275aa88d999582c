"""A real SLURM of two nodes on this machine, in a folder of its own, for as long as a test needs it.

    python tests/slow/slurm_cluster.py FOLDER      starts it, prints `sinfo`, stops it

slurmctld, two slurmd and a munged with a key of its own, no accounting. Each node has a GPU that is none (/dev/null). Jobs are
held to their memory by SLURM's own polling, so that neither cgroups nor a system manager are needed; to run as root is. The one
thing outside the folder is the link /etc/slurm/slurm.conf, because Snakemake's jobs do not inherit SLURM_CONF.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

CONF = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")
DAEMONS = ("slurmctld", "slurmd", "slurmstepd")
NODES = ("node1", "node2")
MARK = "XDIFF_TEST_CLUSTER"  # an environment variable by which everything that the cluster started is found
SETTINGS = """
ClusterName=xdiff
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
# what a container has, too
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# a job above its memory is killed when the next look finds it, every second
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
# finished jobs are remembered, which is where squeue finds that they ended
MinJobAge=3600
ReturnToService=2
JobRequeue=1
KillWait=2
UnkillableStepTimeout=30
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=16000 Gres=gpu:fake:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=16000 Gres=gpu:fake:1
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str:
    """Why no cluster can be started here, or nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {' '.join(absent)} on this machine (.ci/run installs slurm-wlm and munge where apt-get can)"
    if os.geteuid() != 0:
        return "a SLURM of our own must be started as root"
    if CONF.exists():  # not a link whose folder has gone
        return f"{CONF} exists: this machine has a SLURM of its own, or another test has"
    return ""


def run(*command: str | Path, timeout_s: float = 30) -> str:
    """Output of a command. Raises CalledProcessError, and TimeoutExpired."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout_s, check=True)
    return done.stdout


def wait_for(condition: Callable[[], object], what: str, timeout_s: float) -> object:
    """The first true value of `condition`. Raises TimeoutError that names what was waited for."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.3)
    raise TimeoutError(f"{what}: not within {timeout_s:g} s")


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # the daemons look for gres.conf beside the file that SLURM_CONF names
        self.environment = {**os.environ, MARK: str(folder), "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Raises TimeoutError where the nodes do not report for work."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            SETTINGS.format(folder=self.folder, host=socket.gethostname().split(".")[0], ports=_free_ports(3))
        )
        (self.folder / "gres.conf").write_text("Name=gpu Type=fake File=/dev/null\n")
        CONF.parent.mkdir(exist_ok=True)
        CONF.unlink(missing_ok=True)  # a link to nowhere
        CONF.symlink_to(self.folder / "slurm.conf")
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        self._start("munged", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self._start("slurmctld", "-c")
        for node in NODES:
            self._start("slurmd", "-N", node)
        wait_for(lambda: set(self.node_states().values()) == {"idle"}, f"two idle nodes, logs in {self.folder}", 60)

    def stop(self) -> None:
        """Ends all jobs and every process that the cluster started, and removes the link."""
        found = self.processes()
        for process in found:
            _kill(process)
        psutil.wait_procs(found, timeout=10)
        if CONF.is_symlink() and CONF.readlink() == self.folder / "slurm.conf":
            CONF.unlink()

    def _start(self, *command: str) -> None:
        """A daemon, which goes into the background by itself."""
        with (self.folder / "start.log").open("a") as log:
            done = subprocess.run(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(self.folder / 'start.log').read_text()}")

    def processes(self, node: str | None = None) -> list[psutil.Process]:
        """What the cluster started, of a node or all: daemons first, so that they cannot tell what becomes of the jobs."""
        found = [process for process in psutil.process_iter(["name"]) if self._is_ours(process, node)]
        return sorted(found, key=lambda process: process.info["name"] not in DAEMONS)

    def _is_ours(self, process: psutil.Process, node: str | None) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.name() == "slurmstepd":  # it writes over its environment; its log tells whose it is
                logs = [self.folder / f"slurmd-{name}.log" for name in NODES if node in (None, name)]
                return any(Path(file.path) in logs for file in process.open_files())
            environment = process.environ()
            if environment.get(MARK) != str(self.folder):
                return False
            return node is None or environment.get("SLURMD_NODENAME") == node or process.cmdline() == ["slurmd", "-N", node]
        except psutil.Error:
            return False

    def node_states(self) -> dict[str, str]:
        """Node -> `idle`, `mixed`, `down`, ...; empty while the controller does not answer."""
        try:
            lines = run("sinfo", "--noheader", "--Node", "--format=%N %T").split("\n")
        except subprocess.CalledProcessError:
            return {}
        return dict(line.split() for line in lines if line)

    def jobs(self, said: str) -> list[dict[str, str]]:
        """What the controller knows of the jobs, finished ones too, whose comment (Snakemake's rule and wildcards) has `said`, in
        order of submission."""
        lines = run("scontrol", "--oneliner", "--all", "show", "jobs").splitlines()
        jobs = [dict(re.findall(r"(\w[\w:/]*)=(\S*)", line)) for line in lines]
        return sorted((job for job in jobs if said in job.get("Comment", "")), key=lambda job: int(job["JobId"]))

    def break_node(self, node: str) -> None:
        """What a power cut does: everything on the node is gone at once, and the controller learns of it."""
        for process in self.processes(node):
            _kill(process)
        run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")

    def mend_node(self, node: str) -> None:
        self._start("slurmd", "-N", node)
        wait_for(lambda: self.node_states().get(node) in ("idle", "mixed", "allocated"), f"{node} back", 60)


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster in `folder`, which must be new; stopped at the end, whatever happens."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"error: {reason}")
    with cluster(Path(sys.argv[1]).resolve()) as started:
        print(run("sinfo", "--Node", "--long"))
        time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
