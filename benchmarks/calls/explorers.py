"""Good calls of the figures and of the interactive figures."""

import numpy as np
from fuzzed import good
from PIL import Image

from mmtutor.course import (
    attention_explorer,
    figures,
    fusion_chooser,
    gallery,
    interactive,
    patch_explorer,
    similarity_explorer,
    spectrogram_explorer,
)


def _picture(side: int = 16) -> np.ndarray:
    return np.arange(3 * side * side, dtype=np.uint8).reshape(3, side, side)


def _tone(samples: int = 800) -> np.ndarray:
    return 0.5 * np.sin(np.arange(samples) / 3.0)


def told(kind):
    "The figure made, and all that it says without being drawn."
    def used(**given):
        figure = kind(**given)
        return figure.values, figure.alt(), interactive.as_table(*figure.table())
    return used


def drawn(kind, **fixed):
    "The figure made of what is fixed and what is given, and drawn."
    return lambda **given: kind(**fixed, **given).static()


# --- figures ---

@good("course.figures.new")
def _():
    def used(**given):
        figure, axes = figures.new(**given)
        figures.plt.close(figure)
        return figure
    return used, dict(width=2.0, height=1.0, rows=1, columns=2)


@good("course.figures.png")
def _():
    return (lambda dpi: figures.png(figures.new(1, 1)[0], dpi)), dict(dpi=20)


@good("course.figures.Picture")
def _():
    data = figures.png(figures.new(1, 1)[0], 10)
    return (lambda **given: figures.Picture(**given)._repr_html_()), dict(data=data, alt="a", caption="b", width=100)


@good("course.figures.show")
def _():
    return (lambda **given: figures.show(figures.new(1, 1)[0], **given)), dict(alt="a", caption="b", dpi=20)


@good("course.figures.heatmap")
def _():
    def used(**given):
        figure, axes = figures.new(1, 1)
        figures.heatmap(axes, **given)
        return figures.png(figure, 20)
    return used, dict(values=np.eye(2, 3), rows=["a", "b"], columns=["c", "d", "e"], digits=1)


# --- interactive ---

@good("course.interactive.Interactive")
def _():
    figure = interactive.SoftmaxExplorer([1.0, 2.0])

    def used(**given):
        figure.update(**given)
        return figure.values, dir(figure), repr(figure)
    return used, dict(logits=[0.0, 1.0, 2.0], labels=["a", "b", "c"], mask=[True, True, False], selected=1)


@good("course.interactive.source")
def _():
    return interactive.source, dict(module="softmax")


@good("course.interactive.as_table")
def _():
    return interactive.as_table, dict(caption="a", heads=["b", "c"], rows=[("d", "1"), ("e", "2")])


@good("course.interactive.numbers")
def _():
    return interactive.numbers, dict(name="x", values=[[1.0, 2.0], [3.0, 4.0]], dimensions=2)


@good("course.interactive.numbers of an array")
def _():
    return interactive.numbers, dict(name="x", values=np.eye(2), dimensions=2)


@good("course.interactive.chosen")
def _():
    return interactive.chosen, dict(name="x", index=1, size=3, least=-1)


@good("course.interactive.SoftmaxExplorer")
def _():
    return told(interactive.SoftmaxExplorer), dict(
        logits=[0.0, 1.0, 2.0], labels=["a", "b", "c"], temperature=0.5, mask=[True, True, False], selected=1)


@good("course.interactive.SoftmaxExplorer drawn", keep=("mask",))
def _():
    return drawn(interactive.SoftmaxExplorer, labels=["a", "b"]), dict(
        logits=[0.0, 1.0], temperature=0.5, mask=[True, True])


@good("course.interactive.PositionExplorer")
def _():
    return told(interactive.PositionExplorer), dict(width=8, length=6, position=2, offset=-1)


@good("course.interactive.PositionExplorer drawn")
def _():
    return drawn(interactive.PositionExplorer, width=8, position=1), dict(length=6, offset=-1)


@good("course.interactive.step")
def _():
    return interactive.step, dict(name="x", tensor=np.ones((1, 2, 3)), axes="batch token width", note="a", adds="")


def _steps() -> list[dict]:
    one = interactive.step("x", np.eye(3), "token width")
    return [one, interactive.step("y", np.eye(3), "token width", note="a", adds="x")]


@good("course.interactive.BlockExplorer")
def _():
    return told(interactive.BlockExplorer), dict(steps=_steps(), step=1)


@good("course.interactive.BlockExplorer drawn")
def _():
    return drawn(interactive.BlockExplorer), dict(steps=_steps()[:1], step=0)


# --- attention ---

@good("course.attention_explorer.patches")
def _():
    return attention_explorer.patches, dict(image=np.linspace(0, 1, 144).reshape(6, 8, 3), rows=2, columns=3)


