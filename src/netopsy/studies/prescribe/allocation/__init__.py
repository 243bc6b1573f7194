"""What each layer can give up: candidates, their effect on the outputs, and the smallest file within a budget."""
