"""Networks: load them, export them to a graph, name their nodes and layers."""
