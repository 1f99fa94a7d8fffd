"""Chapter 7: both encoders equal their references, prepare means what it says, and bad pictures are named."""
import copy
import importlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pretrained import copied, hub, layer_outputs, save_random
from safetensors.torch import load_file, save_file
from torch import nn

from mmtutor import vision as module
from mmtutor.convolution import ConvNorm, MBConv, pad_same
from mmtutor.course.files import EFFICIENTNET, Wheel, fetch, member
from mmtutor.course.weights import read_tensors
from mmtutor.transformer import Tokens
from mmtutor.vision import (
    LITE0_FILE,
    MOST_PIXELS,
    ConvEncoder,
    VisionConfig,
    VisionTransformer,
    prepare_pictures,
    standardise,
)

REFERENCE = Wheel("efficientnet-lite-pytorch", "0.1.0",
                  "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41")
PHOTOGRAPHS = Wheel("foolbox", "3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")


@pytest.fixture(scope="session")
def encoder():
    return ConvEncoder.from_pretrained()


@pytest.fixture(scope="session")
def weights():
    return read_tensors(member(EFFICIENTNET, *LITE0_FILE))


@pytest.fixture(scope="session")
def reference(weights):
    "The converters' own module, from its wheel (pinned), with the same weights."
    sys.path.insert(0, str(fetch(REFERENCE)))
    package = importlib.import_module("efficientnet_lite_pytorch")
    sys.path.pop(0)
    model = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="session")
def photographs():
    from sklearn.datasets import load_sample_images
    return [Image.fromarray(a) for a in load_sample_images().images]


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    "A random ViT in a folder (no parameter at its default), and the module of transformers that it came from."
    folder = tmp_path_factory.mktemp("vit")
    return folder, save_random("ViT", folder, image_size=32, patch_size=8)


# The convolutional encoder


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2, 3]))
def test_same_padding_is_tensorflows(height, width, kernel, stride):
    x = torch.rand(1, 2, height, width) + 1
    padded = pad_same(x, kernel, stride)
    out = F.conv2d(padded, torch.ones(2, 1, kernel, kernel), stride=stride, groups=2)
    assert out.shape[2:] == (-(-height // stride), -(-width // stride))
    for size, axis in ((height, 2), (width, 3)):
        zeros = padded.sum(dim=(0, 1, 5 - axis)).eq(0)
        before = int(zeros.cummin(0).values.sum())
        after = padded.shape[axis] - size - before
        assert 0 <= after - before <= 1, "the extra zero goes to the end"
    if stride == 1:
        assert torch.allclose(out, F.conv2d(x, torch.ones(2, 1, kernel, kernel), padding="same", groups=2))


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 24), st.integers(3, 24), st.sampled_from([3, 5]), st.sampled_from([1, 2]))
def test_padded_convolution_equals_the_reference(reference, height, width, kernel, stride):
    utils = sys.modules["efficientnet_lite_pytorch.utils"]
    same = utils.Conv2dDynamicSamePadding(3, 4, kernel, stride=stride, bias=False)
    ours = ConvNorm(3, 4, kernel, stride=stride, linear=True).eval()
    ours.conv.weight.data.copy_(same.weight.data)
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        assert torch.allclose(ours(x) * (1 + 1e-3) ** 0.5, same(x), atol=1e-5)


def test_every_tensor_is_accounted_for(encoder):
    assert encoder.report.matched == 294 and encoder.report.ignored == ("_fc.bias", "_fc.weight")
    assert encoder.dim == 1280 and len(encoder.blocks) == 16
    assert not any(m.training for m in encoder.modules())


