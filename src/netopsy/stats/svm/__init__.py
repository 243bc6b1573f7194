"""One-vs-rest linear support vector machines, all classes at once, each with a certificate."""

from netopsy.stats.svm.certificate import Certificate, certify
from netopsy.stats.svm.fit import fit_svm
from netopsy.stats.svm.loss import LOSSES
from netopsy.stats.svm.nested import fit_nested
from netopsy.stats.svm.svm import Svm, signs

__all__ = ["LOSSES", "Certificate", "Svm", "certify", "fit_nested", "fit_svm", "signs"]
