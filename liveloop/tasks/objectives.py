"""Feedback losses: what a judgement of one of K labels teaches. Pure: knows logits and judgements, no model, no text and no weight.

Each gives one loss a judgement, [B]. A correction is learnt from by plain cross-entropy, whatever the loss: it names the right label.
A judgement's weight (of a rating, of an expert's word, of a judge's standing) multiplies its loss in all of them.

Shapes: B judgements, K labels. Where a reference is asked for it is version 1, which has no gradient; so do baselines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TAU = 0.25
"""Of `kl`: a thumb multiplies the odds of its label under the reference by exp(1 / TAU) = 55, or divides them by it."""
BETA = 1.0
"""Of `kto` and `bco`: log-ratios of labels are of the order of 1, where those of long texts, for which 0.1 is usual, are of 10."""
MOST_IMPORTANCE = 10.0
"""Of `policy_gradient`: where importance weights are cut off."""
_MEMORY = 100.0
"""Judgements over which a running baseline forgets."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What was judged, and what a loss may compare it with."""

    logits_BK: Tensor
    labels_B: Tensor  # the label that was judged
    signs_B: Tensor  # +1: it is right; -1: it is wrong
    propensities_B: Tensor  # with which the policy chose it
    reference_BK: Tensor  # logits of the reference; those of the model itself where the loss asks for none
    baselines: Tensor  # [3], running means of the loss's own statistic: of all, of ups, of downs

    @property
    def log_p_B(self) -> Tensor:
        """log p(a): of the judged label."""
        return _of_label(self.logits_BK.log_softmax(-1), self.labels_B)

    @property
    def log_ratio_B(self) -> Tensor:
        """log p(a) - log p_ref(a)."""
        return self.log_p_B - _of_label(self.reference_BK.log_softmax(-1), self.labels_B)


def complementary(judged: Judged) -> Tensor:
    """Up: -log p(a). Down: -log(1 - p(a)).

    The second is logsumexp(z) - logsumexp(z without a), which stays finite as p(a) goes to 1. This is the likelihood of learning from
    complementary labels (Yu et al. 2018, arXiv 1711.09535) and the unlikelihood of Welleck et al. (2019, arXiv 1908.04319).
    """
    logits_BK, labels_B = judged.logits_BK, judged.labels_B
    others_B = logits_BK.masked_fill(F.one_hot(labels_B, logits_BK.shape[-1]).bool(), float("-inf")).logsumexp(-1)
    return logits_BK.logsumexp(-1) - torch.where(judged.signs_B > 0, _of_label(logits_BK, labels_B), others_B)


def cross_entropy(judged: Judged) -> Tensor:
    """-log p(y), where y is the judged label after an up and the other of two after a down. Raises ValueError for K > 2."""
    if judged.logits_BK.shape[-1] != 2:
        raise ValueError("cross-entropy on thumbs is for two labels: of more, a thumb down does not say which one is right")
    right_B = torch.where(judged.signs_B > 0, judged.labels_B, 1 - judged.labels_B)
    return F.cross_entropy(judged.logits_BK, right_B, reduction="none")


def kl(judged: Judged) -> Tensor:
    """KL(q || p) towards the feedback-tilted q = softmax(log p_ref + r / tau), where r is the sign, on the judged label.

    q is the optimum of max E_q[r] - tau * KL(q || p_ref), the objective of learning from human feedback (Korbak et al. 2022,
    arXiv 2205.11275): it bounds how far one judgement can go.
    """
    tilt_BK = F.one_hot(judged.labels_B, judged.logits_BK.shape[-1]) * (judged.signs_B / TAU)[:, None]
    return divergence(judged.reference_BK + tilt_BK, judged.logits_BK)


def kto(judged: Judged) -> Tensor:
    """Up: 1 - sigmoid(beta * (log-ratio - z0)). Down: 1 - sigmoid(beta * (z0 - log-ratio)). z0 is the running mean of KL(p || p_ref).

    Ethayarajh et al. (2024), arXiv 2402.01306. With K labels the divergence is exact, where theirs is estimated from mismatched pairs.
    """
    return torch.sigmoid(-BETA * judged.signs_B * (judged.log_ratio_B - judged.baselines[0]))


