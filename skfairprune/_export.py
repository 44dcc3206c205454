"""The fitted estimator taken elsewhere: as a plain torch module, an ONNX model, or a file of its own."""

import os
from typing import Any, Self

from sklearn.utils.validation import check_is_fitted
from torch import nn

from skfairprune._fitted import FittedMixin
from skfairprune._reproducible import plain_modes
from skfairprune.deployment.onnx import save_onnx
from skfairprune.deployment.storage import read_estimator, write_estimator
from skfairprune.deployment.torch_network import plain_network

__all__ = ["ExportMixin"]


class ExportMixin(FittedMixin):
    """How a fitted estimator is exported, saved and loaded."""

    @plain_modes()
    def to_torch(self) -> nn.Module:
        """Return the fitted network as a module that runs and loads without this package.

        Returns
        -------
        torch.nn.Module
            Maps finite rows of shape ``(n_samples, n_features_in_)``, in the network's dtype, to the
            probabilities of :meth:`predict_proba`, under the bound in force; on the CPU, without gradients.
            A ``torch.nn.Sequential`` where layers of torch.nn are enough, in eval mode, where it must stay;
            else the module of a ``torch.export`` program.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a network of one's own cannot be exported for any number of rows, or a column has a bin too
            narrow for the layers of torch.nn.
        """
        check_is_fitted(self, "module_")
        self._require_own_rule()
        return plain_network(self.module_, self.example_rows())

    @plain_modes()
    def to_onnx(self, path: str | os.PathLike[str], *, quantize: bool = False) -> None:
        """Write the fitted network as an ONNX model, under the bound in force.

        Its input ``X`` has the shape ``(N, n_features_in_)``, in float32, or in float64 where the network is;
        its outputs are ``label``, of shape (N,), int64 or string, and ``probabilities``, of shape
        (N, n_classes): those of :meth:`predict` and :meth:`predict_proba`. N is free.

        Parameters
        ----------
        path : str or path
            The file to write.
        quantize : bool, default=False
            Whether the weights of the network's layers are stored and multiplied as int8. Decisions change
            by that: measure accuracy and gap again.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ImportError
            If the extra ``onnx`` is not installed.
        FileNotFoundError, IsADirectoryError
            If the path is a folder, or in one that is not there.
        ValueError
            If the labels are neither whole numbers nor strings, if a float64 network is to be quantised, or
            if onnxruntime cannot run the model.
        """
        check_is_fitted(self, "module_")
        self._require_own_rule()
        save_onnx(self.module_, self.example_rows(), self.classes_, path, quantize)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator as one file of data: JSON and tensors (safetensors), no pickle.

        Parameters
        ----------
        path : str or path
            The file to write.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        FileNotFoundError, IsADirectoryError
            If the path is a folder, or in one that is not there.
        ValueError
            If a parameter is an object (a callable, a moment, a random generator; the error says what to
            set instead) or none that `fit` takes, or a label is no number, string, boolean or tuple of these.

        Warns
        -----
        UserWarning
            If the file cannot be loaded with the `module` as it is now: it holds the numbers of a network of
            one's own, and no buffers that are not persistent, nor other state.
        """
        check_is_fitted(self, "module_")
        self._require_own_rule()
        write_estimator(path, self)

    @classmethod
    @plain_modes()
    def load(cls, path: str | os.PathLike[str], module: Any = None) -> Self:
        """Read a fitted estimator that :meth:`save` wrote; nothing in the file is run.

        Parameters
        ----------
        path : str or path
            The file.
        module : nn.Module, callable or NeuralNet, default=None
            The dense network, for an estimator that was fitted with a `module`: the file holds its numbers
            and no code.

        Returns
        -------
        FairPrunedClassifier
            It predicts the same bits on the same machine; its network is on the CPU.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            If there is no such file.
        ValueError
            If the file is not one that :meth:`save` wrote, is damaged, or is of a newer version.
        """
        return read_estimator(path, cls, module)
