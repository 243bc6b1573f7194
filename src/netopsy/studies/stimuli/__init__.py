"""What excites each unit most."""

from netopsy.studies.stimuli.stimuli import Stimuli

__all__ = ["Stimuli"]
