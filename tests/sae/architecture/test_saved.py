"""A saved SAE: two files, from which alone it comes back, in the units of the language model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sae.architecture import SAE, Architecture, import_architecture, load, loss_prop, model_prop, save
from sae.architecture.normalizer import Normalizer
from sae.architectures.batchtopk import BatchTopKSAE
from sae.architectures.transcoder import Transcoder
from sae.architectures.vanilla import VanillaConfig, VanillaSAE
from sae.components import L2Loss
from sae.components.parameters import DataBias
from sae.config import InputError, SaeError, SweepableConfig
from sae.core import Cache, Module, Seq
from tests.sae.architecture.test_seed_examples import Gated, GatedConfig
from tests.sae.every_architecture import TiedWithoutBias

X_BD = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
VARIANTS: list[tuple[type[Architecture[Any]], SweepableConfig]] = [
    (VanillaSAE, VanillaConfig(pre_bias=False)),
    (VanillaSAE, VanillaConfig(pre_bias=True)),
    (Gated, GatedConfig(pre_bias=True, detach=True)),
    (Gated, GatedConfig(pre_bias=False, detach=False)),
]


class Shift(Module):
    """x + parameter, whatever kind it is."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.amount = parameter

    def forward(self, x: Tensor, *, cache: Cache) -> Tensor:
        return x + self.amount


class Undeclared(Architecture[SweepableConfig]):
    """Moves its input by a parameter of a kind that nobody knows."""

    def shift(self) -> nn.Parameter:
        return nn.Parameter(torch.ones(self.d_in))

    @model_prop
    def model(self) -> SAE:
        encoder = Seq(shift=Shift(self.shift()), lin=self.init.encoder)
        return SAE(encoder_pre=encoder, nonlinearity=nn.ReLU(), decoder=self.init.decoder)

    @loss_prop
    def L2_loss(self) -> L2Loss:
        return L2Loss(self.model)


class Declared(Undeclared):
    def shift(self) -> nn.Parameter:
        return DataBias(torch.ones(self.d_in))


