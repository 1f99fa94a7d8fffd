"""What only a GPU can show: parity of the blocks in 32 and 16 bits, a full-sized training step, and memory.

The full size is ViT-B/16, BERT-base and Whisper-small's encoder with random weights under our fusion decoder. Model
FLOPs are counted by torch on the same step without compilation; their share of the peak is the utilisation (MFU).
Needs nothing but torch, numpy and the package itself: no data, no network. Writes results/gpu-parity.json and
results/gpu-model.json.
Run: python scripts/gpu_run.py    (--toy: small sizes, on a CPU too, printed and not recorded)
"""
import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmtutor.accumulation import GradCache, accumulate  # noqa: E402
from mmtutor.attention import attend, padding_mask  # noqa: E402
from mmtutor.audio import AudioTransformer, LogMel, RecurrentEncoder  # noqa: E402
from mmtutor.course import records  # noqa: E402
from mmtutor.course.parts import utilisation  # noqa: E402
from mmtutor.fusion import SharedFusionDecoder  # noqa: E402
from mmtutor.multihead import MultiHeadAttention  # noqa: E402
from mmtutor.multimodal import MultimodalConfig, MultimodalModel  # noqa: E402
from mmtutor.objectives import contrastive_loss  # noqa: E402
from mmtutor.text import TextConfig, TextEncoder  # noqa: E402
from mmtutor.transformer import Decoder, Encoder, Tokens  # noqa: E402
from mmtutor.vision import ConvEncoder, VisionConfig, VisionTransformer  # noqa: E402

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


def parity(device: torch.device, seeds=(0, 1, 2)) -> dict:
    """Largest difference from float64 on the CPU, relative to the largest value: `block/type` → the worst seed.

    float32 runs as it is, without TF32; 16 bits by autocast, as in training.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = {}
    for seed in seeds:
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


# The full size

def encoders(toy: bool) -> dict[str, nn.Module]:
    "ViT-B/16 at 224 pixels, BERT-base, Whisper-small's encoder at 10 s; or small ones."
    if toy:
        return {"text": TextEncoder(TextConfig(1000, 32, 2, 2, 64)),
                "picture": VisionTransformer(VisionConfig(32, 16, 32, 2, 2)),
                "sound": AudioTransformer(32, 2, 2, tokens=50)}
    return {"text": TextEncoder(TextConfig(30_522, 768, 12, 12, 3072)),
            "picture": VisionTransformer(VisionConfig(224, 16, 768, 12, 12)),
            "sound": AudioTransformer(768, 12, 12, tokens=500)}


def full_model(toy: bool) -> MultimodalModel:
    parts = encoders(toy)
    dim, depth = (32, 1) if toy else (512, 4)
    config = MultimodalConfig(widths={m: e.dim for m, e in parts.items()}, dim=dim, depth=depth, embedding=dim,
                              max_tokens=512, modality_dropout=0.0)
    return MultimodalModel(config, parts)


def inputs_for(model: MultimodalModel, batch: int, device: torch.device, words: int = 128) -> dict[str, tuple]:
    "Random inputs of full length: every token is real, so that all work counted is work wanted."
    pixels, samples = model.encoders["picture"].config.size, model.encoders["sound"].samples
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


def training_step(model: MultimodalModel, device: torch.device) -> Callable:
    def step(inputs):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_of(model, inputs)
        loss.backward()
    return step


def speed(device: torch.device, toy: bool, batch: int) -> dict:
    "Full and frozen training, as written and compiled: samples a second, model FLOPs utilisation, memory."
    found = {}
    for regime in ("full", "frozen"):
        torch.manual_seed(0)
        model = full_model(toy).to(device).train()
        model.encoders.requires_grad_(regime == "full")
        inputs, step = inputs_for(model, batch, device), training_step(model, device)
        with FlopCounterMode(display=False) as counter:
            step(inputs)
        flops = counter.get_total_flops()
        for way in ("as written", "compiled"):
            if way == "compiled":
                for encoder in model.encoders.values():
                    encoder.encoder.compile()
            figures = steps(model, step, inputs, device, 4 if toy else 12)
            share = utilisation(flops, figures["seconds"]) if device.type == "cuda" else None
            figures |= {"batch": batch, "TFLOP": round(flops / 1e12, 4), "parameters": sum(
                p.numel() for p in model.parameters()), "samples/s": round(batch / figures["seconds"], 2),
                "MFU": share and round(share, 4)}
            found[f"{regime}, {way}"] = figures
            print(f"{regime}, {way}", figures, flush=True)
    return found


def step_in_parts(way: str, model: MultimodalModel, inputs: Mapping[str, tuple], micro: int) -> Callable:
    "One backward pass of a contrastive loss between text and picture: of the whole batch, accumulated, by GradCache."
    batch = len(inputs["picture"][0])
    parts = [{m: tuple(t[i:i + micro] for t in x) for m, x in inputs.items()} for i in range(0, batch, micro)]

    def encode(part):
        with torch.autocast(inputs["picture"][0].device.type, dtype=torch.bfloat16):
            return tuple(model.embed(m, part[m]).float() for m in ("text", "picture"))

    def pulled(a, b):
        return contrastive_loss(a, b, model.log_scale)
    return {"whole batch": lambda _: pulled(*encode(inputs)).backward(),
            "accumulated": lambda _: accumulate(lambda part: pulled(*encode(part)), parts, [micro] * len(parts)),
            "GradCache": lambda _: GradCache(encode, pulled).backward(parts)}[way]


def memory(device: torch.device, toy: bool, micro: int, batches: tuple[int, ...]) -> dict:
    "Peak memory and seconds of a step against the batch; None where it does not fit."
    found = {}
    for way in ("whole batch", "accumulated", "GradCache"):
        for batch in batches:
            torch.manual_seed(0)
            model = full_model(toy).to(device).train()
            inputs = inputs_for(model, batch, device)
            inputs.pop("sound")
            try:
                found[f"{way}/{batch}"] = steps(model, step_in_parts(way, model, inputs, micro), None, device, 2, 1)
            except torch.OutOfMemoryError:
                found[f"{way}/{batch}"] = None
            print(f"{way}/{batch}", found[f"{way}/{batch}"], flush=True)
            del model, inputs
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="small sizes, also on a CPU; nothing is recorded")
    toy = parser.parse_args().toy
    if not toy and not torch.cuda.is_available():
        sys.exit("gpu_run: no GPU here; --toy tries the code at a small size on a CPU")
    device, begun = torch.device("cuda" if torch.cuda.is_available() else "cpu"), records.commit()
    same = parity(device)
    for key, value in same.items():
        print(f"{key:40} {value:.1e}", flush=True)
    found = {"speed": speed(device, toy, 4 if toy else 128),
             "memory": memory(device, toy, 2 if toy else 64, (2, 4) if toy else (64, 256, 1024, 8192))}
    if not toy:
        command = "python scripts/gpu_run.py"
        records.record("gpu-parity", command, (0, 1, 2), same, begun=begun)
        records.record("gpu-model", command, (0,), found, begun=begun)


if __name__ == "__main__":
    main()
