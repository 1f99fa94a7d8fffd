"""What only a GPU can show, in sections: functions of (toy, device) that return figures. scripts/gpu_run.py runs them.

parity: every block in 32 and 16 bits against float64. compile: blocks under torch.compile against themselves. peers:
layers and whole encoders against PyTorch's and Hugging Face's, seconds of a step. speed: full and frozen training at
the embedded size and with ViT-B/16, BERT-base and Whisper-small's encoder, random weights; model FLOPs are counted by
torch on the same step without compilation, their share of the peak is the utilisation (MFU). memory: the whole batch,
plain accumulation, open_clip's and GradCache, up to 8,192 samples. pipeline: loading against the step. capstone: the
full run, three seeds. The last two need the embedded data. `toy`: small sizes, on a CPU too.
"""
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import attention
import gradcache
import torch
from torch import Tensor, nn

from mmtutor.attention import attend, padding_mask
from mmtutor.audio import AudioTransformer, LogMel, RecurrentEncoder
from mmtutor.course import records
from mmtutor.course.parts import step_flops, utilisation
from mmtutor.fusion import SharedFusionDecoder
from mmtutor.multihead import MultiHeadAttention
from mmtutor.multimodal import MultimodalConfig, MultimodalModel
from mmtutor.objectives import contrastive_loss
from mmtutor.text import TextConfig, TextEncoder
from mmtutor.transformer import Decoder, Encoder, Tokens
from mmtutor.vision import ConvEncoder, VisionConfig, VisionTransformer

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def blocks(seed: int) -> dict[str, tuple[nn.Module | None, Callable, tuple]]:
    "name → module or None, function of (module, *inputs), inputs. Float inputs follow the type under test."
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=draw)
    keep = padding_mask(torch.tensor([40, 17, 1]), 40)
    ids = torch.randint(1, 1000, (3, 24), generator=draw)
    pictures = torch.randint(0, 256, (3, 3, 96, 96), generator=draw, dtype=torch.uint8)
    waves, heard = randn(3, 16_000) / 10, padding_mask(torch.tensor([16_000, 9_000, 4_000]), 16_000)
    call, x = lambda module, *inputs: module(*inputs), randn(3, 40, 64)
    values = lambda module, *inputs: module(*inputs).values
    fuse = lambda module, x, y: module({"text": Tokens(x, keep.to(x.device)), "sound": Tokens(y, keep.to(x.device))})
    return {
        "attend, fused": (None, lambda _, q: attend(q, q, q, fused=True), (randn(3, 4, 40, 16),)),
        "attend, written out": (None, lambda _, q: attend(q, q, q, fused=False), (randn(3, 4, 40, 16),)),
        "MultiHeadAttention, padded": (MultiHeadAttention(64, 4), lambda m, x, k: m(x, mask=k[:, None, :]), (x, keep)),
        "Encoder, 4 layers": (Encoder(4, 64, 4), call, (x, keep)),
        "Decoder, 4 layers": (Decoder(4, 64, 4), call, (x, randn(3, 20, 64))),
        "TextEncoder": (TextEncoder(TextConfig(1000, 64, 4, 3, 256)), values, (ids, ids > 100)),
        "VisionTransformer": (VisionTransformer(VisionConfig(dim=64, heads=4, depth=3)), values, (pictures,)),
        "ConvEncoder": (ConvEncoder(), values, (pictures,)),
        "LogMel": (LogMel(80), lambda m, w, k: m(w, k)[0], (waves, heard)),
        "RecurrentEncoder": (RecurrentEncoder(), values, (waves, heard)),
        "AudioTransformer": (AudioTransformer(64, 4, 2, tokens=50), values, (waves, heard)),
        "SharedFusionDecoder": (SharedFusionDecoder(["text", "sound"], 64, depth=2, heads=4), fuse,
                                (x, randn(3, 40, 64))),
        "contrastive_loss": (None, lambda _, a, b: contrastive_loss(a, b, 2.0), (randn(32, 64), randn(32, 64)))}


