"""Fitted networks out of this package: plain PyTorch, ONNX, and files that hold data only."""

__all__: list[str] = []
