"""Measure what commands cost as whole processes, and write docs/evidence/performance.md.

    python benchmarks/performance.py [--rounds N] [--output FILE] [--hf-mem PYTHON]

Commands that are compared run in turn, so that whatever else the machine does hits all alike; figures are medians of
the rounds, of processor time, of time on the clock, and the largest resident memory of a process. All run without
network, and without a cache where none is named, from modules that are compiled, as an installed package is. Nothing
else should run beside it; on two cores it takes some six minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.source.loopback_hub import LoopbackHub  # noqa: E402
from tests.source.weight_files import TINY_TENSORS, weight_file  # noqa: E402

INSPECT = (sys.executable, "-m", "inspector")
FLOOR = (sys.executable, "-c", "import torch, transformers, peft")
LORA = ("--lora", "r=16", "--targets", "all-linear")
MAIN_JOB = (*INSPECT, "Qwen/QwQ-32B", *LORA, "--offline")
CARD = ("--gpu", "a100-40gb", "--no-advice")
SWEPT = 24


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds of the processor and of the clock, and the MiB of its largest process."""

    processor: float
    clock: float
    mib: float


def make_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a command: those of this process, but that modules are compiled once and kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "INSPECTOR_CACHE": "off", **changes}


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command once."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(  # noqa: S603  # commands of this file
            command, stdout=subprocess.DEVNULL, stderr=errors, env=make_environment(environment)
        )
        _, status, used = os.wait4(child.pid, 0)
        clock = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status) not in (0, 1, 2, 3):
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed: {errors.read().decode()[-2000:]}")
    return Cost(processor=used.ru_utime + used.ru_stime, clock=clock, mib=used.ru_maxrss / 1024)


def alternate(
    commands: Mapping[str, Sequence[str]], rounds: int, environment: Mapping[str, str] | None = None
) -> dict[str, Cost]:
    """Run commands in turn and return the medians of each."""
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(measure(command, environment or {}))
    return {name: take_median(costs) for name, costs in found.items()}


def take_median(costs: Sequence[Cost]) -> Cost:
    """Return the medians of what one command took in several rounds, and its largest memory."""
    return Cost(
        processor=statistics.median(cost.processor for cost in costs),
        clock=statistics.median(cost.clock for cost in costs),
        mib=max(cost.mib for cost in costs),
    )


def ask_anew(commands: Mapping[str, Sequence[str]], rounds: int, folder: Path) -> dict[str, Cost]:
    """Return the medians of questions that are each asked for the first time of a cache: of a copy of it."""
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as copies:
                copied = shutil.copytree(folder, Path(copies, "kept"))
                found[name].append(measure(command, {"INSPECTOR_CACHE": str(copied)}))
    return {name: take_median(costs) for name, costs in found.items()}


def warm_up() -> None:
    """Run each kind of command once, for modules to be compiled and files to be where they are read from."""
    with tempfile.TemporaryDirectory() as folder:
        for words in ((), (*CARD, "--format", "html"), (*CARD, "--json")):
            measure((*MAIN_JOB, *words), {"INSPECTOR_CACHE": folder})
    for words in (("gpus",), ("cache",), ("plan", "Qwen/Qwen2.5-0.5B", "--gpu", "t4", "--fit", "none", "--offline")):
        measure((*INSPECT, *words), {})


def write_table(costs: Mapping[str, Cost], first: str, than: str) -> str:
    """Return a table of what commands took, each with the ratio of its processor time to that of one of them."""
    floor = costs[than].processor
    lines = [f"| {first} | processor | clock | memory | times {than} |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {cost.processor:.2f} s | {cost.clock:.2f} s | {cost.mib:.0f} MiB | {cost.processor / floor:.2f} |"
        for name, cost in costs.items()
    ]
    return "\n".join(lines)