def randomised(cls: type[Architecture[Any]], cfg: SweepableConfig | None = None) -> Architecture[Any]:
    """An architecture with no parameter at a special value."""
    architecture = cls(cfg, d_in=6, d_sae=16, l0_target=4.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in architecture.trainable.eval().parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return architecture


def scaling(factor: float, width: int = 6) -> Normalizer:
    """x · factor on the way in, and back on the way out."""
    normalizer = Normalizer("affine", [width])
    normalizer.scale_D.fill_(factor)
    normalizer.scale_E.fill_(factor)
    return normalizer


def saved(directory: Path, architecture: Architecture[Any] | None = None, **more: Any) -> Path:
    architecture = randomised(VanillaSAE) if architecture is None else architecture
    save(architecture, directory, hook_points=["model.layers.1"], lineage={"tokens": "abc"}, **more)
    return directory


@pytest.mark.parametrize(("cls", "cfg"), VARIANTS)
def test_codes_and_reconstruction_come_back_to_the_bit(
    cls: type[Architecture[Any]], cfg: SweepableConfig, tmp_path: Path
) -> None:
    architecture = randomised(cls, cfg)
    sae = load(saved(tmp_path, architecture))
    with torch.no_grad():
        assert torch.equal(sae.encode(X_BD).dense(), architecture.core_model.encode(X_BD).dense())
        assert torch.equal(sae(X_BD), architecture.core_model(X_BD))


def test_what_is_known_of_it_comes_back(tmp_path: Path) -> None:
    sae = load(saved(tmp_path, randomised(VanillaSAE, VanillaConfig(pre_bias=True))))
    assert (sae.d_in, sae.d_sae, sae.d_out) == (6, 16, 6)
    assert sae.hook_points == ["model.layers.1"]
    assert sae.lineage == {"tokens": "abc"}
    assert sae.architecture.cfg == VanillaConfig(pre_bias=True)
    assert sae.architecture.l0_target == 4.0


def test_tensors_have_canonical_names_in_every_architecture(tmp_path: Path) -> None:
    for cls, cfg in VARIANTS:
        architecture = randomised(cls, cfg)
        tensors = load_file(saved(tmp_path, architecture) / "model.safetensors")
        assert torch.equal(tensors["encoder.weight"], architecture.init._encoder.raw.weight.detach())
        assert torch.equal(tensors["decoder.weight"], architecture.init._decoder.raw.weight.detach())
        assert torch.equal(tensors["decoder.bias"], architecture.init._decoder.raw.bias.detach())
        assert ("encoder.bias" in tensors) == (cls is VanillaSAE)
        parameters = sum(p.numel() for p in architecture.core_model.parameters())
        assert sum(t.numel() for t in tensors.values()) == parameters


@pytest.mark.parametrize(("cls", "cfg"), [*VARIANTS, (Declared, SweepableConfig())])
@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_folding_a_power_of_two_is_exact(
    cls: type[Architecture[Any]], cfg: SweepableConfig, scale: float, tmp_path: Path
) -> None:
    architecture = randomised(cls, cfg)
    sae = load(saved(tmp_path, architecture, normalizer=scaling(scale)))
    with torch.no_grad():
        assert torch.equal(sae.encode(X_BD).dense(), architecture.core_model.encode(X_BD * scale).dense())
        assert torch.equal(sae(X_BD), architecture.core_model(X_BD * scale) / scale)


@pytest.mark.parametrize(("cls", "cfg"), VARIANTS)
def test_folding_any_scale_is_exact_up_to_rounding(cls: type[Architecture[Any]], cfg: SweepableConfig, tmp_path: Path) -> None:
    architecture = randomised(cls, cfg)
    sae, x_BD = load(saved(tmp_path, architecture, normalizer=scaling(0.37))).double(), X_BD.double()
    with torch.no_grad():
        expected = architecture.trainable.double().model
        torch.testing.assert_close(sae.encode(x_BD).dense(), expected.encode(x_BD * 0.37).dense(), rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(sae(x_BD), expected(x_BD * 0.37) / 0.37, rtol=2e-6, atol=2e-6)


def test_saving_leaves_the_architecture_as_it_was(tmp_path: Path) -> None:
    architecture = randomised(VanillaSAE)
    before = [p.detach().clone() for p in architecture.trainable.parameters()]
    saved(tmp_path, architecture, normalizer=scaling(3.0))
    assert all(torch.equal(a, b) for a, b in zip(before, architecture.trainable.parameters(), strict=True))


def test_with_a_parameter_of_no_declared_kind_the_normaliser_is_saved_as_a_step(tmp_path: Path) -> None:
    architecture = randomised(Undeclared)
    sae = load(saved(tmp_path, architecture, normalizer=scaling(2.0)))
    assert sae.normalizer is not None
    with torch.no_grad():
        assert torch.equal(sae(X_BD), architecture.core_model(X_BD * 2) / 2)
        assert torch.equal(sae.encode(X_BD).dense(), architecture.core_model.encode(X_BD * 2).dense())
    assert load(saved(tmp_path, architecture)).normalizer is None  # nothing to fold


@pytest.mark.parametrize(("cls", "folded"), [(VanillaSAE, True), (Undeclared, False)])
def test_it_tells_what_it_was_trained_behind(cls: type[Architecture[Any]], folded: bool, tmp_path: Path) -> None:
    sae = load(saved(tmp_path, randomised(cls), normalizer=scaling(4.0)))
    assert sae.trained_behind is not None
    assert (sae.normalizer is None) == folded
    assert sae.trained_behind.scale_D.tolist() == [4.0] * 6
    assert load(saved(tmp_path, randomised(cls), normalizer=scaling(1.0))).trained_behind is None


def test_behind_a_layer_norm_decoding_needs_the_input(tmp_path: Path) -> None:
    normalizer = Normalizer("layer_norm", [6])
    architecture = randomised(VanillaSAE)
    sae = load(saved(tmp_path, architecture, normalizer=normalizer))
    with torch.no_grad():
        expected = normalizer.restore(architecture.core_model(normalizer.normalize(X_BD)), X_BD)
        assert torch.equal(sae.decode(sae.encode(X_BD), X_BD), expected)
        assert torch.equal(sae(X_BD.view(4, 8, 6)), expected.view(4, 8, 6))
        with pytest.raises(SaeError, match=r"decode\(codes, x\)"):
            sae.decode(sae.encode(X_BD))


def test_threshold_of_batchtopk_is_saved_and_decides_in_use(tmp_path: Path) -> None:
    architecture = randomised(BatchTopKSAE)
    nonlinearity = architecture.core_model.encoder["nonlinearity"]
    nonlinearity.threshold.sum.fill_(1.5)
    nonlinearity.threshold.weight.fill_(0.5)
    sae = load(saved(tmp_path, architecture))
    codes_BF, preacts_BF = sae.encode(X_BD).dense(), architecture.core_model.encoder["encoder_pre"](X_BD)
    assert torch.equal(codes_BF, preacts_BF.where(preacts_BF > 3.0, 0))
    torch.testing.assert_close(sae.encode(X_BD[:1]).dense(), codes_BF[:1])  # whoever its neighbours


def test_hook_points_of_inputs_and_targets_and_their_widths_come_back(tmp_path: Path) -> None:
    architecture = Transcoder(d_in=6, d_sae=16, d_out=5, widths=[4, 2], target_widths=[2, 3], l0_target=2)
    save(architecture, tmp_path, hook_points=["a", "b"], target_hook_points=["c", "d"], lineage={})
    sae = load(tmp_path)
    assert (sae.hook_points, sae.target_hook_points) == (["a", "b"], ["c", "d"])
    assert (sae.architecture.widths, sae.architecture.target_widths, sae.d_out) == ([4, 2], [2, 3], 5)
    assert sae(torch.ones(2, 3, 6)).shape == (2, 3, 5)
    assert load(saved(tmp_path)).target_hook_points == ["model.layers.1"]


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_tied_weights_without_an_encoder_bias_come_back(shift: float, tmp_path: Path) -> None:
    architecture, normalizer = randomised(TiedWithoutBias), scaling(0.5)
    normalizer.shift_D.fill_(shift)
    sae = load(saved(tmp_path, architecture, normalizer=normalizer))
    with torch.no_grad():
        expected = normalizer.restore(architecture.core_model(normalizer.normalize(X_BD)))
        torch.testing.assert_close(sae(X_BD), expected, rtol=1e-4, atol=1e-4)


def test_leading_dimensions_are_kept(tmp_path: Path) -> None:
    sae = load(saved(tmp_path))
    x_SCD = X_BD.view(4, 8, 6)
    assert sae.encode(x_SCD).shape == (32, 16)
    assert torch.equal(sae(x_SCD), sae(X_BD).view(4, 8, 6))


def test_loaded_sae_is_for_use_not_for_training(tmp_path: Path) -> None:
    sae = load(saved(tmp_path))
    assert not sae.training
    assert not any(p.requires_grad for p in sae.parameters())
    assert torch.equal(sae.decoder_rows_FD, sae.model.decoder.weight)


def test_loading_moves_no_global_generator(tmp_path: Path) -> None:
    saved(tmp_path)
    before = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def damage_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in changes or v is not None}))


