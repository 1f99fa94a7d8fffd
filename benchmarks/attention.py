"""attend, MultiHeadAttention and EncoderLayer against PyTorch's and Hugging Face's, as ratios ours / theirs.

One process, the rivals in turn, forward in inference and forward with backward, at the same weights' shapes and work.
On a CPU: seconds of one thread's processor time, so that a busy machine disturbs less. On a GPU, where there is one:
seconds by its own clock. Also the peak memory of the written-out and the fused attention by length.
Writes results/bench-attention.json and bench-attention-memory.json; where a GPU is, with the GPU alone,
gpu-attention.json and gpu-attention-memory.json. Run: python benchmarks/attention.py
"""
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mmtutor.attention import attend
from mmtutor.course import records
from mmtutor.multihead import MultiHeadAttention
from mmtutor.transformer import EncoderLayer

# batch, tokens, width, heads; the last one is BERT-base's
SIZES = {"tiny": (8, 32, 64, 4), "small": (8, 128, 256, 8), "long": (2, 1024, 256, 8), "base": (4, 128, 768, 12)}
LENGTHS = (256, 512, 1024, 2048, 4096)
DEVICES = ["cuda" if torch.cuda.is_available() else "cpu"]


def rivals(batch: int, tokens: int, dim: int, heads: int, device: str) -> dict[str, dict[str, tuple]]:
    "What is compared: block → name → (module or None, function of x). The first of each block is ours."
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer
    split = lambda x: x.view(batch, tokens, heads, dim // heads).transpose(1, 2)
    ours, theirs = MultiHeadAttention(dim, heads), nn.MultiheadAttention(dim, heads, batch_first=True)
    layer = EncoderLayer(dim, heads, norm_first=False)
    torch_layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True)
    berts, first = {}, lambda out: out[0] if isinstance(out, tuple) else out
    for kind in ("sdpa", "eager"):
        bert = BertLayer(BertConfig(
            hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, attn_implementation=kind))
        berts[f"BertLayer ({kind})"] = (bert, lambda x, bert=bert: first(bert(x)))
    blocks = {
        "attend": {"ours": (None, lambda x: attend(split(x), split(x), split(x))),
                   "F.scaled_dot_product_attention": (
                       None, lambda x: F.scaled_dot_product_attention(split(x), split(x), split(x)))},
        "MultiHeadAttention": {"ours": (ours, lambda x: ours(x)),
                               "nn.MultiheadAttention": (theirs, lambda x: theirs(x, x, x, need_weights=False)[0])},
        "EncoderLayer": {"ours": (layer, lambda x: layer(x)),
                         "nn.TransformerEncoderLayer": (torch_layer, lambda x: torch_layer(x)), **berts}}
    for block in blocks.values():
        for module, _ in block.values():
            if module is not None:
                module.to(device)
    return blocks


def seconds(module: nn.Module | None, function: Callable, x: torch.Tensor, backward: bool) -> float:
    "One call: in inference mode of the module, or in training with the gradients of everything."
    if module is not None:
        module.train(backward)
        module.zero_grad()
    x = x.detach().requires_grad_(backward)
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    with torch.set_grad_enabled(backward):
        out = function(x)
    if backward:
        out.sum().backward()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def compare(sizes: dict = SIZES, repeats: int = 9, devices: list[str] | None = None) -> dict:
    """Ratios ours / theirs: `device/block/size/pass/rival` → the ratio of the medians, and the spread of turn by turn.

    Every turn calls each rival once, in an order that rotates; the first two turns warm up.
    """
    found = {}
    for device in devices or DEVICES:
        for size, shape in sizes.items():
            torch.manual_seed(0)
            blocks, x = rivals(*shape, device), torch.randn(*shape[:3], device=device)
            for name, block in blocks.items():
                for backward in (False, True):
                    taken, order = {rival: [] for rival in block}, list(block)
                    for turn in range(repeats + 2):
                        for rival in order[turn % len(order):] + order[:turn % len(order)]:
                            taken[rival].append(seconds(*block[rival], x, backward))
                    ours = taken.pop("ours")[2:]
                    for rival, theirs in taken.items():
                        key = "/".join((device, name, size, "forward + backward" if backward else "forward", rival))
                        found[key] = {
                            "ratio": round(statistics.median(ours) / statistics.median(theirs[2:]), 4),
                            "ours ms": round(1e3 * statistics.median(ours), 4),
                            "turns": records.spread([a / max(b, 1e-9) for a, b in zip(ours, theirs[2:])])}
    return found


def _highest() -> int:
    "The peak of this process's resident memory in KiB (Linux)."
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def _peak(tokens: int, fused: bool, device: str, width: int = 64) -> float:
    "MiB that one call (forward) of a single head needs beyond its inputs."
    q = torch.randn(1, 1, tokens, width, device=device)
    with torch.no_grad():
        if device == "cuda":
            attend(q, q, q, fused=fused)  # the libraries' own workspace is not counted
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            attend(q, q, q, fused=fused)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        attend(q[:, :, :64], q[:, :, :64], q[:, :, :64], fused=fused)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew, at what is held now
        before = _highest()
        attend(q, q, q, fused=fused)
        return (_highest() - before) / 1024


def memory(lengths=LENGTHS, devices: list[str] | None = None) -> dict:
    "`device/written out|fused/tokens` → MiB. On a CPU every figure comes from a process of its own."
    found, devices = {}, devices or DEVICES
    for way, fused in (("written out", False), ("fused", True)):
        for tokens in lengths:
            if "cpu" in devices:
                with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fork would hang on torch's threads
                    found[f"cpu/{way}/{tokens}"] = round(pool.apply(_peak, (tokens, fused, "cpu")), 3)
    for way, fused in (("written out", False), ("fused", True)):
        for tokens in lengths if "cuda" in devices else ():
            found[f"cuda/{way}/{tokens}"] = round(_peak(tokens, fused, "cuda"), 3)
    return found


def main() -> None:
    import transformers
    torch.set_num_threads(1)
    begun, command = records.commit(), "python benchmarks/attention.py"
    name = f"{'gpu' if DEVICES == ['cuda'] else 'bench'}-attention"
    used = {"lengths": list(LENGTHS), "width": 64, "unit": "MiB", "what": "one head, forward, beyond q, k and v",
            "peak": memory()}
    records.record(f"{name}-memory", command, [0], used, begun=begun)
    print(used)
    found = compare()
    for key, figure in found.items():
        print(f"{key:80} {figure['ratio']:.2f}  ({records.show(figure['turns'], 2)})")
    records.record(name, command, [0], {
        "sizes (batch, tokens, width, heads)": SIZES, "transformers": transformers.__version__, "threads": 1,
        "ours / theirs": found}, begun=begun)


if __name__ == "__main__":
    main()