def parity(toy: bool, device: torch.device) -> dict:
    """Largest difference from float64 on the CPU, relative to the largest value: `block/type` → the worst seed.

    float32 runs as it is, without TF32; 16 bits by autocast, as in training.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = {}
    for seed in (0,) if toy else (0, 1, 2):
        for name, (module, function, inputs) in blocks(seed).items():
            double = [x.double() if x.is_floating_point() else x for x in inputs]
            exact_module = module and copy.deepcopy(module).double().eval()
            with torch.no_grad():
                exact = function(exact_module, *double)
                module = module and module.eval().to(device)
                for kind, dtype in KINDS.items():
                    if device.type == "cpu" and kind == "float16":
                        continue  # no LSTM for it there
                    with torch.autocast(device.type, dtype=dtype, enabled=kind != "float32"):
                        ours = function(module, *(x.to(device) for x in inputs)).double().cpu()
                    worst = ((ours - exact).abs().max() / exact.abs().max()).item()
                    found[f"{name}/{kind}"] = max(worst, found.get(f"{name}/{kind}", 0.0))
    return {key: float(f"{value:.2e}") for key, value in found.items()}


def keep(found: dict) -> None:
    "What a section has so far, for the case that it is stopped."
    if path := os.environ.get("GPU_RUN_PART"):
        Path(path).write_text(json.dumps(found), encoding="utf-8")


def compiled(toy: bool, device: torch.device, backend: str = "inductor") -> dict:
    "Largest difference of a compiled block from itself, forward and gradients, relative: `block/forward|gradients`."
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found, chosen = {}, ["MultiHeadAttention, padded"]
    if not toy:
        chosen += ["Encoder, 4 layers", "Decoder, 4 layers", "VisionTransformer", "LogMel", "SharedFusionDecoder",
                   "contrastive_loss"]
    for name in chosen:
        module, function, inputs = blocks(0)[name]
        module, inputs = module and module.eval().to(device), [x.to(device) for x in inputs]
        torch.compiler.reset()
        both = []
        for f in (function, torch.compile(function, backend=backend)):
            given = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
            if module is not None:
                module.zero_grad()
            out = f(module, *given)
            out.square().mean().backward()
            slopes = [x.grad for x in (*given, *(module.parameters() if module else ())) if x.grad is not None]
            both.append((out.detach(), [g.clone() for g in slopes]))
        gap = lambda a, b: float(f"{((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item():.2e}")
        (plain, slopes), (fast, fast_slopes) = both
        found[f"{name}/forward"] = gap(fast, plain)
        largest = max(g.abs().max() for g in slopes)  # one gradient may be exactly zero
        found[f"{name}/gradients"] = max(float(f"{((a - b).abs().max() / largest).item():.2e}")
                                         for a, b in zip(fast_slopes, slopes, strict=True))
        keep(found)
    return found


# The full size

def encoders(size: str) -> dict[str, nn.Module]:
    """`large`: ViT-B/16 at 224 pixels, BERT-base, Whisper-small's encoder at 10 s; `embedded`: those of the course,
    MiniLM, EfficientNet-Lite0 and the speaker LSTM; `toy`. Random weights."""
    if size == "embedded":
        return {"text": TextEncoder(TextConfig()), "picture": ConvEncoder(), "sound": RecurrentEncoder(stride=16)}
    if size == "toy":
        return {"text": TextEncoder(TextConfig(1000, 32, 2, 2, 128)),
                "picture": VisionTransformer(VisionConfig(32, 16, 32, 2, 2)),
                "sound": AudioTransformer(32, 2, 2, tokens=50)}
    return {"text": TextEncoder(TextConfig(30_522, 768, 12, 12, 3072)),
            "picture": VisionTransformer(VisionConfig(224, 16, 768, 12, 12)),
            "sound": AudioTransformer(768, 12, 12, tokens=500)}


def full_model(size: str) -> MultimodalModel:
    parts = encoders(size)
    dim, depth = {"toy": (32, 1), "embedded": (128, 1), "large": (512, 4)}[size]
    config = MultimodalConfig(widths={m: e.dim for m, e in parts.items()}, dim=dim, depth=depth, embedding=dim,
                              max_tokens=512, modality_dropout=0.0)
    return MultimodalModel(config, parts)


def inputs_for(model: MultimodalModel, batch: int, device: torch.device, words: int = 128) -> dict[str, tuple]:
    "Random inputs of full length: every token is real, so that all work counted is work wanted."
    picture, sound = model.encoders["picture"], model.encoders["sound"]
    pixels = picture.size if isinstance(picture, ConvEncoder) else picture.config.size
    samples = getattr(sound, "samples", 2 * 16_000)  # the embedded sounds last a second or two
    words = min(words, model.encoders["text"].config.max_length)
    whole = lambda *shape: torch.ones(shape, dtype=torch.bool, device=device)
    ids = torch.randint(5, model.encoders["text"].config.vocabulary, (batch, words), device=device)
    return {"text": (ids, whole(batch, words)),
            "picture": (torch.randint(0, 256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=device),),
            "sound": (torch.randn(batch, samples, device=device) / 10, whole(batch, samples))}


def loss_of(model: MultimodalModel, inputs: Mapping[str, tuple]) -> Tensor:
    "Group of the item, and the embedding of picture, sound and text pulled together with the text's own."
    out = model(inputs)
    labels = torch.arange(len(out.state), device=out.state.device)
    found = [nn.functional.cross_entropy(x.float(), labels % x.shape[1]) for x in out.logits.values()]
    return sum(found) + contrastive_loss(out.embedding.float(), out.state.detach().float()[:, :out.embedding.shape[1]],
                                         model.log_scale)


def _first(found):
    "The tokens, whatever they come wrapped in."
    return found if isinstance(found, Tensor) else found[0]


def whole_encoders(toy: bool, batch: int, device: torch.device) -> dict[str, tuple[Callable, Callable, nn.Module, str]]:
    "Theirs → (call of ours, call of theirs); equal sizes, inputs without padding, no dropout."
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder
    ours = encoders("toy" if toy else "large")
    dim, heads, depth = (32, 2, 2) if toy else (768, 12, 12)
    same = {"hidden_size": dim, "num_attention_heads": heads, "num_hidden_layers": depth, "intermediate_size": 4 * dim,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text, picture, sound = ours["text"].config, ours["picture"].config, ours["sound"]
    bert = BertModel(BertConfig(vocab_size=text.vocabulary, **same), add_pooling_layer=False)
    vit = ViTModel(ViTConfig(image_size=picture.size, patch_size=picture.patch, **same), add_pooling_layer=False)
    whisper = WhisperEncoder(WhisperConfig(
        d_model=dim, encoder_attention_heads=heads, encoder_layers=depth, encoder_ffn_dim=4 * dim, num_mel_bins=80,
        max_source_positions=len(sound.positions), dropout=0.0))
    ids = torch.randint(5, text.vocabulary, (batch, 16 if toy else 128), device=device)
    real = torch.ones_like(ids, dtype=torch.bool)
    pixels = torch.rand(batch, 3, picture.size, picture.size, device=device)
    frames = torch.randn(batch, 2 * len(sound.positions), 80, device=device)
    heard = torch.ones(frames.shape[:2], dtype=torch.bool, device=device)
    for module in (*ours.values(), bert, vit, whisper):
        module.to(device).train()
    banded = frames.transpose(1, 2).contiguous()
    return {"BertModel": (ours["text"], lambda: ours["text"](ids, real), bert, lambda: bert(ids, real)),
            "ViTModel": (ours["picture"], lambda: ours["picture"](pixels), vit, lambda: vit(pixels)),
            "WhisperEncoder": (ours["sound"], lambda: ours["sound"].encode(Tokens(frames, heard)), whisper,
                               lambda: whisper(banded))}


def peers(toy: bool, device: torch.device) -> dict:
    """Ratios ours / theirs in the form of benchmarks/attention.py: layers in float32 (TF32) and under bfloat16; whole
    encoders, forward + backward, under bfloat16."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    kind, low = device.type, torch.bfloat16
    large = {"small": (64, 128, 256, 8), "base": (64, 128, 768, 12), "long": (8, 2048, 768, 12)}
    sizes, turns, found = attention.TOY if toy else large, 2 if toy else 15, {}
    for note, how in {"float32": {}, "bfloat16": {"low": low}}.items():
        rows = attention.compare(sizes, turns, kind, blocks=attention.BLOCKS[1:], **how)
        found |= {key.replace(kind, f"{kind}, {note}", 1): row for key, row in rows.items()}
        keep(found)
    wait = torch.cuda.synchronize if kind == "cuda" else lambda: None
    for name, (ours, call, theirs, their_call) in whole_encoders(toy, 2 if toy else 64, device).items():
        taken, pair = {"ours": [], "theirs": []}, (("ours", ours, call), ("theirs", theirs, their_call))
        for turn in range(turns + 2):  # the first two warm up
            for who, module, function in pair[::1 if turn % 2 else -1]:
                module.zero_grad()
                wait()
                begun = time.perf_counter()
                with torch.autocast(kind, dtype=low):
                    out = _first(function())
                out.float().square().mean().backward()
                wait()
                taken[who].append(time.perf_counter() - begun)
        a, b = taken["ours"][2:], taken["theirs"][2:]
        found[f"{kind}, bfloat16/whole encoder/{'toy' if toy else 'base'}/forward + backward/{name}"] = {
            "ratio": round(statistics.median(a) / statistics.median(b), 4),
            "ours ms": round(1e3 * statistics.median(a), 4), "turns": records.spread([x / y for x, y in zip(a, b)])}
    return found


