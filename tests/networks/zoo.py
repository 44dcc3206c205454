"""Plain torch networks of the usual architectures, and digits with a group whose errors are more frequent.

The networks use nothing of the package. Each is a class whose constructor takes the numbers of columns and of
outputs; called with a float tensor of shape (n, n_features) it returns logits of shape (n, n_outputs).

Tests in any folder import it by its full name (``from tests.networks.zoo import PlainMLP``): importlib mode
in pytest makes ``tests`` and ``tests.networks`` namespace packages, which need no ``__init__.py``.
"""

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import relu


class PlainMLP(nn.Sequential):
    """Two hidden layers with batch normalisation and dropout."""

    def __init__(self, n_features, n_outputs, width=16, dropout=0.1):
        super().__init__(
            nn.Linear(n_features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, n_outputs),
        )


class _TabularBlock(nn.Module):
    def __init__(self, width, hidden, dropout):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.second(self.dropout(relu(self.first(self.norm(x))))))


class ResNetTabular(nn.Module):
    """The residual network of Gorishniy et al. (2021)."""

    def __init__(self, n_features, n_outputs, width=16, n_blocks=2, dropout=0.1):
        super().__init__()
        self.first = nn.Linear(n_features, width)
        self.blocks = nn.Sequential(*(_TabularBlock(width, 2 * width, dropout) for _ in range(n_blocks)))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x):
        return self.head(relu(self.norm(self.blocks(self.first(x)))))


class _PreNormBlock(nn.Module):
    def __init__(self, width, n_heads):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        h = self.attention_norm(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.feedforward(self.feedforward_norm(x))


class FTTransformer(nn.Module):
    """One token a column and a class token, through two pre-norm blocks (Gorishniy et al. 2021)."""

    def __init__(self, n_features, n_outputs, width=16, n_heads=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_features, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.randn(n_features, width) / math.sqrt(width))
        self.cls = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.blocks = nn.ModuleList([_PreNormBlock(width, n_heads) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x):
        tokens = x.unsqueeze(-1) * self.weight + self.bias
        x = torch.cat([self.cls.expand(x.shape[0], 1, -1), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


class EmbeddingNetwork(nn.Module):
    """The first columns are codes given as floats, one for each cardinality; the others are numbers."""

    def __init__(self, n_features, n_outputs, cardinalities=(3, 5), width=16, embedding_dim=4):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(n, embedding_dim) for n in cardinalities])
        n_codes = len(cardinalities)
        self.layers = nn.Sequential(
            nn.Linear(n_codes * embedding_dim + n_features - n_codes, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_outputs),
        )

    def forward(self, x):
        n_codes = len(self.embeddings)
        codes = x[:, :n_codes].long()
        embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([*embedded, x[:, n_codes:]], dim=1))


class Conv1dNetwork(nn.Sequential):
    """Two convolutions along the columns."""

    def __init__(self, n_features, n_outputs, width=8):
        super().__init__(
            nn.Unflatten(1, (1, n_features)),
            nn.Conv1d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(4),
            nn.Flatten(),
            nn.Linear(2 * width * 4, n_outputs),
        )


def _to_image(n_features):
    side = math.isqrt(n_features)
    return nn.Unflatten(1, (1, side, side))


class Conv2dNetwork(nn.Sequential):
    """Two convolutions on square images, flattened with several positions a channel."""

    def __init__(self, n_features, n_outputs, width=8):
        super().__init__(
            _to_image(n_features),
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (math.isqrt(n_features) // 4) ** 2, n_outputs),
        )


class DenselyConnected(nn.Module):
    """Later layers read the concatenated outputs of earlier ones (Huang et al. 2017)."""

    def __init__(self, n_features, n_outputs, width=16):
        super().__init__()
        self.first = nn.Linear(n_features, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(2 * width, width)
        self.head = nn.Linear(3 * width, n_outputs)

    def forward(self, x):
        first = relu(self.first(x))
        second = relu(self.second(first))
        third = relu(self.third(torch.cat([first, second], dim=1)))
        return self.head(torch.cat([first, second, third], dim=1))


class GroupedConvolutions(nn.Sequential):
    """A grouped convolution, two groups of several channels each, between two others."""

    def __init__(self, n_features, n_outputs, width=8):
        super().__init__(
            _to_image(n_features),
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, n_outputs),
        )


class _BasicBlock(nn.Module):
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        h = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(h + self.shortcut(x))


class ResNet10(nn.Module):
    """A residual network of four stages of one basic block (He et al. 2016), with a stem for small images."""

    def __init__(self, n_features, n_outputs, width=4):
        super().__init__()
        self.unflatten = _to_image(n_features)
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stages = nn.Sequential(
            _BasicBlock(width, width, 1),
            _BasicBlock(width, 2 * width, 2),
            _BasicBlock(2 * width, 4 * width, 2),
            _BasicBlock(4 * width, 8 * width, 2),
        )
        self.head = nn.Linear(8 * width, n_outputs)

    def forward(self, x):
        return self.head(self.stages(self.stem(self.unflatten(x))).mean((2, 3)))


class _InvertedResidual(nn.Module):
    def __init__(self, n_in, n_out, stride, expansion):
        super().__init__()
        hidden = n_in * expansion
        expand = [nn.Conv2d(n_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        self.layers = nn.Sequential(
            *(expand if expansion > 1 else []),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.is_residual = stride == 1 and n_in == n_out

    def forward(self, x):
        return x + self.layers(x) if self.is_residual else self.layers(x)


class MobileNetV2(nn.Module):
    """Inverted residuals on depthwise convolutions (Sandler et al. 2018), few stages for small images."""

    def __init__(self, n_features, n_outputs, width=8):
        super().__init__()
        self.unflatten = _to_image(n_features)
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            _InvertedResidual(width, width, 1, 1),
            _InvertedResidual(width, 2 * width, 2, 3),
            _InvertedResidual(2 * width, 2 * width, 1, 3),
            _InvertedResidual(2 * width, 3 * width, 2, 3),
            nn.Conv2d(3 * width, 8 * width, 1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.ReLU6(),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(8 * width, n_outputs))

    def forward(self, x):
        return self.classifier(self.features(self.unflatten(x)).mean((2, 3)))


def make_biased_digits(random_state=0):
    """Label the 1797 images of scikit-learn's digits by "at least 5", with a group that is harder to read.

    Group "b" has the label 1 more often than group "a" (in expectation .7 against .3 of the rows) and is
    visible: its images have a bright bar in the last row, and noise.

    Parameters
    ----------
    random_state : int, default=0
        Seeds the groups, the noise and the order of the rows.

    Returns
    -------
    X : ndarray of shape (1797, 64)
        float32, about 0 to 1.
    y : ndarray of shape (1797,)
        0 or 1.
    group : ndarray of shape (1797,)
        "a" or "b".
    """
    rng = np.random.default_rng(random_state)
    digits = load_digits()
    y = (digits.target >= 5).astype(np.int64)
    is_b = rng.random(len(y)) < np.where(y == 1, 0.7, 0.3)
    images = digits.images / 16
    images[is_b] += rng.normal(scale=0.25, size=images[is_b].shape)
    images[is_b, -1] = 1
    order = rng.permutation(len(y))
    X = images.reshape(len(y), 64).astype(np.float32)
    return X[order], y[order], np.where(is_b, "b", "a")[order]


#: All of them.
NETWORKS = (
    PlainMLP,
    ResNetTabular,
    FTTransformer,
    EmbeddingNetwork,
    Conv1dNetwork,
    Conv2dNetwork,
    DenselyConnected,
    GroupedConvolutions,
    ResNet10,
    MobileNetV2,
)
