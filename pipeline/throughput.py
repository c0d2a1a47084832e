"""How fast a supernet trains, as a share of what the machine can do at most, and where the rest goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from eas import devices
from eas.data.batches import batches
from eas.dropout import SuperclassDropout, soft_targets
from eas.layers import ElasticDepthwiseConv2d, ElasticNorm, Statistics
from eas.recipes import NO_DROPOUT
from eas.sandwich import compute_type, sliced_step
from eas.spaces import Supernet
from eas.training import make_optimizer, make_step
from pipeline.store import Job, Record, Workspace
from pipeline.supernets import new_supernet

STEPS, ROUNDS = {"cuda": 16, "cpu": 3}, {"cuda": 5, "cpu": 2}  # on a GPU every arch is captured before it is timed
FLOPS = 6  # of a multiply-add in training: two forwards, four backwards
GROUPS = {  # an operation belongs to the first group with a word of its name
    "convolutions, backward": ("convolutionbackward", "convolution_backward"),
    "convolutions, forward": ("conv",),
    "batch norm": ("batchnorm", "batch_norm"),
    "activations": ("relu", "threshold", "clamp"),
    "copies and casts": ("copy", "_to", "::to", "contiguous", "clone", "fill", "zero"),
    "rest": ("",),
}


def throughput_jobs(workspace: Workspace) -> list[Job]:
    """One for all."""
    return [{}]


def measure_throughput(workspace: Workspace) -> tuple[dict, Record]:
    """Time training steps of the study's supernet on the job's device, beside the machine's matrix rate.

    The record has images_per_second (an image counts once, though all subnets of a step see it), tflops (arithmetic of
    the convolutions and the classifier, nothing else counted), matrix_tflops (see `matrix_rate`; in the type that the
    convolutions run in), bandwidth_gb (a second, of copying a large tensor) and shares: of the time in a step's
    operations, by kind, without CUDA graphs. Source: ours.
    """
    device, study = devices.device(), workspace.study
    dataset = workspace.dataset().to(device)
    torch.manual_seed(0)
    supernet = new_supernet(study, dataset).to(device)
    space, recipe = supernet.space, study.training
    rng = torch.Generator(device).manual_seed(0)
    images, labels = next(batches(dataset.train, recipe.batch_size, recipe.augment, rng))
    class_mask, weight = SuperclassDropout(dataset.hierarchy.parent.to(device), NO_DROPOUT)(labels, rng, 0.0)
    targets = soft_targets(labels, class_mask, recipe.label_smoothing)
    count, rounds = STEPS[device.type], ROUNDS[device.type]
    random = space.sample(count * recipe.random_subnets, torch.Generator().manual_seed(0))
    random = random.view(count, -1, space.decisions)
    ends = (each.expand(count, 1, -1) for each in (space.largest, space.smallest))
    steps = torch.cat([next(ends), random, next(ends)], 1)
    optimizer, compute = make_optimizer(supernet, recipe), make_step(supernet, recipe)

    def run() -> None:
        for archs in steps:
            optimizer.zero_grad(set_to_none=False)
            compute(images, targets, class_mask, weight, archs)
            optimizer.step()

    seconds = fastest(run, rounds) / count
    together = device.type == "cpu"  # a GPU runs each subnet as a graph of its own, from its images on
    madds = sum(arithmetic(supernet, archs, together)[0] for archs in steps) / count
    size, kind = 8192 if device.type == "cuda" else 2048, compute_type(recipe, device)
    numbers = {
        "images_per_second": len(labels) / seconds,
        "tflops": FLOPS * madds * len(labels) / seconds / 1e12,
        "matrix_tflops": matrix_rate(device, size, kind, 4 * rounds) / 1e12,
        "bandwidth_gb": copy_rate(device, 4 * rounds) / 1e9,
        "shares": shares(lambda: sliced_step(supernet, recipe, images, targets, class_mask, weight, steps[0]), device),
    }
    return {}, numbers


@torch.no_grad()
def arithmetic(supernet: Supernet, archs: Tensor, together: bool) -> tuple[int, int]:
    """What one image costs in one forward pass of archs [n, decisions]: (multiply-adds, numbers moved).

    Moved are the inputs and outputs of convolutions and norms. `together`: what the archs have in common counts once.
    """
    space, madds, moved = supernet.space, 0, 0
    image = torch.zeros(1, space.in_channels, space.image_size, space.image_size, device=supernet.mean.device)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal madds, moved
        if isinstance(module, ElasticDepthwiseConv2d):
            madds += output.numel() * module.kernels[inputs[1]] ** 2
        elif isinstance(module, nn.Conv2d):
            madds += output.numel() * inputs[0].shape[1] * module.kernel_size[0] ** 2
        if isinstance(module, nn.Linear):
            madds += module.weight.numel()
        else:
            moved += inputs[0].numel() + output.numel()

    counted = (m for m in supernet.modules() if isinstance(m, nn.Conv2d | ElasticNorm | nn.Linear))
    hooks = [module.register_forward_hook(count) for module in counted]
    sizes = torch.tensor([supernet.pixels(arch) for arch in archs])
    for group in [archs[sizes == size] for size in sizes.unique()] if together else archs[:, None]:
        stem = supernet.run_stem(supernet.scaled(image, group[0]), group, Statistics())
        for arch in group:
            supernet.run_rest(supernet.stem_part(stem, arch), arch, Statistics())
    for hook in hooks:
        hook.remove()
    return madds, moved


def matrix_rate(device: torch.device, size: int, kind: torch.dtype, rounds: int) -> float:
    """Operations a second of a product of two square matrices, or of a wide convolution, whichever is faster.

    On a CPU two libraries compute them, and that of the products may be the slower one.
    """
    left, right = torch.randn(2, size, size, device=device).to(kind)
    images = torch.randn(8, 256, 32, 32, device=device).to(kind, memory_format=torch.channels_last)
    filters = torch.randn(256, 256, 3, 3, device=device).to(kind, memory_format=torch.channels_last)
    product = 2 * size**3 / fastest(lambda: left @ right, rounds)
    seconds = fastest(lambda: F.conv2d(images, filters, padding=1), rounds)
    convolution = 2 * filters.numel() * images[:, 0].numel() / seconds
    return max(product, convolution)


def copy_rate(device: torch.device, rounds: int) -> float:
    """Bytes a second, read and written, of copying a tensor that no cache holds."""
    large = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    return 2 * large.nbytes / fastest(lambda: large.clone(), rounds)


def fastest(work: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of some rounds, after one that warms up: what the machine can do, undisturbed."""
    taken = []
    for _ in range(rounds + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if devices.device().type == "cuda":
        torch.cuda.synchronize()


def shares(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Shares of a step's time by kind of operation (GROUPS), in percent."""
    step()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's library tells of itself, and of GPUs that it misses
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiler:
        step()
        synchronize()
    spent = dict.fromkeys(GROUPS, 0.0)
    # A kernel's time is also its operation's: operations alone are counted.
    for event in (e for e in profiler.key_averages() if e.device_type == DeviceType.CPU):
        group = next(name for name, words in GROUPS.items() if any(word in event.key.lower() for word in words))
        spent[group] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return {name: 100 * value / sum(spent.values()) for name, value in spent.items()}
