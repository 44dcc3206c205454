"""The plain network: a fitted network that runs without this package."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from skfairprune.modules import DecisionNetwork, PiecewiseLinearEncoding, TabularNetwork
from skfairprune.networks.joint import JointNetwork

__all__ = ["export_advice", "plain_network"]

# Of a norm of variance 1: torch 2.11 refuses 0, and 1 - 2^-10 + 2^-10 is 1 to the bit.
_EPS = 2.0**-10
_TRIED_BATCHES = (1, 9, 1000)


def _plain_encoding(encoding: PiecewiseLinearEncoding) -> list[nn.Module]:
    """Return the layers that encode columns as :class:`PiecewiseLinearEncoding` does.

    A linear layer reads the column of each bin and subtracts its left knot, a norm of mean 0 and variance 1
    divides by the bin's width, and a clip follows. The division has a layer of its own: in the linear layer,
    as x / width - left / width, it would lose the digits that a narrow bin far from 0 needs.

    Raises
    ------
    ValueError
        If a width is so small that its inverse is infinite: a norm divides by its square, which would be 0.
    """
    per_width = 1 / encoding.width
    if not bool(per_width.isfinite().all()):
        raise ValueError(
            f"A column has a bin so narrow ({float(encoding.width.min()):.3g}) that layers of torch.nn "
            f"cannot divide by its width in {encoding.left.dtype}. Scale the column before fit, or export "
            "with to_onnx."
        )
    dtype, n_bins = encoding.left.dtype, encoding.n_outputs
    read = nn.Linear(encoding.n_columns, n_bins, dtype=dtype)
    scale = nn.BatchNorm1d(n_bins, eps=_EPS, dtype=dtype)
    assert scale.running_var is not None
    with torch.no_grad():
        scale.running_var.fill_(1 - _EPS)
        read.weight.zero_()[torch.arange(n_bins), encoding.columns] = 1
        read.bias.copy_(-encoding.left)
        scale.weight.copy_(per_width)
    return [read, scale, nn.Hardtanh(0.0, 1.0)]


def plain_network(network: DecisionNetwork, example: Tensor) -> nn.Module:
    """Rebuild a fitted network from layers of torch.nn, or export it, so that it runs without this package.

    Parameters
    ----------
    network : DecisionNetwork
        A fitted network; it is not changed.
    example : Tensor of shape (n_samples, n_features)
        Some rows such as the network knows, at least two, in its dtype.

    Returns
    -------
    nn.Module
        Maps finite rows of shape (n_samples, n_features), in the network's dtype, to class probabilities of
        shape (n_samples, n_classes); on the CPU, without gradients. An ``nn.Sequential`` in eval mode, where
        it must stay, if the network consists of modules of torch.nn; else the module of an exported program.

    Raises
    ------
    ValueError
        If the network cannot be exported for any number of rows, or has a bin too narrow for the layers of
        torch.nn.
    """
    inner = network.network
    if isinstance(inner, TabularNetwork):
        # Units that are dropped in training alone have no layer here.
        layers = [copy.deepcopy(layer) for layer in inner.layers if not isinstance(layer, nn.Dropout)]
        layers = [*_plain_encoding(inner.encoding), *layers]
    elif isinstance(inner, JointNetwork) and inner.link == "logits" and _is_plain(inner.module, example):
        layers = [copy.deepcopy(inner.module)]
    else:
        return _export(network, example)
    n_classes, n_joint = network.output_weights.shape
    rule = nn.Linear(n_joint, n_classes, bias=False, dtype=network.output_weights.dtype)
    with torch.no_grad():
        rule.weight.copy_(network.output_weights)
    return nn.Sequential(*layers, nn.Softmax(dim=1), rule).eval().requires_grad_(False)


def _is_plain(module: nn.Module, example: Tensor) -> bool:
    """Tell whether a module consists of modules of torch.nn alone, and has a row of outputs for each row.

    Weights that are computed from others, as by weight norm, make one that torch.save refuses.
    """
    with torch.no_grad():
        in_rows = module(example).ndim == 2
    return in_rows and all(
        type(part).__module__.startswith("torch.nn.") and not parametrize.is_parametrized(part)
        for part in module.modules()
    )


def _export(network: DecisionNetwork, example: Tensor) -> nn.Module:
    shapes = ({0: torch.export.Dim.DYNAMIC},)  # a named Dim can freeze the batch in silence
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=shapes).module()
        for n_rows in _TRIED_BATCHES:  # it can carry limits of its own
            program(example[torch.arange(n_rows) % len(example)])
        return program
    except Exception as error:  # whatever the user's forward pass comes to
        raise ValueError(
            f"torch.export cannot export the network for any number of rows. {export_advice(error)} "
            f"clf.module_ is the network itself, an nn.Module. It failed by {type(error).__name__}: {error}"
        ) from error


def export_advice(error: BaseException) -> str:
    """Return what to do about an error of an export."""
    if isinstance(error, SyntaxError):  # of the code that torch writes
        return "Rename its modules that have the name of a Python keyword."
    return (
        "Its forward must be traceable by torch.export, treat every row alone, and read their number as "
        "x.shape[0], not as len(x)."
    )