def measure_cold(rounds: int) -> str:
    """Return what commands cost beside the import of the libraries that they stand on."""
    costs = alternate(
        {
            "the import floor": FLOOR,
            "`--count-only`": (*MAIN_JOB, "--count-only"),
            "with the step, one card": (*MAIN_JOB, *CARD),
            "with the step, eight cards": MAIN_JOB,
            "`--no-extrapolate`, one card": (*MAIN_JOB, *CARD, "--no-extrapolate"),
        },
        rounds,
    )
    return write_table(costs, "QwQ-32B with LoRA, nothing kept", "the import floor")


def measure_kept(rounds: int) -> str:
    """Return what a question takes once it, or one like it, was answered."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {"INSPECTOR_CACHE": folder}
        asked = (*MAIN_JOB, *CARD)
        searched = (*MAIN_JOB, "--gpu", "h200", "--no-advice", "--fit", "batch-size")
        for command in (MAIN_JOB, asked, searched):
            measure(command, kept)
        costs = alternate({"worked out": asked}, rounds) | alternate(
            {
                "repeated": asked,
                "repeated, as JSON": (*asked, "--json"),
                "repeated, eight cards": MAIN_JOB,
            },
            rounds,
            kept,
        )
        once = {
            "another margin": (*asked, "--margin", "1GiB"),
            "another card of the same kernels": (*MAIN_JOB, "--gpu", "a100-80gb", "--no-advice"),
            "other settings of the allocator": (*asked, "--alloc-conf", "expandable_segments:True"),
            "as a page": (*asked, "--format", "html"),
            "`--fit batch-size`, another margin": (*searched, "--margin", "4GiB"),
        }
        costs |= ask_anew(once, rounds, Path(folder))
    return write_table(costs, "QwQ-32B with LoRA, one card", "worked out")


def measure_small(rounds: int) -> str:
    """Return what commands cost that need no model."""
    costs = alternate(
        {
            "`python -c pass`": (sys.executable, "-c", "pass"),
            "`inspect --help`": (*INSPECT, "--help"),
            "`inspect gpus`": (*INSPECT, "gpus"),
            "`inspect cache`": (*INSPECT, "cache"),
            "a slip: `--lora r=0`": (*INSPECT, "Qwen/QwQ-32B", "--lora", "r=0"),
            "a model that is not there": (*INSPECT, "no/such-model", "--offline"),
        },
        rounds,
    )
    return write_table(costs, "command", "`python -c pass`")


def read_bundled(name: str) -> dict[str, Any]:
    """Return a configuration of the catalogue."""
    fields: dict[str, Any] = json.loads((ROOT / "fixtures" / "models" / f"{name}.json").read_text())["config"]
    return fields


@contextlib.contextmanager
def write_configurations(configurations: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the paths of configurations by their names."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, config) in enumerate(configurations.items()):
            path = Path(folder, str(number), "config.json")
            path.parent.mkdir()
            path.write_text(json.dumps(config))
            paths[name] = str(path)
        yield paths


def measure_growth(rounds: int) -> str:
    """Return what more layers, experts and tokens cost, in two rounds at most."""
    rounds = min(rounds, 2)
    dense, sparse = read_bundled("Qwen__Qwen2.5-7B"), read_bundled("mistralai__Mixtral-8x7B-v0.1")
    tables = []
    with write_configurations(
        {f"{count} layers": dense | {"num_hidden_layers": count} for count in (8, 32, 128)}
    ) as paths:
        costs = alternate({name: (*INSPECT, path, *LORA, *CARD, "--offline") for name, path in paths.items()}, rounds)
        tables.append(write_table(costs, "Qwen2.5-7B with other depths", "8 layers"))
    with write_configurations(
        {f"{count} experts": sparse | {"num_local_experts": count} for count in (2, 8, 64)}
    ) as paths:
        costs = alternate({name: (*INSPECT, path, *LORA, *CARD, "--offline") for name, path in paths.items()}, rounds)
        tables.append(write_table(costs, "Mixtral with other numbers of experts", "2 experts"))
    model = (*INSPECT, "Qwen/Qwen2.5-7B", *LORA, *CARD, "--offline")
    costs = alternate({f"{count:,} tokens": (*model, "--seq-len", str(count)) for count in (512, 8192, 32768)}, rounds)
    tables.append(write_table(costs, "Qwen2.5-7B at other lengths", "512 tokens"))
    return "\n\n".join(tables)


def measure_plans(rounds: int) -> str:
    """Return what plans and searches cost beside one cold run."""
    model = ("Qwen/Qwen2.5-7B", "--gpu", "h200", "--offline")
    costs = alternate(
        {
            "one cold run": (*INSPECT, *model, *LORA, "--no-advice"),
            "`--fit batch-size`": (*INSPECT, *model, *LORA, "--no-advice", "--fit", "batch-size"),
            "`plan --fit none`, 24 recipes": (*INSPECT, "plan", *model, "--fit", "none"),
            "`plan`, 24 recipes, both searches": (*INSPECT, "plan", *model),
        },
        min(rounds, 1),
    )
    table = write_table(costs, "Qwen2.5-7B on an H200", "one cold run")
    mib = measure_all_processes((*INSPECT, "plan", *model))
    return f"{table}\n\n{mib}\n\n{measure_candidates(model, min(rounds, 1))}"


def measure_candidates(model: Sequence[str], rounds: int) -> str:
    """Return what plans of more and fewer recipes cost."""
    plan = (*INSPECT, "plan", *model, "--fit", "none", "--json")
    asked = {}
    for words in (("--quantization", "none"), (), ("--batch-size", "4")):
        ran = subprocess.run((*plan, *words), capture_output=True, check=False, env=make_environment({}))  # noqa: S603
        asked[f"{len(json.loads(ran.stdout)['rows'])} rows {' '.join(words)}".strip()] = (*plan, *words)
    costs = alternate(asked, rounds)
    return write_table(costs, "the same, `--fit none`", next(iter(costs)))


def measure_all_processes(command: Sequence[str]) -> str:
    """Return how much memory a command and all its processes hold together at most, pages that they share once."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=make_environment({})) as child:  # noqa: S603
        most_mib = count = 0
        while child.poll() is None:
            sizes = [read_proportional_mib(process) for process in list_descendants(child.pid)]
            most_mib, count = max(most_mib, sum(sizes)), max(count, len(sizes))
            time.sleep(0.1)
    if not most_mib:
        return "How much all processes of a plan hold together is read on Linux alone."
    return f"All {count} processes of the plan with both searches hold {most_mib} MiB together at most."


