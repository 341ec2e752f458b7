"""`--fit`, advice and `inspect plan`: what was searched is what trying every value finds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from tests.cli.running import SMALL, Ran, assert_refused, run, written
from tests.contracts.json_table import closed, load_schema
from tests.source.weight_files import TINY_CONFIG

pytestmark = pytest.mark.usefixtures("shared_answers")

PLAN_SCHEMA = Draft202012Validator(closed(load_schema("plan")))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model of two small layers, traced in a moment."""
    return written(
        tmp_path_factory.mktemp("tiny"), {**TINY_CONFIG, "vocab_size": 4_000, "max_position_embeddings": 4_096}
    )


# A GPU without a known context keeps 665 MiB for one; a margin of 0 says that the size is what torch has.
ROOM = ("--gpu-memory=1GiB", "--margin=0")


def fits(model: str, *options: str) -> bool:
    """Tell whether a step fits, by the exit code alone."""
    ran = run(model, "--offline", "--json", *ROOM, "--no-advice", *options)
    assert ran.code in (0, 1), ran.err
    return ran.code == 0


@pytest.mark.parametrize(
    ("quantity", "options"),
    [
        ("batch-size", ("--seq-len", "256")),
        ("batch-size", ("--seq-len", "256", "--batch-size", "200", "--attention", "eager")),
        ("seq-len", ("--batch-size", "4")),
        ("seq-len", ("--batch-size", "2", "--attention", "eager", "--lora", "r=4", "--targets", "all-linear")),
    ],
)
def test_the_largest_batch_that_a_search_finds_fits_and_the_next_one_does_not(
    quantity: str, options: tuple[str, ...], tiny: str
) -> None:
    """So does brute force around it, in at most 12 traces; the report is of the step with the value."""
    report = run(tiny, "--offline", "--json", *ROOM, *options, "--fit", quantity).report
    search = report["search"]
    value = search["value"]
    assert (search["quantity"], search["gpu"], search["fails"]) == (quantity, "1 GiB", value + 1)
    assert search["traces"] == len(search["tried"]) <= 12
    assert [each["value"] for each in search["tried"] if each["fits"]][-1] == value
    around = [
        each for each in (value // 2, value - 1, value, value + 1, value + 2, 2 * value) if each <= search["most"]
    ]
    tried = {each: fits(tiny, *options, f"--{quantity}", str(each)) for each in around}
    assert tried == {each: each <= value for each in around}
    assert report["training"]["recipe"][quantity.replace("-", "_")] == value
    assert report["training"]["total_bytes"] == {each["value"]: each["total_bytes"] for each in search["tried"]}[value]


def test_the_largest_rank_is_that_of_the_adapter_in_the_report(tiny: str) -> None:
    """Every form in which an adapter is given can be turned up."""
    lora = run(tiny, "--offline", "--json", *ROOM, "--lora", "r=8", "--targets", "q_proj", "--fit", "rank").report
    config = json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]})
    peft = run(tiny, "--offline", "--json", *ROOM, "--peft", config, "--fit", "rank").report
    rank = lora["search"]["value"]
    assert lora["adapter"]["config"]["r"] == peft["adapter"]["config"]["r"] == rank == peft["search"]["value"]
    assert lora["search"]["fails"] in (None, rank + 1)


def test_a_range_that_fits_as_a_whole_ends_where_the_model_does(tmp_path: Path) -> None:
    """A model with learned positions runs no longer rows."""
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1}
    model = written(tmp_path, {**fields, "n_positions": 96, "vocab_size": 50})
    search = run(model, "--offline", "--json", "--gpu", "h200", "--fit", "seq-len", "--seq-len", "64").report["search"]
    assert (search["value"], search["most"], search["traces"]) == (96, 96, 2)  # 64 and 96
    assert "fails" not in search


