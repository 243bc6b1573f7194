"""Deep net triage (Nowak & Corso, 2018)."""

from netopsy.studies.triage.triage import Triage

__all__ = ["Triage"]