def drop_tensor(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.pop("encoder.bias")
    save_file(tensors | {"stranger": torch.ones(1)}, path / "model.safetensors")


def cut_off(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-10])


WAYS_TO_DAMAGE: dict[str, tuple[Any, str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), r"config\.json: .*no saved SAE"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), r"model\.safetensors: .*no saved SAE"),
    "config cut off": (lambda p: (p / "config.json").write_text('{"schema": 1'), r"config\.json: .*damaged"),
    "config not text": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), r"config\.json: .*damaged"),
    "config of another tool": (lambda p: (p / "config.json").write_text('{"d_in": 3}'), r"config\.json: .*no config"),
    "config a list": (lambda p: (p / "config.json").write_text("[1]"), r"config\.json: .*no config"),
    "key missing": (lambda p: damage_config(p, d_sae=None), r"config\.json: .*d_sae"),
    "newer schema": (lambda p: damage_config(p, schema=99), r"config\.json: .*schema.*99"),
    "unknown class": (
        lambda p: damage_config(p, architecture="sae.architectures.vanilla:VanilaSAE"),
        r"config\.json: .*did you mean 'VanillaSAE'",
    ),
    "unknown module": (lambda p: damage_config(p, architecture="nowhere.to:Be"), r"config\.json: .*nowhere"),
    "unknown option": (lambda p: damage_config(p, config={"pre_bia": True}), r"config\.json\.pre_bia: .*pre_bias"),
    "weights cut off": (cut_off, r"model\.safetensors: .*damaged"),
    "weights not weights": (lambda p: (p / "model.safetensors").write_bytes(b"hello"), r"model\.safetensors: .*damaged"),
    "other tensors": (drop_tensor, r"do not fit.*encoder\.bias, stranger"),
    "other shape": (lambda p: damage_config(p, d_sae=17), r"do not fit.*encoder\.weight"),
}


@pytest.mark.parametrize("way", WAYS_TO_DAMAGE)
def test_damaged_missing_or_foreign_files_are_named(way: str, tmp_path: Path) -> None:
    damage, expected = WAYS_TO_DAMAGE[way]
    damage(saved(tmp_path))
    with pytest.raises(InputError, match=expected):
        load(tmp_path)


def test_a_file_or_nothing_in_place_of_the_directory_is_no_sae(tmp_path: Path) -> None:
    saved(tmp_path)
    for wrong in (tmp_path / "model.safetensors", tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no saved SAE"):
            load(wrong)


@pytest.mark.parametrize("reference", [":VanillaSAE", "sae.architectures.vanilla", "sae.core:Seq", ".vanilla:VanillaSAE", ""])
def test_what_names_no_architecture_is_refused_by_field(reference: str) -> None:
    with pytest.raises(InputError, match=r"sae\.architecture: "):
        import_architecture(reference, "sae.architecture")


LOADS_ALONE = """
import sys
import sae
heavy = {"torch", "prefect", "dvc", "transformers", "datasets", "pydantic"} & set(sys.modules)
assert not heavy, f"`import sae` brings {heavy}"
import torch
sae = sae.load(sys.argv[1])
print(float(sae(torch.ones(1, sae.d_in)).sum()))
heavy = {"prefect", "dvc", "transformers", "datasets", "pipeline", "sae.corpus", "sae.training"} & set(sys.modules)
assert not heavy, f"loading brings {heavy}"
"""


def test_importing_is_light_and_loading_needs_no_pipeline_and_no_language_model(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    done = subprocess.run([sys.executable, "-c", LOADS_ALONE, str(directory)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert float(done.stdout) == pytest.approx(float(load(directory)(torch.ones(1, 6)).sum()), rel=1e-5)
