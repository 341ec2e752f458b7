"""Predicted beside measured as people see it, and as the record that tests/evidence/truth takes."""

from __future__ import annotations

import dataclasses
import io
import json

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # ships no types

from inspector.records.measurement import Difference, Measurement, RankFigures
from inspector.records.tape import Phase
from inspector.render.measurement import build_measurement_document, build_record, render_measurement_json
from inspector.render.writers.text import write_text
from inspector.workloads.registry import GENERATE
from tests.contracts.json_table import DOCS
from tests.measure.measurements import GIB, figures, measurement


def text(**changes: object) -> str:
    """Return what a measurement looks like on 100 columns."""
    stream = io.StringIO()
    write_text(build_measurement_document(measurement(**changes)), width=100, color=False, stream=stream)  # type: ignore[arg-type]
    return stream.getvalue()


LAUNCH = {"strategy": "fsdp2", "world_size": 2, "rank": 0, "group": "nccl"}


def of_ranks(**launch: object) -> Measurement:
    """Return a measurement of two ranks, of which the second took 4,096 bytes more than predicted."""
    place = Difference(step=1, phase=Phase.FORWARD, module="", op="fsdp.chunk_cat", measured=(4096,), predicted=())
    own = measurement(process_bytes=3 * GIB)
    other = RankFigures(
        rank=1, gpu=own.gpu, measured=figures(4096), predicted=figures(), differing=[place], differing_count=1
    )
    return dataclasses.replace(own, launch={**LAUNCH, **launch}, others=[other])


def show(found: Measurement) -> str:
    """Return what a measurement looks like on 100 columns."""
    stream = io.StringIO()
    write_text(build_measurement_document(found), width=100, color=False, stream=stream)
    return stream.getvalue()


def test_every_rank_has_its_peaks_their_differences_and_the_op_that_differs_first() -> None:
    shown = show(of_ranks())
    assert "rank 0 of 2, fsdp2, by nccl" in shown
    lines = [line.split() for line in shown.partition("Each rank")[2].partition("Allocated by phase")[0].splitlines()]
    assert ["0", "2,147,483,648", "0", "3,221,225,472", "0", "–"] in lines
    second = ["1", "2,147,487,744", "-4,096", "3,221,225,472", "0", "fsdp.chunk_cat,", "forward", "of", "step", "1"]
    assert second in lines
    assert "the other ranks are not there" in show(of_ranks(group="fake"))


def test_the_first_rank_alone_tells_what_all_ranks_of_a_launcher_took() -> None:
    assert not of_ranks().is_told_by_another
    assert of_ranks(rank=1).is_told_by_another
    alone = dataclasses.replace(of_ranks(rank=3, group="fake"), others=[])
    assert not alone.is_told_by_another


def test_a_measurement_equal_to_its_prediction_says_that_the_figures_are_equal() -> None:
    shown = text(process_bytes=3 * GIB)
    assert "as predicted, to the byte" in shown
    assert "+0" not in shown
    # 3 GiB + 100 predicted, 3 GiB measured
    assert "nvidia-smi, this process  3,221,225,572  3,221,225,472        +100" in shown


def test_a_difference_names_the_op_and_its_module() -> None:
    place = Difference(
        step=1, phase=Phase.FORWARD, module="layers.3.mlp", op="aten.mm.default", measured=(4096,), predicted=()
    )
    shown = text(extra=4096, differing=[place])
    assert "The first allocation that differs: aten.mm.default in layers.3.mlp, forward of step 1" in shown
    # predicted 2 GiB, measured 4,096 bytes more
    assert "peak allocated            2,147,483,648  2,147,487,744      -4,096" in shown
    assert "to the byte" not in shown


def test_a_measurement_distinguishes_equal_sizes_in_other_blocks() -> None:
    assert "the blocks that the allocator took for them are not" in text(extra=512)


def test_a_quantized_base_is_named() -> None:
    packed = {"method": "nf4", "source": "request", "double_quant": True}
    assert "LlamaForCausalLM, bfloat16, full fine-tuning on nf4, double quantization; random weights" in text(
        quantization=packed
    )
    assert " on " not in text().splitlines()[1]


def test_a_measured_generation_says_its_own_options_and_records_those_that_it_reads() -> None:
    lines = text(workload=GENERATE).splitlines()
    assert lines[1].startswith("LlamaForCausalLM, bfloat16, generation; random weights")
    assert lines[2] == "batch size 2, padding True, new tokens 256"
    record = build_record(measurement(workload=GENERATE))
    assert record["workload"] == "generate"
    assert record["recipe"].keys() <= GENERATE.recipe_fields
    assert "workload" not in build_record(measurement())
    assert "new tokens" not in text()


def test_what_the_driver_does_not_say_is_a_dash() -> None:
    (line,) = (line for line in text().splitlines() if "nvidia-smi" in line)
    assert line.split()[-2:] == ["–", "–"]


def test_the_record_follows_its_schema() -> None:
    schema = json.loads((DOCS / "measurement.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    place = Difference(step=1, phase=Phase.FORWARD, module="", op="aten.mm.default", measured=(4096,), predicted=())
    packed = {"method": "nf4", "source": "request", "double_quant": True}
    for found in (
        measurement(),
        measurement(extra=1, process_bytes=5, differing=[place]),
        measurement(quantization=packed),
        measurement(workload=GENERATE),
        of_ranks(),
    ):
        written = json.loads(json.dumps(build_record(found)))
        Draft202012Validator(schema).validate(written)
        assert written.keys() <= schema["properties"].keys()
        assert written["gpu"].keys() <= schema["properties"]["gpu"]["properties"].keys()


def test_the_record_has_every_figure_and_no_nulls() -> None:
    stream = io.StringIO()
    render_measurement_json(measurement(extra=1), stream)
    found = json.loads(stream.getvalue())
    assert found == json.loads(json.dumps(build_record(measurement(extra=1))))
    assert (found["schema"], found["source"]) == ("inspector-measurement/1", "inspect measure")
    assert found["measured"]["phases"][1] == {
        "name": "forward",
        "step": 1,
        "end_allocated_bytes": 2 * GIB,
        "peak_allocated_bytes": 2 * GIB + 1,
        "end_reserved_bytes": 3 * GIB,
        "peak_reserved_bytes": 3 * GIB,
    }
    assert found["recipe"]["batch_size"] == 2
    assert not {"config", "adapter", "notices", "differing"} & found.keys()
    assert "null" not in stream.getvalue()
