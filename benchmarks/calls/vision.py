"""One good call of each public function of chapter 7: pictures, convolutions, and looking inside."""
import torch
from fuzzed import good
from PIL import Image
from torch import nn

from mmtutor.convolution import ConvNorm, MBConv, pad_same, receptive_field
from mmtutor.looking import (
    agreement,
    attention_of,
    effective_receptive_field,
    grad_cam,
    occlusion,
    rollout,
    shuffle_weights,
    square_of,
)
from mmtutor.transformer import Encoder, Tokens
from mmtutor.vision import (
    ConvEncoder,
    VisionConfig,
    VisionTransformer,
    lite_name,
    prepare_pictures,
    standardise,
    vit_name,
)

# --- pictures ---


def _bytes(*shape) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@good("vision.prepare_pictures")
def _():
    return prepare_pictures, dict(pictures=[_bytes(3, 4, 6), Image.new("RGB", (5, 3))], size=4)


@good("vision.standardise")
def _():
    return standardise, dict(pictures=torch.rand(2, 3, 4, 5), mean=(127.0, 120.0, 110.0), std=(50.0, 60.0, 70.0))


@good("vision.standardise of bytes")
def _():
    return standardise, dict(pictures=_bytes(2, 3, 4, 5), mean=[127.0] * 3, std=[50.0] * 3, dtype=torch.float64)


SIZES = dict(size=8, patch=4, dim=8, heads=2, depth=1, hidden=8, pooling="class", positions="learned", dropout=0.1,
             eps=1e-6, mean=(127.5, 120.0, 110.0), std=(127.5, 120.0, 110.0))


def _seen(**given):
    model = VisionTransformer(VisionConfig(**given))
    return model.pool(model(*model.prepare([_bytes(3, 9, 9)])))


@good("vision.VisionConfig")
def _():
    return _seen, SIZES


@good("vision.VisionConfig with waves")
def _():
    return _seen, SIZES | dict(positions="sinusoidal", pooling="mean", hidden=None)


def _transformer(**more) -> VisionTransformer:
    return VisionTransformer(VisionConfig(**SIZES | dict(dropout=0.0) | more)).eval()


@good("vision.VisionTransformer")
def _():
    return _transformer(), dict(pictures=torch.rand(2, 3, 8, 8), interpolate=False)


@good("vision.VisionTransformer stretched")
def _():
    return _transformer(), dict(pictures=_bytes(2, 3, 8, 12), interpolate=True)


@good("vision.VisionTransformer places")
def _():
    return _transformer().places, dict(rows=2, columns=3)


@good("vision.VisionTransformer places as waves")
def _():
    return _transformer(positions="sinusoidal").places, dict(rows=2, columns=3)


@good("vision.VisionTransformer pool")
def _():
    return _transformer(pooling="mean").pool, dict(
        tokens=Tokens(torch.randn(2, 4, 8), torch.ones(2, 4, dtype=torch.bool)))


@good("vision.vit_name")
def _():
    return vit_name, dict(name="encoder.layer.0.attention.attention.query.weight")


STAGES = ((1, 3, 1, 1, 4), (2, 3, 2, 2, 6))


@good("vision.ConvEncoder")
def _():
    def used(**given):
        model = ConvEncoder(**given).eval()
        return model(*model.prepare([_bytes(3, 9, 9)]))
    return used, dict(stages=STAGES, stem=4, dim=8, size=8)


@good("vision.ConvEncoder forward")
def _():
    return ConvEncoder(STAGES, stem=4, dim=8, size=8).eval(), dict(pictures=torch.rand(2, 3, 8, 8))


@good("vision.ConvEncoder pretrained")
def _():
    return lambda **given: ConvEncoder.from_pretrained(**given)(_bytes(2, 3, 8, 8)), dict(
        name="efficientnet-lite0", size=8)


@good("vision.lite_name")
def _():
    return lite_name, dict(name="_blocks.0._depthwise_conv.weight")


# --- convolutions ---

@good("convolution.pad_same", takes=("x", "return"))  # zeros go around whole numbers, too
def _():
    return pad_same, dict(x=torch.randn(2, 3, 5, 4), kernel=3, stride=2)


@good("convolution.receptive_field")
def _():
    return receptive_field, dict(layers=[(3, 2), (5, 1)])


@good("convolution.ConvNorm")
def _():
    return lambda **given: ConvNorm(**given)(torch.randn(2, given["inside"], 5, 4)), dict(
        inside=4, out=6, kernel=3, stride=2, groups=2, linear=False)


@good("convolution.ConvNorm forward")
def _():
    return ConvNorm(4, 6, 3).eval(), dict(x=torch.randn(2, 4, 5, 3))


@good("convolution.MBConv")
def _():
    return lambda **given: MBConv(**given)(torch.randn(2, given["inside"], 5, 4)), dict(
        inside=4, out=4, kernel=3, stride=1, expansion=2)


@good("convolution.MBConv forward")
def _():
    return MBConv(4, 6, 3, 2, 1).eval(), dict(x=torch.randn(2, 4, 5, 3))


# --- looking ---

@good("looking.occlusion")
def _():
    def used(**given):
        return occlusion(lambda pictures: pictures.flatten(1).sum(1), **given)
    return used, dict(picture=torch.rand(3, 5, 4), size=2, stride=1, fill=0.5, batch=4)


@good("looking.agreement")
def _():
    return agreement, dict(a=torch.rand(3, 4), b=torch.rand(3, 4))


@good("looking.grad_cam")
def _():
    return lambda **given: grad_cam(lambda features: features.square().sum(), **given), dict(
        features=torch.randn(2, 3, 4, 5), signed=True)


@good("looking.effective_receptive_field")
def _():
    return lambda **given: effective_receptive_field(torch.square, **given), dict(
        pictures=torch.rand(2, 3, 4, 5), seed=0)


@good("looking.square_of")
def _():
    return square_of, dict(field=torch.rand(4, 5), share=0.5)


@good("looking.rollout")
def _():
    return rollout, dict(weights=[torch.randn(2, 2, 3, 3).softmax(-1) for _ in range(2)], residual=0.5)


@good("looking.attention_of", swallows=("x",))  # behind the mask
def _():
    model = Encoder(2, 4, 2).eval()
    return lambda x, mask: attention_of(model, x, mask), dict(
        x=torch.randn(2, 3, 4), mask=torch.tensor([[True, True, True], [True, False, False]]))


@good("looking.shuffle_weights")
def _():
    def used(values):
        model = nn.Module()
        model.register_buffer("values", values.clone())
        return shuffle_weights(model, torch.Generator().manual_seed(0))
    return used, dict(values=torch.randn(3, 4))
