import copy

import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.utils import prune

from skfairprune.networks.attention import HeadAttention, replace_attention
from tests.networks.zoo import FTTransformer

BATCH, QUERIES, KEYS, HEADS, HEAD_DIM = 3, 4, 5, 4, 3
EMBED = HEADS * HEAD_DIM


def _attention(seed=0, **options):
    """Make an attention of torch whose biases are random, too."""
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(EMBED, HEADS, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.normal_(std=0.4)
    return attention


def _inputs(batch_first, kdim=EMBED, vdim=EMBED):
    torch.manual_seed(1)
    shapes = [(BATCH, QUERIES, EMBED), (BATCH, KEYS, kdim), (BATCH, KEYS, vdim)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return tensors if batch_first else [t.transpose(0, 1) for t in tensors]


def _bool_masks():
    """Make masks (keys, pairs, pairs by head) under which every query attends to some key."""
    torch.manual_seed(2)
    padding = torch.rand(BATCH, KEYS) < 0.4
    pairs = torch.rand(QUERIES, KEYS) < 0.4
    by_head = torch.rand(BATCH * HEADS, QUERIES, KEYS) < 0.4
    padding[:, 0], pairs[:, 0], by_head[..., 0] = False, False, False
    return padding, pairs, by_head


def _masks(kind, dtype):
    found = {}
    for name, mask in zip(("padding", "pairs", "by_head"), _bool_masks(), strict=True):
        if dtype == "infinite":
            mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)
        elif dtype == "bias":
            mask = torch.randn(mask.shape, dtype=torch.float64)
        found[name] = mask
    chosen = {}
    if "padding" in kind:
        chosen["key_padding_mask"] = found["padding"]
    if "pairs" in kind or "by_head" in kind:
        chosen["attn_mask"] = found["pairs" if "pairs" in kind else "by_head"]
    return chosen


def _assert_same(found, expected, atol=1e-12):
    for part, other in zip(found, expected, strict=True):
        assert (part is None) == (other is None)
        if part is not None:
            assert part.shape == other.shape
            assert_allclose(part.detach(), other.detach(), atol=atol, rtol=0)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 7, "vdim": 6}, {"kdim": 7}])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_weights_are_those_of_torch(need_weights, batch_first, sizes, bias):
    attention = _attention(batch_first=batch_first, bias=bias, **sizes).eval()
    inputs = _inputs(batch_first, **sizes)
    heads = HeadAttention.from_multihead(attention)
    assert heads.num_heads == HEADS
    for average in (True, False):
        options = {"need_weights": need_weights, "average_attn_weights": average}
        _assert_same(heads(*inputs, **options), attention(*inputs, **options))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 7, "vdim": 6}, {"kdim": 7}])
@pytest.mark.parametrize("bias", [True, False])
def test_attributes_are_those_of_torch(batch_first, sizes, bias):
    attention = _attention(batch_first=batch_first, bias=bias, dropout=0.1, **sizes)
    heads = HeadAttention.from_multihead(attention)
    for name in ("embed_dim", "num_heads", "head_dim", "kdim", "vdim", "dropout", "batch_first"):
        assert getattr(heads, name) == getattr(attention, name), name
    for name in ("bias_k", "bias_v", "add_zero_attn"):
        assert getattr(heads, name) is getattr(attention, name)
    names = ["in_proj_weight", "in_proj_bias"]
    names += [f"{letter}_proj_weight" for letter in "qkv"] if sizes else []
    _assert_same([getattr(heads, n) for n in names], [getattr(attention, n) for n in names], atol=0)
    _assert_same(heads.out_proj.parameters(), attention.out_proj.parameters(), atol=0)
    assert set(heads.state_dict()) == {
        f"{layer}.{name}"
        for layer in ("query", "key", "value", "out")
        for name in ("weight", "bias")[: 1 + bias]
    }


