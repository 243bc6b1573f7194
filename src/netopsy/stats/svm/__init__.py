"""One-vs-rest linear support vector machines, all classes at once, each with a certificate."""

from netopsy.stats.svm.fit import fit_nested, fit_svm
from netopsy.stats.svm.model import LOSSES, Svm, SvmCertificate, certify, signs

__all__ = ["LOSSES", "Svm", "SvmCertificate", "certify", "fit_nested", "fit_svm", "signs"]