def test_a_search_in_which_nothing_fits_reports_the_smallest_value_tried(tiny: str) -> None:
    """Exit code 1, and the report is of that step."""
    ran = run(tiny, "--offline", "--json", "--gpu-memory", "666MiB", "--fit", "batch-size", "--batch-size", "4")
    report = json.loads(ran.out)
    assert (ran.code, ran.err) == (1, "")
    assert "value" not in report["search"]
    assert report["search"]["tried"][0]["value"] == report["training"]["recipe"]["batch_size"] == 1
    text = run(tiny, "--offline", "--gpu-memory", "666MiB", "--fit", "batch-size", "--batch-size", "4")
    assert "no batch size fits: 1, the smallest tried, takes" in " ".join(text.out.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fit", "batch-size"), "add --gpu"),
        (("--fit", "width", "--gpu", "t4"), "batch-size"),
        (("--fit", "batch-size", "--gpu", "t4", "--count-only"), "--count-only"),
        (("--fit", "rank", "--gpu", "t4"), "add --lora"),
        (("--fit", "rank", "--gpu", "t4", "--peft", '{"peft_type": "LN_TUNING"}'), "add --lora"),
    ],
)
def test_a_search_that_cannot_be_is_refused(options: tuple[str, ...], says: str) -> None:
    """One line, code 2."""
    ran = run(SMALL, "--offline", *options)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_sequence_length_of_images_cannot_be_searched() -> None:
    """An image classifier takes no tokens."""
    assert_refused(run("google/vit-base-patch16-224", "--offline", "--gpu", "t4", "--fit", "seq-len"), 2, "use --fit")


def advice(ran: Ran) -> list[dict[str, Any]]:
    """Return the advice for the only GPU."""
    found: list[dict[str, Any]] = json.loads(ran.out)["fit"][0]["advice"]
    return found


def test_advice_is_options_with_which_the_step_fits(tiny: str) -> None:
    """Each piece given to the command makes it end with 0, at the total that was said."""
    options = (tiny, "--offline", "--json", *ROOM, "--batch-size", "16")
    ran = run(*options)
    assert ran.code == 1
    assert {each["purpose"] for each in advice(ran)} == {"fit"}
    for each in advice(ran):
        better = run(*options, "--no-advice", *each["change"].split())
        assert better.report["training"]["total_bytes"] == each["total_bytes"]


def test_advice_for_an_adapter_goes_as_far_as_a_base_of_4_bits(tmp_path: Path) -> None:
    """A wide model of which the weights are most: nothing else saves as much, and what is said holds."""
    fields = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "vocab_size": 1_000}
    model = written(tmp_path, {**TINY_CONFIG, **fields, "num_hidden_layers": 3})
    shared = (model, "--offline", "--json", "--lora", "r=1", "--targets", "all-linear", "--seq-len", "16")
    # 3 layers of 4 x 2,048^2 + 3 x 2,048 x 8,192 weights of 2 bytes are 384 MiB, of half a byte 96 MiB; 665 MiB are
    # kept for the context.
    tight = (*shared, "--gpu-memory", "960MiB", "--margin", "0")
    found = advice(run(*tight))
    assert [each["change"] for each in found] == ["--quantization nf4 --double-quant"]
    report = run(*tight, "--no-advice", *found[0]["change"].split()).report
    assert report["training"]["total_bytes"] == found[0]["total_bytes"]


def test_no_advice_where_no_gpu_is_named_and_where_none_is_wanted(tiny: str) -> None:
    """Nor does it cost a trace then."""
    large = ("--batch-size", "64")
    for options in ((*ROOM, "--no-advice"), (*ROOM, *large, "--no-advice"), ()):
        report = json.loads(run(tiny, "--offline", "--json", *options).out)
        assert [verdict for verdict in report["fit"] if "advice" in verdict] == []


def test_a_report_of_a_step_that_fits_lists_changes_that_use_the_headroom(tiny: str) -> None:
    """Each change alone, at the total that the command gives for it."""
    shared = (tiny, "--offline", "--json", *ROOM, "--seq-len", "2048")
    adapter = ("--lora", "r=4,dropout=0.1", "--targets", "all-linear", "--gradient-checkpointing")
    found = {each["change"]: each for each in run(*shared, *adapter).report["fit"][0]["advice"]}
    assert {each["purpose"] for each in found.values()} == {"turn-up"}
    plain = ("--lora", "r=4,dropout=0.1", "--targets", "all-linear")
    instead = {
        "--batch-size 2": (*adapter, "--batch-size", "2"),
        "--seq-len 4096": (*adapter, "--seq-len", "4096"),
        "without --gradient-checkpointing": plain,
        "--lora r=8,dropout=0.1": ("--lora", "r=8,dropout=0.1", "--targets", "all-linear", "--gradient-checkpointing"),
        "without --lora": ("--gradient-checkpointing",),
    }
    assert list(found) == list(instead)
    for change, options in instead.items():
        changed = run(*shared, "--no-advice", *options).report
        assert found[change]["total_bytes"] == changed["training"]["total_bytes"]


