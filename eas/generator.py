"""The architecture generator: scenarios to archs in one batched forward pass, and the two signals that train it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from eas.costs import Bound, check_bounds, like_madds
from eas.data import Split
from eas.data.batches import as_input
from eas.decoding import decode
from eas.dropout import masked_cross_entropy, soft_targets
from eas.layers import Statistics
from eas.recipes import GeneratorTraining, Training
from eas.sandwich import mixed_precision
from eas.spaces import ChoiceSpace, Supernet
from eas.spaces.supernet import resized

PIECE = 1024  # scenarios decoded at once: memory is bounded, and stays in the processor's cache
NEVER = -1e9  # the score of what does not exist: finite, as 0 times it is 0 in the entropy
Signal = Callable[..., Tensor]  # class masks, and one-hots as ChoiceSpace.gates: a loss for every scenario
ScenarioSampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]  # class masks [n, classes], budgets [n]


class ClassMean(nn.Module):
    """A set of classes as the mean of learned embeddings: any set is a valid input. `blind` hides it."""

    def __init__(self, classes: int, embedding: int, scale: float, *, blind: bool):
        super().__init__()
        self.blind = blind
        self.weight = nn.Parameter(torch.randn(classes, embedding) * scale)

    def forward(self, class_masks: Tensor) -> Tensor:
        """Embeddings [n, embedding] of sets of classes, bool [n, classes]."""
        class_masks = class_masks.to(self.weight)
        mean = (class_masks @ self.weight) / class_masks.sum(-1, keepdim=True)
        return torch.zeros_like(mean) if self.blind else mean


class ArchGenerator(nn.Module):
    """Reads (set of classes, budget), emits a score for every choice of every decision; decodes them to an arch.

    `budget_range`, float64 [2]: the least and the most multiply-adds that it was made for.
    """

    budget_range: Tensor

    def __init__(self, space: ChoiceSpace):
        super().__init__()
        self.space = space
        self.outputs = [decisions * choices for decisions, choices in space.gate_shapes]

    def split(self, scores: Tensor) -> tuple[Tensor, ...]:
        """Scores [scenarios, features] as [scenarios, decisions, choices], as ChoiceSpace.gates.

        A choice that does not exist gets no probability.
        """
        parts = zip(scores.split(self.outputs, -1), self.space.exists, strict=True)
        return tuple(each.unflatten(-1, there.shape).where(there.to(each.device), NEVER) for each, there in parts)

    @torch.inference_mode()
    def generate(
        self, class_masks: Tensor, budgets: Tensor, bounds: Sequence[Bound] = (), outputs: Tensor | None = None
    ) -> Tensor:
        """Archs int64 [scenarios, decisions], every one within its budget and all other bounds.

        `class_masks` bool [scenarios, classes], `budgets` [scenarios] in multiply-adds, of which inf is none. Networks
        have an output for each of their classes, or as many as `outputs` [scenarios] says.

        Raises:
            ValueError: see ChoiceSpace.check_scenarios and check_bounds.
        """
        self.space.check_scenarios(class_masks, budgets, outputs)
        archs = torch.empty(len(class_masks), self.space.decisions, dtype=torch.long)
        for rows in torch.arange(len(archs)).split(PIECE):
            masks, some = class_masks[rows], budgets[rows]
            counts = masks.sum(-1) if outputs is None else outputs[rows]
            own = [each.rows(rows) for each in bounds]
            check_bounds(self.space, own, counts)
            told = some.minimum(like_madds(self.space, own, counts)) if own else some
            depth, form, *size = self(masks, told)
            archs[rows] = decode(self.space, depth, form, some, counts, *size, bounds=own)
        return archs


class Generator(ArchGenerator):
    """A network that is trained to generate archs.

    The classes' embeddings are averaged, so any set of classes is a valid input; the budget's embedding is linearly
    interpolated between learned anchors [related code]. One hidden layer emits all decisions at once (ours; the
    related code runs an LSTM from decision to decision): the decoding makes them fit together.
    `blind` hides the classes: the opponent that knows the budget only.
    """

    def __init__(
        self,
        space: ChoiceSpace,
        classes: int,
        anchors: Tensor,
        *,
        width: int = 64,
        embedding: int = 32,
        blind: bool = False,
    ):
        super().__init__(space)
        self.register_buffer("anchors", anchors.double().sort().values)
        self.class_embedding = ClassMean(classes, embedding, 0.5, blind=blind)
        self.budget_embedding = nn.Parameter(torch.randn(len(anchors), embedding) * 0.5)
        self.layers = nn.Sequential(nn.Linear(2 * embedding, width), nn.ReLU(), nn.Linear(width, sum(self.outputs)))

    def forward(self, class_masks: Tensor, budgets: Tensor) -> tuple[Tensor, ...]:
        """Scores of depths [scenarios, stages, depths], of forms [scenarios, blocks, forms], of sizes if several.

        `class_masks` bool [scenarios, classes], `budgets` [scenarios] in multiply-adds.
        """
        scores = self.layers(torch.cat([self.class_embedding(class_masks), self.embed_budget(budgets)], -1))
        return self.split(scores)

    @property
    def budget_range(self) -> Tensor:
        return self.anchors[[0, -1]]

    def embed_budget(self, budgets: Tensor) -> Tensor:
        """Embeddings [scenarios, embedding] by linear interpolation; beyond the anchors the nearest one."""
        position = budgets.double().clamp(self.anchors[0], self.anchors[-1])
        right = torch.searchsorted(self.anchors, position).clamp(1, len(self.anchors) - 1)
        low, high = self.anchors[right - 1], self.anchors[right]
        share = ((position - low) / (high - low).clamp_min(1)).to(self.budget_embedding)[:, None]
        return torch.lerp(self.budget_embedding[right - 1], self.budget_embedding[right], share)


# -------------------------------------------------------------------- what says that an arch is good


class PredictorSignal:
    """Training signal (ours): a fitted predictor's accuracy for a sampled arch (see predictor.AccuracyPredictor)."""

    def __init__(self, predictor: nn.Module):
        self.predictor = predictor.eval().requires_grad_(False)

    def __call__(self, class_masks: Tensor, *gates: Tensor) -> Tensor:
        """Loss [scenarios]: minus the predicted accuracy, in standard deviations over archs."""
        return -self.predictor(self.predictor.space.features(*gates), class_masks)