def list_descendants(pid: int) -> Iterator[int]:
    """Yield a process and those that it started, on Linux."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for started in (task / "children").read_text().split():
                yield from list_descendants(int(started))


def read_proportional_mib(pid: int) -> int:
    """Return what memory a process holds, of pages that several share its part; 0 where that cannot be read."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) // 1024
    return 0


def copy_hf_mem(python: str, endpoint: str, folder: Path) -> bool:
    """Copy hf-mem from where `python` has it, for a Hub at `endpoint`: it has the address of the Hub written in."""
    found = subprocess.run(  # noqa: S603
        (python, "-c", "import hf_mem; print(hf_mem.__path__[0])"), capture_output=True, text=True, check=False
    )
    if found.returncode:
        return False
    copied = shutil.copytree(found.stdout.strip(), folder / "hf_mem")
    for path in copied.rglob("*.py"):
        path.write_text(path.read_text().replace("https://huggingface.co", endpoint))
    return True


def measure_peers(rounds: int, hf_mem: str) -> str:
    """Return what other tools cost for the same model, all of them served by a Hub on this machine.

    `hf_mem` is a Python that has hf-mem, if there is one.
    """
    config = read_bundled("Qwen__Qwen2.5-0.5B")
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as home:
        files = {"config.json": json.dumps(config).encode(), "model.safetensors": weight_file(TINY_TENSORS)}
        hub.host("org/model", files, info={"library_name": "transformers", "tags": ["transformers"]})
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
        commands: dict[str, Sequence[str]] = {
            "the import floor": FLOOR,
            "`inspect --count-only`": (*INSPECT, "org/model", "--count-only"),
            "`accelerate estimate-memory`": (
                *(sys.executable, "-m", "accelerate.commands.accelerate_cli"),
                *("estimate-memory", "org/model", "--library_name", "transformers"),
            ),
        }
        note = "`hf-mem` is not measured: no Python that has it was named (`--hf-mem PYTHON`)."
        if copy_hf_mem(hf_mem, hub.endpoint, Path(home)):
            run = f"import sys; sys.path.insert(0, {home!r}); from hf_mem.cli import main; main()"
            commands["`hf-mem`"] = (hf_mem, "-c", run, "--model-id", "org/model")
            note = (
                "`hf-mem` adds up the header of the weights and reads no configuration. It has the address of "
                "huggingface.co written in,\nand runs from a copy with that of this Hub."
            )
        measure(commands[next(reversed(commands))], environment)  # its modules are compiled by then
        table = write_table(alternate(commands, rounds, environment), "Qwen2.5-0.5B from a Hub", "the import floor")
        return f"{table}\n\n{note}"


