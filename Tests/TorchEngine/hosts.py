"""An sshd of the tests' own on loopback, a link that can be cut, and stand-ins for SLURM's commands."""

from __future__ import annotations

import getpass
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A real sshd for this user alone, with keys of its own."""

    def __init__(self, folder: pathlib.Path, **environment: str):
        folder.mkdir()
        folder.chmod(0o700)
        self.folder, self.port = folder, free_port()
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        shutil.copy(folder / "user.pub", folder / "authorized")
        if os.geteuid() == 0:
            # As root, sshd wants a folder that the system's service would make.
            os.makedirs("/run/sshd", exist_ok=True)
        settings = " ".join(f'{key}="{value}"' for key, value in environment.items())
        (folder / "config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n"
            f"PermitRootLogin yes\nMaxStartups 100\nSetEnv {settings}\n"
        )
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "config")], stderr=self.log)
        self.proxy = Proxy(self.port)
        self.know(folder / "host.pub")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)

    def know(self, key: pathlib.Path) -> None:
        """Notes a key as that of the host."""
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.proxy.port} {key.read_text()}")

    @property
    def options(self) -> list[str]:
        """Options of ssh that lead here."""
        return [
            "-F", "/dev/null", "-p", str(self.proxy.port), "-i", f"{self.folder}/user", "-oIdentitiesOnly=yes",
            f"-oUserKnownHostsFile={self.folder}/known", "-oGlobalKnownHostsFile=/dev/null",
        ]

    @property
    def destination(self) -> str:
        """The host as ssh takes it."""
        return f"{getpass.getuser()}@127.0.0.1"

    def close(self) -> None:
        """Ends the server."""
        self.proxy.cut(forever=True)
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Proxy:
    """A cable between ssh and sshd that can be pulled."""

    def __init__(self, port: int):
        self.target, self.is_down = port, False
        self.sockets: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_down:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            with self.lock:
                self.sockets |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(1 << 16):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self, forever: bool = False) -> None:
        """Pulls the cable: all connections end; new ones, too, until `restore`."""
        self.is_down = True
        with self.lock:
            doomed, self.sockets = self.sockets, set()
        for end in doomed:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
        if forever:
            self.listener.close()

    def restore(self) -> None:
        """Puts the cable back."""
        self.is_down = False


SLURM = '''#!{python}
"""Stand-ins for the commands of SLURM: one job at a time, with its state in files of a folder."""
import json, os, pathlib, shlex, signal, subprocess, sys

here = pathlib.Path({folder!r})
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
(here / "calls").open("a").write(json.dumps([name, *words]) + "\\n")


def state(new=None):
    path = here / "state"
    if new is not None:
        (here / "state.new").write_text(new)
        os.replace(here / "state.new", path)
    return path.read_text() if path.exists() else ""


if name == "sbatch":
    assert words[0] == "--parsable", words
    (here / "script").write_text(pathlib.Path(words[1]).read_text())
    for line in (here / "script").read_text().splitlines():
        if line.startswith("#SBATCH") and len(shlex.split(line)) != 2:
            sys.exit(f"sbatch: fatal: {line}: expected one option")
    state("PENDING|Priority")
    print("4711;cluster")
elif name in ("squeue", "sacct") and (here / "deaf").exists():
    sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
elif name == "squeue":
    if "-n" in words:
        print("4711" if state().partition("|")[0] in ("PENDING", "RUNNING") else "")
    elif state().partition("|")[0] in ("PENDING", "RUNNING", "CONFIGURING"):
        print(state())
    else:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
elif name == "sacct":
    if (here / "unaccounted").exists():
        sys.exit("Slurm accounting storage is disabled")
    print(state())
elif name == "scancel":
    pid = here / "pid"
    if pid.exists():
        number = signal.SIGKILL if "--signal=KILL" in words else signal.SIGTERM
        os.killpg(int(pid.read_text()), number)
    state("CANCELLED by 1000|0:15")
elif name == "scontrol":
    if words[0] == "requeue":
        (here / "requeued").touch()
    else:
        print("127.0.0.1")
elif name == "srun":
    tasks, processes = int(os.environ["SLURM_NTASKS"]), []
    for rank in range(tasks):
        own = dict(os.environ, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_STEP_ID="0",
                   SLURM_STEP_NUM_TASKS=str(tasks), SLURM_STEP_NODELIST="127.0.0.1")
        processes.append(subprocess.Popen(words, env=own))
    signal.signal(signal.SIGUSR1, lambda *_: [p.send_signal(signal.SIGUSR1) for p in processes])
    codes = [p.wait() for p in processes]
    sys.exit(max(c if c >= 0 else 128 - c for c in codes))
'''


class Slurm:
    """SLURM's commands in a folder for the PATH, and the scheduler, which the test plays."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun"):
            path = folder / "bin" / name
            path.write_text(SLURM.replace("{python}", sys.executable).replace("{folder!r}", repr(str(folder))))
            path.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> str:
        """The PATH with the stand-ins first."""
        return f"{self.folder}/bin:{os.environ['PATH']}"

    def say(self, state: str) -> None:
        """Sets what squeue and sacct say."""
        (self.folder / "state").write_text(state)

    def run(self, tasks: int) -> None:
        """Lets the job begin, as the scheduler does."""
        self.say("RUNNING|None")
        env = {
            **os.environ, "PATH": self.path, "SLURM_JOB_ID": "4711", "SLURM_NTASKS": str(tasks),
            "SLURM_JOB_NODELIST": "127.0.0.1", "OMP_NUM_THREADS": "1", "ESPALIER_LOG_EVERY_STEP": "1",
        }
        line = next(line for line in self.script.splitlines() if "--output=" in line)
        output = shlex.split(line)[1].partition("--output=")[2]
        with open(output, "ab") as log:
            self.process = subprocess.Popen(
                ["bash", str(self.folder / "script")], env=env, stdout=log, stderr=log, start_new_session=True
            )
        (self.folder / "pid").write_text(str(self.process.pid))

    def warn(self) -> None:
        """Sends the signal before the end of the job's time to its step, as --signal does."""
        assert self.process
        found = subprocess.run(["pgrep", "-P", str(self.process.pid), "-f", "srun"], capture_output=True, text=True)
        for pid in found.stdout.split():
            os.kill(int(pid), 10)

    def wait(self) -> int:
        """Waits for the end of the job's script; returns its code."""
        assert self.process
        code = self.process.wait(180)
        (self.folder / "pid").unlink(missing_ok=True)
        self.say("PENDING|BeginTime" if (self.folder / "requeued").exists() else f"COMPLETED|{code}:0")
        return code

    @property
    def script(self) -> str:
        """The submitted script."""
        return (self.folder / "script").read_text()
