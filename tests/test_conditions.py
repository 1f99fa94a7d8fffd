"""The conditions of a test: what changes and what does not, that it repeats, and what is kept."""
import pytest
import torch

from mmtutor import conditions, data
from mmtutor.audio import RecurrentEncoder
from mmtutor.conditions import CONDITIONS, KINDS, Pooled, frozen_features, media
from mmtutor.fusion import mean_token
from mmtutor.transformer import Tokens


class TestMedia:
    @pytest.mark.parametrize("modality, damaged", [("picture", "occluded"), ("sound", "noise")])
    def test_damage_repeats_and_touches_every_item(self, modality, damaged):
        clean, one, same = (media("validation", modality, kind) for kind in ("clean", damaged, damaged))
        assert len(clean) == len(one) == len(data.view("validation"))
        assert all(torch.equal(a, b) for a, b in zip(one, same))
        changed = [not torch.equal(a, b) for a, b in zip(clean, one)]
        assert all(a.shape == b.shape for a, b in zip(clean, one)) and sum(changed) >= 0.99 * len(changed)

    def test_half_of_a_picture_is_covered_and_noise_is_as_loud_as_speech(self):
        clean, covered = (media("validation", "picture", kind) for kind in ("clean", "occluded"))
        share = torch.stack([(b == 128).all(0).double().mean() for b in covered])
        assert (share - 0.5).abs().max() < 0.03
        clean, noisy = (media("validation", "sound", kind) for kind in ("clean", "noise"))
        ratio = torch.stack([(b - a).square().mean() / a.square().mean() for a, b in zip(clean, noisy)])
        assert (ratio - 1).abs().max() < 0.1

    def test_lines_and_voices_are_those_of_the_data(self):
        rows = data.view("validation", style="lines", voice=data.UNHEARD_VOICES[0])
        assert torch.equal(media("validation", "picture", "lines")[3], data.picture_of(rows[3]))
        assert torch.equal(media("validation", "sound", "unheard")[3], data.sound_of(rows[3]))
        assert data.UNHEARD_VOICES[0] not in data.TRAIN_VOICES

    def test_every_condition_is_made_of_known_kinds(self):
        assert CONDITIONS["clean"] == ("clean", "clean")
        assert all(p in KINDS["picture"] and s in KINDS["sound"] for p, s in CONDITIONS.values())


class TestFeatures:
    def test_pooled_is_the_mean_of_the_real_tokens(self):
        torch.manual_seed(0)
        encoder = RecurrentEncoder(dim=8, depth=1, stride=4).eval()
        sounds = [torch.randn(4000), torch.randn(9000)]
        inputs = encoder.prepare(sounds)
        found = Pooled(encoder)(*inputs)
        assert isinstance(found, Tokens) and found.values.shape == (2, 1, 8) and found.mask.all()
        assert torch.allclose(found.values[:, 0], mean_token(encoder(*inputs)), atol=1e-6)
        alone = Pooled(encoder)(*encoder.prepare(sounds[:1])).values
        assert torch.allclose(found.values[:1], alone, atol=1e-5), "padding does not matter"

    def test_one_row_for_each_family_and_only_what_changes_is_changed(self):
        clean, noisy, lines, unheard, shifted = (frozen_features("validation", c) for c in CONDITIONS)
        n = len(data.view("validation"))
        assert {k: tuple(v.shape) for k, v in clean.items()} == {"picture": (n, 1280), "sound": (n, 256)}
        assert torch.equal(clean["sound"], lines["sound"]) and torch.equal(clean["picture"], unheard["picture"])
        assert torch.equal(lines["picture"], shifted["picture"]) and torch.equal(unheard["sound"], shifted["sound"])
        for name in clean:
            assert not torch.allclose(clean[name], noisy[name], atol=1e-3) and clean[name].isfinite().all()


@pytest.mark.bad_input
@pytest.mark.parametrize("call, message", [
    (lambda: frozen_features("test", "rain"), "no condition 'rain'; there are clean, noisy, lines, unheard, shifted"),
    (lambda: media("test", "picture", "noise"), "media: no 'noise' of 'picture'"),
    (lambda: media("test", "smell", "clean"), "media: no 'clean' of 'smell'"),
    (lambda: frozen_features("tset"), "no split 'tset'"),
])
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_knows_no_encoder_until_it_is_asked():
    assert not {"ConvEncoder", "RecurrentEncoder"} & set(vars(conditions))
