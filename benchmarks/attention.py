"""attend, MultiHeadAttention and EncoderLayer against PyTorch's and Hugging Face's, as ratios ours / theirs.

One process, the rivals in turn, forward in inference and forward with backward, at the same weights' shapes and work.
On a CPU: seconds of one thread's processor time, so that a busy machine disturbs less. On a GPU (scripts/gpu_run.py):
seconds by its own clock. Also the peak memory, of the written-out and the fused attention by length and of the layers.
Writes results/bench-attention.json and bench-attention-memory.json; `compiled`: the same under torch.compile (needs a
C++ compiler), bench-attention-compiled.json.
Run: python benchmarks/attention.py; python benchmarks/attention.py compiled
"""
import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from resident import alone, peak_of
from torch import nn
from torch.nn import functional as F

from mmtutor.attention import attend
from mmtutor.course import records
from mmtutor.multihead import MultiHeadAttention
from mmtutor.transformer import EncoderLayer

# batch, tokens, width, heads; the last one is BERT-base's
SIZES = {"tiny": (8, 32, 64, 4), "small": (8, 128, 256, 8), "long": (2, 1024, 256, 8), "base": (4, 128, 768, 12)}
LENGTHS = (256, 512, 1024, 2048, 4096)
TOY = {"toy": (2, 8, 16, 2)}
BLOCKS = ("attend", "MultiHeadAttention", "EncoderLayer", "EncoderLayer, norm first")


def hugging_face(dim: int, heads: int) -> dict[str, nn.Module]:
    "One layer of BERT (its attention in two ways), of ViT and of Whisper's encoder, without dropout."
    from transformers import BertConfig, ViTConfig, WhisperConfig
    from transformers.models.bert.modeling_bert import BertLayer
    from transformers.models.vit.modeling_vit import ViTLayer
    from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer
    size = {"hidden_size": dim, "num_attention_heads": heads, "intermediate_size": 4 * dim, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0}
    whisper = {"d_model": dim, "encoder_attention_heads": heads, "encoder_ffn_dim": 4 * dim, "dropout": 0.0}
    return {"BertLayer (sdpa)": BertLayer(BertConfig(**size, attn_implementation="sdpa")),
            "BertLayer (eager)": BertLayer(BertConfig(**size, attn_implementation="eager")),
            "ViTLayer": ViTLayer(ViTConfig(**size, attn_implementation="sdpa")),
            "WhisperEncoderLayer": WhisperEncoderLayer(WhisperConfig(**whisper, attn_implementation="sdpa"))}