@pytest.mark.parametrize("height, width", [(96, 96), (65, 97), (224, 224)])
def test_every_stage_equals_the_reference(encoder, reference, height, width):
    pictures = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    ours = layer_outputs([encoder.stem.norm, *encoder.blocks, encoder.head.norm], lambda: encoder(pictures))
    theirs = layer_outputs([reference._bn0, *reference._blocks, reference._bn1],
                           lambda: reference((pictures.float() - 127) / 128))
    assert len(ours) == len(theirs) == 18
    for a, b in zip(ours, theirs):
        assert (a - b).abs().max() < 1e-4
    with torch.no_grad():
        tokens = encoder(pictures)
        expected = reference.extract_features((pictures.float() - 127) / 128)
    assert (tokens.values - rearrange(expected, "b c h w -> b (h w) c")).abs().max() < 1e-4
    assert tokens.mask.all() and tokens.mask.shape == tokens.values.shape[:2]


def test_float64_equality_is_exact_to_rounding(encoder, reference):
    ours, theirs = copy.deepcopy(encoder).double(), copy.deepcopy(reference).double()
    pictures = torch.randint(0, 256, (1, 3, 33, 20), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.extract_features((pictures.double() - 127) / 128)
        assert (ours(pictures).values - expected.flatten(2).mT).abs().max() < 1e-11


def test_it_sees_palace_and_daisy(weights, photographs):
    encoder = ConvEncoder.from_pretrained(size=224)
    with torch.no_grad():
        features = encoder(*encoder.prepare(photographs)).values.mean(1)
    top = F.linear(features, weights["_fc.weight"], weights["_fc.bias"]).topk(5).indices
    assert top[:, 0].tolist() == [698, 985], "ImageNet's classes 698 palace, 985 daisy"
    assert {442, 663} <= set(top[0].tolist()), "bell cote, monastery"


def test_ninety_six_pixels_are_nine_tokens(encoder, photographs):
    batch, = encoder.prepare(photographs)
    assert batch.shape == (2, 3, 96, 96) and batch.dtype == torch.uint8
    with torch.no_grad():
        tokens = encoder(batch)
    assert tokens.values.shape == (2, 9, 1280) and tokens.mask.dtype == torch.bool


def test_company_in_the_batch_never_matters(encoder, photographs):
    batch, = encoder.prepare(photographs)
    with torch.no_grad():
        assert (encoder(batch).values[:1] - encoder(batch[:1]).values).abs().max() < 1e-4


def test_channels_last_is_the_layout_and_changes_no_result(encoder):
    assert encoder.stem.conv.weight.is_contiguous(memory_format=torch.channels_last)
    other = copy.deepcopy(encoder).to(memory_format=torch.contiguous_format)
    pictures = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        a, b = encoder(pictures).values, other(pictures).values
    assert (a - b).abs().max() < 1e-4
    assert a.is_contiguous(), "the tokens are a view of the map, nothing was moved"


def test_empty_batch_and_gradients(encoder):
    with torch.no_grad():
        assert encoder(*encoder.prepare([])).values.shape == (0, 9, 1280)
    model = copy.deepcopy(encoder)
    pictures = torch.rand(1, 3, 32, 32, requires_grad=True)
    model(pictures).values.sum().backward()
    assert pictures.grad.abs().sum() > 0 and all(p.grad.isfinite().all() for p in model.parameters())


def test_uint8_and_float_agree_and_bfloat16_runs(encoder):
    pictures = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        a = encoder(pictures).values
        assert (a - encoder(pictures / 255).values).abs().max() < 1e-3
        low = copy.deepcopy(encoder).bfloat16()(pictures).values
    assert low.dtype == torch.bfloat16 and F.cosine_similarity(low.float().flatten(), a.flatten(), 0) > 0.98


@pytest.mark.parametrize("inside, out, stride, expansion", [(8, 8, 1, 6), (8, 8, 2, 6), (8, 12, 1, 6), (8, 8, 1, 1)])
def test_block_adds_its_input_where_shapes_allow(inside, out, stride, expansion):
    block = MBConv(inside, out, 3, stride, expansion).eval()
    nn.init.zeros_(block.project.conv.weight)
    x = torch.randn(2, inside, 6, 6)
    with torch.no_grad():
        y = block(x)
    assert y.shape == (2, out, 6 // stride, 6 // stride)
    assert torch.equal(y, x) if stride == 1 and inside == out else y.eq(0).all()


def test_checksum_is_pinned():
    assert LITE0_FILE[1] == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


# The Vision Transformer


def test_patches_and_a_linear_layer_are_a_strided_convolution():
    vit = VisionTransformer(VisionConfig(size=32, patch=8, dim=24, pooling="mean", depth=1))
    x = torch.rand(2, 3, 32, 32)
    kernel = rearrange(vit.patches.weight, "d (c p q) -> d c p q", c=3, p=8)
    seen = layer_outputs([vit.patches], lambda: vit(x))[0]
    expected = F.conv2d(standardise(x, vit.config.mean, vit.config.std), kernel, vit.patches.bias, stride=8)
    assert torch.allclose(seen, rearrange(expected, "b d h w -> b (h w) d"), atol=1e-5)


def test_every_layer_equals_transformers(tiny_vit):
    folder, theirs = tiny_vit
    vit = VisionTransformer.from_pretrained(folder)
    assert vit.report.ignored == ("pooler.dense.bias", "pooler.dense.weight") and not vit.training
    pictures = torch.rand(3, 3, 32, 32)
    ours = layer_outputs([*vit.encoder.layers, vit.encoder.norm], lambda: vit(pictures))
    with torch.no_grad():
        out = theirs((pictures - 0.5) / 0.5, output_hidden_states=True)
    for a, b in zip(ours, [*out.hidden_states[1:], out.last_hidden_state]):
        assert (a - b).abs().max() < 1e-5
    with torch.no_grad():
        a = copy.deepcopy(vit).double()(pictures).values
        b = copy.deepcopy(theirs).double()((pictures.double() - 0.5) / 0.5).last_hidden_state
    assert (a - b).abs().max() < 1e-12


def test_prefix_classifier_and_normalisation_of_a_checkpoint(tiny_vit, tmp_path):
    "google/vit-… on the hub: names begin with `vit.`, a classifier follows, the normalisation has its own file."
    folder, theirs = tiny_vit
    tensors = {"vit." + k: v for k, v in load_file(folder / "model.safetensors").items() if "pooler" not in k}
    copied(folder, tmp_path)
    save_file(tensors | {"classifier.weight": torch.zeros(5, 32)}, tmp_path / "model.safetensors")
    scaling = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(scaling))
    a, b = VisionTransformer.from_pretrained(folder), VisionTransformer.from_pretrained(tmp_path)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    x = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in scaling.values())
    with torch.no_grad():
        assert (b(x).values - theirs((x - mean) / std).last_hidden_state).abs().max() < 1e-5
        assert (b(x).values - a(x).values).abs().max() > 1e-3


