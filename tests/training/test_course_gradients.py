"""Back-propagation through time: our recurrent model against the closed formulas of the course, in float64.

The network, for one-hot x_t (columns):

    h_t = tanh(W_xh x_t + b_xh + W_hh h_{t-1} + b_hh)        y_t = W_hy h_t + b_hy        p_t = softmax(y_t)
    L   = sum_t L_t,   L_t = -log p_t[target_t]

What the chain rule gives, with e_t the one-hot target, D_t = diag(1 - h_t^2) the derivative of tanh, and s(t)
the first step of the window of truncation that holds t (the state that enters a window is carried, and is a
constant):

    dL/dy_t     = p_t - e_t
    dL/dW_hy    = sum_t (p_t - e_t) h_t'                     dL/db_hy = sum_t (p_t - e_t)
    dh_t/dh_k   = (D_t W_hh) (D_{t-1} W_hh) ... (D_{k+1} W_hh)             (the identity where k = t)
    a_{t,k}     = D_k (dh_t/dh_k)' W_hy' (p_t - e_t)         what step t sends to the pre-activation of step k
    dL/dW_hh    = sum_t sum_{k = s(t)}^t a_{t,k} h_{k-1}'
    dL/dW_xh    = sum_t sum_{k = s(t)}^t a_{t,k} x_k'
    dL/db_xh    = dL/db_hh = sum_t sum_{k = s(t)}^t a_{t,k}
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from training.models import Language, ModelConfig, build, detached

VOCAB, HIDDEN, STEPS = 5, 4, 7

Matrix = NDArray[np.float64]


def network() -> Language:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = build("language", ModelConfig(architecture="rnn", hidden=HIDDEN), VOCAB).double()
    assert isinstance(model, Language)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough for tanh to bend
            parameter.normal_(std=0.7)
    return model


def weights(model: Language) -> dict[str, torch.nn.Parameter]:
    parts = dict(model.named_parameters())
    return {
        "W_xh": parts["cells.net.weight_ih_l0"],
        "W_hh": parts["cells.net.weight_hh_l0"],
        "b_xh": parts["cells.net.bias_ih_l0"],
        "b_hh": parts["cells.net.bias_hh_l0"],
        "W_hy": parts["output.free.weight"],
        "b_hy": parts["output.free.bias"],
    }


def by_formula(w: dict[str, Matrix], ids: list[int], targets: list[int], window: int) -> dict[str, Matrix]:
    one_hot = np.eye(VOCAB)
    h = [np.zeros(HIDDEN)]  # h[t + 1] is h_t, h[0] the state before the first step
    for i in ids:
        h.append(np.tanh(w["W_xh"] @ one_hot[i] + w["b_xh"] + w["W_hh"] @ h[-1] + w["b_hh"]))
    gradients = {name: np.zeros_like(matrix) for name, matrix in w.items()}
    for t, target in enumerate(targets):
        y = w["W_hy"] @ h[t + 1] + w["b_hy"]
        error = np.exp(y) / np.exp(y).sum() - one_hot[target]
        gradients["W_hy"] += np.outer(error, h[t + 1])
        gradients["b_hy"] += error
        jacobian = np.eye(HIDDEN)  # dh_t/dh_k, k going back from t
        for k in range(t, t - t % window - 1, -1):
            slope = 1 - h[k + 1] ** 2
            a = slope * (jacobian.T @ w["W_hy"].T @ error)
            gradients["W_hh"] += np.outer(a, h[k])
            gradients["W_xh"] += np.outer(a, one_hot[ids[k]])
            gradients["b_xh"] += a
            gradients["b_hh"] += a
            jacobian = jacobian @ (slope[:, None] * w["W_hh"])
    return gradients


def by_backward(model: Language, ids: list[int], targets: list[int], window: int) -> dict[str, Matrix]:
    """Truncated BPTT as training does it: a window at a time, the state carried and detached."""
    state = None
    for start in range(0, len(ids), window):
        piece = torch.tensor([ids[start : start + window]])
        logits, state = model(piece, None if state is None else detached(state))
        F.cross_entropy(logits[0], torch.tensor(targets[start : start + window]), reduction="sum").backward()
    found = {}
    for name, parameter in weights(model).items():
        assert parameter.grad is not None
        found[name] = parameter.grad.numpy()
    return found


@pytest.mark.parametrize("window", [1, 2, 3, STEPS])
def test_gradients_are_those_of_the_closed_formulas(window: int) -> None:
    model, rng = network(), np.random.default_rng(5)
    ids = rng.integers(0, VOCAB, STEPS).tolist()
    targets = rng.integers(0, VOCAB, STEPS).tolist()
    values = {name: parameter.detach().numpy().copy() for name, parameter in weights(model).items()}
    expected = by_formula(values, ids, targets, window)
    found = by_backward(model, ids, targets, window)
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 1e-3, name
        np.testing.assert_allclose(found[name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)


def test_truncation_changes_what_flows_through_the_state_and_nothing_else() -> None:
    model, rng = network(), np.random.default_rng(6)
    ids = rng.integers(0, VOCAB, STEPS).tolist()
    targets = rng.integers(0, VOCAB, STEPS).tolist()
    whole = {name: g.copy() for name, g in by_backward(model, ids, targets, STEPS).items()}
    model.zero_grad()
    cut = by_backward(model, ids, targets, 2)
    # The state is carried, so the forward pass, hence the output layer's gradient, is the same.
    np.testing.assert_allclose(cut["W_hy"], whole["W_hy"], rtol=1e-12)
    assert np.abs(cut["W_hh"] - whole["W_hh"]).max() > 1e-2
    assert np.abs(cut["W_xh"] - whole["W_xh"]).max() > 1e-2
