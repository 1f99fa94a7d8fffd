"""The budgets the course has set itself, each judged from a record; where there is none, it says so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Records = Mapping[str, Mapping]


@dataclass(frozen=True)
class Found:
    "What a record says of a budget: the figure in words, and how far it is from the goal (≤ 1: reached)."

    figure: str
    share: float
    record: str
    spread: float = 0  # of the share


def blocks(kind: str, device: str) -> Callable[[Records], Found | None]:
    "Our block against the others, forward and backward: the slowest of all sizes."

    def judge(records: Records) -> Found | None:
        run = records.get("bench-attention", {}).get("figures", {}).get("ours / theirs", {})
        found = {k: v for k, v in run.items() if k.startswith(f"{device}/{kind}/") and "backward" in k}
        if not found:
            return None
        key, worst = max(found.items(), key=lambda item: item[1]["ratio"])
        slower = [v["ratio"] for v in found.values() if v["ratio"] > 1]
        _, _, size, _, rival = key.split("/", 4)
        text = (
            f"{len(found) - len(slower)} of {len(found)} comparisons no slower; at worst {worst['ratio']:.2f} times "
            f"{rival} ({size}; spread {worst['turns']['sd']:.2f})"
        )
        return Found(text, worst["ratio"], "bench-attention", worst["turns"]["sd"])

    return judge


def overhead(rival: str, share: float) -> Callable[[Records], Found | None]:
    "The step's overhead over a bare loop, as a share of another framework's; the worse of the sizes."

    def judge(records: Records) -> Found | None:
        sizes = records.get("bench-frameworks", {}).get("figures", {}).get("seconds", {})
        found = []
        for size, ways in sizes.items():
            if {"finetune", rival} <= ways.keys():
                ours, theirs = ways["finetune"]["ratio"] - 1, ways[rival]["ratio"] - 1
                found.append((ours / (theirs * share) if theirs > 0 else float("inf"), size, ours, theirs))
        if not found:
            return None
        worst = max(found)
        text = "; ".join(
            f"{size} model {100 * ours:.1f} % against {100 * theirs:.1f} %" for _, size, ours, theirs in found
        )
        return Found(text, worst[0], "bench-frameworks")

    return judge


def front_end(rival: str) -> Callable[[Records], Found | None]:
    "Log-mel: the rival's time over ours on a batch, the worst of the sizes."

    def judge(records: Records) -> Found | None:
        ratios = records.get("bench-logmel", {}).get("figures", {}).get("theirs / ours", {})
        found = {k: v["ratio"] for k, v in ratios.items() if rival in k}
        if not found:
            return None
        text = ", ".join(f"{v:.1f}× ({k.split('/')[0]})" for k, v in found.items())
        return Found(text, 3 / min(found.values()), "bench-logmel")

    return judge


def cached(name: str) -> Callable[[Records], Found | None]:
    def judge(records: Records) -> Found | None:
        figures = records.get(name, {}).get("figures", {})
        if "recomputed / cached" in figures:
            ratio, text = figures["recomputed / cached"]["mean"], f"± {figures['recomputed / cached']['sd']:.0f}"
        elif "cost" in figures:
            times = {k: v["seconds per epoch"] for k, v in figures["cost"].items()}
            ratio, text = times["recomputed"] / times["cached"], "whole epoch of the main run, decoder included"
        else:
            return None
        return Found(f"{ratio:.1f} times faster ({text})", 10 / ratio, name)

    return judge


def flat_memory(records: Records) -> Found | None:
    kept = records.get("claims", {}).get("T5", {}).get("figures", {}).get("kept MiB")
    if not kept:
        return None
    ours = list(kept["accumulate"].values())
    batches = list(kept["accumulate"])
    return Found(
        f"{ours[0]:.1f} MiB kept at batch {batches[0]}, {ours[-1]:.1f} at {batches[-1]}",
        max(ours) / min(ours),
        "claim-T5",
    )


def grad_cache(records: Records) -> Found | None:
    kept = records.get("claims", {}).get("T5", {}).get("figures", {}).get("kept MiB")
    if not kept:
        return None
    worst = max(kept["GradCache"][b] / kept["accumulate"][b] for b in kept["accumulate"])
    return Found(f"{worst:.2f} of what accumulation keeps", worst / 1.15, "claim-T5")


def utilisation(records: Records) -> Found | None:
    speed = records.get("gpu-model", {}).get("figures", {}).get("speed", {})
    found = {k: v["MFU"] for k, v in speed.items() if v.get("MFU")}
    if not found:
        return None
    best = max(found, key=found.get)
    full = {k: v for k, v in found.items() if k.startswith("full")} or found
    text = ", ".join(f"{k} {100 * v:.0f} %" for k, v in found.items())
    return Found(text, 0.4 / max(full.values()), "gpu-model") if best else None


BUDGETS: list[tuple[str, str, Callable[[Records], Found | None]]] = [
    ("multi-head attention, CPU", "forward + backward no slower than PyTorch's", blocks("MultiHeadAttention", "cpu")),
    ("encoder layer, CPU", "forward + backward no slower than PyTorch's and BertLayer", blocks("EncoderLayer", "cpu")),
    ("multi-head attention, GPU", "the same", blocks("MultiHeadAttention", "cuda")),
    ("encoder layer, GPU", "the same", blocks("EncoderLayer", "cuda")),
    ("training step over a bare loop", "overhead at most Fabric's", overhead("fabric", 1)),
    ("training step, beside Trainer", "overhead at most a fifth of its", overhead("trainer", 0.2)),
    ("training step, beside Lightning", "overhead at most a fifth of its", overhead("lightning", 0.2)),
    ("log-mel, beside librosa", "3 times faster on a batch", front_end("librosa, one array")),
    ("log-mel, beside transformers (NumPy)", "3 times faster on a batch", front_end("transformers (NumPy)")),
    (
        "cached features, encoders and head alone",
        "an epoch 10 times faster than encoding anew",
        cached("frozen-features"),
    ),
    ("cached features, the main run", "an epoch 10 times faster than encoding anew", cached("capstone-frozen")),
    ("memory under accumulation", "flat in the batch", flat_memory),
    ("memory of GradCache", "within 15 % of accumulation", grad_cache),
    ("full GPU run", "model FLOPs utilisation at least 40 % in bfloat16", utilisation),
]


def said(found: Found | None) -> str:
    "Reached, or short by how much; or that nothing is recorded."
    if found is None:
        return "not recorded yet"
    if found.share <= 1.005:
        return "reached"
    short = (
        f"short by {100 * (found.share - 1):.0f}\u00a0%"
        if found.share < 10
        else f"short by a factor of {found.share:.0f}"
    )
    return short + ", within the spread" * (found.share - found.spread <= 1)