def test_without_positions_the_order_of_patches_is_lost():
    vit = VisionTransformer(VisionConfig(size=32, patch=8, dim=24, pooling="mean", depth=2)).double().eval()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    patches = rearrange(x, "b c (h p) (w q) -> b (h w) c p q", p=8, q=8)[:, torch.randperm(16)]
    other = rearrange(patches, "b (h w) c p q -> b c (h p) (w q)", h=4)
    with torch.no_grad():
        assert (vit.pool(vit(x)) - vit.pool(vit(other))).abs().max() > 1e-4
        vit.positions.zero_()
        assert (vit.pool(vit(x)) - vit.pool(vit(other))).abs().max() < 1e-12


@pytest.mark.parametrize("pooling, tokens", [("class", 17), ("mean", 16)])
def test_pooling_and_training(pooling, tokens):
    vit = VisionTransformer(VisionConfig(size=32, patch=8, dim=24, depth=1, pooling=pooling))
    out = vit(*vit.prepare([Image.new("RGB", (50, 40), "red"), torch.zeros(3, 32, 32).byte()]))
    assert out.values.shape == (2, tokens, 24) and out.mask.all()
    expected = out.values[:, 0] if pooling == "class" else out.values.mean(1)
    assert torch.equal(vit.pool(out), expected)
    vit.pool(out).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vit.parameters())
    assert vit(*vit.prepare([])).values.shape == (0, tokens, 24)


