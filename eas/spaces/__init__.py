"""Search spaces, one module each; `SPACES` finds them by the `kind` that params.yaml names."""

from eas.spaces.base import SPACES, ChoiceSpace, SpaceRecipe, Supernet
from eas.spaces.preresnet import ElasticPreResNet, PreResNet, PreResNetSpace

__all__ = ["SPACES", "ChoiceSpace", "ElasticPreResNet", "PreResNet", "PreResNetSpace", "SpaceRecipe", "Supernet"]
