"""Help, the version, completion and usage errors are answered at once: without the libraries that build models."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.running import run_process, script

HEAVY = (
    *("torch", "transformers", "peft", "accelerate", "huggingface_hub", "numpy", "rich", "jinja2", "gradio"),
    *("tqdm", "httpx", "httpx2"),
)


def heavy_imports(*command: str, environment: dict[str, str] | None = None) -> tuple[str, set[str]]:
    """Run a command; return its output and which of the heavy libraries it imported."""
    ran = run_process(*command, environment={**(environment or {}), "PYTHONPROFILEIMPORTTIME": "1"})
    imported = [line.rpartition("|")[2].strip() for line in ran.err.splitlines() if line.startswith("import time:")]
    assert "inspector.cli.main" in imported, "the profile is there, so that an empty answer means something"
    return ran.out, {name.partition(".")[0] for name in imported} & set(HEAVY)


def completed(words: str, count: int) -> tuple[list[str], set[str]]:
    """Ask for the completion of the last of `words` as bash does."""
    environment = {"_INSPECT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    out, heavy = heavy_imports(script("inspect"), environment=environment)
    return [line.partition(",")[2] for line in out.splitlines()], heavy


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("app", "--help"),
        ("x", "--depth", "y"),
        ("x", "--lora", "r=0"),
        ("x", "--gpu", "y"),
    ],
)
def test_what_needs_no_model_loads_no_library(arguments: tuple[str, ...]) -> None:
    """Seconds of importing would be for nothing."""
    assert heavy_imports(script("inspect"), *arguments)[1] == set()


def test_a_model_that_is_not_there_takes_the_settings_of_the_client_alone() -> None:
    """What talks to a Hub takes longer to import than everything else that it takes to say so."""
    assert heavy_imports(script("inspect"), "no/such-model", "--offline")[1] <= {"huggingface_hub"}


def test_the_profile_sees_what_an_inspection_loads() -> None:
    """The tests above could fail."""
    assert {"torch", "transformers", "peft"} <= heavy_imports(script("inspect"), "gpt2", "--offline")[1]


def test_importing_the_package_loads_no_library() -> None:
    """`import inspector` is cheap; `inspector.inspect` is what costs."""
    program = f"import inspector, inspector.cli.main, sys; print(sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_works_an_answer_out_loads_no_torch_before_a_model_is_built() -> None:
    """What follows from a kept trace takes none of it (`inspector.cache`)."""
    modules = "inspector.pipeline, inspector.planning.verdicts, inspector.predict.predictor, inspector.predict.findings"
    program = (
        f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'peft', 'accelerate'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_each_shell_is_printed(shell: str) -> None:
    """The script calls the command back by its own name."""
    out, heavy = heavy_imports(script("inspect"), environment={"_INSPECT_COMPLETE": f"{shell}_source"})
    assert f"_INSPECT_COMPLETE={shell}_complete" in out
    assert heavy == set()


def test_the_other_name_of_the_command_completes_too() -> None:
    """`model-inspect` has a script, and a variable, of its own."""
    out, heavy = heavy_imports(script("model-inspect"), environment={"_MODEL_INSPECT_COMPLETE": "bash_source"})
    assert "_MODEL_INSPECT_COMPLETE=bash_complete" in out
    assert heavy == set()


def test_ids_of_the_catalogue_are_completed() -> None:
    """Typing `Qwen/Qw` and the tab key offers the Qwen models, without loading anything."""
    found, heavy = completed("inspect Qwen/Qw", 1)
    assert {"Qwen/QwQ-32B", "Qwen/Qwen2.5-0.5B"} <= set(found)
    assert all(name.startswith("Qwen/Qw") for name in found)
    assert heavy == set()


def test_subcommands_and_gpus_are_completed() -> None:
    """A subcommand stands beside the models, with options of its own; names of GPUs are one word each."""
    assert completed("inspect gp", 1)[0][0] == "gpus"
    assert completed("inspect gpus --f", 2)[0] == ["--format"]
    assert completed("inspect x --gpu a100", 3) == (["a100-40gb", "a100-80gb"], set())


def test_ids_are_completed_in_any_case() -> None:
    """The Hub does not care for case, and neither do people."""
    assert completed("inspect qwen/qwq", 1)[0] == ["Qwen/QwQ-32B"]


def test_options_and_their_choices_are_completed() -> None:
    """What follows an option is offered where it is one of a few."""
    assert completed("inspect Qwen/QwQ-32B --mod", 2)[0] == ["--model-class", "--modules-to-save"]
    assert completed("inspect Qwen/QwQ-32B --format ", 3)[0] == ["text", "json", "markdown", "html", "memory-viz"]


@pytest.mark.parametrize("option", ["--output", "--peft"])
def test_names_of_files_are_completed(option: str) -> None:
    """The shell is told to offer files."""
    environment = {"_INSPECT_COMPLETE": "bash_complete", "COMP_WORDS": f"inspect x {option} fi", "COMP_CWORD": "3"}
    assert heavy_imports(script("inspect"), environment=environment)[0] == "file,fi\n"


@pytest.mark.parametrize("typed", ["./", "/", "~/", "../mod", "no-id-starts-so"])
def test_a_model_that_looks_like_a_path_is_completed_as_a_file(typed: str) -> None:
    """MODEL may be a directory or a config.json."""
    environment = {"_INSPECT_COMPLETE": "bash_complete", "COMP_WORDS": f"inspect {typed}", "COMP_CWORD": "1"}
    out, heavy = heavy_imports(script("inspect"), environment=environment)
    assert out.splitlines() == [f"file,{typed}"]
    assert heavy == set()
