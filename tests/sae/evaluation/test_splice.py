"""What a replacement at a hook point costs, against forward passes made by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.activations.model import HookPoint
from sae.evaluation.splice import SplicedLoss
from tests.sae.language_model import BOS, EOS, random_tokens, tiny_llama

MODEL = tiny_llama(layers=3)
POINT = "model.layers.1"
S, C, D = 6, 8, 16
MEAN_D = torch.linspace(-1, 1, D)


def tokens() -> Tensor:
    tokens_SC = random_tokens(S, C)
    tokens_SC[1, 3] = tokens_SC[4, 7] = EOS
    return tokens_SC


def special() -> Tensor:
    return tokens() >= BOS


def spliced(reconstruct: object, batch: int = S) -> dict[str, float]:
    points = [HookPoint(MODEL, POINT)]
    loss = SplicedLoss(MODEL, points, points, reconstruct, [MEAN_D])  # type: ignore[arg-type]
    for t, s in zip(tokens().split(batch), special().split(batch), strict=True):
        loss.update(t, s)
    return loss.result()


def by_hand(hidden_SCD: Tensor | None = None) -> float:
    """Mean cross-entropy on targets that are no special tokens; from these activations behind layer 1, if given."""
    with torch.no_grad():
        if hidden_SCD is None:
            logits_SCV = MODEL(input_ids=tokens()).logits
        else:
            positions = torch.arange(C)[None]
            rotary = MODEL.model.rotary_emb(hidden_SCD, positions)
            mask_CC = torch.full((C, C), float("-inf")).triu(1)[None, None]
            out = MODEL.model.layers[2](hidden_SCD, attention_mask=mask_CC, position_ids=positions, position_embeddings=rotary)
            out = out[0] if isinstance(out, tuple) else out
            logits_SCV = MODEL.lm_head(MODEL.model.norm(out))
    losses = [
        -float(F.log_softmax(logits_SCV[s, c].double(), -1)[int(tokens()[s, c + 1])])
        for s in range(S)
        for c in range(C - 1)
        if not special()[s, c + 1]
    ]
    return sum(losses) / len(losses)


def hidden() -> Tensor:
    with torch.no_grad():
        states: Tensor = MODEL(input_ids=tokens(), output_hidden_states=True).hidden_states[2]
    return states


def keeping_special(replaced_SCD: Tensor) -> Tensor:
    return torch.where(special()[..., None], hidden(), replaced_SCD)


def test_identity_costs_exactly_nothing() -> None:
    result = spliced(lambda x: x)
    assert result["spliced"] == result["original"]
    assert result["recovered_zero"] == result["recovered_mean"] == 1


def test_losses_equal_forward_passes_made_by_hand() -> None:
    result = spliced(lambda x: 0.5 * x + 0.1)
    assert result["original"] == pytest.approx(by_hand(), rel=1e-5)
    assert by_hand(hidden()) == pytest.approx(by_hand(), rel=1e-5)  # the hand-made pass is the model's
    assert result["spliced"] == pytest.approx(by_hand(keeping_special(0.5 * hidden() + 0.1)), rel=1e-5)
    assert result["zero_ablation"] == pytest.approx(by_hand(keeping_special(torch.zeros(S, C, D))), rel=1e-5)
    assert result["mean_ablation"] == pytest.approx(by_hand(keeping_special(MEAN_D.expand(S, C, D))), rel=1e-5)
    assert len({round(result[name], 6) for name in ("original", "spliced", "zero_ablation", "mean_ablation")}) == 4


def test_shares_recovered_follow_from_the_losses() -> None:
    r = spliced(lambda x: 0.5 * x)
    for kind in ("zero", "mean"):
        ablated = r[f"{kind}_ablation"]
        assert r[f"recovered_{kind}"] == pytest.approx((ablated - r["spliced"]) / (ablated - r["original"]))


def test_special_positions_keep_their_activation() -> None:
    # Were the BOS position replaced too, zero ablation would be another forward pass.
    everywhere = by_hand(torch.zeros(S, C, D))
    assert abs(spliced(torch.zeros_like)["spliced"] - everywhere) > 1e-4
    assert by_hand(keeping_special(torch.zeros(S, C, D))) == pytest.approx(spliced(torch.zeros_like)["spliced"], rel=1e-5)


def test_reconstruction_is_given_the_activations_of_the_untouched_model() -> None:
    seen: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    spliced(note)
    assert len(seen) == 1
    assert torch.equal(seen[0], hidden())


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_change_nothing(batch: int) -> None:
    one, other = spliced(lambda x: 0.5 * x), spliced(lambda x: 0.5 * x, batch)
    assert one == pytest.approx(other, rel=1e-5, abs=1e-4)  # shares are differences of losses, so they round more


def test_tokens_are_the_targets_that_are_no_special_ones() -> None:
    points = [HookPoint(MODEL, POINT)]
    loss = SplicedLoss(MODEL, points, points, lambda x: x, [MEAN_D])
    loss.update(tokens(), special())
    assert loss.tokens == int((~special()[:, 1:]).sum()) == S * (C - 1) - 2


def test_model_is_as_it_was_afterwards() -> None:
    with torch.no_grad():
        before = MODEL(input_ids=tokens()).logits
        spliced(torch.zeros_like)
        assert torch.equal(MODEL(input_ids=tokens()).logits, before)
