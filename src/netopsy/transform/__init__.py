"""Fitted transforms of feature vectors to a few bytes: numpy and safetensors only. docs/transform.md"""

from netopsy.transform.chain import Transform, load_transform
from netopsy.transform.coders import Coder, Floats, Levels, ProductCoder, Scalars, Signs
from netopsy.transform.steps import Project, Step, Take, UnitLength

__all__ = [
    "Coder",
    "Floats",
    "Levels",
    "ProductCoder",
    "Project",
    "Scalars",
    "Signs",
    "Step",
    "Take",
    "Transform",
    "UnitLength",
    "load_transform",
]
