"""Multi-head attention whose heads can be removed."""

import math
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["HeadAttention", "replace_attention"]


class HeadAttention(nn.Module):
    """Multi-head attention on four plain linear layers.

    ``nn.MultiheadAttention`` packs its projections into one matrix. Here the features of head :math:`h` are
    the outputs :math:`[h d, (h + 1) d)` of ``query``, ``key`` and ``value`` and the inputs of the same
    positions of ``out``, with :math:`d` the ``head_dim``. The number of heads follows from the layers'
    sizes: to remove a head, remove these rows and columns and set the layers' ``out_features`` and
    ``in_features``. The attributes of ``nn.MultiheadAttention`` can be read as there. ``in_proj_weight`` and
    ``in_proj_bias`` are copies: to change them changes nothing.

    The weights are computed one operation at a time: the fused kernels of
    ``torch.nn.functional.scaled_dot_product_attention`` have no second derivatives, no forward-mode ones, and
    on a CPU no batching rule for ``torch.vmap``. A query that may attend to no key gets zeros and not nan.

    Parameters
    ----------
    query, key, value : nn.Linear
        The projections, of the same number of outputs, a multiple of ``head_dim``.
    out : nn.Linear
        The output projection, with as many inputs.
    head_dim : int
        The number of features of a head, at least 1.
    dropout : float, default=0.0
        The probability in [0, 1) with which an attention weight is dropped in training.
    batch_first : bool, default=False
        Whether batched inputs are of shape (batch, tokens, features) and not (tokens, batch, features).

    Raises
    ------
    ValueError
        If the sizes do not go together.
    """

    # A transformer layer of torch reads this, and calls the module in evaluation, too, where it would
    # otherwise hand the packed weights to a fused kernel.
    _qkv_same_embed_dim = False

    # What is true of every attention that can be written so.
    bias_k = bias_v = None
    add_zero_attn = False

    def __init__(
        self,
        query: nn.Linear,
        key: nn.Linear,
        value: nn.Linear,
        out: nn.Linear,
        head_dim: int,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        sizes = [query.out_features, key.out_features, value.out_features, out.in_features]
        if len(set(sizes)) > 1 or sizes[0] % head_dim:
            raise ValueError(
                "The outputs of query, key and value and the inputs of out must be the same multiple of "
                f"head_dim={head_dim}, got {sizes[0]}, {sizes[1]}, {sizes[2]} and {sizes[3]}."
            )
        self.query, self.key, self.value, self.out = query, key, value, out
        self.head_dim = head_dim
        self.dropout = dropout
        self.batch_first = batch_first

    @classmethod
    def from_multihead(cls, attention: nn.MultiheadAttention) -> "HeadAttention":
        """Return the same function on copies of the weights, in the same mode.

        Parameters
        ----------
        attention : nn.MultiheadAttention
            The attention, of any size, without ``add_bias_kv`` and ``add_zero_attn``.

        Raises
        ------
        ValueError
            If it attends to tokens of its own, is a subclass, or has hooks.
        """
        if not _is_plain(attention):
            raise ValueError(
                "Only a nn.MultiheadAttention itself, without add_bias_kv, add_zero_attn, hooks and "
                f"parametrizations, can be written as HeadAttention, got {type(attention).__name__} with "
                f"add_bias_kv={attention.bias_k is not None}, add_zero_attn={attention.add_zero_attn} and "
                f"{sum(len(_hooks(part)) for part in attention.modules())} hooks."
            )
        if attention.in_proj_weight is None:
            weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        else:
            weights = _thirds(attention.in_proj_weight)
        biases = [None] * 3 if attention.in_proj_bias is None else _thirds(attention.in_proj_bias)
        query, key, value = map(_linear, weights, biases)
        found = cls(
            query,
            key,
            value,
            _linear(attention.out_proj.weight, attention.out_proj.bias),
            attention.head_dim,
            attention.dropout,
            attention.batch_first,
        )
        return found.train(attention.training)

    @property
    def num_heads(self) -> int:
        """The number of heads."""
        return self.query.out_features // self.head_dim

    @property
    def embed_dim(self) -> int:
        """The number of features of a query: that of ``num_heads`` heads, as long as none is removed."""
        return self.query.in_features

    @property
    def kdim(self) -> int:
        """The number of features of a key."""
        return self.key.in_features

    @property
    def vdim(self) -> int:
        """The number of features of a value."""
        return self.value.in_features

    @property
    def out_proj(self) -> nn.Linear:
        """The output projection."""
        return self.out

    @property
    def in_proj_weight(self) -> Tensor | None:
        """The weights of query, key and value below each other; None if their inputs differ in number."""
        weights = (self.query.weight, self.key.weight, self.value.weight)
        return torch.cat(weights) if self.embed_dim == self.kdim == self.vdim else None

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The biases of query, key and value one after the other; None without biases."""
        biases = (self.query.bias, self.key.bias, self.value.bias)
        return None if any(bias is None for bias in biases) else torch.cat(biases)

    @property
    def q_proj_weight(self) -> Tensor:
        """The weight of the query, also where there is an ``in_proj_weight``."""
        return self.query.weight

    @property
    def k_proj_weight(self) -> Tensor:
        """The weight of the key, also where there is an ``in_proj_weight``."""
        return self.key.weight

    @property
    def v_proj_weight(self) -> Tensor:
        """The weight of the value, also where there is an ``in_proj_weight``."""
        return self.value.weight

    def _split(self, x: Tensor) -> Tensor:
        """Split (batch, tokens, features) into (batch, heads, tokens, head_dim)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _merge_masks(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, queries: Tensor
    ) -> Tensor | None:
        """Return what is added to the scores, of a shape that broadcasts to (batch, heads, queries, keys)."""
        added = None
        if attn_mask is not None:
            added = _additive(attn_mask, queries.dtype)
            if added.dim() == 3:
                batch, heads = queries.shape[:2]
                if added.shape[0] != batch * heads:
                    raise ValueError(
                        f"attn_mask has {added.shape[0]} matrices for a batch of {batch} and {heads} heads: "
                        f"pass {batch * heads}, or one for all of shape (queries, keys)."
                    )
                added = added.unflatten(0, (batch, heads))
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, queries.dtype)[:, None, None, :]
            added = padding if added is None else added + padding
        return added

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, with the call signature of ``nn.MultiheadAttention``.

        Parameters
        ----------
        query, key, value : Tensor
            Of shape (batch, tokens, features) if ``batch_first``, else (tokens, batch, features), or
            without batch of shape (tokens, features).
        key_padding_mask : Tensor of shape (batch, keys), default=None
            True where a key is left out, or floats that are added to its scores.
        need_weights : bool, default=True
            Whether the weights are returned.
        attn_mask : Tensor, default=None
            Of shape (queries, keys) or (batch * heads, queries, keys); True where a query does not attend to
            a key, or floats that are added to the scores.
        average_attn_weights : bool, default=True
            Whether the returned weights are averaged over the heads.
        is_causal : bool, default=False
            A hint that ``attn_mask`` is causal. The mask is used as it is, and so has to be given.

        Returns
        -------
        output : Tensor
            Of the shape of ``query``, with as many features as ``out`` has outputs.
        weights : Tensor or None
            Of shape (batch, queries, keys), or (batch, heads, queries, keys) if they are not averaged. None
            unless ``need_weights``.

        Raises
        ------
        ValueError
            If ``is_causal`` comes without a mask, or the mask has the wrong number of heads.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True is only a hint: pass the causal mask as attn_mask.")
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        queries = self._split(self.query(query))
        keys = self._split(self.key(key))
        values = self._split(self.value(value))
        mask = self._merge_masks(attn_mask, key_padding_mask, queries)
        scores = (queries / math.sqrt(self.head_dim)) @ keys.transpose(-2, -1)
        if mask is None:
            weights = torch.softmax(scores, dim=-1)
        else:
            lonely = (mask == -torch.inf).all(dim=-1, keepdim=True)  # the softmax of no key is nan
            scores = (scores + mask).masked_fill(lonely, 0.0)
            weights = torch.softmax(scores, dim=-1).masked_fill(lonely, 0.0)
        weights = nn.functional.dropout(weights, self.dropout, self.training)
        output = self.out((weights @ values).transpose(1, 2).flatten(2))
        output = output if self.batch_first or not is_batched else output.transpose(0, 1)
        if need_weights and average_attn_weights:
            weights = weights.mean(dim=1)
        if not is_batched:
            output, weights = output.squeeze(0), weights.squeeze(0)
        return output, weights if need_weights else None