def test_a_forward_pass_that_reads_attributes():
    """As of networks that compute attention by the functional form, with an attention's weights."""

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = _attention(batch_first=False)

        def forward(self, x):
            attention = self.attention
            assert x.shape[-1] == attention.embed_dim == attention.kdim
            return nn.functional.multi_head_attention_forward(
                *(x, x, x, attention.embed_dim, attention.num_heads),
                *(attention.in_proj_weight, attention.in_proj_bias, attention.bias_k, attention.bias_v),
                *(attention.add_zero_attn, attention.dropout),
                *(attention.out_proj.weight, attention.out_proj.bias),
                training=self.training,
            )

    network, (x, *_) = Reads(), _inputs(batch_first=False)
    expected = network(x)
    replaced = replace_attention(network)
    assert isinstance(replaced.attention, HeadAttention)
    _assert_same(replaced(x), expected)


def test_in_single_precision():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 8, batch_first=True)
    x = torch.randn(7, 9, 64)
    heads = HeadAttention.from_multihead(attention)
    for options in ({}, {"need_weights": False}, {"attn_mask": torch.randn(9, 9)}):
        _assert_same(heads(x, x, x, **options), attention(x, x, x, **options), atol=1e-6)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dtype", ["bool", "infinite", "bias"])
@pytest.mark.parametrize(
    "kind",
    [("padding",), ("pairs",), ("by_head",), ("padding", "pairs"), ("padding", "by_head")],
    ids="-".join,
)
def test_masks_are_those_of_torch(kind, dtype, need_weights):
    attention = _attention(batch_first=True)
    inputs, masks = _inputs(batch_first=True), _masks(kind, dtype)
    expected = attention(*inputs, need_weights=need_weights, **masks)
    heads = HeadAttention.from_multihead(attention)
    _assert_same(heads(*inputs, need_weights=need_weights, **masks), expected)
    unmasked = heads(*inputs)[0]
    assert (unmasked - expected[0]).abs().max() > 0.01


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_rows_without_a_batch(batch_first, masked):
    attention = _attention(batch_first=batch_first)
    inputs = [t[0] for t in _inputs(batch_first=True)]
    padding, pairs, by_head = _bool_masks()
    heads = HeadAttention.from_multihead(attention)
    for pair_mask in (pairs, by_head[:HEADS]):
        masks = {"key_padding_mask": padding[0], "attn_mask": pair_mask} if masked else {}
        _assert_same(heads(*inputs, **masks), attention(*inputs, **masks))


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_causal_hint_takes_the_mask(need_weights):
    attention = _attention(batch_first=True)
    x = _inputs(batch_first=True)[0]
    mask = nn.Transformer.generate_square_subsequent_mask(QUERIES, dtype=torch.float64)
    options = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    heads = HeadAttention.from_multihead(attention)
    _assert_same(heads(x, x, x, **options), attention(x, x, x, **options))
    with pytest.raises(ValueError, match="pass the causal mask"):
        heads(x, x, x, is_causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_query_without_keys_gets_zeros(need_weights):
    attention = _attention(batch_first=True)
    inputs = _inputs(batch_first=True)
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[1] = True
    expected, _ = attention(*inputs, key_padding_mask=padding, need_weights=False)
    heads = HeadAttention.from_multihead(attention)
    found, weights = heads(*inputs, key_padding_mask=padding, need_weights=need_weights)
    _assert_same((found,), (expected,))
    assert_allclose(found[1].detach(), heads.out.bias.detach().expand(QUERIES, -1))
    assert weights is None or (weights[1] == 0).all()
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())


def test_dropout_falls_on_the_weights_in_training():
    attention = _attention(batch_first=True, dropout=0.5)
    inputs = _inputs(batch_first=True)
    heads = HeadAttention.from_multihead(attention)
    assert heads.training
    torch.manual_seed(3)
    expected = attention(*inputs, average_attn_weights=False)
    torch.manual_seed(3)
    found = heads(*inputs, average_attn_weights=False)
    _assert_same(found, expected)
    assert 0.3 < (found[1] == 0).double().mean() < 0.7
    _assert_same(heads.eval()(*inputs), attention.eval()(*inputs))
    assert not HeadAttention.from_multihead(attention).training


