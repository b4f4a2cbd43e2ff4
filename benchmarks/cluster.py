"""Many pictures on a Ray cluster: speed of two nodes over one, rows, a killed worker, memory of the driver.

    python benchmarks/cluster.py --write                           # 20,000 pictures, 1,000,000 names
    python benchmarks/cluster.py --count 400 --names 20000         # a short form

A node is a Ray node of one CPU, pinned to one core; the driver shares the core of the first. The speed is that between
the parts that follow the first two of each worker and the last one: the start of the workers does not count. The exit
code is 1 if rows are lost, double or different, whichever bars are met.
"""

import argparse
import json
import os
import random
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import measure
import numpy as np

PART_SIZE = 32
MODEL = "cpn_lite0"
NODE = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
NODE += ["--object-store-memory=100000000", "--disable-usage-stats"]
AGENT_PORTS = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port", "runtime-env-agent-port")
AGENT_PORTS += ("metrics-export-port",)  # a node gives up after 15 s of waiting for ports that its agents choose
START_SECONDS = 300  # of all nodes on busy cores
STARTS = 3  # of a node


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="pictures")
    parser.add_argument("--names", type=int, default=1_000_000, help="names of the listing")
    parser.add_argument("--seed", type=int, default=0, help="of the moment at which a worker is killed")
    parser.add_argument("--write", action="store_true", help="write results/cluster.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(child(*args.child)))
        return 0
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of these nodes and drivers
    os.environ["RAY_agent_register_timeout_ms"] = str(1000 * START_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), args)


def run(folder: Path, args) -> int:
    write_pictures(folder / "pictures", args.count)
    one, two = (predicted(folder, f"{nodes} nodes", nodes) for nodes in (1, 2))
    killed = predicted(folder, "killed", 2, kill=random.Random(args.seed))
    listing = started(0, "listing", str(listed_folder(folder / "names", args.names)))
    listing = json.loads(listing.communicate()[0].splitlines()[-1])
    wrong = {name: differing(folder / "1 nodes", folder / name, args.count) for name in ("2 nodes", "killed")}
    table = [
        {"run": name, **found, "rows lost, double or different": wrong.get(name, 0)}
        for name, found in {"1 node": one, "2 nodes": two, "killed": killed}.items()
    ]
    bars = [
        measure.bar("two nodes over one", two["pictures/s"] / one["pictures/s"], at_least=1.6),
        measure.bar("memory of the driver", max(row["driver MB"] for row in table), at_most=1000, unit=" MB"),
        measure.bar(f"memory of a listing of {args.names:,} names", listing["MB"], at_most=1000, unit=" MB"),
        measure.bar("rows lost, double or different", sum(wrong.values()), at_most=0),
    ]
    measure.report(
        "cluster",
        "Many pictures on a Ray cluster",
        "python benchmarks/cluster.py --write",
        {f"{args.count:,} pictures with one person each, {MODEL}, parts of {PART_SIZE}": table, "Listing": [listing]},
        bars,
        notes=["A worker of the run `killed` got SIGKILL at a random moment."],
        folder=measure.RESULTS if args.write else None,
    )
    return int(any(wrong.values()))


def write_pictures(folder: Path, count: int) -> None:
    """Writes tiny pictures, each different."""
    from kpzoo import images

    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (96, 72, 3), np.uint8)
        images.write_image(folder / f"{number // 1000:03d}" / f"{number:08d}.jpg", pixels)


def listed_folder(folder: Path, count: int) -> Path:
    """Makes a folder of empty files, a thousand in each subfolder."""
    for number in range(count):
        inside = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            inside.mkdir(parents=True)
        (inside / f"{number:08d}.jpg").touch()
    return folder


def predicted(folder: Path, name: str, nodes: int, kill: random.Random | None = None) -> dict:
    """Returns the speed and the memory of the driver of a run on some nodes."""
    with ExitStack() as stack:
        address = stack.enter_context(node(0))
        for core in range(1, nodes):
            stack.enter_context(node(core, address))
        out = folder / name
        process = started(0, "predict", str(folder / "pictures"), str(out), address, str(nodes))
        stack.callback(process.kill)
        if kill:
            kill_a_worker(out, kill, process)
        text, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"The run {name!r} failed.")
        speed = steady_speed(out, nodes)
    return {"pictures/s": speed, "driver MB": json.loads(text.splitlines()[-1])["MB"]}


