"""Search spaces, one module each; `SPACES` finds them by the `kind` that params.yaml names."""

from eas.spaces.base import SPACES, ChoiceSpace, SizedRecipe, SpaceRecipe
from eas.spaces.efficientnet_lite import EfficientNetLiteSpace, ElasticEfficientNetLite
from eas.spaces.mobilenetv3 import ElasticMobileNetV3, MobileNetV3Space
from eas.spaces.preresnet import ElasticPreResNet, PreResNet, PreResNetSpace
from eas.spaces.supernet import Supernet

__all__ = ["SPACES", "ChoiceSpace", "SizedRecipe", "SpaceRecipe", "Supernet"]
__all__ += ["EfficientNetLiteSpace", "ElasticEfficientNetLite"]
__all__ += ["ElasticMobileNetV3", "MobileNetV3Space"]
__all__ += ["ElasticPreResNet", "PreResNet", "PreResNetSpace"]
