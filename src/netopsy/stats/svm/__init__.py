"""One-vs-rest linear support vector machines, all classes at once, each with a certificate."""

from netopsy.stats.svm.fit import fit_nested, fit_svm
from netopsy.stats.svm.model import LOSSES, Certificate, Svm, certify, signs

__all__ = ["LOSSES", "Certificate", "Svm", "certify", "fit_nested", "fit_svm", "signs"]
