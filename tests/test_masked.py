"""Chapter 6, masked language modelling: who is hidden, what the loss counts, what is learned, and what is refused."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmtutor.masked import (
    NOT_ASKED,
    MaskedLanguageModel,
    docstring_sentences,
    fill,
    initialise,
    length_batches,
    mask_tokens,
    masked_loss,
    pieces_to_hide,
    pretrain,
    score_blanks,
)
from mmtutor.text import SPECIAL, TextConfig, TextEncoder, bert_name, train_wordpiece

COLOURS, THINGS = ("red", "green", "blue"), ("apple", "house", "boat", "tree")
TEXTS = [f"the {colour} {thing}" for colour in COLOURS for thing in THINGS]
MASK = SPECIAL.index("[MASK]")


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(TEXTS, 90)


def small(tokenizer, seed: int = 0, dim: int = 16) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    config = TextConfig(vocabulary=tokenizer.get_vocab_size(), dim=dim, heads=2, depth=1, hidden=2 * dim, max_length=12)
    return initialise(MaskedLanguageModel(TextEncoder(config, tokenizer)), dim).eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- masking

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 12), st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 8))
def test_special_pieces_and_padding_are_never_asked_for_or_changed(rows, width, seed, share, special):
    ids = torch.randint(0, 20, (rows, width), generator=seeded(seed))
    mask = torch.rand(rows, width, generator=seeded(seed + 1)) < 0.8
    ordinary = torch.arange(special, 20)
    read, target = mask_tokens(ids, mask, ordinary, 0, share=share, generator=seeded(seed))
    may, asked = mask & (ids >= special), target != NOT_ASKED
    assert not asked[~may].any()
    assert torch.equal(read[~asked], ids[~asked]) and torch.equal(target[asked], ids[asked])
    changed = read[asked]
    assert ((changed == 0) | (changed >= special)).all(), "no special piece but [MASK] is drawn"
    assert share > 0 or not asked.any()
    assert share < 1 or torch.equal(asked, may)


def test_shares_are_those_of_the_paper():
    "Four standard deviations of a fair draw; another piece is, once in 995 draws, the same one."
    ids = torch.randint(5, 1000, (400, 500), generator=seeded(0))
    read, target = mask_tokens(ids, torch.ones_like(ids).bool(), torch.arange(5, 1000), MASK, generator=seeded(1))
    asked = target != NOT_ASKED
    of = asked.sum().item()
    for count, total, p in ((of, ids.numel(), 0.15), ((asked & (read == MASK)).sum().item(), of, 0.8),
                            ((asked & (read == ids)).sum().item(), of, 0.1 + 0.1 / 995),
                            ((asked & (read != MASK) & (read != ids)).sum().item(), of, 0.1 * 994 / 995)):
        assert abs(count / total - p) < 4 * math.sqrt(p * (1 - p) / total), (count, total, p)
    others = torch.bincount(read[asked & (read != MASK) & (read != ids)], minlength=1000)[5:]
    assert (others > 0).float().mean() > 0.9, "the other piece is drawn from all"


def test_masking_is_repeatable_and_differs_between_seeds():
    ids = torch.randint(5, 100, (8, 30), generator=seeded(0))
    every = torch.ones_like(ids).bool()
    draws = [mask_tokens(ids, every, torch.arange(5, 100), MASK, generator=seeded(s)) for s in (3, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1]))
    assert not torch.equal(draws[0][1], draws[2][1])
    assert ids.min() >= 5, "the input is left alone"


@pytest.mark.bad_input
def test_masking_refuses():
    ids, mask = torch.full((2, 3), 7), torch.ones(2, 3).bool()
    for share in (-0.1, 15, math.nan):
        with pytest.raises(ValueError, match=f"share of {share}.*from 0 to 1"):
            mask_tokens(ids, mask, torch.arange(5, 9), MASK, share=share)
    with pytest.raises(ValueError, match="0 ordinary pieces.*at least one piece"):
        mask_tokens(ids, mask, torch.arange(0), MASK)
    with pytest.raises(ValueError, match=r"ids \(2, 3\) and a torch.float32 mask \(2, 3\).*torch.bool"):
        mask_tokens(ids, mask.float(), torch.arange(5, 9), MASK)
    with pytest.raises(ValueError, match=r"mask \(2, 2\), expected the same shape"):
        mask_tokens(ids, mask[:, 1:], torch.arange(5, 9), MASK)
    with pytest.raises(ValueError, match=r"torch.float32 ids \(2, 3\).*whole numbers"):
        mask_tokens(ids.float(), mask, torch.arange(5, 9), MASK)
    with pytest.raises(ValueError, match=r"length_batches: got a torch.bool mask \(2, 3\) for batches of 0"):
        length_batches(mask, 0, seeded(0))
    with pytest.raises(ValueError, match="initialise: got a width of 0"):
        initialise(torch.nn.Linear(2, 2), 0)


def test_pieces_to_hide_are_all_but_the_special_ones(tokenizer):
    ordinary, mask_id = pieces_to_hide(small(tokenizer).encoder)
    assert mask_id == MASK and ordinary.tolist() == list(range(len(SPECIAL), tokenizer.get_vocab_size()))
    real = TextEncoder.from_pretrained()  # other numbers: [UNK] is 100, [MASK] is 103
    ordinary, mask_id = pieces_to_hide(real)
    assert mask_id == 103 and not set(ordinary.tolist()) & {0, 100, 101, 102, 103} and len(ordinary) == 30_522 - 5


# --- head and loss

def test_equal_to_transformers_in_float64(tokenizer):
    from transformers import BertConfig, BertForMaskedLM
    torch.manual_seed(2)
    theirs = BertForMaskedLM(BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    names = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm",
             "cls.predictions.bias": "bias"}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        start = next((n for n in names if name.startswith(n)), None)
        tensors[names[start] + name.removeprefix(start) if start else
                "encoder." + bert_name(name.removeprefix("bert."))] = tensor
    ours = small(tokenizer).double()
    ours.load_state_dict({k: v for k, v in tensors.items() if "decoder" not in k})
    ids, mask = ours.encoder.prepare(TEXTS + ["apple"])
    read, target = mask_tokens(ids, mask, *pieces_to_hide(ours.encoder), share=0.4, generator=seeded(0))
    reference = theirs(read, attention_mask=mask.long(), labels=target)
    assert (ours(read, mask) - reference.logits)[mask].abs().max() < 1e-12
    assert (masked_loss(ours, read, mask, target) - reference.loss).abs() < 1e-12
    asked = target != NOT_ASKED
    assert torch.equal(ours(read, mask, asked), ours(read, mask)[asked])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 1))
def test_loss_is_torchs_with_ignore_index(tokenizer, seed, share):
    model = small(tokenizer, seed % 3).double()
    ids, mask = model.encoder.prepare(TEXTS[:4] + ["", "boat"])
    read, target = mask_tokens(ids, mask, *pieces_to_hide(model.encoder), share=share, generator=seeded(seed))
    scores = model(read, mask)
    if (target == NOT_ASKED).all():
        assert masked_loss(model, read, mask, target) == 0
        return
    expected = F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=NOT_ASKED)
    found = masked_loss(model, read, mask, target)
    assert (found - expected).abs() < 1e-12
    learned = [model.encoder.token.weight, model.bias]
    for a, b in zip(*(torch.autograd.grad(loss, learned) for loss in (found, expected))):
        assert (a - b).abs().max() < 1e-12


def test_nothing_asked_for_is_zero_with_a_gradient_of_zero(tokenizer):
    model = small(tokenizer)
    ids, mask = model.encoder.prepare(["", ""])
    loss = masked_loss(model, *mask_tokens(ids, mask, *pieces_to_hide(model.encoder), share=1.0)[:1], mask,
                       torch.full_like(ids, NOT_ASKED))
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_weights_are_tied_and_small(tokenizer):
    model = small(tokenizer, dim=64)
    vocabulary = tokenizer.get_vocab_size()
    assert not any(p.shape == (vocabulary, 64) for n, p in model.named_parameters() if n != "encoder.token.weight")
    expected = 0.02 * math.sqrt(768 / 64)
    assert model.encoder.token.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert model.dense.weight.std().item() == pytest.approx(expected, rel=0.05) and not model.dense.bias.any()
    ids, mask = model.encoder.prepare(TEXTS)
    read, target = mask_tokens(ids, mask, *pieces_to_hide(model.encoder), share=0.5, generator=seeded(0))
    assert abs(masked_loss(model, read, mask, target).item() - math.log(vocabulary)) < 0.6


# --- training

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=0, max_size=40), st.integers(1, 7), st.integers(0, 1000))
def test_length_batches_hold_every_row_once_and_like_lengths(lengths, size, seed):
    mask = torch.arange(9) < torch.tensor(lengths, dtype=torch.long)[:, None]
    batches = length_batches(mask, size, seeded(seed))
    assert sorted(i for b in batches for i in b.tolist()) == list(range(len(lengths)))
    spans = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches if len(b))
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])), "no batch reaches into the lengths of another"


def test_pretraining_learns_is_repeatable_and_ends_in_eval_mode(tokenizer):
    seen, runs = [], []
    for seed in (0, 0, 1):
        model = small(tokenizer, dim=32)
        ids, mask = model.encoder.prepare(TEXTS)
        runs.append(pretrain(model, ids, mask, steps=150, batch=6, rate=1e-2, seed=seed,
                             after=seen.append if not seen else lambda step: None))
        assert not model.training
    assert runs[0] == runs[1] and runs[0] != runs[2]
    assert len(runs[0]) == 150 and sum(runs[0][-20:]) < 0.5 * sum(runs[0][:20])
    words = [piece for piece, _ in fill(model, "the [MASK] apple", 3)[0]]
    assert set(words) == set(COLOURS)
    before = fill(model, "the red [MASK]", 4)[0]
    assert {piece for piece, _ in before} == set(THINGS) and sum(p for _, p in before) > 0.7
    assert score_blanks(model, ids, mask) == score_blanks(model, ids, mask) != score_blanks(model, ids, mask, seed=5)
    loss, right = score_blanks(model, ids, mask)
    assert 0 <= right <= 1 and loss < math.log(tokenizer.get_vocab_size())


def test_after_is_called_at_every_step(tokenizer):
    model, seen = small(tokenizer), []
    pretrain(model, *model.encoder.prepare(TEXTS), steps=3, batch=5, after=seen.append)
    assert seen == [0, 1, 2]


def test_fill_finds_every_blank_and_gives_probabilities(tokenizer):
    model = small(tokenizer)
    found = fill(model, "[MASK] red [MASK]", best=1000)
    assert len(found) == 2 and all(len(row) == tokenizer.get_vocab_size() for row in found)
    for row in found:
        chances = [p for _, p in row]
        assert sum(chances) == pytest.approx(1, abs=1e-5) and chances == sorted(chances, reverse=True)


@pytest.mark.bad_input
def test_what_cannot_be_trained_or_filled(tokenizer):
    model = small(tokenizer)
    ids, mask = model.encoder.prepare(TEXTS)
    with pytest.raises(ValueError, match=r"no \[MASK\] in 'the red apple'; write it in capitals"):
        fill(model, "the red apple")
    with pytest.raises(ValueError, match="got the 0 best pieces"):
        fill(model, "the [MASK]", 0)
    with pytest.raises(ValueError, match=r"a torch.bool where \(12,\), expected torch.bool"):
        model(ids, mask, mask[:, 0])
    with pytest.raises(ValueError, match="masked_loss: got targets torch.int64 that are no piece"):
        masked_loss(model, ids, mask, ids + 99)
    with pytest.raises(ValueError, match="score_blanks: seed 0 hides no piece"):
        score_blanks(model, *model.encoder.prepare([""]))
    with pytest.raises(ValueError, match="pretrain: got ids.*a rate of -1"):
        pretrain(model, ids, mask, steps=1, rate=-1)
    with pytest.raises(ValueError, match="got 0 rows and 5 steps"):
        pretrain(model, ids[:0], mask[:0], steps=5)
    with pytest.raises(ValueError, match="got 12 rows and 0 steps"):
        pretrain(model, ids, mask, steps=0)
    bare = MaskedLanguageModel(TextEncoder(model.encoder.config))
    for call in (lambda: pretrain(bare, ids, mask, steps=1), lambda: score_blanks(bare, ids, mask)):
        with pytest.raises(ValueError, match=r"a tokenizer|whose tokenizer has a piece \[MASK\]"):
            call()
    with pytest.raises(ValueError, match="no tokenizer"):
        fill(bare, "the [MASK]")


# --- sentences

def test_sentences_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "toy_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(
        '"""The first sentence is here. Short one.\n\nIt has 3 digits in it, so it is out."""\n'
        "raise RuntimeError('never run')\n")
    (package / "b.py").write_text(
        'def f():\n    """The sentence of a\n    function goes on. The first sentence is here."""\n')
    (package / "tests" / "t.py").write_text('"""The tests are not read at all."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert docstring_sentences("toy_package") == {
        "The first sentence is here.": "__init__.py", "The sentence of a function goes on.": "b.py"}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["no_such_package", "../etc", "os.path", "math"])
def test_no_such_package(name):
    with pytest.raises(ValueError, match=f"no package '{name}'"):
        docstring_sentences(name)
