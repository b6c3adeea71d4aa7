"""Losses of classifiers: softmax for video and images, class-balanced sigmoids for sound (VATT appendix A.2)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vatt.distributed import all_reduce_sum_with_gradient


def softmax_loss(
    logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the softmax, mean over clips, for labels in [0, 1] (one-hot or mixed).

    With smoothing a in [0, 1], 0.1 in the paper, labels y of C classes become (1 - a) y + a / C.
    Computed in float32, also under autocast.
    """
    with torch.autocast(logits.device.type, enabled=False):
        smooth = (1 - label_smoothing) * labels.float() + label_smoothing / labels.shape[1]
        return functional.cross_entropy(logits.float(), smooth)


def balanced_sigmoid_loss(
    logits: Float[Tensor, "B C"], labels: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of every class, summed over classes; rare classes weigh more.

    Labels are in [0, 1]: several of a clip may be 1, and mixed ones lie between and are used as
    they are. With n_c the sum of the labels of class c over the clips of all ranks, a clip with
    labels y weighs (sum over c of y_c / n_c) / (sum over c of y_c), and nothing without labels;
    the loss is the mean over clips of weight times cross-entropy. B must be the same on every
    rank; the mean over ranks is the loss of one process with all clips. Computed in float32,
    also under autocast.

    Differs from the original, which counts labels on each replica: with one process it is the same.
    """
    with torch.autocast(logits.device.type, enabled=False):
        labels = labels.float()
        num_of_class = all_reduce_sum_with_gradient(labels.sum(0))
        # Where a divisor is 0 so is what it divides.
        rarity = (labels / num_of_class.where(num_of_class > 0, 1)).sum(1)
        num_labels = labels.sum(1)
        weights = rarity / num_labels.where(num_labels > 0, 1)
        losses = functional.binary_cross_entropy_with_logits(
            logits.float(), labels, reduction="none"
        ).sum(1)
        return (weights * losses).mean()
