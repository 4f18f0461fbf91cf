"""Measures the explorer as a terminal sees it and prints a Markdown table.

    make build && python3 Benchmarks/screen.py

Plays a terminal of 120x40 cells on a pseudo-terminal that answers at once: time to the first whole frame, bytes on
the wire while nothing changes, the time from a key to its echo, on a free machine and while a worker distils on
all cores, and from an edit to the image of the fitted graft. Drawing a frame and encoding an image are timed by `espalier bench`.
"""

import argparse
import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time

HERE = pathlib.Path(__file__).resolve().parent
ROWS, COLUMNS = 40, 120
# What closes a synchronised update; the answers to it and to the other questions come with DA1's.
FRAME_END = b"\x1b[?2026l"
ANSWERS = b"\x1b[6;16;8t\x1b[?1;0;256S\x1b[?2;0;800;480S\x1b[?2026;2$y\x1b[?64;1;2;4;6;22c"


class Screen:
    """The explorer on a pseudo-terminal."""

    def __init__(self, command, environment):
        self.start = time.perf_counter()
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.execvpe(command[0], command, environment)

    def read(self, seconds):
        """The bytes of the next `seconds`, or until a pause in them; answers the terminal's questions."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return b""
        data = os.read(self.descriptor, 1 << 16)
        if b"\x1b[c" in data:
            os.write(self.descriptor, ANSWERS)
        return data

    def until(self, mark, seconds):
        """Reads until `mark` has come; the seconds since the start, and the bytes."""
        data = b""
        deadline = time.perf_counter() + seconds
        while mark not in data:
            if time.perf_counter() > deadline:
                raise SystemExit(f"no {mark!r} within {seconds} s; got {data[-200:]!r}")
            data += self.read(0.2)
        return time.perf_counter(), data

    def settle(self, seconds):
        """Waits for `seconds` without output."""
        quiet = time.perf_counter()
        while time.perf_counter() - quiet < seconds:
            if self.read(0.05):
                quiet = time.perf_counter()

    def bytes_during(self, seconds):
        deadline = time.perf_counter() + seconds
        count = 0
        while time.perf_counter() < deadline:
            count += len(self.read(deadline - time.perf_counter()))
        return count

    def latencies(self, count):
        """Milliseconds from a key that moves the cursor to the first byte of what it changes."""
        times = []
        for index in range(count):
            self.settle(0.15)
            start = time.perf_counter()
            os.write(self.descriptor, b"j" if index % 2 == 0 else b"k")
            while not self.read(1):
                pass
            times.append(1000 * (time.perf_counter() - start))
        return times

    def close(self):
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)


def resident(pid):
    """Resident megabytes of a process."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def many_runs(program, plan, environment, folder, rows):
    """The explorer with 1,000 runs, and while it follows a log that nobody has read."""
    sys.path.insert(0, str(HERE))
    import runs
    root = f"{folder}/many"
    log = f"{folder}/log"
    runs.write_log(log, 2000, runs.SITES)
    for number in range(1000):
        runs.make_run(root, number, log)
    environment = dict(environment, ESPALIER_RUNS=root)
    starts, lists = [], []
    for _ in range(5):
        screen = Screen([program, "explore", "--plan", plan], environment)
        first, _ = screen.until(FRAME_END, 20)
        starts.append(1000 * (first - screen.start))
        screen.settle(1)
        begun = time.perf_counter()
        os.write(screen.descriptor, b"r")
        seen, _ = screen.until(b"1000 runs", 20)
        lists.append(1000 * (seen - begun))
        screen.settle(0.3)
        memory = resident(screen.pid)
        screen.close()
    rows.append(("start to the first frame, 1,000 runs", f"{statistics.median(starts):.0f} ms", "150 ms"))
    rows.append(("`r` to the list of 1,000 runs", f"{statistics.median(lists):.0f} ms", "300 ms"))
    rows.append(("resident memory with 1,000 runs", f"{memory:.0f} MB", "200 MB"))
    root = f"{folder}/long"
    log = f"{folder}/long-log"
    size = runs.write_log(log, 1_400_000, runs.SITES)
    path = runs.make_run(root, 0, log)
    shutil.copy(plan, f"{path}/plan.json")
    request = json.loads(pathlib.Path(f"{path}/run.json").read_text())
    request["model_hash"] = json.loads(pathlib.Path(plan).read_text())["model"]["content_hash"]
    pathlib.Path(f"{path}/run.json").write_text(json.dumps(request))
    pathlib.Path(f"{path}/log.txt").write_text("its first line\n")
    # The summary is known; the losses by step are not.
    subprocess.run([program, "runs", "list", "--runs", root], stdout=subprocess.DEVNULL, check=True)
    screen = Screen([program, "explore", "--plan", plan], dict(environment, ESPALIER_RUNS=root))
    screen.until(FRAME_END, 20)
    screen.settle(1)
    os.write(screen.descriptor, b"r\r")
    time.sleep(0.3)
    os.write(screen.descriptor, b"n")
    time.sleep(0.2)
    waits = []
    for _ in range(3):
        begun = time.perf_counter()
        os.write(screen.descriptor, b"rl")
        seen, _ = screen.until(b"done: done", 30)
        waits.append(1000 * (seen - begun))
        os.write(screen.descriptor, b"qq")
        time.sleep(0.2)
    screen.close()
    rows.append((f"file work while a cold log of {size / 1e6:.0f} MB is followed", f"at most {max(waits):.0f} ms", "300 ms"))


