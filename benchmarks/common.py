"""What every benchmark shares: interleaved timing, paired ratios, peak memory, target lines, records, exit code."""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a benchmark never waits for a network
try:
    import shammie  # noqa: F401
except ImportError:  # a checkout without an installed package
    sys.path.insert(0, str(ROOT / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])

Run = Callable[[], object]
BUSY = 0.1  # share of the machine in other hands from which on figures are spoiled
SLACK = 1.05  # a goal of "at most 1.0x" holds when the upper 95 % bound is at most this


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval over n rounds."""

    value: float
    low: float
    high: float
    n: int


@dataclass
class Line:
    """One target or one figure beside the targets (goal None)."""

    name: str
    measured: Measured | None
    goal: float | None = None
    unit: str = "x"
    note: str = ""
    peak: float | None = None  # bytes of our side
    peak_other: float | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        if self.goal is None:
            return "info"
        if self.measured is None:
            return "not measured"
        if self.goal == 1.0 and self.unit == "x":
            return "ok" if self.measured.high <= SLACK else "SHORT"
        return "ok" if self.measured.value <= self.goal else "SHORT"

    def cells(self) -> list[str]:
        """Target, goal, measured, interval, peak memory, result: the columns of the table."""
        m, unit = self.measured, "" if self.unit == "x" else f" {self.unit}"
        suffix = "x" if self.unit == "x" else unit
        return [
            self.name + (f" ({self.note})" if self.note else ""),
            "–" if self.goal is None else f"≤ {self.goal:.2f}{suffix}",
            "–" if m is None else f"{m.value:.3f}{suffix}",
            "–" if m is None else f"{m.low:.3f} to {m.high:.3f} (n={m.n})",
            " / ".join("–" if p is None else f"{p / 2**20:.0f}" for p in (self.peak, self.peak_other))
            if self.peak is not None or self.peak_other is not None
            else "–",
            self.status,
        ]

    def text(self) -> str:
        name, goal, value, interval, peak, status = self.cells()
        memory = "" if peak == "–" else f"  peak {peak} MiB"
        return f"{status:<12}  {value:>8}  [{interval}]  goal {goal:<8}{memory}  {name}"


COLUMNS = ("target", "goal", "measured", "95 % interval", "peak MiB, ours / other", "result")


# -- timing --------------------------------------------------------------------------------------------------------


def interleaved(sides: Mapping[str, Run], rounds: int, *, label: str = "") -> dict[str, list[float]]:
    """Seconds of each side by round: one warm-up each, then every side once a round, the order turned every round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for name in order:
        sides[name]()
    for index in range(rounds):
        for name in order if index % 2 == 0 else reversed(order):
            gc.collect()
            gc.disable()
            try:
                start = time.perf_counter()
                result = sides[name]()
                seconds[name].append(time.perf_counter() - start)
            finally:
                gc.enable()
            del result
        progress(f"{label} round {index + 1}/{rounds}")
    progress("")
    return seconds


def ratio(ours: Sequence[float], other: Sequence[float], *, scale: float = 1.0) -> Measured:
    """Median of ours over `scale` times the median of the other side, rounds drawn in pairs."""
    from shammie.core.stats import median_ratio

    estimate = median_ratio(ours, [scale * value for value in other], seed=0)
    return Measured(estimate.value, estimate.low, estimate.high, len(ours))


def median(seconds: Sequence[float]) -> Measured:
    """Median of absolute times with a bootstrap interval."""
    from shammie.core.stats import median_ratio

    estimate = median_ratio(seconds, [1.0] * len(seconds), seed=0)
    return Measured(estimate.value, estimate.low, estimate.high, len(seconds))


