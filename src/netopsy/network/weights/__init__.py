"""Weights files: safetensors, PyTorch checkpoints, ONNX."""
