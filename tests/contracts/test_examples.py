"""What pages quote of the command and of Python is what comes out: `python -m tests.contracts.examples` writes it."""

from __future__ import annotations

import pytest

from tests.contracts.examples import PAGES, Example, list_examples, make_anew

EXAMPLES = [example for page in PAGES for example in list_examples(page)]


def test_the_readme_has_examples_of_the_command_and_of_python() -> None:
    kinds = {example.kind for example in EXAMPLES if example.page.name == "README.md"}
    assert kinds == {"console", "python"}


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_prints_what_its_page_quotes(example: Example) -> None:
    assert make_anew(example).splitlines() == example.text.splitlines()


def test_the_first_example_of_the_readme_is_the_first_screen() -> None:
    first = next(example for example in EXAMPLES if example.page.name == "README.md")
    assert first.text.startswith("$ inspect ")
    assert 10 < len(first.text.splitlines()) <= 29