def test_hub_out_of_reach_and_pickles(monkeypatch, tmp_path, tiny_vit):
    hub(monkeypatch, None)
    with pytest.raises(FileNotFoundError, match="someone/some-vit.*ConnectionError.*efficientnet-lite0"):
        VisionTransformer.from_pretrained("someone/some-vit")
    asked = hub(monkeypatch, tiny_vit[0])
    VisionTransformer.from_pretrained("someone/some-vit")
    assert asked["allow_patterns"] == ["config.json", "model.safetensors", "preprocessor_config.json"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(FileNotFoundError, match="no model.safetensors.*pickled weights are not opened"):
        VisionTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("key, value", [("model_type", "deit"), ("hidden_act", "relu"), ("num_channels", 1),
                                        ("qkv_bias", False)])
def test_models_that_do_not_fit_are_refused(tiny_vit, tmp_path, key, value):
    copied(tiny_vit[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=f"cannot hold this model: {key} is {value!r}"):
        VisionTransformer.from_pretrained(tmp_path)


# Pictures as they come


def test_right_size_is_not_touched():
    picture = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    assert torch.equal(prepare_pictures([picture, image], 96), torch.stack([picture, picture]))


def test_grey_palette_and_transparent():
    grey, half = Image.new("L", (8, 8), 100), Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 4, 8))
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)
    out = prepare_pictures([grey, half, palette, half.convert("LA"), Image.new("1", (8, 8), 1)], 8)
    assert out[0].eq(100).all()
    assert out[1, :, 0, 0].tolist() == [255, 0, 0] and out[1, :, 0, 7].tolist() == [255, 255, 255]
    assert out[2, :, 4, 4].tolist() == [10, 200, 30]
    assert out[3, :, 0, 7].tolist() == [255] * 3 and out[4].eq(255).all()


def test_wide_pictures_lose_their_sides_and_a_turn_mark_is_obeyed():
    wide = Image.new("RGB", (30, 10), "white")
    wide.paste((255, 0, 0), (10, 0, 20, 10))
    assert prepare_pictures([wide], 10)[0][:, 5, 5].tolist() == [255, 0, 0]
    assert prepare_pictures([Image.new("RGB", (100_000, 1), "blue")], 4)[0][2].eq(255).all()
    turned = Image.new("RGB", (8, 8), "white")
    turned.paste((255, 0, 0), (0, 0, 8, 4))  # red above
    turned.getexif()[0x0112] = 3             # "was taken upside down"
    assert prepare_pictures([turned], 8)[0][:, 7, 0].tolist() == [255, 0, 0]


def test_scaling_is_pillows_bicubic(photographs):
    ours = prepare_pictures([photographs[0]], 224)[0]
    box = ((640 - 427) / 2, 0, (640 + 427) / 2, 427)  # the middle square
    expected = np.asarray(photographs[0].resize((224, 224), Image.Resampling.BICUBIC, box=box))
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.bad_input
@pytest.mark.parametrize("bad, message", [
    (Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)), "mode I;16, expected .* 8 bits a channel"),
    (Image.new("F", (8, 8)), "mode F"),
    (Image.new("I", (8, 8)), "mode I"),
    (Image.new("RGB", (0, 5)), "0 × 5 pixels in mode RGB, expected at least one pixel"),
    (torch.zeros(3, 0, 5).byte(), r"shape \(3, 0, 5\)"),
    (torch.rand(3, 8, 8), "torch.float32 of shape .*scale other ranges to 0–255"),
    (torch.zeros(1, 8, 8).byte(), "repeat a grey channel three times"),
    (torch.zeros(4, 8, 8).byte(), r"\(4, 8, 8\), expected torch.uint8 of shape \(3, height, width\)"),
    (torch.zeros(8, 8, 3).byte(), r"\(8, 8, 3\)"),
    (np.zeros((8, 8, 3), dtype=np.uint8), "ndarray.*PIL.Image.fromarray"),
    ("cat.png", "got str"),
])
def test_bad_pictures_are_named(encoder, bad, message):
    with pytest.raises(ValueError, match=f"prepare: picture 1: .*{message}"):
        encoder.prepare([Image.new("RGB", (9, 9)), bad])