def test_what_does_not_fit_any_more_or_cannot_run_is_not_offered(tmp_path: Path) -> None:
    """Rows end where the positions of the model do; a batch of twice as many rows does not fit; text says so."""
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 64, "n_head": 2, "n_layer": 1}
    model = written(tmp_path, {**fields, "n_positions": 96, "vocab_size": 50_000})
    search = ("--offline", "--seq-len", "96", *ROOM)
    most = run(model, *search, "--fit", "batch-size", "--json").report["search"]["value"]
    ran = run(model, *search, "--batch-size", str(most))
    assert (ran.code, ran.err) == (0, "")
    assert "still fits with" not in ran.out
    some = run(model, *search, "--json").report["fit"][0]["advice"]
    assert [each["change"] for each in some] == ["--batch-size 2"]
    cut = run(model, "--offline", *ROOM, "--json").report["fit"][0]["advice"]
    assert cut == some  # rows of 1,024 tokens are cut to 96, and so are those of a larger batch


def test_a_model_without_tokens_gets_no_advice_on_sequence_length() -> None:
    """A model of images has none: a length that changes nothing is no advice."""
    room = ("--gpu", "t4", "--batch-size", "4", "--json")
    report = run("google/vit-base-patch16-224", "--offline", *room).report
    assert [each["change"] for each in report["fit"][0]["advice"]] == ["--batch-size 8"]


def test_a_warning_says_that_no_change_makes_the_step_fit(tiny: str) -> None:
    """With the least that was reached."""
    report = json.loads(run(tiny, "--offline", "--json", "--gpu-memory", "666MiB").out)
    assert report["fit"][0]["advice"] == []
    assert "nothing-fits" in [warning["code"] for warning in report["warnings"]]


def test_a_plan_has_for_each_candidate_the_figures_of_the_command(tiny: str) -> None:
    """Peaks and totals are those of `inspect MODEL` with the options of the row."""
    shared = (tiny, "--offline", "--json", *ROOM, "--seq-len", "64")
    plan = run("plan", *shared, "--fit", "none").report
    PLAN_SCHEMA.validate(plan)
    methods = [each["method"] for each in plan["rows"]]
    # One sequence has no padding: mostly flash-attn comes to the figures of sdpa and is left out.
    assert methods == ["full"] * 6 + ["adapter"] * 6 + ["quantized-adapter"] * 5
    # 8-bit AdamW alone, an adapter in the dtype of its base, packed weights with a paged optimizer, and unprepared.
    for each in (plan["rows"][index] for index in (2, 10, 13, 14)):
        report = run(*shared, "--no-advice", *each["options"].split()).report
        assert each["peak_allocated_bytes"] == report["training"]["peak_allocated_bytes"]
        assert each["total_bytes"] == report["training"]["total_bytes"]
        assert each["headroom_bytes"] == report["fit"][0]["headroom_bytes"]


def test_a_plan_names_the_conditions_of_its_candidates(tmp_path: Path) -> None:
    """Rows end where BERT's positions do, its search too; weights that are stored packed are traced in float."""
    fields = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "dtype": "bfloat16", "vocab_size": 60}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = written(tmp_path, {**fields, **sizes, "max_position_embeddings": 512})
    bert = run("plan", model, "--offline", "--json", "--gpu", "t4", "--fit", "seq-len").report
    assert "batch size 1, sequence length 512" in bert["recipe"]
    assert any("512" in warning for warning in bert["warnings"])
    assert {each["largest_seq_len"] for each in bert["rows"] if "refused" not in each} == {512}
    declared = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 400}
    model = written(tmp_path, {**TINY_CONFIG, **sizes, "quantization_config": declared})
    packed_base = ("plan", model, "--offline", "--json", "--gpu", "h200", "--fit", "none")
    assert any("packed weights" in warning for warning in run(*packed_base).report["warnings"])


def test_a_plan_in_which_only_shorter_sequences_would_fit_ends_with_1(tiny: str) -> None:
    """Its exit code is about the recipe that was asked for, searched or not."""
    tight = ("plan", tiny, "--offline", "--json", "--gpu-memory=720MiB", "--margin=0", "--quantization", "none")
    ran = run(*tight, "--seq-len", "65536", "--fit", "seq-len")
    rows = json.loads(ran.out)["rows"]
    assert (ran.code, {each["fits"] for each in rows if "refused" not in each}) == (1, {False})
    assert any(each["largest_seq_len"] for each in rows if "refused" not in each)


