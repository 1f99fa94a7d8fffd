"""The benchmarks run, at toy size, and record what their readers expect. No test here looks at a time."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import attention as bench  # noqa: E402
import claim_A1  # noqa: E402
import claim_A2  # noqa: E402


def test_rivals_are_compared_in_every_block():
    found = bench.compare({"toy": (2, 8, 16, 2)}, repeats=3, devices=["cpu"])
    rivals = {"attend": {"F.scaled_dot_product_attention"}, "MultiHeadAttention": {"nn.MultiheadAttention"},
              "EncoderLayer": {"nn.TransformerEncoderLayer", "BertLayer (sdpa)", "BertLayer (eager)"}}
    assert set(found) == {f"cpu/{block}/toy/{way}/{rival}" for block, names in rivals.items() for rival in names
                          for way in ("forward", "forward + backward")}
    for figure in found.values():
        assert set(figure) == {"ratio", "ours ms", "turns"} and figure["turns"]["n"] == 3 and figure["ratio"] > 0


def test_rivals_do_equal_work():
    "As many parameters, the same shape out; without parameters the same numbers out."
    x = torch.randn(2, 8, 16)
    for block in bench.rivals(2, 8, 16, 2, "cpu").values():
        sizes = {0 if module is None else sum(p.numel() for p in module.parameters()) for module, _ in block.values()}
        outs = [function(x) for _, function in block.values()]
        assert len(sizes) == 1 and {out.numel() for out in outs} == {x.numel()}
        if sizes == {0}:
            assert torch.allclose(*outs, atol=1e-6)


def test_memory_record_has_every_length_and_both_ways():
    found = bench.memory((128, 2048), devices=["cpu"])
    assert set(found) == {f"cpu/{way}/{n}" for way in ("written out", "fused") for n in (128, 2048)}
    assert found["cpu/written out/2048"] > found["cpu/fused/2048"] >= 0


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_recall_can_be_learned_and_the_last_place_is_the_last_place(kind):
    model, (symbols, marks, right) = claim_A1.Reader(kind), claim_A1.recall(4, 5, torch.Generator().manual_seed(0))
    assert marks[:, 0].eq(1).all() and marks[:, 1:].eq(0).all() and torch.equal(symbols[:, 0], right)
    everywhere = model(symbols, marks, everywhere=True)
    assert everywhere.shape == (4, 6, claim_A1.SYMBOLS)
    assert torch.allclose(everywhere[:, -1], model(symbols, marks), atol=1e-6)
    assert 0 <= claim_A1.train(kind, 3, 0, steps=2) <= 1


def test_readers_are_of_equal_size():
    a, b = (sum(p.numel() for p in claim_A1.Reader(kind).middle.parameters()) for kind in ("attention", "lstm"))
    assert abs(a - b) / a < 0.05


def test_verdicts_follow_the_figures():
    right = {f"{name}/{h}": {"values": [0.1, 0.2, 0.1] if h == 1 or name.startswith(("16", "real")) and h == 8
                             else [0.9, 1.0, 1.0]}
             for name in (*claim_A2.SETTINGS, "real: subgroup from picture") for h in claim_A2.HEADS}
    assert "wide enough" in claim_A2.verdict(right) and "[2, 4] heads beat one" in claim_A2.verdict(right)
    for h in claim_A2.HEADS:
        right[f"real: subgroup from picture/{h}"] = {"values": [0.3, 0.3, 0.3]}
    assert claim_A2.verdict(right).endswith("no number of heads beat one")
    right["attention alone/2"] = right["attention alone/1"]
    assert claim_A2.verdict(right).startswith("not resolved")
    recalled = {f"attention/{d}": {"values": [1.0, 1.0, 1.0]} for d in claim_A1.DISTANCES}
    spent = {f"cpu/{n}": {"lstm / attention": {"mean": 512 / n}} for n in claim_A1.LENGTHS}
    assert "slower one at 2048 places" in claim_A1.verdict(recalled, spent)
    recalled["attention/16"] = {"values": [1.0, 0.5, 1.0]}
    assert claim_A1.verdict(recalled, spent).startswith("not resolved")


def test_cards_are_dealt_fairly():
    symbols, numbers, asked, right = claim_A2.deal(50, 8, 2, torch.Generator().manual_seed(0))
    assert symbols.sort(1).values.eq(torch.arange(8)).all() and (asked[:, 0] != asked[:, 1]).all()
    assert torch.equal(numbers[torch.arange(50), asked[:, 1]], right[:, 1])


@pytest.mark.parametrize("setting", claim_A2.SETTINGS)
def test_players_of_any_number_of_heads_are_of_equal_size(setting):
    runs = [claim_A2.play(heads, 0, **{**claim_A2.SETTINGS[setting], "steps": 1}) for heads in claim_A2.HEADS]
    assert len({size for _, size in runs}) == 1 and all(0 <= share <= 1 for share, _ in runs)


def test_judges_learn_from_tokens():
    tokens, labels = torch.randn(6, 9, 20), torch.tensor([0, 1, 2, 0, 1, 2])
    share, size = claim_A2.judge(2, 0, (tokens, labels), (tokens, labels), epochs=1)
    assert 0 <= share <= 1 and size == claim_A2.judge(8, 0, (tokens, labels), (tokens, labels), epochs=1)[1]