class GateSignal:
    """Training signal of the paper: cross-entropy through the frozen supernet, whose channels and blocks are gated.

    Every scenario sees `images` images of `split`: one half of its own classes, on which the loss is taken, the other
    half of all classes. Norms run on the statistics of both, in the gated network itself (ours; those of the related
    code ran on statistics of another width).
    """

    def __init__(self, supernet: Supernet, split: Split, images: int, recipe: Training, rng: torch.Generator):
        self.supernet, self.split, self.recipe = supernet.requires_grad_(False), split, recipe
        self.half, self.rng = max(1, images // 2), rng
        labels = split.labels.cpu()
        self.by_class = labels.argsort(stable=True)
        self.count = labels.bincount(minlength=supernet.classifier.out_features)
        self.start = self.count.cumsum(0) - self.count

    def __call__(self, class_masks: Tensor, *gates: Tensor) -> Tensor:
        """Loss [scenarios], on the CPU."""
        return torch.stack([self.loss(*each) for each in zip(class_masks, *gates, strict=True)])

    def loss(self, class_mask: Tensor, *gates: Tensor) -> Tensor:
        """Of one scenario, []."""
        rows = torch.cat([self.draw(class_mask), self.draw(self.count > 0)]).to(self.split.labels.device)
        images, labels = as_input(self.split.pick(rows)), self.split.labels[rows[: self.half]]
        with mixed_precision(self.recipe, images.device):
            logits = self.relaxed_logits(images, *(gate.to(images) for gate in gates))
        logits, mask = logits[: self.half], class_mask.to(labels.device).expand(self.half, -1)
        weight = torch.ones(self.half, device=labels.device)
        return masked_cross_entropy(logits, soft_targets(labels, mask, 0.0), mask, weight).cpu()

    def relaxed_logits(self, images: Tensor, depth: Tensor, form: Tensor, *size: Tensor) -> Tensor:
        """Of a relaxed arch: the mean of those at each size of images that has a share."""
        if not size:
            return self.supernet.forward_gated(images, depth, form, Statistics())
        scaled = zip(size[0][0], self.supernet.space.image_sizes, strict=True)
        parts = ((share, resized(images, pixels)) for share, pixels in scaled if share)
        return sum(share * self.supernet.forward_gated(each, depth, form, Statistics()) for share, each in parts)

    def draw(self, class_mask: Tensor) -> Tensor:
        """Rows of images of these classes, each class as likely as the others; int64 [half]."""
        there = (class_mask & (self.count > 0)).float()
        classes = torch.multinomial(there, self.half, replacement=True, generator=self.rng)
        place = torch.rand(self.half, generator=self.rng) * self.count[classes]
        return self.by_class[self.start[classes] + place.long()]


# -------------------------------------------------------------------- training


def train_generator(
    generator: Generator,
    signal: Signal,
    draw_scenarios: ScenarioSampler,
    recipe: GeneratorTraining,
    *,
    seed: int,
    label: str = "generator",
) -> list[float]:
    """Train in place; returns the loss of every step, the reward below left out.

    Archs are drawn by straight-through Gumbel softmax; the distance of the expected cost from the budget, relative to
    the budget, is penalised in square [related code: lambda (MAdds - budget)^2]. The choices' entropy is rewarded, less
    and less (ours): without it they settle before their effects are known.
    """
    rng, steps = torch.Generator().manual_seed(seed), recipe.steps
    optimizer = torch.optim.Adam(generator.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=max(steps, 2))
    history = []
    for step in tqdm(range(steps), label, mininterval=1):
        class_masks, budgets = draw_scenarios(recipe.scenarios, rng)
        scores = generator(class_masks, budgets)
        depth, form, *size = (s.softmax(-1) for s in scores)
        off = (generator.space.expected_madds(depth, form, class_masks.sum(-1), *size) - budgets) / budgets
        loss = (signal(class_masks, *(straight_through(s, rng) for s in scores)) + recipe.penalty * off**2).mean()
        reward = recipe.entropy * (1 - step / steps) * sum(map(entropy, scores)).mean()
        optimizer.zero_grad()
        (loss - reward).backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    return history


def entropy(scores: Tensor) -> Tensor:
    """Entropy of the choices [n, decisions, choices], in nats, summed over decisions; [n]."""
    return -(scores.softmax(-1) * scores.log_softmax(-1)).sum((-2, -1))


def straight_through(scores: Tensor, rng: torch.Generator) -> Tensor:
    """One-hot samples of softmax(scores) whose gradient is the relaxed sample's (Jang et al. 2017)."""
    noise = -torch.empty_like(scores).exponential_(generator=rng).log()
    relaxed = (scores + noise).softmax(-1)
    hard = F.one_hot(relaxed.argmax(-1), scores.shape[-1]).to(relaxed)
    return hard + relaxed - relaxed.detach()
