"""``make bench``: training at several batch sizes against the script in common use, and what a step consists of.

The reference arm is an honest rendering of that script with the same model: one molecule a step, edge lists in nested
Python loops for every batch, e3x's own layers, every loss fetched as soon as the step is dispatched. (It is favoured
in two points: its grids are padded, because unpadded ones would compile again for each size; and so are its edges where
``--pad-edges``, as a set of different molecules needs.) Every arm runs in a process of its own, with its own devices,
and the arms take turns, since a machine's speed drifts; medians are compared. Warmed up and blocked on.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro


@dataclass(frozen=True)
class BenchConfig:
    """Compare batch sizes with the reference arm on the training split of a preprocessed cache."""

    cache_dir: str = "data_cache"
    """Preprocessed shards."""

    batch_sizes: tuple[int, ...] = (1, 8, 32, 128, 512)
    """Batch sizes of ours."""

    streamed: int = 128
    """A further arm of this batch size whose data are streamed (0 = none)."""

    molecules: int = 2000
    """Molecules in a round of ours."""

    reference_molecules: int = 200
    """Molecules in a round of the reference arm."""

    epoch: int = 8000
    """Molecules in the epoch that the seconds are given for."""

    rounds: int = 5
    """Rounds that each arm takes, in turn."""

    published: bool = False
    """Also ours with the networks of the papers, which are the reference's: no angles, shared features or repulsion."""

    pad_edges: bool = False
    """Pad the reference arm's edges, for it to compile once for each bucket and not for each molecule."""

    beside: str = ""
    """Folder of another checkout (a worktree of an older commit), whose arms take turns with ours; same environment."""

    output: str = ""
    """Stem of a JSON file and a picture (none if empty)."""


class Arm:
    """A process that runs rounds."""

    def __init__(self, label: str, arm: str, settings: dict[str, Any], folder: str = "", **wanted: Any) -> None:
        self.label = label
        described = json.dumps({"arm": arm, "settings": settings, **wanted})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.arms", described],
            cwd=folder or None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.prepared = self._answer()
        self.rounds: list[dict[str, Any]] = []

    def run(self, keep: bool = True) -> None:
        """One round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        figures = self._answer()
        if keep:
            self.rounds.append(figures)

    def median(self, name: str, per: str | None = None) -> float:
        """Of a figure over the rounds, divided by another one."""
        return statistics.median(figures[name] / (figures[per] if per else 1) for figures in self.rounds)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.label}: the process ended; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Run every arm in turn and print the tables."""
    bench = tyro.cli(BenchConfig, description=__doc__)
    data = {"cache_dir": str(Path(bench.cache_dir).absolute())}
    alone = {**data, "batch_size": 1, "host_devices": 1}
    arms = [Arm("reference", "reference", alone, molecules=bench.reference_molecules, pad_edges=bench.pad_edges)]
    for size in bench.batch_sizes:
        settings = {**data, "batch_size": size}
        arms.append(Arm(f"batch {size}", "ours", settings, molecules=max(bench.molecules, size)))
        if bench.published:
            plain = {**settings, "physnet_degree": 0, "share_features": False, "zbl": False}
            arms.append(Arm(f"{size}, published", "ours", plain, molecules=max(bench.molecules, size)))
        if bench.beside:
            arms.append(Arm(f"{size}, beside", "ours", settings, bench.beside, molecules=max(bench.molecules, size)))
    if bench.streamed:
        settings = {**data, "batch_size": bench.streamed, "data_placement": "stream"}
        arms.append(Arm(f"{bench.streamed}, streamed", "ours", settings, molecules=bench.molecules))
    product, parts = Arm("matmul", "matmul", data, size=1024), Arm("parts", "parts", {**data, "batch_size": 32})
    for arm in (*arms, product, parts):
        arm.run(keep=False)  # warm-up
    for _ in range(bench.rounds):
        for arm in (*arms, product, parts):
            arm.run()
    peak = product.median("gflops")
    hardware = _hardware(arms[-1].prepared)
    rows = [_row(arm, arms[0], peak, bench.epoch) for arm in arms]
    step = {name: parts.median(name) for name in parts.rounds[0] if name != "peak_mib"}
    print(f"{hardware}; matrix product of 1024 x 1024: {peak:.0f} GFLOP/s")
    _print_rows(rows, bench.epoch)
    print("\nparts of a step at batch size 32, all devices            µs/molecule")
    for name, seconds in step.items():
        print(f"  {name:<52}{seconds * 1e6:>13.1f}")
    if bench.output:
        record = {"hardware": hardware, "matmul_gflops": peak, "arms": rows, "parts": step}
        Path(bench.output).with_suffix(".json").write_text(json.dumps(record, indent=1, ensure_ascii=False))
        _draw(rows, hardware, Path(bench.output).with_suffix(".png"))
    for arm in (*arms, product, parts):
        arm.close()


def _row(arm: Arm, reference: Arm, peak: float, epoch: int) -> dict[str, Any]:
    seconds = arm.median("seconds", per="molecules")
    flops = arm.prepared["flops"]
    return {
        "arm": arm.label,
        "seconds_per_epoch": seconds * epoch,
        "samples_per_second": 1.0 / seconds,
        "ratio": reference.median("seconds", per="molecules") / seconds,
        "microseconds_per_atom": 1e6 * arm.median("seconds", per="atoms"),
        "mflop_per_molecule": flops / 1e6,
        "gflop_per_second": flops / seconds / 1e9,
        "share_of_matmul": flops / seconds / 1e9 / peak,
        "input_wait": arm.median("input_wait"),
        "seconds_to_compile": arm.prepared["compile_seconds"],
        "peak_mib": arm.median("peak_mib"),
    }


def _print_rows(rows: list[dict[str, Any]], epoch: int) -> None:
    heads = (f"s/{epoch:,}", "samples/s", "ratio", "µs/atom", "MFLOP", "GFLOP/s", "of matmul", "wait", "start s", "MiB")
    print(f"{'arm':<16}" + "".join(f"{head:>11}" for head in heads))
    for row in rows:
        _, seconds, rate, ratio, atom, flops, speed, share, wait, start, mib = row.values()
        print(
            f"{row['arm']:<16}{seconds:>11.2f}{rate:>11.0f}{ratio:>11.1f}{atom:>11.1f}{flops:>11.1f}{speed:>11.1f}"
            f"{share:>11.0%}{wait:>11.1%}{start:>11.1f}{mib:>11.0f}"
        )


def _hardware(prepared: dict[str, Any]) -> str:
    cpu = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = f"{prepared['devices']} device(s) of {prepared['platform']} ({prepared['kind']})"
    return f"{device}, {os.cpu_count()} cores of {cpu}, jax {metadata.version('jax')}"


def _draw(rows: list[dict[str, Any]], hardware: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    labels = [str(row["arm"]) for row in rows]
    colors = ["0.6"] + ["C0"] * (len(rows) - 1)
    bars = axes.bar(labels, [row["samples_per_second"] for row in rows], color=colors)
    axes.bar_label(bars, [f"{row['ratio']:.1f} ×" for row in rows], padding=2)
    axes.set_ylabel("training, molecules per second")
    axes.set_title(hardware, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
