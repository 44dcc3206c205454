"""A network of the user's, made to give the logits of the joint classes (label and group)."""

import copy
import threading
from collections.abc import Callable
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn

__all__ = ["JointNetwork", "at_layer", "to_logits"]

_LINKS = ("logits", "probability", "sigmoid", "log_sigmoid")
_AT = "at "
_ONE_AT_A_TIME = threading.RLock()


class JointNetwork(nn.Module):
    r"""A user's network that gives the logits of the joint classes.

    With :math:`f_j` the outputs of ``module`` the logits are

    .. math::

        l_j(x) = f_j(x), \quad \log f_j(x), \quad \log \frac{f_j(x)}{1 - f_j(x)}, \quad
        f_j(x) - \log(1 - e^{f_j(x)})

    for the links "logits", "probability", "sigmoid" and "log_sigmoid". Log-probabilities are logits. So that
    logits and their first two derivatives are finite, probabilities are clamped to at least the root of the
    smallest positive number of their type (1e-19 in single precision), and sigmoids also to at most 1 less
    the spacing of numbers there (1e-7). Clamped outputs have no gradient.

    With the link "at PATH" the logits are the outputs of the layer of that path, and the rest of the module
    gets the first of them: for modules that make a vector of one output a row, and can do with no more.

    Parameters
    ----------
    module : nn.Module
        Maps rows (n_samples, n_features) to ``n_joint`` outputs a row, of shape (n_samples, n_joint), or of
        one or three dimensions and in the order of the rows.
    link : {"logits", "probability", "sigmoid", "log_sigmoid"} or str
        What the outputs are of the logits; or "at " and the path of the layer that gives them.
    n_joint : int
        The number of joint classes.

    Raises
    ------
    ValueError
        If the link is unknown.
    """

    def __init__(self, module: nn.Module, link: str, n_joint: int) -> None:
        super().__init__()
        if link not in _LINKS and not _is_at(link, module):
            raise ValueError(f"link={link!r} is unknown: use one of {', '.join(_LINKS)}, or 'at PATH'.")
        self.module = module
        self.link = link
        self.n_joint = n_joint
        self.training = module.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, of shape (n_samples, n_joint), of rows (n_samples, n_features)."""
        if self.link.startswith(_AT):
            path = self.link.removeprefix(_AT)
            return _run_to(path, self.module, self.module, x).reshape(x.shape[0], self.n_joint)
        outputs = self.module(x)
        if outputs.ndim != 2:
            outputs = outputs.reshape(x.shape[0], self.n_joint)
        return to_logits(outputs, self.link)

    @property
    def bare(self) -> nn.Module:
        """The module; with a link "at PATH" one of the same layers and names that gives those outputs."""
        if not self.link.startswith(_AT):
            return self.module
        path, module = self.link.removeprefix(_AT), self.module
        own = module.__dict__.get("forward", type(module).forward)
        whole = getattr(own, "__func__", own)

        def forward(module: nn.Module, x: Tensor) -> Tensor:
            return _run_to(path, module, partial(whole, module), x)

        bare = copy.copy(module)
        # A method of the object, which a copy of it binds anew; its class stays what it is.
        bare.__dict__["forward"] = MethodType(forward, bare)
        return bare


def _run_to(path: str, module: nn.Module, run: Callable[[Tensor], object], x: Tensor) -> Tensor:
    """Return the outputs of the layer of that path; what comes after it gets the first of them.

    Where the module takes many rows in parts, they are those of the parts.
    """
    found: list[Tensor] = []

    def keep(layer: nn.Module, args: object, outputs: Tensor) -> Tensor:
        found.append(outputs)
        return outputs[..., :1].clone()

    with _ONE_AT_A_TIME:  # threads would see each other's outputs
        handle = module.get_submodule(path).register_forward_hook(keep)
        try:
            run(x)
        finally:
            handle.remove()
    return found[0] if len(found) == 1 else torch.cat(found)


def at_layer(path: str) -> str:
    """Return the link of a network whose logits are the outputs of the layer of that path."""
    return f"{_AT}{path}"


def _is_at(link: str, module: nn.Module) -> bool:
    """Tell whether a link names a layer of a module."""
    return link.startswith(_AT) and link.removeprefix(_AT) in dict(module.named_modules())


def to_logits(outputs: Tensor, link: str) -> Tensor:
    """Undo the link."""
    if link == "logits":
        return outputs
    limits = torch.finfo(outputs.dtype)
    least = limits.tiny**0.5  # its square, in second derivatives, is above 0
    if link == "log_sigmoid":
        outputs = outputs.clamp(max=-least)
        return outputs - torch.log(-torch.expm1(outputs))
    logs = torch.log(outputs.clamp(min=least))
    return logs if link == "probability" else logs - torch.log1p(-outputs.clamp(max=1 - limits.eps))
