"""One-vs-rest linear support vector machines, all classes at once, each with a certificate."""

from netopsy.engine.svm.certificate import Certificate, certify
from netopsy.engine.svm.fit import fit_svm
from netopsy.engine.svm.loss import LOSSES
from netopsy.engine.svm.nested import fit_nested
from netopsy.engine.svm.svm import Svm, signs

__all__ = ["LOSSES", "Certificate", "Svm", "certify", "fit_nested", "fit_svm", "signs"]