@pytest.mark.parametrize("sizes", [{}, {"kdim": 7, "vdim": 6}])
def test_gradients_are_those_of_torch(sizes):
    attention = _attention(batch_first=True, **sizes)
    heads = HeadAttention.from_multihead(attention)
    inputs = _inputs(batch_first=True, **sizes)
    for module in (attention, heads):
        output, weights = module(*inputs, key_padding_mask=_bool_masks()[0])
        (output.square().sum() + weights.square().sum()).backward()
    if sizes:
        expected = [getattr(attention, f"{name}_proj_weight").grad for name in "qkv"]
    else:
        expected = attention.in_proj_weight.grad.chunk(3)
    for name, weight, bias in zip(
        ("query", "key", "value"), expected, attention.in_proj_bias.grad.chunk(3), strict=True
    ):
        assert_allclose(heads.get_submodule(name).weight.grad, weight, atol=1e-12)
        assert_allclose(heads.get_submodule(name).bias.grad, bias, atol=1e-12)
    assert_allclose(heads.out.weight.grad, attention.out_proj.weight.grad, atol=1e-12)
    assert_allclose(heads.out.bias.grad, attention.out_proj.bias.grad, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_second_and_forward_derivatives_exist():
    heads = HeadAttention.from_multihead(_attention(batch_first=True))
    x = torch.randn(2, 3, EMBED, dtype=torch.float64, requires_grad=True)

    def attend(x):
        return heads(x, x, x, need_weights=False)[0]

    assert torch.autograd.gradgradcheck(attend, x)
    direction = torch.randn_like(x)
    _, found = jvp(attend, (x.detach(),), (direction,))
    step = 1e-6 * direction
    assert_allclose(found.detach(), ((attend(x + step) - attend(x - step)) / 2e-6).detach(), atol=1e-7)


def _without_head(heads, head):
    """Remove a head the way any remover of units does: rows of three layers, columns of the fourth."""
    small = copy.deepcopy(heads)
    kept = [i for i in range(heads.query.out_features) if i // HEAD_DIM != head]
    for layer in (small.query, small.key, small.value):
        layer.weight, layer.bias = nn.Parameter(layer.weight[kept]), nn.Parameter(layer.bias[kept])
        layer.out_features = len(kept)
    small.out.weight = nn.Parameter(small.out.weight[:, kept])
    small.out.in_features = len(kept)
    return small


@pytest.mark.parametrize("head", range(HEADS))
def test_removing_a_head_equals_silencing_it(head):
    attention = _attention(batch_first=True)
    inputs = _inputs(batch_first=True)
    small = _without_head(HeadAttention.from_multihead(attention), head)
    dense = attention(*inputs)[0]
    with torch.no_grad():
        attention.out_proj.weight[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] = 0
    expected = attention(*inputs, average_attn_weights=False)
    found = small(*inputs, average_attn_weights=False)
    others = [h for h in range(HEADS) if h != head]
    _assert_same(found, (expected[0], expected[1][:, others]))
    assert small.num_heads == HEADS - 1
    assert small.embed_dim == attention.embed_dim
    assert len(small.in_proj_weight) == 3 * (HEADS - 1) * HEAD_DIM
    assert (found[0] - dense).abs().max() > 0.01


def test_removing_all_heads_leaves_the_bias():
    heads = HeadAttention.from_multihead(_attention(batch_first=True))
    for _ in range(HEADS):
        heads = _without_head(heads, 0)
    x = torch.randn(2, 3, EMBED, dtype=torch.float64)
    output, _ = heads(x, x, x, need_weights=False)
    assert_allclose(output.detach(), heads.out.bias.detach().expand(2, 3, -1))


def test_a_mask_for_heads_that_are_gone_is_named():
    small = _without_head(HeadAttention.from_multihead(_attention(batch_first=True)), 1)
    with pytest.raises(ValueError, match="12 matrices for a batch of 3 and 3 heads: pass 9"):
        small(*_inputs(batch_first=True), attn_mask=_bool_masks()[2])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_a_stack_of_copies_runs_under_vmap(grad, masked):
    copies = [HeadAttention.from_multihead(_attention(seed, batch_first=True)).eval() for seed in range(3)]
    inputs = _inputs(batch_first=True)
    options = {"key_padding_mask": _bool_masks()[0]} if masked else {}
    parameters, _ = torch.func.stack_module_state(copies)

    def attend(parameters):
        return functional_call(copies[0], parameters, tuple(inputs), {"need_weights": False, **options})[0]

    with torch.set_grad_enabled(grad):
        found = torch.vmap(attend)(parameters)
        expected = torch.stack([c(*inputs, need_weights=False, **options)[0] for c in copies])
    assert_allclose(found.detach(), expected.detach(), atol=1e-12)
    assert (found[0] - found[1]).abs().max() > 0.01


def test_gradients_by_row_under_vmap():
    heads = HeadAttention.from_multihead(_attention(batch_first=True))
    x = torch.randn(4, 5, EMBED, dtype=torch.float64)

    def loss(parameters, row):
        return functional_call(heads, parameters, (row, row, row))[0].square().sum()

    parameters = {name: p.detach() for name, p in heads.named_parameters()}
    found = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, row in enumerate(x):
        heads.zero_grad()
        heads(row[None], row[None], row[None])[0].square().sum().backward()
        for name, parameter in heads.named_parameters():
            assert_allclose(found[name][i], parameter.grad, atol=1e-10)


def _layer(**options):
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(EMBED, HEADS, 16, dropout=0.0, dtype=torch.float64, **options)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_in_an_encoder_layer(training, batch_first, norm_first, grad):
    layer = _layer(batch_first=batch_first, norm_first=norm_first).train(training)
    replaced = replace_attention(copy.deepcopy(layer))
    assert isinstance(replaced.self_attn, HeadAttention)
    shape = (BATCH, KEYS, EMBED) if batch_first else (KEYS, BATCH, EMBED)
    x = torch.randn(shape, dtype=torch.float64)
    for masks in ({}, {"src_key_padding_mask": _bool_masks()[0]}):
        with torch.set_grad_enabled(grad):
            _assert_same((replaced(x, **masks),), (layer(x, **masks),))


def test_the_fused_layer_is_not_used():
    """A fused kernel would read the weights and never call the attention."""
    layer = replace_attention(_layer(batch_first=True).eval())
    calls = []
    forward = layer.self_attn.forward
    layer.self_attn.forward = lambda *args, **options: calls.append(1) or forward(*args, **options)
    with torch.no_grad():
        layer(torch.randn(BATCH, KEYS, EMBED, dtype=torch.float64))
    assert calls == [1]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", ["not", "left", "scattered"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_in_an_encoder(masked, training, grad):
    encoder = nn.TransformerEncoder(_layer(batch_first=True), 2).train(training)
    replaced = replace_attention(copy.deepcopy(encoder))
    lengths = torch.tensor([5, 3, 2])
    left = torch.arange(KEYS) >= lengths[:, None]
    padding = {"not": None, "left": left, "scattered": _bool_masks()[0]}[masked]
    x = torch.randn(BATCH, KEYS, EMBED, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        found = replaced(x, src_key_padding_mask=padding)
        expected = encoder(x, src_key_padding_mask=padding)
    read = slice(None) if padding is None else ~padding  # torch sets padding to 0 where it packs the inputs
    _assert_same((found[read],), (expected[read],))


def test_an_encoder_built_on_it_says_that_it_packs_no_inputs():
    layer = replace_attention(_layer(batch_first=True))
    with pytest.warns(UserWarning, match="enable_nested_tensor is True, but"):
        nn.TransformerEncoder(layer, 2)
    nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_in_a_transformer_with_a_decoder():
    torch.manual_seed(0)
    network = nn.Transformer(EMBED, HEADS, 1, 2, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    source, target = (
        torch.randn(BATCH, KEYS, EMBED, dtype=torch.float64),
        torch.randn(BATCH, QUERIES, EMBED, dtype=torch.float64),
    )
    options = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(QUERIES, dtype=torch.float64),
        "tgt_is_causal": True,
    }
    expected = network(source, target, **options)
    replaced = replace_attention(network)
    assert not any(isinstance(m, nn.MultiheadAttention) for m in replaced.modules())
    _assert_same((replaced(source, target, **options),), (expected,))


def test_in_a_tabular_transformer():
    torch.manual_seed(0)
    network, x = FTTransformer(6, 3), torch.randn(9, 6)
    expected = network(x)
    assert replace_attention(network) is network
    assert sum(isinstance(m, HeadAttention) for m in network.modules()) == 2
    _assert_same((network(x),), (expected,), atol=1e-6)


class _Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.again = _attention(batch_first=True)
        self.inner = nn.Sequential(nn.ModuleList([self.first]), _attention(seed=1, batch_first=True))


def test_a_shared_module_stays_shared():
    network = replace_attention(_Shared())
    assert isinstance(network.first, HeadAttention)
    assert network.first is network.again
    assert network.first is network.inner[0][0]
    assert isinstance(network.inner[1], HeadAttention)
    assert network.inner[1] is not network.first


def test_an_attention_itself_is_replaced():
    attention = _attention()
    x = torch.randn(KEYS, BATCH, EMBED, dtype=torch.float64)
    replaced = replace_attention(attention)
    assert isinstance(replaced, HeadAttention)
    _assert_same(replaced(x, x, x), attention(x, x, x))


class _Subclass(nn.MultiheadAttention):
    pass


def _with_orthogonal_output():
    attention = _attention()
    nn.utils.parametrizations.orthogonal(attention.out_proj)
    return attention


def _hooked():
    attention = _attention()
    attention.register_forward_hook(lambda module, args, output: output)
    return attention


@pytest.mark.parametrize(
    "attention",
    [
        lambda: _attention(add_bias_kv=True),
        lambda: _attention(add_zero_attn=True),
        lambda: _Subclass(EMBED, HEADS),
        lambda: nn.utils.parametrizations.orthogonal(_attention(), "in_proj_weight"),
        lambda: prune.random_unstructured(_attention(), "in_proj_weight", 0.5),
        _hooked,
        _with_orthogonal_output,
    ],
    ids=["bias_kv", "zero_attn", "subclass", "parametrised", "masked", "hooked", "output parametrised"],
)
def test_what_cannot_be_rewritten_stays(attention):
    attention = attention()
    network = nn.Sequential(nn.ModuleList([attention]), _attention())
    replace_attention(network)
    assert network[0][0] is attention
    assert isinstance(network[1], HeadAttention)
    with pytest.raises(ValueError, match=f"got {type(attention).__name__} with add_bias_kv="):
        HeadAttention.from_multihead(attention)


def test_attentions_that_share_weights_stay():
    network = nn.ModuleList([_attention(), _attention(), _attention()])
    network[1].in_proj_weight = network[0].in_proj_weight
    replace_attention(network)
    assert [type(part) for part in network] == [nn.MultiheadAttention, nn.MultiheadAttention, HeadAttention]
    assert network[1].in_proj_weight is network[0].in_proj_weight


def test_weights_are_copied_as_they_are():
    attention = _attention()
    attention.in_proj_weight.requires_grad_(False)
    state = torch.get_rng_state()
    heads = HeadAttention.from_multihead(attention)
    assert torch.equal(torch.get_rng_state(), state)
    assert not heads.query.weight.requires_grad
    assert heads.query.bias.requires_grad
    assert {p.dtype for p in heads.parameters()} == {torch.float64}
    pointers = [p.untyped_storage().data_ptr() for p in (*attention.parameters(), *heads.parameters())]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("sizes", [(6, 6, 6, 9), (6, 9, 6, 6), (8, 8, 8, 8)])
def test_sizes_that_do_not_go_together(sizes):
    query, key, value = (nn.Linear(5, size) for size in sizes[:3])
    with pytest.raises(ValueError, match=f"head_dim=3, got {sizes[0]}, {sizes[1]}, "):
        HeadAttention(query, key, value, nn.Linear(sizes[3], 5), head_dim=3)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return replace_attention(FTTransformer(6, 3)).eval()


DYNAMIC = ({0: torch.export.Dim.DYNAMIC},)


def test_it_is_exported_for_any_number_of_rows(transformer):
    program = torch.export.export(transformer, (torch.randn(4, 6),), dynamic_shapes=DYNAMIC).module()
    for n in (1, 4, 11):
        x = torch.randn(n, 6)
        _assert_same((program(x),), (transformer(x),), atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_it_is_exported_to_onnx_for_any_number_of_rows(transformer):
    program = torch.onnx.export(
        transformer, (torch.randn(4, 6),), dynamo=True, dynamic_shapes=DYNAMIC, verbose=False
    )
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for n in (1, 4, 11):
        x = torch.randn(n, 6)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_allclose(found, transformer(x).detach().numpy(), atol=1e-5)