def edit_to_image(program, plan, environment, rows):
    """Seconds from the key that makes an edit to the fitted graft's picture, with F and nothing else running."""
    screen = Screen([program, "explore", "--plan", plan], environment)
    screen.until(FRAME_END, 20)
    screen.settle(1)
    os.write(screen.descriptor, b"F")
    screen.settle(0.3)
    times = []
    for operator in ["hyena_x", "swa", "linear_attention", "mamba2", "hyena_y"]:
        os.write(screen.descriptor, f":pick {operator}".encode())
        screen.settle(0.3)
        begun = time.perf_counter()
        os.write(screen.descriptor, b"\r")
        # The three pictures are sent as sixels once the preview is done.
        seen, _ = screen.until(b"\x1bP", 60)
        times.append(seen - begun)
        screen.settle(0.5)
    screen.close()
    rows.append(("first edit to its image with `F`, the teacher's with it", f"{times[0]:.1f} s", "5 s"))
    rest = times[1:]
    rows.append(
        ("later edits to their image", f"{statistics.median(rest):.1f} s, at most {max(rest):.1f} s", "5 s"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--espalier", default=HERE.parent / ".build/release/espalier")
    parser.add_argument("--keys", type=int, default=60)
    options = parser.parse_args()
    program = str(options.espalier)
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, TERM="xterm-256color", LANG="C.UTF-8", ESPALIER_RUNS=f"{folder}/runs")
        environment.pop("OPENBLAS_CORETYPE", None)
        other = dict(environment, ESPALIER_RUNS=f"{folder}/others")

        def espalier(*arguments, env=environment):
            return subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=True).stdout

        # The analysis of the teacher is on disk, as after the first visit.
        espalier("analyze", "demo")
        plan = f"{folder}/plan.json"
        espalier("plan", "new", plan)
        espalier("plan", "set", plan, "--blocks", "all", "--operator", "hyena_x", "--steps", "100000")
        rows = []
        starts = []
        for _ in range(5):
            screen = Screen([program, "explore", "--plan", plan], environment)
            first, _ = screen.until(FRAME_END, 20)
            starts.append(1000 * (first - screen.start))
            screen.settle(0.3)
            screen.close()
        rows.append(("start to the first frame", f"{statistics.median(starts):.0f} ms", "150 ms"))
        for work, label, limit in [("frame", "drawing a frame", "5 ms"), ("sixel", "a sixel of 256 px", "10 ms")]:
            report = json.loads(espalier("bench", "--work", work, "--repeats", "31", "--json"))
            rows.append((label, f"{1000 * report['rows'][0]['seconds']:.2f} ms", limit))
        screen = Screen([program, "explore", "--plan", plan], environment)
        screen.until(FRAME_END, 20)
        screen.settle(2)
        rows.append(("on the wire in 10 s without change", f"{screen.bytes_during(10)} bytes", "0 bytes"))
        free = screen.latencies(options.keys)
        rows.append(("key to screen, free machine", f"{statistics.median(free):.1f} ms, at most {max(free):.1f} ms", "50 ms"))
        # In a run root of its own, so that the explorer has nothing else to draw.
        run = json.loads(espalier("distill", plan, "--detach", "--json", env=other))["run"]
        time.sleep(8)
        busy = screen.latencies(options.keys)
        rows.append(
            ("key to screen, worker on all cores", f"{statistics.median(busy):.1f} ms, at most {max(busy):.1f} ms", "50 ms"))
        espalier("runs", "cancel", run, env=other)
        screen.close()
        while json.loads(espalier("runs", "show", run, "--json", env=other))["state"] == "running":
            time.sleep(0.5)
        empty = f"{folder}/empty.json"
        espalier("plan", "new", empty)
        edit_to_image(program, empty, dict(environment, ESPALIER_RUNS=f"{folder}/edits"), rows)
        many_runs(program, plan, environment, folder, rows)
    print("| the explorer | measured | wanted, at most |\n| --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
