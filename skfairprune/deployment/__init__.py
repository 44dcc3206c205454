"""Fitted networks out of this package: plain PyTorch, ONNX, and files that hold data only."""

from skfairprune.deployment.converter import onnx_inputs, onnx_types, register_onnx_converter

__all__ = ["onnx_inputs", "onnx_types", "register_onnx_converter"]