@pytest.mark.bad_input
@pytest.mark.parametrize("bad, message", [
    (torch.zeros(3, 32, 32).byte(), r"shape \(3, 32, 32\), expected \(batch, 3"),
    (torch.zeros(1, 1, 32, 32).byte(), r"shape \(1, 1, 32, 32\)"),
    (torch.zeros(1, 3, 0, 32).byte(), r"\(1, 3, 0, 32\)"),
    (torch.zeros(1, 3, 32, 32).long(), "got torch.int64, expected torch.uint8"),
    (torch.full((1, 3, 32, 32), 255.0), "floats from 255 to 255, expected 0 to 1"),
    (torch.full((1, 3, 32, 32), -0.1), "floats from -0.1"),
    (torch.full((1, 3, 32, 32), torch.nan), "floats from nan to nan"),
])
def test_bad_batches_are_refused_by_both(encoder, bad, message):
    for model in (encoder, VisionTransformer(VisionConfig(size=32, patch=8, dim=24, depth=1))):
        with pytest.raises(ValueError, match=message):
            model(bad)


@pytest.mark.bad_input
def test_wrong_sizes_and_names(encoder):
    with pytest.raises(ValueError, match="got 48 × 32 pixels, expected 32 × 32"):
        VisionTransformer(VisionConfig(size=32, patch=8, dim=24, depth=1))(torch.zeros(1, 3, 48, 32).byte())
    with pytest.raises(ValueError, match="size 30 must be a multiple of patch 8"):
        VisionTransformer(VisionConfig(size=30, patch=8))
    with pytest.raises(ValueError, match="pooling 'class' or 'mean', not 'max'"):
        VisionTransformer(VisionConfig(pooling="max"))
    with pytest.raises(ValueError, match="VisionTransformer: got VisionConfig.*patch=0.*sizes of 1 or more"):
        VisionTransformer(VisionConfig(patch=0))
    small = VisionTransformer(VisionConfig(size=32, patch=8, dim=24, depth=1))
    with pytest.raises(ValueError, match="a grid of 0 × 3 patches"):
        small.places(0, 3)
    with pytest.raises(ValueError, match=r"got tokens \(2, 0, 24\), expected \(batch, tokens, dim\)"):
        small.pool(Tokens(torch.zeros(2, 0, 24), torch.zeros(2, 0, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"ConvEncoder: got stages \(\(1, 3\),\), expected \(blocks, kernel"):
        ConvEncoder(((1, 3),))
    with pytest.raises(ValueError, match="prepare: got a size of 0 pixels a side"):
        prepare_pictures([], 0)
    with pytest.raises(ValueError, match=r"standardise: got mean .*std \(1, 1, 0\).*above 0"):
        standardise(torch.zeros(1, 3, 2, 2), (1, 1, 1), (1, 1, 0))
    with pytest.raises(ValueError, match="no weights 'resnet'; there is 'efficientnet-lite0'"):
        ConvEncoder.from_pretrained("resnet")


def test_wrong_checkpoint_is_refused(monkeypatch):
    monkeypatch.setattr(module, "read_tensors", lambda path: {"_conv_stem.weight": torch.zeros(32, 3, 3, 3)})
    with pytest.raises(ValueError, match="293 missing"):
        ConvEncoder.from_pretrained()


@pytest.mark.bad_input
@pytest.mark.parametrize("file, content, message", [
    ("config.json", b"{", "config.json of .* is cut off or damaged"),
    ("config.json", b'{"model_type": "vit"}', "does not say image_size, patch_size, hidden_size"),
    ("preprocessor_config.json", b'{"image_mean": [0.5', "preprocessor_config.json of .* is cut off or damaged"),
    ("preprocessor_config.json", b"\xff\xfe", "preprocessor_config.json of .* is cut off or damaged")])
def test_damaged_settings_are_named(tiny_vit, tmp_path, file, content, message):
    copied(tiny_vit[0], tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"from_pretrained: .*{message}"):
        VisionTransformer.from_pretrained(tmp_path)


@pytest.mark.bad_input
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["I", "F", "I;16", "I;16B"]), st.integers(0, 9), st.integers(0, 9))
def test_what_has_no_clear_meaning_is_refused_whatever_its_size(mode, width, height):
    for picture in (Image.new(mode, (width, height)), Image.new("RGB", (0, height)), Image.new("RGBA", (width, 0))):
        with pytest.raises(ValueError, match=r"prepare: picture 0: got \d+ × \d+ pixels in mode .*8 bits a channel"):
            prepare_pictures([picture], 8)


