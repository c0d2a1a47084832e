"""The plain, slow forms of what the package does fast: the tests hold the two equal."""

import numpy as np
import torch

from eas.data.batches import as_input
from eas.dropout import mask_logits, masked_cross_entropy
from eas.layers import CalibratedStatistics, FixedStatistics, Statistics

WIDE = np.array([0, *(10 ** torch.linspace(-8, 0, 16))[1:]], dtype=np.float32)  # prices, as shares of the highest
NARROW = torch.linspace(0, 1, 16).numpy()


def decode(space, depth, form, budget, class_count):
    """The arch of one scenario: prices from low to high until one fits the budget, twice, then `fill`."""
    cost = (space.block_madds / space.block_madds.double().mean()).float().numpy()
    gaps = [gap for row in np.sort(cost, 1) for gap in np.diff(row) if gap > 0]
    of_depth, of_form = (scores[there].numpy() for scores, there in zip((depth, form), space.exists, strict=True))
    high = 2 * (np.ptp(of_form) + np.ptp(of_depth))
    high, low, best = (high / min(gaps) if gaps else high) + 1, np.float32(0), space.smallest.tolist()
    for shares in (WIDE, NARROW):
        prices = high * shares if shares is WIDE else low + (high - low) * shares
        for index in range(len(prices) - 1):  # at the last price every choice is the cheapest: it fits
            arch = best_at(space, depth.numpy(), form.numpy() - prices[index] * cost)
            if space.madds(torch.tensor(arch), class_count) <= budget:
                best = arch
                break
        else:
            index = len(prices) - 1
        high, low = prices[index], prices[max(index - 1, 0)]
    return fill(space, best, form, budget, class_count)


def best_at(space, depth, worth):
    """The arch with the highest total of depth scores [stages, depths] and forms' worths [blocks, forms]."""
    levels, size, best = [], space.blocks_per_stage, [row[:n] for row, n in zip(worth, space.block_forms, strict=True)]
    for stage in range(space.stages):
        total, totals = np.float32(0), []
        for row in best[stage * size :][:size]:
            totals.append(total := total + row.max())
        by_level = [totals[kept - 1] + depth[stage, level] for level, kept in enumerate(space.stage_depths[stage])]
        levels.append(int(np.argmax(by_level)))
    return levels + [int(row.argmax()) for row in best]


def fill(space, arch, form, budget, class_count):
    """Of all changes of one block that cost more and fit, the one that gains most, again and again."""
    arch, table, form = space.canonical(torch.as_tensor(arch)), space.block_madds.tolist(), form.numpy()
    left = budget - int(space.madds(arch, class_count))
    levels, choice = (part.tolist() for part in arch.split([space.stages, space.blocks]))
    while True:
        best = None
        for block in range(space.blocks):
            stage, place = divmod(block, space.blocks_per_stage)
            kept = space.stage_depths[stage][levels[stage]]
            if place > kept or (place == kept and kept + 1 not in space.stage_depths[stage]):
                continue  # neither kept nor the next that can be added
            paid, scored = (table[block][choice[block]], form[block, choice[block]]) if place < kept else (0, 0)
            for larger, price in enumerate(table[block][: space.block_forms[block]]):
                gain = form[block, larger] - scored
                if 0 < price - paid <= left and (best is None or gain > best[0]):
                    best = gain, price - paid, stage, place == kept, block, larger
        if best is None:
            return torch.tensor(levels + choice)
        _, extra, stage, added, block, larger = best
        left, choice[block], levels[stage] = left - extra, larger, levels[stage] + added


def train_step(supernet, recipe, images, targets, class_mask, weight, archs):
    """Each arch in turn, whole; the first one's prediction teaches the others."""
    losses = []
    for index, arch in enumerate(archs):
        logits = supernet(images, arch, Statistics())
        losses.append(masked_cross_entropy(logits, targets, class_mask, weight))
        losses[-1].backward()
        if index == 0:
            teacher = mask_logits(logits.detach(), class_mask).softmax(-1)
            targets = (1 - recipe.distillation) * targets + recipe.distillation * teacher
    return torch.stack(losses).mean().detach()


@torch.inference_mode()
def subnet_logits(supernet, arch, calibration, split, batch=250):
    """Logits [n, classes] of one arch, calibrated alone."""
    statistics = CalibratedStatistics()
    supernet(as_input(calibration.images), arch, statistics)
    fixed = FixedStatistics(statistics.recorded)
    return torch.cat([supernet(as_input(images), arch, fixed) for images in split.images.split(batch)])


def forward_gated(supernet, images, depth, form, statistics):
    """A relaxed PreResNet whose gates scale feature maps instead of weights."""
    x, keep = supernet.first_layer(images), supernet.space.keep_probability(depth)
    for index, block in enumerate(block for stage in supernet.stages for block in stage):
        shortcut, h = block.open(x, statistics)
        inner = supernet.space.inner_channels[index]  # of every form
        gates = torch.stack([form[index] @ (channel < inner).to(form) for channel in range(h.shape[1])])
        x = shortcut + keep[index] * block.conv2(h * gates[:, None, None])
    return supernet.head(x, statistics)
