"""The ways to run a network: observe it, sweep edits over it; and the arithmetic that studies share."""
