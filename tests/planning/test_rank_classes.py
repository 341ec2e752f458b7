"""Ranks that differ are traced once each, and those that are alike run the same."""

from __future__ import annotations

from inspector.planning.many_cards.rank_classes import describe_rank_classes, find_largest_rank, list_rank_classes
from inspector.records.steps.ranks import Ddp, Fsdp2
from tests.distributed.test_fsdp2 import ask
from tests.planning.test_fewest_cards import SMALL, make_run


def test_ranks_that_hold_as_many_rows_of_every_parameter_are_one_kind() -> None:
    """16 rows over 64 ranks: one each for 16 of them. 151,936 over 64: 2,374 each. 896: 14. 65: 2 for 32, 1 for one."""
    assert list_rank_classes(Fsdp2(world_size=64), [151_936, 896]) == [range(64)]
    assert list_rank_classes(Fsdp2(world_size=64), [896, 16]) == [range(16), range(16, 64)]
    assert list_rank_classes(Fsdp2(world_size=64), [65]) == [range(32), range(32, 33), range(33, 64)]
    assert list_rank_classes(Fsdp2(world_size=7), [896, 4864]) == [range(6), range(6, 7)]
    assert list_rank_classes(Fsdp2(world_size=8, cpu_ram_efficient_loading=True), [896]) == [range(1), range(1, 8)]
    assert list_rank_classes(Ddp(world_size=7), [896, 4864]) == [range(7)]


def test_alike_ranks_have_one_tape_and_the_others_another() -> None:
    """576 rows over 5 ranks: 116 for four of them, 112 for the last."""
    run, predictor = make_run("24GiB", recipe={"seq_len": 16})
    tapes = [list(predictor.predict(run.with_cards(5).with_rank(rank)).tape) for rank in (0, 3, 4)]
    assert tapes[0] == tapes[1] != tapes[2]
    ranks = describe_rank_classes(run.with_cards(5), predictor)
    assert ranks is not None
    assert (ranks.rank, ranks.alike) == (0, 4)
    assert sorted((item.first, item.last) for item in ranks.classes) == [(0, 3), (4, 4)]
    totals = [item.total_bytes for item in ranks.classes]
    assert totals == sorted(totals, reverse=True)
    assert find_largest_rank(run.with_cards(5), predictor).rank == ranks.classes[0].first
    assert describe_rank_classes(run, predictor) is None


def test_a_report_lists_the_ranks_that_differ_and_is_of_the_one_that_takes_most() -> None:
    code, report = ask(SMALL, "--gpu", "3x4090", "--lora", "r=8")
    training, (verdict,) = report["training"], report["fit"]
    classes = training["ranks"]["classes"]
    assert code == 0
    assert [(item["first"], item["last"]) for item in classes] == [(0, 1), (2, 2)]
    assert training["ranks"] == verdict["cards"]["ranks"]
    assert training["peak_reserved_bytes"] == classes[0]["peak_reserved_bytes"]