def test_a_batch_beyond_what_is_traced_is_one_line(tiny: str) -> None:
    """More tokens than values are kept for; the counts are there."""
    ran = run(tiny, "--offline", "--gpu", "4090", "--batch-size", "100000")
    assert (ran.code, len(ran.err.splitlines())) == (4, 1)
    assert "more than 67,108,864 tokens" in ran.err
    assert "not known" in ran.out


def packed(folder: Path) -> str:
    """Return the path of a tiny model that is stored in 4 bits."""
    declared = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}
    return written(folder, {**TINY_CONFIG, "vocab_size": 2_000, "quantization_config": declared})


def test_the_largest_batch_and_sequence_of_a_candidate_are_what_a_search_finds(tmp_path: Path) -> None:
    """A checkpoint of bitsandbytes has the packed candidates; with flash attention for all of them they are four.

    Rows are found to a multiple of 64: that one fits, and the next does not, as the command itself says.
    """
    flash = ("--attention", "flash_attention_2", "--mixed-precision", "bf16")
    where = (packed(tmp_path), "--offline", "--json", "--gpu-memory=700MiB", "--margin=0", *flash)
    rows = run("plan", *where, "--seq-len", "128").report["rows"]
    assert [each["method"] for each in rows] == ["quantized-adapter"] * 4
    options = rows[-1]["options"].split()
    search = run(*where, "--seq-len", "128", *options, "--fit", "batch-size").report["search"]
    assert rows[-1]["largest_batch_size"] == search["value"]
    longest = rows[-1]["largest_seq_len"]
    assert longest % 64 == 0
    assert [run(*where, *options, "--seq-len", str(length)).code for length in (longest, longest + 64)] == [0, 1]
    assert all(each["largest_batch_size"] >= 1 and each["largest_seq_len"] >= 128 for each in rows)


def test_a_plan_has_text_markdown_and_csv_and_can_be_sorted(tiny: str) -> None:
    """Text of 100 columns, Markdown, CSV with bytes; rows as they come or sorted."""
    quick = ("plan", tiny, "--offline", *ROOM, "--fit", "none", "--seq-len", "64")
    text, markdown, table = run(*quick), run(*quick, "--format", "markdown"), run(*quick, "--format", "csv")
    assert (text.code, markdown.code, table.code) == (0, 0, 0)
    assert max(map(len, text.out.splitlines())) <= 100
    assert "| fits | peak |" in " ".join(markdown.out.split())
    rows = list(csv.DictReader(io.StringIO(table.out)))
    assert [each["fits"] for each in rows] == ["true"] * 17
    by_total = list(csv.DictReader(io.StringIO(run(*quick, "--format", "csv", "--sort", "total").out)))
    totals = [int(each["total_bytes"]) for each in by_total]
    assert totals == sorted(totals)
    assert sorted(each["options"] for each in by_total) == sorted(each["options"] for each in rows)


def test_a_plan_of_which_nothing_fits_ends_with_1(tiny: str) -> None:
    """It is printed all the same."""
    ran = run("plan", tiny, "--offline", "--gpu-memory", "666MiB", "--fit", "none", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert {each["fits"] for each in json.loads(ran.out)["rows"]} == {False}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 2, "one GPU"),
        (("--gpu", "t4", "--gpu", "l4"), 2, "one GPU"),
        (("--gpu", "4900"), 2, "RTX 4090"),
        (("--gpu", "t4", "--json", "--format", "csv"), 2, "drop one"),
        (("--gpu-memory", "24"), 2, "no unit"),
        (("--gpu-memory", "0GiB"), 2, "more than 0"),
        (("--gpu", "t4", "--quantization", "int8", "--double-quant"), 2, "4-bit weights"),
        (("--gpu", "t4", "--lora", "r=8", "--targets", "nope"), 2, "nope"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: tuple[str, ...], code: int, says: str) -> None:
    """Before any work."""
    assert_refused(run("plan", SMALL, "--offline", *options), code, says)


def methods_of(*arguments: str) -> list[str]:
    """Return the method of each row of a plan."""
    ran = run("plan", *arguments, "--offline", "--json", "--gpu", "h200", "--fit", "none", "--seq-len", "32")
    return [each["method"] for each in ran.report["rows"]]


