"""The version, in one place: also for a checkout that is not installed."""

__version__ = "0.1.0"