@good("course.attention_explorer.patches of bytes")
def _():
    return attention_explorer.patches, dict(image=_picture(6).transpose(1, 2, 0), rows=2, columns=3)


@good("course.attention_explorer.frames")
def _():
    return attention_explorer.frames, dict(count=3, seconds=0.5, spectrogram=np.eye(4, 6))


@good("course.attention_explorer.picture_url")
def _():
    return (lambda: attention_explorer.picture_url(Image.new("RGB", (2, 3)))), {}


def _axis() -> list:
    return ["a", "b", attention_explorer.patches(_picture(6).transpose(1, 2, 0), 1, 2)]


@good("course.attention_explorer.axis_parts")
def _():
    return attention_explorer.axis_parts, dict(axis=_axis())


@good("course.attention_explorer.unpacked")
def _():
    return attention_explorer.unpacked, dict(packed=[1, 2, 3, 4, 5, 6], shape=[2, 3])


@good("course.attention_explorer.AttentionExplorer")
def _():
    return told(attention_explorer.AttentionExplorer), dict(
        weights=np.full((1, 2, 2, 4), 0.25), queries=["a", "b"], keys=_axis(), layer=0, head=1, query=1)


@good("course.attention_explorer.AttentionExplorer drawn")
def _():
    return drawn(attention_explorer.AttentionExplorer, queries=["a"], weights=np.full((1, 2), 0.5)), dict(
        keys=[_axis()[-1]], head=-1)


# --- patches ---

def _layers() -> list:
    return [("one", 3, 2, "same"), ("two", 3, 1, 1), (2, 2)]


@good("course.patch_explorer.as_layers")
def _():
    return patch_explorer.as_layers, dict(layers=_layers(), height=16, width=12)


@good("course.patch_explorer.field")
def _():
    return patch_explorer.field, dict(layers=patch_explorer.as_layers(_layers(), 16, 12), layer=1, place=2, axis=1)


@good("course.patch_explorer.patch_sizes")
def _():
    return patch_explorer.patch_sizes, dict(height=16, width=12)


@good("course.patch_explorer.as_image")
def _():
    return patch_explorer.as_image, dict(picture=_picture())


@good("course.patch_explorer.PatchExplorer")
def _():
    return told(patch_explorer.PatchExplorer), dict(
        picture=_picture(), patch=4, layers=_layers(), token=5, mode="field", layer=1, row=2, column=3)


@good("course.patch_explorer.PatchExplorer drawn", keep=("picture",))
def _():
    return drawn(patch_explorer.PatchExplorer, picture=_picture(), layers=_layers()), dict(
        patch=4, token=5, mode="patches")


# --- similarity ---

def _cosines() -> np.ndarray:
    return np.array([[0.9, 0.1, -0.2], [0.0, 0.8, 0.3], [0.2, 0.4, 0.7]])


@good("course.similarity_explorer.contrast", swallows=("bias",))  # which is SigLIP's alone
def _():
    return similarity_explorer.contrast, dict(similarity=_cosines(), loss="clip", temperature=0.07, bias=-10.0,
                                              out=np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool))


@good("course.similarity_explorer.contrast of SigLIP")
def _():
    return similarity_explorer.contrast, dict(similarity=_cosines(), loss="siglip", temperature=0.1, bias=-5.0)


@good("course.similarity_explorer.thumbnail")
def _():
    return similarity_explorer.thumbnail, dict(picture=_picture(8), side=4)


@good("course.similarity_explorer.as_pairs")
def _():
    return similarity_explorer.as_pairs, dict(same=[(0, 1), (2, 1)], n=3)


@good("course.similarity_explorer.SimilarityExplorer")
def _():
    return told(similarity_explorer.SimilarityExplorer), dict(
        similarity=_cosines(), captions=["a", "b", "c"], pictures=["d", "e", "f"], images=[_picture(4)] * 3,
        temperature=0.07, loss="siglip", bias=-10.0, same=[(0, 1)], left_out=True, view="row", row=1, column=2)


@good("course.similarity_explorer.SimilarityExplorer drawn")
def _():
    return drawn(similarity_explorer.SimilarityExplorer, similarity=_cosines()[:2, :2]), dict(
        temperature=0.07, loss="clip", left_out=False)


# --- spectrogram ---

@good("course.spectrogram_explorer.hertz_to_mel")
def _():
    return spectrogram_explorer.hertz_to_mel, dict(hertz=np.array([100.0, 2000.0]))


@good("course.spectrogram_explorer.mel_to_hertz")
def _():
    return spectrogram_explorer.mel_to_hertz, dict(mel=np.array([1.0, 20.0]))


@good("course.spectrogram_explorer.triangles")
def _():
    return spectrogram_explorer.triangles, dict(bands=4, window=16, rate=8000)


