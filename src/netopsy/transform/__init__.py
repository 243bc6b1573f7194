"""Fitted transforms of feature vectors to a few bytes: numpy and safetensors only. docs/transform.md"""

from netopsy.transform.chain import Transform, load_transform
from netopsy.transform.coders import Coder, Floats, Levels, Scalars, Signs
from netopsy.transform.product import Product
from netopsy.transform.steps import Project, Step, Take, Unit

__all__ = [
    "Coder",
    "Floats",
    "Levels",
    "Product",
    "Project",
    "Scalars",
    "Signs",
    "Step",
    "Take",
    "Transform",
    "Unit",
    "load_transform",
]