# Another size of picture


@pytest.mark.parametrize("height, width", [(32, 32), (48, 48), (48, 64), (16, 8), (8, 8)])
def test_stretched_positions_equal_transformers(tiny_vit, height, width):
    folder, theirs = tiny_vit
    vit = VisionTransformer.from_pretrained(folder)
    pictures = torch.rand(2, 3, height, width)
    with torch.no_grad():
        ours = vit(pictures, interpolate=True).values
        expected = theirs((pictures - 0.5) / 0.5, interpolate_pos_encoding=True).last_hidden_state
    assert ours.shape == (2, 1 + height * width // 64, 32) and (ours - expected).abs().max() < 1e-5


def test_stretching_is_asked_for_and_learns():
    vit = VisionTransformer(VisionConfig(size=32, patch=8, dim=24, heads=3, depth=1))
    other = torch.zeros(1, 3, 48, 40).byte()
    with pytest.raises(ValueError, match="got 48 × 40 pixels, expected 32 × 32 .*interpolate=True"):
        vit(other)
    with pytest.raises(ValueError, match="got 48 × 42 pixels, expected multiples of 8"):
        vit(torch.zeros(1, 3, 48, 42).byte(), interpolate=True)
    vit(other, interpolate=True).values.square().sum().backward()
    assert vit.positions.grad.abs().amin(-1).min() > 0, "every row of the table has a share"
    assert torch.equal(vit.places(4, 4), vit.positions)
    assert torch.equal(vit.places(9, 3)[:, 0], vit.positions[:, 0]), "the class token has no place"


def test_a_table_keeps_its_corners_in_order():
    "Rows stay rows: a table that grows downwards only is stretched downwards only."
    vit = VisionTransformer(VisionConfig(size=32, patch=8, dim=8, heads=1, depth=1, pooling="mean")).double()
    with torch.no_grad():
        vit.positions.copy_(torch.arange(4.0)[:, None, None].expand(4, 4, 8).reshape(1, 16, 8))
        table = vit.places(8, 2).view(8, 2, 8)
    assert torch.allclose(table, table[:, :1, :1].expand_as(table)) and (table[1:] > table[:-1]).all()


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_sinusoidal_positions_serve_any_size(pooling):
    from mmtutor.positions import SinusoidalPositions, grid_positions
    vit = VisionTransformer(VisionConfig(32, 8, 24, 3, 1, pooling=pooling, positions="sinusoidal")).double().eval()
    assert not any("positions" in name for name, _ in vit.named_parameters())
    table, first = vit.places(3, 5), int(pooling == "class")
    waves = SinusoidalPositions(24, axes=2).encode(grid_positions(3, 5))
    assert torch.equal(table[0, first:], waves) and table[0, :first].eq(0).all()
    with torch.no_grad():
        assert vit(torch.zeros(2, 3, 24, 40).byte()).values.shape == (2, 15 + first, 24)
        a, b = vit(torch.zeros(1, 3, 24, 40).byte()).values[0, first:first + 2]
    assert (a - b).abs().max() > 1e-3, "equal patches at different places differ"
    with pytest.raises(ValueError, match="positions 'learned' or 'sinusoidal', not 'rotary'"):
        VisionTransformer(VisionConfig(positions="rotary"))


# Whatever comes


@pytest.fixture(scope="session")
def file_of():
    def save(picture, kind):
        file = io.BytesIO()
        picture.save(file, kind)
        return file.getvalue()
    return save


MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.bad_input
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 300), st.integers(1, 300), st.integers(1, 40))
def test_any_picture_of_8_bits_becomes_a_square(mode, width, height, size):
    picture = Image.new(mode, (width, height), 0)
    out = prepare_pictures([picture], size)
    assert out.shape == (1, 3, size, size) and out.dtype == torch.uint8
    assert torch.equal(out, prepare_pictures([picture], size)), "the given picture was changed"


