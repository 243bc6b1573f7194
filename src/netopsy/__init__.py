"""Netopsy: the autopsy of trained deep networks.

What is in a network, what can it lose, and how small can it get?
`__init__.pyi` lists the public names; each is imported when it is first used, so that `import netopsy` is quick.
"""

import lazy_loader

from netopsy._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
