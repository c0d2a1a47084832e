"""The step by CUDA graphs is the sliced step; where there is no GPU, stand-ins run what a graph would replay."""

from types import SimpleNamespace

import pytest
import torch
from cases import random_step

from eas.cuda_graphs import GraphedStep
from eas.recipes import Training
from eas.training import make_step

RECIPE = Training(
    epochs=1,
    batch_size=16,
    learning_rate=0.1,
    random_subnets=2,
    label_smoothing=0.1,
    distillation=0.7,
    mixed_precision=False,
)
ON_THE_GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"))


@pytest.mark.parametrize("device", ["cpu", ON_THE_GPU])
def test_a_step_by_graphs_is_a_sliced_step_whatever_the_size_of_the_batch(device, space, supernet, monkeypatch):
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
        monkeypatch.setattr(GraphedStep, "capture", lambda step, arch: SimpleNamespace(replay=lambda: step.run(arch)))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain = space.supernet(160, supernet.mean.flatten().tolist(), supernet.std.flatten().tolist())
    plain.load_state_dict(supernet.state_dict())
    archs = torch.stack([space.largest, *space.sample(2, torch.Generator().manual_seed(2)), space.smallest])
    sliced = make_step(plain, RECIPE)
    make_step(supernet.cpu(), RECIPE)  # where gradients are zeros, as graphs want them
    graphed = GraphedStep(supernet.to(device), RECIPE)
    for seed, count in enumerate((16, 16, 7)):
        case = random_step(count, smoothing=0.1, seed=seed)
        loss = graphed(*(each.to(device) for each in case), archs)
        torch.testing.assert_close(loss.cpu(), sliced(*case, archs), rtol=1e-3, atol=1e-4)
        assert len(graphed.graphs) == len(archs) and len(graphed.logits) == count
    for one, other in zip(supernet.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-2, atol=1e-4)


def test_a_supernet_on_a_gpu_steps_by_graphs(supernet, monkeypatch):
    monkeypatch.setattr("eas.training.GraphedStep", lambda *arguments: arguments)
    assert not isinstance(make_step(supernet, RECIPE), tuple)
    on_gpu = SimpleNamespace(parameters=list, mean=SimpleNamespace(is_cuda=True))
    assert make_step(on_gpu, RECIPE) == (on_gpu, RECIPE)
