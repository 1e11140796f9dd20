"""Scaled dot-product attention as the course writes it, V softmax(K'Q / sqrt D), and our layers beside it."""

import math

import pytest
import torch
from torch import Tensor

from training.models.attention import Attention, scaled_dot_product, upto, within, write_at
from training.models.recurrent import LuongAttention


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# Every token is a column. D = 4, so sqrt D = 2. The keys are the first three unit vectors, so that K'q / 2 is
# half of a query's first three numbers. The first query scores (0, log 2, log 3), its softmax (1, 2, 3) / 6;
# the second scores (0, 0, 0) and looks at everything alike; the third scores (log 4, 0, 0): (4, 1, 1) / 6.
KEYS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
QUERIES = torch.tensor(
    [[0.0, 0, 2 * math.log(4)], [2 * math.log(2), 0, 0], [2 * math.log(3), 0, 0], [7, -7, 5]],
    dtype=torch.float64,
)
VALUES = torch.tensor([[6.0, 0, 0], [0, 3, 6], [6, 6, 6], [0, 0, 12]], dtype=torch.float64)
# V w for w = (1, 2, 3) / 6, (2, 2, 2) / 6, (4, 1, 1) / 6; for instance 3 * 2/6 + 6 * 3/6 = 4.
WORKED = torch.tensor([[1.0, 2, 4], [4, 3, 1.5], [6, 6, 6], [6, 4, 2]], dtype=torch.float64)


def test_worked_numbers() -> None:
    torch.testing.assert_close(scaled_dot_product(KEYS, QUERIES, VALUES), WORKED, rtol=1e-14, atol=1e-14)


def test_values_may_have_another_height_than_keys() -> None:
    found = scaled_dot_product(KEYS, QUERIES, VALUES[:2])
    torch.testing.assert_close(found, WORKED[:2], rtol=1e-14, atol=1e-14)


def tokens(columns: Tensor) -> Tensor:
    """Columns [D, n] as our layers take them: [batch = 1, n, heads = 1, D]."""
    return columns.mT[None, :, None]


def plain(hidden: int, heads: int) -> Attention:
    """A layer whose output projection changes nothing."""
    layer = Attention(hidden, heads).double()
    with torch.no_grad():
        layer.output.weight.copy_(torch.eye(hidden))
        layer.output.bias.zero_()
    return layer


def test_our_layer_gives_the_worked_numbers() -> None:
    found = plain(4, 1)(tokens(QUERIES), tokens(KEYS), tokens(VALUES))
    torch.testing.assert_close(found[0].mT, WORKED, rtol=1e-12, atol=1e-12)


def test_its_weights_are_the_worked_ones() -> None:
    found = plain(4, 1).weights(tokens(QUERIES), tokens(KEYS))[0, 0]
    expected = torch.tensor([[1.0, 2, 3], [2, 2, 2], [4, 1, 1]], dtype=torch.float64) / 6
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_heads_projections_and_causality() -> None:
    """The whole layer, head by head, token by token, by the column formula."""
    hidden, heads, time = 12, 3, 5
    layer, x = Attention(hidden, heads).double(), torch.randn(2, time, hidden, dtype=torch.float64)
    found = layer(*layer.projections(x), causal=True)
    w_q, w_k, w_v = layer.inputs.weight.split(hidden)
    b_q, b_k, b_v = (bias[:, None] for bias in layer.inputs.bias.split(hidden))
    for row in range(2):
        columns = x[row].mT
        q, k, v = w_q @ columns + b_q, w_k @ columns + b_k, w_v @ columns + b_v
        for t in range(time):
            mixed = torch.cat(
                [
                    scaled_dot_product(k[part, : t + 1], q[part, t : t + 1], v[part, : t + 1])
                    for part in (slice(h * 4, h * 4 + 4) for h in range(heads))
                ]
            )
            expected = layer.output.weight @ mixed + layer.output.bias[:, None]
            torch.testing.assert_close(found[row, t], expected[:, 0], rtol=1e-10, atol=1e-12)


def test_parts_of_the_packed_projection_are_the_whole() -> None:
    layer, x = Attention(8, 2), torch.randn(2, 3, 8)
    query, key, value = layer.projections(x)
    torch.testing.assert_close(layer.queries(x), query)
    memory_key, memory_value = layer.memory(x)
    torch.testing.assert_close(memory_key, key)
    torch.testing.assert_close(memory_value, value)


def test_a_hidden_entry_has_no_weight() -> None:
    layer = plain(4, 1)
    seen = layer(tokens(QUERIES), tokens(KEYS), tokens(VALUES), within(torch.tensor([2]), 3))
    expected = scaled_dot_product(KEYS[:, :2], QUERIES, VALUES[:, :2])
    torch.testing.assert_close(seen[0].mT, expected, rtol=1e-12, atol=1e-12)
    weights = layer.weights(tokens(QUERIES), tokens(KEYS), within(torch.tensor([2]), 3))
    assert weights[..., 2].count_nonzero() == 0


def test_masks() -> None:
    assert within(torch.tensor([1, 3]), 3)[:, 0, 0].tolist() == [[True, False, False], [True, True, True]]
    seen = upto(torch.tensor([[0, 1], [2, 3]]), 4)[:, 0]
    assert seen.sum(-1).tolist() == [[1, 2], [3, 4]]
    assert seen[1, 0].tolist() == [True, True, True, False]


def test_a_past_stays_packed_to_the_left() -> None:
    past = torch.tensor([[1.0, 2], [5, 9]])[:, :, None, None]  # the second row holds one entry; 9 is padding
    new = torch.tensor([[3.0, 4], [6, 7]])[:, :, None, None]
    grown = write_at(past, new, torch.tensor([[2, 3], [1, 2]]))[:, :, 0, 0]
    assert grown[0].tolist() == [1, 2, 3, 4]
    assert grown[1, :3].tolist() == [5, 6, 7]


def test_luong_attention_by_the_column_formula() -> None:
    """c_t = H softmax(H' W' h_t): no scale; then tanh(W_c [c_t; h_t])."""
    layer = LuongAttention(4).double()
    states, encoded = torch.randn(1, 3, 4, dtype=torch.float64), torch.randn(1, 5, 4, dtype=torch.float64)
    mask = within(torch.tensor([4]), 5)
    key, value = layer.memory(encoded)
    source, h = encoded[0, :4].mT, states[0].mT
    scores = (layer.general.weight @ source).mT @ h
    weights = scores.softmax(dim=0)
    both = torch.cat([source @ weights, h])
    expected = torch.tanh(layer.combine.weight @ both + layer.combine.bias[:, None])
    torch.testing.assert_close(layer(states, key, value, mask)[0].mT, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.weights(states, key, mask)[0, :, :4].mT, weights, rtol=1e-10, atol=1e-12)
