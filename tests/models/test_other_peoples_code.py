"""Models in training loops, wrappers and compilers of somebody else, each against the plain forward pass."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from every_model import NAMES, clips, make
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from w2v.criterions.ctc import ctc_loss
from w2v.models import W2vModel
from w2v.models.hubert import HubertModel
from w2v.types import MaskedPredictionOutput

TORCH_S_LIMIT = ("wav2vec_gru", "plugin")  # torch's compilers and `vmap` do not take its GRU
LAYERED = [name for name in NAMES if name not in TORCH_S_LIMIT]
SOURCE, TRUE = clips([3000, 2100, 1500])


class Features(nn.Module):
    """What exporters are given: tensors in, tensors out."""

    def __init__(self, model: W2vModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> Tensor:
        return self.model.extract_features(source).features


def loss_of(model: W2vModel, *, seed: int = 3, forward: Callable[..., Any] | None = None) -> Tensor:
    """Return the loss of a training step, or of features where there is no loss."""
    if type(model).__name__ == "Wav2Vec2EncoderModel":
        return model.extract_features(SOURCE, TRUE).features.square().mean()
    output: Any = (forward or model)(SOURCE, TRUE, seed, **labels_for(model))
    if isinstance(output, MaskedPredictionOutput):
        penalties = [penalty.square() for penalty in output.penalties.values()]
        scores = [part.logits.clamp(min=-100).logsumexp(dim=1).sum() for part in (*output.masked, *output.unmasked)]
        return sum([*scores, *penalties], torch.zeros(()))
    if hasattr(output, "penalties"):
        penalties = [penalty.square() for penalty in output.penalties.values()]
        return output.logits.clamp(min=-100).logsumexp(dim=1).sum() + sum(penalties, torch.zeros(()))
    return ctc_loss(output.logits, output.lengths, torch.ones(3, 4).long(), torch.full((3,), 4), zero_infinity=False)


def labels_for(model: W2vModel) -> dict[str, Any]:
    """Return what HuBERT is given beside samples: classes of each label set, one per frame."""
    if not isinstance(model, HubertModel):
        return {}
    sizes = [max(int(frames), 1) for frames in model.extract_features(SOURCE, TRUE).lengths]
    places = torch.arange(max(sizes)).repeat(len(sizes), 1)
    labels = [places % classes for classes in model.num_classes]
    return {"frame_labels": labels, "label_lengths": [torch.tensor(sizes)] * len(labels)}


def gradients(model: W2vModel) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(found: Tensor, wanted: Tensor, name: str) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()) + 1e-4, msg=name)


# ------------------------------------------------------------------------------------------ gradients

SUBSETS: dict[str, Callable[[str], bool]] = {
    "biases": lambda name: name.endswith("bias"),
    "weights": lambda name: "weight" in name.rpartition(".")[2],
    "norms": lambda name: "norm" in name or ".2." in name,
    "last block": lambda name: ".layers.2." in name or "proj" in name or "predictions" in name,
    "convolutions": lambda name: "feature_extractor" in name,
    "no feed-forward weights": lambda name: not name.endswith(("fc1.weight", "fc2.weight")),
}


@pytest.mark.parametrize("precision", ["highest", "high"])  # as they are, and as products clip by clip
@pytest.mark.parametrize("name", NAMES)
def test_frozen_subsets_change_no_other_gradient(name: str, precision: str) -> None:
    model = make(name).train()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        everything = gradients(model)
        for subset, is_trained in SUBSETS.items():
            for key, parameter in model.named_parameters():
                parameter.requires_grad_(is_trained(key))
            wanted = {key for key in everything if is_trained(key)}
            if not wanted:
                continue
            found = gradients(model)
            assert found.keys() == wanted, subset
            for key in wanted:
                close(found[key], everything[key], f"{subset}: {key}")
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_features_are_finite_differences(name: str) -> None:
    """In float64, for samples and for parameters, in evaluation: also where `--feature-grad-mult` is small."""
    change = {"feature_grad_mult": 0.1} if "wav2vec2" in name or "ctc" in name else {}
    model = make(name, **change).double()
    if model.codebook_size != (0, 0) and "c" in model.layers and "q" in model.layers:
        layer = "z"  # what follows the codes has straight-through gradients
    elif name == "wav2vec2_quantized_input":
        layer = "z"
    else:
        layer = "c"
    source = clips([900, 900])[0].double().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(model.extract_features(source, layer=layer).features.shape, generator=generator).double()

    def value() -> Tensor:
        return (model.extract_features(source, layer=layer).features * weight).sum()

    value().backward()
    leaves = [("source", source)] + [(n, p) for n, p in model.named_parameters() if p.grad is not None]
    for key, leaf in leaves:
        if name.startswith("wav2vec2") and key.endswith("mask_emb"):
            continue
        assert leaf.grad is not None
        direction = torch.randn(leaf.shape, generator=generator).double()
        with torch.no_grad():
            ends = []
            for step in (1e-6, -1e-6):
                leaf.add_(direction, alpha=step)
                ends.append(value())
                leaf.add_(direction, alpha=-step)
        numeric = float(ends[0] - ends[1]) / 2e-6
        assert float((leaf.grad * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-4), key


@pytest.mark.parametrize("name", ["wav2vec", "vq_kmeans", "vq_gumbel", "wav2vec2_quantized_input"])
@pytest.mark.parametrize("train", [True, False])
def test_features_reach_what_comes_before_the_codes(name: str, train: bool) -> None:
    model = make(name).train(train)
    source = SOURCE.clone().requires_grad_()
    features = model.extract_features(source).features
    features.square().mean().backward()
    assert source.grad is not None
    assert source.grad.any()
    # Codewords of k-means are moved by its loss alone: the gradient passes them by.
    without = {part for part, p in model.named_parameters() if p.grad is None} - {"vector_quantizer.embedding"}
    assert not {part for part in without if part.startswith(("feature_extractor", "vector_quantizer", "input_quan"))}
    # The choice itself is not touched by the mode.
    assert torch.equal(features, model.eval().extract_features(SOURCE).features)


def test_the_gradient_factor_acts_in_training_alone() -> None:
    found = {}
    for factor in (1.0, 0.1):
        for train in (True, False):
            model = make("wav2vec2", feature_grad_mult=factor).train(train)
            source = SOURCE.clone().requires_grad_()
            model.extract_features(source).features.square().mean().backward()
            found[factor, train] = source.grad
    assert found[1.0, True] is not None
    torch.testing.assert_close(found[0.1, True], found[1.0, True] * 0.1)
    torch.testing.assert_close(found[0.1, False], found[1.0, False])


def test_convolutions_that_were_set_free_are_trained() -> None:
    """A fine-tuned model has `--feature-grad-mult 0`: frozen, until somebody asks for their gradients."""
    model = make("wav2vec_ctc", feature_grad_mult=0.0).train()
    frozen = gradients(model)
    assert not any("feature_extractor" in name for name in frozen)
    model.requires_grad_(True)
    free = gradients(model)
    expected = gradients(make("wav2vec_ctc").train())
    assert free.keys() == expected.keys()
    for name, gradient in free.items():
        close(gradient, expected[name], name)


# ------------------------------------------------------------------------------------------ hooks


def holders(model: W2vModel, without: tuple[str, ...] = ()) -> dict[str, nn.Module]:
    """Return the modules that hold parameters themselves."""
    return {n: m for n, m in model.named_modules() if n and m._parameters and not n.startswith(without)}


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("name", NAMES)
def test_hooks_fire_and_change_no_number(name: str, precision: str) -> None:
    model = make(name).train()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        plain = gradients(model)
        forward: dict[str, int] = {}
        backward: dict[str, int] = {}
        for key, module in holders(model).items():
            module.register_forward_hook(lambda *_, key=key: forward.update({key: forward.get(key, 0) + 1}))
            if not isinstance(module, nn.GRU):
                module.register_full_backward_hook(lambda *_, key=key: backward.update({key: 1}))
        hooked = gradients(model)
    finally:
        torch.set_float32_matmul_precision(before)
    unused = {"final_proj", "project_q", "quantizer", "quantizer.weight_proj"} if "encoder" in name else set()
    assert set(forward) == set(holders(model)) - unused
    assert set(backward) >= {key for key, m in holders(model).items() if isinstance(m, (nn.Linear, nn.Conv1d))} - unused
    for key in plain:
        close(hooked[key], plain[key], key)


@pytest.mark.parametrize("kind", ["prune", "weight_norm", "spectral_norm", "parametrised", "replaced"])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("wav2vec2", "encoder.layers.1.fc2"), ("wav2vec2", "feature_extractor.conv_layers.1.0"),
        ("wav2vec_ctc", "w2v_encoder.proj"), ("wav2vec", "wav2vec_predictions.project_to_steps"),
        ("wav2vec", "feature_extractor.conv_layers.1.0"), ("vq_gumbel", "vector_quantizer.weight_proj.1"),
    ],
)  # fmt: skip
def test_layers_that_were_changed_act_and_train(name: str, place: str, kind: str) -> None:
    """The oracle: the same model whose weight was set to what the change makes of it."""
    changed, plain = make(name).train(), make(name).train()
    layer, twin = changed.get_submodule(place), plain.get_submodule(place)
    original = layer.weight.detach().clone()  # type: ignore[union-attr,operator]
    if kind == "prune":
        prune.l1_unstructured(layer, "weight", amount=0.5)
    elif kind == "weight_norm":
        parametrizations.weight_norm(layer)
        with torch.no_grad():
            layer.parametrizations.weight.original0.mul_(2.0)  # type: ignore[union-attr]
    elif kind == "spectral_norm":
        torch.nn.utils.spectral_norm(layer)
        layer.eval()  # no further step of the power iteration
    elif kind == "parametrised":
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    else:
        outer, _, leaf = place.rpartition(".")
        wrapper = nn.Sequential(layer, Twice())
        changed.get_submodule(outer).add_module(leaf, wrapper)
    found = gradients(changed)
    with torch.no_grad():
        weight = 2 * original if kind == "replaced" else layer.weight.detach()  # type: ignore[union-attr]
        twin.weight.copy_(weight)  # type: ignore[union-attr,operator,arg-type]
        if kind == "replaced" and twin.bias is not None:
            twin.bias.mul_(2)  # type: ignore[union-attr,operator]
    wanted = gradients(plain)
    others = [key for key in wanted if not key.startswith(place)]
    assert all(key in found for key in others)
    for key in others:
        close(found[key], wanted[key], key)
    assert any(gradient.any() for key, gradient in found.items() if key.startswith(place))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


# ------------------------------------------------------------------------------------------ loops of one's own


def test_layerdrop_leaves_out_other_blocks_at_every_step() -> None:
    for name, option in (("wav2vec2", "encoder_layerdrop"), ("wav2vec_ctc", "layerdrop")):
        model = make(name, **{option: 0.5}).train()
        trained: set[str] = set()
        for _ in range(12):
            trained |= {key for key, gradient in gradients(model).items() if "fc1.weight" in key and gradient.any()}
        assert len(trained) == 3
        model.set_num_updates(7)  # as `load_model` does
        draws = set()
        for _ in range(12):
            model.train()
            draws.add(tuple(sorted(k for k, g in gradients(model).items() if "fc1.weight" in k and g.any())))
        assert len(draws) > 1


def test_what_a_user_froze_stays_frozen() -> None:
    model = make("wav2vec_ctc", freeze_finetune_updates=2)
    model.set_num_updates(5)
    model.get_submodule("w2v_encoder.w2v_model.encoder.layers.0").requires_grad_(False)
    for update in range(6, 9):
        model.set_num_updates(update)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".encoder.layers.0." in name}


@pytest.mark.parametrize("name", NAMES)
def test_copies(name: str) -> None:
    model = make(name)
    wanted = model.extract_features(SOURCE, TRUE).features
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)]
    for other in copies:
        assert torch.equal(other.extract_features(SOURCE, TRUE).features, wanted)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("wav2vec2_encoder", "plugin")])
def test_every_parameter_takes_part_in_a_training_step(name: str) -> None:
    """What DistributedDataParallel needs: it waits for a gradient of every parameter that is trained."""
    model = make(name).train()
    assert set(gradients(model)) == {key for key, p in model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("wav2vec2_encoder", "plugin")])
def test_distributed_data_parallel_by_hand(name: str) -> None:
    """Two steps, since it is the second that fails where a parameter got no gradient in the first."""
    model = make(name).train()
    wanted = gradients(model)
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):
        model.zero_grad()
        loss_of(model, forward=parallel).backward()
    for key, parameter in model.named_parameters():
        if key in wanted:
            assert parameter.grad is not None
            close(parameter.grad, wanted[key], key)


# ------------------------------------------------------------------------------------------ number formats


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_number_formats(name: str, dtype: torch.dtype) -> None:
    model = make(name)
    wanted = model.extract_features(SOURCE, TRUE, layer="z").features.detach()
    context = model.extract_features(SOURCE, TRUE).features.detach()
    other = copy.deepcopy(model).to(dtype)
    for source in (SOURCE, SOURCE.to(dtype)):  # samples are brought to the model's format
        z = other.extract_features(source, TRUE, layer="z").features
        c = other.extract_features(source, TRUE).features
        assert z.dtype == c.dtype == dtype
        limit = {torch.float16: 0.01, torch.bfloat16: 0.06, torch.float64: 1e-5}[dtype]
        assert float((z - wanted).abs().mean() / wanted.abs().mean()) < limit
        if model.codebook_size == (0, 0) or dtype == torch.float64:  # in half precision some codes are others
            assert float((c - context).abs().mean() / context.abs().mean()) < 2 * limit
    if name not in ("wav2vec2_encoder", "plugin"):
        other.train()
        loss = loss_of(other)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in other.parameters())


# ------------------------------------------------------------------------------------------ compilers

OTHER_SIZES = [clips([2345], 3)[0], clips([4000] * 3, 4)[0]]
BATCH, TIME = torch.export.Dim("B", max=64), torch.export.Dim("T", min=1000, max=100_000)


def same_at_other_sizes(found: Callable[[Tensor], Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for source in OTHER_SIZES:
            torch.testing.assert_close(found(source), model(source), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERED)
def test_export(name: str) -> None:
    model = Features(make(name)).eval()
    program = torch.export.export(model, (SOURCE,), dynamic_shapes={"source": {0: BATCH, 1: TIME}})
    same_at_other_sizes(program.module(), model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_trace_and_save(name: str) -> None:
    model = Features(make(name)).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, SOURCE, check_trace=False), file)
    file.seek(0)
    same_at_other_sizes(torch.jit.load(file), model)


@pytest.mark.slow  # half a minute each; `test_export` draws the graph of each model, `training/test_compile` compiles
@pytest.mark.parametrize("name", LAYERED)
def test_compile_as_one_graph(name: str) -> None:
    """`fullgraph` fails at the first graph break; gradients are those of the plain model."""
    torch._dynamo.reset()
    model = Features(make(name)).eval()
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    same_at_other_sizes(compiled, model)
    compiled(SOURCE).square().mean().backward()
    found = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model(SOURCE).square().mean().backward()
    for key, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        close(found.get(key, torch.zeros_like(parameter)), wanted, key)


@pytest.mark.parametrize("name", LAYERED)
def test_functional_gradients_and_ensembles(name: str) -> None:
    """`torch.func.grad` is `backward`; `vmap` over stacked parameters is each model alone."""
    model = Features(make(name)).eval()
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], source: Tensor = SOURCE) -> Tensor:
        result: Tensor = torch.func.functional_call(model, parameters, (source,)).square().mean()
        return result

    found = torch.func.grad(loss)(parameters)
    model(SOURCE).square().mean().backward()
    for key, parameter in parameters.items():
        close(found[key], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad, key)
    stacked = {key: torch.stack([p.detach(), p.detach() * 1.01]) for key, p in parameters.items()}
    both: Tensor = torch.func.vmap(loss)(stacked)
    alone = [loss({key: part[i] for key, part in stacked.items()}) for i in range(2)]
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-4, atol=1e-6)