def replace_attention(network: nn.Module) -> nn.Module:
    """Replace every ``nn.MultiheadAttention`` of a network by the :class:`HeadAttention` of its function.

    What cannot be rewritten stays as it is: attention with ``add_bias_kv`` or ``add_zero_attn``, with hooks
    or parametrizations, with parameters that another module has, too, and subclasses. A module that is used
    in several places is so afterwards. ``nn.TransformerEncoder`` no longer packs padded inputs into nested
    tensors, which in evaluation without gradients set its outputs at the padding to 0; they are now what
    they are with gradients.

    Parameters
    ----------
    network : nn.Module
        The network. It is changed.

    Returns
    -------
    nn.Module
        The network, or what replaces it if it is itself a ``nn.MultiheadAttention``.
    """
    root = nn.ModuleList([network])
    owners = Counter(held for module in root.modules() for held in module._parameters.values())
    replaced: dict[nn.Module, HeadAttention] = {}
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a child's second name
            if not isinstance(child, nn.MultiheadAttention):
                continue
            if _is_plain(child) and all(owners[held] == 1 for held in child.parameters()):
                if child not in replaced:
                    replaced[child] = HeadAttention.from_multihead(child)
                parent.register_module(name, replaced[child])
    for module in root.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, HeadAttention) for part in module.modules()
        ):
            module.use_nested_tensor = False
    return root[0]


def _hooks(module: nn.Module) -> list[object]:
    return [
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
        *module._backward_pre_hooks.values(),
        *module._backward_hooks.values(),
    ]


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    """Whether the module computes attention of its projections and nothing else."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.bias_k is None
        and attention.bias_v is None
        and not attention.add_zero_attn
        and not any(_hooks(part) or is_parametrized(part) for part in attention.modules())
    )


def _thirds(packed: Tensor) -> list[Tensor]:
    return [nn.Parameter(part, packed.requires_grad) for part in packed.detach().chunk(3)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a linear layer with copies of the parameters, without drawing random numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Write a mask of bool, True where attention is barred, as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)