def _first(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = module(x)
    return out[0] if isinstance(out, tuple) else out


def _attends_itself(module: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    return module(x, x, x, need_weights=False)[0]


def _whisper(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    out = module(x, None)  # its attention mask has no default
    return out[0] if isinstance(out, tuple) else out


def rivals(batch: int, tokens: int, dim: int, heads: int, device: str) -> dict[str, dict[str, tuple]]:
    """What is compared: block → name → (module or None, function of x). The first of each block is ours.

    Whisper's layer has no bias of the keys: `dim` parameters fewer.
    """
    split = lambda x: x.view(batch, tokens, heads, dim // heads).transpose(1, 2)
    torch_layer = lambda first: nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True,
                                                           norm_first=first)
    theirs = hugging_face(dim, heads)
    late = {"ours": EncoderLayer(dim, heads, norm_first=False), "nn.TransformerEncoderLayer": torch_layer(False),
            **{name: m for name, m in theirs.items() if name.startswith("Bert")}}
    early = {"ours": EncoderLayer(dim, heads), "nn.TransformerEncoderLayer": torch_layer(True),
             **{name: m for name, m in theirs.items() if not name.startswith("Bert")}}
    heads_of = {"ours": MultiHeadAttention(dim, heads),
                "nn.MultiheadAttention": nn.MultiheadAttention(dim, heads, batch_first=True)}
    ways = {"nn.MultiheadAttention": _attends_itself, "WhisperEncoderLayer": _whisper}
    module_block = lambda block: {name: (m.to(device), partial(ways.get(name, _first), m)) for name, m in block.items()}
    return {"attend": {"ours": (None, lambda x: attend(split(x), split(x), split(x))),
                       "F.scaled_dot_product_attention": (
                           None, lambda x: F.scaled_dot_product_attention(split(x), split(x), split(x)))},
            "MultiHeadAttention": module_block(heads_of), "EncoderLayer": module_block(late),
            "EncoderLayer, norm first": module_block(early)}


def once(module: nn.Module | None, function: Callable, x: torch.Tensor, backward: bool,
         low: torch.dtype | None = None) -> None:
    "One call: in inference mode of the module, or in training with the gradients of everything."
    with torch.set_grad_enabled(backward), torch.autocast(x.device.type, dtype=low, enabled=low is not None):
        out = function(x)
    if backward:
        out.sum().backward()


def seconds(module: nn.Module | None, function: Callable, x: torch.Tensor, backward: bool,
            low: torch.dtype | None = None) -> float:
    if module is not None:
        module.train(backward)
        module.zero_grad()
    x = x.detach().requires_grad_(backward)
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    once(module, function, x, backward, low)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def compare(sizes: dict = SIZES, repeats: int = 9, device: str = "cpu", *, blocks=BLOCKS, compiled: bool = False,
            low: torch.dtype | None = None) -> dict:
    """Ratios ours / theirs: `device/block/size/pass/rival` → the ratio of the medians, and the spread of turn by turn.

    Every turn calls each rival once, in an order that rotates; the first two turns warm up (and compile). `low`: under
    autocast to this type.
    """
    found = {}
    for size, shape in sizes.items():
        torch.manual_seed(0)
        all_blocks, x = rivals(*shape, device), torch.randn(*shape[:3], device=device)
        for name in blocks:
            block = all_blocks[name]
            if compiled:
                torch.compiler.reset()
                block = {rival: (m, torch.compile(f, dynamic=False)) for rival, (m, f) in block.items()}
            for backward in (False, True):
                taken, order = {rival: [] for rival in block}, list(block)
                for turn in range(repeats + 2):
                    for rival in order[turn % len(order):] + order[:turn % len(order)]:
                        taken[rival].append(seconds(*block[rival], x, backward, low))
                ours = taken.pop("ours")[2:]
                for rival, theirs in taken.items():
                    key = "/".join((device, name, size, "forward + backward" if backward else "forward", rival))
                    found[key] = {
                        "ratio": round(statistics.median(ours) / statistics.median(theirs[2:]), 4),
                        "ours ms": round(1e3 * statistics.median(ours), 4),
                        "turns": records.spread([a / max(b, 1e-9) for a, b in zip(ours, theirs[2:])])}
    return found


def _peak(work: Callable[[], object], device: str) -> float:
    "MiB that `work` needs at its peak beyond what is held before it."
    if device == "cpu":
        return round(peak_of(work), 3)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 3)


def attention_peak(tokens: int, fused: bool, device: str, width: int = 64) -> float:
    "Of one call (forward) of a single head, beyond its inputs."
    torch.set_num_threads(1)
    q = torch.randn(1, 1, tokens, width, device=device)
    with torch.no_grad():
        attend(q[:, :, :64], q[:, :, :64], q[:, :, :64], fused=fused)  # the libraries' own workspace is not counted
        return _peak(lambda: attend(q, q, q, fused=fused), device)


def layer_peak(block: str, rival: str, shape: tuple[int, ...], device: str) -> dict[str, float]:
    "Of one layer, by pass, beyond its weights and its input; with the gradients of the weights in the backward pass."
    torch.set_num_threads(1)
    (module, function), x, found = rivals(*shape, device)[block][rival], torch.randn(*shape[:3], device=device), {}
    for backward in (False, True):
        module.train(backward)
        module.zero_grad()
        once(module, function, x[:1, :8], backward)
        module.zero_grad()
        found["forward + backward" if backward else "forward"] = _peak(
            partial(once, module, function, x, backward), device)
    return found


def memory(lengths=LENGTHS, device: str = "cpu") -> dict:
    "`device/written out|fused/tokens` → MiB. On a CPU every figure comes from a process of its own."
    go = alone if device == "cpu" else lambda function, *arguments: function(*arguments)
    return {f"{device}/{way}/{tokens}": go(attention_peak, tokens, fused, device)
            for way, fused in (("written out", False), ("fused", True)) for tokens in lengths}


def layer_memory(sizes: dict | None = None, device: str = "cpu") -> dict:
    "`device/block/size/pass/name` → MiB of ours and of each rival, each in a process of its own on a CPU."
    go, found = alone if device == "cpu" else lambda function, *arguments: function(*arguments), {}
    for size, shape in (sizes or {"long": SIZES["long"]}).items():
        for block, names in rivals(1, 2, 4, 2, "cpu").items():
            for name in names if block != "attend" else ():
                for way, peak in go(layer_peak, block, name, shape, device).items():
                    found[f"{device}/{block}/{size}/{way}/{name}"] = peak
    return found


def main() -> None:
    import transformers
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--dry", action="store_true", help="a toy size, few turns; print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun, command = records.commit(), "python benchmarks/attention.py" + " compiled" * (args.part == "compiled")
    about = {"transformers": transformers.__version__, "threads": 1}
    if args.part == "compiled":
        sizes, why = (TOY if args.dry else {"small": SIZES["small"]}), None
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            found, why = {}, "no C++ compiler on this machine, which torch.compile needs"
        else:
            found = compare(sizes, 3 if args.dry else 9, compiled=True,
                            blocks=BLOCKS[1:2] if args.dry else BLOCKS[1:])
        done = {"bench-attention-compiled": {"ours / theirs": found, "absent because": why}}
    else:
        sizes = TOY if args.dry else SIZES
        peaks = {"lengths": list(LENGTHS), "width": 64, "unit": "MiB", "what": "one head, forward, beyond q, k and v",
                 "peak": memory(LENGTHS[:2] if args.dry else LENGTHS),
                 "layers": layer_memory({"toy": (2, 64, 16, 2)} if args.dry else None)}
        found = compare(sizes, 3 if args.dry else 9)
        done = {"bench-attention-memory": peaks, "bench-attention": {"ours / theirs": found}}
        print(*(f"{key:80} {value:8.2f} MiB" for key, value in (peaks["peak"] | peaks["layers"]).items()), sep="\n")
    for key, figure in found.items():
        print(f"{key:80} {figure['ratio']:.2f}  ({records.show(figure['turns'], 2)})")
    for name, figures in done.items() if not args.dry else ():
        records.record(name, command, [0], {"sizes (batch, tokens, width, heads)": sizes, **about, **figures},
                       begun=begun)


if __name__ == "__main__":
    main()