def steps(model: nn.Module, step: Callable, inputs: Mapping | None, device: torch.device, repeats: int,
          warm: int = 3) -> dict:
    "Seconds of one optimiser step (median), its spread, and the peak memory."
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, 1e-5, fused=device.type == "cuda")
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + warm):
        wait()
        begun = time.perf_counter()
        optimiser.zero_grad()
        step(inputs)
        optimiser.step()
        wait()
        taken.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return {"seconds": round(statistics.median(taken[warm:]), 5), "peak MiB": round(peak),
            "turns": records.spread(taken[warm:])}


def compiled_peers(toy: bool, device: torch.device) -> dict:
    "The encoder layer and its rivals, all of them compiled, under bfloat16."
    sizes = attention.TOY if toy else {"base": (64, 128, 768, 12)}
    rows = attention.compare(sizes, 2 if toy else 15, device.type, low=torch.bfloat16, compiled=True,
                             blocks=["MultiHeadAttention"] if toy else ["EncoderLayer"])
    return {key.replace(device.type, f"{device.type}, bfloat16, compiled", 1): row for key, row in rows.items()}


def training_step(model: MultimodalModel, device: torch.device) -> Callable:
    def step(inputs):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_of(model, inputs)
        loss.backward()
    return step


def compile_layers(model: MultimodalModel) -> None:
    "Compile every Transformer layer of the encoders by itself: that takes less time than whole encoders."
    for encoder in model.encoders.values():
        for layer in encoder.encoder.layers:
            layer.compile()