@good("course.spectrogram_explorer.decibels")
def _():
    return spectrogram_explorer.decibels, dict(samples=_tone(100), rate=8000, window=16, hop=8, bands=4)


@good("course.spectrogram_explorer.within")
def _():
    return spectrogram_explorer.within, dict(name="x", value=0.5, least=0.0, most=2.0)


@good("course.spectrogram_explorer.SpectrogramExplorer")
def _():
    return told(spectrogram_explorer.SpectrogramExplorer), dict(
        sound=_tone(1100), rate=8000, window=64, hop=100, bands=8, mel=True, time=0.1, hertz=500.0)


@good("course.spectrogram_explorer.SpectrogramExplorer drawn", keep=("mel",))
def _():
    return drawn(spectrogram_explorer.SpectrogramExplorer, sound=_tone(1100), rate=8000), dict(
        window=64, bands=8, mel=True)


# --- fusion ---

def _models() -> dict:
    def small(kind, name):
        return np.round(np.sin(np.arange(np.prod(fusion_chooser.shapes(kind)[name]))), 2).reshape(
            fusion_chooser.shapes(kind)[name])
    return {kind: {name: small(kind, name) for name in fusion_chooser.shapes(kind)} for kind in fusion_chooser.KINDS}


def _world(items: int = 4) -> dict:
    targets, draws = fusion_chooser.draw(items, 0)
    return dict(targets=targets, draws=draws)


@good("course.fusion_chooser.places")
def _():
    return fusion_chooser.places, {}


@good("course.fusion_chooser.draw")
def _():
    return fusion_chooser.draw, dict(count=4, seed=1)


@good("course.fusion_chooser.observe")
def _():
    return fusion_chooser.observe, dict(where=fusion_chooser.places(), **_world(), noise=np.array([0.1, 0.5, 1.0]))


@good("course.fusion_chooser.observe with noise for each item")
def _():
    return fusion_chooser.observe, dict(where=fusion_chooser.places(), **_world(), noise=np.full((4, 3), 0.5))


def _fuse(kind: str):
    import torch
    model = {name: torch.from_numpy(w) for name, w in _models()[kind].items()}
    x = fusion_chooser.observe(fusion_chooser.places(), **_world(), noise=np.full(3, 0.1))
    present = torch.tensor([[True, True, False], [True, True, True], [False, True, False], [True, False, True]])
    return fusion_chooser.fuse, dict(kind=kind, model=model, x=torch.from_numpy(x), present=present)


# what is behind the mask, or is not looked at, leaves no trace; and a ReLU of minus infinity is zero
@good("course.fusion_chooser.fuse by concatenation", swallows=("model", "x"))
def _():
    return _fuse("concatenation")


@good("course.fusion_chooser.fuse by a gate", swallows=("model", "x"))
def _():
    return _fuse("gated")


@good("course.fusion_chooser.fuse by the mean", swallows=("x",))
def _():
    return _fuse("average")


@good("course.fusion_chooser.fuse by attention", swallows=("x",))
def _():
    return _fuse("attention")


@good("course.fusion_chooser.shapes")
def _():
    return fusion_chooser.shapes, dict(kind="gated", classes=5, hidden=4, keys=3)


@good("course.fusion_chooser.toy")
def _():
    return fusion_chooser.toy, dict(seed=0, steps=1, batch=4)


@good("course.fusion_chooser.as_models")
def _():
    return fusion_chooser.as_models, dict(models=_models(), classes=6)


@good("course.fusion_chooser.FusionChooser")
def _():
    return (lambda **given: told(fusion_chooser.FusionChooser)(models=_models(), **given)), dict(
        noise=[0.1, 0.5, 1.0], present=[True, True, False], missing="mask", item=1, **_world(),
        where=fusion_chooser.places(), classes=list("abcdef"))


@good("course.fusion_chooser.FusionChooser drawn")
def _():
    return drawn(fusion_chooser.FusionChooser, models=_models(), **_world(2)), dict(missing="mask")


# --- gallery ---

@good("course.gallery.to_mulaw")
def _():
    return gallery.to_mulaw, dict(samples=_tone(20))


@good("course.gallery.from_mulaw")
def _():
    return gallery.from_mulaw, dict(code=gallery.to_mulaw(_tone(20)))


@good("course.gallery.item")
def _():
    return gallery.item, dict(name="a", picture=_picture(8), sound=_tone(), rate=16_000, group="b")


def _items() -> list[dict]:
    return [gallery.item("a", _picture(8), _tone(), group="x"), gallery.item("b", None, _tone(), group="y")]


@good("course.gallery.Gallery")
def _():
    return told(gallery.Gallery), dict(items=_items(), group="x", selected=1)


@good("course.gallery.Gallery drawn")
def _():
    one = dict(reversed(_items()[0].items()))  # so that its sound is among what is damaged
    return drawn(gallery.Gallery), dict(items=[one])