def progress(text: str) -> None:
    """A line on a terminal that the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# -- peak memory -----------------------------------------------------------------------------------------------------


def peaks(script: str, sides: Sequence[str], extra: Sequence[str] = ()) -> dict[str, float | None]:
    """Peak memory of each side: a process of its own that loads, performs the side once and says what that added.

    Two processes of one thread each at a time: memory is measured, not time. None where a side failed.
    """

    def measure(side: str) -> float | None:
        done = subprocess.run(
            [sys.executable, script, "--peak", side, *extra],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"peak memory of {side}: {' '.join(done.stderr.split())[-300:]}", file=sys.stderr)
            return None
        return float(json.loads(done.stdout.splitlines()[-1])["peak"])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(sides, pool.map(measure, sides), strict=True))


def print_peak(run: Run, modules: Sequence[Any]) -> None:
    """In the process that `peaks` started: print high-water RSS of `run` minus RSS after load."""
    for module in modules:  # weights that are mapped and not yet read would count as the side's memory
        for parameter in module.parameters():
            parameter.detach().sum()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident now
    before = _status("VmRSS")
    result = run()
    print(json.dumps({"peak": _status("VmHWM") - before}))
    del result


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"/proc/self/status has no {key}"
    return int(found[1]) * 1024


# -- report ----------------------------------------------------------------------------------------------------------


class Report:
    """Prints lines as they are measured; at the end writes the record and the table and gives the exit code."""

    def __init__(self, title: str, args: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        self.title, self.args, self.settings = title, args, dict(settings)
        self.lines: list[Line] = []
        self.checks: list[dict[str, Any]] = []
        self.machine = machine()
        self.start = time.perf_counter()
        self.before = _processor_seconds()
        print(f"{title}: {describe(self.machine)}", flush=True)

    def add(self, *lines: Line) -> None:
        for line in lines:
            self.lines.append(line)
            print(line.text(), flush=True)

    def check(self, name: str, value: float, most: float) -> None:
        """A claim that both sides computed the same; a broken one is as bad as a missed target."""
        self.checks.append({"name": name, "value": value, "most": most, "ok": value <= most})
        print(f"{'ok' if value <= most else 'WRONG':<12}  {value:>8.1e}  at most {most:.0e}  {name}", flush=True)

    def finish(self) -> int:
        minutes = (time.perf_counter() - self.start) / 60
        self.machine["used_by_others"] = others = self._used_by_others()
        print(f"{minutes:.1f} minutes", flush=True)
        if others is not None and others > BUSY:
            print(f"other processes had {others:.0%} of the machine meanwhile: these figures are not to be quoted")
        if self.args.json:
            Path(self.args.json).write_text(json.dumps(self.record(minutes), indent=1) + "\n")
        if self.args.markdown:
            write_between_markers(Path(self.args.markdown), Path(sys.argv[0]).stem, self.markdown(minutes))
        short = [line.name for line in self.lines if line.status == "SHORT"]
        unmeasured = [line.name for line in self.lines if line.status == "not measured"]
        wrong = [check["name"] for check in self.checks if not check["ok"]]
        for text, names in (("short", short), ("not measured", unmeasured), ("wrong", wrong)):
            if names:
                print(f"{text}: {'; '.join(names)}")
        return int(bool(short or wrong or (unmeasured and not getattr(self.args, "without_peer", False))))

    def _used_by_others(self) -> float | None:
        """Share of the machine's processor time that went to processes other than this and its children."""
        after = _processor_seconds()
        if self.before is None or after is None:
            return None
        busy, own, total = (now - then for now, then in zip(after, self.before, strict=True))
        return max(0.0, (busy - own) / total) if total else None

    def record(self, minutes: float) -> dict[str, Any]:
        lines = [
            {
                "name": line.name, "goal": line.goal, "unit": line.unit, "note": line.note, "status": line.status,
                "measured": None if line.measured is None else vars(line.measured),
                "peak_bytes": line.peak, "peak_bytes_other": line.peak_other, "seconds": line.seconds,
            }
            for line in self.lines
        ]  # fmt: skip
        return {
            "benchmark": self.title, "machine": self.machine, "settings": self.settings, "minutes": minutes,
            "lines": lines, "checks": self.checks,
        }  # fmt: skip

    def markdown(self, minutes: float) -> str:
        rows = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        rows += ["| " + " | ".join(cell.replace("|", "/") for cell in line.cells()) + " |" for line in self.lines]
        rows += ["", *(f"- {c['name']}: {c['value']:.1e} (at most {c['most']:.0e})" for c in self.checks)]
        settings = "; ".join(f"{key}: {value}" for key, value in self.settings.items())
        return "\n".join([*rows, "", f"Settings: {settings}.", "", f"{describe(self.machine)}. {minutes:.1f} minutes."])


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in a Markdown file."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = path.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"{path} needs the lines {begin} and {end}, once each")
    before, rest = old.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    versions = {}
    for package in ("torch", "transformers", "numpy", "transformer-lens"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    cpu = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return {
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def describe(found: Mapping[str, Any]) -> str:
    """The machine in one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    others = found.get("used_by_others")
    busy = "" if others is None else f", {others:.0%} of the machine used by other processes meanwhile"
    return (
        f"{found['cpu']} ({found['cpu_capability']}), {found['cores']} cores, {found['threads']} threads, "
        f"{found['memory_gib']} GiB, {found['system']}, Python {found['python']}, {versions}; "
        f"load average before the run {found['load_average_before']}{busy}"
    )


def _processor_seconds() -> tuple[float, float, float] | None:
    """Busy seconds of all processors, seconds of this process and its finished children, seconds in all."""
    found = re.search(r"^cpu +(.+)", _read("/proc/stat"))
    if not found:
        return None
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in found[1].split()[:8]]
    return sum(ticks) - ticks[3] - ticks[4], sum(os.times()[:4]), sum(ticks)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def arguments(description: str, groups: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=groups, default=list(groups), help="measure these groups only")
    parser.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up (at least 5 for a record)")
    parser.add_argument("--json", metavar="FILE", help="write every figure, each round's times included")
    parser.add_argument("--markdown", metavar="FILE", help="write the table between the markers of this Markdown file")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs; no figures to quote")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--peak", metavar="SIDE", help=argparse.SUPPRESS)
    return parser
