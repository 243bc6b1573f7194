"""What trained networks say of the weights of a new one: laws, filter bases, codebooks and widths."""

from netopsy.weight_priors.laws import Basis, Law, Scale
from netopsy.weight_priors.places import Place, places_of
from netopsy.weight_priors.priors import Priors, priors
from netopsy.weight_priors.training import LogPrior

__all__ = ["Basis", "Law", "LogPrior", "Place", "Priors", "Scale", "places_of", "priors"]