def bco(judged: Judged) -> Tensor:
    """Up: -log sigmoid(r - delta). Down: -log sigmoid(delta - r). r = beta * log-ratio; delta: half-way between its means of ups and downs.

    Jung et al. (2024), arXiv 2404.04656: a classifier of good and bad answers whose logit is the model's own log-ratio.
    """
    return -F.logsigmoid(judged.signs_B * (BETA * judged.log_ratio_B - judged.baselines[1:].mean()))


def policy_gradient(judged: Judged) -> Tensor:
    """-w * (r - b) * log p(a): r is the sign, b its running mean, w = min(p(a) / propensity, 10), without gradient.

    Williams (1992), REINFORCE, with the truncated importance weight of logged bandits (Ionides 2008; Swaminathan and Joachims 2015). Where
    the weight is not cut off, its gradient is that of -(r - b) * p(a) / propensity, the unbiased estimate of the expected reward.
    """
    importance_B = (judged.log_p_B.detach() - judged.propensities_B.log()).exp().clamp(max=MOST_IMPORTANCE)
    return -importance_B * (judged.signs_B - judged.baselines[0]) * judged.log_p_B


def divergence(to_BK: Tensor, from_BK: Tensor) -> Tensor:
    """KL(softmax(to) || softmax(from)) of logits, [B]; the gradient goes into the second."""
    return F.kl_div(from_BK.log_softmax(-1), to_BK.log_softmax(-1), reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def moved(loss: FeedbackLoss, judged: Judged, weights_B: Tensor) -> Tensor:
    """The baselines after these judgements, [3]: means of the loss's statistic with a memory of 100 judgements of weight 1."""
    if loss.statistic is None:
        return judged.baselines
    statistic_B, baselines = loss.statistic(judged), judged.baselines.clone()
    for place, kind_B in enumerate((judged.signs_B != 0, judged.signs_B > 0, judged.signs_B < 0)):
        counted_B = weights_B * kind_B
        mean = (counted_B * statistic_B).sum() / counted_B.sum().clamp(min=1e-12)
        baselines[place].lerp_(mean, -torch.expm1(-counted_B.sum() / _MEMORY))
    return baselines


@dataclass(frozen=True, slots=True)
class FeedbackLoss:
    """One of the menu: how it is computed, and what people are told of it."""

    compute: Callable[[Judged], Tensor]
    formula: str
    when: str
    needs: str = ""
    reference: bool = False  # it compares with the first version
    statistic: Callable[[Judged], Tensor] | None = None  # [B], what its baselines are means of; none: it has none


def _of_label(rows_BK: Tensor, labels_B: Tensor) -> Tensor:
    return rows_BK.gather(-1, labels_B[:, None]).squeeze(-1)


LOSSES = {
    "complementary": FeedbackLoss(
        complementary,
        "up: -log p(a); down: -log(1 - p(a))",
        "a thumb says whether the label is right: any number of labels, any serving policy",
    ),
    "cross_entropy": FeedbackLoss(
        cross_entropy,
        "-log p(y), y = the other label after a down",
        "two labels: the same numbers as complementary, as plain training on labels",
        "two labels",
    ),
    "kl": FeedbackLoss(
        kl,
        f"KL(softmax(log p_ref + r / {TAU}) || p)",
        "one judgement must not go further than a set distance from the first version",
        "the first version in memory",
        reference=True,
    ),
    "kto": FeedbackLoss(
        kto,
        "1 - sigmoid(r (log p(a) / p_ref(a) - KL(p || p_ref)))",
        "judgements are often wrong: what contradicts the model most counts least",
        "the first version in memory",
        reference=True,
        statistic=lambda judged: divergence(judged.logits_BK, judged.reference_BK),
    ),
    "bco": FeedbackLoss(
        bco,
        "-log sigmoid(r (log p(a) / p_ref(a) - delta))",
        "ups and downs are of very different number, and mean better and worse rather than right and wrong",
        "the first version in memory",
        reference=True,
        statistic=lambda judged: BETA * judged.log_ratio_B,
    ),
    "policy_gradient": FeedbackLoss(
        policy_gradient,
        "-min(p(a) / propensity, 10) (r - mean r) log p(a)",
        "a rating is a reward to be raised, not a word on which label is right",
        "answers that were explored: logged propensities below 1",
        statistic=lambda judged: judged.signs_B.to(judged.logits_BK.dtype),
    ),
}
"""What the setting `objective` can be, beside auto."""
