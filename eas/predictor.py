"""The accuracy predictor that the generator and its opponents share: a small network fitted on measured archs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eas.generator import ClassMean
from eas.spaces import ChoiceSpace


class AccuracyPredictor(nn.Module):
    """Predicts how much better or worse an arch is than the pool's mean, in standard deviations over archs.

    Source: OFA's accuracy predictor (a small MLP on one-hot archs); `aware` adds the scenario's classes, as the mean
    of learned embeddings [related code: one-hot superclass].
    """

    def __init__(self, space: ChoiceSpace, classes: int, *, aware: bool, width: int = 64, embedding: int = 16):
        super().__init__()
        self.space = space
        inputs = sum(decisions * choices for decisions, choices in space.gate_shapes)
        self.class_embedding = ClassMean(classes, embedding, 0.1, blind=not aware)
        self.layers = nn.Sequential(
            nn.Linear(inputs + embedding, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor, class_masks: Tensor) -> Tensor:
        """Scores [n] from features [n, features] (see ChoiceSpace.features) and class masks, bool [n, classes]."""
        classes = self.class_embedding(class_masks)
        return self.layers(torch.cat([features, classes.expand(len(features), -1)], -1))[:, 0]

    def score(self, archs: Tensor, class_masks: Tensor) -> Tensor:
        """Scores of archs int64 [..., decisions] for class masks, bool [..., classes]; the [...] broadcast."""
        shape = torch.broadcast_shapes(archs.shape[:-1], class_masks.shape[:-1])
        features = self.space.features(*self.space.gates(archs))
        flat = (t.expand(*shape, -1).reshape(-1, t.shape[-1]) for t in (features, class_masks))
        return self(*flat).view(shape)


def fit_predictor(
    predictor: AccuracyPredictor, archs: Tensor, class_masks: Tensor, accuracy: Tensor, *, steps: int, seed: int
) -> float:
    """Fit on measured archs [n, decisions], scenarios bool [s, classes], accuracy [n, s]; returns the held-out R^2.

    A tenth of the archs is held out. Each scenario's mean accuracy is taken out first: it says nothing about archs and
    would drown what does.
    """
    rng = torch.Generator().manual_seed(seed)
    target = accuracy - accuracy.mean(0)
    target = target / target.std()
    order = torch.randperm(len(archs), generator=rng)
    held, fitted = order.split([max(1, len(archs) // 10), len(archs) - max(1, len(archs) // 10)])
    features = predictor.space.features(*predictor.space.gates(archs))
    optimizer = torch.optim.AdamW(predictor.parameters(), 3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(steps, 2))
    for _ in range(steps):
        rows = fitted[torch.randint(len(fitted), (512,), generator=rng)]
        columns = torch.randint(len(class_masks), (512,), generator=rng)
        loss = (predictor(features[rows], class_masks[columns]) - target[rows, columns]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        predicted = predictor.score(archs[held, None], class_masks)
    return float(1 - (predicted - target[held]).square().mean() / target[held].square().mean())
