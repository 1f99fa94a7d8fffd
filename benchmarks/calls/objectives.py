"""Good calls of chapter 10: losses, measures of a common space, weights of several losses."""
import torch
from fuzzed import good

from mmtutor.multitask import GradNorm, UncertaintyWeighting, gradient_norms
from mmtutor.objectives import (
    MultiTaskLoss,
    check_losses,
    check_pairs,
    contrastive_among,
    contrastive_loss,
    hardest,
    in_chunks,
    same_items,
    siglip_loss,
    unit_rows,
)
from mmtutor.retrieval import (
    alignment,
    check_numbers,
    mean_reciprocal_rank,
    modality_gap,
    on_sphere,
    ranks,
    recall_at,
    uniformity,
)


def _pairs(count=4):
    same = torch.zeros(count, count, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    return dict(a=torch.randn(count, 3), b=torch.randn(count, 3), same=same)


def _losses():
    return {"group": torch.tensor(1.5), "odd": torch.tensor(0.5)}


@good("objectives.unit_rows")
def _():
    return unit_rows, dict(operation="loss", **_pairs())


@good("objectives.check_pairs")
def _():
    return check_pairs, dict(operation="loss", **_pairs())


@good("objectives.contrastive_loss")
def _():
    return contrastive_loss, dict(**_pairs(), log_scale=torch.tensor(2.0))


@good("objectives.contrastive_loss in chunks")
def _():
    return contrastive_loss, dict(**_pairs(), log_scale=2.5, chunk=3)


@good("objectives.in_chunks")
def _():
    return in_chunks, dict(**_pairs(), chunk=2)


@good("objectives.same_items")
def _():
    return same_items, dict(keys=["a cat", "a dog", "a cat"])


@good("objectives.same_items of numbers")
def _():
    return same_items, dict(keys=torch.tensor([3, 1, 3, 2]))


@good("objectives.hardest")
def _():
    return hardest, dict(**_pairs(), k=2)


@good("objectives.siglip_loss")
def _():
    return siglip_loss, dict(**_pairs(), log_scale=torch.tensor(2.0), bias=-10.0)


@good("objectives.contrastive_among", swallows=("embeddings",))  # what is absent is never looked at
def _():
    present = {"text": torch.tensor([True, True, False, True]), "sound": torch.tensor([False, True, True, True])}
    return contrastive_among, dict(embeddings={m: torch.randn(4, 3) for m in ("text", "picture", "sound")},
                                   log_scale=2.0, anchor="picture", present=present)


@good("objectives.contrastive_among with everything present", swallows=("log_scale",))  # nothing to scale without pairs
def _():
    return contrastive_among, dict(embeddings={m: torch.randn(4, 3) for m in ("text", "picture")}, log_scale=2.0)


@good("objectives.check_losses")
def _():
    return check_losses, dict(operation="training", losses=_losses(), known=["group", "odd", "other"])


@good("objectives.MultiTaskLoss")
def _():
    def used(weights):
        return MultiTaskLoss(weights)(_losses())
    return used, dict(weights={"group": 1.0, "odd": 0.5})


@good("objectives.MultiTaskLoss forward")
def _():
    return MultiTaskLoss({"group": 1.0, "odd": 0.5, "other": 2.0}), dict(losses=_losses())


@good("retrieval.check_numbers")
def _():
    return check_numbers, dict(operation="measure", shape=(3,), end=5, target=torch.tensor([0, 4, 2]))


@good("retrieval.ranks")
def _():
    return ranks, dict(scores=torch.randn(3, 5), target=torch.tensor([0, 4, 2]), operation="measure")


@good("retrieval.recall_at")
def _():
    return recall_at, dict(scores=torch.randn(3, 5), target=torch.tensor([0, 4, 2]), k=2)


@good("retrieval.mean_reciprocal_rank")
def _():
    return mean_reciprocal_rank, dict(scores=torch.randn(3, 5), target=torch.tensor([0, 4, 2]))


@good("retrieval.on_sphere")
def _():
    return on_sphere, dict(operation="measure", least=2, a=torch.randn(4, 3), b=torch.randn(4, 3))


@good("retrieval.alignment")
def _():
    return alignment, dict(a=torch.randn(4, 3), b=torch.randn(4, 3))


@good("retrieval.uniformity")
def _():
    return uniformity, dict(x=torch.randn(4, 3))


@good("retrieval.modality_gap")
def _():
    return modality_gap, dict(a=torch.randn(4, 3), b=torch.randn(4, 3))


@good("multitask.UncertaintyWeighting")
def _():
    def used(**given):
        objective = UncertaintyWeighting(**given)
        return objective(_losses()), objective.weights()
    return used, dict(names=["group", "odd"], regression=["odd"], limit=6.0, speed=2.0)


@good("multitask.UncertaintyWeighting forward")
def _():
    return UncertaintyWeighting(["group", "odd", "other"]), dict(losses=_losses())


def _tasks(shared, group, odd):
    "Two losses of the same tensors; a factor of each."
    for x in shared:
        x.requires_grad_()
    none = torch.zeros(())
    return {"group": group * sum((x.square().sum() for x in shared), none),
            "odd": odd * sum((x.abs().sum() for x in shared[:1]), none)}


@good("multitask.gradient_norms")
def _():
    def used(shared, **factors):
        shared = [x.clone() for x in shared]
        return gradient_norms(_tasks(shared, **factors), shared)
    return used, dict(shared=[torch.randn(2, 3), torch.randn(4)], group=1.0, odd=-2.0)


@good("multitask.gradient_norms of what does not depend on them", swallows=("losses", "shared"))  # the length is 0
def _():
    def used(losses, shared):
        return gradient_norms(losses, [x.clone().requires_grad_() for x in shared])
    return used, dict(losses=_losses(), shared=[torch.randn(2, 3)])


@good("multitask.GradNorm")
def _():
    def used(shared, group, odd, **given):
        objective, shared = GradNorm(**given), [x.clone() for x in shared]
        for _ in range(2):
            found = objective(_tasks(shared, group, odd), shared)
        return found, objective.weights()
    return used, dict(names=["group", "odd"], alpha=1.5, rate=0.1, shared=[torch.randn(2, 3), torch.randn(4)],
                      group=1.0, odd=2.0)


@good("multitask.GradNorm forward", swallows=("shared",))  # unused when not in training
def _():
    return GradNorm(["group", "odd", "other"]).eval(), dict(losses=_losses(), shared=[torch.randn(2)])
