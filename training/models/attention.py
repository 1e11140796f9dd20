"""Attention (Vaswani et al. 2017), and the mask arithmetic of rows of different length."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_dot_product(keys: Tensor, queries: Tensor, values: Tensor) -> Tensor:
    """V softmax(K'Q / sqrt D) in the column convention of the course: every token is a column.

    Args:
        keys: [D, S].
        queries: [D, T].
        values: [E, S].

    Returns:
        [E, T]: column t is the mean of the columns of `values` weighted by the softmax, over s, of
        k_s . q_t / sqrt D.
    """
    scores = keys.mT @ queries / math.sqrt(keys.shape[-2])
    return values @ scores.softmax(dim=-2)


def within(counts: Tensor, size: int) -> Tensor:
    """Which of `size` right-padded entries are real: bool [batch, 1, 1, size] from int [batch]."""
    return (torch.arange(size, device=counts.device) < counts[:, None])[:, None, None, :]


def upto(positions: Tensor, size: int) -> Tensor:
    """Which of `size` entries a token at `positions` [batch, time] may see: bool [batch, 1, time, size]."""
    return (torch.arange(size, device=positions.device) <= positions[:, :, None])[:, None]


def write_at(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Grow a packed past by new entries.

    The concatenation only makes room: what it appends does not matter, nobody reads it before it is written.

    Args:
        past: [batch, past, heads, size].
        new: [batch, time, heads, size].
        positions: int64 [batch, time], where each new entry goes: at most past + time - 1.

    Returns:
        [batch, past + time, heads, size].
    """
    grown = torch.cat([past, new], dim=1)
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    return grown.index_put((rows, positions), new)


class Attention(nn.Module):
    """Multi-head attention; one layer serves self attention and attention over an encoder's memory.

    The projections of query, key and value are one matrix [3 * hidden, hidden], in that order.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.hidden, self.heads, self.size = hidden, heads, hidden // heads
        self.inputs = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)

    def _split(self, x: Tensor) -> Tensor:
        """[batch, n, hidden] -> [batch, n, heads, size]."""
        return x.view(*x.shape[:-1], self.heads, self.size)

    def projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one sequence [batch, n, hidden], each [batch, n, heads, size]."""
        query, key, value = self.inputs(x).chunk(3, dim=-1)
        return self._split(query), self._split(key), self._split(value)

    def queries(self, x: Tensor) -> Tensor:
        """Queries alone, [batch, time, heads, size]."""
        return self._split(F.linear(x, self.inputs.weight[: self.hidden], self.inputs.bias[: self.hidden]))

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoded source [batch, source, hidden], each [batch, source, heads, size]."""
        both = F.linear(x, self.inputs.weight[self.hidden :], self.inputs.bias[self.hidden :])
        key, value = both.chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend and project.

        Args:
            query: [batch, time, heads, size].
            key, value: [batch, n, heads, size].
            mask: bool, broadcast to [batch, heads, time, n]; True = may be seen. None = everything.
            causal: token t sees entries 0 .. t.

        Returns:
            [batch, time, hidden].
        """
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=causal,
        )
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(-2))
        return out

    def weights(self, query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
        """What `forward` weighs the values with: [batch, heads, time, n], rows summing to one."""
        scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) / math.sqrt(self.size)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return scores.softmax(dim=-1)