def test_a_plan_has_the_candidates_that_the_model_allows(tmp_path: Path, tiny: str) -> None:
    """An adapter trains as it is or on packed weights; what is stored packed by bitsandbytes stays so."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    fields = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": tiny}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    assert methods_of(str(adapter)) == ["adapter"] * 6 + ["quantized-adapter"] * 5
    assert methods_of(tiny, "--quantization", "none") == ["full"] * 6 + ["adapter"] * 6
    # Each way once: with flash attention for all rows those that differ by it are one.
    assert methods_of(tiny, "--attention", "flash_attention_2", "--quantization", "fp4") == (
        ["full"] * 6 + ["adapter"] * 6 + ["quantized-adapter"] * 4
    )
    stored = tmp_path / "packed"
    stored.mkdir()
    assert methods_of(packed(stored)) == ["quantized-adapter"] * 4


def test_a_plan_gives_the_reason_why_a_candidate_cannot_be_traced(tiny: str) -> None:
    """A T4 has no flash attention; the other rows are there."""
    rows = run("plan", tiny, "--offline", "--json", "--gpu", "t4", "--fit", "none", "--seq-len", "32").report["rows"]
    refused = {each["options"]: each["refused"] for each in rows if "refused" in each}
    assert len(refused) == 8
    assert all("flash_attention_2" in options and "8.0" in why for options, why in refused.items())


def test_a_plan_of_a_model_without_tokens_has_no_longest_sequence(tmp_path: Path) -> None:
    """Images have no length."""
    fields = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 32}
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
    model = written(tmp_path, {**fields, **sizes, "patch_size": 16, "dtype": "bfloat16"})
    rows = run("plan", model, "--offline", "--json", *ROOM, "--quantization", "none").report["rows"]
    assert [each for each in rows if "largest_seq_len" in each] == []
    assert all(each["largest_batch_size"] > 0 for each in rows if "refused" not in each)


@pytest.mark.parametrize(("option", "value"), [("--optimizer", "sgd"), ("--sort", "size"), ("--fit", "rank")])
def test_what_a_plan_does_not_take_is_refused(option: str, value: str) -> None:
    """What it varies itself, and what it does not know."""
    ran = run("plan", SMALL, "--offline", "--gpu", "t4", option, value)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert option in ran.err


def test_the_rank_of_a_named_adapter_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    """Its rank is part of what is stored; there is no second refusal behind the first."""
    config = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": SMALL}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    ran = run(str(tmp_path), "--offline", "--gpu", "4090", "--fit", "rank")
    assert_refused(ran, 2, "is part of what is stored")
    assert "use --fit batch-size" in ran.err
    assert SMALL in ran.err


def test_a_search_says_that_the_next_value_fits_tightly_where_its_own_verdict_does(tiny: str) -> None:
    """Without a margin asked for, what is not known of the card stays free, and the next value eats into it."""
    options = ("--seq-len", "256", "--gpu-memory=4GiB", "--offline", "--no-advice")
    search = run(tiny, *options, "--json", "--fit", "batch-size").report["search"]
    following = run(tiny, *options, "--json", "--batch-size", str(search["fails"])).report["fit"][0]["outcome"]
    assert following == "tight"
    assert next(each["value"] for each in search["tried"] if each.get("is_tight")) == search["fails"]
    text = " ".join(run(tiny, *options, "--fit", "batch-size").out.split())
    assert f"batch size {search['value']:,} fits with the margin, {search['fails']:,} only tightly" in text


def test_a_larger_rank_that_takes_less_in_all_is_not_offered_as_more(tmp_path: Path) -> None:
    """Of rank 8 the allocator reserves one segment of 2 MiB less here than of rank 4: nothing is turned up by it."""
    sizes = {"vocab_size": 4_000, "max_position_embeddings": 4_096, "hidden_size": 256, "intermediate_size": 512}
    options = ("--offline", "--json", "--gpu", "t4", "--seq-len", "256", "--batch-size", "2", "--targets", "all-linear")
    model = written(tmp_path, {**TINY_CONFIG, **sizes})
    report = run(model, *options, "--lora", "r=4").report
    larger = run(model, *options, "--no-advice", "--lora", "r=8").report["training"]["total_bytes"]
    assert larger < report["training"]["total_bytes"]
    offered = {each["change"]: each["total_bytes"] for each in report["fit"][0]["advice"]}
    assert "--batch-size 4" in offered
    assert "--lora r=8" not in offered
    assert min(offered.values()) >= report["training"]["total_bytes"]