@pytest.mark.bad_input
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]), st.floats(0, 1), st.integers(0, 255))
def test_a_damaged_file_is_named_or_still_a_picture(file_of, photographs, kind, where, byte):
    "A file that breaks off, and a file with one wrong byte: a ValueError that names the picture, or pixels."
    whole = file_of(photographs[0].resize((40, 30)), kind)
    place = int(where * (len(whole) - 1))
    for damaged in (whole[:place], whole[:place] + bytes([byte]) + whole[place + 1:]):
        try:
            picture = Image.open(io.BytesIO(damaged))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow refuses it at sight
            continue
        try:
            assert prepare_pictures([picture], 16).shape == (1, 3, 16, 16)
        except ValueError as error:
            assert "prepare: picture 0: " in str(error)


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_that_breaks_off_is_damaged(file_of, photographs, kind):
    whole = file_of(photographs[0], kind)
    with pytest.raises(ValueError, match="prepare: picture 1: its file is damaged .*truncated"):
        prepare_pictures([photographs[1], Image.open(io.BytesIO(whole[:len(whole) // 2]))], 32)


@pytest.mark.bad_input
def test_huge_pictures_are_refused_before_they_are_unpacked():
    vast = Image.new("1", (10_000, 9_000))
    with pytest.raises(ValueError, match="picture 0: got 10,000 × 9,000 pixels, expected at most 89,478,485; reduce"):
        prepare_pictures([vast], 32)
    assert MOST_PIXELS == Image.MAX_IMAGE_PIXELS
    assert prepare_pictures([Image.new("1", (9_000, 9_000))], 4).shape == (1, 3, 4, 4)


# Names and photographs from other wheels


def test_top_five_of_labelled_photographs(weights):
    "Twenty of ImageNet's own pictures, whose names end in their class: 17 right at once, 20 among five."
    with zipfile.ZipFile(fetch(PHOTOGRAPHS)) as archive:
        files = sorted(name for name in archive.namelist() if "/imagenet_" in name)
        pictures = [Image.open(io.BytesIO(archive.read(name))) for name in files]
    answers = torch.tensor([int(name.removesuffix(".jpg").rsplit("_", 1)[1]) for name in files])
    encoder = ConvEncoder.from_pretrained(size=224)
    with torch.no_grad():
        features = encoder(*encoder.prepare(pictures)).values.mean(1)
    found = F.linear(features, weights["_fc.weight"], weights["_fc.bias"]).topk(5).indices.eq(answers[:, None])
    assert len(files) == 20 and found[:, 0].sum() == 17 and found.any(1).all()