def started(core: int, *arguments: str) -> subprocess.Popen:
    command = ["taskset", "-c", str(core), sys.executable, __file__, "--child", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@contextmanager
def node(core: int, address: str | None = None):
    """Context manager that runs a Ray node on a core, the head if there is no address, and yields the address."""
    port, *agents = _free_ports(1 + len(AGENT_PORTS))
    place = [f"--address={address}"] if address else ["--head", f"--port={port}", "--include-dashboard=false"]
    place += [f"--{name}={number}" for name, number in zip(AGENT_PORTS, agents, strict=True)]
    process = _started_node(["taskset", "-c", str(core), *NODE, *place])
    try:
        yield address or f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _started_node(command: list[str]) -> subprocess.Popen:
    """Returns the process of a node that runs. Ray gives up after half a minute, too soon for busy cores."""
    for _ in range(STARTS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if any("Ray runtime started" in line for line in process.stdout):
            return process
        process.wait()
    raise SystemExit(f"A Ray node did not start, {STARTS} times.")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def joined(address: str, nodes: int) -> None:
    """Connects to a cluster and waits until its nodes are there."""
    import ray

    until = time.monotonic() + START_SECONDS
    while True:
        try:
            ray.init(address, ignore_reinit_error=True, logging_level="error", log_to_driver=False)
            found = ray.cluster_resources().get("CPU", 0)
        except ConnectionError:  # the head is not complete
            found = 0
        if found >= nodes:
            return
        if time.monotonic() > until:
            raise SystemExit(f"Only {found:g} of {nodes} Ray nodes started.")
        time.sleep(0.5)


def kill_a_worker(out: Path, rng: random.Random, process: subprocess.Popen) -> None:
    """Kills one worker of this run at a random moment after the first part is written."""
    import psutil

    while process.poll() is None and not list(out.glob("parts/*.parquet")):
        time.sleep(0.2)
    time.sleep(rng.uniform(0, 3))
    workers = [one for one in psutil.Process().children(recursive=True) if _is_worker(one)]
    if not workers or process.poll() is not None:
        raise SystemExit("The run ended before a worker was killed. Use more pictures.")
    rng.choice(workers).kill()


def _is_worker(process) -> bool:
    import psutil

    try:
        return "MapWorker" in " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return False


def steady_speed(out: Path, workers: int) -> float:
    """Returns the pictures per second after the first two parts of each worker."""
    times = sorted(path.stat().st_mtime for path in out.glob("parts/*.parquet"))
    skipped = 2 * workers
    if len(times) < skipped + 2:
        raise SystemExit("Too few parts to measure a speed. Use more pictures.")
    return round((len(times) - skipped) * PART_SIZE / (times[-1] - times[skipped - 1]), 2)


def differing(first: Path, second: Path, count: int) -> int:
    """Returns how many pictures are lost, double, or have other boxes or keypoints that differ by over 0.01 pixels."""
    from kpzoo.data import parts

    rows, others = (list(parts.read_rows(out)) for out in (first, second))
    wrong = abs(len(others) - count) + len(others) - len({row["file_name"] for row in others})
    known = {row["file_name"]: row for row in rows}
    return wrong + sum(not _same(known.get(row["file_name"]), row) for row in others)


def _same(row: dict | None, other: dict) -> bool:
    if row is None or len(row["poses"]) != len(other["poses"]):
        return False
    return all(
        a["box_image_xywh"] == b["box_image_xywh"]
        and np.abs(np.reshape(a["keypoints"], (-1, 3)) - np.reshape(b["keypoints"], (-1, 3)))[:, :2].max() <= 0.01
        for a, b in zip(row["poses"], other["poses"], strict=True)
    )


def child(what: str, source: str, *rest: str) -> dict:
    """Predicts or lists, and returns the largest memory of this process in megabytes."""
    if what == "listing":
        from kpzoo.distributed.chunks import chunks

        count = sum(len(chunk.names) for chunk in chunks(source, 256))
        return {"names": count, "MB": _peak_mb()}
    out, address, workers = rest
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    import kpzoo

    joined(address, int(workers))
    kpzoo.distributed.predict(
        source, out, model=MODEL, detector="whole", ray=address, workers=int(workers), part_size=PART_SIZE
    )
    return {"MB": _peak_mb()}


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
