"""Elastic Architecture Search: one supernet, one generator, a specialised network for every scenario.

kit = eas.load_kit("cifar100")
network, card = kit.specialize(["flowers", "bee"], budget_madds=20e6)
eas.save(network, card, "garden")  # elsewhere: network, card = eas.load("garden")
eas.predict(network, card, ["photo.jpg"])
"""

from importlib import import_module

HOMES = {  # of the names that a user needs; torch is imported when the first of them is asked for
    "Kit": "eas.serving.kit",
    "load_kit": "eas.serving.kit_files",
    "Card": "eas.serving.deploy",
    "save": "eas.serving.deploy",
    "load": "eas.serving.deploy",
    "export_onnx": "eas.serving.onnx_files",
    "predict": "eas.serving.answers",
}
__all__ = list(HOMES)


def __getattr__(name: str):
    if name not in HOMES:
        raise AttributeError(f"module 'eas' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