def speed(toy: bool, device: torch.device) -> dict:
    """Full and frozen training: samples a second, model FLOPs utilisation, memory. `size/regime, way`; the large size
    as written and with compiled layers."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    found = {}
    for size, batch in {"toy": 4}.items() if toy else {"embedded": 256, "large": 128}.items():
        for regime in ("full", "frozen"):
            torch.manual_seed(0)
            model = full_model(size).to(device).train()
            model.encoders.requires_grad_(regime == "full")
            inputs, step = inputs_for(model, batch, device), training_step(model, device)
            flops = step_flops(partial(step, inputs))
            for way in ("as written", "compiled") if size == "large" else ("as written",):
                if way == "compiled":
                    compile_layers(model)
                figures = steps(model, step, inputs, device, 3 if toy else 12)
                share = utilisation(flops, figures["seconds"]) if device.type == "cuda" else None
                figures |= {"batch": batch, "TFLOP": round(flops / 1e12, 4), "parameters": sum(
                    p.numel() for p in model.parameters()), "samples/s": round(batch / figures["seconds"], 2),
                    "MFU": share and round(share, 4)}
                found[f"{size}/{regime}, {way}"] = figures
                print(f"{size}/{regime}, {way}", figures, flush=True)
                keep(found)
            del model, inputs, step
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found


class Pair(nn.Module):
    "Text and picture of a model as the two sides of a contrastive loss, in bfloat16 by autocast; see gradcache.step."

    def __init__(self, model: MultimodalModel, device: torch.device):
        super().__init__()
        self.model, self.device = model, device

    def forward(self, part: Mapping[str, tuple]) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return tuple(self.model.embed(m, part[m]).float() for m in ("text", "picture"))

    def loss(self, a: Tensor, b: Tensor) -> Tensor:
        return contrastive_loss(a, b, self.model.log_scale)


def memory(toy: bool, device: torch.device) -> dict:
    "`way/batch` → peak memory and seconds of a step; None where it does not fit. Inputs are made part by part."
    found, (micro, batches) = {}, (2, (2, 4)) if toy else (64, (64, 256, 1024, 8192))
    for way in gradcache.WAYS:
        for batch in batches:
            torch.manual_seed(0)
            pair = Pair(full_model("toy" if toy else "large").to(device).train(), device)

            def part(number, pair=pair):
                torch.manual_seed(number)
                return inputs_for(pair.model, micro, device)
            work = lambda parts, way=way, pair=pair, part=part: gradcache.step(way, pair, parts, part)
            few = batch > 1024
            try:
                found[f"{way}/{batch}"] = steps(pair, work, list(range(batch // micro)), device, 1 if few else 3, 1)
            except torch.OutOfMemoryError:
                found[f"{way}/{batch}"] = None
            print(f"{way}/{batch}", found[f"{way}/{batch}"], flush=True)
            keep(found)
            del pair, part, work
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found


# What needs the embedded data

def pipeline(toy: bool, device: torch.device) -> dict:
    "Loading against the step, raw and cached: see benchmarks/pipeline.py. `raw`: with eight workers, or none."
    from dataclasses import replace

    import pipeline as loading

    from mmtutor.inputs import PROFILES
    profile = replace(PROFILES["quick"], batch_size=loading.BATCH) if toy else PROFILES["frozen"]
    found = loading.raw(32 if toy else 1024, 1 if toy else 2, profile, (0,) if toy else (8,))
    return {"raw": found | {"supply / need": max(found["supply / need"].values())},
            "cached": loading.cached(1 if toy else 5, profile)}


CAPSTONE = Path("runs") / "gpu-capstone"


def capstone(toy: bool, device: torch.device) -> dict:
    "The full run, or (toy) the quick one; it goes on where it was stopped. Also writes results/capstone-gpu.json."
    from mmtutor.capstone import run
    found = run("quick" if toy else "gpu", folder=f"{CAPSTONE}-toy" if toy else CAPSTONE, progress=False)
    return {name: found[name] for name in ("test", "cost", "parameters")}


def capstone_so_far(folder: Path = CAPSTONE) -> dict | None:
    "What a capstone that was stopped has finished: the test figures by kind of run, with their spread; None: nothing."
    from mmtutor.capstone import gather
    paths = sorted(folder.rglob("result.json"))
    runs = {p.parent.relative_to(folder).as_posix(): json.loads(p.read_text(encoding="utf-8")) for p in paths}
    return {"finished so far": sorted(runs), "test": gather(runs, "test")} if runs else None


# The most telling first; seconds that each may take on one H200, start-up included.
SECTIONS = {"parity": (parity, 60), "peers": (peers, 80), "speed": (speed, 110), "memory": (memory, 110),
            "pipeline": (pipeline, 60), "compile": (compiled, 80), "compiled peers": (compiled_peers, 70),
            "capstone": (capstone, 600)}