def measure_sweep() -> str:
    """Return what many models cost on one core, each with a traced step of LoRA: half of them, and all."""
    listed = subprocess.run(  # noqa: S603
        (*INSPECT, "models", "--json"), capture_output=True, check=True, env=make_environment({})
    )
    known = [entry for entry in json.loads(listed.stdout)["models"] if entry["published"]["parameters"] < 73e9]
    models = [entry["id"] for entry in known[:: max(len(known) // SWEPT, 1)]][:SWEPT]
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (SWEPT // 2, SWEPT):
            path = Path(folder, f"{count}.txt")
            path.write_text("\n".join(models[:count]))
            command = (*INSPECT, "sweep", str(path), *LORA, "--offline", "--jobs", "1")
            costs[f"{count} models"] = measure(command, {})
    table = write_table(costs, "models up to 72 B, one core", f"{SWEPT // 2} models")
    half, whole = costs.values()
    each = (whole.processor - half.processor) / (SWEPT - SWEPT // 2)
    return f"{table}\n\nA further model takes {each:.2f} s of the processor: {60 / each:.0f} a minute and core."


def describe_machine() -> str:
    """Return what the figures were measured on."""
    names = ("torch", "transformers", "peft", "accelerate")
    libraries = ", ".join(f"{name} {version(name)}" for name in names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {cores} cores, {platform.system()}, Python {platform.python_version()}, {libraries}"


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", nargs="*", metavar="WORD", help="Measure sections with these words, and write nothing."
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence" / "performance.md")
    parser.add_argument("--hf-mem", default=sys.executable, metavar="PYTHON", help="A Python that has hf-mem.")
    arguments = parser.parse_args()
    sections = {
        "Cold": lambda: measure_cold(arguments.rounds),
        "What was asked before": lambda: measure_kept(arguments.rounds),
        "Without a model": lambda: measure_small(arguments.rounds),
        "Growth": lambda: measure_growth(arguments.rounds),
        "Plans and searches": lambda: measure_plans(arguments.rounds),
        "Beside other tools": lambda: measure_peers(arguments.rounds, arguments.hf_mem),
        "Many models": measure_sweep,
    }
    parts = []
    warm_up()
    wanted = arguments.only
    for title, section in sections.items():
        if wanted is not None and not any(word.lower() in title.lower() for word in wanted):
            continue
        parts.append(f"## {title}\n\n{section()}\n")
        print(parts[-1], flush=True)
    if wanted is not None:
        return
    head = f"""# What it costs

Written by one run of `python benchmarks/performance.py`: whole processes, those that are compared in turn,
medians of up to {arguments.rounds} rounds. Processor time is that of a process and of those that it started,
memory that of the largest.

Measured on {describe_machine()}.
"""
    arguments.output.write_text("\n".join((head, *parts)))


if __name__ == "__main__":
    main()
