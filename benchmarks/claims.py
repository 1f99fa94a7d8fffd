"""What the scripts of the claims share: their command line, and runs that differ in the seed alone."""
import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from mmtutor.course import records


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, str]:
    "The arguments, `--dry` among them; and those that are not the defaults, as the record repeats them."
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args, "".join(f" --{k} {v}" for k, v in vars(args).items() if k != "dry" and v != parser.get_default(k))


def spreads(runs: Sequence[Mapping]) -> dict:
    "Figures of several runs, perhaps in groups, as one: each with its spread."
    return {key: spreads([run[key] for run in runs]) if isinstance(value, Mapping)
            else records.spread([run[key] for run in runs]) for key, value in runs[0].items()}


def over_seeds(seeds: Iterable[int], run: Callable[[int], Mapping]) -> dict:
    "What `run` measures with every seed, each figure with its spread."
    runs = []
    for seed in seeds:
        start = time.process_time()
        runs.append(run(seed))
        print("seed", seed, round(time.process_time() - start), flush=True)
    return spreads(runs)
