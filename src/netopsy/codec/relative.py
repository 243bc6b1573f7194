"""Han's coder."""
